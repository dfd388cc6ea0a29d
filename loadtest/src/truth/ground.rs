//! The hosts a scenario is played on: a client, the gateway, two upstreams, and one in the middle.
//!
//! ```text
//!              .------------ middle ------------.
//!   client ----|            front        back   |---- one, two (upstreams)
//!              '-------------|-------------|----'
//!                            '-- gateway --'
//! ```
//!
//! Every packet crosses the middle, and each of the gateway's two cables has its far end there, where
//! a second capture sees what the first one saw. The middle forwards in its kernel; what shall be
//! lost, slowed or bent is lost, slowed or bent there. Hosts have an address of each family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::Namespace;
use crate::truth::evidence::Family;

/// The device of the client and of each upstream.
pub const OWN: &str = "own";
/// The gateway's device towards clients, and the middle's at the other end.
pub const FRONT: &str = "front";
/// The gateway's device towards upstreams, and the middle's at the other end.
pub const BACK: &str = "back";
/// The middle's device towards the client.
pub const CLIENT: &str = "client";
/// The middle's devices towards the upstreams.
pub const UPSTREAMS: [&str; 2] = ["one", "two"];

/// The congestion control of every host: the most common one, whatever the machine prefers.
const CONTROL: &str = "cubic";

/// Cables, in the order of their networks.
const CLIENT_NET: u16 = 0;
const FRONT_NET: u16 = 1;
const BACK_NET: u16 = 2;
const UPSTREAM_NETS: [u16; 2] = [3, 4];

/// The last number of an address: the middle's, and everybody else's.
const MIDDLE_HOST: u16 = 1;
const OWN_HOST: u16 = 2;

/// Five hosts; gone when dropped.
#[derive(Debug)]
pub struct Ground {
    /// Where clients are.
    pub client: Namespace,
    /// What all traffic crosses.
    pub middle: Namespace,
    /// Where calltap runs.
    pub gateway: Namespace,
    /// Where upstreams are.
    pub upstreams: [Namespace; 2],
}

impl Ground {
    /// Builds it with cables of this MTU.
    pub fn build(mtu: u16) -> anyhow::Result<Self> {
        let ground = Self {
            client: Namespace::add("tc")?,
            middle: Namespace::add("tm")?,
            gateway: Namespace::add("tg")?,
            upstreams: [Namespace::add("t1")?, Namespace::add("t2")?],
        };
        ground.cable(&ground.client, OWN, CLIENT, CLIENT_NET, mtu)?;
        ground.cable(&ground.gateway, FRONT, FRONT, FRONT_NET, mtu)?;
        ground.cable(&ground.gateway, BACK, BACK, BACK_NET, mtu)?;
        for (at, host) in ground.upstreams.iter().enumerate() {
            ground.cable(host, OWN, UPSTREAMS[at], UPSTREAM_NETS[at], mtu)?;
            ground.route(&ground.gateway, UPSTREAM_NETS[at], BACK, BACK_NET, &[])?;
            ground.route(host, BACK_NET, OWN, UPSTREAM_NETS[at], &[])?;
        }
        ground.route(&ground.client, FRONT_NET, OWN, CLIENT_NET, &[])?;
        ground.route(&ground.gateway, CLIENT_NET, FRONT, FRONT_NET, &[])?;
        // From here on to the gateway they stay in order.
        for device in [CLIENT, UPSTREAMS[0], UPSTREAMS[1]] {
            ground.middle.steer(device)?;
        }
        ground.middle.sysctl("ipv4.ip_forward", "1")?;
        ground.middle.sysctl("ipv6.conf.all.forwarding", "1")?;
        Ok(ground)
    }

    /// The address calls are sent to.
    pub fn front_address(family: Family) -> IpAddr {
        address(family, FRONT_NET, OWN_HOST)
    }

    /// An upstream's address, 0 or 1.
    pub fn upstream_address(family: Family, which: usize) -> IpAddr {
        address(family, UPSTREAM_NETS[which], OWN_HOST)
    }

    /// Has every host offer this largest segment, whatever its cable could carry.
    pub fn offer_mss(&self, mss: u16) -> anyhow::Result<()> {
        let mss = mss.to_string();
        let offer = ["advmss", mss.as_str()];
        self.route(&self.client, FRONT_NET, OWN, CLIENT_NET, &offer)?;
        self.route(&self.gateway, CLIENT_NET, FRONT, FRONT_NET, &offer)?;
        for (at, host) in self.upstreams.iter().enumerate() {
            self.route(&self.gateway, UPSTREAM_NETS[at], BACK, BACK_NET, &offer)?;
            self.route(host, BACK_NET, OWN, UPSTREAM_NETS[at], &offer)?;
        }
        Ok(())
    }

    /// Rules for packets that cross the middle, in nftables' words; they replace those before.
    pub fn weather(&self, rules: &str) -> anyhow::Result<()> {
        // Declared first, so that there is one to delete in any case.
        self.middle.nft(&format!(
            "table inet weather {{ }}; delete table inet weather; table inet weather {{ {rules} }};"
        ))
    }

    fn cable(
        &self,
        host: &Namespace,
        device: &str,
        far: &str,
        net: u16,
        mtu: u16,
    ) -> anyhow::Result<()> {
        host.join(device, &self.middle, far)?;
        let mtu = mtu.to_string();
        for (end, device, number) in [(host, device, OWN_HOST), (&self.middle, far, MIDDLE_HOST)] {
            end.ip(&["link", "set", device, "mtu", &mtu])?;
            end.no_offloads(device)?;
            for family in [Family::V4, Family::V6] {
                let (own, bits) = (address(family, net, number), bits(family));
                end.ip(&[
                    "addr",
                    "add",
                    &format!("{own}/{bits}"),
                    "dev",
                    device,
                    "nodad",
                ])?;
            }
            end.ip(&["link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// From `host` to the network `to`, by way of the middle's end of the cable `net`.
    fn route(
        &self,
        host: &Namespace,
        to: u16,
        device: &str,
        net: u16,
        more: &[&str],
    ) -> anyhow::Result<()> {
        for family in [Family::V4, Family::V6] {
            let to = format!("{}/{}", address(family, to, 0), bits(family));
            let via = address(family, net, MIDDLE_HOST).to_string();
            // Not by sysctl, which takes few of them in a namespace.
            let words = [
                "route", "replace", &to, "via", &via, "dev", device, "congctl", CONTROL,
            ];
            host.ip(&[&words, more].concat())?;
        }
        Ok(())
    }
}

fn address(family: Family, net: u16, host: u16) -> IpAddr {
    match family {
        Family::V4 | Family::Mapped => {
            let [_, net] = net.to_be_bytes();
            let [_, host] = host.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, 92, net, host))
        }
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd92, 0, 0, net, 0, 0, 0, host)),
    }
}

fn bits(family: Family) -> u8 {
    match family {
        Family::V4 | Family::Mapped => 24,
        Family::V6 => 64,
    }
}
