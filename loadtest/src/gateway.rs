//! The calltap under test: its file, its process, its admin API.
//!
//! Knows the command line, the keys of the configuration and the JSON of the status, as a user
//! would. Kills only the process it started.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal};
use serde::Serialize;
use serde_json::Value;

use crate::cleanup::{Guard, Scratch};
use crate::plan::ROUTES;
use crate::wire::Wire;

/// A gateway that does not listen by then has failed to start.
const START_MAX: Duration = Duration::from_secs(30);
/// A gateway that did not leave by then is killed.
const STOP_MAX: Duration = Duration::from_secs(20);
/// The configuration's file in the gateway's directory.
const CONFIGURATION: &str = "calltap.toml";
/// The admin API answers within this time or not at all.
const ADMIN_MAX: Duration = Duration::from_secs(10);

/// How a gateway is configured and run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The binary.
    pub calltap: PathBuf,
    /// `auto`, `ebpf`, `tcp_info` or `off`.
    pub tap: &'static str,
    /// `records.path`; relative paths are below [`Gateway::directory`].
    pub records: String,
    /// `records.queue_max`.
    pub queue_max: Option<u32>,
    /// Proxy threads; `None` leaves the default.
    pub workers: Option<u32>,
    /// The address listened on. Ports are chosen.
    pub address: IpAddr,
    /// The backend; every route ends there.
    pub backend: SocketAddr,
    /// The backend's authority and name, where it speaks TLS.
    pub backend_tls: Option<(PathBuf, String)>,
    /// Further endpoints of the backend, after `backend`.
    pub more_endpoints: Vec<SocketAddr>,
    /// The certificate and key with which the first listener speaks TLS.
    pub listener_tls: Option<(PathBuf, PathBuf)>,
    /// Other keys than the defaults': table, key and value in TOML. `upstreams.backend` is a table.
    pub keys: Vec<(&'static str, &'static str, String)>,
    /// One catch-all route only, where the mix of [`plan`](crate::plan) is not what is asked.
    pub plain_routes: bool,
    /// So many further routes, `/r0/{*rest}` and so on, to the same backend.
    pub numbered_routes: u32,
    /// Further listeners and all routes, in TOML, instead of those of the mix.
    pub own_routes: Option<String>,
    /// A program and its arguments that run calltap: `nsenter --net=...`, `unshare ...`.
    pub wrapper: Vec<String>,
    /// Where the admin API listens from; a namespace's loopback is not ours.
    pub admin_namespace: Option<crate::lab::Namespace>,
    /// Keep standard output as a pipe for the caller.
    pub pipe_stdout: bool,
}

impl Setup {
    /// calltap on loopback before `backend`, with everything else as the defaults have it.
    pub fn new(calltap: impl Into<PathBuf>, backend: SocketAddr) -> Self {
        Self {
            calltap: calltap.into(),
            tap: "auto",
            records: "calls.jsonl".to_owned(),
            queue_max: None,
            workers: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            backend,
            backend_tls: None,
            more_endpoints: Vec::new(),
            listener_tls: None,
            keys: Vec::new(),
            plain_routes: false,
            numbered_routes: 0,
            own_routes: None,
            wrapper: Vec::new(),
            admin_namespace: None,
            pipe_stdout: false,
        }
    }
}

/// A running calltap; ends when dropped.
pub struct Gateway {
    /// First, so that the process ends before its directory goes.
    _guard: Guard,
    child: Arc<Mutex<Child>>,
    pid: Pid,
    directory: Scratch,
    records: PathBuf,
    plain: SocketAddr,
    h2c: SocketAddr,
    admin: SocketAddr,
    admin_namespace: Option<crate::lab::Namespace>,
}

/// The counters of one sink and kind, as the status shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stages {
    /// `json_lines`, ...
    pub sink: String,
    /// `call`, `connection`, ...
    pub kind: String,
    /// Begun ever.
    pub accepted: u64,
    /// Open calls.
    pub open: u64,
    /// Waiting for their last acknowledgement.
    pub settling: u64,
    /// Waiting for the sink.
    pub queued: u64,
    /// Written.
    pub written: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Stages {
    /// Dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// `accepted = open + settling + queued + written + dropped`.
    pub fn balanced(&self) -> bool {
        self.accepted
            == self.open + self.settling + self.queued + self.written + self.dropped_total()
    }

    /// Nothing is under way.
    pub fn at_rest(&self) -> bool {
        self.open + self.settling + self.queued == 0
    }
}

impl Gateway {
    /// Writes the configuration, starts the process and waits until it listens.
    pub fn start(setup: &Setup) -> anyhow::Result<Self> {
        ensure!(
            setup.calltap.is_file(),
            "{} is no binary; build it (cargo build -p calltap) or name it with --calltap",
            setup.calltap.display()
        );
        let directory = Scratch::new("calltap-loadtest-")?;
        let ports = match &setup.admin_namespace {
            Some(namespace) => namespace.run(|| free_ports(setup.address))?,
            None => free_ports(setup.address),
        }?;
        let [plain, h2c, admin_port, dead] = ports;
        let admin = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), admin_port.port());
        let file = directory.path().join(CONFIGURATION);
        fs::write(&file, configuration(setup, plain, h2c, admin, dead))?;

        let calltap = fs::canonicalize(&setup.calltap)?;
        let mut words = setup
            .wrapper
            .iter()
            .map(AsRef::as_ref)
            .chain([calltap.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or(calltap.as_os_str()));
        command
            .args(words)
            .arg("run")
            .arg("--config")
            .arg(&file)
            .current_dir(directory.path());
        command.stdin(Stdio::null());
        command.stdout(if setup.pipe_stdout {
            Stdio::piped()
        } else {
            Stdio::from(File::create(directory.path().join("stdout"))?)
        });
        command.stderr(File::create(directory.path().join("stderr"))?);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let pid = Pid::from_child(&child);
        let child = Arc::new(Mutex::new(child));
        let guarded = child.clone();
        let gateway = Self {
            pid,
            records: directory.path().join(&setup.records),
            directory,
            plain,
            h2c,
            admin,
            admin_namespace: setup.admin_namespace.clone(),
            _guard: Guard::new(move || stop(&guarded)),
            child,
        };
        gateway.wait_ready()?;
        Ok(gateway)
    }

    /// Where it takes HTTP/1.1.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// Where it takes HTTP/2 by prior knowledge.
    pub fn h2c(&self) -> SocketAddr {
        self.h2c
    }

    /// The records' file.
    pub fn records(&self) -> &Path {
        &self.records
    }

    /// Its working directory: configuration, `stderr`, relative paths.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its standard output, once, if it was asked to be a pipe.
    pub fn take_stdout(&self) -> Option<std::process::ChildStdout> {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stdout
            .take()
    }

    /// `GET /api/v1/status`.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.admin("/api/v1/status")
    }

    /// `GET path` of the admin API.
    pub fn admin(&self, path: &str) -> anyhow::Result<Value> {
        admin_get(self.admin, path, self.admin_namespace.as_ref())
    }

    /// Adds `text` to the end of the configuration and has it read again.
    pub fn reload_with(&self, text: &str) -> anyhow::Result<()> {
        let file = self.directory.path().join(CONFIGURATION);
        let before = fs::read_to_string(&file)?;
        fs::write(&file, before + text)?;
        self.signal(Signal::HUP)?;
        Ok(())
    }

    /// The conservation counters.
    pub fn stages(&self) -> anyhow::Result<Vec<Stages>> {
        Ok(stages(&self.status()?))
    }

    /// Waits until nothing is open, settling or queued, and returns the counters then, or those at
    /// the end of the patience.
    pub fn wait_rest(&self, patience: Duration) -> anyhow::Result<Vec<Stages>> {
        let deadline = Instant::now() + patience;
        loop {
            let stages = self.stages()?;
            ensure!(
                !stages.is_empty(),
                "the status holds no conservation counters"
            );
            if stages.iter().all(Stages::at_rest) || Instant::now() >= deadline {
                return Ok(stages);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the gateway said of itself, for error messages.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(self.pid, signal)?)
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let exited = self
                .child
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .try_wait()?;
            if let Some(status) = exited {
                bail!("calltap ended at once ({status}):\n{}", self.stderr());
            }
            if self.status().is_ok() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "calltap's admin API did not answer on {} within {} s:\n{}",
                    self.admin,
                    START_MAX.as_secs(),
                    self.stderr()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Where the binary under test is: `CALLTAP` in the environment, or beside the running program.
pub fn default_calltap() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("CALLTAP") {
        return Ok(named.into());
    }
    let own = std::env::current_exe()?;
    let directory = own.parent().context("this program is in no directory")?;
    // Tests are one level below the binaries.
    let directory = if directory.ends_with("deps") {
        directory.parent()
    } else {
        Some(directory)
    };
    Ok(directory
        .context("no directory of binaries")?
        .join("calltap"))
}

/// `GET path` on an admin API, as JSON.
pub fn admin_get(
    admin: SocketAddr,
    path: &str,
    namespace: Option<&crate::lab::Namespace>,
) -> anyhow::Result<Value> {
    let ask = || -> anyhow::Result<Value> {
        let stream = TcpStream::connect_timeout(&admin, ADMIN_MAX)?;
        stream.set_read_timeout(Some(ADMIN_MAX))?;
        let mut wire = Wire::new(stream);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {admin}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
        );
        wire.write(request.as_bytes())?;
        let head = wire
            .read_response()?
            .context("the admin API closed without an answer")?;
        let mut text = Vec::new();
        let body = wire.read_text(head.body_length("GET"), &mut text)?;
        ensure!(body.complete, "the admin API's answer to {path} broke off");
        ensure!(
            head.status == 200,
            "the admin API answered {path} with {}: {}",
            head.status,
            String::from_utf8_lossy(&text)
        );
        Ok(serde_json::from_slice(&text)?)
    };
    match namespace {
        Some(namespace) => namespace.run(ask)?,
        None => ask(),
    }
}

/// The conservation counters in a status, wherever in it they are: by sink, then by kind.
pub fn stages(status: &Value) -> Vec<Stages> {
    let mut found = Vec::new();
    collect(status, &mut Vec::new(), &mut found);
    found
}

fn collect<'a>(value: &'a Value, path: &mut Vec<&'a str>, found: &mut Vec<Stages>) {
    let Some(object) = value.as_object() else {
        return;
    };
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    if let (Some(accepted), Some(open), Some(settling), Some(queued), Some(written)) = (
        number("accepted"),
        number("open"),
        number("settling"),
        number("queued"),
        number("written"),
    ) {
        let dropped = object.get("dropped").and_then(Value::as_object);
        found.push(Stages {
            sink: path
                .iter()
                .rev()
                .nth(1)
                .copied()
                .unwrap_or_default()
                .to_owned(),
            kind: path.last().copied().unwrap_or_default().to_owned(),
            accepted,
            open,
            settling,
            queued,
            written,
            dropped: dropped
                .into_iter()
                .flatten()
                .filter_map(|(reason, count)| Some((reason.clone(), count.as_u64()?)))
                .collect(),
        });
        return;
    }
    for (key, inner) in object {
        path.push(key);
        collect(inner, path, found);
        path.pop();
    }
}

fn configuration(
    setup: &Setup,
    plain: SocketAddr,
    h2c: SocketAddr,
    admin: SocketAddr,
    dead: SocketAddr,
) -> String {
    let mut text = String::new();
    if let Some(workers) = setup.workers {
        text += &format!("workers = {workers}\n");
    }
    text += &format!("[[listeners]]\naddress = \"{plain}\"\n");
    if let Some((certificate, key)) = &setup.listener_tls {
        let (certificate, key) = (certificate.display(), key.display());
        text += &format!("tls = {{ certificate = \"{certificate}\", key = \"{key}\" }}\n");
    }
    text += &format!("[[listeners]]\naddress = \"{h2c}\"\nh2c = true\n");
    if let Some(own) = &setup.own_routes {
        text += own;
    } else if setup.plain_routes {
        text += "[[routes]]\nname = \"all\"\npath = \"/{*rest}\"\nupstream = \"backend\"\n";
    } else {
        for (name, path, upstream) in ROUTES {
            text += &format!(
                "[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"{upstream}\"\n"
            );
            if *name == "retried" {
                text += "strip_prefix = \"/retried\"\n";
            }
        }
    }
    for number in 0..setup.numbered_routes {
        text += &format!(
            "[[routes]]\nname = \"r{number}\"\npath = \"/r{number}/{{*rest}}\"\nupstream = \"backend\"\n"
        );
    }
    let backend = setup.backend;
    let endpoints: Vec<String> = [backend]
        .iter()
        .chain(&setup.more_endpoints)
        .map(|endpoint| format!("\"{endpoint}\""))
        .collect();
    let mut tables: Vec<(&str, String)> = vec![(
        "upstreams.backend",
        format!("endpoints = [{}]\n", endpoints.join(", ")),
    )];
    if let Some((authority, name)) = &setup.backend_tls {
        let authority = authority.display();
        tables[0].1 += &format!("tls = {{ server_name = \"{name}\", ca = \"{authority}\" }}\n");
    }
    if !setup.plain_routes && setup.own_routes.is_none() {
        tables.push(("upstreams.dead", format!("endpoints = [\"{dead}\"]\n")));
        tables.push((
            "upstreams.half",
            format!("endpoints = [\"{dead}\", \"{backend}\"]\nretries = 2\n"),
        ));
    }
    let queue_max = setup
        .queue_max
        .map(|count| format!("queue_max = {count}\n"));
    tables.push((
        "records",
        format!(
            "path = \"{}\"\nconnections_per_s_max = 1000000\n{}",
            setup.records,
            queue_max.unwrap_or_default()
        ),
    ));
    let trusted = "trusted_peers = [\"127.0.0.0/8\", \"::1/128\", \"10.0.0.0/8\"]\n";
    tables.push(("proxy", trusted.to_owned()));
    tables.push(("tap", format!("mode = \"{}\"\n", setup.tap)));
    tables.push(("admin", format!("address = \"{admin}\"\n")));
    for (table, key, value) in &setup.keys {
        let at = tables.iter().position(|(name, _)| name == table);
        let at = at.unwrap_or_else(|| {
            tables.push((table, String::new()));
            tables.len() - 1
        });
        tables[at].1 += &format!("{key} = {value}\n");
    }
    for (table, lines) in tables {
        text += &format!("[{table}]\n{lines}");
    }
    text
}

/// Four different free ports. Another process may take one before calltap does; then its start
/// fails and says so.
fn free_ports(address: IpAddr) -> io::Result<[SocketAddr; 4]> {
    let mut held = Vec::new();
    let mut ports = [SocketAddr::new(address, 0); 4];
    for port in &mut ports {
        let listener = TcpListener::bind(*port)?;
        *port = listener.local_addr()?;
        held.push(listener);
    }
    Ok(ports)
}

fn stop(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // A process that is gone already was reaped or is a zombie: its pid is still ours.
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let pid = Pid::from_child(&child);
    let _ = rustix::process::kill_process(pid, Signal::CONT);
    let _ = rustix::process::kill_process(pid, Signal::TERM);
    let deadline = Instant::now() + STOP_MAX;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found_by_sink_and_kind() {
        let status = serde_json::json!({
            "uptime_s": 3,
            "records": {"json_lines": {"call": {
                "accepted": 9, "open": 1, "settling": 2, "queued": 0, "written": 5,
                "dropped": {"queue_full": 1}
            }}}
        });
        let found = stages(&status);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].sink.as_str(), found[0].kind.as_str()),
            ("json_lines", "call")
        );
        assert!(found[0].balanced() && !found[0].at_rest());
        assert_eq!(found[0].dropped_total(), 1);
    }
}
