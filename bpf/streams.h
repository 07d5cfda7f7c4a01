/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The live streams of a connection: its seats, and a list through the stream table, so that a close finds them all. */
#ifndef PG_STREAMS_H
#define PG_STREAMS_H

#include "seats.h"

static inline struct pg_stream *pg_stream_open(struct pg_conn *c, u32 id)
{
	struct pg_stream *s = pg_seat_take(c, id), *next;

	if (s) {
		c->live++;
		return s;
	}
	s = pg_stream_new(c->id, id);
	if (!s)
		return 0;
	s->next = c->streams;
	next = c->streams ? pg_stream_get(c->id, c->streams) : 0;
	if (next)
		next->previous = id;
	c->streams = id;
	c->standing++;
	c->live++;
	return s;
}

/* The request waits for its answer no longer. What ended in the run that denied was not delivered: pg_denied has taken
 * it off already. */
static inline void pg_stream_answered(struct pg_conn *c, struct pg_stream *s)
{
	if (s->ended && c->pending && !(c->phase == PG_P_DEAD && s->ended == c->run))
		c->pending--;
	s->ended = 0;
}

/* Out of the list, and out of the table. */
static inline void pg_stream_remove(struct pg_conn *c, struct pg_stream *s, u32 id)
{
	u32 previous = s->previous, next = s->next;
	struct pg_stream *other;

	if (previous) {
		other = pg_stream_get(c->id, previous);
		if (other)
			other->next = next;
	} else {
		c->streams = next;
	}
	if (next) {
		other = pg_stream_get(c->id, next);
		if (other)
			other->previous = previous;
	}
	if (c->standing)
		c->standing--;
	pg_stream_delete(c->id, id);
}

PG_STEP int pg_stream_close(struct pg_conn *c, u32 id)
{
	struct pg_stream *seated, *s;

	if (!c)
		return 0;
	seated = pg_seated(c, id);
	s = seated ? seated : pg_stream_standing(c, id);
	if (!s)
		return 0;
	pg_stream_answered(c, s);
	if (c->live)
		c->live--;
	if (seated)
		pg_seat_leave(c, id);
	else
		pg_stream_remove(c, s, id);
	return 0;
}

#define PG_SEATS_A_TURN 8

/* Whoever has the seats of this turn goes, and the first of the list. Returns whether there may be more. */
PG_STEP int pg_streams_drop_some(struct pg_conn *c, u32 turn)
{
	u32 i, at = pg_index(turn * PG_SEATS_A_TURN, PG_SEATS), seat;
	struct pg_stream *s;

	if (!c)
		return 0;
	for (i = 0; i < PG_SEATS_A_TURN; i++) {
		seat = c->seat[pg_index(at + i, PG_SEATS)];
		s = seat ? pg_berth_get(seat - 1) : 0;
		if (s)
			pg_stream_close(c, s->id);
	}
	if (c->streams)
		pg_stream_close(c, c->streams);
	return turn < PG_SEATS / PG_SEATS_A_TURN - 1 || c->streams;
}

static long pg_streams_drop_cb(u32 index, void *data)
{
	struct pg_conn **c = data;

	return !*c || !pg_streams_drop_some(*c, index);
}

/* All streams of a connection go with it. */
static inline void pg_streams_drop(struct pg_conn *c)
{
	bpf_loop(PG_MAX_STREAMS + PG_SEATS / PG_SEATS_A_TURN, pg_streams_drop_cb, &c, 0);
	pg_seats_clear(c);
}

/* ---- responses ---- */

/* A half that is still being made is none: see pg_response_start(). */
static inline struct pg_stream *pg_half_get(const struct pg_conn *c, u32 stream)
{
	struct pg_stream *half = pg_stream_of(c, stream | PG_RESPONSE_HALF);

	return half && half->request & PG_REQ_ALLOWED ? half : 0;
}

/* Takes a half out of the queue of those whose stream the client has reset, if it is there. */
static inline void pg_gone_remove(struct pg_conn *c, struct pg_stream *half, u32 id)
{
	struct pg_stream *other;

	if (!half->newer && !half->older && c->gone_first != id)
		return;
	other = half->older ? pg_stream_of(c, half->older) : 0;
	if (other)
		other->newer = half->newer;
	else
		c->gone_first = half->newer;
	other = half->newer ? pg_stream_of(c, half->newer) : 0;
	if (other)
		other->older = half->older;
	else
		c->gone_last = half->older;
	if (c->gone)
		c->gone--;
}

/* The server's side of the RPC is over. Under both locks. */
PG_STEP int pg_half_close(struct pg_conn *c, u32 id)
{
	struct pg_stream *half;

	if (!c)
		return 0;
	half = pg_stream_of(c, id);
	if (!half)
		return 0;
	pg_gone_remove(c, half, id);
	return pg_stream_close(c, id);
}

/*
 * The client's side of the RPC is over before the server's: the server may not have heard of it, and what it still says
 * is judged. The last of such responses are kept. The order of the locks is the other way round, so the response lock
 * is only tried; the next time will do, too. Under the request lock.
 */
PG_STEP int pg_stream_leave(struct pg_conn *c, u32 stream)
{
	struct pg_stream *half, *last;
	u32 id = stream | PG_RESPONSE_HALF;

	if (!c)
		return 0;
	pg_stream_close(c, stream);
	if (!config.responses)
		return 0;
	half = pg_stream_of(c, id);
	if (!half)
		return 0;
	half->older = c->gone_last;
	last = c->gone_last ? pg_stream_of(c, c->gone_last) : 0;
	if (last)
		last->newer = id;
	else
		c->gone_first = id;
	c->gone_last = id;
	c->gone++;
	if (c->gone <= PG_MAX_RESET_STREAMS || !pg_trylock(&c->response_lock))
		return 0;
	pg_half_close(c, c->gone_first);
	if (c->gone > PG_MAX_RESET_STREAMS)
		pg_half_close(c, c->gone_first);
	pg_unlock(&c->response_lock);
	return 0;
}

/* ---- mending ---- */

/* Was the stream ended by mending, and how? An old one may be forgotten: then the server decides what becomes of its
 * frames, and no handler is left for them. */
static inline u32 pg_mended_as(const struct pg_conn *c, u32 stream)
{
	const struct pg_mended *m = &c->mended[pg_index(stream >> 1, PG_MAX_MENDED_STREAMS)];

	return m->stream == stream ? m->as : PG_NOT_MENDED;
}

/* A frame for a stream that is not open here: must it be kept from the server? */
static inline int pg_stripped(const struct pg_conn *c, const struct pg_h2 *h)
{
	switch (pg_mended_as(c, h->stream)) {
	case PG_MENDED_ENDED:
		return h->type == PG_F_DATA;
	case PG_MENDED_AWAY:
		return 1;
	}
	return 0;
}

#endif
