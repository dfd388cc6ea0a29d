//! Who called and what for: headers kept, overwritten and begun; routes; limits.

use serde_json::json;

use crate::common::backend::{Backend, Served};
use crate::common::calltap::{Calltap, simple};
use crate::common::client::{Client, Response};
use crate::common::record::Record;

/// One request, as the backend got it, its answer and its record.
fn call(more: &str, request: &str) -> (Served, Response, Record) {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple(more, backend.address()));
    let mut client = Client::connect(calltap.address());
    client.send(request);
    let response = client.response("GET");
    drop(client);
    let served = backend.shared().served(1).remove(0);
    (served, response, calltap.finish_one())
}

/// What a client may claim about itself.
const CLAIMS: &str = "GET /bytes/1 HTTP/1.1\r\nHost: api.test\r\n\
    X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: other.test\r\n\
    Forwarded: for=203.0.113.7\r\nX-Request-ID: theirs-1\r\n\
    X-Global-Transaction-ID: 0123456789abcdef01234567\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";

#[test]
fn what_an_untrusted_peer_claims_is_overwritten() {
    let (served, response, record) = call("proxy.trusted_peers = []", CLAIMS);
    assert_eq!(served.head.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(served.head.header("x-forwarded-proto"), Some("http"));
    assert_eq!(served.head.header("x-forwarded-host"), Some("api.test"));
    assert!(
        !served.head.text.contains("203.0.113.7"),
        "{}",
        served.head.text
    );
    let id = record.text("http.request.id");
    assert_ne!(id, "theirs-1");
    assert_eq!(served.head.header("x-request-id"), Some(id));
    assert_eq!(response.head.header("x-request-id"), Some(id));
    let trace = format!("00-{}-{}-", record.text("trace_id"), record.text("span_id"));
    let sent = served.head.header("traceparent").expect("one");
    assert!(sent.starts_with(&trace), "{sent} is not {trace}..");
    assert_ne!(record.text("trace_id"), "0af7651916cd43dd8448eb211c80319c");
    assert_ne!(
        record.text("global_transaction_id"),
        "0123456789abcdef01234567"
    );
    record.expect(json!({
        "client.address": "127.0.0.1", "network.peer.address": "127.0.0.1",
        "global_transaction_id": served.head.header("x-global-transaction-id"),
    }));
}

#[test]
fn what_a_trusted_peer_says_is_kept() {
    let (served, response, record) = call("proxy.trusted_peers = [\"127.0.0.1\"]", CLAIMS);
    assert_eq!(
        served.head.header("x-forwarded-for"),
        Some("203.0.113.7, 127.0.0.1")
    );
    assert_eq!(served.head.header("x-forwarded-proto"), Some("https"));
    assert_eq!(served.head.header("x-request-id"), Some("theirs-1"));
    assert_eq!(response.head.header("x-request-id"), Some("theirs-1"));
    record.expect(json!({
        "client.address": "203.0.113.7", "client.port": null,
        "network.peer.address": "127.0.0.1",
        "http.request.id": "theirs-1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "global_transaction_id": "0123456789abcdef01234567",
    }));
    // The span is ours; theirs is its parent.
    assert_ne!(record.text("span_id"), "b7ad6b7169203331");
    let sent = served.head.header("traceparent").expect("one");
    assert!(sent.contains(record.text("span_id")), "{sent}");
}

#[test]
fn hop_by_hop_headers_stay_on_their_hop() {
    let (served, _, _) = call(
        "",
        "GET /bytes/1 HTTP/1.1\r\nHost: api.test\r\nConnection: keep-alive, X-Mine\r\n\
         X-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\r\n",
    );
    for name in ["x-mine", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(served.head.header(name), None, "{}", served.head.text);
    }
}

#[test]
fn the_consumer_is_who_the_configuration_says() {
    let more = "consumer.client_id = [\"header:X-IBM-Client-Id\", \"query:client_id\"]\n\
                consumer.app = [\"header:X-App\"]";
    let (_, _, record) = call(
        more,
        "GET /bytes/1?client_id=from-query HTTP/1.1\r\nHost: api.test\r\nX-App: shop\r\n\r\n",
    );
    record.expect(json!({
        "api.consumer.client_id": "from-query", "api.consumer.app": "shop",
        "api.consumer.org": null,
    }));
    let (_, _, record) = call(
        more,
        "GET /bytes/1?client_id=x HTTP/1.1\r\nHost: api.test\r\nX-IBM-Client-Id: me\r\n\r\n",
    );
    record.expect(json!({ "api.consumer.client_id": "me", "api.consumer.app": null }));
}

#[test]
fn secrets_are_hidden_from_the_record_and_not_from_the_backend() {
    let more = "records.redact = [\"Session\"]\n\
                records.request_headers = [\"Authorization\", \"X-Plain\", \"Session\"]";
    let (served, _, record) = call(
        more,
        "GET /head?a=1&access_token=s3cret&session=s3cret HTTP/1.1\r\nHost: api.test\r\n\
         Authorization: Bearer s3cret\r\nX-Plain: yes\r\nSession: s3cret\r\n\r\n",
    );
    assert_eq!(served.head.text.matches("s3cret").count(), 4);
    let record_text = format!("{record:?}");
    assert!(!record_text.contains("s3cret"), "{record_text}");
    assert!(record.text("url.query").starts_with("a=1&access_token="));
    record.expect(json!({ "http.request.header.x-plain": "yes" }));
    assert!(record.get("http.request.header.authorization").is_some());
}

#[test]
fn only_the_fields_asked_for_are_written() {
    let (_, _, record) = call(
        "records.fields = [\"kind\", \"url.*\", \"http.response.status_code\"]",
        "GET /bytes/1?a=1 HTTP/1.1\r\nHost: api.test\r\n\r\n",
    );
    let shape = record.shape();
    for line in shape.lines() {
        let key = line.split(':').next().expect("a key");
        let always = ["timestamp", "log.record.uid", "schema.version"];
        let asked = key == "kind" || key.starts_with("url.") || key == "http.response.status_code";
        assert!(asked || always.contains(&key), "{key} in\n{shape}");
    }
    record.expect(json!({ "url.path": "/bytes/1", "http.response.status_code": 200 }));
}

fn routed(backend: &Backend) -> String {
    format!(
        r#"
        limits.uri_max_bytes = 200
        limits.header_max_bytes = 2000
        limits.body_max_bytes = 1000
        proxy.trusted_peers = []
        [[listeners]]
        address = "127.0.0.1:0"
        [[routes]]
        name = "order"
        path = "/shop/bytes/{{id}}"
        methods = ["GET", "HEAD"]
        strip_prefix = "/shop"
        upstream = "backend"
        api = {{ name = "orders", version = "1.2.0", product = "shop", plan = "gold", catalog = "prod" }}
        operation = "getOrder"
        [[routes]]
        path = "/echo"
        upstream = "rewriting"
        [[routes]]
        host = "*.other.test"
        path = "/head"
        upstream = "rewriting"
        [upstreams.backend]
        endpoints = ["{address}"]
        [upstreams.rewriting]
        endpoints = ["localhost:{port}"]
        host_header = "rewrite"
        "#,
        address = backend.address(),
        port = backend.address().port(),
    )
}

/// A request to the routes above: the answer, the record, and what the backend got, if anything.
fn ask(request: &str) -> (Response, Record, Option<Served>) {
    let backend = Backend::start();
    let calltap = Calltap::start(&routed(&backend));
    let mut client = Client::connect(calltap.address());
    client.send(request);
    let response = client.response(request.split(' ').next().expect("a method"));
    drop(client);
    let record = calltap.finish_one();
    let served = match backend.shared().arrived() {
        0 => None,
        _ => backend.shared().served(1).pop(),
    };
    (response, record, served)
}

#[test]
fn a_route_names_its_api_and_takes_its_prefix_off() {
    let (response, record, served) =
        ask("GET /shop/bytes/7?q=1 HTTP/1.1\r\nHost: api.test:8080\r\n\r\n");
    assert_eq!((response.status(), response.body.bytes.len()), (200, 7));
    let served = served.expect("served");
    assert_eq!(served.head.first_line(), "GET /bytes/7?q=1 HTTP/1.1");
    assert_eq!(served.head.header("host"), Some("api.test:8080"));
    record.expect(json!({
        "http.route": "/shop/bytes/{id}", "url.path": "/shop/bytes/7",
        "api.name": "orders", "api.version": "1.2.0", "api.product": "shop",
        "api.plan": "gold", "api.catalog": "prod", "api.operation": "getOrder",
        "server.address": "api.test", "server.port": 8080,
        "upstream.cluster": "backend",
    }));
}

#[test]
fn routes_match_a_normalised_path_and_a_host() {
    let (response, record, _) =
        ask("GET /x/../shop/./bytes/%37 HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!((response.status(), response.body.bytes.len()), (200, 7));
    record.expect(json!({
        "http.route": "/shop/bytes/{id}", "url.path": "/x/../shop/./bytes/%37",
    }));
    let (response, record, served) = ask("GET /head HTTP/1.1\r\nHost: a.other.test\r\n\r\n");
    assert_eq!(response.status(), 200);
    let served = served.expect("served");
    let port = served
        .head
        .header("host")
        .and_then(|host| host.strip_prefix("localhost:"));
    let upstream = record.number("upstream.port").to_string();
    assert_eq!(port, Some(upstream.as_str()));
    assert_eq!(served.head.header("x-forwarded-host"), Some("a.other.test"));
    record.expect(json!({ "server.address": "a.other.test", "upstream.cluster": "rewriting" }));
    let (response, _, served) = ask("GET /head HTTP/1.1\r\nHost: a.third.test\r\n\r\n");
    assert_eq!(response.status(), 404);
    assert!(served.is_none());
}

/// What calltap answers on its own, and says in the record.
#[track_caller]
fn refused(request: &str, status: u16, error: &str) -> Response {
    let (response, record, served) = ask(request);
    assert_eq!(response.status(), status, "{}", response.head.text);
    assert!(served.is_none(), "the backend was asked: {served:?}");
    assert!(response.text().contains(error), "{}", response.text());
    let id = record.text("http.request.id");
    assert!(response.text().contains(id), "{}", response.text());
    assert_eq!(response.head.header("x-request-id"), Some(id));
    record.expect(json!({
        "kind": "call",
        "http.response.status_code": status,
        "http.response.body.size": response.body.bytes.len(),
        "error.type": error,
        "response.flags": null,
        "upstream.attempts": null,
        "upstream.http.response.status_code": null,
    }));
    response
}

#[test]
fn what_no_route_serves_is_refused() {
    refused(
        "GET /nowhere HTTP/1.1\r\nHost: api.test\r\n\r\n",
        404,
        "no_route",
    );
    let response = refused(
        "POST /shop/bytes/7 HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n",
        405,
        "method_not_allowed",
    );
    assert_eq!(response.head.header("allow"), Some("GET, HEAD"));
    refused(
        "GET /%zz HTTP/1.1\r\nHost: api.test\r\n\r\n",
        400,
        "bad_path",
    );
}

#[test]
fn what_is_larger_than_its_limit_is_refused() {
    let long = "x".repeat(300);
    refused(
        &format!("GET /shop/bytes/{long} HTTP/1.1\r\nHost: api.test\r\n\r\n"),
        414,
        "uri_too_long",
    );
    let large = "x".repeat(3000);
    refused(
        &format!("GET /shop/bytes/1 HTTP/1.1\r\nHost: api.test\r\nX-Large: {large}\r\n\r\n"),
        431,
        "header_too_large",
    );
    refused(
        "POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1001\r\n\r\n",
        413,
        "body_too_large",
    );
}

#[test]
fn a_body_that_grows_beyond_its_limit_is_refused_underway() {
    let body = "x".repeat(600);
    let (response, record, _) = ask(&format!(
        "POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         258\r\n{body}\r\n258\r\n{body}\r\n0\r\n\r\n"
    ));
    assert_eq!(response.status(), 413);
    record.expect(json!({
        "http.response.status_code": 413,
        "error.type": "body_too_large",
        "response.flags": null,
    }));
}
