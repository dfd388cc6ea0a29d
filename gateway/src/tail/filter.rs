//! Which records a reader wants to see.

use super::view::View;

/// All that is set must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Any of these; empty means any status.
    pub(crate) statuses: Vec<Status>,
    /// The route's template or the path; a final `*` stands for any rest.
    pub(crate) route: Option<String>,
    /// The total must be longer than this, microseconds.
    pub(crate) slower_than_us: Option<u64>,
}

/// One status code, or a class of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Code(u16),
    Class(u16),
}

impl Filter {
    /// Whether a record passes. What the record does not say does not pass.
    pub(crate) fn wants(&self, view: &View) -> bool {
        let Self {
            statuses,
            route,
            slower_than_us,
        } = self;
        let status_fits = statuses.is_empty()
            || view.status.is_some_and(|code| {
                statuses.iter().any(|wanted| match *wanted {
                    Status::Code(wanted) => code == wanted,
                    Status::Class(class) => code / 100 == class,
                })
            });
        let route_fits = route.as_deref().is_none_or(|wanted| {
            [view.route.as_deref(), view.path.as_deref()]
                .into_iter()
                .flatten()
                .any(|place| match wanted.strip_suffix('*') {
                    Some(prefix) => place.starts_with(prefix),
                    None => place == wanted,
                })
        });
        let slow_enough =
            slower_than_us.is_none_or(|floor| view.total_us().is_some_and(|total| total > floor));
        status_fits && route_fits && slow_enough
    }
}

/// Reads `404` or `5xx`.
pub(crate) fn parse_status(text: &str) -> Result<Status, String> {
    let mistake =
        || format!("`{text}` is no status: write a code such as 404 or a class such as 5xx");
    let lower = text.to_ascii_lowercase();
    let (digits, is_class) = match lower.strip_suffix("xx") {
        Some(class) => (class, true),
        None => (lower.as_str(), false),
    };
    let number: u16 = digits.parse().map_err(|_| mistake())?;
    match (is_class, number) {
        (true, 1..=5) => Ok(Status::Class(number)),
        (false, 100..=599) => Ok(Status::Code(number)),
        _ => Err(mistake()),
    }
}

/// Reads `250us`, `100ms`, `1.5s`, `2m` or `1h` as microseconds.
pub(crate) fn parse_duration_us(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 6] = [
        ("us", 1.0),
        ("µs", 1.0),
        ("ms", 1e3),
        ("s", 1e6),
        ("m", 60e6),
        ("h", 3600e6),
    ];
    let mistake =
        || format!("`{text}` is no duration: write a number with its unit, such as 100ms or 1.5s");
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(mistake)?;
    let (number, unit) = text.split_at(digits_end);
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(mistake)?;
    let number: f64 = number.parse().map_err(|_| mistake())?;
    // Saturates: nothing is slower than the end of u64.
    Ok((number * factor).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json: &str) -> View {
        View::parse(json).expect("a test brings valid records")
    }

    #[test]
    fn statuses_are_codes_or_classes() {
        assert_eq!(parse_status("404"), Ok(Status::Code(404)));
        assert_eq!(parse_status("5xx"), Ok(Status::Class(5)));
        assert_eq!(parse_status("5XX"), Ok(Status::Class(5)));
        for wrong in ["", "xx", "6xx", "0xx", "99", "600", "5x", "ok", "-1"] {
            assert!(parse_status(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_carry_their_unit() {
        for (text, us) in [
            ("250us", 250),
            ("250µs", 250),
            ("100ms", 100_000),
            ("1.5s", 1_500_000),
            ("2m", 120_000_000),
            ("1h", 3_600_000_000),
            ("0.5ms", 500),
        ] {
            assert_eq!(parse_duration_us(text), Ok(us), "{text}");
        }
        for wrong in ["", "100", "ms", "1,5s", "1d", "-1s", "1.2.3s"] {
            assert!(parse_duration_us(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_conditions_hold_together_and_the_unknown_does_not_pass() {
        let filter = Filter {
            statuses: vec![Status::Class(5), Status::Code(404)],
            route: Some("/orders*".into()),
            slower_than_us: Some(100),
        };
        for (json, wanted) in [
            (
                r#"{"http.response.status_code":503,"http.route":"/orders/{id}","duration_us":101}"#,
                true,
            ),
            (
                r#"{"http.response.status_code":404,"url.path":"/orders","delivered_us":500}"#,
                true,
            ),
            (
                r#"{"http.response.status_code":200,"http.route":"/orders","duration_us":101}"#,
                false,
            ),
            (
                r#"{"http.response.status_code":503,"http.route":"/stock","duration_us":101}"#,
                false,
            ),
            (
                r#"{"http.response.status_code":503,"http.route":"/orders","duration_us":100}"#,
                false,
            ),
            (
                r#"{"http.response.status_code":503,"http.route":"/orders"}"#,
                false,
            ),
            (r#"{"http.route":"/orders","duration_us":101}"#, false),
        ] {
            assert_eq!(filter.wants(&view(json)), wanted, "{json}");
        }
        assert!(Filter::default().wants(&view("{}")));
    }

    #[test]
    fn a_route_without_a_star_is_the_whole_route() {
        let filter = Filter {
            route: Some("/orders/{id}".into()),
            ..Filter::default()
        };
        assert!(filter.wants(&view(r#"{"http.route":"/orders/{id}"}"#)));
        assert!(!filter.wants(&view(r#"{"http.route":"/orders/{id}/items"}"#)));
    }
}
