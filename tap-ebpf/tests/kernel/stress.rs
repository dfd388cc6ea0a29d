//! A million exchanges on many connections: the ledgers against what the sockets' owners counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use calltap_correlate::socket::{StreamRange, Turns};
use calltap_tap::{Ledger, tcp_info};

use crate::support::{LOOPBACK, Tapped, cookie_of, tapped};

const EXCHANGES: u64 = 1_000_000;
/// Pairs of a client's thread and a thread of ours.
const PAIRS: u64 = 4;
/// Open at the same time, per pair.
const CONNECTIONS: usize = 16;
/// On one connection before it is replaced: many handshakes race with first requests.
const EXCHANGES_PER_CONNECTION: u64 = 50;
const BYTES_MAX: u64 = 3000;

/// Sizes that look random and are the same on both sides.
fn size(exchange: u64, salt: u64) -> usize {
    let mixed = (exchange + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    (1 + mixed % BYTES_MAX) as usize
}

/// Plays `exchanges` requests, round-robin over the connections.
fn client(to: SocketAddr, exchanges: u64) {
    let mut connections: Vec<Option<TcpStream>> = (0..CONNECTIONS).map(|_| None).collect();
    let mut buffer = vec![b'x'; BYTES_MAX as usize];
    for exchange in 0..exchanges {
        let place = &mut connections[exchange as usize % CONNECTIONS];
        let on_connection = exchange / CONNECTIONS as u64 % EXCHANGES_PER_CONNECTION;
        if on_connection == 0 {
            *place = None;
        }
        let connection = place.get_or_insert_with(|| {
            let connection = TcpStream::connect(to).unwrap();
            connection.set_nodelay(true).unwrap();
            connection
        });
        connection.write_all(&buffer[..size(exchange, 1)]).unwrap();
        let response = size(exchange, 2);
        connection.read_exact(&mut buffer[..response]).unwrap();
    }
}

/// Our end of one connection, with our own count of its bytes.
struct Served {
    socket: TcpStream,
    ledger: Ledger,
    received: u64,
    sent: u64,
    last_response: StreamRange,
}

/// The one turn that is exactly `range`.
fn is_exactly(turns: &Turns, range: &StreamRange) -> bool {
    match turns.turns.as_slice() {
        [turn] => !turns.lapped && (turn.first_offset..turn.end_offset) == *range,
        _ => false,
    }
}

/// Answers `exchanges` requests and compares; returns how often the tap disagreed.
fn server(tapped: &Tapped, listener: &TcpListener, exchanges: u64) -> u64 {
    let mut connections: Vec<Option<Served>> = (0..CONNECTIONS).map(|_| None).collect();
    let mut buffer = vec![b'x'; BYTES_MAX as usize];
    let mut disagreements = 0;
    for exchange in 0..exchanges {
        let place = &mut connections[exchange as usize % CONNECTIONS];
        let on_connection = exchange / CONNECTIONS as u64 % EXCHANGES_PER_CONNECTION;
        if on_connection == 0 {
            *place = None;
        }
        let served = place.get_or_insert_with(|| {
            let (socket, _) = listener.accept().unwrap();
            socket.set_nodelay(true).unwrap();
            Served {
                ledger: tapped.ledger(cookie_of(&socket)),
                socket,
                received: 0,
                sent: 0,
                last_response: 0..0,
            }
        });
        let request = size(exchange, 1);
        served.socket.read_exact(&mut buffer[..request]).unwrap();
        let range = served.received..served.received + request as u64;
        served.received = range.end;
        let mut agrees = served.ledger.received_offset() == served.received
            && is_exactly(&served.ledger.received(&range), &range)
            && served
                .ledger
                .arrival_completing(&range)
                .is_some_and(|arrival| arrival.end_offset == range.end);
        // The client has answered the last response, so it was sent and acknowledged whole.
        if !served.last_response.is_empty() {
            let turns = served.ledger.sent(&served.last_response);
            agrees &= served.ledger.sent_offset() == served.sent
                && is_exactly(&turns, &served.last_response)
                && turns.turns[0].ack.offset == served.sent
                && turns.turns[0].ack.ns >= turns.turns[0].last_ns
                && served.ledger.acked_offset() == served.sent;
        }
        if !agrees && disagreements < 3 {
            eprintln!(
                "exchange {exchange}, number {on_connection} of its connection, received {range:?}, \
                 sent {:?}: {:?} {:?} {:?} {:?}",
                served.last_response,
                served.ledger.received(&range),
                served.ledger.sent(&served.last_response),
                served.ledger.counters(0),
                tcp_info::counters(&served.socket, 0),
            );
        }
        disagreements += u64::from(!agrees);
        let response = size(exchange, 2);
        served.socket.write_all(&buffer[..response]).unwrap();
        served.last_response = served.sent..served.sent + response as u64;
        served.sent = served.last_response.end;
    }
    disagreements
}

#[test]
fn a_million_exchanges_agree_to_the_byte() {
    let Some(tapped) = tapped(4096) else { return };
    let disagreements = AtomicU64::new(0);
    let running = AtomicU64::new(PAIRS);
    std::thread::scope(|scope| {
        for _ in 0..PAIRS {
            let listener = tapped.listen(LOOPBACK);
            let to = listener.local_addr().unwrap();
            scope.spawn(move || client(to, EXCHANGES / PAIRS));
            let (tapped, disagreements, running) = (&tapped, &disagreements, &running);
            scope.spawn(move || {
                let found = server(tapped, &listener, EXCHANGES / PAIRS);
                disagreements.fetch_add(found, Ordering::Relaxed);
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while running.load(Ordering::Relaxed) > 0 {
            tapped.tap.sweep();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    assert_eq!(disagreements.into_inner(), 0);
    for (reason, count) in tapped.tap.drops() {
        assert_eq!(count, 0, "{reason}");
    }
}
