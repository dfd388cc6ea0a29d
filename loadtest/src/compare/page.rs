//! Puts what was measured into a page, between two marks, and leaves the rest of the page alone.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

/// The line before what is written.
pub const BEGIN: &str = "<!-- Begin of what `loadtest compare` writes. -->";
/// The line after it.
pub const END: &str = "<!-- End of what `loadtest compare` writes. -->";

/// Writes `text` between the marks of a file.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let name = || path.display().to_string();
    let page = fs::read_to_string(path).with_context(name)?;
    let page = between(&page, text).with_context(name)?;
    fs::write(path, page).with_context(name)
}

fn between(page: &str, text: &str) -> anyhow::Result<String> {
    let marks = page.split_once(BEGIN);
    let (before, rest) = marks.with_context(|| format!("there is no line {BEGIN}"))?;
    let marks = rest.split_once(END);
    let (_, after) = marks.with_context(|| format!("there is no line {END}"))?;
    ensure!(!after.contains(BEGIN), "there are two lines {BEGIN}");
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        text.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nThe rest.\n");
        let written = between(&page, "new\n").unwrap();
        assert_eq!(
            written,
            format!("# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nThe rest.\n")
        );
        assert_eq!(between(&written, "new\n").unwrap(), written);
        assert!(between("# Title\n", "new").is_err());
        assert!(between(&page.replace(END, ""), "new").is_err());
    }
}
