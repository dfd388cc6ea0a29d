//! What the record says of a request and a response, from their heads.

use http::header::AsHeaderName;
use http::{HeaderMap, Version, header};
use pingora::http::RequestHeader;

use calltap_correlate::exchange::{Request, Text};
use calltap_policies::review::Secrets;

use crate::identity::{self, Identity};

/// The methods that OpenTelemetry's conventions name (RFC 9110, RFC 5789); others are `_OTHER`.
const KNOWN_METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// The request, as it was sent.
pub(super) fn request(
    head: &RequestHeader,
    secured: bool,
    identity: &Identity,
    secrets: &Secrets,
    allowed_headers: &[String],
) -> Request {
    let known = KNOWN_METHODS
        .iter()
        .find(|method| **method == head.method.as_str());
    let (server_address, server_port) = server(head, secured);
    let path = head.uri.path();
    Request {
        method: known.map_or(Text::Borrowed("_OTHER"), |method| Text::Borrowed(method)),
        method_original: known.is_none().then(|| head.method.as_str().to_owned()),
        scheme: Text::Borrowed(scheme(secured)),
        server_address,
        server_port,
        path: path.to_owned(),
        query: head
            .uri
            .query()
            .map(|query| secrets.query(query).into_owned()),
        version: Text::Borrowed(version(head.version)),
        user_agent: text(&head.headers, header::USER_AGENT),
        body_bytes: 0,
        headers: headers(&head.headers, allowed_headers, secrets),
        request_id: Some(identity.request_id.clone()),
        trace_id: Some(identity.trace.trace_id()),
        span_id: Some(identity.trace.span_id()),
        global_transaction_id: Some(identity.global_transaction_id.clone()),
        rpc_method: identity::grpc::is_grpc(head)
            .then(|| identity::grpc::rpc_method(head, path).map(str::to_owned))
            .flatten(),
        upgraded_to: None,
    }
}

/// `http` or `https`.
pub(super) fn scheme(secured: bool) -> &'static str {
    if secured { "https" } else { "http" }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        Version::HTTP_09 => "0.9",
        _ => "1.1",
    }
}

/// Host and port that were asked for, the host without the dot that ends a full name, as routes are found;
/// the port is the scheme's where none was said.
fn server(head: &RequestHeader, secured: bool) -> (Option<String>, Option<u16>) {
    let Some(authority) = identity::authority(head) else {
        return (None, None);
    };
    let default = if secured { 443 } else { 80 };
    if let Some((host, port)) = identity::plain_authority(authority) {
        let host = host.strip_suffix('.').unwrap_or(host);
        return (Some(host.to_ascii_lowercase()), port.or(Some(default)));
    }
    match authority.parse::<http::uri::Authority>() {
        Ok(authority) => {
            let host = authority
                .host()
                .trim_matches(['[', ']'])
                .trim_end_matches('.')
                .to_ascii_lowercase();
            (Some(host), Some(authority.port_u16().unwrap_or(default)))
        }
        Err(_) => (Some(authority.to_owned()), None),
    }
}

/// The headers that may be recorded, secrets hidden; several of one name are joined by commas.
pub(super) fn headers(
    headers: &HeaderMap,
    allowed: &[String],
    secrets: &Secrets,
) -> Vec<(String, String)> {
    allowed
        .iter()
        .filter_map(|name| {
            let value = text(headers, name.as_str())?;
            Some((name.clone(), secrets.header(name, &value).to_owned()))
        })
        .collect()
}

/// A header's values as text; bytes that are no UTF-8 are percent-encoded.
pub(super) fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<String> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| match value.to_str() {
            Ok(value) => value.to_owned(),
            Err(_) => {
                percent_encoding::percent_encode(value.as_bytes(), percent_encoding::CONTROLS)
                    .to_string()
            }
        });
    let mut all = values.next()?;
    for value in values {
        all.push_str(", ");
        all.push_str(&value);
    }
    Some(all)
}

/// `grpc-status` of a head or of trailers, as the code's name.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<Text> {
    identity::grpc::status_name(headers.get("grpc-status")?.to_str().ok()?)
}
