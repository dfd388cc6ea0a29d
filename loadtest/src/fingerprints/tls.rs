//! TLS clients of several makes, and ClientHellos cut into pieces, through one router to a calltap.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeFrom;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use serde::Deserialize;

use super::{Extent, Finding, hello, ja4};
use crate::backend::{Backend, Transport};
use crate::certificate::{Certificate, NAME};
use crate::cleanup::Scratch;
use crate::client;
use crate::gateway::{Gateway, Setup};
use crate::plan::Random;
use crate::records::Records;
use crate::truth::capture::{self, Capture};
use crate::truth::evidence::Family;
use crate::truth::ground::{FRONT, Ground};

/// How long a record may take to be written, and a server to answer.
const PATIENCE: Duration = Duration::from_secs(20);
const MTU: u16 = 1500;
const WHOLE: u32 = 262_144;
/// More than a round trip here: each piece is a segment of its own, and not joined to one that waits.
const BETWEEN_PIECES: Duration = Duration::from_micros(500);
/// From here on each client has a port of its own: its record is found by it, and of those that the
/// system gives out one is given out again once the server has reset a connection.
const FIRST_PORT: u16 = 20_000;

/// How curl is called, beside what all calls have in common.
const CURL: &[(&str, &[&str])] = &[
    ("as it is", &[]),
    ("HTTP/1.1", &["--http1.1"]),
    ("no ALPN", &["--no-alpn"]),
    ("TLS 1.2", &["--tls-max", "1.2"]),
    ("TLS 1.3", &["--tlsv1.3"]),
    (
        "two ciphers",
        &[
            "--tls-max",
            "1.2",
            "--ciphers",
            "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305",
        ],
    ),
    ("one curve", &["--curves", "X25519"]),
];

/// How `openssl s_client` is called. Where the handshake fails, a record tells of the connection.
const OPENSSL: &[(&str, &[&str])] = &[
    ("as it is", &[]),
    ("a server name", &["-servername", NAME]),
    ("no server name", &["-noservername"]),
    ("TLS 1.2", &["-tls1_2"]),
    ("TLS 1.3", &["-tls1_3"]),
    ("TLS 1.1", &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]),
    ("TLS 1.0", &["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"]),
    (
        "every cipher",
        &["-cipher", "ALL:COMPLEMENTOFALL@SECLEVEL=0"],
    ),
    ("ALPN http/1.1", &["-alpn", "http/1.1"]),
    ("ALPN that nobody has", &["-alpn", "xyz,h2"]),
    ("other signatures", &["-sigalgs", "ECDSA+SHA256:RSA+SHA256"]),
    ("other curves", &["-groups", "P-384:P-256"]),
    (
        "a hello that is asked for twice",
        &["-tls1_3", "-groups", "P-521:P-256"],
    ),
    ("certificate status", &["-status"]),
];

const CHROMIUM_NAME: &str = "Chromium";

/// How Chromium is called: on its own, without a window, and without calling home.
const CHROMIUM: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-dev-shm-usage",
    "--ignore-certificate-errors",
];

/// ClientHellos made up at random, each cut in another way than the one before.
const MADE_UP: usize = 100;

/// How the bytes of a ClientHello are sent.
#[derive(Clone, Copy, Debug)]
struct Cut {
    name: &'static str,
    /// Handshake bytes in a TLS record; 0: as the client has it.
    record_bytes: usize,
    /// Bytes in a segment; 0: whatever fits.
    segment_bytes: usize,
}

const CUTS: &[Cut] = &[
    Cut {
        name: "whole",
        record_bytes: 0,
        segment_bytes: 0,
    },
    Cut {
        name: "one byte a segment",
        record_bytes: 0,
        segment_bytes: 1,
    },
    Cut {
        name: "7 bytes a segment, 100 a record",
        record_bytes: 100,
        segment_bytes: 7,
    },
    Cut {
        name: "one byte a record",
        record_bytes: 1,
        segment_bytes: 0,
    },
];

/// A ClientHello that was recorded, with the fingerprint it has.
#[derive(Clone, Debug, Deserialize)]
pub struct Vector {
    client_hello: String,
    ja4: String,
}

/// Reads a list of vectors: JSON objects with `client_hello` (a TLS record in hex) and `ja4`.
pub fn read_vectors(file: &Path) -> anyhow::Result<Vec<Vector>> {
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}

/// A client that was sent.
struct Client {
    name: String,
    address: SocketAddr,
    /// What its fingerprint is known to be; of others the capture tells.
    known: Option<String>,
    /// Segments that its hello was to be cut into, at least.
    segments: usize,
}

/// Sends them all and compares.
pub fn compare(calltap: &Path, vectors: &[Vector], extent: Extent) -> anyhow::Result<Vec<Finding>> {
    let ground = Ground::build(MTU)?;
    let upstream = ground.upstreams[0]
        .run(|| TcpListener::bind((Ground::upstream_address(Family::V4, 0), 0)))??;
    let backend = Backend::serve(upstream, Transport::Plain)?;
    let certificate = Certificate::new()?;
    let mut setup = Setup::new(calltap, backend.address());
    setup.address = Ground::front_address(Family::V4);
    setup.plain_routes = true;
    setup.listener_tls = Some(certificate.files());
    setup.wrapper = ground.gateway.wrapper();
    setup.admin_namespace = Some(ground.gateway.clone());
    let gateway = Gateway::start(&setup)?;
    let server = gateway.plain();
    let directory = Scratch::new("calltap-ja4-")?;
    let file = directory.path().join("front.pcap");
    let captured = Capture::start(&ground.gateway, FRONT, &file, WHOLE)?;

    let mut ports = FIRST_PORT..;
    let mut clients = Vec::new();
    clients.extend(by_curl(&ground, server, &mut ports)?);
    clients.extend(by_openssl(&ground, server, &mut ports)?);
    clients.extend(by_rustls(&ground, server, &mut ports, &certificate)?);
    let mut random = Random::new(1);
    for at in 0..MADE_UP {
        let hello = hello::made_up(&mut random);
        let name = format!("made up {}", at + 1);
        clients.push(by_hello(
            &ground,
            server,
            &mut ports,
            name,
            &hello,
            CUTS[at % CUTS.len()],
        )?);
    }
    for (at, vector) in vectors.iter().enumerate() {
        clients.extend(by_vector(&ground, server, &mut ports, at, vector)?);
    }
    let chromium = match extent {
        Extent::All => by_chromium(&ground, server, directory.path())?,
        Extent::Some => Err("left out".to_owned()),
    };

    let captures = [captured];
    capture::wait_quiet(&captures);
    for capture in captures {
        let lost = capture.stop()?;
        ensure!(lost == 0, "the capture lost {lost} packets");
    }
    let seen = ja4::of_capture(&file, server)?;
    let segments = first_flights(&file, server)?;
    let mut others: Vec<SocketAddr> = seen.keys().copied().collect();
    others.retain(|address| clients.iter().all(|client| client.address != *address));
    others.sort_unstable();
    ensure!(
        chromium.is_ok() || others.is_empty(),
        "connections from nowhere: {others:?}"
    );
    for (at, address) in others.into_iter().enumerate() {
        clients.push(Client {
            name: format!("{CHROMIUM_NAME}: connection {}", at + 1),
            address,
            known: None,
            segments: 1,
        });
    }
    for client in &clients {
        let count = segments.get(&client.address).copied().unwrap_or(0);
        ensure!(
            count >= client.segments,
            "{}: the hello was to come in {} segments and came in {count}",
            client.name,
            client.segments
        );
    }
    let mut findings = collect(&clients, &gateway, &seen)?;
    match chromium {
        // A page that came over no connection was not Chromium's.
        Ok(()) => ensure!(
            findings
                .iter()
                .any(|finding| finding.client.starts_with(CHROMIUM_NAME)),
            "Chromium got its page over no connection"
        ),
        Err(why) => findings.push(Finding {
            client: CHROMIUM_NAME.to_owned(),
            expected: None,
            recorded: None,
            note: Some(why),
        }),
    }
    Ok(findings)
}

fn by_curl(
    ground: &Ground,
    server: SocketAddr,
    ports: &mut RangeFrom<u16>,
) -> anyhow::Result<Vec<Client>> {
    let (address, port) = (server.ip(), server.port());
    let named = format!("https://{NAME}:{port}/bytes/10");
    let by_address = format!("https://{server}/bytes/10");
    let calls = CURL
        .iter()
        .map(|(name, arguments)| (*name, &named, *arguments))
        .chain([("by address", &by_address, &[][..])]);
    ports
        .zip(calls)
        .map(|(own_port, (name, url, arguments))| {
            let output = ground
                .client
                .command("curl")
                .args(["-s", "-k", "-o", "/dev/null", "--max-time", "20"])
                .args(["-w", "%{http_code} %{local_ip}"])
                .args(["--local-port", &own_port.to_string()])
                .args(["--resolve", &format!("{NAME}:{port}:{address}")])
                .args(arguments)
                .arg(url)
                .output()
                .context("cannot run curl")?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let words: Vec<&str> = said.split(' ').collect();
            let ["200", own] = words[..] else {
                bail!("curl, {name}: {said} ({})", output.status);
            };
            Ok(Client {
                name: format!("curl: {name}"),
                address: SocketAddr::new(own.parse()?, own_port),
                known: None,
                segments: 1,
            })
        })
        .collect()
}

fn by_openssl(
    ground: &Ground,
    server: SocketAddr,
    ports: &mut RangeFrom<u16>,
) -> anyhow::Result<Vec<Client>> {
    let own = own_address(ground, server)?;
    ports
        .zip(OPENSSL)
        .map(|(port, (name, arguments))| {
            let address = SocketAddr::new(own, port);
            // Whether the handshake succeeds is not the question; `timeout` for one that hangs.
            let mut child = ground
                .client
                .command("timeout")
                .args(["20", "openssl", "s_client", "-quiet", "-no_ign_eof"])
                .args(["-connect", &server.to_string()])
                .args(["-bind", &address.to_string()])
                .args(*arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("cannot run openssl")?;
            let request = b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            // It is gone already where the handshake failed.
            let mut stdin = child.stdin.take().context("no stdin")?;
            let _ = stdin.write_all(request);
            child.wait()?;
            drop(stdin);
            Ok(Client {
                name: format!("openssl: {name}"),
                address,
                known: None,
                segments: 1,
            })
        })
        .collect()
}

/// The client that this program has itself, its hello cut in every way.
fn by_rustls(
    ground: &Ground,
    server: SocketAddr,
    ports: &mut RangeFrom<u16>,
    certificate: &Certificate,
) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for (version, versions) in [
        ("TLS 1.3", &[&rustls::version::TLS13]),
        ("TLS 1.2", &[&rustls::version::TLS12]),
    ] {
        let mut config = certificate.client(versions)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        for (port, cut) in ports.by_ref().zip(CUTS) {
            let (address, segments) = ground
                .client
                .run(|| one_by_rustls(server, port, config.clone(), *cut))?
                .with_context(|| format!("rustls, {version}, {}", cut.name))?;
            clients.push(Client {
                name: format!("rustls: {version}, {}", cut.name),
                address,
                known: None,
                segments,
            });
        }
    }
    Ok(clients)
}

fn one_by_rustls(
    server: SocketAddr,
    port: u16,
    config: Arc<ClientConfig>,
    cut: Cut,
) -> anyhow::Result<(SocketAddr, usize)> {
    let stream = client::connect_from(Some(port), server, None)?;
    let address = stream.local_addr()?;
    let mut connection = ClientConnection::new(config, ServerName::try_from(NAME)?)?;
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello)?;
    }
    let segments = send(&stream, &hello, cut)?;
    let mut stream = stream;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    Ok((address, segments))
}

/// A recorded hello, cut in every way. There is nobody to go on with the handshake.
fn by_vector(
    ground: &Ground,
    server: SocketAddr,
    ports: &mut RangeFrom<u16>,
    at: usize,
    vector: &Vector,
) -> anyhow::Result<Vec<Client>> {
    let hello =
        from_hex(&vector.client_hello).with_context(|| format!("vector {}: not hex", at + 1))?;
    CUTS.iter()
        .map(|cut| {
            let name = format!("vector {}: {}", at + 1, cut.name);
            Ok(Client {
                known: Some(vector.ja4.clone()),
                ..by_hello(ground, server, ports, name, &hello, *cut)?
            })
        })
        .collect()
}

/// A hello that nobody goes on with.
fn by_hello(
    ground: &Ground,
    server: SocketAddr,
    ports: &mut RangeFrom<u16>,
    name: String,
    hello: &[u8],
    cut: Cut,
) -> anyhow::Result<Client> {
    let port = ports.next().context("no ports left")?;
    let sent = ground.client.run(|| -> anyhow::Result<_> {
        let mut stream = client::connect_from(Some(port), server, None)?;
        let address = stream.local_addr()?;
        let segments = send(&stream, hello, cut)?;
        // The server's part of the handshake, or its alert: it has read the hello.
        let got = stream.read(&mut [0; 16 * 1024])?;
        ensure!(got > 0, "the server said nothing");
        stream.shutdown(Shutdown::Write)?;
        Ok((address, segments))
    })?;
    let (address, segments) = sent.with_context(|| name.clone())?;
    Ok(Client {
        name,
        address,
        known: None,
        segments,
    })
}

/// Sends one TLS record cut into several, in several segments, and returns how many at least.
fn send(mut stream: &TcpStream, record: &[u8], cut: Cut) -> anyhow::Result<usize> {
    const HEADER_BYTES: usize = 5;
    let (header, body) = record
        .split_at_checked(HEADER_BYTES)
        .context("too short for a TLS record")?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    ensure!(length == body.len(), "not one TLS record");
    let mut bytes = Vec::new();
    let record_bytes = if cut.record_bytes == 0 {
        body.len()
    } else {
        cut.record_bytes
    };
    for part in body.chunks(record_bytes) {
        bytes.extend_from_slice(&header[..3]);
        bytes.extend_from_slice(&u16::try_from(part.len())?.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    if cut.segment_bytes == 0 {
        stream.write_all(&bytes)?;
        return Ok(1);
    }
    let pieces = bytes.chunks(cut.segment_bytes);
    let count = pieces.len();
    for piece in pieces {
        stream.write_all(piece)?;
        thread::sleep(BETWEEN_PIECES);
    }
    // On a busy machine some wait for the one before and leave with it.
    Ok(count / 2)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, odd) = digits.as_chunks::<2>();
    odd.is_empty().then(|| {
        pairs
            .iter()
            .map(|[high, low]| (high << 4 | low) as u8)
            .collect()
    })
}

/// Has Chromium fetch a page; or says why it is not there.
fn by_chromium(
    ground: &Ground,
    server: SocketAddr,
    directory: &Path,
) -> anyhow::Result<Result<(), String>> {
    if Command::new("chromium").arg("--version").output().is_err() {
        return Ok(Err("not installed".to_owned()));
    }
    let home = directory.join("chromium");
    fs::create_dir(&home)?;
    let output = ground
        .client
        .command("timeout")
        // A group of its own, so that nothing of it stays.
        .args(["-k", "5", "90", "chromium"])
        .args(CHROMIUM)
        .arg(format!("--user-data-dir={}", home.display()))
        .arg(format!("--host-resolver-rules=MAP {NAME} {}", server.ip()))
        .arg("--dump-dom")
        .arg(format!("https://{NAME}:{}/bytes/10", server.port()))
        .env("HOME", &home)
        .output()
        .context("cannot run chromium")?;
    let page = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && page.contains("<body>"),
        "Chromium did not get its page: {page}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Ok(()))
}

fn own_address(ground: &Ground, server: SocketAddr) -> anyhow::Result<std::net::IpAddr> {
    let own = ground.client.run(|| -> io::Result<_> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        Ok(socket.local_addr()?.ip())
    })??;
    Ok(own)
}

/// How many segments with payload each client sent before the server sent any.
fn first_flights(file: &Path, server: SocketAddr) -> anyhow::Result<HashMap<SocketAddr, usize>> {
    let output = Command::new("tshark")
        .arg("-r")
        .arg(file)
        .args(["-Y", "tcp.len > 0", "-T", "fields"])
        .args(["-e", "ip.src", "-e", "tcp.srcport"])
        .args(["-e", "ip.dst", "-e", "tcp.dstport"])
        .output()
        .context("cannot run tshark")?;
    let mut flights: HashMap<SocketAddr, (usize, bool)> = HashMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let [from, from_port, to, to_port] = cells[..] else {
            bail!("tshark said: {line}");
        };
        let from = SocketAddr::new(from.parse()?, from_port.parse()?);
        let to = SocketAddr::new(to.parse()?, to_port.parse()?);
        if to == server {
            let (segments, over) = flights.entry(from).or_default();
            *segments += usize::from(!*over);
        } else if from == server {
            flights.entry(to).or_default().1 = true;
        }
    }
    Ok(flights
        .into_iter()
        .map(|(client, (segments, _))| (client, segments))
        .collect())
}

/// Waits for every record.
fn collect(
    clients: &[Client],
    gateway: &Gateway,
    seen: &HashMap<SocketAddr, String>,
) -> anyhow::Result<Vec<Finding>> {
    gateway.wait_rest(PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    let mut recorded = recorded(gateway)?;
    while Instant::now() < deadline
        && clients
            .iter()
            .any(|client| !recorded.contains_key(&client.address))
    {
        thread::sleep(Duration::from_millis(200));
        recorded = self::recorded(gateway)?;
    }
    Ok(clients
        .iter()
        .map(|client| {
            let all = recorded.get(&client.address).map_or(&[][..], Vec::as_slice);
            let many = client.name.starts_with(CHROMIUM_NAME);
            let recorded = match all {
                [] => None,
                // A page may have brought others with it.
                [first, rest @ ..] if many && rest.iter().all(|other| other == first) => {
                    Some(first.clone())
                }
                [only] => Some(only.clone()),
                several => Some(several.join(" and ")),
            };
            Finding {
                client: client.name.clone(),
                expected: client
                    .known
                    .clone()
                    .or_else(|| seen.get(&client.address).cloned()),
                recorded,
                note: None,
            }
        })
        .collect())
}

/// The fingerprints in the records of each client, one for each record.
fn recorded(gateway: &Gateway) -> anyhow::Result<HashMap<SocketAddr, Vec<String>>> {
    let mut found: HashMap<SocketAddr, Vec<String>> = HashMap::new();
    for record in &Records::read(gateway.records())?.records {
        let (Some(address), Some(port)) = (
            record.text("network.peer.address"),
            record.number("network.peer.port"),
        ) else {
            continue;
        };
        let client = SocketAddr::new(address.parse()?, u16::try_from(port)?);
        let ja4 = record.text("tls.client.ja4").unwrap_or("none");
        found.entry(client).or_default().push(ja4.to_owned());
    }
    Ok(found)
}

/// Why there is nothing to compare with here, if so. Chromium may be missing.
pub fn missing() -> Option<String> {
    ["curl", "openssl", "tcpdump", "tshark", "timeout"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err())
        .map(|program| format!("{program} is not installed"))
}
