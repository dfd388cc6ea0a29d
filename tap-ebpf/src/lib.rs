//! The tap: one ledger per socket, kept by eBPF programs and read through shared memory.
//!
//! Knows TCP/IP headers and sockets. Refuses to know HTTP, to change a packet, to refuse one that does
//! not come from a denied network to a listener of ours, and to touch a socket it was not told about.
//!
//! In reading order: [`tap`] loads the programs and finds ledgers; [`ledger`] reads one; [`denied`]
//! are the networks that get no answer;
//! [`tcp_info`] gives what an unprivileged process can have instead; [`privilege`] gives up what
//! the tap needed to start; [`doctor`] says what this machine allows.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod tap;

pub mod ledger;

pub mod denied;

pub mod listeners;

pub mod netstat;

pub mod tcp_info;

pub mod privilege;

pub mod doctor;

mod caretaker;
mod cgroup;
mod layout;
mod mapping;
mod slots;

pub use ledger::Ledger;
pub use privilege::{drop_net_bind, drop_privileges};
pub use tap::{Swept, Tap, TapError, TapOptions, Usage};

/// Now, by the clock that every time of this crate is on: `CLOCK_MONOTONIC`, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
