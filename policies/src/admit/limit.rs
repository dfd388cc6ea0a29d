//! How many calls a key may make: the generic cell rate algorithm (ITU-T I.371, annex A), in a table of
//! a fixed size.
//!
//! A key has one number, the time at which it would have had all of its calls back (the *theoretical
//! arrival time*). That is enough to tell how many are left, and a key whose time has come is as good as
//! one that was never seen. So the table needs no sweep: a new key takes the place of one whose time
//! has come, and where a bucket has none, of the one that is closest to it. Keys that were seen once, as
//! in a storm of spoofed ones, are always closer than one that has used up its calls: they push out each
//! other.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keys that may stand in one another's way.
const BUCKET: usize = 8;
const SECOND_NS: u64 = 1_000_000_000;

/// So many calls in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Calls, at least one.
    pub quota: u64,
    /// Seconds, at least one.
    pub window_s: u64,
    /// Calls that may come at once, at least one.
    pub burst: u64,
}

impl Rate {
    /// The time between two calls at exactly this rate, ns; at least 1.
    fn interval_ns(self) -> u64 {
        (self.window_s.saturating_mul(SECOND_NS) / self.quota.max(1)).max(1)
    }

    /// After how many seconds a burst that was used up is had again.
    pub fn refill_s(self) -> u64 {
        let refill_ns = self.interval_ns().saturating_mul(self.burst);
        refill_ns.div_ceil(SECOND_NS)
    }
}

/// Where a key stands, this call included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Whether this call is within its rate.
    pub allowed: bool,
    /// Calls it could make at once now.
    pub remaining: u64,
    /// When one more will be within its rate, ns from now; 0 where one is already.
    pub retry_ns: u64,
    /// When it will have all of its burst back, ns from now.
    pub reset_ns: u64,
}

/// Counts calls by key.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    hasher: RandomState,
    buckets: Box<[Mutex<[Entry; BUCKET]>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: u64,
    full_ns: u64,
}

impl Limiter {
    /// Room for about `keys_max` keys, 16 bytes each.
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        let buckets = keys_max.div_ceil(BUCKET).next_power_of_two();
        Self {
            rate,
            table: Arc::new(Table {
                hasher: RandomState::new(),
                buckets: (0..buckets).map(|_| Mutex::default()).collect(),
            }),
        }
    }

    /// Counts on from where another one with the same rate is, and goes on to be.
    pub fn continue_from(&mut self, other: &Self) {
        debug_assert_eq!(self.rate, other.rate);
        self.table = Arc::clone(&other.table);
    }

    /// Its rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// A call of `key`: whether it is within the rate. One that is not does not count.
    pub fn take(&self, key: &str, now_ns: u64) -> Stand {
        let interval = self.rate.interval_ns();
        let burst_ns = interval.saturating_mul(self.rate.burst.max(1));
        let key = self.table.hasher.hash_one(key);
        let mut bucket = self.table.bucket(key);
        let entry = place(&mut bucket, key);
        let full_ns = entry.full_ns.max(now_ns);
        let next_ns = full_ns.saturating_add(interval);
        let allowed = next_ns - now_ns <= burst_ns;
        if allowed {
            *entry = Entry {
                key,
                full_ns: next_ns,
            };
        }
        let reset_ns = if allowed { next_ns } else { full_ns } - now_ns;
        let remaining = (burst_ns - reset_ns.min(burst_ns)) / interval;
        let retry_ns = match remaining {
            0 => reset_ns.saturating_add(interval).saturating_sub(burst_ns),
            _ => 0,
        };
        Stand {
            allowed,
            remaining,
            retry_ns,
            reset_ns,
        }
    }
}

impl Table {
    fn bucket(&self, key: u64) -> MutexGuard<'_, [Entry; BUCKET]> {
        let bucket = key as usize & (self.buckets.len() - 1);
        self.buckets[bucket]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of a key, or the one that it may take the place of: emptied then.
fn place(bucket: &mut [Entry; BUCKET], key: u64) -> &mut Entry {
    let mut oldest = 0;
    for at in 0..BUCKET {
        if bucket[at].key == key {
            return &mut bucket[at];
        }
        if bucket[at].full_ns < bucket[oldest].full_ns {
            oldest = at;
        }
    }
    bucket[oldest] = Entry { key, full_ns: 0 };
    &mut bucket[oldest]
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        quota: 60,
        window_s: 60,
        burst: 3,
    };

    #[test]
    fn a_burst_passes_and_then_one_a_second() {
        let limiter = Limiter::new(RATE, 64);
        let mut now_ns = 5 * SECOND_NS;
        let left: Vec<u64> = (0..3)
            .map(|_| limiter.take("a", now_ns).remaining)
            .collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = limiter.take("a", now_ns);
        assert!(!refused.allowed);
        assert_eq!(refused.retry_ns, SECOND_NS);
        assert_eq!(refused.reset_ns, 3 * SECOND_NS);
        assert!(limiter.take("b", now_ns).allowed, "another key");
        // Refused calls do not count: after a second there is one again, and only one.
        now_ns += SECOND_NS;
        assert!(limiter.take("a", now_ns).allowed);
        assert!(!limiter.take("a", now_ns).allowed);
        now_ns += 10 * SECOND_NS;
        assert_eq!(
            limiter.take("a", now_ns).remaining,
            2,
            "never more than a burst"
        );
    }

    #[test]
    fn who_used_up_its_calls_stays_among_a_million_others() {
        let limiter = Limiter::new(RATE, 4096);
        let now_ns = SECOND_NS;
        for _ in 0..3 {
            assert!(limiter.take("busy", now_ns).allowed);
        }
        for spoofed in 0..1_000_000 {
            limiter.take(&format!("spoofed {spoofed}"), now_ns);
        }
        assert!(!limiter.take("busy", now_ns).allowed);
    }

    #[test]
    fn rates_below_one_in_a_second_and_above_a_million_hold() {
        let daily = Limiter::new(
            Rate {
                quota: 1,
                window_s: 86_400,
                burst: 1,
            },
            8,
        );
        assert!(daily.take("a", 1).allowed);
        let refused = daily.take("a", 2);
        assert!(!refused.allowed);
        assert_eq!(refused.retry_ns, 86_400 * SECOND_NS - 1);
        let fast = Limiter::new(
            Rate {
                quota: 2_000_000,
                window_s: 1,
                burst: 1,
            },
            8,
        );
        assert!(fast.take("a", 1000).allowed);
        assert!(!fast.take("a", 1400).allowed);
        assert!(fast.take("a", 1500).allowed);
    }
}
