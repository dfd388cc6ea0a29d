//! Records of weeks in which nobody attacks: millions of calls that were never made, from real records.
//!
//! The same classes of clients as among the attacks, but thousands of them and at the pace of real days:
//! nights and weekends, a deployment on the fourth day, a crowd on the sixth evening, a customer that
//! looks through 10,000 orders every night, phones that share their operator's addresses. What detectors
//! say of these is false. Repeatable by seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::net::Ipv4Addr;

use anyhow::Context as _;

use super::api::{self, Plan};
use super::arena::{PHONES, USERS};
use super::chance::Chance;
use super::habits::{self, Identity, PARTNERS};
use super::http::{Asked, Request};
use super::people;
use super::template::{Filling, STACKS, Sort, Stack, Templates};

/// People at home, in a campus, in an office, with phones, and those who follow an advertisement.
const HOMES: u32 = 5_000;
const CAMPUS: u32 = 400;
const OFFICE: u32 = 60;
const MOBILE: u32 = 1_200;
const CROWD: u32 = 6_000;
/// Their number begins here.
const CROWD_FROM: u32 = 20_000;
/// Addresses that phones share.
const OPERATOR: u32 = 60;
/// Sessions of a person a day, on average.
const SESSIONS: f64 = 3.0;
/// Partners call less often than in the compressed days, so many times.
const PARTNERS_SLOWER: f64 = 20.0;
/// The share of calls that the API fails to answer well.
const ERRING: f64 = 0.0004;
/// When things happen, in days.
const DEPLOYED_DAY: f64 = 3.4;
const CROWD_DAY: f64 = 5.8;
/// How long the crowd keeps coming.
const CROWD_DAYS: f64 = 0.1;

/// A connection that is idle for longer is closed.
const IDLE: u64 = 75 * S;

const S: u64 = 1_000_000;
const DAY: u64 = 86_400 * S;
/// A Monday, at midnight.
const BEGIN: u64 = 1_790_553_600 * S;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Written {
    /// Calls.
    pub calls: u64,
    /// How much time they took.
    pub days: f64,
}

/// Writes records of `calls` calls, in the order in which they ended.
pub fn write(
    templates: &Templates,
    calls: u64,
    seed: u64,
    out: &mut impl Write,
) -> anyhow::Result<Written> {
    let mut weeks = Weeks::new(seed);
    let mut ended = BinaryHeap::<Reverse<(u64, Vec<u8>)>>::new();
    let mut now = BEGIN;
    for _ in 0..calls {
        let (begin_us, due) = weeks.next();
        now = begin_us;
        let mut record = Vec::with_capacity(4 * 1024);
        let took = weeks.record(begin_us, due, templates, &mut record)?;
        while ended.peek().is_some_and(|Reverse((end, _))| *end <= now) {
            if let Some(Reverse((_, record))) = ended.pop() {
                out.write_all(&record)?;
            }
        }
        ended.push(Reverse((begin_us + took, record)));
    }
    while let Some(Reverse((_, record))) = ended.pop() {
        out.write_all(&record)?;
    }
    out.flush()?;
    Ok(Written {
        calls,
        days: (now - BEGIN) as f64 / DAY as f64,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    Person(u32),
    Partner(u32),
    Large,
    Health,
    Crawler,
    Nightly,
}

/// A client, where it is and what it is in the middle of.
struct Client {
    actor: Actor,
    class: &'static str,
    address: Ipv4Addr,
    stack: &'static Stack,
    hops: u8,
    rtt_us: f64,
    identity: Identity,
    /// Calls so far.
    at: u64,
    /// Calls of a session that are still to come.
    left: u64,
    /// Logged in, and whether the password is going to be mistyped.
    is_in: bool,
    mistyped: bool,
    /// The connection, and the calls on it.
    cookie: u64,
    port: u16,
    nth: u32,
}

struct Weeks {
    chance: Chance,
    clients: Vec<Client>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    cookies: u64,
    /// How busy each day is, as days differ.
    days: Vec<f64>,
}

impl Weeks {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed, 900);
        let days = (0..400).map(|_| chance.about(1.0, 0.08)).collect();
        let mut weeks = Self {
            chance,
            clients: Vec::new(),
            due: BinaryHeap::new(),
            cookies: 1_000_000,
            days,
        };
        let home = |nth| USERS.nth(people::HOMES_AT + nth);
        for nth in 0..HOMES {
            weeks.add_person(nth, "person", home(nth), 0);
        }
        for nth in HOMES..HOMES + CAMPUS {
            weeks.add_person(nth, "person", USERS.nth(people::CAMPUS_AT), 0);
        }
        for nth in HOMES + CAMPUS..HOMES + CAMPUS + OFFICE {
            weeks.add_person(nth, "person", USERS.nth(people::OFFICE_AT), 0);
        }
        for nth in 10_000..10_000 + MOBILE {
            weeks.add_person(nth, "phone", PHONES.nth(nth % OPERATOR * 7), 0);
        }
        let crowd_at = (CROWD_DAY * DAY as f64) as u64;
        for nth in HOMES..HOMES + CROWD {
            weeks.add_person(CROWD_FROM + nth, "person", home(nth), crowd_at);
        }
        for nth in 0..PARTNERS {
            let address = USERS.nth(people::PARTNERS_AT + 256 * nth + 9);
            weeks.add(Actor::Partner(nth), "partner", address, 0);
        }
        let large = USERS.nth(people::LARGE_AT);
        weeks.add(Actor::Large, "large customer", large, 2 * DAY / 24);
        let health = USERS.nth(people::HEALTH_AT);
        weeks.add(Actor::Health, "health checker", health, 0);
        let crawler = USERS.nth(people::CRAWLER_AT);
        weeks.add(Actor::Crawler, "crawler", crawler, 5 * DAY / 24);
        let nightly = USERS.nth(people::NIGHTLY_AT);
        weeks.add(Actor::Nightly, "nightly job", nightly, 3 * DAY / 24);
        weeks
    }

    fn add_person(&mut self, nth: u32, class: &'static str, address: Ipv4Addr, from: u64) {
        let first = match from {
            0 => self.session_after(BEGIN),
            _ => BEGIN + from + (self.crowd_comes_after() * CROWD_DAYS * DAY as f64) as u64,
        };
        self.add(Actor::Person(nth), class, address, first - BEGIN);
    }

    /// Most of a crowd come early.
    fn crowd_comes_after(&mut self) -> f64 {
        (self.chance.share() * self.chance.share()).min(1.0)
    }

    fn add(&mut self, actor: Actor, class: &'static str, address: Ipv4Addr, after: u64) {
        let chance = &mut self.chance;
        // Who share an address share the way to it; of phones the last mile differs most.
        let mut way = Chance::new(u64::from(address.to_bits()), 901);
        let (identity, stack, rtt_ms) = match actor {
            Actor::Person(nth) if class == "phone" => {
                let stack = if chance.happens(0.5) {
                    &STACKS[2]
                } else {
                    &STACKS[3]
                };
                (Identity::phoning(nth), stack, chance.about(60.0, 0.5))
            }
            Actor::Person(nth) => {
                let stack = [0, 0, 0, 1, 2, 4][chance.below(6) as usize];
                let identity = Identity::browsing(nth, chance);
                (identity, &STACKS[stack], way.about(22.0, 0.6))
            }
            _ => (Identity::phoning(0), &STACKS[1], chance.about(8.0, 0.4)),
        };
        let client = Client {
            actor,
            class,
            address,
            stack,
            hops: 5 + way.below(14) as u8,
            rtt_us: rtt_ms * 1e3,
            identity,
            at: 0,
            left: 0,
            is_in: false,
            mistyped: false,
            cookie: 0,
            port: 0,
            nth: 0,
        };
        self.due.push(Reverse((BEGIN + after, self.clients.len())));
        self.clients.push(client);
    }

    /// The next call's begin, and whose it is.
    fn next(&mut self) -> (u64, usize) {
        match self.due.pop() {
            Some(Reverse(next)) => next,
            None => unreachable!("somebody always calls"),
        }
    }

    /// How busy people are: 1 in the evening of a usual day.
    fn level(&self, at: u64) -> f64 {
        let days = (at - BEGIN) as f64 / DAY as f64;
        let hour = days.fract() * 24.0;
        let near = |peak: f64, wide: f64| (-((hour - peak) / wide).powi(2)).exp();
        let curve = 0.06 + 0.5 * near(11.0, 2.5) + 0.5 * near(15.0, 3.0) + 0.9 * near(20.0, 2.2);
        let weekend = if days as u64 % 7 >= 5 { 0.7 } else { 1.0 };
        curve * weekend * self.days[days as usize % self.days.len()]
    }

    /// When a person begins the next session.
    fn session_after(&mut self, from: u64) -> u64 {
        // Thinned: often enough for the busiest hour, and most of it not taken.
        const BUSIEST: f64 = 1.6;
        const AVERAGE: f64 = 0.37;
        let mean_s = 86_400.0 / SESSIONS * AVERAGE / BUSIEST;
        let mut at = from;
        loop {
            let wait_s = -mean_s * self.chance.share().ln();
            at += (wait_s * S as f64) as u64;
            let level = self.level(at);
            if self.chance.happens(level / BUSIEST) {
                return at;
            }
        }
    }

    /// Writes a client's call, decides when its next one is due, and says how long this one took, µs.
    fn record(
        &mut self,
        begin_us: u64,
        who: usize,
        templates: &Templates,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<u64> {
        let is_deployed = begin_us > BEGIN + (DEPLOYED_DAY * DAY as f64) as u64;
        let request = self.request(who, is_deployed);
        let level = self.level(begin_us);
        let chance = &mut self.chance;
        let client = &mut self.clients[who];
        if client.nth == 0 {
            self.cookies += 2;
            client.cookie = self.cookies;
            client.port = 32_768 + chance.below(28_000) as u16;
        }
        client.nth += 1;
        let asked = Asked::from(&request);
        let plan = Plan::of(&asked);
        let path = request.target.split('?').next().unwrap_or_default();
        let place = match plan.template {
            "" => path,
            template => template,
        };
        let sort = |status| Sort {
            class: client.class,
            method: request.method.to_owned(),
            place: place.to_owned(),
            status,
            first: client.nth == 1,
        };
        // An API fails a little all the time, where that was seen.
        let error = match plan.status < 300 && chance.happens(ERRING) {
            true => templates.find(&sort(*chance.one_of(&[500, 503]))),
            false => None,
        };
        let found = error.or_else(|| templates.find(&sort(plan.status)));
        let found = found.with_context(|| {
            let sort = sort(plan.status);
            format!(
                "no real record is known of {sort:?}; a longer run without attacks may have one"
            )
        })?;
        // Slower when it is busy, and now and then for no reason.
        let mut server_us = chance.about(plan.ms * 1e3 * (1.0 + 0.15 * level), 0.4);
        if chance.happens(0.002) {
            server_us *= chance.about(12.0, 0.8);
        }
        let rtt_us = chance.about(
            client.rtt_us,
            if client.class == "phone" { 0.35 } else { 0.1 },
        );
        let header = |name| asked.header(name).unwrap_or_default();
        let filling = Filling {
            begin_us,
            ids: [
                // A UUIDv7 begins with the time, ms.
                ((begin_us / 1_000) << 16) | chance.below(1 << 12),
                (chance.below(1 << 32) << 32) | chance.below(1 << 32),
                (chance.below(1 << 32) << 32) | chance.below(1 << 32),
                (chance.below(1 << 32) << 32) | chance.below(1 << 32),
            ],
            address: client.address,
            port: client.port,
            cookie: client.cookie,
            nth: client.nth,
            stack: client.stack,
            hops: client.hops,
            rtt_us: rtt_us as u64,
            server_us: server_us.max(1.0) as u64,
            size: chance.about(1.0, 0.2),
            target: &request.target,
            agent: header("user-agent"),
            consumer: header("x-ibm-client-id"),
        };
        let took = chance.one_of(found).fill(&filling, out);
        if let Some(next) = self.after(who, begin_us, took) {
            self.due.push(Reverse((next, who)));
        }
        Ok(took)
    }

    fn request(&mut self, who: usize, is_deployed: bool) -> Request {
        let chance = &mut self.chance;
        let client = &mut self.clients[who];
        let at = client.at;
        client.at += 1;
        match client.actor {
            Actor::Partner(nth) => habits::partner(nth, at, chance, is_deployed),
            Actor::Large => habits::large_customer(at),
            Actor::Health => habits::health(),
            Actor::Crawler => habits::crawler(at),
            Actor::Nightly => habits::nightly_job(at % 160),
            Actor::Person(_) => {
                if client.left == 0 {
                    client.left = 4 + chance.below(18);
                    client.is_in = false;
                    client.mistyped = chance.happens(0.05);
                    if chance.happens(0.3) {
                        client.left += 1;
                        return client.identity.icon();
                    }
                }
                if client.is_in {
                    return client.identity.step(chance, is_deployed);
                }
                let wrong = client.mistyped;
                client.is_in = !wrong;
                if wrong {
                    client.left += 1;
                    client.mistyped = chance.happens(0.2);
                }
                client.identity.login(wrong)
            }
        }
    }

    /// When the client calls again, if ever.
    fn after(&mut self, who: usize, begin_us: u64, took_us: u64) -> Option<u64> {
        let end = begin_us + took_us;
        let at_hour = |hour: u64| {
            let today = (end - BEGIN) / DAY;
            let at = BEGIN + today * DAY + hour * DAY / 24;
            if at > end { at } else { at + DAY }
        };
        let wait =
            |chance: &mut Chance, mean_s: f64| (-mean_s * chance.share().ln() * S as f64) as u64;
        let chance = &mut self.chance;
        let client = &mut self.clients[who];
        Some(match client.actor {
            Actor::Person(nth) => {
                client.left -= 1;
                if client.left > 0 {
                    return Some(end + (chance.about(2.2, 0.7).min(30.0) * S as f64) as u64);
                }
                client.nth = 0;
                // Of a crowd, few come back.
                if nth >= CROWD_FROM && chance.happens(0.8) {
                    return None;
                }
                self.session_after(end)
            }
            Actor::Partner(nth) => {
                let wait = wait(chance, PARTNERS_SLOWER * habits::partner_pause_s(nth));
                if wait > IDLE {
                    client.nth = 0;
                }
                end + wait
            }
            // From two in the night on, until all orders were looked at.
            Actor::Large if client.at.is_multiple_of(api::LARGE) => {
                client.nth = 0;
                at_hour(2)
            }
            Actor::Large => end + wait(chance, 0.6),
            Actor::Health => {
                client.nth = 0;
                begin_us + 5 * S
            }
            Actor::Crawler if client.at.is_multiple_of(7_200) => {
                client.nth = 0;
                at_hour(5)
            }
            Actor::Crawler => end + S,
            Actor::Nightly if client.at.is_multiple_of(160) => {
                client.nth = 0;
                at_hour(3)
            }
            Actor::Nightly => end + wait(chance, 0.04),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::detect::tools::alerts;
    use crate::detect::tools::template::class_of;

    #[test]
    fn the_first_day_begins_on_a_monday() {
        assert_eq!(alerts::rfc3339(BEGIN), "2026-09-28T00:00:00.000000Z");
    }

    /// A record for every answer there may be.
    fn templates() -> Templates {
        let mut templates = Templates::default();
        let unrouted = ["/favicon.ico", "/robots.txt", "/shop/order.php"];
        let routes = api::ROUTES.iter().chain(&api::DEPLOYED);
        let routes = routes.map(|(_, template, method)| (*template, *method, true));
        for (place, method, is_route) in routes.chain(unrouted.map(|path| (path, "GET", false))) {
            for status in [200, 201, 401, 404, 500, 503] {
                let mut record = serde_json::json!({
                    "timestamp": "", "kind": "call", "url.path": place, "http.request.method": method,
                    "http.response.status_code": status, "delivered_us": 10_000, "settled": "acked",
                    "attribution": "exact", "network.peer.address": USERS.nth(people::HOMES_AT).to_string(),
                    "client.socket.request_seq": 1, "url.query": "q", "log.record.uid": "",
                });
                if is_route {
                    record["http.route"] = place.into();
                }
                templates.add(record.to_string().as_bytes()).unwrap();
            }
        }
        templates
    }

    fn written(calls: u64, seed: u64) -> (Vec<Value>, Written) {
        let mut out = Vec::new();
        let written = write(&templates(), calls, seed, &mut out).unwrap();
        let lines = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let records = lines.map(|line| serde_json::from_slice(line).unwrap());
        (records.collect(), written)
    }

    #[test]
    fn everybody_calls_once_at_a_time_and_nobody_twice_under_one_name() {
        let (records, summary) = written(60_000, 1);
        assert_eq!(records.len(), 60_000);
        // The crawler begins at five, people are awake by then.
        assert!((0.3..0.8).contains(&summary.days), "{summary:?}");
        let mut last = 0;
        let mut classes = BTreeMap::<&str, u32>::new();
        let mut names = BTreeSet::new();
        for record in &records {
            let begin = record["timestamp"].as_str().unwrap();
            let end = alerts::unix_us(begin).unwrap() + record["delivered_us"].as_u64().unwrap();
            assert!(end >= last);
            last = end;
            let address = record["network.peer.address"].as_str().unwrap();
            *classes
                .entry(class_of(address.parse().unwrap()).unwrap())
                .or_default() += 1;
            assert!(names.insert(record["log.record.uid"].as_str().unwrap()));
        }
        let seen: Vec<&str> = classes.keys().copied().collect();
        let all = [
            "crawler",
            "health checker",
            "large customer",
            "nightly job",
            "partner",
            "person",
            "phone",
        ];
        assert_eq!(seen, all);
        assert!(classes["person"] > 10_000, "{classes:?}");
        let refused = records
            .iter()
            .filter(|record| record["http.response.status_code"] == 401);
        let refused = refused.count();
        assert!((10..600).contains(&refused), "{refused}");
    }

    #[test]
    fn the_same_seed_makes_the_same_up() {
        assert_eq!(written(500, 3), written(500, 3));
        assert_ne!(written(500, 3).0, written(500, 4).0);
    }

    #[test]
    fn a_sort_of_which_no_real_record_is_known_is_named() {
        let error = write(&Templates::default(), 1, 1, &mut Vec::new()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no real record is known of Sort"),
            "{error}"
        );
    }
}
