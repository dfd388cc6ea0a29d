//! The fingerprints in records are those that others take: of SYNs the real p0f's.

mod calltap;

use calltap_loadtest::fingerprints::{self, Finding, syn};
use calltap_loadtest::lab;

#[test]
fn the_real_p0f_says_the_same_of_every_syn() {
    if let Some(reason) = lab::missing().or_else(syn::missing) {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let findings = syn::compare(&calltap::binary(), syn::Extent::Some).unwrap();
    assert!(findings.len() > 200, "{}", findings.len());
    assert!(
        findings.iter().all(Finding::held),
        "{}",
        fingerprints::render(&findings)
    );
}
