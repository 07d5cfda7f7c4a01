/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The server's side of a connection, on its way out. Its frames are followed: for the streams that it answers, and so
 * that the agent's reply leaves between two frames and nowhere else. Where rules read responses its messages are
 * judged, and what nothing can be said of does not leave (config.responses).
 *
 * The agent sends its reply on the server's own socket, where the server may be writing too. So while a reply is
 * registered, everything that is sent is searched for the reply's first bytes, the mark; where they stand inside a
 * frame, the segment is held back and the agent told to reset the connection.
 */
#ifndef PG_HOOKS_RESPONSE_H
#define PG_HOOKS_RESPONSE_H

#include "hooks/silence.h"

#define PG_SCAN_BYTES 16
/* Bytes of the mark that tell it from a frame's end. Fewer, all of them a frame's length, end many frames; they could
 * be the mark's only if the server had left its frame that many bytes short just there. */
#define PG_MARK_TELLS 4
#define PG_BORDERS 8 /* a reply's mark has no longer chain of borders: it begins with a frame head */

/* ---- following ---- */

static long pg_follow_cb(u32 index, void *data)
{
	struct pg_run *r = data;
	struct pg_work *w = r->w;

	(void)index;
	if (!w || !r->c)
		return 1;
	if (w->pos < w->end) {
		if (!pg_response_skips(r->c) && !pg_ready(w) && !pg_load(r->skb, w))
			return 1;
		w->outcome = pg_response_step(r->c, w);
		if (w->outcome != PG_GO)
			return 1;
	}
	w->done = w->pos >= w->end;
	return w->done;
}

/* Follows the chunk up to `end`. Returns 0 if the server is out of step. */
static __always_inline int pg_follow_to(struct pg_run *r, u32 end)
{
	r->w->end = end;
	r->w->done = 0;
	bpf_loop(PG_TURNS, pg_follow_cb, r, 0);
	return r->w->done;
}

static __always_inline int pg_between_frames(const struct pg_conn *c)
{
	return c->response.state == PG_H2_HEAD && !c->response.have;
}

/* ---- the reply's mark ---- */

struct pg_scan {
	struct __sk_buff *skb;
	struct pg_work *w;
	struct pg_reply *reply;
	int found; /* the mark ends at w->pos */
	int done;
};

PG_STEP int pg_scan_some(struct pg_work *w, struct pg_reply *reply)
{
	u32 i, k, matched;
	u8 byte;

	if (!w || !reply)
		return 0;
	for (i = 0; i < PG_SCAN_BYTES; i++) {
		if (!pg_ready(w))
			return 0;
		byte = pg_peek(w);
		w->pos++;
		matched = reply->matched;
		for (k = 0; k < PG_BORDERS; k++) {
			if (!matched || byte == reply->bytes[pg_index(matched, PG_REPLY_MARK)])
				break;
			matched = reply->failure[pg_index(matched - 1, PG_REPLY_MARK)];
		}
		reply->matched = byte == reply->bytes[pg_index(matched, PG_REPLY_MARK)] ? matched + 1 : 0;
		if (reply->matched >= reply->mark)
			return 1;
	}
	return 0;
}

static long pg_scan_cb(u32 index, void *data)
{
	struct pg_scan *s = data;

	(void)index;
	if (!s->w || !s->reply)
		return 1;
	if (s->w->pos >= s->w->end) {
		s->done = 1;
		return 1;
	}
	if (!pg_ready(s->w) && !pg_load(s->skb, s->w))
		return 1;
	s->found = pg_scan_some(s->w, s->reply);
	return s->found ? 1 : 0;
}

/*
 * Follows a segment in which the reply may stand. Returns 0 if it must not leave: the mark stands inside a frame, or
 * a frame ends with what may be the mark's beginning, and only the next segment can tell.
 */
static __always_inline int pg_follow_reply(struct pg_run *r, struct pg_reply *reply, u32 from)
{
	struct pg_scan s = {.skb = r->skb, .w = r->w, .reply = reply};
	u32 end = r->w->end, before = reply->matched, start;

	bpf_loop(PG_TURNS, pg_scan_cb, &s, 0);
	if (!s.found && !s.done)
		return 0;
	if (!reply->matched) {
		pg_chunk_rewind(r->w, from, end);
		return pg_follow_to(r, end);
	}
	/* where the match begins: in this segment, or in one that has left */
	start = r->w->pos - reply->matched;
	pg_chunk_rewind(r->w, from, end);
	if ((s32)(start - from) >= 0 || before == 0) {
		if (!pg_follow_to(r, start))
			return 0;
		reply->between = pg_between_frames(r->c);
	}
	if (s.found) {
		reply->done = reply->between ? PG_EV_INJECTED : PG_EV_INJECT_FAILED;
		if (!reply->between)
			r->c->phase = PG_P_DEAD; /* what was queued cannot be taken back */
		pg_about(r->w, 0, 0);
		pg_emit(r->c, r->w, reply->done, reply->between ? PG_V_ALLOW : PG_V_DENY);
		return reply->between && pg_follow_to(r, end);
	}
	if (!pg_follow_to(r, end))
		return 0;
	if (reply->between || !pg_between_frames(r->c) || reply->matched < PG_MARK_TELLS)
		return 1;
	/* The segment is held back, and comes again: what is known of it is forgotten. */
	return 0;
}

/* Where rules read responses: may the segment leave before it is looked at? */
PG_STEP int pg_follow_may(struct __sk_buff *skb, struct pg_conn *c, const struct pg_segment *g, struct pg_work *w)
{
	u32 b, reason = PG_R_NONE;

	if (!skb || !c || !g || !w)
		return PG_DROP;
	b = g->seq + g->length;
	if (!pg_after(b, c->sent) && !(g->flags & PG_TCP_URG))
		return PG_PASS; /* again: the kernel keeps these bytes itself, see below */
	if (c->answers == PG_A_MUTED) {
		pg_count(PG_N_DEAD);
		return PG_DROP;
	}
	if (g->flags & PG_TCP_URG)
		reason = PG_R_URGENT;
	else if (pg_pages_shared(skb))
		reason = PG_R_SHARED_PAGES;
	else if (!c->followed)
		reason = PG_R_INTERNAL;
	else if (pg_after(g->seq, c->sent))
		return pg_drop(
			PG_R_LOCK); /* one before this was dropped for want of the lock; both come again, in order */
	if (!reason)
		return PG_LOOK;
	pg_about(w, 0, 0);
	w->reason = reason;
	if (!config.audit)
		return pg_silence(skb, c, w, g, PG_CUT);
	pg_emit(c, w, PG_EV_CONNECTION, PG_V_AUDIT_DENY);
	return pg_silence(skb, c, w, g, PG_BLIND);
}

/* Under the response lock. Returns 0 if the segment must not leave. */
static __always_inline int pg_follow(struct __sk_buff *skb, struct pg_conn *c, const struct pg_segment *g,
				     struct pg_work *w)
{
	struct pg_run r = {.skb = skb, .c = c, .w = w};
	u32 b = g->seq + g->length, from;
	struct pg_reply *reply = 0;
	u64 cookie = c->cookie;
	int pass = 1, verdict;

	if (c->phase == PG_P_DEAD || c->mends) {
		reply = bpf_map_lookup_elem(&replies, &cookie);
		if (reply && reply->done == PG_EV_INJECT_FAILED)
			return 0;
		if (reply && reply->done)
			reply = 0;
	}
	if (config.responses && c->answers != PG_A_UNREAD) {
		verdict = pg_follow_may(skb, c, g, w);
		if (verdict != PG_LOOK)
			return verdict;
	}
	if (!c->followed)
		return !reply;
	if (!pg_after(b, c->sent))
		return 1;
	if (pg_after(g->seq, c->sent)) {
		c->followed = 0;
		return !reply;
	}
	w->half = config.responses ? PG_RESPONSE_HALF : 0;
	from = c->sent - g->seq;
	pg_chunk(w, PG_SRC_PACKET, 0, g->offset, g->length);
	w->pos = from;
	if (!reply) {
		c->followed = pg_follow_to(&r, g->length);
	} else {
		pass = pg_follow_reply(&r, reply, from);
		if (!pass && reply->done != PG_EV_INJECT_FAILED && !(config.responses && w->outcome != PG_GO)) {
			/* nothing that could tell is left: no reply, a reset */
			reply->done = PG_EV_INJECT_FAILED;
			c->phase = PG_P_DEAD;
			pg_about(w, 0, 0);
			pg_emit(c, w, PG_EV_INJECT_FAILED, PG_V_DENY);
		}
		c->followed = pass;
	}
	if (config.responses && !c->followed) {
		if (w->outcome == PG_GO && pass) {
			pg_about(w, 0, 0);
			w->outcome = pg_fail_connection(c, w, PG_R_BUDGET);
		}
		return pg_silence(skb, c, w, g, w->outcome);
	}
	c->sent = b;
	if (c->phase == PG_P_DEAD && !c->pending && !c->drained) {
		c->drained = 1;
		pg_about(w, 0, 0);
		pg_emit(c, w, PG_EV_DRAINED, PG_V_ALLOW);
	}
	return pass;
}

static __always_inline int pg_server_response(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w,
					      const struct pg_segment *g)
{
	int pass;

	if (c->phase == PG_P_BLIND && !(config.responses && c->answers == PG_A_MUTED))
		return 1;
	if (pg_is_handshake(c))
		return 1;
	if (pg_lock(&c->response_lock)) {
		pass = pg_follow(skb, c, g, w);
		pg_unlock(&c->response_lock);
	} else if (config.responses && c->answers != PG_A_UNREAD) {
		pass = pg_drop(PG_R_LOCK);
	} else {
		c->followed = 0;
		pass = c->phase != PG_P_DEAD;
	}
	return pass;
}

#endif
