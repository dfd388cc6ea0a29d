//! TLS with clients: what listeners are configured with, what their ClientHello says, and what a
//! record says about both.
//!
//! Towards upstreams it is Pingora that speaks TLS; [`crate::upstream`] tells it with what.

pub(crate) mod facts;
pub(crate) mod handshake;
pub(crate) mod hello;
pub(crate) mod listener;
pub(crate) mod observed;
pub(crate) mod pem;
pub(crate) mod refusal;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use listener::ListenerTls;
pub(crate) use observed::Observed;
