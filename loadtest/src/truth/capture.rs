//! `tcpdump` on one interface, from its first word to its last.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};

use crate::cleanup::Guard;
use crate::lab::Namespace;

/// What a capture may hold until tcpdump wrote it, KiB; a loaded machine is slow to.
const BUFFER_KIB: &str = "131072";
/// The same of a few thousand packets.
const SMALL_BUFFER_KIB: &str = "16384";
/// Nothing was written for this long, though packets are written as they come: it is quiet. Longer
/// than the kernel keeps a block of packets that is not full.
const QUIET: Duration = Duration::from_millis(1_300);
/// Traffic that does not end by then is not waited for.
const QUIET_MAX: Duration = Duration::from_secs(30);

/// A running tcpdump; killed when dropped.
pub struct Capture {
    child: Arc<Mutex<Child>>,
    said: BufReader<ChildStderr>,
    file: PathBuf,
    _guard: Guard,
}

impl Capture {
    /// Captures the TCP packets on `device` of `host` into `file`, the first `snap` bytes of each,
    /// and returns when it has begun.
    pub fn start(host: &Namespace, device: &str, file: &Path, snap: u32) -> anyhow::Result<Self> {
        Self::run(host, device, file, snap, &["-B", BUFFER_KIB])
    }

    /// The same of so few packets that each is written as it comes: nobody has to wait for quiet.
    pub fn start_small(
        host: &Namespace,
        device: &str,
        file: &Path,
        snap: u32,
    ) -> anyhow::Result<Self> {
        let few = ["--immediate-mode", "-B", SMALL_BUFFER_KIB];
        Self::run(host, device, file, snap, &few)
    }

    fn run(
        host: &Namespace,
        device: &str,
        file: &Path,
        snap: u32,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = host.command("tcpdump");
        command.args(["-i", device, "-n", "-U", "-Z", "root"]);
        command.args(more);
        command.args(["--time-stamp-precision=nano", "-s", &snap.to_string(), "-w"]);
        command.arg(file).arg("tcp").stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run tcpdump")?;
        let mut said = BufReader::new(child.stderr.take().context("no stderr")?);
        let child = Arc::new(Mutex::new(child));
        let guarded = child.clone();
        let guard = Guard::new(move || {
            let mut child = guarded.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        });
        let mut all = String::new();
        while !all.contains("listening on") {
            let got = said.read_line(&mut all)?;
            ensure!(got > 0, "tcpdump ended at once: {}", all.trim());
        }
        Ok(Self {
            child,
            said,
            file: file.to_owned(),
            _guard: guard,
        })
    }

    /// Ends it and returns how many packets it lost.
    pub fn stop(mut self) -> anyhow::Result<u64> {
        let pid = Pid::from_child(&self.child.lock().unwrap_or_else(PoisonError::into_inner));
        rustix::process::kill_process(pid, Signal::INT)?;
        let mut said = String::new();
        self.said.read_to_string(&mut said)?;
        lost(&said).with_context(|| format!("tcpdump ended without its counters: {said}"))
    }
}

/// Waits until none of `captures` grows.
pub fn wait_quiet(captures: &[Capture]) {
    let sizes = || -> Vec<u64> {
        let size = |capture: &Capture| fs::metadata(&capture.file).map_or(0, |file| file.len());
        captures.iter().map(size).collect()
    };
    let deadline = Instant::now() + QUIET_MAX;
    let (mut before, mut since) = (sizes(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
        let now = sizes();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// Packets dropped by the kernel and by the interface, as tcpdump's closing lines have it.
fn lost(said: &str) -> Option<u64> {
    let counted = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
    let mut lines = said.lines().filter(|line| line.contains(" dropped by "));
    let kernel = counted(lines.next()?)?;
    Some(kernel + lines.filter_map(counted).sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_tell_what_was_lost() {
        let said = "10 packets captured\n12 packets received by filter\n\
                    2 packets dropped by kernel\n3 packets dropped by interface\n";
        assert_eq!(lost(said), Some(5));
        assert_eq!(lost("1 packet dropped by kernel\n"), Some(1));
        assert_eq!(lost("killed\n"), None);
    }
}
