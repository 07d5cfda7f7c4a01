/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The server's side of a connection, on its way out. Its frames are followed, never judged: for the streams that it
 * answers, and so that the agent's reply can be let out between two frames and nowhere else.
 */
#ifndef PG_HOOKS_RESPONSE_H
#define PG_HOOKS_RESPONSE_H

#include "run.h"

static long pg_follow_cb(u32 index, void *data)
{
	struct pg_run *r = data;
	struct pg_work *w = r->w;
	u32 i;

	(void)index;
	if (!w || !r->c)
		return 1;
	for (i = 0; i < PG_STEPS_A_TURN; i++) {
		if (w->pos >= w->end) {
			r->done = 1;
			return 1;
		}
		if (r->c->response.state != PG_H2_SKIP && !pg_ready(w) && !pg_load(r->skb, w))
			return 1;
		if (pg_response_step(r->c, w))
			return 1;
	}
	return 0;
}

/* Under the response lock. */
static __always_inline void pg_follow(struct __sk_buff *skb, struct pg_conn *c, const struct pg_segment *g)
{
	struct pg_run r = {.skb = skb, .c = c};
	u32 b = g->seq + g->length, zero = 0;

	if (!c->followed)
		return;
	if (!pg_after(b, c->sent))
		return;
	r.w = bpf_map_lookup_elem(&response_scratch, &zero);
	if (!r.w || pg_after(g->seq, c->sent)) {
		c->followed = 0;
		return;
	}
	pg_chunk(r.w, PG_SRC_PACKET, 0, g->offset, g->length);
	r.w->pos = c->sent - g->seq;
	bpf_loop(PG_TURNS, pg_follow_cb, &r, 0);
	c->sent = b;
	c->followed = r.done;
}

static __always_inline int pg_server_response(struct __sk_buff *skb, struct pg_conn *c, const struct pg_segment *g)
{
	if (!g->length || c->phase == PG_P_BLIND)
		return 1;
	if (!pg_lock(&c->response_lock)) {
		c->followed = 0;
		return 1;
	}
	pg_follow(skb, c, g);
	if (c->phase == PG_P_DEAD && !c->pending && !c->drained)
		c->drained = 1;
	pg_unlock(&c->response_lock);
	return 1;
}

#endif
