//! How much clients do in a window of time, and how unusual it is that one does more.
//!
//! **Idea.** What a client does in a window (calls, bytes, the upstream's time) is spread over orders of
//! magnitude and close to log-normal over clients. The model keeps a [`Sketch`] of windows, takes its median
//! and its spread upwards (the widest that its 90th, 98th and 99.8th percentiles imply), and gives the
//! normal tail of the logarithm. A *window* is one client's, so what one busy client does weighs no more
//! than what an idle one does. The spread is that of what a client's own habit does not explain: an
//! integration that always does a hundred times more than people widens nothing.
//!
//! **A client's own habit.** Who has always done much is not unusual for doing it: against its own median
//! window a client may rise as far as others may against theirs. A habit begins with the first window, unless
//! that was unlikely and not among the first that anybody had, and counts after [`OWN_WINDOWS`]; each raises it by [`OWN_STEP`] at most, and by
//! [`OWN_STEP_UNLIKELY`] where it was unlikely, so that a flood takes hours to become a habit.
//!
//! **What is unlikely** is learned only if it is another client's than the last such, and never as more than
//! [`LEARNED_MAX`] deviations: one flood does not widen the spread, and a new kind of client does.
//!
//! **Cold start.** [`PRIOR_WINDOWS`] made-up windows, with the level and the spread that the detector gives,
//! stand in the place of what is not known yet.
//!
//! **Constants.** The spread is never below [`SPREAD_MIN`] (a factor of e^0.8 = 2.2 for one deviation):
//! a service whose clients are all alike must not alert about the first that is not. Twice or half of each
//! constant moves the point of alert by less than the step between two intensities of any tool.
//!
//! **When it is wrong.** Where two kinds of client differ by a factor of a thousand and one of them is rare:
//! the first of the rare ones is then told of, once.

use super::sketch::Sketch;

const SPREAD_MIN: f64 = 0.8;
const PRIOR_WINDOWS: usize = 200;
const LEARNED_MAX: f64 = 4.0;
const EXCESS_SCALE: f64 = 1024.0;
/// A window counts half after so many others.
const HALF_LIFE: f32 = 20_000.0;
/// The first may have seen but the beginning of something.
const OWN_WINDOWS: u8 = 2;
/// Of a population of habits only.
const ONLY_WINDOWS: u8 = 12;
const OWN_STEP: f32 = 0.4;
/// A second.
const OWN_STEP_UNLIKELY: f32 = 0.0008;
/// Windows in which whoever is there has always been there.
const BEGINNING: u32 = 3;
/// Deviations beyond which a window is unlikely.
const UNLIKELY: f64 = 3.0;
const OWN_LEARN: f32 = 0.1;

/// Windows of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Population {
    windows: Sketch,
    /// By what factor, times [`EXCESS_SCALE`], they were above the median or the client's own habit.
    excess: Sketch,
    /// Windows are looked at with this length, s.
    window_s: u32,
    /// Nothing is said of somebody without a habit yet.
    habits_only: bool,
    /// The logarithm of the median and the spread, as last computed...
    median_ln: f64,
    spread: f64,
    /// ...and how many windows are to pass until the next time.
    stale: u32,
    /// Who last had an unlikely window.
    unlikely: u64,
    first_window: u32,
}

/// One client's window and habit, 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habit {
    window: u32,
    total: f32,
    /// The logarithm of its usual window.
    own_ln: f32,
    /// Windows that are in it, saturating.
    own_windows: u8,
    /// The total was last weighed at this power of the root of two.
    weighed: i8,
}

/// What a window amounts to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// How likely so much is.
    pub(crate) tail: f64,
    /// The total of the window so far.
    pub(crate) total: f64,
    /// What a client usually has.
    pub(crate) usual: f64,
}

impl Population {
    /// `usual` is what a client of any service may have in a window of `window_s` seconds, and `spread` how
    /// far apart clients may be, a deviation of the logarithm.
    pub(crate) fn new(usual: f64, spread: f64, window_s: u32) -> Self {
        let mut windows = Sketch::new(HALF_LIFE);
        let mut excess = Sketch::new(HALF_LIFE);
        for at in 0..PRIOR_WINDOWS {
            let share = (at as f64 + 0.5) / PRIOR_WINDOWS as f64;
            let factor = (spread * normal_quantile(share)).exp();
            windows.learn((usual * factor) as f32);
            excess.learn((EXCESS_SCALE * factor) as f32);
        }
        let mut population = Self {
            windows,
            excess,
            window_s,
            habits_only: false,
            median_ln: 0.0,
            spread: 0.0,
            stale: 0,
            unlikely: 0,
            first_window: 0,
        };
        population.refresh();
        population
    }

    /// Says nothing of somebody whose habit is not known yet, and takes what it does until then for it.
    pub(crate) fn of_habits_only(mut self) -> Self {
        self.habits_only = true;
        self
    }

    /// Adds to a client's window. Says what it amounts to when it has grown by the root of two since it was
    /// last said, which is often enough and seldom enough.
    #[inline]
    pub(crate) fn add(
        &mut self,
        habit: &mut Habit,
        client: u64,
        amount: f32,
        now_s: u32,
    ) -> Option<Amount> {
        let window = now_s / self.window_s;
        if self.first_window == 0 {
            self.first_window = window;
        }
        if window != habit.window {
            self.close(habit, client);
            habit.window = window;
        }
        habit.total += amount;
        let power = (2.0 * habit.total.max(1.0).log2()) as i8;
        if power <= habit.weighed {
            return None;
        }
        habit.weighed = power;
        if self.habits_only && habit.own_windows < ONLY_WINDOWS {
            return None;
        }
        Some(Amount {
            tail: self.tail(habit),
            total: f64::from(habit.total),
            usual: self.median_ln.exp(),
        })
    }

    fn tail(&self, habit: &Habit) -> f64 {
        normal_tail(self.excess_ln(habit) / self.spread)
    }

    fn excess_ln(&self, habit: &Habit) -> f64 {
        let mut usual_ln = self.median_ln;
        if habit.own_windows >= OWN_WINDOWS {
            usual_ln = usual_ln.max(f64::from(habit.own_ln));
        }
        f64::from(habit.total.max(1.0)).ln() - usual_ln
    }

    fn close(&mut self, habit: &mut Habit, client: u64) {
        if habit.total > 0.0 {
            let excess_ln = self.excess_ln(habit);
            let is_unlikely = excess_ln > UNLIKELY * self.spread;
            if !is_unlikely || client != self.unlikely {
                let learned_ln = excess_ln.min(LEARNED_MAX * self.spread);
                self.excess.learn((EXCESS_SCALE * learned_ln.exp()) as f32);
                self.windows.learn(habit.total);
            }
            if is_unlikely {
                self.unlikely = client;
            }
            let total_ln = habit.total.max(1.0).ln();
            let deviations = (f64::from(total_ln) - self.median_ln) / self.spread;
            let is_unlikely = deviations > UNLIKELY;
            let step_max = if is_unlikely {
                OWN_STEP_UNLIKELY * self.window_s as f32
            } else {
                OWN_STEP
            };
            let step = if self.habits_only && habit.own_windows < ONLY_WINDOWS {
                (total_ln - habit.own_ln) / f32::from(habit.own_windows + 1)
            } else if habit.own_windows == 0 {
                match is_unlikely && habit.window > self.first_window + BEGINNING {
                    true => self.median_ln as f32,
                    false => total_ln,
                }
            } else {
                ((total_ln - habit.own_ln) * OWN_LEARN.max(1.0 / f32::from(habit.own_windows + 1)))
                    .min(step_max)
            };
            habit.own_ln += step;
            habit.own_windows = habit.own_windows.saturating_add(1).min(100);
            self.stale = self.stale.saturating_sub(1);
            if self.stale == 0 {
                self.refresh();
            }
        }
        habit.total = 0.0;
        habit.weighed = 0;
    }

    fn refresh(&mut self) {
        self.median_ln = f64::from(self.windows.quantile(0.5)).ln();
        let at = |share| (f64::from(self.excess.quantile(share)) / EXCESS_SCALE).ln();
        let spread = [(0.9, 1.2816), (0.98, 2.0537), (0.998, 2.8782)]
            .map(|(share, deviations)| at(share) / deviations);
        self.spread = spread.into_iter().fold(SPREAD_MIN, f64::max);
        self.stale = 64;
    }
}

/// The probability that a standard normal number is larger: W. J. Cody's approximation is what libm's
/// `erfc` has; this is Numerical Recipes' `erfcc`, whose relative error is below 1.2e-7 everywhere.
pub(crate) fn normal_tail(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    const C: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let series = C.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let erfc = t * (-x * x + series).exp();
    if z >= 0.0 {
        0.5 * erfc
    } else {
        1.0 - 0.5 * erfc
    }
}

/// The inverse of the normal distribution, by bisection: it is used at the start only.
pub(crate) fn normal_quantile(share: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if 1.0 - normal_tail(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_tail_is_that_of_tables() {
        for (z, tail) in [
            (0.0, 0.5),
            (1.2816, 0.1),
            (3.0, 1.349_9e-3),
            (6.0, 9.866e-10),
        ] {
            assert!((normal_tail(z) / tail - 1.0).abs() < 1e-3, "{z}");
            assert!((normal_tail(-z) - (1.0 - tail)).abs() < 1e-4, "-{z}");
        }
    }

    /// Clients with so many calls each in every window; gives the lowest tail that was seen.
    fn play(
        population: &mut Population,
        habits: &mut [Habit],
        calls: &[u32],
        windows: std::ops::Range<u32>,
    ) -> f64 {
        let mut lowest = 1.0_f64;
        for window in windows {
            for (client, (habit, calls)) in (1..).zip(habits.iter_mut().zip(calls)) {
                for _ in 0..*calls {
                    if let Some(amount) = population.add(habit, client, 1.0, window * 5) {
                        lowest = lowest.min(amount.tail);
                    }
                }
            }
        }
        lowest
    }

    #[test]
    fn who_does_a_hundred_times_more_is_unusual_and_who_always_did_is_not() {
        let mut population = Population::new(5.0, 1.2, 5);
        let mut habits = [Habit::default(); 60];
        let mut calls = [4; 60];
        calls[0] = 60; // an integration, from the start
        assert!(play(&mut population, &mut habits, &calls, 1..200) > 1e-4);
        calls[0] = 240; // it doubles twice: not unusual for it
        assert!(play(&mut population, &mut habits, &calls, 200..201) > 1e-4);
        calls[0] = 60;
        calls[1] = 2_000; // somebody else floods
        assert!(play(&mut population, &mut habits, &calls, 201..202) < 1e-9);
        // Half an hour later it still is one, and so is another one an hour later.
        play(&mut population, &mut habits, &calls, 202..560);
        let lasts = play(&mut population, &mut habits, &calls, 560..562);
        assert!(lasts < 1e-7, "{lasts}");
        calls[1] = 4;
        play(&mut population, &mut habits, &calls, 562..1_300);
        calls[2] = 2_000;
        let another = play(&mut population, &mut habits, &calls, 1_300..1_301);
        assert!(another < 1e-9, "{another}");
    }

    #[test]
    fn a_flood_does_not_hide_the_next_one_where_few_call() {
        let mut population = Population::new(5.0, 1.2, 5);
        let mut habits = [Habit::default(); 12];
        let mut calls = [4; 12];
        play(&mut population, &mut habits, &calls, 1..200);
        calls[11] = 2_000;
        play(&mut population, &mut habits, &calls, 200..920);
        (calls[11], calls[10]) = (0, 2_000);
        let another = play(&mut population, &mut habits, &calls, 920..921);
        assert!(another < 1e-9, "{another}");
    }

    #[test]
    fn a_flood_alerts_before_anything_was_learned() {
        let mut population = Population::new(5.0, 1.2, 5);
        let mut habits = [Habit::default()];
        assert!(play(&mut population, &mut habits, &[5_000], 1..2) < 1e-7);
        assert!(play(&mut population, &mut [Habit::default()], &[50], 1..2) > 1e-4);
    }
}
