//! `loadtest verify`: sends a mix of calls and holds every record against what was sent.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use uuid::Uuid;

use crate::backend::Backend;
use crate::checks::{self, Checks, World};
use crate::client::{self, Target};
use crate::gateway::{self, Gateway, Setup, Stages};
use crate::plan::{self, Reach};
use crate::records::Records;

/// A gateway that is not at rest by then has lost a call. Longer than `settle.max_s`.
pub const REST_MAX: Duration = Duration::from_secs(45);

/// What to send, and how.
#[derive(Clone, Debug)]
pub struct Load {
    /// Calls in all.
    pub calls: usize,
    /// Client threads, one connection each at a time.
    pub threads: usize,
    /// Repeats a mix.
    pub seed: u64,
}

/// A calltap that somebody else started, before [`Backend`]'s behaviours.
#[derive(Clone, Debug)]
pub struct Running {
    /// `http://host:port`
    pub url: String,
    /// Its records.
    pub records: PathBuf,
    /// Its admin API, for the tap's mode and the counters.
    pub admin: Option<SocketAddr>,
}

/// Starts a backend and a calltap of its own and verifies them.
pub fn own(calltap: &Path, tap: &'static str, load: &Load) -> anyhow::Result<Checks> {
    let backend = Backend::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let gateway = Gateway::start(&Setup {
        tap,
        ..Setup::new(calltap, backend.address())
    })?;
    let mode = tap_mode(&gateway.status()?);
    let seen = play(&gateway, load);
    let stages = gateway.wait_rest(REST_MAX)?;
    let records = Records::read(gateway.records())
        .with_context(|| format!("cannot read {}", gateway.records().display()))?;
    let world = World {
        tap: mode,
        routes: true,
        backend_dies: false,
        alone: true,
        stages,
        rest: true,
    };
    let mut checks = checks::judge(&seen, &records, &world);
    if tap != "auto" {
        checks.ask(
            "the tap runs in the mode asked for",
            world.tap == tap,
            || {
                format!(
                    "{tap} asked for, {} found:\n{}",
                    world.tap,
                    gateway.stderr()
                )
            },
        );
    }
    Ok(checks)
}

/// Verifies a calltap that runs already. Only what its configuration is known to do is asked.
pub fn running(running: &Running, load: &Load) -> anyhow::Result<Checks> {
    let (target, host) = parse_url(&running.url)?;
    let run = run_name();
    let reach = Reach {
        routes: false,
        h2c: false,
    };
    let sessions = plan::draw(load.calls, load.seed, &run, reach);
    let target = Target {
        plain: target,
        h2c: None,
        host,
    };
    let before = fs::metadata(&running.records).map_or(0, |file| file.len());
    let seen = client::play(
        sessions,
        &target,
        load.threads,
        &Arc::new(AtomicU64::new(0)),
    );
    let status = |admin| gateway::admin_get(admin, "/api/v1/status", None);
    let deadline = Instant::now() + REST_MAX;
    let (tap, stages, records) = loop {
        let bytes = fs::read(&running.records)
            .with_context(|| format!("cannot read {}", running.records.display()))?;
        let from = usize::try_from(before).unwrap_or(0).min(bytes.len());
        let records = Records::parse(&bytes[from..]);
        let ours = |id: Option<&str>| id.is_some_and(|id| id.starts_with(run.as_str()));
        let found = records
            .records
            .iter()
            .filter(|record| ours(record.call_id()))
            .count();
        if found >= load.calls || Instant::now() >= deadline {
            match running.admin {
                Some(admin) => {
                    let status = status(admin)?;
                    break (tap_mode(&status), gateway::stages(&status), records);
                }
                // Without the status the records themselves say where they come from.
                None => {
                    let covered = records.records.iter().find_map(|record| {
                        ours(record.call_id()).then(|| record.text("client.coverage"))?
                    });
                    break (covered.unwrap_or("off").to_owned(), Vec::new(), records);
                }
            }
        }
        thread::sleep(Duration::from_millis(100));
    };
    let world = World {
        tap,
        routes: false,
        backend_dies: false,
        alone: false,
        stages,
        rest: false,
    };
    Ok(checks::judge(&seen, &records, &world))
}

/// Plays a drawn mix through a gateway of ours.
pub(crate) fn play(gateway: &Gateway, load: &Load) -> client::Seen {
    play_with(gateway, load, &Arc::new(AtomicU64::new(0)))
}

/// The same, counting finished calls in `progress`.
pub(crate) fn play_with(gateway: &Gateway, load: &Load, progress: &Arc<AtomicU64>) -> client::Seen {
    let reach = Reach {
        routes: true,
        h2c: true,
    };
    let sessions = plan::draw(load.calls, load.seed, &run_name(), reach);
    let target = Target {
        plain: gateway.plain(),
        h2c: Some(gateway.h2c()),
        host: gateway.plain().to_string(),
    };
    client::play(sessions, &target, load.threads, progress)
}

/// `ebpf`, `tcp_info` or `off`: what a status says of the tap.
pub fn tap_mode(status: &Value) -> String {
    let tap = &status["tap"];
    let mode = tap["mode"].as_str().or(tap.as_str()).unwrap_or("off");
    mode.to_owned()
}

/// The counters of calls, for a summary.
pub fn calls(stages: &[Stages]) -> Option<&Stages> {
    stages.iter().find(|stages| stages.kind == "call")
}

fn run_name() -> String {
    // The random tail of a version 7 uuid: two runs into one file stay apart.
    let uuid = Uuid::now_v7().simple().to_string();
    uuid[20..].to_owned()
}

fn parse_url(url: &str) -> anyhow::Result<(SocketAddr, String)> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} does not begin with http://, the only scheme spoken"))?;
    let host = rest.split('/').next().unwrap_or(rest);
    let with_port = if host
        .rsplit(':')
        .next()
        .is_some_and(|port| port.parse::<u16>().is_ok())
    {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let address = with_port
        .to_socket_addrs()
        .with_context(|| format!("{with_port} is no address"))?
        .next()
        .with_context(|| format!("{with_port} has no address"))?;
    Ok((address, host.to_owned()))
}
