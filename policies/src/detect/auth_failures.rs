//! One client that is refused again and again: a password or a key is being guessed.
//!
//! **Idea.** Of calls to routes that refuse for want of credentials, usual clients have some refused and
//! then get in; who guesses has almost all refused. Each outcome is [`Evidence`] for one or the other, with
//! the share of refusals that other clients have on this route for what is usual, or have just now if that is
//! more: where everybody is refused, nobody guesses, or [`super::auth_spray`] tells of it.
//!
//! **Constants.** Guessing fails [`ATTACK`] of the time. The usual share is held between [`USUAL_MIN`], so
//! that a login where nobody ever fails does not alert at a third mistyped password, and [`USUAL_MAX`], so
//! that an attack cannot teach that failing is usual: some 25 refusals in a row are then enough, and a
//! success on the same template takes back as much as four of them. A refusal teaches only once the same client has got in, and
//! [`FORGOTTEN_MAX`] of them at most: who never gets in teaches nothing. What is gathered fades within
//! [`MEMORY_S`], an hour: one guess in ten minutes is not told from a forgetful person.
//!
//! **When it is wrong.** A program with an expired key that does not give up looks just like it.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::{Evidence, Share, log_ratio};
use crate::alert::Subject;

const ATTACK: f32 = 0.95;
const USUAL_MIN: f32 = 0.1;
const USUAL_MAX: f32 = 0.5;
const MEMORY_S: f32 = 3600.0;
/// Outcomes from which a route's share is learned.
const ROUTE_MEMORY: f32 = 5_000.0;
/// Outcomes that are just now; of one client in a row but one.
const RECENT_MEMORY: f32 = 100.0;
/// Refusals before a success that a forgetful person may have.
const FORGOTTEN_MAX: u32 = 3;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    evidence: Evidence,
    refused: u32,
    /// Refusals since it last got in, and the template of the last of them.
    in_a_row: u32,
    template: u64,
    since_s: u32,
}

/// Of one route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerRoute {
    refused: Share,
    recent: Share,
    last_client: u64,
    /// It has refused somebody.
    refuses: bool,
}

impl Default for PerRoute {
    fn default() -> Self {
        Self {
            refused: Share::new(USUAL_MIN, 20.0),
            recent: Share::new(USUAL_MIN, 20.0),
            last_client: 0,
            refuses: false,
        }
    }
}

/// The outcome of a call that needed credentials: refused or not. `None`: it says nothing of them.
pub(crate) fn outcome(call: &Call<'_>, route: &mut PerRoute) -> Option<bool> {
    let refused = call.is_unauthorised();
    route.refuses |= refused;
    let tells = !call.refused_by_policy && route.refuses && (refused || call.succeeded());
    tells.then_some(refused)
}

/// Looks at a call with this [`outcome`].
pub(crate) fn observe(
    call: &Call<'_>,
    refused: bool,
    client: &mut PerClient,
    route: &mut PerRoute,
    desk: &mut Desk<'_>,
) {
    if route.last_client != call.client_key {
        route.last_client = call.client_key;
        route.recent.learn(refused, RECENT_MEMORY);
    }
    let usual = route.refused.get().max(route.recent.get());
    let usual = usual.clamp(USUAL_MIN, USUAL_MAX);
    if client.evidence.is_none() {
        client.refused = 0;
        client.since_s = call.now_s;
    }
    let mut tail = 1.0;
    // Who gets in elsewhere may still be guessing here.
    if refused || client.template == call.template {
        let ratio = log_ratio(refused, ATTACK, usual);
        tail = client.evidence.add(ratio, call.now_s, MEMORY_S);
    }
    if !refused {
        for _ in 0..std::mem::take(&mut client.in_a_row).min(FORGOTTEN_MAX) {
            route.refused.learn(true, ROUTE_MEMORY);
        }
        route.refused.learn(false, ROUTE_MEMORY);
        return;
    }
    client.in_a_row += 1;
    client.template = call.template;
    client.refused += 1;
    desk.look(Detector::AuthFailures, tail, || Found {
        subject: Subject::Client(call.client),
        observed: f64::from(client.refused),
        usual: f64::from(usual),
        summary: format!(
            "{} of the last calls of {} to {} were refused ({}); usually {:.0} % are",
            client.refused,
            Subject::Client(call.client),
            call.template_text(),
            call.status,
            usual * 100.0
        ),
        since_s: client.since_s,
        source: call.source(),
    });
}
