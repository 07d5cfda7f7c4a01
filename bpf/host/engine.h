/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The engine for the host: the same headers as in the kernel, over plain memory. It judges one connection, fed in
 * chunks of any size; `protocg::engine` is its face in Rust.
 */
#ifndef PG_HOST_ENGINE_H
#define PG_HOST_ENGINE_H

#include "abi/abi.h"
#include "source/work.h"

/* The compiled policy. The arrays stay the caller's and must outlive every connection made over them. */
struct pg_tables {
	const struct pg_config *config;
	const struct pg_trie *trie;
	const struct pg_method *method;
	const struct pg_rule *rule;
	const struct pg_test *test;
	const struct pg_op *op;
	const struct pg_node *node;
	const struct pg_field *field;
	const struct pg_bound *bound;
	const struct pg_automaton *automaton;
	const u32 *trans;
	const struct pg_classes *classes;
	const struct pg_out *out;
	const struct pg_key *key;
	const struct pg_peer *peer;
	const struct pg_rate *rate;
	u32 trie_count;
	u32 method_count;
	u32 rule_count;
	u32 test_count;
	u32 op_count;
	u32 node_count;
	u32 field_count;
	u32 bound_count;
	u32 automaton_count;
	u32 trans_count;
	u32 classes_count;
	u32 out_count;
	u32 key_count;
	u32 peer_count;
	u32 rate_count;
};

struct pg_host;
struct pg_host_buckets;

/* A new connection from a peer (IPv4 as ::ffff:a.b.c.d); 0 if there is no memory. */
struct pg_host *pg_host_new(const struct pg_tables *tables, const u8 remote[16], u16 remote_port);
void pg_host_free(struct pg_host *host);

/* Token buckets of a policy, all full; 0 if there is no memory. */
struct pg_host_buckets *pg_host_buckets_new(const struct pg_tables *tables);
void pg_host_buckets_free(struct pg_host_buckets *buckets);

/* The connection takes its tokens from these; by default it has its own. They must outlive it. */
void pg_host_share(struct pg_host *host, struct pg_host_buckets *buckets);

/* The time, in nanoseconds, until the next call of this; 0 at first. */
void pg_host_time(struct pg_host *host, u64 now);

/* Judges the next bytes of the client's side. Returns enum pg_outcome; after anything but 0 the same comes again. */
int pg_host_request(struct pg_host *host, const u8 *bytes, u32 length);

/*
 * Follows the next bytes of the server's side. Returns enum pg_outcome; PG_CUT: it is not HTTP/2. Where rules read
 * responses its messages are judged, and after anything but 0 the same comes again.
 */
int pg_host_response(struct pg_host *host, const u8 *bytes, u32 length);

/* Events since the last call; they stay valid until the next call into this connection. */
u32 pg_host_events(struct pg_host *host, const struct pg_event **events);

const struct pg_conn *pg_host_conn(const struct pg_host *host);
u32 pg_host_streams(const struct pg_host *host);

/* A live stream, as the kernel would keep it; 0: there is none of this id. */
const struct pg_stream *pg_host_stream(struct pg_host *host, u32 stream);

/* The matcher alone: the first of tests [first, end) that completes a clause that holds of these bits; -1: none does.
 */
int pg_host_match(struct pg_host *host, const struct pg_bits *bits, u32 first, u32 end);

u64 pg_host_counter(const struct pg_host *host, u32 counter);

#endif
