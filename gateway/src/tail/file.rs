//! Follows a log file through rotation and truncation.
//!
//! Looks at the path whenever it is asked; waits for nothing itself. A file that was rotated away is
//! read to its end before the new one is opened. Two rotations between two looks lose what was in
//! the file between.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::lines::Lines;

const READ_BYTES: usize = 64 * 1024;

/// Where to begin in a file that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With everything that is there.
    Start,
    /// With the last lines, that many of them.
    Last(usize),
}

/// A log file, read as it grows.
pub(crate) struct Follower {
    path: PathBuf,
    open: Option<Open>,
    begin: Begin,
    lines: Lines,
}

struct Open {
    file: File,
    position: u64,
    inode: (u64, u64),
}

impl Follower {
    /// Will read the file at `path`, which need not exist yet. Whatever appears there later is read
    /// from its start.
    pub(crate) fn new(path: &Path, begin: Begin) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            begin,
            lines: Lines::default(),
        }
    }

    /// Hands out every line that was completed since the last look.
    pub(crate) fn look(&mut self, mut out: impl FnMut(&[u8])) -> io::Result<()> {
        if self.open.is_none() {
            match self.open_newest() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.begin = Begin::Start;
                    return Ok(());
                }
                other => self.open = Some(other?),
            }
            self.begin = Begin::Start;
        }
        while let Some(open) = &mut self.open {
            let length = open.file.metadata()?.len();
            if length < open.position {
                open.file.seek(SeekFrom::Start(0))?;
                open.position = 0;
                self.lines.forget();
            }
            open.drain(&mut self.lines, &mut out)?;
            match inode_at(&self.path)? {
                Some(inode) if inode != open.inode => {
                    // The writer may have added lines between our last read and its rename.
                    open.drain(&mut self.lines, &mut out)?;
                    self.lines.finish(&mut out);
                    self.open = match self.open_newest() {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                        other => Some(other?),
                    };
                }
                // The same file, or none yet: the writer may still hold the one we have.
                _ => break,
            }
        }
        Ok(())
    }

    /// A file that will not grow: its last line needs no newline.
    pub(crate) fn finish(&mut self, out: impl FnMut(&[u8])) {
        self.lines.finish(out);
    }

    fn open_newest(&self) -> io::Result<Open> {
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let position = match self.begin {
            Begin::Start => 0,
            Begin::Last(count) => start_of_last(&mut file, metadata.len(), count)?,
        };
        file.seek(SeekFrom::Start(position))?;
        Ok(Open {
            file,
            position,
            inode: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Open {
    fn drain(&mut self, lines: &mut Lines, out: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.position += count as u64;
                    lines.push(&buffer[..count], &mut *out);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }
}

fn inode_at(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The offset at which the last `count` lines begin. A last line without its newline counts.
fn start_of_last(file: &mut File, length: u64, count: usize) -> io::Result<u64> {
    let mut end = length;
    let mut seen = 0;
    let mut buffer = vec![0; READ_BYTES];
    while end > 0 {
        let begin = end.saturating_sub(READ_BYTES as u64);
        let piece = &mut buffer[..(end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(piece)?;
        for (index, byte) in piece.iter().enumerate().rev() {
            let after = begin + index as u64 + 1;
            if *byte == b'\n' && (after < length || count == 0) {
                seen += 1;
                if seen >= count {
                    return Ok(after);
                }
            }
        }
        end = begin;
    }
    Ok(if count == 0 { length } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;

    struct Log {
        dir: tempfile::TempDir,
        follower: Follower,
    }

    impl Log {
        fn new(begin: Begin, content: Option<&str>) -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("calls.jsonl");
            if let Some(content) = content {
                fs::write(&path, content).expect("write");
            }
            Self {
                follower: Follower::new(&path, begin),
                dir,
            }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("calls.jsonl")
        }

        fn append(&self, text: &str) {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(self.path())
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .expect("append");
        }

        fn look(&mut self) -> Vec<String> {
            let mut out = Vec::new();
            self.follower
                .look(|line| out.push(String::from_utf8_lossy(line).into_owned()))
                .expect("the file can be read");
            out
        }
    }

    #[test]
    fn lines_appear_when_they_are_whole() {
        let mut log = Log::new(Begin::Start, Some("a\nb"));
        assert_eq!(log.look(), ["a"]);
        log.append("b\nc\n");
        assert_eq!(log.look(), ["bb", "c"]);
        assert!(log.look().is_empty());
    }

    #[test]
    fn only_the_last_lines_of_an_old_file_are_shown() {
        for (count, expected) in [
            (0, vec![]),
            (1, vec!["c"]),
            (2, vec!["b", "c"]),
            (3, vec!["a", "b", "c"]),
            (9, vec!["a", "b", "c"]),
        ] {
            let mut log = Log::new(Begin::Last(count), Some("a\nb\nc\n"));
            assert_eq!(log.look(), expected, "last {count}");
            log.append("d\n");
            assert_eq!(log.look(), ["d"]);
        }
        let mut log = Log::new(Begin::Last(2), Some("a\nb\nc"));
        log.append("c\n");
        assert_eq!(
            log.look(),
            ["b", "cc"],
            "an unfinished line is a line to be"
        );
    }

    #[test]
    fn the_last_lines_are_found_across_read_blocks() {
        let filler = "x".repeat(READ_BYTES - 10);
        let content = format!("a\n{filler}\n{filler}\nlast\n");
        let mut log = Log::new(Begin::Last(2), Some(&content));
        assert_eq!(log.look(), [filler.as_str(), "last"]);
    }

    #[test]
    fn a_file_that_comes_later_is_read_from_its_start() {
        let mut log = Log::new(Begin::Last(0), None);
        assert!(log.look().is_empty());
        log.append("a\n");
        assert_eq!(log.look(), ["a"]);
    }

    #[test]
    fn rotation_loses_nothing() {
        let mut log = Log::new(Begin::Start, Some("a\n"));
        assert_eq!(log.look(), ["a"]);
        log.append("b\n");
        let rotated = log.dir.path().join("calls.jsonl.1");
        fs::rename(log.path(), &rotated).expect("rename");
        assert_eq!(log.look(), ["b"], "the writer still holds the old file");
        OpenOptions::new()
            .append(true)
            .open(&rotated)
            .and_then(|mut file| file.write_all(b"c\n"))
            .expect("append");
        log.append("d\n");
        assert_eq!(log.look(), ["c", "d"]);
    }

    #[test]
    fn truncation_begins_anew() {
        let mut log = Log::new(Begin::Start, Some("a long first line\nhalf"));
        assert_eq!(log.look(), ["a long first line"]);
        fs::write(log.path(), "b\n").expect("truncate and write");
        assert_eq!(
            log.look(),
            ["b"],
            "the old half line is not glued to the new one"
        );
    }

    #[test]
    fn a_directory_is_no_log() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut follower = Follower::new(dir.path(), Begin::Start);
        assert!(follower.look(|_| ()).is_err());
    }
}
