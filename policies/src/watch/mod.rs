//! While it happens: live sockets and listeners, looked at once a second.
//!
//! A sweep shows every live connection ([`Watch::socket`]), every one that ended since the last sweep
//! ([`Watch::closed`]) and the kernel's count of each listener, then ends with [`Watch::tick`].

use std::net::SocketAddr;

use calltap_correlate::socket::SocketCookie;

use crate::alert::Alerts;

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
    /// How many open calls wait for the rest of their request.
    pub bodies: u32,
    /// Bytes that the gateway has read.
    pub read_bytes: u64,
    /// Bytes that the gateway has written.
    pub written_bytes: u64,
    /// Bytes that the kernel has received and the gateway has not read; absent where nobody counts.
    pub unread_bytes: Option<u64>,
    /// Bytes that the gateway has written and the client has not acknowledged, sent or not; absent where
    /// nobody counts.
    pub unacked_bytes: Option<u64>,
    /// Since when the socket takes no more bytes of the gateway's, ns.
    pub blocked_since_ns: Option<u64>,
    /// Since when the client's window is closed, ns.
    pub window_closed_since_ns: Option<u64>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The client left.
    ByClient,
    /// The client's time for a handshake or a request head was up.
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
    /// Bytes that came and belonged to no call.
    pub fresh_bytes: u64,
    /// How it ended.
    pub parting: Parting,
}

/// Looks at live sockets.
#[derive(Debug, Default)]
pub struct Watch {}

impl Watch {
    /// One live connection.
    pub fn socket(&mut self, _socket: &LiveSocket, _now_ns: u64) {}

    /// One that ended since the last sweep.
    pub fn closed(&mut self, _socket: &ClosedSocket, _now_ns: u64) {}

    /// The sweep is over.
    pub fn tick(&mut self, _alerts: &mut Alerts, _now_ns: u64) {}
}
