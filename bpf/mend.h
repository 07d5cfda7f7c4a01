/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Denials that cost the caller one RPC, and its neighbours nothing.
 *
 * A segment with a denied frame is never passed. Left at that, the hole in the TCP stream would end the connection. So
 * the payload is copied into a slot, and in the copy the denied RPC's frames give way to frames of a type that nobody
 * defines, which are to be ignored:
 *
 *   │ DATA 5 │ HEADERS 7 │ DATA 7, denied │ DATA 9 │    the segment, dropped
 *   │ DATA 5 │ unknown   │ unknown        │ DATA 9 │    what takes its place
 *
 * If the server has the HEADERS already, or its HPACK table must have them, RST_STREAM takes the place of DATA:
 *
 *   │ DATA 5 │ HEADERS 7 │ RST_STREAM 7 │ unknown │ DATA 9 │
 *
 * If the HEADERS themselves are denied then, the path in them is changed to one that is no method's.
 *
 * The agent sends the copy as a segment with the same place; the filter compares it with the slot and passes exactly
 * these bytes there, once. Everything else that touches the hole is dropped, so the agent is not trusted, and the
 * judged bytes are still the delivered ones. Reading goes on behind the hole meanwhile. What cannot be taken out like
 * that ends the connection: HEADERS that are denied for their metadata and put their path into the HPACK table, a DATA
 * frame that began in an earlier segment, a denied segment that waited in TCP's queue for one before it.
 */
#ifndef PG_MEND_H
#define PG_MEND_H

#include "conn.h"

#define PG_F_UNKNOWN 0x2a /* reserved for exercising that unknown types are ignored (RFC 9113, section 5.5) */
#define PG_CANCEL 8
#define PG_INDEX_ROOT 0x84 /* ":path: /" (RFC 7541, appendix A) */
#define PG_EMPTY_BYTES 256 /* padding has a length of one byte (RFC 9113, section 6.1) */
#define PG_RST_BYTES 13	   /* RST_STREAM: head and error code */

/* A slot's bytes from `at` on: as many as a patch has. */
static __always_inline u8 *pg_slot_bytes(u32 source, u32 slot, u32 at)
{
	struct pg_small *small;
	struct pg_large *large;

	if (source == PG_SRC_HELD_SMALL) {
		small = bpf_map_lookup_elem(&held_small, &slot);
		return small && at <= PG_HELD_SMALL_BYTES - PG_PATCH ? small->bytes + at : 0;
	}
	large = bpf_map_lookup_elem(&held_large, &slot);
	return large && at <= PG_MAX_HELD_BYTES - PG_PATCH ? large->bytes + at : 0;
}

/* Writes `n` bytes of the patch into a slot. */
PG_STEP int pg_slot_put(struct pg_work *w, u32 source, u32 slot, u32 at, u32 n)
{
	u8 *bytes;

	if (!w || n > PG_PATCH)
		return 0;
	bytes = pg_slot_bytes(source, slot, at);
	return bytes && !bpf_probe_read_kernel(bytes, n, w->patch);
}

/* Reads `n` bytes of a slot into the patch. */
PG_STEP int pg_slot_get(struct pg_work *w, u32 source, u32 slot, u32 at, u32 n)
{
	u8 *bytes;

	if (!w || n > PG_PATCH)
		return 0;
	bytes = pg_slot_bytes(source, slot, at);
	return bytes && !bpf_probe_read_kernel(w->patch, n, bytes);
}

/* Writes the first `n` bytes of the patch into the copy. */
static __always_inline int pg_mend_put(struct pg_work *w, u32 at, u32 n)
{
	return at <= w->hole_length && n <= w->hole_length - at &&
	       pg_slot_put(w, w->hole_source, w->hole_slot, w->hole_base + at, n);
}

/* Reads `n` bytes of the copy into the patch. */
static __always_inline int pg_mend_get(struct pg_work *w, u32 at, u32 n)
{
	return at <= w->hole_length && n <= w->hole_length - at &&
	       pg_slot_get(w, w->hole_source, w->hole_slot, w->hole_base + at, n);
}

/* The head of a frame on the same stream, into the patch. */
static __always_inline void pg_mend_head(struct pg_work *w, const struct pg_h2 *h, u32 length, u8 type, u8 flags)
{
	u32 i;

	w->patch[0] = length >> 16;
	w->patch[1] = length >> 8;
	w->patch[2] = length;
	w->patch[3] = type;
	w->patch[4] = flags;
	for (i = 5; i < PG_HEAD_BYTES; i++)
		w->patch[i] = h->head[i];
}

struct pg_blank {
	struct pg_work *w;
	u32 at;
	u32 end;
	int done;
};

static long pg_blank_cb(u32 index, void *data)
{
	struct pg_blank *b = data;
	u32 n;

	(void)index;
	if (b->at >= b->end) {
		b->done = 1;
		return 1;
	}
	n = b->end - b->at;
	if (n > PG_PATCH)
		n = PG_PATCH;
	if (!b->w || !pg_mend_put(b->w, b->at, n))
		return 1;
	b->at += n;
	return 0;
}

/* What the server is to ignore need not be what the client wrote. */
PG_STEP int pg_mend_blank(struct pg_work *w, u32 from, u32 to)
{
	struct pg_blank b = {.w = w, .at = from};

	if (!w)
		return 0;
	b.end = to < w->hole_length ? to : w->hole_length;
	__builtin_memset(w->patch, 0, sizeof(w->patch));
	bpf_loop(PG_MAX_HELD_BYTES / PG_PATCH + 1, pg_blank_cb, &b, 0);
	return b.done;
}

/* Sees to it that there is a copy of the chunk that can be changed. */
static __always_inline int pg_mend_begin(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w)
{
	struct pg_held_segment s = {.why = PG_COPY_MENDS};

	if (!w->mendable || c->role != PG_ROLE_SERVER || c->phase != PG_P_LIVE || !c->cookie)
		return 0;
	if (w->hole_source != PG_SRC_PACKET)
		return 1;
	if (w->source != PG_SRC_PACKET || !pg_held_copy(skb, w->base + w->hole_skip, w->hole_length, &s))
		return 0;
	w->hole_source = s.source;
	w->hole_slot = s.slot;
	w->hole_base = 0;
	return 1;
}

/* Does the current frame begin in the packet? */
static __always_inline int pg_frame_inside(const struct pg_work *w)
{
	return w->frame_at != PG_NO_FRAME && w->frame_at >= w->hole_skip;
}

/* Does an empty DATA frame that ends the stream follow the frame? Some clients end each request with one. */
static __always_inline int pg_end_follows(struct pg_work *w, const struct pg_h2 *h, u32 at)
{
	const u8 *next = w->patch;
	u32 i;

	if (!pg_mend_get(w, at, PG_HEAD_BYTES))
		return 0;
	if (next[0] | next[1] | next[2] | next[3] || next[4] != PG_FLAG_END_STREAM)
		return 0;
	for (i = 5; i < PG_HEAD_BYTES; i++)
		if (next[i] != h->head[i])
			return 0;
	return 1;
}

/* In the copy: a frame becomes one that nobody reads. */
static __always_inline int pg_mend_away(struct pg_work *w, u32 at, u32 length)
{
	u32 i;

	w->patch[0] = length >> 16;
	w->patch[1] = length >> 8;
	w->patch[2] = length;
	w->patch[3] = PG_F_UNKNOWN;
	for (i = 4; i < PG_HEAD_BYTES; i++)
		w->patch[i] = 0;
	return pg_mend_put(w, at, PG_HEAD_BYTES) && pg_mend_blank(w, at + PG_HEAD_BYTES, at + PG_HEAD_BYTES + length);
}

/* In the copy: a DATA frame loses its data and ends its stream, so that nothing can take the data's place later. */
static __always_inline int pg_mend_empty(struct pg_work *w, const struct pg_h2 *h, u32 at, u32 length)
{
	pg_mend_head(w, h, length, PG_F_DATA, PG_FLAG_END_STREAM | PG_FLAG_PADDED);
	w->patch[PG_HEAD_BYTES] = length - 1;
	return pg_mend_put(w, at, PG_HEAD_BYTES + 1) &&
	       pg_mend_blank(w, at + PG_HEAD_BYTES + 1, at + PG_HEAD_BYTES + length);
}

/*
 * In the copy: the denied DATA frame, whose HEADERS the server may have, becomes RST_STREAM and padding of its length.
 * One that is too short for that, as the first of a unary call, loses its data: the server sees a request without its
 * message, and ended. So do some that are long enough, where many come together: servers end connections for many
 * RST_STREAM at once (CVE-2023-44487).
 */
PG_STEP int pg_mend_reset(struct pg_conn *c, struct pg_work *w)
{
	const struct pg_method *m;
	u32 at, length, whole, absorbed = 0, may_be_empty, may_be_reset;
	struct pg_h2 *h;

	if (!c || !w || !pg_frame_inside(w))
		return 0;
	h = &c->request;
	at = w->frame_at - w->hole_skip;
	length = pg_h2_length(h);
	whole = PG_HEAD_BYTES + length;
	/* what is still to be read of a slot must stay as it is */
	if (w->source == PG_SRC_PACKET && whole < PG_RST_BYTES + PG_HEAD_BYTES && !(h->flags & PG_FLAG_END_STREAM) &&
	    pg_end_follows(w, h, at + whole))
		absorbed = PG_HEAD_BYTES;
	whole += absorbed;
	m = pg_get_method(w->method);
	may_be_empty = m && m->flags & PG_METHOD_UNARY && w->message == 1 && length && length <= PG_EMPTY_BYTES;
	may_be_reset = whole == PG_RST_BYTES || whole >= PG_RST_BYTES + PG_HEAD_BYTES;
	if (may_be_empty && (!may_be_reset || w->resets >= PG_MAX_RESETS))
		return pg_mend_empty(w, h, at, length) ? PG_MENDED_ENDED : PG_NOT_MENDED;
	if (!may_be_reset)
		return PG_NOT_MENDED;
	pg_mend_head(w, h, 4, PG_F_RST_STREAM, 0);
	w->patch[9] = 0;
	w->patch[10] = 0;
	w->patch[11] = 0;
	w->patch[12] = PG_CANCEL;
	w->credit += length;
	w->resets++;
	if (absorbed)
		w->absorbed = w->frame_at + PG_HEAD_BYTES + length;
	if (!pg_mend_put(w, at, PG_RST_BYTES))
		return PG_NOT_MENDED;
	if (whole > PG_RST_BYTES && !pg_mend_away(w, at + PG_RST_BYTES, whole - PG_RST_BYTES - PG_HEAD_BYTES))
		return PG_NOT_MENDED;
	return PG_MENDED_ENDED;
}

struct pg_walk {
	struct pg_work *w;
	u32 at;
	u32 last; /* where the last frame begins */
	u32 stream;
	int done;
};

/* The frame at `at`, if it is the stream's; then on to the next. */
PG_STEP int pg_walk_frame(struct pg_work *w, u32 at, u32 stream)
{
	u32 length, type, of;

	if (!w || w->walked >= PG_MAX_WALKED || !pg_mend_get(w, at, PG_HEAD_BYTES))
		return -1;
	w->walked++;
	length = (u32)w->patch[0] << 16 | (u32)w->patch[1] << 8 | w->patch[2];
	type = w->patch[3];
	of = (u32)(w->patch[5] & 0x7f) << 24 | (u32)w->patch[6] << 16 | (u32)w->patch[7] << 8 | w->patch[8];
	if (of != stream)
		return length;
	if (type == PG_F_DATA)
		w->credit += length;
	return pg_mend_away(w, at, length) ? length : -1;
}

static long pg_walk_cb(u32 index, void *data)
{
	struct pg_walk *q = data;
	int length;

	(void)index;
	if (q->at > q->last) {
		q->done = 1;
		return 1;
	}
	length = pg_walk_frame(q->w, q->at, q->stream);
	if (length < 0)
		return 1;
	q->at += PG_HEAD_BYTES + length;
	return 0;
}

/* How many bits the code of the second character takes, if the first is a slash (RFC 7541, appendix B); 0: more than
 * 8, or it is no slash. `bits` are the path's first 16. */
static __always_inline u32 pg_second_code(u32 bits)
{
	u32 second = bits & 0x3ff; /* what follows the slash's 6 bits */

	if (bits >> 10 != 0x18)
		return 0;
	if (second >> 5 < 0x0a)
		return 5;
	if (second >> 4 < 0x2e)
		return 6;
	if (second >> 3 < 0x7c)
		return 7;
	return second >> 2 < 0xfe ? 8 : 0;
}

/*
 * In the copy: the path becomes one that names no method, without a change of length, so that the HPACK tables stay in
 * step. An index becomes that of the path "/". In a literal the second character becomes one that no name begins with,
 * as long in the Huffman code; if the literal goes into the table the server's entry is another one then, so this is
 * only for methods that are denied whatever else a call says.
 */
PG_STEP int pg_mend_path(struct pg_conn *c, struct pg_work *w)
{
	/* by the code's length: 0 (5 bits), 3 (6 bits), a colon (7 bits), an asterisk (8 bits) */
	const u32 codes = 0x00u | 0x19u << 8 | 0x5cu << 16 | 0xf9u << 24;
	const struct pg_method *m;
	struct pg_entry *entry;
	u32 at, slot, bits, n, code, here;

	if (!c || !w || c->block.seen & PG_B_PATHS)
		return 0;
	here = w->path_at != PG_NO_FRAME && w->path_at >= w->hole_skip;
	/* the server's table says another path already; but a copy that is as the client's own segment would pass as
	 * soon as that comes again, and the server answer before the policy */
	if (c->block.changed && !(here && w->path_form == PG_PATH_INDEX))
		return 1;
	if (!here)
		return 0;
	at = w->path_at - w->hole_skip;
	if (w->path_form == PG_PATH_INDEX) {
		w->patch[0] = PG_INDEX_ROOT;
		return pg_mend_put(w, at, 1);
	}
	m = pg_get_method(w->method);
	slot = c->hpack.path_slot;
	if (slot && (!m || !(m->flags & PG_METHOD_REFUSED) || w->reason != PG_R_NONE))
		return 0;
	if (!pg_mend_get(w, at, 2))
		return 0;
	bits = (u32)w->patch[0] << 8 | w->patch[1];
	if (w->path_form == PG_PATH_PLAIN) {
		if (w->patch[0] != '/' || (w->patch[1] >= '0' && w->patch[1] <= '9'))
			return 0;
		bits = (u32)'/' << 8 | '0';
	} else {
		n = pg_second_code(bits);
		if (!n)
			return 0;
		code = codes >> (8 * (n - 5)) & 0xff;
		if ((bits >> (10 - n) & ((1u << n) - 1)) == code)
			return 0;
		bits = (bits & ~(((1u << n) - 1) << (10 - n))) | code << (10 - n);
	}
	w->patch[0] = bits >> 8;
	w->patch[1] = bits;
	if (!pg_mend_put(w, at, 2))
		return 0;
	/* the block may have evicted it again, and its place be another's */
	entry = &c->hpack.ring[pg_index(slot - 1, PG_MAX_DYNAMIC_ENTRIES)];
	if (slot && entry->name == PG_NAME_PATH)
		entry->name = PG_NAME_PATH_CHANGED;
	return 1;
}

/*
 * Takes the denied RPC out of the copy: all of its frames, if its HEADERS are in the same segment and no table depends
 * on them, else the denied frame. Returns what is to be known of the stream; PG_NOT_MENDED: that cannot be.
 */
static __always_inline int pg_mend_frame(struct pg_conn *c, struct pg_work *w)
{
	struct pg_walk q = {.w = w, .stream = w->stream};
	struct pg_stream *s;
	int head = c->request.type != PG_F_DATA;

	/* trailers may insert into the HPACK table, and have no path */
	if (head && c->block.trailers)
		return PG_NOT_MENDED;
	s = pg_stream_of(c, w->stream);
	if (!s || s->head_chunk != c->chunk) {
		if (!head)
			return pg_mend_reset(c, w);
		return pg_mend_path(c, w) ? PG_MENDED_ASTRAY : PG_NOT_MENDED;
	}
	q.at = s->head_at - w->hole_skip;
	q.last = w->frame_at - w->hole_skip;
	bpf_loop(PG_MAX_HELD_BYTES / PG_HEAD_BYTES, pg_walk_cb, &q, 0);
	return q.done ? PG_MENDED_AWAY : PG_NOT_MENDED;
}

/* The denial in `w` ends its RPC only, if its frames can be taken out. */
PG_STEP int pg_mend_deny(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w)
{
	int mended;

	if (!skb || !c || !w || !pg_mend_begin(skb, c, w))
		return 0;
	mended = pg_mend_frame(c, w);
	if (mended == PG_NOT_MENDED)
		return 0;
	w->mends = 1;
	pg_emit(c, w, PG_EV_DECISION, PG_V_DENY);
	w->mends = 0;
	pg_count(PG_N_DENIED);
	pg_count(PG_N_MENDED);
	c->mended[pg_index(w->stream >> 1, PG_MAX_MENDED_STREAMS)] =
		(struct pg_mended){.stream = w->stream, .as = mended};
	c->mends++;
	pg_stream_leave(c, w->stream);
	return 1;
}

/*
 * A frame of a stream that mending has ended. The server has had its end, or nothing of it at all, so it becomes one
 * that nobody reads (RFC 9113, section 5.1). Where that cannot be, as with a head in two segments, the server is left
 * to refuse it: no handler is behind it, and at worst the server ends the connection.
 */
PG_STEP int pg_mend_strip(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w)
{
	u32 at, length;

	if (!skb || !c || !w || !pg_frame_inside(w) || w->frame_at == w->absorbed || !pg_mend_begin(skb, c, w))
		return 0;
	at = w->frame_at - w->hole_skip;
	length = pg_h2_length(&c->request);
	if (c->request.type == PG_F_DATA)
		w->credit += length;
	return pg_mend_away(w, at, length);
}

/* ---- holes ---- */

/* The packet's TCP header, for another packet of the connection. */
static __always_inline int pg_tcp_header(struct __sk_buff *skb, struct pg_hole_event *e)
{
	u32 tcp = pg_tcp_offset(skb), n;
	u8 words;

	if (!tcp || bpf_skb_load_bytes(skb, tcp + 12, &words, 1))
		return 0;
	n = (words >> 4) * 4;
	if (!n || n > PG_TCP_HEADER_BYTES || bpf_skb_load_bytes(skb, tcp, e->tcp, pg_length(n, PG_TCP_HEADER_BYTES)))
		return 0;
	e->header = n;
	return 1;
}

/* The chunk is judged, its segment dropped: the place is kept for the copy, and the agent told. Returns 0 if there is
 * no room. */
PG_STEP int pg_hole_open(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w)
{
	struct pg_hole_event *e;
	struct pg_hole *hole;

	if (!skb || !c || !w || c->holes >= PG_MAX_HOLES)
		return 0;
	e = &w->said;
	if (!pg_tcp_header(skb, e))
		return 0;
	hole = &c->hole[pg_index(c->holes, PG_MAX_HOLES)];
	hole->seq = w->hole_seq;
	hole->length = w->hole_length;
	hole->source = w->hole_source;
	hole->slot = w->hole_slot;
	hole->base = w->hole_base;
	hole->passed = 0;
	c->holes++;
	pg_about(w, 0, 0);
	pg_event_fill(&e->about, c, w, PG_EV_HOLE, PG_V_DENY);
	e->seq = hole->seq;
	e->length = hole->length;
	e->slot = hole->slot;
	e->source = hole->source;
	e->base = hole->base;
	e->credit = w->credit;
	e->resets = w->resets;
	if (bpf_ringbuf_output(&events, e, sizeof(*e), 0))
		pg_count(PG_N_EVENTS_LOST);
	return 1;
}

struct pg_settle {
	struct pg_conn *c;
	const struct pg_segment *g;
	u32 received;
	u32 left; /* holes that have not been looked at */
	int asks;
};

/* From the last hole down, for the last one takes the place of one that is closed. */
static long pg_settle_cb(u32 index, void *data)
{
	struct pg_settle *t = data;
	struct pg_hole *hole;
	struct pg_conn *c = t->c;

	(void)index;
	if (!c || !t->g || !t->left)
		return 1;
	t->left--;
	hole = &c->hole[pg_index(t->left, PG_MAX_HOLES)];
	if (!hole->passed || pg_after(hole->seq + hole->length, t->received))
		return 0;
	t->asks |= hole->seq == t->g->seq && hole->length == t->g->length;
	pg_slot_free(hole->source, hole->slot);
	c->holes--;
	*hole = c->hole[pg_index(c->holes, PG_MAX_HOLES)];
	return 0;
}

/*
 * Holes whose copy TCP has taken are closed. Not when the copy passes: TCP may refuse it then, for its timestamp
 * is older than that of a retransmission which came in between, and only the agent has these bytes. Returns 1 if the
 * segment is a copy that TCP has: the agent asks like that.
 */
PG_STEP int pg_holes_settle(struct pg_conn *c, u32 received, const struct pg_segment *g)
{
	struct pg_settle t = {.c = c, .g = g, .received = received};

	if (!c || !g)
		return 0;
	t.left = c->holes;
	bpf_loop(PG_MAX_HOLES, pg_settle_cb, &t, 0);
	return t.asks;
}

/* Has TCP taken bytes into a hole that nothing was passed for? */
PG_STEP int pg_hole_violated(const struct pg_conn *c, u32 received)
{
	u32 i;

	if (!c)
		return 1;
	for (i = 0; i < PG_MAX_HOLES; i++) {
		if (i >= c->holes)
			break;
		if (!c->hole[i].passed && pg_after(received, c->hole[i].seq))
			return 1;
	}
	return 0;
}

/* The hole that a segment with this place fills; PG_MAX_HOLES: none. */
PG_STEP int pg_hole_find(const struct pg_conn *c, u32 seq, u32 length)
{
	u32 i;

	if (!c)
		return PG_MAX_HOLES;
	for (i = 0; i < PG_MAX_HOLES; i++) {
		if (i >= c->holes)
			break;
		if (c->hole[i].seq == seq && c->hole[i].length == length)
			return i;
	}
	return PG_MAX_HOLES;
}

static __always_inline int pg_same_bytes(const struct pg_work *w, u32 n)
{
	u32 i;

	for (i = 0; i < PG_PATCH; i += 8)
		if (i < n && pg_eight_differ(&w->window[i], &w->patch[i], n - i))
			return 0;
	return 1;
}

/* Compares the next bytes of the segment with the slot's. */
PG_STEP int pg_hole_compare(struct __sk_buff *skb, struct pg_work *w)
{
	u32 n;

	if (!skb || !w)
		return 0;
	n = w->hole_length - w->pos;
	if (n > PG_PATCH)
		n = PG_PATCH;
	if (!n || bpf_skb_load_bytes(skb, w->base + w->pos, w->window, pg_length(n, PG_PATCH)) ||
	    !pg_mend_get(w, w->pos, n) || !pg_same_bytes(w, n))
		return 0;
	w->pos += n;
	return 1;
}

struct pg_compare {
	struct __sk_buff *skb;
	struct pg_work *w;
};

static long pg_compare_cb(u32 index, void *data)
{
	struct pg_compare *q = data;

	(void)index;
	return !q->w || q->w->pos >= q->w->hole_length || !pg_hole_compare(q->skb, q->w);
}

/* Is the segment the mended one for a hole? Then it passes; it may come again until TCP has it. */
PG_STEP int pg_hole_fill(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w, const struct pg_segment *g)
{
	struct pg_compare q = {.skb = skb, .w = w};
	struct pg_hole *hole;
	u32 found;

	if (!skb || !c || !w || !g)
		return 0;
	found = pg_hole_find(c, g->seq, g->length);
	if (found >= PG_MAX_HOLES)
		return 0;
	hole = &c->hole[pg_index(found, PG_MAX_HOLES)];
	w->pos = 0;
	w->base = g->offset;
	w->hole_length = g->length;
	w->hole_base = hole->base;
	w->hole_source = hole->source;
	w->hole_slot = hole->slot;
	bpf_loop(PG_MAX_HELD_BYTES / PG_PATCH + 1, pg_compare_cb, &q, 0);
	if (w->pos != w->hole_length)
		return 0;
	hole->passed = 1;
	return 1;
}

#endif
