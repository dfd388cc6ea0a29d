//! Packets that TCP refuses: they change nothing in a ledger.

use rustix::net::{SendFlags, sendto};

use crate::forged::{ACK, FIN, RST, forged, raw_socket, v4};
use crate::support::{LOOPBACK, eventually, in_own_network, tapped, transfer};

#[test]
fn forged_packets_change_nothing_but_a_counter() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        let listener = tapped.listen(LOOPBACK);
        let (mut client, mut ours, ledger) = tapped.pair(&listener);
        transfer(&mut client, &mut ours, 1000);
        transfer(&mut ours, &mut client, 500);
        eventually("all is acknowledged", || ledger.acked_offset() == 500);
        let identity = ledger.identity().unwrap();
        let next = identity.receive_base.unwrap().wrapping_add(1000);
        let acked = identity.send_base.unwrap().wrapping_add(500);
        let (from, to) = (v4(identity.peer), v4(identity.local));
        let raw = raw_socket();
        let far = 1 << 31;
        let send = |seq: u32, ack: u32, flags: u8, payload: &[u8]| {
            let packet = forged(from, to, seq, ack, flags, payload);
            sendto(&raw, &packet, SendFlags::empty(), &to).unwrap();
        };
        let before = ledger.counters(0);
        for (seq, ack, flags, payload, reason) in [
            (
                next.wrapping_add(far),
                acked,
                ACK,
                &b"too far ahead"[..],
                "out_of_window",
            ),
            (
                next.wrapping_sub(far),
                acked,
                ACK,
                b"too far behind",
                "out_of_window",
            ),
            (
                next,
                acked.wrapping_add(1),
                ACK,
                b"acknowledges the unsent",
                "bad_ack",
            ),
            (next, acked.wrapping_add(far - 1), ACK, b"", "bad_ack"),
            (next, acked, 0, b"no ACK at all", "bad_ack"),
            // Our FIN was not sent, so nobody can acknowledge it.
            (next, acked.wrapping_add(1), ACK | FIN, b"", "bad_ack"),
        ] {
            let booked = tapped.dropped(reason);
            send(seq, ack, flags, payload);
            eventually("it is booked", || tapped.dropped(reason) == booked + 1);
        }
        send(next.wrapping_add(far), 0, RST, b"");
        let after = ledger.counters(0);
        assert_eq!(after, before);
        assert_eq!(ledger.received(&(0..10_000)).turns.len(), 1);
        // And the connection goes on, with ranges as if nothing had been.
        transfer(&mut client, &mut ours, 10);
        transfer(&mut ours, &mut client, 20);
        assert_eq!(
            (ledger.received_offset(), ledger.sent_offset()),
            (1010, 520)
        );
        drop(client);
        eventually("it ended", || ledger.counters(0).close.is_some());
        assert_eq!(
            ledger.counters(0).close,
            Some(calltap_correlate::socket::Close::FinPeer)
        );
    });
}
