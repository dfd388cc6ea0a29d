//! What a sweep costs: `cargo run --release -p calltap-policies --example watch`.
//!
//! Means over many sweeps of 10,000 live sockets and 4,096 networks, ms of processor time, the detectors'
//! part alone.

use std::net::{Ipv4Addr, SocketAddr};

use calltap_correlate::socket::{Handshakes, SocketCookie};
use calltap_policies::alert::{Alerts, Terms};
use calltap_policies::watch::{ClosedSocket, Doing, LiveSocket, Parting, SourceCounts, Watch};

const SOCKETS: u64 = 10_000;
const CLIENTS: u64 = 2_000;
const SOURCES: u32 = 4_096;
const SWEEPS: u64 = 1_000;
const SECOND_NS: u64 = 1_000_000_000;

fn main() {
    for (name, doing, clients, closed) in [
        ("idle", Doing::Idle, CLIENTS, 0),
        ("responses under way", Doing::Response, CLIENTS, 0),
        ("held by one client", Doing::Head, 1, 0),
        ("held by as many clients", Doing::Head, SOCKETS, 0),
        ("idle, and 10,000 ended", Doing::Idle, CLIENTS, SOCKETS),
    ] {
        println!("{name}: {:.2} ms a sweep", sweep_ms(doing, clients, closed));
    }
}

fn sweep_ms(doing: Doing, clients: u64, closed: u64) -> f64 {
    let mut watch = Watch::new(16_384);
    let mut alerts = Alerts::new(Terms::default(), 1, &[]);
    let begin_ns = processor_ns();
    for second in 1..=SWEEPS {
        let now_ns = (1_000 + second) * SECOND_NS;
        for nth in 0..SOCKETS {
            watch.socket(&socket(nth, clients, doing, second), now_ns);
        }
        for nth in 0..closed {
            let closed = ClosedSocket {
                peer: peer(nth % CLIENTS),
                listener: peer(0),
                calls: u32::from(nth.is_multiple_of(2)),
                parting: Parting::ByClient,
            };
            watch.closed(&closed, now_ns);
        }
        for nth in 0..SOURCES {
            let source = SourceCounts {
                network: Ipv4Addr::from(nth << 8).into(),
                bits: 24,
                handshakes: Handshakes {
                    begun: second,
                    established: second,
                    ..Handshakes::default()
                },
            };
            watch.source(&source, &mut alerts, now_ns);
        }
        watch.tick(&mut alerts, now_ns);
        alerts.tick(now_ns);
    }
    (processor_ns() - begin_ns) as f64 / 1e6 / SWEEPS as f64
}

/// What this thread has used: a machine that is busy otherwise does not count.
fn processor_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let used = text.split(' ').next().and_then(|used| used.parse().ok());
    used.expect("a number")
}

fn peer(client: u64) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(client as u32 + (10 << 24)).into(), 4000)
}

fn socket(nth: u64, clients: u64, doing: Doing, second: u64) -> LiveSocket {
    let is_response = doing == Doing::Response;
    LiveSocket {
        cookie: SocketCookie::new(nth + 1).expect("not zero"),
        peer: peer(nth % clients),
        listener: peer(0),
        accepted_ns: 1_000 * SECOND_NS,
        doing,
        since_ns: 1_000 * SECOND_NS,
        calls: u32::from(doing != Doing::Head),
        read_bytes: 100,
        written_bytes: second * 100_000,
        unread_bytes: Some(0),
        unacked_bytes: Some(if is_response { 50_000 } else { 0 }),
        blocked_since_ns: None,
        window_closed_since_ns: None,
    }
}
