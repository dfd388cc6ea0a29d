//! What is unusual: the detectors, one file each, and the models they share.
//!
//! A detector keeps a small model with a fixed state for each of its keys, and says of what it sees how
//! likely so much would be in usual traffic. It never says so of a key it does not know well enough, and
//! hardly learns from what it finds unlikely.

mod auth_account;
mod auth_failures;
mod auth_spray;
mod client_rate;
mod cost_share;
mod injection;
mod network_shift;
mod novelty;
mod object_enumeration;
mod overlapping_ranges;
mod regularity;
mod route_errors;
mod route_latency;
mod route_rate;
mod route_size;
mod scraping;
mod sequence;
mod stack_change;
mod token_sharing;
mod unknown_paths;

pub mod series;

mod call;
mod detectors;
mod distinct;
mod evidence;
mod population;
mod shift;
mod sketch;
mod table;

use crate::alert::{Blame, Severity};

pub use detectors::{Bounds, Detectors};
pub(crate) use evidence::{Evidence, Share, log_ratio};
pub(crate) use table::Table;
pub use table::TableUsage;

/// A detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "DETECTORS says what each is")]
pub enum Detector {
    RouteRate,
    RouteErrors,
    RouteLatency,
    RouteSize,
    ClientRate,
    CostShare,
    ObjectEnumeration,
    AuthFailures,
    AuthSpray,
    AuthAccount,
    UnknownPaths,
    Scraping,
    Regularity,
    Sequence,
    Novelty,
    TokenSharing,
    Injection,
    OverlappingRanges,
    NetworkShift,
    StackChange,
    SlowRequest,
    SlowRead,
    HalfOpen,
    ListenerScan,
    SynFlood,
    ConnectionChurn,
}

/// What is to be known of a detector.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Which it is.
    pub detector: Detector,
    /// Its name in configuration, alerts and metrics.
    pub name: &'static str,
    /// How bad it is if it is true.
    pub severity: Severity,
    /// Who is to blame by the nature of the thing; absent where the time of the calls tells.
    pub blame: Option<Blame>,
    /// What it means, in a sentence without a full stop.
    pub meaning: &'static str,
}

impl Detector {
    /// What is to be known of it.
    pub fn info(self) -> &'static Info {
        &DETECTORS[self as usize]
    }

    /// Whether its alerts are about a client that proved its address.
    pub fn names_client(self) -> bool {
        match self {
            Self::RouteRate
            | Self::RouteErrors
            | Self::RouteLatency
            | Self::RouteSize
            | Self::Novelty
            | Self::AuthSpray
            | Self::AuthAccount
            | Self::TokenSharing
            | Self::Sequence
            | Self::NetworkShift
            | Self::HalfOpen
            | Self::SynFlood => false,
            Self::ClientRate
            | Self::CostShare
            | Self::ObjectEnumeration
            | Self::AuthFailures
            | Self::UnknownPaths
            | Self::Scraping
            | Self::Regularity
            | Self::Injection
            | Self::OverlappingRanges
            | Self::StackChange
            | Self::SlowRequest
            | Self::SlowRead
            | Self::ListenerScan
            | Self::ConnectionChurn => true,
        }
    }

    /// By its name.
    pub fn by_name(name: &str) -> Option<Self> {
        let info = DETECTORS.iter().find(|info| info.name == name);
        info.map(|info| info.detector)
    }
}

macro_rules! detectors {
    ($($detector:ident $name:literal $severity:ident $blame:expr, $meaning:literal;)*) => {
        /// Every detector, in the order of [`Detector`].
        pub const DETECTORS: [Info; [$($name),*].len()] = [$(Info {
            detector: Detector::$detector,
            name: $name,
            severity: Severity::$severity,
            blame: $blame,
            meaning: $meaning,
        }),*];
    };
}

const CLIENT: Option<Blame> = Some(Blame::Client);

detectors! {
    RouteRate "route_rate" Warning None, "a route is called far more or far less than it usually is";
    RouteErrors "route_errors" Critical None, "a larger share of a route's calls fails than usual";
    RouteLatency "route_latency" Warning None, "one part of the time of a route's calls is longer than usual";
    RouteSize "route_size" Warning Some(Blame::Application), "a route's requests or responses are larger or smaller than usual";
    ClientRate "client_rate" Warning CLIENT, "a client calls far more often than clients do";
    CostShare "cost_share" Warning CLIENT, "a client takes a far larger share of the upstream's time than clients do";
    ObjectEnumeration "object_enumeration" Critical CLIENT, "a client asks for many objects of one kind, one after the other";
    AuthFailures "auth_failures" Critical CLIENT, "one client is refused again and again: a password or a key is being guessed";
    AuthSpray "auth_spray" Critical CLIENT, "many clients are refused, each a few times: stolen passwords are being tried";
    AuthAccount "auth_account" Critical CLIENT, "one account is refused from many addresses";
    UnknownPaths "unknown_paths" Warning CLIENT, "a client asks for many paths that do not exist: it is looking for something";
    Scraping "scraping" Warning CLIENT, "a client takes far more data or far more objects than clients do";
    Regularity "regularity" Info CLIENT, "a client that acts like a person calls as evenly as a machine";
    Sequence "sequence" Info CLIENT, "a client calls operations in an order in which nobody calls them";
    Novelty "novelty" Info None, "a route, a status or a kind of client that was not seen before";
    TokenSharing "token_sharing" Warning CLIENT, "one consumer's credentials are used from addresses that are not its own";
    Injection "injection" Critical CLIENT, "a request carries what looks like code: SQL, a script, a path out of a directory";
    OverlappingRanges "overlapping_ranges" Critical CLIENT, "a client asks for many overlapping ranges of one thing: a small request for a large answer";
    NetworkShift "network_shift" Warning Some(Blame::Network), "packets to a client's network are lost or delayed more than usual";
    StackChange "stack_change" Info CLIENT, "one address shows another TCP or TLS stack than before: somebody else is behind it, or it pretends";
    SlowRequest "slow_request" Critical CLIENT, "a client keeps connections open by sending its requests as slowly as it can";
    SlowRead "slow_read" Critical CLIENT, "a client keeps responses waiting by not reading them";
    HalfOpen "half_open" Warning CLIENT, "a source begins connections and never completes them: a port scan";
    ListenerScan "listener_scan" Warning CLIENT, "a client connects to one listener after the other and calls none: a port scan";
    SynFlood "syn_flood" Critical CLIENT, "a listener gets far more SYNs than connections: a flood, probably with forged addresses";
    ConnectionChurn "connection_churn" Warning CLIENT, "a client opens and closes connections far more often than it calls";
}

#[cfg(test)]
mod tests;
