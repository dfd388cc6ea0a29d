//! What gateways take while nothing is asked of them, and what a connection that only stays open costs.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::compare::books::{Memory, Times, sleeps};
use crate::compare::kernel::{self, Map};
use crate::compare::subject::{Subject, Variant};
use crate::wire::Wire;

/// Connections that cost memory: enough that nothing else matters.
const MANY: u32 = 4_000;
/// Connections to each gateway while all are idle.
const SOME: u32 = 1_000;
/// What happened before has no effect any more.
const SETTLE: Duration = Duration::from_secs(3);
/// An answer takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// Everybody's.
    pub subjects: Vec<Rest>,
    /// What calltap's tap takes of the kernel's memory.
    pub tap: Option<TapMemory>,
}

/// One gateway's.
#[derive(Debug, Serialize)]
pub struct Rest {
    /// Who.
    pub variant: Variant,
    /// Without any connection.
    pub alone: Restlessness,
    /// With idle connections that had one call each.
    pub with_connections: Restlessness,
    /// What each of many such connections adds to what is resident, bytes.
    pub bytes_per_connection: f64,
    /// How many there were.
    pub connections: u32,
}

/// What a gateway does that has nothing to do.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Restlessness {
    /// Idle connections meanwhile.
    pub connections: u32,
    /// Share of one core.
    pub core_share: f64,
    /// How often a thread of it went back to sleep, per second.
    pub wake_ups_per_s: f64,
}

/// The kernel's memory that a tap holds.
#[derive(Debug, Serialize)]
pub struct TapMemory {
    /// Sockets it is for.
    pub sockets: u64,
    /// Allocated at its start, whatever is watched.
    pub fixed_bytes: u64,
    /// Allocated with each socket.
    pub storage_bytes: u64,
    /// Its maps.
    pub maps: Vec<Map>,
}

impl TapMemory {
    /// All of it for each socket.
    pub fn per_socket_bytes(&self) -> f64 {
        self.fixed_bytes as f64 / self.sockets as f64 + self.storage_bytes as f64
    }
}

impl Idle {
    /// One gateway's.
    pub fn of(&self, variant: Variant) -> Option<&Rest> {
        self.subjects.iter().find(|one| one.variant == variant)
    }
}

/// Measures `subjects`, which have served nobody yet, for `duration` without and with connections.
pub fn measure(subjects: &[Subject], duration: Duration) -> anyhow::Result<Idle> {
    for subject in subjects {
        // What is made with the first call is not a connection's.
        drop(kept_open(subject.plain(), 1)?);
    }
    settle(subjects)?;
    let alone = rest(subjects, 0, duration)?;
    let mut bytes = Vec::new();
    for subject in subjects {
        let before = Memory::now(subject.pid())?.resident_bytes;
        let connections = kept_open(subject.plain(), MANY)
            .with_context(|| format!("{}: {MANY} connections", subject.variant.name()))?;
        settle(std::slice::from_ref(subject))?;
        let after = Memory::now(subject.pid())?.resident_bytes;
        drop(connections);
        bytes.push((after as f64 - before as f64) / f64::from(MANY));
    }
    let connections = subjects
        .iter()
        .map(|subject| kept_open(subject.plain(), SOME))
        .collect::<anyhow::Result<Vec<_>>>()?;
    settle(subjects)?;
    let with_connections = rest(subjects, SOME, duration)?;
    drop(connections);
    let tapped = subjects
        .iter()
        .find(|subject| subject.variant == Variant::ON);
    Ok(Idle {
        subjects: subjects
            .iter()
            .enumerate()
            .map(|(at, subject)| Rest {
                variant: subject.variant,
                alone: alone[at],
                with_connections: with_connections[at],
                bytes_per_connection: bytes[at],
                connections: MANY,
            })
            .collect(),
        tap: tapped
            .map(|subject| tap_memory(kernel::maps(subject.pid())?))
            .transpose()?,
    })
}

fn settle(subjects: &[Subject]) -> anyhow::Result<()> {
    for subject in subjects {
        subject.stages()?;
    }
    thread::sleep(SETTLE);
    Ok(())
}

/// All at once: none of them has anything to do.
fn rest(
    subjects: &[Subject],
    connections: u32,
    duration: Duration,
) -> anyhow::Result<Vec<Restlessness>> {
    let look = || {
        subjects
            .iter()
            .map(|subject| {
                let pid = subject.pid();
                Ok((Times::now(pid)?, sleeps(pid)?, Instant::now()))
            })
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let before = look()?;
    thread::sleep(duration);
    let after = look()?;
    let both = before.iter().zip(&after);
    both.map(
        |((times, sleeps, at), (times_after, sleeps_after, at_after))| {
            let wall = (*at_after - *at).as_secs_f64();
            Ok(Restlessness {
                connections,
                core_share: times_after.since(times)?.as_secs_f64() / wall,
                wake_ups_per_s: sleeps_after.saturating_sub(*sleeps) as f64 / wall,
            })
        },
    )
    .collect()
}

/// Opens connections with one call each, one after the other.
fn kept_open(server: SocketAddr, count: u32) -> anyhow::Result<Vec<Wire<TcpStream>>> {
    let request = format!("GET / HTTP/1.1\r\nHost: {server}\r\n\r\n");
    (0..count)
        .map(|_| {
            let stream = TcpStream::connect_timeout(&server, ANSWER_MAX)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            let mut wire = Wire::new(stream);
            wire.write(request.as_bytes())?;
            let head = wire.read_response()?.context("closed without an answer")?;
            let mut body = Vec::new();
            wire.read_text(head.body_length("GET"), &mut body)?;
            ensure!(head.status == 200, "answered {}", head.status);
            Ok(wire)
        })
        .collect()
}

fn tap_memory(maps: Vec<Map>) -> anyhow::Result<TapMemory> {
    let (per_socket, fixed): (Vec<&Map>, Vec<&Map>) = maps.iter().partition(|map| map.per_socket());
    // The ledgers: one for each socket, and by far the largest.
    let ledgers = fixed.iter().max_by_key(|map| map.bytes);
    let ledgers = ledgers.context("the tap holds no maps")?;
    Ok(TapMemory {
        sockets: ledgers.entries_max,
        fixed_bytes: fixed.iter().map(|map| map.bytes).sum(),
        storage_bytes: per_socket.iter().map(|map| map.storage_bytes()).sum(),
        maps,
    })
}
