//! The mapped array of ledgers: raw words in memory that the kernel writes at the same time.
//!
//! Reads word by word with atomic loads, and what belongs together under its version; hands out
//! copies only, never a reference into the mapping.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use crate::layout::{
    ARRIVALS_RECENT, Ack, Arrival, Identity, Ledger, Received, Sent, TURNS, Turn, Words,
};
use crate::mapping::Mapping;

/// A writer needs tens of nanoseconds; one that was preempted in the middle needs its turn.
const SPINS_BEFORE_YIELD: u32 = 64;
/// Reads give up after this many: the ledger then counts as unreadable, which is never wrong.
const TRIES_MAX: u32 = 4096;

/// All ledgers of a tap.
pub(crate) struct Slots(Mapping<Ledger>);

impl Slots {
    /// Maps `count` ledgers of the array `map`.
    pub(crate) fn map(map: impl AsFd, count: u32) -> io::Result<Self> {
        Mapping::of(map, count).map(Self)
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.count()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// One ledger; `None` beyond the end.
    pub(crate) fn slot(&self, index: u32) -> Option<Slot<'_>> {
        Some(Slot {
            ledger: self.0.get(index)?,
            _slots: self,
        })
    }
}

/// One ledger in the mapping.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'a> {
    ledger: NonNull<Ledger>,
    _slots: &'a Slots,
}

impl Slot<'_> {
    fn at<T>(&self, offset: usize) -> *mut T {
        debug_assert!(offset + size_of::<T>() <= size_of::<Ledger>());
        // SAFETY: callers pass offsets of fields of the ledger.
        unsafe { self.ledger.as_ptr().byte_add(offset).cast() }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: aligned, inside the mapping, and accessed by everybody as whole words.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    fn half(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `word`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    fn copy<T: Words>(&self, offset: usize) -> T {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let mut copy = MaybeUninit::<T>::uninit();
        let words = copy.as_mut_ptr().cast::<u64>();
        for i in 0..size_of::<T>() / 8 {
            let value = self.word(offset + i * 8).load(Ordering::Relaxed);
            // SAFETY: `copy` has room for this many words; its alignment may be less than theirs.
            unsafe { words.add(i).write_unaligned(value) };
        }
        // SAFETY: every word is set, and `Words` have no invalid bit patterns.
        unsafe { copy.assume_init() }
    }

    /// Runs `read` until nothing changed under it.
    fn consistent<T>(&self, version_at: usize, mut read: impl FnMut() -> T) -> Option<T> {
        let version = self.half(version_at);
        for attempt in 1..=TRIES_MAX {
            let before = version.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let value = read();
                fence(Ordering::Acquire);
                if version.load(Ordering::Relaxed) == before {
                    return Some(value);
                }
            }
            if attempt.is_multiple_of(SPINS_BEFORE_YIELD) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        None
    }

    /// What `read` takes from the sent half.
    pub(crate) fn consistent_sent<T>(&self, read: impl FnMut() -> T) -> Option<T> {
        self.consistent(offset_of!(Ledger, sent.version), read)
    }

    /// What `read` takes from the received half.
    pub(crate) fn consistent_received<T>(&self, read: impl FnMut() -> T) -> Option<T> {
        self.consistent(offset_of!(Ledger, received.version), read)
    }

    pub(crate) fn cookie(&self) -> u64 {
        self.word(offset_of!(Ledger, identity.cookie))
            .load(Ordering::Acquire)
    }

    pub(crate) fn established_ns(&self) -> u64 {
        self.word(offset_of!(Ledger, identity.established_ns))
            .load(Ordering::Acquire)
    }

    pub(crate) fn closed_ns(&self) -> u64 {
        self.word(offset_of!(Ledger, identity.closed_ns))
            .load(Ordering::Acquire)
    }

    /// Its fields are settled once `established_ns` is set, except what belongs to the close.
    pub(crate) fn identity(&self) -> Identity {
        self.copy(offset_of!(Ledger, identity))
    }

    pub(crate) fn close(&self) -> u8 {
        // SAFETY: inside the mapping; the kernel stores this byte alone.
        let close = unsafe { AtomicU8::from_ptr(self.at(offset_of!(Ledger, identity.close))) };
        close.load(Ordering::Acquire)
    }

    pub(crate) fn handshake_rtt_us(&self) -> u32 {
        self.half(offset_of!(Ledger, identity.handshake_rtt_us))
            .load(Ordering::Relaxed)
    }

    /// Call under [`Self::consistent_sent`].
    pub(crate) fn sent(&self) -> Sent {
        self.copy(offset_of!(Ledger, sent))
    }

    /// Call under [`Self::consistent_received`].
    pub(crate) fn received(&self) -> Received {
        self.copy(offset_of!(Ledger, received))
    }

    pub(crate) fn sent_offset(&self) -> u64 {
        self.word(offset_of!(Ledger, sent.offset))
            .load(Ordering::Acquire)
    }

    pub(crate) fn received_offset(&self) -> u64 {
        self.word(offset_of!(Ledger, received.offset))
            .load(Ordering::Acquire)
    }

    pub(crate) fn acked_offset(&self) -> u64 {
        self.word(offset_of!(Ledger, received.acked_offset))
            .load(Ordering::Acquire)
    }

    /// Since when the peer's window is closed, or 0.
    pub(crate) fn zero_since_ns(&self) -> u64 {
        self.word(offset_of!(Ledger, received.zero_since_ns))
            .load(Ordering::Relaxed)
    }

    pub(crate) fn sent_turns(&self) -> u32 {
        self.half(offset_of!(Ledger, sent.turns))
            .load(Ordering::Relaxed)
    }

    pub(crate) fn received_turns(&self) -> u32 {
        self.half(offset_of!(Ledger, received.turns))
            .load(Ordering::Relaxed)
    }

    pub(crate) fn arrivals(&self) -> u32 {
        self.half(offset_of!(Ledger, received.arrivals))
            .load(Ordering::Relaxed)
    }

    /// Turn number `serial`, counted from 1; call under the version of its half.
    pub(crate) fn sent_turn(&self, serial: u32) -> Turn {
        self.copy(offset_of!(Ledger, sent_turns) + place(serial, TURNS) * size_of::<Turn>())
    }

    /// Timeouts of sent turn `serial`; call under the sent version.
    pub(crate) fn turn_timeouts(&self, serial: u32) -> u8 {
        const { assert!(TURNS == size_of::<u64>()) };
        let all = self.word(offset_of!(Ledger, turn_timeouts));
        all.load(Ordering::Relaxed).to_ne_bytes()[place(serial, TURNS)]
    }

    /// As [`Self::sent_turn`].
    pub(crate) fn received_turn(&self, serial: u32) -> Turn {
        self.copy(offset_of!(Ledger, received_turns) + place(serial, TURNS) * size_of::<Turn>())
    }

    /// The mark kept where the mark of sent turn `serial` goes; call under the received version.
    pub(crate) fn ack(&self, serial: u32) -> Ack {
        self.copy(offset_of!(Ledger, acks) + place(serial, TURNS) * size_of::<Ack>())
    }

    /// Arrival number `serial`, counted from 1; call under the received version.
    pub(crate) fn arrival(&self, serial: u32) -> Arrival {
        self.arrival_at(place(serial, ARRIVALS_RECENT))
    }

    /// How many of the newest turn's first arrivals are kept; call under the received version.
    pub(crate) fn turn_arrivals(&self) -> u32 {
        self.half(offset_of!(Ledger, received.turn_arrivals))
            .load(Ordering::Relaxed)
    }

    /// The `nth` of them, counted from 0; call under the received version.
    pub(crate) fn turn_arrival(&self, nth: u32) -> Arrival {
        self.arrival_at(ARRIVALS_RECENT + nth as usize)
    }

    fn arrival_at(&self, place: usize) -> Arrival {
        self.copy(offset_of!(Ledger, arrivals) + place * size_of::<Arrival>())
    }

    pub(crate) fn cut_sent(&self) {
        self.half(offset_of!(Ledger, cut_sent))
            .fetch_add(1, Ordering::Release);
    }

    pub(crate) fn cut_received(&self) {
        self.half(offset_of!(Ledger, cut_received))
            .fetch_add(1, Ordering::Release);
    }

    /// Empties a slot that nobody writes any more, before the kernel may take it again.
    pub(crate) fn zero(&self) {
        for i in 0..size_of::<Ledger>() / 8 {
            self.word(i * 8).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }
}

fn place(serial: u32, ring: usize) -> usize {
    serial.wrapping_sub(1) as usize % ring
}
