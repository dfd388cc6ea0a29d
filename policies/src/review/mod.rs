//! The finished record: whether it is kept, and what of it.

mod secrets;

use calltap_correlate::record::CallRecord;

pub use secrets::{REDACTED, Secrets};

/// Keeps, samples and redacts finished records.
#[derive(Debug, Default)]
pub struct Review {}

impl Review {
    /// Changes a finished record, and says whether it is kept: `false` means that policy filtered or
    /// sampled it away.
    pub fn keeps(&mut self, _record: &mut CallRecord, _now_ns: u64) -> bool {
        true
    }
}
