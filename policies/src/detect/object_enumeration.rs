//! A client that asks for many objects of one kind, one after the other: for those it may not have, or for
//! all that there are.
//!
//! **Idea.** Two signs. Of the objects that a client asks for, those that are missing or
//! another's: a client that was told its ids by the service asks for ids that exist ([`Evidence`], each id
//! once). And the number of different ids in a minute, against what clients have ([`Population`] with the
//! client's own habit): who takes all there are from an API that refuses nobody.
//!
//! **Constants.** [`ATTACK`] of guessed ids are missing, though a dense range of ids has many hits; of usual
//! ones the route's own share, held between [`USUAL_MIN`] and [`USUAL_MAX`].
//!
//! **When it is wrong.** A client that fetches objects which others delete meanwhile.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::distinct::Distinct;
use super::evidence::{Evidence, Share, log_ratio};
use super::population::{Habit, Population};
use crate::alert::Subject;

const ATTACK: f32 = 0.8;
const USUAL_MIN: f32 = 0.05;
const USUAL_MAX: f32 = 0.3;
const MEMORY: f32 = 5_000.0;
const MEMORY_S: f32 = 3600.0;
const LEARN_ABOVE: f64 = 0.01;
const WINDOW_S: u32 = 60;
/// Different ids that a client of any service may ask for in a window.
const IDS_USUAL: f64 = 5.0;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    /// Objects of this minute.
    ids: Distinct,
    window: u32,
    habit: Habit,
    evidence: Evidence,
    /// Objects since there is evidence.
    asked: Distinct,
    missing: u32,
    since_s: u32,
}

/// Of one route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerRoute {
    missing: Share,
    /// An object was found there.
    found: bool,
}

impl Default for PerRoute {
    fn default() -> Self {
        Self {
            missing: Share::new(USUAL_MIN, 50.0),
            found: false,
        }
    }
}

impl PerRoute {
    /// Whether objects are there, so that a miss is one of an object and not of a path.
    pub(crate) fn has_objects(&self) -> bool {
        self.found
    }
}

/// Of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Common(Population);

impl Default for Common {
    fn default() -> Self {
        Self(Population::new(IDS_USUAL, 1.2, WINDOW_S))
    }
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    client: &mut PerClient,
    route: &mut PerRoute,
    Common(population): &mut Common,
    desk: &mut Desk<'_>,
) {
    let Some(id) = call.id else { return };
    let missing = call.is_miss() && !call.refused_by_policy;
    if !missing && !call.succeeded() {
        return;
    }
    route.found |= call.succeeded();
    let window = call.now_s / WINDOW_S;
    if client.window != window {
        client.ids = Distinct::default();
        client.window = window;
    }
    let new = client.ids.add(id);
    if !route.found {
        return;
    }
    if client.evidence.is_none() {
        client.asked = Distinct::default();
        client.missing = 0;
        client.since_s = call.now_s;
    }
    // Each object once: who polls one that is not there asks for no other.
    let is_new = client.asked.add(id) > 0.0;
    let usual = route.missing.get().clamp(USUAL_MIN, USUAL_MAX);
    let mut tail = 1.0;
    if is_new {
        let ratio = log_ratio(missing, ATTACK, usual);
        tail = client.evidence.add(ratio, call.now_s, MEMORY_S);
        if tail > LEARN_ABOVE {
            route.missing.learn(missing, MEMORY);
        }
    }
    let found = |observed: f64, usual: f64, summary: String, since_s: u32| Found {
        subject: Subject::Client(call.client),
        observed,
        usual,
        summary,
        since_s,
        source: call.source(),
    };
    if is_new && missing {
        client.missing += 1;
        desk.look(Detector::ObjectEnumeration, tail, || {
            let summary = format!(
                "{} asked for {} different objects that are not there or not its own, last of {}; usually {:.0} % are",
                Subject::Client(call.client),
                client.missing,
                call.template_text(),
                usual * 100.0
            );
            found(f64::from(client.missing), f64::from(usual), summary, client.since_s)
        });
    }
    if new > 0.0
        && let Some(amount) = population.add(&mut client.habit, call.client_key, new, call.now_s)
    {
        desk.look(Detector::ObjectEnumeration, amount.tail, || {
            let summary = format!(
                "{} asked for {:.0} different objects within a minute, last of {}; usual are {:.0}",
                Subject::Client(call.client),
                amount.total,
                call.template_text(),
                amount.usual
            );
            found(amount.total, amount.usual, summary, window * WINDOW_S)
        });
    }
}
