//! Wall time: added once, when a record is made.

use std::fmt;
use std::str::FromStr;

/// Microseconds since 1970, UTC; printed as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

const MICROS_PER_DAY: i64 = 86_400_000_000;

impl Timestamp {
    /// From microseconds since 1970; held within the years 0 to 9999, which RFC 3339 can name.
    pub fn from_unix_us(unix_us: i64) -> Self {
        const YEAR_0: i64 = -719_528 * MICROS_PER_DAY;
        const YEAR_10000: i64 = 2_932_897 * MICROS_PER_DAY;
        Self(unix_us.clamp(YEAR_0, YEAR_10000 - 1))
    }

    /// Microseconds since 1970.
    pub fn unix_us(self) -> i64 {
        self.0
    }
}

impl Timestamp {
    /// As in `2026-01-31T23:59:59.000000Z`.
    pub(crate) fn rfc3339(self) -> [u8; 27] {
        let (year, month, day) = date_of(self.0.div_euclid(MICROS_PER_DAY));
        let micros = self.0.rem_euclid(MICROS_PER_DAY);
        let seconds = micros / 1_000_000;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |range: std::ops::Range<usize>, mut number: i64| {
            for at in range.rev() {
                text[at] = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(0..4, year);
        put(5..7, month);
        put(8..10, day);
        put(11..13, seconds / 3600);
        put(14..16, seconds / 60 % 60);
        put(17..19, seconds % 60);
        put(20..26, micros % 1_000_000);
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rfc3339()
            .iter()
            .try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

/// Text that is not a time as [`Timestamp`] prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTimestamp(String);

impl fmt::Display for BadTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a time like 2026-01-31T23:59:59.000000Z",
            self.0
        )
    }
}

impl std::error::Error for BadTimestamp {}

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    /// Takes UTC with `Z` and up to six decimals of a second.
    fn from_str(text: &str) -> Result<Self, BadTimestamp> {
        parse(text).ok_or_else(|| BadTimestamp(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let numbers = |text: &str, separator| -> Option<[i64; 3]> {
        let mut parts = text.split(separator).map(digits);
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(numbers)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let micros =
        digits(fraction).filter(|_| fraction.len() <= 6)? * 10_i64.pow(6 - fraction.len() as u32);
    if year > 9999 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_until(year, month, day);
    (date_of(days) == (year, month, day)).then(|| {
        let seconds = (hour * 60 + minute) * 60 + second;
        Timestamp(days * MICROS_PER_DAY + seconds * 1_000_000 + micros)
    })
}

fn digits(text: &str) -> Option<i64> {
    let valid = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| text.parse().ok())?
}

// Both count from 1 March of the year 0, so that the leap day is the last of its year.

/// Days since 1970 of a date in the proleptic Gregorian calendar.
fn days_until(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a number of days since 1970.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// Turns `CLOCK_MONOTONIC` into wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Wall time, in nanoseconds since 1970, when the monotonic clock stood at zero.
    pub wall_ns_at_zero: i64,
}

impl WallClock {
    /// From one reading of both clocks, nanoseconds.
    pub fn new(wall_ns: i64, monotonic_ns: u64) -> Self {
        let monotonic_ns = i64::try_from(monotonic_ns).unwrap_or(i64::MAX);
        Self {
            wall_ns_at_zero: wall_ns.saturating_sub(monotonic_ns),
        }
    }

    /// The wall time of a moment given in whole microseconds of the monotonic clock.
    pub fn at_us(self, monotonic_us: u64) -> Timestamp {
        let zero_us = self.wall_ns_at_zero.div_euclid(1000);
        let monotonic_us = i64::try_from(monotonic_us).unwrap_or(i64::MAX);
        Timestamp::from_unix_us(zero_us.saturating_add(monotonic_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_known_moments() {
        for (unix_us, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_795_357_483_000_001, "2026-11-22T14:24:43.000001Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp::from_unix_us(unix_us).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for text in [
            "",
            "2026-11-22",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T00:00:00+01:00",
            "2026-11-22T00:00:00.1234567Z",
            "2026-1é-22T00:00:00Z",
            "-026-11-22T00:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert_eq!(
            "2026-11-22T14:24:43.5Z".parse(),
            Ok(Timestamp(1_795_357_483_500_000))
        );
    }

    proptest! {
        #[test]
        fn every_time_reads_back(unix_us in any::<i64>()) {
            let time = Timestamp::from_unix_us(unix_us);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
