//! When things happened during a call, and whose time it was.
//!
//! Marks are rounded to whole microseconds once and only then subtracted, so that sums are exact.
//! A mark that is not known is absent; nothing is guessed.
//!
//! From the marks follow the **parts**: every microsecond from the first request packet until the
//! client's kernel had acknowledged the last response byte belongs to exactly one. The way leads
//! from mark to mark in the order in which a call normally passes them:
//!
//! | from → to | part |
//! |---|---|
//! | `req_first` → `head_arrived` | `client_send` |
//! | `head_arrived` → `head_read` | `kernel_wait` |
//! | `head_read` → first `up_begin` | `gateway` |
//! | first `up_begin` → last `up_begin` | `failed_attempts` |
//! | `up_begin` → `up_connected` → `up_secured` | `connect`, `upstream_tls` |
//! | → `up_sent_first` | `gateway` |
//! | `up_sent_first` → `up_sent_last` | `client_send` until `req_last`, the rest `gateway` |
//! | `up_sent_last` → `up_first` | `upstream_network`: re-sending the request's end, then one round trip (the smallest known, or less if a pure ACK came faster); the rest `upstream_server` |
//! | `up_first` → `resp_first` | `gateway`, less what it waited for more: from `resp_read` until `up_last`, where that came before `resp_first`, it is `upstream_server` |
//! | `resp_first` → `resp_last` | `delivery` while the gateway could not write, and once it had written everything; the rest `upstream_server`, but no more than until `up_last`; what is left `gateway` |
//! | `resp_last` → `resp_acked` | `delivery`; what exceeds the smallest round trip, with nothing sent again and no closed window, is `delayed_ack` |
//!
//! Five rules complete the table.
//!
//! - A mark of a stage that cannot have happened (connecting, on a pooled connection; anything
//!   upstream, when the gateway answered on its own) is stepped over. Any other absent mark makes
//!   the stretch up to the next present one `unattributed`, never a named party's.
//! - A mark that lies after its successor counts as simultaneous with it: what began ends what came
//!   before. So an early response ends the sending of the request, and what happens after the
//!   client had its answer is nobody's. A mark before `req_first` counts as that.
//! - When the last attempt failed before it could carry the request, all of it is
//!   `failed_attempts`, up to the gateway's own answer.
//! - Where `up_first` is absent (session tickets hide it on a new connection with TLS 1.3), the wait
//!   for the upstream ends at `up_last`, if all of the response was there before the gateway had
//!   its head: until then the upstream was still sending.
//! - The body of an answer of the gateway's own is the `gateway`'s, not the `upstream_server`'s.
//!
//! What a response waits for after the gateway has written all of it is the way to the client
//! alone, so that is `delivery` too: a large send buffer would otherwise hide a slow reader, whose
//! time would be charged to the upstream. Likewise an upstream whose last packet has arrived owes
//! nothing any more, and one that sends its head and later its body is waited for all the while,
//! also where the gateway writes both at once.

use smallvec::SmallVec;

use crate::exchange::{Attempt, Exchange, Sharing};
use crate::leg::{Acked, LegReading};
use crate::record::AckKind;

/// Moments of a call, microseconds on the monotonic clock. Those of the upstream are of the last
/// attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// First request packet arrived.
    pub req_first: Option<u64>,
    /// Last request packet arrived.
    pub req_last: Option<u64>,
    /// The packet that completed the request head arrived.
    pub head_arrived: Option<u64>,
    /// The gateway had the request head.
    pub head_read: u64,
    /// The attempt began.
    pub up_begin: Option<u64>,
    /// Its TCP connection was there.
    pub up_connected: Option<u64>,
    /// Its TLS handshake was done.
    pub up_secured: Option<u64>,
    /// First request packet left.
    pub up_sent_first: Option<u64>,
    /// Last request packet left for the first time.
    pub up_sent_last: Option<u64>,
    /// It was last sent again.
    pub up_resent_last: Option<u64>,
    /// The upstream's kernel acknowledged the last request byte.
    pub up_acked: Option<u64>,
    /// First response packet arrived.
    pub up_first: Option<u64>,
    /// Last response packet arrived.
    pub up_last: Option<u64>,
    /// The gateway had the response head.
    pub resp_read: Option<u64>,
    /// First packet of the final response left for the client.
    pub resp_first: Option<u64>,
    /// Last packet of the response left for the first time.
    pub resp_last: Option<u64>,
    /// The gateway finished writing.
    pub resp_written: u64,
    /// The client's kernel acknowledged the last response byte.
    pub resp_acked: Option<u64>,
}

/// What else the parts depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// When the first attempt to reach an upstream began, microseconds on the monotonic clock.
    pub first_begin: Option<u64>,
    /// How the last attempt went.
    pub way: Way,
    /// The upstream's smallest round trip, µs.
    pub upstream_min_rtt_us: Option<u64>,
    /// `up_acked` was a packet without payload.
    pub up_acked_purely: bool,
    /// The client's smallest round trip, µs.
    pub client_min_rtt_us: Option<u64>,
    /// Nothing was sent to the client twice, and its window was never closed.
    pub client_undisturbed: bool,
    /// Time the gateway was unable to write to the client, µs.
    pub write_blocked_us: u64,
}

/// How the response came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// No upstream was asked.
    #[default]
    Local,
    /// The last attempt failed before it could carry the request.
    Unreached,
    /// On a connection from the pool.
    Pooled,
    /// On a new connection.
    Connected,
    /// On a new connection with TLS.
    Secured,
}

/// Whose time it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub enum Part {
    ClientSend,
    KernelWait,
    Gateway,
    FailedAttempts,
    Connect,
    UpstreamTls,
    UpstreamNetwork,
    UpstreamServer,
    Delivery,
    DelayedAck,
    Unattributed,
}

/// Microseconds per part; absent where the call had no such stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts([Option<u64>; 11]);

impl Parts {
    /// Microseconds of one part.
    pub fn get(&self, part: Part) -> Option<u64> {
        self.0[part as usize]
    }

    /// Microseconds of all.
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    fn add(&mut self, part: Part, us: u64) {
        *self.0[part as usize].get_or_insert(0) += us;
    }
}

/// Rounds to the nearest microsecond.
pub(crate) fn round_us(ns: u64) -> u64 {
    ns / 1000 + u64::from(ns % 1000 >= 500)
}

impl Marks {
    /// Collects the marks of a call. `upstream` is absent unless the last attempt's.
    pub(crate) fn of(
        exchange: &Exchange,
        client: &LegReading,
        upstream: Option<&LegReading>,
    ) -> Self {
        let us = |ns: Option<u64>| ns.map(round_us);
        let acked = |acked: Option<Acked>| acked.map(|acked| round_us(acked.ns));
        let attempt = exchange.attempts.last();
        let has_tls = has_tls(exchange);
        // A packet of a shared connection belongs to no stream.
        let is_shared = exchange.client.sharing == Sharing::Multiplexed;
        Self {
            req_first: us(client.received.first_ns),
            req_last: us(client.received.last_ns),
            head_arrived: us(exchange.client.head_arrived_ns.filter(|_| !is_shared)),
            head_read: round_us(exchange.times.head_read_ns),
            up_begin: attempt.map(|attempt| round_us(attempt.begin_ns)),
            up_connected: us(attempt.and_then(|attempt| attempt.connected_ns)),
            // Without TLS there is nothing to secure; the attempt was merely ready.
            up_secured: us(attempt
                .filter(|_| has_tls)
                .and_then(|attempt| attempt.secured_ns)),
            up_sent_first: us(upstream.and_then(|leg| leg.sent.first_ns)),
            up_sent_last: us(upstream.and_then(|leg| leg.sent.last_ns)),
            up_resent_last: us(upstream.and_then(|leg| leg.sent.resent_ns)),
            up_acked: acked(upstream.and_then(|leg| leg.sent.acked)),
            up_first: us(upstream.and_then(|leg| leg.received.first_ns)),
            up_last: us(upstream.and_then(|leg| leg.received.last_ns)),
            resp_read: us(exchange.times.resp_read_ns),
            resp_first: us(client.sent.first_ns),
            resp_last: us(client.sent.last_ns),
            resp_written: round_us(exchange.times.resp_written_ns),
            resp_acked: acked(client.sent.acked),
        }
    }
}

impl Evidence {
    pub(crate) fn of(
        exchange: &Exchange,
        client: &LegReading,
        upstream: Option<&LegReading>,
    ) -> Self {
        let up_acked = upstream.and_then(|leg| leg.sent.acked);
        Self {
            first_begin: exchange
                .attempts
                .first()
                .map(|attempt| round_us(attempt.begin_ns)),
            way: way(exchange, upstream.is_some()),
            upstream_min_rtt_us: upstream.and_then(|leg| leg.min_rtt_us),
            up_acked_purely: up_acked.is_some_and(|acked| acked.kind == AckKind::Pure),
            client_min_rtt_us: client.min_rtt_us,
            client_undisturbed: client
                .sent
                .sums
                .as_ref()
                .is_some_and(|sums| sums.is_undisturbed()),
            write_blocked_us: exchange.times.write_blocked_ns / 1000,
        }
    }
}

fn has_tls(exchange: &Exchange) -> bool {
    exchange
        .upstream
        .as_ref()
        .is_some_and(|upstream| upstream.tls_version.is_some())
}

fn way(exchange: &Exchange, reached: bool) -> Way {
    let Some(attempt) = exchange.attempts.last() else {
        return Way::Local;
    };
    let Attempt {
        connected_ns,
        secured_ns,
        outcome,
        ..
    } = attempt;
    let is_ready = reached || secured_ns.is_some() || *outcome == "ok";
    if !is_ready {
        Way::Unreached
    } else if connected_ns.is_none() && exchange.upstream.as_ref().is_some_and(|up| up.reused) {
        Way::Pooled
    } else if has_tls(exchange) {
        Way::Secured
    } else {
        Way::Connected
    }
}

/// What lies between a mark and the one before it.
#[derive(Clone, Copy)]
enum Stretch {
    One(Part),
    Forwarding,
    Answering,
    Returning,
    Responding,
    Acknowledging,
}

/// Divides the time from `req_first` to `resp_acked`; absent where one of the two is, or where they
/// contradict each other.
pub fn parts(marks: &Marks, evidence: &Evidence) -> Option<Parts> {
    let begin = marks.req_first?;
    marks.resp_acked.filter(|end| *end >= begin)?;
    let mut way = way_of(marks, evidence);
    let mut next = u64::MAX;
    for (mark, _) in way.iter_mut().rev() {
        if let Some(mark) = mark {
            next = next.min(*mark);
            *mark = next.max(begin);
        }
    }

    let mut parts = Parts::default();
    let mut from = begin;
    let mut hole = false;
    for (mark, stretch) in way {
        let Some(to) = mark else {
            hole = true;
            continue;
        };
        if !std::mem::take(&mut hole) {
            divide(stretch, marks, evidence, from, to, &mut parts);
        } else if to > from {
            parts.add(Part::Unattributed, to - from);
        }
        from = to;
    }
    Some(parts)
}

/// The marks in the order in which a call passes them, each with what leads up to it.
fn way_of(marks: &Marks, evidence: &Evidence) -> SmallVec<[(Option<u64>, Stretch); 12]> {
    let mut way = SmallVec::new();
    let mut pass = |mark, stretch| way.push((mark, stretch));
    pass(marks.head_arrived, Stretch::One(Part::ClientSend));
    pass(Some(marks.head_read), Stretch::One(Part::KernelWait));
    if evidence.way != Way::Local {
        pass(evidence.first_begin, Stretch::One(Part::Gateway));
    }
    if evidence.first_begin != marks.up_begin {
        pass(marks.up_begin, Stretch::One(Part::FailedAttempts));
    }
    match evidence.way {
        Way::Local => pass(marks.resp_first, Stretch::One(Part::Gateway)),
        Way::Unreached => pass(marks.resp_first, Stretch::One(Part::FailedAttempts)),
        Way::Pooled | Way::Connected | Way::Secured => {
            if evidence.way != Way::Pooled {
                pass(marks.up_connected, Stretch::One(Part::Connect));
            }
            if evidence.way == Way::Secured {
                pass(marks.up_secured, Stretch::One(Part::UpstreamTls));
            }
            pass(marks.up_sent_first, Stretch::One(Part::Gateway));
            pass(marks.up_sent_last, Stretch::Forwarding);
            pass(marks.up_first.or(whole_answer(marks)), Stretch::Answering);
            pass(marks.resp_first, Stretch::Returning);
        }
    }
    pass(marks.resp_last, Stretch::Responding);
    pass(marks.resp_acked, Stretch::Acknowledging);
    way
}

/// When all of the response was there, if that was before the gateway had its head.
fn whole_answer(marks: &Marks) -> Option<u64> {
    let (up_last, resp_read) = marks.up_last.zip(marks.resp_read)?;
    (up_last <= resp_read).then_some(up_last)
}

fn divide(
    stretch: Stretch,
    marks: &Marks,
    evidence: &Evidence,
    from: u64,
    to: u64,
    parts: &mut Parts,
) {
    match stretch {
        Stretch::One(part) => parts.add(part, to - from),
        Stretch::Forwarding => forwarding(marks, from, to, parts),
        Stretch::Answering => answering(marks, evidence, from, to, parts),
        Stretch::Returning => returning(marks, from, to, parts),
        Stretch::Responding => responding(marks, evidence, from, to, parts),
        Stretch::Acknowledging => acknowledging(evidence, to - from, parts),
    }
}

/// `up_sent_first` to `up_sent_last`: the client's until its request was complete.
fn forwarding(marks: &Marks, from: u64, to: u64, parts: &mut Parts) {
    match marks.req_last {
        Some(req_last) => {
            let complete = req_last.clamp(from, to);
            parts.add(Part::ClientSend, complete - from);
            parts.add(Part::Gateway, to - complete);
        }
        None if from == to => {}
        None => parts.add(Part::Unattributed, to - from),
    }
}

/// `up_sent_last` to `up_first`.
fn answering(marks: &Marks, evidence: &Evidence, from: u64, to: u64, parts: &mut Parts) {
    let sent = marks.up_resent_last.unwrap_or(from).clamp(from, to);
    // An ACK that carries data came when the server had something to say: no evidence.
    let acked = marks.up_acked.filter(|_| evidence.up_acked_purely);
    let acknowledging = acked.map(|acked| acked.saturating_sub(sent));
    let round_trip = match (evidence.upstream_min_rtt_us, acknowledging) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let Some(round_trip) = round_trip else {
        // Nothing tells the network from the server.
        parts.add(Part::UpstreamNetwork, sent - from);
        parts.add(Part::Unattributed, to - sent);
        return;
    };
    let network = (sent - from) + round_trip.min(to - sent);
    parts.add(Part::UpstreamNetwork, network);
    parts.add(Part::UpstreamServer, to - from - network);
}

/// `up_first` to `resp_first`.
fn returning(marks: &Marks, from: u64, to: u64, parts: &mut Parts) {
    let upstream = match (marks.resp_read, marks.up_last) {
        (Some(resp_read), Some(up_last)) if up_last <= to => {
            up_last.saturating_sub(resp_read.clamp(from, to))
        }
        _ => 0,
    };
    if upstream > 0 {
        parts.add(Part::UpstreamServer, upstream);
    }
    parts.add(Part::Gateway, to - from - upstream);
}

/// `resp_first` to `resp_last`.
fn responding(marks: &Marks, evidence: &Evidence, from: u64, to: u64, parts: &mut Parts) {
    let written = marks.resp_written.clamp(from, to);
    let blocked = evidence.write_blocked_us.min(written - from);
    parts.add(Part::Delivery, blocked + (to - written));
    let writing = written - from - blocked;
    let upstream = match (marks.resp_read, marks.up_last) {
        // Without the upstream's head the answer was the gateway's own.
        (None, _) => 0,
        (Some(_), Some(up_last)) => writing.min(up_last.saturating_sub(from)),
        (Some(_), None) => writing,
    };
    if upstream > 0 {
        parts.add(Part::UpstreamServer, upstream);
    }
    parts.add(Part::Gateway, writing - upstream);
}

/// `resp_last` to `resp_acked`.
fn acknowledging(evidence: &Evidence, whole: u64, parts: &mut Parts) {
    match evidence.client_min_rtt_us {
        Some(min_rtt_us) if evidence.client_undisturbed => {
            let network = whole.min(min_rtt_us);
            parts.add(Part::Delivery, network);
            parts.add(Part::DelayedAck, whole - network);
        }
        _ => parts.add(Part::Delivery, whole),
    }
}
