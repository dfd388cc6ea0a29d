//! X-Forwarded-For, -Proto, -Host and Forwarded (RFC 7239): who passed a request on before us.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, InvalidHeaderValue};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use super::{Peer, authority, canonical, single_header};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Only this many hops are kept, the ones nearest to us.
const HOPS_MAX: usize = 32;
/// A longer Forwarded header is begun again, bytes.
const FORWARDED_BYTES_MAX: usize = 4096;
/// A longer host is not passed on, bytes.
const HOST_BYTES_MAX: usize = 255 + ":65535".len();

/// What is passed on about the way of a request.
#[derive(Clone, Debug)]
pub(super) struct Forwarding {
    /// Farthest first, without the peer itself.
    hops: Vec<SocketAddr>,
    peer: Option<Peer>,
    /// The Forwarded header of a trusted peer.
    forwarded: Option<String>,
    scheme: &'static str,
    forwarded_proto: &'static str,
    host: Option<String>,
    forwarded_host: Option<String>,
}

impl Forwarding {
    pub(super) fn of(
        head: &RequestHeader,
        peer: Option<&Peer>,
        scheme: &'static str,
        peer_is_trusted: bool,
    ) -> Self {
        let host = authority(head)
            .filter(|host| is_host(host))
            .map(str::to_owned);
        let mut forwarding = Self {
            hops: Vec::new(),
            peer: peer.cloned(),
            forwarded: None,
            scheme,
            forwarded_proto: scheme,
            forwarded_host: host.clone(),
            host,
        };
        if !peer_is_trusted {
            return forwarding;
        }
        forwarding.forwarded = joined(head, &FORWARDED)
            .filter(|text| text.len() <= FORWARDED_BYTES_MAX && elements(text).is_some());
        forwarding.hops = match joined(head, &X_FORWARDED_FOR) {
            Some(list) => nearest_hops(list.split(',').map(|node| parse_node(node.trim()))),
            // Only the standard header: its hops are X-Forwarded-For's too.
            None => forwarding
                .forwarded
                .as_deref()
                .and_then(elements)
                .map_or_else(Vec::new, |elements| {
                    nearest_hops(elements.into_iter().map(|pairs| parse_node(pairs.node?)))
                }),
        };
        match single_header(head, &X_FORWARDED_PROTO) {
            Some("http") => forwarding.forwarded_proto = "http",
            Some("https") => forwarding.forwarded_proto = "https",
            _ => {}
        }
        if let Some(host) = single_header(head, &X_FORWARDED_HOST).filter(|host| is_host(host)) {
            forwarding.forwarded_host = Some(host.to_owned());
        }
        forwarding
    }

    /// The nearest address that is not itself trusted; the farthest if all are.
    pub(super) fn client_address(&self, is_trusted: &dyn Fn(IpAddr) -> bool) -> Option<SocketAddr> {
        let peer = self.peer.iter().map(|peer| peer.address);
        let way_back = peer.chain(self.hops.iter().rev().copied());
        let mut client = None;
        for address in way_back {
            client = Some(address);
            if !is_trusted(address.ip()) {
                break;
            }
        }
        client
    }

    pub(super) fn stamp(
        &self,
        headers: &mut HeaderMap,
        peer_is_trusted: bool,
    ) -> Result<(), InvalidHeaderValue> {
        if !peer_is_trusted {
            remove_claims(headers);
        }
        insert_or_remove(headers, &X_FORWARDED_FOR, self.chain()?);
        let host = self.forwarded_host.as_deref().map(HeaderValue::from_str);
        insert_or_remove(headers, &X_FORWARDED_HOST, host.transpose()?);
        let proto = HeaderValue::from_static(self.forwarded_proto);
        headers.insert(&X_FORWARDED_PROTO, proto);
        headers.insert(FORWARDED, HeaderValue::try_from(self.forwarded_header())?);
        Ok(())
    }

    /// `X-Forwarded-For`, if there is anybody to name.
    fn chain(&self) -> Result<Option<HeaderValue>, InvalidHeaderValue> {
        if self.hops.is_empty() {
            return Ok(self.peer.as_ref().map(|peer| peer.forwarded_for.clone()));
        }
        let mut chain = String::new();
        for hop in &self.hops {
            let _ = write!(chain, "{}, ", hop.ip());
        }
        match &self.peer {
            Some(peer) => chain.push_str(&peer.text),
            None => chain.truncate(chain.len().saturating_sub(2)),
        }
        HeaderValue::try_from(chain).map(Some)
    }

    fn forwarded_header(&self) -> String {
        let mut text = self.forwarded.clone().unwrap_or_else(|| {
            self.hops
                .iter()
                .map(|hop| format!("for={}", node(hop.ip())))
                .collect::<Vec<_>>()
                .join(", ")
        });
        // The rest in one piece: names and signs beside the peer, the host and the scheme.
        const AROUND_BYTES: usize = ", for=\"[]\";host=\"\";proto=https".len();
        let host_bytes = self.host.as_ref().map_or(0, String::len);
        let peer_bytes = self.peer.as_ref().map_or(0, |peer| peer.text.len());
        text.reserve(AROUND_BYTES + peer_bytes + host_bytes);
        if !text.is_empty() {
            text.push_str(", ");
        }
        let (open, close) = match &self.peer {
            Some(peer) if peer.address.is_ipv6() => ("for=\"[", "]\""),
            _ => ("for=", ""),
        };
        let peer = self.peer.as_ref().map_or("unknown", |peer| &*peer.text);
        text.extend([open, peer, close]);
        if let Some(host) = &self.host {
            // A port or an IPv6 literal needs quotes; is_host leaves nothing to escape.
            let quote = if host.contains([':', '[']) { "\"" } else { "" };
            text.extend([";host=", quote, host, quote]);
        }
        text.extend([";proto=", self.scheme]);
        text
    }
}

/// Headers by which a stranger could claim to be somebody's proxy. Underscores count as hyphens:
/// CGI-like backends cannot tell them apart.
fn remove_claims(headers: &mut HeaderMap) {
    const NAMES: [&str; 7] = [
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "x-original-url",
        "x-rewrite-url",
    ];
    let reads_as = |name: &str, wanted: &str| {
        name.bytes()
            .map(|byte| if byte == b'_' { b'-' } else { byte })
            .eq(wanted.bytes())
    };
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            const PREFIX: &str = "x-forwarded-";
            name.get(..PREFIX.len())
                .is_some_and(|prefix| reads_as(prefix, PREFIX))
                || NAMES.iter().any(|wanted| reads_as(name, wanted))
                || ["x-request-id", "x-global-transaction-id"]
                    .iter()
                    .any(|ours| name.contains('_') && reads_as(name, ours))
        })
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

fn insert_or_remove(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// All lines of a list header as one; `None` without any, or if one is not ASCII.
fn joined(head: &RequestHeader, name: &HeaderName) -> Option<String> {
    let mut values = head.headers.get_all(name).iter();
    let mut whole = values.next()?.to_str().ok()?.to_owned();
    for value in values {
        whole.push_str(", ");
        whole.push_str(value.to_str().ok()?);
    }
    Some(whole)
}

/// The hops up to, and without, the nearest one that says nothing we can read.
fn nearest_hops(hops: impl DoubleEndedIterator<Item = Option<SocketAddr>>) -> Vec<SocketAddr> {
    let mut nearest: Vec<SocketAddr> = hops.rev().map_while(|hop| hop).take(HOPS_MAX).collect();
    nearest.reverse();
    nearest
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_node(text: &str) -> Option<SocketAddr> {
    let address = if let Ok(address) = text.parse::<SocketAddr>() {
        address
    } else {
        let bare = text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .unwrap_or(text);
        SocketAddr::new(bare.parse().ok()?, 0)
    };
    Some(canonical(address))
}

/// An address as Forwarded writes it.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// What we want of one element of a Forwarded header.
struct Element<'t> {
    /// `for`, quotes removed. A node never needs an escape.
    node: Option<&'t str>,
}

/// The elements of a Forwarded header; `None` if it breaks the grammar.
fn elements(text: &str) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    let mut element = Element { node: None };
    let mut rest = text.trim();
    loop {
        let (name, after) = rest.split_at(rest.find('=')?);
        if !is_token(name) {
            return None;
        }
        let value_and_rest = &after[1..];
        let (value, after) = match value_and_rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted_end(quoted)?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => {
                let end = value_and_rest
                    .find([',', ';', ' ', '\t'])
                    .unwrap_or(value_and_rest.len());
                let (value, after) = value_and_rest.split_at(end);
                if !is_token(value) && parse_node(value).is_none() {
                    return None;
                }
                (value, after)
            }
        };
        if name.eq_ignore_ascii_case("for") {
            element.node = Some(value);
        }
        let after = after.trim_start();
        if after.is_empty() {
            elements.push(element);
            return Some(elements);
        }
        if let Some(next) = after.strip_prefix(',') {
            elements.push(element);
            element = Element { node: None };
            rest = next.trim_start();
        } else {
            rest = after.strip_prefix(';')?.trim_start();
        }
    }
}

/// Where the closing quote is.
fn quoted_end(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A host name or address with an optional port, safe to quote anywhere.
fn is_host(text: &str) -> bool {
    (1..=HOST_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::super::tests::head;
    use super::*;

    fn forwarding(peer: &str, sent: &[&str]) -> Forwarding {
        let peer = Peer::new(peer.parse().unwrap());
        Forwarding::of(&head(sent), Some(&peer), "http", true)
    }

    #[test]
    fn the_client_is_the_nearest_address_nobody_trusted_vouches_for() {
        let check = |forwarded_for: &str, expected: &str| {
            let way = forwarding(
                "10.0.0.1:5",
                &[&format!("X-Forwarded-For: {forwarded_for}")],
            );
            let client = way
                .client_address(&|ip| ip.to_string().starts_with("10."))
                .unwrap();
            assert_eq!(client.to_string(), expected, "{forwarded_for}");
        };
        check("192.0.2.1", "192.0.2.1:0");
        check("192.0.2.1:77", "192.0.2.1:77");
        check("1.1.1.1, 192.0.2.1, 10.0.0.9", "192.0.2.1:0");
        check("10.0.0.8, 10.0.0.9", "10.0.0.8:0");
        check("[2001:db8::1]:8080", "[2001:db8::1]:8080");
        check("2001:db8::1", "[2001:db8::1]:0");
        check("::ffff:192.0.2.1", "192.0.2.1:0");
        // What cannot be read ends the way back: nobody trusted vouches for what lies beyond.
        check("1.1.1.1, unknown", "10.0.0.1:5");
        check("1.1.1.1, <b>, 10.0.0.9", "10.0.0.9:0");
        check("", "10.0.0.1:5");
    }

    #[test]
    fn several_lines_are_one_list() {
        let way = forwarding(
            "10.0.0.1:5",
            &["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2"],
        );
        assert_eq!(
            way.hops,
            ["1.1.1.1:0".parse().unwrap(), "2.2.2.2:0".parse().unwrap()]
        );
    }

    #[test]
    fn a_long_way_is_cut_at_its_far_end() {
        let list: Vec<String> = (0..40).map(|n| format!("192.0.2.{n}")).collect();
        let way = forwarding(
            "10.0.0.1:5",
            &[&format!("X-Forwarded-For: {}", list.join(","))],
        );
        assert_eq!(way.hops.len(), HOPS_MAX);
        assert_eq!(way.hops[0].to_string(), "192.0.2.8:0");
    }

    #[test]
    fn the_standard_header_is_kept_if_it_is_one() {
        let check = |sent: &str, expected: &str| {
            let way = forwarding("10.0.0.1:5", &[&format!("Forwarded: {sent}")]);
            assert_eq!(way.forwarded_header(), expected, "{sent}");
        };
        check("for=192.0.2.1", "for=192.0.2.1, for=10.0.0.1;proto=http");
        check(
            "For=\"[2001:db8::1]:47\";proto=https, for=_hidden;by=\"a\\\",b\"",
            "For=\"[2001:db8::1]:47\";proto=https, for=_hidden;by=\"a\\\",b\", for=10.0.0.1;proto=http",
        );
        check("for=\"open", "for=10.0.0.1;proto=http");
        check("nonsense", "for=10.0.0.1;proto=http");
        check("for=a b", "for=10.0.0.1;proto=http");
        check("for=1.1.1.1,", "for=10.0.0.1;proto=http");
    }

    #[test]
    fn the_standard_header_alone_names_the_hops_too() {
        let way = forwarding(
            "10.0.0.1:5",
            &["Forwarded: for=\"[2001:db8::1]:47\", for=192.0.2.1"],
        );
        assert_eq!(
            way.hops,
            [
                "[2001:db8::1]:47".parse().unwrap(),
                "192.0.2.1:0".parse().unwrap()
            ]
        );
    }

    #[test]
    fn our_own_element_quotes_what_needs_quotes() {
        let way = forwarding("[2001:db8::5]:9", &["Host: a.example:8080"]);
        assert_eq!(
            way.forwarded_header(),
            "for=\"[2001:db8::5]\";host=\"a.example:8080\";proto=http"
        );
        let hostile = forwarding("10.0.0.1:5", &["Host: a\"; for=1.1.1.1"]);
        assert_eq!(hostile.forwarded_header(), "for=10.0.0.1;proto=http");
    }
}
