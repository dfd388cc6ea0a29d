//! The recent calls: a page of them, one of them, or all as they come.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use calltap_correlate::record::{CallRecord, Selection, Timestamp};
use uuid::Uuid;

use super::filter::Filter;
use super::{Api, Refusal, stream};

/// Records on a page unless `limit` says otherwise.
pub(crate) const PAGE: usize = 100;
/// Records on a page at most.
pub(crate) const PAGE_MAX: usize = 1_000;

/// A page of records, newest first.
pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Refusal> {
    let Page {
        filter,
        before,
        limit,
    } = Page::parse(&uri)?;
    let before = match before {
        // Whoever pages to a record that is no longer kept has seen all that is.
        Some(uid) => api.recent.find(uid).map_or(0, |(number, _)| number),
        None => u64::MAX,
    };
    let mut page = Vec::new();
    let mut more = false;
    for (_, record) in api.recent.newest_first(before) {
        if filter.wants(&record) {
            more = page.len() == limit;
            if more {
                break;
            }
            page.push(record);
        }
    }
    let mut out = b"{\"calls\":[".to_vec();
    for (at, record) in page.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        record.write_json(&mut out, &api.visible);
    }
    out.push(b']');
    if let Some(last) = page.last().filter(|_| more) {
        out.extend_from_slice(format!(",\"next\":\"{}\"", last.uid).as_bytes());
    }
    out.push(b'}');
    Ok(json_text(out))
}

/// One record.
pub(super) async fn one(
    State(api): State<Api>,
    Path(uid): Path<String>,
) -> Result<Response, Refusal> {
    let uid = parse_uid(&uid)?;
    let (_, record) = api.recent.find(uid).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("no recent record has the uid {uid}; older ones are in the log"),
        )
    })?;
    let mut out = Vec::new();
    record.write_json(&mut out, &api.visible);
    Ok(json_text(out))
}

/// Records as they come, as server-sent events.
pub(super) async fn live(
    State(api): State<Api>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut filter = Filter::default();
    for (name, value) in pairs(&uri)? {
        set(&mut filter, &name, &value)?;
    }
    // A reader that lost its connection says what it saw last.
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let seen = seen
        .and_then(|id| id.parse().ok())
        .and_then(|uid| api.recent.find(uid));
    let next = seen.map_or_else(|| api.recent.end(), |(number, _)| number + 1);

    let ring = Arc::clone(&api.recent);
    let shown = Arc::clone(&api);
    stream::respond(&api, ring, next, move |record: &CallRecord, out| {
        if filter.wants(record) {
            event(record, &shown.visible, out);
        }
    })
}

fn event(record: &CallRecord, visible: &Selection, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("id: {}\ndata: ", record.uid).as_bytes());
    // JSON on one line, as an event's data must be.
    record.write_json(out, visible);
    out.extend_from_slice(b"\n\n");
}

/// What the query of a page says.
struct Page {
    filter: Filter,
    before: Option<Uuid>,
    limit: usize,
}

impl Page {
    fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let mut page = Self {
            filter: Filter::default(),
            before: None,
            limit: PAGE,
        };
        for (name, value) in pairs(uri)? {
            match name.as_str() {
                "before" => page.before = Some(parse_uid(&value)?),
                "limit" => page.limit = parse_limit(&value)?,
                _ => set(&mut page.filter, &name, &value)?,
            }
        }
        Ok(page)
    }
}

pub(super) fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Refusal> {
    let query = Query::try_from_uri(uri).map_err(Refusal::bad_request)?;
    Ok(query.0)
}

fn set(filter: &mut Filter, name: &str, value: &str) -> Result<(), Refusal> {
    match filter.set(name, value, now()) {
        Some(done) => done.map_err(Refusal::bad_request),
        None => Err(Refusal::bad_request(format!(
            "there is no parameter {name:?}"
        ))),
    }
}

fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let us = since_1970.unwrap_or_default().as_micros();
    Timestamp::from_unix_us(i64::try_from(us).unwrap_or(i64::MAX))
}

fn parse_uid(text: &str) -> Result<Uuid, Refusal> {
    text.parse()
        .map_err(|_| Refusal::bad_request(format!("{text:?} is no uid of a record")))
}

pub(super) fn parse_limit(text: &str) -> Result<usize, Refusal> {
    let limit = text.parse().ok().filter(|n| (1..=PAGE_MAX).contains(n));
    limit.ok_or_else(|| {
        Refusal::bad_request(format!("limit: {text:?} is no number from 1 to {PAGE_MAX}"))
    })
}

pub(super) fn json_text(text: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
