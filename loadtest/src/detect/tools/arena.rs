//! The hosts that attacks are played on: users, phones, attackers, the gateway, its upstream.
//!
//! ```text
//!   users  ----.
//!   phones ----|---- gateway ---- upstream
//!   foes 0 ----|
//!   foes 1 ----'
//! ```
//!
//! A client host has thousands of addresses: a whole prefix is local to it, and the gateway routes the
//! prefix there. The addresses are those of RFC 2544, which no real network has, so that nobody trusts
//! them as it would a private one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;

use crate::lab::Namespace;

/// Where the gateway listens: on an address of its own that every host has a route to.
pub const FRONT: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 1);
/// Further listeners beside the first, one port each.
pub const PORTS: [u16; 8] = [8080, 8081, 8082, 8083, 8084, 8085, 8086, 8087];
/// The upstream's address.
pub const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 77, 2)), 9000);
/// Attackers' hosts; each has one attack under way at a time.
pub const FOES: usize = 2;

/// Of a thousand packets that a phone sends or is sent, so many are lost.
const PHONES_LOSE: u32 = 15;

/// The device of every host but the gateway's.
pub const OWN: &str = "own";

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    base: Ipv4Addr,
    bits: u8,
}

impl Prefix {
    /// `base` has no bits beyond the first `bits`.
    pub const fn new(base: Ipv4Addr, bits: u8) -> Self {
        Self { base, bits }
    }

    /// How many addresses it has.
    pub fn size(self) -> u32 {
        1 << (32 - u32::from(self.bits))
    }

    /// The nth of its addresses, from the beginning again after the last.
    pub fn nth(self, nth: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + nth % self.size())
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.base.to_bits()) < self.size()
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// Addresses of users on land lines, of integrations, crawlers, checkers.
pub const USERS: Prefix = Prefix::new(Ipv4Addr::new(198, 18, 64, 0), 18);
/// Addresses of phones.
pub const PHONES: Prefix = Prefix::new(Ipv4Addr::new(198, 18, 128, 0), 18);

/// Addresses of one host of attackers.
pub fn foes(which: usize) -> Prefix {
    let third = u8::try_from(64 * which).unwrap_or(0);
    Prefix::new(Ipv4Addr::new(198, 19, third, 0), 18)
}

/// Whether an address is one of those that mean well.
pub fn is_benign(address: Ipv4Addr) -> bool {
    USERS.contains(address) || PHONES.contains(address)
}

/// Whether an address is one that attackers have.
pub fn is_foe(address: Ipv4Addr) -> bool {
    (0..FOES).any(|which| foes(which).contains(address))
}

/// The hosts; gone when dropped.
#[derive(Debug)]
pub struct Arena {
    /// Where calltap runs.
    pub gateway: Namespace,
    /// Where the API is.
    pub upstream: Namespace,
    /// Who has [`USERS`].
    pub users: Namespace,
    /// Who has [`PHONES`].
    pub phones: Namespace,
    /// Who have [`foes`].
    pub foes: [Namespace; FOES],
}

impl Arena {
    /// Builds it.
    pub fn build() -> anyhow::Result<Self> {
        let arena = Self {
            gateway: Namespace::add("dg")?,
            upstream: Namespace::add("du")?,
            users: Namespace::add("dc")?,
            phones: Namespace::add("dp")?,
            foes: [Namespace::add("d0")?, Namespace::add("d1")?],
        };
        let gateway = &arena.gateway;
        gateway.ip(&["addr", "add", &format!("{FRONT}/32"), "dev", "lo"])?;
        // Packets with forged sources come in where an answer would not go out.
        for (name, value) in [
            ("ipv4.conf.all.rp_filter", "0"),
            ("ipv4.conf.default.rp_filter", "0"),
        ] {
            gateway.sysctl(name, value)?;
        }
        arena.cable(&arena.users, "users", 0, USERS)?;
        arena.cable(&arena.phones, "phones", 1, PHONES)?;
        for (at, device) in ["foes0", "foes1"].into_iter().enumerate() {
            arena.cable(&arena.foes[at], device, 2 + at, foes(at))?;
        }
        // Answers to forged addresses leave, too, and are lost at the attackers' host.
        gateway.ip(&[
            "route",
            "add",
            "default",
            "dev",
            "foes0",
            "via",
            "198.18.0.10",
        ])?;
        arena.phones.nft(&phone_weather())?;

        gateway.join("back", &arena.upstream, OWN)?;
        for (host, device, address) in [
            (gateway, "back", "192.168.77.1/24"),
            (&arena.upstream, OWN, "192.168.77.2/24"),
        ] {
            host.ip(&["addr", "add", address, "dev", device])?;
            host.ip(&["link", "set", device, "up"])?;
        }
        Ok(arena)
    }

    fn cable(
        &self,
        host: &Namespace,
        device: &str,
        net: usize,
        prefix: Prefix,
    ) -> anyhow::Result<()> {
        let near = format!("198.18.0.{}", 4 * net + 1);
        let far = format!("198.18.0.{}", 4 * net + 2);
        host.join(OWN, &self.gateway, device)?;
        for (end, name, own) in [(host, OWN, &far), (&self.gateway, device, &near)] {
            end.ip(&["addr", "add", &format!("{own}/30"), "dev", name])?;
            end.ip(&["link", "set", name, "up"])?;
        }
        let prefix = prefix.to_string();
        host.ip(&["route", "add", "local", &prefix, "dev", "lo"])?;
        host.ip(&["route", "add", "default", "via", &near, "dev", OWN])?;
        self.gateway
            .ip(&["route", "add", &prefix, "via", &far, "dev", device])?;
        Ok(())
    }

    /// From now on connections of a host of attackers come from `source`.
    pub fn attack_from(&self, which: usize, source: Ipv4Addr) -> anyhow::Result<()> {
        let near = format!("198.18.0.{}", 4 * (2 + which) + 1);
        let source = source.to_string();
        self.foes[which].ip(&[
            "route", "replace", "default", "via", &near, "dev", OWN, "src", &source,
        ])
    }

    /// From now on, until [`Self::gather`], they come from all of `sources` in turn, as those of a
    /// botnet do.
    pub fn scatter(&self, which: usize, sources: &[Ipv4Addr]) -> anyhow::Result<()> {
        let turns: Vec<String> = sources
            .iter()
            .enumerate()
            .map(|(at, source)| format!("{at} : {source}"))
            .collect();
        let rules = format!(
            "table ip scatter {{ chain out {{ type nat hook postrouting priority 100; \
             snat to numgen inc mod {} map {{ {} }}; }}; }};",
            sources.len(),
            turns.join(", ")
        );
        self.foes[which].nft(&rules).context("many sources")
    }

    /// Ends what [`Self::scatter`] began.
    pub fn gather(&self, which: usize) -> anyhow::Result<()> {
        self.foes[which].nft("table ip scatter { }; delete table ip scatter;")
    }
}

fn phone_weather() -> String {
    let drop = format!("numgen random mod 1000 < {PHONES_LOSE} drop;");
    format!(
        "table ip weather {{ chain up {{ type filter hook output priority 0; {drop} }}; \
         chain down {{ type filter hook input priority 0; {drop} }}; }};"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_do_not_overlap() {
        let all = [USERS, PHONES, foes(0), foes(1)];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                let last = other.nth(other.size() - 1);
                assert_eq!(one.contains(last), at == other_at, "{one} {other}");
            }
            assert!(!one.contains(FRONT));
        }
        assert_eq!(foes(1).nth(3).to_string(), "198.19.64.3");
    }
}
