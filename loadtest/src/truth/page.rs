//! What `docs/truth.md` says of verdicts and of altered records, and when that was found.

use std::collections::HashSet;
use std::path::Path;

use super::mutate::{self, Caught};
use super::report;
use super::scenes::SCENARIOS;
use super::verdict::Verdict;
use crate::machine;
use crate::page;
use crate::table;

/// Who writes verdicts, as the marks in a page say.
pub const VERDICTS: &str = "loadtest truth";
/// Who writes what came of altering records.
pub const CAUGHT: &str = "loadtest truth --mutate";

/// Writes verdicts into a page. `failed` are runs that could not be judged.
pub fn write_verdicts(path: &Path, verdicts: &[Verdict], failed: &[String]) -> anyhow::Result<()> {
    let text = found(verdicts, failed, &machine::date()?, &machine::kernel());
    page::write(path, VERDICTS, &text)
}

/// Writes into a page what came of altering records. `failed` are runs whose records could not be.
pub fn write_caught(path: &Path, all: &[Caught], failed: &[String]) -> anyhow::Result<()> {
    let text = caught(all, failed, &machine::date()?);
    page::write(path, CAUGHT, &text)
}

fn found(verdicts: &[Verdict], failed: &[String], today: &str, kernel: &str) -> String {
    let calls: u64 = verdicts.iter().map(|verdict| verdict.calls).sum();
    let held = verdicts.iter().filter(|verdict| verdict.held()).count();
    let runs = verdicts.len() + failed.len();
    let mut text = format!(
        "On {today}, on Linux {kernel}: {held} of {runs} runs agree in everything, {calls} calls in \
         all.\n\n\
         ### What is played\n\n"
    );
    let rows: Vec<Vec<String>> = SCENARIOS
        .iter()
        .map(|scenario| vec![scenario.name.to_owned(), scenario.about.to_owned()])
        .collect();
    text += &table::markdown(&["scenario", "what happens"], &rows);
    text += "\n### What was found\n\n";
    text += &report::render(verdicts);
    for failure in failed {
        text += &format!("\nNot judged: {failure}\n");
    }
    text
}

fn caught(all: &[Caught], failed: &[String], today: &str) -> String {
    let tried: usize = all.iter().map(|one| one.tried).sum();
    let caught: usize = all.iter().map(|one| one.caught).sum();
    let runs: HashSet<&str> = all.iter().map(|one| one.scenario.as_str()).collect();
    let mut text = format!(
        "On {today}: {caught} of {tried} altered records were noticed, in {} runs.\n\n",
        runs.len()
    );
    text += &mutate::render_summary(all);
    let never = mutate::never_tried(all);
    if !never.is_empty() {
        text += &format!("\nNo record allowed these: {}.\n", never.join("; "));
    }
    for failure in failed {
        text += &format!("\nNot altered: {failure}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_failed_is_on_the_page_and_counts() {
        let failed = ["keep-alive v4: void".to_owned()];
        let page = found(&[], &failed, "2026-01-02", "6.1.0");
        assert!(page.contains("On 2026-01-02, on Linux 6.1.0: 0 of 1 runs agree"));
        assert!(page.contains("Not judged: keep-alive v4: void"));
    }

    #[test]
    fn ways_of_altering_are_summed_over_runs() {
        let one = |scenario: &str, caught| Caught {
            scenario: scenario.into(),
            mutation: "a record missing".into(),
            tried: 5,
            caught,
        };
        let all = [one("loss-2 v4", 5), one("loss-2 v6", 4)];
        let page = caught(&all, &["keep-alive v4: void".into()], "2026-01-02");
        assert!(page.contains("On 2026-01-02: 9 of 10 altered records were noticed, in 2 runs."));
        assert!(page.contains("9/10"), "{page}");
        assert!(page.contains("loss-2 v6"), "{page}");
        assert!(page.contains("No record allowed these: "), "{page}");
        assert!(page.contains("Not altered: keep-alive v4: void"), "{page}");
    }
}
