//! What was measured, as tables.

use std::fmt::Write as _;

use crate::compare::Comparison;
use crate::compare::idle::{Idle, Restlessness};
use crate::compare::latency::Latency;
use crate::compare::rounds::{Cell, Found};
use crate::compare::rows::DEFAULT;
use crate::compare::statistics::{Estimate, median};
use crate::compare::subject::Variant;
use crate::compare::verdict::{self, Reached};
use crate::table;

/// A page's title for a picture; both are beside the page.
pub fn picture(name: &str) -> String {
    format!("![CPU time per call: nginx, HAProxy, Envoy and calltap]({name})\n")
}

/// The first row and the goals in a few lines, for the front page.
pub fn summary(comparison: &Comparison) -> String {
    let mut page = String::new();
    if let Some(found) = comparison.row(DEFAULT) {
        let rows: Vec<Vec<String>> = SHOWN
            .iter()
            .filter_map(|(name, variant)| {
                let without = Estimate::of(&found.cost_us(variant.base()?))?;
                let with = Estimate::of(&found.cost_us(*variant))?;
                let added = Estimate::of(&found.added_us(*variant))?;
                let p99 = comparison.latency.as_ref();
                let p99 = p99.and_then(|latency| Estimate::of(latency.p99(*variant)));
                Some(vec![
                    (*name).to_owned(),
                    format!("{:.1}", without.median),
                    format!("{:.1}", with.median),
                    format!("{:+.1}", added.median),
                    p99.map_or(String::new(), |p99| format!("{:.0}", p99.median)),
                ])
            })
            .collect();
        page += &table::markdown(
            &[
                "CPU µs per call",
                "nothing written",
                "with its line",
                "the line",
                "p99, µs",
            ],
            &rows,
        );
    }
    let count = |wanted| {
        let verdicts = comparison.verdicts.iter();
        verdicts.filter(|verdict| verdict.reached == wanted).count()
    };
    let _ = write!(
        page,
        "\n{}, {}. calltap's goals in this run: {} reached, {} not reached, {} not measured.\n",
        comparison.date,
        comparison.machine,
        count(Reached::Yes),
        count(Reached::No),
        count(Reached::NotMeasured)
    );
    page
}

/// Who is on the front page, with the line.
const SHOWN: [(&str, Variant); 4] = [
    ("nginx", Variant::NGINX_ON),
    ("HAProxy", Variant::HAPROXY_ON),
    ("Envoy", Variant::ENVOY_ON),
    ("calltap", Variant::ON),
];

/// Everything, as markdown.
pub fn render(comparison: &Comparison) -> String {
    let mut page = heading(comparison);
    let _ = write!(
        page,
        "\n### Goals\n\n{}",
        verdict::render(&comparison.verdicts)
    );
    for found in &comparison.rows {
        let _ = write!(page, "\n### {}\n\n{}", found.row, row(found));
    }
    for found in comparison.rows.iter().take(1) {
        let _ = write!(page, "\n### BPF programs\n\n{}", programs(found));
    }
    if let Some(latency) = &comparison.latency {
        let _ = write!(page, "\n### Latency\n\n{}", times(latency));
    }
    if let Some(idle) = &comparison.idle {
        let _ = write!(page, "\n### Idle\n\n{}", rest(idle));
    }
    page
}

fn heading(comparison: &Comparison) -> String {
    let versions: Vec<String> = comparison
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let mut heading = format!(
        "Run of {}, {}.\n{}.\n{}.\n",
        comparison.date,
        comparison.machine,
        versions.join(", "),
        comparison.effort
    );
    for reason in &comparison.skipped {
        let _ = writeln!(heading, "\n**Skipped:** {reason}.");
    }
    for kept in &comparison.kept {
        if kept.dropped > 0 || kept.written != kept.accepted {
            let _ = writeln!(
                heading,
                "\n**Records are missing:** {}, {}: {} of {} calls written, {} dropped.",
                kept.variant.name(),
                kept.rows.join(", "),
                kept.written,
                kept.accepted,
                kept.dropped
            );
        }
    }
    heading
}

fn row(found: &Found) -> String {
    let rows: Vec<Vec<String>> = found
        .cells
        .iter()
        .map(|cell| match &cell.failed {
            Some(reason) => vec![
                cell.variant.name().to_owned(),
                format!("failed: {}", reason.lines().next().unwrap_or_default()),
            ],
            None => cells(found, cell),
        })
        .collect();
    table::markdown(
        &[
            "gateway",
            "CPU µs per call",
            "95 %",
            "more than with nothing written",
            "95 %",
            "calls per second",
            "resident MiB",
        ],
        &rows,
    )
}

fn cells(found: &Found, cell: &Cell) -> Vec<String> {
    let cost = Estimate::of(&cell.cost_us());
    let added = Estimate::of(&found.added_us(cell.variant));
    vec![
        cell.variant.name().to_owned(),
        cost.map_or(String::new(), |cost| format!("{:.1}", cost.median)),
        interval(cost),
        added.map_or(String::new(), |added| format!("{:+.1}", added.median)),
        interval(added),
        format!("{:.0}", median(&cell.calls_per_s)),
        format!("{:.1}", median(&cell.resident_bytes) / 1024.0 / 1024.0),
    ]
}

/// The interval in words; without one, nothing.
fn interval(estimate: Option<Estimate>) -> String {
    let interval = estimate.and_then(|estimate| estimate.interval);
    interval.map_or(String::new(), |(low, high)| {
        format!("{low:.1} to {high:.1}")
    })
}

fn programs(found: &Found) -> String {
    let sum = |value: fn(&crate::compare::kernel::Program) -> f64| -> f64 {
        found.programs.iter().map(value).sum()
    };
    let row = |name: &str, runs: f64, ns: f64| {
        vec![name.to_owned(), format!("{runs:.1}"), format!("{ns:.0}")]
    };
    let mut rows: Vec<Vec<String>> = found
        .programs
        .iter()
        .map(|one| row(&one.name, one.runs_per_call, one.ns_per_call))
        .collect();
    rows.push(row(
        "all",
        sum(|one| one.runs_per_call),
        sum(|one| one.ns_per_call),
    ));
    table::markdown(&["BPF program", "runs per call", "ns per call"], &rows)
}

fn times(latency: &Latency) -> String {
    let rows: Vec<Vec<String>> = latency
        .subjects
        .iter()
        .map(|one| {
            let of = |rounds: &[f64]| format!("{:.0}", median(rounds));
            vec![
                one.variant.name().to_owned(),
                of(&one.p50),
                of(&one.p99),
                whole(Estimate::of(&one.p99)),
                of(&one.p999),
                of(&one.sent_late_p99),
            ]
        })
        .collect();
    format!(
        "At {:.0} calls per second, half of what saturates calltap with all on, each due at its \
         time whatever became of those before; from then to the last byte of the answer, µs. \
         \"Sent late\" is how long after that time the generator sent a call.\n\n{}",
        latency.offered_per_s,
        table::markdown(
            &["gateway", "p50", "p99", "95 %", "p99.9", "sent late, p99"],
            &rows
        )
    )
}

fn rest(idle: &Idle) -> String {
    let rows: Vec<Vec<String>> = idle
        .subjects
        .iter()
        .map(|one| {
            let percent = |rest: &Restlessness| format!("{:.3}", rest.core_share * 100.0);
            let wake_ups = |rest: &Restlessness| format!("{:.1}", rest.wake_ups_per_s);
            vec![
                one.variant.name().to_owned(),
                percent(&one.alone),
                wake_ups(&one.alone),
                percent(&one.with_connections),
                wake_ups(&one.with_connections),
                format!("{:.1}", one.bytes_per_connection / 1024.0),
            ]
        })
        .collect();
    let connections = idle.subjects.first();
    let connections = connections.map_or(0, |one| one.with_connections.connections);
    let with = format!("with {connections} connections: % of a core");
    table::markdown(
        &[
            "gateway",
            "alone: % of a core",
            "wake-ups per second",
            &with,
            "wake-ups per second",
            "KiB per idle connection",
        ],
        &rows,
    )
}

/// An interval of whole numbers, in words.
fn whole(estimate: Option<Estimate>) -> String {
    let interval = estimate.and_then(|estimate| estimate.interval);
    interval.map_or(String::new(), |(low, high)| {
        format!("{low:.0} to {high:.0}")
    })
}
