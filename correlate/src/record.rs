//! The record of one API call: every field, named once, with its type and meaning.
//!
//! One table below makes the struct, the list of fields, the writer, the reader and the JSON
//! Schema, so that a field cannot be in one and missing from another. Names are OpenTelemetry's
//! wherever it has one. Absent means unknown: there are no nulls, and no zero stands for "not
//! measured".
//!
//! Decides nothing about a call: [`join`](crate::join) fills it, sinks write it.

mod schema;
mod select;
mod time;
pub(crate) mod value;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};
use uuid::Uuid;

use crate::exchange::{ApiNames, Stage, Text};
use crate::socket::{Close, Coverage, SocketCookie};

pub use schema::json_schema;
pub use select::{Selection, UnknownField, nearest_among, nearest_of};
pub use time::{BadTimestamp, Timestamp, WallClock};
use value::{Slot, end_object, object, write_escaped, write_text};
pub use value::{Value, ValueKind};

/// The version of the schema below. Grows when a field is added, jumps when one changes or leaves.
pub const SCHEMA_VERSION: &str = "1.2";

/// What a record is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An API call that ended.
    #[default]
    Call,
    /// A connection that never carried a call.
    Connection,
    /// An entry somebody posted.
    External,
    /// A call that is still open.
    Progress,
}

/// Whether the numbers of a socket are this call's alone, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribution {
    /// Every number belongs to this call alone.
    Exact,
    /// Other calls shared the connection meanwhile and are counted too.
    Shared,
    /// Some numbers or marks could not be told apart and are absent.
    Partial,
}

/// Why the numbers of a socket are not exactly this call's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing is known of the socket.
    NoCoverage,
    /// What is known comes from `TCP_INFO`, asked at the call's edges.
    TcpInfo,
    /// Several streams share the connection.
    Multiplexed,
    /// The request arrived together with its neighbour's bytes.
    Pipelined,
    /// More came than the request's body: its trailers or its neighbour's bytes.
    RequestEndUnknown,
    /// The connection was upgraded, and its counters were not read on both sides of the call.
    CountersMissing,
    /// The gateway could not tell which bytes of the connection were the call's.
    RangeUnknown,
    /// The connection did more than the ledger remembers.
    Lapped,
    /// The turn that holds the call's first byte began with bytes of somebody else.
    BeganBefore,
    /// The turn that holds the call's last byte went on with bytes of somebody else.
    RanOn,
    /// Bytes of the call were never seen on the wire, because they never left for example.
    BytesMissing,
    /// An interim response shares its turn with the final one.
    InterimFirst,
    /// The upstream's TLS session tickets may come first in the turn of its response.
    TlsTickets,
}

/// Why a call's record was written when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settled {
    /// The client's kernel acknowledged the last byte.
    Acked,
    /// The socket closed before that.
    Closed,
    /// It took longer than the configured limit.
    Deadline,
    /// Too many calls were waiting; this was the oldest.
    Evicted,
    /// calltap was stopped.
    Shutdown,
}

/// How the last byte was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// By a packet without payload: as soon as the peer's kernel chose to.
    Pure,
    /// By a packet that carried payload: when the peer had something to say.
    Data,
}

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// Anything else, such as `unix:/run/app.sock`.
    Other(String),
}

impl Default for Address {
    fn default() -> Self {
        Address::Other(String::new())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(ip) => ip.fmt(f),
            Address::Other(text) => text.fmt(f),
        }
    }
}

/// TCP flags, or-ed over packets; bit 0 is FIN, as in the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

/// From the header's lowest bit up.
const TCP_FLAG_NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

impl TcpFlags {
    /// The names of the flags that are set, from FIN up.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let names = TCP_FLAG_NAMES.into_iter().enumerate();
        names.filter_map(move |(bit, name)| (self.0 >> bit & 1 == 1).then_some(name))
    }
}

impl FromStr for TcpFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .filter(|name| !name.is_empty())
            .try_fold(TcpFlags(0), |flags, name| {
                let bit = TCP_FLAG_NAMES.iter().position(|known| *known == name);
                let bit = bit.ok_or_else(|| format!("{name:?} is not a TCP flag"))?;
                Ok(TcpFlags(flags.0 | 1 << bit))
            })
    }
}

object! {
    /// One try to reach an upstream endpoint.
    pub struct AttemptRecord by address {
        "address" address: Arc<str>, "The endpoint as configured or resolved.";
        "cookie" cookie: Option<SocketCookie>, "Its socket, also of an attempt that failed.";
        "outcome" outcome: Text, "`ok`, or how it failed.";
        "connect_us" connect_us: Option<u64>, "From the choice of the endpoint until TCP was connected.";
    }
}

object! {
    /// What a detector found unusual about a call.
    pub struct Finding by detector {
        "detector" detector: Text, "Who found it.";
        "score" score: Option<u64>, "How unusual, from 0 to 100.";
        "reason" reason: Text, "What it was.";
    }
}

/// One field of the record.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its key; for free keys the prefix before their dot.
    pub name: &'static str,
    /// The heading it stands under.
    pub section: &'static str,
    /// What its value looks like.
    pub value: ValueKind,
    /// Text is cut to this many bytes; absent where it cannot be long.
    pub max_bytes: Option<usize>,
    /// The kinds of record that may have it.
    pub kinds: &'static [Kind],
    /// What it means, and its unit.
    pub description: &'static str,
}

const ALL: &[Kind] = &[Kind::Call, Kind::Connection, Kind::External, Kind::Progress];
const CALL: &[Kind] = &[Kind::Call, Kind::Progress];
const SOCKET: &[Kind] = &[Kind::Call, Kind::Connection, Kind::Progress];
const CONNECTION: &[Kind] = &[Kind::Connection];
const EXTERNAL: &[Kind] = &[Kind::External];
const ATTACHED: &[Kind] = &[Kind::External, Kind::Progress];

/// Where a text field names no other limit.
const TEXT_MAX: usize = 256;

macro_rules! max {
    () => {
        TEXT_MAX
    };
    ($max:literal) => {
        $max
    };
}

const fn max_bytes(value: &ValueKind, max: usize) -> Option<usize> {
    match value {
        ValueKind::Text | ValueKind::FreeKeys => Some(max),
        ValueKind::List(ValueKind::Text | ValueKind::Object(_)) => Some(max),
        _ => None,
    }
}

macro_rules! record {
    (
        plain { $($section:literal of $kinds:ident {
            $($name:literal $([$max:literal])? $ident:ident: $ty:ty, $doc:literal;)*
        })* }
        api { $($aname:literal $aident:ident, $adoc:literal;)* }
        free { $($fname:literal of $fsection:literal $fkinds:ident max $fmax:literal $fident:ident, $fdoc:literal;)* }
        socket { $($sname:literal $sident:ident: $sty:ty, $sdoc:literal;)* }
    ) => {
        /// One record. Its fields are named after their keys; `client.` and `upstream.` sockets
        /// share [`SocketFields`], the names from the configuration are behind [`Self::api`].
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct CallRecord {
            $($(#[doc = $doc] pub $ident: $ty,)*)*
            /// Names from the route's configuration, shared by all its calls.
            pub api: Arc<ApiNames>,
            $(#[doc = $fdoc] pub $fident: Vec<(String, String)>,)*
            /// The socket to the client.
            pub client: SocketFields,
            /// The socket to the upstream.
            pub upstream: SocketFields,
        }

        /// What is known of one socket, under `client.` or `upstream.`.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct SocketFields {
            $(#[doc = $sdoc] pub $sident: $sty,)*
        }

        /// Every field, in the order in which they are written.
        pub const FIELDS: &[Field] = &[
            $($(Field {
                name: $name,
                section: $section,
                value: <$ty as Slot>::VALUE,
                max_bytes: max_bytes(&<$ty as Slot>::VALUE, max!($($max)?)),
                kinds: $kinds,
                description: $doc,
            },)*)*
            $(Field {
                name: $aname,
                section: "The API",
                value: ValueKind::Text,
                max_bytes: None,
                kinds: CALL,
                description: $adoc,
            },)*
            $(Field {
                name: $fname,
                section: $fsection,
                value: ValueKind::FreeKeys,
                max_bytes: Some($fmax),
                kinds: $fkinds,
                description: $fdoc,
            },)*
            $(Field {
                name: concat!("client.", $sname),
                section: "The client's socket",
                value: <$sty as Slot>::VALUE,
                max_bytes: None,
                kinds: SOCKET,
                description: $sdoc,
            },)*
            $(Field {
                name: concat!("upstream.", $sname),
                section: "The upstream's socket",
                value: <$sty as Slot>::VALUE,
                max_bytes: None,
                kinds: CALL,
                description: $sdoc,
            },)*
        ];

        impl CallRecord {
            /// Appends the record as one JSON object without a newline.
            ///
            /// Valid JSON and valid UTF-8 whatever the fields hold; control characters are escaped.
            pub fn write_json(&self, out: &mut Vec<u8>, select: &Selection) {
                let mut fields = 0..;
                let mut next = || fields.next().unwrap_or(usize::MAX);
                let start = out.len();
                $($({
                    let field = next();
                    if !self.$ident.is_absent() && select.has(field) {
                        self.$ident.write_member(concat!(",\"", $name, "\":"), out);
                    }
                })*)*
                $({
                    let field = next();
                    if !self.api.$aident.is_absent() && select.has(field) {
                        self.api.$aident.write_member(concat!(",\"", $aname, "\":"), out);
                    }
                })*
                $({
                    let field = next();
                    for (key, value) in &self.$fident {
                        if select.has_key(field, key) {
                            out.extend_from_slice(concat!(",\"", $fname, ".").as_bytes());
                            write_escaped(key, out);
                            out.extend_from_slice(b"\":");
                            write_text(value, out);
                        }
                    }
                })*
                $({
                    let field = next();
                    if !self.client.$sident.is_absent() && select.has(field) {
                        self.client.$sident.write_member(concat!(",\"client.", $sname, "\":"), out);
                    }
                })*
                $({
                    let field = next();
                    if !self.upstream.$sident.is_absent() && select.has(field) {
                        self.upstream.$sident.write_member(concat!(",\"upstream.", $sname, "\":"), out);
                    }
                })*
                end_object(start, out);
            }

            /// Makes free keys safe (lower case, `_` for dots, no key twice), cuts every text to
            /// its limit and lists what was cut in [`Self::truncated`].
            pub fn enforce_limits(&mut self) {
                let mut truncated = std::mem::take(&mut self.truncated);
                $($(if self.$ident.cut_member(max!($($max)?)) {
                    truncated.push(Text::Borrowed($name));
                })*)*
                $(
                    make_keys_free(&mut self.$fident);
                    for (key, value) in &mut self.$fident {
                        if value::Datum::cut(value, $fmax) {
                            truncated.push(Text::Owned(format!(concat!($fname, ".{}"), key)));
                        }
                    }
                )*
                self.truncated = truncated;
            }
        }

        /// Where each of [`FIELDS`] is.
        const PLACES: &[Place] = &[
            $($(Place::Plain(Plain::$ident),)*)*
            $(Place::Api(Api::$aident),)*
            $(Place::Free(Free::$fident),)*
            $(Place::Client(Socket::$sident),)*
            $(Place::Upstream(Socket::$sident),)*
        ];

        #[derive(Clone, Copy)]
        #[expect(non_camel_case_types, reason = "they are named after the fields they stand for")]
        enum Plain { $($($ident,)*)* }
        #[derive(Clone, Copy)]
        #[expect(non_camel_case_types, reason = "they are named after the fields they stand for")]
        enum Api { $($aident,)* }
        #[derive(Clone, Copy)]
        #[expect(non_camel_case_types, reason = "they are named after the fields they stand for")]
        enum Free { $($fident,)* }
        #[derive(Clone, Copy)]
        #[expect(non_camel_case_types, reason = "they are named after the fields they stand for")]
        enum Socket { $($sident,)* }

        impl CallRecord {
            /// What the field of this index into [`FIELDS`] holds; absent too where it has free keys.
            pub fn value(&self, field: usize) -> Option<Value<'_>> {
                match PLACES[field] {
                    Place::Plain(plain) => match plain {
                        $($(Plain::$ident => self.$ident.value(),)*)*
                    },
                    Place::Api(api) => match api {
                        $(Api::$aident => self.api.$aident.value(),)*
                    },
                    Place::Free(_) => None,
                    Place::Client(socket) => self.client.value(socket),
                    Place::Upstream(socket) => self.upstream.value(socket),
                }
            }

            /// The keys and values of the field of this index into [`FIELDS`], where it has free keys.
            pub fn free_keys(&self, field: usize) -> &[(String, String)] {
                match PLACES[field] {
                    $(Place::Free(Free::$fident) => &self.$fident,)*
                    _ => &[],
                }
            }

            /// The same, to be changed.
            pub fn free_keys_mut(&mut self, field: usize) -> Option<&mut Vec<(String, String)>> {
                match PLACES[field] {
                    $(Place::Free(Free::$fident) => Some(&mut self.$fident),)*
                    _ => None,
                }
            }

            /// Makes the field of this index into [`FIELDS`] absent. What every record has stays.
            pub fn clear(&mut self, field: usize) {
                match PLACES[field] {
                    Place::Plain(plain) => match plain {
                        $($(Plain::$ident => self.$ident.clear_member(),)*)*
                    },
                    Place::Api(api) => {
                        let names = Arc::make_mut(&mut self.api);
                        match api {
                            $(Api::$aident => names.$aident.clear_member(),)*
                        }
                    }
                    Place::Free(free) => match free {
                        $(Free::$fident => self.$fident.clear(),)*
                    },
                    Place::Client(socket) => self.client.clear(socket),
                    Place::Upstream(socket) => self.upstream.clear(socket),
                }
            }

            fn read_member<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {
                match PLACES[field] {
                    Place::Plain(plain) => match plain {
                        $($(Plain::$ident => self.$ident = Slot::read_member(map)?,)*)*
                    },
                    Place::Api(api) => {
                        let names = Arc::make_mut(&mut self.api);
                        match api {
                            $(Api::$aident => names.$aident = Slot::read_member(map)?,)*
                        }
                    }
                    Place::Free(_) => {
                        map.next_value::<IgnoredAny>()?;
                    }
                    Place::Client(socket) => self.client.read_member(socket, map)?,
                    Place::Upstream(socket) => self.upstream.read_member(socket, map)?,
                }
                Ok(())
            }

            fn read_key<'de, A: MapAccess<'de>>(&mut self, field: usize, key: String, map: &mut A) -> Result<(), A::Error> {
                let value = map.next_value()?;
                match PLACES[field] {
                    $(Place::Free(Free::$fident) => self.$fident.push((key, value)),)*
                    _ => {}
                }
                Ok(())
            }
        }

        impl SocketFields {
            fn value(&self, field: Socket) -> Option<Value<'_>> {
                match field {
                    $(Socket::$sident => self.$sident.value(),)*
                }
            }

            fn clear(&mut self, field: Socket) {
                match field {
                    $(Socket::$sident => self.$sident.clear_member(),)*
                }
            }

            fn read_member<'de, A: MapAccess<'de>>(&mut self, field: Socket, map: &mut A) -> Result<(), A::Error> {
                match field {
                    $(Socket::$sident => self.$sident = Slot::read_member(map)?,)*
                }
                Ok(())
            }
        }
    };
}

record! {
    plain {
        "Identity" of ALL {
            "timestamp" timestamp: Timestamp, "When it began: the first request packet, else when the gateway had the request head, else when it was accepted.";
            "log.record.uid" uid: Uuid, "Names the record (UUIDv7).";
            "schema.version" schema_version: Text, "The version of these fields.";
            "service.instance.id" service_instance_id: Option<Arc<str>>, "Which calltap wrote it.";
            "kind" kind: Kind, "What the record is about.";
        }
        "Identity" of CALL {
            "trace_id" trace_id: Option<String>, "W3C trace id, kept from a trusted caller or begun.";
            "span_id" span_id: Option<String>, "The gateway's span in that trace.";
            "http.request.id" http_request_id: Option<String>, "X-Request-ID, kept from a trusted caller or begun.";
            "global_transaction_id" global_transaction_id: Option<String>, "X-Global-Transaction-ID, API Connect's join key.";
        }
        "The call" of CALL {
            "http.request.method" http_request_method: Option<Text>, "The method, `_OTHER` where it is not a known one.";
            "http.request.method_original" http_request_method_original: Option<String>, "The method as sent, where that differs.";
            "url.scheme" url_scheme: Option<Text>, "`http` or `https`, as the client spoke to the gateway.";
            "server.address" server_address: Option<String>, "The host the client asked for.";
            "server.port" server_port: Option<u16>, "The port the client asked for.";
            "url.path" [2048] url_path: Option<String>, "The path as sent.";
            "url.query" [2048] url_query: Option<String>, "The query as sent, secrets redacted.";
            "network.protocol.name" network_protocol_name: Option<Text>, "`http`, or what the connection was upgraded to.";
            "network.protocol.version" network_protocol_version: Option<Text>, "The version of HTTP.";
            "user_agent.original" [512] user_agent_original: Option<String>, "The User-Agent header.";
            "http.request.body.size" http_request_body_size: Option<u64>, "Bytes of the request's body, transfer encoding removed.";
        }
        "The call" of SOCKET {
            "http.response.status_code" http_response_status_code: Option<u16>, "The status the client was sent; absent when no head was written.";
        }
        "The call" of CALL {
            "http.response.body.size" http_response_body_size: Option<u64>, "Bytes of the response's body written to the client, transfer encoding removed. Of one that broke off in chunks, in TLS or in HTTP/2, those of pieces that were written whole.";
        }
        "The call" of SOCKET {
            "error.type" error_type: Option<Text>, "What went wrong: a word from a short list, or the status.";
        }
        "The call" of CALL {
            "response.flags" response_flags: Vec<Text>, "Who ended the call and how, when it did not end well: `client_abort`, `upstream_reset`, `upstream_timeout`, `gateway_reset`, `denied`, `rate_limited`, ...";
        }
        "The call" of CALL {
            "http2.reset.code" http2_reset_code: Option<Text>, "The code with which the client or the upstream reset its HTTP/2 stream, as RFC 9113 names it, in small letters: `cancel`.";
        }
        "The call" of CONNECTION {
            "connection.stage" connection_stage: Option<Stage>, "How far a connection got that never carried a call.";
        }
        "The call" of CALL {
            "rpc.system.name" rpc_system_name: Option<Text>, "`grpc`.";
            "rpc.method" rpc_method: Option<String>, "The gRPC service and method.";
            "rpc.status_code" rpc_status_code: Option<Text>, "The gRPC status, by name.";
        }
        "The API" of CALL {
            "api.consumer.client_id" api_consumer_client_id: Option<String>, "The consumer's client id.";
            "api.consumer.app" api_consumer_app: Option<String>, "The consumer's application.";
            "api.consumer.org" api_consumer_org: Option<String>, "The consumer's organisation.";
        }
        "Time" of CALL {
            "gateway.duration_us" gateway_duration_us: Option<u64>, "From having the request head until having written the response, µs.";
            "duration_us" duration_us: Option<u64>, "From the first request packet to the last response packet sent, µs.";
            "delivered_us" delivered_us: Option<u64>, "From the first request packet until the client's kernel had acknowledged the last response byte, µs.";
            "timing.req_first_us" timing_req_first_us: Option<i64>, "First request packet arrived, µs after the beginning, which it is.";
            "timing.req_last_us" timing_req_last_us: Option<i64>, "Last request packet arrived, µs after the beginning.";
            "timing.head_arrived_us" timing_head_arrived_us: Option<i64>, "The packet arrived that completed the request head, µs after the beginning.";
            "timing.head_read_us" timing_head_read_us: Option<i64>, "The gateway had the request head, µs after the beginning.";
            "timing.up_begin_us" timing_up_begin_us: Option<i64>, "The last attempt to reach an upstream began, µs after the beginning.";
            "timing.up_connected_us" timing_up_connected_us: Option<i64>, "The SYN-ACK of its connection arrived, µs after the beginning; absent on a pooled one.";
            "timing.up_secured_us" timing_up_secured_us: Option<i64>, "Its TLS handshake was done, µs after the beginning; absent without TLS.";
            "timing.up_sent_first_us" timing_up_sent_first_us: Option<i64>, "First request packet left for the upstream, µs after the beginning.";
            "timing.up_sent_last_us" timing_up_sent_last_us: Option<i64>, "Last request packet left for the upstream, µs after the beginning.";
            "timing.up_resent_last_us" timing_up_resent_last_us: Option<i64>, "The end of the request was last sent again, µs after the beginning.";
            "timing.up_acked_us" timing_up_acked_us: Option<i64>, "The upstream's kernel acknowledged the last request byte, µs after the beginning.";
            "timing.up_first_us" timing_up_first_us: Option<i64>, "First response packet arrived from the upstream, µs after the beginning.";
            "timing.up_last_us" timing_up_last_us: Option<i64>, "Last response packet arrived from the upstream, µs after the beginning.";
            "timing.resp_read_us" timing_resp_read_us: Option<i64>, "The gateway had the response head, µs after the beginning.";
            "timing.resp_first_us" timing_resp_first_us: Option<i64>, "First packet of the final response left for the client, µs after the beginning.";
            "timing.resp_last_us" timing_resp_last_us: Option<i64>, "Last response packet left for the client, µs after the beginning.";
            "timing.resp_written_us" timing_resp_written_us: Option<i64>, "The gateway finished writing the response, µs after the beginning.";
            "timing.resp_acked_us" timing_resp_acked_us: Option<i64>, "The client's kernel acknowledged the last response byte, µs after the beginning.";
            "time.client_send_us" time_client_send_us: Option<u64>, "Waiting for the client to send its request, µs.";
            "time.kernel_wait_us" time_kernel_wait_us: Option<u64>, "The request lay in the kernel until the gateway read it, µs.";
            "time.gateway_us" time_gateway_us: Option<u64>, "Spent in the gateway, µs.";
            "time.failed_attempts_us" time_failed_attempts_us: Option<u64>, "Spent on attempts to reach an upstream that failed, µs.";
            "time.connect_us" time_connect_us: Option<u64>, "Connecting to the upstream, µs.";
            "time.upstream_tls_us" time_upstream_tls_us: Option<u64>, "TLS handshake with the upstream, µs.";
            "time.upstream_network_us" time_upstream_network_us: Option<u64>, "The network between gateway and upstream, re-sending included, µs.";
            "time.upstream_server_us" time_upstream_server_us: Option<u64>, "Waiting for the upstream, network taken off, µs.";
            "time.delivery_us" time_delivery_us: Option<u64>, "Getting the response to the client, µs.";
            "time.delayed_ack_us" time_delayed_ack_us: Option<u64>, "The client's kernel took its time to acknowledge, µs.";
            "time.unattributed_us" time_unattributed_us: Option<u64>, "Nobody's: a mark that would have told is absent, µs.";
        }
        "Addresses" of SOCKET {
            "client.address" client_address: Option<IpAddr>, "The client: the TCP peer, or whom a trusted proxy named.";
            "client.port" client_port: Option<u16>, "The client's port, from the same source.";
            "network.peer.address" network_peer_address: Option<IpAddr>, "The TCP peer.";
            "network.peer.port" network_peer_port: Option<u16>, "The TCP peer's port.";
            "network.local.address" network_local_address: Option<IpAddr>, "The gateway's address on that connection.";
            "network.local.port" network_local_port: Option<u16>, "The gateway's port on that connection.";
            "network.transport" network_transport: Option<Text>, "`tcp`.";
            "network.type" network_type: Option<Text>, "`ipv4` or `ipv6`, as on the wire.";
        }
        "Upstream" of CALL {
            "upstream.address" upstream_address: Option<Address>, "The endpoint that was used, or last tried.";
            "upstream.port" upstream_port: Option<u16>, "Its port.";
            "upstream.cluster" upstream_cluster: Option<Arc<str>>, "The group it belongs to.";
            "upstream.reused" upstream_reused: Option<bool>, "The connection came from the pool.";
            "upstream.local_port" upstream_local_port: Option<u16>, "The gateway's port on that connection.";
            "upstream.attempts" upstream_attempts: Vec<AttemptRecord>, "Every try to reach an endpoint, in order.";
            "upstream.http.response.status_code" upstream_http_response_status_code: Option<u16>, "What the upstream answered.";
            "upstream.http.response.complete" upstream_http_response_complete: Option<bool>, "Whether the gateway had read all of that answer; told when the call did not end well.";
            "upstream.http.response.body.size" upstream_http_response_body_size: Option<u64>, "Bytes of that answer's body which the gateway had read, transfer encoding removed; told when the call did not end well.";
            "upstream.http.response.body.discarded" upstream_http_response_body_discarded: Option<u64>, "How many of those bytes the client's kernel had not acknowledged when the call was over: work done in vain.";
            "upstream.tls.protocol.version" upstream_tls_protocol_version: Option<Text>, "TLS version with the upstream.";
            "upstream.tls.cipher" upstream_tls_cipher: Option<Text>, "TLS cipher suite with the upstream.";
        }
        "Handshake (first call of a connection)" of SOCKET {
            "client.handshake_us" client_handshake_us: Option<u64>, "From the client's SYN, as the kernel took it, until the connection was established, µs. One that found the listener's queue full was not taken.";
            "client.accept_wait_us" client_accept_wait_us: Option<u64>, "From established until the gateway accepted it, µs.";
            "client.tls_handshake_us" client_tls_handshake_us: Option<u64>, "TLS handshake with the client, µs.";
        }
        "SYN" of SOCKET {
            "client.syn.ttl" client_syn_ttl: Option<u8>, "TTL or hop limit on arrival.";
            "client.syn.hops_guess" client_syn_hops_guess: Option<u8>, "Hops to the next usual initial TTL; a guess.";
            "client.syn.window" client_syn_window: Option<u16>, "Window, unscaled, bytes.";
            "client.syn.wscale" client_syn_wscale: Option<u8>, "Window scale option, a shift.";
            "client.syn.mss" client_syn_mss: Option<u16>, "Maximum segment size option, bytes.";
            "client.syn.options" client_syn_options: Option<Arc<str>>, "TCP options in the order sent.";
            "client.syn.df" client_syn_df: Option<bool>, "Don't Fragment was set (IPv4).";
            "client.syn.ecn" client_syn_ecn: Option<bool>, "Explicit congestion notification was offered.";
            "client.syn.dscp" client_syn_dscp: Option<u8>, "DSCP.";
            "client.syn.p0f" client_syn_p0f: Option<Arc<str>>, "p0f v3 raw signature.";
        }
        "TLS" of SOCKET {
            "tls.established" tls_established: Option<bool>, "Whether the handshake succeeded; absent without TLS.";
            "tls.protocol.version" tls_protocol_version: Option<Text>, "TLS version with the client.";
            "tls.cipher" tls_cipher: Option<Text>, "TLS cipher suite with the client.";
            "tls.next_protocol" tls_next_protocol: Option<Text>, "What ALPN agreed on.";
            "tls.resumed" tls_resumed: Option<bool>, "The session was resumed.";
            "tls.client.server_name" tls_client_server_name: Option<String>, "The name the client asked for (SNI).";
            "tls.client.ja4" tls_client_ja4: Option<String>, "JA4 fingerprint of the ClientHello.";
            "tls.client.subject" [1024] tls_client_subject: Option<String>, "The client certificate's subject.";
            "tls.client.issuer" [1024] tls_client_issuer: Option<String>, "The client certificate's issuer.";
            "tls.client.hash.sha256" tls_client_hash_sha256: Option<String>, "SHA-256 of the client certificate, upper-case hex.";
        }
        "Policy and findings" of CALL {
            "policy.decision" policy_decision: Option<Text>, "`allow`, `deny` or `limit`.";
        }
        "Policy and findings" of ALL {
            "policy.matched" policy_matched: Vec<Text>, "Rules that matched: name, action, and `dry_run` where it only watched.";
        }
        "Policy and findings" of CALL {
            "policy.reason" [1024] policy_reason: Option<String>, "Why it was not allowed.";
            "ratelimit.key" ratelimit_key: Option<String>, "Whose limit applied.";
            "ratelimit.remaining" ratelimit_remaining: Option<u64>, "Calls left under that limit.";
            "findings" findings: Vec<Finding>, "What was unusual.";
        }
        "External entries" of EXTERNAL {
            "message" [8192] message: Option<String>, "The entry's text.";
        }
        "External entries" of ATTACHED {
            "attached_to" attached_to: Option<String>, "The record or the connection it belongs to, if exactly one matched; of a `progress`, the record that the call will leave.";
        }
        "External entries" of EXTERNAL {
            "matches" matches: Option<u32>, "How many matched.";
        }
        "Quality" of SOCKET {
            "coverage" coverage: Option<Coverage>, "Where the socket facts come from; the worse of the two sockets.";
            "attribution" attribution: Option<Attribution>, "Whether they are this call's alone; the worse of the two sockets.";
        }
        "Quality" of CALL {
            "settled" settled: Option<Settled>, "Why the record was written when it was; absent where acknowledgements cannot be seen.";
        }
        "Quality" of ALL {
            "sampling.one_in" sampling_one_in: Option<u32>, "Sampling kept one in so many records of this kind, and this is one: it stands for so many. Absent: it stands for itself alone.";
            "truncated" truncated: Vec<Text>, "Fields that were cut to their limit.";
        }
    }
    api {
        "http.route" route, "The path template that matched.";
        "api.name" name, "The API's name.";
        "api.version" version, "The API's version.";
        "api.operation" operation, "The API's operation.";
        "api.catalog" catalog, "The catalog the API is published in.";
        "api.product" product, "The product it is part of.";
        "api.plan" plan, "The plan it is called under.";
    }
    free {
        "http.request.header" of "The call" CALL max 1024 http_request_headers, "Allow-listed request headers.";
        "http.response.header" of "The call" CALL max 1024 http_response_headers, "Allow-listed response headers.";
        "details" of "External entries" EXTERNAL max 1024 details, "Keys and values as posted.";
    }
    socket {
        "socket.cookie" socket_cookie: Option<SocketCookie>, "The kernel's name for the socket.";
        "socket.request_seq" socket_request_seq: Option<u32>, "The how many-th call on this connection, from 1.";
        "socket.streams" socket_streams: Option<u32>, "Calls that shared the connection, at most.";
        "wire.bytes_in" wire_bytes_in: Option<u64>, "TCP payload received for this call, repeats not counted, bytes.";
        "wire.bytes_out" wire_bytes_out: Option<u64>, "TCP payload sent for this call, repeats not counted, bytes.";
        "wire.ip_bytes_in" wire_ip_bytes_in: Option<u64>, "IP bytes of the payload segments received, repeats counted.";
        "wire.ip_bytes_out" wire_ip_bytes_out: Option<u64>, "IP bytes of the payload segments sent, repeats counted.";
        "wire.segments_in" wire_segments_in: Option<u64>, "Payload segments received, repeats counted.";
        "wire.segments_out" wire_segments_out: Option<u64>, "Payload segments sent, repeats counted.";
        "tcp.retransmits" tcp_retransmits: Option<u64>, "Segments of this call that the gateway's kernel sent again.";
        "tcp.retransmitted_bytes" tcp_retransmitted_bytes: Option<u64>, "Payload bytes of those.";
        "tcp.rtos" tcp_rtos: Option<u64>, "Retransmission timeouts while a byte of this call was the oldest in flight.";
        "tcp.peer_retransmits" tcp_peer_retransmits: Option<u64>, "Segments of this call seen twice or filling a hole.";
        "tcp.window_min" tcp_window_min: Option<u32>, "Smallest window the peer advertised while bytes of this call were unacknowledged, bytes.";
        "tcp.zero_window_us" tcp_zero_window_us: Option<u64>, "How long that window was closed, µs.";
        "tcp.flags" tcp_flags: Option<TcpFlags>, "Flags of the payload segments received.";
        "tcp.seq_first" tcp_seq_first: Option<u32>, "Sequence number of the request's first byte, as on the wire.";
        "tcp.seq_last" tcp_seq_last: Option<u32>, "Sequence number of the request's last byte, as on the wire.";
        "ip.ttl_min" ip_ttl_min: Option<u8>, "Smallest TTL or hop limit of the payload segments received.";
        "ip.ttl_max" ip_ttl_max: Option<u8>, "Largest TTL or hop limit of the payload segments received.";
        "ip.dscp" ip_dscp: Option<u8>, "DSCP of the first payload segment received.";
        "ip.ecn" ip_ecn: Option<u8>, "ECN bits of the payload segments received, or-ed.";
        "tcp.ack_kind" tcp_ack_kind: Option<AckKind>, "Whether the acknowledgement of the last byte sent carried payload.";
        "tcp.bytes_acked" tcp_bytes_acked: Option<u64>, "Of the bytes sent for this call, how many the peer acknowledged; told when it did not end well.";
        "tcp.bytes_unsent" tcp_bytes_unsent: Option<u64>, "Bytes of this call that the gateway had written and its kernel had not sent; told when it did not end well, of an upstream only by `TCP_INFO`.";
        "tcp.rtt_us" tcp_rtt_us: Option<u32>, "Smoothed round trip time, µs.";
        "tcp.min_rtt_us" tcp_min_rtt_us: Option<u32>, "Smallest round trip time, µs.";
        "tcp.handshake_rtt_us" tcp_handshake_rtt_us: Option<u32>, "Round trip of the handshake, µs.";
        "tcp.retransmits_total" tcp_retransmits_total: Option<u32>, "Segments sent again since the connection began.";
        "tcp.rto_total" tcp_rto_total: Option<u32>, "Retransmission timeouts since the connection began.";
        "tcp.dup_acks_total" tcp_dup_acks_total: Option<u32>, "Duplicate acknowledgements since the connection began.";
        "tcp.cwnd" tcp_cwnd: Option<u32>, "Congestion window, segments.";
        "tcp.mss" tcp_mss: Option<u32>, "Maximum segment size, bytes.";
        "tcp.delivery_rate_bytes_per_s" tcp_delivery_rate_bytes_per_s: Option<u64>, "The kernel's estimate of the delivery rate, bytes per second.";
        "tcp.close" tcp_close: Option<Close>, "How the connection ended, when this call ended it.";
        "coverage" coverage: Option<Coverage>, "Where the facts of this socket come from.";
        "coverage_reason" coverage_reason: Option<Text>, "Why they do not come from eBPF.";
        "attribution" attribution: Option<Attribution>, "Whether they are this call's alone.";
        "attribution_reason" attribution_reason: Option<Reason>, "Why not.";
    }
}

/// Where a field's value is.
#[derive(Clone, Copy)]
enum Place {
    Plain(Plain),
    Api(Api),
    Free(Free),
    Client(Socket),
    Upstream(Socket),
}

/// The fields without which a line is no record of ours.
const NEEDED: [&str; 3] = ["kind", "log.record.uid", "timestamp"];

impl<'de> Deserialize<'de> for CallRecord {
    /// Keys of a newer schema are passed over. Keys in the order of the table are read fastest.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = CallRecord;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CallRecord, A::Error> {
                let mut record = CallRecord::default();
                let mut missing = NEEDED.to_vec();
                let mut from = 0;
                while let Some(key) = map.next_key_seed(KeyFrom(from))? {
                    match key {
                        Key::Field(field) => {
                            record.read_member(field, &mut map)?;
                            missing.retain(|name| *name != FIELDS[field].name);
                            from = field + 1;
                        }
                        Key::Free(field, key) => {
                            record.read_key(field, key, &mut map)?;
                            from = field;
                        }
                        Key::Unknown => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                match missing.first() {
                    Some(name) => Err(A::Error::missing_field(name)),
                    None => Ok(record),
                }
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A key of a record.
enum Key {
    /// A field, by its index into [`FIELDS`].
    Field(usize),
    /// A key below a field with free keys.
    Free(usize, String),
    Unknown,
}

/// Reads a key, looking among the fields from this one on first.
struct KeyFrom(usize);

impl<'de> DeserializeSeed<'de> for KeyFrom {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyFrom {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
        for field in (self.0..FIELDS.len()).chain(0..self.0) {
            let Field { name, value, .. } = &FIELDS[field];
            if *value != ValueKind::FreeKeys {
                if *name == key {
                    return Ok(Key::Field(field));
                }
            } else if let Some(key) = key
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('.'))
            {
                return Ok(Key::Free(field, key.to_owned()));
            }
        }
        Ok(Key::Unknown)
    }
}

impl CallRecord {
    /// A record with nothing in it but its identity.
    pub fn new(kind: Kind, uid: Uuid, timestamp: Timestamp) -> Self {
        Self {
            kind,
            uid,
            timestamp,
            schema_version: Text::Borrowed(SCHEMA_VERSION),
            ..Self::default()
        }
    }
}

/// Makes a key that can stand below a field: lower case, no dots, so that it is never leaf and
/// prefix at once.
pub fn free_key(key: &str) -> String {
    if key.is_empty() {
        return "_".to_owned();
    }
    let mut key = key.to_lowercase().replace('.', "_");
    if key.len() > TEXT_MAX {
        key.truncate(key.floor_char_boundary(TEXT_MAX));
    }
    key
}

/// Applies [`free_key`] and numbers keys that have become the same.
fn make_keys_free(pairs: &mut [(String, String)]) {
    let is_free = |key: &str| {
        !key.is_empty()
            && key.len() <= TEXT_MAX
            && key
                .bytes()
                .all(|byte| byte.is_ascii() && byte != b'.' && !byte.is_ascii_uppercase())
    };
    for at in 0..pairs.len() {
        if !is_free(&pairs[at].0) {
            pairs[at].0 = free_key(&pairs[at].0);
        }
        let taken = |key: &str| pairs[..at].iter().any(|(before, _)| before == key);
        if taken(&pairs[at].0) {
            let numbered = (2..)
                .map(|number| format!("{}_{number}", pairs[at].0))
                .find(|key| !taken(key));
            pairs[at].0 = numbered.expect("one of endlessly many is not taken");
        }
    }
}

#[cfg(test)]
mod tests;
