//! Holds records against what the client meant and what it saw.
//!
//! Every sentence about a record is one named check with a count of how often it held. A check that
//! could not be asked (a mark that a mode does not have) is not counted as agreed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;

use crate::client::{Observed, Outcome, Seen, Together};
use crate::gateway::Stages;
use crate::plan::{Ending, Failure, RequestBody};
use crate::records::{Record, Records};
use crate::table;

/// So many misses of a check are shown.
const MISSES_SHOWN: usize = 5;
/// Methods that keep their name in a record; all others are `_OTHER`.
const KNOWN_METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY",
];

/// What must be taken into account.
#[derive(Clone, Debug)]
pub struct World {
    /// `ebpf`, `tcp_info` or `off`: where the status says the facts come from.
    pub tap: String,
    /// The routes are ours, so templates are known.
    pub routes: bool,
    /// The backend was killed meanwhile: an honest error is an answer too.
    pub backend_dies: bool,
    /// Nobody else calls this gateway, so that its counters are about our calls alone.
    pub alone: bool,
    /// The counters at rest, if the admin API was asked.
    pub stages: Vec<Stages>,
    /// The counters must be at rest.
    pub rest: bool,
}

/// One sentence and how often it held.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The sentence.
    pub name: String,
    /// How often it held.
    pub agreed: u64,
    /// How often it was asked.
    pub total: u64,
    /// What was wrong, the first few times.
    pub misses: Vec<String>,
}

/// All sentences, in the order in which they were first asked.
#[derive(Debug, Default, Serialize)]
pub struct Checks {
    /// The sentences.
    pub checks: Vec<Check>,
}

impl Checks {
    /// Asks once: did `name` hold? `miss` says what was wrong.
    pub fn ask(&mut self, name: &str, held: bool, miss: impl FnOnce() -> String) {
        self.ask_many(name, u64::from(held), 1, miss);
    }

    /// Asks `total` times at once.
    pub fn ask_many(&mut self, name: &str, agreed: u64, total: u64, miss: impl FnOnce() -> String) {
        let known = self.checks.iter().position(|check| check.name == name);
        let at = known.unwrap_or_else(|| {
            self.checks.push(Check {
                name: name.to_owned(),
                agreed: 0,
                total: 0,
                misses: Vec::new(),
            });
            self.checks.len() - 1
        });
        let check = &mut self.checks[at];
        check.agreed += agreed;
        check.total += total;
        if agreed < total && check.misses.len() < MISSES_SHOWN {
            check.misses.push(miss());
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &mut self,
        name: &str,
        id: &str,
        recorded: Option<T>,
        expected: T,
    ) {
        let held = recorded.as_ref() == Some(&expected);
        self.ask(name, held, || {
            format!("{id}: {recorded:?} recorded, {expected:?} expected")
        });
    }

    /// Whether every sentence always held, and there was one.
    pub fn all_held(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.agreed == check.total)
    }

    /// A table, then the misses.
    pub fn render(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .checks
            .iter()
            .map(|check| {
                let verdict = if check.agreed == check.total {
                    ""
                } else {
                    "MISS"
                };
                vec![
                    check.name.clone(),
                    format!("{}/{}", check.agreed, check.total),
                    verdict.to_owned(),
                ]
            })
            .collect();
        let mut out = table::markdown(&["check", "agreed", ""], &rows);
        for check in self.checks.iter().filter(|check| !check.misses.is_empty()) {
            out += &format!("\n{}:\n", check.name);
            for miss in &check.misses {
                out += &format!("  {miss}\n");
            }
        }
        out
    }
}

/// Asks everything about `seen` and `records`.
pub fn judge(seen: &Seen, records: &Records, world: &World) -> Checks {
    let mut checks = Checks::default();
    served(seen, world, &mut checks);
    let matched = completeness(seen, records, world, &mut checks);
    for (observed, record) in &matched {
        request(observed, record, world, &mut checks);
        response(observed, record, world, &mut checks);
        connection(observed, record, world, &mut checks);
        time(observed, record, world, &mut checks);
    }
    cookies(&matched, world, &mut checks);
    failures(seen, records, world, &mut checks);
    conservation(seen, records, world, &mut checks);
    checks
}

fn served(seen: &Seen, world: &World, checks: &mut Checks) {
    for reason in &seen.unreachable {
        checks.ask("every connection is taken", false, || reason.clone());
    }
    for observed in &seen.calls {
        let call = &observed.call;
        let status_fits = observed
            .status
            .is_some_and(|status| call.statuses.contains(&status));
        let body_fits = call
            .response_bytes
            .is_none_or(|bytes| bytes == observed.body_in);
        let honest = world.backend_dies
            && match observed.outcome {
                Outcome::Truncated => true,
                Outcome::Complete => matches!(observed.status, Some(502..=504)),
                // The gateway may have answered and closed while the client still sent. A reset
                // stream is how HTTP/2 breaks off, and takes a head that was on its way with it.
                Outcome::Unserved(_) => {
                    call.ending == Ending::ClientAbort
                        || matches!(observed.together, Together::Streams(_))
                }
                _ => false,
            };
        let held = honest
            || match call.ending {
                Ending::Well => observed.outcome == Outcome::Complete && status_fits && body_fits,
                Ending::Early | Ending::Refused => {
                    observed.outcome == Outcome::Complete && status_fits
                }
                Ending::ClientAbort => observed.outcome == Outcome::Left,
                Ending::UpstreamAbort => match observed.status {
                    Some(200) => observed.outcome == Outcome::Truncated,
                    _ => status_fits,
                },
            };
        checks.ask("every call is served as it should be", held, || {
            format!(
                "{}: {:?}, status {:?}, {} bytes, after {:?}",
                name(observed),
                observed.outcome,
                observed.status,
                observed.body_in,
                observed.elapsed
            )
        });
        if call.expect_continue && observed.outcome == Outcome::Complete && !honest {
            checks.ask(
                "100 Continue comes before the body is sent",
                observed.continued,
                || name(observed),
            );
        }
    }
}

/// Every call exactly once, or counted as dropped.
fn completeness<'a>(
    seen: &'a Seen,
    records: &'a Records,
    world: &World,
    checks: &mut Checks,
) -> Vec<(&'a Observed, &'a Record)> {
    checks.ask_many(
        "every line is one JSON object",
        records.records.len() as u64,
        (records.records.len() + records.bad_lines.len()) as u64,
        || format!("{:?}", records.bad_lines),
    );
    let mut by_id: HashMap<&str, Vec<&Record>> = HashMap::new();
    for record in records
        .records
        .iter()
        .filter(|record| record.kind() == "call")
    {
        if let Some(id) = record.call_id() {
            by_id.entry(id).or_default().push(record);
        }
    }
    let mut matched = Vec::new();
    let mut missing = Vec::new();
    let mut sent = 0;
    for observed in &seen.calls {
        let found = by_id.remove(observed.call.id.as_str()).unwrap_or_default();
        // What never left the client owes no record; `served` has already complained.
        if observed.wire_out == 0 && observed.together == Together::Alone && found.is_empty() {
            continue;
        }
        sent += 1;
        match found[..] {
            [record] => matched.push((observed, record)),
            [] => missing.push(name(observed)),
            _ => checks.ask(
                "each call has one record or is counted as dropped",
                false,
                || format!("{}: {} records", name(observed), found.len()),
            ),
        }
    }
    let dropped: u64 = world
        .stages
        .iter()
        .filter(|stages| stages.kind == "call")
        .map(Stages::dropped_total)
        .max()
        .unwrap_or(0);
    let unaccounted = (missing.len() as u64).saturating_sub(dropped);
    checks.ask_many(
        "each call has one record or is counted as dropped",
        sent - unaccounted,
        sent,
        || {
            let shown = missing
                .iter()
                .take(3)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            format!(
                "{} without, {dropped} counted as dropped: {shown} ...",
                missing.len()
            )
        },
    );
    if world.alone {
        let strangers = by_id.values().map(Vec::len).sum::<usize>();
        checks.ask(
            "no record speaks of a call that was not made",
            strangers == 0,
            || format!("{strangers}, among them {:?}", by_id.keys().next()),
        );
    }
    matched
}

fn request(observed: &Observed, record: &Record, world: &World, checks: &mut Checks) {
    let call = &observed.call;
    let id = &name(observed);
    let known = KNOWN_METHODS.contains(&call.method);
    let method = if known { call.method } else { "_OTHER" };
    checks.same("method", id, record.text("http.request.method"), method);
    let original = record.text("http.request.method_original");
    let expected = (!known).then_some(call.method);
    checks.ask(
        "original method, where it has no name",
        original == expected,
        || format!("{id}: {original:?} recorded, {expected:?} expected"),
    );
    checks.same("path", id, record.text("url.path"), call.path.as_str());
    checks.same("query", id, record.text("url.query"), call.query.as_str());
    checks.same(
        "request id",
        id,
        record.text("http.request.id"),
        call.id.as_str(),
    );
    let agent = call.user_agent();
    checks.same(
        "user agent",
        id,
        record.text("user_agent.original"),
        agent.as_str(),
    );
    if world.routes {
        let route = record.text("http.route");
        checks.ask("route", route == call.route, || {
            format!("{id}: {route:?} recorded, {:?} expected", call.route)
        });
    }
    let version = match (call.http10, observed.together) {
        (_, Together::Streams(_)) => "2",
        (true, _) => "1.0",
        (false, _) => "1.1",
    };
    checks.same(
        "protocol version",
        id,
        record.text("network.protocol.version"),
        version,
    );
    let size = record.number("http.request.body.size");
    let whole = call.ending == Ending::Well && observed.outcome == Outcome::Complete;
    if whole && !gave_up(observed, world) {
        checks.same("request body size", id, size, call.body.bytes());
    } else {
        let held = size.is_some_and(|size| size <= observed.body_out);
        checks.ask(
            "request body size, of what was not sent whole",
            held,
            || {
                format!(
                    "{id}: {size:?} recorded, at most {} sent",
                    observed.body_out
                )
            },
        );
    }
}

fn response(observed: &Observed, record: &Record, world: &World, checks: &mut Checks) {
    let call = &observed.call;
    let id = &name(observed);
    let size = record.number("http.response.body.size");
    match observed.outcome {
        Outcome::Complete | Outcome::Corrupt => {
            let status = record.number("http.response.status_code");
            checks.same("status", id, Some(status), observed.status.map(u64::from));
            checks.same("response body size", id, size, observed.body_in);
        }
        Outcome::Truncated | Outcome::Left => {
            if let Some(status) = observed.status {
                let recorded = record.number("http.response.status_code");
                checks.same("status", id, recorded, u64::from(status));
                // Written is not received: what was on its way when it broke counts too.
                let held = size.is_some_and(|size| size >= observed.body_in);
                checks.ask("response body size, of what broke off", held, || {
                    format!("{id}: {size:?} recorded, {} received", observed.body_in)
                });
            }
        }
        Outcome::Unserved(_) => (),
    }

    let flags: Vec<&str> = record.list("response.flags").collect();
    let error = record.text("error.type");
    let told = |held, what: &str| {
        (
            held,
            format!("{id}: {what}, flags {flags:?}, error {error:?}"),
        )
    };
    match call.ending {
        // Which of two misfortunes came first is not for us to say.
        _ if world.backend_dies => (),
        Ending::Well => {
            let (held, miss) = told(flags.is_empty(), "ended well");
            checks.ask("no flags on a call that ended well", held, || miss);
        }
        Ending::Early => (),
        Ending::ClientAbort => {
            let (held, miss) = told(flags.contains(&"client_abort"), "the client left");
            checks.ask("client_abort on a call the client left", held, || miss);
        }
        Ending::UpstreamAbort => {
            let held = flags.iter().any(|flag| flag.starts_with("upstream_"));
            let (held, miss) = told(held && error.is_some(), "the upstream broke off");
            checks.ask(
                "an upstream flag on a call the upstream broke off",
                held,
                || miss,
            );
        }
        Ending::Refused => {
            let refused = attempts(record).any(|(_, outcome)| outcome == "refused");
            let (held, miss) = told(refused && error.is_some(), "the upstream refused");
            checks.ask(
                "a refused attempt and an error where nobody listens",
                held,
                || miss,
            );
        }
    }
    if call.kind == "retried" && !world.backend_dies {
        let outcomes: Vec<String> = attempts(record)
            .map(|(_, outcome)| outcome.into())
            .collect();
        let held = outcomes.last().is_some_and(|last| last == "ok");
        checks.ask(
            "the last attempt of a retried call is the one that worked",
            held,
            || format!("{id}: {outcomes:?}"),
        );
    }
}

fn connection(observed: &Observed, record: &Record, world: &World, checks: &mut Checks) {
    let id = &name(observed);
    let (local, gateway) = (observed.local, observed.gateway);
    let port = u64::from(local.port());
    checks.same("client port", id, record.number("client.port"), port);
    checks.same("peer port", id, record.number("network.peer.port"), port);
    let address = local.ip().to_string();
    checks.same(
        "client address",
        id,
        record.text("client.address"),
        address.as_str(),
    );
    let port = u64::from(gateway.port());
    checks.same("local port", id, record.number("network.local.port"), port);

    let coverage = if world.tap == "off" {
        "none"
    } else {
        world.tap.as_str()
    };
    checks.same(
        "client coverage",
        id,
        record.text("client.coverage"),
        coverage,
    );
    if record.get("upstream.socket.cookie").is_some() {
        checks.same(
            "upstream coverage",
            id,
            record.text("upstream.coverage"),
            coverage,
        );
    }
    let whole = observed.call.ending == Ending::Well
        && observed.outcome == Outcome::Complete
        && !gave_up(observed, world);
    if world.tap != "ebpf" || !whole {
        return;
    }
    let attribution = record.text("client.attribution");
    if hides_its_end(observed) && attribution == Some("partial") {
        return;
    }
    let reason = record.text("client.attribution_reason");
    let expected = match observed.together {
        Together::Alone => "exact",
        Together::Pipelined(_) => "partial",
        Together::Streams(_) => "shared",
    };
    checks.ask("client attribution", attribution == Some(expected), || {
        format!("{id}: {attribution:?} ({reason:?}) recorded, {expected} expected")
    });
    match observed.together {
        Together::Alone => {
            let (bytes_in, bytes_out) = ("client.wire.bytes_in", "client.wire.bytes_out");
            checks.same(
                "wire bytes in",
                id,
                record.number(bytes_in),
                observed.wire_out,
            );
            checks.same(
                "wire bytes out",
                id,
                record.number(bytes_out),
                observed.wire_in,
            );
            let upstream = record.text("upstream.attribution");
            if record.get("upstream.socket.cookie").is_some() {
                checks.ask("upstream attribution", upstream == Some("exact"), || {
                    let reason = record.text("upstream.attribution_reason");
                    format!("{id}: {upstream:?} ({reason:?}) recorded, exact expected")
                });
            }
        }
        Together::Pipelined(_) => {
            for (field, counted) in [
                ("client.wire.bytes_in", observed.wire_out),
                ("client.wire.bytes_out", observed.wire_in),
            ] {
                if let Some(recorded) = record.number(field) {
                    let name = "wire bytes of a pipelined call, where there are any";
                    checks.same(name, id, Some(recorded), counted);
                }
            }
        }
        Together::Streams(most) => {
            let streams = record.number("client.socket.streams");
            let held = streams.is_some_and(|streams| (1..=u64::from(most)).contains(&streams));
            checks.ask("streams that shared the connection", held, || {
                format!("{id}: {streams:?} recorded, 1 to {most} expected")
            });
        }
    }
    if !matches!(observed.together, Together::Streams(_)) {
        let nth = u64::from(observed.nth);
        let recorded = record.number("client.socket.request_seq");
        checks.same("number of the call on its connection", id, recorded, nth);
    }
}

fn time(observed: &Observed, record: &Record, world: &World, checks: &mut Checks) {
    let id = &name(observed);
    let duration = record.number("gateway.duration_us");
    checks.ask("gateway.duration_us is there", duration.is_some(), || {
        id.clone()
    });
    let delivered = record.number("delivered_us");
    let parts: u64 = record.parts_us().map(|(_, us)| us).sum();
    match delivered {
        Some(delivered) => checks.same("the parts of the time add up", id, Some(parts), delivered),
        None => checks.ask("no parts of a time that is not known", parts == 0, || {
            id.clone()
        }),
    }
    let ended_well = observed.call.ending == Ending::Well
        && observed.outcome == Outcome::Complete
        && !gave_up(observed, world);
    if hides_its_end(observed) && record.text("client.attribution") == Some("partial") {
        return;
    }
    if world.tap == "ebpf" && ended_well && observed.together == Together::Alone {
        checks.ask("delivered_us is there", delivered.is_some(), || {
            format!("{id}: settled {:?}", record.text("settled"))
        });
        let settled = record.text("settled");
        // After the last call of a connection its end may be seen first.
        let closed = observed.call.ends_connection() && settled == Some("closed");
        checks.ask(
            "settled by the client's last ACK",
            settled == Some("acked") || closed,
            || format!("{id}: {settled:?}"),
        );
        let unattributed = record.part_us("unattributed");
        checks.ask("no time is unattributed", unattributed == 0, || {
            format!("{id}: {unattributed} µs of {delivered:?}")
        });
        // The client's clock ran from before the first byte until after the last: the stretch in
        // between cannot have been longer.
        if let Some(duration_us) = record.number("duration_us") {
            let elapsed_us = u64::try_from(observed.elapsed.as_micros()).unwrap_or(u64::MAX);
            checks.ask(
                "duration_us is within the client's own time",
                duration_us <= elapsed_us,
                || format!("{id}: {duration_us} µs recorded, {elapsed_us} µs at the client"),
            );
        }
    }
}

/// Trailers end a request at a place that cannot be seen from its last bytes: a record may say that
/// it does not know what came after them.
fn hides_its_end(observed: &Observed) -> bool {
    matches!(observed.call.body, RequestBody::Chunked(_, true))
}

/// An error that the gateway may have made itself, as the backend was dead.
fn gave_up(observed: &Observed, world: &World) -> bool {
    world.backend_dies && observed.status.is_some_and(|status| status >= 502)
}

/// A cookie names one connection and no other.
fn cookies(matched: &[(&Observed, &Record)], world: &World, checks: &mut Checks) {
    if world.tap == "off" {
        return;
    }
    let mut of_connection: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for (observed, record) in matched {
        if let Some(cookie) = record.text("client.socket.cookie") {
            of_connection
                .entry(observed.connection)
                .or_default()
                .insert(cookie);
        }
    }
    let mut all = BTreeSet::new();
    for (connection, cookies) in &of_connection {
        let fresh = cookies.iter().all(|cookie| all.insert(*cookie));
        checks.ask(
            "one cookie per connection",
            cookies.len() == 1 && fresh,
            || format!("connection {connection}: {cookies:?}, new: {fresh}"),
        );
    }
}

fn failures(seen: &Seen, records: &Records, world: &World, checks: &mut Checks) {
    let mut by_port: HashMap<u64, Vec<&Record>> = HashMap::new();
    for record in records
        .records
        .iter()
        .filter(|record| record.kind() == "connection")
    {
        if let Some(port) = record.number("network.peer.port") {
            by_port.entry(port).or_default().push(record);
        }
    }
    // A port may come up again later in the run: what came first is what was first.
    for records in by_port.values_mut() {
        records.sort_by_key(|record| std::cmp::Reverse(record.text("timestamp")));
    }
    let mut missing = Vec::new();
    for failed in &seen.failures {
        let shown = || format!("{:?} from port {}", failed.failure, failed.local.port());
        let stage = match failed.failure {
            Failure::Silent => "tcp",
            Failure::BadRequestLine | Failure::HalfHead => "head",
        };
        let found = by_port
            .get_mut(&u64::from(failed.local.port()))
            .and_then(Vec::pop);
        let Some(record) = found else {
            missing.push(shown());
            continue;
        };
        checks.same(
            "stage of a failed connection",
            &shown(),
            record.text("connection.stage"),
            stage,
        );
        let error = record.text("error.type");
        checks.ask("why a connection failed", error.is_some(), shown);
        if failed.failure == Failure::BadRequestLine {
            let status = record.number("http.response.status_code");
            let held = status == failed.status.map(u64::from);
            checks.ask("what a bad request line was answered", held, || {
                format!(
                    "{}: {status:?} recorded, {:?} received",
                    shown(),
                    failed.status
                )
            });
        }
    }
    let dropped: u64 = world
        .stages
        .iter()
        .filter(|stages| stages.kind == "connection")
        .map(Stages::dropped_total)
        .max()
        .unwrap_or(0);
    let total = seen.failures.len() as u64;
    let unaccounted = (missing.len() as u64).saturating_sub(dropped);
    if total > 0 {
        checks.ask_many(
            "each failed connection has a record or is counted as dropped",
            total - unaccounted,
            total,
            || {
                format!(
                    "{} without, {dropped} counted as dropped: {missing:?}",
                    missing.len()
                )
            },
        );
    }
}

fn conservation(seen: &Seen, records: &Records, world: &World, checks: &mut Checks) {
    for stages in &world.stages {
        let shown = || format!("{stages:?}");
        let law = "accepted = open + settling + queued + written + dropped";
        checks.ask(law, stages.balanced(), shown);
        if world.rest {
            checks.ask(
                "nothing is left open, settling or queued",
                stages.at_rest(),
                shown,
            );
        }
        if world.alone && stages.written + stages.dropped_total() > 0 {
            let lines = records
                .records
                .iter()
                .filter(|record| record.kind() == stages.kind)
                .count() as u64;
            checks.ask(
                "written is what is in the file",
                stages.written == lines,
                || format!("{stages:?}, {lines} lines"),
            );
        }
        if world.alone && world.rest && stages.kind == "call" {
            let sent = seen
                .calls
                .iter()
                .filter(|observed| observed.wire_out > 0 || observed.together != Together::Alone)
                .count() as u64;
            checks.ask("accepted is what was sent", stages.accepted == sent, || {
                format!("{stages:?}, {sent} sent")
            });
        }
    }
}

fn attempts(record: &Record) -> impl Iterator<Item = (&str, &str)> {
    let list = record.get("upstream.attempts").and_then(Value::as_array);
    list.into_iter().flatten().map(|attempt| {
        let text = |key: &str| attempt.get(key).and_then(Value::as_str).unwrap_or_default();
        (text("address"), text("outcome"))
    })
}

fn name(observed: &Observed) -> String {
    format!("{} ({})", observed.call.id, observed.call.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, Reach, Session};
    use std::time::Duration;

    fn world(dropped: u64) -> World {
        World {
            tap: "ebpf".to_owned(),
            routes: true,
            backend_dies: false,
            alone: true,
            stages: vec![Stages {
                sink: "json_lines".to_owned(),
                kind: "call".to_owned(),
                accepted: 1,
                open: 0,
                settling: 0,
                queued: 0,
                written: 1 - dropped,
                dropped: BTreeMap::from([("queue_full".to_owned(), dropped)]),
            }],
            rest: true,
        }
    }

    fn one_get() -> Seen {
        let reach = Reach {
            routes: true,
            h2c: false,
        };
        let call = (1..)
            .flat_map(|seed| plan::draw(1, seed, "run", reach))
            .find_map(|session| match session {
                Session::KeepAlive(calls) if calls[0].kind == "get" => calls.into_iter().next(),
                _ => None,
            })
            .unwrap();
        let mut observed = Observed::begin(
            call,
            0,
            0,
            "127.0.0.1:4000".parse().unwrap(),
            "127.0.0.1:80".parse().unwrap(),
        );
        observed.wire_out = 100;
        observed.wire_in = 200;
        observed.status = Some(200);
        observed.body_in = observed.call.response_bytes.unwrap();
        observed.outcome = Outcome::Complete;
        observed.elapsed = Duration::from_secs(1);
        Seen {
            calls: vec![observed],
            ..Seen::default()
        }
    }

    fn record_of(observed: &Observed) -> serde_json::Map<String, Value> {
        let call = &observed.call;
        let record = serde_json::json!({
            "kind": "call", "http.request.method": "GET", "url.path": call.path,
            "url.query": call.query, "http.request.id": call.id,
            "user_agent.original": call.user_agent(), "http.route": "/bytes/{n}",
            "network.protocol.version": "1.1", "http.request.body.size": 0,
            "http.response.status_code": 200, "http.response.body.size": observed.body_in,
            "client.port": 4000, "network.peer.port": 4000, "client.address": "127.0.0.1",
            "network.local.port": 80, "client.coverage": "ebpf", "client.attribution": "exact",
            "client.wire.bytes_in": 100, "client.wire.bytes_out": 200,
            "client.socket.request_seq": 1, "client.socket.cookie": "7", "settled": "acked",
            "gateway.duration_us": 4, "duration_us": 5, "delivered_us": 6,
            "time.gateway_us": 2, "time.delivery_us": 4,
        });
        record.as_object().unwrap().clone()
    }

    fn missed(
        seen: &Seen,
        records: &[serde_json::Map<String, Value>],
        world: &World,
    ) -> Vec<String> {
        let lines: String = records
            .iter()
            .map(|record| Value::Object(record.clone()).to_string() + "\n")
            .collect();
        judge(seen, &Records::parse(lines.as_bytes()), world)
            .checks
            .into_iter()
            .filter(|check| check.agreed < check.total)
            .map(|check| check.name)
            .collect()
    }

    #[test]
    fn a_true_record_passes_and_every_lie_is_named() {
        let seen = one_get();
        let truth = record_of(&seen.calls[0]);
        assert_eq!(
            missed(&seen, std::slice::from_ref(&truth), &world(0)),
            [""; 0]
        );
        for (field, lie, check) in [
            ("url.path", Value::from("/else"), "path"),
            ("http.response.body.size", 1.into(), "response body size"),
            ("client.wire.bytes_out", 201.into(), "wire bytes out"),
            ("client.attribution", "shared".into(), "client attribution"),
            ("time.gateway_us", 3.into(), "the parts of the time add up"),
            (
                "response.flags",
                Value::from(vec!["client_abort"]),
                "no flags on a call that ended well",
            ),
            (
                "duration_us",
                1_000_001.into(),
                "duration_us is within the client's own time",
            ),
        ] {
            let mut lying = truth.clone();
            lying.insert(field.to_owned(), lie);
            assert_eq!(missed(&seen, &[lying], &world(0)), [check], "{field}");
        }
    }

    #[test]
    fn a_missing_record_wants_a_drop_counter_and_a_second_one_is_a_miss() {
        let seen = one_get();
        let truth = record_of(&seen.calls[0]);
        assert_eq!(missed(&seen, &[], &world(1)), [""; 0]);
        let misses = missed(&seen, &[], &world(0));
        assert!(misses.contains(&"each call has one record or is counted as dropped".to_owned()));
        let misses = missed(&seen, &[truth.clone(), truth], &world(0));
        assert!(misses.contains(&"each call has one record or is counted as dropped".to_owned()));
    }
}
