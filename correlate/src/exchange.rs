//! What the proxy saw of one call, filled phase by phase and handed over when its response was
//! written. Times are `CLOCK_MONOTONIC` nanoseconds; absent means that it did not happen or is not
//! known.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::socket::{Counters, Coverage, SocketCookie, SocketIdentity, StreamRange, Turns};

/// Text that is often constant and sometimes the client's.
pub type Text = Cow<'static, str>;

/// The gateway's half of one call.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// Names the record (UUIDv7).
    pub uid: Uuid,
    /// What was asked.
    pub request: Request,
    /// What was answered, if anything.
    pub response: Response,
    /// Which configured API it was.
    pub api: Arc<ApiNames>,
    /// Who called.
    pub consumer: Consumer,
    /// TLS with the client, if any.
    pub tls: Option<Arc<TlsFacts>>,
    /// Marks only the gateway can set.
    pub times: GatewayTimes,
    /// The client's connection.
    pub client: Leg,
    /// The client as policy sees it: the TCP peer, or what a trusted proxy said.
    pub client_address: Option<SocketAddr>,
    /// The upstream group that the route names.
    pub cluster: Option<Arc<str>>,
    /// Every connection attempt or pooled connection used, in order.
    pub attempts: Vec<Attempt>,
    /// The upstream connection of the last attempt that got one.
    pub upstream: Option<UpstreamLeg>,
    /// What policy decided.
    pub policy: Policy,
    /// Who ended it and how, when it did not end well: `client_abort`, `upstream_reset`, ...
    pub flags: Vec<&'static str>,
    /// OpenTelemetry's `error.type`: a low-cardinality name, or the status as text.
    pub error_type: Option<Text>,
    /// The code of the RST_STREAM (HTTP/2) with which the client or the upstream ended it.
    pub reset_code: Option<&'static str>,
}

/// The request as the proxy understood it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Known methods as they are, others `_OTHER`.
    pub method: Text,
    /// The method as sent, where that differs.
    pub method_original: Option<String>,
    /// `http` or `https`, as the client spoke to us.
    pub scheme: Text,
    /// From Host or `:authority`, without the port.
    pub server_address: Option<String>,
    /// From Host or `:authority`, else the scheme's.
    pub server_port: Option<u16>,
    /// As sent, percent-encoding kept.
    pub path: String,
    /// As sent, secrets redacted.
    pub query: Option<String>,
    /// `1.0`, `1.1`, `2`.
    pub version: Text,
    /// The User-Agent header.
    pub user_agent: Option<String>,
    /// Payload body bytes, transfer encoding removed.
    pub body_bytes: u64,
    /// Allow-listed headers, lower-case names, dots replaced.
    pub headers: Vec<(String, String)>,
    /// X-Request-ID, kept or begun.
    pub request_id: Option<String>,
    /// W3C trace id, 32 hex digits.
    pub trace_id: Option<String>,
    /// Our span id, 16 hex digits.
    pub span_id: Option<String>,
    /// X-Global-Transaction-ID, kept or begun.
    pub global_transaction_id: Option<String>,
    /// `grpc` service and method, from the path, where the content type says gRPC.
    pub rpc_method: Option<String>,
    /// The protocol after an upgrade, lower-case: `websocket`.
    pub upgraded_to: Option<String>,
}

/// The response as the client got it.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// What the client was sent; absent when no head was written.
    pub status: Option<u16>,
    /// What the upstream answered, of the last attempt.
    pub upstream_status: Option<u16>,
    /// Payload body bytes written to the client.
    pub body_bytes: u64,
    /// Allow-listed headers.
    pub headers: Vec<(String, String)>,
    /// What the upstream had answered, where it had begun to.
    pub upstream_body: Option<UpstreamBody>,
    /// Stream offset of the body's first byte in what the client is sent, where the body is sent as
    /// it is: without TLS, not in chunks, not over HTTP/2.
    pub body_start: Option<u64>,
    /// The connection took no more when the call ended: part of a piece of the body may be missing in
    /// `body_bytes`.
    pub is_blocked: bool,
    /// `grpc-status` from the trailers or the head, as the code's name: `OK`, `UNAVAILABLE`.
    pub rpc_status: Option<Text>,
}

/// How far an upstream's answer had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamBody {
    /// Bytes of its body that the gateway had read, transfer encoding removed.
    pub bytes: u64,
    /// Whether that was all of it, where that can be told.
    pub complete: Option<bool>,
    /// The client was sent this answer, not one of the gateway's own.
    pub passed_on: bool,
}

/// Names from the route's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiNames {
    /// The path template: `/orders/{id}`.
    pub route: Option<String>,
    /// `api.name`
    pub name: Option<String>,
    /// `api.version`
    pub version: Option<String>,
    /// `api.operation`
    pub operation: Option<String>,
    /// `api.product`
    pub product: Option<String>,
    /// `api.plan`
    pub plan: Option<String>,
    /// `api.catalog`
    pub catalog: Option<String>,
}

/// Who called, by configuration.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    /// `api.consumer.client_id`
    pub client_id: Option<String>,
    /// `api.consumer.app`
    pub app: Option<String>,
    /// `api.consumer.org`
    pub org: Option<String>,
}

/// TLS between the client and us. Constant for a connection.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// `1.2`, `1.3`
    pub version: Option<Text>,
    /// The cipher suite's IANA name.
    pub cipher: Option<Text>,
    /// What ALPN agreed on.
    pub next_protocol: Option<Text>,
    /// The session was resumed.
    pub resumed: Option<bool>,
    /// SNI.
    pub server_name: Option<String>,
    /// JA4 of the ClientHello.
    pub ja4: Option<String>,
    /// The client certificate's subject.
    pub client_subject: Option<String>,
    /// The client certificate's issuer.
    pub client_issuer: Option<String>,
    /// SHA-256 of the client certificate, upper-case hex.
    pub client_sha256: Option<String>,
    /// From accept to the end of the handshake.
    pub handshake_us: Option<u64>,
}

/// Marks that only the gateway can set.
#[derive(Clone, Copy, Debug, Default)]
pub struct GatewayTimes {
    /// `accept(2)` returned the client's connection.
    pub accepted_ns: Option<u64>,
    /// The proxy had the request head.
    pub head_read_ns: u64,
    /// The proxy had an interim response of the last attempt, the last one if there were several.
    pub interim_read_ns: Option<u64>,
    /// The proxy had the response head of the last attempt.
    pub resp_read_ns: Option<u64>,
    /// The proxy finished writing, or gave up.
    pub resp_written_ns: u64,
    /// Time spent unable to write to the client, between the first response byte and the last.
    pub write_blocked_ns: u64,
}

/// Whether the bytes of a leg belong to one call alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// One call at a time.
    #[default]
    Sole,
    /// The request's bytes arrived together with its neighbour's (HTTP/1.1 pipelining).
    Pipelined,
    /// The request had more bytes than its body, and whose they are is not known: its trailers or
    /// its neighbour's (HTTP/1.1, chunked).
    EndUnknown,
    /// Several streams share the connection (HTTP/2).
    Multiplexed,
    /// The connection was upgraded and is this call's until it closes.
    Upgraded,
}

/// One side's socket during one call. For the client's leg `received` is the request and `sent`
/// the response; for the upstream's the other way round.
#[derive(Clone, Debug, Default)]
pub struct Leg {
    /// Without it there is no join.
    pub cookie: Option<SocketCookie>,
    /// Addresses, SYN, handshake; shared by all calls of the connection.
    pub identity: Option<Arc<SocketIdentity>>,
    /// Where the facts come from.
    pub coverage: Coverage,
    /// Why it is not `Ebpf`: `no_slot`, `tap_off`, `unix_socket`, ...
    pub coverage_reason: Option<&'static str>,
    /// This is the nth call on the connection, from 1.
    pub request_seq: u32,
    /// How many calls shared the connection at most during this one.
    pub streams: u32,
    /// Whether the ranges below belong to this call alone.
    pub sharing: Sharing,
    /// The gateway closes the connection after this call (client leg only).
    pub closing: bool,
    /// The bytes received that belong to this call, by the gateway's count.
    pub received_range: Option<StreamRange>,
    /// The bytes sent that belong to this call, by the gateway's count.
    pub sent_range: Option<StreamRange>,
    /// When the packet arrived that completed the request head (client leg only).
    pub head_arrived_ns: Option<u64>,
    /// The connection before the call's first byte.
    pub begin: Counters,
    /// The connection when the call finished.
    pub end: Counters,
    /// Received turns that touch `received_range`, as of the call's end.
    pub received: Turns,
    /// Sent turns that touch `sent_range`, as of the call's end; fresher ones come with
    /// [`SocketSnapshot`](crate::socket::SocketSnapshot) while the call settles.
    pub sent: Turns,
}

/// The upstream side of the attempt that was used.
#[derive(Clone, Debug, Default)]
pub struct UpstreamLeg {
    /// Its socket. `request_seq` counts the calls on this upstream connection.
    pub leg: Leg,
    /// The connection came from the pool.
    pub reused: bool,
    /// TLS version, `1.3`.
    pub tls_version: Option<Text>,
    /// TLS cipher suite.
    pub tls_cipher: Option<Text>,
}

/// One try to reach an endpoint.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The endpoint: `10.0.0.1:80`, `unix:/run/app.sock`.
    pub address: Arc<str>,
    /// The socket, also of attempts that failed.
    pub cookie: Option<SocketCookie>,
    /// The endpoint was chosen.
    pub begin_ns: u64,
    /// TCP was connected; absent on a pooled connection and on failure.
    pub connected_ns: Option<u64>,
    /// The connection was ready for the request, TLS included; absent as above.
    pub secured_ns: Option<u64>,
    /// `ok`, `refused`, `connect_timeout`, `unreachable`, `tls_failed`, `tls_certificate`, `tls_name`,
    /// `reset`, ...
    pub outcome: &'static str,
}

/// What policy decided about a call.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `allow`, `deny`, `limit`; absent where no rule decided.
    pub decision: Option<&'static str>,
    /// Rules that matched: `name action` or `name action dry_run`.
    pub matched: Vec<String>,
    /// Why, when it did not allow.
    pub reason: Option<String>,
    /// Which limit's key applied.
    pub ratelimit_key: Option<String>,
    /// How much of it is left.
    pub ratelimit_remaining: Option<u64>,
}

/// How far a connection got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connected, nothing received.
    Tcp,
    /// In the TLS handshake.
    Tls,
    /// Receiving a request head.
    Head,
}

/// A connection that ended: without a call, or after its last one.
#[derive(Clone, Debug)]
pub struct EndedConnection {
    /// Names the record.
    pub uid: Uuid,
    /// How far it got.
    pub stage: Stage,
    /// Why it ended, low-cardinality: `bad_request_line`, `tls_version`, `head_timeout`,
    /// `idle_timeout`, `client_closed`, `client_reset`, ...; absent when it carried calls and nothing
    /// went wrong after them.
    pub error_type: Option<&'static str>,
    /// `accept(2)` returned it.
    pub accepted_ns: u64,
    /// It ended.
    pub ended_ns: u64,
    /// What was answered, if anything (400 for an unparseable head).
    pub status: Option<u16>,
    /// What is known of TLS: the SNI and JA4 of a handshake that failed.
    pub tls: Option<Arc<TlsFacts>>,
    /// The socket; `begin` is its birth, `end` its death.
    pub client: Leg,
}

/// An entry posted to the admin API.
#[derive(Clone, Debug)]
pub struct ExternalEntry {
    /// Names the record.
    pub uid: Uuid,
    /// When it was accepted.
    pub accepted_ns: u64,
    /// Free text.
    pub message: String,
    /// Keys and values as posted, keys lower-cased with dots replaced.
    pub details: Vec<(String, String)>,
    /// The call's uid or the connection's cookie it belongs to, if exactly one matched.
    pub attached_to: Option<String>,
    /// How many matched.
    pub matches: Option<u32>,
}
