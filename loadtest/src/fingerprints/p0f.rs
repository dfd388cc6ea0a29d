//! The real p0f on one interface, and what it logged.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, ensure};

use crate::cleanup::{Guard, Scratch};
use crate::lab::Namespace;

/// Where Debian's package has it; p0f does not start without, though raw signatures need none of it.
const DATABASE: &str = "/etc/p0f/p0f.fp";

/// A running p0f; killed when dropped.
pub struct P0f {
    log: PathBuf,
    _guard: Guard,
    _directory: Scratch,
}

impl P0f {
    /// Whether it is installed.
    pub fn is_there() -> bool {
        // Without an argument it would listen; this one it does not know.
        Command::new("p0f").arg("-h").output().is_ok()
    }

    /// Listens on `device` of `host`, and returns when it has begun.
    pub fn start(host: &Namespace, device: &str) -> anyhow::Result<Self> {
        let directory = Scratch::new("calltap-p0f-")?;
        let log = directory.path().join("log");
        let mut child = host
            .command("p0f")
            .args(["-f", DATABASE, "-i", device, "-o"])
            .arg(&log)
            .arg("tcp")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run p0f")?;
        let said = child.stdout.take().context("no stdout")?;
        let child = Arc::new(Mutex::new(child));
        let guard = Guard::new(move || {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        });
        let mut lines = BufReader::new(said).lines();
        let begun = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("Entered main event loop"));
        ensure!(begun, "p0f ended at once");
        // It tells everything it sees, and would wait for somebody to read it.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            log,
            _guard: guard,
            _directory: directory,
        })
    }

    /// The raw signature of every SYN so far, by who sent it. Of a SYN seen twice, the later one.
    pub fn signatures(&self) -> anyhow::Result<HashMap<SocketAddr, String>> {
        let log = fs::read_to_string(&self.log).context("p0f left no log")?;
        log.lines()
            .filter(|line| line.contains("|raw_sig="))
            .filter(|line| line.contains("] mod=syn|"))
            .map(|line| signature(line).with_context(|| format!("p0f logged: {line}")))
            .collect()
    }
}

/// `[time] mod=syn|cli=10.0.0.1/1234|srv=...|...|raw_sig=4:64+0:...`
fn signature(line: &str) -> Option<(SocketAddr, String)> {
    let field = |name: &str| line.split('|').find_map(|field| field.strip_prefix(name));
    let (address, port) = field("cli=")?.split_once('/')?;
    let client = SocketAddr::new(address.parse().ok()?, port.parse().ok()?);
    Some((client, field("raw_sig=")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_read() {
        let line = "[2026/11/22 17:00:00] mod=syn|cli=fd92::2/4711|srv=fd92:0:0:1::2/80|subj=cli|\
                    os=???|dist=1|params=none|raw_sig=6:63+1:0:1440:mss*45,7:mss,sok:flow:0";
        let (client, signature) = signature(line).unwrap();
        assert_eq!(client, "[fd92::2]:4711".parse().unwrap());
        assert_eq!(signature, "6:63+1:0:1440:mss*45,7:mss,sok:flow:0");
    }
}
