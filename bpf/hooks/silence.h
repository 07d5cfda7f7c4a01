/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A denied response. The filter passes a segment or drops it, and TCP sends a dropped one for ever, so behind it
 * nothing can be said on the server's own socket: the connection is over in both directions. What stands in the segment
 * before the denied frame is copied, and the agent sends that and the status of the denied RPC as segments of the
 * connection. It has no socket for them, so they do not come by here: what they bring of the server's bytes has been
 * judged.
 */
#ifndef PG_HOOKS_SILENCE_H
#define PG_HOOKS_SILENCE_H

#include "hooks/pass.h"
#include "run.h"

/* Where the denied frame begins in the segment, counted from what has not left before; PG_NO_FRAME: in one before, or
 * it cannot be kept. The copy belongs to the connection, if that still lives. */
static __always_inline u32 pg_said_keep(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w,
					const struct pg_segment *g, u32 from)
{
	struct pg_held_segment s = {.why = PG_COPY_MENDS};
	u32 length, kept;

	if (w->frame_at == PG_NO_FRAME || w->frame_at < from)
		return PG_NO_FRAME;
	length = w->frame_at - from;
	if (!length)
		return 0;
	if (!pg_held_copy(skb, g->offset + from, length, &s))
		return PG_NO_FRAME;
	kept = pg_lock(&c->lock);
	if (kept) {
		kept = c->cookie && c->said.source == PG_SRC_PACKET;
		if (kept) {
			c->said.source = s.source;
			c->said.slot = s.slot;
			c->said.length = length;
		}
		pg_unlock(&c->lock);
	}
	if (kept)
		return length;
	pg_slot_free(s.source, s.slot);
	return PG_NO_FRAME;
}

/* Tells the agent what the caller may be sent. */
PG_STEP int pg_silenced(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w, const struct pg_segment *g)
{
	struct pg_hole_event *e;
	u32 length, from;

	if (!skb || !c || !w || !g)
		return 0;
	from = c->sent - g->seq;
	e = &w->said;
	if (!pg_tcp_header(skb, e))
		return 0;
	length = pg_said_keep(skb, c, w, g, from);
	pg_event_fill(&e->about, c, w, PG_EV_SILENCED, PG_V_DENY);
	/* these have reached the server, whatever is being judged now */
	e->about.delivered = c->complete;
	e->seq = c->sent;
	e->placed = length != PG_NO_FRAME;
	e->length = e->placed ? length : 0;
	e->slot = c->said.slot;
	e->source = c->said.source;
	e->base = 0;
	e->credit = 0;
	e->resets = 0;
	if (bpf_ringbuf_output(&events, e, sizeof(*e), 0))
		pg_count(PG_N_EVENTS_LOST);
	return 1;
}

/* The server's side cannot go on as it was, and `w` says why. Returns whether the segment may leave. Under the response
 * lock. */
PG_STEP int pg_silence(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w, const struct pg_segment *g,
		       int outcome)
{
	if (!skb || !c || !w || !g)
		return PG_DROP;
	c->followed = 0;
	if (outcome == PG_BLIND) {
		c->answers = PG_A_UNREAD;
		return PG_PASS;
	}
	c->answers = PG_A_MUTED;
	c->phase = PG_P_DEAD;
	c->shadow = 0;
	if (outcome == PG_DENIED) {
		pg_emit(c, w, PG_EV_DECISION, PG_V_DENY);
		pg_count(PG_N_DENIED);
		if (config.direction == PG_INGRESS)
			pg_silenced(skb, c, w, g);
	} else if (outcome != PG_GO) { /* else the agent knows */
		pg_emit(c, w, PG_EV_CONNECTION, PG_V_DENY);
	}
	return pg_drop(w->reason);
}

#endif
