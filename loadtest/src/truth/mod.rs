//! `loadtest truth`: is what a record says of the packets what a capture of the packets says?
//!
//! Two halves that meet in a directory. [`evidence`] is what a scenario left there: captures of both
//! sides of the gateway, the records, what the client asked. The playing half makes it, the judging
//! half reads it and derives every field of every record anew, from the packets alone.
//!
//! The playing half: [`ground`] is the hosts, [`relay`] bends what they say, by [`packet_socket`]s, and
//! [`capture`] listens to their cables; [`caller`] is their clients and [`streams`] those of HTTP/2; [`stage`] plays one of
//! the [`scenes`], some with the help of [`sequence`], and [`run`] all of them.

pub mod caller;
pub mod capture;
pub mod evidence;
pub mod ground;
pub mod packet_socket;
pub mod relay;
pub mod run;
pub mod scenes;
pub mod sequence;
pub mod stage;
pub mod streams;
