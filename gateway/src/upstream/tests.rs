//! Groups and attempts against real sockets on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use calltap_correlate::socket::SocketCookie;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::upstreams::peer::HttpPeer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::endpoint::Endpoint;
use super::*;
use crate::config::{
    Balance, ClientIdentity, EndpointAddress, HealthConfig, ListenerTls as ListenerFiles, Protocol,
    UpstreamTls,
};
use crate::route::HostHeader;
use crate::tls::testing::{Authority, Pair};
use crate::tls::{ListenerTls, facts};

fn limits() -> Limits {
    crate::config::load(
        None,
        &crate::config::Overrides {
            listen: vec!["127.0.0.1:0".to_owned()],
            upstream: vec!["127.0.0.1:9".to_owned()],
            ..Default::default()
        },
    )
    .unwrap()
    .limits
}

fn config(endpoints: &[EndpointAddress]) -> UpstreamConfig {
    UpstreamConfig {
        name: "orders".into(),
        endpoints: endpoints.to_vec(),
        balance: Balance::RoundRobin,
        protocol: Protocol::Http1,
        tls: None,
        health: None,
        retries: 2,
        host_header: HostHeader::Keep,
        resolve_every: Duration::from_secs(30),
    }
}

fn socket(port: u16) -> EndpointAddress {
    EndpointAddress::Socket(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn name(host: &str) -> EndpointAddress {
    EndpointAddress::Dns {
        host: host.to_owned(),
        port: 80,
    }
}

fn set(config: UpstreamConfig, previous: Option<&Upstreams>) -> Upstreams {
    let configs = BTreeMap::from([(Arc::clone(&config.name), Arc::new(config))]);
    Upstreams::build(&configs, &limits(), previous).unwrap()
}

fn group(config: UpstreamConfig) -> Arc<Group> {
    Arc::clone(set(config, None).group("orders").unwrap())
}

fn mistake(config: UpstreamConfig) -> String {
    let configs = BTreeMap::from([(Arc::clone(&config.name), Arc::new(config))]);
    let errors = Upstreams::build(&configs, &limits(), None).err().unwrap();
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// The ports of the endpoints of so many picks, each given back at once.
fn picks(group: &Group, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| port(&group.pick(&[]).unwrap()))
        .collect()
}

fn port(endpoint: &Endpoint) -> String {
    endpoint.address().rsplit(':').next().unwrap().to_owned()
}

fn sicken(group: &Group, sick: &str) {
    for endpoint in group.endpoints() {
        if port(&endpoint) == sick {
            endpoint.checked(Err("sick".to_owned()), 1, 1);
        }
    }
}

#[test]
fn endpoints_take_turns() {
    let group = group(config(&[socket(1), socket(2), socket(3)]));
    assert_eq!(picks(&group, 5), ["1", "2", "3", "1", "2"]);
}

#[test]
fn unhealthy_endpoints_are_taken_when_there_is_no_other() {
    let group = group(config(&[socket(1), socket(2)]));
    sicken(&group, "1");
    assert_eq!(picks(&group, 3), ["2", "2", "2"]);
    sicken(&group, "2");
    assert_eq!(picks(&group, 2), ["2", "1"]);
}

#[test]
fn a_call_tries_each_endpoint_once() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let group = group(UpstreamConfig {
            balance,
            ..config(&[socket(1), socket(2), socket(3)])
        });
        sicken(&group, "1");
        let mut tried = Vec::new();
        let mut order = Vec::new();
        while let Some(lease) = group.pick(&tried) {
            tried.push(lease.id());
            order.push(port(&lease));
        }
        assert_eq!(order, ["2", "3", "1"], "{balance:?}");
    }
}

#[test]
fn the_fewest_open_calls_win() {
    let group = group(UpstreamConfig {
        balance: Balance::LeastConnections,
        ..config(&[socket(1), socket(2)])
    });
    let open: Vec<Lease> = (0..4).map(|_| group.pick(&[]).unwrap()).collect();
    let mut ports: Vec<String> = open.iter().map(|lease| port(lease)).collect();
    ports.sort();
    assert_eq!(ports, ["1", "1", "2", "2"]);
    let (ones, twos): (Vec<Lease>, Vec<Lease>) =
        open.into_iter().partition(|lease| port(lease) == "1");
    drop(ones);
    assert_eq!(picks(&group, 3), ["1", "1", "1"]);
    drop(twos);
    assert!(
        group
            .endpoints()
            .iter()
            .all(|endpoint| endpoint.in_flight() == 0)
    );
}

#[test]
fn the_last_good_answer_of_dns_stays() {
    let orders = name("orders.example");
    let group = group(config(std::slice::from_ref(&orders)));
    let addresses = |group: &Group| -> Vec<String> {
        group
            .state()
            .endpoints
            .into_iter()
            .map(|endpoint| endpoint.address)
            .collect()
    };
    let answer = |hosts: &[u8]| -> io::Result<Vec<SocketAddr>> {
        Ok(hosts
            .iter()
            .map(|&host| SocketAddr::from(([192, 0, 2, host], 80)))
            .collect())
    };
    assert!(group.pick(&[]).is_none(), "there is no answer yet");

    group.answered(&orders, Err(io::Error::other("no such name")));
    assert!(group.pick(&[]).is_none());
    assert_eq!(group.state().unresolved[0].name, "orders.example:80");
    assert_eq!(group.state().unresolved[0].error, "no such name");

    group.answered(&orders, answer(&[2, 1, 2]));
    assert_eq!(addresses(&group), ["192.0.2.1:80", "192.0.2.2:80"]);
    assert!(group.state().unresolved.is_empty());
    let first = group.endpoints()[0].id();

    for failure in [Ok(vec![]), Err(io::Error::other("timed out"))] {
        group.answered(&orders, failure);
        assert_eq!(addresses(&group), ["192.0.2.1:80", "192.0.2.2:80"]);
        assert_eq!(group.state().unresolved.len(), 1);
    }

    group.answered(&orders, answer(&[3, 1]));
    assert_eq!(addresses(&group), ["192.0.2.1:80", "192.0.2.3:80"]);
    assert_eq!(group.endpoints()[0].id(), first, "who stays is who it was");
}

#[tokio::test]
async fn a_name_nobody_knows_does_not_stop_the_start() {
    // No resolver asks anybody about a label that is longer than labels can be.
    let nobody = "x".repeat(64);
    let known = EndpointAddress::Dns {
        host: "localhost".to_owned(),
        port: 81,
    };
    let set = set(config(&[name(&nobody), known]), None);
    set.resolve(Duration::from_secs(10)).await;
    let state = set.state().groups.remove(0);
    assert_eq!(state.unresolved[0].name, format!("{nobody}:80"));
    assert!(
        state
            .endpoints
            .iter()
            .any(|endpoint| endpoint.address == "127.0.0.1:81")
    );
    assert!(
        state
            .endpoints
            .iter()
            .all(|endpoint| endpoint.configured == "localhost:81")
    );
}

#[test]
fn a_reload_keeps_what_is_known_of_those_who_stay() {
    let orders = name("orders.example");
    let before = set(config(&[socket(1), socket(2), orders.clone()]), None);
    let old = before.group("orders").unwrap();
    old.answered(&orders, Ok(vec!["192.0.2.1:80".parse().unwrap()]));
    sicken(old, "2");
    let lease = old.pick(&[]).unwrap();

    let after = set(
        config(&[orders, socket(3), socket(2), socket(1)]),
        Some(&before),
    );
    let new = after.group("orders").unwrap();
    let state: Vec<_> = new
        .state()
        .endpoints
        .into_iter()
        .map(|e| (e.address, e.healthy, e.in_flight))
        .collect();
    let expected = |address: &str, healthy, in_flight| (address.to_owned(), healthy, in_flight);
    assert_eq!(
        state,
        [
            expected("192.0.2.1:80", true, 0),
            expected("127.0.0.1:3", true, 0),
            expected("127.0.0.1:2", false, 0),
            expected("127.0.0.1:1", true, 1),
        ]
    );
    drop(before);
    drop(lease);
    assert!(
        new.endpoints()
            .iter()
            .all(|endpoint| endpoint.in_flight() == 0)
    );
}

#[test]
fn tls_without_a_name_to_verify_is_a_mistake() {
    let tls = |server_name: Option<&str>| UpstreamTls {
        server_name: server_name.map(str::to_owned),
        ca: None,
        identity: None,
    };
    let unix = EndpointAddress::Unix("/run/app.sock".into());
    assert_eq!(
        mistake(UpstreamConfig {
            tls: Some(tls(None)),
            ..config(std::slice::from_ref(&unix))
        }),
        "upstream group orders: endpoint unix:/run/app.sock has no name to verify, set tls.server_name"
    );
    assert_eq!(
        mistake(UpstreamConfig {
            tls: Some(tls(Some("a b"))),
            ..config(&[unix])
        }),
        "upstream group orders: \"a b\" is not a name that TLS can verify"
    );
    let long = EndpointAddress::Unix(format!("/{}", "x".repeat(200)).into());
    assert_eq!(
        mistake(config(std::slice::from_ref(&long))),
        format!("upstream group orders: {long} is not a path a unix socket can have")
    );
}

#[test]
fn a_key_of_another_certificate_is_a_mistake() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.issue("one"), authority.issue("other"));
    let error = mistake(UpstreamConfig {
        tls: Some(UpstreamTls {
            server_name: None,
            ca: Some(authority.certificate.clone()),
            identity: Some(ClientIdentity {
                certificate: one.certificate,
                key: other.key,
            }),
        }),
        ..config(&[socket(1)])
    });
    assert!(
        error.contains("other.key is not the private key of"),
        "{error}"
    );
}

/// A call's attempts, on a clock that counts, with the cookies that were announced.
struct Watch {
    attempts: Attempts,
    announced: Arc<Mutex<Vec<SocketCookie>>>,
    now_ns: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Watch {
    fn new() -> Self {
        let announced = Arc::new(Mutex::new(Vec::new()));
        let clock = AtomicU64::new(0);
        let now_ns: Arc<dyn Fn() -> u64 + Send + Sync> =
            Arc::new(move || clock.fetch_add(1, Ordering::Relaxed) + 1);
        let own = Arc::clone(&announced);
        let hooks = ConnectHooks {
            now_ns: Arc::clone(&now_ns),
            own: Arc::new(move |cookie| own.lock().unwrap().push(cookie)),
            luggage: Arc::new(|cookie, _| {
                let head = ResponseHeader::build(200, None).unwrap();
                Some(ProxyDigest::new(Box::new(head), Some(Box::new(cookie))))
            }),
        };
        Self {
            attempts: Attempts::new(Arc::new(hooks)),
            announced,
            now_ns,
        }
    }

    /// Connects as the proxy would.
    async fn connect(
        &self,
        connector: &Connector,
        endpoint: &Endpoint,
        time_left: Option<Duration>,
    ) -> Result<(HttpSession, HttpPeer), Box<pingora::Error>> {
        let peer = self.attempts.begin(endpoint, time_left, (self.now_ns)());
        match connector.get_http_session(&peer).await {
            Ok((session, reused)) => {
                self.attempts
                    .ready(reused, luggage(&session), (self.now_ns)());
                Ok((session, peer))
            }
            Err(error) => {
                self.attempts.failed(&error);
                Err(error)
            }
        }
    }

    /// Makes a whole call and gives the connection back to the pool.
    async fn call(&self, connector: &Connector, endpoint: &Endpoint) -> Option<SocketCookie> {
        let (mut session, peer) = self.connect(connector, endpoint, None).await.unwrap();
        if let Some(ssl) = session
            .digest()
            .and_then(|digest| digest.ssl_digest.as_deref())
        {
            assert_eq!(
                facts::version_from_name(&ssl.version).as_deref(),
                Some("1.3")
            );
            assert!(facts::cipher_from_name(&ssl.cipher).starts_with("TLS_"));
        }
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.insert_header("Host", "orders.example").unwrap();
        session.write_request_header(Box::new(head)).await.unwrap();
        session.finish_request_body().await.unwrap();
        session.read_response_header().await.unwrap();
        while session.read_response_body().await.unwrap().is_some() {}
        if let HttpSession::H1(http1) = &mut session {
            http1.respect_keepalive();
        }
        let cookie = luggage(&session);
        connector.release_http_session(session, &peer, None).await;
        cookie
    }

    fn outcomes(&self) -> Vec<&'static str> {
        self.attempts
            .list()
            .iter()
            .map(|attempt| attempt.outcome)
            .collect()
    }
}

/// What the hook gave the connection to carry: the cookie it was called with.
fn luggage(session: &HttpSession) -> Option<SocketCookie> {
    let digest = session.digest().unwrap().proxy_digest.clone().unwrap();
    *digest
        .user_data
        .as_ref()
        .unwrap()
        .downcast_ref::<Option<SocketCookie>>()
        .unwrap()
}

/// Answers every connection's every read with this, until dropped with the runtime.
fn serve(listener: TcpListener, answer: impl Fn() -> String + Send + 'static) -> u16 {
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                if stream.write_all(answer().as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    port
}

async fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

#[tokio::test]
async fn an_attempt_knows_its_socket_and_a_pooled_one_too() {
    let port = serve(listener().await, || {
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
    });
    let group = group(config(&[socket(port)]));
    let connector = Connector::new(None);
    let watch = Watch::new();
    let lease = group.pick(&[]).unwrap();
    let cookie = watch.call(&connector, &lease).await;
    assert_eq!(
        *watch.announced.lock().unwrap(),
        [cookie.expect("TCP sockets have cookies")]
    );
    let first = watch.attempts.list().remove(0);
    assert_eq!((first.outcome, first.cookie), ("ok", cookie));
    assert_eq!(
        (first.begin_ns, first.connected_ns, first.secured_ns),
        (1, Some(2), Some(3))
    );

    let next = Watch::new();
    assert_eq!(next.call(&connector, &lease).await, cookie);
    let pooled = next.attempts.list().remove(0);
    assert_eq!((pooled.outcome, pooled.cookie), ("ok", cookie));
    assert_eq!((pooled.connected_ns, pooled.secured_ns), (None, None));
    assert!(
        next.announced.lock().unwrap().is_empty(),
        "it connects only once"
    );
}

#[tokio::test]
async fn a_refused_attempt_has_a_socket_too() {
    let closed = listener().await.local_addr().unwrap().port();
    let open = listener().await;
    let group = group(config(&[
        socket(closed),
        socket(open.local_addr().unwrap().port()),
    ]));
    let connector = Connector::new(None);
    let watch = Watch::new();
    let mut tried = Vec::new();
    for _ in 0..2 {
        let lease = group.pick(&tried).unwrap();
        tried.push(lease.id());
        let _ = watch.connect(&connector, &lease, None).await;
    }
    assert_eq!(watch.outcomes(), ["refused", "ok"]);
    let attempts = watch.attempts.list();
    let cookies: Vec<SocketCookie> = attempts.iter().filter_map(|a| a.cookie).collect();
    assert_eq!(cookies, *watch.announced.lock().unwrap());
    assert_eq!(cookies.len(), 2);
    assert_eq!(attempts[0].connected_ns, None);
    assert_eq!(
        group.state().endpoints[0].last_error.as_deref(),
        Some("ConnectRefused: Connection refused (os error 111)")
    );
}

#[tokio::test]
async fn a_connect_that_takes_longer_than_the_call_has_is_given_up() {
    // Its queue of connections is full: SYNs are dropped from here on.
    let full = TcpSocket::new_v4().unwrap();
    full.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let full = full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let connect = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(200), connect).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => break,
        }
        assert!(
            waiting.len() < 16,
            "the queue of {address} does not fill up"
        );
    }
    let group = group(config(&[socket(address.port())]));
    let watch = Watch::new();
    let lease = group.pick(&[]).unwrap();
    let time_left = Some(Duration::from_millis(50));
    watch
        .connect(&Connector::new(None), &lease, time_left)
        .await
        .err()
        .unwrap();
    assert_eq!(watch.outcomes(), ["connect_timeout"]);
    assert!(watch.attempts.list()[0].cookie.is_some());
}

#[tokio::test]
async fn a_unix_socket_has_no_cookie() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let missing = EndpointAddress::Unix(directory.path().join("missing.sock"));
    let group = group(config(&[EndpointAddress::Unix(path.clone()), missing]));
    let connector = Connector::new(None);
    let watch = Watch::new();
    let present = group.pick(&[]).unwrap();
    assert_eq!(**present.address(), *format!("unix:{}", path.display()));
    assert_eq!(present.authority(), "localhost");
    let (connected, _open) =
        tokio::join!(watch.connect(&connector, &present, None), listener.accept());
    assert_eq!(luggage(&connected.unwrap().0), None);
    let missing = group.pick(&[]).unwrap();
    watch
        .connect(&connector, &missing, None)
        .await
        .err()
        .unwrap();
    assert_eq!(watch.outcomes(), ["ok", "not_found"]);
    assert!(watch.announced.lock().unwrap().is_empty());
}

#[tokio::test]
async fn http2_without_tls_begins_with_its_preface() {
    let listener = listener().await;
    let group = group(UpstreamConfig {
        protocol: Protocol::Http2,
        ..config(&[socket(listener.local_addr().unwrap().port())])
    });
    let server = async {
        let mut preface = [0; 24];
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut preface).await.unwrap();
        preface
    };
    let watch = Watch::new();
    let connector = Connector::new(None);
    let lease = group.pick(&[]).unwrap();
    let client = async {
        let _open = watch.connect(&connector, &lease, None).await;
        std::future::pending().await
    };
    let preface = tokio::select! {
        preface = server => preface,
        () = client => unreachable!("it waits for ever"),
    };
    assert_eq!(
        preface.escape_ascii().to_string(),
        r"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    );
}

/// A TLS server on loopback that asks for certificates of `clients`; gives its port.
async fn secure_server(pair: &Pair, clients: Option<&Authority>) -> u16 {
    let tls = ListenerTls::load(&ListenerFiles {
        certificate: pair.certificate.clone(),
        key: pair.key.clone(),
        client_ca: clients.map(|authority| authority.certificate.clone()),
        client_required: clients.is_some(),
    })
    .unwrap();
    let listener = listener().await;
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls.config());
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn tls_is_verified_by_authority_and_name() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let port = secure_server(&authority.issue("orders.example"), None).await;
    let connector = Connector::new(None);
    let check = async |ca: &Authority, server_name: Option<&str>, expected: &str, reason: &str| {
        let group = group(UpstreamConfig {
            tls: Some(UpstreamTls {
                server_name: server_name.map(str::to_owned),
                ca: Some(ca.certificate.clone()),
                identity: None,
            }),
            ..config(&[socket(port)])
        });
        let watch = Watch::new();
        let lease = group.pick(&[]).unwrap();
        if expected == "ok" {
            watch.call(&connector, &lease).await;
        } else {
            watch.connect(&connector, &lease, None).await.err().unwrap();
        }
        let attempt = watch.attempts.list().remove(0);
        assert_eq!(attempt.outcome, expected, "{server_name:?}");
        let error = group.state().endpoints.remove(0).last_error;
        assert!(error.unwrap_or_default().contains(reason), "{reason}");
        assert!(attempt.connected_ns.is_some());
        assert_eq!(attempt.secured_ns.is_some(), expected == "ok");
    };
    check(&authority, Some("orders.example"), "ok", "").await;
    // From here on there is a pooled connection to this address; none of these may get it.
    check(
        &other,
        Some("orders.example"),
        "tls_certificate",
        "UnknownIssuer",
    )
    .await;
    check(
        &authority,
        Some("billing.example"),
        "tls_name",
        "billing.example",
    )
    .await;
    check(&authority, None, "tls_name", "127.0.0.1").await;
}

#[tokio::test]
async fn health_is_checked_with_our_certificate() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let port = secure_server(&servers.issue("orders.example"), Some(&clients)).await;
    let ours = clients.issue("gateway");
    let check = async |identity: Option<&Pair>| {
        let group = group(UpstreamConfig {
            tls: Some(UpstreamTls {
                server_name: Some("orders.example".to_owned()),
                ca: Some(servers.certificate.clone()),
                identity: identity.map(|pair| ClientIdentity {
                    certificate: pair.certificate.clone(),
                    key: pair.key.clone(),
                }),
            }),
            ..config(&[socket(port)])
        });
        health::check_all(&group, &health_config(), &Default::default()).await;
        group.endpoints()[0].healthy()
    };
    assert!(check(Some(&ours)).await);
    assert!(!check(None).await);
}

fn health_config() -> HealthConfig {
    HealthConfig {
        path: "/healthz?deep=1".to_owned(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(10),
        healthy_after: 2,
        unhealthy_after: 1,
    }
}

#[tokio::test]
async fn endpoints_change_sides_after_so_many_checks() {
    let status = Arc::new(AtomicU16::new(503));
    let answered = Arc::clone(&status);
    let port = serve(listener().await, move || {
        let status = answered.load(Ordering::SeqCst);
        format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n")
    });
    let health = HealthConfig {
        unhealthy_after: 3,
        ..health_config()
    };
    let group = group(UpstreamConfig {
        health: Some(health.clone()),
        ..config(&[socket(port)])
    });
    let connector = Default::default();
    let mut sides = Vec::new();
    for code in [503, 503, 200, 503, 503, 503, 204, 503, 301, 200] {
        status.store(code, Ordering::SeqCst);
        health::check_all(&group, &health, &connector).await;
        let endpoint = group.state().endpoints.remove(0);
        sides.push(endpoint.healthy);
        let error = (code == 503).then(|| "GET /healthz?deep=1 answered 503".to_owned());
        assert_eq!(endpoint.last_error, error);
    }
    assert_eq!(
        sides,
        [
            true, true, true, true, true, false, false, false, false, true
        ]
    );
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_unhealthy() {
    let closed = listener().await.local_addr().unwrap().port();
    let group = group(config(&[socket(closed)]));
    health::check_all(&group, &health_config(), &Default::default()).await;
    let endpoint = group.state().endpoints.remove(0);
    assert!(!endpoint.healthy);
    assert!(endpoint.last_error.unwrap().starts_with("ConnectRefused"));
}
