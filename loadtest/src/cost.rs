//! `loadtest cost`: what the tap and the records add to a call, in CPU time.
//!
//! One calltap per variant and an nginx for scale, all before the same backend, loaded in turn in short rounds: machines
//! drift, so only neighbours are compared and only medians told. CPU time is that of the gateway's
//! process, user and system, which includes what its packets cost in the kernel on its behalf. The
//! BPF programs' own run time is measured apart, by the kernel (`kernel.bpf_stats_enabled`), because
//! measuring it costs time itself.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal};
use serde::Serialize;
use serde_json::Value;

use crate::cleanup::{Guard, Scratch};
use crate::gateway::{Gateway, Setup};
use crate::machine;
use crate::table;
use crate::verify::{self, REST_MAX};

/// The kernel's switch for measuring BPF programs.
const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// nginx listens within this time or has failed.
const NGINX_START_MAX: Duration = Duration::from_secs(10);
/// Times in `/proc/PID/stat` are in these; fixed by the kernel's interface on Linux.
const TICKS_PER_S: f64 = 100.0;

/// The variants of calltap: name, tap mode, records. The first is what the others are held against.
const VARIANTS: [(&str, &str, &str); 4] = [
    ("calltap, tap off, records off", "off", "none"),
    ("calltap, tap off, records on", "off", "calls.jsonl"),
    ("calltap, tap on, records off", "ebpf", "none"),
    ("calltap, tap on, records on", "ebpf", "calls.jsonl"),
];
/// A peer, for scale: what its own line with the TCP facts it can print adds to it.
const PEERS: [(&str, Role); 2] = [
    ("nginx, log off", Role::Proxy { log: false }),
    ("nginx, log with TCP facts", Role::Proxy { log: true }),
];

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Calls per round.
    pub calls: u32,
    /// Rounds per variant.
    pub rounds: u32,
    /// Client connections.
    pub connections: u32,
    /// Proxy threads of the gateway.
    pub workers: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// `YYYY-MM-DD`
    pub date: String,
    /// Processor, cores, kernel.
    pub machine: String,
    /// Calls per round, rounds and connections, in words.
    pub effort: String,
    /// CPU time per call, µs, of every round, by variant in order.
    pub variants: Vec<Variant>,
    /// The BPF programs' run time.
    pub programs: Vec<Program>,
}

/// One variant's rounds.
#[derive(Debug, Serialize)]
pub struct Variant {
    /// What was on and off.
    pub name: &'static str,
    /// CPU time per call in each round, µs.
    pub us_per_call: Vec<f64>,
    /// Which variant it is held against, by its place in the list.
    pub base: usize,
}

/// One BPF program's run time.
#[derive(Debug, Serialize)]
pub struct Program {
    /// Its name, or its id where names are not known.
    pub name: String,
    /// Runs per call.
    pub runs_per_call: f64,
    /// Its run time per call, ns.
    pub ns_per_call: f64,
}

impl Variant {
    /// The median round, µs per call.
    pub fn median_us(&self) -> f64 {
        median(self.us_per_call.clone())
    }

    /// What it takes more than `base`: the median of the differences within each round, µs per
    /// call.
    pub fn more_than_us(&self, base: &Variant) -> f64 {
        let pairs = self.us_per_call.iter().zip(&base.us_per_call);
        median(pairs.map(|(own, other)| own - other).collect())
    }

    fn range_us(&self) -> (f64, f64) {
        let min = self
            .us_per_call
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min);
        let max = self.us_per_call.iter().copied().fold(0.0, f64::max);
        (min, max)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// Something that forwards calls, and costs.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    pid: Pid,
    base: usize,
    /// Its records take a moment longer than its calls.
    gateway: Option<Gateway>,
    _nginx: Option<Nginx>,
}

fn subjects(calltap: &Path, backend: SocketAddr, workers: u32) -> anyhow::Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for (name, tap, records) in VARIANTS {
        let gateway = Gateway::start(&Setup {
            tap,
            records: records.to_owned(),
            workers: Some(workers),
            plain_routes: true,
            ..Setup::new(calltap, backend)
        })
        .context(name)?;
        subjects.push(Subject {
            name,
            address: gateway.plain(),
            pid: gateway.pid(),
            base: 0,
            gateway: Some(gateway),
            _nginx: None,
        });
    }
    let base = subjects.len();
    for (name, role) in PEERS {
        let nginx = Nginx::start(role, Some(backend)).context(name)?;
        subjects.push(Subject {
            name,
            address: nginx.address,
            pid: nginx.pid,
            base,
            gateway: None,
            _nginx: Some(nginx),
        });
    }
    Ok(subjects)
}

/// Measures all variants of `calltap`.
pub fn measure(calltap: &Path, effort: Effort) -> anyhow::Result<Cost> {
    if let Some(missing) = missing() {
        bail!("{missing}");
    }
    let backend = Nginx::start(Role::Backend, None)?;
    let subjects = subjects(calltap, backend.address, effort.workers)?;
    let mut variants: Vec<Variant> = subjects
        .iter()
        .map(|subject| Variant {
            name: subject.name,
            us_per_call: Vec::new(),
            base: subject.base,
        })
        .collect();
    // Round 0 warms up; nobody looks at it.
    for round in 0..=effort.rounds as usize {
        for step in 0..subjects.len() {
            // The order turns, so that nobody is always after the same neighbour.
            let at = (step + round) % subjects.len();
            let us = cpu_per_call_us(&subjects[at], effort)?;
            if round > 0 {
                variants[at].us_per_call.push(us);
            }
        }
    }
    let full = &subjects[VARIANTS.len() - 1];
    let programs = match &full.gateway {
        Some(gateway) => programs(gateway, effort)?,
        None => Vec::new(),
    };
    Ok(Cost {
        date: machine::date()?,
        machine: machine::describe(),
        effort: format!(
            "{} calls per round, {} rounds, {} connections, {} worker(s)",
            effort.calls, effort.rounds, effort.connections, effort.workers
        ),
        variants,
        programs,
    })
}

/// Which program is missing, and where it comes from.
fn missing() -> Option<&'static str> {
    let there = |program: &str| Command::new(program).arg("-v").output().is_ok();
    if !there("nginx") {
        return Some("nginx is not installed (Debian: nginx-light)");
    }
    (!there("h2load")).then_some("h2load is not installed (Debian: nghttp2-client)")
}

/// Two markdown tables, ready for the docs.
pub fn render(cost: &Cost) -> String {
    let rows: Vec<Vec<String>> = cost
        .variants
        .iter()
        .enumerate()
        .map(|(at, variant)| {
            let (min, max) = variant.range_us();
            let more = match cost.variants.get(variant.base) {
                Some(base) if variant.base != at => format!("{:+.1}", variant.more_than_us(base)),
                _ => String::new(),
            };
            vec![
                variant.name.to_owned(),
                format!("{:.1}", variant.median_us()),
                format!("{min:.1} to {max:.1}"),
                more,
            ]
        })
        .collect();
    let mut out = format!("{}, {}; {}.\n\n", cost.date, cost.machine, cost.effort);
    out += &table::markdown(
        &[
            "variant",
            "CPU µs per call, median",
            "range",
            "more than its own with all off",
        ],
        &rows,
    );
    let rows: Vec<Vec<String>> = cost
        .programs
        .iter()
        .map(|program| {
            vec![
                program.name.clone(),
                format!("{:.1}", program.runs_per_call),
                format!("{:.0}", program.ns_per_call),
            ]
        })
        .chain([vec![
            "all".to_owned(),
            format!(
                "{:.1}",
                cost.programs
                    .iter()
                    .map(|one| one.runs_per_call)
                    .sum::<f64>()
            ),
            format!(
                "{:.0}",
                cost.programs.iter().map(|one| one.ns_per_call).sum::<f64>()
            ),
        ]])
        .collect();
    out.push('\n');
    out + &table::markdown(&["BPF program", "runs per call", "ns per call"], &rows)
}

fn cpu_per_call_us(subject: &Subject, effort: Effort) -> anyhow::Result<f64> {
    let before = cpu_ticks(subject.pid)?;
    load(subject.address, effort).context(subject.name)?;
    if let Some(gateway) = &subject.gateway {
        // The last records are still on their way, and belong to these calls.
        gateway.wait_rest(REST_MAX)?;
    }
    let ticks = cpu_ticks(subject.pid)? - before;
    Ok(ticks as f64 / TICKS_PER_S * 1e6 / f64::from(effort.calls))
}

fn load(address: SocketAddr, effort: Effort) -> anyhow::Result<()> {
    let output = Command::new("h2load")
        .args(["--h1", "-t", "1", "-n", &effort.calls.to_string()])
        .args(["-c", &effort.connections.to_string()])
        .arg(format!("http://{address}/"))
        .output()
        .context("cannot run h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let wanted = format!("{} succeeded", effort.calls);
    ensure!(
        output.status.success() && text.contains(&wanted),
        "not every call of h2load succeeded:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// User and system time of all threads of a process, ticks.
fn cpu_ticks(pid: Pid) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // The name in parentheses may hold anything, so count from its end.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
    };
    ticks(11)
        .zip(ticks(12))
        .map(|(user, system)| user + system)
        .context("no times in stat")
}

/// Run time of the gateway's BPF programs during one round, by the kernel's own measure.
fn programs(gateway: &Gateway, effort: Effort) -> anyhow::Result<Vec<Program>> {
    let mode = verify::tap_mode(&gateway.status()?);
    ensure!(
        mode == "ebpf",
        "the tap is {mode}, so there are no programs to measure"
    );
    let before = fs::read_to_string(BPF_STATS).context("cannot read kernel.bpf_stats_enabled")?;
    let _restore = Guard::new(move || {
        let _ = fs::write(BPF_STATS, before.trim());
    });
    fs::write(BPF_STATS, "1").context("cannot set kernel.bpf_stats_enabled; run it as root")?;
    let first = run_times(gateway.pid())?;
    ensure!(
        !first.is_empty(),
        "no BPF program in /proc/{}/fdinfo",
        gateway.pid().as_raw_nonzero()
    );
    load(gateway.plain(), effort)?;
    let last = run_times(gateway.pid())?;
    let names = program_names();
    let calls = f64::from(effort.calls);
    Ok(last
        .into_iter()
        .map(|(id, (ns, runs))| {
            let (ns_before, runs_before) = first.get(&id).copied().unwrap_or_default();
            Program {
                name: names
                    .get(&id)
                    .cloned()
                    .unwrap_or_else(|| format!("program {id}")),
                runs_per_call: (runs - runs_before) as f64 / calls,
                ns_per_call: (ns - ns_before) as f64 / calls,
            }
        })
        .filter(|program| program.runs_per_call > 0.0)
        .collect())
}

/// Run time (ns) and runs of every program a process holds, by id.
fn run_times(pid: Pid) -> anyhow::Result<BTreeMap<u64, (u64, u64)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", pid.as_raw_nonzero()))? {
        // Descriptors come and go while we look.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let value = |name: &str| {
            text.lines().find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .trim()
                    .parse()
                    .ok()
            })
        };
        if let (Some(id), Some(ns), Some(runs)) =
            (value("prog_id"), value("run_time_ns"), value("run_cnt"))
        {
            found.insert(id, (ns, runs));
        }
    }
    Ok(found)
}

/// Names of the loaded programs by id, where bpftool is there to ask.
fn program_names() -> BTreeMap<u64, String> {
    let listed = Command::new("bpftool")
        .args(["prog", "show", "--json"])
        .output();
    let listed = listed
        .ok()
        .and_then(|output| serde_json::from_slice(&output.stdout).ok());
    let programs: Vec<Value> = listed.unwrap_or_default();
    programs
        .iter()
        .filter_map(|one| Some((one["id"].as_u64()?, one["name"].as_str()?.to_owned())))
        .collect()
}

/// What an nginx is for.
#[derive(Clone, Copy)]
enum Role {
    /// Answers everything with a few bytes.
    Backend,
    /// Forwards everything to the backend, with or without a line per call.
    Proxy { log: bool },
}

/// An nginx of our own, one process without a master, so that its time is easily read.
struct Nginx {
    /// First, so that the process ends before its directory goes.
    _guard: Guard,
    address: SocketAddr,
    pid: Pid,
    /// Configuration and log; removed with it.
    #[cfg_attr(not(test), expect(dead_code, reason = "held for its Drop"))]
    directory: Scratch,
}

impl Nginx {
    fn start(role: Role, backend: Option<SocketAddr>) -> anyhow::Result<Self> {
        let directory = Scratch::new("calltap-nginx-")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = directory.path().join("nginx.conf");
        fs::write(
            &file,
            nginx_configuration(role, directory.path(), address, backend),
        )?;
        let child = Command::new("nginx")
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("stderr"))?)
            .spawn()
            .context("cannot run nginx")?;
        let pid = Pid::from_child(&child);
        let guard = Guard::new(move || end(child));
        let deadline = Instant::now() + NGINX_START_MAX;
        while TcpStream::connect(address).is_err() {
            if Instant::now() >= deadline {
                let said = fs::read_to_string(directory.path().join("stderr")).unwrap_or_default();
                bail!("nginx does not listen on {address}: {said}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self {
            address,
            pid,
            directory,
            _guard: guard,
        })
    }
}

fn nginx_configuration(
    role: Role,
    directory: &Path,
    address: SocketAddr,
    backend: Option<SocketAddr>,
) -> String {
    let directory = directory.display();
    let location = match backend {
        None => "return 200 '{\"ok\":true,\"items\":[1,2,3,4,5,6,7,8,9,10]}\\n';",
        Some(_) => {
            "proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";"
        }
    };
    let upstream = backend.map_or(String::new(), |backend| {
        format!(
            "upstream backend {{ server {backend}; keepalive 4096; keepalive_requests 100000000; }}"
        )
    });
    // The richest line nginx can print: what it has of TCP is TCP_INFO when it logs.
    let log = match role {
        Role::Proxy { log: true } => format!(
            "log_format tcp escape=json '{{\"time\":\"$time_iso8601\",\"id\":\"$request_id\",\
             \"method\":\"$request_method\",\"path\":\"$request_uri\",\"status\":$status,\
             \"client\":\"$remote_addr:$remote_port\",\"bytes\":$bytes_sent,\
             \"total\":$request_time,\"upstream\":\"$upstream_response_time\",\
             \"connect\":\"$upstream_connect_time\",\"rtt\":$tcpinfo_rtt,\
             \"rttvar\":$tcpinfo_rttvar,\"cwnd\":$tcpinfo_snd_cwnd,\"rcv\":$tcpinfo_rcv_space}}';\
             \n  access_log {directory}/calls.log tcp buffer=64k flush=1s;"
        ),
        Role::Backend | Role::Proxy { log: false } => "access_log off;".to_owned(),
    };
    format!(
        "daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  {log}\n  keepalive_requests 100000000;\n  {upstream}\n\
         client_body_temp_path {directory}/body;\n  proxy_temp_path {directory}/proxy;\n\
         fastcgi_temp_path {directory}/fastcgi;\n  uwsgi_temp_path {directory}/uwsgi;\n\
         scgi_temp_path {directory}/scgi;\n\
         server {{ listen {address}; location / {{ {location} }} }}\n}}\n"
    )
}

fn end(mut child: Child) {
    let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::TERM);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_is_between_the_middle_two() {
        let of = |us_per_call| Variant {
            name: "v",
            us_per_call,
            base: 0,
        };
        let variant = of(vec![9.0, 1.0, 3.0, 4.0]);
        assert_eq!(variant.median_us(), 3.5);
        assert_eq!(variant.range_us(), (1.0, 9.0));
        assert_eq!(variant.more_than_us(&of(vec![8.0, 1.0, 1.0, 4.0])), 0.5);
    }

    #[test]
    fn a_logging_peer_writes_a_line_per_call() {
        if let Some(missing) = missing() {
            eprintln!("SKIPPED: {missing}");
            return;
        }
        let backend = Nginx::start(Role::Backend, None).unwrap();
        let peer = Nginx::start(Role::Proxy { log: true }, Some(backend.address)).unwrap();
        let effort = Effort {
            calls: 50,
            rounds: 1,
            connections: 2,
            workers: 1,
        };
        load(peer.address, effort).unwrap();
        let file = peer.directory.path().join("calls.log");
        // Its buffer goes out when it ends.
        rustix::process::kill_process(peer.pid, Signal::TERM).unwrap();
        let lines = || {
            fs::read_to_string(&file)
                .unwrap_or_default()
                .lines()
                .count()
        };
        let deadline = Instant::now() + NGINX_START_MAX;
        while lines() < 50 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(lines(), 50);
    }

    #[test]
    fn a_process_has_times() {
        let own = rustix::process::getpid();
        let before = cpu_ticks(own).unwrap();
        assert!(cpu_ticks(own).unwrap() >= before);
    }
}
