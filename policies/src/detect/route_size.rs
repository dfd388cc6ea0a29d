//! A route's requests or responses that are larger or smaller than usual: data that leaks, or answers that
//! are empty.
//!
//! **Idea.** A [`Shift`] of each, in both directions, over calls that succeeded.
//!
//! **Constants.** Less than [`FLOOR_BYTES`] is as good as that.
//!
//! **When it is wrong.** A new release answers with more, and means it.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::shift::Shift;
use crate::alert::Subject;

const FLOOR_BYTES: f32 = 256.0;

/// Of one route.
#[derive(Clone, Debug)]
pub(crate) struct PerRoute {
    request: Shift,
    response: Shift,
}

impl Default for PerRoute {
    fn default() -> Self {
        Self {
            request: Shift::new(),
            response: Shift::new(),
        }
    }
}

impl PerRoute {
    /// How large a response can be that is the client's doing, bytes: while the route's responses are larger
    /// than usual, no larger than usual.
    pub(crate) fn response_max(&self) -> f32 {
        match self.response.is_up() {
            true => self.response.usual().max(FLOOR_BYTES),
            false => f32::INFINITY,
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
    if !call.succeeded() {
        return;
    }
    let record = call.record;
    let sizes = [
        (
            "requests",
            record.http_request_body_size,
            &mut route.request,
        ),
        (
            "responses",
            record.http_response_body_size,
            &mut route.response,
        ),
    ];
    for (what, bytes, shift) in sizes {
        let Some(bytes) = bytes else { continue };
        let Some(shifted) = shift.add(bytes as f32, FLOOR_BYTES, true, call.now_s) else {
            continue;
        };
        desk.look(Detector::RouteSize, shifted.tail, || Found {
            subject: name(),
            observed: f64::from(shifted.value),
            usual: f64::from(shifted.usual),
            summary: format!(
                "{what} have {:.0} bytes; usual are {:.0}",
                shifted.value, shifted.usual
            ),
            since_s: shifted.since_s,
            source: None,
        });
    }
}
