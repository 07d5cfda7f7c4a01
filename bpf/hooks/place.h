/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a segment that comes in stands, before any of it is judged: on ingress, a client's of a server (ingress
 * policies) or a server's of a client (egress policies). J is the judged position of that direction, R is rcv_nxt, a
 * segment is [a, b). docs/tcp.md has the measurements.
 */
#ifndef PG_HOOKS_PLACE_H
#define PG_HOOKS_PLACE_H

#include "hooks/pass.h"
#include "run.h"

#define PG_STUCK_DROPS 5
#define PG_STUCK_NS 1000000000ull
#define PG_STUCK_HOLE_NS 10000000000ull /* a hole waits for the agent, which may be busy */

/* What the kernel knows of the connection, and J. */
struct pg_numbers {
	u32 judged;
	u32 received;	/* R */
	u32 window_end; /* what ends beyond it TCP refuses */
	u32 mptcp;
	u32 withheld; /* 1, said by pg_place(): the segment is dropped, and kept for later */
};

/* Bytes were judged that TCP then refused, and they come again with other boundaries: the whole segment is dropped. TCP
 * mostly has them in its backlog already, and moves on; where it does not, the connection cannot be saved. */
static __always_inline u32 pg_overlap(struct pg_conn *c, u32 received)
{
	u64 now = pg_now();

	pg_count(PG_N_OVERLAPS);
	if (!c->stuck || c->stuck_at != received) {
		c->stuck = 0;
		c->stuck_at = received;
		c->stuck_since = now;
	}
	c->stuck++;
	if (c->stuck > PG_STUCK_DROPS && now - c->stuck_since > (c->holes ? PG_STUCK_HOLE_NS : PG_STUCK_NS))
		return PG_R_RETRANSMIT_UNVERIFIED;
	return PG_R_NONE;
}

/* The payload against J and R. `*reason`: the connection is to be cut for it. Under the direction's lock. */
static __always_inline int pg_payload_place(struct __sk_buff *skb, struct pg_conn *c, const struct pg_segment *g,
					    struct pg_numbers *n, u32 *reason)
{
	u32 a = g->seq, b = g->seq + g->length, most = n->judged;

	if (c->fin && c->fin_at == n->judged)
		most++;
	if (pg_after(n->received, most) || (c->holes && pg_hole_violated(c, n->received))) {
		*reason = PG_R_UNJUDGED;
		return PG_DROP;
	}
	if (!pg_after(b, n->received))
		return PG_PASS;
	if (pg_after(b, n->window_end)) {
		pg_count(PG_N_OUT_OF_WINDOW);
		return PG_DROP;
	}
	if (pg_after(a, n->judged)) {
		if (!pg_held_put(skb, c, g)) {
			pg_count(PG_N_HELD_FULL);
			return PG_DROP;
		}
		c->held = 1;
		n->withheld = c->mends != 0;
		return n->withheld ? PG_DROP : PG_PASS;
	}
	/* What TCP has already is cut off by TCP; so it is here, if nothing judged is still missing there. */
	if ((a != n->judged && n->received != n->judged) || !pg_after(b, n->judged)) {
		*reason = pg_overlap(c, n->received);
		return PG_DROP;
	}
	return PG_LOOK;
}

/* The same of a whole segment, with payload, FIN or URG. */
static __always_inline int pg_place(struct __sk_buff *skb, struct pg_conn *c, const struct pg_segment *g,
				    struct pg_numbers *n, u32 *reason)
{
	if (n->mptcp)
		*reason = PG_R_MPTCP;
	else if (g->flags & PG_TCP_URG)
		*reason = PG_R_URGENT;
	if (*reason)
		return PG_DROP;
	if (!(g->flags & PG_TCP_ACK))
		return pg_drop(PG_R_NO_ACK);
	if (pg_pages_shared(skb)) {
		*reason = PG_R_SHARED_PAGES;
		return PG_DROP;
	}
	if (!c->cgroup)
		c->cgroup = bpf_skb_cgroup_id(skb);
	/* one FIN has one place; another is not honest, and would hide a byte from the comparison with R */
	if (g->flags & PG_TCP_FIN && c->fin && c->fin_at != g->seq + g->length)
		return pg_drop(PG_R_UNJUDGED);
	return g->length ? pg_payload_place(skb, c, g, n, reason) : PG_PASS;
}

/* The segment passes: what of its FIN is to be remembered. */
static __always_inline void pg_place_fin(struct pg_conn *c, const struct pg_segment *g)
{
	if (!(g->flags & PG_TCP_FIN))
		return;
	c->fin = 1;
	c->fin_at = g->seq + g->length;
}

#endif
