//! Joins what the kernel saw with what the gateway saw, one call at a time.
//!
//! Pure: reads no clock, owns no channel, does no I/O. Callers bring the two halves and the time.
//!
//! In reading order: [`socket`] and [`exchange`] are the two halves, [`join`] holds a call until it
//! has settled, `leg` reads what each socket says about it, [`timeline`] says whose time it was,
//! [`syn`] what the client's first packet tells, `compose` writes it all into a [`record`].
#![forbid(unsafe_code)]

mod compose;
pub mod exchange;
pub mod join;
mod leg;
pub mod record;
pub mod socket;
pub mod syn;
pub mod timeline;
