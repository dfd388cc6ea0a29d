//! Measures rows: everybody in turn, in many short rounds.
//!
//! Machines drift, so only what was measured in the same round is compared, and every row's subjects
//! run side by side, idle but for the one whose turn it is. The order turns with the rounds, so that
//! nobody always comes after the same neighbour.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::certificate::Certificate;
use crate::compare::books::Memory;
use crate::compare::kernel::{self, Program};
use crate::compare::load::{self, Load};
use crate::compare::place::Place;
use crate::compare::rows::{DEFAULT, Row, Stand};
use crate::compare::statistics::{Estimate, median};
use crate::compare::subject::{Binaries, Configured, Subject, Variant};
use crate::truth::evidence::Family;
use crate::truth::ground::Ground;
use crate::truth::relay::{Bend, Leg, Relay};

/// Half of the far row's round trip.
const ONE_WAY: Duration = Duration::from_millis(25);
/// Of a far cable.
const MTU: u16 = 1_500;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of the default row.
    pub rounds: usize,
    /// Rounds of each other row.
    pub rounds_elsewhere: usize,
    /// How long one measurement takes.
    pub window: Duration,
}

impl Effort {
    fn rounds(&self, row: &Row) -> usize {
        if row.name == DEFAULT {
            self.rounds
        } else {
            self.rounds_elsewhere
        }
    }
}

/// What was found in one row.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The row's name.
    pub row: &'static str,
    /// Everybody who was measured.
    pub cells: Vec<Cell>,
    /// The run time of calltap's BPF programs, in a round of its own.
    pub programs: Vec<Program>,
}

/// One subject in one row.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// Who.
    pub variant: Variant,
    /// Processor time per call of every round, µs: user and system time of all processes.
    pub used_us: Vec<f64>,
    /// What is to be added to each for BPF programs, µs.
    pub programs_us: f64,
    /// Calls per second of every round.
    pub calls_per_s: Vec<f64>,
    /// Resident under load, at the end of each round.
    pub resident_bytes: Vec<f64>,
    /// Why there is nothing, if so.
    pub failed: Option<String>,
}

/// What became of the records of one calltap.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    /// Who.
    pub variant: Variant,
    /// The rows it served.
    pub rows: Vec<&'static str>,
    /// Calls begun.
    pub accepted: u64,
    /// Records written.
    pub written: u64,
    /// Records dropped, for any reason.
    pub dropped: u64,
}

impl Cell {
    /// Nothing measured yet.
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            used_us: Vec::new(),
            programs_us: 0.0,
            calls_per_s: Vec::new(),
            resident_bytes: Vec::new(),
            failed: None,
        }
    }

    /// What a call costs, of every round, µs: all processes and BPF programs.
    pub fn cost_us(&self) -> Vec<f64> {
        let all = |used: &f64| used + self.programs_us;
        self.used_us.iter().map(all).collect()
    }

    fn fail(&mut self, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        *self = Self {
            failed: Some(reason),
            ..Self::new(self.variant)
        };
    }
}

impl Found {
    /// A subject's cell.
    pub fn cell(&self, variant: Variant) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.variant == variant)
    }

    /// What a call costs with `variant`, round by round; empty if it was not measured.
    pub fn cost_us(&self, variant: Variant) -> Vec<f64> {
        self.cell(variant).map(Cell::cost_us).unwrap_or_default()
    }

    /// What `variant` costs more than the same gateway that writes nothing, round by round.
    pub fn added_us(&self, variant: Variant) -> Vec<f64> {
        let base = variant.base().map(|base| self.cost_us(base));
        pairs(
            &self.cost_us(variant),
            &base.unwrap_or_default(),
            |on, off| on - off,
        )
    }

    /// Median calls per second.
    pub fn calls_per_s(&self, variant: Variant) -> Option<f64> {
        let cell = self.cell(variant)?;
        Estimate::of(&cell.calls_per_s).map(|estimate| estimate.median)
    }
}

/// Combines what was measured in the same rounds.
pub fn pairs(left: &[f64], right: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let both = left.iter().zip(right);
    both.map(|(left, right)| combine(*left, *right)).collect()
}

/// Where a row is played.
pub struct Grounds {
    /// Where subjects are.
    pub place: Place,
    /// Where the load comes from.
    pub client: Place,
    // Dropped in this order.
    _relay: Option<Relay>,
    _ground: Option<Ground>,
}

impl Grounds {
    /// On loopback.
    pub fn loopback() -> Self {
        Self {
            place: Place::loopback(),
            client: Place::loopback(),
            _relay: None,
            _ground: None,
        }
    }

    fn of(stand: Stand) -> anyhow::Result<Self> {
        if stand != Stand::Far {
            return Ok(Self::loopback());
        }
        let ground = Ground::build(MTU)?;
        ground.weather(&Relay::rules(&[Leg::Front]))?;
        let bend = Bend {
            delay: ONE_WAY,
            ..Bend::default()
        };
        let relay = Relay::start(&ground, Leg::Front, Family::V4, bend)?;
        let address = Ground::front_address(Family::V4);
        let at = |namespace: &crate::lab::Namespace| Place {
            namespace: Some(namespace.clone()),
            address,
        };
        Ok(Self {
            place: at(&ground.gateway),
            client: at(&ground.client),
            _relay: Some(relay),
            _ground: Some(ground),
        })
    }
}

/// Measures `rows` with `variants`. What cannot be measured is named in its cell, and on standard
/// error at once.
pub fn measure(
    rows: &[Row],
    variants: &[Variant],
    binaries: &Binaries,
    effort: Effort,
) -> anyhow::Result<(Vec<Found>, Vec<Kept>)> {
    let (mut found, mut kept) = (Vec::new(), Vec::new());
    for rows in rows.chunk_by(|one, next| one.stand.side_by_side(next.stand)) {
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        eprintln!("measuring: {}", names.join(", "));
        let (more, records) = side_by_side(rows, variants, binaries, effort)
            .with_context(|| format!("rows {}", names.join(", ")))?;
        found.extend(more);
        kept.extend(records);
    }
    Ok((found, kept))
}

fn side_by_side(
    rows: &[Row],
    variants: &[Variant],
    binaries: &Binaries,
    effort: Effort,
) -> anyhow::Result<(Vec<Found>, Vec<Kept>)> {
    let grounds = Grounds::of(rows[0].stand)?;
    let certificate = Certificate::new()?;
    let mut subjects: BTreeMap<Stand, Vec<Subject>> = BTreeMap::new();
    for row in rows {
        let Entry::Vacant(place) = subjects.entry(row.stand) else {
            continue;
        };
        place.insert(stand(
            row.stand,
            variants,
            binaries,
            &grounds.place,
            &certificate,
        )?);
    }
    let mut found: Vec<Found> = rows
        .iter()
        .map(|row| Found {
            row: row.name,
            cells: variants.iter().copied().map(Cell::new).collect(),
            programs: Vec::new(),
        })
        .collect();
    let rounds = rows.iter().map(|row| effort.rounds(row)).max();
    for round in 0..rounds.unwrap_or_default() {
        for (row, found) in rows.iter().zip(&mut found) {
            if round >= effort.rounds(row) {
                continue;
            }
            let subjects = &subjects[&row.stand];
            for step in 0..subjects.len() {
                let at = (step + round) % subjects.len();
                let cell = &mut found.cells[at];
                if cell.failed.is_some() {
                    continue;
                }
                if let Err(error) = turn(cell, &subjects[at], &grounds.client, row.load, effort) {
                    eprintln!("{}, {}: {error:#}", row.name, cell.variant.name());
                    cell.fail(&error);
                }
            }
        }
    }
    for (row, found) in rows.iter().zip(&mut found) {
        let tapped = subjects[&row.stand]
            .iter()
            .find(|subject| subject.variant == Variant::ON);
        let Some(tapped) = tapped else { continue };
        found.programs = programs(tapped, &grounds.client, row.load, effort)
            .with_context(|| format!("{}: BPF programs", row.name))?;
        let ns: f64 = found.programs.iter().map(|one| one.ns_per_call).sum();
        let cell = found
            .cells
            .iter_mut()
            .find(|cell| cell.variant == Variant::ON);
        if let Some(cell) = cell {
            cell.programs_us = ns / 1e3;
        }
    }
    let mut kept = Vec::new();
    for (stand, subjects) in &subjects {
        let rows = rows.iter().filter(|row| row.stand == *stand);
        let rows: Vec<&'static str> = rows.map(|row| row.name).collect();
        for subject in subjects {
            for stages in subject.stages()? {
                if stages.kind == "call" {
                    kept.push(Kept {
                        variant: subject.variant,
                        rows: rows.clone(),
                        accepted: stages.accepted,
                        written: stages.written,
                        dropped: stages.dropped_total(),
                    });
                }
            }
        }
    }
    Ok((found, kept))
}

fn stand(
    stand: Stand,
    variants: &[Variant],
    binaries: &Binaries,
    place: &Place,
    certificate: &Certificate,
) -> anyhow::Result<Vec<Subject>> {
    let configured = Configured {
        routes: match stand {
            Stand::Routes(count) => count,
            Stand::Plain | Stand::Crowd | Stand::Tls | Stand::Far => 0,
        },
        certificate: (stand == Stand::Tls).then_some(certificate),
        ..Configured::plain(place)
    };
    let start = |variant: &Variant| {
        Subject::start(*variant, binaries, configured).with_context(|| variant.name())
    };
    variants.iter().map(start).collect()
}

fn turn(
    cell: &mut Cell,
    subject: &Subject,
    client: &Place,
    load: Load,
    effort: Effort,
) -> anyhow::Result<()> {
    let mut memory = Memory::default();
    let look = || {
        memory = Memory::now(subject.pid())?;
        Ok(())
    };
    let measured = load::measure(subject, client, load, effort.window, look)?;
    cell.used_us.push(measured.us_per_call());
    cell.calls_per_s.push(measured.calls_per_s());
    cell.resident_bytes.push(memory.resident_bytes as f64);
    Ok(())
}

/// The run times of calltap's BPF programs. Measuring them costs time, so nothing else is measured
/// meanwhile.
fn programs(
    subject: &Subject,
    client: &Place,
    load: Load,
    effort: Effort,
) -> anyhow::Result<Vec<Program>> {
    let _measured = kernel::measure_programs()?;
    let mut rounds: Vec<Vec<Program>> = Vec::new();
    for _ in 0..3 {
        let mut times = Vec::new();
        let look = || {
            times.push(kernel::run_times(subject.pid())?);
            Ok(())
        };
        let measured = load::measure(subject, client, load, effort.window, look)?;
        let [first, last] = times.as_slice() else {
            bail!("looked {} times instead of twice", times.len());
        };
        rounds.push(kernel::programs(first, last, measured.calls));
    }
    let named = |name: &str, value: &dyn Fn(&Program) -> f64| {
        let of = |round: &Vec<Program>| round.iter().find(|one| one.name == name).map(value);
        median(&rounds.iter().filter_map(of).collect::<Vec<_>>())
    };
    let names: Vec<String> = rounds[0].iter().map(|one| one.name.clone()).collect();
    Ok(names
        .into_iter()
        .map(|name| Program {
            runs_per_call: named(&name, &|one| one.runs_per_call),
            ns_per_call: named(&name, &|one| one.ns_per_call),
            name,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_taken_round_by_round() {
        let cell = |variant, used_us: &[f64], programs_us| Cell {
            used_us: used_us.to_vec(),
            programs_us,
            ..Cell::new(variant)
        };
        let found = Found {
            row: DEFAULT,
            cells: vec![
                cell(Variant::OFF, &[10.0, 20.0, 30.0], 0.0),
                cell(Variant::ON, &[14.0, 23.0, 33.0], 1.0),
            ],
            programs: Vec::new(),
        };
        assert_eq!(found.added_us(Variant::ON), [5.0, 4.0, 4.0]);
        assert!(found.added_us(Variant::NGINX_ON).is_empty());
    }
}
