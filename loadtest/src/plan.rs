//! Draws the mix of calls: what is sent, how, and what has to come of it.
//!
//! Pure and repeatable: the same seed gives the same mix. A call knows what the backend of
//! [`backend`](crate::backend) will answer, so that a record can be held against the intention and
//! against what the client saw.

use std::collections::VecDeque;

/// The routes a gateway under test is configured with: name, path template, upstream group.
pub const ROUTES: &[(&str, &str, &str)] = &[
    ("bytes", "/bytes/{n}", "backend"),
    ("status", "/status/{code}", "backend"),
    ("echo", "/echo", "backend"),
    ("early", "/early/{code}", "backend"),
    ("truncate", "/truncate/{n}", "backend"),
    ("held", "/held/{n}", "backend"),
    ("release", "/release/{n}", "backend"),
    ("refused", "/refused/{n}", "dead"),
    ("retried", "/retried/{*rest}", "half"),
];

/// What one client connection does.
#[derive(Clone, Debug)]
pub enum Session {
    /// Calls one after the other.
    KeepAlive(Vec<Call>),
    /// All requests in one write, then all responses.
    Pipelined(Vec<Call>),
    /// HTTP/2 by prior knowledge, all streams at once.
    H2c(Vec<Call>),
    /// A response whose second half comes only after a second call, which is made when the first
    /// half has arrived: proof that responses are streamed.
    Lockstep(Box<[Call; 2]>),
    /// Never becomes a call.
    Failed(Failure),
}

impl Session {
    /// How many calls it makes.
    pub fn calls(&self) -> usize {
        match self {
            Session::KeepAlive(calls) | Session::Pipelined(calls) | Session::H2c(calls) => {
                calls.len()
            }
            Session::Lockstep(both) => both.len(),
            Session::Failed(_) => 0,
        }
    }
}

/// A connection that never becomes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Connects and leaves.
    Silent,
    /// Sends something that is no request line.
    BadRequestLine,
    /// Leaves in the middle of a head.
    HalfHead,
}

/// One call as it is meant.
#[derive(Clone, Debug)]
pub struct Call {
    /// X-Request-ID, and the `call` parameter of the query.
    pub id: String,
    /// What it is an example of; the user agent says so too.
    pub kind: &'static str,
    /// As sent.
    pub method: &'static str,
    /// Without the query.
    pub path: String,
    /// Without the question mark.
    pub query: String,
    /// The template it should match; `None` where no route matches.
    pub route: Option<&'static str>,
    /// Sent as HTTP/1.0.
    pub http10: bool,
    /// Sent with `Connection: close`.
    pub close: bool,
    /// The request's body.
    pub body: RequestBody,
    /// Sent with `Expect: 100-continue`, the body after the 100.
    pub expect_continue: bool,
    /// How the request goes out.
    pub sending: Sending,
    /// How the response is taken.
    pub reading: Reading,
    /// Statuses that are right.
    pub statuses: &'static [u16],
    /// The response's body, where it is the pattern's and so known.
    pub response_bytes: Option<u64>,
    /// How it is meant to end.
    pub ending: Ending,
}

/// The request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// None, and no framing header.
    None,
    /// `Content-Length`.
    Bytes(u64),
    /// Chunked, perhaps with a trailer field.
    Chunked(u64, bool),
}

impl RequestBody {
    /// Payload bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(count) | Self::Chunked(count, _) => count,
        }
    }
}

/// How a request goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Head and body in as few writes as possible.
    Whole,
    /// The head in two segments, a moment apart.
    SplitHead,
    /// Only so many bytes of the body, then the response is awaited.
    Withhold(u64),
    /// Only so many bytes of the body, then the connection is reset.
    AbortAfter(u64),
}

/// How a response is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As it comes.
    Whole,
    /// In sips, through a small receive buffer.
    Slowly,
    /// Only so many bytes of the body, then the connection is reset.
    AbortAfter(u64),
}

/// How a call is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a whole response to a whole request.
    Well,
    /// With a whole response, before the request was whole.
    Early,
    /// The client left.
    ClientAbort,
    /// The upstream broke off.
    UpstreamAbort,
    /// No upstream could be reached.
    Refused,
}

/// What the gateway under test can be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// It has the routes of [`ROUTES`] and nothing else.
    pub routes: bool,
    /// It has a listener for HTTP/2 without TLS.
    pub h2c: bool,
}

/// Draws sessions with `calls` calls in all, and about one failed connection per thirty calls.
pub fn draw(calls: usize, seed: u64, run: &str, reach: Reach) -> VecDeque<Session> {
    let mut draw = Draw {
        random: Random::new(seed),
        serial: 0,
        run,
    };
    let mut sessions = VecDeque::new();
    let mut left = calls;
    while left > 0 {
        let session = draw.session(left, reach);
        left -= session.calls();
        sessions.push_back(session);
    }
    sessions
}

struct Draw<'a> {
    random: Random,
    serial: u64,
    run: &'a str,
}

impl Draw<'_> {
    fn session(&mut self, left: usize, reach: Reach) -> Session {
        match self.random.below(100) {
            0..10 => Session::Failed(
                [Failure::Silent, Failure::BadRequestLine, Failure::HalfHead][self.random.index(3)],
            ),
            10..20 => {
                let count = (2 + self.random.index(4)).min(left);
                Session::Pipelined((0..count).map(|_| self.small_get("pipelined")).collect())
            }
            20..30 if reach.h2c => {
                let count = (1 + self.random.index(8)).min(left);
                Session::H2c((0..count).map(|_| self.h2_call()).collect())
            }
            30..34 if left >= 2 => self.lockstep(),
            _ => {
                let count = (1 + self.random.index(8)).min(left);
                let mut calls = Vec::new();
                for _ in 0..count {
                    let call = self.call(reach);
                    let last = call.ends_connection();
                    calls.push(call);
                    if last {
                        break;
                    }
                }
                Session::KeepAlive(calls)
            }
        }
    }

    fn call(&mut self, reach: Reach) -> Call {
        let size = self.size();
        match self.random.below(if reach.routes { 26 } else { 20 }) {
            0..3 => self.get("get", size),
            3 => Call {
                sending: Sending::SplitHead,
                ..self.get("split-head", size)
            },
            4 => self.get_chunked("chunked", size, "chunked=1"),
            5 => self.get_chunked("trailers", size, "trailers=1"),
            6 => Call {
                method: "HEAD",
                response_bytes: Some(0),
                ..self.get("head", size)
            },
            7..9 => self.upload("upload", RequestBody::Bytes(size)),
            9 => self.upload("upload-chunked", RequestBody::Chunked(size, false)),
            10 => self.upload("upload-trailers", RequestBody::Chunked(size, true)),
            11 => Call {
                expect_continue: true,
                ..self.upload("expect-continue", RequestBody::Bytes(size.max(1)))
            },
            12 => self.status("bodiless", &[[204], [304]]),
            13 => self.status("client-error", &[[400], [401], [403], [404], [409], [429]]),
            14 => self.status("server-error", &[[500], [502], [503], [504]]),
            15 => self.other_method(),
            16 => Call {
                close: true,
                ..self.get("close", size)
            },
            17 => Call {
                http10: true,
                close: true,
                ..self.get("http10", size)
            },
            18 => self.slow_reader(),
            19 => match self.random.below(3) {
                0 => self.abort_request(),
                1 => self.abort_response(),
                _ => self.early(),
            },
            20 => self.no_route(),
            21 => self.truncated(),
            22..24 => self.refused(),
            _ => self.retried(size),
        }
    }

    fn blank(&mut self, kind: &'static str, method: &'static str, path: String) -> Call {
        self.serial += 1;
        let id = format!("{}-{:06}", self.run, self.serial);
        Call {
            query: format!("call={id}"),
            id,
            kind,
            method,
            path,
            route: None,
            http10: false,
            close: false,
            body: RequestBody::None,
            expect_continue: false,
            sending: Sending::Whole,
            reading: Reading::Whole,
            statuses: &[200],
            response_bytes: None,
            ending: Ending::Well,
        }
    }

    fn get(&mut self, kind: &'static str, size: u64) -> Call {
        let call = self.blank(kind, "GET", format!("/bytes/{size}"));
        Call {
            route: Some("/bytes/{n}"),
            response_bytes: Some(size),
            ..call
        }
    }

    fn small_get(&mut self, kind: &'static str) -> Call {
        let size = self.random.below(3000);
        self.get(kind, size)
    }

    fn get_chunked(&mut self, kind: &'static str, size: u64, how: &str) -> Call {
        self.get(kind, size).also(how)
    }

    fn upload(&mut self, kind: &'static str, body: RequestBody) -> Call {
        let method = ["POST", "PUT", "PATCH"][self.random.index(3)];
        let call = self.blank(kind, method, "/echo".to_owned());
        Call {
            route: Some("/echo"),
            body,
            ..call
        }
    }

    fn status(&mut self, kind: &'static str, statuses: &'static [[u16; 1]]) -> Call {
        let statuses: &'static [u16] = &statuses[self.random.index(statuses.len())];
        let call = self.blank(kind, "GET", format!("/status/{}", statuses[0]));
        Call {
            route: Some("/status/{code}"),
            statuses,
            ..call
        }
    }

    fn other_method(&mut self) -> Call {
        let method = ["DELETE", "OPTIONS", "PURGE", "BREW"][self.random.index(4)];
        let call = self.blank("other-method", method, "/status/200".to_owned());
        Call {
            route: Some("/status/{code}"),
            ..call
        }
    }

    fn lockstep(&mut self) -> Session {
        // Small enough for every buffer on the way: nothing but a flush brings the half here.
        let size = 2 + self.random.below(4_000);
        let held = self.blank("streamed", "GET", format!("/held/{size}"));
        let release = self.blank("release", "GET", "/release/1".to_owned());
        let release = Call {
            route: Some("/release/{n}"),
            statuses: &[204],
            ..release.also(&format!("of={}", held.id))
        };
        let held = Call {
            route: Some("/held/{n}"),
            response_bytes: Some(size),
            ..held
        };
        Session::Lockstep(Box::new([held, release]))
    }

    fn slow_reader(&mut self) -> Call {
        let size = 512 * 1024 + self.random.below(512 * 1024);
        Call {
            reading: Reading::Slowly,
            ..self.get("slow-reader", size)
        }
    }

    fn abort_request(&mut self) -> Call {
        let size = 64 * 1024 + self.random.below(512 * 1024);
        let sent = 1 + self.random.below(size / 2);
        let call = self.upload("abort-request", RequestBody::Bytes(size));
        Call {
            sending: Sending::AbortAfter(sent),
            ending: Ending::ClientAbort,
            ..call
        }
    }

    fn abort_response(&mut self) -> Call {
        let size = 1024 * 1024;
        // The stall keeps half the response back until the client is gone.
        let call = self.get("abort-response", size).also("stall_ms=400");
        let read = 1 + self.random.below(size / 4);
        Call {
            reading: Reading::AbortAfter(read),
            ending: Ending::ClientAbort,
            ..call
        }
    }

    fn early(&mut self) -> Call {
        let size = 64 * 1024 + self.random.below(256 * 1024);
        let call = self.blank("early-response", "POST", "/early/413".to_owned());
        Call {
            route: Some("/early/{code}"),
            body: RequestBody::Bytes(size),
            sending: Sending::Withhold(self.random.below(16 * 1024)),
            statuses: &[413],
            ending: Ending::Early,
            ..call
        }
    }

    fn no_route(&mut self) -> Call {
        let call = self.blank("no-route", "GET", "/nowhere/at/all".to_owned());
        Call {
            statuses: &[404],
            ..call
        }
    }

    fn truncated(&mut self) -> Call {
        let size = 2 + self.random.below(256 * 1024);
        let call = self.blank("truncated", "GET", format!("/truncate/{size}"));
        Call {
            route: Some("/truncate/{n}"),
            // A gateway that learns of the reset before it forwarded the head may still say 502.
            statuses: &[200, 502],
            ending: Ending::UpstreamAbort,
            ..call
        }
    }

    fn refused(&mut self) -> Call {
        let call = self.blank("refused", "GET", "/refused/1".to_owned());
        Call {
            route: Some("/refused/{n}"),
            statuses: &[502, 503],
            ending: Ending::Refused,
            ..call
        }
    }

    fn retried(&mut self, size: u64) -> Call {
        // The group's live endpoint is the backend, which knows `/bytes`; the route strips its own
        // prefix away.
        let call = self.blank("retried", "GET", format!("/retried/bytes/{size}"));
        Call {
            route: Some("/retried/{*rest}"),
            response_bytes: Some(size),
            ..call
        }
    }

    fn h2_call(&mut self) -> Call {
        let size = self.size();
        match self.random.below(6) {
            0..2 => self.get("h2-get", size),
            2 => self.get_chunked("h2-trailers", size, "trailers=1"),
            3..5 => self.upload("h2-upload", RequestBody::Bytes(size)),
            _ => self.status("h2-error", &[[404], [429], [500], [503]]),
        }
    }

    /// 0 B to 1 MB; small ones are common.
    fn size(&mut self) -> u64 {
        match self.random.below(10) {
            0 => 0,
            1..6 => self.random.below(2_000),
            6..9 => self.random.below(64 * 1024),
            _ => self.random.below(1024 * 1024 + 1),
        }
    }
}

impl Call {
    /// Path and query as sent.
    pub fn target(&self) -> String {
        format!("{}?{}", self.path, self.query)
    }

    /// `User-Agent` as sent.
    pub fn user_agent(&self) -> String {
        format!("calltap-loadtest/0.1 ({})", self.kind)
    }

    /// Whether no other call can follow on its connection.
    pub fn ends_connection(&self) -> bool {
        self.close || self.http10 || self.ending != Ending::Well || self.reading != Reading::Whole
    }

    fn also(mut self, parameter: &str) -> Self {
        self.query = format!("{}&{parameter}", self.query);
        self
    }
}

/// A xorshift generator: repeatable, and no dependency.
pub struct Random(u64);

impl Random {
    /// Repeatable: the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The high half: the low bits of a xorshift are its weakest.
        (self.0 >> 32) % bound.max(1)
    }

    /// The same, for what is indexed.
    pub fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_mix_has_the_number_asked_for_and_every_kind() {
        let reach = Reach {
            routes: true,
            h2c: true,
        };
        let sessions = draw(2000, 7, "run", reach);
        let mut ids = BTreeSet::new();
        let mut kinds = BTreeSet::new();
        let mut failures = 0;
        for session in &sessions {
            match session {
                Session::Failed(_) => failures += 1,
                Session::Lockstep(both) => {
                    let [held, release] = &**both;
                    assert!(release.query.ends_with(&held.id));
                    assert!(ids.insert(held.id.clone()) && ids.insert(release.id.clone()));
                }
                Session::KeepAlive(calls) | Session::Pipelined(calls) | Session::H2c(calls) => {
                    for (index, call) in calls.iter().enumerate() {
                        assert!(ids.insert(call.id.clone()), "{} twice", call.id);
                        kinds.insert(call.kind);
                        assert!(index + 1 == calls.len() || !call.ends_connection());
                    }
                }
            }
        }
        assert_eq!(ids.len(), 2000);
        assert!(failures > 10);
        for kind in [
            "get",
            "split-head",
            "chunked",
            "trailers",
            "head",
            "upload",
            "upload-chunked",
            "upload-trailers",
            "expect-continue",
            "bodiless",
            "client-error",
            "server-error",
            "other-method",
            "close",
            "http10",
            "slow-reader",
            "abort-request",
            "abort-response",
            "early-response",
            "no-route",
            "truncated",
            "refused",
            "retried",
            "pipelined",
            "h2-get",
            "h2-trailers",
            "h2-upload",
            "h2-error",
        ] {
            assert!(kinds.contains(kind), "no {kind}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_mix() {
        let reach = Reach {
            routes: false,
            h2c: false,
        };
        let twice = [draw(50, 3, "run", reach), draw(50, 3, "run", reach)];
        assert_eq!(format!("{:?}", twice[0]), format!("{:?}", twice[1]));
    }
}
