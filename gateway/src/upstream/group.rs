//! One group: its endpoints as they are now, and which of them is next.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;

use super::UpstreamError;
use super::endpoint::{Endpoint, EndpointId, EndpointState, Vitals};
use super::peer::Template;
use crate::config::{Balance, EndpointAddress, Limits, UpstreamConfig};

/// Of one DNS answer, only this many addresses are used.
const ADDRESSES_PER_NAME_MAX: usize = 64;

/// A group of equal servers.
pub(crate) struct Group {
    config: Arc<UpstreamConfig>,
    template: Template,
    members: ArcSwap<Vec<Member>>,
    next: AtomicUsize,
    answers: Mutex<BTreeMap<EndpointAddress, Answer>>,
}

#[derive(Clone)]
struct Member {
    configured: EndpointAddress,
    resolved: Option<SocketAddr>,
    endpoint: Arc<Endpoint>,
}

/// What DNS said about a name.
#[derive(Clone, Default)]
struct Answer {
    /// The last good answer, sorted.
    addresses: Vec<SocketAddr>,
    /// Why there was none the last time.
    error: Option<String>,
}

/// An endpoint taken for one attempt: it counts as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    endpoint: Arc<Endpoint>,
}

/// What the admin API says about a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct GroupState {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// Its endpoints, in the order of the configuration.
    pub(crate) endpoints: Vec<EndpointState>,
    /// DNS names whose last look-up failed; they may have endpoints from an earlier answer.
    pub(crate) unresolved: Vec<UnresolvedName>,
}

/// A DNS name whose last look-up failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UnresolvedName {
    /// With its port, as configured.
    pub(crate) name: String,
    /// Why.
    pub(crate) error: String,
}

impl Group {
    pub(super) fn build(
        config: &Arc<UpstreamConfig>,
        limits: &Limits,
        previous: Option<&Self>,
    ) -> Result<Self, UpstreamError> {
        let template = Template::build(config, limits)?;
        for configured in &config.endpoints {
            template.peer(configured, None)?;
        }
        let mut answers: BTreeMap<EndpointAddress, Answer> = config
            .endpoints
            .iter()
            .filter(|configured| matches!(configured, EndpointAddress::Dns { .. }))
            .map(|name| (name.clone(), Answer::default()))
            .collect();
        if let Some(previous) = previous {
            let before = previous.answers();
            for (name, answer) in &mut answers {
                if let Some(known) = before.get(name) {
                    *answer = known.clone();
                }
            }
        }
        let before = previous
            .map(|previous| previous.members.load_full())
            .unwrap_or_default();
        let members = members(config, &template, &answers, |configured, resolved| {
            let same = |m: &&Member| m.configured == *configured && m.resolved == resolved;
            before
                .iter()
                .find(same)
                .map(|member| Known::Vitals(member.endpoint.vitals()))
        })?;
        Ok(Self {
            config: Arc::clone(config),
            template,
            members: ArcSwap::from_pointee(members),
            next: AtomicUsize::new(0),
            answers: Mutex::new(answers),
        })
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// The endpoint for the next attempt of a call that has `tried` these: healthy ones first,
    /// unhealthy ones when there is no other. `None` when all were tried, or there is none yet.
    pub(crate) fn pick(&self, tried: &[EndpointId]) -> Option<Lease> {
        let members = self.members.load();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        let in_turn = || {
            let (before, from_first) = members.split_at(first);
            from_first
                .iter()
                .chain(before)
                .map(|member| &member.endpoint)
                .filter(|endpoint| !tried.contains(&endpoint.id()))
        };
        let chosen = match self.config.balance {
            Balance::RoundRobin => in_turn().find(|e| e.healthy()).or_else(|| in_turn().next()),
            // Of equals the first in turn, so that idle endpoints share the calls.
            Balance::LeastConnections => {
                in_turn().min_by_key(|endpoint| (!endpoint.healthy(), endpoint.in_flight()))
            }
        };
        chosen.map(Lease::take)
    }

    /// How it is doing.
    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            name: self.config.name.to_string(),
            endpoints: self
                .members
                .load()
                .iter()
                .map(|member| member.endpoint.state(member.configured.to_string()))
                .collect(),
            unresolved: self
                .answers()
                .iter()
                .filter_map(|(name, answer)| {
                    let error = answer.error.clone()?;
                    Some(UnresolvedName {
                        name: name.to_string(),
                        error,
                    })
                })
                .collect(),
        }
    }

    /// All endpoints there are now.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.members
            .load()
            .iter()
            .map(|member| Arc::clone(&member.endpoint))
            .collect()
    }

    /// Where those of them are that speak TCP.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.members
            .load()
            .iter()
            .filter_map(|member| match &member.configured {
                EndpointAddress::Socket(address) => Some(*address),
                EndpointAddress::Dns { .. } | EndpointAddress::Unix(_) => member.resolved,
            })
            .collect()
    }

    pub(super) fn dns_names(&self) -> Vec<EndpointAddress> {
        self.answers().keys().cloned().collect()
    }

    /// Whether a name ever had an answer.
    pub(super) fn is_resolved(&self, name: &EndpointAddress) -> bool {
        self.answers()
            .get(name)
            .is_some_and(|answer| !answer.addresses.is_empty())
    }

    /// Takes an answer of DNS. A failure, or an answer without addresses, keeps the last good one.
    pub(super) fn answered(&self, name: &EndpointAddress, answer: io::Result<Vec<SocketAddr>>) {
        let mut answers = self.answers();
        let Some(known) = answers.get_mut(name) else {
            return;
        };
        let failure = match answer {
            Ok(addresses) if addresses.is_empty() => Some("the name has no addresses".to_owned()),
            Ok(mut addresses) => {
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(ADDRESSES_PER_NAME_MAX);
                known.error = None;
                if known.addresses == addresses {
                    return;
                }
                tracing::info!(group = %self.config.name, %name, ?addresses, "resolved");
                known.addresses = addresses;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(failure) = failure {
            // Said once, not with every attempt.
            if known.error.is_none() {
                let kept = known.addresses.len();
                tracing::warn!(group = %self.config.name, %name, %failure, kept, "cannot resolve");
            }
            known.error = Some(failure);
            return;
        }
        let before = self.members.load_full();
        let next = members(
            &self.config,
            &self.template,
            &answers,
            |configured, resolved| {
                let same = |m: &&Member| m.configured == *configured && m.resolved == resolved;
                before
                    .iter()
                    .find(same)
                    .map(|member| Known::Endpoint(&member.endpoint))
            },
        );
        match next {
            Ok(next) => self.members.store(Arc::new(next)),
            Err(error) => tracing::warn!(%error, %name, "cannot use an answer of DNS"),
        }
    }

    fn answers(&self) -> MutexGuard<'_, BTreeMap<EndpointAddress, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is taken over from an endpoint that was there before.
enum Known<'m> {
    /// All of it: same group, same configuration.
    Endpoint(&'m Arc<Endpoint>),
    /// How it is doing; the peer may be configured differently now.
    Vitals(&'m Arc<Vitals>),
}

fn members<'m>(
    config: &UpstreamConfig,
    template: &Template,
    answers: &BTreeMap<EndpointAddress, Answer>,
    known: impl Fn(&EndpointAddress, Option<SocketAddr>) -> Option<Known<'m>>,
) -> Result<Vec<Member>, UpstreamError> {
    let mut members = Vec::new();
    for configured in &config.endpoints {
        let places: Vec<Option<SocketAddr>> = match answers.get(configured) {
            Some(answer) => answer.addresses.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        for resolved in places {
            let endpoint = match known(configured, resolved) {
                Some(Known::Endpoint(endpoint)) => Arc::clone(endpoint),
                other => {
                    let vitals = match other {
                        Some(Known::Vitals(vitals)) => Arc::clone(vitals),
                        _ => Arc::new(Vitals::new()),
                    };
                    let address = resolved
                        .map_or_else(|| configured.to_string(), |address| address.to_string());
                    let peer = template.peer(configured, resolved)?;
                    let authority = template.authority(configured).into();
                    Arc::new(Endpoint::new(address.into(), authority, peer, vitals))
                }
            };
            members.push(Member {
                configured: configured.clone(),
                resolved,
                endpoint,
            });
        }
    }
    Ok(members)
}

impl Lease {
    fn take(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.vitals().enter();
        Self {
            endpoint: Arc::clone(endpoint),
        }
    }
}

impl Deref for Lease {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.vitals().leave();
    }
}
