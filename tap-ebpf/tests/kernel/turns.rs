//! Where turns begin and end, and what they count.

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};

use calltap_correlate::socket::Turn;
use calltap_tap::{Ledger, monotonic_ns, tcp_info};

use crate::support::{
    LOOPBACK, eventually, in_own_network, read_exactly, run, set_option, set_option_bytes, tapped,
    transfer,
};

const EVERYTHING: std::ops::Range<u64> = 0..u64::MAX;

fn ranges(turns: &[Turn]) -> Vec<(u64, u64)> {
    let range = |turn: &Turn| (turn.first_offset, turn.end_offset);
    turns.iter().map(range).collect()
}

fn received(ledger: &Ledger) -> Vec<(u64, u64)> {
    ranges(&ledger.received(&EVERYTHING).turns)
}

fn sent(ledger: &Ledger) -> Vec<(u64, u64)> {
    ranges(&ledger.sent(&EVERYTHING).turns)
}

fn now_send(from: &mut TcpStream, to: &TcpStream, bytes: usize) {
    from.write_all(&vec![b'x'; bytes]).unwrap();
    read_exactly(to.try_clone().unwrap(), bytes);
}

#[test]
fn a_turn_ends_when_the_other_side_speaks() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    now_send(&mut client, &ours, 100);
    now_send(&mut client, &ours, 50);
    now_send(&mut ours, &client, 1000);
    now_send(&mut client, &ours, 7);
    now_send(&mut ours, &client, 9);
    now_send(&mut ours, &client, 1);
    assert_eq!(received(&ledger), [(0, 150), (150, 157)]);
    assert_eq!(sent(&ledger), [(0, 1000), (1000, 1010)]);

    let turns = ledger.received(&EVERYTHING).turns;
    assert_eq!((turns[0].segments, turns[0].ip_bytes), (2, 150 + 2 * 52));
    assert!(turns[0].first_ns < turns[0].last_ns);
    assert!(turns[0].last_ns < ledger.sent(&EVERYTHING).turns[0].first_ns);
    assert!(turns[1].first_ns < monotonic_ns());
}

#[test]
fn a_cut_begins_a_turn_where_nothing_else_would() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    now_send(&mut client, &ours, 100);
    ledger.cut_received();
    now_send(&mut client, &ours, 10);
    now_send(&mut client, &ours, 10);
    now_send(&mut ours, &client, 25);
    ledger.cut_sent();
    ledger.cut_sent();
    now_send(&mut ours, &client, 1000);
    now_send(&mut ours, &client, 1);
    assert_eq!(received(&ledger), [(0, 100), (100, 120)]);
    assert_eq!(sent(&ledger), [(0, 25), (25, 1026)]);
}

#[test]
fn only_the_turns_of_the_range_come_and_a_lapped_ring_says_so() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    assert!(!ledger.received(&(0..10)).lapped, "nothing is missing yet");
    for _ in 0..8 {
        now_send(&mut client, &ours, 10);
        now_send(&mut ours, &client, 20);
    }
    let all = ledger.received(&EVERYTHING);
    assert_eq!((all.turns.len(), all.lapped), (8, false));
    let some = ledger.sent(&(30..80));
    assert_eq!(ranges(&some.turns), [(20, 40), (40, 60), (60, 80)]);
    assert!(!some.lapped);
    assert!(ledger.sent(&(40..40)).turns.is_empty());
    assert!(ledger.sent(&(160..200)).turns.is_empty());

    now_send(&mut client, &ours, 10);
    let lapped = ledger.received(&EVERYTHING);
    assert_eq!((lapped.turns.len(), lapped.lapped), (8, true));
    assert_eq!(ranges(&lapped.turns)[0], (10, 20));
    assert!(!ledger.received(&(15..90)).lapped);
    assert!(ledger.received(&(9..90)).lapped);
}

#[test]
fn a_turn_keeps_what_the_headers_said() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair_with(&listener, |client| {
        set_option(client, libc::IPPROTO_IP, libc::IP_TTL, 42);
        set_option(client, libc::IPPROTO_IP, libc::IP_TOS, 0x28);
    });
    now_send(&mut client, &ours, 10);
    set_option(&client, libc::IPPROTO_IP, libc::IP_TTL, 40);
    now_send(&mut client, &ours, 10);
    now_send(&mut ours, &client, 10);
    let turn = ledger.received(&EVERYTHING).turns[0];
    assert_eq!((turn.ttl_min, turn.ttl_max), (40, 42));
    assert_eq!((turn.dscp, turn.ecn), (10, 0));
    assert_eq!(turn.tcp_flags, 0x18, "PSH and ACK");
    assert_eq!(ledger.sent(&EVERYTHING).turns[0].ttl_min, 64);
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    let Some(tapped) = tapped(16) else { return };
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0);
    // Eight bytes each: no-operations for IPv4, a destination header with padding for IPv6.
    let no_operations = [1; 8];
    let destination = [0, 0, 1, 4, 0, 0, 0, 0];
    for (at, level, name, value, headers) in [
        (
            LOOPBACK,
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            no_operations,
            20 + 8 + 32,
        ),
        (
            v6,
            libc::IPPROTO_IPV6,
            libc::IPV6_DSTOPTS,
            destination,
            40 + 8 + 32,
        ),
    ] {
        let listener = tapped.listen(at);
        let (mut client, mut ours, ledger) = tapped.pair_with(&listener, |client| {
            set_option_bytes(client, level, name, &value);
        });
        now_send(&mut client, &ours, 321);
        now_send(&mut ours, &client, 12);
        let turn = ledger.received(&EVERYTHING).turns[0];
        assert_eq!((turn.end_offset, turn.segments), (321, 1));
        assert_eq!(turn.ip_bytes, 321 + headers, "{at}");
    }
    assert_eq!(tapped.dropped("bad_packet"), 0);
}

#[test]
fn segments_and_bytes_are_those_of_the_wire() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair_with(&listener, |client| {
        set_option(client, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1000);
    });
    transfer(&mut client, &mut ours, 300_000);
    transfer(&mut ours, &mut client, 500_000);
    let socket = tcp_info::counters(&ours, 0).unwrap();
    let said = ledger.counters(0);
    for (of_the_socket, of_the_ledger, bytes, turns) in [
        (
            socket.received,
            said.received,
            300_000,
            ledger.received(&EVERYTHING).turns,
        ),
        (
            socket.sent,
            said.sent,
            500_000,
            ledger.sent(&EVERYTHING).turns,
        ),
    ] {
        let (of_the_socket, of_the_ledger) = (of_the_socket.unwrap(), of_the_ledger.unwrap());
        assert_eq!(of_the_ledger.offset, bytes);
        assert_eq!(of_the_socket.offset, bytes);
        assert_eq!(of_the_ledger.segments, of_the_socket.segments);
        assert!(of_the_ledger.segments >= bytes / 1000);
        // A slow machine may probe or repeat even here.
        let repeated: u64 = turns.iter().map(|turn| turn.retransmitted_bytes).sum();
        let headers = 52 * of_the_ledger.segments;
        assert_eq!(of_the_ledger.ip_bytes, Some(bytes + repeated + headers));
        assert_eq!(of_the_socket.ip_bytes, None);
    }
}

#[test]
fn what_is_read_while_it_changes_is_whole() {
    const BYTES: usize = 100_000_000;
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        // Without it every header is as long as the other.
        run("sysctl", &["-qw", "net.ipv4.tcp_sack=0"]);
        let listener = tapped.listen(LOOPBACK);
        let (client, ours, ledger) = tapped.pair(&listener);
        // Both directions at once: turns follow each other quickly, and the rings are lapped.
        let send = |from: &TcpStream| {
            let mut from = from.try_clone().unwrap();
            move || from.write_all(&vec![b'x'; BYTES]).unwrap()
        };
        let receive = |from: &TcpStream| {
            let from = from.try_clone().unwrap();
            move || read_exactly(from, BYTES)
        };
        let (mut reads, mut torn) = (0, Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(send(&ours));
            scope.spawn(send(&client));
            scope.spawn(receive(&client));
            scope.spawn(receive(&ours));
            let all = BYTES as u64;
            while ledger.sent_offset() < all || ledger.received_offset() < all {
                let (sent, received) = (ledger.sent(&EVERYTHING), ledger.received(&EVERYTHING));
                reads += 1;
                let adds_up = |turn: &Turn| {
                    let payload = turn.end_offset - turn.first_offset + turn.retransmitted_bytes;
                    turn.ip_bytes == payload + 52 * u64::from(turn.segments)
                };
                let in_line = |turns: &[Turn]| {
                    let mut pairs = turns.windows(2);
                    pairs.all(|pair| pair[0].end_offset == pair[1].first_offset)
                        && turns.iter().all(|turn| turn.first_ns <= turn.last_ns)
                };
                let whole = sent.turns.iter().all(adds_up);
                if !(whole && in_line(&sent.turns) && in_line(&received.turns)) {
                    torn.push((sent, received));
                }
            }
        });
        assert!(reads > 1000, "{reads}");
        assert!(torn.is_empty(), "{} of {reads}: {:?}", torn.len(), torn[0]);
    });
}

#[test]
fn payload_on_the_packet_that_completes_the_handshake_counts() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = {
        let to = listener.local_addr().unwrap();
        let client = crate::support::unconnected(to);
        // Makes the client hold its ACK back until it has something to say.
        set_option(&client, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1);
        rustix::net::connect(&client, &to).unwrap();
        let mut client = TcpStream::from(client);
        client.write_all(&[b'x'; 77]).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let ledger = tapped.ledger(crate::support::cookie_of(&ours));
        (client, ours, ledger)
    };
    read_exactly(ours.try_clone().unwrap(), 77);
    now_send(&mut ours, &client, 10);
    now_send(&mut client, &ours, 5);
    assert_eq!(received(&ledger), [(0, 77), (77, 82)]);
    let turn = ledger.received(&EVERYTHING).turns[0];
    assert_eq!(
        (turn.segments, turn.ip_bytes, turn.ttl_min),
        (1, 77 + 52, 64)
    );
    let established_ns = ledger.identity().unwrap().established_ns.unwrap();
    // It is the packet that established the connection: it came first.
    assert!(turn.first_ns < established_ns);
}

#[test]
fn the_packet_that_completed_a_head_is_found_in_a_longer_turn() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    for bytes in [100, 200, 300] {
        now_send(&mut client, &ours, bytes);
    }
    let covering = |offset| {
        let arrival = ledger.arrival_completing(&(offset..offset + 1))?;
        Some((arrival.first_offset, arrival.end_offset))
    };
    assert_eq!(covering(0), Some((0, 100)));
    assert_eq!(covering(99), Some((0, 100)));
    assert_eq!(covering(100), Some((100, 300)));
    assert_eq!(covering(599), Some((300, 600)));
    assert_eq!(covering(600), None);
    let first = ledger.arrival_completing(&(0..100)).unwrap();
    let all = ledger.arrival_completing(&(0..600)).unwrap();
    assert!(first.ns < all.ns);
    assert_eq!((all.first_offset, all.end_offset), (300, 600));
    for _ in 0..14 {
        now_send(&mut client, &ours, 1);
    }
    assert_eq!(covering(0), Some((0, 100)), "a turn's first packets stay");
    assert_eq!(covering(604), Some((604, 605)));
    assert_eq!(
        covering(605),
        None,
        "neither among the first nor the newest"
    );
    assert_eq!(covering(606), Some((606, 607)));
    // The next turn's take their place.
    transfer(&mut ours, &mut client, 5);
    now_send(&mut client, &ours, 50);
    assert_eq!(covering(614), Some((614, 664)));
    assert_eq!(covering(0), None);
}

#[test]
fn the_unchanging_facts_of_a_connection_are_the_sockets() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (mut client, mut ours, ledger) = tapped.pair(&listener);
    transfer(&mut client, &mut ours, 100);
    transfer(&mut ours, &mut client, 200_000);
    eventually("all is acknowledged", || ledger.acked_offset() == 200_000);
    let (socket, said) = (tcp_info::counters(&ours, 5).unwrap(), ledger.counters(6));
    assert_eq!((socket.taken_ns, said.taken_ns), (5, 6));
    assert_eq!(said.mss, socket.mss);
    assert_eq!(said.min_rtt_us, socket.min_rtt_us);
    assert_eq!(said.acked_offset, socket.acked_offset);
    assert_eq!(said.retransmits, socket.retransmits);
    assert!(said.rtt_us.is_some() && said.cwnd.is_some());
    assert_eq!((said.close, said.closed_ns), (None, None));
}
