//! One budget of false alerts, from which every detector has its threshold.
//!
//! A tail is the probability of so much in usual traffic, so among *n* looks at usual traffic *n·t* are
//! below a threshold *t* by chance. The budget is so many of those a day; each detector has an equal share,
//! and its threshold is its share divided by its looks (Bonferroni's correction, over time). A detector
//! that looks at every call of a busy gateway needs more evidence than one that looks once a minute.
//!
//! The rate of looks is an exponentially weighted mean over about ten minutes that never falls below one a
//! second, so that neither a quiet night nor the first minutes make a detector jumpy. A look within a
//! flood raises the rate too; that it cannot blind a detector is why a threshold falls at most to
//! [`TAIL_MIN`].

use crate::detect::{DETECTORS, Detector};

/// No threshold is lower: tails beyond are sums of rounding and of assumptions.
pub const TAIL_MIN: f64 = 1e-12;
/// No threshold is higher, however large the budget.
pub const TAIL_MAX: f64 = 1e-3;
const MEMORY_S: f64 = 600.0;
const LOOKS_PER_S_MIN: f64 = 1.0;
const DAY_S: f64 = 86_400.0;

/// Holds the thresholds.
#[derive(Debug)]
pub struct Budget {
    share_per_s: f64,
    ticked_ns: Option<u64>,
    shares: [Share; DETECTORS.len()],
}

#[derive(Clone, Copy, Debug)]
struct Share {
    looks: u64,
    looks_per_s: f64,
    threshold: f64,
}

impl Budget {
    /// `false_per_day`: false alerts to expect on a day, over all detectors.
    pub fn new(false_per_day: f64) -> Self {
        let share_per_s = false_per_day / DAY_S / DETECTORS.len() as f64;
        let share = Share {
            looks: 0,
            looks_per_s: LOOKS_PER_S_MIN,
            threshold: threshold(share_per_s, LOOKS_PER_S_MIN),
        };
        Self {
            share_per_s,
            ticked_ns: None,
            shares: [share; DETECTORS.len()],
        }
    }

    /// Counts one look, and says whether what it saw is beyond the threshold.
    #[inline]
    pub fn weigh(&mut self, detector: Detector, tail: f64) -> bool {
        let share = &mut self.shares[detector as usize];
        share.looks += 1;
        tail < share.threshold
    }

    /// Recomputes the thresholds from the looks since it was last called.
    pub fn tick(&mut self, now_ns: u64) {
        let Some(before_ns) = self.ticked_ns.replace(now_ns) else {
            return;
        };
        let passed_s = now_ns.saturating_sub(before_ns) as f64 / 1e9;
        if passed_s <= 0.0 {
            return;
        }
        let forget = (-passed_s / MEMORY_S).exp();
        for share in &mut self.shares {
            let rate = share.looks as f64 / passed_s;
            share.looks = 0;
            share.looks_per_s = forget * share.looks_per_s + (1.0 - forget) * rate;
            share.threshold = threshold(self.share_per_s, share.looks_per_s);
        }
    }
}

fn threshold(share_per_s: f64, looks_per_s: f64) -> f64 {
    (share_per_s / looks_per_s.max(LOOKS_PER_S_MIN)).clamp(TAIL_MIN, TAIL_MAX)
}
