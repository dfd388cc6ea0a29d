//! What it costs to admit a call and to review its record:
//! `cargo run --release -p calltap-policies --example cost`.
//!
//! Medians of many short rounds, ns per call. To admit: 20 rules of which none ends it: comparisons,
//! prefixes and sets, which are closures; a limit by address; and expressions that are interpreted. To
//! review: a few rules as they are usual, and 20 of which none applies.

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Instant;

use calltap_correlate::exchange::{Consumer, Exchange, Policy, Request};
use calltap_correlate::record::{CallRecord, Kind, Timestamp};
use calltap_correlate::socket::{Counters, Turns};
use calltap_policies::admit::{
    AT_ADMISSION, Asked, Head, Limiter, OnError, Rate, Rule, Rules, Then,
};
use calltap_policies::expression::{Condition, Key};
use calltap_policies::review::{AT_REVIEW, RecordRule, RecordRules, Redact, Review, ThenRecord};
use uuid::Uuid;

const RULES: usize = 20;
const ROUNDS: usize = 101;
const CALLS: u64 = 2_000;

const SIMPLE: [&str; 5] = [
    r#"http.request.method == "DELETE""#,
    r#"url.path.startsWith("/internal/")"#,
    r#"api.consumer.client_id in ["a", "b", "c", "d", "e"]"#,
    r#"client.tcp.rtt_us > 500000"#,
    r#"server.port == 8443 && url.scheme == "http""#,
];
const WRITTEN_OUT: [&str; 1] =
    [r#"["/a", "/b", "/c"].exists(prefix, url.path.startsWith(prefix))"#];
const INTERPRETED: [&str; 2] = [
    r#"["/a", "/b", "/c"].map(prefix, prefix).exists(prefix, url.path.startsWith(prefix))"#,
    r#"{"GET": false, "PUT": true}[http.request.method]"#,
];

/// What a configuration may have beside those: networks, patterns, fingerprints, headers.
const OTHERS: [&str; 5] = [
    r#"cidr("10.0.0.0/8").containsIP(client.address) && url.path.startsWith("/admin")"#,
    r#"url.path.matches("^/v[0-9]+/private/")"#,
    r#"client.syn.p0f == "4:128+0:0:1460:mss*44,7:mss,sok,ts,nop,ws:df,id+:0""#,
    r#"http.request.header["x-tenant"] == "blue""#,
    r#"user_agent.original.contains("Windows NT") && client.syn.ttl <= 64"#,
];

struct Client;

impl Asked for Client {
    fn header(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
    fn counters(&self) -> Counters {
        Counters {
            rtt_us: Some(300),
            ..Counters::default()
        }
    }
    fn received(&self) -> Turns {
        Turns::default()
    }
}

fn main() {
    let tags = |conditions: &[&str]| {
        let rule = |condition: &&str| rule(condition, Then::Tag);
        conditions.iter().cycle().take(RULES).map(rule).collect()
    };
    let limits = (0..RULES).map(|_| rule("true", limit())).collect();
    let mut all_kinds: Vec<Rule> = tags(&[&SIMPLE[..], &OTHERS, &WRITTEN_OUT].concat());
    all_kinds.truncate(15);
    all_kinds.extend((0..4).map(|_| rule("true", limit())));
    all_kinds.push(rule(INTERPRETED[0], Then::Tag));
    for (name, rules) in [
        ("20 simple rules", tags(&SIMPLE)),
        ("20 rules of all kinds", all_kinds),
        ("20 rules with a list each", tags(&WRITTEN_OUT)),
        ("20 limits by address", limits),
        ("20 interpreted rules", tags(&INTERPRETED)),
    ] {
        println!("{name}: {:.0} ns a call", per_call_ns(&Rules::new(rules)));
    }
    let keep = |when: &&str| record_rule(when, ThenRecord::Keep);
    for (name, rules) in [
        ("no rules about records", vec![]),
        ("4 usual rules about records", usual()),
        (
            "20 simple rules about records",
            SIMPLE_OF_RECORDS
                .iter()
                .cycle()
                .take(RULES)
                .map(keep)
                .collect(),
        ),
    ] {
        let review = Review {
            rules: RecordRules::new(rules).into(),
            hides_words: false,
        };
        println!("{name}: {:.0} ns a record", per_record_ns(&review));
    }
}

const SIMPLE_OF_RECORDS: [&str; 5] = [
    r#"http.request.method == "DELETE""#,
    r#"url.path.startsWith("/internal/")"#,
    r#"http.response.status_code in [502, 503, 504]"#,
    "delivered_us > 1000000",
    "size(findings) > 0",
];

fn usual() -> Vec<RecordRule> {
    let redact = Redact::read(&["voucher", "user_agent.original"]).expect("names");
    let sample = ThenRecord::Sample {
        one_in: 100,
        slow_us: 1_000_000,
    };
    vec![
        record_rule(
            r#"url.path == "/healthz" && http.response.status_code < 400"#,
            ThenRecord::Drop,
        ),
        record_rule(
            r#"url.path.startsWith("/shop/")"#,
            ThenRecord::Redact(redact),
        ),
        record_rule(r#"api.name == "payments""#, ThenRecord::Keep),
        record_rule(r#"kind == "call""#, sample),
    ]
}

fn record_rule(when: &str, then: ThenRecord) -> RecordRule {
    RecordRule {
        name: "rule".to_owned(),
        when: Condition::read(when, AT_REVIEW).expect("a condition"),
        then,
        dry_run: false,
        on_error: OnError::Skip,
    }
}

/// Of a record that nothing keeps but chance.
fn per_record_ns(review: &Review) -> f64 {
    let mut record = CallRecord {
        http_request_method: Some("GET".into()),
        http_response_status_code: Some(200),
        url_path: Some("/shop/orders/7".to_owned()),
        url_query: Some("voucher=7&page=2".to_owned()),
        user_agent_original: Some("curl".to_owned()),
        delivered_us: Some(900),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        ..CallRecord::new(Kind::Call, Uuid::nil(), Timestamp::default())
    };
    median_ns(|_| {
        black_box(review.judge(black_box(&mut record)));
        record.policy_matched.clear();
    })
}

fn rule(condition: &str, then: Then) -> Rule {
    Rule {
        name: "rule".to_owned(),
        when: Condition::read(condition, AT_ADMISSION).expect("a condition"),
        then,
        dry_run: false,
        on_error: OnError::Skip,
    }
}

fn limit() -> Then {
    let rate = Rate {
        quota: 1_000_000_000,
        window_s: 1,
        burst: 1_000_000_000,
    };
    Then::Limit {
        key: Key::read("client.address", AT_ADMISSION).expect("a key"),
        limiter: Limiter::new(rate, 65_536),
    }
}

fn per_call_ns(rules: &Rules) -> f64 {
    let exchange = exchange();
    median_ns(|now_ns| {
        let head = Head::new(black_box(&exchange), "/orders/7", &Client);
        let mut policy = Policy::default();
        black_box(rules.admit(&head, &mut policy, now_ns));
    })
}

fn median_ns(mut one: impl FnMut(u64)) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            (0..CALLS).for_each(&mut one);
            begin.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn exchange() -> Exchange {
    Exchange {
        request: Request {
            method: "GET".into(),
            scheme: "https".into(),
            server_port: Some(443),
            path: "/orders/7".to_owned(),
            ..Request::default()
        },
        consumer: Consumer {
            client_id: Some("somebody".to_owned()),
            ..Consumer::default()
        },
        client_address: "192.0.2.7:4000".parse().ok(),
        ..Exchange::default()
    }
}
