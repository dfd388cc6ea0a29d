//! As much HTTP/1.1 as the demonstration's two ends need: heads, bodies with a length or in chunks.
//!
//! Both ends are ours and the gateway between them is under test, so nothing lenient: what is not
//! understood is an error.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

const HEAD_BYTES_MAX: usize = 32 * 1024;
const CHUNK_BYTES_MAX: usize = 16 << 20;

/// The first line and the headers of a message.
#[derive(Debug)]
pub(crate) struct Head {
    first: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Head {
    /// Method and target, of a request.
    pub(crate) fn request(&self) -> Option<(&str, &str)> {
        let mut words = self.first.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        version.starts_with("HTTP/1.").then_some((method, target))
    }

    /// The status code, of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        let (version, rest) = self.first.split_once(' ')?;
        version
            .starts_with("HTTP/1.")
            .then(|| rest.get(..3)?.parse().ok())?
    }

    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The connection ends with this message.
    pub(crate) fn wants_close(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    fn content_length(&self) -> io::Result<Option<usize>> {
        self.header("content-length")
            .map(|value| value.parse().map_err(|_| invalid("content-length")))
            .transpose()
    }
}

/// Reads a head. `None` when the connection ended before one began.
pub(crate) async fn read_head(
    socket: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Head>> {
    let mut lines = Vec::new();
    let mut left = HEAD_BYTES_MAX;
    loop {
        match read_line(socket, &mut left).await? {
            None if lines.is_empty() => return Ok(None),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(line) if line.is_empty() => break,
            Some(line) => lines.push(line),
        }
    }
    let mut lines = lines.into_iter();
    let first = lines.next().ok_or_else(|| invalid("first line"))?;
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("header"))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect::<io::Result<_>>()?;
    Ok(Some(Head { first, headers }))
}

/// Reads a whole body of at most `bytes_max`. Without a length and chunks there is none.
pub(crate) async fn read_body(
    socket: &mut (impl AsyncBufRead + Unpin),
    head: &Head,
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut pieces = Pieces::of(head)?;
    while pieces.read(socket, &mut body).await? {
        if body.len() > bytes_max {
            return Err(invalid("body longer than expected"));
        }
    }
    Ok(body)
}

/// A body, read piece by piece.
#[derive(Debug)]
pub(crate) enum Pieces {
    /// This many bytes are still to come.
    Sized(usize),
    /// Chunks until an empty one.
    Chunked,
    /// All is read.
    Done,
}

impl Pieces {
    /// How the body after `head` is framed.
    pub(crate) fn of(head: &Head) -> io::Result<Self> {
        if head.is_chunked() {
            return Ok(Self::Chunked);
        }
        Ok(Self::Sized(head.content_length()?.unwrap_or(0)))
    }

    /// Appends what comes next to `into`; `false` once the body is complete.
    pub(crate) async fn read(
        &mut self,
        socket: &mut (impl AsyncBufRead + Unpin),
        into: &mut Vec<u8>,
    ) -> io::Result<bool> {
        match self {
            Self::Done | Self::Sized(0) => {
                *self = Self::Done;
                Ok(false)
            }
            Self::Sized(left) => {
                let piece = socket.fill_buf().await?;
                if piece.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let take = piece.len().min(*left);
                into.extend_from_slice(&piece[..take]);
                socket.consume(take);
                *left -= take;
                Ok(true)
            }
            Self::Chunked => {
                let line = expect_line(socket).await?;
                let digits = line.split(';').next().unwrap_or("").trim();
                let size = usize::from_str_radix(digits, 16).map_err(|_| invalid("chunk size"))?;
                if size == 0 {
                    while !expect_line(socket).await?.is_empty() {}
                    *self = Self::Done;
                    return Ok(false);
                }
                if size > CHUNK_BYTES_MAX {
                    return Err(invalid("chunk longer than expected"));
                }
                let begin = into.len();
                into.resize(begin + size, 0);
                socket.read_exact(&mut into[begin..]).await?;
                if !expect_line(socket).await?.is_empty() {
                    return Err(invalid("chunk end"));
                }
                Ok(true)
            }
        }
    }
}

async fn expect_line(socket: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    read_line(socket, &mut 4096)
        .await?
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A line without its ending; `None` when the connection ended before it began.
async fn read_line(
    socket: &mut (impl AsyncBufRead + Unpin),
    left: &mut usize,
) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let count = socket
        .take(*left as u64)
        .read_until(b'\n', &mut line)
        .await?;
    *left -= count;
    match line.strip_suffix(b"\n") {
        None if line.is_empty() && *left > 0 => Ok(None),
        None if *left > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(invalid("line longer than expected")),
        Some(line) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            String::from_utf8(line.to_vec())
                .map(Some)
                .map_err(|_| invalid("line"))
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn message(text: &str) -> io::Result<(Head, String)> {
        let mut bytes = text.as_bytes();
        let head = read_head(&mut bytes)
            .await?
            .ok_or_else(|| invalid("empty"))?;
        let body = read_body(&mut bytes, &head, 64).await?;
        assert!(bytes.is_empty(), "nothing is left over");
        Ok((head, String::from_utf8(body).expect("text")))
    }

    #[tokio::test]
    async fn bodies_are_framed_by_length_or_in_chunks() {
        for (text, body) in [
            ("GET / HTTP/1.1\r\n\r\n", ""),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "abc"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x\r\nbc\r\n0\r\nT: 1\r\n\r\n",
                "abc",
            ),
        ] {
            assert_eq!(message(text).await.expect("it is HTTP").1, body);
        }
    }

    #[tokio::test]
    async fn what_is_not_http_is_an_error() {
        for text in [
            "",
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
            "POST / HTTP/1.1\r\nContent-Length: 65\r\n\r\n01234567890123456789012345678901234567890123456789012345678901234",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        ] {
            assert!(message(text).await.is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn first_lines_are_taken_apart() {
        let (request, _) = message("GET /a HTTP/1.1\r\nConnection: Close\r\n\r\n")
            .await
            .expect("it is HTTP");
        assert_eq!(request.request(), Some(("GET", "/a")));
        assert!(request.wants_close());
        let (response, _) = message("HTTP/1.1 503 No\r\n\r\n")
            .await
            .expect("it is HTTP");
        assert_eq!(response.status(), Some(503));
        assert!(!response.wants_close());
    }
}
