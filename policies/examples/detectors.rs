//! What the detectors cost a call, with 100,000 clients: `cargo run --release -p calltap-policies --example
//! detectors`. Prints nanoseconds of CPU time a call (the median of rounds), the time that making the record
//! takes left out, and the bytes that a client, a route and a consumer take.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use calltap_correlate::exchange::ApiNames;
use calltap_correlate::record::{CallRecord, Kind, Timestamp};
use calltap_policies::alert::{Alerts, Terms};
use calltap_policies::detect::{Bounds, Detectors, TableUsage};
use rustix::time::{ClockId, clock_gettime};

const CLIENTS: u64 = 100_000;
const CALLS: u64 = 200_000;
const ROUNDS: usize = 9;

fn main() {
    let bounds = Bounds {
        clients_max: 2 * CLIENTS as usize,
        ..Bounds::default()
    };
    let mut detectors = Detectors::new(bounds);
    let mut alerts = Alerts::new(Terms::default(), 1, &[]);
    let apis: Vec<Arc<ApiNames>> = (0..20)
        .map(|at| {
            Arc::new(ApiNames {
                route: Some(format!("/things{at}/{{id}}")),
                name: Some("things".to_owned()),
                ..ApiNames::default()
            })
        })
        .collect();
    let mut calls = 0;
    let mut round = |detectors: &mut Detectors| {
        let mut spent = 0;
        // In runs, so that reading the clock is no part of it.
        for _ in 0..CALLS / 100 {
            let mut records: Vec<CallRecord> =
                (0..100).map(|at| record(calls + at, &apis)).collect();
            let begun_ns = cpu_ns();
            for (at, record) in records.iter_mut().enumerate() {
                // 20,000 calls a second.
                let now_ns = 1_700_000_000_000_000_000 + (calls + at as u64) * 50_000;
                detectors.observe(black_box(record), &mut alerts, now_ns);
            }
            spent += cpu_ns() - begun_ns;
            calls += 100;
        }
        spent as f64 / CALLS as f64
    };
    // Until every client is known.
    for _ in 0..3 {
        round(&mut detectors);
    }
    let mut costs: Vec<f64> = (0..ROUNDS).map(|_| round(&mut detectors)).collect();
    costs.sort_by(f64::total_cmp);
    println!("{:.0} ns a call", costs[ROUNDS / 2]);
    for (what, usage) in detectors.usage() {
        let TableUsage {
            known,
            refused,
            bytes_per_key,
        } = usage;
        println!("{what}: {known} known, {refused} found no room, {bytes_per_key} bytes each");
    }
}

/// CPU time of this thread, which a busy machine hardly changes.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn record(call: u64, apis: &[Arc<ApiNames>]) -> CallRecord {
    let number = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let client = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + (number % CLIENTS) as u32));
    let at = (number % apis.len() as u64) as usize;
    let mut record = CallRecord {
        kind: Kind::Call,
        timestamp: Timestamp::from_unix_us(1_700_000_000_000_000 + call as i64 * 50),
        http_request_method: Some("GET".into()),
        url_path: Some(format!("/things{at}/{}", number % 1_000_000)),
        url_query: Some("sort=price&page=2".to_owned()),
        user_agent_original: Some("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36".to_owned()),
        http_response_status_code: Some(if number.is_multiple_of(50) { 404 } else { 200 }),
        http_response_body_size: Some(500 + number % 1_000),
        http_request_body_size: Some(0),
        client_address: Some(client),
        network_peer_address: Some(client),
        time_upstream_server_us: Some(2_000 + number % 5_000),
        time_upstream_network_us: Some(150 + number % 100),
        time_gateway_us: Some(60),
        time_kernel_wait_us: Some(20),
        time_client_send_us: Some(0),
        time_connect_us: Some(0),
        time_delivery_us: Some(400 + number % 300),
        api_consumer_client_id: Some(format!("app{}", number % 500)),
        api: Arc::clone(&apis[at]),
        client_syn_options: Some("mss,sok,ts,nop,ws".into()),
        client_syn_ttl: Some(60),
        ..CallRecord::default()
    };
    record.client.socket_request_seq = Some(1);
    record.client.tcp_rtt_us = Some(20_000 + (number % 2_000) as u32);
    record.client.tcp_retransmits = Some(0);
    record.client.wire_segments_out = Some(2);
    record
}
