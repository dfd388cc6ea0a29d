//! The configuration after it was read: types that cannot be wrong, free of text to be parsed.
//!
//! What the keys mean, their units and defaults are written once, in `gateway.toml`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use calltap_correlate::record::Selection;
use calltap_policies::addresses::{List, Never};
use calltap_policies::admit::Rules;
use calltap_policies::alert::{Severity, Terms};
use calltap_policies::detect::{Bounds, Detector};
use calltap_policies::network::Network;
use calltap_policies::review::RecordRules;
use http::{HeaderName, Uri};
use rustls_pki_types::ServerName;

use super::tree::Node;
use crate::route::{HostHeader, RouteTable};

/// A whole configuration: defaults, file and flags as one.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where calls come in; at least one, no two on the same address.
    pub(crate) listeners: Vec<ListenerConfig>,
    /// Which calls go where; at least one, each to a group that `upstreams` has.
    pub(crate) routes: RouteTable,
    /// Groups of servers, by name.
    pub(crate) upstreams: BTreeMap<Arc<str>, Arc<UpstreamConfig>>,
    /// Where records go.
    pub(crate) records: RecordsConfig,
    /// How sockets are watched.
    pub(crate) tap: TapConfig,
    /// How long calls wait for their last acknowledgement.
    pub(crate) settle: SettleConfig,
    /// The admin API, if there is one.
    pub(crate) admin: Option<AdminConfig>,
    /// Where a call says who makes it.
    pub(crate) consumer: ConsumerConfig,
    /// What policy says of calls and of their records.
    pub(crate) policies: PoliciesConfig,
    /// Who is denied before there is a call.
    pub(crate) denials: DenialsConfig,
    /// When something unusual becomes an alert, and who is told.
    pub(crate) alerts: AlertsConfig,
    /// How calltap ends.
    pub(crate) shutdown: ShutdownConfig,
    /// Limits and timeouts.
    pub(crate) limits: Limits,
    /// Whose forwarding headers are believed.
    pub(crate) proxy: ProxyConfig,
    /// Threads that proxy calls: the number in the file, or one per core.
    pub(crate) workers: NonZeroUsize,
    /// What was written, to be compared with what is written at a reload.
    pub(super) written: Node,
}

/// One address calls come in at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerConfig {
    /// Address and port; port 0 lets the kernel choose.
    pub(crate) address: SocketAddr,
    /// Certificates; `None` is plain HTTP.
    pub(crate) tls: Option<ListenerTls>,
    /// HTTP/2 by prior knowledge beside HTTP/1.1; never together with `tls`.
    pub(crate) h2c: bool,
}

/// A listener's certificates. The files were readable, and key and certificate a pair, when the
/// configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerTls {
    /// PEM, the server's certificate first, then its chain.
    pub(crate) certificate: PathBuf,
    /// PEM, the certificate's private key.
    pub(crate) key: PathBuf,
    /// PEM, the authorities of client certificates; `None` asks for none.
    pub(crate) client_ca: Option<PathBuf>,
    /// With `client_ca`: refuse clients without a certificate.
    pub(crate) client_required: bool,
}

/// A group of equal servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamConfig {
    /// Its name in the file, and in records as `upstream.cluster`.
    pub(crate) name: Arc<str>,
    /// At least one, each once.
    pub(crate) endpoints: Vec<EndpointAddress>,
    /// How an endpoint is chosen.
    pub(crate) balance: Balance,
    /// What is spoken to them.
    pub(crate) protocol: Protocol,
    /// TLS towards them; `None` is plain.
    pub(crate) tls: Option<UpstreamTls>,
    /// Active checks; `None` takes every endpoint for healthy.
    pub(crate) health: Option<HealthConfig>,
    /// Further endpoints tried after one that could not be connected to.
    pub(crate) retries: usize,
    /// The Host header they get, where the route does not say otherwise.
    pub(crate) host_header: HostHeader,
    /// How often DNS names are looked up again.
    pub(crate) resolve_every: Duration,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum EndpointAddress {
    /// By address.
    Socket(SocketAddr),
    /// By DNS name, lower case, looked up again and again.
    Dns {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket, `unix:/run/app.sock`.
    Unix(PathBuf),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Dns { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with the fewest calls open.
    LeastConnections,
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN with TLS, by prior knowledge without.
    Http2,
}

/// TLS towards an upstream. The files were readable and well-formed when the configuration was
/// read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamTls {
    /// The name asked for and verified; `None` takes the endpoint's own.
    pub(crate) server_name: Option<String>,
    /// PEM, the authorities believed; `None` believes the system's.
    pub(crate) ca: Option<PathBuf>,
    /// What we show when asked who we are.
    pub(crate) identity: Option<ClientIdentity>,
}

/// A client certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientIdentity {
    /// PEM, our certificate first, then its chain.
    pub(crate) certificate: PathBuf,
    /// PEM, the certificate's private key.
    pub(crate) key: PathBuf,
}

/// Active health checks: GET `path`, healthy on 2xx and 3xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthConfig {
    /// Begins with `/`.
    pub(crate) path: String,
    /// Between two checks of an endpoint.
    pub(crate) interval: Duration,
    /// A check that takes longer has failed.
    pub(crate) timeout: Duration,
    /// Good answers in a row that bring an endpoint back.
    pub(crate) healthy_after: u32,
    /// Failures in a row that take it out.
    pub(crate) unhealthy_after: u32,
}

/// What policy says.
#[derive(Debug)]
pub(crate) struct PoliciesConfig {
    /// Rules about calls before they are forwarded.
    pub(crate) rules: Rules,
    /// Rules about finished records.
    pub(crate) records: Arc<RecordRules>,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordsConfig {
    /// The JSON lines.
    pub(crate) path: RecordsPath,
    /// Rotation by size; `None` never rotates. Without meaning unless `path` is a file.
    pub(crate) rotate: Option<Rotation>,
    /// The fields that are written.
    pub(crate) fields: Selection,
    /// Lower-case names of query parameters, headers and fields to hide besides the usual.
    pub(crate) redact: Vec<String>,
    /// Lower-case names of request headers to record.
    pub(crate) request_headers: Vec<String>,
    /// Lower-case names of response headers to record.
    pub(crate) response_headers: Vec<String>,
    /// Which connections without a call are recorded.
    pub(crate) connections: Connections,
    /// At most so many records of such connections a second.
    pub(crate) connections_per_s_max: u32,
    /// How often a call that stays open leaves a record; `None`: never.
    pub(crate) interim: Option<Duration>,
    /// Records that may wait for the disk.
    pub(crate) queue_max: usize,
}

/// Where the JSON lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordsPath {
    /// Appended to this file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Nowhere.
    None,
}

/// Rotation by size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Rotates before the file would grow beyond this; more than zero.
    pub(crate) max_bytes: u64,
    /// Rotated files that stay.
    pub(crate) keep: u32,
}

/// Which connections without a call leave a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// Those that failed.
    Failed,
    /// Also those that ended well.
    All,
    /// None.
    None,
}

/// How sockets are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TapConfig {
    /// By which means.
    pub(crate) mode: TapMode,
    /// The cgroup to attach to; `None` makes one.
    pub(crate) cgroup: Option<PathBuf>,
    /// Sockets watched at a time.
    pub(crate) sockets_max: u32,
}

/// By which means sockets are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TapMode {
    /// eBPF if possible, else `TCP_INFO`.
    Auto,
    /// eBPF, or no start.
    Ebpf,
    /// `getsockopt(TCP_INFO)` at each call's edges.
    TcpInfo,
    /// Not at all.
    Off,
}

/// How long calls wait for their last acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SettleConfig {
    /// A call's record waits no longer.
    pub(crate) max: Duration,
    /// Calls that may wait; the oldest gives way.
    pub(crate) unsettled_max: usize,
}

/// The admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminConfig {
    /// Loopback, unless there is a token.
    pub(crate) address: SocketAddr,
    /// The file whose first line is the bearer token; readable and not empty when it was checked.
    pub(crate) token_file: Option<PathBuf>,
    /// Lower-case Host names that are answered, without ports, IPv6 in brackets; `address` is among
    /// them unless it is unspecified.
    pub(crate) allowed_hosts: Vec<String>,
    /// Recent records kept in memory.
    pub(crate) recent_max: usize,
}

/// Where a call says who makes it; of each list the first source with a value counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerConfig {
    /// For `api.consumer.client_id`.
    pub(crate) client_id: Vec<ConsumerSource>,
    /// For `api.consumer.app`.
    pub(crate) app: Vec<ConsumerSource>,
    /// For `api.consumer.org`.
    pub(crate) org: Vec<ConsumerSource>,
}

/// One place a call may say who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConsumerSource {
    /// A request header.
    Header(HeaderName),
    /// A query parameter.
    Query(String),
    /// The client certificate's subject.
    MtlsSubject,
    /// The client certificate's issuer.
    MtlsIssuer,
    /// The client certificate's SHA-256.
    MtlsSha256,
}

/// Who is denied, by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DenialsConfig {
    /// Each with a name of its own; together no more different networks than `max`.
    pub(crate) lists: Arc<[List]>,
    /// Who may never be denied, as far as the configuration knows addresses: upstreams are not among
    /// them.
    pub(crate) never: Vec<Never>,
    /// How many networks may be denied at a time.
    pub(crate) max: usize,
}

/// When something unusual becomes an alert, and who is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AlertsConfig {
    /// How alerts are opened, told of and closed.
    pub(crate) terms: Terms,
    /// How many keys the detectors over calls tell apart.
    pub(crate) bounds: Bounds,
    /// How many clients and networks each detector over connections remembers.
    pub(crate) sources_max: usize,
    /// Detectors that open none.
    pub(crate) off: Vec<Detector>,
    /// Where people reach the admin API; without a slash at the end. `None`: at its address.
    pub(crate) link: Option<String>,
    /// Where what a webhook did not take yet waits.
    pub(crate) spool_dir: PathBuf,
    /// What may wait for one webhook.
    pub(crate) spool_max_bytes: u64,
    /// Who is told of each change; no two of the same name.
    pub(crate) webhooks: Vec<WebhookConfig>,
    /// Who is told what is open.
    pub(crate) alertmanager: AlertmanagerConfig,
    /// Whose alerts deny their source.
    pub(crate) deny: AlertsDenyConfig,
}

/// Alerts that deny their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AlertsDenyConfig {
    /// Those of these detectors.
    pub(crate) detectors: Vec<Detector>,
    /// A source is denied for this long.
    pub(crate) for_: Duration,
}

/// A server that alerts are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// What it is called in status and metrics.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) url: Url,
    /// PEM, the authorities believed; `None` believes the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Sent as a bearer token.
    pub(crate) token: Option<Secret>,
    /// It is not told of anything less.
    pub(crate) severity: Severity,
    /// A try that takes longer has failed.
    pub(crate) timeout: Duration,
}

/// One who is sent every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebhookConfig {
    /// Who it is.
    pub(crate) destination: Destination,
    /// The key of the signature.
    pub(crate) secret: Secret,
}

/// Alertmanagers, each of which is told everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AlertmanagerConfig {
    /// Where they are, without `/api/v2/alerts`.
    pub(crate) peers: Vec<Destination>,
    /// How often they are told of what is open.
    pub(crate) resend: Duration,
}

/// An `http` or `https` URL with a host and without user, password or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url(Uri);

/// Why a text is no such URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// Not a URL at all, or of another scheme.
    #[error("this is no http:// or https:// URL")]
    NotHttp,
    /// A user or a password.
    #[error("a URL here has no user and no password")]
    User,
    /// A fragment.
    #[error("a fragment (#...) is never sent")]
    Fragment,
    /// A host that no certificate can be for.
    #[error("its host is neither a name nor an address")]
    Host,
}

impl Url {
    /// Reads one.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::NotHttp)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(UrlError::NotHttp);
        }
        if uri.authority().is_none_or(|all| all.as_str().contains('@')) {
            return Err(UrlError::User);
        }
        let url = Self(uri);
        match ServerName::try_from(url.host()) {
            Ok(_) => Ok(url),
            Err(_) => Err(UrlError::Host),
        }
    }

    /// Whether TLS is spoken.
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// A name, or an address without brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        bare.unwrap_or(host)
    }

    /// Its port, or that of its scheme.
    pub(crate) fn port(&self) -> u16 {
        let by_scheme = if self.is_https() { 443 } else { 80 };
        self.0.port_u16().unwrap_or(by_scheme)
    }

    /// Host and port as they are written.
    pub(crate) fn authority(&self) -> &str {
        self.0.authority().map_or("", |all| all.as_str())
    }

    /// The path, at least `/`, with the query.
    pub(crate) fn path_and_query(&self) -> &str {
        self.0.path_and_query().map_or("/", |all| all.as_str())
    }

    /// Without path and query, where secrets may be.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.is_https() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }
}

/// What must not be shown: a key, a token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// Not empty.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The secret itself.
    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How calltap ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShutdownConfig {
    /// Open calls may finish for this long.
    pub(crate) grace: Duration,
}

/// Limits and timeouts; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Client connections open at a time.
    pub(crate) connections_max: usize,
    /// The client's TLS handshake.
    pub(crate) handshake: Duration,
    /// From a request's first byte, or the connection's begin, to the end of its head.
    pub(crate) head: Duration,
    /// A client connection without a call.
    pub(crate) idle: Duration,
    /// A client that neither sends nor reads.
    pub(crate) client_stall: Duration,
    /// A whole call; routes carry it, or their own.
    pub(crate) total: Option<Duration>,
    /// Connecting to one endpoint, TLS included.
    pub(crate) connect: Duration,
    /// The upstream's next byte.
    pub(crate) upstream_read: Option<Duration>,
    /// The longest silence of either side of an upgraded connection.
    pub(crate) upgraded_idle: Option<Duration>,
    /// The upstream taking our next byte.
    pub(crate) upstream_write: Option<Duration>,
    /// An unused upstream connection.
    pub(crate) upstream_idle: Duration,
    /// Unused upstream connections per worker.
    pub(crate) upstream_pool_max: usize,
    /// A request target.
    pub(crate) uri_max_bytes: usize,
    /// A request head.
    pub(crate) header_max_bytes: usize,
    /// A request body.
    pub(crate) body_max_bytes: Option<u64>,
    /// Calls open at a time on one HTTP/2 connection.
    pub(crate) h2_streams_max: u32,
}

/// Whose forwarding headers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyConfig {
    /// Their networks.
    pub(crate) trusted_peers: Vec<Network>,
}

impl ProxyConfig {
    /// Whether this peer's forwarding headers are believed.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_peers
            .iter()
            .any(|network| network.contains(peer))
    }
}
