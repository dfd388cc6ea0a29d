//! `calltap doctor`: what this machine offers the tap and the listeners, what it means, and what to
//! do about what is missing.
//!
//! Looks and tells; changes nothing. What the kernel offers is the tap's to know, the ports and the
//! words are ours.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use calltap_tap::doctor::{self, Check};
use serde::Serialize;

use crate::config::{self, Config, Overrides};
use crate::tail::paint::{Color, Ink, Paint};

/// Says what this machine offers, and what to do about what is missing
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Looks at the ports and the ledgers of this configuration; without it, at the defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Writes the findings as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    pub(crate) color: Color,
}

/// What became of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Ok,
    /// Not so.
    Missing,
    /// It could not be looked at.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    name: String,
    /// Whether it is as it should be.
    state: State,
    /// What was found.
    found: String,
    /// What that means for calltap.
    meaning: String,
    /// What to do; absent where nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing is missing, as far as is known.
    ok: bool,
    checks: Vec<Finding>,
}

/// Looks at everything and reports it. The exit code is a failure when anything is missing.
///
/// # Errors
/// When the findings cannot be written.
pub(crate) fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let DoctorArgs {
        config,
        json,
        color,
    } = args;
    let mut findings = Vec::new();
    let overrides = match config {
        Some(_) => Overrides::default(),
        None => stand_in(),
    };
    let loaded = match config::load(config.as_deref(), &overrides) {
        Ok(loaded) => {
            if let Some(path) = &config {
                findings.push(Finding {
                    name: "configuration".to_owned(),
                    state: State::Ok,
                    found: format!("{} has no mistakes", path.display()),
                    meaning: "calltap can run with it".to_owned(),
                    remedy: None,
                });
            }
            loaded
        }
        Err(mistakes) => {
            for mistake in mistakes {
                findings.push(Finding {
                    name: "configuration".to_owned(),
                    state: State::Missing,
                    found: mistake.to_string(),
                    meaning: "calltap refuses to start with it".to_owned(),
                    remedy: Some(
                        "correct the file; `calltap check --config F` repeats this".to_owned(),
                    ),
                });
            }
            config::load(None, &stand_in())
                .ok()
                .context("the built-in defaults are not valid")?
        }
    };
    findings.extend(tap_findings(&loaded));
    findings.extend(
        ports(&loaded)
            .into_iter()
            .map(|(name, address)| port(name, address)),
    );

    let all_well = findings
        .iter()
        .all(|finding| finding.state != State::Missing);
    if json {
        let report = Report {
            ok: all_well,
            checks: findings,
        };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&findings, Paint::of_stdout(color)));
    }
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What `run` would be told in the first example of the README.
fn stand_in() -> Overrides {
    Overrides {
        listen: vec!["127.0.0.1:8080".to_owned()],
        upstream: vec!["127.0.0.1:9000".to_owned()],
        ..Overrides::default()
    }
}

impl From<Check> for Finding {
    fn from(check: Check) -> Self {
        let Check {
            name,
            state,
            found,
            meaning,
            remedy,
        } = check;
        Self {
            name: name.to_owned(),
            state: match state {
                doctor::State::Ok => State::Ok,
                doctor::State::Missing => State::Missing,
                doctor::State::Unknown => State::Unknown,
            },
            found,
            meaning,
            remedy: Some(remedy).filter(|remedy| !remedy.is_empty()),
        }
    }
}

/// What the kernel and the machine offer the tap.
fn tap_findings(config: &Config) -> impl Iterator<Item = Finding> {
    calltap_tap::doctor::checks(&config.tap_options())
        .into_iter()
        .map(Finding::from)
}

/// Every port calltap would listen on, with what for.
fn ports(config: &Config) -> Vec<(String, SocketAddr)> {
    let mut ports: Vec<(String, SocketAddr)> = config
        .listeners
        .iter()
        .map(|listener| (format!("listener {}", listener.address), listener.address))
        .collect();
    if let Some(admin) = &config.admin {
        ports.push((format!("admin API {}", admin.address), admin.address));
    }
    ports
}

/// Tries a port by taking it for a moment.
fn port(name: String, address: SocketAddr) -> Finding {
    let port = address.port();
    let (found, meaning, remedy) = match TcpListener::bind(address) {
        Ok(_) => {
            return Finding {
                name,
                state: State::Ok,
                found: "free".to_owned(),
                meaning: "calltap can listen there".to_owned(),
                remedy: None,
            };
        }
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => (
                "taken".to_owned(),
                "somebody listens there, a running calltap perhaps; another cannot start"
                    .to_owned(),
                format!("`ss -ltnp 'sport = :{port}'` says who; stop it, or choose another port"),
            ),
            io::ErrorKind::PermissionDenied => (
                "not allowed".to_owned(),
                format!("port {port} is reserved for privileged processes"),
                "start calltap with CAP_NET_BIND_SERVICE (it is given up once it listens), or \
                 choose a port from 1024 on"
                    .to_owned(),
            ),
            io::ErrorKind::AddrNotAvailable => (
                "no such address here".to_owned(),
                "this machine has no interface with that address".to_owned(),
                "`ip address` lists those it has; 0.0.0.0 and [::] stand for all".to_owned(),
            ),
            _ => (
                error.to_string(),
                "calltap cannot listen there".to_owned(),
                "see what the error says".to_owned(),
            ),
        },
    };
    Finding {
        name,
        state: State::Missing,
        found,
        meaning,
        remedy: Some(remedy),
    }
}

/// The findings for people: what is there in a line, what is missing with its meaning and remedy.
fn text(findings: &[Finding], paint: Paint) -> String {
    const NAME_COLUMNS: usize = 26;
    const INDENT: usize = NAME_COLUMNS + 3;
    // The text stands in a column of its own.
    let column = Paint {
        width: paint.width - INDENT,
        ..paint
    };
    let (good, bad, unknown) = if paint.unicode {
        ("✓", "✗", "?")
    } else {
        ("ok", "NO", "??")
    };
    let mut out = String::new();
    let (mut missing, mut unseen) = (0, 0);
    for finding in findings {
        let Finding {
            name,
            state,
            found,
            meaning,
            remedy,
        } = finding;
        let mark = match state {
            State::Ok => paint.ink(good, Ink::Good),
            State::Missing => {
                missing += 1;
                paint.ink(bad, Ink::Bad)
            }
            State::Unknown => {
                unseen += 1;
                paint.ink(unknown, Ink::Warn)
            }
        };
        let name = name.replace('_', " ");
        let found = column
            .wrap(found, 0)
            .replace('\n', &format!("\n{:INDENT$}", ""));
        out.push_str(&format!("{mark} {name:<NAME_COLUMNS$} {found}\n"));
        let mut explain = |text: &str, ink: Ink| {
            for line in column.wrap(text, 0).lines() {
                out.push_str(&format!("{:INDENT$}{}\n", "", paint.ink(line, ink)));
            }
        };
        explain(meaning, Ink::Dim);
        if let Some(remedy) = remedy {
            explain(&format!("-> {remedy}"), Ink::Warn);
        }
    }
    out.push('\n');
    out.push_str(&match missing {
        0 if unseen > 0 => {
            "Nothing is known to be missing; what could not be seen has a question mark.\n"
                .to_owned()
        }
        0 => "Everything is there: the tap can run in full.\n".to_owned(),
        1 => "One thing is missing; see the arrow above.\n".to_owned(),
        count => format!("{count} things are missing; see the arrows above.\n"),
    });
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_port_is_free_or_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("an address");
        let finding = port("listener".to_owned(), address);
        assert_eq!(finding.state, State::Missing);
        assert!(
            finding
                .remedy
                .is_some_and(|remedy| remedy.contains(&format!(":{}", address.port()))),
            "the remedy names the port"
        );
        drop(taken);
        assert_eq!(port("listener".to_owned(), address).state, State::Ok);
    }

    #[test]
    fn an_address_of_another_machine_is_named_as_such() {
        let elsewhere = "192.0.2.1:8080".parse().expect("an address");
        let finding = port("listener".to_owned(), elsewhere);
        assert_eq!(finding.found, "no such address here");
    }

    #[test]
    fn without_a_file_the_defaults_are_looked_at() {
        let config = config::load(None, &stand_in()).expect("the defaults are valid");
        let names: Vec<String> = ports(&config).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["listener 127.0.0.1:8080", "admin API 127.0.0.1:9901"]
        );
    }

    #[test]
    fn what_is_missing_comes_with_what_to_do() {
        let finding = |name: &str, state: State, remedy: Option<&str>| Finding {
            name: name.to_owned(),
            state,
            found: "found".to_owned(),
            meaning: "what it means".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let paint = Paint {
            width: 80,
            color: false,
            unicode: false,
            fit: false,
        };
        let findings = [
            finding("kernel", State::Ok, None),
            finding("cgroup_v2", State::Missing, Some("mount it")),
            finding("attachments", State::Unknown, Some("be root")),
        ];
        expect![[r#"
            ok kernel                     found
                                         what it means
            NO cgroup v2                  found
                                         what it means
                                         -> mount it
            ?? attachments                found
                                         what it means
                                         -> be root

            One thing is missing; see the arrow above.
        "#]]
        .assert_eq(&text(&findings, paint));
        let seen = text(&findings[2..], paint);
        assert!(seen.contains("Nothing is known to be missing"), "{seen}");
    }
}
