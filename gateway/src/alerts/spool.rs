//! What a destination did not take yet, on disk, in order, so that no restart and no crash loses it.
//!
//! One file for each destination, which only grows: a line for a message, and a line when it is done.
//! A message counts as kept once [`Spool::sync`] returned. That one is done need not reach the disk: it is
//! sent twice then, and never not at all. When nothing waits the file is emptied; when much of it is done
//! it is written anew.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

/// Alerts name clients: the group may read them, the world may not.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;
/// What a spool's file is called after the name of its destination.
const SUFFIX: &str = ".spool";
/// Hex digits of the SHA-256 in front of a message: enough to tell a whole line from a torn one.
const SUM_DIGITS: usize = 16;
/// Before the message: `+ SUM ID `.
const MESSAGE_PREFIX: usize = 2 + SUM_DIGITS + 1 + uuid::fmt::Hyphenated::LENGTH + 1;

/// Why there is no place for what waits.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// It is not there and cannot be made, or is not ours.
    #[error("cannot keep alerts in {path}; choose another directory with alerts.spool_dir")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Two would send everything twice.
    #[error("another calltap keeps its alerts in {path}; give each its own alerts.spool_dir")]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// A file in it cannot be used.
    #[error("cannot keep alerts in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The directory of all spools, ours alone as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes it if need be, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Directory {
            path: path.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)
            .map_err(failed)?;
        let lock = File::open(path).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::Taken {
                path: path.to_owned(),
            }),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The spool of one destination, with what an earlier process left there.
    pub(super) fn spool(&self, name: &str, max_bytes: u64) -> Result<Spool, SpoolError> {
        let path = self.path.join(format!("{name}{SUFFIX}"));
        Spool::open(&path, max_bytes).map_err(|source| SpoolError::File { path, source })
    }

    /// Files that wait for a destination that is none of these.
    pub(super) fn strangers<'n>(
        &self,
        known: impl Iterator<Item = &'n str> + Clone,
    ) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let strange = entries.filter(|entry| {
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(SUFFIX));
            let waits = entry.metadata().is_ok_and(|about| about.len() > 0);
            waits && name.is_some_and(|name| !known.clone().any(|known| known == name))
        });
        let mut paths: Vec<PathBuf> = strange.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Names it, however often it is sent.
    pub(super) id: Uuid,
    /// JSON, on one line.
    pub(super) body: String,
}

/// What waits for one destination.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: File,
    /// Where whole lines end.
    end: u64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    max_bytes: u64,
    /// Bytes of the file that could not be read when it was opened.
    damaged_bytes: u64,
}

/// A message's line.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: Uuid,
    at: u64,
    len: u64,
}

impl Spool {
    fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let file = open(path)?;
        let text = fs::read(path)?;
        let mut spool = Self {
            path: path.to_owned(),
            file,
            end: text.len() as u64,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            max_bytes,
            damaged_bytes: 0,
        };
        spool.learn(&text);
        // Begins clean: without what is done and what is damaged.
        if spool.end > spool.waiting_bytes
            && let Err(error) = spool.rewrite()
        {
            // A full disk is no reason not to start. What is written next begins a line of its own.
            tracing::warn!("{} stays as it is: {error}", path.display());
            let torn = text
                .rsplit(|&byte| byte == b'\n')
                .next()
                .unwrap_or_default();
            if spool.end == text.len() as u64 {
                spool.end -= torn.len() as u64;
                spool.file.set_len(spool.end)?;
            }
        }
        Ok(spool)
    }

    fn learn(&mut self, text: &[u8]) {
        let mut at = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let len = line.len() as u64;
            match Line::read(line) {
                Some(Line::Message(id)) => {
                    self.waiting.push_back(Waiting { id, at, len });
                    self.waiting_bytes += len;
                }
                Some(Line::Done(id)) => self.forget(id),
                None => self.damaged_bytes += len,
            }
            at += len;
        }
    }

    /// How many messages wait, and their bytes.
    pub(super) fn waiting(&self) -> (u64, u64) {
        (self.waiting.len() as u64, self.waiting_bytes)
    }

    /// Bytes of an earlier process's file that were no whole lines, and are gone.
    pub(super) fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// Adds a message, and says how many older ones it pushed out. [`Spool::sync`] keeps it.
    ///
    /// # Errors
    /// The disk is full, or worse. The message is not added.
    pub(super) fn push(&mut self, message: &Message) -> io::Result<u64> {
        let line = written(message);
        let len = line.len() as u64;
        let mut dropped = 0;
        while self.waiting_bytes + len > self.max_bytes
            && let Some(oldest) = self.waiting.front()
        {
            // Should that not reach the disk, it is there again after a restart, and goes again.
            let _ = self.finish(oldest.id);
            dropped += 1;
        }
        // Otherwise the file of a destination that takes nothing would grow without end.
        if self.end + len > self.max_bytes.saturating_mul(2) {
            self.rewrite()?;
        }
        self.append(line.as_bytes())?;
        self.waiting.push_back(Waiting {
            id: message.id,
            at: self.end - len,
            len,
        });
        self.waiting_bytes += len;
        Ok(dropped)
    }

    /// Returns when what was pushed is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The message that waits longest.
    pub(super) fn first(&self) -> io::Result<Option<Message>> {
        let Some(waiting) = self.waiting.front() else {
            return Ok(None);
        };
        let mut line = vec![0; waiting.len as usize];
        self.file.read_exact_at(&mut line, waiting.at)?;
        let body = line.get(MESSAGE_PREFIX..line.len() - 1).unwrap_or_default();
        let body = String::from_utf8(body.to_owned()).map_err(io::Error::other)?;
        Ok(Some(Message {
            id: waiting.id,
            body,
        }))
    }

    /// A message waits no more. One that was pushed out meanwhile never does.
    pub(super) fn finish(&mut self, id: Uuid) -> io::Result<()> {
        if !self.waiting.iter().any(|waiting| waiting.id == id) {
            return Ok(());
        }
        self.forget(id);
        if self.waiting.is_empty() {
            self.file.set_len(0)?;
            self.end = 0;
            return Ok(());
        }
        self.append(format!("- {id}\n").as_bytes())
    }

    fn forget(&mut self, id: Uuid) {
        // Nearly always the first.
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.id == id)
            && let Some(gone) = self.waiting.remove(at)
        {
            self.waiting_bytes -= gone.len;
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(line, self.end);
        if written.is_err() {
            // A torn line would be read as damage by the next process.
            let _ = self.file.set_len(self.end);
        }
        written?;
        self.end += line.len() as u64;
        Ok(())
    }

    /// Writes what waits, and nothing else, into a new file, and puts it in the place of this one.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut new_path = OsString::from(&self.path);
        new_path.push(".new");
        let new_path = PathBuf::from(new_path);
        let new = open(&new_path)?;
        let written = self.write_waiting(&new);
        if written.is_err() {
            // Not on a disk that may be full.
            let _ = fs::remove_file(&new_path);
        }
        let (end, moved) = written?;
        fs::rename(&new_path, &self.path)?;
        // From here on the old file is nobody's.
        self.file = new;
        self.end = end;
        self.waiting = moved;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }

    /// Where it ends, and where each message stands in it.
    fn write_waiting(&self, new: &File) -> io::Result<(u64, VecDeque<Waiting>)> {
        new.set_len(0)?;
        let (mut end, mut moved) = (0, VecDeque::with_capacity(self.waiting.len()));
        for waiting in &self.waiting {
            let mut line = vec![0; waiting.len as usize];
            self.file.read_exact_at(&mut line, waiting.at)?;
            new.write_all_at(&line, end)?;
            moved.push_back(Waiting {
                at: end,
                ..*waiting
            });
            end += waiting.len;
        }
        new.sync_all()?;
        Ok((end, moved))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
}

enum Line {
    Message(Uuid),
    Done(Uuid),
}

impl Line {
    /// `None` where it is no whole line of ours.
    fn read(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
        if let Some(id) = line.strip_prefix("- ") {
            return id.parse().ok().map(Self::Done);
        }
        let (sum, rest) = line.strip_prefix("+ ")?.split_once(' ')?;
        let (id, _) = rest.split_once(' ')?;
        (sum == sum_of(rest)).then(|| id.parse().ok().map(Self::Message))?
    }
}

fn written(message: &Message) -> String {
    let Message { id, body } = message;
    let rest = format!("{id} {body}");
    format!("+ {} {rest}\n", sum_of(&rest))
}

fn sum_of(text: &str) -> String {
    let mut digits = super::hex(digest(&SHA256, text.as_bytes()).as_ref());
    digits.truncate(SUM_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u128) -> Message {
        Message {
            id: Uuid::from_u128(n),
            body: format!(r#"{{"n":{n:03}}}"#),
        }
    }

    fn open_in(dir: &tempfile::TempDir, max_bytes: u64) -> Spool {
        let directory = Directory::open(dir.path()).expect("a directory");
        directory.spool("on-call", max_bytes).expect("a spool")
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    /// Takes everything out, and says what it was.
    fn drained(spool: &mut Spool) -> Vec<u128> {
        let mut seen = Vec::new();
        while let Some(Message { id, body }) = spool.first().expect("readable") {
            assert_eq!(body, message(id.as_u128()).body);
            seen.push(id.as_u128());
            spool.finish(id).expect("writable");
        }
        seen
    }

    fn filled(spool: &mut Spool, numbers: std::ops::Range<u128>) -> u64 {
        let pushed = numbers.map(|n| spool.push(&message(n)).expect("room"));
        pushed.sum()
    }

    fn file(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("on-call.spool")
    }

    const ROOM: u64 = 1 << 20;

    #[test]
    fn what_waits_outlives_the_process_in_order() {
        let dir = dir();
        let mut spool = open_in(&dir, ROOM);
        filled(&mut spool, 0..5);
        spool.finish(Uuid::from_u128(0)).expect("writable");
        spool.finish(Uuid::from_u128(1)).expect("writable");
        drop(spool);
        let mut spool = open_in(&dir, ROOM);
        assert_eq!(spool.damaged_bytes(), 0);
        filled(&mut spool, 5..7);
        assert_eq!(drained(&mut spool), [2, 3, 4, 5, 6]);
        assert_eq!(fs::metadata(file(&dir)).expect("a file").len(), 0);
        assert_eq!(drained(&mut open_in(&dir, ROOM)), []);
    }

    #[test]
    fn a_torn_tail_costs_what_was_torn_alone() {
        let dir = dir();
        filled(&mut open_in(&dir, ROOM), 0..3);
        let whole = fs::read(file(&dir)).expect("a file");
        let line = whole.len() / 3;
        for len in 2 * line..whole.len() {
            fs::write(file(&dir), &whole[..len]).expect("written");
            let mut spool = open_in(&dir, ROOM);
            assert_eq!(spool.damaged_bytes(), (len - 2 * line) as u64);
            filled(&mut spool, 7..8);
            assert_eq!(drained(&mut open_in(&dir, ROOM)), [0, 1, 7], "at {len}");
            drop(spool);
        }
    }

    #[test]
    fn a_changed_byte_costs_its_message_alone() {
        let dir = dir();
        filled(&mut open_in(&dir, ROOM), 0..3);
        let whole = fs::read(file(&dir)).expect("a file");
        let line = whole.len() / 3;
        for at in line..2 * line - 1 {
            let mut text = whole.clone();
            text[at] ^= 1;
            fs::write(file(&dir), &text).expect("written");
            let mut spool = open_in(&dir, ROOM);
            assert!(spool.damaged_bytes() > 0, "at {at}");
            assert_eq!(drained(&mut spool), [0, 2], "at {at}");
        }
    }

    #[test]
    fn beyond_its_bound_the_oldest_gives_way() {
        let dir = dir();
        let len = written(&message(1)).len() as u64;
        let mut spool = open_in(&dir, 10 * len);
        assert_eq!(filled(&mut spool, 0..100), 90);
        assert_eq!(spool.waiting(), (10, 10 * len));
        let on_disk = fs::metadata(file(&dir)).expect("a file").len();
        assert!(on_disk <= 21 * len, "{on_disk} bytes for {}", 10 * len);
        drop(spool);
        let expected: Vec<u128> = (90..100).collect();
        assert_eq!(drained(&mut open_in(&dir, 10 * len)), expected);
    }

    #[test]
    fn what_was_pushed_out_while_it_was_sent_is_not_taken_for_another() {
        let dir = dir();
        let len = written(&message(1)).len() as u64;
        let mut spool = open_in(&dir, 2 * len);
        filled(&mut spool, 0..2);
        let sent = spool.first().expect("readable").expect("a message");
        filled(&mut spool, 2..3);
        spool.finish(sent.id).expect("writable");
        assert_eq!(drained(&mut spool), [1, 2]);
    }

    #[test]
    fn a_directory_belongs_to_one() {
        let dir = dir();
        let first = Directory::open(dir.path()).expect("a directory");
        let second = Directory::open(dir.path()).expect_err("it is taken");
        assert!(matches!(second, SpoolError::Taken { .. }), "{second}");
        drop(first);
        Directory::open(dir.path()).expect("it is free again");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let error = Directory::open(&file).expect_err("no directory");
        assert!(error.to_string().contains("alerts.spool_dir"), "{error}");
    }

    #[test]
    fn files_of_nobody_are_found() {
        let dir = dir();
        filled(&mut open_in(&dir, ROOM), 0..1);
        fs::write(dir.path().join("empty.spool"), "").expect("written");
        let directory = Directory::open(dir.path()).expect("a directory");
        let none: [&str; 0] = [];
        assert_eq!(directory.strangers(none.into_iter()), [file(&dir)]);
        assert!(directory.strangers(["on-call"].into_iter()).is_empty());
    }
}
