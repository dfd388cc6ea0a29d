//! The calltap these tests are about.

use std::path::{Path, PathBuf};
use std::process::Command;

use calltap_loadtest::gateway;

/// The binary named by `CALLTAP` in the environment, else that of this build, brought up to date: a
/// stale one would answer for code that is gone.
pub(crate) fn binary() -> PathBuf {
    let calltap = gateway::default_calltap().unwrap();
    if std::env::var_os("CALLTAP").is_none() {
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
    calltap
}
