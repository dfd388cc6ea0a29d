//! Lists of addresses, and who is denied by them.
//!
//! An entry is a network and, where it has one, its end. What may never be denied stands over every
//! list: it stays let through within a denied network, and what lies within it is not denied at all.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use calltap_correlate::record::Timestamp;

use crate::network::{BadNetwork, Network};

/// Of one text so many wrong lines are told, the others are counted.
pub const MISTAKES_TOLD_MAX: usize = 20;

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it names.
    pub network: Network,
    /// From then on it is as if it were not there.
    pub until: Option<Timestamp>,
}

/// Why a text is no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadEntry {
    /// What stands first is no network.
    Network {
        /// It.
        text: String,
        /// Why not.
        why: BadNetwork,
    },
    /// What follows is not `until` and a time.
    End {
        /// It.
        text: String,
    },
}

impl FromStr for Entry {
    type Err = BadEntry;

    /// Reads `203.0.113.0/24`, with or without `until 2026-12-01T00:00:00Z` behind it.
    fn from_str(text: &str) -> Result<Self, BadEntry> {
        let (network, rest) = match text.trim().split_once(char::is_whitespace) {
            Some((network, rest)) => (network, rest.trim()),
            None => (text.trim(), ""),
        };
        let network = network.parse().map_err(|why| BadEntry::Network {
            text: network.to_owned(),
            why,
        })?;
        let until = match rest.split_once(char::is_whitespace) {
            None if rest.is_empty() => None,
            Some(("until", time)) => Some(time.trim().parse().ok()),
            _ => Some(None),
        };
        let bad_end = || BadEntry::End {
            text: rest.to_owned(),
        };
        Ok(Self {
            network,
            until: until.map(|time| time.ok_or_else(bad_end)).transpose()?,
        })
    }
}

impl std::error::Error for BadEntry {}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { text, why } => write!(f, "{:?}: {why}", shown(text)),
            Self::End { text } => write!(f, "{:?} is not an end", shown(text)),
        }
    }
}

impl BadEntry {
    /// What to write instead.
    pub fn remedy(&self) -> String {
        match self {
            Self::Network { why, .. } => why.remedy(),
            Self::End { .. } => "write \"until 2026-12-01T00:00:00Z\", or nothing".to_owned(),
        }
    }
}

/// The begin of a text that may be anything.
fn shown(text: &str) -> &str {
    const BYTES_MAX: usize = 64;
    &text[..text.floor_char_boundary(BYTES_MAX)]
}

/// A line that is no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// Why not.
    pub why: BadEntry,
}

/// The lines of a text that are no entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLines {
    /// The first of them, at most [`MISTAKES_TOLD_MAX`].
    pub told: Vec<BadLine>,
    /// How many more there are.
    pub further: usize,
}

/// Reads a text of one entry a line. `#` begins a comment; empty lines say nothing.
///
/// # Errors
/// All lines that are no entries.
pub fn read(text: &str) -> Result<Vec<Entry>, BadLines> {
    let mut entries = Vec::new();
    let mut wrong = BadLines {
        told: Vec::new(),
        further: 0,
    };
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match text.parse() {
            Ok(entry) => entries.push(entry),
            Err(why) if wrong.told.len() < MISTAKES_TOLD_MAX => {
                wrong.told.push(BadLine { line, why });
            }
            Err(_) => wrong.further += 1,
        }
    }
    match wrong.told.is_empty() {
        true => Ok(entries),
        false => Err(wrong),
    }
}

/// A list by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// In messages and in the admin API.
    pub name: Arc<str>,
    /// Whom it denies.
    pub entries: Vec<Entry>,
}

/// A network that may never be denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Never {
    /// Whom.
    pub network: Network,
    /// Who that is: `loopback`, `upstream orders`.
    pub why: Arc<str>,
}

/// A denial that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The list that it stands in; of several the first.
    pub list: Arc<str>,
    /// Its end, of several the last.
    pub until: Option<Timestamp>,
}

/// An entry of a list that does not do all it says, because of what may never be denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exempted {
    /// The list.
    pub list: Arc<str>,
    /// What it denies.
    pub network: Network,
    /// What stays let through.
    pub never: Never,
}

impl fmt::Display for Exempted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            list,
            network,
            never: Never {
                network: never,
                why,
            },
        } = self;
        match never.covers(*network) {
            true => write!(
                f,
                "list {list}: {network} is not denied, for {never} never is ({why})"
            ),
            false => write!(
                f,
                "list {list}: {network} is denied without {never}, which never is ({why})"
            ),
        }
    }
}

/// Who is denied at a moment.
#[derive(Debug, Default)]
pub struct Denied {
    denials: Prefixes<Denial>,
    /// What is let through within them.
    holes: Prefixes<Never>,
    exempted: Vec<Exempted>,
    due: Option<Timestamp>,
}

impl Denied {
    /// What these lists come to now. `never` stands over all of them.
    pub fn by<'l>(
        lists: impl IntoIterator<Item = &'l List>,
        never: &[Never],
        now: Timestamp,
    ) -> Self {
        let mut denied = Self::default();
        let mut nevers = Prefixes::default();
        for one in never {
            nevers.entry(one.network, || one.clone());
        }
        for List { name, entries } in lists {
            for &Entry { network, until } in entries {
                if until.is_some_and(|until| until <= now) {
                    continue;
                }
                denied.due = denied.due.into_iter().chain(until).min();
                if let Some((_, never)) = nevers.around(network) {
                    denied.exempted.push(Exempted {
                        list: Arc::clone(name),
                        network,
                        never: never.clone(),
                    });
                    continue;
                }
                let denial = denied.denials.entry(network, || Denial {
                    list: Arc::clone(name),
                    until,
                });
                denial.until = denial.until.zip(until).map(|(one, other)| one.max(other));
            }
        }
        for never in never {
            if let Some((network, denial)) = denied.denials.around(never.network) {
                denied.exempted.push(Exempted {
                    list: Arc::clone(&denial.list),
                    network,
                    never: never.clone(),
                });
                denied.holes.entry(never.network, || never.clone());
            }
        }
        denied
    }

    /// Whether the address is denied, and by which entry.
    pub fn find(&self, address: IpAddr) -> Option<(Network, &Denial)> {
        // A hole has nothing denied in it: no denial can be more exact.
        let address = Network::of(address);
        if self.holes.around(address).is_some() {
            return None;
        }
        self.denials.around(address)
    }

    /// What exactly this network has, not what is around it.
    pub fn at(&self, network: Network) -> Option<&Denial> {
        self.denials.rows.get(&network)
    }

    /// The denied networks, in no order.
    pub fn denials(&self) -> impl ExactSizeIterator<Item = (Network, &Denial)> {
        let rows = self.denials.rows.iter();
        rows.map(|(network, denial)| (*network, denial))
    }

    /// The networks within them that are let through. Of two networks that hold an address, the more
    /// exact one decides.
    pub fn holes(&self) -> impl ExactSizeIterator<Item = Network> {
        self.holes.rows.keys().copied()
    }

    /// What does not do all it says.
    pub fn exempted(&self) -> &[Exempted] {
        &self.exempted
    }

    /// When an entry ends next.
    pub fn due(&self) -> Option<Timestamp> {
        self.due
    }
}

/// What is said of networks, found by the longest prefix.
#[derive(Debug)]
struct Prefixes<T> {
    rows: HashMap<Network, T>,
    /// The lengths that occur, of IPv4 and of IPv6.
    lengths: [[bool; 129]; 2],
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            rows: HashMap::new(),
            lengths: [[false; 129]; 2],
        }
    }
}

impl<T> Prefixes<T> {
    fn entry(&mut self, network: Network, new: impl FnOnce() -> T) -> &mut T {
        let of_family = &mut self.lengths[usize::from(network.first().is_ipv6())];
        of_family[usize::from(network.bits())] = true;
        self.rows.entry(network).or_insert_with(new)
    }

    /// The most exact one that covers the network.
    fn around(&self, network: Network) -> Option<(Network, &T)> {
        let of_family = &self.lengths[usize::from(network.first().is_ipv6())];
        (0..=network.bits())
            .rev()
            .filter(|bits| of_family[usize::from(*bits)])
            .find_map(|bits| {
                let wider = Network::around(network.first(), bits);
                Some((wider, self.rows.get(&wider)?))
            })
    }
}

#[cfg(test)]
mod tests;
