//! The process: what it may, how it starts, what signals do, what it leaves behind.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::json;

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, Launch, simple};
use crate::common::certificates::Authority;
use crate::common::client::Client;
use crate::common::{can_tap, tap_if_possible, wait_for};

const TAPPED: &str = "tap.mode = \"ebpf\"";

/// The cgroup it says it made.
fn cgroup_of(calltap: &Calltap) -> PathBuf {
    let said = calltap.stderr();
    let (_, rest) = said.split_once("tap: cgroup ").expect("a cgroup is named");
    PathBuf::from(rest.split(' ').next().expect("a path"))
}

/// What the kernel says of each of a process's threads.
fn threads(pid: Pid) -> Vec<String> {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    fs::read_dir(tasks)
        .expect("it runs")
        .map(|task| fs::read_to_string(task.expect("a thread").path().join("status")))
        .collect::<Result<_, _>>()
        .expect("its threads stay")
}

#[test]
fn no_thread_keeps_a_privilege_while_it_taps() {
    if !can_tap() {
        return;
    }
    let backend = Backend::start();
    let calltap = Calltap::start(&simple(TAPPED, backend.address()));
    let mut client = Client::connect(calltap.address());
    client.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
    client.wire().head().expect("a head").expect("a head");
    let threads = threads(calltap.pid());
    assert!(
        threads.len() >= 4,
        "workers, the join, the sink: {threads:#?}"
    );
    for thread in threads {
        let value = |name: &str| {
            let line = thread.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {thread}"))
                .trim()
                .to_owned()
        };
        for set in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"] {
            assert_eq!(value(set), "0000000000000000", "{set} of {thread}");
        }
        assert_eq!(value("NoNewPrivs:"), "1", "{thread}");
    }
    backend.shared().open_gate();
    assert_eq!(client.wire().exactly(10).expect("the rest"), b"first-last");
    drop(client);
    calltap.finish_one().expect_exact();
}

#[test]
fn sigterm_leaves_no_cgroup_behind() {
    if !can_tap() {
        return;
    }
    let backend = Backend::start();
    let calltap = Calltap::start(&simple(TAPPED, backend.address()));
    let cgroup = cgroup_of(&calltap);
    assert!(cgroup.is_dir(), "{}", cgroup.display());
    assert_eq!(
        Client::connect(calltap.address()).get("/bytes/1").status(),
        200
    );
    calltap.finish(1);
    // The child that removes it does so a moment after its parent is gone.
    wait_for("the cgroup to be removed", || {
        (!cgroup.exists()).then_some(())
    });
}

#[test]
fn clients_are_told_that_it_leaves() {
    let backend = Backend::start();
    // With one worker, who connected first was accepted first.
    let calltap = Calltap::start(&simple("workers = 1", backend.address()));
    let mut half = Client::connect(calltap.address());
    half.send("GET / HTTP/1.1\r\nHost: api");
    let mut client = Client::connect(calltap.address());
    client.send("PUT /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\n1");
    backend.shared().wait_asked("/echo");
    calltap.signal(Signal::TERM);
    calltap.wait_said("draining");
    client.send("2");
    let response = client.response("PUT");
    assert_eq!((response.status(), response.text().as_str()), (200, "12"));
    assert_eq!(response.head.header("connection"), Some("close"));
    assert!(client.is_closed());
    let _ = half.wire().rest();
    let records = calltap.finish(2);
    let kind = |kind| {
        let is_one = |record: &&crate::common::record::Record| record.text("kind") == kind;
        records.iter().find(is_one).expect("one of each")
    };
    kind("call").expect(json!({ "http.response.status_code": 200, "error.type": null }));
    kind("connection").expect(json!({ "error.type": "shutdown" }));
}

#[test]
fn the_next_start_removes_what_a_killed_one_left() {
    if !can_tap() {
        return;
    }
    let backend = Backend::start();
    let mut killed = Calltap::start(&simple(TAPPED, backend.address()));
    let cgroup = cgroup_of(&killed);
    killed.signal(Signal::KILL);
    killed.ended();
    let next = Calltap::start(&simple(TAPPED, backend.address()));
    assert_eq!(
        Client::connect(next.address()).get("/bytes/1").status(),
        200
    );
    next.finish(1);
    wait_for("the cgroup to be removed", || {
        (!cgroup.exists()).then_some(())
    });
}

#[test]
fn an_open_call_is_let_finish_and_no_new_one_begins() {
    let backend = Backend::start();
    let mut calltap = Calltap::start(&simple(tap_if_possible(), backend.address()));
    let address = calltap.address();
    let mut client = Client::connect(address);
    client.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
    client.wire().head().expect("a head").expect("a head");
    calltap.signal(Signal::TERM);
    calltap.wait_said("draining 1 connection");
    wait_for("new connections to be refused", || {
        let refused = TcpStream::connect(address).err()?;
        (refused.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    });
    backend.shared().open_gate();
    assert_eq!(client.wire().exactly(10).expect("the rest"), b"first-last");
    assert!(client.is_closed());
    let ended = calltap.ended();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let calls: Vec<_> = calltap
        .records_now()
        .into_iter()
        .filter(|record| record.text("kind") == "call")
        .collect();
    assert_eq!(calls.len(), 1, "{calls:#?}");
    calls[0].expect(json!({
        "http.response.status_code": 200, "http.response.body.size": 10, "error.type": null,
    }));
}

#[test]
fn a_call_that_outlasts_the_grace_is_cut_off_and_recorded() {
    let backend = Backend::start();
    let more = format!("{}shutdown.grace_s = 1", tap_if_possible());
    let mut calltap = Calltap::start(&simple(&more, backend.address()));
    let mut client = Client::connect(calltap.address());
    client.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
    client.wire().head().expect("a head").expect("a head");
    calltap.signal(Signal::TERM);
    let ended = calltap.ended();
    assert!(ended.stderr.contains("calls were cut off"), "{ended:?}");
    let records = calltap.records_now();
    assert_eq!(records.len(), 1, "{records:#?}");
    records[0].expect(json!({
        "kind": "call",
        "http.response.status_code": 200,
        "http.response.body.size": 5,
        "response.flags": ["shutdown"],
        "error.type": "shutdown",
    }));
}

#[test]
fn a_taken_port_fails_at_once_and_by_name() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let config = simple("", "127.0.0.1:9").replace("127.0.0.1:0", &address.to_string());
    let ended = Launch::new().fail(&config);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let wanted = format!("cannot listen on {address}: Address already in use");
    assert!(ended.stderr.contains(&wanted), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

fn rewrite(calltap: &Calltap, change: impl FnOnce(String) -> String) {
    let path = calltap.directory().join("calltap.toml");
    let config = fs::read_to_string(&path).expect("it is there");
    fs::write(path, change(config)).expect("written");
}

fn status(calltap: &Calltap, path: &str) -> u16 {
    Client::connect(calltap.address()).get(path).status()
}

#[test]
fn a_reload_takes_new_routes_and_upstreams() {
    let (old, new) = (Backend::start(), Backend::start());
    let config = simple("", old.address()).replace("upstream =", "path = \"/head\"\nupstream =");
    let calltap = Calltap::start(&config);
    assert_eq!(status(&calltap, "/bytes/1"), 404);
    let mut client = Client::connect(calltap.address());
    assert_eq!(client.get("/head").status(), 200);
    rewrite(&calltap, |config| {
        format!(
            "{config}[[routes]]\npath = \"/bytes/{{n}}\"\nupstream = \"new\"\n\
             [upstreams.new]\nendpoints = [\"{}\"]\n",
            new.address()
        )
    });
    calltap.signal(Signal::HUP);
    calltap.wait_said("reloaded");
    // On a connection from before, too.
    assert_eq!(client.get("/bytes/1").status(), 200);
    assert_eq!(client.get("/head").status(), 200);
    assert_eq!(new.shared().served(1).len(), 1);
    drop(client);
    let records = calltap.finish(4);
    records[2].expect(json!({ "upstream.cluster": "new", "http.route": "/bytes/{n}" }));
    // The connection to the upstream that stayed outlived the reload.
    records[3].expect(json!({ "upstream.cluster": "backend", "upstream.reused": true }));
}

#[test]
fn a_bad_file_keeps_the_old_configuration_and_says_every_mistake() {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple("", backend.address()));
    rewrite(&calltap, |config| {
        config.replace(
            "upstream = \"backend\"",
            "upstream = \"nowhere\"\nupstrem = 1",
        )
    });
    calltap.signal(Signal::HUP);
    let said = calltap.wait_said("not reloaded");
    assert!(said.contains("nowhere"), "{said}");
    assert!(said.contains("upstrem"), "{said}");
    assert_eq!(status(&calltap, "/bytes/1"), 200);
    // Nor is one that is gone taken for an empty one.
    fs::remove_file(calltap.directory().join("calltap.toml")).expect("it is there");
    calltap.signal(Signal::HUP);
    wait_for("a second refusal", || {
        (calltap.stderr().matches("not reloaded").count() == 2).then_some(())
    });
    assert_eq!(status(&calltap, "/bytes/1"), 200);
    calltap.finish(2);
}

#[test]
fn keys_that_need_a_restart_are_refused_by_name() {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple("", backend.address()));
    rewrite(&calltap, |config| {
        config
            .replace("127.0.0.1:0", "127.0.0.1:1")
            .replace("workers = 2", "workers = 3")
    });
    calltap.signal(Signal::HUP);
    let said = calltap.wait_said("not reloaded");
    assert!(said.contains("listeners"), "{said}");
    assert!(said.contains("workers"), "{said}");
    assert!(said.contains("restart"), "{said}");
    assert_eq!(status(&calltap, "/bytes/1"), 200);
    calltap.finish(1);
}

/// Takes any certificate and remembers it.
#[derive(Debug)]
struct Any(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate a new connection is shown.
fn certificate(address: std::net::SocketAddr) -> Vec<u8> {
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("api.test").expect("a name");
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut tcp = TcpStream::connect(address).expect("it listens");
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).expect("a handshake");
    }
    tls.peer_certificates().expect("shown")[0].to_vec()
}

fn issue(directory: &Path) {
    Authority::new().issue("api.test", directory, "server");
}

#[test]
fn a_reload_exchanges_certificates() {
    let launch = Launch::new();
    issue(launch.directory());
    let tls = "tls = { certificate = \"server.pem\", key = \"server.key\" }";
    let config = simple("records.connections = \"none\"", "127.0.0.1:9").replace(
        "address = \"127.0.0.1:0\"",
        &format!("address = \"127.0.0.1:0\"\n{tls}"),
    );
    let calltap = launch.start(&config);
    let before = certificate(calltap.address());
    assert_eq!(certificate(calltap.address()), before);
    issue(calltap.directory());
    calltap.signal(Signal::HUP);
    calltap.wait_said("reloaded");
    let after = certificate(calltap.address());
    assert_ne!(after, before);
    // A key that does not belong to its certificate is no certificate.
    let stray = calltap.directory().join("stray");
    fs::create_dir(&stray).expect("created");
    issue(&stray);
    fs::copy(
        stray.join("server.key"),
        calltap.directory().join("server.key"),
    )
    .expect("copied");
    calltap.signal(Signal::HUP);
    let said = calltap.wait_said("not reloaded");
    assert!(said.contains("server.key"), "{said}");
    assert_eq!(certificate(calltap.address()), after);
    calltap.finish(0);
}

#[test]
fn sigusr1_reopens_a_log_that_was_moved() {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple("", backend.address()));
    assert_eq!(status(&calltap, "/bytes/1"), 200);
    calltap.records(1);
    let log = calltap.directory().join("calls.jsonl");
    let moved = calltap.directory().join("moved.jsonl");
    fs::rename(&log, &moved).expect("moved");
    calltap.signal(Signal::USR1);
    wait_for("a new log", || log.exists().then_some(()));
    assert_eq!(status(&calltap, "/bytes/2"), 200);
    calltap.records(1);
    let old = fs::read_to_string(moved).expect("still there");
    calltap
        .finish_one()
        .expect(json!({ "url.path": "/bytes/2" }));
    assert_eq!(old.lines().count(), 1, "{old}");
    assert!(old.contains("/bytes/1"), "{old}");
}

#[test]
fn flags_alone_are_enough_and_standard_output_takes_the_records() {
    let backend = Backend::start();
    let launch = Launch::new();
    let arguments = format!(
        "--listen 127.0.0.1:0 --upstream {} --records - --tap off --admin none --workers 1",
        backend.address()
    );
    let mut calltap = launch.start_with(&arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(status(&calltap, "/bytes/1"), 200);
    calltap.signal(Signal::TERM);
    assert!(calltap.ended().status.success());
    let out = fs::read_to_string(calltap.directory().join("stdout")).expect("a file");
    assert_eq!(out.lines().count(), 1, "{out}");
    assert!(out.contains("\"url.path\":\"/bytes/1\""), "{out}");
    assert!(!calltap.directory().join("calls.jsonl").exists());
}
