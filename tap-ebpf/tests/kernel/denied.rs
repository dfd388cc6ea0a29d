//! Packets from denied networks: which are dropped, and which never are.

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use calltap_tap::denied::{DenyError, Hits, Row};
use calltap_tap::{Tap, TapOptions};

use crate::support::{LOOPBACK, connect_from, eventually, in_own_network, run, tapped, transfer};

const ANY_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
/// IP header, TCP header and options of a SYN as Linux sends it.
const SYN_BYTES_V4: u64 = 60;

fn row(network: &str, denied: bool) -> Row {
    let (first, bits) = network.split_once('/').expect("a network");
    Row {
        first: first.parse().expect("an address"),
        bits: bits.parse().expect("a number"),
        denied,
    }
}

fn deny(tap: &Tap, networks: &[&str]) {
    let rows = networks.iter().map(|network| row(network, true));
    tap.deny(rows).expect("there is room");
}

fn hits(tap: &Tap, network: &str) -> Hits {
    let Row { first, bits, .. } = row(network, true);
    tap.denied_hits([(first, bits)].into_iter())[0]
}

/// Whether a client at this address gets an answer.
#[track_caller]
fn is_answered(from: &str, listener: &TcpListener) -> bool {
    let from = from.parse().expect("an address");
    let mut to = listener.local_addr().expect("it is bound");
    if to.ip().is_unspecified() {
        // From one's own address to itself, over either protocol.
        to.set_ip(from);
    }
    match connect_from(from, to) {
        Ok(_client) => {
            let (_, peer) = listener.accept().expect("it connected");
            assert_eq!(peer.ip().to_canonical(), from);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            false
        }
    }
}

#[test]
fn a_denied_source_gets_no_answer_until_it_is_denied_no_more() {
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        deny(&tapped.tap, &["127.0.0.2/32", "127.1.0.0/16"]);
        for (from, answered) in [
            ("127.0.0.2", false),
            ("127.0.0.3", true),
            ("127.1.2.3", false),
            ("127.2.0.1", true),
        ] {
            assert_eq!(is_answered(from, &listener), answered, "{from}");
        }
        let Hits { packets, bytes } = hits(&tapped.tap, "127.0.0.2/32");
        assert!(packets > 0);
        assert_eq!(bytes, packets * SYN_BYTES_V4);
        assert_eq!(hits(&tapped.tap, "127.0.0.3/32"), Hits::default());

        deny(&tapped.tap, &[]);
        assert!(is_answered("127.0.0.2", &listener));
        assert!(is_answered("127.1.2.3", &listener));
    });
}

#[test]
fn the_longest_prefix_decides_and_may_let_through() {
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let rows = [
            row("0.0.0.0/0", true),
            row("127.0.0.0/8", true),
            row("127.3.0.0/16", false),
            row("127.0.0.9/32", false),
        ];
        tapped.tap.deny(rows.into_iter()).unwrap();
        for (from, answered) in [
            ("127.0.0.2", false),
            ("127.3.0.2", true),
            ("127.0.0.9", true),
            ("127.0.0.8", false),
        ] {
            assert_eq!(is_answered(from, &listener), answered, "{from}");
        }
        // Those were all of the packets, and only the longest prefix counts one.
        let total = hits(&tapped.tap, "127.0.0.0/8");
        assert_eq!(hits(&tapped.tap, "0.0.0.0/0"), Hits::default());
        assert_eq!(tapped.tap.denied_total(), total);
    });
}

#[test]
fn both_protocols_are_denied_on_one_listener() {
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        for address in ["fd00::2/128", "fd00:1::2/128", "fd00::3/128"] {
            run("ip", &["addr", "add", address, "dev", "lo"]);
        }
        let listener = tapped.listen(ANY_V6);
        deny(&tapped.tap, &["127.0.0.2/32", "fd00::2/128", "fd00:1::/32"]);
        for (from, answered) in [
            ("127.0.0.2", false),
            ("127.0.0.3", true),
            ("fd00::2", false),
            ("fd00::3", true),
            ("fd00:1::2", false),
        ] {
            assert_eq!(is_answered(from, &listener), answered, "{from}");
        }
        assert!(hits(&tapped.tap, "fd00:1::/32").packets > 0);
    });
}

#[test]
fn a_live_connection_is_heard_no_more() {
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let (mut client, _ours, ledger) = tapped.pair(&listener);
        client.write_all(b"before").unwrap();
        eventually("it arrived", || ledger.received_offset() == 6);
        deny(&tapped.tap, &["127.0.0.1/32"]);
        client.write_all(b"after").unwrap();
        eventually("it was dropped", || tapped.tap.denied_total().packets > 0);
        assert_eq!(ledger.received_offset(), 6);
    });
}

#[test]
fn upstreams_and_the_sockets_of_others_are_not_touched() {
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        let (backend, admin) = (
            TcpListener::bind(LOOPBACK).unwrap(),
            TcpListener::bind(LOOPBACK).unwrap(),
        );
        let (mut before, _) = tapped.connect(backend.local_addr().unwrap());
        let (mut before_server, _) = backend.accept().unwrap();
        deny(&tapped.tap, &["0.0.0.0/0"]);

        let (mut after, ledger) = tapped.connect(backend.local_addr().unwrap());
        let (mut after_server, _) = backend.accept().unwrap();
        let mut scraper = TcpStream::connect(admin.local_addr().unwrap()).unwrap();
        let (mut scraped, _) = admin.accept().unwrap();
        for (one, other) in [
            (&mut before, &mut before_server),
            (&mut after, &mut after_server),
            (&mut scraper, &mut scraped),
        ] {
            transfer(one, other, 1000);
            transfer(other, one, 1000);
        }
        assert_eq!(ledger.received_offset(), 1000);
        assert_eq!(tapped.tap.denied_total(), Hits::default());
        // While ours is denied to the same addresses.
        assert!(!is_answered("127.0.0.1", &tapped.listen(LOOPBACK)));
    });
}

#[test]
fn lists_are_exchanged_under_load_without_a_packet_lost() {
    const EXCHANGES: u32 = 200;
    const OTHERS: u32 = 500;
    let Some(tapped) = tapped(1024) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let to = listener.local_addr().unwrap();
        let done = AtomicBool::new(false);
        // All are denied but those who call: whatever is counted was one of their packets.
        let lists = |n: u32| {
            let other = move |i: u32| Row {
                first: IpAddr::from((0x0a00_0000 + (n % 3) * OTHERS / 2 + i).to_be_bytes()),
                bits: 32,
                denied: true,
            };
            let around = if n.is_multiple_of(2) {
                "0.0.0.0/0"
            } else {
                "127.0.0.0/8"
            };
            (0..OTHERS).map(other).chain([
                row(around, true),
                row("127.0.0.3/32", false),
                row("127.0.0.1/32", false),
            ])
        };
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut calls = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    let mut client = connect_from([127, 0, 0, 3].into(), to).unwrap();
                    let (mut ours, _) = listener.accept().unwrap();
                    transfer(&mut client, &mut ours, 2000);
                    transfer(&mut ours, &mut client, 2000);
                    calls += 1;
                }
                calls
            });
            for n in 0..EXCHANGES {
                tapped.tap.deny(lists(n)).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(load.join().unwrap() > 0);
        });
        assert_eq!(tapped.tap.denied_total(), Hits::default());
        assert!(!is_answered("127.0.0.2", &listener));
    });
}

#[test]
fn what_was_counted_stays_counted() {
    let Some(tapped) = tapped(64) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        deny(&tapped.tap, &["127.0.0.2/32", "127.0.0.3/32"]);
        assert!(!is_answered("127.0.0.2", &listener));
        assert!(!is_answered("127.0.0.3", &listener));
        let (two, three) = (
            hits(&tapped.tap, "127.0.0.2/32"),
            hits(&tapped.tap, "127.0.0.3/32"),
        );
        let total = tapped.tap.denied_total();
        assert_eq!(total.packets, two.packets + three.packets);
        // One stays, one goes and comes again, others have its place meanwhile.
        deny(&tapped.tap, &["127.0.0.2/32", "10.0.0.0/8"]);
        deny(&tapped.tap, &["127.0.0.2/32", "11.0.0.0/8", "12.0.0.0/8"]);
        assert_eq!(hits(&tapped.tap, "12.0.0.0/8"), Hits::default());
        deny(&tapped.tap, &["127.0.0.2/32", "127.0.0.3/32"]);
        assert_eq!(hits(&tapped.tap, "127.0.0.2/32"), two);
        assert_eq!(hits(&tapped.tap, "127.0.0.3/32"), Hits::default());
        assert_eq!(tapped.tap.denied_total(), total);
    });
}

#[test]
fn a_list_that_is_too_long_leaves_the_one_before() {
    let Some(tapped) = tapped(64) else { return };
    let _turn = tapped.stop();
    let small = Tap::start(&TapOptions {
        denied_max: 2,
        ..TapOptions::default()
    })
    .unwrap();
    in_own_network(|| {
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        small
            .own_listener(std::os::fd::AsFd::as_fd(&listener))
            .unwrap();
        deny(&small, &["127.0.0.2/32", "127.0.0.3/32"]);
        let three = ["127.0.0.4/32", "127.0.0.5/32", "127.0.0.6/32"];
        let refused = small.deny(three.iter().map(|network| row(network, true)));
        assert!(
            matches!(refused, Err(DenyError::TooMany { max: 2 })),
            "{refused:?}"
        );
        assert!(!is_answered("127.0.0.2", &listener));
        assert!(is_answered("127.0.0.4", &listener));
        // A list of the same length that has nothing in common with it fits, again and again.
        for _ in 0..3 {
            deny(&small, &["127.0.0.4/32", "127.0.0.5/32"]);
            deny(&small, &["127.0.0.2/32", "127.0.0.3/32"]);
        }
        assert!(!is_answered("127.0.0.3", &listener));
        assert!(is_answered("127.0.0.5", &listener));
    });
}
