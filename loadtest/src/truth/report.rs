//! Verdicts as tables.

use std::collections::BTreeMap;

use super::run::family_name;
use super::verdict::{Group, Miss, Verdict};
use crate::table;

/// So many disagreements of one kind are told in full.
const SHOWN_OF_A_KIND: usize = 3;

/// All verdicts, for people.
pub fn render(verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    out +=
        "Calls that agree with the capture, of calls whose records could be held against it:\n\n";
    out += &agreement(verdicts);
    out += "\nHow records say their facts are to be trusted, and what was sent again on each leg\n";
    out +=
        "(by a timeout, on duplicate acknowledgements, as a probe of the tail, in their wake):\n\n";
    out += &attribution(verdicts);
    out += "\nHow far marks are from the packets they are about, µs (half of the calls / 99 of 100 /\n";
    out += "the furthest), and what two captures of the same packets differ by (half / 99 of 100):\n\n";
    out += &marks(verdicts);
    let misses = misses(verdicts);
    if !misses.is_empty() {
        out += "\nDisagreements:\n\n";
        out += &misses;
    }
    out
}

fn name(verdict: &Verdict) -> String {
    format!("{} {}", verdict.scenario, family_name(verdict.family))
}

fn agreement(verdicts: &[Verdict]) -> String {
    let mut head = vec!["scenario"];
    head.extend(Group::ALL.map(Group::name));
    let rows: Vec<Vec<String>> = verdicts
        .iter()
        .map(|verdict| {
            let mut row = vec![name(verdict)];
            row.extend(Group::ALL.map(|group| {
                let share = verdict.groups.get(&group);
                share.map_or("-".to_owned(), |share| {
                    format!("{}/{}", share.agreed, share.of)
                })
            }));
            row
        })
        .collect();
    table::markdown(&head, &rows)
}

fn attribution(verdicts: &[Verdict]) -> String {
    let of = |verdict: &Verdict, leg: &str| {
        let mine = verdict.attribution.iter();
        let mine = mine.filter_map(|(key, count)| Some((key.strip_prefix(leg)?, count)));
        mine.map(|(key, count)| format!("{count}{key}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let rows: Vec<Vec<String>> = verdicts
        .iter()
        .map(|verdict| {
            let (front, back) = (&verdict.losses_front, &verdict.losses_back);
            let losses = |losses: &super::derive::Losses| {
                format!(
                    "{} / {} / {} / {}",
                    losses.rto, losses.fast, losses.tail, losses.following
                )
            };
            vec![
                name(verdict),
                of(verdict, "client"),
                of(verdict, "upstream"),
                losses(front),
                losses(back),
            ]
        })
        .collect();
    table::markdown(
        &[
            "scenario",
            "client",
            "upstream",
            "again to clients",
            "again to upstreams",
        ],
        &rows,
    )
}

fn marks(verdicts: &[Verdict]) -> String {
    let mut rows = Vec::new();
    for verdict in verdicts {
        for (mark, times) in &verdict.marks {
            rows.push(vec![
                name(verdict),
                mark.clone(),
                times.calls.to_string(),
                format!(
                    "{:.1} / {:.1} / {:.1}",
                    times.p50_us, times.p99_us, times.max_us
                ),
                format!(
                    "{:.1} / {:.1}",
                    times.captures_p50_us, times.captures_p99_us
                ),
            ]);
        }
    }
    table::markdown(&["scenario", "mark", "calls", "mark", "captures"], &rows)
}

fn misses(verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    for verdict in verdicts {
        let mut kinds: BTreeMap<&str, Vec<&Miss>> = BTreeMap::new();
        for miss in &verdict.misses {
            kinds.entry(&miss.field).or_default().push(miss);
        }
        for (field, misses) in kinds {
            out += &format!("- {}: `{field}`, {} times\n", name(verdict), misses.len());
            for miss in misses.iter().take(SHOWN_OF_A_KIND) {
                out += &format!(
                    "  - call {}: the record says {}, the capture {}",
                    miss.call, miss.record, miss.capture
                );
                if !miss.packets.is_empty() {
                    out += &format!(" ({})", miss.packets);
                }
                out.push('\n');
            }
        }
    }
    out
}
