//! `calltap tail`: the calls as they happen, one line each, with a bar that shows where the time
//! went.
//!
//! Reads what a running calltap streams, a log file, or standard input; writes to the terminal and
//! nowhere else. In reading order: [`stream`] and [`file`] bring lines, [`view`] is what a reader
//! knows of a record, [`filter`] decides, [`line`] draws, [`clean`] keeps the terminal safe.

pub(crate) mod clean;
pub(crate) mod file;
pub(crate) mod filter;
pub(crate) mod line;
pub(crate) mod lines;
pub(crate) mod paint;
pub(crate) mod stream;
pub(crate) mod view;

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use file::{Begin, Follower};
use filter::{Filter, Status};
use lines::Lines;
use paint::{Color, Paint};
use stream::{Event, Stream, StreamError};
use view::View;

/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The first wait before a lost stream is asked for again; doubles up to the longest.
const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_LONGEST: Duration = Duration::from_secs(5);

/// Shows calls as they happen, one line each
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TailArgs {
    /// A log file to follow, through rotation and truncation; `-` reads standard input. Without it,
    /// the running calltap is asked through its admin API
    pub(crate) file: Option<PathBuf>,
    /// The admin API of the calltap to follow
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9901",
        conflicts_with = "file"
    )]
    pub(crate) admin: String,
    /// The file that holds the admin API's token
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) token_file: Option<PathBuf>,
    /// Writes the records themselves, one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Only calls answered with one of these: a code (404) or a class (5xx), comma-separated
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = filter::parse_status)]
    pub(crate) status: Vec<Status>,
    /// Only calls of this route (`/orders/{id}`) or path; a final `*` stands for any rest
    #[arg(long, value_name = "ROUTE")]
    pub(crate) route: Option<String>,
    /// Only calls whose total is longer than this: 250us, 100ms, 1.5s
    #[arg(long, value_name = "DURATION", value_parser = filter::parse_duration_us)]
    pub(crate) slower_than: Option<u64>,
    /// How many lines of the file's past to begin with: a number, or `all`
    #[arg(short = 'n', long, value_name = "N", default_value = "10", requires = "file", value_parser = parse_lines)]
    pub(crate) lines: Begin,
    /// Ends at the end of the file instead of waiting for more
    #[arg(long, requires = "file")]
    pub(crate) no_follow: bool,
    /// When to colour
    #[arg(long, value_enum, default_value_t)]
    pub(crate) color: Color,
}

fn parse_lines(text: &str) -> Result<Begin, String> {
    if text == "all" {
        return Ok(Begin::Start);
    }
    text.parse()
        .map(Begin::Last)
        .map_err(|_| format!("`{text}` is no number of lines: write one such as 10, or `all`"))
}

/// Shows records until the source ends, the reader of our output leaves, or a signal ends us.
///
/// # Errors
/// When the file cannot be read or the admin API refuses; each says what to do.
pub(crate) fn run(args: TailArgs) -> anyhow::Result<ExitCode> {
    let TailArgs {
        file,
        admin,
        token_file,
        json,
        status,
        route,
        slower_than,
        lines,
        no_follow,
        color,
    } = args;
    let filter = Filter {
        statuses: status,
        route,
        slower_than_us: slower_than,
    };
    let mut screen = Screen::new(io::stdout().lock(), filter, json, color);
    let result = match file.as_deref() {
        Some(path) if path == Path::new("-") => show_stdin(&mut screen),
        Some(path) => show_file(&mut screen, path, lines, !no_follow),
        None => {
            let token = token_file.as_deref().map(read_token).transpose()?;
            show_stream(&mut screen, &admin, token.as_deref())
        }
    };
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
        Ok(()) => {
            screen.say_what_was_skipped();
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<OutputError>()
        .is_some_and(OutputError::is_broken_pipe)
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the token file {}", path.display()))?;
    let token = text.trim();
    if token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic()) {
        bail!(
            "the token file {} holds no token: one line of visible ASCII is expected",
            path.display()
        );
    }
    Ok(token.to_owned())
}

fn show_stdin(screen: &mut Screen<impl Write>) -> anyhow::Result<()> {
    let mut input = io::stdin().lock();
    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read standard input"),
        };
        if count == 0 {
            lines.finish(|line| screen.offer_bytes(line));
            screen.skipped += lines.skipped;
            return Ok(screen.flush()?);
        }
        lines.push(&buffer[..count], |line| screen.offer_bytes(line));
        screen.flush()?;
    }
}

fn show_file(
    screen: &mut Screen<impl Write>,
    path: &Path,
    begin: Begin,
    follow: bool,
) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read {}", path.display());
    if !path.exists() {
        if !follow {
            bail!("there is no file {}", path.display());
        }
        if path.to_string_lossy().contains("://") {
            bail!(
                "{} is no file: `calltap tail --admin 127.0.0.1:9901` follows the calltap whose \
                 admin API is there",
                path.display()
            );
        }
        // Also where nobody sits: a service that waits for ever should have said for what.
        eprintln!("waiting for {} to appear", path.display());
    }
    let mut follower = Follower::new(path, begin);
    loop {
        follower
            .look(|line| screen.offer_bytes(line))
            .with_context(unreadable)?;
        if !follow {
            follower.finish(|line| screen.offer_bytes(line));
            return Ok(screen.flush()?);
        }
        screen.flush()?;
        thread::sleep(LOOK_EVERY);
    }
}

fn show_stream(
    screen: &mut Screen<impl Write>,
    admin: &str,
    token: Option<&str>,
) -> anyhow::Result<()> {
    // Nobody there at the first try is a mistake to report; later it is a restart to wait out.
    let mut stream = Stream::open(admin, token, None)?;
    screen.say(&format!("following calltap at {admin}"));
    loop {
        loop {
            match stream.wait(|event| screen.offer_event(event)) {
                Ok(true) => screen.flush()?,
                Ok(false) | Err(StreamError::Broken(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        screen.flush()?;
        screen.say("the stream ended; waiting for calltap to come back");
        let seen = stream.seen().map(str::to_owned);
        let mut wait = RECONNECT_FIRST;
        stream = loop {
            thread::sleep(wait);
            wait = (wait * 2).min(RECONNECT_LONGEST);
            match Stream::open(admin, token, seen.as_deref()) {
                Ok(stream) => break stream,
                Err(StreamError::Connect(..) | StreamError::Broken(_)) => (),
                Err(error) => return Err(error.into()),
            }
        };
        screen.say("following again");
    }
}

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct OutputError(#[source] io::Error);

impl OutputError {
    pub(crate) fn new(source: io::Error) -> Self {
        Self(source)
    }

    /// The reader of our output is gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Draws the records that pass the filter. What it writes is whole lines, a batch at a time.
struct Screen<W> {
    out: W,
    filter: Filter,
    json: bool,
    color: Color,
    paint: Paint,
    legend_shown: bool,
    batch: String,
    /// Lines that held no record.
    skipped: u64,
}

impl<W: Write> Screen<W> {
    fn new(out: W, filter: Filter, json: bool, color: Color) -> Self {
        Self {
            out,
            filter,
            json,
            color,
            paint: Paint::of_stdout(color),
            legend_shown: false,
            batch: String::new(),
            skipped: 0,
        }
    }

    fn offer_event(&mut self, event: Event) {
        match event {
            Event::Record(line) => self.offer(&line),
            Event::Dropped(count) => {
                self.say(&format!(
                    "{count} records left out: this reader was too slow"
                ));
            }
        }
    }

    fn offer_bytes(&mut self, line: &[u8]) {
        match std::str::from_utf8(line) {
            Ok(line) => self.offer(line),
            Err(_) => self.skipped += 1,
        }
    }

    fn offer(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let Some(view) = View::parse(text) else {
            self.skipped += 1;
            return;
        };
        if !self.filter.wants(&view) {
            return;
        }
        if self.json {
            self.batch.push_str(&clean::clean_json(text));
        } else {
            if !self.legend_shown {
                self.legend_shown = true;
                self.batch.push_str(&line::legend(self.paint));
                self.batch.push('\n');
            }
            self.batch.push_str(&line::line(&view, self.paint));
        }
        self.batch.push('\n');
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        let written = self
            .out
            .write_all(self.batch.as_bytes())
            .and_then(|()| self.out.flush());
        self.batch.clear();
        // The window may have been resized; the next batch is drawn for its new width.
        self.paint = Paint::of_stdout(self.color);
        written.map_err(OutputError::new)
    }

    /// Tells the person at the terminal, beside the records.
    fn say(&self, text: &str) {
        if io::stderr().is_terminal() && !self.json {
            eprintln!("{}", self.paint.ink(&format!("-- {text}"), paint::Ink::Dim));
        }
    }

    fn say_what_was_skipped(&self) {
        if self.skipped > 0 {
            eprintln!("{} lines were no records and are not shown", self.skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: bool, filter: Filter, lines: &[&str]) -> (String, u64) {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, filter, json, Color::Never);
        for line in lines {
            screen.offer_bytes(line.as_bytes());
        }
        screen.flush().expect("a vector takes everything");
        let skipped = screen.skipped;
        (String::from_utf8(out).expect("text"), skipped)
    }

    #[test]
    fn json_is_the_record_itself_made_safe() {
        let record = "{\"kind\":\"call\",\"url.path\":\"/\u{202e}x\",\"other\":1}";
        let (out, skipped) = shown(true, Filter::default(), &[record, "", "torn {", "7"]);
        assert_eq!(
            out,
            "{\"kind\":\"call\",\"url.path\":\"/\\u202ex\",\"other\":1}\n"
        );
        assert_eq!(skipped, 2);
    }

    #[test]
    fn the_legend_comes_once_and_only_with_lines() {
        let filter = Filter {
            statuses: vec![Status::Class(5)],
            ..Filter::default()
        };
        let ok = r#"{"http.response.status_code":200}"#;
        let bad = r#"{"http.response.status_code":500}"#;
        assert_eq!(shown(false, filter.clone(), &[ok]).0, "");
        let (out, _) = shown(false, filter, &[ok, bad, bad]);
        assert_eq!(out.matches("delayed ack").count(), 1, "{out}");
        assert_eq!(out.matches("500").count(), 2, "{out}");
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_end() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut screen = Screen::new(Closed, Filter::default(), true, Color::Never);
        screen.offer("{}");
        let error = screen.flush().expect_err("nobody reads").into();
        assert!(is_broken_pipe(&error));
    }

    #[test]
    fn a_number_of_lines_or_all() {
        assert_eq!(parse_lines("all"), Ok(Begin::Start));
        assert_eq!(parse_lines("0"), Ok(Begin::Last(0)));
        assert!(parse_lines("some").is_err());
    }

    #[test]
    fn a_token_is_one_visible_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("token");
        for (content, token) in [
            ("abc\n", Some("abc")),
            ("", None),
            ("a b", None),
            ("a\r\nX: y", None),
        ] {
            fs::write(&path, content).expect("write");
            assert_eq!(read_token(&path).ok().as_deref(), token, "{content:?}");
        }
    }
}
