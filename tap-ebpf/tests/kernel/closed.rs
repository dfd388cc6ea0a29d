//! How connections end: what came first.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use calltap_correlate::socket::Close;
use calltap_tap::{Ledger, tcp_info};

use crate::support::{
    LOOPBACK, Tapped, eventually, filter, filter_nothing, in_own_network, reset_on_close,
    set_option, tapped, transfer, unconnected,
};

/// Both ends of a connection; the first is ours.
type Ends = (TcpStream, TcpStream);

/// Ends a connection that was in use and checks what is said about it.
#[track_caller]
fn check(tapped: &Tapped, end: impl FnOnce(Ends) -> Option<Ends>, expected: Close) {
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    transfer(&mut client, &mut ours, 10);
    transfer(&mut ours, &mut client, 10);
    assert_eq!(ledger.counters(0).close, None);
    let _kept_open = end((ours, client));
    check_ended(&ledger, expected);
}

#[track_caller]
fn check_ended(ledger: &Ledger, expected: Close) {
    eventually("how it ended is known", || {
        ledger.counters(0).close.is_some()
    });
    assert_eq!(ledger.counters(0).close, Some(expected));
}

#[test]
fn the_first_fin_or_reset_is_what_counts() {
    let Some(tapped) = tapped(64) else { return };
    check(
        &tapped,
        |(ours, client)| {
            drop(client);
            Some((ours.try_clone().unwrap(), ours))
        },
        Close::FinPeer,
    );
    check(
        &tapped,
        |(ours, client)| {
            ours.shutdown(Shutdown::Write).unwrap();
            Some((ours, client))
        },
        Close::FinLocal,
    );
    check(
        &tapped,
        |(ours, client)| {
            ours.shutdown(Shutdown::Write).unwrap();
            reset_on_close(&client);
            drop(client);
            Some((ours.try_clone().unwrap(), ours))
        },
        Close::FinLocal,
    );
    check(
        &tapped,
        |(ours, client)| {
            reset_on_close(&client);
            drop(client);
            Some((ours.try_clone().unwrap(), ours))
        },
        Close::RstIn,
    );
    check(
        &tapped,
        |(ours, client)| {
            reset_on_close(&ours);
            drop(ours);
            Some((client.try_clone().unwrap(), client))
        },
        Close::RstOut,
    );
    // Closing with something unread resets as well.
    check(
        &tapped,
        |(ours, mut client)| {
            client.write_all(b"unread").unwrap();
            eventually("it arrived", || {
                let counters = tcp_info::counters(&ours, 0).unwrap();
                counters.received.unwrap().offset == 16
            });
            drop(ours);
            Some((client.try_clone().unwrap(), client))
        },
        Close::RstOut,
    );
}

#[test]
fn a_fin_that_waits_behind_what_nobody_takes_has_not_left() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (client, mut ours, ledger) = tapped.pair(&listener);
    ours.set_nonblocking(true).unwrap();
    while ours.write(&[0; 64 * 1024]).is_ok() {}
    ours.shutdown(Shutdown::Write).unwrap();
    drop(ours);
    assert_eq!(ledger.counters(0).close, None);
    assert!(!ledger.counters(0).peer_reset);
    reset_on_close(&client);
    drop(client);
    check_ended(&ledger, Close::RstIn);
    assert!(ledger.counters(0).peer_reset);
}

#[test]
fn both_fins_close_the_socket_and_the_close_has_a_time() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, ours, ledger) = tapped.pair(&listener);
    client.shutdown(Shutdown::Write).unwrap();
    check_ended(&ledger, Close::FinPeer);
    assert_eq!(ledger.counters(0).closed_ns, None, "our half is open");
    drop(ours);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    eventually("it is closed", || ledger.counters(0).closed_ns.is_some());
    assert_eq!(ledger.counters(0).close, Some(Close::FinPeer));
}

#[test]
fn a_fin_is_no_byte() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    transfer(&mut client, &mut ours, 10);
    transfer(&mut ours, &mut client, 20);
    client.shutdown(Shutdown::Write).unwrap();
    check_ended(&ledger, Close::FinPeer);
    ours.shutdown(Shutdown::Write).unwrap();
    eventually("it is closed", || ledger.counters(0).closed_ns.is_some());
    assert_eq!((ledger.received_offset(), ledger.sent_offset()), (10, 20));
    assert_eq!(ledger.acked_offset(), 20);
    assert_eq!(tapped.dropped("bad_ack"), 0);
}

#[test]
fn a_peer_that_falls_silent_times_out() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let port = listener.local_addr().unwrap().port();
        let (mut client, mut ours, ledger) = tapped.pair(&listener);
        transfer(&mut client, &mut ours, 10);
        set_option(&ours, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 300);
        filter(&format!("tcp sport {port} drop"));
        ours.write_all(b"is anybody there").unwrap();
        check_ended(&ledger, Close::Timeout);
        let counters = ledger.counters(0);
        assert!(counters.rtos.is_some_and(|n| n > 0), "{counters:?}");
        assert!(counters.closed_ns.is_some());
        let turns = ledger.sent(&(0..16)).turns;
        assert_eq!(turns.len(), 1);
        assert_eq!(turns[0].timeouts, counters.rtos);
        filter_nothing();
    });
}

#[test]
fn a_timeout_is_charged_to_the_turn_whose_byte_was_missing() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let port = listener.local_addr().unwrap().port();
        let (mut client, mut ours, ledger) = tapped.pair(&listener);
        transfer(&mut ours, &mut client, 10);
        ledger.cut_sent();
        filter(&format!("tcp sport {port} drop"));
        ours.write_all(b"lost").unwrap();
        ledger.cut_sent();
        ours.write_all(b"behind it").unwrap();
        eventually("it was repeated", || {
            ledger.counters(0).rtos.is_some_and(|n| n >= 2)
        });
        filter_nothing();
        client.read_exact(&mut [0; 13]).unwrap();
        let turns = ledger.sent(&(0..23)).turns;
        let timeouts: Vec<_> = turns.iter().map(|turn| turn.timeouts).collect();
        assert_eq!(timeouts, [Some(0), ledger.counters(0).rtos, Some(0)]);
    });
}

/// Announces a socket to `to` and has it connect in the background.
fn begin_connect(tapped: &Tapped, to: SocketAddr) -> (TcpStream, Ledger) {
    let socket = unconnected(to);
    let cookie = tcp_info::cookie_of(&socket).unwrap();
    tapped.tap.own_upstream(cookie).unwrap();
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    let _in_progress = rustix::net::connect(&socket, &to);
    (TcpStream::from(socket), tapped.ledger(cookie))
}

#[test]
fn a_refused_connect_was_reset() {
    let Some(tapped) = tapped(16) else { return };
    let nobody = TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let (_socket, ledger) = begin_connect(&tapped, nobody);
    check_ended(&ledger, Close::RstIn);
    let identity = ledger.identity().unwrap();
    assert_eq!(identity.peer, nobody);
    assert!(identity.syn_ns.is_some() && identity.established_ns.is_none());
}

#[test]
fn a_lost_syn_is_sent_again_and_counted() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let backend = TcpListener::bind(LOOPBACK).unwrap();
        let to = backend.local_addr().unwrap();
        filter(&format!("tcp dport {} drop", to.port()));
        let (_socket, ledger) = begin_connect(&tapped, to);
        assert_eq!(ledger.counters(0).retransmits, Some(0));
        eventually("the SYN was sent again", || {
            ledger.counters(0).retransmits.is_some_and(|n| n > 0)
        });
        assert_eq!(ledger.identity().unwrap().established_ns, None);
        filter_nothing();
        eventually("it is established", || {
            ledger.identity().unwrap().established_ns.is_some()
        });
        let identity = ledger.identity().unwrap();
        let waited_ns = identity.established_ns.unwrap() - identity.syn_ns.unwrap();
        let resent = ledger.counters(0).retransmits.unwrap();
        assert!(resent >= 1 && waited_ns > 0);
        assert_eq!(ledger.counters(0).retransmitted_bytes, Some(0));
    });
}

#[test]
fn a_connect_that_nobody_answers_times_out() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let backend = TcpListener::bind(LOOPBACK).unwrap();
        let to = backend.local_addr().unwrap();
        filter(&format!("tcp dport {} drop", to.port()));
        let socket = unconnected(to);
        set_option(&socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 500);
        let cookie = tcp_info::cookie_of(&socket).unwrap();
        tapped.tap.own_upstream(cookie).unwrap();
        let refused = rustix::net::connect(&socket, &to);
        assert_eq!(refused, Err(rustix::io::Errno::TIMEDOUT));
        check_ended(&tapped.ledger(cookie), Close::Timeout);
        filter_nothing();
    });
}
