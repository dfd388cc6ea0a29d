//! The programs on the kernel we run on, socket by socket.

mod support;

use std::net::TcpListener;

use calltap_tap::{monotonic_ns, tcp_info};
use support::{LOOPBACK, cookie_of, eventually, tapped, transfer};

#[test]
fn a_connection_is_followed_from_its_syn_to_its_last_byte() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let before = monotonic_ns();
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    let identity = ledger.identity().expect("it is established");
    assert_eq!(identity.local, ours.local_addr().unwrap());
    assert_eq!(identity.peer, client.local_addr().unwrap());
    let (syn_ns, established_ns) = (identity.syn_ns.unwrap(), identity.established_ns.unwrap());
    assert!(before <= syn_ns && syn_ns <= established_ns && established_ns <= monotonic_ns());

    transfer(&mut client, &mut ours, 500);
    transfer(&mut ours, &mut client, 70_000);
    transfer(&mut client, &mut ours, 300);
    transfer(&mut ours, &mut client, 10);
    eventually("all is acknowledged", || ledger.acked_offset() == 70_010);
    let sent = ledger.sent(&(0..70_010));
    let ends: Vec<_> = sent.turns.iter().map(|turn| turn.end_offset).collect();
    assert_eq!(ends, [70_000, 70_010]);
    let received = ledger.received(&(0..800));
    let ends: Vec<_> = received.turns.iter().map(|turn| turn.end_offset).collect();
    assert_eq!(ends, [500, 800]);
    let of_the_socket = tcp_info::counters(&ours, 0).unwrap();
    let of_the_ledger = ledger.counters(0);
    assert_eq!(
        of_the_ledger.sent.unwrap().offset,
        of_the_socket.sent.unwrap().offset
    );
    assert_eq!(
        of_the_ledger.received.unwrap().offset,
        of_the_socket.received.unwrap().offset
    );
}

#[test]
fn an_announced_upstream_is_followed_from_its_connect() {
    let Some(tapped) = tapped(16) else { return };
    let backend = TcpListener::bind(LOOPBACK).unwrap();
    let before = monotonic_ns();
    let (mut ours, ledger) = tapped.connect(backend.local_addr().unwrap());
    let (mut server, _) = backend.accept().unwrap();

    let identity = ledger.identity().unwrap();
    assert_eq!(identity.local, ours.local_addr().unwrap());
    assert_eq!(identity.peer, backend.local_addr().unwrap());
    let (syn_ns, established_ns) = (identity.syn_ns.unwrap(), identity.established_ns.unwrap());
    assert!(before <= syn_ns && syn_ns <= established_ns && established_ns <= monotonic_ns());

    transfer(&mut ours, &mut server, 1234);
    transfer(&mut server, &mut ours, 99);
    assert_eq!((ledger.sent_offset(), ledger.received_offset()), (1234, 99));
    // The backend's end is in the same cgroup, and nobody asked for it.
    assert!(tapped.tap.ledger(cookie_of(&server)).is_none());
    assert_eq!(tapped.dropped("no_slot"), 0);
}
