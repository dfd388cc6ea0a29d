//! HTTP/1.1 on networks that lose, slow, repeat, reorder and forge packets.

use std::time::Duration;

use crate::truth::caller::{Ask, some_size};
use crate::truth::ground::{BACK, CLIENT, FRONT, UPSTREAMS};
use crate::truth::relay::{Bend, Leg, Relay};
use crate::truth::stage::Play;

/// Clients at a time; they mostly wait.
const CLIENTS: usize = 16;
/// Calls on a connection.
const IN_TURN: usize = 4;

/// One packet of two hundred is lost, each way on each leg.
pub(crate) fn loss_half_percent(play: &Play<'_>) -> anyhow::Result<()> {
    // So rare a loss needs many packets before there are ten of each kind.
    lossy(play, 5, 5 * play.calls)
}

/// One of fifty.
pub(crate) fn loss_2_percent(play: &Play<'_>) -> anyhow::Result<()> {
    lossy(play, 20, 5 * play.calls)
}

/// One of ten.
pub(crate) fn loss_10_percent(play: &Play<'_>) -> anyhow::Result<()> {
    lossy(play, 100, play.calls)
}

fn lossy(play: &Play<'_>, per_mille: u32, calls: usize) -> anyhow::Result<()> {
    play.ground.weather(&format!(
        "chain loss {{ type filter hook forward priority 0; \
         numgen random mod 1000 < {per_mille} drop; }};"
    ))?;
    mixed(play, calls, 100_000)
}

/// Every other third packet of a handshake is lost, on both legs.
pub(crate) fn lost_third_acks(play: &Play<'_>) -> anyhow::Result<()> {
    // The first bare acknowledgement of a pair of ports is the handshake's.
    play.ground.weather(&format!(
        "set begun {{ type inet_service . inet_service; }}; \
         chain loss {{ type filter hook forward priority 0; iifname {{ {CLIENT}, {BACK} }} \
         tcp flags & (fin | syn | rst | psh | ack) == ack tcp sport . tcp dport != @begun \
         add @begun {{ tcp sport . tcp dport }} numgen random mod 2 == 0 drop; }};"
    ))?;
    play.caller.crowd(CLIENTS, play.calls.div_ceil(2), |nth| {
        let mut random = play.random(nth);
        let asks = [
            Ask::get(format!("/bytes/{}?close=1", some_size(&mut random, 9_000))),
            Ask::get(format!("/bytes/{}?close=1", some_size(&mut random, 9_000))),
        ];
        play.caller.ask_in_turn(&asks)
    })
}

/// The last segments of requests and responses are lost more often than others.
pub(crate) fn lost_tails(play: &Play<'_>) -> anyhow::Result<()> {
    play.ground.weather(
        "chain loss { type filter hook forward priority 0; \
         tcp flags & psh == psh numgen random mod 1000 < 80 drop; };",
    )?;
    mixed(play, 2 * play.calls, 60_000)
}

/// 1 Mbit/s between the client and the gateway.
pub(crate) fn bottleneck_front(play: &Play<'_>) -> anyhow::Result<()> {
    narrow(play, [CLIENT, FRONT])
}

/// 1 Mbit/s between the gateway and the upstream.
pub(crate) fn bottleneck_back(play: &Play<'_>) -> anyhow::Result<()> {
    narrow(play, [UPSTREAMS[0], BACK])
}

fn narrow(play: &Play<'_>, devices: [&str; 2]) -> anyhow::Result<()> {
    for device in devices {
        let words = "root tbf rate 1mbit burst 5kb latency 400ms";
        let words: Vec<&str> = words.split(' ').collect();
        play.ground
            .middle
            .tc(&[&["qdisc", "add", "dev", device], &words[..]].concat())?;
    }
    mixed(play, play.calls, 16_000)
}

/// 50 ms there and back on each leg.
pub(crate) fn round_trip(play: &Play<'_>) -> anyhow::Result<()> {
    relayed(
        play,
        Bend {
            delay: Duration::from_millis(25),
            ..Bend::default()
        },
    )
}

/// Packets that come twice, or late and so in another order.
pub(crate) fn twice_and_late(play: &Play<'_>) -> anyhow::Result<()> {
    relayed(
        play,
        Bend {
            delay: Duration::from_micros(500),
            twice_per_mille: 40,
            late_per_mille: 40,
            late_by_max: Duration::from_millis(8),
            ..Bend::default()
        },
    )
}

/// Segments, resets and acknowledgements towards the gateway that nobody of the connection sent.
pub(crate) fn forged(play: &Play<'_>) -> anyhow::Result<()> {
    relayed(
        play,
        Bend {
            forged_per_mille: 250,
            ..Bend::default()
        },
    )
}

fn relayed(play: &Play<'_>, bend: Bend) -> anyhow::Result<()> {
    let legs = [Leg::Front, Leg::Back];
    play.ground.weather(&Relay::rules(&legs))?;
    let mut relays = Vec::new();
    for leg in legs {
        relays.push(Relay::start(play.ground, leg, play.family, bend)?);
    }
    mixed(play, play.calls, 60_000)?;
    // What is under way when the last call ended shall still arrive.
    std::thread::sleep(2 * (bend.delay + bend.late_by_max) + Duration::from_millis(100));
    // From here on the kernel carries what is left to say.
    play.ground.weather("")
}

/// Gets and posts of about up to `size_max` bytes, a few to a connection.
fn mixed(play: &Play<'_>, calls: usize, size_max: u64) -> anyhow::Result<()> {
    play.caller.crowd(CLIENTS, calls.div_ceil(IN_TURN), |nth| {
        let mut random = play.random(nth);
        let asks: Vec<Ask> = (0..IN_TURN)
            .map(|_| {
                // Half of them small, half of them of many segments.
                let size = match random.below(2) {
                    0 => some_size(&mut random, size_max),
                    _ => size_max / 4 + random.below(size_max),
                };
                match random.below(5) {
                    0 | 1 => Ask::post(size),
                    // Now and then a connection to the upstream begins anew.
                    2 => Ask::get(format!("/bytes/{size}?close=1")),
                    _ => Ask::get(format!("/bytes/{size}")),
                }
            })
            .collect();
        play.caller.ask_in_turn(&asks)
    })
}
