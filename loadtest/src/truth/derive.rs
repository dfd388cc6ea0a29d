//! What the packets of one connection say of each call it carried.
//!
//! A call is a byte range in each direction. A packet belongs to the owner of its first byte; a
//! packet that brings nothing above the highest byte seen before is a repeat. Nothing here has heard
//! of how calltap does it.

use std::collections::HashSet;
use std::ops::Range;

use super::connection::{CROSSING_NS, Connection, Heard, Moment, Segment, Side};

/// The byte ranges of one call on one connection, and where its parts begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) request: Range<u64>,
    /// One past the request's head.
    pub(crate) head_end: u64,
    pub(crate) response: Range<u64>,
    /// Where the final response begins.
    pub(crate) final_start: Option<u64>,
}

/// What one direction of a call was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) segments: u64,
    pub(crate) ip_bytes: u64,
    /// Repeats, and their payload.
    pub(crate) again: u64,
    pub(crate) again_bytes: u64,
    /// Repeats, and packets that began with bytes seen before.
    pub(crate) late: u64,
    pub(crate) ttl_min: Option<u8>,
    pub(crate) ttl_max: Option<u8>,
    pub(crate) dscp: Option<u8>,
    pub(crate) ecn: u8,
    pub(crate) flags: u8,
}

/// The same at two moments: what a record must know, and what it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// Up to the call's end.
    pub(crate) certain: Sums,
    /// And copies that came after it.
    pub(crate) whole: Sums,
}

/// Why segments were sent again, by the shape of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses {
    /// The first unacknowledged one, after a silence.
    pub rto: u64,
    /// Something later had arrived.
    pub fast: u64,
    /// The last one, before anybody said anything.
    pub tail: u64,
    /// In the wake of one of these.
    pub following: u64,
}

impl Losses {
    pub(crate) fn add(&mut self, other: &Losses) {
        self.rto += other.rto;
        self.fast += other.fast;
        self.tail += other.tail;
        self.following += other.following;
    }
}

/// What one connection's packets say of one call.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) ranges: Ranges,
    /// The how many-th call on the connection, from 1.
    pub(crate) serial: u32,
    pub(crate) received: Span,
    pub(crate) sent: Span,
    /// The smallest window heard while bytes were unacknowledged; several where packets crossed.
    pub(crate) window_min: Vec<u32>,
    /// How long the window was closed while more was waiting, nanoseconds, and how often.
    pub(crate) zero_window_ns: u64,
    pub(crate) zero_windows: u32,
    pub(crate) request_first: Option<Moment>,
    pub(crate) request_last: Option<Moment>,
    pub(crate) head_last: Option<Moment>,
    pub(crate) response_first: Option<Moment>,
    pub(crate) response_last: Option<Moment>,
    /// The last byte sent was last sent again.
    pub(crate) resent_last: Option<Moment>,
    /// The last byte sent was acknowledged.
    pub(crate) acked: Option<Heard>,
    /// How far what was sent was acknowledged in the end, from the range's begin; at most so far.
    pub(crate) acked_bytes: (u64, u64),
}

/// Derives the facts of all calls of a connection, which are in its order.
pub(crate) fn facts(connection: &Connection, side: Side, calls: &[Ranges]) -> Vec<Facts> {
    let received = |call: &Ranges| match side {
        Side::Front => call.request.clone(),
        Side::Back => call.response.clone(),
    };
    let sent = |call: &Ranges| match side {
        Side::Front => call.response.clone(),
        Side::Back => call.request.clone(),
    };
    let (inbound, outbound) = (&connection.inbound, &connection.outbound);
    let mut all: Vec<Facts> = calls
        .iter()
        .enumerate()
        .map(|(index, call)| {
            let (request, response) = match side {
                Side::Front => (inbound, outbound),
                Side::Back => (outbound, inbound),
            };
            let of_request = request.seen(&call.request);
            let of_head = request.seen(&(call.request.start..call.head_end));
            let of_response = response.seen(&call.response);
            let from = call.final_start.unwrap_or(call.response.start);
            let of_final = response.seen(&(from..call.response.end));
            Facts {
                ranges: call.clone(),
                serial: index as u32 + 1,
                received: Span::default(),
                sent: Span::default(),
                window_min: Vec::new(),
                zero_window_ns: 0,
                zero_windows: 0,
                request_first: of_request.map(|seen| seen.0),
                request_last: of_request.map(|seen| seen.1),
                head_last: of_head.map(|seen| seen.1),
                response_first: of_final.map(|seen| seen.0),
                response_last: of_response.map(|seen| seen.1),
                resent_last: None,
                // Of nothing there is no acknowledgement.
                acked: (!sent(call).is_empty())
                    .then(|| connection.acknowledged(sent(call).end).copied())
                    .flatten(),
                acked_bytes: {
                    let of =
                        |acked: u64| acked.min(sent(call).end).saturating_sub(sent(call).start);
                    (of(connection.acked()), of(connection.acked_at_most()))
                },
            }
        })
        .collect();

    // When the gateway may have closed the books on a call.
    let ends: Vec<u64> = all
        .iter()
        .map(|facts| match side {
            Side::Front => facts.acked.map_or(u64::MAX, |heard| heard.moment.ns),
            Side::Back => facts.response_last.map_or(u64::MAX, |seen| seen.ns),
        })
        .collect();
    for (flow, range_of, is_received) in [
        (inbound, &received as &dyn Fn(&Ranges) -> Range<u64>, true),
        (outbound, &sent, false),
    ] {
        for segment in &flow.segments {
            let Some(owner) = owner(calls, range_of, segment.first) else {
                continue;
            };
            let facts = &mut all[owner];
            let span = if is_received {
                &mut facts.received
            } else {
                &mut facts.sent
            };
            add(&mut span.whole, connection, segment);
            if segment.moment.ns <= ends[owner] {
                add(&mut span.certain, connection, segment);
            }
            let end = range_of(&calls[owner]).end;
            if !is_received && segment.is_again() && segment.first < end && end <= segment.end {
                facts.resent_last = Some(segment.moment);
            }
        }
    }
    windows(connection, calls, &sent, &mut all);
    all
}

/// The call that owns a byte. A repeat may hold several calls' bytes; its first one decides.
fn owner(calls: &[Ranges], range: &dyn Fn(&Ranges) -> Range<u64>, byte: u64) -> Option<usize> {
    let at = calls.partition_point(|call| range(call).end <= byte);
    calls
        .get(at)
        .is_some_and(|call| range(call).start <= byte)
        .then_some(at)
}

fn add(sums: &mut Sums, connection: &Connection, segment: &Segment) {
    let packet = connection.packet(segment.at);
    sums.segments += 1;
    sums.ip_bytes += u64::from(packet.ip_bytes);
    if segment.is_again() {
        sums.again += 1;
        sums.again_bytes += segment.end - segment.first;
    }
    if segment.first < segment.high_before {
        sums.late += 1;
    }
    sums.ttl_min = Some(sums.ttl_min.map_or(packet.ttl, |ttl| ttl.min(packet.ttl)));
    sums.ttl_max = Some(sums.ttl_max.map_or(packet.ttl, |ttl| ttl.max(packet.ttl)));
    sums.dscp.get_or_insert(packet.tos >> 2);
    sums.ecn |= packet.tos & 3;
    sums.flags |= packet.flags;
}

fn windows(
    connection: &Connection,
    calls: &[Ranges],
    sent: &dyn Fn(&Ranges) -> Range<u64>,
    all: &mut [Facts],
) {
    let mut certain: Vec<Option<u32>> = vec![None; calls.len()];
    let mut crossing: Vec<Vec<u32>> = vec![Vec::new(); calls.len()];
    let mut closed: Option<&Heard> = None;
    for heard in &connection.heard {
        let mut at = calls.partition_point(|call| sent(call).end <= heard.acked_before);
        while let Some(range) = calls.get(at).map(sent) {
            if range.start >= heard.sent_before {
                break;
            }
            // Where nothing is on its way only a closed window is waited for.
            let counts = heard.acked_before < heard.sent_before || heard.window == 0;
            if !range.is_empty() && counts {
                let smallest = certain[at].get_or_insert(heard.window);
                *smallest = heard.window.min(*smallest);
            }
            at += 1;
        }
        // It came just before the call's first byte left: perhaps it was looked at just after.
        if let Some(range) = calls.get(at).map(sent)
            && let Some((left, _)) = connection.outbound.seen(&range)
            && left.ns > heard.moment.ns
            && left.ns - heard.moment.ns < CROSSING_NS
        {
            crossing[at].push(heard.window);
        }
        match (closed, heard.window) {
            (None, 0) => closed = Some(heard),
            (Some(since), window) if window > 0 => {
                let waiting = owner(calls, sent, since.sent_before);
                let waiting = waiting.filter(|at| sent(&calls[*at]).start < since.sent_before);
                if let Some(at) = waiting {
                    all[at].zero_window_ns += heard.moment.ns - since.moment.ns;
                    all[at].zero_windows += 1;
                }
                closed = None;
            }
            _ => {}
        }
    }
    for ((facts, certain), crossing) in all.iter_mut().zip(certain).zip(crossing) {
        let less = crossing
            .into_iter()
            .filter(|window| certain.is_none_or(|least| *window < least));
        facts.window_min = certain.into_iter().chain(less).collect();
    }
}

/// What passed on a connection in one direction, between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Passed {
    /// Of payload, repeats not counted.
    pub(crate) bytes: u64,
    pub(crate) segments: u64,
    pub(crate) ip_bytes: u64,
    /// Repeats; of what arrived, also what began with bytes seen before.
    pub(crate) again: u64,
    /// Bytes of repeats; of what left only.
    pub(crate) again_bytes: u64,
}

/// Whether exactly this passed between a moment of the span `begin` and one of the span `end`, ns;
/// the first may also lie `ahead` bytes before the begin of its span.
pub(crate) fn passed(
    connection: &Connection,
    is_inbound: bool,
    begin: (u64, u64),
    end: (u64, u64),
    ahead: u64,
    told: Passed,
) -> bool {
    let flow = match is_inbound {
        true => &connection.inbound,
        false => &connection.outbound,
    };
    // Before each packet, and after the last one.
    let mut so_far = Passed::default();
    let mut before: Option<u64> = None;
    let mut begins: HashSet<Passed> = HashSet::new();
    let first = flow
        .segments
        .partition_point(|segment| segment.moment.ns < begin.0);
    let first = flow
        .segments
        .get(first)
        .map_or(flow.high, |segment| segment.high_before);
    let reach = first.saturating_sub(ahead);
    for at in 0..=flow.segments.len() {
        let next = flow.segments.get(at);
        let (from, to) = (
            before.unwrap_or(0),
            next.map_or(u64::MAX, |next| next.moment.ns),
        );
        let high = next.map_or(flow.high, |next| next.high_before);
        if from <= begin.1 && (to >= begin.0 || high >= reach) {
            begins.insert(so_far);
        }
        if from <= end.1 && to >= end.0 {
            let begin = so_far.less(&told);
            if begin.is_some_and(|begin| begins.contains(&begin)) {
                return true;
            }
        }
        let Some(segment) = next else {
            break;
        };
        let is_late = match is_inbound {
            true => segment.first < segment.high_before,
            false => segment.is_again(),
        };
        so_far.bytes += segment.end.saturating_sub(segment.high_before);
        so_far.segments += 1;
        so_far.ip_bytes += u64::from(connection.packet(segment.at).ip_bytes);
        so_far.again += u64::from(is_late);
        if is_late && !is_inbound {
            so_far.again_bytes += segment.end - segment.first;
        }
        before = Some(segment.moment.ns);
    }
    false
}

impl Passed {
    fn less(&self, other: &Self) -> Option<Self> {
        Some(Self {
            bytes: self.bytes.checked_sub(other.bytes)?,
            segments: self.segments.checked_sub(other.segments)?,
            ip_bytes: self.ip_bytes.checked_sub(other.ip_bytes)?,
            again: self.again.checked_sub(other.again)?,
            again_bytes: self.again_bytes.checked_sub(other.again_bytes)?,
        })
    }
}

/// Sorts the repeats of what was sent by what made TCP repeat it.
pub(crate) fn losses(connection: &Connection) -> Losses {
    /// A timer waits at least so long, and nothing else does.
    const SILENCE_NS: u64 = 150_000_000;
    /// An answer to an acknowledgement follows it sooner.
    const PROMPT_NS: u64 = 5_000_000;
    let mut losses = Losses::default();
    let mut heard = connection.heard.iter().peekable();
    let (mut last_heard, mut last_sent) = (0, 0);
    let (mut acked, mut duplicates, mut has_sack) = (0, 0, false);
    let (mut probed, mut in_recovery_to) = (None, 0);
    for segment in &connection.outbound.segments {
        while let Some(packet) = heard.next_if(|heard| heard.moment < segment.moment) {
            last_heard = packet.moment.ns;
            if packet.acked > acked {
                (acked, duplicates, has_sack) = (packet.acked, 0, false);
            } else if !packet.has_payload {
                duplicates += 1;
            }
            has_sack |= packet.has_sack;
        }
        if segment.is_again() {
            let silence = segment.moment.ns - last_heard.max(last_sent).min(segment.moment.ns);
            let is_prompt = segment.moment.ns.saturating_sub(last_heard) < PROMPT_NS;
            let is_told = has_sack || duplicates >= 3;
            if is_told && (silence < SILENCE_NS || segment.first > acked) {
                losses.fast += 1;
                in_recovery_to = segment.high_before;
            } else if segment.first < in_recovery_to && is_prompt {
                losses.following += 1;
            } else if !is_told && segment.end == segment.high_before && probed != Some(acked) {
                losses.tail += 1;
                probed = Some(acked);
            } else {
                losses.rto += 1;
                in_recovery_to = segment.high_before;
            }
        }
        last_sent = segment.moment.ns;
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::super::connection::testing::Script;
    use super::*;

    fn call(request: Range<u64>, response: Range<u64>) -> Ranges {
        Ranges {
            head_end: request.end,
            final_start: Some(response.start),
            request,
            response,
        }
    }

    fn two_calls() -> [Ranges; 2] {
        [call(0..4, 0..6), call(4..8, 6..8)]
    }

    #[test]
    fn a_repeat_is_charged_to_the_owner_of_its_first_byte() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"ask1");
        script.own(0, 4, b"abc");
        script.own(3, 4, b"def");
        script.peer(4, 6, b"ask2");
        script.own(6, 8, b"gh");
        script.own(3, 8, b"defgh");
        script.peer(8, 8, b"");
        let facts = facts(&script.connection(), Side::Front, &two_calls());
        assert_eq!(
            (facts[0].sent.whole.segments, facts[0].sent.whole.again),
            (3, 1)
        );
        assert_eq!(facts[0].sent.whole.again_bytes, 5);
        assert_eq!(facts[0].sent.whole.ip_bytes, 43 + 43 + 45);
        // It was all acknowledged before: a record may have been written without it.
        assert_eq!(facts[0].sent.certain.again, 0);
        assert_eq!(facts[1].sent.whole.again, 0);
        assert_eq!(facts[0].acked.map(|heard| heard.moment.packet), Some(7));
        assert!(facts[0].acked.unwrap().has_payload);
    }

    #[test]
    fn marks_are_of_first_arrivals_and_of_the_last_missing_byte() {
        let mut script = Script::new(0, 0);
        script.peer(2, 0, b"k1");
        script.peer(0, 0, b"as");
        script.peer(2, 0, b"k1");
        script.own(0, 4, b"abcdef");
        script.own(0, 4, b"abcdef");
        script.own(3, 4, b"def");
        let facts = facts(&script.connection(), Side::Front, &two_calls()[..1]);
        let at = |moment: Option<Moment>| moment.map(|moment| moment.packet);
        assert_eq!(at(facts[0].request_first), Some(4));
        assert_eq!(at(facts[0].request_last), Some(5));
        assert_eq!(facts[0].received.whole.late, 2);
        assert_eq!(at(facts[0].response_first), Some(7));
        assert_eq!(at(facts[0].response_last), Some(7));
        assert_eq!(at(facts[0].resent_last), Some(9));
        assert!(facts[0].acked.is_none());
    }

    /// The peer, having asked four bytes, acknowledges and tells its window.
    fn tells_window(script: &mut Script, acks: i64, window: u16, ns: u64) {
        let packet = script.peer(4, acks, b"");
        packet.window = window;
        packet.ns = ns;
    }

    #[test]
    fn the_window_counts_while_something_is_unacknowledged() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"ask1").window = 5;
        script.own(0, 4, b"abc").ns += CROSSING_NS;
        let after = script.packets.last().unwrap().ns;
        tells_window(&mut script, 3, 0, after + 10);
        tells_window(&mut script, 3, 70, after + 20);
        script.own(3, 4, b"def").ns = after + 30;
        tells_window(&mut script, 6, 60, after + 40);
        let facts = facts(&script.connection(), Side::Front, &two_calls()[..1]);
        assert_eq!(facts[0].window_min, [0]);
        assert_eq!((facts[0].zero_window_ns, facts[0].zero_windows), (10, 1));
    }

    #[test]
    fn the_window_does_not_count_while_nothing_is_on_its_way() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"ask1");
        script.own(0, 4, b"abc").ns += CROSSING_NS;
        let after = script.packets.last().unwrap().ns;
        tells_window(&mut script, 3, 70, after + 10);
        tells_window(&mut script, 3, 50, after + 20);
        script.own(3, 4, b"def").ns = after + 30 + CROSSING_NS;
        tells_window(&mut script, 6, 60, after + 40 + CROSSING_NS);
        let facts = facts(&script.connection(), Side::Front, &two_calls()[..1]);
        assert_eq!(facts[0].window_min, [60]);
    }

    #[test]
    fn what_passed_is_counted_between_two_moments_that_are_the_same_for_all() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"abc");
        script.peer(3, 0, b"de");
        script.peer(3, 0, b"de");
        script.peer(5, 0, b"f");
        let connection = script.connection();
        let at = |nth: usize| connection.packets[nth].ns;
        let told = |bytes, segments, again| Passed {
            bytes,
            segments,
            ip_bytes: bytes + again * 2 + segments * 40,
            again,
            again_bytes: 0,
        };
        // From before the second to after the third.
        let (begin, end) = ((at(3) + 1, at(4) - 1), (at(5) + 1, at(6) - 1));
        let is = |ahead, told| passed(&connection, true, begin, end, ahead, told);
        assert!(is(0, told(2, 2, 1)));
        for wrong in [told(3, 2, 1), told(2, 1, 0), told(3, 3, 1), told(5, 3, 1)] {
            assert!(!is(0, wrong), "{wrong:?}");
        }
        let less = Passed {
            ip_bytes: 83,
            ..told(2, 2, 1)
        };
        assert!(!is(0, less));
        // Three bytes earlier is the begin of everything.
        assert!(is(3, told(5, 3, 1)));
    }

    #[test]
    fn repeats_are_sorted_by_what_caused_them() {
        let mut script = Script::new(0, 0);
        let millis = |ms: u64| ms * 1_000_000;
        script.peer(0, 0, b"ask1");
        // The last one again, unasked, and again after a silence.
        script.own(0, 4, b"abc").ns = millis(10);
        script.own(0, 4, b"abc").ns = millis(30);
        script.own(0, 4, b"abc").ns = millis(240);
        script.peer(4, 3, b"").ns = millis(241);
        // A hole that the peer told of.
        script.own(3, 4, b"d").ns = millis(250);
        script.own(4, 4, b"ef").ns = millis(250);
        let told = script.peer(4, 3, b"");
        told.ns = millis(251);
        let left = told.ack.wrapping_add(1).to_be_bytes();
        let right = told.ack.wrapping_add(3).to_be_bytes();
        told.options = [&[5, 10][..], &left, &right].concat().into();
        script.own(3, 4, b"d").ns = millis(252);
        let losses = losses(&script.connection());
        let expected = Losses {
            rto: 1,
            fast: 1,
            tail: 1,
            following: 0,
        };
        assert_eq!(losses, expected);
    }
}
