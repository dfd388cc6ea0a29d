//! While it happens: live sockets and listeners, looked at once a second.

use calltap_correlate::socket::{Counters, SocketCookie};

use crate::alert::Alerts;

/// Looks at live sockets.
#[derive(Debug, Default)]
pub struct Watch {}

impl Watch {
    /// One live socket during a sweep.
    pub fn socket(
        &mut self,
        _cookie: SocketCookie,
        _socket: &Counters,
        _alerts: &mut Alerts,
        _now_ns: u64,
    ) {
    }
}
