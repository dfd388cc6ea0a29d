//! `[alerts]`: when something unusual becomes an alert, and who is told.

use std::collections::HashSet;
use std::time::Duration;

use calltap_policies::alert::{Severity, Terms};
use calltap_policies::detect::{Bounds, DETECTORS, Detector};

use super::error::did_you_mean;
use super::files;
use super::read::{Defaults, authorities, is_name, optional};
use super::section::{Field, Section};
use super::settings::*;

/// Alerts at a time: each is a few kilobytes, in memory and wherever they are told.
const ALERTS_MAX: i64 = 1 << 16;
/// Keys that a detector may tell apart: some places of its table at least.
const KEYS_MIN: i64 = 64;
const KEYS_MAX: i64 = 1 << 24;

/// Reads the section; `None` where a mistake was noted.
pub(super) fn alerts(mut section: Section<'_>, defaults: &Defaults<'_>) -> Option<AlertsConfig> {
    let terms = terms(&mut section);
    let bounds = bounds(&mut section);
    let sources_max = keys_max(&mut section, "sources_max");
    let off = section.key("off").and_then(|field| field.list(detector));
    let link = optional(section.get("link"), |field| {
        let link = field.parsed(Url::parse)?;
        let path = link.path_and_query().trim_end_matches('/');
        if path.contains('?') {
            field.wrong("what paths are added to has no query", None);
            return None;
        }
        Some(format!("{}{path}", link.origin()))
    });
    let spool_dir = section
        .key("spool_dir")
        .and_then(|field| field.text().map(Into::into));
    let spool_max_bytes = section
        .key("spool_max_mib")
        .and_then(|field| field.count::<u64>(1..=1024));
    let webhooks = section
        .key("webhooks")
        .and_then(|field| webhooks(&field, defaults));
    let alertmanager = section.read("alertmanager", alertmanager);
    let deny = section.read("deny", deny);
    section.finish();
    Some(AlertsConfig {
        terms: terms?,
        bounds: bounds?,
        sources_max: sources_max?,
        off: off?,
        link: link?,
        spool_dir: spool_dir?,
        spool_max_bytes: spool_max_bytes? << 20,
        webhooks: webhooks?,
        alertmanager: alertmanager?,
        deny: deny?,
    })
}

fn terms(section: &mut Section<'_>) -> Option<Terms> {
    let false_per_day = section
        .key("false_per_day")
        .and_then(|field| field.fraction(0.001..=100_000.0));
    let mut ns = |key| section.key(key).and_then(|field| at_least_a_second(&field));
    let (quiet, refractory, update) = (ns("quiet_s"), ns("refractory_s"), ns("update_s"));
    let alerts_max = section
        .key("alerts_max")
        .and_then(|field| field.count(DETECTORS.len() as i64..=ALERTS_MAX));
    let ns = |time: Duration| time.as_nanos() as u64;
    Some(Terms {
        false_per_day: false_per_day?,
        quiet_ns: ns(quiet?),
        refractory_ns: ns(refractory?),
        update_ns: ns(update?),
        alerts_max: alerts_max?,
    })
}

fn bounds(section: &mut Section<'_>) -> Option<Bounds> {
    let clients_max = keys_max(section, "clients_max");
    let routes_max = keys_max(section, "routes_max");
    let consumers_max = keys_max(section, "consumers_max");
    Some(Bounds {
        clients_max: clients_max?,
        routes_max: routes_max?,
        consumers_max: consumers_max?,
    })
}

fn keys_max(section: &mut Section<'_>, key: &'static str) -> Option<usize> {
    section
        .key(key)
        .and_then(|field| field.count(KEYS_MIN..=KEYS_MAX))
}

fn at_least_a_second(field: &Field<'_>) -> Option<Duration> {
    let time = field.seconds()?;
    if time.is_zero() {
        field.wrong("must be at least 1", None);
        return None;
    }
    Some(time)
}

fn detector(field: Field<'_>) -> Option<Detector> {
    let name = field.text()?;
    let detector = Detector::by_name(name);
    if detector.is_none() {
        let names = || DETECTORS.iter().map(|info| info.name);
        let remedy = did_you_mean(name, names())
            .unwrap_or_else(|| format!("there are {}", names().collect::<Vec<_>>().join(", ")));
        field.wrong(format!("no detector is named {name:?}"), remedy);
    }
    detector
}

fn webhooks(field: &Field<'_>, defaults: &Defaults<'_>) -> Option<Vec<WebhookConfig>> {
    let mut names = HashSet::new();
    let mut complete = true;
    let mut webhooks = Vec::new();
    for item in field.items()? {
        let node = defaults.under("webhook", item.node());
        let section = item.over(&node).section();
        match section.and_then(|section| webhook(section, &mut names)) {
            Some(webhook) => webhooks.push(webhook),
            None => complete = false,
        }
    }
    complete.then_some(webhooks)
}

fn webhook(mut section: Section<'_>, names: &mut HashSet<String>) -> Option<WebhookConfig> {
    let name = section
        .need("name", "write name = \"on-call\"")
        .and_then(|field| {
            let name = field.text()?;
            if !is_name(name) {
                let message = "a webhook's name has 1 to 64 letters, digits, ., _ and -";
                field.wrong(message, None);
                return None;
            }
            if !names.insert(name.to_owned()) {
                field.wrong(format!("another webhook is called {name:?}"), None);
                return None;
            }
            Some(name.to_owned())
        });
    let url = section
        .need("url", "write url = \"https://hooks.example.com/calltap\"")
        .and_then(|field| field.parsed(Url::parse));
    let secret = section
        .need(
            "secret_file",
            "make one with `openssl rand -hex 32` and name it: the receiver verifies by it",
        )
        .and_then(secret);
    let reach = reach(&mut section);
    section.finish();
    Some(WebhookConfig {
        destination: reach?.to(name?, url?),
        secret: secret?,
    })
}

fn alertmanager(mut section: Section<'_>) -> Option<AlertmanagerConfig> {
    let reach = reach(&mut section);
    let urls = section.key("urls").and_then(|field| {
        let mut names = HashSet::new();
        let mut complete = true;
        let mut peers = Vec::new();
        for item in field.items()? {
            match peer(&item, &mut names) {
                Some(peer) => peers.push(peer),
                None => complete = false,
            }
        }
        complete.then_some(peers)
    });
    let resend = section
        .key("resend_s")
        .and_then(|field| at_least_a_second(&field));
    section.finish();
    let (reach, peers) = (reach?, urls?.into_iter());
    Some(AlertmanagerConfig {
        peers: peers
            .map(|(name, url)| reach.clone().to(name, url))
            .collect(),
        resend: resend?,
    })
}

/// A detector whose alerts name a client that could be denied.
fn denying(field: Field<'_>) -> Option<Detector> {
    let detector = detector(field.clone())?;
    if !detector.names_client() {
        let name = detector.info().name;
        field.wrong(
            format!("alerts of {name} name no client that could be denied"),
            None,
        );
        return None;
    }
    Some(detector)
}

fn deny(mut section: Section<'_>) -> Option<AlertsDenyConfig> {
    let detectors = section
        .key("detectors")
        .and_then(|field| field.list(denying));
    let for_ = section
        .key("for_s")
        .and_then(|field| at_least_a_second(&field));
    section.finish();
    Some(AlertsDenyConfig {
        detectors: detectors?,
        for_: for_?,
    })
}

fn peer(field: &Field<'_>, names: &mut HashSet<String>) -> Option<(String, Url)> {
    let url = field.parsed(Url::parse)?;
    let path = url.path_and_query();
    if path.contains('?') || path.ends_with("/api/v2/alerts") {
        let remedy =
            "write where it is, such as http://127.0.0.1:9093: calltap adds /api/v2/alerts";
        field.wrong(
            "this is more than where an Alertmanager is",
            remedy.to_owned(),
        );
        return None;
    }
    let path = path.trim_end_matches('/');
    let name = format!("alertmanager {}{path}", url.authority());
    if !names.insert(name.clone()) {
        field.wrong("this one is named already", None);
        return None;
    }
    Some((name, url))
}

/// What all destinations have.
#[derive(Clone)]
struct Reach {
    ca: Option<std::path::PathBuf>,
    token: Option<Secret>,
    severity: Severity,
    timeout: Duration,
}

impl Reach {
    fn to(self, name: String, url: Url) -> Destination {
        let Self {
            ca,
            token,
            severity,
            timeout,
        } = self;
        Destination {
            name,
            url,
            ca,
            token,
            severity,
            timeout,
        }
    }
}

fn reach(section: &mut Section<'_>) -> Option<Reach> {
    let ca = optional(section.get("ca"), |field| authorities(&field));
    let token = optional(section.get("token_file"), |field| {
        let token = secret(field.clone())?;
        if !token.reveal().iter().all(u8::is_ascii_graphic) {
            field.wrong("a token is visible ASCII without spaces", None);
            return None;
        }
        Some(token)
    });
    let severity = section.key("severity").and_then(|field| {
        field
            .choice(&[Severity::Info, Severity::Warning, Severity::Critical].map(|s| (s.word(), s)))
    });
    let timeout = section.key("timeout_ms").and_then(|field| field.millis());
    Some(Reach {
        ca: ca?,
        token: token?,
        severity: severity?,
        timeout: timeout?,
    })
}

fn secret(field: Field<'_>) -> Option<Secret> {
    field
        .file(files::secret)
        .map(|(_, secret)| Secret::new(secret))
}
