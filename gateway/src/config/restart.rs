//! Which keys a running calltap cannot change.
//!
//! Compares what was written, key by key, so that a new key needs a restart until somebody decides
//! otherwise here.

use std::collections::BTreeSet;

use super::error::ConfigError;
use super::tree::{Node, Value};

/// Whether a reload takes over a change of this key and all below it.
fn reloads(key: &str) -> bool {
    matches!(
        key,
        "routes"
            | "upstreams"
            | "policies.lists"
            | "policies.never_denied"
            | "policies.rules"
            | "policies.records"
            | "policies.slow_ms"
            | "defaults.route"
            | "defaults.upstream"
            | "defaults.health"
    ) || matches!(of_listener(key), Some("tls.certificate" | "tls.key"))
}

/// Whether a reload takes over another value of this key, where there was one and still is: who
/// asks clients for certificates goes on asking.
fn reloads_once_set(key: &str) -> bool {
    of_listener(key) == Some("tls.client_ca")
}

fn of_listener(key: &str) -> Option<&str> {
    let (_, key) = key.strip_prefix("listeners[")?.split_once("].")?;
    Some(key)
}

/// The keys that differ and need a restart, as mistakes of the newer tree.
pub(super) fn changed(old: &Node, new: &Node) -> Vec<ConfigError> {
    let mut comparison = Comparison {
        new,
        changed: Vec::new(),
    };
    comparison.compare("", Some(old), Some(new));
    comparison.changed
}

struct Comparison<'n> {
    new: &'n Node,
    changed: Vec<ConfigError>,
}

impl Comparison<'_> {
    fn compare(&mut self, key: &str, old: Option<&Node>, new: Option<&Node>) {
        if reloads(key) || (old.is_some() && new.is_some() && reloads_once_set(key)) {
            return;
        }
        let what = match (old, new) {
            (Some(old), Some(new)) => match (&old.value, &new.value) {
                (Value::Table(_), Value::Table(_)) => return self.compare_tables(key, old, new),
                (Value::List(_), Value::List(_)) if holds_tables(old) || holds_tables(new) => {
                    return self.compare_lists(key, old, new);
                }
                (old, new) => {
                    let (old, new) = (written(old), written(new));
                    if old == new {
                        return;
                    }
                    format!("changed from {old} to {new}")
                }
            },
            (None, Some(_)) => "is new".to_owned(),
            (Some(_), None) => "is gone".to_owned(),
            (None, None) => return,
        };
        let message = format!("{what}, which needs a restart");
        let remedy = Some("restart calltap, or put the old value back and reload".to_owned());
        // What is gone, or fell back to its default, has no line in the new file.
        self.changed.push(match new {
            Some(node) if !node.place.is_built_in() => node.place.mistake(key, message, remedy),
            _ => self.new.place.mistake_of_text(key, message, remedy),
        });
    }

    fn compare_tables(&mut self, key: &str, old: &Node, new: &Node) {
        let names: BTreeSet<&str> = old.keys().chain(new.keys()).collect();
        for name in names {
            let key = match key {
                "" => name.to_owned(),
                key => format!("{key}.{name}"),
            };
            self.compare(&key, old.get(name), new.get(name));
        }
    }

    fn compare_lists(&mut self, key: &str, old: &Node, new: &Node) {
        let (old, new) = (old.items(), new.items());
        for index in 0..old.len().max(new.len()) {
            self.compare(&format!("{key}[{index}]"), old.get(index), new.get(index));
        }
    }
}

fn holds_tables(list: &Node) -> bool {
    let is_table = |item: &Node| matches!(item.value, Value::Table(_));
    list.items().iter().any(is_table)
}

/// A value as TOML writes it.
fn written(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Other { text, .. } => text.clone(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| written(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(_) => "a table".to_owned(),
    }
}
