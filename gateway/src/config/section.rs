//! Takes typed values out of a tree and notes what is wrong with them, going on after each mistake.
//!
//! Readers ask a [`Section`] for its keys by name; a key nobody asked for is unknown. A value that
//! is wrong comes back as `None` with its mistake noted: readers build their type with `?` after
//! everything was read.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{ConfigError, did_you_mean};
use super::tree::{Node, Place, Table, Value};

/// The mistakes found so far.
#[derive(Debug)]
pub(super) struct Mistakes {
    noted: RefCell<Vec<ConfigError>>,
    syntax_broken: bool,
}

impl Mistakes {
    /// Begins with those of the syntax. What seems to be missing then may only have been lost with
    /// a line that could not be read, so it is not noted any more.
    pub(super) fn after_syntax(errors: Vec<ConfigError>) -> Self {
        Self {
            syntax_broken: !errors.is_empty(),
            noted: RefCell::new(errors),
        }
    }

    pub(super) fn note(&self, mistake: ConfigError) {
        self.noted.borrow_mut().push(mistake);
    }

    pub(super) fn note_missing(&self, mistake: ConfigError) {
        if !self.syntax_broken {
            self.note(mistake);
        }
    }

    /// All of them in the order of the file, each once: a default that is wrong is read by
    /// everything that uses it, under the same last name.
    pub(super) fn into_sorted(self) -> Vec<ConfigError> {
        let mut noted = self.noted.into_inner();
        noted.sort_by(|a, b| (&a.origin, a.line, a.column).cmp(&(&b.origin, b.line, b.column)));
        let mut seen = HashSet::new();
        noted.retain(|mistake| {
            let place = mistake.line.zip(mistake.column);
            place.is_none_or(|place| {
                let name = mistake
                    .key
                    .rsplit('.')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                seen.insert((mistake.origin.clone(), place, name, mistake.message.clone()))
            })
        });
        noted
    }
}

/// A table that is being read.
pub(super) struct Section<'t> {
    path: String,
    place: &'t Place,
    table: &'t Table,
    asked: Vec<&'static str>,
    mistakes: &'t Mistakes,
}

/// A value that is being read.
#[derive(Clone)]
pub(super) struct Field<'t> {
    pub(super) path: String,
    node: &'t Node,
    mistakes: &'t Mistakes,
}

impl<'t> Section<'t> {
    /// A key's value, if it is there.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Field<'t>> {
        self.asked.push(key);
        let entry = self.table.get(key)?;
        Some(Field {
            path: join(&self.path, key),
            node: &entry.node,
            mistakes: self.mistakes,
        })
    }

    /// A key's value; a mistake if it is not there.
    pub(super) fn need(&mut self, key: &'static str, remedy: &str) -> Option<Field<'t>> {
        let field = self.get(key);
        if field.is_none() {
            let mistake = self.place.mistake(
                &join(&self.path, key),
                "is missing",
                Some(remedy.to_owned()),
            );
            self.mistakes.note_missing(mistake);
        }
        field
    }

    /// A key that has a default, so that it is there unless the defaults themselves are broken,
    /// which is a mistake already.
    pub(super) fn key(&mut self, key: &'static str) -> Option<Field<'t>> {
        if self.mistakes.noted.borrow().is_empty() {
            self.need(key, "its default was lost")
        } else {
            self.get(key)
        }
    }

    /// A section that has defaults, read by a function.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Section<'t>) -> Option<T>,
    ) -> Option<T> {
        self.key(key).and_then(Field::section).and_then(read)
    }

    /// Every entry of a table whose keys are names.
    pub(super) fn entries(self) -> impl Iterator<Item = (&'t str, &'t Place, Field<'t>)> {
        self.table.iter().map(move |(name, entry)| {
            let field = Field {
                path: join(&self.path, name),
                node: &entry.node,
                mistakes: self.mistakes,
            };
            (name.as_str(), &entry.key, field)
        })
    }

    /// Notes that the whole text leaves out what has no default.
    pub(super) fn lacks(&self, key: &str, message: &str, remedy: &str) {
        let remedy = Some(remedy.to_owned());
        self.mistakes
            .note_missing(self.place.mistake_of_text(key, message, remedy));
    }

    /// Notes a mistake about the section as a whole.
    pub(super) fn wrong(&self, message: impl Into<String>, remedy: impl Into<Option<String>>) {
        self.mistakes
            .note(self.place.mistake(&self.path, message, remedy.into()));
    }

    /// Notes every key nobody asked for.
    pub(super) fn finish(self) {
        for (name, entry) in self.table {
            if !self.asked.contains(&name.as_str()) {
                let remedy = did_you_mean(name, self.asked.iter().copied())
                    .unwrap_or_else(|| format!("known here: {}", self.asked.join(", ")));
                self.mistakes.note(entry.key.mistake(
                    &join(&self.path, name),
                    "unknown key",
                    Some(remedy),
                ));
            }
        }
    }
}

impl<'t> Field<'t> {
    /// The root of a tree.
    pub(super) fn root(node: &'t Node, mistakes: &'t Mistakes) -> Self {
        Self::named(String::new(), node, mistakes)
    }

    /// A tree that stands for a key.
    pub(super) fn named(path: String, node: &'t Node, mistakes: &'t Mistakes) -> Self {
        Self {
            path,
            node,
            mistakes,
        }
    }

    /// The same key with another tree: the one with its defaults under it.
    pub(super) fn over<'n>(&self, node: &'n Node) -> Field<'n>
    where
        't: 'n,
    {
        Field::named(self.path.clone(), node, self.mistakes)
    }

    /// The tree itself.
    pub(super) fn node(&self) -> &'t Node {
        self.node
    }

    /// Notes that it is wrong.
    pub(super) fn wrong(&self, message: impl Into<String>, remedy: impl Into<Option<String>>) {
        self.mistakes
            .note(self.node.place.mistake(&self.path, message, remedy.into()));
    }

    /// Notes a mistake that stands elsewhere.
    pub(super) fn note(&self, mistake: ConfigError) {
        self.mistakes.note(mistake);
    }

    /// Notes that it names something that is not there.
    pub(super) fn dangling(&self, message: impl Into<String>, remedy: String) {
        let mistake = self.node.place.mistake(&self.path, message, Some(remedy));
        self.mistakes.note_missing(mistake);
    }

    fn mismatch<T>(&self, wanted: &str) -> Option<T> {
        self.wrong(
            format!("must be {wanted}, this is {}", self.node.value.kind()),
            None,
        );
        None
    }

    /// A table.
    pub(super) fn section(self) -> Option<Section<'t>> {
        match &self.node.value {
            Value::Table(table) => Some(Section {
                place: &self.node.place,
                table,
                asked: Vec::new(),
                mistakes: self.mistakes,
                path: self.path,
            }),
            _ => self.mismatch("a table"),
        }
    }

    /// The items of a list, whatever they are.
    pub(super) fn items(&self) -> Option<impl Iterator<Item = Field<'t>> + use<'t>> {
        let Value::List(items) = &self.node.value else {
            return self.mismatch("a list");
        };
        let (path, mistakes) = (self.path.clone(), self.mistakes);
        let item = move |(index, node)| Field::named(format!("{path}[{index}]"), node, mistakes);
        Some(items.iter().enumerate().map(item))
    }

    /// A list of values that are read alike; the good ones, if some are wrong.
    pub(super) fn list<T>(&self, read: impl FnMut(Field<'t>) -> Option<T>) -> Option<Vec<T>> {
        Some(self.items()?.filter_map(read).collect())
    }

    /// Text, not empty.
    pub(super) fn text(&self) -> Option<&'t str> {
        match &self.node.value {
            Value::Text(text) if text.is_empty() => {
                self.wrong("is empty", None);
                None
            }
            Value::Text(text) => Some(text),
            _ => self.mismatch("a text"),
        }
    }

    /// Text that a function can read, whose error is the mistake.
    pub(super) fn parsed<T, E: Display>(
        &self,
        parse: impl FnOnce(&'t str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text()?;
        parse(text)
            .map_err(|error| self.wrong(format!("{text:?}: {error}"), None))
            .ok()
    }

    /// The path of a file that a function has looked into, and what that found there.
    pub(super) fn file<T, E: Display>(
        &self,
        look: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Option<(PathBuf, T)> {
        let path = PathBuf::from(self.text()?);
        let found = look(&path)
            .map_err(|error| self.wrong(error.to_string(), None))
            .ok()?;
        Some((path, found))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Boolean(flag) => Some(flag),
            _ => self.mismatch("true or false"),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let Value::Text(text) = &self.node.value else {
            return self.mismatch("a text");
        };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| name == text) {
            return Some(*choice);
        }
        let names = choices.iter().map(|(name, _)| *name);
        let all: Vec<String> = names.clone().map(|name| format!("{name:?}")).collect();
        self.wrong(
            format!("{text:?} is none of {}", all.join(", ")),
            did_you_mean(text, names),
        );
        None
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, bounds: RangeInclusive<i64>) -> Option<i64> {
        let number = match &self.node.value {
            Value::Integer(number) => *number,
            Value::Other { kind, text } => {
                self.wrong(format!("must be a whole number, {text} is {kind}"), None);
                return None;
            }
            _ => return self.mismatch("a whole number"),
        };
        if !bounds.contains(&number) {
            self.wrong(
                format!(
                    "must be {} to {}, this is {number}",
                    bounds.start(),
                    bounds.end()
                ),
                None,
            );
            return None;
        }
        Some(number)
    }

    /// A number within bounds, whole or not.
    pub(super) fn fraction(&self, bounds: RangeInclusive<f64>) -> Option<f64> {
        let number = match &self.node.value {
            Value::Integer(number) => Some(*number as f64),
            Value::Other { text, .. } => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            return self.mismatch("a number");
        };
        if !bounds.contains(&number) {
            let (least, most) = bounds.into_inner();
            self.wrong(format!("must be {least} to {most}, this is {number}"), None);
            return None;
        }
        Some(number)
    }

    /// A number of things.
    pub(super) fn count<T: TryFrom<i64>>(&self, bounds: RangeInclusive<i64>) -> Option<T> {
        let number = self.number(bounds)?;
        let count = T::try_from(number).ok();
        if count.is_none() {
            self.wrong(format!("{number} is too large for this machine"), None);
        }
        count
    }

    /// Seconds, from 0.
    pub(super) fn seconds(&self) -> Option<Duration> {
        self.number(0..=DAY_MS / 1000)
            .map(|s| Duration::from_secs(s.unsigned_abs()))
    }

    /// Milliseconds, from 1.
    pub(super) fn millis(&self) -> Option<Duration> {
        self.number(1..=DAY_MS)
            .map(|ms| Duration::from_millis(ms.unsigned_abs()))
    }

    /// Milliseconds; 0 is no limit.
    pub(super) fn millis_or_none(&self) -> Option<Option<Duration>> {
        let ms = self.number(0..=DAY_MS)?.unsigned_abs();
        Some((ms > 0).then(|| Duration::from_millis(ms)))
    }
}

/// A day: no timeout of ours is meant to be longer.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let key = if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}
