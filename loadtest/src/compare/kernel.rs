//! What the kernel says of the BPF programs and maps that a process holds.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use rustix::process::Pid;
use serde::Serialize;
use serde_json::Value;

use crate::cleanup::Guard;

/// The kernel's switch for measuring BPF programs.
const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// `BPF_MAP_TYPE_SK_STORAGE`
const SK_STORAGE: u64 = 24;
/// `struct bpf_local_storage_elem` up to its value: a cache line, and the pointer behind it.
const ELEMENT_HEAD_BYTES: u64 = 72;
/// `struct bpf_local_storage`: a cache of sixteen pointers, and what holds the list.
const STORAGE_BYTES: u64 = 184;

/// One BPF program's run time.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Its name, or its id where names are not known.
    pub name: String,
    /// Runs per call.
    pub runs_per_call: f64,
    /// Its run time per call, ns.
    pub ns_per_call: f64,
}

/// One BPF map.
#[derive(Clone, Debug, Serialize)]
pub struct Map {
    /// The kernel's number of its kind, of `enum bpf_map_type`.
    pub kind: u64,
    /// Of a key.
    pub key_bytes: u64,
    /// Of a value.
    pub value_bytes: u64,
    /// As many as it may hold; 0 if there is no such number.
    pub entries_max: u64,
    /// What the kernel allocated for it at its start.
    pub bytes: u64,
}

impl Map {
    /// It is a storage of sockets, of which each has a value of its own, allocated with it.
    pub fn per_socket(&self) -> bool {
        self.kind == SK_STORAGE
    }

    /// What a storage of sockets allocates for each: the value behind its element's head, and the
    /// socket's list of elements, both as the kernel's allocator rounds them.
    pub fn storage_bytes(&self) -> u64 {
        slab(ELEMENT_HEAD_BYTES + self.value_bytes) + slab(STORAGE_BYTES)
    }
}

/// As the kernel's allocator rounds: to powers of two, and to 96 and 192.
fn slab(bytes: u64) -> u64 {
    match bytes {
        65..=96 => 96,
        129..=192 => 192,
        _ => bytes.next_power_of_two().max(8),
    }
}

/// Run time (ns) and runs of every program, by id.
pub type RunTimes = BTreeMap<u64, (u64, u64)>;

/// Has the kernel measure BPF programs until the guard is dropped.
pub fn measure_programs() -> anyhow::Result<Guard> {
    let before = fs::read_to_string(BPF_STATS).context("cannot read kernel.bpf_stats_enabled")?;
    let restore = Guard::new(move || {
        let _ = fs::write(BPF_STATS, before.trim());
    });
    fs::write(BPF_STATS, "1").context("cannot set kernel.bpf_stats_enabled; run it as root")?;
    Ok(restore)
}

/// The run times of every program a process holds.
pub fn run_times(pid: Pid) -> anyhow::Result<RunTimes> {
    let mut found = BTreeMap::new();
    for held in descriptors(pid)? {
        if let (Some(id), Some(ns), Some(runs)) = (
            held.number("prog_id"),
            held.number("run_time_ns"),
            held.number("run_cnt"),
        ) {
            found.insert(id, (ns, runs));
        }
    }
    ensure!(
        !found.is_empty(),
        "process {} holds no BPF program",
        pid.as_raw_nonzero()
    );
    Ok(found)
}

/// Every map a process holds.
pub fn maps(pid: Pid) -> anyhow::Result<Vec<Map>> {
    let mut found = BTreeMap::new();
    for held in descriptors(pid)? {
        if let (Some(id), Some(kind), Some(bytes)) = (
            held.number("map_id"),
            held.number("map_type"),
            held.number("memlock"),
        ) {
            let map = Map {
                kind,
                key_bytes: held.number("key_size").unwrap_or_default(),
                value_bytes: held.number("value_size").unwrap_or_default(),
                entries_max: held.number("max_entries").unwrap_or_default(),
                bytes,
            };
            found.insert(id, map);
        }
    }
    Ok(found.into_values().collect())
}

/// What ran between two moments, for each of `calls`.
pub fn programs(first: &RunTimes, last: &RunTimes, calls: u64) -> Vec<Program> {
    let names = names();
    last.iter()
        .map(|(id, (ns, runs))| {
            let (ns_before, runs_before) = first.get(id).copied().unwrap_or_default();
            Program {
                name: names
                    .get(id)
                    .cloned()
                    .unwrap_or_else(|| format!("program {id}")),
                runs_per_call: (runs - runs_before) as f64 / calls as f64,
                ns_per_call: (ns - ns_before) as f64 / calls as f64,
            }
        })
        .filter(|program| program.runs_per_call > 0.0)
        .collect()
}

/// Names of the loaded programs by id, where bpftool is there to ask.
fn names() -> BTreeMap<u64, String> {
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

/// The text of one descriptor in `/proc/PID/fdinfo`.
struct Descriptor(String);

impl Descriptor {
    fn number(&self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .parse()
                .ok()
        })
    }
}

fn descriptors(pid: Pid) -> anyhow::Result<Vec<Descriptor>> {
    let directory = fs::read_dir(format!("/proc/{}/fdinfo", pid.as_raw_nonzero()))?;
    // Descriptors come and go while we look.
    let texts = directory.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    Ok(texts.map(Descriptor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_a_map_is_read() {
        let text = "pos:\t0\nmap_type:\t24\nkey_size:\t4\nvalue_size:\t48\nmemlock:\t2560\n";
        let descriptor = Descriptor(text.to_owned());
        assert_eq!(descriptor.number("map_type"), Some(24));
        assert_eq!(descriptor.number("map"), None);
        assert_eq!(descriptor.number("memlock"), Some(2560));
    }

    #[test]
    fn the_allocator_rounds_up() {
        for (bytes, rounded) in [
            (1, 8),
            (64, 64),
            (65, 96),
            (120, 128),
            (184, 192),
            (193, 256),
        ] {
            assert_eq!(slab(bytes), rounded);
        }
    }
}
