//! One call on its way through the phases, and what is noted of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use calltap_correlate::exchange::{
    ApiNames, Consumer, Exchange, GatewayTimes, Leg, Policy, Request, Response, Sharing,
    UpstreamBody,
};
use calltap_correlate::socket::{
    CallRanges, Counters, Coverage, DirectionTotals, StreamRange, Turns,
};
use calltap_policies::admit::{Asked, Head, Limited, Place, Verdict};
use calltap_tap::Ledger;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora::http::authority::raw_target_authority;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, OrErr as _, Result};
use smallvec::SmallVec;

use super::failure::{
    ADDRESS_DENIED, BAD_PATH, BAD_REQUEST, BODY_TOO_LARGE, CLIENT_ABORT, CLIENT_SENDS_TOO_SLOWLY,
    DENIED, Failure, HEAD_TOO_LARGE, LIMITED, NO_ENDPOINT, NO_ROUTE, SHUTDOWN, TIMEOUT,
    UPGRADED_IDLE, UPSTREAM_TIMEOUT, URI_TOO_LONG, WRONG_METHOD, is_of_time, outcome, reset_code,
};
use super::open::{OpenCall, Step};
use super::upstream_leg::UpstreamUse;
use super::{Setup, describe, is_final, strict};
use crate::account::Open;
use crate::clock::now_ns;
use crate::config::Protocol;
use crate::identity::{self, Identity, Sender};
use crate::pipeline::Finished;
use crate::route::{Found, HostHeader, Route, normalise};
use crate::server::{ClientConnection, Ended, Late, READ_DRY};
use crate::upstream::{Attempts, ConnectHooks, EndpointId, Group, Lease};

/// One call, from its head to its record.
pub(crate) struct Call {
    exchange: Box<Exchange>,
    connection: Arc<ClientConnection>,
    setup: Arc<Setup>,
    open: Open,
    /// Tells the streams of an HTTP/2 connection apart.
    stream: u64,
    /// When it must be over; `u64::MAX` where it may take for ever.
    deadline_ns: u64,
    head_bytes: u64,
    body: Body,
    wants_upgrade: bool,
    /// Where the request begins in what the client sent.
    received_start: u64,
    /// HTTP/2: what the connection had received the last times it was read dry.
    read_dry: [Option<DirectionTotals>; READ_DRY],
    /// And when no call was open the last time.
    idle: Option<DirectionTotals>,
    /// Where all that is sent for this call begins: interim responses, then the final one.
    sent_start: u64,
    blocked_before_ns: u64,
    identity: Option<Identity>,
    route: Option<Arc<Route>>,
    allow: Option<String>,
    upstream_path: Option<String>,
    group: Option<Arc<Group>>,
    attempts: Attempts,
    lease: Option<Lease>,
    tried: SmallVec<[EndpointId; 2]>,
    upstream: Option<UpstreamUse>,
    /// The tightest limit that it was counted for.
    limited: Option<Limited>,
    /// Among the calls that are open, as rules count them.
    _places: Vec<Place>,
    /// Why the gateway answers on its own.
    failure: Option<Failure>,
    /// Why the last attempt failed.
    attempt_failure: Option<Failure>,
    request_body_bytes: u64,
    response_body_bytes: u64,
    /// What it waits for...
    step: Step,
    /// ...and since when.
    step_ns: u64,
    /// When it was last told of while it was open.
    told_ns: u64,
    /// What the client was answered came from the gateway.
    answered: bool,
    upstream_length: UpstreamLength,
}

impl Call {
    /// Begins with the head: the first moment Pingora tells us of a call.
    pub(super) fn begin(
        session: &Session,
        connection: Arc<ClientConnection>,
        setup: Arc<Setup>,
        hooks: Arc<ConnectHooks>,
        open: Open,
        stream: u64,
        head_read_ns: u64,
    ) -> Self {
        let head = session.req_header();
        let received_start = connection.received_floor();
        let sent_start = connection.wire_written();
        let head_bytes = session
            .as_http1()
            .map_or(0, |http1| http1.get_headers_raw_bytes().len() as u64);
        let body = Body::of(&head.headers);
        let wants_upgrade = session.is_upgrade_req();
        let mut client = connection.socket.leg();
        let (mut read_dry, mut idle) = ([None; READ_DRY], None);
        if connection.is_multiplexed() {
            client.sharing = Sharing::Multiplexed;
            client.begin = connection.counters(head_read_ns);
            (read_dry, idle) = (connection.read_dry(), connection.before().received);
            if connection.streams.is_empty() {
                // Nobody else was sending: the request's own bytes count too.
                client.begin.received = idle;
            }
            connection.streams.open(stream);
        } else {
            connection.settle_previous();
            let fresh = connection.plain_read() - connection.plain_read_at_call_end();
            let has_neighbour = fresh > head_bytes && body == Body::Length(0) && !wants_upgrade;
            if fresh < head_bytes || has_neighbour {
                client.sharing = Sharing::Pipelined;
            } else {
                client.head_arrived_ns = connection.head_arrived(received_start, head_bytes, fresh);
            }
            if wants_upgrade || client.coverage == Coverage::TcpInfo {
                client.begin = connection.before();
            }
            if body == Body::Chunked {
                connection.follow_chunks(head_bytes);
            }
        }
        let deadline_ns = until(head_read_ns, setup.config.limits.total);
        client.request_seq = connection.begin_call(head_read_ns, deadline_ns);
        let exchange = Box::new(Exchange {
            uid: identity::uuid_v7(),
            request: Request::default(),
            response: Response::default(),
            api: no_api(),
            consumer: Consumer::default(),
            tls: connection.tls().cloned(),
            times: GatewayTimes {
                accepted_ns: Some(connection.accepted_ns),
                head_read_ns,
                ..GatewayTimes::default()
            },
            client,
            client_address: Some(connection.peer.address),
            cluster: None,
            attempts: Vec::new(),
            upstream: None,
            policy: Policy::default(),
            flags: Vec::new(),
            error_type: None,
            reset_code: None,
        });
        Self {
            exchange,
            connection,
            setup,
            open,
            stream,
            deadline_ns,
            head_bytes,
            body,
            wants_upgrade,
            received_start,
            read_dry,
            idle,
            sent_start,
            blocked_before_ns: 0,
            identity: None,
            route: None,
            allow: None,
            upstream_path: None,
            group: None,
            attempts: Attempts::new(hooks),
            lease: None,
            tried: SmallVec::new(),
            upstream: None,
            limited: None,
            _places: Vec::new(),
            failure: None,
            attempt_failure: None,
            request_body_bytes: 0,
            response_body_bytes: 0,
            step: match body {
                Body::Length(0) => Step::Upstream,
                _ => Step::Body,
            },
            step_ns: head_read_ns,
            told_ns: head_read_ns,
            answered: false,
            upstream_length: UpstreamLength::Unknown,
        }
    }

    /// Finds out what is asked, by whom, and whether and where it may pass.
    pub(super) fn resolve(&mut self, session: &mut Session) -> Result<(), Failure> {
        complete_head(session.req_header_mut()).map_err(|_| BAD_REQUEST)?;
        let head = session.req_header();
        let setup = Arc::clone(&self.setup);
        let config = &setup.config;
        self.identify(head);
        if head.raw_path().len() > config.limits.uri_max_bytes {
            return Err(URI_TOO_LONG);
        }
        if self.head_bytes > config.limits.header_max_bytes as u64 {
            return Err(HEAD_TOO_LARGE);
        }
        let raw = session
            .as_http1()
            .map(|http1| http1.get_headers_raw_bytes());
        strict::check(head, raw.as_deref().unwrap_or_default())?;
        let path = normalise(head.uri.path()).map_err(|_| BAD_PATH)?;
        let route = match config
            .routes
            .find(identity::authority(head), &path, head.method.as_str())
        {
            Found::Route(route, _) => Arc::clone(route),
            Found::MethodNotAllowed(allowed) => {
                self.allow = Some(allowed.join(", "));
                return Err(WRONG_METHOD);
            }
            Found::NotFound => return Err(NO_ROUTE),
        };
        self.exchange.api = Arc::clone(&route.api);
        self.deadline_ns = until(self.exchange.times.head_read_ns, route.timeout);
        self.connection.limit_call(self.deadline_ns);
        let forwarded = route.forward_path(&path);
        // Proxies are sent absolute targets, origins are not (RFC 9112, section 3.2).
        let target = head.raw_path();
        let is_absolute =
            head.version < Version::HTTP_2 && target != b"*" && !target.starts_with(b"/");
        let differs = forwarded != head.uri.path();
        self.upstream_path = (differs || is_absolute).then(|| forwarded.into_owned());
        self.group = setup.upstreams.group(&route.upstream).cloned();
        self.route = Some(route);
        if matches!(self.body, Body::Length(length) if length > self.body_max()) {
            return Err(BODY_TOO_LARGE);
        }
        self.admit(head, &path)
    }

    /// What the rules say of it.
    fn admit(&mut self, head: &RequestHeader, path: &str) -> Result<(), Failure> {
        let rules = &self.setup.config.policies.rules;
        if rules.is_empty() {
            return Ok(());
        }
        let asked = Client {
            connection: &self.connection,
            headers: &head.headers,
            head: self.received_start..self.received_start + self.head_bytes,
        };
        let mut policy = Policy::default();
        let known = Head::new(&self.exchange, path, &asked);
        let decision = rules.admit(&known, &mut policy, self.exchange.times.head_read_ns);
        self.exchange.policy = policy;
        self.limited = decision.limit;
        self._places = decision.places;
        match decision.verdict {
            Verdict::Allow => Ok(()),
            Verdict::Limit => Err(LIMITED),
            Verdict::Deny { status } => Err(Failure { status, ..DENIED }),
        }
    }

    fn identify(&mut self, head: &RequestHeader) {
        let config = &self.setup.config;
        let secured = self.connection.secured;
        let sender = Sender {
            peer: Some(&self.connection.peer),
            scheme: describe::scheme(secured),
            is_trusted: &|address| config.proxy.trusts(address),
        };
        let identity = Identity::of(head, &sender, identity::random);
        let exchange = &mut self.exchange;
        exchange.client_address = identity.client_address;
        exchange.consumer = identity::consumer::of(
            &config.consumer,
            head,
            head.uri.query(),
            exchange.tls.as_deref(),
        );
        let allowed = &config.records.request_headers;
        exchange.request =
            describe::request(head, secured, &identity, &self.setup.secrets, allowed);
        self.identity = Some(identity);
    }

    fn body_max(&self) -> u64 {
        self.setup.config.limits.body_max_bytes.unwrap_or(u64::MAX)
    }

    /// Part of the request's body passes: an error when there was too much of it.
    pub(super) fn count_request_body(&mut self, bytes: usize, is_end: bool) -> Result<()> {
        self.check_time()?;
        if is_end && self.step == Step::Body {
            self.enter(Step::Upstream, now_ns());
        }
        self.request_body_bytes += bytes as u64;
        if self.request_body_bytes > self.body_max() {
            self.failure = Some(BODY_TOO_LARGE);
            return Error::e_explain(ErrorType::HTTPStatus(413), BODY_TOO_LARGE.message);
        }
        Ok(())
    }

    /// Part of the response's body passes.
    pub(super) fn count_response_body(&mut self, bytes: usize) {
        self.response_body_bytes += bytes as u64;
    }

    fn enter(&mut self, step: Step, now_ns: u64) {
        self.step = step;
        self.step_ns = now_ns;
    }

    /// What it waits for and since when.
    pub(super) fn waits(&self) -> (Step, u64) {
        (self.step, self.step_ns)
    }

    /// Nobody is to look at it any more.
    pub(super) fn hide(&self, shown: &Arc<OpenCall>) {
        self.connection.hide(shown);
    }

    /// Part of a body passes: an error when the call's time is up. On HTTP/1 the connection's own
    /// deadline would end it, on HTTP/2 nothing else does.
    pub(super) fn check_time(&mut self) -> Result<()> {
        if now_ns() < self.deadline_ns {
            return Ok(());
        }
        self.failure = Some(TIMEOUT);
        Error::e_explain(ErrorType::HTTPStatus(504), TIMEOUT.message)
    }

    fn remaining(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(self.deadline_ns.saturating_sub(now_ns))
    }

    /// Chooses where the next attempt goes.
    pub(super) fn pick(&mut self) -> Result<Box<HttpPeer>> {
        let now_ns = now_ns();
        let remaining = self.remaining(now_ns);
        if remaining.is_zero() {
            self.failure = Some(TIMEOUT);
            return Error::e_explain(ErrorType::HTTPStatus(504), TIMEOUT.message);
        }
        // The lease of an attempt that failed ends before the next one begins.
        self.lease = None;
        self.request_body_bytes = 0;
        let config = self.group.as_ref().map(|group| group.config());
        self.exchange.cluster = config.map(|config| Arc::clone(&config.name));
        let Some(lease) = self
            .group
            .as_ref()
            .and_then(|group| group.pick(&self.tried))
        else {
            let failure = self.attempt_failure.unwrap_or(NO_ENDPOINT);
            self.failure = Some(failure);
            return Error::e_explain(ErrorType::HTTPStatus(failure.status), failure.message);
        };
        self.tried.push(lease.id());
        let time_left = (self.deadline_ns != u64::MAX).then_some(remaining);
        let mut peer = self.attempts.begin(&lease, time_left, now_ns);
        self.lease = Some(lease);
        if let Some(time_left) = time_left {
            let read_timeout = &mut peer.options.read_timeout;
            *read_timeout = Some(read_timeout.map_or(time_left, |limit| limit.min(time_left)));
        }
        if self.wants_upgrade {
            self.await_upgrade(&mut peer);
        }
        Ok(Box::new(peer))
    }

    /// Pingora lets nobody change a connection's limit once it is in use. So an upstream that may
    /// upgrade has that of an upgraded connection, and the wait for its answer is limited on the
    /// client's connection.
    fn await_upgrade(&self, peer: &mut HttpPeer) {
        let limit = until(now_ns(), peer.options.read_timeout);
        self.connection.limit_call(limit.min(self.deadline_ns));
        peer.options.read_timeout = self.setup.config.limits.upgraded_idle;
    }

    fn may_retry(&self) -> bool {
        let retries = self
            .group
            .as_ref()
            .map_or(0, |group| group.config().retries);
        self.attempts.count() <= retries && !self.remaining(now_ns()).is_zero()
    }

    /// An attempt got no connection. Nothing of the call was sent: any method may try again.
    pub(super) fn attempt_failed(&mut self, error: &mut Error) {
        let outcome = self.attempts.failed(error);
        self.attempt_failure = Some(Failure::of_attempt(error, outcome));
        error.set_retry(self.may_retry());
    }

    /// An attempt's connection broke. A pooled connection that the upstream closed in the meantime
    /// says nothing about the upstream; but a call that is not idempotent is never sent twice.
    pub(super) fn attempt_broke(&mut self, session: &mut Session, error: &mut Error, reused: bool) {
        if *error.etype() == ErrorType::ReadTimedout && self.awaits_client(session) {
            self.failure = Some(CLIENT_SENDS_TOO_SLOWLY);
            self.attempts.abandoned();
            error.set_retry(false);
            return;
        }
        let replayable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        if replayable && self.may_retry() {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        if matches!(error.esource(), ErrorSource::Upstream) {
            self.attempts.broke(outcome(error));
        }
        if error.retry() {
            // The same endpoint is as good as any: it was its idle connection that was gone.
            self.tried.pop();
            self.upstream = None;
        }
    }

    /// Whether the upstream says nothing because it waits for a client that has stopped sending.
    fn awaits_client(&self, session: &mut Session) -> bool {
        let body_done = session.as_downstream_mut().is_body_done();
        // Unknown of HTTP/2 upstreams, which take what there is but for a full window.
        let passed_on = session.upstream_body_bytes_sent();
        !body_done
            && self.exchange.times.resp_read_ns.is_none()
            && now_ns() < self.deadline_ns
            && passed_on.is_none_or(|bytes| bytes >= session.body_bytes_read())
    }

    /// A connection is there, new or pooled.
    pub(super) fn connected(&mut self, reused: bool, fd: i32, digest: Option<&Digest>) {
        self.attempt_failure = None;
        self.exchange.times.interim_read_ns = None;
        let Some(group) = &self.group else { return };
        let multiplexed = group.config().protocol == Protocol::Http2;
        let stream = self.stream;
        let now_ns = now_ns();
        self.upstream = UpstreamUse::begin(
            reused,
            fd,
            digest,
            stream,
            multiplexed,
            self.wants_upgrade,
            now_ns,
        );
        let cookie = self.upstream.as_ref().and_then(UpstreamUse::cookie);
        self.attempts.ready(reused, cookie, now_ns);
    }

    /// What the upstream is sent instead of what the client sent.
    pub(super) fn rewrite(&self, request: &mut RequestHeader) -> Result<()> {
        change_headers(request, |headers| {
            if let Some(identity) = &self.identity {
                headers.reserve(identity::STAMPED_HEADERS);
                let stamped = identity.stamp(headers);
                stamped.or_err(ErrorType::InternalError, "writing ids into a request")?;
            }
            // Pingora forwards no trailers of a request, so there is nothing to announce.
            headers.remove(header::TRAILER);
            Ok(())
        })?;
        identity::grpc::announce_trailers(request)?;
        if let Some(path) = &self.upstream_path {
            let target: Cow<'_, str> = match request.uri.query() {
                Some(query) => format!("{path}?{query}").into(),
                None => path.into(),
            };
            let target = target
                .parse()
                .or_err(ErrorType::InternalError, "rewriting the path")?;
            request.set_uri(target);
        }
        let rewrites = self
            .route
            .as_ref()
            .is_some_and(|route| route.host_header == HostHeader::Rewrite);
        if let Some(lease) = &self.lease
            && rewrites
        {
            request.insert_header(header::HOST, lease.authority())?;
        }
        Ok(())
    }

    /// The upstream's interim response is here: what it sends from now on is something else.
    pub(super) fn interim_read(&mut self) {
        self.exchange.times.interim_read_ns = Some(now_ns());
        if let Some(upstream) = &self.upstream {
            upstream.interim_read();
        }
    }

    /// The upstream's final response head is here.
    pub(super) fn response_read(&mut self, session: &Session, response: &ResponseHeader) {
        let now_ns = now_ns();
        self.exchange.times.resp_read_ns = Some(now_ns);
        self.enter(Step::Response, now_ns);
        self.upstream_length = UpstreamLength::of(&session.req_header().method, response);
        self.exchange.response.upstream_status = Some(response.status.as_u16());
        if self.wants_upgrade {
            self.connection.limit_call(self.deadline_ns);
        }
    }

    /// The last of the upstream's response is on its way to the client.
    pub(super) fn response_ended(&mut self) {
        self.upstream_length = UpstreamLength::Reached;
    }

    /// The connection is about to speak another protocol, and is this call's until it closes.
    pub(super) fn upgraded(&mut self, session: &mut Session, response: &ResponseHeader) {
        if !self.connection.is_multiplexed() {
            let idle = self.setup.config.limits.upgraded_idle;
            session.set_read_timeout(idle);
            session.set_write_timeout(idle);
            self.exchange.client.sharing = Sharing::Upgraded;
            self.step = Step::Upgraded;
            self.deadline_ns = u64::MAX;
            self.connection.limit_call(u64::MAX);
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.upgraded();
        }
        self.exchange.request.upgraded_to = response
            .headers
            .get(header::UPGRADE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_ascii_lowercase);
    }

    /// The final response head is about to be written: what was sent before it is not the
    /// response's.
    pub(super) fn begin_response(&mut self, response: &mut ResponseHeader) -> Result<()> {
        if let Some(id) = &self.exchange.request.request_id {
            response.insert_header("X-Request-ID", id)?;
        }
        if let Some(limited) = &self.limited {
            tell_limit(limited, response)?;
        }
        let allowed = &self.setup.config.records.response_headers;
        self.exchange.response.status = Some(response.status.as_u16());
        self.exchange.response.headers =
            describe::headers(&response.headers, allowed, &self.setup.secrets);
        self.note_grpc_status(&response.headers);
        let is_h2 = |group: &Arc<Group>| group.config().protocol == Protocol::Http2;
        if self.connection.is_multiplexed() && self.group.as_ref().is_some_and(is_h2) {
            return Ok(());
        }
        // Pingora forwards trailers between two HTTP/2 connections only.
        response.remove_header(&header::TRAILER);
        if self.connection.is_multiplexed() {
            return Ok(());
        }
        if let Some(ledger) = self.connection.socket.ledger() {
            ledger.cut_sent();
        }
        self.connection.expect_head();
        self.blocked_before_ns = self.connection.blocked_ns();
        Ok(())
    }

    /// Head or trailers may say how a gRPC call went.
    pub(super) fn note_grpc_status(&mut self, headers: &HeaderMap) {
        if self.exchange.request.rpc_method.is_some()
            && let Some(status) = describe::grpc_status(headers)
        {
            self.exchange.response.rpc_status = Some(status);
        }
    }

    /// The answer to be written instead of the upstream's.
    pub(super) fn answer(&mut self, failure: Failure) -> Result<(ResponseHeader, Bytes)> {
        self.failure = Some(failure);
        self.enter(Step::Response, now_ns());
        let body = serde_json::json!({
            "error": failure.error_type,
            "message": failure.message,
            "request_id": self.exchange.request.request_id,
        });
        let body = Bytes::from(format!("{body}\n"));
        let mut head = ResponseHeader::build(failure.status, Some(4))?;
        head.insert_header(header::CONTENT_TYPE, "application/json")?;
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
        if let Some(allow) = &self.allow {
            head.insert_header(header::ALLOW, allow)?;
        }
        self.begin_response(&mut head)?;
        self.answered = true;
        Ok((head, body))
    }

    /// What an error of Pingora's means for this call.
    pub(super) fn failure_of(&mut self, error: &Error) -> Failure {
        let is_upgraded = self.exchange.client.sharing == Sharing::Upgraded;
        let found = || match self.connection.ended() {
            Ended::Shutdown => SHUTDOWN,
            Ended::Denied => ADDRESS_DENIED,
            // It is not read while the upstream is waited for, but its kernel has said it.
            _ if self.connection.was_reset() => CLIENT_ABORT,
            // The upstream was given what was left of the call's time.
            _ if now_ns() >= self.deadline_ns && is_of_time(error) => TIMEOUT,
            // Only the wait for an upgrade is limited to less than that.
            Ended::TotalTimeout => UPSTREAM_TIMEOUT,
            _ if is_upgraded && *error.etype() == ErrorType::ReadTimedout => UPGRADED_IDLE,
            _ => self.attempt_failure.unwrap_or_else(|| Failure::of(error)),
        };
        // What is said first stays: the deadline may pass in the meantime.
        let failure = self.failure.unwrap_or_else(found);
        self.failure = Some(failure);
        failure
    }

    /// The call's last moment on the request path.
    pub(super) fn finish(
        mut self,
        session: &mut Session,
        error: Option<&Error>,
    ) -> (Open, Finished) {
        let now_ns = now_ns();
        let was_cut_off = self.exchange.client.sharing == Sharing::Upgraded
            && self.connection.ended() == Ended::Shutdown;
        if error.is_none() && was_cut_off {
            // To whoever reads from it, it looks as if the client had said goodbye.
            self.failure = Some(SHUTDOWN);
        } else if let Some(error) = error
            && self.had_its_answer(session, error)
        {
            self.failure = None;
        } else if let Some(error) = error {
            self.exchange.reset_code = reset_code(error);
            let failure = self.failure_of(error);
            if failure.status == TIMEOUT.status && self.exchange.times.resp_read_ns.is_none() {
                self.attempts.timed_out();
            }
        }
        let body_done = session.as_downstream_mut().is_body_done();
        self.exchange.client.closing = error.is_some()
            || session
                .as_http1()
                .is_some_and(|http1| !http1.will_keepalive());
        let request_end = self.request_end();
        let late = self.finish_client(now_ns, request_end, body_done);
        let body_bytes_read = session.body_bytes_read();
        self.count_whole_request(body_bytes_read as u64);
        let body_start = self.body_start();
        let is_blocked = self.connection.is_blocked();
        let mut exchange = self.exchange;
        exchange.times.resp_written_ns = now_ns;
        exchange.request.body_bytes = body_bytes_read as u64;
        exchange.response.body_bytes = session.body_bytes_sent() as u64;
        exchange.response.is_blocked = is_blocked;
        let response = session
            .response_written()
            .filter(|response| is_final(response));
        exchange.response.status = response.map(|response| response.status.as_u16());
        if exchange.response.upstream_status.is_some() {
            let bytes = session.upstream_body_bytes_received() as u64;
            exchange.response.upstream_body = Some(UpstreamBody {
                bytes,
                // What broke before its end was known had not come to it.
                complete: self.upstream_length.is_complete(bytes).or_else(|| {
                    let broke = error.is_some_and(|e| *e.esource() == ErrorSource::Upstream);
                    broke.then_some(false)
                }),
                passed_on: !self.answered,
            });
        }
        let is_chunked = response
            .is_some_and(|response| response.headers.contains_key(header::TRANSFER_ENCODING));
        if response.is_some() && !is_chunked {
            exchange.response.body_start = body_start;
        }
        // Pingora counts pieces that were written whole. Half a piece counts, too.
        if error.is_some()
            && let (Some(start), Some(sent)) =
                (exchange.response.body_start, &exchange.client.sent_range)
        {
            exchange.response.body_bytes = sent.end.saturating_sub(start);
        }
        if let Some(failure) = self.failure {
            exchange.flags.extend(failure.flag);
            exchange.error_type = Some(failure.error_type.into());
        } else if let Some(status) = exchange.response.status.filter(|status| *status >= 500) {
            exchange.error_type = Some(status.to_string().into());
        }
        exchange.attempts = self.attempts.list();
        let passed_on = session.upstream_body_bytes_sent();
        let has_more = !body_done || passed_on.is_some_and(|bytes| bytes < body_bytes_read);
        let finish = |upstream: UpstreamUse| upstream.finish(now_ns, error.is_some() && has_more);
        exchange.upstream = self.upstream.map(finish);
        self.connection.end_call(request_end, now_ns);
        let finished = Finished {
            exchange,
            client: self.connection,
            late,
        };
        (self.open, finished)
    }

    /// What is known of it so far, once every `interim_ns`.
    pub(super) fn progress(&mut self, interim_ns: u64, now_ns: u64) -> Option<Box<Exchange>> {
        if now_ns.saturating_sub(self.told_ns) < interim_ns {
            return None;
        }
        self.told_ns = now_ns;
        let mut exchange = self.exchange.clone();
        exchange.times.resp_written_ns = now_ns;
        exchange.request.body_bytes = self.request_body_bytes;
        exchange.response.body_bytes = self.response_body_bytes;
        exchange.attempts = self.attempts.list();
        exchange.upstream = self.upstream.as_ref().map(UpstreamUse::so_far);
        let connection = &self.connection;
        let leg = &mut exchange.client;
        leg.end = connection.counters(now_ns);
        if leg.sharing == Sharing::Multiplexed {
            leg.streams = connection.streams.most(self.stream);
            return Some(exchange);
        }
        leg.received_range = Some(self.received_start..connection.wire_read());
        leg.sent_range = Some(self.sent_start..connection.wire_written());
        copy_turns(leg, connection.socket.ledger());
        Some(exchange)
    }

    /// Whether all that went wrong is that a client, answered early, kept the rest of its request to
    /// itself: it has what it asked for (RFC 9110, section 10.1.1).
    fn had_its_answer(&self, session: &Session, error: &Error) -> bool {
        let unread = *error.esource() == ErrorSource::Downstream
            && matches!(
                error.etype(),
                ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::ReadTimedout
            );
        let bytes = session.upstream_body_bytes_received() as u64;
        let is_written = session.response_written().is_some_and(is_final)
            && session.body_bytes_sent() as u64 == bytes;
        let is_whole = self.upstream_length.is_complete(bytes) == Some(true);
        unread && is_written && is_whole && !self.answered
    }

    /// Where the body begins in what the client is sent, if that is a head of HTTP/1 and what follows.
    fn body_start(&self) -> Option<u64> {
        let has_head = matches!(
            self.exchange.client.sharing,
            Sharing::Sole | Sharing::Pipelined | Sharing::EndUnknown | Sharing::Upgraded
        );
        let start = self.connection.body_start().filter(|_| has_head);
        start.filter(|start| *start > self.sent_start)
    }

    /// On HTTP/2 a call begins when its head was read, and by then some of it may have been counted
    /// already, together with what came for other streams. Then it begins where the connection had
    /// been read dry the last time before its own bytes came, or before any stream was open.
    fn count_whole_request(&mut self, body_bytes: u64) {
        let leg = &mut self.exchange.client;
        let Some(end) = leg
            .end
            .received
            .filter(|_| leg.sharing == Sharing::Multiplexed)
        else {
            return;
        };
        /// The header of a frame, without which there is neither head nor body.
        const FRAME_BYTES: u64 = 9;
        let own_bytes = match body_bytes {
            0 => FRAME_BYTES,
            bytes => 2 * FRAME_BYTES + bytes,
        };
        let begins = [leg.begin.received].into_iter().chain(self.read_dry);
        let mut begins = begins.chain([self.idle]).flatten();
        let begin = begins.find(|begin| end.offset >= begin.offset + own_bytes);
        leg.begin.received = begin.or(self.idle);
    }

    /// Where the request ends in what the parser was given, if that is known.
    fn request_end(&self) -> Option<u64> {
        let connection = &self.connection;
        match self.body {
            Body::Length(length) => {
                Some(connection.plain_read_at_call_end() + self.head_bytes + length)
            }
            Body::Chunked => connection.chunks_end(),
        }
    }

    fn finish_client(
        &mut self,
        now_ns: u64,
        end: Option<u64>,
        body_done: bool,
    ) -> Option<Arc<Late>> {
        let connection = &self.connection;
        let leg = &mut self.exchange.client;
        leg.end = connection.counters(now_ns);
        if leg.sharing == Sharing::Multiplexed {
            leg.streams = connection.streams.close(self.stream);
            return None;
        }
        self.exchange.times.write_blocked_ns = connection
            .blocked_ns()
            .saturating_sub(self.blocked_before_ns);
        connection.rest(leg.end);
        let read = connection.plain_read();
        if leg.sharing == Sharing::Sole {
            leg.sharing = match end {
                Some(end) if read > end => Sharing::Pipelined,
                None if body_done => Sharing::EndUnknown,
                _ => Sharing::Sole,
            };
        }
        if !matches!(leg.sharing, Sharing::Pipelined | Sharing::EndUnknown) {
            leg.received_range = Some(self.received_start..connection.wire_read());
        }
        leg.sent_range = Some(self.sent_start..connection.wire_written());
        copy_turns(leg, connection.socket.ledger());
        let sent = leg.sent_range.clone().filter(|range| !range.is_empty())?;
        let received = leg.received_range.clone().unwrap_or_default();
        if leg.sent.acked(sent.end) {
            return None;
        }
        connection.remember(CallRanges { sent, received })
    }
}

/// What rules may ask of a client.
struct Client<'c> {
    connection: &'c ClientConnection,
    headers: &'c HeaderMap,
    /// Where the head is in what the client sent.
    head: StreamRange,
}

impl Asked for Client<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        describe::text(self.headers, name).map(Cow::Owned)
    }

    fn counters(&self) -> Counters {
        self.connection.counters(now_ns())
    }

    fn received(&self) -> Turns {
        match self.connection.socket.ledger() {
            Some(ledger) if !self.connection.is_multiplexed() => ledger.received(&self.head),
            _ => Turns::default(),
        }
    }
}

/// Tells a client how many calls it has left, and one that came too soon when to come again: with the
/// headers of the IETF's draft "RateLimit header fields for HTTP" (httpapi, 2025).
fn tell_limit(limited: &Limited, response: &mut ResponseHeader) -> Result<()> {
    const SECOND_NS: u64 = 1_000_000_000;
    let Limited {
        rule,
        burst,
        window_s,
        stand,
    } = limited;
    let reset_s = stand.reset_ns.div_ceil(SECOND_NS);
    let policy = format!("\"{rule}\";q={burst};w={window_s}");
    response.insert_header("RateLimit-Policy", policy)?;
    let left = format!("\"{rule}\";r={};t={reset_s}", stand.remaining);
    response.insert_header("RateLimit", left)?;
    if !stand.allowed {
        let retry_s = stand.retry_ns.div_ceil(SECOND_NS).max(1);
        response.insert_header(header::RETRY_AFTER, retry_s)?;
    }
    Ok(())
}

/// Says in headers what was said otherwise, so that rules, records and upstreams see what they would see of
/// HTTP/1.1: the host, which HTTP/2 has in `:authority` and HTTP/1.0 may have in the target, and one line of
/// cookies (RFC 9113, sections 8.3.1 and 8.2.3).
fn complete_head(head: &mut RequestHeader) -> Result<()> {
    if !head.headers.contains_key(header::HOST) {
        let authority = match head.uri.authority() {
            Some(authority) => Some(authority.to_string()),
            None => raw_target_authority(head.raw_path())
                .authority()
                .map(|authority| String::from_utf8_lossy(authority).into_owned()),
        };
        if let Some(authority) = authority {
            head.insert_header(header::HOST, authority)?;
        }
    }
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let mut cookies = head.headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let mut joined = first.as_bytes().to_vec();
        for cookie in std::iter::once(second).chain(cookies) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(cookie.as_bytes());
        }
        head.insert_header(header::COOKIE, joined)?;
    }
    Ok(())
}

/// Changes the headers of a request as a map. Pingora's own head keeps the case of names in a second map
/// and reads every name anew that is changed, which took an eighth of all that the proxy does. Without
/// that map names leave in lower case; HTTP knows no case in them (RFC 9110, section 5.1).
fn change_headers(
    request: &mut RequestHeader,
    change: impl FnOnce(&mut HeaderMap) -> Result<()>,
) -> Result<()> {
    let by_uri = request.uri.path_and_query().map(|target| target.as_str());
    // Where the URI does not say it all.
    let verbatim = (by_uri.map(str::as_bytes) != Some(request.raw_path()))
        .then(|| request.raw_path().to_vec());
    let nothing = http::Request::new(()).into_parts().0;
    let mut parts = Parts::from(std::mem::replace(request, nothing.into()));
    change(&mut parts.headers)?;
    *request = parts.into();
    match verbatim {
        Some(target) => request.set_raw_path(&target),
        None => Ok(()),
    }
}

/// The turns of both ranges, while the connection is the call's.
fn copy_turns(leg: &mut Leg, ledger: Option<&Ledger>) {
    let Some(ledger) = ledger else { return };
    if let Some(range) = &leg.received_range {
        leg.received = ledger.received(range);
    }
    if let Some(range) = &leg.sent_range {
        leg.sent = ledger.sent(range);
    }
}

/// The moment `limit` after `from_ns`; never, without a limit.
fn until(from_ns: u64, limit: Option<Duration>) -> u64 {
    limit.map_or(u64::MAX, |limit| {
        from_ns.saturating_add(limit.as_nanos() as u64)
    })
}

fn no_api() -> Arc<ApiNames> {
    thread_local! {
        static NONE: Arc<ApiNames> = Arc::new(ApiNames::default());
    }
    NONE.with(Arc::clone)
}

/// How long the upstream's answer is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamLength {
    /// It ends with its last chunk or its connection, or has not begun.
    Unknown,
    /// So many bytes of body.
    Bytes(u64),
    /// It came to its end.
    Reached,
}

impl UpstreamLength {
    fn of(method: &Method, response: &ResponseHeader) -> Self {
        let status = response.status;
        if *method == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
        {
            return Self::Reached;
        }
        match content_length(&response.headers) {
            Some(bytes) => Self::Bytes(bytes),
            None => Self::Unknown,
        }
    }

    /// Whether a body that has come this far is all of it.
    fn is_complete(self, bytes: u64) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Bytes(all) => Some(bytes >= all),
            Self::Reached => Some(true),
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// How a request says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// After so many bytes; none without a header that says otherwise.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

impl Body {
    fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunked;
        }
        Self::Length(content_length(headers).unwrap_or(0))
    }
}
