//! A larger share of a route's calls fails than usual.
//!
//! **Idea.** Each call is [`Evidence`] for a share of failures three times the usual one and a fifth. A
//! failure is a status from 500 on, or an upstream that gave no answer. A client that left is none, unless it
//! had waited [`PATIENCE_US`] for an upstream that said nothing; what a policy refused is none either.
//!
//! **Constants.** The usual share is learned over [`MEMORY`] calls from [`USUAL`] on, is at least
//! [`USUAL_MIN`], with which four clients in a row that fail are enough, and is not
//! learned while evidence gathers, but for every [`SLOWLY`]th call: a route that stays broken is usual
//! after a day or so. Failures of one client in a row count a quarter: one that repeats its broken
//! request is not an outage.
//!
//! **When it is wrong.** A test that calls a failing operation on purpose, from several addresses.

use calltap_correlate::record::CallRecord;

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::{Evidence, Share, log_ratio};
use crate::alert::Subject;

const USUAL: f32 = 0.02;
const USUAL_MIN: f32 = 0.005;
const ATTACK_MAX: f32 = 0.95;
/// A route of which so much fails always does.
const ALWAYS: f32 = 0.8;
const MEMORY: f32 = 5_000.0;
const MEMORY_S: f32 = 300.0;
const LEARN_ABOVE: f64 = 0.05;
const SLOWLY: u32 = 20;
const SAME_CLIENT: f32 = 0.25;
const PATIENCE_US: u64 = 2_000_000;

/// Of one route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerRoute {
    evidence: Evidence,
    usual: Share,
    last_failed: u64,
    skipped: u32,
    failed: u32,
    calls: u32,
    since_s: u32,
}

impl Default for PerRoute {
    fn default() -> Self {
        Self {
            evidence: Evidence::default(),
            usual: Share::new(USUAL, 50.0),
            last_failed: 0,
            skipped: 0,
            failed: 0,
            calls: 0,
            since_s: 0,
        }
    }
}

/// Whether a client left because nothing came.
fn was_kept_waiting(call: &CallRecord) -> bool {
    call.http_response_status_code.is_none()
        && call.upstream_address.is_some()
        && call.gateway_duration_us.is_some_and(|us| us >= PATIENCE_US)
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    route: &mut PerRoute,
    name: impl Fn() -> Subject,
    desk: &mut Desk<'_>,
) {
    let flags = &call.record.response_flags;
    let client_left = flags.iter().any(|flag| flag == "client_abort");
    if call.refused_by_policy || client_left && !was_kept_waiting(call.record) {
        return;
    }
    let failed = call.status >= 500 || call.status == 0;
    if route.evidence.is_none() {
        route.failed = 0;
        route.calls = 0;
        route.since_s = call.now_s;
    }
    let usual = route.usual.get().max(USUAL_MIN);
    let mut ratio = match usual < ALWAYS {
        true => log_ratio(failed, (3.0 * usual + 0.2).min(ATTACK_MAX), usual),
        false => 0.0,
    };
    if failed {
        if route.last_failed == call.client_key {
            ratio *= SAME_CLIENT;
        }
        route.last_failed = call.client_key;
    }
    let tail = route.evidence.add(ratio, call.now_s, MEMORY_S);
    route.skipped += 1;
    if tail > LEARN_ABOVE || route.skipped >= SLOWLY {
        route.skipped = 0;
        route.usual.learn(failed, MEMORY);
    }
    route.calls += 1;
    if !failed {
        return;
    }
    route.failed += 1;
    desk.look(Detector::RouteErrors, tail, || Found {
        subject: name(),
        observed: f64::from(route.failed) / f64::from(route.calls),
        usual: f64::from(usual),
        summary: format!(
            "{} of the last {} calls failed, last with {}; usually {:.1} % do",
            route.failed,
            route.calls,
            call.record.error_type.as_deref().unwrap_or("no answer"),
            usual * 100.0
        ),
        since_s: route.since_s,
        source: None,
    });
}
