//! A list of 50,000 networks exchanged under load, and a flood denied, against the calltap of this build.
//! What share of their throughput permitted clients keep, `loadtest deny` judges, on a quiet machine and
//! an optimised build.

mod calltap;

use std::time::Duration;

use calltap_loadtest::deny::{self, Effort};
use calltap_loadtest::lab;

#[test]
fn permitted_calls_do_not_notice_the_list_and_a_flood_is_dropped() {
    if let Some(reason) = lab::missing().or_else(deny::missing) {
        eprintln!("SKIPPED: a flood needs network namespaces of its own, wrk and hping3: {reason}");
        return;
    }
    let effort = Effort {
        reloads: 3,
        rounds: 1,
        window: Duration::from_millis(500),
    };
    let found = deny::ask(&calltap::binary(), effort).unwrap();
    let table = deny::render(&found);
    println!("{table}");
    assert!(found.exchanged.held(), "{table}\n{:#?}", found.exchanged);
    assert!(found.rounds[0].dropped_packets > 0, "{table}");
}
