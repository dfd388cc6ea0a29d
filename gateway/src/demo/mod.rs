//! `calltap demo`: a small order API, calltap in front of it, and clients that behave and misbehave,
//! to see every call leave its record.
//!
//! Everything runs on this machine's loopback, on free ports, and is gone when it ends. In reading
//! order: [`orders`] is the API, [`child`] the gateway, [`callers`] the clients, [`summary`] holds
//! calls against records.

mod callers;
mod child;
mod orders;
mod summary;
mod wire;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval};

use crate::tail::OutputError;
use crate::tail::clean::{clean, clean_json};
use crate::tail::file::{Begin, Follower};
use crate::tail::line;
use crate::tail::paint::{Color, Paint};
use crate::tail::view::View;

use callers::Made;
use child::Gateway;
use orders::Orders;
use summary::{Summary, Tally, TapSummary};

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A caller's pause between two calls, so that a person can follow.
const PACE_TO_WATCH: Duration = Duration::from_millis(100);
/// More calls than this are made without pauses.
const CALLS_TO_WATCH_MAX: usize = 400;
/// What is wrong when it takes longer: a fixed part, and a part for each call.
const RUN_MAX: Duration = Duration::from_secs(25);
const RUN_MAX_PER_CALL: Duration = Duration::from_millis(50);
/// Records come at most this long after the last call ended: settling, and the way to the file.
const RECORDS_MAX: Duration = Duration::from_secs(child::SETTLE_MAX_S + 2);
/// Calls whose end waits to be noticed.
const MADE_MAX: usize = 1_024;

/// Shows calltap at work in front of a small API of its own
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// How many calls to make
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) calls: u32,
    /// Writes each record as a line of JSON, then one line of `"kind": "summary"`
    #[arg(long)]
    pub(crate) json: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    pub(crate) color: Color,
}

/// Runs the demonstration. Fails when any call has no record, or not the one it should have.
///
/// # Errors
/// When the API or the gateway cannot be started, or the records cannot be read or shown.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let result = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        tokio::select! {
            result = demonstrate(args) => result,
            // Dropping the demonstration ends the gateway and removes what it wrote.
            _ = tokio::signal::ctrl_c() => Ok(interrupted(SignalKind::interrupt())),
            _ = terminated.recv() => Ok(interrupted(SignalKind::terminate())),
        }
    });
    runtime.shutdown_background();
    match result {
        // Whoever read our output has seen enough, but nobody knows how it would have ended.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::FAILURE),
        other => other,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<OutputError>()
        .is_some_and(OutputError::is_broken_pipe)
}

/// The exit code of a shell's child that a signal ended.
fn interrupted(signal: SignalKind) -> ExitCode {
    ExitCode::from(128 + u8::try_from(signal.as_raw_value()).unwrap_or(0))
}

async fn demonstrate(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let DemoArgs { calls, json, color } = args;
    let calls = usize::try_from(calls).context("more calls than this machine can count")?;
    let paint = Paint::of_stdout(color);
    let mut show = Show { paint, json };

    let orders = Orders::start()
        .await
        .context("cannot start the order API")?;
    let mut gateway = Gateway::start(orders.address).await?;
    let tap = tap_of(&gateway).await;
    show.begin(&orders, &gateway, tap.as_ref())?;

    let pace = if io::stdout().is_terminal() && calls <= CALLS_TO_WATCH_MAX {
        PACE_TO_WATCH
    } else {
        Duration::ZERO
    };
    let (sender, receiver) = mpsc::channel(MADE_MAX);
    let callers = callers::start(gateway.proxy, calls, pace, sender);
    let mut follower = Follower::new(&gateway.records(), Begin::Start);
    let mut tally = Tally::default();
    watch(receiver, calls, &mut follower, &mut tally, &mut show).await?;
    drop(callers);
    callers::scan(gateway.proxy)
        .await
        .context("cannot connect to the gateway any more")?;

    let stopped = gateway.stop().await?;
    show.look(&mut follower, &mut tally)?;
    if !stopped.success() {
        bail!(
            "the gateway failed ({stopped}); it said:\n{}",
            gateway.said()
        );
    }
    let tap = tap.unwrap_or_else(|| TapSummary {
        mode: "unknown".to_owned(),
        reason: Some("the admin API did not say".to_owned()),
    });
    let summary = tally.summary(calls, tap, paint);
    show.end(&summary)?;
    Ok(if summary.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Takes note of calls and records until all calls are made and all records are there, or will not
/// come any more.
async fn watch(
    mut made: mpsc::Receiver<Made>,
    calls: usize,
    follower: &mut Follower,
    tally: &mut Tally,
    show: &mut Show,
) -> anyhow::Result<()> {
    let per_call = RUN_MAX_PER_CALL * u32::try_from(calls).unwrap_or(u32::MAX);
    let run_deadline = Instant::now() + RUN_MAX + per_call;
    let mut look = interval(LOOK_EVERY);
    let mut all_made: Option<Instant> = None;
    loop {
        tokio::select! {
            call = made.recv(), if all_made.is_none() => match call {
                Some(call) => tally.made(call),
                None => all_made = Some(Instant::now()),
            },
            _ = look.tick() => {
                show.look(follower, tally)?;
                if let Some(at) = all_made
                    && (tally.is_complete() || at.elapsed() > RECORDS_MAX)
                {
                    return Ok(());
                }
                if Instant::now() > run_deadline {
                    bail!("the calls did not end in time; is this machine very busy?");
                }
            }
        }
    }
}

/// What the gateway says about its tap.
async fn tap_of(gateway: &Gateway) -> Option<TapSummary> {
    let status = gateway.status().await?;
    let tap = status.get("tap")?;
    let text = |key: &str| tap.get(key)?.as_str().map(str::to_owned);
    Some(TapSummary {
        mode: text("mode")?,
        reason: text("reason"),
    })
}

/// What the person at the terminal sees, or the program that reads our output.
struct Show {
    paint: Paint,
    json: bool,
}

impl Show {
    fn begin(
        &mut self,
        orders: &Orders,
        gateway: &Gateway,
        tap: Option<&TapSummary>,
    ) -> Result<(), OutputError> {
        if self.json {
            return Ok(());
        }
        let watched = match tap.map(|tap| (tap.mode.as_str(), tap.reason.as_deref())) {
            Some(("ebpf", _)) => {
                "The tap is on: every packet of these calls is accounted for.".to_owned()
            }
            Some((mode, Some(reason))) => format!(
                "The tap runs as {mode}: {}. `calltap doctor` says what is missing.",
                clean(reason)
            ),
            Some((mode, None)) => format!("The tap runs as {mode}."),
            None => "The gateway does not say how its tap runs.".to_owned(),
        };
        print(&format!(
            "An order API at {}, calltap in front of it at {}.\n{}\n\n{}\n",
            orders.address,
            gateway.proxy,
            self.paint.wrap(&watched, 0),
            line::legend(self.paint)
        ))
    }

    /// Shows what was added to the log, and takes note of it.
    fn look(&mut self, follower: &mut Follower, tally: &mut Tally) -> anyhow::Result<()> {
        let mut text = String::new();
        let mut strange = None;
        follower
            .look(|bytes| {
                let record = std::str::from_utf8(bytes)
                    .ok()
                    .and_then(|line| Some((line, View::parse(line)?)));
                let Some((record, view)) = record else {
                    strange = Some(String::from_utf8_lossy(bytes).into_owned());
                    return;
                };
                if self.json {
                    text.push_str(&clean_json(record));
                } else {
                    text.push_str(&line::line(&view, self.paint));
                }
                text.push('\n');
                tally.recorded(view);
            })
            .context("cannot read the log of the demonstration")?;
        print(&text)?;
        match strange {
            Some(line) => bail!("the log has a line that is no record: {}", clean(&line)),
            None => Ok(()),
        }
    }

    fn end(&mut self, summary: &Summary) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string(summary).context("cannot write the summary as JSON")?
        } else {
            summary.text(self.paint)
        };
        Ok(print(&format!("{text}\n"))?)
    }
}

fn print(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(OutputError::new)
}
