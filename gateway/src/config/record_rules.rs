//! `[[policies.records]]`: what is kept of finished records.

use std::collections::HashSet;
use std::time::Duration;

use calltap_policies::expression::Condition;
use calltap_policies::review::{AT_REVIEW, RecordRule, RecordRules, Redact, ThenRecord};

use super::policies::{expression, on_error, rule_name};
use super::read::optional;
use super::section::{Field, Section};

/// What a rule does, as the file has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Keep,
    Drop,
    Sample,
    Redact,
}

/// Reads the list; `None` where a mistake was noted. `slow` is what a sampling rule takes for a slow call
/// where it says nothing itself, `names` are taken already.
pub(super) fn record_rules<'t>(
    field: &Field<'t>,
    slow: Option<Duration>,
    names: &mut HashSet<&'t str>,
) -> Option<RecordRules> {
    let mut complete = true;
    let mut rules = Vec::new();
    for item in field.items()? {
        match item.section().and_then(|rule| read(rule, slow, names)) {
            Some(rule) => rules.push(rule),
            None => complete = false,
        }
    }
    complete.then(|| RecordRules::new(rules))
}

fn read<'t>(
    mut section: Section<'t>,
    slow: Option<Duration>,
    names: &mut HashSet<&'t str>,
) -> Option<RecordRule> {
    let name = rule_name(&mut section, names);
    let when = section
        .need("when", "write when = 'url.path == \"/healthz\"'")
        .and_then(|field| expression(&field, |text| Condition::read(text, AT_REVIEW)));
    let action = section
        .need("then", "write then = \"sample\"")
        .and_then(|field| {
            field.choice(&[
                ("keep", Action::Keep),
                ("drop", Action::Drop),
                ("sample", Action::Sample),
                ("redact", Action::Redact),
            ])
        });
    let dry_run = optional(section.get("dry_run"), |field| field.boolean());
    let on_error = on_error(&mut section);
    let then = match action {
        Some(Action::Keep) => Some(ThenRecord::Keep),
        Some(Action::Drop) => Some(ThenRecord::Drop),
        Some(Action::Sample) => sample(&mut section, slow),
        Some(Action::Redact) => section
            .need("fields", "write fields = [\"url.query\"]")
            .and_then(|field| redact(&field))
            .map(ThenRecord::Redact),
        // What belongs to the rule is not known then, and is not said to be wrong.
        None => return None,
    };
    section.finish();
    Some(RecordRule {
        name: name?,
        when: when?,
        then: then?,
        dry_run: dry_run?.unwrap_or(false),
        on_error: on_error?,
    })
}

fn sample(section: &mut Section<'_>, slow: Option<Duration>) -> Option<ThenRecord> {
    let one_in = section
        .need("one_in", "write one_in = 100")
        .and_then(|field| field.count(1..=1_000_000));
    let own = optional(section.get("slow_ms"), |field| field.millis());
    let slow = own?.or(slow)?;
    Some(ThenRecord::Sample {
        one_in: one_in?,
        slow_us: slow.as_micros().try_into().unwrap_or(u64::MAX),
    })
}

fn redact(field: &Field<'_>) -> Option<Redact> {
    let items: Vec<Field<'_>> = field.items()?.collect();
    if items.is_empty() {
        field.wrong("is empty", "name what is to be hidden".to_owned());
        return None;
    }
    let names: Option<Vec<&str>> = items.iter().map(|item| item.text()).collect();
    let wrong = match Redact::read(&names?) {
        Ok(redact) => return Some(redact),
        Err(wrong) => wrong,
    };
    for (at, mistake) in wrong {
        items[at].wrong(mistake.message, mistake.remedy);
    }
    None
}
