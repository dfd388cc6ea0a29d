//! An upstream's connection: the socket, and how many calls it has carried.
//!
//! Travels with Pingora's stream as the user data of its digest, so that a pooled connection
//! brings its ledger along and no call has to look it up.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use calltap_correlate::socket::{Counters, SocketCookie};
use calltap_tap::tcp_info;
use pingora::protocols::raw_connect::ProxyDigest;

use crate::socket::{Socket, Streams, TapSource, carried, carry};

/// One connection to an endpoint.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    /// What the kernel is asked about it.
    pub(crate) socket: Socket,
    calls: AtomicU32,
    pub(crate) streams: Streams,
}

impl UpstreamConnection {
    /// A connection that was just made.
    pub(crate) fn new(
        tap: &TapSource,
        cookie: Option<SocketCookie>,
        socket: BorrowedFd<'_>,
    ) -> Self {
        let socket = match cookie {
            Some(_) => Socket::of(tap, cookie, || tcp_info::identity(socket).ok()),
            None => Socket::unwatched("unix_socket"),
        };
        Self {
            socket,
            calls: AtomicU32::new(0),
            streams: Streams::default(),
        }
    }

    /// What Pingora carries along with the stream.
    pub(crate) fn into_digest(self) -> ProxyDigest {
        carry(Arc::new(self))
    }

    /// The connection that a digest carries, if it is one of ours.
    pub(crate) fn of(digest: &ProxyDigest) -> Option<&Arc<Self>> {
        carried(digest)
    }

    /// A call takes it: the how manieth it is.
    pub(crate) fn begin_call(&self) -> u32 {
        self.calls.fetch_add(1, Relaxed) + 1
    }

    /// How many calls it has carried.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }

    /// Its counters now. `fd` is what Pingora says the socket is; the cookie proves it.
    pub(crate) fn counters(&self, fd: i32, now_ns: u64) -> Counters {
        self.socket.counters(now_ns, || {
            tcp_info::counters_if(fd, self.socket.cookie?, now_ns).ok()
        })
    }
}
