//! Where the time went, reckoned anew from a record's own marks.
//!
//! By the table of `docs/record.md`: every microsecond from the first request packet until the
//! client's kernel had acknowledged the last response byte belongs to exactly one part. Two things
//! no packet shows, how long the gateway was blocked writing and when the first of several attempts
//! began. Those are taken from the record's own parts, and then everything else must follow.

use std::collections::BTreeMap;

use crate::records::Record;

/// The parts of a record's time; absent where no acknowledgement ended it.
pub(crate) fn parts(record: &Record) -> Option<Result<BTreeMap<String, u64>, String>> {
    let begin = mark(record, "req_first")?;
    let end = mark(record, "resp_acked").filter(|end| *end >= begin)?;
    Some(Reckoning::of(record, begin, end).all())
}

fn mark(record: &Record, name: &str) -> Option<i64> {
    record.get(&format!("timing.{name}_us"))?.as_i64()
}

/// How the answer came about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Own,
    Failed,
    Pooled,
    New,
    NewTls,
}

struct Reckoning<'a> {
    record: &'a Record,
    begin: i64,
    end: i64,
    way: Way,
    parts: BTreeMap<String, u64>,
}

impl<'a> Reckoning<'a> {
    fn of(record: &'a Record, begin: i64, end: i64) -> Self {
        let attempts = record
            .get("upstream.attempts")
            .and_then(|list| list.as_array());
        let last = attempts.and_then(|list| list.last());
        let outcome = last.and_then(|last| last.get("outcome")?.as_str());
        let is_reused = record
            .get("upstream.reused")
            .and_then(|reused| reused.as_bool());
        // An attempt whose connection came to be carried the request, however it went on.
        let is_ready = outcome == Some("ok")
            || mark(record, "up_sent_first").is_some()
            || mark(record, "up_secured").is_some()
            || (outcome.is_some() && record.get("upstream.socket.request_seq").is_some());
        let way = match (last, is_ready) {
            (None, _) => Way::Own,
            (_, false) => Way::Failed,
            _ if is_reused == Some(true) => Way::Pooled,
            _ if record.get("upstream.tls.protocol.version").is_some() => Way::NewTls,
            _ => Way::New,
        };
        Self {
            record,
            begin,
            end,
            way,
            parts: BTreeMap::new(),
        }
    }

    fn all(mut self) -> Result<BTreeMap<String, u64>, String> {
        let way = self.way;
        let at = |name: &str| mark(self.record, name);
        // Marks in the order in which a call passes them: the stretch that ends at each, and its time.
        let mut passed: Vec<(&'static str, Option<i64>)> = vec![
            ("client_send", at("head_arrived")),
            ("kernel_wait", at("head_read")),
        ];
        if way != Way::Own {
            let begin = at("up_begin");
            let failed = self.record.number("time.failed_attempts_us");
            let attempts = self
                .record
                .get("upstream.attempts")
                .and_then(|list| list.as_array());
            if attempts.is_some_and(|list| list.len() > 1) && way != Way::Failed {
                let first = begin.map(|begin| begin - failed.unwrap_or(0) as i64);
                passed.push(("gateway", first));
                passed.push(("failed_attempts", begin));
            } else {
                passed.push(("gateway", self.first_begin().or(begin)));
                if self.first_begin().is_some() {
                    passed.push(("failed_attempts", begin));
                }
            }
        }
        match way {
            Way::Own => passed.push(("gateway", at("resp_first"))),
            Way::Failed => passed.push(("failed_attempts", at("resp_first"))),
            Way::Pooled | Way::New | Way::NewTls => {
                if way != Way::Pooled {
                    passed.push(("connect", at("up_connected")));
                }
                if way == Way::NewTls {
                    passed.push(("upstream_tls", at("up_secured")));
                }
                passed.push(("gateway", at("up_sent_first")));
                passed.push(("forwarding", at("up_sent_last")));
                passed.push(("answering", at("up_first").or_else(|| self.whole_answer())));
                passed.push(("returning", at("resp_first")));
            }
        }
        passed.push(("responding", at("resp_last")));
        passed.push(("acknowledging", Some(self.end)));

        // What began ended what came before it.
        let mut earliest = i64::MAX;
        for (_, time) in passed.iter_mut().rev() {
            if let Some(time) = time {
                earliest = earliest.min(*time);
                *time = earliest.max(self.begin);
            }
        }
        let mut from = self.begin;
        let mut is_torn = false;
        for (stretch, time) in passed {
            let Some(to) = time else {
                is_torn = true;
                continue;
            };
            if is_torn {
                if to > from {
                    self.add("unattributed", to - from);
                }
            } else {
                self.stretch(stretch, from, to)?;
            }
            is_torn = false;
            from = to;
        }
        Ok(self.parts)
    }

    /// Where every attempt failed nothing tells when the first began but what was left for the gateway.
    fn first_begin(&self) -> Option<i64> {
        let attempts = self.record.get("upstream.attempts")?.as_array()?;
        if self.way != Way::Failed || attempts.len() < 2 {
            return None;
        }
        let read = mark(self.record, "head_read")?;
        let own = self.record.number("time.gateway_us")? as i64;
        Some(read + own)
    }

    /// All of the response was there before the gateway had its head.
    fn whole_answer(&self) -> Option<i64> {
        let last = mark(self.record, "up_last")?;
        (last <= mark(self.record, "resp_read")?).then_some(last)
    }

    fn stretch(&mut self, stretch: &str, from: i64, to: i64) -> Result<(), String> {
        match stretch {
            "forwarding" => self.forwarding(from, to),
            "answering" => self.answering(from, to),
            "returning" => self.returning(from, to),
            "responding" => return self.responding(from, to),
            "acknowledging" => self.acknowledging(to - from),
            part => self.add(part, to - from),
        }
        Ok(())
    }

    fn add(&mut self, part: &str, us: i64) {
        *self.parts.entry(part.to_owned()).or_insert(0) += us.max(0) as u64;
    }

    fn forwarding(&mut self, from: i64, to: i64) {
        match mark(self.record, "req_last") {
            Some(complete) => {
                let complete = complete.clamp(from, to);
                self.add("client_send", complete - from);
                self.add("gateway", to - complete);
            }
            None if to > from => self.add("unattributed", to - from),
            None => {}
        }
    }

    fn answering(&mut self, from: i64, to: i64) {
        let sent = mark(self.record, "up_resent_last")
            .unwrap_or(from)
            .clamp(from, to);
        let is_pure = self.record.text("upstream.tcp.ack_kind") == Some("pure");
        let acked = mark(self.record, "up_acked").filter(|_| is_pure);
        let trips = [
            self.record
                .number("upstream.tcp.min_rtt_us")
                .map(|us| us as i64),
            acked.map(|acked| (acked - sent).max(0)),
        ];
        match trips.into_iter().flatten().min() {
            Some(trip) => {
                let network = sent - from + trip.min(to - sent);
                self.add("upstream_network", network);
                self.add("upstream_server", to - from - network);
            }
            None => {
                self.add("upstream_network", sent - from);
                self.add("unattributed", to - sent);
            }
        }
    }

    fn returning(&mut self, from: i64, to: i64) {
        let waited = mark(self.record, "resp_read")
            .zip(mark(self.record, "up_last"))
            .filter(|(_, last)| *last <= to)
            .map_or(0, |(read, last)| (last - read.clamp(from, to)).max(0));
        if waited > 0 {
            self.add("upstream_server", waited);
        }
        self.add("gateway", to - from - waited);
    }

    fn responding(&mut self, from: i64, to: i64) -> Result<(), String> {
        let written = mark(self.record, "resp_written")
            .unwrap_or(to)
            .clamp(from, to);
        let leaving = to - written;
        // What the acknowledgement's stretch adds is known; what is left of `delivery` was blocked.
        let told = self.record.number("time.delivery_us").unwrap_or(0) as i64;
        let blocked = told - leaving - self.last_trip(self.end - to);
        if blocked < 0 || blocked > written - from {
            return Err(format!(
                "time.delivery_us of {told} leaves {blocked} µs of being blocked, in {} µs of writing",
                written - from
            ));
        }
        self.add("delivery", blocked + leaving);
        let writing = written - from - blocked;
        let upstream = match (mark(self.record, "resp_read"), mark(self.record, "up_last")) {
            (None, _) => 0,
            (Some(_), Some(last)) => writing.min((last - from).max(0)),
            (Some(_), None) => writing,
        };
        if upstream > 0 {
            self.add("upstream_server", upstream);
        }
        self.add("gateway", writing - upstream);
        Ok(())
    }

    /// How much of the wait for the last acknowledgement is the network's.
    fn last_trip(&self, whole: i64) -> i64 {
        let is_calm = self.record.number("client.tcp.retransmits") == Some(0)
            && self.record.number("client.tcp.zero_window_us").unwrap_or(0) == 0;
        match self.record.number("client.tcp.min_rtt_us") {
            Some(trip) if is_calm => whole.min(trip as i64),
            _ => whole,
        }
    }

    fn acknowledging(&mut self, whole: i64) {
        let trip = self.last_trip(whole);
        self.add("delivery", trip);
        if trip < whole {
            self.add("delayed_ack", whole - trip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;

    fn reckon(json: &str) -> Result<BTreeMap<String, u64>, String> {
        let line = format!("{json}\n");
        let records = Records::parse(line.as_bytes());
        parts(&records.records[0]).unwrap()
    }

    const PLAIN: &str = r#"{"timing.req_first_us":0,"timing.req_last_us":0,"timing.head_arrived_us":0,
        "timing.head_read_us":745,"timing.up_begin_us":1018,"timing.up_connected_us":1851,
        "timing.up_sent_first_us":2320,"timing.up_sent_last_us":2320,"timing.up_acked_us":2359,
        "timing.up_first_us":2448,"timing.up_last_us":2448,"timing.resp_read_us":2608,
        "timing.resp_first_us":2863,"timing.resp_last_us":2863,"timing.resp_written_us":3143,
        "timing.resp_acked_us":2909,"upstream.attempts":[{"outcome":"ok"}],
        "upstream.tcp.ack_kind":"pure","upstream.tcp.min_rtt_us":44,"client.tcp.min_rtt_us":34,
        "client.tcp.retransmits":0,"client.tcp.zero_window_us":0,"time.delivery_us":34,
        "time.delayed_ack_us":12}"#;

    #[test]
    fn the_parts_of_a_plain_call() {
        let parts = reckon(&PLAIN.replace('\n', "")).unwrap();
        let expected = [
            ("client_send", 0),
            ("connect", 833),
            ("delayed_ack", 12),
            ("delivery", 34),
            ("gateway", 273 + 469 + 415),
            ("kernel_wait", 745),
            ("upstream_network", 39),
            ("upstream_server", 89),
        ];
        let expected = expected.map(|(part, us)| (part.to_owned(), us));
        assert_eq!(parts, BTreeMap::from(expected));
        assert_eq!(parts.values().sum::<u64>(), 2909);
    }

    #[test]
    fn a_delivery_longer_than_the_writing_is_refused() {
        let record = PLAIN
            .replace('\n', "")
            .replace("delivery_us\":34", "delivery_us\":35");
        assert!(reckon(&record).is_err());
    }
}
