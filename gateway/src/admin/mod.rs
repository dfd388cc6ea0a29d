//! The admin API: what calltap knows, for people, scrapers and programs, on a listener of its own.
//!
//! One table ([`endpoints`]) names every path with its handler and its description; the router, the
//! answers to wrong methods and the OpenAPI document are made from it. It runs on one thread with
//! its own runtime, so that nothing asked here can hold up a call.
//!
//! In reading order: [`serve`] listens, [`guard`] decides who may ask, the handlers are in
//! [`status`], [`logging`], [`calls`], [`alerts`] and [`denied`]; [`recent`] and [`metrics`] keep what they tell,
//! [`openapi`] describes it all.

mod alerts;
mod calls;
mod denied;
mod filter;
mod guard;
mod logging;
mod metrics;
mod openapi;
mod recent;
mod serve;
mod status;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use calltap_correlate::exchange::ExternalEntry;
use calltap_correlate::record::Selection;
use calltap_correlate::socket::SocketCookie;
use calltap_policies::admit::Count;
use calltap_policies::review::{RecordCount, Secrets};
use serde_json::json;
use tokio::sync::watch;

use crate::account::Account;
use crate::alerts::{Board, Tally};
use crate::denials::Denials;
use crate::sink::json_lines::Observer;
use crate::upstream::UpstreamsState;

use guard::Guard;

pub(crate) use guard::Token;
pub(crate) use metrics::CallMetrics;
pub(crate) use recent::{Feed, Recent};
pub(crate) use serve::{Bound, Running};
pub(crate) use status::TapStatus;

/// A body must arrive whole within this time.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// What the admin API asks the rest of calltap.
pub(crate) trait Facts: Send + Sync {
    /// What the tap is doing.
    fn tap(&self) -> TapStatus;
    /// How the upstreams are.
    fn upstreams(&self) -> UpstreamsState;
    /// Shows every rule, in order, with what it did.
    fn rules(&self, each: &mut dyn FnMut(Count<'_>));
    /// Shows every rule about records, in order, with what it did.
    fn record_rules(&self, each: &mut dyn FnMut(RecordCount<'_>));
    /// Whether calls are welcome, or why not.
    fn ready(&self) -> Result<(), String>;
    /// How many client connections are open.
    fn connections(&self) -> usize;
    /// Shows every client connection that is open.
    fn live_connections(&self, each: &mut dyn FnMut(LiveConnection));
    /// The time, nanoseconds of `CLOCK_MONOTONIC`.
    fn now_ns(&self) -> u64;
    /// Takes an entry for the log. `false`: its queue is full.
    fn log(&self, entry: ExternalEntry) -> bool;
}

/// A client connection that is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveConnection {
    /// Its socket.
    pub(crate) cookie: SocketCookie,
    /// The client's end.
    pub(crate) peer: SocketAddr,
    /// Our end.
    pub(crate) local: SocketAddr,
}

/// What the admin API tells from.
pub(crate) struct Sources {
    /// Everything that has an owner elsewhere.
    pub(crate) facts: Box<dyn Facts>,
    /// Who is denied.
    pub(crate) denials: Arc<Denials>,
    /// The conservation counters.
    pub(crate) account: Arc<Account>,
    /// The sink's state.
    pub(crate) sink: Observer,
    /// The records that left last.
    pub(crate) recent: Arc<Recent>,
    /// What calls add up to.
    pub(crate) metrics: Arc<CallMetrics>,
    /// What alerts there are.
    pub(crate) board: Arc<Board>,
    /// Where they are sent, and how that fares.
    pub(crate) destinations: Arc<[Arc<Tally>]>,
    /// The fields that may be shown.
    pub(crate) visible: Selection,
    /// Names of details whose values are hidden.
    pub(crate) secrets: Secrets,
    /// `service.instance.id` of our records.
    pub(crate) instance: Arc<str>,
}

/// What every handler gets.
type Api = Arc<Inner>;

struct Inner {
    facts: Box<dyn Facts>,
    denials: Arc<Denials>,
    account: Arc<Account>,
    sink: Observer,
    recent: Arc<Recent>,
    metrics: Arc<CallMetrics>,
    board: Arc<Board>,
    destinations: Arc<[Arc<Tally>]>,
    visible: Selection,
    secrets: Secrets,
    instance: Arc<str>,
    guard: Guard,
    streams: stream::Streams,
    started: Instant,
    /// Seconds since 1970.
    started_unix_s: f64,
    /// Becomes true when the API ends.
    ending: watch::Receiver<bool>,
}

/// One path of the API.
struct Endpoint {
    method: Method,
    path: &'static str,
    /// Needs no token.
    open: bool,
    handler: fn() -> MethodRouter<Api>,
    describe: fn() -> openapi::Operation,
}

/// Every path of the API, in the order in which they are documented.
fn endpoints() -> &'static [Endpoint] {
    const ENDPOINTS: &[Endpoint] = &[
        Endpoint {
            method: Method::GET,
            path: "/api/v1/status",
            open: false,
            handler: || get(status::status),
            describe: openapi::status,
        },
        Endpoint {
            method: Method::POST,
            path: "/api/v1/logging",
            open: false,
            handler: || post(logging::post),
            describe: openapi::logging,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/calls",
            open: false,
            handler: || get(calls::list),
            describe: openapi::calls,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/calls/stream",
            open: false,
            handler: || get(calls::live),
            describe: openapi::stream,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/calls/{uid}",
            open: false,
            handler: || get(calls::one),
            describe: openapi::call,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/denied",
            open: false,
            handler: || get(denied::list),
            describe: openapi::denied,
        },
        Endpoint {
            method: Method::POST,
            path: "/api/v1/denied",
            open: false,
            handler: || post(denied::add),
            describe: openapi::deny,
        },
        Endpoint {
            method: Method::DELETE,
            path: "/api/v1/denied",
            open: false,
            handler: || delete(denied::remove),
            describe: openapi::allow,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/alerts",
            open: false,
            handler: || get(alerts::list),
            describe: openapi::alerts,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/alerts/stream",
            open: false,
            handler: || get(alerts::live),
            describe: openapi::alert_stream,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/alerts/{id}",
            open: false,
            handler: || get(alerts::one),
            describe: openapi::alert,
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/openapi.json",
            open: false,
            handler: || get(openapi::document_text),
            describe: openapi::openapi,
        },
        Endpoint {
            method: Method::GET,
            path: "/metrics",
            open: false,
            handler: || get(status::metrics),
            describe: openapi::metrics,
        },
        Endpoint {
            method: Method::GET,
            path: "/healthz",
            open: true,
            handler: || get(status::healthz),
            describe: openapi::healthz,
        },
        Endpoint {
            method: Method::GET,
            path: "/readyz",
            open: true,
            handler: || get(status::readyz),
            describe: openapi::readyz,
        },
    ];
    ENDPOINTS
}

fn router(api: Api) -> Router {
    endpoints()
        .iter()
        .fold(Router::new(), |router, endpoint| {
            router.route(endpoint.path, (endpoint.handler)())
        })
        .method_not_allowed_fallback(wrong_method)
        .fallback(nothing_here)
        .layer(from_fn_with_state(Arc::clone(&api), guard::admit))
        .with_state(api)
}

async fn nothing_here(uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!(
            "there is nothing at {}; see /api/v1/openapi.json",
            uri.path()
        ),
    )
}

async fn wrong_method(State(_): State<Api>, method: Method, uri: Uri) -> Refusal {
    let path = uri.path();
    // The template that is the path itself stands over one that merely fits.
    let template = endpoints()
        .iter()
        .map(|endpoint| endpoint.path)
        .find(|template| *template == path)
        .or_else(|| {
            let mut templates = endpoints().iter().map(|endpoint| endpoint.path);
            templates.find(|template| fits(template, path))
        });
    let methods = endpoints()
        .iter()
        .filter(|endpoint| Some(endpoint.path) == template)
        .map(|endpoint| match endpoint.method {
            Method::GET => "GET, HEAD",
            ref other => other.as_str(),
        });
    let allowed = methods.collect::<Vec<_>>().join(", ");
    let refusal = Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{path} takes {allowed}, not {method}"),
    );
    match HeaderValue::try_from(allowed) {
        Ok(allowed) => refusal.with(header::ALLOW, allowed),
        Err(_) => refusal, // never: methods are words
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template
            .zip(path)
            .all(|(t, p)| t == p || t.starts_with('{'))
}

/// The body, if it is no longer than that.
async fn read_body(request: Request, max: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {max} bytes"),
        )
    };
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > max) {
        return Err(too_large());
    }
    let body = axum::body::to_bytes(request.into_body(), max);
    match tokio::time::timeout(BODY_TIME_MAX, body).await {
        Ok(Ok(body)) => Ok(body),
        // Too long, or the client went away and will not read this.
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
        )),
    }
}

/// An answer that is not what was asked for: `{"error": "why"}`.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    why: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        let why = why.into();
        let challenge = HeaderValue::from_static("Bearer realm=\"calltap\"");
        let header =
            (status == StatusCode::UNAUTHORIZED).then_some((header::WWW_AUTHENTICATE, challenge));
        Self {
            status,
            why,
            header,
        }
    }

    fn bad_request(why: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why.to_string())
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self {
            status,
            why,
            header,
        } = self;
        let mut response = (status, axum::Json(json!({"error": why}))).into_response();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests;
