//! What the captures of one run show: connections, the calls on them, and what two captures of the
//! same packet differ by.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};

use super::calls::{self, Carried, Text};
use super::connection::{self, Connection, Flow, Side};
use super::derive::{self, Facts, Ranges};
use super::dissect::{self, Depth, Packet};
use super::evidence::{self, Evidence, Scene};
use super::tls::{self, Opened, Secrets};

/// All that was seen.
pub(crate) struct Witness {
    pub(crate) front: Sighted,
    pub(crate) back: Sighted,
    pub(crate) pairs: Pairs,
    pub(crate) secrets: Secrets,
}

/// One side of the gateway.
pub(crate) struct Sighted {
    pub(crate) connections: Vec<Talk>,
    /// Where each call is: the connection and the how many-th on it, in the order of its attempts.
    pub(crate) calls: HashMap<String, Vec<(usize, usize)>>,
}

/// A connection and what it carried.
pub(crate) struct Talk {
    pub(crate) connection: Connection,
    pub(crate) carried: Carried,
    pub(crate) facts: Vec<Facts>,
}

/// By how many nanoseconds two captures of the same packet differ, sorted; per cable and direction.
#[derive(Default)]
pub(crate) struct Pairs {
    pub(crate) front_in: Vec<u64>,
    pub(crate) front_out: Vec<u64>,
    pub(crate) back_in: Vec<u64>,
    pub(crate) back_out: Vec<u64>,
}

/// Reads the captures.
pub(crate) fn hear(evidence: &Evidence, scene: &Scene) -> anyhow::Result<Witness> {
    ensure!(
        scene.capture_drops == 0,
        "void: the captures lost {} packets",
        scene.capture_drops
    );
    let mut pairs = Pairs::default();
    let front = packets(evidence, "front.pcap", Depth::Payload)?;
    let far = packets(evidence, "front-far.pcap", Depth::Headers)?;
    let is_front_in = |packet: &Packet| packet.to == scene.server;
    (pairs.front_in, pairs.front_out) = differences(&front, &far, is_front_in);
    let back = packets(evidence, "back.pcap", Depth::Payload)?;
    let far = packets(evidence, "back-far.pcap", Depth::Headers)?;
    let is_back_in = |packet: &Packet| scene.upstreams.contains(&packet.from);
    (pairs.back_in, pairs.back_out) = differences(&back, &far, is_back_in);

    let secrets = fs::read_to_string(evidence.file("keys.log")).unwrap_or_default();
    let secrets = Secrets::parse(&secrets).context("keys.log")?;
    let front = connection::sort(front, Side::Front);
    let front = front.into_iter().filter(|seen| seen.local == scene.server);
    let back = connection::sort(back, Side::Back);
    Ok(Witness {
        front: sight(front.collect(), Side::Front, scene.front, &secrets).context("front.pcap")?,
        back: sight(back, Side::Back, scene.back, &secrets).context("back.pcap")?,
        pairs,
        secrets,
    })
}

fn packets(evidence: &Evidence, name: &str, depth: Depth) -> anyhow::Result<Vec<Packet>> {
    let packets = dissect::dissect(&evidence.file(name), depth)?;
    ensure!(!packets.is_empty(), "void: {name} holds no TCP packet");
    Ok(packets)
}

fn sight(
    connections: Vec<Connection>,
    side: Side,
    carried: evidence::Carried,
    secrets: &Secrets,
) -> anyhow::Result<Sighted> {
    let mut sighted = Sighted {
        connections: Vec::new(),
        calls: HashMap::new(),
    };
    for connection in connections {
        let shown = format!("{} - {}", connection.peer, connection.local);
        let talk = talk(connection, side, carried, secrets).context(shown)?;
        for (at, call) in talk.carried.exchanges.iter().enumerate() {
            if let Some(id) = &call.id {
                let places = sighted.calls.entry(id.clone()).or_default();
                places.push((sighted.connections.len(), at));
            }
        }
        sighted.connections.push(talk);
    }
    // A retry may be on a connection that is older than that of the first try.
    let Sighted { connections, calls } = &mut sighted;
    for places in calls.values_mut() {
        places.sort_by_key(|(connection, at)| {
            let facts = connections[*connection].facts.get(*at);
            facts.and_then(|facts| facts.request_first.map(|seen| seen.ns))
        });
    }
    Ok(sighted)
}

fn talk(
    connection: Connection,
    side: Side,
    carried: evidence::Carried,
    secrets: &Secrets,
) -> anyhow::Result<Talk> {
    let (carried, ranges) = match carried {
        evidence::Carried::Http1 => in_the_clear(&connection, side),
        evidence::Carried::Http1Tls => sealed(&connection, side, secrets),
        // Which packet is whose is not asked where streams share a connection.
        evidence::Carried::H2c | evidence::Carried::H2Tls => Ok(Default::default()),
    }?;
    let facts = derive::facts(&connection, side, &ranges);
    Ok(Talk {
        connection,
        carried,
        facts,
    })
}

/// The same connection with an upstream, as far as it had come at a moment.
pub(crate) fn until(
    talk: &Talk,
    ns: u64,
    carried: evidence::Carried,
    secrets: &Secrets,
) -> Option<Talk> {
    let packets = talk.connection.packets.iter();
    let packets = packets.filter(|packet| packet.ns <= ns).cloned().collect();
    let connection = connection::sort(packets, Side::Back).pop()?;
    self::talk(connection, Side::Back, carried, secrets).ok()
}

/// The same connection with an upstream, its session tickets taken for the handshake's: they were,
/// where they had come when the gateway turned to its request.
pub(crate) fn without_tickets(talk: &Talk, secrets: &Secrets) -> Option<Talk> {
    let packets = talk.connection.packets.clone();
    let connection = connection::sort(packets, Side::Back).pop()?;
    let (carried, mut ranges) = sealed(&connection, Side::Back, secrets).ok()?;
    let first = ranges.first_mut()?;
    first.response.start = first.final_start.unwrap_or(first.response.start);
    let facts = derive::facts(&connection, Side::Back, &ranges);
    Some(Talk {
        connection,
        carried,
        facts,
    })
}

/// The calls of a connection and the bytes on the wire that are theirs.
fn in_the_clear(connection: &Connection, side: Side) -> anyhow::Result<(Carried, Vec<Ranges>)> {
    let ended = connection.ending().is_some();
    // A gap that was never filled is where reading ends; what was sent is known to its end.
    let inbound = Clear {
        flow: &connection.inbound,
        packets: &connection.packets,
        end: connection.inbound.in_order,
        ended,
    };
    let outbound = Clear {
        flow: &connection.outbound,
        packets: &connection.packets,
        end: connection.outbound.high,
        ended,
    };
    let carried = match side {
        Side::Front => calls::find(&inbound, &outbound),
        Side::Back => calls::find(&outbound, &inbound),
    }?;
    let ranges = ranges(&carried);
    Ok((carried, ranges))
}

fn ranges(carried: &Carried) -> Vec<Ranges> {
    let mut answered = 0;
    let each = carried.exchanges.iter().map(|call| {
        let response = call.response.as_ref();
        let range = response.map_or(answered..answered, |answer| answer.range.clone());
        answered = range.end;
        Ranges {
            request: call.request.clone(),
            head_end: call.head_end,
            response: range,
            final_start: response.and_then(|answer| answer.final_start),
        }
    });
    each.collect()
}

/// The same inside TLS: the calls' bytes are the records that hold them.
fn sealed(
    connection: &Connection,
    side: Side,
    secrets: &Secrets,
) -> anyhow::Result<(Carried, Vec<Ranges>)> {
    let ended = connection.ending().is_some();
    let whole = |flow: &Flow, end: u64| flow.read(&connection.packets, 0, end as usize);
    let inbound = whole(&connection.inbound, connection.inbound.in_order);
    let outbound = whole(&connection.outbound, connection.outbound.high);
    let (asking, answering): (Opened, Opened) = match side {
        Side::Front => tls::open(&inbound, &outbound, ended, secrets),
        Side::Back => tls::open(&outbound, &inbound, ended, secrets),
    }?;
    let carried = calls::find(&asking, &answering)?;
    let ranges = ranges(&carried).into_iter().map(|call| Ranges {
        request: asking.wire(&call.request),
        head_end: asking.wire_end(call.head_end),
        response: answering.wire(&call.response),
        final_start: call.final_start.map(|at| answering.wire(&(at..at)).start),
    });
    let mut ranges: Vec<Ranges> = ranges.collect();
    // An upstream's session tickets come in reply to the first request, ahead of its response. Whose
    // else could they be? That they hide when the response began is what `tls_tickets` says.
    if let (Side::Back, Some(first), Some(begin)) = (side, ranges.first_mut(), answering.begin()) {
        first.response.start = first.response.start.min(begin);
    }
    Ok((carried, ranges))
}

struct Clear<'a> {
    flow: &'a Flow,
    packets: &'a [Packet],
    end: u64,
    ended: bool,
}

impl Text for Clear<'_> {
    fn end(&self) -> u64 {
        self.end
    }

    fn is_over(&self) -> bool {
        self.ended
    }

    fn read(&self, from: u64, max: usize) -> Vec<u8> {
        let max = max.min(usize::try_from(self.end.saturating_sub(from)).unwrap_or(usize::MAX));
        self.flow.read(self.packets, from, max)
    }
}

/// What tells a packet from all others, but not from its own copies.
#[derive(PartialEq, Eq, Hash)]
struct Likeness {
    from: SocketAddr,
    to: SocketAddr,
    seq: u32,
    ack: u32,
    flags: u8,
    payload: u32,
    window: u16,
    ip_id: u32,
    options: u64,
}

impl Likeness {
    fn of(packet: &Packet) -> Self {
        let mut hasher = DefaultHasher::new();
        packet.options.hash(&mut hasher);
        Self {
            from: packet.from,
            to: packet.to,
            seq: packet.seq,
            ack: packet.ack,
            flags: packet.flags,
            payload: packet.payload,
            window: packet.window,
            ip_id: packet.ip_id,
            options: hasher.finish(),
        }
    }
}

/// Finds each packet in both captures; the n-th copy here is the n-th there.
fn differences(
    near: &[Packet],
    far: &[Packet],
    is_inbound: impl Fn(&Packet) -> bool,
) -> (Vec<u64>, Vec<u64>) {
    let mut times: HashMap<Likeness, Vec<u64>> = HashMap::new();
    for packet in far.iter().rev() {
        let copies = times.entry(Likeness::of(packet)).or_default();
        copies.push(packet.ns);
    }
    let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
    for packet in near {
        let Some(ns) = times.get_mut(&Likeness::of(packet)).and_then(Vec::pop) else {
            continue;
        };
        let list = if is_inbound(packet) {
            &mut inbound
        } else {
            &mut outbound
        };
        list.push(packet.ns.abs_diff(ns));
    }
    inbound.sort_unstable();
    outbound.sort_unstable();
    (inbound, outbound)
}

/// A quantile of sorted numbers: no more than the rest of them are greater, but one always may be.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share) as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::super::connection::testing::Script;
    use super::*;

    #[test]
    fn copies_of_a_packet_are_paired_in_order() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"a");
        script.peer(0, 0, b"a");
        script.own(0, 1, b"b");
        let near = script.packets.clone();
        let mut far = near.clone();
        for (packet, later) in far.iter_mut().zip([1, 2, 3, 40, 50, 60]) {
            packet.ns += later;
        }
        far.remove(2);
        let gateway = near[0].to;
        let (inbound, outbound) = differences(&near, &far, |packet| packet.to == gateway);
        assert_eq!((inbound, outbound), (vec![1, 40, 50], vec![2, 60]));
    }

    #[test]
    fn quantiles_are_of_what_is_there() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7], 0.99), Some(7));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&hundred, 0.99), Some(99));
        assert_eq!(quantile(&hundred, 0.5), Some(50));
    }
}
