//! Records, and what is asked of them.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};

/// One line of the log.
#[derive(Clone)]
pub(crate) struct Record(Map<String, Value>);

impl fmt::Debug for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.0 {
            writeln!(out, "{key}: {value}")?;
        }
        Ok(())
    }
}

impl Record {
    pub(crate) fn parse(line: &str) -> Self {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Self(fields),
            other => panic!("not a record: {line:?}: {other:?}"),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        let value = self.get(key).and_then(Value::as_str);
        value.unwrap_or_else(|| panic!("no text {key} in\n{self:?}"))
    }

    pub(crate) fn number(&self, key: &str) -> u64 {
        let value = self.get(key).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number {key} in\n{self:?}"))
    }

    /// Every field named has this value; `null`: it is absent.
    #[track_caller]
    pub(crate) fn expect(&self, fields: Value) -> &Self {
        let Value::Object(fields) = fields else {
            panic!("fields of a record are an object")
        };
        let mut wrong = String::new();
        for (key, wanted) in &fields {
            let found = self.get(key).unwrap_or(&Value::Null);
            if found != wanted {
                let _ = writeln!(wrong, "{key}: wanted {wanted}, found {found}");
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}in\n{self:?}");
        self
    }

    /// The same, of fields that only the tap fills.
    #[track_caller]
    pub(crate) fn expect_if_tapped(&self, fields: Value) -> &Self {
        match super::tap_unavailable() {
            None => self.expect(fields),
            Some(_) => self,
        }
    }

    /// How each attempt to reach an upstream ended.
    pub(crate) fn outcomes(&self) -> Vec<&str> {
        let attempts = self.get("upstream.attempts").and_then(Value::as_array);
        attempts
            .into_iter()
            .flatten()
            .map(|attempt| attempt["outcome"].as_str().expect("an outcome"))
            .collect()
    }

    /// The parts of the time add up to the whole, and there is one.
    #[track_caller]
    pub(crate) fn expect_time_adds_up(&self) -> &Self {
        let parts: u64 = self
            .0
            .iter()
            .filter(|(key, _)| key.starts_with("time."))
            .map(|(_, us)| us.as_u64().expect("microseconds"))
            .sum();
        assert_eq!(self.number("delivered_us"), parts, "{self:?}");
        self
    }

    /// The kernel's half is whole: seen by eBPF, and nobody else's.
    #[track_caller]
    pub(crate) fn expect_exact(&self) -> &Self {
        self.expect(serde_json::json!({
            "coverage": "ebpf", "attribution": "exact",
            "client.coverage": "ebpf", "client.attribution": "exact",
            "client.attribution_reason": null, "client.coverage_reason": null,
            "upstream.coverage": "ebpf", "upstream.attribution": "exact",
            "upstream.attribution_reason": null, "upstream.coverage_reason": null,
            "settled": "acked",
        }));
        self.expect_time_adds_up()
    }

    /// All of it but what differs from run to run, of which only the names are left.
    pub(crate) fn shape(&self) -> String {
        let mut shape = String::new();
        for (key, value) in &self.0 {
            let _ = match is_stable(key) {
                true => writeln!(shape, "{key}: {value}"),
                false => writeln!(shape, "{key}"),
            };
        }
        shape
    }
}

fn is_stable(key: &str) -> bool {
    let varies = key.ends_with("_us")
        || key.ends_with(".port")
        || key.ends_with("_port")
        || [
            "cookie",
            "seq_first",
            "seq_last",
            "cwnd",
            "mss",
            "window",
            "window_min",
            "wscale",
            "p0f",
            "uid",
            "trace_id",
            "span_id",
            "request.id",
            "transaction_id",
            "instance.id",
            "timestamp",
            "delivery_rate_bytes_per_s",
            "upstream.attempts",
            "ack_kind",
            "retransmits",
            "retransmits_total",
            "retransmitted_bytes",
            "rto_total",
            "dup_acks_total",
        ]
        .iter()
        .any(|end| key.ends_with(end));
    !varies
}
