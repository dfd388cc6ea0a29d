//! What a sweep costs: `cargo run --release -p calltap-policies --example watch`.
//!
//! Medians of many sweeps of 10,000 live sockets, ms, the detectors' part alone: idle ones of 2,000
//! clients; the same with 10,000 responses under way; and an attack that holds all of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use calltap_correlate::socket::{Handshakes, SocketCookie};
use calltap_policies::alert::{Alerts, Terms};
use calltap_policies::watch::{ClosedSocket, Doing, LiveSocket, Parting, SourceCounts, Watch};

const SOCKETS: u64 = 10_000;
const CLIENTS: u64 = 2_000;
const SOURCES: u32 = 4_096;
const SWEEPS: u64 = 121;
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
    let mut watch = Watch::new(Watch::SOURCES_MAX);
    let mut alerts = Alerts::new(Terms::default(), 1, &[]);
    let mut sweeps: Vec<f64> = (1..=SWEEPS)
        .map(|second| {
            let now_ns = (1_000 + second) * SECOND_NS;
            let begin = Instant::now();
            for nth in 0..SOCKETS {
                watch.socket(&socket(nth, clients, doing, second), now_ns);
            }
            for nth in 0..closed {
                let closed = ClosedSocket {
                    peer: peer(nth % CLIENTS),
                    listener: peer(0),
                    calls: u32::from(nth % 2 == 0),
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
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    sweeps.sort_by(f64::total_cmp);
    sweeps[sweeps.len() / 2]
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
