//! The gateway's half of a call, filled phase by phase while Pingora forwards it.
//!
//! Each phase notes what only it can see, and copies from the ledgers what will be gone later: the
//! upstream's turns before its connection serves another call, the client's before the next
//! request. The finished [`Exchange`] leaves through the [`Entrance`](crate::pipeline::Entrance)
//! and the request path waits for none of what follows.

mod call;
mod describe;
mod failure;
mod open;
mod strict;
mod upstream_leg;

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use calltap_policies::review::Secrets;
use http::{HeaderMap, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use crate::account::Kind;
use crate::clock::now_ns;
use crate::config::Config;
use crate::identity::hops;
use crate::server::{ClientConnection, Shared};
use crate::socket::carried;
use crate::upstream::Upstreams;

use call::Call;
use failure::Failure;
use open::Held;
pub(crate) use open::{OpenCall, Step};

/// What a reload swaps as a whole: the configuration and everything built from it.
pub(crate) struct Setup {
    /// As loaded.
    pub(crate) config: Config,
    /// The groups the routes name.
    pub(crate) upstreams: Upstreams,
    /// What is hidden in records.
    pub(crate) secrets: Secrets,
}

/// One worker's proxy.
pub(crate) struct Gateway {
    setup: Arc<ArcSwap<Setup>>,
    shared: Arc<Shared>,
    streams: AtomicU64,
}

impl Gateway {
    pub(crate) fn new(setup: Arc<ArcSwap<Setup>>, shared: Arc<Shared>) -> Self {
        Self {
            setup,
            shared,
            streams: AtomicU64::new(0),
        }
    }
}

/// What Pingora's phases pass along. Empty until the head was read.
pub(crate) type CallContext = Option<Arc<OpenCall>>;

fn call(ctx: &CallContext) -> Held<'_> {
    ctx.as_ref()
        .expect("early_request_filter runs first and fills it")
        .hold()
}

/// 101 ends HTTP on the connection, so unlike its neighbours it is a final response.
fn is_final(response: &ResponseHeader) -> bool {
    !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS
}

/// Answers instead of the upstream.
async fn answer(session: &mut Session, ctx: &CallContext, failure: Failure) -> Result<()> {
    let (head, body) = call(ctx).answer(failure)?;
    session
        .as_downstream_mut()
        .write_error_response(head, body)
        .await
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = CallContext;

    fn new_ctx(&self) -> CallContext {
        None
    }

    // Pingora's own would compress, were it not switched off; switched off, it costs a little still.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        ctx: &mut CallContext,
    ) -> Result<()> {
        let head_read_ns = now_ns();
        let digest = session
            .digest()
            .and_then(|digest| digest.proxy_digest.clone());
        let connection = digest
            .as_deref()
            .and_then(carried::<ClientConnection>)
            .cloned()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "a stream that is not ours"))?;
        let setup = self.setup.load_full();
        let stall = setup.config.limits.client_stall;
        let stream = self.streams.fetch_add(1, Relaxed);
        let open = self.shared.entrance.account().open(Kind::Call);
        let hooks = Arc::clone(&self.shared.hooks);
        let call = Call::begin(
            session,
            Arc::clone(&connection),
            setup,
            hooks,
            open,
            stream,
            head_read_ns,
        );
        session.set_read_timeout(Some(stall));
        session.set_write_timeout(Some(stall));
        if session.get_keepalive().is_some() {
            // Idle connections are ours to time, in the stream; zero means no timer of Pingora's.
            session.set_keepalive(Some(0));
        }
        if self.shared.draining.load(Acquire) {
            session.set_keepalive(None);
        }
        session.set_pipelining_enabled(true);
        let call = Arc::new(OpenCall::new(call));
        connection.show(&call);
        *ctx = Some(call);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut CallContext) -> Result<bool> {
        let resolved = call(ctx).resolve(session);
        match resolved {
            Ok(()) => Ok(false),
            Err(failure) => {
                answer(session, ctx, failure).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut CallContext) -> Result<Box<HttpPeer>> {
        call(ctx).pick()
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        fd: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut CallContext,
    ) -> Result<()> {
        call(ctx).connected(reused, fd, digest);
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut CallContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        call(ctx).attempt_failed(&mut error);
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut CallContext,
        reused: bool,
    ) -> Box<Error> {
        call(ctx).attempt_broke(session, &mut error, reused);
        error
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut CallContext,
    ) -> Result<()> {
        call(ctx).rewrite(request)
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut CallContext,
    ) -> Result<()> {
        call(ctx).count_request_body(body.as_ref().map_or(0, Bytes::len), is_end)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut CallContext,
    ) -> Result<()> {
        if is_final(response) {
            call(ctx).response_read(session, response);
        } else {
            call(ctx).interim_read();
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut CallContext,
    ) -> Result<()> {
        if !is_final(response) {
            return Ok(());
        }
        if session.req_header().version < Version::HTTP_11
            && response.headers.contains_key(header::TRANSFER_ENCODING)
        {
            // HTTP/1.0 knows no chunks: there a body may end with its connection (RFC 9112, section 6.1).
            response.remove_header(&header::TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        let mut call = call(ctx);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            call.upgraded(session, response);
        } else if self.shared.draining.load(Acquire) {
            session.set_keepalive(None);
        }
        hops::clean_response(response);
        call.begin_response(response)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut CallContext,
    ) -> Result<Option<Duration>> {
        let mut call = call(ctx);
        call.count_response_body(body.as_ref().map_or(0, Bytes::len));
        call.check_time()?;
        if is_end {
            call.response_ended();
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut CallContext,
    ) -> Result<Option<Bytes>> {
        call(ctx).note_grpc_status(trailers);
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut CallContext,
    ) -> FailToProxy {
        if ctx.is_none() {
            return FailToProxy {
                error_code: 500,
                can_reuse_downstream: false,
            };
        }
        let failure = call(ctx).failure_of(error);
        // A 100 Continue is no answer.
        let answered = session.response_written().is_some_and(is_final);
        let unanswered = failure.status != 0 && !answered;
        if unanswered && let Err(error) = answer(session, ctx, failure).await {
            tracing::debug!("a client is gone before it could be answered: {error}");
        }
        FailToProxy {
            error_code: failure.status,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut CallContext) {
        if let Some(shown) = ctx.take()
            && let Some(call) = shown.take()
        {
            call.hide(&shown);
            let (open, finished) = call.finish(session, error);
            self.shared.entrance.call_finished(open, finished);
        }
    }

    // What went wrong with a call is in its record; a line per failed call would only repeat it.
    fn suppress_error_log(&self, _: &Session, _: &CallContext, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &CallContext,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
