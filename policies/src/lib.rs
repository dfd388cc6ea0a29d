//! Policies over API calls. Pure: what was seen and the time come in, verdicts go out; the gateway
//! enforces and delivers.
//!
//! Three doors: [`admit`] decides before a call is forwarded, [`review`] when its record is finished,
//! [`watch`] while connections live. The last two pass everything through as yet. [`expression`] is
//! the language that rules are written in.
#![forbid(unsafe_code)]

pub mod admit;
pub mod detect;
pub mod expression;

use calltap_correlate::record::CallRecord;
use calltap_correlate::socket::{Counters, SocketCookie};

/// Changes a finished record, and says whether it is kept: `false` means that policy sampled it
/// away.
pub fn review(_record: &mut CallRecord, _now_ns: u64) -> bool {
    true
}

/// Looks at one live socket during a sweep.
pub fn watch(_cookie: SocketCookie, _socket: &Counters, _now_ns: u64) {}
