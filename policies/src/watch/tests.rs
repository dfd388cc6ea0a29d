//! The detectors over simulated seconds: what is to be told of within how many, and what never.

use std::net::Ipv4Addr;

use super::*;
use crate::alert::{Change, Terms};
use crate::detect::Detector;

const SECOND_NS: u64 = 1_000_000_000;

/// A connection of the simulation: it was accepted at some second, and is shown as it would be then.
struct Connection {
    client: Ipv4Addr,
    accepted_s: u64,
    doing: Doing,
    calls: u32,
    /// Bytes it gets on by each second.
    read_per_s: u64,
    acked_per_s: u64,
    unread: u64,
    waiting: u64,
    is_window_closed: bool,
}

struct World {
    watch: Watch,
    alerts: Alerts,
    second: u64,
    connections: Vec<Connection>,
    told: Vec<(u64, Change, Detector, String)>,
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

impl World {
    fn new() -> Self {
        Self {
            watch: Watch::new(1024),
            alerts: Alerts::new(Terms::default(), 1, &[]),
            second: 1000,
            connections: Vec::new(),
            told: Vec::new(),
        }
    }

    fn open(&mut self, client: &str, number: usize, doing: Doing, calls: u32) -> &mut [Connection] {
        let first = self.connections.len();
        for _ in 0..number {
            self.connections.push(Connection {
                client: ip(client),
                accepted_s: self.second,
                doing,
                calls,
                read_per_s: 0,
                acked_per_s: 0,
                unread: 0,
                waiting: 0,
                is_window_closed: false,
            });
        }
        &mut self.connections[first..]
    }

    fn close(&mut self, client: Ipv4Addr, number: usize, calls: u32, parting: Parting) {
        for _ in 0..number {
            self.close_at(listener().port(), client, calls, parting);
        }
    }

    fn close_at(&mut self, port: u16, client: Ipv4Addr, calls: u32, parting: Parting) {
        let closed = ClosedSocket {
            peer: SocketAddr::new(client.into(), 1),
            listener: SocketAddr::new(listener().ip(), port),
            calls,
            parting,
        };
        self.watch.closed(&closed, self.second * SECOND_NS);
    }

    /// A second passes, and is swept.
    fn pass(&mut self) {
        self.second += 1;
        let now_ns = self.second * SECOND_NS;
        for (at, connection) in self.connections.iter().enumerate() {
            let age_s = self.second - connection.accepted_s;
            let acked = connection.acked_per_s * age_s;
            let live = LiveSocket {
                cookie: SocketCookie::new(at as u64 + 1).expect("not zero"),
                peer: SocketAddr::new(connection.client.into(), 1),
                listener: listener(),
                accepted_ns: connection.accepted_s * SECOND_NS,
                doing: connection.doing,
                since_ns: connection.accepted_s * SECOND_NS,
                calls: connection.calls,
                read_bytes: 100 + connection.read_per_s * age_s,
                written_bytes: acked + connection.waiting,
                unread_bytes: Some(connection.unread),
                unacked_bytes: Some(connection.waiting),
                blocked_since_ns: None,
                window_closed_since_ns: connection.is_window_closed.then_some(now_ns - 1),
            };
            self.watch.socket(&live, now_ns);
        }
        self.watch.tick(&mut self.alerts, now_ns);
        self.alerts.tick(now_ns);
        let (second, told) = (self.second, &mut self.told);
        self.alerts.take(|change, alert| {
            told.push((second, change, alert.detector, alert.subject.to_string()));
        });
    }

    /// How long it takes until this is told of, at most so many seconds.
    #[track_caller]
    fn delay(&mut self, detector: Detector, subject: &str, most_s: u64) -> u64 {
        let begin = self.second;
        while self.second < begin + most_s {
            self.pass();
            let found = self.told.iter().any(|(at, change, who, whom)| {
                *at == self.second
                    && *change == Change::Opened
                    && (*who, whom.as_str()) == (detector, subject)
            });
            if found {
                return self.second - begin;
            }
        }
        panic!(
            "{subject} was not told of in {most_s} s, but {:?}",
            self.told
        );
    }

    #[track_caller]
    fn expect_silence(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass();
        }
        assert!(self.told.is_empty(), "{:?}", self.told);
    }
}

fn listener() -> SocketAddr {
    "192.0.2.1:443".parse().expect("an address")
}

/// What happens all the time: none of it is an attack.
fn usual_clients(world: &mut World) {
    for client in 0..200 {
        // Browsers, with connections kept alive and one or two that they opened in advance.
        let address = format!("10.1.{}.{}", client / 8, client);
        world.open(&address, 4, Doing::Idle, 3);
        world.open(&address, 2, Doing::Idle, 0);
    }
    // Long polls, WebSockets and events, many of one client.
    world.open("10.2.0.1", 300, Doing::Upstream, 1);
    world.open("10.2.0.2", 300, Doing::Upgraded, 1);
    world.open("10.2.0.3", 300, Doing::Response, 1);
    // A phone in a tunnel, with all its uploads stalled; somebody else whose one upload is slow.
    world.open("10.3.0.1", 6, Doing::Body, 1);
    world.open("10.3.0.2", 1, Doing::Body, 1)[0].read_per_s = 3;
    // An upstream that takes nothing of forty uploads.
    for upload in world.open("10.3.0.3", 40, Doing::Body, 1) {
        upload.unread = 4096;
    }
    // Large downloads: many at a trickle because the network is bad, some paused, some just slow.
    for download in world.open("10.4.0.1", 100, Doing::Response, 1) {
        download.waiting = 50_000;
    }
    for download in world.open("10.4.0.2", 6, Doing::Response, 1) {
        (download.waiting, download.is_window_closed) = (50_000, true);
    }
    for download in world.open("10.4.0.3", 100, Doing::Response, 1) {
        (download.waiting, download.is_window_closed) = (50_000, true);
        download.acked_per_s = 20_000;
    }
}

#[test]
fn usual_clients_raise_no_alert() {
    let mut world = World::new();
    usual_clients(&mut world);
    for _ in 0..600 {
        // Health checks and probes of load balancers; a script with a connection for each call; browsers
        // that gave up connections they had opened in advance.
        for balancer in 1..=4 {
            world.close(Ipv4Addr::new(10, 9, 0, balancer), 1, 0, Parting::ByClient);
        }
        world.close(ip("10.9.0.5"), 1, 1, Parting::ByClient);
        world.close(ip("10.9.0.6"), 500, 1, Parting::ByClient);
        let browser = Ipv4Addr::new(10, 1, 0, (world.second % 200) as u8);
        world.close(browser, 6, 0, Parting::Other);
        world.expect_silence(1);
    }
}

#[test]
fn held_heads_are_told_of_within_ten_seconds_even_when_nothing_is_known() {
    let mut world = World::new();
    world.open("203.0.113.9", 200, Doing::Head, 0);
    assert!(world.delay(Detector::SlowRequest, "203.0.113.9", 10) <= 10);
    let alert = world.alerts.iter().next().expect("it is open");
    assert_eq!(alert.source, Some(ip("203.0.113.9").into()));
    assert_eq!(alert.observed, 200.0);
}

type Hold = fn(&mut World);

#[test]
fn each_way_to_hold_connections_is_told_of_among_usual_clients() {
    let hold: [(Detector, Hold); 5] = [
        (Detector::SlowRequest, |world| {
            world.open("203.0.113.9", 300, Doing::Idle, 0);
        }),
        (Detector::SlowRequest, |world| {
            world.open("203.0.113.9", 100, Doing::Head, 0);
        }),
        (Detector::SlowRequest, |world| {
            world.open("203.0.113.9", 100, Doing::Securing, 0);
        }),
        (Detector::SlowRequest, |world| {
            for body in world.open("203.0.113.9", 100, Doing::Body, 1) {
                body.read_per_s = 10;
            }
        }),
        (Detector::SlowRead, |world| {
            for read in world.open("203.0.113.9", 100, Doing::Response, 1) {
                (read.waiting, read.is_window_closed, read.acked_per_s) = (9_000, true, 6);
            }
        }),
    ];
    for (detector, hold) in hold {
        let mut world = World::new();
        usual_clients(&mut world);
        world.expect_silence(100);
        hold(&mut world);
        assert!(world.delay(detector, "203.0.113.9", 30) <= 15);
    }
}

#[test]
fn a_gateway_that_ends_held_connections_is_under_attack_all_the_same() {
    let mut world = World::new();
    for _ in 0..60 {
        // Two begin each second; each is ended after ten.
        world.open("203.0.113.9", 6, Doing::Head, 0);
        let now_s = world.second;
        let before = world.connections.len();
        world
            .connections
            .retain(|held| held.accepted_s + 10 > now_s);
        let ended = before - world.connections.len();
        world.close(ip("203.0.113.9"), ended, 0, Parting::TimedOut);
        world.pass();
    }
    let alert = world.alerts.iter().next().expect("it is told of");
    assert_eq!(alert.detector, Detector::SlowRequest);
    // More than are there at any time.
    assert!(alert.observed > 100.0, "{}", alert.observed);
}

#[test]
fn a_network_of_clients_with_few_connections_each_is_told_of_as_one() {
    let mut world = World::new();
    for client in 0..40 {
        world.open(&format!("203.0.113.{client}"), 6, Doing::Head, 0);
    }
    world.delay(Detector::SlowRequest, "203.0.113.0/24", 20);
    let alert = world.alerts.iter().next().expect("it is open");
    assert_eq!(alert.source, None);
    assert!(
        alert.summary.contains("from 40 addresses"),
        "{}",
        alert.summary
    );
}

#[test]
fn an_attack_that_lasts_does_not_become_usual() {
    let mut world = World::new();
    usual_clients(&mut world);
    world.open("203.0.113.9", 200, Doing::Head, 0);
    world.delay(Detector::SlowRequest, "203.0.113.9", 20);
    for _ in 0..900 {
        world.pass();
    }
    let resolved = |world: &World| {
        let resolved = |(_, change, _, _): &&(u64, Change, _, _)| *change == Change::Resolved;
        world.told.iter().filter(resolved).count()
    };
    assert_eq!(resolved(&world), 0);
    world.open("198.51.100.7", 100, Doing::Head, 0);
    world.delay(Detector::SlowRequest, "198.51.100.7", 20);
    world.connections.clear();
    for _ in 0..120 {
        world.pass();
    }
    assert_eq!(resolved(&world), 2);
}

#[test]
fn connections_without_calls_are_told_of_within_a_span() {
    let mut world = World::new();
    usual_clients(&mut world);
    world.expect_silence(60);
    for _ in 0..10 {
        world.close(ip("203.0.113.9"), 30, 0, Parting::ByClient);
        world.pass();
    }
    let (_, _, detector, subject) = world.told.first().expect("it is told of");
    assert_eq!(
        (*detector, subject.as_str()),
        (Detector::ConnectionChurn, "203.0.113.9")
    );
}

/// A network's handshakes so far, shown each second.
#[test]
fn who_connects_to_one_listener_after_the_other_and_calls_none_scans() {
    let mut world = World::new();
    usual_clients(&mut world);
    for _ in 0..60 {
        world.pass();
    }
    // Somebody with calls everywhere, and one whose browser opened a connection in advance.
    for port in 1..=16 {
        world.close_at(port, ip("10.9.0.5"), 3, Parting::ByClient);
        world.close_at(1, ip("10.9.0.7"), 0, Parting::ByClient);
    }
    world.expect_silence(5);
    for port in 1..=16 {
        world.close_at(port, ip("203.0.113.9"), 0, Parting::ByClient);
    }
    let delay = world.delay(Detector::ListenerScan, "203.0.113.9", 2);
    assert!(delay <= 1, "{delay} s");
    // A balancer that goes on so is told of once.
    let before = world.told.len();
    for _ in 0..4_000 {
        for port in 1..=8 {
            world.close_at(port, ip("203.0.113.9"), 0, Parting::ByClient);
            world.close_at(port, ip("10.9.0.5"), 2, Parting::ByClient);
        }
        world.pass();
    }
    let later = &world.told[before..];
    let opened = later.iter().filter(|(_, change, detector, _)| {
        (*change, *detector) == (Change::Opened, Detector::ListenerScan)
    });
    assert_eq!(opened.count(), 0, "{later:?}");
}

fn scan(seconds: u64, each: impl Fn(u64) -> Handshakes) -> Alerts {
    let mut watch = Watch::new(1024);
    let mut alerts = Alerts::new(Terms::default(), 1, &[]);
    for second in 1..=seconds {
        let source = SourceCounts {
            network: ip("203.0.113.0").into(),
            bits: 24,
            handshakes: each(second),
        };
        let now_ns = second * SECOND_NS;
        watch.source(&source, &mut alerts, now_ns);
        watch.tick(&mut alerts, now_ns);
        alerts.tick(now_ns);
    }
    alerts
}

fn handshakes(begun: u64, established: u64, resets: u64) -> Handshakes {
    Handshakes {
        begun,
        established,
        resets,
        stray: 0,
    }
}

#[test]
fn a_network_that_never_completes_a_handshake_scans() {
    // One a second, reset or left alone; or eight at once.
    for each in [
        (|second| handshakes(second, 0, second)) as fn(u64) -> Handshakes,
        |second| handshakes(second, 0, 0),
        |_| handshakes(8, 0, 8),
        // Among others who do complete theirs.
        |second| handshakes(1_020 * second, 20 * second, 1_000 * second),
        |_| Handshakes {
            stray: 8,
            ..Handshakes::default()
        },
    ] {
        let alerts = scan(10, each);
        let alert = alerts.iter().next().expect("it is told of");
        assert_eq!(alert.detector, Detector::HalfOpen);
        assert_eq!(alert.subject.to_string(), "203.0.113.0/24");
        assert_eq!(alert.source, None);
    }
}

#[test]
fn who_changes_his_mind_now_and_then_does_not_scan() {
    // Races of two connections, of which one is given up; a lossy network that completes a second later
    // than it began; a single touch; and one with nothing but connections.
    for each in [
        (|second| handshakes(20 * second, 14 * second, 6 * second)) as fn(u64) -> Handshakes,
        |second| handshakes(10 * second, 10 * second.saturating_sub(1), 0),
        |_| handshakes(2, 0, 2),
        |second| handshakes(1000 * second, 1000 * second, 0),
    ] {
        assert_eq!(scan(600, each).iter().count(), 0);
    }
}

#[test]
fn a_probe_of_half_handshakes_is_told_of_once() {
    let probe = |second| handshakes(second / 5, 0, second / 5);
    let early = scan(600, probe);
    assert_eq!(early.iter().count(), 1);
    let late = scan(3 * 3600, probe);
    let open = late.iter().filter(|alert| alert.resolved_ns.is_none());
    assert_eq!(open.count(), 0);
}

/// A listener that gets so many SYNs and connections each second, after ten minutes with 100 of both.
fn flood(seconds: u64, syns: u64, connections: u64, overflows: u64) -> Alerts {
    let mut watch = Watch::new(16);
    let mut alerts = Alerts::new(Terms::default(), 1, &[]);
    let mut counts = ListenerCounts {
        address: listener(),
        syns: 0,
        handshakes: Handshakes::default(),
    };
    let mut pressure = Pressure::default();
    for second in 1..=600 + seconds {
        let is_usual = second <= 600;
        counts.syns += if is_usual { 101 } else { syns };
        counts.handshakes.established += if is_usual { 100 } else { connections };
        pressure.overflows += if is_usual { 0 } else { overflows };
        let now_ns = second * SECOND_NS;
        watch.listeners(&[counts], Some(pressure), &mut alerts, now_ns);
        alerts.tick(now_ns);
    }
    alerts
}

#[test]
fn syns_without_connections_are_a_flood_and_a_peak_is_none() {
    for (why, seconds, syns, connections, overflows, is_flood) in [
        ("a flood beside the usual", 2, 5_100, 100, 0, true),
        ("nothing but a flood", 2, 1_000, 0, 0, true),
        ("a small one", 10, 160, 100, 0, true),
        ("a peak", 60, 3_000, 2_900, 0, false),
        ("our own queue is full", 60, 900, 300, 600, false),
        ("the same as ever", 600, 101, 100, 0, false),
        ("some are lost", 60, 110, 100, 0, false),
    ] {
        let alerts = flood(seconds, syns, connections, overflows);
        assert_eq!(alerts.iter().count() == 1, is_flood, "{why}");
        for alert in alerts.iter() {
            assert_eq!(alert.detector, Detector::SynFlood);
            assert_eq!(alert.source, None);
        }
    }
}

#[test]
fn a_million_sources_cost_no_more_than_there_is_room_for() {
    let mut world = World::new();
    for source in 0..1_000_000_u32 {
        world.close(Ipv4Addr::from(source << 8), 5, 0, Parting::ByClient);
    }
    world.pass();
    // Whoever comes when all are gone is known again.
    for _ in 0..20 {
        world.pass();
    }
    world.told.clear();
    world.open("203.0.113.9", 200, Doing::Head, 0);
    world.delay(Detector::SlowRequest, "203.0.113.9", 20);
}
