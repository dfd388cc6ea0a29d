//! How fast a connection gets on: bytes in stretches of [`STRETCH_NS`].
//!
//! A connection crawls when in the last whole stretch it got on by less than [`FLOOR_BYTES_PER_S`]. The floor
//! is what servers are told to demand of request bodies (Apache's mod_reqtimeout: `MinRate=500`): less than a
//! tenth of the slowest mobile network, and far more than tools that hold connections send, which is a few
//! bytes in ten seconds. A mean over the whole body would let a fast beginning pay for a crawling end.
//!
//! Stretches in which it crawled one after the other count, up to [`STRETCHES_MAX`]: a network that stalls for
//! some seconds is usual, and the longer a connection crawls the less it is that.

use std::collections::HashMap;

use calltap_correlate::socket::SocketCookie;

const STRETCH_NS: u64 = 5_000_000_000;
const FLOOR_BYTES_PER_S: u64 = 500;
const STRETCHES_MAX: u32 = 3;
/// More connections are not followed: as many as there can be in most configurations.
const FOLLOWED_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug)]
struct Track {
    /// The sweep that saw it last.
    sweep: u32,
    begin_ns: u64,
    bytes: u64,
    crawled: u32,
    /// What was seen within the stretch.
    seen: Seen,
}

/// What speaks for or against a client whose connection does not get on, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// Nothing says that it is the client who holds it up.
    Nothing,
    /// It is the client.
    Client,
    /// It is somebody else.
    Other,
}

/// Follows connections from sweep to sweep.
#[derive(Debug, Default)]
pub(super) struct Pace {
    tracks: HashMap<SocketCookie, Track>,
    sweep: u32,
}

impl Pace {
    /// A connection has got on to so many bytes. For how many stretches it has crawled, in which of all that
    /// was seen the strongest says that it is the client's doing.
    pub(super) fn crawled(
        &mut self,
        cookie: SocketCookie,
        bytes: u64,
        seen: Seen,
        now_ns: u64,
    ) -> u32 {
        if self.tracks.len() >= FOLLOWED_MAX && !self.tracks.contains_key(&cookie) {
            return 0;
        }
        let track = self.tracks.entry(cookie).or_insert(Track {
            sweep: self.sweep,
            begin_ns: now_ns,
            bytes,
            crawled: 0,
            seen,
        });
        track.sweep = self.sweep;
        track.seen = track.seen.max(seen);
        let passed_ns = now_ns.saturating_sub(track.begin_ns);
        if passed_ns >= STRETCH_NS {
            let got_on = bytes.saturating_sub(track.bytes);
            let least = FLOOR_BYTES_PER_S * passed_ns / 1_000_000_000;
            let crawls = got_on < least && track.seen == Seen::Client;
            track.crawled = match crawls {
                true => (track.crawled + 1).min(STRETCHES_MAX),
                false => 0,
            };
            track.begin_ns = now_ns;
            track.bytes = bytes;
            track.seen = seen;
        }
        track.crawled
    }

    /// The sweep is over: whoever it did not see is followed no more.
    pub(super) fn end(&mut self) {
        let sweep = self.sweep;
        self.tracks.retain(|_, track| track.sweep == sweep);
        self.sweep = sweep.wrapping_add(1);
    }
}
