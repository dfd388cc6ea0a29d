//! What a subject used: the processor's time, memory, wake-ups, of all its processes and threads.
//!
//! Processor time is read from the kernel's CPU clock of each process (`clock_getcpuclockid(3)`):
//! the sum that `/proc/PID/stat` shows as `utime` and `stime`, of all threads including those that
//! ended, but in nanoseconds. `/proc/PID/stat` rounds it to ticks of 10 ms, which is half a
//! microsecond per call in a short round; `/proc/PID/schedstat` is that of one thread only; a
//! cgroup's `cpu.stat` would have a subject moved into a cgroup that calltap's tap then has to share.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::time::ClockId;
use rustix::process::Pid;
use serde::Serialize;

/// Processor time of the processes of one subject, at one moment.
#[derive(Clone, Debug)]
pub struct Times(BTreeMap<i32, Duration>);

impl Times {
    /// Of the process `root`, its children, and theirs.
    pub fn now(root: Pid) -> anyhow::Result<Self> {
        family(root)?
            .into_iter()
            .map(|pid| Ok((pid, cpu_time(pid)?)))
            .collect::<anyhow::Result<_>>()
            .map(Self)
    }

    /// How much was used since `earlier`. Nobody may have come or gone.
    pub fn since(&self, earlier: &Self) -> anyhow::Result<Duration> {
        ensure!(
            self.0.keys().eq(earlier.0.keys()),
            "processes came or went while being measured: {:?}, then {:?}",
            earlier.0.keys(),
            self.0.keys()
        );
        let total = |times: &Self| times.0.values().sum::<Duration>();
        total(self)
            .checked_sub(total(earlier))
            .context("processor time ran backwards")
    }
}

/// Memory of all processes of one subject.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident, with what several processes share counted once (`Pss`).
    pub resident_bytes: u64,
}

impl Memory {
    /// Of the process `root`, its children, and theirs.
    pub fn now(root: Pid) -> anyhow::Result<Self> {
        let mut memory = Self::default();
        for pid in family(root)? {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).context(path)?;
            let kib = text
                .lines()
                .find_map(|line| line.strip_prefix("Pss:")?.strip_suffix("kB"))
                .and_then(|kib| kib.trim().parse::<u64>().ok())
                .context("no Pss in smaps_rollup")?;
            memory.resident_bytes += kib * 1024;
        }
        Ok(memory)
    }
}

/// How often the threads of one subject went to sleep of their own accord, to be woken again.
pub fn sleeps(root: Pid) -> anyhow::Result<u64> {
    let mut sleeps = 0;
    for pid in family(root)? {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that is gone by now slept for the last time.
            let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
                continue;
            };
            sleeps += status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|count| count.trim().parse::<u64>().ok())
                .context("no voluntary_ctxt_switches in status")?;
        }
    }
    Ok(sleeps)
}

/// `root`, its children, and theirs.
fn family(root: Pid) -> anyhow::Result<Vec<i32>> {
    let root = root.as_raw_nonzero().get();
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Processes that are none of ours come and go while we look.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut family = vec![root];
    let mut at = 0;
    while let Some(pid) = family.get(at) {
        family.extend(children.get(pid).into_iter().flatten());
        at += 1;
    }
    Ok(family)
}

fn parent(stat: &str) -> Option<i32> {
    // The name in parentheses may hold anything, so count from its end.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn cpu_time(pid: i32) -> anyhow::Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(nix::unistd::Pid::from_raw(pid));
    let time = clock.and_then(ClockId::now);
    let time = time.with_context(|| format!("no processor time of process {pid}"))?;
    Ok(time.into())
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::process::{Child, Command};
    use std::thread;

    use super::*;

    /// Ended with the test.
    struct Shell(Child);

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_clock_runs_on_with_what_is_used_and_keeps_what_ended_threads_used() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let before = cpu_time(own).unwrap();
        let burn = || {
            let begin = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            loop {
                black_box((0..10_000).sum::<u64>());
                let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                if now - begin > (Duration::from_millis(30)).try_into().unwrap() {
                    return;
                }
            }
        };
        thread::spawn(burn).join().unwrap();
        let by_its_own = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let after = cpu_time(own).unwrap();
        assert!(after - before >= Duration::from_millis(30));
        assert!(after >= Duration::try_from(by_its_own).unwrap());
    }

    #[test]
    fn children_belong_to_the_family() {
        let shell = Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let shell = Shell(shell);
        let root = Pid::from_child(&shell.0);
        let family = loop {
            let family = family(root).unwrap();
            if family.len() > 1 {
                break family;
            }
            thread::yield_now();
        };
        let all = Memory::now(root).unwrap().resident_bytes;
        let times = Times::now(root).unwrap();
        for pid in &family[1..] {
            let pid = Pid::from_raw(*pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        assert_eq!(family.len(), 2);
        assert!(all > 0);
        assert_eq!(times.0.len(), 2);
        // One that left is not forgotten silently.
        while Times::now(root).is_ok_and(|now| now.since(&times).is_ok()) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_name_may_hold_parentheses() {
        assert_eq!(parent("12 (a) 7 (b)) S 34 1 2"), Some(34));
    }
}
