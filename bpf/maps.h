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

/* ---- read-only data, set before loading ---- */

const volatile struct pg_config config = {};

/* ---- tables ---- */

#define TABLE(name, type_)                                                                                             \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, 1);                                                                                \
		__type(key, u32);                                                                                      \
		__type(value, type_);                                                                                  \
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
	__uint(max_entries, PG_MAX_STREAMS);
	__type(key, struct pg_stream_key);
	__type(value, struct pg_stream);
} streams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PG_MAX_PATH_TEXTS);
	__type(key, struct pg_text_key);
	__type(value, struct pg_text);
} texts SEC(".maps");

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

#endif
