//! What one run of one scenario leaves behind, as files in a directory of its own.
//!
//! | file | is |
//! |---|---|
//! | `scene.json` | [`Scene`]: what was played and what the client asked |
//! | `records.jsonl` | what calltap wrote |
//! | `front.pcap`, `back.pcap` | the gateway's interfaces towards clients and upstreams |
//! | `front-far.pcap`, `back-far.pcap` | the other ends of those two cables: the same packets, seen a second time |
//! | `keys.log` | TLS secrets of the scenario's own clients and upstreams, where TLS was spoken |

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The addresses a scenario is played with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4 on an IPv4 listener.
    V4,
    /// IPv6 on an IPv6 listener.
    V6,
    /// IPv4 on a listener on `[::]`.
    Mapped,
}

/// What a connection carries, on either side of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carried {
    /// HTTP/1.1 on TCP.
    Http1,
    /// HTTP/1.1 in TLS.
    Http1Tls,
    /// HTTP/2 by prior knowledge.
    H2c,
    /// HTTP/2 in TLS.
    H2Tls,
}

impl Carried {
    /// Several calls at a time, as streams.
    pub fn is_shared(self) -> bool {
        matches!(self, Carried::H2c | Carried::H2Tls)
    }
}

/// What was played.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scene {
    /// The scenario's name.
    pub scenario: String,
    /// The addresses.
    pub family: Family,
    /// Where the clients connected to.
    pub server: SocketAddr,
    /// The upstreams that exist; an endpoint that refuses is not among them.
    pub upstreams: Vec<SocketAddr>,
    /// Towards the clients.
    pub front: Carried,
    /// Towards the upstreams.
    pub back: Carried,
    /// Packets that the captures lost. More than none make the run void.
    pub capture_drops: u64,
    /// Every call the clients began, in no particular order.
    pub asked: Vec<Asked>,
}

/// One call, as its client saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Its name: the `call` parameter of the query, the same on both sides of the gateway.
    pub id: String,
    /// The client's own address, to find the connection.
    pub client: SocketAddr,
    /// The status it was answered with, if it was.
    pub status: Option<u16>,
    /// Whether the response came to its end.
    pub complete: bool,
}

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct Evidence {
    directory: PathBuf,
}

impl Evidence {
    /// The evidence in `directory`, be it there already or to come.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads `scene.json`.
    pub fn scene(&self) -> anyhow::Result<Scene> {
        let path = self.file("scene.json");
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes `scene.json`.
    pub fn write_scene(&self, scene: &Scene) -> anyhow::Result<()> {
        let path = self.file("scene.json");
        let text = serde_json::to_vec_pretty(scene)?;
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}
