//! What a request's head must say beyond doubt: where its body ends, and which host is asked.
//!
//! Pingora takes some heads in good faith that the next server may read otherwise, which is what
//! request smuggling lives on. They are refused here and never repaired.

use http::{HeaderMap, Version, header, uri::Authority};
use pingora::http::RequestHeader;

use super::failure::{BAD_REQUEST, Failure, UNKNOWN_CODING};
use crate::identity;

/// Checks a head. `raw` is the head as it came, on HTTP/1; nothing on HTTP/2.
///
/// # Errors
/// What the client is answered.
pub(super) fn check(head: &RequestHeader, raw: &[u8]) -> Result<(), Failure> {
    check_body(&head.headers, raw)?;
    let first_line = raw.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_target = first_line.is_empty() || is_target(head.raw_path());
    if first_line.contains(&b'#') || !is_target || !has_valid_host(head) {
        return Err(BAD_REQUEST);
    }
    Ok(())
}

/// A path, `*` or a whole URL; what else there is belongs to CONNECT, which is not served.
fn is_target(target: &[u8]) -> bool {
    target.starts_with(b"/") || target == b"*" || target.windows(3).any(|part| part == b"://")
}

/// The body ends after one plain number of bytes, or with the last chunk.
fn check_body(headers: &HeaderMap, raw: &[u8]) -> Result<(), Failure> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(UNKNOWN_CODING);
        }
        // Pingora has already dropped the Content-Length that contradicts it.
        return match has_header(raw, header::CONTENT_LENGTH.as_str()) {
            true => Err(BAD_REQUEST),
            false => Ok(()),
        };
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let is_number = lengths.next().is_none_or(|length| {
        let digits = length.as_bytes();
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    });
    match is_number && lengths.next().is_none() {
        true => Ok(()),
        false => Err(BAD_REQUEST),
    }
}

/// Whether a head as it came has a header of this lower-case name.
fn has_header(raw: &[u8], name: &str) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        line.split(|byte| *byte == b':')
            .next()
            .is_some_and(|key| key.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// HTTP/1.1 demands a Host header (RFC 9112, section 3.2); where a host is named, it must be one.
fn has_valid_host(head: &RequestHeader) -> bool {
    if head.version == Version::HTTP_11 && !head.headers.contains_key(header::HOST) {
        return false;
    }
    let named = head.headers.contains_key(header::HOST) || head.uri.authority().is_some();
    !named || identity::authority(head).is_some_and(is_authority)
}

/// `host` or `host:port`.
fn is_authority(text: &str) -> bool {
    if identity::plain_authority(text).is_some() {
        return true;
    }
    let Ok(authority) = text.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let port = text.strip_prefix(host).unwrap_or("@");
    let port = port.strip_prefix(':').unwrap_or(port);
    !host.is_empty() && (port.is_empty() || port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a head of these lines is answered; 200 if nothing.
    fn answer(target: &str, lines: &[&str]) -> u16 {
        let mut head = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
        head.set_version(Version::HTTP_11);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            head.append_header(name.to_owned(), value).unwrap();
        }
        let raw = format!("POST {target} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            head.remove_header(&header::CONTENT_LENGTH);
        }
        check(&head, raw.as_bytes()).map_or_else(|failure| failure.status, |()| 200)
    }

    #[test]
    fn only_one_plain_content_length_passes() {
        let cases: [(&[&str], u16); 8] = [
            (&[], 200),
            (&["Content-Length: 5"], 200),
            (&["Content-Length: 5, 5"], 400),
            (&["Content-Length: 5", "Content-Length: 5"], 400),
            (&["Content-Length: +5"], 400),
            (&["Content-Length: "], 400),
            (&["content-length: 5", "Transfer-Encoding: chunked"], 400),
            (&["X-Content-Length: 5", "Transfer-Encoding: chunked"], 200),
        ];
        for (lines, expected) in cases {
            let lines = [&["Host: a"], lines].concat();
            assert_eq!(answer("/", &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_chunked_is_a_known_coding() {
        for (coding, expected) in [
            ("chunked", 200),
            ("Chunked", 200),
            ("gzip, chunked", 501),
            ("chunked, chunked", 501),
            ("identity", 501),
        ] {
            let line = format!("Transfer-Encoding: {coding}");
            assert_eq!(answer("/", &["Host: a", &line]), expected, "{coding}");
        }
        let twice = [
            "Host: a",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked",
        ];
        assert_eq!(answer("/", &twice), 501);
    }

    #[test]
    fn a_host_must_be_one() {
        for (host, expected) in [
            ("a.test", 200),
            ("a.test:80", 200),
            ("a.test:", 200),
            ("[::1]:8080", 200),
            ("", 400),
            (":80", 400),
            ("a.test:99999", 400),
            ("a.test:http", 400),
            ("a b", 400),
            ("a/b", 400),
        ] {
            assert_eq!(
                answer("/", &[&format!("Host: {host}")]),
                expected,
                "{host:?}"
            );
        }
        assert_eq!(answer("/", &[]), 400);
        assert_eq!(answer("http://a.test/", &[]), 400);
        assert_eq!(answer("http://a.test/", &["Host: a.test"]), 200);
    }

    #[test]
    fn a_target_is_a_path_or_a_url_without_a_fragment() {
        assert_eq!(answer("/a", &["Host: a"]), 200);
        assert_eq!(answer("a", &["Host: a"]), 400);
        assert_eq!(answer("/a#b", &["Host: a"]), 400);
    }
}
