//! What goes wrong leaves one record that says what it was.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::common::backend::{Backend, Refusing};
use crate::common::calltap::{Calltap, Launch, simple};
use crate::common::certificates::Authority;
use crate::common::client::{Client, Response};
use crate::common::record::Record;
use crate::common::{skipped, tap_if_possible, wait_for};

fn start(more: &str) -> (Backend, Calltap) {
    let backend = Backend::start();
    let more = format!("{}{more}", tap_if_possible());
    let calltap = Calltap::start(&simple(&more, backend.address()));
    (backend, calltap)
}

/// A GET that calltap answers on its own or passes on in part.
fn call(path: &str, more: &str) -> (Response, Record) {
    let (backend, calltap) = start(more);
    let mut client = Client::connect(calltap.address());
    let response = client.get(path);
    drop(client);
    drop(backend);
    (response, calltap.finish_one())
}

#[test]
fn a_backend_that_resets_before_it_answers_is_a_502() {
    let (response, record) = call("/reset", "");
    assert_eq!(response.status(), 502);
    record.expect(json!({
        "kind": "call",
        "http.response.status_code": 502,
        "upstream.http.response.status_code": null,
        "response.flags": ["upstream_reset"],
        "error.type": "upstream_reset",
        "http.request.body.size": 0,
        "http.response.body.size": response.body.bytes.len(),
    }));
    assert_eq!(record.outcomes(), ["reset"]);
    record.expect_if_tapped(json!({
        "upstream.tcp.close": "rst_in",
        "client.attribution": "exact",
        "client.wire.bytes_out": response.wire_bytes,
        "settled": "acked",
    }));
}

#[test]
fn a_backend_that_answers_nonsense_is_a_502() {
    let (response, record) = call("/garbage", "");
    assert_eq!(response.status(), 502);
    record.expect(json!({
        "http.response.status_code": 502,
        "upstream.http.response.status_code": null,
        "response.flags": ["upstream_protocol_error"],
        "error.type": "upstream_protocol_error",
    }));
    assert_eq!(record.outcomes(), ["protocol_error"]);
}

#[test]
fn a_backend_that_says_nothing_is_a_504() {
    let (response, record) = call("/silent", "limits.upstream_read_ms = 200");
    assert_eq!(response.status(), 504);
    record.expect(json!({
        "http.response.status_code": 504,
        "response.flags": ["upstream_timeout"],
        "error.type": "upstream_timeout",
    }));
    assert_eq!(record.outcomes(), ["timeout"]);
}

#[test]
fn a_call_that_takes_longer_than_it_may_is_a_504() {
    let (response, record) = call("/silent", "limits.total_ms = 200");
    assert_eq!(response.status(), 504);
    record.expect(json!({
        "http.response.status_code": 504,
        "response.flags": ["timeout"],
        "error.type": "timeout",
    }));
    assert_eq!(record.outcomes(), ["timeout"]);
}

#[test]
fn a_stream_that_takes_longer_than_it_may_is_cut_off() {
    let (_backend, calltap) = start("defaults.listener.h2c = true\nlimits.total_ms = 300");
    let url = format!("http://{}/drip", calltap.address());
    let curl = Command::new("curl")
        .args(["--silent", "--http2-prior-knowledge", &url])
        .stdout(Stdio::null())
        .status();
    let Ok(status) = curl else {
        return skipped("curl is not installed");
    };
    assert!(!status.success(), "it was told that something is missing");
    calltap.finish_one().expect(json!({
        "network.protocol.version": "2",
        "http.response.status_code": 200,
        "response.flags": ["timeout"],
        "error.type": "timeout",
    }));
}

#[test]
fn a_client_that_stops_in_its_body_is_not_the_backends_fault() {
    let (_backend, calltap) = start("limits.upstream_read_ms = 200");
    let mut client = Client::connect(calltap.address());
    client.send("PUT /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100\r\n\r\nonly this");
    assert_eq!(client.response("PUT").status(), 408);
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 408,
        "response.flags": ["client_timeout"],
        "error.type": "client_timeout",
    }));
    assert_eq!(record.outcomes(), ["abandoned"]);
}

#[test]
fn a_handshake_that_the_backend_does_not_answer_is_a_504() {
    let launch = Launch::new();
    // The kernel accepts for it, and nobody reads.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound");
    Authority::new().issue("api.test", launch.directory(), "any");
    let calltap = launch.start(&format!(
        "limits.connect_ms = 200\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[routes]]\nupstream = \"backend\"\n[upstreams.backend]\nendpoints = [\"{address}\"]\n\
         retries = 0\ntls = {{ server_name = \"api.test\", ca = \"any.pem\" }}\n"
    ));
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/x").status(), 504);
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "response.flags": ["upstream_tls_timeout"],
        "error.type": "upstream_tls_timeout",
        "upstream.cluster": "backend",
    }));
    assert_eq!(record.outcomes(), ["tls_timeout"]);
}

const UPGRADE: &str =
    "HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn an_upgraded_connection_may_be_silent_for_as_long_as_it_is_said() {
    let (_backend, calltap) = start(
        "limits.client_stall_ms = 100\nlimits.upstream_read_ms = 100\nlimits.upgraded_idle_ms = 600",
    );
    let mut client = upgraded(&calltap, "/upgrade");
    let _ = client.wire().rest();
    drop(client);
    calltap.finish_one().expect(json!({
        "http.response.status_code": 101,
        "response.flags": ["idle_timeout"],
        "error.type": "idle_timeout",
    }));
}

/// A connection that has been upgraded and has echoed a frame.
fn upgraded(calltap: &Calltap, path: &str) -> Client {
    let mut client = Client::connect(calltap.address());
    client.send(format!("GET {path} {UPGRADE}"));
    let head = client.wire().head().expect("a head").expect("a head");
    assert_eq!(head.word(1), "101");
    client.send("frame1");
    assert_eq!(client.wire().exactly(6).expect("an echo"), b"frame1");
    client
}

#[test]
fn an_upgraded_connection_that_is_cut_off_did_not_end_by_itself() {
    let (_backend, mut calltap) = start("shutdown.grace_s = 0");
    let client = upgraded(&calltap, "/upgrade");
    calltap.signal(Signal::TERM);
    assert!(calltap.ended().status.success());
    drop(client);
    let records = calltap.records_now();
    assert_eq!(records.len(), 1, "{records:#?}");
    records[0].expect(json!({
        "http.response.status_code": 101,
        "response.flags": ["shutdown"],
        "error.type": "shutdown",
    }));
}

#[test]
fn an_upgraded_connection_that_the_backend_resets_was_answered() {
    let (_backend, calltap) = start("");
    let mut client = upgraded(&calltap, "/upgrade-reset");
    client.send("frame2");
    let _ = client.wire().rest();
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 101,
        "response.flags": ["upstream_reset"],
        "error.type": "upstream_reset",
    }));
    record.expect_if_tapped(json!({
        "upstream.http.response.body.size": 6,
        "upstream.http.response.body.discarded": 0,
    }));
}

#[test]
fn an_upgrade_that_is_not_answered_is_a_504() {
    let (_backend, calltap) = start("limits.upstream_read_ms = 200");
    let mut client = Client::connect(calltap.address());
    client.send(format!("GET /silent {UPGRADE}"));
    assert_eq!(client.response("GET").status(), 504);
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "response.flags": ["upstream_timeout"],
        "error.type": "upstream_timeout",
    }));
    assert_eq!(record.outcomes(), ["timeout"]);
}

#[test]
fn a_backend_that_closes_in_the_middle_of_the_response_ends_it_there() {
    let (response, record) = call("/half-close", "");
    assert_eq!(
        (response.status(), response.text().as_str()),
        (200, "first")
    );
    assert!(!response.body.complete);
    record.expect(json!({
        "http.response.status_code": 200,
        "upstream.http.response.status_code": 200,
        "http.response.body.size": 5,
        "response.flags": ["upstream_closed"],
        "error.type": "upstream_closed",
    }));
    assert_eq!(record.outcomes(), ["closed"]);
    record.expect_if_tapped(json!({
        "upstream.tcp.close": "fin_peer",
        "client.wire.bytes_out": response.wire_bytes,
    }));
}

#[test]
fn a_backend_that_resets_in_the_middle_of_the_response_ends_it_there() {
    let (backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    client.send("GET /half-reset HTTP/1.1\r\nHost: api.test\r\n\r\n");
    let head = client.wire().head().expect("a head").expect("a head");
    assert_eq!(client.wire().exactly(5).expect("the first half"), b"first");
    backend.shared().open_gate();
    let rest = client.wire().rest();
    assert!(rest.is_err() || rest.is_ok_and(|rest| rest.is_empty()));
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 200,
        "http.response.body.size": 5,
        "response.flags": ["upstream_reset"],
        "error.type": "upstream_reset",
    }));
    assert_eq!(head.word(1), "200");
    assert_eq!(record.outcomes(), ["reset"]);
    record.expect_if_tapped(json!({ "upstream.tcp.close": "rst_in" }));
}

/// A real server in front of a file of `bytes`, slow enough to be killed while it sends.
fn nginx(launch: &Launch, address: std::net::SocketAddr, bytes: u64) -> std::process::Child {
    // A directory of its own, which it gives to the user it would like to be.
    let directory = launch.directory().join("nginx");
    fs::create_dir(&directory).expect("created");
    let file = fs::File::create(directory.join("large")).expect("created");
    file.set_len(bytes).expect("as long");
    let root = directory.display();
    fs::write(
        directory.join("nginx.conf"),
        format!(
            "user root; daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/nginx.log;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {root}; proxy_temp_path {root};\n\
             fastcgi_temp_path {root}; uwsgi_temp_path {root}; scgi_temp_path {root};\n\
             server {{ listen {address}; root {root}; limit_rate 64k; }} }}\n"
        ),
    )
    .expect("written");
    let child = Command::new("nginx")
        .args([
            "-p",
            &root.to_string(),
            "-c",
            "nginx.conf",
            "-e",
            "nginx.log",
        ])
        .stdin(Stdio::null())
        .spawn()
        .expect("nginx starts");
    wait_for("nginx to listen", || {
        std::net::TcpStream::connect(address).ok()
    });
    child
}

#[test]
fn a_backend_that_is_killed_in_the_middle_of_the_response_ends_it_there() {
    if Command::new("nginx")
        .arg("-v")
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        return skipped("nginx is not installed");
    }
    let launch = Launch::new();
    // nginx takes no port 0: one that was free a moment ago.
    let address = Backend::start().address();
    let mut nginx = nginx(&launch, address, 10_000_000);
    let calltap = launch.start(&simple(tap_if_possible(), address));
    let mut client = Client::connect(calltap.address());
    client.send("GET /large HTTP/1.1\r\nHost: api.test\r\n\r\n");
    let head = client.wire().head().expect("a head").expect("a head");
    assert_eq!(head.header("content-length"), Some("10000000"));
    let begun = client.wire().exactly(1000).expect("the begin");
    nginx.kill().expect("our child");
    nginx.wait().expect("our child");
    let rest = client
        .wire()
        .rest()
        .expect("a connection that is closed, not reset");
    let received = begun.len() + rest.len();
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 200,
        "upstream.http.response.status_code": 200,
        "http.response.body.size": received,
    }));
    let flag = record.text("error.type");
    assert!(
        matches!(flag, "upstream_closed" | "upstream_reset"),
        "{record:?}"
    );
    record.expect(json!({ "response.flags": [flag] }));
    assert_eq!(record.outcomes(), [flag.trim_start_matches("upstream_")]);
    record.expect_if_tapped(json!({
        "client.wire.bytes_out": received + head.text.len(),
        "client.attribution": "exact",
        "client.tcp.close": "fin_local",
    }));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_request_is_said_to_have() {
    let (backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    let head = "POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100\r\n\r\n";
    client.send(format!("{head}only this"));
    // Its bytes are read before the reset can overtake them.
    backend.shared().wait_asked("/echo");
    client.reset();
    let record = calltap.finish_one();
    record.expect(json!({
        "kind": "call",
        "http.request.method": "POST",
        "http.response.status_code": null,
        "http.response.body.size": null,
        "http.request.body.size": 9,
        "response.flags": ["client_abort"],
        "error.type": "client_abort",
    }));
    record.expect_if_tapped(json!({
        "client.wire.bytes_in": head.len() + 9,
        "client.wire.bytes_out": 0,
        "client.tcp.close": "rst_in",
        "client.attribution": "exact",
        "settled": "closed",
    }));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_the_response_is_said_to_have() {
    let (backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    client.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
    let head = client.wire().head().expect("a head").expect("a head");
    client.wire().exactly(5).expect("the first half");
    client.reset();
    let record = calltap.records(1).remove(0);
    backend.shared().open_gate();
    calltap.finish(1);
    record.expect(json!({
        "http.response.status_code": 200,
        "http.response.body.size": 5,
        "response.flags": ["client_abort"],
        "error.type": "client_abort",
    }));
    record.expect(json!({ "upstream.http.response.body.size": 5 }));
    record.expect_if_tapped(json!({
        "client.wire.bytes_out": head.text.len() + 5,
        "client.tcp.bytes_acked": head.text.len() + 5,
        "client.tcp.bytes_unsent": 0,
        "client.tcp.close": "rst_in",
        "client.tcp.rtos": 0,
        "upstream.http.response.body.discarded": 0,
        "settled": "acked",
    }));
}

#[test]
fn a_client_that_leaves_while_the_backend_thinks_is_said_to_have() {
    let (backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    client.send("GET /silent HTTP/1.1\r\nHost: api.test\r\n\r\n");
    backend.shared().wait_asked("/silent");
    client.reset();
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": null,
        "response.flags": ["client_abort"],
        "error.type": "client_abort",
    }));
    record.expect_if_tapped(json!({ "client.tcp.close": "rst_in", "settled": "closed" }));
}

#[test]
fn a_refused_upstream_is_a_502() {
    let refusing = Refusing::start();
    let refused = refusing.address();
    let calltap = Calltap::start(&simple(tap_if_possible(), refused));
    let mut client = Client::connect(calltap.address());
    let response = client.get("/x");
    assert_eq!(response.status(), 502);
    drop(client);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 502,
        "response.flags": ["upstream_refused"],
        "error.type": "upstream_refused",
        "upstream.address": "127.0.0.1",
        "upstream.port": refused.port(),
    }));
    record.expect(json!({ "upstream.cluster": "backend" }));
    assert_eq!(record.outcomes(), ["refused"]);
    record.expect_if_tapped(json!({ "client.attribution": "exact" }));
}

/// Sends bytes that are no call, and returns what came back with the record.
fn no_call(more: &str, bytes: &str) -> (Option<Response>, Record) {
    let (_backend, calltap) = start(more);
    let mut client = Client::connect(calltap.address());
    client.send(bytes);
    let response = client.try_response("GET").expect("no reset");
    drop(client);
    (response, calltap.finish_one())
}

#[test]
fn a_request_line_that_is_none_is_a_connection_that_failed() {
    let (response, record) = no_call("", "this is not HTTP\r\n\r\n");
    assert_eq!(response.expect("an answer").status(), 400);
    record.expect(json!({
        "kind": "connection",
        "connection.stage": "head",
        "error.type": "bad_request",
        "http.response.status_code": 400,
        "http.request.method": null,
        "network.peer.address": "127.0.0.1",
    }));
    record.expect_if_tapped(json!({
        "coverage": "ebpf", "attribution": "exact", "client.wire.bytes_in": 20,
    }));
}

#[test]
fn a_bad_request_after_good_ones_leaves_its_own_record() {
    let (_backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/bytes/1").status(), 200);
    client.send("\x01\x02\x03\r\n\r\n");
    let response = client.response("GET");
    assert_eq!(response.status(), 400);
    drop(client);
    let records = calltap.finish(2);
    let failed = records
        .iter()
        .find(|record| record.text("kind") == "connection");
    failed.expect("a connection").expect(json!({
        "connection.stage": "head",
        "error.type": "bad_request",
        "http.response.status_code": 400,
        "client.socket.cookie": records[0].get("client.socket.cookie").or(records[1].get("client.socket.cookie")),
    }));
}

#[test]
fn a_connection_that_sends_nothing_is_closed_and_recorded() {
    let (response, record) = no_call("limits.head_ms = 200", "");
    assert!(response.is_none());
    record.expect(json!({
        "kind": "connection",
        "connection.stage": "tcp",
        "error.type": "idle_timeout",
        "http.response.status_code": null,
    }));
    record.expect_if_tapped(json!({ "client.tcp.close": "fin_local", "client.wire.bytes_in": 0 }));
}

#[test]
fn a_head_that_does_not_end_is_cut_off_and_recorded() {
    let (_, record) = no_call("limits.head_ms = 200", "GET / HTTP/1.1\r\nHost: api");
    record.expect(json!({
        "kind": "connection",
        "connection.stage": "head",
        "error.type": "head_timeout",
    }));
    record.expect_if_tapped(json!({ "client.wire.bytes_in": 25 }));
}

#[test]
fn an_idle_connection_is_closed_without_a_record_of_its_own() {
    let (_backend, calltap) = start("limits.idle_ms = 200");
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/bytes/1").status(), 200);
    assert!(client.is_closed());
    calltap
        .finish_one()
        .expect(json!({ "kind": "call", "error.type": null }));
}

#[test]
fn an_http2_connection_that_never_asks_is_closed_and_recorded() {
    let (_backend, calltap) = start("limits.idle_ms = 200\ndefaults.listener.h2c = true");
    let mut client = Client::connect(calltap.address());
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let half_a_header_block = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send([settings.as_slice(), &half_a_header_block].concat());
    let _ = client.wire().rest();
    calltap.finish_one().expect(json!({
        "kind": "connection",
        "connection.stage": "head",
        "error.type": "idle_timeout",
    }));
}

#[test]
fn a_connection_that_leaves_at_once_is_recorded() {
    let (_backend, calltap) = start("");
    drop(Client::connect(calltap.address()));
    calltap.finish_one().expect(json!({
        "kind": "connection", "connection.stage": "tcp", "error.type": "client_closed",
    }));
}

fn secure(more: &str) -> (Backend, Calltap) {
    let launch = Launch::new();
    Authority::new().issue("api.test", launch.directory(), "server");
    let backend = Backend::start();
    let config = format!(
        "{}{more}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"server.pem\", key = \"server.key\" }}\n\
         [[routes]]\nupstream = \"backend\"\n[upstreams.backend]\nendpoints = [\"{}\"]\n",
        tap_if_possible(),
        backend.address()
    );
    (backend, launch.start(&config))
}

#[test]
fn a_handshake_without_a_common_version_fails_and_says_who_it_was() {
    let (_backend, calltap) = secure("");
    let address = calltap.address().to_string();
    let status = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &address,
            "-servername",
            "api.test",
            "-tls1_1",
        ])
        .args(["-cipher", "DEFAULT@SECLEVEL=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let Ok(status) = status else {
        return skipped("openssl is not installed");
    };
    assert!(!status.success());
    calltap.finish_one().expect(json!({
        "kind": "connection",
        "connection.stage": "tls",
        "error.type": "tls_version",
        "tls.established": false,
        "tls.client.server_name": "api.test",
        "http.response.status_code": null,
    }));
}

/// What the record says of a connection that curl with these words could not secure.
fn check_refused_handshake(more: &str, words: &[&str], error_type: &str) {
    let launch = Launch::new();
    Authority::new().issue("api.test", launch.directory(), "server");
    let config = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"server.pem\", key = \"server.key\"{more} }}\n\
         [[routes]]\nupstream = \"backend\"\n[upstreams.backend]\nendpoints = [\"127.0.0.1:9\"]\n",
    );
    let calltap = launch.start(&config);
    let status = Command::new("curl")
        .args(["-q", "--silent", "--noproxy", "*", "--tls-max", "1.2"])
        .args(words)
        .arg(format!("https://{}/", calltap.address()))
        .status();
    let Ok(status) = status else {
        return skipped("curl is not installed");
    };
    assert!(!status.success());
    calltap.finish_one().expect(json!({
        "kind": "connection", "connection.stage": "tls", "error.type": error_type,
    }));
}

#[test]
fn a_client_without_the_certificate_asked_for_is_told_from_one_that_refuses_ours() {
    let mutual = ", client_ca = \"server.pem\", client_auth = \"required\"";
    check_refused_handshake(mutual, &["--insecure"], "tls_client_certificate");
    check_refused_handshake("", &[], "tls_alert");
}

#[test]
fn plain_text_on_a_tls_port_fails_the_handshake() {
    let (_backend, calltap) = secure("");
    let mut client = Client::connect(calltap.address());
    client.send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n");
    let _ = client.wire().rest();
    drop(client);
    calltap.finish_one().expect(json!({
        "kind": "connection",
        "connection.stage": "tls",
        "error.type": "tls_not_tls",
    }));
}

#[test]
fn a_handshake_that_does_not_begin_is_cut_off() {
    let (_backend, calltap) = secure("limits.handshake_ms = 200");
    let mut client = Client::connect(calltap.address());
    assert!(client.is_closed());
    calltap.finish_one().expect(json!({
        "kind": "connection",
        "connection.stage": "tls",
        "error.type": "tls_timeout",
    }));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A GET over HTTP/2 whose stream is reset when the backend was asked, or when the first half of its
/// answer has come.
fn reset_stream(path: &str) -> Record {
    let (backend, calltap) = start("defaults.listener.h2c = true");
    let runtime = runtime();
    let address = calltap.address();
    let (response, mut stream) = runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://api.test{path}"));
        sender
            .send_request(request.body(()).unwrap(), true)
            .unwrap()
    });
    backend.shared().wait_asked(path);
    if path == "/gated" {
        runtime.block_on(async {
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap().as_ref(), b"first");
        });
    }
    stream.send_reset(h2::Reason::CANCEL);
    // The connection outlives its stream, or the record could tell how the connection ended.
    let record = calltap.records(1).remove(0);
    backend.shared().open_gate();
    drop(runtime);
    calltap.finish(1);
    record
}

#[test]
fn a_client_that_resets_its_stream_is_said_to_have_and_with_what() {
    for (path, status) in [("/silent", None), ("/gated", Some(200))] {
        let record = reset_stream(path);
        record.expect(json!({
            "http.response.status_code": status,
            "response.flags": ["client_abort"],
            "error.type": "client_abort",
            "http2.reset.code": "cancel",
            "client.tcp.close": null,
            "client.tcp.bytes_acked": null,
            "upstream.http.response.body.discarded": null,
        }));
    }
}

/// An upstream that speaks HTTP/2 and resets every stream, before or after its head.
async fn resets(tcp: tokio::net::TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(tcp).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        if request.uri().path() == "/late" {
            let mut stream = respond.send_response(http::Response::new(()), false)?;
            stream.send_data("first".into(), false)?;
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
            });
        } else {
            respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
        }
    }
    Ok(())
}

#[test]
fn a_backend_that_resets_its_stream_is_said_to_have_and_with_what() {
    let runtime = runtime();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(resets(tcp));
        }
    });
    for (path, status, code) in [
        ("/soon", 502, "enhance_your_calm"),
        ("/late", 200, "internal_error"),
    ] {
        let config = simple(tap_if_possible(), address) + "protocol = \"http2\"\n";
        let calltap = Calltap::start(&config);
        let mut client = Client::connect(calltap.address());
        assert_eq!(client.get(path).status(), status);
        drop(client);
        let record = calltap.finish_one();
        record.expect(json!({
            "http.response.status_code": status,
            "response.flags": ["upstream_reset"],
            "error.type": "upstream_reset",
            "http2.reset.code": code,
        }));
        assert_eq!(record.outcomes(), ["reset"]);
    }
}
