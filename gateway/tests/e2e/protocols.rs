//! What is not plain HTTP/1.1 on both sides: HTTP/2 by ALPN and by prior knowledge, WebSocket, Unix
//! sockets, TLS to the upstream. The clients of HTTP/2 are real ones.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use serde_json::json;

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, Launch, simple};
use crate::common::certificates::Authority;
use crate::common::client::Client;
use crate::common::record::Record;
use crate::common::{tap_if_possible, tap_unavailable};

/// What curl says of itself after a call with these arguments.
fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version} %{http_code}",
        ])
        .args(arguments)
        .output()
        .expect("curl, which scripts/bootstrap --test installs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn start(more: &str) -> (Backend, Calltap) {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple(
        &format!("{}{more}", tap_if_possible()),
        backend.address(),
    ));
    (backend, calltap)
}

#[test]
fn http2_by_prior_knowledge_shares_its_connection() {
    let (_backend, calltap) = start("defaults.listener.h2c = true");
    let url = format!("http://{}/bytes/7", calltap.address());
    assert_eq!(curl(&["--http2-prior-knowledge", &url]), "2 200");
    let record = calltap.finish_one();
    record.expect(json!({
        "network.protocol.version": "2",
        "url.scheme": "http",
        "http.response.body.size": 7,
        "delivered_us": null,
        "time.gateway_us": null,
    }));
    record.expect_if_tapped(json!({
        "coverage": "ebpf", "attribution": "shared", "client.attribution_reason": "multiplexed",
        "client.socket.streams": 1, "upstream.attribution": "exact",
    }));
    if tap_unavailable().is_none() {
        // Preface, settings and the request; settings and the response with its seven bytes.
        assert!(record.number("client.wire.bytes_in") > 24 + 9 + 9);
        assert!(record.number("client.wire.bytes_out") > 9 + 9 + 9 + 7);
    }
}

#[test]
fn rules_and_upstreams_see_the_host_and_the_cookies_of_http2() {
    let (backend, calltap) = start(
        r#"
        defaults.listener.h2c = true
        records.request_headers = ["host"]
        [[policies.rules]]
        name = "known"
        when = '''http.request.header["host"] == "api.test"
            && http.request.header["cookie"] == "a=1; b=2; c=3"'''
        then = "allow"
        [[policies.rules]]
        name = "others"
        when = "true"
        then = "deny"
        "#,
    );
    let url = format!("http://{}/bytes/7", calltap.address());
    for (host, expected) in [("Host: api.test", "2 200"), ("Host: evil.test", "2 403")] {
        let said = curl(&[
            "--http2-prior-knowledge",
            "-H",
            host,
            "-H",
            "Cookie: a=1",
            "-H",
            "Cookie: b=2; c=3",
            &url,
        ]);
        assert_eq!(said, expected, "{host}");
    }
    let served = backend.shared().served(1);
    let head = &served[0].head;
    assert_eq!(head.header("host"), Some("api.test"));
    assert_eq!(head.header("cookie"), Some("a=1; b=2; c=3"));
    let mut hosts: Vec<String> = calltap
        .finish(2)
        .iter()
        .map(|record| record.text("http.request.header.host").to_owned())
        .collect();
    hosts.sort();
    assert_eq!(hosts, ["api.test", "evil.test"]);
}

/// A call by curl to a TLS listener.
fn secure_call(flag: &str) -> (String, Record) {
    let launch = Launch::new();
    let authority = Authority::new();
    authority.issue("api.test", launch.directory(), "server");
    let backend = Backend::start();
    let calltap = launch.start(&format!(
        "{}[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"server.pem\", key = \"server.key\" }}\n\
         [[routes]]\nupstream = \"backend\"\n[upstreams.backend]\nendpoints = [\"{}\"]\n",
        tap_if_possible(),
        backend.address()
    ));
    let port = calltap.address().port();
    let resolve = format!("api.test:{port}:127.0.0.1");
    let url = format!("https://api.test:{port}/bytes/7");
    let said = curl(&["-k", flag, "--resolve", &resolve, &url]);
    (said, calltap.finish_one())
}

#[test]
fn http2_by_alpn_says_so_and_who_the_client_seems_to_be() {
    let (said, record) = secure_call("--http2");
    assert_eq!(said, "2 200");
    record.expect(json!({
        "url.scheme": "https",
        "network.protocol.version": "2",
        "tls.established": true,
        "tls.protocol.version": "1.3",
        "tls.next_protocol": "h2",
        "tls.client.server_name": "api.test",
    }));
    assert!(record.text("tls.client.ja4").starts_with("t13d"));
}

#[test]
fn http1_over_tls_counts_the_bytes_of_the_wire() {
    let (said, record) = secure_call("--http1.1");
    assert_eq!(said, "1.1 200");
    record.expect(json!({
        "network.protocol.version": "1.1",
        "tls.next_protocol": "http/1.1",
        "http.response.body.size": 7,
    }));
    record.expect_if_tapped(json!({ "coverage": "ebpf", "settled": "acked" }));
}

#[test]
fn an_upgraded_connection_is_one_call_until_it_closes() {
    let (_backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    let request = "GET /upgrade HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\n\r\n";
    client.send(request);
    let head = client.wire().head().expect("a head").expect("a head");
    assert_eq!(head.word(1), "101");
    for frame in ["frame1", "frame2"] {
        client.send(frame);
        assert_eq!(client.wire().exactly(6).expect("an echo"), frame.as_bytes());
    }
    let (sent, taken) = (client.wire().sent(), client.wire().taken());
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 101,
        "network.protocol.name": "websocket",
        "response.flags": null,
        "error.type": null,
    }));
    record.expect_if_tapped(json!({
        "attribution": "exact",
        "client.wire.bytes_in": sent,
        "client.wire.bytes_out": taken,
    }));
}

#[test]
fn an_event_reaches_the_client_before_the_next_one_exists() {
    let (backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    client.send("GET /events HTTP/1.1\r\nHost: api.test\r\nAccept: text/event-stream\r\n\r\n");
    let head = client.wire().head().expect("a head").expect("a head");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let first = client.wire().exactly(18).expect("an event");
    assert_eq!(first, b"D\r\ndata: first\n\n\r\n");
    assert!(calltap.records_now().is_empty(), "the call is not over");
    backend.shared().open_gate();
    let rest = client.wire().exactly(24).expect("the rest");
    assert_eq!(rest, b"E\r\ndata: second\n\n\r\n0\r\n\r\n");
    let taken = client.wire().taken();
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({ "http.response.body.size": 27, "error.type": null }));
    record.expect_if_tapped(json!({ "client.wire.bytes_out": taken }));
    if tap_unavailable().is_none() {
        record.expect_exact();
    }
}

#[test]
fn an_ipv4_client_of_a_dual_stack_listener_is_an_ipv4_client() {
    let backend = Backend::start();
    let config = simple(tap_if_possible(), backend.address()).replace("127.0.0.1:0", "[::]:0");
    let calltap = Calltap::start(&config);
    let port = calltap.address().port();
    let mut v4 = Client::connect(([127, 0, 0, 1], port).into());
    let mut v6 = Client::connect((std::net::Ipv6Addr::LOCALHOST, port).into());
    let (v4_port, v6_port) = (v4.local().port(), v6.local().port());
    assert_eq!(v4.get("/bytes/1").status(), 200);
    assert_eq!(v6.get("/bytes/1").status(), 200);
    drop((v4, v6));
    let records = calltap.finish(2);
    records[0].expect(json!({
        "network.type": "ipv4",
        "network.peer.address": "127.0.0.1", "network.peer.port": v4_port,
        "network.local.address": "127.0.0.1", "network.local.port": port,
        "client.address": "127.0.0.1",
    }));
    records[1].expect(json!({
        "network.type": "ipv6",
        "network.peer.address": "::1", "network.peer.port": v6_port,
        "network.local.address": "::1", "network.local.port": port,
        "client.address": "::1",
    }));
    records[0].expect_if_tapped(json!({ "client.syn.options": "mss,sok,ts,nop,ws" }));
    if tap_unavailable().is_none() {
        records.iter().for_each(|record| {
            record.expect_exact();
        });
        assert!(records[0].text("client.syn.p0f").starts_with("4:"));
        assert!(records[1].text("client.syn.p0f").starts_with("6:"));
    }
}

#[test]
fn a_unix_socket_has_no_packets_to_speak_of() {
    let launch = Launch::new();
    let listener = UnixListener::bind(launch.directory().join("app.sock")).expect("a socket");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = [0; 4096];
        let n = stream.read(&mut head).expect("a request");
        assert!(n > 0);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .expect("a reader");
    });
    let path = launch.directory().join("app.sock");
    let calltap = launch.start(&simple(
        tap_if_possible(),
        format!("unix:{}", path.display()),
    ));
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/any").text(), "ok");
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 200,
        "upstream.coverage": "none",
        "upstream.coverage_reason": "unix_socket",
        "upstream.address": format!("unix:{}", path.display()),
        "upstream.port": null,
    }));
    record.expect_if_tapped(json!({ "client.coverage": "ebpf", "coverage": "none" }));
    assert_eq!(record.outcomes(), ["ok"]);
}
