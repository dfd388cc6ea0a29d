//! `calltap tail` and `calltap demo` as their users meet them: the binary, its output, its exit.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use calltap_correlate::record::{CallRecord, Kind};

fn calltap(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calltap"));
    command.args(arguments).env("LC_ALL", "C.UTF-8");
    command
}

fn succeeded(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).expect("output is text")
}

#[test]
fn every_call_of_the_demonstration_has_its_record() {
    const CALLS: usize = 60;
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let output = calltap(&["demo", "--json", "--calls", &CALLS.to_string()])
        .env("TMPDIR", temporary.path())
        .output()
        .expect("calltap runs");
    let text = succeeded(&output);
    let mut lines: Vec<&str> = text.lines().collect();

    let summary = lines.pop().expect("a summary");
    let summary: serde_json::Value = serde_json::from_str(summary).expect("the summary is JSON");
    assert_eq!(summary["kind"], "summary");
    assert_eq!(summary["passed"], true, "{summary:#}");
    assert_eq!(summary["calls"], CALLS, "{summary:#}");
    assert_eq!(summary["records"], CALLS, "{summary:#}");

    let records: Vec<CallRecord> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let of_kind = |kind| records.iter().filter(|record| record.kind == kind).count();
    assert_eq!(of_kind(Kind::Call), CALLS);
    assert_eq!(of_kind(Kind::Connection), 1, "the scanner's");

    let stock = records
        .iter()
        .find(|record| record.api.operation.as_deref() == Some("getStock"))
        .expect("stock was asked for");
    assert!(
        stock
            .upstream_attempts
            .iter()
            .any(|attempt| attempt.outcome != "ok")
            || records
                .iter()
                .any(|record| record.upstream_attempts.len() == 2),
        "some call met the endpoint that refuses"
    );
    assert!(
        records
            .iter()
            .any(|record| record.http_response_status_code == Some(404)),
        "an order that does not exist"
    );
    assert_eq!(
        fs::read_dir(temporary.path())
            .expect("the directory")
            .count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn the_demonstration_shows_its_balance() {
    let output = calltap(&["demo", "--calls", "14"])
        .output()
        .expect("calltap runs");
    let text = succeeded(&output);
    for expected in [
        "14 calls, 14 records: every call has its record",
        "/orders/{id}",
        "The slowest:",
        "delayed ack",
    ] {
        assert!(text.contains(expected), "no `{expected}` in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colour into a pipe");
}

#[test]
fn a_demonstration_that_is_stopped_cleans_up() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let mut child = calltap(&["demo", "--json", "--calls", "100000"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("calltap runs");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut first = String::new();
    out.read_line(&mut first).expect("a first record");
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process"), rustix::process::Signal::TERM)
        .expect("it runs");
    out.read_to_end(&mut Vec::new()).expect("the rest");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(128 + 15));
    assert_eq!(
        fs::read_dir(temporary.path())
            .expect("the directory")
            .count(),
        0,
        "nothing is left behind"
    );
}

const RECORDS: &str = concat!(
    r#"{"kind":"call","http.request.method":"GET","http.route":"/orders","http.response.status_code":200,"delivered_us":900,"time.gateway_us":300,"time.upstream_server_us":600}"#,
    "\n",
    r#"{"kind":"call","http.request.method":"GET","url.path":"/\u001b[2J","http.response.status_code":503,"gateway.duration_us":250000}"#,
    "\n",
);

#[test]
fn a_file_is_shown_line_by_line() {
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(log.path(), RECORDS).expect("write");
    let path = log.path().to_str().expect("a path of text");
    let shown = |more: &[&str]| {
        let mut arguments = vec!["tail", path, "--no-follow"];
        arguments.extend(more);
        succeeded(&calltap(&arguments).output().expect("calltap runs"))
    };
    let all = shown(&[]);
    assert!(all.contains("/orders") && all.contains("503"), "{all}");
    assert!(!all.contains('\x1b'), "{all:?}");
    assert_eq!(shown(&["--json"]), RECORDS);
    assert_eq!(shown(&["--json", "--status", "5xx"]).lines().count(), 1);
    assert_eq!(shown(&["--json", "--route", "/orders"]).lines().count(), 1);
    assert_eq!(
        shown(&["--json", "--slower-than", "100ms"]).lines().count(),
        1
    );
    assert_eq!(shown(&["--json", "-n", "1"]).lines().count(), 1);
    assert!(shown(&["--color", "always"]).contains("\x1b["), "asked for");
}

#[test]
fn standard_input_is_shown_as_it_comes() {
    let mut child = calltap(&["tail", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("calltap runs");
    let mut input = child.stdin.take().expect("a pipe");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    for line in RECORDS.split_inclusive('\n') {
        input.write_all(line.as_bytes()).expect("it reads");
        let mut shown = String::new();
        out.read_line(&mut shown).expect("it writes");
        assert_eq!(shown, line, "before the next one comes");
    }
    drop(input);
    assert!(child.wait().expect("it ends").success());
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a request's head and answers it with the beginning of a stream.
fn accept_stream(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = listener.accept().expect("tail connects");
    let mut asked = String::new();
    let mut reader = BufReader::new(socket.try_clone().expect("a second handle"));
    while !asked.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut asked).expect("a request") > 0);
    }
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n")
        .expect("it reads");
    (socket, asked)
}

#[test]
fn a_stream_that_ends_is_taken_up_where_it_broke() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let admin = listener.local_addr().expect("an address").to_string();
    let mut child = Running(
        calltap(&["tail", "--json", "--admin", &admin])
            .stdout(Stdio::piped())
            .spawn()
            .expect("calltap runs"),
    );
    let mut out = BufReader::new(child.0.stdout.take().expect("a pipe"));
    let mut shown = String::new();

    let (mut first, asked) = accept_stream(&listener);
    assert!(
        asked.starts_with("GET /api/v1/calls/stream HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(!asked.contains("Last-Event-ID"), "{asked}");
    first
        .write_all(b"id: 7\ndata: {\"kind\":\"call\"}\n\nid: 8\ndata: {\"ki")
        .expect("it reads");
    out.read_line(&mut shown).expect("it writes");
    drop(first);

    let (mut second, asked) = accept_stream(&listener);
    assert!(asked.contains("\r\nLast-Event-ID: 7\r\n"), "{asked}");
    second
        .write_all(b"id: 8\ndata: {\"kind\":\"external\"}\n\n")
        .expect("it reads");
    out.read_line(&mut shown).expect("it writes");
    assert_eq!(shown, "{\"kind\":\"call\"}\n{\"kind\":\"external\"}\n");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let mut child = calltap(&["tail", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("calltap runs");
    drop(child.stdout.take());
    let mut input = child.stdin.take().expect("a pipe");
    // It may be gone before all is written: that is what is tested.
    let _ = input.write_all(RECORDS.repeat(1_000).as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for_aloud() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("calls.jsonl");
    let mut child = Running(
        calltap(&["tail", "--json", path.to_str().expect("text")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("calltap runs"),
    );
    let mut said = String::new();
    let mut stderr = BufReader::new(child.0.stderr.take().expect("a pipe"));
    stderr.read_line(&mut said).expect("it says so");
    assert_eq!(said, format!("waiting for {} to appear\n", path.display()));

    fs::write(&path, "{\"kind\":\"call\"}\n").expect("written");
    let mut shown = String::new();
    let mut stdout = BufReader::new(child.0.stdout.take().expect("a pipe"));
    stdout.read_line(&mut shown).expect("it shows it");
    assert_eq!(shown, "{\"kind\":\"call\"}\n");
}

#[test]
fn mistakes_say_what_to_write_instead() {
    for (arguments, expected) in [
        (&["tail", "--status", "9xx"][..], "5xx"),
        (&["tail", "--slower-than", "100"], "100ms"),
        (
            &["tail", "/nowhere/calls.jsonl", "--no-follow"],
            "/nowhere/calls.jsonl",
        ),
        (&["tail", "--admin", "127.0.0.1:1"], "is calltap running"),
        (
            &["tail", "--admin", "127.0.0.1:1", "file"],
            "cannot be used with",
        ),
        (&["tail", "http://127.0.0.1:9901"], "--admin 127.0.0.1:9901"),
        (&["demo", "--calls", "0"], "1..=1000000"),
    ] {
        let output = calltap(arguments).output().expect("calltap runs");
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{arguments:?} said: {said}");
    }
}
