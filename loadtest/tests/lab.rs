//! The lab itself: hosts that reach each other, a client that speaks TCP by hand, and nothing left.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use calltap_loadtest::backend::{Backend, Transport};
use calltap_loadtest::lab::{self, Lab};
use calltap_loadtest::raw_client::{RawClient, quiet_kernel};

#[test]
fn a_client_by_hand_is_served_across_the_cable_and_the_lab_leaves_nothing() {
    if let Some(reason) = lab::missing() {
        eprintln!("SKIPPED: a lab needs network namespaces of its own: {reason}");
        return;
    }
    let lab = Lab::build().unwrap();
    let paths = [lab.client.path(), lab.gateway.path(), lab.upstream.path()];
    lab.set_rto_min(lab::CLIENT, 1_000).unwrap();
    quiet_kernel(&lab.client).unwrap();

    let listener = lab
        .gateway
        .run(|| TcpListener::bind((lab::GATEWAY, 0)))
        .unwrap()
        .unwrap();
    let backend = Backend::serve(listener, Transport::Plain).unwrap();
    let local = SocketAddr::new(lab::CLIENT, 61_000);
    let address = backend.address();
    let mut client = lab
        .client
        .run(|| RawClient::connect(local, address))
        .unwrap()
        .unwrap();
    let request = b"GET /status/200 HTTP/1.1\r\n\r\n";
    // The client fails on a segment that comes twice: the late ACK must not look like a loss.
    for delay in [Duration::ZERO, Duration::from_millis(300), Duration::ZERO] {
        assert!(client.call(request, b"as asked\n", delay).unwrap() >= delay);
    }
    client.close().unwrap();

    assert!(paths.iter().all(|path| Path::new(path).exists()));
    drop(lab);
    assert!(paths.iter().all(|path| !Path::new(path).exists()));
}
