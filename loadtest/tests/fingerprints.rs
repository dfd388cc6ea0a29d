//! The fingerprints in records are those that others take: of SYNs the real p0f's, of ClientHellos one
//! made from what tshark saw.

mod calltap;

use calltap_loadtest::fingerprints::{self, Extent, Finding, syn, tls};
use calltap_loadtest::lab;

#[test]
fn the_real_p0f_says_the_same_of_every_syn() {
    if let Some(reason) = lab::missing().or_else(syn::missing) {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let findings = syn::compare(&calltap::binary(), Extent::Some).unwrap();
    check(&findings, 200);
}

#[test]
fn a_capture_tells_the_same_of_every_client_hello_however_it_was_cut() {
    if let Some(reason) = lab::missing().or_else(tls::missing) {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let findings = tls::compare(&calltap::binary(), &[], Extent::Some).unwrap();
    check(&findings, 30);
}

fn check(findings: &[Finding], least: usize) {
    let compared = findings.iter().filter(|finding| finding.note.is_none());
    assert!(compared.count() >= least, "{}", findings.len());
    assert!(
        findings.iter().all(Finding::held),
        "{}",
        fingerprints::render(findings)
    );
}
