//! The mix and the faults against the calltap of this build.

mod calltap;

use std::path::Path;

use calltap_loadtest::checks::Checks;
use calltap_loadtest::faults;
use calltap_loadtest::verify::{self, Load};

const LOAD: Load = Load {
    calls: 400,
    threads: 8,
    seed: 5,
};

#[track_caller]
fn held(checks: anyhow::Result<Checks>) {
    let checks = checks.unwrap();
    assert!(checks.all_held(), "\n{}", checks.render());
}

#[test]
fn every_call_has_one_true_record() {
    held(verify::own(&calltap::binary(), "auto", &LOAD));
}

#[test]
fn every_call_has_one_true_record_without_programs_in_the_kernel() {
    held(verify::own(&calltap::binary(), "tcp_info", &LOAD));
}

#[test]
fn every_call_has_one_true_record_without_a_tap() {
    held(verify::own(&calltap::binary(), "off", &LOAD));
}

#[test]
fn nothing_is_lost_when_the_backend_is_killed() {
    let loadtest = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    held(faults::backend_killed(&calltap::binary(), loadtest, &LOAD));
}

#[test]
fn nothing_is_lost_uncounted_when_the_sink_stalls() {
    held(faults::sink_stalled(&calltap::binary(), &LOAD));
}

#[test]
fn nothing_is_lost_uncounted_when_the_disk_is_full() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: a small file system of our own needs root");
        return;
    }
    held(faults::disk_full(&calltap::binary(), &LOAD));
}
