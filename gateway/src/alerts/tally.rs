//! What became of what was sent to one destination.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts for one destination, and how it is doing.
#[derive(Debug)]
pub(crate) struct Tally {
    name: String,
    counts: [AtomicU64; Outcome::ALL.len()],
    waiting: AtomicU64,
    waiting_bytes: AtomicU64,
    failing: Mutex<Option<String>>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The destination took it.
    Delivered,
    /// It was not taken, and is tried again.
    Retried,
    /// The destination will never take it.
    Refused,
    /// It could not be kept until it was taken.
    Dropped,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::Delivered, Self::Retried, Self::Refused, Self::Dropped];

    /// In metrics and status.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            counts: Default::default(),
            waiting: AtomicU64::new(0),
            waiting_bytes: AtomicU64::new(0),
            failing: Mutex::default(),
        }
    }

    /// What the destination is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many messages fared so; `Retried` counts tries.
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize].load(Ordering::Relaxed)
    }

    /// Messages that wait on disk, and their bytes there.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let (messages, bytes) = (&self.waiting, &self.waiting_bytes);
        (
            messages.load(Ordering::Relaxed),
            bytes.load(Ordering::Relaxed),
        )
    }

    /// Why the last try failed, while none succeeded since.
    pub(crate) fn failing(&self) -> Option<String> {
        self.why().clone()
    }

    pub(super) fn add(&self, outcome: Outcome, n: u64) {
        self.counts[outcome as usize].fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn set_waiting(&self, messages: u64, bytes: u64) {
        self.waiting.store(messages, Ordering::Relaxed);
        self.waiting_bytes.store(bytes, Ordering::Relaxed);
    }

    /// It takes messages. Says so when it did not before.
    pub(super) fn works(&self) {
        if self.why().take().is_some() {
            tracing::info!("alerts reach {} again", self.name);
        }
    }

    /// It does not take messages. Says so when the reason is new.
    pub(super) fn fails(&self, why: String) {
        let mut known = self.why();
        if known.as_ref() != Some(&why) {
            tracing::warn!("alerts do not reach {}: {why}", self.name);
            *known = Some(why);
        }
    }

    fn why(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
