//! Tells an Alertmanager (API v2) what is open, when it changes and again and again.
//!
//! Keeps nothing on disk: what is open now is on the [`Board`], and what is over ends at the
//! Alertmanager by itself, because every alert that it is told of says until when it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use calltap_correlate::join::WallClock;
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::board::{Board, Told};
use super::post::{Answer, Poster, PosterError};
use super::tally::{Outcome, Tally};
use super::{Link, Pace};
use crate::clock::{now_ns, wall_clock};
use crate::config::Destination;

/// Alerts in one request; Prometheus sends as many.
const BATCH_MAX: usize = 256;
/// An alert ends when we did not tell of it for so many times in a row. Prometheus does the same.
const HOLDS_FOR: u32 = 4;

/// One Alertmanager.
pub(super) struct Alertmanager {
    poster: Poster,
    path: String,
    resend: Duration,
    board: Arc<Board>,
    link: Arc<Link>,
    changed: Notify,
    /// It knows of so many changes.
    told: AtomicU64,
    tally: Arc<Tally>,
}

impl Alertmanager {
    /// Ready to tell what is on the board.
    pub(super) fn new(
        destination: &Destination,
        resend: Duration,
        board: &Arc<Board>,
        link: &Arc<Link>,
    ) -> Result<Self, PosterError> {
        let base = destination.url.path_and_query().trim_end_matches('/');
        Ok(Self {
            path: format!("{base}/api/v2/alerts"),
            tally: Arc::new(Tally::new(&destination.name)),
            poster: Poster::new(destination.clone())?,
            resend,
            board: Arc::clone(board),
            link: Arc::clone(link),
            changed: Notify::new(),
            told: AtomicU64::new(0),
        })
    }

    /// How it is doing.
    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// There is something to tell.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Tells what there is to tell; never ends. Asleep while nothing is open.
    pub(super) async fn run(&self, pace: Pace) {
        let severity = self.poster.destination().severity;
        // One that is back must not have ended meanwhile what still goes on.
        let pace = Pace {
            retry_max: pace.retry_max.min(self.resend),
            ..pace
        };
        let mut failures = 0;
        let mut again_at = Instant::now();
        loop {
            let again = Instant::now() >= again_at;
            let (mut alerts, next) = self.board.since(self.told.load(Ordering::Relaxed), again);
            alerts.retain(|alert| alert.alert.severity >= severity);
            match self.tell(&alerts).await {
                Ok(()) => {
                    self.told.store(next, Ordering::Relaxed);
                    failures = 0;
                    if again {
                        again_at = Instant::now() + self.resend;
                    }
                }
                Err((why, after)) => {
                    self.tally.add(Outcome::Retried, 1);
                    self.tally.fails(why);
                    failures += 1;
                    // What changes meanwhile is told with it.
                    let after = after.map(|after| after.min(self.resend));
                    tokio::time::sleep(pace.pause(failures, after)).await;
                    continue;
                }
            }
            let is_wanted = |alert: &Arc<Told>| alert.alert.severity >= severity;
            if self.board.since(u64::MAX, true).0.iter().any(is_wanted) {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(again_at) => {}
                }
            } else {
                self.changed.notified().await;
            }
        }
    }

    /// Whether waiting for it would be in vain: it knows everything, or does not take anything.
    pub(super) fn is_quiet(&self) -> bool {
        let (_, next) = self.board.since(u64::MAX, false);
        self.told.load(Ordering::Relaxed) == next || self.tally.failing().is_some()
    }

    async fn tell(&self, alerts: &[Arc<Told>]) -> Result<(), (String, Option<Duration>)> {
        for batch in alerts.chunks(BATCH_MAX) {
            let holds_until_ns = now_ns() + (self.resend * HOLDS_FOR).as_nanos() as u64;
            let clock = wall_clock();
            let body: Vec<Value> = batch
                .iter()
                .map(|told| alert(told, &self.link, clock, holds_until_ns))
                .collect();
            let body = Value::from(body).to_string();
            let outcome = match self.poster.post(&self.path, HeaderMap::new(), body).await {
                Answer::Taken => {
                    self.tally.works();
                    Outcome::Delivered
                }
                // Not again: it would hold up all that come after.
                Answer::Refused(why) => {
                    self.tally.fails(why);
                    Outcome::Refused
                }
                Answer::Later(why, after) => return Err((why, after)),
            };
            self.tally.add(outcome, batch.len() as u64);
        }
        Ok(())
    }
}

/// Labels say which alert it is, so they hold nothing that changes while it is open.
fn alert(told: &Told, link: &Link, now: WallClock, holds_until_ns: u64) -> Value {
    let Told { alert, clock, .. } = told;
    let info = alert.detector.info();
    let ends_at = match alert.resolved_ns {
        Some(ns) => clock.at_us(ns / 1000),
        None => now.at_us(holds_until_ns / 1000),
    };
    let examples: Vec<String> = alert
        .examples
        .iter()
        .map(|uid| link.to_call(*uid).unwrap_or_else(|| uid.to_string()))
        .collect();
    let mut all = json!({
        "labels": {
            "alertname": info.name,
            "severity": alert.severity.word(),
            "service": "calltap",
            "instance": &*link.instance,
            "subject_kind": alert.subject.kind(),
            "subject": alert.subject.to_string(),
        },
        "annotations": {
            "summary": alert.summary,
            "description": info.meaning,
            "blame": alert.blame().word(),
            "examples": examples.join(" "),
        },
        "startsAt": clock.at_us(alert.since_ns / 1000).to_string(),
        "endsAt": ends_at.to_string(),
    });
    if let Some(url) = link.to_alert(alert.id) {
        all["generatorURL"] = url.into();
    }
    all
}
