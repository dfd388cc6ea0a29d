//! Who is denied: lists of the configuration and what was denied since, kept in force.
//!
//! What is denied is denied to the TCP peer, whatever its headers say. Where there is a tap, the kernel
//! drops its packets; everywhere, its live connections are reset, and what was accepted nevertheless is
//! reset before it is served. Who may never be denied (loopback, upstreams, trusted proxies, those who
//! ask the admin API) stands over every list, as [`addresses`](calltap_policies::addresses) has it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use calltap_correlate::record::Timestamp;
use calltap_policies::addresses::{Denial, Denied, Entry, Exempted, List, Never};
use calltap_policies::alert::Alert;
use calltap_policies::network::Network;
use calltap_tap::denied::{DenyError, Hits, Row};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::config::DenialsConfig;
use crate::server::Registry;
use crate::socket::TapSource;

/// The name that what was denied at run time has among the lists.
pub(crate) const ADDED: &str = "added";
/// Ends come, and upstreams move, with this grain.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many addresses that asked the admin API are remembered, those that asked last.
const ADMIN_PEERS_MAX: usize = 64;
/// Of what does not do all it says, so much is logged.
const EXEMPTED_LOGGED_MAX: usize = 10;
/// A denial made at run time lasts no longer.
pub(crate) const DENIED_FOR_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Denials in force, and how they came about.
pub(crate) struct Denials {
    tap: TapSource,
    registry: Arc<Registry>,
    /// Set by whoever holds `rules`, read with every connection.
    in_force: ArcSwap<Denied>,
    rules: Mutex<Rules>,
    /// There may be something to look after.
    changed: Notify,
    closed: AtomicU64,
    refused: AtomicU64,
}

/// What is to be in force.
#[derive(Clone, Default)]
struct Rules {
    lists: Arc<[List]>,
    max: usize,
    /// Of the configuration.
    never: Vec<Never>,
    upstreams: Vec<Never>,
    admin_peers: VecDeque<IpAddr>,
    added: BTreeMap<Network, Added>,
}

/// What was denied at run time.
#[derive(Clone, Debug)]
struct Added {
    until: Timestamp,
    why: Arc<str>,
}

/// Why somebody is not denied, or still is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DenialError {
    /// It is loopback, an upstream, a trusted proxy, or asks the admin API.
    #[error("{network} may never be denied, for {} may not ({})", never.network, never.why)]
    Never {
        /// Who was to be denied.
        network: Network,
        /// Who may not be.
        never: Never,
    },
    /// A file has it, and stands over what is said at run time.
    #[error("{network} stands in the list {list}, which only its file and a reload change")]
    Listed {
        /// The network.
        network: Network,
        /// The list.
        list: Arc<str>,
    },
    /// Nobody denied exactly that.
    #[error("{network} was not denied at run time")]
    Unknown {
        /// The network.
        network: Network,
    },
    /// There is no room for it.
    #[error("{networks} networks would be denied, and policies.deny_max is {max}")]
    TooMany {
        /// How many there would be.
        networks: usize,
        /// How many there may be.
        max: usize,
    },
    /// The kernel does not take it.
    #[error("what was denied before still is")]
    Kernel {
        /// Why not.
        #[from]
        source: DenyError,
    },
}

/// An address with which a TCP handshake was completed, so that nobody made it up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proven(IpAddr);

impl Proven {
    /// The source of an alert, which detectors name only where it is the peer of a connection.
    pub(crate) fn source_of(alert: &Alert) -> Option<Self> {
        alert.source.map(Self)
    }

    /// The address.
    pub(crate) fn address(self) -> IpAddr {
        self.0
    }
}

/// One denial, as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) network: Network,
    pub(crate) denial: Denial,
    /// Of one made at run time.
    pub(crate) why: Option<Arc<str>>,
    pub(crate) hits: Hits,
}

/// What all denials come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    /// Networks that are denied.
    pub(crate) networks: usize,
    /// What the kernel dropped.
    pub(crate) dropped: Hits,
    /// Connections that were open when their client was denied.
    pub(crate) closed: u64,
    /// Connections that were accepted and reset.
    pub(crate) refused: u64,
}

impl Denials {
    /// Nobody is denied yet.
    pub(crate) fn new(tap: TapSource, registry: Arc<Registry>) -> Self {
        Self {
            tap,
            registry,
            in_force: ArcSwap::default(),
            rules: Mutex::default(),
            changed: Notify::new(),
            closed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Puts a configuration's lists in force; what was denied at run time stays.
    ///
    /// # Errors
    /// When there are too many, or the kernel does not take them. What was in force still is then.
    pub(crate) fn configure(
        &self,
        config: &DenialsConfig,
        upstreams: Vec<(Arc<str>, IpAddr)>,
    ) -> Result<(), DenialError> {
        let mut rules = self.rules();
        let next = Rules {
            lists: Arc::clone(&config.lists),
            max: config.max,
            never: config.never.clone(),
            upstreams: nevers_of(upstreams),
            ..rules.clone()
        };
        self.put_in_force(&next)?;
        *rules = next;
        drop(rules);
        let in_force = self.in_force.load();
        for List { name, entries } in config.lists.iter() {
            tracing::info!("list {name}: {} entries", entries.len());
        }
        for exempted in in_force.exempted().iter().take(EXEMPTED_LOGGED_MAX) {
            tracing::warn!("{exempted}");
        }
        if let Some(further) = in_force
            .exempted()
            .len()
            .checked_sub(EXEMPTED_LOGGED_MAX + 1)
        {
            tracing::warn!("and {} such entries more: see /api/v1/denied", further + 1);
        }
        Ok(())
    }

    /// Denies a network for a time.
    ///
    /// Takes as long as the lists are long, some milliseconds where they are: nothing for a call's way.
    ///
    /// # Errors
    /// When it may never be denied, a list denies it already, or there is no room.
    pub(crate) fn deny(
        &self,
        network: Network,
        for_: Duration,
        why: &str,
    ) -> Result<Told, DenialError> {
        let mut rules = self.rules();
        let mut next = rules.clone();
        let until = now().unix_us() + for_.min(DENIED_FOR_MAX).as_micros() as i64;
        let added = Added {
            until: Timestamp::from_unix_us(until),
            why: why.into(),
        };
        if let Some(never) = next
            .nevers()
            .into_iter()
            .find(|never| never.network.covers(network))
        {
            return Err(DenialError::Never { network, never });
        }
        let in_force = self.in_force.load();
        if let Some(denial) = in_force.at(network)
            && &*denial.list != ADDED
        {
            return Err(DenialError::Listed {
                network,
                list: Arc::clone(&denial.list),
            });
        }
        let denial = Denial {
            list: ADDED.into(),
            until: Some(added.until),
        };
        let why = Some(Arc::clone(&added.why));
        next.added.insert(network, added);
        self.put_in_force(&next)?;
        *rules = next;
        Ok(Told {
            network,
            denial,
            why,
            hits: Hits::default(),
        })
    }

    /// Denies somebody for a time: its address, or of IPv6 its /64, which is what one subscriber has.
    ///
    /// # Errors
    /// As [`deny`](Self::deny).
    pub(crate) fn deny_peer(
        &self,
        peer: Proven,
        for_: Duration,
        why: &str,
    ) -> Result<Told, DenialError> {
        const SUBSCRIBER_BITS: u8 = 64;
        self.deny(Network::around(peer.0, SUBSCRIBER_BITS), for_, why)
    }

    /// Takes back what was denied at run time.
    ///
    /// # Errors
    /// When exactly that was not.
    pub(crate) fn allow(&self, network: Network) -> Result<(), DenialError> {
        let mut rules = self.rules();
        let mut next = rules.clone();
        if next.added.remove(&network).is_none() {
            return Err(match self.in_force.load().at(network) {
                Some(denial) => DenialError::Listed {
                    network,
                    list: Arc::clone(&denial.list),
                },
                None => DenialError::Unknown { network },
            });
        }
        self.put_in_force(&next)?;
        *rules = next;
        Ok(())
    }

    /// Whether a connection of this peer is to be reset; counts those that are.
    pub(crate) fn refuses(&self, peer: IpAddr) -> bool {
        let denied = self.in_force.load().find(peer).is_some();
        if denied {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        denied
    }

    /// An address showed the admin API its token.
    pub(crate) fn note_admin_peer(&self, peer: IpAddr) {
        let peer = peer.to_canonical();
        let mut rules = self.rules();
        if peer.is_loopback() || rules.admin_peers.back() == Some(&peer) {
            return;
        }
        rules.admin_peers.retain(|known| *known != peer);
        rules.admin_peers.push_back(peer);
        if rules.admin_peers.len() > ADMIN_PEERS_MAX {
            rules.admin_peers.pop_front();
        }
        let is_denied = self.in_force.load().find(peer).is_some();
        if is_denied && let Err(error) = self.put_in_force(&rules) {
            tracing::error!("{peer}, which asks the admin API, stays denied: {error}");
        }
    }

    /// What was denied at run time ends when it is due, and upstreams are let through where DNS has
    /// moved them. Never returns; sleeps while nobody is denied.
    pub(crate) async fn look_after(&self, upstreams: impl Fn() -> Vec<(Arc<str>, IpAddr)>) {
        let mut failing = false;
        loop {
            while self.is_idle() {
                self.changed.notified().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            failing = match self.look(upstreams()) {
                Ok(()) => false,
                Err(error) => {
                    // Said once, not every second.
                    if !failing {
                        let error = anyhow::Error::from(error);
                        tracing::error!("denials stay as they were: {error:#}");
                    }
                    true
                }
            };
        }
    }

    fn is_idle(&self) -> bool {
        let in_force = self.in_force.load();
        in_force.denials().len() == 0 && in_force.exempted().is_empty()
    }

    fn look(&self, upstreams: Vec<(Arc<str>, IpAddr)>) -> Result<(), DenialError> {
        let upstreams = nevers_of(upstreams);
        let mut rules = self.rules();
        let is_due = self.in_force.load().due().is_some_and(|due| due <= now());
        if !is_due && upstreams == rules.upstreams {
            return Ok(());
        }
        let next = Rules {
            upstreams,
            ..rules.clone()
        };
        self.put_in_force(&next)?;
        *rules = next;
        let now = now();
        rules.added.retain(|_, added| added.until > now);
        Ok(())
    }

    /// What all denials come to.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            networks: self.in_force.load().denials().len(),
            dropped: match &self.tap {
                TapSource::Ebpf(tap) => tap.denied_total(),
                TapSource::TcpInfo(_) | TapSource::Off => Hits::default(),
            },
            closed: self.closed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether the kernel drops packets, or connections are reset when they are accepted.
    pub(crate) fn is_in_kernel(&self) -> bool {
        matches!(self.tap, TapSource::Ebpf(_))
    }

    /// The denials in force that are wanted, in no order.
    pub(crate) fn told(&self, address: Option<IpAddr>) -> Vec<Told> {
        let rules = self.rules();
        let in_force = self.in_force.load();
        let wanted: Vec<(Network, &Denial)> = match address {
            Some(address) => in_force.find(address).into_iter().collect(),
            None => in_force.denials().collect(),
        };
        let prefixes = wanted
            .iter()
            .map(|(network, _)| (network.first(), network.bits()));
        let hits = match &self.tap {
            TapSource::Ebpf(tap) => tap.denied_hits(prefixes),
            TapSource::TcpInfo(_) | TapSource::Off => vec![Hits::default(); wanted.len()],
        };
        wanted
            .into_iter()
            .zip(hits)
            .map(|((network, denial), hits)| Told {
                network,
                denial: denial.clone(),
                why: (&*denial.list == ADDED)
                    .then(|| {
                        rules
                            .added
                            .get(&network)
                            .map(|added| Arc::clone(&added.why))
                    })
                    .flatten(),
                hits,
            })
            .collect()
    }

    /// The lists by name with the number of their entries, those of the configuration first.
    pub(crate) fn lists(&self) -> Vec<(Arc<str>, usize)> {
        let rules = self.rules();
        let configured = rules.lists.iter();
        configured
            .map(|list| (Arc::clone(&list.name), list.entries.len()))
            .chain([(ADDED.into(), rules.added.len())])
            .collect()
    }

    /// Who may never be denied.
    pub(crate) fn nevers(&self) -> Vec<Never> {
        self.rules().nevers()
    }

    /// What does not do all it says.
    pub(crate) fn exempted(&self) -> Vec<Exempted> {
        self.in_force.load().exempted().to_vec()
    }

    /// How many networks may be denied.
    pub(crate) fn max(&self) -> usize {
        self.rules().max
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        // They are exchanged as a whole: a panic elsewhere leaves them as they were.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enforces these rules, or leaves all as it is.
    fn put_in_force(&self, rules: &Rules) -> Result<(), DenialError> {
        let added = List {
            name: ADDED.into(),
            entries: rules
                .added
                .iter()
                .map(|(network, added)| Entry {
                    network: *network,
                    until: Some(added.until),
                })
                .collect(),
        };
        let lists = rules.lists.iter().chain([&added]);
        let next = Denied::by(lists, &rules.nevers(), now());
        let networks = next.denials().len();
        if networks > rules.max {
            return Err(DenialError::TooMany {
                networks,
                max: rules.max,
            });
        }
        if let TapSource::Ebpf(tap) = &self.tap {
            tap.deny(rows(&next))?;
        }
        self.in_force.store(Arc::new(next));
        self.changed.notify_one();
        // Who was accepted before this is in the registry by now, or asks `refuses` after it.
        let in_force = self.in_force.load();
        if networks > 0 {
            for connection in self.registry.iter() {
                if in_force.find(connection.peer.address.ip()).is_some() && connection.deny() {
                    self.closed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

impl Rules {
    fn nevers(&self) -> Vec<Never> {
        let admin_peers = self.admin_peers.iter().map(|peer| Never {
            network: Network::of(*peer),
            why: "asks the admin API".into(),
        });
        let configured = self.never.iter().chain(&self.upstreams).cloned();
        configured.chain(admin_peers).collect()
    }
}

/// Each address once, in order, so that two states can be compared.
fn nevers_of(upstreams: Vec<(Arc<str>, IpAddr)>) -> Vec<Never> {
    let by_network: BTreeMap<Network, Arc<str>> = upstreams
        .into_iter()
        .map(|(group, address)| (Network::of(address), group))
        .collect();
    by_network
        .into_iter()
        .map(|(network, group)| Never {
            network,
            why: format!("upstream {group}").into(),
        })
        .collect()
}

fn rows(denied: &Denied) -> impl Iterator<Item = Row> {
    let row = |network: Network, denied| Row {
        first: network.first(),
        bits: network.bits(),
        denied,
    };
    let denials = denied.denials().map(move |(network, _)| row(network, true));
    denials.chain(denied.holes().map(move |network| row(network, false)))
}

fn now() -> Timestamp {
    let now = clock_gettime(ClockId::Realtime);
    Timestamp::from_unix_us(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)
}

#[cfg(test)]
mod tests {
    use calltap_policies::addresses;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    fn denials(list: &str, upstreams: &[&str], max: usize) -> Denials {
        let denials = Denials::new(TapSource::Off, Arc::default());
        let config = DenialsConfig {
            lists: vec![List {
                name: "blocked".into(),
                entries: addresses::read(list).expect("entries"),
            }]
            .into(),
            never: vec![Never {
                network: network("127.0.0.0/8"),
                why: "loopback".into(),
            }],
            max,
        };
        let upstreams = upstreams.iter();
        let upstreams = upstreams.map(|address| ("api".into(), address.parse().expect("one")));
        let configured = denials.configure(&config, upstreams.collect());
        configured.expect("there is room");
        denials
    }

    fn refused(denials: &Denials, addresses: &[&str]) -> Vec<bool> {
        let addresses = addresses.iter();
        let refused = |address: &&str| denials.refuses(address.parse().expect("an address"));
        addresses.map(refused).collect()
    }

    fn said<T: std::fmt::Debug>(denied: Result<T, DenialError>) -> String {
        denied.expect_err("refused").to_string()
    }

    #[test]
    fn a_peer_is_denied_alone_or_with_its_64_and_always_ends() {
        let denials = denials("", &[], 10);
        for (address, denied) in [
            ("198.51.100.7", "198.51.100.7/32"),
            ("2001:db8::1:2:3:4", "2001:db8::/64"),
            ("::ffff:198.51.100.8", "198.51.100.8/32"),
        ] {
            let peer = Proven(address.parse().expect("an address"));
            let told = denials.deny_peer(peer, Duration::MAX, "scan");
            let told = told.expect("there is room");
            assert_eq!(told.network.to_string(), denied);
            assert!(told.denial.until.is_some_and(|until| until > now()));
        }
        let clients = [
            "198.51.100.7",
            "198.51.100.6",
            "2001:db8::9",
            "2001:db8:0:1::9",
        ];
        assert_eq!(refused(&denials, &clients), [true, false, true, false]);
    }

    #[test]
    fn what_may_not_be_denied_or_taken_back_says_why() {
        let denials = denials("203.0.113.0/24", &["10.0.0.9"], 3);
        for (denied, why) in [
            (
                "127.0.0.1",
                "127.0.0.1/32 may never be denied, for 127.0.0.0/8 may not (loopback)",
            ),
            (
                "10.0.0.9",
                "10.0.0.9/32 may never be denied, for 10.0.0.9/32 may not (upstream api)",
            ),
            (
                "203.0.113.0/24",
                "203.0.113.0/24 stands in the list blocked, which only its file and a reload change",
            ),
        ] {
            assert_eq!(said(denials.deny(network(denied), HOUR, "")), why);
        }
        assert_eq!(
            said(denials.allow(network("203.0.113.0/24"))),
            "203.0.113.0/24 stands in the list blocked, which only its file and a reload change"
        );
        assert_eq!(
            said(denials.allow(network("203.0.113.1"))),
            "203.0.113.1/32 was not denied at run time"
        );
        for last in [1, 2] {
            let added = Network::of([198, 51, 100, last].into());
            denials.deny(added, HOUR, "").expect("there is room");
        }
        assert_eq!(
            said(denials.deny(network("198.51.100.3"), HOUR, "")),
            "4 networks would be denied, and policies.deny_max is 3"
        );
        denials
            .allow(network("198.51.100.1"))
            .expect("it was denied");
        let clients = [
            "198.51.100.1",
            "198.51.100.2",
            "198.51.100.3",
            "203.0.113.7",
        ];
        assert_eq!(refused(&denials, &clients), [false, true, false, true]);
        assert_eq!(denials.totals().refused, 2);
    }

    #[test]
    fn who_moves_in_is_let_through_and_who_moves_out_is_not() {
        let denials = denials("0.0.0.0/0", &["10.0.0.9"], 3);
        let clients = ["10.0.0.9", "10.0.0.10", "192.0.2.1"];
        assert_eq!(refused(&denials, &clients), [false, true, true]);
        let moved = vec![("api".into(), [10, 0, 0, 10].into())];
        denials.look(moved).expect("it fits");
        assert_eq!(refused(&denials, &clients), [true, false, true]);
        denials.note_admin_peer([192, 0, 2, 1].into());
        assert_eq!(refused(&denials, &clients), [true, false, false]);
    }
}
