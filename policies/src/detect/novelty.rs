//! Something that was not seen before: a route of a service that is known well (a method and a path), or a
//! status on such a route, or a kind of client.
//!
//! **Idea.** Routes of a service, and what was seen on a route, are species, and the probability that the next
//! call is of a new one is the share of calls whose species was seen once (I. J. Good, *The Population
//! Frequencies of Species*, 1953, after Turing). So a route that shows new things all the time says little when it shows another, and one
//! that showed the same million times says much.
//!
//! **Constants.** [`SPECIES`] kinds a route, told apart by 64 bits of hash; a route with more is too varied
//! to be looked at. Species are statuses and fingerprints (JA4, else the SYN's), each by itself. A
//! new route begins with nothing known, so that a deployment does not alert: it has to be known by
//! as many calls as the threshold demands.
//!
//! **When it is wrong.** A new release of a browser is new, once for each route.

use ahash::RandomState;

use super::Detector;
use super::call::{Call, Desk, Found};
use crate::alert::Subject;

const SPECIES: usize = 24;

/// Of all routes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Common {
    calls: u64,
    /// Routes that were called once.
    singletons: u32,
}

impl Common {
    /// Looks at a call to a route, as it was before the call.
    pub(crate) fn called(
        &mut self,
        call: &Call<'_>,
        route: &PerRoute,
        name: impl Fn() -> Subject,
        desk: &mut Desk<'_>,
    ) {
        match route.calls {
            0 => {
                let tail = f64::from(self.singletons + 1) / (self.calls + 1) as f64;
                self.singletons += 1;
                desk.look(Detector::Novelty, tail, || Found {
                    subject: name(),
                    observed: 1.0,
                    usual: 0.0,
                    summary: format!("the first call to it in {} calls", self.calls + 1),
                    since_s: call.now_s,
                    source: None,
                });
            }
            1 => self.singletons = self.singletons.saturating_sub(1),
            _ => {}
        }
        self.calls += 1;
    }
}

/// Of one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct PerRoute {
    calls: u64,
    kinds: [Kind; 2],
}

#[derive(Clone, Debug, Default)]
struct Kind {
    species: Vec<(u64, u32)>,
    singletons: u32,
    varied: bool,
}

impl Kind {
    /// The probability of something new so far, if this is.
    fn add(&mut self, species: u64, calls: u64) -> Option<f64> {
        if self.varied {
            return None;
        }
        if let Some((_, count)) = self.species.iter_mut().find(|(known, _)| *known == species) {
            self.singletons -= u32::from(*count == 1);
            *count = count.saturating_add(1);
            return None;
        }
        if self.species.len() == SPECIES {
            self.varied = true;
            self.species = Vec::new();
            return None;
        }
        let tail = f64::from(self.singletons + 1) / (calls + 1) as f64;
        self.species.push((species, 1));
        self.singletons += 1;
        Some(tail)
    }
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    hasher: &RandomState,
    route: &mut PerRoute,
    name: impl Fn() -> Subject,
    desk: &mut Desk<'_>,
) {
    let record = call.record;
    let status = (call.status != 0).then_some(call.status);
    let fingerprint = record
        .tls_client_ja4
        .as_deref()
        .or(record.client_syn_p0f.as_deref());
    let kinds = [
        status.map(|status| hasher.hash_one(status)),
        fingerprint.map(|fingerprint| hasher.hash_one(fingerprint)),
    ];
    for (at, (kind, species)) in route.kinds.iter_mut().zip(kinds).enumerate() {
        let Some(tail) = species.and_then(|species| kind.add(species, route.calls)) else {
            continue;
        };
        desk.look(Detector::Novelty, tail, || {
            let what = match at {
                0 => format!("status {}", call.status),
                _ => format!("fingerprint {}", fingerprint.unwrap_or("")),
            };
            Found {
                subject: name(),
                observed: 1.0,
                usual: 0.0,
                summary: format!("the first {what} in {} calls", route.calls + 1),
                since_s: call.now_s,
                source: None,
            }
        });
    }
    route.calls += 1;
}
