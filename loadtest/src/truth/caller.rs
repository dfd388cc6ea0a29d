//! The HTTP/1.1 clients of a scenario: what they ask, how they leave, and what they saw.
//!
//! Everything is done by hand and every call is noted, however it ends. To be used inside the
//! client's namespace.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::certificate;
use crate::client::{connect, connect_from, reset_on_close};
use crate::plan::{Random, RequestBody};
use crate::truth::evidence::Asked;
use crate::wire::{ResponseHead, Wire};

/// One call as it is meant.
#[derive(Clone, Debug)]
pub struct Ask {
    /// As sent.
    pub method: &'static str,
    /// Path and query, to which the call's name is added.
    pub target: String,
    /// Further header lines, each with its end.
    pub headers: &'static str,
    /// The request's body.
    pub body: RequestBody,
    /// Asks for `100 Continue` before it sends the body.
    pub expect: bool,
    /// Reads no more than this at a time, and pauses after.
    pub sips: Option<(u64, Duration)>,
    /// Whether and how the client leaves; otherwise it stays.
    pub leave: Option<(When, How)>,
}

/// When a client leaves.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// So long after its request.
    Before(Duration),
    /// When it has so many bytes of the response's body.
    During(u64),
    /// When it has all of it.
    After,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Says that it will send no more, and goes on reading.
    HalfClose,
    /// Closes: a FIN, and a reset if there is more to come.
    Close,
    /// Resets.
    Reset,
}

impl Ask {
    /// A `GET`.
    pub fn get(target: impl Into<String>) -> Self {
        Self {
            method: "GET",
            target: target.into(),
            headers: "",
            body: RequestBody::None,
            expect: false,
            sips: None,
            leave: None,
        }
    }

    /// A `POST` of so many bytes, which the upstream counts.
    pub fn post(bytes: u64) -> Self {
        Self {
            method: "POST",
            body: RequestBody::Bytes(bytes),
            ..Self::get("/echo")
        }
    }

    /// The same, to another path.
    pub fn to(self, target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            ..self
        }
    }

    /// The same, leaving.
    pub fn leaving(self, when: When, how: How) -> Self {
        Self {
            leave: Some((when, how)),
            ..self
        }
    }

    fn head(&self, id: &str) -> String {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n{}",
            self.method,
            named(&self.target, id),
            certificate::NAME,
            self.headers
        );
        match self.body {
            RequestBody::None => (),
            RequestBody::Bytes(count) => head += &format!("Content-Length: {count}\r\n"),
            RequestBody::Chunked(..) => head += "Transfer-Encoding: chunked\r\n",
        }
        if self.expect {
            head += "Expect: 100-continue\r\n";
        }
        head + "\r\n"
    }
}

/// A target that names its call.
pub fn named(target: &str, id: &str) -> String {
    let joint = if target.contains('?') { '&' } else { '?' };
    format!("{target}{joint}call={id}")
}

/// Where calls go, and what became of them.
pub struct Caller {
    server: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    next: AtomicU64,
    asked: Mutex<Vec<Asked>>,
}

/// A connection of a client.
pub struct Line {
    wire: Wire<Stream>,
    local: SocketAddr,
}

/// TCP, or TLS on it.
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// In TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Caller {
    /// Calls `server`, in TLS if told how.
    pub fn new(server: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            server,
            tls,
            next: AtomicU64::new(0),
            asked: Mutex::new(Vec::new()),
        }
    }

    /// Where calls go.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// How TLS is spoken, if it is.
    pub fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }

    /// The next call's name.
    pub fn id(&self) -> String {
        format!("c{:06}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes a call.
    pub fn note(&self, asked: Asked) {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(asked);
    }

    /// All that was noted.
    pub fn into_asked(self) -> Vec<Asked> {
        self.asked
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection.
    pub fn line(&self) -> io::Result<Line> {
        self.line_on(connect(self.server, None)?)
    }

    /// A new connection with a receive buffer of this size.
    pub fn line_with(&self, buffer_bytes: usize) -> io::Result<Line> {
        self.line_on(connect(self.server, Some(buffer_bytes))?)
    }

    /// A new connection from this port.
    pub fn line_from(&self, port: u16) -> io::Result<Line> {
        self.line_on(connect_from(Some(port), self.server, None)?)
    }

    fn line_on(&self, stream: TcpStream) -> io::Result<Line> {
        let local = stream.local_addr()?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let name = ServerName::try_from(certificate::NAME).map_err(io::Error::other)?;
                let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(tls, stream)))
            }
        };
        Ok(Line {
            wire: Wire::new(stream),
            local,
        })
    }

    /// Makes one call, notes it, and gives the connection back if another can follow.
    pub fn ask(&self, mut line: Line, ask: &Ask) -> Option<Line> {
        let mut asked = self.begin(&line);
        let went = exchange(&mut line.wire, ask, &mut asked);
        let stays = asked.complete && ask.leave.is_none() && went.unwrap_or(false);
        self.note(asked);
        stays.then_some(line)
    }

    /// Makes a call on each of many connections, and takes the answers when all were asked for.
    pub fn ask_everywhere(&self, lines: Vec<Line>, ask: &Ask) -> Vec<Line> {
        let mut calls = Vec::new();
        for mut line in lines {
            let asked = self.begin(&line);
            let sent = send(&mut line.wire, ask, &asked).is_ok();
            calls.push((line, asked, sent));
        }
        let mut open = Vec::new();
        for (mut line, mut asked, sent) in calls {
            let stays = sent && answer(&mut line.wire, ask, &mut asked).unwrap_or(false);
            if stays && asked.complete {
                open.push(line);
            }
            self.note(asked);
        }
        open
    }

    /// Makes calls in turn, on a new connection whenever the last one is gone, and hangs up.
    pub fn ask_in_turn(&self, asks: &[Ask]) -> anyhow::Result<()> {
        self.ask_on(None, asks)
    }

    /// The same, on a connection that is there already.
    pub fn ask_on(&self, mut open: Option<Line>, asks: &[Ask]) -> anyhow::Result<()> {
        for ask in asks {
            let line = match open.take() {
                Some(line) => line,
                None => self.line()?,
            };
            open = self.ask(line, ask);
        }
        if let Some(line) = open {
            line.hang_up();
        }
        Ok(())
    }

    /// Sends all requests in one write and takes the responses in their order. None may have a body.
    pub fn ask_at_once(&self, mut line: Line, asks: &[Ask]) -> anyhow::Result<()> {
        let mut calls: Vec<(Asked, &Ask)> =
            asks.iter().map(|ask| (self.begin(&line), ask)).collect();
        let heads: String = calls
            .iter()
            .map(|(asked, ask)| ask.head(&asked.id))
            .collect();
        let mut open = line.wire.write(heads.as_bytes()).is_ok();
        for (asked, ask) in &mut calls {
            open = open && answer(&mut line.wire, ask, asked).unwrap_or(false);
        }
        for (asked, _) in calls {
            self.note(asked);
        }
        if open {
            line.hang_up();
        }
        Ok(())
    }

    /// Has `threads` clients at a time do `sessions` sessions, in their order.
    pub fn crowd(
        &self,
        threads: usize,
        sessions: usize,
        session: impl Fn(usize) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let one = || -> anyhow::Result<()> {
                loop {
                    let mine = next.fetch_add(1, Ordering::Relaxed);
                    if mine >= sessions {
                        return Ok(());
                    }
                    session(mine)?;
                }
            };
            let all: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(one)).collect();
            all.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// A call of which nothing was seen yet.
    pub fn begin(&self, line: &Line) -> Asked {
        Asked {
            id: self.id(),
            client: line.local,
            status: None,
            complete: false,
        }
    }
}

impl Line {
    /// Its own address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The bytes on it.
    pub fn wire(&mut self) -> &mut Wire<Stream> {
        &mut self.wire
    }

    /// Closes as a polite client does.
    pub fn hang_up(mut self) {
        if let Stream::Tls(tls) = self.wire.stream_mut() {
            tls.conn.send_close_notify();
            // A peer that is gone needs no goodbye.
            let _ = tls.conn.complete_io(&mut tls.sock);
        }
    }
}

impl Stream {
    /// The socket beneath.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(out),
            Self::Tls(tls) => tls.read(out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// One call; whether the connection can carry another.
fn exchange(wire: &mut Wire<Stream>, ask: &Ask, asked: &mut Asked) -> io::Result<bool> {
    send_head(wire, ask, asked)?;
    if ask.expect {
        let interim = wire.read_response()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if interim.status != 100 {
            asked.status = Some(interim.status);
            return Ok(false);
        }
    }
    send_body(wire, ask)?;
    if let Some((When::Before(wait), how)) = ask.leave {
        thread::sleep(wait);
        if leave(wire, how)?.is_break() {
            return Ok(false);
        }
    }
    answer(wire, ask, asked)
}

fn send(wire: &mut Wire<Stream>, ask: &Ask, asked: &Asked) -> io::Result<()> {
    send_head(wire, ask, asked)?;
    send_body(wire, ask)
}

fn send_head(wire: &mut Wire<Stream>, ask: &Ask, asked: &Asked) -> io::Result<()> {
    wire.write(ask.head(&asked.id).as_bytes())
}

fn send_body(wire: &mut Wire<Stream>, ask: &Ask) -> io::Result<()> {
    match ask.body {
        RequestBody::None => Ok(()),
        RequestBody::Bytes(count) => wire.write_pattern(count),
        RequestBody::Chunked(count, trailer) => wire.write_pattern_chunked(count, trailer),
    }
}

/// Takes the response of a call that was sent.
fn answer(wire: &mut Wire<Stream>, ask: &Ask, asked: &mut Asked) -> io::Result<bool> {
    let head = loop {
        let head = wire.read_response()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if head.status >= 200 {
            break head;
        }
    };
    asked.status = Some(head.status);
    let mut sipped = 0;
    let mut leaving = match ask.leave {
        Some((When::During(bytes), how)) => Some((bytes, how)),
        _ => None,
    };
    // A second handle on the socket: the reading borrows the first.
    let socket = wire.stream().tcp().try_clone()?;
    let body = wire.read_body(head.body_length(ask.method), |so_far| {
        if let Some((_, how)) = leaving.take_if(|(bytes, _)| so_far >= *bytes) {
            match how {
                How::HalfClose => drop(socket.shutdown(Shutdown::Write)),
                How::Close | How::Reset => return ControlFlow::Break(()),
            }
        }
        if let Some((bytes, pause)) = ask.sips
            && so_far - sipped >= bytes
        {
            sipped = so_far;
            thread::sleep(pause);
        }
        ControlFlow::Continue(())
    })?;
    drop(socket);
    asked.complete = body.complete;
    match ask.leave {
        Some((When::After, how)) => drop(leave(wire, how)?),
        Some((When::During(_), How::Reset)) => reset_on_close(wire.stream().tcp())?,
        _ => (),
    }
    Ok(stays(&head))
}

fn leave(wire: &Wire<Stream>, how: How) -> io::Result<ControlFlow<()>> {
    let socket = wire.stream().tcp();
    match how {
        How::HalfClose => {
            socket.shutdown(Shutdown::Write)?;
            return Ok(ControlFlow::Continue(()));
        }
        How::Close => (),
        How::Reset => reset_on_close(socket)?,
    }
    Ok(ControlFlow::Break(()))
}

fn stays(head: &ResponseHead) -> bool {
    head.minor_version == 1 && !head.headers.has_token("connection", "close")
}

/// Sizes around what segments, buffers and windows hold.
pub fn some_size(random: &mut Random, max: u64) -> u64 {
    let bits = random.below(u64::from(max.max(2).ilog2()) + 1);
    (1 + random.below(2 << bits)).min(max)
}
