//! HTTP/2 at both ends of the gateway, plain by prior knowledge or in TLS: clients with one stream or
//! many at a time, and upstreams that answer bytes, uploads and gRPC.
//!
//! | path | answers |
//! |---|---|
//! | `/bytes/{n}` | `n` pattern bytes |
//! | `/echo` | reads the body; its length as text |
//! | `/shop.Orders/Get` | gRPC: one message for one message |
//! | `/shop.Orders/Watch` | gRPC: `?messages=` messages for one, `?every_ms=` apart |

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, Version};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certificate;
use crate::client::ANSWER_MAX;
use crate::truth::caller::{Caller, named};
use crate::truth::evidence::Asked;
use crate::wire::fill_pattern;

/// As much as is handed to a stream at once.
const PIECE_BYTES: usize = 16 * 1_024;
/// A gRPC message's own head: not compressed, and its length.
const MESSAGE_HEAD_BYTES: usize = 5;

/// A running upstream; ends when dropped.
pub struct Streams {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Streams {
    /// Serves a listener that exists already.
    pub fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                // A connection that breaks is the scenario's doing; the client notices.
                tokio::spawn(async move {
                    stream.set_nodelay(true)?;
                    match tls {
                        None => converse(stream).await,
                        Some(tls) => converse(TlsAcceptor::from(tls).accept(stream).await?).await,
                    }
                });
            }
        });
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(async move {
            // As above.
            let _ = respond_to(request, respond).await;
        });
    }
    Ok(())
}

async fn respond_to(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> anyhow::Result<()> {
    let uri = request.uri().clone();
    let number = |name: &str| -> u64 {
        let query = uri.query().unwrap_or_default();
        let value = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let (received, ..) = drain(request.into_body()).await?;
    let path = uri.path();
    if path.starts_with("/shop.Orders/") {
        let head = Response::builder().header("content-type", "application/grpc");
        let mut stream = respond.send_response(head.body(())?, false)?;
        let pause = Duration::from_millis(number("every_ms"));
        for nth in 0..number("messages").max(1) {
            sleep(pause).await;
            send(&mut stream, message(100 + 13 * nth), false).await?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse()?);
        stream.send_trailers(trailers)?;
        return Ok(());
    }
    let body = match path.strip_prefix("/bytes/") {
        Some(count) => pattern(count.parse()?),
        None => Bytes::from(format!("{received}\n")),
    };
    let head = Response::builder().header("content-length", body.len());
    let mut stream = respond.send_response(head.body(())?, body.is_empty())?;
    if !body.is_empty() {
        send(&mut stream, body, true).await?;
    }
    Ok(())
}

/// One call as it is meant.
#[derive(Clone, Debug)]
pub struct StreamAsk {
    /// Path and query, to which the call's name is added.
    pub target: String,
    /// The request's body; none is a `GET`.
    pub body: Option<Bytes>,
    /// Is gRPC, and ends in trailers.
    pub grpc: bool,
}

impl StreamAsk {
    /// A `GET` of so many bytes.
    pub fn get(bytes: u64) -> Self {
        Self {
            target: format!("/bytes/{bytes}"),
            body: None,
            grpc: false,
        }
    }

    /// A `POST` of so many.
    pub fn post(bytes: u64) -> Self {
        Self {
            target: "/echo".to_owned(),
            body: Some(pattern(bytes)),
            grpc: false,
        }
    }

    /// A gRPC call with one message of so many bytes.
    pub fn grpc(method: &str, bytes: u64) -> Self {
        Self {
            target: format!("/shop.Orders/{method}"),
            body: Some(message(bytes)),
            grpc: true,
        }
    }
}

/// Makes calls over one new connection, `together` at a time. To be called inside the client's
/// namespace.
pub fn ask_together(caller: &Caller, asks: Vec<StreamAsk>, together: usize) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = runtime.block_on(async {
        let stream = TcpStream::connect(caller.server()).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        match caller.tls() {
            None => over(stream, local, caller, asks, together).await,
            Some(tls) => {
                let name = ServerName::try_from(certificate::NAME)?;
                let stream = TlsConnector::from(tls).connect(name, stream).await?;
                over(stream, local, caller, asks, together).await
            }
        }
    })?;
    asked.into_iter().for_each(|asked| caller.note(asked));
    Ok(())
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    local: SocketAddr,
    caller: &Caller,
    asks: Vec<StreamAsk>,
    together: usize,
) -> anyhow::Result<Vec<Asked>> {
    let scheme = caller.tls().map_or("http", |_| "https");
    let (sender, driver) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(driver);
    let places = Arc::new(Semaphore::new(together));
    let mut running = Vec::new();
    for ask in asks {
        let place = places.clone().acquire_owned().await?;
        let sender = sender.clone().ready().await?;
        let mut asked = Asked {
            id: caller.id(),
            client: local,
            status: None,
            complete: false,
        };
        running.push(tokio::spawn(async move {
            let went = timeout(ANSWER_MAX, exchange(sender, scheme, &ask, &mut asked)).await;
            asked.complete = matches!(went, Ok(Ok(())));
            drop(place);
            asked
        }));
    }
    drop(sender);
    let mut all = Vec::new();
    for stream in running {
        all.push(stream.await?);
    }
    // With the last sender gone the driver says goodbye and ends.
    let _ = timeout(Duration::from_secs(5), driver).await;
    Ok(all)
}

async fn exchange(
    mut sender: SendRequest<Bytes>,
    scheme: &str,
    ask: &StreamAsk,
    asked: &mut Asked,
) -> anyhow::Result<()> {
    let name = certificate::NAME;
    let request = Request::builder()
        .version(Version::HTTP_2)
        .method(if ask.body.is_some() { "POST" } else { "GET" })
        .uri(format!(
            "{scheme}://{name}{}",
            named(&ask.target, &asked.id)
        ));
    let request = match (&ask.body, ask.grpc) {
        (None, _) => request,
        (Some(body), false) => request.header("content-length", body.len()),
        (Some(_), true) => request
            .header("content-type", "application/grpc")
            .header("te", "trailers"),
    };
    let (response, mut upload) = sender.send_request(request.body(())?, ask.body.is_none())?;
    if let Some(body) = &ask.body {
        send(&mut upload, body.clone(), true).await?;
    }
    let response = response.await?;
    asked.status = Some(response.status().as_u16());
    let (_, trailers) = drain(response.into_body()).await?;
    ensure!(
        !ask.grpc || trailers.is_some(),
        "a gRPC call without its status"
    );
    Ok(())
}

/// Sends all of `body`, as the peer has room for it.
async fn send(stream: &mut SendStream<Bytes>, mut body: Bytes, last: bool) -> anyhow::Result<()> {
    loop {
        stream.reserve_capacity(body.len().min(PIECE_BYTES));
        let granted = poll_fn(|context| stream.poll_capacity(context)).await;
        let granted = granted.context("the stream is gone")??;
        let piece = body.split_to(granted.min(body.len()));
        stream.send_data(piece, last && body.is_empty())?;
        if body.is_empty() {
            return Ok(());
        }
    }
}

/// Reads a body to its end: its bytes, and its trailers if any.
async fn drain(mut body: RecvStream) -> anyhow::Result<(u64, Option<HeaderMap>)> {
    let mut received = 0;
    while let Some(piece) = body.data().await {
        let bytes = piece?.len();
        received += bytes as u64;
        body.flow_control().release_capacity(bytes)?;
    }
    Ok((received, body.trailers().await?))
}

fn pattern(bytes: u64) -> Bytes {
    let mut pattern = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    fill_pattern(0, &mut pattern);
    pattern.into()
}

/// A gRPC message of so many bytes.
fn message(bytes: u64) -> Bytes {
    let body = pattern(bytes);
    let mut message = BytesMut::with_capacity(MESSAGE_HEAD_BYTES + body.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    message.extend_from_slice(&body);
    message.freeze()
}
