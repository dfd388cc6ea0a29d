use super::*;

const SECOND_NS: u64 = 1_000_000_000;

const TERMS: Terms = Terms {
    false_per_day: 1.0,
    quiet_ns: 60 * SECOND_NS,
    refractory_ns: 300 * SECOND_NS,
    update_ns: 60 * SECOND_NS,
    alerts_max: 10 * DETECTORS.len(),
};

fn signal(client: u32, tail: f64) -> Signal<'static> {
    Signal {
        detector: Detector::AuthFailures,
        subject: Subject::client(IpAddr::from(client.to_be_bytes())),
        tail,
        observed: 40.0,
        usual: 1.0,
        summary: "40 refused".to_owned(),
        since_ns: 0,
        source: None,
        call: None,
    }
}

fn changes(alerts: &mut Alerts) -> Vec<(Change, String)> {
    let mut seen = Vec::new();
    alerts.take(|change, alert| seen.push((change, alert.subject.to_string())));
    seen
}

#[test]
fn what_goes_on_is_one_alert_until_it_has_been_quiet() {
    let mut alerts = Alerts::new(TERMS, 7, &[]);
    let client = "0.0.0.1".to_owned();
    for second in 0..100 {
        alerts.raise(signal(1, 1e-9), second * SECOND_NS);
        alerts.tick(second * SECOND_NS);
    }
    assert_eq!(
        changes(&mut alerts),
        [
            (Change::Opened, client.clone()),
            (Change::Updated, client.clone())
        ]
    );
    let id = alerts.iter().next().map(|alert| alert.id);
    alerts.tick(170 * SECOND_NS);
    assert_eq!(changes(&mut alerts), [(Change::Resolved, client.clone())]);
    // Back within the refractory time: the same one.
    alerts.raise(signal(1, 1e-9), 200 * SECOND_NS);
    assert_eq!(changes(&mut alerts), [(Change::Opened, client.clone())]);
    assert_eq!(alerts.iter().next().map(|alert| alert.id), id);
    // Much later: another.
    alerts.tick(300 * SECOND_NS);
    alerts.tick(1000 * SECOND_NS);
    assert_eq!(alerts.iter().count(), 0);
    alerts.raise(signal(1, 1e-9), 1001 * SECOND_NS);
    assert_ne!(alerts.iter().next().map(|alert| alert.id), id);
}

#[test]
fn a_storm_of_subjects_becomes_one_alert_about_everyone() {
    let mut alerts = Alerts::new(TERMS, 7, &[]);
    for client in 0..100_000 {
        alerts.raise(signal(client, 1e-9), SECOND_NS);
    }
    assert_eq!(alerts.iter().count(), 11);
    let everyone = alerts
        .iter()
        .find(|alert| alert.subject == Subject::Everyone)
        .expect("one about everyone");
    assert_eq!(everyone.signals, 100_000 - 10);
    assert_eq!(changes(&mut alerts).len(), 11);
}

#[test]
fn decoys_that_are_over_make_room_and_everyone_is_nobody_to_deny() {
    let mut alerts = Alerts::new(TERMS, 7, &[]);
    let from = |client: u32| Signal {
        source: Some(IpAddr::from(client.to_be_bytes())),
        ..signal(client, 1e-9)
    };
    for decoy in 0..20 {
        alerts.raise(from(decoy), SECOND_NS);
    }
    let source = |alerts: &Alerts, subject: Subject| {
        let mut of = alerts.iter().filter(|alert| alert.subject == subject);
        of.next().map(|alert| alert.source)
    };
    assert_eq!(source(&alerts, Subject::Everyone), Some(None));
    // The decoys are silent, and resolved.
    alerts.tick(100 * SECOND_NS);
    changes(&mut alerts);
    let attacker = Subject::client(IpAddr::from(99_u32.to_be_bytes()));
    alerts.raise(from(99), 101 * SECOND_NS);
    let denied = Some(Some(IpAddr::from(99_u32.to_be_bytes())));
    assert_eq!(source(&alerts, attacker), denied);
    assert_eq!(alerts.iter().count(), 11);
}

#[test]
fn the_budget_holds_whatever_the_rate_of_looks() {
    for looks_per_s in [1_u64, 100, 20_000] {
        let mut budget = Budget::new(24.0);
        // Usual traffic: tails are even between 0 and 1.
        let mut state = 1_u64;
        let mut beyond = 0;
        for second in 0..1_800 {
            budget.tick(second * SECOND_NS);
            for _ in 0..looks_per_s {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let tail = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
                beyond += u32::from(budget.weigh(Detector::AuthFailures, tail));
            }
        }
        // 24 a day over 24 detectors: one a day for this one.
        assert!(beyond <= 2, "{looks_per_s} looks a second: {beyond}");
    }
}

#[test]
fn an_ipv6_client_is_its_64() {
    let first = Subject::client("2001:db8::1".parse().unwrap());
    let second = Subject::client("2001:db8::ffff:0:0:2".parse().unwrap());
    assert_eq!(first, second);
    assert_eq!(first.to_string(), "2001:db8::/64");
    assert_eq!(
        Subject::client("::ffff:192.0.2.1".parse().unwrap()).to_string(),
        "192.0.2.1"
    );
}

#[test]
fn tells_itself_as_json() {
    let mut alerts = Alerts::new(TERMS, 7, &[]);
    let mut call = CallRecord {
        time_upstream_server_us: Some(70),
        time_gateway_us: Some(20),
        ..CallRecord::default()
    };
    call.uid = Uuid::from_u128(9);
    alerts.raise(
        Signal {
            source: Some(IpAddr::from([192, 0, 2, 1])),
            call: Some(&call),
            ..signal(0x0102_0304, 1e-9)
        },
        2 * SECOND_NS,
    );
    let alert = alerts.iter().next().unwrap();
    let clock = calltap_correlate::record::WallClock { wall_ns_at_zero: 0 };
    expect_test::expect![[r#"{"id":"00000000-0000-8007-8000-000000000001","detector":"auth_failures","state":"open","severity":"critical","subject":{"kind":"client","name":"1.2.3.4"},"summary":"40 refused","meaning":"one client is refused again and again: a password or a key is being guessed","since":"1970-01-01T00:00:00.000000Z","opened":"1970-01-01T00:00:02.000000Z","seen":"1970-01-01T00:00:02.000000Z","score":9.0,"tail":1e-9,"observed":40.0,"usual":1.0,"signals":1,"examples":["00000000-0000-0000-0000-000000000009"],"blame":"client","time":{"network_us":0,"application_us":70,"gateway_us":20},"source":"192.0.2.1"}"#]]
    .assert_eq(&alert.to_json(clock));
}
