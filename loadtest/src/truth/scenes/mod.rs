//! All scenarios: what is played, in what, and how.

use crate::truth::evidence::Family;
use crate::truth::stage::{Play, Setting};

mod plain;

/// One scenario.
pub struct Scenario {
    /// Its name, the same everywhere.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// With which addresses it is played.
    pub families: &'static [Family],
    /// About how long one run takes beside its fixed cost, in seconds.
    pub seconds: u32,
    /// Whether it is cheap and telling enough for the everyday tests.
    pub in_tests: bool,
    /// In what it is played.
    pub setting: fn() -> Setting,
    /// What the clients do.
    pub play: fn(&Play<'_>) -> anyhow::Result<()>,
}

/// Every family.
const ALL: &[Family] = &[Family::V4, Family::V6, Family::Mapped];

/// All of them, the simplest first.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "keep-alive",
    about: "calls one after the other on connections that stay",
    families: ALL,
    seconds: 2,
    in_tests: true,
    setting: Setting::default,
    play: plain::keep_alive,
}];
