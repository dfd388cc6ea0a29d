//! Medians, and how far they may be trusted, without assuming how measurements are distributed.
//!
//! The interval of a median is one between two order statistics: the true median lies outside of it
//! with the probability that as many fair coins fall that much to one side (H. A. David and
//! H. N. Nagaraja, *Order Statistics*, section 7.1). With fewer than [`ROUNDS_MIN`] rounds no two of
//! them enclose it with 95 %, and there is none.

use serde::Serialize;

/// Fewer rounds have no interval.
pub const ROUNDS_MIN: usize = 6;

/// More than this share of intervals may not miss, on either side.
const MISS_MAX: f64 = 0.025;

/// The median of some rounds, with a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The median round.
    pub median: f64,
    /// Where the interval begins and ends, if there were rounds enough.
    pub interval: Option<(f64, f64)>,
    /// How many rounds.
    pub rounds: usize,
}

impl Estimate {
    /// Of one value for each round; of none for none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        Some(Self {
            median: (sorted.get(count.checked_sub(1)? / 2)? + sorted.get(count / 2)?) / 2.0,
            interval: outer(count).map(|rank| (sorted[rank - 1], sorted[count - rank])),
            rounds: count,
        })
    }
}

/// The median of `values`; of none, NaN.
pub fn median(values: &[f64]) -> f64 {
    Estimate::of(values).map_or(f64::NAN, |estimate| estimate.median)
}

/// The value below which `share` of the sorted values lie; of none, NaN.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The largest rank, counted from 1 and from both ends, whose order statistics still enclose the
/// median with 95 %.
fn outer(count: usize) -> Option<usize> {
    let mut below = 0.0;
    let mut ways = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut rank = 0;
    loop {
        below += ways;
        if below > MISS_MAX {
            return (rank > 0).then_some(rank);
        }
        ways *= (count - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranks_are_those_of_the_sign_tests_table() {
        // Dixon and Mood, two-sided 5 %: the last count of the rarer sign that still rejects, plus 1.
        for (count, rank) in [
            (5, None),
            (6, Some(1)),
            (8, Some(1)),
            (9, Some(2)),
            (12, Some(3)),
            (15, Some(4)),
            (20, Some(6)),
            (25, Some(8)),
        ] {
            assert_eq!(outer(count), rank, "{count} rounds");
        }
    }

    #[test]
    fn an_estimate_is_the_middle_and_its_neighbours() {
        let nine = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0];
        let expected = Estimate {
            median: 5.0,
            interval: Some((2.0, 8.0)),
            rounds: 9,
        };
        assert_eq!(Estimate::of(&nine), Some(expected));
        assert_eq!(median(&[4.0, 1.0, 3.0, 9.0]), 3.5);
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert_eq!(quantile(&hundred, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
