//! Listening, accepting, securing: from a configured address to a stream that Pingora serves.
//!
//! Pingora's own listeners hide what we need: a connection that fails before its first request
//! leaves no trace there, a busy port is retried for half a minute, draining is a plain sleep.
//! So we accept, and hand Pingora connections that are ready for HTTP.
//!
//! Each worker is one thread with one runtime, its own copy of every listening socket, its own
//! proxy and its own pool of upstream connections; nothing is passed between workers.

mod chunked;
mod connection;
mod stream;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use dashmap::DashMap;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ServerApp as _};
use pingora::protocols::ALPN;
use pingora::protocols::http::ServerSession;
use pingora::protocols::tls::SslDigest;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use calltap_correlate::socket::SocketCookie;
use calltap_policies::watch::ClosedSocket;
use calltap_tap::tcp_info;
use crossbeam_queue::ArrayQueue;

use crate::clock::now_ns;
use crate::config::{Connections, Limits, ListenerConfig};
use crate::denials::Denials;
use crate::pipeline::Entrance;
use crate::socket::{Socket, TapSource};
use crate::tls::{ListenerTls, Observed, facts, refusal};
use crate::upstream::ConnectHooks;

use connection::Accepted;
pub(crate) use connection::{ClientConnection, Ended, Late, READ_DRY};
use stream::{ClientStream, Transport, Wire};

/// The connections that live now, by cookie.
pub(crate) type Registry = DashMap<SocketCookie, Arc<ClientConnection>>;

/// A bound and listening socket with what its connections need.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    socket: StdListener,
    tls: Option<Arc<ListenerTls>>,
    h2c: bool,
}

impl Listener {
    /// Binds at once or says why not: a port that is taken is not waited for. With the tap on, the
    /// socket is announced to it before it listens, so that no connection is missed.
    pub(crate) fn bind(
        config: &ListenerConfig,
        tls: Option<Arc<ListenerTls>>,
        tap: &TapSource,
    ) -> anyhow::Result<Self> {
        let address = config.address;
        let socket = listening_socket(address, tap)
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = socket.local_addr()?;
        Ok(Self {
            address,
            socket,
            tls,
            h2c: config.h2c,
        })
    }

    /// From now on connections are refused. Every worker has a handle of the socket, so that to
    /// drop this one would not close it.
    pub(crate) fn close(&self) {
        if let Err(error) = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both) {
            tracing::debug!("closing {}: {error}", self.address);
        }
    }
}

/// Connections that may end between two sweeps.
pub(crate) const CLOSED_MAX: usize = 1 << 16;

/// A sweep holds one shard of the registry at a time, and who accepts or ends a connection may wait for
/// it: for a few microseconds, with so many.
pub(crate) const REGISTRY_SHARDS: usize = 256;

/// How many connections may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

fn listening_socket(address: SocketAddr, tap: &TapSource) -> io::Result<StdListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.ip().is_unspecified() && address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    if let TapSource::Ebpf(tap) = tap {
        tap.own_listener(socket.as_fd())?;
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(StdListener::from(socket))
}

/// What all connections of a process share.
pub(crate) struct Shared {
    pub(crate) tap: TapSource,
    pub(crate) limits: Limits,
    /// Which connections leave a record of their own.
    pub(crate) connections: Connections,
    pub(crate) registry: Arc<Registry>,
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) live: Live,
    /// Connections that ended since the last sweep.
    pub(crate) closed: ArrayQueue<ClosedSocket>,
    /// How long the last sweep took, ns.
    pub(crate) sweep_ns: AtomicU64,
    pub(crate) hooks: Arc<ConnectHooks>,
    pub(crate) denials: Arc<Denials>,
    /// Calls are not welcome any more.
    pub(crate) draining: AtomicBool,
}

/// Counts live client connections, and tells when the last one is gone.
#[derive(Default)]
pub(crate) struct Live {
    count: AtomicUsize,
    changed: Notify,
}

impl Live {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Returns when there is none.
    pub(crate) async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// One connection's place in [`Live`] and in the registry, given back when it ends.
struct Place {
    shared: Arc<Shared>,
    connection: Arc<ClientConnection>,
}

impl Place {
    fn take(shared: &Arc<Shared>, connection: Arc<ClientConnection>) -> Self {
        shared.live.count.fetch_add(1, Ordering::AcqRel);
        if let Some(cookie) = connection.socket.cookie {
            shared.registry.insert(cookie, connection.clone());
        }
        Self {
            shared: shared.clone(),
            connection,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(cookie) = self.connection.socket.cookie {
            self.shared.registry.remove(&cookie);
        }
        if self.shared.draining.load(Ordering::Acquire) {
            // Unless something else ended it before.
            self.connection.end(Ended::Shutdown);
        }
        // More in a second than there is room for tell nothing that the others do not.
        let _ = self.shared.closed.push(self.connection.closed());
        let ended = self.connection.ending();
        let recorded = match self.shared.connections {
            Connections::None => false,
            Connections::Failed => ended.error_type.is_some(),
            Connections::All => true,
        };
        if recorded {
            self.shared.entrance.connection_ended(ended);
        }
        if self.shared.live.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.live.changed.notify_waiters();
        }
    }
}

/// Accepts on one listener until told to stop; each connection runs on its own task.
pub(crate) async fn accept<A>(
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    app: Arc<A>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let socket = TcpListener::from_std(listener.socket.try_clone()?)?;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        match accepted {
            Ok((tcp, peer)) => {
                let accepted_ns = now_ns();
                let (listener, shared) = (listener.clone(), shared.clone());
                let (app, stop) = (app.clone(), stop.clone());
                tokio::spawn(async move {
                    serve(tcp, peer, accepted_ns, &listener, &shared, &app, &stop).await;
                });
            }
            Err(_) if *stop.borrow() => return Ok(()),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors or memory: connections that end give some back.
                tracing::warn!("cannot accept on {}: {error}", listener.address);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Our end of an accepted connection. One that was reset meanwhile knows its address still, but its
/// port no more.
fn local_of(tcp: &TcpStream, listener: &Listener) -> SocketAddr {
    let local = unmapped(tcp.local_addr().unwrap_or(listener.address));
    SocketAddr::new(local.ip(), listener.address.port())
}

/// IPv4 clients of a dual-stack listener are IPv4 clients.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn serve<A>(
    tcp: TcpStream,
    peer: SocketAddr,
    accepted_ns: u64,
    listener: &Listener,
    shared: &Arc<Shared>,
    app: &Arc<A>,
    stop: &watch::Receiver<bool>,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let tcp = Arc::new(tcp);
    let _ = tcp.set_nodelay(true);
    let cookie = tcp_info::cookie_of(tcp.as_ref()).ok();
    let (local, peer) = (local_of(&tcp, listener), unmapped(peer));
    let identity = || Some(tcp_info::identity_between(cookie?, local, peer));
    let accepted = Accepted {
        socket: Socket::of(&shared.tap, cookie, identity),
        peer,
        local,
        accepted_ns,
        secured: listener.tls.is_some(),
    };
    let connection = Arc::new(ClientConnection::new(accepted, &tcp, shared.limits));
    let place = Place::take(shared, connection.clone());
    if shared.live.count() > shared.limits.connections_max {
        connection.end(Ended::TooMany);
        return;
    }
    // Where the kernel drops its packets it was accepted before they were.
    if shared.denials.refuses(peer.ip()) {
        connection.deny();
        return;
    }
    let wire = Wire::new(tcp, connection.clone());
    let stream = match &listener.tls {
        // In a box: what a handshake needs is not kept for as long as the connection lives.
        Some(tls) => Box::pin(secure(wire, &connection, tls)).await,
        None => Some(plain(wire, &connection, listener.h2c).await),
    };
    match stream {
        Some(stream) if connection.is_multiplexed() => {
            app.process_new(Box::new(stream), stop).await;
        }
        Some(stream) => serve_http1(Box::new(stream), &connection, app, stop).await,
        None => {}
    }
    drop(place);
}

/// Call after call, as [`ServerApp::process_new`] does it; but where nothing has come yet, nothing that
/// a call needs is kept either. Most connections are idle most of the time.
async fn serve_http1<A>(
    mut stream: Box<ClientStream>,
    connection: &ClientConnection,
    app: &Arc<A>,
    stop: &watch::Receiver<bool>,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let mut settings: Option<HttpPersistentSettings> = None;
    loop {
        if connection.is_at_rest() {
            stream.arrival().await;
        }
        let mut session = ServerSession::new_http1(stream);
        match settings {
            Some(settings) => settings.apply_to_session(&mut session),
            // Idle connections are ours to time, in the stream; zero means no timer of Pingora's.
            None => session.set_keepalive((!*stop.borrow()).then_some(0)),
        }
        let Some(reused) = app.process_new_http(session, stop).await else {
            return;
        };
        let (next, kept) = reused.consume();
        let Ok(next) = next.into_any().downcast() else {
            return;
        };
        (stream, settings) = (next, kept);
    }
}

async fn secure(
    wire: Wire,
    connection: &Arc<ClientConnection>,
    tls: &ListenerTls,
) -> Option<ClientStream> {
    let asks_clients = tls.asks_clients();
    let acceptor = TlsAcceptor::from(tls.config());
    let stream = match acceptor.accept(Observed::new(wire)).into_fallible().await {
        Ok(stream) => stream,
        Err((error, observed)) => {
            tracing::debug!("TLS handshake with {}: {error}", connection.peer.address);
            if let Some(hello) = observed.hello() {
                connection.set_tls(Arc::new(facts::of_failed_handshake(hello)));
            }
            connection.refuse_handshake(refusal::reason(&error, observed.hello()));
            return None;
        }
    };
    let handshake_us = (now_ns() - connection.accepted_ns) / 1000;
    let (observed, session) = stream.get_ref();
    let facts = facts::of_connection(session, observed.hello(), Some(handshake_us));
    let h2 = session.alpn_protocol() == Some(b"h2");
    let handshake_bytes = observed.handshake_bytes(session.protocol_version(), asks_clients);
    let ssl = SslDigest::new(
        facts.cipher.clone().unwrap_or_default(),
        facts.version.clone().unwrap_or_default(),
        None,
        None,
        Vec::new(),
    );
    connection.set_tls(Arc::new(facts));
    connection.ready(handshake_bytes);
    if h2 {
        connection.set_multiplexed();
    }
    Some(ClientStream::new(
        Transport::Tls(Box::new(stream)),
        connection.clone(),
        Some(if h2 { ALPN::H2 } else { ALPN::H1 }),
        Some(Arc::new(ssl)),
    ))
}

/// The connection preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How soon and how seldom a preface that is not whole is looked at again.
const PREFACE_LOOK_MIN: Duration = Duration::from_millis(1);
const PREFACE_LOOK_MAX: Duration = Duration::from_millis(100);

async fn plain(wire: Wire, connection: &Arc<ClientConnection>, h2c: bool) -> ClientStream {
    let h2 = h2c && begins_with_preface(&wire, connection).await;
    connection.ready(None);
    if h2 {
        connection.set_multiplexed();
    }
    ClientStream::new(
        Transport::Plain(wire),
        connection.clone(),
        h2.then_some(ALPN::H2),
        None,
    )
}

/// Looks at the first bytes without taking them. Stops at the first byte that differs, so an
/// HTTP/1.1 request never waits for 24 bytes; and gives up at the connection's own deadline.
async fn begins_with_preface(wire: &Wire, connection: &ClientConnection) -> bool {
    let mut seen = [0; H2_PREFACE.len()];
    let look = async {
        let mut known = 0;
        let mut pause = PREFACE_LOOK_MIN;
        loop {
            let n = wire.tcp().peek(&mut seen).await.unwrap_or(0);
            if n == 0 || seen[..n] != H2_PREFACE[..n] {
                return false;
            }
            if n == H2_PREFACE.len() {
                return true;
            }
            // Peeking leaves the socket readable: only time tells whether more has come.
            if n == known {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PREFACE_LOOK_MAX);
            }
            known = n;
        }
    };
    let left = connection.deadline_ns().saturating_sub(now_ns());
    tokio::time::timeout(Duration::from_nanos(left), look)
        .await
        .unwrap_or(false)
}
