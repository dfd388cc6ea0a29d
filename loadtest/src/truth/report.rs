//! Verdicts as tables.

use std::collections::BTreeMap;

use super::run::family_name;
use super::verdict::{Group, MarkTimes, Miss, Tally, Verdict};
use crate::table;

/// So many disagreements of one kind are told in full.
const SHOWN_OF_A_KIND: usize = 3;

/// All verdicts, for people.
pub fn render(verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    out +=
        "Calls that agree with the capture, of calls whose records could be held against it:\n\n";
    out += &agreement(verdicts);
    out += "\nThe same by field, over all runs. A field is absent where a record may leave it out (the\n";
    out += "leg is partial, or nothing of the kind happened), and not derived where a capture does not\n";
    out += "tell:\n\n";
    out += &fields(verdicts);
    out += "\nHow records say their facts are to be trusted, and what was sent again on each leg\n";
    out +=
        "(by a timeout, on duplicate acknowledgements, as a probe of the tail, in their wake):\n\n";
    out += &attribution(verdicts);
    out +=
        "\nHow far marks are from the packets they are about, and what two captures of the same\n";
    out += "packets differ by, µs: in the middle one of the runs / in the worst:\n\n";
    out += &marks(verdicts);
    for (title, of) in [
        (
            "Disagreements",
            (|verdict| &verdict.misses) as fn(&Verdict) -> &Vec<Miss>,
        ),
        (
            "Marks that were far off in single calls, as they are when the host is held up between a \
             capture and the tap",
            |verdict| &verdict.held_up,
        ),
    ] {
        let told = misses(verdicts, of);
        if !told.is_empty() {
            out += &format!("\n{title}:\n\n{told}");
        }
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

fn fields(verdicts: &[Verdict]) -> String {
    let mut by_field: BTreeMap<&str, Tally> = BTreeMap::new();
    for (field, tally) in verdicts.iter().flat_map(|verdict| &verdict.fields) {
        by_field.entry(field).or_default().add(tally);
    }
    let rows: Vec<Vec<String>> = by_field
        .into_iter()
        .map(|(field, tally)| {
            let counts = [tally.agreed, tally.missed, tally.absent, tally.underivable];
            let counts = counts.map(|count| count.to_string());
            [format!("`{field}`")].into_iter().chain(counts).collect()
        })
        .collect();
    table::markdown(
        &["field", "agreed", "missed", "absent", "not derived"],
        &rows,
    )
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

/// One row a mark, over all runs: no run is further off than that.
fn marks(verdicts: &[Verdict]) -> String {
    let mut by_mark: BTreeMap<&str, Vec<&MarkTimes>> = BTreeMap::new();
    for verdict in verdicts {
        for (mark, times) in &verdict.marks {
            by_mark.entry(mark).or_default().push(times);
        }
    }
    let mut rows = Vec::new();
    for (mark, runs) in by_mark {
        let calls: u64 = runs.iter().map(|times| times.calls).sum();
        let middle_and_most = |of: &dyn Fn(&MarkTimes) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(|times| of(times)).collect();
            all.sort_by(f64::total_cmp);
            let most = all.last().copied().unwrap_or_default();
            format!("{:.1} / {most:.1}", all[all.len() / 2])
        };
        rows.push(vec![
            mark.to_owned(),
            runs.len().to_string(),
            calls.to_string(),
            middle_and_most(&|times| times.p50_us),
            middle_and_most(&|times| times.p99_us),
            middle_and_most(&|times| times.captures_p50_us),
            middle_and_most(&|times| times.captures_p99_us),
        ]);
    }
    let head = [
        "mark",
        "runs",
        "calls",
        "p50",
        "p99",
        "captures' p50",
        "captures' p99",
    ];
    table::markdown(&head, &rows)
}

fn misses(verdicts: &[Verdict], of: fn(&Verdict) -> &Vec<Miss>) -> String {
    let mut out = String::new();
    for verdict in verdicts {
        let mut kinds: BTreeMap<&str, Vec<&Miss>> = BTreeMap::new();
        for miss in of(verdict) {
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
