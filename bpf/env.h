/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the engine asks of its surroundings, in the kernel. host/env.h is the same over plain memory; the engine's
 * headers know only these names.
 *
 * PG_STEP marks the engine's steps. In BPF they are global functions: the verifier checks each once, for any
 * arguments, instead of anew at every call, which keeps loops over tokens cheap to verify (kernel 5.12). A pointer
 * argument may be null there, so each step begins by refusing that.
 */
#ifndef PG_ENV_H
#define PG_ENV_H

#ifdef __BPF__

#include "maps.h"
#include "source/work.h"

#define PG_STEP __attribute__((noinline))

#define PG_TABLE(name, type)                                               \
	static __always_inline const struct type *pg_get_##name(u32 index) \
	{                                                                  \
		return bpf_map_lookup_elem(&t_##name, &index);             \
	}
PG_TABLE(trie, pg_trie)
PG_TABLE(method, pg_method)
PG_TABLE(rule, pg_rule)
PG_TABLE(test, pg_test)
PG_TABLE(op, pg_op)
PG_TABLE(node, pg_node)
PG_TABLE(field, pg_field)
PG_TABLE(bound, pg_bound)
PG_TABLE(automaton, pg_automaton)
PG_TABLE(classes, pg_classes)
PG_TABLE(out, pg_out)
PG_TABLE(key, pg_key)
PG_TABLE(peer, pg_peer)
PG_TABLE(rate, pg_rate)

static __always_inline const u32 *pg_get_trans(u32 index)
{
	return bpf_map_lookup_elem(&t_trans, &index);
}

static __always_inline void pg_count_add(u32 counter, u64 n)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += n;
}

/* The same, by one, for what is rare: a look-up that the kernel inlines costs a part of each start, wherever it is.
 * Not where calls are deepest: Linux has eight frames for them. */
PG_STEP int pg_count(u32 counter)
{
	pg_count_add(counter, 1);
	return 0;
}

static __always_inline struct pg_stream *pg_stream_get(u64 conn, u32 stream)
{
	struct pg_stream_key key = {.conn = conn, .stream = stream};

	return bpf_map_lookup_elem(&streams, &key);
}

static __always_inline struct pg_stream *pg_stream_new(u64 conn, u32 stream)
{
	struct pg_stream_key key = {.conn = conn, .stream = stream};
	struct pg_stream *blank;
	u32 zero = 0;

	blank = bpf_map_lookup_elem(&blank_stream, &zero);
	if (!blank || bpf_map_update_elem(&streams, &key, blank, BPF_NOEXIST))
		return 0;
	return bpf_map_lookup_elem(&streams, &key);
}

static __always_inline void pg_stream_delete(u64 conn, u32 stream)
{
	struct pg_stream_key key = {.conn = conn, .stream = stream};

	bpf_map_delete_elem(&streams, &key);
}

/* Keeps the text of a path that no exact rule names, for events. */
static __always_inline void pg_text_put(struct pg_conn *c, u32 text, u32 length)
{
	struct pg_text_key key = {.conn = c->id, .text = text};
	u32 zero = 0;
	struct pg_text *t = bpf_map_lookup_elem(&text_scratch, &zero);

	if (!t)
		return;
	t->length = length;
	__builtin_memcpy(t->bytes, c->path, PG_MAX_PATH_BYTES);
	if (bpf_map_update_elem(&texts, &key, t, BPF_ANY))
		pg_count(PG_N_HELPER_FAILED);
}

/* A copy: Linux 6.1 takes no argument of a global function for a key. */
static __always_inline struct pg_hello pg_hello_of(const struct pg_conn *c)
{
	struct pg_hello hello;

	__builtin_memcpy(hello.random, c->path + PG_HELLO_AT, sizeof(hello.random));
	return hello;
}

/* A connection's client has begun with TLS. Returns 0 if another connection's has begun in the very same way. */
static __always_inline int pg_hello_put(struct pg_conn *c)
{
	struct pg_hello_ends ends = {.cookie = c->cookie}, *found;
	struct pg_hello hello = pg_hello_of(c);

	if (!c->cookie || !bpf_map_update_elem(&tls_hellos, &hello, &ends, BPF_NOEXIST))
		return 1;
	found = bpf_map_lookup_elem(&tls_hellos, &hello);
	/* none: there is no room, and no object will be found for it */
	return !found || !__sync_val_compare_and_swap(&found->cookie, 0, c->cookie);
}

static __always_inline void pg_hello_delete(struct pg_conn *c)
{
	struct pg_hello hello = pg_hello_of(c);
	struct pg_hello_ends *found = bpf_map_lookup_elem(&tls_hellos, &hello);

	if (found && found->cookie == c->cookie)
		bpf_map_delete_elem(&tls_hellos, &hello);
}

static __always_inline u64 pg_now(void)
{
	return bpf_ktime_get_ns();
}

static __always_inline u64 pg_random(void)
{
	return (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
}

static __always_inline const struct pg_seed *pg_seed_get(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&seed, &zero);
}

/*
 * A lock in a map's value: compare and swap, a bounded spin. The verifier's own spin lock allows no calls while it is
 * held. The holder is mostly on another CPU and goes on; a task that sends may be interrupted on this one, and goes on
 * when this program ends. On failure the segment is dropped, and TCP sends it again. A hook in a process can be
 * interrupted, but only where the one that waits for it can be too: to wait long is to let it go on. Hooks take locks
 * that no packet's program takes.
 */
#ifdef PG_PLANE_TLS
#define PG_SPINS (1 << 20) /* tens of milliseconds */
#else
#define PG_SPINS (1 << 18) /* milliseconds: a segment of many calls takes a few hundred microseconds */
#endif

struct pg_spin {
	u32 *lock;
	int taken;
};

static long pg_spin_cb(u32 index, void *data)
{
	struct pg_spin *spin = data;

	(void)index;
	if (spin->lock)
		spin->taken = __sync_val_compare_and_swap(spin->lock, 0, 1) == 0;
	return spin->taken;
}

/* Waits for a lock. */
PG_STEP int pg_spin(u32 *lock)
{
	struct pg_spin spin = {.lock = lock};

	if (!lock)
		return 0;
	bpf_loop(PG_SPINS, pg_spin_cb, &spin, 0);
	return spin.taken;
}

/* Takes it if it is free, at once. */
static __always_inline int pg_trylock(u32 *lock)
{
	return __sync_val_compare_and_swap(lock, 0, 1) == 0;
}

static __always_inline int pg_lock(u32 *lock)
{
	return pg_trylock(lock) || pg_spin(lock);
}

static __always_inline void pg_unlock(u32 *lock)
{
	__sync_val_compare_and_swap(lock, 1, 0);
}

/* The same for a lock that only programs on this CPU take: they see its stores in order. */
static __always_inline void pg_give(u32 *lock)
{
	asm volatile("" ::: "memory");
	*(volatile u32 *)lock = 0;
}

#ifdef PG_PLANE_TLS
#include "tls/env.h"
#else
/* A berth for a stream. Returns 0 if there is none. */
static __always_inline int pg_berth_take(u32 *berth)
{
	u32 zero = 0, *next;

	if (!bpf_map_pop_elem(&free_berths, berth))
		return 1;
	next = bpf_map_lookup_elem(&next_berth, &zero);
	if (!next || *next >= PG_MAX_BERTHS)
		return 0;
	*berth = __sync_fetch_and_add(next, 1);
	return *berth < PG_MAX_BERTHS;
}

PG_STEP int pg_berth_give(u32 berth)
{
	if (bpf_map_push_elem(&free_berths, &berth, 0))
		pg_count_add(PG_N_HELPER_FAILED, 1);
	return 0;
}

/* The compiler would make one call of this look-up and of that in the table of streams, and the kernel inlines only a
 * call that is always about the same map. */
static __always_inline struct pg_stream *pg_berth_get(u32 berth)
{
	struct pg_stream *s = bpf_map_lookup_elem(&berths, &berth);

	asm volatile("" : "+r"(s));
	return s;
}

static __always_inline struct pg_bucket_set *pg_bucket_set_get(u32 set)
{
	return bpf_map_lookup_elem(&buckets, &set);
}

static __always_inline struct pg_own_bucket *pg_own_bucket_get(u32 limit)
{
	return bpf_map_lookup_elem(&own_buckets, &limit);
}

/* A spin lock of the kernel's: its holder is not interrupted. Returns 1. */
static __always_inline int pg_bucket_lock(struct bpf_spin_lock *lock)
{
	bpf_spin_lock(lock);
	return 1;
}

static __always_inline void pg_bucket_unlock(struct bpf_spin_lock *lock)
{
	bpf_spin_unlock(lock);
}

static __always_inline struct pg_event *pg_event_scratch(struct pg_work *w)
{
	return &w->said.about;
}

/* What a run works in, which none has that it interrupts; 0: too many are under way. */
static __always_inline struct pg_work *pg_work_take(void)
{
	struct pg_work *w;
	u32 i, at;

	for (i = 0; i < PG_NESTED; i++) {
		at = i;
		w = bpf_map_lookup_elem(&work_scratch, &at);
		if (w && pg_trylock(&w->taken)) {
			pg_work_begin(w);
			return w;
		}
	}
	return 0;
}

static __always_inline void pg_work_give(struct pg_work *w)
{
	pg_give(&w->taken);
}

/* The same for what connections are made in. */
static __always_inline struct pg_stash *pg_stash_take(void)
{
	struct pg_stash *st;
	u32 i, at;

	for (i = 0; i < PG_NESTED; i++) {
		at = i;
		st = bpf_map_lookup_elem(&stash, &at);
		if (st && pg_trylock(&st->taken))
			return st;
	}
	return 0;
}

static __always_inline void pg_stash_give(struct pg_stash *st)
{
	pg_give(&st->taken);
}

static __always_inline void pg_event_put(struct pg_event *e)
{
	if (bpf_ringbuf_output(&events, e, sizeof(*e), 0))
		pg_count_add(PG_N_EVENTS_LOST, 1);
}
#endif

#else
#include "host/env.h"
#endif

#endif
