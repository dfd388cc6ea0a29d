//! Lifelike traffic against all detectors at once: usual traffic opens no alert, and each attack its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use calltap_correlate::exchange::ApiNames;
use calltap_correlate::record::{Address, CallRecord, Kind, Timestamp};

use super::population::normal_quantile;
use super::{Bounds, DETECTORS, Detector, Detectors};
use crate::alert::{Alerts, Terms};

/// Spreads a number over 64 bits (Steele et al., SplitMix64).
pub(crate) fn spread(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers in order, the same each time.
struct Dice(u64);

impl Dice {
    fn number(&mut self) -> u64 {
        self.0 += 1;
        spread(self.0)
    }

    fn share(&mut self) -> f64 {
        ((self.number() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    fn log_normal(&mut self, median: f64, spread: f64) -> f64 {
        median * (spread * normal_quantile(self.share())).exp()
    }
}

/// What is told of one call.
struct Told<'t> {
    client: u32,
    method: &'static str,
    path: &'t str,
    query: &'t str,
    agent: &'static str,
    status: u16,
    upstream_us: u64,
    bytes: u64,
    consumer: Option<&'static str>,
    range: Option<&'static str>,
    rtt_us: Option<u32>,
    resent: u64,
    stack: &'static str,
}

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0";

impl Default for Told<'_> {
    fn default() -> Self {
        Self {
            client: 1,
            method: "GET",
            path: "/orders/1",
            query: "",
            agent: BROWSER,
            status: 200,
            upstream_us: 5_000,
            bytes: 900,
            consumer: None,
            range: None,
            rtt_us: None,
            resent: 0,
            stack: "mss,sok,ts,nop,ws",
        }
    }
}

/// The gateway's detectors, the time, and the traffic that goes on whatever else does.
struct Service {
    detectors: Detectors,
    alerts: Alerts,
    dice: Dice,
    now_us: u64,
    apis: [Arc<ApiNames>; 2],
    calls: u64,
    /// Clients leave without an answer after so long, µs.
    left: Option<u64>,
}

impl Service {
    fn new(seed: u64) -> Self {
        let api = |route: Option<&str>| {
            Arc::new(ApiNames {
                route: route.map(str::to_owned),
                ..ApiNames::default()
            })
        };
        Self {
            detectors: Detectors::new(Bounds::default()),
            alerts: Alerts::new(Terms::default(), seed, &[]),
            dice: Dice(seed),
            now_us: 1_700_000_000_000_000,
            apis: [api(None), api(Some("/orders/{id}"))],
            calls: 0,
            left: None,
        }
    }

    fn call(&mut self, told: Told<'_>) {
        let has_route = told.path.starts_with("/orders/");
        let seen = self.dice.number();
        let mut record = CallRecord {
            kind: Kind::Call,
            uid: uuid::Uuid::from_u128(u128::from(self.calls)),
            timestamp: Timestamp::from_unix_us(self.now_us as i64),
            http_request_method: Some(told.method.into()),
            url_path: Some(told.path.to_owned()),
            url_query: (!told.query.is_empty()).then(|| told.query.to_owned()),
            user_agent_original: Some(told.agent.to_owned()),
            http_response_status_code: Some(told.status),
            http_response_body_size: Some(told.bytes),
            client_address: Some(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + told.client))),
            network_peer_address: Some(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + told.client))),
            time_upstream_server_us: Some(told.upstream_us),
            time_upstream_network_us: Some(150 + seen % 100),
            time_gateway_us: Some(60 + seen % 40),
            time_kernel_wait_us: Some(20 + seen % 30),
            time_client_send_us: Some(0),
            time_delivery_us: Some(400 + seen % 300),
            api_consumer_client_id: told.consumer.map(str::to_owned),
            http_request_headers: told
                .range
                .map(|range| ("range".into(), range.to_owned()))
                .into_iter()
                .collect(),
            api: Arc::clone(&self.apis[usize::from(has_route)]),
            ..CallRecord::default()
        };
        let usual_us = 20_000 + (told.client % 7) * 5_000 + (seen % 2_000) as u32;
        record.client.tcp_rtt_us = Some(told.rtt_us.unwrap_or(usual_us));
        record.client.tcp_retransmits = Some(told.resent);
        record.client.socket_request_seq = Some(1);
        record.client_syn_options = Some(told.stack.into());
        record.client.wire_segments_out = Some(2);
        if let Some(waited_us) = self.left {
            record.http_response_status_code = None;
            record.gateway_duration_us = Some(waited_us);
            record.upstream_address = Some(Address::Ip([127, 0, 0, 1].into()));
            record.response_flags = vec!["client_abort".into()];
        }
        self.calls += 1;
        self.detectors
            .observe(&mut record, &mut self.alerts, self.now_us * 1000);
    }

    /// A call within this second.
    fn call_later(&mut self, after_us: u64, told: Told<'_>) {
        self.now_us += after_us;
        self.call(told);
        self.now_us -= after_us;
    }

    /// Usual traffic for so many seconds, and at every one of them whatever `also` does.
    fn serve(&mut self, seconds: u64, mut also: impl FnMut(&mut Self, u64)) {
        for second in 0..seconds {
            // 60 people, of whom two each second do something; another hundred who come once in a while.
            for _ in 0..2 {
                let person = 1 + self.dice.below(60) as u32;
                self.person(person);
            }
            if self.dice.share() < 0.3 {
                let passer_by = 1_000 + self.dice.below(100) as u32;
                self.person(passer_by);
            }
            // An integration with ten calls a second, for its own objects.
            for _ in 0..10 {
                let path = format!("/orders/{}", 50_000 + self.dice.below(10_000));
                self.usual("shop", 200, &path, "shop-sync/2.1");
            }
            // A health checker, as even as it gets.
            if second % 5 == 0 {
                self.call(Told {
                    client: 201,
                    path: "/health",
                    agent: "kube-probe/1.30",
                    upstream_us: 300,
                    bytes: 2,
                    ..Told::default()
                });
            }
            // A polite crawler.
            let path = format!("/catalog/page/{}", second % 400);
            let status = if self.dice.share() < 0.02 { 404 } else { 200 };
            self.call(Told {
                client: 202,
                path: &path,
                agent: "ExampleBot/1.0",
                status,
                ..Told::default()
            });
            also(self, second);
            self.now_us += 1_000_000;
            self.detectors.tick(&mut self.alerts, self.now_us * 1000);
            self.alerts.tick(self.now_us * 1000);
        }
    }

    fn person(&mut self, client: u32) {
        match self.dice.below(20) {
            0 => {
                let status = if self.dice.share() < 0.15 { 401 } else { 200 };
                self.call(Told {
                    client,
                    method: "POST",
                    path: "/login",
                    status,
                    ..Told::default()
                });
            }
            1 => {
                let gone = ["/favicon.ico", "/old/start", "/robots.txt"];
                let path = gone[self.dice.below(3) as usize];
                self.call(Told {
                    client,
                    path,
                    status: 404,
                    ..Told::default()
                });
            }
            2..=5 => {
                let word =
                    ["shoes", "O%27Neill+jacket", "tea+and+coffee"][self.dice.below(3) as usize];
                let query = format!("q={word}");
                let upstream_us = self.dice.log_normal(30_000.0, 0.8) as u64;
                self.call(Told {
                    client,
                    path: "/search",
                    query: &query,
                    upstream_us,
                    ..Told::default()
                });
            }
            6..=9 => self.call(Told {
                client,
                path: "/catalog",
                ..Told::default()
            }),
            _ => {
                let order = u64::from(client) * 100 + self.dice.below(6);
                let path = format!("/orders/{order}");
                self.usual("", client, &path, BROWSER);
            }
        }
    }

    fn usual(&mut self, consumer: &'static str, client: u32, path: &str, agent: &'static str) {
        let upstream_us = self.dice.log_normal(5_000.0, 0.8) as u64;
        let failed = self.dice.share() < 0.002;
        let bytes = self.dice.log_normal(900.0, 0.4) as u64;
        self.call(Told {
            client,
            path,
            agent,
            status: if failed { 503 } else { 200 },
            upstream_us,
            bytes,
            consumer: (!consumer.is_empty()).then_some(consumer),
            ..Told::default()
        });
    }

    /// Detectors with an alert, and about whom or what.
    fn alerted(&self) -> Vec<(Detector, String, String)> {
        let mut alerted: Vec<_> = self
            .alerts
            .iter()
            .map(|alert| {
                (
                    alert.detector,
                    alert.subject.to_string(),
                    alert.summary.clone(),
                )
            })
            .collect();
        alerted.sort();
        alerted
    }
}

#[test]
fn usual_traffic_opens_no_alert() {
    for seed in 1..=2 {
        let mut service = Service::new(seed);
        service.serve(3600, |_, _| {});
        assert_eq!(
            service.alerted(),
            [],
            "seed {seed}, {} calls",
            service.calls
        );
    }
}

#[test]
fn more_clients_and_a_new_route_are_no_attack() {
    let mut service = Service::new(3);
    service.serve(900, |_, _| {});
    service.serve(1200, |service, second| {
        // A campaign: within minutes five times as many people.
        for _ in 0..(second / 60).min(10) {
            let client = 2_000 + service.dice.below(400) as u32;
            service.person(client);
            if second > 300 {
                service.call(Told {
                    client,
                    path: "/campaign",
                    ..Told::default()
                });
            }
        }
    });
    assert_eq!(service.alerted(), []);
}

/// Ten minutes of usual traffic, then a minute with something else, about which `expected` alerts, and nobody
/// about those who mean well.
fn check(what: &str, expected: Detector, also: impl FnMut(&mut Service, u64)) {
    check_for(60, what, expected, also);
}

fn check_for(seconds: u64, what: &str, expected: Detector, also: impl FnMut(&mut Service, u64)) {
    check_after(600, seconds, what, expected, also);
}

fn check_after(
    before: u64,
    seconds: u64,
    what: &str,
    expected: Detector,
    also: impl FnMut(&mut Service, u64),
) {
    let mut service = Service::new(11);
    service.serve(before, |_, _| {});
    assert_eq!(service.alerted(), [], "before {what}");
    service.serve(seconds, also);
    let alerted = service.alerted();
    let told = alerted.iter().any(|(detector, ..)| *detector == expected);
    assert!(told, "{what}: {alerted:#?}");
    let mut subjects = alerted.iter().map(|(_, subject, _)| subject);
    let blamed =
        subjects.any(|subject| subject.starts_with("10.0.0.") || subject.starts_with("10.0.3."));
    assert!(!blamed, "{what}: {alerted:#?}");
}

const STRANGER: u32 = 39 * 256 + 15;

#[test]
fn each_attack_is_told_by_its_detector() {
    check(
        "guessing a password",
        Detector::AuthFailures,
        |service, _| {
            for _ in 0..4 {
                service.call(Told {
                    client: STRANGER,
                    method: "POST",
                    path: "/login",
                    status: 401,
                    ..Told::default()
                });
            }
        },
    );
    check(
        "stolen passwords",
        Detector::AuthSpray,
        |service, second| {
            for at in 0..3 {
                let client = 0x50_0000 + second as u32 * 3 + at;
                service.call(Told {
                    client,
                    method: "POST",
                    path: "/login",
                    status: 401,
                    ..Told::default()
                });
            }
        },
    );
    check(
        "looking for paths",
        Detector::UnknownPaths,
        |service, second| {
            for at in 0..5 {
                let path = format!(
                    "/{}",
                    ["admin", "backup", "phpmyadmin", ".git", "old"][at].to_owned()
                        + &"x".repeat(second as usize)
                );
                service.call(Told {
                    client: STRANGER,
                    path: &path,
                    agent: "gobuster/3.6",
                    status: 404,
                    ..Told::default()
                });
            }
        },
    );
    check(
        "walking ids",
        Detector::ObjectEnumeration,
        |service, second| {
            for at in 0..5 {
                let path = format!("/orders/{}", second * 5 + at);
                let status = if at == 2 { 200 } else { 404 };
                service.call(Told {
                    client: STRANGER,
                    path: &path,
                    agent: "ffuf",
                    status,
                    ..Told::default()
                });
            }
        },
    );
    check("a flood", Detector::ClientRate, |service, _| {
        for _ in 0..400 {
            service.usual("", STRANGER, "/catalog", "wrk");
        }
    });
    check(
        "taking everything",
        Detector::Scraping,
        |service, second| {
            for at in 0..20 {
                let path = format!("/catalog/item/{}", second * 20 + at);
                service.call(Told {
                    client: STRANGER,
                    path: &path,
                    bytes: 200_000,
                    ..Told::default()
                });
            }
        },
    );
    check("SQL", Detector::Injection, |service, second| {
        if second % 5 == 0 {
            service.call(Told {
                client: STRANGER,
                path: "/search",
                query: "q=1%27%20UNION%20SELECT%20NULL--",
                ..Told::default()
            });
        }
    });
    check("a failing upstream", Detector::RouteErrors, |service, _| {
        let client = 1 + service.dice.below(60) as u32;
        let path = format!("/orders/{}", client * 100);
        for _ in 0..4 {
            service.call(Told {
                client,
                path: &path,
                status: 503,
                ..Told::default()
            });
        }
    });
    check("a slow upstream", Detector::RouteLatency, |service, _| {
        for _ in 0..10 {
            let upstream_us = service.dice.log_normal(80_000.0, 0.8) as u64;
            service.call(Told {
                client: 200,
                path: "/orders/50001",
                agent: "shop-sync/2.1",
                upstream_us,
                ..Told::default()
            });
        }
    });
    check("fat answers", Detector::RouteSize, |service, _| {
        for _ in 0..10 {
            let client = 1 + service.dice.below(60) as u32;
            let path = format!("/orders/{}", client * 100);
            service.call(Told {
                client,
                path: &path,
                bytes: 40_000,
                ..Told::default()
            });
        }
    });
    check("a stolen key", Detector::TokenSharing, |service, second| {
        let client = 0x60_0000 + second as u32 % 8;
        service.call(Told {
            client,
            consumer: Some("shop"),
            ..Told::default()
        });
    });
    check(
        "ranges that overlap",
        Detector::OverlappingRanges,
        |service, _| {
            service.call(Told {
                client: STRANGER,
                path: "/catalog",
                range: Some("bytes=0-,5-1,5-2,5-3,5-4,5-5"),
                ..Told::default()
            });
        },
    );
    check(
        "page after page",
        Detector::Regularity,
        |service, second| {
            for at in 0..5 {
                let query = format!("page={}", second * 5 + at);
                service.call_later(
                    at * 200_000,
                    Told {
                        client: STRANGER,
                        path: "/catalog",
                        query: &query,
                        ..Told::default()
                    },
                );
            }
        },
    );
    check(
        "one account from everywhere",
        Detector::AuthAccount,
        |service, second| {
            let client = 0x70_0000 + second as u32;
            service.call(Told {
                client,
                status: 401,
                path: "/catalog",
                consumer: Some("shop"),
                ..Told::default()
            });
        },
    );
    check("an expensive client", Detector::CostShare, |service, _| {
        for _ in 0..3 {
            service.call(Told {
                client: STRANGER,
                path: "/search",
                query: "q=x",
                upstream_us: 1_900_000,
                ..Told::default()
            });
        }
    });
}

#[test]
fn each_disguise_is_told_by_its_detector() {
    check_for(
        500,
        "a script that says it is a browser",
        Detector::Regularity,
        |service, second| {
            if second % 5 == 0 {
                let path = ["/catalog", "/orders/7"][(second / 5 % 2) as usize];
                service.call(Told {
                    client: STRANGER,
                    path,
                    ..Told::default()
                });
            }
        },
    );
    check_for(
        300,
        "changing machines",
        Detector::StackChange,
        |service, second| {
            // For a time it is one machine, then another each time.
            let stack = match second {
                0..100 => "mss,sok,ts,nop,ws",
                _ => ["mss,nop,ws", "mss,nop,ws,nop,nop,sok", "mss"][second as usize % 3],
            };
            service.call(Told {
                client: STRANGER,
                path: "/catalog",
                stack,
                ..Told::default()
            });
        },
    );
    check_for(
        2_000,
        "a longer way",
        Detector::NetworkShift,
        |service, second| {
            let rtt_us = Some(if second < 1_000 { 20_000 } else { 180_000 });
            service.call(Told {
                client: STRANGER,
                path: "/catalog",
                rtt_us,
                ..Told::default()
            });
        },
    );
    check_for(
        300,
        "packets that are lost",
        Detector::NetworkShift,
        |service, second| {
            let resent = u64::from(second > 100 && second % 2 == 0);
            service.call(Told {
                client: STRANGER,
                path: "/catalog",
                resent,
                ..Told::default()
            });
        },
    );
}

#[test]
fn a_key_that_all_users_of_an_application_have_may_come_from_anywhere() {
    let mut service = Service::new(17);
    let call = |service: &mut Service, client: u32| {
        service.call(Told {
            client,
            consumer: Some("app"),
            ..Told::default()
        });
    };
    service.serve(300, |service, second| {
        for at in 0..3 {
            call(service, 0x10_0000 + ((second * 3 + at) % 200) as u32);
        }
    });
    // A crowd comes.
    service.serve(120, |service, second| {
        for at in 0..10 {
            call(service, 0x20_0000 + (second * 10 + at) as u32);
        }
    });
    // A partner moves to another address, and back after a while.
    for address in [300, 301, 300] {
        service.serve(120, |service, _| {
            service.call(Told {
                client: address,
                consumer: Some("partner"),
                ..Told::default()
            });
        });
    }
    assert_eq!(service.alerted(), []);
}

#[test]
fn a_thief_is_told_of_among_many_calls_of_the_owner_however_long_he_stays() {
    for (pause, stay) in [(4, 1), (10, 10)] {
        let mut service = Service::new(19);
        service.serve(1_200, |_, _| {});
        service.serve(300, |service, second| {
            if second % pause < stay {
                let client = 0x60_0000 + (second / pause) as u32;
                service.call(Told {
                    client,
                    consumer: Some("shop"),
                    ..Told::default()
                });
            }
        });
        let alerted = service.alerted();
        let told = alerted
            .iter()
            .any(|(detector, ..)| *detector == Detector::TokenSharing);
        assert!(told, "{pause} {stay}: {alerted:#?}");
    }
}

#[test]
fn one_thing_that_is_missing_is_one_however_often_it_is_asked_for() {
    let mut service = Service::new(23);
    service.serve(300, |_, _| {});
    service.serve(1_800, |service, second| {
        for (client, path, status) in [
            // A job that is not ready yet.
            (301, "/orders/99001", 404),
            // Pictures that nobody has uploaded, of users that are there.
            (
                302,
                ["/orders/7", "/avatars/7"][second as usize % 2],
                [200, 404][second as usize % 2],
            ),
            // Two objects in turn.
            (
                303,
                ["/orders/8", "/catalog/page/8"][second as usize % 2],
                200,
            ),
        ] {
            service.call(Told {
                client,
                path,
                status,
                agent: "app/1",
                ..Told::default()
            });
        }
    });
    assert_eq!(service.alerted(), []);
}

#[test]
fn a_page_that_refuses_most_visitors_is_told_of_once_at_most() {
    let mut service = Service::new(29);
    service.serve(1_800, |service, second| {
        let client = 5_000 + second as u32;
        let status = if service.dice.share() < 0.7 { 401 } else { 200 };
        service.call(Told {
            client,
            path: "/me",
            status,
            ..Told::default()
        });
    });
    let open = service
        .alerts
        .iter()
        .filter(|alert| alert.resolved_ns.is_none());
    assert_eq!(open.count(), 0, "{:#?}", service.alerted());
}

#[test]
fn clients_that_gave_up_waiting_are_an_outage_and_others_that_left_are_none() {
    for (waited_us, expected) in [(100_000, 0), (5_000_000, 1)] {
        let mut service = Service::new(13);
        service.serve(300, |_, _| {});
        service.serve(60, |service, second| {
            service.left = Some(waited_us);
            for at in 0..10 {
                let client = 1 + (second * 10 + at) as u32 % 60;
                service.call(Told {
                    client,
                    ..Told::default()
                });
            }
            service.left = None;
        });
        let alerted = service.alerted();
        let errors = alerted
            .iter()
            .filter(|(detector, ..)| *detector == Detector::RouteErrors);
        assert_eq!(errors.count(), expected, "{waited_us} us: {alerted:#?}");
    }
}

#[test]
fn a_client_that_always_loses_packets_has_not_shifted() {
    let mut service = Service::new(5);
    service.serve(1200, |service, _| {
        let resent = u64::from(service.dice.share() < 0.15);
        let rtt_us = Some(service.dice.log_normal(90_000.0, 0.5) as u32);
        service.call(Told {
            client: STRANGER,
            path: "/catalog",
            resent,
            rtt_us,
            ..Told::default()
        });
    });
    assert_eq!(service.alerted(), []);
}

#[test]
fn a_way_that_nobody_goes_and_a_status_that_nobody_saw_are_told() {
    let mut service = Service::new(7);
    // Everybody logs in, looks and orders, in that order.
    let way = ["/start", "/list", "/detail", "/cart", "/pay"];
    for round in 0..60_000_u32 {
        for path in way {
            service.call(Told {
                client: round % 500,
                path,
                agent: "app/1",
                ..Told::default()
            });
        }
        service.now_us += 50_000;
    }
    service.alerts.tick(service.now_us * 1000);
    assert_eq!(service.alerted(), []);
    for step in 0..40 {
        let path = way[[4, 1, 3, 0][step % 4]];
        service.call(Told {
            client: STRANGER,
            path,
            agent: "app/1",
            ..Told::default()
        });
    }
    let alerted = service.alerted();
    assert!(
        alerted
            .iter()
            .any(|(detector, ..)| *detector == Detector::Sequence),
        "{alerted:?}"
    );
}

#[test]
fn the_table_is_in_the_order_of_the_enum() {
    for (at, info) in DETECTORS.iter().enumerate() {
        assert_eq!(info.detector as usize, at, "{}", info.name);
        assert_eq!(Detector::by_name(info.name), Some(info.detector));
    }
}

#[test]
fn the_documentation_explains_every_detector() {
    let page = include_str!("../../../docs/alerts.md");
    for info in &DETECTORS {
        let row = format!("| `{}` |", info.name);
        assert!(
            page.contains(&row),
            "docs/alerts.md has no row for {}",
            info.name
        );
    }
}
