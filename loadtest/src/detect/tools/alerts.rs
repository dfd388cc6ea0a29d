//! Alerts as calltap tells of them, and when something was seen of each.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whom an alert is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `client`, `network`, `route`, `consumer`, `listener` or `everyone`.
    pub kind: String,
    /// The address, the route, ...
    pub name: String,
}

/// An alert, as much of it as is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its id.
    pub id: String,
    /// Who saw it.
    pub detector: String,
    /// Whom it is about.
    pub subject: Subject,
    /// `open` or `resolved`.
    pub state: String,
    /// What happened.
    pub summary: String,
    /// When it was opened, RFC 3339.
    pub opened: String,
    /// When it was last seen, RFC 3339.
    pub seen: String,
    /// How often it was seen.
    pub signals: u64,
}

/// Something was seen of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// When, µs since 1970.
    pub at_us: u64,
    /// It is new, or was resolved before.
    pub opened: bool,
    /// The alert's id.
    pub id: String,
    /// Who saw it.
    pub detector: String,
    /// Whom it is about.
    pub subject: Subject,
    /// What happened.
    pub summary: String,
}

/// Turns what is kept at one moment after the other into sightings.
#[derive(Debug, Default)]
pub struct Watcher {
    /// By id: signals, and whether it was open.
    known: HashMap<String, (u64, bool)>,
}

impl Watcher {
    /// What is new in the alerts that are kept now.
    pub fn look(&mut self, alerts: &[Alert]) -> anyhow::Result<Vec<Sighting>> {
        let mut sightings = Vec::new();
        for alert in alerts {
            let open = alert.state == "open";
            let known = self.known.insert(alert.id.clone(), (alert.signals, open));
            let (opened, at) = match known {
                None => (true, &alert.opened),
                Some((_, false)) if open => (true, &alert.seen),
                Some((signals, _)) if alert.signals > signals => (false, &alert.seen),
                Some(_) => continue,
            };
            sightings.push(Sighting {
                at_us: unix_us(at)?,
                opened,
                id: alert.id.clone(),
                detector: alert.detector.clone(),
                subject: alert.subject.clone(),
                summary: alert.summary.clone(),
            });
        }
        Ok(sightings)
    }
}

/// The alerts in an answer of `GET /api/v1/alerts`: a list, or an object that holds one as `alerts`.
pub fn listed(answer: Value) -> anyhow::Result<Vec<Alert>> {
    let list = match answer {
        Value::Array(list) => list,
        Value::Object(mut object) => match object.remove("alerts") {
            Some(Value::Array(list)) => list,
            _ => bail!("the answer holds no list of alerts"),
        },
        _ => bail!("the answer is no list of alerts"),
    };
    let read = |alert| serde_json::from_value(alert).context("an alert of another shape");
    list.into_iter().map(read).collect()
}

/// µs since 1970 of a time in UTC as RFC 3339 has it: `2026-01-31T12:00:00.123456Z`.
pub fn unix_us(text: &str) -> anyhow::Result<u64> {
    parse(text).with_context(|| format!("{text} is no time in UTC"))
}

fn parse(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if year < 1970 || !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    // Howard Hinnant's days_from_civil: years begin in March, so that the leap day is their last.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    let fraction: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction)
}

/// RFC 3339 in UTC, to the microsecond.
pub fn rfc3339(unix_us: u64) -> String {
    let (seconds, us) = (unix_us / 1_000_000, unix_us % 1_000_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

/// Now, µs since 1970.
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, us) in [
            ("1970-01-01T00:00:00.000000Z", 0),
            ("2000-02-29T23:59:59.000001Z", 951_868_799_000_001),
            ("2026-11-28T09:28:06.500000Z", 1_795_858_086_500_000),
            ("2100-03-01T00:00:00.000000Z", 4_107_542_400_000_000),
        ] {
            assert_eq!(unix_us(text).unwrap(), us);
            assert_eq!(rfc3339(us), text);
        }
        assert_eq!(unix_us("1970-01-02T00:00:00Z").unwrap(), 86_400_000_000);
        assert!(unix_us("yesterday").is_err());
        assert!(unix_us("2026-13-01T00:00:00Z").is_err());
    }

    #[test]
    fn an_alert_is_sighted_when_it_opens_when_it_grows_and_when_it_returns() {
        let mut alert = Alert {
            id: "a".into(),
            detector: "client_rate".into(),
            subject: Subject {
                kind: "client".into(),
                name: "198.19.0.7".into(),
            },
            state: "open".into(),
            summary: String::new(),
            opened: "1970-01-01T00:00:01Z".into(),
            seen: "1970-01-01T00:00:01Z".into(),
            signals: 1,
        };
        let mut watcher = Watcher::default();
        let mut look = |alert: &Alert| -> Vec<(u64, bool)> {
            let seen = watcher.look(std::slice::from_ref(alert)).unwrap();
            seen.iter().map(|one| (one.at_us, one.opened)).collect()
        };
        assert_eq!(look(&alert), [(1_000_000, true)]);
        assert_eq!(look(&alert), []);
        alert.signals = 4;
        alert.seen = "1970-01-01T00:00:05Z".into();
        assert_eq!(look(&alert), [(5_000_000, false)]);
        alert.state = "resolved".into();
        assert_eq!(look(&alert), []);
        alert.state = "open".into();
        alert.signals = 5;
        alert.seen = "1970-01-01T00:02:00Z".into();
        assert_eq!(look(&alert), [(120_000_000, true)]);
    }

    #[test]
    fn an_answer_is_a_list_or_holds_one() {
        let alert = serde_json::json!({
            "id": "x", "detector": "injection", "state": "open", "summary": "s",
            "subject": {"kind": "client", "name": "198.19.0.7"}, "signals": 1, "score": 9.0,
            "opened": "2026-01-01T00:00:00.000000Z", "seen": "2026-01-01T00:00:00.000000Z",
        });
        assert_eq!(listed(serde_json::json!([alert])).unwrap().len(), 1);
        assert_eq!(
            listed(serde_json::json!({ "alerts": [alert] }))
                .unwrap()
                .len(),
            1
        );
        assert!(listed(serde_json::json!({ "error": "no" })).is_err());
        assert!(listed(serde_json::json!([{ "id": 3 }])).is_err());
    }
}
