use std::borrow::Cow;

use calltap_correlate::exchange::{Exchange, Policy, Request};
use calltap_correlate::socket::{Counters, Turns};

use super::*;

struct Client;

impl Asked for Client {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == "x-tenant").then_some("blue".into())
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

fn exchange(path: &str) -> Exchange {
    Exchange {
        request: Request {
            method: "GET".into(),
            path: path.to_owned(),
            ..Request::default()
        },
        client_address: Some("192.0.2.7:4000".parse().unwrap()),
        ..Exchange::default()
    }
}

fn rule(name: &str, when: &str, then: Then) -> Rule {
    Rule {
        name: name.to_owned(),
        when: Condition::read(when, AT_ADMISSION).unwrap(),
        then,
        dry_run: false,
        on_error: OnError::Skip,
    }
}

fn admitted(rules: &Rules, path: &str) -> (Verdict, Policy) {
    let exchange = exchange(path);
    let head = Head::new(&exchange, path, &Client);
    let mut policy = Policy::default();
    let decision = rules.admit(&head, &mut policy, 1);
    (decision.verdict, policy)
}

const DENY: Then = Then::Deny { status: 403 };

#[test]
fn the_first_rule_that_allows_or_denies_ends_it() {
    let rules = Rules::new(vec![
        rule("slow", "client.tcp.rtt_us > 100", Then::Tag),
        rule("health", r#"url.path == "/health""#, Then::Allow),
        rule("blue", r#"http.request.header["x-tenant"] == "blue""#, DENY),
        rule("rest", "true", Then::Allow),
    ]);
    let (verdict, policy) = admitted(&rules, "/health");
    assert_eq!(verdict, Verdict::Allow);
    assert_eq!(policy.matched, ["slow:tag", "health:allow"]);
    assert_eq!(policy.decision, Some("allow"));
    let (verdict, policy) = admitted(&rules, "/orders");
    assert_eq!(verdict, Verdict::Deny { status: 403 });
    assert_eq!(policy.matched, ["slow:tag", "blue:deny"]);
    assert_eq!(policy.reason.as_deref(), Some("blue"));
    let applied: Vec<u64> = rules.counts().map(|count| count.applied).collect();
    assert_eq!(applied, [2, 1, 1, 0]);
}

#[test]
fn a_dry_run_only_says_so() {
    let deny = Rule {
        dry_run: true,
        ..rule("all", "true", DENY)
    };
    let (verdict, policy) = admitted(&Rules::new(vec![deny]), "/");
    assert_eq!(verdict, Verdict::Allow);
    assert_eq!(policy.matched, ["all:deny:dry_run"]);
    assert_eq!(policy.decision, None);
}

#[test]
fn a_condition_without_an_answer_is_counted_and_no_match_unless_it_is_to_be_one() {
    let when = "client.tcp.min_rtt_us > 5";
    let rules = Rules::new(vec![
        rule("skipped", when, DENY),
        Rule {
            on_error: OnError::Match,
            ..rule("matched", when, DENY)
        },
    ]);
    let (verdict, policy) = admitted(&rules, "/");
    assert_eq!(verdict, Verdict::Deny { status: 403 });
    assert_eq!(policy.matched, ["matched:deny"]);
    let unanswered: Vec<u64> = rules.counts().map(|count| count.unanswered).collect();
    assert_eq!(unanswered, [1, 1]);
}

#[test]
fn a_key_that_names_a_header_is_not_shown_and_one_without_an_answer_may_be_shared() {
    let limit = |key| Then::Limit {
        key: Key::read(key, AT_ADMISSION).unwrap(),
        limiter: Limiter::new(
            Rate {
                quota: 1,
                window_s: 60,
                burst: 1,
            },
            64,
        ),
    };
    let secret = r#"http.request.header["x-tenant"]"#;
    let (_, policy) = admitted(
        &Rules::new(vec![rule("secret", "true", limit(secret))]),
        "/",
    );
    assert_eq!(policy.ratelimit_key, None);
    assert_eq!(policy.ratelimit_remaining, Some(0));
    let absent = "tls.client.ja4";
    let open = Rules::new(vec![rule("open", "true", limit(absent))]);
    let closed = Rules::new(vec![Rule {
        on_error: OnError::Match,
        ..rule("closed", "true", limit(absent))
    }]);
    for (rules, second) in [(open, Verdict::Allow), (closed, Verdict::Limit)] {
        assert_eq!(admitted(&rules, "/").0, Verdict::Allow);
        assert_eq!(admitted(&rules, "/").0, second);
    }
}

#[test]
fn a_limit_that_stays_the_same_counts_on_after_a_reload() {
    let limit = |name: &str, key: &str, quota| {
        let limiter = Limiter::new(
            Rate {
                quota,
                window_s: 3_600,
                burst: 1,
            },
            64,
        );
        let key = Key::read(key, AT_ADMISSION).unwrap();
        Rules::new(vec![rule(name, "true", Then::Limit { key, limiter })])
    };
    let before = limit("one", "client.address", 1);
    assert_eq!(admitted(&before, "/").0, Verdict::Allow);
    for (name, key, quota, verdict) in [
        ("one", "client.address", 1, Verdict::Limit),
        ("other", "client.address", 1, Verdict::Allow),
        ("one", "url.path", 1, Verdict::Allow),
        ("one", "client.address", 2, Verdict::Allow),
    ] {
        let mut after = limit(name, key, quota);
        after.continue_from(&before);
        assert_eq!(admitted(&after, "/").0, verdict, "{name} {key} {quota}");
        let applied: Vec<_> = after.counts().map(|count| count.applied).collect();
        let expected = if name == "one" {
            before.counts().map(|count| count.applied).collect()
        } else {
            vec![0]
        };
        assert_eq!(applied, expected, "{name} {key} {quota}");
    }
}

#[test]
fn all_addresses_of_one_ipv6_subscriber_share_a_limit() {
    let limiter = Limiter::new(
        Rate {
            quota: 1,
            window_s: 3_600,
            burst: 1,
        },
        64,
    );
    let key = Key::read(r#"client.address + " " + url.path"#, AT_ADMISSION).unwrap();
    let rules = Rules::new(vec![rule("one", "true", Then::Limit { key, limiter })]);
    for (client, verdict) in [
        ("[2001:db8:1:2::1]:4000", Verdict::Allow),
        ("[2001:db8:1:2:ffff::9]:4000", Verdict::Limit),
        ("[2001:db8:1:3::1]:4000", Verdict::Allow),
        ("192.0.2.7:4000", Verdict::Allow),
        ("192.0.2.8:4000", Verdict::Allow),
        ("[::ffff:192.0.2.8]:4000", Verdict::Limit),
    ] {
        let exchange = Exchange {
            client_address: Some(client.parse().unwrap()),
            ..exchange("/")
        };
        let head = Head::new(&exchange, "/", &Client);
        let mut policy = Policy::default();
        let decision = rules.admit(&head, &mut policy, 1);
        assert_eq!(decision.verdict, verdict, "{client}");
        if client.contains("2001:db8:1:2") {
            let key = policy.ratelimit_key.as_deref();
            assert_eq!(key, Some("2001:db8:1:2::/64 /"));
        }
    }
}

#[test]
fn a_key_may_compute_with_an_address_and_has_the_64_in_it() {
    let exchange = Exchange {
        client_address: Some("[2001:db8:1:2::7]:4000".parse().unwrap()),
        ..exchange("/")
    };
    let head = Head::new(&exchange, "/", &Client);
    for (key, expected) in [
        (
            r#"cidr("2001:db8:1:2::7/128").containsIP(client.address) ? "it" : client.address"#,
            "it",
        ),
        (
            r#"cidr("10.0.0.0/8").containsIP(client.address) ? "inside" : client.address"#,
            "2001:db8:1:2::/64",
        ),
        (r#"client . address + "!""#, "2001:db8:1:2::/64!"),
        (r#"client.address == "2001:db8:1:2::7""#, "true"),
    ] {
        let key = Key::read(key, AT_ADMISSION).unwrap();
        assert_eq!(key.of(&head).as_deref(), Ok(expected));
    }
}

#[test]
fn the_tightest_limit_is_told() {
    let limit = |quota, burst| Then::Limit {
        key: Key::read("client.address", AT_ADMISSION).unwrap(),
        limiter: Limiter::new(
            Rate {
                quota,
                window_s: 60,
                burst,
            },
            64,
        ),
    };
    let rules = Rules::new(vec![
        rule("many", "true", limit(600, 100)),
        rule("few", "true", limit(60, 2)),
    ]);
    let exchange = exchange("/");
    let head = Head::new(&exchange, "/", &Client);
    let mut last = None;
    for (left, verdict) in [
        (1, Verdict::Allow),
        (0, Verdict::Allow),
        (0, Verdict::Limit),
    ] {
        let mut policy = Policy::default();
        let decision = rules.admit(&head, &mut policy, 1);
        assert_eq!(decision.verdict, verdict);
        assert_eq!(policy.ratelimit_remaining, Some(left));
        assert_eq!(policy.ratelimit_key.as_deref(), Some("192.0.2.7"));
        last = Some((decision.limit.unwrap(), policy));
    }
    let (limit, policy) = last.unwrap();
    assert_eq!(
        (limit.rule.as_str(), limit.burst, limit.window_s),
        ("few", 2, 2)
    );
    assert_eq!(limit.stand.retry_ns, 1_000_000_000);
    assert_eq!(policy.matched, ["few:limit"]);
    assert_eq!(policy.decision, Some("limit"));
}

#[test]
fn only_so_many_calls_of_a_key_are_open_at_a_time() {
    let key = || Key::read("client.address", AT_ADMISSION).unwrap();
    let concurrent = |open_max| Then::Concurrent {
        key: key(),
        gate: Gate::new(open_max),
    };
    let rules = Rules::new(vec![
        rule("two", "true", concurrent(2)),
        rule("no-admin", "url.path == \"/admin\"", DENY),
    ]);
    let enter = |path: &str| {
        let exchange = exchange(path);
        let head = Head::new(&exchange, path, &Client);
        let mut policy = Policy::default();
        (rules.admit(&head, &mut policy, 1), policy)
    };
    let (first, policy) = enter("/");
    assert_eq!(first.verdict, Verdict::Allow);
    assert!(policy.matched.is_empty(), "{policy:?}");
    // A call that another rule refuses is not open.
    assert_eq!(enter("/admin").0.verdict, Verdict::Deny { status: 403 });
    let (_second, _) = enter("/");
    let (third, policy) = enter("/");
    assert_eq!(third.verdict, Verdict::Limit);
    assert!(third.limit.is_none() && third.places.is_empty());
    assert_eq!(policy.matched, ["two:limit"]);
    assert_eq!(policy.ratelimit_key.as_deref(), Some("192.0.2.7"));
    drop(first);
    assert_eq!(enter("/").0.verdict, Verdict::Allow);
}
