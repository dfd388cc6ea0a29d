//! `loadtest compare`: what calltap costs, next to nginx, HAProxy and Envoy, in one run.
//!
//! All on one machine, with one worker each, the same backend and the same load, in many short rounds
//! in turn. In reading order: [`place`], [`peers`] and [`subject`] are who is compared; [`load`] and
//! [`books`] measure one turn, [`kernel`] what BPF programs take; [`rows`] and [`rounds`] make a table
//! of turns. [`latency`] asks how long calls take, by an [`open_loop`]; [`soak`] whether each has its
//! record, [`idle`] what it takes to do nothing. [`statistics`] numbers of it, [`verdict`]
//! what they mean for the goals, [`report`] tables, which [`page`] puts into a file,
//! and [`chart`] draws.

pub mod books;
pub mod chart;
pub mod idle;
pub mod kernel;
pub mod latency;
pub mod load;
pub mod open_loop;
pub mod peers;
pub mod place;
pub mod report;
pub mod rounds;
pub mod rows;
pub mod soak;
pub mod statistics;
pub mod subject;
pub mod verdict;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use self::idle::Idle;
use self::latency::Latency;
use self::peers::Peer;
use self::place::Place;
use self::rounds::{Effort, Found, Kept};
use self::rows::{DEFAULT, ROWS, Row};
use self::soak::Soak;
use self::subject::{Binaries, Configured, Subject, Variant};
use self::verdict::Verdict;
use crate::machine;

/// Descriptors that a gateway with 4,000 clients and as many connections to its backend needs, and
/// that are needed to keep some thousands of idle connections open.
const DESCRIPTORS: u64 = 20_000;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only rows whose name contains one of these; none means all.
    pub only: Vec<String>,
    /// How long and how often.
    pub effort: Effort,
    /// Rounds of the latency.
    pub latency_rounds: usize,
    /// How long each of them takes.
    pub latency_each: Duration,
    /// How long calltap is saturated.
    pub soak: Duration,
    /// How long all are left alone, twice.
    pub idle: Duration,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// `YYYY-MM-DD`
    pub date: String,
    /// Processor, cores, kernel.
    pub machine: String,
    /// Everybody's version.
    pub versions: BTreeMap<&'static str, String>,
    /// Rounds and their length, in words.
    pub effort: String,
    /// What is not in it, and why.
    pub skipped: Vec<String>,
    /// The table.
    pub rows: Vec<Found>,
    /// Whether calltap's records were complete.
    pub kept: Vec<Kept>,
    /// How long calls take.
    pub latency: Option<Latency>,
    /// Whether every call has its record.
    pub soak: Option<Soak>,
    /// What doing nothing takes.
    pub idle: Option<Idle>,
    /// Whether the goals were reached.
    pub verdicts: Vec<Verdict>,
}

impl Comparison {
    /// What was found in a row, if it was measured.
    pub fn row(&self, name: &str) -> Option<&Found> {
        self.rows.iter().find(|found| found.row == name)
    }
}

/// Measures what is wanted.
pub fn run(binaries: &Binaries, wanted: &Wanted) -> anyhow::Result<Comparison> {
    if let Some(missing) = missing() {
        bail!("{missing}");
    }
    raise_descriptors();
    let mut skipped = Vec::new();
    let mut variants = Variant::ALL.to_vec();
    if binaries.programs.envoy.is_none() {
        skipped.push("Envoy: no binary here (scripts/bootstrap --bench fetches one)".to_owned());
        variants.retain(|variant| !matches!(variant, Variant::Peer(Peer::Envoy, _)));
    }
    for reason in &skipped {
        eprintln!("SKIPPED: {reason}");
    }
    let asked =
        |name: &str| wanted.only.is_empty() || wanted.only.iter().any(|only| name.contains(only));
    // First, and by processes of its own: what was used once stays resident.
    let idle = asked("idle")
        .then(|| leave_alone(&variants, binaries, wanted))
        .transpose()?;
    let rows: Vec<Row> = ROWS.iter().filter(|row| asked(row.name)).copied().collect();
    let (rows, kept) = rounds::measure(&rows, &variants, binaries, wanted.effort)?;
    let latency = asked("latency")
        .then(|| offer(&variants, binaries, wanted))
        .transpose()?;
    let soak = if asked("soak") {
        let row = rows.iter().find(|found| found.row == DEFAULT);
        let known = row.and_then(|row| row.calls_per_s(Variant::ON));
        let known = known.or(latency.as_ref().map(|latency| latency.saturated_per_s));
        Some(saturate(known, binaries, wanted)?)
    } else {
        None
    };
    let effort = &wanted.effort;
    let mut comparison = Comparison {
        date: machine::date()?,
        machine: machine::describe(),
        versions: versions(binaries)?,
        effort: format!(
            "{} rounds in the first row, {} in the others, {} ms each",
            effort.rounds,
            effort.rounds_elsewhere,
            effort.window.as_millis()
        ),
        skipped,
        rows,
        kept,
        latency,
        soak,
        idle,
        verdicts: Vec::new(),
    };
    comparison.verdicts = verdict::all(&comparison);
    Ok(comparison)
}

/// Who is left alone: everybody who writes, and calltap that does not.
const IDLERS: [Variant; 5] = [
    Variant::NGINX_ON,
    Variant::HAPROXY_ON,
    Variant::ENVOY_ON,
    Variant::OFF,
    Variant::ON,
];

fn leave_alone(variants: &[Variant], binaries: &Binaries, wanted: &Wanted) -> anyhow::Result<Idle> {
    eprintln!("measuring: idle");
    let place = Place::loopback();
    let subjects = start(&IDLERS, variants, binaries, &place)?;
    idle::measure(&subjects, wanted.idle).context("idle")
}

fn offer(variants: &[Variant], binaries: &Binaries, wanted: &Wanted) -> anyhow::Result<Latency> {
    eprintln!("measuring: latency");
    let place = Place::loopback();
    let subjects = start(&latency::VARIANTS, variants, binaries, &place)?;
    latency::measure(
        &subjects,
        wanted.latency_rounds,
        wanted.effort.window,
        wanted.latency_each,
    )
    .context("latency")
}

fn saturate(known: Option<f64>, binaries: &Binaries, wanted: &Wanted) -> anyhow::Result<Soak> {
    eprintln!("measuring: soak");
    let place = Place::loopback();
    let configured = Configured {
        keep_all_records: true,
        ..Configured::plain(&place)
    };
    let start = || Subject::start(Variant::ON, binaries, configured);
    let calls_per_s = match known {
        Some(known) => known,
        None => latency::saturation(&start()?, wanted.effort.window)?,
    };
    let seconds = wanted.soak.as_secs_f64();
    soak::measure(&start()?, calls_per_s, seconds).context("soak")
}

/// Starts those of `asked` that are among `variants`.
fn start(
    asked: &[Variant],
    variants: &[Variant],
    binaries: &Binaries,
    place: &Place,
) -> anyhow::Result<Vec<Subject>> {
    asked
        .iter()
        .filter(|asked| variants.contains(asked))
        .map(|variant| {
            Subject::start(*variant, binaries, Configured::plain(place))
                .with_context(|| variant.name())
        })
        .collect()
}

/// Which program is missing, and where it comes from.
pub fn missing() -> Option<&'static str> {
    let there = |program: &str, flag: &str| {
        let mut command = Command::new(program);
        let quiet = command
            .arg(flag)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        quiet.status().is_ok()
    };
    [
        (
            "nginx",
            "-v",
            "nginx is not installed (Debian: nginx-light)",
        ),
        (
            "haproxy",
            "-v",
            "haproxy is not installed (Debian: haproxy)",
        ),
        ("wrk", "-v", "wrk is not installed (Debian: wrk)"),
        (
            "h2load",
            "--version",
            "h2load is not installed (Debian: nghttp2-client)",
        ),
    ]
    .into_iter()
    .find_map(|(program, flag, missing)| (!there(program, flag)).then_some(missing))
}

fn versions(binaries: &Binaries) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let programs = &binaries.programs;
    let said = peers::said(&binaries.calltap, "--version")?;
    let mut versions = BTreeMap::from([
        ("calltap", said.trim_start_matches("calltap ").to_owned()),
        ("nginx", programs.version(Peer::Nginx)?),
        ("HAProxy", programs.version(Peer::Haproxy)?),
    ]);
    if programs.envoy.is_some() {
        versions.insert("Envoy", programs.version(Peer::Envoy)?);
    }
    for (name, flag, word) in [("wrk", "-v", 1), ("h2load", "--version", 1)] {
        let said = peers::said(name.as_ref(), flag)?;
        let version = said.split_whitespace().nth(word).unwrap_or(&said);
        versions.insert(name, version.trim_start_matches("nghttp2/").to_owned());
    }
    Ok(versions)
}

/// As far as we may; who needs more will say so.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Some(
        limit
            .maximum
            .map_or(DESCRIPTORS, |hard| hard.max(DESCRIPTORS)),
    );
    let more = Rlimit {
        current: wanted,
        maximum: wanted,
    };
    if setrlimit(Resource::Nofile, more).is_err() {
        let all = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        let _ = setrlimit(Resource::Nofile, all);
    }
}
