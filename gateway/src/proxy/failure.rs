//! How a call can fail at the gateway: what the client is answered, and what the record says.

use std::io::ErrorKind;

use pingora::{Error, ErrorSource, ErrorType};

/// Why the gateway answered on its own, or could not answer at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// What the client is answered; 0 where nobody listens any more.
    pub(super) status: u16,
    /// `response.flags`: who ended the call and how. Absent where the request itself was at fault.
    pub(super) flag: Option<&'static str>,
    /// `error.type`
    pub(super) error_type: &'static str,
    /// For a person.
    pub(super) message: &'static str,
}

const fn refusal(status: u16, error_type: &'static str, message: &'static str) -> Failure {
    Failure {
        status,
        flag: None,
        error_type,
        message,
    }
}

const fn breakdown(status: u16, name: &'static str, message: &'static str) -> Failure {
    Failure {
        status,
        flag: Some(name),
        error_type: name,
        message,
    }
}

pub(super) const BAD_PATH: Failure = refusal(
    400,
    "bad_path",
    "the path is not one that can be normalised",
);
pub(super) const NO_ROUTE: Failure = refusal(404, "no_route", "no route matches this request");
pub(super) const WRONG_METHOD: Failure = refusal(
    405,
    "method_not_allowed",
    "the route does not serve this method",
);
pub(super) const URI_TOO_LONG: Failure =
    refusal(414, "uri_too_long", "the request target is too long");
pub(super) const HEAD_TOO_LARGE: Failure =
    refusal(431, "header_too_large", "the request head is too large");
pub(super) const BODY_TOO_LARGE: Failure = refusal(
    413,
    "body_too_large",
    "the request body is larger than allowed",
);
pub(super) const BAD_REQUEST: Failure =
    refusal(400, "bad_request", "the request is not valid HTTP");
pub(super) const UNKNOWN_CODING: Failure = refusal(
    501,
    "unknown_transfer_coding",
    "the only transfer coding that is understood is chunked",
);
pub(super) const NO_ENDPOINT: Failure =
    breakdown(503, "no_endpoint", "no endpoint of the upstream is known");
pub(super) const DENIED: Failure = breakdown(403, "denied", "policy refuses this call");
pub(super) const ADDRESS_DENIED: Failure = breakdown(0, "denied", "the client's address is denied");
pub(super) const LIMITED: Failure = breakdown(429, "rate_limited", "too many calls");
pub(super) const TIMEOUT: Failure = breakdown(504, "timeout", "the call took longer than it may");
pub(super) const SHUTDOWN: Failure = breakdown(503, "shutdown", "the gateway is shutting down");
pub(super) const CLIENT_ABORT: Failure = breakdown(0, "client_abort", "the client went away");

const UPSTREAM_CONNECT_TIMEOUT: Failure = breakdown(
    504,
    "upstream_connect_timeout",
    "the upstream did not accept the connection in time",
);
const UPSTREAM_TLS_TIMEOUT: Failure = breakdown(
    504,
    "upstream_tls_timeout",
    "the TLS handshake with the upstream did not end in time",
);
const UPSTREAM_REFUSED: Failure = breakdown(
    502,
    "upstream_refused",
    "the upstream refused the connection",
);
const UPSTREAM_UNREACHABLE: Failure = breakdown(
    502,
    "upstream_unreachable",
    "the upstream cannot be reached",
);
const UPSTREAM_TLS_FAILED: Failure = breakdown(
    502,
    "upstream_tls_failed",
    "the TLS handshake with the upstream failed",
);
pub(super) const UPSTREAM_TIMEOUT: Failure = breakdown(
    504,
    "upstream_timeout",
    "the upstream did not answer in time",
);
const UPSTREAM_RESET: Failure =
    breakdown(502, "upstream_reset", "the upstream reset the connection");
const UPSTREAM_CLOSED: Failure = breakdown(
    502,
    "upstream_closed",
    "the upstream closed the connection too early",
);
const UPSTREAM_PROTOCOL: Failure = breakdown(
    502,
    "upstream_protocol_error",
    "the upstream's answer is not valid HTTP",
);
pub(super) const CLIENT_SENDS_TOO_SLOWLY: Failure = breakdown(
    408,
    "client_timeout",
    "the request body did not arrive in time",
);
const CLIENT_READS_TOO_SLOWLY: Failure = breakdown(
    0,
    "client_timeout",
    "the client did not take the response in time",
);
pub(super) const UPGRADED_IDLE: Failure = breakdown(
    0,
    "idle_timeout",
    "the upgraded connection was silent for too long",
);
const GATEWAY_ERROR: Failure = breakdown(500, "gateway_error", "the gateway failed");

impl Failure {
    /// What an error of Pingora's means.
    pub(super) fn of(error: &Error) -> Self {
        match error.esource() {
            ErrorSource::Upstream => Self::of_upstream(error),
            ErrorSource::Downstream => match error.etype() {
                ErrorType::ReadTimedout => CLIENT_SENDS_TOO_SLOWLY,
                ErrorType::WriteTimedout => CLIENT_READS_TOO_SLOWLY,
                ErrorType::InvalidHTTPHeader
                | ErrorType::H1Error
                // What Pingora calls a chunked body that is none.
                | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => BAD_REQUEST,
                _ => CLIENT_ABORT,
            },
            ErrorSource::Internal | ErrorSource::Unset => GATEWAY_ERROR,
        }
    }

    /// What a failed attempt to connect means, of which Pingora's error alone does not say how far
    /// it got.
    pub(super) fn of_attempt(error: &Error, outcome: &str) -> Self {
        match outcome {
            "tls_timeout" => UPSTREAM_TLS_TIMEOUT,
            _ => Self::of(error),
        }
    }

    fn of_upstream(error: &Error) -> Self {
        match error.etype() {
            _ if peer_reset(error).is_some() => UPSTREAM_RESET,
            ErrorType::ConnectTimedout => UPSTREAM_CONNECT_TIMEOUT,
            ErrorType::ConnectRefused => UPSTREAM_REFUSED,
            ErrorType::ConnectNoRoute | ErrorType::ConnectError | ErrorType::SocketError => {
                UPSTREAM_UNREACHABLE
            }
            ErrorType::TLSHandshakeFailure
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError
            | ErrorType::TLSWantX509Lookup => UPSTREAM_TLS_FAILED,
            ErrorType::TLSHandshakeTimedout => UPSTREAM_TLS_TIMEOUT,
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => UPSTREAM_TIMEOUT,
            ErrorType::InvalidHTTPHeader
            | ErrorType::H1Error
            | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => UPSTREAM_PROTOCOL,
            // Also of HTTP/2, where Pingora calls most of what goes wrong an error of the protocol.
            _ if is_reset(error) => UPSTREAM_RESET,
            ErrorType::H2Error | ErrorType::InvalidH2 => UPSTREAM_PROTOCOL,
            _ => UPSTREAM_CLOSED,
        }
    }
}

/// How an attempt ended, for the list of attempts.
pub(super) fn outcome(error: &Error) -> &'static str {
    match error.etype() {
        _ if peer_reset(error).is_some() => "reset",
        ErrorType::ConnectTimedout => "connect_timeout",
        ErrorType::ConnectRefused => "refused",
        ErrorType::ConnectNoRoute => "unreachable",
        ErrorType::TLSHandshakeTimedout => "tls_timeout",
        ErrorType::TLSHandshakeFailure
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError
        | ErrorType::TLSWantX509Lookup => "tls_failed",
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => "timeout",
        ErrorType::InvalidHTTPHeader
        | ErrorType::H1Error
        | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => "protocol_error",
        _ if is_reset(error) => "reset",
        ErrorType::H2Error | ErrorType::InvalidH2 | ErrorType::H2Downgrade => "protocol_error",
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => "closed",
        _ => "failed",
    }
}

/// Whether a reset lies somewhere among the causes.
fn is_reset(error: &Error) -> bool {
    if peer_reset(error).is_some() {
        return true;
    }
    matches!(
        io_kind(error),
        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
    )
}

/// What the socket said, be it through HTTP/2.
fn io_kind(error: &Error) -> Option<ErrorKind> {
    let through_h2 = find_cause::<h2::Error>(error).and_then(h2::Error::get_io);
    let io = through_h2.or_else(|| find_cause::<std::io::Error>(error));
    io.map(std::io::Error::kind)
}

/// Whether it was a timer that ended it, ours or Pingora's.
pub(super) fn is_of_time(error: &Error) -> bool {
    matches!(
        error.etype(),
        ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::ConnectTimedout
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::HTTPStatus(504)
    ) || io_kind(error) == Some(ErrorKind::TimedOut)
}

/// The code with which the peer reset its stream of HTTP/2, by its name in RFC 9113.
pub(super) fn reset_code(error: &Error) -> Option<&'static str> {
    let reason = peer_reset(error)?;
    let names = [
        "no_error",
        "protocol_error",
        "internal_error",
        "flow_control_error",
        "settings_timeout",
        "stream_closed",
        "frame_size_error",
        "refused_stream",
        "cancel",
        "compression_error",
        "connect_error",
        "enhance_your_calm",
        "inadequate_security",
        "http_1_1_required",
    ];
    let code = usize::try_from(u32::from(reason)).ok()?;
    Some(names.get(code).copied().unwrap_or("unknown"))
}

/// With which reason, if it did.
fn peer_reset(error: &Error) -> Option<h2::Reason> {
    if let Some(error) = find_cause::<h2::Error>(error) {
        return error
            .reason()
            .filter(|_| error.is_reset() && error.is_remote());
    }
    // Of a client that leaves while it is waited for, Pingora keeps no more than the text.
    let said = error.context.as_ref()?.as_str();
    let said = said.strip_prefix("Client closed H2, reason: ")?;
    (0..=u32::from(h2::Reason::HTTP_1_1_REQUIRED))
        .map(h2::Reason::from)
        .find(|reason| reason.to_string() == said)
}

/// The first of the causes that is a `T`.
fn find_cause<T: std::error::Error + 'static>(error: &Error) -> Option<&T> {
    let mut cause: &(dyn std::error::Error + 'static) = error.cause.as_deref()?;
    loop {
        if let Some(found) = cause.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(pingora) = cause.downcast_ref::<Error>() {
            return find_cause(pingora);
        }
        cause = cause.source()?;
    }
}
