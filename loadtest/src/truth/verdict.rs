//! What a judge found: how many calls agreed of how many, and where one did not, in words.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::derive::Losses;
use super::evidence::Family;

/// Fields that are judged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// One record per call, and no other.
    Records,
    /// Addresses, ports, sockets, the how many-th call on the connection.
    Connection,
    /// The sequence numbers of the request's first and last byte.
    Sequence,
    /// Bytes of payload.
    Payload,
    /// Segments and IP bytes.
    Packets,
    /// TTL, flags, window, MSS, DSCP and ECN.
    Headers,
    /// What the client's SYN said.
    Syn,
    /// Repeats, either way.
    Retransmits,
    /// When things happened.
    Marks,
    /// Where the time went.
    Parts,
    /// How it ended, and by whom.
    Ending,
    /// Exact, shared or partial, as was fixed beforehand.
    Attribution,
}

impl Group {
    /// All of them, in the order of the table.
    pub const ALL: [Group; 12] = [
        Group::Records,
        Group::Connection,
        Group::Sequence,
        Group::Payload,
        Group::Packets,
        Group::Headers,
        Group::Syn,
        Group::Retransmits,
        Group::Marks,
        Group::Parts,
        Group::Ending,
        Group::Attribution,
    ];

    /// Its column's head.
    pub fn name(self) -> &'static str {
        match self {
            Group::Records => "records",
            Group::Connection => "connection",
            Group::Sequence => "sequence",
            Group::Payload => "payload",
            Group::Packets => "packets",
            Group::Headers => "headers",
            Group::Syn => "SYN",
            Group::Retransmits => "repeats",
            Group::Marks => "marks",
            Group::Parts => "parts",
            Group::Ending => "ending",
            Group::Attribution => "attribution",
        }
    }
}

/// What came of one field, over all calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// The record says what the capture says.
    pub agreed: u64,
    /// It does not.
    pub missed: u64,
    /// The record does not say, and need not.
    pub absent: u64,
    /// The capture does not say.
    pub underivable: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.agreed += other.agreed;
        self.missed += other.missed;
        self.absent += other.absent;
        self.underivable += other.underivable;
    }
}

/// How many calls agreed in every field of a group that was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Calls without a miss.
    pub agreed: u64,
    /// Calls of which at least one field was judged.
    pub of: u64,
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// The call's id, or the connection.
    pub call: String,
    /// The record's field.
    pub field: String,
    /// What the record says.
    pub record: String,
    /// What the capture says.
    pub capture: String,
    /// Where to look.
    pub packets: String,
}

/// How far a mark is from the capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MarkTimes {
    /// Calls that have it, on both sides.
    pub calls: u64,
    /// Half of them are no further off than this, µs.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// The furthest.
    pub max_us: f64,
    /// What two captures of the same packets differ by, µs.
    pub captures_p50_us: f64,
    /// 99 of 100.
    pub captures_p99_us: f64,
}

/// Whether it matters when something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Times {
    /// To the microsecond.
    Judged,
    /// It has to be there, whatever it says: the machine is emulated, or busy with something else.
    Passed,
}

/// What was found in one run of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The scenario.
    pub scenario: String,
    /// Its addresses.
    pub family: Family,
    /// Calls that were asked.
    pub calls: u64,
    /// Whether times were judged.
    pub times: Times,
    /// How many calls agreed.
    pub groups: BTreeMap<Group, Share>,
    /// By field.
    pub fields: BTreeMap<String, Tally>,
    /// Records by leg and attribution: `client exact`.
    pub attribution: BTreeMap<String, u64>,
    /// What the gateway sent again to clients.
    pub losses_front: Losses,
    /// What it sent again to upstreams.
    pub losses_back: Losses,
    /// How far marks are off.
    pub marks: BTreeMap<String, MarkTimes>,
    /// Every disagreement.
    pub misses: Vec<Miss>,
    /// Marks far from their packet in single calls, no more of them than a host may be held up. Any
    /// more are disagreements.
    pub held_up: Vec<Miss>,
    /// Calls and fields of which the captures only tell the least and the most.
    #[serde(skip)]
    pub(crate) loose: HashSet<(String, String)>,
}

impl Verdict {
    pub(crate) fn new(scenario: &str, family: Family, calls: usize, times: Times) -> Self {
        Self {
            scenario: scenario.to_owned(),
            family,
            calls: calls as u64,
            times,
            groups: BTreeMap::new(),
            fields: BTreeMap::new(),
            attribution: BTreeMap::new(),
            losses_front: Losses::default(),
            losses_back: Losses::default(),
            marks: BTreeMap::new(),
            misses: Vec::new(),
            held_up: Vec::new(),
            loose: HashSet::new(),
        }
    }

    /// Nothing disagreed, and something was asked.
    pub fn held(&self) -> bool {
        self.misses.is_empty() && self.calls > 0
    }

    /// All tallies in one.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in self.fields.values() {
            total.add(tally);
        }
        total
    }
}

/// The scenarios that lose packets.
const LOSSY: [&str; 4] = ["loss-0.5", "loss-2", "loss-10", "lost-tails"];
/// So many repeats of each kind there must have been on each leg.
const LOSSES_MIN: u64 = 10;

/// The kinds of repeats of which a round that lost packets saw too few to say that they are counted.
pub fn too_few_losses(verdicts: &[Verdict]) -> Vec<String> {
    let played = |name: &&str| verdicts.iter().any(|verdict| verdict.scenario == **name);
    if !LOSSY.iter().all(played) {
        return Vec::new();
    }
    let mut legs = [Losses::default(); 2];
    for verdict in verdicts {
        legs[0].add(&verdict.losses_front);
        legs[1].add(&verdict.losses_back);
    }
    let mut missing = Vec::new();
    for (leg, losses) in ["clients", "upstreams"].into_iter().zip(legs) {
        for (kind, count) in [
            ("by a timeout", losses.rto),
            ("on duplicate acknowledgements", losses.fast),
            ("as a probe of the tail", losses.tail),
        ] {
            if count < LOSSES_MIN {
                missing.push(format!(
                    "too few segments were sent again to {leg} {kind}: {count}, not {LOSSES_MIN}"
                ));
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_lost_too_little_says_what_was_missing() {
        let of = |scenario: &str, losses: Losses| Verdict {
            losses_front: losses,
            losses_back: losses,
            ..Verdict::new(scenario, Family::V4, 200, Times::Judged)
        };
        let many = Losses {
            rto: 5,
            fast: 3,
            tail: 9,
            following: 0,
        };
        let mut verdicts: Vec<Verdict> = LOSSY.map(|name| of(name, many)).into();
        assert!(too_few_losses(&verdicts).is_empty());
        verdicts[0].losses_back.fast = 0;
        let missing = too_few_losses(&verdicts);
        assert_eq!(
            missing,
            [
                "too few segments were sent again to upstreams on duplicate acknowledgements: 9, not 10"
            ]
        );
        // A selection is not asked for it.
        verdicts.pop();
        assert!(too_few_losses(&verdicts).is_empty());
    }
}
