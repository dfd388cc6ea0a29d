//! The other gateways, and the backend behind everybody: configurations and processes.
//!
//! The configurations are the files in `loadtest/peers`, one worker each, written into a scratch
//! directory with free ports. Each gateway runs with no log, or with the richest line it can print.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde::Serialize;

use crate::certificate::Certificate;
use crate::cleanup::{Guard, Scratch};
use crate::compare::place::Place;

/// Who does not listen by then has failed to start.
const START_MAX: Duration = Duration::from_secs(20);
/// Who did not leave by then is killed.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Where `scripts/bootstrap --bench` puts Envoy, below the user's cache directory.
const ENVOY: &str = "calltap/envoy";

/// The sizes of the backend's bodies that are files; all other paths answer a hundred bytes.
pub const BODIES: [(&str, usize); 2] = [("/bodies/10k", 10_000), ("/bodies/1m", 1_000_000)];

/// A gateway that is not calltap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// nginx
    Nginx,
    /// HAProxy
    Haproxy,
    /// Envoy
    Envoy,
}

/// Where the programs are that are not calltap.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Envoy's binary, if there is one.
    pub envoy: Option<PathBuf>,
}

impl Programs {
    /// Those in the path, and the Envoy that `scripts/bootstrap --bench` fetched.
    pub fn found() -> Self {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let envoy = cache.or_else(home).map(|cache| cache.join(ENVOY));
        Self {
            envoy: envoy.filter(|envoy| envoy.is_file()),
        }
    }

    fn of(&self, peer: Peer) -> anyhow::Result<PathBuf> {
        match peer {
            Peer::Nginx => Ok("nginx".into()),
            Peer::Haproxy => Ok("haproxy".into()),
            Peer::Envoy => self.envoy.clone().context("there is no Envoy here"),
        }
    }

    /// What a peer says of its version.
    pub fn version(&self, peer: Peer) -> anyhow::Result<String> {
        let program = self.of(peer)?;
        let flag = match peer {
            Peer::Nginx | Peer::Haproxy => "-v",
            Peer::Envoy => "--version",
        };
        let said = said(&program, flag)?;
        // nginx version: nginx/1.22.1 · HAProxy version 2.6.12-1 2026/01/01 - ... · envoy version:
        // revision/1.40.0/Clean/RELEASE/BoringSSL
        let version = match peer {
            Peer::Nginx => said.rsplit('/').next(),
            Peer::Haproxy => said.split_whitespace().nth(2),
            Peer::Envoy => said
                .rsplit("version:")
                .next()
                .and_then(|said| said.split('/').nth(1)),
        };
        Ok(version.unwrap_or(&said).trim().to_owned())
    }
}

/// What a program prints first when asked with `flag`, on whichever stream.
pub fn said(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty());
    Ok(line.unwrap_or_default().trim().to_owned())
}

/// How a peer is configured.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// With its line per call.
    pub log: bool,
    /// So many routes before the one for everything.
    pub routes: u32,
    /// With TLS on its first listener.
    pub certificate: Option<&'a Certificate>,
    /// Where calls end.
    pub backend: SocketAddr,
}

/// A running process that serves; ends when dropped.
pub struct Server {
    /// First, so that the process ends before its directory goes.
    _guard: Guard,
    pid: Pid,
    directory: Scratch,
    plain: SocketAddr,
    h2c: SocketAddr,
}

impl Server {
    /// Starts a peer.
    pub fn peer(
        peer: Peer,
        programs: &Programs,
        place: &Place,
        wanted: Wanted<'_>,
    ) -> anyhow::Result<Self> {
        let program = programs.of(peer)?;
        let directory = Scratch::new("calltap-compare-")?;
        let addresses = place.free_ports::<2>(place.address)?;
        let file = match peer {
            Peer::Nginx => "nginx.conf",
            Peer::Haproxy => "haproxy.cfg",
            Peer::Envoy => "envoy.yaml",
        };
        let text = match peer {
            Peer::Nginx => nginx(directory.path(), addresses, wanted),
            Peer::Haproxy => haproxy(directory.path(), addresses, wanted)?,
            Peer::Envoy => envoy(directory.path(), addresses, wanted),
        };
        let file = directory.path().join(file);
        fs::write(&file, text)?;
        let mut command = place.command(&program.to_string_lossy());
        match peer {
            Peer::Nginx => command
                .args(["-e", "stderr", "-p"])
                .arg(directory.path())
                .arg("-c")
                .arg(&file),
            Peer::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Peer::Envoy => command.arg("-c").arg(&file).args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "error",
            ]),
        };
        Self::start(command, directory, place, addresses)
    }

    fn start(
        mut command: Command,
        directory: Scratch,
        place: &Place,
        [plain, h2c]: [SocketAddr; 2],
    ) -> anyhow::Result<Self> {
        let mut child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(File::create(directory.path().join("stdout"))?)
            .stderr(File::create(directory.path().join("stderr"))?)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let deadline = Instant::now() + START_MAX;
        let failed = loop {
            match child.try_wait() {
                Ok(None) => (),
                Ok(Some(status)) => break Some(format!("ended at once, {status}")),
                Err(error) => break Some(error.to_string()),
            }
            if place.run(|| TcpStream::connect(plain).is_ok())? {
                break None;
            }
            if Instant::now() >= deadline {
                break Some(format!("does not listen on {plain}"));
            }
            thread::sleep(Duration::from_millis(20));
        };
        let pid = Pid::from_child(&child);
        let server = Self {
            _guard: Guard::new(move || end(child)),
            pid,
            directory,
            plain,
            h2c,
        };
        match failed {
            Some(failed) => bail!("{command:?} {failed}: {}", server.complaints()),
            None => Ok(server),
        }
    }

    /// The process; it may have children.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Where it takes HTTP/1.1, by TLS if it was given a certificate.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// Where it takes HTTP/2 by prior knowledge.
    pub fn h2c(&self) -> SocketAddr {
        self.h2c
    }

    /// The file its lines go to, if it writes any.
    pub fn log(&self, peer: Peer) -> PathBuf {
        self.directory.path().join(match peer {
            Peer::Nginx | Peer::Envoy => "calls.log",
            // Standard output is where HAProxy writes without a daemon in between.
            Peer::Haproxy => "stdout",
        })
    }

    fn complaints(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }
}

/// The backend: answers at once, and counts.
pub struct Backend {
    server: Server,
    status: SocketAddr,
    place: Place,
}

impl Backend {
    /// Starts one on the loopback of `place`.
    pub fn start(place: &Place) -> anyhow::Result<Self> {
        let directory = Scratch::new("calltap-compare-")?;
        let bodies = directory.path().join("bodies");
        fs::create_dir(&bodies)?;
        for (path, bytes) in BODIES {
            let name = path.rsplit('/').next().unwrap_or(path);
            fs::write(bodies.join(name), vec![b'x'; bytes])?;
        }
        let [address, status] = place.free_ports(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        let text = fill(
            include_str!("../../peers/backend.conf"),
            &[
                ("directory", &directory.path().display().to_string()),
                ("address", &address.to_string()),
                ("status", &status.to_string()),
            ],
        );
        let file = directory.path().join("backend.conf");
        fs::write(&file, text)?;
        let mut command = place.command("nginx");
        command
            .args(["-e", "stderr", "-p"])
            .arg(directory.path())
            .arg("-c")
            .arg(&file);
        Ok(Self {
            server: Server::start(command, directory, place, [address, status])?,
            status,
            place: place.clone(),
        })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.server.plain
    }

    /// How many requests it has had, the questions for this number included.
    pub fn requests(&self) -> anyhow::Result<u64> {
        let text = self.place.get(self.status, "/")?;
        // Active connections: 1 \n server accepts handled requests \n 7 7 19 \n ...
        text.lines()
            .nth(2)
            .and_then(|line| line.split_whitespace().nth(2)?.parse().ok())
            .with_context(|| format!("no count of requests in {text:?}"))
    }
}

fn nginx(directory: &Path, [plain, h2c]: [SocketAddr; 2], wanted: Wanted<'_>) -> String {
    let directory = directory.display().to_string();
    let log = match wanted.log {
        true => format!("{directory}/calls.log tcp buffer=64k flush=1s"),
        false => "off".to_owned(),
    };
    let tls = wanted.certificate.map(|certificate| {
        let (chain, key) = certificate.files();
        let (chain, key) = (chain.display(), key.display());
        format!(" ssl;\n    ssl_certificate {chain}; ssl_certificate_key {key}")
    });
    let routes = (0..wanted.routes).fold(String::new(), |mut routes, route| {
        let _ = writeln!(
            routes,
            "    location /r{route}/ {{ proxy_pass http://backend; }}"
        );
        routes
    });
    fill(
        include_str!("../../peers/nginx.conf"),
        &[
            ("directory", &directory),
            ("log", &log),
            ("backend", &wanted.backend.to_string()),
            ("address", &plain.to_string()),
            ("h2c", &h2c.to_string()),
            ("tls", &tls.unwrap_or_default()),
            ("routes", &routes),
        ],
    )
}

fn haproxy(
    directory: &Path,
    [plain, h2c]: [SocketAddr; 2],
    wanted: Wanted<'_>,
) -> anyhow::Result<String> {
    let tls = match wanted.certificate {
        Some(certificate) => {
            let (chain, key) = certificate.files();
            let both = [fs::read(chain)?, fs::read(key)?].concat();
            let file = directory.join("tls.pem");
            fs::write(&file, both)?;
            format!(" ssl crt {}", file.display())
        }
        None => String::new(),
    };
    let routes = if wanted.routes > 0 {
        let lines: String = (0..wanted.routes)
            .map(|route| format!("/r{route}/ b\n"))
            .collect();
        let file = directory.join("routes.map");
        fs::write(&file, lines)?;
        format!("  use_backend %[path,map_beg({})]", file.display())
    } else {
        String::new()
    };
    let log = match wanted.log {
        true => include_str!("../../peers/haproxy-log.cfg"),
        false => "  no log",
    };
    Ok(fill(
        include_str!("../../peers/haproxy.cfg"),
        &[
            ("backend", &wanted.backend.to_string()),
            ("address", &plain.to_string()),
            ("h2c", &h2c.to_string()),
            ("tls", &tls),
            ("log", log.trim_end()),
            ("routes", &routes),
        ],
    ))
}

fn envoy(directory: &Path, addresses: [SocketAddr; 2], wanted: Wanted<'_>) -> String {
    let directory = directory.display().to_string();
    let log = match wanted.log {
        true => fill(
            include_str!("../../peers/envoy-log.yaml"),
            &[("directory", &directory)],
        ),
        false => String::new(),
    };
    let routes: String = (0..wanted.routes)
        .map(|route| {
            format!(
                "{{match: {{prefix: \"/r{route}/\"}}, route: {{cluster: backend, timeout: 60s}}}}, "
            )
        })
        .collect();
    let listeners: String = addresses
        .iter()
        .enumerate()
        .map(|(at, address)| {
            // The first only; the second takes HTTP/2 by prior knowledge, as either would.
            let tls = wanted.certificate.filter(|_| at == 0).map(|certificate| {
                let (chain, key) = certificate.files();
                let (chain, key) = (chain.display(), key.display());
                format!(
                    "transport_socket: {{name: tls, typed_config: {{\"@type\": \
                     type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.\
                     DownstreamTlsContext, common_tls_context: {{tls_certificates: \
                     [{{certificate_chain: {{filename: {chain}}}, private_key: \
                     {{filename: {key}}}}}]}}}}}}\n      "
                )
            });
            fill(
                include_str!("../../peers/envoy-listener.yaml"),
                &[
                    ("ip", &address.ip().to_string()),
                    ("port", &address.port().to_string()),
                    ("tls", &tls.unwrap_or_default()),
                    ("routes", &routes),
                    ("log", log.trim_end()),
                ],
            )
        })
        .collect();
    fill(
        include_str!("../../peers/envoy.yaml"),
        &[
            ("listeners", listeners.trim_end()),
            ("backend_ip", &wanted.backend.ip().to_string()),
            ("backend_port", &wanted.backend.port().to_string()),
        ],
    )
}

/// Puts values for the words between @.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| {
            text.replace(&format!("@{name}@"), value)
        })
}

fn end(mut child: Child) {
    // Never killed at first: the workers of an nginx outlive a master that could not tell them.
    let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::TERM);
    let deadline = Instant::now() + STOP_MAX;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::missing;

    #[test]
    fn a_logging_peer_writes_a_line_per_call() {
        let programs = Programs::found();
        for peer in [Peer::Nginx, Peer::Haproxy, Peer::Envoy] {
            let there = match peer {
                Peer::Envoy => programs.envoy.is_some(),
                Peer::Nginx | Peer::Haproxy => missing().is_none(),
            };
            if !there {
                eprintln!("SKIPPED: {peer:?} or the load is not installed");
                continue;
            }
            for (log, calls) in [(true, 5), (false, 0)] {
                assert_eq!(lines(peer, &programs, log, 5), calls, "{peer:?}, log {log}");
            }
        }
    }

    /// How many lines of a log name the path that was called so often, once the peer has ended.
    fn lines(peer: Peer, programs: &Programs, log: bool, calls: u64) -> usize {
        let place = Place::loopback();
        let backend = Backend::start(&place).unwrap();
        let wanted = Wanted {
            log,
            routes: 2,
            certificate: None,
            backend: backend.address(),
        };
        let server = Server::peer(peer, programs, &place, wanted).unwrap();
        let before = backend.requests().unwrap();
        for _ in 0..calls {
            let body = place.get(server.plain(), "/r1/orders").unwrap();
            assert_eq!(body.len(), 100);
        }
        // And the question itself.
        assert_eq!(backend.requests().unwrap() - before, calls + 1);
        // What is buffered goes out when it ends, so the file has to outlive its directory's owner.
        let kept = Scratch::new("calltap-compare-test-").unwrap();
        let file = kept.path().join("log");
        if fs::hard_link(server.log(peer), &file).is_err() {
            return 0;
        }
        let lines = || {
            let text = fs::read_to_string(&file).unwrap();
            let named = text.lines().filter(|line| line.contains("/r1/orders"));
            named.count()
        };
        // Of what is not buffered the last line is written after its answer, and lost when the peer is told
        // to end before that.
        let deadline = Instant::now() + Duration::from_secs(1);
        while lines() < calls as usize && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        drop(server);
        lines()
    }

    #[test]
    fn everything_between_at_signs_is_filled_in() {
        let directory = Scratch::new("calltap-compare-test-").unwrap();
        let certificate = Certificate::new().unwrap();
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let wanted = Wanted {
            log: true,
            routes: 1,
            certificate: Some(&certificate),
            backend: address,
        };
        for text in [
            nginx(directory.path(), [address; 2], wanted),
            haproxy(directory.path(), [address; 2], wanted).unwrap(),
            envoy(directory.path(), [address; 2], wanted),
        ] {
            let left = text
                .lines()
                .filter(|line| !line.starts_with('#'))
                .any(|line| line.replace("\"@type\"", "").contains('@'));
            assert!(!left, "{text}");
        }
    }
}
