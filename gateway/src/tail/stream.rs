//! Reads the admin API's stream of records: one HTTP/1.1 request, server-sent events back.
//!
//! A client for this one purpose over a plain socket: no redirects, no compression, no TLS. The
//! admin API listens on this machine; from elsewhere, bring a tunnel.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::lines::Lines;

/// Where the admin API streams records.
const STREAM_PATH: &str = "/api/v1/calls/stream";
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The stream carries a comment now and then; silence for longer than this means that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// Longer than any answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// As much of a refusal's body as is worth showing.
const REFUSAL_BYTES_MAX: usize = 1024;

/// What cannot be read, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("`{0}` is no address: write it as 127.0.0.1:9901")]
    Address(String, #[source] io::Error),
    #[error(
        "nothing answers at {0}: is calltap running with its admin API there? \
         `--admin ADDRESS` names another one, `calltap tail FILE` reads the log itself"
    )]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the admin API wants a token: pass the file it is in with --token-file")]
    Unauthorized,
    #[error("the admin API refused with status {status}: {reason}")]
    Refused { status: u16, reason: String },
    #[error("{0} answers, but not as calltap's admin API does")]
    NotAdmin(SocketAddr),
    #[error("the stream broke")]
    Broken(#[from] io::Error),
}

/// What the stream says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A record, as one line of JSON.
    Record(String),
    /// The reader was too slow: this many records were left out.
    Dropped(u64),
}

/// An open stream.
pub(crate) struct Stream {
    socket: TcpStream,
    body: Body,
    events: Events,
}

impl Stream {
    /// Connects, asks, and reads the answer's head. `seen` is the last record a stream before this
    /// one brought: the new one goes on after it where the server still knows it.
    pub(crate) fn open(
        admin: &str,
        token: Option<&str>,
        seen: Option<&str>,
    ) -> Result<Self, StreamError> {
        let address = admin
            .to_socket_addrs()
            .and_then(|mut addresses| {
                addresses
                    .next()
                    .ok_or_else(|| io::ErrorKind::NotFound.into())
            })
            .map_err(|error| StreamError::Address(admin.to_owned(), error))?;
        let mut socket = TcpStream::connect_timeout(&address, CONNECT_MAX)
            .map_err(|error| StreamError::Connect(address, error))?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let authorization = token.map_or_else(String::new, |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let resume = seen.map_or_else(String::new, |seen| format!("Last-Event-ID: {seen}\r\n"));
        let request = format!(
            "GET {STREAM_PATH} HTTP/1.1\r\nHost: {admin}\r\nAccept: text/event-stream\r\n\
             {authorization}{resume}Connection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes())?;

        let mut received = Vec::new();
        let head_end = loop {
            if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if received.len() > HEAD_BYTES_MAX || read_some(&mut socket, &mut received)? == 0 {
                return Err(StreamError::NotAdmin(address));
            }
        };
        let rest = received.split_off(head_end + 4);
        let head = String::from_utf8_lossy(&received).to_ascii_lowercase();
        let status: u16 = head
            .strip_prefix("http/1.")
            .and_then(|line| line.get(2..5))
            .and_then(|code| code.parse().ok())
            .ok_or(StreamError::NotAdmin(address))?;
        let chunked = head.contains("\r\ntransfer-encoding: chunked\r\n")
            || head.ends_with("transfer-encoding: chunked\r\n\r\n");
        match status {
            200 if head.contains("\r\ncontent-type: text/event-stream") => (),
            200 => return Err(StreamError::NotAdmin(address)),
            401 => return Err(StreamError::Unauthorized),
            _ => {
                let reason = refusal(&mut socket, rest);
                return Err(StreamError::Refused { status, reason });
            }
        }
        let mut stream = Self {
            socket,
            body: if chunked {
                Body::Chunked(Chunk::Size(Vec::new()))
            } else {
                Body::Plain
            },
            events: Events {
                seen: seen.map(str::to_owned),
                ..Events::default()
            },
        };
        stream.feed(&rest)?;
        Ok(stream)
    }

    /// The id of the last record that came, to go on after it.
    pub(crate) fn seen(&self) -> Option<&str> {
        self.events.seen.as_deref()
    }

    /// Waits until something arrives; hands out what it completes. `false` when the stream ended.
    pub(crate) fn wait(&mut self, mut out: impl FnMut(Event)) -> Result<bool, StreamError> {
        if self.events.waiting.is_empty() {
            let mut received = Vec::new();
            if read_some(&mut self.socket, &mut received)? == 0 {
                return Ok(false);
            }
            self.feed(&received)?;
        }
        self.events.waiting.drain(..).for_each(&mut out);
        Ok(!matches!(self.body, Body::Chunked(Chunk::End)))
    }

    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let events = &mut self.events;
        self.body.decode(bytes, |piece| events.push(piece))
    }
}

fn read_some(socket: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(count) => {
                into.extend_from_slice(&buffer[..count]);
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
}

/// What the server says about its refusal, as far as it comes quickly.
fn refusal(socket: &mut TcpStream, mut received: Vec<u8>) -> String {
    while received.len() < REFUSAL_BYTES_MAX {
        match read_some(socket, &mut received) {
            Ok(count) if count > 0 => (),
            _ => break,
        }
    }
    received.truncate(REFUSAL_BYTES_MAX);
    let text = String::from_utf8_lossy(&received);
    let error = text.find('{').and_then(|begin| {
        let end = text.rfind('}')?;
        let value: serde_json::Value = serde_json::from_str(text.get(begin..=end)?).ok()?;
        Some(value.get("error")?.as_str()?.to_owned())
    });
    error.unwrap_or_else(|| text.trim().to_owned())
}

/// How the answer's body is framed.
enum Body {
    Plain,
    Chunked(Chunk),
}

/// Where in a chunked body we are.
enum Chunk {
    /// In a size line, of which this much is read.
    Size(Vec<u8>),
    /// In a chunk with this many bytes left.
    Data(u64),
    /// In the line ending after a chunk.
    Ending,
    /// After the last chunk.
    End,
}

impl Body {
    fn decode(&mut self, mut bytes: &[u8], mut out: impl FnMut(&[u8])) -> io::Result<()> {
        const SIZE_LINE_MAX: usize = 256;
        let Self::Chunked(state) = self else {
            out(bytes);
            return Ok(());
        };
        while let Some((first, rest)) = bytes.split_first() {
            match state {
                Chunk::Size(line) if *first == b'\n' => {
                    let text = String::from_utf8_lossy(line);
                    let digits = text.split(';').next().unwrap_or("").trim();
                    let size = u64::from_str_radix(digits, 16)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    *state = if size == 0 {
                        Chunk::End
                    } else {
                        Chunk::Data(size)
                    };
                    bytes = rest;
                }
                Chunk::Size(line) => {
                    if line.len() >= SIZE_LINE_MAX {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    line.push(*first);
                    bytes = rest;
                }
                Chunk::Data(left) => {
                    let take = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    out(&bytes[..take]);
                    bytes = &bytes[take..];
                    *left -= take as u64;
                    if *left == 0 {
                        *state = Chunk::Ending;
                    }
                }
                Chunk::Ending => {
                    if *first == b'\n' {
                        *state = Chunk::Size(Vec::new());
                    }
                    bytes = rest;
                }
                Chunk::End => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Puts server-sent events together from their lines.
#[derive(Default)]
struct Events {
    lines: Lines,
    name: String,
    data: String,
    /// The id of the event being read.
    id: Option<String>,
    /// The id of the last event that was whole.
    seen: Option<String>,
    waiting: Vec<Event>,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) {
        let Self {
            lines,
            name,
            data,
            id,
            seen,
            waiting,
        } = self;
        lines.push(bytes, |line| {
            let line = String::from_utf8_lossy(line);
            if line.is_empty() {
                let data = std::mem::take(data);
                let name = std::mem::take(name);
                if let Some(id) = id.take() {
                    *seen = Some(id);
                }
                if !data.is_empty() {
                    waiting.push(match name.as_str() {
                        "dropped" => Event::Dropped(dropped(&data)),
                        _ => Event::Record(data),
                    });
                }
                return;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(name),
                "data" => {
                    if !data.is_empty() {
                        data.push('\n');
                    }
                    data.push_str(value);
                }
                // What goes back in a header must be fit for one.
                "id" if value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    *id = Some(value.to_owned());
                }
                // Comments keep the connection alive.
                _ => (),
            }
        });
    }
}

fn dropped(data: &str) -> u64 {
    let value: Option<serde_json::Value> = serde_json::from_str(data).ok();
    // An event that says nothing readable says at least that one was lost.
    value
        .and_then(|value| value.get("dropped")?.as_u64())
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that answers one request with `pieces` and hands back what it was asked.
    fn server(pieces: Vec<&'static [u8]>) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let task = thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                assert!(read_some(&mut socket, &mut asked).expect("a request") > 0);
            }
            for piece in pieces {
                socket.write_all(piece).expect("the client reads");
                socket.flush().expect("flush");
            }
            String::from_utf8(asked).expect("text")
        });
        (address, task)
    }

    fn read_all(stream: &mut Stream) -> Vec<Event> {
        let mut events = Vec::new();
        while stream
            .wait(|event| events.push(event))
            .expect("the stream is whole")
        {}
        events
    }

    #[test]
    fn records_come_out_of_a_chunked_stream_however_it_is_cut() {
        let (address, server) = server(vec![
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n: hi\n\r\n1",
            b"0\r\ndata: {\"a\":1}\n\n\n\r\n8;x=y\r\nevent: d",
            b"\r\n1c\r\nropped\ndata: {\"dropped\": 3}\n\r\n1\r\n\n\r\n",
            b"0\r\n\r\n",
        ]);
        let mut stream = Stream::open(&address, Some("s3cret"), Some("id-1")).expect("it answers");
        assert_eq!(
            read_all(&mut stream),
            [Event::Record("{\"a\":1}".into()), Event::Dropped(3)]
        );
        let asked = server.join().expect("the server is done");
        assert!(
            asked.starts_with("GET /api/v1/calls/stream HTTP/1.1\r\n"),
            "{asked}"
        );
        assert!(
            asked.contains("\r\nAuthorization: Bearer s3cret\r\n"),
            "{asked}"
        );
        assert!(asked.contains("\r\nLast-Event-ID: id-1\r\n"), "{asked}");
        assert!(
            asked.contains(&format!("\r\nHost: {address}\r\n")),
            "{asked}"
        );
    }

    #[test]
    fn a_plain_body_works_too() {
        let (address, server) = server(vec![
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: a-1\ndata:1\ndata: 2\r\n\r\nid: torn\n",
        ]);
        let mut stream = Stream::open(&address, None, None).expect("it answers");
        assert_eq!(read_all(&mut stream), [Event::Record("1\n2".into())]);
        assert_eq!(stream.seen(), Some("a-1"), "a torn event was not seen");
        assert!(!server.join().expect("done").contains("Authorization"));
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let opened = |answer: &'static [u8]| {
            let (address, server) = server(vec![answer]);
            let error = Stream::open(&address, None, None)
                .err()
                .expect("it is refused");
            server.join().expect("done");
            error.to_string()
        };
        assert!(opened(b"HTTP/1.1 401 Unauthorized\r\n\r\n").contains("--token-file"));
        let refused = opened(b"HTTP/1.1 403 Forbidden\r\n\r\n{\"error\":\"host not allowed\"}");
        assert!(
            refused.contains("403") && refused.ends_with("host not allowed"),
            "{refused}"
        );
        for other in [
            &b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>"[..],
            b"SSH-2.0-x\r\n\r\n",
            b"nothing",
        ] {
            assert!(opened(other).contains("not as calltap"), "{other:?}");
        }
    }

    #[test]
    fn nobody_there_is_said_plainly() {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let error = Stream::open(&address, None, None)
            .err()
            .expect("nobody listens");
        assert!(error.to_string().contains("is calltap running"), "{error}");
        assert!(matches!(
            Stream::open("nonsense", None, None),
            Err(StreamError::Address(..))
        ));
    }

    #[test]
    fn a_broken_chunk_is_an_error() {
        let mut body = Body::Chunked(Chunk::Size(Vec::new()));
        assert!(body.decode(b"zz\r\n", |_| ()).is_err());
        let mut body = Body::Chunked(Chunk::Size(Vec::new()));
        assert!(body.decode(&[b'1'; 1000], |_| ()).is_err());
    }
}
