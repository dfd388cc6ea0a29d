//! One consumer's credentials that are used from many addresses: they were shared, or stolen.
//!
//! **Idea.** Different addresses from which a consumer's calls succeed within a minute, against other
//! consumers and its own habit ([`Population`]). A consumer is known where the configuration tells its
//! client id.
//!
//! What a new consumer does in its first dozen minutes is taken for its habit: an application's own key is in
//! all its users' hands from the start.
//!
//! **When it is wrong.** A key that was used for a test becomes the application's.

use super::Detector;
use super::call::{Call, Desk, Found, shown};
use super::distinct::Distinct;
use super::population::{Habit, Population};
use crate::alert::Subject;

const WINDOW_S: u32 = 60;
/// Addresses that a consumer of any service has in a window.
const ADDRESSES_USUAL: f64 = 2.0;

/// Of one consumer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerConsumer {
    addresses: Distinct,
    window: u32,
    habit: Habit,
}

/// Of all consumers.
#[derive(Clone, Debug)]
pub(crate) struct Common(Population);

impl Default for Common {
    fn default() -> Self {
        Self(Population::new(ADDRESSES_USUAL, 0.9, WINDOW_S).of_habits_only())
    }
}

/// Looks at a call of this consumer.
pub(crate) fn observe(
    call: &Call<'_>,
    name: &str,
    consumer: &mut PerConsumer,
    Common(population): &mut Common,
    desk: &mut Desk<'_>,
) {
    if !call.succeeded() {
        return;
    }
    let window = call.now_s / WINDOW_S;
    if consumer.window != window || consumer.addresses.is_full() {
        consumer.window = window;
        consumer.addresses = Distinct::default();
    }
    let new = consumer.addresses.add(call.client_key);
    if new == 0.0 {
        return;
    }
    if let Some(amount) = population.add(&mut consumer.habit, new, call.now_s) {
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
