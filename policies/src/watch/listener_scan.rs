//! Clients that connect to one listener after the other and call none: a scan that completes its handshakes.
//!
//! **Idea.** A client's first connection to each listener is an observation: it carried a call, or the client
//! closed it without one. The log likelihood ratios of a scanner ([`ATTACK`]) against a client add up
//! ([`Evidence`]), as J. Jung et al. have it (*Fast Portscan Detection Using Sequential Hypothesis Testing*,
//! 2004). How often a first connection stays empty is learned, never below [`USUAL_MIN`].
//!
//! **Habit.** A listener counts once for each client that comes back within a day, so a load balancer that
//! probes all listeners with a connection is told of once.
//!
//! **Constants.** Of first connections a tenth is empty before anything is known, so that seven listeners are
//! enough; later four.
//!
//! **When it is wrong.** Where there are but few listeners there is no scan to see. What begins handshakes and
//! does not complete them is [`half_open`](super::half_open)'s, and many connections to one listener are
//! [`connection_churn`](super::connection_churn)'s.

use std::hash::{BuildHasher as _, RandomState};

use super::source::Source;
use super::{ClosedSocket, Parting};
use crate::alert::{Alerts, Signal};
use crate::detect::{Detector, Evidence, Share, Table, log_ratio};

const ATTACK: f32 = 0.95;
const USUAL: f32 = 0.1;
const USUAL_MIN: f32 = 0.02;
const USUAL_MAX: f32 = 0.5;
const USUAL_WEIGHT: f32 = 50.0;
const MEMORY: f32 = 5_000.0;
const MEMORY_S: f32 = 600.0;
/// Whose evidence is this unlikely is not learned from.
const LEARN_ABOVE: f64 = 0.01;
/// A day.
const HALF_LIFE_S: u32 = 24 * 3600;
/// Connections that ended between two sweeps, and have been told apart; more wait for nothing.
const ENDED_MAX: usize = 65_536;

/// The detector.
#[derive(Debug)]
pub(super) struct ListenerScan {
    usual: Share,
    clients: Table<Client>,
    hasher: RandomState,
    ended: Vec<ClosedSocket>,
}

/// What is kept of one client.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    /// Listeners it has been to, a bit each by hash.
    listeners: u64,
    evidence: Evidence,
    empty: u32,
    since_ns: u64,
    seen_s: u32,
}

impl ListenerScan {
    pub(super) fn new(sources_max: usize) -> Self {
        Self {
            usual: Share::new(USUAL, USUAL_WEIGHT),
            clients: Table::new(sources_max, HALF_LIFE_S),
            hasher: RandomState::new(),
            ended: Vec::new(),
        }
    }

    pub(super) fn closed(&mut self, socket: &ClosedSocket) {
        let says_something = socket.calls > 0 || socket.parting == Parting::ByClient;
        if says_something && self.ended.len() < ENDED_MAX {
            self.ended.push(*socket);
        }
    }

    pub(super) fn tick(&mut self, now_ns: u64, alerts: &mut Alerts) {
        let Self {
            usual,
            clients,
            hasher,
            ended,
        } = self;
        let now_s = (now_ns / 1_000_000_000) as u32;
        for socket in ended.drain(..) {
            let source = Source::client(socket.peer.ip());
            let Some(client) = clients.get(hasher.hash_one(source), now_s) else {
                continue;
            };
            if now_s >= client.seen_s + HALF_LIFE_S {
                client.listeners = 0;
            }
            client.seen_s = now_s;
            let listener = 1 << (hasher.hash_one(socket.listener) >> 58);
            if client.listeners & listener != 0 {
                continue;
            }
            client.listeners |= listener;
            if client.evidence.is_none() {
                client.empty = 0;
                client.since_ns = now_ns;
            }
            let is_empty = socket.calls == 0;
            let share = usual.get().clamp(USUAL_MIN, USUAL_MAX);
            let ratio = log_ratio(is_empty, ATTACK, share);
            let tail = client.evidence.add(ratio, now_s, MEMORY_S);
            if tail > LEARN_ABOVE {
                usual.learn(is_empty, MEMORY);
            }
            if !is_empty {
                continue;
            }
            client.empty += 1;
            if alerts.weigh(Detector::ListenerScan, tail) {
                let signal = Signal {
                    detector: Detector::ListenerScan,
                    subject: source.subject(),
                    tail,
                    observed: client.empty.into(),
                    usual: f64::from(share),
                    summary: format!(
                        "connections to {} listeners, opened and closed without a call on any",
                        client.empty
                    ),
                    since_ns: client.since_ns,
                    source: source.client_alone(),
                    call: None,
                };
                alerts.raise(signal, now_ns);
            }
        }
    }
}
