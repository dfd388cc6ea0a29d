//! Draws as people and machines make them: waiting times, sizes, choices. Repeatable by seed.

use std::f64::consts::TAU;
use std::time::Duration;

use crate::plan::Random;

/// A source of draws.
pub struct Chance(Random);

impl Chance {
    /// Repeatable; different for each `stream` of the same seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Random::new(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        // The first ones of neighbouring seeds are alike.
        for _ in 0..8 {
            random.below(2);
        }
        Self(random)
    }

    /// A whole number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// Above 0, at most 1.
    pub fn share(&mut self) -> f64 {
        (self.below(1 << 30) + 1) as f64 / f64::from(1 << 30)
    }

    /// Whether something that happens in this share of cases happens now.
    pub fn happens(&mut self, share: f64) -> bool {
        self.share() <= share
    }

    /// One of them.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.0.index(all.len())]
    }

    /// Log-normal: half of them are below `median`, and `sigma` is that of their logarithms.
    pub fn about(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller's transformation.
        let normal = (-2.0 * self.share().ln()).sqrt() * (TAU * self.share()).cos();
        median * (sigma * normal).exp()
    }

    /// Exponential, of this mean: how long until somebody comes.
    pub fn waiting(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-self.share().ln())
    }

    /// Puts them in another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.0.index(at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_median_and_the_mean_asked_for() {
        let mut chance = Chance::new(1, 1);
        let draws = 10_000;
        let below = (0..draws).filter(|_| chance.about(7.0, 0.8) < 7.0).count();
        assert!((4_800..5_200).contains(&below), "{below}");
        let second = Duration::from_secs(1);
        let sum: Duration = (0..draws).map(|_| chance.waiting(second)).sum();
        assert!((9_500..10_500).contains(&sum.as_secs()), "{sum:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let order = |seed| {
            let mut all: Vec<u32> = (0..20).collect();
            Chance::new(seed, 0).shuffle(&mut all);
            all
        };
        assert_eq!(order(3), order(3));
        assert_ne!(order(3), order(4));
    }
}
