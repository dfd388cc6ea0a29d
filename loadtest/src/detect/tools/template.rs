//! Real records with holes, from which records of calls that never were are made.
//!
//! Which fields a record has, and how they hang together, is taken from one that calltap wrote of such a
//! call. Only who called, when, for what, how long the API and the network took and how long the answer
//! was is filled in anew; marks and sums move along.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::alerts;
use super::people;

/// Records kept of each sort of call.
const KEPT_MAX: usize = 50;

/// The sort of call that a record can stand for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sort {
    /// Whose: people with browsers are one class, whatever their address.
    pub class: &'static str,
    /// `GET`, ...
    pub method: String,
    /// The route's template, or the path where there is none.
    pub place: String,
    /// 200, ...
    pub status: u16,
    /// The first call of its connection.
    pub first: bool,
}

/// Those who behave alike.
pub fn class_of(address: Ipv4Addr) -> Option<&'static str> {
    Some(match people::class(address)? {
        "home" | "campus" | "office" | "crowd" => "person",
        other => other,
    })
}

/// What is filled in.
#[derive(Clone, Debug)]
pub struct Filling<'a> {
    /// When the call began, µs since 1970.
    pub begin_us: u64,
    /// Names of this call that no other has.
    pub ids: [u64; 4],
    /// Who.
    pub address: Ipv4Addr,
    /// From which port.
    pub port: u16,
    /// The kernel's name for the connection.
    pub cookie: u64,
    /// The how many-th call on it.
    pub nth: u32,
    /// The client's TCP.
    pub stack: &'a Stack,
    /// Routers on the way.
    pub hops: u8,
    /// Round trip.
    pub rtt_us: u64,
    /// How long the API takes.
    pub server_us: u64,
    /// How much longer or shorter the answer is than the real one.
    pub size: f64,
    /// Path and query, as sent.
    pub target: &'a str,
    /// Browser or application.
    pub agent: &'a str,
    /// Client id.
    pub consumer: &'a str,
}

/// How a client's TCP begins a connection.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// As sent.
    pub ttl: u8,
    /// Unscaled.
    pub window: u16,
    /// As p0f writes it.
    pub window_p0f: &'static str,
    /// Shift.
    pub scale: u8,
    /// Bytes.
    pub mss: u16,
    /// In order.
    pub options: &'static str,
}

/// The stacks that most clients have, and who have them.
pub const STACKS: [Stack; 5] = [
    // Windows
    Stack {
        ttl: 128,
        window: 64_240,
        window_p0f: "mss*44",
        scale: 8,
        mss: 1_460,
        options: "mss,nop,ws,nop,nop,sok",
    },
    // Linux
    Stack {
        ttl: 64,
        window: 64_240,
        window_p0f: "mss*44",
        scale: 7,
        mss: 1_460,
        options: "mss,sok,ts,nop,ws",
    },
    // macOS, iOS
    Stack {
        ttl: 64,
        window: 65_535,
        window_p0f: "65535",
        scale: 6,
        mss: 1_460,
        options: "mss,nop,ws,nop,nop,ts,sok,eol+1",
    },
    // Android behind a tunnel of its operator
    Stack {
        ttl: 64,
        window: 65_535,
        window_p0f: "65535",
        scale: 9,
        mss: 1_400,
        options: "mss,sok,ts,nop,ws",
    },
    // Windows on DSL
    Stack {
        ttl: 128,
        window: 64_240,
        window_p0f: "64240",
        scale: 8,
        mss: 1_452,
        options: "mss,nop,ws,nop,nop,sok",
    },
];

/// A record with holes.
#[derive(Debug)]
pub struct Template {
    pieces: Vec<Piece>,
    server_us: u64,
    delivered_us: u64,
    body_bytes: u64,
    has_upstream: bool,
}

#[derive(Debug)]
enum Piece {
    /// As it is.
    Text(String),
    Hole(Hole),
}

#[derive(Clone, Copy, Debug)]
enum Hole {
    Timestamp,
    /// Hexadecimal digits of the ids, from one of them on.
    Hex(usize, usize),
    Uuid(usize),
    Path,
    Query,
    Agent,
    Consumer,
    Address,
    Port,
    Cookie,
    Nth,
    Ttl,
    Hops,
    Window,
    Scale,
    Mss(u16),
    Options,
    P0f,
    Rtt,
    /// The real number, and what is added to it.
    Plus(u64, Shift),
}

#[derive(Clone, Copy, Debug)]
enum Shift {
    /// What the API takes longer.
    Server,
    /// And what the network to the client does.
    ServerAndWay,
    Way,
    /// What the answer is longer.
    Size,
}

/// Every field of a record, in its order.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// What it can stand for; nothing where the record is no whole call of one who means well.
    fn sort(&self) -> Option<Sort> {
        let is_whole = self.text("kind")? == "call"
            && self.get("response.flags").is_none()
            && self.text("settled") == Some("acked")
            && self.text("attribution") == Some("exact");
        let path = self.text("url.path")?;
        is_whole.then_some(Sort {
            class: class_of(self.text("network.peer.address")?.parse().ok()?)?,
            method: self.text("http.request.method")?.to_owned(),
            place: self.text("http.route").unwrap_or(path).to_owned(),
            status: self.number("http.response.status_code")?.try_into().ok()?,
            first: self.number("client.socket.request_seq")? == 1,
        })
    }
}

impl Template {
    fn of(fields: &Fields) -> Self {
        let up_first = fields.number("timing.up_first_us");
        let mut pieces = Vec::new();
        let mut text = String::from("{");
        for (nth, (name, value)) in fields.0.iter().enumerate() {
            if nth > 0 {
                text.push(',');
            }
            text += &format!("\"{name}\":");
            let number = value.as_u64();
            let hole = hole(name, number, up_first, fields);
            match hole {
                None => text += &value.to_string(),
                Some(hole) => {
                    let quoted = value.is_string();
                    if quoted {
                        text.push('"');
                    }
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Hole(hole));
                    if quoted {
                        text.push('"');
                    }
                }
            }
        }
        text += "}\n";
        pieces.push(Piece::Text(text));
        Self {
            pieces,
            server_us: fields.number("time.upstream_server_us").unwrap_or(0),
            delivered_us: fields.number("delivered_us").unwrap_or(0),
            body_bytes: fields.number("http.response.body.size").unwrap_or(0),
            has_upstream: up_first.is_some(),
        }
    }

    /// Writes a record of such a call, and says how long it took, µs.
    pub fn fill(&self, filling: &Filling<'_>, out: &mut Vec<u8>) -> u64 {
        let server = match self.has_upstream {
            true => {
                i64::try_from(filling.server_us).unwrap_or(0)
                    - i64::try_from(self.server_us).unwrap_or(0)
            }
            false => 0,
        };
        let way = i64::try_from(filling.rtt_us).unwrap_or(0);
        // Errors and signs of life are always as long.
        let size = match self.body_bytes {
            0..200 => 0,
            bytes => (bytes as f64 * (filling.size - 1.0)) as i64,
        };
        let shifted = |number: u64, shift| {
            number.saturating_add_signed(match shift {
                Shift::Server => server,
                Shift::ServerAndWay => server + way,
                Shift::Way => way,
                Shift::Size => size,
            })
        };
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Hole(hole) => hole.fill(filling, &shifted, out),
            }
        }
        shifted(self.delivered_us, Shift::ServerAndWay)
    }
}

fn hole(name: &str, number: Option<u64>, up_first: Option<u64>, fields: &Fields) -> Option<Hole> {
    let plus = |shift| number.map(|number| Hole::Plus(number, shift));
    let is_late = number.zip(up_first).is_some_and(|(at, first)| at >= first);
    match name {
        "timestamp" => Some(Hole::Timestamp),
        "log.record.uid" => Some(Hole::Uuid(0)),
        "trace_id" => Some(Hole::Hex(1, 32)),
        "span_id" => Some(Hole::Hex(2, 16)),
        "http.request.id" => Some(Hole::Uuid(2)),
        "global_transaction_id" => Some(Hole::Hex(0, 32)),
        "url.path" => Some(Hole::Path),
        "url.query" => Some(Hole::Query),
        "user_agent.original" => Some(Hole::Agent),
        "api.consumer.client_id" => Some(Hole::Consumer),
        "client.address" | "network.peer.address" => Some(Hole::Address),
        "client.port" | "network.peer.port" => Some(Hole::Port),
        "client.socket.cookie" => Some(Hole::Cookie),
        "client.socket.request_seq" => Some(Hole::Nth),
        "client.syn.ttl" | "client.ip.ttl_min" | "client.ip.ttl_max" => Some(Hole::Ttl),
        "client.syn.hops_guess" => Some(Hole::Hops),
        "client.syn.window" => Some(Hole::Window),
        "client.syn.wscale" => Some(Hole::Scale),
        "client.syn.mss" => Some(Hole::Mss(0)),
        "client.tcp.mss" => Some(Hole::Mss(12)),
        "client.syn.options" => Some(Hole::Options),
        "client.syn.p0f" => Some(Hole::P0f),
        "client.handshake_us"
        | "client.tcp.rtt_us"
        | "client.tcp.min_rtt_us"
        | "client.tcp.handshake_rtt_us" => Some(Hole::Rtt),
        "gateway.duration_us" | "duration_us" | "time.upstream_server_us" if up_first.is_some() => {
            plus(Shift::Server)
        }
        "delivered_us" | "timing.resp_acked_us" => plus(Shift::ServerAndWay),
        "time.delivery_us" => plus(Shift::Way),
        "http.response.body.size" | "client.wire.bytes_out" | "client.wire.ip_bytes_out" => {
            plus(Shift::Size)
        }
        "upstream.wire.bytes_in" | "upstream.wire.ip_bytes_in"
            if fields.get("http.route").is_some() =>
        {
            plus(Shift::Size)
        }
        _ if name.starts_with("timing.") && is_late => plus(Shift::Server),
        _ => None,
    }
}

impl Hole {
    fn fill(self, filling: &Filling<'_>, shifted: &impl Fn(u64, Shift) -> u64, out: &mut Vec<u8>) {
        let stack = filling.stack;
        let ttl = stack.ttl - filling.hops;
        let (path, query) = filling
            .target
            .split_once('?')
            .unwrap_or((filling.target, ""));
        // Writing to memory does not fail.
        let _ = match self {
            Self::Timestamp => out.write_all(alerts::rfc3339(filling.begin_us).as_bytes()),
            Self::Hex(from, digits) => {
                let id = |nth: usize| filling.ids[(from + nth) % 4];
                let text = format!("{:016x}{:016x}", id(0), id(1));
                out.write_all(&text.as_bytes()[..digits])
            }
            Self::Uuid(from) => {
                let (high, low) = (filling.ids[from], filling.ids[from + 1]);
                write!(
                    out,
                    "{:08x}-{:04x}-7{:03x}-{:04x}-{:012x}",
                    high >> 32,
                    high >> 16 & 0xffff,
                    high & 0xfff,
                    low >> 48 & 0x3fff | 0x8000,
                    low & 0xffff_ffff_ffff
                )
            }
            Self::Path => out.write_all(path.as_bytes()),
            Self::Query => out.write_all(query.as_bytes()),
            Self::Agent => out.write_all(filling.agent.as_bytes()),
            Self::Consumer => out.write_all(filling.consumer.as_bytes()),
            Self::Address => write!(out, "{}", filling.address),
            Self::Port => write!(out, "{}", filling.port),
            Self::Cookie => write!(out, "{}", filling.cookie),
            Self::Nth => write!(out, "{}", filling.nth),
            Self::Ttl => write!(out, "{ttl}"),
            Self::Hops => write!(out, "{}", filling.hops),
            Self::Window => write!(out, "{}", stack.window),
            Self::Scale => write!(out, "{}", stack.scale),
            Self::Mss(less) => write!(out, "{}", stack.mss - less),
            Self::Options => out.write_all(stack.options.as_bytes()),
            Self::P0f => write!(
                out,
                "4:{ttl}+{}:0:{}:{},{}:{}:df,id+:0",
                filling.hops, stack.mss, stack.window_p0f, stack.scale, stack.options
            ),
            Self::Rtt => write!(out, "{}", filling.rtt_us),
            Self::Plus(number, shift) => write!(out, "{}", shifted(number, shift)),
        };
    }
}

/// Records to fill, by the sort of call.
#[derive(Debug, Default)]
pub struct Templates(HashMap<Sort, Vec<Template>>);

impl Templates {
    /// Takes all records of a file into account.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut templates = Self::default();
        let file = File::open(path).with_context(|| path.display().to_string())?;
        for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
            let added = templates.add(&line?);
            added.with_context(|| format!("line {number} of {}", path.display()))?;
        }
        Ok(templates)
    }

    /// Takes a record into account, where it can stand for others.
    pub fn add(&mut self, line: &[u8]) -> serde_json::Result<()> {
        let fields: Fields = serde_json::from_slice(line)?;
        if let Some(sort) = fields.sort() {
            let kept = self.0.entry(sort).or_default();
            if kept.len() < KEPT_MAX {
                kept.push(Template::of(&fields));
            }
        }
        Ok(())
    }

    /// Those for this sort of call: of the class itself, else of people with browsers; of first calls on
    /// a connection, else of others.
    pub fn find(&self, sort: &Sort) -> Option<&[Template]> {
        let mut sort = sort.clone();
        for class in [sort.class, "person"] {
            sort.class = class;
            for first in [sort.first, false, true] {
                sort.first = first;
                if let Some(found) = self.0.get(&sort) {
                    return Some(found);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = r#"{"timestamp":"2026-11-28T09:57:01.091115Z","log.record.uid":"x","kind":"call",
        "http.request.method":"GET","url.path":"/orders/204000","http.response.status_code":200,
        "http.response.body.size":1000,"api.consumer.client_id":"partner-4","gateway.duration_us":11865,
        "duration_us":11934,"delivered_us":11946,"timing.up_sent_last_us":232,"timing.up_first_us":11786,
        "timing.resp_last_us":11934,"timing.resp_acked_us":11946,"time.gateway_us":384,
        "time.upstream_server_us":11550,"time.delivery_us":12,"client.address":"198.18.76.9",
        "network.peer.address":"198.18.76.9","client.syn.ttl":64,"client.syn.p0f":"4:64+0",
        "attribution":"exact","settled":"acked","http.route":"/orders/{id}",
        "client.socket.request_seq":2,"client.wire.bytes_out":1180}"#;

    fn filled(server_us: u64, size: f64) -> (Value, u64) {
        let mut templates = Templates::default();
        templates.add(REAL.as_bytes()).unwrap();
        let sort = Sort {
            class: "partner",
            method: "GET".into(),
            place: "/orders/{id}".into(),
            status: 200,
            first: true,
        };
        let mut out = Vec::new();
        let took = templates.find(&sort).unwrap()[0].fill(
            &Filling {
                begin_us: 1_000_000,
                ids: [1, 2, 3, 4],
                address: Ipv4Addr::new(198, 18, 80, 1),
                port: 40_000,
                cookie: 77,
                nth: 5,
                stack: &STACKS[0],
                hops: 9,
                rtt_us: 30_000,
                server_us,
                size,
                target: "/orders/1002001?page=2",
                agent: "a",
                consumer: "shop-web",
            },
            &mut out,
        );
        (serde_json::from_slice(&out).unwrap(), took)
    }

    #[test]
    fn times_still_add_up() {
        for server_us in [1, 11_550, 900_000] {
            let (record, took) = filled(server_us, 1.0);
            let number = |name: &str| record[name].as_u64().unwrap();
            let parts = [
                "time.gateway_us",
                "time.upstream_server_us",
                "time.delivery_us",
            ];
            let sum: u64 = parts.iter().map(|part| number(part)).sum();
            assert_eq!(sum, number("delivered_us"));
            assert_eq!(took, number("delivered_us"));
            assert_eq!(number("timing.resp_acked_us"), took);
            assert_eq!(number("timing.up_sent_last_us"), 232);
            assert_eq!(number("time.upstream_server_us"), server_us);
            assert_eq!(number("timing.up_first_us"), 11_786 + server_us - 11_550);
        }
    }

    #[test]
    fn it_is_another_call_of_somebody_else() {
        let (record, _) = filled(5_000, 1.5);
        for (name, expected) in [
            ("timestamp", "1970-01-01T00:00:01.000000Z"),
            ("url.path", "/orders/1002001"),
            ("client.address", "198.18.80.1"),
            ("network.peer.address", "198.18.80.1"),
            ("api.consumer.client_id", "shop-web"),
            (
                "client.syn.p0f",
                "4:119+9:0:1460:mss*44,8:mss,nop,ws,nop,nop,sok:df,id+:0",
            ),
            ("http.route", "/orders/{id}"),
        ] {
            assert_eq!(record[name], expected);
        }
        for (name, expected) in [
            ("client.syn.ttl", 119),
            ("client.socket.request_seq", 5),
            ("http.response.body.size", 1_500),
            ("client.wire.bytes_out", 1_680),
        ] {
            assert_eq!(record[name], expected, "{name}");
        }
        assert!(
            record["log.record.uid"]
                .as_str()
                .unwrap()
                .parse::<uuid::Uuid>()
                .is_ok()
        );
    }
}
