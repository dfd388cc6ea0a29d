//! Clients whose SYNs differ, through one router to a calltap, with p0f beside it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::p0f::P0f;
use super::{Extent, Finding};
use crate::backend::{Backend, Transport};
use crate::gateway::{Gateway, Setup};
use crate::lab::Namespace;
use crate::raw_client::quiet_kernel;
use crate::records::Records;
use crate::truth::evidence::Family;
use crate::truth::ground::{FRONT, Ground};

/// Debian's; scapy is a module of this one.
const PYTHON: &str = "/usr/bin/python3";
const STACK: &str = include_str!("stack.py");
const HANDMADE: &str = include_str!("handmade.py");

/// How long a signature or a record may take to be written.
const PATIENCE: Duration = Duration::from_secs(20);
const MTU: u16 = 1500;

const TCP: u32 = 6;
const MULTIPATH_TCP: u32 = 262;

/// A client of the kernel's own, made different by its host's settings, its route or its socket.
#[derive(Clone, Copy, Default)]
struct Stack {
    name: &'static str,
    /// Empty: both.
    only: &'static str,
    sysctls: &'static [(&'static str, &'static str)],
    /// Words that `ip route` takes.
    route: &'static [&'static str],
    /// Level, name and value of socket options, as numbers.
    options: &'static [&'static str],
    /// The device's, where it is not [`MTU`].
    mtu: u16,
    multipath: bool,
    /// Not every kernel can do this.
    optional: bool,
}

const fn stack(name: &'static str) -> Stack {
    Stack {
        name,
        only: "",
        sysctls: &[],
        route: &[],
        options: &[],
        mtu: MTU,
        multipath: false,
        optional: false,
    }
}

const fn by_sysctl(name: &'static str, sysctls: &'static [(&'static str, &'static str)]) -> Stack {
    Stack {
        sysctls,
        ..stack(name)
    }
}

const fn by_route(name: &'static str, route: &'static [&'static str]) -> Stack {
    Stack {
        route,
        ..stack(name)
    }
}

const fn by_option(name: &'static str, options: &'static [&'static str]) -> Stack {
    Stack {
        options,
        ..stack(name)
    }
}

const fn of(only: &'static str, stack: Stack) -> Stack {
    Stack { only, ..stack }
}

const fn with_mtu(name: &'static str, mtu: u16) -> Stack {
    Stack { mtu, ..stack(name) }
}

/// What Linux can be made to send. The numbers of socket options are those of the kernel's headers.
const STACKS: &[Stack] = &[
    stack("as it is"),
    by_sysctl("no timestamps", &[("ipv4.tcp_timestamps", "0")]),
    by_sysctl("timestamps from zero", &[("ipv4.tcp_timestamps", "2")]),
    by_sysctl("no window scaling", &[("ipv4.tcp_window_scaling", "0")]),
    by_sysctl("no SACK", &[("ipv4.tcp_sack", "0")]),
    by_sysctl("ECN", &[("ipv4.tcp_ecn", "1")]),
    by_sysctl("no ECN", &[("ipv4.tcp_ecn", "0")]),
    Stack {
        optional: true,
        ..by_sysctl("accurate ECN", &[("ipv4.tcp_ecn", "3")])
    },
    by_sysctl(
        "no timestamps, scaling, SACK",
        &[
            ("ipv4.tcp_timestamps", "0"),
            ("ipv4.tcp_window_scaling", "0"),
            ("ipv4.tcp_sack", "0"),
        ],
    ),
    by_sysctl(
        "timestamps alone",
        &[("ipv4.tcp_window_scaling", "0"), ("ipv4.tcp_sack", "0")],
    ),
    by_sysctl(
        "SACK alone",
        &[
            ("ipv4.tcp_timestamps", "0"),
            ("ipv4.tcp_window_scaling", "0"),
        ],
    ),
    by_sysctl(
        "scaling alone",
        &[("ipv4.tcp_timestamps", "0"), ("ipv4.tcp_sack", "0")],
    ),
    by_option("MSS 88 by socket", &["6:2:88"]),
    by_option("MSS 536 by socket", &["6:2:536"]),
    by_option("MSS 1000 by socket", &["6:2:1000"]),
    by_route("MSS 1300 by route", &["advmss", "1300"]),
    by_route("MSS 1400 by route", &["advmss", "1400"]),
    with_mtu("MTU 1280", 1280),
    with_mtu("MTU 1420", 1420),
    with_mtu("MTU 9000", 9000),
    by_route("window 8192 by route", &["window", "8192"]),
    by_route("window 65535 by route", &["window", "65535"]),
    by_route("initial window 2 segments", &["initrwnd", "2"]),
    by_route("initial window 30 segments", &["initrwnd", "30"]),
    by_option("receive buffer 2304", &["1:8:2304"]),
    by_option("receive buffer 10000", &["1:8:10000"]),
    by_option("receive buffer 64 MiB", &["1:33:67108864"]),
    by_option("window clamp 4000", &["6:10:4000"]),
    by_sysctl(
        "scale by tcp_rmem",
        &[("ipv4.tcp_rmem", "4096 131072 1073741824")],
    ),
    by_sysctl("small by tcp_rmem", &[("ipv4.tcp_rmem", "4096 5000 5000")]),
    of(
        "v4",
        by_sysctl("TTL 128 by host", &[("ipv4.ip_default_ttl", "128")]),
    ),
    of(
        "v4",
        by_sysctl("TTL 255 by host", &[("ipv4.ip_default_ttl", "255")]),
    ),
    of(
        "v4",
        by_option("TTL 65 by socket: none too far", &["0:2:65"]),
    ),
    of("v4", by_option("TTL 33 by socket", &["0:2:33"])),
    of("v4", by_option("TTL 5 by socket", &["0:2:5"])),
    of("v4", by_option("TTL 200 by socket: too far", &["0:2:200"])),
    of("v6", by_option("hop limit 128 by socket", &["41:16:128"])),
    of(
        "v6",
        by_option("hop limit 65 by socket: none too far", &["41:16:65"]),
    ),
    of(
        "v6",
        by_option("hop limit 200 by socket: too far", &["41:16:200"]),
    ),
    of(
        "v6",
        by_sysctl("no flow labels", &[("ipv6.auto_flowlabels", "0")]),
    ),
    of(
        "v6",
        by_sysctl("flow labels", &[("ipv6.auto_flowlabels", "3")]),
    ),
    of(
        "v4",
        by_sysctl("no path MTU discovery", &[("ipv4.ip_no_pmtu_disc", "1")]),
    ),
    of("v4", by_option("DF off by socket", &["0:10:0"])),
    of("v4", by_option("DF on by socket", &["0:10:2"])),
    of("v4", by_option("DSCP 46 by socket", &["0:1:184"])),
    of("v6", by_option("DSCP 46 by socket", &["41:67:184"])),
    // Level 0, name 4: four bytes, all of them no operation.
    of("v4", by_option("IP options by socket", &["0:4:16843009"])),
    by_option("fast open", &["6:30:1"]),
    Stack {
        multipath: true,
        optional: true,
        ..stack("multipath TCP")
    },
];

/// How many of the kernel's own are a few.
const SOME_STACKS: usize = 9;

/// Sends them all and compares.
pub fn compare(calltap: &Path, extent: Extent) -> anyhow::Result<Vec<Finding>> {
    let ground = Ground::build(MTU)?;
    quiet_kernel(&ground.client)?;
    let upstream = ground.upstreams[0]
        .run(|| TcpListener::bind((Ground::upstream_address(Family::V4, 0), 0)))??;
    let backend = Backend::serve(upstream, Transport::Plain)?;
    let mut findings = Vec::new();
    for family in [Family::V4, Family::V6, Family::Mapped] {
        let p0f = P0f::start(&ground.gateway, FRONT)?;
        let mut setup = Setup::new(calltap, backend.address());
        setup.tap = "ebpf";
        setup.address = match family {
            Family::Mapped => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            Family::V4 | Family::V6 => Ground::front_address(family),
        };
        setup.plain_routes = true;
        setup.wrapper = ground.gateway.wrapper();
        setup.admin_namespace = Some(ground.gateway.clone());
        let gateway = Gateway::start(&setup)?;
        let server = SocketAddr::new(Ground::front_address(family), gateway.plain().port());
        let mut clients = by_the_kernel(&ground, family, server, extent)?;
        clients.extend(by_hand(&ground, server)?);
        findings.extend(collect(clients, &gateway, &p0f)?);
    }
    Ok(findings)
}

/// A client that was sent.
struct Client {
    name: String,
    /// Its address, where it was served.
    served: Result<SocketAddr, String>,
    /// Its signature, where p0f is silent.
    by_the_page: Option<String>,
}

fn by_the_kernel(
    ground: &Ground,
    family: Family,
    server: SocketAddr,
    extent: Extent,
) -> anyhow::Result<Vec<Client>> {
    let count = match (extent, family) {
        (Extent::Some, _) => SOME_STACKS,
        // What differs from IPv4 is who listens.
        (Extent::All, Family::Mapped) => SOME_STACKS,
        (Extent::All, _) => STACKS.len(),
    };
    let version = if server.is_ipv4() { "v4" } else { "v6" };
    STACKS[..count]
        .iter()
        .filter(|stack| stack.only.is_empty() || stack.only == version)
        .map(|stack| {
            let served = one_by_the_kernel(&ground.client, server, stack);
            let served = match served {
                Err(error) if stack.optional => {
                    Err(format!("not on this kernel: {}", error.root_cause()))
                }
                served => Ok(served.with_context(|| stack.name)?),
            };
            Ok(Client {
                name: format!("{}: {}", label(family), stack.name),
                served,
                by_the_page: None,
            })
        })
        .collect()
}

fn one_by_the_kernel(
    client: &Namespace,
    server: SocketAddr,
    stack: &Stack,
) -> anyhow::Result<SocketAddr> {
    let route = Route::to(client, server.ip())?;
    let before: Vec<(&str, String)> = stack
        .sysctls
        .iter()
        .map(|(name, _)| Ok((*name, read_sysctl(client, name)?)))
        .collect::<anyhow::Result<_>>()?;
    client.ip(&["link", "set", &route.device, "mtu", &stack.mtu.to_string()])?;
    route.replace(client, stack.route)?;
    let served = stack
        .sysctls
        .iter()
        .try_for_each(|(name, value)| client.sysctl(name, value))
        .and_then(|()| connect(client, server, stack));
    for (name, value) in before {
        client.sysctl(name, &value)?;
    }
    client.ip(&["link", "set", &route.device, "mtu", &MTU.to_string()])?;
    route.delete(client)?;
    Ok(SocketAddr::new(route.own, served?))
}

/// Returns its port.
fn connect(client: &Namespace, server: SocketAddr, stack: &Stack) -> anyhow::Result<u16> {
    let protocol = if stack.multipath { MULTIPATH_TCP } else { TCP };
    let output = client
        .command(PYTHON)
        .args(["-c", STACK, &server.ip().to_string()])
        .args([server.port().to_string(), protocol.to_string()])
        .args(stack.options)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}",
        said.trim().lines().last().unwrap_or("it said nothing")
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

fn read_sysctl(host: &Namespace, name: &str) -> anyhow::Result<String> {
    let path = format!("/proc/sys/net/{}", name.replace('.', "/"));
    let value = host.run(|| std::fs::read_to_string(&path))?;
    Ok(value.with_context(|| path.clone())?.trim().to_owned())
}

/// How a host reaches another.
struct Route {
    to: String,
    via: String,
    device: String,
    own: IpAddr,
}

impl Route {
    fn to(host: &Namespace, to: IpAddr) -> anyhow::Result<Self> {
        let output = host
            .command("ip")
            .args(["route", "get", &to.to_string()])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let word = |name: &str| {
            let mut words = text.split_whitespace();
            words.find(|word| *word == name)?;
            Some(words.next()?.to_owned())
        };
        Ok(Self {
            to: to.to_string(),
            via: word("via").with_context(|| format!("no way to {to}: {text}"))?,
            device: word("dev").context("no device")?,
            own: word("src").context("no address")?.parse()?,
        })
    }

    /// A route of its own to this one host, which [`Self::delete`] takes away.
    fn replace(&self, host: &Namespace, more: &[&str]) -> anyhow::Result<()> {
        let words = [
            "route",
            "replace",
            &self.to,
            "via",
            &self.via,
            "dev",
            &self.device,
        ];
        host.ip(&[&words, more].concat())
    }

    fn delete(&self, host: &Namespace) -> anyhow::Result<()> {
        host.ip(&["route", "del", &self.to, "via", &self.via])
    }

    /// The link-layer address of the next hop.
    fn next_hop(&self, host: &Namespace) -> anyhow::Result<String> {
        let output = host
            .command("ip")
            .args(["neigh", "show", &self.via, "dev", &self.device])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
        let found = words.nth(1).map(str::to_owned);
        found.with_context(|| format!("{} is no neighbour: {text}", self.via))
    }
}

#[derive(Deserialize)]
struct Made {
    name: String,
    port: u16,
    answer: Option<String>,
    served: bool,
    /// Whether Linux is known not to answer it.
    refused: bool,
    /// Its signature, where p0f is silent.
    by_the_page: Option<String>,
}

fn by_hand(ground: &Ground, server: SocketAddr) -> anyhow::Result<Vec<Client>> {
    let route = Route::to(&ground.client, server.ip())?;
    let output = ground
        .client
        .command(PYTHON)
        .args(["-c", HANDMADE, &route.device])
        .arg(route.next_hop(&ground.client)?)
        .args([route.own.to_string(), server.ip().to_string()])
        .arg(server.port().to_string())
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| {
            let made: Made = serde_json::from_str(line)?;
            let name = format!("{family} by hand: {}", made.name);
            let served = match made.answer.as_deref() {
                None if made.refused => Err("Linux does not answer it".to_owned()),
                // Then calltap has a call to tell of.
                Some("SYN-ACK") if made.served => Ok(SocketAddr::new(route.own, made.port)),
                answer => bail!("{name} was answered by {answer:?} and not served"),
            };
            Ok(Client {
                name,
                served,
                by_the_page: made.by_the_page,
            })
        })
        .collect()
}

/// Waits for every signature and every record.
fn collect(clients: Vec<Client>, gateway: &Gateway, p0f: &P0f) -> anyhow::Result<Vec<Finding>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let expected = p0f.signatures()?;
        let recorded = recorded(gateway)?;
        let findings: Vec<Finding> = clients
            .iter()
            .map(|client| match &client.served {
                Ok(address) => Finding {
                    client: client.name.clone(),
                    expected: expected
                        .get(address)
                        .or(client.by_the_page.as_ref())
                        .cloned(),
                    recorded: recorded.get(address).cloned(),
                    note: None,
                },
                Err(why) => Finding {
                    client: client.name.clone(),
                    expected: None,
                    recorded: None,
                    note: Some(why.clone()),
                },
            })
            .collect();
        let complete = findings.iter().all(|finding| {
            finding.note.is_some() || (finding.expected.is_some() && finding.recorded.is_some())
        });
        if complete || Instant::now() >= deadline {
            return Ok(findings);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// The signature in the record of each client.
fn recorded(gateway: &Gateway) -> anyhow::Result<HashMap<SocketAddr, String>> {
    let records = Records::read(gateway.records())?;
    Ok(records
        .records
        .iter()
        .filter_map(|record| {
            let address = record.text("network.peer.address")?.parse().ok()?;
            let port = u16::try_from(record.number("network.peer.port")?).ok()?;
            let signature = record.text("client.syn.p0f")?.to_owned();
            Some((SocketAddr::new(address, port), signature))
        })
        .collect())
}

fn label(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
        Family::Mapped => "IPv4 on [::]",
    }
}

/// Why there is nothing to compare with here, if so.
pub fn missing() -> Option<String> {
    if !P0f::is_there() {
        return Some("p0f is not installed".to_owned());
    }
    let scapy = Command::new(PYTHON).args(["-c", "import scapy"]).output();
    if !scapy.is_ok_and(|output| output.status.success()) {
        return Some("python3-scapy is not installed".to_owned());
    }
    None
}
