//! Joins what the kernel saw with what the gateway saw, one call at a time.
//!
//! Pure: reads no clock, owns no channel, does no I/O. Callers bring the two halves and the time.
//!
//! In reading order: [`socket`] and [`exchange`] are the two halves, [`record`] is what they become.
#![forbid(unsafe_code)]

pub mod exchange;
pub mod record;
pub mod socket;
