//! Looks up the DNS names of a group, again and again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use crate::config::EndpointAddress;

/// A name that never had an answer is asked for this often, if that is more often than others.
const UNANSWERED_AGAIN: Duration = Duration::from_secs(1);

/// Looks up one name once.
pub(super) async fn once(group: &Group, name: &EndpointAddress) {
    group.answered(name, look_up(name).await);
}

/// Looks up one name at the configured interval, for ever.
pub(super) async fn again_and_again(group: Arc<Group>, name: EndpointAddress) {
    let every = group.config().resolve_every;
    loop {
        let wait = if group.is_resolved(&name) {
            every
        } else {
            every.min(UNANSWERED_AGAIN)
        };
        tokio::time::sleep(wait).await;
        once(&group, &name).await;
    }
}

async fn look_up(name: &EndpointAddress) -> io::Result<Vec<SocketAddr>> {
    let EndpointAddress::Dns { host, port } = name else {
        return Ok(Vec::new());
    };
    Ok(tokio::net::lookup_host((host.as_str(), *port))
        .await?
        .collect())
}
