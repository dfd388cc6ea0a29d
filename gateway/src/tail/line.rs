//! One record, one line: method, route, status, total, where the time went, and what was unusual.
//!
//! Pure: a record and a [`Paint`] in, text out. What clients sent passes [`clean`] before anything
//! else looks at it.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::clean::clean;
use super::paint::{Ink, Paint};
use super::view::{Part, View};

const METHOD_COLUMNS: usize = 7;
const STATUS_COLUMNS: usize = 3;
const TOTAL_COLUMNS: usize = 7;
/// `12:34:56.789`
const CLOCK_COLUMNS: usize = 12;
/// From this width on, lines begin with the time of day.
const CLOCK_FROM_WIDTH: usize = 100;

/// The columns of a line, by the terminal's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    clock: usize,
    route: usize,
    bar: usize,
    remarks: usize,
}

impl Columns {
    fn of(width: usize) -> Self {
        let clock = if width >= CLOCK_FROM_WIDTH {
            CLOCK_COLUMNS + 1
        } else {
            0
        };
        let fixed = clock + METHOD_COLUMNS + 1 + STATUS_COLUMNS + 1 + TOTAL_COLUMNS + 1 + 1;
        let free = width.saturating_sub(fixed + 1);
        let route = (free * 3 / 10).clamp(12, 40);
        let bar = (free * 2 / 5).clamp(10, 60);
        Self {
            clock,
            route,
            bar,
            remarks: free.saturating_sub(route + bar),
        }
    }
}

/// The letter of a part: in the bar, and in the legend.
pub(crate) fn letter(part: Part) -> char {
    match part {
        Part::ClientSend => 'c',
        Part::KernelWait => 'k',
        Part::Gateway => 'g',
        Part::FailedAttempts => 'f',
        Part::Connect => 'o',
        Part::UpstreamTls => 't',
        Part::UpstreamNetwork => 'n',
        Part::UpstreamServer => 's',
        Part::Delivery => 'd',
        Part::DelayedAck => 'a',
        Part::Unattributed => '?',
    }
}

fn legend_word(part: Part) -> &'static str {
    match part {
        Part::ClientSend => "client sends",
        Part::KernelWait => "kernel queue",
        Part::Gateway => "gateway",
        Part::FailedAttempts => "failed tries",
        Part::Connect => "connect",
        Part::UpstreamTls => "tls",
        Part::UpstreamNetwork => "network",
        Part::UpstreamServer => "server",
        Part::Delivery => "delivery",
        Part::DelayedAck => "delayed ack",
        Part::Unattributed => "unknown",
    }
}

/// What the bar's letters and colours mean, in as few lines as the width allows.
pub(crate) fn legend(paint: Paint) -> String {
    let mut out = String::new();
    let mut used = 0;
    for part in Part::ALL {
        let word = legend_word(part);
        let columns = word.len() + 4;
        if used > 0 && used + columns > paint.width {
            out.push('\n');
            used = 0;
        }
        let key = if paint.color {
            paint.block(&format!(" {} ", letter(part)), part)
        } else {
            format!(" {} ", letter(part))
        };
        out.push_str(&key);
        out.push_str(&paint.ink(word, Ink::Dim));
        used += columns;
        if used < paint.width {
            out.push(' ');
            used += 1;
        }
    }
    out.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The line of one record, without the newline.
pub(crate) fn line(view: &View, paint: Paint) -> String {
    let columns = Columns::of(paint.width);
    let mut out = String::with_capacity(paint.width * 2);
    if columns.clock > 0 {
        let clock = pad_right(clock_of(view), columns.clock);
        out.push_str(&paint.ink(&clock, Ink::Dim));
    }
    match view.kind.as_deref().unwrap_or("call") {
        "call" | "progress" => call(&mut out, view, columns, paint),
        kind => other(&mut out, kind, view, columns, paint),
    }
    out.truncate(out.trim_end().len());
    out
}

fn call(out: &mut String, view: &View, columns: Columns, paint: Paint) {
    let method = clean(view.method.as_deref().unwrap_or("-"));
    out.push_str(&paint.ink(
        &pad_right(&cut(&method, METHOD_COLUMNS, paint), METHOD_COLUMNS + 1),
        Ink::Bold,
    ));
    let place = clean(place(view).unwrap_or("-"));
    out.push_str(&pad_right(
        &cut(&place, columns.route, paint),
        columns.route + 1,
    ));
    let status = view
        .status
        .map_or_else(|| "---".to_owned(), |code| code.to_string());
    out.push_str(&paint.ink(&status, status_ink(view.status)));
    out.push(' ');
    let total = view
        .total_us()
        .map_or_else(|| "-".to_owned(), |us| duration(us, paint));
    out.push_str(&pad_left(&total, TOTAL_COLUMNS));
    out.push(' ');
    match (view.parts(), view.total_us()) {
        (Some(parts), Some(total)) if total > 0 => {
            out.push_str(&bar(&parts, columns.bar, paint));
        }
        _ => {
            let why = pad_right(&cut(&no_bar(view), columns.bar, paint), columns.bar);
            out.push_str(&paint.ink(&why, Ink::Dim));
        }
    }
    remarks(out, view, columns.remarks, paint);
}

/// The route, or the path where the route would say too little: there is none, or it takes any rest.
fn place(view: &View) -> Option<&str> {
    let is_telling = |route: &&str| !route.contains("{*");
    view.route
        .as_deref()
        .filter(is_telling)
        .or(view.path.as_deref())
        .or(view.place())
}

/// Connections that never carried a call, and entries from outside.
fn other(out: &mut String, kind: &str, view: &View, columns: Columns, paint: Paint) {
    let kind = clean(kind);
    let word = match &*kind {
        "connection" => "conn",
        "external" => "note",
        other => other,
    };
    out.push_str(&paint.ink(
        &pad_right(&cut(word, METHOD_COLUMNS, paint), METHOD_COLUMNS + 1),
        Ink::Dim,
    ));
    let mut text = String::new();
    for piece in [&view.message, &view.error_type].into_iter().flatten() {
        text.push_str(&clean(piece));
        text.push(' ');
    }
    for (name, piece) in [("stage", &view.stage), ("from", &view.peer_address)] {
        if let Some(piece) = piece {
            text.push_str(name);
            text.push(' ');
            text.push_str(&clean(piece));
            text.push(' ');
        }
    }
    let room = paint
        .width
        .saturating_sub(columns.clock + METHOD_COLUMNS + 1);
    let ink = if &*kind == "connection" {
        Ink::Warn
    } else {
        Ink::Plain
    };
    let text = text.trim_end();
    let shown = if paint.fit {
        cut(text, room, paint)
    } else {
        text.to_owned()
    };
    out.push_str(&paint.ink(&shown, ink));
}

/// Why there is no bar.
fn no_bar(view: &View) -> String {
    let reason = match (view.coverage.as_deref(), view.attribution.as_deref()) {
        (Some("tcp_info"), _) => "no eBPF",
        (Some("none"), _) => "not tapped",
        (_, Some("shared")) => "shared connection",
        _ => match view.settled.as_deref() {
            Some("acked") | None => "no marks",
            Some(_) => "not delivered",
        },
    };
    format!("({reason})")
}

/// What did not go well, or is not exact, most important first.
fn remarks(out: &mut String, view: &View, room: usize, paint: Paint) {
    let mut words: Vec<(String, Ink)> = Vec::new();
    for flag in &view.flags {
        words.push((clean(flag).into_owned(), Ink::Bad));
    }
    if let Some(error) = view
        .error_type
        .as_deref()
        .filter(|error| error.parse::<u16>().is_err() && !view.flags.iter().any(|f| f == error))
    {
        words.push((clean(error).into_owned(), Ink::Bad));
    }
    let (client, upstream) = view.retransmits();
    if client > 0 {
        words.push((format!("{}{client}", paint.again()), Ink::Warn));
    }
    if upstream > 0 {
        words.push((format!("{}{upstream}up", paint.again()), Ink::Warn));
    }
    if view.zero_window_us.is_some_and(|us| us > 0) {
        words.push(("win0".to_owned(), Ink::Warn));
    }
    if view.attribution.as_deref() == Some("partial") && view.coverage.as_deref() == Some("ebpf") {
        words.push(("partial".to_owned(), Ink::Dim));
    }
    if view.kind.as_deref() == Some("progress") {
        words.push(("open".to_owned(), Ink::Moved));
    }
    let mut left = room;
    for (position, (word, ink)) in words.into_iter().enumerate() {
        // The first is worth cutting; of the others, those that fit are shown.
        let shown = match paint.fit {
            true if left < 3 => break,
            true if position == 0 => cut(&word, left - 1, paint),
            true if word.width() + 1 > left => continue,
            _ => word,
        };
        left = left.saturating_sub(shown.width() + 1);
        out.push(' ');
        out.push_str(&paint.ink(&shown, ink));
    }
}

/// Cells shared out by largest remainder, so that they add up to `cells` and no part gets a cell
/// that a larger remainder deserved.
fn share(parts: &[u64; Part::ALL.len()], cells: usize) -> [usize; Part::ALL.len()] {
    let total: u128 = parts.iter().map(|us| u128::from(*us)).sum();
    let mut shares = [0; Part::ALL.len()];
    if total == 0 {
        return shares;
    }
    let mut remainders = [(0u128, 0usize); Part::ALL.len()];
    for (index, us) in parts.iter().enumerate() {
        let scaled = u128::from(*us) * cells as u128;
        shares[index] = (scaled / total) as usize;
        remainders[index] = (scaled % total, index);
    }
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let missing = cells - shares.iter().sum::<usize>();
    for (_, index) in remainders.into_iter().take(missing) {
        shares[index] += 1;
    }
    shares
}

/// A bar of exactly `cells` columns: each part in its colour with its letter in front, or as a run
/// of its letter where there is no colour.
pub(crate) fn bar(parts: &[u64; Part::ALL.len()], cells: usize, paint: Paint) -> String {
    let mut out = String::new();
    for (part, width) in Part::ALL.into_iter().zip(share(parts, cells)) {
        if width == 0 {
            continue;
        }
        if paint.color {
            let run: String = std::iter::once(letter(part))
                .chain(std::iter::repeat_n(' ', width - 1))
                .collect();
            out.push_str(&paint.block(&run, part));
        } else {
            out.extend(std::iter::repeat_n(letter(part), width));
        }
    }
    out
}

/// Three significant digits, at most [`TOTAL_COLUMNS`] wide: `842µs`, `1.84ms`, `31.2s`, `12m08s`.
pub(crate) fn duration(us: u64, paint: Paint) -> String {
    let micro = if paint.unicode { "µs" } else { "us" };
    let three = |value: f64, unit: &str| {
        let decimals = match value {
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        format!("{value:.decimals$}{unit}")
    };
    match us {
        0..1_000 => format!("{us}{micro}"),
        1_000..999_500 => three(us as f64 / 1e3, "ms"),
        999_500..59_950_000 => three(us as f64 / 1e6, "s"),
        59_950_000..3_600_000_000 => {
            let seconds = (us + 500_000) / 1_000_000;
            format!("{}m{:02}s", seconds / 60, seconds % 60)
        }
        _ => {
            let minutes = us / 60_000_000;
            format!("{}h{:02}m", minutes / 60, minutes % 60)
        }
    }
}

/// The time of day of an RFC 3339 timestamp, in milliseconds, as it is: UTC.
fn clock_of(view: &View) -> &str {
    view.timestamp
        .as_deref()
        .and_then(|stamp| stamp.get(11..23))
        .filter(|clock| {
            clock
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b':' || b == b'.')
        })
        .unwrap_or("")
}

fn status_ink(status: Option<u16>) -> Ink {
    match status {
        Some(200..300) => Ink::Good,
        Some(100..400) => Ink::Moved,
        Some(400..500) => Ink::Warn,
        _ => Ink::Bad,
    }
}

/// At most `columns` columns of `text`, with an ellipsis where something was cut off.
fn cut(text: &str, columns: usize, paint: Paint) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let cells = c.width().unwrap_or(0);
        if used + cells + 1 > columns {
            break;
        }
        out.push(c);
        used += cells;
    }
    out.push_str(paint.ellipsis());
    out
}

fn pad_right(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(text.width());
    format!("{text}{:missing$}", "")
}

fn pad_left(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(text.width());
    format!("{:missing$}{text}", "")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const PLAIN: Paint = Paint {
        width: 80,
        color: false,
        unicode: true,
        fit: true,
    };

    fn check(paint: Paint, records: &[&str], expected: Expect) {
        let mut shown = String::new();
        for record in records {
            let view = View::parse(record).expect("a test brings valid records");
            let line = line(&view, paint);
            assert!(
                !paint.fit || line.width() <= paint.width,
                "too wide: {line}"
            );
            shown.push_str(&line);
            shown.push('\n');
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_line_fits_eighty_columns() {
        check(
            PLAIN,
            &[
                r#"{"kind":"call","http.request.method":"GET","http.route":"/orders/{id}","http.response.status_code":200,"delivered_us":1840,"time.client_send_us":0,"time.kernel_wait_us":40,"time.gateway_us":300,"time.upstream_network_us":100,"time.upstream_server_us":1200,"time.delivery_us":200}"#,
                r#"{"kind":"call","http.request.method":"DELETE","url.path":"/a/very/long/path/that/nobody/can/read","http.response.status_code":502,"duration_us":2500000,"delivered_us":2500000,"time.failed_attempts_us":2500000,"response.flags":["upstream_refused","client_abort"],"error.type":"connection_refused","client.tcp.retransmits":2}"#,
                r#"{"kind":"call","http.request.method":"GET","http.route":"/events","gateway.duration_us":812,"coverage":"tcp_info","attribution":"partial"}"#,
                r#"{"kind":"call","http.request.method":"GET","http.route":"/events","http.response.status_code":200,"gateway.duration_us":812,"coverage":"ebpf","attribution":"shared"}"#,
                r#"{"kind":"call","http.request.method":"GET","http.route":"/{*rest}","url.path":"/stock/7","http.response.status_code":304,"gateway.duration_us":1200}"#,
                r#"{"kind":"call","http.request.method":"GET","http.route":"/{*rest}"}"#,
                r#"{"kind":"connection","connection.stage":"tls","error.type":"tls_handshake_failed","network.peer.address":"192.0.2.7"}"#,
                r#"{"kind":"external","message":"TCP header logged successfully."}"#,
                r#"{}"#,
            ],
            expect![[r#"
                GET     /orders/{id}      200  1.84ms kggggnsssssssssssssssdd
                DELETE  /a/very/long/pat… 502   2.50s fffffffffffffffffffffff upstream_refused
                GET     /events           ---   812µs (no eBPF)
                GET     /events           200   812µs (shared connection)
                GET     /stock/7          304  1.20ms (no marks)
                GET     /{*rest}          ---       - (no marks)
                conn    tls_handshake_failed stage tls from 192.0.2.7
                note    TCP header logged successfully.
                -       -                 ---       - (no marks)
            "#]],
        );
    }

    #[test]
    fn a_wide_line_begins_with_the_time_of_day() {
        check(
            Paint {
                width: 120,
                ..PLAIN
            },
            &[
                r#"{"kind":"call","timestamp":"2026-03-01T12:34:56.789012Z","http.request.method":"GET","http.route":"/orders","http.response.status_code":200,"delivered_us":1000,"time.gateway_us":250,"time.upstream_server_us":750,"upstream.tcp.retransmits":3,"client.tcp.zero_window_us":9}"#,
            ],
            expect![[r#"
                12:34:56.789 GET     /orders                   200  1.00ms gggggggggsssssssssssssssssssssssss ↻3up win0
            "#]],
        );
    }

    #[test]
    fn an_escape_in_a_path_does_not_reach_the_terminal() {
        let view = View::parse(
            r#"{"kind":"\u001b[31m","http.request.method":"G\u001b[2JT","url.path":"/\u001b]0;owned\u0007/\u202egnp","error.type":"\u009b1m","response.flags":["\r\n"],"connection.stage":"\u0007","message":"\u001b[0m","network.peer.address":"\u001b"}"#,
        )
        .expect("it is JSON");
        for kind in [
            None,
            Some("call"),
            Some("connection"),
            Some("external"),
            Some("\x1b[1m"),
        ] {
            let mut view = view.clone();
            view.kind = kind.map(str::to_owned);
            let shown = line(&view, PLAIN);
            assert_eq!(clean(&shown), shown, "{shown:?}");
        }
    }

    #[test]
    fn cells_add_up_and_follow_the_shares() {
        let mut parts = [0; Part::ALL.len()];
        parts[2] = 1;
        parts[7] = 1;
        parts[8] = 1;
        for cells in 1..60 {
            let shares = share(&parts, cells);
            assert_eq!(shares.iter().sum::<usize>(), cells);
            assert!(shares[2].abs_diff(shares[8]) <= 1);
        }
        parts[7] = u64::MAX;
        assert_eq!(share(&parts, 20)[7], 20);
        assert_eq!(share(&[0; Part::ALL.len()], 20), [0; Part::ALL.len()]);
    }

    #[test]
    fn colours_end_where_they_began() {
        let paint = Paint {
            color: true,
            ..PLAIN
        };
        let mut parts = [0; Part::ALL.len()];
        parts[2] = 1;
        parts[7] = 3;
        let drawn = bar(&parts, 8, paint);
        assert_eq!(
            drawn,
            "\x1b[38;5;16;48;5;150mg \x1b[0m\x1b[38;5;16;48;5;222ms     \x1b[0m"
        );
    }

    #[test]
    fn durations_have_three_digits_and_fit_their_column() {
        for (us, shown) in [
            (0, "0µs"),
            (999, "999µs"),
            (1_000, "1.00ms"),
            (9_994, "9.99ms"),
            (9_996, "10.0ms"),
            (99_960, "100ms"),
            (999_499, "999ms"),
            (999_500, "1.00s"),
            (59_949_999, "59.9s"),
            (59_950_000, "1m00s"),
            (728_000_000, "12m08s"),
            (3_600_000_000, "1h00m"),
        ] {
            assert_eq!(duration(us, PLAIN), shown);
            assert!(shown.width() <= TOTAL_COLUMNS);
        }
    }

    #[test]
    fn every_part_has_its_own_letter_in_the_legend() {
        let mut letters: Vec<char> = Part::ALL.into_iter().map(letter).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), Part::ALL.len());
        for width in [60, 80, 120, 200] {
            let text = legend(Paint { width, ..PLAIN });
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
            for part in Part::ALL {
                assert!(text.contains(legend_word(part)), "{text}");
            }
        }
    }
}
