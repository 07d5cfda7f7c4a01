/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Token buckets of the TLS plane. The packets' are locked by the kernel's spin locks, which programs of hooks may not
 * take, and maps with such locks are refused to them; so what is counted in plaintext is counted here, apart.
 */
#ifndef PG_TLS_BUCKETS_H
#define PG_TLS_BUCKETS_H

struct pg_tls_bucket_set {
	u32 lock;
	u32 reserved;
	struct pg_bucket way[PG_BUCKET_WAYS];
};

struct pg_tls_own_bucket {
	u32 lock;
	u32 reserved;
	struct pg_bucket bucket;
};

_Static_assert(sizeof(struct pg_tls_bucket_set) == sizeof(struct pg_bucket_set), "one is read as the other");
_Static_assert(sizeof(struct pg_tls_own_bucket) == sizeof(struct pg_own_bucket), "one is read as the other");

/* The loader makes as many as the policy needs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_BUCKET_SETS);
	__type(key, u32);
	__type(value, struct pg_tls_bucket_set);
} tls_buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pg_tls_own_bucket);
} tls_own_buckets SEC(".maps");

static __always_inline struct pg_bucket_set *pg_bucket_set_get(u32 set)
{
	return bpf_map_lookup_elem(&tls_buckets, &set);
}

static __always_inline struct pg_own_bucket *pg_own_bucket_get(u32 limit)
{
	return bpf_map_lookup_elem(&tls_own_buckets, &limit);
}

#define PG_BUCKET_SPINS 4096

/* Returns 0 if the holder does not let go: it may be what this hook has interrupted. In line, for the calls that lead
 * here are as many as the verifier allows. */
static __always_inline int pg_bucket_lock(struct bpf_spin_lock *lock)
{
	int i;

	for (i = 0; i < PG_BUCKET_SPINS; i++)
		if (__sync_val_compare_and_swap(&lock->val, 0, 1) == 0)
			return 1;
	return 0;
}

static __always_inline void pg_bucket_unlock(struct bpf_spin_lock *lock)
{
	pg_unlock(&lock->val);
}

#endif
