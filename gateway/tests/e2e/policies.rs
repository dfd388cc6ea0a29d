//! Rules about calls: who is let through, who is not, and what everybody is told.

use serde_json::json;

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, simple};
use crate::common::client::Client;
use crate::common::record::Record;
use crate::common::wait_for;

fn started(rules: &str) -> (Backend, Calltap, Client) {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple(rules, backend.address()));
    let client = Client::connect(calltap.address());
    (backend, calltap, client)
}

#[test]
fn a_rule_denies_before_anything_is_forwarded() {
    let (backend, calltap, mut client) = started(
        r#"
        [[policies.rules]]
        name = "tagged"
        when = 'cidr("127.0.0.0/8").containsIP(client.address)'
        then = "tag"

        [[policies.rules]]
        name = "no-blue"
        when = 'http.request.header["x-tenant"] == "blue"'
        then = "deny"
        status = 401
        "#,
    );
    client.send("GET /bytes/1 HTTP/1.1\r\nHost: api.test\r\nX-Tenant: blue\r\n\r\n");
    let refused = client.response("GET");
    assert_eq!(refused.status(), 401);
    assert!(
        refused.text().contains("\"error\":\"denied\""),
        "{}",
        refused.text()
    );
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/bytes/1").status(), 200);
    drop(client);
    assert_eq!(backend.shared().arrived(), 1);
    let mut records = calltap.finish(2);
    records.sort_by_key(|record: &Record| record.number("http.response.status_code"));
    records[0].expect(json!({
        "http.response.status_code": 200,
        "policy.decision": null,
        "policy.matched": ["tagged:tag"],
    }));
    records[1].expect(json!({
        "http.response.status_code": 401,
        "error.type": "denied",
        "policy.decision": "deny",
        "policy.matched": ["tagged:tag", "no-blue:deny"],
        "policy.reason": "no-blue",
        "response.flags": ["denied"],
        "upstream.attempts": null,
    }));
}

#[test]
fn a_host_cannot_be_hidden_from_a_rule() {
    let (backend, calltap, mut client) = started(
        r#"
        [[policies.rules]]
        name = "not-here"
        when = 'server.address == "admin.test"'
        then = "deny"
        [[policies.rules]]
        name = "known-hosts"
        when = '!(http.request.header["host"] in ["api.test"])'
        then = "deny"
        status = 421
        on_error = "match"
        "#,
    );
    for (head, expected) in [
        ("GET /bytes/1 HTTP/1.1\r\nHost: api.test", 200),
        ("GET /bytes/1 HTTP/1.1\r\nHost: admin.test", 403),
        ("GET /bytes/1 HTTP/1.1\r\nHost: ADMIN.test.", 403),
        ("GET http://admin.test/bytes/1 HTTP/1.0", 403),
        ("GET http://other.test/bytes/1 HTTP/1.0", 421),
        ("GET /bytes/1?next=http://api.test/ HTTP/1.0", 421),
        ("GET http://api.test/bytes/1 HTTP/1.0", 200),
    ] {
        client.send(format!("{head}\r\n\r\n"));
        assert_eq!(client.response("GET").status(), expected, "{head}");
        client = Client::connect(calltap.address());
    }
    let hosts: Vec<_> = backend
        .shared()
        .served(2)
        .iter()
        .map(|served| served.head.header("host").map(str::to_owned))
        .collect();
    assert_eq!(
        hosts,
        [Some("api.test".to_owned()), Some("api.test".to_owned())]
    );
}

#[test]
fn a_path_cannot_be_hidden_from_a_rule() {
    let (backend, calltap, mut client) = started(
        r#"
        [[policies.rules]]
        name = "no-admin"
        when = 'url.path.startsWith("/admin")'
        then = "deny"
        "#,
    );
    for path in [
        "/admin/",
        "/%61dmin/",
        "/./admin/",
        "/x/../admin/",
        "/x/%2e%2e/admin/",
        "http://api.test/%61dmin/",
    ] {
        let response = client.get(path);
        assert_eq!(response.status(), 403, "{path}");
        client = Client::connect(calltap.address());
    }
    assert_eq!(backend.shared().arrived(), 0);
}

#[test]
fn who_calls_too_often_is_told_when_to_come_again() {
    let (_backend, calltap, mut client) = started(
        r#"
        [[policies.rules]]
        name = "per-client"
        when = "true"
        then = "limit"
        key = "client.address"
        rate = "60/hour"
        burst = 2
        "#,
    );
    for left in ["1", "0"] {
        let response = client.get("/bytes/1");
        assert_eq!(response.status(), 200);
        let limit = response.head.header("ratelimit").expect("a limit");
        assert!(
            limit.starts_with(&format!("\"per-client\";r={left};t=")),
            "{limit}"
        );
        let policy = response.head.header("ratelimit-policy");
        assert_eq!(policy, Some("\"per-client\";q=2;w=120"));
        assert_eq!(response.head.header("retry-after"), None);
    }
    let refused = client.get("/bytes/1");
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused
        .head
        .header("retry-after")
        .expect("a wait")
        .parse()
        .expect("seconds");
    // One in a minute, less what the test took.
    assert!((1..=60).contains(&wait), "{wait}");
    drop(client);
    let records = calltap.finish(3);
    let refused = records
        .iter()
        .find(|record| record.number("http.response.status_code") == 429);
    refused.expect("its record").expect(json!({
        "error.type": "rate_limited",
        "policy.decision": "limit",
        "policy.matched": ["per-client:limit"],
        "ratelimit.key": "127.0.0.1",
        "ratelimit.remaining": 0,
    }));
}

/// How many calls there were, and how many of their records were written and left out as sampled and
/// filtered, by the metrics.
fn counted(calltap: &Calltap) -> [u64; 4] {
    let admin = calltap.admin();
    let mut client = Client::connect(admin);
    client.send(format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    let page = client.response("GET").text();
    let value = |labels: &str| {
        let mut lines = page.lines();
        let line = lines.find_map(|line| line.strip_prefix(labels));
        let value = line.unwrap_or_else(|| panic!("no {labels} in\n{page}"));
        value.trim().parse().expect("a number")
    };
    let records = [
        r#"calltap_call_coverage_total{coverage="none"}"#,
        r#"calltap_records_written_total{sink="json_lines",kind="call"}"#,
        r#"calltap_records_dropped_total{sink="json_lines",kind="call",reason="sampled"}"#,
        r#"calltap_records_dropped_total{sink="json_lines",kind="call",reason="filtered"}"#,
    ];
    records.map(value)
}

#[test]
fn what_is_sampled_away_is_counted_and_what_is_kept_says_so() {
    let (_backend, calltap, mut client) = started(
        r#"
admin.address = "127.0.0.1:0"
        proxy.trusted_peers = ["127.0.0.1"]
        [[policies.records]]
        name = "dropped"
        when = 'url.path == "/bytes/2"'
        then = "drop"

        [[policies.records]]
        name = "usual"
        when = 'kind == "call"'
        then = "sample"
        one_in = 4
        slow_ms = 60_000
        "#,
    );
    // The threshold for one in four of the last 14 digits begins with c.
    for digit in "0123456789abcdef".chars() {
        let trace = format!(
            "00-{}{digit}{}-2222222222222222-01",
            "1".repeat(18),
            "8".repeat(13)
        );
        client.send(format!(
            "GET /bytes/1 HTTP/1.1\r\nHost: api.test\r\ntraceparent: {trace}\r\n\r\n"
        ));
        assert_eq!(client.response("GET").status(), 200);
    }
    assert_eq!(client.get("/bytes/2").status(), 200);
    assert_eq!(client.get("/status/503").status(), 503);
    drop(client);
    wait_for("the records", || {
        (counted(&calltap) == [18, 5, 12, 1]).then_some(())
    });
    let records = calltap.finish(5);
    for record in &records {
        let is_error = record.number("http.response.status_code") == 503;
        record.expect(json!({
            "policy.matched": ["usual:sample"],
            "sampling.one_in": if is_error { json!(null) } else { json!(4) },
        }));
    }
}

#[test]
fn a_reload_exchanges_what_is_redacted() {
    let (_backend, calltap, mut client) = started(
        r#"
        [[policies.records]]
        name = "hide"
        when = 'url.path.startsWith("/bytes")'
        then = "redact"
        fields = ["voucher", "user_agent.original"]
        "#,
    );
    let call =
        "GET /bytes/1?voucher=7&page=2 HTTP/1.1\r\nHost: api.test\r\nUser-Agent: curl\r\n\r\n";
    client.send(call);
    assert_eq!(client.response("GET").status(), 200);
    calltap.records(1)[0].expect(json!({
        "url.query": "voucher=REDACTED&page=2",
        "user_agent.original": null,
        "policy.matched": ["hide:redact"],
    }));
    let file = calltap.directory().join("calltap.toml");
    let before = std::fs::read_to_string(&file).expect("its configuration");
    let after = before.replace("\"voucher\", \"user", "\"url.query.page\", \"user");
    assert_ne!(before, after);
    std::fs::write(&file, after).expect("written");
    calltap.signal(rustix::process::Signal::HUP);
    calltap.wait_said("reloaded");
    client.send(call);
    assert_eq!(client.response("GET").status(), 200);
    drop(client);
    let records = calltap.finish(2);
    records[1].expect(json!({"url.query": "voucher=7&page=REDACTED"}));
}

#[test]
fn a_reload_exchanges_the_rules() {
    let (_backend, calltap, mut client) = started(
        r#"
        [[policies.rules]]
        name = "closed"
        when = "true"
        then = "deny"
        "#,
    );
    assert_eq!(client.get("/bytes/1").status(), 403);
    let file = calltap.directory().join("calltap.toml");
    let before = std::fs::read_to_string(&file).expect("its configuration");
    let after = before.replace("then = \"deny\"", "then = \"deny\"\ndry_run = true");
    assert_ne!(before, after);
    std::fs::write(&file, after).expect("written");
    calltap.signal(rustix::process::Signal::HUP);
    calltap.wait_said("reloaded");
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/bytes/1").status(), 200);
    drop(client);
    let records = calltap.finish(2);
    let open = records
        .iter()
        .find(|record| record.number("http.response.status_code") == 200);
    open.expect("its record")
        .expect(json!({"policy.matched": ["closed:deny:dry_run"]}));
}

#[test]
fn only_so_many_calls_are_open_at_a_time() {
    let (backend, calltap, mut first) = started(
        r#"
        [[policies.rules]]
        name = "one"
        when = "true"
        then = "limit"
        key = "client.address"
        concurrent = 1
        "#,
    );
    first.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
    backend.shared().wait_asked("/gated");
    let mut second = Client::connect(calltap.address());
    let refused = second.get("/bytes/1");
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.head.header("retry-after"), None);
    backend.shared().open_gate();
    assert_eq!(first.response("GET").status(), 200);
    // The first is over as soon as calltap has noticed that, too.
    wait_for("a free place", || {
        let mut next = Client::connect(calltap.address());
        (next.get("/bytes/1").status() == 200).then_some(())
    });
    let records = calltap.records(2);
    let refused = records
        .iter()
        .find(|record| record.get("error.type").is_some());
    refused.expect("its record").expect(json!({
        "http.response.status_code": 429,
        "error.type": "rate_limited",
        "policy.decision": "limit",
        "policy.reason": "one",
        "ratelimit.key": "127.0.0.1",
        "ratelimit.remaining": null,
    }));
}
