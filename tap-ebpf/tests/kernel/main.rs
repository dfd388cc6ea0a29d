//! The programs on the kernel we run on, socket by socket.
//!
//! Each test taps sockets in a cgroup of its own and asks what the sockets themselves know. Where
//! packets are lost or forged, it happens in a network of the test's own.

mod acknowledged;
mod closed;
mod denied;
mod early;
mod elsewhere;
mod forged;
mod hostile;
mod listeners;
mod lost;
mod privilege;
mod slots;
mod stress;
mod support;
mod turns;
mod whose;
