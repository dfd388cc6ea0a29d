//! Decides about a call whose head was read: rules in their order, each with a condition.
//!
//! A rule sees the head, the route, the consumer and the client's live socket ([`Head`]). The first rule
//! that allows or denies ends it; a limit that is not exceeded and a tag do not. What a rule would have
//! done in a dry run is only noted.

mod concurrent;
mod head;
mod limit;
mod recalled;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use calltap_correlate::exchange::Policy;

use crate::expression::{Condition, Facts, Key};

pub use concurrent::{Gate, Place};
pub use head::{AT_ADMISSION, Asked, Head};
pub use limit::{Limiter, Rate, Stand};
pub use recalled::Recalled;

/// What happens to a call before it is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it.
    Allow,
    /// Refuse it with this status.
    Deny {
        /// The HTTP status to answer with.
        status: u16,
    },
    /// Refuse it with 429: it came too soon, or beside too many others.
    Limit,
}

/// What is decided, and what the caller is to be told of its limits.
#[derive(Debug)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// The limit that is closest to being exceeded, or is.
    pub limit: Option<Limited>,
    /// To be held until the call is over; of one that is not forwarded, there are none.
    pub places: Vec<Place>,
}

/// A limit that applied to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The rule.
    pub rule: String,
    /// So many calls at once...
    pub burst: u64,
    /// ...of which all are had again after so many seconds.
    pub window_s: u64,
    /// Where its key stands now.
    pub stand: Stand,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name, in records and metrics.
    pub name: String,
    /// When it applies.
    pub when: Condition,
    /// What it does then.
    pub then: Then,
    /// It only says what it would do.
    pub dry_run: bool,
    /// What to make of a condition or a key without an answer.
    pub on_error: OnError,
}

/// What a rule does.
#[derive(Debug)]
pub enum Then {
    /// Ends it: the call is forwarded.
    Allow,
    /// Ends it: the call is refused.
    Deny {
        /// With this status.
        status: u16,
    },
    /// Refuses calls beyond a rate, counted by key.
    Limit {
        /// By what calls are counted.
        key: Key,
        /// How many, and who has had how many.
        limiter: Limiter,
    },
    /// Refuses calls beyond a number that are open at a time, counted by key.
    Concurrent {
        /// By what calls are counted.
        key: Key,
        /// How many, and who has how many.
        gate: Gate,
    },
    /// Notes that it applied.
    Tag,
}

/// What a condition without an answer counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The rule does not apply.
    Skip,
    /// It applies.
    Match,
}

/// Rules in order, with what became of them.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<(Rule, Arc<Tally>)>,
}

/// How often a rule did what.
#[derive(Debug, Default)]
struct Tally {
    applied: AtomicU64,
    unanswered: AtomicU64,
}

/// How often a rule did what, since it was first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<'r> {
    /// The rule.
    pub rule: &'r str,
    /// What it does: `allow`, `deny`, `limit`, `tag`.
    pub action: &'static str,
    /// It only says so.
    pub dry_run: bool,
    /// Calls it allowed, denied, limited or tagged, or would have.
    pub applied: u64,
    /// Calls of which its expressions could not tell.
    pub unanswered: u64,
}

impl Then {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny { .. } => "deny",
            Self::Limit { .. } | Self::Concurrent { .. } => "limit",
            Self::Tag => "tag",
        }
    }
}

impl Rules {
    /// These, in this order.
    pub fn new(rules: Vec<Rule>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule, Arc::default()));
        Self {
            rules: rules.collect(),
        }
    }

    /// Lets every limit count on that `before` has by the same name with the same key, and the same rate
    /// where it has one: a reload gives nobody new calls. What rules did before that are called the same
    /// and do the same stays counted. Both may be asked meanwhile.
    pub fn continue_from(&mut self, before: &Self) {
        for (rule, tally) in &mut self.rules {
            let same = before.rules.iter().find(|(other, _)| {
                other.name == rule.name && other.then.word() == rule.then.word()
            });
            let Some((other, counted)) = same else {
                continue;
            };
            if other.dry_run == rule.dry_run {
                *tally = Arc::clone(counted);
            }
            match (&mut rule.then, &other.then) {
                (
                    Then::Limit { key, limiter },
                    Then::Limit {
                        key: other_key,
                        limiter: other,
                    },
                ) if key.source() == other_key.source() && limiter.rate() == other.rate() => {
                    limiter.continue_from(other);
                }
                (
                    Then::Concurrent { key, gate },
                    Then::Concurrent {
                        key: other_key,
                        gate: other,
                    },
                ) if key.source() == other_key.source() => gate.continue_from(other),
                _ => {}
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How often each did what.
    pub fn counts(&self) -> impl Iterator<Item = Count<'_>> {
        self.rules.iter().map(|(rule, tally)| Count {
            rule: &rule.name,
            action: rule.then.word(),
            dry_run: rule.dry_run,
            applied: tally.applied.load(Relaxed),
            unanswered: tally.unanswered.load(Relaxed),
        })
    }

    /// Decides. `head` is a [`Head`], or what is [`Recalled`] of one; `policy` receives what the record tells.
    pub fn admit(&self, head: &dyn Facts, policy: &mut Policy, now_ns: u64) -> Decision {
        let mut tightest: Option<Limited> = None;
        let mut places = Vec::new();
        for (rule, tally) in &self.rules {
            let applies = rule.when.holds(head).unwrap_or_else(|_| {
                tally.unanswered.fetch_add(1, Relaxed);
                rule.on_error == OnError::Match
            });
            if !applies {
                continue;
            }
            let verdict = match &rule.then {
                Then::Tag => None,
                Then::Allow => Some(Verdict::Allow),
                Then::Deny { status } => Some(Verdict::Deny { status: *status }),
                Then::Concurrent { key, gate } => {
                    let Some(counted) = tally.key(key, head, rule.on_error) else {
                        continue;
                    };
                    if let Some(place) = gate.enter(&counted) {
                        places.push(place);
                        continue;
                    }
                    if !rule.dry_run {
                        policy.ratelimit_key = (!key.names_header()).then(|| counted.into_owned());
                        // What another limit leaves is not what this one does.
                        policy.ratelimit_remaining = None;
                        tightest = None;
                    }
                    Some(Verdict::Limit)
                }
                Then::Limit { key, limiter } => {
                    let shown = !key.names_header();
                    let Some(key) = tally.key(key, head, rule.on_error) else {
                        continue;
                    };
                    let stand = limiter.take(&key, now_ns);
                    let is_tightest = !stand.allowed
                        || tightest
                            .as_ref()
                            .is_none_or(|other| stand.remaining < other.stand.remaining);
                    if is_tightest && !rule.dry_run {
                        policy.ratelimit_key = shown.then(|| key.into_owned());
                        policy.ratelimit_remaining = Some(stand.remaining);
                        tightest = Some(Limited {
                            rule: rule.name.clone(),
                            burst: limiter.rate().burst,
                            window_s: limiter.rate().refill_s(),
                            stand,
                        });
                    }
                    if stand.allowed {
                        continue;
                    }
                    Some(Verdict::Limit)
                }
            };
            tally.applied.fetch_add(1, Relaxed);
            let dry_run = if rule.dry_run { ":dry_run" } else { "" };
            let action = rule.then.word();
            policy
                .matched
                .push(format!("{}:{action}{dry_run}", rule.name));
            if let Some(verdict) = verdict
                && !rule.dry_run
            {
                policy.decision = Some(action);
                policy.reason = Some(rule.name.clone());
                if verdict != Verdict::Allow {
                    places.clear();
                }
                return Decision {
                    verdict,
                    limit: tightest,
                    places,
                };
            }
        }
        Decision {
            verdict: Verdict::Allow,
            limit: tightest,
            places,
        }
    }
}

impl Tally {
    /// What a call is counted by; `None` where it does not say so, and the rule does not apply then.
    fn key<'h>(&self, key: &Key, head: &'h dyn Facts, on_error: OnError) -> Option<Cow<'h, str>> {
        match key.of(head) {
            Ok(key) => Some(key),
            Err(_) => {
                self.unanswered.fetch_add(1, Relaxed);
                // All that do not say who they are share one.
                (on_error == OnError::Match).then_some(Cow::Borrowed(""))
            }
        }
    }
}

#[cfg(test)]
mod tests;
