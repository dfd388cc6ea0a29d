//! A client on a plain socket.

use std::io;
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;
use super::wire::{Body, Head, Wire};

/// One connection.
pub(crate) struct Client {
    wire: Wire<TcpStream>,
}

/// What came back, and how many bytes it took.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Body,
    pub(crate) wire_bytes: u64,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.word(1).parse().expect("a status")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("calltap accepts");
        Self::over(stream)
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        Self {
            wire: Wire::new(stream),
        }
    }

    /// Its own end.
    pub(crate) fn local(&self) -> SocketAddr {
        self.wire.stream().local_addr().expect("connected")
    }

    pub(crate) fn wire(&mut self) -> &mut Wire<TcpStream> {
        &mut self.wire
    }

    /// Writes all of it.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes).expect("calltap reads");
    }

    /// The next message, as the answer to `method`.
    pub(crate) fn response(&mut self, method: &str) -> Response {
        self.try_response(method)
            .expect("calltap answers")
            .expect("an answer before the end of the connection")
    }

    pub(crate) fn try_response(&mut self, method: &str) -> io::Result<Option<Response>> {
        let before = self.wire.taken();
        let Some(head) = self.wire.head()? else {
            return Ok(None);
        };
        let status: u16 = head.word(1).parse().map_err(io::Error::other)?;
        let bodiless = method == "HEAD" || status < 200 || matches!(status, 204 | 304);
        let body = match bodiless {
            true => Body {
                complete: true,
                ..Body::default()
            },
            false => self.wire.body(&head, true)?,
        };
        Ok(Some(Response {
            head,
            body,
            wire_bytes: self.wire.taken() - before,
        }))
    }

    /// A request without a body, and its answer.
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n"));
        self.response("GET")
    }

    /// Whether the other end closed in good order, once everything was read.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.wire.rest(), Ok(rest) if rest.is_empty())
    }

    /// Closes with a RST.
    pub(crate) fn reset(self) {
        reset(self.wire.stream());
    }
}

/// From now on closing the socket resets the connection.
pub(crate) fn reset(stream: &TcpStream) {
    let at_once = Some(std::time::Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(stream, at_once).expect("linger");
}
