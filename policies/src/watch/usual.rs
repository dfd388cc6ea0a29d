//! How many of something a source usually has at once, and how unusual it is that one has more.
//!
//! **Idea.** Once in a *span* each source that was there is an observation: how many it had at most. Most
//! have none; of those that have any, the numbers are taken to be exponentially distributed, which of all
//! distributions with a given mean is the one that assumes least. Neither the share of sources that have any
//! nor the mean is known, so the tail is that of the posterior predictive: for a mean with a Gamma prior a
//! Lomax, `P(X ≥ x) = (1 + x / (n·m))^-n`, of *n* observations with the mean *m*, the prior's included
//! (A. Gelman et al., *Bayesian Data Analysis*, 3rd ed., 2.6). With little observed its tail is long; with
//! much it becomes the exponential.
//!
//! **A source's own habit.** The address of an office or of a mobile carrier stands for many clients and
//! always has more. Only what exceeds a source's habit counts, and on a scale of at least half of it.
//!
//! **Robust.** A number is learned as no more than [`LIMIT_MEANS`] means of the span before, of unlikely ones
//! only each [`SLOWLY`]th, so that an attack from many sources moves the mean by little; a source that has an
//! open alert is not learned from at all, and what was unlikely moves a habit by a tenth of what it otherwise
//! would.
//!
//! **Constants.** The prior weighs [`PRIOR_COUNT`] observations, which at their mean of
//! [`PRIOR_MEAN`] lets one source of an unknown service have some thirty before it is told of, and never a
//! hundred. A browser holds six connections to a host, and a phone that loses its network stalls all
//! of them, so the mean is never below [`MEAN_MIN`]. What is learned fades with [`MEMORY`] observations.
//!
//! **When it is wrong.** A source that grows by little each span, over hours, becomes usual. Sources of
//! very different size whose large ones are new raise an alert each, once.

/// Observations that the prior counts for.
const PRIOR_COUNT: f64 = 50.0;
/// What a source has that has any.
const PRIOR_MEAN: f64 = 2.5;
const MEAN_MIN: f64 = 2.0;
/// Of ten sources one is taken to have some, before anything is known.
const PRIOR_SHARE: (f64, f64) = (1.0, 10.0);
const SHARE_MIN: f64 = 1e-4;
const LIMIT_MEANS: f64 = 3.0;
const MEMORY: f64 = 20_000.0;
/// How much of a span goes into a source's habit.
const HABIT_STEP: f32 = 0.1;
/// Rarer than this is unlikely, and hardly learned from.
const UNLIKELY: f64 = 1e-3;
const SLOWLY: u32 = 20;

/// What sources usually have.
#[derive(Clone, Debug)]
pub(super) struct Usual {
    /// How much larger it all is than for one client.
    scale: f64,
    /// Observations of sources that had some, and their sum.
    count: f64,
    sum: f64,
    /// Observations of all sources.
    all: f64,
    /// No number of this span is learned as more.
    limit: f64,
    /// Unlikely ones that were left out.
    left_out: u32,
}

impl Usual {
    /// Of sources that stand for about `scale` clients.
    pub(super) fn new(scale: f64) -> Self {
        Self {
            scale,
            count: 0.0,
            sum: 0.0,
            all: 0.0,
            limit: LIMIT_MEANS * PRIOR_MEAN * scale,
            left_out: 0,
        }
    }

    /// How likely it is that a source with this habit has so many.
    pub(super) fn tail(&self, number: f64, habit: f32) -> f64 {
        let habit = f64::from(habit);
        let count = PRIOR_COUNT + self.count;
        let mean = self.mean().max(habit / 2.0);
        let excess = (number - habit).max(0.0);
        let share = if habit < 1.0 { self.share() } else { 1.0 };
        share * (1.0 + excess / (count * mean)).powf(-count)
    }

    /// How many a source has that has any.
    pub(super) fn mean(&self) -> f64 {
        let sum = PRIOR_COUNT * PRIOR_MEAN * self.scale + self.sum;
        (sum / (PRIOR_COUNT + self.count)).max(MEAN_MIN * self.scale)
    }

    fn share(&self) -> f64 {
        let (some, all) = PRIOR_SHARE;
        ((some + self.count) / (all + self.all)).clamp(SHARE_MIN, 1.0)
    }

    /// A span is over, in which there were so many sources, whether they had any or not.
    pub(super) fn span(&mut self, sources: usize) {
        self.all += sources as f64;
        if self.all > MEMORY {
            for total in [&mut self.all, &mut self.count, &mut self.sum] {
                *total /= 2.0;
            }
        }
        self.limit = LIMIT_MEANS * self.mean();
    }

    /// A source had so many at most, in a span that is over.
    pub(super) fn learn(&mut self, most: f64, habit: &mut f32) {
        let excess = (most - f64::from(*habit)).max(0.0);
        let is_unlikely = self.tail(most, *habit) < UNLIKELY;
        self.left_out += u32::from(is_unlikely);
        if excess > 0.0 && (!is_unlikely || self.left_out >= SLOWLY) {
            self.left_out = 0;
            self.count += 1.0;
            self.sum += excess.min(self.limit);
        }
        let step = match is_unlikely {
            true => HABIT_STEP / 10.0,
            false => HABIT_STEP,
        };
        *habit += (most as f32 - *habit) * step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A threshold of one look a second, and that of ten thousand.
    const THRESHOLDS: [f64; 2] = [4e-7, 4e-11];

    #[test]
    fn an_unknown_service_lets_some_thirty_pass_and_never_a_hundred() {
        let usual = Usual::new(1.0);
        assert!(usual.tail(30.0, 0.0) > THRESHOLDS[0]);
        assert!(usual.tail(40.0, 0.0) < THRESHOLDS[0]);
        assert!(usual.tail(100.0, 0.0) < THRESHOLDS[1]);
    }

    #[test]
    fn what_is_learned_makes_it_sharper_and_an_attack_does_not_blunt_it() {
        let mut usual = Usual::new(1.0);
        let mut habit = 0.0;
        for _ in 0..500 {
            usual.learn(1.0, &mut habit);
            usual.span(20);
        }
        let known = usual.tail(40.0, 0.0);
        assert!(known < THRESHOLDS[0], "{known}");
        // Two hundred from five sources, for an hour, of which nobody was told.
        let mut habits = [0.0; 5];
        for _ in 0..60 {
            habits
                .iter_mut()
                .for_each(|habit| usual.learn(200.0, habit));
            usual.span(25);
        }
        assert!(usual.tail(200.0, 0.0) < THRESHOLDS[1]);
    }

    #[test]
    fn who_always_has_thirty_may_have_forty() {
        let mut usual = Usual::new(1.0);
        let mut habit = 0.0;
        for _ in 0..200 {
            usual.learn(30.0, &mut habit);
            usual.span(20);
        }
        assert!(usual.tail(45.0, habit) > 1e-3);
        assert!(usual.tail(400.0, habit) < THRESHOLDS[0]);
    }
}
