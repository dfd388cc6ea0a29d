//! Every detector over finished calls, asked in turn.

use std::sync::Arc;

use ahash::RandomState;
use calltap_correlate::record::{CallRecord, Kind};

use super::call::{Call, Desk};
use super::evidence::Evidence;
use super::population::Habit;
use super::table::{Table, TableUsage};
use super::{
    auth_account, auth_failures, auth_spray, client_rate, cost_share, injection, network_shift,
    novelty, object_enumeration, overlapping_ranges, regularity, route_errors, route_latency,
    route_rate, route_size, scraping, sequence, stack_change, token_sharing, unknown_paths,
};
use crate::alert::{Alerts, Subject};

/// How many keys the detectors tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Clients.
    pub clients_max: usize,
    /// Routes.
    pub routes_max: usize,
    /// Consumers.
    pub consumers_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            clients_max: 65_536,
            routes_max: 1_024,
            consumers_max: 16_384,
        }
    }
}

/// Half-lives of what makes a client, a consumer or a route stay, s.
const CLIENT_HALF_LIFE_S: u32 = 3600;
const ROUTE_HALF_LIFE_S: u32 = 24 * 3600;

/// The detectors over finished calls, with what they have learned.
#[derive(Debug)]
pub struct Detectors {
    hasher: RandomState,
    clients: Table<Client>,
    routes: Table<Route>,
    consumers: Table<Consumer>,
    client_rate: client_rate::Common,
    cost_share: cost_share::Common,
    objects: object_enumeration::Common,
    unknown_paths: unknown_paths::Common,
    scraping: scraping::Common,
    sequence: sequence::Common,
    novelty: novelty::Common,
    token_sharing: token_sharing::Common,
    injection: injection::Common,
}

/// What is kept of one client.
#[derive(Debug, Default)]
struct Client {
    rate: Habit,
    cost: Habit,
    objects: object_enumeration::PerClient,
    auth_failures: auth_failures::PerClient,
    auth_spray: auth_spray::PerClient,
    unknown_paths: unknown_paths::PerClient,
    scraping: scraping::PerClient,
    regularity: regularity::PerClient,
    sequence: sequence::PerClient,
    injection: injection::PerClient,
    ranges: Evidence,
    network: network_shift::PerClient,
    stack: stack_change::PerClient,
}

/// What is kept of one route.
#[derive(Debug, Default)]
struct Route {
    name: Option<Arc<str>>,
    objects: object_enumeration::PerRoute,
    auth_failures: auth_failures::PerRoute,
    auth_spray: auth_spray::PerRoute,
    rate: route_rate::PerRoute,
    errors: route_errors::PerRoute,
    latency: route_latency::PerRoute,
    size: route_size::PerRoute,
    novelty: novelty::PerRoute,
}

/// What is kept of one consumer.
#[derive(Debug, Default)]
struct Consumer {
    account: auth_account::PerConsumer,
    token: token_sharing::PerConsumer,
}

impl Detectors {
    /// Nothing learned yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            hasher: RandomState::new(),
            clients: Table::new(bounds.clients_max, CLIENT_HALF_LIFE_S),
            routes: Table::new(bounds.routes_max, ROUTE_HALF_LIFE_S),
            consumers: Table::new(bounds.consumers_max, CLIENT_HALF_LIFE_S),
            client_rate: client_rate::Common::default(),
            cost_share: cost_share::Common::default(),
            objects: object_enumeration::Common::default(),
            unknown_paths: unknown_paths::Common::default(),
            scraping: scraping::Common::default(),
            sequence: sequence::Common::default(),
            novelty: novelty::Common::default(),
            token_sharing: token_sharing::Common::default(),
            injection: injection::Common::default(),
        }
    }

    /// Shows them a finished record, before anything of it is redacted. What is unusual is added to its
    /// `findings` and raised in `alerts`.
    pub fn observe(&mut self, record: &mut CallRecord, alerts: &mut Alerts, now_ns: u64) {
        if record.kind != Kind::Call {
            return;
        }
        let mut desk = Desk::new(alerts);
        self.ask(record, &mut desk, now_ns);
        if !desk.found.is_empty() {
            let findings = desk.close(Some(record), now_ns);
            record.findings.extend(findings);
        }
    }

    fn ask(&mut self, record: &CallRecord, desk: &mut Desk<'_>, now_ns: u64) {
        let Some(call) = Call::new(record, &self.hasher, now_ns) else {
            return;
        };
        let Self { hasher, routes, .. } = self;
        // What is not there has one place for all: a scan must not fill the table.
        let is_unknown = record.api.route.is_none() && call.is_miss();
        let route_key = if is_unknown {
            hasher.hash_one(0_u8)
        } else {
            match &record.api.route {
                Some(route) => hasher.hash_one((
                    record.http_request_method.as_deref(),
                    &record.api.name,
                    route,
                )),
                None => call.template,
            }
        };
        let mut route = routes.get(route_key, call.now_s);
        if let Some(route) = &mut route {
            let name = Arc::clone(route.name.get_or_insert_with(|| name(&call, is_unknown)));
            let name = || Subject::Route(Arc::clone(&name));
            route.rate.count(&call);
            route_errors::observe(&call, &mut route.errors, name, desk);
            route_latency::observe(&call, &mut route.latency, name, desk);
            route_size::observe(&call, &mut route.size, name, desk);
            if !is_unknown {
                self.novelty.called(&call, &route.novelty, name, desk);
            }
            novelty::observe(&call, hasher, &mut route.novelty, name, desk);
        }
        let outcome = match &mut route {
            Some(route) => auth_failures::outcome(&call, &mut route.auth_failures),
            None => None,
        };
        let response_max = match &route {
            Some(route) => route.size.response_max(),
            None => f32::INFINITY,
        };
        if let Some(client) = self.clients.get(call.client_key, call.now_s) {
            client_rate::observe(&call, &mut client.rate, &mut self.client_rate, desk);
            cost_share::observe(&call, &mut client.cost, &mut self.cost_share, desk);
            scraping::observe(
                &call,
                response_max,
                &mut client.scraping,
                &mut self.scraping,
                desk,
            );
            regularity::observe(&call, &mut client.regularity, desk);
            sequence::observe(&call, &mut client.sequence, &mut self.sequence, desk);
            injection::observe(&call, &mut client.injection, &mut self.injection, desk);
            overlapping_ranges::observe(&call, &mut client.ranges, desk);
            network_shift::observe(&call, &mut client.network, desk);
            stack_change::observe(&call, hasher, &mut client.stack, desk);
            let is_object = match &route {
                Some(route) => call.id.is_some() && route.objects.has_objects(),
                None => false,
            };
            unknown_paths::observe(
                &call,
                is_object,
                &mut client.unknown_paths,
                &mut self.unknown_paths,
                desk,
            );
            if let Some(route) = route {
                object_enumeration::observe(
                    &call,
                    &mut client.objects,
                    &mut route.objects,
                    &mut self.objects,
                    desk,
                );
                if let Some(refused) = outcome {
                    let of_route = &mut route.auth_failures;
                    auth_failures::observe(
                        &call,
                        refused,
                        &mut client.auth_failures,
                        of_route,
                        desk,
                    );
                    let name = || Subject::Route(route.name.clone().unwrap_or_default());
                    let of_route = &mut route.auth_spray;
                    auth_spray::observe(
                        &call,
                        refused,
                        &mut client.auth_spray,
                        of_route,
                        name,
                        desk,
                    );
                }
            }
        }
        if let Some(name) = &record.api_consumer_client_id
            && let key = hasher.hash_one(name)
            && let Some(consumer) = self.consumers.get(key, call.now_s)
        {
            if let Some(refused) = outcome {
                auth_account::observe(&call, refused, name, &mut consumer.account, desk);
            }
            let token = &mut consumer.token;
            let who = (key, name.as_str());
            token_sharing::observe(&call, who, token, &mut self.token_sharing, desk);
        }
    }

    /// Lets those that look at stretches of time look, at most once a second.
    pub fn tick(&mut self, alerts: &mut Alerts, now_ns: u64) {
        let now_s = (now_ns / 1_000_000_000) as u32;
        let mut desk = Desk::new(alerts);
        for route in self.routes.values_mut() {
            if let Some(name) = &route.name {
                let name = || Subject::Route(Arc::clone(name));
                route_rate::tick(now_s, &mut route.rate, name, &mut desk);
            }
        }
        desk.close(None, now_ns);
    }

    /// What is kept of clients, routes and consumers.
    pub fn usage(&self) -> [(&'static str, TableUsage); 3] {
        [
            ("clients", self.clients.usage()),
            ("routes", self.routes.usage()),
            ("consumers", self.consumers.usage()),
        ]
    }
}

/// `GET /orders/{id}`, with its API's name where it has one.
fn name(call: &Call<'_>, is_unknown: bool) -> Arc<str> {
    let record = call.record;
    let method = record.http_request_method.as_deref().unwrap_or("");
    let path = match &record.api.route {
        _ if is_unknown => return "paths that no route has".into(),
        Some(route) => route.clone(),
        None => call.template_text(),
    };
    match &record.api.name {
        Some(api) => format!("{api}: {method} {path}").into(),
        None => format!("{method} {path}").into(),
    }
}
