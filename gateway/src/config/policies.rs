//! `[policies]`: rules about calls, their expressions checked against the record's fields.
//! [`lists`](super::lists) reads the lists of addresses.

use std::collections::HashSet;
use std::sync::Arc;

use calltap_policies::admit::{AT_ADMISSION, Gate, Limiter, OnError, Rate, Rule, Rules, Then};
use calltap_policies::expression::{Condition, Key, Mistake};

use super::lists::denials;
use super::read::{is_name, optional};
use super::record_rules::record_rules;
use super::section::{Field, Section};
use super::settings::{DenialsConfig, PoliciesConfig, ProxyConfig};

/// Calls in a window, or at once: what a 64-bit clock of nanoseconds tells apart.
const CALLS_MAX: i64 = 1_000_000_000;

/// What a rule does, as the file has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Limit,
    Tag,
}

/// Reads the section; `None` where a mistake was noted. `proxy` knows who is trusted.
pub(super) fn policies(
    mut section: Section<'_>,
    proxy: Option<&ProxyConfig>,
) -> Option<(PoliciesConfig, DenialsConfig)> {
    // Of both lists together: records and metrics tell rules apart by their names.
    let mut names = HashSet::new();
    let keys_max = section
        .key("limit_keys_max")
        .and_then(|field| field.count::<usize>(8..=1 << 26));
    let rules = section.key("rules").and_then(|field| {
        let mut complete = true;
        let mut rules = Vec::new();
        for item in field.items()? {
            match item
                .section()
                .and_then(|rule| read(rule, &mut names, keys_max))
            {
                Some(rule) => rules.push(rule),
                None => complete = false,
            }
        }
        complete.then_some(rules)
    });
    let slow = section.key("slow_ms").and_then(|field| field.millis());
    let records = section
        .key("records")
        .and_then(|field| record_rules(&field, slow, &mut names));
    let denials = denials(&mut section, proxy);
    section.finish();
    let policies = PoliciesConfig {
        rules: Rules::new(rules?),
        records: Arc::new(records?),
    };
    Some((policies, denials?))
}

fn read<'t>(
    mut section: Section<'t>,
    names: &mut HashSet<&'t str>,
    keys_max: Option<usize>,
) -> Option<Rule> {
    let name = rule_name(&mut section, names);
    let when = section
        .need("when", "write when = 'url.path.startsWith(\"/admin\")'")
        .and_then(|field| expression(&field, |text| Condition::read(text, AT_ADMISSION)));
    let action = section
        .need("then", "write then = \"deny\"")
        .and_then(|field| {
            field.choice(&[
                ("allow", Action::Allow),
                ("deny", Action::Deny),
                ("limit", Action::Limit),
                ("tag", Action::Tag),
            ])
        });
    let dry_run = optional(section.get("dry_run"), |field| field.boolean());
    let on_error = on_error(&mut section);
    let then = match action {
        Some(Action::Allow) => Some(Then::Allow),
        Some(Action::Tag) => Some(Then::Tag),
        Some(Action::Deny) => {
            let status = optional(section.get("status"), |field| field.count(400..=599));
            status.map(|status| Then::Deny {
                status: status.unwrap_or(403),
            })
        }
        Some(Action::Limit) => limit(&mut section, keys_max),
        // What belongs to the rule is not known then, and is not said to be wrong.
        None => return None,
    };
    section.finish();
    Some(Rule {
        name: name?,
        when: when?,
        then: then?,
        dry_run: dry_run?.unwrap_or(false),
        on_error: on_error?,
    })
}

pub(super) fn rule_name<'t>(
    section: &mut Section<'t>,
    names: &mut HashSet<&'t str>,
) -> Option<String> {
    let field = section.need("name", "write name = \"no-strangers\"")?;
    let name = field.text()?;
    if !is_name(name) {
        field.wrong(
            "a rule's name has 1 to 64 letters, digits, ., _ and -".to_owned(),
            None,
        );
        return None;
    }
    if !names.insert(name) {
        field.wrong(format!("another rule is called {name:?}"), None);
        return None;
    }
    Some(name.to_owned())
}

pub(super) fn on_error(section: &mut Section<'_>) -> Option<OnError> {
    let on_error = optional(section.get("on_error"), |field| {
        field.choice(&[("skip", OnError::Skip), ("match", OnError::Match)])
    });
    Some(on_error?.unwrap_or(OnError::Skip))
}

fn limit(section: &mut Section<'_>, keys_max: Option<usize>) -> Option<Then> {
    let key = section
        .need("key", "write key = \"client.address\"")
        .and_then(|field| expression(&field, |text| Key::read(text, AT_ADMISSION)));
    let open_max = optional(section.get("concurrent"), |field| {
        field.count(1..=CALLS_MAX)
    });
    if !matches!(open_max, Some(None)) {
        for key in ["rate", "burst"] {
            if let Some(field) = section.get(key) {
                field.wrong(
                    "a limit has either concurrent or rate",
                    "take one of them out, or write two rules".to_owned(),
                );
            }
        }
        return Some(Then::Concurrent {
            key: key?,
            gate: Gate::new(open_max??),
        });
    }
    let rate = section
        .need("rate", "write rate = \"100/minute\", or concurrent = 10")
        .and_then(|field| {
            let text = field.text()?;
            let rate = rate(text);
            if rate.is_none() {
                field.wrong(
                    format!("{text:?} is no rate"),
                    format!(
                        "write 1 to {CALLS_MAX} calls per second, minute, hour or day: \"100/minute\""
                    ),
                );
            }
            rate
        });
    let burst = optional(section.get("burst"), |field| field.count(1..=CALLS_MAX));
    let (quota, window_s) = rate?;
    let rate = Rate {
        quota,
        window_s,
        burst: burst?.unwrap_or(quota),
    };
    Some(Then::Limit {
        key: key?,
        limiter: Limiter::new(rate, keys_max?),
    })
}

/// `100/minute`: calls, and the seconds they are in.
fn rate(text: &str) -> Option<(u64, u64)> {
    let (calls, window) = text.split_once('/')?;
    let calls: u64 = calls.trim().parse().ok()?;
    let window_s = match window.trim() {
        "second" | "s" => 1,
        "minute" | "min" => 60,
        "hour" | "h" => 3_600,
        "day" | "d" => 86_400,
        _ => return None,
    };
    (1..=CALLS_MAX.unsigned_abs())
        .contains(&calls)
        .then_some((calls, window_s))
}

pub(super) fn expression<T>(
    field: &Field<'_>,
    read: impl FnOnce(&str) -> Result<T, Mistake>,
) -> Option<T> {
    read(field.text()?)
        .map_err(|mistake| field.wrong(mistake.to_string(), mistake.remedy))
        .ok()
}
