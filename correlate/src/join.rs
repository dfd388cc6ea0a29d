//! Holds calls until their last byte is acknowledged, then turns each into a record.
//!
//! A call is finished when its response was written and settled when it is known how that went.
//! In between its socket is looked at now and then: first after one round trip, then ever more
//! seldom, never all sockets at once. Reads no clock and no socket: callers bring the time and look.
//!
//! A call settles at once when nothing can be learnt by waiting: when its last byte is acknowledged
//! already, when no socket is known, or when nothing was sent. Then, and whenever acknowledgements
//! cannot be seen, its record has no `settled`, unless the connection is known to have closed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::compose::{SynCache, call_record};
use crate::exchange::{Exchange, Sharing};
use crate::record::{CallRecord, Settled};
use crate::socket::{CallRanges, Counters, Coverage, SocketSnapshot, StreamRange};

pub use crate::compose::{connection_record, external_record, progress_record};
pub use crate::record::WallClock;

/// The first look comes after one smoothed round trip, but not sooner than this.
const LOOK_AFTER_MIN_NS: u64 = 1_000_000;

/// Where the round trip is unknown, the first look comes after this.
const LOOK_AFTER_UNKNOWN_NS: u64 = 10_000_000;

/// Frames that have not left by then are not waited for: their stream may have been reset.
const FRAMES_MAX_NS: u64 = 1_000_000_000;

/// However long a call has waited, it is looked at this often.
const LOOK_AFTER_MAX_NS: u64 = 1_000_000_000;

/// How long and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A call settles after this, acknowledged or not, nanoseconds.
    pub settle_max_ns: u64,
    /// At most this many calls wait; one more forces out the oldest.
    pub unsettled_max: usize,
}

/// How many calls are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for an acknowledgement.
    pub unsettled: usize,
    /// Settled, and not yet taken by [`Correlator::settled`].
    pub finished: usize,
    /// Forced out so far because too many were waiting.
    pub evicted_total: u64,
}

/// Calls on their way from finished to settled. `S` is the caller's handle to the client's socket.
pub struct Correlator<S> {
    limits: Limits,
    /// By order of arrival, so that the oldest is the first.
    unsettled: BTreeMap<u64, Unsettled<S>>,
    next_ticket: u64,
    /// When to look at whom; entries of evicted calls stay until their time.
    looks: BinaryHeap<Reverse<(u64, u64)>>,
    /// Bounded by what the caller lets in between two calls of [`Correlator::settled`], and by
    /// [`Limits::unsettled_max`].
    finished: VecDeque<Finished<S>>,
    evicted_total: u64,
    syns: SynCache,
}

struct Unsettled<S> {
    exchange: Box<Exchange>,
    source: S,
    ranges: CallRanges,
    last: Counters,
    deadline_ns: u64,
    look_after_ns: u64,
}

struct Finished<S> {
    exchange: Box<Exchange>,
    source: S,
    last: Counters,
    settled: Option<Settled>,
}

/// What a look at a call's socket shows.
enum Standing {
    /// Another look is worth while.
    Waits,
    /// Nothing more is to be learnt. How it has settled, if that can be told.
    Ended(Option<Settled>),
}

impl<S> Unsettled<S> {
    fn finish(self, settled: Option<Settled>) -> Finished<S> {
        let Self {
            exchange,
            source,
            last,
            ranges: _,
            deadline_ns: _,
            look_after_ns: _,
        } = self;
        Finished {
            exchange,
            source,
            last,
            settled,
        }
    }

    /// Takes in what a look at the socket showed.
    fn see(&mut self, seen: Option<SocketSnapshot>) -> Standing {
        let Some(SocketSnapshot {
            counters,
            sent,
            received,
        }) = seen
        else {
            return Standing::Ended(Some(Settled::Closed));
        };
        let leg = &mut self.exchange.client;
        leg.sent.freshen(&sent, &self.ranges.sent);
        leg.received.freshen(&received, &self.ranges.received);
        self.last = counters;
        if leg.sharing == Sharing::Multiplexed {
            leg.end = counters;
        }
        match settled_by(&self.exchange, &self.last, false) {
            Some(settled) => Standing::Ended(Some(settled)),
            None if self.is_multiplexed() && !has_frames_to_leave(&self.exchange) => {
                Standing::Ended(None)
            }
            None => Standing::Waits,
        }
    }

    /// Of HTTP/2 it cannot be seen how a call settles, only that its frames have left.
    fn is_multiplexed(&self) -> bool {
        self.exchange.client.sharing == Sharing::Multiplexed
    }

    /// Finishes it before its time. What was acknowledged stays so; only its end was not seen.
    fn give_up(self, why: Settled) -> Finished<S> {
        let settled = if is_acked(&self.exchange, &self.last, false) {
            Some(Settled::Acked)
        } else {
            Some(why).filter(|_| !self.is_multiplexed())
        };
        self.finish(settled)
    }

    fn next_look_ns(&self, now_ns: u64) -> u64 {
        now_ns
            .saturating_add(self.look_after_ns)
            .min(self.deadline_ns)
    }
}

impl<S> Correlator<S> {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            unsettled: BTreeMap::new(),
            next_ticket: 0,
            looks: BinaryHeap::new(),
            finished: VecDeque::new(),
            evicted_total: 0,
            syns: SynCache::new(),
        }
    }

    /// Takes a call whose response was written. It may be settled at once.
    pub fn take(&mut self, exchange: Box<Exchange>, source: S, now_ns: u64) {
        let last = exchange.client.end;
        let waiting = match settled_by(&exchange, &last, true) {
            Some(settled) => Err(Some(settled)),
            None if has_frames_to_leave(&exchange) => Ok(0..0),
            None => can_settle(&exchange).ok_or(None),
        };
        let sent = match waiting {
            Ok(range) => range,
            Err(settled) => {
                self.finished.push_back(Finished {
                    exchange,
                    source,
                    last,
                    settled,
                });
                return;
            }
        };
        let look_after_ns = last.rtt_us.map_or(LOOK_AFTER_UNKNOWN_NS, |rtt_us| {
            (u64::from(rtt_us) * 1000).clamp(LOOK_AFTER_MIN_NS, LOOK_AFTER_MAX_NS)
        });
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let wait_max_ns = match exchange.client.sharing {
            Sharing::Multiplexed => FRAMES_MAX_NS.min(self.limits.settle_max_ns),
            _ => self.limits.settle_max_ns,
        };
        let received = exchange.client.received_range.clone().unwrap_or_default();
        let unsettled = Unsettled {
            exchange,
            source,
            ranges: CallRanges { sent, received },
            last,
            deadline_ns: now_ns.saturating_add(wait_max_ns),
            look_after_ns,
        };
        // From the end of the call, not from here: on the way it may have waited long enough.
        let written_ns = unsettled.exchange.times.resp_written_ns.min(now_ns);
        let look_ns = unsettled.next_look_ns(written_ns);
        self.looks.push(Reverse((look_ns, ticket)));
        self.unsettled.insert(ticket, unsettled);
        while self.unsettled.len() > self.limits.unsettled_max {
            self.evict_oldest();
        }
    }

    fn evict_oldest(&mut self) {
        let Some((_, oldest)) = self.unsettled.pop_first() else {
            return;
        };
        self.evicted_total += 1;
        self.finished.push_back(oldest.give_up(Settled::Evicted));
        // What is left behind may not outgrow what is waiting.
        if self.looks.len() > 64 + 2 * self.unsettled.len() {
            let unsettled = &self.unsettled;
            self.looks
                .retain(|Reverse((_, ticket))| unsettled.contains_key(ticket));
        }
    }

    /// Looks at the sockets whose time has come, and at no other.
    ///
    /// `look` answers for the ranges asked for; `None` says that the socket is gone.
    pub fn due(
        &mut self,
        now_ns: u64,
        mut look: impl FnMut(&S, &CallRanges) -> Option<SocketSnapshot>,
    ) {
        while let Some(Reverse((due_ns, ticket))) = self.looks.peek().copied() {
            if due_ns > now_ns {
                break;
            }
            self.looks.pop();
            let Some(mut call) = self.unsettled.remove(&ticket) else {
                continue;
            };
            let seen = look(&call.source, &call.ranges);
            match call.see(seen) {
                Standing::Ended(settled) => self.finished.push_back(call.finish(settled)),
                Standing::Waits if now_ns >= call.deadline_ns => {
                    self.finished.push_back(call.give_up(Settled::Deadline));
                }
                Standing::Waits => {
                    call.look_after_ns = (call.look_after_ns * 2).min(LOOK_AFTER_MAX_NS);
                    self.looks
                        .push(Reverse((call.next_look_ns(now_ns), ticket)));
                    self.unsettled.insert(ticket, call);
                }
            }
        }
    }

    /// When [`due`](Self::due) will have something to look at.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.looks.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    /// Hands out the records of what has settled, in the order in which it did. Each is its
    /// receiver's alone, who may still change it ([`Arc::get_mut`]) before others see it.
    pub fn settled(&mut self, clock: WallClock, mut out: impl FnMut(Arc<CallRecord>, S)) {
        while let Some(finished) = self.finished.pop_front() {
            let Finished {
                exchange,
                source,
                last,
                settled,
            } = finished;
            out(
                call_record(exchange, &last, settled, clock, &mut self.syns),
                source,
            );
        }
    }

    /// Settles everything as it stands, after a last look at each socket: connections that were cut
    /// off a moment ago have an end to tell of.
    pub fn shutdown(&mut self, mut look: impl FnMut(&S, &CallRanges) -> Option<SocketSnapshot>) {
        self.looks.clear();
        while let Some((_, mut call)) = self.unsettled.pop_first() {
            let seen = look(&call.source, &call.ranges);
            self.finished.push_back(match call.see(seen) {
                Standing::Ended(settled) => call.finish(settled),
                Standing::Waits => call.give_up(Settled::Shutdown),
            });
        }
    }

    /// How many calls are where.
    pub fn counts(&self) -> Counts {
        Counts {
            unsettled: self.unsettled.len(),
            finished: self.finished.len(),
            evicted_total: self.evicted_total,
        }
    }
}

/// Whether frames of an HTTP/2 response are still in the gateway's hands, which writes them with a task
/// of the connection's: the connection has sent less since the call began than the response's body.
fn has_frames_to_leave(exchange: &Exchange) -> bool {
    let leg = &exchange.client;
    if leg.sharing != Sharing::Multiplexed || leg.coverage != Coverage::Ebpf {
        return false;
    }
    let sent = match (leg.begin.sent, leg.end.sent) {
        (Some(begin), Some(end)) => end.offset.saturating_sub(begin.offset),
        _ => return false,
    };
    exchange.response.status.is_some() && sent <= exchange.response.body_bytes
}

/// The range whose acknowledgement is worth waiting for, if any is.
fn can_settle(exchange: &Exchange) -> Option<StreamRange> {
    let leg = &exchange.client;
    leg.cookie?;
    let can_be_seen = match (leg.coverage, leg.sharing) {
        (Coverage::None, _) => false,
        (
            Coverage::Ebpf,
            Sharing::Sole | Sharing::Pipelined | Sharing::EndUnknown | Sharing::Upgraded,
        ) => true,
        // Only the counters tell, and old kernels lack this one.
        (Coverage::Ebpf, Sharing::Multiplexed) | (Coverage::TcpInfo, _) => {
            leg.end.acked_offset.is_some()
        }
    };
    if !can_be_seen {
        return None;
    }
    // An empty range is of a call without a response: its connection is about to close.
    leg.sent_range.clone()
}

/// How the call has settled, as far as its turns and counters tell. At the call's end the turns may
/// be a moment older than the counters: then one look more finds out when the ACK came.
fn settled_by(exchange: &Exchange, last: &Counters, turns_may_lag: bool) -> Option<Settled> {
    // We are about to close the connection: a moment later its record can say how it ended.
    let leg = &exchange.client;
    let close_is_due = leg.closing && leg.coverage == Coverage::Ebpf && last.close.is_none();
    if is_acked(exchange, last, turns_may_lag) && !close_is_due {
        return Some(Settled::Acked);
    }
    // A FIN alone ends nothing: what was sent before it may still be acknowledged.
    last.closed_ns.map(|_| Settled::Closed)
}

/// Whether the client's kernel has acknowledged all of the response.
fn is_acked(exchange: &Exchange, last: &Counters, turns_may_lag: bool) -> bool {
    let leg = &exchange.client;
    let Some(range) = &leg.sent_range else {
        return false;
    };
    if range.start >= range.end {
        return false;
    }
    let has_turns = leg.coverage == Coverage::Ebpf && leg.sharing != Sharing::Multiplexed;
    let lags = turns_may_lag && has_turns;
    let by_counters = last.acked_offset.is_some_and(|acked| acked >= range.end);
    leg.sent.acked(range.end) || by_counters && !lags
}
