use calltap_correlate::record::{Finding, Kind, Timestamp};
use uuid::Uuid;

use super::*;

fn record() -> CallRecord {
    CallRecord {
        http_request_method: Some("GET".into()),
        http_response_status_code: Some(200),
        url_path: Some("/orders/7".to_owned()),
        url_query: Some("voucher=7&page=2".to_owned()),
        user_agent_original: Some("curl".to_owned()),
        trace_id: Some("00000000000000000000000000000000".to_owned()),
        delivered_us: Some(900),
        client_address: Some("192.0.2.7".parse().expect("an address")),
        http_request_headers: vec![
            ("x-tenant".to_owned(), "blue".to_owned()),
            ("x_voucher".to_owned(), "8".to_owned()),
        ],
        ..CallRecord::new(Kind::Call, Uuid::nil(), Timestamp::default())
    }
}

fn rule(name: &str, when: &str, then: ThenRecord) -> RecordRule {
    RecordRule {
        name: name.to_owned(),
        when: Condition::read(when, AT_REVIEW)
            .unwrap_or_else(|mistake| panic!("{when}: {mistake}")),
        then,
        dry_run: false,
        on_error: OnError::Skip,
    }
}

fn redact(names: &[&str]) -> ThenRecord {
    ThenRecord::Redact(Redact::read(names).expect("names"))
}

const SAMPLE: ThenRecord = ThenRecord::Sample {
    one_in: 100,
    slow_us: 1_000,
};

#[track_caller]
fn judged(rules: Vec<RecordRule>, mut record: CallRecord) -> (Fate, CallRecord) {
    let fate = RecordRules::new(rules).judge(&mut record);
    (fate, record)
}

#[test]
fn any_field_can_be_asked_for() {
    let mut record = record();
    let condition = |when: &str| Condition::read(when, AT_REVIEW).expect(when);
    let holds = |when: &str, record: &CallRecord| condition(when).holds(record).expect(when);
    for when in [
        r#"kind == "call" && timestamp == "1970-01-01T00:00:00.000000Z""#,
        "delivered_us == 900 && !has(upstream.port)",
        r#"http.request.header["X-Tenant"] == "blue""#,
        r#"http.request.header["x.voucher"] == "8""#,
        r#"cidr("192.0.2.0/24").containsIP(client.address)"#,
        "size(findings) == 0 && !has(response.flags)",
    ] {
        assert!(holds(when, &record), "{when}");
    }
    record.findings = vec![Finding {
        detector: "scraping".into(),
        ..Finding::default()
    }];
    for when in [
        "size(findings) == 1",
        r#""scraping" in findings"#,
        r#"findings.exists(found, found.startsWith("scr"))"#,
    ] {
        assert!(holds(when, &record), "{when}");
    }
}

#[test]
fn the_first_rule_that_keeps_or_drops_ends_it() {
    let rules = || {
        vec![
            rule(
                "own",
                r#"http.request.header["x-tenant"] == "blue""#,
                redact(&["url.query"]),
            ),
            rule(
                "orders",
                r#"url.path.startsWith("/orders")"#,
                ThenRecord::Keep,
            ),
            rule("rest", "true", ThenRecord::Drop),
        ]
    };
    let (fate, kept) = judged(rules(), record());
    assert_eq!(fate, Fate::Kept);
    assert_eq!(kept.policy_matched, ["own:redact", "orders:keep"]);
    assert_eq!(kept.url_query, None);
    let other = CallRecord {
        url_path: Some("/".to_owned()),
        ..record()
    };
    let rules = RecordRules::new(rules());
    assert_eq!(rules.judge(&mut other.clone()), Fate::Filtered);
    let counts: Vec<_> = rules
        .counts()
        .map(|count| (count.rule, count.applied, count.left_out))
        .collect();
    assert_eq!(counts, [("own", 1, 0), ("orders", 0, 0), ("rest", 1, 1)]);
}

#[test]
fn what_is_redacted_is_still_asked_for() {
    let rules = vec![
        rule("hide", "true", redact(&["user_agent.original"])),
        rule("curl", r#"user_agent.original == "curl""#, ThenRecord::Drop),
    ];
    assert_eq!(judged(rules, record()).0, Fate::Filtered);
}

#[test]
fn what_is_redacted_does_not_stay_in_words() {
    let record = CallRecord {
        ratelimit_key: Some("192.0.2.7".to_owned()),
        findings: vec![Finding {
            detector: "injection".into(),
            score: Some(100),
            reason: "192.0.2.7 sent requests that look like code".into(),
        }],
        ..record()
    };
    let mut by_all = record.clone();
    let hide = rule("hide", "true", redact(&["client.address"]));
    let (_, kept) = judged(vec![hide], record);
    let told = format!("{kept:?}");
    assert!(!told.contains("192.0.2.7"), "{told}");
    assert_eq!(kept.findings[0].detector, "injection");
    let review = Review {
        hides_words: true,
        ..Review::default()
    };
    assert_eq!(review.judge(&mut by_all), Fate::Kept);
    let words = (&by_all.ratelimit_key, &by_all.findings[0].reason);
    assert_eq!(words, (&Some(REDACTED.to_owned()), &REDACTED.into()));
}

#[test]
fn counters_go_on_where_a_rule_stays_what_it_was() {
    let rules = |dry_run| {
        RecordRules::new(vec![RecordRule {
            dry_run,
            ..rule("drop", "true", ThenRecord::Drop)
        }])
    };
    let before = rules(true);
    before.judge(&mut record());
    for (dry_run, expected) in [(true, 1), (false, 0)] {
        let mut after = rules(dry_run);
        after.continue_from(&before);
        let applied: Vec<u64> = after.counts().map(|count| count.applied).collect();
        assert_eq!(applied, [expected]);
    }
}

#[test]
fn errors_and_slow_calls_are_kept_whatever_is_sampled() {
    let fate = |change: fn(&mut CallRecord)| {
        let mut record = record();
        change(&mut record);
        let (fate, record) = judged(vec![rule("some", "true", SAMPLE)], record);
        assert_eq!(record.sampling_one_in, None, "it stands for itself");
        fate
    };
    assert_eq!(fate(|_| {}), Fate::Sampled);
    for (what, change) in [
        (
            "slow",
            (|record| record.delivered_us = Some(1_000)) as fn(&mut CallRecord),
        ),
        ("503", |record| record.http_response_status_code = Some(503)),
        ("an error", |record| {
            record.error_type = Some("no_route".into())
        }),
        ("a flag", |record| {
            record.response_flags = vec!["client_abort".into()]
        }),
        ("gRPC", |record| {
            record.rpc_status_code = Some("UNAVAILABLE".into())
        }),
        ("a finding", |record| {
            record.policy_decision = Some("deny".into());
            record.findings = vec![Finding::default()];
        }),
    ] {
        assert_eq!(fate(change), Fate::Kept, "{what}");
    }
    for (what, change) in [
        (
            "not found",
            (|record| record.http_response_status_code = Some(404)) as fn(&mut CallRecord),
        ),
        ("gRPC", |record| {
            record.rpc_status_code = Some("NOT_FOUND".into())
        }),
        ("what a rule refused", |record| {
            record.policy_decision = Some("deny".into());
            record.error_type = Some("denied".into());
            record.response_flags = vec!["denied".into()];
        }),
    ] {
        assert_eq!(fate(change), Fate::Sampled, "{what}");
    }
}

#[test]
fn a_trace_is_kept_whole_or_not_at_all_and_one_in_so_many_is() {
    let some = |one_in| {
        RecordRules::new(vec![rule(
            "some",
            "true",
            ThenRecord::Sample {
                one_in,
                slow_us: u64::MAX,
            },
        )])
    };
    let (hundredth, tenth) = (some(100), some(10));
    let mut kept = 0;
    for number in 0..100_000_u64 {
        // Weyl's sequence: even over all numbers of 64 bits.
        let trace = format!("{:032x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let of = |uid| CallRecord {
            uid: Uuid::from_u128(uid),
            trace_id: Some(trace.clone()),
            ..record()
        };
        let (mut one, mut other) = (of(1), of(2));
        let fate = hundredth.judge(&mut one);
        assert_eq!(hundredth.judge(&mut other), fate);
        if fate == Fate::Kept {
            kept += 1;
            assert_eq!(one.sampling_one_in, Some(100));
            assert_eq!(tenth.judge(&mut of(3)), Fate::Kept);
        }
    }
    assert!((990..=1_010).contains(&kept), "{kept}");

    let kept = (0..100_000_u128)
        .filter(|number| {
            let mut record = CallRecord {
                trace_id: None,
                uid: Uuid::from_u128(0x019a_abcd_0123_7000_8000_0000_0000_0000 + number),
                ..record()
            };
            hundredth.judge(&mut record) == Fate::Kept
        })
        .count();
    // Five standard deviations of so many draws.
    assert!((843..=1_157).contains(&kept), "{kept}");
}

#[test]
fn a_dry_run_leaves_the_record_as_it_is_and_counts() {
    let dry = |rule| RecordRule {
        dry_run: true,
        ..rule
    };
    let rules = RecordRules::new(vec![
        dry(rule("hide", "true", redact(&["url.query"]))),
        dry(rule("drop", "true", ThenRecord::Drop)),
        dry(rule("some", "true", SAMPLE)),
    ]);
    let mut record = record();
    let before = record.clone();
    assert_eq!(rules.judge(&mut record), Fate::Kept);
    let marks = std::mem::take(&mut record.policy_matched);
    assert_eq!(
        marks,
        [
            "hide:redact:dry_run",
            "drop:drop:dry_run",
            "some:sample:dry_run"
        ]
    );
    assert_eq!(record, before);
    let left_out: Vec<u64> = rules.counts().map(|count| count.left_out).collect();
    assert_eq!(left_out, [0, 1, 1]);
}

#[test]
fn a_condition_without_an_answer_hides_only_where_it_is_to() {
    let when = "upstream.port == 80";
    let rules = RecordRules::new(vec![
        rule("skipped", when, ThenRecord::Drop),
        RecordRule {
            on_error: OnError::Match,
            ..rule("matched", when, redact(&["voucher"]))
        },
    ]);
    let mut record = record();
    assert_eq!(rules.judge(&mut record), Fate::Kept);
    assert_eq!(record.policy_matched, ["matched:redact"]);
    let unanswered: Vec<u64> = rules.counts().map(|count| count.unanswered).collect();
    assert_eq!(unanswered, [1, 1]);
}

#[test]
fn fields_go_and_values_are_hidden() {
    let hidden = |names: &[&str]| {
        let mut record = record();
        Redact::read(names).expect("names").hide(&mut record);
        record
    };
    let names = hidden(&["Voucher", "x-voucher"]);
    assert_eq!(names.url_query.as_deref(), Some("voucher=REDACTED&page=2"));
    assert_eq!(names.http_request_headers[1].1, REDACTED);
    assert_eq!(names.http_request_headers[0].1, "blue");
    let parameter = hidden(&["url.query.page"]);
    assert_eq!(
        parameter.url_query.as_deref(),
        Some("voucher=7&page=REDACTED")
    );
    let header = hidden(&["http.request.header.X-Tenant", "client.*"]);
    assert_eq!(header.http_request_headers.len(), 1);
    assert_eq!(header.client_address, None);
    assert_eq!(header.url_path, record().url_path);
    let word = hidden(&["trace_id"]);
    assert_eq!(word.trace_id, None);
}

#[test]
fn names_of_nothing_are_mistakes() {
    let wrong = Redact::read(&["url.pth", "kind", "voucher", "made.up", "url.query."]);
    let wrong: Vec<_> = wrong
        .expect_err("mistakes")
        .into_iter()
        .map(|(at, mistake)| (at, mistake.message, mistake.remedy.unwrap_or_default()))
        .collect();
    let expected = [
        (
            0,
            "the record has no field \"url.pth\"",
            "did you mean \"url.path\"?",
        ),
        (1, "every record has kind", ""),
        (
            3,
            "the record has no field \"made.up\"",
            "query parameters are written \"url.query.name\"",
        ),
        (
            4,
            "the record has no field \"url.query.\"",
            "did you mean \"url.query\"?",
        ),
    ];
    let expected =
        expected.map(|(at, message, remedy)| (at, message.to_owned(), remedy.to_owned()));
    assert_eq!(wrong, expected);
}
