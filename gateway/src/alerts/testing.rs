//! Alerts made by hand, told like real ones.

use std::net::IpAddr;
use std::sync::Arc;

use calltap_correlate::join::WallClock;
use calltap_correlate::record::CallRecord;
use calltap_policies::alert::{Alerts, Signal, Subject, Terms};
use calltap_policies::detect::Detector;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Board, QUEUE_MAX, Teller, Told};

const SECOND_NS: u64 = 1_000_000_000;

/// The pipeline's part, with a time of its own.
pub(crate) struct Pretend {
    alerts: Alerts,
    teller: Teller,
    clock: WallClock,
    now_ns: u64,
}

impl Teller {
    /// One whose changes are noted, and delivered by nobody.
    pub(crate) fn only_to(board: &Arc<Board>) -> (Self, mpsc::Receiver<Arc<Told>>) {
        let (queue, changes) = mpsc::channel(QUEUE_MAX);
        let board = Arc::clone(board);
        (Self { board, queue }, changes)
    }
}

impl Pretend {
    /// No alerts yet. Its time begins ten minutes ago, so that what passes is the past.
    pub(crate) fn new(teller: Teller) -> Self {
        Self {
            alerts: Alerts::new(Terms::default(), 7, &[]),
            teller,
            clock: crate::clock::wall_clock(),
            now_ns: crate::clock::now_ns().saturating_sub(600 * SECOND_NS),
        }
    }

    /// The same, with a clock that begins in 1970.
    pub(crate) fn in_1970(mut self) -> Self {
        self.clock = WallClock { wall_ns_at_zero: 0 };
        self.now_ns = 10 * SECOND_NS;
        self
    }

    /// A detector sees something of client `10.0.0.CLIENT`.
    pub(crate) fn sees(&mut self, detector: Detector, client: u8) {
        self.sees_of(detector, Subject::client(IpAddr::from([10, 0, 0, client])));
    }

    /// The same of a client that completed a handshake.
    pub(crate) fn sees_from(&mut self, detector: Detector, client: &str) {
        let source: IpAddr = client.parse().expect("an address");
        self.signal(detector, Subject::client(source), Some(source));
    }

    /// A detector sees something of somebody.
    pub(crate) fn sees_of(&mut self, detector: Detector, subject: Subject) {
        self.signal(detector, subject, None);
    }

    fn signal(&mut self, detector: Detector, subject: Subject, source: Option<IpAddr>) {
        let call = CallRecord {
            uid: Uuid::from_u128(0xca11),
            ..CallRecord::default()
        };
        let signal = Signal {
            detector,
            subject,
            tail: 1e-9,
            observed: 40.0,
            usual: 1.0,
            summary: "40 of 41 calls were refused".to_owned(),
            since_ns: self.now_ns.saturating_sub(SECOND_NS),
            source,
            call: Some(&call),
        };
        self.alerts.raise(signal, self.now_ns);
        self.tell();
    }

    /// So much time passes in which nothing is seen.
    pub(crate) fn quiet(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now_ns += SECOND_NS;
            self.alerts.tick(self.now_ns);
            self.tell();
        }
    }

    fn tell(&mut self) {
        let Self {
            alerts,
            teller,
            clock,
            ..
        } = self;
        alerts.take(|change, alert| teller.tell(change, alert, *clock));
    }
}
