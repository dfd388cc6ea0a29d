//! Networks that begin connections and never complete them: scans that only want to know what listens.
//!
//! **Idea.** A scanner sends a SYN, learns from the answer that somebody listens, and resets. Each handshake
//! of a network is thus an observation: completed or not. Their log likelihood ratios, of a network that
//! scans ([`ATTACK`]) against one that does not, add up ([`Evidence`]), and the tail is the bound that
//! this sum is worth. Packets that no TCP sends (FIN, null and Xmas scans) count as handshakes of a scanner.
//! How many are left incomplete usually is learned, never below [`USUAL_MIN`].
//!
//! **What counts as incomplete.** A reset before it was complete; and where none came, a handshake that a
//! second later still is not. A SYN that is repeated counts once, as the kernel knows the handshake by then.
//!
//! **By network, not by client.** Nobody has proved that the address is its own, so there is nobody to
//! deny: the alert names a /24, or a /48.
//!
//! **Habit.** Load balancers may probe with handshakes that they reset. A network whose handshakes have been
//! incomplete for long, at any rate, counts against its own share: it is told of for the better part of an
//! hour, once.
//!
//! **Constants.** A twentieth incomplete usually: clients that race two connections (RFC 8305) give one up,
//! and mobile ones vanish. Six incomplete handshakes and no complete one are then what alerts; with what is
//! learned from a service on the open internet five. What was gathered fades within [`MEMORY_S`].
//!
//! **When it is wrong.** A scan of few listeners that touches each of them once is not told from a client that
//! changed its mind; a slow one (less than one handshake in some minutes) fades as fast as it gathers. Under
//! SYN cookies handshakes that are never reset are not seen.

use std::hash::{BuildHasher as _, RandomState};

use calltap_correlate::socket::Handshakes;

use super::SourceCounts;
use super::source::Source;
use crate::alert::{Alerts, Signal};
use crate::detect::{Detector, Evidence, Share, Table, log_ratio};

/// Handshakes that a scanner leaves incomplete.
const ATTACK: f32 = 0.95;
const USUAL: f32 = 0.05;
const USUAL_MIN: f32 = 0.02;
const USUAL_MAX: f32 = 0.5;
const USUAL_WEIGHT: f32 = 200.0;
const MEMORY: f32 = 5_000.0;
const MEMORY_S: f32 = 600.0;
/// A habit takes so many handshakes, and at least as many minutes.
const HABIT_WEIGHT: f32 = 30.0;
const HABIT_MEMORY: f32 = 200.0;
/// Handshakes of one sweep that are told apart; more say nothing more.
const PER_SWEEP_MAX: f32 = 64.0;
const HALF_LIFE_S: u32 = 3600;

/// The detector.
#[derive(Debug)]
pub(super) struct HalfOpen {
    usual: Share,
    networks: Table<Network>,
    hasher: RandomState,
}

/// What is kept of one network.
#[derive(Clone, Copy, Debug)]
struct Network {
    seen: Handshakes,
    /// Handshakes that began before the last sweep, and are not complete.
    pending: u64,
    evidence: Evidence,
    habit: Share,
    habit_minute: u32,
    incomplete: u32,
    complete: u32,
    since_ns: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            seen: Handshakes::default(),
            pending: 0,
            evidence: Evidence::default(),
            habit: Share::new(0.0, HABIT_WEIGHT),
            habit_minute: 0,
            incomplete: 0,
            complete: 0,
            since_ns: 0,
        }
    }
}

impl HalfOpen {
    pub(super) fn new(sources_max: usize) -> Self {
        Self {
            usual: Share::new(USUAL, USUAL_WEIGHT),
            networks: Table::new(sources_max, HALF_LIFE_S),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn source(&mut self, source: &SourceCounts, alerts: &mut Alerts, now_ns: u64) {
        let SourceCounts {
            network: first,
            bits,
            handshakes,
        } = *source;
        let name = Source::Network(first, bits);
        let now_s = (now_ns / 1_000_000_000) as u32;
        let Some(network) = self.networks.get(self.hasher.hash_one(name), now_s) else {
            return;
        };
        let News {
            incomplete,
            complete,
        } = network.news(handshakes);
        if incomplete + complete == 0 {
            return;
        }
        let share = self.usual.get().clamp(USUAL_MIN, USUAL_MAX);
        let usual = share.max(network.habit.get()).min(ATTACK);
        let told_apart = (PER_SWEEP_MAX / (incomplete + complete) as f32).min(1.0);
        let ratio = incomplete as f32 * log_ratio(true, ATTACK, usual)
            + complete as f32 * log_ratio(false, ATTACK, usual);
        let tail = network.evidence.add(told_apart * ratio, now_s, MEMORY_S);
        if network.evidence.is_none() {
            network.since_ns = 0;
            (network.incomplete, network.complete) = (0, 0);
        } else if network.since_ns == 0 {
            network.since_ns = now_ns;
        }
        network.incomplete = network.incomplete.saturating_add(incomplete as u32);
        network.complete = network.complete.saturating_add(complete as u32);
        let is_unusual = alerts.weigh(Detector::HalfOpen, tail);
        network.learn(incomplete, complete, now_s);
        // Forged addresses never complete anything, and teach nothing.
        if !is_unusual && tail > 1e-3 && network.seen.established > 0 {
            self.usual.learn(incomplete > complete, MEMORY);
        }
        if is_unusual {
            let (incomplete, complete) = (network.incomplete, network.complete);
            let signal = Signal {
                detector: Detector::HalfOpen,
                subject: name.subject(),
                tail,
                observed: incomplete.into(),
                usual: f64::from(usual) * f64::from(incomplete + complete),
                summary: format!(
                    "{incomplete} connections begun and not completed, {complete} completed"
                ),
                since_ns: network.since_ns,
                source: None,
                call: None,
            };
            alerts.raise(signal, now_ns);
        }
    }
}

struct News {
    incomplete: u64,
    complete: u64,
}

impl Network {
    /// What is new since the last sweep.
    fn news(&mut self, handshakes: Handshakes) -> News {
        let Handshakes {
            begun,
            established,
            resets,
            stray,
        } = handshakes;
        // Fewer than before: the kernel had forgotten it.
        let is_anew = begun < self.seen.begun || established < self.seen.established;
        let before = if is_anew {
            Handshakes::default()
        } else {
            self.seen
        };
        self.seen = handshakes;
        let complete = established - before.established;
        let reset = resets.saturating_sub(before.resets);
        let stray = stray.saturating_sub(before.stray);
        if is_anew {
            self.pending = 0;
        }
        // What was pending a second ago, and has neither been completed nor reset since, is left so.
        let left = self.pending.saturating_sub(complete + reset);
        self.pending = (begun - before.begun + self.pending.min(complete + reset))
            .saturating_sub(complete + reset);
        News {
            incomplete: reset + left + stray,
            complete,
        }
    }

    fn learn(&mut self, incomplete: u64, complete: u64, now_s: u32) {
        // Once a minute, however many there are: a flood is no habit sooner than a trickle.
        if self.habit_minute != now_s / 60 {
            self.habit_minute = now_s / 60;
            self.habit.learn(incomplete > complete, HABIT_MEMORY);
        }
    }
}
