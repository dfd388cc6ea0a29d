//! One address that shows another TCP or TLS stack than before, again and again: somebody else is behind it,
//! or it pretends.
//!
//! **Idea.** The stack is what a connection shows without wanting to: initial TTL, MSS, window scale and
//! options of its SYN, and JA4. Who pretends to be many clients, or sends its calls through a pool of
//! machines, changes it from connection to connection while saying the same user agent. Each new connection
//! is [`Evidence`] against how often this address's stack changed before.
//!
//! **Constants.** One address changes its stack in [`USUAL_MIN`] of its connections at least (updates, new
//! leases), one in disguise in [`ATTACK`]. An address that keeps changing from its first connections on has
//! many machines behind it; that is learned as its own share, from the first [`CONNECTIONS_MIN`] on.
//!
//! **When it is wrong.** When an address is given to an office: then it is somebody else indeed.

use ahash::RandomState;

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::{Evidence, log_ratio};
use crate::alert::Subject;

const ATTACK: f32 = 0.6;
const USUAL_MIN: f32 = 0.03;
const CONNECTIONS_MIN: u16 = 20;
const LEARN: f32 = 0.02;
const MEMORY_S: f32 = 3600.0;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    stack: u32,
    agent: u32,
    changed: f32,
    connections: u16,
    evidence: Evidence,
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    hasher: &RandomState,
    client: &mut PerClient,
    desk: &mut Desk<'_>,
) {
    let record = call.record;
    // Once a connection, and not where a proxy's connections carry many clients.
    if record.client.socket_request_seq != Some(1) || call.source().is_none() {
        return;
    }
    let Some(options) = record.client_syn_options.as_deref() else {
        return;
    };
    // Routes differ by a few hops; initial TTLs are powers of two but one (255).
    let initial_ttl = record
        .client_syn_ttl
        .unwrap_or(0)
        .checked_next_power_of_two();
    let stack = hasher.hash_one((
        options,
        initial_ttl,
        record.client_syn_mss,
        record.client_syn_wscale,
        record.tls_client_ja4.as_deref(),
    )) as u32;
    let agent = hasher.hash_one(record.user_agent_original.as_deref()) as u32;
    let changed = client.stack != stack && client.agent == agent;
    let first = client.connections == 0;
    client.stack = stack;
    client.agent = agent;
    client.connections = client.connections.saturating_add(1);
    if first {
        return;
    }
    let usual = client.changed.max(USUAL_MIN);
    let step = LEARN.max(1.0 / f32::from(client.connections));
    client.changed += (f32::from(u8::from(changed)) - client.changed) * step;
    if client.connections < CONNECTIONS_MIN {
        return;
    }
    let attack = ATTACK.max((1.0 + usual) / 2.0);
    let tail = client
        .evidence
        .add(log_ratio(changed, attack, usual), call.now_s, MEMORY_S);
    if !changed {
        return;
    }
    desk.look(Detector::StackChange, tail, || Found {
        subject: Subject::Client(call.client),
        observed: f64::from(client.connections),
        usual: f64::from(usual),
        summary: format!(
            "connections of {} come from changing machines under one user agent; {:.0} % of them are usual for it",
            Subject::Client(call.client),
            usual * 100.0
        ),
        since_s: call.now_s,
        source: call.source(),
    });
}
