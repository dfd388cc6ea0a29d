//! What the terminal can show: its width, its colours, its characters.

use std::env;
use std::ffi::OsString;
use std::io::IsTerminal;

use clap::ValueEnum;
use unicode_width::UnicodeWidthStr;

use super::view::Part;

/// Columns assumed where there is no terminal to ask.
const WIDTH_UNKNOWN: usize = 120;
/// Below this a line cannot hold its columns.
const WIDTH_MIN: usize = 60;
/// Beyond this longer bars say nothing more.
const WIDTH_MAX: usize = 200;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Even into a file or a pipe.
    Always,
    /// Never.
    Never,
}

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    /// Columns of a line.
    pub(crate) width: usize,
    /// Escape sequences for colour may be written.
    pub(crate) color: bool,
    /// Characters beyond ASCII may be written.
    pub(crate) unicode: bool,
    /// Lines must not wrap: there is a terminal, and what does not fit is cut.
    pub(crate) fit: bool,
}

/// Whether colours are welcome: on a terminal that has them, unless `NO_COLOR` is set.
pub(crate) fn may_color(
    is_terminal: bool,
    environment: impl Fn(&'static str) -> Option<OsString>,
) -> bool {
    is_terminal
        && environment("NO_COLOR").is_none_or(|value| value.is_empty())
        && environment("TERM").is_none_or(|term| term != "dumb")
}

/// The ink of one piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    Plain,
    Dim,
    Bold,
    Good,
    Moved,
    Warn,
    Bad,
}

impl Paint {
    /// Asks standard output and the environment.
    pub(crate) fn of_stdout(color: Color) -> Self {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        let columns = rustix::termios::tcgetwinsize(&stdout)
            .ok()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| is_terminal && *columns > 0);
        Self {
            width: columns.unwrap_or(WIDTH_UNKNOWN).clamp(WIDTH_MIN, WIDTH_MAX),
            color: match color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => may_color(is_terminal, env::var_os),
            },
            unicode: locale_is_utf8(),
            fit: is_terminal,
        }
    }

    /// `text` in `ink`, which ends with the text.
    pub(crate) fn ink(self, text: &str, ink: Ink) -> String {
        let code = match ink {
            Ink::Plain => "",
            Ink::Dim => "2",
            Ink::Bold => "1",
            Ink::Good => "32",
            Ink::Moved => "36",
            Ink::Warn => "33",
            Ink::Bad => "31",
        };
        self.escape(text, code)
    }

    /// `text` on the colour of a part.
    pub(crate) fn block(self, text: &str, part: Part) -> String {
        // Near-black text on backgrounds of like brightness, told apart without red and green.
        let background = match part {
            Part::ClientSend => 110,
            Part::KernelWait => 180,
            Part::Gateway => 150,
            Part::FailedAttempts => 203,
            Part::Connect => 176,
            Part::UpstreamTls => 140,
            Part::UpstreamNetwork => 80,
            Part::UpstreamServer => 222,
            Part::Delivery => 75,
            Part::DelayedAck => 103,
            Part::Unattributed => 245,
        };
        self.escape(text, &format!("38;5;16;48;5;{background}"))
    }

    fn escape(self, text: &str, code: &str) -> String {
        if self.color && !code.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// `text` broken at its spaces so that lines fit, all but the first indented.
    pub(crate) fn wrap(self, text: &str, indent: usize) -> String {
        let mut out = String::new();
        let mut used = indent;
        for word in text.split(' ') {
            let columns = word.width();
            if used > indent && used + 1 + columns > self.width {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                used = indent;
            } else if used > indent {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += columns;
        }
        out
    }

    /// The mark of segments sent again.
    pub(crate) fn again(self) -> &'static str {
        if self.unicode { "↻" } else { "re" }
    }

    /// What stands for text that was cut off; one column in Unicode.
    pub(crate) fn ellipsis(self) -> &'static str {
        if self.unicode { "…" } else { "." }
    }
}

/// The first of these that is set decides, as in POSIX.
fn locale_is_utf8() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(|name| env::var(name).ok())
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let check = |is_terminal, set: &[(&str, &str)], expected| {
            let environment = |name| {
                let (_, value) = set.iter().find(|(key, _)| *key == name)?;
                Some(OsString::from(value))
            };
            assert_eq!(may_color(is_terminal, environment), expected, "{set:?}");
        };
        check(true, &[], true);
        check(false, &[], false);
        check(true, &[("NO_COLOR", "1")], false);
        check(true, &[("NO_COLOR", "")], true);
        check(true, &[("TERM", "xterm")], true);
        check(true, &[("TERM", "dumb")], false);
    }
}
