//! Holds the calls that were made against the records that were written, and says what they tell.
//!
//! Pure: calls and records in, a verdict and its text out.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::tail::clean::clean;
use crate::tail::line::{bar, duration, legend};
use crate::tail::paint::{Ink, Paint};
use crate::tail::view::{Part, View};

use super::callers::{End, Made};

/// Calls listed by name at most; the counts are of all.
const NAMED_MAX: usize = 5;

/// Everything learned during the demonstration.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    calls: HashMap<String, Made>,
    records: HashMap<String, Vec<View>>,
    /// Connections that never carried a call.
    connections: usize,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    kind: &'static str,
    /// Calls that should have been made.
    planned: usize,
    /// Calls that were made.
    calls: usize,
    /// Records of calls.
    records: usize,
    /// Calls without a record.
    missing: Vec<Named>,
    /// Calls with more than one.
    repeated: Vec<Named>,
    /// Calls whose record tells another status than their caller saw.
    disagreeing: Vec<Named>,
    /// Records of calls that nobody made.
    unexpected: usize,
    /// Calls that were not made because the gateway could not be reached.
    not_made: Vec<Named>,
    /// Records of connections that never carried a call.
    connections: usize,
    coverage: BTreeMap<String, usize>,
    attribution: BTreeMap<String, usize>,
    settled: BTreeMap<String, usize>,
    /// By class: `2xx`, or `none` where there was no answer.
    statuses: BTreeMap<String, usize>,
    /// Calls their caller left on purpose.
    aborts: usize,
    /// Responses that ended too early, as the caller saw them.
    broken: usize,
    /// Segments sent more than once, by either side.
    retransmits: Retransmits,
    routes: Vec<RouteSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slowest: Option<Slowest>,
    tap: TapSummary,
    /// Whether every call has exactly one record, and none tells another story than its caller.
    passed: bool,
}

/// A call, to be looked for.
#[derive(Debug, Serialize)]
struct Named {
    request_id: String,
    call: String,
    /// Why it was not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Retransmits {
    client: u64,
    upstream: u64,
}

/// The calls of one route.
#[derive(Debug, Serialize)]
struct RouteSummary {
    method: String,
    route: String,
    calls: usize,
    mean_us: u64,
    slowest_us: u64,
    /// Where the time went on average, of the calls that say.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_time_us: Option<BTreeMap<&'static str, u64>>,
    #[serde(skip)]
    parts: Option<[u64; Part::ALL.len()]>,
}

#[derive(Debug, Serialize)]
struct Slowest {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    total_us: u64,
    sentence: String,
}

/// How the gateway watched.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TapSummary {
    /// `ebpf`, `tcp_info`, `off`.
    pub(crate) mode: String,
    /// Why it is not `ebpf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl Tally {
    /// A call was made.
    pub(crate) fn made(&mut self, call: Made) {
        self.calls.insert(call.id.clone(), call);
    }

    /// A record was written.
    pub(crate) fn recorded(&mut self, view: View) {
        if view.is_call() {
            let id = view.request_id.clone().unwrap_or_default();
            self.records.entry(id).or_default().push(view);
        } else if view.kind.as_deref() == Some("connection") {
            self.connections += 1;
        }
    }

    /// Whether every call made so far has a record.
    pub(crate) fn is_complete(&self) -> bool {
        self.calls
            .values()
            .all(|call| was_not_made(call) || self.records.contains_key(&call.id))
    }

    /// Draws the balance. `calls` is how many there should be.
    pub(crate) fn summary(&self, calls: usize, tap: TapSummary, paint: Paint) -> Summary {
        let mut made: Vec<&Made> = self.calls.values().collect();
        made.sort_by(|a, b| a.id.cmp(&b.id));
        let records: Vec<&View> = self.records.values().flatten().collect();
        let records_of = |call: &Made| self.records.get(&call.id).map_or(&[][..], Vec::as_slice);

        let named = |wanted: &dyn Fn(&Made) -> bool| -> Vec<Named> {
            made.iter()
                .filter(|call| wanted(call))
                .map(|call| Named {
                    request_id: call.id.clone(),
                    call: call.what.clone(),
                    reason: match &call.end {
                        End::NotMade(why) => Some(why.clone()),
                        _ => None,
                    },
                })
                .collect()
        };
        let missing = named(&|call| !was_not_made(call) && records_of(call).is_empty());
        let repeated = named(&|call| records_of(call).len() > 1);
        let disagreeing = named(&|call| {
            call.status.is_some()
                && records_of(call)
                    .iter()
                    .any(|record| record.status != call.status)
        });
        let unexpected = self
            .records
            .iter()
            .filter(|(id, _)| !self.calls.contains_key(*id))
            .map(|(_, views)| views.len())
            .sum();
        let not_made = named(&|call| was_not_made(call));
        let passed = made.len() == calls
            && missing.is_empty()
            && repeated.is_empty()
            && disagreeing.is_empty()
            && not_made.is_empty()
            && unexpected == 0;

        let mut retransmits = Retransmits::default();
        for record in &records {
            let (client, upstream) = record.retransmits();
            retransmits.client += client;
            retransmits.upstream += upstream;
        }
        Summary {
            kind: "summary",
            planned: calls,
            calls: made.len() - not_made.len(),
            records: records.len(),
            missing,
            repeated,
            disagreeing,
            unexpected,
            not_made,
            connections: self.connections,
            coverage: count(&records, |record| record.coverage.clone()),
            attribution: count(&records, |record| record.attribution.clone()),
            settled: count(&records, |record| record.settled.clone()),
            statuses: count(&records, |record| {
                record.status.map(|code| format!("{}xx", code / 100))
            }),
            aborts: made.iter().filter(|call| call.end == End::Left).count(),
            broken: made
                .iter()
                .filter(|call| matches!(call.end, End::Broken(_)))
                .count(),
            retransmits,
            routes: routes(&records),
            slowest: slowest(&records, paint),
            tap,
            passed,
        }
    }
}

fn was_not_made(call: &Made) -> bool {
    matches!(call.end, End::NotMade(_))
}

fn count(records: &[&View], name: impl Fn(&View) -> Option<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        let name = name(record).unwrap_or_else(|| "none".to_owned());
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

fn routes(records: &[&View]) -> Vec<RouteSummary> {
    let mut by_route: BTreeMap<(&str, &str), Vec<&View>> = BTreeMap::new();
    for record in records {
        let route = record.place().unwrap_or("-");
        let method = record.method.as_deref().unwrap_or("-");
        by_route.entry((route, method)).or_default().push(record);
    }
    by_route
        .into_iter()
        .map(|((route, method), calls)| {
            let totals: Vec<u64> = calls.iter().filter_map(|call| call.total_us()).collect();
            let timed: Vec<[u64; Part::ALL.len()]> =
                calls.iter().filter_map(|call| call.parts()).collect();
            let parts = (!timed.is_empty()).then(|| {
                let mut means = [0; Part::ALL.len()];
                for (index, mean) in means.iter_mut().enumerate() {
                    *mean = mean_of(timed.iter().map(|parts| parts[index]), timed.len());
                }
                means
            });
            RouteSummary {
                method: method.to_owned(),
                route: route.to_owned(),
                calls: calls.len(),
                mean_us: mean_of(totals.iter().copied(), totals.len()),
                slowest_us: totals.iter().copied().max().unwrap_or(0),
                mean_time_us: parts.map(|parts| {
                    Part::ALL
                        .into_iter()
                        .zip(parts)
                        .map(|(part, us)| (part.name(), us))
                        .collect()
                }),
                parts,
            }
        })
        .collect()
}

fn mean_of(values: impl Iterator<Item = u64>, count: usize) -> u64 {
    let sum: u128 = values.map(u128::from).sum();
    let mean = sum / (count.max(1) as u128);
    u64::try_from(mean).unwrap_or(u64::MAX)
}

fn slowest(records: &[&View], paint: Paint) -> Option<Slowest> {
    let (total_us, view) = records
        .iter()
        .filter_map(|view| Some((view.total_us()?, view)))
        .max_by_key(|(total, _)| *total)?;
    Some(Slowest {
        uid: view.uid.clone(),
        total_us,
        sentence: explain(view, paint),
    })
}

/// One sentence on where the time of a call went.
pub(crate) fn explain(view: &View, paint: Paint) -> String {
    let name = format!(
        "{} {}",
        clean(view.method.as_deref().unwrap_or("a call")),
        clean(view.path.as_deref().or(view.place()).unwrap_or("")),
    );
    let total = view.total_us().unwrap_or(0);
    let answer = view
        .status
        .map_or_else(|| "no answer".to_owned(), |code| format!("answered {code}"));
    let begin = format!("{name} ({answer}) took {}", duration(total, paint));
    let Some(parts) = view.parts().filter(|parts| parts.iter().any(|us| *us > 0)) else {
        return format!(
            "{begin}, as the gateway measured it; without the kernel's marks nobody can say where"
        );
    };
    let sum: u64 = parts.iter().sum();
    let mut ranked: Vec<(Part, u64)> = Part::ALL.into_iter().zip(parts).collect();
    ranked.sort_by_key(|(_, us)| std::cmp::Reverse(*us));
    let share = |us: u64| format!("{:.0} %", us as f64 * 100.0 / sum as f64);
    let (first, first_us) = ranked[0];
    let (second, second_us) = ranked[1];
    let mut sentence = format!("{begin}: for {} of it {}", share(first_us), doing(first));
    if second_us * 10 >= sum {
        sentence.push_str(&format!(", for {} {}", share(second_us), doing(second)));
    }
    if let Some(closed) = view.zero_window_us.filter(|us| *us > 0) {
        sentence.push_str(&format!(
            "; the client's window was closed for {}",
            duration(closed, paint)
        ));
    }
    sentence
}

fn doing(part: Part) -> &'static str {
    match part {
        Part::ClientSend => "the client was still sending its request",
        Part::KernelWait => "the request lay in the kernel until the gateway read it",
        Part::Gateway => "the gateway was at work",
        Part::FailedAttempts => "endpoints were tried that could not be reached",
        Part::Connect => "the connection to the upstream was being made",
        Part::UpstreamTls => "TLS with the upstream was being agreed on",
        Part::UpstreamNetwork => "the network to the upstream carried it",
        Part::UpstreamServer => "the upstream worked on its answer",
        Part::Delivery => "the answer was on its way to a client that had to take it",
        Part::DelayedAck => "nobody waited but the client's kernel, to acknowledge",
        Part::Unattributed => "nobody can be named",
    }
}

impl Summary {
    /// Whether every call has exactly one record, and none tells another story than its caller.
    pub(crate) fn passed(&self) -> bool {
        self.passed
    }

    /// The balance for people.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let mut lines = vec![String::new()];
        let verdict = if self.passed {
            paint.ink("every call has its record", Ink::Good)
        } else {
            paint.ink("NOT every call has its one true record", Ink::Bad)
        };
        let made = if self.calls == self.planned {
            format!("{} calls", self.calls)
        } else {
            format!("{} of {} calls made", self.calls, self.planned)
        };
        lines.push(format!("{made}, {} records: {verdict}", self.records));
        for (what, calls) in [
            ("without a record", &self.missing),
            ("with more than one", &self.repeated),
            (
                "whose record disagrees with their caller",
                &self.disagreeing,
            ),
            ("not made", &self.not_made),
        ] {
            if calls.is_empty() {
                continue;
            }
            lines.push(paint.ink(
                &format!("  {} {what}:", several(calls.len(), "call", "calls")),
                Ink::Bad,
            ));
            for call in calls.iter().take(NAMED_MAX) {
                let reason = call.reason.as_deref().unwrap_or_default();
                lines.push(format!("    {} {} {reason}", call.call, call.request_id));
            }
            if calls.len() > NAMED_MAX {
                lines.push("    ...".to_owned());
            }
        }
        if self.unexpected > 0 {
            lines.push(paint.ink(
                &format!("  {} records of calls that nobody made", self.unexpected),
                Ink::Bad,
            ));
        }
        let row = |name: &str, text: String| {
            const INDENT: usize = 15;
            let column = Paint {
                width: paint.width - INDENT,
                ..paint
            };
            let text = column
                .wrap(&text, 0)
                .replace('\n', &format!("\n{:INDENT$}", ""));
            format!("  {name:<13}{text}")
        };
        lines.push(row(
            "tap",
            match &self.tap.reason {
                Some(reason) => format!("{} ({})", self.tap.mode, clean(reason)),
                None => self.tap.mode.clone(),
            },
        ));
        lines.push(row("coverage", list(&self.coverage)));
        lines.push(row("attribution", list(&self.attribution)));
        lines.push(row("settled", list(&self.settled)));
        lines.push(row("answers", list(&self.statuses)));
        lines.push(row(
            "trouble",
            format!(
                "{}, {}, {} without a call",
                several(self.aborts, "caller left", "callers left"),
                several(self.broken, "answer broke off", "answers broke off"),
                several(self.connections, "connection", "connections"),
            ),
        ));
        lines.push(row(
            "retransmits",
            format!(
                "{} with clients, {} with upstreams",
                self.retransmits.client, self.retransmits.upstream
            ),
        ));

        lines.push(String::new());
        const FIXED_COLUMNS: usize = 27 + 6 + 9 + 1;
        let cells = paint.width.saturating_sub(FIXED_COLUMNS + 1).min(60);
        let head = format!("{:<27}{:>6}{:>9} where it went", "route", "calls", "mean");
        lines.push(paint.ink(&head, Ink::Bold));
        for route in &self.routes {
            let drawn = match &route.parts {
                Some(parts) => bar(parts, cells, paint),
                None => paint.ink("(no marks)", Ink::Dim),
            };
            let micro_short = duration(route.mean_us, paint);
            let missing = 9usize.saturating_sub(micro_short.chars().count());
            lines.push(format!(
                "{:<7} {:<19}{:>6}{:missing$}{micro_short} {drawn}",
                clean(&route.method),
                clean(&route.route),
                route.calls,
                "",
            ));
        }
        lines.push(legend(paint));
        if let Some(slowest) = &self.slowest {
            lines.push(String::new());
            lines.push(paint.wrap(&format!("The slowest: {}.", slowest.sentence), 0));
        }
        lines.join("\n")
    }
}

fn several(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn list(counts: &BTreeMap<String, usize>) -> String {
    let words: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{} {count}", clean(name)))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const PAINT: Paint = Paint {
        width: 80,
        color: false,
        unicode: true,
        fit: true,
    };

    fn call(id: &str, status: Option<u16>, end: End) -> Made {
        Made {
            id: id.to_owned(),
            what: "GET /orders".to_owned(),
            status,
            end,
        }
    }

    fn tally(calls: Vec<Made>, records: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for call in calls {
            tally.made(call);
        }
        for record in records {
            tally.recorded(View::parse(record).expect("a test brings valid records"));
        }
        tally
    }

    fn summed(tally: &Tally, calls: usize) -> Summary {
        tally.summary(calls, TapSummary::default(), PAINT)
    }

    #[test]
    fn one_record_for_each_call_passes() {
        let tally = tally(
            vec![call("a", Some(200), End::Whole), call("b", None, End::Left)],
            &[
                r#"{"kind":"call","http.request.id":"a","http.response.status_code":200}"#,
                r#"{"kind":"call","http.request.id":"b","http.response.status_code":200}"#,
                r#"{"kind":"connection"}"#,
            ],
        );
        assert!(tally.is_complete());
        let summary = summed(&tally, 2);
        assert!(summary.passed());
        assert_eq!(
            (summary.records, summary.connections, summary.aborts),
            (2, 1, 1)
        );
    }

    #[test]
    fn each_way_to_fail_is_found() {
        let ok = r#"{"kind":"call","http.request.id":"a","http.response.status_code":200}"#;
        let other = r#"{"kind":"call","http.request.id":"z"}"#;
        let wrong = r#"{"kind":"call","http.request.id":"a","http.response.status_code":500}"#;
        let whole = || call("a", Some(200), End::Whole);
        let not_made = || call("b", None, End::NotMade("refused".to_owned()));
        for (name, calls, records, wanted) in [
            ("no record", vec![whole()], vec![], 1),
            ("two records", vec![whole()], vec![ok, ok], 1),
            ("another status", vec![whole()], vec![wrong], 1),
            ("a stranger's record", vec![whole()], vec![ok, other], 1),
            (
                "a call that was not made",
                vec![whole(), not_made()],
                vec![ok],
                2,
            ),
            ("fewer calls than wanted", vec![whole()], vec![ok], 2),
        ] {
            let tally = tally(calls, &records);
            assert!(!summed(&tally, wanted).passed(), "{name}");
        }
        assert!(!tally(vec![whole()], &[]).is_complete());
        assert!(tally(vec![not_made()], &[]).is_complete());
    }

    #[test]
    fn the_text_shows_what_was_learned() {
        let tally = tally(
            vec![
                call("a", Some(200), End::Whole),
                call("b", Some(200), End::Whole),
            ],
            &[
                r#"{"kind":"call","http.request.id":"a","http.request.method":"GET","http.route":"/orders/{id}","url.path":"/orders/7","http.response.status_code":200,"delivered_us":1000,"time.gateway_us":250,"time.upstream_server_us":750,"coverage":"ebpf","attribution":"exact","settled":"acked","client.tcp.retransmits":1}"#,
                r#"{"kind":"call","http.request.id":"b","http.request.method":"GET","http.route":"/orders/{id}","url.path":"/orders/8","http.response.status_code":200,"delivered_us":3000,"time.gateway_us":250,"time.delivery_us":2750,"client.tcp.zero_window_us":2000,"coverage":"ebpf","attribution":"exact","settled":"acked"}"#,
            ],
        );
        let tap = TapSummary {
            mode: "ebpf".to_owned(),
            reason: None,
        };
        expect![[r#"

            2 of 3 calls made, 2 records: NOT every call has its one true record
              tap          ebpf
              coverage     ebpf 2
              attribution  exact 2
              settled      acked 2
              answers      2xx 2
              trouble      0 callers left, 0 answers broke off, 0 connections without a call
              retransmits  1 with clients, 0 with upstreams

            route                       calls     mean where it went
            GET     /orders/{id}            2   2.00ms ggggsssssssddddddddddddddddddddddddd
             c client sends  k kernel queue  g gateway  f failed tries  o connect
             t tls  n network  s server  d delivery  a delayed ack  ? unknown

            The slowest: GET /orders/8 (answered 200) took 3.00ms: for 92 % of it the answer
            was on its way to a client that had to take it; the client's window was closed
            for 2.00ms."#]]
        .assert_eq(&tally.summary(3, tap, PAINT).text(PAINT));
    }

    #[test]
    fn a_call_without_marks_is_not_explained_away() {
        let view = View::parse(
            r#"{"http.request.method":"GET","url.path":"/\u001b[2J","gateway.duration_us":5000}"#,
        )
        .expect("it is JSON");
        expect!["GET /�[2J (no answer) took 5.00ms, as the gateway measured it; without the kernel's marks nobody can say where"].assert_eq(&explain(&view, PAINT));
    }
}
