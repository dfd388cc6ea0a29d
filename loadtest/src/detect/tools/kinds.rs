//! What is done to the API: each kind of event, its program and arguments, and who may find it.
//!
//! Programs are those that attackers use, as Debian packages them. Each runs a bounded time at a bounded
//! rate; three intensities reach from what a patient person does to what a machine can. Which detectors
//! count as having found an event is declared with it, generously: whoever says anything true of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::api::{Fault, Owner};
use super::arena::{self, FRONT, PORTS};
use super::chance::Chance;

/// What kind of harm it is; delays are judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Too much of something.
    Flood,
    /// Looking for something to attack.
    Scan,
    /// Guessing passwords.
    Guessing,
    /// Taking what is not theirs.
    Harvest,
    /// Trying to be run.
    Injection,
    /// Slowness as a weapon.
    Slow,
    /// The API itself fails.
    Fault,
}

impl Class {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Flood,
        Self::Scan,
        Self::Guessing,
        Self::Harvest,
        Self::Injection,
        Self::Slow,
        Self::Fault,
    ];

    /// In lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::Scan => "scan",
            Self::Guessing => "guessing",
            Self::Harvest => "harvest",
            Self::Injection => "injection",
            Self::Slow => "slow",
            Self::Fault => "fault",
        }
    }
}

/// How hard it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intensity {
    /// As a patient person would.
    Low,
    /// In between.
    Middle,
    /// As a machine can.
    High,
}

impl Intensity {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Low, Self::Middle, Self::High];

    /// In lower case.
    pub fn word(self) -> &'static str {
        self.of("low", "middle", "high")
    }

    fn of<T>(self, low: T, middle: T, high: T) -> T {
        match self {
            Self::Low => low,
            Self::Middle => middle,
            Self::High => high,
        }
    }
}

/// Whose turn it is, of those that go on at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Long attacks, from the first host of attackers.
    Long,
    /// Short ones, from the second.
    Short,
    /// The API's own failures.
    Upstream,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Long, Self::Short, Self::Upstream];

    /// The host that attacks come from.
    pub fn host(self) -> usize {
        match self {
            Self::Long | Self::Upstream => 0,
            Self::Short => 1,
        }
    }
}

/// A kind of event.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// The program, and the command that must be there.
    pub tool: &'static str,
    /// What harm it is.
    pub class: Class,
    /// When it is played.
    pub lane: Lane,
    /// Whether other routes suffer, too.
    pub shakes: bool,
    /// Who may find it.
    pub detectors: &'static [&'static str],
    draw: fn(&mut Drawing<'_>) -> anyhow::Result<Attack>,
}

/// One event that is going to be.
#[derive(Debug, Default)]
pub struct Attack {
    /// Where it comes from; several take turns by connection.
    pub sources: Vec<Ipv4Addr>,
    /// Its packets carry addresses of others.
    pub forged: bool,
    /// Client ids it uses.
    pub consumers: Vec<String>,
    /// Templates of the routes it is aimed at.
    pub routes: Vec<&'static str>,
    /// It asks for paths without a route.
    pub unrouted: bool,
    /// Ports it is aimed at.
    pub ports: Vec<u16>,
    /// The program with its arguments; empty where the API fails by itself.
    pub command: Vec<String>,
    /// It begins again so long after it ended, until the time is over.
    pub again_after: Option<Duration>,
    /// The API fails so meanwhile.
    pub fault: Option<(&'static str, Fault)>,
    /// Ended after this time.
    pub limit: Duration,
}

/// What a kind draws its event with.
pub struct Drawing<'a> {
    intensity: Intensity,
    chance: &'a mut Chance,
    lane: Lane,
    /// Where word lists belong.
    directory: &'a Path,
    /// The how many-th event of its host.
    nth: u32,
}

impl Kind {
    /// Whether its calls or connections leave records; packets alone do not.
    pub fn is_recorded(&self) -> bool {
        !["hping3", "faults"].contains(&self.tool) && self.name != HALF_OPEN
    }

    /// Draws an event, the `nth` of its lane. Files that it needs are written into `directory`.
    pub fn draw(
        &self,
        intensity: Intensity,
        chance: &mut Chance,
        directory: &Path,
        nth: u32,
    ) -> anyhow::Result<Attack> {
        (self.draw)(&mut Drawing {
            intensity,
            chance,
            lane: self.lane,
            directory,
            nth,
        })
    }
}

const HALF_OPEN: &str = "ports, half open";

/// Every kind.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    Kind { name: "slow headers", tool: "slowhttptest", class: Class::Slow, lane: Lane::Long, shakes: false,
        detectors: &["slow_request", "connection_churn", "half_open", "client_rate"], draw: slow_headers },
    Kind { name: "slow body", tool: "slowhttptest", class: Class::Slow, lane: Lane::Long, shakes: false,
        detectors: &["slow_request", "connection_churn", "route_latency", "client_rate"], draw: slow_body },
    Kind { name: "range headers", tool: "slowhttptest", class: Class::Flood, lane: Lane::Long, shakes: false,
        detectors: &["slow_request", "connection_churn", "client_rate", "route_rate", "injection", "novelty", "cost_share", "unknown_paths", "route_errors", "overlapping_ranges"], draw: range_headers },
    Kind { name: "slow read", tool: "slowhttptest", class: Class::Slow, lane: Lane::Long, shakes: false,
        detectors: &["slow_read", "slow_request", "connection_churn", "route_latency", "client_rate", "cost_share", "scraping", "route_rate"], draw: slow_read },
    Kind { name: "password list, form", tool: "ffuf", class: Class::Guessing, lane: Lane::Short, shakes: false,
        detectors: &["auth_failures", "auth_account", "auth_spray", "client_rate", "route_errors", "route_rate", "regularity", "connection_churn"], draw: password_form },
    Kind { name: "password list, basic", tool: "hydra", class: Class::Guessing, lane: Lane::Short, shakes: false,
        detectors: &["auth_failures", "auth_account", "auth_spray", "client_rate", "route_errors", "route_rate", "regularity", "connection_churn"], draw: hydra_basic },
    Kind { name: "password spray", tool: "hydra", class: Class::Guessing, lane: Lane::Short, shakes: false,
        detectors: &["auth_spray", "auth_failures", "auth_account", "route_errors", "route_rate"], draw: spray },
    Kind { name: "directories", tool: "gobuster", class: Class::Scan, lane: Lane::Short, shakes: false,
        detectors: &["unknown_paths", "client_rate", "route_errors", "route_rate", "regularity", "connection_churn"], draw: directories },
    Kind { name: "order ids", tool: "ffuf", class: Class::Harvest, lane: Lane::Short, shakes: false,
        detectors: &["object_enumeration", "scraping", "client_rate", "unknown_paths", "auth_failures", "route_errors", "route_rate", "regularity", "cost_share"], draw: order_ids },
    Kind { name: HALF_OPEN, tool: "nmap", class: Class::Scan, lane: Lane::Long, shakes: false,
        detectors: &["half_open", "connection_churn", "syn_flood", "listener_scan"], draw: nmap_syn },
    Kind { name: "ports, connecting", tool: "nmap", class: Class::Scan, lane: Lane::Long, shakes: false,
        detectors: &["half_open", "connection_churn", "listener_scan"], draw: nmap_connect },
    Kind { name: "known applications", tool: "nmap", class: Class::Scan, lane: Lane::Long, shakes: false,
        detectors: &["unknown_paths", "client_rate", "injection", "connection_churn", "route_errors", "route_rate", "novelty", "half_open"], draw: nmap_http },
    Kind { name: "flood, unbounded", tool: "wrk", class: Class::Flood, lane: Lane::Short, shakes: true,
        detectors: &["client_rate", "route_rate", "cost_share", "scraping", "route_latency", "regularity", "connection_churn"], draw: wrk },
    Kind { name: "flood, at a rate", tool: "hey", class: Class::Flood, lane: Lane::Short, shakes: true,
        detectors: &["client_rate", "route_rate", "cost_share", "scraping", "route_latency", "regularity", "connection_churn"], draw: hey },
    Kind { name: "SYN flood", tool: "hping3", class: Class::Flood, lane: Lane::Short, shakes: true,
        detectors: &["syn_flood", "half_open", "connection_churn"], draw: syn_flood },
    Kind { name: "SYN flood, forged", tool: "hping3", class: Class::Flood, lane: Lane::Short, shakes: true,
        detectors: &["syn_flood", "half_open", "connection_churn"], draw: syn_flood_forged },
    Kind { name: "RST flood", tool: "hping3", class: Class::Flood, lane: Lane::Short, shakes: false,
        detectors: &["syn_flood", "half_open", "connection_churn", "network_shift"], draw: rst_flood },
    Kind { name: "SQL injection", tool: "sqlmap", class: Class::Injection, lane: Lane::Short, shakes: false,
        detectors: &["injection", "client_rate", "route_rate", "regularity", "cost_share", "scraping"], draw: sqlmap },
    Kind { name: "scraping", tool: "curl", class: Class::Harvest, lane: Lane::Short, shakes: false,
        detectors: &["scraping", "object_enumeration", "client_rate", "cost_share", "route_rate", "regularity"], draw: scraping },
    Kind { name: "stolen client id", tool: "curl", class: Class::Harvest, lane: Lane::Short, shakes: false,
        detectors: &["token_sharing", "object_enumeration", "scraping", "client_rate", "route_rate"], draw: stolen_id },
    Kind { name: "slow API", tool: "faults", class: Class::Fault, lane: Lane::Upstream, shakes: false,
        detectors: &["route_latency", "route_rate"], draw: slow_api },
    Kind { name: "erring API", tool: "faults", class: Class::Fault, lane: Lane::Upstream, shakes: false,
        detectors: &["route_errors", "route_size", "novelty"], draw: erring_api },
    Kind { name: "silent API", tool: "faults", class: Class::Fault, lane: Lane::Upstream, shakes: false,
        detectors: &["route_latency", "route_errors", "route_rate"], draw: silent_api },
    Kind { name: "fat API", tool: "faults", class: Class::Fault, lane: Lane::Upstream, shakes: false,
        detectors: &["route_size", "route_latency"], draw: fat_api },
];

/// Programs that are needed and not there.
pub fn missing(kinds: &[&Kind]) -> Vec<&'static str> {
    let mut missing: Vec<&str> = kinds
        .iter()
        .map(|kind| kind.tool)
        .filter(|tool| *tool != "faults" && !is_there(tool))
        .collect();
    missing.dedup();
    missing
}

fn is_there(tool: &str) -> bool {
    // hping3 lives in sbin, which is not in everybody's path.
    let found = Command::new("sh")
        .args([
            "-c",
            "PATH=$PATH:/usr/sbin:/sbin command -v \"$1\"",
            "sh",
            tool,
        ])
        .output();
    found.is_ok_and(|output| output.status.success())
}

const SHORT: Duration = Duration::from_secs(12);
const LONG: Duration = Duration::from_secs(45);
const FAILS: Duration = Duration::from_secs(30);

const BROWSER: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/126.0.0.0 Safari/537.36";

impl Drawing<'_> {
    /// An address that no other event of this run has, nor one of its neighbours.
    fn source(&mut self) -> Ipv4Addr {
        let last = 1 + u32::try_from(self.chance.below(254)).unwrap_or(0);
        arena::foes(self.lane.host()).nth(self.nth % 48 * 256 + last)
    }

    /// Many addresses of many networks.
    fn botnet(&mut self, count: u32) -> Vec<Ipv4Addr> {
        let range = 16 * 256;
        let begin = u32::try_from(self.chance.below(range)).unwrap_or(0);
        // Far apart: a step that shares no factor with the range comes back only after all.
        let nth = |at: u32| 48 * 256 + (begin + at * 317) % u32::try_from(range).unwrap_or(1);
        let foes = arena::foes(self.lane.host());
        (0..count).map(|at| foes.nth(nth(at))).collect()
    }

    fn port(&mut self) -> u16 {
        *self.chance.one_of(&PORTS)
    }

    /// A client id of the attacker's own, which anybody gets who asks.
    fn trial(&mut self) -> String {
        format!("trial-{}", 1_000 + self.chance.below(9_000))
    }

    /// From one address to one port, for [`SHORT`].
    fn single(&mut self) -> Attack {
        Attack {
            sources: vec![self.source()],
            ports: vec![self.port()],
            limit: SHORT,
            ..Attack::default()
        }
    }

    fn file(&self, name: &str, lines: impl Iterator<Item = String>) -> anyhow::Result<String> {
        let path = self.directory.join(format!("{}-{name}", self.nth));
        let mut text = lines.collect::<Vec<_>>().join("\n");
        text.push('\n');
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn words(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        for nth in 0..count {
            let base = WORDS[(nth * 7) % WORDS.len()];
            words.push(match nth / WORDS.len() {
                0 => base.to_owned(),
                1 => format!("{base}.php"),
                2 => format!("{base}.bak"),
                3 => format!("{base}_old"),
                more => format!("{base}{more}"),
            });
        }
        self.chance.shuffle(&mut words);
        words
    }
}

fn url(port: u16, target: &str) -> String {
    format!("http://{FRONT}:{port}{target}")
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

const WORDS: [&str; 61] = [
    "admin",
    "login",
    "backup",
    "config",
    "test",
    "dev",
    "old",
    "new",
    "tmp",
    "upload",
    "uploads",
    "images",
    "js",
    "css",
    "include",
    "includes",
    "lib",
    "api",
    "v1",
    "v3",
    "private",
    "secret",
    "hidden",
    "db",
    "sql",
    "database",
    "dump",
    "logs",
    "log",
    "error",
    "debug",
    "status",
    "server-status",
    "phpmyadmin",
    "wp-admin",
    "wp-login",
    "wp-content",
    "cgi-bin",
    "scripts",
    "shell",
    "cmd",
    "console",
    "manager",
    "portal",
    "user",
    "users",
    "member",
    "members",
    "download",
    "downloads",
    "files2",
    "data",
    "docs",
    "swagger",
    "graphql",
    "actuator",
    "metrics",
    ".git",
    ".env",
    ".svn",
    "robots",
];

const PASSWORDS: [&str; 20] = [
    "123456", "password", "qwerty", "letmein", "dragon", "monkey", "football", "iloveyou", "admin",
    "welcome", "sunshine", "princess", "shadow", "master", "superman", "hunter2", "trustno1",
    "batman", "summer", "winter",
];

fn password_list(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|nth| {
        let word = PASSWORDS[nth % PASSWORDS.len()];
        match nth / PASSWORDS.len() {
            0 => word.to_owned(),
            year => format!("{word}{}", 1970 + year),
        }
    })
}

/// `mode` with connections as they come per second, for [`LONG`] at most.
fn slowhttptest(
    drawing: &mut Drawing<'_>,
    mode: &[&str],
    connections: u32,
    per_s: u32,
    target: &str,
) -> Attack {
    let attack = drawing.single();
    let (connections, per_s) = (connections.to_string(), per_s.to_string());
    let seconds = LONG.as_secs().to_string();
    let url = url(attack.ports[0], target);
    let mut command = words(&[
        "slowhttptest",
        "-c",
        &connections,
        "-r",
        &per_s,
        "-l",
        &seconds,
    ]);
    command.extend(words(&["-u", &url, "-p", "5"]));
    command.extend(words(mode));
    Attack {
        command,
        limit: LONG,
        ..attack
    }
}

fn slow_headers(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    // The gateway ends a head that takes too long; so they keep coming.
    let (connections, per_s) = drawing.intensity.of((90, 2), (450, 10), (1_800, 40));
    let mode = ["-H", "-i", "4", "-x", "24", "-t", "GET"];
    Ok(Attack {
        routes: vec!["/orders"],
        ..slowhttptest(drawing, &mode, connections, per_s, "/orders")
    })
}

fn slow_body(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let (connections, per_s) = drawing.intensity.of((20, 2), (100, 10), (400, 40));
    let mode = ["-B", "-i", "5", "-s", "8192", "-x", "16", "-t", "POST"];
    Ok(Attack {
        routes: vec!["/files"],
        ..slowhttptest(drawing, &mode, connections, per_s, "/files")
    })
}

fn range_headers(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let (connections, per_s) = drawing.intensity.of((100, 5), (600, 30), (2_000, 100));
    let mode = ["-R", "-a", "5", "-b", "900", "-t", "HEAD"];
    Ok(Attack {
        routes: vec!["/export"],
        ..slowhttptest(drawing, &mode, connections, per_s, "/export")
    })
}

fn slow_read(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let (connections, per_s) = drawing.intensity.of((10, 2), (50, 10), (200, 40));
    let mode = [
        "-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "1",
    ];
    Ok(Attack {
        routes: vec!["/export"],
        ..slowhttptest(drawing, &mode, connections, per_s, "/export")
    })
}

/// One account, many passwords. hydra's module for forms gives up on a 401, as an API answers; ffuf does
/// not.
fn password_form(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let (tries, threads, pause) =
        drawing
            .intensity
            .of((60, "1", "0.8"), (600, "2", "0.05"), (6_000, "16", "0"));
    let list = drawing.file("passwords", password_list(tries))?;
    let user = format!("u{}", drawing.chance.below(200));
    let url = url(attack.ports[0], "/login");
    let command = words(&[
        "ffuf",
        "-s",
        "-u",
        &url,
        "-w",
        &list,
        "-t",
        threads,
        "-p",
        pause,
        "-mc",
        "200",
        "-X",
        "POST",
        "-d",
        &format!("user={user}&pass=FUZZ"),
        "-H",
        "Content-Type: application/x-www-form-urlencoded",
        "-H",
        &format!("User-Agent: {BROWSER}"),
    ]);
    Ok(Attack {
        routes: vec!["/login"],
        command,
        limit: drawing.intensity.of(Duration::from_secs(20), SHORT, SHORT),
        ..attack
    })
}

/// The same of Basic authentication, by hydra; `-c` is what a patient one does.
fn hydra_basic(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let tries = drawing.intensity.of(60, 600, 4_000);
    let list = drawing.file("passwords", password_list(tries))?;
    let user = format!("u{}", drawing.chance.below(200));
    let pace = drawing
        .intensity
        .of(&["-t", "1", "-c", "1"][..], &["-t", "2"], &["-t", "16"]);
    let mut command = words(&["hydra", "-I", "-l", &user, "-P", &list]);
    command.extend(words(pace));
    command.extend(words(&[
        "-s",
        &attack.ports[0].to_string(),
        &FRONT.to_string(),
        "http-get",
        "/account",
    ]));
    Ok(Attack {
        routes: vec!["/account"],
        command,
        limit: drawing.intensity.of(Duration::from_secs(20), SHORT, SHORT),
        ..attack
    })
}

/// One password for many accounts, from many addresses.
fn spray(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let (addresses, accounts) = drawing.intensity.of((15, 60), (60, 300), (200, 2_000));
    let sources = drawing.botnet(addresses);
    let list = drawing.file("users", (0..accounts).map(|nth| format!("anna.{nth}")))?;
    let password = *drawing.chance.one_of(&PASSWORDS);
    let pace = drawing.intensity.of("2", "4", "16");
    let command = words(&[
        "hydra",
        "-I",
        "-u",
        "-L",
        &list,
        "-p",
        password,
        "-t",
        pace,
        "-s",
        &attack.ports[0].to_string(),
        &FRONT.to_string(),
        "http-get",
        "/account",
    ]);
    Ok(Attack {
        sources,
        routes: vec!["/account"],
        command,
        ..attack
    })
}

fn directories(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let (count, threads, delay) = drawing.intensity.of(
        (60, "1", "250ms"),
        (600, "4", "60ms"),
        (3_000, "20", "40ms"),
    );
    let list = drawing.words(count);
    let list = drawing.file("words", list.into_iter())?;
    let url = url(attack.ports[0], "/");
    let command = words(&[
        "gobuster", "dir", "-q", "-z", "-u", &url, "-w", &list, "-t", threads, "--delay", delay,
        "-a", BROWSER,
    ]);
    Ok(Attack {
        unrouted: true,
        command,
        ..attack
    })
}

/// Orders of others, one id after the other, by a customer who may log in.
fn order_ids(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let (count, threads, pause) =
        drawing
            .intensity
            .of((80, "1", "0.2"), (800, "4", "0.05"), (6_000, "20", "0"));
    let own = drawing.chance.below(150);
    let whose = *drawing
        .chance
        .one_of(&[Owner::Large, Owner::Partner(1), Owner::Person(20)]);
    let first = whose.order(drawing.chance.below(100));
    let list = drawing.file("ids", (first..first + count).map(|id| id.to_string()))?;
    let consumer = drawing.trial();
    let url = url(attack.ports[0], "/orders/FUZZ");
    let command = words(&[
        "ffuf",
        "-s",
        "-u",
        &url,
        "-w",
        &list,
        "-t",
        threads,
        "-p",
        pause,
        "-maxtime",
        "12",
        "-mc",
        "all",
        "-H",
        &format!("X-IBM-Client-Id: {consumer}"),
        "-H",
        &format!("Authorization: Bearer u{own}"),
        "-H",
        &format!("User-Agent: {BROWSER}"),
    ]);
    Ok(Attack {
        consumers: vec![consumer],
        routes: vec!["/orders/{id}"],
        command,
        limit: drawing.intensity.of(Duration::from_secs(18), SHORT, SHORT),
        ..attack
    })
}

/// Ports of the host, again and again; those of the listeners are among them.
fn nmap(drawing: &mut Drawing<'_>, how: &str) -> Attack {
    let attack = drawing.single();
    let ports = drawing.intensity.of("8080-8087", "8000-8200", "7000-9000");
    let command = words(&[
        "nmap",
        how,
        "-Pn",
        "-n",
        "-T4",
        "--max-retries",
        "1",
        "-p",
        ports,
        &FRONT.to_string(),
    ]);
    Attack {
        ports: PORTS.to_vec(),
        command,
        again_after: Some(Duration::from_millis(
            drawing.intensity.of(4_000, 2_000, 500),
        )),
        ..attack
    }
}

fn nmap_syn(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    Ok(nmap(drawing, "-sS"))
}

fn nmap_connect(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    Ok(nmap(drawing, "-sT"))
}

fn nmap_http(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let category = drawing.intensity.of("security", "database", "general");
    let command = words(&[
        "nmap",
        "-sT",
        "-Pn",
        "-n",
        "-p",
        &attack.ports[0].to_string(),
        "--script",
        "+http-enum",
        "--script-args",
        &format!("http-enum.category={category}"),
        &FRONT.to_string(),
    ]);
    Ok(Attack {
        unrouted: true,
        command,
        ..attack
    })
}

const FLOODED: [(&str, &str); 3] = [
    ("/orders", "/orders?page=1"),
    ("/search", "/search?q=lamp"),
    ("/account", "/account"),
];

fn wrk(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let connections = drawing.intensity.of("2", "16", "64");
    let (route, target) = *drawing.chance.one_of(&FLOODED);
    let url = url(attack.ports[0], target);
    let command = words(&["wrk", "-t", "1", "-c", connections, "-d", "8s", &url]);
    Ok(Attack {
        routes: vec![route],
        command,
        ..attack
    })
}

fn hey(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let (workers, each) = drawing
        .intensity
        .of(("4", "20"), ("20", "20"), ("40", "50"));
    let (route, target) = *drawing.chance.one_of(&FLOODED);
    let consumer = drawing.trial();
    let url = url(attack.ports[0], target);
    let command = words(&[
        "hey",
        "-z",
        "8s",
        "-c",
        workers,
        "-q",
        each,
        "-H",
        &format!("X-IBM-Client-Id: {consumer}"),
        &url,
    ]);
    Ok(Attack {
        routes: vec![route],
        consumers: vec![consumer],
        command,
        ..attack
    })
}

/// hping3 for eight seconds.
fn hping3(drawing: &mut Drawing<'_>, flags: &[&str]) -> Attack {
    let attack = drawing.single();
    let (interval, count) =
        drawing
            .intensity
            .of(("u10000", "800"), ("u2000", "4000"), ("u400", "20000"));
    // It believes the way to be loopback where it is not told.
    let mut command = words(&[
        "hping3",
        "-q",
        "-n",
        "-I",
        arena::OWN,
        "-i",
        interval,
        "-c",
        count,
    ]);
    command.extend(words(&["-p", &attack.ports[0].to_string()]));
    command.extend(words(flags));
    command.push(FRONT.to_string());
    Attack { command, ..attack }
}

fn syn_flood(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    Ok(from_its_address(hping3(drawing, &["-S"])))
}

fn syn_flood_forged(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    Ok(Attack {
        forged: true,
        ..hping3(drawing, &["-S", "--rand-source"])
    })
}

fn rst_flood(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    Ok(from_its_address(hping3(drawing, &["-R"])))
}

fn from_its_address(mut attack: Attack) -> Attack {
    let source = attack.sources[0].to_string();
    attack.command.extend(["-a".to_owned(), source]);
    attack
}

fn sqlmap(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let delay = drawing.intensity.of("1", "0.25", "0");
    let directory = drawing.directory.join(format!("{}-sqlmap", drawing.nth));
    let url = url(attack.ports[0], "/search?q=lamp");
    let command = words(&[
        "sqlmap",
        "-u",
        &url,
        "--batch",
        "--level",
        "1",
        "--risk",
        "1",
        "--delay",
        delay,
        "--timeout",
        "10",
        "--retries",
        "0",
        "--disable-coloring",
        "--output-dir",
        &directory.to_string_lossy(),
    ]);
    Ok(Attack {
        routes: vec!["/search"],
        command,
        limit: drawing.intensity.of(
            Duration::from_secs(25),
            Duration::from_secs(20),
            Duration::from_secs(15),
        ),
        ..attack
    })
}

/// The whole list, page by page, as a browser would ask for it.
fn scraping(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let rate = drawing.intensity.of("5/s", "20/s", "1000/s");
    let url = url(attack.ports[0], "/orders?page=[1-9999]");
    let command = words(&[
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-A",
        BROWSER,
        "--rate",
        rate,
        &url,
    ]);
    Ok(Attack {
        routes: vec!["/orders"],
        command,
        limit: drawing.intensity.of(Duration::from_secs(18), SHORT, SHORT),
        ..attack
    })
}

/// A partner's client id, and its orders, from addresses that are not the partner's.
fn stolen_id(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let attack = drawing.single();
    let (addresses, rate) = drawing
        .intensity
        .of((8, "4/s"), (40, "15/s"), (150, "60/s"));
    let partner = drawing.chance.below(8);
    let consumer = format!("partner-{partner}");
    let first = Owner::Partner(partner).order(0);
    let url = url(
        attack.ports[0],
        &format!("/orders/[{first}-{}]", first + 999),
    );
    let command = words(&[
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-H",
        "Connection: close",
        "-H",
        &format!("X-IBM-Client-Id: {consumer}"),
        "-A",
        "erp-sync/2.1 (Java 17)",
        "--rate",
        rate,
        &url,
    ]);
    Ok(Attack {
        sources: drawing.botnet(addresses),
        consumers: vec![consumer],
        routes: vec!["/orders/{id}"],
        command,
        limit: drawing.intensity.of(Duration::from_secs(18), SHORT, SHORT),
        ..attack
    })
}

/// Routes that are called often enough for half a minute to tell, and that nothing else is aimed at.
const FAILING: [&str; 4] = ["/products", "/products/{id}", "/cart", "/prices"];

fn failing(drawing: &mut Drawing<'_>, fault: Fault) -> anyhow::Result<Attack> {
    let route = FAILING[(drawing.nth as usize) % FAILING.len()];
    Ok(Attack {
        routes: vec![route],
        fault: Some((route, fault)),
        limit: FAILS,
        ..Attack::default()
    })
}

fn slow_api(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let ms = drawing.intensity.of(50, 250, 1_500);
    failing(drawing, Fault::Slow(Duration::from_millis(ms)))
}

fn erring_api(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let share = drawing.intensity.of(0.15, 0.4, 1.0);
    failing(drawing, Fault::Erring(share))
}

fn silent_api(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let share = drawing.intensity.of(0.15, 0.4, 1.0);
    failing(drawing, Fault::Silent(share))
}

fn fat_api(drawing: &mut Drawing<'_>) -> anyhow::Result<Attack> {
    let times = drawing.intensity.of(4, 15, 80);
    failing(drawing, Fault::Fat(times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::tools::arena::{is_benign, is_foe};
    use std::collections::BTreeSet;

    #[test]
    fn every_event_comes_from_attackers_and_ends() {
        let directory = tempfile::tempdir().unwrap();
        let mut chance = Chance::new(1, 1);
        let mut sources = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (nth, kind) in (0..).zip(KINDS) {
            assert!(names.insert(kind.name), "{} twice", kind.name);
            assert!(!kind.detectors.is_empty());
            for intensity in Intensity::ALL {
                let attack = kind
                    .draw(intensity, &mut chance, directory.path(), nth)
                    .unwrap();
                assert_eq!(attack.fault.is_some(), kind.class == Class::Fault);
                assert_eq!(attack.command.is_empty(), kind.class == Class::Fault);
                assert!(attack.limit >= Duration::from_secs(5) && attack.limit <= LONG);
                if let Some(program) = attack.command.first() {
                    assert_eq!(program, kind.tool);
                }
                for source in attack.sources {
                    assert!(is_foe(source) && !is_benign(source));
                    sources.insert(source);
                }
            }
        }
        assert!(sources.len() > 200);
    }

    #[test]
    fn detectors_are_called_by_their_names() {
        // Its text alone: nothing of it is linked.
        let known = include_str!("../../../../policies/src/detect/mod.rs");
        for kind in KINDS {
            for detector in kind.detectors {
                assert!(known.contains(&format!("\"{detector}\"")), "{detector}");
            }
        }
    }

    #[test]
    fn a_botnet_has_no_address_twice() {
        let mut chance = Chance::new(1, 1);
        let mut drawing = Drawing {
            intensity: Intensity::High,
            chance: &mut chance,
            lane: Lane::Short,
            directory: Path::new("/nowhere"),
            nth: 0,
        };
        let botnet: BTreeSet<Ipv4Addr> = drawing.botnet(200).into_iter().collect();
        assert_eq!(botnet.len(), 200);
    }
}
