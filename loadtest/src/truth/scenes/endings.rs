//! Calls that do not end well, and who ended them.

use std::time::Duration;

use crate::truth::caller::{Ask, How, When, some_size};
use crate::truth::stage::{Endpoints, Play, Setting};

/// Clients at a time.
const CLIENTS: usize = 8;
/// Larger than what buffers between an upstream and a client hold.
const LARGE: u64 = 8_000_000;

/// Clients that close, by halves and altogether, before, during and after the response.
pub(crate) fn client_fin(play: &Play<'_>) -> anyhow::Result<()> {
    play.caller.crowd(CLIENTS, play.calls, |nth| {
        let how = [How::Close, How::HalfClose][nth / 3 % 2];
        leave(play, nth, how)
    })
}

/// The same with resets.
pub(crate) fn client_reset(play: &Play<'_>) -> anyhow::Result<()> {
    play.caller
        .crowd(CLIENTS, play.calls, |nth| leave(play, nth, How::Reset))
}

/// A session whose last call is left in one of three moments.
fn leave(play: &Play<'_>, nth: usize, how: How) -> anyhow::Result<()> {
    let mut random = play.random(nth);
    let last = match nth % 3 {
        0 => {
            let wait = Duration::from_millis(5 + random.below(20));
            Ask::get("/bytes/1000?delay_ms=250").leaving(When::Before(wait), how)
        }
        1 => {
            let bytes = 10_000 + random.below(1_000_000);
            Ask::get(format!("/bytes/{LARGE}")).leaving(When::During(bytes), how)
        }
        _ => {
            let bytes = some_size(&mut random, 30_000);
            Ask::get(format!("/bytes/{bytes}")).leaving(When::After, how)
        }
    };
    match random.below(2) {
        0 => play.caller.ask_in_turn(&[last]),
        _ => play.caller.ask_in_turn(&[Ask::get("/bytes/500"), last]),
    }
}

/// Upstreams that close before the response, and in the middle of it.
pub(crate) fn upstream_fin(play: &Play<'_>) -> anyhow::Result<()> {
    broken(play, "hangup")
}

/// The same with resets.
pub(crate) fn upstream_reset(play: &Play<'_>) -> anyhow::Result<()> {
    broken(play, "reset")
}

/// Upstreams that say nothing, or no more.
pub(crate) fn upstream_silence(play: &Play<'_>) -> anyhow::Result<()> {
    broken(play, "silent")
}

/// For upstreams that fall silent: they are not waited for long.
pub(crate) fn impatient() -> Setting {
    Setting {
        keys: vec![("limits", "upstream_read_ms", "1_000".to_owned())],
        ..Setting::default()
    }
}

fn broken(play: &Play<'_>, behaviour: &str) -> anyhow::Result<()> {
    play.caller.crowd(4 * CLIENTS, play.calls, |nth| {
        let mut random = play.random(nth);
        let bytes = match random.below(2) {
            0 => 0,
            _ => 1 + some_size(&mut random, 100_000),
        };
        let ask = Ask::get(format!("/{behaviour}/{bytes}"));
        let ask = match random.below(3) {
            0 => Ask::post(some_size(&mut random, 5_000)).to(ask.target),
            _ => ask,
        };
        match random.below(2) {
            0 => play.caller.ask_in_turn(&[ask]),
            _ => play.caller.ask_in_turn(&[Ask::get("/bytes/500"), ask]),
        }
    })
}

/// The first of two endpoints refuses connections.
pub(crate) fn refusing() -> Setting {
    Setting {
        endpoints: Endpoints::RefusingAndOne,
        ..Setting::default()
    }
}

/// The first of two endpoints does not answer.
pub(crate) fn unanswering() -> Setting {
    Setting {
        endpoints: Endpoints::SilentAndOne,
        keys: vec![("limits", "connect_ms", "200".to_owned())],
        ..Setting::default()
    }
}

/// Calls that are tried on one endpoint and answered by the other.
pub(crate) fn retried(play: &Play<'_>) -> anyhow::Result<()> {
    play.caller.crowd(CLIENTS, play.calls.div_ceil(4), |nth| {
        let mut random = play.random(nth);
        let mut asks = Vec::new();
        for _ in 0..2 {
            let size = some_size(&mut random, 20_000);
            asks.push(Ask::get(format!("/bytes/{size}?close=1")));
            asks.push(Ask::post(some_size(&mut random, 20_000)));
        }
        play.caller.ask_in_turn(&asks)
    })
}

/// Kept-alive clients are not kept for long.
pub(crate) fn unkept() -> Setting {
    Setting {
        keys: vec![("limits", "idle_ms", "300".to_owned())],
        ..Setting::default()
    }
}

/// Clients that have nothing more to ask, until the gateway hangs up.
pub(crate) fn idle(play: &Play<'_>) -> anyhow::Result<()> {
    play.caller
        .crowd(4 * CLIENTS, play.calls.div_ceil(2), |nth| {
            let mut random = play.random(nth);
            let mut line = Some(play.caller.line()?);
            for _ in 0..2 {
                let ask = Ask::get(format!("/bytes/{}", some_size(&mut random, 9_000)));
                line = line.and_then(|line| play.caller.ask(line, &ask));
            }
            if let Some(mut line) = line {
                line.wire().wait_unread()?;
            }
            Ok(())
        })
}
