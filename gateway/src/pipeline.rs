//! From finished exchanges to records: the one loop that joins, reviews and hands out.
//!
//! Runs on a thread of its own. The request path only puts its half into a bounded queue; a full
//! queue costs the record, never the call. While calls settle the loop looks every few
//! milliseconds; an idle calltap sleeps.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use arc_swap::ArcSwap;
use calltap_correlate::exchange::{EndedConnection, Exchange, ExternalEntry, Sharing};
use calltap_correlate::join::{
    Correlator, Limits, WallClock, connection_record, external_record, progress_record,
};
use calltap_correlate::record::CallRecord;
use calltap_correlate::socket::{CallRanges, SocketSnapshot};
use calltap_policies::Policies;
use calltap_policies::alert::Alerts;
use calltap_policies::alert::{Alert, Change};
use calltap_policies::review::Fate;
use calltap_policies::watch::{ListenerCounts, Pressure, SourceCounts, Watch};
use calltap_tap::Tap;
use calltap_tap::netstat::SynPressure;
use crossbeam_queue::ArrayQueue;

use crate::account::{Account, DropReason, Kind, Open};
use crate::clock::{now_ns, wall_clock};
use crate::identity::uuid_v7;
use crate::proxy::Setup;
use crate::server::{ClientConnection, Late, Shared};
use crate::socket::TapSource;

/// How long records may gather before they are joined and written, while calls come in.
const BATCH: Duration = Duration::from_millis(5);
/// How often live sockets are swept and the tap's slots returned.
const SWEEP_NS: u64 = 1_000_000_000;
/// Once a sweep has found so many calls that are due to be told of, it leaves further connections to the
/// next one.
const PROGRESS_PER_SWEEP_MAX: usize = 512;

/// A call whose response was written.
pub(crate) struct Finished {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) client: Arc<ClientConnection>,
    /// Filled by the next call on the connection; absent where nothing is left to learn.
    pub(crate) late: Option<Arc<Late>>,
}

enum Entry {
    Call(Finished),
    Connection(Box<EndedConnection>),
    External(Box<ExternalEntry>),
}

/// Where the request path leaves what it saw.
pub(crate) struct Entrance {
    queue: ArrayQueue<Entry>,
    account: Arc<Account>,
    asleep: AtomicBool,
    stopping: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Entrance {
    /// Room for `queue_max` entries that wait to be joined.
    pub(crate) fn new(queue_max: usize, account: Arc<Account>) -> Self {
        Self {
            queue: ArrayQueue::new(queue_max),
            account,
            asleep: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// Who counts the records.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// A call ended.
    pub(crate) fn call_finished(&self, open: Open, finished: Finished) {
        open.finish();
        if self.push(Entry::Call(finished)).is_err() {
            self.account.dropped(Kind::Call, DropReason::QueueFull, 1);
        }
    }

    /// A connection ended, and is to be recorded.
    pub(crate) fn connection_ended(&self, ended: EndedConnection) {
        self.account.complete(Kind::Connection);
        if self.push(Entry::Connection(Box::new(ended))).is_err() {
            self.account
                .dropped(Kind::Connection, DropReason::QueueFull, 1);
        }
    }

    /// Somebody posted an entry. `false`: the queue is full, and it was not taken.
    pub(crate) fn external(&self, entry: ExternalEntry) -> bool {
        self.account.complete(Kind::External);
        let taken = self.push(Entry::External(Box::new(entry))).is_ok();
        if !taken {
            self.account
                .dropped(Kind::External, DropReason::QueueFull, 1);
        }
        taken
    }

    fn push(&self, entry: Entry) -> Result<(), Entry> {
        self.queue.push(entry)?;
        // The loop says that it sleeps before it looks at the queue a last time: one of the two
        // sees the other.
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.wake();
        }
        Ok(())
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Settles and hands out what there is, then ends the loop.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake();
    }
}

/// What the loop is made of.
pub(crate) struct Pipeline {
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) limits: Limits,
    /// Connections that are recorded each second at most; a scan must not fill the disk.
    pub(crate) connections_per_s_max: u32,
    /// How often a call that stays open leaves a record, ns; `u64::MAX`: never.
    pub(crate) interim_ns: u64,
    /// `service.instance.id` of all records.
    pub(crate) instance: Arc<str>,
    pub(crate) shared: Arc<Shared>,
    /// Has the rules about records, which a reload exchanges.
    pub(crate) setup: Arc<ArcSwap<Setup>>,
    pub(crate) policies: Policies,
    pub(crate) outlet: Box<dyn Outlet>,
}

/// Takes finished records, to the sinks and the admin API's recent calls and metrics, and what became of
/// alerts.
pub(crate) trait Outlet: Send {
    /// One record. Never blocks.
    fn take(&mut self, record: Arc<CallRecord>);
    /// One that policy left out: a call all the same, for whoever counts calls.
    fn left_out(&mut self, record: Arc<CallRecord>);
    /// The batch is over.
    fn flush(&mut self);
    /// A change of an alert. Never blocks.
    fn tell(&mut self, change: Change, alert: &Alert, clock: WallClock);
}

struct Settling {
    client: Arc<ClientConnection>,
    late: Option<Arc<Late>>,
}

impl Settling {
    fn look(&self, ranges: &CallRanges) -> Option<SocketSnapshot> {
        // What the next call saw may have been too early. The ledger knows more by now, unless its
        // ring was lapped since; then what was seen is all there is.
        match self.late.as_ref().and_then(|late| late.seen.get()) {
            Some(seen) if seen.sent.acked(ranges.sent.end) => Some(seen.clone()),
            _ => self.client.look(ranges),
        }
    }
}

impl Pipeline {
    /// Starts the loop on its thread.
    pub(crate) fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name("calltap-join".into())
            .spawn(move || self.run())
    }

    fn run(mut self) {
        let entrance = self.entrance.clone();
        let _ = entrance.thread.set(thread::current());
        let mut join = Correlator::new(self.limits);
        let mut bound = RateBound::default();
        let mut swept_ns = now_ns();
        let mut clock = wall_clock();
        loop {
            let stopping = entrance.stopping.load(Ordering::SeqCst);
            let now = now_ns();
            // At most one queue's worth, so that a flood cannot keep settled calls waiting.
            for _ in 0..entrance.queue.capacity() {
                let Some(entry) = entrance.queue.pop() else {
                    break;
                };
                self.enter(entry, &mut join, &mut bound, clock, now);
            }
            join.due(now, Settling::look);
            if stopping && entrance.queue.is_empty() {
                join.shutdown(Settling::look);
            }
            self.hand_out(&mut join, clock, now);
            if stopping && entrance.queue.is_empty() {
                return;
            }
            if now.saturating_sub(swept_ns) >= SWEEP_NS {
                swept_ns = now;
                clock = wall_clock();
                self.sweep(clock, now);
                self.tell(clock);
            }
            self.wait(&join, now);
        }
    }

    fn enter(
        &mut self,
        entry: Entry,
        join: &mut Correlator<Settling>,
        bound: &mut RateBound,
        clock: WallClock,
        now: u64,
    ) {
        match entry {
            Entry::Call(Finished {
                mut exchange,
                client,
                late,
            }) => {
                if exchange.client.sharing == Sharing::Multiplexed
                    && let Some(ledger) = client.socket.ledger()
                {
                    // The frames of the response leave after the call's end, with a task of the
                    // connection's. A ledger still tells when the connection is gone.
                    exchange.client.end = ledger.counters(now);
                }
                join.take(exchange, Settling { client, late }, now);
            }
            Entry::Connection(ended) => {
                if bound.allows(self.connections_per_s_max, now) {
                    self.review(connection_record(*ended, clock), now);
                } else {
                    let reason = DropReason::RateBounded;
                    self.entrance.account.dropped(Kind::Connection, reason, 1);
                }
            }
            Entry::External(entry) => self.review(external_record(*entry, clock), now),
        }
    }

    fn hand_out(&mut self, join: &mut Correlator<Settling>, clock: WallClock, now: u64) {
        join.settled(clock, |record, _| self.review(record, now));
        self.outlet.flush();
        self.tell(clock);
    }

    fn tell(&mut self, clock: WallClock) {
        let Self {
            policies, outlet, ..
        } = self;
        let alerts = &mut policies.alerts;
        alerts.take(|change, alert| outlet.tell(change, alert, clock));
    }

    fn review(&mut self, mut shared: Arc<CallRecord>, now: u64) {
        let record = Arc::get_mut(&mut shared).expect("nobody else has it yet");
        let kind = record.kind;
        record.service_instance_id = Some(Arc::clone(&self.instance));
        let rules = &self.setup.load().config.policies.records;
        if !Arc::ptr_eq(rules, &self.policies.review.rules) {
            self.policies.review.rules = Arc::clone(rules);
        }
        let reason = match self.policies.review(record, now) {
            Fate::Kept => {
                self.entrance.account.settled(kind, 1);
                self.outlet.take(shared);
                return;
            }
            Fate::Filtered => DropReason::Filtered,
            Fate::Sampled => DropReason::Sampled,
        };
        self.entrance.account.dropped(kind, reason, 1);
        self.outlet.left_out(shared);
    }

    fn sweep(&mut self, clock: WallClock, now: u64) {
        let shared = Arc::clone(&self.shared);
        if let TapSource::Ebpf(tap) = &shared.tap {
            tap.sweep();
        }
        let Policies { watch, alerts, .. } = &mut self.policies;
        if let TapSource::Ebpf(tap) = &shared.tap {
            watch_arrivals(tap, watch, alerts, now);
        }
        let mut so_far = Vec::new();
        for connection in shared.registry.iter() {
            watch.socket(&connection.live(*connection.key()), now);
            if so_far.len() < PROGRESS_PER_SWEEP_MAX {
                connection.progress(self.interim_ns, now, |exchange| so_far.push(exchange));
            }
        }
        for _ in 0..shared.closed.len() {
            let Some(closed) = shared.closed.pop() else {
                break;
            };
            watch.closed(&closed, now);
        }
        self.policies.tick(now);
        self.tell(clock);
        let took_ns = now_ns().saturating_sub(now);
        shared.sweep_ns.store(took_ns, Ordering::Relaxed);
        for exchange in so_far {
            self.entrance.account.complete(Kind::Progress);
            self.review(progress_record(exchange, uuid_v7(), clock), now);
        }
        self.outlet.flush();
    }

    fn wait(&self, join: &Correlator<Settling>, now: u64) {
        let entrance = &self.entrance;
        if !entrance.queue.is_empty() {
            return;
        }
        let until_due = match join.next_due_ns() {
            Some(due) => Duration::from_nanos(due.saturating_sub(now)).max(BATCH),
            None => Duration::from_nanos(SWEEP_NS),
        };
        entrance.asleep.store(true, Ordering::SeqCst);
        if entrance.queue.is_empty() && !entrance.stopping.load(Ordering::SeqCst) {
            thread::park_timeout(until_due);
        }
        // Woken by a call: others will follow within the batch, and need not wake us again.
        if !entrance.asleep.swap(false, Ordering::SeqCst) {
            thread::sleep(BATCH);
        }
    }
}

/// Shows what the kernel counts of connections before they are there.
fn watch_arrivals(tap: &Tap, watch: &mut Watch, alerts: &mut Alerts, now: u64) {
    let listeners: Vec<_> = tap
        .listeners()
        .into_iter()
        .map(|counts| ListenerCounts {
            address: counts.address,
            syns: counts.syns,
            handshakes: counts.handshakes,
        })
        .collect();
    let pressure = SynPressure::read().map(|pressure| Pressure {
        cookies_sent: pressure.cookies_sent,
        overflows: pressure.overflows,
    });
    watch.listeners(&listeners, pressure, alerts, now);
    tap.sources(|counts| {
        let source = SourceCounts {
            network: counts.network,
            bits: counts.bits,
            handshakes: counts.handshakes,
        };
        watch.source(&source, alerts, now);
    });
}

/// So many in each second of the clock.
#[derive(Default)]
struct RateBound {
    second: u64,
    passed: u32,
}

impl RateBound {
    fn allows(&mut self, most: u32, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            *self = Self { second, passed: 0 };
        }
        self.passed += 1;
        self.passed <= most
    }
}
