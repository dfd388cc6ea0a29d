//! What the tests on the real kernel share: one tap at a time, sockets, waiting for a fact.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use calltap_correlate::socket::SocketCookie;
use calltap_tap::{Ledger, Tap, TapOptions, tcp_info};
use rustix::net::{AddressFamily, SocketType};

/// The process is in one cgroup at a time, so the tests of a process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Nothing here is timed; this only ends a test whose fact never comes true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running tap, in a cgroup of its own until this is dropped.
pub(crate) struct Tapped {
    pub(crate) tap: Tap,
    turn: MutexGuard<'static, ()>,
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
        ..TapOptions::default()
    };
    Some(Tapped {
        tap: Tap::start(&options).expect("root can start a tap"),
        turn,
    })
}

/// Where a test listens.
pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Tapped {
    /// Stops the tap. It stays the caller's turn while the result is held: the next tap of this
    /// process may have a cgroup of the same name.
    pub(crate) fn stop(self) -> MutexGuard<'static, ()> {
        self.turn
    }

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
        let socket = unconnected(to);
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
        self.pair_with(listener, |_| ())
    }

    /// As [`Self::pair`], with options set on the client's socket before it connects.
    pub(crate) fn pair_with(
        &self,
        listener: &TcpListener,
        prepare: impl FnOnce(&OwnedFd),
    ) -> (TcpStream, TcpStream, Ledger) {
        let to = listener.local_addr().expect("it is bound");
        let client = unconnected(to);
        prepare(&client);
        rustix::net::connect(&client, &to).expect("we listen");
        let client = TcpStream::from(client);
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

/// Runs `test` in a network of its own: nobody else's packets, rules or ports. It is gone with the
/// thread, whatever happens.
pub(crate) fn in_own_network(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: takes no pointers, and moves this thread only.
            let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "{}", std::io::Error::last_os_error());
            run("ip", &["link", "set", "lo", "up"]);
            test();
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Adds rules to the network this thread is in. Each packet that comes in passes them.
pub(crate) fn filter(rule: &str) {
    run("nft", &["add table inet calltap_test"]);
    let hook = "{ type filter hook input priority 0; }";
    run("nft", &[&format!("add chain inet calltap_test in {hook}")]);
    run("nft", &[&format!("add rule inet calltap_test in {rule}")]);
}

/// Packets that a rule with a counter met.
pub(crate) fn filtered() -> u64 {
    let rules = run("nft", &["list", "table", "inet", "calltap_test"]);
    let (_, after) = rules.split_once("counter packets ").expect("a counter");
    let number = after.split(' ').next().expect("its number");
    number.parse().expect("a number")
}

/// Takes the rules away again.
pub(crate) fn filter_nothing() {
    run("nft", &["delete table inet calltap_test"]);
}

/// Runs a program that must succeed, and returns what it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Connects from an address of ours. Gives up, with `TimedOut`, where no answer comes.
pub(crate) fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = unconnected(to);
    rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 500);
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Sets an integer option of a socket.
pub(crate) fn set_option(socket: &impl AsFd, level: i32, name: i32, value: i32) {
    set_option_bytes(socket, level, name, &value.to_ne_bytes());
}

/// Sets an option of a socket.
pub(crate) fn set_option_bytes(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the kernel reads `value`, of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Makes the close of a socket a reset.
pub(crate) fn reset_on_close(socket: &impl AsFd) {
    let linger = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
    set_option_bytes(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

/// A socket that can be given options before it connects.
pub(crate) fn unconnected(to: SocketAddr) -> OwnedFd {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    rustix::net::socket(family, SocketType::STREAM, None).expect("a socket")
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
