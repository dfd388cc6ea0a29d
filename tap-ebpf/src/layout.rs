//! The mirror of `bpf/tap.h`, and the only place that interprets bytes the kernel wrote.
//!
//! A test compares every size and offset with the BTF of the built object.

use std::mem::{offset_of, size_of};

/// Turns kept per direction.
pub(crate) const TURNS: usize = 8;
/// Payload packets kept, received direction.
pub(crate) const ARRIVALS: usize = 16;
/// Bytes of the SYN's headers that fit.
pub(crate) const SYN_HEADERS_MAX: usize = 100;
/// No scale is known for the peer's windows.
pub(crate) const WINDOW_SHIFT_UNKNOWN: u8 = 0xff;
/// No window is known.
pub(crate) const WINDOW_UNKNOWN: u32 = u32::MAX;

/// Plain words: any bit pattern is a value.
///
/// # Safety
/// `repr(C)`, no padding, a multiple of 8 bytes in size, no field with invalid values.
pub(crate) unsafe trait Words: Copy {}

/// `struct turn`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    pub(crate) first_offset: u64,
    pub(crate) end_offset: u64,
    pub(crate) resent_end_ns: u64,
    pub(crate) ip_bytes: u64,
    pub(crate) segments: u32,
    pub(crate) resent_segments: u32,
    pub(crate) resent_bytes: u32,
    pub(crate) ttl_min: u8,
    pub(crate) ttl_max: u8,
    pub(crate) tos: u8,
    pub(crate) tcp_flags: u8,
}

/// `struct ack`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) offset: u64,
    pub(crate) ns: u64,
    pub(crate) zero_window_ns: u64,
    pub(crate) window_min: u32,
    pub(crate) serial: u16,
    pub(crate) with_data: u8,
    pub(crate) pad: u8,
}

/// `struct arrival`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) first_offset: u64,
    pub(crate) end_offset: u64,
    pub(crate) ns: u64,
}

/// `struct sent`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) version: u32,
    pub(crate) turns: u32,
    pub(crate) offset: u64,
    pub(crate) segments: u64,
    pub(crate) ip_bytes: u64,
    pub(crate) resent_bytes: u64,
    pub(crate) received_seen: u64,
    pub(crate) cut_seen: u32,
    pub(crate) resent_segments: u32,
    pub(crate) timeouts: u32,
    pub(crate) srtt_us: u32,
    pub(crate) min_rtt_us: u32,
    pub(crate) cwnd: u32,
    pub(crate) mss: u32,
    pub(crate) rate_delivered: u32,
    pub(crate) rate_interval_us: u32,
    pub(crate) fin: u32,
}

/// `struct received`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) version: u32,
    pub(crate) turns: u32,
    pub(crate) offset: u64,
    pub(crate) segments: u64,
    pub(crate) ip_bytes: u64,
    pub(crate) sent_seen: u64,
    pub(crate) acked_offset: u64,
    pub(crate) zero_since_ns: u64,
    pub(crate) zero_pending_ns: u64,
    pub(crate) zero_turn: u32,
    pub(crate) cut_seen: u32,
    pub(crate) late_segments: u32,
    pub(crate) dup_acks: u32,
    pub(crate) window: u32,
    pub(crate) arrivals: u32,
    pub(crate) rst: u32,
    pub(crate) pad: u32,
}

/// The part of `struct ledger` before its halves: who the socket is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cookie: u64,
    pub(crate) syn_ns: u64,
    pub(crate) established_ns: u64,
    pub(crate) closed_ns: u64,
    pub(crate) local: [u8; 16],
    pub(crate) remote: [u8; 16],
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) receive_base: u32,
    pub(crate) send_base: u32,
    pub(crate) peer_window_shift: u8,
    pub(crate) close: u8,
    pub(crate) syn_length: u8,
    pub(crate) pad: u8,
    pub(crate) syn: [u8; SYN_HEADERS_MAX],
    pub(crate) handshake_rtt_us: u32,
}

/// `struct ledger`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ledger {
    pub(crate) identity: Identity,
    pub(crate) sent: Sent,
    pub(crate) received: Received,
    pub(crate) cut_sent: u32,
    pub(crate) cut_received: u32,
    pub(crate) pad_turns: u64,
    pub(crate) sent_turns: [Turn; TURNS],
    pub(crate) received_turns: [Turn; TURNS],
    pub(crate) acks: [Ack; TURNS],
    pub(crate) arrivals: [Arrival; ARRIVALS],
}

/// `struct event`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) cookie: u64,
    pub(crate) slot: u32,
    pub(crate) pad: u32,
}

/// `struct packet`, as far as a socket's storage holds one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Socket {
    pub(crate) lock: u32,
    pub(crate) place: u32,
    pub(crate) early: [u64; 5],
}

// SAFETY: all of them are integers and arrays of integers, padded in the open.
unsafe impl Words for Turn {}
// SAFETY: as above.
unsafe impl Words for Ack {}
// SAFETY: as above.
unsafe impl Words for Arrival {}
// SAFETY: as above.
unsafe impl Words for Sent {}
// SAFETY: as above.
unsafe impl Words for Received {}
// SAFETY: as above.
unsafe impl Words for Identity {}

// SAFETY: integers only, no implicit padding: the sizes below leave no room for any.
unsafe impl aya::Pod for Socket {}

const _: () = {
    assert!(size_of::<Turn>() == 64);
    assert!(size_of::<Ack>() == 32);
    assert!(size_of::<Arrival>() == 24);
    assert!(size_of::<Sent>() == 88);
    assert!(size_of::<Received>() == 96);
    assert!(size_of::<Identity>() == 184);
    assert!(size_of::<Ledger>() == 2048);
    assert!(size_of::<Event>() == 16);
    assert!(size_of::<Socket>() == 48);
    assert!(offset_of!(Ledger, sent) == 184);
    assert!(offset_of!(Ledger, received) == 272);
    assert!(offset_of!(Ledger, cut_sent) == 368);
    assert!(offset_of!(Ledger, sent_turns) == 384);
};

/// Why something is not in a ledger, in the order of `enum count`; the first is no loss.
pub(crate) const COUNTS: [&str; 8] = [
    "taken",
    "no_slot",
    "no_storage",
    "no_index",
    "event_lost",
    "bad_packet",
    "out_of_window",
    "bad_ack",
];

/// Index of the slots taken so far in [`COUNTS`].
pub(crate) const COUNT_TAKEN: u32 = 0;

/// `enum close`
pub(crate) fn close_of(raw: u8) -> Option<calltap_correlate::socket::Close> {
    use calltap_correlate::socket::Close;
    match raw {
        1 => Some(Close::FinPeer),
        2 => Some(Close::FinLocal),
        3 => Some(Close::RstIn),
        4 => Some(Close::RstOut),
        5 => Some(Close::Timeout),
        _ => None,
    }
}
