//! Finds the byte with which a client's handshake ends, by the headers of its TLS records.
//!
//! rustls may read the first request together with the end of the handshake, and does not say where
//! the one ends and the other begins. Record headers are never encrypted, and from them it can be
//! told: in TLS 1.2 the record after ChangeCipherSpec is the client's Finished (RFC 5246, section
//! 7.4.9); in TLS 1.3 its first encrypted record is, unless it was asked for a certificate (RFC
//! 8446, section 2), and then nobody can tell.

const HEADER_BYTES: usize = 5;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Follows what a client sends from its first byte.
#[derive(Debug, Default)]
pub(crate) struct HandshakeEnd {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    body_left: u64,
    offset: u64,
    kind_before: u8,
    after_change: Option<u64>,
    first_sealed: Option<u64>,
}

impl HandshakeEnd {
    /// Takes the next bytes from the wire.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.first_sealed.is_none() {
            if self.body_left > 0 {
                let skipped = self.body_left.min(bytes.len() as u64);
                self.body_left -= skipped;
                self.offset += skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            self.header[self.header_bytes] = bytes[0];
            self.header_bytes += 1;
            self.offset += 1;
            bytes = &bytes[1..];
            if self.header_bytes == HEADER_BYTES {
                self.begin_record();
            }
        }
    }

    fn begin_record(&mut self) {
        let [kind, _, _, high, low] = self.header;
        self.header_bytes = 0;
        self.body_left = u64::from(u16::from_be_bytes([high, low]));
        let end = self.offset + self.body_left;
        if kind == APPLICATION_DATA {
            self.first_sealed = Some(end);
        } else if kind == HANDSHAKE && self.kind_before == CHANGE_CIPHER_SPEC {
            self.after_change.get_or_insert(end);
        }
        self.kind_before = kind;
    }

    /// One past the last byte of the client's Finished in TLS 1.2.
    pub(crate) fn tls12(&self) -> Option<u64> {
        self.after_change
    }

    /// One past the last byte of the client's Finished in TLS 1.3, if it sent no certificate.
    pub(crate) fn tls13(&self) -> Option<u64> {
        self.first_sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(kinds_and_lengths: &[(u8, u16)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, length) in kinds_and_lengths {
            bytes.extend_from_slice(&[*kind, 3, 3]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend(std::iter::repeat_n(0, usize::from(*length)));
        }
        bytes
    }

    /// The ends found, which may not depend on how the bytes came.
    #[track_caller]
    fn check(sent: &[(u8, u16)], tls12: Option<u64>, tls13: Option<u64>) {
        let bytes = records(sent);
        for piece in [1, 3, 7, bytes.len()] {
            let mut end = HandshakeEnd::default();
            bytes.chunks(piece).for_each(|piece| end.push(piece));
            assert_eq!((end.tls12(), end.tls13()), (tls12, tls13), "{sent:?}");
        }
    }

    #[test]
    fn the_end_of_the_handshake_is_found_whatever_follows_it() {
        const HELLO: (u8, u16) = (HANDSHAKE, 200);
        const CHANGE: (u8, u16) = (CHANGE_CIPHER_SPEC, 1);
        // TLS 1.2: hello, key exchange, change, Finished, request.
        let finished = 205 + 42 + 6 + 45;
        let old = [HELLO, (HANDSHAKE, 37), CHANGE, (HANDSHAKE, 40)];
        check(&old, Some(finished), None);
        let request = [&old[..], &[(APPLICATION_DATA, 90)]].concat();
        check(&request, Some(finished), Some(finished + 95));
        // TLS 1.3, with and without the change that says nothing, and with a second hello.
        check(&[HELLO, (APPLICATION_DATA, 53)], None, Some(263));
        let request = [
            HELLO,
            CHANGE,
            (APPLICATION_DATA, 53),
            (APPLICATION_DATA, 90),
        ];
        check(&request, None, Some(269));
        let again = [HELLO, CHANGE, HELLO, (APPLICATION_DATA, 53)];
        check(&again, Some(416), Some(474));
        check(&[HELLO], None, None);
    }
}
