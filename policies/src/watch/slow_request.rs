//! Clients that keep connections open by sending their requests as slowly as they can: slowloris, slow POST.
//!
//! **Idea.** A connection is *held* when it is in a request head or a TLS handshake for [`HEAD_NS`], says
//! nothing at all for [`SILENT_NS`] after it was accepted, or is in a request body that crawls
//! ([`Pace`](super::pace)). One held connection is a slow client or a lost packet. What is unusual is that
//! one client holds many at the same time, and how many are unusual is learned ([`Usual`](super::usual)):
//! from a service that knows nothing yet, some thirty.
//!
//! Connections that ended because their time was up count for [`TIMED_OUT_S`] more: a gateway that closes
//! them after ten seconds is not less under attack.
//!
//! Silent connections are counted on their own, and more of them are usual: browsers open connections in
//! advance and say nothing on them, and an office has many browsers. Those that timed out do not count.
//!
//! **Constants.** A head fits into one or two segments, so three seconds are two lost transmissions in
//! a row of one that the client had begun to send.
//!
//! **When it is wrong.** Many people behind one address whose uplink breaks all at once look like one who
//! holds all of their uploads; the address's habit helps from the second time on. Of HTTP/2 a connection
//! counts once, whatever its streams do: an attack with many streams on few connections is not seen here.
//! What the gateway has not read yet ([`LiveSocket::unread_bytes`]) is the upstream's pace, not the client's.

use std::collections::HashMap;

use super::holding::Holding;
use super::pace::{Pace, Seen};
use super::source::Source;
use super::{ClosedSocket, Doing, LiveSocket, Parting};
use crate::alert::Alerts;
use crate::detect::Detector;

const SECOND_NS: u64 = 1_000_000_000;
const HEAD_NS: u64 = 3 * SECOND_NS;
const SILENT_NS: u64 = 5 * SECOND_NS;
const TIMED_OUT_S: u64 = 20;
const SPAN_S: u32 = 60;
/// Silent connections that are usual, for one held in another way.
const SILENT_SCALE: f64 = 3.0;
/// Clients whose timed-out connections are remembered, each second.
const TIMED_OUT_MAX: usize = 4_096;

/// The detector.
#[derive(Debug)]
pub(super) struct SlowRequest {
    held: Holding,
    silent: Holding,
    bodies: Pace,
    /// By second, modulo their number: who timed out then, and how often.
    timed_out: Vec<(u64, HashMap<Source, u32>)>,
}

impl SlowRequest {
    pub(super) fn new(sources_max: usize) -> Self {
        Self {
            held: Holding::new(SPAN_S, 1.0, sources_max),
            silent: Holding::new(SPAN_S, SILENT_SCALE, sources_max),
            bodies: Pace::default(),
            timed_out: vec![(0, HashMap::new()); TIMED_OUT_S as usize],
        }
    }

    pub(super) fn socket(&mut self, socket: &LiveSocket, now_ns: u64) {
        let for_ns = now_ns.saturating_sub(socket.since_ns);
        let client = Source::client(socket.peer.ip());
        match socket.doing {
            Doing::Head | Doing::Securing if for_ns >= HEAD_NS => self.held.add(client, 1, 1),
            Doing::Idle if socket.calls == 0 && for_ns >= SILENT_NS => {
                self.silent.add(client, 1, 1)
            }
            Doing::Body => {
                let seen = match socket.unread_bytes {
                    Some(1..) => Seen::Other,
                    _ => Seen::Client,
                };
                let LiveSocket {
                    cookie, read_bytes, ..
                } = *socket;
                let stretches = self.bodies.crawled(cookie, read_bytes, seen, now_ns);
                self.held.add(client, u32::from(stretches > 0), stretches);
            }
            _ => {}
        }
    }

    pub(super) fn closed(&mut self, socket: &ClosedSocket, now_ns: u64) {
        if socket.parting != Parting::TimedOut {
            return;
        }
        let second = now_ns / SECOND_NS;
        let (of, clients) = &mut self.timed_out[(second % TIMED_OUT_S) as usize];
        if *of != second {
            *of = second;
            clients.clear();
        }
        let client = Source::client(socket.peer.ip());
        if clients.len() < TIMED_OUT_MAX || clients.contains_key(&client) {
            *clients.entry(client).or_default() += 1;
        }
    }

    pub(super) fn tick(&mut self, present: usize, now_ns: u64, alerts: &mut Alerts) {
        let second = now_ns / SECOND_NS;
        for (of, clients) in &self.timed_out {
            if second.saturating_sub(*of) < TIMED_OUT_S {
                for (client, number) in clients {
                    self.held.add(*client, *number, 1);
                }
            }
        }
        const DETECTOR: Detector = Detector::SlowRequest;
        for (holding, by) in [
            (&mut self.held, "by requests that do not get on"),
            (&mut self.silent, "by saying nothing"),
        ] {
            holding.look(DETECTOR, present, now_ns, alerts, |found, alerts| {
                let what = format!("{} connections held {by}", found.number);
                alerts.raise(found.signal(DETECTOR, what), now_ns);
            });
            holding.clear();
        }
        self.bodies.end();
    }
}
