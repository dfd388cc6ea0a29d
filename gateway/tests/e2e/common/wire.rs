//! HTTP/1.1 by hand, for both ends: only so much of it as the tests speak, every byte counted.

use std::io::{self, Read, Write};

/// A byte stream with HTTP/1.1 on it.
pub(crate) struct Wire<S> {
    stream: S,
    unread: Vec<u8>,
    taken: u64,
    sent: u64,
}

/// A message without its body.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// All of it, up to and with the empty line.
    pub(crate) text: String,
}

impl Head {
    /// The first line.
    pub(crate) fn first_line(&self) -> &str {
        self.text.split("\r\n").next().unwrap_or_default()
    }

    /// The word at `n` of the first line.
    pub(crate) fn word(&self, n: usize) -> &str {
        self.first_line().split(' ').nth(n).unwrap_or_default()
    }

    /// The only value of a header; panics if there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers(name);
        let value = values.next();
        assert_eq!(values.next(), None, "several {name} in {}", self.text);
        value
    }

    /// All values of a header.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.text.split("\r\n").skip(1).filter_map(move |line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn is_chunked(&self) -> bool {
        self.headers("transfer-encoding")
            .any(|value| value.eq_ignore_ascii_case("chunked"))
    }

    fn content_length(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }
}

/// What came after a head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    /// The trailer section, if it was chunked.
    pub(crate) trailers: String,
    /// Whether its end was seen.
    pub(crate) complete: bool,
}

impl<S: Read + Write> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            taken: 0,
            sent: 0,
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// Bytes of messages taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes written so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Writes all of it.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()?;
        self.sent += bytes.as_ref().len() as u64;
        Ok(())
    }

    /// More bytes from the stream. `false` at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 64 * 1024];
        let n = loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.unread.extend_from_slice(&piece[..n]);
        Ok(n > 0)
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        self.taken += n as u64;
        self.unread.drain(..n).collect()
    }

    fn take_through(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            let found = self.unread.windows(end.len()).position(|at| at == end);
            if let Some(at) = found {
                return Ok(Some(self.take(at + end.len())));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Exactly so many bytes; fewer at the end of the stream.
    pub(crate) fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < n && self.fill()? {}
        let n = n.min(self.unread.len());
        Ok(self.take(n))
    }

    /// Everything up to the end of the stream.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? {}
        Ok(self.take(self.unread.len()))
    }

    /// The next message's head. `None` at the end of the stream.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        let head = self.take_through(b"\r\n\r\n")?;
        Ok(head.map(|head| Head {
            text: String::from_utf8_lossy(&head).into_owned(),
        }))
    }

    /// The body that belongs to a head. `until_close`: what has no length ends with the stream.
    pub(crate) fn body(&mut self, head: &Head, until_close: bool) -> io::Result<Body> {
        let mut body = Body::default();
        if head.is_chunked() {
            loop {
                let Some(line) = self.take_through(b"\r\n")? else {
                    return Ok(body);
                };
                let size = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
                if size == 0 {
                    break;
                }
                let piece = self.exactly(size + 2)?;
                body.bytes.extend(&piece[..size.min(piece.len())]);
                if piece.len() < size + 2 {
                    return Ok(body);
                }
            }
            while let Some(line) = self.take_through(b"\r\n")? {
                if line == b"\r\n" {
                    body.complete = true;
                    break;
                }
                body.trailers += &String::from_utf8_lossy(&line);
            }
        } else if let Some(length) = head.content_length() {
            body.bytes = self.exactly(length)?;
            body.complete = body.bytes.len() == length;
        } else if until_close {
            body.bytes = self.rest()?;
            body.complete = true;
        } else {
            body.complete = true;
        }
        Ok(body)
    }
}
