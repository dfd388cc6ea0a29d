//! What the kernel saw of one socket, as plain values.
//!
//! Filled by the tap from a ledger or from `TCP_INFO`; read here only. All times are
//! `CLOCK_MONOTONIC` nanoseconds. All offsets count payload bytes of one direction of one
//! connection from its first byte (the byte after the SYN is offset 0), 64 bits wide.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::ops::Range;

use smallvec::SmallVec;

/// Identifies a socket for as long as the machine runs. The kernel never hands out zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketCookie(NonZeroU64);

impl SocketCookie {
    /// Wraps what `SO_COOKIE` returned; `None` for zero, which no socket has.
    pub fn new(raw: u64) -> Option<Self> {
        NonZeroU64::new(raw).map(Self)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// Where a leg's socket facts come from, best last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coverage {
    /// Nothing is known of the socket beyond what the proxy saw.
    #[default]
    None,
    /// `getsockopt(TCP_INFO)` at the call's edges.
    TcpInfo,
    /// A ledger kept by the eBPF programs.
    Ebpf,
}

/// How a connection ended: the first of these that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The peer sent its FIN first.
    FinPeer,
    /// We sent our FIN first.
    FinLocal,
    /// The peer reset the connection.
    RstIn,
    /// We reset it.
    RstOut,
    /// The kernel gave up waiting for an acknowledgement.
    Timeout,
}

/// What never changes about a connection once it is established. Read once per connection.
#[derive(Clone, Debug)]
pub struct SocketIdentity {
    /// The socket's cookie.
    pub cookie: SocketCookie,
    /// Our end, IPv4-mapped addresses unwrapped.
    pub local: SocketAddr,
    /// The other end, IPv4-mapped addresses unwrapped.
    pub peer: SocketAddr,
    /// When the SYN arrived (or left, for upstream sockets).
    pub syn_ns: Option<u64>,
    /// When the handshake completed.
    pub established_ns: Option<u64>,
    /// Sequence number of the first payload byte we receive: the peer's ISN + 1.
    pub receive_base: Option<u32>,
    /// Sequence number of the first payload byte we send: our ISN + 1.
    pub send_base: Option<u32>,
    /// The shift by which the peer's advertised windows are scaled.
    pub peer_window_shift: Option<u8>,
    /// The IP and TCP headers of the client's SYN as it arrived; empty where unknown.
    pub syn_headers: SmallVec<[u8; 100]>,
}

/// Running totals of one direction of a connection. The default is that of a newborn connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectionTotals {
    /// Stream offset one past the highest payload byte seen.
    pub offset: u64,
    /// Payload segments, first transmissions and repeats.
    pub segments: u64,
    /// IP bytes of those segments, headers included; absent where the source sees no headers.
    pub ip_bytes: Option<u64>,
    /// Of what is received: segments that began with bytes seen before, or filled a hole. Absent where
    /// the source cannot tell, and of what is sent.
    pub late_segments: Option<u32>,
}

impl Default for DirectionTotals {
    fn default() -> Self {
        Self {
            offset: 0,
            segments: 0,
            ip_bytes: Some(0),
            late_segments: Some(0),
        }
    }
}

/// A connection's state at one moment. Absent means that this source cannot know it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// When these were read.
    pub taken_ns: u64,
    /// What we received.
    pub received: Option<DirectionTotals>,
    /// What we sent.
    pub sent: Option<DirectionTotals>,
    /// Stream offset up to which the peer has acknowledged what we sent.
    pub acked_offset: Option<u64>,
    /// Bytes written to the socket that the kernel has not sent yet.
    pub unsent_bytes: Option<u64>,
    /// Smoothed round trip time, µs.
    pub rtt_us: Option<u32>,
    /// Smallest round trip time, µs.
    pub min_rtt_us: Option<u32>,
    /// Round trip of the handshake, µs.
    pub handshake_rtt_us: Option<u32>,
    /// Segments we re-sent, since the connection began.
    pub retransmits: Option<u32>,
    /// Payload bytes we re-sent, since the connection began.
    pub retransmitted_bytes: Option<u64>,
    /// Retransmission timeouts, since the connection began.
    pub rtos: Option<u32>,
    /// Duplicate acknowledgements received, since the connection began.
    pub dup_acks: Option<u32>,
    /// Congestion window, segments.
    pub cwnd: Option<u32>,
    /// Maximum segment size, bytes.
    pub mss: Option<u32>,
    /// The kernel's delivery rate estimate, bytes per second.
    pub delivery_rate_bytes_per_s: Option<u64>,
    /// The peer reset it, be it the first to end it or not.
    pub peer_reset: bool,
    /// How it ended, once it has.
    pub close: Option<Close>,
    /// When it ended.
    pub closed_ns: Option<u64>,
}

/// One unbroken run of payload in one direction: until the other direction spoke, or the
/// gateway cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// When the first packet passed.
    pub first_ns: u64,
    /// When the packet that carried new payload last passed.
    pub last_ns: u64,
    /// Stream offset of its first byte.
    pub first_offset: u64,
    /// Stream offset one past its last byte.
    pub end_offset: u64,
    /// Payload segments, repeats included.
    pub segments: u32,
    /// Segments re-sent (sent turns: ours; received turns: seen twice or filling a hole).
    pub retransmitted_segments: u32,
    /// Payload bytes of those.
    pub retransmitted_bytes: u64,
    /// IP bytes of the payload segments, headers included, repeats included.
    pub ip_bytes: u64,
    /// When the turn's last byte was last re-sent; 0 if never. Sent turns only.
    pub end_resent_ns: u64,
    /// Retransmission timeouts while a byte of the turn was the oldest in flight. Sent turns only;
    /// absent also where there were more than the ledger counts.
    pub timeouts: Option<u32>,
    /// Smallest TTL or hop limit seen.
    pub ttl_min: u8,
    /// Largest TTL or hop limit seen.
    pub ttl_max: u8,
    /// DSCP of the turn's first packet.
    pub dscp: u8,
    /// ECN bits, or-ed over the turn's packets.
    pub ecn: u8,
    /// TCP flags, or-ed over the turn's packets.
    pub tcp_flags: u8,
    /// How far the peer acknowledged it. Sent turns only.
    pub ack: Acknowledged,
}

/// How the peer acknowledged one sent turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Stream offset acknowledged so far, at most the turn's end.
    pub offset: u64,
    /// When that acknowledgement arrived; 0 before the first.
    pub ns: u64,
    /// Whether that acknowledgement carried payload, and so says nothing about the network.
    pub with_data: bool,
    /// Smallest window the peer advertised while the turn was unacknowledged, bytes, scaled.
    pub window_min: Option<u32>,
    /// Time the window was closed while the turn was unacknowledged.
    pub zero_window_ns: u64,
}

/// The turns of one direction that touch a call, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Oldest first, contiguous in offsets.
    pub turns: SmallVec<[Turn; 3]>,
    /// The ring was lapped: turns older than these belonged to the range too.
    pub lapped: bool,
}

impl Turns {
    /// Takes over what a later look at the same socket knows better, above all acknowledgements.
    ///
    /// A turn that was complete (it ended where `range` ends) and has grown since holds bytes of
    /// somebody else now, a TLS farewell for example: it stays as it was. Turns that the later
    /// look no longer found stay too.
    pub fn freshen(&mut self, later: &Turns, range: &StreamRange) {
        if self.turns.is_empty() {
            self.clone_from(later);
            return;
        }
        for new in &later.turns {
            let end = self.turns.last().map_or(0, |last| last.end_offset);
            match self
                .turns
                .iter_mut()
                .find(|old| old.first_offset == new.first_offset)
            {
                Some(old) => {
                    let has_grown = old.end_offset == range.end && new.end_offset > range.end;
                    if !has_grown {
                        *old = *new;
                    } else if new.ack.offset == range.end {
                        old.ack = new.ack;
                    }
                }
                None if new.first_offset == end && end < range.end => self.turns.push(*new),
                None => {}
            }
        }
    }

    /// Whether the peer acknowledged everything before `offset`.
    pub fn acked(&self, offset: u64) -> bool {
        self.turns
            .iter()
            .any(|turn| turn.ack.ns > 0 && turn.ack.offset >= offset)
    }
}

/// A packet of received payload: the stream offset it reached and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Stream offset of its first byte.
    pub first_offset: u64,
    /// Stream offset one past its last byte.
    pub end_offset: u64,
    /// When it arrived.
    pub ns: u64,
}

/// What a socket can be asked for while a call settles.
#[derive(Clone, Debug, Default)]
pub struct SocketSnapshot {
    /// The connection's state.
    pub counters: Counters,
    /// The sent turns that touch the range asked for.
    pub sent: Turns,
    /// The received ones. What a peer repeats may come after everything else of a call.
    pub received: Turns,
}

/// The bytes of one call on one socket; empty where they are unknown or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRanges {
    /// Of what was sent.
    pub sent: StreamRange,
    /// Of what was received.
    pub received: StreamRange,
}

/// What the kernel saw of connections before they were there. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Handshakes that the kernel began. Of those that it answers with SYN cookies it knows nothing.
    pub begun: u64,
    /// Those that were completed.
    pub established: u64,
    /// Resets of one that was not complete, or of none.
    pub resets: u64,
    /// Packets with neither SYN nor ACK nor RST, which no TCP sends.
    pub stray: u64,
}

/// Stream offsets of one direction that belong to one call.
pub type StreamRange = Range<u64>;

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns as `first-end` or `first-end:acknowledged`.
    fn turns(text: &str) -> Turns {
        let mut turns = Turns::default();
        for turn in text.split_whitespace() {
            let number = |text: &str| text.parse::<u64>().expect("a number");
            let (offsets, acked) = turn.split_once(':').unwrap_or((turn, "0"));
            let (first, end) = offsets.split_once('-').expect("a range");
            let mut turn = Turn {
                first_offset: number(first),
                end_offset: number(end),
                ..Turn::default()
            };
            turn.ack.offset = number(acked);
            turn.ack.ns = turn.ack.offset;
            turns.turns.push(turn);
        }
        turns
    }

    #[test]
    fn a_later_look_adds_what_it_knows_better() {
        for (why, earlier, later, both) in [
            ("nothing was known", "", "0-100:50", "0-100:50"),
            ("acknowledged since", "0-100", "0-100:100", "0-100:100"),
            ("sent on since", "0-40:10", "0-100:60", "0-100:60"),
            (
                "another turn since",
                "0-40:40",
                "40-100:100",
                "0-40:40 40-100:100",
            ),
            ("lapped since", "0-40:40 40-100", "", "0-40:40 40-100"),
            (
                "lapped in part",
                "0-40 40-100",
                "40-100:100",
                "0-40 40-100:100",
            ),
            ("grown after its end", "0-100", "0-130:100", "0-100:100"),
            (
                "grown and acknowledged beyond",
                "0-100:70",
                "0-130:130",
                "0-100:70",
            ),
            (
                "somebody else's",
                "0-100:100",
                "0-100:100 100-200",
                "0-100:100",
            ),
            ("not adjacent", "0-40", "60-100:100", "0-40"),
        ] {
            let mut known = turns(earlier);
            known.freshen(&turns(later), &(0..100));
            assert_eq!(known, turns(both), "{why}");
        }
    }
}
