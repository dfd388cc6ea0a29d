//! HTTP/2 by prior knowledge: all calls of a session as streams of one connection, at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Version};
use tokio::net::TcpStream;
use tokio::runtime;

use crate::client::{ANSWER_MAX, Observed, Outcome, Seen, Together};
use crate::plan::Call;
use crate::wire::fill_pattern;

/// Sends `calls` over one connection to `address`; what happens is added to `seen`.
pub fn play(calls: Vec<Call>, address: SocketAddr, host: &str, connection: u64, seen: &mut Seen) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return seen.unreachable.push(format!("no runtime: {error}")),
    };
    match runtime.block_on(streams(calls, address, host, connection)) {
        Ok(observed) => seen.calls.extend(observed),
        Err(error) => seen.unreachable.push(format!("h2c to {address}: {error}")),
    }
}

async fn streams(
    calls: Vec<Call>,
    address: SocketAddr,
    host: &str,
    connection: u64,
) -> anyhow::Result<Vec<Observed>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let (sender, driver) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(driver);
    let together = Together::Streams(u32::try_from(calls.len()).unwrap_or(u32::MAX));
    let mut running = Vec::new();
    for (index, call) in calls.into_iter().enumerate() {
        let mut observed = Observed::begin(call, connection, index, local, address);
        observed.together = together;
        let sender = sender.clone().ready().await?;
        let host = host.to_owned();
        running.push(tokio::spawn(async move {
            let begun = Instant::now();
            let answered =
                tokio::time::timeout(ANSWER_MAX, exchange(sender, &host, &mut observed)).await;
            observed.elapsed = begun.elapsed();
            let error = match answered {
                Ok(Ok(())) => return observed,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", ANSWER_MAX.as_secs()),
            };
            observed.outcome = match observed.status {
                Some(_) => Outcome::Truncated,
                None => Outcome::Unserved(error),
            };
            observed
        }));
    }
    drop(sender);
    let mut all = Vec::new();
    for stream in running {
        all.push(stream.await?);
    }
    // With the last sender gone the driver says goodbye and ends.
    let _ = tokio::time::timeout(Duration::from_secs(5), driver).await;
    Ok(all)
}

async fn exchange(
    mut sender: SendRequest<Bytes>,
    host: &str,
    observed: &mut Observed,
) -> anyhow::Result<()> {
    let call = observed.call.clone();
    let body_bytes = call.body.bytes();
    let request = Request::builder()
        .version(Version::HTTP_2)
        .method(call.method)
        .uri(format!("http://{host}{}", call.target()))
        .header("user-agent", call.user_agent())
        .header("x-request-id", &call.id);
    let request = match body_bytes {
        0 => request.body(())?,
        count => request.header("content-length", count).body(())?,
    };
    let (response, mut upload) = sender.send_request(request, body_bytes == 0)?;
    let sending = async {
        let mut at = 0;
        while at < body_bytes {
            upload.reserve_capacity(usize::try_from((body_bytes - at).min(16 * 1024))?);
            let capacity = std::future::poll_fn(|context| upload.poll_capacity(context)).await;
            let granted = match capacity {
                None => break,
                Some(granted) => (granted? as u64).min(body_bytes - at),
            };
            let mut piece = vec![0; usize::try_from(granted)?];
            fill_pattern(at, &mut piece);
            at += granted;
            upload.send_data(piece.into(), at == body_bytes)?;
        }
        anyhow::Ok(at)
    };
    let receiving = async {
        let response = response.await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let (mut received, mut intact) = (0_u64, true);
        while let Some(piece) = body.data().await {
            let piece = piece?;
            let mut expected = vec![0; piece.len()];
            fill_pattern(received, &mut expected);
            intact &= piece == expected;
            received += piece.len() as u64;
            body.flow_control().release_capacity(piece.len())?;
        }
        let trailers = body.trailers().await?.map_or(0, |fields| fields.len());
        anyhow::Ok((status, received, intact, trailers))
    };
    let (sent, received) = tokio::join!(sending, receiving);
    observed.body_out = sent?;
    let (status, body_in, intact, trailers) = received?;
    observed.status = Some(status);
    observed.body_in = body_in;
    observed.trailers = u32::try_from(trailers)?;
    observed.outcome = match call.response_bytes {
        Some(_) if status == 200 && !intact => Outcome::Corrupt,
        _ => Outcome::Complete,
    };
    Ok(())
}
