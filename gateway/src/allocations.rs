//! Counts what a call allocates, with and without tap and records: they may cost time, but no memory
//! that is asked for call by call.
//!
//! The tests of this binary have an allocator that counts, so the gateway is one of them, in a process
//! of its own; clients and backend are in another, where nobody counts.

use std::alloc::System;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser as _;
use rustix::thread::CapabilitySet;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crate::cli::{Cli, Command as Asked};
use crate::run;

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The arguments of the gateway, in the environment of its process.
const ARGUMENTS: &str = "CALLTAP_TEST_ARGUMENTS";
/// Stands before the count, among what the test harness says.
const COUNT: &str = "allocations: ";
const CALLS: u32 = 2_000;
/// What a timer or a batch takes now and then is not a call's.
const NOISE_PER_CALL: f64 = 0.2;
const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: api.test\r\nUser-Agent: counting\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn tap_and_records_allocate_nothing_for_a_call() {
    let backend = serve();
    let off = per_call(backend, "off", "none");
    let wanted = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let held = rustix::thread::capabilities(None).expect("a thread knows its own");
    let modes: &[&str] = if held.effective.contains(wanted) {
        &["tcp_info", "ebpf"]
    } else {
        eprintln!("SKIPPED for ebpf: this needs CAP_BPF and CAP_NET_ADMIN: run the tests as root");
        &["tcp_info"]
    };
    for tap in modes {
        let on = per_call(backend, tap, "/dev/null");
        assert!(
            on - off <= NOISE_PER_CALL,
            "{tap}: {on} allocations a call, {off} with tap and records off"
        );
    }
}

/// Allocations for each of many calls that come after as many others.
fn per_call(backend: SocketAddr, tap: &str, records: &str) -> f64 {
    let listen = free_address();
    let upstream = backend.to_string();
    let arguments = [
        "calltap",
        "run",
        "--workers",
        "1",
        "--admin",
        "127.0.0.1:0",
        "--listen",
        &listen.to_string(),
        "--upstream",
        &upstream,
        "--tap",
        tap,
        "--records",
        records,
    ];
    let mut gateway = Gateway::start(&arguments.join(" "));
    let mut client = connect(listen);
    for _ in 0..CALLS {
        call(&mut client);
    }
    let before = gateway.settled_count();
    for _ in 0..CALLS {
        call(&mut client);
    }
    let after = gateway.settled_count();
    (after - before) as f64 / f64::from(CALLS)
}

/// The process that is counted.
#[test]
#[ignore = "is the gateway of the test above, and starts nothing by itself"]
fn a_gateway_that_counts() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    let Asked::Run(arguments) = Cli::parse_from(arguments.split(' ')).command else {
        panic!("only `run` is counted");
    };
    thread::spawn(|| {
        for _ in std::io::stdin().lines() {
            let stats = COUNTING.stats();
            println!("{COUNT}{}", stats.allocations + stats.reallocations);
        }
        std::process::exit(0);
    });
    run::run(&arguments).expect("a gateway");
}

/// A process that runs it.
struct Gateway {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Gateway {
    fn start(arguments: &str) -> Self {
        let own = std::env::current_exe().expect("a test has a file");
        let name = "allocations::a_gateway_that_counts";
        let mut child = Command::new(own)
            .args(["--ignored", "--exact", name, "--nocapture"])
            .env(ARGUMENTS, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test that can be started");
        let says = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, says }
    }

    fn count(&mut self) -> usize {
        let mut stdin = self.child.stdin.as_ref().expect("piped");
        stdin.write_all(b"\n").expect("a gateway that lives");
        loop {
            let mut line = String::new();
            let bytes = self.says.read_line(&mut line).expect("text");
            assert!(bytes > 0, "the gateway ended");
            if let Some((_, count)) = line.split_once(COUNT) {
                return count.trim().parse().expect("a number");
            }
        }
    }

    /// Once the records of all calls are written and it has come to rest.
    fn settled_count(&mut self) -> usize {
        const REST: Duration = Duration::from_millis(100);
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.count();
        loop {
            thread::sleep(REST);
            let now = self.count();
            // What is said for the count itself, and now and then something of a timer's.
            if now - last < 10 {
                return now;
            }
            assert!(Instant::now() < deadline, "it does not come to rest");
            last = now;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Nothing more to say ends it, with its cgroup.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound")
}

/// Waits until somebody listens.
fn connect(address: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true).expect("a socket");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn call(client: &mut TcpStream) {
    client.write_all(REQUEST).expect("a gateway that reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok") {
        let mut some = [0; 1024];
        let bytes = client.read(&mut some).expect("a gateway that answers");
        assert!(bytes > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..bytes]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

/// A backend for as long as the test runs.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut some = [0; 4096];
                while let Ok(bytes @ 1..) = stream.read(&mut some) {
                    head.extend_from_slice(&some[..bytes]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        stream.write_all(ANSWER).expect("a gateway that reads");
                    }
                }
            });
        }
    });
    address
}
