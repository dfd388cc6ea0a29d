//! Alerts made by hand, delivered over real sockets to servers that misbehave.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use calltap_policies::addresses::Never;
use calltap_policies::alert::Severity;
use calltap_policies::detect::Detector;
use expect_test::expect;
use rustls::crypto::ring::default_provider;
use serde_json::Value;

use super::testing::Pretend;
use super::*;
use crate::config::{AlertsDenyConfig, Config, DenialsConfig};
use crate::socket::TapSource;
use crate::tls::pem;
use crate::tls::testing::Authority;

/// What has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Fast enough for a test, slow enough to see the server's part.
const PACE: Pace = Pace {
    retry_min: Duration::from_millis(1),
    retry_max: Duration::from_millis(20),
};

fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a receiver does with a request.
#[derive(Clone, Copy)]
enum Does {
    /// Answers this, with these header lines.
    Answers(u16, &'static str),
    /// Closes without a word.
    Closes,
    /// Says nothing until the client gives up.
    Stalls,
    /// Announces a longer body than it sends.
    Breaks,
}

/// A request that came.
#[derive(Clone, Debug)]
struct Got {
    head: String,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// `opened auth_failures 10.0.0.1`
    fn shown(&self) -> String {
        let body = self.json();
        let text = |at: &str| body.pointer(at).and_then(Value::as_str).expect("a text");
        let (event, detector) = (text("/event"), text("/alert/detector"));
        format!("{event} {detector} {}", text("/alert/subject/name"))
    }
}

/// A server that does as it is told, request by request, then takes everything. Stops when dropped.
struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    got: Mutex<Vec<Got>>,
    script: Mutex<VecDeque<Does>>,
    ending: Mutex<bool>,
}

impl Receiver {
    fn start(script: impl IntoIterator<Item = Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::on(listener, script)
    }

    fn on(listener: TcpListener, script: impl IntoIterator<Item = Does>) -> Self {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            script: Mutex::new(script.into_iter().collect()),
            ..Shared::default()
        });
        let server = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if *server.ending.lock().expect("no panic") {
                    return;
                }
                server.serve(socket);
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    fn got(&self, n: usize) -> Vec<Got> {
        wait_for(&format!("{n} requests"), || {
            let got = self.shared.got.lock().expect("no panic");
            (got.len() >= n).then(|| got.clone())
        })
    }

    fn shown(&self, n: usize) -> Vec<String> {
        self.got(n).iter().map(Got::shown).collect()
    }
}

impl Shared {
    fn serve(&self, mut socket: TcpStream) {
        let Some(got) = read_request(&mut socket) else {
            return;
        };
        let does = self.script.lock().expect("no panic").pop_front();
        self.got.lock().expect("no panic").push(got);
        let answer = match does.unwrap_or(Does::Answers(204, "")) {
            Does::Answers(status, headers) => {
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\n\r\n")
            }
            Does::Closes => return,
            Does::Stalls => {
                // Until the client is gone.
                let _ = socket.read(&mut [0]);
                return;
            }
            Does::Breaks => "HTTP/1.1 500 X\r\nContent-Length: 99\r\n\r\nshort".to_owned(),
        };
        let _ = socket.write_all(answer.as_bytes());
    }
}

fn read_request(socket: &mut TcpStream) -> Option<Got> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let head_end = loop {
        if let Some(at) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match socket.read(&mut buffer).ok()? {
            0 => return None,
            n => text.extend_from_slice(&buffer[..n]),
        }
    };
    let head = String::from_utf8(text[..head_end].to_vec()).expect("ASCII");
    let mut got = Got {
        head,
        body: String::new(),
    };
    let length: usize = got.header("content-length").parse().expect("a number");
    while text.len() < head_end + length {
        match socket.read(&mut buffer).ok()? {
            0 => return None,
            n => text.extend_from_slice(&buffer[..n]),
        }
    }
    got.body = String::from_utf8(text[head_end..].to_vec()).expect("UTF-8");
    Some(got)
}

impl Drop for Receiver {
    fn drop(&mut self) {
        *self.shared.ending.lock().expect("no panic") = true;
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A directory with a spool and a secret.
struct Place(tempfile::TempDir);

const SECRET: &str = "0123456789abcdef, \"$x\" & 'y'";

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("secret"), format!("{SECRET}\n")).expect("written");
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `more` are keys of the webhook `on-call` there.
    fn webhook(&self, url: &str, more: &str) -> AlertsConfig {
        let (spool, secret) = (self.path("spool"), self.path("secret"));
        self.config(&format!(
            "[alerts]\nspool_dir = {spool:?}\nspool_max_mib = 1\n[[alerts.webhooks]]\nname = \"on-call\"\n\
             url = {url:?}\nsecret_file = {secret:?}\n{more}"
        ))
    }

    fn config(&self, text: &str) -> AlertsConfig {
        let file = self.path("calltap.toml");
        let rest = "listeners = [{ address = \"127.0.0.1:8080\" }]\n\
            routes = [{ upstream = \"u\" }]\nupstreams.u.endpoints = [\"127.0.0.1:9000\"]\n";
        fs::write(&file, format!("{rest}{text}")).expect("written");
        let config = crate::config::load(Some(&file), &crate::config::Overrides::default());
        let Config { alerts, .. } = config.expect("a good configuration");
        alerts
    }
}

/// The thread under test, with alerts made by hand.
struct Delivering {
    delivery: Delivery,
    alerts: Pretend,
    board: Arc<Board>,
    denials: Arc<Denials>,
}

fn deliver_with(config: &AlertsConfig) -> Delivering {
    let board = Board::new();
    let link = Link {
        instance: "i-1".into(),
        base: Some("http://127.0.0.1:9901".to_owned()),
    };
    let denials = Arc::new(Denials::new(TapSource::Off, Arc::default()));
    let started = Delivery::start(config, link, Arc::clone(&board), Arc::clone(&denials), PACE);
    let (delivery, teller) = started.expect("it starts");
    Delivering {
        delivery,
        alerts: Pretend::new(teller),
        board,
        denials,
    }
}

impl Delivering {
    fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.delivery.tallies()[0])
    }

    fn wait_count(&self, outcome: Outcome, n: u64) {
        let tally = self.tally();
        wait_for(&format!("{n} {}", outcome.name()), || {
            (tally.count(outcome) >= n).then_some(())
        });
    }

    /// As calltap ends.
    fn stop(self) {
        drop(self.alerts);
        self.delivery.join();
    }
}

fn url(receiver: &Receiver) -> String {
    format!("http://{}/hook?of=calltap", receiver.address)
}

#[test]
fn each_change_is_posted_in_order_and_signed() {
    let (place, receiver) = (Place::new(), Receiver::start([]));
    let mut delivering = deliver_with(&place.webhook(&url(&receiver), "severity = \"warning\""));
    delivering.alerts.sees(Detector::AuthFailures, 1);
    delivering.alerts.sees(Detector::Regularity, 1); // only info
    delivering.alerts.sees(Detector::UnknownPaths, 2);
    delivering.alerts.quiet(60);
    let shown = receiver.shown(4);
    assert_eq!(
        shown[..2],
        [
            "opened auth_failures 10.0.0.1",
            "opened unknown_paths 10.0.0.2"
        ]
    );
    delivering.wait_count(Outcome::Delivered, 4);
    assert_eq!(delivering.tally().waiting(), (0, 0));
    let got = receiver.got(4);
    let first = &got[0];
    assert!(
        first.head.starts_with("POST /hook?of=calltap HTTP/1.1\r\n"),
        "{}",
        first.head
    );
    assert_eq!(first.header("host"), receiver.address.to_string());
    assert_eq!(first.header("content-type"), "application/json");
    let body = first.json();
    assert_eq!(body["instance"], "i-1");
    let id = body["alert"]["id"].as_str().expect("an id");
    assert_eq!(
        body["url"],
        format!("http://127.0.0.1:9901/api/v1/alerts/{id}")
    );
    let told = delivering.board.find(id.parse().expect("an id"));
    assert_eq!(
        told.expect("on the board").alert.severity,
        Severity::Critical
    );
    let mut ids: Vec<&str> = got.iter().map(|g| g.header("x-calltap-delivery")).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    delivering.stop();
}

/// The line of docs/alerts.md, run as it stands there.
#[test]
fn the_documented_line_verifies_a_signature() {
    let page = include_str!("../../../docs/alerts.md");
    let line = page.lines().find(|line| line.contains("openssl dgst"));
    let line = line.expect("a line with openssl").trim();
    let (place, receiver) = (Place::new(), Receiver::start([]));
    let mut delivering = deliver_with(&place.webhook(&url(&receiver), ""));
    delivering.alerts.sees(Detector::AuthFailures, 1);
    let got = receiver.got(1).remove(0);
    delivering.stop();
    let says = |body: &str, secret: &str| {
        let done = Command::new("sh")
            .args(["-c", line])
            .env("timestamp", got.header("x-calltap-timestamp"))
            .env("body", body)
            .env("secret", secret)
            .output()
            .expect("sh runs");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout)
            .expect("ASCII")
            .trim()
            .to_owned()
    };
    let signature = got.header("x-calltap-signature");
    assert_eq!(says(&got.body, SECRET), signature);
    assert_ne!(says(&format!("{} ", got.body), SECRET), signature);
    assert_ne!(says(&got.body, "another"), signature);
}

#[test]
fn what_is_not_taken_is_sent_again_until_it_is() {
    let script = [
        Does::Answers(503, "Retry-After: 0\r\n"),
        Does::Closes,
        Does::Stalls,
        Does::Breaks,
        Does::Answers(429, ""),
        Does::Answers(301, "Location: http://127.0.0.1:1/\r\n"),
        Does::Answers(200, ""),
    ];
    let (place, receiver) = (Place::new(), Receiver::start(script));
    let mut delivering = deliver_with(&place.webhook(&url(&receiver), "timeout_ms = 3000"));
    delivering.alerts.sees(Detector::AuthFailures, 1);
    delivering.alerts.sees(Detector::AuthFailures, 2);
    let got = receiver.got(8);
    let shown: Vec<String> = got.iter().map(Got::shown).collect();
    // Nobody is overtaken by who came later.
    assert!(
        shown[..7]
            .iter()
            .all(|s| s == "opened auth_failures 10.0.0.1")
    );
    assert_eq!(shown[7], "opened auth_failures 10.0.0.2");
    let ids: Vec<&str> = got.iter().map(|g| g.header("x-calltap-delivery")).collect();
    assert!(ids[..7].iter().all(|id| *id == ids[0]), "{ids:?}");
    delivering.wait_count(Outcome::Delivered, 2);
    let tally = delivering.tally();
    assert_eq!(tally.count(Outcome::Retried), 6);
    assert_eq!(tally.count(Outcome::Refused), 0);
    assert_eq!(tally.failing(), None);
    delivering.stop();
}

#[test]
fn what_is_refused_for_good_holds_up_nobody() {
    let (place, receiver) = (Place::new(), Receiver::start([Does::Answers(400, "")]));
    let mut delivering = deliver_with(&place.webhook(&url(&receiver), ""));
    delivering.alerts.sees(Detector::AuthFailures, 1);
    delivering.wait_count(Outcome::Refused, 1);
    assert_eq!(
        delivering.tally().failing().as_deref(),
        Some("answered 400")
    );
    delivering.alerts.sees(Detector::AuthFailures, 2);
    delivering.wait_count(Outcome::Delivered, 1);
    assert_eq!(receiver.got(2).len(), 2);
    delivering.stop();
}

#[test]
fn what_nobody_takes_waits_for_the_next_start() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    drop(listener);
    let config = place.webhook(&url, "");
    let mut delivering = deliver_with(&config);
    delivering.alerts.sees(Detector::AuthFailures, 1);
    delivering.alerts.sees(Detector::AuthFailures, 2);
    delivering.wait_count(Outcome::Retried, 2);
    let why = delivering.tally().failing().expect("a reason");
    assert!(why.starts_with("cannot connect to 127.0.0.1:"), "{why}");
    delivering.stop();

    let receiver = Receiver::start([]);
    let config = AlertsConfig {
        webhooks: place.webhook(&self::url(&receiver), "").webhooks,
        ..config
    };
    let delivering = deliver_with(&config);
    assert_eq!(
        receiver.shown(2),
        [
            "opened auth_failures 10.0.0.1",
            "opened auth_failures 10.0.0.2"
        ]
    );
    delivering.wait_count(Outcome::Delivered, 2);
    delivering.stop();
    let spool = fs::metadata(place.path("spool/on-call.spool")).expect("a file");
    assert_eq!(spool.len(), 0);
}

#[test]
fn one_that_stalls_holds_up_no_other() {
    let place = Place::new();
    let slow = Receiver::start([Does::Stalls, Does::Stalls, Does::Stalls]);
    let fast = Receiver::start([]);
    let config = place.webhook(&url(&slow), "timeout_ms = 60000");
    let more = AlertsConfig {
        webhooks: {
            let mut other = place.webhook(&url(&fast), "").webhooks;
            other[0].destination.name = "other".to_owned();
            [config.webhooks.clone(), other].concat()
        },
        ..config
    };
    let mut delivering = deliver_with(&more);
    for client in 0..10 {
        delivering.alerts.sees(Detector::AuthFailures, client);
    }
    fast.got(10);
    assert_eq!(slow.got(1).len(), 1);
    delivering.stop();
}

#[test]
fn a_bearer_token_and_the_named_authority_are_used() {
    let place = Place::new();
    let authority = Authority::new("ca");
    let pair = authority.issue("localhost");
    let token = authority.file("token", "t0ken\n");
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(
            pem::certificates(&pair.certificate).expect("a chain"),
            pem::private_key(&pair.key).expect("a key"),
        )
        .expect("a pair");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let served = thread::spawn(move || {
        let tls = Arc::new(tls);
        // Those who come without the authority leave.
        loop {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut session = rustls::ServerConnection::new(Arc::clone(&tls)).expect("a session");
            let mut stream = rustls::Stream::new(&mut session, &mut socket);
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(n @ 1..) => head.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            if !head.is_empty() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).expect("a client that waits");
                return String::from_utf8(head).expect("ASCII");
            }
        }
    });
    let url = format!("https://localhost:{port}/");
    let mut stranger = deliver_with(&place.webhook(&url, ""));
    stranger.alerts.sees(Detector::AuthFailures, 1);
    stranger.wait_count(Outcome::Retried, 1);
    let why = stranger.tally().failing().expect("a reason");
    assert!(
        why.contains("TLS with localhost") && why.contains("certificate"),
        "{why}"
    );
    stranger.stop();
    let ca = &authority.certificate;
    let more = format!("ca = {ca:?}\ntoken_file = {token:?}");
    let friend = deliver_with(&place.webhook(&url, &more));
    friend.wait_count(Outcome::Delivered, 1);
    friend.stop();
    let head = served.join().expect("no panic");
    assert!(head.contains("authorization: Bearer t0ken\r\n"), "{head}");
}

#[test]
fn pauses_grow_up_to_a_bound_and_never_undercut_what_was_asked() {
    let pace = Pace::default();
    for (failures, base_s) in [
        (1, 1),
        (2, 2),
        (5, 16),
        (9, 256),
        (10, 300),
        (u32::MAX, 300),
    ] {
        for _ in 0..100 {
            let pause = pace.pause(failures, None);
            let base = Duration::from_secs(base_s);
            assert!(pause >= base / 2 && pause <= base, "{failures}: {pause:?}");
        }
    }
    let asked = Duration::from_secs(1000);
    assert_eq!(pace.pause(1, Some(asked)), asked);
}

#[test]
fn a_spool_that_cannot_be_made_is_named() {
    let place = Place::new();
    let mut config = place.webhook("http://127.0.0.1:1/", "");
    config.spool_dir = place.path("secret");
    let link = Link {
        instance: "i".into(),
        base: None,
    };
    let denials = Arc::new(Denials::new(TapSource::Off, Arc::default()));
    let started = Delivery::start(&config, link, Board::new(), denials, PACE);
    let error = started.expect_err("no directory");
    let error = format!("{:#}", anyhow::Error::from(error));
    assert!(
        error.contains("alerts.spool_dir") && error.contains("secret"),
        "{error}"
    );
}

#[test]
fn an_alertmanager_is_told_of_what_is_open_again_and_again() {
    let receiver = Receiver::start([Does::Answers(503, ""), Does::Closes]);
    let text = format!(
        "[alerts.alertmanager]\nurls = [\"http://{}/am/\"]\nresend_s = 1",
        receiver.address
    );
    let mut delivering = deliver_with(&Place::new().config(&text));
    delivering.alerts.sees(Detector::AuthFailures, 1);
    let got = receiver.got(4);
    let alert = |got: &Got| got.json()[0].clone();
    assert!(got[0].head.starts_with("POST /am/api/v2/alerts HTTP/1.1"));
    let labels = alert(&got[3])["labels"].to_string();
    expect![[r#"{"alertname":"auth_failures","instance":"i-1","service":"calltap","severity":"critical","subject":"10.0.0.1","subject_kind":"client"}"#]]
        .assert_eq(&labels);
    let annotations = alert(&got[3])["annotations"].to_string();
    expect![[r#"{"blame":"client","description":"one client is refused again and again: a password or a key is being guessed","examples":"http://127.0.0.1:9901/api/v1/calls/00000000-0000-0000-0000-00000000ca11","summary":"40 of 41 calls were refused"}"#]]
        .assert_eq(&annotations);
    // Each time it is said to hold for longer.
    let holds = |got: &Got| alert(got)["endsAt"].as_str().expect("a time").to_owned();
    assert!(holds(&got[2]) < holds(&got[3]), "{got:?}");
    delivering.alerts.quiet(60);
    let resolved = delivering.board.all()[0].alert.resolved_ns.is_some();
    assert!(resolved, "it has been quiet");
    let told = delivering.board.all()[0].json.clone();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    wait_for("its end to be told", || {
        let got = receiver.got(1);
        let last = alert(got.last().expect("one at least"));
        assert_eq!(last["startsAt"], told["since"]);
        (last["endsAt"] == told["resolved"]).then_some(())
    });
    assert_eq!(delivering.tally().failing(), None);
    delivering.stop();
}

#[test]
fn an_alert_denies_its_source_once_for_a_time() {
    let place = Place::new();
    let receiver = Receiver::start([]);
    let mut config = place.webhook(&url(&receiver), "");
    config.deny = AlertsDenyConfig {
        detectors: vec![Detector::AuthFailures],
        for_: Duration::from_secs(60),
    };
    let mut delivering = deliver_with(&config);
    let denials = DenialsConfig {
        lists: vec![].into(),
        never: vec![Never {
            network: "10.0.0.9/32".parse().expect("a network"),
            why: "a friend".into(),
        }],
        max: 10,
    };
    let configured = delivering.denials.configure(&denials, vec![]);
    configured.expect("there is room");
    let alerts = &mut delivering.alerts;
    alerts.sees_from(Detector::AuthFailures, "10.0.0.1");
    alerts.sees_from(Detector::AuthFailures, "10.0.0.9"); // a friend
    alerts.sees_from(Detector::Scraping, "10.0.0.2"); // not of these detectors
    alerts.sees(Detector::AuthFailures, 3); // no handshake
    alerts.sees_from(Detector::AuthFailures, "2001:db8::1:2:3:4");
    receiver.got(5);
    let told = delivering.denials.told(None);
    let mut denied: Vec<String> = told.iter().map(|told| told.network.to_string()).collect();
    denied.sort();
    assert_eq!(denied, ["10.0.0.1/32", "2001:db8::/64"]);
    let why = told[0].why.as_deref().expect("a reason");
    assert!(
        why.starts_with("alert ") && why.ends_with(": auth_failures"),
        "{why}"
    );
    assert_eq!(delivering.board.denials(), [("denied", 2), ("spared", 1)]);
    // It goes on: the end stays where it was.
    let end = |denials: &Denials| {
        let told = denials.told(Some("10.0.0.1".parse().expect("an address")));
        told[0].denial.until
    };
    let until = end(&delivering.denials);
    delivering.alerts.quiet(59);
    delivering
        .alerts
        .sees_from(Detector::AuthFailures, "10.0.0.1");
    delivering.alerts.quiet(1);
    delivering
        .alerts
        .sees_from(Detector::AuthFailures, "10.0.0.1");
    wait_for("the update", || {
        let got = receiver.got(5);
        let updated = got
            .iter()
            .map(Got::shown)
            .any(|shown| shown == "updated auth_failures 10.0.0.1");
        updated.then_some(())
    });
    assert_eq!(end(&delivering.denials), until);
    delivering.stop();
}

/// Alertmanager itself, from Debian, on loopback alone.
struct Real {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Real {
    fn start() -> Option<Self> {
        let binary = find_alertmanager()?;
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("alertmanager.yml");
        // It would take what we tell it for over by itself much sooner than we tell it again.
        let text =
            "global:\n  resolve_timeout: 1s\nroute:\n  receiver: none\nreceivers:\n- name: none\n";
        fs::write(&config, text).expect("written");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let log = dir.path().join("log");
        let child = Command::new(binary)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("created"))
            .spawn()
            .expect("alertmanager starts");
        let mut real = Self {
            child,
            address,
            _dir: dir,
        };
        wait_for("alertmanager to be ready", || {
            let ended = real.child.try_wait().expect("our child").is_some();
            assert!(!ended, "{}", fs::read_to_string(&log).unwrap_or_default());
            real.get("/-/ready")
                .filter(|answer| answer.contains(" 200 "))
        });
        Some(real)
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(self.address).ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        socket.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// `alertname subject` of those it takes for active.
    fn active(&self) -> Vec<String> {
        let answer = self.get("/api/v2/alerts?active=true").expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        let alerts: Value = serde_json::from_str(body).expect("JSON");
        let mut active: Vec<String> = alerts
            .as_array()
            .expect("a list")
            .iter()
            .map(|alert| {
                let label =
                    |name: &str| alert["labels"][name].as_str().expect("a label").to_owned();
                format!("{} {}", label("alertname"), label("subject"))
            })
            .collect();
        active.sort();
        active
    }

    fn wait_active(&self, expected: &[&str]) {
        let what = format!("alertmanager to have {expected:?}");
        wait_for(&what, || (self.active() == expected).then_some(()));
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where Debian's package puts it, whose binary looks for its templates in one place.
fn find_alertmanager() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/prometheus-alertmanager");
    if !path.exists() {
        let thread = thread::current();
        let test = thread.name().unwrap_or("a test").to_owned();
        let path = path.display();
        eprintln!(
            "SKIPPED: {test} because there is no {path}: scripts/bootstrap --test installs it"
        );
        return None;
    }
    Some(path)
}

#[test]
fn the_real_alertmanager_keeps_an_alert_until_it_is_resolved() {
    let Some(real) = Real::start() else { return };
    let text = format!(
        "[alerts.alertmanager]\nurls = [\"http://{}\"]\nresend_s = 1\nseverity = \"warning\"",
        real.address
    );
    let mut delivering = deliver_with(&Place::new().config(&text));
    let (first, second) = ("auth_failures 10.0.0.1", "unknown_paths 10.0.0.2");
    delivering.alerts.sees(Detector::AuthFailures, 1);
    delivering.alerts.sees(Detector::Regularity, 1); // only info
    real.wait_active(&[first]);
    delivering.alerts.sees(Detector::UnknownPaths, 2);
    real.wait_active(&[first, second]);
    // Told again and again, it is still there when what was said first has long ended by itself.
    let told = delivering.tally().count(Outcome::Delivered);
    delivering.wait_count(Outcome::Delivered, told + 12);
    assert_eq!(real.active(), [first, second]);
    delivering.alerts.quiet(60);
    real.wait_active(&[]);
    let tally = delivering.tally();
    assert_eq!((tally.count(Outcome::Refused), tally.failing()), (0, None));
    delivering.stop();
}

#[test]
fn the_real_alertmanager_ends_what_it_is_told_no_more() {
    let Some(real) = Real::start() else { return };
    let text = format!(
        "[alerts.alertmanager]\nurls = [\"http://{}\"]\nresend_s = 1",
        real.address
    );
    let mut delivering = deliver_with(&Place::new().config(&text));
    delivering.alerts.sees(Detector::AuthFailures, 1);
    real.wait_active(&["auth_failures 10.0.0.1"]);
    delivering.stop();
    real.wait_active(&[]);
}
