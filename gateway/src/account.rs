//! The conservation law: where every record is that was ever begun.
//!
//! ```text
//! accepted = open + settling + queued + written + dropped(reason)      per sink and per kind
//! ```
//!
//! Nothing counts up and down here. Each stage has one counter that only grows, of the records that
//! ever *left* the stage before it, and what is inside a stage is the difference between two
//! neighbours. A record that gets lost therefore cannot hide: it stays in the stage that lost it,
//! and a gateway at rest whose `open`, `settling` and `queued` are not zero has a fault.
//!
//! A record's counters are raised in the order of its stages, each with release; [`Account::snapshot`]
//! reads them in the opposite order, each with acquire. So whoever sees that a record was written
//! also sees that it was accepted, without a lock: no snapshot is ever torn into a negative stage.
//!
//! Refuses to decide anything: whoever drops a record names the reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::Serialize;

pub(crate) use calltap_correlate::record::Kind;

/// Every kind, in the order in which they are counted and shown.
pub(crate) const KINDS: [Kind; 4] = [Kind::Call, Kind::Connection, Kind::External, Kind::Progress];

/// Why a record was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum DropReason {
    /// Sampling left it out.
    Sampled,
    /// This sink, or this kind of record, is switched off.
    Disabled,
    /// Policy left it out.
    Filtered,
    /// There were more of its kind in a second than may be logged.
    RateBounded,
    /// A queue of ours was at its bound.
    QueueFull,
    /// The sink could not take it: no space, a closed pipe.
    SinkError,
    /// It was still on its way when the gateway had to end.
    Shutdown,
    /// Whoever was working on it gave up without saying why, which is a fault of ours.
    Abandoned,
}

impl DropReason {
    /// Every reason, in the order of declaration.
    pub(crate) const ALL: [DropReason; 8] = [
        DropReason::Sampled,
        DropReason::Disabled,
        DropReason::Filtered,
        DropReason::RateBounded,
        DropReason::QueueFull,
        DropReason::SinkError,
        DropReason::Shutdown,
        DropReason::Abandoned,
    ];

    /// The name it has in the status and the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DropReason::Sampled => "sampled",
            DropReason::Disabled => "disabled",
            DropReason::Filtered => "filtered",
            DropReason::RateBounded => "rate_bounded",
            DropReason::QueueFull => "queue_full",
            DropReason::SinkError => "sink_error",
            DropReason::Shutdown => "shutdown",
            DropReason::Abandoned => "abandoned",
        }
    }
}

/// Counts every record through its stages, for all sinks.
#[derive(Debug)]
pub(crate) struct Account {
    shards: [Shard; SHARDS],
    /// Records that left `settling`, by kind.
    settled: [AtomicU64; KINDS.len()],
    /// Records no sink was offered.
    dropped: Drops,
    sinks: Vec<SinkCounters>,
}

/// The two counters the request path touches. Threads take different shards, so that they do not
/// fight for a cache line; the alignment keeps neighbours (and their prefetched pairs) apart.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    accepted: [AtomicU64; KINDS.len()],
    finished: [AtomicU64; KINDS.len()],
}

/// Enough that the proxy's threads rarely share one; sharing costs time, never a count.
const SHARDS: usize = 16;

#[derive(Debug, Default)]
struct Drops([[AtomicU64; DropReason::ALL.len()]; KINDS.len()]);

#[derive(Debug)]
struct SinkCounters {
    name: &'static str,
    written: [AtomicU64; KINDS.len()],
    dropped: Drops,
}

impl Account {
    /// An account of these sinks. Their names appear in the status and the metrics.
    pub(crate) fn new(sinks: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            settled: Default::default(),
            dropped: Drops::default(),
            sinks: sinks
                .iter()
                .map(|&name| SinkCounters {
                    name,
                    written: Default::default(),
                    dropped: Drops::default(),
                })
                .collect(),
        })
    }

    /// A record was begun and is open until the guard says otherwise. Cheap: the request path
    /// calls it.
    pub(crate) fn open(self: &Arc<Self>, kind: Kind) -> Open {
        raise(&self.shard().accepted[index(kind)], 1);
        Open {
            account: Some(Arc::clone(self)),
            kind,
        }
    }

    /// A record was begun that is complete from its first moment (a posted entry, a connection that
    /// failed): it waits in `settling` for the pipeline.
    pub(crate) fn complete(&self, kind: Kind) {
        let shard = self.shard();
        raise(&shard.accepted[index(kind)], 1);
        raise(&shard.finished[index(kind)], 1);
    }

    /// `n` finished records left `settling` and are now offered to every sink.
    pub(crate) fn settled(&self, kind: Kind, n: u64) {
        raise(&self.settled[index(kind)], n);
    }

    /// `n` finished records left `settling` for no sink at all.
    pub(crate) fn dropped(&self, kind: Kind, reason: DropReason, n: u64) {
        raise(&self.settled[index(kind)], n);
        self.dropped.raise(kind, reason, n);
    }

    /// The sink of that name.
    ///
    /// # Panics
    /// If the account was made without it.
    pub(crate) fn sink(self: &Arc<Self>, name: &str) -> SinkAccount {
        let sink = self.sinks.iter().position(|sink| sink.name == name);
        SinkAccount {
            account: Arc::clone(self),
            sink: sink.unwrap_or_else(|| panic!("the account knows no sink named {name}")),
        }
    }

    /// Where every record is, at one moment: the law holds in each snapshot.
    pub(crate) fn snapshot(&self) -> Conservation {
        // Last stage first; see the module's text for why this order is the whole trick.
        let mut sinks: Vec<[SinkTotals; KINDS.len()]> = self
            .sinks
            .iter()
            .map(|sink| {
                KINDS.map(|kind| SinkTotals {
                    written: read(&sink.written[index(kind)]),
                    dropped: sink.dropped.read(kind),
                })
            })
            .collect();
        for kind in KINDS {
            for (reason, n) in self.dropped.read(kind).into_iter().enumerate() {
                for sink in &mut sinks {
                    sink[index(kind)].dropped[reason] += n;
                }
            }
        }
        let settled = KINDS.map(|kind| read(&self.settled[index(kind)]));
        let finished = KINDS.map(|kind| self.sum(|shard| &shard.finished[index(kind)]));
        let accepted = KINDS.map(|kind| self.sum(|shard| &shard.accepted[index(kind)]));

        let kinds = |totals: &[SinkTotals; KINDS.len()]| {
            KINDS.map(|kind| {
                let i = index(kind);
                let gone = totals[i].written + totals[i].dropped.iter().sum::<u64>();
                Stages {
                    accepted: accepted[i],
                    // Saturating, so that a record counted twice breaks the published law, where
                    // it can be seen, and not the gateway.
                    open: accepted[i].saturating_sub(finished[i]),
                    settling: finished[i].saturating_sub(settled[i]),
                    queued: settled[i].saturating_sub(gone),
                    written: totals[i].written,
                    dropped: totals[i].dropped,
                }
            })
        };
        Conservation {
            sinks: self
                .sinks
                .iter()
                .zip(&sinks)
                .map(|(sink, totals)| (sink.name, kinds(totals)))
                .collect(),
        }
    }

    fn shard(&self) -> &Shard {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        &self.shards[MINE.with(|mine| *mine)]
    }

    fn sum<'a>(&'a self, counter: impl Fn(&'a Shard) -> &'a AtomicU64) -> u64 {
        self.shards.iter().map(|shard| read(counter(shard))).sum()
    }
}

/// A record that is open: the gateway is still working on its call.
#[derive(Debug)]
#[must_use = "dropping it at once says that the call was abandoned"]
pub(crate) struct Open {
    /// Empty once the record left this stage.
    account: Option<Arc<Account>>,
    kind: Kind,
}

impl Open {
    /// The gateway is done with the call; its record waits in `settling` from here on.
    pub(crate) fn finish(mut self) {
        if let Some(account) = self.account.take() {
            raise(&account.shard().finished[index(self.kind)], 1);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(account) = self.account.take() {
            raise(&account.shard().finished[index(self.kind)], 1);
            account.dropped(self.kind, DropReason::Abandoned, 1);
        }
    }
}

/// Where one sink says what became of the records it was offered.
#[derive(Clone, Debug)]
pub(crate) struct SinkAccount {
    account: Arc<Account>,
    sink: usize,
}

impl SinkAccount {
    /// `n` records left for good.
    pub(crate) fn written(&self, kind: Kind, n: u64) {
        raise(&self.counters().written[index(kind)], n);
    }

    /// `n` records this sink was offered did not leave.
    pub(crate) fn dropped(&self, kind: Kind, reason: DropReason, n: u64) {
        self.counters().dropped.raise(kind, reason, n);
    }

    fn counters(&self) -> &SinkCounters {
        &self.account.sinks[self.sink]
    }
}

/// What has left the last stage of one sink, of one kind.
#[derive(Clone, Copy)]
struct SinkTotals {
    written: u64,
    dropped: [u64; DropReason::ALL.len()],
}

/// Where every record is, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conservation {
    sinks: Vec<(&'static str, [Stages; KINDS.len()])>,
}

impl Conservation {
    /// Every sink and kind with its stages.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, Kind, &Stages)> {
        self.sinks.iter().flat_map(|(sink, kinds)| {
            KINDS
                .into_iter()
                .map(move |kind| (*sink, kind, &kinds[index(kind)]))
        })
    }
}

/// `{"json_lines": {"call": {"accepted": 7, ..}, ..}}`
impl Serialize for Conservation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.sinks.iter().map(|(sink, kinds)| {
            let kinds: BTreeMap<&str, &Stages> = KINDS
                .into_iter()
                .map(|kind| (kind_name(kind), &kinds[index(kind)]))
                .collect();
            (sink, kinds)
        }))
    }
}

/// How many records of one kind are in which stage on their way to one sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stages {
    /// Ever begun.
    pub(crate) accepted: u64,
    /// The gateway is still working on the call.
    pub(crate) open: u64,
    /// The call is done, its last bytes are not acknowledged yet.
    pub(crate) settling: u64,
    /// Waiting for the sink.
    pub(crate) queued: u64,
    /// Gone for good.
    pub(crate) written: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Stages {
    /// How many were dropped for this reason.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }
}

#[cfg(test)]
impl Stages {
    /// How many were dropped for any reason.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether the law holds. It always does, unless a record was counted twice.
    pub(crate) fn balanced(&self) -> bool {
        self.accepted
            == self.open + self.settling + self.queued + self.written + self.dropped_total()
    }
}

/// `{"accepted": 7, "open": 0, .., "dropped": {"queue_full": 2}}`; reasons that never occurred are
/// left out.
impl Serialize for Stages {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let dropped: BTreeMap<&str, u64> = DropReason::ALL
            .into_iter()
            .map(|reason| (reason.name(), self.dropped(reason)))
            .filter(|&(_, n)| n > 0)
            .collect();
        let mut out = serializer.serialize_struct("Stages", 6)?;
        out.serialize_field("accepted", &self.accepted)?;
        out.serialize_field("open", &self.open)?;
        out.serialize_field("settling", &self.settling)?;
        out.serialize_field("queued", &self.queued)?;
        out.serialize_field("written", &self.written)?;
        out.serialize_field("dropped", &dropped)?;
        out.end()
    }
}

impl Drops {
    fn raise(&self, kind: Kind, reason: DropReason, n: u64) {
        raise(&self.0[index(kind)][reason as usize], n);
    }

    fn read(&self, kind: Kind) -> [u64; DropReason::ALL.len()] {
        DropReason::ALL.map(|reason| read(&self.0[index(kind)][reason as usize]))
    }
}

fn raise(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Release);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Acquire)
}

fn index(kind: Kind) -> usize {
    match kind {
        Kind::Call => 0,
        Kind::Connection => 1,
        Kind::External => 2,
        Kind::Progress => 3,
    }
}

/// The name a kind has in the record, the status and the metrics.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Call => "call",
        Kind::Connection => "connection",
        Kind::External => "external",
        Kind::Progress => "progress",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn call(account: &Account) -> Stages {
        let snapshot = account.snapshot();
        let (_, _, stages) = snapshot.iter().next().expect("one sink, four kinds");
        *stages
    }

    #[test]
    fn a_record_is_in_exactly_one_stage() {
        let account = Account::new(&["file"]);
        let sink = account.sink("file");
        let open = account.open(Kind::Call);
        assert_eq!((call(&account).accepted, call(&account).open), (1, 1));
        open.finish();
        assert_eq!((call(&account).open, call(&account).settling), (0, 1));
        account.settled(Kind::Call, 1);
        assert_eq!((call(&account).settling, call(&account).queued), (0, 1));
        sink.written(Kind::Call, 1);
        assert_eq!((call(&account).queued, call(&account).written), (0, 1));
        assert!(call(&account).balanced());
    }

    #[test]
    fn an_abandoned_call_is_named_as_one() {
        let account = Account::new(&["file"]);
        drop(account.open(Kind::Call));
        let stages = call(&account);
        assert_eq!(stages.open, 0);
        assert_eq!(stages.dropped(DropReason::Abandoned), 1);
        assert!(stages.balanced());
    }

    #[test]
    fn what_no_sink_was_offered_is_dropped_for_every_sink() {
        let account = Account::new(&["file", "otlp"]);
        account.complete(Kind::Connection);
        account.dropped(Kind::Connection, DropReason::RateBounded, 1);
        for (_, kind, stages) in account.snapshot().iter() {
            let expected = u64::from(kind == Kind::Connection);
            assert_eq!(stages.dropped(DropReason::RateBounded), expected);
            assert!(stages.balanced());
        }
    }

    #[test]
    fn every_reason_is_documented_and_has_its_own_name() {
        let described = include_str!("../../docs/operations.md");
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            let name = format!("`{}`", reason.name());
            assert!(described.contains(&name), "docs/operations.md lacks {name}");
            assert_eq!(reason as usize, at, "counters are kept in this order");
        }
    }

    #[test]
    fn a_record_counted_twice_breaks_the_law_in_public() {
        let account = Account::new(&["file"]);
        account.open(Kind::Call).finish();
        account.settled(Kind::Call, 1);
        account.sink("file").written(Kind::Call, 2);
        assert!(!call(&account).balanced());
    }

    #[test]
    fn it_reads_as_json() {
        let account = Account::new(&["file"]);
        let _open = account.open(Kind::Call);
        account.complete(Kind::External);
        account.settled(Kind::External, 1);
        account
            .sink("file")
            .dropped(Kind::External, DropReason::QueueFull, 1);
        let json = serde_json::to_value(account.snapshot()).expect("numbers and names");
        assert_eq!(
            json["file"]["call"],
            serde_json::json!({"accepted": 1, "open": 1, "settling": 0, "queued": 0, "written": 0, "dropped": {}})
        );
        assert_eq!(json["file"]["external"]["dropped"]["queue_full"], 1);
    }

    /// Six threads push records through every way there is while a seventh reads. Had a snapshot
    /// been torn, a stage would have come out negative, and the sum with it.
    #[test]
    fn no_snapshot_is_torn() {
        const RECORDS: u64 = 40_000;
        let account = Account::new(&["file", "otlp"]);
        let done = Arc::new(AtomicBool::new(false));
        let (to_pipeline, finished) = mpsc::sync_channel::<u64>(64);
        let (to_sink, settled) = mpsc::sync_channel::<u64>(64);

        let proxies: Vec<_> = (0..4)
            .map(|_| {
                let (account, to_pipeline) = (Arc::clone(&account), to_pipeline.clone());
                thread::spawn(move || {
                    for n in 0..RECORDS {
                        let open = account.open(Kind::Call);
                        if n % 7 == 0 {
                            continue; // abandoned
                        }
                        open.finish();
                        if n % 5 == 0 {
                            account.dropped(Kind::Call, DropReason::QueueFull, 1);
                        } else {
                            to_pipeline
                                .send(n)
                                .expect("the pipeline outlives the proxies");
                        }
                    }
                })
            })
            .collect();
        drop(to_pipeline);
        let pipeline = {
            let account = Arc::clone(&account);
            thread::spawn(move || {
                for n in finished {
                    account.settled(Kind::Call, 1);
                    to_sink.send(n).expect("the sink outlives the pipeline");
                }
            })
        };
        let sink = {
            let (file, otlp) = (account.sink("file"), account.sink("otlp"));
            thread::spawn(move || {
                for n in settled {
                    match n % 3 {
                        0 => file.dropped(Kind::Call, DropReason::SinkError, 1),
                        _ => file.written(Kind::Call, 1),
                    }
                    otlp.dropped(Kind::Call, DropReason::Disabled, 1);
                }
            })
        };
        let reader = {
            let (account, done) = (Arc::clone(&account), Arc::clone(&done));
            thread::spawn(move || {
                let (mut snapshots, mut accepted) = (0u64, 0);
                while !done.load(Ordering::Acquire) {
                    for (sink, kind, stages) in account.snapshot().iter() {
                        assert!(stages.balanced(), "{sink} {kind:?} {stages:?}");
                        if kind == Kind::Call && sink == "file" {
                            assert!(stages.accepted >= accepted, "a total went backwards");
                            accepted = stages.accepted;
                        }
                    }
                    snapshots += 1;
                }
                snapshots
            })
        };
        for proxy in proxies {
            proxy.join().expect("a proxy thread");
        }
        pipeline.join().expect("the pipeline");
        sink.join().expect("the sink");
        done.store(true, Ordering::Release);
        assert!(reader.join().expect("the reader") > 0);

        let stages = call(&account);
        assert_eq!(stages.accepted, 4 * RECORDS);
        assert_eq!((stages.open, stages.settling, stages.queued), (0, 0, 0));
        assert!(stages.balanced() && stages.written > 0);
        assert!(stages.dropped(DropReason::Abandoned) > 0);
    }
}
