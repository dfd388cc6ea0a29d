//! What a client's SYN says about its sender.
//!
//! Reads the IP and TCP headers of one SYN as they arrived. Names no operating system: it prints
//! the signature and leaves the guessing to whoever owns a database.
//!
//! The signature is the one that p0f 3.09b prints, also where p0f's own page on its signatures says
//! otherwise, because signatures are there to be compared. `tests/p0f.rs` asks the real one.

use std::fmt::Write as _;
use std::sync::Arc;

/// The headers of a SYN, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syn {
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// Hops to the next usual initial TTL; absent where that is too many to believe.
    pub hops_guess: Option<u8>,
    /// Unscaled, bytes.
    pub window: u16,
    /// A shift.
    pub wscale: Option<u8>,
    /// Bytes.
    pub mss: Option<u16>,
    /// Option names in the order sent, comma-separated.
    pub options: Arc<str>,
    /// Don't Fragment; IPv6 has no such bit.
    pub df: Option<bool>,
    /// Explicit congestion notification was offered: ECE and CWR were both set.
    pub ecn: bool,
    /// Differentiated services code point.
    pub dscp: u8,
    /// p0f v3 raw signature: `ver:ittl+dist:olen:mss:wsize,scale:olayout:quirks:pclass`
    pub p0f: Arc<str>,
}

/// Beyond this many hops the initial TTL was probably another.
const HOPS_MAX: u8 = 35;

/// A segment size below this divides most windows by accident.
const MSS_MIN_FOR_MULTIPLE: u16 = 100;

/// Window scales above this are invalid (RFC 7323).
const WSCALE_MAX: u8 = 14;

const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// In the byte before the other flags.
const NS: u8 = 0x01;

impl Syn {
    /// Takes an IP header and the TCP header behind it apart. `None` where they are cut short or
    /// are not those of a SYN.
    pub fn parse(headers: &[u8]) -> Option<Self> {
        let ip = Ip::parse(headers)?;
        let tcp = headers.get(ip.header_bytes..)?;
        let fixed: &[u8; 20] = tcp.first_chunk()?;
        let tcp_header_bytes = usize::from(fixed[12] >> 4) * 4;
        let options = Options::parse(tcp.get(20..tcp_header_bytes)?);
        let flags = fixed[13];
        if flags & (SYN | ACK) != SYN {
            return None;
        }
        let window = u16_at(fixed, 14);
        let initial_ttl = [32_u8, 64, 128, 255]
            .into_iter()
            .find(|ttl| *ttl >= ip.ttl)?;
        let hops = initial_ttl - ip.ttl;

        let nonzero = |range: std::ops::Range<usize>| fixed[range].iter().any(|byte| *byte != 0);
        let quirks = [
            (ip.df == Some(true), "df"),
            (ip.df == Some(true) && ip.id != 0, "id+"),
            (ip.df == Some(false) && ip.id == 0, "id-"),
            (
                ip.ecn != 0 || flags & (ECE | CWR) != 0 || fixed[12] & NS != 0,
                "ecn",
            ),
            (ip.reserved_bit, "0+"),
            (ip.flow_label, "flow"),
            (!nonzero(4..8), "seq-"),
            // p0f looks at this one bit of the number and so misses every other client.
            (fixed[8] & 1 != 0, "ack+"),
            (nonzero(18..20) && flags & URG == 0, "uptr+"),
            (flags & URG != 0, "urgf+"),
            (flags & PSH != 0, "pushf+"),
            (options.zero_timestamp, "ts1-"),
            (options.nonzero_echo, "ts2+"),
            (options.nonzero_padding, "opt+"),
            (options.excessive_wscale, "exws"),
            (options.malformed, "bad"),
        ];

        let mut p0f = String::with_capacity(96);
        let version = if ip.df.is_some() { 4 } else { 6 };
        let _ = write!(p0f, "{version}:{}+", ip.ttl);
        if hops <= HOPS_MAX {
            let _ = write!(p0f, "{hops}");
        } else {
            p0f.push('?');
        }
        let _ = write!(p0f, ":{}:{}:", ip.option_bytes, options.mss_shown);
        match multiple(window, &ip, tcp_header_bytes, &options) {
            Some((unit, times)) => {
                let _ = write!(p0f, "{unit}*{times}");
            }
            None => {
                let _ = write!(p0f, "{window}");
            }
        }
        let _ = write!(p0f, ",{}:{}:", options.wscale_shown, options.layout);
        let mut separator = "";
        for (_, name) in quirks.iter().filter(|(present, _)| *present) {
            p0f.push_str(separator);
            p0f.push_str(name);
            separator = ",";
        }
        let payload = ip.total_bytes > ip.header_bytes + tcp_header_bytes;
        p0f.push_str(if payload { ":+" } else { ":0" });

        Some(Self {
            ttl: ip.ttl,
            hops_guess: (hops <= HOPS_MAX).then_some(hops),
            window,
            wscale: options.wscale,
            mss: options.mss,
            options: options.layout.into(),
            df: ip.df,
            ecn: flags & (ECE | CWR) == ECE | CWR,
            dscp: ip.dscp,
            p0f: p0f.into(),
        })
    }
}

/// The window as a multiple of a segment or packet size, if it is one.
fn multiple(
    window: u16,
    ip: &Ip,
    tcp_header_bytes: usize,
    options: &Options,
) -> Option<(&'static str, u16)> {
    let mss = options.mss_shown;
    if window == 0 || mss < MSS_MIN_FOR_MULTIPLE {
        return None;
    }
    let v6 = ip.df.is_none();
    let headers = u16::try_from(ip.header_bytes + tcp_header_bytes).unwrap_or(u16::MAX);
    let stamped = options.own_timestamp != 0;
    [
        (true, "mss", mss),
        (stamped, "mss", mss - 12),
        (true, "mss", 1460),
        (true, "mss", 1448),
        (v6, "mss", 1440),
        (v6, "mss", 1428),
        (true, "mtu", mss.saturating_add(40)),
        (true, "mtu", mss.saturating_add(headers)),
        (v6, "mtu", mss.saturating_add(60)),
        (true, "mtu", 1500),
    ]
    .into_iter()
    .find(|(applies, _, divisor)| *applies && window.is_multiple_of(*divisor))
    .map(|(_, unit, divisor)| (unit, window / divisor))
}

struct Ip {
    header_bytes: usize,
    total_bytes: usize,
    /// Of IPv4 options or IPv6 extension headers.
    option_bytes: usize,
    ttl: u8,
    dscp: u8,
    ecn: u8,
    /// Absent for IPv6.
    df: Option<bool>,
    id: u16,
    reserved_bit: bool,
    flow_label: bool,
}

impl Ip {
    fn parse(headers: &[u8]) -> Option<Self> {
        match headers.first()? >> 4 {
            4 => {
                let fixed: &[u8; 20] = headers.first_chunk()?;
                let header_bytes = usize::from(fixed[0] & 0x0f) * 4;
                Some(Self {
                    header_bytes,
                    total_bytes: usize::from(u16_at(fixed, 2)),
                    option_bytes: header_bytes.checked_sub(20)?,
                    ttl: fixed[8],
                    dscp: fixed[1] >> 2,
                    ecn: fixed[1] & 3,
                    df: Some(fixed[6] & 0x40 != 0),
                    id: u16_at(fixed, 4),
                    reserved_bit: fixed[6] & 0x80 != 0,
                    flow_label: false,
                })
            }
            6 => {
                let fixed: &[u8; 40] = headers.first_chunk()?;
                let header_bytes = end_of_extensions(headers, fixed[6])?;
                Some(Self {
                    header_bytes,
                    total_bytes: 40 + usize::from(u16_at(fixed, 4)),
                    option_bytes: header_bytes - 40,
                    ttl: fixed[7],
                    dscp: (fixed[0] & 0x0f) << 2 | fixed[1] >> 6,
                    ecn: fixed[1] >> 4 & 3,
                    df: None,
                    id: 0,
                    reserved_bit: false,
                    flow_label: fixed[1] & 0x0f != 0 || fixed[2] != 0 || fixed[3] != 0,
                })
            }
            _ => None,
        }
    }
}

/// Steps over IPv6 extension headers to the TCP header.
fn end_of_extensions(headers: &[u8], mut next: u8) -> Option<usize> {
    const TCP: u8 = 6;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    let mut at = 40;
    while next != TCP {
        let extension = headers.get(at..)?;
        let length = usize::from(*extension.get(1)?);
        at += match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => (length + 1) * 8,
            FRAGMENT => 8,
            AUTHENTICATION => (length + 2) * 4,
            _ => return None,
        };
        next = extension[0];
    }
    Some(at)
}

/// TCP options the way p0f reads them, which is not quite the way a kernel does: an option of a
/// known kind has its usual length whatever length it claims, and reading goes on behind it.
#[derive(Default)]
struct Options {
    layout: String,
    /// Well-formed ones only, and none behind a malformed option.
    mss: Option<u16>,
    /// Like `mss`.
    wscale: Option<u8>,
    /// What the signature shows, well-formed or not; 0 where there is none.
    mss_shown: u16,
    /// Like `mss_shown`.
    wscale_shown: u8,
    own_timestamp: u32,
    // Of any option of the kind, where one comes twice.
    zero_timestamp: bool,
    nonzero_echo: bool,
    excessive_wscale: bool,
    nonzero_padding: bool,
    malformed: bool,
}

impl Options {
    fn parse(mut rest: &[u8]) -> Self {
        let mut options = Self::default();
        while let [kind, after @ ..] = rest {
            if !options.layout.is_empty() {
                options.layout.push(',');
            }
            match kind {
                0 => {
                    let _ = write!(options.layout, "eol+{}", after.len());
                    // p0f passes over the very last byte.
                    options.nonzero_padding = after
                        .split_last()
                        .is_some_and(|(_, padding)| padding.iter().any(|byte| *byte != 0));
                    break;
                }
                1 => {
                    options.layout.push_str("nop");
                    rest = after;
                    continue;
                }
                2 => options.layout.push_str("mss"),
                3 => options.layout.push_str("ws"),
                4 => options.layout.push_str("sok"),
                5 => options.layout.push_str("sack"),
                8 => options.layout.push_str("ts"),
                _ => {
                    let _ = write!(options.layout, "?{kind}");
                }
            }
            let claimed = after.first().map_or(0, |length| usize::from(*length));
            let length = match kind {
                2 => 4,
                3 => 3,
                4 => 2,
                8 => 10,
                // One to four blocks.
                5 if !(10..=34).contains(&claimed) => 0,
                // All options together have 40 bytes.
                _ if claimed > 40 => 0,
                _ => claimed,
            };
            let Some(value) = rest.get(2..length) else {
                options.malformed = true;
                break;
            };
            options.malformed |= claimed != length;
            match (kind, value) {
                (2, [high, low]) => options.take_mss(u16::from_be_bytes([*high, *low])),
                (3, [scale]) => options.take_wscale(*scale),
                (8, [a, b, c, d, e, f, g, h]) => {
                    options.own_timestamp = u32::from_be_bytes([*a, *b, *c, *d]);
                    options.zero_timestamp |= options.own_timestamp == 0;
                    options.nonzero_echo |= [*e, *f, *g, *h] != [0; 4];
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        options
    }

    fn take_mss(&mut self, mss: u16) {
        self.mss_shown = mss;
        if !self.malformed {
            self.mss = Some(mss);
        }
    }

    fn take_wscale(&mut self, wscale: u8) {
        self.wscale_shown = wscale;
        self.excessive_wscale |= wscale > WSCALE_MAX;
        if !self.malformed {
            self.wscale = Some(wscale);
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    /// `hex` is an IP and a TCP header; blanks do not matter.
    fn check(hex: &str, answer: Expect) {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| (pair[0] << 4 | pair[1]) as u8)
            .collect();
        let text = match Syn::parse(&bytes) {
            None => "not a SYN".to_owned(),
            Some(syn) => {
                let Syn {
                    ttl,
                    hops_guess,
                    window,
                    wscale,
                    mss,
                    options,
                    df,
                    ecn,
                    dscp,
                    p0f,
                } = syn;
                format!(
                    "{p0f}\nttl {ttl} hops {hops_guess:?} window {window} wscale {wscale:?} \
                     mss {mss:?} options {options} df {df:?} ecn {ecn} dscp {dscp}"
                )
            }
        };
        answer.assert_eq(&text);
    }

    #[test]
    fn linux_over_loopback() {
        // 65495 * 1 = 65495: the loopback's MSS is the window.
        check(
            "4500003c 1c464000 40060000 7f000001 7f000001
             d431 1f90 12345678 00000000 a002ffd7 fe300000
             0204ffd7 0402080a 0000abcd 00000000 01030307",
            expect![[r#"
                4:64+0:0:65495:mss*1,7:mss,sok,ts,nop,ws:df,id+:0
                ttl 64 hops Some(0) window 65495 wscale Some(7) mss Some(65495) options mss,sok,ts,nop,ws df Some(true) ecn false dscp 0"#]],
        );
    }

    #[test]
    fn linux_eleven_hops_away_with_ecn() {
        check(
            "45b8003c 00004000 35060000 c0000201 c6336401
             d431 01bb 12345678 00000000 a0c2faf0 fe300000
             020405b4 0402080a 0000abcd 00000000 01030307",
            expect![[r#"
                4:53+11:0:1460:mss*44,7:mss,sok,ts,nop,ws:df,ecn:0
                ttl 53 hops Some(11) window 64240 wscale Some(7) mss Some(1460) options mss,sok,ts,nop,ws df Some(true) ecn true dscp 46"#]],
        );
    }

    #[test]
    fn a_window_without_a_multiple_and_no_timestamp() {
        check(
            "45000034 1c464000 80060000 c0000201 c6336401
             d431 01bb 12345678 00000000 8002ffff fe300000
             020405ac 01030308 01010402",
            expect![[r#"
                4:128+0:0:1452:65535,8:mss,nop,ws,nop,nop,sok:df,id+:0
                ttl 128 hops Some(0) window 65535 wscale Some(8) mss Some(1452) options mss,nop,ws,nop,nop,sok df Some(true) ecn false dscp 0"#]],
        );
    }

    #[test]
    fn timestamps_take_twelve_bytes_from_a_segment() {
        // 14440 = 10 * (1456 - 12), and no multiple of 1456.
        check(
            "4500003c 1c464000 40060000 c0000201 c6336401
             d431 01bb 12345678 00000000 a0023868 fe300000
             020405b0 0402080a 0000abcd 00000000 01030307",
            expect![[r#"
                4:64+0:0:1456:mss*10,7:mss,sok,ts,nop,ws:df,id+:0
                ttl 64 hops Some(0) window 14440 wscale Some(7) mss Some(1456) options mss,sok,ts,nop,ws df Some(true) ecn false dscp 0"#]],
        );
    }

    #[test]
    fn ipv6_with_a_flow_label_behind_an_extension_header() {
        check(
            "600abcde 0030 00 40 20010db8000000000000000000000001 20010db8000000000000000000000002
             06 00 010400000000
             d431 01bb 12345678 00000000 a002fd20 fe300000
             020405a0 0402080a 0000abcd 00000000 01030307",
            expect![[r#"
                6:64+0:8:1440:mss*45,7:mss,sok,ts,nop,ws:flow:0
                ttl 64 hops Some(0) window 64800 wscale Some(7) mss Some(1440) options mss,sok,ts,nop,ws df None ecn false dscp 0"#]],
        );
    }

    #[test]
    fn a_crafted_packet_shows_every_quirk_it_has() {
        check(
            "4500003d 00008000 08060000 c0000201 c6336401
             d431 01bb 00000000 01000000 a02a0400 fe300001
             020405b4 03030f08 0a000000 00000000 0100fe01",
            expect![[r#"
                4:8+24:0:1460:1024,15:mss,ws,ts,eol+2:id-,0+,seq-,ack+,urgf+,pushf+,ts1-,ts2+,opt+,exws:+
                ttl 8 hops Some(24) window 1024 wscale Some(15) mss Some(1460) options mss,ws,ts,eol+2 df Some(false) ecn false dscp 0"#]],
        );
    }

    #[test]
    fn a_scanner_without_options_too_far_away_to_guess() {
        check(
            "45000028 d4310000 d0060000 c0000201 c6336401
             d431 01bb 12345678 00000000 50020400 fe300000",
            expect![[r#"
                4:208+?:0:0:1024,0:::0
                ttl 208 hops None window 1024 wscale None mss None options  df Some(false) ecn false dscp 0"#]],
        );
    }

    #[test]
    fn options_that_run_over_the_end_are_bad() {
        check(
            "4500002c d4310000 40060000 c0000201 c6336401
             d431 01bb 12345678 00000000 60020400 fe300000 02060102",
            expect![[r#"
                4:64+0:0:258:1024,0:mss:bad:0
                ttl 64 hops Some(0) window 1024 wscale None mss None options mss df Some(false) ecn false dscp 0"#]],
        );
    }

    #[test]
    fn the_nonce_bit_is_about_congestion_too() {
        check(
            "45000028 d4310000 40060000 c0000201 c6336401
             d431 01bb 12345678 00000000 51020400 fe300000",
            expect![[r#"
                4:64+0:0:0:1024,0::ecn:0
                ttl 64 hops Some(0) window 1024 wscale None mss None options  df Some(false) ecn false dscp 0"#]],
        );
    }

    #[test]
    fn anything_else_is_not_a_syn() {
        check("", expect!["not a SYN"]);
        check("45000028 d4310000", expect!["not a SYN"]);
        check("55", expect!["not a SYN"]);
        // A SYN-ACK.
        check(
            "45000028 d4310000 40060000 c0000201 c6336401
             d431 01bb 12345678 00000000 50120400 fe300000",
            expect!["not a SYN"],
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            version in prop::sample::select(vec![0x45_u8, 0x60]),
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let _ = Syn::parse(&bytes);
        }
    }
}
