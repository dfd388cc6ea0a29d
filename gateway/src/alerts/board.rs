//! What alerts there are, as the pipeline told it last. Everybody who tells of alerts reads it here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calltap_correlate::join::WallClock;
use calltap_policies::alert::{Alert, Change, State};
use calltap_policies::detect::{DETECTORS, Detector};
use uuid::Uuid;

use crate::admin::Recent;

/// Resolved alerts that are remembered; those that are open all are, and the policies bound them.
pub(crate) const RESOLVED_MAX: usize = 1_000;
/// Changes that a reader of the stream may fall behind.
pub(crate) const CHANGES_MAX: usize = 1_000;

/// A change of an alert, and the alert as it was then.
#[derive(Debug)]
pub(crate) struct Told {
    /// Counts changes, from 0.
    pub(crate) number: u64,
    /// What became of it.
    pub(crate) change: Change,
    /// The alert.
    pub(crate) alert: Alert,
    /// The alert as JSON, on one line.
    pub(crate) json: String,
    /// Turns its times into wall time.
    pub(crate) clock: WallClock,
}

/// What alerts there are.
#[derive(Debug)]
pub(crate) struct Board {
    kept: Mutex<Kept>,
    changes: Arc<Recent<Told>>,
    opened: [AtomicU64; DETECTORS.len()],
    untold: AtomicU64,
    denied: AtomicU64,
    spared: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    /// Of each alert its last change, by number.
    last: BTreeMap<u64, Arc<Told>>,
    numbers: HashMap<Uuid, u64>,
    /// Those of `last` that are resolved.
    resolved: BTreeSet<u64>,
    next: u64,
}

impl Board {
    /// None yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            kept: Mutex::default(),
            changes: Recent::new(CHANGES_MAX),
            opened: [const { AtomicU64::new(0) }; DETECTORS.len()],
            untold: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            spared: AtomicU64::new(0),
        })
    }

    /// Notes a change. For one thread.
    pub(super) fn note(&self, change: Change, alert: &Alert, clock: WallClock) -> Arc<Told> {
        if change == Change::Opened {
            self.opened[alert.detector as usize].fetch_add(1, Ordering::Relaxed);
        }
        let json = alert.to_json(clock);
        let alert = alert.clone();
        let told = {
            let mut kept = self.lock();
            let number = kept.next;
            let told = Arc::new(Told {
                number,
                change,
                alert,
                json,
                clock,
            });
            kept.note(Arc::clone(&told));
            told
        };
        self.changes.push(&mut vec![Arc::clone(&told)]);
        told
    }

    /// A change was not told to anybody, because the queue was full.
    pub(super) fn count_untold(&self) {
        self.untold.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes that were told to nobody.
    pub(crate) fn untold(&self) -> u64 {
        self.untold.load(Ordering::Relaxed)
    }

    /// A source was denied, or was to be and may not be.
    pub(super) fn count_denial(&self, denied: bool) {
        let count = if denied { &self.denied } else { &self.spared };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a source was denied, and how often it was to be and may not be, by name.
    pub(crate) fn denials(&self) -> [(&'static str, u64); 2] {
        [("denied", &self.denied), ("spared", &self.spared)]
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    /// How often a detector opened an alert.
    pub(crate) fn opened(&self, detector: Detector) -> u64 {
        self.opened[detector as usize].load(Ordering::Relaxed)
    }

    /// The last changes, in order.
    pub(crate) fn changes(&self) -> &Arc<Recent<Told>> {
        &self.changes
    }

    /// One alert, as it was at its last change.
    pub(crate) fn find(&self, id: Uuid) -> Option<Arc<Told>> {
        let kept = self.lock();
        let number = kept.numbers.get(&id)?;
        kept.last.get(number).cloned()
    }

    /// Every alert, the one that changed last first.
    pub(crate) fn all(&self) -> Vec<Arc<Told>> {
        self.lock().last.values().rev().cloned().collect()
    }

    /// Those that are open, if `open`, and those that changed since that number of changes; and the
    /// number of changes there were.
    pub(super) fn since(&self, number: u64, open: bool) -> (Vec<Arc<Told>>, u64) {
        let kept = self.lock();
        let mut those: Vec<_> = kept
            .last
            .range(number..)
            .map(|(_, told)| Arc::clone(told))
            .collect();
        if open {
            let before = kept.last.range(..number).map(|(_, told)| told);
            those.extend(before.filter(|told| told.is_open()).cloned());
        }
        (those, kept.next)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing that holds it can panic half-way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn note(&mut self, told: Arc<Told>) {
        self.next = told.number + 1;
        if let Some(before) = self.numbers.insert(told.alert.id, told.number) {
            self.last.remove(&before);
            self.resolved.remove(&before);
        }
        if !told.is_open() {
            self.resolved.insert(told.number);
        }
        self.last.insert(told.number, told);
        if self.resolved.len() > RESOLVED_MAX
            && let Some(oldest) = self.resolved.pop_first()
            && let Some(told) = self.last.remove(&oldest)
        {
            self.numbers.remove(&told.alert.id);
        }
    }
}

impl Told {
    /// Whether it goes on.
    pub(crate) fn is_open(&self) -> bool {
        self.alert.state == State::Open
    }
}
