//! A finished record, asked by expressions.

use std::borrow::Cow;

use calltap_correlate::record::{CallRecord, Value, free_key};

use crate::expression::{Facts, Known};

/// Rules about records may name every field.
pub const AT_REVIEW: Known = Known {
    when: |_| true,
    otherwise: "is not known",
};

impl Facts for CallRecord {
    fn text(&self, field: usize) -> Option<Cow<'_, str>> {
        match self.value(field) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn integer(&self, field: usize) -> Option<i64> {
        match self.value(field) {
            Some(Value::Integer(number)) => Some(number),
            _ => None,
        }
    }

    fn boolean(&self, field: usize) -> Option<bool> {
        match self.value(field) {
            Some(Value::Boolean(flag)) => Some(flag),
            _ => None,
        }
    }

    fn list(&self, field: usize) -> Option<Vec<Cow<'_, str>>> {
        match self.value(field) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    fn key(&self, field: usize, key: &str) -> Option<Cow<'_, str>> {
        let kept_as = match key.contains('.') {
            true => Cow::Owned(free_key(key)),
            false => Cow::Borrowed(key),
        };
        let mut keys = self.free_keys(field).iter();
        let (_, value) = keys.find(|(key, _)| *key == kept_as)?;
        Some(Cow::Borrowed(value))
    }
}
