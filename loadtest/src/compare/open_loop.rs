//! Offers calls at a fixed rate, whatever becomes of them, and says how long each took.
//!
//! An open loop: calls are due at equal distances, and a call's time runs from when it was due, not
//! from when a connection was free for it. A gateway that stalls therefore pays for every call that
//! had to wait, as it would with clients who know nothing of each other.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Calls at the beginning that nobody looks at.
const WARM_UP: Duration = Duration::from_millis(200);
/// Calls still under way so long after the last was due never come.
const LAST_MAX: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Calls due per second.
    pub calls_per_s: f64,
    /// For how long.
    pub duration: Duration,
    /// Connections that carry them.
    pub connections: usize,
}

/// How long calls took.
#[derive(Clone, Debug)]
pub struct Taken {
    /// From when each was due to the last byte of its answer, µs, sorted.
    pub us: Vec<f64>,
    /// From when each was due to when it was sent, µs, sorted: what waited for a connection, and
    /// what the generator itself was late.
    pub late_us: Vec<f64>,
}

/// Offers `GET /` to a server of HTTP/1.1.
pub fn offer(server: SocketAddr, offer: Offer) -> anyhow::Result<Taken> {
    // A call is due to the microsecond, and the kernel may oversleep by 50 of them unless asked.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("timer slack")?;
    let request = format!("GET / HTTP/1.1\r\nHost: {server}\r\n\r\n").into_bytes();
    let mut lines = (0..offer.connections)
        .map(|_| Line::connect(server))
        .collect::<io::Result<Vec<_>>>()
        .with_context(|| format!("cannot connect to {server}"))?;
    let mut free: VecDeque<usize> = (0..lines.len()).collect();
    let begin = Instant::now() + Duration::from_millis(10);
    let due_at = |nth: u64| begin + Duration::from_secs_f64(nth as f64 / offer.calls_per_s);
    let count = ((WARM_UP + offer.duration).as_secs_f64() * offer.calls_per_s) as u64;
    let deadline = due_at(count) + LAST_MAX;
    let (mut next, mut done) = (0, 0);
    let mut taken = Taken {
        us: Vec::new(),
        late_us: Vec::new(),
    };
    while done < count {
        let now = Instant::now();
        ensure!(now < deadline, "{} calls were never answered", count - done);
        while next < count
            && due_at(next) <= now
            && let Some(at) = free.pop_front()
        {
            lines[at].send(&request, due_at(next))?;
            next += 1;
        }
        let wait = if free.is_empty() || next == count {
            Duration::from_millis(100)
        } else {
            due_at(next).saturating_duration_since(Instant::now())
        };
        for at in ready(&lines, wait)? {
            if let Some(call) = lines[at].receive()? {
                free.push_back(at);
                done += 1;
                if call.due >= begin + WARM_UP {
                    let us = |duration: Duration| duration.as_secs_f64() * 1e6;
                    taken.us.push(us(call.answered - call.due));
                    taken.late_us.push(us(call.sent - call.due));
                }
            }
        }
    }
    taken.us.sort_by(f64::total_cmp);
    taken.late_us.sort_by(f64::total_cmp);
    Ok(taken)
}

/// The connections that have something to read, after `wait` at the latest.
fn ready(lines: &[Line], wait: Duration) -> io::Result<Vec<usize>> {
    let mut polled: Vec<PollFd<'_>> = lines
        .iter()
        .map(|line| PollFd::from_borrowed_fd(line.stream.as_fd(), PollFlags::IN))
        .collect();
    let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&wait)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => (),
        Err(error) => return Err(error.into()),
    }
    let has = |(at, fd): (usize, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(at);
    Ok(polled.iter().enumerate().filter_map(has).collect())
}

/// One connection, and the call on it.
struct Line {
    stream: TcpStream,
    due: Instant,
    sent: Instant,
    answer: Vec<u8>,
    /// How long the answer will be, once its head is there.
    length: Option<usize>,
}

/// An answered call.
struct Call {
    due: Instant,
    sent: Instant,
    answered: Instant,
}

impl Line {
    fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let now = Instant::now();
        Ok(Self {
            stream,
            due: now,
            sent: now,
            answer: Vec::new(),
            length: None,
        })
    }

    fn send(&mut self, request: &[u8], due: Instant) -> anyhow::Result<()> {
        self.due = due;
        self.sent = Instant::now();
        // The connection is idle: an empty buffer takes so little at once.
        let sent = self.stream.write(request).context("sending a request")?;
        ensure!(sent == request.len(), "a request was not taken at once");
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Option<Call>> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("a connection was closed"),
            Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("reading an answer"),
        }
        if self.length.is_none() {
            self.length = whole(&self.answer)?;
        }
        match self.length {
            Some(length) if self.answer.len() >= length => (),
            _ => return Ok(None),
        }
        let answered = Instant::now();
        self.answer.clear();
        self.length = None;
        Ok(Some(Call {
            due: self.due,
            sent: self.sent,
            answered,
        }))
    }
}

/// The length of an answer, head and body, once its head is there.
fn whole(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer)? else {
        return Ok(None);
    };
    ensure!(response.code == Some(200), "answered {:?}", response.code);
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| {
            std::str::from_utf8(header.value)
                .ok()?
                .trim()
                .parse::<usize>()
                .ok()
        })
        .context("an answer without Content-Length")?;
    Ok(Some(head + length))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers calls on one connection, the nth of them late.
    fn server(late_at: usize, late_by: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buffer = [0; 1024];
            for nth in 0.. {
                if !matches!(stream.read(&mut buffer), Ok(1..)) {
                    return;
                }
                if nth == late_at {
                    thread::sleep(late_by);
                }
                // In two pieces.
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                for piece in [&answer[..30], &answer[30..]] {
                    if stream.write_all(piece).is_err() {
                        return;
                    }
                }
            }
        });
        address
    }

    #[test]
    fn calls_that_had_to_wait_for_a_late_one_took_as_long_as_they_waited() {
        // One every millisecond, and the 300th, which is beyond the warm-up, takes 400 of them.
        let server = server(300, Duration::from_millis(400));
        let wanted = Offer {
            calls_per_s: 1_000.0,
            duration: Duration::from_millis(500),
            connections: 1,
        };
        let taken = offer(server, wanted).unwrap();
        assert_eq!(taken.us.len(), 500);
        // Those due in the first 300 of them waited for 100 or more. A closed loop sees one.
        let long = taken.us.iter().filter(|us| **us >= 100_000.0).count();
        assert!(long >= 300, "{long}");
    }

    #[test]
    fn an_answer_is_as_long_as_it_says() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(whole(head).unwrap(), Some(head.len() + 7));
        assert_eq!(whole(&head[..20]).unwrap(), None);
        assert!(whole(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
