//! Many clients that are refused, each a few times: stolen passwords are being tried, from many addresses
//! so that none stands out.
//!
//! **Idea.** The first outcomes of each client on a route, and only those: whether the share of clients
//! that are refused has risen over what it is. One client's later outcomes are [`super::auth_failures`]'s.
//!
//! **Constants.** [`FIRST`] outcomes of a client on a route count, and again after an hour: a few who guess
//! are not many who are refused. Under attack the share
//! is three times the usual and a fifth, at most [`ATTACK_MAX`]. The usual share is at least
//! [`USUAL_MIN`], learned over [`MEMORY`] outcomes, of which only each [`SLOWLY`]th counts while evidence is
//! gathering: a route that refuses most visitors is told of once.
//!
//! **When it is wrong.** When the service itself refuses everybody (an expired certificate of its own, a
//! broken identity provider): then it is no attack, but no false alert either.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::{Evidence, Share, log_ratio};
use crate::alert::Subject;

const FIRST: u8 = 2;
const USUAL_MIN: f32 = 0.1;
const ATTACK_MAX: f32 = 0.95;
const MEMORY: f32 = 2_000.0;
const MEMORY_S: f32 = 1800.0;
const LEARN_ABOVE: f64 = 0.05;
const SLOWLY: u32 = 20;
/// A client's outcomes are its first ones again.
const AGAIN_S: u32 = 3600;

/// Of one client: outcomes that counted, on which template and since when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    template: u64,
    outcomes: u8,
    since_s: u32,
}

/// Of one route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerRoute {
    evidence: Evidence,
    usual: Share,
    clients: u32,
    refused: u32,
    skipped: u32,
    since_s: u32,
}

impl Default for PerRoute {
    fn default() -> Self {
        Self {
            evidence: Evidence::default(),
            usual: Share::new(USUAL_MIN, 20.0),
            clients: 0,
            refused: 0,
            skipped: 0,
            since_s: 0,
        }
    }
}

/// Looks at the outcome of a call that needed credentials.
pub(crate) fn observe(
    call: &Call<'_>,
    refused: bool,
    client: &mut PerClient,
    route: &mut PerRoute,
    name: impl FnOnce() -> Subject,
    desk: &mut Desk<'_>,
) {
    if client.template != call.template || call.now_s >= client.since_s + AGAIN_S {
        *client = PerClient {
            template: call.template,
            outcomes: 0,
            since_s: call.now_s,
        };
    }
    if client.outcomes >= FIRST {
        return;
    }
    client.outcomes += 1;
    if route.evidence.is_none() {
        route.clients = 0;
        route.refused = 0;
        route.since_s = call.now_s;
    }
    let usual = route.usual.get().clamp(USUAL_MIN, 0.6);
    let attack = (3.0 * usual + 0.2).min(ATTACK_MAX);
    let ratio = log_ratio(refused, attack, usual);
    let tail = route.evidence.add(ratio, call.now_s, MEMORY_S);
    route.skipped += 1;
    if tail > LEARN_ABOVE || route.skipped >= SLOWLY {
        route.skipped = 0;
        route.usual.learn(refused, MEMORY);
    }
    route.clients += u32::from(client.outcomes == 1);
    if !refused {
        return;
    }
    route.refused += 1;
    // Fewer clients than this are a few who guess, each told of by itself.
    if route.clients < 8 {
        return;
    }
    desk.look(Detector::AuthSpray, tail, || Found {
        subject: name(),
        observed: f64::from(route.refused),
        usual: f64::from(usual),
        summary: format!(
            "{} first calls of {} clients to {} were refused; usually {:.0} % are",
            route.refused,
            route.clients,
            call.template_text(),
            usual * 100.0
        ),
        since_s: route.since_s,
        source: None,
    });
}
