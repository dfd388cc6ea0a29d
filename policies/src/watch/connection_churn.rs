//! Clients that open and close connections far more often than they call.
//!
//! **Idea.** Connections that the client ended without a call, less those that carried one, in spans of
//! [`SPAN_S`] seconds; how many of those are unusual of one client is learned ([`Usual`](super::usual)).
//!
//! **Constants.** A span of ten seconds: a load balancer that probes with a connection each second, from one
//! address, has ten; a browser that opened some in advance has six. Floods and scans have thousands.
//!
//! **When it is wrong.** A probe that connects ten times a second is told of until it has become a habit.
//! A scan of many ports has one connection here for each of the gateway's listeners: that is
//! [`listener_scan`](super::listener_scan)'s.
//! Connections that ended for lack of time are [`slow_request`](super::slow_request)'s.

use std::collections::HashMap;

use super::holding::Holding;
use super::source::Source;
use super::{ClosedSocket, Parting};
use crate::alert::Alerts;
use crate::detect::Detector;

const SPAN_S: u32 = 10;
const SPAN_NS: u64 = SPAN_S as u64 * 1_000_000_000;

/// The detector.
#[derive(Debug)]
pub(super) struct ConnectionChurn {
    discarded: Holding,
    /// Those of this span, less those that carried a call.
    span: u64,
    balance: HashMap<Source, i64>,
}

/// More clients are not told apart within a span.
const CLIENTS_IN_SPAN_MAX: usize = 65_536;

impl ConnectionChurn {
    pub(super) fn new(sources_max: usize) -> Self {
        Self {
            discarded: Holding::new(SPAN_S, 1.0, sources_max),
            span: 0,
            balance: HashMap::new(),
        }
    }

    pub(super) fn closed(&mut self, socket: &ClosedSocket, now_ns: u64) {
        let worth = match (socket.parting, socket.calls) {
            (Parting::ByClient, 0) => 1,
            (_, 1..) => -1,
            _ => return,
        };
        let span = now_ns / SPAN_NS;
        if span != self.span {
            self.span = span;
            self.balance.clear();
        }
        let client = Source::client(socket.peer.ip());
        if self.balance.len() < CLIENTS_IN_SPAN_MAX || self.balance.contains_key(&client) {
            *self.balance.entry(client).or_default() += worth;
        }
    }

    pub(super) fn tick(&mut self, present: usize, now_ns: u64, alerts: &mut Alerts) {
        if now_ns / SPAN_NS != self.span {
            self.span = now_ns / SPAN_NS;
            self.balance.clear();
        }
        for (client, balance) in &self.balance {
            let number = u32::try_from(*balance).unwrap_or(0);
            self.discarded.add(*client, number, 1);
        }
        const DETECTOR: Detector = Detector::ConnectionChurn;
        let discarded = &mut self.discarded;
        discarded.look(DETECTOR, present, now_ns, alerts, |found, alerts| {
            let what = format!(
                "{} connections opened and closed without a call within {SPAN_S} s",
                found.number
            );
            alerts.raise(found.signal(DETECTOR, what), now_ns);
        });
        discarded.clear();
    }
}
