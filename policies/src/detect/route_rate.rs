//! A route that is called far more or far less than it usually is.
//!
//! **Idea.** Its calls in each minute are a [`Series`], which knows the last minutes, the same time on earlier
//! days, and everything seen. How unlikely each minute is is [`bet`] on, so that some minutes of silence are
//! [`Evidence`] enough where one could be chance. More calls alert only where each client calls more, too, as
//! when all of them try again: more clients are a campaign, and what one of them does is
//! [`super::client_rate`]'s. Fewer calls alert only where there are fewer clients, too: a job that has ended
//! is no outage, even if most of the calls were its.
//!
//! **Constants.** Calls for each client have to be [`EACH_FACTOR`] times what they usually are, and one client
//! must not lead all others together by more than [`LEAD_MAX`] of the calls (R. Boyer and J Moore, *MJRTY*,
//! 1991, find it); or clients fewer by [`CLIENTS_FACTOR`], of at least [`CLIENTS_MIN`]. Both are learned over
//! about [`USUAL_MEMORY`] minutes. Nothing is said of a route in its first day ([`MINUTES_MIN`]), whose shape
//! is not known before.
//!
//! **When it is wrong.** The first holiday, and whatever else people do once a year.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::distinct::Distinct;
use super::evidence::{Evidence, bet};
use super::series::{Direction, Series};
use crate::alert::Subject;

const MINUTE_S: u32 = 60;
const EACH_FACTOR: f32 = 3.0;
const LEAD_MAX: f32 = 0.3;
const CLIENTS_FACTOR: f32 = 2.0;
const CLIENTS_MIN: f32 = 1.5;
const USUAL_MEMORY: f32 = 60.0;
const MINUTES_MIN: u32 = 1_440;
const MEMORY_S: f32 = 900.0;

/// Of one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct PerRoute {
    series: Series,
    evidence: Evidence,
    since_s: u32,
    minute: u32,
    minutes: u32,
    calls: u32,
    clients: Distinct,
    /// Who may have most of them, and by how many it leads all others together at most.
    leader: u64,
    lead: u32,
    /// How many clients there usually are in a minute...
    usual_clients: f32,
    /// ...and how many calls each makes.
    usual_each: f32,
}

impl PerRoute {
    /// Counts a call.
    #[inline]
    pub(crate) fn count(&mut self, call: &Call<'_>) {
        if self.minutes == 0 && self.calls == 0 {
            self.minute = call.now_s / MINUTE_S;
        }
        self.calls += 1;
        self.clients.add(call.client_key);
        self.vote(call.client_key);
    }

    fn vote(&mut self, client: u64) {
        if self.lead == 0 {
            self.leader = client;
        }
        match self.leader == client {
            true => self.lead += 1,
            false => self.lead -= 1,
        }
    }
}

/// Looks at the minute that is over, if one is.
pub(crate) fn tick(
    now_s: u32,
    route: &mut PerRoute,
    name: impl FnOnce() -> Subject,
    desk: &mut Desk<'_>,
) {
    let minute = now_s / MINUTE_S;
    if minute <= route.minute || route.minutes == 0 && route.calls == 0 {
        return;
    }
    let since_s = route.minute * MINUTE_S;
    route.minute = minute;
    route.minutes += 1;
    let calls = std::mem::take(&mut route.calls);
    let lead = std::mem::take(&mut route.lead) as f32;
    let clients = std::mem::take(&mut route.clients).count();
    let unusual = route.series.observe(u64::from(since_s), f64::from(calls));
    let each = calls as f32 / clients.max(1.0);
    let PerRoute {
        usual_clients,
        usual_each,
        ..
    } = *route;
    let step = (1.0 / USUAL_MEMORY).max(1.0 / route.minutes as f32);
    route.usual_clients += (clients - usual_clients) * step;
    if calls > 0 {
        // An attack teaches no more than twice of what is usual.
        let learned = if route.minutes > MINUTES_MIN {
            each.min(2.0 * usual_each)
        } else {
            each
        };
        route.usual_each += (learned - usual_each) * step;
    }
    if route.minutes <= MINUTES_MIN {
        return;
    }
    let is_theirs = match unusual.direction {
        Direction::Up => each >= EACH_FACTOR * usual_each && lead <= LEAD_MAX * calls as f32,
        Direction::Down => {
            clients * CLIENTS_FACTOR <= usual_clients && usual_clients >= CLIENTS_MIN
        }
    };
    let tail = if is_theirs { unusual.tail } else { 1.0 };
    if route.evidence.is_none() {
        route.since_s = since_s;
    }
    let since_s = route.since_s;
    let tail = route.evidence.add(bet(tail as f32), now_s, MEMORY_S);
    desk.look(Detector::RouteRate, tail, || Found {
        subject: name(),
        observed: f64::from(calls),
        usual: unusual.expected,
        summary: format!(
            "{calls} calls within a minute, {each:.1} a client; usual are {:.0} calls, {usual_each:.1} a client",
            unusual.expected
        ),
        since_s,
        source: None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{Alerts, Terms};
    use crate::detect::tests::spread;

    /// A route with a day's curve; so many calls and clients a minute at noon.
    struct Days {
        route: PerRoute,
        alerts: Alerts,
        minute: u32,
        state: u64,
    }

    impl Days {
        fn usual() -> Self {
            let mut days = Self {
                route: PerRoute::default(),
                alerts: Alerts::new(Terms::default(), 1, &[]),
                minute: 1_000 * 1_440,
                state: 5,
            };
            for _ in 0..3 * 1_440 {
                days.pass(600.0, 40.0);
            }
            days
        }

        /// One minute; whether it alerted.
        fn pass(&mut self, calls: f32, clients: f32) -> bool {
            self.pass_with(calls, clients, 0)
        }

        /// One minute in which one more client makes so many calls.
        fn pass_with(&mut self, calls: f32, clients: f32, of_one: u32) -> bool {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let noise = (self.state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
            let day = (self.minute % 1_440) as f32 / 1_440.0 * std::f32::consts::TAU;
            let level = (1.0 - 0.6 * day.cos()) * (1.0 + 0.15 * noise);
            self.route.calls = (calls * level) as u32 + of_one;
            for client in 0..(clients * level) as u64 {
                self.route.clients.add(spread(client));
            }
            self.route.lead = of_one;
            self.minute += 1;
            let mut desk = Desk::new(&mut self.alerts);
            let name = || Subject::Route("GET /".into());
            tick(self.minute * MINUTE_S, &mut self.route, name, &mut desk);
            !desk.found.is_empty()
        }
    }

    #[test]
    fn who_has_most_of_the_calls_leads() {
        for (calls, lead) in [("aabacaa", 3), ("abcabc", 0), ("aaaa", 4)] {
            let mut route = PerRoute::default();
            calls.bytes().for_each(|client| route.vote(client.into()));
            assert_eq!(route.lead, lead, "{calls}");
        }
    }

    #[test]
    fn silence_and_a_flood_alert_within_minutes_and_a_campaign_does_not() {
        let mut days = Days::usual();
        assert!((0..600).all(|_| !days.pass(600.0, 40.0)), "usual");
        assert!((0..10).any(|_| days.pass(0.0, 0.0)), "silence");
        let mut days = Days::usual();
        assert!((0..60).all(|_| !days.pass(100.0, 40.0)), "a job that ended");
        let mut days = Days::usual();
        assert!((0..20).any(|_| days.pass(60.0, 4.0)), "an outage elsewhere");
        let mut days = Days::usual();
        assert!((0..10).any(|_| days.pass(30_000.0, 42.0)), "a flood");
        let mut days = Days::usual();
        assert!((0..60).all(|_| !days.pass(3_000.0, 200.0)), "a campaign");
        let mut days = Days::usual();
        assert!((0..60).all(|_| !days.pass(30_000.0, 2_000.0)), "thousands");
        let mut days = Days::usual();
        let job = (0..60).all(|_| !days.pass_with(600.0, 40.0, 10_000));
        assert!(job, "a job that begins");
    }
}
