/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the engine asks of its surroundings, over plain memory: see env.h. One connection at a time, a thread each. */
#ifndef PG_HOST_ENV_H
#define PG_HOST_ENV_H

#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"
#include "source/work.h"
#include "host/engine.h"

#define PG_STEP static __attribute__((noinline, unused))

struct pg_host_stream {
	struct pg_host_stream *next;
	u64 conn;
	u32 id;
	struct pg_stream stream;
};

struct pg_host_buckets {
	struct pg_bucket_set *set;
	struct pg_own_bucket *own;
	u32 set_count;
	u32 own_count;
};

#define PG_HOST_BERTHS 12 /* few, so that streams without one are met with */

struct pg_host {
	struct pg_tables tables;
	struct pg_host_buckets *buckets;
	u32 borrowed; /* 1: the buckets are another's */
	u64 now;
	struct pg_conn conn;
	struct pg_work work;
	struct pg_work response_work;
	struct pg_host_stream *streams;
	u32 stream_count;
	struct pg_stream berth[PG_HOST_BERTHS];
	u32 berths_taken; /* bit by bit */
	struct pg_event *events;
	u32 event_count;
	u32 event_room;
	u32 held_outcome;
	u32 response_outcome;
	u64 counters[PG_COUNTERS];
	struct pg_text text;
};

/* the connection whose turn it is */
static _Thread_local struct pg_host *pg_here;

#define config (*pg_here->tables.config)

#define PG_TABLE(name, type)                                                                    \
	static inline const type *pg_get_##name(u32 index)                                      \
	{                                                                                       \
		return index < pg_here->tables.name##_count ? &pg_here->tables.name[index] : 0; \
	}
PG_TABLE(trie, struct pg_trie)
PG_TABLE(method, struct pg_method)
PG_TABLE(rule, struct pg_rule)
PG_TABLE(test, struct pg_test)
PG_TABLE(op, struct pg_op)
PG_TABLE(node, struct pg_node)
PG_TABLE(field, struct pg_field)
PG_TABLE(bound, struct pg_bound)
PG_TABLE(automaton, struct pg_automaton)
PG_TABLE(trans, u32)
PG_TABLE(classes, struct pg_classes)
PG_TABLE(out, struct pg_out)
PG_TABLE(key, struct pg_key)
PG_TABLE(peer, struct pg_peer)
PG_TABLE(rate, struct pg_rate)

static inline void pg_count_add(u32 counter, u64 n)
{
	if (counter < PG_COUNTERS)
		pg_here->counters[counter] += n;
}

static inline void pg_count(u32 counter)
{
	pg_count_add(counter, 1);
}

static inline struct pg_stream *pg_stream_get(u64 conn, u32 stream)
{
	struct pg_host_stream *s;

	for (s = pg_here->streams; s; s = s->next)
		if (s->conn == conn && s->id == stream)
			return &s->stream;
	return 0;
}

static inline struct pg_stream *pg_stream_new(u64 conn, u32 stream)
{
	struct pg_host_stream *s;

	if (pg_here->stream_count >= PG_MAX_STREAMS || pg_stream_get(conn, stream))
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return 0;
	s->conn = conn;
	s->id = stream;
	s->next = pg_here->streams;
	pg_here->streams = s;
	pg_here->stream_count++;
	return &s->stream;
}

static inline void pg_stream_delete(u64 conn, u32 stream)
{
	struct pg_host_stream **at, *s;

	for (at = &pg_here->streams; *at; at = &(*at)->next) {
		s = *at;
		if (s->conn != conn || s->id != stream)
			continue;
		*at = s->next;
		free(s);
		pg_here->stream_count--;
		return;
	}
}

/* What a berth had before is worth nothing: here it is spoilt, so that nobody can rely on it. */
static inline int pg_berth_take(u32 *berth)
{
	u32 i;

	for (i = 0; i < PG_HOST_BERTHS; i++) {
		if (pg_here->berths_taken >> i & 1)
			continue;
		pg_here->berths_taken |= 1u << i;
		memset(&pg_here->berth[i], 0xa5, sizeof(pg_here->berth[i]));
		*berth = i;
		return 1;
	}
	return 0;
}

static inline void pg_berth_give(u32 berth)
{
	pg_here->berths_taken &= ~(1u << berth);
}

static inline struct pg_stream *pg_berth_get(u32 berth)
{
	return &pg_here->berth[berth];
}

static inline void pg_text_put(struct pg_conn *c, u32 text, u32 length)
{
	(void)text;
	pg_here->text.length = length;
	memcpy(pg_here->text.bytes, c->path, PG_MAX_PATH_BYTES);
}

static inline u64 pg_now(void)
{
	return pg_here->now;
}

/* Most connections take no token, or share the buckets of others. */
static inline struct pg_host_buckets *pg_buckets_here(void)
{
	if (!pg_here->buckets)
		pg_here->buckets = pg_host_buckets_new(&pg_here->tables);
	return pg_here->buckets;
}

static inline struct pg_bucket_set *pg_bucket_set_get(u32 set)
{
	struct pg_host_buckets *all = pg_buckets_here();

	return all && set < all->set_count ? &all->set[set] : 0;
}

static inline struct pg_own_bucket *pg_own_bucket_get(u32 limit)
{
	struct pg_host_buckets *all = pg_buckets_here();

	return all && limit < all->own_count ? &all->own[limit] : 0;
}

static inline const struct pg_seed *pg_seed_get(void)
{
	static const struct pg_seed seed = {
		.mix = {0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9},
		.value = {0x2545f491, 0x1b873593},
	};

	return &seed;
}

static inline int pg_hello_put(struct pg_conn *c)
{
	(void)c;
	return 1;
}

static inline void pg_hello_delete(struct pg_conn *c)
{
	(void)c;
}

static inline int pg_bucket_lock(struct bpf_spin_lock *lock)
{
	(void)lock;
	return 1;
}

static inline void pg_bucket_unlock(struct bpf_spin_lock *lock)
{
	(void)lock;
}

/* Nobody attacks the host's engine: what it does can be repeated. */
static inline u64 pg_random(void)
{
	return 0x9e3779b97f4a7c15ull;
}

static inline struct pg_event *pg_event_scratch(struct pg_work *w)
{
	return &w->said.about;
}

static inline void pg_event_put(struct pg_event *e)
{
	struct pg_event *more;
	u32 room;

	if (pg_here->event_count == pg_here->event_room) {
		room = pg_here->event_room ? 2 * pg_here->event_room : 16;
		more = realloc(pg_here->events, room * sizeof(*more));
		if (!more) {
			pg_count(PG_N_EVENTS_LOST);
			return;
		}
		pg_here->events = more;
		pg_here->event_room = room;
	}
	pg_here->events[pg_here->event_count++] = *e;
}

static inline long bpf_loop(u32 turns, long (*turn)(u32, void *), void *data, u64 flags)
{
	u32 i;

	(void)flags;
	for (i = 0; i < turns; i++)
		if (turn(i, data))
			return i + 1;
	return turns;
}

static inline int pg_lock(u32 *lock)
{
	(void)lock;
	return 1;
}

static inline int pg_trylock(u32 *lock)
{
	(void)lock;
	return 1;
}

static inline void pg_unlock(u32 *lock)
{
	(void)lock;
}

#endif
