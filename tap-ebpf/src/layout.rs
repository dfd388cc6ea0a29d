//! The mirror of `bpf/tap.h`, and the only place that interprets bytes the kernel wrote.
//!
//! A test compares every size and offset with the BTF of the built object.

use std::mem::{offset_of, size_of};

/// Turns kept per direction.
pub(crate) const TURNS: usize = 8;
/// Payload packets kept, received direction: the newest ones.
pub(crate) const ARRIVALS_RECENT: usize = 8;
/// And the first ones of the newest turn.
pub(crate) const ARRIVALS_FIRST: usize = 8;
/// Bytes of the SYN's headers that fit.
pub(crate) const SYN_HEADERS_MAX: usize = 100;
/// No scale is known for the peer's windows.
pub(crate) const WINDOW_SHIFT_UNKNOWN: u8 = 0xff;
/// As many timeouts of a turn, or more.
pub(crate) const TIMEOUTS_MAX: u8 = 0xff;
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
    pub(crate) rst: u16,
    pub(crate) fin: u16,
    pub(crate) turn_arrivals: u32,
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
    pub(crate) turn_timeouts: [u8; TURNS],
    pub(crate) sent_turns: [Turn; TURNS],
    pub(crate) received_turns: [Turn; TURNS],
    pub(crate) acks: [Ack; TURNS],
    pub(crate) arrivals: [Arrival; ARRIVALS_RECENT + ARRIVALS_FIRST],
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
    pub(crate) faces_clients: u32,
    pub(crate) listener: u32,
    pub(crate) permitted: u32,
    pub(crate) pad: u32,
    pub(crate) early: [u64; 5],
}

/// Listeners that are counted.
pub(crate) const LISTENERS: u32 = 256;
/// Networks that share a hash.
pub(crate) const SOURCE_WAYS: usize = 4;
/// How many hashes there are.
pub(crate) const SOURCE_SETS: u32 = 1024;
/// Marks an IPv4 network, whose first bits are the lowest of the word.
pub(crate) const SOURCE_V4: u64 = 1 << 62;
/// Marks an IPv6 network.
pub(crate) const SOURCE_V6: u64 = 1 << 63;

/// `struct listener`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    pub(crate) syns: u64,
    pub(crate) begun: u64,
    pub(crate) established: u64,
    pub(crate) resets: u64,
    pub(crate) stray: u64,
    pub(crate) pad: [u64; 3],
}

/// `struct source`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) network: u64,
    pub(crate) seen_ns: u64,
    pub(crate) begun: u32,
    pub(crate) established: u32,
    pub(crate) resets: u32,
    pub(crate) stray: u32,
}

/// `struct sources`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources {
    pub(crate) ways: [Source; SOURCE_WAYS],
}

/// `struct hits`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hits {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// In place of the index of a network's hits: it is let through.
pub(crate) const ROW_PASS: u32 = 0;

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
    assert!(size_of::<Socket>() == 64);
    assert!(size_of::<Hits>() == 16);
    assert!(size_of::<Listener>() == 64);
    assert!(size_of::<Source>() == 32);
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

#[cfg(test)]
mod tests {
    //! Compares the mirror with the types that clang described in the object.

    use std::collections::HashMap;

    use super::*;

    const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tap.bpf.o"));

    /// A structure or an enumeration: its size, and its members with their offsets or values.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Shape {
        size: usize,
        members: Vec<(String, usize)>,
    }

    fn u16_at(bytes: &[u8], at: usize) -> usize {
        u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap()).into()
    }

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn u64_at(bytes: &[u8], at: usize) -> usize {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
    }

    fn text_at(bytes: &[u8], at: usize) -> String {
        let text = &bytes[at..];
        let end = text.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(text[..end].to_vec()).unwrap()
    }

    /// A section of a 64-bit ELF file.
    fn section<'a>(elf: &'a [u8], name: &str) -> &'a [u8] {
        let (headers, size) = (u64_at(elf, 0x28), u16_at(elf, 0x3a));
        let (count, names) = (u16_at(elf, 0x3c), u16_at(elf, 0x3e));
        let body = |n: usize| {
            let header = &elf[headers + n * size..][..size];
            &elf[u64_at(header, 0x18)..][..u64_at(header, 0x20)]
        };
        let found = (0..count).find(|n| {
            let header = &elf[headers + n * size..][..size];
            text_at(body(names), u32_at(header, 0)) == name
        });
        body(found.expect("the object has this section"))
    }

    /// Every named structure and enumeration of the object.
    fn shapes() -> HashMap<String, Shape> {
        const ARRAY: usize = 3;
        const STRUCT: usize = 4;
        const UNION: usize = 5;
        const ENUM: usize = 6;
        let btf = section(OBJECT, ".BTF");
        let header = u32_at(btf, 4);
        let types = &btf[header + u32_at(btf, 8)..][..u32_at(btf, 12)];
        let strings = &btf[header + u32_at(btf, 16)..][..u32_at(btf, 20)];
        let mut found = HashMap::new();
        let mut at = 0;
        while at < types.len() {
            let (name, info, size) = (
                text_at(strings, u32_at(types, at)),
                u32_at(types, at + 4),
                u32_at(types, at + 8),
            );
            let (kind, members) = (info >> 24 & 0x1f, info & 0xffff);
            at += 12;
            let member_bytes = match kind {
                STRUCT | UNION | 15 | 19 => 12, // and DATASEC, ENUM64
                ENUM | 13 => 8,                 // and FUNC_PROTO
                ARRAY => 12,
                1 | 14 | 17 => 4, // INT, VAR, DECL_TAG
                _ => 0,
            };
            let count = match kind {
                ARRAY | 1 | 14 | 17 => 1,
                _ => members,
            };
            let shape = Shape {
                size,
                members: (0..members)
                    .map(|n| at + n * member_bytes)
                    .map(|member| match kind {
                        STRUCT => (
                            text_at(strings, u32_at(types, member)),
                            u32_at(types, member + 8) / 8,
                        ),
                        _ => (
                            text_at(strings, u32_at(types, member)),
                            u32_at(types, member + 4),
                        ),
                    })
                    .filter(|_| kind == STRUCT || kind == ENUM)
                    .collect(),
            };
            if kind == STRUCT || kind == ENUM {
                found.insert(name, shape);
            }
            at += count * member_bytes;
        }
        found
    }

    macro_rules! mirror {
        ($type:ident { $($field:ident),* $(,)? }) => {
            Shape {
                size: size_of::<$type>(),
                members: vec![$((stringify!($field).to_owned(), offset_of!($type, $field))),*],
            }
        };
    }

    #[test]
    fn every_structure_is_the_kernels() {
        let shapes = shapes();
        let mut ledger = mirror!(Identity {
            cookie,
            syn_ns,
            established_ns,
            closed_ns,
            local,
            remote,
            local_port,
            remote_port,
            receive_base,
            send_base,
            peer_window_shift,
            close,
            syn_length,
            pad,
            syn,
            handshake_rtt_us,
        });
        let rest = mirror!(Ledger {
            sent,
            received,
            cut_sent,
            cut_received,
            turn_timeouts,
            sent_turns,
            received_turns,
            acks,
            arrivals,
        });
        ledger.size = rest.size;
        ledger.members.extend(rest.members);
        for (name, mirrored) in [
            (
                "turn",
                mirror!(Turn {
                    first_ns,
                    last_ns,
                    first_offset,
                    end_offset,
                    resent_end_ns,
                    ip_bytes,
                    segments,
                    resent_segments,
                    resent_bytes,
                    ttl_min,
                    ttl_max,
                    tos,
                    tcp_flags,
                }),
            ),
            (
                "ack",
                mirror!(Ack {
                    offset,
                    ns,
                    zero_window_ns,
                    window_min,
                    serial,
                    with_data,
                    pad,
                }),
            ),
            (
                "arrival",
                mirror!(Arrival {
                    first_offset,
                    end_offset,
                    ns
                }),
            ),
            (
                "sent",
                mirror!(Sent {
                    version,
                    turns,
                    offset,
                    segments,
                    ip_bytes,
                    resent_bytes,
                    received_seen,
                    cut_seen,
                    resent_segments,
                    timeouts,
                    srtt_us,
                    min_rtt_us,
                    cwnd,
                    mss,
                    rate_delivered,
                    rate_interval_us,
                    fin,
                }),
            ),
            (
                "received",
                mirror!(Received {
                    version,
                    turns,
                    offset,
                    segments,
                    ip_bytes,
                    sent_seen,
                    acked_offset,
                    zero_since_ns,
                    zero_pending_ns,
                    zero_turn,
                    cut_seen,
                    late_segments,
                    dup_acks,
                    window,
                    arrivals,
                    rst,
                    fin,
                    turn_arrivals,
                }),
            ),
            (
                "socket",
                mirror!(Socket {
                    lock,
                    place,
                    faces_clients,
                    listener,
                    permitted,
                    pad,
                    early
                }),
            ),
            ("hits", mirror!(Hits { packets, bytes })),
            (
                "listener",
                mirror!(Listener {
                    syns,
                    begun,
                    established,
                    resets,
                    stray,
                    pad
                }),
            ),
            (
                "source",
                mirror!(Source {
                    network,
                    seen_ns,
                    begun,
                    established,
                    resets,
                    stray
                }),
            ),
            ("sources", mirror!(Sources { ways })),
            ("event", mirror!(Event { cookie, slot, pad })),
            ("ledger", ledger),
        ] {
            assert_eq!(shapes[name], mirrored, "{name}");
        }
    }

    #[test]
    fn every_count_and_close_has_its_name() {
        let shapes = shapes();
        let names: Vec<_> = shapes["count"]
            .members
            .iter()
            .map(|(name, _)| name.trim_start_matches("COUNT_").to_lowercase())
            .filter(|name| name != "counts")
            .collect();
        assert_eq!(names, COUNTS);
        for (name, value) in &shapes["close"].members {
            let ours = close_of(*value as u8);
            let ours = ours.map_or("unknown".to_owned(), |close| format!("{close:?}"));
            let theirs = name.trim_start_matches("CLOSE_").replace('_', "");
            assert_eq!(ours.to_lowercase(), theirs.to_lowercase());
        }
    }
}
