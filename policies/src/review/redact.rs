//! Takes fields out of a record and hides values by their names.

use std::fmt;

use calltap_correlate::record::{CallRecord, Selection};

use super::{REDACTED, Secrets};

/// What is hidden of a record.
#[derive(Clone, Debug)]
pub struct Redact {
    /// Taken out, by their place among the fields.
    fields: Vec<usize>,
    /// Single keys of fields with free keys, taken out.
    keys: Vec<(usize, String)>,
    /// Query parameters, headers and details whose values are hidden.
    names: Secrets,
}

/// A name of which nothing can be hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unredactable {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl fmt::Display for Unredactable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Unredactable {}

/// Before the name of a query parameter.
const PARAMETER: &str = "url.query.";

impl Redact {
    /// What these name: a field of the record (`user_agent.original`), a family (`tls.client.*`), a header
    /// (`http.request.header.x-tenant`), a query parameter (`url.query.voucher`), or, in one word, headers,
    /// query parameters and details of that name (`voucher`, as [`Secrets`] compares them).
    ///
    /// # Errors
    /// For each name the mistake, if it has one. A word may be the name of anything, and is never wrong.
    pub fn read(names: &[&str]) -> Result<Self, Vec<(usize, Unredactable)>> {
        let mut redact = Self {
            fields: Vec::new(),
            keys: Vec::new(),
            names: Secrets::of(names.iter().filter_map(|name| {
                let parameter = name.strip_prefix(PARAMETER);
                parameter.or((!name.contains('.')).then_some(*name))
            })),
        };
        let mut wrong = Vec::new();
        for (at, name) in names.iter().enumerate() {
            if let Err(mistake) = redact.add(name) {
                wrong.push((at, mistake));
            }
        }
        match wrong.is_empty() {
            true => Ok(redact),
            false => Err(wrong),
        }
    }

    fn add(&mut self, name: &str) -> Result<(), Unredactable> {
        let is_parameter = name.starts_with(PARAMETER) && name.len() > PARAMETER.len();
        match Selection::of(&[name]) {
            Ok(selection) => {
                let (fields, keys) = (self.fields.len(), self.keys.len());
                self.fields.extend(selection.optional_fields());
                self.keys.extend_from_slice(selection.single_keys());
                if (self.fields.len(), self.keys.len()) == (fields, keys) {
                    return Err(Unredactable {
                        message: format!("every record has {name}"),
                        remedy: None,
                    });
                }
            }
            Err(unknown) if name.contains('.') && !is_parameter => {
                let nearest = unknown.into_iter().find_map(|unknown| unknown.nearest);
                return Err(Unredactable {
                    message: format!("the record has no field {name:?}"),
                    remedy: Some(match nearest {
                        Some(nearest) => format!("did you mean \"{nearest}\"?"),
                        None => format!("query parameters are written \"{PARAMETER}name\""),
                    }),
                });
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Hides it, and what may repeat it: by what a limit counted, and what detectors say in words.
    pub fn hide(&self, record: &mut CallRecord) {
        hide_words(record);
        for field in &self.fields {
            record.clear(*field);
        }
        for (field, hidden) in &self.keys {
            if let Some(keys) = record.free_keys_mut(*field) {
                keys.retain(|(key, _)| key != hidden);
            }
        }
        if self.names.is_empty() {
            return;
        }
        if let Some(query) = &mut record.url_query {
            *query = self.names.query(query).into_owned();
        }
        let headers = [
            &mut record.http_request_headers,
            &mut record.http_response_headers,
            &mut record.details,
        ];
        for (name, value) in headers.into_iter().flatten() {
            if self.names.hide(name) {
                REDACTED.clone_into(value);
            }
        }
    }
}

/// Hides what repeats other fields in words: by what a limit counted, and what detectors say.
pub(super) fn hide_words(record: &mut CallRecord) {
    if let Some(key) = &mut record.ratelimit_key {
        REDACTED.clone_into(key);
    }
    for finding in &mut record.findings {
        finding.reason = REDACTED.into();
    }
}
