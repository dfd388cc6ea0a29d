//! The process under test.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::record::Record;
use super::wait_for;

/// How to start it.
pub(crate) struct Launch {
    directory: TempDir,
    wrapper: Vec<String>,
}

/// A running calltap; killed when dropped.
pub(crate) struct Calltap {
    child: Child,
    pid: Pid,
    directory: TempDir,
    listeners: Vec<SocketAddr>,
}

/// One that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Launch {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::Builder::new()
                .prefix("calltap-e2e-")
                .tempdir()
                .expect("a directory"),
            wrapper: Vec::new(),
        }
    }

    /// Runs it by another program: `nsenter --net=...`, `setpriv ...`.
    pub(crate) fn by(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Where it runs; relative paths of its configuration are below.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let path = self.directory.path();
        let binary = env!("CARGO_BIN_EXE_calltap").to_owned();
        let mut words = self.wrapper.iter().chain([&binary]);
        Command::new(words.next().expect("one at least"))
            .args(words)
            .arg("run")
            .args(arguments)
            .current_dir(path)
            .stdin(Stdio::null())
            .stdout(File::create(path.join("stdout")).expect("created"))
            .stderr(File::create(path.join("stderr")).expect("created"))
            .spawn()
            .expect("calltap starts")
    }

    fn spawn_with(&self, config: &str) -> Child {
        let file = self.directory.path().join("calltap.toml");
        fs::write(file, configuration(config)).expect("written");
        self.spawn(&["--config", "calltap.toml"])
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(self, config: &str) -> Calltap {
        let child = self.spawn_with(config);
        self.listening(child)
    }

    /// The same, configured by flags.
    pub(crate) fn start_with(self, arguments: &[&str]) -> Calltap {
        let child = self.spawn(arguments);
        self.listening(child)
    }

    fn listening(self, child: Child) -> Calltap {
        let pid = Pid::from_child(&child);
        let mut calltap = Calltap {
            child,
            pid,
            directory: self.directory,
            listeners: Vec::new(),
        };
        wait_for("calltap to listen", || {
            let stderr = calltap.stderr();
            if let Some(status) = calltap.child.try_wait().expect("our child") {
                panic!("calltap ended with {status}: {stderr}");
            }
            stderr
                .lines()
                .any(|line| line.contains("tap: "))
                .then_some(())
        });
        calltap.listeners = listeners(&calltap.stderr());
        calltap
    }

    /// Starts what is expected to end on its own.
    pub(crate) fn fail(self, config: &str) -> Ended {
        let mut child = self.spawn_with(config);
        let status = wait_for("calltap to give up", || {
            child.try_wait().expect("our child")
        });
        Ended {
            status,
            stderr: read(&self.directory.path().join("stderr")),
        }
    }
}

/// What tests do not say otherwise. Their own keys follow, so they may not begin with a table of
/// these.
fn configuration(config: &str) -> String {
    let mut all = String::new();
    for (key, default) in [
        ("admin.address", "\"none\""),
        ("workers", "2"),
        ("tap.mode", "\"off\""),
        ("tap.sockets_max", "256"),
    ] {
        if !config.lines().any(|line| line.starts_with(key)) {
            all += &format!("{key} = {default}\n");
        }
    }
    all + config
}

/// A listener, a catch-all route and one plain upstream. `more` are top-level keys.
pub(crate) fn simple(more: &str, backend: impl std::fmt::Display) -> String {
    format!(
        "{more}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[routes]]\nupstream = \"backend\"\n\
         [upstreams.backend]\nendpoints = [\"{backend}\"]\n"
    )
}

fn listeners(stderr: &str) -> Vec<SocketAddr> {
    stderr
        .lines()
        .filter_map(|line| line.split_once("listening on ")?.1.split_once("://"))
        .map(|(_, address)| address.trim().parse().expect("an address"))
        .collect()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Calltap {
    /// With this configuration.
    pub(crate) fn start(config: &str) -> Self {
        Launch::new().start(config)
    }

    /// Its first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Where its admin API listens.
    pub(crate) fn admin(&self) -> SocketAddr {
        let said = self.wait_said("admin API on http://");
        let (_, after) = said.split_once("admin API on http://").expect("it says");
        let address = after.split_whitespace().next().expect("an address");
        address.parse().expect("an address")
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it said so far.
    pub(crate) fn stderr(&self) -> String {
        read(&self.directory.path().join("stderr"))
    }

    /// Waits until it said this; returns everything it said.
    pub(crate) fn wait_said(&self, words: &str) -> String {
        wait_for(&format!("calltap to say {words:?}"), || {
            Some(self.stderr()).filter(|said| said.contains(words))
        })
    }

    /// Whole lines of its log, as they stand.
    pub(crate) fn records_now(&self) -> Vec<Record> {
        let text = read(&self.directory.path().join("calls.jsonl"));
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        text[..end].lines().map(Record::parse).collect()
    }

    /// Waits for so many records.
    pub(crate) fn records(&self, n: usize) -> Vec<Record> {
        wait_for(&format!("{n} records"), || {
            Some(self.records_now()).filter(|records| records.len() >= n)
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("calltap runs");
    }

    /// Waits until it ended on its own or by a signal sent before.
    pub(crate) fn ended(&mut self) -> Ended {
        let status = wait_for("calltap to end", || {
            self.child.try_wait().expect("our child")
        });
        Ended {
            status,
            stderr: self.stderr(),
        }
    }

    /// Waits for so many records, ends calltap in good order, and makes sure that there are not
    /// more. Clients should be gone by then, for calltap waits for them.
    pub(crate) fn finish(mut self, n: usize) -> Vec<Record> {
        self.records(n);
        self.signal(Signal::TERM);
        let ended = self.ended();
        assert!(ended.status.success(), "{ended:?}");
        let mut records = self.records_now();
        assert_eq!(records.len(), n, "{records:#?}");
        // They are written in the order in which they settled.
        records.sort_by(|a, b| a.text("timestamp").cmp(b.text("timestamp")));
        records
    }

    /// As [`finish`](Self::finish), and leaves the directory with what was written.
    pub(crate) fn finish_in(mut self, n: usize) -> TempDir {
        self.records(n);
        self.signal(Signal::TERM);
        let ended = self.ended();
        assert!(ended.status.success(), "{ended:?}");
        let elsewhere = TempDir::new().expect("a directory");
        std::mem::replace(&mut self.directory, elsewhere)
    }

    /// As [`finish`](Self::finish), with exactly one record.
    pub(crate) fn finish_one(self) -> Record {
        self.finish(1).remove(0)
    }
}

impl Drop for Calltap {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("calltap said: {}", self.stderr());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
