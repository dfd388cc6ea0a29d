/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs and the process share. This file is the truth: src/layout.rs mirrors it, and a
 * test compares the two through the BTF of the built object.
 *
 * Every word has one owner. "sent" words are written by egress and by the sock_ops callbacks, which
 * all hold the socket lock; "received" words by ingress, which does not, and which serialises on the
 * spin lock in the socket's storage. Each half has a version, odd while it is being written. Words
 * of the other half are read one at a time and only where an old value does no harm.
 *
 * Offsets count payload bytes of one direction from the connection's first one.
 */
#ifndef CALLTAP_TAP_H
#define CALLTAP_TAP_H

#include <linux/types.h>

#define TURNS 8U      /* a power of two; per direction */
#define ARRIVALS_RECENT 8U /* a power of two: the newest payload packets */
#define ARRIVALS_FIRST 8U  /* and the first ones of the newest turn, however long it is */
#define SYN_HEADERS_MAX 100U /* IPv6 header and the longest TCP header */
#define WINDOW_SHIFT_UNKNOWN 0xff
#define WINDOW_UNKNOWN 0xffffffffU
#define TIMEOUTS_MAX 0xffU
#define RST_NEXT 2U
#define LISTENERS 256U
#define SOURCE_SETS 1024U /* a power of two */
#define SOURCE_WAYS 4U

/* One unbroken run of payload in one direction. */
struct turn {
	__u64 first_ns;        /* CLOCK_MONOTONIC, like every time here */
	__u64 last_ns;         /* the last packet that carried something new */
	__u64 first_offset;
	__u64 end_offset;
	__u64 resent_end_ns;   /* sent turns: when end_offset was last sent again, or 0 */
	__u64 ip_bytes;        /* payload segments with their headers, repeats included */
	__u32 segments;        /* repeats included */
	__u32 resent_segments; /* sent: repeats; received: seen twice or late */
	__u32 resent_bytes;    /* payload of those */
	__u8 ttl_min;          /* 0: none seen */
	__u8 ttl_max;
	__u8 tos;              /* DSCP of the first packet; ECN bits of all, or-ed */
	__u8 tcp_flags;        /* or-ed */
};

/* How far the peer acknowledged the sent turn in the same place of its ring. */
struct ack {
	__u64 offset;          /* at most the turn's end */
	__u64 ns;              /* when it reached offset, or 0 */
	__u64 zero_window_ns;  /* time without a window while there was more to send */
	__u32 window_min;      /* bytes, or WINDOW_UNKNOWN */
	__u16 serial;          /* low bits of the turn's number: tells whose this is */
	__u8 with_data;        /* the packet that reached offset carried payload */
	__u8 pad;
};

/* A packet that brought new payload. */
struct arrival {
	__u64 first_offset;
	__u64 end_offset;
	__u64 ns;
};

/* What we sent and what the socket says of itself. Owner: egress and sock_ops. */
struct sent {
	__u32 version;
	__u32 turns;              /* begun so far; the newest is at (turns - 1) % TURNS */
	__u64 offset;             /* one past the highest byte sent */
	__u64 segments;           /* with payload, repeats included */
	__u64 ip_bytes;           /* of those */
	__u64 resent_bytes;
	__u64 received_seen;      /* received.offset when the newest turn last grew */
	__u32 cut_seen;
	__u32 resent_segments;    /* the kernel's own count, SYN included */
	__u32 timeouts;           /* retransmission timeouts */
	__u32 srtt_us;
	__u32 min_rtt_us;
	__u32 cwnd;               /* segments */
	__u32 mss;                /* bytes */
	__u32 rate_delivered;     /* segments, over rate_interval_us */
	__u32 rate_interval_us;
	__u32 fin;                /* our FIN left */
};

/* What we received and what the peer says of what we sent. Owner: ingress. */
struct received {
	__u32 version;
	__u32 turns;
	__u64 offset;
	__u64 segments;
	__u64 ip_bytes;
	__u64 sent_seen;          /* sent.offset when the newest turn last grew */
	__u64 acked_offset;
	__u64 zero_since_ns;      /* the window is closed since then, or 0 */
	__u64 zero_pending_ns;    /* was closed that long before; counts if zero_turn grows */
	__u32 zero_turn;          /* number of the newest sent turn when it closed */
	__u32 cut_seen;
	__u32 late_segments;      /* seen twice or filling a hole */
	__u32 dup_acks;
	__u32 window;             /* bytes, or WINDOW_UNKNOWN */
	__u32 arrivals;           /* so far; the newest is at (arrivals - 1) % ARRIVALS_RECENT */
	__u16 rst;                /* a RST in the window arrived; RST_NEXT: in order */
	__u16 fin;                /* a FIN in the window arrived */
	__u32 turn_arrivals;      /* of the newest turn; the first are behind the recent ones */
};

/* How a connection ended: what came first. */
enum close {
	CLOSE_UNKNOWN,
	CLOSE_FIN_PEER,
	CLOSE_FIN_LOCAL,
	CLOSE_RST_IN,
	CLOSE_RST_OUT,
	CLOSE_TIMEOUT,
};

/* One socket's ledger: an element of the mapped array, its index is the slot. */
struct ledger {
	__u64 cookie;             /* written last when a slot is taken; 0: free */
	__u64 syn_ns;             /* the SYN arrived or left, or 0 */
	__u64 established_ns;     /* the handshake's last packet came; written after the fields that
				   * it vouches for, or 0 */
	__u64 closed_ns;
	__u8 local[16];           /* IPv4 as ::ffff:a.b.c.d */
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
	__u32 receive_base;       /* sequence number of received offset 0 */
	__u32 send_base;
	__u8 peer_window_shift;   /* or WINDOW_SHIFT_UNKNOWN */
	__u8 close;               /* enum close */
	__u8 syn_length;
	__u8 pad;
	__u8 syn[SYN_HEADERS_MAX];
	__u32 handshake_rtt_us;
	struct sent sent;
	struct received received;
	__u32 cut_sent;           /* owner: the process. A change begins a new turn. */
	__u32 cut_received;
	/* By place in sent_turns, owner as for those: timeouts while the turn's first unacknowledged
	 * byte was the oldest in flight. TIMEOUTS_MAX: as many or more. */
	__u8 turn_timeouts[TURNS];
	struct turn sent_turns[TURNS];
	struct turn received_turns[TURNS];
	struct ack acks[TURNS];
	struct arrival arrivals[ARRIVALS_RECENT + ARRIVALS_FIRST];
};

_Static_assert(sizeof(struct turn) == 64, "one cache line; src/layout.rs mirrors it");
_Static_assert(sizeof(struct ack) == 32, "src/layout.rs mirrors it");
_Static_assert(sizeof(struct arrival) == 24, "src/layout.rs mirrors it");
_Static_assert(sizeof(struct sent) == 88, "src/layout.rs mirrors it");
_Static_assert(sizeof(struct received) == 96, "src/layout.rs mirrors it");
_Static_assert(sizeof(struct ledger) == 2048, "src/layout.rs mirrors it");

/* What was dropped of one denied network: an element of a mapped array. Only ever added to, by
 * whatever processor the packet is on; the process zeroes it before another network may have it. */
struct hits {
	__u64 packets;            /* as they were on the wire */
	__u64 bytes;              /* IP headers included, of packets merged on the way one */
};
_Static_assert(sizeof(struct hits) == 16, "src/layout.rs mirrors it");

/* In a row of the tries of denied networks, in place of the index of its hits. */
#define ROW_PASS 0U           /* let through, within a network that is denied */

/*
 * What came for one listener, and what became of it. Owners: ingress and sock_ops of any processor, which
 * only add.
 */
struct listener {
	__u64 syns;        /* SYNs, repeats included */
	__u64 begun;       /* handshakes that the kernel remembers: not those answered with a cookie */
	__u64 established;
	__u64 resets;      /* RSTs for a handshake that was not complete, or for none */
	__u64 stray;       /* packets with neither SYN nor ACK nor RST: no TCP sends them */
	__u64 pad[3];
};
_Static_assert(sizeof(struct listener) == 64, "src/layout.rs mirrors it");

/* The same by the network that it came from, as far as there is room. */
struct source {
	__u64 network;     /* see SOURCE_V4; written last, 0: free */
	__u64 seen_ns;
	__u32 begun;
	__u32 established;
	__u32 resets;
	__u32 stray;
};
_Static_assert(sizeof(struct source) == 32, "src/layout.rs mirrors it");

/* Who shares a hash. */
struct sources {
	struct source ways[SOURCE_WAYS];
};
_Static_assert(sizeof(struct sources) == 128, "src/layout.rs mirrors it");

#define SOURCE_V4 (1ULL << 62) /* with the first 24 bits of the address below it */
#define SOURCE_V6 (1ULL << 63) /* with the first 48 bits */

/* A hint that a slot can be taken back; losing one costs nothing but time. */
struct event {
	__u64 cookie;
	__u32 slot;
	__u32 pad;
};
_Static_assert(sizeof(struct event) == 16, "src/layout.rs mirrors it");

/* Why something is not in a ledger: indices of the counts map. src/layout.rs names them. */
enum count {
	COUNT_TAKEN,          /* not a loss: slots taken so far */
	COUNT_NO_SLOT,        /* a socket went untapped: all slots are in use */
	COUNT_NO_STORAGE,     /* a socket went untapped: the kernel had no memory for its storage */
	COUNT_NO_INDEX,       /* a socket went untapped: its cookie could not be indexed */
	COUNT_EVENT_LOST,     /* the events ring was full */
	COUNT_BAD_PACKET,     /* a packet of ours whose headers make no sense */
	COUNT_OUT_OF_WINDOW,  /* payload TCP will refuse */
	COUNT_BAD_ACK,        /* an acknowledgement of what was never sent */
	COUNTS,
};

#endif
