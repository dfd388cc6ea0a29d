//! One part of the time of a route's calls is longer than usual: which part tells who is to blame.
//!
//! **Idea.** A [`Shift`] for each part of the timeline: the client's sending, the kernel's queue, the
//! gateway, connecting, the network to the upstream, the upstream itself, delivery.
//!
//! **Constants.** What is shorter than [`FLOOR_US`] counts as that: from 20 µs to 200 in the kernel's queue
//! is no matter for an alert.
//!
//! **When it is wrong.** A route whose calls are of two kinds, one fast and one slow, alerts when their share
//! changes: a coarse route is better split in the configuration.

use calltap_correlate::record::CallRecord;

use super::Detector;
use super::call::{Call, Desk, Found};
use super::shift::Shift;
use crate::alert::Subject;

const FLOOR_US: f32 = 2_000.0;

type Part = fn(&CallRecord) -> Option<u64>;

/// The parts, by what people call them.
const PARTS: [(&str, Part); 7] = [
    ("sending the request", |call| call.time_client_send_us),
    ("waiting in the gateway's kernel", |call| {
        call.time_kernel_wait_us
    }),
    ("the gateway", |call| call.time_gateway_us),
    ("connecting to the upstream", |call| {
        let parts = [
            call.time_connect_us,
            call.time_upstream_tls_us,
            call.time_failed_attempts_us,
        ];
        let known = parts.iter().flatten();
        (call.time_upstream_server_us.is_some()).then(|| known.sum())
    }),
    ("the network to the upstream", |call| {
        call.time_upstream_network_us
    }),
    ("the upstream", |call| call.time_upstream_server_us),
    ("delivery to the client", |call| call.time_delivery_us),
];

/// Of one route.
#[derive(Clone, Debug)]
pub(crate) struct PerRoute {
    parts: [Shift; PARTS.len()],
}

impl Default for PerRoute {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Shift::new()),
        }
    }
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    route: &mut PerRoute,
    name: impl Fn() -> Subject,
    desk: &mut Desk<'_>,
) {
    for ((what, part), shift) in PARTS.iter().zip(&mut route.parts) {
        let Some(us) = part(call.record) else {
            continue;
        };
        let Some(shifted) = shift.add(us as f32, FLOOR_US, false, call.now_s) else {
            continue;
        };
        desk.look(Detector::RouteLatency, shifted.tail, || Found {
            subject: name(),
            observed: f64::from(shifted.value),
            usual: f64::from(shifted.usual),
            summary: format!(
                "{what} takes {:.1} ms; usual are {:.1} ms",
                shifted.value / 1e3,
                shifted.usual / 1e3
            ),
            since_s: shifted.since_s,
            source: None,
        });
    }
}
