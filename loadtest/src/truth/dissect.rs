//! Has `tshark` take a capture apart, and keeps of each packet what the judge asks about.
//!
//! Only Ethernet, IP and TCP are dissected here: sequence analysis, reassembly and every protocol
//! above are turned off, because what they guess is what is to be found out.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// One TCP packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Its number in the capture, from 1, as Wireshark shows it.
    pub(crate) number: u32,
    /// When it was captured, nanoseconds of `CLOCK_REALTIME`.
    pub(crate) ns: u64,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// IP bytes, headers included.
    pub(crate) ip_bytes: u32,
    pub(crate) ttl: u8,
    /// The whole octet: DSCP and ECN.
    pub(crate) tos: u8,
    /// IPv4 identification, or IPv6 flow label: tells copies of a packet from one another.
    pub(crate) ip_id: u32,
    /// Don't Fragment; absent in IPv6.
    pub(crate) df: Option<bool>,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// TCP payload on the wire, bytes, whether captured or not.
    pub(crate) payload: u32,
    pub(crate) flags: u8,
    /// Unscaled.
    pub(crate) window: u16,
    pub(crate) options: Box<[u8]>,
    /// What was captured of the payload; nothing where it was not asked for.
    pub(crate) bytes: Box<[u8]>,
}

impl Packet {
    pub(crate) fn is(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// How much of each packet is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The headers.
    Headers,
    /// The payload, too.
    Payload,
}

const FIELDS: [&str; 24] = [
    "frame.number",
    "frame.time_epoch",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "ip.len",
    "ipv6.plen",
    "ip.ttl",
    "ipv6.hlim",
    "ip.dsfield",
    "ipv6.tclass",
    "ip.id",
    "ipv6.flow",
    "ip.flags.df",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.len",
    "tcp.flags",
    "tcp.window_size_value",
    "tcp.options",
    "tcp.payload",
];
const IPV6_HEADER: u32 = 40;
const KEPT_PROTOCOLS: [&str; 6] = ["frame", "eth", "ethertype", "ip", "ipv6", "tcp"];

/// Every TCP packet in `capture`, in its order.
pub(crate) fn dissect(capture: &Path, depth: Depth) -> anyhow::Result<Vec<Packet>> {
    let profile = only_tcp()?;
    let mut tshark = Command::new("tshark");
    tshark
        .env("WIRESHARK_CONFIG_DIR", profile.path())
        .arg("-n")
        .arg("-r")
        .arg(capture)
        .args(["-o", "tcp.analyze_sequence_numbers:FALSE"])
        .args(["-o", "tcp.desegment_tcp_streams:FALSE"])
        .args(["-Y", "tcp", "-T", "fields"]);
    let fields = match depth {
        Depth::Headers => &FIELDS[..FIELDS.len() - 1],
        Depth::Payload => &FIELDS[..],
    };
    for field in fields {
        tshark.args(["-e", field]);
    }
    tshark.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tshark
        .spawn()
        .context("tshark, which scripts/bootstrap --test installs")?;
    let mut complaints = child.stderr.take().context("tshark's stderr")?;
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = complaints.read_to_string(&mut text);
        text
    });
    let mut lines = BufReader::with_capacity(1 << 20, child.stdout.take().context("tshark")?);
    let mut packets = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            break;
        }
        let shown = || format!("{}: {line}", capture.display());
        packets.push(packet(line.trim_end_matches('\n')).with_context(shown)?);
    }
    let status = child.wait()?;
    let complaints = complaints.join().unwrap_or_default();
    // A capture whose last packet is torn is told by the exit status, too.
    ensure!(
        status.success(),
        "tshark -r {}: {status}: {}",
        capture.display(),
        complaints.trim()
    );
    Ok(packets)
}

/// A Wireshark profile in which everything above TCP is disabled.
fn only_tcp() -> anyhow::Result<tempfile::TempDir> {
    let listed = Command::new("tshark")
        .args(["-G", "protocols"])
        .stderr(Stdio::null())
        .output()
        .context("tshark, which scripts/bootstrap --test installs")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut disabled = String::new();
    for name in listed.lines().filter_map(|line| line.split('\t').nth(2)) {
        if !KEPT_PROTOCOLS.contains(&name) {
            disabled += name;
            disabled.push('\n');
        }
    }
    ensure!(!disabled.is_empty(), "tshark -G protocols lists none");
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("disabled_protos"), disabled)?;
    Ok(directory)
}

/// One line of `tshark -T fields`.
fn packet(line: &str) -> anyhow::Result<Packet> {
    let cells: Vec<&str> = line.split('\t').collect();
    ensure!(
        cells.len() + 1 >= FIELDS.len(),
        "{} cells, not {}",
        cells.len(),
        FIELDS.len()
    );
    let of = |name: &str| -> &str {
        let at = FIELDS.iter().position(|field| *field == name);
        at.and_then(|at| cells.get(at)).copied().unwrap_or("")
    };
    let is_v4 = !of("ip.src").is_empty();
    let either = |v4: &'static str, v6: &'static str| of(if is_v4 { v4 } else { v6 });
    let end = |address: &str, port: &str| -> anyhow::Result<SocketAddr> {
        let address: IpAddr = address.parse().with_context(|| address.to_owned())?;
        Ok(SocketAddr::new(address, number(port)?.try_into()?))
    };
    Ok(Packet {
        number: number(of("frame.number"))?.try_into()?,
        ns: nanoseconds(of("frame.time_epoch"))?,
        from: end(either("ip.src", "ipv6.src"), of("tcp.srcport"))?,
        to: end(either("ip.dst", "ipv6.dst"), of("tcp.dstport"))?,
        ip_bytes: match is_v4 {
            true => number(of("ip.len"))?.try_into()?,
            false => u32::try_from(number(of("ipv6.plen"))?)? + IPV6_HEADER,
        },
        ttl: number(either("ip.ttl", "ipv6.hlim"))?.try_into()?,
        tos: number(either("ip.dsfield", "ipv6.tclass"))?.try_into()?,
        ip_id: number(either("ip.id", "ipv6.flow"))?.try_into()?,
        df: match of("ip.flags.df") {
            "" => None,
            set => Some(matches!(set, "1" | "True")),
        },
        seq: number(of("tcp.seq_raw"))?.try_into()?,
        ack: number(of("tcp.ack_raw"))?.try_into()?,
        payload: number(of("tcp.len"))?.try_into()?,
        flags: (number(of("tcp.flags"))? & 0xff) as u8,
        window: number(of("tcp.window_size_value"))?.try_into()?,
        options: bytes(of("tcp.options"))?,
        bytes: bytes(of("tcp.payload"))?,
    })
}

fn number(text: &str) -> anyhow::Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text:?} is no number"))
}

/// Seconds with a fraction, without a detour over floating point.
fn nanoseconds(text: &str) -> anyhow::Result<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 9 {
        bail!("{text:?} is finer than nanoseconds");
    }
    Ok(number(seconds)? * 1_000_000_000 + number(&format!("{fraction:0<9}"))?)
}

fn bytes(hex: &str) -> anyhow::Result<Box<[u8]>> {
    fn digit(byte: u8) -> anyhow::Result<u8> {
        let value = char::from(byte).to_digit(16);
        Ok(value.with_context(|| format!("{byte:#x} is no hex digit"))? as u8)
    }
    let mut out = Vec::with_capacity(hex.len() / 2);
    let mut digits = hex.bytes().filter(|byte| *byte != b':');
    while let Some(high) = digits.next() {
        let low = digits.next().context("half a byte")?;
        out.push(digit(high)? << 4 | digit(low)?);
    }
    Ok(out.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_tshark_is_a_packet() {
        let line = "4\t1795368273.393580420\t10.77.1.2\t\t10.77.1.1\t\t57180\t8000\t94\t\t64\t\t\
                    0x02\t\t0xf09d\t\t1\t3963904917\t1036137434\t3\t0x0018\t63\t0101\t616263";
        let packet = packet(line).unwrap();
        assert_eq!(packet.number, 4);
        assert_eq!(packet.ns, 1_795_368_273_393_580_420);
        assert_eq!(packet.from, "10.77.1.2:57180".parse().unwrap());
        assert_eq!((packet.ip_bytes, packet.ttl, packet.tos), (94, 64, 2));
        assert_eq!((packet.ip_id, packet.df), (0xf09d, Some(true)));
        assert_eq!((packet.payload, packet.window), (3, 63));
        assert_eq!(&*packet.bytes, b"abc");
        assert!(packet.is(ACK) && !packet.is(FIN));
    }

    #[test]
    fn a_line_of_ipv6_is_a_packet() {
        let line = "1\t1.5\t\tfd00::2\t\tfd00::1\t57180\t8000\t\t20\t\t61\t\
                    \t0x00\t\t0x0abcde\t\t1\t0\t0\t0x0002\t64240\t0204";
        let packet = packet(line).unwrap();
        assert_eq!(packet.ns, 1_500_000_000);
        assert_eq!((packet.ip_bytes, packet.ttl, packet.df), (60, 61, None));
        assert_eq!(packet.from, "[fd00::2]:57180".parse().unwrap());
        assert_eq!(packet.ip_id, 0xa_bcde);
    }
}
