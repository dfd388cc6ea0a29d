//! Writes records as JSON lines to a file, with rotation, or to standard output.
//!
//! A [`Producer`] turns records into text and collects it in batches; one thread writes them. The
//! producer never waits for that thread, and wakes it for batches, not for records. A line counts as
//! written when write(2) took all of it.
//!
//! When writing fails (a full disk) the file is cut back to its last whole line, what waits is tried
//! again for a while ([`Patience`]), then dropped as `sink_error`; when space returns, writing goes on
//! by itself. Standard output that nobody reads any more is not waited for. A torn last line that an earlier process left is ended, so that it
//! stays one bad line.
//!
//! Refuses to sync: a machine that loses power loses what its kernel had not written yet.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use calltap_correlate::record::{CallRecord, Selection};

use crate::account::{DropReason, KINDS, Kind, SinkAccount};

/// The name of this sink in the account.
pub(crate) const NAME: &str = "json_lines";

/// Text that may wait, beside the bound on the number of records: a full disk must not become a
/// full memory.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 << 20;

/// A batch leaves its producer at the latest when it has grown to this.
const BATCH_BYTES: usize = 64 << 10;

/// After a write, the writer lets text gather for this long (or until there is a batch's worth), so
/// that load costs it tens of wake-ups a second and not thousands.
const LINGER: Duration = Duration::from_millis(20);

/// Emptied buffers kept for the next batches.
const SPARE_BATCHES: usize = 4;

/// Records name clients: the group may read them, the world may not.
const FILE_MODE: u32 = 0o640;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Appended to this file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Nowhere; every record is dropped as `disabled`.
    Nowhere,
}

/// How a file is rotated: it becomes `PATH.1`, `.1` becomes `.2`, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotate {
    /// A file does not grow beyond this, unless a single line does. Bytes.
    pub(crate) max_bytes: u64,
    /// How many rotated files stay; with none, the full file is removed.
    pub(crate) keep: u32,
}

/// How long a failing sink is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Records that waited for this long are dropped when one more try fails.
    pub(crate) hold: Duration,
    /// The pause after the first failure; it doubles with every further one.
    pub(crate) retry_min: Duration,
    /// The longest pause.
    pub(crate) retry_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(10),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(1),
        }
    }
}

/// What a sink is made of.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where the lines go.
    pub(crate) target: Target,
    /// When to begin a new file; never without it. Files only.
    pub(crate) rotate: Option<Rotate>,
    /// Which fields a line has.
    pub(crate) fields: Selection,
    /// Records that may wait for the writer.
    pub(crate) queue_max: usize,
    /// How long a failing sink is tried again.
    pub(crate) patience: Patience,
}

/// Why the sink cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkError {
    /// The file is not there and cannot be made, or is not ours to write.
    #[error(
        "cannot write records to {path}; choose another file with --records or records.path, or \"none\""
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No thread for the writer.
    #[error("cannot start the thread that writes records")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// What the status says about the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Whether records are written at all.
    pub(crate) on: bool,
    /// The file, or `-`, or `none`.
    pub(crate) target: String,
    /// Why the last write failed, while none succeeded since.
    pub(crate) failing: Option<String>,
    /// Tries to write that failed.
    pub(crate) errors: u64,
    /// Files begun because the one before was full.
    pub(crate) rotations: u64,
}

/// The sink. Dropping it stops the writer like [`JsonLines::stop`] without patience.
#[derive(Debug)]
pub(crate) struct JsonLines {
    shared: Arc<Shared>,
    fields: Arc<Selection>,
    thread: Option<JoinHandle<()>>,
}

impl JsonLines {
    /// Opens the target and starts the writer.
    pub(crate) fn start(options: Options, account: SinkAccount) -> Result<Self, SinkError> {
        let Options {
            target,
            rotate,
            fields,
            queue_max,
            patience,
        } = options;
        let output = match &target {
            Target::File(path) => Some(Output::open(path, rotate).map_err(|source| {
                let path = path.clone();
                SinkError::Open { path, source }
            })?),
            Target::Stdout => Some(Output::stdout().map_err(|source| {
                let path = PathBuf::from("-");
                SinkError::Open { path, source }
            })?),
            Target::Nowhere => None,
        };
        let target = match target {
            Target::File(path) => path.display().to_string(),
            Target::Stdout => "-".to_owned(),
            Target::Nowhere => "none".to_owned(),
        };
        Self::write_to(output, target, fields, queue_max, patience, account)
    }

    fn write_to(
        output: Option<Output>,
        target: String,
        fields: Selection,
        queue_max: usize,
        patience: Patience,
        account: SinkAccount,
    ) -> Result<Self, SinkError> {
        let shared = Arc::new(Shared {
            account,
            on: output.is_some(),
            target,
            queue_max,
            waiting_records: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            errors: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            queue: Mutex::new(Queue::default()),
            changed: Condvar::new(),
        });
        let thread = match output {
            Some(output) => {
                let writer = Writer {
                    shared: Arc::clone(&shared),
                    output,
                    patience,
                    pause: patience.retry_min,
                    draining: 0,
                    gather_until: Instant::now(),
                };
                let thread = std::thread::Builder::new()
                    .name("calltap-records".to_owned())
                    .spawn(|| writer.run())
                    .map_err(|source| SinkError::Thread { source })?;
                Some(thread)
            }
            None => None,
        };
        Ok(Self {
            shared,
            fields: Arc::new(fields),
            thread,
        })
    }

    /// A hand that feeds this sink. Each thread takes its own.
    pub(crate) fn producer(&self) -> Producer {
        Producer {
            shared: Arc::clone(&self.shared),
            fields: Arc::clone(&self.fields),
            batch: Batch::default(),
        }
    }

    /// Somebody moved the file: open its path anew. Returns at once; the lines that wait go to the
    /// new file. When that cannot be opened, the old one is kept and the log says so.
    pub(crate) fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.changed.notify_all();
    }

    /// A handle that only looks.
    pub(crate) fn observer(&self) -> Observer {
        Observer(Arc::clone(&self.shared))
    }

    /// Writes what waits, for at most this long, and ends. What could not be written is dropped as
    /// `sink_error` where the sink was failing, as `shutdown` otherwise. Producers must have flushed.
    pub(crate) fn stop(mut self, patience: Duration) {
        self.end(patience);
    }

    fn end(&mut self, patience: Duration) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let deadline = Instant::now() + patience;
        let mut queue = self.shared.lock();
        queue.stop_by = Some(deadline);
        self.shared.changed.notify_all();
        while !queue.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = wait_for(&self.shared, queue, left);
        }
        let ended = queue.ended;
        queue.bytes = 0;
        let left = std::mem::take(&mut queue.batches);
        drop(queue);
        let reason = match self.shared.failing.load(Ordering::Relaxed) {
            true => DropReason::SinkError,
            false => DropReason::Shutdown,
        };
        for mut batch in left {
            self.shared.lost(&mut batch, reason);
        }
        // A thread inside a write that never returns (a pipe nobody reads) is left behind: the
        // process is about to end, and waiting for it would be for ever.
        if ended && thread.join().is_err() {
            tracing::error!("the thread that writes records has panicked");
        }
    }
}

impl Drop for JsonLines {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// A handle that only looks.
#[derive(Clone, Debug)]
pub(crate) struct Observer(Arc<Shared>);

impl Observer {
    /// How the sink is doing.
    pub(crate) fn status(&self) -> Status {
        Status {
            on: self.0.on,
            target: self.0.target.clone(),
            failing: self.0.lock().failing.clone(),
            errors: self.0.errors.load(Ordering::Relaxed),
            rotations: self.0.rotations.load(Ordering::Relaxed),
        }
    }
}

/// Turns records into lines and hands them over in batches. Dropping it flushes.
#[derive(Debug)]
pub(crate) struct Producer {
    shared: Arc<Shared>,
    fields: Arc<Selection>,
    batch: Batch,
}

impl Producer {
    /// Takes a record, or drops it and counts why. Never waits, never wakes anybody unless a whole
    /// batch is full.
    pub(crate) fn offer(&mut self, record: &CallRecord) {
        let Self {
            shared,
            fields,
            batch,
        } = self;
        shared.take(batch, record.kind, |out| record.write_json(out, fields));
        if batch.text.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Hands over what has gathered. To be called whenever the caller is about to rest.
    pub(crate) fn flush(&mut self) {
        if self.batch.lines.is_empty() {
            return;
        }
        let mut queue = self.shared.lock();
        if queue.ended {
            drop(queue);
            self.shared.lost(&mut self.batch, DropReason::Shutdown);
            return self.batch.clear();
        }
        let empty = queue.spare.pop().unwrap_or_default();
        let mut full = std::mem::replace(&mut self.batch, empty);
        full.since = Some(Instant::now());
        queue.bytes += full.text.len();
        queue.batches.push_back(full);
        let wake = match queue.writer {
            WriterIs::Asleep => true,
            WriterIs::Gathering => queue.bytes >= BATCH_BYTES,
            WriterIs::Busy => false,
        };
        if wake {
            // It is, from now on: the next flush need not wake it a second time.
            queue.writer = WriterIs::Busy;
            drop(queue);
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[derive(Debug)]
struct Shared {
    account: SinkAccount,
    on: bool,
    target: String,
    queue_max: usize,
    /// Records offered and not yet written or dropped, and their text.
    waiting_records: AtomicUsize,
    waiting_bytes: AtomicUsize,
    failing: AtomicBool,
    errors: AtomicU64,
    rotations: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    /// Text in `batches`.
    bytes: usize,
    spare: Vec<Batch>,
    writer: WriterIs,
    failing: Option<String>,
    reopen: bool,
    stop_by: Option<Instant>,
    ended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WriterIs {
    /// Writing, or about to look.
    #[default]
    Busy,
    /// Waiting a little for more.
    Gathering,
    /// Waiting for anything at all.
    Asleep,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds it can panic half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to a batch, or drops it and counts why.
    fn take(&self, batch: &mut Batch, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
        if let Err(reason) = self.admit() {
            return self.account.dropped(kind, reason, 1);
        }
        let Batch { text, lines, .. } = batch;
        let begin = text.len();
        write(text);
        text.push(b'\n');
        let end = text.len();
        lines.push_back(Line { end, kind });
        self.waiting_bytes.fetch_add(end - begin, Ordering::Relaxed);
    }

    /// Makes room for one record, or says why there is none.
    fn admit(&self) -> Result<(), DropReason> {
        if !self.on {
            return Err(DropReason::Disabled);
        }
        // Counted before it is checked, so that producers cannot pass the bound together.
        let waiting = self.waiting_records.fetch_add(1, Ordering::Relaxed);
        let bytes = self.waiting_bytes.load(Ordering::Relaxed);
        if waiting < self.queue_max && bytes < QUEUE_BYTES_MAX {
            return Ok(());
        }
        self.waiting_records.fetch_sub(1, Ordering::Relaxed);
        // Where the queue is long because the sink fails, that is the reason worth knowing.
        Err(match self.failing.load(Ordering::Relaxed) {
            true => DropReason::SinkError,
            false => DropReason::QueueFull,
        })
    }

    /// The batch was written up to `batch.written`.
    fn written(&self, batch: &mut Batch) {
        let whole = batch
            .lines
            .partition_point(|line| line.end <= batch.written);
        self.leave(batch, whole, |kind, n| self.account.written(kind, n));
    }

    /// What is left of the batch will not be written.
    fn lost(&self, batch: &mut Batch, reason: DropReason) {
        let all = batch.lines.len();
        self.leave(batch, all, |kind, n| self.account.dropped(kind, reason, n));
    }

    fn leave(&self, batch: &mut Batch, lines: usize, tell: impl Fn(Kind, u64)) {
        let mut counts = KINDS.map(|kind| (kind, 0));
        let mut end = batch.released;
        for line in batch.lines.drain(..lines) {
            end = line.end;
            for (kind, n) in &mut counts {
                *n += u64::from(*kind == line.kind);
            }
        }
        for (kind, n) in counts.into_iter().filter(|&(_, n)| n > 0) {
            tell(kind, n);
        }
        let bytes = end - std::mem::replace(&mut batch.released, end);
        self.waiting_records.fetch_sub(lines, Ordering::Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn wait_for<'a>(
    shared: &'a Shared,
    queue: MutexGuard<'a, Queue>,
    time: Duration,
) -> MutexGuard<'a, Queue> {
    let woken = shared.changed.wait_timeout(queue, time);
    woken.unwrap_or_else(PoisonError::into_inner).0
}

/// Lines on their way to the writer.
#[derive(Debug, Default)]
struct Batch {
    text: Vec<u8>,
    lines: VecDeque<Line>,
    /// How much of `text` was written.
    written: usize,
    /// How much of that was whole lines and is no longer counted as waiting.
    released: usize,
    /// When it was handed over.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Where it ends in the text, its newline included.
    end: usize,
    kind: Kind,
}

impl Batch {
    /// Where the first line begins that was not written whole.
    fn line_begin(&self) -> usize {
        let text = &self.text[..self.written];
        text.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1)
    }

    fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        self.written = 0;
        self.released = 0;
        self.since = None;
    }
}

enum Work {
    Write(Batch),
    Reopen,
    Stop,
}

struct Writer {
    shared: Arc<Shared>,
    output: Output,
    patience: Patience,
    /// How long the next failure makes us wait.
    pause: Duration,
    /// Batches to take before resting again.
    draining: usize,
    gather_until: Instant,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.next() {
                Work::Write(mut batch) => {
                    self.write(&mut batch);
                    self.recycle(batch);
                }
                Work::Reopen => self.reopen(),
                Work::Stop => break,
            }
        }
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }

    /// What to do next; sleeps until there is something.
    fn next(&mut self) -> Work {
        let mut queue = self.shared.lock();
        loop {
            let gathering = self.gather_until.saturating_duration_since(Instant::now());
            let stopping = queue.stop_by.is_some();
            if std::mem::take(&mut queue.reopen) {
                queue.writer = WriterIs::Busy;
                return Work::Reopen;
            }
            if self.draining == 0 && (stopping || gathering.is_zero() || queue.bytes >= BATCH_BYTES)
            {
                self.draining = queue.batches.len();
            }
            if self.draining > 0
                && let Some(batch) = queue.batches.pop_front()
            {
                queue.bytes -= batch.text.len();
                queue.writer = WriterIs::Busy;
                self.draining -= 1;
                if self.draining == 0 {
                    self.gather_until = Instant::now() + LINGER;
                }
                return Work::Write(batch);
            }
            if stopping {
                return Work::Stop;
            }
            queue = if gathering.is_zero() {
                queue.writer = WriterIs::Asleep;
                let woken = self.shared.changed.wait(queue);
                woken.unwrap_or_else(PoisonError::into_inner)
            } else {
                queue.writer = WriterIs::Gathering;
                wait_for(&self.shared, queue, gathering)
            };
        }
    }

    /// Writes a batch whole, or drops what cannot be written.
    fn write(&mut self, batch: &mut Batch) {
        loop {
            let result = self.output.append(batch);
            self.shared
                .rotations
                .store(self.output.rotations, Ordering::Relaxed);
            self.shared.written(batch);
            let Err(error) = result else {
                return self.recovered();
            };
            let hopeless = self.output.has_lost_its_reader(&error);
            self.failed(&error, hopeless);
            let waited = batch.since.map_or(Duration::MAX, |since| since.elapsed());
            if hopeless || waited >= self.patience.hold || !self.rest() {
                self.output.cut_torn_line(batch);
                return self.shared.lost(batch, DropReason::SinkError);
            }
        }
    }

    /// Pauses after a failure. Says no when there is no time left to try again.
    fn rest(&mut self) -> bool {
        let until = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(self.patience.retry_max);
        let mut queue = self.shared.lock();
        loop {
            let now = Instant::now();
            if queue.stop_by.is_some_and(|stop_by| now >= stop_by) {
                return false;
            }
            if std::mem::take(&mut queue.reopen) {
                drop(queue);
                self.reopen();
                return true;
            }
            let end = queue.stop_by.map_or(until, |stop_by| until.min(stop_by));
            let left = end.saturating_duration_since(now);
            if left.is_zero() {
                return true;
            }
            queue = wait_for(&self.shared, queue, left);
        }
    }

    fn failed(&mut self, error: &io::Error, hopeless: bool) {
        let told = self.shared.failing.swap(true, Ordering::Relaxed);
        self.shared.errors.fetch_add(1, Ordering::Relaxed);
        if !told {
            let then = if hopeless {
                "dropping them"
            } else {
                "trying again"
            };
            tracing::error!(target = self.shared.target, %error, "cannot write records, {then}");
        }
        self.shared.lock().failing = Some(error.to_string());
    }

    fn recovered(&mut self) {
        self.pause = self.patience.retry_min;
        if self.shared.failing.swap(false, Ordering::Relaxed) {
            self.shared.lock().failing = None;
            tracing::info!(target = self.shared.target, "records are written again");
        }
    }

    fn recycle(&self, mut batch: Batch) {
        batch.clear();
        let mut queue = self.shared.lock();
        if queue.spare.len() < SPARE_BATCHES {
            queue.spare.push(batch);
        }
    }

    fn reopen(&mut self) {
        match self.output.reopen() {
            Ok(()) => tracing::info!(target = self.shared.target, "record file opened anew"),
            Err(error) => tracing::error!(
                target = self.shared.target, %error,
                "cannot open the record file anew, the one open so far is kept"
            ),
        }
    }
}

/// What is written to.
struct Output {
    file: File,
    /// Absent for standard output, which is neither rotated nor reopened.
    path: Option<PathBuf>,
    rotate: Option<Rotate>,
    /// A file on a disk, which has a length and can be cut.
    regular: bool,
    /// Its length as far as we know: others may have cut it. Bytes.
    length: u64,
    /// It ends inside a line that will not be continued.
    torn: bool,
    rotations: u64,
    /// Rotation failed; not to be tried before this.
    rotate_after: Option<Instant>,
}

/// A rotation that failed is tried again after this long.
const ROTATE_RETRY: Duration = Duration::from_secs(10);

impl Output {
    fn open(path: &Path, rotate: Option<Rotate>) -> io::Result<Self> {
        // Reading, too: for a look at the last byte, and because opening a FIFO for writing alone
        // would wait for somebody to read it.
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(FILE_MODE)
            .open(path)?;
        let about = file.metadata()?;
        let mut output = Self {
            regular: about.is_file(),
            length: about.len(),
            torn: about.is_file() && ends_inside_a_line(&mut file)?,
            file,
            path: Some(path.to_owned()),
            rotate: rotate.filter(|_| about.is_file()),
            rotations: 0,
            rotate_after: None,
        };
        if output.torn {
            // If the disk is full just now, this is tried again before the first record.
            let _ = output.end_torn_line();
        }
        Ok(output)
    }

    fn stdout() -> io::Result<Self> {
        Self::stream(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    fn stream(file: File) -> io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self {
            file,
            path: None,
            rotate: None,
            // Whether or not it was redirected to a file: what others wrote there is not ours to cut.
            regular: false,
            length: about.len(),
            torn: false,
            rotations: 0,
            rotate_after: None,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let rotations = self.rotations;
        *self = Self::open(path, self.rotate)?;
        self.rotations = rotations;
        Ok(())
    }

    /// Writes what is left of the batch. After an error the output ends with a whole line, or is
    /// marked as torn, and `batch.written` says where to go on.
    fn append(&mut self, batch: &mut Batch) -> io::Result<()> {
        while batch.written < batch.text.len() {
            if self.torn {
                self.end_torn_line()?;
            }
            let end = self.room(batch);
            match self.file.write(&batch.text[batch.written..end]) {
                Ok(0) => return Err(self.interrupted(batch, io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    batch.written += n;
                    self.length += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pipe in non-blocking mode that is full: the line goes on where it stopped.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => return Err(self.interrupted(batch, error)),
            }
        }
        Ok(())
    }

    /// Whoever read our standard output is gone and will not come back for what waits.
    fn has_lost_its_reader(&self, error: &io::Error) -> bool {
        self.path.is_none() && error.kind() == io::ErrorKind::BrokenPipe
    }

    fn interrupted(&mut self, batch: &mut Batch, error: io::Error) -> io::Error {
        self.cut_torn_line(batch);
        error
    }

    /// Up to where the batch may be written to this file. Begins a new one if nothing fits.
    fn room(&mut self, batch: &Batch) -> usize {
        let all = batch.text.len();
        let Some(Rotate { max_bytes, .. }) = self.rotate else {
            return all;
        };
        let next = batch
            .lines
            .partition_point(|line| line.end <= batch.written);
        if batch.line_begin() != batch.written {
            return batch.lines[next].end;
        }
        let fitting = |length: u64| {
            let room = usize::try_from(max_bytes.saturating_sub(length)).unwrap_or(usize::MAX);
            let limit = batch.written.saturating_add(room);
            let fit = batch.lines.partition_point(|line| line.end <= limit);
            (fit > next).then(|| batch.lines[fit - 1].end)
        };
        if let Some(end) = fitting(self.length) {
            return end;
        }
        // Somebody else may have emptied it.
        self.length = self
            .file
            .metadata()
            .map_or(self.length, |about| about.len());
        if self.length > 0 {
            self.rotate_now();
        }
        // A line longer than a file may be is written all the same; so is everything where
        // rotation fails, for a file too large is better than a record lost.
        fitting(self.length).unwrap_or(match self.length {
            0 => batch.lines[next].end,
            _ => all,
        })
    }

    fn rotate_now(&mut self) {
        if self
            .rotate_after
            .is_some_and(|after| Instant::now() < after)
        {
            return;
        }
        let (Some(path), Some(Rotate { keep, .. })) = (&self.path, self.rotate) else {
            return;
        };
        let next = shift(path, keep).and_then(|()| Self::open(path, self.rotate));
        match next {
            Ok(next) => {
                let rotations = self.rotations + 1;
                *self = next;
                self.rotations = rotations;
            }
            Err(error) => {
                self.rotate_after = Some(Instant::now() + ROTATE_RETRY);
                tracing::error!(path = %path.display(), %error, "cannot rotate the record file");
            }
        }
    }

    /// Takes back the part of a line that was written, so that the line can be written again whole.
    fn cut_torn_line(&mut self, batch: &mut Batch) {
        let begin = batch.line_begin();
        let torn = (batch.written - begin) as u64;
        if torn == 0 {
            return;
        }
        batch.written = begin;
        // Only where the end is still ours: somebody else may have appended since.
        let ours = self.regular
            && self
                .file
                .metadata()
                .is_ok_and(|about| about.len() == self.length);
        if ours && self.file.set_len(self.length - torn).is_ok() {
            self.length -= torn;
        } else {
            self.torn = true;
        }
    }

    fn end_torn_line(&mut self) -> io::Result<()> {
        self.file.write_all(b"\n")?;
        self.length += 1;
        self.torn = false;
        Ok(())
    }
}

fn ends_inside_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last != [b'\n'])
}

/// Makes `path` free: `path` becomes `.1`, `.1` becomes `.2`, up to `keep`.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    // An earlier attempt may have moved it and then failed to begin the next one.
    if !path.try_exists()? {
        return Ok(());
    }
    if keep == 0 {
        return fs::remove_file(path);
    }
    for n in (1..keep).rev() {
        match fs::rename(numbered(n), numbered(n + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::os::fd::OwnedFd;
    use std::process::Command;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;
    use crate::account::{Account, Stages};

    const IMPATIENT: Patience = Patience {
        hold: Duration::ZERO,
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(5),
    };

    struct Case {
        account: Arc<Account>,
        sink: JsonLines,
    }

    fn start(target: Target, change: impl FnOnce(&mut Options)) -> Case {
        let account = Account::new(&[NAME]);
        let mut options = Options {
            target,
            rotate: None,
            fields: Selection::all(),
            queue_max: 10_000,
            patience: Patience::default(),
        };
        change(&mut options);
        let sink = JsonLines::start(options, account.sink(NAME)).expect("a sink");
        Case { account, sink }
    }

    /// A sink whose standard output is this.
    fn start_stream(stream: File) -> Case {
        let account = Account::new(&[NAME]);
        let sink = JsonLines::write_to(
            Some(Output::stream(stream).expect("an output")),
            "-".to_owned(),
            Selection::all(),
            10_000,
            Patience::default(),
            account.sink(NAME),
        )
        .expect("a sink");
        Case { account, sink }
    }

    impl Case {
        /// Offers these lines as calls, in one batch.
        fn offer<T: AsRef<str>>(&self, lines: impl IntoIterator<Item = T>) {
            let mut producer = self.sink.producer();
            for line in lines {
                self.account.complete(Kind::Call);
                self.account.settled(Kind::Call, 1);
                let text = line.as_ref().as_bytes();
                let Producer { shared, batch, .. } = &mut producer;
                shared.take(batch, Kind::Call, |out| out.extend_from_slice(text));
            }
        }

        fn calls(&self) -> Stages {
            let snapshot = self.account.snapshot();
            let calls = snapshot.iter().find(|(_, kind, _)| *kind == Kind::Call);
            *calls.expect("calls are counted").2
        }

        fn until(&self, what: &str, holds: impl Fn(&Stages) -> bool) -> Stages {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let stages = self.calls();
                assert!(stages.balanced(), "{stages:?}");
                if holds(&stages) {
                    return stages;
                }
                assert!(Instant::now() < deadline, "never: {what}: {stages:?}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }

        fn stop(self) -> Stages {
            let Self { account, sink } = self;
            sink.stop(Duration::from_secs(20));
            let snapshot = account.snapshot();
            let calls = snapshot.iter().find(|(_, kind, _)| *kind == Kind::Call);
            *calls.expect("calls are counted").2
        }
    }

    fn dir() -> TempDir {
        tempfile::tempdir().expect("a directory for the test")
    }

    fn text(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path.as_ref())
            .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
    }

    fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| format!(r#"{{"n":{n:04}}}"#)).collect()
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let dir = dir();
        let path = dir.path().join("calls.jsonl");
        let case = start(Target::File(path.clone()), |_| ());
        for chunk in numbered(0..1000).chunks(7) {
            case.offer(chunk);
        }
        let stages = case.stop();
        assert_eq!((stages.written, stages.queued), (1000, 0));
        assert!(text(&path).lines().eq(numbered(0..1000)));
        assert!(text(&path).ends_with('\n'));
    }

    #[test]
    fn lines_arrive_without_a_stop() {
        let dir = dir();
        let path = dir.path().join("calls.jsonl");
        let case = start(Target::File(path.clone()), |_| ());
        for round in 1..4 {
            case.offer(["one"]);
            case.until("the line is written", |stages| stages.written == round);
        }
        assert_eq!(text(&path), "one\none\none\n");
    }

    #[test]
    fn an_existing_file_is_appended_to_and_its_torn_line_ended() {
        for (before, after) in [
            ("", "new\n"),
            ("old\n", "old\nnew\n"),
            ("old\n{\"torn", "old\n{\"torn\nnew\n"),
        ] {
            let dir = dir();
            let path = dir.path().join("calls.jsonl");
            fs::write(&path, before).expect("the file of an earlier run");
            let case = start(Target::File(path.clone()), |_| ());
            case.offer(["new"]);
            assert_eq!(case.stop().written, 1);
            assert_eq!(text(&path), after);
        }
    }

    #[test]
    fn a_full_file_is_rotated_between_lines() {
        let dir = dir();
        let path = dir.path().join("calls.jsonl");
        let case = start(Target::File(path.clone()), |options| {
            let (max_bytes, keep) = (100, 3);
            options.rotate = Some(Rotate { max_bytes, keep });
        });
        // 11 bytes a line, nine lines a file, all in one batch: seven files, of which four stay.
        case.offer(numbered(0..60));
        let observer = case.sink.observer();
        assert_eq!(case.stop().written, 60);
        assert_eq!(observer.status().rotations, 6);
        let file = |suffix: &str| text(format!("{}{suffix}", path.display()));
        assert!(file("").lines().eq(numbered(54..60)));
        assert!(file(".1").lines().eq(numbered(45..54)));
        assert!(file(".2").lines().eq(numbered(36..45)));
        assert!(file(".3").lines().eq(numbered(27..36)));
        assert!(!dir.path().join("calls.jsonl.4").exists());
    }

    #[test]
    fn a_line_longer_than_a_file_is_written_all_the_same() {
        let dir = dir();
        let path = dir.path().join("calls.jsonl");
        let case = start(Target::File(path.clone()), |options| {
            let (max_bytes, keep) = (10, 5);
            options.rotate = Some(Rotate { max_bytes, keep });
        });
        let long = "x".repeat(50);
        case.offer(["short", &long, "end"]);
        assert_eq!(case.stop().written, 3);
        assert_eq!(text(&path), "end\n");
        assert_eq!(text(dir.path().join("calls.jsonl.1")), long + "\n");
        assert_eq!(text(dir.path().join("calls.jsonl.2")), "short\n");
    }

    #[test]
    fn nothing_is_lost_where_rotation_fails() {
        let dir = dir();
        let path = dir.path().join("calls.jsonl");
        // A file cannot take the name of a directory that is not empty.
        fs::create_dir_all(dir.path().join("calls.jsonl.1/in-the-way")).expect("a directory");
        let case = start(Target::File(path.clone()), |options| {
            let (max_bytes, keep) = (30, 1);
            options.rotate = Some(Rotate { max_bytes, keep });
        });
        case.offer(numbered(0..20));
        assert_eq!(case.stop().written, 20);
        assert!(text(&path).lines().eq(numbered(0..20)));
    }

    #[test]
    fn after_a_reopen_lines_go_to_the_new_file() {
        let dir = dir();
        let (path, moved) = (dir.path().join("calls.jsonl"), dir.path().join("moved"));
        let case = start(Target::File(path.clone()), |_| ());
        case.offer(["before"]);
        case.until("the line is written", |stages| stages.written == 1);
        fs::rename(&path, &moved).expect("the file is there");
        case.sink.reopen();
        case.offer(["after"]);
        assert_eq!(case.stop().written, 2);
        assert_eq!(
            (text(&moved), text(&path)),
            ("before\n".into(), "after\n".into())
        );
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_old_file() {
        let dir = dir();
        let (there, gone) = (dir.path().join("there"), dir.path().join("gone"));
        fs::create_dir(&there).expect("a directory");
        let case = start(Target::File(there.join("calls.jsonl")), |_| ());
        fs::rename(&there, &gone).expect("the directory is there");
        case.sink.reopen();
        case.offer(["kept"]);
        assert_eq!(case.stop().written, 1);
        assert_eq!(text(gone.join("calls.jsonl")), "kept\n");
    }

    #[test]
    fn a_sink_that_is_off_drops_as_disabled() {
        let case = start(Target::Nowhere, |_| ());
        assert!(!case.sink.observer().status().on);
        case.offer(["one", "two"]);
        let stages = case.stop();
        assert_eq!(
            (stages.dropped(DropReason::Disabled), stages.queued),
            (2, 0)
        );
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let account = Account::new(&[NAME]);
        let options = Options {
            target: Target::File("/nonexistent/calls.jsonl".into()),
            rotate: None,
            fields: Selection::all(),
            queue_max: 1,
            patience: Patience::default(),
        };
        let error = JsonLines::start(options, account.sink(NAME)).expect_err("no such directory");
        assert!(
            error.to_string().contains("/nonexistent/calls.jsonl"),
            "{error}"
        );
    }

    #[test]
    fn a_stuck_reader_costs_records_not_time() {
        let dir = dir();
        let path = dir.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).expect("a FIFO");
        let case = start(Target::File(path.clone()), |options| options.queue_max = 50);
        // A pipe holds 64 KiB, so the writer is stuck inside the first dozen of these lines.
        let line = "x".repeat(5_000);
        for _ in 0..200 {
            case.offer([&line]);
        }
        let stages = case.calls();
        assert!(stages.dropped(DropReason::QueueFull) >= 100, "{stages:?}");
        assert!(stages.balanced());

        let kept = 200 - stages.dropped(DropReason::QueueFull);
        let pipe = File::open(&path).expect("the FIFO is there");
        let lines = io::BufReader::new(pipe).lines().take(kept as usize);
        assert!(
            lines
                .map(|read| read.expect("a line"))
                .all(|read| read == line)
        );
        case.until("all that was kept is written", |stages| {
            stages.written == kept
        });
    }

    #[test]
    fn a_sink_that_always_fails_drops_as_sink_error() {
        let case = start(Target::File("/dev/full".into()), |options| {
            options.patience = IMPATIENT;
        });
        case.offer(["one", "two"]);
        let stages = case.until("both are given up", |stages| stages.queued == 0);
        assert_eq!(
            (stages.dropped(DropReason::SinkError), stages.written),
            (2, 0)
        );
        let status = case.sink.observer().status();
        assert!(status.errors > 0);
        assert!(
            status
                .failing
                .is_some_and(|why| why.contains("No space left"))
        );
    }

    #[test]
    fn lines_for_a_reader_that_is_gone_are_dropped_at_once() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let case = start_stream(File::from(OwnedFd::from(writer)));
        case.offer(["one"]);
        case.until("the line is written", |stages| stages.written == 1);
        drop(reader);
        case.offer(["two", "three"]);
        let stages = case.until("both are given up", |stages| stages.queued == 0);
        assert_eq!(stages.dropped(DropReason::SinkError), 2);
        // Tried once, not again and again.
        assert_eq!(case.sink.observer().status().errors, 1);
    }

    #[test]
    fn while_a_sink_fails_a_full_queue_is_its_fault() {
        let case = start(Target::File("/dev/full".into()), |options| {
            options.queue_max = 3
        });
        case.offer(["one"]);
        case.until("the failure is known", |_| {
            case.sink.observer().status().failing.is_some()
        });
        case.offer(["two", "three", "four", "five"]);
        assert_eq!(case.calls().dropped(DropReason::SinkError), 2);
        assert_eq!(case.calls().queued, 3);
        case.sink.stop(Duration::ZERO);
    }

    /// Runs [`on_a_full_disk`] where it may mount a small disk: in a mount namespace of its own,
    /// which ends with it.
    #[test]
    fn a_full_disk_tears_no_line_and_recovers() {
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--"])
            .arg(std::env::current_exe().expect("this test's binary"))
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("sink::json_lines::tests::on_a_full_disk")
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return eprintln!("SKIPPED: cannot run unshare: {error}"),
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        if said.contains("unshare failed") || said.contains("NO MOUNT") {
            return eprintln!("SKIPPED: no namespace to mount a small disk in: {said}");
        }
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }

    #[test]
    #[ignore = "mounts a disk; run by a_full_disk_tears_no_line_and_recovers in its own namespace"]
    fn on_a_full_disk() {
        let dir = dir();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(dir.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            panic!("NO MOUNT");
        }
        let path = dir.path().join("calls.jsonl");
        let ballast = dir.path().join("ballast");
        fs::write(&ballast, vec![0; 32 << 10]).expect("half the disk");
        let case = start(Target::File(path.clone()), |options| {
            options.patience = Patience {
                hold: Duration::from_secs(3600),
                ..IMPATIENT
            };
        });

        // 100 lines of 1 KiB: some 32 fit, one is torn, none of them is lost.
        let line = |n: u32| format!(r#"{{"n":{n:04},"pad":"{}"}}"#, "x".repeat(1_000));
        case.offer((0..100).map(line));
        case.until("the disk is full", |_| {
            case.sink.observer().status().errors > 3
        });
        let stages = case.calls();
        assert!(stages.written > 0 && stages.queued > 0, "{stages:?}");
        assert_eq!(text(&path).lines().count() as u64, stages.written);
        assert!(
            text(&path).ends_with("\"}\n"),
            "a torn line was left behind"
        );

        fs::remove_file(&ballast).expect("the ballast");
        let stages = case.until("there is space again", |stages| stages.written >= 50);
        assert_eq!(stages.dropped_total(), 0);
        // The rest goes elsewhere.
        fs::remove_file(&path).expect("the records so far");
        case.sink.reopen();
        let stages = case.until("all is written", |stages| stages.written == 100);
        assert_eq!(stages.dropped_total(), 0);
        assert_eq!(case.sink.observer().status().failing, None);
        let rest = text(&path);
        let last = rest.lines().last().map(str::to_owned);
        assert_eq!(last, Some(line(99)));
        assert!(
            rest.lines()
                .all(|l| l.starts_with("{\"n\":") && l.ends_with("\"}"))
        );
    }
}
