//! When the peer acknowledged what was sent, by what, and what its window did meanwhile.

use std::io::Write;

use calltap_tap::monotonic_ns;
use rustix::net::{SendFlags, sendto};

use crate::forged::{ACK, TTL, WINDOW, forged_with_window, raw_socket, v4};
use crate::support::{
    LOOPBACK, eventually, filter, in_own_network, read_exactly, set_option, tapped, transfer,
};

const EVERYTHING: std::ops::Range<u64> = 0..u64::MAX;

#[test]
fn each_turn_knows_when_and_by_what_it_was_acknowledged() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    // The client's kernel is to expect an answer that the acknowledgement can ride on.
    set_option(&client, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0);
    transfer(&mut client, &mut ours, 10);
    transfer(&mut ours, &mut client, 100);
    let written_ns = monotonic_ns();
    transfer(&mut client, &mut ours, 10);
    transfer(&mut ours, &mut client, 50);
    // Nothing follows: the client acknowledges these by themselves.
    eventually("all is acknowledged", || ledger.acked_offset() == 150);
    let turns = ledger.sent(&EVERYTHING).turns;
    let marks: Vec<_> = turns
        .iter()
        .map(|t| (t.ack.offset, t.ack.with_data))
        .collect();
    assert_eq!(marks, [(100, true), (150, false)]);
    assert!(turns[0].ack.ns > written_ns && turns[0].ack.ns < turns[1].first_ns);
    assert_eq!(
        turns[0].ack.ns,
        ledger.received(&EVERYTHING).turns[1].first_ns
    );
    assert!(turns[1].ack.ns > turns[1].last_ns);
    assert!(turns[0].ack.window_min.is_some_and(|bytes| bytes > 0));
}

#[test]
fn a_kernel_that_acknowledges_at_once_does_so_by_itself() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (client, mut ours, ledger) = tapped.pair(&listener);
    set_option(&client, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1);
    ours.write_all(&[b'x'; 100]).unwrap();
    // The answer to a write is on its way before the reader looks.
    eventually("it is acknowledged", || ledger.acked_offset() == 100);
    let turn = ledger.sent(&EVERYTHING).turns[0];
    assert_eq!((turn.ack.offset, turn.ack.with_data), (100, false));
    assert_eq!(ledger.counters(0).dup_acks, Some(0));
}

#[test]
fn an_unacknowledged_turn_has_no_mark() {
    let Some(tapped) = tapped(16) else { return };
    crate::support::in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let port = listener.local_addr().unwrap().port();
        let (mut client, mut ours, ledger) = tapped.pair(&listener);
        transfer(&mut client, &mut ours, 10);
        crate::support::filter(&format!("tcp sport {port} drop"));
        ours.write_all(&[b'x'; 100]).unwrap();
        let turn = ledger.sent(&EVERYTHING).turns[0];
        assert_eq!((turn.ack.offset, turn.ack.ns), (0, 0));
        assert_eq!(ledger.acked_offset(), 0);
        crate::support::filter_nothing();
        eventually("it was sent again", || ledger.acked_offset() == 100);
        let turn = ledger.sent(&EVERYTHING).turns[0];
        assert_eq!(turn.ack.offset, 100);
        assert!(turn.ack.ns > turn.end_resent_ns && turn.end_resent_ns > turn.last_ns);
    });
}

#[test]
fn a_closed_window_is_charged_to_what_waited_for_it() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (client, ours, ledger) = tapped.pair_with(&listener, |client| {
        set_option(client, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096);
    });
    const BYTES: usize = 400_000;
    std::thread::scope(|scope| {
        let mut writer = ours.try_clone().unwrap();
        scope.spawn(move || writer.write_all(&vec![b'x'; BYTES]).unwrap());
        // The reader does not read: the window closes, and everything sent is acknowledged.
        let range = 0..BYTES as u64;
        eventually("the window closes", || {
            let turns = ledger.sent(&range).turns;
            turns
                .first()
                .is_some_and(|t| t.ack.zero_window_ns > 0 && t.ack.window_min == Some(0))
        });
        read_exactly(client.try_clone().unwrap(), BYTES);
    });
    eventually("all is acknowledged", || {
        ledger.acked_offset() == BYTES as u64
    });
    let turns = ledger.sent(&(0..BYTES as u64)).turns;
    assert_eq!(turns.len(), 1, "nobody else spoke");
    let turn = turns[0];
    assert_eq!(
        (turn.end_offset, turn.ack.offset),
        (BYTES as u64, BYTES as u64)
    );
    assert_eq!(turn.ack.window_min, Some(0));
    assert!(turn.ack.zero_window_ns > 0);
    assert!(turn.ack.zero_window_ns < turn.ack.ns - turn.first_ns);
}

#[test]
fn every_time_that_a_window_was_closed_is_charged() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let port = listener.local_addr().unwrap().port();
        let (_client, mut ours, ledger) = tapped.pair(&listener);
        let identity = ledger.identity().unwrap();
        let (from, to) = (v4(identity.peer), v4(identity.local));
        let (next, base) = (identity.receive_base.unwrap(), identity.send_base.unwrap());
        // From here on the client says what is written below, and nothing else.
        filter(&format!("ip ttl != {TTL} tcp dport {port} drop"));
        let raw = raw_socket();
        let say = |acked: u32, window: u16| {
            let ack = base.wrapping_add(acked);
            let packet = forged_with_window(from, to, next, ack, ACK, window, b"");
            sendto(&raw, &packet, SendFlags::empty(), &to).unwrap();
            eventually("it was heard", || ledger.acked_offset() == u64::from(acked));
        };
        let mut closed_ns = 0;
        ours.write_all(&[b'x'; 100]).unwrap();
        for filled in [100, 200, 300] {
            // With one packet: everything is there, and there is no room for more.
            say(filled, 0);
            ours.write_all(&[b'x'; 100]).unwrap();
            let since_ns = monotonic_ns();
            std::thread::sleep(std::time::Duration::from_millis(20));
            closed_ns += monotonic_ns() - since_ns;
            say(filled, WINDOW);
            eventually("more is sent", || ledger.sent_offset() > u64::from(filled));
        }
        say(400, WINDOW);
        let turns = ledger.sent(&EVERYTHING).turns;
        assert_eq!(turns.len(), 1, "nobody else spoke");
        let found_ns = turns[0].ack.zero_window_ns;
        assert!(found_ns >= closed_ns, "{found_ns} of {closed_ns} ns");
        assert_eq!(turns[0].ack.window_min, Some(0));
    });
}
