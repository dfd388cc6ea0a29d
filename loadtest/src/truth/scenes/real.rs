//! Clients that are not ours.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};

use crate::certificate::NAME;
use crate::truth::caller::{named, some_size};
use crate::truth::evidence::{Asked, Carried};
use crate::truth::stage::{Play, Setting};

/// Calls of one curl.
const IN_TURN: usize = 10;
/// curls at a time.
const CLIENTS: usize = 4;

/// HTTP/2 in TLS towards curl.
pub(crate) fn h2() -> Setting {
    Setting {
        front: Carried::H2Tls,
        ..Setting::default()
    }
}

/// curl, with the protocol that the listener speaks.
pub(crate) fn curl(play: &Play<'_>) -> anyhow::Result<()> {
    let server = play.caller.server();
    let (scheme, version) = match play.caller.tls() {
        None => ("http", "--http1.1"),
        Some(_) => ("https", "--http2"),
    };
    // The certificate's name, and where it is.
    let port = server.port();
    let resolve = match server.ip() {
        IpAddr::V4(address) => format!("{NAME}:{port}:{address}"),
        IpAddr::V6(address) => format!("{NAME}:{port}:[{address}]"),
    };
    let sessions = play.calls.div_ceil(IN_TURN);
    play.caller.crowd(CLIENTS, sessions, |nth| {
        let mut random = play.random(nth);
        let mut command = play.ground.client.command("curl");
        command.args(["-s", version, "--resolve", &resolve, "--cacert"]);
        command
            .arg(&play.authority)
            .env("SSLKEYLOGFILE", &play.keys);
        command.args([
            "-w",
            "%{local_ip} %{local_port} %{http_code} %{errormsg}\\n",
        ]);
        let ids: Vec<String> = (0..IN_TURN).map(|_| play.caller.id()).collect();
        for id in &ids {
            let target = format!("/bytes/{}", some_size(&mut random, 60_000));
            command.args(["-o", "/dev/null"]);
            command.arg(format!("{scheme}://{NAME}:{port}{}", named(&target, id)));
        }
        let output = command.output().context("cannot run curl")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.lines().count() == ids.len(), "curl said {said:?}");
        for (id, line) in ids.into_iter().zip(said.lines()) {
            let mut words = line.split(' ');
            let mut word = || words.next().with_context(|| format!("curl said {line:?}"));
            let client = SocketAddr::new(word()?.parse()?, word()?.parse()?);
            let status = word()?.parse().ok().filter(|status| *status != 0);
            // No message where nothing went wrong.
            let complete = status.is_some() && word()?.is_empty();
            play.caller.note(Asked {
                id,
                client,
                status,
                complete,
            });
        }
        Ok(())
    })
}
