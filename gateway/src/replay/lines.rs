//! Reads recorded calls: files one after the other, parsed by as many threads as there are cores to
//! spare, handed out in the order in which they stand.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context as _;
use calltap_correlate::record::CallRecord;
use flate2::bufread::MultiGzDecoder;

/// Lines that are parsed at a time, bytes.
const BLOCK: usize = 1 << 20;
/// A line is not looked for further than this; records are some kilobytes.
const LINE_MAX: usize = 16 << 20;
/// Blocks that wait for a parser, and parsed ones that wait to be taken, for each parser.
const WAITING_MAX: usize = 2;

/// Where lines come from.
pub(super) struct Source {
    name: Arc<str>,
    reader: Box<dyn Read + Send>,
}

/// The sources, and how much of them was read.
pub(super) struct Sources {
    list: Vec<Source>,
    /// Bytes of all files, as they are on the disk; `None` where one has no size.
    pub(super) size: Option<u64>,
    /// Bytes read of them.
    pub(super) read: Arc<AtomicU64>,
}

/// Lines of one source.
struct Block {
    source: Arc<str>,
    text: Vec<u8>,
    /// Why there are no more.
    failed: Option<io::Error>,
}

/// What stood in a block.
pub(super) struct Parsed {
    pub(super) source: Arc<str>,
    pub(super) records: Vec<CallRecord>,
    /// Lines that are no records, by their number in the block from 1, and why.
    pub(super) bad: Vec<(u64, String)>,
    pub(super) lines: u64,
    /// Why nothing more comes from this source.
    pub(super) failed: Option<io::Error>,
}

impl Sources {
    /// Opens them all; `-` is standard input, and what ends in `.gz` is decompressed.
    pub(super) fn open(files: &[PathBuf]) -> anyhow::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let mut size = Some(0);
        let mut list = Vec::new();
        for file in files {
            let (reader, bytes): (Box<dyn Read + Send>, _) = if file == Path::new("-") {
                (Box::new(io::stdin()), None)
            } else {
                let opened =
                    File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
                let about = opened.metadata().ok().filter(|about| about.is_file());
                (Box::new(opened), about.map(|about| about.len()))
            };
            size = size.zip(bytes).map(|(all, bytes)| all + bytes);
            let reader = Counted {
                reader,
                read: Arc::clone(&read),
            };
            let is_compressed = file.extension().is_some_and(|extension| extension == "gz");
            list.push(Source {
                name: file.display().to_string().into(),
                reader: match is_compressed {
                    true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(BLOCK, reader))),
                    false => Box::new(reader),
                },
            });
        }
        Ok(Self { list, size, read })
    }

    /// Hands out what stands in them, block by block, until that says that it has enough.
    pub(super) fn parse(self, mut take: impl FnMut(Parsed) -> bool) {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // One core takes what was parsed.
        let parsers = cores.saturating_sub(1).max(1);
        let (unparsed, inputs): (Vec<_>, Vec<_>) =
            (0..parsers).map(|_| sync_channel(WAITING_MAX)).unzip();
        let (outputs, parsed): (Vec<_>, Vec<_>) =
            (0..parsers).map(|_| sync_channel(WAITING_MAX)).unzip();
        thread::scope(|scope| {
            scope.spawn(move || read(self.list, &unparsed));
            for (input, output) in inputs.into_iter().zip(outputs) {
                scope.spawn(move || parse(&input, &output));
            }
            // Dealt out in turn, and so collected in turn.
            let parsed: Vec<Receiver<Parsed>> = parsed;
            for parser in parsed.iter().cycle() {
                let Ok(block) = parser.recv() else { break };
                if !take(block) {
                    break;
                }
            }
        });
    }
}

struct Counted {
    reader: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Ends when everything was read or nobody wants more.
fn read(sources: Vec<Source>, parsers: &[SyncSender<Block>]) {
    let mut parsers = parsers.iter().cycle();
    let mut give = |block| {
        parsers
            .next()
            .is_some_and(|parser| parser.send(block).is_ok())
    };
    for Source { name, mut reader } in sources {
        let mut rest = Vec::new();
        loop {
            let (text, failed) = match block(&mut reader, &mut rest) {
                Ok(text) => (text, None),
                Err(error) => (std::mem::take(&mut rest), Some(error)),
            };
            let is_last = text.is_empty() || failed.is_some();
            let block = Block {
                source: Arc::clone(&name),
                text,
                failed,
            };
            if !give(block) {
                return;
            }
            if is_last {
                break;
            }
        }
    }
}

/// Whole lines, of which `rest` is the beginning; leaves the beginning of the next one there. Empty at
/// the end.
fn block(reader: &mut impl Read, rest: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        let before = rest.len();
        let bytes = reader.by_ref().take(BLOCK as u64).read_to_end(rest)?;
        let is_last = bytes < BLOCK;
        let end = match memchr::memrchr(b'\n', &rest[before..]) {
            _ if is_last => rest.len(),
            Some(newline) => before + newline + 1,
            None if rest.len() >= LINE_MAX => rest.len(),
            None => continue,
        };
        let next = rest.split_off(end);
        return Ok(std::mem::replace(rest, next));
    }
}

fn parse(input: &Receiver<Block>, output: &SyncSender<Parsed>) {
    for block in input {
        if output.send(parsed(block)).is_err() {
            return;
        }
    }
}

fn parsed(block: Block) -> Parsed {
    let Block {
        source,
        text,
        failed,
    } = block;
    let mut parsed = Parsed {
        source,
        records: Vec::new(),
        bad: Vec::new(),
        lines: 0,
        failed,
    };
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest);
        let (line, next) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, [].as_slice()),
        };
        rest = next;
        let number = parsed.lines + 1;
        parsed.lines += u64::from(end.is_some());
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(record) => parsed.records.push(record),
            Err(error) => parsed.bad.push((number, error.to_string())),
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> String {
        format!(
            r#"{{"timestamp":"2026-11-22T14:24:43Z","log.record.uid":"{}","kind":"call","url.path":"/{}"}}"#,
            uuid::Uuid::from_u128(number as u128),
            "x".repeat(number % 3_000),
        )
    }

    /// The numbers of the records of these files, and of their bad lines.
    fn replayed(files: &[PathBuf]) -> (Vec<u128>, Vec<u64>) {
        let (mut records, mut bad, mut line) = (Vec::new(), Vec::new(), 0);
        let sources = Sources::open(files).expect("opened");
        let (size, read) = (sources.size, Arc::clone(&sources.read));
        sources.parse(|parsed| {
            assert!(parsed.failed.is_none());
            records.extend(parsed.records.iter().map(|record| record.uid.as_u128()));
            bad.extend(parsed.bad.iter().map(|(number, _)| line + number));
            line += parsed.lines;
            true
        });
        assert_eq!(size, Some(read.load(Ordering::Relaxed)));
        (records, bad)
    }

    #[test]
    fn lines_come_in_their_order_whatever_their_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("calls.jsonl");
        let mut lines: Vec<String> = (0..5_000).map(line).collect();
        lines.insert(17, "{".to_owned());
        lines.insert(4_000, String::new());
        lines.insert(4_001, "nonsense".to_owned());
        std::fs::write(&file, lines.join("\n")).expect("written");
        let (records, bad) = replayed(std::slice::from_ref(&file));
        assert_eq!(records, (0..5_000).collect::<Vec<u128>>());
        assert_eq!(bad, [18, 4_002]);

        let compressed = dir.path().join("calls.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(
            File::create(&compressed).expect("created"),
            flate2::Compression::fast(),
        );
        io::Write::write_all(&mut encoder, lines.join("\n").as_bytes()).expect("written");
        encoder.finish().expect("written");
        assert_eq!(replayed(&[compressed]), (records, bad));
    }

    #[test]
    fn a_line_without_an_end_is_a_bad_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("zeros");
        std::fs::write(&file, vec![b'0'; LINE_MAX + 5]).expect("written");
        let (records, bad) = replayed(&[file]);
        assert!(records.is_empty());
        assert_eq!(bad, [1, 1]);
    }

    #[test]
    fn who_has_enough_is_given_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("calls.jsonl");
        let lines: Vec<String> = (0..10_000).map(line).collect();
        std::fs::write(&file, lines.join("\n")).expect("written");
        let mut blocks = 0;
        Sources::open(&[file]).expect("opened").parse(|_| {
            blocks += 1;
            false
        });
        assert_eq!(blocks, 1);
    }
}
