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
    /// Whoever is interrupted between two readings of clocks maps every mark wrong: the reading that
    /// took least counts.
    const READINGS: usize = 3;
    let read = || {
        let before = now_ns();
        let wall = clock_gettime(ClockId::Realtime);
        let took = now_ns() - before;
        let wall_ns = wall.tv_sec * 1_000_000_000 + wall.tv_nsec;
        (took, WallClock::new(wall_ns, before + took / 2))
    };
    let (_, clock) = (0..READINGS)
        .map(|_| read())
        .min_by_key(|(took, _)| *took)
        .expect("there is more than one reading");
    clock
}
