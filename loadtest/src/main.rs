//! The command line of the load test.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use calltap_loadtest::abort;
use calltap_loadtest::backend::Backend;
use calltap_loadtest::checks::Checks;
use calltap_loadtest::cleanup;
use calltap_loadtest::compare::peers::Programs;
use calltap_loadtest::compare::rounds::Effort;
use calltap_loadtest::compare::subject::Binaries;
use calltap_loadtest::compare::{self, Wanted as Compared};
use calltap_loadtest::delays::{self, Found, Place};
use calltap_loadtest::deny;
use calltap_loadtest::detect::series;
use calltap_loadtest::detect::tools::kinds::KINDS;
use calltap_loadtest::detect::tools::report::Outcome;
use calltap_loadtest::detect::tools::template::Templates;
use calltap_loadtest::detect::tools::{self, Asked, made_up, replay};
use calltap_loadtest::faults;
use calltap_loadtest::fingerprints::{self, Extent, Finding, syn, tls};
use calltap_loadtest::gateway;
use calltap_loadtest::lab;
use calltap_loadtest::page;
use calltap_loadtest::truth;
use calltap_loadtest::truth::evidence::{Evidence, Family};
use calltap_loadtest::truth::run::{self, Wanted};
use calltap_loadtest::truth::scenes::SCENARIOS;
use calltap_loadtest::truth::verdict::{self, Times, Verdict};
use calltap_loadtest::verify::{self, Load, Running};
use clap::{Args, Parser, Subcommand};

/// Asks calltap from outside: does it hold, does it tell the truth, what does it cost.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends a mix of calls and checks that each has exactly one true record
    Verify(VerifyArgs),
    /// Injects known delays, one at a time, and checks which part of the time they are found in
    Delays(DelaysArgs),
    /// Exchanges a long deny-list under load, and denies a flood
    Deny(DenyArgs),
    /// Plays calls that do not end well and shows record and capture of each side by side
    Abort(AbortArgs),
    /// Measures what a call costs in calltap, nginx, HAProxy and Envoy, logs off and on
    Compare(CompareArgs),
    /// Plays scenarios between hosts of its own and leaves captures and records of each
    Truth(TruthArgs),
    /// Compares the fingerprints in records with those that p0f and others take
    Fingerprints(FingerprintsArgs),
    /// Attacks calltap among many who mean well and holds its alerts against the truth; scores its model of series
    #[command(subcommand)]
    Detect(DetectCommand),
    /// Serves the behaviours that the other commands call, until it is killed
    Backend {
        /// Address to listen on; port 0 for a free one
        #[arg(long, default_value = "127.0.0.1:9000")]
        listen: SocketAddr,
    },
}

#[derive(Args)]
struct SeriesArgs {
    /// Directory of key figures: `*.csv.gz` with the columns value and label, one value a minute
    #[arg(long)]
    kpi: PathBuf,
    /// NAB's directory of data, with its combined_windows.json
    #[arg(long)]
    nab: PathBuf,
    /// Also the score of each series of key figures
    #[arg(long)]
    each: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct VerifyArgs {
    /// Calls to send
    #[arg(long, default_value_t = 1000)]
    calls: usize,
    /// Connections at a time
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Repeats the same mix
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The calltap binary to start; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// The tap's mode
    #[arg(long, default_value = "auto", value_parser = ["auto", "ebpf", "tcp_info", "off"])]
    tap: String,
    /// Also while the backend is killed, the sink stalls and the disk is full
    #[arg(long)]
    faults: bool,
    /// A calltap that runs already, in front of `loadtest backend`
    #[arg(long, requires = "records", conflicts_with_all = ["calltap", "faults"])]
    url: Option<String>,
    /// Its records
    #[arg(long, requires = "url")]
    records: Option<PathBuf>,
    /// Its admin API
    #[arg(long, requires = "url")]
    admin: Option<SocketAddr>,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DelaysArgs {
    /// The calltap binary to start; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// Only places whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DenyArgs {
    /// The calltap binary to start, an optimised build; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// Exchanges of the list under load
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    reloads: u16,
    /// Rounds of calm, flood, and flood denied
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long each of those is measured
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(50..))]
    milliseconds: u64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct AbortArgs {
    /// The calltap binary to start; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// Only this ending; `--list` names them
    #[arg(long)]
    only: Option<String>,
    /// Names the endings and plays none
    #[arg(long)]
    list: bool,
}

#[derive(Args)]
struct CompareArgs {
    /// The calltap binary to start, a release build; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// The Envoy binary; by default the one that `scripts/bootstrap --bench` fetched
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Rounds of the first row
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Rounds of each other row; by default three fifths of the first one's
    #[arg(long)]
    rounds_elsewhere: Option<u16>,
    /// How long one measurement takes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..))]
    milliseconds: u64,
    /// Rounds of the latency
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    latency_rounds: u16,
    /// How long calltap is saturated, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(4..))]
    soak: u64,
    /// Only rows whose name contains this, or "latency", "soak", "idle"; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// About three minutes instead of forty, for a first look
    #[arg(long, conflicts_with_all = ["rounds", "rounds_elsewhere", "milliseconds"])]
    quick: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Write the tables into this file, too, between its marks, and a picture beside it
    #[arg(long)]
    write: Option<PathBuf>,
    /// Write a short table into this file, too, between its marks
    #[arg(long)]
    summary: Option<PathBuf>,
}

#[derive(Args)]
struct FingerprintsArgs {
    /// The calltap binary to start; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// Only these
    #[arg(long, value_parser = ["syn", "ja4"])]
    only: Option<String>,
    /// Also the ClientHellos of this file: JSON, a list of {"client_hello": hex, "ja4": text}
    #[arg(long)]
    ja4: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum DetectCommand {
    /// Plays programs that attackers use; needs `scripts/bootstrap --detect`
    Tools(ToolsArgs),
    /// Scores the model of one number over time on labelled series
    Series(SeriesArgs),
    /// Makes up records of weeks without an attack, from real ones, and shows them to the detectors
    Benign(BenignArgs),
}

#[derive(Args)]
struct BenignArgs {
    /// The calltap binary to start; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// How many calls
    #[arg(long, default_value_t = tools::MADE_UP)]
    calls: u64,
    /// Repeats the same calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The real records, those of a run without attacks; by default calltap is run for a minute
    #[arg(long)]
    records: Option<PathBuf>,
    /// Write the records into this file, `-` for standard output, instead of replaying them
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Args)]
struct ToolsArgs {
    /// The calltap binary to start; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// Only events whose name, tool or class contains this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Repeats the same run; may be given several times; by default 1, 2 and 3
    #[arg(long)]
    seed: Vec<u64>,
    /// How long calltap sees no attack, in seconds; by default 150, with --quick 45
    #[arg(long)]
    warm_up: Option<u64>,
    /// One event of each class, once, in about three minutes
    #[arg(long)]
    quick: bool,
    /// So many calls of those who mean well are made up and replayed; by default 5 million, none with
    /// --only
    #[arg(long)]
    calls: Option<u64>,
    /// Keep what was done, said and recorded below this directory
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Play nothing, but judge what an earlier run kept in this directory
    #[arg(long, conflicts_with_all = ["only", "seed", "warm_up", "quick", "calls", "keep", "calltap"])]
    judge: Option<PathBuf>,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Write what was found and its date into this page, too, between the marks it must have for that
    #[arg(long)]
    write: Option<PathBuf>,
    /// List the events and play none
    #[arg(long)]
    list: bool,
}

#[derive(Args)]
struct TruthArgs {
    /// The calltap binary to start; by default the one beside this program
    #[arg(long)]
    calltap: Option<PathBuf>,
    /// Only this scenario; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Only these addresses; may be given several times
    #[arg(long, value_parser = ["v4", "v6", "mapped"])]
    family: Vec<String>,
    /// Calls for each scenario and family, at least
    #[arg(long, default_value_t = 200)]
    calls: usize,
    /// Repeats the same calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep what was captured and recorded below this directory
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Judge nothing, for a machine without tshark
    #[arg(long, requires = "keep")]
    unjudged: bool,
    /// Play nothing, but judge what an earlier run kept in these directories
    #[arg(long, num_args = 1.., conflicts_with_all = ["only", "family", "keep"])]
    judge: Vec<PathBuf>,
    /// Alter the records, one way at a time, and see whether the judge notices
    #[arg(long, conflicts_with_all = ["unjudged", "counts_only"])]
    mutate: bool,
    /// Take times as they come, where the machine is emulated or busy
    #[arg(long)]
    counts_only: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Write what was found and its date into this page, too, between the marks it must have for that
    #[arg(long)]
    write: Option<PathBuf>,
    /// List the scenarios and play none
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    cleanup::undo_on_signal();
    match cli.command {
        Command::Verify(arguments) => verify(arguments),
        Command::Delays(arguments) => delays(&arguments),
        Command::Deny(arguments) => deny(&arguments),
        Command::Abort(arguments) => abort(&arguments),
        Command::Compare(arguments) => compare(arguments),
        Command::Truth(arguments) => truth(arguments),
        Command::Fingerprints(arguments) => fingerprints(arguments),
        Command::Detect(DetectCommand::Tools(arguments)) => detect_tools(arguments),
        Command::Detect(DetectCommand::Series(arguments)) => detect_series(&arguments),
        Command::Detect(DetectCommand::Benign(arguments)) => detect_benign(arguments),
        Command::Backend { listen } => {
            let backend =
                Backend::start(listen).with_context(|| format!("cannot listen on {listen}"))?;
            println!("listening on {}", backend.address());
            loop {
                thread::park();
            }
        }
    }
}

fn verify(arguments: VerifyArgs) -> anyhow::Result<ExitCode> {
    let load = Load {
        calls: arguments.calls,
        threads: arguments.connections,
        seed: arguments.seed,
    };
    let mut verdicts = Vec::new();
    match (arguments.url, arguments.records) {
        (Some(url), Some(records)) => {
            let running = Running {
                url,
                records,
                admin: arguments.admin,
            };
            verdicts.push(("a running calltap", verify::running(&running, &load)));
        }
        _ => {
            let calltap = calltap(arguments.calltap)?;
            let tap = ["ebpf", "tcp_info", "off"]
                .into_iter()
                .find(|mode| *mode == arguments.tap);
            verdicts.push(("calm", verify::own(&calltap, tap.unwrap_or("auto"), &load)));
            if arguments.faults {
                let loadtest = std::env::current_exe()?;
                verdicts.extend(faults::all(&calltap, &loadtest, &load));
            }
        }
    }
    Ok(report(verdicts, arguments.json))
}

fn delays(arguments: &DelaysArgs) -> anyhow::Result<ExitCode> {
    if let Some(reason) = lab::missing() {
        anyhow::bail!("the delay matrix needs network namespaces of its own: {reason}");
    }
    let calltap = calltap(arguments.calltap.clone())?;
    let places: Vec<Place> = Place::ALL
        .into_iter()
        .filter(|place| place.name().contains(&arguments.only))
        .collect();
    let matrix = delays::matrix(&calltap, &places)?;
    let held = !matrix.is_empty() && matrix.iter().all(Found::held);
    if arguments.json {
        println!("{}", serde_json::json!({ "held": held, "delays": matrix }));
    } else {
        print!("{}", delays::render(&matrix));
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn deny(arguments: &DenyArgs) -> anyhow::Result<ExitCode> {
    if let Some(reason) = lab::missing().or_else(deny::missing) {
        anyhow::bail!("a flood needs network namespaces of its own, wrk and hping3: {reason}");
    }
    let calltap = calltap(arguments.calltap.clone())?;
    let effort = deny::Effort {
        reloads: arguments.reloads.into(),
        rounds: arguments.rounds.into(),
        window: Duration::from_millis(arguments.milliseconds),
    };
    let found = deny::ask(&calltap, effort)?;
    let held = found.held();
    if arguments.json {
        println!("{}", serde_json::json!({ "held": held, "found": found }));
    } else {
        print!("{}", deny::render(&found));
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn truth(arguments: TruthArgs) -> anyhow::Result<ExitCode> {
    if arguments.list {
        for scenario in SCENARIOS {
            println!("{:24} {}", scenario.name, scenario.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let unjudged = arguments.unjudged;
    if let Some(path) = &arguments.write {
        let by = match arguments.mutate {
            true => truth::page::CAUGHT,
            false => truth::page::VERDICTS,
        };
        page::check(path, by)?;
    }
    let times = match arguments.counts_only {
        true => Times::Passed,
        false => Times::Judged,
    };
    let (mut verdicts, mut mutated, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mutate = arguments.mutate;
    let mut take = |name: String, evidence: anyhow::Result<Evidence>| {
        let taken = evidence.and_then(|evidence| {
            if mutate {
                let caught = truth::mutate::all(&evidence)?;
                let held = caught.iter().filter(|one| one.held()).count();
                eprintln!("{name}: {held} of {} mutations caught", caught.len());
                mutated.extend(caught);
            } else {
                let verdict = truth::judge_with(&evidence, times)?;
                let (calls, misses) = (verdict.calls, verdict.misses.len());
                eprintln!("{name}: {calls} calls, {misses} disagreements");
                verdicts.push(verdict);
            }
            Ok(())
        });
        if let Err(error) = taken {
            eprintln!("{name}: failed: {error:#}");
            failed.push(format!("{name}: {error:#}"));
        }
    };
    for directory in &arguments.judge {
        take(directory.display().to_string(), Ok(Evidence::at(directory)));
    }
    if arguments.judge.is_empty() {
        let family = |family: &Family| {
            let name = run::family_name(*family);
            arguments.family.is_empty() || arguments.family.iter().any(|wanted| wanted == name)
        };
        let wanted = Wanted {
            only: arguments.only,
            families: [Family::V4, Family::V6, Family::Mapped]
                .into_iter()
                .filter(family)
                .collect(),
            calls: arguments.calls,
            seed: arguments.seed,
            keep: arguments.keep,
        };
        let calltap = calltap(arguments.calltap)?;
        run::play(&wanted, &calltap, |scenario, family, evidence| {
            let name = format!("{} {}", scenario.name, run::family_name(family));
            match evidence {
                Ok(evidence) if unjudged => {
                    eprintln!("{name}: {} calls", evidence.scene()?.asked.len());
                }
                evidence => take(name, evidence),
            }
            Ok(())
        })?;
    }
    if unjudged {
        return Ok(if failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    if mutate {
        let held = failed.is_empty()
            && !mutated.is_empty()
            && mutated.iter().all(truth::mutate::Caught::held);
        if let Some(path) = &arguments.write {
            truth::page::write_caught(path, &mutated, &failed)?;
        }
        if arguments.json {
            println!(
                "{}",
                serde_json::json!({ "held": held, "failed": failed, "mutations": mutated })
            );
        } else {
            print!("{}", truth::mutate::render(&mutated));
            for failure in failed {
                println!("\nNot altered: {failure}");
            }
        }
        return Ok(if held {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    failed.extend(verdict::too_few_losses(&verdicts));
    let held = failed.is_empty() && !verdicts.is_empty() && verdicts.iter().all(Verdict::held);
    if let Some(path) = &arguments.write {
        truth::page::write_verdicts(path, &verdicts, &failed)?;
    }
    if arguments.json {
        let json = serde_json::json!({ "held": held, "failed": failed, "verdicts": verdicts });
        println!("{json}");
    } else {
        print!("{}", truth::report::render(&verdicts));
        for failure in failed {
            println!("\nNot judged: {failure}");
        }
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fingerprints(arguments: FingerprintsArgs) -> anyhow::Result<ExitCode> {
    let wanted = |what: &str| arguments.only.as_deref().is_none_or(|only| only == what);
    let mut missing = lab::missing();
    if wanted("syn") {
        missing = missing.or_else(syn::missing);
    }
    if wanted("ja4") {
        missing = missing.or_else(tls::missing);
    }
    if let Some(reason) = missing {
        anyhow::bail!("fingerprints cannot be compared here: {reason}");
    }
    let vectors = match &arguments.ja4 {
        Some(file) => tls::read_vectors(file)?,
        None => Vec::new(),
    };
    let calltap = calltap(arguments.calltap.clone())?;
    let mut shown = serde_json::Map::new();
    let mut held = true;
    if wanted("syn") {
        let findings = syn::compare(&calltap, Extent::All)?;
        held &= show("client.syn.p0f", &findings, arguments.json, &mut shown);
    }
    if wanted("ja4") {
        let findings = tls::compare(&calltap, &vectors, Extent::All)?;
        held &= show("tls.client.ja4", &findings, arguments.json, &mut shown);
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "held": held, "fields": shown }));
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints what was found of one field, or keeps it for later, and says whether it is right.
fn show(
    field: &str,
    findings: &[Finding],
    json: bool,
    shown: &mut serde_json::Map<String, serde_json::Value>,
) -> bool {
    if json {
        shown.insert(field.to_owned(), serde_json::json!(findings));
    } else {
        println!("## {field}\n\n{}", fingerprints::render(findings));
    }
    !findings.is_empty() && findings.iter().all(Finding::held)
}

fn abort(arguments: &AbortArgs) -> anyhow::Result<ExitCode> {
    if arguments.list {
        for ending in abort::ENDINGS {
            println!("{:32} {}", ending.name, ending.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(reason) = lab::missing() {
        anyhow::bail!("aborts need network namespaces of their own: {reason}");
    }
    let calltap = calltap(arguments.calltap.clone())?;
    let asked = |ending: &&abort::Ending| {
        let only = arguments.only.as_deref();
        only.is_none_or(|name| name == ending.name)
    };
    let mut held = None;
    for ending in abort::ENDINGS.iter().filter(asked) {
        let played = abort::play(&calltap, ending)?;
        println!("{}", abort::show(&played)?);
        let misses = abort::judge(&played);
        for miss in &misses {
            println!("MISS {}: {miss}", ending.name);
        }
        held = Some(held.unwrap_or(true) && misses.is_empty());
    }
    Ok(match held {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => anyhow::bail!("no ending of that name; `loadtest abort --list` names them"),
    })
}

fn detect_tools(arguments: ToolsArgs) -> anyhow::Result<ExitCode> {
    if arguments.list {
        for kind in KINDS {
            println!("{:24} {:14} {}", kind.name, kind.tool, kind.class.word());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &arguments.write {
        page::check(path, tools::BY)?;
    }
    let outcome = match &arguments.judge {
        Some(directory) => Outcome::of(tools::kept(directory)?, None),
        None => {
            let asked = Asked {
                calls: arguments.calls,
                only: arguments.only,
                seeds: arguments.seed,
                warm_up: arguments.warm_up.map(Duration::from_secs),
                quick: arguments.quick,
                keep: arguments.keep,
            };
            tools::ask(&calltap(arguments.calltap)?, asked)?
        }
    };
    if let Some(path) = &arguments.write {
        tools::write(path, &outcome)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        print!("{}", outcome.render());
    }
    Ok(match outcome.reached() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn detect_series(arguments: &SeriesArgs) -> anyhow::Result<ExitCode> {
    let findings = series::run(&arguments.kpi, &arguments.nab)?;
    let held = findings.held();
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({ "held": held, "series": findings })
        );
    } else {
        print!("{}", series::render(&findings, arguments.each));
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn detect_benign(arguments: BenignArgs) -> anyhow::Result<ExitCode> {
    let BenignArgs {
        calltap: named,
        calls,
        seed,
        records,
        write,
    } = arguments;
    let calltap = calltap(named)?;
    let templates = match records {
        Some(records) => Templates::read(&records)?,
        None => tools::harvest(&calltap, seed)?,
    };
    let mut out: Box<dyn io::Write> = match write {
        Some(path) if path.as_os_str() == "-" => Box::new(io::stdout().lock()),
        Some(path) => {
            Box::new(fs::File::create(&path).with_context(|| path.display().to_string())?)
        }
        None => {
            let replayed = replay::replay(&calltap, &templates, calls, seed);
            let outcome = Outcome::of(Vec::new(), Some(replayed));
            print!("{}", outcome.render());
            return Ok(match outcome.reached() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            });
        }
    };
    let mut out = io::BufWriter::with_capacity(1 << 20, &mut out);
    let written = made_up::write(&templates, calls, seed, &mut out)?;
    eprintln!("{} calls of {:.1} days", written.calls, written.days);
    Ok(ExitCode::SUCCESS)
}

fn compare(arguments: CompareArgs) -> anyhow::Result<ExitCode> {
    let rounds = usize::from(arguments.rounds);
    let elsewhere = arguments.rounds_elsewhere.map(usize::from);
    let effort = if arguments.quick {
        Effort {
            rounds: 6,
            rounds_elsewhere: 1,
            window: Duration::from_millis(400),
        }
    } else {
        Effort {
            rounds,
            rounds_elsewhere: elsewhere.unwrap_or((rounds * 3).div_ceil(5)),
            window: Duration::from_millis(arguments.milliseconds),
        }
    };
    let binaries = Binaries {
        calltap: calltap(arguments.calltap)?,
        programs: match arguments.envoy {
            Some(envoy) => Programs { envoy: Some(envoy) },
            None => Programs::found(),
        },
    };
    let (latency_rounds, latency_each, soak_s, idle_s) = match arguments.quick {
        true => (6, Duration::from_millis(400), 10, 4),
        false => (
            arguments.latency_rounds.into(),
            Duration::from_secs(1),
            arguments.soak,
            10,
        ),
    };
    let wanted = Compared {
        only: arguments.only,
        effort,
        latency_rounds,
        latency_each,
        soak: Duration::from_secs(soak_s),
        idle: Duration::from_secs(idle_s),
    };
    const BY: &str = "loadtest compare";
    for path in arguments.write.iter().chain(&arguments.summary) {
        page::check(path, BY)?;
    }
    let comparison = compare::run(&binaries, &wanted)?;
    if let Some(path) = &arguments.write {
        let pictures = compare::chart::write(path, &comparison)?;
        let name = pictures.first().and_then(|picture| picture.file_name());
        let name = name.map(|name| compare::report::picture(&name.to_string_lossy()));
        let tables = compare::report::render(&comparison);
        let text = name.map_or(tables.clone(), |name| format!("{name}\n{tables}"));
        page::write(path, BY, &text)?;
    }
    if let Some(path) = &arguments.summary {
        let text = compare::report::summary(&comparison);
        page::write(path, BY, &text)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&comparison)?);
    } else {
        print!("{}", compare::report::render(&comparison));
    }
    Ok(ExitCode::SUCCESS)
}

fn report(verdicts: Vec<(&str, anyhow::Result<Checks>)>, json: bool) -> ExitCode {
    let mut held = true;
    let mut shown = serde_json::Map::new();
    for (name, verdict) in verdicts {
        match verdict {
            Ok(checks) => {
                held &= checks.all_held();
                if json {
                    shown.insert(name.to_owned(), serde_json::json!(checks.checks));
                } else {
                    println!("## {name}\n\n{}", checks.render());
                }
            }
            Err(error) => {
                held = false;
                if json {
                    shown.insert(
                        name.to_owned(),
                        serde_json::json!({ "error": format!("{error:#}") }),
                    );
                } else {
                    println!("## {name}\n\nfailed: {error:#}\n");
                }
            }
        }
    }
    if json {
        println!("{}", serde_json::json!({ "held": held, "verdicts": shown }));
    } else if held {
        println!("Every check held.");
    } else {
        println!("Not every check held.");
    }
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The binary named, or the one that was built beside this one.
fn calltap(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    named.map_or_else(gateway::default_calltap, Ok)
}
