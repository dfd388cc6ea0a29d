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
//! The level is an exponential mean that follows at most [`CLIP`] spreads per value, so that what is
//! unusual moves it little, and what lasts moves it in the end. The spread is a root mean square of
//! such clipped distances, up and down apart. A day has [`SLOTS`] slots, each with the mean of its
//! values on earlier days. A sketch counts distances in bins of half an octave; the shape of its
//! tail is Hill's estimate (the mean logarithm of the excess) over the greatest [`TAIL_SHARE`] of
//! the distances, kept from below by [`SHAPE_MIN`] because few values cannot prove a tail to be
//! light.
//!
//! Three numbers come out, all from the same probability `p`. [`Unusual::tail`] is `p` itself.
//! [`Unusual::recent`] is the least `p` of late, forgotten by and by: it remains low through an
//! anomaly and a little longer. [`Unusual::onset`] is for opening alerts: it holds `p` against how
//! many values were seen, for in a thousand values one of a thousandth is to be expected, and it
//! speaks once for what goes on.
//!
//! # When it is wrong
//!
//! It learns from what it sees: what lasts for more than some thousand values, or recurs every few
//! hundred, is usual. A slow enough ramp is followed. It knows of days but not of weeks: a weekend
//! is unusual for some weeks. Time scales are counted in values; it is meant for one value a minute
//! or so, and one a second would make it forget within the hour. In the first hundred values it says
//! little.

/// Values that are only learned from.
const WARM_UP: f64 = 30.0;

/// How much of the distance to a new value the level follows: it spans about ten values.
const LEVEL_RATE: f64 = 0.1;
/// How fast the spread around the level follows: it spans about a thousand values, so that an hour
/// of unrest does not count as usual.
const SPREAD_RATE: f64 = 0.001;
/// How fast the middle of everything follows.
const RANGE_RATE: f64 = 0.000_5;
/// How many spreads a value may be away before it teaches no more than one at this distance.
const CLIP: f64 = 3.0;
/// A spread is never less than this share of the other direction's and its own together.
const LEAST_OF_BOTH: f64 = 0.2;

/// Below this share of the middle no difference matters to anybody.
const LEAST_OF_MIDDLE: f64 = 0.001;
/// Nor below this share of how far values are from the middle on average.
const LEAST_OF_DEVIATION: f64 = 0.05;
/// How many average deviations a value may be away before it raises their average no more.
const DEVIATION_CLIP: f64 = 30.0;

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
/// A single jump counts to unrest as no more than this many spreads.
const UNREST_CLIP: f64 = 10.0;

/// Half octaves from 1/16 to 2048 and everything beyond.
const BINS: usize = 32;
const BINS_PER_OCTAVE: f64 = 2.0;
const LOWEST_LOG2: f64 = -4.0;
/// A sketch with more values than twice these forgets half of each count.
const MEMORY: f32 = 10_000.0;
/// The share of the greatest distances that tells how the tail goes on, and the least number.
const TAIL_SHARE: f64 = 0.02;
const TAIL_LEAST: f64 = 3.0;
/// What the shape of a tail is taken for before there is any, as if from one distance.
const SHAPE_PRIOR: f64 = 0.5;
/// The lightest tail that is believed: ten times the distance is at least a thousandth as probable.
const SHAPE_MIN: f64 = 0.3;
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
    /// remembered; minus infinity for what goes on already. Zero or more is rare, two very rare.
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
    /// Mean squares of clipped distances from the level, up and down.
    spread: [f64; 2],
    middle: f64,
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
            spread: [0.0; 2],
            middle: 0.0,
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

    fn is_warm(&self) -> bool {
        self.values > WARM_UP
    }

    /// `rate`, or what makes a plain mean of the first values.
    fn rate(&self, rate: f64) -> f64 {
        rate.max(1.0 / self.values)
    }

    /// The least distance that counts as one, whatever the spread.
    fn floor(&mut self, value: f64) -> f64 {
        let least = LEAST_OF_MIDDLE * self.middle.abs() + f64::MIN_POSITIVE;
        let mut deviation = (value - self.middle).abs();
        if self.is_warm() {
            deviation = deviation.min(DEVIATION_CLIP * self.deviation + least);
        }
        self.deviation += self.rate(SPREAD_RATE) * (deviation - self.deviation);
        least + LEAST_OF_DEVIATION * self.deviation
    }

    /// Also the distance itself, in spreads.
    fn jump(&mut self, value: f64, floor: f64) -> (Found, f64) {
        let expected = self.level;
        let away = value - expected;
        let direction = direction(away);
        let side = direction as usize;
        let both = (self.spread[0] + self.spread[1]).sqrt();
        let spread = self.spread[side].sqrt().max(LEAST_OF_BOTH * both) + floor;
        let distance = away.abs() / spread;
        let tail = self.jumps.judge(direction, distance);
        let learned = match self.is_warm() {
            true => away.clamp(-CLIP * spread, CLIP * spread),
            false => away,
        };
        self.level += self.rate(LEVEL_RATE) * learned;
        let rate = self.rate(SPREAD_RATE);
        self.spread[side] += rate * (learned * learned - self.spread[side]);
        let found = Found {
            tail: if self.is_warm() { LOOKS * tail } else { 1.0 },
            direction,
            look: Look::Jump,
            expected,
        };
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
        let tail = self.days.judge(direction, away / spread);
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
        let spread = self.range + floor;
        let tail = self.ranges.judge(direction, away.abs() / spread);
        let learned = match self.is_warm() {
            true => away.clamp(-CLIP * spread, CLIP * spread),
            false => away,
        };
        let rate = self.rate(RANGE_RATE);
        self.middle += rate * learned;
        self.range += rate * (learned.abs() - self.range);
        Found {
            tail: if self.is_warm() { LOOKS * tail } else { 1.0 },
            direction,
            look: Look::Range,
            expected,
        }
    }

    fn unrest(&mut self, value: f64, distance: f64) -> [Found; 2] {
        self.unrest += UNREST_RATE * (distance.min(UNREST_CLIP) - self.unrest);
        self.frozen = if value == self.last {
            self.frozen + 1.0
        } else {
            0.0
        };
        self.last = value;
        let restless = self.unrests.judge(self.unrest, SHAPE_MIN);
        let frozen = self.frozens.judge(self.frozen, SHAPE_MIN_FROZEN);
        let is_warm = self.values > 2.0 / UNREST_RATE;
        [(restless, Direction::Up), (frozen, Direction::Down)].map(|(tail, direction)| Found {
            tail: if is_warm { LOOKS * tail } else { 1.0 },
            direction,
            look: Look::Unrest,
            expected: self.level,
        })
    }

    fn onset(&mut self, decades: f64) -> f64 {
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
    fn judge(&mut self, direction: Direction, distance: f64) -> f64 {
        let [up, down] = &mut self.0;
        match direction {
            Direction::Up => {
                down.learn(0);
                up.judge(distance, SHAPE_MIN)
            }
            Direction::Down => {
                up.learn(0);
                down.judge(distance, SHAPE_MIN)
            }
        }
    }
}

/// A distribution of past distances.
#[derive(Clone, Debug)]
struct Sketch {
    counts: [f32; BINS],
    total: f32,
}

impl Sketch {
    fn new() -> Sketch {
        Sketch {
            counts: [0.0; BINS],
            total: 0.0,
        }
    }

    /// The probability of a `distance` at least as great, by those before it; then learns it.
    fn judge(&mut self, distance: f64, shape_min: f64) -> f64 {
        let position = (distance.max(f64::MIN_POSITIVE).log2() - LOWEST_LOG2) * BINS_PER_OCTAVE;
        let position = position.clamp(0.0, (BINS - 1) as f64);
        let tail = self.tail(position, shape_min);
        self.learn(position as usize);
        tail
    }

    fn tail(&self, position: f64, shape_min: f64) -> f64 {
        let bin = position as usize;
        // The value itself is one of them.
        let total = f64::from(self.total) + 1.0;
        let above: f32 = self.counts[bin + 1..].iter().sum();
        let within = f64::from(self.counts[bin]) * (1.0 - position.fract());
        let seen = (f64::from(above) + within) / total;

        let wanted = (TAIL_SHARE * total).max(TAIL_LEAST) as f32;
        let (mut tail, mut excess) = (0.0_f32, 0.0_f32);
        let mut start = BINS;
        while start > 0 && tail < wanted {
            start -= 1;
            // All that was found before is one bin farther from the new start.
            excess += tail + 0.5 * self.counts[start];
            tail += self.counts[start];
        }
        let logarithm = |bins: f64| bins / BINS_PER_OCTAVE * std::f64::consts::LN_2;
        let beyond = logarithm(position - start as f64);
        let probability = if beyond > 0.0 {
            let tail = f64::from(tail) + 1.0;
            let shape = (logarithm(f64::from(excess)) + SHAPE_PRIOR) / tail;
            seen.max(tail / total * (-beyond / shape.max(shape_min)).exp())
        } else {
            seen
        };
        probability.clamp(TAIL_MIN, 1.0)
    }

    fn learn(&mut self, bin: usize) {
        self.counts[bin] += 1.0;
        self.total += 1.0;
        if self.total >= 2.0 * MEMORY {
            for count in &mut self.counts {
                *count /= 2.0;
            }
            self.total /= 2.0;
        }
    }
}
