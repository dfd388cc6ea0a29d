//! Upstream groups: which endpoint a call goes to, what is known of each, how one is connected to.
//!
//! Decides where a call goes, not whether and not how often: the proxy asks again after a failure.
//! A set of groups never changes its configuration; a reload builds the next set, which takes over
//! what the old one knew of endpoints that stay.

mod connect;
mod connection;
mod endpoint;
mod group;
mod health;
mod peer;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::InvalidDnsNameError;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::config::{Limits, UpstreamConfig};
use crate::tls::pem::PemError;

pub(crate) use connect::{Attempts, ConnectHooks};
pub(crate) use connection::UpstreamConnection;
pub(crate) use endpoint::EndpointId;
pub(crate) use group::{Group, GroupState, Lease};

/// Why a group cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// A TLS file does not do.
    #[error("upstream group {group} cannot use its TLS files")]
    Pem {
        /// The group's name.
        group: Arc<str>,
        /// Which file, and why.
        source: PemError,
    },
    /// A certificate is not well-formed.
    #[error("upstream group {group}: {path} has a certificate that is not well-formed")]
    Certificate {
        /// The group's name.
        group: Arc<str>,
        /// The certificate's file.
        path: PathBuf,
    },
    /// Key and certificate do not belong together.
    #[error("upstream group {group}: {key} is not the private key of {certificate}")]
    Pair {
        /// The group's name.
        group: Arc<str>,
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: Box<rustls::Error>,
    },
    /// TLS to an endpoint that has no name to verify.
    #[error(
        "upstream group {group}: endpoint {endpoint} has no name to verify, set tls.server_name"
    )]
    NoServerName {
        /// The group's name.
        group: Arc<str>,
        /// The endpoint.
        endpoint: String,
    },
    /// The name to verify is none.
    #[error("upstream group {group}: {name:?} is not a name that TLS can verify")]
    ServerName {
        /// The group's name.
        group: Arc<str>,
        /// What was given.
        name: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The path of a unix socket is too long for the kernel.
    #[error("upstream group {group}: {endpoint} is not a path a unix socket can have")]
    SocketPath {
        /// The group's name.
        group: Arc<str>,
        /// The endpoint.
        endpoint: String,
    },
}

/// All upstream groups of one configuration, and the tasks that watch over them.
pub(crate) struct Upstreams {
    groups: HashMap<Arc<str>, Arc<Group>>,
    // Dropping the set aborts its tasks: the set is what owns them.
    tasks: std::sync::Mutex<JoinSet<()>>,
}

/// What the admin API says about all groups, by name.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UpstreamsState {
    /// Sorted by name.
    pub(crate) groups: Vec<GroupState>,
}

impl Upstreams {
    /// Builds the groups; opens no connection and starts nothing. Endpoints that `previous` had
    /// keep their health, their open calls and their last DNS answers.
    ///
    /// # Errors
    /// Every group that cannot be used, and why.
    pub(crate) fn build(
        configs: &BTreeMap<Arc<str>, Arc<UpstreamConfig>>,
        limits: &Limits,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<UpstreamError>> {
        let mut groups = HashMap::with_capacity(configs.len());
        let mut errors = Vec::new();
        for (name, config) in configs {
            let before = previous
                .and_then(|previous| previous.group(name))
                .map(Arc::as_ref);
            match Group::build(config, limits, before) {
                Ok(group) => {
                    groups.insert(Arc::clone(name), Arc::new(group));
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            groups,
            tasks: std::sync::Mutex::new(JoinSet::new()),
        })
    }

    /// Looks up every DNS name once, but waits no longer than this. A name that has no answer by
    /// then gets one later, once [`watch`](Self::watch) runs.
    pub(crate) async fn resolve(&self, wait_max: Duration) {
        let lookups = self.groups.values().flat_map(|group| {
            let names = group.dns_names().into_iter();
            names.map(move |name| async move { resolve::once(group, &name).await })
        });
        // Those that take longer are asked again by `watch`.
        let _ = tokio::time::timeout(wait_max, all(lookups)).await;
    }

    /// Starts looking up DNS names again and again and checking health, until the set is dropped.
    pub(crate) fn watch(&self, runtime: &Handle) {
        let mut tasks = self
            .tasks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let connector = health::SharedConnector::default();
        for group in self.groups.values() {
            for name in group.dns_names() {
                tasks.spawn_on(resolve::again_and_again(Arc::clone(group), name), runtime);
            }
            if let Some(health) = group.config().health.clone() {
                let connector = Arc::clone(&connector);
                tasks.spawn_on(health::watch(Arc::clone(group), health, connector), runtime);
            }
        }
    }

    /// The group of this name.
    pub(crate) fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.get(name)
    }

    /// The addresses of all endpoints that there are now, each with its group's name.
    pub(crate) fn addresses(&self) -> Vec<(Arc<str>, IpAddr)> {
        let of_group = |(name, group): (&Arc<str>, &Arc<Group>)| {
            let name = Arc::clone(name);
            let addresses = group.addresses().into_iter();
            addresses.map(move |address| (Arc::clone(&name), address.ip()))
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// How all groups are doing.
    pub(crate) fn state(&self) -> UpstreamsState {
        let mut groups: Vec<GroupState> = self.groups.values().map(|group| group.state()).collect();
        groups.sort_by(|one, other| one.name.cmp(&other.name));
        UpstreamsState { groups }
    }
}

/// Waits for all of them, as they come.
async fn all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if pending.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
