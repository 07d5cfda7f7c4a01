/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets to segments, and the kernel's own numbers for the connection.
 */
#ifndef PG_TCP_H
#define PG_TCP_H

#include "env.h"

#define PG_TCP_FIN 0x01
#define PG_TCP_SYN 0x02
#define PG_TCP_RST 0x04
#define PG_TCP_ACK 0x10
#define PG_TCP_URG 0x20

/* include/net/tcp_states.h */
#define PG_TCP_SYN_SENT 2
#define PG_TCP_SYN_RECV 3
#define PG_TCP_CLOSE 7
#define PG_TCP_LISTEN 10

struct pg_segment {
	u32 seq;
	u32 length; /* of the payload */
	u32 offset; /* of the payload in the packet */
	u32 flags;  /* PG_TCP_* */
};

/* Sequence numbers wrap: a is before b (RFC 9293, section 3.4). */
static __always_inline int pg_before(u32 a, u32 b)
{
	return (s32)(a - b) < 0;
}

static __always_inline int pg_after(u32 a, u32 b)
{
	return pg_before(b, a);
}

#define PG_IPV6_EXTENSIONS 8 /* more of them is no honest packet */

/* Where the TCP header begins; 0 if it cannot be found. Fragments come here reassembled, but IPv6 may keep an atomic
 * fragment header (RFC 6946). */
PG_STEP int pg_tcp_offset(struct __sk_buff *skb)
{
	u8 ip[40], next, extension[2];
	u32 offset, i;

	if (bpf_skb_load_bytes(skb, 0, ip, 20))
		return 0;
	if (ip[0] >> 4 == 4)
		return ip[9] == IPPROTO_TCP ? (ip[0] & 0xf) * 4 : 0;
	if (ip[0] >> 4 != 6)
		return 0;
	next = ip[6];
	offset = 40;
	for (i = 0; i < PG_IPV6_EXTENSIONS; i++) {
		if (next == IPPROTO_TCP)
			return offset;
		/* hop-by-hop, routing, destination options: length in 8 bytes, the first not counted; fragment: 8 */
		if (next != 0 && next != 43 && next != 60 && next != 44)
			return 0;
		if (bpf_skb_load_bytes(skb, offset, extension, 2))
			return 0;
		offset += next == 44 ? 8 : extension[1] * 8 + 8;
		next = extension[0];
	}
	return 0;
}

/* Where nearly every packet's TCP header is: behind an IP header without options or extensions, and both in one piece.
 * 0: not there. */
static __always_inline const u8 *pg_tcp_at_once(struct __sk_buff *skb, u32 *offset)
{
	const u8 *ip = (const u8 *)(long)skb->data, *end = (const u8 *)(long)skb->data_end;

	if (ip + 40 <= end && ip[0] == 0x45 && ip[9] == IPPROTO_TCP) {
		*offset = 20;
		return ip + 20;
	}
	if (ip + 60 <= end && ip[0] >> 4 == 6 && ip[6] == IPPROTO_TCP) {
		*offset = 40;
		return ip + 40;
	}
	return 0;
}

static __always_inline int pg_segment_of(struct __sk_buff *skb, const u8 *tcp, u32 offset, struct pg_segment *g)
{
	g->seq = (u32)tcp[4] << 24 | (u32)tcp[5] << 16 | (u32)tcp[6] << 8 | tcp[7];
	g->flags = tcp[13];
	g->offset = offset + (tcp[12] >> 4) * 4;
	if (tcp[12] >> 4 < 5 || g->offset > skb->len)
		return 0;
	g->length = skb->len - g->offset;
	return 1;
}

/* The same for a header that has to be looked for. */
PG_STEP int pg_segment_find(struct __sk_buff *skb, struct pg_segment *g)
{
	u32 offset;
	u8 tcp[20];

	if (!g)
		return 0;
	offset = pg_tcp_offset(skb);
	if (!offset || bpf_skb_load_bytes(skb, offset, tcp, sizeof(tcp)))
		return 0;
	return pg_segment_of(skb, tcp, offset, g);
}

/* Returns 0 if the packet has no readable TCP header. The length is the packet's, never the IP header's: BIG TCP
 * leaves that one 0. */
static __always_inline int pg_segment_read(struct __sk_buff *skb, struct pg_segment *g)
{
	u32 offset;
	const u8 *at = pg_tcp_at_once(skb, &offset);

	return at ? pg_segment_of(skb, at, offset, g) : pg_segment_find(skb, g);
}

/*
 * Can a local sender still write bytes of this packet? After sendfile() or vmsplice() it can: the packet refers to
 * pages that it maps. What is linear was copied. Before kernel 6.2 the flag cannot be read.
 */
static __always_inline int pg_pages_shared(struct __sk_buff *skb)
{
	struct skb_shared_info *shared;
	struct sk_buff *kernel;

	if (!bpf_ksym_exists(bpf_cast_to_kern_ctx) || !bpf_ksym_exists(bpf_rdonly_cast))
		return 0;
	kernel = bpf_cast_to_kern_ctx(skb);
	if (!kernel->data_len)
		return 0;
	shared = bpf_rdonly_cast(kernel->head + kernel->end, bpf_core_type_id_kernel(struct skb_shared_info));
	return shared->flags & SKBFL_SHARED_FRAG;
}

#endif
