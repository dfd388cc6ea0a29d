//! Whether a number has shifted from what it usually is: for a route's parts of time and sizes.
//!
//! **Idea.** Calls are gathered into points (at least [`POINT_S`] seconds and [`POINT_CALLS`] calls,
//! [`POINT_SOON_S`] and [`POINT_SOON_CALLS`], or [`POINT_LATE_S`] seconds), for calls that happen together are slow together; a point is their geometric
//! mean. Its rank among the points that a [`Sketch`] remembers is even between 0 and 1 whatever the
//! distribution is, as long as it does not change. Low ranks are [`bet`] on, and what that wins gathers as
//! [`Evidence`].
//!
//! A shift has to matter: a point is ranked after it was divided by [`MATTERS`].
//!
//! **Learning.** While evidence gathers beyond [`SLOW_BELOW`], only every [`SLOWLY`]th point is learned, so
//! that an attack is still unusual after minutes and a new level is usual after an hour.
//!
//! **When it is wrong.** Where traffic alternates between two kinds with long stretches of each, until both
//! are known.

use super::evidence::{Evidence, bet};
use super::sketch::Sketch;

const MATTERS: f32 = 1.6;
const POINT_S: u32 = 1;
const POINT_CALLS: u32 = 8;
const POINT_SOON_S: u32 = 5;
const POINT_SOON_CALLS: u32 = 3;
const POINT_LATE_S: u32 = 15;
/// Points from which something is known.
const POINTS_MIN: f32 = 60.0;
const HALF_LIFE: f32 = 4_000.0;
const MEMORY_S: f32 = 300.0;
const SLOW_BELOW: f64 = 1e-2;
const SLOWLY: u32 = 4;

/// One number of one route.
#[derive(Clone, Debug)]
pub(crate) struct Shift {
    points: Sketch,
    up: Evidence,
    down: Evidence,
    sum_ln: f32,
    calls: u32,
    since_s: u32,
    skipped: u32,
    began_s: u32,
    usual: f32,
}

/// What a point amounts to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shifted {
    /// How likely so much shift is.
    pub(crate) tail: f64,
    /// The point.
    pub(crate) value: f32,
    /// The median of points.
    pub(crate) usual: f32,
    /// Since when evidence has gathered, s.
    pub(crate) since_s: u32,
}

impl Shift {
    pub(crate) fn new() -> Self {
        Self {
            points: Sketch::new(HALF_LIFE),
            up: Evidence::default(),
            down: Evidence::default(),
            sum_ln: 0.0,
            calls: 0,
            since_s: 0,
            skipped: 0,
            began_s: 0,
            usual: 0.0,
        }
    }

    /// Whether more and more speaks for larger values.
    pub(crate) fn is_up(&self) -> bool {
        self.up.tail() < SLOW_BELOW
    }

    /// The median of points, as of the last one; 0 where not enough is known.
    pub(crate) fn usual(&self) -> f32 {
        self.usual
    }

    /// Adds one call's value. `floor`: what is smaller counts as this much, for it does not matter. Gives
    /// what a point amounts to when one is complete and enough is known; downward only where asked for.
    pub(crate) fn add(
        &mut self,
        value: f32,
        floor: f32,
        downward: bool,
        now_s: u32,
    ) -> Option<Shifted> {
        if self.calls == 0 {
            self.since_s = now_s;
        }
        self.sum_ln += value.max(floor).ln();
        self.calls += 1;
        let passed_s = now_s.saturating_sub(self.since_s);
        let complete = passed_s >= POINT_S && self.calls >= POINT_CALLS
            || passed_s >= POINT_SOON_S && self.calls >= POINT_SOON_CALLS
            || passed_s >= POINT_LATE_S;
        if !complete {
            return None;
        }
        let point = (self.sum_ln / self.calls as f32).exp();
        self.sum_ln = 0.0;
        self.calls = 0;
        if self.points.count() < POINTS_MIN {
            self.points.learn(point);
            return None;
        }
        let above = self.points.share_above((point / MATTERS).max(floor));
        let gathering = !self.up.is_none() || downward && !self.down.is_none();
        if !gathering {
            self.began_s = self.since_s;
        }
        let mut tail = self.up.add(bet(above), now_s, MEMORY_S);
        if downward {
            let below = 1.0 - self.points.share_above(point * MATTERS) + 0.5 / self.points.count();
            tail = tail.min(self.down.add(bet(below.min(1.0)), now_s, MEMORY_S));
        }
        self.skipped += 1;
        if tail > SLOW_BELOW || self.skipped >= SLOWLY {
            self.skipped = 0;
            self.points.learn(point);
        }
        self.usual = self.points.quantile(0.5);
        Some(Shifted {
            tail,
            value: point,
            usual: self.usual,
            since_s: self.began_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::population::normal_quantile;

    /// Log-normal around `median`, ten calls a second.
    struct Calls(u64);

    impl Calls {
        fn value(&mut self, median: f32, spread: f32) -> f32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let share = ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            median * (spread * normal_quantile(share) as f32).exp()
        }
    }

    fn lowest(
        shift: &mut Shift,
        calls: &mut Calls,
        median: f32,
        seconds: std::ops::Range<u32>,
    ) -> f64 {
        let mut lowest = 1.0_f64;
        for second in seconds {
            for _ in 0..10 {
                let value = calls.value(median, 0.8);
                if let Some(shifted) = shift.add(value, 500.0, true, second) {
                    lowest = lowest.min(shifted.tail);
                }
            }
        }
        lowest
    }

    #[test]
    fn a_doubled_median_is_found_in_seconds_and_learned_in_an_hour() {
        let (mut shift, mut calls) = (Shift::new(), Calls(3));
        let usual = lowest(&mut shift, &mut calls, 20_000.0, 0..3_600);
        assert!(usual > 1e-6, "{usual}");
        let slow = lowest(&mut shift, &mut calls, 80_000.0, 3_600..3_620);
        assert!(slow < 1e-9, "{slow}");
        lowest(&mut shift, &mut calls, 80_000.0, 3_620..9_000);
        let learned = lowest(&mut shift, &mut calls, 80_000.0, 9_000..9_100);
        assert!(learned > 1e-6, "{learned}");
    }

    #[test]
    fn what_does_not_matter_is_not_a_shift() {
        let (mut shift, mut calls) = (Shift::new(), Calls(5));
        lowest(&mut shift, &mut calls, 40.0, 0..1_000);
        let slow = lowest(&mut shift, &mut calls, 200.0, 1_000..1_200);
        assert!(slow > 0.1, "below the floor: {slow}");
        let (mut shift, mut calls) = (Shift::new(), Calls(5));
        lowest(&mut shift, &mut calls, 20_000.0, 0..1_000);
        let slow = lowest(&mut shift, &mut calls, 23_000.0, 1_000..1_200);
        assert!(slow > 1e-5, "a little longer: {slow}");
    }
}
