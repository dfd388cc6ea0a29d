//! The upstream connection while a call uses it.
//!
//! On HTTP/1.1 it is this call's alone between the hook that hands it over and its way back to the
//! pool, so the bytes that pass in between are the call's: the ledger's offsets before and after
//! are their range.

use std::sync::Arc;

use calltap_correlate::exchange::{Sharing, UpstreamLeg};
use calltap_correlate::socket::{Counters, SocketCookie, StreamRange};
use pingora::protocols::Digest;

use crate::clock::now_ns;
use crate::tls::facts;
use crate::upstream::UpstreamConnection;

/// An upstream connection in use.
pub(super) struct UpstreamUse {
    connection: Arc<UpstreamConnection>,
    fd: i32,
    stream: u64,
    leg: UpstreamLeg,
    sent_start: Option<u64>,
    received_start: Option<u64>,
}

impl UpstreamUse {
    /// Pingora hands the connection over. `None` when it is not one of ours.
    pub(super) fn begin(
        reused: bool,
        fd: i32,
        digest: Option<&Digest>,
        stream: u64,
        multiplexed: bool,
        wants_upgrade: bool,
        now_ns: u64,
    ) -> Option<Self> {
        let digest = digest?;
        let connection = UpstreamConnection::of(digest.proxy_digest.as_deref()?)?;
        let ssl = digest.ssl_digest.as_deref();
        let mut leg = connection.socket.leg();
        leg.request_seq = connection.begin_call();
        let (mut sent_start, mut received_start) = (None, None);
        if multiplexed {
            leg.sharing = Sharing::Multiplexed;
            leg.begin = connection.counters(fd, now_ns);
            connection.streams.open(stream);
        } else if let Some(ledger) = connection.socket.ledger() {
            ledger.cut_sent();
            ledger.cut_received();
            sent_start = Some(ledger.sent_offset());
            received_start = Some(ledger.received_offset());
            if wants_upgrade {
                leg.begin = connection.counters(fd, now_ns);
            }
        } else {
            leg.begin = connection.counters(fd, now_ns);
            sent_start = sent(&leg.begin);
            received_start = received(&leg.begin);
        }
        Some(Self {
            leg: UpstreamLeg {
                leg,
                reused,
                tls_version: ssl.and_then(|ssl| facts::version_from_name(&ssl.version)),
                tls_cipher: ssl.map(|ssl| facts::cipher_from_name(&ssl.cipher)),
            },
            connection: Arc::clone(connection),
            fd,
            stream,
            sent_start,
            received_start,
        })
    }

    /// Its socket.
    pub(super) fn cookie(&self) -> Option<SocketCookie> {
        self.connection.socket.cookie
    }

    /// An interim response was read. The final one is not to share its turn.
    pub(super) fn interim_read(&self) {
        if self.leg.leg.sharing != Sharing::Multiplexed
            && let Some(ledger) = self.connection.socket.ledger()
        {
            ledger.cut_received();
        }
    }

    /// It speaks another protocol from here on.
    pub(super) fn upgraded(&mut self) {
        self.leg.leg.sharing = Sharing::Upgraded;
    }

    /// What is known of it while the call is open. Only a ledger can be read from another thread: the
    /// socket itself may be closed meanwhile.
    pub(super) fn so_far(&self) -> UpstreamLeg {
        let mut so_far = self.leg.clone();
        let Some(ledger) = self.connection.socket.ledger() else {
            return so_far;
        };
        let leg = &mut so_far.leg;
        leg.end = ledger.counters(now_ns());
        if leg.sharing == Sharing::Multiplexed {
            return so_far;
        }
        leg.sent_range = range(self.sent_start, sent(&leg.end));
        leg.received_range = range(self.received_start, received(&leg.end));
        if let Some(range) = &leg.sent_range {
            leg.sent = ledger.sent(range);
        }
        if let Some(range) = &leg.received_range {
            leg.received = ledger.received(range);
        }
        so_far
    }

    /// The call is done with it, or would have had more to send.
    pub(super) fn finish(mut self, now_ns: u64, has_more: bool) -> UpstreamLeg {
        let leg = &mut self.leg.leg;
        if leg.sharing == Sharing::Multiplexed {
            leg.end = self.connection.counters(self.fd, now_ns);
            leg.streams = self.connection.streams.close(self.stream);
            return self.leg;
        }
        // It went back to the pool a moment ago. Should another call have taken it already, then
        // what was not read in time is lost, and not somebody else's.
        if self.connection.calls() != leg.request_seq {
            return self.leg;
        }
        leg.end = self.connection.counters(self.fd, now_ns);
        leg.sent_range = range(self.sent_start, sent(&leg.end));
        leg.received_range = range(self.received_start, received(&leg.end));
        if let Some(ledger) = self.connection.socket.ledger() {
            if let Some(range) = &leg.sent_range {
                // A window that stays closed is time lost only while somebody waits for it.
                let end = if has_more { u64::MAX } else { range.end };
                leg.sent = ledger.sent(&(range.start..end));
            }
            if let Some(range) = &leg.received_range {
                leg.received = ledger.received(range);
            }
        }
        self.leg
    }
}

fn sent(counters: &Counters) -> Option<u64> {
    counters.sent.map(|sent| sent.offset)
}

fn received(counters: &Counters) -> Option<u64> {
    counters.received.map(|received| received.offset)
}

fn range(start: Option<u64>, end: Option<u64>) -> Option<StreamRange> {
    Some(start?..end?)
}
