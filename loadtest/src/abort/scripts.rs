//! The endings: what each party does, and what a record is to say of it.

use super::{Stage, pause};

/// One way for a call to end.
#[derive(Clone, Copy)]
pub struct Ending {
    /// Its name on the command line.
    pub name: &'static str,
    /// In words.
    pub what: &'static str,
    /// Plays it.
    pub(super) script: fn(&mut Stage<'_>) -> anyhow::Result<()>,
    /// `response.flags` and `error.type`; none where all went well.
    pub flag: Option<&'static str>,
    /// `http.response.status_code`
    pub status: Option<u64>,
    /// `upstream.http.response.status_code`
    pub upstream_status: Option<u64>,
    /// `client.tcp.close`, where the record must know how the connection ended.
    pub client_close: Option<&'static str>,
    /// The same for the upstream.
    pub upstream_close: Option<&'static str>,
    /// The body that the upstream promises, bytes; none where it answers in chunks.
    pub length: Option<usize>,
    /// Bytes of body that the upstream sent on the same connection for an earlier call.
    pub before: Option<usize>,
    /// More of the answer may have come than the gateway has read.
    pub unread: bool,
    /// The client closes its window.
    pub closes_window: bool,
}

/// More than the gateway, its sockets and the client's can hold.
const HUGE: usize = 60_000_000;
/// Enough for several segments, little enough for one socket buffer.
const SOME: usize = 100_000;
/// What an earlier call is answered.
const BEFORE: usize = 1_000;
/// A small receive buffer; the kernel doubles it.
const SMALL_BUFFER: usize = 16 * 1024;

/// An upstream that answers [`SOME`], and all is well.
const WELL: Ending = Ending {
    name: "",
    what: "",
    script: |_| Ok(()),
    flag: None,
    status: Some(200),
    upstream_status: Some(200),
    client_close: None,
    upstream_close: None,
    length: Some(SOME),
    before: None,
    unread: false,
    closes_window: false,
};

/// The client leaves half way, and the gateway sends the upstream home.
const ABORTED: Ending = Ending {
    flag: Some("client_abort"),
    upstream_close: Some("fin_local"),
    ..WELL
};

/// The gateway has told the client of a failure, and closes.
const FAILED: Ending = Ending {
    client_close: Some("fin_local"),
    ..WELL
};

/// All of them.
pub const ENDINGS: &[Ending] = &[
    Ending {
        name: "client-fin-waiting",
        what: "the client says goodbye while the upstream thinks",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.close_client()
        },
        status: None,
        upstream_status: None,
        client_close: Some("fin_peer"),
        ..ABORTED
    },
    Ending {
        name: "client-rst-waiting",
        what: "the client resets while the upstream thinks",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.reset_client()
        },
        status: None,
        upstream_status: None,
        client_close: Some("rst_in"),
        ..ABORTED
    },
    Ending {
        name: "client-fin-body",
        what: "the client says goodbye with half the body, all it was sent",
        script: |s| {
            half(s, "/x")?;
            s.close_client()
        },
        client_close: Some("fin_peer"),
        ..ABORTED
    },
    Ending {
        name: "client-rst-body",
        what: "the client resets with half the body, all it was sent",
        script: |s| {
            half(s, "/x")?;
            s.reset_client()
        },
        client_close: Some("rst_in"),
        ..ABORTED
    },
    Ending {
        name: "client-rst-second",
        what: "the client resets half way the second call on its connection",
        script: |s| {
            before(s)?;
            s.ask_again("/x")?;
            s.asked()?;
            s.answer(SOME, SOME / 2)?;
            s.read(SOME / 2)?;
            s.reset_client()
        },
        client_close: Some("rst_in"),
        before: Some(BEFORE),
        ..ABORTED
    },
    Ending {
        name: "client-rst-chunks",
        what: "the client resets a stream of chunks, of which it had all so far",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.answer_chunks(&[5, 300, 17, 4000])?;
            s.read(20)?;
            pause(100);
            s.reset_client()
        },
        client_close: Some("rst_in"),
        length: None,
        ..ABORTED
    },
    Ending {
        name: "client-rst-buffered",
        what: "the client resets what lies in the gateway's socket, written whole",
        script: |s| {
            s.ask("/x", Some(SMALL_BUFFER))?;
            s.asked()?;
            s.answer(SOME, SOME)?;
            s.read(1000)?;
            pause(300);
            s.reset_client()
        },
        client_close: Some("rst_in"),
        // Its connection went back to the pool.
        upstream_close: None,
        closes_window: true,
        ..ABORTED
    },
    Ending {
        name: "client-rst-blocked",
        what: "the client resets a response that is larger than all buffers",
        script: |s| {
            s.ask("/x", Some(SMALL_BUFFER))?;
            s.asked()?;
            s.answer(HUGE, 0)?;
            s.flood(HUGE)?;
            s.read(1000)?;
            s.reset_client()
        },
        client_close: Some("rst_in"),
        upstream_close: Some("rst_out"),
        length: Some(HUGE),
        unread: true,
        closes_window: true,
        ..ABORTED
    },
    Ending {
        name: "client-stops-reading",
        what: "the client closes its window for ever, the response is larger than all buffers",
        script: |s| {
            s.ask("/x", Some(SMALL_BUFFER))?;
            s.asked()?;
            s.answer(HUGE, 0)?;
            s.flood(HUGE)?;
            s.read(1000).map(|_| ())
        },
        flag: Some("client_timeout"),
        upstream_close: Some("rst_out"),
        length: Some(HUGE),
        unread: true,
        closes_window: true,
        ..WELL
    },
    Ending {
        name: "client-stops-reading-buffered",
        what: "the client closes its window for ever, the gateway has written all",
        script: |s| {
            s.ask("/x", Some(SMALL_BUFFER))?;
            s.asked()?;
            s.answer(SOME, SOME)?;
            s.read(1000).map(|_| ())
        },
        flag: Some("client_timeout"),
        closes_window: true,
        ..WELL
    },
    Ending {
        name: "client-speaks-after-close",
        what: "the gateway has written all and closed, and the client says one byte more",
        script: |s| {
            s.connect(Some(SMALL_BUFFER))?;
            s.ask_with("/x", "Connection: close\r\n")?;
            s.asked()?;
            s.answer(SOME, SOME)?;
            s.read(1000)?;
            pause(300);
            s.client_says(b"?")
        },
        flag: Some("gateway_reset"),
        client_close: Some("rst_out"),
        closes_window: true,
        ..WELL
    },
    Ending {
        name: "client-vanishes-waiting",
        what: "the client's host vanishes before a small response",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.client_vanishes()?;
            s.answer(100, 100)
        },
        flag: Some("client_timeout"),
        length: Some(100),
        ..WELL
    },
    Ending {
        name: "client-vanishes-body",
        what: "the client's host vanishes half way",
        script: |s| {
            half(s, "/x")?;
            s.client_vanishes()?;
            s.flood(SOME / 2)
        },
        flag: Some("client_timeout"),
        ..WELL
    },
    Ending {
        name: "client-vanishes-blocked",
        what: "the client's host vanishes from a response larger than all buffers",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.answer(HUGE, 1000)?;
            s.read(1000)?;
            s.client_vanishes()?;
            s.flood(HUGE - 1000)
        },
        flag: Some("client_timeout"),
        upstream_close: Some("rst_out"),
        length: Some(HUGE),
        unread: true,
        ..WELL
    },
    Ending {
        name: "upstream-fin-waiting",
        what: "the upstream closes instead of answering",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.close_upstream()?;
            s.drain()
        },
        flag: Some("upstream_closed"),
        status: Some(502),
        upstream_status: None,
        upstream_close: Some("fin_peer"),
        ..FAILED
    },
    Ending {
        name: "upstream-rst-waiting",
        what: "the upstream resets instead of answering",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.reset_upstream()?;
            s.drain()
        },
        flag: Some("upstream_reset"),
        status: Some(502),
        upstream_status: None,
        upstream_close: Some("rst_in"),
        ..FAILED
    },
    Ending {
        name: "upstream-silent-waiting",
        what: "the upstream says nothing",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.drain()
        },
        flag: Some("upstream_timeout"),
        status: Some(504),
        upstream_status: None,
        upstream_close: Some("fin_local"),
        ..FAILED
    },
    Ending {
        name: "upstream-vanishes",
        what: "the upstream's host vanishes before it has the request",
        script: |s| {
            before(s)?;
            s.upstream_vanishes()?;
            s.ask_again("/x")?;
            s.drain()
        },
        flag: Some("upstream_timeout"),
        status: Some(504),
        upstream_status: None,
        before: Some(BEFORE),
        ..FAILED
    },
    Ending {
        name: "upstream-fin-body",
        what: "the upstream closes half way",
        script: |s| {
            half(s, "/x")?;
            s.close_upstream()?;
            s.drain()
        },
        flag: Some("upstream_closed"),
        upstream_close: Some("fin_peer"),
        ..FAILED
    },
    Ending {
        name: "upstream-rst-body",
        what: "the upstream resets half way",
        script: |s| {
            half(s, "/x")?;
            s.reset_upstream()?;
            s.drain()
        },
        flag: Some("upstream_reset"),
        upstream_close: Some("rst_in"),
        ..FAILED
    },
    Ending {
        name: "upstream-nonsense-body",
        what: "the upstream sends a chunk, and then something that is none",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.answer_chunks(&[300])?;
            s.read(20)?;
            s.upstream_says(b"no chunk\r\n")?;
            s.drain()
        },
        flag: Some("upstream_protocol_error"),
        upstream_close: Some("fin_local"),
        length: None,
        ..FAILED
    },
    Ending {
        name: "upstream-silent-body",
        what: "the upstream falls silent half way",
        script: |s| {
            half(s, "/x")?;
            s.drain()
        },
        flag: Some("upstream_timeout"),
        upstream_close: Some("fin_local"),
        ..FAILED
    },
    Ending {
        name: "total-timeout-waiting",
        what: "the call's time is up before the upstream answers",
        script: |s| {
            s.ask("/limited", None)?;
            s.asked()?;
            s.drain()
        },
        flag: Some("timeout"),
        status: Some(504),
        upstream_status: None,
        upstream_close: Some("fin_local"),
        ..FAILED
    },
    Ending {
        name: "total-timeout-body",
        what: "the call's time is up half way",
        script: |s| {
            half(s, "/limited")?;
            s.drain()
        },
        flag: Some("timeout"),
        upstream_close: Some("fin_local"),
        ..FAILED
    },
    Ending {
        name: "total-timeout-blocked",
        what: "the call's time is up while the client does not read",
        script: |s| {
            s.ask("/limited", Some(SMALL_BUFFER))?;
            s.asked()?;
            s.answer(HUGE, 0)?;
            s.flood(HUGE)?;
            s.read(1000).map(|_| ())
        },
        flag: Some("timeout"),
        upstream_close: Some("rst_out"),
        length: Some(HUGE),
        unread: true,
        closes_window: true,
        ..WELL
    },
    Ending {
        name: "shutdown-body",
        what: "calltap is stopped half way",
        script: |s| {
            half(s, "/x")?;
            s.shut_down()?;
            s.drain()
        },
        flag: Some("shutdown"),
        upstream_close: Some("fin_local"),
        ..FAILED
    },
    Ending {
        name: "client-fin-after",
        what: "the client says goodbye after the response: all is well",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.answer(SOME, SOME)?;
            s.read(SOME)?;
            s.close_client()
        },
        ..WELL
    },
    Ending {
        name: "client-rst-after",
        what: "the client resets after the response: all is well",
        script: |s| {
            s.ask("/x", None)?;
            s.asked()?;
            s.answer(SOME, SOME)?;
            s.read(SOME)?;
            s.reset_client()
        },
        ..WELL
    },
];

/// The client has half of a response that goes on.
fn half(s: &mut Stage<'_>, path: &str) -> anyhow::Result<()> {
    s.ask(path, None)?;
    s.asked()?;
    s.answer(SOME, SOME / 2)?;
    s.read(SOME / 2)?;
    Ok(())
}

/// An earlier call on the connections, which ends well.
fn before(s: &mut Stage<'_>) -> anyhow::Result<()> {
    s.ask("/before", None)?;
    s.asked()?;
    s.answer(BEFORE, BEFORE)?;
    s.start = s.read(BEFORE)? + BEFORE as u64;
    Ok(())
}

/// The head of an upstream's answer.
pub(super) fn upstream_head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
}
