//! Policies over API calls. Pure: what was seen and the time come in, verdicts go out; the gateway
//! enforces and delivers.
//!
//! Three doors: [`admit`] before a call is forwarded, [`review`] when its record is finished,
//! [`watch`] while connections live. Each passes everything through until rules are configured.
#![forbid(unsafe_code)]

use calltap_correlate::exchange::{Exchange, Policy};
use calltap_correlate::record::CallRecord;
use calltap_correlate::socket::{Counters, SocketCookie};

/// What happens to a call before it is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it.
    Allow,
    /// Refuse it with this status.
    Refuse {
        /// The HTTP status to answer with.
        status: u16,
    },
}

/// Decides about a call whose head was read. `policy` receives what matched, for the record.
pub fn admit(_call: &Exchange, _socket: &Counters, _policy: &mut Policy, _now_ns: u64) -> Verdict {
    Verdict::Allow
}

/// Changes a finished record, and says whether it is kept: `false` means that policy sampled it
/// away.
pub fn review(_record: &mut CallRecord, _now_ns: u64) -> bool {
    true
}

/// Looks at one live socket during a sweep.
pub fn watch(_cookie: SocketCookie, _socket: &Counters, _now_ns: u64) {}
