//! `docs/truth.md`: verdicts as a page, with what they are about and when they were found.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::report;
use super::scenes::SCENARIOS;
use super::verdict::Verdict;
use crate::machine;
use crate::table;

/// Writes the page. `failed` are runs that could not be judged.
pub fn write(path: &Path, verdicts: &[Verdict], failed: &[String]) -> anyhow::Result<()> {
    let page = page(verdicts, failed, &machine::date()?, &machine::kernel());
    fs::write(path, page).with_context(|| path.display().to_string())
}

fn page(verdicts: &[Verdict], failed: &[String], today: &str, kernel: &str) -> String {
    let calls: u64 = verdicts.iter().map(|verdict| verdict.calls).sum();
    let held = verdicts.iter().filter(|verdict| verdict.held()).count();
    let runs = verdicts.len() + failed.len();
    let mut page = format!(
        "# Do records agree with packet captures?\n\n\
         <!-- Written by `loadtest truth --write`; `make truth` does so. -->\n\n\
         On {today}, on Linux {kernel}: {held} of {runs} runs agree in everything, {calls} calls in \
         all.\n\n\
         Each run plays one scenario with one kind of addresses (IPv4, IPv6, or IPv4 on a listener \
         on `[::]`) between five hosts of its own. `tcpdump` listens on both of the gateway's \
         cables, at both ends; a packet that a capture lost makes the run void. From the captures \
         alone every field of every record is derived anew and compared.\n\n\
         Captures are stamped by the kernel with `CLOCK_REALTIME`. A record's marks are offsets on \
         `CLOCK_MONOTONIC` from the first one, whose wall time is its `timestamp`: calltap adds the \
         difference of the two clocks, which it reads anew every second. So a mark's wall \
         time is `timestamp` and its offset, held against the packet's stamp as it is: what the \
         clocks differ by is part of how far off a mark may be. A packet that arrives is captured before \
         the tap sees it, and one that leaves is captured after. `up_sent_*` and `resp_*` are the \
         moments at which the bytes were handed to the queue.\n\n\
         ## What is played\n\n"
    );
    let rows: Vec<Vec<String>> = SCENARIOS
        .iter()
        .map(|scenario| vec![scenario.name.to_owned(), scenario.about.to_owned()])
        .collect();
    page += &table::markdown(&["scenario", "what happens"], &rows);
    page += "\n## What was found\n\n";
    page += &report::render(verdicts);
    for failure in failed {
        page += &format!("\nNot judged: {failure}\n");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_failed_is_on_the_page_and_counts() {
        let failed = ["keep-alive v4: void".to_owned()];
        let page = page(&[], &failed, "2026-01-02", "6.1.0");
        assert!(page.contains("On 2026-01-02, on Linux 6.1.0: 0 of 1 runs agree"));
        assert!(page.contains("Not judged: keep-alive v4: void"));
    }
}
