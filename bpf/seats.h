/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a stream's state is: in a berth, by the connection's seats, or in the table of streams (abi/state.h). */
#ifndef PG_SEATS_H
#define PG_SEATS_H

#include "env.h"

_Static_assert(PG_MAX_BERTHS < 1 << 16, "a seat can say every berth");

/* The seat of a request, or of a response's half: which berth is whose. Read and written at once: the other direction
 * may do so meanwhile. */
static inline volatile u16 *pg_seat(const struct pg_conn *c, u32 id)
{
	u32 at = pg_index((id >> 1 & (PG_SEATS / 2 - 1)) | (id & PG_RESPONSE_HALF ? PG_SEATS / 2 : 0), PG_SEATS);

	return (volatile u16 *)&c->seat[at];
}

/* The stream that has a seat; others may have the same. The seat is read again, for its berth may have gone to another
 * connection's stream with this id since. */
static inline struct pg_stream *pg_seated(const struct pg_conn *c, u32 id)
{
	volatile u16 *seat = pg_seat(c, id);
	struct pg_stream *s;
	u32 berth = *seat;

	if (!berth || !id)
		return 0;
	s = pg_berth_get(berth - 1);
	if (!s || *(volatile u32 *)&s->id != id)
		return 0;
	return *seat == berth ? s : 0;
}

/* The stream that is in the table. */
static inline struct pg_stream *pg_stream_standing(const struct pg_conn *c, u32 id)
{
	return c->standing ? pg_stream_get(c->id, id) : 0;
}

/* A live stream of the connection. */
static inline struct pg_stream *pg_stream_of(const struct pg_conn *c, u32 id)
{
	struct pg_stream *s = pg_seated(c, id);

	return s ? s : pg_stream_standing(c, id);
}

/* Takes the id's seat, if it is free and there is a berth for it. */
static inline struct pg_stream *pg_seat_take(struct pg_conn *c, u32 id)
{
	volatile u16 *seat = pg_seat(c, id);
	struct pg_stream *s;
	u32 berth;

	if (*seat)
		return 0;
	if (c->idles) {
		c->idles--;
		berth = c->idle[pg_index(c->idles, PG_IDLE_BERTHS)];
	} else if (!pg_berth_take(&berth)) {
		return 0;
	}
	s = pg_berth_get(berth);
	if (!s)
		return 0;
	__builtin_memset(s, 0, __builtin_offsetof(struct pg_stream, bits));
	s->id = id;
	/* the other direction finds it from here on */
	asm volatile("" ::: "memory");
	*seat = berth + 1;
	return s;
}

/* The stream that has the seat is over. Its berth stays, if the connection has not many that nobody is in. */
static __always_inline void pg_seat_leave(struct pg_conn *c, u32 id)
{
	volatile u16 *seat = pg_seat(c, id);
	u32 berth = *seat - 1;

	*seat = 0;
	if (c->idles < PG_IDLE_BERTHS) {
		c->idle[pg_index(c->idles, PG_IDLE_BERTHS)] = berth;
		c->idles++;
	} else {
		pg_berth_give(berth);
	}
}

/* All berths that nobody is in are given back. */
static inline void pg_seats_clear(struct pg_conn *c)
{
	u32 i;

	for (i = 0; i < PG_IDLE_BERTHS; i++)
		if (i < c->idles)
			pg_berth_give(c->idle[i]);
	c->idles = 0;
}

#endif
