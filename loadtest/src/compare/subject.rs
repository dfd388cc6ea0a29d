//! Who is compared: calltap and its peers, each with as little and with as much written as it can.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Pid;
use serde::{Serialize, Serializer};

use crate::certificate::Certificate;
use crate::compare::peers::{Backend, Peer, Programs, Server, Wanted};
use crate::compare::place::Place;
use crate::gateway::{Gateway, Setup, Stages};

/// A calltap that is not at rest by then has lost a call.
const REST_MAX: Duration = Duration::from_secs(45);

/// A gateway, and what it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// nginx, HAProxy or Envoy.
    Peer(Peer, Log),
    /// calltap.
    Calltap(Extent),
}

/// What a peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Nothing.
    Off,
    /// The richest line it can print, for each call.
    On,
}

/// What calltap does beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// No tap and no records.
    Nothing,
    /// Records with what `TCP_INFO` knows.
    TcpInfo,
    /// Everything: the tap, the join, and a line per call in a file.
    Everything,
}

impl Variant {
    /// Everybody, each after what it is held against.
    pub const ALL: [Self; 9] = [
        Self::NGINX_OFF,
        Self::NGINX_ON,
        Self::HAPROXY_OFF,
        Self::HAPROXY_ON,
        Self::ENVOY_OFF,
        Self::ENVOY_ON,
        Self::OFF,
        Self::TCP_INFO,
        Self::ON,
    ];

    /// nginx without its line.
    pub const NGINX_OFF: Self = Self::Peer(Peer::Nginx, Log::Off);
    /// nginx with its line.
    pub const NGINX_ON: Self = Self::Peer(Peer::Nginx, Log::On);
    /// HAProxy without its line.
    pub const HAPROXY_OFF: Self = Self::Peer(Peer::Haproxy, Log::Off);
    /// HAProxy with its line.
    pub const HAPROXY_ON: Self = Self::Peer(Peer::Haproxy, Log::On);
    /// Envoy without its line.
    pub const ENVOY_OFF: Self = Self::Peer(Peer::Envoy, Log::Off);
    /// Envoy with its line.
    pub const ENVOY_ON: Self = Self::Peer(Peer::Envoy, Log::On);
    /// calltap that only forwards.
    pub const OFF: Self = Self::Calltap(Extent::Nothing);
    /// calltap without its programs in the kernel.
    pub const TCP_INFO: Self = Self::Calltap(Extent::TcpInfo);
    /// calltap.
    pub const ON: Self = Self::Calltap(Extent::Everything);

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer(Peer::Nginx, Log::Off) => "nginx, no log",
            Self::Peer(Peer::Nginx, Log::On) => "nginx, its line",
            Self::Peer(Peer::Haproxy, Log::Off) => "HAProxy, no log",
            Self::Peer(Peer::Haproxy, Log::On) => "HAProxy, its line",
            Self::Peer(Peer::Envoy, Log::Off) => "Envoy, no log",
            Self::Peer(Peer::Envoy, Log::On) => "Envoy, its line",
            Self::Calltap(Extent::Nothing) => "calltap, all off",
            Self::Calltap(Extent::TcpInfo) => "calltap, tcp_info",
            Self::Calltap(Extent::Everything) => "calltap, all on",
        }
    }

    /// The same gateway that writes nothing, for one that writes.
    pub fn base(self) -> Option<Self> {
        match self {
            Self::Peer(_, Log::Off) | Self::Calltap(Extent::Nothing) => None,
            Self::Peer(peer, Log::On) => Some(Self::Peer(peer, Log::Off)),
            Self::Calltap(Extent::TcpInfo | Extent::Everything) => Some(Self::OFF),
        }
    }
}

impl Serialize for Variant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The binaries that are compared.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// calltap, a release build.
    pub calltap: PathBuf,
    /// The others.
    pub programs: Programs,
}

/// How subjects that are measured side by side are configured.
#[derive(Clone, Copy)]
pub struct Configured<'a> {
    /// Where they run.
    pub place: &'a Place,
    /// So many routes before the one for everything.
    pub routes: u32,
    /// With TLS on the first listener.
    pub certificate: Option<&'a Certificate>,
    /// calltap's records are all kept, however many; else only the newest.
    pub keep_all_records: bool,
}

impl<'a> Configured<'a> {
    /// With one route and without TLS.
    pub fn plain(place: &'a Place) -> Self {
        Self {
            place,
            routes: 0,
            certificate: None,
            keep_all_records: false,
        }
    }
}

/// One running gateway with a backend of its own; both end when dropped.
pub struct Subject {
    /// Who it is.
    pub variant: Variant,
    process: Process,
    backend: Backend,
}

enum Process {
    Peer(Server),
    Calltap(Box<Gateway>),
}

impl Subject {
    /// Starts one.
    pub fn start(
        variant: Variant,
        binaries: &Binaries,
        configured: Configured<'_>,
    ) -> anyhow::Result<Self> {
        let backend = Backend::start(configured.place)?;
        let process = match variant {
            Variant::Peer(peer, log) => {
                let wanted = Wanted {
                    log: log == Log::On,
                    routes: configured.routes,
                    certificate: configured.certificate,
                    backend: backend.address(),
                };
                let programs = &binaries.programs;
                Process::Peer(Server::peer(peer, programs, configured.place, wanted)?)
            }
            Variant::Calltap(extent) => {
                let setup = calltap(extent, &binaries.calltap, &backend, configured);
                Process::Calltap(Box::new(Gateway::start(&setup)?))
            }
        };
        Ok(Self {
            variant,
            process,
            backend,
        })
    }

    /// Its process; it may have children.
    pub fn pid(&self) -> Pid {
        match &self.process {
            Process::Peer(server) => server.pid(),
            Process::Calltap(gateway) => gateway.pid(),
        }
    }

    /// Where it takes HTTP/1.1.
    pub fn plain(&self) -> std::net::SocketAddr {
        match &self.process {
            Process::Peer(server) => server.plain(),
            Process::Calltap(gateway) => gateway.plain(),
        }
    }

    /// Where it takes HTTP/2 by prior knowledge.
    pub fn h2c(&self) -> std::net::SocketAddr {
        match &self.process {
            Process::Peer(server) => server.h2c(),
            Process::Calltap(gateway) => gateway.h2c(),
        }
    }

    /// The backend behind it, which nobody else calls.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// It as a calltap, if it is one.
    pub fn calltap(&self) -> Option<&Gateway> {
        match &self.process {
            Process::Peer(_) => None,
            Process::Calltap(gateway) => Some(gateway),
        }
    }

    /// calltap's counters once everything is written.
    pub fn stages(&self) -> anyhow::Result<Vec<Stages>> {
        match (&self.process, self.variant) {
            (Process::Calltap(gateway), Variant::TCP_INFO | Variant::ON) => gateway
                .wait_rest(REST_MAX)
                .with_context(|| self.variant.name()),
            _ => Ok(Vec::new()),
        }
    }
}

fn calltap(extent: Extent, binary: &Path, backend: &Backend, configured: Configured<'_>) -> Setup {
    let (tap, records) = match extent {
        Extent::Nothing => ("off", "none"),
        Extent::TcpInfo => ("tcp_info", "calls.jsonl"),
        Extent::Everything => ("ebpf", "calls.jsonl"),
    };
    let namespace = configured.place.namespace.clone();
    // Files as large as the defaults have them, but fewer: a run makes many gigabytes.
    let rotate = match configured.keep_all_records {
        true => "{ max_mib = 0 }",
        false => "{ keep = 1 }",
    };
    Setup {
        tap,
        records: records.to_owned(),
        workers: Some(1),
        address: configured.place.address,
        plain_routes: true,
        numbered_routes: configured.routes,
        listener_tls: configured.certificate.map(Certificate::files),
        keys: vec![
            ("records", "rotate", rotate.to_owned()),
            // As many as the peers are allowed.
            ("limits", "upstream_pool_max", "4096".to_owned()),
        ],
        wrapper: namespace
            .as_ref()
            .map(crate::lab::Namespace::wrapper)
            .unwrap_or_default(),
        admin_namespace: namespace,
        ..Setup::new(binary, backend.address())
    }
}
