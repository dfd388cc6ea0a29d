//! Plays scenarios one by one and has each judged.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cleanup::Scratch;
use crate::lab;
use crate::truth::evidence::{Evidence, Family};
use crate::truth::scenes::{SCENARIOS, Scenario};
use crate::truth::stage::{self, Part};

/// What to play.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only scenarios of these names; all where there are none.
    pub only: Vec<String>,
    /// Only with these addresses; all where there are none.
    pub families: Vec<Family>,
    /// Calls for each scenario and family, at least.
    pub calls: usize,
    /// Repeats a run.
    pub seed: u64,
    /// Where the evidence stays.
    pub keep: Option<PathBuf>,
}

/// The scenarios that are wanted. A name that is none is a mistake.
pub fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    for name in only {
        ensure!(
            SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name}"
        );
    }
    Ok(SCENARIOS
        .iter()
        .filter(|scenario| only.is_empty() || only.iter().any(|name| name == scenario.name))
        .collect())
}

/// Plays what is wanted and shows each evidence to `judge`.
pub fn play(
    wanted: &Wanted,
    calltap: &Path,
    mut judge: impl FnMut(&Scenario, Family, anyhow::Result<Evidence>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(reason) = lab::missing() {
        anyhow::bail!("scenarios need network namespaces of their own: {reason}");
    }
    lift_files_limit()?;
    for scenario in chosen(&wanted.only)? {
        for family in scenario.families {
            if !wanted.families.is_empty() && !wanted.families.contains(family) {
                continue;
            }
            let scratch;
            let name = format!("{}-{}", scenario.name, family_name(*family));
            let directory = match &wanted.keep {
                Some(keep) => keep.join(&name),
                None => {
                    scratch = Scratch::new("calltap-truth-")?;
                    scratch.path().to_owned()
                }
            };
            let part = Part {
                scenario: scenario.name,
                family: *family,
                calls: wanted.calls,
                seed: wanted.seed,
                setting: (scenario.setting)(),
                play: &scenario.play,
            };
            let evidence = stage::perform(&part, calltap, &directory).context(name);
            judge(scenario, *family, evidence)?;
        }
    }
    Ok(())
}

/// Thousands of connections need as many files, of ours and of calltap, which inherits the limit.
fn lift_files_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .context("cannot lift the limit of open files")
}

/// As in names of directories.
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
        Family::Mapped => "mapped",
    }
}
