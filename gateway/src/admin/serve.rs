//! The admin API's listener, thread and runtime.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, watch};

use super::guard::{AskedBy, Guard, Token, is_loopback};
use super::{Inner, Sources, router, stream};

/// Connections at a time; further ones wait until one ends.
const CONNECTIONS_MAX: usize = 128;
/// A request's head must arrive whole within this time; so must the next one's on a kept connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// A request's head, bytes.
const HEAD_MAX: usize = 32 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// How long answers under way may take when the API ends.
const GRACE: Duration = Duration::from_secs(1);
/// The pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no admin API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// Anybody who can reach the address could ask.
    #[error(
        "the admin API on {address} can be reached from other machines, and there is no token; set admin.token_file, or listen on 127.0.0.1"
    )]
    Unprotected {
        /// The address.
        address: SocketAddr,
    },
    /// The address is taken or not ours.
    #[error(
        "the admin API cannot listen on {address}; choose another address with --admin or admin.address"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No thread or no runtime.
    #[error("cannot start the admin API's thread")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// A listener that answers nobody yet.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: StdListener,
    address: SocketAddr,
    guard: Guard,
}

impl Bound {
    /// Takes the address, or says at once why not. `hosts` are the Host names that are answered.
    pub(crate) fn bind(
        address: SocketAddr,
        token: Option<Token>,
        hosts: &[String],
    ) -> Result<Self, AdminError> {
        if token.is_none() && !is_loopback(address.ip()) {
            return Err(AdminError::Unprotected { address });
        }
        let bind = || {
            let listener = StdListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bind().map_err(|source| AdminError::Bind { address, source })?;
        Ok(Self {
            listener,
            guard: Guard::new(address, token, hosts),
            address,
        })
    }

    /// Where it listens; the port is the real one where 0 was asked for.
    #[cfg(test)]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is reached, unless that depends on who asks.
    pub(crate) fn url(&self) -> Option<String> {
        let address = self.address;
        (!address.ip().is_unspecified()).then(|| format!("http://{address}"))
    }

    /// Begins to answer, on a thread of its own.
    pub(crate) fn start(self, sources: Sources) -> Result<Running, AdminError> {
        let Self {
            listener,
            guard,
            address,
        } = self;
        let Sources {
            facts,
            denials,
            account,
            sink,
            recent,
            metrics,
            board,
            destinations,
            visible,
            secrets,
            instance,
        } = sources;
        let (end, ending) = watch::channel(false);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let api = Arc::new(Inner {
            facts,
            denials,
            account,
            sink,
            recent,
            metrics,
            board,
            destinations,
            visible,
            secrets,
            instance,
            guard,
            streams: stream::Streams::default(),
            started: Instant::now(),
            started_unix_s: since_1970.unwrap_or_default().as_secs_f64(),
            ending: ending.clone(),
        });
        let thread = |source| AdminError::Thread { source };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(thread)?;
        let guard = runtime.enter();
        let listener = TcpListener::from_std(listener).map_err(thread)?;
        drop(guard);
        let thread = std::thread::Builder::new()
            .name("calltap-admin".to_owned())
            .spawn(move || {
                runtime.block_on(accept(listener, router(api), ending));
                runtime.shutdown_timeout(Duration::ZERO);
            })
            .map_err(thread)?;
        tracing::info!("admin API on http://{address}");
        Ok(Running {
            end,
            thread: Some(thread),
        })
    }
}

/// The API while it answers. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin API's thread has panicked");
        }
    }
}

/// Returns when the API ends.
pub(super) async fn ended(ending: &mut watch::Receiver<bool>) {
    // An error says that its owner is gone, which is the same.
    let _ = ending.wait_for(|ending| *ending).await;
}

async fn accept(listener: TcpListener, router: Router, mut ending: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            accepted = async { (place.await, listener.accept().await) } => accepted,
            () = ended(&mut ending) => break,
        };
        match accepted {
            (Ok(place), Ok((socket, peer))) => {
                let router = router.clone().layer(Extension(AskedBy(peer.ip())));
                let ending = ending.clone();
                tokio::spawn(async move {
                    serve(socket, router, ending).await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (Err(_), _) => break, // never: nobody closes the semaphore
        }
    }
    drop(listener);
    let all = places.acquire_many(CONNECTIONS_MAX as u32);
    if tokio::time::timeout(GRACE, all).await.is_err() {
        tracing::debug!("connections to the admin API were cut");
    }
}

async fn serve(socket: TcpStream, router: Router, mut ending: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ended(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that left or spoke no HTTP; it has been told what there was to tell.
        tracing::debug!(%error, "a connection to the admin API failed");
    }
}
