//! What a capture says of one connection, read from its packets alone.
//!
//! Shares no code with calltap: a capture file, Ethernet, IPv4 and TCP headers, and arithmetic on
//! sequence numbers. Only for captures of a few thousand packets; all of it is held in memory.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, ensure};

/// FIN, of the flags in a TCP header.
pub const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A TCP segment as captured.
#[derive(Clone, Debug)]
pub struct Packet {
    /// µs since the epoch, as the capture's clock has it.
    pub at_us: u64,
    /// Who sent it.
    pub from: SocketAddr,
    /// Who was to have it.
    pub to: SocketAddr,
    /// Of its first byte.
    pub sequence: u32,
    /// What it acknowledges.
    pub acknowledged: u32,
    /// TCP flags.
    pub flags: u8,
    /// As in the header, unscaled.
    pub window: u16,
    /// Bytes.
    pub payload: u32,
    /// The first of them.
    begin: Vec<u8>,
}

/// Enough of a payload to hold the head of a response.
const BEGIN_BYTES: usize = 2_000;

/// Every TCP segment of a capture file of Ethernet frames, in nanoseconds or microseconds.
pub fn read(file: &Path) -> anyhow::Result<Vec<Packet>> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let per_us = match word(0) {
        Some(0xa1b2_c3d4) => 1,
        Some(0xa1b2_3c4d) => 1000,
        other => anyhow::bail!("{} is no capture: {other:x?}", file.display()),
    };
    ensure!(word(20) == Some(1), "{} is not of Ethernet", file.display());
    let mut packets = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(fraction), Some(length)) = (word(at), word(at + 4), word(at + 8))
    {
        let at_us = u64::from(seconds) * 1_000_000 + u64::from(fraction / per_us);
        let Some(frame) = bytes.get(at + 16..at + 16 + length as usize) else {
            break; // still being written
        };
        packets.extend(segment(frame, at_us));
        at += 16 + length as usize;
    }
    Ok(packets)
}

fn segment(frame: &[u8], at_us: u64) -> Option<Packet> {
    let short = |bytes: &[u8], at: usize| -> Option<u16> {
        Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
    };
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    if short(frame, 12)? != 0x0800 {
        return None;
    }
    let ip = &frame[14..];
    let ip_header = usize::from(ip.first()? & 0xf) * 4;
    if *ip.get(9)? != 6 {
        return None;
    }
    let tcp = ip.get(ip_header..)?;
    let tcp_header = usize::from(tcp.get(12)? >> 4) * 4;
    let total = usize::from(short(ip, 2)?);
    let payload = ip.get(ip_header + tcp_header..total.min(ip.len()));
    let end = |address: usize, port: usize| {
        let ip = Ipv4Addr::from(word(ip, address)?);
        Some(SocketAddr::from((ip, short(tcp, port)?)))
    };
    Some(Packet {
        at_us,
        from: end(12, 0)?,
        to: end(16, 2)?,
        sequence: word(tcp, 4)?,
        acknowledged: word(tcp, 8)?,
        flags: tcp[13],
        window: short(tcp, 14)?,
        payload: u32::try_from(total.checked_sub(ip_header + tcp_header)?).ok()?,
        begin: payload
            .unwrap_or_default()
            .iter()
            .take(BEGIN_BYTES)
            .copied()
            .collect(),
    })
}

/// The first packet that ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The peer's FIN.
    FinPeer,
    /// The gateway's FIN.
    FinLocal,
    /// The peer's RST.
    RstIn,
    /// The gateway's RST.
    RstOut,
}

impl First {
    /// As the record has it.
    pub fn word(self) -> &'static str {
        match self {
            First::FinPeer => "fin_peer",
            First::FinLocal => "fin_local",
            First::RstIn => "rst_in",
            First::RstOut => "rst_out",
        }
    }
}

/// One connection of the gateway's, as the wire shows it. Offsets count the gateway's payload.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Every packet of it.
    pub packets: Vec<Packet>,
    gateway: SocketAddr,
    /// Sequence number of the gateway's first payload byte.
    base: u32,
    /// One past the highest byte the gateway sent.
    pub sent: u64,
    /// How far the peer acknowledged, FIN not counted.
    pub acked: u64,
    /// Payload bytes the peer sent, repeats not counted.
    pub received: u64,
    /// What ended it first, if something did.
    pub first: Option<First>,
    /// When the gateway sent segments with payload again, µs since the epoch.
    resent_us: Vec<u64>,
}

impl Connection {
    /// The connection between the gateway's end `gateway` and `peer`.
    pub fn of(packets: &[Packet], gateway: SocketAddr, peer: SocketAddr) -> anyhow::Result<Self> {
        let packets: Vec<Packet> = packets
            .iter()
            .filter(|packet| {
                (packet.from, packet.to) == (gateway, peer)
                    || (packet.from, packet.to) == (peer, gateway)
            })
            .cloned()
            .collect();
        let base_of = |from: SocketAddr| {
            packets
                .iter()
                .find(|packet| packet.from == from && packet.flags & SYN != 0)
                .map(|syn| syn.sequence.wrapping_add(1))
                .with_context(|| format!("no SYN of {from} was captured"))
        };
        let (base, peer_base) = (base_of(gateway)?, base_of(peer)?);
        let mut connection = Self {
            gateway,
            base,
            sent: 0,
            acked: 0,
            received: 0,
            first: None,
            resent_us: Vec::new(),
            packets: Vec::new(),
        };
        for packet in &packets {
            connection.see(packet, peer_base);
        }
        connection.packets = packets;
        Ok(connection)
    }

    fn see(&mut self, packet: &Packet, peer_base: u32) {
        let is_ours = packet.from == self.gateway;
        if packet.flags & SYN != 0 {
            return;
        }
        let base = if is_ours { self.base } else { peer_base };
        let end = u64::from(packet.sequence.wrapping_sub(base)) + u64::from(packet.payload);
        if packet.payload > 0 {
            let high = if is_ours {
                &mut self.sent
            } else {
                &mut self.received
            };
            if end > *high {
                *high = end;
            } else if is_ours {
                self.resent_us.push(packet.at_us);
            }
        }
        if !is_ours && packet.flags & ACK != 0 {
            let acked = u64::from(packet.acknowledged.wrapping_sub(self.base));
            // That of a FIN, or in a reset that may claim anything, is beyond what was sent.
            if acked <= self.sent + 1 {
                self.acked = self.acked.max(acked.min(self.sent));
            }
        }
        let ends = match (is_ours, packet.flags & (FIN | RST)) {
            (_, 0) => None,
            (false, flags) if flags & RST != 0 => Some(First::RstIn),
            (true, flags) if flags & RST != 0 => Some(First::RstOut),
            (false, _) => Some(First::FinPeer),
            (true, _) => Some(First::FinLocal),
        };
        self.first = self.first.or(ends);
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        let others = |packet: &Packet| [packet.from, packet.to];
        let mut ends = self.packets.iter().flat_map(others);
        ends.find(|end| *end != self.gateway)
            .unwrap_or(self.gateway)
    }

    /// When the peer closed its window for the last time, and when it opened it again.
    pub fn window_closed(&self) -> Option<(u64, Option<u64>)> {
        let mut closed = None;
        for packet in &self.packets {
            if packet.from == self.gateway || packet.flags & (SYN | RST) != 0 {
                continue;
            }
            closed = match (closed, packet.window) {
                (None | Some((_, Some(_))), 0) => Some((packet.at_us, None)),
                (Some((since, None)), 1..) => Some((since, Some(packet.at_us))),
                (other, _) => other,
            };
        }
        closed
    }

    /// Segments that the gateway had sent again by `until_us`.
    pub fn resent_until(&self, until_us: u64) -> u64 {
        self.resent_us.iter().filter(|at| **at <= until_us).count() as u64
    }

    /// When the peer reset it, if it did.
    pub fn reset_us(&self) -> Option<u64> {
        let is_reset = |packet: &&Packet| packet.from != self.gateway && packet.flags & RST != 0;
        Some(self.packets.iter().find(is_reset)?.at_us)
    }

    /// How often the gateway sent the segment again that the peer was to acknowledge next, before
    /// `until_us`: what a retransmission timeout does.
    pub fn repeats_of_the_oldest(&self, until_us: u64) -> u64 {
        let (mut acked, mut high, mut repeats) = (0, 0, 0);
        for packet in &self.packets {
            if packet.flags & SYN != 0 || packet.at_us > until_us {
                continue;
            }
            if packet.from == self.gateway {
                let first = u64::from(packet.sequence.wrapping_sub(self.base));
                if packet.payload > 0 && first == acked && first < high {
                    repeats += 1;
                }
                high = high.max(first + u64::from(packet.payload));
            } else if packet.flags & ACK != 0 {
                acked = acked.max(u64::from(packet.acknowledged.wrapping_sub(self.base)));
            }
        }
        repeats
    }

    /// Bytes of the response head with which the gateway's payload from `start` begins.
    pub fn head_bytes(&self, start: u64) -> Option<u64> {
        let first = self.packets.iter().find(|packet| {
            packet.from == self.gateway
                && packet.payload > 0
                && u64::from(packet.sequence.wrapping_sub(self.base)) == start
        })?;
        let end = first
            .begin
            .windows(4)
            .position(|four| four == b"\r\n\r\n")?;
        Some(end as u64 + 4)
    }
}
