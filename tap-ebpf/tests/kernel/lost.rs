//! Loss: what is sent again, what comes late, and that the byte ranges stay right.

use std::io::Write;

use calltap_tap::{Ledger, tcp_info};

use crate::support::{
    LOOPBACK, eventually, filter, filter_nothing, filtered, in_own_network, read_exactly, run,
    set_option, tapped,
};

const EVERYTHING: std::ops::Range<u64> = 0..u64::MAX;
const BYTES: usize = 3_000_000;

/// Segments and bytes sent again, of all turns.
fn resent(ledger: &Ledger) -> (u64, u64) {
    let turns = ledger.sent(&EVERYTHING).turns;
    turns.iter().fold((0, 0), |(segments, bytes), turn| {
        (
            segments + u64::from(turn.retransmitted_segments),
            bytes + turn.retransmitted_bytes,
        )
    })
}

/// Without this the loopback would lose up to 64 KiB at a time.
fn one_packet_a_segment() {
    run(
        "ip",
        &["link", "set", "lo", "mtu", "1500", "gso_max_segs", "1"],
    );
}

#[test]
fn what_is_lost_is_charged_to_its_turn_as_the_socket_counts_it() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        one_packet_a_segment();
        let listener = tapped.listen(LOOPBACK);
        let (mut client, mut ours, ledger) = tapped.pair_with(&listener, |client| {
            set_option(client, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1400);
        });
        client.write_all(b"a request").unwrap();
        read_exactly(ours.try_clone().unwrap(), 9);
        filter("numgen random mod 100 < 3 drop");
        std::thread::scope(|scope| {
            let reader = client.try_clone().unwrap();
            scope.spawn(move || read_exactly(reader, BYTES));
            ours.write_all(&vec![b'x'; BYTES]).unwrap();
        });
        eventually("all is acknowledged", || {
            ledger.acked_offset() == BYTES as u64
        });
        filter_nothing();

        let socket = tcp_info::counters(&ours, 0).unwrap();
        let said = ledger.counters(0);
        assert!(socket.retransmits.unwrap() > 0, "nothing was lost");
        assert_eq!(said.retransmits, socket.retransmits);
        assert_eq!(said.retransmitted_bytes, socket.retransmitted_bytes);
        assert_eq!(said.sent.unwrap().offset, BYTES as u64);
        assert_eq!(said.sent.unwrap().segments, socket.sent.unwrap().segments);
        // One response, one turn: everything that was sent again was its own.
        let turns = ledger.sent(&EVERYTHING).turns;
        assert_eq!((turns.len(), turns[0].end_offset), (1, BYTES as u64));
        let of_the_socket = (
            u64::from(socket.retransmits.unwrap()),
            socket.retransmitted_bytes.unwrap(),
        );
        assert_eq!(resent(&ledger), of_the_socket);
        assert!(said.dup_acks.unwrap() > 0);
    });
}

#[test]
fn the_end_that_was_sent_again_is_the_last_one() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let (mut client, mut ours, ledger) = tapped.pair(&listener);
        client.write_all(b"a request").unwrap();
        read_exactly(ours.try_clone().unwrap(), 9);
        let port = client.local_addr().unwrap().port();
        filter(&format!("tcp dport {port} counter drop"));
        ours.write_all(&[b'x'; 100]).unwrap();
        let again = || ledger.sent(&EVERYTHING).turns[0].end_resent_ns;
        eventually("it was sent again", || again() > 0);
        filter_nothing();
        // The turn goes on: this end has been sent once.
        ours.write_all(&[b'x'; 50]).unwrap();
        read_exactly(client.try_clone().unwrap(), 150);
        let turns = ledger.sent(&EVERYTHING).turns;
        assert_eq!((turns.len(), turns[0].end_offset), (1, 150));
        assert!(turns[0].retransmitted_segments > 0);
        assert!(again() == 0 || again() > turns[0].last_ns);
    });
}

#[test]
fn what_comes_late_belongs_to_the_turn_with_the_hole() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        one_packet_a_segment();
        let listener = tapped.listen(LOOPBACK);
        let (mut client, mut ours, ledger) = tapped.pair_with(&listener, |client| {
            set_option(client, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1400);
        });
        let port = listener.local_addr().unwrap().port();
        filter(&format!(
            "tcp dport {port} numgen random mod 100 < 3 counter drop"
        ));
        std::thread::scope(|scope| {
            let reader = ours.try_clone().unwrap();
            scope.spawn(move || read_exactly(reader, BYTES));
            client.write_all(&vec![b'x'; BYTES]).unwrap();
        });
        let dropped = filtered();
        filter_nothing();
        ours.write_all(b"a response").unwrap();

        let turns = ledger.received(&EVERYTHING).turns;
        assert_eq!((turns.len(), turns[0].first_offset), (1, 0));
        assert_eq!(turns[0].end_offset, BYTES as u64);
        let of_the_client = tcp_info::counters(&client, 0).unwrap();
        let said = ledger.counters(0);
        let late = said.received.unwrap().late_segments.unwrap();
        assert_eq!(late, turns[0].retransmitted_segments);
        assert!(dropped > 0 && late > 0);
        // The client sent nothing but payload, so each packet either came or was dropped.
        let sent = of_the_client.sent.unwrap().segments;
        assert_eq!(said.received.unwrap().segments, sent - dropped);
        assert_eq!(said.received.unwrap().offset, BYTES as u64);
        // The last byte was read when the last hole was filled.
        assert!(turns[0].last_ns < ledger.sent(&EVERYTHING).turns[0].first_ns);
    });
}

#[test]
fn a_head_that_comes_after_much_of_its_body_is_remembered() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        one_packet_a_segment();
        let listener = tapped.listen(LOOPBACK);
        let (mut client, ours, ledger) = tapped.pair_with(&listener, |client| {
            set_option(client, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1400);
        });
        let port = listener.local_addr().unwrap().port();
        filter(&format!(
            "tcp dport {port} numgen inc mod 1000000 == 0 counter drop"
        ));
        std::thread::scope(|scope| {
            scope.spawn(move || read_exactly(ours, 200_000));
            client.write_all(&vec![b'x'; 200_000]).unwrap();
        });
        assert_eq!(filtered(), 1);
        filter_nothing();
        let turn = &ledger.received(&EVERYTHING).turns[0];
        let head = ledger.arrival_completing(&(0..100)).unwrap();
        assert!(head.ns > turn.first_ns && head.ns <= turn.last_ns);
    });
}

#[test]
fn a_repeat_of_the_first_turn_is_not_charged_to_the_second() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let port = listener.local_addr().unwrap().port();
        let (client, mut ours, ledger) = tapped.pair(&listener);
        filter(&format!("tcp sport {port} drop"));
        ours.write_all(&[b'x'; 100]).unwrap();
        ledger.cut_sent();
        ours.write_all(&[b'x'; 50]).unwrap();
        eventually("something was sent again", || resent(&ledger).0 > 0);
        filter_nothing();
        read_exactly(client.try_clone().unwrap(), 150);
        eventually("all is acknowledged", || ledger.acked_offset() == 150);

        let turns = ledger.sent(&EVERYTHING).turns;
        let ends: Vec<_> = turns.iter().map(|turn| turn.end_offset).collect();
        assert_eq!(ends, [100, 150]);
        assert!(turns[0].retransmitted_segments > 0 && turns[0].retransmitted_bytes >= 100);
        assert!(turns[0].end_resent_ns > turns[0].last_ns);
        let socket = tcp_info::counters(&ours, 0).unwrap();
        assert_eq!(Some(resent(&ledger).1), socket.retransmitted_bytes);
        assert!(turns.iter().all(|turn| turn.ack.offset == turn.end_offset));
    });
}
