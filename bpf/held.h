/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Segments ahead of a hole. They are copied and let through to wait in TCP's own queue; when the hole fills, the
 * copies are judged before the segment that fills it is passed, so that nothing is delivered unjudged. Dropping them
 * instead would leave every reordering to TCP's retransmission timeout (measured: 15 to 80 times slower).
 */
#ifndef PG_HELD_H
#define PG_HELD_H

#include "tcp.h"

/* A free slot of either size. */
static __always_inline int pg_slot_take(u32 source, u32 why, u32 *slot)
{
	if (source == PG_SRC_HELD_LARGE)
		return (why == PG_COPY_MENDS && !bpf_map_pop_elem(&mend_large, slot)) ||
		       !bpf_map_pop_elem(&free_large, slot);
	return (why == PG_COPY_MENDS && !bpf_map_pop_elem(&mend_small, slot)) || !bpf_map_pop_elem(&free_small, slot);
}

PG_STEP int pg_slot_free(u32 source, u32 slot)
{
	long failed;

	if (source == PG_SRC_HELD_LARGE)
		failed = slot < PG_MAX_HELD_LARGE ? bpf_map_push_elem(&free_large, &slot, 0)
						  : bpf_map_push_elem(&mend_large, &slot, 0);
	else
		failed = slot < PG_MAX_HELD_SMALL ? bpf_map_push_elem(&free_small, &slot, 0)
						  : bpf_map_push_elem(&mend_small, &slot, 0);
	if (failed)
		pg_count(PG_N_HELPER_FAILED);
	return 0;
}

/* Which share a client's address has. */
static __always_inline u32 pg_share_of(const struct pg_conn *c)
{
	u64 address = *(const u64 *)c->remote;

	if (c->family != AF_INET6 || !address)
		address = *(const u32 *)(c->remote + 12);
	return address * 0x9e3779b97f4a7c15ull >> 54;
}

static __always_inline u32 pg_weight(const struct pg_held_segment *s)
{
	return s->source == PG_SRC_HELD_LARGE ? PG_LARGE_WEIGHT : 1;
}

/* Counts slots in a share: they are taken (positive) or given back. Returns how many there were. */
static __always_inline u32 pg_share_add(u32 share, int slots)
{
	u32 *taken = bpf_map_lookup_elem(&shares, &share);

	return taken ? __sync_fetch_and_add(taken, slots) : PG_MAX_HELD_SHARE;
}

struct pg_overlap {
	const struct pg_held *h;
	u32 seq;
	u32 length;
	int found;
};

static long pg_overlap_cb(u32 index, void *data)
{
	struct pg_overlap *o = data;
	const struct pg_held_segment *s;

	if (!o->h || index >= o->h->count)
		return 1;
	s = &o->h->segment[pg_index(index, PG_MAX_HELD_SEGMENTS)];
	o->found = pg_before(o->seq, s->seq + s->length) && pg_before(s->seq, o->seq + o->length);
	return o->found;
}

/* A place in the set: does [seq, seq + length) overlap a segment that is kept? */
PG_STEP int pg_held_overlaps(struct pg_held *h, u32 seq, u32 length)
{
	struct pg_overlap o = {.h = h, .seq = seq, .length = length};

	if (!h)
		return 1;
	bpf_loop(PG_MAX_HELD_SEGMENTS, pg_overlap_cb, &o, 0);
	return o.found;
}

struct pg_take {
	struct pg_held *h;
	struct pg_held_segment *found;
	u32 judged;
	u32 left; /* segments that have not been looked at */
	int taken;
};

static long pg_take_cb(u32 index, void *data)
{
	struct pg_take *t = data;
	struct pg_held_segment *s, *found = t->found;
	struct pg_held *h = t->h;

	(void)index;
	if (!h || !found || !t->left)
		return 1;
	t->left--;
	s = &h->segment[pg_index(t->left, PG_MAX_HELD_SEGMENTS)];
	if (pg_after(s->seq, t->judged))
		return 0;
	*found = *s;
	pg_share_add(h->share, -(int)pg_weight(found));
	h->count--;
	*s = h->segment[pg_index(h->count, PG_MAX_HELD_SEGMENTS)];
	t->taken = pg_after(found->seq + found->length, t->judged);
	if (!t->taken)
		pg_slot_free(found->source, found->slot);
	return t->taken;
}

/*
 * Takes the segment that continues at `judged`, and those that lie before it, out of the set. Returns 1 and fills
 * `found` if there is one; it may begin before `judged`. The walk goes downwards, so that the last segment, which takes
 * the place of one that is removed, has been looked at.
 */
PG_STEP int pg_held_take(struct pg_held *h, u32 judged, struct pg_held_segment *found)
{
	struct pg_take t = {.h = h, .found = found, .judged = judged};

	if (!h || !found || !h->count)
		return 0;
	t.left = h->count;
	bpf_loop(PG_MAX_HELD_SEGMENTS, pg_take_cb, &t, 0);
	return t.taken;
}

/* Copies a payload into a slot; where it may be mended, with room for a patch behind it. */
PG_STEP int pg_held_copy(struct __sk_buff *skb, u32 offset, u32 length, struct pg_held_segment *to)
{
	struct pg_small *small;
	struct pg_large *large;
	u32 slot, spare;

	if (!to)
		return 0;
	spare = to->why == PG_COPY_WAITS ? 0 : PG_PATCH;
	/* the verifier wants to see the length itself bounded */
	if (!length || length > PG_MAX_HELD_BYTES || length + spare > PG_MAX_HELD_BYTES)
		return 0;
	if (length <= PG_HELD_SMALL_BYTES && length + spare <= PG_HELD_SMALL_BYTES &&
	    pg_slot_take(PG_SRC_HELD_SMALL, to->why, &slot)) {
		small = bpf_map_lookup_elem(&held_small, &slot);
		if (!small)
			return 0;
		to->source = PG_SRC_HELD_SMALL;
		to->slot = slot;
		if (!bpf_skb_load_bytes(skb, offset, small->bytes, pg_length(length, PG_HELD_SMALL_BYTES)))
			return 1;
		pg_slot_free(PG_SRC_HELD_SMALL, slot);
		return 0;
	}
	if (!pg_slot_take(PG_SRC_HELD_LARGE, to->why, &slot))
		return 0;
	large = bpf_map_lookup_elem(&held_large, &slot);
	if (!large)
		return 0;
	to->source = PG_SRC_HELD_LARGE;
	to->slot = slot;
	if (!bpf_skb_load_bytes(skb, offset, large->bytes, pg_length(length, PG_MAX_HELD_BYTES)))
		return 1;
	pg_slot_free(PG_SRC_HELD_LARGE, slot);
	return 0;
}

/*
 * Keeps a segment ahead of the hole. Returns 0 if it cannot be kept. A function of its own, for its variables would
 * take the hook's stack beyond 512 bytes together with the engine's deepest calls, as 6.1 adds them up.
 */
PG_STEP int pg_held_put(struct __sk_buff *skb, const struct pg_conn *c, const struct pg_segment *g)
{
	struct pg_held_segment s = {};
	struct pg_held *h, *blank;
	u32 zero = 0, most = PG_MAX_HELD_SEGMENTS;
	u64 cookie;

	if (!g || !c)
		return 0;
	cookie = c->cookie;
	if (c->mends) {
		/* where something was denied already, something may be again, and what has passed cannot be mended;
		 * each that is withheld becomes a hole, maybe all in one run */
		s.why = PG_COPY_WITHHELD;
		most = PG_MAX_HOLES / 2 - 1;
	}
	s.seq = g->seq;
	s.length = g->length;
	h = bpf_map_lookup_elem(&held, &cookie);
	if (!h) {
		blank = bpf_map_lookup_elem(&blank_held, &zero);
		if (!blank || bpf_map_update_elem(&held, &cookie, blank, BPF_ANY))
			return 0;
		h = bpf_map_lookup_elem(&held, &cookie);
		if (!h)
			return 0;
		h->share = pg_share_of(c);
	}
	if (h->count >= most || pg_held_overlaps(h, g->seq, g->length))
		return 0;
	if (pg_share_add(h->share, 0) >= PG_MAX_HELD_SHARE || !pg_held_copy(skb, g->offset, g->length, &s))
		return 0;
	pg_share_add(h->share, pg_weight(&s));
	h->segment[pg_index(h->count, PG_MAX_HELD_SEGMENTS)] = s;
	h->count++;
	pg_count(PG_N_HELD);
	return 1;
}

static long pg_held_free_cb(u32 index, void *data)
{
	struct pg_held *h = *(struct pg_held **)data;
	struct pg_held_segment *s;

	if (!h || index >= h->count)
		return 1;
	s = &h->segment[pg_index(index, PG_MAX_HELD_SEGMENTS)];
	pg_share_add(h->share, -(int)pg_weight(s));
	pg_slot_free(s->source, s->slot);
	return 0;
}

PG_STEP int pg_held_free_all(struct pg_held *h)
{
	if (!h)
		return 0;
	bpf_loop(PG_MAX_HELD_SEGMENTS, pg_held_free_cb, &h, 0);
	h->count = 0;
	return 0;
}

/* What waits of a connection in the direction that comes in; 0: nothing. */
static __always_inline struct pg_held *pg_held_of(struct pg_conn *c)
{
	u64 cookie = c->cookie;
	struct pg_held *h;

	if (!c->held)
		return 0;
	h = bpf_map_lookup_elem(&held, &cookie);
	if (h && h->count)
		return h;
	c->held = 0;
	return 0;
}

/* The connection is gone: its slots are free again. */
static __always_inline void pg_held_drop(u64 cookie)
{
	struct pg_held *h = bpf_map_lookup_elem(&held, &cookie);

	if (!h)
		return;
	pg_held_free_all(h);
	bpf_map_delete_elem(&held, &cookie);
}

#endif
