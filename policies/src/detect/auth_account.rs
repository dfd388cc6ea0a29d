//! One account that is refused from many addresses: its password is being guessed, from so many addresses
//! that none stands out.
//!
//! **Idea.** The account is the consumer's client id, where the configuration tells it. Each refusal from
//! an address that was not refused before is evidence, each success takes some back.
//!
//! **Constants.** A usual account is refused from a new address in [`USUAL`] of its outcomes, under attack
//! in [`ATTACK`]. Addresses are told apart by [`Distinct`].
//!
//! **When it is wrong.** When one key is installed in many places and expires.

use super::Detector;
use super::call::{Call, Desk, Found, shown};
use super::distinct::Distinct;
use super::evidence::{Evidence, log_ratio};
use crate::alert::Subject;

const USUAL: f32 = 0.2;
const ATTACK: f32 = 0.9;
const MEMORY_S: f32 = 3600.0;

/// Of one consumer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerConsumer {
    evidence: Evidence,
    addresses: Distinct,
    since_s: u32,
}

/// Looks at the outcome of a call that needed credentials.
pub(crate) fn observe(
    call: &Call<'_>,
    refused: bool,
    name: &str,
    consumer: &mut PerConsumer,
    desk: &mut Desk<'_>,
) {
    if consumer.evidence.is_none() {
        consumer.addresses = Distinct::default();
        consumer.since_s = call.now_s;
    }
    let is_new = refused && consumer.addresses.add(call.client_key) > 0.0;
    if refused && !is_new {
        return;
    }
    let ratio = log_ratio(refused, ATTACK, USUAL);
    let tail = consumer.evidence.add(ratio, call.now_s, MEMORY_S);
    if !refused {
        return;
    }
    desk.look(Detector::AuthAccount, tail, || {
        let addresses = f64::from(consumer.addresses.count().round());
        Found {
            subject: Subject::Consumer(shown(name).into()),
            observed: addresses,
            usual: 1.0,
            summary: format!(
                "{} was refused from about {addresses} addresses",
                shown(name)
            ),
            since_s: consumer.since_s,
            source: None,
        }
    });
}
