//! HTTP/1.1 by hand, so that every byte on the socket is counted.
//!
//! Blocking, one message at a time, over anything that reads and writes. Bodies are a fixed pattern
//! ([`fill_pattern`]) whose bytes are checked as they arrive. Knows no redirects, no connection
//! pool and no retries: what a test sends is what goes out.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::sync::LazyLock;

/// A head larger than this is refused.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// How much is read from a socket at once.
const READ_BYTES: usize = 64 * 1024;
/// The body pattern repeats after this many bytes; a prime, so that it never aligns with buffers.
const PATTERN_PERIOD: u64 = 23;

/// A socket with its bytes counted.
pub struct Wire<S> {
    stream: S,
    unread: Vec<u8>,
    unread_from: usize,
    sent: u64,
    consumed: u64,
}

/// Is shown every piece of a body and the payload bytes so far, and may stop.
type Each<'a> = dyn FnMut(&[u8], u64) -> ControlFlow<()> + 'a;

/// A request's first line and headers.
#[derive(Debug)]
pub struct RequestHead {
    /// As sent.
    pub method: String,
    /// As sent: path and query.
    pub target: String,
    /// 0 or 1, of HTTP/1.x.
    pub minor_version: u8,
    /// In order, names lower-cased.
    pub headers: Headers,
}

/// A response's first line and headers.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// 0 or 1, of HTTP/1.x.
    pub minor_version: u8,
    /// In order, names lower-cased.
    pub headers: Headers,
}

/// Headers in order, names lower-cased.
#[derive(Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of `name` (lower-case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the comma-separated list in `name` holds `token`.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .flat_map(|(_, value)| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    Empty,
    /// `Content-Length`.
    Bytes(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end.
    UntilClose,
}

/// A body that was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Body {
    /// Payload bytes, transfer encoding removed.
    pub bytes: u64,
    /// Every byte was the pattern's.
    pub intact: bool,
    /// It ended where its framing said, and nobody stopped early.
    pub complete: bool,
    /// Trailer fields that followed.
    pub trailers: u32,
}

impl RequestHead {
    /// How this request's body ends.
    pub fn body_length(&self) -> BodyLength {
        framed(&self.headers).unwrap_or(BodyLength::Empty)
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or(&self.target)
    }

    /// A query parameter's value, taken literally.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

impl ResponseHead {
    /// How this response's body ends, to a request with `method`.
    pub fn body_length(&self, method: &str) -> BodyLength {
        if method == "HEAD" || self.status < 200 || matches!(self.status, 204 | 304) {
            return BodyLength::Empty;
        }
        framed(&self.headers).unwrap_or(BodyLength::UntilClose)
    }
}

fn framed(headers: &Headers) -> Option<BodyLength> {
    if headers.has_token("transfer-encoding", "chunked") {
        return Some(BodyLength::Chunked);
    }
    headers
        .get("content-length")?
        .trim()
        .parse()
        .ok()
        .map(BodyLength::Bytes)
}

impl<S: Read + Write> Wire<S> {
    /// Wraps a connected socket.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            unread_from: 0,
            sent: 0,
            consumed: 0,
        }
    }

    /// The socket.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Bytes written to the socket so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of the messages read so far; what arrived beyond them is not counted yet.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether bytes arrived that no message read so far owns.
    pub fn has_unread(&self) -> bool {
        self.unread_from < self.unread.len()
    }

    /// Writes all of `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.sent += written as u64;
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        self.stream.flush()
    }

    /// Writes `count` pattern bytes, from offset 0 of the pattern.
    pub fn write_pattern(&mut self, count: u64) -> io::Result<()> {
        let mut block = vec![0; READ_BYTES];
        let mut at = 0;
        while at < count {
            let take = usize::try_from(count - at)
                .unwrap_or(usize::MAX)
                .min(block.len());
            fill_pattern(at, &mut block[..take]);
            self.write(&block[..take])?;
            at += take as u64;
        }
        Ok(())
    }

    /// Writes `count` pattern bytes as chunks of varied sizes and ends the body, with a trailer if
    /// asked to.
    pub fn write_pattern_chunked(&mut self, count: u64, trailer: bool) -> io::Result<()> {
        let mut out = Vec::new();
        let mut at = 0;
        let mut size = 1;
        while at < count {
            let take = (count - at).min(size);
            chunk(at, take, &mut out);
            at += take;
            size = if size >= 48 * 1024 { 1 } else { size * 7 };
            if out.len() >= READ_BYTES {
                self.write(&out)?;
                out.clear();
            }
        }
        out.extend_from_slice(b"0\r\n");
        if trailer {
            out.extend_from_slice(format!("x-body-bytes: {count}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        self.write(&out)
    }

    /// Waits for bytes that no message read so far owns; `false` at the end of the stream.
    pub fn wait_unread(&mut self) -> io::Result<bool> {
        Ok(self.has_unread() || self.fill()? > 0)
    }

    /// Takes the bytes that arrived and that no message read so far owns.
    pub fn take_unread(&mut self) -> Vec<u8> {
        let bytes = self.unread[self.unread_from..].to_vec();
        self.consume(bytes.len());
        bytes
    }

    /// The socket, for what is not HTTP.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Reads a request head; `None` when the connection ended before its first byte.
    pub fn read_request(&mut self) -> io::Result<Option<RequestHead>> {
        let Some(head) = self.read_head()? else {
            return Ok(None);
        };
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut fields);
        parsed.parse(&head).map_err(invalid)?;
        Ok(Some(RequestHead {
            method: parsed.method.unwrap_or_default().to_owned(),
            target: parsed.path.unwrap_or_default().to_owned(),
            minor_version: parsed.version.unwrap_or_default(),
            headers: owned(parsed.headers),
        }))
    }

    /// Reads a response head, interim or final; `None` when the connection ended before its first
    /// byte.
    pub fn read_response(&mut self) -> io::Result<Option<ResponseHead>> {
        let Some(head) = self.read_head()? else {
            return Ok(None);
        };
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut fields);
        parsed.parse(&head).map_err(invalid)?;
        Ok(Some(ResponseHead {
            status: parsed.code.unwrap_or_default(),
            minor_version: parsed.version.unwrap_or_default(),
            headers: owned(parsed.headers),
        }))
    }

    /// Reads a body. `each` is told how many payload bytes there are so far, after every piece, and
    /// may stop.
    pub fn read_body(
        &mut self,
        length: BodyLength,
        mut each: impl FnMut(u64) -> ControlFlow<()>,
    ) -> io::Result<Body> {
        self.read_pieces(length, &mut |_, so_far| each(so_far))
    }

    /// Reads a body that is text, not the pattern, and appends it to `out`.
    pub fn read_text(&mut self, length: BodyLength, out: &mut Vec<u8>) -> io::Result<Body> {
        self.read_pieces(length, &mut |piece, _| {
            out.extend_from_slice(piece);
            ControlFlow::Continue(())
        })
    }

    fn read_pieces(&mut self, length: BodyLength, each: &mut Each<'_>) -> io::Result<Body> {
        let mut body = Body {
            bytes: 0,
            intact: true,
            complete: false,
            trailers: 0,
        };
        match length {
            BodyLength::Empty => body.complete = true,
            BodyLength::Bytes(count) => {
                body.complete = self.read_payload(count, &mut body, each)?;
            }
            BodyLength::UntilClose => {
                while self.wait_unread()? {
                    let available = (self.unread.len() - self.unread_from) as u64;
                    if !self.read_payload(available, &mut body, each)? {
                        return Ok(body);
                    }
                }
                body.complete = true;
            }
            BodyLength::Chunked => loop {
                let Some(line) = self.read_line()? else {
                    return Ok(body);
                };
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).map_err(invalid)?;
                if size > 0 {
                    if !self.read_payload(size, &mut body, each)? {
                        return Ok(body);
                    }
                    if self.read_line()?.is_none() {
                        return Ok(body);
                    }
                    continue;
                }
                loop {
                    match self.read_line()? {
                        None => return Ok(body),
                        Some(line) if line.is_empty() => break,
                        Some(_) => body.trailers += 1,
                    }
                }
                body.complete = true;
                return Ok(body);
            },
        }
        Ok(body)
    }

    /// Reads `count` payload bytes into `body`; `false` when the stream ended or `each` stopped.
    fn read_payload(
        &mut self,
        count: u64,
        body: &mut Body,
        each: &mut Each<'_>,
    ) -> io::Result<bool> {
        let end = body.bytes + count;
        while body.bytes < end {
            if !self.wait_unread()? {
                return Ok(false);
            }
            let available = self.unread.len() - self.unread_from;
            let take = usize::try_from(end - body.bytes)
                .unwrap_or(usize::MAX)
                .min(available);
            let piece = &self.unread[self.unread_from..self.unread_from + take];
            body.intact &= is_pattern(body.bytes, piece);
            body.bytes += take as u64;
            let enough = each(piece, body.bytes).is_break();
            self.consume(take);
            if enough && body.bytes < end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_head(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            let unread = &self.unread[self.unread_from..];
            if let Some(at) = find(&unread[searched..], b"\r\n\r\n") {
                let end = searched + at + 4;
                let head = unread[..end].to_vec();
                self.consume(end);
                return Ok(Some(head));
            }
            if unread.len() > HEAD_MAX_BYTES {
                return Err(invalid("head too large"));
            }
            searched = unread.len().saturating_sub(3);
            if self.fill()? == 0 {
                return if self.has_unread() {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(None)
                };
            }
        }
    }

    fn read_line(&mut self) -> io::Result<Option<String>> {
        loop {
            let unread = &self.unread[self.unread_from..];
            if let Some(end) = find(unread, b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..end]).into_owned();
                self.consume(end + 2);
                return Ok(Some(line));
            }
            if unread.len() > HEAD_MAX_BYTES {
                return Err(invalid("line too long"));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.unread_from > 0 {
            self.unread.drain(..self.unread_from);
            self.unread_from = 0;
        }
        let kept = self.unread.len();
        self.unread.resize(kept + READ_BYTES, 0);
        let read = loop {
            match self.stream.read(&mut self.unread[kept..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                done => break done,
            }
        };
        self.unread
            .truncate(kept + read.as_ref().ok().copied().unwrap_or(0));
        read
    }

    fn consume(&mut self, count: usize) {
        self.unread_from += count;
        self.consumed += count as u64;
    }
}

/// Writes the pattern's bytes from offset `at` of a body.
pub fn fill_pattern(at: u64, out: &mut [u8]) {
    let mut at = at;
    for piece in out.chunks_mut(READ_BYTES) {
        piece.copy_from_slice(pattern(at, piece.len()));
        at += piece.len() as u64;
    }
}

fn is_pattern(at: u64, bytes: &[u8]) -> bool {
    let mut at = at;
    bytes.chunks(READ_BYTES).all(|piece| {
        let expected = pattern(at, piece.len());
        at += piece.len() as u64;
        piece == expected
    })
}

/// Up to [`READ_BYTES`] bytes of the pattern. Ready made: gigabytes are compared with it.
fn pattern(at: u64, count: usize) -> &'static [u8] {
    static READY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let letters = (b'a'..).take(PATTERN_PERIOD as usize);
        let count = READ_BYTES + PATTERN_PERIOD as usize;
        letters.cycle().take(count).collect()
    });
    let from = (at % PATTERN_PERIOD) as usize;
    &READY[from..from + count]
}

fn chunk(at: u64, count: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{count:x}\r\n").as_bytes());
    let from = out.len();
    out.resize(from + usize::try_from(count).unwrap_or(usize::MAX), 0);
    fill_pattern(at, &mut out[from..]);
    out.extend_from_slice(b"\r\n");
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn owned(fields: &[httparse::Header<'_>]) -> Headers {
    Headers(
        fields
            .iter()
            .map(|field| {
                let value = String::from_utf8_lossy(field.value).into_owned();
                (field.name.to_ascii_lowercase(), value)
            })
            .collect(),
    )
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads from a slice in pieces of one byte, writes into a vector.
    struct Slice<'a>(&'a [u8], Vec<u8>);

    impl Read for Slice<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let take = self.0.len().min(1);
            out[..take].copy_from_slice(&self.0[..take]);
            self.0 = &self.0[take..];
            Ok(take)
        }
    }

    impl Write for Slice<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn two_responses_in_one_stream_are_counted_apart() {
        let first = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let second = b"HTTP/1.1 204 No Content\r\n\r\n";
        let both = [&first[..], &second[..]].concat();
        let mut wire = Wire::new(Slice(&both, Vec::new()));
        let head = wire.read_response().unwrap().unwrap();
        let body = wire
            .read_body(head.body_length("GET"), |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(body.complete && body.intact);
        assert_eq!(wire.consumed(), first.len() as u64);
        let head = wire.read_response().unwrap().unwrap();
        assert_eq!(head.body_length("GET"), BodyLength::Empty);
        assert_eq!(wire.consumed(), both.len() as u64);
        assert!(wire.read_response().unwrap().is_none());
    }

    #[test]
    fn a_chunked_pattern_comes_back_whole_with_its_trailer() {
        let mut wire = Wire::new(Slice(b"", Vec::new()));
        wire.write_pattern_chunked(100_000, true).unwrap();
        let written = wire.stream().1.clone();
        assert_eq!(wire.sent(), written.len() as u64);
        let mut wire = Wire::new(Slice(&written, Vec::new()));
        let body = wire
            .read_body(BodyLength::Chunked, |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(body.complete && body.intact);
        assert_eq!((body.bytes, body.trailers), (100_000, 1));
    }

    #[test]
    fn a_wrong_byte_and_a_missing_one_are_noticed() {
        let mut wire = Wire::new(Slice(b"abd", Vec::new()));
        let body = wire
            .read_body(BodyLength::Bytes(4), |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(!body.intact && !body.complete);
    }
}
