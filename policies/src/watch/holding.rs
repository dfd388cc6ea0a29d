//! How many of something each source has at a time, told from how many are usual: what the detectors of
//! held and of discarded connections share.
//!
//! A *span* is so many seconds; the most that a source had in it is what is learned ([`Usual`]). Within a
//! span every look at a source that has [`FEW`] or more is weighed. What lasts may count for more than one:
//! it is weights that are compared, and numbers that are told.
//!
//! **A network's clients.** The same is asked of the network that clients share, where at least
//! [`CLIENTS_MIN`] of them take part and none has most of it: an attack from many addresses of one network,
//! each with few connections.
//!
//! **Memory.** The numbers of a span are bounded by the connections there can be, and by
//! [`SOURCES_IN_SPAN_MAX`]; habits by a table that admits by frequency.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::source::Source;
use super::usual::Usual;
use crate::alert::{Alerts, Signal};
use crate::detect::{Detector, Table};

/// Fewer are nobody's business, and not looked at.
const FEW: u32 = 4;
/// So many a browser opens to a host.
const BROWSER: u32 = 6;
/// Fewer clients are no network.
const CLIENTS_MIN: u32 = 3;
/// How many clients' worth a network has.
const NETWORK_SCALE: f64 = 2.0;
/// More are not told apart within a span.
const SOURCES_IN_SPAN_MAX: usize = 65_536;
/// A habit counts half after so long, s.
const HABIT_HALF_LIFE_S: u32 = 24 * 3600;

/// What one source had within a span.
#[derive(Clone, Copy, Debug, Default)]
struct Had {
    /// By now.
    now: u32,
    /// What they weigh, by now and at most.
    weight: u32,
    most: u32,
    /// Of a network: its clients that have any now, and the most that one of them has.
    clients: u32,
    most_of_client: u32,
    /// When it began to have [`FEW`], ns.
    since_ns: u64,
}

/// Counts, and what is usual.
#[derive(Debug)]
pub(super) struct Holding {
    span_s: u32,
    span: u32,
    of_clients: Usual,
    of_networks: Usual,
    had: HashMap<Source, Had>,
    habits: Table<f32>,
    hasher: RandomState,
}

/// A source that has more than is usual.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unusual {
    pub(super) source: Source,
    /// How likely it is.
    pub(super) tail: f64,
    pub(super) number: u32,
    /// What they weigh, and what is usual.
    pub(super) weight: u32,
    pub(super) usual: f64,
    /// Of a network: clients that take part.
    pub(super) clients: u32,
    pub(super) since_ns: u64,
}

impl Holding {
    /// `scale` times as many are usual as of connections that are held; `sources_max` habits are kept.
    pub(super) fn new(span_s: u32, scale: f64, sources_max: usize) -> Self {
        Self {
            span_s,
            span: 0,
            of_clients: Usual::new(scale),
            of_networks: Usual::new(scale * NETWORK_SCALE),
            had: HashMap::new(),
            habits: Table::new(sources_max, HABIT_HALF_LIFE_S),
            hasher: RandomState::new(),
        }
    }

    /// Nobody has any for now: they are about to be counted anew.
    pub(super) fn clear(&mut self) {
        for had in self.had.values_mut() {
            had.now = 0;
            had.weight = 0;
        }
    }

    /// A client has so many more, which weigh so much each.
    pub(super) fn add(&mut self, client: Source, number: u32, weight: u32) {
        if number == 0 || (self.had.len() >= SOURCES_IN_SPAN_MAX && !self.had.contains_key(&client))
        {
            return;
        }
        let had = self.had.entry(client).or_default();
        had.now += number;
        had.weight += number * weight;
    }

    /// The look is over: tells who has more than is usual. `present` is how many clients there are at all.
    pub(super) fn look(
        &mut self,
        detector: Detector,
        present: usize,
        now_ns: u64,
        alerts: &mut Alerts,
        mut unusual: impl FnMut(Unusual, &mut Alerts),
    ) {
        let now_s = (now_ns / 1_000_000_000) as u32;
        self.add_networks();
        for (source, had) in &mut self.had {
            had.most = had.most.max(had.weight);
            if had.now < FEW {
                had.since_ns = 0;
                continue;
            }
            if had.since_ns == 0 {
                had.since_ns = now_ns;
            }
            let usual = match source {
                Source::Client(_) => &self.of_clients,
                Source::Network(..) if had.clients < CLIENTS_MIN => continue,
                Source::Network(..) if 2 * had.most_of_client > had.now => continue,
                Source::Network(..) => &self.of_networks,
            };
            let key = self.hasher.hash_one(source);
            let habit = self.habits.get(key, now_s).map_or(0.0, |habit| *habit);
            // A browser's connections to one host, all stalled, are one misfortune.
            let number = match had.now > BROWSER {
                true => had.weight,
                false => had.now,
            };
            let tail = usual.tail(number.into(), habit);
            if alerts.weigh(detector, tail) {
                let found = Unusual {
                    source: *source,
                    tail,
                    number: had.now,
                    weight: number,
                    usual: usual.mean().max(habit.into()),
                    clients: had.clients,
                    since_ns: had.since_ns,
                };
                unusual(found, alerts);
            }
        }
        let span = now_s / self.span_s;
        if span != self.span {
            self.span = span;
            self.learn(detector, present, now_s, alerts);
        }
    }

    fn add_networks(&mut self) {
        let mut networks: HashMap<Source, Had> = HashMap::new();
        for (source, had) in &self.had {
            if let Source::Client(address) = source
                && had.now > 0
            {
                let network = networks.entry(Source::network(*address)).or_default();
                network.now += had.now;
                network.weight += had.weight;
                network.clients += 1;
                network.most_of_client = network.most_of_client.max(had.now);
            }
        }
        for (network, counted) in networks {
            let had = self.had.entry(network).or_default();
            had.now = counted.now;
            had.weight = counted.weight;
            had.clients = counted.clients;
            had.most_of_client = counted.most_of_client;
        }
    }

    /// The span is over.
    fn learn(&mut self, detector: Detector, present: usize, now_s: u32, alerts: &Alerts) {
        let Self {
            of_clients,
            of_networks,
            had,
            habits,
            hasher,
            ..
        } = self;
        let present = present.max(had.len());
        of_clients.span(present);
        of_networks.span(present);
        for (source, had) in had.iter() {
            if alerts.is_open(detector, &source.subject()) {
                continue;
            }
            let usual = match source {
                Source::Client(_) => &mut *of_clients,
                Source::Network(..) => &mut *of_networks,
            };
            // Without a place it has no habit, but counts among all.
            let mut homeless = 0.0;
            let habit = habits.get(hasher.hash_one(source), now_s);
            usual.learn(had.most.into(), habit.unwrap_or(&mut homeless));
        }
        had.retain(|_, had| {
            had.most = had.weight;
            had.now > 0
        });
    }
}

impl Unusual {
    /// The signal of it. `what` says of whom it is and what they do: "200 connections held open ...".
    pub(super) fn signal(self, detector: Detector, what: String) -> Signal<'static> {
        let mut summary = what;
        if let Source::Network(..) = self.source {
            summary += &format!(", from {} addresses", self.clients);
        }
        if self.weight > self.number {
            summary += &format!(", some for long, which counts as {}", self.weight);
        }
        summary += &format!("; {:.0} are usual", self.usual);
        Signal {
            detector,
            subject: self.source.subject(),
            tail: self.tail,
            observed: self.weight.into(),
            usual: self.usual,
            summary,
            since_ns: self.since_ns,
            source: self.source.client_alone(),
            call: None,
        }
    }
}
