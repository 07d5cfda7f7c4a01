/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The live streams of a connection: a list through the stream table, so that a close finds them all. */
#ifndef PG_STREAMS_H
#define PG_STREAMS_H

#include "env.h"

static inline struct pg_stream *pg_stream_open(struct pg_conn *c, u32 id)
{
	struct pg_stream *s = pg_stream_new(c->id, id);
	struct pg_stream *next;

	if (!s)
		return 0;
	s->next = c->streams;
	next = c->streams ? pg_stream_get(c->id, c->streams) : 0;
	if (next)
		next->previous = id;
	c->streams = id;
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

PG_STEP int pg_stream_close(struct pg_conn *c, u32 id)
{
	struct pg_stream *s, *other;
	u32 previous, next;

	if (!c)
		return 0;
	s = pg_stream_get(c->id, id);
	if (!s)
		return 0;
	pg_stream_answered(c, s);
	previous = s->previous;
	next = s->next;
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
	if (c->live)
		c->live--;
	pg_stream_delete(c->id, id);
	return 0;
}

enum pg_mended {
	PG_NOT_MENDED,
	PG_MENDED_RESET,  /* the server gets RST_STREAM */
	PG_MENDED_AWAY,	  /* the server sees nothing of it */
	PG_MENDED_ASTRAY, /* the server gets a call of a method that it does not have */
};

/* Was the stream ended by mending? Then the server has had RST_STREAM for it, or nothing at all. */
static inline enum pg_mended pg_mended(const struct pg_conn *c, u32 stream)
{
	u32 i;

	if (!c->mends)
		return PG_NOT_MENDED;
	for (i = 0; i < PG_MENDED_STREAMS; i++)
		if ((c->mended[i] & ~PG_MENDED_UNSEEN) == stream)
			return c->mended[i] & PG_MENDED_UNSEEN ? PG_MENDED_AWAY : PG_MENDED_RESET;
	return PG_NOT_MENDED;
}

#endif
