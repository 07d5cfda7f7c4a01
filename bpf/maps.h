/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map once.
 *
 * Tables hold the compiled policy (abi/tables.h): the loader sets their length and fills them before the programs
 * are attached, nobody writes them later. State is made on demand, under a stated bound. Three things are shared
 * with the agent: events go up, replies come down, counters are read.
 */
#ifndef PG_MAPS_H
#define PG_MAPS_H

#include "bpf.h"
#include "abi/abi.h"
#include "source/work.h"

/* ---- read-only data, set before loading ---- */

const volatile struct pg_config config = {};

/* ---- tables ---- */

#define TABLE(name, type_)                        \
	struct {                                  \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, 1);           \
		__type(key, u32);                 \
		__type(value, type_);             \
	} name SEC(".maps")

TABLE(t_trie, struct pg_trie);
TABLE(t_method, struct pg_method);
TABLE(t_rule, struct pg_rule);
TABLE(t_test, struct pg_test);
TABLE(t_op, struct pg_op);
TABLE(t_node, struct pg_node);
TABLE(t_field, struct pg_field);
TABLE(t_bound, struct pg_bound);
TABLE(t_automaton, struct pg_automaton);
TABLE(t_trans, u32);
TABLE(t_classes, struct pg_classes);
TABLE(t_out, struct pg_out);
TABLE(t_key, struct pg_key);
TABLE(t_peer, struct pg_peer);
TABLE(t_rate, struct pg_rate);

/* ---- state ---- */

/* by socket cookie; made when a connection is established, gone when it closes */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_CONNECTIONS);
	__type(key, u64);
	__type(value, struct pg_conn);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_STREAMS - PG_MAX_BERTHS);
	__type(key, struct pg_stream_key);
	__type(value, struct pg_stream);
} streams SEC(".maps");

/* Berths for the state of streams; those that were given back; and how many were ever taken from the rest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_MAX_BERTHS);
	__type(key, u32);
	__type(value, struct pg_stream);
} berths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, PG_MAX_BERTHS);
	__type(value, u32);
} free_berths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} next_berth SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PG_MAX_PATH_TEXTS);
	__type(key, struct pg_text_key);
	__type(value, struct pg_text);
} texts SEC(".maps");

/* Connections that begin with TLS, and the objects that they are of. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_CONNECTIONS);
	__type(key, struct pg_hello);
	__type(value, struct pg_hello_ends);
} tls_hellos SEC(".maps");

/* Token buckets, by the hash of a key; the loader makes as many as the policy needs, and the seed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_BUCKET_SETS);
	__type(key, u32);
	__type(value, struct pg_bucket_set);
} buckets SEC(".maps");

/* by the limit's index */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pg_own_bucket);
} own_buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pg_seed);
} seed SEC(".maps");

/* Segments ahead of a hole: which, by socket cookie, and their bytes. The loader fills the queues with the slots'
 * numbers; a slot belongs to whoever took it from there. The last slots of either size are for copies of denied
 * segments alone: whatever waits for gaps elsewhere, a denial ends its RPC only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_CONNECTIONS);
	__type(key, u64);
	__type(value, struct pg_held);
} held SEC(".maps");

struct pg_small {
	u8 bytes[PG_HELD_SMALL_BYTES];
};
struct pg_large {
	u8 bytes[PG_MAX_HELD_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_MAX_HELD_SMALL + PG_MAX_MEND_SMALL);
	__type(key, u32);
	__type(value, struct pg_small);
} held_small SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_MAX_HELD_LARGE + PG_MAX_MEND_LARGE);
	__type(key, u32);
	__type(value, struct pg_large);
} held_large SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PG_MAX_HELD_SMALL);
	__type(value, u32);
} free_small SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PG_MAX_HELD_LARGE);
	__type(value, u32);
} free_large SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PG_MAX_MEND_SMALL);
	__type(value, u32);
} mend_small SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PG_MAX_MEND_LARGE);
	__type(value, u32);
} mend_large SEC(".maps");

/* What waits of the connections of one address, in small slots. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_SHARES);
	__type(key, u32);
	__type(value, u32);
} shares SEC(".maps");

/* Connections without state that were reported once, or had their end a moment ago. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u32);
} strangers SEC(".maps");

/* ---- scratch ---- */

#define SCRATCH(name, type_, kind)      \
	struct {                        \
		__uint(type, kind);     \
		__uint(max_entries, 1); \
		__type(key, u32);       \
		__type(value, type_);   \
	} name SEC(".maps")

/*
 * What a run works in, and what a connection is made in. Packets go out in a task's context, with interrupts on, and so
 * are connections made at times: another packet, or another task's, may run a program on the same CPU meanwhile. So
 * there are several, and who has one says so: pg_work_take(), pg_stash_take().
 */
#define PG_NESTED 4
#define NESTED(name, type_)                              \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, PG_NESTED);          \
		__type(key, u32);                        \
		__type(value, type_);                    \
	} name SEC(".maps")

NESTED(work_scratch, struct pg_work);
NESTED(stash, struct pg_stash);
SCRATCH(text_scratch, struct pg_text, BPF_MAP_TYPE_PERCPU_ARRAY);
SCRATCH(blank_stream, struct pg_stream, BPF_MAP_TYPE_ARRAY); /* all zeros: what a new entry is copied from */
SCRATCH(blank_conn, struct pg_conn, BPF_MAP_TYPE_ARRAY);
SCRATCH(blank_held, struct pg_held, BPF_MAP_TYPE_ARRAY);
SCRATCH(next_conn, u64, BPF_MAP_TYPE_PERCPU_ARRAY);

/* ---- shared with the agent ---- */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PG_MAX_EVENT_BYTES);
} events SEC(".maps");

/* by socket cookie; the agent registers a reply before it sends it */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_CONNECTIONS);
	__type(key, u64);
	__type(value, struct pg_reply);
} replies SEC(".maps");

/* by enum pg_counter */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PG_COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* dropped segments, by enum pg_reason */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PG_R_COUNT);
	__type(key, u32);
	__type(value, u64);
} drops SEC(".maps");

#endif
