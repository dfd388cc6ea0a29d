//! A client that takes far more data, or far more different things, than clients do.
//!
//! **Idea.** Bytes of responses, and different things (a path with its query) that were found, within a
//! minute; each against other clients' and its own habit ([`Population`]). One download, however large, is not
//! scraping: bytes are told of only with [`THINGS_MIN`] different things.
//!
//! While a route's responses are larger than usual, they count as usual: that is [`super::route_size`]'s, not
//! the clients' fault.
//!
//! **Constants.** Bytes are spread much wider than counts are ([`BYTES_SPREAD`]).
//!
//! **When it is wrong.** A mirror that begins to copy, or the first backup.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::distinct::Distinct;
use super::population::{Amount, Habit, Population};
use crate::alert::Subject;

const WINDOW_S: u32 = 60;
/// What a client of any service takes in a window.
const BYTES_USUAL: f64 = 100_000.0;
const BYTES_SPREAD: f64 = 2.0;
const THINGS_USUAL: f64 = 6.0;
const THINGS_MIN: f32 = 5.0;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    bytes: Habit,
    things: Habit,
    seen: Distinct,
    window: u32,
}

/// Of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    bytes: Population,
    things: Population,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            bytes: Population::new(BYTES_USUAL, BYTES_SPREAD, WINDOW_S),
            things: Population::new(THINGS_USUAL, 1.2, WINDOW_S),
        }
    }
}

/// Looks at a call to a route whose responses count for so many bytes at most.
pub(crate) fn observe(
    call: &Call<'_>,
    response_max: f32,
    client: &mut PerClient,
    common: &mut Common,
    desk: &mut Desk<'_>,
) {
    if !call.succeeded() {
        return;
    }
    let window = call.now_s / WINDOW_S;
    if client.window != window {
        client.window = window;
        client.seen = Distinct::default();
    }
    let new = client.seen.add(call.target);
    let mut look = |amount: Amount, what: &str| {
        desk.look(Detector::Scraping, amount.tail, || Found {
            subject: Subject::Client(call.client),
            observed: amount.total,
            usual: amount.usual,
            summary: format!(
                "{} took {:.0} {what} within a minute; usual are {:.0}",
                Subject::Client(call.client),
                amount.total,
                amount.usual
            ),
            since_s: window * WINDOW_S,
            source: call.source(),
        });
    };
    if let Some(bytes) = call
        .record
        .http_response_body_size
        .filter(|bytes| *bytes > 0)
    {
        let bytes = (bytes as f32).min(response_max);
        if let Some(amount) =
            common
                .bytes
                .add(&mut client.bytes, call.client_key, bytes, call.now_s)
            && client.seen.count() >= THINGS_MIN
        {
            look(amount, "bytes");
        }
    }
    if new > 0.0
        && let Some(amount) =
            common
                .things
                .add(&mut client.things, call.client_key, new, call.now_s)
    {
        look(amount, "different things");
    }
}
