//! How many calls a key may have open at a time.
//!
//! A key takes memory only while it has a call open, so there are never more keys than open calls,
//! whatever clients send.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keys are spread over so many locks.
const SHARDS: usize = 16;

/// Counts open calls by key.
#[derive(Debug)]
pub struct Gate {
    open_max: u32,
    open: Arc<Open>,
}

#[derive(Debug, Default)]
struct Open {
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, u32>>; SHARDS],
}

/// A call's place among those of its key; given back when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that the call is over"]
pub struct Place {
    open: Arc<Open>,
    key: u64,
}

impl Gate {
    /// Lets each key have so many calls open.
    pub fn new(open_max: u32) -> Self {
        Self {
            open_max,
            open: Arc::default(),
        }
    }

    /// Counts the calls that another one has let in, and goes on to let in.
    pub fn continue_from(&mut self, other: &Self) {
        self.open = Arc::clone(&other.open);
    }

    /// A place for a call of `key`; `None` when all of its places are taken.
    pub fn enter(&self, key: &str) -> Option<Place> {
        let key = self.open.hasher.hash_one(key);
        let mut shard = self.open.shard(key);
        let open = shard.entry(key).or_default();
        if *open >= self.open_max {
            if *open == 0 {
                shard.remove(&key);
            }
            return None;
        }
        *open += 1;
        Some(Place {
            open: Arc::clone(&self.open),
            key,
        })
    }

    /// How many keys have a call open.
    pub fn keys(&self) -> usize {
        (0..SHARDS)
            .map(|shard| self.open.shard(shard as u64).len())
            .sum()
    }
}

impl Open {
    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.shards[key as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shard = self.open.shard(self.key);
        if let Some(open) = shard.get_mut(&self.key) {
            *open -= 1;
            if *open == 0 {
                shard.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_call_is_over() {
        let gate = Gate::new(2);
        let first = gate.enter("a").expect("a place");
        let _second = gate.enter("a").expect("another one");
        assert!(gate.enter("a").is_none());
        let other = gate.enter("b");
        assert!(other.is_some(), "another key");
        drop(first);
        assert!(gate.enter("a").is_some());
    }

    #[test]
    fn who_continues_counts_what_is_open() {
        let before = Gate::new(2);
        let first = before.enter("a").expect("a place");
        let _second = before.enter("a").expect("another one");
        for (open_max, is_let_in) in [(2, false), (1, false), (3, true)] {
            let mut after = Gate::new(open_max);
            after.continue_from(&before);
            assert_eq!(after.enter("a").is_some(), is_let_in, "{open_max}");
        }
        let mut after = Gate::new(2);
        after.continue_from(&before);
        drop(first);
        assert!(after.enter("a").is_some());
    }

    #[test]
    fn keys_without_an_open_call_are_forgotten() {
        let gate = Gate::new(1);
        for spoofed in 0..100_000 {
            drop(gate.enter(&format!("spoofed {spoofed}")));
        }
        assert_eq!(gate.keys(), 0);
        let places: Vec<_> = (0..100)
            .filter_map(|n| gate.enter(&n.to_string()))
            .collect();
        assert_eq!(gate.keys(), 100);
        drop(places);
        assert_eq!(gate.keys(), 0);
    }
}
