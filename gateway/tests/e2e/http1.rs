//! HTTP/1.1 and 1.0 in plain: the calls whose records must be exact.

use serde_json::json;

use crate::common::backend::{Backend, Served};
use crate::common::calltap::{Calltap, simple};
use crate::common::can_tap;
use crate::common::client::{Client, Response};
use crate::common::record::Record;

struct Setting {
    backend: Backend,
    calltap: Calltap,
}

/// calltap with the tap on before a backend; `None` where there can be no tap.
fn tapped() -> Option<Setting> {
    if !can_tap() {
        return None;
    }
    let backend = Backend::start();
    let calltap = Calltap::start(&simple("tap.mode = \"ebpf\"", backend.address()));
    Some(Setting { backend, calltap })
}

/// What both ends counted is what the record says.
#[track_caller]
fn expect_bytes(record: &Record, sent: usize, response: &Response, served: &Served) {
    record.expect_exact().expect(json!({
        "client.wire.bytes_in": sent,
        "client.wire.bytes_out": response.wire_bytes,
        "upstream.wire.bytes_out": served.bytes_in,
        "upstream.wire.bytes_in": served.bytes_out,
    }));
}

#[test]
fn calls_on_a_kept_alive_connection_each_have_their_own_bytes() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let port = client.local().port();
    let body = "0123456789".repeat(1000);
    let requests = [
        (
            "GET",
            "GET /bytes/3000 HTTP/1.1\r\nHost: api.test:81\r\nUser-Agent: e2e\r\n\r\n".to_owned(),
            0,
            3000,
        ),
        (
            "POST",
            format!(
                "POST /echo?a=1 HTTP/1.1\r\nHost: api.test\r\nContent-Length: 10000\r\n\r\n{body}"
            ),
            10_000,
            10_000,
        ),
        (
            "PUT",
            "PUT /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n".to_owned(),
            0,
            0,
        ),
        (
            "DELETE",
            "DELETE /bytes/200000 HTTP/1.1\r\nHost: api.test\r\n\r\n".to_owned(),
            0,
            200_000,
        ),
    ];
    let responses = requests.each_ref().map(|(method, request, _, size)| {
        client.send(request);
        let response = client.response(method);
        assert_eq!((response.status(), response.body.bytes.len()), (200, *size));
        response
    });
    drop(client);
    let served = backend.shared().served(4);
    let records = calltap.finish(4);
    for (n, (method, request, sent, received)) in requests.iter().enumerate() {
        let record = &records[n];
        expect_bytes(record, request.len(), &responses[n], &served[n]);
        record.expect(json!({
            "kind": "call",
            "http.request.method": method,
            "network.protocol.name": "http", "network.protocol.version": "1.1",
            "url.scheme": "http",
            "http.route": "/{*rest}",
            "http.request.body.size": sent, "http.response.body.size": received,
            "http.response.status_code": 200, "upstream.http.response.status_code": 200,
            "network.peer.port": port, "client.port": port,
            "network.peer.address": "127.0.0.1", "client.address": "127.0.0.1",
            "client.socket.request_seq": n + 1, "upstream.socket.request_seq": n + 1,
            "upstream.reused": n > 0,
            "upstream.local_port": served[n].peer.expect("TCP").port(),
            "upstream.port": backend.address().port(),
            "client.socket.cookie": records[0].text("client.socket.cookie"),
            "error.type": null, "response.flags": null,
        }));
        assert_eq!(
            record.get("client.handshake_us").is_some(),
            n == 0,
            "{record:?}"
        );
    }
    records[0].expect(json!({
        "server.address": "api.test", "server.port": 81,
        "url.path": "/bytes/3000", "url.query": null, "user_agent.original": "e2e",
    }));
    records[1].expect(json!({ "server.port": 80, "url.path": "/echo", "url.query": "a=1" }));
    records[0].expect(json!({ "client.tcp.close": null }));
}

#[test]
fn a_body_in_chunks_passes_both_ways_and_is_counted_without_its_framing() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let upload = "POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                  4\r\nfour\r\n3\r\nsix\r\n0\r\n\r\n";
    client.send(upload);
    let up = client.response("POST");
    assert_eq!(up.text(), "foursix");
    let down = client.get("/chunked");
    assert_eq!(down.text(), "hello world");
    assert_eq!(down.head.header("transfer-encoding"), Some("chunked"));
    drop(client);
    let served = backend.shared().served(2);
    assert_eq!(served[0].body, b"foursix");
    let records = calltap.finish(2);
    expect_bytes(&records[0], upload.len(), &up, &served[0]);
    records[0].expect(json!({ "http.request.body.size": 7, "http.response.body.size": 7 }));
    records[1].expect_exact().expect(json!({
        "client.wire.bytes_out": down.wire_bytes,
        "upstream.wire.bytes_in": served[1].bytes_out,
        "http.request.body.size": 0, "http.response.body.size": 11,
    }));
}

#[test]
fn trailers_do_not_disturb_the_message_that_has_them() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let response = client.get("/trailers");
    assert_eq!(response.text(), "hello");
    assert!(response.body.complete);
    assert_eq!(response.head.header("trailer"), None);
    let upload = "POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\
                  Trailer: X-Sum\r\n\r\n\
                  4\r\nfour\r\n0\r\nX-Sum: 4\r\n\r\n";
    client.send(upload);
    let next = client.response("POST");
    assert_eq!(next.text(), "four");
    drop(client);
    let served = backend.shared().served(2);
    assert_eq!(served[1].head.header("trailer"), None);
    let records = calltap.finish(2);
    records[0].expect_exact().expect(json!({
        "client.wire.bytes_out": response.wire_bytes,
        "upstream.wire.bytes_in": served[0].bytes_out,
        "http.response.body.size": 5,
    }));
    records[1].expect_exact().expect(json!({
        "http.request.body.size": 4,
        "client.wire.bytes_in": upload.len(),
        "client.wire.bytes_out": next.wire_bytes,
        "upstream.wire.bytes_out": served[1].bytes_in,
        "upstream.attribution": "exact",
        "upstream.reused": true,
    }));
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let requests = [
        ("HEAD", "/bytes/500", 200),
        ("GET", "/status/204", 204),
        ("GET", "/status/304", 304),
    ];
    let exchanges = requests.map(|(method, path, status)| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: api.test\r\n\r\n");
        client.send(&request);
        let response = client.response(method);
        assert_eq!(response.status(), status);
        (request, response)
    });
    assert_eq!(exchanges[0].1.head.header("content-length"), Some("500"));
    drop(client);
    let served = backend.shared().served(3);
    let records = calltap.finish(3);
    for (n, (request, response)) in exchanges.iter().enumerate() {
        expect_bytes(&records[n], request.len(), response, &served[n]);
        records[n].expect(json!({
            "http.request.method": requests[n].0,
            "http.response.status_code": requests[n].2,
            "http.response.body.size": 0,
            "error.type": null,
        }));
    }
}

#[test]
fn a_client_that_expects_100_continue_gets_it_and_its_time_is_not_the_responses() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let head = "POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(head);
    let interim = client.response("POST");
    assert_eq!(interim.status(), 100);
    client.send("hello");
    let last = client.response("POST");
    assert_eq!((last.status(), last.text().as_str()), (200, "hello"));
    drop(client);
    let served = backend.shared().served(1);
    let record = calltap.finish_one();
    record
        .expect(json!({
            "http.request.body.size": 5,
            "http.response.status_code": 200,
            "client.wire.bytes_in": head.len() + 5,
            "client.wire.bytes_out": interim.wire_bytes + last.wire_bytes,
            "client.attribution": "exact",
            "upstream.wire.bytes_out": served[0].bytes_in,
            "coverage": "ebpf",
            "settled": "acked",
        }))
        .expect_time_adds_up();
}

#[test]
fn pipelined_calls_say_that_they_are() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    client.send(
        "GET /bytes/10 HTTP/1.1\r\nHost: api.test\r\n\r\n\
         GET /bytes/20 HTTP/1.1\r\nHost: api.test\r\n\r\n\
         GET /bytes/30 HTTP/1.1\r\nHost: api.test\r\n\r\n",
    );
    let responses = [10, 20, 30].map(|size| {
        let response = client.response("GET");
        assert_eq!(response.body.bytes.len(), size);
        response
    });
    drop(client);
    let served = backend.shared().served(3);
    let records = calltap.finish(3);
    for (n, record) in records.iter().enumerate() {
        record.expect(json!({
            "coverage": "ebpf",
            "attribution": "partial",
            "client.attribution": "partial",
            "client.attribution_reason": "pipelined",
            "client.wire.bytes_out": responses[n].wire_bytes,
            "upstream.attribution": "exact",
            "upstream.wire.bytes_out": served[n].bytes_in,
            "http.response.body.size": responses[n].body.bytes.len(),
        }));
    }
}

#[test]
fn a_chunked_upload_that_came_with_another_is_not_taken_for_both() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let upload = "POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                  4\r\nfour\r\n0\r\nX-Sum: 4\r\n\r\n";
    client.send(format!("{upload}{upload}"));
    for _ in 0..2 {
        assert_eq!(client.response("POST").text(), "four");
    }
    drop(client);
    backend.shared().served(2);
    for record in calltap.finish(2) {
        record.expect(json!({
            "http.request.body.size": 4,
            "client.attribution": "partial",
            "client.attribution_reason": "pipelined",
            "upstream.attribution": "exact",
        }));
    }
}

#[test]
fn an_answer_before_the_body_was_sent_ends_the_call() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let head = "POST /early HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100000\r\n\r\n";
    client.send(head);
    client.send([b'x'; 1000]);
    let response = client.response("POST");
    assert_eq!(
        (response.status(), response.text().as_str()),
        (413, "Early\n")
    );
    drop(client);
    backend.shared().served(1);
    calltap.finish_one().expect(json!({
        "http.response.status_code": 413,
        "upstream.http.response.status_code": 413,
        "http.response.body.size": 6,
        "client.wire.bytes_out": response.wire_bytes,
        "coverage": "ebpf",
    }));
}

#[test]
fn a_client_that_has_its_answer_may_keep_its_body() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    client.send(
        "POST /refuse HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    let interim = client.response("POST");
    assert_eq!(interim.status(), 100);
    let response = client.response("POST");
    assert_eq!(response.status(), 417);
    drop(client);
    backend.shared().served(1);
    calltap.finish_one().expect_exact().expect(json!({
        "http.response.status_code": 417,
        "http.response.body.size": 3,
        "client.wire.bytes_out": interim.wire_bytes + response.wire_bytes,
        "client.tcp.close": "fin_peer",
        "error.type": null,
        "response.flags": null,
        "settled": "acked",
    }));
}

#[test]
fn a_hint_is_not_the_answer() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    client.send("GET /hint HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!(client.response("GET").status(), 103);
    backend.shared().open_gate();
    assert_eq!(client.response("GET").text(), "done\n");
    drop(client);
    backend.shared().served(1);
    let record = calltap.finish_one();
    record.expect_exact().expect_time_adds_up();
    // The answer is one packet, and the hint another.
    assert_eq!(
        record.number("timing.up_first_us"),
        record.number("timing.up_last_us")
    );
}

#[test]
fn a_client_of_http_1_0_is_sent_no_chunks() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    client.send("GET /chunked HTTP/1.0\r\nHost: api.test\r\nConnection: keep-alive\r\n\r\n");
    let head = client.wire().head().expect("a head").expect("a head");
    assert_eq!(head.header("transfer-encoding"), None);
    let body = client
        .wire()
        .rest()
        .expect("up to the end of the connection");
    assert_eq!(String::from_utf8_lossy(&body), "hello world");
    let taken = client.wire().taken();
    drop((client, backend));
    calltap.finish_one().expect_exact().expect(json!({
        "network.protocol.version": "1.0",
        "http.response.body.size": 11,
        "response.flags": null,
        "client.wire.bytes_out": taken,
    }));
}

#[test]
fn an_http_1_0_client_is_answered_and_the_connection_closed() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let request = "GET /bytes/100 HTTP/1.0\r\n\r\n";
    client.send(request);
    let response = client.response("GET");
    assert_eq!((response.status(), response.body.bytes.len()), (200, 100));
    assert!(client.is_closed());
    let served = backend.shared().served(1);
    let record = calltap.finish_one();
    expect_bytes(&record, request.len(), &response, &served[0]);
    record.expect(json!({
        "network.protocol.version": "1.0",
        "client.tcp.close": "fin_local",
        "server.address": null,
    }));
}

#[test]
fn connection_close_is_obeyed_on_both_sides() {
    let Some(Setting { backend, calltap }) = tapped() else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    let request = "GET /close HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";
    client.send(request);
    let response = client.response("GET");
    assert_eq!(response.text(), "bye\n");
    assert!(client.is_closed());
    let mut client = Client::connect(calltap.address());
    let second = client.get("/http10");
    assert_eq!(second.text(), "until the end");
    drop(client);
    let served = backend.shared().served(2);
    assert_eq!((served[0].connection, served[1].connection), (1, 2));
    let records = calltap.finish(2);
    expect_bytes(&records[0], request.len(), &response, &served[0]);
    records[0].expect(json!({ "client.tcp.close": "fin_local" }));
    // Both know that the connection ends here, and either may be first to close it.
    assert!(records[0].text("upstream.tcp.close").starts_with("fin_"));
    records[1].expect(json!({
        "http.response.body.size": 13,
        "upstream.wire.bytes_in": served[1].bytes_out,
        "upstream.reused": false,
    }));
}

#[test]
fn the_whole_record_of_a_plain_call() {
    let Some(Setting {
        backend: _backend,
        calltap,
    }) = tapped()
    else {
        return;
    };
    let mut client = Client::connect(calltap.address());
    client.send("GET /bytes/5 HTTP/1.1\r\nHost: api.test\r\nUser-Agent: e2e\r\n\r\n");
    assert_eq!(client.response("GET").status(), 200);
    // While the connection is open, so that its end is in no record.
    calltap.records(1);
    drop(client);
    let record = calltap.finish_one();
    expect_test::expect![[r#"
        attribution: "exact"
        client.accept_wait_us
        client.address: "127.0.0.1"
        client.attribution: "exact"
        client.coverage: "ebpf"
        client.handshake_us
        client.ip.dscp: 0
        client.ip.ecn: 0
        client.ip.ttl_max: 64
        client.ip.ttl_min: 64
        client.port
        client.socket.cookie
        client.socket.request_seq: 1
        client.socket.streams: 1
        client.syn.df: true
        client.syn.dscp: 0
        client.syn.ecn: false
        client.syn.hops_guess: 0
        client.syn.mss
        client.syn.options: "mss,sok,ts,nop,ws"
        client.syn.p0f
        client.syn.ttl: 64
        client.syn.window
        client.syn.wscale
        client.tcp.ack_kind
        client.tcp.cwnd
        client.tcp.dup_acks_total
        client.tcp.flags: "PSH,ACK"
        client.tcp.handshake_rtt_us
        client.tcp.min_rtt_us
        client.tcp.mss
        client.tcp.peer_retransmits
        client.tcp.retransmits
        client.tcp.retransmits_total
        client.tcp.retransmitted_bytes
        client.tcp.rto_total
        client.tcp.rtos: 0
        client.tcp.rtt_us
        client.tcp.seq_first
        client.tcp.seq_last
        client.tcp.window_min
        client.tcp.zero_window_us
        client.wire.bytes_in: 58
        client.wire.bytes_out: 156
        client.wire.ip_bytes_in: 110
        client.wire.ip_bytes_out: 208
        client.wire.segments_in: 1
        client.wire.segments_out: 1
        coverage: "ebpf"
        delivered_us
        duration_us
        gateway.duration_us
        global_transaction_id
        http.request.body.size: 0
        http.request.id
        http.request.method: "GET"
        http.response.body.size: 5
        http.response.status_code: 200
        http.route: "/{*rest}"
        kind: "call"
        log.record.uid
        network.local.address: "127.0.0.1"
        network.local.port
        network.peer.address: "127.0.0.1"
        network.peer.port
        network.protocol.name: "http"
        network.protocol.version: "1.1"
        network.transport: "tcp"
        network.type: "ipv4"
        schema.version: "1.2"
        server.address: "api.test"
        server.port
        service.instance.id
        settled: "acked"
        span_id
        time.client_send_us
        time.connect_us
        time.delayed_ack_us
        time.delivery_us
        time.gateway_us
        time.kernel_wait_us
        time.upstream_network_us
        time.upstream_server_us
        timestamp
        timing.head_arrived_us
        timing.head_read_us
        timing.req_first_us
        timing.req_last_us
        timing.resp_acked_us
        timing.resp_first_us
        timing.resp_last_us
        timing.resp_read_us
        timing.resp_written_us
        timing.up_acked_us
        timing.up_begin_us
        timing.up_connected_us
        timing.up_first_us
        timing.up_last_us
        timing.up_sent_first_us
        timing.up_sent_last_us
        trace_id
        upstream.address: "127.0.0.1"
        upstream.attempts
        upstream.attribution: "exact"
        upstream.cluster: "backend"
        upstream.coverage: "ebpf"
        upstream.http.response.status_code: 200
        upstream.ip.dscp: 0
        upstream.ip.ecn: 0
        upstream.ip.ttl_max: 64
        upstream.ip.ttl_min: 64
        upstream.local_port
        upstream.port
        upstream.reused: false
        upstream.socket.cookie
        upstream.socket.request_seq: 1
        upstream.socket.streams: 1
        upstream.tcp.ack_kind
        upstream.tcp.cwnd
        upstream.tcp.dup_acks_total
        upstream.tcp.flags: "PSH,ACK"
        upstream.tcp.handshake_rtt_us
        upstream.tcp.min_rtt_us
        upstream.tcp.mss
        upstream.tcp.peer_retransmits
        upstream.tcp.retransmits
        upstream.tcp.retransmits_total
        upstream.tcp.retransmitted_bytes
        upstream.tcp.rto_total
        upstream.tcp.rtos: 0
        upstream.tcp.rtt_us
        upstream.tcp.seq_first
        upstream.tcp.seq_last
        upstream.tcp.window_min
        upstream.tcp.zero_window_us
        upstream.wire.bytes_in: 43
        upstream.wire.bytes_out: 371
        upstream.wire.ip_bytes_in: 95
        upstream.wire.ip_bytes_out: 423
        upstream.wire.segments_in: 1
        upstream.wire.segments_out: 1
        url.path: "/bytes/5"
        url.scheme: "http"
        user_agent.original: "e2e"
    "#]]
    .assert_eq(&record.shape());
}
