"""Makes SYNs that no stack sends, completes their handshakes, and asks for one page on each.

Arguments: device, link-layer address of the next hop, own address, the server's address and port.
Prints a JSON object a line: name, own port, what the server answered the SYN with, whether Linux is
known not to answer it, the signature that p0f ought to give it where it gives none, and whether the page
came. The own kernel knows nothing of these connections and must be kept from resetting them.
"""

import json
import select
import socket
import struct
import sys
import time

from scapy.layers.inet import IP, TCP, IPOption
from scapy.layers.inet6 import HBHOptUnknown, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import Ether
from scapy.packet import Raw

DEVICE, NEXT_HOP, OWN, SERVER = sys.argv[1:5]
PORT = int(sys.argv[5])
V6 = ":" in OWN
FIRST_PORT = 20000
REQUEST = b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MSS = bytes.fromhex("020405b4")
# A SYN that is not answered is sent once more; then the answer is no. Machines may be very busy.
REPEAT_S = 1.0
PATIENCE_S = 30.0
# What waits to be read, at most; nothing may be lost, because nothing is sent again.
BUFFER_BYTES = 16 * 2**20


def ip(extension=None, **fields):
    if V6:
        header = IPv6(src=OWN, dst=SERVER, **fields)
        return header / extension if extension else header
    return IP(src=OWN, dst=SERVER, **{"id": 1, "flags": "DF", **fields})


def tcp(own_port, options=MSS, payload=b"", **fields):
    options += bytes(-len(options) % 4)
    fields = {"flags": "S", "seq": 0x12345678, "window": 64240, **fields}
    words = 5 + len(options) // 4
    return TCP(sport=own_port, dport=PORT, dataofs=words, **fields) / Raw(options + payload)


# Quirks, the words for them in front. Those of IPv4's header have no meaning in IPv6's.
QUIRKS = [
    ("plain", {}, {}),
    ("ecn: congestion experienced", {"tc" if V6 else "tos": 3}, {}),
    ("ecn: ECT(0)", {"tc" if V6 else "tos": 2}, {}),
    ("DSCP only", {"tc" if V6 else "tos": 0xB8}, {}),
    ("TTL 255", {"hlim" if V6 else "ttl": 255}, {}),
    ("TTL 129", {"hlim" if V6 else "ttl": 129}, {}),
    ("TTL 34", {"hlim" if V6 else "ttl": 34}, {}),
    ("TTL 2", {"hlim" if V6 else "ttl": 2}, {}),
    ("seq-", {}, {"seq": 0}),
    ("ack+ in the bit p0f sees", {}, {"ack": 0x01000000}),
    ("ack+ in a bit p0f does not see", {}, {"ack": 0x00000001}),
    ("uptr+", {}, {"urgptr": 7}),
    ("urgf+", {}, {"flags": "SU"}),
    ("urgf+ with a pointer", {}, {"flags": "SU", "urgptr": 7}),
    ("pushf+", {}, {"flags": "SP"}),
    ("ecn: ECE", {}, {"flags": "SE"}),
    ("ecn: CWR", {}, {"flags": "SC"}),
    ("ecn: ECE and CWR", {}, {"flags": "SEC"}),
    ("ecn: the bit beside them", {}, {"flags": "SN"}),
    ("reserved bits of TCP", {}, {"reserved": 3}),
    ("payload", {}, {"payload": b"GET / HTTP/1.1\r\n"}),
]
QUIRKS += [
    ("flow", {"fl": 0xABCDE}, {}),
    ("extension header: hop by hop", {"extension": IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])}, {}),
    ("extension header: destination", {"extension": IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=bytes(12))])}, {}),
] if V6 else [
    ("df, id 0", {"id": 0}, {}),
    ("id-", {"id": 0, "flags": 0}, {}),
    ("no df", {"flags": 0}, {}),
    ("0+", {"flags": "evil"}, {}),
    ("0+ and df", {"flags": "evil+DF"}, {}),
    ("IP options: nop", {"options": [IPOption(b"\x01\x01\x01\x00")]}, {}),
    ("IP options: record route", {"options": [IPOption(b"\x07\x17\x04" + bytes(21))]}, {}),
]
for mss in [0, 1, 99, 100, 536, 1220, 1440, 1460, 8960, 65535]:
    QUIRKS.append((f"MSS {mss}", {}, {"options": b"\x02\x04" + struct.pack("!H", mss)}))
for window in [0, 1, 1024, 1428 * 5, 1440 * 5, 1448 * 5, 1460 * 5, 1480 * 5, 1500 * 5, 1520 * 5, 65535]:
    QUIRKS.append((f"window {window}", {}, {"window": window}))
STAMP = bytes.fromhex("0101080a0000000100000000")
for window in [1448 * 3, 1400 * 3, 1388 * 3, 1440 * 3, 1452 * 3]:
    options = b"\x02\x04" + struct.pack("!H", 1400) + STAMP
    QUIRKS.append((f"window {window}, MSS 1400, stamped", {}, {"window": window, "options": options}))

LAYOUTS = {
    "none": "",
    "as Linux": "020405b4 0402 080a0000abcd00000000 01 030307",
    "as Windows": "020405b4 01 030308 01 01 0402",
    "as macOS": "020405b4 01 030306 01 01 080a0000abcd00000000 0402 00 00",
    "nop": "01010101",
    "mss": "020405b4",
    "ws": "01 030307",
    "sok": "0101 0402",
    "sack": "0101 050a0000000000000000",
    "ts": "0101 080a0000000100000000",
    "ts1-": "0101 080a0000000000000000",
    "ts2+": "0101 080a0000000100000002",
    "ts1- and ts2+": "0101 080a0000000000000002",
    "exws 15": "01 03030f",
    "exws 255": "01 0303ff",
    "ws 14": "01 03030e",
    "?30": "1e04 00ff",
    "?253": "fd04 abcd",
    "?34": "2202 0101",
    "?19": "1312 00112233445566778899aabbccddeeff 0000",
    "eol+0": "020405b4 010101 00",
    "eol+3": "00000000",
    "eol+3, opt+": "00010000",
    "eol+3, not zero where p0f does not look": "00000001",
    "eol+7": "0000000000000000",
    "eol+7 behind mss, opt+": "020405b4 00ff000000000000",
    "40 bytes": "020405b4 0402 080a0000abcd00000000 01 030307 fd14 000000000000000000000000000000000000",
    "mss twice": "02040218 020405b4",
    "ts twice": "080a0000000000000000 080a0000000100000001",
    "bad: mss too short": "02030500",
    "bad: mss too long": "020505b400 000000",
    "bad: mss over the end": "02060102",
    "bad: mss cut": "010101 02",
    "bad: length 0": "0200ffff",
    "bad: ws too long": "03040707",
    "bad: ws of length 1": "0301ffff",
    "bad: sok too long": "04030000",
    "bad: sack too short": "0502 0101",
    "bad: ts too short": "0809 00000001000000 010101",
    "bad: ts cut": "080a 00000001",
    "bad: ? of length 0": "fd00ffff",
    "bad: ? of length 1": "fd01ffff",
    "bad: ? over the end": "fd050101",
}

# p0f passes over packets with extension headers. Its page says how it would count their bytes.
BY_THE_PAGE = {
    "extension header: hop by hop": "6:63+1:8:1460:mss*44,0:mss::0",
    "extension header: destination": "6:63+1:16:1460:mss*44,0:mss::0",
}

# Linux drops a signed segment (RFC 2385) whose key it does not know.
REFUSED = ["options: ?19"]


def made():
    named = [(name, ip_fields, tcp_fields) for name, ip_fields, tcp_fields in QUIRKS]
    named += [(f"options: {name}", {}, {"options": bytes.fromhex(text)}) for name, text in LAYOUTS.items()]
    return {
        FIRST_PORT + at: (name, ip_fields, tcp_fields)
        for at, (name, ip_fields, tcp_fields) in enumerate(named)
    }


class Connection:
    def __init__(self, own_port, name, ip_fields, tcp_fields):
        self.port, self.name = own_port, name
        self.syn = self.frame(ip(**ip_fields) / tcp(own_port, **tcp_fields))
        self.next = (tcp_fields.get("seq", 0x12345678) + 1) % 2**32
        # Once a SYN had timestamps, so must everything, and never older ones.
        self.stamped = b"\x08\x0a" in tcp_fields.get("options", b"") and "bad" not in name
        self.expected, self.answer, self.page, self.over = None, None, b"", False

    def settled(self):
        """A SYN that is not answered, as expected, is not waited for; one that is, is."""
        return self.over or (self.answer is None and self.name in REFUSED)

    @staticmethod
    def frame(packet):
        return bytes(Ether(src=OWN_LINK, dst=NEXT_HOP) / packet)

    def send(self, flags, payload=b"", echo=0):
        options = bytes.fromhex("0101080a") + struct.pack("!II", 0x10000, echo) if self.stamped else b""
        segment = tcp(self.port, options, payload, flags=flags, seq=self.next, ack=self.expected, window=65535)
        LINK.send(self.frame(ip() / segment))

    def take(self, sequence, flags, segment):
        fin, syn, rst, ack = (flags & bit for bit in (1, 2, 4, 16))
        offset = (segment[12] >> 4) * 4
        payload = segment[offset:]
        at = segment.find(b"\x08\x0a", 20, offset)
        echo = struct.unpack_from("!I", segment, at + 2)[0] if at > 0 else 0
        if rst:
            self.answer, self.over = self.answer or "reset", True
        elif syn and ack and self.answer is None:
            self.answer, self.expected = "SYN-ACK", (sequence + 1) % 2**32
            self.send("A", echo=echo)
            self.send("PA", REQUEST, echo)
            self.next = (self.next + len(REQUEST)) % 2**32
        elif self.expected == sequence and (payload or fin) and not self.over:
            self.page += payload
            self.expected = (self.expected + len(payload) + (1 if fin else 0)) % 2**32
            self.over = bool(fin)
            self.send("FA" if fin else "A", echo=echo)


def received(frame):
    """Addressed port, sequence number, flags, segment."""
    if V6:
        if frame[12:14] != b"\x86\xdd" or frame[20] != 6:
            return None
        segment = frame[54 : 54 + struct.unpack_from("!H", frame, 18)[0]]
    else:
        if frame[12:14] != b"\x08\x00" or frame[23] != 6:
            return None
        start = 14 + (frame[14] & 15) * 4
        segment = frame[start : 14 + struct.unpack_from("!H", frame, 16)[0]]
    sport, dport, sequence = struct.unpack_from("!HHI", segment)
    return (dport, sequence, segment[13], segment) if sport == PORT else None


LINK = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
LINK.setsockopt(socket.SOL_SOCKET, 33, BUFFER_BYTES)  # SO_RCVBUFFORCE
LINK.bind((DEVICE, 0))
OWN_LINK = ":".join(f"{byte:02x}" for byte in LINK.getsockname()[4])
connections = {port: Connection(port, *parts) for port, parts in made().items()}
for round_s in (REPEAT_S, PATIENCE_S):
    # In small bunches: a full queue would be taken for a no.
    for connection in connections.values():
        if connection.answer is None:
            LINK.send(connection.syn)
            time.sleep(0.002)
    until = time.monotonic() + round_s
    while time.monotonic() < until and not all(each.settled() for each in connections.values()):
        ready, _, _ = select.select([LINK], [], [], 0.1)
        found = received(LINK.recv(65536)) if ready else None
        if found and found[0] in connections:
            connections[found[0]].take(*found[1:])
for connection in connections.values():
    print(
        json.dumps(
            {
                "name": connection.name,
                "port": connection.port,
                "answer": connection.answer,
                "refused": connection.name in REFUSED,
                "by_the_page": BY_THE_PAGE.get(connection.name),
                "served": connection.page.startswith(b"HTTP/1.1 200 "),
            }
        )
    )
