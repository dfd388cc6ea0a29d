//! Is the signature of a SYN what the real p0f prints for it, byte for byte?
//!
//! `p0f.txt` holds SYNs and what p0f 3.09b says of them, so that the answer is known where p0f is not
//! installed. Where it is (Debian's package `p0f`), it is asked again, and about thousands of random
//! SYNs too. `P0F_UPDATE=1` writes the file anew.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use calltap_correlate::syn::Syn;

/// Random SYNs asked of p0f in one run; ports tell them apart.
const RANDOM_SYNS: u16 = 20_000;
const FIRST_PORT: u16 = 10_000;

#[test]
fn the_signatures_on_file_are_ours() {
    let mut seen = 0;
    for line in on_file().lines().filter(|line| !line.starts_with('#')) {
        let (hex, signature) = line.split_once(' ').expect("bytes, a blank, a signature");
        assert_eq!(ours(&bytes(hex)), signature, "{hex}");
        seen += 1;
    }
    assert_eq!(seen, made_up().len());
}

#[test]
fn the_real_p0f_agrees() {
    // Without an argument it would listen; this one it does not know.
    if Command::new("p0f")
        .arg("-h")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("SKIPPED: p0f is not installed");
        return;
    }
    let made_up = made_up();
    let answers = p0f(&made_up);
    let mut text =
        "# IP and TCP header of a SYN, and the raw signature that p0f 3.09b gives it.\n".to_owned();
    for (syn, answer) in made_up.iter().zip(&answers) {
        let hex: String = syn.iter().map(|byte| format!("{byte:02x}")).collect();
        let answer = answer.as_deref().expect("p0f knows each of them");
        let _ = writeln!(text, "{hex} {answer}");
    }
    if std::env::var_os("P0F_UPDATE").is_some() {
        fs::write(file(), &text).unwrap();
    }
    assert!(
        text == on_file(),
        "p0f.txt is not what p0f says; P0F_UPDATE=1 writes it anew"
    );

    let seed = std::env::var("P0F_SEED").map_or(1, |seed| seed.parse::<u64>().unwrap());
    let mut random = Random(seed);
    let syns: Vec<Vec<u8>> = (0..RANDOM_SYNS)
        .map(|at| random.syn().packet(FIRST_PORT + at))
        .collect();
    let mut different = String::new();
    let mut count = 0;
    for (syn, answer) in syns.iter().zip(p0f(&syns)) {
        let answer = answer.expect("p0f knows each of them");
        let ours = ours(syn);
        if ours != answer {
            count += 1;
            if count <= 20 {
                let hex: String = syn.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = writeln!(different, "{hex}\n  p0f  {answer}\n  ours {ours}");
            }
        }
    }
    assert_eq!(count, 0, "of {RANDOM_SYNS} SYNs, seed {seed}:\n{different}");
}

fn ours(syn: &[u8]) -> String {
    Syn::parse(syn).map_or_else(|| "not a SYN".to_owned(), |syn| syn.p0f.to_string())
}

fn file() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "p0f.txt"]
        .iter()
        .collect()
}

fn on_file() -> String {
    fs::read_to_string(file()).unwrap_or_default()
}

/// Blanks do not matter.
fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.replace(' ', "");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// What p0f prints for each of these, by asking it.
fn p0f(syns: &[Vec<u8>]) -> Vec<Option<String>> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let serial = ASKED.fetch_add(1, Ordering::Relaxed);
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let [capture, log] = ["pcap", "log"]
        .map(|kind| directory.join(format!("p0f-{}-{serial}.{kind}", std::process::id())));
    // Raw IP, no link layer: p0f takes IPv4 and IPv6 from one capture then.
    const LINKTYPE_RAW: u32 = 101;
    let mut pcap = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, LINKTYPE_RAW] {
        pcap.extend(word.to_ne_bytes());
    }
    for syn in syns {
        let bytes = u32::try_from(syn.len()).unwrap();
        for word in [1_700_000_000, 0, bytes, bytes] {
            pcap.extend(word.to_ne_bytes());
        }
        pcap.extend(syn);
    }
    fs::write(&capture, pcap).unwrap();
    let _ = fs::remove_file(&log);
    let status = Command::new("p0f")
        .args(["-f", "/etc/p0f/p0f.fp", "-m", "100000,100000", "-r"])
        .arg(&capture)
        .arg("-o")
        .arg(&log)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let text = fs::read_to_string(&log).unwrap();
    let _ = fs::remove_file(&capture);
    let _ = fs::remove_file(&log);
    let mut answers: HashMap<u16, String> = HashMap::new();
    for line in text.lines().filter(|line| line.contains("mod=syn|")) {
        let field = |name: &str| {
            let start = line.find(name).expect(name) + name.len();
            line[start..].split('|').next().unwrap()
        };
        let port = field("cli=").rsplit('/').next().unwrap();
        answers.insert(port.parse().unwrap(), field("raw_sig=").to_owned());
    }
    syns.iter()
        .map(|syn| {
            let tcp = if syn[0] >> 4 == 4 {
                usize::from(syn[0] & 15) * 4
            } else {
                40
            };
            answers.remove(&u16::from_be_bytes([syn[tcp], syn[tcp + 1]]))
        })
        .collect()
}

/// A SYN in parts; the default is what Linux sends over Ethernet, without options.
#[derive(Clone)]
struct Parts {
    v6: bool,
    ttl: u8,
    traffic_class: u8,
    flow_label: u32,
    id: u16,
    /// The upper three bits of the fragment word.
    ip_flags: u8,
    ip_options: Vec<u8>,
    sequence: u32,
    acknowledged: u32,
    /// The lower half of the byte that holds the header's length.
    reserved: u8,
    flags: u8,
    window: u16,
    urgent: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

const DF: u8 = 0x40;
const RESERVED: u8 = 0x80;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

impl Default for Parts {
    fn default() -> Self {
        Self {
            v6: false,
            ttl: 64,
            traffic_class: 0,
            flow_label: 0,
            id: 1,
            ip_flags: DF,
            ip_options: Vec::new(),
            sequence: 0x1234_5678,
            acknowledged: 0,
            reserved: 0,
            flags: SYN,
            window: 64_240,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }
}

impl Parts {
    fn packet(&self, port: u16) -> Vec<u8> {
        let padded = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let options = padded(&self.options);
        let mut tcp = Vec::new();
        tcp.extend(port.to_be_bytes());
        tcp.extend(80_u16.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        tcp.extend([words << 4 | self.reserved, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(options);
        tcp.extend(&self.payload);
        let mut packet = Vec::new();
        if self.v6 {
            let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
            packet.extend(first.to_be_bytes());
            packet.extend(u16::try_from(tcp.len()).unwrap().to_be_bytes());
            packet.extend([6, self.ttl]);
            packet.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
            packet.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).octets());
        } else {
            let ip_options = padded(&self.ip_options);
            let words = u8::try_from(5 + ip_options.len() / 4).unwrap();
            let total = usize::from(words) * 4 + tcp.len();
            packet.extend([4 << 4 | words, self.traffic_class]);
            packet.extend(u16::try_from(total).unwrap().to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([self.ip_flags, 0, self.ttl, 6, 0, 0]);
            packet.extend([192, 0, 2, 1, 198, 51, 100, 1]);
            packet.extend(ip_options);
        }
        packet.extend(tcp);
        packet
    }
}

/// One of everything the grammar has a word for, and its edges.
fn made_up() -> Vec<Vec<u8>> {
    let plain = Parts {
        options: bytes("020405b4"),
        ..Parts::default()
    };
    let mut all = vec![plain.clone()];
    let mut vary = |change: &dyn Fn(&mut Parts)| {
        for v6 in [false, true] {
            let mut parts = Parts {
                v6,
                ..plain.clone()
            };
            change(&mut parts);
            all.push(parts);
        }
    };
    for ttl in [
        0, 1, 28, 29, 32, 33, 64, 65, 92, 93, 127, 128, 129, 219, 220, 255,
    ] {
        vary(&|syn| syn.ttl = ttl);
    }
    for traffic_class in [1, 2, 3, 4, 0xb8, 0xff] {
        vary(&|syn| syn.traffic_class = traffic_class);
    }
    for flow_label in [1, 0x10000, 0xf_ffff] {
        vary(&|syn| syn.flow_label = flow_label);
    }
    for (ip_flags, id) in [
        (0, 0),
        (0, 1),
        (DF, 0),
        (DF, 7),
        (RESERVED, 0),
        (RESERVED | DF, 9),
    ] {
        vary(&|syn| (syn.ip_flags, syn.id) = (ip_flags, id));
    }
    for ip_options in [
        "01010101",
        "072704000000000000000000000000000000000000000000000000000000000000000000000000",
    ] {
        vary(&|syn| syn.ip_options = bytes(ip_options));
    }
    vary(&|syn| syn.sequence = 0);
    for acknowledged in [1, 0x0100_0000, 0x0200_0000, 0x8000_0000, u32::MAX] {
        vary(&|syn| syn.acknowledged = acknowledged);
    }
    for reserved in [1, 2, 4, 8] {
        vary(&|syn| syn.reserved = reserved);
    }
    for flags in [URG, PSH, ECE, CWR, ECE | CWR, URG | PSH] {
        vary(&|syn| syn.flags = SYN | flags);
    }
    vary(&|syn| syn.urgent = 1);
    vary(&|syn| (syn.urgent, syn.flags) = (1, SYN | URG));
    vary(&|syn| syn.payload = b"GET".to_vec());
    // Windows: each divisor, its neighbours, and what divides by two of them.
    for mss in [0_u16, 99, 100, 536, 1440, 1460, 65_495] {
        for stamped in [false, true] {
            for divisor in [
                mss,
                mss.wrapping_sub(12),
                1460,
                1448,
                1440,
                1428,
                mss.wrapping_add(40),
                mss.wrapping_add(60),
                1500,
                1480,
            ] {
                let window = divisor.checked_mul(3).unwrap_or(divisor);
                vary(&|syn| {
                    syn.window = window;
                    syn.options = [&[2, 4][..], &mss.to_be_bytes()].concat();
                    if stamped {
                        syn.options.extend(bytes("01010 80a 00000001 00000000"));
                    }
                });
            }
        }
    }
    for window in [0, 1, 1024, 65_535] {
        vary(&|syn| syn.window = window);
    }
    for options in OPTIONS {
        vary(&|syn| syn.options = bytes(options));
    }
    // What changes IPv4 alone leaves IPv6 as it was.
    let mut seen = HashSet::new();
    all.retain(|parts| seen.insert(parts.packet(0)));
    (FIRST_PORT..)
        .zip(all)
        .map(|(port, parts)| parts.packet(port))
        .collect()
}

/// Layouts as systems send them; each option alone; then well and badly cut ones.
const OPTIONS: &[&str] = &[
    "",
    "020405b4 0402 080a0000abcd00000000 01 030307",
    "020405b4 01 030308 01 01 0402",
    "020405b4 01 030306 01 01 080a0000abcd00000000 0402 00 00",
    "020405b4 0402 01 030302",
    "020405b4 0402 080a0000abcd00000001",
    "020405b4 0402 080a0000000000000000 01 03030a",
    "020405b4 0402 080a0000000000000005 01 03030f",
    "01 01 01 01",
    "03030e 00",
    "03030f 00",
    "0303ff 00",
    "0402 01 01",
    "050a0000000000000000 01 01",
    "05120000000000000000000000000000000000 00 00",
    "05220000000000000000000000000000000000000000000000000000000000000000 00 00",
    "080a0000000000000000 01 01",
    "080a0000000100000001 01 01",
    "1e04 00ff",
    "fd02 01 01",
    "1312 00112233445566778899aabbccddeeff 00 00",
    "2206aabbccdd 01 01",
    "fe28 00000000000000000000000000000000000000000000000000000000000000000000000000 00",
    // Twice the same: the last one counts.
    "02040000 020405b4",
    "020405b4 02040218",
    "080a0000000000000000 080a0000000100000001",
    "0402 0402",
    // The end of the list, and what lies behind it.
    "00000000",
    "00010000",
    "00000001",
    "00000100",
    "01 00 0100",
    "01010001",
    "00 080a00000000000000 01 00",
    "0000000000000001",
    "020405b4 00 0101 00",
    // Lengths that are wrong, and lengths that run over the end.
    "02030500",
    "0205050000000000",
    "02060102",
    "0200ffff",
    "0204 0101",
    "01 01 0204",
    "01 0204 05",
    "01 01 01 02",
    "0302 0000",
    "0304 0000",
    "0301 ffff",
    "01 01 0303",
    "01 01 01 03",
    "0403 0000 00",
    "0403 0101",
    "0401 0101",
    "01 01 01 04",
    "0502 0000",
    "0509 000000000000000000",
    "050b 000000000000000000 00",
    "0523 0000000000000000000000000000000000000000000000000000000000000000000000",
    "0512 0000000000000000",
    "01 01 01 05",
    "0809 00000000000000 01 01",
    "080b 000000000000000000 00",
    "080a 00000001",
    "01 01 01 08",
    "fd00 ffff",
    "fd01 ffff",
    "fd05 ff01",
    "01 01 01 fe",
    "fe29 0000000000000000000000000000000000000000000000000000000000000000000000000000",
    "feff 0000",
    // Something well-formed behind something that is not.
    "03030e 0303 07 0507 01",
    "0205 05b4 020405b4",
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// `usual` most of the time.
    fn mostly<T>(&mut self, usual: T, other: impl FnOnce(&mut Self) -> T) -> T {
        if self.below(4) > 0 {
            usual
        } else {
            other(self)
        }
    }

    fn syn(&mut self) -> Parts {
        let mut options = Vec::new();
        let room = self.below(11) as usize * 4;
        while options.len() < room {
            self.option(&mut options);
        }
        options.truncate(room);
        let usual = Parts::default();
        let divisor = self.one(&[536_u16, 1360, 1428, 1440, 1448, 1452, 1460, 1480, 1500]);
        let window = divisor.wrapping_mul(1 + self.below(45) as u16);
        let window = self.mostly(window, |random| random.next() as u16);
        Parts {
            v6: self.below(2) == 0,
            ttl: self.mostly(usual.ttl, Self::byte),
            traffic_class: self.mostly(usual.traffic_class, Self::byte),
            flow_label: self.mostly(usual.flow_label, |random| random.below(1 << 20) as u32),
            id: self.mostly(0, |random| random.next() as u16),
            ip_flags: self.mostly(DF, |random| random.one(&[0, DF, RESERVED, DF | RESERVED])),
            ip_options: self.mostly(Vec::new(), |random| vec![1; random.below(11) as usize * 4]),
            sequence: self.mostly(usual.sequence, |_| 0),
            acknowledged: self.mostly(0, |random| random.next() as u32),
            reserved: self.mostly(0, |random| random.byte() & 15),
            flags: self.mostly(SYN, |random| SYN | random.byte() & (PSH | URG | ECE | CWR)),
            window,
            urgent: self.mostly(0, |random| random.next() as u16),
            options,
            payload: self.mostly(Vec::new(), |random| vec![7; random.below(9) as usize]),
        }
    }

    fn option(&mut self, out: &mut Vec<u8>) {
        let kind = self.one(&[0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 8, 8, 8, 30, 253]);
        let kind = if self.below(30) == 0 {
            self.byte()
        } else {
            kind
        };
        // Rarely, or every list would end here.
        if kind == 0 && self.below(3) > 0 {
            return;
        }
        out.push(kind);
        if kind <= 1 {
            return;
        }
        let length: u8 = match kind {
            2 => 4,
            3 => 3,
            4 => 2,
            5 => 10,
            8 => 10,
            _ => 2 + self.below(8) as u8,
        };
        out.push(if self.below(15) == 0 {
            self.one(&[0, 1, 2, 3, 5, 9, 11, 34, 40, 41, 255])
        } else {
            length
        });
        match kind {
            2 => {
                let mss = self.one(&[0, 99, 100, 101, 536, 1360, 1400, 1440, 1452, 1460, 8960]);
                let mss: u16 = self.mostly(mss, |random| random.next() as u16);
                out.extend(mss.to_be_bytes());
            }
            3 => out.push(self.below(17) as u8),
            _ => {
                for _ in 2..length {
                    out.push(self.mostly(0, Self::byte));
                }
            }
        }
    }
}
