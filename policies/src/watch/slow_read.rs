//! Clients that keep responses waiting by not reading them.
//!
//! **Idea.** A connection is *held* when bytes wait for it, its acknowledgements crawl
//! ([`Pace`](super::pace)), and its window is closed: its kernel says that it has the bytes and that nobody
//! takes them. Without a ledger the only sign is that the socket takes no more of what the gateway has to
//! write. As with slow requests, one is a paused download, and many of one client are not usual
//! ([`Usual`](super::usual)).
//!
//! **Why the window.** A client on a bad network acknowledges as slowly, but its window is open, and what
//! waits is sent again. That is the network's doing, and not counted.
//!
//! **Constants.** Those of [`Pace`](super::pace) and [`Usual`](super::usual).
//!
//! **When it is wrong.** Players that pause many films at once behind one address. A client of HTTP/2 that
//! closes the windows of its streams and not that of its socket looks like one that waits for the upstream.

use super::LiveSocket;
use super::holding::Holding;
use super::pace::{Pace, Seen};
use super::source::Source;
use crate::alert::Alerts;
use crate::detect::Detector;

const SPAN_S: u32 = 60;

/// The detector.
#[derive(Debug)]
pub(super) struct SlowRead {
    held: Holding,
    acked: Pace,
}

impl SlowRead {
    pub(super) fn new(sources_max: usize) -> Self {
        Self {
            held: Holding::new(SPAN_S, 1.0, sources_max),
            acked: Pace::default(),
        }
    }

    pub(super) fn socket(&mut self, socket: &LiveSocket, now_ns: u64) {
        let (got_on, is_held_up) = match socket.unacked_bytes {
            Some(0) => return,
            Some(waiting) => (
                socket.written_bytes.saturating_sub(waiting),
                // Open now and then, and closed again: once within a stretch is enough.
                socket.window_closed_since_ns.is_some(),
            ),
            None => (socket.written_bytes, socket.blocked_since_ns.is_some()),
        };
        let seen = match is_held_up {
            true => Seen::Client,
            false => Seen::Nothing,
        };
        let stretches = self.acked.crawled(socket.cookie, got_on, seen, now_ns);
        let client = Source::client(socket.peer.ip());
        self.held.add(client, u32::from(stretches > 0), stretches);
    }

    pub(super) fn tick(&mut self, present: usize, now_ns: u64, alerts: &mut Alerts) {
        const DETECTOR: Detector = Detector::SlowRead;
        let held = &mut self.held;
        held.look(DETECTOR, present, now_ns, alerts, |found, alerts| {
            let what = format!(
                "{} connections held by responses that nobody reads",
                found.number
            );
            alerts.raise(found.signal(DETECTOR, what), now_ns);
        });
        held.clear();
        self.acked.end();
    }
}
