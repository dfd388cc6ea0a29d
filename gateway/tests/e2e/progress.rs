//! Calls that stay open: what is said of them meanwhile, and what when they are over.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, simple};
use crate::common::client::Client;
use crate::common::record::Record;
use crate::common::{tap_if_possible, wait_for};

fn start(more: &str) -> (Backend, Calltap) {
    let backend = Backend::start();
    let top = format!(
        "records.interim_s = 1\nrecords.request_headers = [\"x-who\"]\n{}{more}",
        tap_if_possible()
    );
    let calltap = Calltap::start(&simple(&top, backend.address()));
    (backend, calltap)
}

fn of_kind(records: &[Record], kind: &str) -> Vec<Record> {
    let of_kind = records.iter().filter(|record| record.text("kind") == kind);
    of_kind.cloned().collect()
}

/// Waits for so many records of calls that are open.
fn progress(calltap: &Calltap, n: usize) -> Vec<Record> {
    wait_for(&format!("{n} records of open calls"), || {
        let found = of_kind(&calltap.records_now(), "progress");
        (found.len() >= n).then_some(found)
    })
}

/// Ends calltap, whose clients are gone, and gives the one record of a call that ended. Every record of
/// it while it was open says which it is.
fn finish(mut calltap: Calltap) -> Record {
    wait_for("the call's own record", || {
        let ended = of_kind(&calltap.records_now(), "call");
        (ended.len() == 1).then_some(())
    });
    calltap.signal(Signal::TERM);
    let ended = calltap.ended();
    assert!(ended.status.success(), "{ended:?}");
    let records = calltap.records_now();
    let call = of_kind(&records, "call").remove(0);
    for record in of_kind(&records, "progress") {
        record.expect(json!({
            "attached_to": call.text("log.record.uid"),
            "trace_id": call.text("trace_id"),
            "span_id": call.text("span_id"),
            "timestamp": call.text("timestamp"),
            "duration_us": null, "delivered_us": null, "timing.resp_written_us": null,
            "time.gateway_us": null, "settled": null,
        }));
        assert_ne!(record.text("log.record.uid"), call.text("log.record.uid"));
    }
    call
}

#[test]
fn a_call_that_waits_for_its_upstream_is_told_of_again_and_again() {
    let (backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    client.send("GET /gated HTTP/1.1\r\nHost: api.test\r\nX-Who: me\r\n\r\n");
    let records = progress(&calltap, 2);
    for record in &records {
        record.expect(json!({
            "http.request.method": "GET", "url.path": "/gated", "http.route": "/{*rest}",
            "http.request.header.x-who": "me",
            "http.response.status_code": 200,
            "upstream.http.response.status_code": 200,
            "http.response.body.size": 5,
            "upstream.port": backend.address().port(),
            "client.port": client.local().port(),
            "error.type": null, "response.flags": null,
        }));
        record.expect_if_tapped(json!({
            "client.coverage": "ebpf", "upstream.coverage": "ebpf",
            "upstream.wire.bytes_in": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst".len(),
        }));
        assert_eq!(record.outcomes(), ["ok"]);
    }
    let so_far = |record: &Record| record.number("gateway.duration_us");
    assert!(so_far(&records[0]) >= 1_000_000);
    assert!(so_far(&records[1]) > so_far(&records[0]));
    backend.shared().open_gate();
    assert_eq!(client.response("GET").status(), 200);
    drop(client);
    let call = finish(calltap);
    call.expect(json!({ "attached_to": null, "http.response.body.size": 10 }));
    call.expect_time_adds_up();
}

#[test]
fn a_request_that_does_not_end_and_a_socket_that_was_upgraded_are_open_calls() {
    let (_backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    client.send("POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 10\r\n\r\nhello");
    progress(&calltap, 1)[0].expect(json!({
        "http.request.method": "POST", "http.request.body.size": 5,
        "http.response.status_code": null, "upstream.http.response.status_code": null,
    }));
    client.send("world");
    assert_eq!(client.response("POST").status(), 200);
    drop(client);
    finish(calltap);

    let (_backend, calltap) = start("");
    let mut client = Client::connect(calltap.address());
    client.send(
        "GET /upgrade HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert!(client.wire().head().expect("a head").is_some());
    client.send("frame1");
    assert_eq!(client.wire().exactly(6).expect("an echo"), b"frame1");
    progress(&calltap, 1)[0].expect(json!({
        "network.protocol.name": "websocket", "http.response.status_code": 101,
    }));
    drop(client);
    finish(calltap).expect(json!({ "http.response.status_code": 101 }));
}

#[test]
fn a_stream_of_http2_is_told_of() {
    let (backend, calltap) = start("defaults.listener.h2c = true\n");
    let url = format!("http://{}/gated", calltap.address());
    let mut curl = std::process::Command::new("curl")
        .args(["-s", "--http2-prior-knowledge", "-o", "/dev/null", &url])
        .spawn()
        .expect("curl, which scripts/bootstrap --test installs");
    progress(&calltap, 1)[0].expect(json!({
        "network.protocol.version": "2", "http.response.body.size": 5,
    }));
    backend.shared().open_gate();
    assert!(curl.wait().expect("curl ends").success());
    finish(calltap);
}

#[test]
fn the_account_counts_them() {
    let (backend, calltap) = start("admin.address = \"127.0.0.1:0\"\n");
    let said = calltap.wait_said("admin API on http://");
    let admin = said
        .split_once("admin API on http://")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .expect("an address")
        .trim_end_matches(['/', ',', ';'])
        .parse()
        .expect("an address");
    let mut client = Client::connect(calltap.address());
    client.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
    progress(&calltap, 1);
    let mut asking = Client::connect(admin);
    asking.send("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let status = asking.response("GET").text();
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let progress = &status["records"]["json_lines"]["progress"];
    assert!(progress["written"].as_u64() >= Some(1), "{status:#}");
    assert_eq!(progress["open"], 0, "{status:#}");
    assert_eq!(progress["accepted"], progress["written"], "{status:#}");
    backend.shared().open_gate();
    client.response("GET");
    drop((client, asking));
    finish(calltap);
}
