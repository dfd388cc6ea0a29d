//! Connections that carry very much, and very many of them.

use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::truth::caller::{Ask, Line, some_size};
use crate::truth::ground::{BACK, CLIENT, FRONT, Ground, UPSTREAMS};
use crate::truth::sequence::{End, Moment, Watch};
use crate::truth::stage::{HEADS, Play, Setting};

/// Segments of 8,960 bytes fit behind the headers of IPv6, too.
const JUMBO: u16 = 9_020;

/// Cables that carry more at a time.
pub(crate) fn jumbo() -> Setting {
    Setting {
        mtu: JUMBO,
        ..Setting::default()
    }
}

/// The same, of whose packets little is kept.
pub(crate) fn jumbo_heads() -> Setting {
    Setting {
        snap: HEADS,
        ..jumbo()
    }
}

/// Segments from the smallest that everybody must take to the largest that the cables do.
pub(crate) fn segment_sizes(play: &Play<'_>) -> anyhow::Result<()> {
    const SIZES: [u16; 5] = [536, 1_220, 1_460, 4_096, 8_960];
    const IN_TURN: usize = 4;
    let sessions = play.calls.div_ceil(SIZES.len() * IN_TURN);
    for size in SIZES {
        play.ground.offer_mss(size)?;
        play.caller.crowd(4, sessions, |nth| {
            let mut random = play.random(nth);
            let bytes = 1 + random.below(60_000);
            let asks = [
                Ask::get(format!("/bytes/{bytes}")),
                Ask::post(some_size(&mut random, 60_000)),
                Ask::get(format!("/bytes/{}", some_size(&mut random, 60_000))),
                // So that the next size finds no connection of this one.
                Ask::post(bytes).to("/echo?close=1"),
            ];
            play.caller.ask_in_turn(&asks)
        })?;
    }
    Ok(())
}

/// One connection on either leg.
pub(crate) fn single_worker() -> Setting {
    Setting {
        workers: Some(1),
        ..Setting::default()
    }
}

/// A hundred thousand calls on one connection.
pub(crate) fn many_calls(play: &Play<'_>) -> anyhow::Result<()> {
    const CALLS: usize = 100_000;
    let mut random = play.random(0);
    let mut line = Some(play.caller.line()?);
    for nth in 0..CALLS {
        let ask = match nth % 4 {
            0 => Ask::post(random.below(100)),
            _ => Ask::get(format!("/bytes/{}", random.below(200))),
        };
        let Some(open) = line.take() else {
            anyhow::bail!("the connection ended after {nth} calls");
        };
        line = play.caller.ask(open, &ask);
    }
    if let Some(line) = line {
        line.hang_up();
    }
    Ok(())
}

/// More than 4 GiB down one connection and up another, with small calls in between.
pub(crate) fn beyond_4_gib(play: &Play<'_>) -> anyhow::Result<()> {
    const PIECE: u64 = 900_000_000;
    const PIECES: usize = 5;
    let small = play.calls.div_ceil(2 * PIECES);
    let session = |large: Ask| {
        let mut asks = Vec::new();
        for _ in 0..PIECES {
            asks.push(large.clone());
            for nth in 0..small {
                asks.push(match nth % 3 {
                    0 => Ask::post(1 + nth as u64),
                    _ => Ask::get(format!("/bytes/{nth}")),
                });
            }
        }
        asks
    };
    play.caller
        .ask_in_turn(&session(Ask::get(format!("/bytes/{PIECE}"))))?;
    play.caller.ask_in_turn(&session(Ask::post(PIECE)))
}

/// Room for all the connections of [`at_once`].
pub(crate) fn roomy() -> Setting {
    Setting {
        keys: vec![("tap", "sockets_max", "16_384".to_owned())],
        ..Setting::default()
    }
}

/// Five thousand connections, all open, each with a call under way.
pub(crate) fn at_once(play: &Play<'_>) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 5_000;
    const THREADS: usize = 4;
    play.caller.crowd(THREADS, THREADS, |_| {
        let mut lines = Vec::new();
        for _ in 0..CONNECTIONS / THREADS {
            lines.push(play.caller.line()?);
        }
        for ask in [
            Ask::get("/bytes/300?delay_ms=1000"),
            Ask::get("/bytes/2000"),
        ] {
            lines = play.caller.ask_everywhere(lines, &ask);
        }
        lines.into_iter().for_each(Line::hang_up);
        Ok(())
    })
}

/// How far before zero a connection is to begin: late by this much in time (some milliseconds) it
/// would begin behind it.
const LEAD_BYTES: u32 = 120_000;
/// Larger than a fifth of that, so that five of either kind cross it.
const CROSSING_BYTES: u64 = 40_000;
/// Between the beginnings of two such connections.
const APART: Duration = Duration::from_millis(150);

/// One worker, one upstream connection; and the connections that only foretell leave no record.
pub(crate) fn foretold() -> Setting {
    Setting {
        keys: vec![("records", "connections", "\"none\"".to_owned())],
        ..single_worker()
    }
}

/// Sequence numbers cross zero: the client's, the upstream's, and the gateway's towards either.
pub(crate) fn across_zero(play: &Play<'_>) -> anyhow::Result<()> {
    // The more, the sooner comes the moment of one of them.
    const PORTS: u16 = 1_000;
    const IN_TURN: usize = 10;
    let asks: Vec<Ask> = (1..=IN_TURN)
        .map(|nth| match nth % 2 {
            1 => Ask::post(CROSSING_BYTES),
            // The last one ends the connection to the upstream.
            _ if nth == IN_TURN => Ask::get(format!("/bytes/{CROSSING_BYTES}?close=1")),
            _ => Ask::get(format!("/bytes/{CROSSING_BYTES}")),
        })
        .collect();
    let Ground {
        client,
        middle,
        gateway,
        ..
    } = play.ground;
    let connections = play.calls.div_ceil(2 * IN_TURN);

    let front = Watch::open(middle, CLIENT, FRONT, play.family)?;
    let ports = 20_000..20_000 + PORTS;
    let moments = front.foretell(client, play.caller.server(), ports, LEAD_BYTES)?;
    crossing(&front, &moments, connections, |port, when| {
        thread::sleep(when.left()?);
        let line = play.caller.line_from(port)?;
        play.caller.ask_on(Some(line), &asks)
    })?;

    let back = Watch::open(middle, BACK, UPSTREAMS[0], play.family)?;
    let ports = 22_000..22_000 + PORTS;
    let moments = back.foretell(gateway, play.upstream, ports, LEAD_BYTES)?;
    crossing(&back, &moments, connections, |port, when| {
        // The one port that the gateway's kernel may choose.
        gateway.sysctl("ipv4.ip_local_port_range", &format!("{port} {port}"))?;
        let line = play.caller.line()?;
        thread::sleep(when.left()?);
        play.caller.ask_on(Some(line), &asks)
    })
}

/// Has `connect` make connections at `count` of the moments, and sees that most began where they were
/// meant to, on either end.
fn crossing(
    watch: &Watch,
    moments: &[Moment],
    count: usize,
    connect: impl Fn(u16, &Moment) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for end in [End::Connecting, End::Listening] {
        let mut near_zero = 0;
        let mut made = 0;
        for moment in moments {
            if made == count.div_ceil(2) {
                break;
            }
            if moment.end != end || moment.left()? < APART {
                continue;
            }
            watch.forget()?;
            connect(moment.port, moment)?;
            made += 1;
            let first = watch.first(moment.port, end)?;
            near_zero += usize::from(first.is_some_and(|first| first > u32::MAX - 2 * LEAD_BYTES));
        }
        ensure!(
            2 * near_zero > made,
            "only {near_zero} of {made} connections began near zero on the {end:?} end"
        );
    }
    Ok(())
}
