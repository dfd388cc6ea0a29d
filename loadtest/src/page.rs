//! Puts what was measured into a page, between two marks, and leaves the rest of the page alone.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

/// Fails where [`write()`] would, before anything was measured in vain.
pub fn check(path: &Path, by: &str) -> anyhow::Result<()> {
    with(path, by, "").map(drop)
}

/// Writes `text` into a file, between the marks that name the command `by`:
/// ``<!-- Begin of what `by` writes. -->`` and the same with `End`.
pub fn write(path: &Path, by: &str, text: &str) -> anyhow::Result<()> {
    let page = with(path, by, text)?;
    fs::write(path, page).with_context(|| path.display().to_string())
}

fn with(path: &Path, by: &str, text: &str) -> anyhow::Result<String> {
    let page = fs::read_to_string(path);
    let page = page.map_err(anyhow::Error::from);
    page.and_then(|page| between(&page, by, text))
        .with_context(|| path.display().to_string())
}

fn between(page: &str, by: &str, text: &str) -> anyhow::Result<String> {
    let mark = |what: &str| format!("<!-- {what} of what `{by}` writes. -->");
    let (begin, end) = (mark("Begin"), mark("End"));
    let marks = page.split_once(&begin);
    let (before, rest) = marks.with_context(|| format!("there is no line {begin}"))?;
    let marks = rest.split_once(&end);
    let (_, after) = marks.with_context(|| format!("there is no line {end}"))?;
    ensure!(!after.contains(&begin), "there are two lines {begin}");
    Ok(format!(
        "{before}{begin}\n\n{}\n\n{end}{after}",
        text.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let begin = "<!-- Begin of what `bench` writes. -->";
        let end = "<!-- End of what `bench` writes. -->";
        let page = format!("# Title\n\n{begin}\nold\n{end}\n\nThe rest.\n");
        let written = between(&page, "bench", "new\n").unwrap();
        assert_eq!(
            written,
            format!("# Title\n\n{begin}\n\nnew\n\n{end}\n\nThe rest.\n")
        );
        assert_eq!(between(&written, "bench", "new\n").unwrap(), written);
        assert!(between(&page, "truth", "new").is_err());
        assert!(between(&page.replace(end, ""), "bench", "new").is_err());
    }
}
