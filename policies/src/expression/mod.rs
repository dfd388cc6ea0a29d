//! Conditions and keys of rules: CEL (<https://cel.dev>) over the fields of the record.
//!
//! The `cel` crate parses. What it does not do is done here: names and types are checked against the
//! record's schema when the configuration is read, and what remains is compiled to typed closures,
//! which ask for the fields they name and for no other; `exists` and `all` over a list that is written out
//! are as many closures as it has elements. What closures do not know (other comprehensions, maps, lists
//! that are computed) is interpreted by the crate, with the fields it names: as little of an
//! expression as is true or false.
//!
//! A field that is absent makes the expression err, as CEL has it: `a || b` is still true where one of
//! both is, `a && b` false where one of both is, and `has(field)` never errs.

mod check;
mod interpret;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use calltap_correlate::record::FIELDS;

use crate::alert::client_of;

/// What an expression is asked about: fields of the record by their place in [`FIELDS`].
pub trait Facts {
    /// A text, a word, an address, an id or a timestamp, as the record writes it.
    fn text(&self, field: usize) -> Option<Cow<'_, str>>;
    /// A number; what does not fit is the largest one.
    fn integer(&self, field: usize) -> Option<i64>;
    /// A truth value.
    fn boolean(&self, field: usize) -> Option<bool>;
    /// A list of texts; empty, not absent, where it is known that there are none.
    fn list(&self, field: usize) -> Option<Vec<Cow<'_, str>>>;
    /// One key of a field with free keys, such as a request header.
    fn key(&self, field: usize, key: &str) -> Option<Cow<'_, str>>;
}

/// The fields that an expression may name.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Whether a field is known when the expression is asked.
    pub when: fn(&str) -> bool,
    /// Said of the fields of the record that are not.
    pub otherwise: &'static str,
}

/// A truth value is what it gives.
pub struct Condition {
    source: String,
    run: Code<bool>,
}

/// A text is what it gives: the key that calls are counted by.
pub struct Key {
    source: String,
    run: TextCode,
    names_header: bool,
    /// Fields with a client's address that it names.
    addresses: Vec<usize>,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, in characters from 1.
    pub column: usize,
    /// What.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Why an expression has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// This field, by its place in [`FIELDS`], is absent.
    Absent(usize),
    /// A division by zero, a number too large, an index beyond the end.
    Failed,
}

type Answer<T> = Result<T, Unanswered>;
type Code<T> = Box<dyn Fn(&dyn Facts) -> Answer<T> + Send + Sync>;
type TextCode = Box<dyn for<'f> Fn(&'f dyn Facts) -> Answer<Cow<'f, str>> + Send + Sync>;
type ListCode = Box<dyn for<'f> Fn(&'f dyn Facts) -> Answer<Vec<Cow<'f, str>>> + Send + Sync>;

impl Condition {
    /// Reads it.
    ///
    /// # Errors
    /// The first mistake: of syntax, a name that no field has, or types that do not fit.
    pub fn read(source: &str, known: Known) -> Result<Self, Mistake> {
        let run = check::condition(source, known)?;
        let source = source.to_owned();
        Ok(Self { source, run })
    }

    /// Asks it.
    ///
    /// # Errors
    /// It has no answer: mostly because a field is absent.
    pub fn holds(&self, facts: &dyn Facts) -> Result<bool, Unanswered> {
        (self.run)(facts)
    }
}

impl Key {
    /// Reads it: an expression that gives a text, a number or a truth value.
    ///
    /// # Errors
    /// As for [`Condition::read`].
    pub fn read(source: &str, known: Known) -> Result<Self, Mistake> {
        let (run, names_header, addresses) = check::key(source, known)?;
        let source = source.to_owned();
        Ok(Self {
            source,
            run,
            names_header,
            addresses,
        })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it names a header, which may be a secret.
    pub fn names_header(&self) -> bool {
        self.names_header
    }

    /// Asks it. Where an IPv6 client's address is part of what it gives, that has the /64, which one
    /// subscriber has to itself.
    ///
    /// # Errors
    /// As for [`Condition::holds`].
    pub fn of<'f>(&self, facts: &'f dyn Facts) -> Result<Cow<'f, str>, Unanswered> {
        let mut key = (self.run)(facts)?;
        for &field in &self.addresses {
            if key.contains(':')
                && let Some(address) = facts.text(field)
                && let Some(network) = subscriber(&address)
            {
                key = key.replace(&*address, &network).into();
            }
        }
        Ok(key)
    }
}

/// The /64 of an IPv6 address.
fn subscriber(address: &str) -> Option<String> {
    match client_of(address.parse().ok()?) {
        network @ IpAddr::V6(_) => Some(format!("{network}/64")),
        IpAddr::V4(_) => None,
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Condition({:?})", self.source)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.source)
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(field) => write!(f, "{} is absent", FIELDS[*field].name),
            Self::Failed => f.write_str("cannot be computed"),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)
    }
}

#[cfg(test)]
mod tests;
