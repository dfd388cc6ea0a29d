//! TOML as a tree that remembers where each value was written, so that defaults, file and flags
//! can be laid over each other and a mistake still be traced to its line.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// A text that values come from.
#[derive(Debug)]
pub(super) struct Origin {
    /// The file as it was named, or the flag.
    name: Arc<str>,
    /// Byte offsets at which lines begin; empty where there are no lines.
    lines: Vec<usize>,
    text: String,
    built_in: bool,
}

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) struct Place {
    origin: Arc<Origin>,
    offset: usize,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What TOML can say.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// Floats, dates and integers beyond 64 bits, which no key of ours takes.
    Other {
        kind: &'static str,
        text: String,
    },
}

/// A table, and the places of its keys.
pub(super) type Table = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Place,
    pub(super) node: Node,
}

impl Origin {
    /// A flag of the command line.
    pub(super) fn flag(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            lines: Vec::new(),
            text: String::new(),
            built_in: false,
        })
    }

    /// The defaults that come with the binary.
    pub(super) fn built_in(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self {
            built_in: true,
            ..Self::text(name, text)
        })
    }

    /// A file's text.
    pub(super) fn file(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self::text(name, text))
    }

    fn text(name: &str, text: &str) -> Self {
        let breaks = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self {
            name: name.into(),
            lines: std::iter::once(0).chain(breaks).collect(),
            text: text.to_owned(),
            built_in: false,
        }
    }
}

impl Place {
    /// A text as a whole.
    pub(super) fn begin(origin: &Arc<Origin>) -> Self {
        Self {
            origin: Arc::clone(origin),
            offset: 0,
        }
    }

    /// A line of a text, from 1.
    pub(super) fn line(origin: &Arc<Origin>, line: usize) -> Self {
        Self {
            origin: Arc::clone(origin),
            offset: origin.lines.get(line - 1).copied().unwrap_or_default(),
        }
    }

    fn at(origin: &Arc<Origin>, span: Range<usize>) -> Self {
        Self {
            origin: Arc::clone(origin),
            offset: span.start,
        }
    }

    /// Whether it stands in the defaults that come with the binary.
    pub(super) fn is_built_in(&self) -> bool {
        self.origin.built_in
    }

    /// A mistake of the text as a whole.
    pub(super) fn mistake_of_text(
        &self,
        key: &str,
        message: impl Into<String>,
        remedy: Option<String>,
    ) -> ConfigError {
        ConfigError {
            line: None,
            column: None,
            ..self.mistake(key, message, remedy)
        }
    }

    /// A mistake at this place.
    pub(super) fn mistake(
        &self,
        key: &str,
        message: impl Into<String>,
        remedy: Option<String>,
    ) -> ConfigError {
        let line = self
            .origin
            .lines
            .partition_point(|&begin| begin <= self.offset);
        let begin = line.checked_sub(1).map(|index| self.origin.lines[index]);
        let before = begin.and_then(|begin| self.origin.text.get(begin..self.offset));
        ConfigError {
            origin: Arc::clone(&self.origin.name),
            line: before.map(|_| line),
            column: before.map(|text| text.chars().count() + 1),
            key: key.to_owned(),
            message: message.into(),
            remedy,
        }
    }
}

/// Reads a file's text. Where its syntax is broken the rest is still read, as far as it goes.
pub(super) fn parse(origin: &Arc<Origin>) -> (Node, Vec<ConfigError>) {
    let (document, errors) = DeTable::parse_recoverable(&origin.text);
    let mistakes = errors
        .iter()
        .map(|error| {
            let place = Place::at(origin, error.span().unwrap_or(0..0));
            place.mistake("", error.message(), None)
        })
        .collect();
    let node = Node {
        place: Place::begin(origin),
        value: table(origin, document.into_inner()),
    };
    (node, mistakes)
}

fn table(origin: &Arc<Origin>, table: DeTable<'_>) -> Value {
    let entry = |(key, value): (toml::Spanned<_>, toml::Spanned<DeValue<'_>>)| {
        let place = Place::at(origin, key.span());
        let key: std::borrow::Cow<'_, str> = key.into_inner();
        let node = node(origin, value);
        (key.into_owned(), Entry { key: place, node })
    };
    Value::Table(table.into_iter().map(entry).collect())
}

fn node(origin: &Arc<Origin>, value: toml::Spanned<DeValue<'_>>) -> Node {
    let place = Place::at(origin, value.span());
    let other = |kind, text: String| Value::Other { kind, text };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => other("too large a number", number.to_string()),
        },
        DeValue::Float(number) => other("a fraction", number.to_string()),
        DeValue::Datetime(time) => other("a date or time", time.to_string()),
        DeValue::Array(items) => {
            Value::List(items.into_iter().map(|item| node(origin, item)).collect())
        }
        DeValue::Table(entries) => table(origin, entries),
    };
    Node { place, value }
}

impl Node {
    /// A text that a flag gave.
    pub(super) fn text(place: &Place, text: &str) -> Self {
        Self {
            place: place.clone(),
            value: Value::Text(text.to_owned()),
        }
    }

    /// What a table has under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(table) => table.get(key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The names a table has.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let table = match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        };
        table.into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// The items of a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Lays another value over this one: tables key by key, everything else as a whole.
    pub(super) fn overlay(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(mine), Value::Table(theirs)) => {
                for (name, entry) in theirs {
                    match mine.get_mut(&name) {
                        Some(own) => {
                            own.node.overlay(entry.node);
                            own.key = entry.key;
                        }
                        None => {
                            mine.insert(name, entry);
                        }
                    }
                }
                self.place = over.place;
            }
            (_, value) => {
                *self = Node {
                    place: over.place,
                    value,
                }
            }
        }
    }

    /// Puts a value at a path of table names, in place of what is there. Does nothing where the
    /// path leads through what is no table: that is a mistake of its own.
    pub(super) fn put(&mut self, path: &[&str], over: Node) {
        let Some((name, rest)) = path.split_first() else {
            *self = over;
            return;
        };
        if let Value::Table(table) = &mut self.value {
            let key = over.place.clone();
            let empty = Node {
                place: key.clone(),
                value: Value::Table(Table::new()),
            };
            let entry = table
                .entry((*name).to_owned())
                .or_insert(Entry { key, node: empty });
            entry.node.put(rest, over);
        }
    }
}

impl Value {
    /// What it is, as a mistake calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other { kind, .. } => kind,
        }
    }
}
