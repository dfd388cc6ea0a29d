//! What is counted of connections before they are there: by listener and by network.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;

use calltap_correlate::socket::Handshakes;
use calltap_tap::Tap;
use calltap_tap::listeners::ListenerCounts;
use calltap_tap::netstat::SynPressure;
use rustix::net::{SendFlags, sendto};

use crate::forged::{FIN, RST, SYN, forged, raw_socket, v4};
use crate::support::{LOOPBACK, connect_from, eventually, in_own_network, tapped};

fn counts(tap: &Tap, listener: &TcpListener) -> ListenerCounts {
    let address = listener.local_addr().expect("it is bound");
    let found = tap
        .listeners()
        .into_iter()
        .find(|counts| counts.address == address);
    found.expect("a listener of ours is counted")
}

fn sources(tap: &Tap) -> BTreeMap<String, Handshakes> {
    let mut sources = BTreeMap::new();
    tap.sources(|source| {
        let name = format!("{}/{}", source.network, source.bits);
        sources.insert(name, source.handshakes);
    });
    sources
}

fn handshakes(begun: u64, established: u64, resets: u64, stray: u64) -> Handshakes {
    Handshakes {
        begun,
        established,
        resets,
        stray,
    }
}

struct Forger {
    raw: OwnedFd,
    to: SocketAddrV4,
}

impl Forger {
    fn against(listener: &TcpListener) -> Self {
        let to = v4(listener.local_addr().expect("it is bound"));
        Self {
            raw: raw_socket(),
            to,
        }
    }

    fn send(&self, from: Ipv4Addr, port: u16, flags: u8) {
        let packet = forged(SocketAddrV4::new(from, port), self.to, 1, 0, flags, b"");
        sendto(
            &self.raw,
            &packet,
            SendFlags::empty(),
            &SocketAddr::V4(self.to),
        )
        .expect("sent");
    }
}

#[test]
fn every_handshake_is_counted_where_it_came_and_whence() {
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        let v4 = tapped.listen(LOOPBACK);
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let both = tapped.listen(any);
        let not_ours = TcpListener::bind(LOOPBACK).expect("a port is free");
        let port = both.local_addr().expect("it is bound").port();
        let mut clients = Vec::new();
        for (from, to) in [
            ("127.0.0.5", v4.local_addr().unwrap()),
            ("127.0.0.6", v4.local_addr().unwrap()),
            ("127.9.0.1", v4.local_addr().unwrap()),
            ("::1", SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)),
            (
                "127.9.0.1",
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            ),
            ("127.8.0.1", not_ours.local_addr().unwrap()),
        ] {
            clients.push(connect_from(from.parse().unwrap(), to).expect("we listen"));
        }
        for (listener, connected) in [(&v4, 3), (&both, 2)] {
            let counts = counts(&tapped.tap, listener);
            assert_eq!(counts.syns, connected);
            assert_eq!(counts.handshakes, handshakes(connected, connected, 0, 0));
        }
        let expected = [("127.0.0.0/24", 2), ("127.9.0.0/24", 2), ("::/48", 1)];
        let expected = expected.map(|(name, n)| (name.to_owned(), handshakes(n, n, 0, 0)));
        assert_eq!(sources(&tapped.tap), BTreeMap::from(expected));
    });
}

#[test]
fn a_scan_that_never_completes_is_told_from_a_connection() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let forger = Forger::against(&listener);
        let scanner = Ipv4Addr::new(127, 3, 2, 1);
        for port in 2000..2010 {
            // Nobody there has asked for an answer, so the kernel there resets it, as a scanner does.
            forger.send(scanner, port, SYN);
        }
        for flags in [0, FIN, FIN | 0x20 | 0x08] {
            forger.send(scanner, 3000, flags);
        }
        forger.send(scanner, 3001, RST);
        let _client = connect_from(scanner.into(), listener.local_addr().unwrap());
        eventually("each is counted", || {
            let source = sources(&tapped.tap).remove("127.3.2.0/24");
            source == Some(handshakes(11, 1, 11, 3))
        });
        let counts = counts(&tapped.tap, &listener);
        assert_eq!(counts.syns, 11);
        assert_eq!(counts.handshakes, handshakes(11, 1, 11, 3));
    });
}

#[test]
fn a_storm_of_networks_pushes_out_none_that_comes_more_often() {
    const NETWORKS: u32 = 20_000;
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let to = listener.local_addr().expect("it is bound");
        let mut clients = Vec::new();
        for last in 0..20 {
            let from = Ipv4Addr::new(127, 255, 255, last + 1).into();
            clients.push(connect_from(from, to).expect("we listen"));
        }
        let forger = Forger::against(&listener);
        for network in 0..NETWORKS {
            let [_, a, b, c] = network.to_be_bytes();
            forger.send(Ipv4Addr::new(127, 1 + a, b, c), 4000, SYN);
        }
        eventually("all SYNs are counted", || {
            counts(&tapped.tap, &listener).syns == u64::from(NETWORKS) + 20
        });
        let sources = sources(&tapped.tap);
        assert_eq!(sources["127.255.255.0/24"], handshakes(20, 20, 0, 0));
        assert!(sources.len() <= 4096, "{}", sources.len());
    });
}

#[test]
fn under_syn_cookies_no_handshake_begins_but_all_else_is_counted() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        // Always, not only when the queue is full.
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").expect("a network of our own");
        let before = SynPressure::read().expect("/proc is there");
        let listener = tapped.listen(LOOPBACK);
        let scanner = Ipv4Addr::new(127, 3, 2, 1);
        Forger::against(&listener).send(scanner, 2000, SYN);
        let _client =
            connect_from(scanner.into(), listener.local_addr().unwrap()).expect("we listen");
        eventually("each is counted", || {
            counts(&tapped.tap, &listener).handshakes == handshakes(0, 1, 1, 0)
        });
        assert_eq!(counts(&tapped.tap, &listener).syns, 2);
        let after = SynPressure::read().expect("/proc is there");
        assert_eq!(after.cookies_sent - before.cookies_sent, 2);
    });
}
