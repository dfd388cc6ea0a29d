//! Do the detectors notice attacks, and nothing else?
//!
//! Plays programs that attackers use against a running calltap, among many who mean well, between hosts
//! of its own. What was done, by whom and when is written down by the one who did it, and alerts are held
//! against that. Nothing of it knows how a detector works: it reads alerts as an operator does.
//!
//! In reading order: [`arena`] is the hosts and [`life`] what lives in them; [`http`] is spoken there;
//! [`api`] is attacked by [`kinds`] of events among [`people`], who have [`habits`]; [`stage`] is one run of
//! it; [`alerts`] are read and [`score`]d. Millions of calls of those who mean well are [`made_up`] from
//! real records by [`template`], and [`replay`]ed. [`report`] shows what came of it all; [`chance`] makes it
//! repeatable.

pub mod alerts;
pub mod api;
pub mod arena;
pub mod chance;
pub mod habits;
pub mod http;
pub mod kinds;
pub mod life;
pub mod made_up;
pub mod people;
pub mod replay;
pub mod report;
pub mod score;
pub mod stage;
pub mod template;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::{lab, machine, page};
use kinds::{Intensity, KINDS, Kind};
use report::Outcome;
use stage::{Seen, Wanted};
use template::Templates;

/// Who writes, as the marks in a page say.
pub const BY: &str = "loadtest detect tools";
/// What a short run plays.
const QUICK: [&str; 8] = [
    "slow headers",
    "password list, basic",
    "directories",
    "order ids",
    "flood, unbounded",
    "SYN flood",
    "SQL injection",
    "erring API",
];
/// How long calltap learns before the first attack.
const WARM_UP: Duration = Duration::from_secs(150);
const WARM_UP_QUICK: Duration = Duration::from_secs(45);

/// So many calls are made up.
pub const MADE_UP: u64 = 5_000_000;

/// What was asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Calls to make up and replay; absent: [`MADE_UP`], none where only some kinds are asked for.
    pub calls: Option<u64>,
    /// Only kinds whose name, tool or class contains one of these; empty: all.
    pub only: Vec<String>,
    /// Of the runs; empty: 1, 2 and 3.
    pub seeds: Vec<u64>,
    /// Instead of the usual one.
    pub warm_up: Option<Duration>,
    /// One event of each class, once.
    pub quick: bool,
    /// Where what was seen is kept.
    pub keep: Option<PathBuf>,
}

/// Real records of those who mean well, of the binary `calltap`.
pub fn harvest(calltap: &Path, seed: u64) -> anyhow::Result<Templates> {
    if let Some(reason) = lab::missing() {
        bail!("real records need network namespaces of their own: {reason}");
    }
    eprintln!("gathering real records");
    stage::harvest(calltap, seed)
}

/// Plays what was asked for against the binary `calltap`, and replays what is made up.
pub fn ask(calltap: &Path, asked: Asked) -> anyhow::Result<Outcome> {
    let calls = asked.calls.unwrap_or(match asked.only.is_empty() {
        true => MADE_UP,
        false => 0,
    });
    let replayed = || {
        let templates = harvest(calltap, 1)?;
        eprintln!("replaying {calls} calls");
        replay::replay(calltap, &templates, calls, 1)
    };
    let seen = play(calltap, asked)?;
    Ok(Outcome::of(seen, (calls > 0).then(replayed)))
}

/// Plays what was asked for against the binary `calltap`.
fn play(calltap: &Path, asked: Asked) -> anyhow::Result<Vec<Seen>> {
    if let Some(reason) = lab::missing() {
        bail!("attacks need network namespaces of their own: {reason}");
    }
    let Asked {
        calls: _,
        only,
        seeds,
        warm_up,
        quick,
        keep,
    } = asked;
    let is_asked = |kind: &&Kind| {
        let words = [kind.name, kind.tool, kind.class.word()];
        match only.is_empty() {
            true => !quick || QUICK.contains(&kind.name),
            false => only
                .iter()
                .any(|only| words.iter().any(|word| word.contains(only.as_str()))),
        }
    };
    let kinds: Vec<&Kind> = KINDS.iter().filter(is_asked).collect();
    ensure!(
        !kinds.is_empty(),
        "no event is called so; `--list` names them"
    );
    let missing = kinds::missing(&kinds);
    ensure!(
        missing.is_empty(),
        "not installed: {}; `scripts/bootstrap --detect` installs them",
        missing.join(", ")
    );
    let wanted = Wanted {
        calltap,
        kinds,
        intensities: match quick {
            true => vec![Intensity::High],
            false => Intensity::ALL.to_vec(),
        },
        warm_up: warm_up.unwrap_or(if quick { WARM_UP_QUICK } else { WARM_UP }),
        upheavals: !quick,
        keep,
    };
    let seeds = match (seeds.is_empty(), quick) {
        (false, _) => seeds,
        (true, true) => vec![1],
        (true, false) => vec![1, 2, 3],
    };
    seeds
        .into_iter()
        .map(|seed| stage::play(&wanted, seed))
        .collect()
}

/// What an earlier run kept below `directory`.
pub fn kept(directory: &Path) -> anyhow::Result<Vec<Seen>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let file = entry?.path().join(stage::SEEN);
        if file.is_file() {
            let text = fs::read(&file)?;
            let seen = serde_json::from_slice(&text);
            runs.push(seen.with_context(|| file.display().to_string())?);
        }
    }
    ensure!(
        !runs.is_empty(),
        "no run was kept in {}",
        directory.display()
    );
    runs.sort_by_key(|seen: &Seen| seen.seed);
    Ok(runs)
}

/// Writes what was found into a page.
pub fn write(path: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    let (today, kernel) = (machine::date()?, machine::kernel());
    let text = format!("On {today}, on Linux {kernel}:\n\n{}", outcome.render());
    page::write(path, BY, &text)
}
