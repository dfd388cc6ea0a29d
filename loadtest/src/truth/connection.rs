//! Sorts a capture into connections, and each connection into two streams of bytes.
//!
//! Seen from the gateway: `inbound` is what arrived, `outbound` what left. Offsets are 64 bits wide
//! and count from the byte after the SYN, however often sequence numbers wrapped. Packets that TCP
//! must ignore (forged, out of every window) are kept, but belong to no stream.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;

use super::dissect::{ACK, FIN, Packet, RST, SYN};

/// Who is the gateway on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It is connected to.
    Front,
    /// It connects.
    Back,
}

/// A moment in a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) ns: u64,
    /// The packet's number in the capture.
    pub(crate) packet: u32,
}

/// One TCP connection of the gateway's.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) packets: Vec<Packet>,
    pub(crate) inbound: Flow,
    pub(crate) outbound: Flow,
    /// What arrived that told how far the peer has what was sent, in order of arrival.
    pub(crate) heard: Vec<Heard>,
    /// Where it is in `packets`: the last SYN before the first answer.
    pub(crate) syn: Option<usize>,
    /// The SYN before it, if that may be the one that was taken: a second answer followed at once.
    pub(crate) syn_before: Option<usize>,
    /// The SYN before it, whether anybody took it or not.
    syn_unanswered: Option<usize>,
    /// The first one.
    pub(crate) syn_ack: Option<usize>,
    /// The first packet after the SYN that arrived: it makes the connection.
    pub(crate) third: Option<usize>,
    /// What ended it, in order; only what TCP believes.
    pub(crate) endings: Vec<(Ending, Moment)>,
    /// A RST was next in order, ns: what comes now comes to nobody.
    reset_ns: Option<u64>,
    /// What was acknowledged by packets that came right after it. While the socket was busy, nobody
    /// knew of the RST yet.
    acked_late: u64,
    /// The peer's clock, as TCP remembers it: packets whose stamp is older are refused.
    stamp: Option<u32>,
    /// How far the gateway had acknowledged what came.
    acknowledged_to: i64,
    /// What the RST that ended it acknowledged. Its window says nothing.
    reset: Option<Heard>,
    /// Arrived and to be ignored: out of every window.
    pub(crate) ignored: u32,
}

/// Packets that are this close to one another may have been processed the other way round.
pub(crate) const CROSSING_NS: u64 = 300_000;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    FinPeer,
    FinLocal,
    RstIn,
    RstOut,
}

impl Ending {
    /// As the record says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ending::FinPeer => "fin_peer",
            Ending::FinLocal => "fin_local",
            Ending::RstIn => "rst_in",
            Ending::RstOut => "rst_out",
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// The sequence number of offset 0.
    pub(crate) base: Option<u32>,
    /// Packets with payload, in order of capture.
    pub(crate) segments: Vec<Segment>,
    /// Which packet carried which bytes first, by offset; no two overlap.
    pieces: BTreeMap<u64, Piece>,
    /// One past the highest byte seen.
    pub(crate) high: u64,
    /// All bytes before this one were seen.
    pub(crate) in_order: u64,
    /// Where the stream ends, if a FIN was seen, and when.
    pub(crate) fin: Option<(u64, Moment)>,
    /// The shift of the windows this side advertises; as sent in its SYN.
    shift_offered: Option<u8>,
}

/// One packet with payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) at: usize,
    pub(crate) moment: Moment,
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// One past the highest byte seen before it.
    pub(crate) high_before: u64,
}

impl Segment {
    /// It ends at or below the highest byte seen before.
    pub(crate) fn is_again(&self) -> bool {
        self.end <= self.high_before
    }
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    end: u64,
    at: usize,
    skip: usize,
    moment: Moment,
}

/// What one arriving packet said of the other direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) moment: Moment,
    /// What had been acknowledged before it.
    pub(crate) acked_before: u64,
    /// What is acknowledged with it.
    pub(crate) acked: u64,
    /// One past the last byte sent before it arrived.
    pub(crate) sent_before: u64,
    /// Scaled.
    pub(crate) window: u32,
    pub(crate) has_payload: bool,
    /// It said that something later arrived than what it acknowledges.
    pub(crate) has_sack: bool,
}

impl Heard {
    /// It was a RST.
    pub(crate) fn is_reset(&self) -> bool {
        self.window == NO_WINDOW
    }
}

/// A SYN-ACK that comes so much later is the kernel's own repetition, after a second (RFC 6298).
const REPEATED_NS: u64 = 500_000_000;

/// What a RST says of the window.
const NO_WINDOW: u32 = u32::MAX;

/// Sorts packets into connections, in the order in which they began.
pub(crate) fn sort(packets: Vec<Packet>, side: Side) -> Vec<Connection> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut current: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    for packet in packets {
        let (from, to) = (packet.from, packet.to);
        let key = if from < to { (from, to) } else { (to, from) };
        if packet.flags & (SYN | ACK | RST) == SYN {
            let known = current.get(&key).map(|index| &connections[*index]);
            let is_repeat = known
                .and_then(|known| known.syn.map(|at| known.packets[at].seq))
                .is_some_and(|seq| seq == packet.seq);
            if !is_repeat {
                let (local, peer) = match side {
                    Side::Front => (to, from),
                    Side::Back => (from, to),
                };
                current.insert(key, connections.len());
                connections.push(Connection::new(local, peer));
            }
        }
        // What belongs to no connection that was seen to begin is nobody's.
        if let Some(index) = current.get(&key) {
            connections[*index].add(packet);
        }
    }
    connections
}

impl Connection {
    fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local,
            peer,
            packets: Vec::new(),
            inbound: Flow::default(),
            outbound: Flow::default(),
            heard: Vec::new(),
            syn: None,
            syn_before: None,
            syn_unanswered: None,
            syn_ack: None,
            third: None,
            endings: Vec::new(),
            reset_ns: None,
            acked_late: 0,
            stamp: None,
            acknowledged_to: 0,
            reset: None,
            ignored: 0,
        }
    }

    /// The first thing that ended it.
    pub(crate) fn ending(&self) -> Option<(Ending, Moment)> {
        self.endings.first().copied()
    }

    pub(crate) fn packet(&self, at: usize) -> &Packet {
        &self.packets[at]
    }

    pub(crate) fn moment(&self, at: usize) -> Moment {
        Moment::of(&self.packets[at])
    }

    /// How far what was sent was acknowledged in the end.
    pub(crate) fn acked(&self) -> u64 {
        let heard = self.heard.last().map_or(0, |heard| heard.acked);
        heard.max(self.reset.map_or(0, |reset| reset.acked))
    }

    /// When everything that was sent before `offset` was acknowledged, and whether by a packet that
    /// carried payload.
    pub(crate) fn acknowledged(&self, offset: u64) -> Option<&Heard> {
        let at = self.heard.partition_point(|heard| heard.acked < offset);
        let reset = self.reset.as_ref().filter(|reset| reset.acked >= offset);
        self.heard.get(at).or(reset)
    }

    /// The same, if what came right after a RST was still heard.
    pub(crate) fn acked_at_most(&self) -> u64 {
        self.acked().max(self.acked_late)
    }

    fn add(&mut self, packet: Packet) {
        let at = self.packets.len();
        let is_inbound = packet.to == self.local;
        if packet.is(SYN) {
            self.handshake(&packet, at, is_inbound);
        } else if is_inbound {
            self.arrived(&packet, at);
        } else {
            self.left(&packet, at);
        }
        self.packets.push(packet);
    }

    fn handshake(&mut self, packet: &Packet, at: usize, is_inbound: bool) {
        if packet.is(ACK) {
            match self.syn_ack {
                None => self.syn_ack = Some(at),
                // Two were asked and two answered: the answer to the first one had to wait, for the
                // address of the peer's interface for example.
                Some(first) if packet.ns - self.packets[first].ns <= REPEATED_NS => {
                    self.syn_before = self.syn_unanswered;
                }
                Some(_) => {}
            }
        } else if self.syn_ack.is_none() {
            // The one that was answered. Those before may have found the queue full, so that nobody
            // took them.
            self.syn_unanswered = self.syn;
            self.syn = Some(at);
        }
        let flow = if is_inbound {
            &mut self.inbound
        } else {
            &mut self.outbound
        };
        flow.base.get_or_insert(packet.seq.wrapping_add(1));
        if is_inbound {
            self.stamp = stamp(packet);
        }
        flow.shift_offered = option(&packet.options, 3).and_then(|value| value.first().copied());
    }

    fn left(&mut self, packet: &Packet, at: usize) {
        let moment = Moment::of(packet);
        let Some(first) = self.outbound.offset_of(packet.seq) else {
            return;
        };
        if packet.is(RST) {
            // Who acknowledges what was never sent to a socket that is not there yet is told so with
            // their own number, and the connection begins all the same.
            if first >= 0 && first as u64 <= self.outbound.high + 1 {
                self.endings.push((Ending::RstOut, moment));
            } else {
                self.ignored += 1;
            }
            return;
        }
        let end = first + i64::from(packet.payload);
        if let Some(acked) = self.inbound.offset_of(packet.ack) {
            self.acknowledged_to = self.acknowledged_to.max(acked);
        }
        if packet.payload > 0 && first >= 0 {
            self.outbound
                .add(at, moment, first as u64, end as u64, true);
        }
        if packet.is(FIN) && self.outbound.fin.is_none() && end >= 0 {
            self.outbound.fin = Some((end as u64, moment));
            self.endings.push((Ending::FinLocal, moment));
        }
    }

    fn arrived(&mut self, packet: &Packet, at: usize) {
        let moment = Moment::of(packet);
        let Some(first) = self.inbound.offset_of(packet.seq) else {
            if packet.is(RST) {
                self.endings.push((Ending::RstIn, moment)); // refused
            }
            return;
        };
        if let Some(reset_ns) = self.reset_ns {
            self.ignored += 1;
            if packet.ns - reset_ns < CROSSING_NS && self.outbound.may_acknowledge(packet.ack) {
                let acked = self.outbound.offset_of(packet.ack).unwrap_or(0).max(0) as u64;
                self.acked_late = self.acked_late.max(acked.min(self.outbound.high));
            }
            return;
        }
        let end = first + i64::from(packet.payload);
        let in_order = self.inbound.in_order as i64;
        let next = in_order + i64::from(self.inbound.fin_taken());
        if packet.is(RST) {
            if first == next {
                self.reset_ns = Some(packet.ns);
            }
            // Anything else in the window is answered with a challenge, and nothing happens.
            let after_hole = self.inbound.high as i64;
            if first == next || first == after_hole {
                self.endings.push((Ending::RstIn, moment));
                if let Some(acked) = self.outbound.offset_of(packet.ack)
                    && first == next
                    && packet.is(ACK)
                    && self.outbound.may_acknowledge(packet.ack)
                {
                    // Who aborts says with the same packet how much it had.
                    self.reset = Some(Heard {
                        moment,
                        acked_before: self.heard.last().map_or(0, |heard| heard.acked),
                        acked: (acked.max(0) as u64).min(self.outbound.high),
                        sent_before: self.outbound.high,
                        window: NO_WINDOW,
                        has_payload: false,
                        has_sack: false,
                    });
                }
            } else {
                self.ignored += 1;
            }
            return;
        }
        let width = self.inbound_window_max();
        let is_acceptable = packet.is(ACK)
            && first >= -1
            && end <= next + width
            && end >= next - width
            && self.outbound.may_acknowledge(packet.ack);
        if !is_acceptable {
            self.ignored += 1;
            return;
        }
        if self.third.is_none() {
            self.third = Some(at);
        }
        self.hear(packet, moment);
        let is_taken = self.takes(packet, first);
        if packet.payload > 0 && first >= 0 {
            self.inbound
                .add(at, moment, first as u64, end as u64, is_taken);
        }
        if packet.is(FIN) && self.inbound.fin.is_none() && is_taken {
            self.inbound.fin = Some((end as u64, moment));
        }
        // TCP takes note of a FIN when nothing before it is missing.
        let fin_read = self.endings.iter().any(|(how, _)| *how == Ending::FinPeer);
        if self.inbound.fin_taken() && !fin_read {
            self.endings.push((Ending::FinPeer, moment));
        }
    }

    /// Whether its stamp is new enough for TCP to take it (PAWS, RFC 7323, section 5), if both sides
    /// stamp. Linux lets one tick pass.
    fn takes(&mut self, packet: &Packet, first: i64) -> bool {
        let (Some(recent), Some(stamp)) = (self.stamp, stamp(packet)) else {
            return true;
        };
        let older_by = recent.wrapping_sub(stamp) as i32;
        let end = first + i64::from(packet.payload);
        if older_by <= 0 && (first..=end).contains(&self.acknowledged_to) {
            self.stamp = Some(stamp);
        }
        older_by <= 1
    }

    fn hear(&mut self, packet: &Packet, moment: Moment) {
        let acked_before = self.heard.last().map_or(0, |heard| heard.acked);
        let Some(acked) = self.outbound.offset_of(packet.ack) else {
            return;
        };
        let acked = acked.min(self.outbound.high as i64);
        if acked < acked_before as i64 {
            return; // overtaken on its way: old news
        }
        let shift = match (self.inbound.shift_offered, self.outbound.shift_offered) {
            (Some(shift), Some(_)) => shift.min(14),
            _ => 0,
        };
        let acked = acked as u64;
        self.heard.push(Heard {
            moment,
            acked_before,
            acked,
            sent_before: self.outbound.high,
            window: u32::from(packet.window) << shift,
            has_payload: packet.payload > 0,
            has_sack: has_sack(packet),
        });
    }

    /// No window this gateway advertises is larger.
    fn inbound_window_max(&self) -> i64 {
        let shift = match (self.inbound.shift_offered, self.outbound.shift_offered) {
            (Some(_), Some(shift)) => shift.min(14),
            _ => 0,
        };
        0xffff << shift
    }
}

impl Moment {
    fn of(packet: &Packet) -> Self {
        Self {
            ns: packet.ns,
            packet: packet.number,
        }
    }
}

impl Flow {
    /// The offset of a sequence number, which lies near what was seen last.
    fn offset_of(&self, seq: u32) -> Option<i64> {
        let near = self.base?.wrapping_add(self.high as u32);
        Some(self.high as i64 + i64::from(seq.wrapping_sub(near) as i32))
    }

    /// The sequence number of an offset.
    pub(crate) fn sequence(&self, offset: u64) -> Option<u32> {
        Some(self.base?.wrapping_add(offset as u32))
    }

    fn may_acknowledge(&self, ack: u32) -> bool {
        let Some(offset) = self.offset_of(ack) else {
            return false;
        };
        let end = self.high + u64::from(self.fin.is_some());
        offset <= end as i64
    }

    /// Everything up to the FIN was seen, and the FIN.
    fn fin_taken(&self) -> bool {
        self.fin.is_some_and(|(end, _)| self.in_order >= end)
    }

    /// A packet with payload; what is not taken will have to come again.
    fn add(&mut self, at: usize, moment: Moment, first: u64, end: u64, is_taken: bool) {
        self.segments.push(Segment {
            at,
            moment,
            first,
            end,
            high_before: self.high,
        });
        self.high = self.high.max(end);
        if !is_taken {
            return;
        }
        let mut from = first;
        if let Some((_, piece)) = self.pieces.range(..=from).next_back() {
            from = from.max(piece.end);
        }
        while from < end {
            let next = self.pieces.range(from..).next();
            let (start, after) = next.map_or((end, end), |(start, piece)| (*start, piece.end));
            let to = start.min(end);
            if to > from {
                let piece = Piece {
                    end: to,
                    at,
                    skip: (from - first) as usize,
                    moment,
                };
                self.pieces.insert(from, piece);
            }
            from = after.max(to);
        }
        while let Some(piece) = self.pieces.get(&self.in_order) {
            self.in_order = piece.end;
        }
    }

    /// The moments at which a range's bytes were seen first: of the first of them, and of the last.
    pub(crate) fn seen(&self, range: &Range<u64>) -> Option<(Moment, Moment)> {
        let mut moments: Option<(Moment, Moment)> = None;
        for (_, piece) in self.touching(range) {
            let (first, last) = moments.get_or_insert((piece.moment, piece.moment));
            *first = (*first).min(piece.moment);
            *last = (*last).max(piece.moment);
        }
        moments
    }

    fn touching(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &Piece)> {
        let before = self.pieces.range(..range.start).next_back();
        let before = before.filter(|(_, piece)| piece.end > range.start);
        before
            .into_iter()
            .chain(self.pieces.range(range.start..range.end.max(range.start)))
            .map(|(start, piece)| (*start, piece))
    }

    /// The bytes from `from` on, as far as they were captured without a gap, at most `max`.
    pub(crate) fn read(&self, packets: &[Packet], from: u64, max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let to = from.saturating_add(max as u64);
        for (start, piece) in self.touching(&(from..to)) {
            let at = from + out.len() as u64;
            if start > at {
                break;
            }
            let captured = &packets[piece.at].bytes;
            let skip = piece.skip + (at - start) as usize;
            let wanted = (piece.end.min(to) - at) as usize;
            let have = captured.get(skip..).unwrap_or_default();
            out.extend_from_slice(&have[..have.len().min(wanted)]);
            if have.len() < wanted {
                break;
            }
        }
        out
    }
}

/// The value of the first TCP option of this kind.
pub(crate) fn option(options: &[u8], kind: u8) -> Option<&[u8]> {
    let mut rest = options;
    loop {
        match rest {
            [] | [0, ..] => return None,
            [1, after @ ..] => rest = after,
            [found, length, ..] => {
                let length = usize::from(*length);
                if length < 2 || length > rest.len() {
                    return None;
                }
                if *found == kind {
                    return Some(&rest[2..length]);
                }
                rest = &rest[length..];
            }
            [_] => return None,
        }
    }
}

/// When the sender says that it sent this, in ticks of its own.
fn stamp(packet: &Packet) -> Option<u32> {
    let value = option(&packet.options, 8)?.first_chunk()?;
    Some(u32::from_be_bytes(*value))
}

fn has_sack(packet: &Packet) -> bool {
    let blocks = option(&packet.options, 5).unwrap_or_default();
    blocks.chunks_exact(8).any(|block| {
        let left = u32::from_be_bytes([block[0], block[1], block[2], block[3]]);
        // Below the acknowledgement it tells of a copy, not of a hole.
        left.wrapping_sub(packet.ack) as i32 > 0
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Packets by hand.

    use super::*;

    pub(crate) const GATEWAY: &str = "10.0.0.1:80";
    pub(crate) const PEER: &str = "10.0.0.2:4000";

    /// A capture in the making: each call adds a packet, a microsecond after the one before.
    #[derive(Default)]
    pub(crate) struct Script {
        pub(crate) packets: Vec<Packet>,
        pub(crate) isn: [u32; 2],
    }

    impl Script {
        pub(crate) fn new(peer_isn: u32, own_isn: u32) -> Self {
            let mut script = Self {
                packets: Vec::new(),
                isn: [peer_isn, own_isn],
            };
            script.raw(true, SYN, -1, 0, b"");
            script.raw(false, SYN | ACK, -1, 0, b"");
            script.raw(true, ACK, 0, 0, b"");
            script
        }

        /// A packet: by whom, its flags, its offset and what it acknowledges.
        pub(crate) fn raw(
            &mut self,
            by_peer: bool,
            flags: u8,
            at: i64,
            acks: i64,
            payload: &[u8],
        ) -> &mut Packet {
            let number = self.packets.len() as u32 + 1;
            let (gateway, peer) = (GATEWAY.parse().unwrap(), PEER.parse().unwrap());
            let (from, to) = if by_peer {
                (peer, gateway)
            } else {
                (gateway, peer)
            };
            let (own, other) = if by_peer { (0, 1) } else { (1, 0) };
            let seq = |isn: u32, offset: i64| isn.wrapping_add(1).wrapping_add(offset as u32);
            self.packets.push(Packet {
                number,
                ns: u64::from(number) * 1000,
                from,
                to,
                ip_bytes: 40 + payload.len() as u32,
                ttl: 64,
                tos: 0,
                ip_id: 0,
                df: Some(true),
                seq: seq(self.isn[own], at),
                ack: seq(self.isn[other], acks),
                payload: payload.len() as u32,
                flags,
                window: 1000,
                options: Box::default(),
                bytes: payload.into(),
            });
            self.packets.last_mut().expect("just pushed")
        }

        pub(crate) fn peer(&mut self, at: i64, acks: i64, payload: &[u8]) -> &mut Packet {
            self.raw(true, ACK, at, acks, payload)
        }

        pub(crate) fn own(&mut self, at: i64, acks: i64, payload: &[u8]) -> &mut Packet {
            self.raw(false, ACK, at, acks, payload)
        }

        pub(crate) fn connection(&self) -> Connection {
            let mut all = sort(self.packets.clone(), Side::Front);
            assert_eq!(all.len(), 1);
            all.pop().expect("one")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Script;
    use super::*;

    #[test]
    fn offsets_go_on_where_sequence_numbers_wrap() {
        let mut script = Script::new(u32::MAX - 4, 7);
        script.peer(0, 0, b"abcdef");
        script.peer(6, 0, b"ghi");
        let connection = script.connection();
        assert_eq!(connection.inbound.high, 9);
        assert_eq!(
            connection.inbound.read(&connection.packets, 2, 100),
            b"cdefghi"
        );
        assert_eq!(connection.inbound.sequence(6), Some(2));
    }

    #[test]
    fn of_two_syns_the_first_may_have_been_taken_if_both_were_answered() {
        let shaken = |pace: u64, by_peer: &[bool]| {
            let mut script = Script::default();
            for peer in by_peer {
                let flags = if *peer { SYN } else { SYN | ACK };
                script.raw(*peer, flags, -1, 0, b"").ns *= pace;
            }
            script.raw(true, ACK, 0, 0, b"").ns *= pace;
            let connection = script.connection();
            (connection.syn, connection.syn_before)
        };
        let both = (Some(1), Some(0));
        assert_eq!(shaken(1, &[true, false]), (Some(0), None));
        assert_eq!(shaken(1, &[true, true, false]), (Some(1), None));
        assert_eq!(shaken(1, &[true, true, false, false]), both);
        assert_eq!(shaken(1, &[true, true, false, false, false]), both);
        assert_eq!(shaken(1, &[true, false, true, false]), (Some(0), None));
        // A second later it is the same answer again.
        assert_eq!(
            shaken(1_000_000, &[true, true, false, false]),
            (Some(1), None)
        );
    }

    #[test]
    fn a_hole_that_is_filled_late_ends_when_it_is_filled() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"ab");
        script.peer(4, 0, b"ef");
        script.peer(2, 0, b"cd");
        script.peer(0, 0, b"ab");
        let connection = script.connection();
        let inbound = &connection.inbound;
        assert_eq!(inbound.read(&connection.packets, 0, 100), b"abcdef");
        let (first, last) = inbound.seen(&(0..6)).unwrap();
        assert_eq!((first.packet, last.packet), (4, 6));
        let again: Vec<bool> = inbound.segments.iter().map(Segment::is_again).collect();
        assert_eq!(again, [false, false, true, true]);
    }

    #[test]
    fn what_is_cut_from_the_capture_is_not_read_over() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"abcdef").bytes = (*b"abc").into();
        script.peer(6, 0, b"ghi");
        let connection = script.connection();
        let read = |from| connection.inbound.read(&connection.packets, from, 100);
        assert_eq!(read(0), b"abc");
        assert_eq!(read(4), b"");
        assert_eq!(read(6), b"ghi");
    }

    #[test]
    fn forged_packets_are_ignored() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"ab");
        script.peer(90_000_000, 0, b"forged");
        script.raw(true, RST, 50, 0, b"");
        script.peer(2, 9_000, b"acknowledges what was never sent");
        script.raw(false, RST, 9_000, 0, b"");
        let connection = script.connection();
        assert_eq!(connection.ignored, 4);
        assert_eq!(connection.inbound.high, 2);
        assert!(connection.endings.is_empty());
        script.raw(true, RST, 2, 0, b"");
        assert_eq!(
            script.connection().ending().map(|end| end.0),
            Some(Ending::RstIn)
        );
    }

    #[test]
    fn what_is_older_than_what_was_taken_comes_in_vain() {
        fn stamped(packet: &mut Packet, ticks: u32) {
            let stamp = [&[8, 10][..], &ticks.to_be_bytes(), &[0; 4]].concat();
            packet.options = stamp.into();
        }
        let mut script = Script::new(0, 0);
        stamped(&mut script.packets[0], 100);
        stamped(script.peer(0, 0, b"ab"), 105);
        script.own(0, 2, b"");
        for (ticks, at) in [(106, 2), (103, 4), (200, 4)] {
            stamped(script.peer(at, 0, b"cd"), ticks);
        }
        let inbound = script.connection().inbound;
        assert_eq!(inbound.in_order, 6);
        let packets = inbound.seen(&(4..6)).map(|seen| seen.0.packet);
        assert_eq!(packets, Some(8));
        // It was there all the same.
        assert_eq!(
            (inbound.segments.len(), inbound.segments[3].is_again()),
            (4, true)
        );
    }

    #[test]
    fn what_comes_after_a_reset_comes_to_nobody() {
        let mut script = Script::new(0, 0);
        script.peer(0, 0, b"ask1");
        script.own(0, 4, b"abcdef");
        script.peer(4, 3, b"");
        script.raw(true, RST, 4, 0, b"");
        script.peer(4, 6, b"");
        script.raw(true, RST | ACK, 4, 6, b"");
        let connection = script.connection();
        assert_eq!((connection.acked(), connection.acked_at_most()), (3, 6));
        assert_eq!((connection.endings.len(), connection.ignored), (1, 2));
    }

    #[test]
    fn a_fin_counts_when_nothing_before_it_is_missing() {
        let mut script = Script::new(0, 0);
        script.raw(true, ACK | FIN, 2, 0, b"cd");
        script.raw(false, ACK | FIN, 0, 0, b"");
        script.peer(0, 1, b"ab");
        let connection = script.connection();
        let order: Vec<Ending> = connection.endings.iter().map(|end| end.0).collect();
        assert_eq!(order, [Ending::FinLocal, Ending::FinPeer]);
        assert_eq!(connection.endings[1].1.packet, 6);
    }
}
