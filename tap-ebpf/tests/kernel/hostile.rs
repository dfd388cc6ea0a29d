//! Packets that TCP refuses: they change nothing in a ledger.

use std::net::{SocketAddr, SocketAddrV4};

use rustix::net::{AddressFamily, SendFlags, SocketType};

use crate::support::{LOOPBACK, eventually, in_own_network, tapped, transfer};

const ACK: u8 = 0x10;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;

/// A TCP packet as an attacker would make it: every field at will, the checksums right.
fn forged(
    from: SocketAddrV4,
    to: SocketAddrV4,
    seq: u32,
    ack: u32,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([5 << 4, flags, 0x02, 0, 0, 0, 0, 0]);
    tcp.extend(payload);
    let mut summed = Vec::new();
    summed.extend(from.ip().octets());
    summed.extend(to.ip().octets());
    summed.extend([0, 6]);
    summed.extend((tcp.len() as u16).to_be_bytes());
    summed.extend(&tcp);
    let sum = checksum(&summed);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + tcp.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 77, 6, 0, 0]);
    ip.extend(from.ip().octets());
    ip.extend(to.ip().octets());
    ip.extend(tcp);
    ip
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(address) = address else {
        panic!("an IPv4 address")
    };
    address
}

#[test]
fn forged_packets_change_nothing_but_a_counter() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let (mut client, mut ours, ledger) = tapped.pair(&listener);
        transfer(&mut client, &mut ours, 1000);
        transfer(&mut ours, &mut client, 500);
        eventually("all is acknowledged", || ledger.acked_offset() == 500);
        let identity = ledger.identity().unwrap();
        let next = identity.receive_base.unwrap().wrapping_add(1000);
        let acked = identity.send_base.unwrap().wrapping_add(500);
        let (from, to) = (v4(identity.peer), v4(identity.local));
        let raw = rustix::net::socket(
            AddressFamily::INET,
            SocketType::RAW,
            Some(rustix::net::Protocol::from_raw(255.try_into().unwrap())),
        )
        .unwrap();
        let far = 1 << 31;
        let send = |seq: u32, ack: u32, flags: u8, payload: &[u8]| {
            let packet = forged(from, to, seq, ack, flags, payload);
            rustix::net::sendto(&raw, &packet, SendFlags::empty(), &to).unwrap();
        };
        let before = ledger.counters(0);
        for (seq, ack, flags, payload, reason) in [
            (
                next.wrapping_add(far),
                acked,
                ACK,
                &b"too far ahead"[..],
                "out_of_window",
            ),
            (
                next.wrapping_sub(far),
                acked,
                ACK,
                b"too far behind",
                "out_of_window",
            ),
            (
                next,
                acked.wrapping_add(1),
                ACK,
                b"acknowledges the unsent",
                "bad_ack",
            ),
            (next, acked.wrapping_add(far - 1), ACK, b"", "bad_ack"),
            (next, acked, 0, b"no ACK at all", "bad_ack"),
            // Our FIN was not sent, so nobody can acknowledge it.
            (next, acked.wrapping_add(1), ACK | FIN, b"", "bad_ack"),
        ] {
            let booked = tapped.dropped(reason);
            send(seq, ack, flags, payload);
            eventually("it is booked", || tapped.dropped(reason) == booked + 1);
        }
        send(next.wrapping_add(far), 0, RST, b"");
        let after = ledger.counters(0);
        assert_eq!(after, before);
        assert_eq!(ledger.received(&(0..10_000)).turns.len(), 1);
        // And the connection goes on, with ranges as if nothing had been.
        transfer(&mut client, &mut ours, 10);
        transfer(&mut ours, &mut client, 20);
        assert_eq!(
            (ledger.received_offset(), ledger.sent_offset()),
            (1010, 520)
        );
        drop(client);
        eventually("it ended", || ledger.counters(0).close.is_some());
        assert_eq!(
            ledger.counters(0).close,
            Some(calltap_correlate::socket::Close::FinPeer)
        );
    });
}
