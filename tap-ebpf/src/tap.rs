//! Loads the programs, attaches them to a cgroup, and hands out ledgers.
//!
//! Keeps no state about sockets beyond which slot is whose: the ledgers are the state. Reads no
//! packet and blocks on nothing but the system calls it names.

use std::collections::VecDeque;
use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, Queue, RingBuf, SkStorage};
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError, SockOps};
use aya::{Ebpf, EbpfError, EbpfLoader};
use calltap_correlate::socket::SocketCookie;

pub use crate::cgroup::CgroupError;
use crate::cgroup::Membership;
use crate::denied::{self, DENIED_MAX_DEFAULT, Denied, DenyError, Hits, Row};
use crate::doctor::{KERNEL_MIN, KernelVersion};
use crate::ledger::Ledger;
use crate::mapping::Mapping;
use crate::slots::{Slot, Slots};
use crate::{layout, monotonic_ns};

/// The ledger's size: what one socket costs.
pub const LEDGER_BYTES: usize = size_of::<layout::Ledger>();

/// Sockets a tap keeps ledgers of at the same time, by default: two for each proxied connection.
pub const SOCKETS_MAX_DEFAULT: u32 = 32_768;

/// A packet that found a socket just before it closed may still be at work on its ledger.
const REUSE_AFTER_CLOSE_NS: u64 = 100_000_000;
/// A connection may wait that long to be accepted after it closed again.
const CLAIM_AFTER_CLOSE_NS: u64 = 5_000_000_000;
/// Cookies announced and not connected yet, SYNs arrived and not established yet.
const PENDING_MAX: u32 = 16_384;
/// Bytes of the ring of closed sockets; a lost one is found again by looking.
const EVENTS_BYTES: u32 = 256 * 1024;
/// Slots looked at per sweep, for what the ring lost.
const SLOTS_PER_SWEEP: u32 = 1024;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tap.bpf.o"));

/// What a tap is to be.
#[derive(Clone, Debug)]
pub struct TapOptions {
    /// Enter and tap this cgroup instead of making one under our own.
    pub cgroup: Option<PathBuf>,
    /// Sockets with a ledger at the same time; further ones go untapped. Each costs
    /// [`LEDGER_BYTES`], allocated at start.
    pub sockets_max: u32,
    /// Networks that can be denied at the same time, of both families together. Each has two counters
    /// of 16 bytes, allocated at start; one that is listed takes the kernel about 300 bytes more.
    pub denied_max: u32,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self {
            cgroup: None,
            sockets_max: SOCKETS_MAX_DEFAULT,
            denied_max: DENIED_MAX_DEFAULT,
        }
    }
}

/// Why there is no tap. Traffic does not need one.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No cgroup to attach to.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel refused the maps, or lacks what they need.
    #[error("cannot create the tap's maps: this needs root or CAP_BPF, and Linux {KERNEL_MIN}")]
    Maps {
        /// What the kernel said.
        source: EbpfError,
    },
    /// A program did not pass the kernel's check.
    #[error("cannot load the program {name}: this needs root, or CAP_BPF and CAP_NET_ADMIN")]
    Program {
        /// Which program.
        name: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// A program could not be attached.
    #[error(
        "cannot attach {name} to cgroup {}: an exclusive attachment above it would explain that",
        path.display()
    )]
    Attach {
        /// Which program.
        name: &'static str,
        /// Where to.
        path: PathBuf,
        /// What the kernel said.
        source: ProgramError,
    },
    /// A map of the object cannot be used.
    #[error("cannot use the map {name}")]
    Map {
        /// Which map.
        name: &'static str,
        /// What went wrong.
        source: MapError,
    },
    /// The kernel refused something of the tap, and is older than what the tap's tests ran on.
    #[error("Linux {found} cannot run the tap, {KERNEL_MIN} can")]
    OldKernel {
        /// The kernel that runs.
        found: KernelVersion,
        /// What it refused.
        source: Box<TapError>,
    },
    /// The ledgers could not be mapped.
    #[error("cannot map {bytes} bytes of ledgers: lower tap.sockets_max")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The counters of denied networks could not be mapped.
    #[error("cannot map the counters of denied networks: lower policies.denied_max")]
    DeniedMemory {
        /// What the kernel said.
        source: io::Error,
    },
    /// The embedded object is not the one that belongs to this code.
    #[error("the embedded eBPF object has no usable {name}: this build is broken")]
    Object {
        /// The program or map that was looked for.
        name: &'static str,
    },
    /// Nothing would be tapped.
    #[error("tap.sockets_max is 0: use tap.mode = \"off\" to tap nothing")]
    NoSockets,
}

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Sockets whose close the kernel announced since the last sweep.
    pub closed: u32,
    /// Slots given back.
    pub recycled: u32,
}

/// How much of the tap is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sockets that can have a ledger at the same time.
    pub slots_total: u32,
    /// Slots in use, closed sockets not yet swept included.
    pub slots_used: u32,
    /// Memory for all ledgers, allocated at start.
    pub bytes_mapped: usize,
    /// What one ledger takes.
    pub bytes_per_slot: usize,
}

/// The running tap: its programs stay attached until this is dropped, which also leaves and
/// removes the cgroup it made. Ledgers outlive it, unchanging.
pub struct Tap {
    shared: Arc<Shared>,
    sweeper: Mutex<Sweeper>,
    upstreams: Mutex<HashMap<MapData, u64, u8>>,
    sockets: Mutex<SkStorage<MapData, layout::Socket>>,
    counts: PerCpuArray<MapData, u64>,
    denied: Mutex<Denied>,
    recycled: AtomicU64,
    // Dropped in this order: nothing is attached any more when the cgroup is removed.
    _programs: Ebpf,
    membership: Membership,
}

impl Tap {
    /// Enters a cgroup and attaches the programs. Call this before anything listens: a socket
    /// belongs to the cgroup in which it was made.
    ///
    /// # Errors
    /// When the kernel, its configuration or our privileges do not allow it. Nothing is left
    /// behind then.
    pub fn start(options: &TapOptions) -> Result<Self, TapError> {
        if options.sockets_max == 0 {
            return Err(TapError::NoSockets);
        }
        Self::made(options).map_err(|error| explained(error, KernelVersion::running()))
    }

    fn made(options: &TapOptions) -> Result<Self, TapError> {
        let mut ebpf = load(options)?;
        // Left where it is: whoever asks the kernel what our maps take is told of those we hold.
        let Some(Map::Array(ledgers)) = ebpf.map("ledgers") else {
            return Err(TapError::Object { name: "ledgers" });
        };
        let slots =
            Slots::map(ledgers.fd(), options.sockets_max).map_err(|source| TapError::Memory {
                bytes: options.sockets_max as usize * LEDGER_BYTES,
                source,
            })?;
        let mut free =
            Queue::try_from(map(&mut ebpf, "free_slots")?).map_err(in_map("free_slots"))?;
        for slot in 0..options.sockets_max {
            free.push(slot, 0).map_err(in_map("free_slots"))?;
        }
        let name = "slot_by_cookie";
        let Map::HashMap(index) = map(&mut ebpf, name)? else {
            return Err(TapError::Object { name });
        };
        let forget = second_handle(&index).map_err(in_map(name))?;
        let by_cookie = HashMap::try_from(Map::HashMap(index)).map_err(in_map(name))?;
        let upstreams =
            HashMap::try_from(map(&mut ebpf, "upstreams")?).map_err(in_map("upstreams"))?;
        let sockets = SkStorage::try_from(map(&mut ebpf, "sockets")?).map_err(in_map("sockets"))?;
        let counts = PerCpuArray::try_from(map(&mut ebpf, "counts")?).map_err(in_map("counts"))?;
        let events = RingBuf::try_from(map(&mut ebpf, "events")?).map_err(in_map("events"))?;
        let denied = denied_networks(&mut ebpf, options.denied_max)?;

        let membership = match &options.cgroup {
            Some(path) => Membership::enter(path)?,
            None => Membership::enter_own()?,
        };
        attach(&mut ebpf, &membership)?;
        let claims = (0..options.sockets_max)
            .map(|_| AtomicU32::new(0))
            .collect();
        Ok(Self {
            shared: Arc::new(Shared {
                slots,
                claims,
                by_cookie,
            }),
            sweeper: Mutex::new(Sweeper {
                events,
                free,
                index: forget,
                closing: VecDeque::new(),
                next: 0,
            }),
            upstreams: Mutex::new(upstreams),
            sockets: Mutex::new(sockets),
            counts,
            denied: Mutex::new(denied),
            recycled: AtomicU64::new(0),
            _programs: ebpf,
            membership,
        })
    }

    /// Has ledgers kept of the connections that `listener` accepts from now on, and their SYN's
    /// headers with them. For a socket that is bound, before it listens.
    ///
    /// # Errors
    /// When the descriptor is no TCP socket, or the kernel has no memory for the mark.
    pub fn own_listener(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        set_save_syn(listener)?;
        let ours = layout::Socket {
            faces_clients: 1,
            ..layout::Socket::default()
        };
        let mut sockets = lock(&self.sockets);
        sockets.insert(&listener, ours, 0).map_err(io_error)
    }

    /// Has a ledger kept of the socket `cookie`, which is about to connect.
    ///
    /// # Errors
    /// When the kernel refuses to note it: that connection then goes untapped.
    pub fn own_upstream(&self, cookie: SocketCookie) -> io::Result<()> {
        lock(&self.upstreams)
            .insert(cookie.get(), 1, 0)
            .map_err(io_error)
    }

    /// The ledger of a socket. `None` if it has none: see [`Self::drops`] for why.
    ///
    /// Costs a system call: ask once per connection.
    pub fn ledger(&self, cookie: SocketCookie) -> Option<Ledger> {
        let slot = self.shared.by_cookie.get(&cookie.get(), 0).ok()?;
        Claim::take(&self.shared, slot, cookie).map(Ledger::new)
    }

    /// Gives slots back that are closed and released, or closed and never asked for. Call it a
    /// few times per second, from one thread; a second one at the same time does nothing.
    pub fn sweep(&self) -> Swept {
        let Ok(mut sweeper) = self.sweeper.try_lock() else {
            return Swept::default();
        };
        let swept = sweeper.sweep(&self.shared, monotonic_ns());
        self.recycled
            .fetch_add(u64::from(swept.recycled), Ordering::Relaxed);
        swept
    }

    /// Has packets dropped that come from denied networks to listeners of ours and to connections that
    /// they accepted; to no others, and on no other way. These rows, each network once, stand instead of
    /// all before: there is no moment between. Of two that hold an address the one with more bits decides.
    ///
    /// Costs a system call of some microseconds for each row that differs from the list before the one
    /// in use: 50,000 new ones took 0.2 s, another 50,000 in their place 0.4 s. Without rows it costs
    /// no packet more than a load.
    ///
    /// # Errors
    /// When there are too many, or the kernel has no memory for one. The rows before stand then.
    pub fn deny(&self, rows: impl Iterator<Item = Row>) -> Result<(), DenyError> {
        lock(&self.denied).replace(rows)
    }

    /// What was dropped of each of these networks, by first address and bits, since it is denied;
    /// nothing of those that are not.
    pub fn denied_hits(&self, networks: impl Iterator<Item = (IpAddr, u8)>) -> Vec<Hits> {
        let denied = lock(&self.denied);
        networks
            .map(|(first, bits)| denied.hits(first, bits))
            .collect()
    }

    /// What was dropped of all networks since the start.
    pub fn denied_total(&self) -> Hits {
        lock(&self.denied).total()
    }

    /// What is in no ledger, by reason, since the start.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        (0..)
            .zip(layout::COUNTS)
            .skip(1)
            .map(|(index, reason)| (reason, self.count(index)))
            .collect()
    }

    /// How much is in use.
    pub fn usage(&self) -> Usage {
        let taken = self.count(layout::COUNT_TAKEN);
        let recycled = self.recycled.load(Ordering::Relaxed);
        Usage {
            slots_total: self.shared.slots.count(),
            slots_used: taken.saturating_sub(recycled) as u32,
            bytes_mapped: self.shared.slots.bytes(),
            bytes_per_slot: LEDGER_BYTES,
        }
    }

    /// The tapped cgroup, and whether it is our own.
    pub fn cgroup(&self) -> (&Path, bool) {
        (self.membership.cgroup().path(), self.membership.is_made())
    }

    /// One line for the log and the status: what is tapped and how much it may grow.
    pub fn describe(&self) -> String {
        let (path, ours) = self.cgroup();
        let whose = if ours { "our own" } else { "shared" };
        let usage = self.usage();
        format!(
            "cgroup {} ({whose}), {} ledgers of {} bytes, {} MiB",
            path.display(),
            usage.slots_total,
            usage.bytes_per_slot,
            usage.bytes_mapped >> 20,
        )
    }

    fn count(&self, index: u32) -> u64 {
        match self.counts.get(&index, 0) {
            Ok(values) => values.iter().sum(),
            Err(error) => {
                tracing::debug!(%error, index, "cannot read a counter of the tap");
                0
            }
        }
    }
}

/// What ledgers need of the tap, also after it stopped.
struct Shared {
    slots: Slots,
    /// Per slot: how many claims there are, [`EVER_CLAIMED`], or [`RECYCLING`].
    claims: Box<[AtomicU32]>,
    by_cookie: HashMap<MapData, u64, u32>,
}

const EVER_CLAIMED: u32 = 1 << 31;
const RECYCLING: u32 = u32::MAX;

/// Keeps a slot from being given to another socket.
pub(crate) struct Claim {
    shared: Arc<Shared>,
    slot: u32,
    cookie: SocketCookie,
}

impl Claim {
    fn take(shared: &Arc<Shared>, slot: u32, cookie: SocketCookie) -> Option<Self> {
        let claims = shared.claims.get(slot as usize)?;
        claims
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| {
                (n != RECYCLING).then_some((n | EVER_CLAIMED) + 1)
            })
            .ok()?;
        let claim = Self {
            shared: Arc::clone(shared),
            slot,
            cookie,
        };
        // Between the look-up and the claim it may have become another socket's.
        claim.slot().is_some().then_some(claim)
    }

    pub(crate) fn cookie(&self) -> SocketCookie {
        self.cookie
    }

    pub(crate) fn slot(&self) -> Option<Slot<'_>> {
        let slot = self.shared.slots.slot(self.slot)?;
        (slot.cookie() == self.cookie.get()).then_some(slot)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.claims[self.slot as usize].fetch_sub(1, Ordering::AcqRel);
    }
}

/// Finds closed sockets and gives their slots back.
struct Sweeper {
    events: RingBuf<MapData>,
    free: Queue<MapData, u32>,
    /// The same map as [`Shared::by_cookie`], to remove from.
    index: HashMap<MapData, u64, u32>,
    /// Announced as closed, not given back yet. Never longer than there are slots in use, plus
    /// what the scan already gave back.
    closing: VecDeque<layout::Event>,
    /// Where the next scan begins.
    next: u32,
}

impl Sweeper {
    fn sweep(&mut self, shared: &Shared, now_ns: u64) -> Swept {
        let mut swept = Swept::default();
        while let Some(item) = self.events.next() {
            if let Some(event) = event_of(&item) {
                swept.closed += 1;
                self.closing.push_back(event);
            }
        }
        for _ in 0..self.closing.len() {
            let Some(event) = self.closing.pop_front() else {
                break;
            };
            match self.recycle(shared, event.slot, Some(event.cookie), now_ns) {
                Recycle::Done => swept.recycled += 1,
                Recycle::Later => self.closing.push_back(event),
                Recycle::Other => (),
            }
        }
        let total = shared.slots.count();
        for _ in 0..SLOTS_PER_SWEEP.min(total) {
            if let Recycle::Done = self.recycle(shared, self.next, None, now_ns) {
                swept.recycled += 1;
            }
            self.next = (self.next + 1) % total;
        }
        swept
    }

    /// Gives one slot back if its socket is gone and nobody reads it. `cookie`: only if it is
    /// still that socket's.
    fn recycle(
        &mut self,
        shared: &Shared,
        index: u32,
        cookie: Option<u64>,
        now_ns: u64,
    ) -> Recycle {
        let Some(slot) = shared.slots.slot(index) else {
            return Recycle::Other;
        };
        let owner = slot.cookie();
        let closed_ns = slot.closed_ns();
        if owner == 0 || closed_ns == 0 || cookie.is_some_and(|cookie| cookie != owner) {
            return Recycle::Other;
        }
        let claims = &shared.claims[index as usize];
        let seen = claims.load(Ordering::Acquire);
        let wait_ns = match seen {
            0 => CLAIM_AFTER_CLOSE_NS,
            EVER_CLAIMED => REUSE_AFTER_CLOSE_NS,
            _ => return Recycle::Later,
        };
        if now_ns < closed_ns + wait_ns {
            return Recycle::Later;
        }
        if claims
            .compare_exchange(seen, RECYCLING, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return Recycle::Later;
        }
        if let Err(error) = self.index.remove(&owner) {
            tracing::debug!(%error, cookie = owner, "a closed socket was not indexed");
        }
        slot.zero();
        claims.store(0, Ordering::Release);
        match self.free.push(index, 0) {
            Ok(()) => Recycle::Done,
            Err(error) => {
                tracing::error!(%error, slot = index, "cannot give a slot back");
                Recycle::Other
            }
        }
    }
}

enum Recycle {
    /// Given back.
    Done,
    /// Closed, but still read, or not for long enough.
    Later,
    /// Nothing to give back.
    Other,
}

fn event_of(bytes: &[u8]) -> Option<layout::Event> {
    let (cookie, rest) = bytes.split_first_chunk()?;
    let (slot, _) = rest.split_first_chunk()?;
    Some(layout::Event {
        cookie: u64::from_ne_bytes(*cookie),
        slot: u32::from_ne_bytes(*slot),
        pad: 0,
    })
}

/// The maps of denied networks, with nothing in them.
fn denied_networks(ebpf: &mut Ebpf, denied_max: u32) -> Result<Denied, TapError> {
    let mut set = |v4: &'static str, v6: &'static str| -> Result<denied::Set, TapError> {
        Ok(denied::Set::new(
            LpmTrie::try_from(map(ebpf, v4)?).map_err(in_map(v4))?,
            LpmTrie::try_from(map(ebpf, v6)?).map_err(in_map(v6))?,
        ))
    };
    let sets = [
        set("denied_v4_a", "denied_v6_a")?,
        set("denied_v4_b", "denied_v6_b")?,
    ];
    let switch = mapped(ebpf, "denying", 1)?;
    let hits = mapped(ebpf, "denied_hits", denied::hits_max(denied_max))?;
    Ok(Denied::new(sets, denied_max, switch, hits))
}

fn mapped<T>(ebpf: &Ebpf, name: &'static str, count: u32) -> Result<Mapping<T>, TapError> {
    let Some(Map::Array(array)) = ebpf.map(name) else {
        return Err(TapError::Object { name });
    };
    Mapping::of(array.fd(), count).map_err(|source| TapError::DeniedMemory { source })
}

fn load(options: &TapOptions) -> Result<Ebpf, TapError> {
    let receive_window_max = receive_window_max();
    // Stores of one processor are seen in order by the others there; elsewhere it takes barriers.
    let weak_order = u8::from(!cfg!(target_arch = "x86_64"));
    let mut loader = EbpfLoader::new();
    loader
        .override_global("receive_window_max", &receive_window_max, true)
        .override_global("weak_order", &weak_order, true)
        .map_max_entries("events", EVENTS_BYTES)
        .map_max_entries("upstreams", PENDING_MAX)
        .map_max_entries("syn_times", PENDING_MAX);
    for name in ["ledgers", "free_slots", "slot_by_cookie"] {
        loader.map_max_entries(name, options.sockets_max);
    }
    for name in ["denied_v4_a", "denied_v4_b", "denied_v6_a", "denied_v6_b"] {
        loader.map_max_entries(name, denied::rows_max(options.denied_max));
    }
    loader.map_max_entries("denied_hits", denied::hits_max(options.denied_max));
    loader
        .load(OBJECT)
        .map_err(|source| TapError::Maps { source })
}

/// The kernel never offers a window beyond the largest receive buffer it may make.
fn receive_window_max() -> u32 {
    const FLOOR: u32 = 1 << 20;
    let largest = |path: &str, factor: u32| {
        let text = std::fs::read_to_string(path).ok()?;
        let last = text.split_whitespace().last()?.parse::<u32>().ok()?;
        last.checked_mul(factor)
    };
    let automatic = largest("/proc/sys/net/ipv4/tcp_rmem", 1).unwrap_or(0);
    // The kernel doubles what an application asks for.
    let asked_for = largest("/proc/sys/net/core/rmem_max", 2).unwrap_or(0);
    // Half of the sequence numbers lie ahead, and the programs compare with that.
    automatic.max(asked_for).clamp(FLOOR, 1 << 30)
}

/// Names the kernel where it explains a refusal. A lack of privilege is one on any kernel.
fn explained(error: TapError, running: Option<KernelVersion>) -> TapError {
    let refused = match &error {
        TapError::Maps { source } => !is_denied(source),
        TapError::Program { source, .. } | TapError::Attach { source, .. } => !is_denied(source),
        _ => false,
    };
    match running {
        Some(found) if refused && found < KERNEL_MIN => TapError::OldKernel {
            found,
            source: Box::new(error),
        },
        _ => error,
    }
}

fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn attach(ebpf: &mut Ebpf, membership: &Membership) -> Result<(), TapError> {
    let cgroup = membership.cgroup();
    let attach_error = |name| {
        move |source| TapError::Attach {
            name,
            path: cgroup.path().to_owned(),
            source,
        }
    };
    for (name, direction) in [
        ("tap_ingress", CgroupSkbAttachType::Ingress),
        ("tap_egress", CgroupSkbAttachType::Egress),
    ] {
        let program: &mut CgroupSkb = program(ebpf, name)?;
        program
            .load()
            .map_err(|source| TapError::Program { name, source })?;
        program
            .attach(cgroup, direction, CgroupAttachMode::Single)
            .map_err(attach_error(name))?;
    }
    let name = "tap_socket";
    let program: &mut SockOps = program(ebpf, name)?;
    program
        .load()
        .map_err(|source| TapError::Program { name, source })?;
    program
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(attach_error(name))?;
    Ok(())
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, TapError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let found = ebpf.program_mut(name).ok_or(TapError::Object { name })?;
    found.try_into().map_err(|_| TapError::Object { name })
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, TapError> {
    ebpf.take_map(name).ok_or(TapError::Object { name })
}

/// Another handle of the same map: one thread removes while others look up.
fn second_handle(map: &MapData) -> Result<HashMap<MapData, u64, u32>, MapError> {
    let fd = map.fd().as_fd().try_clone_to_owned()?;
    HashMap::try_from(Map::HashMap(MapData::from_fd(fd)?))
}

fn in_map(name: &'static str) -> impl Fn(MapError) -> TapError {
    move |source| TapError::Map { name, source }
}

fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is inside are descriptors: a panic elsewhere leaves them as they were.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the kernel keep the headers of each SYN until the programs copied them.
fn set_save_syn(listener: BorrowedFd<'_>) -> io::Result<()> {
    const TCP_SAVE_SYN: libc::c_int = 27;
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one int from `on`.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&listener),
            libc::IPPROTO_TCP,
            TCP_SAVE_SYN,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn an_old_kernel_is_named_where_it_explains_a_refusal() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        let said = |kind: io::ErrorKind, running| {
            let source = ProgramError::SyscallError(SyscallError {
                call: "bpf_prog_load",
                io_error: kind.into(),
            });
            let name = "tap_ingress";
            let error = TapError::Program { name, source };
            explained(error, running).to_string()
        };
        let (invalid, denied) = (io::ErrorKind::InvalidInput, io::ErrorKind::PermissionDenied);
        let old = said(invalid, version(5, 10));
        assert_eq!(old, "Linux 5.10 cannot run the tap, 6.1 can");
        for other in [
            said(invalid, version(6, 1)),
            said(invalid, None),
            said(denied, version(5, 10)),
        ] {
            assert!(other.starts_with("cannot load the program"), "{other}");
        }
    }
}
