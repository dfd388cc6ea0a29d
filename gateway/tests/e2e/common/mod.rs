//! What every test needs: a running calltap, a backend that does as the path says, a client that
//! counts its bytes, and words for records.

pub(crate) mod backend;
pub(crate) mod calltap;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod record;
pub(crate) mod wire;

use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;

/// What has not happened by then will not. Generous: machines are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `ready` has an answer; panics with what it was waiting for.
pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether eBPF can be expected to work here; if not, why.
pub(crate) fn tap_unavailable() -> Option<String> {
    let wanted = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    match rustix::thread::capabilities(None) {
        Ok(sets) if sets.effective.contains(wanted) => None,
        Ok(_) => Some("this needs CAP_BPF and CAP_NET_ADMIN: run the tests as root".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Whether eBPF can be expected to work here. If not, says loudly what is skipped and why.
pub(crate) fn can_tap() -> bool {
    match tap_unavailable() {
        None => true,
        Some(why) => {
            skipped(&why);
            false
        }
    }
}

/// The key that turns the tap on where it can be: for tests that ask for little of it.
pub(crate) fn tap_if_possible() -> &'static str {
    match tap_unavailable() {
        None => "tap.mode = \"ebpf\"\n",
        Some(_) => "tap.mode = \"off\"\n",
    }
}

/// Says that the current test does not test anything.
pub(crate) fn skipped(why: &str) {
    let thread = thread::current();
    eprintln!(
        "SKIPPED: {} because {why}",
        thread.name().unwrap_or("a test")
    );
}
