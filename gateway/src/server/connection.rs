//! A client's connection, as everything but the bytes: who, since when, how far, how much.
//!
//! Shared between the stream that moves the bytes, the proxy phases of its calls, the registry of
//! live connections and the calls that still settle. Only the connection's own worker thread
//! writes to it; others read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use calltap_correlate::exchange::{EndedConnection, Exchange, Stage, TlsFacts};
use calltap_correlate::socket::{
    CallRanges, Close, Counters, DirectionTotals, SocketCookie, SocketSnapshot,
};
use calltap_policies::watch::{self, ClosedSocket, LiveSocket, Parting};
use calltap_tap::tcp_info;
use memchr::memmem::Finder;
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::chunked::ChunkedBody;
use crate::clock::now_ns;
use crate::config::Limits;
use crate::identity::{self, Peer};
use crate::proxy::{OpenCall, Step};
use crate::socket::{Socket, Source, Streams};

/// What a connection is doing, and so which deadline applies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doing {
    /// In the TLS handshake.
    Securing = 0,
    /// Waiting for the first byte of a request.
    Idle = 1,
    /// Receiving a request head.
    Head = 2,
    /// Carrying a call.
    Call = 3,
}

/// Why a connection ended, as the first that noticed says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ended {
    /// It has not, or we ended it in good order.
    Quietly = 0,
    /// The client sent its FIN.
    ClientClosed = 1,
    /// The client reset it.
    ClientReset = 2,
    /// The TLS handshake failed.
    TlsFailed = 3,
    /// The TLS handshake took too long.
    TlsTimeout = 4,
    /// Nothing came in time.
    IdleTimeout = 5,
    /// A request head did not become whole in time.
    HeadTimeout = 6,
    /// The call took longer than it may.
    TotalTimeout = 7,
    /// Too many connections.
    TooMany = 8,
    /// Another error on the socket.
    Failed = 9,
    /// We are leaving, and it outlasted its grace.
    Shutdown = 10,
    /// The client's address is denied.
    Denied = 11,
}

impl Ended {
    const ALL: [Self; 12] = [
        Self::Quietly,
        Self::ClientClosed,
        Self::ClientReset,
        Self::TlsFailed,
        Self::TlsTimeout,
        Self::IdleTimeout,
        Self::HeadTimeout,
        Self::TotalTimeout,
        Self::TooMany,
        Self::Failed,
        Self::Shutdown,
        Self::Denied,
    ];
}

/// Settles a call ahead of the pipeline: filled by the next call on the same connection.
#[derive(Debug)]
pub(crate) struct Late {
    /// The bytes of its response and of its request.
    pub(crate) ranges: CallRanges,
    /// What the socket said when the next request's head had been read.
    pub(crate) seen: OnceLock<SocketSnapshot>,
}

impl Late {
    /// Takes one that was used before, if the worker has one that nobody looks at any more: they are
    /// held for about as long each, so the oldest is the first to be free.
    fn of(ranges: CallRanges) -> Arc<Self> {
        const KEPT: usize = 256;
        thread_local! {
            static USED: RefCell<VecDeque<Arc<Late>>> = const { RefCell::new(VecDeque::new()) };
        }
        let fresh = Self {
            ranges,
            seen: OnceLock::new(),
        };
        USED.with_borrow_mut(|used| {
            if let Some(mut oldest) = used.pop_front() {
                match Arc::get_mut(&mut oldest) {
                    Some(free) => {
                        *free = fresh;
                        used.push_back(Arc::clone(&oldest));
                        return oldest;
                    }
                    // Still looked at: its turn comes again.
                    None => used.push_back(oldest),
                }
            }
            let late = Arc::new(fresh);
            if used.len() < KEPT {
                used.push_back(Arc::clone(&late));
            }
            late
        })
    }
}

/// One client connection.
pub(crate) struct ClientConnection {
    /// What the kernel is asked about it.
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
    pub(crate) local: SocketAddr,
    pub(crate) accepted_ns: u64,
    pub(crate) secured: bool,
    pub(crate) limits: Limits,
    /// Gone when the connection is closed, however long its calls settle.
    tcp: Weak<TcpStream>,
    tls: OnceLock<Arc<TlsFacts>>,
    handshake_failure: OnceLock<&'static str>,
    doing: AtomicU8,
    /// Since when it does that.
    since_ns: AtomicU64,
    deadline_ns: AtomicU64,
    ended: AtomicU8,
    wire_read: AtomicU64,
    wire_written: AtomicU64,
    /// Bytes that Pingora has written, be they on the wire or in a buffer of ours; below TLS, if any.
    plain_written: AtomicU64,
    /// Where the body of the response begins in those: [`HEAD_DUE`] before its head was written.
    body_start: AtomicU64,
    plain_read: AtomicU64,
    plain_read_at_call_end: AtomicU64,
    wire_read_at_call_end: AtomicU64,
    blocked_since_ns: AtomicU64,
    /// So many bytes were written when the client had acknowledged them all, as last seen; `u64::MAX`:
    /// never.
    all_acked_at: AtomicU64,
    blocked_ns: AtomicU64,
    /// Nothing was read that belongs to no call yet.
    at_rest: AtomicBool,
    calls: AtomicU32,
    /// The status of an answer that Pingora wrote on its own, to what was no call.
    answered: AtomicU32,
    multiplexed: AtomicBool,
    pub(crate) streams: Streams,
    /// The calls that are open on it: one at a time, but for HTTP/2.
    open_calls: Mutex<SmallVec<[Weak<OpenCall>; 1]>>,
    previous: Mutex<Option<Arc<Late>>>,
    /// The connection before the next request's first byte.
    before: Mutex<Counters>,
    /// What had been received the last times its socket was read dry, newest first; not kept up for
    /// HTTP/1 once its handshake is over.
    read_dry: Mutex<[Option<DirectionTotals>; READ_DRY]>,
    /// Whether there is anything in `upload`.
    has_upload: AtomicBool,
    upload: Mutex<Upload>,
}

/// What it takes to know where the body of a request ends.
#[derive(Default)]
struct Upload {
    /// What was read since the last call, if it may be more than a head.
    ahead: Vec<u8>,
    /// The body of the open call.
    body: Option<ChunkedBody>,
    /// The byte that reached the parser as the first of `body`.
    start: u64,
}

impl Upload {
    fn clear(&mut self) {
        self.body = None;
        self.ahead.clear();
        self.ahead.shrink_to(AHEAD_KEPT);
    }
}

impl std::fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "client {} on {}", self.peer.address, self.local)
    }
}

/// No more than this is kept of what comes before a head was parsed; Pingora takes no longer head.
const AHEAD_MAX: usize = 1 << 20;
/// The room for it that a connection keeps.
const AHEAD_KEPT: usize = 4 << 10;

/// The next bytes that Pingora writes are the head of a final response.
const HEAD_DUE: u64 = u64::MAX;

/// How many moments are remembered at which an HTTP/2 connection was read dry: as many as may pass
/// between a request's first byte and its turn to be served.
pub(crate) const READ_DRY: usize = 4;

/// An idle HTTP/2 connection that was told to go away has this long to go.
const H2_GOODBYE_MAX: Duration = Duration::from_secs(5);

/// What is known of a connection when `accept(2)` returned it.
pub(crate) struct Accepted {
    pub(crate) socket: Socket,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) accepted_ns: u64,
    pub(crate) secured: bool,
}

impl ClientConnection {
    pub(crate) fn new(accepted: Accepted, tcp: &Arc<TcpStream>, limits: Limits) -> Self {
        let Accepted {
            socket,
            peer,
            local,
            accepted_ns,
            secured,
        } = accepted;
        let (doing, deadline_ns) = if secured {
            (
                Doing::Securing,
                accepted_ns + limits.handshake.as_nanos() as u64,
            )
        } else {
            (Doing::Idle, accepted_ns + limits.head.as_nanos() as u64)
        };
        Self {
            socket,
            peer: Peer::new(peer),
            local,
            accepted_ns,
            secured,
            limits,
            tcp: Arc::downgrade(tcp),
            tls: OnceLock::new(),
            handshake_failure: OnceLock::new(),
            doing: AtomicU8::new(doing as u8),
            since_ns: AtomicU64::new(accepted_ns),
            deadline_ns: AtomicU64::new(deadline_ns),
            ended: AtomicU8::new(Ended::Quietly as u8),
            wire_read: AtomicU64::new(0),
            wire_written: AtomicU64::new(0),
            plain_written: AtomicU64::new(0),
            body_start: AtomicU64::new(0),
            plain_read: AtomicU64::new(0),
            plain_read_at_call_end: AtomicU64::new(0),
            wire_read_at_call_end: AtomicU64::new(0),
            blocked_since_ns: AtomicU64::new(0),
            all_acked_at: AtomicU64::new(u64::MAX),
            blocked_ns: AtomicU64::new(0),
            at_rest: AtomicBool::new(true),
            calls: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            streams: Streams::default(),
            open_calls: Mutex::default(),
            previous: Mutex::default(),
            before: Mutex::default(),
            read_dry: Mutex::default(),
            has_upload: AtomicBool::new(false),
            upload: Mutex::default(),
        }
    }

    // One writer, so a load and a store do what a locked add would, for less.
    fn add(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Relaxed) + n, Relaxed);
    }

    /// Bytes arrived from the socket.
    pub(super) fn count_wire_read(&self, n: usize) {
        Self::add(&self.wire_read, n as u64);
    }

    /// Bytes were taken by the socket.
    pub(super) fn count_wire_written(&self, n: usize) {
        Self::add(&self.wire_written, n as u64);
        let since = self.blocked_since_ns.load(Relaxed);
        if since != 0 {
            if self.is_multiplexed() && self.doing() == Doing::Idle {
                // To Pingora the last call is over, but its response still drains.
                self.rest_without_streams();
            }
            Self::add(&self.blocked_ns, now_ns().saturating_sub(since));
            self.blocked_since_ns.store(0, Relaxed);
        }
    }

    /// Pingora writes `bytes`, of which `taken` were taken, be it by a buffer or by the transport.
    pub(super) fn note_plain_written(&self, bytes: &[u8], taken: usize) {
        // Pingora may have filtered the final head before it writes an interim one.
        if self.body_start.load(Relaxed) == HEAD_DUE && !is_interim(bytes) {
            // A head is written in one piece.
            let end = match bytes.ends_with(b"\r\n\r\n") {
                true => self.plain_written.load(Relaxed) + bytes.len() as u64,
                false => 0,
            };
            self.body_start.store(end, Relaxed);
        }
        Self::add(&self.plain_written, taken as u64);
    }

    /// The head of a final response is about to be written.
    pub(crate) fn expect_head(&self) {
        self.body_start.store(HEAD_DUE, Relaxed);
    }

    /// Stream offset of the first byte after the last head that was expected, where the bytes that
    /// Pingora writes are those on the wire.
    pub(crate) fn body_start(&self) -> Option<u64> {
        let start = self.body_start.load(Relaxed);
        (!self.secured && start != 0 && start != HEAD_DUE).then_some(start)
    }

    /// The socket takes no more bytes for now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked_since_ns.load(Relaxed) != 0
    }

    /// The socket takes no more bytes from now on.
    pub(super) fn blocked(&self) {
        if self.blocked_since_ns.load(Relaxed) == 0 {
            self.blocked_since_ns.store(now_ns(), Relaxed);
        }
    }

    /// Bytes reached the HTTP parser.
    pub(super) fn note_plain_read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        Self::add(&self.plain_read, bytes.len() as u64);
        if self.is_multiplexed() {
            return;
        }
        let doing = self.doing();
        if doing == Doing::Idle {
            self.set_doing(Doing::Head, self.limits.head.as_nanos() as u64);
        }
        if doing != Doing::Call {
            self.keep_ahead(doing, bytes);
        } else if self.has_upload.load(Relaxed)
            && let Some(body) = &mut self.upload().body
        {
            body.read(bytes);
        }
    }

    fn upload(&self) -> MutexGuard<'_, Upload> {
        self.upload.lock().expect("no panic holds it")
    }

    /// Most reads are a head and nothing else. What may be more is kept until the head was parsed.
    fn keep_ahead(&self, doing: Doing, bytes: &[u8]) {
        static END: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
        let is_head = doing == Doing::Idle
            && END
                .find(bytes)
                .is_some_and(|at| at + END.needle().len() == bytes.len());
        if is_head {
            return;
        }
        let mut upload = self.upload();
        let left = AHEAD_MAX.saturating_sub(upload.ahead.len());
        upload
            .ahead
            .extend_from_slice(&bytes[..bytes.len().min(left)]);
        self.has_upload.store(true, Relaxed);
    }

    /// A call begins whose body is chunked, after a head of so many bytes.
    pub(crate) fn follow_chunks(&self, head_bytes: u64) {
        let mut upload = self.upload();
        let begin = self.plain_read_at_call_end();
        let fresh = self.plain_read() - begin;
        upload.start = begin + head_bytes;
        let mut body = ChunkedBody::default();
        // What was not kept is a head, or too much, and then nobody knows.
        upload.body = if fresh == head_bytes {
            Some(body)
        } else if fresh == upload.ahead.len() as u64
            && let Some(begun) = upload.ahead.get(head_bytes as usize..)
        {
            body.read(begun);
            Some(body)
        } else {
            None
        };
        self.has_upload.store(true, Relaxed);
    }

    /// How many bytes reached the parser up to the end of the open call's chunked body, if that is
    /// known.
    pub(crate) fn chunks_end(&self) -> Option<u64> {
        let upload = self.upload();
        Some(upload.start + upload.body.as_ref()?.end()?)
    }

    /// An answer was written while no call was open: remembers its status.
    pub(super) fn note_answer(&self, start: &[u8]) {
        if self.doing() == Doing::Call || self.multiplexed.load(Relaxed) {
            return;
        }
        if let Some(status) = start
            .strip_prefix(b"HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
        {
            self.answered.store(status, Relaxed);
        }
    }

    fn set_doing(&self, doing: Doing, for_ns: u64) {
        self.set_doing_at(doing, for_ns, now_ns());
    }

    fn set_doing_at(&self, doing: Doing, for_ns: u64, now_ns: u64) {
        self.doing.store(doing as u8, Relaxed);
        self.since_ns.store(now_ns, Relaxed);
        self.deadline_ns
            .store(now_ns.saturating_add(for_ns), Relaxed);
    }

    /// What it is doing now.
    pub(crate) fn doing(&self) -> Doing {
        match self.doing.load(Relaxed) {
            0 => Doing::Securing,
            1 => Doing::Idle,
            2 => Doing::Head,
            _ => Doing::Call,
        }
    }

    /// The moment by which it must have got on.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Relaxed)
    }

    /// The deadline passed: says so, and why the connection ends.
    pub(super) fn expire(&self) {
        self.end(match self.doing() {
            Doing::Securing => Ended::TlsTimeout,
            Doing::Idle => Ended::IdleTimeout,
            Doing::Head => Ended::HeadTimeout,
            Doing::Call => Ended::TotalTimeout,
        });
    }

    /// Notes why the connection ends; the first reason stays.
    pub(super) fn end(&self, why: Ended) {
        let _ = self
            .ended
            .compare_exchange(Ended::Quietly as u8, why as u8, Relaxed, Relaxed);
    }

    /// Ends it from outside: whoever reads from it, or writes too, finds it closed.
    pub(crate) fn cut_off(&self, how: rustix::net::Shutdown) {
        self.end(Ended::Shutdown);
        if let Some(tcp) = self.tcp.upgrade()
            && let Err(error) = rustix::net::shutdown(tcp.as_ref(), how)
        {
            tracing::debug!("cutting off {self:?}: {error}");
        }
    }

    /// Ends it with a reset, whatever it is doing: its client's address is denied. Says whether this
    /// was the first time.
    pub(crate) fn deny(&self) -> bool {
        let first = self.ended() != Ended::Denied;
        self.end(Ended::Denied);
        // A mere close would have its FIN wait for an acknowledgement that is dropped.
        if let Some(tcp) = self.tcp.upgrade()
            && let Err(error) = rustix::net::connect_unspec(tcp.as_ref())
        {
            tracing::debug!("resetting {self:?}: {error}");
        }
        first
    }

    /// Why it ended.
    pub(crate) fn ended(&self) -> Ended {
        Ended::ALL[usize::from(self.ended.load(Relaxed))]
    }

    /// The handshake is over.
    pub(super) fn set_tls(&self, facts: Arc<TlsFacts>) {
        let _ = self.tls.set(facts);
    }

    /// The handshake failed, and a word why.
    pub(super) fn refuse_handshake(&self, why: &'static str) {
        let _ = self.handshake_failure.set(why);
        self.end(Ended::TlsFailed);
    }

    /// Requests may come. Some of the first one may have been read together with the end of a TLS
    /// handshake, of which the client sent `handshake_bytes`, where that is known.
    pub(super) fn ready(&self, handshake_bytes: Option<u64>) {
        if let Some(ledger) = self.socket.ledger()
            && self.secured
        {
            ledger.cut_received();
        }
        let read = self.wire_read();
        let begin = handshake_bytes.map_or(read, |bytes| bytes.min(read));
        self.wire_read_at_call_end.store(begin, Relaxed);
        if self.secured {
            // Otherwise the first request begins with the connection, where all counters are zero.
            self.rest(self.counters(now_ns()));
        }
        self.set_doing(Doing::Idle, self.limits.head.as_nanos() as u64);
    }

    fn is_idle_time_over(&self) -> bool {
        now_ns() + H2_GOODBYE_MAX.as_nanos() as u64 >= self.deadline_ns()
    }

    /// HTTP/2: streams come and go. Only while none is open has the connection a deadline.
    pub(super) fn set_multiplexed(&self) {
        self.multiplexed.store(true, Relaxed);
        if !self.secured {
            // What has arrived already is the first request's, or its preface.
            self.rest(Counters {
                received: Some(DirectionTotals::default()),
                ..Counters::default()
            });
        }
        self.begin_streams();
        self.rest_without_streams();
    }

    /// Streams that open from here on have received nothing before this moment, or a little before
    /// it, if by now some of what they sent has come.
    fn begin_streams(&self) {
        let mut before = self.before();
        let mut dry = self.read_dry.lock().expect("no panic holds it");
        let read = self.received_floor();
        if before
            .received
            .is_some_and(|received| received.offset > read)
        {
            // At the latest when it was born.
            before.received = Some(dry[0].unwrap_or_default());
            self.rest(before);
        }
        *dry = [before.received; READ_DRY];
    }

    /// Nothing that a client sends short of a whole request moves this deadline: neither half a
    /// header block nor pings. Pingora says goodbye when the idle time is over, and this ends
    /// what did not go by itself.
    fn rest_without_streams(&self) {
        let for_ns = self.limits.idle + H2_GOODBYE_MAX;
        self.set_doing(Doing::Idle, for_ns.as_nanos() as u64);
    }

    /// Whether HTTP/2 runs on it.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    /// TLS with this client, if any.
    pub(crate) fn tls(&self) -> Option<&Arc<TlsFacts>> {
        self.tls.get()
    }

    /// Bytes read from the socket so far, TLS included.
    pub(crate) fn wire_read(&self) -> u64 {
        self.wire_read.load(Relaxed)
    }

    /// Bytes written to the socket so far, TLS included.
    pub(crate) fn wire_written(&self) -> u64 {
        self.wire_written.load(Relaxed)
    }

    /// Bytes the HTTP parser has been given so far.
    pub(crate) fn plain_read(&self) -> u64 {
        self.plain_read.load(Relaxed)
    }

    /// Bytes the HTTP parser had been given when the last call ended.
    pub(crate) fn plain_read_at_call_end(&self) -> u64 {
        self.plain_read_at_call_end.load(Relaxed)
    }

    /// Stream offset at which the next request begins, if nothing of it was read too early.
    pub(crate) fn received_floor(&self) -> u64 {
        self.wire_read_at_call_end.load(Relaxed)
    }

    /// When the packet arrived that completed a request head of `head_bytes`, beginning at
    /// `start`; `fresh` bytes have reached the parser since the last call. Under TLS the head's end
    /// is known only where nothing but the head was read, or all of it came in one packet.
    pub(crate) fn head_arrived(&self, start: u64, head_bytes: u64, fresh: u64) -> Option<u64> {
        let ledger = self.socket.ledger()?;
        if !self.secured {
            let head = start..start + head_bytes;
            return Some(ledger.arrival_completing(&head)?.ns);
        }
        let read = self.wire_read();
        if fresh == head_bytes {
            return Some(ledger.arrival_completing(&(start..read))?.ns);
        }
        let first = ledger.arrival_completing(&(start..start + 1))?;
        (first.end_offset >= read).then_some(first.ns)
    }

    /// Time spent unable to write so far, a stretch that still lasts included.
    pub(crate) fn blocked_ns(&self) -> u64 {
        let lasting = match self.blocked_since_ns.load(Relaxed) {
            0 => 0,
            since => now_ns().saturating_sub(since),
        };
        self.blocked_ns.load(Relaxed) + lasting
    }

    /// A call's head was read: counts it and gives it until `until_ns`.
    pub(crate) fn begin_call(&self, now_ns: u64, until_ns: u64) -> u32 {
        let until_ns = match self.is_multiplexed() {
            true => u64::MAX,
            false => until_ns,
        };
        self.doing.store(Doing::Call as u8, Relaxed);
        self.since_ns.store(now_ns, Relaxed);
        self.deadline_ns.store(until_ns, Relaxed);
        self.calls.fetch_add(1, Relaxed) + 1
    }

    /// A call has a tighter limit than the general one.
    pub(crate) fn limit_call(&self, until_ns: u64) {
        if !self.is_multiplexed() {
            self.deadline_ns.store(until_ns, Relaxed);
        }
    }

    /// Lets others look at a call of this connection while it is open.
    pub(crate) fn show(&self, call: &Arc<OpenCall>) {
        let mut open = self.open_calls();
        // Those that nobody took away are of tasks that were ended from outside.
        open.retain(|call| call.strong_count() > 0);
        open.push(Arc::downgrade(call));
    }

    /// The call is not open any more.
    pub(crate) fn hide(&self, call: &Arc<OpenCall>) {
        self.open_calls()
            .retain(|shown| !std::ptr::eq(shown.as_ptr(), Arc::as_ptr(call)));
    }

    fn open_calls(&self) -> MutexGuard<'_, SmallVec<[Weak<OpenCall>; 1]>> {
        self.open_calls.lock().expect("no panic holds it")
    }

    /// Whether the next request is still to come, for all that was read.
    pub(super) fn is_at_rest(&self) -> bool {
        self.at_rest.load(Relaxed)
    }

    /// A call's response was written; the next head may come. `request_end` is where its request ended
    /// in what the parser was given, if that is known.
    pub(crate) fn end_call(&self, request_end: Option<u64>, now_ns: u64) {
        self.at_rest
            .store(request_end == Some(self.plain_read()), Relaxed);
        self.plain_read_at_call_end
            .store(self.plain_read(), Relaxed);
        self.wire_read_at_call_end.store(self.wire_read(), Relaxed);
        if self.has_upload.load(Relaxed) {
            self.upload().clear();
            self.has_upload.store(false, Relaxed);
        }
        if !self.is_multiplexed() {
            self.set_doing_at(Doing::Idle, self.limits.idle.as_nanos() as u64, now_ns);
        } else if self.streams.is_empty() {
            let mut counters = self.counters(now_ns);
            let unread = counters
                .received
                .is_some_and(|received| received.offset > self.wire_read());
            if unread {
                // Some of the next request, perhaps.
                counters.received = self.read_dry()[0].or(counters.received);
            }
            self.rest(counters);
            self.rest_without_streams();
        }
    }

    /// All that had arrived was read. On HTTP/2 requests that come next begin here; and its first one
    /// may come together with the end of a TLS handshake.
    pub(super) fn note_read_dry(&self) {
        if !self.is_multiplexed() && self.doing() != Doing::Securing {
            return;
        }
        let Some(ledger) = self.socket.ledger() else {
            return;
        };
        let received = ledger.counters(now_ns()).received;
        if received.is_none_or(|received| received.offset != self.wire_read()) {
            return;
        }
        let mut dry = self.read_dry.lock().expect("no panic holds it");
        if dry[0] != received {
            dry.rotate_right(1);
            dry[0] = received;
        }
    }

    /// HTTP/2: what the connection had received the last times its socket was read dry, newest first.
    pub(crate) fn read_dry(&self) -> [Option<DirectionTotals>; READ_DRY] {
        *self.read_dry.lock().expect("no panic holds it")
    }

    /// No call is open: this is how far the connection has got.
    pub(crate) fn rest(&self, counters: Counters) {
        *self.before.lock().expect("no panic holds it") = counters;
    }

    /// How far the connection had got before the request that was just read.
    pub(crate) fn before(&self) -> Counters {
        *self.before.lock().expect("no panic holds it")
    }

    /// How many calls it has carried.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }

    /// The connection's counters now. Empty when its source cannot say.
    pub(crate) fn counters(&self, now_ns: u64) -> Counters {
        self.socket.counters(now_ns, || self.tcp_info(now_ns))
    }

    fn tcp_info(&self, now_ns: u64) -> Option<Counters> {
        tcp_info::counters(self.tcp.upgrade()?.as_ref(), now_ns).ok()
    }

    /// The client's kernel has reset it, whether anybody has read that yet or not.
    pub(crate) fn was_reset(&self) -> bool {
        let ledger = self.socket.ledger();
        ledger.is_some_and(|ledger| ledger.counters(now_ns()).close == Some(Close::RstIn))
    }

    /// What a sweep is shown of it. Asks the kernel nothing: a ledger is read where there is one.
    pub(crate) fn live(&self, cookie: SocketCookie) -> LiveSocket {
        let (read, written) = (self.wire_read(), self.wire_written());
        let mut live = LiveSocket {
            cookie,
            peer: self.peer.address,
            listener: self.local,
            accepted_ns: self.accepted_ns,
            doing: watch::Doing::Idle,
            since_ns: self.since_ns.load(Relaxed),
            calls: self.calls(),
            read_bytes: read,
            written_bytes: written,
            unread_bytes: None,
            unacked_bytes: None,
            blocked_since_ns: Some(self.blocked_since_ns.load(Relaxed)).filter(|ns| *ns != 0),
            window_closed_since_ns: None,
        };
        match self.doing() {
            Doing::Securing => live.doing = watch::Doing::Securing,
            Doing::Idle => {}
            Doing::Head => live.doing = watch::Doing::Head,
            Doing::Call => self.wait_of_calls(&mut live),
        }
        let Some(ledger) = self.socket.ledger() else {
            return live;
        };
        // A ledger is cold memory: of thousands of connections most have nothing new in theirs.
        if live.doing == watch::Doing::Body {
            live.unread_bytes = Some(ledger.received_offset().saturating_sub(read));
        }
        let unacked = match self.all_acked_at.load(Relaxed) == written {
            true => 0,
            false => written.saturating_sub(ledger.acked_offset()),
        };
        live.unacked_bytes = Some(unacked);
        match unacked {
            0 => self.all_acked_at.store(written, Relaxed),
            _ => live.window_closed_since_ns = ledger.window_closed_since_ns(),
        }
        live
    }

    /// What the slowest of the open calls waits for. One that is worked on right now waits for nothing,
    /// as one does that waits for its upstream.
    fn wait_of_calls(&self, live: &mut LiveSocket) {
        let mut slowest = (0, watch::Doing::Upstream);
        for call in self.open_calls().iter().filter_map(Weak::upgrade) {
            let Some((step, since_ns)) = call.waits() else {
                continue;
            };
            let waits = match step {
                Step::Upstream => (0, watch::Doing::Upstream),
                Step::Response => (1, watch::Doing::Response),
                Step::Body => (2, watch::Doing::Body),
                Step::Upgraded => (3, watch::Doing::Upgraded),
            };
            if waits.0 >= slowest.0 {
                slowest = waits;
                live.since_ns = since_ns;
            }
        }
        live.doing = slowest.1;
    }

    /// What is known so far of its calls that were open for `interim_ns`, or as long since they were
    /// last told of.
    pub(crate) fn progress(
        &self,
        interim_ns: u64,
        now_ns: u64,
        mut tell: impl FnMut(Box<Exchange>),
    ) {
        let is_young = |since_ns: u64| now_ns.saturating_sub(since_ns) < interim_ns;
        if is_young(self.accepted_ns) || self.doing() != Doing::Call {
            return;
        }
        for call in self.open_calls().iter().filter_map(Weak::upgrade) {
            if let Some(so_far) = call.progress(interim_ns, now_ns) {
                tell(so_far);
            }
        }
    }

    /// What a sweep is told of it when it has ended.
    pub(super) fn closed(&self) -> ClosedSocket {
        ClosedSocket {
            peer: self.peer.address,
            listener: self.local,
            calls: self.calls(),
            parting: match self.ended() {
                Ended::ClientClosed | Ended::ClientReset => Parting::ByClient,
                Ended::HeadTimeout | Ended::TlsTimeout => Parting::TimedOut,
                _ => Parting::Other,
            },
        }
    }

    /// What settles a call: `None` when the socket is gone and nothing can be learnt any more.
    pub(crate) fn look(&self, ranges: &CallRanges) -> Option<SocketSnapshot> {
        let now_ns = now_ns();
        match &self.socket.source {
            Source::Ledger(ledger) => Some(ledger.snapshot(ranges, now_ns)),
            Source::TcpInfo => Some(SocketSnapshot {
                counters: self.tcp_info(now_ns)?,
                ..SocketSnapshot::default()
            }),
            Source::Nothing => None,
        }
    }

    /// Remembers the call that just ended, so that the next one can settle it. `None` where there is
    /// nothing to look at.
    pub(crate) fn remember(&self, ranges: CallRanges) -> Option<Arc<Late>> {
        if matches!(self.socket.source, Source::Nothing) {
            return None;
        }
        let late = Late::of(ranges);
        *self.previous.lock().expect("no panic holds it") = Some(Arc::clone(&late));
        Some(late)
    }

    /// The next request's head was read: whatever acknowledged the previous response is here.
    pub(crate) fn settle_previous(&self) {
        let late = self.previous.lock().expect("no panic holds it").take();
        if let Some(late) = late
            && let Some(seen) = self.look(&late.ranges)
        {
            let _ = late.seen.set(seen);
        }
    }

    /// How the connection ended: what its record tells.
    pub(crate) fn ending(&self) -> EndedConnection {
        let answered = self.answered.load(Relaxed);
        let status = u16::try_from(answered).ok().filter(|status| *status != 0);
        let in_head = self.plain_read() > self.plain_read_at_call_end()
            && self.doing() != Doing::Call
            && !self.is_multiplexed();
        let secured = self.tls.get().is_some_and(|tls| tls.version.is_some());
        let stage = if self.secured && !secured {
            Stage::Tls
        } else if in_head || secured || self.is_multiplexed() || self.calls() > 0 {
            Stage::Head
        } else {
            Stage::Tcp
        };
        let failed = self.calls() == 0 || in_head;
        let ended_ns = now_ns();
        let mut client = self.socket.leg();
        client.request_seq = self.calls();
        client.end = self.counters(ended_ns);
        EndedConnection {
            uid: identity::uuid_v7(),
            stage,
            error_type: failed.then(|| self.failure(in_head, status)),
            accepted_ns: self.accepted_ns,
            ended_ns,
            status,
            tls: self.tls.get().cloned(),
            client,
        }
    }

    fn failure(&self, in_head: bool, status: Option<u16>) -> &'static str {
        if in_head && status == Some(405) {
            return "method_not_supported";
        }
        if in_head && status.is_some() {
            return "bad_request";
        }
        match self.ended() {
            Ended::TlsFailed => self
                .handshake_failure
                .get()
                .copied()
                .unwrap_or("tls_handshake_failed"),
            Ended::TlsTimeout => "tls_timeout",
            Ended::IdleTimeout => "idle_timeout",
            Ended::HeadTimeout => "head_timeout",
            Ended::TotalTimeout => "timeout",
            Ended::ClientClosed => "client_closed",
            Ended::ClientReset => "client_reset",
            Ended::TooMany => "too_many_connections",
            Ended::Failed => "socket_error",
            Ended::Shutdown => "shutdown",
            Ended::Denied => "denied",
            // Pingora ends an HTTP/2 connection without an error when it was idle for too long, and
            // when what came was not HTTP/2.
            Ended::Quietly if self.is_multiplexed() && self.is_idle_time_over() => "idle_timeout",
            Ended::Quietly if in_head || self.is_multiplexed() => "bad_request",
            Ended::Quietly => "closed",
        }
    }
}

/// The head of a response that another one follows. 101 is the last of HTTP on its connection.
fn is_interim(head: &[u8]) -> bool {
    let code = head.strip_prefix(b"HTTP/1.1 ");
    code.is_some_and(|code| code.starts_with(b"1") && !code.starts_with(b"101"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_followed_by_the_answer() {
        assert!(is_interim(b"HTTP/1.1 100 Continue\r\n\r\n"));
        assert!(is_interim(b"HTTP/1.1 103 Early Hints\r\n\r\n"));
        for last in [
            "HTTP/1.1 101 Switching Protocols",
            "HTTP/1.1 200 OK",
            "HTTP/1.0 200 OK",
        ] {
            assert!(!is_interim(last.as_bytes()), "{last}");
        }
    }
}
