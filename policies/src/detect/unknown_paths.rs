//! A client that asks for many paths that do not exist: it is looking for something.
//!
//! **Idea.** The port scan detection of Jung et al. with paths for ports: a client that knows the API asks
//! for what is there, one that guesses mostly for what is not. A path that was missing counts once for each
//! client, so that one broken link, asked for a thousand times, is one; one that is there counts a quarter
//! ([`REPEATED`]) when it is asked for again.
//!
//! **Constants.** Of a guesser's new paths [`ATTACK`] are missing; of usual clients' calls the share that
//! is learned, held between [`USUAL_MIN`] and [`USUAL_MAX`]. Between five and fifteen different ones in a row
//! are enough.
//!
//! **When it is wrong.** A crawler that follows a page of dead links, or an application whose new version
//! asks for what the old service does not have: many clients alert then, and all say the same.

use super::Detector;
use super::call::{Call, Desk, Found, shown};
use super::distinct::Distinct;
use super::evidence::{Evidence, Share, log_ratio};
use crate::alert::Subject;

const ATTACK: f32 = 0.9;
const USUAL_MIN: f32 = 0.05;
const USUAL_MAX: f32 = 0.3;
/// Who asks for the start page again and again has not shown that it knows its way.
const REPEATED: f32 = 0.25;
const MEMORY: f32 = 10_000.0;
const MEMORY_S: f32 = 3600.0;
const LEARN_ABOVE: f64 = 0.01;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    asked: Distinct,
    evidence: Evidence,
    count: u32,
    since_s: u32,
}

/// Of all clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    missing: Share,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            missing: Share::new(USUAL_MIN, 100.0),
        }
    }
}

/// Looks at a call. `is_object`: its path is one of many that a route has, and others exist.
pub(crate) fn observe(
    call: &Call<'_>,
    is_object: bool,
    client: &mut PerClient,
    common: &mut Common,
    desk: &mut Desk<'_>,
) {
    let missing = call.is_miss() && !is_object && !call.refused_by_policy;
    if !missing && !call.succeeded() {
        return;
    }
    if client.evidence.is_none() {
        client.asked = Distinct::default();
        client.count = 0;
        client.since_s = call.now_s;
    }
    let is_new = client.asked.add(call.path) > 0.0;
    if missing && !is_new {
        return;
    }
    let usual = common.missing.get().clamp(USUAL_MIN, USUAL_MAX);
    let mut ratio = log_ratio(missing, ATTACK, usual);
    if !is_new {
        ratio *= REPEATED;
    }
    let tail = client.evidence.add(ratio, call.now_s, MEMORY_S);
    if tail > LEARN_ABOVE {
        common.missing.learn(missing, MEMORY);
    }
    if !missing {
        return;
    }
    client.count += 1;
    desk.look(Detector::UnknownPaths, tail, || Found {
        subject: Subject::Client(call.client),
        observed: f64::from(client.count),
        usual: f64::from(usual),
        summary: format!(
            "{} asked for {} different paths that are not there, last {} ({}); usually {:.0} % of calls do",
            Subject::Client(call.client),
            client.count,
            shown(call.record.url_path.as_deref().unwrap_or("")),
            call.status,
            usual * 100.0
        ),
        since_s: client.since_s,
        source: call.source(),
    });
}
