//! Whole records, as they leave.

use std::sync::Arc;

use calltap_correlate::exchange::{
    ApiNames, Attempt, Consumer, EndedConnection, Exchange, ExternalEntry, GatewayTimes, Leg,
    Policy, Request, Response, Sharing, Stage, TlsFacts, UpstreamBody, UpstreamLeg,
};
use calltap_correlate::join::{Correlator, Limits, WallClock, connection_record, external_record};
use calltap_correlate::record::{CallRecord, FIELDS, Kind, Selection, ValueKind};
use calltap_correlate::socket::{
    Acknowledged, Close, Counters, Coverage, DirectionTotals, SocketCookie, SocketIdentity, Turn,
};
use expect_test::{Expect, expect};
use serde_json::{Map, Value};
use uuid::Uuid;

const UID: Uuid = Uuid::from_u128(0x019a_abcd_0123_7456_89ab_cdef_0123_4567);

/// 2026-11-22T14:24:43Z when the monotonic clock stood at zero.
const CLOCK: WallClock = WallClock {
    wall_ns_at_zero: 1_795_357_483_000_000_000,
};

const LINUX_SYN: [u8; 60] = [
    0x45, 0xb8, 0, 0x3c, 0x1c, 0x46, 0x40, 0, 0x35, 6, 0, 0, 192, 0, 2, 7, 198, 51, 100, 1, 0xc8,
    0x22, 0x1f, 0x90, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 0xa0, 2, 0xfa, 0xf0, 0, 0, 0, 0, 2, 4, 5,
    0xb4, 4, 2, 8, 0xa, 0, 0, 0xab, 0xcd, 0, 0, 0, 0, 1, 3, 3, 7,
];

fn json(record: &CallRecord) -> Map<String, Value> {
    let mut line = Vec::new();
    record.write_json(&mut line, &Selection::all());
    serde_json::from_slice(&line).expect("an object")
}

fn check(record: &CallRecord, answer: Expect) {
    let fields = json(record);
    for key in fields.keys() {
        let field = FIELDS.iter().find(|field| {
            field.name == key
                || field.value == ValueKind::FreeKeys
                    && key
                        .strip_prefix(field.name)
                        .is_some_and(|rest| rest.starts_with('.'))
        });
        let field = field.unwrap_or_else(|| panic!("{key} is not in the schema"));
        assert!(
            field.kinds.contains(&record.kind),
            "{key} in a {}",
            record.kind.word()
        );
    }
    let lines: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    answer.assert_eq(&lines.join("\n"));
}

fn socket(cookie: u64, local: &str, peer: &str) -> Arc<SocketIdentity> {
    Arc::new(SocketIdentity {
        cookie: SocketCookie::new(cookie).expect("not zero"),
        local: local.parse().expect("an address"),
        peer: peer.parse().expect("an address"),
        syn_ns: Some(100_000_000),
        established_ns: Some(120_300_000),
        // Wraps within the request.
        receive_base: Some(0xffff_fff1),
        send_base: Some(1000),
        peer_window_shift: Some(7),
        syn_headers: LINUX_SYN.as_slice().into(),
    })
}

fn turn(from: u64, to: u64, ns: u64) -> Turn {
    Turn {
        first_ns: ns,
        last_ns: ns,
        first_offset: from,
        end_offset: to,
        segments: 1,
        ip_bytes: to - from + 52,
        ttl_min: 52,
        ttl_max: 53,
        dscp: 46,
        ecn: 2,
        tcp_flags: 0x18,
        ..Turn::default()
    }
}

fn totals(offset: u64) -> Option<DirectionTotals> {
    Some(DirectionTotals {
        offset,
        segments: 1,
        ip_bytes: Some(offset + 52),
        late_segments: None,
    })
}

fn call() -> Exchange {
    let mut client = Leg {
        cookie: SocketCookie::new(u64::MAX),
        // As a dual-stack listener sees an IPv4 client.
        identity: Some(socket(
            u64::MAX,
            "[::ffff:198.51.100.1]:8080",
            "[::ffff:192.0.2.7]:51234",
        )),
        coverage: Coverage::Ebpf,
        request_seq: 1,
        streams: 1,
        received_range: Some(0..150),
        sent_range: Some(0..1200),
        head_arrived_ns: Some(121_000_000),
        end: Counters {
            received: totals(150),
            sent: totals(1200),
            rtt_us: Some(20_400),
            min_rtt_us: Some(20_100),
            handshake_rtt_us: Some(20_300),
            retransmits: Some(1),
            rtos: Some(1),
            dup_acks: Some(0),
            cwnd: Some(10),
            mss: Some(1448),
            delivery_rate_bytes_per_s: Some(59_000),
            ..Counters::default()
        },
        ..Leg::default()
    };
    client.received.turns.push(turn(0, 150, 121_000_000));
    let mut response = turn(0, 1200, 126_000_000);
    (
        response.retransmitted_segments,
        response.retransmitted_bytes,
    ) = (1, 1200);
    response.end_resent_ns = 330_000_000;
    response.timeouts = Some(1);
    response.ack = Acknowledged {
        offset: 1200,
        ns: 350_200_000,
        with_data: false,
        window_min: Some(64_128),
        zero_window_ns: 1_500_000,
    };
    client.sent.turns.push(response);

    let mut upstream = Leg {
        cookie: SocketCookie::new(42),
        identity: Some(socket(42, "10.0.0.1:40000", "10.0.0.3:9000")),
        coverage: Coverage::Ebpf,
        request_seq: 1,
        received_range: Some(0..1100),
        sent_range: Some(0..220),
        ..Leg::default()
    };
    let mut request = turn(0, 220, 122_000_000);
    request.ack = Acknowledged {
        offset: 220,
        ns: 122_400_000,
        ..Acknowledged::default()
    };
    upstream.sent.turns.push(request);
    upstream.received.turns.push(turn(0, 1100, 125_500_000));
    upstream.end.min_rtt_us = Some(450);

    Exchange {
        uid: UID,
        request: Request {
            method: "_OTHER".into(),
            method_original: Some("BREW".into()),
            scheme: "https".into(),
            server_address: Some("api.example.com".into()),
            server_port: Some(8080),
            path: "/orders/4711".into(),
            query: Some("access_token=REDACTED".into()),
            version: "1.1".into(),
            user_agent: Some("curl/8.5.0 \u{1b}[31m".into()),
            body_bytes: 17,
            headers: vec![("x-tenant".into(), "blue".into())],
            request_id: Some("r-1".into()),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            span_id: Some("00f067aa0ba902b7".into()),
            global_transaction_id: Some("g-1".into()),
            rpc_method: None,
            upgraded_to: None,
        },
        response: Response {
            status: Some(200),
            upstream_status: Some(200),
            body_bytes: 1000,
            headers: vec![("content-type".into(), "application/json".into())],
            // Of interest when it does not end well.
            upstream_body: Some(UpstreamBody {
                bytes: 1000,
                complete: Some(true),
                passed_on: true,
            }),
            body_start: Some(200),
            is_blocked: false,
            rpc_status: None,
        },
        api: Arc::new(ApiNames {
            route: Some("/orders/{id}".into()),
            name: Some("orders".into()),
            version: Some("2".into()),
            operation: Some("getOrder".into()),
            product: Some("shop".into()),
            plan: Some("gold".into()),
            catalog: Some("live".into()),
        }),
        consumer: Consumer {
            client_id: Some("c-1".into()),
            app: Some("till".into()),
            org: Some("acme".into()),
        },
        tls: Some(Arc::new(TlsFacts {
            version: Some("1.3".into()),
            cipher: Some("TLS_AES_128_GCM_SHA256".into()),
            next_protocol: Some("http/1.1".into()),
            resumed: Some(false),
            server_name: Some("api.example.com".into()),
            ja4: Some("t13d1516h2_8daaf6152771_e5627efa2ab1".into()),
            client_subject: Some("CN=till".into()),
            client_issuer: Some("CN=acme".into()),
            client_sha256: Some("00FF".into()),
            handshake_us: Some(480),
        })),
        times: GatewayTimes {
            accepted_ns: Some(120_350_000),
            head_read_ns: 121_030_000,
            interim_read_ns: None,
            resp_read_ns: Some(125_600_000),
            resp_written_ns: 126_040_000,
            write_blocked_ns: 0,
        },
        client,
        client_address: Some("203.0.113.9:0".parse().expect("an address")),
        cluster: Some("orders".into()),
        attempts: vec![
            Attempt {
                address: "10.0.0.2:9000".into(),
                cookie: SocketCookie::new(41),
                begin_ns: 121_100_000,
                connected_ns: None,
                secured_ns: None,
                outcome: "refused",
            },
            Attempt {
                address: "10.0.0.3:9000".into(),
                cookie: SocketCookie::new(42),
                begin_ns: 121_200_000,
                connected_ns: Some(121_650_000),
                secured_ns: Some(121_900_000),
                outcome: "ok",
            },
        ],
        upstream: Some(UpstreamLeg {
            leg: upstream,
            reused: false,
            tls_version: Some("1.2".into()),
            tls_cipher: Some("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".into()),
        }),
        policy: Policy {
            decision: Some("allow"),
            matched: vec!["teapots watch dry_run".into()],
            reason: None,
            ratelimit_key: Some("c-1".into()),
            ratelimit_remaining: Some(9),
        },
        flags: Vec::new(),
        error_type: None,
        reset_code: None,
    }
}

fn record_of(exchange: Exchange) -> Arc<CallRecord> {
    let mut join = Correlator::new(Limits {
        settle_max_ns: 1,
        unsettled_max: 1,
    });
    join.take(Box::new(exchange), (), 0);
    let mut records = Vec::new();
    join.settled(CLOCK, |record, ()| records.push(record));
    records.pop().expect("settled at once")
}

#[test]
fn a_first_call_over_tls_with_a_refused_attempt() {
    check(
        &record_of(call()),
        expect![[r#"
            api.catalog: "live"
            api.consumer.app: "till"
            api.consumer.client_id: "c-1"
            api.consumer.org: "acme"
            api.name: "orders"
            api.operation: "getOrder"
            api.plan: "gold"
            api.product: "shop"
            api.version: "2"
            attribution: "exact"
            client.accept_wait_us: 50
            client.address: "203.0.113.9"
            client.attribution: "exact"
            client.coverage: "ebpf"
            client.handshake_us: 20300
            client.ip.dscp: 46
            client.ip.ecn: 2
            client.ip.ttl_max: 53
            client.ip.ttl_min: 52
            client.socket.cookie: "18446744073709551615"
            client.socket.request_seq: 1
            client.socket.streams: 1
            client.syn.df: true
            client.syn.dscp: 46
            client.syn.ecn: false
            client.syn.hops_guess: 11
            client.syn.mss: 1460
            client.syn.options: "mss,sok,ts,nop,ws"
            client.syn.p0f: "4:53+11:0:1460:mss*44,7:mss,sok,ts,nop,ws:df,id+:0"
            client.syn.ttl: 53
            client.syn.window: 64240
            client.syn.wscale: 7
            client.tcp.ack_kind: "pure"
            client.tcp.cwnd: 10
            client.tcp.delivery_rate_bytes_per_s: 59000
            client.tcp.dup_acks_total: 0
            client.tcp.flags: "PSH,ACK"
            client.tcp.handshake_rtt_us: 20300
            client.tcp.min_rtt_us: 20100
            client.tcp.mss: 1448
            client.tcp.peer_retransmits: 0
            client.tcp.retransmits: 1
            client.tcp.retransmits_total: 1
            client.tcp.retransmitted_bytes: 1200
            client.tcp.rto_total: 1
            client.tcp.rtos: 1
            client.tcp.rtt_us: 20400
            client.tcp.seq_first: 4294967281
            client.tcp.seq_last: 134
            client.tcp.window_min: 64128
            client.tcp.zero_window_us: 1500
            client.tls_handshake_us: 480
            client.wire.bytes_in: 150
            client.wire.bytes_out: 1200
            client.wire.ip_bytes_in: 202
            client.wire.ip_bytes_out: 1252
            client.wire.segments_in: 1
            client.wire.segments_out: 1
            coverage: "ebpf"
            delivered_us: 229200
            duration_us: 5000
            gateway.duration_us: 5010
            global_transaction_id: "g-1"
            http.request.body.size: 17
            http.request.header.x-tenant: "blue"
            http.request.id: "r-1"
            http.request.method: "_OTHER"
            http.request.method_original: "BREW"
            http.response.body.size: 1000
            http.response.header.content-type: "application/json"
            http.response.status_code: 200
            http.route: "/orders/{id}"
            kind: "call"
            log.record.uid: "019aabcd-0123-7456-89ab-cdef01234567"
            network.local.address: "198.51.100.1"
            network.local.port: 8080
            network.peer.address: "192.0.2.7"
            network.peer.port: 51234
            network.protocol.name: "http"
            network.protocol.version: "1.1"
            network.transport: "tcp"
            network.type: "ipv4"
            policy.decision: "allow"
            policy.matched: ["teapots watch dry_run"]
            ratelimit.key: "c-1"
            ratelimit.remaining: 9
            schema.version: "1.2"
            server.address: "api.example.com"
            server.port: 8080
            settled: "acked"
            span_id: "00f067aa0ba902b7"
            time.client_send_us: 0
            time.connect_us: 450
            time.delivery_us: 224200
            time.failed_attempts_us: 100
            time.gateway_us: 670
            time.kernel_wait_us: 30
            time.upstream_network_us: 400
            time.upstream_server_us: 3100
            time.upstream_tls_us: 250
            timestamp: "2026-11-22T14:24:43.121000Z"
            timing.head_arrived_us: 0
            timing.head_read_us: 30
            timing.req_first_us: 0
            timing.req_last_us: 0
            timing.resp_acked_us: 229200
            timing.resp_first_us: 5000
            timing.resp_last_us: 5000
            timing.resp_read_us: 4600
            timing.resp_written_us: 5040
            timing.up_acked_us: 1400
            timing.up_begin_us: 200
            timing.up_connected_us: 650
            timing.up_first_us: 4500
            timing.up_last_us: 4500
            timing.up_secured_us: 900
            timing.up_sent_first_us: 1000
            timing.up_sent_last_us: 1000
            tls.cipher: "TLS_AES_128_GCM_SHA256"
            tls.client.hash.sha256: "00FF"
            tls.client.issuer: "CN=acme"
            tls.client.ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1"
            tls.client.server_name: "api.example.com"
            tls.client.subject: "CN=till"
            tls.established: true
            tls.next_protocol: "http/1.1"
            tls.protocol.version: "1.3"
            tls.resumed: false
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736"
            upstream.address: "10.0.0.3"
            upstream.attempts: [{"address":"10.0.0.2:9000","cookie":"41","outcome":"refused"},{"address":"10.0.0.3:9000","connect_us":450,"cookie":"42","outcome":"ok"}]
            upstream.attribution: "exact"
            upstream.cluster: "orders"
            upstream.coverage: "ebpf"
            upstream.http.response.status_code: 200
            upstream.ip.dscp: 46
            upstream.ip.ecn: 2
            upstream.ip.ttl_max: 53
            upstream.ip.ttl_min: 52
            upstream.local_port: 40000
            upstream.port: 9000
            upstream.reused: false
            upstream.socket.cookie: "42"
            upstream.socket.request_seq: 1
            upstream.tcp.ack_kind: "pure"
            upstream.tcp.flags: "PSH,ACK"
            upstream.tcp.min_rtt_us: 450
            upstream.tcp.peer_retransmits: 0
            upstream.tcp.retransmits: 0
            upstream.tcp.retransmitted_bytes: 0
            upstream.tcp.seq_first: 1000
            upstream.tcp.seq_last: 1219
            upstream.tcp.zero_window_us: 0
            upstream.tls.cipher: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
            upstream.tls.protocol.version: "1.2"
            upstream.wire.bytes_in: 1100
            upstream.wire.bytes_out: 220
            upstream.wire.ip_bytes_in: 1152
            upstream.wire.ip_bytes_out: 272
            upstream.wire.segments_in: 1
            upstream.wire.segments_out: 1
            url.path: "/orders/4711"
            url.query: "access_token=REDACTED"
            url.scheme: "https"
            user_agent.original: "curl/8.5.0 \u001b[31m""#]],
    );
}

#[test]
fn a_later_call_of_the_connection_repeats_no_handshake() {
    let mut exchange = call();
    exchange.client.request_seq = 2;
    let fields = json(&record_of(exchange));
    for name in [
        "client.handshake_us",
        "client.accept_wait_us",
        "client.tls_handshake_us",
    ] {
        assert_eq!(fields.get(name), None);
    }
    assert!(
        fields.contains_key("client.syn.p0f"),
        "whose call it is stays known"
    );
    assert!(fields.contains_key("tls.client.ja4"));
}

#[test]
fn a_connection_is_there_when_the_kernel_has_it_not_when_the_gateway_wakes() {
    let connected_us = |established_ns| {
        let mut exchange = call();
        let upstream = exchange.upstream.as_mut().expect("an upstream");
        let identity = upstream.leg.identity.as_ref().expect("an identity");
        let mut identity = SocketIdentity::clone(identity);
        identity.established_ns = established_ns;
        upstream.leg.identity = Some(Arc::new(identity));
        let record = record_of(exchange);
        let attempt = record.upstream_attempts.last().expect("an attempt");
        (record.timing_up_connected_us, attempt.connect_us)
    };
    assert_eq!(connected_us(Some(121_400_000)), (Some(400), Some(200)));
    assert_eq!(connected_us(None), (Some(650), Some(450)));
    // Not this attempt's: before it began.
    assert_eq!(connected_us(Some(121_150_000)), (Some(650), Some(450)));
}

#[test]
fn a_call_that_nothing_but_the_gateway_saw() {
    let mut exchange = call();
    exchange.client = Leg {
        coverage_reason: Some("tap_off"),
        request_seq: 1,
        ..Leg::default()
    };
    exchange.tls = None;
    exchange.upstream = None;
    exchange.attempts = vec![Attempt {
        address: "unix:/run/app.sock".into(),
        cookie: None,
        begin_ns: 121_100_000,
        connected_ns: None,
        secured_ns: None,
        outcome: "refused",
    }];
    exchange.request.rpc_method = Some("shop.Orders/Get".into());
    exchange.request.upgraded_to = Some("websocket".into());
    exchange.response = Response::default();
    exchange.flags = vec!["client_abort"];
    exchange.error_type = Some("client_abort".into());
    let mut record = CallRecord::clone(&record_of(exchange));
    // Said above.
    record.api = Arc::default();
    record.api_consumer_client_id = None;
    check(
        &record,
        expect![[r#"
            api.consumer.app: "till"
            api.consumer.org: "acme"
            attribution: "partial"
            client.address: "203.0.113.9"
            client.attribution: "partial"
            client.attribution_reason: "no_coverage"
            client.coverage: "none"
            client.coverage_reason: "tap_off"
            client.socket.request_seq: 1
            coverage: "none"
            error.type: "client_abort"
            gateway.duration_us: 5010
            global_transaction_id: "g-1"
            http.request.body.size: 17
            http.request.header.x-tenant: "blue"
            http.request.id: "r-1"
            http.request.method: "_OTHER"
            http.request.method_original: "BREW"
            kind: "call"
            log.record.uid: "019aabcd-0123-7456-89ab-cdef01234567"
            network.protocol.name: "websocket"
            policy.decision: "allow"
            policy.matched: ["teapots watch dry_run"]
            ratelimit.key: "c-1"
            ratelimit.remaining: 9
            response.flags: ["client_abort"]
            rpc.method: "shop.Orders/Get"
            rpc.system.name: "grpc"
            schema.version: "1.2"
            server.address: "api.example.com"
            server.port: 8080
            span_id: "00f067aa0ba902b7"
            timestamp: "2026-11-22T14:24:43.121030Z"
            timing.head_read_us: 0
            timing.resp_read_us: 4570
            timing.resp_written_us: 5010
            timing.up_begin_us: 70
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736"
            upstream.address: "unix:/run/app.sock"
            upstream.attempts: [{"address":"unix:/run/app.sock","outcome":"refused"}]
            upstream.cluster: "orders"
            url.path: "/orders/4711"
            url.query: "access_token=REDACTED"
            url.scheme: "https"
            user_agent.original: "curl/8.5.0 \u001b[31m""#]],
    );
}

#[test]
fn a_connection_that_failed_its_handshake() {
    let client = Leg {
        cookie: SocketCookie::new(7),
        identity: Some(socket(7, "198.51.100.1:8080", "192.0.2.7:51234")),
        coverage: Coverage::Ebpf,
        end: Counters {
            received: totals(517),
            sent: totals(7),
            close: Some(Close::FinLocal),
            closed_ns: Some(130_000_000),
            ..Counters::default()
        },
        ..Leg::default()
    };
    let failed = EndedConnection {
        uid: UID,
        stage: Stage::Tls,
        error_type: Some("tls_handshake_failed"),
        accepted_ns: 120_350_000,
        ended_ns: 130_000_000,
        status: None,
        tls: Some(Arc::new(TlsFacts {
            server_name: Some("nobody.example".into()),
            ..TlsFacts::default()
        })),
        client,
    };
    check(
        &connection_record(failed, CLOCK),
        expect![[r#"
            attribution: "exact"
            client.accept_wait_us: 50
            client.address: "192.0.2.7"
            client.attribution: "exact"
            client.coverage: "ebpf"
            client.handshake_us: 20300
            client.port: 51234
            client.socket.cookie: "7"
            client.syn.df: true
            client.syn.dscp: 46
            client.syn.ecn: false
            client.syn.hops_guess: 11
            client.syn.mss: 1460
            client.syn.options: "mss,sok,ts,nop,ws"
            client.syn.p0f: "4:53+11:0:1460:mss*44,7:mss,sok,ts,nop,ws:df,id+:0"
            client.syn.ttl: 53
            client.syn.window: 64240
            client.syn.wscale: 7
            client.tcp.close: "fin_local"
            client.wire.bytes_in: 517
            client.wire.bytes_out: 7
            client.wire.ip_bytes_in: 569
            client.wire.ip_bytes_out: 59
            client.wire.segments_in: 1
            client.wire.segments_out: 1
            connection.stage: "tls"
            coverage: "ebpf"
            error.type: "tls_handshake_failed"
            kind: "connection"
            log.record.uid: "019aabcd-0123-7456-89ab-cdef01234567"
            network.local.address: "198.51.100.1"
            network.local.port: 8080
            network.peer.address: "192.0.2.7"
            network.peer.port: 51234
            network.transport: "tcp"
            network.type: "ipv4"
            schema.version: "1.2"
            timestamp: "2026-11-22T14:24:43.120350Z"
            tls.client.server_name: "nobody.example"
            tls.established: false"#]],
    );
}

#[test]
fn an_entry_that_somebody_posted() {
    let entry = ExternalEntry {
        uid: UID,
        accepted_ns: 5_000_000,
        message: "TCP header logged successfully.".into(),
        details: vec![
            ("src_ip".into(), "192.168.1.5".into()),
            ("Port.No".into(), "8080".into()),
        ],
        attached_to: None,
        matches: Some(2),
    };
    check(
        &external_record(entry, CLOCK),
        expect![[r#"
            details.port_no: "8080"
            details.src_ip: "192.168.1.5"
            kind: "external"
            log.record.uid: "019aabcd-0123-7456-89ab-cdef01234567"
            matches: 2
            message: "TCP header logged successfully."
            schema.version: "1.2"
            timestamp: "2026-11-22T14:24:43.005000Z""#]],
    );
}

#[test]
fn h2_upstreams_and_clients_share() {
    let mut exchange = call();
    for leg in [
        &mut exchange.client,
        &mut exchange.upstream.as_mut().expect("a leg").leg,
    ] {
        leg.sharing = Sharing::Multiplexed;
        leg.streams = 3;
        leg.begin = Counters {
            received: totals(0),
            sent: totals(0),
            ..Counters::default()
        };
    }
    let record = record_of(exchange);
    assert_eq!(record.kind, Kind::Call);
    let fields = json(&record);
    for (name, value) in [
        ("attribution", "shared".into()),
        ("coverage", "ebpf".into()),
        ("client.socket.streams", 3.into()),
        ("client.wire.bytes_in", 150.into()),
        ("gateway.duration_us", 5010.into()),
        ("timing.up_begin_us", 170.into()),
        // Not the mark, which is a packet's: its moment belongs to all streams.
        ("timing.resp_acked_us", Value::Null),
        ("timing.req_first_us", Value::Null),
        ("timing.head_arrived_us", Value::Null),
        ("client.tcp.window_min", Value::Null),
        ("delivered_us", Value::Null),
    ] {
        assert_eq!(fields.get(name).unwrap_or(&Value::Null), &value, "{name}");
    }
}
