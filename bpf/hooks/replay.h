/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The engine over bytes that are no connection's: BPF_PROG_TEST_RUN hands them over as a packet's payload. Not
 * attached anywhere, and not loaded for enforcement; the kernel's verdict is compared with the host's through it, and
 * its run time measured.
 */
#ifndef PG_HOOKS_REPLAY_H
#define PG_HOOKS_REPLAY_H

#include "hooks/request.h"
#include "hooks/response.h"

#define PG_REPLAY_COOKIE 1
#define PG_REPLAY_SERVER 2

/* A connection that begins here, from the peer that the control block names; the one before it goes. */
static __always_inline struct pg_conn *pg_replay_begin(struct __sk_buff *skb)
{
	volatile __u32 *cb = skb->cb; /* read word by word: a context allows nothing else */
	u64 cookie = PG_REPLAY_COOKIE;
	struct pg_conn *blank, *c;
	u32 zero = 0, ip[4];

	c = bpf_map_lookup_elem(&conns, &cookie);
	if (c)
		pg_streams_drop(c);
	blank = bpf_map_lookup_elem(&blank_conn, &zero);
	if (!blank || bpf_map_update_elem(&conns, &cookie, blank, BPF_ANY))
		return 0;
	c = bpf_map_lookup_elem(&conns, &cookie);
	if (!c)
		return 0;
	c->id = pg_conn_id();
	c->cookie = cookie;
	ip[0] = cb[0];
	ip[1] = cb[1];
	ip[2] = cb[2];
	ip[3] = cb[3];
	__builtin_memcpy(c->remote, ip, 16);
	c->remote_port = cb[4];
	pg_connection_start(c);
	return c;
}

/* The whole packet is the server's next bytes. */
static __always_inline int pg_replay_response(struct __sk_buff *skb, struct pg_work *w)
{
	struct pg_run r = {.skb = skb, .w = w};
	u64 cookie = PG_REPLAY_COOKIE;

	r.c = bpf_map_lookup_elem(&conns, &cookie);
	if (!r.c)
		return pg_drop(PG_R_INTERNAL);
	if (r.c->phase == PG_P_BLIND || r.c->answers == PG_A_UNREAD)
		return PG_PASS;
	if (r.c->answers == PG_A_MUTED)
		return PG_DROP;
	w->half = config.responses ? PG_RESPONSE_HALF : 0;
	pg_chunk(w, PG_SRC_PACKET, 0, 0, skb->len);
	if (pg_follow_to(&r, skb->len) || !config.responses)
		return PG_PASS;
	if (w->outcome == PG_GO)
		w->outcome = pg_fail_connection(r.c, w, PG_R_BUDGET);
	r.c->answers = w->outcome == PG_BLIND ? PG_A_UNREAD : PG_A_MUTED;
	if (w->outcome == PG_BLIND)
		return PG_PASS;
	pg_emit(r.c, w, w->outcome == PG_DENIED ? PG_EV_DECISION : PG_EV_CONNECTION, PG_V_DENY);
	return pg_drop(w->reason);
}

/* The whole packet is the client's next bytes; with a mark they are the first of a new connection. */
static __always_inline int pg_replay_request(struct __sk_buff *skb, struct pg_work *w)
{
	struct pg_run r = {.skb = skb, .w = w};
	u64 cookie = PG_REPLAY_COOKIE;

	r.c = skb->mark ? pg_replay_begin(skb) : bpf_map_lookup_elem(&conns, &cookie);
	if (!r.c)
		return pg_drop(PG_R_INTERNAL);
	w->now = skb->tstamp;
	if (r.c->phase == PG_P_BLIND)
		return PG_PASS;
	if (r.c->phase == PG_P_DEAD)
		return PG_DROP;
	r.c->delivered = r.c->complete;
	w->judged = r.c->judged + skb->len;
	pg_run(&r, 0, skb->len, 0);
	return pg_conclude(r.c, w);
}

static __always_inline int pg_replay_bytes(struct __sk_buff *skb)
{
	struct pg_work *w = pg_work_take();
	int verdict;

	if (!w)
		return pg_drop(PG_R_LOCK);
	verdict = skb->mark == PG_REPLAY_SERVER ? pg_replay_response(skb, w) : pg_replay_request(skb, w);
	pg_work_give(w);
	return verdict;
}

#endif
