//! Packets made by hand.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, SocketType};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The address of an IPv4 connection.
pub(crate) fn v4(address: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(address) = address else {
        panic!("an IPv4 address")
    };
    address
}

/// A socket that sends whole IPv4 packets.
pub(crate) fn raw_socket() -> OwnedFd {
    let raw = Protocol::from_raw(255.try_into().unwrap());
    rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(raw)).unwrap()
}

/// Routers on the way have left a packet made here with so much: none that a kernel makes has it.
pub(crate) const TTL: u8 = 77;
/// The window of a packet that says nothing of it, before it is scaled.
pub(crate) const WINDOW: u16 = 0x8000;

/// A TCP packet with every field at will and the checksums right.
pub(crate) fn forged(
    from: SocketAddrV4,
    to: SocketAddrV4,
    seq: u32,
    ack: u32,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    forged_with_window(from, to, seq, ack, flags, WINDOW, payload)
}

/// The same, with a window too.
pub(crate) fn forged_with_window(
    from: SocketAddrV4,
    to: SocketAddrV4,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([5 << 4, flags]);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
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
    ip.extend([0, 0, 0x40, 0, TTL, 6, 0, 0]);
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
