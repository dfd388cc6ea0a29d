//! The gateway of the demonstration: this same program, started as a child with a configuration of
//! its own, in a directory that goes away with it.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::wire;

/// How long the gateway may take to become ready, and to leave.
const START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(12);
/// The same when the demonstration is interrupted.
const DROP_MAX: Duration = Duration::from_secs(3);
/// How long the gateway lets open calls finish, seconds.
const GRACE_S: u64 = 1;
/// How often free ports are sought: between finding one and using it another may take it.
const START_TRIES: usize = 3;
/// How long a record waits for its last acknowledgement, seconds.
pub(crate) const SETTLE_MAX_S: u64 = 3;
/// The longest answer of the admin API that is read.
const ADMIN_BYTES_MAX: usize = 1 << 20;

/// The running gateway. Dropping it ends the process and removes its directory.
pub(crate) struct Gateway {
    child: Child,
    dir: TempDir,
    /// Where it takes calls.
    pub(crate) proxy: SocketAddr,
    admin: SocketAddr,
    /// Refuses connections for as long as it lives: bound, but never listening.
    _dead_end: TcpSocket,
}

impl Gateway {
    /// Starts `calltap run` in front of the API at `orders` and waits until it is ready.
    pub(crate) async fn start(orders: SocketAddr) -> anyhow::Result<Self> {
        let mut tries = 1;
        loop {
            match Self::try_start(orders).await {
                Err(_) if tries < START_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    async fn try_start(orders: SocketAddr) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("calltap-demo-")
            .tempdir()
            .context("cannot make a directory for the demonstration")?;
        let dead_end = TcpSocket::new_v4().context("cannot make a socket")?;
        dead_end
            .bind((Ipv4Addr::LOCALHOST, 0).into())
            .context("cannot bind a port of this machine")?;
        let (proxy, admin) = (free_port().await?, free_port().await?);
        let config = configuration(proxy, admin, orders, dead_end.local_addr()?);
        let config_path = dir.path().join("calltap.toml");
        fs::write(&config_path, config)
            .context("cannot write the demonstration's configuration")?;
        let said = File::create(dir.path().join("calltap.log"))
            .context("cannot write the demonstration's log")?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let child = Command::new(&program)
            .arg("run")
            .arg("--config")
            .arg(&config_path)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(
                said.try_clone()
                    .context("cannot write the demonstration's log")?,
            )
            .stderr(said)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut gateway = Self {
            child,
            dir,
            proxy,
            admin,
            _dead_end: dead_end,
        };
        gateway.wait_until_ready().await?;
        Ok(gateway)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot watch the gateway")? {
                bail!(
                    "the gateway did not start ({status}); it said:\n{}",
                    self.said()
                );
            }
            if let Ok((200, _)) = self.ask("/readyz").await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the gateway was not ready after {} s; it said:\n{}",
                    START_MAX.as_secs(),
                    self.said()
                );
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    /// The log it writes.
    pub(crate) fn records(&self) -> PathBuf {
        self.dir.path().join("calls.jsonl")
    }

    /// What its admin API says about itself, if it says anything.
    pub(crate) async fn status(&self) -> Option<serde_json::Value> {
        let (status, body) = self.ask("/api/v1/status").await.ok()?;
        (status == 200).then(|| serde_json::from_slice(&body).ok())?
    }

    /// The last lines it wrote for people.
    pub(crate) fn said(&self) -> String {
        const LINES: usize = 20;
        let text = fs::read_to_string(self.dir.path().join("calltap.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Asks it to finish what it has and leave; waits until it has.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.terminate().context("cannot stop the gateway")?;
        match timeout(STOP_MAX, self.child.wait()).await {
            Ok(status) => status.context("cannot wait for the gateway"),
            Err(_) => {
                self.child.kill().await.context("cannot kill the gateway")?;
                bail!("the gateway did not leave within {} s", STOP_MAX.as_secs())
            }
        }
    }

    fn terminate(&self) -> rustix::io::Result<()> {
        let pid = self.child.id().and_then(|id| id.try_into().ok());
        match pid.and_then(Pid::from_raw) {
            Some(pid) => kill_process(pid, Signal::TERM),
            None => Ok(()),
        }
    }

    async fn ask(&self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        const ANSWER_MAX: Duration = Duration::from_secs(2);
        timeout(ANSWER_MAX, async {
            let mut socket = BufReader::new(TcpStream::connect(self.admin).await?);
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.admin
            );
            socket.get_mut().write_all(request.as_bytes()).await?;
            let head = wire::read_head(&mut socket)
                .await?
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let body = wire::read_body(&mut socket, &head, ADMIN_BYTES_MAX).await?;
            Ok((head.status().unwrap_or(0), body))
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Gateway {
    /// Lets the gateway leave by itself for a moment, so that it takes down what it put up in the
    /// kernel; then it is killed.
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + DROP_MAX;
        if self.terminate().is_ok() {
            while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

async fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("cannot find a free port of this machine")?;
    Ok(listener.local_addr()?)
}

/// Small, but with everything the demonstration shows: named operations, a group whose first
/// endpoint refuses, and who calls.
fn configuration(
    proxy: SocketAddr,
    admin: SocketAddr,
    orders: SocketAddr,
    dead_end: SocketAddr,
) -> String {
    const OPERATIONS: [(&str, &str, &str, &str); 8] = [
        ("GET", "/orders", "orders", "listOrders"),
        ("GET", "/orders/{id}", "orders", "getOrder"),
        ("POST", "/orders", "orders", "createOrder"),
        ("GET", "/reports", "orders", "report"),
        ("GET", "/events", "orders", "watchOrders"),
        ("GET", "/flaky", "orders", "flaky"),
        ("GET", "/exports", "orders", "export"),
        ("GET", "/stock/{item}", "stock", "getStock"),
    ];
    let mut text = format!(
        "[[listeners]]\naddress = \"{proxy}\"\n\n\
         [upstreams.orders]\nendpoints = [\"{orders}\"]\n\n\
         [upstreams.stock]\nendpoints = [\"{dead_end}\", \"{orders}\"]\nretries = 1\n\n\
         [consumer]\nclient_id = [\"header:X-IBM-Client-Id\"]\n\n\
         [records]\npath = \"calls.jsonl\"\n\n\
         [settle]\nmax_s = {SETTLE_MAX_S}\n\n\
         [shutdown]\ngrace_s = {GRACE_S}\n\n\
         [admin]\naddress = \"{admin}\"\n"
    );
    for (method, path, upstream, operation) in OPERATIONS {
        text.push_str(&format!(
            "\n[[routes]]\nname = \"{operation}\"\npath = \"{path}\"\nmethods = [\"{method}\"]\n\
             upstream = \"{upstream}\"\noperation = \"{operation}\"\n\
             api = {{ name = \"{upstream}\", version = \"1.0.0\" }}\n"
        ));
    }
    text
}
