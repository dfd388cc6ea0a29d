//! Posts JSON to one server: one request on a connection of its own, for alerts are rare.
//!
//! Follows no redirect and asks no proxy: an alert goes where the configuration says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::config::Destination;
use crate::tls::pem::{self, PemError};

/// Of an answer's body this much is read, for its reason.
const REASON_BYTES: usize = 64 << 10;
/// And for this long.
const REASON_TIME_MAX: Duration = Duration::from_secs(1);
/// And this much of it is told.
const REASON_CHARS: usize = 200;
/// Nobody makes us wait longer than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Posts to one server.
pub(super) struct Poster {
    destination: Destination,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authority: HeaderValue,
    authorization: Option<HeaderValue>,
}

/// Why there is no way to a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PosterError {
    /// A file with certificates.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// An authority in the file is broken.
    #[error("{name}: an authority's certificate is not well-formed")]
    Authority {
        /// The destination.
        name: String,
        /// Why.
        source: rustls::Error,
    },
    /// The system has no authorities.
    #[error("{name}: the system's authorities cannot be read; name some with `ca`")]
    System {
        /// The destination.
        name: String,
        /// Why.
        source: Box<pingora::Error>,
    },
}

/// What a server made of it.
#[derive(Debug)]
pub(super) enum Answer {
    /// It took it.
    Taken,
    /// It will never take it, and why.
    Refused(String),
    /// It may take it later, after this time if it said so, and why not now.
    Later(String, Option<Duration>),
}

/// An answer without its body yet, and what reads it from the connection as long as it is kept.
type Answered = (Response<Incoming>, JoinSet<hyper::Result<()>>);

#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("no address of {host} can be found")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {authority}")]
    Connect {
        authority: String,
        source: io::Error,
    },
    #[error("TLS with {authority} failed")]
    Tls {
        authority: String,
        source: io::Error,
    },
    #[error("HTTP with {authority} failed")]
    Http {
        authority: String,
        source: hyper::Error,
    },
}

impl Poster {
    /// Prepares what every request needs.
    pub(super) fn new(destination: Destination) -> Result<Self, PosterError> {
        let url = &destination.url;
        let tls = match url.is_https() {
            true => Some((
                connector(&destination)?,
                ServerName::try_from(url.host().to_owned()).expect("checked when it was read"),
            )),
            false => None,
        };
        let authority = HeaderValue::from_str(url.authority()).expect("a URL is ASCII");
        let authorization = destination.token.as_ref().map(|token| {
            let bearer = [b"Bearer ", token.reveal()].concat();
            let mut value = HeaderValue::from_bytes(&bearer).expect("checked when it was read");
            value.set_sensitive(true);
            value
        });
        Ok(Self {
            destination,
            tls,
            authority,
            authorization,
        })
    }

    /// Where it posts to.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Posts a body to a path. Returns within the destination's time, and that for a reason.
    pub(super) async fn post(&self, path: &str, headers: HeaderMap, body: String) -> Answer {
        let timeout = self.destination.timeout;
        let answered = tokio::time::timeout(timeout, self.attempt(path, headers, body));
        let (answer, _driver) = match answered.await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => {
                return Answer::Later(format!("{:#}", anyhow::Error::from(error)), None);
            }
            Err(_) => return Answer::Later(format!("no answer within {timeout:?}"), None),
        };
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Answer::Taken;
        }
        // Why may come late or never: the status decides.
        let reason = Limited::new(body, REASON_BYTES).collect();
        let reason = match tokio::time::timeout(REASON_TIME_MAX, reason).await {
            Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Ok(Err(_)) | Err(_) => String::new(),
        };
        verdict(head.status, &head.headers, &reason)
    }

    async fn attempt(
        &self,
        path: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answered, TryError> {
        let socket = self.connect().await?;
        let Some((connector, name)) = &self.tls else {
            return self.ask(socket, path, headers, body).await;
        };
        let socket = connector.connect(name.clone(), socket).await;
        let socket = socket.map_err(|source| TryError::Tls {
            authority: self.destination.url.authority().to_owned(),
            source,
        })?;
        self.ask(socket, path, headers, body).await
    }

    async fn connect(&self) -> Result<TcpStream, TryError> {
        let url = &self.destination.url;
        let addresses = tokio::net::lookup_host((url.host(), url.port())).await;
        let addresses = addresses.map_err(|source| TryError::Resolve {
            host: url.host().to_owned(),
            source,
        })?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        let mut last = io::Error::other("it has no address");
        // One that does not answer leaves the others time.
        let each = self.destination.timeout / (addresses.len() as u32 + 1);
        for address in addresses {
            match tokio::time::timeout(each, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(TryError::Connect {
            authority: url.authority().to_owned(),
            source: last,
        })
    }

    async fn ask(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answered, TryError> {
        let failed = |source| TryError::Http {
            authority: self.destination.url.authority().to_owned(),
            source,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(failed)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().expect("the path of a URL");
        *request.headers_mut() = headers;
        let own = request.headers_mut();
        own.insert(header::HOST, self.authority.clone());
        own.insert(header::CONNECTION, HeaderValue::from_static("close"));
        own.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let agent = concat!("calltap/", env!("CARGO_PKG_VERSION"));
        own.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        if let Some(authorization) = &self.authorization {
            own.insert(header::AUTHORIZATION, authorization.clone());
        }
        let answer = sender.send_request(request).await.map_err(failed)?;
        Ok((answer, driver))
    }
}

fn verdict(status: StatusCode, headers: &HeaderMap, reason: &str) -> Answer {
    let reason: String = reason.trim().chars().take(REASON_CHARS).collect();
    let mut why = format!("answered {}", status.as_u16());
    if status.is_redirection() {
        why.push_str(", and redirects are not followed: configure where it leads");
    } else if !reason.is_empty() {
        // It may come from anybody, and goes to a terminal.
        why.push_str(&format!(": {}", reason.escape_debug()));
    }
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    match status.is_client_error() && !later.contains(&status) {
        true => Answer::Refused(why),
        false => Answer::Later(why, retry_after(headers, SystemTime::now())),
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(after.min(RETRY_AFTER_MAX))
}

fn connector(destination: &Destination) -> Result<TlsConnector, PosterError> {
    let mut roots = RootCertStore::empty();
    let name = || destination.name.clone();
    match &destination.ca {
        Some(path) => {
            for certificate in pem::certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|source| PosterError::Authority {
                        name: name(),
                        source,
                    })?;
            }
        }
        // As upstreams do.
        None => {
            pingora::tls::load_platform_certs_incl_env_into_store(&mut roots).map_err(|source| {
                PosterError::System {
                    name: name(),
                    source,
                }
            })?
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_never_be_taken_is_refused() {
        for (status, refused) in [
            (301, false),
            (400, true),
            (401, true),
            (404, true),
            (408, false),
            (410, true),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let answer = verdict(status, &HeaderMap::new(), "no\x1b[2J");
            assert_eq!(matches!(answer, Answer::Refused(_)), refused, "{status}");
            let (Answer::Refused(why) | Answer::Later(why, _)) = answer else {
                panic!("{status} is no success");
            };
            assert!(!why.contains('\x1b'), "{why}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_has_a_bound() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let date = httpdate::fmt_http_date(now + Duration::from_secs(90));
        let past = httpdate::fmt_http_date(now - Duration::from_secs(90));
        for (text, seconds) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            (date.as_str(), Some(90)),
            (past.as_str(), Some(0)),
            ("99999999", Some(3600)),
            ("soon", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().expect("a value"));
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
    }
}
