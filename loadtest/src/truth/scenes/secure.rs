//! HTTP/1.1 in TLS, towards clients and upstreams alike.

use rustls::SupportedProtocolVersion;

use crate::truth::caller::{Ask, some_size};
use crate::truth::evidence::Carried;
use crate::truth::stage::{Play, Setting};

static TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// TLS 1.2 on both legs.
pub(crate) fn tls12() -> Setting {
    Setting {
        tls: &TLS12,
        ..both()
    }
}

/// TLS 1.3 on both legs.
pub(crate) fn tls13() -> Setting {
    Setting {
        tls: &TLS13,
        ..both()
    }
}

fn both() -> Setting {
    Setting {
        front: Carried::Http1Tls,
        back: Carried::Http1Tls,
        ..Setting::default()
    }
}

/// Calls on connections that stay, on both legs, and on some that do not.
pub(crate) fn calls(play: &Play<'_>) -> anyhow::Result<()> {
    const IN_TURN: usize = 5;
    play.caller.crowd(8, play.calls.div_ceil(IN_TURN), |nth| {
        let mut random = play.random(nth);
        let asks: Vec<Ask> = (0..IN_TURN)
            .map(|_| {
                let size = some_size(&mut random, 60_000);
                match random.below(4) {
                    0 => Ask::post(size),
                    1 => Ask::get(format!("/bytes/{size}?close=1")),
                    2 => Ask::get(format!("/bytes/{size}?delay_ms=3")),
                    _ => Ask::get(format!("/bytes/{size}")),
                }
            })
            .collect();
        play.caller.ask_in_turn(&asks)
    })
}
