//! A network of addresses, as configurations, conditions and address lists write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// All addresses that begin with the same bits.
///
/// An IPv4-mapped IPv6 address counts as the IPv4 address it is, and so does a network of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNetwork {
    /// Not an address before the slash.
    Address,
    /// Not a number after it, or too large a one.
    Prefix {
        /// The address family's width.
        bits_max: u8,
    },
    /// Bits are set beyond the prefix.
    HostBits {
        /// What was probably meant.
        network: Network,
    },
}

impl Network {
    /// The network of these first bits that the address is in. More bits than the address has are
    /// all of it.
    pub fn around(address: IpAddr, bits: u8) -> Self {
        let first = address.to_canonical();
        let bits = bits.min(width(first));
        Self {
            first: masked(first, bits),
            bits,
        }
    }

    /// One address alone.
    pub fn of(address: IpAddr) -> Self {
        Self::around(address, u8::MAX)
    }

    /// Its first address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// How many bits its addresses share.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether the address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.bits) == self.first
    }

    /// Whether all of the other network is in it.
    pub fn covers(self, other: Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.bits <= other.bits
            && masked(other.first, self.bits) == self.first
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    /// Reads `10.0.0.0/8`, `fd00::/8`, or a single address.
    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        const MAPPED_BITS: u8 = 96;
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadNetwork::Address)?;
        let bits_max = width(address);
        let bits = match prefix {
            None => bits_max,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|bits| *bits <= bits_max && !digits.starts_with('+'))
                .ok_or(BadNetwork::Prefix { bits_max })?,
        };
        let network = match (
            address,
            address.to_canonical(),
            bits.checked_sub(MAPPED_BITS),
        ) {
            (IpAddr::V6(_), own @ IpAddr::V4(_), Some(bits)) => (own, bits),
            _ => (address, bits),
        };
        let (address, bits) = network;
        let network = Self {
            first: masked(address, bits),
            bits,
        };
        match network.first == address {
            true => Ok(network),
            false => Err(BadNetwork::HostBits { network }),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits after the prefix cleared.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let rest = u32::from(width(address) - bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl std::error::Error for BadNetwork {}

impl fmt::Display for BadNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("this is neither an IP address nor a network"),
            Self::Prefix { bits_max } => {
                write!(f, "the prefix length must be 0 to {bits_max}")
            }
            Self::HostBits { .. } => f.write_str("the address has bits set beyond its prefix"),
        }
    }
}

impl BadNetwork {
    /// What to write instead.
    pub fn remedy(self) -> String {
        match self {
            Self::HostBits { network } => format!("did you mean \"{network}\"?"),
            Self::Address | Self::Prefix { .. } => {
                "write 10.0.0.0/8, fd00::/8 or one address".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_the_addresses_they_say() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.9.0.1", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "10.0.0.1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
        ] {
            let network: Network = network.parse().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(network.contains(address), inside, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_says_why() {
        let said = |text: &str| {
            let wrong = text.parse::<Network>().expect_err("no network");
            format!("{wrong}; {}", wrong.remedy())
        };
        for (text, why) in [
            ("10.0.0", "neither an IP address"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/+8", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.1/8", "did you mean \"10.0.0.0/8\"?"),
            ("::ffff:10.0.0.1/104", "did you mean \"10.0.0.0/8\"?"),
            ("::ffff:0:0/80", "did you mean \"::/80\"?"),
        ] {
            let said = said(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
