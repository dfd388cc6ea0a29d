//! The rows of the comparison: which load, and how those under it are configured.

use crate::compare::load::{Load, Way};

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As the tables and `--only` have it.
    pub name: &'static str,
    /// The load.
    pub load: Load,
    /// Who is under it.
    pub stand: Stand,
}

/// A set of subjects, all configured alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stand {
    /// On loopback, with one route.
    Plain,
    /// The same, for itself: what many connections need once stays resident.
    Crowd,
    /// With TLS on the first listener.
    Tls,
    /// With so many routes more.
    Routes(u32),
    /// Behind a network of 50 ms there and back.
    Far,
}

/// The row that the first verdicts are about.
pub const DEFAULT: &str = "32 connections, 100 B";
/// The row with the most connections.
pub const CROWD: &str = "4,000 connections";
/// The row with few routes.
pub const FEW_ROUTES: &str = "10 routes";
/// The row with many routes.
pub const MANY_ROUTES: &str = "1,000 routes";

/// What every other row differs from.
const PLAIN: Load = Load {
    connections: 32,
    path: "/",
    way: Way::Http1,
};

/// All rows; those on stands of one kind are next to each other and measured in turn.
pub const ROWS: [Row; 11] = [
    plain(DEFAULT, PLAIN),
    plain(
        "1 connection",
        Load {
            connections: 1,
            ..PLAIN
        },
    ),
    crowd("1,000 connections", 1_000),
    crowd(CROWD, 4_000),
    plain(
        "bodies of 10 KB",
        Load {
            path: "/bodies/10k",
            ..PLAIN
        },
    ),
    plain(
        "bodies of 1 MB",
        Load {
            path: "/bodies/1m",
            ..PLAIN
        },
    ),
    plain(
        "HTTP/2, 4 connections with 8 calls each",
        Load {
            connections: 4,
            way: Way::H2c(8),
            ..PLAIN
        },
    ),
    Row {
        name: "TLS",
        load: Load {
            way: Way::Tls,
            ..PLAIN
        },
        stand: Stand::Tls,
    },
    routes(FEW_ROUTES, 10),
    routes(MANY_ROUTES, 1_000),
    Row {
        name: "50 ms round trip, 128 connections",
        load: Load {
            connections: 128,
            ..PLAIN
        },
        stand: Stand::Far,
    },
];

const fn plain(name: &'static str, load: Load) -> Row {
    Row {
        name,
        load,
        stand: Stand::Plain,
    }
}

const fn crowd(name: &'static str, connections: u32) -> Row {
    Row {
        name,
        load: Load {
            connections,
            ..PLAIN
        },
        stand: Stand::Crowd,
    }
}

const fn routes(name: &'static str, count: u32) -> Row {
    Row {
        name,
        load: Load {
            way: Way::Routes(count),
            ..PLAIN
        },
        stand: Stand::Routes(count),
    }
}

impl Stand {
    /// Stands whose rows are measured in turn with each other.
    pub fn side_by_side(self, other: Self) -> bool {
        use Stand::{Crowd, Far, Plain, Routes, Tls};
        match (self, other) {
            (Plain | Crowd, Plain | Crowd) | (Tls, Tls) | (Far, Far) | (Routes(_), Routes(_)) => {
                true
            }
            (Plain | Crowd | Tls | Far | Routes(_), _) => false,
        }
    }
}
