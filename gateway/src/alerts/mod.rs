//! Alerts on their way to those who act on them.
//!
//! The pipeline tells each change to its [`Teller`], which notes it on the [`Board`], where the admin API
//! reads, and puts it into a bounded queue; it never waits. One thread takes changes out of the queue:
//! into calltap's log, into the [`spool`] of each [`webhook`], to [`alertmanager`]s, and, where policy says
//! so, their source among those who are [denied](deny). It has its own
//! runtime, because it waits for disks and for the servers of others, and sleeps while nothing happens.

mod alertmanager;
mod board;
mod deny;
mod post;
mod spool;
mod tally;
mod webhook;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use calltap_correlate::join::WallClock;
use calltap_policies::alert::{Alert, Change, Severity};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::config::AlertsConfig;
use crate::denials::Denials;
use crate::tail::clean::clean;

use alertmanager::Alertmanager;
use deny::Denier;
use spool::Directory;
use webhook::Webhook;

pub(crate) use board::{Board, CHANGES_MAX, RESOLVED_MAX, Told};
pub(crate) use post::PosterError;
pub(crate) use spool::SpoolError;
pub(crate) use tally::{Outcome, Tally};

/// Changes that may wait for the thread.
pub(crate) const QUEUE_MAX: usize = 4_096;
/// Changes that are written to disk together.
const BATCH_MAX: usize = 256;
/// What is not delivered this long after the end was told waits for the next start.
const LAST_DELIVERY_MAX: Duration = Duration::from_secs(1);

/// Why alerts cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// No place for what waits.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// No way to a destination.
    #[error("alerts cannot be sent")]
    Poster(#[from] PosterError),
    /// No thread or no runtime.
    #[error("cannot start the thread that delivers alerts")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// How soon a destination that failed is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The pause after the first failure; it doubles with every further one.
    pub(crate) retry_min: Duration,
    /// The longest pause.
    pub(crate) retry_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(5 * 60),
        }
    }
}

impl Pace {
    /// How long to wait after so many failures in a row: longer each time, and not all at once. `after`
    /// is what the server asked for, and it gets at least that.
    fn pause(self, failures: u32, after: Option<Duration>) -> Duration {
        let doubled = self
            .retry_min
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = doubled.min(self.retry_max);
        let of_256 = crate::identity::random() as u32 & 0xff;
        let jittered = longest / 2 + longest / 512 * of_256;
        jittered.max(after.unwrap_or_default())
    }
}

/// What turns ids into URLs, and says who we are.
#[derive(Debug)]
pub(crate) struct Link {
    /// `service.instance.id` of our records.
    pub(crate) instance: Arc<str>,
    /// Where people reach the admin API, without a slash at the end, if there is one.
    pub(crate) base: Option<String>,
}

impl Link {
    fn to_alert(&self, id: Uuid) -> Option<String> {
        let base = self.base.as_ref()?;
        Some(format!("{base}/api/v1/alerts/{id}"))
    }

    fn to_call(&self, uid: Uuid) -> Option<String> {
        let base = self.base.as_ref()?;
        Some(format!("{base}/api/v1/calls/{uid}"))
    }
}

/// The pipeline's hand. Never waits.
#[derive(Debug)]
pub(crate) struct Teller {
    board: Arc<Board>,
    queue: mpsc::Sender<Arc<Told>>,
}

impl Teller {
    /// Tells of a change.
    pub(crate) fn tell(&mut self, change: Change, alert: &Alert, clock: WallClock) {
        let told = self.board.note(change, alert, clock);
        if self.queue.try_send(told).is_err() {
            self.board.count_untold();
        }
    }
}

/// The thread that delivers. It ends when the [`Teller`] is gone and the last change is out or on disk.
#[derive(Debug)]
pub(crate) struct Delivery {
    thread: JoinHandle<()>,
    tallies: Arc<[Arc<Tally>]>,
}

impl Delivery {
    /// Opens the spools and starts the thread.
    pub(crate) fn start(
        config: &AlertsConfig,
        link: Link,
        board: Arc<Board>,
        denials: Arc<Denials>,
        pace: Pace,
    ) -> Result<(Self, Teller), DeliveryError> {
        let link = Arc::new(link);
        let denier = Denier::new(config.deny.clone(), denials, Arc::clone(&board));
        let webhooks = webhooks(config)?;
        let managers = &config.alertmanager;
        let managers = managers
            .peers
            .iter()
            .map(|peer| Alertmanager::new(peer, managers.resend, &board, &link).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let tallies = webhooks.all.iter().map(|webhook| webhook.tally());
        let tallies = tallies.chain(managers.iter().map(|manager| manager.tally()));
        let tallies = tallies.cloned().collect();
        let thread = |source| DeliveryError::Thread { source };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(thread)?;
        let (queue, changes) = mpsc::channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("calltap-alerts".to_owned())
            .spawn(move || {
                runtime.block_on(deliver(changes, &denier, &webhooks, &managers, &link, pace));
                runtime.shutdown_timeout(Duration::ZERO);
            })
            .map_err(thread)?;
        Ok((Self { thread, tallies }, Teller { board, queue }))
    }

    /// How the destinations are doing.
    pub(crate) fn tallies(&self) -> &Arc<[Arc<Tally>]> {
        &self.tallies
    }

    /// Waits for the end of the thread. The [`Teller`] must be gone.
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread that delivers alerts has panicked");
        }
    }
}

/// The webhooks, and the directory of their spools as long as they live.
struct Webhooks {
    all: Vec<Arc<Webhook>>,
    _directory: Option<Directory>,
}

fn webhooks(config: &AlertsConfig) -> Result<Webhooks, DeliveryError> {
    if config.webhooks.is_empty() {
        return Ok(Webhooks {
            all: Vec::new(),
            _directory: None,
        });
    }
    let directory = Directory::open(&config.spool_dir)?;
    let names = config.webhooks.iter();
    let names = names.map(|webhook| webhook.destination.name.as_str());
    for path in directory.strangers(names) {
        tracing::warn!(
            "{} has alerts for a webhook that is not configured; remove it, or name the webhook again",
            path.display()
        );
    }
    let mut all = Vec::new();
    for webhook in &config.webhooks {
        let name = &webhook.destination.name;
        let spool = directory.spool(name, config.spool_max_bytes)?;
        if spool.damaged_bytes() > 0 {
            tracing::warn!(
                "{} bytes in the spool of webhook {name} were damaged or cut short, and are gone",
                spool.damaged_bytes()
            );
        }
        if let (1.., _) = spool.waiting() {
            let (messages, _) = spool.waiting();
            tracing::info!("{messages} alerts of before wait for webhook {name}");
        }
        all.push(Arc::new(Webhook::new(webhook, spool)?));
    }
    Ok(Webhooks {
        all,
        _directory: Some(directory),
    })
}

async fn deliver(
    mut changes: mpsc::Receiver<Arc<Told>>,
    denier: &Denier,
    webhooks: &Webhooks,
    managers: &[Arc<Alertmanager>],
    link: &Link,
    pace: Pace,
) {
    let Webhooks {
        all: webhooks,
        _directory,
    } = webhooks;
    let mut senders = JoinSet::new();
    for webhook in webhooks {
        let webhook = Arc::clone(webhook);
        senders.spawn(async move { webhook.run(pace).await });
    }
    for manager in managers {
        let manager = Arc::clone(manager);
        senders.spawn(async move { manager.run(pace).await });
    }
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while changes.recv_many(&mut batch, BATCH_MAX).await > 0 {
        batch.iter().for_each(|told| denier.consider(told));
        for webhook in webhooks {
            webhook.keep(&batch, link);
        }
        for manager in managers {
            manager.wake();
        }
        batch.drain(..).for_each(|told| log(&told));
    }
    let all_quiet = async {
        while !webhooks.iter().all(|webhook| webhook.is_quiet())
            || !managers.iter().all(|manager| manager.is_quiet())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // What is late waits in its spool.
    let _ = tokio::time::timeout(LAST_DELIVERY_MAX, all_quiet).await;
}

fn log(told: &Told) {
    let Told { change, alert, .. } = told;
    let (detector, severity) = (alert.detector.info().name, alert.severity.word());
    let (change, id) = (change.word(), alert.id);
    let (kind, subject) = (alert.subject.kind(), alert.subject.to_string());
    // Names come from clients, and this may be a terminal.
    let (subject, summary) = (clean(&subject), clean(&alert.summary));
    let line = format_args!(
        "alert {change}: {detector} ({severity}) of {kind} {subject}: {summary}; alert {id}"
    );
    match alert.severity {
        _ if !told.is_open() => tracing::info!("{line}"),
        Severity::Info => tracing::info!("{line}"),
        Severity::Warning => tracing::warn!("{line}"),
        Severity::Critical => tracing::error!("{line}"),
    }
}

/// Two digits a byte, in lower case.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
