//! One consumer's credentials that are used from addresses which are not its own: they were shared, or stolen.
//!
//! **Idea.** There are two kinds of credentials. A partner's key lives in few places: the addresses from which
//! its calls succeed are remembered, and each call is [`Evidence`], for a thief if it comes from an address
//! that was never seen, and for the owner if from one of its own. An application's key is in the hands of all
//! its users, who have more than [`PLACES_MAX`] addresses: of those the number of different ones within a
//! minute is held against its own habit ([`Population`]). A consumer is known where the configuration tells
//! its client id.
//!
//! **Learning.** In the beginning each address is a key's own: for [`KNOWN_CALLS`] calls, for a minute if it has
//! but one address, for an hour if it has two and for a day if it has more, and for as long as more than
//! [`USUAL_MAX`] of its calls come from a new one. Later a new one becomes its own only when it still calls
//! [`PROBATION_S`] after it first did; until then its calls say nothing for the owner. How often the owner
//! appears at a new address is learned, too. If strangers go on for [`GIVEN_UP_S`] and are more than
//! [`GIVEN_UP`], the key is everybody's by now. An application's first dozen minutes are taken for its habit.
//!
//! **Constants.** A thief brings new addresses [`ATTACK_TIMES`] as often as the owner, whose share is held
//! between [`USUAL_MIN`] and [`USUAL_MAX`]: six within a short time are enough, and three are not.
//!
//! **When it is wrong.** A key that was used for a test becomes the application's; an integration moves to
//! several new addresses at once.

use super::Detector;
use super::call::{Call, Desk, Found, shown};
use super::distinct::Distinct;
use super::evidence::{Evidence, Share, log_ratio};
use super::population::{Habit, Population};
use crate::alert::Subject;

const PLACES_MAX: usize = 16;
const KNOWN_CALLS: u32 = 50;
/// By the number of its addresses, s.
const KNOWN_S: [u32; 4] = [60, 60, 3_600, 86_400];
const GIVEN_UP_S: u32 = 1_800;
const GIVEN_UP: f32 = 50.0;
const PROBATION_S: u32 = 6 * 3600;
const CANDIDATES: usize = 8;
const ATTACK_TIMES: f32 = 15.0;
const USUAL: f32 = 0.01;
const USUAL_MIN: f32 = 0.000_1;
const USUAL_MAX: f32 = 0.05;
const USUAL_WEIGHT: f32 = 50.0;
const MEMORY: f32 = 20_000.0;
const MEMORY_S: f32 = 600.0;
/// Something speaks for a thief where the tail is lower.
const LEARN_ABOVE: f64 = 1e-3;
const WINDOW_S: u32 = 60;
/// Addresses that an application of any service has in a window.
const ADDRESSES_USUAL: f64 = 2.0;

/// Of one consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerConsumer {
    places: Places,
    addresses: Distinct,
    window: u32,
    habit: Habit,
}

/// Where a key lives.
#[derive(Clone, Copy, Debug)]
struct Places {
    /// Its own addresses, by their hashes; 0: none.
    own: [u32; PLACES_MAX],
    /// Addresses on probation, and when they were first seen, s.
    candidates: [(u32, u32); CANDIDATES],
    calls: u32,
    first_s: u32,
    /// How often its owner appears at a new address.
    moves: Share,
    evidence: Evidence,
    /// New addresses since something has spoken for a thief, and when that was.
    strangers: Distinct,
    since_s: u32,
}

impl Default for PerConsumer {
    fn default() -> Self {
        Self {
            places: Places {
                own: [0; PLACES_MAX],
                candidates: [(0, 0); CANDIDATES],
                calls: 0,
                first_s: 0,
                moves: Share::new(USUAL, USUAL_WEIGHT),
                evidence: Evidence::default(),
                strangers: Distinct::default(),
                since_s: 0,
            },
            addresses: Distinct::default(),
            window: 0,
            habit: Habit::default(),
        }
    }
}

/// Of all consumers.
#[derive(Clone, Debug)]
pub(crate) struct Common(Population);

impl Default for Common {
    fn default() -> Self {
        Self(Population::new(ADDRESSES_USUAL, 0.9, WINDOW_S).of_habits_only())
    }
}

/// Looks at a call of this consumer, which has a key and a name.
pub(crate) fn observe(
    call: &Call<'_>,
    (key, name): (u64, &str),
    consumer: &mut PerConsumer,
    Common(population): &mut Common,
    desk: &mut Desk<'_>,
) {
    if !call.succeeded() {
        return;
    }
    let places = &mut consumer.places;
    if !places.are_many() {
        let Some(tail) = places.add(call) else { return };
        desk.look(Detector::TokenSharing, tail, || {
            let strangers = f64::from(places.strangers.count().round());
            Found {
                subject: Subject::Consumer(shown(name).into()),
                observed: strangers,
                usual: 0.0,
                summary: format!(
                    "{} was used from {strangers} addresses from which it never was before",
                    shown(name)
                ),
                since_s: places.since_s,
                source: None,
            }
        });
        return;
    }
    let window = call.now_s / WINDOW_S;
    if consumer.window != window {
        consumer.window = window;
        consumer.addresses = Distinct::default();
    }
    let new = consumer.addresses.add(call.client_key);
    if new == 0.0 {
        return;
    }
    if let Some(amount) = population.add(&mut consumer.habit, key, new, call.now_s) {
        desk.look(Detector::TokenSharing, amount.tail, || Found {
            subject: Subject::Consumer(shown(name).into()),
            observed: amount.total,
            usual: amount.usual,
            summary: format!(
                "{} was used from {:.0} addresses within a minute; usual are {:.0}",
                shown(name),
                amount.total,
                amount.usual
            ),
            since_s: window * WINDOW_S,
            source: None,
        });
    }
}

impl Places {
    /// Whether there are too many to know each.
    fn are_many(&self) -> bool {
        self.own[PLACES_MAX - 1] != 0
    }

    /// Adds a call. The tail of what speaks for a thief, where the call is from a new address.
    fn add(&mut self, call: &Call<'_>) -> Option<f64> {
        let address = (call.client_key >> 32) as u32 | 1;
        let is_own = self.own.contains(&address);
        if self.calls == 0 {
            self.first_s = call.now_s;
        }
        self.calls = self.calls.saturating_add(1);
        let places = self.own.iter().filter(|own| **own != 0).count();
        let known_s = KNOWN_S[places.min(KNOWN_S.len() - 1)];
        let usual = self.moves.get();
        if self.calls <= KNOWN_CALLS
            || call.now_s < self.first_s + known_s
            || usual > USUAL_MAX && self.evidence.is_none()
        {
            self.moves.learn(!is_own, MEMORY);
            if !is_own {
                self.adopt(address);
            }
            return None;
        }
        if self.evidence.is_none() {
            self.strangers = Distinct::default();
            self.since_s = call.now_s;
        }
        if !is_own && !self.is_stranger(address, call) {
            return None;
        }
        let usual = usual.clamp(USUAL_MIN, USUAL_MAX);
        let ratio = log_ratio(!is_own, ATTACK_TIMES * usual, usual);
        let tail = self.evidence.add(ratio, call.now_s, MEMORY_S);
        if tail > LEARN_ABOVE {
            self.moves.learn(!is_own, MEMORY);
        }
        let lasts_s = call.now_s.saturating_sub(self.since_s);
        if lasts_s >= GIVEN_UP_S && self.strangers.count() > GIVEN_UP {
            self.own.fill(address);
        }
        (!is_own).then_some(tail)
    }

    /// Whether an address that is not its own is seen for the first time.
    fn is_stranger(&mut self, address: u32, call: &Call<'_>) -> bool {
        let known = self
            .candidates
            .iter_mut()
            .find(|(candidate, _)| *candidate == address);
        if let Some((candidate, since_s)) = known {
            if call.now_s >= *since_s + PROBATION_S {
                *candidate = 0;
                self.adopt(address);
            }
            return false;
        }
        // The oldest makes room.
        if let Some(oldest) = self
            .candidates
            .iter_mut()
            .min_by_key(|(_, since_s)| *since_s)
        {
            *oldest = (address, call.now_s);
        }
        self.strangers.add(call.client_key) > 0.0
    }

    fn adopt(&mut self, address: u32) {
        if let Some(free) = self.own.iter_mut().find(|own| **own == 0) {
            *free = address;
        }
    }
}
