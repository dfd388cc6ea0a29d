//! Payload that comes while the connection is still being set up.
//!
//! A child can be found by packets before it is established, and the first request often comes
//! from another processor than the last packet of the handshake.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Barrier;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto};

use crate::forged::{ACK, SYN, forged, raw_socket};
use crate::support::{
    LOOPBACK, PATIENCE, cookie_of, filter, filter_nothing, in_own_network, reset_on_close, tapped,
};

const HANDSHAKES: u16 = 4000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const RETRANSMISSION: Duration = Duration::from_millis(200);

#[test]
fn a_request_that_races_with_its_handshake_is_counted_once() {
    let Some(tapped) = tapped(HANDSHAKES.into()) else {
        return;
    };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let port = listener.local_addr().unwrap().port();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        // The kernel knows nothing of our clients and would reset what answers them.
        filter("tcp flags & rst == rst drop");
        let answers =
            rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP)).unwrap();
        let raw = raw_socket();
        // These end a wait for what was lost; also accept(2) heeds it.
        set_socket_timeout(&listener, Timeout::Recv, Some(RETRANSMISSION)).unwrap();
        set_socket_timeout(&answers, Timeout::Recv, Some(PATIENCE)).unwrap();
        let both_ready = Barrier::new(2);
        let mut repeated = 0;
        for n in 0..HANDSHAKES {
            let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 20_000 + n);
            let send = |seq, ack, flags, payload: &[u8]| {
                let packet = forged(from, to, seq, ack, flags, payload);
                sendto(&raw, &packet, SendFlags::empty(), &to).unwrap();
            };
            send(999, 0, SYN, b"");
            let isn = answer_to(&answers, from.port());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    both_ready.wait();
                    send(1000, isn.wrapping_add(1), ACK, b"");
                });
                both_ready.wait();
                for _ in 0..n % 64 * 8 {
                    std::hint::spin_loop();
                }
                send(1000, isn.wrapping_add(1), ACK, REQUEST);
            });
            // The kernel may lose either packet in that race, and a client would send again.
            let again = || send(1000, isn.wrapping_add(1), ACK, REQUEST);
            let (mut ours, lost) = until_there(again, || Ok(listener.accept()?.0));
            let ledger = tapped.ledger(cookie_of(&ours));
            ours.set_read_timeout(Some(RETRANSMISSION)).unwrap();
            let (read, lost_request) =
                until_there(again, || ours.read(&mut [0; 2 * REQUEST.len()]));
            assert_eq!(read, REQUEST.len(), "handshake {n}");
            let turns = ledger.received(&(0..u64::MAX)).turns;
            assert_eq!(turns.len(), 1, "handshake {n}");
            let bytes = REQUEST.len() as u64;
            assert_eq!(turns[0].end_offset, bytes, "handshake {n}");
            assert_eq!(turns[0].ttl_min, 77);
            if lost || lost_request {
                // Whether the tap saw what was lost, nobody can say.
                repeated += 1;
            } else {
                let found = (turns[0].segments, turns[0].ip_bytes);
                assert_eq!(found, (1, bytes + 40), "handshake {n}");
            }
            reset_on_close(&ours);
        }
        filter_nothing();
        assert!(repeated < HANDSHAKES / 10, "{repeated} were lost");
    });
}

/// Tries `step` until it does not time out, each time after having sent `again`; says whether that
/// was needed.
fn until_there<T>(again: impl Fn(), mut step: impl FnMut() -> std::io::Result<T>) -> (T, bool) {
    for tries in 0..20 {
        match step() {
            Ok(there) => return (there, tries > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => again(),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("what was sent twenty times never came");
}

/// The sequence number of the SYN-ACK that goes to `port`.
fn answer_to(answers: &impl std::os::fd::AsFd, port: u16) -> u32 {
    let mut packet = [0; 256];
    loop {
        let (length, _) = recv(answers, &mut packet, RecvFlags::empty()).unwrap();
        let tcp = &packet[20..length];
        let is_ours = tcp[2..4] == port.to_be_bytes() && tcp[13] == SYN | ACK;
        if is_ours {
            return u32::from_be_bytes(tcp[4..8].try_into().unwrap());
        }
    }
}
