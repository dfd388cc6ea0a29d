//! `loadtest fingerprints`: are the fingerprints in a record those that others would take?
//!
//! Of a SYN: [`syn`] connects in every way a Linux client can be made to, and in ways that none would,
//! and asks the real [`p0f`], which listens on the gateway's interface, for the signature of each.
//!
//! Of a TLS client: [`tls`] has curl, openssl, Chromium and a client of its own connect, the last with
//! its ClientHello in pieces, and sends hellos made up by [`hello`]; [`ja4`] takes the fingerprint of
//! each from a capture, by tshark.
//!
//! Neither knows anything of how calltap makes its own.

pub mod hello;
pub mod ja4;
pub mod p0f;
pub mod syn;
pub mod tls;

use serde::Serialize;

use crate::table;

/// Which clients to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of them.
    All,
    /// What fits into a test: not every setting of a kernel, and no browser.
    Some,
}

/// One client: the fingerprint expected, and the one in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was special about the client.
    pub client: String,
    /// What somebody else takes its fingerprint to be.
    pub expected: Option<String>,
    /// What the record says.
    pub recorded: Option<String>,
    /// Why there is nothing to compare, where that is no fault.
    pub note: Option<String>,
}

impl Finding {
    /// Both are there and the same, or there is nothing to compare.
    pub fn held(&self) -> bool {
        self.note.is_some() || (self.expected.is_some() && self.expected == self.recorded)
    }
}

/// All of them as a table.
pub fn render(findings: &[Finding]) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let verdict = match &finding.note {
                Some(note) => note.clone(),
                None if finding.held() => "equal".to_owned(),
                None => "DIFFERENT".to_owned(),
            };
            vec![
                finding.client.clone(),
                text(&finding.expected),
                text(&finding.recorded),
                verdict,
            ]
        })
        .collect();
    let compared = findings.iter().filter(|finding| finding.note.is_none());
    let equal = compared.clone().filter(|finding| finding.held()).count();
    format!(
        "{}\n{equal} of {} equal\n",
        table::markdown(&["client", "expected", "recorded", ""], &rows),
        compared.count()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_absent_fingerprints_are_not_equal() {
        let finding = |expected: Option<&str>, recorded: Option<&str>| Finding {
            client: "x".to_owned(),
            expected: expected.map(str::to_owned),
            recorded: recorded.map(str::to_owned),
            note: None,
        };
        assert!(finding(Some("a"), Some("a")).held());
        assert!(!finding(Some("a"), Some("b")).held());
        assert!(!finding(Some("a"), None).held());
        assert!(!finding(None, None).held());
        assert!(render(&[finding(None, None)]).ends_with("\n0 of 1 equal\n"));
    }
}
