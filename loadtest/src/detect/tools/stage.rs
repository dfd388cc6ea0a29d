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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::alerts::{self, Sighting, Watcher};
use super::api::{self, DEPLOYED, Fault, Faults, ROUTES};
use super::arena::{self, Arena, FRONT, PORTS, UPSTREAM};
use super::chance::Chance;
use super::kinds::{Attack, Intensity, Kind, Lane};
use super::people::People;
use super::score::{self, Event};
use super::template::Templates;
use crate::cleanup::{Guard, Scratch};
use crate::gateway::{Gateway, Setup};
use crate::lab::Namespace;

/// How often alerts are read.
const LOOK: Duration = Duration::from_millis(250);
/// Alerts that cannot be read for so long are a failure.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// A gateway that is not at rest by then has lost a call.
const REST_MAX: Duration = Duration::from_secs(45);
/// The file of a kept run that is judged again.
pub const SEEN: &str = "seen.json";
/// An event and the pause after it, on average.
const EVENT: Duration = Duration::from_secs(19);
/// Between two events of a lane.
const PAUSE: Duration = Duration::from_secs(4);
/// How long a program has to end itself when told to.
const END_MAX: Duration = Duration::from_secs(2);
/// Of the time of the attacks, when the later routes are deployed and when the crowd comes.
const DEPLOY_AT: f64 = 0.3;
const CROWD_AT: f64 = 0.5;

/// How long real records are gathered, and the share of answers that are errors meanwhile.
const HARVEST: Duration = Duration::from_secs(60);
const ERRING: f64 = 0.04;

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
}

/// Plays one run.
pub fn play(wanted: &Wanted<'_>, seed: u64) -> anyhow::Result<Seen> {
    let scratch = Scratch::new("calltap-detect-")?;
    let arena = Arena::build()?;
    let faults = Faults::default();
    let _api = api::serve(&arena, faults.clone(), seed)?;
    let gateway = Gateway::start(&setup(wanted.calltap, &arena))?;
    let lanes = lanes(wanted, seed);
    let longest = lanes.iter().map(Vec::len).max().unwrap_or_default();
    let attacks = EVENT * u32::try_from(longest)?;
    let at = |share| wanted.warm_up + attacks.mul_f64(share);
    let crowd_at = wanted.upheavals.then(|| at(CROWD_AT));
    let people = People::begin(&arena, seed, crowd_at)?;
    let run = Run {
        seed,
        begun: Instant::now(),
        over: AtomicBool::new(false),
        seen: Mutex::default(),
    };
    thread::scope(|scope| {
        scope.spawn(|| run.watch(&gateway));
        if wanted.upheavals {
            scope.spawn(|| run.deploy(&gateway, &people, at(DEPLOY_AT)));
        }
        thread::sleep(wanted.warm_up);
        thread::scope(|scope| {
            for (lane, queue) in Lane::ALL.into_iter().zip(&lanes) {
                let directory = scratch.path().join(lane.host().to_string());
                let (run, arena, faults) = (&run, &arena, &faults);
                scope.spawn(move || run.attack(lane, queue, arena, faults, &directory));
            }
        });
        thread::sleep(Duration::from_micros(score::GRACE_US));
        run.over.store(true, Ordering::Relaxed);
    });
    let mut seen = run
        .seen
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    seen.seed = seed;
    seen.unanswered = people.world.unanswered.load(Ordering::Relaxed);
    drop(people);
    gateway.wait_rest(REST_MAX)?;
    seen.events.sort_by_key(|event| event.start_us);
    count(&mut seen, gateway.records(), &wanted.kinds)?;
    if let Some(keep) = &wanted.keep {
        let keep = keep.join(format!("seed-{seed}"));
        fs::create_dir_all(&keep)?;
        fs::copy(gateway.records(), keep.join("calls.jsonl"))?;
        fs::write(keep.join("stderr"), gateway.stderr())?;
        for log in logs(scratch.path())? {
            fs::copy(&log, keep.join(log.file_name().unwrap_or_default()))?;
        }
        lines(&keep.join("truth.jsonl"), &seen.events)?;
        lines(&keep.join("alerts.jsonl"), &seen.sightings)?;
        fs::write(keep.join(SEEN), serde_json::to_vec(&seen)?)?;
    }
    Ok(seen)
}

/// A run that goes on.
struct Run {
    seed: u64,
    begun: Instant,
    over: AtomicBool,
    seen: Mutex<Seen>,
}

impl Run {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, what: String) {
        eprintln!("seed {}: {what}", self.seed);
        self.seen().failures.push(what);
    }

    /// Reads alerts until the run is over.
    fn watch(&self, gateway: &Gateway) {
        let mut watcher = Watcher::default();
        let mut read_at = Instant::now();
        while !self.over.load(Ordering::Relaxed) {
            match look(gateway, &mut watcher) {
                Ok(new) => {
                    read_at = Instant::now();
                    self.seen().sightings.extend(new);
                }
                Err(error) if read_at.elapsed() > UNREAD_MAX => {
                    self.fail(format!("no alerts can be read: {error:#}"));
                    return;
                }
                // A flooded gateway may answer later; an alert tells itself when it was opened.
                Err(_) => {}
            }
            thread::sleep(LOOK);
        }
    }

    /// Deploys the later routes when it is time.
    fn deploy(&self, gateway: &Gateway, people: &People, at: Duration) {
        while self.begun.elapsed() < at {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(LOOK);
        }
        match gateway.reload_with(&routes(&DEPLOYED)) {
            Ok(()) => people.world.deploy(),
            Err(error) => self.fail(format!("no route was deployed: {error:#}")),
        }
    }

    /// Plays the events of a lane, one after the other.
    fn attack(
        &self,
        lane: Lane,
        queue: &[(&Kind, Intensity)],
        arena: &Arena,
        faults: &Faults,
        directory: &Path,
    ) {
        let mut chance = Chance::new(self.seed, 30 + lane as u64);
        for (nth, (kind, intensity)) in (0..).zip(queue) {
            let what = format!("{} {}", kind.name, intensity.word());
            let done = fs::create_dir_all(directory)
                .map_err(anyhow::Error::from)
                .and_then(|()| kind.draw(*intensity, &mut chance, directory, nth))
                .and_then(|attack| {
                    let log = directory.join(format!("{what}.log"));
                    let done = commit(&attack, kind, arena, faults, &log)?;
                    Ok(event(kind, *intensity, self.seed, attack, done))
                });
            match done {
                Ok(event) => {
                    eprintln!("seed {}: {what}: {}", self.seed, event.ended);
                    self.seen().events.push(event);
                }
                Err(error) => self.fail(format!("{what}: {error:#}")),
            }
            thread::sleep(PAUSE / 2 + chance.waiting(PAUSE / 2).min(PAUSE));
        }
    }
}

/// What programs said.
fn logs(scratch: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for lane in fs::read_dir(scratch)? {
        for file in fs::read_dir(lane?.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                logs.push(path);
            }
        }
    }
    Ok(logs)
}

/// Real records of those who mean well: a short run without attacks, in which the API errs now and then.
pub fn harvest(calltap: &Path, seed: u64) -> anyhow::Result<Templates> {
    let arena = Arena::build()?;
    let faults = Faults::default();
    let _api = api::serve(&arena, faults.clone(), seed)?;
    let gateway = Gateway::start(&setup(calltap, &arena))?;
    for (_, template, _) in ROUTES.iter().chain(&DEPLOYED) {
        faults.begin(template, Fault::Erring(ERRING));
    }
    gateway.reload_with(&routes(&DEPLOYED))?;
    let people = People::begin(&arena, seed, None)?;
    thread::sleep(HARVEST / 3);
    people.world.deploy();
    thread::sleep(HARVEST * 2 / 3);
    drop(people);
    gateway.wait_rest(REST_MAX)?;
    Templates::read(gateway.records())
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
        let methods = match *method {
            "GET" => "\"GET\", \"HEAD\"".to_owned(),
            other => format!("\"{other}\""),
        };
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nmethods = [{methods}]\n\
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
