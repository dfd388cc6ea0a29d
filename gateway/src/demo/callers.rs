//! The clients of the demonstration: each call of them carries an id of its own and tells what came
//! back, so that the records can be held against what really happened.
//!
//! Plain sockets, because some of them misbehave on purpose: they trickle an upload, read slowly, or
//! leave in the middle.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::wire::{self, Pieces};

/// How many callers there are at a time.
const CALLERS: usize = 8;
/// No call takes longer than this unless something is wrong.
const CALL_MAX: Duration = Duration::from_secs(10);
/// What a caller that reads slowly lets its kernel hold, bytes.
const SLOW_READER_BUFFER: u32 = 32 * 1024;
/// How much of an export a caller reads before it pauses or leaves.
const FIRST_BITE: usize = 128 * 1024;

/// One way to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    List,
    Get,
    Missing,
    Order,
    EmptyOrder,
    TrickledOrder,
    Report,
    Events,
    Stock,
    Flaky,
    Export,
    SlowExport,
    LeaveExport,
    LeaveReport,
}

/// What is called, over and over. The first dozen has something of everything.
#[rustfmt::skip]
const MIX: [Kind; 40] = {
    use Kind::*;
    [
        List, Get, Order, Report, Stock, Flaky, TrickledOrder, Events, SlowExport, LeaveExport,
        Missing, LeaveReport, Get, List, Get, Order, Flaky, Get, List, Stock, Get, Order, Export,
        Get, List, EmptyOrder, Get, List, Get, Order, Get, Flaky, Get, List, Report, Get, Stock,
        List, Get, Order,
    ]
};

/// What a caller knows of its call.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// Its X-Request-ID.
    pub(crate) id: String,
    /// Method and target, for people.
    pub(crate) what: String,
    /// The status it got; absent when it left or was left before there was one.
    pub(crate) status: Option<u16>,
    /// How it ended.
    pub(crate) end: End,
}

/// How a call ended, as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The whole response arrived.
    Whole,
    /// The caller left on purpose.
    Left,
    /// The response ended too early.
    Broken(String),
    /// The gateway could not be reached: there was no call.
    NotMade(String),
}

/// Makes `calls` calls to `gateway`, each caller pausing for `pace` between two of its own. The
/// channel ends when all are made.
pub(crate) fn start(
    gateway: SocketAddr,
    calls: usize,
    pace: Duration,
    made: mpsc::Sender<Made>,
) -> JoinSet<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS.min(calls) {
        let mut caller = Caller {
            gateway,
            kept: None,
        };
        let next = Arc::clone(&next);
        let made = made.clone();
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    break;
                }
                if made.send(caller.call(number).await).await.is_err() {
                    break;
                }
                sleep(pace).await;
            }
        });
    }
    callers
}

/// Opens a connection and says something that is not HTTP, as scanners do.
pub(crate) async fn scan(gateway: SocketAddr) -> io::Result<()> {
    let mut socket = TcpStream::connect(gateway).await?;
    socket.write_all(b"\x16\x03 not http\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = timeout(CALL_MAX, socket.read_to_end(&mut answer)).await;
    Ok(())
}

/// One client with one kept-alive connection.
struct Caller {
    gateway: SocketAddr,
    kept: Option<BufReader<TcpStream>>,
}

impl Caller {
    async fn call(&mut self, number: usize) -> Made {
        let kind = MIX[number % MIX.len()];
        let (method, target) = match kind {
            Kind::List => ("GET", "/orders".to_owned()),
            Kind::Get => ("GET", format!("/orders/{}", number % 1_000)),
            Kind::Missing => ("GET", "/orders/none".to_owned()),
            Kind::Order | Kind::EmptyOrder | Kind::TrickledOrder => ("POST", "/orders".to_owned()),
            Kind::Report | Kind::LeaveReport => ("GET", "/reports".to_owned()),
            Kind::Events => ("GET", "/events".to_owned()),
            Kind::Stock => ("GET", format!("/stock/{}", number % 7)),
            Kind::Flaky => ("GET", "/flaky".to_owned()),
            Kind::Export | Kind::SlowExport | Kind::LeaveExport => ("GET", "/exports".to_owned()),
        };
        let mut made = Made {
            id: Uuid::now_v7().to_string(),
            what: format!("{method} {target}"),
            status: None,
            end: End::Whole,
        };
        // Now and then a client without keep-alive.
        let close = if number % 9 == 4 {
            "Connection: close\r\n"
        } else {
            ""
        };
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: orders.example\r\nUser-Agent: calltap-demo/{}\r\n\
             X-Request-ID: {}\r\nX-IBM-Client-Id: {}\r\n{close}",
            env!("CARGO_PKG_VERSION"),
            made.id,
            ["storefront", "warehouse", "till"][number % 3],
        );
        let socket = match self.connection(kind).await {
            Ok(socket) => socket,
            Err(error) => {
                made.end = End::NotMade(error.to_string());
                return made;
            }
        };
        let mut socket = socket;
        let ended = timeout(
            CALL_MAX,
            converse(&mut socket, kind, &head, &mut made.status),
        )
        .await;
        made.end = match ended {
            Ok(Ok(Reusable::Yes)) => {
                self.kept = Some(socket);
                End::Whole
            }
            Ok(Ok(Reusable::No)) => End::Whole,
            Ok(Ok(Reusable::Left)) => End::Left,
            Ok(Err(error)) => End::Broken(error.to_string()),
            Err(_) => End::Broken(format!("no end within {} s", CALL_MAX.as_secs())),
        };
        made
    }

    /// The kept connection, or a new one; callers that will leave or crawl bring their own.
    async fn connection(&mut self, kind: Kind) -> io::Result<BufReader<TcpStream>> {
        let is_special = matches!(
            kind,
            Kind::SlowExport | Kind::LeaveExport | Kind::LeaveReport
        );
        if !is_special && let Some(kept) = self.kept.take() {
            return Ok(kept);
        }
        let socket = TcpSocket::new_v4()?;
        if is_special {
            socket.set_recv_buffer_size(SLOW_READER_BUFFER)?;
        }
        let socket = timeout(CALL_MAX, socket.connect(self.gateway))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        socket.set_nodelay(true)?;
        Ok(BufReader::new(socket))
    }
}

/// Whether the connection can carry another call.
enum Reusable {
    Yes,
    No,
    /// The caller left it in the middle.
    Left,
}

async fn converse(
    socket: &mut BufReader<TcpStream>,
    kind: Kind,
    head: &str,
    status: &mut Option<u16>,
) -> io::Result<Reusable> {
    send(socket.get_mut(), kind, head).await?;
    if kind == Kind::LeaveReport {
        sleep(Duration::from_millis(60)).await;
        return Ok(Reusable::Left);
    }
    let answer = wire::read_head(socket)
        .await?
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    *status = answer.status();
    let mut pieces = Pieces::of(&answer)?;
    let mut received = Vec::new();
    let mut total = 0;
    let mut has_paused = false;
    while pieces.read(socket, &mut received).await? {
        total += received.len();
        received.clear();
        if total < FIRST_BITE || has_paused {
            continue;
        }
        match kind {
            Kind::LeaveExport => return Ok(Reusable::Left),
            Kind::SlowExport => {
                has_paused = true;
                sleep(Duration::from_millis(300)).await;
            }
            _ => (),
        }
    }
    Ok(
        if answer.wants_close() || head.contains("Connection: close") {
            Reusable::No
        } else {
            Reusable::Yes
        },
    )
}

async fn send(socket: &mut TcpStream, kind: Kind, head: &str) -> io::Result<()> {
    const ORDER: &str = r#"{"item":"teapot","quantity":2,"note":"as brown as last time, please"}"#;
    match kind {
        Kind::Order => {
            let body = ORDER.repeat(20);
            let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            socket.write_all(request.as_bytes()).await
        }
        Kind::EmptyOrder => {
            let request = format!("{head}Content-Length: 0\r\n\r\n");
            socket.write_all(request.as_bytes()).await
        }
        Kind::TrickledOrder => {
            let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
            socket.write_all(request.as_bytes()).await?;
            for _ in 0..5 {
                sleep(Duration::from_millis(40)).await;
                let chunk = format!("{:x}\r\n{ORDER}\r\n", ORDER.len());
                socket.write_all(chunk.as_bytes()).await?;
            }
            socket.write_all(b"0\r\n\r\n").await
        }
        _ => socket.write_all(format!("{head}\r\n").as_bytes()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::orders::{EXPORT_BYTES, Orders};
    use super::*;

    #[tokio::test]
    async fn every_kind_of_call_ends_as_it_should() {
        let orders = Orders::start().await.expect("a free port");
        let (sender, mut receiver) = mpsc::channel(MIX.len());
        let callers = start(orders.address, MIX.len(), Duration::ZERO, sender);
        let mut made = Vec::new();
        while let Some(call) = receiver.recv().await {
            made.push(call);
        }
        callers.join_all().await;
        assert_eq!(made.len(), MIX.len());
        let mut ids: Vec<&str> = made.iter().map(|call| call.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), MIX.len(), "every call has its own id");
        for call in &made {
            match (call.what.as_str(), &call.end) {
                ("GET /flaky", End::Whole) => assert!(call.status >= Some(500), "{call:?}"),
                ("GET /flaky", End::Broken(_)) => assert_eq!(call.status, Some(200), "{call:?}"),
                ("GET /orders/none", End::Whole) => assert_eq!(call.status, Some(404)),
                ("POST /orders", End::Whole) => {
                    assert!(matches!(call.status, Some(201 | 422)), "{call:?}");
                }
                ("GET /reports", End::Left) => assert_eq!(call.status, None),
                (_, End::Whole | End::Left) => assert_eq!(call.status, Some(200), "{call:?}"),
                _ => panic!("{call:?}"),
            }
        }
        let left = made.iter().filter(|call| call.end == End::Left).count();
        assert_eq!(left, 2);
    }

    #[tokio::test]
    async fn an_export_is_whole() {
        let orders = Orders::start().await.expect("a free port");
        let mut socket = BufReader::new(TcpStream::connect(orders.address).await.expect("connect"));
        socket
            .get_mut()
            .write_all(b"GET /exports HTTP/1.1\r\n\r\n")
            .await
            .expect("send");
        let head = wire::read_head(&mut socket)
            .await
            .expect("a head")
            .expect("an answer");
        let body = wire::read_body(&mut socket, &head, EXPORT_BYTES)
            .await
            .expect("a body");
        assert_eq!(body.len(), EXPORT_BYTES);
    }

    #[tokio::test]
    async fn nobody_there_is_not_a_call() {
        let address = {
            let orders = Orders::start().await.expect("a free port");
            orders.address
        };
        // The listener is closed by dropping the API; its task may need a moment to go.
        tokio::task::yield_now().await;
        let mut caller = Caller {
            gateway: address,
            kept: None,
        };
        let made = caller.call(0).await;
        assert!(matches!(made.end, End::NotMade(_)), "{made:?}");
    }
}
