//! One run of one scenario: hosts, upstreams, captures and calltap, and at the end its evidence.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustls::SupportedProtocolVersion;

use crate::backend::{Backend, Transport};
use crate::certificate::{Certificate, NAME, Secrets};
use crate::gateway::{Gateway, Setup};
use crate::plan::Random;
use crate::truth::caller::Caller;
use crate::truth::capture::{self, Capture};
use crate::truth::evidence::{Carried, Evidence, Family, Scene};
use crate::truth::ground::{BACK, FRONT, Ground};
use crate::truth::streams::Streams;

/// Whole packets.
pub const WHOLE: u32 = 262_144;
/// Enough of a packet for a head of ours and what lies below it.
pub const HEADS: u32 = 700;
/// Enough of a packet to find it again in another capture.
const HEADERS: u32 = 160;
/// The secrets' file among the evidence.
const KEYS: &str = "keys.log";
/// A gateway that is not at rest by then has lost a call. Longer than `settle.max_s`.
const REST_MAX: Duration = Duration::from_secs(45);

/// What a scenario is played in.
pub struct Setting {
    /// Towards the clients.
    pub front: Carried,
    /// Towards the upstreams.
    pub back: Carried,
    /// The versions of TLS, where it is spoken.
    pub tls: &'static [&'static SupportedProtocolVersion],
    /// The upstream group's endpoints.
    pub endpoints: Endpoints,
    /// Of every cable.
    pub mtu: u16,
    /// How much of a packet the captures keep.
    pub snap: u32,
    /// calltap's threads; `None` leaves the default.
    pub workers: Option<u32>,
    /// Keys of calltap's configuration: table, key, value in TOML.
    pub keys: Vec<(&'static str, &'static str, String)>,
}

/// The endpoints of the upstream group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// One.
    One,
    /// Two, on two hosts.
    Two,
    /// One that refuses connections, and one.
    RefusingAndOne,
    /// One whose host never answers, and one.
    SilentAndOne,
}

impl Setting {
    /// Two upstreams that take turns.
    pub fn two_upstreams() -> Self {
        Self {
            endpoints: Endpoints::Two,
            ..Self::default()
        }
    }
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            front: Carried::Http1,
            back: Carried::Http1,
            tls: rustls::ALL_VERSIONS,
            endpoints: Endpoints::One,
            mtu: 1_500,
            snap: WHOLE,
            workers: None,
            keys: Vec::new(),
        }
    }
}

/// What a scenario's clients have at hand.
pub struct Play<'a> {
    /// The hosts.
    pub ground: &'a Ground,
    /// The addresses.
    pub family: Family,
    /// The first upstream.
    pub upstream: SocketAddr,
    /// Where calls go, and what became of them.
    pub caller: Caller,
    /// How many calls there should be at least.
    pub calls: usize,
    /// Repeats a run.
    pub seed: u64,
    /// The authority of the gateway's certificate.
    pub authority: PathBuf,
    /// Where TLS secrets belong.
    pub keys: PathBuf,
}

impl Play<'_> {
    /// Numbers for the nth of whatever is drawn.
    pub fn random(&self, nth: usize) -> Random {
        let mut random = Random::new(self.seed ^ ((nth as u64 + 1) << 20));
        // The first ones of neighbouring seeds are alike.
        for _ in 0..8 {
            random.below(2);
        }
        random
    }
}

/// What is to be played.
pub struct Part<'a> {
    /// The scenario's name.
    pub scenario: &'a str,
    /// The addresses.
    pub family: Family,
    /// Calls, at least.
    pub calls: usize,
    /// Repeats a run.
    pub seed: u64,
    /// In what.
    pub setting: Setting,
    /// How.
    pub play: &'a (dyn Fn(&Play<'_>) -> anyhow::Result<()> + Sync),
}

/// Plays `part` before the binary `calltap` and leaves the evidence in `directory`.
pub fn perform(part: &Part<'_>, calltap: &Path, directory: &Path) -> anyhow::Result<Evidence> {
    let setting = &part.setting;
    fs::create_dir_all(directory)?;
    let evidence = Evidence::at(directory);
    let ground = Ground::build(setting.mtu)?;
    let certificate = Certificate::new()?;
    let secrets = Secrets::create(&evidence.file(KEYS))?;

    let (upstreams, _upstreams) = upstreams(part, &ground, &certificate, &secrets)?;
    let mut captures = Vec::new();
    for device in [FRONT, BACK] {
        // The far one comes first, so that it saw whatever the near one saw.
        for (host, far, snap) in [
            (&ground.middle, "-far", HEADERS.min(setting.snap)),
            (&ground.gateway, "", setting.snap),
        ] {
            let file = evidence.file(&format!("{device}{far}.pcap"));
            captures.push(Capture::start(host, device, &file, snap)?);
        }
    }
    let gateway = Gateway::start(&setup(part, calltap, &ground, &certificate, &upstreams)?)?;
    let port = match setting.front {
        Carried::H2c => gateway.h2c().port(),
        Carried::Http1 | Carried::Http1Tls | Carried::H2Tls => gateway.plain().port(),
    };
    let server = SocketAddr::new(Ground::front_address(part.family), port);
    let tls = in_tls(setting.front)
        .then(|| -> anyhow::Result<_> {
            let mut config = certificate.client(setting.tls)?;
            config.key_log = secrets.clone();
            config.alpn_protocols = alpn(setting.front);
            Ok(Arc::new(config))
        })
        .transpose()?;

    let play = Play {
        ground: &ground,
        family: part.family,
        upstream: upstreams[0],
        caller: Caller::new(server, tls),
        calls: part.calls,
        seed: part.seed,
        authority: certificate.authority(),
        keys: fs::canonicalize(evidence.file(KEYS))?,
    };
    ground.client.run(|| (part.play)(&play))??;
    let asked = play.caller.into_asked();

    let stages = gateway.wait_rest(REST_MAX)?;
    ensure!(
        stages.iter().all(crate::gateway::Stages::at_rest),
        "calltap is not at rest: {stages:?}\n{}",
        gateway.stderr()
    );
    fs::copy(gateway.records(), evidence.file("records.jsonl"))
        .with_context(|| gateway.stderr())?;
    fs::write(evidence.file("stderr"), gateway.stderr())?;
    // Its goodbyes belong into the captures.
    drop(gateway);
    capture::wait_quiet(&captures);
    let mut capture_drops = 0;
    for capture in captures {
        capture_drops += capture.stop()?;
    }
    evidence.write_scene(&Scene {
        scenario: part.scenario.to_owned(),
        family: part.family,
        server,
        upstreams,
        front: setting.front,
        back: setting.back,
        capture_drops,
        asked,
    })?;
    Ok(evidence)
}

/// Held until the scenario is over.
#[expect(dead_code, reason = "held for their Drop")]
enum Upstream {
    Http1(Backend),
    Http2(Streams),
}

/// Starts the upstreams that answer, and says where they are.
fn upstreams(
    part: &Part<'_>,
    ground: &Ground,
    certificate: &Certificate,
    secrets: &Arc<Secrets>,
) -> anyhow::Result<(Vec<SocketAddr>, Vec<Upstream>)> {
    let setting = &part.setting;
    let count = if setting.endpoints == Endpoints::Two {
        2
    } else {
        1
    };
    let (mut addresses, mut backends) = (Vec::new(), Vec::new());
    for which in 0..count {
        let address = Ground::upstream_address(part.family, which);
        let listener = ground.upstreams[which].run(|| TcpListener::bind((address, 0)))??;
        addresses.push(listener.local_addr()?);
        let tls = in_tls(setting.back)
            .then(|| -> anyhow::Result<_> {
                let mut config = certificate.server(setting.tls)?;
                config.key_log = secrets.clone();
                config.alpn_protocols = alpn(setting.back);
                Ok(Arc::new(config))
            })
            .transpose()?;
        backends.push(match setting.back {
            Carried::Http1 | Carried::Http1Tls => {
                let transport = tls.map_or(Transport::Plain, |config| Transport::Tls {
                    config,
                    pause: Arc::new(|| Duration::ZERO),
                });
                Upstream::Http1(Backend::serve(listener, transport)?)
            }
            Carried::H2c | Carried::H2Tls => Upstream::Http2(Streams::serve(listener, tls)?),
        });
    }
    Ok((addresses, backends))
}

fn setup(
    part: &Part<'_>,
    calltap: &Path,
    ground: &Ground,
    certificate: &Certificate,
    upstreams: &[SocketAddr],
) -> anyhow::Result<Setup> {
    let setting = &part.setting;
    let mut endpoints = upstreams.to_vec();
    match setting.endpoints {
        Endpoints::One | Endpoints::Two => (),
        Endpoints::RefusingAndOne | Endpoints::SilentAndOne => {
            // Nobody listens there, and its kernel says so unless the middle keeps it from it.
            let nobody = SocketAddr::new(Ground::upstream_address(part.family, 1), 9);
            endpoints.insert(0, nobody);
        }
    }
    if setting.endpoints == Endpoints::SilentAndOne {
        ground.weather(
            "chain silence { type filter hook forward priority 10; oifname \"two\" drop; };",
        )?;
    }
    let mut keys = setting.keys.clone();
    if matches!(setting.back, Carried::H2c | Carried::H2Tls) {
        keys.push(("upstreams.backend", "protocol", "\"http2\"".to_owned()));
    }
    let address = match part.family {
        Family::V4 | Family::V6 => Ground::front_address(part.family),
        Family::Mapped => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    Ok(Setup {
        tap: "ebpf",
        address,
        workers: setting.workers,
        more_endpoints: endpoints[1..].to_vec(),
        backend_tls: in_tls(setting.back).then(|| (certificate.authority(), NAME.to_owned())),
        listener_tls: in_tls(setting.front).then(|| certificate.files()),
        keys,
        plain_routes: true,
        wrapper: ground.gateway.wrapper(),
        admin_namespace: Some(ground.gateway.clone()),
        ..Setup::new(calltap, endpoints[0])
    })
}

fn in_tls(carried: Carried) -> bool {
    matches!(carried, Carried::Http1Tls | Carried::H2Tls)
}

fn alpn(carried: Carried) -> Vec<Vec<u8>> {
    match carried {
        Carried::Http1 | Carried::Http1Tls => vec![b"http/1.1".to_vec()],
        Carried::H2c | Carried::H2Tls => vec![b"h2".to_vec()],
    }
}
