//! `loadtest delays`: a known delay at one place, and the question where the record puts it.
//!
//! Between three hosts of a [`lab`](crate::lab), calls go through calltap in pairs, one calm and one
//! with a delay injected. What the delayed calls took longer *by the client's own clock* is what was
//! injected; at least [`RIGHT_SHARE_MIN`] of it must be in the right part of the record's time, and
//! no more than [`OTHER_SHARE_MAX`] in any other. Medians over several pairs, no absolute times.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde::Serialize;

use crate::backend::{Backend, Transport};
use crate::certificate::{Certificate, NAME};
use crate::client;
use crate::gateway::{Gateway, Setup};
use crate::lab::{self, Lab};
use crate::raw_client::{self, RawClient};
use crate::records::{Record, Records};
use crate::table;
use crate::wire::{Wire, fill_pattern};

/// What is injected, where it can be chosen.
pub const INJECTED: Duration = Duration::from_millis(300);
/// At least this share of the injected time must be in the right part.
pub const RIGHT_SHARE_MIN: f64 = 0.90;
/// At most this share may be in any other.
pub const OTHER_SHARE_MAX: f64 = 0.02;
/// Pairs of a calm and a delayed call whose medians are compared.
pub const PAIRS: usize = 5;

/// Longer than any delay: the gateway must not re-send what is merely acknowledged late.
const NO_RESEND_MS: u32 = 1_000;
/// The receive buffer of a slow reader; the kernel doubles it.
const SLOW_BUFFER_BYTES: usize = 64 * 1024;
/// More than a client that does not read and the gateway's socket can hold, and still little enough
/// to be through in a moment when the client reads.
const LARGE_BYTES: u64 = 1_500_000;
/// More than the client's buffer, but no more than the gateway's socket takes at once.
const BUFFERED_BYTES: u64 = 250_000;
/// A record that is not there by then never comes; longer than a call may settle.
const RECORDS_MAX: Duration = Duration::from_secs(40);

/// Where a delay is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The client sends its body in drops.
    TrickledBody,
    /// The gateway is stopped when the request arrives.
    StoppedGateway,
    /// The SYN to the upstream is lost.
    LostSyn,
    /// The upstream takes its time before it answers the ClientHello.
    SlowTls,
    /// The upstream takes its time before it answers the request.
    SleepingBackend,
    /// The request is lost on its way to the upstream.
    LostRequest,
    /// The client does not read a response larger than every buffer.
    SlowReader,
    /// The client does not read a response that the gateway could hand over whole.
    SlowReaderBuffered,
    /// The client has the response and is slow to say so.
    DelayedAck,
}

impl Place {
    /// All of them.
    pub const ALL: [Place; 9] = [
        Place::TrickledBody,
        Place::StoppedGateway,
        Place::LostSyn,
        Place::SlowTls,
        Place::SleepingBackend,
        Place::LostRequest,
        Place::SlowReader,
        Place::SlowReaderBuffered,
        Place::DelayedAck,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Place::TrickledBody => "trickled request body",
            Place::StoppedGateway => "SIGSTOP of the gateway",
            Place::LostSyn => "dropped SYN to the upstream",
            Place::SlowTls => "slow TLS upstream",
            Place::SleepingBackend => "sleeping backend",
            Place::LostRequest => "loss on the upstream's leg",
            Place::SlowReader => "slow reader, large response",
            Place::SlowReaderBuffered => "slow reader, response within buffers",
            Place::DelayedAck => "delayed ACK of the client",
        }
    }

    /// The part of the time it belongs to.
    pub fn part(self) -> &'static str {
        match self {
            Place::TrickledBody => "client_send",
            Place::StoppedGateway => "kernel_wait",
            Place::LostSyn => "connect",
            Place::SlowTls => "upstream_tls",
            Place::SleepingBackend => "upstream_server",
            Place::LostRequest => "upstream_network",
            Place::SlowReader | Place::SlowReaderBuffered => "delivery",
            Place::DelayedAck => "delayed_ack",
        }
    }
}

/// Where one delay was found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Where it was injected.
    pub place: &'static str,
    /// The part it belongs to.
    pub part: &'static str,
    /// What the client's clock says was injected, µs.
    pub injected_us: i64,
    /// What the delayed calls' parts exceed the calm calls' by, µs, medians.
    pub excess_us: BTreeMap<String, i64>,
}

impl Found {
    /// The share of the injected time in the right part.
    pub fn right_share(&self) -> f64 {
        self.share(self.part)
    }

    /// The other part with the largest share, and that share.
    pub fn worst_other(&self) -> (&str, f64) {
        self.excess_us
            .keys()
            .filter(|part| *part != self.part)
            .map(|part| (part.as_str(), self.share(part)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or(("none", 0.0))
    }

    /// Whether the delay is where it belongs and nowhere else.
    pub fn held(&self) -> bool {
        self.right_share() >= RIGHT_SHARE_MIN && self.worst_other().1 <= OTHER_SHARE_MAX
    }

    fn share(&self, part: &str) -> f64 {
        let excess = self.excess_us.get(part).copied().unwrap_or(0);
        excess as f64 / self.injected_us.max(1) as f64
    }
}

/// Injects a delay at each of `places` and says where it was found.
pub fn matrix(calltap: &Path, places: &[Place]) -> anyhow::Result<Vec<Found>> {
    places
        .iter()
        .map(|place| measure(calltap, *place).with_context(|| place.name().to_owned()))
        .collect()
}

/// The matrix as a table.
pub fn render(matrix: &[Found]) -> String {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let rows: Vec<Vec<String>> = matrix
        .iter()
        .map(|found| {
            let (other, share) = found.worst_other();
            vec![
                found.place.to_owned(),
                format!("{:.1} ms", found.injected_us as f64 / 1000.0),
                found.part.to_owned(),
                percent(found.right_share()),
                format!("{other} {}", percent(share)),
                if found.held() { "" } else { "MISS" }.to_owned(),
            ]
        })
        .collect();
    table::markdown(
        &[
            "delay",
            "injected",
            "belongs to",
            "found there",
            "most elsewhere",
            "",
        ],
        &rows,
    )
}

/// One call: its id and how long it took by the clock that witnesses the injection.
struct Sample {
    id: String,
    took: Duration,
}

/// Makes one call of a scenario under an id, delayed or not.
type Player<'a> = Box<dyn FnMut(&str, bool) -> anyhow::Result<Sample> + 'a>;

/// What every scenario has at hand.
struct Scene {
    /// First, so that the process ends before its network goes.
    gateway: Gateway,
    lab: Lab,
    backend: SocketAddr,
    tls_pause_ms: Arc<AtomicU64>,
    _backend: Backend,
    _certificate: Option<Certificate>,
}

fn measure(calltap: &Path, place: Place) -> anyhow::Result<Found> {
    let scene = Scene::build(calltap, place)?;
    // The first call warms pools, caches and the code itself; it is not measured.
    let mut play = scene.player(place)?;
    play("warm-up", false)?;
    let (mut calm, mut delayed) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        calm.push(play(&format!("calm-{pair}"), false)?);
        delayed.push(play(&format!("delayed-{pair}"), true)?);
    }
    drop(play);
    let samples = calm.iter().chain(&delayed).map(|sample| sample.id.as_str());
    let records = scene.records(&samples.collect())?;

    let took =
        |samples: &[Sample]| median(samples.iter().map(|sample| as_us(sample.took)).collect());
    let parts = |samples: &[Sample], part: &str| {
        let of = |sample: &Sample| records[&sample.id].part_us(part).cast_signed();
        median(samples.iter().map(of).collect())
    };
    let names: BTreeSet<String> = records
        .values()
        .flat_map(|record| record.parts_us().map(|(part, _)| part.to_owned()))
        .chain([place.part().to_owned()])
        .collect();
    let excess = names.into_iter().map(|part| {
        let excess = parts(&delayed, &part) - parts(&calm, &part);
        (part, excess)
    });
    Ok(Found {
        place: place.name(),
        part: place.part(),
        injected_us: took(&delayed) - took(&calm),
        excess_us: excess.collect(),
    })
}

impl Scene {
    fn build(calltap: &Path, place: Place) -> anyhow::Result<Self> {
        let lab = Lab::build()?;
        match place {
            Place::LostRequest => {
                let ms = u32::try_from(INJECTED.as_millis())?;
                lab.set_rto_min(lab::UPSTREAM, ms)?;
            }
            Place::DelayedAck => {
                lab.set_rto_min(lab::CLIENT, NO_RESEND_MS)?;
                raw_client::quiet_kernel(&lab.client)?;
            }
            _ => (),
        }
        let listener = lab
            .upstream
            .run(|| TcpListener::bind((lab::UPSTREAM, 0)))??;
        let tls_pause_ms = Arc::new(AtomicU64::new(0));
        let (transport, certificate) = match place {
            Place::SlowTls => {
                let certificate = Certificate::new()?;
                let config = Arc::new(certificate.server(rustls::ALL_VERSIONS)?);
                let pause_ms = tls_pause_ms.clone();
                let pause =
                    Arc::new(move || Duration::from_millis(pause_ms.load(Ordering::Relaxed)));
                (Transport::Tls { config, pause }, Some(certificate))
            }
            _ => (Transport::Plain, None),
        };
        let backend = Backend::serve(listener, transport)?;
        let address = backend.address();
        let authority = |certificate: &Certificate| (certificate.authority(), NAME.to_owned());
        let gateway = Gateway::start(&Setup {
            tap: "ebpf",
            address: lab::GATEWAY,
            backend_tls: certificate.as_ref().map(authority),
            plain_routes: true,
            wrapper: lab.gateway.wrapper(),
            admin_namespace: Some(lab.gateway.clone()),
            ..Setup::new(calltap, address)
        })?;
        Ok(Self {
            lab,
            gateway,
            backend: address,
            tls_pause_ms,
            _backend: backend,
            _certificate: certificate,
        })
    }

    /// How one call of a scenario is made, calm or delayed. Each has a client connection of its own:
    /// on a fresh one the client's kernel acknowledges at once, on an older one it delays some ACKs,
    /// which nobody injected.
    fn player<'a>(&'a self, place: Place) -> anyhow::Result<Player<'a>> {
        let port = self.backend.port();
        Ok(match place {
            Place::TrickledBody => Box::new(move |id, delayed| {
                let mut wire = self.connect(None)?;
                let pieces = 6_u32;
                let pause = INJECTED / pieces;
                timed(id, || {
                    let length = format!("Content-Length: {pieces}\r\n");
                    wire.write(request("POST", "/echo", id, &length).as_bytes())?;
                    for piece in 0..pieces {
                        thread::sleep(if delayed { pause } else { Duration::ZERO });
                        let mut byte = [0];
                        fill_pattern(piece.into(), &mut byte);
                        wire.write(&byte)?;
                    }
                    finish(&mut wire)
                })
            }),
            Place::StoppedGateway => {
                Box::new(move |id, delayed| {
                    let mut wire = self.connect(None)?;
                    if delayed {
                        self.gateway.signal(Signal::STOP)?;
                    }
                    let sample = timed(id, || {
                        wire.write(request("GET", "/bytes/100", id, "").as_bytes())?;
                        if delayed {
                            thread::sleep(INJECTED);
                            self.gateway.signal(Signal::CONT)?;
                        }
                        finish(&mut wire)
                    });
                    // Also after a failure: a stopped process cannot be ended politely.
                    self.gateway.signal(Signal::CONT)?;
                    sample
                })
            }
            Place::LostSyn => Box::new(move |id, delayed| {
                let mut wire = self.connect(None)?;
                let rule = "tcp flags & (syn | ack) == syn";
                let _loss = delayed
                    .then(|| Loss::once(&self.lab, port, rule))
                    .transpose()?;
                get(&mut wire, "/bytes/100?close=1", id)
            }),
            Place::SlowTls => Box::new(move |id, delayed| {
                let mut wire = self.connect(None)?;
                let pause = if delayed { INJECTED } else { Duration::ZERO };
                let ms = u64::try_from(pause.as_millis())?;
                self.tls_pause_ms.store(ms, Ordering::Relaxed);
                get(&mut wire, "/bytes/100?close=1", id)
            }),
            Place::SleepingBackend => Box::new(move |id, delayed| {
                let mut wire = self.connect(None)?;
                let ms = if delayed { INJECTED.as_millis() } else { 0 };
                get(&mut wire, &format!("/bytes/100?delay_ms={ms}"), id)
            }),
            Place::LostRequest => Box::new(move |id, delayed| {
                let mut wire = self.connect(None)?;
                let rule = "tcp flags & psh == psh";
                let _loss = delayed
                    .then(|| Loss::once(&self.lab, port, rule))
                    .transpose()?;
                get(&mut wire, "/bytes/100", id)
            }),
            Place::SlowReader => self.slow_reader(LARGE_BYTES),
            Place::SlowReaderBuffered => self.slow_reader(BUFFERED_BYTES),
            Place::DelayedAck => {
                let local = SocketAddr::new(lab::CLIENT, 61_000);
                let plain = self.gateway.plain();
                let mut client = self.lab.client.run(|| RawClient::connect(local, plain))??;
                Box::new(move |id, delayed| {
                    let delay = if delayed { INJECTED } else { Duration::ZERO };
                    let request = request("GET", "/status/200", id, "");
                    let took = client.call(request.as_bytes(), b"as asked\n", delay)?;
                    Ok(Sample {
                        id: id.to_owned(),
                        took,
                    })
                })
            }
        })
    }

    fn slow_reader<'a>(&'a self, bytes: u64) -> Player<'a> {
        Box::new(move |id, delayed| {
            let mut wire = self.connect(Some(SLOW_BUFFER_BYTES))?;
            timed(id, || {
                wire.write(request("GET", &format!("/bytes/{bytes}"), id, "").as_bytes())?;
                thread::sleep(if delayed { INJECTED } else { Duration::ZERO });
                finish(&mut wire)
            })
        })
    }

    fn connect(&self, buffer_bytes: Option<usize>) -> anyhow::Result<Wire<TcpStream>> {
        let plain = self.gateway.plain();
        let stream = self
            .lab
            .client
            .run(|| client::connect(plain, buffer_bytes))??;
        Ok(Wire::new(stream))
    }

    /// The records of these calls, as soon as all are there.
    fn records(&self, ids: &Vec<&str>) -> anyhow::Result<BTreeMap<String, Record>> {
        let deadline = Instant::now() + RECORDS_MAX;
        loop {
            let read = Records::read(self.gateway.records()).unwrap_or_default();
            let found: BTreeMap<String, Record> = read
                .records
                .into_iter()
                .filter_map(|record| Some((record.call_id()?.to_owned(), record)))
                .collect();
            let missing: Vec<_> = ids.iter().filter(|id| !found.contains_key(**id)).collect();
            if missing.is_empty() {
                for id in ids {
                    let record = &found[*id];
                    ensure!(
                        record.number("delivered_us").is_some(),
                        "the record of {id} does not know when it was delivered: {}",
                        record.json()
                    );
                }
                return Ok(found);
            }
            ensure!(
                Instant::now() < deadline,
                "no record of {missing:?} within {} s; calltap said:\n{}",
                RECORDS_MAX.as_secs(),
                self.gateway.stderr()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Drops the first packet to the upstream that fits, and no other.
struct Loss<'a>(&'a Lab);

impl<'a> Loss<'a> {
    fn once(lab: &'a Lab, port: u16, fits: &str) -> anyhow::Result<Self> {
        lab.upstream.nft(&format!(
            "table inet loss {{ chain in {{ type filter hook prerouting priority -300; \
             tcp dport {port} {fits} limit rate 1/day burst 1 packets drop; }}; }}"
        ))?;
        Ok(Self(lab))
    }
}

impl Drop for Loss<'_> {
    fn drop(&mut self) {
        // Should it fail, the table goes with its namespace.
        let _ = self.0.upstream.nft("delete table inet loss");
    }
}

fn get(wire: &mut Wire<TcpStream>, target: &str, id: &str) -> anyhow::Result<Sample> {
    timed(id, || {
        wire.write(request("GET", target, id, "").as_bytes())?;
        finish(wire)
    })
}

fn timed(id: &str, call: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Sample> {
    let begun = Instant::now();
    call().with_context(|| format!("the call {id}"))?;
    Ok(Sample {
        id: id.to_owned(),
        took: begun.elapsed(),
    })
}

fn request(method: &str, target: &str, id: &str, headers: &str) -> String {
    let joint = if target.contains('?') { '&' } else { '?' };
    format!(
        "{method} {target}{joint}call={id} HTTP/1.1\r\nHost: lab\r\nX-Request-ID: {id}\r\n{headers}\r\n"
    )
}

fn finish(wire: &mut Wire<TcpStream>) -> anyhow::Result<()> {
    let head = wire
        .read_response()?
        .context("the gateway closed without an answer")?;
    let body = wire.read_body(head.body_length("GET"), |_| ControlFlow::Continue(()))?;
    ensure!(
        head.status == 200 && body.complete,
        "answered {}, {body:?}",
        head.status
    );
    Ok(())
}

fn median(mut values: Vec<i64>) -> i64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn as_us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(right: i64, other: i64) -> Found {
        Found {
            place: "here",
            part: "connect",
            injected_us: 300_000,
            excess_us: BTreeMap::from([
                ("connect".to_owned(), right),
                ("gateway".to_owned(), other),
                ("delivery".to_owned(), -9_000),
            ]),
        }
    }

    #[test]
    fn shares_at_their_bounds_hold_and_beyond_them_do_not() {
        assert!(found(270_000, 6_000).held());
        assert!(!found(269_000, 6_000).held());
        assert!(!found(270_000, 6_100).held());
        assert_eq!(found(270_000, 6_100).worst_other().0, "gateway");
    }
}
