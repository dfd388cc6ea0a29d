//! Who a request comes from and what it is called: client address, ids, forwarding headers.
//!
//! Everything here is a pure function over a request head. What a client sent is believed only as
//! far as its peer is trusted, and is bounded and validated even then. Nothing here decides whether
//! a call is allowed.

pub(crate) mod consumer;
pub(crate) mod forwarded;
pub(crate) mod grpc;
pub(crate) mod hops;
pub(crate) mod trace;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use uuid::{Builder, Uuid};

use forwarded::Forwarding;
use trace::Trace;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_GLOBAL_TRANSACTION_ID: HeaderName = HeaderName::from_static("x-global-transaction-id");

/// Room for the headers that [`Identity::stamp`] adds.
pub(crate) const STAMPED_HEADERS: usize = 8;

/// Ids of others are kept up to this length, bytes.
pub(crate) const ID_BYTES_MAX: usize = 128;

/// A TCP peer, and its address in words: constant for a connection, and needed for every call.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    text: Arc<str>,
    /// What `X-Forwarded-For` says of it where nobody else is named.
    forwarded_for: HeaderValue,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let address = canonical(address);
        let text = address.ip().to_string();
        Self {
            address,
            forwarded_for: HeaderValue::from_str(&text).expect("an address is printable"),
            text: text.into(),
        }
    }
}

/// What is known of a request's sender before its head is read.
pub(crate) struct Sender<'a> {
    /// The TCP peer; `None` where there is no address (a unix socket).
    pub(crate) peer: Option<&'a Peer>,
    /// `http` or `https`, as the peer spoke to us.
    pub(crate) scheme: &'static str,
    /// Whose forwarding headers are believed.
    pub(crate) is_trusted: &'a dyn Fn(IpAddr) -> bool,
}

/// What a request is called and where it comes from, kept from trusted peers and begun otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The client: the rightmost address that no trusted peer vouches for. Port 0 where only an
    /// address was said.
    pub(crate) client_address: Option<SocketAddr>,
    /// X-Request-ID.
    pub(crate) request_id: String,
    /// X-Global-Transaction-ID.
    pub(crate) global_transaction_id: String,
    /// The W3C trace context, with a span id of our own.
    pub(crate) trace: Trace,
    forwarding: Forwarding,
    peer_is_trusted: bool,
}

impl Identity {
    /// Reads the head of a request. `random` gives 128 fresh random bits with each call.
    pub(crate) fn of(
        head: &RequestHeader,
        sender: &Sender<'_>,
        mut random: impl FnMut() -> u128,
    ) -> Self {
        let peer = sender.peer;
        let peer_is_trusted = peer.is_some_and(|peer| (sender.is_trusted)(peer.address.ip()));
        // Most requests tell nothing, and to look for each header costs more than to see that.
        let is_told = peer_is_trusted && head.headers.keys().any(is_telling);
        let kept = |name: &HeaderName| {
            is_told
                .then(|| single_header(head, name))
                .flatten()
                .filter(|id| is_id(id))
        };
        let request_id = kept(&X_REQUEST_ID).map_or_else(
            || {
                let id = Builder::from_random_bytes(random().to_be_bytes()).into_uuid();
                let mut text = Uuid::encode_buffer();
                id.as_hyphenated().encode_lower(&mut text).to_owned()
            },
            str::to_owned,
        );
        let global_transaction_id =
            kept(&X_GLOBAL_TRANSACTION_ID).map_or_else(|| hex(random()), str::to_owned);
        let trace = if is_told {
            Trace::continued(head, &mut random)
        } else {
            None
        }
        .unwrap_or_else(|| Trace::begun(&mut random));
        let forwarding = Forwarding::of(head, peer, sender.scheme, is_told);
        Self {
            client_address: forwarding.client_address(sender.is_trusted),
            request_id,
            global_transaction_id,
            trace,
            forwarding,
            peer_is_trusted,
        }
    }

    /// Writes all of it into the head that goes to the upstream, over what the client sent.
    ///
    /// # Errors
    /// None in practice: the values written here are all printable ASCII.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) -> Result<(), InvalidHeaderValue> {
        self.forwarding.stamp(headers, self.peer_is_trusted)?;
        self.trace.stamp(headers)?;
        for (name, id) in [
            (&X_REQUEST_ID, &self.request_id),
            (&X_GLOBAL_TRANSACTION_ID, &self.global_transaction_id),
        ] {
            headers.insert(name, HeaderValue::from_str(id)?);
        }
        Ok(())
    }
}

/// Whether it is one of the headers that a trusted peer is believed.
fn is_telling(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "forwarded"
            | "traceparent"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-global-transaction-id"
            | "x-request-id"
    )
}

/// 32 hex digits. The formatting machinery takes ten times as long, and every call has several ids.
fn hex(number: u128) -> String {
    with_hex(number, str::to_owned)
}

/// The same, lent.
fn with_hex<T>(number: u128, then: impl FnOnce(&str) -> T) -> T {
    let mut digits = Uuid::encode_buffer();
    then(
        Uuid::from_u128(number)
            .as_simple()
            .encode_lower(&mut digits),
    )
}

/// 128 random bits that nobody can predict, without a system call for each.
pub(crate) fn random() -> u128 {
    const WORD: usize = size_of::<u128>();
    const WORDS: usize = 64;
    thread_local! {
        static POOL: RefCell<([u8; WORD * WORDS], usize)> = const { RefCell::new(([0; WORD * WORDS], 0)) };
    }
    POOL.with_borrow_mut(|(pool, left)| {
        if *left == 0 {
            SystemRandom::new()
                .fill(pool)
                .expect("the kernel has randomness once it has booted");
            *left = WORDS;
        }
        *left -= 1;
        let (words, _) = pool.as_chunks::<WORD>();
        u128::from_ne_bytes(words[*left])
    })
}

/// A UUIDv7 of now: milliseconds since 1970, their fraction in 4096ths, and random bits (RFC 9562,
/// section 6.2, method 3).
pub(crate) fn uuid_v7() -> Uuid {
    const MILLISECOND_NS: u64 = 1_000_000;
    let wall = clock_gettime(ClockId::Realtime);
    let wall_ns = wall.tv_nsec.cast_unsigned();
    let milliseconds = wall.tv_sec.cast_unsigned() * 1000 + wall_ns / MILLISECOND_NS;
    let fraction = (wall_ns % MILLISECOND_NS) * 4096 / MILLISECOND_NS;
    let mut rest = [0; 10];
    rest[..2].copy_from_slice(&(fraction as u16).to_be_bytes());
    rest[2..].copy_from_slice(&(random() as u64).to_be_bytes());
    Builder::from_unix_timestamp_millis(milliseconds, &rest).into_uuid()
}

/// The authority the client asked for: `:authority` or an absolute target, else Host.
pub(crate) fn authority(head: &RequestHeader) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => single_header(head, &header::HOST),
    }
}

/// A header that must not occur twice; `None` if it does, or is not ASCII.
/// Host and port of an authority as most are, without a user, an IPv6 literal or an escape; `None` of
/// others, good or bad.
pub(crate) fn plain_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port.parse().ok()?))
        }
        Some(_) => return None,
        None => (text, None),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!host.is_empty() && host.bytes().all(is_plain)).then_some((host, port))
}

fn single_header<'h>(head: &'h RequestHeader, name: &HeaderName) -> Option<&'h str> {
    let mut values = head.headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

fn is_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._~:/+=@-".contains(&byte))
}

/// IPv4-mapped addresses unwrapped.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request head from `name: value` lines.
    pub(crate) fn head(lines: &[&str]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/orders?id=1", None).unwrap();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            head.append_header(name.to_owned(), value).unwrap();
        }
        head
    }

    /// Headers as lines again, sorted.
    pub(crate) fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        lines.sort();
        lines
    }

    /// 1, 2, 3, ... in both halves.
    pub(crate) fn counting() -> impl FnMut() -> u128 {
        let mut next = 0;
        move || {
            next += 1;
            (next << 64) | next
        }
    }

    const TRUSTED: &str = "10.0.0.1:1000";
    const STRANGER: &str = "192.0.2.7:1000";

    fn stamped(peer: &str, sent: &[&str]) -> Vec<String> {
        let head = head(sent);
        let sender = Sender {
            peer: Some(&Peer::new(peer.parse().unwrap())),
            scheme: "https",
            is_trusted: &|address| address.to_string().starts_with("10."),
        };
        let mut headers = head.headers.clone();
        Identity::of(&head, &sender, counting())
            .stamp(&mut headers)
            .unwrap();
        lines(&headers)
    }

    #[test]
    fn ids_begin_here_when_there_are_none() {
        assert_eq!(
            stamped(STRANGER, &["Host: a.example"]),
            [
                "forwarded: for=192.0.2.7;host=a.example;proto=https",
                "host: a.example",
                "traceparent: 00-00000000000000030000000000000003-0000000000000004-01",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: a.example",
                "x-forwarded-proto: https",
                "x-global-transaction-id: 00000000000000020000000000000002",
                "x-request-id: 00000000-0000-4001-8000-000000000001",
            ]
        );
    }

    const CLAIMS: [&str; 9] = [
        "Host: a.example",
        "X-Request-ID: req-1",
        "X-Global-Transaction-ID: gtx-1",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "tracestate: a=1",
        "X-Forwarded-For: 198.51.100.9",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: public.example",
        "X-Forwarded-Port: 81",
    ];

    #[test]
    fn a_trusted_peer_is_believed() {
        assert_eq!(
            stamped(TRUSTED, &CLAIMS),
            [
                "forwarded: for=198.51.100.9, for=10.0.0.1;host=a.example;proto=https",
                "host: a.example",
                "traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000001-00",
                "tracestate: a=1",
                "x-forwarded-for: 198.51.100.9, 10.0.0.1",
                "x-forwarded-host: public.example",
                "x-forwarded-port: 81",
                "x-forwarded-proto: http",
                "x-global-transaction-id: gtx-1",
                "x-request-id: req-1",
            ]
        );
    }

    #[test]
    fn a_stranger_is_not() {
        let mut claims = CLAIMS.to_vec();
        claims.extend([
            "X_Forwarded_For: 1.1.1.1",
            "X-Real-IP: 1.1.1.1",
            "X-Rewrite-URL: /admin",
        ]);
        assert_eq!(
            stamped(STRANGER, &claims),
            stamped(STRANGER, &["Host: a.example"])
        );
    }

    #[test]
    fn ids_that_are_no_ids_are_begun_again() {
        let long = format!("X-Request-ID: {}", "a".repeat(ID_BYTES_MAX + 1));
        let cases: [&[&str]; 5] = [
            &["X-Request-ID: a b"],
            &["X-Request-ID: <script>"],
            &["X-Request-ID: a", "X-Request-ID: b"],
            &["X-Request-ID: "],
            &[&long],
        ];
        for sent in cases {
            let ids = stamped(TRUSTED, sent);
            assert!(
                ids.contains(&"x-request-id: 00000000-0000-4001-8000-000000000001".to_owned()),
                "{sent:?} gave {ids:?}"
            );
        }
    }

    #[test]
    fn names_of_records_are_in_the_order_of_their_making() {
        let mut last = uuid_v7();
        assert_eq!(last.get_version_num(), 7);
        let made = last.get_timestamp().map(|made| made.to_unix().0);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!(made.is_some_and(|made| (now - 60..=now).contains(&made)));
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_micros(1));
            let next = uuid_v7();
            assert!(next > last, "{next} after {last}");
            last = next;
        }
    }

    #[test]
    fn random_numbers_differ() {
        let drawn: std::collections::HashSet<u128> = (0..1000).map(|_| random()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
