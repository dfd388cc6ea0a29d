//! Who may be alone or many behind what happens: a client, or the network that it shares with others.

use std::net::{IpAddr, Ipv6Addr};

use crate::alert::{Subject, client_of};

/// A client, or the clients whose addresses share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Source {
    /// One.
    Client(IpAddr),
    /// All with these first bits.
    Network(IpAddr, u8),
}

impl Source {
    /// Of a TCP peer.
    pub(super) fn client(peer: IpAddr) -> Self {
        Self::Client(client_of(peer))
    }

    /// The /24 of a TCP peer, or the /48 of IPv6: what one party is given.
    pub(super) fn network(peer: IpAddr) -> Self {
        match peer.to_canonical() {
            IpAddr::V4(v4) => {
                let first = u32::from(v4) >> 8 << 8;
                Self::Network(IpAddr::V4(first.into()), 24)
            }
            IpAddr::V6(v6) => {
                let first = u128::from(v6) >> 80 << 80;
                Self::Network(IpAddr::V6(Ipv6Addr::from(first)), 48)
            }
        }
    }

    pub(super) fn subject(self) -> Subject {
        match self {
            Self::Client(address) => Subject::Client(address),
            Self::Network(first, bits) => Subject::Network(first, bits),
        }
    }

    /// Whom to deny: a network holds others too.
    pub(super) fn client_alone(self) -> Option<IpAddr> {
        match self {
            Self::Client(address) => Some(address),
            Self::Network(..) => None,
        }
    }
}
