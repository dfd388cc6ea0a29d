//! The binary `calltap`, from outside: started with a configuration, spoken to over real sockets,
//! judged by the records it leaves.
//!
//! Nothing here sleeps to be on time: what has to happen is waited for, with a deadline that only a
//! failure reaches. What needs privileges that this run does not have says `SKIPPED` and passes.

mod alerts;
mod common;
mod denials;
mod failures;
mod grpc;
mod http1;
mod identity;
mod load;
mod policies;
mod process;
mod progress;
mod protocols;
mod replay;
mod strict;
mod tap_modes;
mod upstreams;
