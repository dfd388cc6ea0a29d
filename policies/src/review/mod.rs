//! The finished record: whether it is kept, and what of it.
//!
//! Rules in order, each with a condition over every field of the record ([`AT_REVIEW`]). The first that
//! keeps, drops or samples ends it; one that redacts does not. A record that no rule ends is kept.
//! Conditions see the record as it was, whatever rules before them hide.
//!
//! Sampling decides by the trace id as OpenTelemetry's consistent probability sampling does
//! (<https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>): its last 56 bits
//! are held against a threshold. So all gateways that a trace passes decide alike, and what one of
//! them keeps at one in a hundred another keeps at one in ten.

mod facts;
mod redact;
mod secrets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use calltap_correlate::exchange::Text;
use calltap_correlate::record::CallRecord;

use crate::admit::OnError;
use crate::expression::Condition;

pub use facts::AT_REVIEW;
pub use redact::{Redact, Unredactable};
pub use secrets::{REDACTED, Secrets};

/// Keeps, samples and redacts finished records.
#[derive(Clone, Debug, Default)]
pub struct Review {
    /// By these rules. They may be exchanged at any time: nothing is remembered between two records.
    pub rules: Arc<RecordRules>,
    /// Fields are hidden from every reader of records, and what may repeat them in words is to be, too.
    pub hides_words: bool,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes to every sink.
    Kept,
    /// A rule dropped it.
    Filtered,
    /// Sampling left it out.
    Sampled,
}

/// One rule.
#[derive(Debug)]
pub struct RecordRule {
    /// Its name, in records and metrics.
    pub name: String,
    /// When it applies.
    pub when: Condition,
    /// What it does then.
    pub then: ThenRecord,
    /// It only says what it would do.
    pub dry_run: bool,
    /// What to make of a condition without an answer.
    pub on_error: OnError,
}

/// What a rule does with a record.
#[derive(Debug)]
pub enum ThenRecord {
    /// Ends it: the record is kept.
    Keep,
    /// Ends it: the record is not kept.
    Drop,
    /// Ends it: one in so many is kept, and every record of an error or of a slow call.
    Sample {
        /// At least 1.
        one_in: u32,
        /// A call that took so long is slow, µs.
        slow_us: u64,
    },
    /// Hides parts of it.
    Redact(Redact),
}

/// Rules in order, with what became of them.
#[derive(Debug, Default)]
pub struct RecordRules {
    rules: Vec<(RecordRule, Arc<Tally>)>,
}

#[derive(Debug)]
struct Tally {
    /// What `policy.matched` says of the rule.
    mark: String,
    applied: AtomicU64,
    left_out: AtomicU64,
    unanswered: AtomicU64,
}

/// How often a rule did what, since it was first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordCount<'r> {
    /// The rule.
    pub rule: &'r str,
    /// What it does: `keep`, `drop`, `sample`, `redact`.
    pub action: &'static str,
    /// It only says so.
    pub dry_run: bool,
    /// Records that it decided about or redacted, or would have.
    pub applied: u64,
    /// Those among them that it dropped or left out, or would have.
    pub left_out: u64,
    /// Records of which its condition could not tell.
    pub unanswered: u64,
}

impl ThenRecord {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::Sample { .. } => "sample",
            Self::Redact(_) => "redact",
        }
    }
}

impl Review {
    /// Changes a finished record, and says what becomes of it.
    pub fn judge(&self, record: &mut CallRecord) -> Fate {
        let fate = self.rules.judge(record);
        if self.hides_words && fate == Fate::Kept {
            redact::hide_words(record);
        }
        fate
    }
}

impl RecordRules {
    /// These, in this order.
    pub fn new(rules: Vec<RecordRule>) -> Self {
        let tally = |rule: &RecordRule| {
            let dry_run = if rule.dry_run { ":dry_run" } else { "" };
            Tally {
                mark: format!("{}:{}{dry_run}", rule.name, rule.then.word()),
                applied: AtomicU64::new(0),
                left_out: AtomicU64::new(0),
                unanswered: AtomicU64::new(0),
            }
        };
        let rules = rules.into_iter().map(|rule| {
            let tally = Arc::new(tally(&rule));
            (rule, tally)
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// What rules of `before` did that are called the same and do the same stays counted.
    pub fn continue_from(&mut self, before: &Self) {
        for (_, tally) in &mut self.rules {
            let same = before
                .rules
                .iter()
                .find(|(_, other)| other.mark == tally.mark);
            if let Some((_, same)) = same {
                *tally = Arc::clone(same);
            }
        }
    }

    /// How often each did what.
    pub fn counts(&self) -> impl Iterator<Item = RecordCount<'_>> {
        self.rules.iter().map(|(rule, tally)| RecordCount {
            rule: &rule.name,
            action: rule.then.word(),
            dry_run: rule.dry_run,
            applied: tally.applied.load(Relaxed),
            left_out: tally.left_out.load(Relaxed),
            unanswered: tally.unanswered.load(Relaxed),
        })
    }

    fn judge(&self, record: &mut CallRecord) -> Fate {
        let mut hidden: Vec<&Redact> = Vec::new();
        let mut fate = Fate::Kept;
        for (rule, tally) in &self.rules {
            let applies = rule.when.holds(record).unwrap_or_else(|_| {
                tally.unanswered.fetch_add(1, Relaxed);
                rule.on_error == OnError::Match
            });
            if !applies {
                continue;
            }
            tally.applied.fetch_add(1, Relaxed);
            let decided = match &rule.then {
                ThenRecord::Keep => Some(Fate::Kept),
                ThenRecord::Drop => Some(Fate::Filtered),
                ThenRecord::Sample { one_in, slow_us } => {
                    if is_error(record) || is_slow(record, *slow_us) {
                        Some(Fate::Kept)
                    } else if is_drawn(record, *one_in) {
                        if !rule.dry_run {
                            record.sampling_one_in = Some(*one_in);
                        }
                        Some(Fate::Kept)
                    } else {
                        Some(Fate::Sampled)
                    }
                }
                ThenRecord::Redact(redact) => {
                    if !rule.dry_run {
                        hidden.push(redact);
                    }
                    None
                }
            };
            if decided.is_some_and(|fate| fate != Fate::Kept) {
                tally.left_out.fetch_add(1, Relaxed);
            }
            record.policy_matched.push(Text::Owned(tally.mark.clone()));
            if let Some(decided) = decided
                && !rule.dry_run
            {
                fate = decided;
                break;
            }
        }
        if fate == Fate::Kept {
            hidden.into_iter().for_each(|redact| redact.hide(record));
        }
        fate
    }
}

/// The gRPC statuses that are the server's fault, as OpenTelemetry's conventions have it.
const RPC_ERRORS: [&str; 6] = [
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

/// Whether something went wrong that nobody asked for: a call that a rule refused is no error, or a flood
/// that is refused could never be sampled.
fn is_error(record: &CallRecord) -> bool {
    if !record.findings.is_empty() {
        return true;
    }
    if matches!(record.policy_decision.as_deref(), Some("deny" | "limit")) {
        return false;
    }
    record.error_type.is_some()
        || !record.response_flags.is_empty()
        || record
            .http_response_status_code
            .is_some_and(|status| status >= 500)
        || record
            .rpc_status_code
            .as_deref()
            .is_some_and(|status| RPC_ERRORS.contains(&status))
}

/// Whether it took long until the client had everything, or, where that is not known, until the gateway
/// had written it.
fn is_slow(record: &CallRecord, slow_us: u64) -> bool {
    let took_us = record.delivered_us.or(record.gateway_duration_us);
    took_us.is_some_and(|took_us| took_us >= slow_us)
}

/// The bits of a trace id that are random (W3C Trace Context, level 2).
const RANDOM_BITS: u32 = 56;
const RANDOM_HEX_DIGITS: usize = RANDOM_BITS as usize / 4;

/// Whether a record is the one in so many.
fn is_drawn(record: &CallRecord, one_in: u32) -> bool {
    const ALL: u64 = 1 << RANDOM_BITS;
    let random = random_of_trace(record).unwrap_or_else(|| random_of_uid(record));
    random >= ALL - ALL / u64::from(one_in.max(1))
}

fn random_of_trace(record: &CallRecord) -> Option<u64> {
    let id = record.trace_id.as_deref()?;
    let random = id.get(id.len().checked_sub(RANDOM_HEX_DIGITS)?..)?;
    u64::from_str_radix(random, 16).ok()
}

/// Of a record without a trace, such as that of a connection. What is random in its name need not be so
/// in every bit, so all of them are mixed (the finalizer of MurmurHash3, Austin Appleby).
fn random_of_uid(record: &CallRecord) -> u64 {
    let (high, low) = record.uid.as_u64_pair();
    let mut mixed = high ^ low;
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed ^ mixed >> 33) >> (u64::BITS - RANDOM_BITS)
}

#[cfg(test)]
mod tests;
