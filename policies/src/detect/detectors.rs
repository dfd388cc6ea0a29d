//! Every detector over finished calls, asked in turn.

use calltap_correlate::record::CallRecord;

use crate::alert::Alerts;

/// The detectors over finished calls, with what they have learned.
#[derive(Debug, Default)]
pub struct Detectors {}

impl Detectors {
    /// Shows them a finished record, before anything of it is redacted. What is unusual is added to its
    /// `findings` and raised in `alerts`.
    pub fn observe(&mut self, _record: &mut CallRecord, _alerts: &mut Alerts, _now_ns: u64) {}

    /// Lets those that look at stretches of time look, at most once a second.
    pub fn tick(&mut self, _alerts: &mut Alerts, _now_ns: u64) {}
}
