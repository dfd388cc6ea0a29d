//! HTTP/2 and gRPC, towards clients and upstreams alike.

use crate::truth::caller::some_size;
use crate::truth::evidence::Carried;
use crate::truth::stage::{Play, Setting};
use crate::truth::streams::{StreamAsk, ask_together};

/// Streams of a busy connection.
const MANY: usize = 50;
/// Calls on a connection that has one stream at a time.
const IN_TURN: usize = 10;

/// HTTP/2 without TLS.
pub(crate) fn h2c() -> Setting {
    Setting {
        front: Carried::H2c,
        back: Carried::H2c,
        ..Setting::default()
    }
}

/// HTTP/2 in TLS.
pub(crate) fn h2() -> Setting {
    Setting {
        front: Carried::H2Tls,
        back: Carried::H2Tls,
        ..Setting::default()
    }
}

/// HTTP/2 in TLS towards clients only.
pub(crate) fn h2_before_http1() -> Setting {
    Setting {
        back: Carried::Http1,
        ..h2()
    }
}

/// One stream at a time.
pub(crate) fn one_stream(play: &Play<'_>) -> anyhow::Result<()> {
    let connections = play.calls.div_ceil(IN_TURN);
    play.caller.crowd(4, connections, |nth| {
        ask_together(&play.caller, asks(play, nth, IN_TURN), 1)
    })
}

/// Fifty streams at a time.
pub(crate) fn many_streams(play: &Play<'_>) -> anyhow::Result<()> {
    let connections = play.calls.div_ceil(2 * MANY).max(2);
    play.caller.crowd(2, connections, |nth| {
        ask_together(&play.caller, asks(play, nth, 2 * MANY), MANY)
    })
}

fn asks(play: &Play<'_>, nth: usize, count: usize) -> Vec<StreamAsk> {
    let mut random = play.random(nth);
    let ask = |_| match random.below(3) {
        0 => StreamAsk::post(some_size(&mut random, 30_000)),
        _ => StreamAsk::get(some_size(&mut random, 60_000)),
    };
    (0..count).map(ask).collect()
}

/// One message for one message.
pub(crate) fn grpc_unary(play: &Play<'_>) -> anyhow::Result<()> {
    let connections = play.calls.div_ceil(IN_TURN);
    play.caller.crowd(4, connections, |nth| {
        let mut random = play.random(nth);
        let ask = |_| StreamAsk::grpc("Get", some_size(&mut random, 5_000));
        ask_together(&play.caller, (0..IN_TURN).map(ask).collect(), 1)
    })
}

/// Many messages for one, several streams at a time.
pub(crate) fn grpc_streaming(play: &Play<'_>) -> anyhow::Result<()> {
    let connections = play.calls.div_ceil(IN_TURN);
    play.caller.crowd(4, connections, |nth| {
        let mut random = play.random(nth);
        let ask = |_| {
            let (messages, every_ms) = (1 + random.below(20), random.below(20));
            let method = format!("Watch?messages={messages}&every_ms={every_ms}");
            StreamAsk::grpc(&method, some_size(&mut random, 1_000))
        };
        ask_together(&play.caller, (0..IN_TURN).map(ask).collect(), 5)
    })
}
