//! The bytes of a client's connection: counted, buffered and timed on their way to Pingora.
//!
//! Pingora's own stream counts nothing below TLS, keeps 64 KiB of buffers per idle connection and
//! has no deadline for a request head. This one does what the join needs: it knows at any moment
//! how many bytes the socket has given and taken, and for how long it took none.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::connection::{ClientConnection, Ended};
use crate::clock::now_ns;
use crate::socket::carry;
use crate::tls::Observed;

/// Small writes gather up to this many bytes before they go to the socket; a flush sends them at
/// once. A response head and a small body then leave in one segment.
const WRITE_BUFFER: usize = 16 * 1024;
/// The room for them that a connection keeps between two calls.
const WRITE_BUFFER_KEPT: usize = 1024;

/// The socket itself: counts what passes and enforces the connection's deadline.
#[derive(Debug)]
pub(super) struct Wire {
    tcp: Arc<TcpStream>,
    connection: Arc<ClientConnection>,
    timer: Option<Pin<Box<Sleep>>>,
    timer_at_ns: u64,
}

impl Wire {
    pub(super) fn new(tcp: Arc<TcpStream>, connection: Arc<ClientConnection>) -> Self {
        Self {
            tcp,
            connection,
            timer: None,
            timer_at_ns: 0,
        }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn failed(&self, error: io::Error) -> io::Error {
        self.connection.end(match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ended::ClientReset,
            _ => Ended::Failed,
        });
        error
    }

    /// A read that did not fill its room took all there was: whatever comes next wakes the reader, and
    /// to ask the socket before would be a system call in vain. `TcpStream` does so by itself where it
    /// is read through [`AsyncRead`].
    fn await_more(&self) {
        let _ = self.tcp.try_io(Interest::READABLE, || -> io::Result<()> {
            Err(io::ErrorKind::WouldBlock.into())
        });
    }

    /// Waits until there is something to read or the time for it is up; which of both, a read says.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.tcp.poll_read_ready(cx).is_ready() {
            return Poll::Ready(());
        }
        self.connection.note_read_dry();
        self.poll_deadline(cx).map(drop)
    }

    /// Nothing to read, or no room to write: waits for the deadline too. The timer is armed once and then only looked
    /// at when it fires, for most deadlines are moved on long before they are reached.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let deadline_ns = self.connection.deadline_ns();
            if deadline_ns == u64::MAX {
                return Poll::Pending;
            }
            if self.timer.is_none() || deadline_ns < self.timer_at_ns {
                let now = now_ns();
                let at = Instant::now() + Duration::from_nanos(deadline_ns.saturating_sub(now));
                self.timer_at_ns = deadline_ns;
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(at),
                    None => self.timer = Some(Box::pin(sleep_until(at))),
                }
            }
            let timer = self.timer.as_mut().expect("armed above");
            ready!(timer.as_mut().poll(cx));
            if now_ns() >= self.connection.deadline_ns() {
                self.connection.expire();
                return Poll::Ready(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client's time is up",
                ));
            }
            self.timer = None;
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.tcp.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                Poll::Pending => {
                    self.connection.note_read_dry();
                    return match self.poll_deadline(cx) {
                        Poll::Ready(error) => Poll::Ready(Err(error)),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
            let room = buf.remaining();
            // Safe uninitialised reads: `try_read_buf` fills what `ReadBuf` has not initialised.
            match self.tcp.try_read_buf(buf) {
                Ok(0) => {
                    if buf.remaining() > 0 {
                        self.connection.end(Ended::ClientClosed);
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(n) => {
                    self.connection.count_wire_read(n);
                    if n < room {
                        self.await_more();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(self.failed(error))),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.tcp.try_write(buf) {
                Ok(n) => {
                    self.connection.count_wire_written(n);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(self.failed(error))),
            }
            self.connection.blocked();
            match self.tcp.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                Poll::Pending => return self.poll_deadline(cx).map(Err),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = rustix::net::shutdown(self.tcp.as_ref(), rustix::net::Shutdown::Write);
        Poll::Ready(result.map_err(io::Error::from))
    }
}

/// With or without TLS.
#[derive(Debug)]
pub(super) enum Transport {
    /// As it comes.
    Plain(Wire),
    /// Encrypted.
    Tls(Box<TlsStream<Observed<Wire>>>),
}

/// What Pingora reads requests from and writes responses to.
#[derive(Debug)]
pub(super) struct ClientStream {
    transport: Transport,
    out: Vec<u8>,
    written: usize,
    connection: Arc<ClientConnection>,
    alpn: Option<ALPN>,
    ssl: Option<Arc<SslDigest>>,
    /// Carries the connection to the proxy phases.
    digest: OnceLock<Arc<ProxyDigest>>,
    socket: Option<Arc<SocketDigest>>,
}

impl ClientStream {
    pub(super) fn new(
        transport: Transport,
        connection: Arc<ClientConnection>,
        alpn: Option<ALPN>,
        ssl: Option<Arc<SslDigest>>,
    ) -> Self {
        Self {
            transport,
            out: Vec::new(),
            written: 0,
            connection,
            alpn,
            ssl,
            digest: OnceLock::new(),
            socket: None,
        }
    }

    /// Waits for the next request, with no room kept for it but this stream. Returns at once under
    /// TLS, which may hold what has arrived already.
    pub(super) async fn arrival(&mut self) {
        poll_fn(|cx| {
            // What fails here fails again when it is read.
            let _ = self.poll_drain(cx);
            self.out.shrink_to(WRITE_BUFFER_KEPT);
            match &mut self.transport {
                Transport::Plain(wire) => wire.poll_arrival(cx),
                Transport::Tls(_) => Poll::Ready(()),
            }
        })
        .await;
    }

    fn poll_transport_write(
        &mut self,
        cx: &mut Context<'_>,
        from_buffer: bool,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = if from_buffer {
            &self.out[self.written..]
        } else {
            bytes
        };
        match &mut self.transport {
            Transport::Plain(wire) => Pin::new(wire).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let n = ready!(self.poll_transport_write(cx, true, &[]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Pingora flushes bodies, not heads. Whoever reads has nothing more to write for now, so a
        // head whose body is yet to come (server-sent events) leaves here.
        if let Poll::Ready(result) = this.poll_drain(cx) {
            result?;
        }
        let before = buf.filled().len();
        let result = match &mut this.transport {
            Transport::Plain(wire) => Pin::new(wire).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        };
        this.connection.note_plain_read(&buf.filled()[before..]);
        result
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.out.is_empty() {
            this.connection.note_answer(buf);
        } else if this.out.len() + buf.len() > WRITE_BUFFER {
            ready!(this.poll_drain(cx))?;
        }
        let taken = if this.out.is_empty() && buf.len() >= WRITE_BUFFER {
            ready!(this.poll_transport_write(cx, false, buf))?
        } else {
            this.out.extend_from_slice(buf);
            buf.len()
        };
        this.connection.note_plain_written(buf, taken);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        match &mut this.transport {
            Transport::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if let Some(ledger) = this.connection.socket.ledger() {
            // TLS says goodbye, which is not the response's.
            ledger.cut_sent();
        }
        match &mut this.transport {
            Transport::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::debug!("shutting down a client's connection: {error}");
        }
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> i32 {
        use std::os::fd::AsRawFd;
        match &self.transport {
            Transport::Plain(wire) => wire.tcp().as_raw_fd(),
            Transport::Tls(tls) => tls.get_ref().0.get_ref().tcp().as_raw_fd(),
        }
    }
}

impl Ssl for ClientStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.alpn.clone()
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        let digest = self
            .digest
            .get_or_init(|| Arc::new(carry(self.connection.clone())));
        Some(digest.clone())
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.clone()
    }
}

impl Peek for ClientStream {}
