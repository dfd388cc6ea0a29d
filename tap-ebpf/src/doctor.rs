//! What this machine allows the tap, as facts with a meaning and a remedy each.
//!
//! Looks only: changes nothing, and leaves the wording of the whole to the caller.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::thread::{CapabilitySet, capabilities};

use crate::cgroup::{self, Cgroup, CgroupError};
use crate::tap::{LEDGER_BYTES, TapOptions};

/// The oldest kernel that the tap's tests ran on.
pub const KERNEL_MIN: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// From here on a process without capabilities may use maps it holds.
pub const KERNEL_MAPS_WITHOUT_CAPABILITIES: KernelVersion = KernelVersion {
    major: 5,
    minor: 19,
};

/// Whether something lets the tap work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Ok,
    /// It does not.
    Missing,
    /// It could not be looked at.
    Unknown,
}

/// One fact about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, `snake_case`.
    pub name: &'static str,
    /// Whether it lets the tap work.
    pub state: State,
    /// What is there.
    pub found: String,
    /// What follows from it.
    pub meaning: String,
    /// What to do about it; empty where nothing needs doing.
    pub remedy: String,
}

impl Check {
    fn new(name: &'static str, ok: bool, found: impl Into<String>, meaning: &str) -> Self {
        Self {
            name,
            state: if ok { State::Ok } else { State::Missing },
            found: found.into(),
            meaning: meaning.to_owned(),
            remedy: String::new(),
        }
    }

    fn unknown(name: &'static str, found: impl Into<String>, meaning: &str) -> Self {
        Self {
            state: State::Unknown,
            ..Self::new(name, false, found, meaning)
        }
    }

    fn or_else(mut self, remedy: &str) -> Self {
        if self.state != State::Ok {
            self.remedy = remedy.to_owned();
        }
        self
    }
}

/// Everything that a tap with these options depends on, the most basic first.
pub fn checks(options: &TapOptions) -> Vec<Check> {
    let mut checks = vec![
        kernel_version(),
        maps_without_capabilities(),
        capabilities_held(),
        bpf_system_call(),
    ];
    let cgroup = match &options.cgroup {
        Some(path) => Cgroup::open(path).map_err(|source| CgroupError::Unusable {
            action: "open",
            path: path.clone(),
            source,
        }),
        None => cgroup::own(),
    };
    checks.push(cgroup_v2(&cgroup));
    if let Ok(cgroup) = &cgroup {
        checks.push(cgroup_of_our_own(cgroup, options));
        checks.push(exclusive_attachments(cgroup));
    }
    checks.push(memory_for_ledgers(options));
    checks
}

fn kernel_version() -> Check {
    let running = KernelVersion::running();
    Check::new(
        "kernel_version",
        running.is_some_and(|running| running >= KERNEL_MIN),
        running.map_or("unreadable".to_owned(), |running| running.to_string()),
        &format!("the tap is known to work from Linux {KERNEL_MIN} on"),
    )
    .or_else("use a newer kernel; until then tap.mode = \"tcp_info\" gives fewer fields")
}

fn maps_without_capabilities() -> Check {
    let running = KernelVersion::running();
    let ok = running.is_some_and(|running| running >= KERNEL_MAPS_WITHOUT_CAPABILITIES);
    Check::new(
        "maps_without_capabilities",
        ok,
        running.map_or("unreadable".to_owned(), |running| running.to_string()),
        if ok {
            "after the start no capability is kept"
        } else {
            "CAP_BPF is kept while running: older kernels want it for every look-up"
        },
    )
    .or_else("use Linux 5.19 or newer to run without any capability")
}

fn capabilities_held() -> Check {
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    ];
    let name = "capabilities";
    let meaning = "loading needs CAP_BPF, attaching CAP_NET_ADMIN; both are given up after that";
    let held = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => return Check::new(name, false, format!("unreadable: {error}"), meaning),
    };
    let all = held.contains(CapabilitySet::SYS_ADMIN);
    let lacking: Vec<_> = needed
        .iter()
        .filter(|(capability, _)| !held.contains(*capability) && !all)
        .map(|(_, name)| *name)
        .collect();
    let found = match lacking.as_slice() {
        [] => "all that are needed".to_owned(),
        lacking => format!("without {}", lacking.join(", ")),
    };
    Check::new(name, lacking.is_empty(), found, meaning).or_else(
        "start as root, or with AmbientCapabilities=CAP_BPF CAP_NET_ADMIN in the systemd unit, \
         or with --cap-add BPF --cap-add NET_ADMIN in a container",
    )
}

fn bpf_system_call() -> Check {
    let meaning = "the kernel takes programs of the kind the tap is made of";
    let name = "bpf_system_call";
    match aya::sys::is_program_supported(aya::programs::ProgramType::SockOps) {
        Ok(true) => Check::new(name, true, "works", meaning),
        Ok(false) => Check::new(name, false, "no such programs", meaning)
            .or_else("use a kernel built with CONFIG_CGROUP_BPF=y and CONFIG_BPF_SYSCALL=y"),
        Err(error) => Check::new(name, false, sentence(&error), meaning).or_else(
            "start with the capabilities above; in a container, let its seccomp profile pass bpf(2)",
        ),
    }
}

fn cgroup_v2(cgroup: &Result<Cgroup, CgroupError>) -> Check {
    let meaning = "the programs are attached to a cgroup v2, to see the sockets made in it";
    match cgroup {
        Ok(cgroup) => Check::new("cgroup_v2", true, path(cgroup), meaning),
        Err(error) => Check::new("cgroup_v2", false, sentence(error), meaning)
            .or_else("mount it: mount -t cgroup2 none /sys/fs/cgroup/unified"),
    }
}

fn cgroup_of_our_own(cgroup: &Cgroup, options: &TapOptions) -> Check {
    let name = "cgroup_of_our_own";
    let root = cgroup.is_real_root();
    if options.cgroup.is_some() {
        return Check::new(
            name,
            !root,
            format!("configured: {}", path(cgroup)),
            "the configured cgroup is entered and tapped; the machine's root never is",
        )
        .or_else("set tap.cgroup to a cgroup below the root, or leave it out");
    }
    let writable = cgroup.is_writable();
    let (found, meaning) = match (writable, root) {
        (true, _) => (
            "can be made",
            "the process moves to calltap-<pid> below its cgroup, and removes it when it stops",
        ),
        (false, false) => (
            "read-only",
            "the cgroup of this process is tapped as it stands; other sockets in it are left alone",
        ),
        (false, true) => (
            "read-only, and this is the machine's root cgroup",
            "there is nothing to attach to: the machine's root is never tapped",
        ),
    };
    Check::new(name, writable || !root, found, meaning)
        .or_else("start in a service or a scope of its own: systemd-run --scope calltap run ...")
}

fn exclusive_attachments(cgroup: &Cgroup) -> Check {
    let name = "exclusive_attachments";
    let meaning = "a program attached exclusively to a cgroup above ours keeps ours out";
    match exclusive_above(cgroup) {
        Ok(found) if found.is_empty() => Check::new(name, true, "none", meaning),
        Ok(found) => Check::new(name, false, found.join(", "), meaning).or_else(
            "find what attached it (bpftool cgroup tree) and have it attach with \"multi\"",
        ),
        // Not knowing is no obstacle: if there is one, attaching says so.
        Err(error) => Check::unknown(name, format!("cannot be listed: {error}"), meaning)
            .or_else("ask again as root; the start says so, too, if there is one"),
    }
}

fn memory_for_ledgers(options: &TapOptions) -> Check {
    let needed_kib = (u64::from(options.sockets_max) * LEDGER_BYTES as u64) >> 10;
    let available_kib = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kib_of(&text, "MemAvailable:"));
    let name = "memory_for_ledgers";
    let meaning = format!(
        "{} ledgers take {} MiB, allocated at start",
        options.sockets_max,
        needed_kib >> 10
    );
    let check = match available_kib {
        Some(kib) => {
            let found = format!("{} MiB available", kib >> 10);
            Check::new(name, kib > needed_kib, found, &meaning)
        }
        None => Check::unknown(name, "unreadable", &meaning),
    };
    check.or_else("lower tap.sockets_max: two are needed for each proxied connection")
}

fn kib_of(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn path(cgroup: &Cgroup) -> String {
    cgroup.path().display().to_string()
}

/// An error and its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Which attachments at or above `cgroup` admit no other.
fn exclusive_above(cgroup: &Cgroup) -> io::Result<Vec<String>> {
    let mut found = exclusive_at(cgroup)?;
    let mut above = cgroup.parent();
    while let Some(cgroup) = above {
        found.extend(exclusive_at(&cgroup)?);
        above = cgroup.parent();
    }
    Ok(found)
}

fn exclusive_at(cgroup: &Cgroup) -> io::Result<Vec<String>> {
    const KINDS: [(u32, &str); 3] = [
        (0, "cgroup_skb/ingress"),
        (1, "cgroup_skb/egress"),
        (3, "sock_ops"),
    ];
    let mut found = Vec::new();
    for (kind, name) in KINDS {
        let (programs, flags) = attached(cgroup.as_fd(), kind)?;
        if programs > 0 && flags == 0 {
            found.push(format!("{name} at {}", path(cgroup)));
        }
    }
    Ok(found)
}

/// How many programs of a kind are attached to a cgroup, and with which flags.
fn attached(cgroup: BorrowedFd<'_>, kind: u32) -> io::Result<(u32, u32)> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    /// The part of `union bpf_attr` that the query uses.
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        program_ids: u64,
        program_count: u32,
        pad: u32,
        attach_flags_of_each: u64,
    }
    let mut query = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: kind,
        query_flags: 0,
        attach_flags: 0,
        program_ids: 0,
        program_count: 0,
        pad: 0,
        attach_flags_of_each: 0,
    };
    // SAFETY: the kernel reads and writes `query`, of the size given; it holds no pointers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    match result {
        0 => Ok((query.program_count, query.attach_flags)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A kernel's version, as far as its features depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 of 6.12.
    pub major: u32,
    /// 12 of 6.12.
    pub minor: u32,
}

impl KernelVersion {
    /// The kernel we run on; `None` if its name cannot be read.
    pub fn running() -> Option<Self> {
        Self::parse(rustix::system::uname().release().to_str().ok()?)
    }

    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_read_from_any_release_name() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        for (release, expected) in [
            ("6.18.44-fc-v669", version(6, 18)),
            ("5.19.0", version(5, 19)),
            ("6.1-rc2", version(6, 1)),
            ("7.0", version(7, 0)),
            ("linux", None),
            ("", None),
        ] {
            assert_eq!(KernelVersion::parse(release), expected, "{release}");
        }
        assert!(version(5, 9) < version(5, 10));
    }

    #[test]
    fn what_is_missing_has_a_remedy_and_what_is_there_has_none() {
        let options = TapOptions {
            cgroup: Some("/no/such/cgroup".into()),
            sockets_max: u32::MAX,
            ..TapOptions::default()
        };
        let checks = checks(&options);
        for check in &checks {
            let well = check.state == State::Ok;
            assert_eq!(well, check.remedy.is_empty(), "{check:?}");
            assert!(!check.found.is_empty() && !check.meaning.is_empty());
        }
        let failed: Vec<_> = checks
            .iter()
            .filter(|c| c.state == State::Missing)
            .map(|c| c.name)
            .collect();
        assert!(failed.contains(&"cgroup_v2"), "{failed:?}");
    }
}
