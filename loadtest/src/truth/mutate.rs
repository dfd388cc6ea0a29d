//! Asks the judge whether it would notice: alters records, one way at a time, and judges again.
//!
//! A way of altering is caught if the judge finds something that it did not find in the records as
//! they are. Each way is tried on several records, each on its own: a judge that notices one in ten
//! has not caught it.

use std::collections::{BTreeMap, HashSet};

use anyhow::ensure;
use serde::Serialize;
use serde_json::{Value, json};

use super::evidence::Evidence;
use super::judge::Case;
use super::run::family_name;
use super::verdict::{Times, Verdict};
use crate::records::Record;
use crate::table;

/// Each way is tried on so many records, spread over the run.
const TRIES: usize = 5;

/// Of a run with more records only so many are judged, again and again. That the others are missing
/// is found before as well as after.
const RECORDS_MAX: usize = 1_000;

/// What came of one way of altering records.
#[derive(Clone, Debug, Serialize)]
pub struct Caught {
    /// The scenario.
    pub scenario: String,
    /// The way.
    pub mutation: String,
    /// Records altered, each on its own.
    pub tried: usize,
    /// Of them, those that the judge noticed.
    pub caught: usize,
}

impl Caught {
    /// Whether each was noticed.
    pub fn held(&self) -> bool {
        self.caught == self.tried
    }
}

/// Alters one record, given another; `false` where this one cannot be altered so.
type Alter = Box<dyn Fn(&mut Record, &Record) -> bool>;

/// Tries every way on the records of one run.
pub fn all(evidence: &Evidence) -> anyhow::Result<Vec<Caught>> {
    let mut case = Case::open(evidence)?;
    case.records.truncate(RECORDS_MAX);
    let verdict = case.judge(&case.records, Times::Judged);
    let is_whole = case.records.len() < RECORDS_MAX;
    ensure!(
        verdict.held() || !is_whole,
        "the records disagree with the capture as they are"
    );
    let calm = findings(&verdict);
    let scenario = format!("{} {}", case.scene.scenario, family_name(case.scene.family));
    let notices = |records: &[Record]| {
        let found = findings(&case.judge(records, Times::Judged));
        found.difference(&calm).next().is_some()
    };
    let mut all = Vec::new();
    for (mutation, alter) in ways() {
        let (mut tried, mut caught) = (0, 0);
        let is_told = |record: &Record| {
            // Where packets crossed, the captures tell a number's bounds; one more or less may be both.
            let field = mutation.split(' ').next().unwrap_or_default().to_owned();
            let call = record.call_id().unwrap_or_default().to_owned();
            !verdict.loose.contains(&(call, field))
        };
        for at in candidates(&case.records, &alter, &is_told) {
            let mut records = case.records.clone();
            let other = records[(at + 1) % records.len()].clone();
            alter(&mut records[at], &other);
            tried += 1;
            caught += usize::from(notices(&records));
        }
        if tried > 0 {
            all.push(Caught {
                scenario: scenario.clone(),
                mutation,
                tried,
                caught,
            });
        }
    }
    for (mutation, alter) in in_number() {
        let mut tried = 0;
        let mut caught = 0;
        let calls = case.records.iter().enumerate();
        let calls = calls.filter(|(_, record)| record.kind() == "call");
        let calls: Vec<usize> = calls.map(|(at, _)| at).collect();
        for at in spread(&calls) {
            let mut records = case.records.clone();
            if alter(&mut records, at) {
                tried += 1;
                caught += usize::from(notices(&records));
            }
        }
        if tried > 0 {
            all.push(Caught {
                scenario: scenario.clone(),
                mutation: mutation.to_owned(),
                tried,
                caught,
            });
        }
    }
    Ok(all)
}

/// The table of it.
pub fn render(all: &[Caught]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            vec![
                one.mutation.clone(),
                one.scenario.clone(),
                format!("{}/{}", one.caught, one.tried),
                if one.held() { "" } else { "SLIPPED" }.to_owned(),
            ]
        })
        .collect();
    table::markdown(&["mutation", "scenario", "caught", ""], &rows)
}

/// The ways of altering that no record of these runs allowed.
pub fn never_tried(all: &[Caught]) -> Vec<String> {
    let every = ways().into_iter().map(|(mutation, _)| mutation);
    let every = every.chain(in_number().map(|(mutation, _)| mutation.to_owned()));
    every
        .filter(|mutation| all.iter().all(|one| one.mutation != *mutation))
        .collect()
}

/// The same summed over the runs; those in which something slipped are named.
pub fn render_summary(all: &[Caught]) -> String {
    let mut sums: BTreeMap<&str, (usize, usize, usize, Vec<&str>)> = BTreeMap::new();
    for one in all {
        let (runs, tried, caught, slipped) = sums.entry(&one.mutation).or_default();
        *runs += 1;
        *tried += one.tried;
        *caught += one.caught;
        if !one.held() {
            slipped.push(&one.scenario);
        }
    }
    let rows: Vec<Vec<String>> = sums
        .into_iter()
        .map(|(mutation, (runs, tried, caught, slipped))| {
            vec![
                mutation.to_owned(),
                runs.to_string(),
                format!("{caught}/{tried}"),
                slipped.join(", "),
            ]
        })
        .collect();
    table::markdown(&["altered", "runs", "noticed", "slipped in"], &rows)
}

/// What a judge found, so that it can be told from what it found before.
fn findings(verdict: &Verdict) -> HashSet<(String, String, String, String)> {
    // Both are shown: that somebody looks is all that is asked here.
    let misses = verdict.misses.iter().chain(&verdict.held_up);
    misses
        .map(|miss| {
            let (record, capture) = (miss.record.clone(), miss.capture.clone());
            (miss.call.clone(), miss.field.clone(), record, capture)
        })
        .collect()
}

fn spread(places: &[usize]) -> Vec<usize> {
    let step = places.len().div_ceil(TRIES).max(1);
    places.iter().step_by(step).copied().collect()
}

/// Records that can be altered so, spread over the run.
fn candidates(records: &[Record], alter: &Alter, is_told: &dyn Fn(&Record) -> bool) -> Vec<usize> {
    let can = |at: &usize| {
        let mut record = records[*at].clone();
        let other = &records[(at + 1) % records.len()];
        record.kind() == "call" && is_told(&record) && alter(&mut record, other)
    };
    let places: Vec<usize> = (0..records.len()).filter(can).collect();
    spread(&places)
}

/// Fields of either leg whose number is changed by one.
const BY_ONE: [&str; 14] = [
    "wire.bytes_in",
    "wire.bytes_out",
    "wire.ip_bytes_in",
    "wire.ip_bytes_out",
    "wire.segments_in",
    "wire.segments_out",
    "tcp.retransmits",
    "tcp.retransmitted_bytes",
    "tcp.peer_retransmits",
    "tcp.seq_first",
    "tcp.seq_last",
    "tcp.window_min",
    "ip.ttl_min",
    "tcp.mss",
];

/// Marks that are of a packet.
const MARKS: [&str; 13] = [
    "req_first",
    "req_last",
    "head_arrived",
    "up_connected",
    "up_sent_first",
    "up_sent_last",
    "up_resent_last",
    "up_acked",
    "up_first",
    "up_last",
    "resp_first",
    "resp_last",
    "resp_acked",
];

const PARTS: [&str; 6] = [
    "kernel_wait",
    "gateway",
    "connect",
    "upstream_network",
    "upstream_server",
    "delivery",
];

fn ways() -> Vec<(String, Alter)> {
    let mut ways: Vec<(String, Alter)> = Vec::new();
    let mut add = |name: String, alter: Alter| ways.push((name, alter));
    for leg in ["client", "upstream"] {
        for field in BY_ONE {
            for by in [1, -1] {
                let name = format!("{leg}.{field}");
                let sign = if by > 0 { "+" } else { "-" };
                add(
                    format!("{name} {sign} 1"),
                    Box::new(move |record, _| shift(record, &name, by)),
                );
            }
        }
        let swapped = [
            format!("{leg}.socket.cookie"),
            match leg {
                "client" => "network.peer.port".to_owned(),
                _ => "upstream.local_port".to_owned(),
            },
        ];
        for name in swapped {
            add(
                format!("{name} of another call"),
                Box::new(move |record, other| take(record, other, &name)),
            );
        }
        for (field, values) in [
            ("tcp.close", ["rst_in", "fin_local"]),
            ("tcp.ack_kind", ["pure", "data"]),
            ("tcp.flags", ["ACK", "PSH,ACK,URG"]),
        ] {
            let name = format!("{leg}.{field}");
            add(
                format!("{name} wrong"),
                Box::new(move |record, _| {
                    let other = values
                        .into_iter()
                        .find(|value| record.text(&name) != Some(value));
                    record.get(&name).is_some() && set(record, &name, json!(other))
                }),
            );
        }
        let name = format!("{leg}.attribution");
        add(
            format!("{name} claims exact"),
            Box::new(move |record, _| {
                record.text(&name).is_some_and(|said| said != "exact")
                    && set(record, &name, json!("exact"))
            }),
        );
        let name = format!("{leg}.socket.cookie");
        add(
            format!("{name} absent"),
            Box::new(move |record, _| record.fields_mut().remove(&name).is_some()),
        );
        add(
            format!("{leg} counted nothing"),
            Box::new(move |record, _| {
                let counters = format!("{leg}.wire.");
                let names = record.fields_mut().keys();
                let names = names.filter(|name| name.starts_with(&counters));
                let names: Vec<String> = names.cloned().collect();
                let is_well = record.get("error.type").is_none();
                is_well && !names.is_empty() && names.iter().all(|name| set(record, name, json!(0)))
            }),
        );
        let name = format!("{leg}.wire.bytes_in");
        add(
            format!("{name} absent"),
            Box::new(move |record, _| {
                record.text(&format!("{leg}.attribution")) == Some("exact")
                    && record.fields_mut().remove(&name).is_some()
            }),
        );
    }
    for mark in MARKS {
        let name = format!("timing.{mark}_us");
        add(
            format!("{name} + 200 µs, parts made to fit"),
            Box::new(move |record, _| shift(record, &name, 200) && refit(record)),
        );
    }
    for part in PARTS {
        add(
            format!("time.{part}_us wrong, the sum kept"),
            Box::new(move |record, _| swap_parts(record, part)),
        );
    }
    add(
        "time.gateway_us + 1".to_owned(),
        Box::new(|record, _| shift(record, "time.gateway_us", 1)),
    );
    add(
        "client.syn.mss - 1".to_owned(),
        Box::new(|record, _| shift(record, "client.syn.mss", -1)),
    );
    add(
        "client.syn.options wrong".to_owned(),
        Box::new(|record, _| {
            record.get("client.syn.options").is_some()
                && set(record, "client.syn.options", json!("mss,nop"))
        }),
    );
    add(
        "http.response.status_code wrong".to_owned(),
        Box::new(|record, _| shift(record, "http.response.status_code", 1)),
    );
    add(
        "client.tcp.bytes_acked absent".to_owned(),
        Box::new(|record, _| {
            record.text("client.attribution") == Some("exact")
                && record.get("error.type").is_some()
                && record
                    .fields_mut()
                    .remove("client.tcp.bytes_acked")
                    .is_some()
        }),
    );
    add(
        "upstream.local_port of no connection".to_owned(),
        Box::new(|record, _| {
            record.get("upstream.http.response.status_code").is_some()
                && record.get("upstream.local_port").is_some()
                && set(record, "upstream.local_port", json!(1))
        }),
    );
    add(
        "error.type of an abort".to_owned(),
        Box::new(|record, _| {
            record.get("error.type").is_none()
                && record.number("http.response.status_code") == Some(200)
                && set(record, "error.type", json!("client_abort"))
        }),
    );
    add(
        "response.flags of an abort".to_owned(),
        Box::new(|record, _| {
            record.get("response.flags").is_none()
                && record.number("http.response.status_code") == Some(200)
                && set(record, "response.flags", json!(["client_abort"]))
        }),
    );
    ways
}

/// Alters how many records there are, given the place of one of them.
type AlterAll = fn(&mut Vec<Record>, usize) -> bool;

fn in_number() -> [(&'static str, AlterAll); 4] {
    [
        ("a record missing", |records, at| {
            records.remove(at);
            true
        }),
        ("a record twice", |records, at| {
            let again = records[at].clone();
            records.push(again);
            true
        }),
        ("a record of no call", |records, at| {
            let mut invented = records[at].clone();
            set(&mut invented, "url.query", json!("call=never-asked"));
            records.push(invented);
            true
        }),
        ("two calls' names exchanged", |records, at| {
            // Streams that share a connection are told apart by nothing that a capture shows.
            let is_shared = records[at].text("client.attribution") == Some("shared");
            let cookie = records[at].text("client.socket.cookie");
            let mut others = (1..records.len()).map(|step| (at + step) % records.len());
            let is_apart =
                |next: &usize| !is_shared || records[*next].text("client.socket.cookie") != cookie;
            let Some(next) = others.find(is_apart) else {
                return false;
            };
            let (one, other) = (records[at].clone(), records[next].clone());
            take(&mut records[at], &other, "url.query")
                && take(&mut records[next], &one, "url.query")
        }),
    ]
}

fn set(record: &mut Record, field: &str, value: Value) -> bool {
    record.fields_mut().insert(field.to_owned(), value);
    true
}

fn shift(record: &mut Record, field: &str, by: i64) -> bool {
    let Some(number) = record.get(field).and_then(Value::as_i64) else {
        return false;
    };
    number + by >= 0 && set(record, field, json!(number + by))
}

fn take(record: &mut Record, other: &Record, field: &str) -> bool {
    match other.get(field) {
        Some(value) if record.get(field).is_some_and(|own| own != value) => {
            let value = value.clone();
            set(record, field, value)
        }
        _ => false,
    }
}

/// After a mark was moved: the totals that follow from marks alone, so that nothing but the mark
/// itself gives it away.
fn refit(record: &mut Record) -> bool {
    let mark = |record: &Record, name: &str| {
        let value = record.get(&format!("timing.{name}_us"))?;
        value.as_i64()
    };
    let first = mark(record, "req_first");
    for (end, field) in [("resp_last", "duration_us"), ("resp_acked", "delivered_us")] {
        if let (Some(first), Some(end)) = (first, mark(record, end)) {
            set(record, field, json!((end - first).max(0)));
        }
    }
    if let Some(Ok(parts)) = super::parts::parts(record) {
        let told: Vec<String> = record.parts_us().map(|(part, _)| part.to_owned()).collect();
        for part in told {
            record.fields_mut().remove(&format!("time.{part}_us"));
        }
        for (part, us) in parts {
            set(record, &format!("time.{part}_us"), json!(us));
        }
    }
    true
}

/// Gives a microsecond of one part to another, so that the sum stays right.
fn swap_parts(record: &mut Record, part: &str) -> bool {
    let to = if part == "kernel_wait" {
        "client_send"
    } else {
        "kernel_wait"
    };
    let (from, to) = (format!("time.{part}_us"), format!("time.{to}_us"));
    record.number(&from).is_some_and(|us| us > 0)
        && record.number(&to).is_some()
        && shift(record, &from, -1)
        && shift(record, &to, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;

    #[test]
    fn a_way_that_does_not_fit_leaves_the_record_alone() {
        let parsed = Records::parse(b"{\"client.wire.bytes_in\":0}\n");
        let record = &parsed.records[0];
        let mut altered = record.clone();
        assert!(!shift(&mut altered, "client.wire.bytes_in", -1));
        assert!(!shift(&mut altered, "client.wire.bytes_out", 1));
        assert!(!take(&mut altered, record, "client.wire.bytes_in"));
        assert_eq!(altered.json(), record.json());
        assert!(shift(&mut altered, "client.wire.bytes_in", 1));
        assert_ne!(altered.json(), record.json());
    }

    #[test]
    fn what_is_tried_is_spread_over_the_run() {
        let places: Vec<usize> = (0..100).collect();
        assert_eq!(spread(&places), [0, 20, 40, 60, 80]);
        assert_eq!(spread(&[7]), [7]);
    }
}
