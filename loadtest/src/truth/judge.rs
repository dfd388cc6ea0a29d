//! Reads evidence and judges it.

use anyhow::{Context as _, ensure};

use super::compare;
use super::evidence::{Evidence, Scene};
use super::permits::Permits;
use super::verdict::{Times, Verdict};
use super::witness::{self, Witness};
use crate::records::{Record, Records};

/// Evidence, read: the captures are dissected once, the records may be judged many times.
pub(crate) struct Case {
    pub(crate) scene: Scene,
    pub(crate) witness: Witness,
    pub(crate) records: Vec<Record>,
    permits: Permits,
}

impl Case {
    pub(crate) fn open(evidence: &Evidence) -> anyhow::Result<Self> {
        let scene = evidence.scene()?;
        ensure!(!scene.asked.is_empty(), "void: nothing was asked");
        let path = evidence.file("records.jsonl");
        let Records { records, bad_lines } =
            Records::read(&path).with_context(|| path.display().to_string())?;
        ensure!(bad_lines.is_empty(), "records that are none: {bad_lines:?}");
        Ok(Self {
            witness: witness::hear(evidence, &scene)?,
            records,
            permits: Permits::read()?,
            scene,
        })
    }

    pub(crate) fn judge(&self, records: &[Record], times: Times) -> Verdict {
        compare::compare(&self.scene, &self.witness, records, &self.permits, times)
    }
}

/// Judges one run.
pub fn judge(evidence: &Evidence) -> anyhow::Result<Verdict> {
    judge_with(evidence, Times::Judged)
}

/// As [`judge()`], but how long things took is not held against the captures where [`Times`] says so.
pub fn judge_with(evidence: &Evidence, times: Times) -> anyhow::Result<Verdict> {
    let case = Case::open(evidence).with_context(|| evidence.directory().display().to_string())?;
    Ok(case.judge(&case.records, times))
}
