//! Policies over API calls. Pure: what was seen and the time come in, verdicts go out; the gateway
//! enforces and delivers.
//!
//! Three doors: [`admit`] decides before a call is forwarded, on the request path; [`Policies::review`]
//! sees its record when it is finished, and [`watch`] looks at connections while they live, both from one
//! thread. [`detect`] holds the detectors behind the last two, [`alert`] what becomes of that they find.
//! [`expression`] is the language that rules are written in; [`addresses`] are lists of those who do not even
//! get to a door, by [`network`].
#![forbid(unsafe_code)]

pub mod addresses;
pub mod admit;
pub mod review;
pub mod watch;

pub mod detect;

pub mod alert;
pub mod expression;
pub mod network;

use calltap_correlate::record::CallRecord;

use alert::Alerts;
use detect::Detectors;
use review::{Fate, Review};
use watch::Watch;

/// What sees finished records and live sockets.
#[derive(Debug)]
pub struct Policies {
    /// Keeps, samples and redacts.
    pub review: Review,
    /// Finds what is unusual in finished calls.
    pub detectors: Detectors,
    /// Looks at what lives.
    pub watch: Watch,
    /// What was found.
    pub alerts: Alerts,
}

impl Policies {
    /// Shows a finished record to the detectors, then applies policy to it, and says what becomes of it.
    pub fn review(&mut self, record: &mut CallRecord, now_ns: u64) -> Fate {
        self.detectors.observe(record, &mut self.alerts, now_ns);
        self.review.judge(record)
    }

    /// To be called about once a second, calls or not.
    pub fn tick(&mut self, now_ns: u64) {
        self.detectors.tick(&mut self.alerts, now_ns);
        self.watch.tick(&mut self.alerts, now_ns);
        self.alerts.tick(now_ns);
    }
}
