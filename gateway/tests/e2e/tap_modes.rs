//! With less than eBPF: the same records with fewer fields, and a word why.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, Launch, simple};
use crate::common::client::Client;
use crate::common::record::Record;
use crate::common::{can_tap, skipped};

/// Two calls on one connection: the record of the second, and all that was said. Its upstream
/// is told by address and port whatever the mode.
fn second_call(launch: Launch, mode: &str) -> (Record, String) {
    let backend = Backend::start();
    let config = simple(&format!("tap.mode = {mode:?}"), backend.address());
    let calltap = launch.start(&config);
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/bytes/10").status(), 200);
    assert_eq!(client.get("/bytes/3000").status(), 200);
    drop(client);
    let said = calltap.stderr();
    let record = calltap.finish(2).remove(1);
    record.expect(json!({
        "upstream.address": "127.0.0.1",
        "upstream.port": backend.address().port(),
    }));
    assert_ne!(record.number("upstream.local_port"), 0);
    (record, said)
}

fn expect_tcp_info(record: &Record, why: &str) {
    record.expect(json!({
        "coverage": "tcp_info",
        "client.coverage": "tcp_info", "client.coverage_reason": why,
        "client.attribution": "partial", "client.attribution_reason": "tcp_info",
        "upstream.coverage": "tcp_info", "upstream.coverage_reason": why,
        "client.socket.request_seq": 2,
        "network.peer.address": "127.0.0.1",
        "http.response.body.size": 3000,
        "delivered_us": null, "duration_us": null,
        "client.syn.options": null,
    }));
    for field in [
        "gateway.duration_us",
        "client.tcp.rtt_us",
        "client.tcp.min_rtt_us",
        "client.tcp.cwnd",
        "client.tcp.mss",
        "client.socket.cookie",
        "upstream.tcp.rtt_us",
        "upstream.socket.cookie",
    ] {
        assert!(record.get(field).is_some(), "no {field} in\n{record:?}");
    }
    assert!(record.number("client.wire.bytes_out") > 3000);
    assert!(record.number("upstream.wire.bytes_in") > 3000);
}

#[test]
fn tcp_info_knows_what_the_socket_itself_counts() {
    let (record, said) = second_call(Launch::new(), "tcp_info");
    expect_tcp_info(&record, "tap_mode");
    assert!(said.contains("tap: TCP_INFO"), "{said}");
}

#[test]
fn a_client_that_is_gone_before_it_is_accepted_has_its_ports_all_the_same() {
    let backend = Backend::start();
    for mode in ["tcp_info", "off"] {
        let config = simple(&format!("tap.mode = {mode:?}"), backend.address());
        let calltap = Launch::new().start(&config);
        calltap.signal(Signal::STOP);
        let mut client = Client::connect(calltap.address());
        client.send("GET /bytes/10 HTTP/1.1\r\nHost: api.test\r\n\r\n");
        let port = client.local().port();
        client.reset();
        calltap.signal(Signal::CONT);
        let listening = calltap.address().port();
        let record = calltap.finish_one();
        record.expect(json!({
            "client.address": "127.0.0.1", "client.port": port,
            "network.peer.address": "127.0.0.1", "network.peer.port": port,
            "network.local.address": "127.0.0.1", "network.local.port": listening,
        }));
    }
}

#[test]
fn off_knows_what_the_gateway_saw() {
    let (record, said) = second_call(Launch::new(), "off");
    record.expect(json!({
        "coverage": "none",
        "client.coverage": "none", "client.coverage_reason": "tap_off",
        "client.attribution": "partial", "client.attribution_reason": "no_coverage",
        "upstream.coverage": "none", "upstream.coverage_reason": "tap_off",
        "network.peer.address": "127.0.0.1",
        "http.response.status_code": 200,
        "http.response.body.size": 3000,
        "delivered_us": null,
        "client.tcp.rtt_us": null,
        "settled": null,
    }));
    assert!(record.number("gateway.duration_us") > 0);
    assert!(said.contains("tap: off"), "{said}");
}

/// Runs what follows as this user, but without any capability.
const WITHOUT_CAPABILITIES: [&str; 5] = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];

/// Launches it that way, where that is possible.
fn without_capabilities() -> Option<Launch> {
    let words = WITHOUT_CAPABILITIES;
    let works = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status();
    if !works.is_ok_and(|status| status.success()) {
        skipped("setpriv cannot take capabilities away here");
        return None;
    }
    Some(Launch::new().by(&words))
}

#[test]
fn auto_falls_back_and_says_why_in_one_line() {
    let Some(launch) = without_capabilities() else {
        return;
    };
    let (record, said) = second_call(launch, "auto");
    expect_tcp_info(&record, "ebpf_unavailable");
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{said}");
    assert!(warnings[0].contains("no eBPF here"), "{said}");
    assert!(warnings[0].contains("CAP_BPF"), "{said}");
    assert!(!said.contains('\x1b'), "colours in a file: {said:?}");
}

#[test]
fn ebpf_without_privilege_does_not_start() {
    let Some(launch) = without_capabilities() else {
        return;
    };
    let ended = launch.fail(&simple("tap.mode = \"ebpf\"", "127.0.0.1:9"));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("tap.mode is ebpf"), "{ended:?}");
    assert!(ended.stderr.contains("CAP_BPF"), "{ended:?}");
}

#[test]
fn the_doctor_does_not_call_well_what_it_could_not_see() {
    if without_capabilities().is_none() {
        return;
    }
    let output = Command::new(WITHOUT_CAPABILITIES[0])
        .args(&WITHOUT_CAPABILITIES[1..])
        .args([env!("CARGO_BIN_EXE_calltap"), "doctor", "--json"])
        .output()
        .expect("calltap runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let checks = report["checks"].as_array().expect("checks");
    let state = |name| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.map(|check| check["state"].clone())
    };
    assert_eq!(state("capabilities"), Some(json!("missing")));
    // Where there is no cgroup v2 nothing can be attached to one.
    if state("cgroup_v2") == Some(json!("ok")) {
        assert_eq!(state("exclusive_attachments"), Some(json!("unknown")));
    }
}

#[test]
fn a_tap_without_a_free_ledger_says_so_and_forwards() {
    if !can_tap() {
        return;
    }
    let backend = Backend::start();
    let top = "tap.mode = \"ebpf\"\ntap.sockets_max = 2";
    let calltap = Calltap::start(&simple(top, backend.address()));
    let mut first = Client::connect(calltap.address());
    assert_eq!(first.get("/bytes/1").status(), 200);
    calltap.records(1);
    let mut second = Client::connect(calltap.address());
    assert_eq!(second.get("/bytes/2").status(), 200);
    drop((first, second));
    let records = calltap.finish(2);
    records[0].expect(json!({ "client.coverage": "ebpf", "upstream.coverage": "ebpf" }));
    records[1].expect(json!({
        "client.coverage": "tcp_info", "client.coverage_reason": "no_slot",
        "coverage": "tcp_info",
        "http.response.body.size": 2,
    }));
}
