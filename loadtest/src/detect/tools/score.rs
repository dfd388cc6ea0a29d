//! Holds alerts against what really happened.
//!
//! An event is *found* by an alert about it: one whose subject is or contains its source or its target,
//! of a detector that its kind declares, of which something was seen between its begin and [`GRACE_US`]
//! after its end. An alert about the right subject is never false, even if it comes late or from a
//! detector that nobody expected, but then it finds nothing. Everything else is *false*, but for one
//! thing that is counted by itself: that a route is slower while a flood or a fault keeps the machine
//! busy is true, and nobody's target (*consequence*).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::alerts::{Sighting, Subject};
use super::api::{DEPLOYED, ROUTES};
use super::arena;

/// An alert so long after an event's end still finds it.
pub const GRACE_US: u64 = 10_000_000;
/// An alert about the right subject so long after is late, not false: alerts that look at a minute.
const LATE_US: u64 = 120_000_000;
/// What the clocks of two processes, and a sweep, may differ by.
const EARLY_US: u64 = 1_000_000;
/// What a busy machine makes true of routes that nobody attacks.
const CONSEQUENCES: [&str; 3] = ["route_latency", "route_errors", "route_rate"];

/// What the runner did, and to whom: the truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its kind, see [`KINDS`](super::kinds::KINDS).
    pub kind: String,
    /// `flood`, `scan`, ...
    pub class: String,
    /// `low`, `middle`, `high`.
    pub intensity: String,
    /// Of the run.
    pub seed: u64,
    /// The program that did it.
    pub tool: String,
    /// Where it came from.
    pub sources: Vec<Ipv4Addr>,
    /// Sources were forged; any address that is nobody's may be one.
    pub forged: bool,
    /// Client ids it used that are its own, or stolen.
    pub consumers: Vec<String>,
    /// Templates of the routes it was aimed at.
    pub routes: Vec<String>,
    /// Paths without a route.
    pub unrouted: bool,
    /// Ports of the listeners it was aimed at.
    pub ports: Vec<u16>,
    /// Detectors that may find it.
    pub detectors: Vec<String>,
    /// Busy machines make other alerts true.
    pub shakes: bool,
    /// Begin, µs since 1970.
    pub start_us: u64,
    /// End, µs since 1970.
    pub end_us: u64,
    /// How its program ended.
    pub ended: String,
}

impl Event {
    /// Whether an alert's subject is its source or its target, or contains it.
    pub fn concerns(&self, subject: &Subject) -> bool {
        let Subject { kind, name } = subject;
        match kind.as_str() {
            "client" => name.parse().is_ok_and(|address| self.comes_from(address)),
            "network" => network(name).is_some_and(|(base, bits)| {
                let inside = |source: &Ipv4Addr| {
                    bits == 0 || (source.to_bits() ^ base.to_bits()) >> (32 - bits) == 0
                };
                self.sources.iter().any(inside) || (self.forged && self.comes_from(base))
            }),
            "consumer" => self.consumers.contains(name),
            "route" => match template(name) {
                Some(template) => self.routes.iter().any(|route| route == template),
                None => self.unrouted,
            },
            "listener" => {
                let port = name.rsplit(':').next().and_then(|port| port.parse().ok());
                port.is_some_and(|port| self.ports.contains(&port))
            }
            "everyone" => self.sources.len() > 1 || self.forged,
            _ => false,
        }
    }

    fn comes_from(&self, address: Ipv4Addr) -> bool {
        let stranger = |address| !arena::is_benign(address) && !arena::is_foe(address);
        self.sources.contains(&address) || (self.forged && stranger(address))
    }

    fn is_within(&self, at_us: u64, after_us: u64) -> bool {
        (self.start_us.saturating_sub(EARLY_US)..=self.end_us + after_us).contains(&at_us)
    }

    /// Whether a sighting finds it.
    pub fn is_found_by(&self, sighting: &Sighting) -> bool {
        self.is_within(sighting.at_us, GRACE_US)
            && self.detectors.contains(&sighting.detector)
            && self.concerns(&sighting.subject)
    }
}

/// `198.19.0.0/16`
fn network(name: &str) -> Option<(Ipv4Addr, u32)> {
    let (base, bits) = name.split_once('/')?;
    let bits = bits.parse().ok().filter(|bits| *bits <= 32)?;
    Some((base.parse().ok()?, bits))
}

/// The template in a route's name, whatever stands around it.
fn template(name: &str) -> Option<&str> {
    let known = |word: &&str| {
        let mut all = ROUTES.iter().chain(&DEPLOYED);
        all.any(|(_, template, _)| template == word)
    };
    name.split_whitespace().find(known)
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// From its begin to the first alert that finds it, µs.
    pub delay_us: u64,
    /// Whose alert that was.
    pub detector: String,
}

/// What became of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// For each event, in order.
    pub found: Vec<Option<Found>>,
    /// Alerts that opened about nothing that happened.
    pub wrong: Vec<Sighting>,
    /// Alerts that are true of a busy machine.
    pub consequences: Vec<Sighting>,
    /// Alerts about an event's subject that find nothing.
    pub beside: usize,
}

/// Scores one run.
pub fn score(events: &[Event], sightings: &[Sighting]) -> Score {
    let found = |event: &Event| {
        let mut right = sightings.iter().filter(|one| event.is_found_by(one));
        let first = right.by_ref().min_by_key(|one| one.at_us)?;
        Some(Found {
            delay_us: first.at_us.saturating_sub(event.start_us),
            detector: first.detector.clone(),
        })
    };
    let mut score = Score {
        found: events.iter().map(found).collect(),
        ..Score::default()
    };
    for sighting in sightings.iter().filter(|one| one.opened) {
        let at = sighting.at_us;
        let during = |event: &&Event| event.is_within(at, LATE_US);
        let concerned = |event: &Event| event.concerns(&sighting.subject);
        let shaken = |event: &Event| event.shakes && event.is_within(at, GRACE_US);
        let busy = ["route", "everyone"].contains(&sighting.subject.kind.as_str())
            && CONSEQUENCES.contains(&sighting.detector.as_str());
        if events.iter().any(|event| event.is_found_by(sighting)) {
        } else if events.iter().filter(during).any(concerned) {
            score.beside += 1;
        } else if busy && events.iter().any(shaken) {
            score.consequences.push(sighting.clone());
        } else {
            score.wrong.push(sighting.clone());
        }
    }
    score
}

/// Events and their fates, summed up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// How many there were.
    pub events: usize,
    /// How many were found.
    pub found: usize,
    /// From begin to alert of each that was found, µs, sorted.
    pub delays_us: Vec<u64>,
    /// By which detector first.
    pub by: BTreeMap<String, usize>,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, found: Option<&Found>) {
        self.events += 1;
        if let Some(Found { delay_us, detector }) = found {
            self.found += 1;
            let at = self.delays_us.partition_point(|delay| delay <= delay_us);
            self.delays_us.insert(at, *delay_us);
            *self.by.entry(detector.clone()).or_default() += 1;
        }
    }

    /// Of all events, those that were found.
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.events as f64
    }

    /// The median delay, where every event that was not found counts as later than all others; nothing
    /// where that is half of them or more.
    pub fn median_us(&self) -> Option<u64> {
        self.delays_us.get(self.events / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn event() -> Event {
        Event {
            kind: "hydra-form".into(),
            class: "guessing".into(),
            intensity: "low".into(),
            seed: 1,
            tool: "hydra".into(),
            sources: vec![Ipv4Addr::new(198, 19, 3, 7)],
            forged: false,
            consumers: vec!["trial-1".into()],
            routes: vec!["/login".into()],
            unrouted: false,
            ports: vec![8081],
            detectors: vec!["auth_failures".into(), "route_errors".into()],
            shakes: false,
            start_us: 100 * S,
            end_us: 120 * S,
            ended: "exit status: 0".into(),
        }
    }

    fn sighting(at_s: u64, detector: &str, kind: &str, name: &str) -> Sighting {
        Sighting {
            at_us: at_s * S,
            opened: true,
            id: format!("{at_s}{detector}{name}"),
            detector: detector.into(),
            subject: Subject {
                kind: kind.into(),
                name: name.into(),
            },
            summary: String::new(),
        }
    }

    /// The delay in seconds, the number of wrong ones, of consequences and of those beside.
    fn check(event: Event, sightings: &[Sighting], expected: (Option<u64>, usize, usize, usize)) {
        let score = score(&[event], sightings);
        let delay = score.found[0].as_ref().map(|found| found.delay_us / S);
        let seen = (
            delay,
            score.wrong.len(),
            score.consequences.len(),
            score.beside,
        );
        assert_eq!(seen, expected, "{sightings:?}");
    }

    #[test]
    fn the_source_and_the_target_find_an_event() {
        for (kind, name) in [
            ("client", "198.19.3.7"),
            ("network", "198.19.3.0/24"),
            ("network", "198.19.0.0/16"),
            ("consumer", "trial-1"),
            ("route", "/login"),
            ("route", "POST /login"),
            ("route", "orders /login"),
            ("listener", "198.18.255.1:8081"),
        ] {
            check(
                event(),
                &[sighting(104, "auth_failures", kind, name)],
                (Some(4), 0, 0, 0),
            );
        }
    }

    #[test]
    fn an_alert_about_somebody_else_is_false_and_finds_nothing() {
        for (kind, name) in [
            ("client", "198.19.3.8"),
            ("client", "198.18.80.1"),
            ("network", "198.18.64.0/18"),
            ("consumer", "partner-1"),
            ("route", "/orders"),
            ("route", "/nowhere"),
            ("listener", "198.18.255.1:8080"),
            ("everyone", "everyone"),
        ] {
            check(
                event(),
                &[sighting(104, "auth_failures", kind, name)],
                (None, 1, 0, 0),
            );
        }
    }

    #[test]
    fn the_first_of_several_counts() {
        let all = [
            sighting(119, "auth_failures", "client", "198.19.3.7"),
            sighting(107, "route_errors", "route", "/login"),
        ];
        check(event(), &all, (Some(7), 0, 0, 0));
    }

    #[test]
    fn an_unexpected_detector_and_a_late_alert_find_nothing_but_are_not_false() {
        for one in [
            sighting(104, "injection", "client", "198.19.3.7"),
            sighting(131, "auth_failures", "client", "198.19.3.7"),
        ] {
            check(event(), &[one], (None, 0, 0, 1));
        }
        let before = sighting(98, "auth_failures", "client", "198.19.3.7");
        check(event(), &[before], (None, 1, 0, 0));
        let long_after = sighting(500, "auth_failures", "client", "198.19.3.7");
        check(event(), &[long_after], (None, 1, 0, 0));
    }

    #[test]
    fn what_goes_on_counts_for_the_event_but_is_no_second_alert() {
        let mut goes_on = sighting(104, "route_errors", "route", "/login");
        goes_on.opened = false;
        check(event(), &[goes_on.clone()], (Some(4), 0, 0, 0));
        goes_on.at_us = 300 * S;
        check(event(), &[goes_on], (None, 0, 0, 0));
    }

    #[test]
    fn a_busy_machine_slows_other_routes() {
        let slow = sighting(104, "route_latency", "route", "/search");
        check(event(), std::slice::from_ref(&slow), (None, 1, 0, 0));
        let shaking = Event {
            shakes: true,
            ..event()
        };
        check(shaking.clone(), &[slow], (None, 0, 1, 0));
        let innocent = sighting(104, "client_rate", "client", "198.18.80.1");
        check(shaking, &[innocent], (None, 1, 0, 0));
    }

    #[test]
    fn forged_sources_are_nobodys_addresses() {
        let forged = Event {
            forged: true,
            ..event()
        };
        for (kind, name, right) in [
            ("client", "81.2.69.160", true),
            ("network", "81.2.69.0/24", true),
            ("everyone", "everyone", true),
            ("client", "198.18.80.1", false),
            ("network", "198.18.80.0/24", false),
        ] {
            let expected = if right {
                (Some(4), 0, 0, 0)
            } else {
                (None, 1, 0, 0)
            };
            check(
                forged.clone(),
                &[sighting(104, "auth_failures", kind, name)],
                expected,
            );
        }
    }

    #[test]
    fn what_was_never_found_counts_as_latest() {
        let mut tally = Tally::default();
        let found = |delay_us| Found {
            delay_us,
            detector: "x".into(),
        };
        tally.add(Some(&found(3)));
        tally.add(Some(&found(1)));
        assert_eq!(tally.median_us(), Some(3));
        tally.add(None);
        assert_eq!(tally.median_us(), Some(3));
        tally.add(None);
        assert_eq!(tally.median_us(), None);
        assert!((tally.recall() - 0.5).abs() < 1e-9);
    }
}
