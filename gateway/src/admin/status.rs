//! What calltap says about itself: as JSON for people and tests, as metrics for Prometheus, as two
//! words for an orchestrator.

use std::collections::BTreeMap;
use std::fs;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use calltap_policies::alert::Severity;
use calltap_policies::detect::DETECTORS;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::metrics::Exposition;
use super::{Api, Refusal};
use crate::account::{DropReason, kind_name};
use crate::alerts::Outcome;

pub(super) const SEVERITIES: [Severity; 3] =
    [Severity::Info, Severity::Warning, Severity::Critical];

/// What the tap is doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct TapStatus {
    /// `ebpf`, `tcp_info` or `off`.
    pub(crate) mode: &'static str,
    /// Why it is not `ebpf`.
    pub(crate) reason: Option<String>,
    /// Ledgers there are, used or not; one per socket.
    pub(crate) ledgers: u64,
    /// Ledgers in use.
    pub(crate) ledgers_used: u64,
    /// Memory of all ledgers.
    pub(crate) memory_bytes: u64,
    /// What the kernel side could not keep, by reason.
    pub(crate) drops: Vec<(&'static str, u64)>,
}

/// `GET /api/v1/status`
pub(super) async fn status(State(api): State<Api>) -> Json<Value> {
    let tap = api.facts.tap();
    let sink = api.sink.status();
    let mut logging = json!({
        "on": sink.on,
        "sink": crate::sink::json_lines::NAME,
        "target": sink.target,
        "errors": sink.errors,
        "rotations": sink.rotations,
    });
    if let Some(why) = sink.failing {
        logging["failing"] = why.into();
    }
    let mut tap_says = json!({
        "mode": tap.mode,
        "ledgers": tap.ledgers,
        "ledgers_used": tap.ledgers_used,
        "memory_bytes": tap.memory_bytes,
        "drops": tap.drops.into_iter().collect::<BTreeMap<_, _>>(),
    });
    if let Some(why) = tap.reason {
        tap_says["reason"] = why.into();
    }
    let mut rules = Vec::new();
    api.facts.rules(&mut |count| {
        rules.push(json!({
            "name": count.rule,
            "action": count.action,
            "dry_run": count.dry_run,
            "applied": count.applied,
            "unanswered": count.unanswered,
        }));
    });
    let mut record_rules = Vec::new();
    api.facts.record_rules(&mut |count| {
        record_rules.push(json!({
            "name": count.rule,
            "action": count.action,
            "dry_run": count.dry_run,
            "applied": count.applied,
            "left_out": count.left_out,
            "unanswered": count.unanswered,
        }));
    });
    let denied = api.denials.totals();
    Json(json!({
        "service": "calltap",
        "version": env!("CARGO_PKG_VERSION"),
        "instance": &*api.instance,
        "uptime_s": api.started.elapsed().as_secs(),
        "logging": logging,
        "tap": tap_says,
        "sockets": {"client_connections": api.facts.connections()},
        "upstreams": api.facts.upstreams().groups,
        "rules": rules,
        "record_rules": record_rules,
        "denied": {
            "in_kernel": api.denials.is_in_kernel(),
            "networks": denied.networks,
            "packets": denied.dropped.packets,
            "bytes": denied.dropped.bytes,
            "connections_closed": denied.closed,
            "connections_refused": denied.refused,
        },
        "alerts": alerts_state(&api),
        "records": api.account.snapshot(),
        "recent": {"records": api.recent.len(), "max": api.recent.max()},
        "streams": {"open": api.streams.open(), "dropped": api.streams.dropped()},
    }))
}

fn alerts_state(api: &Api) -> Value {
    let mut open = BTreeMap::from(SEVERITIES.map(|severity| (severity.word(), 0)));
    for told in api.board.all().iter().filter(|told| told.is_open()) {
        *open.entry(told.alert.severity.word()).or_default() += 1;
    }
    let destinations: Vec<Value> = api
        .destinations
        .iter()
        .map(|tally| {
            let (messages, bytes) = tally.waiting();
            let mut says = json!({
                "name": tally.name(),
                "waiting": messages,
                "waiting_bytes": bytes,
            });
            for outcome in Outcome::ALL {
                says[outcome.name()] = tally.count(outcome).into();
            }
            if let Some(why) = tally.failing() {
                says["failing"] = why.into();
            }
            says
        })
        .collect();
    json!({
        "open": open,
        "untold": api.board.untold(),
        "sources": BTreeMap::from(api.board.denials()),
        "destinations": destinations,
    })
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: calls are welcome.
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, Refusal> {
    match api.facts.ready() {
        Ok(()) => Ok("ready\n"),
        Err(why) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

/// `GET /metrics`
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let mut out = Exposition::default();
    let version = env!("CARGO_PKG_VERSION");
    out.gauge("calltap_build_info", "Which calltap this is; always 1.")
        .add(&[("version", version)], 1);
    api.metrics.write(&mut out);
    records(&api, &mut out);
    rules(&api, &mut out);
    denied(&api, &mut out);
    alerts(&api, &mut out);
    sockets(&api, &mut out);
    process(&api, &mut out);
    let headers = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (headers, out.into_text()).into_response()
}

fn records(api: &Api, out: &mut Exposition) {
    let snapshot = api.account.snapshot();
    // The stages before the sinks are the same for all of them.
    let first = snapshot.iter().next().map(|(sink, ..)| sink);
    let kinds = || snapshot.iter().filter(|(sink, ..)| Some(*sink) == first);

    let mut family = out.counter("calltap_records_accepted_total", "Records ever begun.");
    for (_, kind, stages) in kinds() {
        family.add(&[("kind", kind_name(kind))], stages.accepted);
    }
    let mut family = out.gauge(
        "calltap_records_open",
        "Records whose call the gateway is working on.",
    );
    for (_, kind, stages) in kinds() {
        family.add(&[("kind", kind_name(kind))], stages.open);
    }
    let mut family = out.gauge(
        "calltap_records_settling",
        "Records whose call is done and whose last bytes are not acknowledged yet.",
    );
    for (_, kind, stages) in kinds() {
        family.add(&[("kind", kind_name(kind))], stages.settling);
    }
    let mut family = out.gauge("calltap_records_queued", "Records that wait for a sink.");
    for (sink, kind, stages) in snapshot.iter() {
        family.add(&[("sink", sink), ("kind", kind_name(kind))], stages.queued);
    }
    let mut family = out.counter(
        "calltap_records_written_total",
        "Records a sink has written whole.",
    );
    for (sink, kind, stages) in snapshot.iter() {
        family.add(&[("sink", sink), ("kind", kind_name(kind))], stages.written);
    }
    let mut family = out.counter(
        "calltap_records_dropped_total",
        "Records that did not reach a sink, by reason.",
    );
    for (sink, kind, stages) in snapshot.iter() {
        for reason in DropReason::ALL {
            let labels = [
                ("sink", sink),
                ("kind", kind_name(kind)),
                ("reason", reason.name()),
            ];
            family.add(&labels, stages.dropped(reason));
        }
    }
    let sink = api.sink.status();
    let name = [("sink", crate::sink::json_lines::NAME)];
    out.counter("calltap_sink_errors_total", "Tries to write that failed.")
        .add(&name, sink.errors);
    out.gauge("calltap_sink_failing", "1 while a sink cannot write.")
        .add(&name, u8::from(sink.failing.is_some()));
    out.counter(
        "calltap_stream_dropped_records_total",
        "Records and alerts that slow readers of the live streams were not shown.",
    )
    .add(&[], api.streams.dropped());
}

fn rules(api: &Api, out: &mut Exposition) {
    let mut family = out.counter(
        "calltap_policy_applied_total",
        "Calls that a rule allowed, denied, limited or tagged, and records that it kept, dropped, sampled or redacted, or would have in a dry run.",
    );
    api.facts.rules(&mut |count| {
        let labels = labels(count.rule, count.action, count.dry_run);
        family.add(&labels, count.applied);
    });
    api.facts.record_rules(&mut |count| {
        let labels = labels(count.rule, count.action, count.dry_run);
        family.add(&labels, count.applied);
    });
    let mut family = out.counter(
        "calltap_policy_left_out_records_total",
        "Records that a rule dropped or left out when it sampled, or would have in a dry run.",
    );
    api.facts.record_rules(&mut |count| {
        let labels = labels(count.rule, count.action, count.dry_run);
        if matches!(count.action, "drop" | "sample") {
            family.add(&labels, count.left_out);
        }
    });
    let mut family = out.counter(
        "calltap_policy_unanswered_total",
        "Calls and records of which a rule could not tell, mostly because a field it names is absent.",
    );
    api.facts.rules(&mut |count| {
        family.add(&[("rule", count.rule)], count.unanswered);
    });
    api.facts.record_rules(&mut |count| {
        family.add(&[("rule", count.rule)], count.unanswered);
    });
}

fn labels<'l>(rule: &'l str, action: &'l str, dry_run: bool) -> [(&'l str, &'l str); 3] {
    let dry_run = if dry_run { "true" } else { "false" };
    [("rule", rule), ("action", action), ("dry_run", dry_run)]
}

fn denied(api: &Api, out: &mut Exposition) {
    let totals = api.denials.totals();
    out.gauge("calltap_denied_networks", "Networks that are denied.")
        .add(&[], totals.networks);
    out.counter(
        "calltap_denied_packets_total",
        "Packets of denied networks that the kernel dropped.",
    )
    .add(&[], totals.dropped.packets);
    out.counter("calltap_denied_bytes_total", "Bytes of those packets.")
        .add(&[], totals.dropped.bytes);
    out.counter(
        "calltap_denied_connections_total",
        "Connections of denied networks that were reset: those open when their client was denied, and those accepted after that.",
    )
    .add(&[("when", "open")], totals.closed)
    .add(&[("when", "accepted")], totals.refused);
}

fn alerts(api: &Api, out: &mut Exposition) {
    let mut open: BTreeMap<_, u64> = DETECTORS
        .iter()
        .map(|info| ((info.name, info.severity.word()), 0))
        .collect();
    for told in api.board.all().iter().filter(|told| told.is_open()) {
        let alert = &told.alert;
        let labels = (alert.detector.info().name, alert.severity.word());
        *open.entry(labels).or_default() += 1;
    }
    let mut family = out.gauge("calltap_alerts_open", "Alerts that go on.");
    for ((detector, severity), n) in open {
        family.add(&[("detector", detector), ("severity", severity)], n);
    }
    let mut family = out.counter(
        "calltap_alerts_opened_total",
        "Alerts that were opened, or opened again.",
    );
    for info in &DETECTORS {
        let opened = api.board.opened(info.detector);
        family.add(&[("detector", info.name)], opened);
    }
    out.counter(
        "calltap_alerts_untold_total",
        "Changes of alerts that no destination was told of, because too many were waiting.",
    )
    .add(&[], api.board.untold());
    let mut family = out.counter(
        "calltap_alert_sources_total",
        "Sources that alerts denied, or were to deny and may not.",
    );
    for (outcome, n) in api.board.denials() {
        family.add(&[("outcome", outcome)], n);
    }
    let mut family = out.counter(
        "calltap_alert_deliveries_total",
        "What became of messages about alerts; retried counts tries, the others messages.",
    );
    for tally in &*api.destinations {
        for outcome in Outcome::ALL {
            let labels = [("destination", tally.name()), ("outcome", outcome.name())];
            family.add(&labels, tally.count(outcome));
        }
    }
    let mut family = out.gauge(
        "calltap_alert_messages_waiting",
        "Messages about alerts that wait on disk for a webhook to take them.",
    );
    for tally in &*api.destinations {
        family.add(&[("destination", tally.name())], tally.waiting().0);
    }
    let mut family = out.gauge("calltap_alert_spool_bytes", "Their bytes.");
    for tally in &*api.destinations {
        family.add(&[("destination", tally.name())], tally.waiting().1);
    }
    let mut family = out.gauge(
        "calltap_alert_destination_failing",
        "1 while a destination does not take messages.",
    );
    for tally in &*api.destinations {
        let failing = u8::from(tally.failing().is_some());
        family.add(&[("destination", tally.name())], failing);
    }
}

fn sockets(api: &Api, out: &mut Exposition) {
    let tap = api.facts.tap();
    out.gauge(
        "calltap_client_connections",
        "Client connections that are open.",
    )
    .add(&[], api.facts.connections());
    out.gauge("calltap_tap_info", "How sockets are watched; always 1.")
        .add(&[("mode", tap.mode)], 1);
    out.gauge(
        "calltap_tap_ledgers",
        "Sockets that can be watched at a time.",
    )
    .add(&[], tap.ledgers);
    out.gauge("calltap_tap_ledgers_used", "Sockets that are watched.")
        .add(&[], tap.ledgers_used);
    out.gauge("calltap_tap_memory_bytes", "Memory of the ledgers.")
        .add(&[], tap.memory_bytes);
    let mut family = out.counter(
        "calltap_tap_drops_total",
        "What the kernel side could not keep, by reason.",
    );
    for (reason, n) in &tap.drops {
        family.add(&[("reason", *reason)], n);
    }
    let upstreams = api.facts.upstreams();
    let endpoints = || {
        upstreams.groups.iter().flat_map(|group| {
            let name = group.name.as_str();
            group.endpoints.iter().map(move |endpoint| {
                let labels = [("upstream", name), ("endpoint", endpoint.address.as_str())];
                (labels, endpoint)
            })
        })
    };
    let mut family = out.gauge(
        "calltap_upstream_healthy",
        "1 where an endpoint is given calls.",
    );
    for (labels, endpoint) in endpoints() {
        family.add(&labels, u8::from(endpoint.healthy));
    }
    let mut family = out.gauge(
        "calltap_upstream_calls_in_flight",
        "Calls an endpoint is working on.",
    );
    for (labels, endpoint) in endpoints() {
        family.add(&labels, endpoint.in_flight);
    }
}

fn process(api: &Api, out: &mut Exposition) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_s = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    out.counter(
        "process_cpu_seconds_total",
        "CPU time of the process, user and system.",
    )
    .add(&[], cpu_s);
    out.gauge(
        "process_start_time_seconds",
        "When the process began, since 1970.",
    )
    .add(&[], api.started_unix_s);
    if let Some(bytes) = resident_bytes() {
        out.gauge("process_resident_memory_bytes", "Memory the process holds.")
            .add(&[], bytes);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        out.gauge("process_open_fds", "File descriptors in use.")
            .add(&[], files.count());
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
