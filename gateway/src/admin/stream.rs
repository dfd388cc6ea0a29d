//! What comes, as server-sent events, read from a ring at the reader's own pace.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::recent::Recent;
use super::serve::ended;
use super::{Api, Refusal};

/// Streams at a time, of calls and alerts together; each costs its share of the one admin thread.
pub(crate) const STREAMS_MAX: usize = 16;
/// A stream that has nothing to say says so this often, so that neither end takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Pieces of a stream that wait for a slow reader. Beyond that its records wait in the ring.
const PIECES_MAX: usize = 2;
/// A stream is written in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

/// What the streams have in common.
#[derive(Debug)]
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    dropped: AtomicU64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Streams {
    /// How many are open.
    pub(super) fn open(&self) -> usize {
        STREAMS_MAX - self.places.available_permits()
    }

    /// Events that left their ring before a slow reader could be shown them.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Answers with what `ring` has from the number `next` on. `show` writes the event of each, or
/// nothing.
pub(super) fn respond<T: Send + Sync + 'static>(
    api: &Api,
    ring: Arc<Recent<T>>,
    next: u64,
    show: impl FnMut(&T, &mut Vec<u8>) + Send + 'static,
) -> Result<Response, Refusal> {
    let place = Arc::clone(&api.streams.places).try_acquire_owned();
    let place = place.map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{STREAMS_MAX} streams are open already"),
        )
    })?;
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let stream = Stream {
        api: Arc::clone(api),
        ring,
        show,
        next,
        pieces,
        _place: place,
    };
    tokio::spawn(stream.run());
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(body))).into_response())
}

struct Stream<T, F> {
    api: Api,
    ring: Arc<Recent<T>>,
    show: F,
    /// The number of what is shown next.
    next: u64,
    pieces: mpsc::Sender<Result<Bytes, Infallible>>,
    _place: OwnedSemaphorePermit,
}

impl<T, F: FnMut(&T, &mut Vec<u8>)> Stream<T, F> {
    /// Ends when the reader is gone or the API ends.
    async fn run(mut self) {
        let mut ending = self.api.ending.clone();
        let mut piece = b": calltap\n\n".to_vec();
        loop {
            if !piece.is_empty() && self.pieces.send(Ok(piece.into())).await.is_err() {
                return;
            }
            piece = tokio::select! {
                () = self.ring.wait_for(self.next) => self.gather(),
                () = tokio::time::sleep(KEEP_ALIVE) => b": still here\n\n".to_vec(),
                () = self.pieces.closed() => return,
                () = ended(&mut ending) => return,
            };
        }
    }

    /// What there is to tell, at most a piece.
    fn gather(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < PIECE_BYTES {
            let (missed, items) = self.ring.from(self.next);
            self.next += missed;
            if missed > 0 {
                let dropped = &self.api.streams.dropped;
                dropped.fetch_add(missed, Ordering::Relaxed);
                let event = format!("event: dropped\ndata: {{\"dropped\":{missed}}}\n\n");
                out.extend_from_slice(event.as_bytes());
            }
            if items.is_empty() {
                break;
            }
            for (number, item) in items {
                self.next = number + 1;
                (self.show)(&item, &mut out);
                if out.len() >= PIECE_BYTES {
                    break;
                }
            }
        }
        out
    }
}
