// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The filter on a server's connection, segment by segment, over plain memory: fuzz/src/filter.rs is its face in Rust.
 */
#include "bpf.h"
#include "host/engine.h"

/* What comes before a connection and after it is not fuzzed, and gets no scratch. */
static inline struct pg_stash *pg_stash_take(void)
{
	return 0;
}

static inline void pg_stash_give(struct pg_stash *st)
{
	(void)st;
}

static inline struct pg_work *pg_work_take(void)
{
	return 0;
}

static inline void pg_work_give(struct pg_work *w)
{
	(void)w;
}

#include "hooks/request.h"

#define PGF_HEADERS 40

static struct pg_host fuzz_host;

static void pgf_cell(struct fuzz_map *map)
{
	map->cell = calloc(1, map->size);
	map->present = map->always;
	if (!map->cell)
		abort();
}

static void pgf_slots(struct fuzz_map *slots, struct fuzz_map *queue, struct fuzz_map *kept)
{
	u32 others = slots->count - slots->kept, i, slot;

	for (i = 0; i < slots->count; i++) {
		slots->slot[i] = malloc(slots->size);
		if (!slots->slot[i])
			abort();
		slot = i < others ? i : slots->first + i - others;
		bpf_map_push_elem(i < others ? queue : kept, &slot, 0);
	}
}

static void pgf_once(void)
{
	if (conns.cell)
		return;
	_Static_assert(sizeof(struct pg_work) <= 8192, "work_scratch is too small");
	pgf_cell(&conns);
	pgf_cell(&held);
	pgf_cell(&blank_conn);
	pgf_cell(&blank_held);
	pgf_cell(&work_scratch);
	pgf_cell(&stash);
	pgf_cell(&next_conn);
	pgf_cell(&shares);
	pgf_slots(&held_small, &free_small, &mend_small);
	pgf_slots(&held_large, &free_large, &mend_large);
}

/* A connection whose handshake is over; its first byte will be `seq`. */
void pgf_open(const struct pg_tables *tables, u32 seq);
void pgf_open(const struct pg_tables *tables, u32 seq)
{
	struct pg_conn *c;
	u64 cookie = 1;

	pgf_once();
	pg_here = &fuzz_host;
	fuzz_host.tables = *tables;
	fuzz_host.event_count = 0;
	fuzz_holes = 0;
	bpf_map_update_elem(&conns, &cookie, blank_conn.cell, BPF_ANY);
	c = conns.cell;
	c->id = 1;
	c->cookie = cookie;
	c->role = PG_ROLE_SERVER;
	c->judged = seq;
	c->remote[15] = 1;
	pg_connection_start(c);
}

/* A packet with one segment; TCP has received up to `received`. Returns 1 if it passes. */
int pgf_segment(const u8 *packet, u32 length, u32 received);
int pgf_segment(const u8 *packet, u32 length, u32 received)
{
	/* the headers of every second packet are not in one piece */
	const u8 *end = length & 1 ? packet : packet + length;
	struct __sk_buff skb = {.len = length, .data = packet, .data_end = end, .bytes = packet};
	struct tcp_sock tp = {.rcv_nxt = received, .rcv_wup = received, .rcv_wnd = 1 << 20};
	struct pg_segment g = {};

	pg_here = &fuzz_host;
	pg_work_begin(work_scratch.cell);
	if (!pg_segment_read(&skb, &g))
		abort();
	return pg_server_segment(&skb, &tp, conns.cell, work_scratch.cell, &g);
}

u32 pgf_events(const struct pg_event **to);
u32 pgf_events(const struct pg_event **to)
{
	u32 n = fuzz_host.event_count;

	*to = fuzz_host.events;
	fuzz_host.event_count = 0;
	return n;
}

u32 pgf_holes(const struct pg_hole_event **to);
u32 pgf_holes(const struct pg_hole_event **to)
{
	u32 n = fuzz_holes;

	*to = fuzz_hole;
	fuzz_holes = 0;
	return n;
}

const u8 *pgf_slot(u32 source, u32 slot);
const u8 *pgf_slot(u32 source, u32 slot)
{
	return bpf_map_lookup_elem(source == PG_SRC_HELD_SMALL ? &held_small : &held_large, &slot);
}

const struct pg_conn *pgf_conn(void);
const struct pg_conn *pgf_conn(void)
{
	return conns.cell;
}

/* The kernel closes it. Returns how many slots did not come back, streams and berths. */
u32 pgf_close(void);
u32 pgf_close(void)
{
	pg_here = &fuzz_host;
	pg_conn_close(1);
	return FUZZ_SMALL - free_small.count - mend_small.count + FUZZ_LARGE - free_large.count - mend_large.count +
	       fuzz_host.stream_count + __builtin_popcount(fuzz_host.berths_taken);
}
