//! `loadtest verify --faults`: the same questions while things break.
//!
//! The law `accepted = open + settling + queued + written + dropped` must hold and every call must
//! be served: by the backend where there is one, by an honest error where there is none. A record
//! that could not be written must be counted.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::backend::Backend;
use crate::checks::{self, Checks, World};
use crate::cleanup::{Guard, Scratch};
use crate::gateway::{Gateway, Setup, Stages};
use crate::records::Records;
use crate::verify::{self, Load, REST_MAX};

/// The queue of the stalled sink, records.
const QUEUE_SMALL: u32 = 16;
/// The disk that fills up, KiB: room for all records of [`DISK_CALLS_MAX`].
const DISK_KIB: usize = 8 * 1024;
/// The queue before the disk that fills up, records.
const DISK_QUEUE: u32 = 64;
/// What is left of it while it is full, KiB: room for some records, but not for those of a load.
const DISK_LEFT_KIB: usize = 32;
/// So many calls at most are made while the disk is full.
const DISK_CALLS_MAX: usize = 1_000;
/// So often the backend is killed during a load.
const KILLS: u64 = 3;
/// So long it stays dead.
const DEAD_FOR: Duration = Duration::from_millis(200);

/// A fault and what the checks said under it.
pub type Verdict = (&'static str, anyhow::Result<Checks>);

/// All faults, one after the other. `loadtest` is this program, run again as the backend.
pub fn all(calltap: &Path, loadtest: &Path, load: &Load) -> Vec<Verdict> {
    vec![
        (
            "the backend is killed and comes back",
            backend_killed(calltap, loadtest, load),
        ),
        (
            "the sink stalls and the queue holds 16 records",
            sink_stalled(calltap, load),
        ),
        ("the disk is full for a while", disk_full(calltap, load)),
    ]
}

/// kill -9 of the backend while calls are under way.
pub fn backend_killed(calltap: &Path, loadtest: &Path, load: &Load) -> anyhow::Result<Checks> {
    let (first, address) = BackendProcess::start(loadtest, SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let gateway = Gateway::start(&Setup::new(calltap, address))?;
    let tap = verify::tap_mode(&gateway.status()?);
    let progress = Arc::new(AtomicU64::new(0));
    let calls = load.calls as u64;
    let (seen, killed) = thread::scope(|scope| {
        let killer = scope.spawn(|| kill_at_intervals(first, loadtest, address, &progress, calls));
        let seen = verify::play_with(&gateway, load, &progress);
        // Ends the killer's waiting, should calls have been lost.
        progress.store(calls, Ordering::Relaxed);
        (
            seen,
            killer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    let last = killed?;
    let stages = gateway.wait_rest(REST_MAX)?;
    let records = Records::read(gateway.records())?;
    drop(last);
    let world = World {
        tap,
        routes: true,
        backend_dies: true,
        alone: true,
        stages,
        rest: true,
    };
    Ok(checks::judge(&seen, &records, &world))
}

fn kill_at_intervals(
    first: BackendProcess,
    loadtest: &Path,
    address: SocketAddr,
    progress: &AtomicU64,
    calls: u64,
) -> anyhow::Result<BackendProcess> {
    let mut backend = first;
    for kill in 1..=KILLS {
        while progress.load(Ordering::Relaxed) < calls * kill / (KILLS + 1) {
            thread::sleep(Duration::from_millis(2));
        }
        drop(backend);
        thread::sleep(DEAD_FOR);
        backend = BackendProcess::start(loadtest, address)?.0;
    }
    Ok(backend)
}

/// Nobody reads the pipe the records go to, and the queue is small.
pub fn sink_stalled(calltap: &Path, load: &Load) -> anyhow::Result<Checks> {
    let backend = Backend::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let gateway = Gateway::start(&Setup {
        records: "-".to_owned(),
        queue_max: Some(QUEUE_SMALL),
        pipe_stdout: true,
        ..Setup::new(calltap, backend.address())
    })?;
    let tap = verify::tap_mode(&gateway.status()?);
    let seen = verify::play(&gateway, load);
    let during = gateway.stages()?;

    // Now somebody reads, and what was queued comes out.
    let mut pipe = gateway
        .take_stdout()
        .context("calltap's standard output is no pipe")?;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let reader = thread::spawn(move || {
        let mut piece = [0; 64 * 1024];
        while let Ok(read @ 1..) = pipe.read(&mut piece) {
            sink.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&piece[..read]);
        }
    });
    let stages = gateway.wait_rest(REST_MAX)?;
    drop(gateway);
    // The pipe ends with the process.
    let _ = reader.join();
    let records = Records::parse(&lines.lock().unwrap_or_else(PoisonError::into_inner));
    let world = World {
        tap,
        routes: true,
        backend_dies: false,
        alone: true,
        stages,
        rest: true,
    };
    let mut checks = checks::judge(&seen, &records, &world);
    law(&during, &mut checks);
    let dropped = drops(&world.stages, "queue_full");
    checks.ask("a full queue drops and counts", dropped > 0, || {
        format!("{:?}", world.stages)
    });
    Ok(checks)
}

/// The records' file system has no room, then it has again.
pub fn disk_full(calltap: &Path, load: &Load) -> anyhow::Result<Checks> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a small file system of our own needs root; run it with sudo"
    );
    let mount_point = Scratch::new("calltap-disk-")?;
    let directory = mount_point.path().display();
    // The mount is in a namespace of the gateway's own and goes with it.
    let mount = format!("mount -t tmpfs -o size={DISK_KIB}k tmpfs {directory} && exec \"$@\"");
    let words = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &mount,
        "sh",
    ];
    let backend = Backend::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let gateway = Gateway::start(&Setup {
        records: format!("{directory}/calls.jsonl"),
        // A full disk may be free again in a moment: what waits for it is bounded, and soon full.
        queue_max: Some(DISK_QUEUE),
        wrapper: words.map(str::to_owned).to_vec(),
        ..Setup::new(calltap, backend.address())
    })?;
    let tap = verify::tap_mode(&gateway.status()?);
    // The gateway's view of its disk, through its process.
    let root = PathBuf::from(format!("/proc/{}/root", gateway.pid().as_raw_nonzero()));
    let file = root.join(gateway.records().strip_prefix("/")?);
    let ballast = file.with_file_name("ballast");
    fs::write(&ballast, vec![0; (DISK_KIB - DISK_LEFT_KIB) * 1024])
        .with_context(|| format!("cannot fill {}", ballast.display()))?;

    let many = Load {
        calls: load.calls.min(DISK_CALLS_MAX),
        ..load.clone()
    };
    let mut seen = verify::play(&gateway, &many);
    let full = gateway.stages()?;
    fs::remove_file(&ballast)?;
    // Room again: calls made now must be recorded again.
    thread::sleep(Duration::from_secs(2));
    let written_before = written(&gateway.stages()?);
    let few = Load {
        calls: 20.min(load.calls),
        seed: load.seed + 1,
        ..load.clone()
    };
    let later = verify::play(&gateway, &few);
    let connections = seen
        .calls
        .iter()
        .map(|observed| observed.connection + 1)
        .max();
    seen.calls
        .extend(later.calls.into_iter().map(|mut observed| {
            observed.connection += connections.unwrap_or(0);
            observed
        }));
    seen.failures.extend(later.failures);
    seen.unreachable.extend(later.unreachable);

    let stages = gateway.wait_rest(REST_MAX)?;
    let mut bytes = Vec::new();
    File::open(&file)
        .with_context(|| format!("cannot read {}", file.display()))?
        .read_to_end(&mut bytes)?;
    let records = Records::parse(&bytes);
    let world = World {
        tap,
        routes: true,
        backend_dies: false,
        alone: true,
        stages,
        rest: true,
    };
    let mut checks = checks::judge(&seen, &records, &world);
    law(&full, &mut checks);
    let lost = world.stages.iter().map(Stages::dropped_total).sum::<u64>();
    checks.ask("a full disk drops and counts", lost > 0, || {
        format!("{:?}", world.stages)
    });
    let recovered = written(&world.stages) > written_before;
    checks.ask(
        "writing goes on when there is room again",
        recovered,
        || format!("{written_before} written before: {:?}", world.stages),
    );
    drop(gateway);
    Ok(checks)
}

fn law(stages: &[Stages], checks: &mut Checks) {
    for stages in stages {
        checks.ask(
            "the law holds while it is broken",
            stages.balanced(),
            || format!("{stages:?}"),
        );
    }
}

fn drops(stages: &[Stages], reason: &str) -> u64 {
    stages
        .iter()
        .filter_map(|stages| stages.dropped.get(reason))
        .sum()
}

fn written(stages: &[Stages]) -> u64 {
    stages.iter().map(|stages| stages.written).sum()
}

/// A backend that can be killed without killing us.
struct BackendProcess(#[expect(dead_code, reason = "held for its Drop")] Guard);

impl BackendProcess {
    fn start(loadtest: &Path, listen: SocketAddr) -> anyhow::Result<(Self, SocketAddr)> {
        let child = Command::new(loadtest)
            .args(["backend", "--listen", &listen.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", loadtest.display()))?;
        let mut child = child;
        let stdout = child.stdout.take();
        let guard = Guard::new(move || kill(child));
        let mut line = String::new();
        let mut byte = [0];
        let mut stdout = stdout.context("no pipe to the backend")?;
        while stdout.read(&mut byte)? == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        let address = line
            .strip_prefix("listening on ")
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("the backend on {listen} did not start: {line:?}"))?;
        Ok((Self(guard), address))
    }
}

/// SIGKILL, and the zombie is reaped.
fn kill(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
