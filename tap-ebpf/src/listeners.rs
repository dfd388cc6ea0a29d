//! What came for our listeners before connections were there: counted in the kernel by listener and by
//! network, read here with plain loads.
//!
//! Networks have a table of fixed size. One that comes often keeps its place in it whatever number of
//! others comes once each, as in a flood from forged addresses; then the sums over all networks are less
//! than the listeners' own.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use calltap_correlate::socket::Handshakes;

use crate::layout::{self, SOURCE_SETS, SOURCE_V4, SOURCE_V6, SOURCE_WAYS};
use crate::mapping::Mapping;

/// A listener, and what came for it since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerCounts {
    /// Where it listens.
    pub address: SocketAddr,
    /// SYNs, repeats included, whether they were answered or not.
    pub syns: u64,
    /// What became of them.
    pub handshakes: Handshakes,
}

/// A network, and what came from it since it has its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceCounts {
    /// Its first address...
    pub network: IpAddr,
    /// ...and how many bits its addresses share: 24, or 48 of IPv6.
    pub bits: u8,
    /// What came.
    pub handshakes: Handshakes,
}

/// The counters.
pub(crate) struct Listeners {
    counters: Mapping<layout::Listener>,
    sources: Mapping<layout::Sources>,
    /// By index.
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    pub(crate) fn new(
        counters: Mapping<layout::Listener>,
        sources: Mapping<layout::Sources>,
    ) -> Self {
        Self {
            counters,
            sources,
            addresses: Vec::new(),
        }
    }

    /// The number by which the programs know a new listener; 0 when there are too many.
    pub(crate) fn number(&mut self, address: SocketAddr) -> u32 {
        let number = self.addresses.len() as u32 + 1;
        if number > self.counters.count() {
            return 0;
        }
        self.addresses.push(address);
        number
    }

    pub(crate) fn counts(&self) -> Vec<ListenerCounts> {
        let counts = (0..).zip(&self.addresses).filter_map(|(index, address)| {
            let listener = self.counters.get(index)?;
            let word = |offset| word(listener, offset).load(Ordering::Relaxed);
            Some(ListenerCounts {
                address: *address,
                syns: word(offset_of!(layout::Listener, syns)),
                handshakes: Handshakes {
                    begun: word(offset_of!(layout::Listener, begun)),
                    established: word(offset_of!(layout::Listener, established)),
                    resets: word(offset_of!(layout::Listener, resets)),
                    stray: word(offset_of!(layout::Listener, stray)),
                },
            })
        });
        counts.collect()
    }

    pub(crate) fn sources(&self, mut each: impl FnMut(SourceCounts)) {
        for set in 0..SOURCE_SETS {
            let Some(set) = self.sources.get(set) else {
                return;
            };
            for way in 0..SOURCE_WAYS {
                let at = offset_of!(layout::Sources, ways) + way * size_of::<layout::Source>();
                if let Some(counts) = source(set, at) {
                    each(counts);
                }
            }
        }
    }
}

/// The source at this offset of a set; `None` where there is none, or another takes its place right now.
fn source(set: NonNull<layout::Sources>, at: usize) -> Option<SourceCounts> {
    let owner = word(set, at + offset_of!(layout::Source, network));
    let network = owner.load(Ordering::Acquire);
    let (address, bits) = network_of(network)?;
    let half = |offset| u64::from(half(set, at + offset).load(Ordering::Relaxed));
    let handshakes = Handshakes {
        begun: half(offset_of!(layout::Source, begun)),
        established: half(offset_of!(layout::Source, established)),
        resets: half(offset_of!(layout::Source, resets)),
        stray: half(offset_of!(layout::Source, stray)),
    };
    fence(Ordering::Acquire);
    (owner.load(Ordering::Relaxed) == network).then_some(SourceCounts {
        network: address,
        bits,
        handshakes,
    })
}

fn network_of(network: u64) -> Option<(IpAddr, u8)> {
    if network & SOURCE_V6 != 0 {
        let first = u128::from(network & !SOURCE_V6) << 80;
        return Some((Ipv6Addr::from(first).into(), 48));
    }
    let first = (network & 0xff_ffff) as u32;
    (network & SOURCE_V4 != 0).then(|| (Ipv4Addr::from(first << 8).into(), 24))
}

fn word<'m, T>(element: NonNull<T>, offset: usize) -> &'m AtomicU64 {
    debug_assert!(offset + size_of::<u64>() <= size_of::<T>());
    // SAFETY: an aligned word of an element of a mapping, which lives as long as the tap that is asked;
    // everybody accesses it as a whole word.
    unsafe { AtomicU64::from_ptr(element.as_ptr().byte_add(offset).cast()) }
}

fn half<'m, T>(element: NonNull<T>, offset: usize) -> &'m AtomicU32 {
    debug_assert!(offset + size_of::<u32>() <= size_of::<T>());
    // SAFETY: as for `word`.
    unsafe { AtomicU32::from_ptr(element.as_ptr().byte_add(offset).cast()) }
}
