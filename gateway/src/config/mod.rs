//! The configuration: `gateway.toml`'s defaults, the user's file laid over them, the flags of
//! `run` over both, read into types that cannot be wrong.
//!
//! Reports every mistake of a file at once, each with its line and what to do. Opens no socket and
//! starts nothing; the only files it reads are the configuration and the PEM files, tokens, secrets and
//! lists of addresses it names.

mod alerts;
mod error;
mod files;
mod lists;
mod policies;
mod read;
mod record_rules;
mod restart;
mod section;
mod settings;
mod tree;

use std::fmt;
use std::path::Path;

use calltap_correlate::record::Timestamp;
use calltap_policies::addresses::{Denied, Never};
use calltap_policies::network::Network;
use calltap_tap::TapOptions;

pub(crate) use error::ConfigError;
pub(crate) use settings::*;

use section::{Field, Mistakes};
use tree::{Entry, Node, Origin, Place, Table, Value};

/// The defaults, with a sentence each.
pub(crate) const DEFAULTS: &str = include_str!("../../gateway.toml");

/// The flags of `run` that stand over the file, as they were typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// `--listen`: plain listeners instead of the file's.
    pub(crate) listen: Vec<String>,
    /// `--upstream`: endpoints of the group `default`, with one route `default` that takes every
    /// call there, instead of the file's groups and routes.
    pub(crate) upstream: Vec<String>,
    /// `--records`: `records.path`.
    pub(crate) records: Option<String>,
    /// `--tap`: `tap.mode`.
    pub(crate) tap: Option<String>,
    /// `--admin`: `admin.address`.
    pub(crate) admin: Option<String>,
    /// `--workers`: `workers`.
    pub(crate) workers: Option<usize>,
}

/// Reads the configuration: defaults, the file if there is one, the flags.
///
/// # Errors
///
/// Every mistake there is, in the order of the file; never an empty list.
pub(crate) fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let Some(path) = path else {
        return parse("calltap", "", overrides);
    };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text, overrides),
        Err(error) => {
            let place = Place::begin(&Origin::flag(&name));
            Err(vec![place.mistake(
                "",
                format!("cannot read the file: {error}"),
                None,
            )])
        }
    }
}

/// Reads a file as `load` does and says what it configures.
///
/// # Errors
///
/// Every mistake there is, in the order of the file.
pub(crate) fn check(path: &Path) -> Result<Summary, Vec<ConfigError>> {
    load(Some(path), &Overrides::default()).map(|config| Summary::of(&config))
}

/// Of entries that may not be denied so many are shown.
const EXEMPTED_SHOWN_MAX: usize = 20;

/// What a file configures, in a sentence per subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    lines: Vec<String>,
}

impl Summary {
    fn of(config: &Config) -> Self {
        let mut lines = Vec::new();
        for listener in &config.listeners {
            let scheme = match (&listener.tls, listener.h2c) {
                (
                    Some(ListenerTls {
                        client_ca: Some(_), ..
                    }),
                    _,
                ) => "https, asks clients for a certificate",
                (Some(_), _) => "https",
                (None, true) => "http and h2c",
                (None, false) => "http",
            };
            lines.push(format!("listens on {} ({scheme})", listener.address));
        }
        for route in config.routes.routes() {
            let methods = if route.methods.is_empty() {
                "every method".to_owned()
            } else {
                route.methods.join(", ")
            };
            let host = route
                .host
                .as_ref()
                .map_or_else(|| "any host".to_owned(), ToString::to_string);
            let (name, path, upstream) = (&route.name, route.template.as_str(), &route.upstream);
            lines.push(format!(
                "route {name}: {host}, {path}, {methods} -> {upstream}"
            ));
        }
        for upstream in config.upstreams.values() {
            let endpoints: Vec<String> =
                upstream.endpoints.iter().map(ToString::to_string).collect();
            let mut line = format!("upstream {}: {}", upstream.name, endpoints.join(", "));
            let mut routes = config.routes.routes().iter();
            if !routes.any(|route| route.upstream == upstream.name) {
                line.push_str(" (no route goes there)");
            }
            lines.push(line);
        }
        let rules = config.policies.rules.counts();
        let rules = rules.map(|count| ("rule", count.rule, count.action, count.dry_run));
        let records = config.policies.records.counts();
        let records = records.map(|count| {
            (
                "rule about records",
                count.rule,
                count.action,
                count.dry_run,
            )
        });
        for (what, rule, action, dry_run) in rules.chain(records) {
            let dry_run = if dry_run { ", a dry run" } else { "" };
            lines.push(format!("{what} {rule}: {action}{dry_run}"));
        }
        for list in config.denials.lists.iter() {
            let count = list.entries.len();
            lines.push(format!("list {}: {count} entries, deny", list.name));
        }
        let exempted = config.exempted();
        lines.extend(exempted.iter().take(EXEMPTED_SHOWN_MAX).cloned());
        if exempted.len() > EXEMPTED_SHOWN_MAX {
            let further = exempted.len() - EXEMPTED_SHOWN_MAX;
            lines.push(format!(
                "{further} more entries are not denied, or not whole"
            ));
        }
        for webhook in &config.alerts.webhooks {
            let Destination { name, url, .. } = &webhook.destination;
            lines.push(format!("alerts go to webhook {name} at {}", url.origin()));
        }
        for peer in &config.alerts.alertmanager.peers {
            lines.push(format!("alerts go to {}", peer.name));
        }
        let deny = &config.alerts.deny;
        if !deny.detectors.is_empty() {
            let names = deny.detectors.iter().map(|detector| detector.info().name);
            let (names, for_) = (names.collect::<Vec<_>>().join(", "), deny.for_);
            lines.push(format!("alerts of {names} deny their source for {for_:?}"));
        }
        lines.push(match &config.records.path {
            RecordsPath::File(path) => format!("records go to {}", path.display()),
            RecordsPath::Stdout => "records go to standard output".to_owned(),
            RecordsPath::None => "records are not written".to_owned(),
        });
        lines.push(match &config.admin {
            Some(admin) => format!("admin API on {}", admin.address),
            None => "no admin API".to_owned(),
        });
        Self { lines }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Config {
    /// What its lists say and is not done, as far as it can be known before DNS is asked.
    fn exempted(&self) -> Vec<String> {
        let upstreams = self.upstreams.values().flat_map(|upstream| {
            let addresses = upstream.endpoints.iter();
            addresses.filter_map(|endpoint| match endpoint {
                EndpointAddress::Socket(address) => Some(Never {
                    network: Network::of(address.ip()),
                    why: format!("upstream {}", upstream.name).into(),
                }),
                EndpointAddress::Dns { .. } | EndpointAddress::Unix(_) => None,
            })
        });
        let never: Vec<Never> = self
            .denials
            .never
            .iter()
            .cloned()
            .chain(upstreams)
            .collect();
        let never_ends = Timestamp::from_unix_us(i64::MIN);
        let denied = Denied::by(self.denials.lists.iter(), &never, never_ends);
        denied.exempted().iter().map(ToString::to_string).collect()
    }

    /// The tap that is asked for, unless its mode says that none is.
    pub(crate) fn tap_options(&self) -> TapOptions {
        TapOptions {
            cgroup: self.tap.cgroup.clone(),
            sockets_max: self.tap.sockets_max,
            denied_max: u32::try_from(self.denials.max).unwrap_or(u32::MAX),
        }
    }

    /// The keys that changed and need a restart, as mistakes of the new file. Routes, upstreams, rules, lists
    /// of addresses and certificates reload; when this is not empty the new file is to be refused as a whole.
    pub(crate) fn needs_restart(&self, new: &Config) -> Vec<ConfigError> {
        restart::changed(&self.written, &new.written)
    }
}

/// Reads a file's text under a name.
fn parse(name: &str, text: &str, overrides: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let (mut root, _) = tree::parse(&Origin::built_in("gateway.toml (built in)", DEFAULTS));
    let (file, syntax) = tree::parse(&Origin::file(name, text));
    let mistakes = Mistakes::after_syntax(syntax);
    let known = root.clone();
    root.overlay(file);
    read::drop_unknown_defaults(&mut root, &known, &mistakes);
    overrides.lay_over(&mut root);
    let config = read::config(Field::root(&root, &mistakes), &root);
    let mistakes = mistakes.into_sorted();
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(mistakes),
    }
}

impl Overrides {
    fn lay_over(&self, root: &mut Node) {
        let text = |flag: &str, text: &str| Node::text(&Place::begin(&Origin::flag(flag)), text);
        let table = |place: &Place, entries: Vec<(&str, Node)>| {
            let entry = |(name, node): (&str, Node)| {
                (
                    name.to_owned(),
                    Entry {
                        key: place.clone(),
                        node,
                    },
                )
            };
            Node {
                place: place.clone(),
                value: Value::Table(entries.into_iter().map(entry).collect::<Table>()),
            }
        };
        if !self.listen.is_empty() {
            let listener = |address: &String| {
                let address = text("--listen", address);
                table(&address.place.clone(), vec![("address", address)])
            };
            let value = Value::List(self.listen.iter().map(listener).collect());
            root.put(
                &["listeners"],
                Node {
                    place: Place::begin(&Origin::flag("--listen")),
                    value,
                },
            );
        }
        if !self.upstream.is_empty() {
            let flag = Place::begin(&Origin::flag("--upstream"));
            let endpoints = self
                .upstream
                .iter()
                .map(|endpoint| Node::text(&flag, endpoint))
                .collect();
            let endpoints = Node {
                place: flag.clone(),
                value: Value::List(endpoints),
            };
            let group = table(&flag, vec![("endpoints", endpoints)]);
            let names = vec![
                ("name", Node::text(&flag, "default")),
                ("upstream", Node::text(&flag, "default")),
            ];
            let routes = Value::List(vec![table(&flag, names)]);
            root.put(&["upstreams"], table(&flag, vec![("default", group)]));
            root.put(
                &["routes"],
                Node {
                    place: flag,
                    value: routes,
                },
            );
        }
        for (flag, path, value) in [
            ("--records", ["records", "path"], &self.records),
            ("--tap", ["tap", "mode"], &self.tap),
            ("--admin", ["admin", "address"], &self.admin),
        ] {
            if let Some(value) = value {
                root.put(&path, text(flag, value));
            }
        }
        if let Some(workers) = self.workers {
            let place = Place::begin(&Origin::flag("--workers"));
            let workers = i64::try_from(workers).unwrap_or(i64::MAX);
            root.put(
                &["workers"],
                Node {
                    place,
                    value: Value::Integer(workers),
                },
            );
        }
    }
}

#[cfg(test)]
mod tests;
