//! Who is denied by address, for how long, and how often they tried; and the way to change it.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use calltap_policies::network::{BadNetwork, Network};
use serde::Deserialize;
use serde_json::{Value, json};

use super::calls::{PAGE, PAGE_MAX};
use super::logging::demand_json;
use super::{Api, Refusal, read_body};
use crate::denials::{DENIED_FOR_MAX, DenialError, Told};

/// A reason, bytes.
pub(crate) const WHY_MAX: usize = 256;
/// A body may be this long, bytes.
const BODY_MAX: usize = 4 << 10;
/// Of entries that do not do all they say, so many are told.
const EXEMPTED_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    address: Option<IpAddr>,
    limit: Option<usize>,
}

/// Who is denied.
pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Json<Value>, Refusal> {
    let Query(Asked { address, limit }) =
        Query::try_from_uri(&uri).map_err(|error| Refusal::bad_request(error.body_text()))?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refusal::bad_request(format!(
            "limit must be 1 to {PAGE_MAX}"
        )));
    }
    let mut denied = api.denials.told(address);
    denied.sort_by_key(|told| (Reverse(told.hits.packets), told.network));
    let lists = api.denials.lists();
    let nevers = api.denials.nevers();
    let exempted = api.denials.exempted();
    Ok(Json(json!({
        "in_kernel": api.denials.is_in_kernel(),
        "networks": api.denials.totals().networks,
        "networks_max": api.denials.max(),
        "lists": lists
            .iter()
            .map(|(name, entries)| json!({"name": &**name, "entries": entries}))
            .collect::<Vec<_>>(),
        "never": nevers
            .iter()
            .map(|never| json!({"network": never.network.to_string(), "why": &*never.why}))
            .collect::<Vec<_>>(),
        "exempted": exempted
            .iter()
            .take(EXEMPTED_MAX)
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        "exempted_count": exempted.len(),
        "denied": denied.iter().take(limit).map(shown).collect::<Vec<_>>(),
    })))
}

fn shown(told: &Told) -> Value {
    let Told {
        network,
        denial,
        why,
        hits,
    } = told;
    let mut value = json!({
        "network": network.to_string(),
        "list": &*denial.list,
        "packets": hits.packets,
        "bytes": hits.bytes,
    });
    if let Some(until) = denial.until {
        value["until"] = until.to_string().into();
    }
    if let Some(why) = why {
        value["why"] = (&**why).into();
    }
    value
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted {
    network: String,
    for_s: u64,
    #[serde(default)]
    why: String,
}

/// Denies a network for a time.
pub(super) async fn add(State(api): State<Api>, request: Request) -> Result<Response, Refusal> {
    demand_json(&request)?;
    let body = read_body(request, BODY_MAX).await?;
    let Posted {
        network,
        for_s,
        why,
    } = serde_json::from_slice(&body).map_err(Refusal::bad_request)?;
    let network = parse(&network)?;
    let for_s_max = DENIED_FOR_MAX.as_secs();
    if !(1..=for_s_max).contains(&for_s) {
        return Err(Refusal::bad_request(format!(
            "for_s must be 1 to {for_s_max}"
        )));
    }
    if why.len() > WHY_MAX {
        return Err(Refusal::bad_request(format!(
            "why is longer than {WHY_MAX} bytes"
        )));
    }
    let denied = api.denials.deny(network, Duration::from_secs(for_s), &why);
    let told = denied.map_err(refusal)?;
    tracing::info!("{network} is denied for {for_s} s: {why:?}");
    Ok((StatusCode::CREATED, Json(shown(&told))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Removed {
    network: String,
}

/// Denies a network no longer.
pub(super) async fn remove(State(api): State<Api>, uri: Uri) -> Result<StatusCode, Refusal> {
    let Query(Removed { network }) =
        Query::try_from_uri(&uri).map_err(|error| Refusal::bad_request(error.body_text()))?;
    let network = parse(&network)?;
    api.denials.allow(network).map_err(refusal)?;
    tracing::info!("{network} is denied no longer");
    Ok(StatusCode::NO_CONTENT)
}

fn parse(text: &str) -> Result<Network, Refusal> {
    text.parse().map_err(|why: BadNetwork| {
        Refusal::bad_request(format!("{text:?}: {why}; {}", why.remedy()))
    })
}

fn refusal(error: DenialError) -> Refusal {
    let status = match error {
        DenialError::Never { .. } | DenialError::Listed { .. } => StatusCode::CONFLICT,
        DenialError::Unknown { .. } => StatusCode::NOT_FOUND,
        DenialError::TooMany { .. } | DenialError::Kernel { .. } => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refusal::new(status, format!("{:#}", anyhow::Error::from(error)))
}
