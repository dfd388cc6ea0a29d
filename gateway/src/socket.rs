//! A socket of ours, as its source of facts: a ledger, `TCP_INFO`, or nothing.

use std::sync::{Arc, Mutex};

use calltap_correlate::exchange::Leg;
use calltap_correlate::socket::{Counters, Coverage, SocketCookie, SocketIdentity};
use calltap_tap::{Ledger, Tap};
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;

/// How sockets are watched, as it turned out at start.
#[derive(Clone)]
pub(crate) enum TapSource {
    /// By eBPF.
    Ebpf(Arc<Tap>),
    /// By `TCP_INFO`, and why not by eBPF.
    TcpInfo(&'static str),
    /// Not at all.
    Off,
}

impl TapSource {
    /// Must be called for an upstream socket before it connects, or it goes unwatched.
    pub(crate) fn own_upstream(&self, cookie: SocketCookie) {
        if let Self::Ebpf(tap) = self
            && let Err(error) = tap.own_upstream(cookie)
        {
            tracing::warn!("an upstream socket goes untapped: {error}");
        }
    }
}

/// Where a socket's facts come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A ledger in shared memory.
    Ledger(Ledger),
    /// `getsockopt(TCP_INFO)` while the socket is open.
    TcpInfo,
    /// Nothing.
    Nothing,
}

/// What is constant about a socket, and where the rest comes from.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) cookie: Option<SocketCookie>,
    pub(crate) source: Source,
    identity: Option<Arc<SocketIdentity>>,
    coverage_reason: Option<&'static str>,
}

impl Socket {
    /// A connected TCP socket, looked up once per connection. Where the tap is off only its
    /// addresses are known, and `identity` is asked for those.
    pub(crate) fn of(
        tap: &TapSource,
        cookie: Option<SocketCookie>,
        identity: impl FnOnce() -> Option<SocketIdentity>,
    ) -> Self {
        let (source, coverage_reason) = match tap {
            TapSource::Ebpf(tap) => match cookie.and_then(|cookie| tap.ledger(cookie)) {
                Some(ledger) => (Source::Ledger(ledger), None),
                None => (Source::TcpInfo, Some("no_slot")),
            },
            TapSource::TcpInfo(why) => (Source::TcpInfo, Some(*why)),
            TapSource::Off => (Source::Nothing, Some("tap_off")),
        };
        let identity = match &source {
            Source::Ledger(ledger) => ledger.identity(),
            Source::TcpInfo | Source::Nothing => identity(),
        };
        Self {
            cookie,
            source,
            identity: identity.map(Arc::new),
            coverage_reason,
        }
    }

    /// A socket that is not TCP.
    pub(crate) fn unwatched(why: &'static str) -> Self {
        Self {
            cookie: None,
            source: Source::Nothing,
            identity: None,
            coverage_reason: Some(why),
        }
    }

    /// Its ledger, if it has one.
    pub(crate) fn ledger(&self) -> Option<&Ledger> {
        match &self.source {
            Source::Ledger(ledger) => Some(ledger),
            Source::TcpInfo | Source::Nothing => None,
        }
    }

    /// How much is known of it.
    pub(crate) fn coverage(&self) -> Coverage {
        match self.source {
            Source::Ledger(_) => Coverage::Ebpf,
            Source::TcpInfo => Coverage::TcpInfo,
            Source::Nothing => Coverage::None,
        }
    }

    /// Its counters now; `tcp_info` reads them from the socket, where it is still open.
    pub(crate) fn counters(
        &self,
        now_ns: u64,
        tcp_info: impl FnOnce() -> Option<Counters>,
    ) -> Counters {
        let nothing = Counters {
            taken_ns: now_ns,
            ..Counters::default()
        };
        match &self.source {
            Source::Ledger(ledger) => ledger.counters(now_ns),
            Source::TcpInfo => tcp_info().unwrap_or(nothing),
            Source::Nothing => nothing,
        }
    }

    /// A leg with what is constant.
    pub(crate) fn leg(&self) -> Leg {
        Leg {
            cookie: self.cookie,
            identity: self.identity.clone(),
            coverage: self.coverage(),
            coverage_reason: self.coverage_reason,
            streams: 1,
            ..Leg::default()
        }
    }
}

/// What Pingora carries along with a stream of ours, to every hook that sees the stream's digest.
pub(crate) fn carry<T: Send + Sync + 'static>(connection: Arc<T>) -> ProxyDigest {
    let unused = ResponseHeader::build_no_case(200, None).expect("200 is a status");
    ProxyDigest::new(Box::new(unused), Some(Box::new(connection)))
}

/// The connection that a digest carries, if it is one of this kind.
pub(crate) fn carried<T: Send + Sync + 'static>(digest: &ProxyDigest) -> Option<&Arc<T>> {
    digest.user_data.as_ref()?.downcast_ref()
}

/// The calls open on a connection that several share (HTTP/2).
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<Vec<Stream>>);

#[derive(Debug)]
struct Stream {
    id: u64,
    /// How many were open at most while this one was.
    most: u32,
}

impl Streams {
    /// A stream opens.
    pub(crate) fn open(&self, id: u64) {
        let mut streams = self.0.lock().expect("no panic holds it");
        let open = streams.len() as u32 + 1;
        for stream in streams.iter_mut() {
            stream.most = stream.most.max(open);
        }
        streams.push(Stream { id, most: open });
    }

    /// Whether none is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().expect("no panic holds it").is_empty()
    }

    /// How many were open at most while this one was, itself included.
    pub(crate) fn most(&self, id: u64) -> u32 {
        let streams = self.0.lock().expect("no panic holds it");
        let stream = streams.iter().find(|stream| stream.id == id);
        stream.map_or(1, |stream| stream.most)
    }

    /// A stream ends: how many were open at most while it was, itself included.
    pub(crate) fn close(&self, id: u64) -> u32 {
        let mut streams = self.0.lock().expect("no panic holds it");
        match streams.iter().position(|stream| stream.id == id) {
            Some(at) => streams.swap_remove(at).most,
            None => 1,
        }
    }
}
