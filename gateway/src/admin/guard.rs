//! Who may ask the admin API: the checks before every handler.
//!
//! Three different strangers are kept out. A machine elsewhere: beyond loopback every request needs
//! the bearer token. A web page that had its own name resolved to our address (DNS rebinding): the
//! Host header must be one we know. A web page that just sends requests here: a foreign Origin is
//! refused, and bodies must be declared as JSON, which a page cannot do unasked.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::{Api, Refusal, endpoints};

/// The secret that opens the API beyond loopback.
#[derive(Clone)]
pub(crate) struct Token(Vec<u8>);

impl Token {
    /// The first line of a file.
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read_to_string(path).map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        let token = text.lines().next().unwrap_or_default().trim();
        let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || !visible {
            return Err(TokenError::Unfit {
                path: path.to_owned(),
            });
        }
        Ok(Self(token.as_bytes().to_vec()))
    }

    /// Takes equally long wherever the two differ; only their lengths can be told from the time.
    fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the admin API's token from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The first line holds no token.
    #[error(
        "{path} holds no token: its first line must be visible ASCII without spaces, such as `openssl rand -hex 32` prints"
    )]
    Unfit {
        /// The file.
        path: PathBuf,
    },
}

/// What every request is held against.
#[derive(Debug)]
pub(crate) struct Guard {
    token: Option<Token>,
    /// Lower-case names and addresses, without ports; IPv6 in brackets.
    hosts: Vec<String>,
    loopback: bool,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Option<Token>, hosts: &[String]) -> Self {
        Self {
            token,
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            loopback: is_loopback(address.ip()),
        }
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap, open: bool) -> Result<(), Refusal> {
        if open {
            // A probe of an orchestrator: asks by whatever address it has, and learns nothing.
            return Ok(());
        }
        let authority = host_of(uri, headers)?;
        if !self.knows(without_port(authority)) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "host {authority:?} is not allowed; admin.allowed_hosts lists those that are"
                ),
            ));
        }
        if is_foreign(headers, authority) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "requests of other origins are not allowed",
            ));
        }
        let Some(token) = &self.token else {
            return Ok(());
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes)
            .and_then(bearer);
        match given {
            Some(given) if token.is(given) => Ok(()),
            Some(_) => Err(Refusal::new(StatusCode::UNAUTHORIZED, "wrong bearer token")),
            None => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "a bearer token is needed: Authorization: Bearer TOKEN",
            )),
        }
    }

    /// An address as Host cannot come from rebinding, which takes a name; so where we listen for
    /// other machines they may call us by any address we have.
    fn knows(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        if self.hosts.contains(&host) {
            return true;
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let address: Option<IpAddr> = bare.unwrap_or(&host).parse().ok();
        address.is_some_and(|ip| !self.loopback || is_loopback(ip))
    }
}

/// Loopback, also as an IPv4-mapped address.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "exactly one Host header is needed");
    let host = hosts.next().ok_or_else(bad)?;
    if hosts.next().is_some() {
        return Err(bad());
    }
    let host = host.to_str().map_err(|_| bad())?;
    // A target in absolute form stands over the header, so both must agree.
    match uri.authority() {
        Some(authority) if authority.as_str() != host => Err(bad()),
        _ => Ok(host),
    }
}

fn without_port(authority: &str) -> &str {
    let end_of_address = authority.rfind(']').unwrap_or(0);
    match authority[end_of_address..].rfind(':') {
        Some(colon) => &authority[..end_of_address + colon],
        None => authority,
    }
}

/// Whether a browser sent this for a page that is not ours.
fn is_foreign(headers: &HeaderMap, authority: &str) -> bool {
    let foreign_origin = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let ours = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        !ours.is_some_and(|ours| ours.eq_ignore_ascii_case(authority))
    });
    // Browsers leave Origin out of plain cross-site GETs, but not this.
    let cross_site = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site" || site == "same-site");
    foreign_origin || cross_site
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// Whose connection a request came on.
#[derive(Clone, Copy, Debug)]
pub(super) struct AskedBy(pub(super) IpAddr);

/// Lets a request through to its handler, or says why not. Who showed the token is never denied.
pub(super) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let open = endpoints()
        .iter()
        .any(|endpoint| endpoint.open && endpoint.path == request.uri().path());
    match api.guard.check(request.uri(), request.headers(), open) {
        Ok(()) => {
            if let Some(AskedBy(peer)) = request.extensions().get()
                && !open
                && api.guard.token.is_some()
            {
                api.denials.note_admin_peer(*peer);
            }
            let mut response = next.run(request).await;
            let headers = response.headers_mut();
            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
            headers
                .entry(header::CACHE_CONTROL)
                .or_insert(HeaderValue::from_static("no-store"));
            response
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_from_addresses() {
        for (authority, host) in [
            ("localhost", "localhost"),
            ("localhost:9901", "localhost"),
            ("127.0.0.1:9901", "127.0.0.1"),
            ("[::1]:9901", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(without_port(authority), host);
        }
    }

    #[test]
    fn a_host_is_known_by_name_or_as_an_address_that_reaches_us() {
        let names = ["localhost".to_owned(), "calltap.internal".to_owned()];
        let local = Guard::new(([127, 0, 0, 1], 9901).into(), None, &names);
        let public = Guard::new(([0, 0, 0, 0], 9901).into(), None, &names);
        for (host, by_local, by_public) in [
            ("LOCALHOST", true, true),
            ("calltap.internal", true, true),
            ("127.0.0.1", true, true),
            ("[::1]", true, true),
            ("192.0.2.1", false, true),
            ("rebound.example", false, false),
            ("127.0.0.1.rebound.example", false, false),
            ("", false, false),
        ] {
            assert_eq!(local.knows(host), by_local, "{host}");
            assert_eq!(public.knows(host), by_public, "{host}");
        }
    }

    #[test]
    fn a_token_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        for (text, token) in [
            ("secret\n", Some("secret")),
            ("secret", Some("secret")),
            ("secret\r\n# made in May\n", Some("secret")),
            ("", None),
            ("\nsecret\n", None),
            ("two words\n", None),
            ("s\u{e9}cret\n", None),
        ] {
            fs::write(&path, text).expect("the file");
            match (Token::read(&path), token) {
                (Ok(read), Some(token)) => assert!(read.is(token.as_bytes())),
                (Err(TokenError::Unfit { .. }), None) => {}
                (read, _) => panic!("{text:?}: {read:?}"),
            }
        }
        let gone = Token::read(&dir.path().join("gone"));
        assert!(matches!(gone, Err(TokenError::Read { .. })));
        assert_eq!(format!("{:?}", Token(b"secret".to_vec())), "Token(..)");
    }
}
