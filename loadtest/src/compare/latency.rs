//! How long calls take at a rate that everybody can bear: half of what calltap with all on reaches.
//!
//! The same rate for everybody, so that a faster gateway is not asked for more.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::compare::load::{self, Load, Way};
use crate::compare::open_loop::{self, Offer};
use crate::compare::place::Place;
use crate::compare::statistics::{median, quantile};
use crate::compare::subject::{Subject, Variant};

/// Everybody who writes, and calltap that does not.
pub const VARIANTS: [Variant; 5] = [
    Variant::NGINX_ON,
    Variant::HAPROXY_ON,
    Variant::ENVOY_ON,
    Variant::OFF,
    Variant::ON,
];
/// Connections that carry the calls.
const CONNECTIONS: u32 = 32;
/// Rounds in which the saturation rate is taken.
const SATURATED_ROUNDS: usize = 5;

/// How long calls took.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Calls per second at which calltap with all on is saturated, median.
    pub saturated_per_s: f64,
    /// Calls per second that were offered.
    pub offered_per_s: f64,
    /// Everybody's.
    pub subjects: Vec<Quantiles>,
}

/// One gateway's, of every round, µs.
#[derive(Debug, Serialize)]
pub struct Quantiles {
    /// Who.
    pub variant: Variant,
    /// Half of the calls took no longer.
    pub p50: Vec<f64>,
    /// All but one of a hundred took no longer.
    pub p99: Vec<f64>,
    /// All but one of a thousand took no longer.
    pub p999: Vec<f64>,
    /// All but one of a hundred were sent no later after they were due.
    pub sent_late_p99: Vec<f64>,
}

impl Latency {
    /// One gateway's 99th percentiles, round by round.
    pub fn p99(&self, variant: Variant) -> &[f64] {
        let found = self.subjects.iter().find(|one| one.variant == variant);
        found.map(|one| one.p99.as_slice()).unwrap_or_default()
    }
}

/// Measures those of `all` that are compared, in turn, `rounds` times for `duration`.
pub fn measure(
    all: &[Subject],
    rounds: usize,
    window: Duration,
    duration: Duration,
) -> anyhow::Result<Latency> {
    let subjects: Vec<&Subject> = all
        .iter()
        .filter(|subject| VARIANTS.contains(&subject.variant))
        .collect();
    let own = subjects
        .iter()
        .find(|subject| subject.variant == Variant::ON)
        .context("calltap is not among the subjects")?;
    let saturated_per_s = saturation(own, window)?;
    let wanted = Offer {
        calls_per_s: saturated_per_s / 2.0,
        duration,
        connections: CONNECTIONS as usize,
    };
    let mut found: Vec<Quantiles> = subjects
        .iter()
        .map(|subject| Quantiles {
            variant: subject.variant,
            p50: Vec::new(),
            p99: Vec::new(),
            p999: Vec::new(),
            sent_late_p99: Vec::new(),
        })
        .collect();
    for round in 0..rounds {
        for step in 0..subjects.len() {
            let at = (step + round) % subjects.len();
            let server = subjects[at].plain();
            // On a thread of its own, whose timers are made exact.
            let taken = thread::spawn(move || open_loop::offer(server, wanted))
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .with_context(|| subjects[at].variant.name())?;
            found[at].p50.push(quantile(&taken.us, 0.5));
            found[at].p99.push(quantile(&taken.us, 0.99));
            found[at].p999.push(quantile(&taken.us, 0.999));
            found[at].sent_late_p99.push(quantile(&taken.late_us, 0.99));
        }
    }
    Ok(Latency {
        saturated_per_s,
        offered_per_s: wanted.calls_per_s,
        subjects: found,
    })
}

/// Calls per second at which a gateway is saturated: the median of some rounds.
pub fn saturation(subject: &Subject, window: Duration) -> anyhow::Result<f64> {
    let load = Load {
        connections: CONNECTIONS,
        path: "/",
        way: Way::Http1,
    };
    let rates = (0..SATURATED_ROUNDS)
        .map(|_| {
            let measured = load::measure(subject, &Place::loopback(), load, window, || Ok(()))?;
            Ok(measured.calls_per_s())
        })
        .collect::<anyhow::Result<Vec<f64>>>()?;
    Ok(median(&rates))
}
