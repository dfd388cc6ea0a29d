//! `loadtest truth`: is what a record says of the packets what a capture of the packets says?
//!
//! Two halves that meet in a directory. [`evidence`] is what a scenario left there: captures of both
//! sides of the gateway, the records, what the client asked. The playing half makes it, the judging
//! half reads it and derives every field of every record anew, from the packets alone.
//!
//! The playing half: [`ground`] is the hosts, [`relay`] bends what they say, by [`packet_socket`]s, and
//! [`capture`] listens to their cables; [`caller`] is their clients and [`streams`] those of HTTP/2;
//! [`stage`] plays one of the [`scenes`], some with the help of [`sequence`], and [`run`] all of them.
//!
//! The judge: `dissect` has tshark take a capture apart, `connection` sorts packets into streams of
//! bytes, `tls` opens what is sealed, `calls` finds the calls in them, `derive` says what each was made
//! of; `witness` is all of that for one run. `compare` holds the records against it, with `parts` for
//! where the time went and `permits` for what need not be exact; [`verdict`] is what came of it,
//! [`report`] says it and [`page`] writes it down. [`mutate`] asks the judge whether it would notice.

pub mod caller;
mod calls;
pub mod capture;
mod compare;
mod connection;
mod derive;
mod dissect;
pub mod evidence;
pub mod ground;
mod judge;
pub mod mutate;
pub mod packet_socket;
pub mod page;
mod parts;
mod permits;
pub mod relay;
pub mod report;
pub mod run;
pub mod scenes;
pub mod sequence;
pub mod stage;
pub mod streams;
mod tls;
pub mod verdict;
mod witness;

pub use judge::{judge, judge_with};
