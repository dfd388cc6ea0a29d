//! A byte stream that lets the ClientHello, and where the handshake ends, be read on their way to
//! rustls.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use rustls::ProtocolVersion;

use super::handshake::HandshakeEnd;
use super::hello::{ClientHello, HelloReader};

/// Passes bytes through unchanged and keeps the ClientHello among the first of them.
#[derive(Debug)]
pub(crate) struct Observed<S> {
    inner: S,
    reader: Option<HelloReader>,
    hello: Option<ClientHello>,
    handshake: HandshakeEnd,
}

impl<S> Observed<S> {
    /// Observes `inner` from its first byte.
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            reader: Some(HelloReader::default()),
            hello: None,
            handshake: HandshakeEnd::default(),
        }
    }

    /// What the client offered, once it has; `None` also when it spoke no TLS.
    pub(crate) fn hello(&self) -> Option<&ClientHello> {
        self.hello.as_ref()
    }

    /// The handshake is over: how many bytes the client sent for it, where that can be told.
    pub(crate) fn handshake_bytes(
        &self,
        version: Option<ProtocolVersion>,
        asked_for_certificate: bool,
    ) -> Option<u64> {
        match version? {
            ProtocolVersion::TLSv1_2 => self.handshake.tls12(),
            ProtocolVersion::TLSv1_3 if !asked_for_certificate => self.handshake.tls13(),
            _ => None,
        }
    }

    /// The stream itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.inner
    }

    fn observe(&mut self, bytes: &[u8]) {
        self.handshake.push(bytes);
        let Some(reader) = &mut self.reader else {
            return;
        };
        match reader.push(bytes) {
            Ok(None) => {}
            Ok(Some(hello)) => {
                self.hello = Some(hello);
                self.reader = None;
            }
            // rustls refuses what is no TLS and says so in its own words.
            Err(_) => self.reader = None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.inner).poll_read(context, buffer);
        if matches!(outcome, Poll::Ready(Ok(()))) {
            this.observe(&buffer.filled()[before..]);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
