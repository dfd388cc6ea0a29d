//! Clients that hold connections or throw them away: told of while they do it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::Value;

use crate::common::backend::Backend;
use crate::common::calltap::{Calltap, simple};
use crate::common::client::Client;
use crate::common::{can_tap, tap_if_possible, wait_for};

struct Setting {
    backend: Backend,
    calltap: Calltap,
    admin: SocketAddr,
}

fn start(more: &str) -> Setting {
    let backend = Backend::start();
    let top = format!(
        "admin.address = \"127.0.0.1:0\"\n{}{more}",
        tap_if_possible()
    );
    let calltap = Calltap::start(&simple(&top, backend.address()));
    let said = calltap.wait_said("admin API on http://");
    let (_, rest) = said
        .split_once("admin API on http://")
        .expect("it was said");
    let admin = rest.split_whitespace().next().expect("an address");
    Setting {
        backend,
        calltap,
        admin: admin.parse().expect("an address"),
    }
}

impl Setting {
    /// Waits until this detector tells of a client of ours.
    fn wait_told(&self, detector: &str) -> Value {
        wait_for(&format!("an alert of {detector}"), || {
            let mut client = Client::connect(self.admin);
            client.send(format!(
                "GET /api/v1/alerts?detector={detector} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ));
            let mut answer: Value = serde_json::from_str(&client.response("GET").text()).ok()?;
            let alert = answer["alerts"].get_mut(0).map(Value::take)?;
            assert_eq!(alert["subject"]["name"], "127.0.0.1", "{alert:#}");
            assert_eq!(alert["state"], "open", "{alert:#}");
            assert_eq!(alert["blame"], "client", "{alert:#}");
            Some(alert)
        })
    }
}

#[test]
fn requests_that_do_not_get_on_are_told_of_while_they_are_held() {
    let setting = start("limits.head_ms = 60_000\n");
    let held: Vec<_> = (0..200)
        .map(|_| {
            let mut held = TcpStream::connect(setting.calltap.address()).expect("it listens");
            held.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\nX-Slow: ")
                .expect("sent");
            held
        })
        .collect();
    let alert = setting.wait_told("slow_request");
    assert!(alert["observed"].as_f64() >= Some(50.0), "{alert:#}");
    // Who calls meanwhile is served.
    assert_eq!(
        Client::connect(setting.calltap.address())
            .get("/echo")
            .status(),
        200
    );
    drop(held);
    drop(setting.backend);
}

#[test]
fn responses_that_nobody_reads_are_told_of() {
    if !can_tap() {
        return;
    }
    let setting = start("");
    let held: Vec<_> = (0..100)
        .map(|_| {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
            let socket = socket.expect("a socket");
            sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a small window");
            rustix::net::connect(&socket, &setting.calltap.address()).expect("it listens");
            let mut held = TcpStream::from(socket);
            held.write_all(b"GET /bytes/100000 HTTP/1.1\r\nHost: api.test\r\n\r\n")
                .expect("sent");
            held
        })
        .collect();
    let alert = setting.wait_told("slow_read");
    assert!(alert["observed"].as_f64() >= Some(50.0), "{alert:#}");
    drop(held);
}

#[test]
fn connections_without_a_call_are_told_of() {
    let setting = start("");
    let told = std::thread::scope(|scope| {
        let told = scope.spawn(|| setting.wait_told("connection_churn"));
        // Until it was told of, or has failed; each is accepted before the next one comes.
        while !told.is_finished() {
            let _ = TcpStream::connect(setting.calltap.address()).expect("it listens");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        told.join().expect("it was told of")
    });
    assert!(told["observed"].as_f64() > Some(20.0), "{told:#}");
}
