//! The distribution of a positive number: a histogram of its logarithm that fades.
//!
//! **Idea.** Bins a quarter of an octave wide (a factor of 1.19) from 1 to 2^32. Each new value weighs a
//! little more than the one before, so that old ones fade exponentially without being touched (G. Cormode
//! et al., *Forward Decay*, 2009); at long intervals the weights are scaled back. Ranks between bins are
//! interpolated.
//!
//! **When it is wrong.** By up to half a bin, 9 %, of the value; and after a change for as long as its
//! memory.

const BINS_PER_OCTAVE: usize = 4;
const BINS: usize = 32 * BINS_PER_OCTAVE;
/// Weights are scaled back beyond this.
const WEIGHT_MAX: f32 = 1e6;

/// What is usual of one number, about 530 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    bins: [f32; BINS],
    total: f32,
    weight: f32,
    growth: f32,
}

impl Sketch {
    /// Empty. A value counts half after `half_life` further ones.
    pub(crate) fn new(half_life: f32) -> Self {
        Self {
            bins: [0.0; BINS],
            total: 0.0,
            weight: 1.0,
            growth: (std::f32::consts::LN_2 / half_life).exp(),
        }
    }

    /// Adds a value.
    pub(crate) fn learn(&mut self, value: f32) {
        self.bins[bin(value)] += self.weight;
        self.total += self.weight;
        self.weight *= self.growth;
        if self.weight > WEIGHT_MAX {
            let scale = 1.0 / self.weight;
            self.bins.iter_mut().for_each(|bin| *bin *= scale);
            self.total = self.bins.iter().sum();
            self.weight = 1.0;
        }
    }

    /// Values it holds, newer ones counting for one and older ones for less.
    pub(crate) fn count(&self) -> f32 {
        self.total / self.weight
    }

    /// The share of values that are at least as large: 1 for the smallest, close to 0 for the largest,
    /// never 0.
    pub(crate) fn share_above(&self, value: f32) -> f32 {
        let bin = bin(value);
        let above: f32 = self.bins[bin + 1..].iter().sum();
        // Half of those that share its bin, itself included.
        (above + 0.5 * (self.bins[bin] + self.weight)) / (self.total + self.weight)
    }

    /// The value that this share of all values does not exceed; 1 where there is none yet.
    pub(crate) fn quantile(&self, share: f32) -> f32 {
        let mut left = share * self.total;
        for (at, bin) in self.bins.iter().enumerate() {
            if left <= *bin && *bin > 0.0 {
                let within = left / bin;
                return ((at as f32 + within) / BINS_PER_OCTAVE as f32).exp2();
            }
            left -= bin;
        }
        1.0
    }
}

/// The bin of a value; below 1 is the first one.
#[inline]
fn bin(value: f32) -> usize {
    let octaves = value.max(1.0).log2() * BINS_PER_OCTAVE as f32;
    (octaves as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_quantiles_and_ranks_within_a_bin() {
        let mut sketch = Sketch::new(1e9);
        for value in 1..=10_000 {
            sketch.learn(value as f32);
        }
        for share in [0.1, 0.5, 0.9, 0.99] {
            let value = sketch.quantile(share);
            assert!(
                (value / (share * 10_000.0)).ln().abs() < 0.1,
                "{share}: {value}"
            );
            let above = sketch.share_above(share * 10_000.0);
            assert!(
                (above - (1.0 - share)).abs() < 0.1 * share,
                "{share}: {above}"
            );
        }
        assert!(sketch.share_above(1e9) > 0.0);
    }

    #[test]
    fn forgets_by_half_in_its_half_life() {
        let mut sketch = Sketch::new(1000.0);
        for _ in 0..100_000 {
            sketch.learn(10.0);
        }
        for _ in 0..1000 {
            sketch.learn(1000.0);
        }
        let above = sketch.share_above(100.0);
        assert!((above - 0.5).abs() < 0.02, "{above}");
        // Weights were scaled back many times: nothing ran over.
        assert!((sketch.count() - 1442.0).abs() < 30.0, "{}", sketch.count());
    }

    #[test]
    fn odd_values_are_harmless() {
        let mut sketch = Sketch::new(10.0);
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX] {
            sketch.learn(value);
            assert!(sketch.share_above(value).is_finite());
        }
    }
}
