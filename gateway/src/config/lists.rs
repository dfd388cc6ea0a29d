//! `[[policies.lists]]` and the files they name: who is denied, and who may never be.

use std::collections::HashSet;
use std::path::Path;

use calltap_policies::addresses::{self, BadEntry, BadLine, BadLines, Entry, List, Never};
use calltap_policies::network::Network;

use super::read::{is_name, network, optional};
use super::section::{Field, Section};
use super::settings::{DenialsConfig, ProxyConfig};
use super::tree::{Origin, Place};
use crate::denials::ADDED;

/// What `policies.deny_max` may be: as much as both copies of a list have room for on any machine.
const DENY_MAX: std::ops::RangeInclusive<i64> = 1..=4_000_000;

/// Addresses of a machine's own, which no packet from elsewhere has.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// What the section says about denials; `None` where a mistake was noted.
pub(super) fn denials(
    section: &mut Section<'_>,
    proxy: Option<&ProxyConfig>,
) -> Option<DenialsConfig> {
    let max: Option<usize> = section
        .key("deny_max")
        .and_then(|field| field.count(DENY_MAX));
    let never = section
        .key("never_denied")
        .and_then(|field| field.list(network));
    let field = section.key("lists");
    let lists = field.as_ref().and_then(lists);
    let (max, lists) = (max?, lists?);
    let networks: HashSet<Network> = lists
        .iter()
        .flat_map(|list| &list.entries)
        .map(|entry| entry.network)
        .collect();
    if networks.len() > max {
        field?.wrong(
            format!(
                "the lists have {} networks, and policies.deny_max is {max}",
                networks.len()
            ),
            "raise policies.deny_max; docs/operations.md says what a network costs".to_owned(),
        );
        return None;
    }
    Some(DenialsConfig {
        lists: lists.into(),
        never: nevers(never?, proxy?),
        max,
    })
}

fn nevers(configured: Vec<Network>, proxy: &ProxyConfig) -> Vec<Never> {
    let named = |why: &'static str| {
        move |network| Never {
            network,
            why: why.into(),
        }
    };
    let loopback = LOOPBACK.iter().filter_map(|text| text.parse().ok());
    let trusted = proxy.trusted_peers.iter().copied();
    loopback
        .map(named("loopback"))
        .chain(trusted.map(named("proxy.trusted_peers")))
        .chain(configured.into_iter().map(named("policies.never_denied")))
        .collect()
}

fn lists(field: &Field<'_>) -> Option<Vec<List>> {
    let mut names = HashSet::new();
    let mut complete = true;
    let mut lists = Vec::new();
    for item in field.items()? {
        match item.section().and_then(|list| read(list, &mut names)) {
            Some(list) => lists.push(list),
            None => complete = false,
        }
    }
    complete.then_some(lists)
}

fn read<'t>(mut section: Section<'t>, names: &mut HashSet<&'t str>) -> Option<List> {
    let name = section
        .need("name", "write name = \"blocked\"")
        .and_then(|field| {
            let name = field.text()?;
            if !is_name(name) || name == ADDED {
                field.wrong(
                    format!(
                        "a list's name has 1 to 64 letters, digits, ., _ and -, and is not {ADDED}"
                    ),
                    None,
                );
                return None;
            }
            if !names.insert(name) {
                field.wrong(format!("another list is called {name:?}"), None);
                return None;
            }
            Some(name)
        });
    let then = section
        .need("then", "write then = \"deny\"")
        .and_then(|field| field.choice(&[("deny", ())]));
    let entries = optional(section.get("entries"), |field| {
        let mut complete = true;
        let entries: Vec<Entry> = field
            .items()?
            .filter_map(|item| {
                let entry = item.text().and_then(|text| entry(&item, text));
                complete &= entry.is_some();
                entry
            })
            .collect();
        complete.then_some(entries)
    });
    let of_file = optional(section.get("file"), |field| file(&field));
    if matches!((&entries, &of_file), (Some(None), Some(None))) {
        section.wrong(
            "the list has neither file nor entries",
            "write file = \"blocked.txt\", or entries = [\"203.0.113.0/24\"]".to_owned(),
        );
        return None;
    }
    section.finish();
    then?;
    let mut entries = entries?.unwrap_or_default();
    entries.extend(of_file?.unwrap_or_default());
    Some(List {
        name: name?.into(),
        entries,
    })
}

fn entry(field: &Field<'_>, text: &str) -> Option<Entry> {
    text.parse()
        .map_err(|why: BadEntry| field.wrong(why.to_string(), why.remedy()))
        .ok()
}

/// The entries of a file, one a line; its mistakes are told with its own lines.
fn file(field: &Field<'_>) -> Option<Vec<Entry>> {
    let path = field.text()?;
    let text = std::fs::read_to_string(Path::new(path))
        .map_err(|error| field.wrong(format!("cannot read {path}: {error}"), None))
        .ok()?;
    // As some editors write it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let BadLines { told, further } = match addresses::read(text) {
        Ok(entries) => return Some(entries),
        Err(wrong) => wrong,
    };
    let origin = Origin::file(path, text);
    for BadLine { line, why } in told {
        let place = Place::line(&origin, line);
        field.note(place.mistake("", why.to_string(), Some(why.remedy())));
    }
    if further > 0 {
        field.wrong(format!("{path} has {further} wrong lines more"), None);
    }
    None
}
