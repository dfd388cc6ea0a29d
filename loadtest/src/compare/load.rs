//! The load: wrk, or h2load for HTTP/2, and how much of it came through while we looked.
//!
//! The load runs before and after what is measured, so that neither its connecting nor its ending is.
//! Calls are counted by the backend, which is the same for everybody.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::cleanup::{Guard, Scratch};
use crate::compare::books::Times;
use crate::compare::place::Place;
use crate::compare::subject::Subject;

/// Ends itself after this, whatever becomes of us.
const LOAD_MAX_S: u64 = 600;
/// What h2load runs beyond the end of a measurement, so that the end is not in it.
const MARGIN: Duration = Duration::from_millis(700);
/// So many connections are not served at once; steady load begins when each had two calls on average.
const CROWD: u32 = 500;
/// Who has not served a crowd by then does not serve it.
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// A load that did not end by then is killed.
const END_MAX: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// How many connections.
    pub connections: u32,
    /// What is asked for.
    pub path: &'static str,
    /// How.
    pub way: Way,
}

/// How calls are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/1.1, to this many routes in turn.
    Routes(u32),
    /// HTTP/2 by prior knowledge, with this many calls at a time on each connection.
    H2c(u32),
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Calls that reached the backend.
    pub calls: u64,
    /// In this time.
    pub wall: Duration,
    /// Processor time of the subject's processes.
    pub used: Duration,
}

impl Measured {
    /// Processor time per call.
    pub fn us_per_call(&self) -> f64 {
        self.used.as_secs_f64() * 1e6 / self.calls as f64
    }

    /// Calls per second.
    pub fn calls_per_s(&self) -> f64 {
        self.calls as f64 / self.wall.as_secs_f64()
    }
}

/// Loads `subject` from `client` for `window`, once it is under steady load, and looks at it with
/// `look` when that begins and when it ends.
pub fn measure(
    subject: &Subject,
    client: &Place,
    load: Load,
    window: Duration,
    mut look: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    // Connections are made one after the other, and so are those to the backend.
    let settled = Duration::from_millis(200) + Duration::from_micros(300) * load.connections;
    let unloaded = subject.backend().requests()?;
    let mut running = Running::start(subject, client, load, settled + window + MARGIN)?;
    thread::sleep(settled);
    if load.connections >= CROWD {
        let settled = |requests| requests >= unloaded + 2 * u64::from(load.connections);
        let deadline = Instant::now() + SETTLE_MAX;
        while !settled(subject.backend().requests()?) {
            ensure!(
                Instant::now() < deadline,
                "{} connections are not served twice within {} s",
                load.connections,
                SETTLE_MAX.as_secs()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
    let before = Moment::now(subject)?;
    look()?;
    thread::sleep(window);
    let after = Moment::now(subject)?;
    look()?;
    ensure!(!running.ended()?, "the load ended too early");
    running.end()?;
    let measured = Measured {
        // The question for the second number is in it.
        calls: (after.requests - before.requests).saturating_sub(1),
        wall: after.at - before.at,
        used: after.times.since(&before.times)?,
    };
    ensure!(measured.calls > 0, "no call came through");
    Ok(measured)
}

struct Moment {
    requests: u64,
    times: Times,
    at: Instant,
}

impl Moment {
    fn now(subject: &Subject) -> anyhow::Result<Self> {
        Ok(Self {
            requests: subject.backend().requests()?,
            times: Times::now(subject.pid())?,
            at: Instant::now(),
        })
    }
}

/// A running load; ends when dropped.
struct Running {
    _guard: Guard,
    child: Arc<Mutex<Child>>,
    directory: Scratch,
    /// h2load says what became of its calls only if it is left to end by itself.
    ends_by_itself: bool,
}

impl Running {
    fn start(
        subject: &Subject,
        client: &Place,
        load: Load,
        duration: Duration,
    ) -> anyhow::Result<Self> {
        let Load {
            connections,
            path,
            way,
        } = load;
        let directory = Scratch::new("calltap-compare-")?;
        let connections = connections.to_string();
        let url = |scheme: &str, server: SocketAddr| format!("{scheme}://{server}{path}");
        let mut command = match way {
            Way::H2c(streams) => {
                let mut command = client.command("h2load");
                command
                    .args(["-t", "1", "-c", &connections, "-m", &streams.to_string()])
                    .args(["-D", &format!("{}ms", duration.as_millis())])
                    .arg(url("http", subject.h2c()));
                command
            }
            Way::Http1 | Way::Tls | Way::Routes(_) => {
                let scheme = if way == Way::Tls { "https" } else { "http" };
                let mut command = client.command("wrk");
                command
                    .args(["-t", "1", "-c", &connections, "--timeout", "20s"])
                    .args(["-d", &format!("{LOAD_MAX_S}s")]);
                if let Way::Routes(routes) = way {
                    let script = directory.path().join("routes.lua");
                    std::fs::write(&script, include_str!("../../peers/routes.lua"))?;
                    command.arg("-s").arg(script);
                    command.arg(url(scheme, subject.plain()));
                    command.args(["--", &routes.to_string()]);
                } else {
                    command.arg(url(scheme, subject.plain()));
                }
                command
            }
        };
        let output = std::fs::File::create(directory.path().join("output"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let child = Arc::new(Mutex::new(child));
        let guarded = child.clone();
        let guard = Guard::new(move || {
            let mut child = guarded.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        });
        Ok(Self {
            _guard: guard,
            child,
            directory,
            ends_by_itself: matches!(way, Way::H2c(_)),
        })
    }

    fn ended(&mut self) -> anyhow::Result<bool> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(child.try_wait()?.is_some())
    }

    /// Ends it and makes sure that every call it knows of succeeded.
    fn end(mut self) -> anyhow::Result<()> {
        if !self.ends_by_itself {
            let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            rustix::process::kill_process(Pid::from_child(&child), Signal::INT)?;
        }
        let deadline = Instant::now() + END_MAX;
        while !self.ended()? {
            ensure!(Instant::now() < deadline, "the load does not end");
            thread::sleep(Duration::from_millis(5));
        }
        let said = std::fs::read_to_string(self.directory.path().join("output"))?;
        match complaint(&said) {
            Some(complaint) => bail!("not every call succeeded: {complaint}"),
            None => Ok(()),
        }
    }
}

/// What the load's report says that should not be there.
fn complaint(said: &str) -> Option<&str> {
    let wrong = |line: &&str| {
        let line = line.trim();
        line.starts_with("Socket errors")
            || line.starts_with("Non-2xx")
            || line.starts_with("unable to")
            // requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout
            || (line.starts_with("requests:")
                && !line.ends_with(" 0 failed, 0 errored, 0 timeout"))
    };
    let reported = said.contains("requests in ") || said.contains("requests: ");
    said.lines()
        .find(wrong)
        .or_else(|| (!reported).then_some(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_failed_is_noticed() {
        let wrk = "  2 threads\n  60 requests in 2.00s, 9MB read\nRequests/sec: 30\n";
        let h2load =
            "requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout\n";
        for good in [wrk, h2load] {
            assert_eq!(complaint(good), None);
        }
        let refused = "unable to connect to 127.0.0.1:1 Connection refused\n";
        let errors = format!("{wrk}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        let statuses = format!("{wrk}  Non-2xx or 3xx responses: 4\n");
        let failed = h2load.replace("0 failed", "1 failed");
        for bad in [refused, &errors, &statuses, &failed, "killed"] {
            assert!(complaint(bad).is_some(), "{bad}");
        }
    }
}
