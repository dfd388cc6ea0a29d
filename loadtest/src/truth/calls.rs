//! Finds where each call's request and response begin and end in a connection's two streams.
//!
//! HTTP/1.1 by its own framing: heads, `Content-Length`, chunks, upgrades, the connection's end. What
//! a capture does not show (cut off by its snap length) is only stepped over where the framing says
//! how long it is.

use std::ops::Range;

use anyhow::{Context as _, bail};

/// One direction of a connection, as HTTP reads it.
pub(crate) trait Text {
    /// One past the last byte that can be read.
    fn end(&self) -> u64;
    /// Nothing follows.
    fn is_over(&self) -> bool;
    /// The bytes from `from` on, as far as they are known, at most `max`.
    fn read(&self, from: u64, max: usize) -> Vec<u8>;
}

/// One call on one connection. Offsets are of the two texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// The `call` parameter of the query.
    pub(crate) id: Option<String>,
    pub(crate) method: String,
    pub(crate) request: Range<u64>,
    /// One past the blank line of the request.
    pub(crate) head_end: u64,
    /// The request came to its end.
    pub(crate) request_complete: bool,
    pub(crate) request_chunked: bool,
    pub(crate) response: Option<Answer>,
    /// The connection was this call's from its response on.
    pub(crate) upgraded: bool,
}

/// A response, interim ones before it included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) range: Range<u64>,
    /// Where the final one begins; absent where only interim ones came.
    pub(crate) final_start: Option<u64>,
    pub(crate) status: u16,
    pub(crate) interims: u32,
    pub(crate) complete: bool,
}

/// What a connection carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) exchanges: Vec<Exchange>,
    /// Bytes after the last call that are no whole request head.
    pub(crate) rest: u64,
}

/// A longer head is none.
const HEAD_MAX: usize = 256 * 1024;
/// Most heads fit.
const HEAD_USUAL: usize = 1024;
const FIELDS_MAX: usize = 128;

/// Finds the calls.
pub(crate) fn find(requests: &dyn Text, responses: &dyn Text) -> anyhow::Result<Carried> {
    let mut carried = Carried::default();
    let (mut asked, mut answered) = (0, 0);
    loop {
        let Some(head) = head(requests, asked).context("in the requests")? else {
            carried.rest = requests.end().saturating_sub(asked);
            return Ok(carried);
        };
        let request = Request::parse(&head)?;
        let head_end = asked + head.len() as u64;
        let body = body(requests, head_end, request.body).context("in a request's body")?;
        let mut exchange = Exchange {
            id: request.id,
            method: request.method,
            request: asked..body.end,
            head_end,
            request_complete: body.complete,
            request_chunked: request.body == BodyLength::Chunked,
            response: None,
            upgraded: false,
        };
        exchange.response = answer(responses, answered, &exchange.method)?;
        if let Some(answer) = &mut exchange.response {
            let is_switch =
                answer.status == 101 || (exchange.method == "CONNECT" && answer.status == 200);
            if is_switch && answer.final_start.is_some() {
                exchange.upgraded = true;
                exchange.request.end = requests.end();
                answer.range.end = responses.end();
                answer.complete = responses.is_over() || requests.is_over();
            }
            answered = answer.range.end;
        }
        asked = exchange.request.end;
        carried.exchanges.push(exchange);
    }
}

/// The head at `from`, blank line included; `None` where the stream ends before its end.
fn head(text: &dyn Text, from: u64) -> anyhow::Result<Option<Vec<u8>>> {
    if from >= text.end() {
        return Ok(None);
    }
    let mut max = HEAD_USUAL;
    loop {
        let mut bytes = text.read(from, max);
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            bytes.truncate(at + 4);
            return Ok(Some(bytes));
        }
        if from + bytes.len() as u64 >= text.end() {
            return Ok(None);
        }
        if bytes.len() < max {
            bail!("the capture was cut within the head at offset {from}");
        }
        if max >= HEAD_MAX {
            bail!("no head within {max} bytes at offset {from}");
        }
        max *= 4;
    }
}

/// The response at `from`; `None` where nothing came.
fn answer(text: &dyn Text, from: u64, method: &str) -> anyhow::Result<Option<Answer>> {
    if from >= text.end() {
        return Ok(None);
    }
    let mut answer = Answer {
        range: from..text.end(),
        final_start: None,
        status: 0,
        interims: 0,
        complete: false,
    };
    let mut at = from;
    while let Some(head) = head(text, at).context("in the responses")? {
        let (status, length) = response(&head, method)?;
        let head_end = at + head.len() as u64;
        answer.status = status;
        if (100..200).contains(&status) && status != 101 {
            answer.interims += 1;
            at = head_end;
            answer.range.end = at;
            continue;
        }
        let body = body(text, head_end, length).context("in a response's body")?;
        answer.final_start = Some(at);
        answer.range.end = body.end;
        answer.complete = body.complete;
        return Ok(Some(answer));
    }
    answer.range.end = text.end();
    Ok(Some(answer))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyLength {
    Bytes(u64),
    Chunked,
    UntilEnd,
}

struct Body {
    end: u64,
    complete: bool,
}

fn body(text: &dyn Text, from: u64, length: BodyLength) -> anyhow::Result<Body> {
    match length {
        BodyLength::Bytes(bytes) => {
            let end = from.saturating_add(bytes);
            Ok(Body {
                end: end.min(text.end().max(from)),
                complete: end <= text.end(),
            })
        }
        BodyLength::UntilEnd => Ok(Body {
            end: text.end(),
            complete: text.is_over(),
        }),
        BodyLength::Chunked => chunks(text, from),
    }
}

fn chunks(text: &dyn Text, from: u64) -> anyhow::Result<Body> {
    let torn = Body {
        end: text.end(),
        complete: false,
    };
    let mut at = from;
    loop {
        let Some(line) = line(text, at)? else {
            return Ok(torn);
        };
        at += line.len() as u64 + 2;
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).context("a chunk's size")?;
        let size = u64::from_str_radix(size.trim(), 16)
            .with_context(|| format!("{size:?} is no chunk's size, at offset {at}"))?;
        if size == 0 {
            break;
        }
        at += size + 2;
        if at > text.end() {
            return Ok(torn);
        }
    }
    loop {
        let Some(trailer) = line(text, at)? else {
            return Ok(torn);
        };
        at += trailer.len() as u64 + 2;
        if trailer.is_empty() {
            return Ok(Body {
                end: at,
                complete: true,
            });
        }
    }
}

fn line(text: &dyn Text, from: u64) -> anyhow::Result<Option<Vec<u8>>> {
    let mut bytes = text.read(from, HEAD_USUAL);
    if let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        bytes.truncate(at);
        return Ok(Some(bytes));
    }
    if from + bytes.len() as u64 >= text.end() {
        return Ok(None);
    }
    bail!("the capture was cut within a chunk's head at offset {from}");
}

struct Request {
    id: Option<String>,
    method: String,
    body: BodyLength,
}

impl Request {
    fn parse(head: &[u8]) -> anyhow::Result<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        parsed
            .parse(head)
            .with_context(|| format!("a request: {}", String::from_utf8_lossy(head)))?;
        Ok(Self {
            id: call_id(parsed.path.unwrap_or_default()),
            method: parsed.method.unwrap_or_default().to_owned(),
            body: framed(parsed.headers)?.unwrap_or(BodyLength::Bytes(0)),
        })
    }
}

/// The `call` parameter of a target's query.
pub(crate) fn call_id(target: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("call="))
        .map(str::to_owned)
}

fn response(head: &[u8], method: &str) -> anyhow::Result<(u16, BodyLength)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    parsed
        .parse(head)
        .with_context(|| format!("a response: {}", String::from_utf8_lossy(head)))?;
    let status = parsed.code.context("a response without a status")?;
    let is_bare = method == "HEAD" || status < 200 || matches!(status, 204 | 304);
    let length = match is_bare {
        true => BodyLength::Bytes(0),
        false => framed(parsed.headers)?.unwrap_or(BodyLength::UntilEnd),
    };
    Ok((status, length))
}

fn framed(fields: &[httparse::Header<'_>]) -> anyhow::Result<Option<BodyLength>> {
    let mut found = None;
    for field in fields {
        let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
        if field.name.eq_ignore_ascii_case("transfer-encoding")
            && value.to_ascii_lowercase().ends_with("chunked")
        {
            return Ok(Some(BodyLength::Chunked));
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let bytes = value.parse().with_context(|| value.to_owned())?;
            found = Some(BodyLength::Bytes(bytes));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that is known from its begin to `known`, and goes on to `end` unseen.
    struct Known(&'static [u8], u64, bool);

    impl Text for Known {
        fn end(&self) -> u64 {
            self.1.max(self.0.len() as u64)
        }

        fn is_over(&self) -> bool {
            self.2
        }

        fn read(&self, from: u64, max: usize) -> Vec<u8> {
            let rest = self.0.get(from as usize..).unwrap_or_default();
            rest[..rest.len().min(max)].to_vec()
        }
    }

    fn whole(text: &'static str) -> Known {
        Known(text.as_bytes(), 0, false)
    }

    #[test]
    fn pipelined_requests_are_told_apart() {
        let requests = whole(
            "POST /a?call=1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /?x=y&call=2 HTTP/1.1\r\n\r\nGE",
        );
        let responses = whole(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\
             HTTP/1.1 204 No Content\r\n\r\n",
        );
        let carried = find(&requests, &responses).unwrap();
        assert_eq!(carried.rest, 2);
        let [first, second] = &carried.exchanges[..] else {
            panic!("{carried:#?}");
        };
        assert_eq!((first.id.as_deref(), &first.request), (Some("1"), &(0..49)));
        let answer = first.response.as_ref().unwrap();
        assert_eq!((answer.status, answer.interims), (200, 1));
        assert_eq!(
            (answer.range.clone(), answer.final_start),
            (0..65, Some(25))
        );
        assert_eq!(second.id.as_deref(), Some("2"));
        assert_eq!(second.response.as_ref().unwrap().range, 65..92);
    }

    #[test]
    fn chunks_and_trailers_belong_to_the_message() {
        let requests = whole("GET /?call=1 HTTP/1.1\r\n\r\n");
        let responses = whole(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: 1\r\n\r\n",
        );
        let carried = find(&requests, &responses).unwrap();
        let answer = carried.exchanges[0].response.as_ref().unwrap();
        assert!(answer.complete);
        assert_eq!(answer.range.end, responses.end());
    }

    #[test]
    fn a_body_of_known_length_needs_not_be_seen() {
        let requests = whole("GET /?call=1 HTTP/1.1\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n";
        let found = |responses: &Known| {
            let carried = find(&requests, responses).unwrap();
            carried.exchanges[0].response.clone().unwrap()
        };
        let answer = found(&Known(head, 6000, false));
        assert_eq!((answer.range, answer.complete), (0..5041, true));
        let answer = found(&Known(head, 4000, true));
        assert_eq!((answer.range, answer.complete), (0..4000, false));
    }

    #[test]
    fn an_upgraded_connection_is_its_calls_to_the_end() {
        let requests = whole("GET /?call=1 HTTP/1.1\r\nupgrade: x\r\n\r\nframes");
        let responses = whole("HTTP/1.1 101 Switching\r\n\r\nmore frames");
        let carried = find(&requests, &responses).unwrap();
        assert_eq!(carried.exchanges.len(), 1);
        let call = &carried.exchanges[0];
        assert_eq!(call.request.end, requests.end());
        assert_eq!(call.response.as_ref().unwrap().range.end, responses.end());
    }
}
