//! The seven goals, and whether one run reached them. A goal that was not measured is not reached.

use serde::Serialize;

use crate::compare::Comparison;
use crate::compare::idle::{Idle, Rest, Restlessness};
use crate::compare::latency::Latency;
use crate::compare::rounds::{Found, pairs};
use crate::compare::rows::{CROWD, DEFAULT, FEW_ROUTES, MANY_ROUTES};
use crate::compare::soak::Soak;
use crate::compare::statistics::Estimate;
use crate::compare::subject::Variant;
use crate::table;

/// A shorter soak proves nothing; the load is planned by its calls and ends a little early or late.
const SOAK_MIN_S: f64 = 50.0;
/// Of the kernel's memory, for each tapped socket.
const SOCKET_MAX_BYTES: f64 = 2_048.0;
/// Resident, for each idle client connection.
const CONNECTION_MAX_BYTES: f64 = 24.0 * 1_024.0;

/// One goal, or one part of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Which goal: its number, or its name where it has none.
    pub goal: &'static str,
    /// In words.
    pub asked: String,
    /// What was found, in words.
    pub found: String,
    /// Whether it was reached, judged by the median.
    pub reached: Reached,
}

/// Whether a goal was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// It was.
    Yes,
    /// It was not.
    No,
    /// Not in this run, which left it out.
    NotMeasured,
    /// A test answers that.
    SeeTest,
}

impl Verdict {
    fn new(goal: &'static str, asked: &str, found: Option<(String, bool)>) -> Self {
        let (found, reached) = match found {
            Some((found, true)) => (found, Reached::Yes),
            Some((found, false)) => (found, Reached::No),
            None => (String::new(), Reached::NotMeasured),
        };
        Self {
            goal,
            asked: asked.to_owned(),
            found,
            reached,
        }
    }
}

/// All of them, in order.
pub fn all(comparison: &Comparison) -> Vec<Verdict> {
    let default = comparison.row(DEFAULT);
    let mut verdicts = Vec::new();
    verdicts.extend(added(default));
    verdicts.extend(total(default));
    verdicts.push(latency(comparison.latency.as_ref()));
    verdicts.extend(growth(comparison));
    verdicts.extend(soak(comparison.soak.as_ref()));
    verdicts.extend(memory(comparison.idle.as_ref()));
    verdicts.push(Verdict {
        goal: "7",
        asked: "allocations per call, all on − all off = 0".to_owned(),
        found: "`cargo test -p calltap allocations` counts them".to_owned(),
        reached: Reached::SeeTest,
    });
    verdicts.extend(idle(comparison.idle.as_ref()));
    verdicts
}

/// As a table.
pub fn render(verdicts: &[Verdict]) -> String {
    let rows: Vec<Vec<String>> = verdicts
        .iter()
        .map(|verdict| {
            let Verdict {
                goal,
                asked,
                found,
                reached,
            } = verdict;
            let reached = match reached {
                Reached::Yes => "reached",
                Reached::No => "**not reached**",
                Reached::NotMeasured => "not measured",
                Reached::SeeTest => "see test",
            };
            vec![
                format!("{goal}. {asked}"),
                found.clone(),
                reached.to_owned(),
            ]
        })
        .collect();
    table::markdown(&["goal", "found", "verdict"], &rows)
}

/// Goal 1: what the record adds.
fn added(row: Option<&Found>) -> Vec<Verdict> {
    let added = |variant| row.map(|row| row.added_us(variant)).unwrap_or_default();
    let own = added(Variant::ON);
    let mut verdicts = vec![Verdict::new(
        "1",
        "all on − all off ≤ 5 µs of CPU per call",
        at_most(&own, 5.0, "µs"),
    )];
    for (variant, share, asked) in [
        (Variant::NGINX_ON, 0.8, "≤ 0.8 × what nginx's line adds"),
        (Variant::HAPROXY_ON, 0.6, "≤ 0.6 × what HAProxy's line adds"),
    ] {
        let other = added(variant);
        // Not the ratio of two small differences, which jumps: how far it is from the goal.
        let excess = pairs(&own, &other, |own, other| own - share * other);
        let found = Estimate::of(&excess).zip(Estimate::of(&other));
        let found = found.map(|(excess, other)| {
            let limit = share * other.median;
            let found = format!(
                "{share} × {:.1} = {limit:.1} µs, {} µs beyond it",
                other.median,
                shown(excess, true)
            );
            (found, excess.median <= 0.0)
        });
        verdicts.push(Verdict::new("1", asked, found));
    }
    verdicts
}

/// Goal 2: what a call costs with everything on.
fn total(row: Option<&Found>) -> Vec<Verdict> {
    let cost = |variant| row.map(|row| row.cost_us(variant)).unwrap_or_default();
    let own = cost(Variant::ON);
    [
        (
            Variant::HAPROXY_ON,
            1.15,
            "all on ≤ 1.15 × HAProxy with its line",
        ),
        (Variant::ENVOY_ON, 0.6, "all on ≤ 0.6 × Envoy with its line"),
        (
            Variant::HAPROXY_ON,
            1.0,
            "stretch: ≤ 1.0 × HAProxy with its line",
        ),
        (
            Variant::NGINX_ON,
            1.0,
            "stretch: ≤ 1.0 × nginx with its line",
        ),
    ]
    .into_iter()
    .map(|(variant, limit, asked)| {
        let ratio = pairs(&own, &cost(variant), |own, other| own / other);
        Verdict::new("2", asked, at_most(&ratio, limit, "×"))
    })
    .collect()
}

/// Goal 3: how long calls take.
fn latency(latency: Option<&Latency>) -> Verdict {
    let asked = "p99 at half of the saturation rate ≤ 1.25 × HAProxy's with its line";
    let ratio = latency.map(|latency| {
        let (own, other) = (latency.p99(Variant::ON), latency.p99(Variant::HAPROXY_ON));
        pairs(own, other, |own, other| own / other)
    });
    Verdict::new("3", asked, at_most(&ratio.unwrap_or_default(), 1.25, "×"))
}

/// Goal 4: what a call costs more among many connections, and many routes.
fn growth(comparison: &Comparison) -> [Verdict; 2] {
    let ratio = |variant, row, base| -> Option<Vec<f64>> {
        let cost = |row| Some(comparison.row(row)?.cost_us(variant));
        Some(pairs(&cost(row)?, &cost(base)?, |row, base| row / base))
    };
    let own = ratio(Variant::ON, CROWD, DEFAULT);
    let other = ratio(Variant::HAPROXY_ON, CROWD, DEFAULT);
    let crowd = own.zip(other).and_then(|(own, other)| {
        let more = pairs(&own, &other, |own, other| own / other);
        let (own, other) = (Estimate::of(&own)?, Estimate::of(&other)?);
        let (found, reached) = at_most(&more, 1.1, "×")?;
        let (own, other) = (own.median, other.median);
        let found = format!("{found}: grown to {own:.2} × against {other:.2} ×");
        Some((found, reached))
    });
    let routes = ratio(Variant::ON, MANY_ROUTES, FEW_ROUTES);
    [
        Verdict::new(
            "4",
            "from 32 to 4,000 connections no more than 1.1 × HAProxy's own growth",
            crowd,
        ),
        Verdict::new(
            "4",
            "at 1,000 routes ≤ 1.05 × that at 10",
            at_most(&routes.unwrap_or_default(), 1.05, "×"),
        ),
    ]
}

/// Goal 5: a record for every call, however many there are.
fn soak(soak: Option<&Soak>) -> [Verdict; 2] {
    let complete = soak.map(|soak| {
        let found = format!(
            "{} calls in {:.0} s at {:.2} cores: {} records, {} dropped",
            soak.calls, soak.seconds, soak.cores, soak.records, soak.dropped
        );
        (found, soak.complete())
    });
    let flat = soak.map(|soak| {
        let (earlier, last) = soak.resident();
        let mib = |bytes: f64| bytes / 1024.0 / 1024.0;
        let found = format!(
            "{:.1} MiB in the second quarter of it, {:.1} in the last",
            mib(earlier),
            mib(last)
        );
        (found, soak.flat())
    });
    let mut verdicts = [
        Verdict::new(
            "5",
            "saturated for 60 s: every call has its record, nothing dropped",
            complete,
        ),
        Verdict::new("5", "and memory stays flat (within 5 %)", flat),
    ];
    if soak.is_some_and(|soak| soak.seconds < SOAK_MIN_S) {
        for verdict in &mut verdicts {
            // A miss is a miss, however short; a success would take the whole time.
            if verdict.reached == Reached::Yes {
                verdict.reached = Reached::NotMeasured;
            }
        }
    }
    verdicts
}

/// Goal 6: the memory of a socket and of a connection.
fn memory(idle: Option<&Idle>) -> [Verdict; 2] {
    let socket = idle.and_then(|idle| idle.tap.as_ref()).map(|tap| {
        let bytes = tap.per_socket_bytes();
        let found = format!(
            "{bytes:.0} bytes: {:.0} of maps and {} of storage",
            bytes - tap.storage_bytes as f64,
            tap.storage_bytes
        );
        (found, bytes <= SOCKET_MAX_BYTES)
    });
    let connection = idle.and_then(|idle| idle.of(Variant::ON)).map(|rest| {
        let bytes = rest.bytes_per_connection;
        let found = format!(
            "{:.1} KiB, of {} connections",
            bytes / 1024.0,
            rest.connections
        );
        (found, bytes <= CONNECTION_MAX_BYTES)
    });
    [
        Verdict::new(
            "6",
            "≤ 2 KiB of the kernel's memory per tapped socket",
            socket,
        ),
        Verdict::new(
            "6",
            "≤ 24 KiB resident per idle client connection",
            connection,
        ),
    ]
}

/// What is asked of a calltap with nothing to do.
fn idle(idle: Option<&Idle>) -> [Verdict; 2] {
    let verdict = |asked, pick: fn(&Rest) -> Restlessness| {
        let found = idle.and_then(|idle| idle.of(Variant::ON)).map(|rest| {
            let Restlessness {
                connections,
                core_share,
                wake_ups_per_s,
            } = pick(rest);
            let percent = core_share * 100.0;
            let found = format!(
                "{percent:.3} % and {wake_ups_per_s:.1} a second with {connections} connections"
            );
            (found, percent <= 0.1 && wake_ups_per_s <= 10.0)
        });
        Verdict::new("idle", asked, found)
    };
    [
        verdict("≤ 0.1 % of a core, ≤ 10 wake-ups a second", |rest| {
            rest.alone
        }),
        verdict("the same with idle connections", |rest| {
            rest.with_connections
        }),
    ]
}

/// Whether the median is no more than `limit`, and what it is.
fn at_most(values: &[f64], limit: f64, unit: &str) -> Option<(String, bool)> {
    let estimate = Estimate::of(values)?;
    let found = format!("{} {unit}", shown(estimate, unit == "µs"));
    Some((found, estimate.median <= limit))
}

/// A median and its interval; times to a tenth, ratios to a hundredth.
fn shown(estimate: Estimate, time: bool) -> String {
    let digits = if time { 1 } else { 2 };
    let Estimate {
        median, interval, ..
    } = estimate;
    match interval {
        Some((low, high)) => format!("{median:.digits$} ({low:.digits$} to {high:.digits$})"),
        None => format!("{median:.digits$} (too few rounds for an interval)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::rounds::Cell;

    fn row(costs: &[(Variant, f64)]) -> Found {
        Found {
            row: DEFAULT,
            cells: costs
                .iter()
                .map(|(variant, us)| Cell {
                    used_us: vec![*us; 6],
                    ..Cell::new(*variant)
                })
                .collect(),
            programs: Vec::new(),
        }
    }

    #[test]
    fn goals_are_judged_at_their_limits() {
        let found = row(&[
            (Variant::NGINX_OFF, 18.0),
            (Variant::NGINX_ON, 23.0),
            (Variant::HAPROXY_OFF, 20.0),
            (Variant::HAPROXY_ON, 30.0),
            (Variant::OFF, 29.5),
            (Variant::ON, 34.5),
        ]);
        let reached = |verdicts: Vec<Verdict>| -> Vec<Reached> {
            verdicts.iter().map(|verdict| verdict.reached).collect()
        };
        use Reached::{No, NotMeasured, Yes};
        assert_eq!(reached(added(Some(&found))), [Yes, No, Yes]);
        assert_eq!(reached(total(Some(&found))), [Yes, NotMeasured, No, No]);
        assert_eq!(reached(added(None)), [NotMeasured; 3]);
    }

    #[test]
    fn a_miss_is_said_with_its_figures() {
        let found = row(&[(Variant::OFF, 29.5), (Variant::ON, 40.0)]);
        let text = render(&added(Some(&found)));
        assert!(text.contains("10.5 (10.5 to 10.5) µs"), "{text}");
        assert!(text.contains("not reached"), "{text}");
        assert!(text.contains("not measured"), "{text}");
    }
}
