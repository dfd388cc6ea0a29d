//! Alerts: what the detectors say, gathered into few things that a person can act on.
//!
//! A detector weighs what it saw and says how likely so much would be in usual traffic, a *tail*.
//! [`Alerts::weigh`] holds it against the detector's threshold; what is beyond is a [`Signal`], and
//! [`Alerts::raise`] opens an alert with it or adds it to the one that its subject has already. One budget
//! decides every threshold ([`budget`]): so many false alerts a day over all detectors together.
//!
//! Delivers nothing: [`Alerts::take`] hands out what changed.

mod blame;
pub mod budget;
mod json;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use calltap_correlate::record::CallRecord;
use uuid::Uuid;

pub use blame::{Blame, Spent};
use budget::Budget;

use crate::detect::{DETECTORS, Detector};

/// Calls that an alert names as examples.
pub const EXAMPLES_MAX: usize = 5;

/// Whom or what an alert is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// All traffic, or more sources than could be listed.
    Everyone,
    /// One route of one API, by its template; calls without one share a name.
    Route(Arc<str>),
    /// A client by its address; an IPv6 client by its /64.
    Client(IpAddr),
    /// A consumer by its client id.
    Consumer(Arc<str>),
    /// A listener of the gateway.
    Listener(SocketAddr),
    /// Source addresses that share a prefix.
    Network(IpAddr, u8),
}

impl Subject {
    /// The client with this address, a /64 where it is IPv6.
    pub fn client(address: IpAddr) -> Self {
        Self::Client(client_of(address))
    }

    /// `everyone`, `route`, `client`, `consumer`, `listener`, `network`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Route(_) => "route",
            Self::Client(_) => "client",
            Self::Consumer(_) => "consumer",
            Self::Listener(_) => "listener",
            Self::Network(..) => "network",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::Route(name) | Self::Consumer(name) => f.write_str(name),
            Self::Client(address @ IpAddr::V4(_)) => address.fmt(f),
            Self::Client(address) => write!(f, "{address}/64"),
            Self::Listener(address) => address.fmt(f),
            Self::Network(address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

/// An address as clients are told apart: IPv4 as it is, mapped or not, IPv6 by the first 64 bits, which
/// one subscriber has to itself.
pub fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

/// How bad it is if it is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth looking at.
    Warning,
    /// Worth waking somebody.
    Critical,
}

impl Severity {
    /// In lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Something unusual that a detector saw, beyond its threshold.
#[derive(Debug)]
pub struct Signal<'s> {
    /// Who saw it.
    pub detector: Detector,
    /// Whom or what it is about.
    pub subject: Subject,
    /// How likely so much is in usual traffic, 0 to 1.
    pub tail: f64,
    /// What was measured...
    pub observed: f64,
    /// ...and what is usual.
    pub usual: f64,
    /// What happened, in a sentence with its numbers; no full stop.
    pub summary: String,
    /// Since when, ns.
    pub since_ns: u64,
    /// The client to deny, should policy say so: one that completed a handshake.
    pub source: Option<IpAddr>,
    /// A call that shows it.
    pub call: Option<&'s CallRecord>,
}

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It goes on.
    Open,
    /// Nothing was seen of it for a time.
    Resolved,
}

impl State {
    /// In lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
        }
    }
}

/// Something unusual that goes on, or went on.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Names it, from its opening until it is forgotten (UUIDv8).
    pub id: Uuid,
    /// Who saw it.
    pub detector: Detector,
    /// Whom or what it is about.
    pub subject: Subject,
    /// Whether it goes on.
    pub state: State,
    /// How bad it is.
    pub severity: Severity,
    /// What happened, in a sentence with its numbers.
    pub summary: String,
    /// Since when it is unusual, ns.
    pub since_ns: u64,
    /// When the alert was opened, ns.
    pub opened_ns: u64,
    /// When it was last seen, ns.
    pub seen_ns: u64,
    /// When it was resolved, ns.
    pub resolved_ns: Option<u64>,
    /// The least likely of what was seen: how likely so much is in usual traffic, 0 to 1.
    pub tail: f64,
    /// What was measured then...
    pub observed: f64,
    /// ...and what is usual.
    pub usual: f64,
    /// How often it was seen.
    pub signals: u64,
    /// Calls that show it, the first that came.
    pub examples: Vec<Uuid>,
    /// Where the time of the calls that show it went, and who is to blame.
    pub spent: Spent,
    /// The client to deny, should policy say so.
    pub source: Option<IpAddr>,
}

/// What became of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Opened,
    /// It goes on.
    Updated,
    /// It is over.
    Resolved,
}

impl Change {
    /// In lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Resolved => "resolved",
        }
    }
}

/// How alerts are opened, told of and closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// False alerts to expect on a day of usual traffic, over all detectors.
    pub false_per_day: f64,
    /// An alert of which nothing was seen for this long is resolved, ns.
    pub quiet_ns: u64,
    /// What comes back within this time after that is the same alert again, ns.
    pub refractory_ns: u64,
    /// An open alert is told of again after this time, if it was seen since, ns.
    pub update_ns: u64,
    /// Alerts kept at a time, at least one a detector.
    pub alerts_max: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            false_per_day: 1.0,
            quiet_ns: 60_000_000_000,
            refractory_ns: 600_000_000_000,
            update_ns: 60_000_000_000,
            alerts_max: 1024,
        }
    }
}

/// Every alert that is open, or was a short time ago.
#[derive(Debug)]
pub struct Alerts {
    terms: Terms,
    budget: Budget,
    kept: HashMap<(Detector, Subject), Kept>,
    open_of: [usize; DETECTORS.len()],
    changed: Vec<(Change, (Detector, Subject))>,
    /// Ids are this and a count.
    seed: u64,
    opened: u64,
    muted: [bool; DETECTORS.len()],
    swept_ns: u64,
    /// Until then nobody looks for a place to make.
    full_until_ns: u64,
}

#[derive(Debug)]
struct Kept {
    alert: Alert,
    told_ns: u64,
}

/// How often open alerts are looked through.
const SWEEP_NS: u64 = 1_000_000_000;

impl Alerts {
    /// None yet. `seed` is random: it tells the ids of one process from another's. `muted` detectors
    /// open none.
    pub fn new(terms: Terms, seed: u64, muted: &[Detector]) -> Self {
        Self {
            terms,
            budget: Budget::new(terms.false_per_day),
            kept: HashMap::new(),
            open_of: [0; DETECTORS.len()],
            changed: Vec::new(),
            seed,
            opened: 0,
            muted: DETECTORS
                .each_ref()
                .map(|info| muted.contains(&info.detector)),
            swept_ns: 0,
            full_until_ns: 0,
        }
    }

    /// Weighs what a detector saw: whether it is beyond the detector's threshold. Counts towards that
    /// threshold, so every look at what could have been unusual is to be weighed, once.
    #[inline]
    pub fn weigh(&mut self, detector: Detector, tail: f64) -> bool {
        self.budget.weigh(detector, tail) && !self.muted[detector as usize]
    }

    /// Opens an alert, or adds to the one that there is.
    pub fn raise(&mut self, signal: Signal<'_>, now_ns: u64) {
        let detector = signal.detector;
        let of_detector = self.terms.alerts_max / DETECTORS.len();
        let mut key = (detector, signal.subject.clone());
        if !self.kept.contains_key(&key)
            && self.open_of[detector as usize] >= of_detector.max(1)
            && !self.forget_resolved(detector, now_ns)
        {
            // Many at once are one event. It has a place of its own beside those of the detector.
            key.1 = Subject::Everyone;
        }
        let Some(kept) = self.kept.get_mut(&key) else {
            self.open(key, signal, now_ns);
            return;
        };
        let Kept { alert, told_ns } = kept;
        alert.add(signal, now_ns);
        let change = if alert.state == State::Resolved {
            alert.state = State::Open;
            alert.resolved_ns = None;
            Change::Opened
        } else if now_ns.saturating_sub(*told_ns) >= self.terms.update_ns {
            Change::Updated
        } else {
            return;
        };
        *told_ns = now_ns;
        self.changed.push((change, key));
    }

    /// Makes room for one more of a detector's: what has been quiet for longest and is resolved goes, so
    /// that decoys do not take the places of those that come after them.
    fn forget_resolved(&mut self, detector: Detector, now_ns: u64) -> bool {
        if now_ns < self.full_until_ns {
            return false;
        }
        let resolved = self.kept.iter().filter(|((of, subject), kept)| {
            *of == detector
                && *subject != Subject::Everyone
                && kept.alert.state == State::Resolved
                && self
                    .changed
                    .iter()
                    .all(|(_, changed)| (changed.0, &changed.1) != (*of, subject))
        });
        let oldest = resolved.min_by_key(|(_, kept)| kept.alert.seen_ns);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else {
            // A storm does not look each time.
            self.full_until_ns = now_ns + SWEEP_NS;
            return false;
        };
        self.kept.remove(&key);
        self.open_of[detector as usize] -= 1;
        true
    }

    fn open(&mut self, key: (Detector, Subject), signal: Signal<'_>, now_ns: u64) {
        self.opened += 1;
        let mut alert = Alert {
            id: Uuid::new_v8((u128::from(self.seed) << 64 | u128::from(self.opened)).to_be_bytes()),
            detector: signal.detector,
            subject: key.1.clone(),
            state: State::Open,
            severity: signal.detector.info().severity,
            summary: String::new(),
            since_ns: signal.since_ns.min(now_ns),
            opened_ns: now_ns,
            seen_ns: now_ns,
            resolved_ns: None,
            tail: f64::INFINITY,
            observed: 0.0,
            usual: 0.0,
            signals: 0,
            examples: Vec::new(),
            spent: Spent::default(),
            source: None,
        };
        alert.add(signal, now_ns);
        self.open_of[key.0 as usize] += 1;
        self.kept.insert(
            key.clone(),
            Kept {
                alert,
                told_ns: now_ns,
            },
        );
        self.changed.push((Change::Opened, key));
    }

    /// Resolves what has been quiet, forgets what was resolved long ago and recomputes thresholds.
    pub fn tick(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_ns) < SWEEP_NS {
            return;
        }
        self.swept_ns = now_ns;
        self.budget.tick(now_ns);
        let Self {
            terms,
            kept,
            open_of,
            changed,
            ..
        } = self;
        kept.retain(|key, Kept { alert, told_ns }| {
            let quiet_ns = now_ns.saturating_sub(alert.seen_ns);
            match alert.state {
                State::Open if quiet_ns >= terms.quiet_ns => {
                    alert.state = State::Resolved;
                    alert.resolved_ns = Some(now_ns);
                    *told_ns = now_ns;
                    changed.push((Change::Resolved, key.clone()));
                }
                // Seen again since it was told of, and then no more.
                State::Open
                    if alert.seen_ns > *told_ns
                        && now_ns.saturating_sub(*told_ns) >= terms.update_ns =>
                {
                    *told_ns = now_ns;
                    changed.push((Change::Updated, key.clone()));
                }
                State::Open => {}
                State::Resolved => {
                    let keep = quiet_ns < terms.quiet_ns + terms.refractory_ns;
                    if !keep {
                        open_of[key.0 as usize] -= 1;
                    }
                    return keep;
                }
            }
            true
        });
    }

    /// Hands out what changed since it was last called, in order.
    pub fn take(&mut self, mut tell: impl FnMut(Change, &Alert)) {
        for (change, key) in self.changed.drain(..) {
            if let Some(kept) = self.kept.get(&key) {
                tell(change, &kept.alert);
            }
        }
    }

    /// Every alert that is kept, open or resolved a short time ago.
    pub fn iter(&self) -> impl Iterator<Item = &Alert> {
        self.kept.values().map(|kept| &kept.alert)
    }

    /// Whether this subject has an open alert of this detector, so that what it does now is not to be
    /// learned from.
    pub fn is_open(&self, detector: Detector, subject: &Subject) -> bool {
        self.kept
            .get(&(detector, subject.clone()))
            .is_some_and(|kept| kept.alert.state == State::Open)
    }
}

impl Alert {
    fn add(&mut self, signal: Signal<'_>, now_ns: u64) {
        let Signal {
            detector: _,
            subject: _,
            tail,
            observed,
            usual,
            summary,
            since_ns,
            source,
            call,
        } = signal;
        self.signals += 1;
        self.seen_ns = now_ns;
        self.since_ns = self.since_ns.min(since_ns);
        if tail <= self.tail {
            self.tail = tail;
            self.observed = observed;
            self.usual = usual;
            self.summary = summary;
        }
        // Many sources are not one that could be denied.
        if self.subject != Subject::Everyone {
            self.source = self.source.or(source.map(client_of));
        }
        if let Some(call) = call {
            self.spent.add(call);
            if self.examples.len() < EXAMPLES_MAX && !self.examples.contains(&call.uid) {
                self.examples.push(call.uid);
            }
        }
    }

    /// How unusual it is: the negative decimal logarithm of the tail, 0 to 300.
    pub fn score(&self) -> f64 {
        -self.tail.clamp(1e-300, 1.0).log10()
    }

    /// Whether the network or the application is to blame.
    pub fn blame(&self) -> Blame {
        self.detector.info().blame.unwrap_or(self.spent.blame())
    }
}

#[cfg(test)]
mod tests;
