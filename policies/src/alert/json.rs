//! An alert as JSON, the same wherever it is told of.

use calltap_correlate::record::WallClock;
use serde::Serialize;
use uuid::Uuid;

use super::Alert;

#[derive(Serialize)]
struct Told<'a> {
    id: Uuid,
    detector: &'static str,
    state: &'static str,
    severity: &'static str,
    subject: Who,
    summary: &'a str,
    meaning: &'static str,
    since: String,
    opened: String,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<String>,
    score: f64,
    tail: f64,
    observed: f64,
    usual: f64,
    signals: u64,
    examples: &'a [Uuid],
    blame: &'static str,
    time: Parts,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

#[derive(Serialize)]
struct Who {
    kind: &'static str,
    name: String,
}

#[derive(Serialize)]
struct Parts {
    network_us: u64,
    application_us: u64,
    gateway_us: u64,
}

impl Alert {
    /// As one JSON object without a newline: times as RFC 3339 in UTC, `score` and `tail` as
    /// [`Alert::score`] and [`Alert::tail`](field@Alert::tail), `examples` by `log.record.uid`.
    pub fn to_json(&self, clock: WallClock) -> String {
        let at = |ns: u64| clock.at_us(ns / 1000).to_string();
        let info = self.detector.info();
        let told = Told {
            id: self.id,
            detector: info.name,
            state: self.state.word(),
            severity: self.severity.word(),
            subject: Who {
                kind: self.subject.kind(),
                name: self.subject.to_string(),
            },
            summary: &self.summary,
            meaning: info.meaning,
            since: at(self.since_ns),
            opened: at(self.opened_ns),
            seen: at(self.seen_ns),
            resolved: self.resolved_ns.map(at),
            score: (self.score() * 10.0).round() / 10.0,
            tail: self.tail,
            observed: self.observed,
            usual: self.usual,
            signals: self.signals,
            examples: &self.examples,
            blame: self.blame().word(),
            time: Parts {
                network_us: self.spent.network_us,
                application_us: self.spent.application_us,
                gateway_us: self.spent.gateway_us,
            },
            source: self.source.map(|source| source.to_string()),
        };
        serde_json::to_string(&told).expect("no map, and no key that is not text")
    }
}
