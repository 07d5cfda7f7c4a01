/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel offers the filter, over plain memory: packets, maps of one connection, slots, the ring buffer, TCP's
 * numbers. With it bpf/hooks/request.h, and so mending, runs under libFuzzer.
 */
#ifndef PG_FUZZ_BPF_H
#define PG_FUZZ_BPF_H

#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define AF_INET6 10
#define IPPROTO_TCP 6
#define SKBFL_SHARED_FRAG 2
#define BPF_ANY 0
#define BPF_NOEXIST 1
#define BPF_SOCK_OPS_STATE_CB_FLAG 4

struct __sk_buff {
	u32 len;
	u32 mark;
	const u8 *data, *data_end; /* what of it is in one piece */
	const u8 *bytes;
};

struct tcp_options_received {
	u32 ts_recent;
};

struct tcp_sock {
	u32 rcv_nxt;
	u32 rcv_wup;
	u32 rcv_wnd;
	u32 snd_nxt;
	struct tcp_options_received rx_opt;
	_Bool is_mptcp;
};

struct tcp_request_sock {
	u32 rcv_nxt;
};

struct bpf_sock_tuple {
	struct {
		u32 saddr, daddr;
		u16 sport, dport;
	} ipv4;
	struct {
		u32 saddr[4], daddr[4];
		u16 sport, dport;
	} ipv6;
};

struct bpf_sock {
	u32 family;
	u32 src_ip4;
	u32 dst_ip4;
	u32 src_ip6[4];
	u32 dst_ip6[4];
	u32 src_port;
	u16 dst_port;
	u32 state;
};

struct bpf_sock_ops {
	u32 family, remote_ip4, local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port, local_port, snd_nxt, rcv_nxt, bpf_sock_ops_cb_flags;
};

struct sk_buff {
	unsigned int len, data_len, end;
	unsigned char *head;
};

struct skb_shared_info {
	u8 flags;
};

struct pg_small {
	u8 bytes[PG_HELD_SMALL_BYTES];
};

struct pg_large {
	u8 bytes[PG_MAX_HELD_BYTES];
};

/* Pages are never shared here: these are not called. */
#define bpf_ksym_exists(symbol) 0
#define bpf_core_type_id_kernel(type) 0
static struct sk_buff *bpf_cast_to_kern_ctx(void *skb)
{
	return skb;
}
static void *bpf_rdonly_cast(void *object, u32 type)
{
	(void)type;
	return object;
}

#define bpf_ntohs(n) (n)
#define bpf_ntohl(n) (n)
#define bpf_skb_cgroup_id(skb) 1
#define bpf_get_socket_cookie(ops) 1
#define bpf_get_smp_processor_id() 0
#define bpf_sock_ops_cb_flags_set(ops, flags) (void)(flags)
/* No data comes with a listener here: there is no handshake to look up. */
#define BPF_F_CURRENT_NETNS (-1)
#define bpf_skc_lookup_tcp(skb, tuple, size, netns, flags) ((void)(netns), (struct bpf_sock *)0)
#define bpf_skc_to_tcp_request_sock(sk) ((void)(sk), (struct tcp_request_sock *)0)
#define bpf_sk_release(sk) (void)(sk)
#define bpf_probe_read_kernel(to, n, from) (memcpy(to, from, n), 0)

static inline int bpf_skb_load_bytes(const struct __sk_buff *skb, u32 at, void *to, u32 n)
{
	if (at > skb->len || n > skb->len - at)
		return -14;
	memcpy(to, skb->bytes + at, n);
	return 0;
}

/* ---- maps: each is known by its address ---- */

enum fuzz_map_kind { FUZZ_NONE, FUZZ_CELL, FUZZ_SLOTS, FUZZ_QUEUE };

#define FUZZ_SMALL 24 /* few, so that they run out */
#define FUZZ_LARGE 6
#define FUZZ_MEND_SMALL 8 /* of these, for copies */
#define FUZZ_MEND_LARGE 2

struct fuzz_map {
	enum fuzz_map_kind kind;
	u32 size;    /* of a value */
	u32 count;   /* of slots, or of what is in the queue */
	u32 present; /* a cell that is there */
	u32 always;  /* a cell that cannot go */
	u32 kept;    /* slots for copies, behind all others */
	u32 first;   /* the number of the first of these */
	void *cell;
	void *slot[FUZZ_SMALL];
	u32 queue[FUZZ_SMALL];
};

static struct fuzz_map held_small = {.kind = FUZZ_SLOTS,
				     .size = sizeof(struct pg_small),
				     .count = FUZZ_SMALL,
				     .kept = FUZZ_MEND_SMALL,
				     .first = PG_MAX_HELD_SMALL};
static struct fuzz_map held_large = {.kind = FUZZ_SLOTS,
				     .size = sizeof(struct pg_large),
				     .count = FUZZ_LARGE,
				     .kept = FUZZ_MEND_LARGE,
				     .first = PG_MAX_HELD_LARGE};
static struct fuzz_map free_small = {.kind = FUZZ_QUEUE, .size = FUZZ_SMALL - FUZZ_MEND_SMALL};
static struct fuzz_map free_large = {.kind = FUZZ_QUEUE, .size = FUZZ_LARGE - FUZZ_MEND_LARGE};
static struct fuzz_map mend_small = {.kind = FUZZ_QUEUE, .size = FUZZ_MEND_SMALL};
static struct fuzz_map mend_large = {.kind = FUZZ_QUEUE, .size = FUZZ_MEND_LARGE};
static struct fuzz_map shares = {.kind = FUZZ_CELL, .size = sizeof(u32), .always = 1};
static struct fuzz_map conns = {.kind = FUZZ_CELL, .size = sizeof(struct pg_conn)};
static struct fuzz_map held = {.kind = FUZZ_CELL, .size = sizeof(struct pg_held)};
static struct fuzz_map blank_conn = {.kind = FUZZ_CELL, .size = sizeof(struct pg_conn), .always = 1};
static struct fuzz_map blank_held = {.kind = FUZZ_CELL, .size = sizeof(struct pg_held), .always = 1};
static struct fuzz_map work_scratch = {.kind = FUZZ_CELL, .size = 8192, .always = 1};
static struct fuzz_map stash = {.kind = FUZZ_CELL, .size = sizeof(struct pg_stash), .always = 1};
static struct fuzz_map next_conn = {.kind = FUZZ_CELL, .size = 8, .always = 1};
static struct fuzz_map drops, strangers, replies;

static inline void *bpf_map_lookup_elem(struct fuzz_map *map, const void *key)
{
	u32 slot;

	if (map->kind == FUZZ_CELL)
		return map->present ? map->cell : 0;
	if (map->kind != FUZZ_SLOTS)
		return 0;
	memcpy(&slot, key, sizeof(slot));
	if (slot >= map->first)
		slot += map->count - map->kept - map->first;
	else if (slot >= map->count - map->kept)
		return 0;
	return slot < map->count && slot < FUZZ_SMALL ? map->slot[slot] : 0;
}

static inline long bpf_map_update_elem(struct fuzz_map *map, const void *key, const void *value, u64 flags)
{
	(void)key;
	if (map->kind != FUZZ_CELL || (flags == BPF_NOEXIST && map->present))
		return map->kind == FUZZ_NONE ? 0 : -1;
	memcpy(map->cell, value, map->size);
	map->present = 1;
	return 0;
}

static inline long bpf_map_delete_elem(struct fuzz_map *map, const void *key)
{
	(void)key;
	map->present = map->always;
	return 0;
}

static inline long bpf_map_push_elem(struct fuzz_map *map, const void *value, u64 flags)
{
	(void)flags;
	if (map->count >= map->size)
		abort(); /* a slot came back twice */
	memcpy(&map->queue[map->count++], value, sizeof(u32));
	return 0;
}

static inline long bpf_map_pop_elem(struct fuzz_map *map, void *value)
{
	u32 i;

	if (!map->count)
		return -1;
	memcpy(value, &map->queue[0], sizeof(u32));
	map->count--;
	for (i = 0; i < map->count; i++)
		map->queue[i] = map->queue[i + 1];
	return 0;
}

/* ---- the ring buffer: holes, as the agent hears of them ---- */

#define FUZZ_HOLES 512
static struct pg_hole_event fuzz_hole[FUZZ_HOLES];
static u32 fuzz_holes;
static struct fuzz_map events;

static inline long bpf_ringbuf_output(struct fuzz_map *map, const void *event, u64 size, u64 flags)
{
	(void)map;
	(void)flags;
	if (size == sizeof(struct pg_withheld_event))
		return 0;
	if (size != sizeof(struct pg_hole_event) || fuzz_holes >= FUZZ_HOLES)
		return -1;
	memcpy(&fuzz_hole[fuzz_holes++], event, size);
	return 0;
}

#endif
