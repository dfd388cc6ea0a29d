//! The delay matrix against the calltap of this build: most of a delay injected at one place must be
//! found in the part of the time that is named after it. To which percent, `loadtest delays` judges,
//! on a quiet machine and an optimised build.

mod calltap;

use calltap_loadtest::delays::{self, Place};
use calltap_loadtest::lab;

#[test]
fn a_delay_is_found_where_it_was_injected() {
    if let Some(reason) = lab::missing() {
        eprintln!("SKIPPED: the delay matrix needs network namespaces of its own: {reason}");
        return;
    }
    let matrix = delays::matrix(&calltap::binary(), &Place::ALL).unwrap();
    let table = delays::render(&matrix);
    println!("{table}");
    for found in &matrix {
        let place = found.place;
        assert!(found.right_share() > 0.5, "{place}:\n{table}\n{matrix:#?}");
    }
}
