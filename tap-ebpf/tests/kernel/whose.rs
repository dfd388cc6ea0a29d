//! Whose sockets are tapped, and who they say they are.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use calltap_correlate::socket::SocketIdentity;
use calltap_tap::{Tap, TapError, TapOptions, monotonic_ns, tcp_info};

use crate::support::{
    LOOPBACK, cookie_of, eventually, in_own_network, run, set_option, tapped, transfer,
};

const LOOPBACK_V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0);
const ANY_V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

#[track_caller]
fn check_handshake(identity: &SocketIdentity, before_ns: u64) {
    let syn_ns = identity.syn_ns.expect("the SYN was seen");
    let established_ns = identity.established_ns.expect("it is established");
    assert!(before_ns <= syn_ns && syn_ns <= established_ns && established_ns <= monotonic_ns());
    assert!(identity.receive_base.is_some() && identity.send_base.is_some());
}

#[test]
fn a_connection_says_who_it_is_over_either_protocol() {
    let Some(tapped) = tapped(16) else { return };
    for (at, dual_stack) in [(LOOPBACK, false), (LOOPBACK_V6, false), (ANY_V6, true)] {
        let listener = tapped.listen(at);
        let before_ns = monotonic_ns();
        let port = listener.local_addr().unwrap().port();
        let (mut client, (mut ours, peer)) = if dual_stack {
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            (client, listener.accept().unwrap())
        } else {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener.accept().unwrap())
        };
        // The dual-stack socket itself sees an IPv4-mapped address; the identity does not.
        assert_eq!(peer.ip().is_ipv6(), at.is_ipv6());
        let ledger = tapped.ledger(cookie_of(&ours));
        let identity = ledger.identity().unwrap();
        assert_eq!(identity.local, client.peer_addr().unwrap());
        assert_eq!(identity.peer, client.local_addr().unwrap());
        check_handshake(&identity, before_ns);

        transfer(&mut client, &mut ours, 300);
        transfer(&mut ours, &mut client, 200);
        assert_eq!((ledger.received_offset(), ledger.sent_offset()), (300, 200));
        let headers = if identity.peer.is_ipv4() {
            20 + 32
        } else {
            40 + 32
        };
        let received = ledger.counters(0).received.unwrap();
        assert_eq!(
            (received.segments, received.ip_bytes),
            (1, Some(300 + headers))
        );
    }
}

#[test]
fn the_identity_from_a_ledger_and_from_the_socket_agree() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(ANY_V6);
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    let of_the_ledger = tapped.ledger(cookie_of(&ours)).identity().unwrap();
    let of_the_socket = tcp_info::identity(&ours).unwrap();
    assert_eq!(of_the_ledger.cookie, of_the_socket.cookie);
    assert_eq!(of_the_ledger.local, of_the_socket.local);
    assert_eq!(of_the_ledger.peer, of_the_socket.peer);
}

#[test]
fn the_syn_is_kept_as_it_came() {
    let Some(tapped) = tapped(16) else { return };
    let listener = tapped.listen(LOOPBACK);
    let (client, _ours, ledger) = tapped.pair_with(&listener, |client| {
        set_option(client, libc::IPPROTO_IP, libc::IP_TTL, 99);
        set_option(client, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1200);
    });
    let identity = ledger.identity().unwrap();
    let syn = identity.syn_headers.as_slice();
    let port = |at: usize| u16::from_be_bytes([syn[at], syn[at + 1]]);
    assert_eq!((syn[0], syn[8], syn[9]), (0x45, 99, 6));
    assert_eq!(port(20), client.local_addr().unwrap().port());
    assert_eq!(port(22), listener.local_addr().unwrap().port());
    let sequence = u32::from_be_bytes(syn[24..28].try_into().unwrap());
    assert_eq!(identity.receive_base, Some(sequence.wrapping_add(1)));
    assert_eq!(syn[33], 0x02, "a SYN and nothing else");
    // The first option is the maximum segment size.
    assert_eq!(&syn[40..44], &[2, 4, 0x04, 0xb0]);
    assert_eq!(syn.len(), 20 + usize::from(syn[32] >> 4) * 4);
    // The last one scales the window, behind a no-operation.
    let [.., 1, 3, 3, shift] = *syn else {
        panic!("{syn:?}")
    };
    assert_eq!(identity.peer_window_shift, Some(shift));
}

#[test]
fn under_syn_cookies_only_the_syn_is_missing() {
    let Some(tapped) = tapped(16) else { return };
    in_own_network(|| {
        run("sysctl", &["-qw", "net.ipv4.tcp_syncookies=2"]);
        let listener = tapped.listen(LOOPBACK);
        let (mut client, mut ours, ledger) = tapped.pair(&listener);
        transfer(&mut client, &mut ours, 300);
        transfer(&mut ours, &mut client, 200);
        let identity = ledger.identity().unwrap();
        assert!(identity.syn_headers.is_empty());
        assert_eq!(identity.peer_window_shift, None);
        assert_eq!((ledger.received_offset(), ledger.sent_offset()), (300, 200));
        eventually("all is acknowledged", || ledger.acked_offset() == 200);
    });
}

#[test]
fn an_announced_upstream_is_followed_from_its_connect() {
    let Some(tapped) = tapped(16) else { return };
    for at in [LOOPBACK, LOOPBACK_V6] {
        let backend = TcpListener::bind(at).unwrap();
        let before_ns = monotonic_ns();
        let (mut ours, ledger) = tapped.connect(backend.local_addr().unwrap());
        let (mut server, _) = backend.accept().unwrap();

        let identity = ledger.identity().unwrap();
        assert!(identity.peer_window_shift.is_some_and(|shift| shift <= 14));
        assert!(identity.syn_headers.is_empty(), "nobody sent us one");
        assert_eq!(identity.local, ours.local_addr().unwrap());
        assert_eq!(identity.peer, backend.local_addr().unwrap());
        check_handshake(&identity, before_ns);
        let counters = ledger.counters(0);
        assert!(counters.handshake_rtt_us.is_some() && counters.min_rtt_us.is_some());

        transfer(&mut ours, &mut server, 1234);
        transfer(&mut server, &mut ours, 99);
        assert_eq!((ledger.sent_offset(), ledger.received_offset()), (1234, 99));
        // The backend's end is in the same cgroup, and nobody asked for it.
        assert!(tapped.tap.ledger(cookie_of(&server)).is_none());
    }
}

#[test]
fn only_what_was_asked_for_is_tapped() {
    let Some(tapped) = tapped(16) else { return };
    let owned = tapped.listen(LOOPBACK);
    let admin = TcpListener::bind(LOOPBACK).unwrap();
    let backend = TcpListener::bind(LOOPBACK).unwrap();
    let (_client, ours, _ledger) = tapped.pair(&owned);

    let mut client = TcpStream::connect(admin.local_addr().unwrap()).unwrap();
    let (mut scraped, _) = admin.accept().unwrap();
    transfer(&mut client, &mut scraped, 1000);
    let unannounced = TcpStream::connect(backend.local_addr().unwrap()).unwrap();
    for socket in [&scraped, &client, &unannounced] {
        assert!(tapped.tap.ledger(cookie_of(socket)).is_none());
    }
    assert!(tapped.tap.ledger(cookie_of(&ours)).is_some());
    assert_eq!(tapped.tap.usage().slots_used, 1);
    assert!(tapped.tap.drops().iter().all(|(_, count)| *count == 0));
}

#[test]
fn what_is_no_tcp_socket_cannot_be_owned() {
    let Some(tapped) = tapped(16) else { return };
    let file = fs::File::open("/proc/self/stat").unwrap();
    assert!(tapped.tap.own_listener(file.as_fd()).is_err());
}

#[test]
fn the_cgroup_is_ours_and_gone_afterwards() {
    let Some(tapped) = tapped(16) else { return };
    let membership = || fs::read_to_string("/proc/self/cgroup").unwrap();
    let (path, ours) = tapped.tap.cgroup();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(ours && path.is_dir());
    assert!(membership().contains(&name));
    let path = path.to_owned();
    let _turn = tapped.stop();
    assert!(!path.exists());
    assert!(!membership().contains(&name));
}

#[test]
fn what_a_killed_process_left_is_removed_at_the_next_start() {
    let Some(first) = tapped(16) else { return };
    let (ours, _) = first.tap.cgroup();
    // No process has such a number, and the first one always runs.
    let (dead, alive) = (ours.join("calltap-99999999"), ours.join("calltap-1"));
    fs::create_dir(&dead).unwrap();
    fs::create_dir(&alive).unwrap();
    let second = Tap::start(&TapOptions {
        cgroup: None,
        sockets_max: 4,
        ..TapOptions::default()
    });
    assert_eq!((dead.is_dir(), alive.is_dir()), (false, true));
    drop(second);
    fs::remove_dir(&alive).unwrap();
}

#[test]
fn a_cgroup_can_be_given_but_never_the_machines_root() {
    let Some(first) = tapped(16) else { return };
    let (ours, _) = first.tap.cgroup();
    let (given, root) = (ours.join("given"), ours.parent().unwrap());
    fs::create_dir(&given).unwrap();
    let start = |cgroup: &std::path::Path| {
        Tap::start(&TapOptions {
            cgroup: Some(cgroup.to_owned()),
            sockets_max: 4,
            ..TapOptions::default()
        })
    };
    let second = start(&given).expect("a cgroup below ours can be tapped");
    assert_eq!(second.cgroup(), (given.as_path(), false));
    drop(second);
    assert!(given.is_dir(), "it is not ours to remove");
    fs::remove_dir(&given).unwrap();

    if !root.join("cgroup.events").exists() {
        let refused = start(root).err().expect("the root is refused");
        assert!(matches!(refused, TapError::Cgroup(_)), "{refused}");
        assert!(refused.to_string().contains("never tapped"), "{refused}");
    }
    let refused = start(std::path::Path::new("/proc")).err().unwrap();
    assert!(refused.to_string().contains("/proc"), "{refused}");
}
