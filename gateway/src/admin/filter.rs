//! Which records somebody wants to see, as the query of a URL says it.

use std::net::IpAddr;
use std::time::Duration;

use calltap_correlate::record::{CallRecord, Kind, Timestamp};

use crate::account::{KINDS, kind_name};

/// All that is set must hold. What a record does not say does not pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    /// Any of these; empty means any status.
    statuses: Vec<Status>,
    method: Option<String>,
    /// The route's template.
    route: Option<String>,
    path_prefix: Option<String>,
    /// The total must be longer than this.
    slower_than_us: Option<u64>,
    client: Option<IpAddr>,
    kind: Option<Kind>,
    since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Code(u16),
    /// A hundred of them, by the first digit.
    Class(u16),
}

/// One parameter, for the API's description.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) example: &'static str,
    pub(crate) description: &'static str,
}

/// What [`Filter::set`] understands.
pub(crate) const PARAMETERS: [Parameter; 8] = [
    Parameter {
        name: "status",
        example: "5xx",
        description: "A status code or a class of them; several are separated by commas.",
    },
    Parameter {
        name: "method",
        example: "GET",
        description: "The request's method.",
    },
    Parameter {
        name: "route",
        example: "/orders/{id}",
        description: "The path template of the route that matched.",
    },
    Parameter {
        name: "path",
        example: "/orders/",
        description: "What the request's path begins with.",
    },
    Parameter {
        name: "slower_than",
        example: "100ms",
        description: "The call took longer than this: until delivered where that is known, else as long as the gateway worked on it. A number with its unit: us, ms, s, m, h.",
    },
    Parameter {
        name: "client",
        example: "192.0.2.7",
        description: "The client's address.",
    },
    Parameter {
        name: "kind",
        example: "call",
        description: "call, connection, external or progress.",
    },
    Parameter {
        name: "since",
        example: "5m",
        description: "Begun at or after this moment: RFC 3339 in UTC, or how long ago.",
    },
];

impl Filter {
    /// Sets one parameter. `None`: there is none of that name.
    pub(crate) fn set(
        &mut self,
        name: &str,
        value: &str,
        now: Timestamp,
    ) -> Option<Result<(), String>> {
        let done = match name {
            "status" => value
                .split(',')
                .map(status)
                .collect::<Result<Vec<_>, _>>()
                .map(|statuses| self.statuses.extend(statuses)),
            "method" => {
                self.method = Some(value.to_owned());
                Ok(())
            }
            "route" => {
                self.route = Some(value.to_owned());
                Ok(())
            }
            "path" => {
                self.path_prefix = Some(value.to_owned());
                Ok(())
            }
            "slower_than" => duration(value)
                .map(|floor| self.slower_than_us = Some(micros(floor)))
                .ok_or_else(|| no_duration(value)),
            "client" => value
                .parse()
                .map(|client: IpAddr| self.client = Some(client.to_canonical()))
                .map_err(|_| format!("{value:?} is no IP address")),
            "kind" => KINDS
                .into_iter()
                .find(|kind| kind_name(*kind) == value)
                .map(|kind| self.kind = Some(kind))
                .ok_or_else(|| {
                    format!("{value:?} is no kind: use call, connection, external or progress")
                }),
            "since" => since(value, now).map(|since| self.since = Some(since)),
            _ => return None,
        };
        Some(done.map_err(|why| format!("{name}: {why}")))
    }

    /// Whether a record passes.
    pub(crate) fn wants(&self, record: &CallRecord) -> bool {
        let Self {
            statuses,
            method,
            route,
            path_prefix,
            slower_than_us,
            client,
            kind,
            since,
        } = self;
        let status = record.http_response_status_code;
        let path = record.url_path.as_deref();
        (statuses.is_empty() || status.is_some_and(|code| statuses.iter().any(|s| s.fits(code))))
            && (method.is_none() || method.as_deref() == record.http_request_method.as_deref())
            && (route.is_none() || route.as_deref() == record.api.route.as_deref())
            && path_prefix
                .as_deref()
                .is_none_or(|prefix| path.is_some_and(|path| path.starts_with(prefix)))
            && slower_than_us.is_none_or(|floor| total_us(record).is_some_and(|us| us > floor))
            && (client.is_none() || *client == record.client_address.map(|ip| ip.to_canonical()))
            && kind.is_none_or(|kind| kind == record.kind)
            && since.is_none_or(|since| record.timestamp >= since)
    }
}

/// How long a call took, as far as it is known: until it was delivered, else what the gateway knows.
fn total_us(record: &CallRecord) -> Option<u64> {
    record
        .delivered_us
        .or(record.duration_us)
        .or(record.gateway_duration_us)
}

impl Status {
    fn fits(self, code: u16) -> bool {
        match self {
            Status::Code(wanted) => code == wanted,
            Status::Class(class) => code / 100 == class,
        }
    }
}

fn status(text: &str) -> Result<Status, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, is_class) = match lower.strip_suffix("xx") {
        Some(class) => (class, true),
        None => (lower.as_str(), false),
    };
    match (is_class, digits.parse()) {
        (true, Ok(class @ 1..=5)) => Ok(Status::Class(class)),
        (false, Ok(code @ 100..=599)) => Ok(Status::Code(code)),
        _ => Err(format!(
            "{text:?} is no status: use a code such as 404 or a class such as 5xx"
        )),
    }
}

fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    match duration(text) {
        Some(ago) => {
            let ago_us = i64::try_from(micros(ago)).unwrap_or(i64::MAX);
            Ok(Timestamp::from_unix_us(
                now.unix_us().saturating_sub(ago_us),
            ))
        }
        None => Err(format!(
            "{text:?} is neither a time such as 2026-01-31T23:59:59Z nor a duration such as 5m"
        )),
    }
}

fn no_duration(text: &str) -> String {
    format!("{text:?} is no duration: use a number with its unit, such as 100ms or 1.5s")
}

fn duration(text: &str) -> Option<Duration> {
    // Longest first: "ms" ends in "s", too.
    const UNITS: [(&str, f64); 5] = [
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let (number, seconds) = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(unit)?;
        number
            .bytes()
            .all(|b| b.is_ascii_digit() || b == b'.')
            .then_some((number, seconds))
    })?;
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use calltap_correlate::exchange::ApiNames;
    use uuid::Uuid;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().expect("a time")
    }

    fn call() -> CallRecord {
        let began = "2026-01-31T11:58:00Z".parse().expect("a time");
        CallRecord {
            http_request_method: Some("GET".into()),
            http_response_status_code: Some(404),
            url_path: Some("/orders/7".into()),
            api: Arc::new(ApiNames {
                route: Some("/orders/{id}".into()),
                ..ApiNames::default()
            }),
            gateway_duration_us: Some(150_000),
            client_address: Some("192.0.2.7".parse().expect("an address")),
            ..CallRecord::new(Kind::Call, Uuid::from_u128(1), began)
        }
    }

    #[test]
    fn each_parameter_passes_and_holds_back() {
        for (name, passes, holds_back) in [
            ("status", "404", "200"),
            ("status", "200,4xx", "5xx"),
            ("method", "GET", "POST"),
            ("route", "/orders/{id}", "/orders"),
            ("path", "/orders/", "/customers"),
            ("slower_than", "100ms", "150ms"),
            ("slower_than", "0.1s", "1m"),
            ("client", "::ffff:192.0.2.7", "192.0.2.8"),
            ("kind", "call", "external"),
            (
                "since",
                "2026-01-31T11:58:00Z",
                "2026-01-31T11:58:00.000001Z",
            ),
            ("since", "2m", "119s"),
        ] {
            for (value, expected) in [(passes, true), (holds_back, false)] {
                let mut filter = Filter::default();
                let known = filter.set(name, value, now());
                assert_eq!(known, Some(Ok(())), "{name}={value}");
                assert_eq!(filter.wants(&call()), expected, "{name}={value}");
            }
        }
        assert!(Filter::default().wants(&call()));
    }

    #[test]
    fn what_a_record_does_not_say_does_not_pass() {
        let entry = CallRecord::new(Kind::External, Uuid::from_u128(1), now());
        for parameter in PARAMETERS {
            let Parameter { name, example, .. } = parameter;
            let mut filter = Filter::default();
            assert_eq!(filter.set(name, example, now()), Some(Ok(())), "{name}");
            assert_eq!(filter.wants(&entry), name == "since", "{name}");
        }
    }

    #[test]
    fn mistakes_name_the_parameter() {
        for (name, value) in [
            ("status", "6xx"),
            ("status", "abc"),
            ("status", "99"),
            ("slower_than", "100"),
            ("slower_than", "-1s"),
            ("slower_than", "ms"),
            ("client", "localhost"),
            ("kind", "calls"),
            ("since", "yesterday"),
        ] {
            let told = Filter::default().set(name, value, now());
            let why = told.expect("a known name").expect_err("a mistake");
            assert!(why.starts_with(&format!("{name}: {value:?}")), "{why}");
        }
        assert_eq!(Filter::default().set("statsu", "1", now()), None);
    }
}
