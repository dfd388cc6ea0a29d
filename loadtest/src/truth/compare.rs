//! Holds every record against what the captures show, field by field.
//!
//! A field that is absent is a miss, unless the record says that this side of the call is not its
//! own (and the table of permits lets it say so): a judge that compares nothing finds nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::connection::{CROSSING_NS, Connection, Ending, Moment, option};
use super::derive::{self, Facts};
use super::evidence::{Asked, Scene};
use super::parts;
use super::permits::{Leg, Permits};
use super::verdict::{Group, MarkTimes, Miss, Times, Verdict};
use super::witness::{self, Pairs, Sighted, Talk, Witness, quantile};
use crate::records::Record;

/// Half of a mark's times may be this far off, beyond what two captures differ by.
const MARK_P50_NS: u64 = 10_000;
/// 99 of 100 of them.
const MARK_P99_NS: u64 = 50_000;

/// Judges all records of a run.
pub(crate) fn compare(
    scene: &Scene,
    witness: &Witness,
    records: &[Record],
    permits: &Permits,
    times: Times,
) -> Verdict {
    let mut judge = Judge {
        floors: HashMap::new(),
        scene,
        witness,
        verdict: Verdict::new(&scene.scenario, scene.family, scene.asked.len(), times),
        times: BTreeMap::new(),
        cookies: HashMap::new(),
        attributions: HashMap::new(),
    };
    judge.floors(records);
    judge.records(records);
    judge.connection_records(records);
    judge.cookies();
    judge.attribution(permits);
    judge.marks();
    judge.held_up();
    for talk in &witness.front.connections {
        let losses = derive::losses(&talk.connection);
        judge.verdict.losses_front.add(&losses);
    }
    for talk in &witness.back.connections {
        let losses = derive::losses(&talk.connection);
        judge.verdict.losses_back.add(&losses);
    }
    judge.verdict
}

struct Judge<'a> {
    scene: &'a Scene,
    witness: &'a Witness,
    verdict: Verdict,
    /// By mark: how far off, ns, and of which call.
    times: BTreeMap<&'static str, Vec<i64>>,
    /// By leg and connection: the cookies its records gave it.
    cookies: HashMap<(&'static str, usize), Vec<String>>,
    /// By leg: what each record said.
    attributions: HashMap<&'static str, Vec<Attributed>>,
    /// By record: before this nothing of its call can have come to its client's connection, ns.
    floors: HashMap<String, u64>,
}

/// What a record said of one of its sides.
struct Attributed {
    call: String,
    attribution: String,
    reason: String,
    /// It was the first on its connection.
    is_first: bool,
}

/// A connection that calls have in turns, and the how many-th on it.
type Own<'a> = Option<(&'a Talk, usize)>;

/// One side of a call: a connection, and the how many-th call on it where calls have it in turns.
struct Place<'a> {
    connection: usize,
    talk: &'a Talk,
    at: Option<usize>,
}

impl<'a> Place<'a> {
    fn of(side: &'a Sighted, connection: usize, at: Option<usize>) -> Self {
        Self {
            connection,
            talk: &side.connections[connection],
            at,
        }
    }

    /// The call's own bytes, unless others share its connection.
    fn own(&self) -> Own<'a> {
        Some((self.talk, self.at?))
    }
}

/// When the gateway did what no packet shows, ns.
struct Moments {
    head_read: u64,
    /// It turned to the upstream.
    begun: u64,
    written: u64,
}

impl Moments {
    fn of(record: &Record, base: Option<u64>) -> Self {
        let at = |mark: &str| {
            let us = record.get(&format!("timing.{mark}_us"))?.as_i64()?;
            base?.checked_add_signed(us * 1000)
        };
        let head_read = at("head_read").unwrap_or(0);
        let written = at("resp_written").unwrap_or(head_read);
        Self {
            head_read,
            begun: at("up_begin").unwrap_or(head_read),
            written,
        }
    }
}

fn record_uid(record: &Record) -> &str {
    record.text("log.record.uid").unwrap_or("")
}

/// What the capture says that a field must say.
enum Want {
    /// This.
    Is(u64),
    /// One of these: packets crossed.
    OneOf(Vec<u64>),
    /// Anything from the first to the second.
    Within(u64, u64),
    Text(String),
    OneOfTexts(Vec<String>),
    /// Nothing: there was no such thing.
    Nothing,
    /// The record may have been written before it happened.
    PerhapsText(String),
    /// The capture does not tell.
    Unknown,
}

impl Want {
    fn or_unknown(number: Option<u64>) -> Self {
        number.map_or(Want::Unknown, Want::Is)
    }

    fn or_nothing(number: Option<u64>) -> Self {
        number.map_or(Want::Nothing, Want::Is)
    }

    /// This or that, or anything between two numbers.
    fn or(self, other: Want) -> Want {
        match (self, other) {
            (Want::Nothing, other) => other,
            (this, Want::Nothing | Want::Unknown) => this,
            (Want::Is(a), Want::Is(b)) if a == b => Want::Is(a),
            (Want::Text(a), Want::Text(b)) => Want::OneOfTexts(vec![a, b]),
            (Want::OneOfTexts(mut all), Want::OneOfTexts(more)) => {
                all.extend(more);
                Want::OneOfTexts(all)
            }
            (this, other) => match (this.bounds(), other.bounds()) {
                (Some(a), Some(b)) => Want::Within(a.0.min(b.0), a.1.max(b.1)),
                _ => this,
            },
        }
    }

    fn bounds(&self) -> Option<(u64, u64)> {
        match self {
            Want::Is(number) => Some((*number, *number)),
            Want::OneOf(numbers) => Some((*numbers.iter().min()?, *numbers.iter().max()?)),
            Want::Within(from, to) => Some((*from, *to)),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Want::Is(number) => number.to_string(),
            Want::OneOf(numbers) => format!("one of {numbers:?}"),
            Want::Within(from, to) => format!("{from} to {to}"),
            Want::Text(text) | Want::PerhapsText(text) => text.clone(),
            Want::OneOfTexts(texts) => texts.join(" or "),
            Want::Nothing => "nothing".to_owned(),
            Want::Unknown => "unknown".to_owned(),
        }
    }

    /// More than one answer is right.
    fn is_loose(&self) -> bool {
        match self {
            Want::Within(..) => true,
            Want::OneOf(numbers) => numbers.len() > 1,
            Want::OneOfTexts(texts) => texts.len() > 1,
            _ => false,
        }
    }

    fn is_met(&self, found: &Value) -> bool {
        let number = found.as_u64();
        let text = found.as_str();
        match self {
            Want::Is(wanted) => number == Some(*wanted),
            Want::OneOf(wanted) => number.is_some_and(|number| wanted.contains(&number)),
            Want::Within(from, to) => number.is_some_and(|number| (*from..=*to).contains(&number)),
            Want::Text(wanted) | Want::PerhapsText(wanted) => text == Some(wanted),
            Want::OneOfTexts(wanted) => wanted.iter().any(|wanted| text == Some(wanted)),
            Want::Nothing | Want::Unknown => false,
        }
    }
}

/// Judges one record's fields and remembers what its groups came to.
struct Sheet<'a, 'v> {
    record: &'a Record,
    call: &'a str,
    verdict: &'v mut Verdict,
    groups: BTreeMap<Group, bool>,
}

impl Sheet<'_, '_> {
    /// A time that may be this far off, if times matter.
    fn within(&self, us: u64, slack_us: u64) -> Want {
        match self.verdict.times {
            Times::Judged => Want::Within(us.saturating_sub(slack_us), us + slack_us),
            Times::Passed => Want::Within(0, u64::MAX),
        }
    }

    fn field(&mut self, group: Group, name: &str, want: Want, may_be_absent: bool, look: &str) {
        let found = self.record.get(name);
        let tally = self.verdict.fields.entry(name.to_owned()).or_default();
        let agreed = match (&want, found) {
            (Want::Unknown, _) => {
                tally.underivable += 1;
                return;
            }
            (Want::Nothing, None) => true,
            (Want::PerhapsText(_), None) => {
                tally.absent += 1;
                return;
            }
            (_, None) if may_be_absent => {
                tally.absent += 1;
                return;
            }
            (_, None) => false,
            (want, Some(found)) => want.is_met(found),
        };
        if want.is_loose() {
            let loose = (self.call.to_owned(), name.to_owned());
            self.verdict.loose.insert(loose);
        }
        self.judged(group, name, agreed, || want.shown(), look);
    }

    fn judged(
        &mut self,
        group: Group,
        name: &str,
        agreed: bool,
        capture: impl FnOnce() -> String,
        look: &str,
    ) {
        let tally = self.verdict.fields.entry(name.to_owned()).or_default();
        let held = self.groups.entry(group).or_insert(true);
        *held &= agreed;
        if agreed {
            tally.agreed += 1;
            return;
        }
        tally.missed += 1;
        let found = self.record.get(name);
        self.verdict.misses.push(Miss {
            call: self.call.to_owned(),
            field: name.to_owned(),
            record: found.map_or("nothing".to_owned(), Value::to_string),
            capture: capture(),
            packets: look.to_owned(),
        });
    }

    fn end(self) {
        for (group, held) in self.groups {
            let share = self.verdict.groups.entry(group).or_default();
            share.of += 1;
            share.agreed += u64::from(held);
        }
    }
}

impl<'a> Judge<'a> {
    fn miss(&mut self, group: Group, call: &str, field: &str, record: String, capture: String) {
        let share = self.verdict.groups.entry(group).or_default();
        share.of += 1;
        let tally = self.verdict.fields.entry(field.to_owned()).or_default();
        tally.missed += 1;
        self.verdict.misses.push(Miss {
            call: call.to_owned(),
            field: field.to_owned(),
            record,
            capture,
            packets: String::new(),
        });
    }

    fn agree(&mut self, group: Group, field: &str) {
        let share = self.verdict.groups.entry(group).or_default();
        share.of += 1;
        share.agreed += 1;
        self.verdict
            .fields
            .entry(field.to_owned())
            .or_default()
            .agreed += 1;
    }

    /// Exactly one record for each call, none for anything else; and then what it says.
    fn records(&mut self, records: &[Record]) {
        let mut by_id: HashMap<&str, Vec<&Record>> = HashMap::new();
        for record in records.iter().filter(|record| record.kind() == "call") {
            let id = record.call_id().unwrap_or("");
            by_id.entry(id).or_default().push(record);
        }
        for asked in &self.scene.asked {
            let found = by_id.remove(asked.id.as_str()).unwrap_or_default();
            let was_seen = self.witness.front.calls.contains_key(&asked.id);
            match &found[..] {
                [record] => {
                    self.agree(Group::Records, "kind");
                    self.call(asked, record);
                }
                // A client that gave up before its request was whole on the wire asked nothing.
                [] if !was_seen && asked.status.is_none() => {}
                found => self.miss(
                    Group::Records,
                    &asked.id,
                    "kind",
                    format!("{} records", found.len()),
                    "one call".to_owned(),
                ),
            }
        }
        let mut invented: Vec<&str> = by_id.into_keys().collect();
        invented.sort_unstable();
        for id in invented {
            self.miss(
                Group::Records,
                id,
                "kind",
                "a record".to_owned(),
                "no such call was asked".to_owned(),
            );
        }
    }

    fn call(&mut self, asked: &Asked, record: &Record) {
        let Some(client) = self.client(asked) else {
            let seen = self.witness.front.calls.get(&asked.id).map_or(0, Vec::len);
            self.miss(
                Group::Connection,
                &asked.id,
                "client.socket.cookie",
                "a call".to_owned(),
                format!("{seen} requests of that name in front.pcap"),
            );
            return;
        };
        let upstream = self.upstream(asked, record);
        let base = record.text("timestamp").and_then(wall_ns);
        let moments = Moments::of(record, base);
        let floor_ns = self.floors.get(record_uid(record)).copied().unwrap_or(0);

        let own = upstream.as_ref().and_then(Place::own);
        let early = own.filter(|_| broke_off(record, client.own())).map(|own| {
            let let_go = moments.written.saturating_sub(LETTING_GO_NS);
            witness::until(own.0, let_go, self.scene.back, &self.witness.secrets)
        });
        let has_tickets = record.text("upstream.attribution_reason") == Some("tls_tickets");
        let plain = own.filter(|_| early.is_none() && has_tickets);
        let plain = plain.map(|own| witness::without_tickets(own.0, &self.witness.secrets));

        let mut sheet = Sheet {
            record,
            call: &asked.id,
            verdict: &mut self.verdict,
            groups: BTreeMap::new(),
        };
        answer(&mut sheet, asked, client.own());
        client_addresses(&mut sheet, asked, &client);
        match client.own() {
            Some(own) => leg(&mut sheet, Leg::Client, own, None),
            None => shared(&mut sheet, Leg::Client, client.talk, &moments, floor_ns),
        }
        let is_first = client.own().map(|(talk, at)| talk.facts[at].serial == 1);
        syn(&mut sheet, &client.talk.connection, is_first);
        match &upstream {
            Some(place) => {
                upstream_addresses(&mut sheet, place);
                match place.own() {
                    Some(own) => {
                        let other = early.as_ref().or(plain.as_ref());
                        let early = other.map(|talk| own_of(talk.as_ref(), own.1));
                        leg(&mut sheet, Leg::Upstream, own, early);
                    }
                    None => shared(&mut sheet, Leg::Upstream, place.talk, &moments, 0),
                }
            }
            None => {
                let never = || "the request never left for an upstream".to_owned();
                for name in ["upstream.socket.request_seq", "upstream.wire.bytes_out"] {
                    let absent = record.number(name).is_none_or(|number| number == 0);
                    sheet.judged(Group::Connection, name, absent, never, "");
                }
                // Of streams it is the record that names the connection: it must be one that was captured.
                let name = "upstream.http.response.status_code";
                let absent = record.get(name).is_none();
                sheet.judged(Group::Connection, name, absent, never, "");
            }
        }
        let early = early
            .as_ref()
            .zip(own)
            .map(|(talk, own)| own_of(talk.as_ref(), own.1));
        let legs = (client.own(), own);
        let shared = upstream.as_ref().filter(|_| own.is_none());
        let shared = shared.map(|place| &place.talk.connection);
        marks(&mut sheet, legs, shared, early, base, &mut self.times);
        order(&mut sheet);
        time_parts(&mut sheet);
        sheet.end();

        for (leg, place) in [(Leg::Client, Some(client)), (Leg::Upstream, upstream)] {
            let name = leg.name();
            let Some(place) = place else {
                continue;
            };
            let text = |field: &str| record.text(&format!("{name}.{field}")).unwrap_or("nothing");
            match record.text(&format!("{name}.socket.cookie")) {
                Some(cookie) => {
                    let cookies = self.cookies.entry((name, place.connection)).or_default();
                    cookies.push(cookie.to_owned());
                }
                None => self.miss(
                    Group::Connection,
                    &asked.id,
                    &format!("{name}.socket.cookie"),
                    "none".to_owned(),
                    "a connection".to_owned(),
                ),
            }
            let attribution = text("attribution").to_owned();
            let key = format!("{name} {attribution}");
            *self.verdict.attribution.entry(key).or_insert(0) += 1;
            let reason = text("attribution_reason").to_owned();
            let is_first = record.number(&format!("{name}.socket.request_seq")) == Some(1);
            let list = self.attributions.entry(name).or_default();
            list.push(Attributed {
                call: asked.id.clone(),
                attribution,
                reason,
                is_first,
            });
        }
    }

    /// Where the call is on the client's side; by the client's address where streams share it.
    fn client(&self, asked: &Asked) -> Option<Place<'a>> {
        let witness = self.witness;
        let side = &witness.front;
        if !self.scene.front.is_shared() {
            let &[(connection, at)] = &side.calls.get(&asked.id)?[..] else {
                return None;
            };
            return Some(Place::of(side, connection, Some(at)));
        }
        let mut all = side.connections.iter();
        let connection = all.rposition(|talk| talk.connection.peer == asked.client)?;
        Some(Place::of(side, connection, None))
    }

    /// Where it is on the upstream's; of several attempts, the last.
    fn upstream(&self, asked: &Asked, record: &Record) -> Option<Place<'a>> {
        let witness = self.witness;
        let side = &witness.back;
        if !self.scene.back.is_shared() {
            let (connection, at) = *side.calls.get(&asked.id)?.last()?;
            return Some(Place::of(side, connection, Some(at)));
        }
        // The record names the connection. Where there is no such one, no upstream may have answered.
        let port = record.number("upstream.local_port")?;
        let mut all = side.connections.iter();
        let is_it = |talk: &Talk| u64::from(talk.connection.local.port()) == port;
        let connection = all.rposition(is_it)?;
        Some(Place::of(side, connection, None))
    }

    /// For each record the begin of the last call before it on the same connection that was over when
    /// it began. Nothing that is counted for it came earlier.
    fn floors(&mut self, records: &[Record]) {
        let mut calls: HashMap<&str, Vec<(u64, u64, &str)>> = HashMap::new();
        for record in records.iter().filter(|record| record.kind() == "call") {
            let base = record.text("timestamp").and_then(wall_ns);
            let moments = Moments::of(record, base);
            let cookie = record.text("client.socket.cookie").unwrap_or("");
            let span = (moments.head_read, moments.written, record_uid(record));
            calls.entry(cookie).or_default().push(span);
        }
        for mut calls in calls.into_values() {
            calls.sort_unstable();
            let (mut over_at, mut last_begin, mut floor) = (0, 0, 0);
            for (begin, end, uid) in calls {
                if begin >= over_at {
                    floor = last_begin;
                }
                over_at = over_at.max(end);
                last_begin = begin;
                self.floors.insert(uid.to_owned(), floor);
            }
        }
    }

    /// A connection that asked something that was no call has a record of its own; at most one.
    fn connection_records(&mut self, records: &[Record]) {
        let mut found: HashMap<(String, u64), Vec<&Record>> = HashMap::new();
        for record in records
            .iter()
            .filter(|record| record.kind() == "connection")
        {
            let peer = record.text("network.peer.address").unwrap_or("").to_owned();
            let port = record.number("network.peer.port").unwrap_or(0);
            found.entry((peer, port)).or_default().push(record);
        }
        for talk in &self.witness.front.connections {
            let peer = talk.connection.peer;
            let name = peer.to_string();
            let key = (peer.ip().to_string(), u64::from(peer.port()));
            let records = found.remove(&key).unwrap_or_default();
            let is_owed = talk.carried.rest > 0 && talk.carried.exchanges.is_empty();
            match (&records[..], is_owed) {
                ([], false) => {}
                ([_], true) => self.agree(Group::Records, "connection.stage"),
                (records, _) => self.miss(
                    Group::Records,
                    &name,
                    "connection.stage",
                    format!("{} records", records.len()),
                    format!("one connection with {} bytes of no call", talk.carried.rest),
                ),
            }
        }
        for (peer, port) in found.into_keys() {
            self.miss(
                Group::Records,
                &format!("{peer} {port}"),
                "connection.stage",
                "a record".to_owned(),
                "no such connection".to_owned(),
            );
        }
    }

    /// One connection, one cookie; two connections, two.
    fn cookies(&mut self) {
        let mut owners: HashMap<String, (&'static str, usize)> = HashMap::new();
        let mut all: Vec<_> = std::mem::take(&mut self.cookies).into_iter().collect();
        all.sort();
        for ((leg, connection), cookies) in all {
            let field = format!("{leg}.socket.cookie");
            let talk = match leg {
                "client" => &self.witness.front.connections[connection],
                _ => &self.witness.back.connections[connection],
            };
            let name = talk.connection.peer.to_string();
            for cookie in cookies {
                let owner = *owners.entry(cookie.clone()).or_insert((leg, connection));
                if owner == (leg, connection) {
                    self.agree(Group::Connection, &field);
                } else {
                    self.miss(
                        Group::Connection,
                        &name,
                        &field,
                        cookie,
                        "another connection's".to_owned(),
                    );
                }
            }
            // Nor may one connection have two names.
            let names = owners
                .iter()
                .filter(|(_, owner)| **owner == (leg, connection));
            let names = names.count();
            if names > 1 {
                self.miss(
                    Group::Connection,
                    &name,
                    &field,
                    format!("{names} cookies"),
                    "one connection".to_owned(),
                );
            }
        }
    }

    /// The attributions are those that were fixed beforehand, each as often as it may be.
    fn attribution(&mut self, permits: &Permits) {
        for leg in [Leg::Client, Leg::Upstream] {
            let field = format!("{}.attribution", leg.name());
            let rows = permits.of(&self.scene.scenario, leg);
            let found = self.attributions.remove(leg.name()).unwrap_or_default();
            let mut counts = vec![0_u64; rows.len()];
            for Attributed {
                call,
                attribution,
                reason,
                is_first,
            } in &found
            {
                let row = rows.iter().position(|row| {
                    let has_reason = row.reasons.is_empty() || row.reasons.contains(reason);
                    let is_its = *is_first || !row.first_calls_only;
                    row.attribution.name() == attribution && has_reason && is_its
                });
                match row {
                    Some(row) => {
                        counts[row] += 1;
                        self.agree(Group::Attribution, &field);
                    }
                    None => self.miss(
                        Group::Attribution,
                        call,
                        &field,
                        format!("{attribution} ({reason})"),
                        "not permitted in this scenario".to_owned(),
                    ),
                }
            }
            for (row, count) in rows.iter().zip(counts) {
                let share = count as f64 / found.len().max(1) as f64;
                let (least, most) = row.share;
                // Of no calls there is no share.
                if !found.is_empty() && !(least..=most).contains(&share) {
                    self.miss(
                        Group::Attribution,
                        "all calls",
                        &field,
                        format!("{count} of {} are {}", found.len(), row.attribution.name()),
                        format!("{least} to {most} of them may be"),
                    );
                }
            }
        }
    }

    /// A host that has something else to do between a capture and the tap makes a mark look wrong. In
    /// one call in so many that is put up with, and shown; more of them are misses.
    fn held_up(&mut self) {
        let calls: BTreeSet<&str> = self.verdict.held_up.iter().map(|one| &*one.call).collect();
        let most = self.scene.asked.len().div_ceil(HELD_UP_ONE_IN);
        if calls.len() <= most {
            return;
        }
        for one in std::mem::take(&mut self.verdict.held_up) {
            self.miss(Group::Marks, &one.call, &one.field, one.record, one.capture);
        }
    }

    /// How far each mark is off, over all calls.
    fn marks(&mut self) {
        for (mark, mut differences) in std::mem::take(&mut self.times) {
            differences.sort_unstable_by_key(|ns| ns.unsigned_abs());
            let sizes: Vec<u64> = differences.iter().map(|ns| ns.unsigned_abs()).collect();
            let captures = captures(&self.witness.pairs, mark);
            let (Some(p50), Some(p99)) = (quantile(&sizes, 0.5), quantile(&sizes, 0.99)) else {
                continue;
            };
            let own = |share| quantile(captures, share).unwrap_or(0);
            let us = |ns: u64| ns as f64 / 1000.0;
            let times = MarkTimes {
                calls: sizes.len() as u64,
                p50_us: us(p50),
                p99_us: us(p99),
                max_us: us(sizes.last().copied().unwrap_or(0)),
                captures_p50_us: us(own(0.5)),
                captures_p99_us: us(own(0.99)),
            };
            self.verdict.marks.insert(mark.to_owned(), times);
            for (name, size, limit, own) in [
                ("p50", p50, MARK_P50_NS, own(0.5)),
                ("p99", p99, MARK_P99_NS, own(0.99)),
            ] {
                if self.verdict.times == Times::Judged && size > limit + own {
                    self.miss(
                        Group::Marks,
                        "all calls",
                        &format!("timing.{mark}_us"),
                        format!("{name} is {} µs off", us(size)),
                        format!("{} µs, and {} µs between two captures", us(limit), us(own)),
                    );
                }
            }
        }
    }
}

/// The packets a mark is about were captured twice: there.
fn captures<'a>(pairs: &'a Pairs, mark: &str) -> &'a [u64] {
    match mark {
        "req_first" | "req_last" | "head_arrived" | "resp_acked" => &pairs.front_in,
        "resp_first" | "resp_last" => &pairs.front_out,
        "up_sent_first" | "up_sent_last" | "up_resent_last" => &pairs.back_out,
        _ => &pairs.back_in,
    }
}

fn answer(sheet: &mut Sheet<'_, '_>, asked: &Asked, own: Own<'_>) {
    let Some((client, at)) = own else {
        let told = asked.status.map(u64::from);
        let want = Want::or_unknown(told.filter(|_| asked.complete));
        sheet.field(Group::Ending, "http.response.status_code", want, false, "");
        if asked.complete && asked.status.is_some_and(|status| status < 500) {
            ended_well(sheet, "a whole answer, by its client");
        }
        return;
    };
    let seen = client.carried.exchanges[at].response.as_ref();
    let status = seen.filter(|answer| answer.final_start.is_some());
    let want = Want::or_nothing(status.map(|answer| u64::from(answer.status)));
    sheet.field(Group::Ending, "http.response.status_code", want, false, "");
    if let (Some(told), Some(status)) = (asked.status, status) {
        let same = told == status.status;
        let capture = || format!("the client saw {told}");
        sheet.judged(
            Group::Ending,
            "http.response.status_code",
            same,
            capture,
            "",
        );
    }
    // What did not come to its end has a reason, and what did has none.
    let whole = seen.is_some_and(|answer| answer.complete);
    if asked.complete && whole && asked.status.is_some_and(|status| status < 500) {
        ended_well(sheet, "a whole answer");
    } else if !whole {
        let capture = || "no whole answer".to_owned();
        let is_error = sheet.record.get("error.type").is_some();
        sheet.judged(Group::Ending, "error.type", is_error, capture, "");
    }
}

/// Nothing may be said to have gone wrong.
fn ended_well(sheet: &mut Sheet<'_, '_>, capture: &str) {
    let has_flags = sheet.record.list("response.flags").next().is_some();
    let is_error = sheet.record.get("error.type").is_some();
    for (field, is_said) in [("response.flags", has_flags), ("error.type", is_error)] {
        sheet.judged(Group::Ending, field, !is_said, || capture.to_owned(), "");
    }
}

fn client_addresses(sheet: &mut Sheet<'_, '_>, asked: &Asked, place: &Place<'_>) {
    let Connection { local, peer, .. } = place.talk.connection;
    let serial = place.own().map(|(talk, at)| talk.facts[at].serial.into());
    let family = if peer.is_ipv4() { "ipv4" } else { "ipv6" };
    let same = asked.client == peer;
    let capture = || format!("{peer} asked, not {}", asked.client);
    sheet.judged(Group::Connection, "network.peer.port", same, capture, "");
    for (name, want) in [
        ("network.peer.address", Want::Text(peer.ip().to_string())),
        ("network.peer.port", Want::Is(peer.port().into())),
        ("client.address", Want::Text(peer.ip().to_string())),
        ("client.port", Want::Is(peer.port().into())),
        ("network.local.address", Want::Text(local.ip().to_string())),
        ("network.local.port", Want::Is(local.port().into())),
        ("network.transport", Want::Text("tcp".to_owned())),
        ("network.type", Want::Text(family.to_owned())),
        ("coverage", Want::Text("ebpf".to_owned())),
        ("client.socket.request_seq", Want::or_unknown(serial)),
    ] {
        sheet.field(Group::Connection, name, want, false, "");
    }
}

fn upstream_addresses(sheet: &mut Sheet<'_, '_>, place: &Place<'_>) {
    let Connection { local, peer, .. } = place.talk.connection;
    let serial = place.own().map(|(talk, at)| talk.facts[at].serial);
    for (name, want) in [
        ("upstream.address", Want::Text(peer.ip().to_string())),
        ("upstream.port", Want::Is(peer.port().into())),
        ("upstream.local_port", Want::Is(local.port().into())),
        (
            "upstream.socket.request_seq",
            Want::or_unknown(serial.map(u64::from)),
        ),
    ] {
        sheet.field(Group::Connection, name, want, false, "");
    }
    let Some(serial) = serial else {
        return;
    };
    let reused = sheet.record.get("upstream.reused").and_then(Value::as_bool);
    let capture = || format!("call {serial} on its connection");
    let same = reused == Some(serial > 1);
    sheet.judged(Group::Connection, "upstream.reused", same, capture, "");
}

/// What one field of a leg must be.
struct Wanted {
    group: Group,
    name: String,
    want: Want,
    may_be_absent: bool,
}

/// Judges one leg. Where the call broke off, what still came on the upstream's side afterwards may be
/// counted or not: `early` is what had passed when the gateway let go of it.
fn leg(sheet: &mut Sheet<'_, '_>, leg: Leg, own: (&Talk, usize), early: Option<Own<'_>>) {
    let (talk, at) = own;
    let look = look(&talk.connection, &talk.facts[at]);
    let wanted = wanted(sheet, leg, talk, at);
    let Some(early) = early else {
        for one in wanted {
            sheet.field(one.group, &one.name, one.want, one.may_be_absent, &look);
        }
        return;
    };
    let is_exact = sheet.record.text(&format!("{}.attribution", leg.name())) == Some("exact");
    let mut before: HashMap<String, Want> = HashMap::new();
    if let Some((talk, at)) = early {
        let each = self::wanted(sheet, leg, talk, at).into_iter();
        before.extend(each.map(|one| (one.name, one.want)));
    }
    for one in wanted {
        // Counters may stand anywhere between none and all; what names or describes may only be absent.
        let counts = matches!(
            one.group,
            Group::Payload | Group::Packets | Group::Retransmits
        ) || one.name.ends_with(".tcp.bytes_acked");
        let (want, was_there) = match before.remove(&one.name) {
            Some(earlier) => {
                let was_there = !matches!(earlier, Want::Nothing | Want::Unknown);
                (one.want.or(earlier), was_there)
            }
            None if counts => (one.want.or(Want::Is(0)), false),
            None => (one.want, false),
        };
        // How much passed is told of every call whose numbers are its own.
        let is_told = is_exact && one.group == Group::Payload;
        let may_be_absent = one.may_be_absent || !was_there && !is_told;
        sheet.field(one.group, &one.name, want, may_be_absent, &look);
    }
}

fn wanted(sheet: &Sheet<'_, '_>, leg: Leg, talk: &Talk, at: usize) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let facts = &talk.facts[at];
    let connection = &talk.connection;
    let s = leg.name();
    let name = |field: &str| format!("{s}.{field}");
    let is_partial = sheet.record.text(&name("attribution")) == Some("partial");
    let (request, response) = (&facts.ranges.request, &facts.ranges.response);
    let (asking, received, sent) = match leg {
        Leg::Client => (&connection.inbound, request, response),
        Leg::Upstream => (&connection.outbound, response, request),
    };
    let size = |range: &std::ops::Range<u64>| range.end - range.start;

    let first = asking.sequence(request.start).map(u64::from);
    let last = asking.sequence(request.end.wrapping_sub(1)).map(u64::from);
    let group = Group::Sequence;
    wanted.push(Wanted {
        group,
        name: name("tcp.seq_first"),
        want: Want::or_unknown(first),
        may_be_absent: is_partial,
    });
    wanted.push(Wanted {
        group,
        name: name("tcp.seq_last"),
        want: Want::or_unknown(last),
        may_be_absent: is_partial,
    });

    let group = Group::Payload;
    wanted.push(Wanted {
        group,
        name: name("wire.bytes_in"),
        want: Want::Is(size(received)),
        may_be_absent: is_partial,
    });
    wanted.push(Wanted {
        group,
        name: name("wire.bytes_out"),
        want: Want::Is(size(sent)),
        may_be_absent: is_partial,
    });

    let within = |of: &dyn Fn(&derive::Sums) -> u64, span: &derive::Span| {
        let (least, most) = (of(&span.certain), of(&span.whole));
        if least == most {
            Want::Is(most)
        } else {
            Want::Within(least, most)
        }
    };
    let (arrived, left) = (&facts.received, &facts.sent);
    for (field, want) in [
        ("wire.segments_in", within(&|sums| sums.segments, arrived)),
        ("wire.segments_out", within(&|sums| sums.segments, left)),
        ("wire.ip_bytes_in", within(&|sums| sums.ip_bytes, arrived)),
        ("wire.ip_bytes_out", within(&|sums| sums.ip_bytes, left)),
    ] {
        wanted.push(Wanted {
            group: Group::Packets,
            name: name(field),
            want,
            may_be_absent: is_partial,
        });
    }
    for (field, want) in [
        ("tcp.retransmits", within(&|sums| sums.again, left)),
        (
            "tcp.retransmitted_bytes",
            within(&|sums| sums.again_bytes, left),
        ),
        ("tcp.peer_retransmits", within(&|sums| sums.late, arrived)),
    ] {
        wanted.push(Wanted {
            group: Group::Retransmits,
            name: name(field),
            want,
            may_be_absent: is_partial,
        });
    }
    let group = Group::Headers;
    let sums = &arrived.certain;
    if sums.segments > 0 {
        let ttl = |ttl: Option<u8>| Want::or_unknown(ttl.map(u64::from));
        wanted.push(Wanted {
            group,
            name: name("ip.ttl_min"),
            want: ttl(sums.ttl_min),
            may_be_absent: is_partial,
        });
        wanted.push(Wanted {
            group,
            name: name("ip.ttl_max"),
            want: ttl(sums.ttl_max),
            may_be_absent: is_partial,
        });
        wanted.push(Wanted {
            group,
            name: name("ip.dscp"),
            want: ttl(sums.dscp),
            may_be_absent: is_partial,
        });
        wanted.push(Wanted {
            group,
            name: name("ip.ecn"),
            want: Want::Is(sums.ecn.into()),
            may_be_absent: is_partial,
        });
        let flags = Want::Text(flag_names(sums.flags));
        wanted.push(Wanted {
            group,
            name: name("tcp.flags"),
            want: flags,
            may_be_absent: is_partial,
        });
    }
    let windows = facts.window_min.iter().map(|window| u64::from(*window));
    let windows = match facts.window_min.len() {
        0 => Want::Unknown,
        _ => Want::OneOf(windows.collect()),
    };
    wanted.push(Wanted {
        group,
        name: name("tcp.window_min"),
        want: windows,
        may_be_absent: is_partial,
    });
    let mss = mss(connection);
    wanted.push(Wanted {
        group,
        name: name("tcp.mss"),
        want: mss,
        may_be_absent: is_partial,
    });
    let closed_us = facts.zero_window_ns / 1000;
    // Each end of each interval is a packet, and off by no more than any mark may be.
    let slack = u64::from(facts.zero_windows) * 2 * MARK_P99_NS / 1000;
    let want = sheet.within(closed_us, slack);
    wanted.push(Wanted {
        group,
        name: name("tcp.zero_window_us"),
        want,
        may_be_absent: is_partial || size(sent) == 0,
    });

    ending(sheet, leg, talk, at, is_partial, &mut wanted);
    wanted
}

fn ending(
    sheet: &Sheet<'_, '_>,
    leg: Leg,
    talk: &Talk,
    at: usize,
    is_partial: bool,
    wanted: &mut Vec<Wanted>,
) {
    let facts = &talk.facts[at];
    let connection = &talk.connection;
    let name = |field: &str| format!("{}.{field}", leg.name());
    let kind = match &facts.acked {
        Some(heard) if heard.has_payload => Want::Text("data".to_owned()),
        // A RST that acknowledges everything comes too late to be one thing or the other.
        Some(heard) if heard.is_reset() => Want::PerhapsText("pure".to_owned()),
        Some(_) => Want::Text("pure".to_owned()),
        None => Want::Nothing,
    };
    wanted.push(Wanted {
        group: Group::Ending,
        name: name("tcp.ack_kind"),
        want: kind,
        may_be_absent: is_partial,
    });

    let is_last = at + 1 == talk.facts.len();
    // After this a record may have been written without what came.
    let books_closed = match leg {
        Leg::Client => facts.acked.map(|heard| heard.moment),
        Leg::Upstream => facts.response_last,
    };
    let want = match connection.ending() {
        Some((how, when)) if is_last => {
            let names = endings(connection, how, when);
            let is_owed = books_closed.is_none_or(|closed| when.ns < closed.ns)
                || (leg == Leg::Client && sheet.record.text("settled") == Some("closed"));
            match sheet.record.text(&name("tcp.close")) {
                None if !is_owed => Want::PerhapsText(names.join(" or ")),
                _ => Want::OneOfTexts(names),
            }
        }
        _ => Want::Nothing,
    };
    wanted.push(Wanted {
        group: Group::Ending,
        name: name("tcp.close"),
        want,
        may_be_absent: false,
    });
    // Of a call that did not end well it is told how far the client had its answer.
    let is_owed = leg == Leg::Client && !is_partial && sheet.record.get("error.type").is_some();
    if is_owed || sheet.record.get(&name("tcp.bytes_acked")).is_some() {
        let want = match facts.acked_bytes {
            (least, most) if least == most => Want::Is(least),
            (least, most) => Want::Within(least, most),
        };
        wanted.push(Wanted {
            group: Group::Ending,
            name: name("tcp.bytes_acked"),
            want,
            may_be_absent: false,
        });
    }
}

/// What a connection's end may be called: two that cross on the way may have been taken in the other
/// order.
fn endings(connection: &Connection, how: Ending, when: Moment) -> Vec<String> {
    let mut names = vec![how.name().to_owned()];
    for (other, later) in connection.endings.iter().skip(1) {
        let is_new = !names.iter().any(|name| name == other.name());
        if later.ns.abs_diff(when.ns) < CROSSING_NS && is_new {
            names.push(other.name().to_owned());
        }
    }
    names
}

/// Between a mark of the gateway's and its look at a socket.
const AROUND_NS: u64 = 5_000_000;

/// Between a look at the socket of an upstream that is no longer wanted and the call's end.
const LETTING_GO_NS: u64 = 100_000_000;

/// The call did not come to its end: what came later from its upstream came for nobody.
fn broke_off(record: &Record, client: Own<'_>) -> bool {
    let whole = client.is_none_or(|(talk, at)| {
        let response = talk.carried.exchanges[at].response.as_ref();
        response.is_some_and(|answer| answer.complete)
    });
    !whole || record.get("error.type").is_some() || record.get("response.flags").is_some()
}

fn own_of(talk: Option<&Talk>, at: usize) -> Own<'_> {
    talk.filter(|talk| at < talk.facts.len())
        .map(|talk| (talk, at))
}

/// Numbers and marks of one call that nobody can know where others share its connection.
const OF_ONE_CALL: [&str; 11] = [
    "tcp.seq_first",
    "tcp.seq_last",
    "tcp.ack_kind",
    "tcp.window_min",
    "tcp.zero_window_us",
    "tcp.flags",
    "tcp.bytes_acked",
    "ip.ttl_min",
    "ip.ttl_max",
    "ip.dscp",
    "ip.ecn",
];
const MARKS_OF_CLIENTS: [&str; 6] = [
    "req_first",
    "req_last",
    "head_arrived",
    "resp_first",
    "resp_last",
    "resp_acked",
];
const MARKS_OF_UPSTREAMS: [&str; 6] = [
    "up_sent_first",
    "up_sent_last",
    "up_resent_last",
    "up_acked",
    "up_first",
    "up_last",
];

/// Where streams share a connection, its counters over the call's time are all there is, and nothing
/// else may pretend to be the call's. They must be equal to what passed between some two moments that
/// the gateway may have taken for its begin and end, all counters of a direction between the same two.
/// What came since `floor_ns` may be counted.
fn shared(sheet: &mut Sheet<'_, '_>, leg: Leg, talk: &Talk, moments: &Moments, floor_ns: u64) {
    /// What was written has left by then.
    const LEAVING_NS: u64 = 1_000_000_000;
    /// Of a request with a body, some may have come before its head was read, and with it, unread,
    /// what other streams sent: no more than the gateway reads at a time.
    const UNREAD_BYTES: u64 = 64 * 1024;
    /// The header of a frame, without which there is neither head nor body (RFC 9113, section 4.1).
    const FRAME_BYTES: u64 = 9;
    let s = leg.name();
    let connection = &talk.connection;
    let look = format!("{} - {}", connection.peer, connection.local);
    for field in OF_ONE_CALL {
        sheet.field(
            Group::Attribution,
            &format!("{s}.{field}"),
            Want::Nothing,
            false,
            &look,
        );
    }
    let marks = match leg {
        Leg::Client => MARKS_OF_CLIENTS,
        Leg::Upstream => MARKS_OF_UPSTREAMS,
    };
    for mark in marks {
        let field = format!("timing.{mark}_us");
        sheet.field(Group::Attribution, &field, Want::Nothing, false, &look);
    }
    // The gateway reads the connection's counters twice: between two packets at the call's begin, and
    // between two at its end. What it counted is then what passed between the one and the other.
    let begin = match leg {
        Leg::Client => (floor_ns.min(moments.head_read), moments.head_read),
        Leg::Upstream => (moments.begun, moments.written),
    };
    let begin = (begin.0.saturating_sub(AROUND_NS), begin.1 + AROUND_NS);
    let end_ns = (
        moments.written.saturating_sub(AROUND_NS),
        moments.written + LEAVING_NS,
    );
    let body = |field: &str| sheet.record.number(field).unwrap_or(0);
    let asked = body("http.request.body.size");
    let answered = body("http.response.body.size");
    let (received, sent, ahead) = match leg {
        Leg::Client if asked > 0 => (asked, answered, UNREAD_BYTES),
        Leg::Client => (asked, answered, 0),
        Leg::Upstream => (answered, asked, 0),
    };
    // Of a call that broke off it is another question what the upstream was to have, or had.
    let has_status = sheet.record.get("http.response.status_code").is_some();
    let is_well = has_status && !broke_off(sheet.record, None);
    let least = |body: u64| match (is_well, leg) {
        (true, _) => body + FRAME_BYTES,
        (false, Leg::Client) => body,
        (false, Leg::Upstream) => 0,
    };
    for (is_inbound, names, least, ahead) in [
        (true, INBOUND, least(received), ahead),
        (false, OUTBOUND, least(sent), 0),
    ] {
        let told = names.map(|name| sheet.record.number(&format!("{s}.{name}")));
        let again_bytes = match is_inbound {
            true => Some(0),
            false => sheet.record.number(&format!("{s}.{OUTBOUND_AGAIN_BYTES}")),
        };
        let agrees = match (told, again_bytes) {
            ([Some(bytes), Some(segments), Some(ip_bytes), Some(again)], Some(again_bytes)) => {
                let told = derive::Passed {
                    bytes,
                    segments,
                    ip_bytes,
                    again,
                    again_bytes,
                };
                bytes >= least && derive::passed(connection, is_inbound, begin, end_ns, ahead, told)
            }
            _ => false,
        };
        let more = (!is_inbound).then_some((OUTBOUND_AGAIN_BYTES, Group::Retransmits));
        for (name, group) in names.into_iter().zip(SHARED_GROUPS).chain(more) {
            let capture = || "no two moments between which so much passed".to_owned();
            sheet.judged(group, &format!("{s}.{name}"), agrees, capture, &look);
        }
    }
    let field = format!("{s}.tcp.mss");
    sheet.field(Group::Headers, &field, mss(connection), false, &look);
    // How the connection ended is told of a call that saw it, and of no other.
    let ended = connection.ending();
    let ended = ended.map(|(how, when)| endings(connection, how, when));
    let want = ended.map_or(Want::Nothing, Want::OneOfTexts);
    let field = format!("{s}.tcp.close");
    sheet.field(Group::Ending, &field, want, true, &look);
}

/// Counters of a direction: payload, segments, IP bytes and repeats.
const INBOUND: [&str; 4] = [
    "wire.bytes_in",
    "wire.segments_in",
    "wire.ip_bytes_in",
    "tcp.peer_retransmits",
];
const OUTBOUND: [&str; 4] = [
    "wire.bytes_out",
    "wire.segments_out",
    "wire.ip_bytes_out",
    "tcp.retransmits",
];
const OUTBOUND_AGAIN_BYTES: &str = "tcp.retransmitted_bytes";
const SHARED_GROUPS: [Group; 4] = [
    Group::Payload,
    Group::Packets,
    Group::Packets,
    Group::Retransmits,
];

/// What the kernel cuts its segments to: what both ends offered, less the timestamps.
fn mss(connection: &Connection) -> Want {
    let offered = |at: Option<usize>| {
        let options = &connection.packet(at?).options;
        let value = option(options, 2)?;
        Some(u64::from(u16::from_be_bytes([
            *value.first()?,
            *value.get(1)?,
        ])))
    };
    let has_timestamps = |at: Option<usize>| {
        at.is_some_and(|at| option(&connection.packet(at).options, 8).is_some())
    };
    let (Some(a), Some(b)) = (offered(connection.syn), offered(connection.syn_ack)) else {
        return Want::Unknown;
    };
    let both = has_timestamps(connection.syn) && has_timestamps(connection.syn_ack);
    let stamps = if both { 12 } else { 0 };
    let full = a.min(b) - stamps;
    // Linux sends no more at once than half of the largest window it ever saw.
    let widest = connection
        .heard
        .iter()
        .map(|heard| u64::from(heard.window))
        .max();
    match widest.map(|window| (window / 2).max(68 - 20)) {
        Some(half) if half < full => Want::OneOf(vec![full, half, half - stamps.min(half)]),
        _ => Want::Is(full),
    }
}

fn syn(sheet: &mut Sheet<'_, '_>, connection: &Connection, is_first: Option<bool>) {
    let Some(at) = connection.syn else {
        return;
    };
    let packet = connection.packet(at);
    let look = format!("front.pcap packet {}", packet.number);
    let number = |kind: u8| {
        option(&packet.options, kind).map(|value| {
            value
                .iter()
                .fold(0_u64, |all, byte| all << 8 | u64::from(*byte))
        })
    };
    let hops = [32_u64, 64, 128, 255]
        .into_iter()
        .find(|initial| *initial >= u64::from(packet.ttl))
        .map(|initial| initial - u64::from(packet.ttl));
    for (name, want) in [
        ("client.syn.ttl", Want::Is(packet.ttl.into())),
        ("client.syn.hops_guess", Want::or_unknown(hops)),
        ("client.syn.window", Want::Is(packet.window.into())),
        ("client.syn.mss", Want::or_nothing(number(2))),
        ("client.syn.wscale", Want::or_nothing(number(3))),
        ("client.syn.dscp", Want::Is(u64::from(packet.tos >> 2))),
        ("client.syn.options", Want::Text(layout(&packet.options))),
    ] {
        sheet.field(Group::Syn, name, want, false, &look);
    }
    let flag = |sheet: &mut Sheet<'_, '_>, name: &str, want: Option<bool>| {
        let same = sheet.record.get(name).and_then(Value::as_bool) == want;
        sheet.judged(Group::Syn, name, same, || format!("{want:?}"), &look);
    };
    flag(sheet, "client.syn.df", packet.df);
    const ECE_CWR: u8 = 0xc0;
    flag(sheet, "client.syn.ecn", Some(packet.is(ECE_CWR)));
    // Of calls that share a connection, the record says which was the first.
    let told = sheet.record.number("client.socket.request_seq") == Some(1);
    let shaken = connection.third.filter(|_| is_first.unwrap_or(told));
    const FIELD: &str = "client.handshake_us";
    let told = sheet.record.number(FIELD);
    let since =
        |syn: usize| Some((connection.moment(shaken?).ns - connection.moment(syn).ns) / 1000);
    let taken = [Some(at), connection.syn_before].into_iter().flatten();
    let us = taken
        .filter_map(since)
        .min_by_key(|us| us.abs_diff(told.unwrap_or_default()));
    if let (Some(us), Some(told), Times::Judged) = (us, told, sheet.verdict.times)
        && (2 * SLOW_US..=HELD_UP_MAX_US).contains(&told.abs_diff(us))
    {
        // Like any mark, in a few calls.
        sheet.verdict.held_up.push(Miss {
            call: sheet.call.to_owned(),
            field: FIELD.to_owned(),
            record: told.to_string(),
            capture: us.to_string(),
            packets: look,
        });
        return;
    }
    let want = us.map_or(Want::Nothing, |us| sheet.within(us, 2 * SLOW_US));
    sheet.field(Group::Syn, FIELD, want, false, &look);
}

/// No single mark may be further off than this, µs, beyond what two captures differ by.
const SLOW_US: u64 = 150;
/// Except in a few calls, whose host was held up between the capture and the tap: by this, µs,
const HELD_UP_MAX_US: u64 = 5_000;
/// and no more than one call in so many. How often it happens at all, the 99 of 100 say.
const HELD_UP_ONE_IN: usize = 200;
/// Nor be on the wrong side of its packet by more than rounding and two readings of a clock take, ns.
const EARLY_NS: i64 = 20_000;

/// The mark is of a packet that left.
fn captured_after(mark: &str) -> bool {
    matches!(mark, "resp_first" | "resp_last")
        || mark.starts_with("up_sent")
        || mark == "up_resent_last"
}

/// Names of TCP options in order, as p0f lists them.
fn layout(options: &[u8]) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut rest = options;
    while let [kind, after @ ..] = rest {
        let length = match kind {
            0 => {
                names.push(format!("eol+{}", after.len()));
                break;
            }
            1 => 1,
            _ => after.first().map_or(0, |length| usize::from(*length)),
        };
        names.push(match kind {
            1 => "nop".to_owned(),
            2 => "mss".to_owned(),
            3 => "ws".to_owned(),
            4 => "sok".to_owned(),
            5 => "sack".to_owned(),
            8 => "ts".to_owned(),
            other => format!("?{other}"),
        });
        if length == 0 || length > rest.len() {
            break;
        }
        rest = &rest[length..];
    }
    names.join(",")
}

fn flag_names(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = names
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

fn look(connection: &Connection, facts: &Facts) -> String {
    let packet = |moment: Option<Moment>| moment.map_or("-".to_owned(), |at| at.packet.to_string());
    format!(
        "{} - {}: request {}..{}, response {}..{}",
        connection.peer,
        connection.local,
        packet(facts.request_first),
        packet(facts.request_last),
        packet(facts.response_first),
        packet(facts.response_last),
    )
}

/// The marks that are on the wire, each against the packet it is about.
fn marks(
    sheet: &mut Sheet<'_, '_>,
    (client, upstream): (Own<'_>, Own<'_>),
    shared_upstream: Option<&Connection>,
    early: Option<Own<'_>>,
    base: Option<u64>,
    times: &mut BTreeMap<&'static str, Vec<i64>>,
) {
    let acked = |facts: &Facts| facts.acked.map(|heard| heard.moment);
    let mut wanted = Vec::new();
    if let Some((talk, at)) = client {
        let facts = &talk.facts[at];
        wanted.extend([
            (Leg::Client, "req_first", facts.request_first),
            (Leg::Client, "req_last", facts.request_last),
            (Leg::Client, "head_arrived", facts.head_last),
            (Leg::Client, "resp_first", facts.response_first),
            (Leg::Client, "resp_last", facts.response_last),
            (Leg::Client, "resp_acked", acked(facts)),
        ]);
    }
    let of_upstream = |(talk, at): (&Talk, usize)| {
        let facts = &talk.facts[at];
        let connected = talk.connection.syn_ack.map(|at| talk.connection.moment(at));
        let is_new = facts.serial == 1;
        [
            ("up_connected", connected.filter(|_| is_new)),
            ("up_sent_first", facts.request_first),
            ("up_sent_last", facts.request_last),
            ("up_resent_last", facts.resent_last),
            ("up_acked", acked(facts)),
            ("up_first", facts.response_first),
            ("up_last", facts.response_last),
        ]
    };
    if let Some(own) = upstream {
        let marks = of_upstream(own).into_iter();
        wanted.extend(marks.map(|(mark, seen)| (Leg::Upstream, mark, seen)));
    }
    // Of a connection that calls share, only when it was made is one call's: the first one's.
    if let Some(connection) = shared_upstream
        && sheet.record.number("upstream.socket.request_seq") == Some(1)
    {
        let connected = connection.syn_ack.map(|at| connection.moment(at));
        wanted.push((Leg::Upstream, "up_connected", connected));
    }
    let before: Option<HashMap<&str, Option<Moment>>> =
        early.map(|own| own.map_or_else(HashMap::new, |own| of_upstream(own).into()));
    for (leg, mark, seen) in wanted {
        let field = format!("timing.{mark}_us");
        let told = sheet.record.get(&field).and_then(Value::as_i64);
        let is_partial =
            sheet.record.text(&format!("{}.attribution", leg.name())) == Some("partial");
        // What had come when the gateway let go of the upstream, of a call that broke off.
        let before = before.as_ref().filter(|_| leg == Leg::Upstream);
        let before = before.map(|marks| marks.get(mark).copied().flatten());
        let by_reset = mark == "resp_acked"
            && client.is_some_and(|(talk, at)| {
                let acked = talk.facts[at].acked;
                acked.is_some_and(|heard| heard.is_reset())
            });
        // Inside TLS a head's end is known only where nothing else was read with it.
        let is_hidden = mark == "head_arrived" && sheet.record.text("url.scheme") == Some("https");
        let may_be_late = before == Some(None) || by_reset || is_hidden;
        let (told, seen) = match (told, seen) {
            (None, None) => continue,
            // It had not come when the gateway let go of the upstream.
            (None, Some(_)) if is_partial || may_be_late => {
                sheet.verdict.fields.entry(field).or_default().absent += 1;
                continue;
            }
            (None, Some(seen)) => {
                let capture = || format!("packet {}", seen.packet);
                sheet.judged(Group::Marks, &field, false, capture, "");
                continue;
            }
            (Some(_), None) => {
                sheet.judged(
                    Group::Marks,
                    &field,
                    false,
                    || "no such packet".to_owned(),
                    "",
                );
                continue;
            }
            (Some(told), Some(seen)) => (told, seen),
        };
        let Some(base) = base else {
            sheet.judged(Group::Marks, "timestamp", false, || "a time".to_owned(), "");
            return;
        };
        let told_ns = base as i64 + told * 1000;
        // Of a response that was no longer wanted, any packet may have been the last that counted.
        let from = match (before, mark) {
            (Some(_), "up_last") => upstream.and_then(|(talk, at)| talk.facts[at].response_first),
            (before, _) => before.flatten(),
        };
        let from_ns = from.map_or(seen.ns, |moment| moment.ns) as i64;
        let between = from_ns - EARLY_NS..=seen.ns as i64 + EARLY_NS;
        if from_ns != seen.ns as i64 && between.contains(&told_ns) {
            let loose = (sheet.call.to_owned(), field.clone());
            sheet.verdict.loose.insert(loose);
            sheet.judged(Group::Marks, &field, true, String::new, "");
            continue;
        }
        let off = told_ns - seen.ns as i64;
        times.entry(mark).or_default().push(off);
        // A packet is captured before it is looked at on its way in, and after on its way out.
        let late_ns = if captured_after(mark) { -off } else { off };
        let near = (-EARLY_NS..=SLOW_US as i64 * 1000).contains(&late_ns);
        let held = near || sheet.verdict.times == Times::Passed;
        let capture = || format!("packet {}, {} µs from there", seen.packet, off / 1000);
        if !held && (0..=HELD_UP_MAX_US as i64 * 1000).contains(&late_ns) {
            // Between the capture and the tap the host did something else. Is that the exception?
            let call = sheet.call.to_owned();
            sheet.verdict.held_up.push(Miss {
                call,
                record: sheet
                    .record
                    .get(&field)
                    .map_or(String::new(), Value::to_string),
                capture: capture(),
                field,
                packets: String::new(),
            });
            continue;
        }
        sheet.judged(Group::Marks, &field, held, capture, "");
    }
}

/// Marks that only the gateway can set lie between those on the wire.
fn order(sheet: &mut Sheet<'_, '_>) {
    let mark = |name: &str| sheet.record.get(&format!("timing.{name}_us"))?.as_i64();
    let pairs = [
        ("head_arrived", "head_read"),
        ("head_read", "up_begin"),
        ("up_begin", "up_connected"),
        ("up_connected", "up_secured"),
        ("up_connected", "up_sent_first"),
        ("up_secured", "up_sent_first"),
        ("up_begin", "up_sent_first"),
        ("up_first", "resp_read"),
        ("resp_read", "resp_first"),
        ("resp_read", "resp_written"),
        ("head_read", "resp_written"),
    ];
    let mut wrong = Vec::new();
    for (earlier, later) in pairs {
        if let (Some(from), Some(to)) = (mark(earlier), mark(later)) {
            wrong.push((later, earlier, from <= to));
        }
    }
    for (later, earlier, held) in wrong {
        let capture = || format!("not before {earlier}");
        sheet.judged(
            Group::Marks,
            &format!("timing.{later}_us"),
            held,
            capture,
            "",
        );
    }
}

/// The parts follow from the marks, and add up to the whole.
fn time_parts(sheet: &mut Sheet<'_, '_>) {
    let told: BTreeMap<&str, u64> = sheet.record.parts_us().collect();
    let total: u64 = told.values().sum();
    let delivered = sheet.record.number("delivered_us");
    let mark = |name: &str| sheet.record.get(&format!("timing.{name}_us"))?.as_i64();
    let whole = mark("req_first")
        .zip(mark("resp_acked"))
        .map(|(from, to)| to - from);
    let whole = whole.and_then(|whole| u64::try_from(whole).ok());
    let same = delivered == whole && (delivered.is_none() || delivered == Some(total));
    let capture = || format!("{whole:?} by the marks, {total} by the parts");
    sheet.judged(Group::Parts, "delivered_us", same, capture, "");
    let whole = mark("req_first")
        .zip(mark("resp_last"))
        .map(|(from, to)| to - from);
    let whole = whole.and_then(|whole| u64::try_from(whole).ok());
    let same = sheet.record.number("duration_us") == whole;
    sheet.judged(
        Group::Parts,
        "duration_us",
        same,
        || format!("{whole:?} by the marks"),
        "",
    );
    let whole = mark("head_read")
        .zip(mark("resp_written"))
        .map(|(from, to)| to - from);
    let whole = whole.and_then(|whole| u64::try_from(whole).ok());
    let same = sheet.record.number("gateway.duration_us") == whole;
    let capture = || format!("{whole:?} by the marks");
    sheet.judged(Group::Parts, "gateway.duration_us", same, capture, "");
    match parts::parts(sheet.record) {
        None => {
            let capture = || "no acknowledgement ended it".to_owned();
            sheet.judged(Group::Parts, "delivered_us", told.is_empty(), capture, "");
        }
        Some(Err(why)) => sheet.judged(Group::Parts, "time.delivery_us", false, || why, ""),
        Some(Ok(parts)) => {
            let mut names: Vec<String> = parts.keys().cloned().collect();
            names.extend(told.keys().map(|name| (*name).to_owned()));
            names.sort_unstable();
            names.dedup();
            for name in names {
                let wanted = parts.get(&name).copied().unwrap_or(0);
                let found = told.get(name.as_str()).copied().unwrap_or(0);
                let field = format!("time.{name}_us");
                let capture = || format!("{wanted}, by the marks");
                sheet.judged(Group::Parts, &field, wanted == found, capture, "");
            }
        }
    }
}

/// Nanoseconds since 1970 of `2026-11-22T17:24:25.293940Z`.
fn wall_ns(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since 1970 by the calendar that begins its years in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    let fraction: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(u64::try_from(seconds).ok()? * 1_000_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_nanoseconds() {
        assert_eq!(wall_ns("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            wall_ns("2026-11-22T17:24:25.293940Z"),
            Some(1_795_368_265_293_940_000)
        );
        assert_eq!(
            wall_ns("2024-02-29T23:59:59.5Z"),
            Some(1_709_251_199_500_000_000)
        );
        assert_eq!(wall_ns("yesterday"), None);
    }

    #[test]
    fn options_are_named_as_p0f_does() {
        let options = [
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        assert_eq!(layout(&options), "mss,sok,ts,nop,ws");
        assert_eq!(layout(&[1, 0, 0, 0]), "nop,eol+2");
    }

    #[test]
    fn flags_are_named_from_the_lowest_bit() {
        assert_eq!(flag_names(0x19), "FIN,PSH,ACK");
    }
}
