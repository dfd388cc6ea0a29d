//! `loadtest deny`: what a long deny-list costs those who are not on it, and what it spares them.
//!
//! Two questions, between hosts of a [`lab`](crate::lab). A list of [`NETWORKS`] networks is exchanged
//! again and again while permitted clients call: no call may fail, and no packet of theirs may be
//! dropped. And a flood from a host of its own takes most of the throughput from the permitted clients;
//! with its source on the list they must have it back.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde::Serialize;

use crate::backend::Backend;
use crate::cleanup::{Guard, Scratch};
use crate::compare::kernel;
use crate::compare::statistics::median;
use crate::gateway::{Gateway, Setup};
use crate::lab::{GATEWAY, Lab, Namespace, UPSTREAM};
use crate::table;
use crate::wire::Wire;

/// Networks on the list.
pub const NETWORKS: usize = 50_000;
/// With the flood's source on the list, permitted clients keep at least this much of their throughput.
pub const KEPT_MIN: f64 = 0.9;
/// Without it they have less than this, or it was no flood.
pub const FLOODED_MAX: f64 = 0.5;

/// Where the flood comes from, and the gateway's address there: outside what the tests trust.
const FLOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66));
const GATEWAY_SIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Permitted clients at a time.
const CLIENTS: usize = 4;
/// Every other client makes a new connection after so many calls, so that SYNs meet the exchange, too.
const CALLS_PER_CONNECTION: u32 = 10;
/// Connections of the flood that call as fast as they can.
const FLOOD_CONNECTIONS: u32 = 256;
/// Pause between two SYNs of the flood that never become a connection, µs.
const FLOOD_SYN_EVERY_US: u32 = 500;
/// The flood ends itself after this, whatever becomes of us.
const FLOOD_MAX_S: u32 = 600;
/// A flood, or a list, has its effect by then.
const SETTLE: Duration = Duration::from_millis(700);
/// How long the programs' run time is looked at.
const PROGRAMS_MEASURED: Duration = Duration::from_secs(2);
/// The flood's connections are made, or reset, by then.
const CONNECTED_MAX: Duration = Duration::from_secs(20);
/// A reload takes no longer.
const RELOAD_MAX: Duration = Duration::from_secs(20);
/// A call without an answer for this long has failed.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Of failed calls so many are told.
const FAILURES_TOLD_MAX: usize = 5;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Exchanges of the list under load.
    pub reloads: usize,
    /// Rounds of calm, flood, and flood denied.
    pub rounds: usize,
    /// How long each of those is measured.
    pub window: Duration,
}

/// What the permitted clients noticed of the list's exchanges.
#[derive(Clone, Debug, Serialize)]
pub struct Exchanged {
    /// Exchanges.
    pub reloads: usize,
    /// Networks on each list.
    pub networks: usize,
    /// Calls meanwhile.
    pub calls: u64,
    /// Connections they were made on.
    pub connections: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The first of those, in words.
    pub failures: Vec<String>,
    /// Packets that the kernel dropped, while only permitted clients sent any.
    pub dropped_packets: u64,
    /// From the signal until calltap said that it had reloaded, ms, the median.
    pub reload_ms: f64,
    /// The slowest call, its connection included, ms.
    pub slowest_ms: f64,
    /// What a list adds to a call of a permitted client in calltap's programs, ns.
    pub ns_per_call: f64,
}

/// One round: calls per second of the permitted clients.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Alone, before the flood and after it.
    pub calm: f64,
    /// Beside the flood.
    pub flooded: f64,
    /// Beside the flood, with its source on the list.
    pub denied: f64,
    /// Packets of the flood that were dropped meanwhile.
    pub dropped_packets: u64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// By exchanging lists.
    pub exchanged: Exchanged,
    /// By flooding.
    pub rounds: Vec<Round>,
}

impl Exchanged {
    /// Nobody noticed anything.
    pub fn held(&self) -> bool {
        self.failed == 0 && self.dropped_packets == 0 && self.calls > 0
    }
}

impl Found {
    /// The share of their throughput that permitted clients have beside the flood: without its source
    /// on the list, and with it. Medians of the rounds.
    pub fn shares(&self) -> (f64, f64) {
        let share = |of: fn(&Round) -> f64| {
            let shares = self.rounds.iter().map(|round| of(round) / round.calm);
            median(&shares.collect::<Vec<_>>())
        };
        (share(|round| round.flooded), share(|round| round.denied))
    }

    /// Both claims hold.
    pub fn held(&self) -> bool {
        let (flooded, denied) = self.shares();
        let dropped = self.rounds.iter().all(|round| round.dropped_packets > 0);
        self.exchanged.held() && flooded < FLOODED_MAX && denied >= KEPT_MIN && dropped
    }
}

/// What is missing for this here, if anything.
pub fn missing() -> Option<String> {
    ["wrk", "hping3"]
        .into_iter()
        .find(|program| {
            let found = std::process::Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            found.is_err()
        })
        .map(|program| format!("{program} is not installed"))
}

/// Asks both questions.
pub fn ask(calltap: &Path, effort: Effort) -> anyhow::Result<Found> {
    let stage = Stage::set(calltap)?;
    let exchanged = stage.exchange(effort.reloads)?;
    let mut rounds = Vec::new();
    for number in 1..=effort.rounds {
        let round = stage.round(effort.window)?;
        eprintln!(
            "round {number} of {}: {:.0} calls/s alone, {:.0} beside the flood, {:.0} with it denied",
            effort.rounds, round.calm, round.flooded, round.denied
        );
        rounds.push(round);
    }
    Ok(Found { exchanged, rounds })
}

/// In words.
pub fn render(found: &Found) -> String {
    let Exchanged {
        reloads,
        networks,
        calls,
        connections,
        failed,
        failures,
        dropped_packets,
        reload_ms,
        slowest_ms,
        ns_per_call,
    } = &found.exchanged;
    let said = |held: bool| if held { "reached" } else { "missed" }.to_owned();
    let (flooded, denied) = found.shares();
    let all = |of: fn(&Round) -> f64| {
        let values = found.rounds.iter().map(of);
        format!("{:.0}", median(&values.collect::<Vec<_>>()))
    };
    let rows = [
        vec![
            format!(
                "{networks} networks exchanged {reloads} times under load: failed of {calls} calls on {connections} connections"
            ),
            format!("{failed}"),
            said(*failed == 0 && *calls > 0),
        ],
        vec![
            "packets of permitted clients dropped".to_owned(),
            format!("{dropped_packets}"),
            said(*dropped_packets == 0),
        ],
        vec![
            "an exchange, ms".to_owned(),
            format!("{reload_ms:.0}"),
            String::new(),
        ],
        vec![
            "the slowest call, ms".to_owned(),
            format!("{slowest_ms:.0}"),
            String::new(),
        ],
        vec![
            "what the list adds to a permitted call in the kernel's programs, ns".to_owned(),
            format!("{ns_per_call:.0}"),
            String::new(),
        ],
        vec![
            "calls/s alone".to_owned(),
            all(|round| round.calm),
            String::new(),
        ],
        vec![
            "calls/s beside the flood".to_owned(),
            all(|round| round.flooded),
            String::new(),
        ],
        vec![
            "calls/s with its source on the list".to_owned(),
            all(|round| round.denied),
            String::new(),
        ],
        vec![
            format!("share beside the flood, < {FLOODED_MAX}"),
            format!("{flooded:.3}"),
            said(flooded < FLOODED_MAX),
        ],
        vec![
            format!("share with its source on the list, ≥ {KEPT_MIN}"),
            format!("{denied:.3}"),
            said(denied >= KEPT_MIN),
        ],
        vec![
            "packets of the flood dropped, each round".to_owned(),
            all(|round| round.dropped_packets as f64),
            said(found.rounds.iter().all(|round| round.dropped_packets > 0)),
        ],
    ];
    let mut text = table::markdown(&["", "", ""], &rows);
    for failure in failures {
        text += &format!("\nfailed: {failure}\n");
    }
    text
}

/// A running calltap between its hosts, with a list in a file.
struct Stage {
    gateway: Gateway,
    _backend: Backend,
    list: PathBuf,
    _directory: Scratch,
    flood: Namespace,
    lab: Lab,
}

impl Stage {
    fn set(calltap: &Path) -> anyhow::Result<Self> {
        let lab = Lab::build()?;
        let flood = Namespace::add("f")?;
        lab.cable(&flood, FLOOD, GATEWAY_SIDE, "flood")?;
        let backend = lab
            .upstream
            .run(|| Backend::start(SocketAddr::new(UPSTREAM, 0)))??;
        let directory = Scratch::new("calltap-deny-")?;
        let list = directory.path().join("blocked.txt");
        fs::write(&list, "")?;
        let lists = format!(
            "[{{ name = \"blocked\", file = \"{}\", then = \"deny\" }}]",
            list.display()
        );
        let gateway = Gateway::start(&Setup {
            tap: "ebpf",
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            plain_routes: true,
            records: "none".to_owned(),
            keys: vec![("policies", "lists", lists)],
            wrapper: lab.gateway.wrapper(),
            admin_namespace: Some(lab.gateway.clone()),
            ..Setup::new(calltap, backend.address())
        })?;
        Ok(Self {
            gateway,
            _backend: backend,
            list,
            _directory: directory,
            flood,
            lab,
        })
    }

    /// Exchanges lists while permitted clients call.
    fn exchange(&self, reloads: usize) -> anyhow::Result<Exchanged> {
        let before = self.dropped()?;
        let tally = Tally::default();
        let mut took_ms = Vec::new();
        let ns_per_call = self.under_load(&tally, || {
            let without = self.program_ns(&tally)?;
            for number in 0..reloads {
                // Now and then it denies everybody but those who call, so that one packet of theirs
                // that met half a list would be dropped and counted.
                let around = number % 2 == 1;
                let networks = networks(number as u32, NETWORKS - usize::from(around));
                let around = if around { "0.0.0.0/0\n" } else { "" };
                took_ms.push(self.reload(&format!("{around}{}", lines(&networks)))?);
                let denied = self.status("networks")?;
                ensure!(denied == NETWORKS as u64, "{denied} networks are denied");
                thread::sleep(Duration::from_millis(200));
            }
            Ok(self.program_ns(&tally)? - without)
        })?;
        let failures = tally.failures.into_inner();
        Ok(Exchanged {
            reloads,
            networks: NETWORKS,
            calls: tally.calls.into_inner(),
            connections: tally.connections.into_inner(),
            failed: tally.failed.into_inner(),
            failures: failures.unwrap_or_else(PoisonError::into_inner),
            dropped_packets: self.dropped()? - before,
            reload_ms: median(&took_ms),
            slowest_ms: tally.slowest_us.into_inner() as f64 / 1e3,
            ns_per_call,
        })
    }

    /// The run time of calltap's programs for a call, ns.
    fn program_ns(&self, tally: &Tally) -> anyhow::Result<f64> {
        let _measuring = kernel::measure_programs()?;
        let calls = || tally.calls.load(Ordering::Relaxed);
        let (first, before) = (kernel::run_times(self.gateway.pid())?, calls());
        thread::sleep(PROGRAMS_MEASURED);
        let (last, after) = (kernel::run_times(self.gateway.pid())?, calls());
        let programs = kernel::programs(&first, &last, (after - before).max(1));
        Ok(programs.iter().map(|program| program.ns_per_call).sum())
    }

    fn round(&self, window: Duration) -> anyhow::Result<Round> {
        let networks = lines(&networks(0, NETWORKS - 1));
        self.reload(&networks)?;
        let tally = Tally::default();
        let round = self.under_load(&tally, || {
            let measure = || {
                thread::sleep(SETTLE);
                let (before, began) = (tally.calls.load(Ordering::Relaxed), Instant::now());
                thread::sleep(window);
                let calls = tally.calls.load(Ordering::Relaxed) - before;
                calls as f64 / began.elapsed().as_secs_f64()
            };
            let calm_before = measure();
            let flood = self.flood()?;
            self.wait_connections(|open| open >= FLOOD_CONNECTIONS.into())?;
            let flooded = measure();
            let before = self.dropped()?;
            self.reload(&format!("{networks}{FLOOD}\n"))?;
            self.wait_connections(|open| open <= CLIENTS as u64)?;
            let denied = measure();
            let dropped_packets = self.dropped()? - before;
            drop(flood);
            // On both sides: a machine may be faster after a rest.
            let calm = (calm_before + measure()) / 2.0;
            Ok(Round {
                calm,
                flooded,
                denied,
                dropped_packets,
            })
        })?;
        let failed = tally.failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} calls of permitted clients failed");
        Ok(round)
    }

    /// Calls as fast as they can, on connections and without.
    fn flood(&self) -> anyhow::Result<Vec<Guard>> {
        let port = self.gateway.plain().port();
        let url = format!("http://{GATEWAY_SIDE}:{port}/bytes/100");
        let connections = FLOOD_CONNECTIONS.to_string();
        let last = format!("{FLOOD_MAX_S}s");
        let syns = format!("{}", FLOOD_MAX_S * 1_000_000 / FLOOD_SYN_EVERY_US);
        let every = format!("u{FLOOD_SYN_EVERY_US}");
        let calls = ["-t", "1", "-c", &connections, "-d", &last, &url];
        let target = GATEWAY_SIDE.to_string();
        let port = port.to_string();
        let half = ["-q", "-S", "-p", &port, "-i", &every, "-c", &syns, &target];
        [("wrk", calls.as_slice()), ("hping3", half.as_slice())]
            .into_iter()
            .map(|(program, arguments)| {
                let mut child = self
                    .flood
                    .command(program)
                    .args(arguments)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .with_context(|| format!("cannot run {program}"))?;
                Ok(Guard::new(move || {
                    let _ = child.kill();
                    let _ = child.wait();
                }))
            })
            .collect()
    }

    /// Writes the list and has it read; how long that took, ms.
    fn reload(&self, list: &str) -> anyhow::Result<f64> {
        fs::write(&self.list, list)?;
        let said = || self.gateway.stderr().matches(" reloaded").count();
        let (before, began) = (said(), Instant::now());
        self.gateway.signal(Signal::HUP)?;
        while said() == before {
            if began.elapsed() > RELOAD_MAX {
                bail!("calltap does not reload:\n{}", self.gateway.stderr());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    /// Waits until so many clients' connections are open.
    fn wait_connections(&self, enough: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + CONNECTED_MAX;
        loop {
            let status = self.gateway.status()?;
            let open = status["sockets"]["client_connections"].as_u64();
            let open = open.context("the status does not count connections")?;
            if enough(open) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{open} connections stay open");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn dropped(&self) -> anyhow::Result<u64> {
        self.status("packets")
    }

    fn status(&self, key: &str) -> anyhow::Result<u64> {
        let status = self.gateway.status()?;
        status["denied"][key]
            .as_u64()
            .with_context(|| format!("the status has no denied.{key}"))
    }

    /// Does something while permitted clients call.
    fn under_load<T>(
        &self,
        tally: &Tally,
        meanwhile: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let to = SocketAddr::new(GATEWAY, self.gateway.plain().port());
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (tally, stop, client) = (&*tally, &stop, &self.lab.client);
                scope.spawn(move || {
                    let calls_max = match number % 2 {
                        0 => u32::MAX,
                        _ => CALLS_PER_CONNECTION,
                    };
                    let entered = client.run(|| call_until(stop, to, calls_max, tally));
                    if let Err(error) = entered {
                        tally.fail(&error);
                    }
                });
            }
            let done = meanwhile();
            stop.store(true, Ordering::Relaxed);
            done
        })
    }
}

/// What permitted clients counted.
#[derive(Debug, Default)]
struct Tally {
    calls: AtomicU64,
    connections: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
    slowest_us: AtomicU64,
}

impl Tally {
    fn fail(&self, error: &io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < FAILURES_TOLD_MAX {
            failures.push(error.to_string());
        }
    }
}

fn call_until(stop: &AtomicBool, to: SocketAddr, calls_max: u32, tally: &Tally) {
    while !stop.load(Ordering::Relaxed) {
        let mut began = Instant::now();
        let connection = TcpStream::connect_timeout(&to, ANSWER_MAX).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            Ok(Wire::new(stream))
        });
        let mut wire = match connection {
            Ok(wire) => wire,
            Err(error) => {
                tally.fail(&error);
                continue;
            }
        };
        tally.connections.fetch_add(1, Ordering::Relaxed);
        for _ in 0..calls_max {
            if let Err(error) = call(&mut wire) {
                tally.fail(&error);
                break;
            }
            let took_us = began.elapsed().as_micros() as u64;
            tally.slowest_us.fetch_max(took_us, Ordering::Relaxed);
            tally.calls.fetch_add(1, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                break;
            }
            began = Instant::now();
        }
    }
}

fn call(wire: &mut Wire<TcpStream>) -> io::Result<()> {
    wire.write(b"GET /bytes/100 HTTP/1.1\r\nHost: api.test\r\n\r\n")?;
    let head = wire
        .read_response()?
        .ok_or_else(|| io::Error::other("closed without an answer"))?;
    let body = wire.read_body(head.body_length("GET"), |_| ControlFlow::Continue(()))?;
    match (head.status, body.complete) {
        (200, true) => Ok(()),
        (status, _) => Err(io::Error::other(format!("answered {status}, or not whole"))),
    }
}

/// Different networks that nobody here is in, of both families; of two lists with successive numbers
/// half are the same.
fn networks(number: u32, count: usize) -> Vec<String> {
    let half = (count / 2) as u32;
    (0..count as u32)
        .map(|at| at + half * number)
        .map(|serial| match serial % 4 {
            // 11.0.0.0/8 to 42.0.0.0/8
            0 => format!(
                "{}/24",
                Ipv4Addr::from_bits(0x0b00_0000 + (serial << 8) % 0x2000_0000)
            ),
            1 => {
                let segments = [
                    0x2001,
                    0xdb8,
                    (serial >> 16) as u16,
                    serial as u16,
                    0,
                    0,
                    0,
                    0,
                ];
                format!("{}/64", Ipv6Addr::from(segments))
            }
            _ => Ipv4Addr::from_bits(0x2d00_0000 + serial * 37).to_string(),
        })
        .collect()
}

fn lines(networks: &[String]) -> String {
    networks.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn lists_have_as_many_networks_as_they_say_and_half_of_them_change() {
        let lists: Vec<HashSet<String>> = (0..4)
            .map(|number| networks(number, 1_000).into_iter().collect())
            .collect();
        for (one, next) in lists.iter().zip(&lists[1..]) {
            assert_eq!(one.len(), 1_000);
            assert_eq!(one.intersection(next).count(), 500);
        }
        let long: HashSet<String> = networks(7, NETWORKS).into_iter().collect();
        assert_eq!(long.len(), NETWORKS);
    }

    #[test]
    fn one_dropped_packet_or_a_share_too_small_is_noticed() {
        let round = Round {
            calm: 1000.0,
            flooded: 300.0,
            denied: 950.0,
            dropped_packets: 9,
        };
        let exchanged = Exchanged {
            reloads: 1,
            networks: 1,
            calls: 1,
            connections: 1,
            failed: 0,
            failures: vec![],
            dropped_packets: 0,
            reload_ms: 1.0,
            slowest_ms: 1.0,
            ns_per_call: 1.0,
        };
        let found = |exchanged: &Exchanged, round: Round| Found {
            exchanged: exchanged.clone(),
            rounds: vec![round],
        };
        assert!(found(&exchanged, round).held());
        let mut bad = exchanged.clone();
        bad.dropped_packets = 1;
        assert!(!found(&bad, round).held());
        bad = exchanged.clone();
        bad.failed = 1;
        assert!(!found(&bad, round).held());
        for round in [
            Round {
                flooded: 500.0,
                ..round
            },
            Round {
                denied: 899.0,
                ..round
            },
            Round {
                dropped_packets: 0,
                ..round
            },
        ] {
            assert!(!found(&exchanged, round).held());
        }
    }
}
