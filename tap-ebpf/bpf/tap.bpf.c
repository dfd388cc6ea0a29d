// SPDX-License-Identifier: Apache-2.0
/*
 * Keeps one ledger per socket of ours. Knows TCP/IP headers, nothing above them.
 *
 * Never changes a packet, and refuses none but what comes for a listener of ours, or for a connection
 * that it accepted, from a network that the process denies.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "tap.h"

#define DROP 0
#define PASS 1
#define AF_INET 2
#define SOL_TCP 6
#define NEXT_HOP_BY_HOP 0
#define NEXT_TCP 6
#define NEXT_ROUTING 43
#define NEXT_AUTHENTICATION 51
#define NEXT_DESTINATION 60
#define IPV6_HEADER 40
#define TCP_HEADER 20
#define EXTENSIONS_MAX 8
#define EXTENSION_BYTES_MAX 1024
#define OPTION_WINDOW_SCALE 3
#define WINDOW_SHIFT_MAX 14

#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

#define PLACE_NONE 0U          /* of ours, but without a slot yet: a listener, or just born */
#define PLACE_UNTAPPED (~0U)   /* of ours, but there was no slot for it */

/* A turn may be rewritten while ingress looks at the ring: leave out the place that comes next. */
#define TURNS_IN_SIGHT (TURNS - 1)

/* Set by the loader. No window of ours is larger, so no valid payload is further ahead. */
const volatile __u32 receive_window_max = 64U << 20;
/* Set by the loader: stores may become visible in another order than they were made. */
const volatile __u8 weak_order = 1;

/* Never read: keeps types that no map mentions in the object, for the test of the mirror. */
const volatile struct {
	struct event event;
	enum count count;
	enum close close;
} described = {};

/* What the hooks need to know of one packet. */
struct packet {
	__u64 now_ns;
	__u32 seq;
	__u32 ack;
	__u32 payload;  /* bytes */
	__u32 segments;
	__u32 headers;  /* IP and TCP header of one segment, bytes */
	__u16 window;   /* unscaled */
	__u8 ttl;
	__u8 tos;
	__u8 tcp_flags;
	__u8 pad;
	__u16 source_port;
	__u8 pad2[4];
};

/*
 * Marks a socket as ours; children of a listener inherit it when they are cloned, before they can
 * be found by a packet. Payload that comes before the slot waits in `early`; where we connect, the
 * time of the SYN-ACK does until the socket has it.
 */
struct socket {
	struct bpf_spin_lock lock;
	__u32 place; /* slot + 1, or PLACE_... */
	__u32 faces_clients; /* a listener, or accepted by one; set by the process, inherited */
	__u32 listener; /* index of its listener's counters + 1, or 0; as above */
	__u32 permitted; /* the list in `denying` that its peer was looked up in and is not denied by */
	__u32 pad;
	struct packet early;
};
_Static_assert(sizeof(struct socket) == 64, "src/layout.rs mirrors it");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct socket);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ledger);
} ledgers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} slot_by_cookie SEC(".maps");

/* Cookies the process is about to connect. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u8);
} upstreams SEC(".maps");

/* When a SYN arrived, by the cookie its socket will have: a request socket has no storage. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} syn_times SEC(".maps");

/* The last payload packet that came for a listener of ours: it completes a handshake. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} handshakes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/* By index of the listener. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LISTENERS);
	__type(key, __u32);
	__type(value, struct listener);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SOURCE_SETS);
	__type(key, __u32);
	__type(value, struct sources);
} sources SEC(".maps");

/* The SYN that ingress has just let pass: nothing else comes in between until it is answered. */
struct asked {
	__u64 network;
	__u32 listener; /* index + 1, or 0: it was answered */
	__u16 local_port;
	__u16 remote_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct asked);
} asking SEC(".maps");

/*
 * Denied networks, twice: the process fills the tries that are not in use, then stores in `denying`
 * which list is: 0 none, so that nothing is looked up, or a number that no list had before, even for
 * the tries called a, odd for b. A row has the index of its hits, or ROW_PASS; the longest prefix
 * decides.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} denying SEC(".maps");

struct prefix_v4 {
	__u32 bits;
	__u8 address[4];
};

struct prefix_v6 {
	__u32 bits;
	__u8 address[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix_v4);
	__type(value, __u32);
} denied_v4_a SEC(".maps"), denied_v4_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix_v6);
	__type(value, __u32);
} denied_v6_a SEC(".maps"), denied_v6_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hits);
} denied_hits SEC(".maps");

char LICENSE[] SEC("license") = "Apache-2.0";

/* ---- order and versions ------------------------------------------------------------------- */

#define barrier() asm volatile("" ::: "memory")
#define READ(x) (*(volatile typeof(x) *)&(x))
#define WRITE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/* What was stored before it is seen before what is stored after it. */
static __always_inline void fence(void)
{
	barrier();
	if (weak_order) {
		__u64 full = 0; /* only an atomic that returns its result orders everything */

		__sync_lock_test_and_set(&full, 1);
	}
	barrier();
}

static __always_inline void begin_write(__u32 *version)
{
	WRITE(*version, *version + 1);
	fence();
}

static __always_inline void end_write(__u32 *version)
{
	fence();
	WRITE(*version, *version + 1);
}

static __always_inline void count(enum count reason)
{
	__u32 key = reason;
	__u64 *n = bpf_map_lookup_elem(&counts, &key);

	if (n)
		*n += 1;
}

/* ---- packets ------------------------------------------------------------------------------ */

/* Reads the headers; false if they are not those of a whole TCP packet. */
static __always_inline bool parse(struct __sk_buff *skb, struct packet *p)
{
	__u8 *data = (void *)(long)skb->data;
	__u8 *end = (void *)(long)skb->data_end;
	__u32 offset, headers, segments;
	__u8 *tcp;

	if (data + 20 > end)
		return false;
	/* The version nibble decides, not the socket's family: dual-stack sockets carry both. */
	if (data[0] >> 4 == 4) {
		offset = (data[0] & 0xf) * 4;
		if (offset < 20 || data[9] != NEXT_TCP)
			return false;
		p->tos = data[1];
		p->ttl = data[8];
	} else {
		__u8 next;

		if (data + IPV6_HEADER > end)
			return false;
		offset = IPV6_HEADER;
		next = data[6];
		p->tos = (data[0] & 0xf) << 4 | data[1] >> 4;
		p->ttl = data[7];
		for (int i = 0; i < EXTENSIONS_MAX && next != NEXT_TCP; i++) {
			__u8 *extension = data + offset;

			if (offset > EXTENSION_BYTES_MAX || extension + 8 > end)
				return false;
			switch (next) {
			case NEXT_HOP_BY_HOP:
			case NEXT_ROUTING:
			case NEXT_DESTINATION:
				offset += (extension[1] + 1) * 8;
				break;
			case NEXT_AUTHENTICATION:
				offset += (extension[1] + 2) * 4;
				break;
			default:
				return false;
			}
			next = extension[0];
		}
		if (next != NEXT_TCP || offset > EXTENSION_BYTES_MAX)
			return false;
	}
	tcp = data + offset;
	if (tcp + TCP_HEADER > end)
		return false;
	headers = offset + (tcp[12] >> 4) * 4;
	/* Not the length in the IP header: it is 0 in packets too big for the field. */
	if (headers < offset + TCP_HEADER || headers > skb->len)
		return false;

	p->seq = bpf_ntohl(*(__be32 *)(tcp + 4));
	p->ack = bpf_ntohl(*(__be32 *)(tcp + 8));
	p->source_port = bpf_ntohs(*(__be16 *)tcp);
	p->tcp_flags = tcp[13];
	p->window = bpf_ntohs(*(__be16 *)(tcp + 14));
	p->headers = headers;
	p->payload = skb->len - headers;
	segments = skb->gso_segs;
	if (!segments) {
		__u32 size = skb->gso_size; /* merged by a device that did not count */

		segments = size ? (p->payload + size - 1) / size : 1;
	}
	p->segments = segments;
	p->now_ns = bpf_ktime_get_ns();
	return true;
}

static __always_inline __u64 ip_bytes(const struct packet *p)
{
	return p->payload + (__u64)p->segments * p->headers;
}

/* The 64-bit offset of a sequence number near a known offset; may be negative. */
static __always_inline __s64 offset_near(__u64 known, __u32 base, __u32 seq)
{
	return (__s64)known + (__s32)(seq - (base + (__u32)known));
}

/* ---- turns -------------------------------------------------------------------------------- */

static __always_inline void begin_turn(struct turn *turn, const struct packet *p, __u64 offset)
{
	turn->first_ns = p->now_ns;
	turn->first_offset = offset;
	turn->end_offset = offset;
	turn->resent_end_ns = 0;
	turn->ip_bytes = 0;
	turn->segments = 0;
	turn->resent_segments = 0;
	turn->resent_bytes = 0;
	turn->ttl_min = 0;
	turn->ttl_max = 0;
	turn->tos = p->tos;
	turn->tcp_flags = 0;
}

/* Books a packet, whether it is new or not. */
static __always_inline void add_packet(struct turn *turn, const struct packet *p)
{
	turn->segments += p->segments;
	turn->ip_bytes += ip_bytes(p);
	turn->tcp_flags |= p->tcp_flags;
	turn->tos |= p->tos & 3;
	if (p->ttl && (!turn->ttl_min || p->ttl < turn->ttl_min))
		turn->ttl_min = p->ttl;
	if (p->ttl > turn->ttl_max)
		turn->ttl_max = p->ttl;
}

/* ---- the sent direction: under the socket lock ---------------------------------------------- */

/* The turn that owns the first byte pays for the repeat; each turn whose end it repeats notes it. */
static __always_inline void sent_again(struct ledger *l, const struct packet *p, __u64 first,
				       __u64 end)
{
	__u32 newest = l->sent.turns;

	for (__u32 i = 0; i < TURNS; i++) {
		__u32 serial = newest - i;
		struct turn *turn = &l->sent_turns[(serial - 1) & (TURNS - 1)];

		if (i >= newest)
			break;
		if (first < turn->end_offset && turn->end_offset <= end)
			turn->resent_end_ns = p->now_ns;
		if (first >= turn->first_offset) {
			add_packet(turn, p);
			turn->resent_segments += p->segments;
			turn->resent_bytes += p->payload;
			break;
		}
	}
}

static __always_inline void send(struct ledger *l, const struct packet *p)
{
	__u64 high = l->sent.offset;
	__s64 first = offset_near(high, l->send_base, p->seq);
	__u64 end = first + p->payload;

	if (first < 0)
		return;
	begin_write(&l->sent.version);
	l->sent.segments += p->segments;
	l->sent.ip_bytes += ip_bytes(p);
	if (end > high) {
		__u64 received = READ(l->received.offset);
		__u32 cut = READ(l->cut_sent);
		__u32 turns = l->sent.turns;
		struct turn *turn;

		if (!turns || received != l->sent.received_seen || cut != l->sent.cut_seen) {
			turn = &l->sent_turns[turns & (TURNS - 1)];
			begin_turn(turn, p, high);
			l->turn_timeouts[turns & (TURNS - 1)] = 0;
			fence(); /* ingress reads the turns that this number promises */
			WRITE(l->sent.turns, turns + 1);
		} else {
			turn = &l->sent_turns[(turns - 1) & (TURNS - 1)];
		}
		add_packet(turn, p);
		turn->last_ns = p->now_ns;
		turn->resent_end_ns = 0; /* this end is a new one */
		WRITE(turn->end_offset, end);
		l->sent.received_seen = received;
		l->sent.cut_seen = cut;
		fence();
		WRITE(l->sent.offset, end);
	} else {
		sent_again(l, p, first, end);
		l->sent.resent_bytes += p->payload;
	}
	end_write(&l->sent.version);
}

/* ---- the received direction: under the lock of the socket's storage ------------------------- */

static __always_inline void received_late(struct ledger *l, const struct packet *p, __u64 first,
					  bool new)
{
	__u32 newest = l->received.turns;

	for (__u32 i = 0; i < TURNS; i++) {
		struct turn *turn = &l->received_turns[(newest - i - 1) & (TURNS - 1)];

		if (i >= newest)
			break;
		if (first >= turn->first_offset) {
			add_packet(turn, p);
			turn->resent_segments += p->segments;
			turn->resent_bytes += p->payload;
			if (new)
				turn->last_ns = p->now_ns;
			break;
		}
	}
}

static __always_inline void note_arrival(struct arrival *arrival, const struct packet *p,
					 __u64 first, __u64 end)
{
	arrival->first_offset = first;
	arrival->end_offset = end;
	arrival->ns = p->now_ns;
}

/*
 * Notes an arrival among the last ones, and among those of the newest turn that are closest to its
 * begin: a body may fill the ring before anybody asks when its head had come.
 */
static __always_inline void note_arrivals(struct ledger *l, const struct packet *p, __u64 first,
					  __u64 end, bool is_late)
{
	__u32 n = l->received.arrivals, nth = l->received.turn_arrivals;
	struct arrival *place = NULL;

	note_arrival(&l->arrivals[n & (ARRIVALS_RECENT - 1)], p, first, end);
	l->received.arrivals = n + 1;
	if (nth < ARRIVALS_FIRST) {
		place = &l->arrivals[ARRIVALS_RECENT + nth];
		l->received.turn_arrivals = nth + 1;
	} else if (is_late) {
		__u64 farthest = first;

		for (__u32 i = 0; i < ARRIVALS_FIRST; i++) {
			struct arrival *other = &l->arrivals[ARRIVALS_RECENT + i];

			if (other->first_offset > farthest) {
				farthest = other->first_offset;
				place = other;
			}
		}
	}
	if (place)
		note_arrival(place, p, first, end);
}

/* Books payload. Returns why not, or COUNTS. */
static __always_inline enum count receive(struct ledger *l, const struct packet *p, __u32 rcv_nxt)
{
	__u64 high = l->received.offset;
	__s64 first = offset_near(high, l->receive_base, p->seq);
	__s64 end = first + p->payload;
	/* Behind what arrived while packets wait for the socket's owner, never ahead of it. */
	__s64 in_order = offset_near(high, l->receive_base, rcv_nxt);
	bool is_new = end > in_order;

	if (first < 0 || end > in_order + receive_window_max ||
	    end < in_order - (__s64)receive_window_max)
		return COUNT_OUT_OF_WINDOW;

	begin_write(&l->received.version);
	l->received.segments += p->segments;
	l->received.ip_bytes += ip_bytes(p);
	if (end > (__s64)high) {
		__u64 sent = READ(l->sent.offset);
		__u32 cut = READ(l->cut_received);
		__u32 turns = l->received.turns;
		struct turn *turn;

		if (!turns || sent != l->received.sent_seen || cut != l->received.cut_seen) {
			/* From the last byte seen, so that turns leave no gap when packets do. */
			turn = &l->received_turns[turns & (TURNS - 1)];
			begin_turn(turn, p, high);
			l->received.turn_arrivals = 0;
			WRITE(l->received.turns, turns + 1);
		} else {
			turn = &l->received_turns[(turns - 1) & (TURNS - 1)];
		}
		add_packet(turn, p);
		if (first < (__s64)high) {
			/* Begins with what came before. How many segments of it, if they were merged? */
			turn->resent_segments += 1;
			turn->resent_bytes += high - first;
			l->received.late_segments += 1;
		}
		turn->last_ns = p->now_ns;
		turn->end_offset = end;
		l->received.sent_seen = sent;
		l->received.cut_seen = cut;
		WRITE(l->received.offset, end);
	} else {
		received_late(l, p, first, is_new);
		l->received.late_segments += p->segments;
	}
	if (is_new)
		note_arrivals(l, p, first, end, first < (__s64)high);
	end_write(&l->received.version);
	return COUNTS;
}

/* Follows the peer's window: when it closed, and for how long while more was waiting. */
static __always_inline void watch_window(struct ledger *l, const struct packet *p, __u32 newest)
{
	__u8 shift = l->peer_window_shift;
	__u32 window = shift <= WINDOW_SHIFT_MAX ? (__u32)p->window << shift :
		       p->window		 ? WINDOW_UNKNOWN :
						   0;

	l->received.window = window;
	if (!window) {
		if (!l->received.zero_since_ns) {
			l->received.zero_since_ns = p->now_ns;
			/* What filled the window may acknowledge it and close it with one packet: the turn
			 * grew, and what it had waited for before is still to be booked. */
			if (l->received.zero_turn != newest) {
				l->received.zero_pending_ns = 0;
				l->received.zero_turn = newest;
			}
		}
	} else if (l->received.zero_since_ns) {
		l->received.zero_pending_ns += p->now_ns - l->received.zero_since_ns;
		l->received.zero_since_ns = 0;
	}
}

/*
 * Marks how far each unacknowledged turn got. Returns why not, or COUNTS: a packet whose
 * acknowledgement cannot be right is not believed in anything else either.
 */
static __always_inline enum count acknowledge(struct ledger *l, const struct packet *p)
{
	__u64 acked = l->received.acked_offset;
	__u64 sent = READ(l->sent.offset);
	__s64 ack = offset_near(acked, l->send_base, p->ack);
	__u32 newest = READ(l->sent.turns);
	__u32 window = l->received.window;
	bool advances;

	if (!(p->tcp_flags & FLAG_ACK) || ack < (__s64)acked - (__s64)receive_window_max)
		return COUNT_BAD_ACK;
	/* Egress books bytes before they leave, so nobody can acknowledge more than this. */
	if (ack > (__s64)sent) {
		if (ack > (__s64)sent + 1 || !READ(l->sent.fin))
			return COUNT_BAD_ACK;
		ack = sent;
	}
	if (ack < (__s64)acked)
		return COUNTS; /* overtaken on the way: says nothing new */

	begin_write(&l->received.version);
	advances = ack > (__s64)acked;
	if (!(p->tcp_flags & FLAG_RST)) { /* which has a window, but offers none */
		watch_window(l, p, newest);
		if (!advances && !p->payload && sent > acked && window == l->received.window &&
		    !(p->tcp_flags & FLAG_FIN))
			l->received.dup_acks += 1;
	}
	l->received.acked_offset = ack;

	for (__u32 i = 0; i < TURNS_IN_SIGHT; i++) {
		__u32 serial = newest - i;
		struct turn *turn = &l->sent_turns[(serial - 1) & (TURNS - 1)];
		struct ack *mark = &l->acks[(serial - 1) & (TURNS - 1)];
		__u64 end;

		if (i >= newest)
			break;
		if (mark->serial != (__u16)serial) {
			mark->offset = turn->first_offset;
			mark->ns = 0;
			mark->zero_window_ns = 0;
			mark->window_min = WINDOW_UNKNOWN;
			mark->serial = serial;
			mark->with_data = 0;
		}
		end = READ(turn->end_offset);
		if (mark->offset >= end)
			break; /* and so are all before it */
		if (i == 0) {
			if (l->received.window < mark->window_min)
				mark->window_min = l->received.window;
			/* It grew since the window reopened: it had been waiting for that. */
			if (l->received.zero_pending_ns && l->received.zero_turn == serial) {
				mark->zero_window_ns += l->received.zero_pending_ns;
				mark->window_min = 0;
				l->received.zero_pending_ns = 0;
			}
		}
		if (!advances)
			break;
		if (ack > (__s64)turn->first_offset) {
			mark->offset = (__u64)ack < end ? (__u64)ack : end;
			mark->ns = p->now_ns;
			mark->with_data = p->payload != 0;
		}
	}
	end_write(&l->received.version);
	return COUNTS;
}

/* Keeps payload of a socket that has no slot yet. */
static __always_inline void keep_early(struct packet *early, const struct packet *p)
{
	if (!early->payload) {
		*early = *p;
	} else if (p->seq == early->seq + early->payload) {
		early->payload += p->payload;
		early->segments += p->segments;
		early->tcp_flags |= p->tcp_flags;
	}
}

/* ---- denied networks ---------------------------------------------------------------------- */

/* The row of the network that the packet comes from, if one is listed. */
static __always_inline __u32 *row_of(struct __sk_buff *skb, bool use_b)
{
	__u8 *data = (void *)(long)skb->data;
	__u8 *end = (void *)(long)skb->data_end;

	if (data + 20 > end)
		return NULL;
	if (data[0] >> 4 == 4) {
		struct prefix_v4 from = { .bits = 32 };

		__builtin_memcpy(from.address, data + 12, sizeof(from.address));
		return use_b ? bpf_map_lookup_elem(&denied_v4_b, &from) :
			       bpf_map_lookup_elem(&denied_v4_a, &from);
	} else {
		struct prefix_v6 from = { .bits = 128 };

		if (data + IPV6_HEADER > end)
			return NULL;
		__builtin_memcpy(from.address, data + 8, sizeof(from.address));
		return use_b ? bpf_map_lookup_elem(&denied_v6_b, &from) :
			       bpf_map_lookup_elem(&denied_v6_a, &from);
	}
}

static __always_inline bool is_denied(struct __sk_buff *skb, struct bpf_sock *sk,
				      struct socket *s)
{
	__u32 zero = 0;
	__u64 *in_use = bpf_map_lookup_elem(&denying, &zero);
	__u32 list = in_use ? READ(*in_use) : 0;
	struct hits *hits;
	__u32 *row;

	/* A connection's peer is looked up once in each list: it takes a microsecond in a long one. */
	if (!list || READ(s->permitted) == list)
		return false;
	row = row_of(skb, list & 1);
	if (!row || *row == ROW_PASS) {
		if (sk->state != BPF_TCP_LISTEN) /* which has many */
			WRITE(s->permitted, list);
		return false;
	}
	hits = bpf_map_lookup_elem(&denied_hits, row);
	if (hits) {
		__sync_fetch_and_add(&hits->packets, skb->gso_segs ? skb->gso_segs : 1);
		__sync_fetch_and_add(&hits->bytes, skb->len);
	}
	return true;
}

/* ---- listeners ---------------------------------------------------------------------------- */

/* A network that was not seen for so long gives its place to any other. */
#define SOURCE_IDLE_NS (60ULL * 1000000000)

static __always_inline __u64 network_v4(__be32 address)
{
	return SOURCE_V4 | bpf_ntohl(address) >> 8;
}

static __always_inline __u64 network_v6(__be32 first, __be32 second)
{
	return SOURCE_V6 | (__u64)bpf_ntohl(first) << 16 | bpf_ntohl(second) >> 16;
}

/* Where the packet comes from, or 0. */
static __always_inline __u64 network_of(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data;
	__u8 *end = (void *)(long)skb->data_end;

	if (data + 20 > end)
		return 0;
	if (data[0] >> 4 == 4)
		return network_v4(*(__be32 *)(data + 12));
	if (data + IPV6_HEADER > end)
		return 0;
	return network_v6(*(__be32 *)(data + 8), *(__be32 *)(data + 12));
}

/*
 * The counters of a network. A new one takes the place of the least busy of its set, so that a storm of
 * networks that come once each pushes out nobody who comes more often. Where two processors give a place
 * away at the same time, a count or two may go to the wrong one.
 */
static __always_inline struct source *source_at(__u64 network)
{
	__u32 set = network * 0x9e3779b97f4a7c15ULL >> 40 & (SOURCE_SETS - 1);
	struct sources *sources_of_set = bpf_map_lookup_elem(&sources, &set);
	__u64 now = bpf_ktime_get_ns(), least_worth = ~0ULL, before;
	struct source *least = NULL;

	if (!network || !sources_of_set)
		return NULL;
	for (__u32 i = 0; i < SOURCE_WAYS; i++) {
		struct source *way = &sources_of_set->ways[i];
		__u64 seen = READ(way->seen_ns), worth;

		if (READ(way->network) == network) {
			WRITE(way->seen_ns, now);
			return way;
		}
		worth = now - seen > SOURCE_IDLE_NS ? 0 :
			(__u64)way->begun + way->established + way->resets + way->stray;
		if (worth < least_worth) {
			least_worth = worth;
			least = way;
		}
	}
	if (!least)
		return NULL;
	before = READ(least->network);
	/* In this order: whoever reads in between sees less of the network before, never its counts as
	 * those of the new one. */
	WRITE(least->begun, 0);
	WRITE(least->established, 0);
	WRITE(least->resets, 0);
	WRITE(least->stray, 0);
	WRITE(least->seen_ns, now);
	fence();
	__sync_val_compare_and_swap(&least->network, before, network);
	return least;
}

static __always_inline struct listener *listener_at(__u32 listener)
{
	__u32 index = listener - 1;

	return listener ? bpf_map_lookup_elem(&listeners, &index) : NULL;
}

#define ADD(counters, field)                                                    \
	do {                                                                    \
		if (counters)                                                   \
			__sync_fetch_and_add(&(counters)->field, 1);            \
	} while (0)

/* A packet for a listener, or for a handshake of its that is not complete. */
static __always_inline void asked_for(struct __sk_buff *skb, struct socket *s, struct bpf_sock *sk,
				      const struct packet *p)
{
	struct listener *listener = listener_at(s->listener);
	__u8 flags = p->tcp_flags & (FLAG_SYN | FLAG_RST | FLAG_ACK);
	struct source *source;
	struct asked *asked;
	__u32 zero = 0;

	if (!listener || (flags & FLAG_ACK && !(flags & FLAG_RST)))
		return; /* it may complete a handshake: that is counted when it did */
	if (flags & FLAG_RST) {
		source = source_at(network_of(skb));
		ADD(listener, resets);
		ADD(source, resets);
	} else if (flags & FLAG_SYN) {
		ADD(listener, syns);
		asked = bpf_map_lookup_elem(&asking, &zero);
		if (asked) {
			asked->network = network_of(skb);
			asked->listener = s->listener;
			asked->local_port = sk->src_port;
			asked->remote_port = p->source_port;
		}
	} else {
		source = source_at(network_of(skb));
		ADD(listener, stray);
		ADD(source, stray);
	}
}

/* The kernel is about to answer a SYN that was not there before. Of one that it answers with a cookie it
 * says nothing. */
static __always_inline void handshake_begun(struct bpf_sock_ops *ctx)
{
	__u32 zero = 0;
	struct asked *asked = bpf_map_lookup_elem(&asking, &zero);
	struct listener *listener;
	struct source *source;

	/* Another listener of the cgroup may answer, which is not ours. */
	if (!asked || !asked->listener || asked->local_port != ctx->local_port ||
	    asked->remote_port != bpf_ntohl(ctx->remote_port))
		return;
	listener = listener_at(asked->listener);
	source = source_at(asked->network);
	asked->listener = 0;
	ADD(listener, begun);
	ADD(source, begun);
}

static __always_inline void handshake_done(struct bpf_sock_ops *ctx, __u32 number)
{
	struct listener *listener = listener_at(number);
	struct source *source;
	__u64 network;

	if (!listener)
		return;
	/* Volatile: merged loads would address the context in a way the verifier refuses. */
	if (READ(ctx->family) == AF_INET)
		network = network_v4(READ(ctx->remote_ip4));
	else if (!READ(ctx->remote_ip6[0]) && !READ(ctx->remote_ip6[1]) &&
		 READ(ctx->remote_ip6[2]) == bpf_htonl(0xffff))
		network = network_v4(READ(ctx->remote_ip6[3]));
	else
		network = network_v6(READ(ctx->remote_ip6[0]), READ(ctx->remote_ip6[1]));
	source = source_at(network);
	ADD(listener, established);
	ADD(source, established);
}

/* ---- packet hooks ------------------------------------------------------------------------- */

static __always_inline struct ledger *ledger_at(__u32 place)
{
	__u32 slot = place - 1;

	if (place == PLACE_NONE || place == PLACE_UNTAPPED)
		return NULL;
	return bpf_map_lookup_elem(&ledgers, &slot);
}

static __always_inline void came_for_listener(const struct packet *p)
{
	__u32 zero = 0;
	struct packet *last = bpf_map_lookup_elem(&handshakes, &zero);

	if (last && p->payload && !(p->tcp_flags & FLAG_SYN))
		*last = *p;
}

static __always_inline void came(struct __sk_buff *skb, struct bpf_sock *sk, struct socket *s)
{
	struct packet p = {};
	struct bpf_tcp_sock *tcp;
	enum count wrong = COUNTS;
	struct ledger *l;
	bool is_reset;
	__u32 rcv_nxt;

	if (READ(s->place) == PLACE_UNTAPPED)
		return;
	if (!parse(skb, &p)) {
		count(COUNT_BAD_PACKET);
		return;
	}
	if (sk->state == BPF_TCP_LISTEN) {
		came_for_listener(&p);
		asked_for(skb, s, sk, &p);
		return;
	}
	if (READ(s->place) == PLACE_NONE && p.payload) {
		bool kept;

		/* A child that a packet can find already, but that is still being set up. */
		bpf_spin_lock(&s->lock);
		kept = s->place == PLACE_NONE;
		if (kept)
			keep_early(&s->early, &p);
		bpf_spin_unlock(&s->lock);
		if (kept)
			return;
	}
	l = ledger_at(READ(s->place));
	tcp = bpf_tcp_sock(sk);
	if (!l || !tcp)
		return;
	rcv_nxt = tcp->rcv_nxt;
	if (!READ(l->established_ns)) {
		if (p.tcp_flags & FLAG_RST)
			l->received.rst = 1; /* refused; the state change confirms it */
		else if (p.tcp_flags & FLAG_SYN && p.tcp_flags & FLAG_ACK &&
			 p.ack == tcp->snd_nxt && !s->early.now_ns)
			/* connect(2) may still hold the socket, and the state changes later. */
			s->early.now_ns = p.now_ns;
		return;
	}
	if (p.tcp_flags & FLAG_SYN)
		return;
	is_reset = p.tcp_flags & FLAG_RST;
	if (is_reset && p.seq - rcv_nxt > receive_window_max)
		return;
	/* TCP does not look at the acknowledgement of what is nowhere near its window. */
	if (p.seq - rcv_nxt + receive_window_max > 2 * receive_window_max) {
		count(COUNT_OUT_OF_WINDOW);
		return;
	}
	bpf_spin_lock(&s->lock);
	/* Who aborts says with the same packet how much it had, and TCP believes it if it is in order. */
	if (!is_reset || p.seq == rcv_nxt)
		wrong = acknowledge(l, &p);
	if (is_reset) {
		wrong = COUNTS; /* one without an acknowledgement is as good */
		/* One in the window that is not next is answered with a challenge (RFC 5961). */
		if (p.seq == rcv_nxt)
			l->received.rst = RST_NEXT;
		else if (!l->received.rst)
			l->received.rst = 1;
	} else if (wrong == COUNTS) {
		if (p.payload)
			wrong = receive(l, &p, rcv_nxt);
		if (p.tcp_flags & FLAG_FIN &&
		    p.seq + p.payload - rcv_nxt <= receive_window_max)
			l->received.fin = 1;
	}
	bpf_spin_unlock(&s->lock);
	if (wrong != COUNTS)
		count(wrong);
}

SEC("cgroup_skb/ingress")
int tap_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct socket *s;

	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!s)
		return PASS;
	if (s->faces_clients && is_denied(skb, sk, s))
		return DROP;
	came(skb, sk, s);
	return PASS;
}

static __always_inline void leaves(struct __sk_buff *skb, struct socket *s)
{
	struct ledger *l = ledger_at(READ(s->place));
	struct packet p = {};

	if (!l || !l->established_ns)
		return;
	if (!parse(skb, &p)) {
		count(COUNT_BAD_PACKET);
		return;
	}
	if (p.tcp_flags & FLAG_RST) {
		/* An abort resets after the socket is closed; what expired sends nothing then. */
		if (l->close == CLOSE_UNKNOWN || l->close == CLOSE_TIMEOUT)
			l->close = CLOSE_RST_OUT;
		return;
	}
	if (p.tcp_flags & FLAG_FIN) {
		WRITE(l->sent.fin, 1);
		/* Here, not when the socket was closed: a FIN waits for what is to be sent before it,
		 * for ever if the peer is gone. */
		if (l->close == CLOSE_UNKNOWN)
			l->close = READ(l->received.rst) == RST_NEXT ? CLOSE_RST_IN :
				   READ(l->received.fin) ? CLOSE_FIN_PEER :
							   CLOSE_FIN_LOCAL;
	}
	if (p.payload)
		send(l, &p);
}

SEC("cgroup_skb/egress")
int tap_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct socket *s;

	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (s)
		leaves(skb, s);
	return PASS;
}

/* ---- socket hooks: under the socket lock ---------------------------------------------------- */

static __always_inline void copy_addresses(struct ledger *l, struct bpf_sock_ops *ctx)
{
	__u32 *local = (__u32 *)l->local, *remote = (__u32 *)l->remote;

	/* Volatile: merged loads would address the context in a way the verifier refuses. */
	if (READ(ctx->family) == AF_INET) {
		local[0] = 0;
		local[1] = 0;
		local[2] = bpf_htonl(0xffff);
		local[3] = READ(ctx->local_ip4);
		remote[0] = 0;
		remote[1] = 0;
		remote[2] = bpf_htonl(0xffff);
		remote[3] = READ(ctx->remote_ip4);
		barrier();
	} else {
		local[0] = READ(ctx->local_ip6[0]);
		local[1] = READ(ctx->local_ip6[1]);
		local[2] = READ(ctx->local_ip6[2]);
		local[3] = READ(ctx->local_ip6[3]);
		remote[0] = READ(ctx->remote_ip6[0]);
		remote[1] = READ(ctx->remote_ip6[1]);
		remote[2] = READ(ctx->remote_ip6[2]);
		remote[3] = READ(ctx->remote_ip6[3]);
	}
	l->local_port = ctx->local_port;
	l->remote_port = bpf_ntohl(ctx->remote_port);
}

/* Takes a free slot, which the process zeroed. `slot` is set where a ledger is returned. */
static __always_inline struct ledger *take_slot(struct bpf_sock_ops *ctx, struct socket *s,
						__u32 *slot)
{
	struct ledger *l;

	if (bpf_map_pop_elem(&free_slots, slot)) {
		s->place = PLACE_UNTAPPED;
		count(COUNT_NO_SLOT);
		return NULL;
	}
	l = bpf_map_lookup_elem(&ledgers, slot);
	if (!l)
		return NULL;
	copy_addresses(l, ctx);
	l->peer_window_shift = WINDOW_SHIFT_UNKNOWN;
	l->received.window = WINDOW_UNKNOWN;
	return l;
}

/* Lets the process find a ledger whose fields are filled. */
static __always_inline bool publish(struct ledger *l, struct socket *s, __u32 slot, __u64 cookie)
{
	fence();
	WRITE(l->cookie, cookie);
	if (bpf_map_update_elem(&slot_by_cookie, &cookie, &slot, BPF_ANY)) {
		WRITE(l->cookie, 0);
		l->syn_ns = 0;
		l->established_ns = 0;
		l->syn_length = 0;
		bpf_map_push_elem(&free_slots, &slot, BPF_ANY);
		s->place = PLACE_UNTAPPED;
		count(COUNT_NO_INDEX);
		return false;
	}
	count(COUNT_TAKEN);
	return true;
}

static __always_inline void refresh(struct ledger *l, struct bpf_sock_ops *ctx, __u32 srtt_x8)
{
	begin_write(&l->sent.version);
	l->sent.srtt_us = (srtt_x8 ? srtt_x8 : ctx->srtt_us) >> 3;
	l->sent.min_rtt_us = ctx->rtt_min;
	l->sent.cwnd = ctx->snd_cwnd;
	l->sent.mss = ctx->mss_cache;
	l->sent.rate_delivered = ctx->rate_delivered;
	l->sent.rate_interval_us = ctx->rate_interval_us;
	end_write(&l->sent.version);
}

static __always_inline void ask_for_callbacks(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTO_CB_FLAG |
					       BPF_SOCK_OPS_RETRANS_CB_FLAG |
					       BPF_SOCK_OPS_STATE_CB_FLAG |
					       BPF_SOCK_OPS_RTT_CB_FLAG);
}

/* `flags` says where to look: in the saved SYN, or in the SYN-ACK at hand. */
static __always_inline __u8 window_shift(struct bpf_sock_ops *ctx, __u64 flags)
{
	__u8 option[4] = { OPTION_WINDOW_SCALE };
	long length = bpf_load_hdr_opt(ctx, option, sizeof(option), flags);

	if (length == 3)
		return option[2] < WINDOW_SHIFT_MAX ? option[2] : WINDOW_SHIFT_MAX;
	return length == -42 /* ENOMSG: it has none */ ? 0 : WINDOW_SHIFT_UNKNOWN;
}

static __always_inline void syn_arrived(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u64 now = bpf_ktime_get_ns();

	if (ctx->is_fullsock)
		return;
	bpf_map_update_elem(&syn_times, &cookie, &now, BPF_NOEXIST);
	handshake_begun(ctx);
}

static __always_inline void connecting(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct ledger *l;
	struct socket *s;
	__u32 slot;

	if (!sk || !bpf_map_lookup_elem(&upstreams, &cookie))
		return;
	bpf_map_delete_elem(&upstreams, &cookie);
	s = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s) {
		count(COUNT_NO_STORAGE);
		return;
	}
	if (READ(s->place) != PLACE_NONE)
		return;
	l = take_slot(ctx, s, &slot);
	if (!l)
		return;
	l->syn_ns = bpf_ktime_get_ns();
	if (!publish(l, s, slot, cookie))
		return;
	s->place = slot + 1;
	ask_for_callbacks(ctx);
}

static __always_inline void connected(struct bpf_sock_ops *ctx, struct socket *s, struct ledger *l)
{
	__u64 arrived_ns = s->early.now_ns;

	l->receive_base = ctx->rcv_nxt;
	l->send_base = ctx->snd_nxt;
	l->handshake_rtt_us = ctx->srtt_us >> 3;
	refresh(l, ctx, 0);
	copy_addresses(l, ctx);
	l->peer_window_shift = window_shift(ctx, 0);
	fence();
	WRITE(l->established_ns, arrived_ns ? arrived_ns : bpf_ktime_get_ns());
}

/* Payload on the packet that completes the handshake was booked to the listener. */
static __always_inline void third_packet(struct bpf_sock_ops *ctx, struct packet *p)
{
	__u32 zero = 0;
	struct packet *last = bpf_map_lookup_elem(&handshakes, &zero);
	__u8 *tcp = ctx->skb_data, *end = ctx->skb_data_end;
	__u32 headers;

	if (!tcp || tcp + TCP_HEADER > end)
		return;
	headers = (tcp[12] >> 4) * 4;
	if (ctx->skb_len <= headers)
		return;
	p->seq = bpf_ntohl(*(__be32 *)(tcp + 4));
	p->payload = ctx->skb_len - headers;
	if (last && last->seq == p->seq && last->payload == p->payload) {
		*p = *last;
		return;
	}
	/* Taken from the listener's backlog by another processor: its IP header is gone. */
	p->now_ns = bpf_ktime_get_ns();
	p->segments = 1;
	p->headers = headers + (ctx->family == AF_INET ? 20 : IPV6_HEADER);
	p->tcp_flags = tcp[13];
}

static __always_inline void accepted(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct packet third = {};
	struct ledger *l;
	struct socket *s;
	__u64 *syn_ns;
	__u32 rcv_nxt, slot;
	long syn_length;

	if (!sk)
		return;
	s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!s || READ(s->place) != PLACE_NONE)
		return;
	handshake_done(ctx, s->listener);
	l = take_slot(ctx, s, &slot);
	if (!l)
		return;
	syn_ns = bpf_map_lookup_elem(&syn_times, &cookie);
	if (syn_ns) {
		l->syn_ns = *syn_ns;
		bpf_map_delete_elem(&syn_times, &cookie);
	}
	syn_length = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN_IP, l->syn, sizeof(l->syn));
	if (syn_length > 0 && syn_length <= SYN_HEADERS_MAX)
		l->syn_length = syn_length;
	rcv_nxt = ctx->rcv_nxt;
	l->receive_base = rcv_nxt;
	l->send_base = ctx->snd_nxt;
	l->handshake_rtt_us = ctx->srtt_us >> 3;
	refresh(l, ctx, 0);
	l->peer_window_shift = window_shift(ctx, BPF_LOAD_HDR_OPT_TCP_SYN);
	fence();
	WRITE(l->established_ns, bpf_ktime_get_ns());
	if (!publish(l, s, slot, cookie))
		return;
	ask_for_callbacks(ctx);
	third_packet(ctx, &third);

	bpf_spin_lock(&s->lock);
	s->place = slot + 1;
	if (third.payload)
		receive(l, &third, rcv_nxt);
	if (s->early.payload)
		receive(l, &s->early, rcv_nxt);
	bpf_spin_unlock(&s->lock);
}

static __always_inline void closed(struct bpf_sock_ops *ctx, struct ledger *l, __u32 place)
{
	struct event event = { .cookie = l->cookie, .slot = place - 1 };

	/*
	 * No FIN came first. An abort of ours sends its RST after this, and egress says so then;
	 * what is left expired, while it repeated itself or probed a closed window.
	 */
	if (l->close == CLOSE_UNKNOWN) {
		struct bpf_tcp_sock *tcp = ctx->sk ? bpf_tcp_sock(ctx->sk) : NULL;

		if (READ(l->received.rst))
			l->close = CLOSE_RST_IN;
		else if (READ(l->received.fin))
			l->close = CLOSE_FIN_PEER;
		else if (!READ(l->received.window) || (tcp && tcp->icsk_retransmits))
			l->close = CLOSE_TIMEOUT;
	}
	if (l->established_ns)
		refresh(l, ctx, 0);
	fence();
	WRITE(l->closed_ns, bpf_ktime_get_ns());
	if (bpf_ringbuf_output(&events, &event, sizeof(event), BPF_RB_NO_WAKEUP))
		count(COUNT_EVENT_LOST);
}

static __always_inline void state_changed(struct bpf_sock_ops *ctx, struct ledger *l, __u32 place)
{
	switch (ctx->args[1]) {
	case BPF_TCP_CLOSE_WAIT:
	case BPF_TCP_CLOSING: /* ours had not left yet, or egress has said so */
		if (l->close == CLOSE_UNKNOWN)
			l->close = CLOSE_FIN_PEER;
		break;
	case BPF_TCP_CLOSE:
		closed(ctx, l, place);
		break;
	default:
		break;
	}
}

/* The turn whose byte is to be acknowledged next pays for the timeout, as it does for the repeat. */
static __always_inline void timed_out(struct ledger *l)
{
	__u64 acked = READ(l->received.acked_offset);
	__u32 newest = l->sent.turns;

	begin_write(&l->sent.version);
	l->sent.timeouts += 1;
	for (__u32 i = 0; i < TURNS; i++) {
		__u32 place = (newest - i - 1) & (TURNS - 1);
		struct turn *turn = &l->sent_turns[place];

		if (i >= newest || acked >= turn->end_offset)
			break; /* what is repeated is a FIN */
		if (acked >= turn->first_offset) {
			if (l->turn_timeouts[place] < TIMEOUTS_MAX)
				l->turn_timeouts[place] += 1;
			break;
		}
	}
	end_write(&l->sent.version);
}

/* Callbacks of a socket that has a ledger. */
static __always_inline void progressed(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct ledger *l;
	struct socket *s;
	__u32 place;

	if (!sk)
		return;
	s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!s)
		return;
	place = READ(s->place);
	l = ledger_at(place);
	if (!l)
		return;
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		connected(ctx, s, l);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		/* From 6.10 the second argument is the new estimate; the socket's is the old one. */
		refresh(l, ctx, ctx->args[1]);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		if (!ctx->args[2])
			WRITE(l->sent.resent_segments, l->sent.resent_segments + ctx->args[1]);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		timed_out(l);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		state_changed(ctx, l, place);
		break;
	default:
		break;
	}
}

SEC("sockops")
int tap_socket(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_RWND_INIT:
		syn_arrived(ctx);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connecting(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accepted(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_RTT_CB:
	case BPF_SOCK_OPS_RETRANS_CB:
	case BPF_SOCK_OPS_RTO_CB:
	case BPF_SOCK_OPS_STATE_CB:
		progressed(ctx);
		break;
	default:
		break;
	}
	return PASS;
}
