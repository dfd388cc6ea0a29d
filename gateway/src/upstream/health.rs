//! Active health checks: `GET path` on every endpoint of a group, over connections of their own.
//!
//! They use Pingora's connector, so that an endpoint is checked the way calls reach it, TLS and
//! HTTP/2 included. Their sockets are nobody's calls and stay untapped.

use std::sync::Arc;
use std::time::Duration;

use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::connect::brief;
use super::endpoint::Endpoint;
use super::group::Group;
use crate::config::HealthConfig;
use crate::identity::random;

/// Shared by all groups; made before the first check, for it reads the system's authorities.
pub(super) type SharedConnector = Arc<OnceCell<Arc<Connector>>>;

/// Checks all endpoints of a group, at once and then at the configured interval, for ever.
pub(super) async fn watch(group: Arc<Group>, health: HealthConfig, connector: SharedConnector) {
    loop {
        check_all(&group, &health, &connector).await;
        tokio::time::sleep(jittered(health.interval, random())).await;
    }
}

pub(super) async fn check_all(group: &Group, health: &HealthConfig, connector: &SharedConnector) {
    // Reading the authorities takes a while: not on a thread that has other things to do, and not
    // on the time of the first check.
    let made = connector
        .get_or_try_init(|| tokio::task::spawn_blocking(|| Arc::new(Connector::new(None))))
        .await;
    let connector = match made {
        Ok(connector) => connector,
        Err(error) => {
            tracing::warn!(%error, "cannot check the health of upstreams");
            return;
        }
    };
    let mut checks = JoinSet::new();
    for endpoint in group.endpoints() {
        let (health, connector) = (health.clone(), Arc::clone(connector));
        let group = Arc::clone(&group.config().name);
        checks.spawn(async move {
            let outcome =
                match tokio::time::timeout(health.timeout, check(&endpoint, &health, &connector))
                    .await
                {
                    Ok(outcome) => outcome,
                    Err(_) => Err(format!(
                        "no answer within {} ms",
                        health.timeout.as_millis()
                    )),
                };
            let error = outcome.as_ref().err().cloned();
            if endpoint.checked(outcome, health.healthy_after, health.unhealthy_after) {
                let address = endpoint.address();
                match error {
                    None => tracing::info!(%group, %address, "endpoint is healthy again"),
                    Some(error) => {
                        tracing::warn!(%group, %address, %error, "endpoint is unhealthy")
                    }
                }
            }
        });
    }
    while checks.join_next().await.is_some() {}
}

async fn check(
    endpoint: &Endpoint,
    health: &HealthConfig,
    connector: &Connector,
) -> Result<(), String> {
    let text = |error: Box<pingora::Error>| brief(&error);
    let (mut session, _) = connector
        .get_http_session(&endpoint.peer())
        .await
        .map_err(text)?;
    let mut head = RequestHeader::build("GET", health.path.as_bytes(), None).map_err(text)?;
    head.insert_header("Host", endpoint.authority())
        .map_err(text)?;
    head.insert_header("User-Agent", concat!("calltap/", env!("CARGO_PKG_VERSION")))
        .map_err(text)?;
    head.insert_header("Connection", "close").map_err(text)?;
    if session.as_http2().is_some() {
        head.remove_header("Connection");
    }
    session
        .write_request_header(Box::new(head))
        .await
        .map_err(text)?;
    session.finish_request_body().await.map_err(text)?;
    session.read_response_header().await.map_err(text)?;
    // The body does not matter; dropping the session closes the connection.
    match session.response_header().map(|head| head.status) {
        Some(status) if status.is_success() || status.is_redirection() => Ok(()),
        Some(status) => Err(format!("GET {} answered {}", health.path, status.as_u16())),
        None => Err(format!("GET {} was not answered", health.path)),
    }
}

/// The interval, a tenth more or less, so that many gateways do not check in step.
fn jittered(interval: Duration, random: u128) -> Duration {
    let share = (random % 2001) as f64 / 10_000.0; // 0 to 0.2
    interval.mul_f64(0.9 + share)
}
