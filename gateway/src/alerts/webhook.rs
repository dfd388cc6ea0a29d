//! Sends each change to one URL, signed, in order, again and again until it is taken.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use uuid::Uuid;

use super::board::Told;
use super::post::{Answer, Poster, PosterError};
use super::spool::{Message, Spool};
use super::tally::{Outcome, Tally};
use super::{Link, Pace, hex};
use crate::config::WebhookConfig;

/// Names the message, the same whenever it is sent again.
const DELIVERY: HeaderName = HeaderName::from_static("x-calltap-delivery");
/// When it was sent, seconds since 1970.
const TIMESTAMP: HeaderName = HeaderName::from_static("x-calltap-timestamp");
/// `sha256=` and the HMAC of timestamp, dot and body.
const SIGNATURE: HeaderName = HeaderName::from_static("x-calltap-signature");

/// One webhook.
pub(super) struct Webhook {
    poster: Poster,
    key: hmac::Key,
    spool: Mutex<Spool>,
    arrived: Notify,
    tally: Arc<Tally>,
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a> {
    event: &'static str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    alert: &'a RawValue,
}

impl Webhook {
    /// Ready to send what the spool holds.
    pub(super) fn new(config: &WebhookConfig, spool: Spool) -> Result<Self, PosterError> {
        let tally = Arc::new(Tally::new(&config.destination.name));
        let (messages, bytes) = spool.waiting();
        tally.set_waiting(messages, bytes);
        Ok(Self {
            poster: Poster::new(config.destination.clone())?,
            key: hmac::Key::new(hmac::HMAC_SHA256, config.secret.reveal()),
            spool: Mutex::new(spool),
            arrived: Notify::new(),
            tally,
        })
    }

    /// How it is doing.
    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Puts what it is to be told into its spool, and returns when that is on the disk.
    pub(super) fn keep(&self, changes: &[Arc<Told>], link: &Link) {
        let severity = self.poster.destination().severity;
        let wanted = |told: &&Arc<Told>| told.alert.severity >= severity;
        let mut spool = self.spool();
        let (mut kept, mut lost) = (0, 0);
        for told in changes.iter().filter(wanted) {
            let message = Message {
                id: Uuid::from_u128(crate::identity::random()),
                body: body(told, link),
            };
            match spool.push(&message) {
                Ok(dropped) => {
                    kept += 1;
                    lost += dropped;
                }
                Err(error) => {
                    lost += 1;
                    self.disk_fails(&error);
                }
            }
        }
        if lost > 0 {
            self.tally.add(Outcome::Dropped, lost);
        }
        if kept > 0 {
            // Not kept then, but sent as long as this process lives.
            if let Err(error) = spool.sync() {
                self.disk_fails(&error);
            }
            self.arrived.notify_one();
        }
        self.show(&spool);
    }

    /// Sends what waits; never ends.
    pub(super) async fn run(&self, pace: Pace) {
        let mut failures = 0;
        loop {
            let first = self.spool().first();
            let message = match first {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.arrived.notified().await;
                    continue;
                }
                Err(error) => {
                    self.disk_fails(&error);
                    failures += 1;
                    tokio::time::sleep(pace.pause(failures, None)).await;
                    continue;
                }
            };
            let id = message.id;
            let outcome = match self.send(message).await {
                Answer::Taken => {
                    self.tally.works();
                    Outcome::Delivered
                }
                Answer::Refused(why) => {
                    self.tally.fails(why);
                    Outcome::Refused
                }
                Answer::Later(why, after) => {
                    self.tally.add(Outcome::Retried, 1);
                    self.tally.fails(why);
                    failures += 1;
                    tokio::time::sleep(pace.pause(failures, after)).await;
                    continue;
                }
            };
            failures = 0;
            let mut spool = self.spool();
            if let Err(error) = spool.finish(id) {
                self.disk_fails(&error);
            }
            self.show(&spool);
            self.tally.add(outcome, 1);
        }
    }

    /// Whether waiting for it would be in vain: nothing waits, or it does not take anything.
    pub(super) fn is_quiet(&self) -> bool {
        self.tally.waiting().0 == 0 || self.tally.failing().is_some()
    }

    async fn send(&self, message: Message) -> Answer {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let timestamp = since_1970.unwrap_or(Duration::ZERO).as_secs().to_string();
        let signature = signature(&self.key, &timestamp, &message.body);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (DELIVERY, message.id.to_string()),
            (TIMESTAMP, timestamp),
            (SIGNATURE, signature),
        ] {
            headers.insert(
                name,
                HeaderValue::try_from(value).expect("digits and names"),
            );
        }
        let path = self.poster.destination().url.path_and_query();
        self.poster.post(path, headers, message.body).await
    }

    fn disk_fails(&self, error: &io::Error) {
        self.tally
            .fails(format!("its spool cannot be used: {error}"));
    }

    fn show(&self, spool: &Spool) {
        let (messages, bytes) = spool.waiting();
        self.tally.set_waiting(messages, bytes);
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn body(told: &Told, link: &Link) -> String {
    let alert = serde_json::from_str(&told.json).expect("an alert is JSON");
    let body = Body {
        event: told.change.word(),
        instance: &link.instance,
        url: link.to_alert(told.alert.id),
        alert,
    };
    serde_json::to_string(&body).expect("no map, and no key that is not text")
}

fn signature(key: &hmac::Key, timestamp: &str, body: &str) -> String {
    let mut signing = hmac::Context::with_key(key);
    signing.update(timestamp.as_bytes());
    signing.update(b".");
    signing.update(body.as_bytes());
    format!("sha256={}", hex(signing.sign().as_ref()))
}
