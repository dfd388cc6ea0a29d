//! A client that claims to be a browser and calls as evenly as a machine.
//!
//! **Idea.** People's pauses between calls are spread over orders of magnitude; a script's are all alike. Of
//! the logarithms of the pauses between calls to different things the sum of squares follows, for a
//! person, a chi-square law with at least the spread [`PERSON_SPREAD`]; its lower tail says how likely it is
//! to be so even by chance. Only clients whose user agent says `Mozilla/` are looked at: a health checker
//! says what it is and is none of this detector's business. Different things have different templates, or
//! come within [`QUICK_US`] and have different paths or queries: pages poll with a number that changes, but
//! hardly that often.
//!
//! **Constants.** Pauses below [`PAUSE_MIN_US`] belong to one page's loading. After [`PAUSES`] pauses the
//! count begins anew.
//!
//! **When it is wrong.** A page that asks two different things in turn, by a timer.

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
    pauses: u16,
    mean: f32,
    squares: f32,
}

/// Looks at a call.
pub(crate) fn observe(call: &Call<'_>, client: &mut PerClient, desk: &mut Desk<'_>) {
    let agent = call.record.user_agent_original.as_deref();
    if !agent.is_some_and(|agent| agent.starts_with("Mozilla/")) {
        return;
    }
    let began_us = call.record.timestamp.unix_us().unsigned_abs();
    let pause_us = began_us.saturating_sub(client.last_us) as f32;
    let is_other =
        client.template != call.template || client.target != call.target && pause_us < QUICK_US;
    client.last_us = client.last_us.max(began_us);
    client.template = call.template;
    client.target = call.target;
    if !is_other || !(PAUSE_MIN_US..PAUSE_MAX_US).contains(&pause_us) {
        return;
    }
    // Welford's update.
    let value = pause_us.ln();
    client.pauses += 1;
    let delta = value - client.mean;
    client.mean += delta / f32::from(client.pauses);
    client.squares += delta * (value - client.mean);
    if client.pauses < PAUSES {
        return;
    }
    let PerClient {
        pauses,
        mean,
        squares,
        ..
    } = std::mem::replace(
        client,
        PerClient {
            last_us: client.last_us,
            template: client.template,
            target: client.target,
            ..PerClient::default()
        },
    );
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
