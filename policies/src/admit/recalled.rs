//! A call of which only the record is left, asked as if its head had just been read.

use std::borrow::Cow;
use std::sync::LazyLock;

use calltap_correlate::record::{CallRecord, FIELDS};

use crate::expression::Facts;

static URL_PATH: LazyLock<usize> = LazyLock::new(|| {
    let found = FIELDS.iter().position(|field| field.name == "url.path");
    found.expect("a field of the record")
});

/// What a record tells of the time when its call was admitted.
///
/// It is less than was known then: of the headers those that were recorded, and `client.tcp.*` as they were
/// when the call ended. What the record does not have is absent.
#[derive(Debug)]
pub struct Recalled<'r> {
    record: &'r CallRecord,
    path: Option<Cow<'r, str>>,
}

impl<'r> Recalled<'r> {
    /// `path` is the path that was routed by, where the record has one.
    pub fn new(record: &'r CallRecord, path: Option<Cow<'r, str>>) -> Self {
        Self { record, path }
    }
}

impl Facts for Recalled<'_> {
    fn text(&self, field: usize) -> Option<Cow<'_, str>> {
        match field == *URL_PATH {
            true => self.path.as_deref().map(Cow::Borrowed),
            false => self.record.text(field),
        }
    }

    fn integer(&self, field: usize) -> Option<i64> {
        self.record.integer(field)
    }

    fn boolean(&self, field: usize) -> Option<bool> {
        self.record.boolean(field)
    }

    fn list(&self, field: usize) -> Option<Vec<Cow<'_, str>>> {
        self.record.list(field)
    }

    fn key(&self, field: usize, key: &str) -> Option<Cow<'_, str>> {
        self.record.key(field, key)
    }
}
