//! Reads records as any consumer would: JSON lines with dotted keys.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

/// One record.
#[derive(Clone, Debug)]
pub struct Record(Map<String, Value>);

/// A file of records, and what in it was none.
#[derive(Debug, Default)]
pub struct Records {
    /// In the file's order.
    pub records: Vec<Record>,
    /// Lines that are not a JSON object, or an object twice in a line.
    pub bad_lines: Vec<String>,
}

impl Records {
    /// Reads a file that may still grow; a last line without its end is not read yet.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&fs::read(path)?))
    }

    /// Parses complete lines.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut parsed = Self::default();
        let complete = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        for line in bytes[..complete]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            match serde_json::from_slice(line) {
                Ok(Value::Object(object)) => parsed.records.push(Record(object)),
                _ => {
                    let start = &line[..line.len().min(200)];
                    parsed
                        .bad_lines
                        .push(String::from_utf8_lossy(start).into_owned());
                }
            }
        }
        parsed
    }
}

impl Record {
    /// A text field.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A field that is a non-negative whole number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// All fields, to be altered: what a judge of records is tested with.
    pub fn fields_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }

    /// Any field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Every field, by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether the list `name` holds the text `item`.
    pub fn lists(&self, name: &str, item: &str) -> bool {
        self.list(name).any(|text| text == item)
    }

    /// The texts of the list `name`; none if it is absent.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    /// `kind`, or `call` where there is none.
    pub fn kind(&self) -> &str {
        self.text("kind").unwrap_or("call")
    }

    /// One part of the time, by its bare name: `client_send`; 0 where it is absent.
    pub fn part_us(&self, part: &str) -> u64 {
        self.number(&format!("time.{part}_us")).unwrap_or(0)
    }

    /// All parts of the time: bare name and microseconds.
    pub fn parts_us(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().filter_map(|(key, value)| {
            let part = key.strip_prefix("time.")?.strip_suffix("_us")?;
            Some((part, value.as_u64()?))
        })
    }

    /// The id the client sent: `http.request.id`, else the `call` parameter of the query.
    pub fn call_id(&self) -> Option<&str> {
        let in_query = self
            .text("url.query")
            .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("call=")));
        in_query.or_else(|| self.text("http.request.id"))
    }

    /// The whole record as JSON, for messages.
    pub fn json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_left_and_a_bad_one_told() {
        let file = b"{\"url.query\":\"a=1&call=x\"}\nnot json\n{\"kind\":\"connec";
        let parsed = Records::parse(file);
        assert_eq!(parsed.records.len(), 1);
        assert_eq!(parsed.records[0].call_id(), Some("x"));
        assert_eq!(parsed.bad_lines, ["not json"]);
    }

    #[test]
    fn parts_are_found_by_their_bare_name() {
        let parsed = Records::parse(b"{\"time.connect_us\":7,\"timing.up_begin_us\":1}\n");
        assert_eq!(
            parsed.records[0].parts_us().collect::<Vec<_>>(),
            [("connect", 7)]
        );
        assert_eq!(parsed.records[0].part_us("connect"), 7);
        assert_eq!(parsed.records[0].part_us("gateway"), 0);
    }
}
