//! From finished to settled: who is looked at when, and why a record leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use calltap_correlate::exchange::{
    Consumer, Exchange, GatewayTimes, Leg, Request, Response, Sharing,
};
use calltap_correlate::join::{Correlator, Counts, Limits, WallClock};
use calltap_correlate::record::CallRecord;
use calltap_correlate::socket::{
    CallRanges, Close, Counters, Coverage, DirectionTotals, SocketCookie, SocketSnapshot, Turn,
    Turns,
};
use expect_test::{Expect, expect};
use uuid::Uuid;

const MS: u64 = 1_000_000;

/// A socket as the kernel has it.
#[derive(Clone, Default)]
struct Kernel {
    turns: Vec<Turn>,
    counters: Counters,
}

fn exchange(cookie: u64, sent: std::ops::Range<u64>, at_ns: u64) -> Exchange {
    let turn = |first_offset, end_offset, ns| Turn {
        first_ns: ns,
        last_ns: ns,
        first_offset,
        end_offset,
        segments: 1,
        ..Turn::default()
    };
    let mut client = Leg {
        cookie: SocketCookie::new(cookie),
        coverage: Coverage::Ebpf,
        received_range: Some(0..10),
        head_arrived_ns: Some(at_ns),
        ..Leg::default()
    };
    client.received.turns.push(turn(0, 10, at_ns));
    client.sent.turns.push(turn(sent.start, sent.end, at_ns));
    client.sent_range = Some(sent);
    client.end.rtt_us = Some(2000);
    Exchange {
        uid: Uuid::nil(),
        request: Request::default(),
        response: Response::default(),
        api: Default::default(),
        consumer: Consumer::default(),
        tls: None,
        times: GatewayTimes {
            head_read_ns: at_ns,
            resp_written_ns: at_ns,
            ..GatewayTimes::default()
        },
        client,
        ..Exchange::default()
    }
}

/// Plays clauses such as `3ms call #7 0..100`, `5ms ack #7 100`, `6ms due`; tells every look and
/// every record. Limits: 30 ms, three calls.
fn check(script: &str, answer: Expect) {
    let limits = Limits {
        settle_max_ns: 30 * MS,
        unsettled_max: 3,
    };
    let mut join = Correlator::new(limits);
    let mut kernel: BTreeMap<u64, Kernel> = BTreeMap::new();
    let log = RefCell::new(String::new());
    for clause in script
        .split(';')
        .map(str::trim)
        .filter(|clause| !clause.is_empty())
    {
        let words: Vec<&str> = clause.split_whitespace().collect();
        let time = words[0].strip_suffix("ms").expect("a time");
        let now_ns = time.parse::<u64>().expect("a number") * MS;
        let socket = words
            .get(2)
            .map(|word| word.trim_start_matches('#').parse().expect("a number"));
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match (words[1], socket) {
            ("call", Some(socket)) => {
                let (from, to) = words[3].split_once("..").expect("a range");
                let sent = from.parse().expect("a number")..to.parse().expect("a number");
                let mut call = exchange(socket, sent, now_ns);
                for fact in &words[4..] {
                    match *fact {
                        "acked" => {
                            let turn = &mut call.client.sent.turns[0];
                            (turn.ack.offset, turn.ack.ns) = (turn.end_offset, now_ns);
                        }
                        "counted" => {
                            call.client.end.acked_offset = Some(to.parse().expect("a number"))
                        }
                        "untapped" => call.client.coverage = Coverage::None,
                        "shared" => call.client.sharing = Sharing::Multiplexed,
                        "tcp_info" => call.client.coverage = Coverage::TcpInfo,
                        "closing" => call.client.closing = true,
                        // Known when the call ended: a goodbye, and the next request.
                        "over" => call.client.end.close = Some(Close::FinPeer),
                        "asked" => {
                            call.client.end.received = Some(DirectionTotals {
                                offset: 20,
                                ..DirectionTotals::default()
                            });
                        }
                        "cookieless" => call.client.cookie = None,
                        fact => panic!("what is {fact}?"),
                    }
                }
                let known = kernel.entry(socket).or_default();
                known.turns = call.client.sent.turns.to_vec();
                known.counters.received = Some(DirectionTotals {
                    offset: 10,
                    ..DirectionTotals::default()
                });
                join.take(Box::new(call), socket, now_ns);
            }
            ("ack", Some(socket)) => {
                let known = kernel.get_mut(&socket).expect("a known socket");
                let turn = known.turns.last_mut().expect("a turn");
                (turn.ack.offset, turn.ack.ns) = (number(3).min(turn.end_offset), now_ns);
                known.counters.acked_offset = Some(number(3));
            }
            ("count", Some(socket)) => {
                let known = kernel.get_mut(&socket).expect("a known socket");
                known.turns.clear();
                known.counters.acked_offset = Some(number(3));
            }
            ("grow", Some(socket)) => {
                let known = kernel.get_mut(&socket).expect("a known socket");
                known.turns[0].end_offset = number(3);
            }
            ("fin", Some(socket)) => {
                let known = kernel.get_mut(&socket).expect("a known socket");
                known.counters.close = Some(Close::FinLocal);
            }
            (by @ ("reset" | "abort"), Some(socket)) => {
                let known = kernel.get_mut(&socket).expect("a known socket");
                known.counters.close = Some(match by {
                    "abort" => Close::RstOut,
                    _ => Close::RstIn,
                });
                known.counters.closed_ns = Some(now_ns);
            }
            ("request", Some(socket)) => {
                let known = kernel.get_mut(&socket).expect("a known socket");
                known.counters.received = Some(DirectionTotals {
                    offset: 20,
                    ..DirectionTotals::default()
                });
            }
            ("gone", Some(socket)) => {
                kernel.remove(&socket);
            }
            ("due", None) => join.due(now_ns, look(time, &kernel, &log)),
            ("next", None) => {
                let next = join.next_due_ns().map(|ns| ns / MS);
                let _ = writeln!(log.borrow_mut(), "{time}ms next {next:?}");
            }
            ("shutdown", None) => join.shutdown(look(time, &kernel, &log)),
            what => panic!("what is {what:?}?"),
        }
        join.settled(WallClock::new(0, 0), |record, socket| {
            tell(time, &record, socket, &log)
        });
    }
    let Counts {
        unsettled,
        finished,
        evicted_total,
    } = join.counts();
    let _ = write!(
        log.borrow_mut(),
        "{unsettled} unsettled, {finished} finished, {evicted_total} evicted"
    );
    answer.assert_eq(&log.into_inner());
}

fn look(
    time: &str,
    kernel: &BTreeMap<u64, Kernel>,
    log: &RefCell<String>,
) -> impl FnMut(&u64, &CallRanges) -> Option<SocketSnapshot> {
    move |socket, ranges| {
        let range = &ranges.sent;
        let _ = writeln!(log.borrow_mut(), "{time}ms look at #{socket} {range:?}");
        let taken_ns = time.parse::<u64>().expect("a number") * MS;
        kernel.get(socket).map(|known| SocketSnapshot {
            counters: Counters {
                taken_ns,
                ..known.counters
            },
            sent: Turns {
                turns: known.turns.clone().into(),
                lapped: false,
            },
            ..SocketSnapshot::default()
        })
    }
}

fn tell(time: &str, record: &CallRecord, socket: u64, log: &RefCell<String>) {
    let settled = record.settled.map_or("unknown", |settled| settled.word());
    let mut log = log.borrow_mut();
    let _ = write!(log, "{time}ms record #{socket} settled={settled}");
    if let Some(us) = record.delivered_us {
        let _ = write!(log, " delivered={us}us");
    }
    if let Some(close) = record.client.tcp_close {
        let _ = write!(log, " close={}", close.word());
    }
    for flag in &record.response_flags {
        let _ = write!(log, " {flag}");
    }
    if let Some(acked) = record.client.tcp_bytes_acked {
        let _ = write!(log, " bytes_acked={acked}");
    }
    log.push('\n');
}

#[test]
fn what_the_client_repeats_before_it_has_its_answer_is_counted() {
    let mut join = Correlator::new(Limits {
        settle_max_ns: 30 * MS,
        unsettled_max: 3,
    });
    let call = exchange(7, 0..100, 0);
    let (mut sent, mut received) = (call.client.sent.clone(), call.client.received.clone());
    join.take(Box::new(call), 7, 0);
    // The request's packet came once more, then the answer was acknowledged.
    (
        received.turns[0].segments,
        received.turns[0].retransmitted_segments,
    ) = (2, 1);
    (sent.turns[0].ack.offset, sent.turns[0].ack.ns) = (100, MS);
    join.due(2 * MS, |_, ranges| {
        assert_eq!((&ranges.sent, &ranges.received), (&(0..100), &(0..10)));
        Some(SocketSnapshot {
            sent: sent.clone(),
            received: received.clone(),
            ..SocketSnapshot::default()
        })
    });
    let mut counted = None;
    join.settled(WallClock::new(0, 0), |record, _| {
        let client = &record.client;
        counted = Some((client.wire_segments_in, client.tcp_peer_retransmits));
    });
    assert_eq!(counted, Some((Some(2), Some(1))));
}

#[test]
fn a_call_is_looked_at_after_a_round_trip_and_then_ever_more_seldom() {
    check(
        "0ms call #7 0..100; 0ms next; 1ms due; 2ms due; 2ms next; 3ms due; 6ms due; 6ms next; 13ms due;
         13ms ack #7 100; 14ms due; 14ms next",
        expect![[r#"
            0ms next Some(2)
            2ms look at #7 0..100
            2ms next Some(6)
            6ms look at #7 0..100
            6ms next Some(14)
            14ms look at #7 0..100
            14ms record #7 settled=acked delivered=13000us
            14ms next None
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_call_that_was_acknowledged_when_it_ended_leaves_at_once() {
    check(
        "5ms call #7 0..100 acked; 5ms next",
        expect![[r#"
        5ms record #7 settled=acked delivered=0us
        5ms next None
        0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_count_alone_waits_for_the_turn_that_tells_when() {
    check(
        "1ms call #7 0..100 counted; 1ms ack #7 100; 3ms due",
        expect![[r#"
            3ms look at #7 0..100
            3ms record #7 settled=acked delivered=0us
            0 unsettled, 0 finished, 0 evicted"#]],
    );
    // By TCP_INFO there is no such turn.
    check(
        "0ms call #7 0..100 counted tcp_info",
        expect![[r#"
        0ms record #7 settled=acked
        0 unsettled, 0 finished, 0 evicted"#]],
    );
    // The ring has moved on: known to be acknowledged, but not when.
    check(
        "0ms call #7 0..100; 1ms count #7 100; 2ms due",
        expect![[r#"
        2ms look at #7 0..100
        2ms record #7 settled=acked
        0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn two_calls_share_a_kept_alive_socket() {
    check(
        "0ms call #7 0..100; 1ms ack #7 100; 2ms due; 3ms call #7 100..200; 4ms ack #7 200; 5ms due",
        expect![[r#"
            2ms look at #7 0..100
            2ms record #7 settled=acked delivered=1000us
            5ms look at #7 100..200
            5ms record #7 settled=acked delivered=1000us
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn half_an_acknowledgement_settles_nothing() {
    check(
        "0ms call #7 0..100; 1ms ack #7 60; 2ms due; 30ms due",
        expect![[r#"
            2ms look at #7 0..100
            30ms look at #7 0..100
            30ms record #7 settled=deadline client_timeout bytes_acked=60
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_farewell_behind_the_response_does_not_blur_its_acknowledgement() {
    check(
        "0ms call #7 0..100; 1ms grow #7 124; 1ms ack #7 100; 2ms due",
        expect![[r#"
            2ms look at #7 0..100
            2ms record #7 settled=acked delivered=1000us
            0 unsettled, 0 finished, 0 evicted"#]],
    );
    check(
        "0ms call #7 0..100; 1ms grow #7 124; 1ms ack #7 124; 2ms due",
        expect![[r#"
            2ms look at #7 0..100
            2ms record #7 settled=acked
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_fin_is_not_the_end_but_a_reset_is() {
    check(
        "0ms call #7 0..100; 1ms fin #7; 2ms due; 3ms ack #7 100; 6ms due",
        expect![[r#"
            2ms look at #7 0..100
            6ms look at #7 0..100
            6ms record #7 settled=acked delivered=3000us close=fin_local
            0 unsettled, 0 finished, 0 evicted"#]],
    );
    check(
        "0ms call #7 0..100; 1ms ack #7 60; 1ms reset #7; 2ms due",
        expect![[r#"
            2ms look at #7 0..100
            2ms record #7 settled=closed close=rst_in client_abort bytes_acked=60
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn our_own_reset_loses_what_was_not_acknowledged() {
    check(
        "0ms call #7 0..100; 1ms ack #7 60; 1ms abort #7; 2ms due",
        expect![[r#"
            2ms look at #7 0..100
            2ms record #7 settled=closed close=rst_out gateway_reset bytes_acked=60
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_client_that_is_slow_is_not_one_that_has_gone() {
    // The last was acknowledged in the second half of the time.
    check(
        "0ms call #7 0..100; 1ms ack #7 20; 2ms due; 17ms ack #7 60; 30ms due",
        expect![[r#"
            2ms look at #7 0..100
            30ms look at #7 0..100
            30ms record #7 settled=deadline bytes_acked=60
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_stream_that_was_alone_can_tell_that_it_was_lost() {
    let record = |streams: u32, acked: u64| {
        let mut call = exchange(7, 0..100, 0);
        call.client.sharing = Sharing::Multiplexed;
        call.client.streams = streams;
        call.client.sent_range = None;
        call.response.body_bytes = 90;
        call.response.status = Some(200);
        let totals = |offset| {
            Some(DirectionTotals {
                offset,
                ..DirectionTotals::default()
            })
        };
        call.client.begin.sent = totals(1000);
        call.client.end.sent = totals(1100);
        call.client.end.acked_offset = Some(acked);
        call.client.end.close = Some(Close::RstIn);
        call.client.end.closed_ns = Some(MS);
        let mut join = Correlator::new(Limits {
            settle_max_ns: 30 * MS,
            unsettled_max: 3,
        });
        join.take(Box::new(call), 7, 2 * MS);
        let mut flags = None;
        join.settled(WallClock::new(0, 0), |record, _| {
            flags = Some(record.response_flags.clone());
        });
        flags.expect("it settles at once")
    };
    assert_eq!(record(1, 1089), ["client_abort"]);
    // All of its body arrived; or whose bytes did not, nobody knows.
    assert!(record(1, 1090).is_empty());
    assert!(record(2, 1089).is_empty());
}

#[test]
fn a_call_did_not_end_a_connection_that_carried_another() {
    check(
        "0ms call #7 0..100; 1ms request #7; 1ms reset #7; 2ms due",
        expect![[r#"
            2ms look at #7 0..100
            2ms record #7 settled=closed client_abort
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_socket_that_is_gone_is_closed() {
    check(
        "0ms call #7 0..100; 1ms gone #7; 2ms due",
        expect![[r#"
        2ms look at #7 0..100
        2ms record #7 settled=closed
        0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn nobody_is_waited_for_longer_than_the_limit() {
    check(
        "0ms call #7 0..100; 2ms due; 6ms due; 14ms due; 14ms next; 30ms due; 31ms due",
        expect![[r#"
            2ms look at #7 0..100
            6ms look at #7 0..100
            14ms look at #7 0..100
            14ms next Some(30)
            30ms look at #7 0..100
            30ms record #7 settled=deadline client_timeout
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn one_too_many_forces_out_the_oldest() {
    check(
        "0ms call #1 0..9; 0ms call #2 0..9; 1ms call #3 0..9; 1ms call #4 0..9; 2ms ack #2 9; 3ms due",
        expect![[r#"
            1ms record #1 settled=evicted
            3ms look at #2 0..9
            3ms look at #3 0..9
            3ms look at #4 0..9
            3ms record #2 settled=acked delivered=2000us
            2 unsettled, 0 finished, 1 evicted"#]],
    );
}

#[test]
fn nothing_is_awaited_that_cannot_be_seen() {
    check(
        "0ms call #1 0..9 cookieless; 0ms call #2 0..9 untapped;
         0ms call #4 0..9 tcp_info; 0ms call #5 0..9 shared; 1ms reset #5; 1ms due",
        expect![[r#"
            0ms record #1 settled=unknown
            0ms record #2 settled=unknown
            0ms record #4 settled=unknown
            0ms record #5 settled=unknown
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_call_without_a_response_settles_with_its_connection() {
    check(
        "0ms call #1 9..9; 1ms reset #1; 2ms due",
        expect![[r#"
            2ms look at #1 9..9
            2ms record #1 settled=closed close=rst_in
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn at_the_end_everything_leaves_as_it_stands() {
    check(
        "0ms call #1 0..9; 0ms call #2 0..9; 1ms ack #1 5; 2ms due; 3ms shutdown; 3ms next",
        expect![[r#"
            2ms look at #1 0..9
            2ms look at #2 0..9
            3ms look at #1 0..9
            3ms look at #2 0..9
            3ms record #1 settled=shutdown bytes_acked=5
            3ms record #2 settled=shutdown
            3ms next None
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn evicted_calls_leave_nothing_behind() {
    let mut join = Correlator::new(Limits {
        settle_max_ns: u64::MAX,
        unsettled_max: 2,
    });
    for number in 1..=10_000 {
        join.take(Box::new(exchange(number, 0..100, 0)), number, 0);
        join.settled(WallClock::new(0, 0), |_, _| {});
    }
    let counts = join.counts();
    assert_eq!((counts.unsettled, counts.evicted_total), (2, 9_998));
    let mut looked = Vec::new();
    join.due(u64::MAX, |socket, _| {
        looked.push(*socket);
        None
    });
    looked.sort_unstable();
    assert_eq!(looked, [9_999, 10_000]);
    assert_eq!(join.next_due_ns(), None);
}

#[test]
fn a_call_that_ends_its_connection_waits_to_see_how() {
    check(
        "1ms call #7 0..100 closing acked; 10ms due; 11ms fin #7; 20ms due",
        expect![[r#"
            10ms look at #7 0..100
            20ms look at #7 0..100
            20ms record #7 settled=acked delivered=0us close=fin_local
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_close_that_does_not_come_takes_nothing_from_the_acknowledgement() {
    check(
        "0ms call #7 0..100 closing; 2ms ack #7 100; 10ms due; 31ms due; \
         40ms call #8 0..100 closing acked; 41ms shutdown",
        expect![[r#"
            10ms look at #7 0..100
            31ms look at #7 0..100
            31ms record #7 settled=acked delivered=2000us
            41ms look at #8 0..100
            41ms record #8 settled=acked delivered=0us
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn a_goodbye_after_the_next_request_is_not_the_end_of_this_call() {
    check(
        "1ms call #7 0..100 acked over; 1ms call #8 0..100 acked over asked;
         1ms call #9 0..100 acked over asked closing",
        expect![[r#"
            1ms record #7 settled=acked delivered=0us close=fin_peer
            1ms record #8 settled=acked delivered=0us
            1ms record #9 settled=acked delivered=0us close=fin_peer
            0 unsettled, 0 finished, 0 evicted"#]],
    );
}

#[test]
fn frames_that_wait_for_their_connection_are_waited_for() {
    let mut call = exchange(7, 0..0, 0);
    let totals = |offset| {
        Some(DirectionTotals {
            offset,
            ..DirectionTotals::default()
        })
    };
    call.client.sharing = Sharing::Multiplexed;
    (call.client.received_range, call.client.sent_range) = (None, None);
    (call.client.begin.sent, call.client.end.sent) = (totals(50), totals(60));
    (call.response.status, call.response.body_bytes) = (Some(200), 100);
    let limits = Limits {
        settle_max_ns: 30 * MS,
        unsettled_max: 3,
    };
    let mut join = Correlator::new(limits);
    join.take(Box::new(call), (), 0);
    let mut records = Vec::new();
    for (at, offset) in [(5, 60), (20, 200)] {
        join.settled(WallClock::new(0, 0), |_, ()| panic!("too early"));
        join.due(at * MS, |(), _| {
            Some(SocketSnapshot {
                counters: Counters {
                    sent: totals(offset),
                    ..Counters::default()
                },
                ..SocketSnapshot::default()
            })
        });
    }
    join.settled(WallClock::new(0, 0), |record, ()| records.push(record));
    assert_eq!(records[0].client.wire_bytes_out, Some(150));
    assert_eq!(records[0].settled, None);
}
