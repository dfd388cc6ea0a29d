//! Foretells the sequence numbers that connections will begin with, to have them cross zero.
//!
//! Linux takes a secret of the two ends and adds the time, in units of 64 ns: whoever saw one
//! connection begin knows when the next one between the same ends begins just below zero. Both ends
//! of a connection do so, each with a secret of its own.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::client::{connect_from, reset_on_close};
use crate::lab::Namespace;
use crate::truth::evidence::Family;
use crate::truth::packet_socket::{PacketSocket, segment_at};

/// The unit of time in a sequence number, ns.
const UNIT_NS: u64 = 64;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Which end's sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// That which connects.
    Connecting,
    /// That which listens.
    Listening,
}

/// When a connection would begin just below zero.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The port to connect from.
    pub port: u16,
    /// Whose numbers are near zero then.
    pub end: End,
    /// Since the epoch.
    pub at: Duration,
}

/// Sees connections begin, from the middle.
pub struct Watch {
    /// Where SYNs come in, and where their answers do.
    devices: [PacketSocket; 2],
}

impl Watch {
    /// On the devices of `middle` towards the end that connects and the one that listens.
    pub fn open(
        middle: &Namespace,
        connecting: &str,
        listening: &str,
        family: Family,
    ) -> anyhow::Result<Self> {
        let open = |device| PacketSocket::open(middle, device, family);
        Ok(Self {
            devices: [open(connecting)?, open(listening)?],
        })
    }

    /// Connects from `host` to `server`, from each of `ports` in turn, and says when connections
    /// between the same ends would begin `lead` bytes before zero; the soonest first.
    pub fn foretell(
        &self,
        host: &Namespace,
        server: SocketAddr,
        ports: Range<u16>,
        lead: u32,
    ) -> anyhow::Result<Vec<Moment>> {
        let mut moments = host.run(|| -> anyhow::Result<_> {
            let mut moments = Vec::new();
            for port in ports {
                self.forget()?;
                let now = now()?;
                reset_on_close(connect_from(Some(port), server, None)?)?;
                for end in [End::Connecting, End::Listening] {
                    let first = self.first(port, end)?.context("a SYN was not seen")?;
                    // What is left until `lead` before zero; zero is as far as a number can go.
                    let left = 0_u32.wrapping_sub(lead).wrapping_sub(first);
                    let at = now + Duration::from_nanos(u64::from(left) * UNIT_NS);
                    moments.push(Moment { port, end, at });
                }
            }
            Ok(moments)
        })??;
        moments.sort_by_key(|moment| moment.at);
        Ok(moments)
    }

    /// The sequence number that the last connection from `port` began with at `end`, if it was seen.
    /// What was seen until then is forgotten.
    pub fn first(&self, port: u16, end: End) -> anyhow::Result<Option<u32>> {
        let (device, flags, place) = match end {
            End::Connecting => (&self.devices[0], SYN, 0..2),
            End::Listening => (&self.devices[1], SYN | ACK, 2..4),
        };
        let mut found = None;
        while let Some(frame) = device.next()? {
            let Some(segment) = segment_at(&frame).and_then(|at| frame.get(at..)) else {
                continue;
            };
            if segment
                .get(13)
                .is_some_and(|seen| seen & (SYN | ACK) == flags)
                && segment.get(place.clone()) == Some(&port.to_be_bytes()[..])
            {
                let number = segment[4..8].try_into().unwrap_or_default();
                found = Some(u32::from_be_bytes(number));
            }
        }
        Ok(found)
    }

    /// Forgets what was seen until now.
    pub fn forget(&self) -> anyhow::Result<()> {
        for device in &self.devices {
            while device.next()?.is_some() {}
        }
        Ok(())
    }
}

impl Moment {
    /// How long until then; nothing where it is over.
    pub fn left(&self) -> anyhow::Result<Duration> {
        Ok(self.at.saturating_sub(now()?))
    }
}

fn now() -> anyhow::Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}
