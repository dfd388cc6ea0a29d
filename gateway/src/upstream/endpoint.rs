//! One endpoint: its address, its prepared peer, and what is known of how it is doing.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pingora::upstreams::peer::HttpPeer;
use serde::Serialize;

/// Names an endpoint for as long as the process runs, across reloads that keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointId(u64);

/// Where calls of a group may go.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: Arc<str>,
    authority: Arc<str>,
    peer: HttpPeer,
    vitals: Arc<Vitals>,
}

/// What changes about an endpoint; outlives a reload.
#[derive(Debug)]
pub(super) struct Vitals {
    id: EndpointId,
    unhealthy: AtomicBool,
    in_flight: AtomicUsize,
    streak: Mutex<Streak>,
    last_error: Mutex<Option<String>>,
}

/// Checks in a row that said the opposite of what the endpoint counts as.
#[derive(Debug, Default)]
struct Streak(u32);

/// What the admin API says about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointState {
    /// `10.0.0.1:80`, `unix:/run/app.sock`.
    pub(crate) address: String,
    /// As the configuration writes it; differs for DNS names.
    pub(crate) configured: String,
    /// Whether calls go there while others are healthy too.
    pub(crate) healthy: bool,
    /// Calls open now.
    pub(crate) in_flight: usize,
    /// The last failed connection or health check, until a check succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
}

impl Vitals {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: EndpointId(NEXT.fetch_add(1, Ordering::Relaxed)),
            unhealthy: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            streak: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    pub(super) fn note_error(&self, error: String) {
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Endpoint {
    pub(super) fn new(
        address: Arc<str>,
        authority: Arc<str>,
        peer: HttpPeer,
        vitals: Arc<Vitals>,
    ) -> Self {
        Self {
            address,
            authority,
            peer,
            vitals,
        }
    }

    /// Names it.
    pub(crate) fn id(&self) -> EndpointId {
        self.vitals.id
    }

    /// Its address as records write it: `10.0.0.1:80`, `unix:/run/app.sock`.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// What a rewritten Host header says: `tls.server_name` or the endpoint as configured.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// How Pingora connects to it. Calls take theirs from [`Attempts::begin`], which also watches.
    ///
    /// [`Attempts::begin`]: super::Attempts::begin
    pub(crate) fn peer(&self) -> HttpPeer {
        self.peer.clone()
    }

    /// Whether it is taken before unhealthy ones.
    pub(crate) fn healthy(&self) -> bool {
        !self.vitals.unhealthy.load(Ordering::Relaxed)
    }

    /// Calls open now.
    pub(crate) fn in_flight(&self) -> usize {
        self.vitals.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// Takes the outcome of a health check; says whether the endpoint changed sides.
    pub(super) fn checked(
        &self,
        outcome: Result<(), String>,
        healthy_after: u32,
        unhealthy_after: u32,
    ) -> bool {
        let Vitals {
            unhealthy,
            streak,
            last_error,
            ..
        } = &*self.vitals;
        let good = outcome.is_ok();
        *last_error.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
        let mut streak = streak.lock().unwrap_or_else(PoisonError::into_inner);
        if good == self.healthy() {
            streak.0 = 0;
            return false;
        }
        streak.0 += 1;
        let needed = if good { healthy_after } else { unhealthy_after };
        if streak.0 < needed {
            return false;
        }
        streak.0 = 0;
        unhealthy.store(!good, Ordering::Relaxed);
        true
    }

    pub(super) fn state(&self, configured: String) -> EndpointState {
        EndpointState {
            address: self.address.to_string(),
            configured,
            healthy: self.healthy(),
            in_flight: self.in_flight(),
            last_error: self
                .vitals
                .last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}
