//! A client that takes far more data, or far more different things, than clients do.
//!
//! **Idea.** Bytes of responses, and different paths that were found, within a minute; each against other
//! clients' and its own habit ([`Population`]).
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
const PATHS_USUAL: f64 = 6.0;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    bytes: Habit,
    paths: Habit,
    seen: Distinct,
    window: u32,
}

/// Of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    bytes: Population,
    paths: Population,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            bytes: Population::new(BYTES_USUAL, WINDOW_S),
            paths: Population::new(PATHS_USUAL, WINDOW_S),
        }
    }
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    client: &mut PerClient,
    common: &mut Common,
    desk: &mut Desk<'_>,
) {
    if !call.succeeded() {
        return;
    }
    let window = call.now_s / WINDOW_S;
    let mut look = |amount: Option<Amount>, what: &str| {
        let Some(amount) = amount else { return };
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
        look(
            common
                .bytes
                .add(&mut client.bytes, bytes as f32, call.now_s),
            "bytes",
        );
    }
    if client.window != window || client.seen.is_full() {
        client.window = window;
        client.seen = Distinct::default();
    }
    if client.seen.add(call.path) {
        look(
            common.paths.add(&mut client.paths, 1.0, call.now_s),
            "different things",
        );
    }
}
