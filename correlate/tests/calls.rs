//! Calls as data: what both halves saw, and what becomes of it.

use std::fmt::Write as _;
use std::sync::Arc;

use calltap_correlate::exchange::{
    Attempt, Exchange, GatewayTimes, Leg, Request, Response, Sharing, UpstreamBody, UpstreamLeg,
};
use calltap_correlate::join::{Correlator, Limits, WallClock};
use calltap_correlate::record::{CallRecord, SocketFields};
use calltap_correlate::socket::{
    Counters, Coverage, DirectionTotals, SocketCookie, SocketSnapshot, Turn, Turns,
};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use uuid::Uuid;

/// A call told in clauses, times in microseconds:
///
/// `c<` and `u<` are what was received from the client and the upstream, `c>` and `u>` what was
/// sent to them: `c< 0..100 @10-12` is a turn, `range 0..90` the bytes of the call where they are not
/// those of the turns. A turn goes on with `x3` (segments), `re2` (of them sent again), `resent@15` (its end),
/// `ack 100@14`, `data` (the acknowledgement carried some), `zero 30` (closed window).
fn call(script: &str) -> Exchange {
    let mut call = Exchange {
        uid: Uuid::nil(),
        request: Request {
            method: "GET".into(),
            path: "/".into(),
            ..Request::default()
        },
        response: Response {
            status: Some(200),
            ..Response::default()
        },
        client: leg(7),
        cluster: Some("orders".into()),
        ..Exchange::default()
    };
    for clause in script
        .split(';')
        .map(str::trim)
        .filter(|clause| !clause.is_empty())
    {
        let words: Vec<&str> = clause.split_whitespace().collect();
        match words[..] {
            ["head_arrived", at] => call.client.head_arrived_ns = Some(us(at)),
            ["head_read", at] => call.times.head_read_ns = us(at),
            ["interim_read", at] => call.times.interim_read_ns = Some(us(at)),
            ["resp_read", at] => call.times.resp_read_ns = Some(us(at)),
            ["written", at] => call.times.resp_written_ns = us(at),
            ["no", "response"] => call.response.status = None,
            ["flag", flag] => call.flags.push(Box::leak(flag.to_owned().into_boxed_str())),
            // The bytes that the gateway had read of it.
            ["upstream_body", bytes] => {
                call.response.upstream_body = Some(UpstreamBody {
                    bytes: bytes.parse().expect("a number"),
                    complete: None,
                    passed_on: true,
                });
            }
            ["gateway", "answers"] => {
                let body = call.response.upstream_body.as_mut();
                body.expect("an upstream's body").passed_on = false;
            }
            // Where it begins in what is sent, and how much of it was written.
            ["body", at, bytes] => {
                call.response.body_start = at.parse().ok();
                call.response.body_bytes = bytes.parse().expect("a number");
            }
            ["is", "blocked"] => call.response.is_blocked = true,
            ["blocked", time] => call.times.write_blocked_ns = us(time),
            ["attempt", outcome, at, ref rest @ ..] => {
                let after = |name| {
                    let found = rest.iter().position(|word| *word == name)?;
                    Some(us(rest[found + 1]))
                };
                let number = call.attempts.len() as u64;
                call.attempts.push(Attempt {
                    address: format!("192.0.2.{number}:80").into(),
                    cookie: SocketCookie::new(100 + number),
                    begin_ns: us(at),
                    connected_ns: after("connected"),
                    secured_ns: after("secured"),
                    outcome: Box::leak(outcome.to_owned().into_boxed_str()),
                });
                if outcome == "ok" || outcome == "reset" {
                    call.upstream = Some(UpstreamLeg {
                        leg: leg(100 + number),
                        reused: rest.contains(&"pooled"),
                        ..UpstreamLeg::default()
                    });
                }
            }
            ["u", "tls", version] => {
                upstream(&mut call).tls_version = Some(version.to_owned().into());
            }
            ["c", ref words @ ..] => about(&mut call.client, words),
            ["u", ref words @ ..] => about(&mut upstream(&mut call).leg, words),
            [direction, ref words @ ..] => {
                let leg = match direction.as_bytes()[0] {
                    b'c' => &mut call.client,
                    _ => &mut upstream(&mut call).leg,
                };
                match direction.as_bytes()[1] {
                    b'<' => passed(&mut leg.received, &mut leg.received_range, words),
                    _ => passed(&mut leg.sent, &mut leg.sent_range, words),
                }
            }
            [] => unreachable!("empty clauses are skipped"),
        }
    }
    call
}

fn leg(cookie: u64) -> Leg {
    Leg {
        cookie: SocketCookie::new(cookie),
        coverage: Coverage::Ebpf,
        request_seq: 2,
        ..Leg::default()
    }
}

fn upstream(call: &mut Exchange) -> &mut UpstreamLeg {
    call.upstream
        .as_mut()
        .expect("an attempt that got a connection comes first")
}

fn us(text: &str) -> u64 {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits
        .parse::<u64>()
        .unwrap_or_else(|_| panic!("{text:?} is a number"))
        * 1000
}

fn span(text: &str) -> (u64, u64) {
    let (from, to) = text.split_once("..").expect("a range");
    (
        from.parse().expect("a number"),
        to.parse().expect("a number"),
    )
}

fn about(leg: &mut Leg, words: &[&str]) {
    match *words {
        ["min_rtt", rtt] => leg.end.min_rtt_us = Some((us(rtt) / 1000) as u32),
        ["pipelined"] => leg.sharing = Sharing::Pipelined,
        ["end_unknown"] => leg.sharing = Sharing::EndUnknown,
        ["multiplexed"] => leg.sharing = Sharing::Multiplexed,
        ["upgraded"] => leg.sharing = Sharing::Upgraded,
        ["first"] => leg.request_seq = 1,
        ["tcp_info"] => leg.coverage = Coverage::TcpInfo,
        ["unknown"] => leg.coverage = Coverage::None,
        ["lapped", "received"] => leg.received.lapped = true,
        ["lapped", "sent"] => leg.sent.lapped = true,
        // received offset, sent offset, retransmits
        ["begin", received, sent, retransmits] => {
            leg.begin = counters(received, sent, retransmits);
        }
        ["end", received, sent, retransmits] => leg.end = counters(received, sent, retransmits),
        _ => panic!("what is {words:?}?"),
    }
}

fn counters(received: &str, sent: &str, retransmits: &str) -> Counters {
    let totals = |offset: &str| {
        let offset = offset.parse().expect("an offset");
        Some(DirectionTotals {
            offset,
            segments: offset / 100,
            ip_bytes: Some(offset + 40),
            late_segments: None,
        })
    };
    Counters {
        received: totals(received),
        sent: totals(sent),
        retransmits: Some(retransmits.parse().expect("a number")),
        ..Counters::default()
    }
}

fn passed(turns: &mut Turns, range: &mut Option<std::ops::Range<u64>>, words: &[&str]) {
    if let ["range", of] = *words {
        let (from, to) = span(of);
        *range = Some(from..to);
        return;
    }
    let [of, at, ref rest @ ..] = *words else {
        panic!("what is {words:?}?")
    };
    let (from, to) = span(of);
    let (first, last) = at.split_once('-').expect("two times");
    let mut turn = Turn {
        first_ns: us(first),
        last_ns: us(last),
        first_offset: from,
        end_offset: to,
        segments: 1,
        ip_bytes: to - from + 40,
        ..Turn::default()
    };
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match *word {
            "ack" => {
                let (offset, at) = rest
                    .next()
                    .and_then(|ack| ack.split_once('@'))
                    .expect("ack");
                turn.ack.offset = offset.parse().expect("an offset");
                turn.ack.ns = us(at);
            }
            "data" => turn.ack.with_data = true,
            "zero" => turn.ack.zero_window_ns = us(rest.next().expect("a time")),
            word if word.starts_with("resent@") => turn.end_resent_ns = us(word),
            word if word.starts_with('x') => turn.segments = (us(word) / 1000) as u32,
            word if word.starts_with("re") => {
                turn.retransmitted_segments = (us(word) / 1000) as u32;
                turn.segments += turn.retransmitted_segments;
            }
            _ => panic!("what is {word:?}?"),
        }
    }
    let hull = range.get_or_insert(from..to);
    hull.end = hull.end.max(to);
    turns.turns.push(turn);
}

fn record_of(exchange: Exchange) -> Arc<CallRecord> {
    let limits = Limits {
        settle_max_ns: 1,
        unsettled_max: 1,
    };
    let mut join = Correlator::new(limits);
    let seen = SocketSnapshot {
        counters: exchange.client.end,
        sent: exchange.client.sent.clone(),
        ..SocketSnapshot::default()
    };
    join.take(Box::new(exchange), (), 0);
    join.shutdown(|(), _| Some(seen.clone()));
    let mut records = Vec::new();
    let clock = WallClock { wall_ns_at_zero: 0 };
    join.settled(clock, |record, ()| records.push(record));
    records.pop().expect("one record")
}

fn parts(record: &CallRecord) -> [(&'static str, Option<u64>); 11] {
    [
        ("client_send", record.time_client_send_us),
        ("kernel_wait", record.time_kernel_wait_us),
        ("gateway", record.time_gateway_us),
        ("failed_attempts", record.time_failed_attempts_us),
        ("connect", record.time_connect_us),
        ("upstream_tls", record.time_upstream_tls_us),
        ("upstream_network", record.time_upstream_network_us),
        ("upstream_server", record.time_upstream_server_us),
        ("delivery", record.time_delivery_us),
        ("delayed_ack", record.time_delayed_ack_us),
        ("unattributed", record.time_unattributed_us),
    ]
}

fn socket(name: &str, fields: &SocketFields, out: &mut String) {
    let Some(attribution) = fields.attribution else {
        return;
    };
    let _ = write!(out, "\n{name} {}", attribution.word());
    if let Some(reason) = fields.attribution_reason {
        let _ = write!(out, " ({})", reason.word());
    }
    for (name, value) in [
        ("in", fields.wire_bytes_in),
        ("out", fields.wire_bytes_out),
        ("segments_in", fields.wire_segments_in),
        ("segments_out", fields.wire_segments_out),
        (
            "retransmits",
            fields.tcp_retransmits.filter(|number| *number > 0),
        ),
        ("acked", fields.tcp_bytes_acked),
        ("unsent", fields.tcp_bytes_unsent),
    ] {
        if let Some(value) = value {
            let _ = write!(out, " {name}={value}");
        }
    }
}

fn check(script: &str, answer: Expect) {
    let record = record_of(call(script));
    let mut text = String::new();
    match (record.duration_us, record.delivered_us) {
        (None, None) => text.push_str("neither duration nor delivery"),
        (duration, delivered) => {
            let _ = write!(text, "duration {duration:?} delivered {delivered:?}");
        }
    }
    for (name, us) in parts(&record) {
        if let Some(us) = us {
            let _ = write!(text, " {name}={us}");
        }
    }
    if let Some(delivered) = record.delivered_us {
        let sum: u64 = parts(&record).iter().filter_map(|(_, us)| *us).sum();
        assert_eq!(sum, delivered, "the parts add up");
    }
    socket("client", &record.client, &mut text);
    socket("upstream", &record.upstream, &mut text);
    if let Some(read) = record.upstream_http_response_body_size {
        let discarded = record.upstream_http_response_body_discarded;
        let _ = write!(text, "\nof {read} body bytes {discarded:?} in vain");
    }
    answer.assert_eq(&text);
}

const POOLED: &str = "
    c< 100..200 @1000-1000; head_arrived 1000; head_read 1030;
    attempt ok @1050 pooled; u min_rtt 20; u> 0..120 @1060-1060 ack 120@1075;
    u< 0..300 @5000-5010; resp_read 5030;
    c> 400..720 @5050-5060 ack 720@5100; c min_rtt 30; written 5055";

#[test]
fn a_call_on_two_warm_connections() {
    check(
        POOLED,
        expect![[r#"
            duration Some(4060) delivered Some(4100) client_send=0 kernel_wait=30 gateway=85 upstream_network=15 upstream_server=3925 delivery=35 delayed_ack=10
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream exact in=300 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn a_new_connection_with_tls_keeps_the_first_response_packet_to_itself() {
    // Session tickets come first in that turn, so its beginning is not the response's.
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 connected 120 secured 420; u tls 1.3; u min_rtt 100;
         u> 0..120 @430-430 ack 120@530; u< 0..300 @535-5010; resp_read 5030;
         c> 0..320 @5050-5060 ack 320@5100; written 5055",
        expect![[r#"
            duration Some(5060) delivered Some(5100) client_send=0 kernel_wait=10 gateway=65 connect=100 upstream_tls=300 upstream_network=100 upstream_server=4480 delivery=45
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream partial (tls_tickets) in=300 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn tickets_hide_the_beginning_of_a_response_that_goes_on() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 connected 120 secured 420; u tls 1.3; u min_rtt 100;
         u> 0..120 @430-430 ack 120@530; u< 0..300 @535-5010; resp_read 3000;
         c> 0..320 @3010-5060 ack 320@5100; written 5055",
        expect![[r#"
            duration Some(5060) delivered Some(5100) client_send=0 kernel_wait=10 gateway=65 connect=100 upstream_tls=300 upstream_server=2000 delivery=45 unattributed=2580
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream partial (tls_tickets) in=300 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn a_farewell_is_no_part_of_the_request() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 connected 120 secured 220; u tls 1.2; u min_rtt 100;
         u> 0..120 @230-230 ack 120@330; u< 0..300 @535-535; resp_read 540; u> 120..151 @570-570;
         c> 0..320 @550-550 ack 320@600; written 580",
        expect![[r#"
            duration Some(550) delivered Some(600) client_send=0 kernel_wait=10 gateway=35 connect=100 upstream_tls=100 upstream_network=100 upstream_server=205 delivery=50
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream exact in=300 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn without_tls_being_ready_is_not_a_handshake() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 connected 120 secured 140; u min_rtt 100;
         u> 0..120 @150-150 ack 120@250; u< 0..300 @1150-1150; resp_read 1160;
         c> 0..320 @1170-1170 ack 320@1200; written 1180",
        expect![[r#"
            duration Some(1170) delivered Some(1200) client_send=0 kernel_wait=10 gateway=60 connect=100 upstream_network=100 upstream_server=900 delivery=30
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream exact in=300 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn the_attempts_before_the_last_are_failed_ones() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt refused @20; attempt connect_timeout @30; attempt ok @1030 connected 1040; u min_rtt 10;
         u> 0..120 @1050-1050 ack 120@1060; u< 0..300 @1150-1150; resp_read 1160;
         c> 0..320 @1170-1170 ack 320@1200; written 1180",
        expect![[r#"
            duration Some(1170) delivered Some(1200) client_send=0 kernel_wait=10 gateway=40 failed_attempts=1010 connect=10 upstream_network=10 upstream_server=90 delivery=30
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream exact in=300 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn when_no_attempt_succeeded_all_of_it_failed() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; attempt refused @20; attempt refused @30;
         c> 0..80 @50-50 ack 80@60; c min_rtt 10; written 55",
        expect![[r#"
            duration Some(50) delivered Some(60) client_send=0 kernel_wait=10 gateway=10 failed_attempts=30 delivery=10 delayed_ack=0
            client exact in=100 out=80 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn an_answer_of_the_gateway_alone() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; c> 0..80 @50-70 ack 80@90; c min_rtt 15; written 75",
        expect![[r#"
            duration Some(70) delivered Some(90) client_send=0 kernel_wait=10 gateway=60 delivery=15 delayed_ack=5
            client exact in=100 out=80 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn a_request_trickles_in() {
    check(
        "c< 0..1000 @0-9000; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u min_rtt 20; u> 0..1020 @30-9040 ack 1020@9060;
         u< 0..300 @9100-9100; resp_read 9110;
         c> 0..320 @9120-9120 ack 320@9150; written 9130",
        expect![[r#"
            duration Some(9120) delivered Some(9150) client_send=8970 kernel_wait=10 gateway=80 upstream_network=20 upstream_server=40 delivery=30
            client exact in=1000 out=320 segments_in=1 segments_out=1
            upstream exact in=300 out=1020 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn the_end_of_the_request_is_lost_on_the_way_to_the_upstream() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u min_rtt 20; u> 0..120 @30-30 re2 resent@330 ack 120@350;
         u< 0..300 @400-400; resp_read 410;
         c> 0..320 @420-420 ack 320@450; c min_rtt 30; written 430",
        expect![[r#"
            duration Some(420) delivered Some(450) client_send=0 kernel_wait=10 gateway=40 upstream_network=320 upstream_server=50 delivery=30 delayed_ack=0
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream exact in=300 out=120 segments_in=1 segments_out=3 retransmits=2"#]],
    );
}

#[test]
fn an_acknowledgement_that_rides_on_the_response_is_no_evidence() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u> 0..120 @30-30 ack 120@430 data;
         u< 0..300 @430-430; resp_read 440;
         c> 0..320 @450-450 ack 320@480; written 460",
        expect![[r#"
            duration Some(450) delivered Some(480) client_send=0 kernel_wait=10 gateway=40 upstream_network=0 delivery=30 unattributed=400
            client exact in=100 out=320 segments_in=1 segments_out=1
            upstream exact in=300 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn a_head_that_waits_for_its_body_waits_for_the_upstream() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u min_rtt 20; u> 0..120 @30-30 ack 120@50;
         u< 0..900 @100-40100; resp_read 130;
         c> 0..920 @40150-40150 ack 920@40180; written 40160",
        expect![[r#"
            duration Some(40150) delivered Some(40180) client_send=0 kernel_wait=10 gateway=100 upstream_network=20 upstream_server=40020 delivery=30
            client exact in=100 out=920 segments_in=1 segments_out=1
            upstream exact in=900 out=120 segments_in=1 segments_out=1"#]],
    );
    // Some of the body was yet to come: nobody knows for which packet the gateway waited.
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u min_rtt 20; u> 0..120 @30-30 ack 120@50;
         u< 0..900 @100-40100; resp_read 130;
         c> 0..920 @20150-40150 ack 920@40180; written 40160",
        expect![[r#"
            duration Some(40150) delivered Some(40180) client_send=0 kernel_wait=10 gateway=20120 upstream_network=20 upstream_server=20000 delivery=30
            client exact in=100 out=920 segments_in=1 segments_out=1
            upstream exact in=900 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn a_request_without_bytes_is_one_whose_bytes_are_not_known() {
    check(
        "c< range 700..700; head_read 10; c> 0..80 @50-50 ack 80@60; written 55",
        expect![[r#"
            neither duration nor delivery
            client partial (range_unknown) out=80 segments_out=1"#]],
    );
}

#[test]
fn a_client_that_left_before_the_answer() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; no response; written 500",
        expect![[r#"
            neither duration nor delivery
            client exact in=100 segments_in=1"#]],
    );
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; written 500",
        expect![[r#"
            neither duration nor delivery
            client partial (range_unknown) in=100 segments_in=1"#]],
    );
}

#[test]
fn a_slow_reader_is_not_the_upstreams_fault() {
    // Half of the wait the gateway could not write, the other half lay in the send buffer.
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u min_rtt 20; u> 0..120 @30-30 ack 120@50;
         u< 0..9000 @100-400; resp_read 110; blocked 300;
         c> 0..9020 @120-1020 zero 500 ack 9020@1050; c min_rtt 10; written 720",
        expect![[r#"
            duration Some(1020) delivered Some(1050) client_send=0 kernel_wait=10 gateway=60 upstream_network=20 upstream_server=330 delivery=630
            client exact in=100 out=9020 segments_in=1 segments_out=1
            upstream exact in=9000 out=120 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn the_client_delays_its_acknowledgement() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         c> 0..80 @50-50 ack 80@40050; c min_rtt 30; written 55",
        expect![[r#"
            duration Some(50) delivered Some(40050) client_send=0 kernel_wait=10 gateway=40 delivery=30 delayed_ack=39970
            client exact in=100 out=80 segments_in=1 segments_out=1"#]],
    );
    // Sent again meanwhile: nobody can tell a late acknowledgement from a lost one.
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         c> 0..80 @50-50 re1 resent@250 ack 80@280; c min_rtt 30; written 55",
        expect![[r#"
            duration Some(50) delivered Some(280) client_send=0 kernel_wait=10 gateway=40 delivery=230
            client exact in=100 out=80 segments_in=1 segments_out=2 retransmits=1"#]],
    );
}

#[test]
fn an_interim_response_lends_its_time_to_nobody() {
    check(
        "c< 0..50 @0-0; c< 50..90 @210-210; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u min_rtt 20;
         u> 0..60 @30-30 ack 60@100 data; u> 60..100 @240-240 ack 100@262;
         u< 0..25 @100-100; interim_read 110; u< 25..325 @900-900; resp_read 910;
         c> 0..25 @120-120; c> 25..345 @920-920 ack 345@950; c min_rtt 30; written 930",
        expect![[r#"
            duration Some(920) delivered Some(950) client_send=180 kernel_wait=10 gateway=70 upstream_network=20 upstream_server=640 delivery=30 delayed_ack=0
            client exact in=90 out=345 segments_in=2 segments_out=2
            upstream exact in=325 out=100 segments_in=2 segments_out=2"#]],
    );
    // In one turn with the final response, its beginning hides that of the response.
    check(
        "c< 0..50 @0-0; head_arrived 0; head_read 10;
         c> 0..345 @120-920 ack 345@950; resp_read 910; written 930",
        expect![[r#"
            duration Some(920) delivered Some(950) client_send=0 kernel_wait=10 delivery=30 unattributed=910
            client partial (interim_first) in=50 out=345 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn an_upstream_that_sends_a_hint_and_thinks_on_is_still_thinking() {
    let check = |received: &str, expect: Expect| {
        let call = format!(
            "c< 0..50 @0-0; head_arrived 0; head_read 10;
             attempt ok @20 pooled; u min_rtt 20; u> 0..60 @30-30 ack 60@50;
             {received}; resp_read 910; upstream_body 200;
             c> 0..25 @120-120; c> 25..345 @920-920 ack 345@950; c min_rtt 30; written 930"
        );
        check(&call, expect);
    };
    check(
        "u< 0..25 @100-100; interim_read 110; u< 25..325 @900-900",
        expect![[r#"
            duration Some(920) delivered Some(950) client_send=0 kernel_wait=10 gateway=40 upstream_network=20 upstream_server=850 delivery=30 delayed_ack=0
            client exact in=50 out=345 segments_in=1 segments_out=2
            upstream exact in=325 out=60 segments_in=2 segments_out=1"#]],
    );
    // Both in one packet.
    check(
        "u< 0..325 @900-900; interim_read 905",
        expect![[r#"
            duration Some(920) delivered Some(950) client_send=0 kernel_wait=10 gateway=40 upstream_network=20 upstream_server=850 delivery=30 delayed_ack=0
            client exact in=50 out=345 segments_in=1 segments_out=2
            upstream exact in=325 out=60 segments_in=1 segments_out=1"#]],
    );
    // In two packets before the first was read: when the second came is not known.
    check(
        "u< 0..325 @880-900 x2; interim_read 905",
        expect![[r#"
            duration Some(920) delivered Some(950) client_send=0 kernel_wait=10 gateway=40 upstream_network=20 upstream_server=850 delivery=30 delayed_ack=0
            client exact in=50 out=345 segments_in=1 segments_out=2
            upstream partial (interim_first) in=325 out=60 segments_in=2 segments_out=1"#]],
    );
    // In one packet, and more of the body while both were read.
    check(
        "u< 0..225 @900-900; interim_read 905; u< 225..325 @908-908",
        expect![[r#"
            duration Some(920) delivered Some(950) client_send=0 kernel_wait=10 gateway=32 upstream_network=20 upstream_server=858 delivery=30 delayed_ack=0
            client exact in=50 out=345 segments_in=1 segments_out=2
            upstream partial (interim_first) in=325 out=60 segments_in=2 segments_out=1"#]],
    );
}

#[test]
fn an_early_response_ends_the_way_early() {
    check(
        "c< 0..50000 @0-4000; head_arrived 0; head_read 10;
         attempt ok @20 pooled; u min_rtt 20; u> 0..50020 @30-4010 ack 50020@4030;
         u< 0..80 @500-500; resp_read 510;
         c> 0..90 @530-530 ack 90@560; c min_rtt 30; written 540",
        expect![[r#"
            duration Some(530) delivered Some(560) client_send=470 kernel_wait=10 gateway=50 upstream_network=0 upstream_server=0 delivery=30 delayed_ack=0
            client exact in=50000 out=90 segments_in=1 segments_out=1
            upstream exact in=80 out=50020 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn more_than_a_chunked_body_may_be_trailers() {
    check(
        "c end_unknown; head_read 10; c> 50..130 @50-50 ack 130@60; written 55",
        expect![[r#"
            neither duration nor delivery
            client partial (request_end_unknown) out=80 segments_out=1"#]],
    );
}

#[test]
fn pipelined_neighbours_share_a_packet() {
    // This call's first byte came in the packet of the one before.
    check(
        "c pipelined; c< 0..200 @0-0; c< range 100..200; head_read 10;
         c> 50..130 @50-50 ack 130@60; written 55",
        expect![[r#"
            neither duration nor delivery
            client partial (pipelined) in=100 out=80 segments_out=1"#]],
    );
    // Whose bytes were whose nobody can tell.
    check(
        "c pipelined; head_read 10; c> 50..130 @50-50 ack 130@60; written 55",
        expect![[r#"
            neither duration nor delivery
            client partial (pipelined) out=80 segments_out=1"#]],
    );
}

#[test]
fn a_turn_that_runs_on_into_the_neighbour_ends_nothing() {
    check(
        "c< 0..150 @0-5; c< range 0..100; head_arrived 0; head_read 10;
         c> 0..80 @50-50 ack 80@60; written 55",
        expect![[r#"
            duration Some(50) delivered Some(60) client_send=0 kernel_wait=10 gateway=40 delivery=10
            client partial (ran_on) in=100 out=80 segments_out=1"#]],
    );
}

#[test]
fn a_lapped_ring_says_so() {
    check(
        "c lapped sent; c< 0..100 @0-0; head_arrived 0; head_read 10;
         c> range 0..5000; c> 3000..5000 @900-950 ack 5000@960; written 955",
        expect![[r#"
            duration Some(950) delivered Some(960) client_send=0 kernel_wait=10 delivery=10 unattributed=940
            client partial (lapped) in=100 out=5000 segments_in=1"#]],
    );
}

#[test]
fn bytes_that_never_left_are_counted_as_such() {
    check(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; c end 100 3000 0;
         c> range 0..5000; c> 0..3000 @50-80 ack 1000@70; written 90",
        expect![[r#"
            duration Some(80) delivered None
            client exact in=100 out=3000 segments_in=1 segments_out=1 acked=1000 unsent=2000"#]],
    );
}

#[test]
fn of_an_answer_that_was_not_delivered_the_rest_was_in_vain() {
    const SENT: &str = "
        c< 0..100 @0-0; head_arrived 0; head_read 10; c end 100 3000 0;
        c> range 0..5000; c> 0..3000 @50-80 ack 1000@70; written 90; upstream_body 6000;";
    // As it is: the head was 200 bytes long.
    check(
        &format!("{SENT} body 200 4800; flag client_abort"),
        expect![[r#"
            duration Some(80) delivered None
            client exact in=100 out=3000 segments_in=1 segments_out=1 acked=1000 unsent=2000
            of 6000 body bytes Some(5200) in vain"#]],
    );
    // In chunks: how much of what was acknowledged is body cannot be told.
    check(
        &format!("{SENT} body chunked 4500; flag client_abort"),
        expect![[r#"
            duration Some(80) delivered None
            client exact in=100 out=3000 segments_in=1 segments_out=1 acked=1000 unsent=2000
            of 6000 body bytes None in vain"#]],
    );
    // The client was told of a failure instead.
    check(
        &format!("{SENT} body 200 4800; flag timeout; gateway answers"),
        expect![[r#"
            duration Some(80) delivered None
            client exact in=100 out=3000 segments_in=1 segments_out=1 acked=1000 unsent=2000
            of 6000 body bytes Some(6000) in vain"#]],
    );
    // Chunks, and all that was written was acknowledged; but half a piece may have been written.
    const ACKED: &str = "
        c< 0..100 @0-0; head_arrived 0; head_read 10; c end 100 5000 0;
        c> 0..5000 @50-80 ack 5000@85; written 90; upstream_body 6000; body chunked 4500;
        flag client_abort;";
    check(
        ACKED,
        expect![[r#"
            duration Some(80) delivered Some(85) client_send=0 kernel_wait=10 gateway=70 delivery=5
            client exact in=100 out=5000 segments_in=1 segments_out=1 acked=5000 unsent=0
            of 6000 body bytes Some(1500) in vain"#]],
    );
    check(
        &format!("{ACKED} is blocked"),
        expect![[r#"
            duration Some(80) delivered Some(85) client_send=0 kernel_wait=10 gateway=70 delivery=5
            client exact in=100 out=5000 segments_in=1 segments_out=1 acked=5000 unsent=0
            of 6000 body bytes None in vain"#]],
    );
    // It ended well: nobody asks.
    check(
        &ACKED.replace("flag client_abort;", ""),
        expect![[r#"
            duration Some(80) delivered Some(85) client_send=0 kernel_wait=10 gateway=70 delivery=5
            client exact in=100 out=5000 segments_in=1 segments_out=1"#]],
    );
}

#[test]
fn bytes_that_left_between_two_looks_are_counted() {
    let record = record_of(call(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; c end 100 300 0;
         c> 0..1000 @20-40 ack 1000@60; written 50",
    ));
    assert_eq!(record.client.wire_bytes_out, Some(1000));
    let gone = record_of(call(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; c end 100 300 0; no response;
         c> 0..800 @20-40 ack 700@60; c> range 0..1000; written 50",
    ));
    assert_eq!(gone.client.wire_bytes_out, Some(800));
    assert_eq!(gone.client.tcp_bytes_unsent, Some(200));
}

#[test]
fn shared_connections_give_their_own_counts_and_no_marks() {
    check(
        "c multiplexed; c begin 1000 2000 1; c end 1500 9000 4; head_read 10; written 500;
         c> range 2000..9000; c> 2000..9000 @50-60 ack 9000@70",
        expect![[r#"
            neither duration nor delivery
            client shared (multiplexed) in=500 out=7000 segments_in=5 segments_out=70 retransmits=3"#]],
    );
}

#[test]
fn an_upgraded_connection_belongs_to_its_call() {
    check(
        "c upgraded; c begin 100 0 0; c end 9100 70000 3; c lapped received;
         c< range 100..9100; c< 9000..9100 @900-900; head_arrived 0; head_read 10;
         c> 69000..70000 @910-910 ack 70000@950; c> range 0..70000; written 920",
        expect![[r#"
            neither duration nor delivery
            client exact in=9000 out=70000 segments_in=90 segments_out=700 retransmits=3"#]],
    );
}

#[test]
fn an_upgraded_connection_tells_of_closed_windows_while_all_its_turns_are_known() {
    let zero_window_us = |sent: &str| {
        let record = record_of(call(&format!(
            "c upgraded; c begin 0 0 0; c end 100 400 0; c< 0..100 @0-0; head_arrived 0;
             head_read 10; {sent}; written 920"
        )));
        record.client.tcp_zero_window_us
    };
    let known = "c> 0..300 @20-30 zero 70; c> 300..400 @40-50 zero 5";
    assert_eq!(zero_window_us(known), Some(75));
    let lapped = "c> 300..400 @40-50 zero 5; c> range 0..400";
    assert_eq!(zero_window_us(lapped), None);
}

#[test]
fn an_upgraded_connection_counts_from_its_birth_or_from_before_its_call() {
    let websocket = "c upgraded; c begin 100 0 0; c end 9100 70000 3; head_read 10; written 920;
         c< range 0..9100; c> range 0..70000";
    // Looked at when the request had come: without its packets, and it says so.
    check(
        websocket,
        expect![[r#"
        neither duration nor delivery
        client partial (counters_missing) in=9100 out=70000 segments_out=700 retransmits=3 unsent=0"#]],
    );
    // Nothing came before the first call of a connection.
    check(
        &format!("{websocket}; c first"),
        expect![[r#"
        neither duration nor delivery
        client exact in=9100 out=70000 segments_in=91 segments_out=700 retransmits=3 unsent=0"#]],
    );
}

#[test]
fn a_response_of_which_no_byte_was_written_is_none() {
    let record = record_of(call(
        "c< 0..100 @0-0; head_arrived 0; head_read 10; c> range 400..400; written 500",
    ));
    assert_eq!(record.http_response_status_code, None);
    assert_eq!(record.http_response_body_size, None);
    assert_eq!(record.client.wire_bytes_out, Some(0));
}

#[test]
fn by_tcp_info_only_the_difference_is_known() {
    check(
        "c tcp_info; c begin 100 0 0; c end 200 320 1; c< range 100..200; c> range 0..320;
         head_read 10; written 500",
        expect![[r#"
            neither duration nor delivery
            client partial (tcp_info) in=100 out=320 segments_in=1 segments_out=3 retransmits=1"#]],
    );
}

#[test]
fn without_a_tap_there_are_the_gateways_own_times() {
    let record = record_of(call(
        "c unknown; head_read 10; attempt ok @20 pooled; u unknown; resp_read 400; written 500",
    ));
    assert_eq!(record.gateway_duration_us, Some(490));
    assert_eq!(record.timing_head_read_us, Some(0));
    assert_eq!(record.timing_up_begin_us, Some(10));
    assert_eq!(record.timing_resp_read_us, Some(390));
    assert_eq!(record.delivered_us, None);
    assert_eq!(record.settled, None);
    check(
        "c unknown; head_read 10; written 500",
        expect![[r#"
        neither duration nor delivery
        client partial (no_coverage)"#]],
    );
}

#[test]
fn an_upstream_that_is_not_the_last_attempts_lends_no_marks() {
    let record = record_of(call(
        "c< 0..100 @0-0; head_arrived 0; head_read 10;
         attempt reset @20 connected 25; u> 0..120 @30-30; attempt refused @50;
         c> 0..80 @70-70 ack 80@80; written 75",
    ));
    assert_eq!(record.timing_up_sent_first_us, None);
    assert_eq!(record.timing_up_begin_us, Some(50));
    assert_eq!(record.upstream.socket_cookie, SocketCookie::new(100));
    assert_eq!(record.upstream.wire_bytes_out, Some(120));
    assert_eq!(record.time_failed_attempts_us, Some(50));
}

#[test]
fn half_microseconds_round_once() {
    let mut exchange =
        call("c< 0..100 @0-0; head_arrived 0; head_read 1; c> 0..80 @2-2 ack 80@3; written 2");
    exchange.client.received.turns[0].first_ns = 499;
    exchange.client.head_arrived_ns = Some(1_499);
    exchange.times.head_read_ns = 2_499;
    exchange.client.sent.turns[0].first_ns = 3_499;
    exchange.client.sent.turns[0].last_ns = 3_499;
    exchange.client.sent.turns[0].ack.ns = 4_500;
    let record = record_of(exchange);
    assert_eq!(record.delivered_us, Some(5));
    let sum: u64 = parts(&record).iter().filter_map(|(_, us)| *us).sum();
    assert_eq!(sum, 5);
}

fn times() -> impl Strategy<Value = u64> {
    // Mostly close together, so that marks collide, cross and round; sometimes absurd.
    prop_oneof![8 => 0..20_000_u64, 1 => any::<u64>()]
}

fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..4_u64, 1 => any::<u64>()]
}

prop_compose! {
    fn any_turn()(
        times in [times(), times(), times(), times()],
        offsets in [offsets(), offsets(), offsets()],
        resent in any::<bool>(),
        with_data in any::<bool>(),
        zero in prop_oneof![Just(0), times()],
        segments in any::<u32>(),
    ) -> Turn {
        let mut turn = Turn {
            first_ns: times[0],
            last_ns: times[1],
            first_offset: offsets[0],
            end_offset: offsets[1],
            end_resent_ns: if resent { times[2] } else { 0 },
            segments,
            retransmitted_segments: u32::from(resent),
            ..Turn::default()
        };
        turn.ack.offset = offsets[2];
        turn.ack.ns = times[3];
        turn.ack.with_data = with_data;
        turn.ack.zero_window_ns = zero;
        turn
    }
}

prop_compose! {
    fn any_leg(cookie: u64)(
        mut received in prop::collection::vec(any_turn(), 0..3),
        mut sent in prop::collection::vec(any_turn(), 0..3),
        ranges in [offsets(), offsets(), offsets(), offsets()],
        is_tidy in prop::bool::weighted(0.7),
        rtt in prop::option::of(0..30_u32),
        head in prop::option::of(times()),
        lapped in prop::bool::weighted(0.1),
        sharing in prop::sample::select(vec![
            Sharing::Sole, Sharing::Sole, Sharing::EndUnknown, Sharing::Pipelined, Sharing::Upgraded,
            Sharing::Multiplexed,
        ]),
    ) -> Leg {
        let mut range_in = ranges[0]..ranges[1];
        let mut range_out = ranges[2]..ranges[3];
        if is_tidy {
            // As a ledger would have it, so that the marks exist.
            for (turns, range) in [(&mut received, &mut range_in), (&mut sent, &mut range_out)] {
                for (index, turn) in turns.iter_mut().enumerate() {
                    turn.first_offset = index as u64;
                    turn.end_offset = index as u64 + 1;
                    turn.ack.offset = turn.end_offset;
                }
                *range = 0..turns.len() as u64;
            }
        }
        Leg {
            received_range: Some(range_in),
            sent_range: Some(range_out),
            received: Turns { turns: received.into(), lapped },
            sent: Turns { turns: sent.into(), lapped },
            end: Counters { min_rtt_us: rtt, ..Counters::default() },
            head_arrived_ns: head,
            sharing,
            ..leg(cookie)
        }
    }
}

prop_compose! {
    fn any_call()(
        client in any_leg(7),
        upstream in prop::option::of(any_leg(101)),
        attempts in prop::collection::vec(
            (times(), prop::option::of(times()), prop::option::of(times()), any::<bool>()),
            0..3,
        ),
        reused in any::<bool>(),
        tls in any::<bool>(),
        gateway in [times(), times(), times(), times()],
        has_response in any::<bool>(),
    ) -> Exchange {
        let mut call = call("head_read 0");
        call.client = client;
        call.attempts = attempts
            .into_iter()
            .zip(100..)
            .map(|((begin_ns, connected_ns, secured_ns, ok), cookie)| Attempt {
                address: "192.0.2.1:80".into(),
                cookie: SocketCookie::new(cookie),
                begin_ns,
                connected_ns,
                secured_ns,
                outcome: if ok { "ok" } else { "refused" },
            })
            .collect();
        call.upstream = upstream.map(|leg| UpstreamLeg {
            leg,
            reused,
            tls_version: tls.then_some("1.2".into()),
            ..UpstreamLeg::default()
        });
        call.times = GatewayTimes {
            accepted_ns: None,
            head_read_ns: gateway[0],
            interim_read_ns: (has_response && tls).then_some(gateway[0]),
            resp_read_ns: has_response.then_some(gateway[1]),
            resp_written_ns: gateway[2],
            write_blocked_ns: gateway[3],
        };
        call
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_parts_add_up_to_the_whole_whatever_was_seen(call in any_call()) {
        let record = record_of(call);
        let present: Vec<u64> = parts(&record).iter().filter_map(|(_, us)| *us).collect();
        match record.delivered_us {
            Some(delivered) => {
                prop_assert_eq!(present.iter().sum::<u64>(), delivered);
                prop_assert_eq!(record.timing_req_first_us, Some(0));
                prop_assert_eq!(record.timing_resp_acked_us, Some(delivered as i64));
            }
            None => prop_assert!(present.is_empty()),
        }
    }

    #[test]
    fn every_record_reads_back_as_it_was(call in any_call()) {
        let record = record_of(call);
        let mut line = Vec::new();
        record.write_json(&mut line, &calltap_correlate::record::Selection::all());
        let again: CallRecord = serde_json::from_slice(&line).expect("a record");
        prop_assert_eq!(&again, &*record);
    }
}

#[test]
fn the_property_test_sees_wholes() {
    // Else it would hold for want of cases.
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = any_call();
    let wholes = (0..500)
        .filter(|_| {
            let call = strategy.new_tree(&mut runner).expect("a call").current();
            record_of(call).delivered_us.is_some_and(|us| us > 0)
        })
        .count();
    assert!(wholes > 50, "{wholes} of 500");
}
