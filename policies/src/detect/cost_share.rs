//! A client that takes a far larger share of the upstream's time than clients do, with few calls even.
//!
//! **Idea.** The upstream's time that the timeline gives to one client's calls within ten seconds, against
//! other clients' and its own habit ([`Population`](super::population::Population)). Told of only where it
//! is at least [`SHARE_MIN`] of all clients' in that window: an expensive client among many more is not a
//! problem of anybody's.
//!
//! **When it is wrong.** When the upstream is slow for everybody and one client happens to be alone: its
//! time is long, and all there is.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::population::{Habit, Population};
use crate::alert::Subject;

const WINDOW_S: u32 = 10;
const SHARE_MIN: f32 = 0.5;
/// The upstream's time that a client of any service takes in a window, µs.
const COST_USUAL_US: f64 = 100_000.0;
/// One call in a window counts for this at most, µs: a single slow one is not many expensive ones.
const CALL_MAX_US: u64 = 2_000_000;

/// Of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    population: Population,
    window: u32,
    total_us: f32,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            population: Population::new(COST_USUAL_US, 1.2, WINDOW_S),
            window: 0,
            total_us: 0.0,
        }
    }
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    client: &mut Habit,
    common: &mut Common,
    desk: &mut Desk<'_>,
) {
    let Some(cost_us) = call.record.time_upstream_server_us else {
        return;
    };
    let cost_us = cost_us.min(CALL_MAX_US) as f32;
    let window = call.now_s / WINDOW_S;
    if common.window != window {
        common.window = window;
        common.total_us = 0.0;
    }
    common.total_us += cost_us;
    let Some(amount) = common
        .population
        .add(client, call.client_key, cost_us, call.now_s)
    else {
        return;
    };
    let share = amount.total as f32 / common.total_us;
    let tail = if share < SHARE_MIN { 1.0 } else { amount.tail };
    desk.look(Detector::CostShare, tail, || Found {
        subject: Subject::Client(call.client),
        observed: amount.total,
        usual: amount.usual,
        summary: format!(
            "{} took {:.0} ms of the upstream within {WINDOW_S} seconds, {:.0} % of all; usual are {:.0} ms",
            Subject::Client(call.client),
            amount.total / 1e3,
            share * 100.0,
            amount.usual / 1e3
        ),
        since_s: window * WINDOW_S,
        source: call.source(),
    });
}
