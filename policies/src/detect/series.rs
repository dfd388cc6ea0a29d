//! What is usual for one number over time: the rate of a route, its share of errors, a part of its
//! latency, a size.
//!
//! # Idea
//!
//! Four looks at each value, each simple, none of which knows what the number means:
//!
//! - [`Look::Jump`]: how far is it from the level of the last few values?
//! - [`Look::Day`]: how far are the last few values from what earlier days had at this time?
//! - [`Look::Range`]: how far is it from the middle of everything seen?
//! - [`Look::Unrest`]: how much do the last few values jump, and for how long has the value not
//!   changed at all?
//!
//! None of these distances follows a law that could be known beforehand: some series have a spike
//! every hour, and then a spike is nothing. So each look keeps a sketch of its own past distances,
//! up and down apart, and says how many of them were as great: a tail probability. Beyond what was
//! ever seen it continues the tail as a power law, the way that extreme values of almost any
//! distribution go.
//!
//! The least probable look speaks for the value, after all were made comparable by what each may
//! claim of one false alert (Bonferroni's bound, with unequal shares).
//!
//! # Maths
//!
//! The level is an exponential mean that follows at most `CLIP` spreads per value, so that what is
//! unusual moves it little, and what lasts moves it in the end. The spread is a root mean square of
//! such clipped distances, up and down apart. When value after value is too far away, another regime
//! has begun, and both are learned anew. A day has [`SLOTS`] slots, each with the mean of its
//! values on earlier days. A sketch counts distances in bins of half an octave; the shape of its
//! tail is Hill's estimate (the mean logarithm of the excess) over the greatest `TAIL_SHARE` of
//! the distances, kept from below by `SHAPE_MIN` because few values cannot prove a tail to be
//! light. What goes on counts as one event in a sketch, however long, and less if it is rare.
//!
//! Three numbers come out, all from the same probability `p`. [`Unusual::tail`] is `p` itself.
//! [`Unusual::recent`] is the least `p` of late, forgotten by and by: it remains low through an
//! anomaly and a little longer. [`Unusual::onset`] is for opening alerts: it holds `p` against how
//! many values were seen, for in a thousand values one of a thousandth is to be expected, and it
//! speaks once for what goes on.
//!
//! # When it is wrong
//!
//! It learns from what it sees: what lasts for more than some hundred values, or recurs in every few
//! hundred, is usual. A slow enough ramp is followed. It knows of days but not of weeks: a weekend
//! is unusual for some weeks. Time scales are counted in values; it is meant for one value a minute
//! or so, and one a second would make it forget within the hour. In the first hundred values it says
//! little. That a value is frozen it believes late, after hundreds of values, because many series
//! repeat themselves for no reason.

/// Values that are only learned from.
const WARM_UP: f64 = 30.0;

/// How much of the distance to a new value the level follows: it spans about ten values.
const LEVEL_RATE: f64 = 0.1;
/// How fast the spread around the level follows, and the middle of everything: they span about a
/// thousand values, so that an hour of unrest does not count as usual.
const SPREAD_RATE: f64 = 0.001;
/// How many spreads a value may be away before it teaches no more than one at this distance.
const CLIP: f64 = 3.0;
/// After how many such values in a row the level is learned anew, as at the start: what is new in
/// kind, like the first traffic of a route, is usual in the end, however far it is.
const LEVEL_PATIENCE: f64 = 60.0;
/// The same for the middle.
const RANGE_PATIENCE: f64 = 600.0;
/// A spread is never less than this share of the other direction's and its own together.
const LEAST_OF_BOTH: f64 = 0.2;

/// Below this share of the middle no difference matters to anybody.
const LEAST_OF_MIDDLE: f64 = 0.001;
/// Nor below this share of how far values are from the middle on average.
const LEAST_OF_DEVIATION: f64 = 0.05;
/// How many times more than elsewhere a value may be away before it raises this average no more.
const DEVIATION_SLACK: f64 = 10.0;

const DAY_S: u64 = 86_400;
/// Slots of a day: a quarter of an hour each.
pub const SLOTS: usize = 96;
/// The least weight of the latest day in what is usual at a time of day: a week counts.
const DAY_RATE: f64 = 0.2;
/// Over about how many values the distance from earlier days is averaged (a rate).
const DAY_SMOOTHING: f64 = 0.1;
/// How many values must have been compared with earlier days before that counts.
const DAY_WARM_UP: f64 = SLOTS as f64;

/// Over about how many values unrest is measured (a rate).
const UNREST_RATE: f64 = 0.05;
/// After how many stays of a value one can be too long.
const STAYS_MIN: u32 = 30;
/// A single jump counts to unrest as no more than this many spreads.
const UNREST_CLIP: f64 = 10.0;

/// Half octaves from 1/16 to 2048 and everything beyond.
const BINS: usize = 32;
const BINS_PER_OCTAVE: f64 = 2.0;
const LOWEST_LOG2: f64 = -4.0;
/// A sketch with more values than twice these forgets half of each count.
const MEMORY: u32 = 10_000;
/// What a distance counts in its sketch.
const WEIGHT: u32 = 100;
/// The same if less than one such was to be expected: an attack must not soon be usual, and what
/// recurs must be in the end.
const WEIGHT_OF_RARE: u32 = 30;
/// The share of the greatest distances that tells how the tail goes on, and the least number.
const TAIL_SHARE: f64 = 0.02;
const TAIL_LEAST: f64 = 3.0;
/// What the shape of a tail is taken for before there is any, as if from one distance.
const SHAPE_PRIOR: f64 = 0.5;
/// The lightest tail that is believed: ten times the distance is at least a ten-thousandth as
/// probable.
const SHAPE_MIN: f64 = 0.25;
/// The same for how long a value stays: how often it repeats depends on how it is rounded.
const SHAPE_MIN_FROZEN: f64 = 1.0;
/// No probability is less.
const TAIL_MIN: f64 = 1e-30;

/// By how much each look's probability is raised, so that all of them together are right. The
/// inverses of all sides add up to one.
const LOOKS: f64 = 6.5;
/// Earlier days are a weak witness: the same on four days of which one is a holiday.
const LOOKS_DAY: f64 = 4.0 * LOOKS;

/// How much of [`Unusual::recent`] remains after each value, as a logarithm.
const RECENT_KEPT: f64 = 0.98;
/// By how many decades less the next onset must be with each value that passes.
const ONSET_FALL: f64 = 0.025;
/// By how many decades more than the last onset another one must be.
const ONSET_RISE: f64 = 0.6;

/// Values beyond count as this.
const VALUE_MAX: f64 = 1e30;

/// What a value is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The last few values.
    Jump,
    /// The same time on earlier days.
    Day,
    /// Everything seen.
    Range,
    /// How much values jump (up), or for how long they do not change (down).
    Unrest,
}

/// To which side a value is unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Greater than usual.
    Up,
    /// Less than usual.
    Down,
}

/// How unusual a value is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unusual {
    /// The probability of a value at least as unusual; in (0, 1].
    pub tail: f64,
    /// The least such probability of late, which rises back to 1 by and by; never above `tail`.
    pub recent: f64,
    /// For opening alerts: decades by which so unusual a value is rarer than once in all that is
    /// remembered; minus infinity for what goes on already. Above 0.7 (once in five times that) calm
    /// series stay silent.
    pub onset: f64,
    /// To which side.
    pub direction: Direction,
    /// By which look, the one with the least probability.
    pub look: Look,
    /// What was expected there, in the unit of the values.
    pub expected: f64,
}

/// The model of one number over time; fixed in size.
#[derive(Clone, Debug)]
pub struct Series {
    /// How many values there were.
    values: f64,
    level: f64,
    level_regime: Regime,
    /// Mean squares of clipped distances from the level, up and down.
    spread: [f64; 2],
    middle: f64,
    range_regime: Regime,
    /// Mean distance from the middle, clipped, and hardly clipped.
    range: f64,
    deviation: f64,
    day: Day,
    unrest: f64,
    last: f64,
    /// For how many values the last one has not changed.
    frozen: f64,
    jumps: Sides,
    days: Sides,
    ranges: Sides,
    unrests: Sketch,
    frozens: Sketch,
    /// Decades.
    recent: f64,
    onset: f64,
}

impl Default for Series {
    fn default() -> Self {
        Series::new()
    }
}

impl Series {
    /// A model that has seen nothing.
    pub fn new() -> Series {
        Series {
            values: 0.0,
            level: 0.0,
            level_regime: Regime::default(),
            spread: [0.0; 2],
            middle: 0.0,
            range_regime: Regime::default(),
            range: 0.0,
            deviation: 0.0,
            day: Day::new(),
            unrest: 0.0,
            last: f64::NAN,
            frozen: 0.0,
            jumps: Sides::new(),
            days: Sides::new(),
            ranges: Sides::new(),
            unrests: Sketch::new(),
            frozens: Sketch::new(),
            recent: 0.0,
            onset: f64::NEG_INFINITY,
        }
    }

    /// Takes the `value` at `at_s`, in seconds since any midnight, and says how unusual it is.
    ///
    /// Values come in the order of time, with whatever gaps. What is not a number is as if absent.
    pub fn observe(&mut self, at_s: u64, value: f64) -> Unusual {
        if value.is_nan() {
            return self.silent();
        }
        let value = value.clamp(-VALUE_MAX, VALUE_MAX);
        if self.values == 0.0 {
            (self.level, self.middle) = (value, value);
        }
        self.values += 1.0;
        let floor = self.floor(value);
        let mut unusual = self.silent();
        let mut take = |found: Found| {
            if found.tail < unusual.tail {
                unusual.tail = found.tail;
                unusual.direction = found.direction;
                unusual.look = found.look;
                unusual.expected = found.expected;
            }
        };
        let (found, distance) = self.jump(value, floor);
        take(found);
        if let Some(found) = self.day(at_s, value, floor) {
            take(found);
        }
        take(self.range(value, floor));
        for found in self.unrest(value, distance) {
            take(found);
        }
        let decades = -unusual.tail.log10();
        self.recent = decades.max(self.recent * RECENT_KEPT);
        unusual.recent = 10_f64.powf(-self.recent).min(unusual.tail);
        unusual.onset = self.onset(decades);
        unusual
    }

    fn silent(&self) -> Unusual {
        Unusual {
            tail: 1.0,
            recent: 10_f64.powf(-self.recent),
            onset: f64::NEG_INFINITY,
            direction: Direction::Up,
            look: Look::Jump,
            expected: self.level,
        }
    }

    /// The least distance that counts as one, whatever the spread.
    fn floor(&mut self, value: f64) -> f64 {
        let least = LEAST_OF_MIDDLE * self.middle.abs() + f64::MIN_POSITIVE;
        let regime = &self.range_regime;
        let away = (value - self.middle).abs();
        let learned = regime.clipped(away, DEVIATION_SLACK * self.deviation + least);
        self.deviation += regime.rate(SPREAD_RATE) * (learned - self.deviation);
        least + LEAST_OF_DEVIATION * self.deviation
    }

    /// Also the distance itself, in spreads.
    fn jump(&mut self, value: f64, floor: f64) -> (Found, f64) {
        let expected = self.level;
        let away = value - expected;
        let direction = direction(away);
        let both = (self.spread[0] + self.spread[1]).sqrt();
        let spread = &mut self.spread[direction as usize];
        let usual = spread.sqrt().max(LEAST_OF_BOTH * both) + floor;
        let distance = away.abs() / usual;
        let regime = &mut self.level_regime;
        let tail = self.jumps.judge(direction, distance, regime.share());
        let found = Found {
            tail: if regime.is_known() { LOOKS * tail } else { 1.0 },
            direction,
            look: Look::Jump,
            expected,
        };
        let learned = regime.clipped(away, usual);
        self.level += regime.rate(LEVEL_RATE) * learned;
        *spread += regime.rate(SPREAD_RATE) * (learned * learned - *spread);
        if regime.ends(distance, LEVEL_PATIENCE) {
            (self.level, self.spread) = (value, [0.0; 2]);
        }
        (found, distance)
    }

    fn day(&mut self, at_s: u64, value: f64, floor: f64) -> Option<Found> {
        let expected = self.day.expect(at_s, value)?;
        let day = &mut self.day;
        day.away += DAY_SMOOTHING * (value - expected - day.away);
        day.compared += 1.0;
        let is_warm = day.compared > DAY_WARM_UP;
        let away = day.away.abs();
        let spread = day.spread + floor;
        let learned = if is_warm {
            away.min(CLIP * spread)
        } else {
            away
        };
        day.spread += SPREAD_RATE.max(1.0 / day.compared) * (learned - day.spread);
        let direction = direction(day.away);
        let tail = self.days.judge(direction, away / spread, 1.0);
        is_warm.then_some(Found {
            tail: LOOKS_DAY * tail,
            direction,
            look: Look::Day,
            expected,
        })
    }

    fn range(&mut self, value: f64, floor: f64) -> Found {
        let expected = self.middle;
        let away = value - expected;
        let direction = direction(away);
        let usual = self.range + floor;
        let distance = away.abs() / usual;
        let regime = &mut self.range_regime;
        let tail = self.ranges.judge(direction, distance, regime.share());
        let found = Found {
            tail: if regime.is_known() { LOOKS * tail } else { 1.0 },
            direction,
            look: Look::Range,
            expected,
        };
        let learned = regime.clipped(away, usual);
        let rate = regime.rate(SPREAD_RATE);
        self.middle += rate * learned;
        self.range += rate * (learned.abs() - self.range);
        if regime.ends(distance, RANGE_PATIENCE) {
            (self.middle, self.range, self.deviation) = (value, 0.0, 0.0);
        }
        found
    }

    fn unrest(&mut self, value: f64, distance: f64) -> [Found; 2] {
        self.unrest += UNREST_RATE * (distance.min(UNREST_CLIP) - self.unrest);
        let frozen = self.frozen(value);
        let restless = self.unrests.judge(self.unrest, SHAPE_MIN, 1.0);
        let is_warm = self.values > 2.0 / UNREST_RATE;
        let restless = if is_warm { restless } else { 1.0 };
        [(restless, Direction::Up), (frozen, Direction::Down)].map(|(tail, direction)| Found {
            tail: LOOKS * tail,
            direction,
            look: Look::Unrest,
            expected: self.level,
        })
    }

    /// The probability that the value stays for as long as it does; a stay is learned when it ends.
    fn frozen(&mut self, value: f64) -> f64 {
        if value == self.last {
            self.frozen += 1.0;
        } else {
            self.last = value;
            self.frozens.learn(position(self.frozen) as usize, WEIGHT);
            self.frozen = 0.0;
        }
        if self.frozens.total < STAYS_MIN * WEIGHT {
            return 1.0;
        }
        self.frozens.tail(position(self.frozen), SHAPE_MIN_FROZEN)
    }

    fn onset(&mut self, decades: f64) -> f64 {
        if self.values <= WARM_UP {
            return f64::NEG_INFINITY;
        }
        let rarer = decades - self.values.min(f64::from(MEMORY)).log10();
        self.onset -= ONSET_FALL;
        if rarer > self.onset + ONSET_RISE {
            self.onset = rarer;
            rarer
        } else {
            f64::NEG_INFINITY
        }
    }
}

fn direction(away: f64) -> Direction {
    if away < 0.0 {
        Direction::Down
    } else {
        Direction::Up
    }
}

/// Since when, and for how long still, one mean describes a series.
#[derive(Clone, Debug, Default)]
struct Regime {
    /// How many values it has lasted.
    values: f64,
    /// How many values in a row were too far away.
    far: f64,
}

impl Regime {
    /// Whether its mean and spread mean anything yet.
    fn is_known(&self) -> bool {
        self.values > WARM_UP
    }

    /// `rate`, or what makes a plain mean of the first values.
    fn rate(&self, rate: f64) -> f64 {
        rate.max(1.0 / self.values.max(1.0))
    }

    /// What is learned from a value so far `away` where `spread` is usual.
    fn clipped(&self, away: f64, spread: f64) -> f64 {
        if self.is_known() {
            away.clamp(-CLIP * spread, CLIP * spread)
        } else {
            away
        }
    }

    /// What a value counts in a sketch: what goes on is one event, however long.
    fn share(&self) -> f64 {
        1.0 / (1.0 + self.far)
    }

    /// Counts a value and says whether another regime begins with it.
    fn ends(&mut self, distance: f64, patience: f64) -> bool {
        self.values += 1.0;
        let is_far = self.is_known() && distance > CLIP;
        self.far = if is_far { self.far + 1.0 } else { 0.0 };
        let ends = self.far > patience;
        if ends {
            *self = Regime {
                values: 1.0,
                far: 0.0,
            };
        }
        ends
    }
}

/// What one look says.
struct Found {
    tail: f64,
    direction: Direction,
    look: Look,
    expected: f64,
}

/// What earlier days had at each time of day.
#[derive(Clone, Debug)]
struct Day {
    means: [f32; SLOTS],
    /// On how many days each slot had values.
    days: [u8; SLOTS],
    /// The slot that is filled now, and its values.
    slot: usize,
    sum: f64,
    count: f64,
    /// The smoothed distance from earlier days, its mean size, and of how many values.
    away: f64,
    spread: f64,
    compared: f64,
}

impl Day {
    fn new() -> Day {
        Day {
            means: [0.0; SLOTS],
            days: [0; SLOTS],
            slot: 0,
            sum: 0.0,
            count: 0.0,
            away: 0.0,
            spread: 0.0,
            compared: 0.0,
        }
    }

    /// The mean at this time on earlier days, if there were any; learns the value for later ones.
    fn expect(&mut self, at_s: u64, value: f64) -> Option<f64> {
        let slot = (at_s % DAY_S) as usize * SLOTS / DAY_S as usize;
        if slot != self.slot && self.count > 0.0 {
            let mean = &mut self.means[self.slot];
            let days = &mut self.days[self.slot];
            let rate = DAY_RATE.max(1.0 / (f64::from(*days) + 1.0));
            *mean += (rate * (self.sum / self.count - f64::from(*mean))) as f32;
            *days = days.saturating_add(1);
            (self.sum, self.count) = (0.0, 0.0);
        }
        self.slot = slot;
        self.sum += value;
        self.count += 1.0;
        (self.days[slot] > 0).then(|| f64::from(self.means[slot]))
    }
}

/// The distributions of past distances, up and down.
#[derive(Clone, Debug)]
struct Sides([Sketch; 2]);

impl Sides {
    fn new() -> Sides {
        Sides([Sketch::new(), Sketch::new()])
    }

    /// Judges and learns a distance to one side, which is none to the other.
    fn judge(&mut self, direction: Direction, distance: f64, share: f64) -> f64 {
        let [up, down] = &mut self.0;
        match direction {
            Direction::Up => {
                down.learn(0, WEIGHT);
                up.judge(distance, SHAPE_MIN, share)
            }
            Direction::Down => {
                up.learn(0, WEIGHT);
                down.judge(distance, SHAPE_MIN, share)
            }
        }
    }
}

/// Where a distance is in a sketch, in bins.
fn position(distance: f64) -> f64 {
    let position = (distance.max(f64::MIN_POSITIVE).log2() - LOWEST_LOG2) * BINS_PER_OCTAVE;
    position.clamp(0.0, (BINS - 1) as f64)
}

/// A distribution of past distances.
#[derive(Clone, Debug)]
struct Sketch {
    /// Weights by bin.
    counts: [u32; BINS],
    total: u32,
}

impl Sketch {
    fn new() -> Sketch {
        Sketch {
            counts: [0; BINS],
            total: 0,
        }
    }

    /// The probability of a `distance` at least as great, by those before it; then learns a
    /// `share` of it.
    fn judge(&mut self, distance: f64, shape_min: f64, share: f64) -> f64 {
        let position = position(distance);
        let tail = self.tail(position, shape_min);
        let is_rare = tail * f64::from(self.total) < f64::from(WEIGHT);
        let weight = if is_rare { WEIGHT_OF_RARE } else { WEIGHT };
        let weight = (f64::from(weight) * share) as u32;
        self.learn(position as usize, weight);
        tail
    }

    fn tail(&self, position: f64, shape_min: f64) -> f64 {
        let bin = position as usize;
        // The value itself is one of them.
        let total = f64::from(self.total + WEIGHT);
        let above: u32 = self.counts[bin + 1..].iter().sum();
        let within = f64::from(self.counts[bin]) * (bin as f64 + 1.0 - position);
        let seen = ((f64::from(above) + within) / total).clamp(TAIL_MIN, 1.0);

        let wanted = (TAIL_SHARE * total).max(TAIL_LEAST * f64::from(WEIGHT)) as u32;
        if above >= wanted {
            return seen;
        }
        let (mut tail, mut excess) = (0, 0.0);
        let mut start = BINS;
        while start > 0 && tail < wanted {
            start -= 1;
            // All that was found before is one bin farther from the new start.
            excess += f64::from(tail) + 0.5 * f64::from(self.counts[start]);
            tail += self.counts[start];
        }
        let logarithm = |bins: f64| bins / BINS_PER_OCTAVE * std::f64::consts::LN_2;
        let beyond = logarithm(position - start as f64);
        if beyond <= 0.0 {
            return seen;
        }
        // As if there had been one more distance, of the usual shape.
        let tail = f64::from(tail + WEIGHT);
        let shape = (logarithm(excess) + SHAPE_PRIOR * f64::from(WEIGHT)) / tail;
        let continued = tail / total * (-beyond / shape.max(shape_min)).exp();
        continued.max(seen).min(1.0)
    }

    fn learn(&mut self, bin: usize, weight: u32) {
        self.counts[bin] += weight;
        self.total += weight;
        if self.total >= 2 * MEMORY * WEIGHT {
            self.total = 0;
            for count in &mut self.counts {
                *count /= 2;
                self.total += *count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One value a minute, from a midnight on.
    struct Fed {
        series: Series,
        minute: u64,
        state: u64,
    }

    impl Fed {
        fn new() -> Fed {
            Fed {
                series: Series::new(),
                minute: 0,
                state: 0x9e37_79b9_7f4a_7c15,
            }
        }

        fn take(&mut self, value: f64) -> Unusual {
            self.minute += 1;
            self.series.observe(self.minute * 60, value)
        }

        /// About normal, of mean 0 and deviation 1.
        fn noise(&mut self) -> f64 {
            let mut uniform = || {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                (self.state >> 11) as f64 / (1_u64 << 53) as f64
            };
            (0..12).map(|_| uniform()).sum::<f64>() - 6.0
        }

        /// Takes `count` values from `shape`, which is given the minute and some noise, and returns
        /// what stood out most.
        fn feed(&mut self, count: usize, shape: impl Fn(u64, f64) -> f64) -> Vec<Unusual> {
            let take = |_| {
                let noise = self.noise();
                self.take(shape(self.minute, noise))
            };
            (0..count).map(take).collect()
        }
    }

    fn calm(_minute: u64, noise: f64) -> f64 {
        100.0 + 5.0 * noise
    }

    fn daily(minute: u64, noise: f64) -> f64 {
        let angle = minute as f64 / 1440.0 * std::f64::consts::TAU;
        100.0 + 60.0 * angle.sin() + 5.0 * noise
    }

    fn onset(found: &[Unusual]) -> Unusual {
        let highest = |a: &&Unusual, b: &&Unusual| a.onset.total_cmp(&b.onset);
        *found.iter().max_by(highest).expect("values")
    }

    /// Rarer than once in five times what is remembered: what an alert may open at.
    const OPENS: f64 = 0.7;

    #[track_caller]
    fn check_silent(found: &[Unusual]) {
        let onset = onset(found);
        assert!(onset.onset < OPENS, "{onset:?}");
    }

    #[track_caller]
    fn check_onset(found: &[Unusual], direction: Direction, looks: &[Look]) {
        let onset = onset(found);
        assert!(onset.onset > OPENS, "{onset:?}");
        assert_eq!(onset.direction, direction, "{onset:?}");
        assert!(looks.contains(&onset.look), "{onset:?}");
    }

    /// What sees that a value is too great or too small.
    const FAR: &[Look] = &[Look::Jump, Look::Range];

    #[test]
    fn a_cold_start_is_silent_whatever_is_usual() {
        let shapes: [fn(u64, f64) -> f64; 7] = [
            |_, _| 0.0,
            |_, _| 42.0,
            calm,
            daily,
            |minute, _| (minute % 30) as f64,
            |_, noise| (2.0 * noise).exp(),
            |_, noise| noise.round().abs(),
        ];
        for shape in shapes {
            check_silent(&Fed::new().feed(5_000, shape));
        }
    }

    #[test]
    fn a_spike_and_a_drop_to_nothing_are_found_at_once() {
        for (value, direction) in [(200.0, Direction::Up), (0.0, Direction::Down)] {
            let mut fed = Fed::new();
            check_silent(&fed.feed(1_000, calm));
            let unusual = fed.take(value);
            check_onset(&[unusual], direction, FAR);
            assert!(unusual.tail < 1e-4, "{unusual:?}");
            assert!((unusual.expected - 100.0).abs() < 10.0, "{unusual:?}");
        }
    }

    #[test]
    fn a_spike_is_remembered_for_a_while_and_does_not_become_the_level() {
        let mut fed = Fed::new();
        fed.feed(1_000, calm);
        let spike = fed.take(1_000.0);
        let next = fed.take(100.0);
        assert!(
            next.tail > 0.01 && next.recent < spike.tail * 2.0,
            "{next:?}"
        );
        assert!((next.expected - 100.0).abs() < 10.0, "{next:?}");
        let later = fed.feed(300, calm);
        check_silent(&later);
        assert!(later[299].recent > 0.01, "{:?}", later[299]);
    }

    #[test]
    fn a_level_shift_alerts_once_and_is_usual_in_the_end() {
        let mut fed = Fed::new();
        fed.feed(1_000, calm);
        let shifted = fed.feed(2_000, |minute, noise| 3.0 * calm(minute, noise));
        check_onset(&shifted[..3], Direction::Up, FAR);
        let onsets = shifted
            .iter()
            .filter(|unusual| unusual.onset > OPENS)
            .count();
        assert!(onsets <= 3, "{onsets} onsets");
        let adapted = &shifted[1_000..];
        check_silent(adapted);
        assert!(
            adapted
                .iter()
                .all(|unusual| (unusual.expected - 300.0).abs() < 150.0)
        );
        // It is not the first jump any more, but still rare.
        let spike = fed.take(900.0);
        assert!(spike.tail < 0.01, "{spike:?}");
    }

    #[test]
    fn the_first_traffic_after_a_long_silence_is_learned() {
        let mut fed = Fed::new();
        fed.feed(5_000, |_, _| 0.0);
        let begun = fed.feed(2_000, calm);
        check_onset(&begun[..1], Direction::Up, FAR);
        check_silent(&begun[500..]);
        assert!(
            (begun[1_999].expected - 100.0).abs() < 30.0,
            "{:?}",
            begun[1_999]
        );
        // It is not the first of its kind any more, but still rare.
        let spike = fed.take(400.0);
        assert!(spike.tail < 0.01, "{spike:?}");
    }

    #[test]
    fn a_slow_ramp_is_followed() {
        let mut fed = Fed::new();
        fed.feed(1_000, calm);
        let ramp = |minute, noise| calm(minute, noise) * (1.0 + (minute - 1_000) as f64 / 5_000.0);
        check_silent(&fed.feed(5_000, ramp));
    }

    #[test]
    fn a_value_that_freezes_is_found() {
        let mut fed = Fed::new();
        fed.feed(1_000, calm);
        let frozen = fed.feed(200, |_, _| 101.0)[199];
        assert!(frozen.tail < 0.005, "{frozen:?}");
        assert_eq!(
            (frozen.look, frozen.direction),
            (Look::Unrest, Direction::Down)
        );
    }

    #[test]
    fn a_day_without_its_peak_is_found() {
        let mut fed = Fed::new();
        check_silent(&fed.feed(7 * 1_440, daily));
        let night = |_, noise| daily(1_080, noise);
        let found = fed.feed(1_440, |minute, noise| {
            daily(minute, noise).min(night(minute, noise))
        });
        check_onset(&found, Direction::Down, &[Look::Day]);
    }

    #[test]
    fn what_recurs_is_usual_in_the_end() {
        let mut fed = Fed::new();
        let pulses =
            |minute, noise| calm(minute, noise) + if minute % 120 == 0 { 400.0 } else { 0.0 };
        fed.feed(3_000, pulses);
        check_silent(&fed.feed(3_000, pulses));
        let mut fed = Fed::new();
        let square = |minute, _| if minute / 60 % 8 == 0 { 80.0 } else { 20.0 };
        fed.feed(5_000, square);
        check_silent(&fed.feed(5_000, square));
    }

    /// Light tails are rarer than that, because none is believed to be lighter than a power law.
    #[test]
    fn probabilities_are_no_rarer_than_they_say() {
        for (shape, least) in [
            (calm as fn(u64, f64) -> f64, 0.0),
            (daily, 0.0),
            (|_, noise| (2.0 * noise).exp(), 1.0 / 30.0),
        ] {
            let found = Fed::new().feed(20_000, shape);
            for tail in [0.1, 0.01, 0.001] {
                let below = found.iter().filter(|unusual| unusual.tail < tail).count();
                let share = below as f64 / found.len() as f64;
                let least = if tail < 0.01 { 0.0 } else { least * tail };
                assert!((least..=tail).contains(&share), "{share} below {tail}");
            }
        }
    }

    #[test]
    fn an_attack_teaches_little() {
        for attack in [300.0, 1e6, VALUE_MAX] {
            let mut fed = Fed::new();
            fed.feed(2_000, calm);
            fed.feed(20, |_, _| attack);
            let after = fed.feed(10, calm);
            assert!((after[9].expected - 100.0).abs() < 20.0, "{:?}", after[9]);
            fed.feed(120, calm);
            let again = fed.take(300.0);
            assert!(again.tail < 0.05, "after {attack}: {again:?}");
        }
    }

    #[test]
    fn no_input_does_harm() {
        let odd = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            -0.0,
            0.0,
            1.0,
        ];
        for start in 0..odd.len() {
            let mut series = Series::new();
            for step in 0..5_000 {
                // Also backwards and at the end of time.
                let at_s = if step % 7 == 0 {
                    u64::MAX - step
                } else {
                    step * 60
                };
                let value = odd[(start + (step * step) as usize) % odd.len()];
                let Unusual {
                    tail,
                    recent,
                    onset,
                    direction: _,
                    look: _,
                    expected,
                } = series.observe(at_s, value);
                assert!(tail > 0.0 && tail <= 1.0, "{tail} of {value}");
                assert!(recent > 0.0 && recent <= tail, "{recent} of {value}");
                assert!(!onset.is_nan() && onset < 100.0, "{onset} of {value}");
                assert!(expected.is_finite(), "{expected} of {value}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_as_if_absent() {
        let mut fed = Fed::new();
        fed.feed(500, calm);
        let before = format!("{:?}", fed.series);
        let unusual = fed.take(f64::NAN);
        assert_eq!((unusual.tail, unusual.onset), (1.0, f64::NEG_INFINITY));
        assert_eq!(format!("{:?}", fed.series), before);
    }

    #[test]
    fn a_series_is_small() {
        assert!(size_of::<Series>() <= 2_048, "{}", size_of::<Series>());
    }
}
