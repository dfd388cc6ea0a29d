//! `loadtest abort`: calls that do not end well, one at a time, with a capture of each.
//!
//! An ending is a script: what the client, the upstream and the network do, step by step, between
//! hosts of a [`lab`](crate::lab) of its own. What is left is the record and two captures, one of
//! each side of the gateway, from which [`wire`] reads anew what the record claims. [`judge`] holds
//! one against the other; [`show`] prints both side by side, as `docs/aborts.md` has them.

mod judge;
mod scripts;
mod show;
pub mod wire;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use rustix::net::sockopt;
use rustix::process::Signal;

use crate::cleanup::Scratch;
use crate::client;
use crate::gateway::{Gateway, Setup};
use crate::lab::{self, Lab, Namespace};
use crate::records::{Record, Records};
use crate::truth::capture::Capture;

pub use judge::judge;
pub use scripts::{ENDINGS, Ending};
pub use show::show;
use wire::Connection;

/// What can be waited for is shorter than by default, so that an ending takes seconds: a client that
/// stalls, an upstream that is silent, acknowledgements, the end of open calls. One route has a
/// limit of its own.
const KEYS: [(&str, &str, &str); 8] = [
    ("limits", "client_stall_ms", "1500"),
    ("limits", "upstream_read_ms", "1000"),
    ("settle", "max_s", "4"),
    ("shutdown", "grace_s", "0"),
    // One more in the list of routes.
    ("[routes]", "name", "\"limited\""),
    ("[routes]", "path", "\"/limited\""),
    ("[routes]", "upstream", "\"backend\""),
    ("[routes]", "timeout_ms", "700"),
];
/// A record that is not there by then never comes.
const RECORD_MAX: Duration = Duration::from_secs(20);
/// Headers, and the head of a response.
const SNAP: u32 = 2_000;
/// What a script waits for happens within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is left of a call that did not end well.
pub struct Played {
    /// Which it was.
    pub ending: &'static Ending,
    /// Its record.
    pub record: Record,
    /// The client's connection, seen from the gateway.
    pub front: Connection,
    /// The upstream's, where there was one.
    pub back: Option<Connection>,
    /// Where the call's response begins in what the gateway sent on the connection.
    pub start: u64,
    /// Retransmission timeouts that the gateway's host had counted before and after its record came;
    /// they go on after it.
    pub timeouts: (u64, u64),
    /// When the record was there, µs since the epoch.
    pub recorded_us: u64,
    /// The captures.
    pub files: [PathBuf; 2],
    _directory: Scratch,
}

/// Plays one ending.
pub fn play(calltap: &Path, ending: &'static Ending) -> anyhow::Result<Played> {
    let lab = Lab::build()?;
    for (host, cable) in [
        (&lab.client, "front"),
        (&lab.gateway, "front"),
        (&lab.gateway, "back"),
        (&lab.upstream, "back"),
    ] {
        host.no_offloads(cable)?;
    }
    let upstream = lab
        .upstream
        .run(|| TcpListener::bind((lab::UPSTREAM, 0)))??;
    upstream.set_nonblocking(true)?;
    let gateway = Gateway::start(&Setup {
        tap: "ebpf",
        address: lab::GATEWAY,
        plain_routes: true,
        wrapper: lab.gateway.wrapper(),
        admin_namespace: Some(lab.gateway.clone()),
        keys: KEYS
            .map(|(table, key, value)| (table, key, value.to_owned()))
            .to_vec(),
        ..Setup::new(calltap, upstream.local_addr()?)
    })?;
    let directory = Scratch::new("calltap-abort-")?;
    let files = ["front.pcap", "back.pcap"].map(|name| directory.path().join(name));
    let captures = [
        Capture::start_small(&lab.gateway, "front", &files[0], SNAP)?,
        Capture::start_small(&lab.gateway, "back", &files[1], SNAP)?,
    ];

    let mut stage = Stage {
        lab: &lab,
        gateway: &gateway,
        upstream,
        client: None,
        client_address: None,
        server: None,
        start: 0,
    };
    (ending.script)(&mut stage).with_context(|| format!("playing {}", ending.name))?;
    let before = timeouts(&lab.gateway)?;
    let record = record(&gateway)?;
    let recorded_us = wall_us();
    let start = stage.start;
    let client = stage.client_address.context("the script has no client")?;
    drop(stage);
    let after = timeouts(&lab.gateway)?;
    // What the connections have left to say is said at once.
    thread::sleep(Duration::from_millis(200));
    for capture in captures {
        let lost = capture.stop()?;
        ensure!(lost == 0, "the capture lost {lost} packets");
    }

    let front = Connection::of(&wire::read(&files[0])?, gateway.plain(), client)?;
    let port = record.number("upstream.local_port");
    let back = port
        .map(|port| -> anyhow::Result<Connection> {
            let own = SocketAddr::new(lab::GATEWAY_BACK, u16::try_from(port)?);
            let packets = wire::read(&files[1])?;
            let peer = packets
                .iter()
                .find(|packet| packet.from == own)
                .context("the upstream's connection was not captured")?
                .to;
            Connection::of(&packets, own, peer)
        })
        .transpose()?;
    Ok(Played {
        ending,
        record,
        front,
        back,
        start,
        timeouts: (before, after),
        recorded_us,
        files,
        _directory: directory,
    })
}

/// The one record of a call that did not end well; others on its connection did.
fn record(gateway: &Gateway) -> anyhow::Result<Record> {
    let deadline = Instant::now() + RECORD_MAX;
    loop {
        let records = Records::read(gateway.records()).unwrap_or_default().records;
        let mut calls = records
            .into_iter()
            .filter(|record| record.kind() == "call" && record.text("url.path") != Some("/before"));
        if let Some(record) = calls.next() {
            ensure!(calls.next().is_none(), "more than one record of the call");
            return Ok(record);
        }
        ensure!(
            Instant::now() < deadline,
            "no record of the call:\n{}{}",
            gateway.stderr(),
            std::fs::read_to_string(gateway.records()).unwrap_or_default()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Retransmission timeouts that a host counted since it was made.
fn timeouts(host: &Namespace) -> anyhow::Result<u64> {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().context("no TcpExt in netstat")?;
    let values = lines.next().context("no TcpExt in netstat")?;
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "TCPTimeouts")
        .and_then(|(_, value)| value.parse().ok())
        .context("no TCPTimeouts in netstat")
}

fn wall_us() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Where a script is played: one client and one upstream connection at a time, and the network
/// between them.
pub struct Stage<'a> {
    lab: &'a Lab,
    gateway: &'a Gateway,
    upstream: TcpListener,
    client: Option<TcpStream>,
    client_address: Option<SocketAddr>,
    server: Option<TcpStream>,
    start: u64,
}

impl Stage<'_> {
    /// The client connects, with a receive buffer of its choice, and sends a request.
    fn ask(&mut self, path: &str, buffer_bytes: Option<usize>) -> anyhow::Result<()> {
        self.connect(buffer_bytes)?;
        self.ask_again(path)
    }

    fn connect(&mut self, buffer_bytes: Option<usize>) -> anyhow::Result<()> {
        let plain = self.gateway.plain();
        let client = self
            .lab
            .client
            .run(|| client::connect(plain, buffer_bytes))??;
        client.set_read_timeout(Some(PATIENCE))?;
        self.client_address = Some(client.local_addr()?);
        self.client = Some(client);
        Ok(())
    }

    /// The client sends another request on its connection.
    fn ask_again(&mut self, path: &str) -> anyhow::Result<()> {
        self.ask_with(path, "")
    }

    /// The same, with lines of its own in the head.
    fn ask_with(&mut self, path: &str, lines: &str) -> anyhow::Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n{lines}\r\n");
        self.client_says(request.as_bytes())
    }

    /// The client sends these bytes.
    fn client_says(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.client()?.write_all(bytes)?)
    }

    /// The upstream sends these bytes.
    fn upstream_says(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.server()?.write_all(bytes)?)
    }

    /// The upstream has the request.
    fn asked(&mut self) -> anyhow::Result<()> {
        if self.server.is_none() {
            let deadline = Instant::now() + PATIENCE;
            let server = loop {
                match self.upstream.accept() {
                    Ok((server, _)) => break server,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        ensure!(Instant::now() < deadline, "the upstream was not asked");
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            server.set_nonblocking(false)?;
            server.set_read_timeout(Some(PATIENCE))?;
            server.set_nodelay(true)?;
            self.server = Some(server);
        }
        let server = self.server.as_mut().context("accepted above")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            server.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok(())
    }

    /// The upstream's head, and the first `bytes` of a body that is `length` long.
    fn answer(&mut self, length: usize, bytes: usize) -> anyhow::Result<()> {
        let head = scripts::upstream_head(length);
        let answer = [head.as_bytes(), &vec![b'.'; bytes]].concat();
        self.server()?.write_all(&answer)?;
        Ok(())
    }

    /// The upstream's head, and chunks of these sizes.
    fn answer_chunks(&mut self, sizes: &[usize]) -> anyhow::Result<()> {
        self.server()?
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for size in sizes {
            let chunk = [
                format!("{size:x}\r\n").as_bytes(),
                &vec![b'.'; *size],
                b"\r\n",
            ]
            .concat();
            self.server()?.write_all(&chunk)?;
            // One piece each, as a stream of events has them.
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The upstream sends until nobody takes any more for a moment, or all is sent.
    fn flood(&mut self, bytes: usize) -> anyhow::Result<()> {
        let server = self.server()?;
        server.set_write_timeout(Some(Duration::from_millis(100)))?;
        let piece = vec![b'.'; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            match server.write(&piece[..left.min(piece.len())]) {
                Ok(n) => left -= n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context(format!("{left} bytes were left")),
            }
        }
        Ok(())
    }

    /// The client reads the head and `bytes` of the body; how long the head was.
    fn read(&mut self, bytes: usize) -> anyhow::Result<u64> {
        let client = self.client()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        client.read_exact(&mut vec![0; bytes])?;
        Ok(head.len() as u64)
    }

    /// The client reads to the end of what comes; whatever ends it.
    fn drain(&mut self) -> anyhow::Result<()> {
        let client = self.client()?;
        client.set_read_timeout(Some(RECORD_MAX))?;
        let mut piece = vec![0; 64 * 1024];
        while let Ok(1..) = client.read(&mut piece) {}
        Ok(())
    }

    /// From now on nothing of the client's host arrives anywhere, and nothing at it.
    fn client_vanishes(&self) -> anyhow::Result<()> {
        silence(&self.lab.client)
    }

    /// The same of the upstream's host.
    fn upstream_vanishes(&self) -> anyhow::Result<()> {
        silence(&self.lab.upstream)
    }

    fn close_client(&mut self) -> anyhow::Result<()> {
        drop(self.client.take().context("no client")?);
        Ok(())
    }

    fn reset_client(&mut self) -> anyhow::Result<()> {
        let client = self.client.take().context("no client")?;
        sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
        Ok(())
    }

    fn close_upstream(&mut self) -> anyhow::Result<()> {
        drop(self.server.take().context("no upstream")?);
        Ok(())
    }

    fn reset_upstream(&mut self) -> anyhow::Result<()> {
        let server = self.server.take().context("no upstream")?;
        sockopt::set_socket_linger(&server, Some(Duration::ZERO))?;
        Ok(())
    }

    fn shut_down(&self) -> anyhow::Result<()> {
        self.gateway.signal(Signal::TERM)?;
        Ok(())
    }

    fn client(&mut self) -> anyhow::Result<&mut TcpStream> {
        self.client.as_mut().context("no client")
    }

    fn server(&mut self) -> anyhow::Result<&mut TcpStream> {
        self.server.as_mut().context("no upstream")
    }
}

fn silence(host: &Namespace) -> anyhow::Result<()> {
    host.nft(
        "table inet silence { chain in { type filter hook input priority 0; policy drop; }; \
         chain out { type filter hook output priority 0; policy drop; }; }",
    )
}

fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
