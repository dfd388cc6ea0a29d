//! HTTP/1.1 as far as well-behaved clients and a small API need it: bodies with a length, kept-alive
//! connections. Attackers bring their own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Nobody waits longer for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The longest head, and the longest body that is read.
const HEAD_MAX: usize = 64 * 1024;
const BODY_MAX: u64 = 64 << 20;
/// So much of a body is looked at.
pub const KEPT_BYTES: usize = 4 * 1024;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, ...
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// Sent as it is; with a length unless empty.
    pub body: String,
}

impl Request {
    /// `GET target`.
    pub fn get(target: impl Into<String>) -> Self {
        Self {
            method: "GET",
            target: target.into(),
            ..Self::default()
        }
    }

    /// `POST target` with this body.
    pub fn post(target: impl Into<String>, body: String) -> Self {
        Self {
            method: "POST",
            target: target.into(),
            body,
            ..Self::default()
        }
    }

    /// With this header, too.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A kept-alive connection, either end of it.
pub struct Connection {
    stream: TcpStream,
    /// Read and not used yet.
    rest: Vec<u8>,
    /// The server said that it would close.
    is_over: bool,
}

/// The head of a request, as a server sees it, and the length of its body.
#[derive(Debug)]
pub struct Asked {
    /// `GET`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, up to the first [`KEPT_BYTES`] of it.
    pub body: Vec<u8>,
}

impl From<&Request> for Asked {
    fn from(request: &Request) -> Self {
        let named =
            |(name, value): &(&'static str, String)| (name.to_ascii_lowercase(), value.clone());
        Self {
            method: request.method.to_owned(),
            target: request.target.clone(),
            headers: request.headers.iter().map(named).collect(),
            body: request.body.as_bytes()[..request.body.len().min(KEPT_BYTES)].to_vec(),
        }
    }
}

impl Asked {
    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Connection {
    /// Connects from this address of the host.
    pub async fn open(from: Ipv4Addr, to: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(from, 0).into())?;
        let stream = timeout(ANSWER_MAX, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(Self::accepted(stream))
    }

    /// The server's end.
    pub fn accepted(stream: TcpStream) -> Self {
        Self {
            stream,
            rest: Vec::new(),
            is_over: false,
        }
    }

    /// Whether no further call can follow.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&mut self, request: &Request) -> io::Result<()> {
        let Request {
            method,
            target,
            headers,
            body,
        } = request;
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body;
        timeout(ANSWER_MAX, async {
            self.stream.write_all(text.as_bytes()).await?;
            let length = self.answer_head().await?;
            self.skip(length, &mut Vec::new()).await
        })
        .await?
    }

    /// The next request with its body; `None` once the client is gone.
    pub async fn asked(&mut self) -> io::Result<Option<Asked>> {
        let Some(head) = self.head().await? else {
            return Ok(None);
        };
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(&head).map_err(io::Error::other)?;
        let mut asked = Asked {
            method: parsed.method.unwrap_or_default().to_owned(),
            target: parsed.path.unwrap_or_default().to_owned(),
            headers: owned(parsed.headers),
            body: Vec::new(),
        };
        if asked.header("transfer-encoding").is_some() {
            return Err(io::Error::other("a body in chunks"));
        }
        let length = length(&asked.headers)?;
        self.skip(length, &mut asked.body).await?;
        Ok(Some(asked))
    }

    /// Answers with `bytes` bytes, of which `text` are the first.
    pub async fn answer(
        &mut self,
        status: u16,
        text: &str,
        bytes: usize,
        head_only: bool,
    ) -> io::Result<()> {
        let bytes = bytes.max(text.len());
        let mut answer = format!(
            "HTTP/1.1 {status} .\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n"
        );
        if head_only {
            return self.stream.write_all(answer.as_bytes()).await;
        }
        answer += text;
        self.stream.write_all(answer.as_bytes()).await?;
        let padding = [b' '; 16 * 1024];
        let mut left = bytes - text.len();
        while left > 0 {
            let now = left.min(padding.len());
            self.stream.write_all(&padding[..now]).await?;
            left -= now;
        }
        Ok(())
    }

    async fn answer_head(&mut self) -> io::Result<u64> {
        let head = self.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).map_err(io::Error::other)?;
        let headers = owned(parsed.headers);
        let length = length(&headers)?;
        let close = |(name, value): &(String, String)| {
            name == "connection" && value.eq_ignore_ascii_case("close")
        };
        self.is_over = headers.iter().any(close);
        Ok(length)
    }

    async fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                let after = self.rest.split_off(end + 4);
                return Ok(Some(std::mem::replace(&mut self.rest, after)));
            }
            if self.rest.len() > HEAD_MAX {
                return Err(io::Error::other("a head without an end"));
            }
            if self.stream.read_buf(&mut self.rest).await? == 0 {
                return match self.rest.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    async fn skip(&mut self, length: u64, kept: &mut Vec<u8>) -> io::Result<()> {
        if length > BODY_MAX {
            return Err(io::Error::other("a body too long"));
        }
        let mut left = usize::try_from(length).map_err(io::Error::other)?;
        loop {
            let now = left.min(self.rest.len());
            let room = (KEPT_BYTES - kept.len().min(KEPT_BYTES)).min(now);
            kept.extend_from_slice(&self.rest[..room]);
            self.rest.drain(..now);
            left -= now;
            if left == 0 {
                return Ok(());
            }
            if self.stream.read_buf(&mut self.rest).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn owned(headers: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    let owned = |header: &httparse::Header<'_>| {
        let value = String::from_utf8_lossy(header.value);
        (header.name.to_ascii_lowercase(), value.into_owned())
    };
    headers.iter().map(owned).collect()
}

fn length(headers: &[(String, String)]) -> io::Result<u64> {
    let found = headers.iter().find(|(name, _)| name == "content-length");
    found.map_or(Ok(0), |(_, value)| value.parse().map_err(io::Error::other))
}
