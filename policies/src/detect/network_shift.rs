//! A client's network on which packets are lost or delayed more than they were.
//!
//! **Idea.** Of each call the share of its segments that were sent again, and its connection's round trip,
//! against what they were for this client: a mobile client that always loses packets has not shifted. Loss is
//! [`Evidence`] by segment, capped by call, for they are lost in runs; the round trip by the logarithm of its
//! ratio to the client's own mean.
//!
//! **Constants.** A shifted network loses four times what it did and at least [`LOSS_MIN`]. The round trip is
//! looked at once in [`RTT_EVERY_S`] seconds, for what a connection measures it measures again with each
//! call; it has shifted where it is [`RTT_FACTOR`] times its mean, [`RTT_DEVIATIONS`] of its own deviations
//! and [`RTT_MIN_US`] longer: about ten minutes of that are enough. Nothing is said of a client in its first
//! [`CALLS_MIN`] calls and [`RTTS_MIN`] round trips, and its means follow slowly while evidence gathers.
//!
//! **When it is wrong.** A client that walks from one network into a worse one and keeps its address.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::{Evidence, log_ratio};
use crate::alert::Subject;

const LOSS_MIN: f32 = 0.08;
const LOSS_USUAL_MIN: f32 = 0.01;
const RTT_FACTOR: f32 = 3.0;
const RTT_MIN_US: f32 = 20_000.0;
/// How likely a round trip so much longer is in a usual connection, and in a shifted one.
const RTT_USUAL: f32 = 0.1;
const RTT_ATTACK: f32 = 0.7;
const RTT_DEVIATIONS: f32 = 3.5;
/// Before anything is known of it.
const RTT_DEVIATION_PRIOR: f32 = 0.3;
const RTT_EVERY_S: u32 = 60;
const RTT_MEMORY_S: f32 = 1_800.0;
const RTTS_MIN: u16 = 10;
const CALLS_MIN: u16 = 30;
const MEMORY_S: f32 = 300.0;
const CALL_MAX: f32 = 2.5;
const LEARN: f32 = 0.02;
const SLOW_BELOW: f64 = 0.05;

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    loss: f32,
    calls: u16,
    rtts: u16,
    rtt_seen_s: u32,
    rtt_ln: f32,
    /// Mean distance of the logarithm from its mean.
    rtt_deviation: f32,
    lost: Evidence,
    delayed: Evidence,
}

/// How far a mean follows: at once at first, and slowly while evidence gathers.
fn step(seen: u16, seen_min: u16, tail: f64) -> f32 {
    match seen {
        seen if seen <= seen_min => 1.0 / f32::from(seen),
        _ if tail < SLOW_BELOW => LEARN / 10.0,
        _ => LEARN,
    }
}

/// Looks at a call.
pub(crate) fn observe(call: &Call<'_>, client: &mut PerClient, desk: &mut Desk<'_>) {
    let tcp = &call.record.client;
    client.calls = client.calls.saturating_add(1);
    let known = client.calls > CALLS_MIN;
    if let (Some(resent), Some(segments)) = (tcp.tcp_retransmits, tcp.wire_segments_out) {
        let segments = segments.max(1) as f32;
        let resent = (resent as f32).min(segments);
        let share = resent / segments;
        let usual = client.loss.max(LOSS_USUAL_MIN);
        let mut tail = 1.0;
        if known {
            let shifted = (4.0 * usual).clamp(LOSS_MIN, 0.6).max(usual * 1.5).min(0.9);
            let ratio = resent * log_ratio(true, shifted, usual)
                + (segments - resent) * log_ratio(false, shifted, usual);
            tail = client.lost.add(ratio.min(CALL_MAX), call.now_s, MEMORY_S);
        }
        client.loss += (share - client.loss) * step(client.calls, CALLS_MIN, tail);
        if known && resent > 0.0 {
            desk.look(Detector::NetworkShift, tail, || Found {
                subject: Subject::Client(call.client),
                observed: f64::from(share),
                usual: f64::from(usual),
                summary: format!(
                    "{:.0} % of the segments of a response to {} were sent again; for it {:.1} % are usual",
                    share * 100.0,
                    Subject::Client(call.client),
                    usual * 100.0
                ),
                since_s: call.now_s,
                source: None,
            });
        }
    }
    // A connection's calls share its round trip: one a minute is one more witness.
    if let Some(rtt_us) = tcp.tcp_rtt_us
        && call.now_s.saturating_sub(client.rtt_seen_s) >= RTT_EVERY_S
    {
        client.rtt_seen_s = call.now_s;
        client.rtts = client.rtts.saturating_add(1);
        let known = client.rtts > RTTS_MIN;
        let rtt_us = rtt_us.max(1) as f32;
        if client.rtts == 1 {
            client.rtt_ln = rtt_us.ln();
            client.rtt_deviation = RTT_DEVIATION_PRIOR;
        }
        let usual_us = client.rtt_ln.exp();
        let away = rtt_us.ln() - client.rtt_ln;
        let far = RTT_FACTOR.ln().max(RTT_DEVIATIONS * client.rtt_deviation);
        let longer = known && away > far && rtt_us - usual_us > RTT_MIN_US;
        let mut tail = 1.0;
        if known {
            let ratio = log_ratio(longer, RTT_ATTACK, RTT_USUAL);
            tail = client.delayed.add(ratio, call.now_s, RTT_MEMORY_S);
        }
        let step = step(client.rtts, RTTS_MIN, tail);
        client.rtt_ln += away * step;
        client.rtt_deviation += (away.abs() - client.rtt_deviation) * step.min(0.5);
        if longer {
            desk.look(Detector::NetworkShift, tail, || Found {
                subject: Subject::Client(call.client),
                observed: f64::from(rtt_us),
                usual: f64::from(usual_us),
                summary: format!(
                    "the round trip to {} takes {:.0} ms; for it {:.1} ms are usual",
                    Subject::Client(call.client),
                    rtt_us / 1e3,
                    usual_us / 1e3
                ),
                since_s: call.now_s,
                source: None,
            });
        }
    }
}
