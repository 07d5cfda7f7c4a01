/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Token buckets. A bucket knows how much it misses of being full, so one of zeros is full, and a full one's place is
 * free for another key without anything being forgotten: no call passes without a token, whatever becomes of the keys.
 */
#ifndef PG_POLICY_LIMIT_H
#define PG_POLICY_LIMIT_H

#include "env.h"

/* ---- what a value is counted by ---- */

#define PG_HASH_PRIME 0x7fffffffull /* 2^31 - 1 */

/* A polynomial of the value's bytes, at a secret place, modulo a prime: two values of n bytes that were chosen without
 * knowing the place share it with a chance of n / 2^31, and both of two such with one of n^2 / 2^62. */
static inline u32 pg_hash_byte(u32 hash, u32 at, u8 byte)
{
	u64 x = (u64)hash * at + byte + 1;

	x = (x & PG_HASH_PRIME) + (x >> 31);
	x = (x & PG_HASH_PRIME) + (x >> 31);
	return x == PG_HASH_PRIME ? 0 : x;
}

/* ---- a bucket ---- */

/* Takes a token, or only looks. Returns 0 if there is one; else the nanoseconds until there is. Under the lock. */
static __always_inline u64 pg_bucket_take(struct pg_bucket *b, u64 rate, u64 cost, u64 capacity, u64 now, u32 take)
{
	u64 missing = 0, gain = 0;

	if (now < b->full_at) {
		/* two CPUs may have read the clock in one order and come here in the other */
		if (now < b->time)
			now = b->time;
		/* no overflow: it is less than what is missing, by full_at */
		gain = (now - b->time) * rate;
		missing = b->missing > gain ? b->missing - gain : 0;
	}
	missing += cost;
	if (missing > capacity)
		return (missing - capacity + rate - 1) / rate;
	if (take) {
		b->missing = missing;
		b->time = now;
		b->full_at = now + (missing + rate - 1) / rate;
	}
	return 0;
}

/* Where in the set the key's bucket is, or can be; PG_BUCKET_WAYS: nowhere. Under the lock. */
static __always_inline u32 pg_bucket_find(const struct pg_bucket_set *set, u32 limit, u64 key0, u64 key1, u64 now)
{
	u32 i, found = PG_BUCKET_WAYS;

	for (i = 0; i < PG_BUCKET_WAYS; i++) {
		if (set->way[i].limit == limit && set->way[i].key[0] == key0 && set->way[i].key[1] == key1)
			return i;
		if (found == PG_BUCKET_WAYS && now >= set->way[i].full_at)
			found = i;
	}
	return found;
}

#define PG_NS_A_MS 1000000

static inline u32 pg_milliseconds(u64 ns)
{
	return (ns + PG_NS_A_MS - 1) / PG_NS_A_MS;
}

/* The bucket of a key. Returns 1 if it has a token; 0, and in w->retry_ms when it will; -1 if there is no room for it,
 * or it cannot be had. */
PG_STEP int pg_bucket_of(struct pg_work *w, u32 index, u64 key0, u64 key1, u32 take)
{
	const struct pg_rate *l = pg_get_rate(index);
	const struct pg_seed *s = pg_seed_get();
	struct pg_bucket_set *set;
	u64 now, wait = 0, rate, cost, capacity, hash;
	u32 at;

	if (!w || !l || !s)
		return -1;
	rate = l->rate;
	cost = l->cost;
	capacity = l->capacity;
	if (!rate)
		return -1;
	hash = key0 * s->mix[0] + key1 * s->mix[1] + (u64)index * s->mix[2];
	hash = (hash ^ hash >> 32) * s->mix[0];
	set = pg_bucket_set_get((hash >> 32) & (PG_BUCKET_SETS - 1));
	if (!set)
		return -1;
	index++;
	now = w->now ? w->now : pg_now();
	if (!pg_bucket_lock(&set->lock))
		return -1;
	at = pg_bucket_find(set, index, key0, key1, now);
	if (at < PG_BUCKET_WAYS) {
		struct pg_bucket *b = &set->way[pg_index(at, PG_BUCKET_WAYS)];

		if (take && (b->limit != index || b->key[0] != key0 || b->key[1] != key1)) {
			b->limit = index;
			b->key[0] = key0;
			b->key[1] = key1;
			b->full_at = 0;
		}
		if (b->limit == index && b->key[0] == key0 && b->key[1] == key1)
			wait = pg_bucket_take(b, rate, cost, capacity, now, take);
	}
	pg_bucket_unlock(&set->lock);
	if (at >= PG_BUCKET_WAYS)
		return -1;
	w->retry_ms = pg_milliseconds(wait);
	return !wait;
}

/* The limit's own bucket. Returns 1 if it has a token; else 0, and in w->retry_ms when it will. */
PG_STEP int pg_bucket_own(struct pg_work *w, u32 index, u32 take)
{
	const struct pg_rate *l = pg_get_rate(index);
	struct pg_own_bucket *own = pg_own_bucket_get(index);
	u64 now, wait, rate, cost, capacity;

	if (!w || !l || !own || !l->rate)
		return 0;
	rate = l->rate;
	cost = l->cost;
	capacity = l->capacity;
	if (!rate)
		return 0;
	now = w->now ? w->now : pg_now();
	if (!pg_bucket_lock(&own->lock))
		return 0;
	wait = pg_bucket_take(&own->bucket, rate, cost, capacity, now, take);
	pg_bucket_unlock(&own->lock);
	w->retry_ms = pg_milliseconds(wait);
	return !wait;
}

/* A token for the call whose header block has just ended. Returns 1 if there is one. */
PG_STEP int pg_limit_take(struct pg_conn *c, struct pg_work *w, u32 index, u32 take)
{
	const struct pg_rate *l = pg_get_rate(index);
	const struct pg_value *v;
	u64 key0 = 0, key1 = 0;
	int taken = -1;

	if (!c || !w || !l)
		return 0;
	switch (l->per) {
	case PG_PER_METHOD:
		key0 = w->method;
		break;
	case PG_PER_PEER:
		__builtin_memcpy(&key0, c->remote, 8);
		__builtin_memcpy(&key1, c->remote + 8, 8);
		break;
	case PG_PER_VALUE:
		v = &c->block.value[pg_index(l->slot, PG_MAX_BUCKET_KEYS)];
		/* several values: which of them the server reads is unknown, so none of them buys a bucket */
		if (v->count != 1)
			return pg_bucket_own(w, index, take);
		key0 = (u64)v->hash[0] << 32 | v->hash[1];
		break;
	default:
		return pg_bucket_own(w, index, take);
	}
	taken = pg_bucket_of(w, index, key0, key1, take);
	if (taken >= 0)
		return taken;
	if (take)
		pg_count(PG_N_BUCKETS_FULL);
	return pg_bucket_own(w, index, take);
}

#endif
