//! The backend of the demonstration: a small order API that behaves in the ways real ones do.
//!
//! HTTP/1.1 over plain sockets, as much of it as the demonstration's calls need: bodies with a
//! length or in chunks, keep-alive, nothing else. Answers quickly, slowly, in pieces, with errors
//! or with a lot, depending on the path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::wire::{self, Head};

/// Bytes of an export: far more than the sockets' buffers on the way hold.
pub(crate) const EXPORT_BYTES: usize = 8 << 20;
/// Events of one stream, and the pause before each.
const EVENTS: usize = 5;
const EVENT_PAUSE: Duration = Duration::from_millis(40);
/// The longest body the API takes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The running API. Dropping it closes its listener and its connections.
pub(crate) struct Orders {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Orders {
    /// Listens on a free port of this machine.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener));
        Ok(Self {
            address,
            _serving: serving,
        })
    }
}

async fn accept(listener: TcpListener) {
    let shop = Arc::new(Shop::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let shop = Arc::clone(&shop);
                connections.spawn(async move {
                    // A caller that leaves in the middle is part of the demonstration.
                    let _ = serve(socket, &shop).await;
                });
            }
            Some(_) = connections.join_next() => (),
        }
    }
}

/// What the API remembers: how often it was asked, to vary its answers.
#[derive(Default)]
struct Shop {
    asked: AtomicU64,
    ordered: AtomicU64,
}

async fn serve(socket: TcpStream, shop: &Shop) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut socket = BufReader::new(socket);
    while let Some(head) = wire::read_head(&mut socket).await? {
        let body = wire::read_body(&mut socket, &head, BODY_BYTES_MAX).await?;
        answer(socket.get_mut(), &head, body.len(), shop).await?;
        if head.wants_close() {
            break;
        }
    }
    Ok(())
}

async fn answer(
    socket: &mut TcpStream,
    head: &Head,
    body_bytes: usize,
    shop: &Shop,
) -> io::Result<()> {
    let Some((method, path)) = head.request() else {
        return reply(socket, "400 Bad Request", r#"{"error":"not a request"}"#).await;
    };
    let turn = shop.asked.fetch_add(1, Ordering::Relaxed);
    let path = path.split('?').next().unwrap_or(path);
    match (method, path) {
        ("GET", "/orders") => {
            let orders: Vec<String> = (0..40)
                .map(|id| format!(r#"{{"id":{id},"item":"teapot","quantity":{}}}"#, id % 5 + 1))
                .collect();
            reply(socket, "200 OK", &format!("[{}]", orders.join(","))).await
        }
        ("POST", "/orders") if body_bytes == 0 => {
            reply(
                socket,
                "422 Unprocessable Content",
                r#"{"error":"an order has a body"}"#,
            )
            .await
        }
        ("POST", "/orders") => {
            sleep(Duration::from_millis(4)).await;
            let id = shop.ordered.fetch_add(1, Ordering::Relaxed) + 100;
            reply(socket, "201 Created", &format!(r#"{{"id":{id}}}"#)).await
        }
        ("GET", "/reports") => {
            sleep(Duration::from_millis(150 + turn % 4 * 50)).await;
            reply(socket, "200 OK", r#"{"orders":140,"revenue":1723.5}"#).await
        }
        ("GET", "/events") => events(socket).await,
        ("GET", "/exports") => export(socket).await,
        ("GET", "/flaky") => match turn % 3 {
            0 => {
                reply(
                    socket,
                    "500 Internal Server Error",
                    r#"{"error":"out of teapots"}"#,
                )
                .await
            }
            1 => {
                reply(
                    socket,
                    "503 Service Unavailable",
                    r#"{"error":"come back"}"#,
                )
                .await
            }
            // Hangs up in the middle of an answer.
            _ => {
                socket
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"half\":")
                    .await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        },
        ("GET", _) if path.starts_with("/orders/") => {
            match path.trim_start_matches("/orders/").parse::<u64>() {
                Ok(id) if id < 1_000 => {
                    sleep(Duration::from_millis(id % 4)).await;
                    reply(
                        socket,
                        "200 OK",
                        &format!(r#"{{"id":{id},"item":"teapot"}}"#),
                    )
                    .await
                }
                _ => reply(socket, "404 Not Found", r#"{"error":"no such order"}"#).await,
            }
        }
        ("GET", _) if path.starts_with("/stock/") => {
            reply(socket, "200 OK", r#"{"in_stock":7}"#).await
        }
        _ => reply(socket, "404 Not Found", r#"{"error":"no such thing"}"#).await,
    }
}

async fn reply(socket: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(text.as_bytes()).await
}

async fn events(socket: &mut TcpStream) -> io::Result<()> {
    socket
        .write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )
        .await?;
    for number in 0..EVENTS {
        sleep(EVENT_PAUSE).await;
        let event = format!("data: {{\"order\":{number},\"state\":\"packed\"}}\n\n");
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        socket.write_all(chunk.as_bytes()).await?;
    }
    socket.write_all(b"0\r\n\r\n").await
}

async fn export(socket: &mut TcpStream) -> io::Result<()> {
    const ROW: &[u8; 64] = b"2026-01-01;teapot;earthenware;brown;0.7 l;quantity 1;price 12.5\n";
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: {EXPORT_BYTES}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await?;
    let rows = ROW.repeat(1024);
    for _ in 0..EXPORT_BYTES / rows.len() {
        socket.write_all(&rows).await?;
    }
    Ok(())
}
