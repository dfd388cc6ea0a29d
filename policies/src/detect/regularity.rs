//! A client that claims to be a browser and calls as evenly as a machine.
//!
//! **Idea.** People's pauses between calls are spread over orders of magnitude; a script's are all alike. Of
//! the logarithms of a run of pauses the sum of squares follows, for a person, a chi-square law with at least
//! the spread [`PERSON_SPREAD`]; its lower tail says how likely it is to be so even by chance. Only clients
//! whose user agent says `Mozilla/` are looked at: a health checker says what it is and is none of this
//! detector's business.
//!
//! **Two kinds of runs.** Pauses between calls to different templates, whatever comes between: a page that
//! polls asks the same again. And pauses below [`QUICK_US`] between different things that are fetched (a path
//! with its query), one right after the other: pages poll with a number that changes, but hardly that often. A longer or
//! shorter pause, or the same thing again, ends such a run, for of many people behind one address those
//! pauses alone would look even.
//!
//! **Constants.** Pauses below [`PAUSE_MIN_US`] belong to one page's loading. After [`PAUSES`] pauses a run
//! begins anew.
//!
//! **When it is wrong.** A page that asks two different things in turn by a timer, or many things one after
//! the other.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::population::normal_tail;
use crate::alert::Subject;

const PERSON_SPREAD: f32 = 0.5;
const PAUSE_MIN_US: f32 = 100_000.0;
const PAUSE_MAX_US: f32 = 600e6;
const QUICK_US: f32 = 600_000.0;
const PAUSES: u16 = 40;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    last_us: u64,
    template: u64,
    target: u64,
    steps: Run,
    quick: Run,
}

/// Pauses so far, and the mean and the sum of squares of their logarithms.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    pauses: u16,
    mean: f32,
    squares: f32,
}

impl Run {
    /// Adds a pause; gives the run when it is long enough, and begins anew.
    fn add(&mut self, pause_us: f32) -> Option<Self> {
        // Welford's update.
        let value = pause_us.ln();
        self.pauses += 1;
        let delta = value - self.mean;
        self.mean += delta / f32::from(self.pauses);
        self.squares += delta * (value - self.mean);
        (self.pauses == PAUSES).then(|| std::mem::take(self))
    }
}

/// Looks at a call.
pub(crate) fn observe(call: &Call<'_>, client: &mut PerClient, desk: &mut Desk<'_>) {
    let agent = call.record.user_agent_original.as_deref();
    if !agent.is_some_and(|agent| agent.starts_with("Mozilla/")) {
        return;
    }
    let began_us = call.record.timestamp.unix_us().unsigned_abs();
    let pause_us = began_us.saturating_sub(client.last_us) as f32;
    let is_step = client.template != call.template;
    let is_other = client.target != call.target;
    client.last_us = client.last_us.max(began_us);
    client.template = call.template;
    client.target = call.target;
    let mut run = None;
    if is_step && (PAUSE_MIN_US..PAUSE_MAX_US).contains(&pause_us) {
        run = client.steps.add(pause_us);
    }
    let is_fetch = call.record.http_request_method.as_deref() == Some("GET");
    if is_other && is_fetch && (PAUSE_MIN_US..QUICK_US).contains(&pause_us) {
        run = client.quick.add(pause_us).or(run);
    } else {
        client.quick = Run::default();
    }
    let Some(Run {
        pauses,
        mean,
        squares,
    }) = run
    else {
        return;
    };
    let free = f64::from(pauses - 1);
    let chi_square = f64::from(squares) / f64::from(PERSON_SPREAD * PERSON_SPREAD);
    let spread = (f64::from(squares) / free).sqrt();
    desk.look(Detector::Regularity, chi_square_below(chi_square, free), || Found {
        subject: Subject::Client(call.client),
        observed: spread,
        usual: f64::from(PERSON_SPREAD),
        summary: format!(
            "{} says that it is a browser and has called every {:.1} s, within {:.0} %, {pauses} times",
            Subject::Client(call.client),
            f64::from(mean.exp()) / 1e6,
            spread * 100.0
        ),
        since_s: call.now_s,
        source: call.source(),
    });
}

/// The lower tail of the chi-square law by the transformation of Wilson and Hilferty (1931): the cube root
/// is close to normal.
fn chi_square_below(value: f64, free: f64) -> f64 {
    let mean = 1.0 - 2.0 / (9.0 * free);
    let deviation = (2.0 / (9.0 * free)).sqrt();
    normal_tail((mean - (value / free).cbrt()) / deviation)
}
