//! A TCP client in user space that acknowledges when it is told to.
//!
//! The kernel's own delayed ACK cannot be stretched to a length worth measuring, so this client
//! speaks TCP itself over a raw socket: one connection, in order, no retransmission, IPv4. The
//! kernel knows nothing of the connection and would reset it; [`quiet_kernel`] keeps it from doing
//! so. Only for a namespace of a [`lab`](crate::lab).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

use crate::lab::Namespace;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// The window offered, never closed.
const WINDOW: u16 = 65_535;
/// The largest segment taken; fits a veth.
const MSS: u16 = 1_400;
/// A peer that is silent for longer is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// One established connection.
pub struct RawClient {
    socket: OwnedFd,
    local: (Ipv4Addr, u16),
    peer: (Ipv4Addr, u16),
    /// The next sequence number we send.
    next: u32,
    /// The next sequence number we expect, and so what we acknowledge.
    expected: u32,
}

/// Keeps the kernel of `namespace` from resetting connections it does not know. Stays until the
/// namespace goes.
pub fn quiet_kernel(namespace: &Namespace) -> anyhow::Result<()> {
    namespace.nft(
        "table inet raw_client { chain out { type filter hook output priority 0; \
         tcp flags & rst == rst drop; }; }",
    )
}

impl RawClient {
    /// Connects from `local` (address and a port nobody uses) to `peer`. To be called inside the
    /// namespace.
    pub fn connect(local: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(ipproto::TCP),
        )?;
        rustix::net::bind(&socket, &SocketAddr::new(local.ip(), 0))?;
        rustix::net::connect(&socket, &SocketAddr::new(peer.ip(), 0))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        let mut client = Self {
            socket,
            local: (v4(local.ip())?, local.port()),
            peer: (v4(peer.ip())?, peer.port()),
            next: 0x1000_0000,
            expected: 0,
        };
        client.send(SYN, &[])?;
        client.next = client.next.wrapping_add(1);
        let answer = client.receive()?;
        if answer.flags & (SYN | ACK) != SYN | ACK {
            return Err(io::Error::other("the SYN was not answered by a SYN-ACK"));
        }
        client.expected = answer.sequence.wrapping_add(1);
        client.send(ACK, &[])?;
        Ok(client)
    }

    /// Sends `request`, waits for a response that ends with `end`, and acknowledges it `delay`
    /// later. Returns how long after the response the ACK really went out.
    pub fn call(&mut self, request: &[u8], end: &[u8], delay: Duration) -> io::Result<Duration> {
        self.send(PSH | ACK, request)?;
        self.next = self
            .next
            .wrapping_add(u32::try_from(request.len()).unwrap_or(u32::MAX));
        let mut response = Vec::new();
        while !response.ends_with(end) {
            let segment = self.receive()?;
            if segment.payload.is_empty() {
                continue;
            }
            if segment.sequence != self.expected {
                return Err(io::Error::other(
                    "the gateway sent a segment twice or out of order",
                ));
            }
            let length = u32::try_from(segment.payload.len()).unwrap_or(u32::MAX);
            self.expected = self.expected.wrapping_add(length);
            response.extend_from_slice(&segment.payload);
        }
        let complete = Instant::now();
        thread::sleep(delay);
        let waited = complete.elapsed();
        self.send(ACK, &[])?;
        Ok(waited)
    }

    /// Says goodbye and forgets the connection.
    pub fn close(self) -> io::Result<()> {
        self.send(FIN | ACK, &[])
    }

    fn send(&self, flags: u8, payload: &[u8]) -> io::Result<()> {
        let options: &[u8] = if flags & SYN != 0 {
            &[2, 4, (MSS >> 8) as u8, (MSS & 0xff) as u8]
        } else {
            &[]
        };
        let header_bytes = 20 + options.len();
        let mut segment = Vec::with_capacity(header_bytes + payload.len());
        segment.extend_from_slice(&self.local.1.to_be_bytes());
        segment.extend_from_slice(&self.peer.1.to_be_bytes());
        segment.extend_from_slice(&self.next.to_be_bytes());
        let acknowledged = if flags & ACK != 0 { self.expected } else { 0 };
        segment.extend_from_slice(&acknowledged.to_be_bytes());
        segment.push(((header_bytes / 4) as u8) << 4);
        segment.push(flags);
        segment.extend_from_slice(&WINDOW.to_be_bytes());
        segment.extend_from_slice(&[0; 4]);
        segment.extend_from_slice(options);
        segment.extend_from_slice(payload);
        let sum = checksum(&self.local.0.octets(), &self.peer.0.octets(), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        rustix::net::send(&self.socket, &segment, SendFlags::empty())?;
        Ok(())
    }

    /// The next segment of our connection.
    fn receive(&self) -> io::Result<Segment> {
        let mut packet = vec![0; 128 * 1024];
        loop {
            let (_, bytes) = rustix::net::recv(&self.socket, &mut packet[..], RecvFlags::empty())?;
            let Some(segment) = parse(&packet[..bytes]) else {
                continue;
            };
            if (segment.from, segment.to) == (self.peer.1, self.local.1) {
                return Ok(segment);
            }
        }
    }
}

struct Segment {
    from: u16,
    to: u16,
    sequence: u32,
    flags: u8,
    payload: Vec<u8>,
}

/// Takes an IPv4 packet apart.
fn parse(packet: &[u8]) -> Option<Segment> {
    let ip_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let tcp = packet.get(ip_bytes..total.min(packet.len()))?;
    let tcp_bytes = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        from: u16::from_be_bytes(tcp.get(0..2)?.try_into().ok()?),
        to: u16::from_be_bytes(tcp.get(2..4)?.try_into().ok()?),
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        flags: *tcp.get(13)?,
        payload: tcp.get(tcp_bytes..)?.to_vec(),
    })
}

/// Of a TCP segment between two addresses of either family, the segment's own field included: 0 where
/// that is right.
pub(crate) fn checksum(from: &[u8], to: &[u8], segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let pseudo = [from, to, &[0, 6], &length[..]].concat();
    let mut sum = 0_u32;
    for pair in pseudo.chunks(2).chain(segment.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn v4(address: IpAddr) -> io::Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(io::Error::other("this client speaks IPv4 only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_its_checksum_sums_to_nothing() {
        let (from, to) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut segment = vec![
            0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff,
        ];
        segment.extend_from_slice(&[0, 0, 0, 0, b'o', b'd', b'd']);
        let sum = checksum(&from, &to, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&from, &to, &segment), 0);
    }

    #[test]
    fn padding_below_the_smallest_frame_is_no_payload() {
        let mut packet = vec![
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        packet.extend_from_slice(&[0, 80, 0x12, 0x34, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 0x10, 0, 0]);
        packet.extend_from_slice(&[0; 4]);
        packet.extend_from_slice(&[0; 6]);
        let segment = parse(&packet).unwrap();
        assert_eq!((segment.from, segment.to), (80, 0x1234));
        assert_eq!(
            (segment.sequence, segment.flags, segment.payload.len()),
            (9, ACK, 0)
        );
    }
}
