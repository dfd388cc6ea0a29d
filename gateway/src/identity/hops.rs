//! Removes what a response said to us alone: hop-by-hop headers.
//!
//! Requests are not touched here, Pingora cleans those itself. It passes a response's on, but
//! frames the message anew, so `Transfer-Encoding` is its business.

use http::HeaderName;
use http::header::{CONNECTION, PROXY_AUTHENTICATE, TE, TRAILER, UPGRADE};
use pingora::http::ResponseHeader;
use smallvec::SmallVec;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes hop-by-hop headers, and those that `Connection` names. A 101 keeps what upgrades it.
pub(crate) fn clean_response(head: &mut ResponseHeader) {
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let named = head
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // What most say, and no names of headers that stay otherwise.
        .filter(|name| !["keep-alive", "close"].contains(name))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .filter(may_be_named);
    let hop_by_hop = head.headers.keys().filter(|name| is_hop_by_hop(name));
    let going: SmallVec<[HeaderName; 4]> = named.chain(hop_by_hop.cloned()).collect();
    for name in going {
        head.remove_header(&name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    [&CONNECTION, &UPGRADE, &TE, &KEEP_ALIVE, &PROXY_CONNECTION].contains(&name)
}

/// A server cannot talk us out of what frames the message or belongs to the client.
fn may_be_named(name: &HeaderName) -> bool {
    ![
        http::header::CONTENT_LENGTH,
        http::header::TRANSFER_ENCODING,
        http::header::CONTENT_TYPE,
        http::header::SET_COOKIE,
        PROXY_AUTHENTICATE,
        TRAILER,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(status: u16, lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for &(name, value) in lines {
            head.append_header(name, value).unwrap();
        }
        clean_response(&mut head);
        let mut names: Vec<String> = head.headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_concerns_the_client_is_left() {
        assert_eq!(
            cleaned(
                200,
                &[
                    ("Connection", "close, X-Internal, Content-Length"),
                    ("X-Internal", "1"),
                    ("Keep-Alive", "timeout=5"),
                    ("Proxy-Connection", "keep-alive"),
                    ("Upgrade", "h2c"),
                    ("Content-Length", "3"),
                    ("Content-Type", "text/plain"),
                ]
            ),
            ["content-length", "content-type"]
        );
    }

    #[test]
    fn an_upgrade_stays_whole() {
        assert_eq!(
            cleaned(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")]),
            ["connection", "upgrade"]
        );
    }
}
