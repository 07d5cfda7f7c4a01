/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a stream's state is: in a berth, by the connection's seats, or in the table of streams (abi/state.h). */
#ifndef PG_SEATS_H
#define PG_SEATS_H

#include "env.h"

/* The seat of a request, or of a response's half. */
static inline u32 pg_seat(u32 id)
{
	return pg_index((id >> 1 & (PG_SEATS / 2 - 1)) | (id & PG_RESPONSE_HALF ? PG_SEATS / 2 : 0), PG_SEATS);
}

/* Read at once: the other direction may write it meanwhile. */
static inline u64 pg_seat_read(const struct pg_conn *c, u32 id)
{
	return *(const volatile u64 *)&c->seat[pg_seat(id)];
}

static inline int pg_seated(u64 seat, u32 id)
{
	return id && seat >> 32 == id;
}

/* A live stream of the connection. */
static inline struct pg_stream *pg_stream_of(const struct pg_conn *c, u32 id)
{
	u64 seat = pg_seat_read(c, id);

	if (pg_seated(seat, id))
		return pg_berth_get((u32)seat);
	return c->standing ? pg_stream_get(c->id, id) : 0;
}

/* Takes the id's seat, if it is free and there is a berth for it. */
static inline struct pg_stream *pg_seat_take(struct pg_conn *c, u32 id)
{
	u32 berth, at = pg_seat(id);
	struct pg_stream *s;

	if (c->seat[at])
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
	/* the other direction finds it from here on */
	asm volatile("" ::: "memory");
	c->seat[at] = (u64)id << 32 | berth;
	return s;
}

/* The stream is over. Its berth stays, if the connection has not many that nobody is in. */
static inline void pg_seat_leave(struct pg_conn *c, u32 id)
{
	u32 at = pg_seat(id), berth = (u32)c->seat[at];

	c->seat[at] = 0;
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
