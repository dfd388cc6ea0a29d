//! `POST /api/v1/logging`: somebody else's entry becomes a record in the same log.
//!
//! An entry is attached to a connection or a call only if what it says fits exactly one. A wrong
//! attachment would look right for ever after, so anything less is left alone, with the number of
//! those that fit.

use std::fmt;
use std::net::IpAddr;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use calltap_correlate::exchange::ExternalEntry;
use calltap_correlate::record::{CallRecord, Kind, free_key};
use calltap_correlate::socket::SocketCookie;
use calltap_policies::review::{REDACTED, Secrets};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::json;
use uuid::Uuid;

use crate::identity;

use super::recent::Recent;
use super::{Api, LiveConnection, Refusal, read_body};

/// A body may be this long, bytes.
pub(crate) const BODY_MAX: usize = 128 << 10;
/// The message, bytes.
pub(crate) const MESSAGE_MAX: usize = 8_192;
/// Keys in the details.
pub(crate) const KEYS_MAX: usize = 64;
/// A key, bytes.
pub(crate) const KEY_MAX: usize = 128;
/// A value, as text, bytes.
pub(crate) const VALUE_MAX: usize = 1_024;

/// Takes an entry.
pub(super) async fn post(State(api): State<Api>, request: Request) -> Result<Response, Refusal> {
    demand_json(&request)?;
    let body = read_body(request, BODY_MAX).await?;
    let posted = Posted::parse(&body).map_err(Refusal::bad_request)?;
    let entry = posted.check(&api.secrets).map_err(Refusal::bad_request)?;
    let found = Sought::of(&entry.details).look(&api);
    let uid = identity::uuid_v7();
    let (attached_to, matches) = match found {
        Found::One(name) => (Some(name), None),
        Found::Many(n) => (None, Some(n)),
    };
    let answer = match (&attached_to, matches) {
        (Some(name), _) => json!({"uid": uid, "attached_to": name}),
        (None, n) => json!({"uid": uid, "matches": n}),
    };
    let taken = api.facts.log(ExternalEntry {
        uid,
        accepted_ns: api.facts.now_ns(),
        message: entry.message,
        details: hidden(entry.details, &entry.secret),
        attached_to,
        matches,
    });
    if !taken {
        let busy = Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many records are waiting; try again later",
        );
        return Err(busy.with(header::RETRY_AFTER, HeaderValue::from_static("1")));
    }
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// A page of another origin cannot send this unasked.
pub(super) fn demand_json(request: &Request) -> Result<(), Refusal> {
    let declared = request.headers().get(header::CONTENT_TYPE);
    let essence = declared
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be declared as Content-Type: application/json",
        )),
    }
}

/// The body as posted.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted {
    message: String,
    #[serde(default)]
    details: Pairs,
}

/// A body that keeps all the rules.
#[derive(Debug)]
struct Entry {
    message: String,
    details: Vec<(String, String)>,
    /// The positions of those that are secret.
    secret: Vec<usize>,
}

impl Posted {
    fn parse(body: &[u8]) -> serde_json::Result<Self> {
        // Serde would take an array of the two values as well.
        match body.trim_ascii_start() {
            [b'[', ..] => Err(serde_json::Error::custom("the body is not an object")),
            _ => serde_json::from_slice(body),
        }
    }

    fn check(self, secrets: &Secrets) -> Result<Entry, String> {
        let Self { message, details } = self;
        if message.trim().is_empty() {
            return Err("message is empty".to_owned());
        }
        if message.len() > MESSAGE_MAX {
            return Err(format!("message is longer than {MESSAGE_MAX} bytes"));
        }
        if details.0.len() > KEYS_MAX {
            return Err(format!("details has more than {KEYS_MAX} keys"));
        }
        let mut checked: Vec<(String, String)> = Vec::with_capacity(details.0.len());
        let mut secret = Vec::new();
        for (key, value) in details.0 {
            if key.is_empty() || key.len() > KEY_MAX || key.chars().any(char::is_control) {
                return Err(format!(
                    "details has a key that is empty, longer than {KEY_MAX} bytes or holds control characters"
                ));
            }
            if value.len() > VALUE_MAX {
                return Err(format!("details.{key} is longer than {VALUE_MAX} bytes"));
            }
            let free = free_key(&key);
            if checked.iter().any(|(before, _)| *before == free) {
                return Err(format!(
                    "details has the key {free:?} twice; case and dots do not tell keys apart"
                ));
            }
            // Here a cookie that is a number is a socket's.
            let of_socket = free == "cookie" && value.trim().parse::<u64>().is_ok();
            if secrets.hide(&key) && !of_socket {
                secret.push(checked.len());
            }
            checked.push((free, value));
        }
        Ok(Entry {
            message,
            details: checked,
            secret,
        })
    }
}

/// The details as they may be recorded: without the values at these positions.
fn hidden(mut details: Vec<(String, String)>, secret: &[usize]) -> Vec<(String, String)> {
    for &index in secret {
        REDACTED.clone_into(&mut details[index].1);
    }
    details
}

/// An object of strings, numbers and booleans, in the order given, doubles included.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = match map.next_value()? {
                        serde_json::Value::String(text) => text,
                        serde_json::Value::Number(number) => number.to_string(),
                        serde_json::Value::Bool(flag) => flag.to_string(),
                        _ => {
                            return Err(A::Error::custom(format_args!(
                                "details.{key} is neither a string nor a number nor a boolean"
                            )));
                        }
                    };
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What an entry says about whom it belongs to.
#[derive(Debug, Default, PartialEq)]
struct Sought {
    uid: Option<String>,
    request_id: Option<String>,
    cookie: Option<String>,
    src_ip: Option<String>,
    src_port: Option<String>,
    dst_ip: Option<String>,
    dst_port: Option<String>,
}

/// The uid of the call that a record is about, open or not.
fn call_of(record: &CallRecord) -> Uuid {
    let call = record.attached_to.as_deref();
    match call.and_then(|call| Uuid::parse_str(call).ok()) {
        Some(call) if record.kind == Kind::Progress => call,
        _ => record.uid,
    }
}

/// What fits.
#[derive(Debug, PartialEq)]
enum Found {
    /// Exactly one: a call's uid or a connection's cookie.
    One(String),
    /// None or several; or one, but by so little that it may be chance.
    Many(u32),
}

impl Sought {
    fn of(details: &[(String, String)]) -> Self {
        let mut sought = Self::default();
        for (key, value) in details {
            let place = match key.as_str() {
                "uid" | "log_record_uid" => &mut sought.uid,
                "request_id" | "x-request-id" | "http_request_id" => &mut sought.request_id,
                "cookie" | "client_socket_cookie" => &mut sought.cookie,
                "src_ip" => &mut sought.src_ip,
                "src_port" => &mut sought.src_port,
                "dst_ip" => &mut sought.dst_ip,
                "dst_port" => &mut sought.dst_port,
                // As the shortest form of an entry has it.
                "port" if sought.dst_port.is_none() => &mut sought.dst_port,
                _ => continue,
            };
            *place = Some(value.trim().to_owned());
        }
        sought
    }

    /// Looks among the live connections and the recent calls. All that is said must fit, so that
    /// an entry that contradicts itself belongs to nobody.
    fn look(&self, api: &Api) -> Found {
        match self.names_a_call() {
            true => self.look_for_call(&api.recent),
            false => self.look_for_connection(api),
        }
    }

    fn names_a_call(&self) -> bool {
        self.uid.is_some() || self.request_id.is_some()
    }

    fn look_for_call(&self, recent: &Recent) -> Found {
        let mut uids = Vec::new();
        for (_, record) in recent.newest_first(u64::MAX) {
            let uid = call_of(&record);
            if self.fits_call(&record, uid) && !uids.contains(&uid) {
                uids.push(uid);
            }
        }
        match uids.as_slice() {
            [uid] => Found::One(uid.to_string()),
            several => Found::Many(count(several)),
        }
    }

    fn look_for_connection(&self, api: &Api) -> Found {
        // Without any of these, everything would fit.
        let said = [
            &self.cookie,
            &self.src_ip,
            &self.src_port,
            &self.dst_ip,
            &self.dst_port,
        ];
        if said.iter().all(|said| said.is_none()) {
            return Found::Many(0);
        }
        let mut cookies = Vec::new();
        let mut note = |cookie: Option<SocketCookie>| {
            if let Some(cookie) = cookie
                && !cookies.contains(&cookie)
            {
                cookies.push(cookie);
            }
        };
        api.facts.live_connections(&mut |live: LiveConnection| {
            let LiveConnection {
                cookie,
                peer,
                local,
            } = live;
            if self.fits_cookie(Some(cookie))
                && self.fits_client(Some(peer.ip()), Some(peer.port()))
                && self.fits_gateway(Some(local.ip()), Some(local.port()))
            {
                note(Some(cookie));
            }
        });
        for (_, record) in api.recent.newest_first(u64::MAX) {
            if self.fits_cookie(record.client.socket_cookie) && self.fits_addresses(&record) {
                note(record.client.socket_cookie);
            } else if self.cookie.is_some()
                && self.fits_cookie(record.upstream.socket_cookie)
                && self.says_no_address()
            {
                note(record.upstream.socket_cookie);
            }
        }
        let whole = [&self.src_ip, &self.src_port, &self.dst_ip, &self.dst_port];
        let names_one = self.cookie.is_some() || whole.iter().all(|said| said.is_some());
        match cookies.as_slice() {
            [cookie] if names_one => Found::One(cookie.get().to_string()),
            several => Found::Many(count(several)),
        }
    }

    fn fits_call(&self, record: &CallRecord, uid: Uuid) -> bool {
        let uid = uid.to_string();
        let cookies = [record.client.socket_cookie, record.upstream.socket_cookie];
        self.uid
            .as_ref()
            .is_none_or(|said| said.eq_ignore_ascii_case(&uid))
            && (self.request_id.is_none() || self.request_id == record.http_request_id)
            && cookies.into_iter().any(|cookie| self.fits_cookie(cookie))
            && self.fits_addresses(record)
    }

    fn fits_addresses(&self, record: &CallRecord) -> bool {
        self.fits_client(record.network_peer_address, record.network_peer_port)
            && self.fits_gateway(record.network_local_address, record.network_local_port)
    }

    fn says_no_address(&self) -> bool {
        let said = [&self.src_ip, &self.src_port, &self.dst_ip, &self.dst_port];
        said.iter().all(|said| said.is_none())
    }

    fn fits_cookie(&self, cookie: Option<SocketCookie>) -> bool {
        fits_number(self.cookie.as_deref(), cookie.map(SocketCookie::get))
    }

    fn fits_client(&self, ip: Option<IpAddr>, port: Option<u16>) -> bool {
        fits_ip(self.src_ip.as_deref(), ip) && fits_number(self.src_port.as_deref(), port)
    }

    fn fits_gateway(&self, ip: Option<IpAddr>, port: Option<u16>) -> bool {
        fits_ip(self.dst_ip.as_deref(), ip) && fits_number(self.dst_port.as_deref(), port)
    }
}

fn fits_ip(said: Option<&str>, known: Option<IpAddr>) -> bool {
    let Some(said) = said else { return true };
    let said: Option<IpAddr> = said.parse().ok();
    said.is_some() && said.map(|ip| ip.to_canonical()) == known.map(|ip| ip.to_canonical())
}

fn fits_number<N: std::str::FromStr + PartialEq>(said: Option<&str>, known: Option<N>) -> bool {
    let Some(said) = said else { return true };
    let said: Option<N> = said.parse().ok();
    said.is_some() && said == known
}

fn count<T>(several: &[T]) -> u32 {
    u32::try_from(several.len()).unwrap_or(u32::MAX)
}
