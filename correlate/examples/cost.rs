//! What the join costs per call: `cargo run --release -p calltap-correlate --example cost`
//!
//! Takes kept-alive calls as the gateway hands them over, settles them, writes their lines and reads
//! them again.
//! Needs no privilege and no network; compare numbers of one machine and one day only.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calltap_correlate::exchange::{
    ApiNames, Attempt, Consumer, Exchange, GatewayTimes, Leg, Policy, Request, Response,
    UpstreamLeg,
};
use calltap_correlate::join::{Correlator, Limits, WallClock};
use calltap_correlate::record::{CallRecord, Selection};
use calltap_correlate::socket::{
    Counters, Coverage, DirectionTotals, SocketCookie, SocketIdentity, SocketSnapshot, Turn,
};
use uuid::Uuid;

const ROUNDS: usize = 2_000;
/// What gathers in five milliseconds at 20,000 calls a second.
const CALLS_PER_ROUND: usize = 100;
const LINUX_SYN: [u8; 60] = [
    0x45, 0, 0, 0x3c, 0x1c, 0x46, 0x40, 0, 0x40, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1, 0xd4, 0x31,
    0x1f, 0x90, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xd7, 0xfe, 0x30, 0, 0, 2, 4,
    0xff, 0xd7, 4, 2, 8, 0xa, 0, 0, 0xab, 0xcd, 0, 0, 0, 0, 1, 3, 3, 7,
];

fn main() {
    let template = call();
    let limits = Limits {
        settle_max_ns: 30_000_000_000,
        unsettled_max: 65_536,
    };
    let mut join = Correlator::new(limits);
    let mut line = Vec::new();
    let select = Selection::all();
    let clock = WallClock::new(0, 0);
    let acknowledged = acknowledged(&template);
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // The gateway made these: not the join's cost.
        let calls: Vec<_> = (0..CALLS_PER_ROUND)
            .map(|_| Box::new(template.clone()))
            .collect();
        let now_ns = round as u64 * 1_000_000_000;
        let mut joining = Duration::ZERO;
        let mut writing = Duration::ZERO;
        let begun = Instant::now();
        for call in calls {
            join.take(call, (), now_ns);
        }
        join.due(now_ns + 10_000_000, |(), _| Some(acknowledged.clone()));
        join.settled(clock, |record, ()| {
            let begun = Instant::now();
            line.clear();
            record.write_json(&mut line, &select);
            black_box(&line);
            writing += begun.elapsed();
        });
        joining += begun.elapsed() - writing;
        rounds.push((joining, writing));
    }

    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_nanos() / CALLS_PER_ROUND as u128
    };
    let joining = median(rounds.iter().map(|(joining, _)| *joining).collect());
    let writing = median(rounds.iter().map(|(_, writing)| *writing).collect());
    let reading = median((0..ROUNDS).map(|_| read(&line)).collect());
    println!(
        "join {joining} ns, write {writing} ns, read {reading} ns per call; {} bytes a line",
        line.len()
    );
}

fn read(line: &[u8]) -> Duration {
    let begun = Instant::now();
    for _ in 0..CALLS_PER_ROUND {
        let record: CallRecord = serde_json::from_slice(line).expect("a record");
        black_box(record);
    }
    begun.elapsed()
}

fn turn(first_offset: u64, end_offset: u64, ns: u64) -> Turn {
    Turn {
        first_ns: ns,
        last_ns: ns,
        first_offset,
        end_offset,
        segments: 1,
        ip_bytes: end_offset - first_offset + 52,
        ttl_min: 64,
        ttl_max: 64,
        tcp_flags: 0x18,
        ..Turn::default()
    }
}

fn leg(cookie: u64, received: Turn, sent: Turn) -> Leg {
    let cookie = SocketCookie::new(cookie).expect("not zero");
    let mut leg = Leg {
        cookie: Some(cookie),
        identity: Some(Arc::new(SocketIdentity {
            cookie,
            local: "10.0.0.1:8080".parse().expect("an address"),
            peer: "10.0.0.2:51234".parse().expect("an address"),
            syn_ns: Some(1_000),
            established_ns: Some(51_000),
            receive_base: Some(1),
            send_base: Some(1),
            peer_window_shift: Some(7),
            syn_headers: LINUX_SYN.as_slice().into(),
        })),
        coverage: Coverage::Ebpf,
        request_seq: 9,
        received_range: Some(received.first_offset..received.end_offset),
        sent_range: Some(sent.first_offset..sent.end_offset),
        end: Counters {
            received: Some(DirectionTotals {
                offset: received.end_offset,
                ..Default::default()
            }),
            sent: Some(DirectionTotals {
                offset: sent.end_offset,
                ..Default::default()
            }),
            rtt_us: Some(90),
            min_rtt_us: Some(40),
            handshake_rtt_us: Some(50),
            retransmits: Some(0),
            rtos: Some(0),
            dup_acks: Some(0),
            cwnd: Some(10),
            mss: Some(1448),
            delivery_rate_bytes_per_s: Some(1_000_000),
            ..Counters::default()
        },
        ..Leg::default()
    };
    leg.received.turns.push(received);
    leg.sent.turns.push(sent);
    leg
}

fn call() -> Exchange {
    let mut forwarded = turn(700, 900, 1_060_000);
    (forwarded.ack.offset, forwarded.ack.ns) = (900, 1_100_000);
    let mut client = leg(7, turn(800, 950, 1_000_000), turn(4_000, 4_900, 1_300_000));
    client.head_arrived_ns = Some(1_000_000);
    Exchange {
        uid: Uuid::from_u128(1),
        request: Request {
            method: "GET".into(),
            scheme: "http".into(),
            server_address: Some("api.example.com".into()),
            server_port: Some(443),
            path: "/orders/4711".into(),
            version: "1.1".into(),
            user_agent: Some("curl/8.5.0".into()),
            request_id: Some("0193a7d2-9f3e-7c55-b0c1-3a5f0b7d9e11".into()),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            span_id: Some("00f067aa0ba902b7".into()),
            ..Request::default()
        },
        response: Response {
            status: Some(200),
            upstream_status: Some(200),
            body_bytes: 700,
            ..Response::default()
        },
        api: Arc::new(ApiNames {
            route: Some("/orders/{id}".into()),
            name: Some("orders".into()),
            ..ApiNames::default()
        }),
        consumer: Consumer::default(),
        tls: None,
        times: GatewayTimes {
            accepted_ns: Some(60_000),
            head_read_ns: 1_030_000,
            interim_read_ns: None,
            resp_read_ns: Some(1_280_000),
            resp_written_ns: 1_310_000,
            write_blocked_ns: 0,
        },
        client,
        client_address: Some("10.0.0.2:51234".parse().expect("an address")),
        cluster: Some("orders".into()),
        attempts: vec![Attempt {
            address: "10.0.0.3:9000".into(),
            cookie: SocketCookie::new(8),
            begin_ns: 1_040_000,
            connected_ns: None,
            secured_ns: None,
            outcome: "ok",
        }],
        upstream: Some(UpstreamLeg {
            leg: leg(8, turn(3_000, 3_900, 1_270_000), forwarded),
            reused: true,
            ..UpstreamLeg::default()
        }),
        policy: Policy::default(),
        flags: Vec::new(),
        error_type: None,
        reset_code: None,
    }
}

fn acknowledged(call: &Exchange) -> SocketSnapshot {
    let mut sent = call.client.sent.clone();
    (sent.turns[0].ack.offset, sent.turns[0].ack.ns) = (4_900, 1_400_000);
    let counters = Counters {
        acked_offset: Some(4_900),
        ..call.client.end
    };
    SocketSnapshot {
        counters,
        sent,
        received: call.client.received.clone(),
    }
}
