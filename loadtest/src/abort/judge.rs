//! Holds the record of an ending against its captures.

use std::fmt::Debug;

use super::Played;
use super::scripts::upstream_head;
use super::wire::Connection;

/// Two looks at one clock, and the time a packet takes to be seen by the one and the other, µs.
const CLOCK_US: u64 = 5_000;

/// A socket whose call waits is looked at this often, µs, and its record is there soon after.
const LOOK_US: u64 = 1_100_000;

/// What the record claims and the script or the wire denies; nothing where they agree.
pub fn judge(played: &Played) -> Vec<String> {
    let mut judge = Judge {
        played,
        misses: Vec::new(),
    };
    judge.words();
    judge.ends();
    judge.response_bytes();
    judge.discarded();
    judge.timeouts();
    judge.window();
    judge.misses
}

struct Judge<'a> {
    played: &'a Played,
    misses: Vec<String>,
}

impl Judge<'_> {
    fn same<T: PartialEq + Debug>(&mut self, what: &str, record: &T, truth: &T) {
        if record != truth {
            self.misses.push(format!(
                "{what}: {record:?} in the record, {truth:?} in truth"
            ));
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.played.record.number(name)
    }

    /// What the script says of who did what.
    fn words(&mut self) {
        let Played { ending, record, .. } = self.played;
        let flags: Vec<&str> = record.list("response.flags").collect();
        self.same("response.flags", &flags, &ending.flag.into_iter().collect());
        self.same("error.type", &record.text("error.type"), &ending.flag);
        for (name, expected) in [
            ("http.response.status_code", ending.status),
            ("upstream.http.response.status_code", ending.upstream_status),
        ] {
            self.same(name, &self.number(name), &expected);
        }
        for name in ["client.attribution", "upstream.attribution"] {
            if let Some(attribution) = record.text(name) {
                self.same(name, &attribution, &"exact");
            }
        }
    }

    /// How the connections ended, by the script and on the wire.
    fn ends(&mut self) {
        let Played {
            ending,
            record,
            front,
            back,
            ..
        } = self.played;
        let sides = [
            ("client.tcp.close", ending.client_close, Some(front)),
            ("upstream.tcp.close", ending.upstream_close, back.as_ref()),
        ];
        for (name, expected, connection) in sides {
            let found = record.text(name);
            if expected.is_some() {
                self.same(name, &found, &expected);
            }
            // One that came after the record is none of its business.
            let first = connection
                .and_then(|connection| connection.first)
                .map(|first| first.word());
            if found.is_some() {
                self.same(&format!("{name} on the wire"), &found, &first);
            }
        }
    }

    /// To the byte: what was sent of the response, and what of that the client acknowledged.
    fn response_bytes(&mut self) {
        let Played { front, start, .. } = self.played;
        let sent = self.sent();
        self.same(
            "client.wire.bytes_out",
            &self.number("client.wire.bytes_out"),
            &Some(sent),
        );
        let well = self.played.ending.flag.is_none();
        let acked = (!well).then(|| front.acked.saturating_sub(*start));
        self.same(
            "client.tcp.bytes_acked",
            &self.number("client.tcp.bytes_acked"),
            &acked,
        );
        self.same(
            "client.tcp.retransmits",
            &self.number("client.tcp.retransmits"),
            &Some(self.resent_before_the_record(front)),
        );
        // What was never sent cannot be seen on the wire. But of a body that is sent as it is, the
        // head tells what was written.
        let written = self
            .head()
            .zip(self.number("http.response.body.size"))
            .map(|(head, body)| head + body);
        if let (Some(unsent), Some(written), false) = (
            self.number("client.tcp.bytes_unsent"),
            written,
            self.played.ending.length.is_none(),
        ) {
            self.same("client.tcp.bytes_unsent", &(sent + unsent), &written);
        }
    }

    fn sent(&self) -> u64 {
        self.played.front.sent.saturating_sub(self.played.start)
    }

    /// Bytes of the response's head, where one was sent.
    fn head(&self) -> Option<u64> {
        self.played.front.head_bytes(self.played.start)
    }

    /// Retransmissions go on after the record was written.
    fn resent_before_the_record(&self, connection: &Connection) -> u64 {
        connection.resent_until(self.played.recorded_us)
    }

    /// What of the upstream's answer the client acknowledged, and what was in vain.
    fn discarded(&mut self) {
        let Played {
            ending,
            record,
            front,
            back,
            start,
            ..
        } = self.played;
        let Some(read) = self.number("upstream.http.response.body.size") else {
            let is_due = ending.flag.is_some() && ending.upstream_status.is_some();
            self.same("upstream.http.response.body.size", &is_due, &false);
            return;
        };
        let Some(length) = ending.length else {
            // All that was sent was acknowledged.
            let body = self.number("http.response.body.size");
            self.same("upstream.http.response.body.size", &Some(read), &body);
            let discarded = self.number("upstream.http.response.body.discarded");
            self.same(
                "upstream.http.response.body.discarded",
                &discarded,
                &Some(0),
            );
            return;
        };
        let head = self.head().unwrap_or(0);
        let acked = front.acked.saturating_sub(start + head);
        self.same(
            "upstream.http.response.body.discarded",
            &self.number("upstream.http.response.body.discarded"),
            &Some(read.saturating_sub(acked)),
        );
        // It cannot have read more than came, and has read all that came unless it had to leave some.
        let arrived = back.as_ref().map_or(0, |back| back.received);
        let head_of = |length| upstream_head(length).len();
        let before = ending.before.map_or(0, |before| head_of(before) + before);
        let arrived = arrived.saturating_sub((head_of(length) + before) as u64);
        if ending.unread {
            self.same("more was read than came", &(read > arrived), &false);
        } else {
            self.same("upstream.http.response.body.size", &read, &arrived);
        }
        let complete = record.get("upstream.http.response.complete");
        let complete = complete.and_then(serde_json::Value::as_bool);
        self.same(
            "upstream.http.response.complete",
            &complete,
            &Some(read == length as u64),
        );
    }

    /// As many as the gateway's kernel counted for all its connections, and none that the capture
    /// does not show as a repeat of the oldest byte.
    fn timeouts(&mut self) {
        let Played {
            front,
            back,
            timeouts,
            recorded_us,
            ..
        } = self.played;
        let client = self.number("client.tcp.rtos").unwrap_or(0);
        let upstream = self.number("upstream.tcp.rtos").unwrap_or(0);
        let total = client + upstream;
        if total < timeouts.0 || total > timeouts.1 {
            self.misses.push(format!(
                "tcp.rtos: {client} and {upstream} in the record, the kernel counted {timeouts:?}"
            ));
        }
        let repeats = |connection: Option<&Connection>| {
            connection.map_or(0, |connection| {
                connection.repeats_of_the_oldest(*recorded_us)
            })
        };
        for (name, rtos, repeats) in [
            ("client.tcp.rtos", client, repeats(Some(front))),
            ("upstream.tcp.rtos", upstream, repeats(back.as_ref())),
        ] {
            if rtos > repeats {
                self.misses
                    .push(format!("{name}: {rtos} in the record, {repeats} repeats"));
            }
        }
    }

    /// The time without a window, up to the end: of the connection, or of the wait for it.
    fn window(&mut self) {
        let Played {
            ending,
            front,
            recorded_us,
            ..
        } = self.played;
        let closed = self.number("client.tcp.zero_window_us").unwrap_or(0);
        let Some((since, until)) = front.window_closed().filter(|_| ending.closes_window) else {
            self.same("client.tcp.zero_window_us", &closed, &0);
            self.same("the script closes a window", &ending.closes_window, &false);
            return;
        };
        self.same(
            "client.tcp.window_min",
            &self.number("client.tcp.window_min"),
            &Some(0),
        );
        let ended = until.or(front.reset_us()).filter(|at| at <= recorded_us);
        let truth = ended.unwrap_or(*recorded_us).saturating_sub(since);
        // Without an end it is as long as when the record's socket was last looked at.
        let slack = if ended.is_some() { CLOCK_US } else { LOOK_US };
        if closed > truth + CLOCK_US || closed + slack < truth {
            self.misses.push(format!(
                "client.tcp.zero_window_us: {closed} in the record, {truth} on the wire"
            ));
        }
    }
}
