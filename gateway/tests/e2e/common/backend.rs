//! A backend whose behaviour is chosen by the path.
//!
//! | path | does |
//! |---|---|
//! | `/bytes/{n}` | answers `n` bytes |
//! | `/chunked`, `/trailers` | answers in chunks, with a trailer field too |
//! | `/echo` | answers the body |
//! | `/head` | answers the request's head, as it came |
//! | `/status/{code}` | answers that, with a body where one may be |
//! | `/early` | answers 413 without reading the body, and closes |
//! | `/refuse` | 100, and at once 417, without reading the body, and waits for it |
//! | `/hint` | 103, and 200 when the test opens the gate |
//! | `/http10` | answers as HTTP/1.0, the end of the body is the end of the connection |
//! | `/close` | answers and closes |
//! | `/hang-up` | answers, does not say that it will close, and closes |
//! | `/gated` | promises 10 bytes, sends 5, and the rest when the test opens the gate |
//! | `/events` | an event, and a second one when the test opens the gate |
//! | `/silent` | never answers |
//! | `/drip` | answers a chunk every 10 ms, for five seconds |
//! | `/reset`, `/half-reset` | resets the connection, at once or in the middle of the response |
//! | `/half-close` | closes the connection in the middle of the response |
//! | `/garbage` | answers what is not HTTP |
//! | `/health` | answers 200, or 503 while the test says that it is sick |
//! | `/upgrade`, `/upgrade-reset` | 101, then echoes what comes; or once, and resets |

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::client::reset;
use super::wire::{Head, Wire};
use super::{PATIENCE, wait_for};

/// What one request was, and how many bytes it and its response took.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// The gateway's end.
    pub(crate) peer: Option<SocketAddr>,
    /// Which connection, from 1 in the order of acceptance.
    pub(crate) connection: usize,
}

/// A running backend; stops listening when dropped.
pub(crate) struct Backend {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Default)]
pub(crate) struct Shared {
    served: Mutex<Vec<Served>>,
    asked: Mutex<Vec<String>>,
    connections: Mutex<usize>,
    gate: Mutex<bool>,
    gate_opened: Condvar,
    sick: AtomicBool,
}

impl Backend {
    /// On a free port of loopback.
    pub(crate) fn start() -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address"))
    }

    /// On this address.
    pub(crate) fn on(address: SocketAddr) -> Self {
        Self::serve(TcpListener::bind(address).expect("a free port"))
    }

    /// On a socket that listens already.
    pub(crate) fn serve(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("bound");
        let accepting = listener.try_clone().expect("a second handle");
        let shared = Arc::<Shared>::default();
        let for_connections = Arc::clone(&shared);
        thread::spawn(move || {
            // Once the listener is shut down accept fails for good.
            while let Ok((stream, peer)) = accepting.accept() {
                let shared = Arc::clone(&for_connections);
                thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let raw = stream.try_clone().ok();
                    converse(stream, raw.as_ref(), Some(peer), &shared)
                });
            }
        });
        Self {
            address,
            listener,
            shared,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// A port that nobody else can take and nobody listens on: connections are refused.
pub(crate) struct Refusing {
    address: SocketAddr,
    _socket: OwnedFd,
}

impl Refusing {
    pub(crate) fn start() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = getsockname(&socket).expect("bound");
        Self {
            address: address.try_into().expect("an address"),
            _socket: socket,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Wakes the accepting thread, which a close would not.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.shared.open_gate();
    }
}

impl Shared {
    /// Waits until so many requests were answered, and returns all.
    pub(crate) fn served(&self, n: usize) -> Vec<Served> {
        wait_for(&format!("{n} requests answered by the backend"), || {
            let served = self.served.lock().expect("no panic");
            (served.len() >= n).then(|| served.clone())
        })
    }

    /// How many requests have arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }

    /// Waits until a request for this path has arrived.
    pub(crate) fn wait_asked(&self, path: &str) {
        wait_for(&format!("the backend to be asked for {path}"), || {
            let asked = self.asked.lock().expect("no panic");
            asked.iter().any(|asked| asked == path).then_some(())
        });
    }

    /// Lets `/gated` and `/events` go on.
    pub(crate) fn open_gate(&self) {
        *self.gate.lock().expect("no panic") = true;
        self.gate_opened.notify_all();
    }

    /// Whether `/health` is to answer 503.
    pub(crate) fn set_sick(&self, sick: bool) {
        self.sick.store(sick, Relaxed);
    }

    /// How many requests for this path have arrived.
    pub(crate) fn asked_count(&self, path: &str) -> usize {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|asked| *asked == path).count()
    }

    fn pass_gate(&self) {
        let gate = self.gate.lock().expect("no panic");
        let open = self
            .gate_opened
            .wait_timeout_while(gate, PATIENCE, |open| !*open);
        drop(open.expect("no panic"));
    }
}

/// Serves one connection until it ends. What breaks is the test's doing; the client notices.
pub(crate) fn converse<S: Read + Write>(
    stream: S,
    raw: Option<&TcpStream>,
    peer: Option<SocketAddr>,
    shared: &Shared,
) {
    let connection = {
        let mut connections = shared.connections.lock().expect("no panic");
        *connections += 1;
        *connections
    };
    let mut wire = Wire::new(stream);
    loop {
        let (taken, sent) = (wire.taken(), wire.sent());
        let Ok(Some(head)) = wire.head() else { return };
        let path = head.word(1).to_owned();
        shared.asked.lock().expect("no panic").push(path.clone());
        let mut served = Served {
            head,
            body: Vec::new(),
            trailers: String::new(),
            bytes_in: 0,
            bytes_out: 0,
            peer,
            connection,
        };
        let went = answer(&mut wire, &mut served, raw, shared, &path);
        served.bytes_in = wire.taken() - taken;
        served.bytes_out = wire.sent() - sent;
        shared.served.lock().expect("no panic").push(served);
        if !matches!(went, Ok(Continue(()))) {
            return;
        }
    }
}

fn answer<S: Read + Write>(
    wire: &mut Wire<S>,
    served: &mut Served,
    raw: Option<&TcpStream>,
    shared: &Shared,
    path: &str,
) -> io::Result<ControlFlow<()>> {
    let path = path.split('?').next().unwrap_or(path);
    if path == "/early" {
        wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 6\r\nConnection: close\r\n\r\nEarly\n")?;
        return Ok(Break(()));
    }
    if path == "/refuse" {
        wire.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 417 Expectation Failed\r\nContent-Length: 3\r\n\r\nNo\n")?;
        let _ = wire.rest();
        return Ok(Break(()));
    }
    if served.head.header("expect") == Some("100-continue") {
        wire.send("HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = wire.body(&served.head, false)?;
    served.body = body.bytes;
    served.trailers = body.trailers;
    let (name, argument) = match path[1..].split_once('/') {
        Some((name, argument)) => (name, argument.parse().unwrap_or(0)),
        None => (&path[1..], 0),
    };
    let is_head = served.head.word(0) == "HEAD";
    match name {
        "echo" => ok(wire, &served.body)?,
        "health" if shared.sick.load(Relaxed) => {
            wire.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
        }
        "health" => ok(wire, b"")?,
        "head" => ok(wire, served.head.text.as_bytes())?,
        "bytes" if is_head => {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {argument}\r\n\r\n"))?;
        }
        "bytes" => ok(wire, &vec![b'x'; argument])?,
        "chunked" => wire.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        )?,
        "trailers" => wire.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n",
        )?,
        "status" if matches!(argument, 204 | 304) => {
            wire.send(format!("HTTP/1.1 {argument} Whatever\r\n\r\n"))?;
        }
        "status" => wire.send(format!(
            "HTTP/1.1 {argument} Whatever\r\nContent-Length: 4\r\n\r\nbody"
        ))?,
        "http10" => {
            wire.send("HTTP/1.0 200 OK\r\n\r\nuntil the end")?;
            return Ok(Break(()));
        }
        "close" => {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbye\n")?;
            return Ok(Break(()));
        }
        "gated" => {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
            shared.pass_gate();
            wire.send("-last")?;
        }
        "hint" => {
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")?;
            shared.pass_gate();
            ok(wire, b"done\n")?;
        }
        "hang-up" => {
            ok(wire, b"bye\n")?;
            return Ok(Break(()));
        }
        "events" => {
            wire.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                 Transfer-Encoding: chunked\r\n\r\nd\r\ndata: first\n\n\r\n",
            )?;
            shared.pass_gate();
            wire.send("e\r\ndata: second\n\n\r\n0\r\n\r\n")?;
        }
        "silent" => {
            // Until the gateway gives up.
            let _ = wire.rest();
            return Ok(Break(()));
        }
        "drip" => {
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for _ in 0..500 {
                wire.send("1\r\nx\r\n")?;
                thread::sleep(std::time::Duration::from_millis(10));
            }
            wire.send("0\r\n\r\n")?;
        }
        "reset" | "half-reset" => {
            if name == "half-reset" {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
                // A RST throws away what the other end has not read yet.
                shared.pass_gate();
            }
            raw.into_iter().for_each(reset);
            return Ok(Break(()));
        }
        "half-close" => {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
            return Ok(Break(()));
        }
        "garbage" => {
            wire.send("this is not HTTP\r\n\r\n")?;
            return Ok(Break(()));
        }
        "upgrade" | "upgrade-reset" => {
            wire.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )?;
            loop {
                let frame = wire.exactly(6)?;
                if frame.is_empty() {
                    return Ok(Break(()));
                }
                if name == "upgrade-reset" && frame == b"frame2" {
                    raw.into_iter().for_each(reset);
                    return Ok(Break(()));
                }
                wire.send(frame)?;
            }
        }
        _ => wire.send("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nwhat?")?,
    }
    Ok(Continue(()))
}

fn ok<S: Read + Write>(wire: &mut Wire<S>, body: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    wire.send([head.as_bytes(), body].concat())
}
