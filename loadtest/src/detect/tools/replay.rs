//! Shows made-up calls to calltap's detectors, by `calltap replay`, as fast as it takes them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, BufWriter};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::made_up;
use super::template::Templates;
use crate::cleanup::{Guard, Scratch};

/// Alerts of which the summary is kept.
const TOLD_MAX: usize = 40;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Replayed {
    /// How many calls.
    pub calls: u64,
    /// How many days of their own time.
    pub days: f64,
    /// Alerts that opened, by detector; all of them are false.
    pub wrong: BTreeMap<String, u64>,
    /// What the first of them said.
    pub told: Vec<String>,
    /// What the policies took of a record, ns.
    pub policies_ns: f64,
    /// What the process held at most, KiB.
    pub memory_kib: u64,
    /// Bytes that detectors keep of each client, route and consumer.
    pub bytes_per_key: BTreeMap<String, u64>,
}

/// Makes up `calls` calls and replays them.
pub fn replay(
    calltap: &Path,
    templates: &Templates,
    calls: u64,
    seed: u64,
) -> anyhow::Result<Replayed> {
    let scratch = Scratch::new("calltap-replay-")?;
    // As everybody has it: no key of a detector is set.
    let config = scratch.path().join("calltap.toml");
    fs::write(&config, "[policies]\n")?;
    let mut command = Command::new(calltap);
    command
        .args(["replay", "-", "--json", "--config"])
        .arg(&config);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(scratch.path().join("stderr"))?)
        .spawn()
        .with_context(|| calltap.display().to_string())?;
    let input = child.stdin.take().context("no standard input")?;
    let output = child.stdout.take().context("no standard output")?;
    let pid = child.id();
    let child = Arc::new(Mutex::new(child));
    let guarded = child.clone();
    let _guard = Guard::new(move || {
        let mut child = guarded.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    });
    let mut replayed = Replayed::default();
    let mut summed = false;
    let written = thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut input = BufWriter::with_capacity(1 << 20, input);
            let written = made_up::write(templates, calls, seed, &mut input)?;
            // It is there for as long as its input is open.
            anyhow::Ok((written, memory_kib(pid)?))
        });
        for line in BufReader::new(output).lines() {
            summed |= replayed.take(&line?)?;
        }
        writing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let status = child
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .wait()?;
    let said = fs::read_to_string(scratch.path().join("stderr"))?;
    match written {
        Ok((written, memory_kib)) if status.success() && summed => {
            replayed.days = written.days;
            replayed.memory_kib = memory_kib;
            Ok(replayed)
        }
        Err(error) if status.success() => Err(error),
        _ => bail!("calltap replay ended with {status}:\n{said}"),
    }
}

/// The most that a process ever held.
fn memory_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|most| most.trim().strip_suffix(" kB")?.parse().ok());
    most.context("the process does not say what it held")
}

impl Replayed {
    /// Takes in a line of what the replay prints; `true` for the last one, the summary.
    fn take(&mut self, line: &str) -> anyhow::Result<bool> {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        // An alert has one, too, of words.
        if let Some(summary @ Value::Object(_)) = line.get("summary") {
            let number = |name: &str| summary[name].as_f64();
            self.calls = summary["calls"].as_u64().context("no number of calls")?;
            self.policies_ns = number("policies_ns_per_record").context("no time of policies")?;
            let keys = summary["keys"].as_object().context("no keys")?;
            for (what, usage) in keys {
                let bytes = usage["bytes_per_key"].as_u64().context("no bytes")?;
                self.bytes_per_key.insert(what.clone(), bytes);
            }
            if summary["bad_lines"] != 0 {
                bail!("{} lines were no records to calltap", summary["bad_lines"]);
            }
            return Ok(true);
        }
        if line["state"] == "open" {
            let detector = line["detector"].as_str().context("an alert of nobody")?;
            *self.wrong.entry(detector.to_owned()).or_default() += 1;
            if self.told.len() < TOLD_MAX {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let subject = &line["subject"];
                self.told.push(format!(
                    "{}, {detector} about {} {}: {}",
                    text(&line["opened"]),
                    text(&subject["kind"]),
                    text(&subject["name"]),
                    text(&line["summary"]),
                ));
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_count_and_the_summary_ends() {
        let mut replayed = Replayed::default();
        let opened = r#"{"detector":"route_rate","state":"open","opened":"2026-01-01T00:00:00Z",
            "subject":{"kind":"route","name":"/orders"},"summary":"many"}"#
            .replace('\n', "");
        assert!(!replayed.take(&opened).unwrap());
        assert!(
            !replayed
                .take(&opened.replace("\"open\"", "\"resolved\""))
                .unwrap()
        );
        assert_eq!(
            replayed.wrong,
            BTreeMap::from([("route_rate".to_owned(), 1)])
        );
        assert_eq!(
            replayed.told,
            ["2026-01-01T00:00:00Z, route_rate about route /orders: many"]
        );
        let summary = r#"{"summary":{"calls":7,"bad_lines":0,"policies_ns_per_record":1500,
            "keys":{"clients":{"known":3,"refused":0,"bytes_per_key":400}}}}"#
            .replace('\n', "");
        assert!(replayed.take(&summary).unwrap());
        assert_eq!((replayed.calls, replayed.policies_ns), (7, 1_500.0));
        assert_eq!(replayed.bytes_per_key["clients"], 400);
        assert!(replayed.take(&summary.replace(":0", ":2")).is_err());
        assert!(replayed.take("error").is_err());
    }
}
