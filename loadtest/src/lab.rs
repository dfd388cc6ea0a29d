//! Network namespaces with cables between them: hosts of our own to lose packets between.
//!
//! A lab is a client, a gateway and an upstream host, each a namespace, joined by two veth pairs.
//! Nothing of it touches the machine's own network; dropping it removes it all. Needs root, `ip` and
//! `nft`.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cleanup::Guard;

/// The client host's address.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 1, 2));
/// The gateway host's address towards the client.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 1, 1));
/// The gateway host's address towards the upstream.
pub const GATEWAY_BACK: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 2, 1));
/// The upstream host's address.
pub const UPSTREAM: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 2, 2));

/// A network namespace of ours; removed with its last clone.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    _guard: Arc<Removal>,
}

#[derive(Debug)]
struct Removal(#[expect(dead_code, reason = "held for its Drop")] Guard);

impl Namespace {
    /// Makes one; `role` is a letter or two of its name.
    pub fn add(role: &str) -> anyhow::Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("calltap-lab-{}-{serial}-{role}", process::id());
        run("ip", &["netns", "add", &name])?;
        let doomed = name.clone();
        let guard = Guard::new(move || {
            let _ = run("ip", &["netns", "del", &doomed]);
        });
        let namespace = Self {
            name: name.into(),
            _guard: Arc::new(Removal(guard)),
        };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The file that names it, for `nsenter --net=`.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay there, whoever holds
    /// them later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let file = File::open(self.path())?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` with these arguments inside.
    pub fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run("ip", &[&["-n", &self.name], arguments].concat())
    }

    /// Runs `tc` with these arguments inside.
    pub fn tc(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run("tc", &[&["-n", &self.name], arguments].concat())
    }

    /// Turns off whatever makes packets on the wire differ from the stack's own on `device`, and has
    /// checksums computed before a packet is seen by anybody.
    pub fn no_offloads(&self, device: &str) -> anyhow::Result<()> {
        let net = format!("--net={}", self.path());
        let off = ["gso", "tso", "gro", "tx"]
            .iter()
            .flat_map(|what| [*what, "off"]);
        let words: Vec<&str> = [&net, "ethtool", "-K", device]
            .into_iter()
            .chain(off)
            .collect();
        run("nsenter", &words)
    }

    /// Has all packets of a connection that come in on `device` handled by the same processor, one
    /// after the other, as a network card with several queues does. Otherwise two that come from two
    /// processors of the sender are handled at once, and in no order.
    pub fn steer(&self, device: &str) -> anyhow::Result<()> {
        let processors = thread::available_parallelism()?.get().min(32);
        let all = (1_u64 << processors) - 1;
        // The namespace's own /sys shows its devices; `ip netns exec` mounts it.
        let file = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
        let write = format!("echo {all:x} > {file}");
        run("ip", &["netns", "exec", &self.name, "sh", "-c", &write])
    }

    /// Writes a file below `/proc/sys/net` of the namespace; the machine's own is another.
    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{}", name.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("{path} = {value}"))
    }

    /// A command that will run inside, with the machine's own /sys.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Joins `device` here to `other_device` in `other`, both down.
    pub fn join(&self, device: &str, other: &Self, other_device: &str) -> anyhow::Result<()> {
        self.ip(&[
            "link",
            "add",
            device,
            "type",
            "veth",
            "peer",
            "name",
            other_device,
            "netns",
            &other.name,
        ])
    }

    /// Loads an nftables rule set inside. It is part of the namespace and goes with it.
    pub fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let net = format!("--net={}", self.path());
        run("nsenter", &[&net, "nft", rules])
    }

    /// The words that run a program inside and keep the machine's own /sys, where cgroups are.
    pub fn wrapper(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.path())]
    }
}

/// Three hosts in a row.
#[derive(Debug)]
pub struct Lab {
    /// [`CLIENT`]
    pub client: Namespace,
    /// [`GATEWAY`] and [`GATEWAY_BACK`]
    pub gateway: Namespace,
    /// [`UPSTREAM`]
    pub upstream: Namespace,
}

impl Lab {
    /// Builds it.
    pub fn build() -> anyhow::Result<Self> {
        let lab = Self {
            client: Namespace::add("c")?,
            gateway: Namespace::add("g")?,
            upstream: Namespace::add("u")?,
        };
        lab.cable(&lab.client, CLIENT, GATEWAY, "front")?;
        lab.cable(&lab.upstream, UPSTREAM, GATEWAY_BACK, "back")?;
        Ok(lab)
    }

    /// Joins `host`, at `address`, to the gateway host, which is `gateway` there; both ends of the
    /// cable are called `name`. On the gateway's end packets are re-sent no sooner than
    /// after `RTO_MIN`, so that one lost packet costs a known time.
    pub fn cable(
        &self,
        host: &Namespace,
        address: IpAddr,
        gateway: IpAddr,
        name: &str,
    ) -> anyhow::Result<()> {
        host.join(name, &self.gateway, name)?;
        for (end, own, other) in [(host, address, gateway), (&self.gateway, gateway, address)] {
            end.ip(&["addr", "add", &format!("{own}/24"), "dev", name])?;
            end.ip(&["link", "set", name, "up"])?;
            let (other, own) = (other.to_string(), own.to_string());
            end.ip(&["route", "add", &other, "dev", name, "src", &own])?;
        }
        Ok(())
    }

    /// Sets the smallest retransmission timeout of the gateway host towards `peer`, ms.
    pub fn set_rto_min(&self, peer: IpAddr, ms: u32) -> anyhow::Result<()> {
        let (name, own) = if peer == CLIENT {
            ("front", GATEWAY)
        } else {
            ("back", GATEWAY_BACK)
        };
        let (peer, own, rto) = (peer.to_string(), own.to_string(), format!("{ms}ms"));
        self.gateway.ip(&[
            "route", "replace", &peer, "dev", name, "src", &own, "rto_min", &rto,
        ])
    }
}

/// Why no lab can be built here, if so.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for program in ["ip", "nft", "nsenter"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!("{program} is not installed"));
        }
    }
    // The lock of `ip netns` and the mounts live there; without it `add` fails for good.
    match Namespace::add("probe") {
        Ok(_) => None,
        Err(error) => Some(format!("{error:#}")),
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(shown)?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            shown(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
