//! What it costs to admit a call: `cargo run --release -p calltap-policies --example cost`.
//!
//! Medians of many short rounds, ns per call, of 20 rules of which none ends it: comparisons, prefixes and
//! sets, which are closures; a limit by address; and expressions that are interpreted.

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Instant;

use calltap_correlate::exchange::{Consumer, Exchange, Policy, Request};
use calltap_correlate::socket::{Counters, Turns};
use calltap_policies::admit::{
    AT_ADMISSION, Asked, Head, Limiter, OnError, Rate, Rule, Rules, Then,
};
use calltap_policies::expression::{Condition, Key};

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
const INTERPRETED: [&str; 2] = [
    r#"["/a", "/b", "/c"].exists(prefix, url.path.startsWith(prefix))"#,
    r#"{"GET": false, "PUT": true}[http.request.method]"#,
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
    for (name, rules) in [
        ("20 simple rules", tags(&SIMPLE)),
        ("20 limits by address", limits),
        ("20 interpreted rules", tags(&INTERPRETED)),
    ] {
        println!("{name}: {:.0} ns a call", per_call_ns(&Rules::new(rules)));
    }
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
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            for now_ns in 0..CALLS {
                let head = Head::new(black_box(&exchange), "/orders/7", &Client);
                let mut policy = Policy::default();
                black_box(rules.admit(&head, &mut policy, now_ns));
            }
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
