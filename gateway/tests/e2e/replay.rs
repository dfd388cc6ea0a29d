//! Recorded calls, and what policies would have made of them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, simple};
use crate::common::client::Client;

/// Runs it where the records are, with these policies.
fn replay(directory: &Path, policies: &str, arguments: &[&str]) -> Output {
    fs::write(directory.join("policies.toml"), policies).expect("written");
    Command::new(env!("CARGO_BIN_EXE_calltap"))
        .args(["replay", "--config", "policies.toml"])
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("calltap runs")
}

#[track_caller]
fn summary(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let last = said.lines().last().unwrap_or_else(|| panic!("{errors}"));
    let line: Value = serde_json::from_str(last).expect("JSON");
    line["summary"].clone()
}

const POLICIES: &str = r#"
[[policies.rules]]
name = "no-admin"
when = 'url.path.startsWith("/admin")'
then = "deny"

[[policies.rules]]
name = "fingerprinted"
when = 'tls.client.ja4 == "t13i190900_9dc949149365_97f8aa674fd9"'
then = "deny"

[[policies.rules]]
name = "per-client"
when = "true"
then = "limit"
key = "client.address"
rate = "60/hour"
burst = 3

[[policies.records]]
name = "bytes"
when = 'url.path == "/bytes/1"'
then = "drop"
dry_run = true

[[policies.records]]
name = "usual"
when = "true"
then = "sample"
one_in = 1_000_000
slow_ms = 60_000
"#;

#[test]
fn what_a_gateway_recorded_is_replayed() {
    let backend = Backend::start();
    let recording = r#"
        [[policies.rules]]
        name = "tagged"
        when = "true"
        then = "tag"
    "#;
    let calltap = Calltap::start(&simple(recording, backend.address()));
    let mut client = Client::connect(calltap.address());
    for path in [
        "/bytes/1",
        "/bytes/2",
        "/x/%2e%2e/%61dmin",
        "/status/503",
        "/bytes/1",
    ] {
        client.get(path);
    }
    drop(client);
    let directory = calltap.finish_in(5);
    let directory = directory.path();
    let mut file = OpenOptions::new()
        .append(true)
        .open(directory.join("calls.jsonl"))
        .expect("the records");
    file.write_all(b"{\"kind\":\"call\"}\n").expect("written");

    let output = replay(directory, POLICIES, &["--json", "calls.jsonl"]);
    let all = summary(&output);
    assert_eq!(
        all["rules"],
        json!([
            {"name": "no-admin", "action": "deny", "dry_run": false, "applied": 1, "unanswered": 0},
            {"name": "fingerprinted", "action": "deny", "dry_run": false, "applied": 0, "unanswered": 4},
            {"name": "per-client", "action": "limit", "dry_run": false, "applied": 1, "unanswered": 0},
        ])
    );
    assert_eq!(
        all["record_rules"],
        json!([
            {"name": "bytes", "action": "drop", "dry_run": true, "applied": 2, "left_out": 2, "unanswered": 0},
            {"name": "usual", "action": "sample", "dry_run": false, "applied": 5, "left_out": 4, "unanswered": 0},
        ])
    );
    for (key, value) in [
        ("records", json!(5)),
        ("bad_lines", json!(1)),
        ("calls_forwarded", json!(3)),
        ("calls_denied", json!(1)),
        ("calls_limited", json!(1)),
        ("records_kept", json!(1)),
        ("records_dropped", json!({"filtered": 0, "sampled": 4})),
    ] {
        assert_eq!(all[key], value, "{key}");
    }
    let clients = &all["keys"]["clients"];
    assert!(clients["known"].as_u64() > Some(0), "{clients}");
    assert!(clients["bytes_per_key"].as_u64() > Some(0), "{clients}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        errors.trim(),
        "calls.jsonl:6: no record: missing field `log.record.uid` at line 1 column 15"
    );

    let text = replay(directory, POLICIES, &["calls.jsonl", "calls.jsonl"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for line in ["2 lines are no records", "10 records, 10 of them of calls"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn what_cannot_be_replayed_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    fs::write(directory.join("empty"), "").expect("written");
    fs::write(directory.join("cut.gz"), [0x1f, 0x8b, 8, 0]).expect("written");
    let wrong = POLICIES.replace("url.path.starts", "url.pth.starts");
    for (policies, file, expected) in [
        (POLICIES, "missing.jsonl", "cannot open missing.jsonl"),
        (POLICIES, "empty", "there is no record in what was read"),
        (POLICIES, "cut.gz", "cannot read all of cut.gz"),
        (wrong.as_str(), "empty", "did you mean url.path?"),
    ] {
        let output = replay(directory, policies, &[file]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{file}");
        assert!(errors.contains(expected), "{file}: {errors}");
    }
}
