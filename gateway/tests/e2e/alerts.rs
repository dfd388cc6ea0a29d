//! From calls that look like an attack to whoever is told of it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use ring::hmac;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::backend::{Backend, Served};
use crate::common::calltap::{Calltap, simple};
use crate::common::client::Client;
use crate::common::wait_for;

const ATTACK: &str = "GET /bytes/1?q=1%27%20UNION%20SELECT%20password%20FROM%20information_schema HTTP/1.1\r\nHost: api.test\r\n\r\n";

/// One client asks for what it should not, until calltap says so.
fn attack(calltap: &Calltap) {
    let mut client = Client::connect(calltap.address());
    wait_for("an alert", || {
        client.send(ATTACK);
        assert_eq!(client.response("GET").status(), 200);
        let said = calltap.stderr();
        said.contains("alert opened: injection").then_some(())
    });
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("secret"), "s3cret\n").expect("written");
        Self(dir)
    }

    fn webhook(&self, receiver: &Backend) -> String {
        let dir = self.0.path().display();
        format!(
            "[alerts]\nspool_dir = \"{dir}/spool\"\n[[alerts.webhooks]]\nname = \"on-call\"\n\
             url = \"http://{}/health\"\nsecret_file = \"{dir}/secret\"\n",
            receiver.address()
        )
    }
}

fn message(served: &Served) -> Value {
    let body = &served.body;
    let header = |name| served.head.header(name).expect("a header");
    let (timestamp, signature) = (header("x-calltap-timestamp"), header("x-calltap-signature"));
    let hex = signature.strip_prefix("sha256=").expect("its kind");
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits"))
        .collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
    let signed = [timestamp.as_bytes(), b".", body].concat();
    hmac::verify(&key, &signed, &bytes).expect("it is signed with the secret");
    serde_json::from_slice(body).expect("JSON")
}

#[test]
fn what_a_webhook_did_not_take_outlives_a_kill() {
    let (backend, receiver, files) = (Backend::start(), Backend::start(), Files::new());
    receiver.shared().set_sick(true);
    let config = simple("", backend.address()) + &files.webhook(&receiver);
    let mut calltap = Calltap::start(&config);
    attack(&calltap);
    receiver.shared().wait_asked("/health");
    calltap.signal(Signal::KILL);
    calltap.ended();
    let refused = receiver.shared().served(1).len();

    receiver.shared().set_sick(false);
    let mut again = Calltap::start(&config);
    again.wait_said("alerts of before wait for webhook on-call");
    let served = receiver.shared().served(refused + 1);
    let (first, taken) = (&served[0], &served[refused]);
    let delivery = |served: &Served| served.head.header("x-calltap-delivery").map(str::to_owned);
    assert_eq!(delivery(taken), delivery(first));
    let said = message(taken);
    assert_eq!(said, message(first));
    assert_eq!(said["event"], "opened");
    assert_eq!(said["alert"]["detector"], "injection");
    assert_eq!(said["alert"]["subject"]["name"], "127.0.0.1");
    assert_eq!(said["alert"]["source"], "127.0.0.1");
    // Taken once, it is not sent again.
    let spool = files.0.path().join("spool/on-call.spool");
    wait_for("an empty spool", || {
        let waits = std::fs::metadata(&spool).expect("its spool").len();
        (waits == 0).then_some(())
    });
    again.signal(Signal::TERM);
    let ended = again.ended();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(receiver.shared().served(1).len(), refused + 1);
}

fn ask(admin: SocketAddr, path: &str) -> Value {
    let mut socket = TcpStream::connect(admin).expect("the admin API");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn an_alert_leads_to_the_calls_that_show_it() {
    let backend = Backend::start();
    let calltap = Calltap::start(&simple(
        "admin.address = \"127.0.0.1:0\"",
        backend.address(),
    ));
    attack(&calltap);
    let said = calltap.stderr();
    let admin = said
        .split("admin API on http://")
        .nth(1)
        .expect("its address");
    let admin = admin.lines().next().expect("a line").trim();
    let admin: SocketAddr = admin.parse().expect("an address");
    let alerts = ask(admin, "/api/v1/alerts?state=open&detector=injection");
    let alert = &alerts["alerts"][0];
    assert_eq!(alert["severity"], "critical");
    let id = alert["id"].as_str().expect("an id");
    assert_eq!(&ask(admin, &format!("/api/v1/alerts/{id}")), alert);
    let example = alert["examples"][0].as_str().expect("a uid");
    let call = ask(admin, &format!("/api/v1/calls/{example}"));
    assert_eq!(call["url.path"], "/bytes/1");
    let status = ask(admin, "/api/v1/status");
    assert_eq!(status["alerts"]["open"]["critical"], 1);
}

#[test]
fn a_spool_of_another_calltap_is_refused() {
    let (backend, receiver, files) = (Backend::start(), Backend::start(), Files::new());
    let config = simple("", backend.address()) + &files.webhook(&receiver);
    let _first = Calltap::start(&config);
    let second = crate::common::calltap::Launch::new().fail(&config);
    assert!(!second.status.success());
    assert!(
        second
            .stderr
            .contains("another calltap keeps its alerts in")
            && second.stderr.contains("alerts.spool_dir"),
        "{}",
        second.stderr
    );
}
