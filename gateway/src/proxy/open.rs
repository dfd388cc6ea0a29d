//! A call while it is open: its own task's, but for a look now and then.
//!
//! The task holds the call from phase to phase and never across a wait, so whoever else looks finds it
//! free or passes it over: a call that is being worked on is not one that stands still.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use calltap_correlate::exchange::Exchange;

use super::call::Call;

/// What an open call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The rest of the request.
    Body,
    /// The upstream.
    Upstream,
    /// The rest of the response, or the client to take it.
    Response,
    /// Nothing: it speaks another protocol.
    Upgraded,
}

/// A call that others may look at while it is open.
pub(crate) struct OpenCall(Mutex<Option<Call>>);

impl OpenCall {
    pub(super) fn new(call: Call) -> Self {
        Self(Mutex::new(Some(call)))
    }

    /// For the call's own task.
    pub(super) fn hold(&self) -> Held<'_> {
        Held(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It is not open any more.
    pub(super) fn take(&self) -> Option<Call> {
        self.hold().0.take()
    }

    /// For everybody else: what it waits for and since when, ns. `None` when it does not wait.
    pub(crate) fn waits(&self) -> Option<(Step, u64)> {
        let held = self.0.try_lock().ok()?;
        Some(held.as_ref()?.waits())
    }

    /// What is known of it so far, once every `interim_ns`.
    pub(crate) fn progress(&self, interim_ns: u64, now_ns: u64) -> Option<Box<Exchange>> {
        let mut held = self.0.try_lock().ok()?;
        held.as_mut()?.progress(interim_ns, now_ns)
    }
}

/// A call in its task's hands.
pub(super) struct Held<'c>(MutexGuard<'c, Option<Call>>);

impl Deref for Held<'_> {
    type Target = Call;

    fn deref(&self) -> &Call {
        self.0.as_ref().expect("only logging takes it, at the end")
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Call {
        self.0.as_mut().expect("only logging takes it, at the end")
    }
}
