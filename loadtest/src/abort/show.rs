//! Prints an ending: what the wire showed and what the record says.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::Played;

/// Lines of a capture that are shown at its begin and at its end.
const LINES: usize = 8;
/// Fields of a record that tell of an ending.
const FIELDS: &[&str] = &[
    "http.response.status_code",
    "http.response.body.size",
    "error.type",
    "response.flags",
    "settled",
    "upstream.http.response",
    "timing.resp_",
];
/// Fields of either socket that tell of it.
const SOCKET_FIELDS: &[&str] = &[
    "attribution",
    "tcp.close",
    "tcp.retransmits",
    "tcp.rtos",
    "wire.bytes_in",
    "wire.bytes_out",
];
/// And of the client's alone.
const CLIENT_FIELDS: &[&str] = &[
    "tcp.bytes_acked",
    "tcp.bytes_unsent",
    "tcp.window_min",
    "tcp.zero_window_us",
];

/// The captures in tcpdump's words, and what of the record is about the ending.
pub fn show(played: &Played) -> anyhow::Result<String> {
    let mut text = format!("{}: {}\n\n", played.ending.name, played.ending.what);
    let ends = [
        ("client", Some(&played.front)),
        ("upstream", played.back.as_ref()),
    ];
    for ((name, connection), file) in ends.into_iter().zip(&played.files) {
        let Some(connection) = connection else {
            continue;
        };
        let peer = connection.peer();
        let _ = writeln!(
            text,
            "Between gateway and {name}, as tcpdump has it:\n\n{}",
            packets(file, peer)?
        );
    }
    let _ = writeln!(text, "Of the record:\n\n{}", fields(played));
    Ok(text)
}

fn packets(file: &Path, peer: SocketAddr) -> anyhow::Result<String> {
    let output = Command::new("tcpdump")
        .args(["-nn", "-tt", "-r"])
        .arg(file)
        .args(["host", &peer.ip().to_string(), "and", "port"])
        .arg(peer.port().to_string())
        .output()
        .context("tcpdump, which scripts/bootstrap --test installs")?;
    ensure!(output.status.success(), "tcpdump: {output:?}");
    let lines = String::from_utf8(output.stdout)?;
    let lines: Vec<String> = lines.lines().map(brief).collect();
    let begin: f64 = lines
        .first()
        .and_then(|line| line.split(' ').next()?.parse().ok())
        .unwrap_or(0.0);
    let lines: Vec<String> = lines
        .iter()
        .map(|line| match line.split_once(' ') {
            Some((at, rest)) => {
                let at: f64 = at.parse().unwrap_or(begin);
                format!("{:.6} {rest}", at - begin)
            }
            None => line.clone(),
        })
        .collect();
    if lines.len() <= 2 * LINES {
        return Ok(lines.join("\n") + "\n");
    }
    let (first, last) = (&lines[..LINES], &lines[lines.len() - LINES..]);
    let left_out = lines.len() - 2 * LINES;
    Ok(format!(
        "{}\n... {left_out} packets ...\n{}\n",
        first.join("\n"),
        last.join("\n")
    ))
}

/// A line of tcpdump's without what does not matter here: options and the text of HTTP.
fn brief(line: &str) -> String {
    let line = line.replacen(" IP ", " ", 1);
    let mut line = match line.split_once(", options [") {
        Some((before, after)) => match after.split_once(']') {
            Some((_, rest)) => format!("{before}{rest}"),
            None => before.to_owned(),
        },
        None => line,
    };
    if let Some(at) = line.find(": HTTP") {
        line.truncate(at);
    }
    line
}

fn fields(played: &Played) -> String {
    let mut text = String::new();
    for (key, value) in played.record.fields() {
        let of_client = key.strip_prefix("client.");
        let of_socket = of_client.or_else(|| key.strip_prefix("upstream."));
        let is_told = FIELDS.iter().any(|field| key.starts_with(field))
            || of_socket.is_some_and(|key| SOCKET_FIELDS.contains(&key))
            || of_client.is_some_and(|key| CLIENT_FIELDS.contains(&key));
        if is_told {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    text
}
