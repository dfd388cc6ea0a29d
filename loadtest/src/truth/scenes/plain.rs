//! HTTP/1.1 on a network without faults.

use crate::truth::caller::{Ask, some_size};
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
