//! What a replay comes to.

use std::io::{self, Write};
use std::time::Duration;

use calltap_policies::detect::TableUsage;
use indicatif::HumanCount;
use serde_json::json;

use crate::config::Config;

/// What was replayed and what came of it. What rules did they count themselves.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) records: u64,
    /// Those of calls.
    pub(super) calls: u64,
    pub(super) bad_lines: u64,
    /// Records long after others that ended later.
    pub(super) late: u64,
    pub(super) forwarded: u64,
    pub(super) denied: u64,
    pub(super) limited: u64,
    pub(super) kept: u64,
    pub(super) filtered: u64,
    pub(super) sampled: u64,
    pub(super) opened: u64,
    pub(super) resolved: u64,
    /// From the first byte that was read until the last record was judged.
    pub(super) elapsed: Duration,
    /// How much of that policies took.
    pub(super) policies: Duration,
    /// What detectors kept of clients, routes and consumers.
    pub(super) keys: Vec<(&'static str, TableUsage)>,
}

/// Said where rules before forwarding were replayed.
const LESS_WAS_KNOWN: &str = "\
Rules before forwarding were asked what records tell: of headers those that were recorded, and
client.tcp.* as at the end of the call. What a record does not have counts as unanswered.
Limits of calls that are open at a time were not replayed.";

impl Summary {
    fn records_per_s(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    fn policies_ns_per_record(&self) -> f64 {
        self.policies.as_nanos() as f64 / self.records.max(1) as f64
    }

    /// As one JSON object: `{"summary": {..}}`.
    pub(super) fn to_json(&self, config: &Config) -> serde_json::Value {
        let rules: Vec<_> = config
            .policies
            .rules
            .counts()
            .map(|count| {
                json!({
                    "name": count.rule,
                    "action": count.action,
                    "dry_run": count.dry_run,
                    "applied": count.applied,
                    "unanswered": count.unanswered,
                })
            })
            .collect();
        let record_rules: Vec<_> = config
            .policies
            .records
            .counts()
            .map(|count| {
                json!({
                    "name": count.rule,
                    "action": count.action,
                    "dry_run": count.dry_run,
                    "applied": count.applied,
                    "left_out": count.left_out,
                    "unanswered": count.unanswered,
                })
            })
            .collect();
        let keys: serde_json::Map<_, _> = self
            .keys
            .iter()
            .map(|(what, usage)| {
                let TableUsage {
                    known,
                    refused,
                    bytes_per_key,
                } = usage;
                let usage =
                    json!({"known": known, "refused": refused, "bytes_per_key": bytes_per_key});
                ((*what).to_owned(), usage)
            })
            .collect();
        json!({"summary": {
            "records": self.records,
            "calls": self.calls,
            "bad_lines": self.bad_lines,
            "late": self.late,
            "elapsed_s": self.elapsed.as_secs_f64(),
            "records_per_s": self.records_per_s().round(),
            "policies_ns_per_record": self.policies_ns_per_record().round(),
            "rules": rules,
            "calls_forwarded": self.forwarded,
            "calls_denied": self.denied,
            "calls_limited": self.limited,
            "record_rules": record_rules,
            "records_kept": self.kept,
            "records_dropped": {"filtered": self.filtered, "sampled": self.sampled},
            "alerts_opened": self.opened,
            "alerts_resolved": self.resolved,
            "keys": keys,
        }})
    }

    /// For people.
    pub(super) fn print(&self, config: &Config, out: &mut impl Write) -> io::Result<()> {
        let many = |number: u64| HumanCount(number).to_string();
        let rules: Vec<_> = config.policies.rules.counts().collect();
        if !rules.is_empty() {
            let rows = rules.iter().map(|count| {
                let action = action(count.action, count.dry_run);
                [
                    count.rule.to_owned(),
                    action,
                    many(count.applied),
                    many(count.unanswered),
                ]
            });
            table(
                out,
                ["rule before forwarding", "action", "applied", "unanswered"],
                rows,
            )?;
            writeln!(
                out,
                "{} forwarded, {} denied, {} limited\n\n{LESS_WAS_KNOWN}\n",
                many(self.forwarded),
                many(self.denied),
                many(self.limited)
            )?;
        }
        let rules: Vec<_> = config.policies.records.counts().collect();
        if !rules.is_empty() {
            let rows = rules.iter().map(|count| {
                let action = action(count.action, count.dry_run);
                [
                    count.rule.to_owned(),
                    action,
                    many(count.applied),
                    many(count.left_out),
                    many(count.unanswered),
                ]
            });
            table(
                out,
                [
                    "rule about records",
                    "action",
                    "applied",
                    "left out",
                    "unanswered",
                ],
                rows,
            )?;
            writeln!(
                out,
                "{} kept, {} filtered, {} sampled away\n",
                many(self.kept),
                many(self.filtered),
                many(self.sampled)
            )?;
        }
        writeln!(
            out,
            "{} alerts opened, {} of them resolved",
            many(self.opened),
            many(self.resolved)
        )?;
        if self.bad_lines > 0 {
            writeln!(out, "{} lines are no records", many(self.bad_lines))?;
        }
        if self.late > 0 {
            writeln!(
                out,
                "{} records stand more than a minute after ones that ended later: are the files in \
                 order, oldest first?",
                many(self.late)
            )?;
        }
        writeln!(
            out,
            "{} records, {} of them of calls, in {:.1} s: {} a second; {:.1} µs of each in policies",
            many(self.records),
            many(self.calls),
            self.elapsed.as_secs_f64(),
            many(self.records_per_s() as u64),
            self.policies_ns_per_record() / 1e3
        )
    }
}

fn action(action: &str, dry_run: bool) -> String {
    let dry_run = if dry_run { ", dry run" } else { "" };
    format!("{action}{dry_run}")
}

/// The first two columns are text, the others numbers.
fn table<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = match column {
                ..2 => format!("{cell:<width$}  "),
                _ => format!("{cell:>width$}  "),
            };
            line.push_str(&cell);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
