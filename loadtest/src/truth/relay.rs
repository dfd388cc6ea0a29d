//! Carries the packets of one leg across the middle in place of its kernel: later, twice, in another
//! order, or with forgeries between them.
//!
//! netem is not everywhere; a packet socket is. Carries TCP over IPv4 or IPv6 without options before
//! it, which is all that the hosts of a [`ground`](crate::truth::ground) speak.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::lab::Namespace;
use crate::plan::Random;
use crate::raw_client;
use crate::truth::evidence::Family;
use crate::truth::ground::{BACK, CLIENT, FRONT, Ground, OWN, UPSTREAMS};
use crate::truth::packet_socket::{self, ETHERNET_BYTES, PacketSocket, segment_at};

/// Packets under way at a time; more are lost, as in any router.
const UNDER_WAY_MAX: usize = 100_000;
/// How often the thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Farther than any window.
const FAR: u32 = 0x4000_0000;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Between the client and the gateway.
    Front,
    /// Between the gateway and the first upstream.
    Back,
}

/// What becomes of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bend {
    /// Each is under way for this long.
    pub delay: Duration,
    /// So many of a thousand come twice.
    pub twice_per_mille: u64,
    /// So many of a thousand take longer, by up to this much.
    pub late_per_mille: u64,
    /// How much longer.
    pub late_by_max: Duration,
    /// So many of a thousand towards the gateway are preceded by a forgery.
    pub forged_per_mille: u64,
}

/// A running relay; ends when dropped.
pub struct Relay {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Takes over one leg of `ground`. The kernel of the middle must be kept from carrying it, too:
    /// [`Relay::rules`] are the rules for that.
    pub fn start(ground: &Ground, leg: Leg, family: Family, bend: Bend) -> anyhow::Result<Self> {
        let (outer, outer_host, inner) = match leg {
            Leg::Front => (CLIENT, &ground.client, FRONT),
            Leg::Back => (UPSTREAMS[0], &ground.upstreams[0], BACK),
        };
        let outer = Side::open(&ground.middle, outer, outer_host, OWN, family)?;
        let inner = Side::open(&ground.middle, inner, &ground.gateway, inner, family)?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let mut carrier = Carrier {
            // The second is the gateway's.
            sides: [outer, inner],
            bend,
            random: Random::new(0x7e1a),
            serial: 0,
            under_way: BinaryHeap::new(),
        };
        let thread = thread::spawn(move || {
            // What one processor sends is handled in order.
            let mut first = CpuSet::new();
            first.set(0);
            let _ = sched_setaffinity(None, &first);
            while !ended.load(Ordering::Relaxed) {
                // A device that is gone: the ground is being torn down.
                if carrier.turn().is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }

    /// Rules that keep the kernel of the middle from carrying these legs.
    pub fn rules(legs: &[Leg]) -> String {
        let mut rules = "chain relayed { type filter hook forward priority 5; ".to_owned();
        for leg in legs {
            let (outer, inner) = match leg {
                Leg::Front => (CLIENT, FRONT),
                Leg::Back => (UPSTREAMS[0], BACK),
            };
            for (from, to) in [(outer, inner), (inner, outer)] {
                rules += &format!("iifname \"{from}\" oifname \"{to}\" drop; ");
            }
        }
        rules + "};"
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One device of the middle and who is at the other end.
struct Side {
    socket: PacketSocket,
    peer: [u8; 6],
}

impl Side {
    fn open(
        middle: &Namespace,
        device: &str,
        host: &Namespace,
        host_device: &str,
        family: Family,
    ) -> anyhow::Result<Self> {
        let peer = host.run(|| packet_socket::link(host_device))??;
        Ok(Self {
            socket: PacketSocket::open(middle, device, family)?,
            peer: peer.addr().context("a device without an address")?,
        })
    }
}

/// A frame and the side it goes out on; ordered by when that is due.
type UnderWay = (Reverse<(Instant, u64)>, usize, Vec<u8>);

struct Carrier {
    sides: [Side; 2],
    bend: Bend,
    random: Random,
    serial: u64,
    under_way: BinaryHeap<UnderWay>,
}

impl Carrier {
    /// Waits for what comes or is due next, and takes and sends what there is.
    fn turn(&mut self) -> io::Result<()> {
        let next = self.under_way.peek().map(|(Reverse((due, _)), ..)| *due);
        let wait = next.map_or(LOOK, |due| {
            due.saturating_duration_since(Instant::now()).min(LOOK)
        });
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut ready = [
            PollFd::from_borrowed_fd(self.sides[0].socket.socket().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.sides[1].socket.socket().as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        let ready = ready.map(|side| !side.revents().is_empty());
        for side in [0, 1] {
            if ready[side] {
                self.take(side)?;
            }
        }
        let now = Instant::now();
        while let Some((Reverse((due, _)), ..)) = self.under_way.peek()
            && *due <= now
            && let Some((_, side, frame)) = self.under_way.pop()
        {
            match rustix::net::send(self.sides[side].socket.socket(), &frame, SendFlags::empty()) {
                // A full queue loses packets, as in any router.
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::AGAIN) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take(&mut self, from: usize) -> io::Result<()> {
        let to = 1 - from;
        while let Some(mut frame) = self.sides[from].socket.next()? {
            let ours = frame.get(..6) == Some(&self.sides[from].socket.address()[..]);
            if ours && segment_at(&frame).is_some() {
                frame[..6].copy_from_slice(&self.sides[to].peer);
                frame[6..12].copy_from_slice(&self.sides[to].socket.address());
                self.carry(frame, to);
            }
        }
        Ok(())
    }

    fn carry(&mut self, frame: Vec<u8>, to: usize) {
        let Bend {
            delay,
            twice_per_mille,
            late_per_mille,
            late_by_max,
            forged_per_mille,
        } = self.bend;
        let due = Instant::now() + delay;
        if to == 1
            && self.random.below(1_000) < forged_per_mille
            && let Some(forgery) = forge(&frame, self.random.below(5))
        {
            self.put(forgery, to, due);
        }
        let late = if self.random.below(1_000) < late_per_mille {
            let longest = u64::try_from(late_by_max.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(self.random.below(longest))
        } else {
            Duration::ZERO
        };
        if self.random.below(1_000) < twice_per_mille {
            let later = Duration::from_micros(self.random.below(3_000));
            self.put(frame.clone(), to, due + late + later);
        }
        self.put(frame, to, due + late);
    }

    fn put(&mut self, frame: Vec<u8>, to: usize, due: Instant) {
        if self.under_way.len() < UNDER_WAY_MAX {
            self.serial += 1;
            self.under_way
                .push((Reverse((due, self.serial)), to, frame));
        }
    }
}

/// A packet like `frame` that its receiver must not believe, of one of five kinds. Only packets of an
/// established connection are imitated.
fn forge(frame: &[u8], kind: u64) -> Option<Vec<u8>> {
    let at = segment_at(frame)?;
    let mut frame = frame.to_vec();
    let segment = frame.get_mut(at..)?;
    if segment.len() < 20 || segment[13] & !0x08 != ACK {
        return None;
    }
    let word = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let (sequence, acknowledged) = (word(&segment[4..8]), word(&segment[8..12]));
    let (sequence, acknowledged, flags) = match kind {
        // A segment far ahead of the window, and one far behind it.
        0 => (sequence.wrapping_add(FAR), acknowledged, segment[13]),
        1 => (sequence.wrapping_sub(FAR), acknowledged, segment[13]),
        // A reset far outside of the window, and one inside that is not next.
        2 => (sequence.wrapping_add(FAR), acknowledged, RST),
        3 => (sequence.wrapping_add(3_000), acknowledged, RST | ACK),
        // An acknowledgement of what was never sent.
        _ => (sequence, acknowledged.wrapping_add(FAR), segment[13]),
    };
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    segment[13] = flags;
    mend(&mut frame, at)?;
    Some(frame)
}

/// Sets the checksum of the segment at `at`.
fn mend(frame: &mut [u8], at: usize) -> Option<()> {
    let packet = &frame[ETHERNET_BYTES..at];
    // Source and destination are side by side and end the header, or precede its options.
    let addresses = match packet[0] >> 4 {
        4 => packet.get(12..20)?.to_vec(),
        _ => packet.get(8..40)?.to_vec(),
    };
    let (from, to) = addresses.split_at(addresses.len() / 2);
    let segment = &mut frame[at..];
    segment[16..18].fill(0);
    let sum = raw_client::checksum(from, to, segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with one segment of `payload`.
    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 80, 1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0x50, ACK]);
        frame.extend([1, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        let at = segment_at(&frame).unwrap();
        mend(&mut frame, at).unwrap();
        frame
    }

    #[test]
    fn a_forgery_is_another_packet_with_a_right_checksum() {
        let frame = frame(b"odd");
        for kind in 0..5 {
            let forgery = forge(&frame, kind).unwrap();
            assert_ne!(forgery, frame);
            let sum = raw_client::checksum(&[10, 0, 0, 1], &[10, 0, 0, 2], &forgery[34..]);
            assert_eq!(sum, 0, "kind {kind}");
        }
    }

    #[test]
    fn handshakes_and_goodbyes_are_not_imitated() {
        let mut syn = frame(b"");
        syn[34 + 13] = 0x02;
        assert!(forge(&syn, 0).is_none());
    }
}
