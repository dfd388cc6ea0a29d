//! Packets as they come in on a device, below everything that TCP does with them.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context as _;
use nix::sys::socket::LinkAddr;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, sockopt};

use crate::lab::Namespace;
use crate::truth::evidence::Family;

/// What the socket may hold until it is read.
const BUFFER_BYTES: usize = 16 << 20;
const FRAME_BYTES_MAX: usize = 65_536;
/// The header below IP.
pub const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const TCP: u8 = 6;

/// A socket that takes what comes in on one device, and sends whole frames out on it.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    address: [u8; 6],
}

impl PacketSocket {
    /// On `device` of `host`, for the packets of one family.
    pub fn open(host: &Namespace, device: &str, family: Family) -> anyhow::Result<Self> {
        host.run(|| {
            let link = link(device)?;
            // Not all protocols: that would show what goes out, too.
            let kind: u16 = match family {
                Family::V4 | Family::Mapped => 0x0800,
                Family::V6 => 0x86dd,
            };
            let protocol = NonZeroU32::new(kind.to_be().into()).map(Protocol::from_raw);
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket =
                rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol)?;
            sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
            nix::sys::socket::bind(socket.as_raw_fd(), &link)?;
            let address = link.addr().context("a device without an address")?;
            Ok(Self { socket, address })
        })?
    }

    /// The device's own address.
    pub fn address(&self) -> [u8; 6] {
        self.address
    }

    /// The socket, to wait for.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The next frame that is there, if any.
    pub fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        match rustix::net::recv(&self.socket, &mut frame[..], RecvFlags::empty()) {
            Ok((_, bytes)) => {
                frame.truncate(bytes);
                Ok(Some(frame))
            }
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The address of a device of the namespace that the calling thread is in.
pub fn link(device: &str) -> anyhow::Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {device}"))
}

/// Where in a frame the TCP segment begins, if it is one.
pub fn segment_at(frame: &[u8]) -> Option<usize> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&TCP) => {
            Some(ETHERNET_BYTES + usize::from(packet[0] & 0x0f) * 4)
        }
        6 if packet.get(6) == Some(&TCP) => Some(ETHERNET_BYTES + IPV6_BYTES),
        _ => None,
    }
}
