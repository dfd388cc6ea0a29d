//! One socket's ledger, read without a system call.
//!
//! Every answer is a copy of what the kernel wrote, checked for having been written whole; what is
//! gone or was overwritten is absent, never guessed. Callers bring the time; the clock is read only
//! where a window is closed this very moment.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use calltap_correlate::socket::{
    Acknowledged, Arrival, CallRanges, Counters, DirectionTotals, SocketCookie, SocketIdentity,
    SocketSnapshot, StreamRange, Turn, Turns,
};
use smallvec::SmallVec;

use crate::layout::{
    self, ARRIVALS_FIRST, ARRIVALS_RECENT, TIMEOUTS_MAX, TURNS, WINDOW_SHIFT_UNKNOWN,
    WINDOW_UNKNOWN,
};
use crate::slots::Slot;
use crate::tap::Claim;

/// A socket's ledger. Clones are cheap; when the last one is dropped and the socket is closed, its
/// slot goes to another socket.
#[derive(Clone)]
pub struct Ledger {
    claim: Arc<Claim>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ledger").field(&self.cookie().get()).finish()
    }
}

impl Ledger {
    pub(crate) fn new(claim: Claim) -> Self {
        Self {
            claim: Arc::new(claim),
        }
    }

    fn slot(&self) -> Option<Slot<'_>> {
        self.claim.slot()
    }

    /// Whose ledger this is.
    pub fn cookie(&self) -> SocketCookie {
        self.claim.cookie()
    }

    /// Who the two ends are and how they met. Before the handshake completed it has no bases and
    /// no `established_ns`: ask again then.
    pub fn identity(&self) -> Option<SocketIdentity> {
        let slot = self.slot()?;
        let established_ns = slot.established_ns();
        let identity = slot.identity();
        let established = established_ns != 0;
        let syn = &identity.syn[..usize::from(identity.syn_length).min(identity.syn.len())];
        Some(SocketIdentity {
            cookie: self.cookie(),
            local: address(identity.local, identity.local_port),
            peer: address(identity.remote, identity.remote_port),
            syn_ns: nonzero(identity.syn_ns),
            established_ns: nonzero(established_ns),
            receive_base: established.then_some(identity.receive_base),
            send_base: established.then_some(identity.send_base),
            peer_window_shift: (established && identity.peer_window_shift != WINDOW_SHIFT_UNKNOWN)
                .then_some(identity.peer_window_shift),
            syn_headers: SmallVec::from_slice(if established { syn } else { &[] }),
        })
    }

    /// The connection so far. `now_ns` becomes `taken_ns`.
    pub fn counters(&self, now_ns: u64) -> Counters {
        let mut counters = Counters {
            taken_ns: now_ns,
            ..Counters::default()
        };
        let Some(slot) = self.slot() else {
            return counters;
        };
        if let Some(closed_ns) = nonzero(slot.closed_ns()) {
            counters.closed_ns = Some(closed_ns);
        }
        counters.close = layout::close_of(slot.close());
        if slot.established_ns() == 0 {
            // The kernel's count includes the SYN, so it says something already.
            counters.retransmits = slot.consistent_sent(|| slot.sent().resent_segments);
            return counters;
        }
        counters.handshake_rtt_us = measured(slot.handshake_rtt_us());
        if let Some(sent) = slot.consistent_sent(|| slot.sent()) {
            counters.sent = Some(DirectionTotals {
                offset: sent.offset,
                segments: sent.segments,
                ip_bytes: Some(sent.ip_bytes),
                late_segments: None,
            });
            counters.rtt_us = measured(sent.srtt_us);
            counters.min_rtt_us = measured(sent.min_rtt_us);
            counters.retransmits = Some(sent.resent_segments);
            counters.retransmitted_bytes = Some(sent.resent_bytes);
            counters.rtos = Some(sent.timeouts);
            counters.cwnd = measured(sent.cwnd);
            counters.mss = measured(sent.mss);
            counters.delivery_rate_bytes_per_s = delivery_rate(&sent);
        }
        if let Some(received) = slot.consistent_received(|| slot.received()) {
            counters.received = Some(DirectionTotals {
                offset: received.offset,
                segments: received.segments,
                ip_bytes: Some(received.ip_bytes),
                late_segments: Some(received.late_segments),
            });
            counters.acked_offset = Some(received.acked_offset);
            counters.peer_reset = received.rst != 0;
            counters.dup_acks = Some(received.dup_acks);
        }
        counters
    }

    /// The received turns that touch `range`.
    pub fn received(&self, range: &StreamRange) -> Turns {
        let Some(slot) = self.slot() else {
            return unreadable();
        };
        slot.consistent_received(|| {
            touching(range, slot.received_turns(), |n| slot.received_turn(n)).0
        })
        .unwrap_or_else(unreadable)
    }

    /// The sent turns that touch `range`, with how far the peer acknowledged each.
    pub fn sent(&self, range: &StreamRange) -> Turns {
        let Some(slot) = self.slot() else {
            return unreadable();
        };
        let Some((turns, newest)) = slot.consistent_sent(|| {
            let (mut turns, newest) =
                touching(range, slot.sent_turns(), |serial| slot.sent_turn(serial));
            let count = turns.turns.len() as u32;
            for (turn, serial) in turns.turns.iter_mut().zip(newest.wrapping_sub(count) + 1..) {
                let timeouts = slot.turn_timeouts(serial);
                turn.timeouts = (timeouts < TIMEOUTS_MAX).then_some(timeouts.into());
            }
            (turns, newest)
        }) else {
            return unreadable();
        };
        self.with_acks(slot, turns, newest, range)
            .unwrap_or_else(unreadable)
    }

    /// `newest` is the number of the last of `turns`.
    fn with_acks(
        &self,
        slot: Slot<'_>,
        mut turns: Turns,
        newest: u32,
        range: &StreamRange,
    ) -> Option<Turns> {
        let count = turns.turns.len() as u32;
        slot.consistent_received(|| {
            let received = slot.received();
            for (turn, serial) in turns.turns.iter_mut().zip(newest.wrapping_sub(count) + 1..) {
                let mark = slot.ack(serial);
                turn.ack = if mark.serial == serial as u16 {
                    Acknowledged {
                        // The mark may know of bytes sent after the turn was copied.
                        offset: mark.offset.min(turn.end_offset),
                        ns: mark.ns,
                        with_data: mark.with_data != 0,
                        window_min: (mark.window_min != WINDOW_UNKNOWN).then_some(mark.window_min),
                        zero_window_ns: mark.zero_window_ns,
                    }
                } else {
                    Acknowledged {
                        offset: turn.first_offset,
                        ..Acknowledged::default()
                    }
                };
                // Closed windows are booked when the turn grows again. Where more of the range is
                // to come, the window is what it waits for.
                if received.zero_turn == serial && turn.end_offset < range.end {
                    let lasting_ns = match received.zero_since_ns {
                        0 => 0,
                        // A window that nobody opened again was closed until there was no
                        // connection any more.
                        since_ns => nonzero(slot.closed_ns())
                            .unwrap_or_else(crate::monotonic_ns)
                            .saturating_sub(since_ns),
                    };
                    let open_ns = received.zero_pending_ns + lasting_ns;
                    if open_ns > 0 {
                        turn.ack.zero_window_ns += open_ns;
                        turn.ack.window_min = Some(0);
                    }
                }
            }
        })?;
        Some(turns)
    }

    /// One past the highest payload byte received.
    pub fn received_offset(&self) -> u64 {
        self.slot().map_or(0, |slot| slot.received_offset())
    }

    /// One past the highest payload byte sent.
    pub fn sent_offset(&self) -> u64 {
        self.slot().map_or(0, |slot| slot.sent_offset())
    }

    /// Since when the peer's window is closed, ns.
    pub fn window_closed_since_ns(&self) -> Option<u64> {
        nonzero(self.slot()?.zero_since_ns())
    }

    /// One past the highest payload byte that the peer acknowledged.
    pub fn acked_offset(&self) -> u64 {
        self.slot().map_or(0, |slot| slot.acked_offset())
    }

    /// The packet with which all of `range` had arrived: mostly the one that carried its end, or a
    /// later one that filled a hole in it. `None` if part of it has not arrived, or not with packets
    /// that are among those kept: the newest ones, and the first ones of the newest turn.
    pub fn arrival_completing(&self, range: &StreamRange) -> Option<Arrival> {
        let slot = self.slot()?;
        let kept = slot.consistent_received(|| {
            let newest = slot.arrivals();
            let oldest = newest.saturating_sub(ARRIVALS_RECENT as u32);
            let recent = (oldest..newest).map(|n| slot.arrival(n + 1));
            let first = slot.turn_arrivals().min(ARRIVALS_FIRST as u32);
            recent
                .chain((0..first).map(|nth| slot.turn_arrival(nth)))
                .filter(|arrival| touches(arrival, range))
                .collect::<SmallVec<[_; ARRIVALS_RECENT]>>()
        })?;
        completing(kept, range)
    }

    /// The next payload packet sent begins a new turn.
    pub fn cut_sent(&self) {
        if let Some(slot) = self.slot() {
            slot.cut_sent();
        }
    }

    /// The next payload packet received begins a new turn.
    pub fn cut_received(&self) {
        if let Some(slot) = self.slot() {
            slot.cut_received();
        }
    }

    /// What a settling call asks for: the counters, and the turns of its bytes.
    pub fn snapshot(&self, ranges: &CallRanges, now_ns: u64) -> SocketSnapshot {
        SocketSnapshot {
            counters: self.counters(now_ns),
            sent: self.sent(&ranges.sent),
            received: self.received(&ranges.received),
        }
    }
}

/// The turns that touch `range`, oldest first, and the number of the last of them.
fn touching(
    range: &StreamRange,
    newest: u32,
    turn_at: impl Fn(u32) -> layout::Turn,
) -> (Turns, u32) {
    let mut found = Turns::default();
    let mut last = 0;
    if range.is_empty() {
        return (found, last);
    }
    let kept = newest.min(TURNS as u32);
    // Turns follow each other without a gap, so the first one that begins at or before the range
    // has nothing of it before it.
    let mut reached_begin = newest == 0;
    for serial in (newest - kept + 1..=newest).rev() {
        let turn = turn_at(serial);
        if turn.first_offset < range.end && turn.end_offset > range.start {
            if found.turns.is_empty() {
                last = serial;
            }
            found.turns.push(public(&turn));
        }
        if turn.first_offset <= range.start {
            reached_begin = true;
            break;
        }
    }
    found.turns.reverse();
    found.lapped = !reached_begin;
    (found, last)
}

fn touches(arrival: &layout::Arrival, range: &StreamRange) -> bool {
    arrival.first_offset < range.end && arrival.end_offset > range.start
}

/// Of packets in any order, the earliest with which all of `range` was there.
fn completing(
    mut arrivals: SmallVec<[layout::Arrival; ARRIVALS_RECENT]>,
    range: &StreamRange,
) -> Option<Arrival> {
    arrivals.sort_unstable_by_key(|arrival| arrival.ns);
    let covers = |arrivals: &[layout::Arrival]| {
        let mut end = range.start;
        while end < range.end {
            let next = arrivals
                .iter()
                .find(|arrival| arrival.first_offset <= end && end < arrival.end_offset);
            match next {
                Some(next) => end = next.end_offset,
                None => return false,
            }
        }
        true
    };
    let last = (0..arrivals.len()).find(|last| covers(&arrivals[..=*last]))?;
    let layout::Arrival {
        first_offset,
        end_offset,
        ns,
    } = arrivals[last];
    Some(Arrival {
        first_offset,
        end_offset,
        ns,
    })
}

fn public(turn: &layout::Turn) -> Turn {
    Turn {
        first_ns: turn.first_ns,
        last_ns: turn.last_ns,
        first_offset: turn.first_offset,
        end_offset: turn.end_offset,
        segments: turn.segments,
        retransmitted_segments: turn.resent_segments,
        retransmitted_bytes: u64::from(turn.resent_bytes),
        ip_bytes: turn.ip_bytes,
        end_resent_ns: turn.resent_end_ns,
        timeouts: None,
        ttl_min: turn.ttl_min,
        ttl_max: turn.ttl_max,
        dscp: turn.tos >> 2,
        ecn: turn.tos & 3,
        tcp_flags: turn.tcp_flags,
        ack: Acknowledged::default(),
    }
}

/// Nothing that could be read: says that something is missing, which is the truth.
fn unreadable() -> Turns {
    Turns {
        turns: SmallVec::new(),
        lapped: true,
    }
}

fn address(ip: [u8; 16], port: u16) -> SocketAddr {
    let ip = Ipv6Addr::from(ip);
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    SocketAddr::new(ip, port)
}

fn nonzero(ns: u64) -> Option<u64> {
    (ns != 0).then_some(ns)
}

/// The kernel's estimates are 0, or all ones, before there is one.
fn measured(value: u32) -> Option<u32> {
    (value != 0 && value != u32::MAX).then_some(value)
}

fn delivery_rate(sent: &layout::Sent) -> Option<u64> {
    let bytes = u64::from(sent.rate_delivered) * u64::from(sent.mss);
    (bytes * 1_000_000)
        .checked_div(u64::from(sent.rate_interval_us))
        .filter(|rate| *rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arrivals: &[(u64, u64)], range: StreamRange, expected: Option<u64>) {
        let arrivals = (1..)
            .zip(arrivals)
            .map(|(ns, (first_offset, end_offset))| layout::Arrival {
                first_offset: *first_offset,
                end_offset: *end_offset,
                ns,
            })
            .filter(|arrival| touches(arrival, &range));
        // The order in which they lie says nothing.
        let mut arrivals: SmallVec<_> = arrivals.collect();
        arrivals.reverse();
        let found = completing(arrivals, &range);
        assert_eq!(found.map(|arrival| arrival.ns), expected);
    }

    #[test]
    fn a_range_is_there_when_its_last_hole_is_filled() {
        let in_order = [(0, 100), (100, 200), (200, 300)];
        check(&in_order, 0..1, Some(1));
        check(&in_order, 0..100, Some(1));
        check(&in_order, 0..101, Some(2));
        check(&in_order, 150..300, Some(3));
        check(&in_order, 150..301, None);
        // The second packet came last.
        let late = [(0, 100), (200, 300), (100, 200)];
        check(&late, 0..50, Some(1));
        check(&late, 50..150, Some(3));
        check(&late, 200..250, Some(2));
        check(&late, 0..250, Some(3));
        // Sent again together with what follows it.
        let again = [(0, 100), (50, 200)];
        check(&again, 0..60, Some(1));
        check(&again, 0..150, Some(2));
        // What is no longer kept of the call before says nothing about this one.
        check(&[(0, 100), (500, 600)], 500..600, Some(2));
        // No longer kept in part, or nothing at all.
        check(&[(500, 600)], 499..600, None);
        check(&[], 0..1, None);
    }
}
