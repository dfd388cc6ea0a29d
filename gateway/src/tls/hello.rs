//! Reads the ClientHello from the first bytes of a TLS connection: SNI, ALPN, versions, JA4.
//!
//! Looks and never answers: rustls decides about the handshake. What cannot be read here costs the
//! record a field, not the client its connection.
//!
//! JA4 is FoxIO's TLS client fingerprint (BSD-3-Clause). The other members of that family are
//! licensed differently and are not computed.

use std::fmt::Write;

use ring::digest::{SHA256, digest};

/// A ClientHello longer than this is not read; rustls itself stops at 64 KiB.
pub(crate) const HELLO_BYTES_MAX: usize = 32 * 1024;

const RECORD_HEADER_BYTES: usize = 5;
const RECORD_BODY_BYTES_MAX: usize = 16 * 1024;
const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;

const EXTENSION_SERVER_NAME: u16 = 0x0000;
const EXTENSION_SIGNATURE_ALGORITHMS: u16 = 0x000d;
const EXTENSION_ALPN: u16 = 0x0010;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 0x002b;

/// What the client offered, in its order, GREASE included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The version field of the message itself, `0x0303` since TLS 1.2.
    pub(crate) legacy_version: u16,
    /// Cipher suites.
    pub(crate) ciphers: Vec<u16>,
    /// Extension types.
    pub(crate) extensions: Vec<u16>,
    /// SNI, where it is printable ASCII.
    pub(crate) server_name: Option<String>,
    /// ALPN protocols.
    pub(crate) alpn: Vec<Vec<u8>>,
    /// The supported_versions extension.
    pub(crate) supported_versions: Vec<u16>,
    /// The signature_algorithms extension.
    pub(crate) signature_algorithms: Vec<u16>,
}

/// Why the bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    /// The first record is not a TLS handshake record.
    #[error("the first bytes are not a TLS handshake record")]
    NotTls,
    /// A handshake message other than ClientHello came first.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// Longer than [`HELLO_BYTES_MAX`].
    #[error("the ClientHello is longer than {HELLO_BYTES_MAX} bytes")]
    TooLong,
    /// Its inner lengths do not add up.
    #[error("the ClientHello is malformed")]
    Malformed,
}

/// Collects a ClientHello that may be spread over many records and many reads.
#[derive(Debug, Default)]
pub(crate) struct HelloReader {
    record_header: [u8; RECORD_HEADER_BYTES],
    record_header_bytes: usize,
    record_body_left: usize,
    handshake: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes from the wire. `Ok(None)` asks for more. Not to be called again after
    /// it gave an answer.
    ///
    /// # Errors
    /// The bytes are no ClientHello, see [`HelloError`].
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        while !bytes.is_empty() {
            if self.record_body_left == 0 {
                let missing = RECORD_HEADER_BYTES - self.record_header_bytes;
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                self.record_header[self.record_header_bytes..][..head.len()].copy_from_slice(head);
                self.record_header_bytes += head.len();
                bytes = rest;
                // Checked byte by byte, so that plain HTTP is told apart at its first letter.
                if self.record_header[0] != RECORD_HANDSHAKE
                    || (self.record_header_bytes > 1 && self.record_header[1] != 3)
                {
                    return Err(HelloError::NotTls);
                }
                if self.record_header_bytes < RECORD_HEADER_BYTES {
                    return Ok(None);
                }
                self.record_header_bytes = 0;
                self.record_body_left = usize::from(u16::from_be_bytes([
                    self.record_header[3],
                    self.record_header[4],
                ]));
                if !(1..=RECORD_BODY_BYTES_MAX).contains(&self.record_body_left) {
                    return Err(HelloError::NotTls);
                }
                continue;
            }
            let (body, rest) = bytes.split_at(self.record_body_left.min(bytes.len()));
            self.record_body_left -= body.len();
            self.handshake.extend_from_slice(body);
            bytes = rest;
            if let Some(message) = whole_message(&self.handshake)? {
                return parse(message).ok_or(HelloError::Malformed).map(Some);
            }
        }
        Ok(None)
    }
}

/// The body of the ClientHello once all of it is there.
fn whole_message(handshake: &[u8]) -> Result<Option<&[u8]>, HelloError> {
    if handshake
        .first()
        .is_some_and(|&kind| kind != HANDSHAKE_CLIENT_HELLO)
    {
        return Err(HelloError::NotClientHello);
    }
    let Some(header) = handshake.get(..HANDSHAKE_HEADER_BYTES) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if length > HELLO_BYTES_MAX {
        return Err(HelloError::TooLong);
    }
    Ok(handshake.get(HANDSHAKE_HEADER_BYTES..HANDSHAKE_HEADER_BYTES + length))
}

fn parse(message: &[u8]) -> Option<ClientHello> {
    let mut rest = Cursor(message);
    let mut hello = ClientHello {
        legacy_version: rest.u16()?,
        ..ClientHello::default()
    };
    rest.take(32)?; // random
    rest.vector8()?; // session id
    hello.ciphers = rest.vector16()?.u16s()?;
    rest.vector8()?; // compression methods
    if rest.0.is_empty() {
        return Some(hello); // a hello without extensions is old, not malformed
    }
    let mut extensions = rest.vector16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vector16()?;
        hello.extensions.push(kind);
        // A body that does not parse leaves its field empty; rustls will say what it thinks of it.
        match kind {
            EXTENSION_SERVER_NAME => hello.server_name = server_name(body),
            EXTENSION_ALPN => hello.alpn = alpn(body).unwrap_or_default(),
            EXTENSION_SUPPORTED_VERSIONS => {
                hello.supported_versions = versions(body).unwrap_or_default();
            }
            EXTENSION_SIGNATURE_ALGORITHMS => {
                hello.signature_algorithms = algorithms(body).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut body: Cursor<'_>) -> Option<String> {
    let mut names = body.vector16()?;
    let kind = names.u8()?;
    let name = names.vector16()?.0;
    // 253 is the longest DNS name; anything but printable ASCII is no host name and stays out of
    // the record.
    let printable = !name.is_empty() && name.len() <= 253 && name.iter().all(u8::is_ascii_graphic);
    (kind == 0 && printable).then(|| String::from_utf8_lossy(name).into_owned())
}

fn alpn(mut body: Cursor<'_>) -> Option<Vec<Vec<u8>>> {
    let mut names = body.vector16()?;
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        protocols.push(names.vector8()?.0.to_vec());
    }
    Some(protocols)
}

fn versions(mut body: Cursor<'_>) -> Option<Vec<u16>> {
    body.vector8()?.u16s()
}

fn algorithms(mut body: Cursor<'_>) -> Option<Vec<u16>> {
    body.vector16()?.u16s()
}

impl ClientHello {
    /// The JA4 fingerprint of this hello, as received over TCP: `t13d1516h2_8daaf6152771_…`.
    pub(crate) fn ja4(&self) -> String {
        let ciphers = sorted_hex(self.ciphers.iter().copied().filter(|&c| !is_grease(c)));
        let extensions = || self.extensions.iter().copied().filter(|&e| !is_grease(e));
        let mut hashed_extensions = sorted_hex(
            extensions().filter(|e| ![EXTENSION_SERVER_NAME, EXTENSION_ALPN].contains(e)),
        );
        let signatures = hex_list(
            self.signature_algorithms
                .iter()
                .copied()
                .filter(|&s| !is_grease(s)),
        );
        // A hello without any extension to hash is written as zeros, whatever else it holds.
        if !hashed_extensions.is_empty() && !signatures.is_empty() {
            hashed_extensions.push('_');
            hashed_extensions.push_str(&signatures);
        }

        let mut ja4 = String::with_capacity(36);
        ja4.push('t');
        ja4.push_str(self.version_code());
        ja4.push(if self.extensions.contains(&EXTENSION_SERVER_NAME) {
            'd'
        } else {
            'i'
        });
        let cipher_count = self
            .ciphers
            .iter()
            .filter(|&&c| !is_grease(c))
            .count()
            .min(99);
        let extension_count = extensions().count().min(99);
        let _ = write!(ja4, "{cipher_count:02}{extension_count:02}");
        ja4.extend(self.alpn_code());
        for list in [ciphers, hashed_extensions] {
            ja4.push('_');
            ja4.push_str(&truncated_sha256(&list));
        }
        ja4
    }

    /// The newest version offered, as the wire has it.
    pub(crate) fn highest_version(&self) -> u16 {
        let highest = self
            .supported_versions
            .iter()
            .copied()
            .filter(|&v| !is_grease(v))
            .max();
        highest.unwrap_or(self.legacy_version)
    }

    fn version_code(&self) -> &'static str {
        match self.highest_version() {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            0x0300 => "s3",
            0x0002 => "s2",
            _ => "00",
        }
    }

    /// First and last character of the first ALPN value.
    ///
    /// A byte outside ASCII is a `9` and a missing last character a `0`, as in FoxIO's own code,
    /// which the fingerprints in circulation come from; its text asks for hex digits instead. For
    /// other bytes that are not alphanumeric the text is followed: the ends of the hex form.
    fn alpn_code(&self) -> [char; 2] {
        let Some((&first, rest)) = self.alpn.first().and_then(|value| value.split_first()) else {
            return ['0', '0'];
        };
        let last = *rest.last().unwrap_or(&b'0');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
        if plain(first) && plain(last) {
            [first, last].map(|byte| {
                if byte.is_ascii() {
                    char::from(byte)
                } else {
                    '9'
                }
            })
        } else {
            let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
            [digit(first >> 4), digit(last & 0x0f)]
        }
    }
}

/// RFC 8701: values that clients throw in so that servers keep ignoring what they do not know.
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

fn sorted_hex(values: impl Iterator<Item = u16>) -> String {
    let mut sorted: Vec<u16> = values.collect();
    sorted.sort_unstable();
    hex_list(sorted.into_iter())
}

fn hex_list(values: impl Iterator<Item = u16>) -> String {
    let mut list = String::new();
    for value in values {
        if !list.is_empty() {
            list.push(',');
        }
        let _ = write!(list, "{value:04x}");
    }
    list
}

fn truncated_sha256(list: &str) -> String {
    if list.is_empty() {
        return "000000000000".to_owned();
    }
    let mut hex = String::with_capacity(12);
    for byte in &digest(&SHA256, list.as_bytes()).as_ref()[..6] {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Reads TLS' length-prefixed vectors; `None` wherever a length runs past the end.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Self)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }

    fn u16s(self) -> Option<Vec<u16>> {
        let (pairs, odd) = self.0.as_chunks::<2>();
        odd.is_empty()
            .then(|| pairs.iter().map(|&pair| u16::from_be_bytes(pair)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes a ClientHello the way a client would, from its parts.
    struct Offer<'a> {
        ciphers: &'a [u16],
        extensions: &'a [(u16, Vec<u8>)],
    }

    fn vector16(body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap();
        [&length.to_be_bytes(), body].concat()
    }

    fn u16s(values: &[u16]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect()
    }

    fn sni(name: &str) -> (u16, Vec<u8>) {
        (
            0,
            vector16(&[&[0], vector16(name.as_bytes()).as_slice()].concat()),
        )
    }

    fn alpn_of(names: &[&[u8]]) -> (u16, Vec<u8>) {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|name| [&[u8::try_from(name.len()).unwrap()], *name].concat())
            .collect();
        (0x10, vector16(&list))
    }

    fn versions_of(versions: &[u16]) -> (u16, Vec<u8>) {
        let body = u16s(versions);
        (
            0x2b,
            [&[u8::try_from(body.len()).unwrap()], body.as_slice()].concat(),
        )
    }

    fn signatures_of(algorithms: &[u16]) -> (u16, Vec<u8>) {
        (0x0d, vector16(&u16s(algorithms)))
    }

    impl Offer<'_> {
        fn handshake(&self) -> Vec<u8> {
            let mut body = vec![3, 3];
            body.extend([7; 32]);
            body.push(0); // session id
            body.extend(vector16(&u16s(self.ciphers)));
            body.extend([1, 0]); // compression
            let extensions: Vec<u8> = self
                .extensions
                .iter()
                .flat_map(|(kind, bytes)| [kind.to_be_bytes().to_vec(), vector16(bytes)].concat())
                .collect();
            body.extend(vector16(&extensions));
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE_CLIENT_HELLO], &length[1..], &body].concat()
        }

        fn records(&self, body_bytes: usize) -> Vec<u8> {
            self.handshake()
                .chunks(body_bytes)
                .flat_map(|body| [vec![22, 3, 1], vector16(body)].concat())
                .collect()
        }
    }

    fn read(bytes: &[u8]) -> ClientHello {
        HelloReader::default()
            .push(bytes)
            .unwrap()
            .expect("the whole hello is there")
    }

    const GREASE: u16 = 0x1a1a;

    #[test]
    fn the_offer_is_read_back() {
        let hello = read(
            &Offer {
                ciphers: &[GREASE, 0x1301, 0xc02b],
                extensions: &[
                    sni("api.example.com"),
                    alpn_of(&[b"h2", b"http/1.1"]),
                    versions_of(&[GREASE, 0x0304, 0x0303]),
                    signatures_of(&[0x0403, 0x0804]),
                ],
            }
            .records(16 * 1024),
        );
        assert_eq!(hello.server_name.as_deref(), Some("api.example.com"));
        assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(hello.supported_versions, [GREASE, 0x0304, 0x0303]);
        assert_eq!(hello.signature_algorithms, [0x0403, 0x0804]);
        assert_eq!(hello.ciphers, [GREASE, 0x1301, 0xc02b]);
    }

    #[test]
    fn pieces_of_any_size_give_the_same_answer() {
        let offer = Offer {
            ciphers: &[0x1301, 0x1302],
            extensions: &[sni("a.example"), versions_of(&[0x0304])],
        };
        let whole = read(&offer.records(16 * 1024));
        for record_bytes in [1, 3, 50] {
            for read_bytes in [1, 2, 7] {
                let mut reader = HelloReader::default();
                let wire = offer.records(record_bytes);
                let mut answers: Vec<ClientHello> = wire
                    .chunks(read_bytes)
                    .filter_map(|piece| reader.push(piece).unwrap())
                    .collect();
                assert_eq!(
                    answers.len(),
                    1,
                    "records of {record_bytes}, reads of {read_bytes}"
                );
                assert_eq!(answers.remove(0), whole);
            }
        }
    }

    #[test]
    fn ja4_counts_sorts_and_hashes_without_grease() {
        // Expected hashes: sha256sum of the lists in the comments, first 12 digits.
        let cases: &[(&str, Offer<'_>, &str)] = &[(
            "a browser: 1301,c02b / 000a,000d,002b_0403,0804",
            Offer {
                ciphers: &[GREASE, 0xc02b, 0x1301],
                extensions: &[
                    (GREASE, vec![]),
                    sni("a.example"),
                    versions_of(&[GREASE, 0x0304]),
                    alpn_of(&[b"h2"]),
                    (0x0a, vec![]),
                    signatures_of(&[0x0403, 0x0804]),
                ],
            },
            "t13d0205h2_777cda164f4b_fbabbea27ee8",
        )];
        for (what, offer, expected) in cases {
            assert_eq!(read(&offer.records(16 * 1024)).ja4(), *expected, "{what}");
        }
    }

    #[test]
    fn alpn_is_its_first_and_last_character() {
        let cases: &[(&[&[u8]], &str)] = &[
            (&[b"h2", b"http/1.1"], "h2"),
            (&[b"http/1.1"], "h1"),
            (&[b"x"], "x0"),
            (&[b"\xba\xad", b"http/1.1"], "99"),
            (&[b"h\xff"], "h9"),
            (&[b"-h2-"], "2d"),
            (&[], "00"),
            (&[b""], "00"),
        ];
        for (offered, expected) in cases {
            let hello = ClientHello {
                alpn: offered.iter().map(|name| name.to_vec()).collect(),
                ..ClientHello::default()
            };
            assert_eq!(
                String::from_iter(hello.alpn_code()),
                *expected,
                "{offered:?}"
            );
        }
    }

    #[test]
    fn the_version_is_the_highest_offered() {
        let cases: &[(u16, &[u16], &str)] = &[
            (0x0303, &[0x0303, 0x0304], "13"),
            (0x0303, &[GREASE, 0x0303], "12"),
            (0x0303, &[], "12"),
            (0x0301, &[], "10"),
            (0x0300, &[], "s3"),
            (0x7777, &[], "00"),
        ];
        for &(legacy_version, supported, expected) in cases {
            let hello = ClientHello {
                legacy_version,
                supported_versions: supported.to_vec(),
                ..ClientHello::default()
            };
            assert_eq!(
                hello.version_code(),
                expected,
                "{legacy_version:04x} {supported:04x?}"
            );
        }
    }

    #[test]
    fn what_is_no_client_hello_is_told_apart() {
        let check = |bytes: &[u8], expected: HelloError| {
            assert_eq!(
                HelloReader::default().push(bytes),
                Err(expected),
                "{bytes:x?}"
            );
        };
        check(b"G", HelloError::NotTls);
        check(b"GET / HTTP/1.1\r\n\r\n", HelloError::NotTls);
        check(&[22, 2], HelloError::NotTls);
        check(&[22, 3, 1, 0, 0], HelloError::NotTls);
        check(&[22, 3, 1, 0xff, 0xff], HelloError::NotTls);
        check(&[22, 3, 1, 0, 1, 2], HelloError::NotClientHello);
        check(&[22, 3, 1, 0, 4, 1, 1, 0, 0], HelloError::TooLong);
        check(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 9], HelloError::Malformed);
        assert_eq!(HelloReader::default().push(&[22, 3, 1]), Ok(None));
        assert_eq!(HelloReader::default().push(&[]), Ok(None));
    }

    #[test]
    fn names_that_are_no_host_names_stay_out() {
        for name in ["", "two words", "bell\u{7}", &"a".repeat(254)] {
            let hello = read(
                &Offer {
                    ciphers: &[0x1301],
                    extensions: &[sni(name)],
                }
                .records(16 * 1024),
            );
            assert_eq!(hello.server_name, None, "{name:?}");
            assert!(
                hello.ja4().starts_with("t12d0101"),
                "the extension itself still counts"
            );
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = Offer {
            ciphers: &[GREASE, 0x1301],
            extensions: &[
                sni("a.example"),
                alpn_of(&[b"h2"]),
                versions_of(&[0x0304]),
                signatures_of(&[0x0403]),
            ],
        }
        .records(16 * 1024);
        for index in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[index] = value;
                let _ = HelloReader::default()
                    .push(&bad)
                    .map(|hello| hello.map(|h| h.ja4()));
            }
            assert_eq!(
                HelloReader::default().push(&good[..index]),
                Ok(None),
                "cut at {index}"
            );
        }
    }

    /// What a reader makes of `wire` that comes in pieces, and how many bytes it kept meanwhile.
    fn read_in_pieces(
        wire: &[u8],
        piece_bytes: usize,
    ) -> (Result<Option<ClientHello>, HelloError>, usize) {
        let mut reader = HelloReader::default();
        for piece in wire.chunks(piece_bytes) {
            match reader.push(piece) {
                Ok(None) => {}
                answer => return (answer, reader.handshake.len()),
            }
        }
        (Ok(None), reader.handshake.len())
    }

    proptest! {
        #[test]
        fn a_bent_hello_is_read_the_same_in_any_pieces(
            bends in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            record_bytes in 1..600_usize,
            piece_bytes in 1..600_usize,
            framed_first: bool,
        ) {
            let offer = Offer {
                ciphers: &[GREASE, 0x1301, 0xc02b],
                extensions: &[
                    sni("a.example"),
                    alpn_of(&[b"h2", b"http/1.1"]),
                    versions_of(&[GREASE, 0x0304]),
                    signatures_of(&[0x0403, 0x0804]),
                    (GREASE, vec![]),
                ],
            };
            let bend = |mut bytes: Vec<u8>| {
                for (index, value) in &bends {
                    let at = index.index(bytes.len());
                    bytes[at] = *value;
                }
                bytes
            };
            let frame = |handshake: &[u8]| -> Vec<u8> {
                handshake
                    .chunks(record_bytes)
                    .flat_map(|body| [vec![22, 3, 1], vector16(body)].concat())
                    .collect()
            };
            // Bent lengths of records, or bent lengths within the message.
            let wire = if framed_first {
                bend(frame(&offer.handshake()))
            } else {
                frame(&bend(offer.handshake()))
            };
            let (whole, _) = read_in_pieces(&wire, wire.len());
            let (pieced, kept) = read_in_pieces(&wire, piece_bytes);
            prop_assert_eq!(&whole, &pieced);
            prop_assert!(kept <= wire.len());
            if let Ok(Some(hello)) = whole {
                prop_assert_eq!(hello.ja4().chars().count(), 36);
            }
        }

        #[test]
        fn whatever_is_sent_no_more_is_kept_than_a_hello_may_have(
            head in prop::collection::vec(any::<u8>(), 0..40),
            claimed in 0..(HELLO_BYTES_MAX as u32 * 2),
            piece_bytes in 1..20_000_usize,
        ) {
            let mut handshake = vec![HANDSHAKE_CLIENT_HELLO];
            handshake.extend(&claimed.to_be_bytes()[1..]);
            handshake.extend(&head);
            handshake.resize(HELLO_BYTES_MAX * 3, 0x5a);
            let wire: Vec<u8> = handshake
                .chunks(RECORD_BODY_BYTES_MAX)
                .flat_map(|body| [vec![22, 3, 1], vector16(body)].concat())
                .collect();
            let (answer, kept) = read_in_pieces(&wire, piece_bytes);
            prop_assert!(!matches!(answer, Ok(None)), "it wants more than there may be");
            prop_assert!(
                kept <= HANDSHAKE_HEADER_BYTES + HELLO_BYTES_MAX + RECORD_BODY_BYTES_MAX,
                "kept {}", kept
            );
        }
    }
}
