//! Plays sessions over real sockets and notes what the client saw of each call.
//!
//! Blocking threads, one connection each. Judges nothing: whether what it saw is right is for
//! [`checks`](crate::checks).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::h2c;
use crate::plan::{Call, Failure, Reading, RequestBody, Sending, Session};
use crate::wire::Wire;

/// A call without an answer for this long counts as not served.
pub const ANSWER_MAX: Duration = Duration::from_secs(40);
/// The receive buffer of a slow reader, bytes; the kernel doubles it.
const SLOW_BUFFER_BYTES: usize = 16 * 1024;

/// Where to call.
#[derive(Clone, Debug)]
pub struct Target {
    /// HTTP/1.1.
    pub plain: SocketAddr,
    /// HTTP/2 by prior knowledge.
    pub h2c: Option<SocketAddr>,
    /// Host as sent.
    pub host: String,
}

/// What the client saw of one call.
#[derive(Clone, Debug)]
pub struct Observed {
    /// As it was meant.
    pub call: Call,
    /// Which connection of the run.
    pub connection: u64,
    /// The nth call on it, from 1.
    pub nth: u32,
    /// How many calls the connection carried at once.
    pub together: Together,
    /// Our end.
    pub local: SocketAddr,
    /// The gateway's end.
    pub gateway: SocketAddr,
    /// Bytes this call put on the socket.
    pub wire_out: u64,
    /// Bytes of its responses, interim ones included.
    pub wire_in: u64,
    /// Body bytes sent, transfer encoding not counted.
    pub body_out: u64,
    /// Body bytes received.
    pub body_in: u64,
    /// The final status.
    pub status: Option<u16>,
    /// `100 Continue` came.
    pub continued: bool,
    /// Trailer fields received.
    pub trailers: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// From the first byte sent to the last received, or to giving up.
    pub elapsed: Duration,
}

/// What shares the connection with a call while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    /// Nothing.
    Alone,
    /// So many requests, sent in one write.
    Pipelined(u32),
    /// So many streams.
    Streams(u32),
}

/// How a call ended, as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole response.
    Complete,
    /// A response that broke off.
    Truncated,
    /// The client left, as it was meant to.
    Left,
    /// A response whose bytes are not those of the backend.
    Corrupt,
    /// No response, and why.
    Unserved(String),
}

/// A connection that was not to become a call.
#[derive(Clone, Debug)]
pub struct ObservedFailure {
    /// As it was meant.
    pub failure: Failure,
    /// Our end.
    pub local: SocketAddr,
    /// The status answered, if any.
    pub status: Option<u16>,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// One for each call.
    pub calls: Vec<Observed>,
    /// One for each failed connection.
    pub failures: Vec<ObservedFailure>,
    /// Connections that could not be made at all.
    pub unreachable: Vec<String>,
}

/// Plays `sessions` from `threads` threads. `progress` counts finished calls.
pub fn play(
    sessions: VecDeque<Session>,
    target: &Target,
    threads: usize,
    progress: &Arc<AtomicU64>,
) -> Seen {
    let sessions = Mutex::new(sessions);
    let seen = Mutex::new(Seen::default());
    let connections = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let next = sessions
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(session) = next else { return };
                    let one = play_one(session, target, &connections);
                    progress.fetch_add(one.calls.len() as u64, Ordering::Relaxed);
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.calls.extend(one.calls);
                    seen.failures.extend(one.failures);
                    seen.unreachable.extend(one.unreachable);
                }
            });
        }
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn play_one(session: Session, target: &Target, connections: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let fresh = || connections.fetch_add(1, Ordering::Relaxed);
    match session {
        Session::H2c(calls) => match target.h2c {
            Some(address) => h2c::play(calls, address, &target.host, fresh(), &mut seen),
            None => seen
                .unreachable
                .push("the plan has HTTP/2 and the target has not".to_owned()),
        },
        Session::Failed(failure) => match fail(failure, target) {
            Ok(observed) => seen.failures.push(observed),
            Err(error) => seen.unreachable.push(format!("{failure:?}: {error}")),
        },
        Session::KeepAlive(calls) => one_by_one(calls, target, connections, &mut seen),
        Session::Lockstep(both) => {
            let [held, release] = *both;
            lockstep(held, release, target, connections, &mut seen);
        }
        Session::Pipelined(calls) => all_at_once(calls, target, connections, &mut seen),
    }
    seen
}

/// Connects, with a receive buffer of `buffer_bytes` where given.
pub fn connect(to: SocketAddr, buffer_bytes: Option<usize>) -> io::Result<TcpStream> {
    connect_from(None, to, buffer_bytes)
}

/// The same, from a port of the caller's choice.
pub fn connect_from(
    port: Option<u16>,
    to: SocketAddr,
    buffer_bytes: Option<usize>,
) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if let Some(bytes) = buffer_bytes {
        // Before connecting: the window scale is agreed on in the SYN.
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    if let Some(port) = port {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        rustix::net::bind(&socket, &SocketAddr::new(any, port))?;
    }
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// Makes the coming close a reset.
pub fn reset_on_close(stream: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

/// Plays calls in turn and connects anew when a connection ended, as clients do.
fn one_by_one(calls: Vec<Call>, target: &Target, connections: &AtomicU64, seen: &mut Seen) {
    let slow = calls.iter().any(|call| call.reading == Reading::Slowly);
    let mut open: Option<Open> = None;
    for call in calls {
        let connection = match open.take() {
            Some(connection) => connection,
            None => match Open::new(target, slow, connections) {
                Ok(connection) => connection,
                Err(error) => {
                    unreachable(call, target, &error, seen);
                    continue;
                }
            },
        };
        open = connection.play(call, target, seen, &mut || ());
    }
}

/// Makes the second call when half of the first one's response is here, on a connection of its own.
fn lockstep(held: Call, release: Call, target: &Target, connections: &AtomicU64, seen: &mut Seen) {
    let mut release = Some(release);
    let mut released = Seen::default();
    match Open::new(target, false, connections) {
        Ok(connection) => {
            connection.play(held, target, seen, &mut || {
                if let Some(release) = release.take() {
                    one_by_one(vec![release], target, connections, &mut released);
                }
            });
        }
        Err(error) => unreachable(held, target, &error, seen),
    }
    // Made in any case: whether a plan is complete must not depend on what comes of it.
    one_by_one(
        release.into_iter().collect(),
        target,
        connections,
        &mut released,
    );
    seen.calls.extend(released.calls);
    seen.unreachable.extend(released.unreachable);
}

fn unreachable(call: Call, target: &Target, error: &io::Error, seen: &mut Seen) {
    seen.unreachable.push(format!("{}: {error}", target.plain));
    let mut observed = Observed::begin(call, 0, 0, UNKNOWN, target.plain);
    observed.outcome = Outcome::Unserved(error.to_string());
    seen.calls.push(observed);
}

/// A kept-alive connection between two calls.
struct Open {
    wire: Wire<TcpStream>,
    local: SocketAddr,
    serial: u64,
    calls: usize,
}

impl Open {
    fn new(target: &Target, slow: bool, connections: &AtomicU64) -> io::Result<Self> {
        let stream = connect(target.plain, slow.then_some(SLOW_BUFFER_BYTES))?;
        Ok(Self {
            local: stream.local_addr()?,
            wire: Wire::new(stream),
            serial: connections.fetch_add(1, Ordering::Relaxed),
            calls: 0,
        })
    }

    /// Plays one call and gives the connection back if another can follow. `at_half` is called when
    /// half of the response's body is here, and perhaps again.
    fn play(
        mut self,
        call: Call,
        target: &Target,
        seen: &mut Seen,
        at_half: &mut dyn FnMut(),
    ) -> Option<Self> {
        let mut observed = Observed::begin(call, self.serial, self.calls, self.local, target.plain);
        self.calls += 1;
        let begun = Instant::now();
        let (sent, consumed) = (self.wire.sent(), self.wire.consumed());
        let result = exchange(&mut self.wire, target, &mut observed, at_half);
        observed.wire_out = self.wire.sent() - sent;
        observed.wire_in = self.wire.consumed() - consumed;
        observed.elapsed = begun.elapsed();
        let after = result.unwrap_or_else(|error| {
            observed.outcome = match observed.status {
                Some(_) => Outcome::Truncated,
                None => Outcome::Unserved(error.to_string()),
            };
            After::Close
        });
        seen.calls.push(observed);
        match after {
            After::KeepOpen => Some(self),
            After::Close => None,
        }
    }
}

/// What becomes of a connection after a call.
enum After {
    KeepOpen,
    Close,
}

fn exchange(
    wire: &mut Wire<TcpStream>,
    target: &Target,
    observed: &mut Observed,
    at_half: &mut dyn FnMut(),
) -> io::Result<After> {
    let call = observed.call.clone();
    send_head(wire, &call, &target.host)?;
    if call.expect_continue {
        let interim = wire.read_response()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if interim.status != 100 {
            return finish(wire, interim, observed, at_half);
        }
        observed.continued = true;
    }
    let sent = send_body(wire, &call, observed);
    if let Sending::AbortAfter(_) = call.sending {
        sent?;
        observed.outcome = Outcome::Left;
        // What was written should arrive before the reset overtakes it in the gateway.
        thread::sleep(Duration::from_millis(30));
        reset_on_close(wire.stream())?;
        return Ok(After::Close);
    }
    // A gateway that answers early may close before it has the body: the answer may be here.
    loop {
        let head = match (wire.read_response(), &sent) {
            (Ok(Some(head)), _) => head,
            (_, Err(error)) => return Err(io::Error::new(error.kind(), error.to_string())),
            (Ok(None), Ok(())) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (Err(error), Ok(())) => return Err(error),
        };
        if head.status >= 200 {
            let after = finish(wire, head, observed, at_half)?;
            return Ok(if sent.is_ok() { after } else { After::Close });
        }
        observed.continued |= head.status == 100;
    }
}

/// Sends what the call means to send of its body; `body_out` bounds what may have left.
fn send_body(wire: &mut Wire<TcpStream>, call: &Call, observed: &mut Observed) -> io::Result<()> {
    let bytes = match call.sending {
        Sending::AbortAfter(bytes) | Sending::Withhold(bytes) => bytes,
        Sending::Whole | Sending::SplitHead => call.body.bytes(),
    };
    observed.body_out = bytes;
    match call.body {
        RequestBody::None => Ok(()),
        RequestBody::Bytes(_) => wire.write_pattern(bytes),
        RequestBody::Chunked(_, trailer) => wire.write_pattern_chunked(bytes, trailer),
    }
}

fn finish(
    wire: &mut Wire<TcpStream>,
    head: crate::wire::ResponseHead,
    observed: &mut Observed,
    at_half: &mut dyn FnMut(),
) -> io::Result<After> {
    observed.status = Some(head.status);
    let call = &observed.call;
    let mut received = 0;
    let mut sipped = 0;
    let body = wire.read_body(head.body_length(call.method), |so_far| {
        received = so_far;
        if call.response_bytes.is_some_and(|bytes| so_far >= bytes / 2) {
            at_half();
        }
        match call.reading {
            Reading::AbortAfter(enough) if so_far >= enough => return ControlFlow::Break(()),
            Reading::Slowly if so_far - sipped >= 64 * 1024 => {
                sipped = so_far;
                thread::sleep(Duration::from_millis(5));
            }
            _ => (),
        }
        ControlFlow::Continue(())
    });
    observed.body_in = received;
    let body = body?;
    observed.trailers = body.trailers;
    let known = call.response_bytes.is_some();
    observed.outcome = match (body.complete, call.reading) {
        (false, Reading::AbortAfter(_)) => {
            reset_on_close(wire.stream())?;
            Outcome::Left
        }
        (false, _) => Outcome::Truncated,
        (true, _) if head.status == 200 && known && !body.intact => Outcome::Corrupt,
        (true, _) => Outcome::Complete,
    };
    let closes = head.minor_version == 0 || head.headers.has_token("connection", "close");
    let whole = body.complete && !observed.call.ends_connection();
    Ok(if closes || !whole {
        After::Close
    } else {
        After::KeepOpen
    })
}

fn send_head(wire: &mut Wire<TcpStream>, call: &Call, host: &str) -> io::Result<()> {
    let head = head(call, host);
    if call.sending == Sending::SplitHead {
        let (first, second) = head.split_at(head.len() / 2);
        wire.write(first.as_bytes())?;
        thread::sleep(Duration::from_millis(3));
        return wire.write(second.as_bytes());
    }
    wire.write(head.as_bytes())
}

fn head(call: &Call, host: &str) -> String {
    let version = if call.http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut head = format!(
        "{} {} {version}\r\nHost: {host}\r\n",
        call.method,
        call.target()
    );
    head += &format!(
        "User-Agent: {}\r\nX-Request-ID: {}\r\n",
        call.user_agent(),
        call.id
    );
    match call.body {
        RequestBody::None => (),
        RequestBody::Bytes(count) => head += &format!("Content-Length: {count}\r\n"),
        RequestBody::Chunked(_, trailer) => {
            head += "Transfer-Encoding: chunked\r\n";
            if trailer {
                head += "Trailer: x-body-bytes\r\n";
            }
        }
    }
    if call.expect_continue {
        head += "Expect: 100-continue\r\n";
    }
    if call.close && !call.http10 {
        head += "Connection: close\r\n";
    }
    head + "\r\n"
}

/// Sends all requests in one write. Those that the gateway did not answer because it closed the
/// connection after another are sent again one by one, as HTTP has it.
fn all_at_once(calls: Vec<Call>, target: &Target, connections: &AtomicU64, seen: &mut Seen) {
    let stream = match connect(target.plain, None) {
        Ok(stream) => stream,
        Err(error) => return seen.unreachable.push(format!("{}: {error}", target.plain)),
    };
    let connection = connections.fetch_add(1, Ordering::Relaxed);
    let local = stream.local_addr().unwrap_or(UNKNOWN);
    let mut wire = Wire::new(stream);
    let heads: Vec<String> = calls.iter().map(|call| head(call, &target.host)).collect();
    let together = match calls.len() {
        1 => Together::Alone,
        count => Together::Pipelined(u32::try_from(count).unwrap_or(u32::MAX)),
    };
    let begun = Instant::now();
    let mut broken = wire.write(heads.concat().as_bytes()).err();
    let mut calls = calls.into_iter().zip(&heads).enumerate();
    for (index, (call, head)) in calls.by_ref() {
        let mut observed = Observed::begin(call, connection, index, local, target.plain);
        observed.together = together;
        observed.wire_out = head.len() as u64;
        let consumed = wire.consumed();
        let result = match broken.take() {
            Some(error) => Err(error),
            None => wire
                .read_response()
                .and_then(|head| head.ok_or(io::ErrorKind::UnexpectedEof.into()))
                .and_then(|head| finish(&mut wire, head, &mut observed, &mut || ())),
        };
        observed.wire_in = wire.consumed() - consumed;
        observed.elapsed = begun.elapsed();
        let closed = match result {
            Ok(After::KeepOpen) => false,
            Ok(After::Close) => true,
            Err(error) => {
                observed.outcome = match observed.status {
                    Some(_) => Outcome::Truncated,
                    None => Outcome::Unserved(error.to_string()),
                };
                true
            }
        };
        seen.calls.push(observed);
        if closed {
            break;
        }
    }
    let unanswered = calls.map(|(_, (call, _))| call).collect();
    one_by_one(unanswered, target, connections, seen);
}

fn fail(failure: Failure, target: &Target) -> io::Result<ObservedFailure> {
    let stream = connect(target.plain, None)?;
    let local = stream.local_addr()?;
    let mut wire = Wire::new(stream);
    let mut status = None;
    match failure {
        Failure::Silent => (),
        Failure::HalfHead => wire.write(b"GET /bytes/1 HTTP/1.1\r\nHost: half")?,
        Failure::BadRequestLine => {
            wire.write(b"this is { no request }\r\n\r\n")?;
            // Answered or just closed: both are fine, the record says which.
            status = wire.read_response().ok().flatten().map(|head| head.status);
        }
    }
    // Give the gateway the time to accept it and see what came, so that it is the client's leaving
    // that ends it and not a connection reset in the accept queue.
    thread::sleep(Duration::from_millis(20));
    Ok(ObservedFailure {
        failure,
        local,
        status,
    })
}

/// Stands for an address that could not be read; matches no record.
pub(crate) const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Observed {
    /// A call of which nothing was seen yet.
    pub(crate) fn begin(
        call: Call,
        connection: u64,
        index: usize,
        local: SocketAddr,
        gateway: SocketAddr,
    ) -> Self {
        Self {
            call,
            connection,
            nth: u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1),
            together: Together::Alone,
            local,
            gateway,
            wire_out: 0,
            wire_in: 0,
            body_out: 0,
            body_in: 0,
            status: None,
            continued: false,
            trailers: 0,
            outcome: Outcome::Unserved("not sent".to_owned()),
            elapsed: Duration::ZERO,
        }
    }
}
