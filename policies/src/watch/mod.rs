//! While it happens: live sockets and listeners, looked at once a second.
//!
//! A sweep shows every live connection ([`Watch::socket`]), every one that ended since the last sweep
//! ([`Watch::closed`]), and what the kernel counts of listeners and networks ([`Watch::listeners`],
//! [`Watch::source`]), then ends with [`Watch::tick`]. Detectors have a file each.

mod connection_churn;
mod half_open;
mod listener_scan;
mod slow_read;
mod slow_request;
mod syn_flood;

mod holding;
mod pace;
mod source;
mod usual;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use calltap_correlate::socket::{Handshakes, SocketCookie};

use crate::alert::Alerts;

use connection_churn::ConnectionChurn;
use half_open::HalfOpen;
use listener_scan::ListenerScan;
use slow_read::SlowRead;
use slow_request::SlowRequest;
use source::Source;
use syn_flood::SynFlood;

/// What the gateway does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It is in the TLS handshake.
    Securing,
    /// It waits for the first byte of a request.
    Idle,
    /// It reads a request head.
    Head,
    /// It reads a request body, or passes on what has come of it.
    Body,
    /// It waits for the upstream.
    Upstream,
    /// It writes a response, or waits for more of it.
    Response,
    /// It carries another protocol (WebSocket).
    Upgraded,
}

/// A live connection during a sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveSocket {
    /// Which it is.
    pub cookie: SocketCookie,
    /// The TCP peer, whose handshake was completed.
    pub peer: SocketAddr,
    /// Who accepted it.
    pub listener: SocketAddr,
    /// When, ns.
    pub accepted_ns: u64,
    /// What the gateway does with it. With several calls open (HTTP/2), what the slowest of them waits
    /// for...
    pub doing: Doing,
    /// ...and since when, ns.
    pub since_ns: u64,
    /// Calls that it has carried, open ones included.
    pub calls: u32,
    /// Bytes that the gateway has read.
    pub read_bytes: u64,
    /// Bytes that the gateway has written.
    pub written_bytes: u64,
    /// Bytes of a request body that the kernel has received and the gateway has not read; absent where
    /// nobody counts.
    pub unread_bytes: Option<u64>,
    /// Bytes that the gateway has written and the client has not acknowledged, sent or not; absent where
    /// nobody counts.
    pub unacked_bytes: Option<u64>,
    /// Since when the socket takes no more bytes of the gateway's, ns.
    pub blocked_since_ns: Option<u64>,
    /// Since when the client's window is closed, ns; absent where everything is acknowledged.
    pub window_closed_since_ns: Option<u64>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The client left.
    ByClient,
    /// The client's time for a handshake or a request head was up, of which some had come.
    TimedOut,
    /// In any other way.
    Other,
}

/// A connection that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedSocket {
    /// The TCP peer.
    pub peer: SocketAddr,
    /// Who accepted it.
    pub listener: SocketAddr,
    /// Calls that it carried.
    pub calls: u32,
    /// How it ended.
    pub parting: Parting,
}

/// A listener, and what the kernel has counted of it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerCounts {
    /// Which it is.
    pub address: SocketAddr,
    /// SYNs, repeats included, answered or not.
    pub syns: u64,
    /// What became of them.
    pub handshakes: Handshakes,
}

/// A network, and what came from it so far; less than before, where the kernel had forgotten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceCounts {
    /// Its first address...
    pub network: IpAddr,
    /// ...and how many bits its addresses share.
    pub bits: u8,
    /// What came.
    pub handshakes: Handshakes,
}

/// Connections that found no room, of all listeners of the machine or the container, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// SYNs answered with a cookie: too many handshakes were open.
    pub cookies_sent: u64,
    /// Connections that found the queue of those to be accepted full.
    pub overflows: u64,
}

/// Looks at what lives.
#[derive(Debug)]
pub struct Watch {
    slow_request: SlowRequest,
    slow_read: SlowRead,
    connection_churn: ConnectionChurn,
    half_open: HalfOpen,
    listener_scan: ListenerScan,
    syn_flood: SynFlood,
    clients: Clients,
}

impl Watch {
    /// Remembers the habits of so many clients and networks, for each detector.
    pub fn new(sources_max: usize) -> Self {
        Self {
            slow_request: SlowRequest::new(sources_max),
            slow_read: SlowRead::new(sources_max),
            connection_churn: ConnectionChurn::new(sources_max),
            half_open: HalfOpen::new(sources_max),
            listener_scan: ListenerScan::new(sources_max),
            syn_flood: SynFlood::default(),
            clients: Clients::default(),
        }
    }

    /// One live connection.
    pub fn socket(&mut self, socket: &LiveSocket, now_ns: u64) {
        self.clients.add(socket.peer.ip(), now_ns);
        self.slow_request.socket(socket, now_ns);
        self.slow_read.socket(socket, now_ns);
    }

    /// One that ended since the last sweep.
    pub fn closed(&mut self, socket: &ClosedSocket, now_ns: u64) {
        self.slow_request.closed(socket, now_ns);
        self.connection_churn.closed(socket, now_ns);
        self.listener_scan.closed(socket);
    }

    /// Every listener of which the kernel counts what comes.
    pub fn listeners(
        &mut self,
        listeners: &[ListenerCounts],
        pressure: Option<Pressure>,
        alerts: &mut Alerts,
        now_ns: u64,
    ) {
        self.syn_flood.look(listeners, pressure, alerts, now_ns);
    }

    /// One network that the kernel counts.
    pub fn source(&mut self, source: &SourceCounts, alerts: &mut Alerts, now_ns: u64) {
        self.half_open.source(source, alerts, now_ns);
    }

    /// The sweep is over.
    pub fn tick(&mut self, alerts: &mut Alerts, now_ns: u64) {
        let present = self.clients.number();
        self.slow_request.tick(present, now_ns, alerts);
        self.slow_read.tick(present, now_ns, alerts);
        self.connection_churn.tick(present, now_ns, alerts);
        self.listener_scan.tick(now_ns, alerts);
    }
}

/// How many clients there are: counted in one sweep of [`CLIENTS_EVERY_S`] seconds.
#[derive(Debug, Default)]
struct Clients {
    second: u64,
    seen: HashSet<Source>,
    number: usize,
}

const CLIENTS_EVERY_S: u64 = 10;
/// More are not told apart; it makes no difference any more.
const CLIENTS_MAX: usize = 65_536;

impl Clients {
    fn add(&mut self, peer: IpAddr, now_ns: u64) {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            self.end();
            self.second = second;
        }
        if second.is_multiple_of(CLIENTS_EVERY_S) && self.seen.len() < CLIENTS_MAX {
            self.seen.insert(Source::client(peer));
        }
    }

    fn end(&mut self) {
        if !self.seen.is_empty() {
            self.number = self.seen.len();
            self.seen.clear();
        }
    }

    fn number(&mut self) -> usize {
        self.end();
        self.number
    }
}

#[cfg(test)]
mod tests;
