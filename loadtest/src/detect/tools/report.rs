//! What a run found, in tables, and whether the goals are reached.

use std::collections::BTreeMap;

use serde::Serialize;

use super::kinds::{Class, Intensity, KINDS};
use super::replay::Replayed;
use super::score::{self, Found, Score, Tally};
use super::stage::Seen;
use crate::table;

/// Of all events, so many are found.
const RECALL_MIN: f64 = 0.95;
/// So many false alerts in a million calls of those who mean well.
const FALSE_MAX: f64 = 1.0;
/// Median delay of floods and scans, and of slow attacks, µs.
const FAST_US: u64 = 5_000_000;
const SLOW_US: u64 = 30_000_000;
/// False alerts that are listed one by one.
const SHOWN_MAX: usize = 40;

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Outcome {
    #[serde(skip)]
    runs: Vec<(Seen, Score)>,
    replayed: Option<Replayed>,
    /// By kind and intensity.
    #[serde(skip)]
    tallies: BTreeMap<(String, String), Tally>,
    by_class: BTreeMap<String, Tally>,
    total: Tally,
    fast: Tally,
    slow: Tally,
    benign: u64,
    wrong: u64,
    consequences: usize,
    beside: usize,
    failures: Vec<String>,
}

impl Outcome {
    /// Scores runs.
    pub fn of(seen: Vec<Seen>, replayed: Option<anyhow::Result<Replayed>>) -> Self {
        let runs: Vec<(Seen, Score)> = seen
            .into_iter()
            .map(|seen| {
                let score = score::score(&seen.events, &seen.sightings);
                (seen, score)
            })
            .collect();
        let mut outcome = Self {
            tallies: BTreeMap::new(),
            by_class: BTreeMap::new(),
            total: Tally::default(),
            fast: Tally::default(),
            slow: Tally::default(),
            benign: 0,
            wrong: 0,
            consequences: 0,
            beside: 0,
            failures: Vec::new(),
            runs: Vec::new(),
            replayed: None,
        };
        match replayed {
            Some(Ok(replayed)) => outcome.replayed = Some(replayed),
            Some(Err(error)) => outcome.failures.push(format!("no replay: {error:#}")),
            None => {}
        }
        for (seen, score) in &runs {
            for (event, found) in seen.events.iter().zip(&score.found) {
                let key = (event.kind.clone(), event.intensity.clone());
                outcome.add(key, &event.class, found.as_ref());
            }
            outcome.benign += seen.benign;
            outcome.wrong += score.wrong.len() as u64;
            outcome.consequences += score.consequences.len();
            outcome.beside += score.beside;
            let named = |failure: &String| format!("seed {}: {failure}", seen.seed);
            outcome.failures.extend(seen.failures.iter().map(named));
        }
        if let Some(replayed) = &outcome.replayed {
            outcome.benign += replayed.calls;
            outcome.wrong += replayed.wrong.values().sum::<u64>();
        }
        outcome.runs = runs;
        outcome
    }

    fn add(&mut self, key: (String, String), class: &str, found: Option<&Found>) {
        self.tallies.entry(key).or_default().add(found);
        self.by_class
            .entry(class.to_owned())
            .or_default()
            .add(found);
        self.total.add(found);
        match class {
            "flood" | "scan" => self.fast.add(found),
            "slow" => self.slow.add(found),
            _ => {}
        }
    }

    fn wrong_per_million(&self) -> f64 {
        self.wrong as f64 * 1e6 / self.benign as f64
    }

    /// Every goal is reached, and everything that was to be done could be.
    pub fn reached(&self) -> bool {
        self.failures.is_empty() && self.goals().iter().all(|goal| goal.reached)
    }

    fn goals(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        if self.total.events > 0 {
            goals.push(Goal {
                what: "events found",
                is: format!("{:.3}", self.total.recall()),
                at: format!("at least {RECALL_MIN}"),
                reached: self.total.recall() >= RECALL_MIN,
            });
        }
        for (what, tally, at_us) in [
            ("median delay, floods and scans", &self.fast, FAST_US),
            ("median delay, slow attacks", &self.slow, SLOW_US),
        ] {
            if tally.events > 0 {
                goals.push(Goal {
                    what,
                    is: median(tally),
                    at: format!("at most {} s", at_us / 1_000_000),
                    reached: tally.median_us().is_some_and(|median| median <= at_us),
                });
            }
        }
        if self.benign > 0 {
            goals.push(Goal {
                what: "false alerts in a million calls",
                is: format!("{:.2}", self.wrong_per_million()),
                at: format!("at most {FALSE_MAX}"),
                reached: self.wrong_per_million() <= FALSE_MAX,
            });
        }
        goals
    }

    /// All of it, in tables.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let goals = self.goals();
        let rows: Vec<Vec<String>> = goals.into_iter().map(Goal::row).collect();
        text += &table::markdown(&["goal", "is", "shall be", "reached"], &rows);
        text += "\n";
        if self.total.events > 0 {
            text += &self.by_class();
            text += "\n";
            text += &self.by_kind();
            text += "\n";
        }
        text += &self.said();
        text += &self.false_alerts();
        for failure in &self.failures {
            text += &format!("\nFailed: {failure}\n");
        }
        text
    }

    fn by_class(&self) -> String {
        let mut rows = Vec::new();
        for class in Class::ALL {
            if let Some(tally) = self.by_class.get(class.word()) {
                rows.push(vec![
                    class.word().to_owned(),
                    tally.events.to_string(),
                    tally.found.to_string(),
                    format!("{:.2}", tally.recall()),
                    median(tally),
                ]);
            }
        }
        let head = ["class", "events", "found", "share", "median delay"];
        table::markdown(&head, &rows)
    }

    fn by_kind(&self) -> String {
        let mut rows = Vec::new();
        for kind in KINDS {
            let of = |intensity: Intensity| {
                self.tallies
                    .get(&(kind.name.to_owned(), intensity.word().to_owned()))
            };
            if Intensity::ALL
                .iter()
                .all(|intensity| of(*intensity).is_none())
            {
                continue;
            }
            let mut row = vec![kind.name.to_owned(), kind.tool.to_owned()];
            let mut by = BTreeMap::<&str, usize>::new();
            for intensity in Intensity::ALL {
                row.push(of(intensity).map_or("-".to_owned(), cell));
                for (detector, count) in of(intensity).iter().flat_map(|tally| &tally.by) {
                    *by.entry(detector).or_default() += count;
                }
            }
            let mut by: Vec<(&str, usize)> = by.into_iter().collect();
            by.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let by: Vec<&str> = by.into_iter().map(|(detector, _)| detector).collect();
            row.push(by.join(", "));
            rows.push(row);
        }
        let head = ["event", "tool", "low", "middle", "high", "first found by"];
        table::markdown(&head, &rows)
    }

    fn said(&self) -> String {
        let hostile: u64 = self.runs.iter().map(|(seen, _)| seen.hostile).sum();
        let unanswered: u64 = self.runs.iter().map(|(seen, _)| seen.unanswered).sum();
        let replayed = self.replayed.as_ref().map_or(0, |replayed| replayed.calls);
        let mut text = String::new();
        if !self.runs.is_empty() {
            text += &format!(
                "{} events in {} runs among {} calls of those who mean well ({unanswered} of them got no \
                 answer; attackers made {hostile}). ",
                self.total.events,
                self.runs.len(),
                self.benign - replayed,
            );
        }
        if let Some(replayed) = &self.replayed {
            let keys: Vec<String> = replayed
                .bytes_per_key
                .iter()
                .map(|(what, bytes)| format!("{bytes} bytes for each of the {what}"))
                .collect();
            text += &format!(
                "{} calls of {:.1} days were made up from real records and replayed; policies took {:.0} ns of \
                 each, detectors keep {}, and the process held {} MiB at most. ",
                replayed.calls,
                replayed.days,
                replayed.policies_ns,
                keys.join(", "),
                replayed.memory_kib / 1024
            );
        }
        text += &format!(
            "{} alerts were false, {} said of routes that nobody attacked what a busy machine made true, and \
             {} more were about an attacker or its target without finding the event.\n",
            self.wrong, self.consequences, self.beside
        );
        text
    }

    fn false_alerts(&self) -> String {
        let mut by = BTreeMap::<(String, String), u64>::new();
        let mut shown = Vec::new();
        for (seen, score) in &self.runs {
            for wrong in &score.wrong {
                *by.entry((wrong.detector.clone(), wrong.subject.kind.clone()))
                    .or_default() += 1;
                if shown.len() < SHOWN_MAX {
                    shown.push(format!(
                        "- seed {}, {}: {} about {} {}: {}\n",
                        seen.seed,
                        super::alerts::rfc3339(wrong.at_us),
                        wrong.detector,
                        wrong.subject.kind,
                        wrong.subject.name,
                        wrong.summary
                    ));
                }
            }
        }
        if let Some(replayed) = &self.replayed {
            let told = replayed.told.iter();
            shown.extend(told.map(|told| format!("- replayed, {told}\n")));
            for (detector, count) in &replayed.wrong {
                *by.entry((detector.clone(), "replayed".to_owned()))
                    .or_default() += count;
            }
        }
        if by.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = by
            .into_iter()
            .map(|((detector, subject), count)| vec![detector, subject, count.to_string()])
            .collect();
        let table = table::markdown(&["false alerts of", "about", "how many"], &rows);
        format!("\n{table}\n{}", shown.concat())
    }
}

struct Goal {
    what: &'static str,
    is: String,
    at: String,
    reached: bool,
}

impl Goal {
    fn row(self) -> Vec<String> {
        let reached = if self.reached { "yes" } else { "no" };
        vec![self.what.to_owned(), self.is, self.at, reached.to_owned()]
    }
}

fn median(tally: &Tally) -> String {
    seconds(tally.median_us())
}

fn seconds(us: Option<u64>) -> String {
    us.map_or("never".to_owned(), |us| format!("{:.1} s", us as f64 / 1e6))
}

/// `2/3, 1.4 s`
fn cell(tally: &Tally) -> String {
    let middle = tally.delays_us.get(tally.delays_us.len() / 2);
    match middle {
        Some(us) => format!("{}/{}, {}", tally.found, tally.events, seconds(Some(*us))),
        None => format!("0/{}", tally.events),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(found: bool, wrong: bool, benign: u64) -> Seen {
        let event = serde_json::json!({
            "kind": "directories", "class": "scan", "intensity": "low", "seed": 1, "tool": "gobuster",
            "sources": ["198.19.64.9"], "forged": false, "consumers": [], "routes": [], "unrouted": true,
            "ports": [8080], "detectors": ["unknown_paths"], "shakes": false,
            "start_us": 5_000_000, "end_us": 9_000_000, "ended": "",
        });
        let sighting = |name: &str| {
            serde_json::json!({
                "at_us": 6_500_000, "opened": true, "id": name, "detector": "unknown_paths",
                "subject": {"kind": "client", "name": name}, "summary": "many paths",
            })
        };
        let mut sightings = Vec::new();
        if found {
            sightings.push(sighting("198.19.64.9"));
        }
        if wrong {
            sightings.push(sighting("198.18.80.1"));
        }
        let of = |value| serde_json::from_value(value).unwrap();
        Seen {
            seed: 1,
            events: vec![serde_json::from_value(event).unwrap()],
            sightings: sightings.into_iter().map(of).collect(),
            benign,
            ..Seen::default()
        }
    }

    #[test]
    fn goals_are_reached_by_those_who_find_everything_and_nothing_else() {
        assert!(Outcome::of(vec![seen(true, false, 10)], None).reached());
        assert!(Outcome::of(vec![seen(true, true, 1_000_000)], None).reached());
        assert!(!Outcome::of(vec![seen(true, true, 999_999)], None).reached());
        assert!(!Outcome::of(vec![seen(false, false, 10)], None).reached());
        let mut failed = seen(true, false, 10);
        failed.failures.push("no alerts can be read".to_owned());
        assert!(!Outcome::of(vec![failed], None).reached());
    }

    #[test]
    fn replayed_calls_count_and_so_do_their_alerts() {
        let replayed = |wrong| Replayed {
            calls: 2_000_000,
            wrong: BTreeMap::from([("route_rate".to_owned(), wrong)]),
            ..Replayed::default()
        };
        assert!(Outcome::of(vec![seen(true, false, 0)], Some(Ok(replayed(2)))).reached());
        assert!(!Outcome::of(vec![seen(true, false, 0)], Some(Ok(replayed(3)))).reached());
    }

    #[test]
    fn tables_say_what_was_found() {
        let text = Outcome::of(vec![seen(true, true, 10)], None).render();
        assert!(text.contains("1/1, 1.5 s"), "{text}");
        assert!(
            text.contains("unknown_paths about client 198.18.80.1: many paths"),
            "{text}"
        );
        assert!(text.contains("100000.00"), "{text}");
        let text = Outcome::of(vec![seen(false, false, 10)], None).render();
        assert!(text.contains("never"), "{text}");
    }
}
