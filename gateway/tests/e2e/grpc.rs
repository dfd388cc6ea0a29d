//! gRPC, as far as a gateway sees it: HTTP/2 on both sides, and a status in the trailers.

use std::net::SocketAddr;
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use serde_json::json;
use tokio::runtime;

use crate::common::calltap::Calltap;
use crate::common::record::Record;
use crate::common::tap_if_possible;

/// A message as gRPC frames it: not compressed, its length, its bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static(status),
    )])
}

/// A server without TLS: `…/Fail` answers with nothing but the status 14, all else echoes.
fn server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    listener.set_nonblocking(true).expect("for the runtime");
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("ours");
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp));
            }
        });
    });
    address
}

async fn serve(tcp: tokio::net::TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(tcp).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            // A hop that takes no trailers must not be sent gRPC.
            assert_eq!(head.headers["te"], "trailers");
            let mut response = Response::new(());
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", kind);
            if head.uri.path().ends_with("/Fail") {
                response.headers_mut().extend(trailers("14"));
                return respond.send_response(response, true).map(drop);
            }
            let mut stream = respond.send_response(response, false)?;
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                stream.send_data(piece, false)?;
            }
            stream.send_trailers(trailers("0"))
        });
    }
    Ok(())
}

/// What a client gets: the messages, and the status from wherever it came.
async fn call(
    sender: &mut h2::client::SendRequest<Bytes>,
    method: &str,
) -> Result<(Vec<u8>, String), h2::Error> {
    let request = Request::post(format!("http://api.test{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (response, mut stream) = sender.clone().ready().await?.send_request(request, false)?;
    stream.send_data(Bytes::from_static(MESSAGE), true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut messages = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        messages.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let status = trailers
        .get("grpc-status")
        .or(head.headers.get("grpc-status"));
    let status = status
        .and_then(|status| status.to_str().ok())
        .unwrap_or("none");
    Ok((messages, status.to_owned()))
}

#[test]
fn a_status_in_the_trailers_reaches_the_client_and_the_record() {
    let config = format!(
        "{}[[listeners]]\naddress = \"127.0.0.1:0\"\nh2c = true\n\
         [[routes]]\nupstream = \"grpc\"\n\
         [upstreams.grpc]\nprotocol = \"http2\"\nendpoints = [\"{}\"]\n",
        tap_if_possible(),
        server()
    );
    let calltap = Calltap::start(&config);
    let address = calltap.address();
    runtime().block_on(async {
        let tcp = tokio::net::TcpStream::connect(address)
            .await
            .expect("it listens");
        let (mut sender, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
        let driver = tokio::spawn(connection);
        let echoed = call(&mut sender, "/shop.v1.Orders/Get")
            .await
            .expect("an answer");
        assert_eq!(echoed, (MESSAGE.to_vec(), "0".to_owned()));
        let failed = call(&mut sender, "/shop.v1.Orders/Fail")
            .await
            .expect("an answer");
        assert_eq!(failed, (Vec::new(), "14".to_owned()));
        drop(sender);
        driver.await.expect("no panic").expect("a goodbye");
    });
    let records = calltap.finish(2);
    let expect = |record: &Record, method: &str, status: &str, size: usize| {
        record.expect(json!({
            "http.request.method": "POST",
            "network.protocol.version": "2",
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "rpc.status_code": status,
            "http.response.status_code": 200,
            "http.request.body.size": MESSAGE.len(),
            "http.response.body.size": size,
            "response.flags": null,
        }));
        record.expect_if_tapped(json!({
            "coverage": "ebpf", "attribution": "shared",
            "client.attribution_reason": "multiplexed",
            "upstream.attribution_reason": "multiplexed",
            "client.socket.streams": 1, "upstream.socket.streams": 1,
            "delivered_us": null,
        }));
    };
    expect(&records[0], "shop.v1.Orders/Get", "OK", MESSAGE.len());
    expect(&records[1], "shop.v1.Orders/Fail", "UNAVAILABLE", 0);
    records[1].expect(json!({ "upstream.reused": true, "client.socket.request_seq": 2 }));
}
