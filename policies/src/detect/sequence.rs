//! A client that calls operations in an order in which nobody calls them.
//!
//! **Idea.** Which template follows which, counted over all clients in a sketch of fixed size; each step of a
//! client is [`Evidence`] for somebody who does not know the way against the learned probability of that
//! step (a Markov chain of the first order; M. Schonlau et al., *Computer Intrusion*, 2001, compares them).
//!
//! **Constants.** A template counts once it was left [`LEFT_MIN`] times: what is new is not wrong. Who does
//! not know the way takes each step with [`ATTACK`]; a step that nobody took before has a learned probability
//! of [`USUAL_MIN`] at least.
//!
//! **When it is wrong.** A client that shares its address with others mixes their ways, usually from the
//! start: those steps are then learned like all others.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::Evidence;
use crate::alert::Subject;

const STEPS: usize = 1 << 14;
const LEFT_MIN: u32 = 500;
const ATTACK: f32 = 0.02;
const USUAL_MIN: f32 = 0.002;
const USUAL_ATTACK_MAX: f32 = 2.0;
const MEMORY_S: f32 = 600.0;
/// A pause longer than this ends a way, s.
const PAUSE_MAX_S: u32 = 600;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    last: u64,
    last_s: u32,
    evidence: Evidence,
    steps: u32,
}

/// Of all clients: how often each template was left, and for which.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    left: Box<[u32]>,
    steps: Box<[u32]>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            left: vec![0; STEPS].into(),
            steps: vec![0; STEPS].into(),
        }
    }
}

/// Looks at a call that found something.
pub(crate) fn observe(
    call: &Call<'_>,
    client: &mut PerClient,
    common: &mut Common,
    desk: &mut Desk<'_>,
) {
    if !call.succeeded() {
        return;
    }
    let last = std::mem::replace(&mut client.last, call.template);
    let paused = call.now_s.saturating_sub(client.last_s) > PAUSE_MAX_S;
    client.last_s = call.now_s;
    if last == 0 || paused || last == call.template {
        return;
    }
    let from = last as usize % STEPS;
    // Fibonacci hashing joins the two.
    let step = (last.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ call.template) as usize % STEPS;
    let left = common.left[from];
    let taken = common.steps[step];
    common.left[from] = left.saturating_add(1);
    common.steps[step] = taken.saturating_add(1);
    if left < LEFT_MIN || common.left[call.template as usize % STEPS] < LEFT_MIN {
        return;
    }
    let usual = (taken as f32 / left as f32).max(USUAL_MIN);
    if client.evidence.is_none() {
        client.steps = 0;
    }
    client.steps += 1;
    let ratio = (ATTACK / usual).ln().min(USUAL_ATTACK_MAX);
    let tail = client.evidence.add(ratio, call.now_s, MEMORY_S);
    if usual >= ATTACK {
        return;
    }
    desk.look(Detector::Sequence, tail, || Found {
        subject: Subject::Client(call.client),
        observed: f64::from(client.steps),
        usual: f64::from(usual),
        summary: format!(
            "{} went {} steps that hardly anybody goes, last to {}, which follows in {:.1} % of cases",
            Subject::Client(call.client),
            client.steps,
            call.template_text(),
            usual * 100.0
        ),
        since_s: call.now_s,
        source: None,
    });
}
