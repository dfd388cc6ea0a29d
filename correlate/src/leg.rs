//! What one socket says about one call: marks, and counters that are the call's own.
//!
//! A call is a range of bytes in each direction, a ledger keeps turns. A mark is taken from a turn
//! only if that turn began inside the range and no byte of another could have lent it the time:
//!
//! | mark | is | if |
//! |---|---|---|
//! | first | the time of the first packet | a turn begins where the range begins (or, where the response's head is known to come later, a later turn that only it can have begun) |
//! | last | the time of the last new payload | the turn that holds the last byte ends there |
//! | resent | when that last byte was sent again | as for last |
//! | acked | when that last byte was acknowledged | the acknowledgement covers it and is not of a later byte |
//!
//! Counters of the call are
//!
//! | connection | counters | attribution |
//! |---|---|---|
//! | one call at a time | sums over the turns, where they tile the range exactly | `exact`, else `partial` and why |
//! | pipelined | the same; the request's first and last packet may be its neighbour's | `partial`, `pipelined` |
//! | more than the body of a chunked request | the same | `partial`, `request_end_unknown` |
//! | multiplexed | the connection's meanwhile; no marks | `shared` |
//! | upgraded | the connection's since the call began | `exact` |
//! | known by `TCP_INFO` | the connection's between the call's edges | `partial`, `tcp_info` |
//! | not known | none | `partial`, `no_coverage` |
//!
//! Bytes of payload are the range's own length, whatever else is known: the gateway counted them.

use crate::exchange::{Leg, Sharing, Text};
use crate::record::{AckKind, Attribution, Reason, SocketFields, TcpFlags};
use crate::socket::{Close, Counters, Coverage, SocketIdentity, StreamRange, Turn, Turns};

/// A farewell of TLS (`close_notify` as one record) is at most this long, bytes.
const TLS_FAREWELL_MAX: u64 = 31;

/// Which turn holds the first byte that the first mark is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beginning {
    /// The range's first byte.
    Range,
    /// Sent not before this moment: the gateway did not have the response's head earlier, so what
    /// left before was an interim response.
    NotBefore(u64),
    /// Arrived after an interim response, and with it only if that was one packet.
    AfterInterim {
        /// The gateway had the interim response. What arrives from here on begins a turn.
        interim_ns: u64,
        /// It had the final one's head.
        head_ns: u64,
        /// A turn that holds no more than the body began after the head.
        body_bytes: u64,
    },
    /// Unknowable: other bytes came first in the same turn.
    Hidden(Reason),
}

/// What the turns of one direction say about one range.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) first_ns: Option<u64>,
    pub(crate) last_ns: Option<u64>,
    pub(crate) resent_ns: Option<u64>,
    pub(crate) acked: Option<Acked>,
    /// Absent where the turns do not tile the range.
    pub(crate) sums: Option<Sums>,
    /// Why a mark or the sums are absent.
    pub(crate) fault: Option<Reason>,
}

/// The acknowledgement of a range's last byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Acked {
    pub(crate) ns: u64,
    pub(crate) kind: AckKind,
}

/// Totals over the turns of one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    segments: u64,
    ip_bytes: u64,
    resent_segments: u64,
    resent_bytes: u64,
    /// Absent where one turn's are not known.
    timeouts: Option<u64>,
    window_min: Option<u32>,
    zero_window_ns: u64,
    header: Option<HeaderFacts>,
}

/// What the IP and TCP headers of the packets had in common.
#[derive(Clone, Copy, Debug, PartialEq)]
struct HeaderFacts {
    ttl_min: u8,
    ttl_max: u8,
    dscp: u8,
    ecn: u8,
    tcp_flags: u8,
}

impl Sums {
    /// Of no turn at all.
    fn of_nothing() -> Self {
        Self {
            timeouts: Some(0),
            ..Self::default()
        }
    }

    fn add(&mut self, turn: &Turn) {
        self.segments += u64::from(turn.segments);
        self.ip_bytes = self.ip_bytes.saturating_add(turn.ip_bytes);
        self.resent_segments += u64::from(turn.retransmitted_segments);
        self.resent_bytes = self.resent_bytes.saturating_add(turn.retransmitted_bytes);
        let timeouts = self.timeouts.zip(turn.timeouts);
        self.timeouts = timeouts.map(|(a, b)| a + u64::from(b));
        self.window_min = match (self.window_min, turn.ack.window_min) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.zero_window_ns = self.zero_window_ns.saturating_add(turn.ack.zero_window_ns);
        let header = self.header.get_or_insert(HeaderFacts {
            ttl_min: turn.ttl_min,
            ttl_max: turn.ttl_max,
            dscp: turn.dscp,
            ecn: 0,
            tcp_flags: 0,
        });
        header.ttl_min = header.ttl_min.min(turn.ttl_min);
        header.ttl_max = header.ttl_max.max(turn.ttl_max);
        header.ecn |= turn.ecn;
        header.tcp_flags |= turn.tcp_flags;
    }

    /// Nothing was sent twice and the peer always had room.
    pub(crate) fn is_undisturbed(&self) -> bool {
        self.resent_segments == 0 && self.zero_window_ns == 0
    }
}

/// Reads one direction. `passed` is how far the connection had got: of a range that goes on beyond
/// it the rest never left, and what is said is said of what did.
pub(crate) fn read(
    range: Option<&StreamRange>,
    turns: &Turns,
    beginning: Beginning,
    passed: Option<u64>,
) -> Reading {
    let mut reading = Reading::default();
    let Some(range) = range else {
        reading.fault = Some(Reason::RangeUnknown);
        return reading;
    };
    if range.start >= range.end {
        reading.sums = Some(Sums::of_nothing());
        return reading;
    }
    let touching = || {
        turns
            .turns
            .iter()
            .filter(|turn| turn.end_offset > range.start && turn.first_offset < range.end)
    };

    let mut sums = Sums::of_nothing();
    let mut tiled_to = range.start;
    let mut fault = turns.lapped.then_some(Reason::Lapped);
    for turn in touching() {
        if turn.first_offset < tiled_to {
            fault = fault.or(Some(Reason::BeganBefore));
        } else if turn.first_offset > tiled_to {
            fault = fault.or(Some(Reason::BytesMissing));
        }
        tiled_to = turn.end_offset;
        sums.add(turn);
    }
    let mut end = range.end;
    if tiled_to > range.end {
        fault = fault.or(Some(Reason::RanOn));
    } else if tiled_to < range.end {
        match passed {
            Some(passed) if passed <= tiled_to => end = tiled_to,
            _ => fault = fault.or(Some(Reason::BytesMissing)),
        }
    }
    reading.sums = fault.is_none().then_some(sums);
    if end == range.start {
        reading.fault = fault;
        return reading;
    }

    let first = touching()
        .next()
        .filter(|turn| turn.first_offset == range.start && !turns.lapped);
    let first = first.and_then(|first| match beginning {
        Beginning::Range => Some(first),
        Beginning::NotBefore(ns) => touching()
            .find(|turn| turn.last_ns >= ns)
            .filter(|turn| turn.first_ns >= ns),
        Beginning::AfterInterim {
            interim_ns,
            head_ns,
            body_bytes,
        } => touching()
            .take_while(|turn| turn.first_ns <= head_ns)
            .last()
            .filter(|turn| turn.first_ns >= interim_ns || turn.segments == 1)
            .filter(|turn| range.end - turn.first_offset > body_bytes),
        Beginning::Hidden(_) => None,
    });
    reading.first_ns = first.map(|turn| turn.first_ns);
    if let Beginning::Hidden(why) = beginning {
        fault = fault.or(Some(why));
    } else if first.is_none() {
        fault = fault.or(Some(Reason::InterimFirst));
    }

    // Holds the last byte and nothing of the call before.
    let last = touching()
        .next_back()
        .filter(|turn| turn.end_offset >= end && turn.first_offset >= range.start);
    if let Some(turn) = last {
        if turn.end_offset == end {
            reading.last_ns = Some(turn.last_ns);
            reading.resent_ns = Some(turn.end_resent_ns).filter(|ns| *ns > 0);
        }
        let is_of_last_byte = turn.end_offset == range.end || turn.ack.offset == range.end;
        if turn.ack.ns > 0 && turn.ack.offset >= range.end && is_of_last_byte {
            let kind = if turn.ack.with_data {
                AckKind::Data
            } else {
                AckKind::Pure
            };
            reading.acked = Some(Acked {
                ns: turn.ack.ns,
                kind,
            });
        }
    }
    reading.fault = fault;
    reading
}

/// What one socket says about one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct LegReading {
    pub(crate) received: Reading,
    pub(crate) sent: Reading,
    pub(crate) min_rtt_us: Option<u64>,
}

/// How a call stands towards its socket at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LegEnd<'a> {
    /// The connection as last seen, which may be later than the call's end.
    pub(crate) last: &'a Counters,
    /// Everything sent was acknowledged, or nobody asks.
    pub(crate) ended_well: bool,
    /// TLS may have said its farewell after the call.
    pub(crate) tls: bool,
}

/// Reads the marks of a leg. Multiplexed legs have none.
pub(crate) fn read_leg(
    leg: &Leg,
    received: Beginning,
    sent: Beginning,
    last: &Counters,
) -> LegReading {
    let has_turns = leg.coverage == Coverage::Ebpf && leg.sharing != Sharing::Multiplexed;
    let min_rtt_us = last.min_rtt_us.or(leg.end.min_rtt_us).map(u64::from);
    if !has_turns {
        return LegReading {
            min_rtt_us,
            ..LegReading::default()
        };
    }
    LegReading {
        received: read(leg.received_range.as_ref(), &leg.received, received, None),
        sent: read(
            leg.sent_range.as_ref(),
            &leg.sent,
            sent,
            last.sent.map(|sent| sent.offset),
        ),
        min_rtt_us,
    }
}

/// Fills in a socket's fields. `request` is the direction the request took: what was received from
/// a client, what was sent to an upstream.
pub(crate) fn describe(
    leg: &Leg,
    reading: &LegReading,
    request: Direction,
    end: LegEnd<'_>,
) -> SocketFields {
    let mut fields = SocketFields {
        socket_cookie: leg.cookie,
        socket_request_seq: Some(leg.request_seq).filter(|seq| *seq > 0),
        socket_streams: Some(leg.streams).filter(|streams| *streams > 0),
        coverage: Some(leg.coverage),
        coverage_reason: leg.coverage_reason.map(Text::Borrowed),
        ..SocketFields::default()
    };
    let (attribution, reason) = attribution(leg, reading, end.last);
    fields.attribution = Some(attribution);
    fields.attribution_reason = reason;

    match (leg.coverage, leg.sharing) {
        (Coverage::None, _) => {}
        (Coverage::Ebpf, Sharing::Sole | Sharing::Pipelined | Sharing::EndUnknown) => {
            own_sums(&mut fields, reading)
        }
        (Coverage::Ebpf, Sharing::Upgraded) => {
            connection_between(&mut fields, &leg.begin, end.last);
            if missed_the_beginning(leg) {
                fields.wire_segments_in = None;
                fields.wire_ip_bytes_in = None;
                fields.tcp_peer_retransmits = None;
            }
            header_facts(&mut fields, reading.received.sums.as_ref());
            // Of a long conversation the ledger remembers only the end: then nothing is known.
            if let Some(sums) = &reading.sent.sums {
                windows(&mut fields, sums);
            }
        }
        (Coverage::Ebpf, Sharing::Multiplexed) | (Coverage::TcpInfo, _) => {
            connection_between(&mut fields, &leg.begin, &leg.end);
        }
    }
    if leg.sharing != Sharing::Multiplexed {
        own_bytes(&mut fields, leg, end.last);
        if let Some(identity) = &leg.identity {
            sequence_numbers(&mut fields, leg, identity, request);
        }
        if !end.ended_well {
            unfinished(&mut fields, leg, request, end.last);
        }
    }
    fields.tcp_ack_kind = reading.sent.acked.map(|acked| acked.kind);
    connection_so_far(&mut fields, end.last);
    fields.tcp_close = end.last.close.filter(|_| was_last_call(leg, end));
    fields
}

/// Takes our farewell (`close_notify`) off the bytes sent to an upstream over TLS. After an answer it
/// has a turn of its own; before one, nobody can tell it from the request.
pub(crate) fn leave_out_farewell(leg: &mut Leg, resp_read_ns: Option<u64>) {
    let Some(range) = &mut leg.sent_range else {
        return;
    };
    let Some(resp_read_ns) = resp_read_ns else {
        if leg.end.close == Some(Close::FinLocal) {
            leg.sent_range = None;
        }
        return;
    };
    if let Some(last) = leg.sent.turns.last()
        && last.first_ns >= resp_read_ns
        && last.first_offset > range.start
        && last.end_offset.saturating_sub(last.first_offset) <= TLS_FAREWELL_MAX
    {
        range.end = last.first_offset;
        leg.sent.turns.pop();
    }
}

/// A direction as the gateway sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Received,
    Sent,
}

fn attribution(leg: &Leg, reading: &LegReading, last: &Counters) -> (Attribution, Option<Reason>) {
    let partial = |why| (Attribution::Partial, Some(why));
    match (leg.coverage, leg.sharing) {
        (Coverage::None, _) => partial(Reason::NoCoverage),
        (_, Sharing::Multiplexed) => (Attribution::Shared, Some(Reason::Multiplexed)),
        (Coverage::TcpInfo, _) => partial(Reason::TcpInfo),
        (Coverage::Ebpf, Sharing::Pipelined) => partial(Reason::Pipelined),
        (Coverage::Ebpf, Sharing::EndUnknown) => partial(Reason::RequestEndUnknown),
        (Coverage::Ebpf, Sharing::Upgraded)
            if leg.begin.received.is_none()
                || last.received.is_none()
                || missed_the_beginning(leg) =>
        {
            partial(Reason::CountersMissing)
        }
        (Coverage::Ebpf, Sharing::Upgraded) => (Attribution::Exact, None),
        (Coverage::Ebpf, Sharing::Sole) => match reading.received.fault.or(reading.sent.fault) {
            None => (Attribution::Exact, None),
            Some(why) => partial(why),
        },
    }
}

/// The connection was first looked at when bytes of the call had already come.
fn missed_the_beginning(leg: &Leg) -> bool {
    match (leg.begin.received, &leg.received_range) {
        (Some(begin), Some(range)) => begin.offset > range.start,
        _ => false,
    }
}

fn own_sums(fields: &mut SocketFields, reading: &LegReading) {
    if let Some(sums) = &reading.received.sums {
        fields.wire_segments_in = Some(sums.segments);
        fields.wire_ip_bytes_in = Some(sums.ip_bytes);
        fields.tcp_peer_retransmits = Some(sums.resent_segments);
    }
    if let Some(sums) = &reading.sent.sums {
        fields.wire_segments_out = Some(sums.segments);
        fields.wire_ip_bytes_out = Some(sums.ip_bytes);
        fields.tcp_retransmits = Some(sums.resent_segments);
        fields.tcp_retransmitted_bytes = Some(sums.resent_bytes);
        fields.tcp_rtos = sums.timeouts;
        windows(fields, sums);
    }
    header_facts(fields, reading.received.sums.as_ref());
}

/// The room the peer had for what was sent.
fn windows(fields: &mut SocketFields, sent: &Sums) {
    fields.tcp_window_min = sent.window_min;
    if sent.segments > 0 {
        fields.tcp_zero_window_us = Some(sent.zero_window_ns / 1000);
    }
}

fn header_facts(fields: &mut SocketFields, received: Option<&Sums>) {
    if let Some(header) = received.and_then(|sums| sums.header) {
        fields.tcp_flags = Some(TcpFlags(header.tcp_flags));
        fields.ip_ttl_min = Some(header.ttl_min);
        fields.ip_ttl_max = Some(header.ttl_max);
        fields.ip_dscp = Some(header.dscp);
        fields.ip_ecn = Some(header.ecn);
    }
}

fn connection_between(fields: &mut SocketFields, begin: &Counters, end: &Counters) {
    fn grown<T: Copy + Into<u64>>(begin: Option<T>, end: Option<T>) -> Option<u64> {
        end?.into().checked_sub(begin?.into())
    }
    let (received, sent) = ((begin.received, end.received), (begin.sent, end.sent));
    fields.wire_bytes_in = grown(received.0.map(|t| t.offset), received.1.map(|t| t.offset));
    fields.wire_bytes_out = grown(sent.0.map(|t| t.offset), sent.1.map(|t| t.offset));
    fields.wire_ip_bytes_in = grown(
        received.0.and_then(|t| t.ip_bytes),
        received.1.and_then(|t| t.ip_bytes),
    );
    fields.wire_ip_bytes_out = grown(
        sent.0.and_then(|t| t.ip_bytes),
        sent.1.and_then(|t| t.ip_bytes),
    );
    fields.wire_segments_in = grown(
        received.0.map(|t| t.segments),
        received.1.map(|t| t.segments),
    );
    fields.wire_segments_out = grown(sent.0.map(|t| t.segments), sent.1.map(|t| t.segments));
    fields.tcp_retransmits = grown(begin.retransmits, end.retransmits);
    fields.tcp_retransmitted_bytes = grown(begin.retransmitted_bytes, end.retransmitted_bytes);
    fields.tcp_rtos = grown(begin.rtos, end.rtos);
    fields.tcp_peer_retransmits = grown(
        received.0.and_then(|t| t.late_segments),
        received.1.and_then(|t| t.late_segments),
    );
}

/// The gateway's own count, less what never left.
fn own_bytes(fields: &mut SocketFields, leg: &Leg, last: &Counters) {
    if let Some(range) = &leg.received_range {
        fields.wire_bytes_in = Some(range.end.saturating_sub(range.start));
    }
    if let Some(range) = &leg.sent_range {
        let sent_to = sent_to(leg, last).map_or(range.end, |sent| sent.min(range.end));
        fields.wire_bytes_out = Some(sent_to.saturating_sub(range.start));
    }
}

/// How far the sent direction got. Turns are read after the counters, and by then there may be more.
fn sent_to(leg: &Leg, last: &Counters) -> Option<u64> {
    let by_turns = leg.sent.turns.last().map(|turn| turn.end_offset);
    last.sent.map(|sent| sent.offset).max(by_turns)
}

fn sequence_numbers(
    fields: &mut SocketFields,
    leg: &Leg,
    identity: &SocketIdentity,
    request: Direction,
) {
    let (base, range) = match request {
        Direction::Received => (identity.receive_base, &leg.received_range),
        Direction::Sent => (identity.send_base, &leg.sent_range),
    };
    if let (Some(base), Some(range)) = (base, range)
        && range.start < range.end
    {
        // Sequence numbers wrap where offsets do not: the low half is all there is of them.
        let at = |offset: u64| base.wrapping_add(offset as u32);
        fields.tcp_seq_first = Some(at(range.start));
        fields.tcp_seq_last = Some(at(range.end - 1));
    }
}

/// How far the peer acknowledged the range sent; at most its end.
pub(crate) fn acked_to(leg: &Leg, last: &Counters) -> Option<u64> {
    let range = leg.sent_range.as_ref()?;
    let by_turns = leg
        .sent
        .turns
        .iter()
        .filter(|turn| turn.ack.ns > 0)
        .map(|turn| turn.ack.offset)
        .max();
    let acked = last.acked_offset.max(by_turns)?;
    Some(acked.clamp(range.start, range.end.max(range.start)))
}

fn unfinished(fields: &mut SocketFields, leg: &Leg, request: Direction, last: &Counters) {
    let Some(range) = &leg.sent_range else { return };
    fields.tcp_bytes_acked = acked_to(leg, last).map(|acked| acked - range.start);
    fields.tcp_bytes_unsent = match (request, sent_to(leg, last)) {
        (Direction::Received, Some(sent)) => Some(range.end.saturating_sub(sent.max(range.start))),
        // Towards an upstream it is the proxy that writes, and all that is known is what left.
        (Direction::Sent, Some(_)) => None,
        (_, None) => last.unsent_bytes,
    };
}

fn connection_so_far(fields: &mut SocketFields, last: &Counters) {
    fields.tcp_rtt_us = last.rtt_us;
    fields.tcp_min_rtt_us = last.min_rtt_us;
    fields.tcp_handshake_rtt_us = last.handshake_rtt_us;
    fields.tcp_retransmits_total = last.retransmits;
    fields.tcp_rto_total = last.rtos;
    fields.tcp_dup_acks_total = last.dup_acks;
    fields.tcp_cwnd = last.cwnd;
    fields.tcp_mss = last.mss;
    fields.tcp_delivery_rate_bytes_per_s = last.delivery_rate_bytes_per_s;
}

/// No request followed on the connection. Where that cannot be told, only an end seen by the end
/// of the call counts.
fn was_last_call(leg: &Leg, end: LegEnd<'_>) -> bool {
    match leg.sharing {
        Sharing::Upgraded => return true,
        Sharing::Multiplexed => return leg.end.close.is_some(),
        Sharing::Sole | Sharing::Pipelined | Sharing::EndUnknown => {}
    }
    let farewell = if end.tls { TLS_FAREWELL_MAX } else { 0 };
    match (&leg.received_range, end.last.received) {
        _ if leg.closing => true,
        // Also where it had ended by the end of the call: the next request may have come before that.
        (Some(range), Some(received)) => received.offset <= range.end.saturating_add(farewell),
        _ => leg.end.close.is_some(),
    }
}
