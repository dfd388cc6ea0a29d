//! What a packet capture shows of a call, its record says too: `curl` from another host, `tcpdump` on
//! the gateway's interface, `tshark` to read the capture, and nothing of calltap in between.

mod calltap;

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calltap_loadtest::backend::{Backend, Transport};
use calltap_loadtest::gateway::{Gateway, Setup};
use calltap_loadtest::lab::{self, Lab, Namespace};
use calltap_loadtest::records::{Record, Records};

const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd91, 0, 0, 1, 0, 0, 0, 2));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd91, 0, 0, 1, 0, 0, 0, 1));

#[test]
fn a_call_looks_in_its_record_as_it_does_on_the_wire() {
    if let Some(reason) = lab::missing() {
        eprintln!("SKIPPED: a capture needs network namespaces of its own: {reason}");
        return;
    }
    let lab = Lab::build().unwrap();
    for (host, own) in [(&lab.client, CLIENT_V6), (&lab.gateway, GATEWAY_V6)] {
        host.ip(&["addr", "add", &format!("{own}/64"), "dev", "front", "nodad"])
            .unwrap();
        // Packets on the wire shall be the stack's own.
        inside(host, "ethtool")
            .args(["-K", "front", "gso", "off", "tso", "off", "gro", "off"])
            .output()
            .unwrap();
    }
    let listener = lab
        .upstream
        .run(|| TcpListener::bind((lab::UPSTREAM, 0)))
        .unwrap()
        .unwrap();
    let backend = Backend::serve(listener, Transport::Plain).unwrap();
    for address in [lab::GATEWAY, GATEWAY_V6] {
        let mut setup = Setup::new(calltap::binary(), backend.address());
        setup.tap = "ebpf";
        setup.address = address;
        setup.plain_routes = true;
        setup.wrapper = lab.gateway.wrapper();
        setup.admin_namespace = Some(lab.gateway.clone());
        let gateway = Gateway::start(&setup).unwrap();
        let packets = capture(&lab, &gateway);
        let record = the_record(&gateway);
        compare(&record, &packets, gateway.plain());
    }
}

fn inside(host: &Namespace, program: &str) -> Command {
    let words = host.wrapper();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program);
    command
}

/// Kills the capture if the test fails before it ends it.
struct Capture(Child);

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One call by curl, as tcpdump saw it and tshark tells it.
fn capture(lab: &Lab, gateway: &Gateway) -> Vec<Packet> {
    let server = gateway.plain();
    let file = gateway.directory().join("capture.pcap");
    let mut tcpdump = inside(&lab.gateway, "tcpdump")
        .args(["-i", "front", "--immediate-mode", "-U", "-Z", "root", "-w"])
        .arg(&file)
        .args(["tcp", "port", &server.port().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("tcpdump, which scripts/bootstrap --test installs");
    let stderr = tcpdump.stderr.take().expect("piped");
    let tcpdump = Capture(tcpdump);
    let mut said = BufReader::new(stderr).lines();
    assert!(said.any(|line| line.unwrap().contains("listening on")));
    let url = format!("http://{server}/bytes/20000");
    let curl = inside(&lab.client, "curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
        .output()
        .expect("curl, which scripts/bootstrap --test installs");
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "200");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let packets = dissect(&file);
        // Both have said goodbye, so everything before was captured.
        if packets
            .iter()
            .filter(|packet| packet.flags & FIN != 0)
            .count()
            >= 2
        {
            drop(tcpdump);
            return packets;
        }
        assert!(
            Instant::now() < deadline,
            "no end in the capture: {packets:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

const FIN: u64 = 1;
const SYN: u64 = 2;
const ACK: u64 = 16;

#[derive(Debug)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    ip_bytes: u64,
    ttl: u64,
    sequence: u64,
    payload: u64,
    flags: u64,
    window: u64,
    options: Vec<u8>,
}

/// Every packet of a capture, in the words of tshark.
fn dissect(file: &Path) -> Vec<Packet> {
    let fields = [
        "ip.src",
        "ipv6.src",
        "tcp.srcport",
        "ip.dst",
        "ipv6.dst",
        "tcp.dstport",
        "ip.len",
        "ipv6.plen",
        "ip.ttl",
        "ipv6.hlim",
        "tcp.seq_raw",
        "tcp.len",
        "tcp.flags",
        "tcp.window_size_value",
        "tcp.options",
    ];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(["-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark
        .output()
        .expect("tshark, which scripts/bootstrap --test installs");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(packet).collect()
}

fn packet(line: &str) -> Packet {
    let cells: Vec<&str> = line.split('\t').collect();
    let number = |cell: usize| -> u64 {
        let text = cells[cell];
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
            None => text.parse().unwrap_or_else(|_| panic!("{cell}: {line}")),
        }
    };
    let is_v4 = !cells[0].is_empty();
    let of = |v4: usize, v6: usize| if is_v4 { v4 } else { v6 };
    let end = |address: usize, port: usize| {
        SocketAddr::new(cells[address].parse().unwrap(), number(port) as u16)
    };
    const IPV6_HEADER: u64 = 40;
    let hex = cells[14].replace(':', "");
    Packet {
        from: end(of(0, 1), 2),
        to: end(of(3, 4), 5),
        ip_bytes: match is_v4 {
            true => number(6),
            false => number(7) + IPV6_HEADER,
        },
        ttl: number(of(8, 9)),
        sequence: number(10),
        payload: number(11),
        flags: number(12),
        window: number(13),
        options: (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect(),
    }
}

fn the_record(gateway: &Gateway) -> Record {
    gateway.wait_rest(Duration::from_secs(30)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut records = Records::read(gateway.records()).unwrap().records;
        if let Some(record) = records.pop() {
            assert!(records.is_empty(), "one call, one record");
            return record;
        }
        assert!(Instant::now() < deadline, "no record");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A SYN's options as the record lists them, with the values of some.
fn options(bytes: &[u8]) -> (String, u64, u64) {
    let (mut names, mut mss, mut shift) = (Vec::new(), 0, 0);
    let mut at = 0;
    while at < bytes.len() {
        let value = |from: usize, to: usize| {
            bytes[at + from..at + to]
                .iter()
                .fold(0, |all, byte| all << 8 | u64::from(*byte))
        };
        let name = match bytes[at] {
            1 => "nop",
            2 => {
                mss = value(2, 4);
                "mss"
            }
            3 => {
                shift = value(2, 3);
                "ws"
            }
            4 => "sok",
            8 => "ts",
            other => panic!("a SYN with option {other}"),
        };
        names.push(name);
        at += if bytes[at] == 1 {
            1
        } else {
            usize::from(bytes[at + 1])
        };
    }
    (names.join(","), mss, shift)
}

fn compare(record: &Record, packets: &[Packet], server: SocketAddr) {
    let syn = packets
        .iter()
        .find(|packet| packet.flags & (SYN | ACK) == SYN)
        .expect("a SYN");
    let (layout, mss, shift) = options(&syn.options);
    let of = |from_client: bool| {
        packets
            .iter()
            .filter(move |packet| (packet.to == server) == from_client && packet.payload > 0)
    };
    let sum = |from_client: bool, what: fn(&Packet) -> u64| of(from_client).map(what).sum::<u64>();
    let request = of(true).next().expect("a request");
    let end = of(true).next_back().expect("a request");
    let texts = [
        ("network.peer.address", syn.from.ip().to_string()),
        ("network.local.address", server.ip().to_string()),
        ("client.syn.options", layout),
        ("coverage", "ebpf".to_owned()),
        ("attribution", "exact".to_owned()),
    ];
    for (name, seen) in texts {
        assert_eq!(
            record.text(name),
            Some(seen.as_str()),
            "{name}: {}",
            record.json()
        );
    }
    let numbers = [
        ("network.peer.port", u64::from(syn.from.port())),
        ("network.local.port", u64::from(server.port())),
        ("client.syn.ttl", syn.ttl),
        ("client.syn.window", syn.window),
        ("client.syn.mss", mss),
        ("client.syn.wscale", shift),
        ("client.tcp.seq_first", request.sequence),
        ("client.tcp.seq_last", end.sequence + end.payload - 1),
        ("client.ip.ttl_min", request.ttl),
        ("client.wire.bytes_in", sum(true, |packet| packet.payload)),
        ("client.wire.bytes_out", sum(false, |packet| packet.payload)),
        (
            "client.wire.ip_bytes_in",
            sum(true, |packet| packet.ip_bytes),
        ),
        (
            "client.wire.ip_bytes_out",
            sum(false, |packet| packet.ip_bytes),
        ),
        ("client.wire.segments_in", of(true).count() as u64),
        ("client.wire.segments_out", of(false).count() as u64),
    ];
    for (name, seen) in numbers {
        assert_eq!(record.number(name), Some(seen), "{name}: {}", record.json());
    }
}
