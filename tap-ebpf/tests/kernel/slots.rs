//! Slots: that they run out in the open, come back, and never mix two sockets.

use std::net::{TcpListener, TcpStream};

use calltap_tap::{Ledger, monotonic_ns};

use crate::support::{
    LOOPBACK, Tapped, cookie_of, eventually, in_own_network, reset_on_close, tapped, transfer,
};

/// A connection of ours with some bytes each way.
fn used(tapped: &Tapped, listener: &TcpListener) -> (TcpStream, TcpStream, Ledger) {
    let (mut client, mut ours, ledger) = tapped.pair(listener);
    transfer(&mut client, &mut ours, 100);
    transfer(&mut ours, &mut client, 200);
    (client, ours, ledger)
}

#[test]
fn a_socket_without_a_slot_goes_untapped_and_is_counted() {
    let Some(tapped) = tapped(2) else { return };
    let listener = tapped.listen(LOOPBACK);
    let first = used(&tapped, &listener);
    let _second = used(&tapped, &listener);
    assert_eq!(tapped.tap.usage().slots_used, 2);
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut ours, _) = listener.accept().unwrap();
    transfer(&mut client, &mut ours, 1000);
    assert!(tapped.tap.ledger(cookie_of(&ours)).is_none());
    assert_eq!(tapped.dropped("no_slot"), 1);
    assert_eq!(
        (first.2.received_offset(), first.2.sent_offset()),
        (100, 200)
    );
}

#[test]
fn a_slot_comes_back_when_its_socket_is_closed_and_nobody_reads_it() {
    let Some(tapped) = tapped(1) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (client, ours, ledger) = used(&tapped, &listener);
    let cookie = ledger.cookie();
    let another_reader = ledger.clone();
    reset_on_close(&client);
    drop((client, ours));
    eventually("it is closed", || ledger.counters(0).closed_ns.is_some());
    drop(ledger);
    let until_ns = monotonic_ns() + 300_000_000;
    while monotonic_ns() < until_ns {
        assert_eq!(tapped.tap.sweep().recycled, 0, "it is still read");
    }
    assert_eq!(
        (
            another_reader.received_offset(),
            another_reader.sent_offset()
        ),
        (100, 200)
    );
    drop(another_reader);
    eventually("it is given back", || tapped.tap.sweep().recycled == 1);
    assert!(tapped.tap.ledger(cookie).is_none());
    assert_eq!(tapped.tap.usage().slots_used, 0);

    // The next owner inherits nothing.
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    let counters = ledger.counters(0);
    assert_eq!(counters.received.unwrap().offset, 0);
    assert_eq!((counters.close, counters.closed_ns), (None, None));
    assert!(ledger.sent(&(0..1000)).turns.is_empty());
    assert_eq!(ledger.arrival_completing(&(0..1)), None);
    transfer(&mut client, &mut ours, 5);
    assert_eq!(ledger.received(&(0..5)).turns.len(), 1);
    assert_eq!(tapped.dropped("no_slot"), 0);
}

#[test]
fn a_connection_that_nobody_asked_for_gives_its_slot_back_too() {
    let Some(tapped) = tapped(1) else { return };
    let listener = tapped.listen(LOOPBACK);
    drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let (ours, _) = listener.accept().unwrap();
    drop(ours);
    eventually("it is given back", || tapped.tap.sweep().recycled == 1);
}

#[test]
fn lost_events_leak_no_slot() {
    // More sockets close than the ring of closed sockets holds.
    const SOCKETS: u32 = 12_000;
    let Some(tapped) = tapped(SOCKETS) else {
        return;
    };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        for _ in 0..SOCKETS {
            let (client, ours, ledger) = tapped.pair(&listener);
            reset_on_close(&client);
            drop((client, ours, ledger));
        }
        assert!(tapped.dropped("event_lost") > 0, "the ring held them all");
        assert_eq!(tapped.tap.usage().slots_used, SOCKETS);
        let mut recycled = 0;
        eventually("all are given back", || {
            recycled += tapped.tap.sweep().recycled;
            recycled == SOCKETS
        });
        assert_eq!(tapped.tap.usage().slots_used, 0);
        assert_eq!(tapped.dropped("no_slot"), 0);
    });
}

#[test]
fn ledgers_outlive_the_tap() {
    let Some(tapped) = tapped(4) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = used(&tapped, &listener);
    drop(tapped);
    transfer(&mut client, &mut ours, 100);
    assert_eq!((ledger.received_offset(), ledger.sent_offset()), (100, 200));
    assert_eq!(ledger.sent(&(0..200)).turns.len(), 1);
}
