//! Where a chunked body ends (RFC 9112, section 7.1), trailers included.
//!
//! Pingora's parser knows, but does not tell, and whose bytes come next depends on it. This reads
//! along: it looks at the sizes of chunks and skips their data. What is malformed it takes for
//! whatever comes next in a body; the parser refuses it.

/// Reads along with one body, in whatever pieces it comes.
#[derive(Debug, Default)]
pub(super) struct ChunkedBody {
    place: Place,
    /// Bytes from the body's first one on.
    read: u64,
    end: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the digits of a chunk's size.
    Size(u64),
    /// After them, up to the line's end.
    Extension(u64),
    /// In a chunk's data, so many bytes before its end.
    Data(u64),
    /// In the line end after a chunk's data.
    AfterData,
    /// In a line of the trailers; whether it is empty so far.
    Trailer { is_empty: bool },
}

impl Default for Place {
    fn default() -> Self {
        Self::Size(0)
    }
}

impl ChunkedBody {
    /// The next bytes of the connection. What comes after the end is not looked at.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && self.end.is_none() {
            if let Place::Data(left) = self.place {
                let skipped = left.min((bytes.len() - at) as u64);
                at += skipped as usize;
                self.place = match left - skipped {
                    0 => Place::AfterData,
                    left => Place::Data(left),
                };
                continue;
            }
            let byte = bytes[at];
            at += 1;
            self.place = match (self.place, byte) {
                (Place::Size(0) | Place::Extension(0), b'\n') => Place::Trailer { is_empty: true },
                (Place::Size(size) | Place::Extension(size), b'\n') => Place::Data(size),
                (Place::Size(size), byte) => match char::from(byte).to_digit(16) {
                    Some(digit) => Place::Size(size.wrapping_mul(16) | u64::from(digit)),
                    None => Place::Extension(size),
                },
                (Place::AfterData, b'\n') => Place::Size(0),
                (Place::Trailer { is_empty: true }, b'\n') => {
                    self.end = Some(self.read + at as u64);
                    self.place
                }
                (Place::Trailer { .. }, b'\n') => Place::Trailer { is_empty: true },
                (Place::Trailer { .. }, byte) if byte != b'\r' => {
                    Place::Trailer { is_empty: false }
                }
                (place, _) => place,
            };
        }
        self.read += bytes.len() as u64;
    }

    /// How many bytes the body took, once it is over.
    pub(super) fn end(&self) -> Option<u64> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODIES: [&str; 6] = [
        "0\r\n\r\n",
        "4\r\nfour\r\n0\r\n\r\n",
        "4;name=\"value\"\r\nfour\r\n000;last\r\n\r\n",
        "b\r\n\r\n0\r\nA: b\r\n\r\n\r\n0\r\n\r\n",
        "A\r\n0123456789\r\n0\r\nX-Sum: 4\r\nX-More: \r\n\r\n",
        "4\nfour\n0\nX-Sum: 4\n\n",
    ];

    #[test]
    fn a_body_ends_after_its_trailers_in_whatever_pieces_it_comes() {
        for body in BODIES {
            // As if another request had been sent together with it.
            let sent = format!("{body}POST / HTTP/1.1\r\n\r\n0\r\n\r\n");
            for piece in 1..=sent.len() {
                let mut chunked = ChunkedBody::default();
                for bytes in sent.as_bytes().chunks(piece) {
                    chunked.read(bytes);
                }
                assert_eq!(
                    chunked.end(),
                    Some(body.len() as u64),
                    "{body:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn a_body_that_is_not_whole_has_no_end() {
        for body in BODIES {
            let mut chunked = ChunkedBody::default();
            chunked.read(&body.as_bytes()[..body.len() - 1]);
            assert_eq!(chunked.end(), None, "{body:?}");
        }
    }
}
