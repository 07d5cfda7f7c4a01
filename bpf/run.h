/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The engine over a segment, and over the held ones that it makes contiguous. */
#ifndef PG_RUN_H
#define PG_RUN_H

#include "mend.h"

/* Steps of one run: far more than any segment of honest size needs. A turn of bpf_loop is one step: the verifier walks
 * every path of a turn. */
#define PG_TURNS 400000

/* `n` bytes of a held chunk. It is bounded here again: of an argument the verifier knows nothing. */
PG_STEP int pg_load_held(struct pg_work *w, u32 n)
{
	struct pg_small *small;
	struct pg_large *large;
	u32 at, slot;

	if (!w || !n)
		return 0;
	n = pg_length(n, PG_WINDOW);
	at = w->base + w->pos;
	slot = w->slot;
	switch (w->source) {
	case PG_SRC_HELD_SMALL:
		small = bpf_map_lookup_elem(&held_small, &slot);
		if (!small || n > PG_HELD_SMALL_BYTES || at > PG_HELD_SMALL_BYTES - n ||
		    bpf_probe_read_kernel(w->window, n, small->bytes + at))
			return 0;
		break;
	case PG_SRC_HELD_LARGE:
		large = bpf_map_lookup_elem(&held_large, &slot);
		if (!large || at > PG_MAX_HELD_BYTES - n || bpf_probe_read_kernel(w->window, n, large->bytes + at))
			return 0;
		break;
	default:
		return 0;
	}
	return 1;
}

/* Loads the next bytes of the chunk into the window. */
static __always_inline int pg_load(struct __sk_buff *skb, struct pg_work *w)
{
	u32 n = pg_window_next(w);

	if (!n)
		return 0;
	n = pg_length(n, PG_WINDOW);
	if (w->source == PG_SRC_PACKET) {
		if (bpf_skb_load_bytes(skb, w->base + w->pos, w->window, n))
			return 0;
	} else if (!pg_load_held(w, n)) {
		return 0;
	}
	w->window_at = w->pos;
	w->window_size = n;
	return 1;
}

static __always_inline void pg_chunk(struct pg_work *w, u32 source, u32 slot, u32 base, u32 length)
{
	w->source = source;
	w->slot = slot;
	w->base = base;
	w->end = length;
	w->pos = 0;
	w->window_at = 0;
	w->window_size = 0;
	w->frame_at = PG_NO_FRAME;
	w->path_at = PG_NO_FRAME;
}

/* The chunk again, from `pos` on. */
static __always_inline void pg_chunk_rewind(struct pg_work *w, u32 pos, u32 end)
{
	w->pos = pos;
	w->end = end;
	w->window_at = 0;
	w->window_size = 0;
}

struct pg_run {
	struct __sk_buff *skb;
	struct pg_conn *c;
	struct pg_work *w;
	struct pg_held *held; /* 0: none */
};

/* An RPC is denied: the connection is dead from here on, and read on in the shadow. Under the lock. */
static __always_inline void pg_denied(struct pg_conn *c, struct pg_work *w)
{
	if (c->phase != PG_P_DEAD) {
		/* what ended in this run was not delivered: nobody will answer it */
		c->pending = c->pending > w->ended ? c->pending - w->ended : 0;
		c->phase = PG_P_DEAD;
		c->shadow = 1;
	}
	pg_emit(c, w, PG_EV_DECISION, PG_V_DENY);
	pg_count(PG_N_DENIED);
}

/* A chunk that may be mended begins at w->pos, which is `seq`. */
static __always_inline void pg_chunk_hole(struct pg_conn *c, struct pg_work *w, u32 seq)
{
	c->chunk++;
	w->hole_seq = seq;
	w->hole_skip = w->pos;
	w->hole_length = w->end - w->pos;
	w->hole_source = PG_SRC_PACKET;
	w->credit = 0;
	w->resets = 0;
	w->absorbed = PG_NO_FRAME;
}

/* The slot that the chunk has, if any, is free again. */
static __always_inline void pg_chunk_free(struct pg_work *w)
{
	if (w->source != PG_SRC_PACKET)
		pg_slot_free(w->source, w->slot);
	else if (w->hole_source != PG_SRC_PACKET)
		pg_slot_free(w->hole_source, w->hole_slot);
	w->hole_source = PG_SRC_PACKET;
}

/* The chunk is judged. If a copy is to take its place, the place is kept: unless the run has come upon what cannot be
 * mended, for that may be in the copy too. */
static __always_inline int pg_chunk_done(struct pg_run *r)
{
	struct pg_work *w = r->w;

	if (w->hole_source == PG_SRC_PACKET || w->outcome != PG_GO) {
		pg_chunk_free(w);
		return 1;
	}
	if (!pg_hole_open(r->skb, r->c, w))
		return 0;
	if (w->source == PG_SRC_PACKET)
		w->replaced = 1;
	w->hole_source = PG_SRC_PACKET;
	return 1;
}

/* The next held segment that continues what is judged, if there is one. */
static __always_inline int pg_next_chunk(struct pg_run *r)
{
	struct pg_held_segment s = {};
	struct pg_work *w = r->w;

	if (!r->held || !pg_held_take(r->held, w->judged, &s))
		return 0;
	pg_chunk(w, s.source, s.slot, 0, s.length);
	w->pos = w->judged - s.seq;
	pg_count_add(PG_N_SEGMENTS, 1);
	pg_count_add(PG_N_BYTES, s.length - w->pos);
	pg_chunk_hole(r->c, w, w->judged);
	if (s.why == PG_COPY_WITHHELD) {
		w->hole_source = s.source;
		w->hole_slot = s.slot;
		w->hole_base = w->pos;
	}
	w->judged = s.seq + s.length;
	return 1;
}

/* Is the run over with this turn, as nearly every one is? All of the packet is judged, no copy is to take its place,
 * and nothing waits behind it. */
static __always_inline int pg_run_over(const struct pg_run *r)
{
	return r->w->pos >= r->w->end && r->w->hole_source == PG_SRC_PACKET && !r->held;
}

static long pg_run_cb(u32 index, void *data)
{
	struct pg_run *r = data;
	struct pg_work *w = r->w;
	int outcome;

	(void)index;
	if (!w || !r->c)
		return 1;
	if (w->pos >= w->end) {
		if (!pg_chunk_done(r)) {
			w->outcome = pg_fail_connection(r->c, w, PG_R_BUDGET);
			return 1;
		}
		if (!pg_next_chunk(r)) {
			w->done = 1;
			return 1;
		}
	}
	if (!r->c->passing && !pg_ready(w) && !pg_load(r->skb, w)) {
		w->outcome = pg_fail_connection(r->c, w, PG_R_HEADERS_UNREADABLE);
		return 1;
	}
	outcome = pg_request_step(r->c, w);
	if (outcome == PG_GO) {
		if (!pg_run_over(r))
			return 0;
		w->done = 1;
		return 1;
	}
	if (outcome == PG_STRIP) {
		pg_mend_strip(r->skb, r->c, w);
		return 0;
	}
	if (outcome == PG_DENIED && pg_mend_deny(r->skb, r->c, w)) {
		w->changed = 1;
		return 0;
	}
	if (w->outcome == PG_GO)
		w->outcome = outcome;
	if (outcome != PG_DENIED || !r->c->cookie)
		return 1;
	pg_denied(r->c, w);
	return 0;
}

/*
 * Judges [w->judged - length, w->judged) of the packet, from `skip` on, then what waited for it. w->outcome is PG_GO:
 * all of it may pass, and w->judged is where the judged bytes now end.
 */
static __always_inline void pg_run(struct pg_run *r, u32 offset, u32 length, u32 skip)
{
	struct pg_work *w = r->w;
	u32 holes = r->c->holes;

	pg_chunk(w, PG_SRC_PACKET, 0, offset, length);
	w->pos = skip;
	w->ended = 0;
	w->mends = 0;
	w->walked = 0;
	pg_chunk_hole(r->c, w, w->judged - length + skip);
	w->replaced = 0;
	w->changed = 0;
	w->outcome = PG_GO;
	w->done = 0;
	bpf_loop(PG_TURNS, pg_run_cb, r, 0);
	if (!w->done)
		pg_chunk_free(w);
	if (w->outcome == PG_GO && !w->done)
		w->outcome = pg_fail_connection(r->c, w, PG_R_BUDGET);
	/* what waits behind the packet in TCP's queue may be denied: no copy may lead up to it */
	if (w->outcome != PG_GO)
		pg_holes_free(r->c, holes);
}

#endif
