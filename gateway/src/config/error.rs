//! One mistake in the configuration: where it is, what it is, what to do.

use std::fmt;
use std::sync::Arc;

/// One mistake in the configuration.
///
/// Prints as `calltap.toml:12:3: routes[1].upstream: no upstream group is named "oders"; did you
/// mean "orders"?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// The file, as it was named to us, or the flag: `--listen`.
    pub(crate) origin: Arc<str>,
    /// Line, from 1, where the mistake has one.
    pub(crate) line: Option<usize>,
    /// Column in characters, from 1.
    pub(crate) column: Option<usize>,
    /// The key: `routes[1].upstream`; empty where it is about the whole file.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do about it, where that is not plain.
    pub(crate) remedy: Option<String>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// "; did you mean" for the nearest of some names, if one is near enough to be meant.
pub(super) fn did_you_mean<'n>(
    wrong: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<String> {
    let nearest = known
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase()),
                name,
            )
        })
        .min()?;
    let (distance, name) = nearest;
    (distance <= 1 + wrong.chars().count() / 4).then(|| format!("did you mean \"{name}\"?"))
}
