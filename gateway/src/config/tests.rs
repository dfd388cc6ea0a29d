//! Files and what comes of them.

use std::path::PathBuf;
use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::route::{Found, HostHeader};

/// Enough of a file to be accepted.
const SMALL: &str = r#"
[[listeners]]
address = "127.0.0.1:8080"

[[routes]]
upstream = "orders"

[upstreams.orders]
endpoints = ["127.0.0.1:9000"]
"#;

fn read(text: &str) -> Config {
    match parse("calltap.toml", text, &Overrides::default()) {
        Ok(config) => config,
        Err(mistakes) => panic!("{}", listed(&mistakes)),
    }
}

fn listed(mistakes: &[ConfigError]) -> String {
    mistakes
        .iter()
        .map(|mistake| format!("{mistake}\n"))
        .collect()
}

/// All mistakes of a file, as they are printed.
fn check_mistakes(text: &str, expected: Expect) {
    check_mistakes_with(text, &Overrides::default(), expected);
}

fn check_mistakes_with(text: &str, overrides: &Overrides, expected: Expect) {
    let mistakes = parse("calltap.toml", text, overrides)
        .err()
        .unwrap_or_default();
    expected.assert_eq(&listed(&mistakes));
}

fn flags(listen: &str, upstream: &str) -> Overrides {
    let (listen, upstream) = (vec![listen.to_owned()], vec![upstream.to_owned()]);
    Overrides {
        listen,
        upstream,
        ..Overrides::default()
    }
}

#[test]
fn a_head_may_not_be_larger_than_its_parser_takes() {
    let text = |uri, head| {
        format!("limits.uri_max_bytes = {uri}\nlimits.header_max_bytes = {head}\n{SMALL}")
    };
    let limits = read(&text(65_534, 1_048_575)).limits;
    assert_eq!(
        (limits.uri_max_bytes, limits.header_max_bytes),
        (65_534, 1_048_575)
    );
    check_mistakes(
        &text(65_535, 1_048_576),
        expect![[r#"
        calltap.toml:1:24: limits.uri_max_bytes: must be 64 to 65534, this is 65535
        calltap.toml:2:27: limits.header_max_bytes: must be 256 to 1048575, this is 1048576
    "#]],
    );
}

#[test]
fn listen_and_upstream_need_no_file() {
    let config = load(None, &flags("127.0.0.1:8080", "127.0.0.1:9000")).unwrap();
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(
        config.upstreams["default"].endpoints[0].to_string(),
        "127.0.0.1:9000"
    );
    let Found::Route(route, _) = config.routes.find(Some("any.host"), "/a/b", "PATCH") else {
        panic!("no catch-all route");
    };
    assert_eq!((&*route.name, &*route.upstream), ("default", "default"));
    assert_eq!(
        config.records.path,
        RecordsPath::File(PathBuf::from("calls.jsonl"))
    );
    assert_eq!(config.admin.unwrap().address.to_string(), "127.0.0.1:9901");
}

#[test]
fn nothing_configured_says_what_is_missing() {
    check_mistakes(
        "",
        expect![[r#"
            calltap.toml: listeners: there is no listener; add [[listeners]] with an address, or start with --listen 127.0.0.1:8080
            calltap.toml: routes: there is no route; add [[routes]] with an upstream, or start with --upstream 127.0.0.1:9000
        "#]],
    );
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    check_mistakes(
        r#"
worker = 4
workers = "four"

[[listeners]]
address = ":8080"
h2c = 1

[[listeners]]
address = "127.0.0.1:8081"
tls = { certificate = "/nonexistent/chain.pem", key = "/nonexistent/key.pem" }

[[listeners]]
address = "127.0.0.1:8081"

[[routes]]
name = "a"
path = "/orders/{id}"
upstream = "oders"
method = ["GET"]

[[routes]]
name = "a"
path = "/orders/{order}"
upstream = "orders"
timeout_ms = -1
strip_prefix = "/shop"

[[routes]]
path = "orders"
host = "example.com:80"
upstream = "nothing-like-it"

[[routes]]
path = "/x/*"
methods = ["GET", "NO SUCH"]

[upstreams.orders]
endpoints = ["https://backend.internal:9000/x", "10.0.0.256:80", "backend", "127.0.0.1:1", "127.0.0.1:1"]
balance = "round-robin"
tls = { certificate = "a.pem" }
health = { interval_ms = 1.5 }

[upstreams."a b"]
endpoints = []

[records]
connections = "failing"
rotate = { max_mib = 10, keeep = 3 }
request_headers = ["X Y"]

[tap]
mode = "bpf"

[admin]
address = "0.0.0.0:9901"

[consumer]
client_id = ["header:X-Id", "cookie:id"]

[proxy]
trusted_peers = ["10.0.0.1/8", "fe80::/129", "localhost"]

[limits]
head_ms = 0
body_max_bytes = 99999999999999999999

[defaults.route]
upstream = "orders"
"#,
        expect![[r#"
            calltap.toml:2:1: worker: unknown key; did you mean "workers"?
            calltap.toml:3:11: workers: must be a whole number, this is a text
            calltap.toml:6:11: listeners[0].address: ":8080" is no address; write 0.0.0.0:8080, or [::]:8080
            calltap.toml:7:7: listeners[0].h2c: must be true or false, this is a number
            calltap.toml:11:23: listeners[1].tls.certificate: cannot read /nonexistent/chain.pem: No such file or directory (os error 2)
            calltap.toml:11:55: listeners[1].tls.key: cannot read /nonexistent/key.pem: No such file or directory (os error 2)
            calltap.toml:14:11: listeners[2].address: listeners[1].address is the same
            calltap.toml:19:12: routes[0].upstream: no upstream group is named "oders"; did you mean "orders"?
            calltap.toml:20:1: routes[0].method: unknown key; did you mean "methods"?
            calltap.toml:22:1: routes[1]: answers the same calls as routes[0]: same host, same path; one of the two would never be taken; remove it or tell them apart
            calltap.toml:23:8: routes[1].name: "a" is also routes[0].name; give each route a name of its own
            calltap.toml:26:14: routes[1].timeout_ms: must be 0 to 86400000, this is -1
            calltap.toml:27:16: routes[1].strip_prefix: "/shop" is not how /orders/{order} begins; it must be whole segments without parameters at the beginning of the route's path
            calltap.toml:30:8: routes[2].path: "orders": a path begins with /
            calltap.toml:31:8: routes[2].host: "example.com:80": a host is named without its port
            calltap.toml:32:12: routes[2].upstream: no upstream group is named "nothing-like-it"; add [upstreams.nothing-like-it] with endpoints
            calltap.toml:34:1: routes[3].upstream: is missing; name a group of [upstreams]
            calltap.toml:35:8: routes[3].path: "/x/*": * is no wildcard; a tail is written {*name} and comes last
            calltap.toml:36:19: routes[3].methods[1]: "NO SUCH" is no method; write GET, POST, ...
            calltap.toml:39:14: upstreams.orders.endpoints[0]: "https://backend.internal:9000/x" is a URL; write the host and the port, and tls = {} for the group: backend.internal:9000
            calltap.toml:39:49: upstreams.orders.endpoints[1]: "10.0.0.256:80" is no endpoint; write 10.0.0.1:9000, [fd00::1]:9000, backend.internal:9000 or unix:/run/app.sock
            calltap.toml:39:66: upstreams.orders.endpoints[2]: "backend" has no port; write backend:80, or the port it listens on
            calltap.toml:39:92: upstreams.orders.endpoints[4]: 127.0.0.1:1 is in this group already
            calltap.toml:40:11: upstreams.orders.balance: "round-robin" is none of "round_robin", "least_connections"; did you mean "round_robin"?
            calltap.toml:41:23: upstreams.orders.tls.certificate: cannot read a.pem: No such file or directory (os error 2)
            calltap.toml:41:23: upstreams.orders.tls.certificate: certificate and key go together; name both, or neither
            calltap.toml:42:10: upstreams.orders.health.path: is missing; name the path to ask for: path = "/healthz"
            calltap.toml:42:26: upstreams.orders.health.interval_ms: must be a whole number, 1.5 is a fraction
            calltap.toml:44:12: upstreams."a b": a group's name has 1 to 64 letters, digits, ., _ and -
            calltap.toml:45:13: upstreams."a b".endpoints: a group needs at least one endpoint; write endpoints = ["127.0.0.1:9000"]
            calltap.toml:48:15: records.connections: "failing" is none of "failed", "all", "none"
            calltap.toml:49:26: records.rotate.keeep: unknown key; did you mean "keep"?
            calltap.toml:50:20: records.request_headers[0]: "X Y" is no header name
            calltap.toml:53:8: tap.mode: "bpf" is none of "auto", "ebpf", "tcp_info", "off"; did you mean "ebpf"?
            calltap.toml:56:11: admin.address: 0.0.0.0:9901 can be reached from other machines, and there is no token; add admin.token_file, or listen on 127.0.0.1
            calltap.toml:59:29: consumer.client_id[1]: "cookie:id" is no place in a call; write header:NAME, query:NAME, mtls:subject, mtls:issuer or mtls:sha256
            calltap.toml:62:18: proxy.trusted_peers[0]: "10.0.0.1/8": the address has bits set beyond its prefix; did you mean "10.0.0.0/8"?
            calltap.toml:62:32: proxy.trusted_peers[1]: "fe80::/129": the prefix length must be 0 to 128; write 10.0.0.0/8, fd00::/8 or one address
            calltap.toml:62:46: proxy.trusted_peers[2]: "localhost": this is neither an IP address nor a network; write 10.0.0.0/8, fd00::/8 or one address
            calltap.toml:65:11: limits.head_ms: must be 1 to 86400000, this is 0
            calltap.toml:66:18: limits.body_max_bytes: must be a whole number, 99999999999999999999 is too large a number
            calltap.toml:69:1: defaults.route.upstream: unknown key; known here: methods, path
        "#]],
    );
}

#[test]
fn broken_syntax_hides_no_other_mistake() {
    check_mistakes(
        "[[listeners]]\naddress = \"127.0.0.1:8080\n\n[tap]\nmode = \"bpf\"\n[tap]\nsockets_max = 1\n",
        expect![[r#"
            calltap.toml:2:26: invalid basic string, expected `"`
            calltap.toml:5:8: tap.mode: "bpf" is none of "auto", "ebpf", "tcp_info", "off"; did you mean "ebpf"?
            calltap.toml:6:2: duplicate key
            calltap.toml:7:15: tap.sockets_max: must be 2 to 1048576, this is 1
        "#]],
    );
}

#[test]
fn a_flag_that_is_wrong_is_named() {
    let overrides = Overrides {
        tap: Some("kernel".into()),
        admin: Some("9901".into()),
        workers: Some(5000),
        ..flags("8080", "http://127.0.0.1:9000")
    };
    check_mistakes_with(
        "",
        &overrides,
        expect![[r#"
        --admin: admin.address: "9901" is no address; write an IP address and a port: 127.0.0.1:8080 or [::1]:8080
        --listen: listeners[0].address: "8080" is no address; write an IP address and a port: 127.0.0.1:8080 or [::1]:8080
        --tap: tap.mode: "kernel" is none of "auto", "ebpf", "tcp_info", "off"
        --upstream: upstreams.default.endpoints[0]: "http://127.0.0.1:9000" is a URL; write the host and the port: 127.0.0.1:9000
        --workers: workers: must be 0 to 1024, this is 5000
    "#]],
    );
}

#[test]
fn flags_stand_over_the_file() {
    let overrides = Overrides {
        records: Some("-".into()),
        tap: Some("off".into()),
        admin: Some("none".into()),
        workers: Some(3),
        ..flags("[::1]:1", "unix:/run/app.sock")
    };
    let config = parse("calltap.toml", SMALL, &overrides).unwrap();
    assert_eq!(config.listeners[0].address.to_string(), "[::1]:1");
    assert_eq!(
        config
            .upstreams
            .keys()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["default"]
    );
    assert_eq!(config.records.path, RecordsPath::Stdout);
    assert_eq!(config.tap.mode, TapMode::Off);
    assert_eq!(config.admin, None);
    assert_eq!(config.workers.get(), 3);
}

#[test]
fn a_route_has_what_its_keys_say() {
    let config = read(
        r#"
listeners = [{ address = "0.0.0.0:80", h2c = true }]
limits.total_ms = 9000
defaults.upstream.retries = 5

[[routes]]
name = "get-order"
host = "*.Example.com"
path = "/shop/orders/{id}"
methods = ["get", "HEAD"]
upstream = "orders"
strip_prefix = "/shop/"
timeout_ms = 2000
host_header = "keep"
api = { name = "orders", version = "1.2.0", product = "shop", plan = "gold", catalog = "prod" }
operation = "getOrder"

[[routes]]
upstream = "orders"

[upstreams.orders]
endpoints = ["10.0.0.1:9000", "[fd00::1]:9000", "Orders.internal:9000", "unix:/run/orders.sock"]
balance = "least_connections"
protocol = "http2"
host_header = "rewrite"
tls = { server_name = "orders.internal" }
health = { path = "/healthz", unhealthy_after = 1 }
"#,
    );
    let Found::Route(route, params) =
        config
            .routes
            .find(Some("a.example.com"), "/shop/orders/7", "GET")
    else {
        panic!("no route");
    };
    assert_eq!(params.as_slice(), [("id", "7")]);
    assert_eq!(route.forward_path("/shop/orders/7"), "/orders/7");
    assert_eq!(
        (route.timeout, route.host_header),
        (Some(Duration::from_secs(2)), HostHeader::Keep)
    );
    assert_eq!(route.api.route.as_deref(), Some("/shop/orders/{id}"));
    assert_eq!(route.api.operation.as_deref(), Some("getOrder"));
    assert_eq!(route.api.plan.as_deref(), Some("gold"));

    let Found::Route(route, _) = config.routes.find(None, "/", "GET") else {
        panic!("no route");
    };
    assert_eq!(
        (route.timeout, route.host_header),
        (Some(Duration::from_secs(9)), HostHeader::Rewrite)
    );

    let orders = &config.upstreams["orders"];
    let endpoints: Vec<String> = orders.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(
        endpoints,
        [
            "10.0.0.1:9000",
            "[fd00::1]:9000",
            "orders.internal:9000",
            "unix:/run/orders.sock"
        ]
    );
    assert_eq!(
        (orders.balance, orders.protocol, orders.retries),
        (Balance::LeastConnections, Protocol::Http2, 5)
    );
    let health = orders.health.as_ref().unwrap();
    assert_eq!(
        (
            health.path.as_str(),
            health.unhealthy_after,
            health.healthy_after
        ),
        ("/healthz", 1, 2)
    );
}

#[test]
fn a_reload_takes_routes_upstreams_and_certificates_only() {
    let old = read(SMALL);
    let same = SMALL.replace("127.0.0.1:9000", "127.0.0.1:9001").replace(
        "upstream = \"orders\"",
        "upstream = \"orders\"\npath = \"/x\"",
    );
    assert_eq!(old.needs_restart(&read(&same)), []);

    let new = format!(
        "workers = 7\n{}\n[[listeners]]\naddress = \"127.0.0.1:8082\"\n[tap]\nmode = \"off\"\n[records]\nrequest_headers = [\"a\"]\n",
        SMALL.replace("8080", "8081")
    );
    expect![[r#"
        calltap.toml:4:11: listeners[0].address: changed from "127.0.0.1:8080" to "127.0.0.1:8081", which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml:12:1: listeners[1]: is new, which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml:17:19: records.request_headers: changed from ["range"] to ["a"], which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml:15:8: tap.mode: changed from "auto" to "off", which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml:1:11: workers: changed from 0 to 7, which needs a restart; restart calltap, or put the old value back and reload
    "#]].assert_eq(&listed(&old.needs_restart(&read(&new))));
    expect![[r#"
        calltap.toml:3:11: listeners[0].address: changed from "127.0.0.1:8081" to "127.0.0.1:8080", which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml: listeners[1]: is gone, which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml: records.request_headers: changed from ["a"] to ["range"], which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml: tap.mode: changed from "off" to "auto", which needs a restart; restart calltap, or put the old value back and reload
        calltap.toml: workers: changed from 7 to 0, which needs a restart; restart calltap, or put the old value back and reload
    "#]].assert_eq(&listed(&read(&new).needs_restart(&old)));
}

#[test]
fn every_mistake_of_a_rule_is_told() {
    let rules = r#"
[[policies.rules]]
name = "no good"
when = 'client.tcp.rt_us > 5'
then = "block"

[[policies.rules]]
name = "limit"
when = 'duration_us > 5'
then = "limit"
rate = "100 a minute"
burst = 0
keys = "client.address"

[[policies.rules]]
name = "limit"
when = "true"
then = "tag"
status = 404
on_error = "deny"

[[policies.rules]]
name = "both"
when = "true"
then = "limit"
key = "client.address"
rate = "5/second"
concurrent = 0
"#;
    check_mistakes(
        &format!("{SMALL}{rules}"),
        expect![[r#"
            calltap.toml:12:8: policies.rules[0].name: a rule's name has 1 to 64 letters, digits, ., _ and -
            calltap.toml:13:8: policies.rules[0].when: column 1: client.tcp.rt_us is no field of the record; did you mean client.tcp.rtt_us?
            calltap.toml:14:8: policies.rules[0].then: "block" is none of "allow", "deny", "limit", "tag"
            calltap.toml:16:1: policies.rules[1].key: is missing; write key = "client.address"
            calltap.toml:18:8: policies.rules[1].when: column 1: duration_us is not known before the call is forwarded
            calltap.toml:20:8: policies.rules[1].rate: "100 a minute" is no rate; write 1 to 1000000000 calls per second, minute, hour or day: "100/minute"
            calltap.toml:21:9: policies.rules[1].burst: must be 1 to 1000000000, this is 0
            calltap.toml:22:1: policies.rules[1].keys: unknown key; did you mean "key"?
            calltap.toml:25:8: policies.rules[2].name: another rule is called "limit"
            calltap.toml:28:1: policies.rules[2].status: unknown key; known here: name, when, then, dry_run, on_error
            calltap.toml:29:12: policies.rules[2].on_error: "deny" is none of "skip", "match"
            calltap.toml:36:8: policies.rules[3].rate: a limit has either concurrent or rate; take one of them out, or write two rules
            calltap.toml:37:14: policies.rules[3].concurrent: must be 1 to 1000000000, this is 0
        "#]],
    );
}

#[test]
fn every_mistake_of_a_rule_about_records_is_told() {
    let rules = r#"
[[policies.rules]]
name = "taken"
when = "true"
then = "tag"

[[policies.records]]
name = "taken"
when = 'duration_us > 5 && finding == 1'
then = "omit"

[[policies.records]]
name = "some"
when = 'kind == "cal"'
then = "sample"
rate = 0.01

[[policies.records]]
name = "hide"
when = "true"
then = "redact"
fields = ["url.pth", "voucher", "kind"]
one_in = 5
"#;
    check_mistakes(
        &format!("{SMALL}{rules}"),
        expect![[r#"
            calltap.toml:17:8: policies.records[0].name: another rule is called "taken"
            calltap.toml:18:8: policies.records[0].when: column 20: finding is no field of the record; did you mean findings?
            calltap.toml:19:8: policies.records[0].then: "omit" is none of "keep", "drop", "sample", "redact"
            calltap.toml:21:1: policies.records[1].one_in: is missing; write one_in = 100
            calltap.toml:23:8: policies.records[1].when: column 9: kind is never "cal"; did you mean "call"?
            calltap.toml:25:1: policies.records[1].rate: unknown key; did you mean "name"?
            calltap.toml:31:11: policies.records[2].fields[0]: the record has no field "url.pth"; did you mean "url.path"?
            calltap.toml:31:33: policies.records[2].fields[2]: every record has kind
            calltap.toml:32:1: policies.records[2].one_in: unknown key; known here: name, when, then, dry_run, on_error, fields
        "#]],
    );
}

#[test]
fn lists_of_addresses_are_checked_entry_by_entry() {
    check_mistakes(
        &format!(
            r#"{SMALL}
[policies]
never_denied = ["10.0.0.0/33"]
deny_max = 0

[[policies.lists]]
name = "added"
then = "block"
entries = ["10.0.0.1/8", "10.0.0.1 until tomorrow", 7]

[[policies.lists]]
name = "twice"
then = "deny"

[[policies.lists]]
name = "twice"
then = "deny"
files = "blocked.txt"
file = "/no/such/list"
"#
        ),
        expect![[r#"
            calltap.toml:12:17: policies.never_denied[0]: "10.0.0.0/33": the prefix length must be 0 to 32; write 10.0.0.0/8, fd00::/8 or one address
            calltap.toml:13:12: policies.deny_max: must be 1 to 4000000, this is 0
            calltap.toml:16:8: policies.lists[0].name: a list's name has 1 to 64 letters, digits, ., _ and -, and is not added
            calltap.toml:17:8: policies.lists[0].then: "block" is none of "deny"
            calltap.toml:18:12: policies.lists[0].entries[0]: "10.0.0.1/8": the address has bits set beyond its prefix; did you mean "10.0.0.0/8"?
            calltap.toml:18:26: policies.lists[0].entries[1]: "until tomorrow" is not an end; write "until 2026-12-01T00:00:00Z", or nothing
            calltap.toml:18:53: policies.lists[0].entries[2]: must be a text, this is a number
            calltap.toml:20:1: policies.lists[1]: the list has neither file nor entries; write file = "blocked.txt", or entries = ["203.0.113.0/24"]
            calltap.toml:25:8: policies.lists[2].name: another list is called "twice"
            calltap.toml:27:1: policies.lists[2].files: unknown key; did you mean "file"?
            calltap.toml:28:8: policies.lists[2].file: cannot read /no/such/list: No such file or directory (os error 2)
        "#]],
    );
    check_mistakes(
        &format!(
            r#"{SMALL}
[policies]
deny_max = 2

[[policies.lists]]
name = "long"
then = "deny"
entries = ["10.0.0.0/8", "10.0.0.0/8", "10.0.0.1", "10.0.0.2"]
"#
        ),
        expect![[r#"
            calltap.toml:14:1: policies.lists: the lists have 3 networks, and policies.deny_max is 2; raise policies.deny_max; docs/operations.md says what a network costs
        "#]],
    );
}

#[test]
fn a_file_of_addresses_is_read_and_what_is_never_denied_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("blocked.txt");
    std::fs::write(
        &file,
        "192.0.2.0/24 until 2026-12-01T00:00:00Z\n127.0.0.2\n",
    )
    .unwrap();
    let text = format!(
        r#"
policies.lists = [{{ name = "blocked", file = {file:?}, entries = ["203.0.113.0/24"], then = "deny" }}]
{SMALL}"#
    );
    let config = read(&text);
    let entries: Vec<String> = config.denials.lists[0]
        .entries
        .iter()
        .map(|entry| entry.network.to_string())
        .collect();
    assert_eq!(entries, ["203.0.113.0/24", "192.0.2.0/24", "127.0.0.2/32"]);
    let summary = Summary::of(&config).to_string();
    for line in [
        "list blocked: 3 entries, deny",
        "list blocked: 127.0.0.2/32 is not denied, for 127.0.0.0/8 never is (loopback)",
    ] {
        assert!(summary.lines().any(|said| said == line), "{summary}");
    }
}

#[test]
fn defaults_file_is_what_an_empty_file_means() {
    let overrides = flags("127.0.0.1:1", "127.0.0.1:2");
    let empty = parse("a", "", &overrides).unwrap();
    let defaults = parse("b", DEFAULTS, &overrides).unwrap();
    assert_eq!(empty.needs_restart(&defaults), []);
    assert_eq!(empty.limits, defaults.limits);
}

/// A directory with a certificate and its key, another key, and things that are neither.
fn pem_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    for (name, text) in [
        ("chain.pem", own.cert.pem()),
        ("key.pem", own.signing_key.serialize_pem()),
        ("other.pem", other.serialize_pem()),
        (
            "broken.pem",
            "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n".to_owned(),
        ),
        ("empty", "\n".to_owned()),
        ("token", "s3cret\n".to_owned()),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn tls_file(dir: &Path, certificate: &str, key: &str, client_ca: &str, token: &str) -> String {
    let dir = dir.display();
    format!(
        r#"
[[listeners]]
address = "0.0.0.0:8443"
tls = {{ certificate = "{dir}/{certificate}", key = "{dir}/{key}", client_ca = "{dir}/{client_ca}" }}
[[routes]]
upstream = "a"
[upstreams.a]
endpoints = ["localhost:1"]
[admin]
address = "[::]:9901"
token_file = "{dir}/{token}"
"#
    )
}

#[test]
fn certificates_are_looked_into() {
    let dir = pem_files();
    let check = |[certificate, key, client_ca, token]: [&str; 4], expected: Expect| {
        let text = tls_file(dir.path(), certificate, key, client_ca, token);
        let mistakes = parse("f", &text, &Overrides::default())
            .err()
            .unwrap_or_default();
        expected.assert_eq(&listed(&mistakes).replace(&dir.path().display().to_string(), "DIR"));
    };
    check(
        ["chain.pem", "key.pem", "chain.pem", "token"],
        expect![[""]],
    );
    check(
        ["chain.pem", "other.pem", "key.pem", "empty"],
        expect![[r#"
        f:4:58: listeners[0].tls.key: DIR/other.pem is not the private key of DIR/chain.pem
        f:4:99: listeners[0].tls.client_ca: DIR/key.pem has no certificate in PEM form
        f:11:14: admin.token_file: DIR/empty is empty
    "#]],
    );
    check(
        ["key.pem", "chain.pem", "broken.pem", "absent"],
        expect![[r#"
        f:4:23: listeners[0].tls.certificate: DIR/key.pem has no certificate in PEM form
        f:4:56: listeners[0].tls.key: DIR/chain.pem has no private key in PEM form
        f:4:97: listeners[0].tls.client_ca: DIR/broken.pem is not well-formed PEM
        f:11:14: admin.token_file: cannot read DIR/absent: No such file or directory (os error 2)
    "#]],
    );
    check(
        ["broken.pem", "absent", "absent", "token"],
        expect![[r#"
        f:4:23: listeners[0].tls.certificate: DIR/broken.pem is not well-formed PEM
        f:4:59: listeners[0].tls.key: cannot read DIR/absent: No such file or directory (os error 2)
        f:4:97: listeners[0].tls.client_ca: cannot read DIR/absent: No such file or directory (os error 2)
    "#]],
    );
}

#[test]
fn another_certificate_file_is_taken_by_a_reload_but_other_authorities_are_not() {
    let dir = pem_files();
    for name in ["chain", "key"] {
        let from = dir.path().join(format!("{name}.pem"));
        std::fs::copy(from, dir.path().join(format!("new-{name}.pem"))).unwrap();
    }
    let old = read(&tls_file(
        dir.path(),
        "chain.pem",
        "key.pem",
        "chain.pem",
        "token",
    ));
    let new = read(&tls_file(
        dir.path(),
        "new-chain.pem",
        "new-key.pem",
        "chain.pem",
        "token",
    ));
    assert_eq!(old.needs_restart(&new), []);
    let others = tls_file(dir.path(), "chain.pem", "key.pem", "new-chain.pem", "token");
    assert_eq!(old.needs_restart(&read(&others)), []);
    // Whether clients are asked at all is another matter.
    let (with, _) = others
        .split_once(", client_ca")
        .expect("an authority of clients");
    let rest = others.lines().skip(4).collect::<Vec<_>>().join("\n");
    let nobodys = format!("{with} }}\n{rest}");
    for (before, after) in [(&others, &nobodys), (&nobodys, &others)] {
        let keys: Vec<String> = read(before)
            .needs_restart(&read(after))
            .into_iter()
            .map(|mistake| mistake.key)
            .collect();
        assert_eq!(keys, ["listeners[0].tls.client_ca"]);
    }
    let plain =
        tls_file(dir.path(), "chain.pem", "key.pem", "chain.pem", "token").replace("tls = ", "# ");
    let keys: Vec<String> = old
        .needs_restart(&read(&plain))
        .into_iter()
        .map(|mistake| mistake.key)
        .collect();
    assert_eq!(keys, ["listeners[0].tls"]);
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let mistakes = check(Path::new("/nonexistent/calltap.toml")).unwrap_err();
    expect![[r#"
        /nonexistent/calltap.toml: cannot read the file: No such file or directory (os error 2)
    "#]]
    .assert_eq(&listed(&mistakes));
}

#[test]
fn check_sums_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calltap.toml");
    std::fs::write(&path, SMALL).unwrap();
    expect![[r#"
        listens on 127.0.0.1:8080 (http)
        route /{*rest}: any host, /{*rest}, every method -> orders
        upstream orders: 127.0.0.1:9000
        records go to calls.jsonl
        admin API on 127.0.0.1:9901
    "#]]
    .assert_eq(&check(&path).unwrap().to_string());
}

/// The examples in the comments of the defaults: blocks indented by three spaces.
fn examples() -> String {
    let lines = DEFAULTS
        .lines()
        .filter_map(|line| line.strip_prefix("#   "));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_examples_beside_the_defaults_are_right() {
    let examples = examples();
    assert!(examples.contains("token_file"), "{examples}");
    // Only the files they name are not there.
    for mistake in parse("examples", &examples, &Overrides::default()).unwrap_err() {
        assert!(mistake.message.starts_with("cannot read "), "{mistake}");
    }
}

#[test]
fn every_default_has_a_sentence() {
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    for pair in lines.windows(2) {
        let is_key = pair[1].starts_with(|first: char| first.is_ascii_lowercase());
        assert!(!is_key || pair[0].starts_with('#'), "{}", pair[1]);
    }
}

/// A file that says most of what can be said.
fn large() -> String {
    format!(
        "{}{SMALL}",
        DEFAULTS
            .replace("listeners = []", "")
            .replace("routes = []", "")
    )
}

#[test]
fn nesting_without_end_is_a_mistake_like_others() {
    let deep = format!("workers = {}", "[".repeat(100_000));
    assert!(parse("calltap.toml", &deep, &Overrides::default()).is_err());
    let deep = format!("{}b = 1", "a.".repeat(100_000));
    assert!(parse("calltap.toml", &deep, &Overrides::default()).is_err());
}

#[test]
fn a_name_with_control_characters_is_printed_in_one_line() {
    check_mistakes(
        "\"wor\\u001bkers\\n\" = 1\n[tap]\nmode = \"a\\u001b\\n\"\n",
        expect![[r#"
            calltap.toml: listeners: there is no listener; add [[listeners]] with an address, or start with --listen 127.0.0.1:8080
            calltap.toml: routes: there is no route; add [[routes]] with an upstream, or start with --upstream 127.0.0.1:9000
            calltap.toml:1:1: "wor\u{1b}kers\n": unknown key; did you mean "workers"?
            calltap.toml:3:8: tap.mode: "a\u{1b}\n" is none of "auto", "ebpf", "tcp_info", "off"
        "#]],
    );
}

#[test]
fn fields_of_the_record_are_known() {
    let fields = |names| format!("{SMALL}\n[records]\nfields = [{names}]\n");
    let all = read(SMALL).records.fields;
    assert_eq!(read(&fields("")).records.fields, all);
    assert_ne!(
        read(&fields("\"url.path\", \"client.*\"")).records.fields,
        all
    );
    check_mistakes(
        &fields("\"url.path\", \"url.paht\", 3"),
        expect![[r#"
        calltap.toml:12:23: records.fields[1]: the record has no field "url.paht"; did you mean "url.path"?
        calltap.toml:12:35: records.fields[2]: must be a text, this is a number
    "#]],
    );
}

#[test]
fn the_admin_api_answers_to_its_own_address() {
    let hosts = |admin: &str| {
        read(&format!("{SMALL}\n[admin]\n{admin}"))
            .admin
            .unwrap()
            .allowed_hosts
    };
    assert_eq!(
        hosts("address = \"127.0.0.2:9901\"\nallowed_hosts = [\"Ops.Example.\"]"),
        ["ops.example", "127.0.0.2"]
    );
    assert_eq!(
        hosts("address = \"[::1]:0\"\nallowed_hosts = []"),
        ["[::1]"]
    );
    check_mistakes(
        &format!("{SMALL}\n[admin]\nallowed_hosts = [\"*.a\", \"a:80\"]"),
        expect![[r#"
            calltap.toml:12:18: admin.allowed_hosts[0]: the admin API answers to whole names only
            calltap.toml:12:25: admin.allowed_hosts[1]: "a:80": a host is named without its port
        "#]],
    );
}

#[test]
fn defaults_that_are_none_are_one_mistake() {
    check_mistakes(
        &format!("defaults = 5\n{SMALL}"),
        expect![[r#"
        calltap.toml:1:12: defaults: must be a table, this is a number
    "#]],
    );
    check_mistakes(
        &format!(
            "defaults.route = 5\ndefaults.rout = {{}}\ndefaults.health.path = 1\ndefaults.route_ = 1\n{SMALL}"
        ),
        expect![[r#"
            calltap.toml:1:18: defaults.route: must be a table, this is a number
            calltap.toml:2:10: defaults.rout: unknown key; did you mean "route"?
            calltap.toml:3:17: defaults.health.path: unknown key; known here: healthy_after, interval_ms, timeout_ms, unhealthy_after
            calltap.toml:4:10: defaults.route_: unknown key; did you mean "route"?
        "#]],
    );
}

#[test]
fn a_default_that_is_wrong_is_one_mistake() {
    let two = SMALL.replace(
        "[[routes]]",
        "[[routes]]\npath = \"/a\"\nupstream = \"orders\"\n[[routes]]",
    );
    check_mistakes(
        &format!("defaults.route.methods = [\"A B\", \"C D\"]\n{two}"),
        expect![[r#"
            calltap.toml:1:27: routes[0].methods[0]: "A B" is no method; write GET, POST, ...
            calltap.toml:1:34: routes[0].methods[1]: "C D" is no method; write GET, POST, ...
        "#]],
    );
}

#[test]
fn h2c_by_default_is_for_plain_listeners() {
    let dir = pem_files();
    let text = tls_file(dir.path(), "chain.pem", "key.pem", "chain.pem", "token");
    let config = read(&format!(
        "defaults.listener.h2c = true\n{text}\n[[listeners]]\naddress = \"0.0.0.0:8080\"\n"
    ));
    let h2c: Vec<bool> = config
        .listeners
        .iter()
        .map(|listener| listener.h2c)
        .collect();
    assert_eq!(h2c, [false, true]);
    let text = text.replace("tls = {", "h2c = true\ntls = {");
    check_mistakes(
        &text,
        expect![[r#"
        calltap.toml:4:7: listeners[0].h2c: h2c is HTTP/2 without TLS, and this listener has TLS; leave h2c away: ALPN offers h2
    "#]],
    );
}

#[test]
fn alerts_are_configured_with_their_mistakes_named() {
    use calltap_policies::alert::Terms;
    use calltap_policies::detect::Detector;

    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, " s3cret \n# of May").unwrap();
    let spaced = dir.path().join("spaced");
    std::fs::write(&spaced, "two words\n").unwrap();

    let alerts = read(SMALL).alerts;
    assert_eq!(alerts.terms, Terms::default());
    assert_eq!((alerts.off.len(), alerts.webhooks.len()), (0, 0));

    let alerts = read(&format!(
        r#"{SMALL}
[alerts]
false_per_day = 0.5
off = ["regularity", "novelty"]
link = "https://calltap.example.com/tap/"
[[alerts.webhooks]]
name = "on-call"
url = "https://[::1]:8443/hook?key=1"
secret_file = {secret:?}
[alerts.alertmanager]
urls = ["http://127.0.0.1:9093", "http://am.internal/am/"]
"#
    ))
    .alerts;
    assert_eq!(alerts.terms.false_per_day, 0.5);
    assert_eq!(alerts.off, [Detector::Regularity, Detector::Novelty]);
    let link = alerts.link.as_deref();
    assert_eq!(link, Some("https://calltap.example.com/tap"));
    let webhook = &alerts.webhooks[0];
    assert_eq!(webhook.secret.reveal(), b"s3cret");
    assert_eq!(format!("{:?}", webhook.secret), "Secret(..)");
    let url = &webhook.destination.url;
    assert_eq!((url.host(), url.port()), ("::1", 8443));
    assert_eq!(url.path_and_query(), "/hook?key=1");
    assert_eq!(url.origin(), "https://[::1]:8443");
    let peers = alerts.alertmanager.peers.iter();
    let names: Vec<&str> = peers.map(|peer| peer.name.as_str()).collect();
    assert_eq!(
        names,
        ["alertmanager 127.0.0.1:9093", "alertmanager am.internal/am"]
    );

    check_mistakes(
        &format!(
            r#"
defaults.webhook.secret_file = "x"
[alerts]
false_per_day = "few"
quiet_s = 0
alerts_max = 5
off = ["regularty", "everything"]
link = "calltap.example.com"
spool_max_mib = 0
webhook = []
[[alerts.webhooks]]
[[alerts.webhooks]]
name = "a"
url = "ftp://hooks.example.com/"
secret_file = "/nonexistent/secret"
severity = "high"
[[alerts.webhooks]]
name = "a"
url = "http://me:pw@hooks.example.com/"
secret_file = {secret:?}
token_file = {spaced:?}
timeout_ms = 0
[[alerts.webhooks]]
name = "b/../c"
url = "http://hooks.example.com/#here"
secret_file = {secret:?}
[alerts.alertmanager]
urls = ["http://127.0.0.1:9093/api/v2/alerts", "http://am", "http://am/"]
false_per_day = 1
[alerts.deny]
detectors = ["half_open", "injecton", "injection"]
{SMALL}"#
        ),
        expect![[r#"
            calltap.toml:2:18: defaults.webhook.secret_file: unknown key; known here: severity, timeout_ms
            calltap.toml:4:17: alerts.false_per_day: must be a number, this is a text
            calltap.toml:5:11: alerts.quiet_s: must be at least 1
            calltap.toml:6:14: alerts.alerts_max: must be 26 to 65536, this is 5
            calltap.toml:7:8: alerts.off[0]: no detector is named "regularty"; did you mean "regularity"?
            calltap.toml:7:21: alerts.off[1]: no detector is named "everything"; there are route_rate, route_errors, route_latency, route_size, client_rate, cost_share, object_enumeration, auth_failures, auth_spray, auth_account, unknown_paths, scraping, regularity, sequence, novelty, token_sharing, injection, overlapping_ranges, network_shift, stack_change, slow_request, slow_read, half_open, listener_scan, syn_flood, connection_churn
            calltap.toml:8:8: alerts.link: "calltap.example.com": this is no http:// or https:// URL
            calltap.toml:9:17: alerts.spool_max_mib: must be 1 to 1024, this is 0
            calltap.toml:10:1: alerts.webhook: unknown key; did you mean "webhooks"?
            calltap.toml:11:1: alerts.webhooks[0].name: is missing; write name = "on-call"
            calltap.toml:11:1: alerts.webhooks[0].url: is missing; write url = "https://hooks.example.com/calltap"
            calltap.toml:11:1: alerts.webhooks[0].secret_file: is missing; make one with `openssl rand -hex 32` and name it: the receiver verifies by it
            calltap.toml:14:7: alerts.webhooks[1].url: "ftp://hooks.example.com/": this is no http:// or https:// URL
            calltap.toml:15:15: alerts.webhooks[1].secret_file: cannot read /nonexistent/secret: No such file or directory (os error 2)
            calltap.toml:16:12: alerts.webhooks[1].severity: "high" is none of "info", "warning", "critical"
            calltap.toml:18:8: alerts.webhooks[2].name: another webhook is called "a"
            calltap.toml:19:7: alerts.webhooks[2].url: "http://me:pw@hooks.example.com/": a URL here has no user and no password
            calltap.toml:21:14: alerts.webhooks[2].token_file: a token is visible ASCII without spaces
            calltap.toml:22:14: alerts.webhooks[2].timeout_ms: must be 1 to 86400000, this is 0
            calltap.toml:24:8: alerts.webhooks[3].name: a webhook's name has 1 to 64 letters, digits, ., _ and -
            calltap.toml:25:7: alerts.webhooks[3].url: "http://hooks.example.com/#here": a fragment (#...) is never sent
            calltap.toml:28:9: alerts.alertmanager.urls[0]: this is more than where an Alertmanager is; write where it is, such as http://127.0.0.1:9093: calltap adds /api/v2/alerts
            calltap.toml:28:61: alerts.alertmanager.urls[2]: this one is named already
            calltap.toml:29:1: alerts.alertmanager.false_per_day: unknown key; known here: ca, token_file, severity, timeout_ms, urls, resend_s
            calltap.toml:31:14: alerts.deny.detectors[0]: alerts of half_open name no client that could be denied
            calltap.toml:31:27: alerts.deny.detectors[1]: no detector is named "injecton"; did you mean "injection"?
        "#]],
    );
}

proptest! {
    #[test]
    fn no_file_goes_wrong_without_saying_so(cut in 0..6000_usize, length in 0..40_usize, paste in r#"["'\[\]{}=.\n #a0-9é]{0,6}"#) {
        let mut text = large();
        let begin = cut % text.len();
        let end = (begin + length).min(text.len());
        text.replace_range(begin..end, &paste);
        if let Err(mistakes) = parse("calltap.toml", &text, &Overrides::default()) {
            prop_assert!(!mistakes.is_empty());
            let lines = text.lines().count() + 1;
            for mistake in mistakes {
                prop_assert!(mistake.line.is_none_or(|line| line <= lines), "{}", mistake);
                prop_assert!(!mistake.to_string().contains("its default was lost"), "{}", mistake);
            }
        }
    }
}
