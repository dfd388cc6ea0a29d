//! One run: everybody in place, calltap learns for a time, then attacks come one after the other.
//!
//! Three lanes go on at the same time, so that there is a quiet minute between events of one kind
//! without an hour for each seed. The truth is what this file did and when, to the microsecond.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alerts::{self, Sighting, Watcher};
use super::api::{self, DEPLOYED, Faults, ROUTES};
use super::arena::{self, Arena, FRONT, PORTS, UPSTREAM};
use super::chance::Chance;
use super::kinds::{Attack, Intensity, Kind, Lane};
use super::people::People;
use super::score::{self, Event};
use crate::cleanup::{Guard, Scratch};
use crate::gateway::{Gateway, Setup};
use crate::lab::Namespace;

/// How often alerts are read.
const LOOK: Duration = Duration::from_millis(250);
/// Between two events of a lane.
const PAUSE: Duration = Duration::from_secs(4);
/// How long a program has to end itself when told to.
const END_MAX: Duration = Duration::from_secs(2);
/// Of the time of the attacks, when the later routes are deployed and when the crowd comes.
const DEPLOY_AT: f64 = 0.3;
const CROWD_AT: f64 = 0.5;

/// What is played.
pub struct Wanted<'a> {
    /// The calltap binary.
    pub calltap: &'a Path,
    /// Which kinds, at which intensities.
    pub kinds: Vec<&'a Kind>,
    /// How hard.
    pub intensities: Vec<Intensity>,
    /// How long calltap sees only those who mean well.
    pub warm_up: Duration,
    /// Whether the crowd comes, and routes are deployed.
    pub upheavals: bool,
    /// Where all that was seen is kept.
    pub keep: Option<PathBuf>,
}

/// What was seen of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Which.
    pub seed: u64,
    /// What was done.
    pub events: Vec<Event>,
    /// What calltap said.
    pub sightings: Vec<Sighting>,
    /// Calls in records, of those who mean well.
    pub benign: u64,
    /// Calls in records, of attackers.
    pub hostile: u64,
    /// Of those who mean well, calls that got no answer.
    pub unanswered: u64,
    /// What could not be done or read.
    pub failures: Vec<String>,
    /// What calltap says of itself at the end.
    pub status: Value,
}

/// Plays one run.
pub fn play(wanted: &Wanted<'_>, seed: u64) -> anyhow::Result<Seen> {
    let scratch = Scratch::new("calltap-detect-")?;
    let arena = Arena::build()?;
    let faults = Faults::default();
    let _api = api::serve(&arena, faults.clone(), seed)?;
    let gateway = Gateway::start(&setup(wanted.calltap, &arena))?;
    let lanes = lanes(wanted, seed);
    let rest = |lane: &[(&Kind, Intensity)]| PAUSE * u32::try_from(lane.len()).unwrap_or(0);
    let guess =
        |lane: &[(&Kind, Intensity)]| rest(lane) + Duration::from_secs(15) * lane.len() as u32;
    let attacks = lanes
        .iter()
        .map(|lane| guess(lane))
        .max()
        .unwrap_or_default();
    let at = |share| {
        wanted
            .upheavals
            .then(|| wanted.warm_up + attacks.mul_f64(share))
    };
    let people = People::begin(&arena, seed, at(CROWD_AT))?;
    let events = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    let sightings = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    let fail = |what: String| {
        eprintln!("seed {seed}: {what}");
        failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    };
    let begun = Instant::now();
    let sleep_until = |at: Duration| thread::sleep(at.saturating_sub(begun.elapsed()));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut watcher = Watcher::default();
            while !over.load(Ordering::Relaxed) {
                match look(&gateway, &mut watcher) {
                    Ok(new) => sightings
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(new),
                    Err(error) => {
                        fail(format!("no alerts can be read: {error:#}"));
                        return;
                    }
                }
                thread::sleep(LOOK);
            }
        });
        if let Some(deploy_at) = at(DEPLOY_AT) {
            let (gateway, people, over, fail) = (&gateway, &people, &over, &fail);
            scope.spawn(move || {
                while begun.elapsed() < deploy_at && !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(200));
                }
                match gateway.reload_with(&routes(&DEPLOYED)) {
                    Ok(()) => people.world.deploy(),
                    Err(error) => fail(format!("no route was deployed: {error:#}")),
                }
            });
        }
        sleep_until(wanted.warm_up);
        thread::scope(|scope| {
            for (lane, queue) in Lane::ALL.into_iter().zip(&lanes) {
                let (arena, faults, events, fail) = (&arena, &faults, &events, &fail);
                let directory = scratch.path();
                scope.spawn(move || {
                    let mut chance = Chance::new(seed, 30 + lane as u64);
                    for (nth, (kind, intensity)) in (0..).zip(queue) {
                        let what = format!("{} {}", kind.name, intensity.word());
                        let drawn = kind.draw(*intensity, &mut chance, directory, nth);
                        let done = drawn.and_then(|attack| {
                            let log = directory.join(format!("{}-{nth}.log", lane as u8));
                            commit(&attack, kind, arena, faults, &log)
                                .map(|done| event(kind, *intensity, seed, attack, done))
                        });
                        match done {
                            Ok(event) => {
                                eprintln!("seed {seed}: {what}: {}", event.ended);
                                events
                                    .lock()
                                    .unwrap_or_else(PoisonError::into_inner)
                                    .push(event);
                            }
                            Err(error) => fail(format!("{what}: {error:#}")),
                        }
                        let breath = chance.waiting(PAUSE / 2).min(PAUSE);
                        thread::sleep(PAUSE / 2 + breath);
                    }
                });
            }
        });
        thread::sleep(Duration::from_micros(score::GRACE_US));
        over.store(true, Ordering::Relaxed);
    });
    let status = gateway.status()?;
    let unanswered = people.world.unanswered.load(Ordering::Relaxed);
    drop(people);
    gateway.wait_rest(Duration::from_secs(45))?;
    let mut seen = Seen {
        seed,
        events: events.into_inner().unwrap_or_else(PoisonError::into_inner),
        sightings: sightings
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
        unanswered,
        failures: failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
        status,
        ..Seen::default()
    };
    seen.events.sort_by_key(|event| event.start_us);
    count(&mut seen, gateway.records(), &wanted.kinds)?;
    if let Some(keep) = &wanted.keep {
        let keep = keep.join(format!("seed-{seed}"));
        fs::create_dir_all(&keep)?;
        fs::copy(gateway.records(), keep.join("calls.jsonl"))?;
        fs::write(keep.join("stderr"), gateway.stderr())?;
        for entry in fs::read_dir(scratch.path())? {
            let path = entry?.path();
            if path.is_file()
                && let Some(name) = path.file_name()
            {
                fs::copy(&path, keep.join(name))?;
            }
        }
        lines(&keep.join("truth.jsonl"), &seen.events)?;
        lines(&keep.join("alerts.jsonl"), &seen.sightings)?;
        fs::write(keep.join("seen.json"), serde_json::to_vec(&seen)?)?;
    }
    Ok(seen)
}

/// calltap as everybody has it: no key of a detector is set.
fn setup(calltap: &Path, arena: &Arena) -> Setup {
    let mut own = String::new();
    for port in PORTS {
        own += &format!("[[listeners]]\naddress = \"{FRONT}:{port}\"\n");
    }
    Setup {
        own_routes: Some(own + &routes(&ROUTES)),
        address: FRONT.into(),
        wrapper: arena.gateway.wrapper(),
        admin_namespace: Some(arena.gateway.clone()),
        keys: vec![("records", "rotate", "{ max_mib = 0, keep = 5 }".to_owned())],
        ..Setup::new(calltap, UPSTREAM)
    }
}

fn routes(all: &[(&str, &str, &str)]) -> String {
    let route = |(name, path, method): &(&str, &str, &str)| {
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nmethods = [\"{method}\"]\n\
             upstream = \"backend\"\napi = {{ name = \"orders\", version = \"1.0.0\" }}\n"
        )
    };
    all.iter().map(route).collect()
}

/// What is played in each lane, in an order of the seed's own.
fn lanes<'a>(wanted: &Wanted<'a>, seed: u64) -> Vec<Vec<(&'a Kind, Intensity)>> {
    let mut chance = Chance::new(seed, 20);
    let of = |lane: Lane| {
        let mut queue: Vec<(&Kind, Intensity)> = Vec::new();
        for kind in wanted.kinds.iter().filter(|kind| kind.lane == lane) {
            queue.extend(
                wanted
                    .intensities
                    .iter()
                    .map(|intensity| (*kind, *intensity)),
            );
        }
        chance.shuffle(&mut queue);
        queue
    };
    Lane::ALL.into_iter().map(of).collect()
}

fn look(gateway: &Gateway, watcher: &mut Watcher) -> anyhow::Result<Vec<Sighting>> {
    watcher.look(&alerts::listed(
        gateway.admin("/api/v1/alerts?limit=1000")?,
    )?)
}

/// When it began, when it was over, how it ended.
struct Done {
    start_us: u64,
    end_us: u64,
    ended: String,
}

fn event(kind: &Kind, intensity: Intensity, seed: u64, attack: Attack, done: Done) -> Event {
    let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    Event {
        kind: kind.name.to_owned(),
        class: kind.class.word().to_owned(),
        intensity: intensity.word().to_owned(),
        seed,
        tool: kind.tool.to_owned(),
        sources: attack.sources,
        forged: attack.forged,
        consumers: attack.consumers,
        routes: owned(&attack.routes),
        unrouted: attack.unrouted,
        ports: attack.ports,
        detectors: owned(kind.detectors),
        shakes: kind.shakes,
        start_us: done.start_us,
        end_us: done.end_us,
        ended: done.ended,
    }
}

/// Plays one event, and waits until it is over.
fn commit(
    attack: &Attack,
    kind: &Kind,
    arena: &Arena,
    faults: &Faults,
    log: &Path,
) -> anyhow::Result<Done> {
    if let Some((route, fault)) = attack.fault {
        let start_us = alerts::now_us();
        faults.begin(route, fault);
        thread::sleep(attack.limit);
        faults.end(route);
        return Ok(Done {
            start_us,
            end_us: alerts::now_us(),
            ended: format!("{fault:?} of {route} for {} s", attack.limit.as_secs()),
        });
    }
    let host = kind.lane.host();
    let scattered = attack.sources.len() > 1;
    if scattered {
        arena.scatter(host, &attack.sources)?;
    } else if let Some(source) = attack.sources.first() {
        arena.attack_from(host, *source)?;
    }
    let start_us = alerts::now_us();
    let ended = run_all(attack, &arena.foes[host], log);
    let end_us = alerts::now_us();
    if scattered {
        arena.gather(host)?;
    }
    Ok(Done {
        start_us,
        end_us,
        ended: ended?,
    })
}

fn run_all(attack: &Attack, host: &Namespace, log: &Path) -> anyhow::Result<String> {
    let deadline = Instant::now() + attack.limit;
    loop {
        let ended = run(&attack.command, host, log, deadline)?;
        match attack.again_after {
            Some(pause) if Instant::now() + pause < deadline => thread::sleep(pause),
            _ => return Ok(ended),
        }
    }
}

/// Runs a program until it ends or the deadline comes; it and what it started are gone then.
fn run(
    words: &[String],
    host: &Namespace,
    log: &Path,
    deadline: Instant,
) -> anyhow::Result<String> {
    let output = File::options().create(true).append(true).open(log)?;
    writeln!(&output, "$ {}", words.join(" "))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = host.command(&words[0]);
    command
        .args(&words[1..])
        .current_dir(log.parent().unwrap_or(Path::new("/")))
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let child = command.spawn().with_context(|| words[0].clone())?;
    let child = Arc::new(Mutex::new(child));
    let guarded = child.clone();
    let _guard = Guard::new(move || end(&guarded));
    loop {
        let status = child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_wait()?;
        match status {
            Some(status) => return Ok(format!("{}: {status}", words[0])),
            None if Instant::now() >= deadline => {
                end(&child);
                return Ok(format!("{}: ended after its time", words[0]));
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Ends a program and all it started: they are a process group of their own.
fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    // Not waited for yet, so the number is still this group's.
    let group = Pid::from_child(&child);
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    let deadline = Instant::now() + END_MAX;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

#[derive(Deserialize)]
struct Line<'a> {
    kind: &'a str,
    #[serde(rename = "network.peer.address")]
    peer: Option<&'a str>,
}

/// Counts calls in records, and makes sure that every event reached calltap.
fn count(seen: &mut Seen, records: &Path, kinds: &[&Kind]) -> anyhow::Result<()> {
    let mut of_source = std::collections::HashMap::<Ipv4Addr, u64>::new();
    let mut reader = BufReader::with_capacity(1 << 20, File::open(records)?);
    let mut text = Vec::new();
    while reader.read_until(b'\n', &mut text)? > 0 {
        let line: Line<'_> = serde_json::from_slice(&text).context("a record")?;
        if let Some(peer) = line.peer.and_then(|peer| peer.parse().ok()) {
            *of_source.entry(peer).or_default() += 1;
            if line.kind == "call" {
                match arena::is_benign(peer) {
                    true => seen.benign += 1,
                    false => seen.hostile += 1,
                }
            }
        }
        text.clear();
    }
    for event in &seen.events {
        let recorded = |kind: &&&Kind| kind.name == event.kind && kind.is_recorded();
        if kinds.iter().any(|kind| recorded(&kind))
            && !event
                .sources
                .iter()
                .any(|source| of_source.contains_key(source))
        {
            let Event {
                kind,
                intensity,
                ended,
                ..
            } = event;
            seen.failures
                .push(format!("{kind} {intensity} left no record: {ended}"));
        }
    }
    Ok(())
}

fn lines<T: Serialize>(path: &Path, all: &[T]) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(File::create(path)?);
    for one in all {
        serde_json::to_writer(&mut file, one)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}
