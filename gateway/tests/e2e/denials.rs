//! Lists of addresses: who gets no answer, who always does, and how both change.
//!
//! Loopback may never be denied, so all of it happens in a network of the test's own, whose machine has
//! more addresses.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, Launch};
use crate::common::client::Client;
use crate::common::{can_tap, wait_for};

/// Where calltap listens, and where its backend does.
const GATEWAY: &str = "198.51.100.1:8080";
const BACKEND: &str = "198.51.100.9:9000";
const ADMIN: &str = "127.0.0.1:9901";
const PUBLIC_ADMIN: &str = "198.51.100.1:9901";

/// A network namespace with the addresses of a few clients; gone when this is dropped.
struct OwnNetwork(String);

impl OwnNetwork {
    fn make() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = Self(format!("calltap-e2e-{}-{next}", std::process::id()));
        ip(&["netns", "add", &own.0]);
        ip(&["-n", &own.0, "link", "set", "lo", "up"]);
        for address in ["198.51.100.0/24", "2001:db8::/64"] {
            let kind = if address.contains(':') { "-6" } else { "-4" };
            ip(&[
                "-n", &own.0, kind, "route", "add", "local", address, "dev", "lo",
            ]);
        }
        own
    }
}

impl Drop for OwnNetwork {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("ip runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {said}");
}

/// Runs a test in a network of its own, if this run may make one.
fn in_own_network(test: impl FnOnce() + Send) {
    if !can_tap() {
        return;
    }
    let own = OwnNetwork::make();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let namespace = File::open(format!("/run/netns/{}", own.0)).expect("it was made");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).expect("root may");
            test();
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A calltap in this network before a backend in it; `lists` are keys of `[policies]`.
fn started(mode: &str, lists: &str) -> (Backend, Calltap) {
    started_by(Launch::new(), mode, lists)
}

fn started_by(launch: Launch, mode: &str, lists: &str) -> (Backend, Calltap) {
    let top = format!("tap.mode = \"{mode}\"\nadmin.address = \"{ADMIN}\"\n");
    started_with(launch, &top, lists)
}

fn started_with(launch: Launch, top: &str, lists: &str) -> (Backend, Calltap) {
    let backend = Backend::on(BACKEND.parse().expect("an address"));
    let config = format!(
        "{top}records.connections = \"all\"\n\
         [[listeners]]\naddress = \"{GATEWAY}\"\n\
         [[routes]]\nupstream = \"backend\"\n\
         [upstreams.backend]\nendpoints = [\"{BACKEND}\"]\n\
         {lists}\n"
    );
    (backend, launch.start(&config))
}

/// Connects from an address, or not, where nobody answers.
fn connect_from(from: &str) -> std::io::Result<TcpStream> {
    connect(from, GATEWAY)
}

fn connect(from: &str, to: &str) -> std::io::Result<TcpStream> {
    let from: IpAddr = from.parse().expect("an address");
    let to: SocketAddr = to.parse().expect("an address");
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
    sockopt::set_tcp_user_timeout(&socket, 500)?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

#[track_caller]
fn call_from(from: &str) -> Client {
    let mut client = Client::over(connect_from(from).expect("it is answered"));
    // Whoever claims to be somebody else is not taken for him.
    client.send("GET /bytes/1 HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n");
    assert_eq!(client.response("GET").status(), 200);
    client
}

#[track_caller]
fn is_ignored(from: &str) {
    let refused = connect_from(from).expect_err("nobody answers");
    assert_eq!(refused.kind(), ErrorKind::TimedOut, "{from}");
}

fn ask(method: &str, path: &str, body: &str) -> (u16, Value) {
    let socket = TcpStream::connect(ADMIN).expect("the admin API");
    ask_over(socket, "", &format!("{method} {path}"), body)
}

fn ask_over(mut socket: TcpStream, headers: &str, what: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.expect("a status"), body)
}

#[test]
fn a_denied_address_gets_no_answer_from_the_kernel() {
    in_own_network(|| {
        let (_backend, calltap) = started(
            "ebpf",
            "[[policies.lists]]\nname = \"blocked\"\nthen = \"deny\"\n\
             entries = [\"198.51.100.7\", \"198.51.100.128/25\", \"2001:db8::7\"]",
        );
        is_ignored("198.51.100.7");
        is_ignored("198.51.100.200");
        drop(call_from("198.51.100.8"));
        let (_, told) = ask("GET", "/api/v1/denied?address=198.51.100.7", "");
        let seven = &told["denied"][0];
        assert_eq!(seven["network"], "198.51.100.7/32");
        assert!(seven["packets"].as_u64() > Some(0), "{told}");
        let (_, status) = ask("GET", "/api/v1/status", "");
        let denied = &status["denied"];
        assert_eq!(denied["in_kernel"], true);
        assert_eq!(denied["networks"], 3);
        assert!(
            denied["packets"].as_u64() > seven["packets"].as_u64(),
            "{denied}"
        );
        // The others left no connection, and so no record.
        for record in calltap.finish(2) {
            assert_eq!(record.text("client.address"), "198.51.100.8");
        }
    });
}

#[test]
fn without_a_tap_its_connections_are_reset() {
    for mode in ["tcp_info", "off"] {
        in_own_network(|| {
            let (_backend, calltap) = started(
                mode,
                "[[policies.lists]]\nname = \"blocked\"\nthen = \"deny\"\n\
                 entries = [\"198.51.100.7\"]",
            );
            let mut client = connect_from("198.51.100.7").expect("the kernel answers");
            let reset = client.read(&mut [0]).expect_err("no end in good order");
            assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
            drop(call_from("198.51.100.8"));
            let (_, status) = ask("GET", "/api/v1/status", "");
            assert_eq!(status["denied"]["in_kernel"], false);
            assert_eq!(status["denied"]["connections_refused"], 1);
            let records = calltap.finish(3);
            let of_seven = records
                .iter()
                .find(|record| record.text("network.peer.address") == "198.51.100.7");
            of_seven.expect("its record").expect(json!({
                "kind": "connection",
                "error.type": "denied",
            }));
        });
    }
}

#[test]
fn a_reload_takes_a_list_as_a_whole_or_not_at_all() {
    in_own_network(|| {
        let launch = Launch::new();
        let file = launch.directory().join("blocked.txt");
        std::fs::write(&file, "# nobody yet\n").expect("written");
        let (_backend, calltap) = started_by(
            launch,
            "ebpf",
            "[[policies.lists]]\nname = \"blocked\"\nthen = \"deny\"\nfile = \"blocked.txt\"",
        );
        let reload = |text: &str, said: &str| {
            let before = calltap.stderr().matches(said).count();
            std::fs::write(&file, text).expect("written");
            calltap.signal(Signal::HUP);
            wait_for("the reload", || {
                (calltap.stderr().matches(said).count() > before).then_some(())
            });
        };
        let mut seven = call_from("198.51.100.7");
        let mut eight = call_from("198.51.100.8");
        reload("198.51.100.7\n", " reloaded");
        // Its live connection is reset, and there is no other.
        let gone = seven.try_response("GET").expect_err("no end in good order");
        assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
        is_ignored("198.51.100.7");
        assert_eq!(eight.get("/bytes/1").status(), 200);

        reload("198.51.100.8\n198.51.100.8/24\nnobody\n", "not reloaded");
        let said = calltap.stderr();
        for words in [
            "blocked.txt:2:1: \"198.51.100.8/24\": the address has bits set beyond its prefix; did you mean \"198.51.100.0/24\"?",
            "blocked.txt:3:1: \"nobody\": this is neither an IP address nor a network",
        ] {
            assert!(said.contains(words), "{said}");
        }
        is_ignored("198.51.100.7");
        assert_eq!(eight.get("/bytes/1").status(), 200);

        reload("198.51.100.8\n", " reloaded");
        drop(call_from("198.51.100.7"));
        is_ignored("198.51.100.8");
    });
}

#[test]
fn what_is_denied_at_run_time_ends_by_itself_or_is_taken_back() {
    in_own_network(|| {
        let (backend, calltap) = started("ebpf", "");
        let mut seven = call_from("198.51.100.7");
        // In the middle of a call.
        seven.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
        backend.shared().wait_asked("/gated");
        let body = r#"{"network": "198.51.100.7", "for_s": 3600, "why": "test"}"#;
        let (status, told) = ask("POST", "/api/v1/denied", body);
        assert_eq!((status, &told["why"]), (201, &"test".into()));
        let gone = seven.try_response("GET").expect_err("no end in good order");
        assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
        is_ignored("198.51.100.7");
        let (_, status) = ask("GET", "/api/v1/status", "");
        assert_eq!(status["denied"]["connections_closed"], 1);
        // A reload leaves it.
        calltap.signal(Signal::HUP);
        calltap.wait_said(" reloaded");
        is_ignored("198.51.100.7");
        let (status, _) = ask("DELETE", "/api/v1/denied?network=198.51.100.7", "");
        assert_eq!(status, 204);
        drop(call_from("198.51.100.7"));

        let body = r#"{"network": "198.51.100.0/25", "for_s": 2}"#;
        let (status, _) = ask("POST", "/api/v1/denied", body);
        assert_eq!(status, 201);
        is_ignored("198.51.100.7");
        wait_for("an answer", || connect_from("198.51.100.7").ok());
        let cut_off = calltap
            .records_now()
            .into_iter()
            .find(|record| record.get("url.path").is_some_and(|path| path == "/gated"));
        cut_off.expect("its record").expect(json!({
            "kind": "call",
            "error.type": "denied",
            "response.flags": ["denied"],
        }));
    });
}

#[test]
fn an_alert_denies_its_source_for_a_time() {
    in_own_network(|| {
        let (_backend, calltap) = started(
            "ebpf",
            "[alerts.deny]\ndetectors = [\"injection\"]\nfor_s = 3",
        );
        drop(call_from("198.51.100.7"));
        let mut seven = Client::over(connect_from("198.51.100.7").expect("it is answered"));
        let attack = "GET /bytes/1?q=1%27%20UNION%20SELECT%20password%20FROM%20information_schema \
                      HTTP/1.1\r\nHost: api.test\r\n\r\n";
        wait_for("its end", || {
            let sent = seven.wire().send(attack);
            let answer = sent.and_then(|()| seven.try_response("GET"));
            answer.err().map(|error| error.kind())
        });
        let said = calltap.wait_said("198.51.100.7/32 is denied for 3s: alert ");
        assert!(said.contains("alert opened: injection"), "{said}");
        is_ignored("198.51.100.7");
        drop(call_from("198.51.100.8"));
        let (_, status) = ask("GET", "/api/v1/status", "");
        assert_eq!(status["alerts"]["sources"]["denied"], 1);
        wait_for("an answer", || connect_from("198.51.100.7").ok());
    });
}

#[test]
fn upstreams_trusted_peers_and_loopback_are_never_denied() {
    in_own_network(|| {
        let (_backend, calltap) = started(
            "ebpf",
            "[policies]\nnever_denied = [\"198.51.100.20/31\"]\n\
             [[policies.lists]]\nname = \"all\"\nthen = \"deny\"\n\
             entries = [\"0.0.0.0/0\", \"198.51.100.9\", \"198.51.100.0/24\"]\n\
             [proxy]\ntrusted_peers = [\"198.51.100.30\"]",
        );
        for denied in ["198.51.100.7", "198.51.100.22"] {
            is_ignored(denied);
        }
        // The upstream calls us, and answers us meanwhile.
        for permitted in [
            "198.51.100.9",
            "198.51.100.21",
            "198.51.100.30",
            "127.0.0.1",
        ] {
            drop(call_from(permitted));
        }
        let said = calltap.stderr();
        for words in [
            "list all: 198.51.100.9/32 is not denied, for 198.51.100.9/32 never is (upstream backend)",
            "list all: 0.0.0.0/0 is denied without 127.0.0.0/8, which never is (loopback)",
            "list all: 198.51.100.0/24 is denied without 198.51.100.30/32, which never is (proxy.trusted_peers)",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let (status, refused) = ask(
            "POST",
            "/api/v1/denied",
            r#"{"network": "198.51.100.9", "for_s": 60}"#,
        );
        assert_eq!(status, 409, "{refused}");
    });
}

#[test]
fn whoever_showed_the_token_is_never_denied() {
    in_own_network(|| {
        let launch = Launch::new();
        std::fs::write(launch.directory().join("token"), "secret\n").expect("written");
        let top = format!(
            "tap.mode = \"ebpf\"\nadmin.address = \"{PUBLIC_ADMIN}\"\nadmin.token_file = \"token\"\n"
        );
        let lists = "[[policies.lists]]\nname = \"all\"\nthen = \"deny\"\n\
                     entries = [\"198.51.100.0/24\"]";
        let (_backend, _calltap) = started_with(launch, &top, lists);
        let ask_from = |from: &str, token: &str| {
            let socket = connect(from, PUBLIC_ADMIN).expect("the admin API denies nobody");
            let token = format!("Authorization: Bearer {token}\r\n");
            ask_over(socket, &token, "GET /api/v1/denied", "").0
        };
        assert_eq!(ask_from("198.51.100.40", "wrong"), 401);
        is_ignored("198.51.100.40");
        assert_eq!(ask_from("198.51.100.41", "secret"), 200);
        drop(call_from("198.51.100.41"));
        is_ignored("198.51.100.40");
    });
}
