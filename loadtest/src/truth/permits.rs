//! The committed table of what may be less than exact: scenario × leg × attribution.

use anyhow::{Context as _, ensure};
use serde::Deserialize;

const TABLE: &str = include_str!("permits.toml");

/// The table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Permits {
    permit: Vec<Permit>,
}

/// One row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Permit {
    scenario: String,
    leg: Leg,
    pub(crate) attribution: Attribution,
    /// Why it may be so; empty for `exact`.
    #[serde(default)]
    pub(crate) reasons: Vec<String>,
    /// Only of calls that were the first on their connection.
    #[serde(default)]
    pub(crate) first_calls_only: bool,
    /// Of the scenario's calls, the least and the most.
    pub(crate) share: (f64, f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Leg {
    Client,
    Upstream,
}

impl Leg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Leg::Client => "client",
            Leg::Upstream => "upstream",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Attribution {
    Exact,
    Shared,
    Partial,
}

impl Attribution {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Attribution::Exact => "exact",
            Attribution::Shared => "shared",
            Attribution::Partial => "partial",
        }
    }
}

impl Permits {
    /// The table that is part of this program.
    pub(crate) fn read() -> anyhow::Result<Self> {
        Self::parse(TABLE).context("permits.toml")
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let permits: Self = toml::from_str(text)?;
        for permit in &permits.permit {
            let (least, most) = permit.share;
            let at = format!("{} {}", permit.scenario, permit.leg.name());
            ensure!(0.0 <= least && least <= most && most <= 1.0, "{at}: share");
            let has_reason = !permit.reasons.is_empty();
            ensure!(
                has_reason == (permit.attribution != Attribution::Exact),
                "{at}: what is exact needs no reason, and all else does"
            );
        }
        Ok(permits)
    }

    /// The rows of one leg; where there are none, everything must be exact.
    pub(crate) fn of(&self, scenario: &str, leg: Leg) -> Vec<Permit> {
        let mine = |permit: &&Permit| permit.scenario == scenario && permit.leg == leg;
        let rows: Vec<Permit> = self.permit.iter().filter(mine).cloned().collect();
        if !rows.is_empty() {
            return rows;
        }
        vec![Permit {
            scenario: scenario.to_owned(),
            leg,
            attribution: Attribution::Exact,
            reasons: Vec::new(),
            first_calls_only: false,
            share: (1.0, 1.0),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_table_is_sound() {
        Permits::read().unwrap();
    }

    #[test]
    fn what_is_not_mentioned_must_be_exact() {
        let permits = Permits::read().unwrap();
        let rows = permits.of("a scenario nobody thought of", Leg::Upstream);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].attribution, Attribution::Exact);
        assert_eq!(rows[0].share, (1.0, 1.0));
    }

    #[test]
    fn a_row_without_its_reason_is_refused() {
        let row = "[[permit]]\nscenario = \"a\"\nleg = \"client\"\nattribution = \"partial\"\n\
                   share = [0.0, 0.1]\n";
        assert!(Permits::parse(row).is_err());
    }
}
