//! A backend whose behaviour is chosen by path and query, so that a client knows what to expect.
//!
//! | path | answers |
//! |---|---|
//! | `/bytes/{n}` | `n` pattern bytes; `?chunked=1` chunked, `?trailers=1` with a trailer too, `?stall_ms=` pauses before the second half |
//! | `/status/{code}` | that status, with a short body where one is allowed |
//! | `/echo` | reads the body; its length as text, or 500 if a byte was wrong |
//! | `/early/{code}` | that status without reading the body, and closes |
//! | `/truncate/{n}` | promises `n` bytes, sends half, resets the connection |
//! | `/held/{n}` | `n` pattern bytes, the second half only after a release of its `call` parameter |
//! | `/release/{n}` | 204, and releases the call that `?of=` names |
//! | `/events/{n}` | `n` server-sent events, `?every_ms=` apart |
//! | `/socket` | upgrades to a WebSocket that sends every byte back, until either end says goodbye |
//! | `/hangup/{n}` | promises `n` bytes, sends half, closes; nothing at all where `n` is 0 |
//! | `/reset/{n}` | the same with a reset |
//! | `/silent/{n}` | promises `n` bytes, sends half and no more, until the gateway leaves; nothing at all where `n` is 0 |
//!
//! `?delay_ms=` sleeps before any answer, `?close=1` closes after it. One thread per connection,
//! bounded by what the gateway opens; not for use outside tests.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::Shutdown;

use crate::wire::{RequestHead, Wire};

/// A connection that is idle longer is closed.
const IDLE_MAX: Duration = Duration::from_secs(90);

/// A held response that nobody releases breaks off after this time.
const HELD_MAX: Duration = Duration::from_secs(5);

/// The answer to the key of RFC 6455's example, the only one our clients send.
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Calls whose second half may go out.
#[derive(Debug, Default)]
struct Releases {
    released: Mutex<HashSet<String>>,
    changed: Condvar,
}

impl Releases {
    fn release(&self, call: &str) {
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.insert(call.to_owned());
        self.changed.notify_all();
    }

    /// Waits until `call` was released; `false` if nobody did in time.
    fn wait(&self, call: &str) -> bool {
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(released, HELD_MAX, |released| !released.contains(call));
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .remove(call)
    }
}

/// How connections to the backend begin.
#[derive(Clone)]
pub enum Transport {
    /// Plain TCP.
    Plain,
    /// TLS, begun only after a pause: a slow handshake.
    Tls {
        /// Certificate and key.
        config: Arc<rustls::ServerConfig>,
        /// Slept before the first byte of the handshake is read, where the caller wants so.
        pause: Arc<dyn Fn() -> Duration + Send + Sync>,
    },
}

/// A running backend; stops listening when dropped.
pub struct Backend {
    address: SocketAddr,
    listener: TcpListener,
}

impl Backend {
    /// Listens on `address` (port 0 for a free one) and serves from threads of its own.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        Self::serve(TcpListener::bind(address)?, Transport::Plain)
    }

    /// Serves a listener that exists already.
    pub fn serve(listener: TcpListener, transport: Transport) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let accepting = listener.try_clone()?;
        let releases = Arc::new(Releases::default());
        thread::spawn(move || {
            for stream in accepting.incoming() {
                // Once the listener is shut down accept fails for good.
                let Ok(stream) = stream else { return };
                let (transport, releases) = (transport.clone(), releases.clone());
                thread::spawn(move || {
                    // A connection that breaks is the test's doing; the client notices.
                    let _ = converse(stream, &transport, &releases);
                });
            }
        });
        Ok(Self { address, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Wakes the accepting thread, which a close would not.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }
}

fn converse(stream: TcpStream, transport: &Transport, releases: &Releases) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let raw = stream.try_clone()?;
    match transport {
        Transport::Plain => answer_all(Wire::new(stream), &raw, releases),
        Transport::Tls { config, pause } => {
            thread::sleep(pause());
            let tls = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            let mut tls = rustls::StreamOwned::new(tls, stream);
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock)?;
            }
            answer_all(Wire::new(tls), &raw, releases)
        }
    }
}

fn answer_all<S: Read + Write>(
    mut wire: Wire<S>,
    raw: &TcpStream,
    releases: &Releases,
) -> io::Result<()> {
    while let Some(request) = wire.read_request()? {
        if answer(&mut wire, raw, &request, releases)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn answer<S: Read + Write>(
    wire: &mut Wire<S>,
    raw: &TcpStream,
    request: &RequestHead,
    releases: &Releases,
) -> io::Result<ControlFlow<()>> {
    let number = |name| {
        request
            .query(name)
            .and_then(|value| value.parse::<u64>().ok())
    };
    let (behaviour, argument) = split(request.path());
    let close = number("close") == Some(1)
        || request.minor_version == 0
        || request.headers.has_token("connection", "close");
    let mut response = Response {
        method: &request.method,
        close,
        status: 200,
    };
    if behaviour == "early" {
        response.close = true;
        response.status = argument.try_into().unwrap_or(500);
        response.text(wire, "answered early\n")?;
        return Ok(ControlFlow::Break(()));
    }

    if request.headers.has_token("expect", "100-continue") {
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = wire.read_body(request.body_length(), |_| ControlFlow::Continue(()))?;
    if let Some(delay_ms) = number("delay_ms") {
        thread::sleep(Duration::from_millis(delay_ms));
    }

    match behaviour {
        "bytes" if number("chunked") == Some(1) || number("trailers") == Some(1) => {
            response.chunked(wire, argument, number("trailers") == Some(1))?;
        }
        "bytes" => {
            let stall = number("stall_ms").map(Duration::from_millis);
            response.bytes(wire, argument, || {
                thread::sleep(stall.unwrap_or_default());
                true
            })?;
        }
        "held" => {
            let call = request.query("call").unwrap_or_default();
            if !response.bytes(wire, argument, || releases.wait(call))? {
                return Ok(ControlFlow::Break(()));
            }
        }
        "release" => {
            releases.release(request.query("of").unwrap_or_default());
            response.status = 204;
            response.text(wire, "")?;
        }
        "status" => {
            response.status = argument.try_into().unwrap_or(500);
            response.text(wire, "as asked\n")?;
        }
        "echo" if body.intact && body.complete => {
            response.text(wire, &format!("{}\n", body.bytes))?;
        }
        "echo" => {
            response.status = 500;
            response.text(wire, "the body did not arrive as it was sent\n")?;
        }
        "events" => {
            let pause = Duration::from_millis(number("every_ms").unwrap_or(0));
            response.events(wire, argument, pause)?;
        }
        "socket" => {
            wire.write(UPGRADED.as_bytes())?;
            echo(wire)?;
            return Ok(ControlFlow::Break(()));
        }
        "hangup" | "reset" | "silent" => {
            if argument > 0 {
                wire.write(response.head(Some(argument)).as_bytes())?;
                wire.write_pattern(argument / 2)?;
                // The gateway must have read the half before a reset throws away what is queued.
                thread::sleep(Duration::from_millis(20));
            }
            match behaviour {
                "reset" => rustix::net::sockopt::set_socket_linger(raw, Some(Duration::ZERO))?,
                "silent" => drop(wire.wait_unread()),
                _ => (),
            }
            return Ok(ControlFlow::Break(()));
        }
        "truncate" => {
            wire.write(response.head(Some(argument)).as_bytes())?;
            wire.write_pattern(argument / 2)?;
            // The gateway must have read the half before the reset throws away what is queued.
            thread::sleep(Duration::from_millis(20));
            rustix::net::sockopt::set_socket_linger(raw, Some(Duration::ZERO))?;
            return Ok(ControlFlow::Break(()));
        }
        _ => {
            response.status = 404;
            response.text(wire, "no such behaviour\n")?;
        }
    }
    Ok(if response.close {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    })
}

/// Sends back what comes, until the other end has no more to say.
fn echo<S: Read + Write>(wire: &mut Wire<S>) -> io::Result<()> {
    while wire.wait_unread()? {
        let bytes = wire.take_unread();
        wire.write(&bytes)?;
    }
    Ok(())
}

fn split(path: &str) -> (&str, u64) {
    let mut segments = path.trim_start_matches('/').splitn(2, '/');
    let behaviour = segments.next().unwrap_or_default();
    let argument = segments
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    (behaviour, argument)
}

struct Response<'a> {
    method: &'a str,
    close: bool,
    status: u16,
}

impl Response<'_> {
    fn head(&self, content_length: Option<u64>) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, "As Asked");
        head += "Server: calltap-loadtest\r\n";
        match content_length {
            _ if matches!(self.status, 204 | 304) => (),
            Some(count) => head += &format!("Content-Length: {count}\r\n"),
            None => head += "Transfer-Encoding: chunked\r\n",
        }
        if self.close {
            head += "Connection: close\r\n";
        }
        head + "\r\n"
    }

    fn bodiless(&self) -> bool {
        self.method == "HEAD" || matches!(self.status, 204 | 304)
    }

    fn text<S: Read + Write>(&self, wire: &mut Wire<S>, text: &str) -> io::Result<()> {
        let mut out = self.head(Some(text.len() as u64));
        if !self.bodiless() {
            out += text;
        }
        wire.write(out.as_bytes())
    }

    /// Sends one half, asks `go_on`, and sends the other; says whether it did.
    fn bytes<S: Read + Write>(
        &self,
        wire: &mut Wire<S>,
        count: u64,
        go_on: impl FnOnce() -> bool,
    ) -> io::Result<bool> {
        wire.write(self.head(Some(count)).as_bytes())?;
        if self.bodiless() {
            return Ok(true);
        }
        let half = count / 2;
        wire.write_pattern(half)?;
        if !go_on() {
            return Ok(false);
        }
        let mut rest = vec![0; usize::try_from(count - half).unwrap_or(0)];
        crate::wire::fill_pattern(half, &mut rest);
        wire.write(&rest)?;
        Ok(true)
    }

    fn events<S: Read + Write>(
        &self,
        wire: &mut Wire<S>,
        count: u64,
        pause: Duration,
    ) -> io::Result<()> {
        let head = self.head(None);
        let typed = head.replacen("\r\n", "\r\nContent-Type: text/event-stream\r\n", 1);
        wire.write(typed.as_bytes())?;
        for event in 0..count {
            thread::sleep(pause);
            let text = format!("id: {event}\ndata: the {event}th event\n\n");
            wire.write(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())?;
        }
        wire.write(b"0\r\n\r\n")
    }

    fn chunked<S: Read + Write>(
        &self,
        wire: &mut Wire<S>,
        count: u64,
        trailer: bool,
    ) -> io::Result<()> {
        wire.write(self.head(None).as_bytes())?;
        if self.bodiless() {
            return Ok(());
        }
        wire.write_pattern_chunked(count, trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str) -> (u16, u64, bool) {
        let backend = Backend::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut wire = Wire::new(TcpStream::connect(backend.address()).unwrap());
        wire.write(request.as_bytes()).unwrap();
        let head = wire.read_response().unwrap().unwrap();
        let method = request.split(' ').next().unwrap();
        let body = wire.read_body(head.body_length(method), |_| ControlFlow::Continue(()));
        let body = body.unwrap_or_default();
        (head.status, body.bytes, body.complete)
    }

    #[test]
    fn it_answers_as_the_path_asks() {
        assert_eq!(
            ask("GET /bytes/70000 HTTP/1.1\r\n\r\n"),
            (200, 70_000, true)
        );
        assert_eq!(
            ask("GET /bytes/9?trailers=1 HTTP/1.1\r\n\r\n"),
            (200, 9, true)
        );
        assert_eq!(ask("HEAD /bytes/9 HTTP/1.1\r\n\r\n"), (200, 0, true));
        assert_eq!(ask("GET /status/304 HTTP/1.1\r\n\r\n"), (304, 0, true));
        assert_eq!(
            ask("POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nab"),
            (200, 2, true)
        );
        assert_eq!(
            ask("POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nxx").0,
            500
        );
        assert_eq!(
            ask("POST /early/413 HTTP/1.1\r\nContent-Length: 9\r\n\r\n"),
            (413, 15, true)
        );
        assert!(!ask("GET /truncate/100 HTTP/1.1\r\n\r\n").2);
    }
}
