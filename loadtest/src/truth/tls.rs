//! Opens TLS with the secrets of a key log, so that the calls inside are found like any others.
//!
//! Record by record, by hand: a record that opens is known to be right, because it is authenticated,
//! and its place in the stream of bytes is known with it. What is inside tells handshake messages
//! (session tickets among them) and farewells from the calls' own bytes.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context as _, bail, ensure};
use ring::{aead, hkdf, hmac};

use super::calls::Text;

const HEADER: usize = 5;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION: u8 = 23;
const RANDOM: usize = 32;
const TAG: usize = 16;
const EXPLICIT_NONCE: usize = 8;

/// The secrets of a key log, by the random number of the ClientHello.
#[derive(Default)]
pub(crate) struct Secrets(HashMap<(String, Vec<u8>), Vec<u8>>);

impl Secrets {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut secrets = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [label, random, secret] = words[..] else {
                continue;
            };
            let key = (label.to_owned(), bytes(random)?);
            secrets.0.insert(key, bytes(secret)?);
        }
        Ok(secrets)
    }

    fn get(&self, label: &str, random: &[u8]) -> anyhow::Result<&[u8]> {
        let found = self.0.get(&(label.to_owned(), random.to_vec()));
        Ok(found.with_context(|| format!("no {label} in the key log"))?)
    }
}

fn bytes(hex: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(hex.len().is_multiple_of(2) && hex.is_ascii(), "half a byte");
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?))
        .collect()
}

/// What one direction said, and where on the wire.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    text: Vec<u8>,
    /// By place in the text: one per record of application data.
    records: Vec<Record>,
    /// Where the first record begins that is not of the handshake's own keys.
    begin: Option<u64>,
    over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    text: Range<u64>,
    wire: Range<u64>,
}

impl Opened {
    /// Where on the wire the handshake had ended: tickets may come next.
    pub(crate) fn begin(&self) -> Option<u64> {
        self.begin
    }

    /// The bytes on the wire that carried a piece of the text: whole records.
    pub(crate) fn wire(&self, text: &Range<u64>) -> Range<u64> {
        let holding = |byte: u64| {
            let at = self
                .records
                .partition_point(|record| record.text.end <= byte);
            self.records.get(at)
        };
        let end = self.records.last().map_or(0, |record| record.wire.end);
        let from = holding(text.start).map_or(end, |record| record.wire.start);
        if text.is_empty() {
            return from..from;
        }
        let to = holding(text.end - 1).map_or(end, |record| record.wire.end);
        from..to
    }

    /// One past the record that holds the byte before this one.
    pub(crate) fn wire_end(&self, text: u64) -> u64 {
        match text.checked_sub(1) {
            Some(last) => self.wire(&(last..text)).end,
            None => self.wire(&(0..0)).start,
        }
    }
}

impl Text for Opened {
    fn end(&self) -> u64 {
        self.text.len() as u64
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn read(&self, from: u64, max: usize) -> Vec<u8> {
        let rest = self.text.get(from as usize..).unwrap_or_default();
        rest[..rest.len().min(max)].to_vec()
    }
}

/// Opens both directions of a connection: what the TLS client and what the TLS server said.
pub(crate) fn open(
    client: &[u8],
    server: &[u8],
    ended: bool,
    secrets: &Secrets,
) -> anyhow::Result<(Opened, Opened)> {
    let Some(random) = hello(client, 1).and_then(|hello| Some(hello.get(2..2 + RANDOM)?.to_vec()))
    else {
        return Ok(Default::default()); // it never spoke TLS
    };
    let Some(reply) = hello(server, 2) else {
        return Ok(Default::default());
    };
    let session = usize::from(*reply.get(2 + RANDOM).context("a short ServerHello")?);
    let at = 2 + RANDOM + 1 + session;
    let suite = reply.get(at..at + 2).context("a short ServerHello")?;
    let suite = u16::from_be_bytes([suite[0], suite[1]]);
    let server_random = reply[2..2 + RANDOM].to_vec();
    let [mut of_client, mut of_server] = match suite {
        0x1301..=0x1303 => {
            let key = |label| -> anyhow::Result<Key> {
                Key::of_tls13(suite, secrets.get(label, &random)?)
            };
            // A handshake that failed has no secrets of this kind, and no calls.
            let (Ok(client), Ok(server)) = (
                key("CLIENT_TRAFFIC_SECRET_0"),
                key("SERVER_TRAFFIC_SECRET_0"),
            ) else {
                return Ok(Default::default());
            };
            [client, server]
        }
        _ => {
            let Ok(master) = secrets.get("CLIENT_RANDOM", &random) else {
                return Ok(Default::default());
            };
            Key::of_tls12(suite, master, &random, &server_random)?
        }
    };
    Ok((
        opened(client, &mut of_client, ended).context("from the TLS client")?,
        opened(server, &mut of_server, ended).context("from the TLS server")?,
    ))
}

/// The body of the first handshake message, if it is of this type.
fn hello(stream: &[u8], kind: u8) -> Option<&[u8]> {
    let is_handshake = stream.first() == Some(&HANDSHAKE) && stream.get(HEADER) == Some(&kind);
    is_handshake.then(|| &stream[HEADER + 4..])
}

fn opened(stream: &[u8], key: &mut Key, ended: bool) -> anyhow::Result<Opened> {
    let mut opened = Opened {
        over: ended,
        ..Opened::default()
    };
    let mut at = 0;
    while let Some(header) = stream.get(at..at + HEADER) {
        let end = at + HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
        let Some(sealed) = stream.get(at + HEADER..end) else {
            break; // torn: it was never read
        };
        if let Some((kind, text)) = key.open(header, sealed)? {
            if key.is_tls13 {
                opened.begin.get_or_insert(at as u64);
            }
            match kind {
                APPLICATION if !text.is_empty() => {
                    let from = opened.text.len() as u64;
                    opened.text.extend_from_slice(&text);
                    opened.records.push(Record {
                        text: from..opened.text.len() as u64,
                        wire: at as u64..end as u64,
                    });
                }
                ALERT | APPLICATION | HANDSHAKE => {}
                other => bail!("a record of type {other} at offset {at}"),
            }
        }
        at = end;
    }
    Ok(opened)
}

struct Key {
    key: aead::LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
    is_tls13: bool,
    has_explicit_nonce: bool,
    /// TLS 1.2: everything is sealed from here on.
    is_on: bool,
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Key {
    fn new(algorithm: &'static aead::Algorithm, key: &[u8], iv: &[u8]) -> anyhow::Result<Self> {
        let key = aead::UnboundKey::new(algorithm, key)
            .ok()
            .context("a key")?;
        Ok(Self {
            key: aead::LessSafeKey::new(key),
            iv: iv.to_vec(),
            sequence: 0,
            is_tls13: false,
            has_explicit_nonce: false,
            is_on: false,
        })
    }

    /// RFC 8446, 7.3.
    fn of_tls13(suite: u16, secret: &[u8]) -> anyhow::Result<Self> {
        let (algorithm, hash) = match suite {
            0x1301 => (&aead::AES_128_GCM, hkdf::HKDF_SHA256),
            0x1302 => (&aead::AES_256_GCM, hkdf::HKDF_SHA384),
            _ => (&aead::CHACHA20_POLY1305, hkdf::HKDF_SHA256),
        };
        let secret = hkdf::Prk::new_less_safe(hash, secret);
        let expand = |label: &str, length: usize| -> anyhow::Result<Vec<u8>> {
            let label = format!("tls13 {label}");
            let info = [
                &(length as u16).to_be_bytes()[..],
                &[label.len() as u8],
                label.as_bytes(),
                &[0],
            ];
            let mut out = vec![0; length];
            let expanded = secret
                .expand(&info, Length(length))
                .ok()
                .context("a label")?;
            expanded.fill(&mut out).ok().context("a length")?;
            Ok(out)
        };
        let mut key = Self::new(
            algorithm,
            &expand("key", algorithm.key_len())?,
            &expand("iv", aead::NONCE_LEN)?,
        )?;
        key.is_tls13 = true;
        Ok(key)
    }

    /// RFC 5246, 6.3, for AEAD ciphers.
    fn of_tls12(
        suite: u16,
        master: &[u8],
        client_random: &[u8],
        server_random: &[u8],
    ) -> anyhow::Result<[Self; 2]> {
        let (algorithm, hash, iv) = match suite {
            0xc02b | 0xc02f => (&aead::AES_128_GCM, hmac::HMAC_SHA256, 4),
            0xc02c | 0xc030 => (&aead::AES_256_GCM, hmac::HMAC_SHA384, 4),
            0xcca8 | 0xcca9 => (&aead::CHACHA20_POLY1305, hmac::HMAC_SHA256, 12),
            other => bail!("cipher suite {other:#x} is not known here"),
        };
        let seed = [b"key expansion", server_random, client_random].concat();
        let secret = hmac::Key::new(hash, master);
        let size = algorithm.key_len();
        let mut block = Vec::new();
        let mut chain = hmac::sign(&secret, &seed);
        while block.len() < 2 * (size + iv) {
            let part = [chain.as_ref(), &seed].concat();
            block.extend_from_slice(hmac::sign(&secret, &part).as_ref());
            chain = hmac::sign(&secret, chain.as_ref());
        }
        let (client, rest) = block.split_at(size);
        let (server, ivs) = rest.split_at(size);
        let mut keys = [
            Self::new(algorithm, client, &ivs[..iv])?,
            Self::new(algorithm, server, &ivs[iv..2 * iv])?,
        ];
        for key in &mut keys {
            key.has_explicit_nonce = iv == 4;
        }
        Ok(keys)
    }

    /// What a record holds and of what type it is; `None` for those that these keys did not seal.
    fn open(&mut self, header: &[u8], sealed: &[u8]) -> anyhow::Result<Option<(u8, Vec<u8>)>> {
        const CHANGE_CIPHER_SPEC: u8 = 20;
        let outer = header[0];
        if outer == CHANGE_CIPHER_SPEC {
            self.is_on = true;
            return Ok(None);
        }
        if self.is_tls13 && outer != APPLICATION || !self.is_tls13 && !self.is_on {
            return Ok(None);
        }
        ensure!(sealed.len() >= TAG, "a short record");
        let mut nonce = [0; aead::NONCE_LEN];
        let (explicit, sealed) = match self.has_explicit_nonce {
            true => sealed.split_at(EXPLICIT_NONCE),
            false => sealed.split_at(0),
        };
        if self.has_explicit_nonce {
            nonce[..4].copy_from_slice(&self.iv);
            nonce[4..].copy_from_slice(explicit);
        } else {
            nonce.copy_from_slice(&self.iv);
            for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
                *byte ^= number;
            }
        }
        let additional = match self.is_tls13 {
            true => header.to_vec(),
            false => {
                let length = (sealed.len() - TAG) as u16;
                let number = self.sequence.to_be_bytes();
                [&number[..], &header[..3], &length.to_be_bytes()].concat()
            }
        };
        let mut text = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let opened = self
            .key
            .open_in_place(nonce, aead::Aad::from(additional), &mut text);
        let Ok(length) = opened.map(|text| text.len()) else {
            // The end of a TLS 1.3 handshake is sealed by other keys.
            ensure!(
                self.is_tls13 && self.sequence == 0,
                "record {} does not open",
                self.sequence
            );
            return Ok(None);
        };
        self.sequence += 1;
        text.truncate(length);
        if !self.is_tls13 {
            return Ok(Some((outer, text)));
        }
        while text.last() == Some(&0) {
            text.pop(); // padding
        }
        let kind = text.pop().context("a record of padding")?;
        Ok(Some((kind, text)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Default)]
    struct Log(Mutex<String>);

    impl rustls::KeyLog for Log {
        fn log(&self, label: &str, random: &[u8], secret: &[u8]) {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let line: [String; 2] = [hex(random), hex(secret)];
            let mut text = self.0.lock().unwrap();
            *text += &format!("{label} {} {}\n", line[0], line[1]);
        }
    }

    /// A conversation between two ends of rustls, as it would pass on the wire.
    fn converse(version: &'static rustls::SupportedProtocolVersion) -> [Vec<u8>; 3] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let made = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let log = Arc::new(Log::default());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.key_log = log.clone();
        let name = "x.test".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        std::io::Write::write_all(&mut client.writer(), b"GET /?call=1 HTTP/1.1\r\n\r\n").unwrap();
        for _ in 0..6 {
            let (mut out, mut back) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut out).unwrap();
            }
            asked.extend_from_slice(&out);
            let mut out = &out[..];
            while !out.is_empty() {
                server.read_tls(&mut out).unwrap();
                server.process_new_packets().unwrap();
            }
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            answered.extend_from_slice(&back);
            let mut back = &back[..];
            while !back.is_empty() {
                client.read_tls(&mut back).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        std::io::Write::write_all(&mut server.writer(), b"HTTP/1.1 204 No\r\n\r\n").unwrap();
        server.send_close_notify();
        while server.wants_write() {
            server.write_tls(&mut answered).unwrap();
        }
        let log = log.0.lock().unwrap().clone().into_bytes();
        [asked, answered, log]
    }

    #[test]
    fn calls_are_found_inside_of_both_versions() {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let [asked, answered, log] = converse(version);
            let secrets = Secrets::parse(std::str::from_utf8(&log).unwrap()).unwrap();
            let (client, server) = open(&asked, &answered, true, &secrets).unwrap();
            assert_eq!(client.read(0, 100), b"GET /?call=1 HTTP/1.1\r\n\r\n");
            assert_eq!(server.read(0, 100), b"HTTP/1.1 204 No\r\n\r\n");
            // The request was the last that the client said, the farewell the server's.
            assert_eq!(client.wire(&(0..24)).end, asked.len() as u64);
            assert!(server.wire(&(0..19)).end < answered.len() as u64);
            assert_eq!(client.records.len(), 1);
        }
    }

    #[test]
    fn without_its_secret_nothing_opens() {
        let [asked, answered, _] = converse(&rustls::version::TLS13);
        let (client, _) = open(&asked, &answered, true, &Secrets::default()).unwrap();
        assert_eq!(client.end(), 0);
    }
}
