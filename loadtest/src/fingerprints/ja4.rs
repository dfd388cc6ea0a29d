//! JA4, the TLS client fingerprint, from what tshark says of a captured ClientHello.
//!
//! Written from JA4's published description, for comparison with calltap's own, and without a line in
//! common with that. tshark reassembles segments and TLS records and takes the hello apart; what is
//! left is to count, sort and hash. ALPN values are taken to be words of two letters or more, as real
//! clients' are; on others JA4's description and its authors' code differ.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use ring::digest::{SHA256, digest};

const FIELDS: [&str; 10] = [
    "ip.src",
    "ipv6.src",
    "tcp.srcport",
    "tls.handshake.version",
    "tls.handshake.ciphersuite",
    "tls.handshake.extension.type",
    "tls.handshake.extensions.supported_version",
    "tls.handshake.sig_hash_alg",
    "tls.handshake.extensions_alpn_str",
    "frame.number",
];

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// The JA4 of the first ClientHello of each connection to `server` in a capture, by its client.
pub fn of_capture(file: &Path, server: SocketAddr) -> anyhow::Result<HashMap<SocketAddr, String>> {
    let port = server.port();
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file);
    tshark.args(["-d", &format!("tcp.port=={port},tls")]);
    tshark.args([
        "-Y",
        &format!("tls.handshake.type == 1 && tcp.dstport == {port}"),
    ]);
    tshark.args(["-T", "fields", "-E", "occurrence=a", "-E", "aggregator=;"]);
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().context("cannot run tshark")?;
    ensure!(
        output.status.success(),
        "tshark: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut found = HashMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (client, ja4) = of_line(line).with_context(|| format!("tshark said: {line}"))?;
        // A second one answers a HelloRetryRequest.
        found.entry(client).or_insert(ja4);
    }
    Ok(found)
}

fn of_line(line: &str) -> Option<(SocketAddr, String)> {
    let cells: Vec<&str> = line.split('\t').collect();
    let [
        v4,
        v6,
        port,
        version,
        ciphers,
        extensions,
        supported,
        signatures,
        alpn,
        _,
    ] = cells[..]
    else {
        return None;
    };
    let address = if v4.is_empty() { v6 } else { v4 };
    let client = SocketAddr::new(address.parse().ok()?, port.parse().ok()?);
    let hello = Hello {
        version: *numbers(version)?.first()?,
        ciphers: numbers(ciphers)?,
        extensions: numbers(extensions)?,
        supported: numbers(supported)?,
        signatures: numbers(signatures)?,
        alpn: alpn.split(';').next()?.to_owned(),
    };
    Some((client, hello.ja4()))
}

/// `0x1301;4866` and so on, without GREASE.
fn numbers(cell: &str) -> Option<Vec<u16>> {
    let all = cell.split(';').filter(|text| !text.is_empty());
    let all: Option<Vec<u16>> = all
        .map(|text| match text.strip_prefix("0x") {
            Some(hex) => u16::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        })
        .collect();
    let mut all = all?;
    // 0x0a0a, 0x1a1a, ..., 0xfafa.
    all.retain(|value| value % 0x1010 != 0x0a0a || value / 0x1010 > 0xf);
    Some(all)
}

struct Hello {
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    supported: Vec<u16>,
    signatures: Vec<u16>,
    /// The first one.
    alpn: String,
}

impl Hello {
    fn ja4(&self) -> String {
        let version = match self.supported.iter().max().unwrap_or(&self.version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            _ => "00",
        };
        let named = if self.extensions.contains(&SERVER_NAME) {
            "d"
        } else {
            "i"
        };
        let alpn = match (self.alpn.chars().next(), self.alpn.chars().next_back()) {
            (Some(first), Some(last)) => format!("{first}{last}"),
            _ => "00".to_owned(),
        };
        let mut ciphers = self.ciphers.clone();
        ciphers.sort_unstable();
        let mut extensions = self.extensions.clone();
        extensions.retain(|extension| ![SERVER_NAME, ALPN].contains(extension));
        extensions.sort_unstable();
        let mut listed = listed(&extensions);
        if !self.signatures.is_empty() {
            listed = format!("{listed}_{}", self::listed(&self.signatures));
        }
        format!(
            "t{version}{named}{:02}{:02}{alpn}_{}_{}",
            self.ciphers.len().min(99),
            self.extensions.len().min(99),
            hashed(&self::listed(&ciphers)),
            hashed(&listed),
        )
    }
}

fn listed(values: &[u16]) -> String {
    let words: Vec<String> = values.iter().map(|value| format!("{value:04x}")).collect();
    words.join(",")
}

/// The first twelve digits of the SHA-256; zeros for an empty list.
fn hashed(list: &str) -> String {
    if list.is_empty() {
        return "0".repeat(12);
    }
    let hash = digest(&SHA256, list.as_bytes());
    hash.as_ref()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_tshark_becomes_a_fingerprint() {
        // The example of JA4's own description.
        let line = "10.0.0.1\t\t4711\t0x0303\t0x1a1a;0x1301;0x1302;0x1303;0xc02b;0xc02f;0xc02c;0xc030;\
            0xcca9;0xcca8;0xc013;0xc014;0x009c;0x009d;0x002f;0x0035\t\
            6682;27;0;51;16;17513;23;45;13;5;35;18;43;65281;11;10;21;14906\t\
            0x2a2a;0x0304;0x0303\t0x0403;0x0804;0x0401;0x0503;0x0805;0x0501;0x0806;0x0601\th2;http/1.1\t1";
        let (client, ja4) = of_line(line).unwrap();
        assert_eq!(client, "10.0.0.1:4711".parse().unwrap());
        assert_eq!(ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn grease_is_left_out_and_nothing_else() {
        assert_eq!(
            numbers("0x0a0a;0x1a1a;0xfafa;0x0a1a;0x0a0b;0x000a;2570").unwrap(),
            [0x0a1a, 0x0a0b, 0x000a]
        );
    }
}
