//! All scenarios: what is played, in what, and how.

use crate::truth::evidence::Family;
use crate::truth::stage::{HEADS, Play, Setting};

mod endings;
mod giants;
mod impaired;
mod multiplexed;
mod plain;
mod real;
mod secure;

/// One scenario.
pub struct Scenario {
    /// Its name, the same everywhere.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// With which addresses it is played.
    pub families: &'static [Family],
    /// About how long one run takes beside its fixed cost, in seconds.
    pub seconds: u32,
    /// Whether it is cheap and telling enough for the everyday tests.
    pub in_tests: bool,
    /// In what it is played.
    pub setting: fn() -> Setting,
    /// What the clients do.
    pub play: fn(&Play<'_>) -> anyhow::Result<()>,
}

/// Every family.
const ALL: &[Family] = &[Family::V4, Family::V6, Family::Mapped];

/// All of them, the simplest first.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "keep-alive",
        about: "calls one after the other on connections that stay",
        families: ALL,
        seconds: 2,
        in_tests: true,
        setting: Setting::default,
        play: plain::keep_alive,
    },
    Scenario {
        name: "pipelining",
        about: "five requests in one write",
        families: ALL,
        seconds: 2,
        in_tests: true,
        setting: Setting::default,
        play: plain::pipelining,
    },
    Scenario {
        name: "sizes",
        about: "1 B to 50 MB, down and up",
        families: ALL,
        seconds: 20,
        in_tests: false,
        setting: heads,
        play: plain::sizes,
    },
    Scenario {
        name: "chunked",
        about: "chunked bodies both ways, with and without trailers",
        families: ALL,
        seconds: 3,
        in_tests: true,
        setting: Setting::default,
        play: plain::chunked,
    },
    Scenario {
        name: "100-continue",
        about: "uploads that wait to be asked for",
        families: ALL,
        seconds: 2,
        in_tests: true,
        setting: Setting::default,
        play: plain::expect_continue,
    },
    Scenario {
        name: "events",
        about: "server-sent events, some for 30 s",
        families: ALL,
        seconds: 32,
        in_tests: false,
        setting: Setting::default,
        play: plain::events,
    },
    Scenario {
        name: "websocket",
        about: "WebSockets that send back what they are sent",
        families: ALL,
        seconds: 3,
        in_tests: true,
        setting: Setting::default,
        play: plain::websocket,
    },
    Scenario {
        name: "slow-reader",
        about: "clients that read in sips until their window closes",
        families: ALL,
        seconds: 10,
        in_tests: false,
        setting: heads,
        play: plain::slow_reader,
    },
    Scenario {
        name: "few-upstreams",
        about: "many clients over few upstream connections",
        families: ALL,
        seconds: 2,
        in_tests: true,
        setting: Setting::default,
        play: plain::few_upstreams,
    },
    Scenario {
        name: "two-upstreams",
        about: "upstreams that take turns",
        families: ALL,
        seconds: 2,
        in_tests: false,
        setting: Setting::two_upstreams,
        play: plain::keep_alive,
    },
    Scenario {
        name: "curl",
        about: "curl over HTTP/1.1",
        families: ALL,
        seconds: 2,
        in_tests: false,
        setting: Setting::default,
        play: real::curl,
    },
    Scenario {
        name: "curl-h2",
        about: "curl over HTTP/2 in TLS",
        families: ALL,
        seconds: 2,
        in_tests: false,
        setting: real::h2,
        play: real::curl,
    },
    Scenario {
        name: "loss-0.5",
        about: "0.5 % loss each way on each leg",
        families: ALL,
        seconds: 20,
        in_tests: false,
        setting: Setting::default,
        play: impaired::loss_half_percent,
    },
    Scenario {
        name: "loss-2",
        about: "2 % loss each way on each leg",
        families: ALL,
        seconds: 40,
        in_tests: false,
        setting: Setting::default,
        play: impaired::loss_2_percent,
    },
    Scenario {
        name: "loss-10",
        about: "10 % loss each way on each leg",
        families: ALL,
        seconds: 60,
        in_tests: false,
        setting: Setting::default,
        play: impaired::loss_10_percent,
    },
    Scenario {
        name: "lost-third-acks",
        about: "every other handshake loses its third packet, on both legs",
        families: ALL,
        seconds: 5,
        in_tests: true,
        setting: Setting::default,
        play: impaired::lost_third_acks,
    },
    Scenario {
        name: "lost-tails",
        about: "last segments are lost, on both legs",
        families: ALL,
        seconds: 30,
        in_tests: false,
        setting: Setting::default,
        play: impaired::lost_tails,
    },
    Scenario {
        name: "bottleneck-front",
        about: "1 Mbit/s towards the client",
        families: ALL,
        seconds: 20,
        in_tests: false,
        setting: Setting::default,
        play: impaired::bottleneck_front,
    },
    Scenario {
        name: "bottleneck-back",
        about: "1 Mbit/s towards the upstream",
        families: ALL,
        seconds: 20,
        in_tests: false,
        setting: Setting::default,
        play: impaired::bottleneck_back,
    },
    Scenario {
        name: "round-trip",
        about: "50 ms there and back on each leg",
        families: ALL,
        seconds: 10,
        in_tests: false,
        setting: Setting::default,
        play: impaired::round_trip,
    },
    Scenario {
        name: "twice-and-late",
        about: "packets come twice, late, and in another order",
        families: ALL,
        seconds: 10,
        in_tests: false,
        setting: Setting::default,
        play: impaired::twice_and_late,
    },
    Scenario {
        name: "forged",
        about: "segments, resets and acknowledgements that nobody of the connection sent",
        families: ALL,
        seconds: 5,
        in_tests: false,
        setting: Setting::default,
        play: impaired::forged,
    },
    Scenario {
        name: "client-fin",
        about: "clients close before, during and after the response",
        families: ALL,
        seconds: 5,
        in_tests: false,
        setting: heads,
        play: endings::client_fin,
    },
    Scenario {
        name: "client-reset",
        about: "clients reset before, during and after the response",
        families: ALL,
        seconds: 5,
        in_tests: false,
        setting: heads,
        play: endings::client_reset,
    },
    Scenario {
        name: "upstream-fin",
        about: "upstreams close before and during the response",
        families: ALL,
        seconds: 3,
        in_tests: true,
        setting: Setting::default,
        play: endings::upstream_fin,
    },
    Scenario {
        name: "upstream-reset",
        about: "upstreams reset before and during the response",
        families: ALL,
        seconds: 3,
        in_tests: false,
        setting: Setting::default,
        play: endings::upstream_reset,
    },
    Scenario {
        name: "upstream-silence",
        about: "upstreams fall silent before and during the response",
        families: ALL,
        seconds: 5,
        in_tests: false,
        setting: endings::impatient,
        play: endings::upstream_silence,
    },
    Scenario {
        name: "refused",
        about: "an endpoint refuses and another answers",
        families: ALL,
        seconds: 3,
        in_tests: true,
        setting: endings::refusing,
        play: endings::retried,
    },
    Scenario {
        name: "unanswered",
        about: "an endpoint's host does not answer and another does",
        families: ALL,
        seconds: 6,
        in_tests: false,
        setting: endings::unanswering,
        play: endings::retried,
    },
    Scenario {
        name: "idle",
        about: "the gateway hangs up on idle clients",
        families: ALL,
        seconds: 4,
        in_tests: false,
        setting: endings::unkept,
        play: endings::idle,
    },
    Scenario {
        name: "tls-1.2",
        about: "TLS 1.2 on both legs",
        families: ALL,
        seconds: 4,
        in_tests: false,
        setting: secure::tls12,
        play: secure::calls,
    },
    Scenario {
        name: "tls-1.3",
        about: "TLS 1.3 on both legs",
        families: ALL,
        seconds: 4,
        in_tests: false,
        setting: secure::tls13,
        play: secure::calls,
    },
    Scenario {
        name: "h2c-1",
        about: "HTTP/2 by prior knowledge on both legs, one stream at a time",
        families: ALL,
        seconds: 2,
        in_tests: false,
        setting: multiplexed::h2c,
        play: multiplexed::one_stream,
    },
    Scenario {
        name: "h2c-50",
        about: "the same, fifty streams at a time",
        families: ALL,
        seconds: 2,
        in_tests: false,
        setting: multiplexed::h2c,
        play: multiplexed::many_streams,
    },
    Scenario {
        name: "h2-1",
        about: "HTTP/2 in TLS on both legs, one stream at a time",
        families: ALL,
        seconds: 3,
        in_tests: false,
        setting: multiplexed::h2,
        play: multiplexed::one_stream,
    },
    Scenario {
        name: "h2-50",
        about: "the same, fifty streams at a time",
        families: ALL,
        seconds: 3,
        in_tests: false,
        setting: multiplexed::h2,
        play: multiplexed::many_streams,
    },
    Scenario {
        name: "h2-to-http1",
        about: "HTTP/2 in TLS before an upstream that speaks HTTP/1.1",
        families: ALL,
        seconds: 3,
        in_tests: false,
        setting: multiplexed::h2_before_http1,
        play: multiplexed::many_streams,
    },
    Scenario {
        name: "grpc-unary",
        about: "gRPC, a message for a message",
        families: ALL,
        seconds: 2,
        in_tests: false,
        setting: multiplexed::h2c,
        play: multiplexed::grpc_unary,
    },
    Scenario {
        name: "grpc-streaming",
        about: "gRPC, many messages for one",
        families: ALL,
        seconds: 4,
        in_tests: false,
        setting: multiplexed::h2,
        play: multiplexed::grpc_streaming,
    },
    Scenario {
        name: "segment-sizes",
        about: "largest segments from 536 to 8960 bytes",
        families: ALL,
        seconds: 4,
        in_tests: false,
        setting: giants::jumbo,
        play: giants::segment_sizes,
    },
    Scenario {
        name: "across-zero",
        about: "sequence numbers that cross zero, of all four ends",
        families: ALL,
        seconds: 25,
        in_tests: false,
        setting: giants::foretold,
        play: giants::across_zero,
    },
    Scenario {
        name: "100000-calls",
        about: "one connection carrying 100,000 calls",
        families: ALL,
        seconds: 120,
        in_tests: false,
        setting: giants::single_worker,
        play: giants::many_calls,
    },
    Scenario {
        name: "beyond-4-gib",
        about: "more than 4 GiB down one connection and up another",
        families: ALL,
        seconds: 120,
        in_tests: false,
        setting: giants::jumbo_heads,
        play: giants::beyond_4_gib,
    },
    Scenario {
        name: "5000-at-once",
        about: "5,000 connections at once",
        families: ALL,
        seconds: 30,
        in_tests: false,
        setting: giants::roomy,
        play: giants::at_once,
    },
];

/// For transfers so large that only their heads are kept.
fn heads() -> Setting {
    Setting {
        snap: HEADS,
        ..Setting::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_have_one_name() {
        let names: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
    }
}
