//! The tap works after everything that it needed to start was given up.

use std::fs;

use calltap_tap::denied::Row;
use calltap_tap::{drop_net_bind, drop_privileges};

use crate::support::{LOOPBACK, connect_from, eventually, tapped, transfer};

/// The sets of the calling thread: inheritable, permitted, effective, bounding, ambient.
fn sets() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let lines = status.lines().filter(|line| line.starts_with("Cap"));
    lines.map(|line| line[8..].to_owned()).collect()
}

#[test]
fn the_tap_works_without_any_capability() {
    let none = "0000000000000000";
    let net_bind = "0000000000000400";
    // Capabilities are a thread's own: this one can give its up.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Some(tapped) = tapped(16) else { return };
            let listener = tapped.listen(LOOPBACK);
            drop_privileges(true).unwrap();
            assert_eq!(sets(), [none, net_bind, net_bind, none, none]);
            drop_net_bind().unwrap();
            assert_eq!(sets(), [none; 5]);
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1"));
            // Nor do its children have any.
            std::thread::scope(|scope| {
                scope.spawn(|| assert_eq!(sets(), [none; 5]));
            });

            let denied = Row {
                first: [127, 0, 0, 2].into(),
                bits: 32,
                denied: true,
            };
            let to = listener.local_addr().unwrap();
            for rows in [vec![denied], vec![], vec![denied]] {
                let is_denied = !rows.is_empty();
                tapped.tap.deny(rows.into_iter()).unwrap();
                let refused = connect_from(denied.first, to).is_err();
                assert_eq!(refused, is_denied);
                if !refused {
                    listener.accept().unwrap();
                }
            }

            let (mut client, mut ours, ledger) = tapped.pair(&listener);
            transfer(&mut client, &mut ours, 10);
            assert_eq!(ledger.received_offset(), 10);
            let (_up, upstream) = tapped.connect(listener.local_addr().unwrap());
            assert!(upstream.identity().is_some());
            drop((client, ours, ledger));
            eventually("a slot is given back", || tapped.tap.sweep().recycled > 0);

            let (cgroup, _) = tapped.tap.cgroup();
            let cgroup = cgroup.to_owned();
            drop(upstream);
            let _turn = tapped.stop();
            eventually("the cgroup is removed", || !cgroup.exists());
        });
    });
}
