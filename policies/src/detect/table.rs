//! A table of keys with a bound, in which a storm of new keys cannot push out those that matter.
//!
//! **Idea.** Every key has a count of how often it came. Where its buckets are full a new key meets the one that came
//! least: one that came once gives way, one that came *n* times loses one of its counts with probability
//! 2^-n and gives way when it has none left (the exponential decay of J. Gong et al., *HeavyKeeper*, 2018).
//! So a million spoofed addresses, seen once each, push out each other and hardly anybody who calls, and
//! somebody who calls again and again finds a place even then. A count halves for each half-life in which
//! its key did not come.
//!
//! **Memory.** Values are made when a key is admitted and used again when it leaves, so a table costs what
//! its keys cost, up to its bound; 24 bytes a key for the index are taken at once.
//!
//! **When it is wrong.** Where more real clients meet in a bucket than it has places: the least busy of them
//! is forgotten, and begins anew when it comes back.

/// Keys that may stand in one another's way.
const BUCKET: usize = 8;
/// Counts beyond are as good as this: 2^-n is as good as never.
const COUNT_MAX: u32 = 1 << 16;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: u64,
    /// Place in the values, from 1; 0: nobody's.
    value: u32,
    /// When it last came, s.
    seen_s: u32,
    count: u32,
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUsage {
    /// Keys it knows.
    pub known: usize,
    /// How often a key found no room.
    pub refused: u64,
    /// Bytes that each key takes, its place in the index included.
    pub bytes_per_key: usize,
}

/// Values by key, at most so many.
#[derive(Debug)]
pub(crate) struct Table<V> {
    buckets: Box<[[Entry; BUCKET]]>,
    values: Vec<V>,
    /// The count of a key that does not come halves in this time, s.
    half_life_s: u32,
    refused: u64,
    /// State of the generator that decides who loses a count (G. Marsaglia, *Xorshift RNGs*, 2003).
    random: u64,
}

impl<V: Default> Table<V> {
    /// Room for at least `keys_max` keys. The count of one that does not come halves in `half_life_s`.
    pub(crate) fn new(keys_max: usize, half_life_s: u32) -> Self {
        let buckets = keys_max.div_ceil(BUCKET).next_power_of_two();
        Self {
            buckets: vec![[Entry::default(); BUCKET]; buckets].into(),
            values: Vec::new(),
            half_life_s: half_life_s.max(1),
            refused: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The value of a key, which is evenly spread over all 64 bits; `None`: there is no room for it.
    pub(crate) fn get(&mut self, key: u64, now_s: u32) -> Option<&mut V> {
        // The less full of two buckets: even half full, hardly one runs over (Y. Azar et al., *Balanced
        // Allocations*, 1999).
        let mask = self.buckets.len() - 1;
        let of_key = [key as usize & mask, (key >> 32) as usize & mask];
        let half_life_s = self.half_life_s;
        let count_of = |entry: &Entry| {
            let halves = now_s.saturating_sub(entry.seen_s) / half_life_s;
            entry.count.checked_shr(halves).unwrap_or(0)
        };
        for bucket in of_key {
            for entry in &mut self.buckets[bucket] {
                if entry.key == key && entry.value != 0 {
                    entry.count = (count_of(entry) + 1).min(COUNT_MAX);
                    entry.seen_s = now_s;
                    return self.values.get_mut(entry.value as usize - 1);
                }
            }
        }
        let mut least = (0, 0);
        let mut least_count = u32::MAX;
        for bucket in of_key {
            for (at, entry) in self.buckets[bucket].iter().enumerate() {
                let count = match entry.value {
                    0 => 0,
                    _ => count_of(entry).max(1),
                };
                if count < least_count {
                    (least, least_count) = ((bucket, at), count);
                }
            }
        }
        let entry = &mut self.buckets[least.0][least.1];
        if least_count > 1 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            if self.random.trailing_zeros() >= least_count {
                entry.count = entry.count.saturating_sub(1);
            }
            self.refused += 1;
            return None;
        }
        if entry.value == 0 {
            self.values.push(V::default());
            entry.value = u32::try_from(self.values.len()).ok()?;
        } else {
            self.values[entry.value as usize - 1] = V::default();
        }
        entry.key = key;
        entry.seen_s = now_s;
        entry.count = 1;
        self.values.get_mut(entry.value as usize - 1)
    }

    /// The value of each key it holds, in no order.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.iter_mut()
    }

    /// How full it is.
    pub(crate) fn usage(&self) -> TableUsage {
        TableUsage {
            known: self.values.len(),
            refused: self.refused,
            bytes_per_key: size_of::<V>() + size_of::<Entry>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::tests::spread;

    #[test]
    fn a_million_spoofed_keys_push_out_nobody_who_calls() {
        let mut table: Table<u32> = Table::new(8_192, 600);
        let real = 0..4_000_u64;
        for _ in 0..5 {
            for client in real.clone() {
                if let Some(calls) = table.get(spread(client), 1) {
                    *calls += 1;
                }
            }
        }
        for spoofed in 0..1_000_000_u64 {
            table.get(spread(1 << 40 | spoofed), 2);
            // The real ones go on, one call for each 250 spoofed.
            if spoofed % 250 == 0 {
                table.get(spread(spoofed / 250 % 4_000), 2);
            }
        }
        let kept = real
            .filter(|client| {
                table
                    .get(spread(*client), 3)
                    .is_some_and(|calls| *calls >= 5)
            })
            .count();
        assert!(kept >= 3_960, "{kept} of 4000");
        assert!(table.usage().known <= 8_192);
        // One that comes again and again finds its place even now.
        let newcomer = spread(1 << 50);
        assert!((0..300).any(|_| table.get(newcomer, 4).is_some()));
    }

    #[test]
    fn who_is_idle_makes_room_and_a_place_begins_anew() {
        let mut table: Table<u32> = Table::new(8, 60);
        for key in 0..8 {
            *table.get(spread(key), 0).unwrap() = 7;
        }
        for key in 0..8 {
            table.get(spread(key), 0);
        }
        assert_eq!(table.get(spread(101), 200), Some(&mut 0));
    }
}
