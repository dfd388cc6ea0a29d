//! What records say of packets is what captures of the packets say: a small selection of the scenarios
//! of `loadtest truth`, counts only, for a busy machine lends its times to everybody.

mod calltap;

use std::process::Command;
use std::sync::Mutex;
use std::thread;

use calltap_loadtest::lab;
use calltap_loadtest::truth::evidence::Family;
use calltap_loadtest::truth::run::{self, Wanted};
use calltap_loadtest::truth::scenes::SCENARIOS;
use calltap_loadtest::truth::{self, verdict::Times};

/// Calls for each scenario, at least.
const CALLS: usize = 30;
/// Scenarios played at a time; most of their time they wait.
const AT_A_TIME: usize = 3;

#[test]
fn records_agree_with_captures_of_the_same_calls() {
    if let Some(reason) = lab::missing() {
        eprintln!("SKIPPED: scenarios need network namespaces of their own: {reason}");
        return;
    }
    for program in ["tcpdump", "tshark", "ethtool"] {
        let found = Command::new(program).arg("--version").output();
        assert!(
            found.is_ok(),
            "{program} is missing; scripts/bootstrap --test installs it"
        );
    }
    let calltap = calltap::binary();
    // Each with other addresses than the one before.
    let families = [Family::V4, Family::V6, Family::Mapped].into_iter().cycle();
    let chosen = SCENARIOS.iter().filter(|scenario| scenario.in_tests);
    let left = Mutex::new(chosen.zip(families));
    let misses = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some((scenario, family)) = left.lock().unwrap().next() else {
                        return;
                    };
                    let wanted = Wanted {
                        only: vec![scenario.name.to_owned()],
                        families: vec![family],
                        calls: CALLS,
                        seed: 1,
                        keep: None,
                    };
                    let played = run::play(&wanted, &calltap, |_, _, evidence| {
                        let verdict = truth::judge_with(&evidence?, Times::Passed)?;
                        if !verdict.held() {
                            let told = truth::report::render(&[verdict]);
                            misses.lock().unwrap().push(told);
                        }
                        Ok(())
                    });
                    if let Err(error) = played {
                        let told = format!("{}: {error:#}", scenario.name);
                        misses.lock().unwrap().push(told);
                    }
                }
            });
        }
    });
    let misses = misses.into_inner().unwrap();
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}
