//! Listeners that get far more SYNs than connections: floods, mostly from forged addresses.
//!
//! **Idea.** Over [`WINDOW_S`] seconds, so that what is under way does not count, a listener has some SYNs
//! more than connections: lost packets, repeats, clients that changed their mind. Usually they are a share of
//! its connections, and of a few that are anybody's ([`ANYBODYS`]); the share is learned. What exceeds that is
//! judged by an Erlang distribution of two stages with the mean that is usual, `P(X ≥ x) =
//! (1 + 2x/m)·e^(-2x/m)`: a Poisson number whose rate itself varies by a factor of two or so.
//!
//! **Not a flood.** When the queue of connections to be accepted is full the kernel drops SYNs of the best
//! clients, and they repeat them. Where as many found it full as were missed, and no SYN cookie was sent,
//! the gateway is too slow, and that is not weighed. Nor is a peak: connections grow with it, and what is
//! usual with them.
//!
//! **Robust.** A window is learned as no more than [`LIMIT_MEANS`] times what is usual, and not at all when
//! it was unlikely.
//!
//! **Constants.** Twenty in five seconds are anybody's while nothing is known, less when it is. A flood of
//! forty a second is then told of within a window, one of a thousand within a second. SYNs cannot be told
//! from their repeats, and a kernel repeats one four times within some seconds.
//!
//! **When it is wrong.** A network that loses every SYN-ACK looks like a flood: neither brings connections.
//! Of a flood that is denied in the kernel nothing is seen here.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::{ListenerCounts, Pressure};
use crate::alert::{Alerts, Signal, Subject};
use crate::detect::Detector;

const WINDOW_S: usize = 5;
/// Connections' worth that is anybody's.
const ANYBODYS: f64 = 200.0;
/// Of those so many are not completed, before anything is known.
const SHARE: f64 = 0.1;
const SHARE_MIN: f64 = 0.03;
const SHARE_MAX: f64 = 1.0;
const LIMIT_MEANS: f64 = 3.0;
const STEP: f64 = 0.01;
const UNLIKELY: f64 = 1e-3;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct SynFlood {
    listeners: HashMap<SocketAddr, Listener>,
    before: Option<Pressure>,
    pressure: VecDeque<Pressure>,
}

#[derive(Debug)]
struct Listener {
    syns: u64,
    established: u64,
    /// SYNs and connections of the last seconds, newest last.
    seconds: VecDeque<(u64, u64)>,
    share: f64,
    since_ns: u64,
}

impl SynFlood {
    pub(super) fn look(
        &mut self,
        listeners: &[ListenerCounts],
        pressure: Option<Pressure>,
        alerts: &mut Alerts,
        now_ns: u64,
    ) {
        let pressure = pressure.unwrap_or_default();
        let before = self.before.replace(pressure).unwrap_or(pressure);
        push(
            &mut self.pressure,
            Pressure {
                cookies_sent: pressure.cookies_sent.saturating_sub(before.cookies_sent),
                overflows: pressure.overflows.saturating_sub(before.overflows),
            },
        );
        let overflows: u64 = self.pressure.iter().map(|second| second.overflows).sum();
        let cookies: u64 = self.pressure.iter().map(|second| second.cookies_sent).sum();
        for counts in listeners {
            let ListenerCounts {
                address,
                syns,
                handshakes,
            } = *counts;
            let listener = self.listeners.entry(address).or_insert_with(|| Listener {
                syns,
                established: handshakes.established,
                seconds: VecDeque::new(),
                share: SHARE,
                since_ns: 0,
            });
            listener.add(syns, handshakes.established);
            let missed = listener.missed();
            let is_our_fault = cookies == 0 && overflows * 2 >= missed.max(1);
            if is_our_fault {
                continue;
            }
            listener.weigh(address, missed, cookies, alerts, now_ns);
        }
    }
}

impl Listener {
    fn add(&mut self, syns: u64, established: u64) {
        let second = (
            syns.saturating_sub(self.syns),
            established.saturating_sub(self.established),
        );
        (self.syns, self.established) = (syns, established);
        push(&mut self.seconds, second);
    }

    fn connected(&self) -> u64 {
        self.seconds
            .iter()
            .map(|(_, established)| established)
            .sum()
    }

    /// SYNs that brought no connection.
    fn missed(&self) -> u64 {
        let syns: u64 = self.seconds.iter().map(|(syns, _)| syns).sum();
        syns.saturating_sub(self.connected())
    }

    fn weigh(
        &mut self,
        address: SocketAddr,
        missed: u64,
        cookies: u64,
        alerts: &mut Alerts,
        now_ns: u64,
    ) {
        let connected = self.connected();
        let worth = connected as f64 + ANYBODYS;
        let usual = self.share * worth;
        let scaled = 2.0 * missed as f64 / usual;
        let tail = (1.0 + scaled) * (-scaled).exp();
        if alerts.weigh(Detector::SynFlood, tail) {
            if self.since_ns == 0 {
                self.since_ns = now_ns;
            }
            let mut summary = format!(
                "{missed} SYNs that brought no connection within {WINDOW_S} s, beside {connected} that did"
            );
            if cookies > 0 {
                summary += &format!("; the kernel answered {cookies} SYNs with cookies");
            }
            let signal = Signal {
                detector: Detector::SynFlood,
                subject: Subject::Listener(address),
                tail,
                observed: missed as f64,
                usual,
                summary,
                since_ns: self.since_ns,
                source: None,
                call: None,
            };
            alerts.raise(signal, now_ns);
        } else {
            self.since_ns = 0;
        }
        if tail > UNLIKELY {
            let share = (missed as f64).min(LIMIT_MEANS * usual) / worth;
            self.share += (share - self.share) * STEP;
            self.share = self.share.clamp(SHARE_MIN, SHARE_MAX);
        }
    }
}

fn push<T>(seconds: &mut VecDeque<T>, second: T) {
    if seconds.len() == WINDOW_S {
        seconds.pop_front();
    }
    seconds.push_back(second);
}
