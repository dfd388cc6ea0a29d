//! The mix against the backend itself: what the client calls served must not depend on a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use calltap_loadtest::backend::Backend;
use calltap_loadtest::client::{self, Outcome, Target};
use calltap_loadtest::plan::{self, Ending, Reach};

#[test]
fn every_call_of_the_mix_is_answered_by_the_backend_as_planned() {
    let backend = Backend::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let sessions = plan::draw(
        300,
        11,
        "run",
        Reach {
            routes: false,
            h2c: false,
        },
    );
    let target = Target {
        plain: backend.address(),
        h2c: None,
        host: "backend".to_owned(),
    };
    let progress = Arc::new(AtomicU64::new(0));
    let seen = client::play(sessions, &target, 8, &progress);
    assert_eq!(seen.unreachable, [""; 0]);
    assert_eq!(seen.calls.len(), 300);
    for observed in &seen.calls {
        let call = &observed.call;
        match call.ending {
            Ending::ClientAbort => assert_eq!(observed.outcome, Outcome::Left, "{observed:?}"),
            _ => {
                assert_eq!(observed.outcome, Outcome::Complete, "{observed:?}");
                assert!(
                    call.statuses.contains(&observed.status.unwrap()),
                    "{observed:?}"
                );
                if let Some(bytes) = call.response_bytes {
                    assert_eq!(observed.body_in, bytes, "{observed:?}");
                }
            }
        }
    }
}
