//! calltap: an API gateway sidecar that knows what really happened to every API call.
//!
//! In reading order: `cli` and `config` say what is wanted, `run` puts it together; `server` and
//! `proxy` are the gateway's half of a call, `socket` where the kernel's half comes from,
//! `denials` keeps out who is denied, `pipeline` joins both; `sink` and `admin` hand the records out; `replay`, `tail`, `demo` and
//! `doctor` are for people.
#![forbid(unsafe_code)]

mod account;
mod admin;
mod alerts;
#[cfg(test)]
mod allocations;
mod cli;
mod clock;
mod config;
mod demo;
mod denials;
mod doctor;
mod identity;
mod pipeline;
mod proxy;
mod replay;
mod route;
mod run;
mod server;
mod sink;
mod socket;
mod tail;
mod tls;
mod upstream;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use cli::{CheckArgs, Cli, Command};

#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => {
            log_to_stderr();
            run::run(&args)
        }
        Command::Check(args) => Ok(check(&args)),
        Command::Replay(args) => replay::run(&args),
        Command::Tail(args) => tail::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Schema => {
            println!("{:#}", calltap_correlate::record::json_schema());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("calltap: {error:#}");
        ExitCode::FAILURE
    })
}

fn check(args: &CheckArgs) -> ExitCode {
    match config::check(&args.config) {
        Ok(summary) => {
            print!("{summary}");
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            run::print_mistakes(&mistakes);
            ExitCode::FAILURE
        }
    }
}

/// Our own words go to standard error; `CALLTAP_LOG` chooses how many (`debug`, `calltap=trace`).
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("CALLTAP_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,pingora_core=off,pingora_proxy=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(tail::paint::may_color(
            std::io::stderr().is_terminal(),
            std::env::var_os,
        ))
        .with_writer(std::io::stderr)
        .init();
}
