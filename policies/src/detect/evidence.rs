//! Evidence that gathers until it is enough: a CUSUM of log likelihood ratios.
//!
//! **Idea.** Each observation multiplies what speaks for "this is an attack" over "this is usual" by a
//! likelihood ratio; the sum of their logarithms never falls below zero (E. S. Page, *Continuous Inspection
//! Schemes*, Biometrika 1954; for scans J. Jung et al., *Fast Portscan Detection Using Sequential
//! Hypothesis Testing*, 2004).
//!
//! **Tail.** Since its last zero the product is a likelihood ratio under usual traffic, so the probability
//! that it ever reaches *c* before the next zero is at most 1/*c* (Ville's inequality). `exp(-sum)` is thus
//! a bound on a tail that holds however often one looks, which a p-value of a fixed sample is not.
//!
//! **When it is wrong.** Observations of one client depend on each other, so the ratios given should err
//! on the side of usual. A sum is held at [`SUM_MAX`]: evidence for one attack does not outlast it by
//! more.

/// No sum is larger; its tail is below every threshold.
const SUM_MAX: f32 = 40.0;

/// What was gathered of one key, 8 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    sum: f32,
    seen_s: u32,
}

impl Evidence {
    /// Adds one observation's log likelihood ratio, and gives the tail of what was gathered. What was
    /// gathered before fades by a factor of e in `memory_s`.
    #[inline]
    pub(crate) fn add(&mut self, log_ratio: f32, now_s: u32, memory_s: f32) -> f64 {
        let passed_s = now_s.saturating_sub(self.seen_s);
        if passed_s > 0 && self.sum > 0.0 {
            self.sum *= (-(passed_s as f32) / memory_s).exp();
        }
        self.seen_s = self.seen_s.max(now_s);
        self.sum = (self.sum + log_ratio).clamp(0.0, SUM_MAX);
        self.tail()
    }

    /// The tail of what was gathered, as of the last observation.
    #[inline]
    pub(crate) fn tail(&self) -> f64 {
        f64::from(-self.sum).exp()
    }

    /// Whether anything is gathered.
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.sum == 0.0
    }
}

/// The log likelihood ratio of something that happens with probability `attack` or `usual`, once it has
/// happened or has not.
#[inline]
pub(crate) fn log_ratio(happened: bool, attack: f32, usual: f32) -> f32 {
    if happened {
        (attack / usual).ln()
    } else {
        ((1.0 - attack) / (1.0 - usual)).ln()
    }
}

/// What is bet on small ranks or tails, which are even between 0 and 1 in usual traffic: the logarithm of
/// `κ·u^(κ−1)`, an e-value for any κ below 1 (V. Vovk et al., *Testing Randomness*, 2021: conformal test
/// martingales with the power calibrator).
#[inline]
pub(crate) fn bet(tail: f32) -> f32 {
    const KAPPA: f32 = 0.3;
    KAPPA.ln() + (KAPPA - 1.0) * tail.ln()
}

/// How often something happens, learned with a memory of about `memory` observations and kept in bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    share: f32,
    seen: f32,
}

impl Share {
    /// Starts at a share that counts as `weight` observations.
    pub(crate) const fn new(share: f32, weight: f32) -> Self {
        Self {
            share,
            seen: weight,
        }
    }

    /// Learns from one observation.
    #[inline]
    pub(crate) fn learn(&mut self, happened: bool, memory: f32) {
        self.seen = (self.seen + 1.0).min(memory);
        self.share += (f32::from(u8::from(happened)) - self.share) / self.seen;
    }

    /// What was learned, 0 to 1.
    #[inline]
    pub(crate) fn get(self) -> f32 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_traffic_rarely_reaches_a_tail() {
        // Ville: of so many excursions at most a share of `tail` gets there.
        let mut state = 7_u64;
        let mut evidence = Evidence::default();
        let (mut excursions, mut reached, mut above) = (0_u32, 0_u32, false);
        for _ in 0..2_000_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let happened = (state >> 40) as f32 / (1_u64 << 24) as f32 <= 0.2;
            excursions += u32::from(evidence.is_none());
            let tail = evidence.add(log_ratio(happened, 0.6, 0.2), 0, 60.0);
            reached += u32::from(tail < 1e-4 && !above);
            above = tail < 1e-4;
        }
        assert!(
            f64::from(reached) <= f64::from(excursions) * 1e-4,
            "{reached} of {excursions}"
        );
    }

    #[test]
    fn an_attack_is_enough_within_twenty_and_fades_within_hours() {
        let mut evidence = Evidence::default();
        let mut tail = 1.0;
        for second in 0..20 {
            tail = evidence.add(log_ratio(true, 0.95, 0.3), second, 3600.0);
        }
        assert!(tail < 1e-9, "{tail}");
        assert!(evidence.add(0.0, 6 * 3600, 3600.0) > 0.5);
    }
}
