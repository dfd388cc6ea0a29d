//! The networks whose packets the programs drop: two sets of tries, of which one is in use.
//!
//! A new list goes into the other set, as far as that differs from it, and one stored word puts it in
//! use: there is no moment without a list, and none with half of one. All of it is map system calls,
//! which need no capability on a kernel that has
//! [`KERNEL_MAPS_WITHOUT_CAPABILITIES`](crate::doctor::KERNEL_MAPS_WITHOUT_CAPABILITIES).
//!
//! Knows nothing of who may be denied: a network that must not be is let through by a row of its own.

use std::collections::HashMap;
use std::io;
use std::mem::offset_of;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, MapError};

use crate::layout;
use crate::mapping::Mapping;

/// Networks that are denied at a time, by default.
pub const DENIED_MAX_DEFAULT: u32 = 65_536;
/// Networks within them that are let through.
pub const LET_THROUGH_MAX: usize = 4_096;

/// A network, and what happens to what comes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its first address; an IPv4 network as IPv4.
    pub first: IpAddr,
    /// How many bits its addresses share.
    pub bits: u8,
    /// Dropped, or let through although a wider network is denied.
    pub denied: bool,
}

/// What was dropped of a network, or of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Packets as they were on the wire.
    pub packets: u64,
    /// Their bytes, IP headers included; of packets that the device merged one header.
    pub bytes: u64,
}

/// Why a list is not in use. The one before it still is.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    /// More than was made room for at start.
    #[error("there is room for {max} denied networks, and for {LET_THROUGH_MAX} let through")]
    TooMany {
        /// [`TapOptions::denied_max`](crate::TapOptions::denied_max).
        max: u32,
    },
    /// The kernel did not take an entry.
    #[error("the kernel does not take {first}/{bits}")]
    Kernel {
        /// Of the entry.
        first: IpAddr,
        /// Of the entry.
        bits: u8,
        /// What it said: of memory, as a rule.
        source: io::Error,
    },
}

/// Lists have numbers from 1 on to this, and then again.
const LISTS_MAX: u32 = u32::MAX >> 1;

/// A network by its first address and the bits of its prefix.
type Prefix = (IpAddr, u8);

/// How many rows a trie must have room for, so that rows can be exchanged one by one.
pub(crate) fn rows_max(denied_max: u32) -> u32 {
    denied_max + 2 * LET_THROUGH_MAX as u32
}

/// How many hits there must be: those of the list in use, of the next one, and of what is let through.
pub(crate) fn hits_max(denied_max: u32) -> u32 {
    2 * denied_max + 1
}

/// The lists in the kernel.
pub(crate) struct Denied {
    sets: [Set; 2],
    /// Which of them is in use, or was last.
    used: usize,
    /// What is in use, by index of its hits, or [`layout::ROW_PASS`].
    rows: HashMap<Prefix, u32>,
    denied_max: u32,
    /// Lists so far.
    lists: u32,
    switch: Mapping<u64>,
    hits: Mapping<layout::Hits>,
    /// Indices that had a network once and have none now. What they count is of the past.
    spare: Vec<u32>,
    /// Indices that never had one.
    fresh: u32,
    /// Of indices that were given to another network.
    past: Hits,
}

/// One trie for each family.
pub(crate) struct Set {
    v4: LpmTrie<MapData, [u8; 4], u32>,
    v6: LpmTrie<MapData, [u8; 16], u32>,
    /// What is in them.
    rows: HashMap<Prefix, u32>,
}

impl Set {
    pub(crate) fn new(
        v4: LpmTrie<MapData, [u8; 4], u32>,
        v6: LpmTrie<MapData, [u8; 16], u32>,
    ) -> Self {
        Self {
            v4,
            v6,
            rows: HashMap::new(),
        }
    }

    fn insert(&mut self, (first, bits): Prefix, index: u32) -> Result<(), DenyError> {
        if self.rows.get(&(first, bits)) == Some(&index) {
            return Ok(());
        }
        let length = u32::from(bits);
        match first {
            IpAddr::V4(v4) => self.v4.insert(&Key::new(length, v4.octets()), index, 0),
            IpAddr::V6(v6) => self.v6.insert(&Key::new(length, v6.octets()), index, 0),
        }
        .map_err(refused((first, bits)))?;
        self.rows.insert((first, bits), index);
        Ok(())
    }

    fn remove(&mut self, (first, bits): Prefix) -> Result<(), DenyError> {
        let length = u32::from(bits);
        match first {
            IpAddr::V4(v4) => self.v4.remove(&Key::new(length, v4.octets())),
            IpAddr::V6(v6) => self.v6.remove(&Key::new(length, v6.octets())),
        }
        .map_err(refused((first, bits)))?;
        self.rows.remove(&(first, bits));
        Ok(())
    }

    /// Makes these rows all there are. A packet that still looks here finds what is let through before
    /// what is denied around it.
    fn turn_into(&mut self, rows: &HashMap<Prefix, u32>) -> Result<(), DenyError> {
        let (passing, denying): (Vec<_>, Vec<_>) = rows
            .iter()
            .partition(|(_, index)| **index == layout::ROW_PASS);
        let gone = self.rows.iter().filter(|(row, _)| !rows.contains_key(row));
        let (gone_passing, gone_denying): (Vec<_>, Vec<_>) = gone
            .map(|(row, index)| (*row, *index))
            .partition(|(_, index)| *index == layout::ROW_PASS);
        for (row, index) in passing {
            self.insert(*row, *index)?;
        }
        for (row, _) in gone_denying {
            self.remove(row)?;
        }
        for (row, index) in denying {
            self.insert(*row, *index)?;
        }
        for (row, _) in gone_passing {
            self.remove(row)?;
        }
        Ok(())
    }
}

fn refused((first, bits): Prefix) -> impl FnOnce(MapError) -> DenyError {
    move |error| DenyError::Kernel {
        first,
        bits,
        source: match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other),
        },
    }
}

impl Denied {
    /// `hits` has [`hits_max`] elements.
    pub(crate) fn new(
        sets: [Set; 2],
        denied_max: u32,
        switch: Mapping<u64>,
        hits: Mapping<layout::Hits>,
    ) -> Self {
        Self {
            sets,
            used: 0,
            rows: HashMap::new(),
            denied_max,
            lists: 0,
            switch,
            hits,
            spare: Vec::new(),
            fresh: layout::ROW_PASS + 1,
            past: Hits::default(),
        }
    }

    /// Has these rows, each network once, stand instead of all others.
    pub(crate) fn replace(&mut self, rows: impl Iterator<Item = Row>) -> Result<(), DenyError> {
        let mut next = HashMap::with_capacity(rows.size_hint().0);
        let mut new = Vec::new();
        let (mut denied_rows, mut passing) = (0, 0);
        for row in rows {
            let prefix = (row.first, row.bits);
            let index = match self.rows.get(&prefix) {
                _ if !row.denied => layout::ROW_PASS,
                Some(index) if *index != layout::ROW_PASS => *index,
                _ => {
                    new.push(prefix);
                    continue;
                }
            };
            match row.denied {
                true => denied_rows += 1,
                false => passing += 1,
            }
            next.insert(prefix, index);
        }
        denied_rows += new.len();
        if denied_rows > self.denied_max as usize || passing > LET_THROUGH_MAX {
            return Err(DenyError::TooMany {
                max: self.denied_max,
            });
        }
        for prefix in &new {
            next.insert(*prefix, self.take_index());
        }
        let idle = 1 - self.used;
        if let Err(error) = self.sets[idle].turn_into(&next) {
            let indices = new.iter().map(|prefix| next[prefix]);
            self.spare.extend(indices);
            return Err(error);
        }
        self.lists = self.lists % LISTS_MAX + 1;
        let list = (self.lists << 1) + idle as u32;
        self.use_list(if denied_rows > 0 { list } else { 0 });
        self.used = idle;
        for (prefix, index) in std::mem::replace(&mut self.rows, next) {
            if index != layout::ROW_PASS && self.rows.get(&prefix) != Some(&index) {
                self.spare.push(index);
            }
        }
        Ok(())
    }

    /// What a denied network has cost those in it since it was denied.
    pub(crate) fn hits(&self, first: IpAddr, bits: u8) -> Hits {
        let index = self.rows.get(&(first, bits));
        index.map_or(Hits::default(), |index| self.hits_at(*index))
    }

    /// What all of them have, those included that are denied no more.
    pub(crate) fn total(&self) -> Hits {
        (layout::ROW_PASS + 1..self.fresh)
            .map(|index| self.hits_at(index))
            .fold(self.past, Hits::plus)
    }

    /// An index that counts from zero. There is always one: of two lists, each no longer than allowed,
    /// all have their own.
    fn take_index(&mut self) -> u32 {
        match self.spare.pop() {
            Some(index) => {
                self.past = self.past.plus(self.hits_at(index));
                for offset in HITS_WORDS {
                    if let Some(word) = self.hits_word(index, offset) {
                        word.store(0, Ordering::Relaxed);
                    }
                }
                index
            }
            None => {
                self.fresh += 1;
                self.fresh - 1
            }
        }
    }

    fn use_list(&self, list: u32) {
        if let Some(word) = self.switch.get(0) {
            // SAFETY: aligned, inside the mapping, and accessed by everybody as a whole word.
            unsafe { AtomicU64::from_ptr(word.as_ptr()) }.store(list.into(), Ordering::Release);
        }
    }

    fn hits_at(&self, index: u32) -> Hits {
        let [packets, bytes] = HITS_WORDS.map(|offset| {
            let word = self.hits_word(index, offset);
            word.map_or(0, |word| word.load(Ordering::Relaxed))
        });
        Hits { packets, bytes }
    }

    fn hits_word(&self, index: u32, offset: usize) -> Option<&AtomicU64> {
        let hits = self.hits.get(index)?;
        // SAFETY: an aligned word of an element, which everybody accesses as a whole one.
        Some(unsafe { AtomicU64::from_ptr(hits.as_ptr().byte_add(offset).cast()) })
    }
}

/// Where the words of [`layout::Hits`] are, in the order of [`Hits`].
const HITS_WORDS: [usize; 2] = [
    offset_of!(layout::Hits, packets),
    offset_of!(layout::Hits, bytes),
];

impl Hits {
    fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
        }
    }
}
