//! What is known of a call when its head was read.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::LazyLock;

use calltap_correlate::exchange::Exchange;
use calltap_correlate::record::FIELDS;
use calltap_correlate::socket::{Counters, Coverage, SocketIdentity, Turn, Turns};
use calltap_correlate::syn::Syn;

use crate::expression::{Facts, Known};

/// The fields of the record that rules may name.
pub const AT_ADMISSION: Known = Known {
    when: |name| ANSWERS.iter().any(|(known, _)| *known == name),
    otherwise: "is not known before the call is forwarded",
};

/// What the gateway is asked for only where a rule needs it.
pub trait Asked {
    /// The values of a request header, by its name in lower case, several joined by commas.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
    /// The client's connection, now.
    fn counters(&self) -> Counters;
    /// The packets that brought the head.
    fn received(&self) -> Turns;
}

/// A call whose head was read.
pub struct Head<'c> {
    exchange: &'c Exchange,
    path: &'c str,
    asked: &'c dyn Asked,
    counters: OnceCell<Counters>,
    received: OnceCell<Turns>,
    syn: OnceCell<Option<Syn>>,
}

impl<'c> Head<'c> {
    /// `exchange` has its request, its API and its consumer; `path` is the path that is routed by, in
    /// which nobody can hide one path behind another.
    pub fn new(exchange: &'c Exchange, path: &'c str, asked: &'c dyn Asked) -> Self {
        Self {
            exchange,
            path,
            asked,
            counters: OnceCell::new(),
            received: OnceCell::new(),
            syn: OnceCell::new(),
        }
    }

    fn counters(&self) -> &Counters {
        self.counters.get_or_init(|| self.asked.counters())
    }

    fn turns(&self) -> &[Turn] {
        &self.received.get_or_init(|| self.asked.received()).turns
    }

    fn identity(&self) -> Option<&SocketIdentity> {
        self.exchange.client.identity.as_deref()
    }

    fn syn(&self) -> Option<&Syn> {
        let syn = self.syn.get_or_init(|| {
            let headers = &self.identity()?.syn_headers;
            Syn::parse(headers)
        });
        syn.as_ref()
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.identity().map(|identity| canonical(identity.peer))
    }

    fn local(&self) -> Option<SocketAddr> {
        self.identity().map(|identity| canonical(identity.local))
    }

    fn client(&self) -> Option<SocketAddr> {
        self.exchange.client_address.map(canonical).or(self.peer())
    }

    fn is_covered(&self) -> bool {
        self.exchange.client.coverage != Coverage::None
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How a field is answered.
enum Answer {
    Text(for<'h> fn(&'h Head<'_>) -> Option<Cow<'h, str>>),
    Integer(fn(&Head<'_>) -> Option<i64>),
    Boolean(fn(&Head<'_>) -> Option<bool>),
    /// Request headers, all of them.
    Headers,
}

use Answer::{Boolean, Headers, Integer, Text};

fn borrowed(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(text))
}

fn maybe(text: Option<&(impl AsRef<str> + ?Sized)>) -> Option<Cow<'_, str>> {
    text.map(|text| Cow::Borrowed(text.as_ref()))
}

fn ip(address: Option<SocketAddr>) -> Option<Cow<'static, str>> {
    address.map(|address| Cow::Owned(address.ip().to_string()))
}

fn port(address: Option<SocketAddr>) -> Option<i64> {
    address.map(|address| i64::from(address.port()))
}

fn number<T: TryInto<i64>>(number: Option<T>) -> Option<i64> {
    number.map(|number| number.try_into().unwrap_or(i64::MAX))
}

/// µs between two moments, as records round them.
fn between(from_ns: Option<u64>, to_ns: u64) -> Option<i64> {
    number((to_ns / 1000).checked_sub(from_ns? / 1000))
}

const ANSWERS: &[(&str, Answer)] = &[
    (
        "http.request.method",
        Text(|h| borrowed(&h.exchange.request.method)),
    ),
    (
        "http.request.method_original",
        Text(|h| maybe(h.exchange.request.method_original.as_ref())),
    ),
    ("url.scheme", Text(|h| borrowed(&h.exchange.request.scheme))),
    (
        "server.address",
        Text(|h| maybe(h.exchange.request.server_address.as_ref())),
    ),
    (
        "server.port",
        Integer(|h| number(h.exchange.request.server_port)),
    ),
    ("url.path", Text(|h| borrowed(h.path))),
    (
        "url.query",
        Text(|h| maybe(h.exchange.request.query.as_ref())),
    ),
    (
        "network.protocol.version",
        Text(|h| borrowed(&h.exchange.request.version)),
    ),
    (
        "user_agent.original",
        Text(|h| maybe(h.exchange.request.user_agent.as_ref())),
    ),
    ("http.request.header", Headers),
    (
        "http.request.id",
        Text(|h| maybe(h.exchange.request.request_id.as_ref())),
    ),
    (
        "global_transaction_id",
        Text(|h| maybe(h.exchange.request.global_transaction_id.as_ref())),
    ),
    (
        "trace_id",
        Text(|h| maybe(h.exchange.request.trace_id.as_ref())),
    ),
    (
        "rpc.method",
        Text(|h| maybe(h.exchange.request.rpc_method.as_ref())),
    ),
    ("http.route", Text(|h| maybe(h.exchange.api.route.as_ref()))),
    ("api.name", Text(|h| maybe(h.exchange.api.name.as_ref()))),
    (
        "api.version",
        Text(|h| maybe(h.exchange.api.version.as_ref())),
    ),
    (
        "api.operation",
        Text(|h| maybe(h.exchange.api.operation.as_ref())),
    ),
    (
        "api.catalog",
        Text(|h| maybe(h.exchange.api.catalog.as_ref())),
    ),
    (
        "api.product",
        Text(|h| maybe(h.exchange.api.product.as_ref())),
    ),
    ("api.plan", Text(|h| maybe(h.exchange.api.plan.as_ref()))),
    (
        "api.consumer.client_id",
        Text(|h| maybe(h.exchange.consumer.client_id.as_ref())),
    ),
    (
        "api.consumer.app",
        Text(|h| maybe(h.exchange.consumer.app.as_ref())),
    ),
    (
        "api.consumer.org",
        Text(|h| maybe(h.exchange.consumer.org.as_ref())),
    ),
    ("client.address", Text(|h| ip(h.client()))),
    (
        "client.port",
        Integer(|h| port(h.client()).filter(|port| *port != 0)),
    ),
    ("network.peer.address", Text(|h| ip(h.peer()))),
    ("network.peer.port", Integer(|h| port(h.peer()))),
    ("network.local.address", Text(|h| ip(h.local()))),
    ("network.local.port", Integer(|h| port(h.local()))),
    (
        "network.type",
        Text(|h| {
            h.peer()
                .and_then(|peer| borrowed(if peer.is_ipv4() { "ipv4" } else { "ipv6" }))
        }),
    ),
    (
        "tls.established",
        Boolean(|h| h.exchange.tls.as_ref().map(|_| true)),
    ),
    (
        "tls.protocol.version",
        Text(|h| maybe(h.exchange.tls.as_ref()?.version.as_ref())),
    ),
    (
        "tls.cipher",
        Text(|h| maybe(h.exchange.tls.as_ref()?.cipher.as_ref())),
    ),
    (
        "tls.next_protocol",
        Text(|h| maybe(h.exchange.tls.as_ref()?.next_protocol.as_ref())),
    ),
    ("tls.resumed", Boolean(|h| h.exchange.tls.as_ref()?.resumed)),
    (
        "tls.client.server_name",
        Text(|h| maybe(h.exchange.tls.as_ref()?.server_name.as_ref())),
    ),
    (
        "tls.client.ja4",
        Text(|h| maybe(h.exchange.tls.as_ref()?.ja4.as_ref())),
    ),
    (
        "tls.client.subject",
        Text(|h| maybe(h.exchange.tls.as_ref()?.client_subject.as_ref())),
    ),
    (
        "tls.client.issuer",
        Text(|h| maybe(h.exchange.tls.as_ref()?.client_issuer.as_ref())),
    ),
    (
        "tls.client.hash.sha256",
        Text(|h| maybe(h.exchange.tls.as_ref()?.client_sha256.as_ref())),
    ),
    (
        "client.syn.ttl",
        Integer(|h| number(h.syn().map(|syn| syn.ttl))),
    ),
    (
        "client.syn.hops_guess",
        Integer(|h| number(h.syn()?.hops_guess)),
    ),
    (
        "client.syn.window",
        Integer(|h| number(h.syn().map(|syn| syn.window))),
    ),
    ("client.syn.wscale", Integer(|h| number(h.syn()?.wscale))),
    ("client.syn.mss", Integer(|h| number(h.syn()?.mss))),
    (
        "client.syn.options",
        Text(|h| maybe(h.syn().map(|syn| &*syn.options))),
    ),
    ("client.syn.df", Boolean(|h| h.syn()?.df)),
    ("client.syn.ecn", Boolean(|h| h.syn().map(|syn| syn.ecn))),
    (
        "client.syn.dscp",
        Integer(|h| number(h.syn().map(|syn| syn.dscp))),
    ),
    (
        "client.syn.p0f",
        Text(|h| maybe(h.syn().map(|syn| &*syn.p0f))),
    ),
    (
        "client.socket.cookie",
        Text(|h| {
            h.exchange
                .client
                .cookie
                .map(|cookie| cookie.get().to_string().into())
        }),
    ),
    (
        "client.socket.request_seq",
        Integer(|h| Some(i64::from(h.exchange.client.request_seq)).filter(|_| h.is_covered())),
    ),
    (
        "client.ip.ttl_min",
        Integer(|h| number(h.turns().iter().map(|turn| turn.ttl_min).min())),
    ),
    (
        "client.ip.ttl_max",
        Integer(|h| number(h.turns().iter().map(|turn| turn.ttl_max).max())),
    ),
    (
        "client.ip.dscp",
        Integer(|h| number(h.turns().first().map(|turn| turn.dscp))),
    ),
    (
        "client.ip.ecn",
        Integer(|h| number(h.turns().iter().map(|turn| turn.ecn).reduce(|a, b| a | b))),
    ),
    (
        "client.wire.segments_in",
        Integer(|h| {
            let segments = h.turns().iter().map(|turn| i64::from(turn.segments));
            segments.reduce(|a, b| a + b)
        }),
    ),
    (
        "client.tcp.rtt_us",
        Integer(|h| number(h.counters().rtt_us)),
    ),
    (
        "client.tcp.min_rtt_us",
        Integer(|h| number(h.counters().min_rtt_us)),
    ),
    (
        "client.tcp.handshake_rtt_us",
        Integer(|h| number(h.counters().handshake_rtt_us)),
    ),
    (
        "client.tcp.retransmits_total",
        Integer(|h| number(h.counters().retransmits)),
    ),
    (
        "client.tcp.rto_total",
        Integer(|h| number(h.counters().rtos)),
    ),
    (
        "client.tcp.dup_acks_total",
        Integer(|h| number(h.counters().dup_acks)),
    ),
    ("client.tcp.cwnd", Integer(|h| number(h.counters().cwnd))),
    ("client.tcp.mss", Integer(|h| number(h.counters().mss))),
    (
        "client.tcp.delivery_rate_bytes_per_s",
        Integer(|h| number(h.counters().delivery_rate_bytes_per_s)),
    ),
    (
        "time.kernel_wait_us",
        Integer(|h| {
            between(
                h.exchange.client.head_arrived_ns,
                h.exchange.times.head_read_ns,
            )
        }),
    ),
];

/// The answer to each field of the record, by its place in [`FIELDS`].
static BY_FIELD: LazyLock<Vec<Option<&'static Answer>>> = LazyLock::new(|| {
    let answer = |name| ANSWERS.iter().find(|(known, _)| *known == name);
    let of = |name| answer(name).map(|(_, answer)| answer);
    FIELDS.iter().map(|field| of(field.name)).collect()
});

impl Facts for Head<'_> {
    fn text(&self, field: usize) -> Option<Cow<'_, str>> {
        match BY_FIELD[field] {
            Some(Text(answer)) => answer(self),
            _ => None,
        }
    }

    fn integer(&self, field: usize) -> Option<i64> {
        match BY_FIELD[field] {
            Some(Integer(answer)) => answer(self),
            _ => None,
        }
    }

    fn boolean(&self, field: usize) -> Option<bool> {
        match BY_FIELD[field] {
            Some(Boolean(answer)) => answer(self),
            _ => None,
        }
    }

    fn list(&self, _: usize) -> Option<Vec<Cow<'_, str>>> {
        None
    }

    fn key(&self, field: usize, key: &str) -> Option<Cow<'_, str>> {
        match BY_FIELD[field] {
            Some(Headers) => self.asked.header(key),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calltap_correlate::record::ValueKind;

    #[test]
    fn every_answer_is_to_a_field_of_its_type() {
        for (name, answer) in ANSWERS {
            let field = FIELDS.iter().find(|field| field.name == *name);
            let value = field.unwrap_or_else(|| panic!("{name}")).value;
            let fits = match answer {
                Text(_) => matches!(value, ValueKind::Text | ValueKind::Id | ValueKind::OneOf(_)),
                Integer(_) => value == ValueKind::Integer,
                Boolean(_) => value == ValueKind::Boolean,
                Headers => value == ValueKind::FreeKeys,
            };
            assert!(fits, "{name} is {value:?}");
        }
    }
}
