/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who: a connection's state from its handshake to its close. */
#ifndef PG_CONN_H
#define PG_CONN_H

#include "tcp.h"
#include "pipeline.h"
#include "held.h"

static __always_inline int pg_policy_port(u32 port)
{
	return config.ports[pg_index(port >> 6, 1024)] >> (port & 63) & 1;
}

/* Ids are made here, not taken from sockets: data on the handshake's last ACK has streams before it has a socket. */
static __always_inline u64 pg_conn_id(void)
{
	u32 zero = 0;
	u64 *next = bpf_map_lookup_elem(&next_conn, &zero);

	if (!next)
		return 0;
	/* a task that makes one can be interrupted by a packet that makes one */
	return (__sync_fetch_and_add(next, 1) + 1) << 8 | (bpf_get_smp_processor_id() & 0xff);
}

static __always_inline void pg_address(u8 *to, u32 family, u32 v4, const u32 *v6)
{
	if (family == AF_INET6) {
		__builtin_memcpy(to, v6, 16);
		return;
	}
	__builtin_memset(to, 0, 10);
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &v4, 4);
}

/* The sender of a packet. */
static __always_inline int pg_remote_of_packet(struct __sk_buff *skb, struct pg_conn *c)
{
	u32 offset = pg_tcp_offset(skb);
	u8 ip[40], port[2];

	if (!offset || bpf_skb_load_bytes(skb, 0, ip, 20) || bpf_skb_load_bytes(skb, offset, port, 2))
		return 0;
	c->remote_port = (u16)port[0] << 8 | port[1];
	__builtin_memset(c->remote, 0, 16);
	if (ip[0] >> 4 == 4) {
		c->remote[10] = 0xff;
		c->remote[11] = 0xff;
		__builtin_memcpy(c->remote + 12, ip + 12, 4);
		return 1;
	}
	if (bpf_skb_load_bytes(skb, 8, c->remote, 16))
		return 0;
	return 1;
}

/* Both ends of a socket. */
static __always_inline void pg_ends_of_socket(struct bpf_sock *sk, struct pg_conn *c)
{
	u32 local[4], remote[4];

	c->family = sk->family;
	c->local_port = sk->src_port;
	c->remote_port = bpf_ntohs(sk->dst_port);
	local[0] = sk->src_ip6[0];
	local[1] = sk->src_ip6[1];
	local[2] = sk->src_ip6[2];
	local[3] = sk->src_ip6[3];
	remote[0] = sk->dst_ip6[0];
	remote[1] = sk->dst_ip6[1];
	remote[2] = sk->dst_ip6[2];
	remote[3] = sk->dst_ip6[3];
	pg_address(c->local, sk->family, sk->src_ip4, local);
	pg_address(c->remote, sk->family, sk->dst_ip4, remote);
}

static __always_inline void pg_conn_identify(struct pg_conn *c, struct bpf_sock_ops *ops)
{
	u32 local[4], remote[4];

	c->family = ops->family;
	c->local_port = ops->local_port;
	c->remote_port = bpf_ntohl(ops->remote_port);
	local[0] = ops->local_ip6[0];
	local[1] = ops->local_ip6[1];
	local[2] = ops->local_ip6[2];
	local[3] = ops->local_ip6[3];
	remote[0] = ops->remote_ip6[0];
	remote[1] = ops->remote_ip6[1];
	remote[2] = ops->remote_ip6[2];
	remote[3] = ops->remote_ip6[3];
	pg_address(c->local, ops->family, ops->local_ip4, local);
	pg_address(c->remote, ops->family, ops->remote_ip4, remote);
}

struct pg_giving {
	struct pg_conn *c;
	u32 keep;
};

static long pg_holes_free_cb(u32 index, void *data)
{
	struct pg_giving *g = data;
	struct pg_hole *hole;

	(void)index;
	if (!g->c || g->c->holes <= g->keep)
		return 1;
	g->c->holes--;
	hole = &g->c->hole[pg_index(g->c->holes, PG_MAX_HOLES)];
	pg_slot_free(hole->source, hole->slot);
	return 0;
}

/* All holes but the first `keep` are given up. */
PG_STEP int pg_holes_free(struct pg_conn *c, u32 keep)
{
	struct pg_giving g = {.c = c, .keep = keep};

	if (c)
		bpf_loop(PG_MAX_HOLES, pg_holes_free_cb, &g, 0);
	return 0;
}

/* The kernel closed the connection: nothing of it stays. */
static __always_inline void pg_conn_close(u64 cookie)
{
	struct pg_conn *c = bpf_map_lookup_elem(&conns, &cookie);
	u32 responses, wanted, one = 1;

	if (!c)
		return;
	/* the order in which the server's side takes them */
	wanted = config.responses || config.direction == PG_EGRESS;
	responses = wanted && pg_lock(&c->response_lock);
	if (responses >= wanted && pg_lock(&c->lock)) {
		pg_streams_drop(c);
		pg_holes_free(c, 0);
		if (c->said.source != PG_SRC_PACKET)
			pg_slot_free(c->said.source, c->said.slot);
		c->said.source = PG_SRC_PACKET;
		if (c->hello)
			pg_hello_delete(c);
		c->cookie = 0;
		c->phase = PG_P_DEAD;
		pg_unlock(&c->lock);
	} else {
		pg_count(PG_N_HELPER_FAILED);
	}
	if (responses)
		pg_unlock(&c->response_lock);
	pg_held_drop(cookie);
	bpf_map_delete_elem(&replies, &cookie);
	/* until the kernel has closed the socket, a packet may find it without us: that is no connection from before */
	bpf_map_update_elem(&strangers, &cookie, &one, BPF_ANY);
	bpf_map_delete_elem(&conns, &cookie);
}

/* No state could be made: said once, and every later segment finds none and is dropped. */
static __always_inline void pg_conn_refuse(struct pg_conn *c, u32 reason)
{
	struct pg_work *w;
	u32 one = 1;

	w = pg_work_take();
	if (!w)
		return;
	bpf_map_update_elem(&strangers, &c->cookie, &one, BPF_ANY);
	pg_about(w, 0, 0);
	w->reason = reason;
	pg_emit(c, w, PG_EV_CONNECTION, PG_V_DENY);
	pg_work_give(w);
}

/*
 * The handshake is over. For a server, data may have come with its last ACK: the filter saw it with the listener and
 * left the engine's state in the stash; this call follows in the same chain, so the stash is this packet's or empty.
 */
static __always_inline void pg_conn_make(struct bpf_sock_ops *ops, u32 role, struct pg_stash *st)
{
	struct pg_conn *c, *made;
	u32 zero = 0, lost = 0, next, i, same = 1;
	u64 cookie = bpf_get_socket_cookie(ops);
	u8 stashed[16];

	made = &st->conn;
	next = role == PG_ROLE_SERVER ? ops->rcv_nxt : ops->snd_nxt;
	__builtin_memcpy(stashed, made->remote, sizeof(stashed));
	pg_conn_identify(made, ops);
	for (i = 0; i < sizeof(stashed); i++)
		if (stashed[i] != made->remote[i])
			same = 0;
	if (role == PG_ROLE_SERVER && st->valid && same && st->local_port == ops->local_port &&
	    st->remote_port == bpf_ntohl(ops->remote_port) && st->seq == next) {
		next += st->length;
	} else {
		lost = st->valid;
		if (lost)
			pg_streams_drop(made);
		c = bpf_map_lookup_elem(&blank_conn, &zero);
		if (!c)
			return;
		/* too long for the compiler to copy in line */
		if (bpf_probe_read_kernel(made, sizeof(*made), c))
			return;
		made->id = pg_conn_id();
		pg_conn_identify(made, ops);
	}
	st->valid = 0;
	made->cookie = cookie;
	made->role = role;
	made->judged = next;
	made->first = role == PG_ROLE_SERVER ? ops->snd_nxt : ops->rcv_nxt;
	made->sent = made->first;
	made->followed = 1;
	if (bpf_map_update_elem(&conns, &cookie, made, BPF_NOEXIST)) {
		pg_streams_drop(made);
		pg_conn_refuse(made, PG_R_CONNECTIONS);
		return;
	}
	c = bpf_map_lookup_elem(&conns, &cookie);
	if (!c)
		return;
	if (c->request.state == PG_H2_PREFACE && !c->request.have)
		pg_connection_start(c);
	if (lost)
		pg_count(PG_N_STASH_LOST);
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void pg_conn_open(struct bpf_sock_ops *ops, u32 role)
{
	struct pg_stash *st = pg_stash_take();

	/* without state its data will be refused */
	if (!st) {
		pg_count(PG_N_HELPER_FAILED);
		return;
	}
	pg_conn_make(ops, role, st);
	pg_stash_give(st);
}

#endif
