//! Watches the attempts of one call to reach an upstream: each with its socket, from before its
//! SYN leaves until it is connected or has failed.
//!
//! Pingora lets a peer bring its own way to connect. Ours asks the socket for its cookie before
//! connect(2), so that the tap knows it in time and failed attempts have one too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use calltap_correlate::exchange::Attempt;
use calltap_correlate::socket::SocketCookie;
use pingora::ErrorType;
use pingora::connectors::L4Connect;
use pingora::connectors::l4::ConnectErrorExt;
use pingora::protocols::GetProxyDigest;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::upstreams::peer::HttpPeer;
use rustix::net::sockopt::socket_cookie;
use smallvec::SmallVec;
use tokio::net::{TcpSocket, UnixStream};

use super::endpoint::{Endpoint, Vitals};

/// An attempt that nobody lived to see the end of: the client left, a timer ran out.
const ABANDONED: &str = "abandoned";
const OK: &str = "ok";
/// The text of an error is cut here: some of it is the other side's, as names in a certificate are.
const ERROR_CHARS_MAX: usize = 300;

/// What attempts need of the rest of the process.
pub(crate) struct ConnectHooks {
    /// The tap's clock, ns.
    pub(crate) now_ns: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told every upstream socket before it connects.
    pub(crate) own: Arc<dyn Fn(SocketCookie) + Send + Sync>,
    /// Asked once per new connection for what shall travel with it.
    pub(crate) luggage: Arc<Luggage>,
}

/// Given a new connection's cookie and socket, packs what comes back in the connection's digest with
/// every call that uses it. No cookie: not a TCP socket.
pub(crate) type Luggage =
    dyn Fn(Option<SocketCookie>, BorrowedFd<'_>) -> Option<ProxyDigest> + Send + Sync;

/// The attempts of one call, in order.
#[derive(Clone)]
pub(crate) struct Attempts {
    shared: Arc<Shared>,
}

struct Shared {
    hooks: Arc<ConnectHooks>,
    attempts: Mutex<SmallVec<[Watched; 1]>>,
}

struct Watched {
    attempt: Attempt,
    vitals: Arc<Vitals>,
}

impl Attempts {
    /// None yet.
    pub(crate) fn new(hooks: Arc<ConnectHooks>) -> Self {
        Self {
            shared: Arc::new(Shared {
                hooks,
                attempts: Mutex::default(),
            }),
        }
    }

    /// Begins an attempt: the peer to hand to Pingora, which reports here as it connects. It has
    /// the configured time to connect, and no longer than `time_left` of the call.
    pub(crate) fn begin(
        &self,
        endpoint: &Endpoint,
        time_left: Option<Duration>,
        now_ns: u64,
    ) -> HttpPeer {
        let attempt = Attempt {
            address: Arc::clone(endpoint.address()),
            cookie: None,
            begin_ns: now_ns,
            connected_ns: None,
            secured_ns: None,
            outcome: ABANDONED,
        };
        let index = {
            let mut attempts = self.shared.attempts();
            attempts.push(Watched {
                attempt,
                vitals: Arc::clone(endpoint.vitals()),
            });
            attempts.len() - 1
        };
        let mut peer = endpoint.peer();
        let timeout = &mut peer.options.total_connection_timeout;
        *timeout = timeout.iter().copied().chain(time_left).min();
        let connect = Connecting {
            shared: Arc::clone(&self.shared),
            index,
        };
        peer.options.custom_l4 = Some(Arc::new(connect));
        peer
    }

    /// The last attempt has a connection that is ready for the request. `cookie` is that of its
    /// socket, which for one from the pool nobody else can tell.
    pub(crate) fn ready(&self, reused: bool, cookie: Option<SocketCookie>, now_ns: u64) {
        if let Some(Watched { attempt, .. }) = self.shared.attempts().last_mut() {
            attempt.outcome = OK;
            attempt.cookie = attempt.cookie.or(cookie);
            if !reused {
                attempt.secured_ns = Some(now_ns);
            }
        }
    }

    /// The last attempt has failed before it had a connection that was ready. Returns how.
    pub(crate) fn failed(&self, error: &pingora::Error) -> &'static str {
        let mut attempts = self.shared.attempts();
        let Some(Watched { attempt, vitals }) = attempts.last_mut() else {
            return ABANDONED;
        };
        if attempt.outcome == ABANDONED {
            attempt.outcome = outcome_of(error, attempt.connected_ns.is_some());
        }
        vitals.note_error(brief(error));
        attempt.outcome
    }

    /// The call's time was up before the last attempt's connection brought an answer.
    pub(crate) fn timed_out(&self) {
        self.settle("timeout");
    }

    /// The call ended before the last attempt's connection could bring an answer, by no fault of
    /// the upstream's.
    pub(crate) fn abandoned(&self) {
        self.settle(ABANDONED);
    }

    fn settle(&self, outcome: &'static str) {
        if let Some(Watched { attempt, .. }) = self.shared.attempts().last_mut()
            && attempt.outcome == OK
        {
            attempt.outcome = outcome;
        }
    }

    /// The last attempt's connection broke while it carried the call: `reset`, `closed`, ...
    pub(crate) fn broke(&self, outcome: &'static str) {
        if let Some(Watched { attempt, vitals }) = self.shared.attempts().last_mut() {
            attempt.outcome = outcome;
            vitals.note_error(outcome.to_owned());
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.shared.attempts().len()
    }

    /// All of them, for the record.
    pub(crate) fn list(&self) -> Vec<Attempt> {
        self.shared
            .attempts()
            .iter()
            .map(|watched| watched.attempt.clone())
            .collect()
    }
}

impl Shared {
    fn attempts(&self) -> MutexGuard<'_, SmallVec<[Watched; 1]>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut Attempt)) {
        if let Some(watched) = self.attempts().get_mut(index) {
            change(&mut watched.attempt);
        }
    }
}

/// How one attempt connects.
struct Connecting {
    shared: Arc<Shared>,
    index: usize,
}

impl std::fmt::Debug for Connecting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connecting")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl L4Connect for Connecting {
    // No timer here: the peer has one for TCP and TLS together.
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let connected = match address {
            SocketAddr::Inet(address) => self.tcp(*address).await,
            SocketAddr::Unix(address) => match address.as_pathname() {
                Some(path) => UnixStream::connect(path)
                    .await
                    .map(|unix| self.packed(None, unix)),
                None => Err(io::ErrorKind::InvalidInput.into()),
            },
        };
        match connected {
            Ok(stream) => Ok(stream),
            Err(error) => {
                let (outcome, kind) = refusal(&error);
                self.shared
                    .update(self.index, |attempt| attempt.outcome = outcome);
                Err(pingora::Error::because(
                    kind,
                    "connecting to the upstream",
                    error,
                ))
            }
        }
    }
}

impl Connecting {
    async fn tcp(&self, address: std::net::SocketAddr) -> io::Result<Stream> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_nodelay(true)?;
        // A kernel without cookies gives a call without a join, not a call that fails.
        let cookie = socket_cookie(&socket).ok().and_then(SocketCookie::new);
        if let Some(cookie) = cookie {
            self.shared
                .update(self.index, |attempt| attempt.cookie = Some(cookie));
            (self.shared.hooks.own)(cookie);
        }
        let tcp = socket.connect(address).await?;
        Ok(self.packed(cookie, tcp))
    }

    /// It is connected, and its luggage packed.
    fn packed(&self, cookie: Option<SocketCookie>, socket: impl AsFd + Into<Stream>) -> Stream {
        let now_ns = (self.shared.hooks.now_ns)();
        self.shared
            .update(self.index, |attempt| attempt.connected_ns = Some(now_ns));
        let luggage = (self.shared.hooks.luggage)(cookie, socket.as_fd());
        let mut stream = socket.into();
        if let Some(luggage) = luggage {
            stream.set_proxy_digest(luggage);
        }
        stream
    }
}

/// An error's kind and its innermost cause; Pingora's own text repeats every layer in between.
pub(super) fn brief(error: &pingora::Error) -> String {
    let root = error.root_cause();
    // A failed handshake has its reason in the context, and a note of the local address for cause.
    let is_reason = !root.is::<pingora::Error>()
        && error
            .connect_local_addr()
            .is_none_or(|address| root.to_string() != format!("local address {address}"));
    let reason = if is_reason {
        Some(root.to_string())
    } else {
        error
            .context
            .as_ref()
            .map(|context| context.as_str().to_owned())
    };
    let kind = error.etype().as_str();
    let text = reason.map_or_else(|| kind.to_owned(), |reason| format!("{kind}: {reason}"));
    text.chars().take(ERROR_CHARS_MAX).collect()
}

/// What a record and what Pingora call a failed connect(2).
fn refusal(error: &io::Error) -> (&'static str, ErrorType) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ("refused", ErrorType::ConnectRefused),
        io::ErrorKind::TimedOut => ("connect_timeout", ErrorType::ConnectTimedout),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ("unreachable", ErrorType::ConnectNoRoute)
        }
        io::ErrorKind::ConnectionReset => ("reset", ErrorType::ConnectError),
        // A unix socket that is not there.
        io::ErrorKind::NotFound => ("not_found", ErrorType::ConnectError),
        io::ErrorKind::PermissionDenied => ("not_permitted", ErrorType::ConnectError),
        io::ErrorKind::AddrNotAvailable => ("no_local_port", ErrorType::BindError),
        _ => ("connect_failed", ErrorType::ConnectError),
    }
}

/// What a record calls an attempt that Pingora gave up.
fn outcome_of(error: &pingora::Error, connected: bool) -> &'static str {
    match (error.etype(), connected) {
        (ErrorType::ConnectTimedout, false) => "connect_timeout",
        (ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout, true) => "tls_timeout",
        (
            ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert | ErrorType::HandshakeError,
            _,
        ) => why_tls_failed(error),
        (ErrorType::H2Error | ErrorType::InvalidH2 | ErrorType::H2Downgrade, _) => "protocol_error",
        (_, true) => "closed",
        (_, false) => "connect_failed",
    }
}

/// What a record calls a TLS handshake that failed. Pingora keeps of rustls' error nothing but its
/// text.
fn why_tls_failed(error: &pingora::Error) -> &'static str {
    let context = error.context.as_ref().map_or("", |text| text.as_str());
    let Some((_, certificate)) = context.split_once("invalid peer certificate: ") else {
        return "tls_failed";
    };
    match certificate.starts_with("certificate not valid for name") {
        true => "tls_name",
        false => "tls_certificate",
    }
}
