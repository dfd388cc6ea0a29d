//! `calltap replay`: runs policies over recorded calls, and prints what they would have decided and
//! alerted.
//!
//! The records' own times are the clock. What a record does not tell, rules before forwarding do not know:
//! that is counted as unanswered, never guessed.

mod lines;
mod report;

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use calltap_correlate::exchange::{Policy, Text};
use calltap_correlate::record::{CallRecord, Kind, WallClock};
use calltap_policies::Policies;
use calltap_policies::admit::{Recalled, Verdict};
use calltap_policies::alert::{Alert, Change};
use calltap_policies::review::Fate;
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::{self, Config, Overrides};
use crate::route::normalise;
use crate::run;
use crate::tail::clean::{clean, clean_json};

use lines::{Parsed, Sources};
use report::Summary;

/// `calltap replay`
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Recorded calls, oldest first: JSON lines, compressed where it ends in .gz; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The configuration whose [policies] are run; it need have nothing else.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print each alert that opens or is resolved as a JSON line, and then a summary as one.
    #[arg(long)]
    json: bool,
}

/// Lines that are no records, and are told by their number. All are counted.
const BAD_LINES_TOLD: u64 = 10;
/// Between two looks at the clock that policies get where no calls come for long.
const TICK_NS: u64 = 1_000_000_000;
/// An hour without a call is as good as a longer time.
const TICKS_MAX: u64 = 3_600;
/// Records are written when they settle, so a little later than others that began after them. More than this
/// is no such thing.
const LATE_NS: u64 = 60 * TICK_NS;
/// Between two paintings of the progress.
const PAINT: Duration = Duration::from_millis(100);

/// Times of records are since 1970 already.
const CLOCK: WallClock = WallClock { wall_ns_at_zero: 0 };

/// Replays.
pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    // What only a running gateway needs is not asked for, and no certificate or token is read.
    let without = Overrides {
        listen: vec!["127.0.0.1:0".to_owned()],
        upstream: vec!["127.0.0.1:1".to_owned()],
        records: Some("none".to_owned()),
        admin: Some("none".to_owned()),
        ..Overrides::default()
    };
    let config = match config::load(Some(&args.config), &without) {
        Ok(config) => config,
        Err(mistakes) => {
            run::print_mistakes(&mistakes);
            return Ok(ExitCode::FAILURE);
        }
    };
    let sources = Sources::open(&args.files)?;
    let bar = progress(sources.size);
    let read = Arc::clone(&sources.read);
    let mut replay = Replay {
        policies: run::policies(&config, 0),
        config: &config,
        now_ns: 0,
        ticked_ns: 0,
        summary: Summary::default(),
        out: io::stdout().lock(),
        json: args.json,
        bar,
        written: Ok(()),
    };
    let begun = Instant::now();
    let mut painted = begun;
    let mut failed = None;
    let mut line = (None, 0);
    sources.parse(|parsed| {
        let Parsed {
            source,
            records,
            bad,
            lines,
            failed: error,
        } = parsed;
        if line.0.as_ref() != Some(&source) {
            line = (Some(Arc::clone(&source)), 0);
        }
        for (number, why) in bad {
            replay.bad_line(&source, line.1 + number, &why);
        }
        line.1 += lines;
        if let Some(error) = error {
            failed.get_or_insert((source, error));
        }
        replay.take(records);
        if painted.elapsed() >= PAINT {
            painted = Instant::now();
            replay.bar.set_position(read.load(Ordering::Relaxed));
            let records = HumanCount(replay.summary.records);
            replay.bar.set_message(format!("{records} records"));
        }
        replay.written.is_ok()
    });
    replay.bar.finish_and_clear();
    let Replay {
        policies,
        mut summary,
        mut out,
        written,
        ..
    } = replay;
    summary.elapsed = begun.elapsed();
    summary.keys = policies.detectors.usage().into();
    let written = written.and_then(|()| {
        match args.json {
            true => writeln!(out, "{}", summary.to_json(&config))?,
            false => summary.print(&config, &mut out)?,
        }
        out.flush()
    });
    match written {
        // Who reads no more has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        written => written.context("cannot write to standard output")?,
    }
    if let Some((source, error)) = failed {
        return Err(error).with_context(|| format!("cannot read all of {source}"));
    }
    anyhow::ensure!(summary.records > 0, "there is no record in what was read");
    Ok(ExitCode::SUCCESS)
}

/// Shown on a terminal only.
fn progress(size: Option<u64>) -> ProgressBar {
    let (bar, style) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:40} {percent:>3} %  {msg}, {binary_bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "{binary_bytes}  {msg}, {binary_bytes_per_sec}",
        ),
    };
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.with_style(ProgressStyle::with_template(style).expect("a template that is one"))
}

struct Replay<'c> {
    policies: Policies,
    config: &'c Config,
    /// The latest end of a record, ns since 1970: what the gateway's clock would have said.
    now_ns: u64,
    ticked_ns: u64,
    summary: Summary,
    out: io::StdoutLock<'static>,
    json: bool,
    bar: ProgressBar,
    /// How writing went so far.
    written: io::Result<()>,
}

impl Replay<'_> {
    fn take(&mut self, mut records: Vec<CallRecord>) {
        let begun = Instant::now();
        for record in &mut records {
            self.replay(record);
        }
        self.summary.policies += begun.elapsed();
    }

    fn replay(&mut self, record: &mut CallRecord) {
        self.summary.records += 1;
        let end_ns = ended_ns(record);
        if end_ns.saturating_add(LATE_NS) < self.now_ns {
            self.summary.late += 1;
        }
        self.advance(end_ns);
        // What others found and matched is theirs.
        record.findings.clear();
        record.policy_matched.clear();
        record.sampling_one_in = None;
        if record.kind == Kind::Call {
            self.summary.calls += 1;
            self.admit(record);
        }
        match self.policies.review(record, self.now_ns) {
            Fate::Kept => self.summary.kept += 1,
            Fate::Filtered => self.summary.filtered += 1,
            Fate::Sampled => self.summary.sampled += 1,
        }
        self.tell();
    }

    fn admit(&mut self, record: &mut CallRecord) {
        let rules = &self.config.policies.rules;
        if rules.is_empty() {
            return;
        }
        let path = record.url_path.as_deref();
        let path = path.map(|path| normalise(path).unwrap_or(path.into()));
        let read_ns = began_ns(record) + us(record.timing_head_read_us.map(i64::unsigned_abs));
        let mut policy = Policy::default();
        let decision = rules.admit(&Recalled::new(record, path), &mut policy, read_ns);
        match decision.verdict {
            Verdict::Allow => self.summary.forwarded += 1,
            Verdict::Deny { .. } => self.summary.denied += 1,
            Verdict::Limit => self.summary.limited += 1,
        }
        record.policy_matched = policy.matched.into_iter().map(Text::Owned).collect();
    }

    /// Lets the time pass until then, a second at a time, as it does in a gateway.
    fn advance(&mut self, until_ns: u64) {
        if self.now_ns == 0 {
            self.ticked_ns = until_ns;
        }
        self.now_ns = self.now_ns.max(until_ns);
        let left_out = (self.now_ns - self.ticked_ns) / TICK_NS;
        self.ticked_ns += left_out.saturating_sub(TICKS_MAX) * TICK_NS;
        while self.now_ns - self.ticked_ns >= TICK_NS {
            self.ticked_ns += TICK_NS;
            self.policies.tick(self.ticked_ns);
            self.tell();
        }
    }

    fn tell(&mut self) {
        let Self {
            policies,
            summary,
            out,
            json,
            bar,
            written,
            ..
        } = self;
        policies.alerts.take(|change, alert| {
            match change {
                Change::Opened => summary.opened += 1,
                Change::Resolved => summary.resolved += 1,
                Change::Updated => return,
            }
            // Names come from clients, and this may be a terminal.
            let line = match json {
                true => clean_json(&alert.to_json(CLOCK)).into_owned(),
                false => clean(&line_of(change, alert)).into_owned(),
            };
            if written.is_ok() {
                *written = bar.suspend(|| writeln!(out, "{line}"));
            }
        });
    }

    fn bad_line(&mut self, source: &str, line: u64, why: &str) {
        self.summary.bad_lines += 1;
        let told = self.summary.bad_lines;
        self.bar.suspend(|| match told {
            ..=BAD_LINES_TOLD => eprintln!("{source}:{line}: no record: {}", clean(why)),
            _ if told == BAD_LINES_TOLD + 1 => {
                eprintln!("more lines that are no records are counted")
            }
            _ => {}
        });
    }
}

/// An alert for people.
fn line_of(change: Change, alert: &Alert) -> String {
    let at_ns = match change {
        Change::Resolved => alert.resolved_ns.unwrap_or(alert.seen_ns),
        // The same alert may have been opened before.
        _ => alert.seen_ns,
    };
    let examples: Vec<String> = alert.examples.iter().map(ToString::to_string).collect();
    let examples = match examples.is_empty() {
        true => String::new(),
        false => format!(", such as {}", examples.join(" ")),
    };
    format!(
        "{} {:8} {:8} {} of {} {}: {} (blame: {}, {} signals{examples})",
        CLOCK.at_us(at_ns / 1_000),
        change.word(),
        alert.severity.word(),
        alert.detector.info().name,
        alert.subject.kind(),
        alert.subject,
        alert.summary,
        alert.blame().word(),
        alert.signals,
    )
}

fn us(us: Option<u64>) -> u64 {
    us.unwrap_or(0).saturating_mul(1_000)
}

fn began_ns(record: &CallRecord) -> u64 {
    us(u64::try_from(record.timestamp.unix_us()).ok())
}

/// When its client had everything, or the gateway had written it.
fn ended_ns(record: &CallRecord) -> u64 {
    let took_us = record
        .delivered_us
        .or(record.duration_us)
        .or(record.gateway_duration_us);
    began_ns(record).saturating_add(us(took_us))
}
