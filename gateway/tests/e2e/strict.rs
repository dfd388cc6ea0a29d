//! Requests that could be read in two ways are refused, and never reach a backend.

use serde_json::json;

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, simple};
use crate::common::client::Client;

/// What a request is answered, and the `error.type` of its record. What follows it on the same
/// connection is read by nobody.
#[track_caller]
fn refused(request: &str, status: u16, error_type: &str) {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple("", backend.address()));
    let mut client = Client::connect(calltap.address());
    client.send(format!(
        "{request}GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
    ));
    let response = client.response("POST");
    assert_eq!(response.status(), status, "{request:?}");
    assert_eq!(response.head.header("connection"), Some("close"));
    assert!(client.wire().rest().is_ok_and(|rest| rest.is_empty()));
    drop(client);
    calltap.finish_one().expect(json!({
        "kind": "call",
        "http.response.status_code": status,
        "error.type": error_type,
    }));
    assert_eq!(backend.shared().arrived(), 0, "{request:?}");
}

#[test]
fn a_length_that_is_not_one_number_is_refused() {
    for lengths in [
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    ] {
        let request = format!("POST /echo HTTP/1.1\r\nHost: api.test\r\n{lengths}\r\n\r\n");
        refused(&request, 400, "bad_request");
    }
}

#[test]
fn a_coding_that_cannot_be_undone_is_refused() {
    let request = "POST /echo HTTP/1.1\r\nHost: api.test\r\n\
                   Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    refused(request, 501, "unknown_transfer_coding");
}

#[test]
fn a_request_that_names_no_host_is_refused() {
    for host in ["", "Host: \r\n", "Host: b:99999\r\n"] {
        refused(
            &format!("GET /head HTTP/1.1\r\n{host}\r\n"),
            400,
            "bad_request",
        );
    }
    refused(
        "GET /head#part HTTP/1.1\r\nHost: api.test\r\n\r\n",
        400,
        "bad_request",
    );
}

#[test]
fn an_absolute_target_reaches_the_origin_without_its_host() {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple("", backend.address()));
    let mut client = Client::connect(calltap.address());
    client.send("GET http://api.test/head?a=1 HTTP/1.1\r\nHost: api.test\r\n\r\n");
    let response = client.response("GET");
    assert!(
        response.text().starts_with("GET /head?a=1 HTTP/1.1\r\n"),
        "{}",
        response.text()
    );
    let head = &backend.shared().served(1)[0].head;
    assert_eq!(head.header("host"), Some("api.test"));
    drop(client);
    calltap
        .finish_one()
        .expect(json!({ "url.path": "/head", "url.query": "a=1" }));
}

/// What a head beyond the parser's own bounds is answered; it makes no call.
#[track_caller]
fn unparsed(target: &str, headers: &str, status: u16) {
    let backend = Backend::start();
    let config = "limits.uri_max_bytes = 65534\nlimits.header_max_bytes = 1048575";
    let calltap = Calltap::start(&simple(config, backend.address()));
    let mut client = Client::connect(calltap.address());
    client.send(format!(
        "GET {target} HTTP/1.1\r\nHost: api.test\r\n{headers}\r\n"
    ));
    assert_eq!(client.response("GET").status(), status);
    drop(client);
    let record = calltap.finish_one();
    match status {
        400 => record.expect(json!({ "kind": "connection", "error.type": "bad_request" })),
        _ => record.expect(json!({ "kind": "call", "http.response.status_code": status })),
    };
}

#[test]
fn the_parser_has_bounds_of_its_own() {
    let target = |length: usize| format!("/{}", "a".repeat(length - 1));
    unparsed(&target(65_534), "", 404);
    unparsed(&target(65_535), "", 400);
    unparsed("/nothing", &"a: b\r\n".repeat(255), 404);
    unparsed("/nothing", &"a: b\r\n".repeat(256), 400);
}

#[test]
fn chunks_that_are_none_are_a_bad_request() {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple("", backend.address()));
    let mut client = Client::connect(calltap.address());
    client
        .send("POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert_eq!(client.response("POST").status(), 400);
    drop(client);
    calltap.finish_one().expect(json!({
        "kind": "call", "http.response.status_code": 400, "error.type": "bad_request",
    }));
}
