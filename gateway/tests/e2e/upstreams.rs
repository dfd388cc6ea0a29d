//! The way to the backends: TLS, names, balancing, retries, time limits, health.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::common::backend::{Backend, Refusing, Shared, converse};
use crate::common::calltap::{Calltap, Launch, simple};
use crate::common::certificates::Authority;
use crate::common::client::Client;
use crate::common::record::Record;
use crate::common::{tap_if_possible, wait_for};

/// A configuration with one route to a group with these keys.
fn group(more: &str, keys: &str) -> String {
    format!(
        "{}{more}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[routes]]\nupstream = \"backend\"\n[upstreams.backend]\n{keys}\n",
        tap_if_possible()
    )
}

/// A TLS backend that demands a certificate of `authority`; the names its clients asked for.
fn secure_backend(directory: &Path) -> (SocketAddr, Arc<Shared>, Arc<Mutex<Vec<String>>>) {
    let path = |name: &str| directory.join(name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(path("ca.pem")).expect("written");
    roots.add(authority).expect("an authority");
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_file(path("server.pem")).expect("written")],
            PrivateKeyDer::from_pem_file(path("server.key")).expect("written"),
        )
        .expect("a certificate");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (shared, names) = (
        Arc::<Shared>::default(),
        Arc::<Mutex<Vec<String>>>::default(),
    );
    let (serving, noting) = (Arc::clone(&shared), Arc::clone(&names));
    thread::spawn(move || {
        while let Ok((mut tcp, peer)) = listener.accept() {
            let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a server");
            let (shared, names) = (Arc::clone(&serving), Arc::clone(&noting));
            thread::spawn(move || {
                while tls.is_handshaking() {
                    if tls.complete_io(&mut tcp).is_err() {
                        return;
                    }
                }
                let name = tls.server_name().unwrap_or("none").to_owned();
                names.lock().expect("no panic").push(name);
                converse(StreamOwned::new(tls, tcp), None, Some(peer), &shared);
            });
        }
    });
    (address, shared, names)
}

/// A call to a TLS backend with these keys of `tls`.
fn secure_call(tls: &str) -> (u16, Record, Vec<String>) {
    let launch = Launch::new();
    let authority = Authority::new();
    authority.write(&launch.directory().join("ca.pem"));
    Authority::new().write(&launch.directory().join("other.pem"));
    authority.issue("orders.internal", launch.directory(), "server");
    authority.issue("gateway.internal", launch.directory(), "me");
    let (address, _, names) = secure_backend(launch.directory());
    let keys = format!("endpoints = [\"{address}\"]\ntls = {{ {tls} }}");
    let calltap = launch.start(&group("", &keys));
    let status = Client::connect(calltap.address()).get("/bytes/9").status();
    let names = names.lock().expect("no panic").clone();
    (status, calltap.finish_one(), names)
}

#[test]
fn tls_to_the_upstream_has_its_authority_its_name_and_our_certificate() {
    let (status, record, names) = secure_call(
        "server_name = \"orders.internal\", ca = \"ca.pem\", \
         certificate = \"me.pem\", key = \"me.key\"",
    );
    assert_eq!(status, 200);
    assert_eq!(names, ["orders.internal"]);
    record.expect(json!({
        "http.response.body.size": 9,
        "upstream.tls.protocol.version": "1.3",
        "upstream.reused": false,
        "error.type": null,
    }));
    assert!(record.text("upstream.tls.cipher").starts_with("TLS_"));
    assert_eq!(record.outcomes(), ["ok"]);
    record.expect_if_tapped(json!({ "coverage": "ebpf", "client.attribution": "exact" }));
    if record.get("delivered_us").is_some() {
        record.expect_time_adds_up();
        assert!(record.number("time.upstream_tls_us") > 0, "{record:?}");
    }
}

#[test]
fn a_backend_that_cannot_prove_its_name_is_a_502() {
    for tls in [
        "server_name = \"other.internal\", ca = \"ca.pem\", certificate = \"me.pem\", key = \"me.key\"",
        "server_name = \"orders.internal\", ca = \"other.pem\", certificate = \"me.pem\", key = \"me.key\"",
    ] {
        let (status, record, names) = secure_call(tls);
        assert_eq!(status, 502, "{tls}");
        assert!(names.is_empty(), "{tls}: {names:?}");
        record.expect(json!({
            "http.response.status_code": 502,
            "response.flags": ["upstream_tls_failed"],
            "error.type": "upstream_tls_failed",
            "upstream.http.response.status_code": null,
        }));
        let outcome = record.outcomes()[0];
        assert!(outcome.starts_with("tls_"), "{record:?}");
    }
}

#[test]
fn a_name_is_resolved_and_the_attempt_names_what_it_became() {
    let backend = Backend::start();
    let endpoint = format!("localhost:{}", backend.address().port());
    let calltap = Calltap::start(&simple(tap_if_possible(), endpoint));
    // Of the name's addresses, only one has a backend.
    let status = Client::connect(calltap.address()).get("/bytes/1").status();
    assert_eq!(status, 200);
    let record = calltap.finish_one();
    record.expect(json!({
        "upstream.address": "127.0.0.1",
        "upstream.port": backend.address().port(),
    }));
    assert_eq!(record.outcomes().last(), Some(&"ok"));
}

#[test]
fn a_name_that_does_not_resolve_stops_no_start_and_is_a_503() {
    let calltap = Calltap::start(&simple(tap_if_possible(), "nowhere.invalid:80"));
    let response = Client::connect(calltap.address()).get("/x");
    assert_eq!(response.status(), 503);
    calltap.finish_one().expect(json!({
        "http.response.status_code": 503,
        "error.type": "no_endpoint",
        "response.flags": ["no_endpoint"],
        "upstream.attempts": null,
    }));
}

#[test]
fn a_refused_endpoint_is_passed_over_and_both_attempts_are_listed() {
    let (refusing, backend) = (Refusing::start(), Backend::start());
    let refused = refusing.address();
    let keys = format!("endpoints = [\"{refused}\", \"{}\"]", backend.address());
    let calltap = Calltap::start(&group("", &keys));
    // In turn: one of two calls begins with the endpoint that refuses.
    for _ in 0..2 {
        let mut client = Client::connect(calltap.address());
        client.send("POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.response("POST").text(), "hello");
    }
    assert_eq!(backend.shared().arrived(), 2);
    let records = calltap.finish(2);
    let retried = records.iter().find(|record| record.outcomes().len() == 2);
    let retried = retried.unwrap_or_else(|| panic!("no retry in {records:#?}"));
    assert_eq!(retried.outcomes(), ["refused", "ok"]);
    let attempts = retried.get("upstream.attempts").expect("listed");
    assert_eq!(attempts[0]["address"], refused.to_string());
    assert_eq!(attempts[1]["address"], backend.address().to_string());
    assert!(attempts[0]["cookie"].is_string(), "{attempts}");
    assert_ne!(attempts[0]["cookie"], attempts[1]["cookie"]);
    assert_eq!(attempts[0].get("connect_us"), None::<&Value>);
    retried.expect(json!({
        "http.response.status_code": 200,
        "http.request.body.size": 5,
        "upstream.port": backend.address().port(),
        "upstream.socket.cookie": attempts[1]["cookie"],
        "error.type": null,
        "response.flags": null,
    }));
    if retried.get("delivered_us").is_some() {
        retried.expect_exact();
        assert!(
            retried.get("time.failed_attempts_us").is_some(),
            "{retried:?}"
        );
    }
}

/// A listener whose queue is full: it answers no SYN.
struct Blackhole {
    address: SocketAddr,
    _queue: Vec<TcpStream>,
    _listener: OwnedFd,
}

impl Blackhole {
    fn open() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        listen(&listener, 0).expect("listening");
        let address = rustix::net::getsockname(&listener).expect("bound");
        let address = SocketAddr::try_from(address).expect("an address");
        // Until one more is not let in any more.
        let a_moment = Duration::from_millis(300);
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, a_moment) {
            queue.push(stream);
            assert!(queue.len() < 16, "a queue of no length takes them all");
        }
        Self {
            address,
            _queue: queue,
            _listener: listener,
        }
    }
}

#[test]
fn an_endpoint_that_does_not_answer_is_given_up_in_time() {
    let blackhole = Blackhole::open();
    let keys = format!("endpoints = [\"{}\"]", blackhole.address);
    let calltap = Calltap::start(&group("limits.connect_ms = 200", &keys));
    let response = Client::connect(calltap.address()).get("/x");
    assert_eq!(response.status(), 504);
    let record = calltap.finish_one();
    record.expect(json!({
        "http.response.status_code": 504,
        "response.flags": ["upstream_connect_timeout"],
        "error.type": "upstream_connect_timeout",
        "upstream.address": "127.0.0.1",
        "upstream.port": blackhole.address.port(),
    }));
    assert_eq!(record.outcomes(), ["connect_timeout"]);
    record.expect_if_tapped(json!({ "client.attribution": "exact", "settled": "acked" }));
    if record.get("delivered_us").is_some() {
        record.expect_time_adds_up();
        let (failed, whole) = (
            record.number("time.failed_attempts_us"),
            record.number("delivered_us"),
        );
        assert!(failed * 10 > whole * 9, "{record:?}");
    }
}

#[test]
fn round_robin_takes_endpoints_in_turn() {
    let backends = [Backend::start(), Backend::start()];
    let calltap = Calltap::start(&group("workers = 1", &endpoints(&backends)));
    for _ in 0..6 {
        assert_eq!(
            Client::connect(calltap.address()).get("/bytes/1").status(),
            200
        );
    }
    assert_eq!(backends.each_ref().map(|b| b.shared().arrived()), [3, 3]);
    calltap.finish(6);
}

#[test]
fn least_connections_spares_the_busy_endpoint() {
    let backends = [Backend::start(), Backend::start()];
    let keys = format!("balance = \"least_connections\"\n{}", endpoints(&backends));
    let calltap = Calltap::start(&group("", &keys));
    let mut busy = Client::connect(calltap.address());
    busy.send("GET /gated HTTP/1.1\r\nHost: api.test\r\n\r\n");
    busy.wire().head().expect("a head").expect("a head");
    for done in 1..=4 {
        assert_eq!(
            Client::connect(calltap.address()).get("/bytes/1").status(),
            200
        );
        // Only with its record is it over for calltap, too.
        calltap.records(done);
    }
    let asked = |path| backends.each_ref().map(|b| b.shared().asked_count(path));
    let free = asked("/gated")
        .iter()
        .position(|n| *n == 0)
        .expect("one is free");
    assert_eq!(asked("/bytes/1")[free], 4);
    backends
        .iter()
        .for_each(|backend| backend.shared().open_gate());
    assert_eq!(busy.wire().exactly(10).expect("all of it"), b"first-last");
    drop(busy);
    calltap.finish(5);
}

fn endpoints(backends: &[Backend; 2]) -> String {
    let [a, b] = backends.each_ref().map(Backend::address);
    format!("endpoints = [\"{a}\", \"{b}\"]")
}

#[test]
fn a_sick_endpoint_is_left_out_until_it_is_well_again() {
    let backends = [Backend::start(), Backend::start()];
    let keys = format!(
        "health = {{ path = \"/health\", interval_ms = 100, unhealthy_after = 2, healthy_after = 2 }}\n{}",
        endpoints(&backends)
    );
    let calltap = Calltap::start(&group("", &keys));
    let call = || {
        assert_eq!(
            Client::connect(calltap.address()).get("/bytes/1").status(),
            200
        )
    };
    let asked = || {
        backends
            .each_ref()
            .map(|b| b.shared().asked_count("/bytes/1"))
    };
    (0..4).for_each(|_| call());
    assert_eq!(asked(), [2, 2]);
    backends[1].shared().set_sick(true);
    let said = calltap.wait_said("endpoint is unhealthy");
    assert!(said.contains("GET /health answered 503"), "{said}");
    assert!(said.contains(&backends[1].address().to_string()), "{said}");
    (0..4).for_each(|_| call());
    assert_eq!(asked(), [6, 2]);
    backends[1].shared().set_sick(false);
    calltap.wait_said("endpoint is healthy again");
    (0..4).for_each(|_| call());
    assert_eq!(asked(), [8, 4]);
    // The checks are nobody's calls.
    assert!(backends[0].shared().asked_count("/health") > 0);
    calltap.finish(12);
}

#[test]
fn a_connection_that_the_backend_closed_meanwhile_costs_no_call() {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple(tap_if_possible(), backend.address()));
    let mut client = Client::connect(calltap.address());
    for _ in 0..3 {
        // The backend takes the connection away without having said so.
        assert_eq!(client.get("/hang-up").status(), 200);
    }
    drop(client);
    for record in calltap.finish(3) {
        record.expect(json!({ "http.response.status_code": 200, "error.type": null }));
        assert_eq!(record.outcomes().last(), Some(&"ok"));
    }
}

#[test]
fn a_client_certificate_names_the_caller() {
    let launch = Launch::new();
    let authority = Authority::new();
    authority.write(&launch.directory().join("clients.pem"));
    authority.issue("api.test", launch.directory(), "server");
    authority.issue("shop.client", launch.directory(), "me");
    let backend = Backend::start();
    let config = group("", &format!("endpoints = [\"{}\"]", backend.address())).replace(
        "address = \"127.0.0.1:0\"",
        "address = \"127.0.0.1:0\"\n\
         tls = { certificate = \"server.pem\", key = \"server.key\", client_ca = \"clients.pem\" }",
    );
    let calltap = launch.start(&config);
    let address = calltap.address();
    let mine = |name: &str| calltap.directory().join(name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(mine("clients.pem")).expect("written");
    roots.add(authority).expect("an authority");
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(mine("me.pem")).expect("written")],
            PrivateKeyDer::from_pem_file(mine("me.key")).expect("written"),
        )
        .expect("a certificate");
    let name = "api.test".try_into().expect("a name");
    let tls = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let tcp = TcpStream::connect(address).expect("it listens");
    let mut wire = crate::common::wire::Wire::new(StreamOwned::new(tls, tcp));
    wire.send("GET /bytes/1 HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .expect("calltap reads");
    let head = wire.head().expect("an answer").expect("an answer");
    assert_eq!(head.word(1), "200");
    drop(wire);
    let pem = fs::read_to_string(mine("me.pem")).expect("written");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    let digest: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    let record = wait_for("the record", || calltap.records_now().pop());
    record.expect(json!({
        "tls.client.subject": "CN=shop.client",
        "tls.client.issuer": "CN=calltap test authority",
        "tls.client.hash.sha256": digest,
        "api.consumer.client_id": "CN=shop.client",
    }));
    calltap.finish(1);
}
