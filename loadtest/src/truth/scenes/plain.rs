//! HTTP/1.1 on a network without faults.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::certificate::NAME;
use crate::plan::{Random, RequestBody};
use crate::truth::caller::{Ask, Line, named, some_size};
use crate::truth::evidence::Asked;
use crate::truth::stage::Play;

/// Calls on a connection that stays.
const IN_TURN: usize = 10;
/// Clients at a time.
const CLIENTS: usize = 8;

/// Calls one after the other on connections that stay.
pub(crate) fn keep_alive(play: &Play<'_>) -> anyhow::Result<()> {
    let sessions = play.calls.div_ceil(IN_TURN);
    play.caller.crowd(CLIENTS, sessions, |nth| {
        let mut random = play.random(nth);
        let asks: Vec<Ask> = (0..IN_TURN)
            .map(|_| match random.below(4) {
                0 => Ask::post(some_size(&mut random, 4_000)),
                1 => Ask::get("/status/404"),
                2 => Ask::get(format!("/bytes/{}?delay_ms=3", random.below(2_000))),
                _ => Ask::get(format!("/bytes/{}", some_size(&mut random, 60_000))),
            })
            .collect();
        play.caller.ask_in_turn(&asks)
    })
}

/// All requests of a connection in one write.
pub(crate) fn pipelining(play: &Play<'_>) -> anyhow::Result<()> {
    const TOGETHER: usize = 5;
    let sessions = play.calls.div_ceil(TOGETHER);
    play.caller.crowd(CLIENTS, sessions, |nth| {
        let mut random = play.random(nth);
        let asks: Vec<Ask> = (0..TOGETHER)
            .map(|_| Ask::get(format!("/bytes/{}", some_size(&mut random, 8_000))))
            .collect();
        play.caller.ask_at_once(play.caller.line()?, &asks)
    })
}

/// Responses and uploads of sizes around what segments and buffers hold, a few very large.
pub(crate) fn sizes(play: &Play<'_>) -> anyhow::Result<()> {
    const SIZES: [u64; 16] = [
        1, 2, 100, 1_000, 1_300, 1_447, 1_448, 1_449, 2_896, 4_096, 16_384, 65_535, 65_536,
        100_000, 300_000, 1_000_000,
    ];
    const HUGE: [u64; 3] = [5_000_000, 20_000_000, 50_000_000];
    let sessions = play.calls.div_ceil(SIZES.len());
    play.caller.crowd(4, sessions, |nth| {
        let asks: Vec<Ask> = SIZES
            .iter()
            .enumerate()
            .map(|(at, size)| match (at + nth) % 2 {
                0 => Ask::get(format!("/bytes/{size}")),
                _ => Ask::post(*size),
            })
            .collect();
        play.caller.ask_in_turn(&asks)
    })?;
    for size in HUGE {
        let both = [Ask::get(format!("/bytes/{size}")), Ask::post(size)];
        play.caller.ask_in_turn(&both)?;
    }
    Ok(())
}

/// Chunked responses and uploads, with and without trailers.
pub(crate) fn chunked(play: &Play<'_>) -> anyhow::Result<()> {
    let sessions = play.calls.div_ceil(IN_TURN);
    play.caller.crowd(CLIENTS, sessions, |nth| {
        let mut random = play.random(nth);
        let asks: Vec<Ask> = (0..IN_TURN)
            .map(|_| {
                let size = some_size(&mut random, 100_000);
                match random.below(4) {
                    0 => Ask::get(format!("/bytes/{size}?chunked=1")),
                    1 => Ask::get(format!("/bytes/{size}?trailers=1")),
                    kind => Ask {
                        body: RequestBody::Chunked(size, kind == 2),
                        ..Ask::post(size)
                    },
                }
            })
            .collect();
        play.caller.ask_in_turn(&asks)
    })
}

/// Uploads that wait for `100 Continue`.
pub(crate) fn expect_continue(play: &Play<'_>) -> anyhow::Result<()> {
    let sessions = play.calls.div_ceil(IN_TURN);
    play.caller.crowd(CLIENTS, sessions, |nth| {
        let mut random = play.random(nth);
        let asks: Vec<Ask> = (0..IN_TURN)
            .map(|_| Ask {
                expect: true,
                ..Ask::post(some_size(&mut random, 50_000))
            })
            .collect();
        play.caller.ask_in_turn(&asks)
    })
}

/// Server-sent events, some for half a minute.
pub(crate) fn events(play: &Play<'_>) -> anyhow::Result<()> {
    const LONG: usize = 20;
    // All at once: they mostly wait.
    play.caller.crowd(play.calls, play.calls, |nth| {
        let (events, every_ms) = if nth < LONG {
            (60, 500)
        } else {
            (2 + nth % 20, 100)
        };
        let target = format!("/events/{events}?every_ms={every_ms}");
        play.caller.ask_in_turn(&[Ask::get(target)])
    })
}

/// WebSockets that send what they are sent.
pub(crate) fn websocket(play: &Play<'_>) -> anyhow::Result<()> {
    play.caller.crowd(CLIENTS, play.calls, |nth| {
        let mut random = play.random(nth);
        let mut line = play.caller.line()?;
        let mut asked = play.caller.begin(&line);
        let result = converse(&mut line, &mut asked, &mut random);
        asked.complete = result.is_ok();
        play.caller.note(asked);
        result
    })
}

/// Upgrades, sends some masked frames and reads each back, and says goodbye.
fn converse(line: &mut Line, asked: &mut Asked, random: &mut Random) -> anyhow::Result<()> {
    let wire = line.wire();
    let target = named("/socket", &asked.id);
    wire.write(
        format!(
            "GET {target} HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let head = wire.read_response()?.context("no answer to an upgrade")?;
    asked.status = Some(head.status);
    ensure!(
        head.status == 101,
        "an upgrade was answered {}",
        head.status
    );
    for _ in 0..1 + random.below(6) {
        // Final, text, masked with zeros; short enough for the shortest form.
        let length = random.below(126) as u8;
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.resize(frame.len() + usize::from(length), b'w');
        wire.write(&frame)?;
        let mut back = Vec::new();
        while back.len() < frame.len() {
            ensure!(wire.wait_unread()?, "a WebSocket ended early");
            back.extend(wire.take_unread());
        }
        thread::sleep(Duration::from_millis(random.below(8)));
    }
    // Goodbye, and not gone before it was said back.
    wire.write(&[0x88, 0x80, 0, 0, 0, 0])?;
    ensure!(wire.wait_unread()?, "a WebSocket ended without a goodbye");
    wire.stream().tcp().shutdown(Shutdown::Write)?;
    while wire.wait_unread()? {
        wire.take_unread();
    }
    Ok(())
}

/// Clients with small buffers that read in sips, so that their windows close.
pub(crate) fn slow_reader(play: &Play<'_>) -> anyhow::Result<()> {
    play.caller.crowd(4 * CLIENTS, play.calls, |nth| {
        let mut random = play.random(nth);
        let line = play.caller.line_with(16 * 1_024)?;
        let bytes = 100_000 + random.below(300_000);
        // Longer than the client's kernel delays the acknowledgement that says so.
        let pause = Duration::from_millis(60 + random.below(200));
        let ask = Ask {
            sips: Some((60_000, pause)),
            ..Ask::get(format!("/bytes/{bytes}"))
        };
        if let Some(line) = play.caller.ask(line, &ask) {
            line.hang_up();
        }
        Ok(())
    })
}

/// Many open clients that take turns, so that few upstream connections serve them all.
pub(crate) fn few_upstreams(play: &Play<'_>) -> anyhow::Result<()> {
    const OPEN: usize = 25;
    const ROUNDS: usize = 4;
    let sessions = play.calls.div_ceil(OPEN * ROUNDS).max(2);
    play.caller.crowd(2, sessions, |nth| {
        let mut random = play.random(nth);
        let mut lines = Vec::new();
        for _ in 0..OPEN {
            lines.push(Some(play.caller.line()?));
        }
        for _ in 0..ROUNDS {
            for line in &mut lines {
                if let Some(open) = line.take() {
                    let ask = match random.below(3) {
                        0 => Ask::post(some_size(&mut random, 10_000)),
                        _ => Ask::get(format!("/bytes/{}", some_size(&mut random, 20_000))),
                    };
                    *line = play.caller.ask(open, &ask);
                }
            }
        }
        lines.into_iter().flatten().for_each(Line::hang_up);
        Ok(())
    })
}
