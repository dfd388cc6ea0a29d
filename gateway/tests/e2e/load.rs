//! Real load through it: h2load as the clients, nginx as the backend, and a record for every call.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::common::calltap::{Calltap, Launch, simple};
use super::common::record::Record;
use super::common::{can_tap, wait_for};

const CALLS: usize = 20_000;

/// nginx with a small answer to everything; killed when dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(directory: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let folder = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {folder}/{name};"))
            .collect();
        let config = directory.join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n\
             events {{ worker_connections 2048; }}\n\
             http {{ access_log off; keepalive_requests 1000000; {temporary}\n\
             server {{ listen {address}; location / {{ return 200 'here you are'; }} }} }}\n"
        );
        fs::write(&config, text).expect("a configuration");
        let child = Command::new("nginx")
            .env("PATH", path_with_sbin())
            .arg("-p")
            .arg(directory)
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx, which scripts/bootstrap --test installs");
        wait_for("nginx", || TcpStream::connect(address).ok());
        Self { child, address }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// All records of as many calls by h2load with these flags.
fn records_of(flags: &[&str]) -> Vec<Record> {
    let launch = Launch::new();
    let nginx = Nginx::start(launch.directory());
    let more = "tap.mode = \"ebpf\"\ntap.sockets_max = 4096\ndefaults.listener.h2c = true\nlimits.upstream_pool_max = 512";
    let calltap = launch.start(&simple(more, nginx.address));
    load(&calltap, flags);
    calltap.finish(CALLS)
}

fn load(calltap: &Calltap, flags: &[&str]) {
    let done = Command::new("h2load")
        .args(flags)
        .args(["-n", &CALLS.to_string(), "-c", "32"])
        .arg(format!("http://{}/orders", calltap.address()))
        .output()
        .expect("h2load, which scripts/bootstrap --test installs");
    let said = String::from_utf8_lossy(&done.stdout);
    let all = format!("{CALLS} succeeded, 0 failed, 0 errored");
    assert!(said.contains(&all), "{said}");
}

#[test]
fn keep_alive_calls_each_have_an_exact_record() {
    if !can_tap() {
        return;
    }
    for record in records_of(&["--h1"]) {
        record.expect(json!({ "kind": "call", "http.response.status_code": 200 }));
        record.expect_exact();
    }
}

#[test]
fn http2_calls_each_have_a_record_of_the_connection_they_shared() {
    if !can_tap() {
        return;
    }
    for record in records_of(&["-m", "10"]) {
        record.expect(json!({
            "kind": "call",
            "http.response.status_code": 200,
            "network.protocol.version": "2",
            "coverage": "ebpf",
            "attribution": "shared",
            "client.attribution_reason": "multiplexed",
        }));
        let streams = record.get("client.socket.streams").and_then(Value::as_u64);
        assert!(streams.is_some_and(|streams| (1..=10).contains(&streams)));
    }
}
