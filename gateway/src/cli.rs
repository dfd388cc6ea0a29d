//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Overrides;
use crate::demo::DemoArgs;
use crate::doctor::DoctorArgs;
use crate::replay::ReplayArgs;
use crate::tail::TailArgs;

/// An API gateway sidecar that knows what really happened to every API call.
#[derive(Debug, Parser)]
#[command(
    name = "calltap",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Forward calls and leave one record for each.
    Run(RunArgs),
    /// Read a configuration file and report every mistake in it.
    Check(CheckArgs),
    /// Run policies over recorded calls, and print what they would have decided and alerted.
    Replay(ReplayArgs),
    /// Show live calls, one line each, with a bar that shows where the time went.
    Tail(TailArgs),
    /// Show calltap at work: a small order API, real clients, the live view.
    Demo(DemoArgs),
    /// Say what this machine offers the tap, and what to do about what is missing.
    Doctor(DoctorArgs),
    /// Print the JSON Schema of the record.
    Schema,
}

/// `calltap run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The configuration file; without one, --listen and --upstream say enough.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Listen here for plain HTTP, instead of the file's listeners. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Forward every call here, instead of the file's routes. Repeated: balanced between them.
    #[arg(long, value_name = "ENDPOINT")]
    upstream: Vec<String>,
    /// Where records go: a file, `-` for standard output, `none` for nowhere.
    #[arg(long, value_name = "FILE")]
    records: Option<String>,
    /// How sockets are watched.
    #[arg(long, value_enum, value_name = "MODE")]
    tap: Option<Tap>,
    /// Where the admin API listens.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Threads that proxy calls; one per core without it.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

impl RunArgs {
    /// The flags that stand over the file.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            upstream: self.upstream.clone(),
            records: self.records.clone(),
            tap: self.tap.map(|tap| {
                let value = tap.to_possible_value().expect("no mode is hidden");
                value.get_name().to_owned()
            }),
            admin: self.admin.clone(),
            workers: self.workers,
        }
    }
}

/// The tap's modes as the command line spells them.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Tap {
    /// eBPF if possible, else `tcp_info`.
    Auto,
    /// eBPF, or no start.
    Ebpf,
    /// `TCP_INFO` at each call's edges.
    TcpInfo,
    /// Not at all.
    Off,
}

/// `calltap check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}
