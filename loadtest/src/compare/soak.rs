//! calltap with all on, saturated for as long as is asked: is there a record of every call?

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::cleanup::Guard;
use crate::compare::books::{Memory, Times};
use crate::compare::statistics::median;
use crate::compare::subject::Subject;

/// Connections of the load.
const CONNECTIONS: u32 = 32;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// What is resident in the last quarter may be so much more than in the second one. The first is
/// for queues and pools to find their size.
const GROWTH_MAX: f64 = 1.05;
/// The name of a record in its line.
const UID: &str = "\"log.record.uid\":\"";

/// What became of the calls.
#[derive(Debug, Serialize)]
pub struct Soak {
    /// Calls that the load made and that succeeded.
    pub calls: u64,
    /// How long that took.
    pub seconds: f64,
    /// Processor time of calltap meanwhile, in cores: 1.0 is all that one worker can have.
    pub cores: f64,
    /// Calls that calltap counted.
    pub accepted: u64,
    /// Records it says it wrote.
    pub written: u64,
    /// Records it says it dropped.
    pub dropped: u64,
    /// Records of calls in the files, each with another name.
    pub records: u64,
    /// Resident, every half second.
    pub resident_bytes: Vec<u64>,
}

impl Soak {
    /// Every call has one record, and nothing was dropped.
    pub fn complete(&self) -> bool {
        self.dropped == 0
            && [self.accepted, self.written, self.records]
                .iter()
                .all(|count| *count == self.calls)
    }

    /// What was resident in the second quarter, and in the last one, bytes.
    pub fn resident(&self) -> (f64, f64) {
        let quarter = self.resident_bytes.len() / 4;
        let of = |quarters: &[u64]| median(&quarters.iter().map(|b| *b as f64).collect::<Vec<_>>());
        let from = |at: usize| &self.resident_bytes[at * quarter..(at + 1) * quarter];
        (of(from(1)), of(from(3)))
    }

    /// Memory did not grow.
    pub fn flat(&self) -> bool {
        let (earlier, last) = self.resident();
        last <= earlier * GROWTH_MAX
    }
}

/// Saturates `subject`, which has served nobody yet, for about `seconds` at `calls_per_s`.
pub fn measure(subject: &Subject, calls_per_s: f64, seconds: f64) -> anyhow::Result<Soak> {
    let calltap = subject.calltap().context("only calltap has records")?;
    let calls = (calls_per_s * seconds) as u64;
    let before = Times::now(subject.pid())?;
    let begin = Instant::now();
    let mut command = Command::new("h2load");
    command
        .args(["--h1", "-t", "1", "-c", &CONNECTIONS.to_string()])
        .args(["-n", &calls.to_string()])
        .arg(format!("http://{}/", subject.plain()));
    let output = calltap.directory().join("load");
    let child = command
        .stdin(Stdio::null())
        .stdout(File::create(&output)?)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run h2load")?;
    let child = std::sync::Arc::new(std::sync::Mutex::new(child));
    let running = || {
        child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let guarded = child.clone();
    let _guard = Guard::new(move || {
        let mut child = guarded
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    });
    let mut resident_bytes = Vec::new();
    while running().try_wait()?.is_none() {
        std::thread::sleep(LOOK);
        resident_bytes.push(Memory::now(subject.pid())?.resident_bytes);
    }
    let wall = begin.elapsed().as_secs_f64();
    let used = Times::now(subject.pid())?.since(&before)?;
    let said = fs::read_to_string(output)?;
    ensure!(
        said.contains(&format!("{calls} succeeded")),
        "not every call succeeded: {said}"
    );
    let stages = subject.stages()?;
    let of_calls = stages.iter().find(|stages| stages.kind == "call");
    let of_calls = of_calls.context("the status has no counters of calls")?;
    Ok(Soak {
        calls,
        seconds: wall,
        cores: used.as_secs_f64() / wall,
        accepted: of_calls.accepted,
        written: of_calls.written,
        dropped: of_calls.dropped_total(),
        records: records(calltap.records())?,
        resident_bytes,
    })
}

/// How many different records of calls there are in a file and those it was rotated to.
fn records(path: &Path) -> anyhow::Result<u64> {
    let mut seen = HashSet::new();
    for file in files(path)? {
        let mut lines = BufReader::with_capacity(1 << 20, File::open(&file)?);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            if line.contains("\"kind\":\"call\"") {
                let uid = line
                    .split_once(UID)
                    .and_then(|(_, rest)| rest.split('"').next());
                let uid = uid.context("a record without a name")?;
                seen.insert(uid.parse::<uuid::Uuid>()?);
            }
            line.clear();
        }
    }
    Ok(seen.len() as u64)
}

/// `path` itself, and `path.1` and so on.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = path.file_name().context("no file")?.to_string_lossy();
    let directory = path.parent().context("no directory")?;
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&*name) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soak(records: u64, last: u64) -> Soak {
        let mut resident_bytes = vec![100; 12];
        resident_bytes[..3].fill(50);
        resident_bytes[9..].fill(last);
        Soak {
            calls: 10,
            seconds: 1.0,
            cores: 1.0,
            accepted: 10,
            written: 10,
            dropped: 0,
            records,
            resident_bytes,
        }
    }

    #[test]
    fn a_missing_record_and_growing_memory_are_noticed() {
        assert!(soak(10, 105).complete() && soak(10, 105).flat());
        assert!(!soak(9, 100).complete());
        assert!(!soak(10, 106).flat());
    }

    #[test]
    fn rotated_files_count_and_copies_do_not() {
        let scratch = crate::cleanup::Scratch::new("calltap-compare-test-").unwrap();
        let line = |kind, uid| {
            format!("{{\"kind\":\"{kind}\",{UID}0000000000000000000000000000000{uid}\"}}\n")
        };
        let path = scratch.path().join("calls.jsonl");
        fs::write(
            &path,
            line("call", 1) + &line("call", 2) + &line("connection", 3),
        )
        .unwrap();
        fs::write(
            scratch.path().join("calls.jsonl.1"),
            line("call", 2) + &line("call", 4),
        )
        .unwrap();
        assert_eq!(records(&path).unwrap(), 3);
    }
}
