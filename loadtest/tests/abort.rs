//! What a record says of a call that did not end well is what happened, by the script of the ending
//! and by captures of both sides, to the byte.

mod calltap;

use std::sync::Mutex;
use std::thread;

use calltap_loadtest::abort::{self, ENDINGS};
use calltap_loadtest::lab;

/// Endings played at a time; most of their time they wait.
const AT_A_TIME: usize = 4;

#[test]
fn every_ending_is_told_as_it_was() {
    if let Some(reason) = lab::missing() {
        eprintln!("SKIPPED: aborts need network namespaces of their own: {reason}");
        return;
    }
    let calltap = calltap::binary();
    let left = Mutex::new(ENDINGS.iter());
    let misses = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(ending) = left.lock().unwrap().next() else {
                        return;
                    };
                    let found = match abort::play(&calltap, ending) {
                        Ok(played) => abort::judge(&played),
                        Err(error) => vec![format!("not played: {error:#}")],
                    };
                    let mut misses = misses.lock().unwrap();
                    misses.extend(found.iter().map(|miss| format!("{}: {miss}", ending.name)));
                }
            });
        }
    });
    let misses = misses.into_inner().unwrap();
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}
