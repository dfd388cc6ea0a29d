//! W3C Trace Context: a valid `traceparent` is continued with a span of our own, anything else is
//! dropped, its `tracestate` with it.

use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use super::{hex, single_header, with_hex};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A longer `tracestate` is dropped, bytes. The recommendation asks for at least 512.
const STATE_BYTES_MAX: usize = 2048;

const SAMPLED: u8 = 0x01;

/// The trace a call belongs to and our place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<String>,
}

impl Trace {
    /// Continues the trace a request names; `None` unless it names one properly.
    pub(crate) fn continued(
        head: &RequestHeader,
        random: &mut impl FnMut() -> u128,
    ) -> Option<Self> {
        let (trace_id, flags) = parse(single_header(head, &TRACEPARENT)?)?;
        Some(Self {
            trace_id,
            span_id: span_id(random),
            flags,
            state: state(head),
        })
    }

    /// Begins a trace. It counts as sampled: every call leaves a record that names it.
    pub(crate) fn begun(random: &mut impl FnMut() -> u128) -> Self {
        let trace_id = std::iter::repeat_with(&mut *random)
            .find(|&id| id != 0)
            .unwrap_or(1);
        Self {
            trace_id,
            span_id: span_id(random),
            flags: SAMPLED,
            state: None,
        }
    }

    /// 32 hex digits.
    pub(crate) fn trace_id(&self) -> String {
        hex(self.trace_id)
    }

    /// Our span, 16 hex digits: the parent of whatever the upstream does.
    pub(crate) fn span_id(&self) -> String {
        with_span_id(self.span_id, str::to_owned)
    }

    pub(super) fn stamp(&self, headers: &mut HeaderMap) -> Result<(), InvalidHeaderValue> {
        let flags = match self.flags & SAMPLED {
            0 => "00",
            _ => "01",
        };
        let parent = with_hex(self.trace_id, |trace_id| {
            with_span_id(self.span_id, |span_id| {
                ["00", trace_id, span_id, flags].join("-")
            })
        });
        headers.insert(&TRACEPARENT, HeaderValue::try_from(parent)?);
        match &self.state {
            Some(state) => headers.insert(&TRACESTATE, HeaderValue::from_str(state)?),
            None => headers.remove(&TRACESTATE),
        };
        Ok(())
    }
}

/// The digits of a span id, lent.
fn with_span_id<T>(span_id: u64, then: impl FnOnce(&str) -> T) -> T {
    with_hex(span_id.into(), |digits| then(&digits[16..]))
}

fn span_id(random: &mut impl FnMut() -> u128) -> u64 {
    // Zero is no span id.
    std::iter::repeat_with(|| random() as u64)
        .find(|&id| id != 0)
        .unwrap_or(1)
}

/// Trace id and flags of a `traceparent`.
fn parse(text: &str) -> Option<(u128, u8)> {
    let mut fields = text.split('-');
    let version = number(fields.next()?, 2)?;
    let trace_id = number(fields.next()?, 32)?;
    let parent_id = number(fields.next()?, 16)?;
    let flags = number(fields.next()?, 2)?;
    // Version 00 ends here; later ones may go on, ff is none.
    if version == 0xff || (version == 0 && fields.next().is_some()) {
        return None;
    }
    // What we send on is version 00, which knows one flag.
    (trace_id != 0 && parent_id != 0).then_some((trace_id, flags as u8 & SAMPLED))
}

fn number(digits: &str, length: usize) -> Option<u128> {
    let lower_case = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == length && digits.bytes().all(lower_case))
        .then(|| u128::from_str_radix(digits, 16).ok())
        .flatten()
}

fn state(head: &RequestHeader) -> Option<String> {
    let mut whole = String::new();
    for value in head.headers.get_all(&TRACESTATE) {
        let value = value.to_str().ok()?.trim();
        if value.is_empty() {
            continue;
        }
        if !whole.is_empty() {
            whole.push(',');
        }
        whole.push_str(value);
    }
    (1..=STATE_BYTES_MAX)
        .contains(&whole.len())
        .then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{counting, head, lines};
    use super::*;

    fn check(sent: &[&str], expected: Option<&[&str]>) {
        let head = head(sent);
        let trace = Trace::continued(&head, &mut counting());
        let stamped = trace.map(|trace| {
            let mut headers = head.headers.clone();
            trace.stamp(&mut headers).unwrap();
            lines(&headers)
        });
        assert_eq!(
            stamped.as_deref(),
            expected.map(|e| e.map_owned()).as_deref(),
            "{sent:?}"
        );
    }

    trait MapOwned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl MapOwned for [&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|&line| line.to_owned()).collect()
        }
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_proper_trace_goes_on_with_a_span_of_ours() {
        let ours = format!("traceparent: 00-{TRACE}-0000000000000001-01");
        let check_kept = |sent: &str| check(&[sent], Some(&[&ours]));
        check_kept(&format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01"));
        check_kept(&format!("traceparent: 00-{TRACE}-b7ad6b7169203331-ff"));
        check_kept(&format!(
            "traceparent: cc-{TRACE}-b7ad6b7169203331-01-what-the-future-brings"
        ));
    }

    #[test]
    fn its_state_goes_along() {
        let parent = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01");
        let ours = format!("traceparent: 00-{TRACE}-0000000000000001-01");
        let long = format!("tracestate: a={}", "x".repeat(STATE_BYTES_MAX));
        check(
            &[&parent, "tracestate: a=1", "tracestate: b=2"],
            Some(&[&ours, "tracestate: a=1,b=2"]),
        );
        check(&[&parent, &long], Some(&[&ours]));
    }

    #[test]
    fn anything_else_is_no_trace() {
        let bad = [
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-b7ad6b7169203331"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-+1"),
            String::new(),
        ];
        for text in bad {
            check(&[&format!("traceparent: {text}"), "tracestate: a=1"], None);
        }
        let good = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01");
        check(&[&good, &good], None);
        check(&[], None);
    }
}
