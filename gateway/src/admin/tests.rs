//! The API over real sockets, with the rest of calltap replaced by a few facts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::{Mutex, mpsc};

use calltap_correlate::exchange::ApiNames;
use calltap_correlate::record::{CallRecord, Kind, Timestamp};
use calltap_policies::addresses::{self, List, Never};
use calltap_policies::alert::Subject;
use calltap_policies::detect::Detector;
use expect_test::{expect, expect_file};
use serde_json::Value;
use uuid::Uuid;

use super::serve::AdminError;
use super::*;
use crate::alerts::testing::Pretend;
use crate::alerts::{RESOLVED_MAX, Tally, Teller, Told};
use crate::config::DenialsConfig;
use crate::sink::json_lines::{self, JsonLines, Options, Patience, Target};
use crate::socket::TapSource;

const TOKEN: &str = "0123456789abcdef";

/// What the facts are made of.
struct World {
    live: Vec<LiveConnection>,
    ready: Result<(), String>,
    log: mpsc::SyncSender<ExternalEntry>,
}

impl Facts for World {
    fn tap(&self) -> TapStatus {
        TapStatus {
            mode: "tcp_info",
            reason: Some("no privilege".into()),
            drops: vec![("no_slot", 3)],
            ..TapStatus::default()
        }
    }
    fn upstreams(&self) -> UpstreamsState {
        UpstreamsState { groups: vec![] }
    }
    fn rules(&self, each: &mut dyn FnMut(Count<'_>)) {
        each(Count {
            rule: "per-client",
            action: "limit",
            dry_run: true,
            applied: 5,
            unanswered: 1,
        });
    }
    fn record_rules(&self, each: &mut dyn FnMut(RecordCount<'_>)) {
        each(RecordCount {
            rule: "usual",
            action: "sample",
            dry_run: false,
            applied: 100,
            left_out: 99,
            unanswered: 0,
        });
    }
    fn ready(&self) -> Result<(), String> {
        self.ready.clone()
    }
    fn connections(&self) -> usize {
        self.live.len()
    }
    fn live_connections(&self, each: &mut dyn FnMut(LiveConnection)) {
        self.live.iter().copied().for_each(each);
    }
    fn now_ns(&self) -> u64 {
        77
    }
    fn log(&self, entry: ExternalEntry) -> bool {
        self.log.try_send(entry).is_ok()
    }
}

struct Server {
    address: SocketAddr,
    feed: Mutex<Feed>,
    alerts: Mutex<Pretend>,
    account: Arc<Account>,
    logged: mpsc::Receiver<ExternalEntry>,
    _changes: tokio::sync::mpsc::Receiver<Arc<Told>>,
    _running: Running,
    _sink: JsonLines,
}

fn start(token: Option<&str>, change: impl FnOnce(&mut World)) -> Server {
    let token = token.map(|token| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), token).expect("the token");
        Token::read(file.path()).expect("a token")
    });
    let local = ([127, 0, 0, 1], 0).into();
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let bound = Bound::bind(local, token, &hosts).expect("a free port");
    let address = bound.address();
    let account = Account::new(&[json_lines::NAME]);
    let sink = JsonLines::start(
        Options {
            target: Target::Nowhere,
            rotate: None,
            fields: Selection::all(),
            queue_max: 1,
            patience: Patience::default(),
        },
        account.sink(json_lines::NAME),
    )
    .expect("a sink that writes nowhere");
    let (log, logged) = mpsc::sync_channel(1);
    let mut world = World {
        live: vec![],
        ready: Ok(()),
        log,
    };
    change(&mut world);
    let recent = Recent::new(50);
    let metrics = Arc::<CallMetrics>::default();
    let denials = Arc::new(Denials::new(TapSource::Off, Arc::default()));
    let list = List {
        name: "blocked".into(),
        entries: addresses::read("203.0.113.0/24\n127.0.0.0/30").expect("entries"),
    };
    let config = DenialsConfig {
        lists: vec![list].into(),
        never: vec![Never {
            network: "127.0.0.0/8".parse().expect("a network"),
            why: "loopback".into(),
        }],
        max: 3,
    };
    denials.configure(&config, vec![]).expect("there is room");
    let board = Board::new();
    let (teller, changes) = Teller::only_to(&board);
    let running = bound
        .start(Sources {
            facts: Box::new(world),
            denials,
            account: Arc::clone(&account),
            sink: sink.observer(),
            recent: Arc::clone(&recent),
            metrics: Arc::clone(&metrics),
            board,
            destinations: Arc::new([Arc::new(Tally::new("on-call"))]),
            visible: Selection::all(),
            secrets: Secrets::usual_and(["voucher"]),
            instance: "test".into(),
        })
        .expect("a thread");
    Server {
        address,
        feed: Mutex::new(Feed::new(recent, metrics)),
        alerts: Mutex::new(Pretend::new(teller).in_1970()),
        account,
        logged,
        _changes: changes,
        _running: running,
        _sink: sink,
    }
}

fn serve() -> Server {
    start(None, |_| ())
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// `400 the reason`
    fn refusal(&self) -> String {
        let error = self.json()["error"].as_str().map(str::to_owned);
        format!("{} {}", self.status, error.unwrap_or_default())
    }
}

impl Server {
    /// Sends these lines and a body, reads until the server closes.
    fn raw(&self, head: &str, body: &str) -> Answer {
        let mut socket = TcpStream::connect(self.address).expect("a connection");
        let request = format!("{head}\r\nConnection: close\r\n\r\n{body}");
        socket.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn get(&self, path: &str) -> Answer {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost"), "")
    }

    fn post(&self, body: &str) -> Answer {
        self.post_to("/api/v1/logging", body)
    }

    fn post_to(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
        );
        self.raw(&head, body)
    }

    /// Shows records.
    fn feed(&self, records: impl IntoIterator<Item = CallRecord>) {
        let mut feed = self.feed.lock().expect("one thread feeds");
        for record in records {
            feed.take(Arc::new(record));
        }
        feed.flush();
    }
}

fn call(n: u128) -> CallRecord {
    CallRecord {
        http_request_method: Some("GET".into()),
        http_response_status_code: Some(200),
        url_path: Some(format!("/orders/{n}")),
        api: Arc::new(ApiNames {
            route: Some("/orders/{id}".into()),
            ..ApiNames::default()
        }),
        ..CallRecord::new(
            Kind::Call,
            Uuid::from_u128(n),
            Timestamp::from_unix_us(n as i64),
        )
    }
}

fn of_connection(mut record: CallRecord, cookie: u64, peer: &str) -> CallRecord {
    let peer: SocketAddr = peer.parse().expect("an address");
    record.client.socket_cookie = SocketCookie::new(cookie);
    record.network_peer_address = Some(peer.ip());
    record.network_peer_port = Some(peer.port());
    record.network_local_address = Some(IpAddr::from([10, 0, 0, 1]));
    record.network_local_port = Some(8080);
    record
}

fn uids(page: &Value) -> Vec<u128> {
    let calls = page["calls"].as_array().expect("a list");
    calls
        .iter()
        .map(|call| call["log.record.uid"].as_str().expect("a uid"))
        .map(|uid| uid.parse::<Uuid>().expect("a uid").as_u128())
        .collect()
}

#[test]
fn beyond_loopback_a_token_is_needed_to_start() {
    let any: SocketAddr = ([0, 0, 0, 0], 0).into();
    let refused = Bound::bind(any, None, &[]).expect_err("no token");
    expect!["the admin API on 0.0.0.0:0 can be reached from other machines, and there is no token; set admin.token_file, or listen on 127.0.0.1"]
        .assert_eq(&refused.to_string());
    for loopback in ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0"] {
        let address = loopback.parse().expect("an address");
        if let Err(error) = Bound::bind(address, None, &[]) {
            // A machine may have no IPv6; it is never the missing token.
            assert!(matches!(error, AdminError::Bind { .. }), "{error}");
        }
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = serve();
    let error = Bound::bind(taken.address, None, &[]).expect_err("it is taken");
    assert!(
        error.to_string().contains(&taken.address.to_string()),
        "{error}"
    );
}

#[test]
fn with_a_token_everything_but_the_probes_needs_it() {
    let server = start(Some(TOKEN), |_| ());
    let with = |line: &str| {
        let head = format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost{line}");
        server.raw(&head, "").status
    };
    assert_eq!(with(""), 401);
    assert_eq!(with("\r\nAuthorization: Bearer wrong"), 401);
    assert_eq!(with("\r\nAuthorization: Bearer 0123456789abcdeX"), 401);
    assert_eq!(with(&format!("\r\nAuthorization: Basic {TOKEN}")), 401);
    assert_eq!(with(&format!("\r\nAuthorization: Bearer {TOKEN}")), 200);
    assert_eq!(with(&format!("\r\nauthorization: bearer {TOKEN}")), 200);
    for endpoint in endpoints() {
        let method = &endpoint.method;
        let nil = Uuid::nil().to_string();
        let path = endpoint.path.replace("{uid}", &nil).replace("{id}", &nil);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost");
        let answer = server.raw(&head, "");
        assert_eq!(answer.status == 401, !endpoint.open, "{path} {answer:?}");
        if !endpoint.open {
            assert!(
                answer.head.contains("www-authenticate: bearer"),
                "{answer:?}"
            );
        }
    }
    // What is not there is not told to strangers, either.
    assert_eq!(server.get("/nothing").status, 401);
}

#[test]
fn other_hosts_and_origins_are_refused() {
    let server = serve();
    let port = server.address.port();
    for (lines, status) in [
        ("Host: localhost".to_owned(), 200),
        (format!("Host: localhost:{port}"), 200),
        (format!("Host: 127.0.0.1:{port}"), 200),
        ("Host: LocalHost".to_owned(), 200),
        ("Host: rebound.example".to_owned(), 403),
        (format!("Host: rebound.example:{port}"), 403),
        ("Host: 192.0.2.1".to_owned(), 403),
        ("X: no host".to_owned(), 400),
        ("Host: localhost\r\nHost: localhost".to_owned(), 400),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}"),
            200,
        ),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://localhost:1"),
            403,
        ),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://page.example"),
            403,
        ),
        ("Host: localhost\r\nOrigin: null".to_owned(), 403),
        (
            "Host: localhost\r\nSec-Fetch-Site: cross-site".to_owned(),
            403,
        ),
        (
            "Host: localhost\r\nSec-Fetch-Site: same-origin".to_owned(),
            200,
        ),
    ] {
        let answer = server.raw(&format!("GET /api/v1/status HTTP/1.1\r\n{lines}"), "");
        assert_eq!(answer.status, status, "{lines}: {answer:?}");
        assert_eq!(answer.json()["error"].is_string(), status != 200);
    }
    let absolute = "GET http://rebound.example/api/v1/status HTTP/1.1\r\nHost: localhost";
    assert_eq!(server.raw(absolute, "").status, 400);
    let probe = server.raw("GET /healthz HTTP/1.1\r\nHost: 10.1.2.3:9901", "");
    assert_eq!((probe.status, probe.body.as_str()), (200, "ok\n"));
}

#[test]
fn what_is_not_there_is_refused_as_json() {
    let server = serve();
    let nothing = server.get("/api/v2/status");
    expect!["404 there is nothing at /api/v2/status; see /api/v1/openapi.json"]
        .assert_eq(&nothing.refusal());
    let ask = |line: &str| server.raw(&format!("{line} HTTP/1.1\r\nHost: localhost"), "");
    let wrong = ask("DELETE /api/v1/calls/00000000-0000-0000-0000-000000000000");
    expect!["405 /api/v1/calls/00000000-0000-0000-0000-000000000000 takes GET, HEAD, not DELETE"]
        .assert_eq(&wrong.refusal());
    let wrong = ask("GET /api/v1/logging");
    expect!["405 /api/v1/logging takes POST, not GET"].assert_eq(&wrong.refusal());
    assert!(wrong.head.contains("\r\nallow: post"), "{wrong:?}");
}

#[test]
fn readiness_says_why_not() {
    assert_eq!(serve().get("/readyz").status, 200);
    let draining = start(None, |world| world.ready = Err("draining".into()));
    expect!["503 draining"].assert_eq(&draining.get("/readyz").refusal());
    assert_eq!(draining.get("/healthz").status, 200);
}

#[test]
fn the_status_tells_where_every_record_is() {
    let server = serve();
    let _open = server.account.open(Kind::Call);
    let status = server.get("/api/v1/status").json();
    assert_eq!(status["logging"]["on"], false);
    assert_eq!(status["tap"]["mode"], "tcp_info");
    assert_eq!(status["tap"]["reason"], "no privilege");
    assert_eq!(status["tap"]["drops"]["no_slot"], 3);
    assert_eq!(status["records"]["json_lines"]["call"]["open"], 1);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn an_entry_is_taken_as_posted() {
    let server = serve();
    let answer = server.post(
        r#"{"message": "TCP header logged successfully.", "details": {"src_ip": "192.168.1.5", "dst_ip": "192.168.1.10", "port": 8080, "Trace.Id": "x", "ok": true}}"#,
    );
    assert_eq!(answer.status, 202, "{answer:?}");
    let entry = server.logged.try_recv().expect("the entry");
    assert_eq!(answer.json()["uid"], entry.uid.to_string());
    assert_eq!(entry.message, "TCP header logged successfully.");
    let details: Vec<(&str, &str)> = entry
        .details
        .iter()
        .map(|(key, value)| (&**key, &**value))
        .collect();
    let expected = [
        ("src_ip", "192.168.1.5"),
        ("dst_ip", "192.168.1.10"),
        ("port", "8080"),
        ("trace_id", "x"),
        ("ok", "true"),
    ];
    assert_eq!(details, expected);
    assert_eq!(
        (entry.accepted_ns, entry.attached_to, entry.matches),
        (77, None, Some(0))
    );
}

#[test]
fn an_entry_needs_no_details() {
    let server = serve();
    assert_eq!(server.post(r#"{"message": "hello"}"#).status, 202);
    assert_eq!(server.logged.try_recv().expect("the entry").details, []);
}

#[test]
fn secrets_among_the_details_are_hidden() {
    let server = serve();
    let answer = server.post(
        r#"{"message": "m", "details": {"password": "hunter2", "Authorization": "Bearer abc", "user.token": 7, "voucher": "v", "Cookie": "sid=1", "zip_code": "1"}}"#,
    );
    assert_eq!(answer.status, 202, "{answer:?}");
    let details = server.logged.try_recv().expect("the entry").details;
    let values: Vec<&str> = details.iter().map(|(_, value)| &**value).collect();
    let hidden = "REDACTED";
    assert_eq!(values, [hidden, hidden, hidden, hidden, hidden, "1"]);

    // The cookie of a socket is none of a browser's.
    server.post(r#"{"message": "m", "details": {"cookie": 4711}}"#);
    let details = server.logged.try_recv().expect("the entry").details;
    assert_eq!(details, [("cookie".to_owned(), "4711".to_owned())]);
}

#[test]
fn entries_that_break_a_rule_are_refused_with_the_reason() {
    let server = serve();
    let long = |n: usize| "x".repeat(n);
    let keys: Vec<String> = (0..65).map(|n| format!(r#""k{n}": 1"#)).collect();
    let cases = [
        ("".to_owned(), "EOF while parsing a value"),
        ("[]".to_owned(), "the body is not an object"),
        (r#" ["said", {}]"#.to_owned(), "the body is not an object"),
        ("5".to_owned(), "expected struct"),
        ("{}".to_owned(), "missing field `message`"),
        (
            r#"{"message": 5}"#.to_owned(),
            "invalid type: integer `5`, expected a string",
        ),
        (r#"{"message": " "}"#.to_owned(), "message is empty"),
        (
            format!(r#"{{"message": "{}"}}"#, long(8193)),
            "message is longer than 8192 bytes",
        ),
        (
            r#"{"message": "m", "level": "info"}"#.to_owned(),
            "unknown field `level`",
        ),
        (
            r#"{"message": "m", "message": "n"}"#.to_owned(),
            "duplicate field `message`",
        ),
        (
            r#"{"message": "m", "details": [1]}"#.to_owned(),
            "expected an object",
        ),
        (
            r#"{"message": "m", "details": null}"#.to_owned(),
            "expected an object",
        ),
        (
            r#"{"message": "m", "details": {"a": null}}"#.to_owned(),
            "details.a is neither",
        ),
        (
            r#"{"message": "m", "details": {"a": {"b": 1}}}"#.to_owned(),
            "details.a is neither",
        ),
        (
            r#"{"message": "m", "details": {"": 1}}"#.to_owned(),
            "key that is empty",
        ),
        (
            r#"{"message": "m", "details": {"a\n": 1}}"#.to_owned(),
            "control characters",
        ),
        (
            r#"{"message": "m", "details": {"a.b": 1, "A_b": 2}}"#.to_owned(),
            r#"the key "a_b" twice"#,
        ),
        (
            r#"{"message": "m", "details": {"a": 1, "a": 2}}"#.to_owned(),
            r#"the key "a" twice"#,
        ),
        (
            format!(r#"{{"message": "m", "details": {{"{}": 1}}}}"#, long(129)),
            "longer than 128",
        ),
        (
            format!(
                r#"{{"message": "m", "details": {{"a": "{}"}}}}"#,
                long(1025)
            ),
            "details.a is longer than 1024",
        ),
        (
            format!(r#"{{"message": "m", "details": {{{}}}}}"#, keys.join(",")),
            "more than 64 keys",
        ),
        ("{\"message\": \"m\"} x".to_owned(), "trailing characters"),
    ];
    for (body, reason) in cases {
        let refusal = server.post(&body).refusal();
        assert!(
            refusal.starts_with("400 ") && refusal.contains(reason),
            "{body}: {refusal}"
        );
    }
    assert!(
        server.logged.try_recv().is_err(),
        "a refused entry was logged"
    );
}

#[test]
fn a_body_must_be_declared_as_json_and_short() {
    let server = serve();
    for content_type in [
        "Content-Type: text/plain",
        "Content-Type: application/jsonp",
        "X: none",
    ] {
        let head = format!(
            "POST /api/v1/logging HTTP/1.1\r\nHost: localhost\r\n{content_type}\r\nContent-Length: 15"
        );
        assert_eq!(
            server.raw(&head, r#"{"message":"m"}"#).status,
            415,
            "{content_type}"
        );
    }
    let declared = "POST /api/v1/logging HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=utf-8";
    let head = format!("{declared}\r\nContent-Length: 15");
    assert_eq!(server.raw(&head, r#"{"message":"m"}"#).status, 202);

    let head = format!("{declared}\r\nContent-Length: 99999999");
    assert_eq!(server.raw(&head, "").status, 413);
    let chunk = format!("20001\r\n{}\r\n0\r\n\r\n", "x".repeat(0x20001));
    let head = format!("{declared}\r\nTransfer-Encoding: chunked");
    assert_eq!(server.raw(&head, &chunk).status, 413);
}

#[test]
fn a_full_queue_is_said() {
    let server = serve();
    assert_eq!(server.post(r#"{"message": "first"}"#).status, 202);
    let answer = server.post(r#"{"message": "second"}"#);
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("\r\nretry-after: 1"), "{answer:?}");
}

#[test]
fn an_entry_is_attached_only_to_exactly_one() {
    let connection = |cookie, peer: &str| LiveConnection {
        cookie: SocketCookie::new(cookie).expect("not zero"),
        peer: peer.parse().expect("an address"),
        local: "10.0.0.1:8080".parse().expect("an address"),
    };
    let server = start(None, |world| {
        world.live = vec![
            connection(1, "192.0.2.1:1001"),
            connection(2, "192.0.2.1:1002"),
            connection(3, "192.0.2.3:1003"),
        ];
    });
    let with_id = |n, id: &str| CallRecord {
        http_request_id: Some(id.into()),
        ..call(n)
    };
    let mut to_upstream = of_connection(with_id(5, "r5"), 5, "192.0.2.5:1005");
    to_upstream.upstream.socket_cookie = SocketCookie::new(50);
    let open = |n, of: u128, id: &str| CallRecord {
        kind: Kind::Progress,
        attached_to: Some(Uuid::from_u128(of).to_string()),
        ..with_id(n, id)
    };
    server.feed([
        // Told of twice while it was open, and is not over; once, and then it was.
        open(30, 32, "open"),
        open(31, 32, "open"),
        open(33, 10, "r1"),
        of_connection(with_id(10, "r1"), 1, "192.0.2.1:1001"),
        of_connection(with_id(11, "twice"), 1, "192.0.2.1:1001"),
        of_connection(with_id(12, "twice"), 4, "192.0.2.4:1004"),
        // The same port as a live connection had before.
        of_connection(with_id(13, "r13"), 6, "192.0.2.3:1003"),
        to_upstream,
    ]);
    let uid = |n| Uuid::from_u128(n).to_string();
    for (details, attached_to, matches) in [
        (r#""cookie": "1""#, Some("1".to_owned()), None),
        (r#""cookie": 4"#, Some("4".to_owned()), None),
        (r#""cookie": 50"#, Some("50".to_owned()), None),
        (r#""cookie": 99"#, None, Some(0)),
        (r#""cookie": "one""#, None, Some(0)),
        (r#""request_id": "r1""#, Some(uid(10)), None),
        (r#""request_id": "open""#, Some(uid(32)), None),
        (r#""request_id": "twice""#, None, Some(2)),
        (r#""request_id": "twice", "cookie": 4"#, Some(uid(12)), None),
        (
            r#""request_id": "twice", "src_ip": "192.0.2.1""#,
            Some(uid(11)),
            None,
        ),
        (r#""request_id": "r1", "cookie": 4"#, None, Some(0)),
        (&format!(r#""uid": "{}""#, uid(12)), Some(uid(12)), None),
        (&format!(r#""uid": "{}""#, uid(99)), None, Some(0)),
        (
            r#""src_ip": "192.0.2.1", "src_port": 1002, "dst_ip": "10.0.0.1", "dst_port": 8080"#,
            Some("2".to_owned()),
            None,
        ),
        (
            r#""src_ip": "::ffff:192.0.2.4", "src_port": "1004", "dst_ip": "10.0.0.1", "port": "8080""#,
            Some("4".to_owned()),
            None,
        ),
        (
            r#""src_ip": "192.0.2.3", "src_port": 1003, "dst_ip": "10.0.0.1", "dst_port": 8080"#,
            None,
            Some(2),
        ),
        // One fits, but three quarters of a connection's name are not its name.
        (
            r#""src_ip": "192.0.2.1", "src_port": 1002, "dst_ip": "10.0.0.1""#,
            None,
            Some(1),
        ),
        (r#""src_ip": "192.0.2.1""#, None, Some(2)),
        (r#""src_ip": "somewhere""#, None, Some(0)),
        (r#""cookie": 1, "src_port": 1002"#, None, Some(0)),
        (r#""colour": "red""#, None, Some(0)),
    ] {
        let body = format!(r#"{{"message": "m", "details": {{{details}}}}}"#);
        let answer = server.post(&body);
        let entry = server.logged.try_recv().expect("the entry");
        assert_eq!(
            (&entry.attached_to, entry.matches),
            (&attached_to, matches),
            "{details}"
        );
        let answer = answer.json();
        assert_eq!(
            answer["attached_to"].as_str().map(str::to_owned),
            attached_to
        );
        assert_eq!(answer["matches"].as_u64(), matches.map(u64::from));
    }
}

#[test]
fn recent_calls_come_in_pages() {
    let server = serve();
    server.feed((1..=60).map(call)); // the ring holds 50
    let page = server.get("/api/v1/calls?limit=20").json();
    assert_eq!(uids(&page), (41..=60).rev().collect::<Vec<_>>());
    let next = |page: &Value| page["next"].as_str().expect("there is more").to_owned();
    let page = server
        .get(&format!("/api/v1/calls?limit=20&before={}", next(&page)))
        .json();
    assert_eq!(uids(&page), (21..=40).rev().collect::<Vec<_>>());
    let page = server
        .get(&format!("/api/v1/calls?limit=20&before={}", next(&page)))
        .json();
    assert_eq!(uids(&page), (11..=20).rev().collect::<Vec<_>>());
    assert_eq!(page.get("next"), None);

    let gone = Uuid::from_u128(1);
    let page = server.get(&format!("/api/v1/calls?before={gone}")).json();
    assert_eq!(uids(&page), [] as [u128; 0]);
}

#[test]
fn recent_calls_are_filtered() {
    let server = serve();
    server.feed((1..=9).map(|n| CallRecord {
        http_response_status_code: Some(if n % 3 == 0 { 503 } else { 200 }),
        ..call(n)
    }));
    let page = server
        .get("/api/v1/calls?status=5xx&path=/orders/&limit=2")
        .json();
    assert_eq!(uids(&page), [9, 6]);
    let rest = page["next"].as_str().expect("there is more");
    let page = server
        .get(&format!("/api/v1/calls?status=5xx&before={rest}"))
        .json();
    assert_eq!(uids(&page), [3]);
    let page = server
        .get("/api/v1/calls?route=%2Forders%2F%7Bid%7D&kind=external")
        .json();
    assert_eq!(uids(&page), [] as [u128; 0]);
    for (query, reason) in [
        ("statsu=5xx", "400 there is no parameter \"statsu\""),
        ("limit=0", "400 limit: \"0\" is no number from 1 to 1000"),
        (
            "limit=1001",
            "400 limit: \"1001\" is no number from 1 to 1000",
        ),
        ("before=5", "400 \"5\" is no uid of a record"),
        ("client=me", "400 client: \"me\" is no IP address"),
    ] {
        assert_eq!(
            server.get(&format!("/api/v1/calls?{query}")).refusal(),
            reason
        );
    }
}

#[test]
fn one_call_is_found_by_its_uid() {
    let server = serve();
    server.feed([call(7)]);
    let uid = Uuid::from_u128(7);
    let found = server.get(&format!("/api/v1/calls/{uid}")).json();
    assert_eq!(found["url.path"], "/orders/7");
    let uid = Uuid::from_u128(8);
    let gone = server.get(&format!("/api/v1/calls/{uid}"));
    assert_eq!(
        gone.refusal(),
        format!("404 no recent record has the uid {uid}; older ones are in the log")
    );
    assert_eq!(server.get("/api/v1/calls/7").status, 400);
}

/// A live stream of events.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(server: &Server, query: &str, lines: &str) -> Self {
        Self::of(server, &format!("calls/stream{query}"), lines)
    }

    fn of(server: &Server, path: &str, lines: &str) -> Self {
        let mut socket = TcpStream::connect(server.address).expect("a connection");
        let head = format!("GET /api/v1/{path} HTTP/1.1\r\nHost: localhost{lines}\r\n\r\n");
        socket.write_all(head.as_bytes()).expect("a request");
        let mut events = Self(BufReader::new(socket));
        // The greeting says that the stream has begun.
        while events.line() != ": calltap" {}
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let n = self.0.read_line(&mut line).expect("a line");
        assert!(n > 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next event's data; `event NAME data` where it has a name.
    fn next(&mut self) -> String {
        let mut name = String::new();
        loop {
            let line = self.line();
            if let Some(said) = line.strip_prefix("event: ") {
                name = format!("event {said} ");
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return name + data;
            }
        }
    }

    fn next_uid(&mut self) -> u128 {
        let data = self.next();
        let record: Value = serde_json::from_str(&data).expect("a record");
        let uid = record["log.record.uid"].as_str().expect("a uid");
        uid.parse::<Uuid>().expect("a uid").as_u128()
    }
}

#[test]
fn a_stream_shows_records_as_they_come() {
    let server = serve();
    server.feed([call(1)]);
    let mut all = Events::open(&server, "", "");
    let mut errors = Events::open(&server, "?status=4xx", "");
    server.feed([call(2)]);
    let not_found = CallRecord {
        http_response_status_code: Some(404),
        ..call(3)
    };
    server.feed([not_found]);
    assert_eq!((all.next_uid(), all.next_uid()), (2, 3));
    assert_eq!(errors.next_uid(), 3);
    assert_eq!(server.get("/api/v1/status").json()["streams"]["open"], 2);
    assert_eq!(server.get("/api/v1/calls/stream?what=ever").status, 400);
}

#[test]
fn a_stream_continues_after_the_last_event_seen() {
    let server = serve();
    server.feed((1..=5).map(call));
    let seen = Uuid::from_u128(3);
    let mut events = Events::open(&server, "", &format!("\r\nLast-Event-ID: {seen}"));
    assert_eq!((events.next_uid(), events.next_uid()), (4, 5));
}

#[test]
fn a_slow_reader_is_told_what_it_missed() {
    let server = serve();
    let mut events = Events::open(&server, "", "");
    // Far more than the kernel's buffers, the stream's pieces and the ring hold.
    let fat = |n| CallRecord {
        user_agent_original: Some("x".repeat(64 << 10)),
        ..call(n)
    };
    for n in 0..1_000 {
        server.feed([fat(n)]);
    }
    let (mut shown, mut missed) = (0, 0);
    while shown + missed < 1_000 {
        match events.next().strip_prefix("event dropped ") {
            Some(said) => {
                let said: Value = serde_json::from_str(said).expect("an object");
                missed += said["dropped"].as_u64().expect("a number");
            }
            None => shown += 1,
        }
    }
    assert_eq!(shown + missed, 1_000);
    assert!(missed > 0 && shown >= 50, "{missed} missed, {shown} shown");
    assert_eq!(
        server.get("/api/v1/status").json()["streams"]["dropped"],
        missed
    );
}

#[test]
fn streams_have_a_bound_and_end_with_the_api() {
    let server = serve();
    let mut streams: Vec<Events> = (0..stream::STREAMS_MAX)
        .map(|_| Events::open(&server, "", ""))
        .collect();
    assert_eq!(server.get("/api/v1/calls/stream").status, 503);
    drop(server);
    for stream in &mut streams {
        let mut rest = String::new();
        stream
            .0
            .read_to_string(&mut rest)
            .expect("the end, not a reset");
    }
}

/// `detector subject state` of each.
fn shown(page: &Value) -> Vec<String> {
    let alerts = page["alerts"].as_array().expect("a list");
    alerts.iter().map(one_shown).collect()
}

fn one_shown(alert: &Value) -> String {
    let text = |at: &str| alert.pointer(at).and_then(Value::as_str).expect("a text");
    let (detector, state) = (text("/detector"), text("/state"));
    format!("{detector} {} {state}", text("/subject/name"))
}

impl Server {
    fn alerts(&self) -> std::sync::MutexGuard<'_, Pretend> {
        self.alerts.lock().expect("one thread tells")
    }
}

#[test]
fn alerts_are_listed_with_the_last_change_first() {
    let server = serve();
    assert_eq!(server.get("/api/v1/alerts").body, r#"{"alerts":[]}"#);
    server.alerts().sees(Detector::AuthFailures, 1);
    server.alerts().quiet(60);
    server.alerts().sees(Detector::AuthFailures, 2);
    server.alerts().sees(Detector::Regularity, 2);
    let of_orders = Subject::Route("/orders/{id}".into());
    server.alerts().sees_of(Detector::RouteErrors, of_orders);
    let ask = |query: &str| shown(&server.get(&format!("/api/v1/alerts{query}")).json());
    let (errors, regular) = ("route_errors /orders/{id} open", "regularity 10.0.0.2 open");
    let (second, first) = (
        "auth_failures 10.0.0.2 open",
        "auth_failures 10.0.0.1 resolved",
    );
    for (query, expected) in [
        ("", vec![errors, regular, second, first]),
        ("?limit=2", vec![errors, regular]),
        ("?state=resolved", vec![first]),
        ("?state=open&detector=auth_failures", vec![second]),
        ("?severity=critical", vec![errors, second, first]),
        ("?subject=10.0.0.2", vec![regular, second]),
        ("?subject=route", vec![errors]),
        ("?subject=%2Forders%2F%7Bid%7D", vec![errors]),
        ("?subject=10.0.0.3", vec![]),
    ] {
        assert_eq!(ask(query), expected, "{query}");
    }
    for (query, reason) in [
        (
            "state=closed",
            "400 state: \"closed\" is no state: use open or resolved",
        ),
        (
            "severity=high",
            "400 severity: \"high\" is no severity: use info, warning or critical",
        ),
        ("limit=0", "400 limit: \"0\" is no number from 1 to 1000"),
        ("stat=open", "400 there is no parameter \"stat\""),
    ] {
        let refusal = server.get(&format!("/api/v1/alerts?{query}")).refusal();
        assert_eq!(refusal, reason);
    }
    let refusal = server.get("/api/v1/alerts?detector=auth").refusal();
    let why = "400 detector: \"auth\" is no detector: there are route_rate, route_errors,";
    assert!(refusal.starts_with(why), "{refusal}");
}

#[test]
fn one_alert_is_found_by_its_id() {
    let server = serve();
    server.alerts().sees(Detector::AuthFailures, 1);
    let id = server.get("/api/v1/alerts").json()["alerts"][0]["id"].clone();
    let id = id.as_str().expect("an id");
    let alert = server.get(&format!("/api/v1/alerts/{id}")).json();
    assert_eq!(one_shown(&alert), "auth_failures 10.0.0.1 open");
    assert_eq!(alert["examples"][0], Uuid::from_u128(0xca11).to_string());
    server.alerts().quiet(60);
    let alert = server.get(&format!("/api/v1/alerts/{id}")).json();
    assert_eq!(alert["resolved"], "1970-01-01T00:01:10.000000Z");
    let nil = Uuid::nil();
    assert_eq!(
        server.get(&format!("/api/v1/alerts/{nil}")).refusal(),
        format!("404 no alert that is open or was a short time ago has the id {nil}")
    );
    assert_eq!(server.get("/api/v1/alerts/7").status, 400);
}

#[test]
fn changes_of_alerts_are_streamed() {
    let server = serve();
    server.alerts().sees(Detector::AuthFailures, 1);
    let mut all = Events::of(&server, "alerts/stream", "");
    let mut of_second = Events::of(&server, "alerts/stream?subject=10.0.0.2", "");
    server.alerts().sees(Detector::AuthFailures, 2);
    server.alerts().quiet(60);
    let next = |events: &mut Events| {
        let event = events.next();
        let (name, data) = event.split_once(" {").expect("an object");
        let alert = serde_json::from_str(&format!("{{{data}")).expect("JSON");
        format!("{name} {}", one_shown(&alert))
    };
    assert_eq!(next(&mut all), "event opened auth_failures 10.0.0.2 open");
    let mut resolved = [next(&mut all), next(&mut all)];
    resolved.sort();
    assert_eq!(
        resolved,
        [
            "event resolved auth_failures 10.0.0.1 resolved",
            "event resolved auth_failures 10.0.0.2 resolved"
        ]
    );
    for expected in [
        "opened auth_failures 10.0.0.2 open",
        "resolved auth_failures 10.0.0.2 resolved",
    ] {
        assert_eq!(next(&mut of_second), format!("event {expected}"));
    }
    assert_eq!(server.get("/api/v1/alerts/stream?what=ever").status, 400);
}

#[test]
fn a_stream_of_alerts_continues_after_the_last_event_seen() {
    let server = serve();
    for client in 1..=3 {
        server.alerts().sees(Detector::AuthFailures, client);
    }
    let alerts = server.get("/api/v1/alerts").json()["alerts"].clone();
    let id = |at: usize| alerts[at]["id"].as_str().expect("an id").to_owned();
    let mut after_first = Events::of(
        &server,
        "alerts/stream",
        &format!("\r\nLast-Event-ID: {}:0", id(2)),
    );
    assert!(after_first.next().contains("10.0.0.2"));
    assert!(after_first.next().contains("10.0.0.3"));
    // The number alone is not enough: it may be that of another process.
    let foreign = format!("\r\nLast-Event-ID: {}:0", id(1));
    let mut foreign = Events::of(&server, "alerts/stream", &foreign);
    server.alerts().sees(Detector::AuthFailures, 4);
    assert!(foreign.next().contains("10.0.0.4"));
}

#[test]
fn resolved_alerts_are_kept_up_to_a_bound_and_open_ones_beyond() {
    let server = serve();
    for _ in 0..=RESOLVED_MAX / 40 {
        for client in 0..40 {
            server.alerts().sees(Detector::AuthFailures, client);
        }
        // Until they are forgotten where they were made, so that the next ones are others.
        server.alerts().quiet(661);
    }
    server.alerts().sees(Detector::AuthFailures, 1);
    let count = |state: &str| {
        let page = server.get(&format!("/api/v1/alerts?limit=1000&state={state}"));
        shown(&page.json()).len()
    };
    assert_eq!((count("resolved"), count("open")), (RESOLVED_MAX, 1));
}

#[test]
fn status_and_metrics_count_alerts_and_messages() {
    let server = serve();
    server.alerts().sees(Detector::AuthFailures, 1);
    server.alerts().sees(Detector::AuthFailures, 2);
    server.alerts().sees(Detector::Regularity, 2);
    let status = server.get("/api/v1/status").json();
    expect![[r#"{"destinations":[{"delivered":0,"dropped":0,"name":"on-call","refused":0,"retried":0,"waiting":0,"waiting_bytes":0}],"open":{"critical":2,"info":1,"warning":0},"sources":{"denied":0,"spared":0},"untold":0}"#]]
        .assert_eq(&status["alerts"].to_string());
    server.alerts().quiet(60);
    server.alerts().sees(Detector::AuthFailures, 2);
    let page = server.get("/metrics").body;
    for line in [
        r#"calltap_alerts_open{detector="auth_failures",severity="critical"} 1"#,
        r#"calltap_alerts_open{detector="regularity",severity="info"} 0"#,
        r#"calltap_alerts_opened_total{detector="auth_failures"} 3"#,
        r#"calltap_alerts_opened_total{detector="syn_flood"} 0"#,
        "calltap_alerts_untold_total 0",
        r#"calltap_alert_deliveries_total{destination="on-call",outcome="retried"} 0"#,
        r#"calltap_alert_messages_waiting{destination="on-call"} 0"#,
        r#"calltap_alert_destination_failing{destination="on-call"} 0"#,
    ] {
        assert!(page.lines().any(|l| l == line), "no line {line}");
    }
}

#[test]
fn metrics_are_in_base_units_and_of_bounded_number() {
    let server = serve();
    let hostile = CallRecord {
        api: Arc::new(ApiNames {
            route: Some("/a\"b\\c\n".into()),
            ..ApiNames::default()
        }),
        http_response_status_code: None,
        gateway_duration_us: Some(40_000_000),
        ..call(1)
    };
    server.feed([
        CallRecord {
            gateway_duration_us: Some(1_500),
            delivered_us: Some(2_000_000),
            time_delivery_us: Some(1_998_500),
            http_request_body_size: Some(100),
            ..call(2)
        },
        hostile,
    ]);
    server.feed((0..2_000).map(|n| CallRecord {
        api: Arc::new(ApiNames {
            route: Some(format!("/r{n}")),
            ..ApiNames::default()
        }),
        gateway_duration_us: Some(1),
        ..call(n)
    }));
    let answer = server.get("/metrics");
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    let page = answer.body;
    for line in [
        "# TYPE calltap_call_duration_seconds histogram",
        r#"calltap_call_duration_seconds_bucket{route="/orders/{id}",status_class="2xx",le="0.001"} 0"#,
        r#"calltap_call_duration_seconds_bucket{route="/orders/{id}",status_class="2xx",le="0.0025"} 1"#,
        r#"calltap_call_duration_seconds_bucket{route="/orders/{id}",status_class="2xx",le="+Inf"} 1"#,
        r#"calltap_call_duration_seconds_sum{route="/orders/{id}",status_class="2xx"} 0.0015"#,
        r#"calltap_call_duration_seconds_bucket{route="/a\"b\\c\n",status_class="none",le="30"} 0"#,
        r#"calltap_call_duration_seconds_bucket{route="/a\"b\\c\n",status_class="none",le="+Inf"} 1"#,
        r#"calltap_call_duration_seconds_count{route="_other",status_class="2xx"} 1002"#,
        r#"calltap_call_delivered_seconds_sum{route="/orders/{id}"} 2"#,
        r#"calltap_call_time_seconds_total{part="delivery"} 1.9985"#,
        r#"calltap_call_coverage_total{coverage="none"} 2002"#,
        "calltap_request_body_bytes_total 100",
        r#"calltap_tap_drops_total{reason="no_slot"} 3"#,
        r#"calltap_records_dropped_total{sink="json_lines",kind="call",reason="queue_full"} 0"#,
    ] {
        assert!(page.lines().any(|l| l == line), "no line {line}");
    }
    // Every sample belongs to the family announced before it, and no family comes twice.
    let mut seen = Vec::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().expect("a name");
            assert!(!seen.contains(&family), "{family} comes twice");
            seen.push(family);
        } else if !line.starts_with('#') {
            assert!(line.starts_with(family), "{line} is not of {family}");
        }
    }
}

/// Every family with its type: what dashboards depend on.
#[test]
fn the_metrics_keep_their_names() {
    let page = serve().get("/metrics").body;
    let types: Vec<&str> = page
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE "))
        .collect();
    let described = include_str!("../../../docs/admin-api.md");
    for name in types.iter().filter_map(|line| line.split(' ').next()) {
        let name = format!("`{name}`");
        assert!(described.contains(&name), "docs/admin-api.md lacks {name}");
    }
    expect![[r#"
        calltap_build_info gauge
        calltap_call_duration_seconds histogram
        calltap_call_delivered_seconds histogram
        calltap_call_time_seconds_total counter
        calltap_call_coverage_total counter
        calltap_retransmitted_segments_total counter
        calltap_request_body_bytes_total counter
        calltap_response_body_bytes_total counter
        calltap_connections_without_call_total counter
        calltap_records_accepted_total counter
        calltap_records_open gauge
        calltap_records_settling gauge
        calltap_records_queued gauge
        calltap_records_written_total counter
        calltap_records_dropped_total counter
        calltap_sink_errors_total counter
        calltap_sink_failing gauge
        calltap_stream_dropped_records_total counter
        calltap_policy_applied_total counter
        calltap_policy_left_out_records_total counter
        calltap_policy_unanswered_total counter
        calltap_denied_networks gauge
        calltap_denied_packets_total counter
        calltap_denied_bytes_total counter
        calltap_denied_connections_total counter
        calltap_alerts_open gauge
        calltap_alerts_opened_total counter
        calltap_alerts_untold_total counter
        calltap_alert_sources_total counter
        calltap_alert_deliveries_total counter
        calltap_alert_messages_waiting gauge
        calltap_alert_spool_bytes gauge
        calltap_alert_destination_failing gauge
        calltap_client_connections gauge
        calltap_tap_info gauge
        calltap_tap_ledgers gauge
        calltap_tap_ledgers_used gauge
        calltap_tap_memory_bytes gauge
        calltap_tap_drops_total counter
        calltap_upstream_healthy gauge
        calltap_upstream_calls_in_flight gauge
        process_cpu_seconds_total counter
        process_start_time_seconds gauge
        process_resident_memory_bytes gauge
        process_open_fds gauge"#]]
    .assert_eq(&types.join("\n"));
}

#[test]
fn the_committed_description_is_the_served_one() {
    let served = serve().get("/api/v1/openapi.json").body;
    expect_file!["../../../docs/openapi.json"].assert_eq(&served);
    let document: Value = serde_json::from_str(&served).expect("JSON");
    let paths = document["paths"].as_object().expect("an object");
    let operations = paths.values().filter_map(Value::as_object);
    let operations: usize = operations.map(serde_json::Map::len).sum();
    assert_eq!(operations, endpoints().len());
}

#[test]
fn who_is_denied_can_be_listed_and_changed() {
    const PATH: &str = "/api/v1/denied";
    let server = serve();
    let listed = server.get(PATH).json();
    expect![[r#"
        {
          "denied": [
            {
              "bytes": 0,
              "list": "blocked",
              "network": "203.0.113.0/24",
              "packets": 0
            }
          ],
          "exempted": [
            "list blocked: 127.0.0.0/30 is not denied, for 127.0.0.0/8 never is (loopback)"
          ],
          "exempted_count": 1,
          "in_kernel": false,
          "lists": [
            {
              "entries": 2,
              "name": "blocked"
            },
            {
              "entries": 0,
              "name": "added"
            }
          ],
          "networks": 1,
          "networks_max": 3,
          "never": [
            {
              "network": "127.0.0.0/8",
              "why": "loopback"
            }
          ]
        }"#]]
    .assert_eq(&format!("{listed:#}"));

    let added = server.post_to(
        PATH,
        r#"{"network": "198.51.100.7", "for_s": 60, "why": "a scan"}"#,
    );
    assert_eq!(added.status, 201);
    let added = added.json();
    assert_eq!(added["network"], "198.51.100.7/32");
    assert_eq!(
        (&added["list"], &added["why"]),
        (&"added".into(), &"a scan".into())
    );
    let until: Timestamp = added["until"]
        .as_str()
        .expect("an end")
        .parse()
        .expect("a time");
    assert!(until > Timestamp::from_unix_us(0));

    let found = |address: &str| server.get(&format!("{PATH}?address={address}")).json();
    assert_eq!(found("198.51.100.7")["denied"], Value::Array(vec![added]));
    assert_eq!(found("198.51.100.8")["denied"], Value::Array(vec![]));
    let page = server.get(&format!("{PATH}?limit=1")).json();
    assert_eq!(page["denied"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["networks"], 2);

    let remove = |network: &str| {
        let head = format!("DELETE {PATH}?network={network} HTTP/1.1\r\nHost: localhost");
        server.raw(&head, "")
    };
    assert_eq!(remove("198.51.100.7").status, 204);
    assert_eq!(found("198.51.100.7")["denied"], Value::Array(vec![]));
    let refusals = [
        remove("198.51.100.7"),
        remove("203.0.113.0/24"),
        remove("203.0.113.1/24"),
        server.post_to(PATH, r#"{"network": "127.0.0.1", "for_s": 60}"#),
        server.post_to(PATH, r#"{"network": "203.0.113.0/24", "for_s": 60}"#),
        server.post_to(PATH, r#"{"network": "198.51.100.7", "for_s": 0}"#),
        server.post_to(PATH, r#"{"network": "198.51.100.7"}"#),
        server.post_to(PATH, r#"{"network": "198.51.100.7", "for_s": 1, "for": 1}"#),
        server.get("/api/v1/denied?limit=0"),
        server.get("/api/v1/denied?adress=198.51.100.7"),
        server.raw("PUT /api/v1/denied HTTP/1.1\r\nHost: localhost", ""),
    ];
    let refusals: Vec<String> = refusals.iter().map(Answer::refusal).collect();
    expect![[r#"
        404 198.51.100.7/32 was not denied at run time
        409 203.0.113.0/24 stands in the list blocked, which only its file and a reload change
        400 "203.0.113.1/24": the address has bits set beyond its prefix; did you mean "203.0.113.0/24"?
        409 127.0.0.1/32 may never be denied, for 127.0.0.0/8 may not (loopback)
        409 203.0.113.0/24 stands in the list blocked, which only its file and a reload change
        400 for_s must be 1 to 31622400
        400 missing field `for_s` at line 1 column 27
        400 unknown field `for`, expected one of `network`, `for_s`, `why` at line 1 column 45
        400 limit must be 1 to 1000
        400 Failed to deserialize query string: adress: unknown field `adress`, expected `address` or `limit`
        405 /api/v1/denied takes GET, HEAD, POST, DELETE, not PUT"#]].assert_eq(&refusals.join("\n"));
}
