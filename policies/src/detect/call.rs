//! What the detectors need to know of a finished call, worked out once.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;

use ahash::RandomState;
use calltap_correlate::record::{CallRecord, Finding};

use super::Detector;
use crate::alert::{Alerts, Signal, Subject, client_of};

/// Bytes of what a client sent that a sentence about it shows.
const SHOWN_MAX: usize = 160;

/// A finished call.
pub(crate) struct Call<'c> {
    pub(crate) record: &'c CallRecord,
    pub(crate) now_s: u32,
    /// The client, as clients are told apart.
    pub(crate) client: IpAddr,
    pub(crate) client_key: u64,
    /// Method and path with everything that looks like an id taken out.
    pub(crate) template: u64,
    /// The path as it is.
    pub(crate) path: u64,
    /// The path and the query.
    pub(crate) target: u64,
    /// The object: what looked like ids in it, and its template.
    pub(crate) id: Option<u64>,
    /// The status the client was sent; 0: none.
    pub(crate) status: u16,
    /// A policy refused it: what it says of the client is known to whoever wrote the policy.
    pub(crate) refused_by_policy: bool,
}

impl<'c> Call<'c> {
    /// `None`: nobody knows whose call it was.
    pub(crate) fn new(record: &'c CallRecord, hasher: &RandomState, now_ns: u64) -> Option<Self> {
        let client = client_of(record.client_address?);
        let path = record.url_path.as_deref().unwrap_or("");
        let mut template = hasher.build_hasher();
        template.write(
            record
                .http_request_method
                .as_deref()
                .unwrap_or("")
                .as_bytes(),
        );
        let mut ids = None;
        for segment in path.split('/') {
            template.write_u8(b'/');
            if is_id(segment) {
                let ids = ids.get_or_insert_with(|| hasher.build_hasher());
                ids.write_u8(b'/');
                ids.write(segment.as_bytes());
            } else {
                template.write(segment.as_bytes());
            }
        }
        let template = template.finish();
        Some(Self {
            record,
            now_s: (now_ns / 1_000_000_000) as u32,
            client,
            client_key: hasher.hash_one(client),
            template,
            path: hasher.hash_one(path),
            target: hasher.hash_one((path, record.url_query.as_deref())),
            id: ids.map(|mut ids| {
                ids.write_u64(template);
                ids.finish()
            }),
            status: record.http_response_status_code.unwrap_or(0),
            refused_by_policy: record
                .policy_decision
                .as_deref()
                .is_some_and(|d| d != "allow"),
        })
    }

    /// The client to deny, should policy say so: it is the TCP peer itself.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        let peer = self.record.network_peer_address.map(client_of);
        peer.filter(|peer| *peer == self.client)
    }

    pub(crate) fn succeeded(&self) -> bool {
        (200..400).contains(&self.status)
    }

    /// Refused for want of credentials, or for wrong ones.
    pub(crate) fn is_unauthorised(&self) -> bool {
        // 403 is said of an object that is another's, too; that is for the object detectors.
        matches!(self.status, 401 | 407) || self.status == 403 && self.id.is_none()
    }

    /// There is nothing there, or nothing for this client.
    pub(crate) fn is_miss(&self) -> bool {
        matches!(self.status, 403 | 404 | 405 | 410)
    }

    /// The path with `{id}` for what looks like ids, for people.
    pub(crate) fn template_text(&self) -> String {
        let path = self.record.url_path.as_deref().unwrap_or("");
        let segments = path
            .split('/')
            .map(|segment| if is_id(segment) { "{id}" } else { segment });
        shown(&segments.collect::<Vec<_>>().join("/")).into_owned()
    }
}

/// What a client sent, as far as a sentence has room for it.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN_MAX {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!(
        "{}...",
        &text[..text.floor_char_boundary(SHOWN_MAX)]
    ))
}

/// Whether a path segment looks like the name of one object among many: it has a digit and nothing but
/// digits, hexadecimal, hyphens and underscores, or it is long and mixed.
fn is_id(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return false;
    }
    let is_version = bytes[0] == b'v' && digits == bytes.len() - 1 && bytes.len() <= 3;
    let hexadecimal = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_');
    !is_version
        && (bytes.iter().all(hexadecimal) || digits >= 4 || bytes.len() >= 20 && digits >= 2)
}

/// Something that a detector found, before it is an alert's.
pub(crate) struct Found {
    pub(crate) subject: Subject,
    pub(crate) observed: f64,
    pub(crate) usual: f64,
    pub(crate) summary: String,
    /// Since when, s.
    pub(crate) since_s: u32,
    pub(crate) source: Option<IpAddr>,
}

/// Where detectors bring what they saw.
pub(crate) struct Desk<'d> {
    pub(crate) alerts: &'d mut Alerts,
    pub(crate) found: Vec<(Detector, f64, Found)>,
}

impl<'d> Desk<'d> {
    pub(crate) fn new(alerts: &'d mut Alerts) -> Self {
        Self {
            alerts,
            found: Vec::new(),
        }
    }

    /// One look at what could have been unusual, and what to say if it was.
    #[inline]
    pub(crate) fn look(&mut self, detector: Detector, tail: f64, found: impl FnOnce() -> Found) {
        if self.alerts.weigh(detector, tail) {
            self.found.push((detector, tail, found()));
        }
    }

    /// Raises what was found; `call` shows it.
    pub(crate) fn close(self, call: Option<&CallRecord>, now_ns: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (detector, tail, found) in self.found {
            if call.is_some() {
                findings.push(Finding {
                    detector: detector.info().name.into(),
                    score: Some(score(tail)),
                    reason: found.summary.clone().into(),
                });
            }
            let signal = Signal {
                detector,
                subject: found.subject,
                tail,
                observed: found.observed,
                usual: found.usual,
                summary: found.summary,
                since_ns: u64::from(found.since_s) * 1_000_000_000,
                source: found.source,
                call,
            };
            self.alerts.raise(signal, now_ns);
        }
        findings
    }
}

/// From 0 to 100, the decimal logarithm of a tail; 100 is where the lowest threshold is.
fn score(tail: f64) -> u64 {
    let scale = 100.0 / crate::alert::budget::TAIL_MIN.log10();
    (tail.max(1e-300).log10() * scale).clamp(0.0, 100.0) as u64
}

#[cfg(test)]
mod tests {
    use super::is_id;

    #[test]
    fn ids_are_told_from_words() {
        for id in [
            "1",
            "4711",
            "018f3c2e-7d5a-7000-8000-1234567890ab",
            "deadbeef01",
            "ORD-20261",
            "cus_Nf5gh82mBx91Q2zLop",
        ] {
            assert!(is_id(id), "{id}");
        }
        for word in [
            "", "orders", "v1", "v12", "api", "oauth2", "feed", "python3",
        ] {
            assert!(!is_id(word), "{word}");
        }
    }
}
