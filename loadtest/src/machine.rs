//! On what machine a run was made, and on which day: what a page of figures has to say.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::Context as _;

/// Today, UTC: `2026-01-31`.
pub fn date() -> anyhow::Result<String> {
    let output = Command::new("date")
        .args(["-u", "+%F"])
        .output()
        .context("cannot run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The running kernel's release.
pub fn kernel() -> String {
    read("/proc/sys/kernel/osrelease").trim().to_owned()
}

/// Processor, cores and kernel.
pub fn describe() -> String {
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor".to_owned(), |(_, name)| {
            name.trim().to_owned()
        });
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores, Linux {}", kernel())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
