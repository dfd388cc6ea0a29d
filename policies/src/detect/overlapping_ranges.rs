//! A client that asks for many overlapping ranges of one thing, so that a small request becomes a large answer.
//!
//! **Idea.** RFC 9110, 14.2, calls more than two overlapping ranges a sign of a broken client or of an attack
//! (CVE-2011-3192, *Apache Killer*). Each request with more than [`OVERLAPS_MAX`] ranges that overlap others or
//! end before they begin is [`Evidence`], each request with fewer takes some back.
//!
//! **What is looked at.** The `Range` header, where `records.request_headers` names it, as it does by
//! default; of a long one as much as a record holds.
//!
//! **When it is wrong.** A player or a reader that asks so and means no harm; none is known that does.

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::Evidence;
use crate::alert::Subject;

const OVERLAPS_MAX: usize = 2;
/// What one request says, so that two are enough...
const SAYS: f32 = 9.0;
/// ...and one without takes back.
const USUAL: f32 = -1.0;
const MEMORY_S: f32 = 600.0;

/// Looks at a call.
pub(crate) fn observe(call: &Call<'_>, client: &mut Evidence, desk: &mut Desk<'_>) {
    let headers = &call.record.http_request_headers;
    let Some((_, ranges)) = headers.iter().find(|(name, _)| name == "range") else {
        return;
    };
    let overlaps = overlaps(ranges);
    if overlaps <= OVERLAPS_MAX {
        if !client.is_none() {
            client.add(USUAL, call.now_s, MEMORY_S);
        }
        return;
    }
    let tail = client.add(SAYS, call.now_s, MEMORY_S);
    desk.look(Detector::OverlappingRanges, tail, || Found {
        subject: Subject::Client(call.client),
        observed: overlaps as f64,
        usual: 0.0,
        summary: format!(
            "{} asked for {overlaps} overlapping ranges of {}",
            Subject::Client(call.client),
            call.template_text()
        ),
        since_s: call.now_s,
        source: call.source(),
    });
}

/// How many ranges of a `Range` header overlap an earlier one, or end before they begin.
fn overlaps(header: &str) -> usize {
    let Some((_, ranges)) = header.split_once('=') else {
        return 0;
    };
    let mut overlaps = 0;
    let mut suffixes = 0;
    let mut whole = Vec::new();
    for range in ranges.split(',') {
        let Some((first, last)) = range.trim().split_once('-') else {
            continue;
        };
        match first.parse::<u64>() {
            Ok(first) => whole.push((first, last.parse().unwrap_or(u64::MAX))),
            // The last bytes: any two of those overlap.
            Err(_) => suffixes += usize::from(last.parse::<u64>().is_ok()),
        }
    }
    whole.sort_unstable();
    let mut ended = None;
    for (first, last) in whole {
        overlaps += usize::from(last < first || ended.is_some_and(|ended| first <= ended));
        ended = ended.max(Some(last));
    }
    overlaps + suffixes.max(1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_are_told_from_those_in_order() {
        let killer: String = (1..200).map(|last| format!(",5-{last}")).collect();
        for (header, expected) in [
            ("bytes=0-499", 0),
            ("bytes=0-499,500-999,-200", 0),
            ("bytes=9500-", 0),
            ("bytes=0-,5-10,7-9", 2),
            ("bytes=10-5", 1),
            ("bytes=90000-99999,0-99,200-299,400-499", 0),
            ("bytes=-1,-2,-3,-4", 3),
            (&format!("bytes=0-{killer}"), 199),
            ("pages=1-5", 0),
            ("bytes", 0),
            ("bytes=,,-,x-y, 1-2", 0),
            ("bytes=0-99999999999999999999999", 0),
        ] {
            assert_eq!(overlaps(header), expected, "{header}");
        }
    }
}
