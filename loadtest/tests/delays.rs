//! The delay matrix against the calltap of this build: a delay injected at one place must be found
//! in the part of the time that is named after it.

use std::path::Path;
use std::process::Command;

use calltap_loadtest::delays::{self, Found, Place};
use calltap_loadtest::{gateway, lab};

#[test]
fn a_delay_is_found_where_it_was_injected() {
    if let Some(reason) = lab::missing() {
        eprintln!("SKIPPED: the delay matrix needs network namespaces of its own: {reason}");
        return;
    }
    let calltap = gateway::default_calltap().unwrap();
    build(&calltap);
    let matrix = delays::matrix(&calltap, &Place::ALL).unwrap();
    let table = delays::render(&matrix);
    println!("{table}");
    assert!(matrix.iter().all(Found::held), "\n{table}\n{matrix:#?}");
}

/// Brings the binary up to date: a stale one would answer for code that is gone.
fn build(calltap: &Path) {
    if std::env::var_os("CALLTAP").is_some() {
        return;
    }
    let target = calltap.parent().and_then(Path::parent).unwrap();
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "calltap",
            "--target-dir",
        ])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "calltap does not build");
}
