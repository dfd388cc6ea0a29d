//! Makes text that clients sent safe to show in a terminal.
//!
//! A path may hold escape sequences that move the cursor, set the window title or hide what comes
//! after, and invisible or right-to-left controls that make one path look like another. Nothing of
//! that reaches the terminal; what was there stays visible as a replacement character, so that an
//! attempt can be seen.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar;

/// Shown for every character that is not.
pub(crate) const REPLACEMENT: char = '\u{fffd}';

/// `text` with every character replaced that acts on a terminal or cannot be seen.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .map(|c| if is_unsafe(c) { REPLACEMENT } else { c })
            .collect(),
    )
}

/// One JSON text with the same characters written as `\u` escapes: it means what it meant, and a
/// terminal shows it harmlessly. C0 controls cannot be in valid JSON as they are.
pub(crate) fn clean_json(line: &str) -> Cow<'_, str> {
    if line.is_ascii() && !line.contains('\x7f') {
        return Cow::Borrowed(line);
    }
    let mut safe = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Controls, bidirectional controls, and everything that takes no cell of its own: zero-width
/// joiners, tags, variation selectors, combining marks without end.
fn is_unsafe(c: char) -> bool {
    // Soft hyphen, line and paragraph separator: they have a width on paper.
    const MOVERS: [char; 3] = ['\u{ad}', '\u{2028}', '\u{2029}'];
    c.is_control() || MOVERS.contains(&c) || c.width().is_none_or(|cells| cells == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_survives() {
        let hostile = [
            "\x1b[2J",
            "\x1b]0;title\x07",
            "\x1bP",
            "\r",
            "\n",
            "\t",
            "\x08",
            "\x00",
            "\x7f",
            "\u{9b}31m",
            "\u{9d}",
            "\u{90}",
            "\u{85}",
            "\u{61c}",
            "\u{200b}",
            "\u{200e}",
            "\u{200f}",
            "\u{202a}",
            "\u{202e}",
            "\u{2028}",
            "\u{2029}",
            "\u{2066}",
            "\u{2069}",
            "\u{feff}",
            "\u{ad}",
            "\u{e0041}",
            "\u{fe0f}",
            "a\u{301}",
        ];
        for text in hostile {
            let shown = clean(text);
            assert!(shown.contains(REPLACEMENT), "{text:?} became {shown:?}");
            assert!(!shown.chars().any(is_unsafe), "{text:?} became {shown:?}");

            let json = serde_json::to_string(text).expect("a string is JSON");
            let safe = clean_json(&json);
            assert!(!safe.chars().any(is_unsafe), "{json:?} became {safe:?}");
            let back: String = serde_json::from_str(&safe).expect("it stays JSON");
            assert_eq!(back, text, "it means what it meant");
        }
    }

    #[test]
    fn every_control_character_is_caught() {
        for code in (0u8..0x20).chain(0x7f..0xa0) {
            assert!(is_unsafe(char::from(code)), "U+{code:04X}");
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["/orders/{id}", "/größe", "/注文/7", "GET", ""] {
            assert_eq!(clean(text), text);
        }
        assert!(matches!(clean("/orders"), Cow::Borrowed(_)));
    }
}
