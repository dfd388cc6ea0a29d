//! Cuts a stream of bytes into lines, with a bound on how long a line may be.

/// Longer than any record; what is longer is skipped and counted.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Collects bytes until a line is whole.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// The rest of an overlong line is still to come.
    skipping: bool,
    /// Overlong lines so far.
    pub(crate) skipped: u64,
}

impl Lines {
    /// Adds bytes and hands out each line that is whole now, without its line ending.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut out: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = bytes.split_at(end);
            self.keep(head);
            self.end(&mut out);
            bytes = &rest[1..];
        }
        self.keep(bytes);
    }

    /// The stream ended: what is left is a line if it is anything.
    pub(crate) fn finish(&mut self, mut out: impl FnMut(&[u8])) {
        if !self.partial.is_empty() || self.skipping {
            self.end(&mut out);
        }
    }

    /// The stream began anew: what is left of the old one is no line.
    pub(crate) fn forget(&mut self) {
        self.partial.clear();
        self.skipping = false;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() > LINE_BYTES_MAX {
            self.partial = Vec::new();
            self.skipping = true;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, out: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.skipping) {
            self.skipped += 1;
            return;
        }
        out(self.partial.strip_suffix(b"\r").unwrap_or(&self.partial));
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> (Vec<String>, u64) {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| {
                out.push(String::from_utf8_lossy(line).into_owned());
            });
        }
        lines.finish(|line| out.push(String::from_utf8_lossy(line).into_owned()));
        (out, lines.skipped)
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        for pieces in [
            vec![&b"one\ntwo\r\n\nthree"[..]],
            vec![&b"on"[..], b"e", b"\ntwo\r", b"\n", b"\nth", b"ree"],
        ] {
            assert_eq!(
                cut(&pieces),
                (
                    vec!["one".into(), "two".into(), "".into(), "three".into()],
                    0
                )
            );
        }
    }

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_is_not() {
        let long = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(
            cut(&[&long, b"y\nnext\n"]),
            (vec!["next".into()], 1),
            "only the overlong line is lost"
        );
        assert_eq!(cut(&[&long, b"\n"]).0.len(), 1, "the bound itself is kept");
    }
}
