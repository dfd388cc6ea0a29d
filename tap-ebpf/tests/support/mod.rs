//! What the tests on the real kernel share: one tap at a time, sockets, waiting for a fact.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use calltap_correlate::socket::SocketCookie;
use calltap_tap::{Ledger, Tap, TapOptions, tcp_info};
use rustix::net::{AddressFamily, SocketType};

/// The process is in one cgroup at a time, so the tests of a process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Nothing here is timed; this only ends a test whose fact never comes true.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running tap, in a cgroup of its own until this is dropped.
pub(crate) struct Tapped {
    pub(crate) tap: Tap,
    _turn: MutexGuard<'static, ()>,
}

/// A tap, or `None`, loudly, where this machine does not let us have one.
pub(crate) fn tapped(sockets_max: u32) -> Option<Tapped> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test taps sockets, and that needs root");
        return None;
    }
    let options = TapOptions {
        cgroup: None,
        sockets_max,
    };
    Some(Tapped {
        tap: Tap::start(&options).expect("root can start a tap"),
        _turn: turn,
    })
}

/// Where a test listens.
pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Tapped {
    /// A listener of ours.
    pub(crate) fn listen(&self, at: SocketAddr) -> TcpListener {
        let listener = TcpListener::bind(at).expect("a port is free");
        self.tap
            .own_listener(listener.as_fd())
            .expect("a listener can be marked");
        listener
    }

    /// A connection of ours to `to`, its ledger with it.
    pub(crate) fn connect(&self, to: SocketAddr) -> (TcpStream, Ledger) {
        let family = if to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = rustix::net::socket(family, SocketType::STREAM, None).expect("a socket");
        let cookie = tcp_info::cookie_of(&socket).expect("a cookie");
        self.tap.own_upstream(cookie).expect("it can be announced");
        rustix::net::connect(&socket, &to).expect("somebody listens");
        (TcpStream::from(socket), self.ledger(cookie))
    }

    /// The ledger of a socket that must have one.
    pub(crate) fn ledger(&self, cookie: SocketCookie) -> Ledger {
        self.tap.ledger(cookie).expect("the socket has a ledger")
    }

    /// A client, and our accepted end of it.
    pub(crate) fn pair(&self, listener: &TcpListener) -> (TcpStream, TcpStream, Ledger) {
        let to = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(to).expect("we listen");
        let (ours, _) = listener.accept().expect("it connected");
        let ledger = self.ledger(cookie_of(&ours));
        (client, ours, ledger)
    }

    /// How often something was lost for `reason`.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let drops = self.tap.drops();
        let found = drops.iter().find(|(name, _)| *name == reason);
        found.expect("the reason exists").1
    }
}

pub(crate) fn cookie_of(socket: &TcpStream) -> SocketCookie {
    tcp_info::cookie_of(socket).expect("a socket has a cookie")
}

/// Writes `bytes` bytes and has the other side read them.
pub(crate) fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    let reader = to.try_clone().expect("a descriptor");
    std::thread::scope(|scope| {
        scope.spawn(move || read_exactly(reader, bytes));
        from.write_all(&vec![b'x'; bytes])
            .expect("the other side reads");
    });
}

pub(crate) fn read_exactly(mut from: TcpStream, bytes: usize) {
    from.read_exact(&mut vec![0; bytes])
        .expect("it was all written");
}

/// Waits until `fact` is true; fails the test if it never is.
#[track_caller]
pub(crate) fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !fact() {
        assert!(begin.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
