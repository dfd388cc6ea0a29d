//! The records that left last, kept in memory for the admin API; changes of alerts are kept alike.
//!
//! One ring serves all three uses: look-up, pages, and the live stream. A reader of the stream that
//! falls behind by more than the ring holds is told how many records passed it by; nobody ever
//! waits for a reader.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calltap_correlate::record::CallRecord;
use tokio::sync::Notify;
use uuid::Uuid;

use super::metrics::CallMetrics;

/// Records are copied out of the ring in pieces of this size, so that the pipeline, which fills it,
/// never waits longer than that takes.
pub(crate) const CHUNK: usize = 512;

/// The ring.
#[derive(Debug)]
pub(crate) struct Recent<T = CallRecord> {
    ring: Mutex<Ring<T>>,
    max: usize,
    arrived: Notify,
}

#[derive(Debug)]
struct Ring<T> {
    records: VecDeque<Arc<T>>,
    /// The number that the next record will get; the first ever got 0.
    next: u64,
}

impl<T> Ring<T> {
    fn first(&self) -> u64 {
        self.next - self.records.len() as u64
    }

    fn range(&self, begin: u64, end: u64) -> impl DoubleEndedIterator<Item = Numbered<T>> {
        let (begin, end) = (begin.max(self.first()), end.min(self.next));
        (begin..end.max(begin)).map(|number| {
            let index = (number - self.first()) as usize;
            (number, Arc::clone(&self.records[index]))
        })
    }
}

/// A record and its number in order of arrival.
pub(crate) type Numbered<T = CallRecord> = (u64, Arc<T>);

impl Recent {
    /// The newest record with this uid.
    pub(crate) fn find(&self, uid: Uuid) -> Option<Numbered> {
        self.newest_first(u64::MAX)
            .find(|(_, record)| record.uid == uid)
    }
}

impl<T> Recent<T> {
    /// Room for `max` records.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            ring: Mutex::new(Ring {
                records: VecDeque::new(),
                next: 0,
            }),
            max,
            arrived: Notify::new(),
        })
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// How many there may be.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// The number that the next record will get.
    pub(crate) fn end(&self) -> u64 {
        self.lock().next
    }

    /// The records before that number, newest first. Those that arrive meanwhile do not appear;
    /// those that leave the ring meanwhile end it.
    pub(crate) fn newest_first(&self, before: u64) -> impl Iterator<Item = Numbered<T>> {
        let mut end = before;
        std::iter::from_fn(move || {
            let ring = self.lock();
            end = end.min(ring.next);
            let begin = end.saturating_sub(CHUNK as u64);
            let chunk: Vec<Numbered<T>> = ring.range(begin, end).rev().collect();
            end = begin;
            (!chunk.is_empty()).then_some(chunk)
        })
        .flatten()
    }

    /// At most [`CHUNK`] records from that number on, oldest first, and how many of those asked for
    /// had left the ring before.
    pub(crate) fn from(&self, number: u64) -> (u64, Vec<Numbered<T>>) {
        let ring = self.lock();
        let begin = number.max(ring.first());
        let chunk = ring.range(begin, begin + CHUNK as u64).collect();
        (begin - number, chunk)
    }

    /// Returns when there is a record of that number or a later one.
    pub(crate) async fn wait_for(&self, number: u64) {
        loop {
            let arrived = self.arrived.notified();
            if self.end() > number {
                return;
            }
            arrived.await;
        }
    }

    /// Adds a batch, and empties it.
    pub(crate) fn push(&self, batch: &mut Vec<Arc<T>>) {
        let surplus = {
            let mut ring = self.lock();
            ring.next += batch.len() as u64;
            ring.records.extend(batch.drain(..));
            let surplus = ring.records.len().saturating_sub(self.max);
            ring.records.drain(..surplus).collect::<Vec<_>>()
        };
        self.arrived.notify_waiters();
        // Taken apart after the lock was given back.
        drop(surplus);
    }

    fn lock(&self) -> MutexGuard<'_, Ring<T>> {
        // Nothing that holds it can panic half-way through a change.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pipeline's hand that fills the ring and the metrics, a batch at a time.
#[derive(Debug)]
pub(crate) struct Feed {
    recent: Arc<Recent>,
    metrics: Arc<CallMetrics>,
    batch: Vec<Arc<CallRecord>>,
    /// Counted, and not shown.
    left_out: Vec<Arc<CallRecord>>,
}

impl Feed {
    /// A hand that fills these.
    pub(crate) fn new(recent: Arc<Recent>, metrics: Arc<CallMetrics>) -> Self {
        Self {
            recent,
            metrics,
            batch: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Takes one record.
    pub(crate) fn take(&mut self, record: Arc<CallRecord>) {
        self.batch.push(record);
        if self.batch.len() >= CHUNK {
            self.flush();
        }
    }

    /// Counts one record that nobody is to see.
    pub(crate) fn count(&mut self, record: Arc<CallRecord>) {
        self.left_out.push(record);
        if self.left_out.len() >= CHUNK {
            self.flush();
        }
    }

    /// Shows and counts what has gathered.
    pub(crate) fn flush(&mut self) {
        if !self.left_out.is_empty() {
            self.metrics.count(&self.left_out);
            self.left_out.clear();
        }
        if self.batch.is_empty() {
            return;
        }
        self.metrics.count(&self.batch);
        self.recent.push(&mut self.batch);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use calltap_correlate::record::{Kind, Timestamp};

    use super::*;

    fn filled(max: usize, records: u128) -> Arc<Recent> {
        let recent = Recent::new(max);
        let mut feed = Feed::new(Arc::clone(&recent), Arc::default());
        for n in 0..records {
            let began = Timestamp::from_unix_us(n as i64);
            feed.take(Arc::new(CallRecord::new(
                Kind::Call,
                Uuid::from_u128(n),
                began,
            )));
        }
        feed.flush();
        recent
    }

    fn uids(records: impl IntoIterator<Item = Numbered>) -> Vec<u128> {
        let records = records.into_iter();
        records.map(|(_, record)| record.uid.as_u128()).collect()
    }

    #[test]
    fn the_oldest_gives_way() {
        let recent = filled(3, 5);
        assert_eq!(recent.len(), 3);
        assert_eq!(uids(recent.newest_first(u64::MAX)), [4, 3, 2]);
        assert!(recent.find(Uuid::from_u128(1)).is_none());
        assert_eq!(
            recent.find(Uuid::from_u128(2)).map(|found| found.0),
            Some(2)
        );
    }

    #[test]
    fn pages_continue_where_the_last_one_ended() {
        let recent = filled(5000, 2000);
        let all: Vec<u128> = (0..2000).rev().collect();
        assert_eq!(uids(recent.newest_first(u64::MAX)), all);
        assert_eq!(uids(recent.newest_first(1000)), all[1000..]);
        assert_eq!(uids(recent.newest_first(0)), []);
    }

    #[test]
    fn a_reader_that_fell_behind_is_told_how_far() {
        let recent = filled(3, 5);
        let (missed, records) = recent.from(1);
        assert_eq!((missed, uids(records)), (1, vec![2, 3, 4]));
        let (missed, records) = recent.from(5);
        assert_eq!((missed, uids(records)), (0, vec![]));
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let recent = filled(3, 1);
        recent.wait_for(0).await; // is there already
        let waiting = tokio::spawn({
            let recent = Arc::clone(&recent);
            async move { recent.wait_for(1).await }
        });
        tokio::task::yield_now().await;
        let mut feed = Feed::new(Arc::clone(&recent), Arc::default());
        feed.take(Arc::default());
        drop(feed);
        waiting.await.expect("the reader");
    }
}
