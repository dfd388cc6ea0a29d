//! A client that calls far more often than clients do.
//!
//! **Idea.** Calls of one client in five seconds, against those of all clients and its own habit
//! ([`Population`](super::population::Population)). More clients, as in a campaign, are not more calls of
//! each.
//!
//! **When it is wrong.** Many people behind one address look like one who calls much: the first time they
//! come at once.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::population::{Habit, Population};
use crate::alert::Subject;

const WINDOW_S: u32 = 5;
/// Calls of a client of any service in a window.
const CALLS_USUAL: f64 = 4.0;

/// Of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Common(Population);

impl Default for Common {
    fn default() -> Self {
        Self(Population::new(CALLS_USUAL, 1.2, WINDOW_S))
    }
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    client: &mut Habit,
    Common(population): &mut Common,
    desk: &mut Desk<'_>,
) {
    let Some(amount) = population.add(client, call.client_key, 1.0, call.now_s) else {
        return;
    };
    desk.look(Detector::ClientRate, amount.tail, || Found {
        subject: Subject::Client(call.client),
        observed: amount.total,
        usual: amount.usual,
        summary: format!(
            "{} made {:.0} calls within {WINDOW_S} seconds; usual are {:.0}",
            Subject::Client(call.client),
            amount.total,
            amount.usual
        ),
        since_s: call.now_s / WINDOW_S * WINDOW_S,
        source: call.source(),
    });
}
