//! The one clock: `CLOCK_MONOTONIC`, the same that the kernel side stamps with.

use rustix::time::{ClockId, clock_gettime};

use calltap_correlate::join::WallClock;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now_ns() -> u64 {
    calltap_tap::monotonic_ns()
}

/// What turns monotonic times into wall time, as of now. Read anew from time to time, since the
/// wall clock may be stepped.
pub(crate) fn wall_clock() -> WallClock {
    let wall = clock_gettime(ClockId::Realtime);
    WallClock::new(wall.tv_sec * 1_000_000_000 + wall.tv_nsec, now_ns())
}
