/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The part that needs no LSM: programs on the cgroup itself. They see the sockets that were made inside it, whoever
 * uses them. */
#ifndef PG_GUARD_SOCKET_H
#define PG_GUARD_SOCKET_H

#include "guard/judge.h"

#define PG_TCP_STATE_LISTEN 10

/* ---- making sockets: IP only; the kernel asks here for no other family ---- */

/* The way that such a socket would be; PG_W_COUNT: none. What is known is let pass, not what is known is refused. */
static __always_inline u32 pg_ip_way(u32 type, u32 protocol)
{
	if (type == SOCK_STREAM && (!protocol || protocol == IPPROTO_TCP))
		return PG_W_COUNT;
	if (type == SOCK_DGRAM &&
	    (!protocol || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6))
		return PG_W_COUNT;
	if (protocol == IPPROTO_MPTCP)
		return PG_W_MPTCP;
	return type == SOCK_RAW ? PG_W_RAW : PG_W_TRANSPORTS;
}

SEC("cgroup/sock_create") int gc_create(struct bpf_sock *sk)
{
	struct pg_guard_what what = {.family = sk->family, .kind = sk->type, .protocol = sk->protocol};
	u32 way = pg_ip_way(sk->type, sk->protocol);

	return way == PG_W_COUNT || !pg_refuse(way, 1, &what);
}

/* ---- binding ---- */

static __always_inline int pg_may_listen(u32 port)
{
	return (guard_config.direction == PG_INGRESS && pg_port_in(guard_config.policy, port)) ||
	       pg_port_in(guard_config.declared, port);
}

/* IPv4 as ::ffff:a.b.c.d. */
static __always_inline void pg_map_v4(u8 *address, u32 v4)
{
	address[10] = address[11] = 0xff;
	__builtin_memcpy(address + 12, &v4, 4);
}

/* The kernel's choice of a port (0) is judged when somebody comes to it: gc_ingress. */
static __always_inline int pg_bind(struct bpf_sock_addr *ctx, struct pg_guard_what *what)
{
	u32 port = bpf_ntohs(ctx->user_port), policy = pg_port_in(guard_config.policy, port);

	if (!port)
		return 1;
	what->port = port;
	if (ctx->protocol == IPPROTO_UDP && policy && guard_config.direction == PG_INGRESS)
		return !pg_refuse(PG_W_UDP, 1, what);
	return pg_may_listen(port) || !pg_refuse(PG_W_LISTEN, 1, what);
}

SEC("cgroup/bind4") int gc_bind4(struct bpf_sock_addr *ctx)
{
	struct pg_guard_what what = {.family = AF_INET, .kind = ctx->type, .protocol = ctx->protocol};

	pg_map_v4(what.address, ctx->user_ip4);
	return pg_bind(ctx, &what);
}

SEC("cgroup/bind6") int gc_bind6(struct bpf_sock_addr *ctx)
{
	struct pg_guard_what what = {.family = AF_INET6, .kind = ctx->type, .protocol = ctx->protocol};
	u32 *words = (u32 *)what.address;

	words[0] = ctx->user_ip6[0];
	words[1] = ctx->user_ip6[1];
	words[2] = ctx->user_ip6[2];
	words[3] = ctx->user_ip6[3];
	return pg_bind(ctx, &what);
}

/* ---- connecting, and sending datagrams to an address ---- */

static __always_inline int pg_reaches(const u8 *address, u32 port)
{
	const u64 *a = (const u64 *)address;
	u32 i;

	for (i = 0; i < PG_MAX_GUARD_CONNECT; i++) {
		const volatile struct pg_reach *reach = &guard_config.reach[i];
		const volatile u64 *of = (const volatile u64 *)reach->address;
		const volatile u64 *mask = (const volatile u64 *)reach->mask;

		if (i >= guard_config.reaches)
			break;
		if ((a[0] & mask[0]) == of[0] && (a[1] & mask[1]) == of[1] && port >= reach->first &&
		    port <= reach->last)
			return 1;
	}
	return 0;
}

/* The unspecified address means this machine to the kernel; here it is itself, in blocks that hold all addresses. */
static __always_inline int pg_connect(struct bpf_sock_addr *ctx, struct pg_guard_what *what)
{
	u32 port = bpf_ntohs(ctx->user_port);

	what->port = port;
	if (ctx->protocol == IPPROTO_UDP && guard_config.direction == PG_EGRESS &&
	    pg_port_in(guard_config.policy, port))
		return !pg_refuse(PG_W_UDP, 1, what);
	if (pg_switch_of(PG_W_CONNECT) == PG_GUARD_ALLOW)
		return 1;
	return pg_reaches(what->address, port) || !pg_refuse(PG_W_CONNECT, 1, what);
}

static __always_inline int pg_connect4(struct bpf_sock_addr *ctx)
{
	struct pg_guard_what what = {.family = AF_INET, .kind = ctx->type, .protocol = ctx->protocol};

	pg_map_v4(what.address, ctx->user_ip4);
	return pg_connect(ctx, &what);
}

static __always_inline int pg_connect6(struct bpf_sock_addr *ctx)
{
	struct pg_guard_what what = {.family = AF_INET6, .kind = ctx->type, .protocol = ctx->protocol};
	u32 *words = (u32 *)what.address;

	words[0] = ctx->user_ip6[0];
	words[1] = ctx->user_ip6[1];
	words[2] = ctx->user_ip6[2];
	words[3] = ctx->user_ip6[3];
	return pg_connect(ctx, &what);
}

SEC("cgroup/connect4") int gc_connect4(struct bpf_sock_addr *ctx)
{
	return pg_connect4(ctx);
}

SEC("cgroup/connect6") int gc_connect6(struct bpf_sock_addr *ctx)
{
	return pg_connect6(ctx);
}

SEC("cgroup/sendmsg4") int gc_sendmsg4(struct bpf_sock_addr *ctx)
{
	return pg_connect4(ctx);
}

SEC("cgroup/sendmsg6") int gc_sendmsg6(struct bpf_sock_addr *ctx)
{
	return pg_connect6(ctx);
}

/* ---- what bind could not know: listeners and UDP sockets on ports that the kernel chose ---- */

SEC("cgroup_skb/ingress") int gc_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct pg_guard_what what = {};
	u32 way;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	if (sk->protocol == IPPROTO_TCP && sk->state == PG_TCP_STATE_LISTEN && !pg_may_listen(sk->src_port))
		way = PG_W_LISTEN;
	else if (sk->protocol == IPPROTO_UDP && guard_config.direction == PG_INGRESS &&
		 pg_port_in(guard_config.policy, sk->src_port))
		way = PG_W_UDP;
	else
		return 1;
	what.family = sk->family;
	what.protocol = sk->protocol;
	what.port = sk->src_port;
	return !pg_refuse(way, 0, &what);
}

/* ---- what connect could not know: packets that say themselves that they go elsewhere first (source routes) ---- */

static __always_inline int pg_strays_v4(struct __sk_buff *skb)
{
	u8 options[40] = {}, head = 0;
	u32 length, i, skip = 0;

	if (bpf_skb_load_bytes(skb, 0, &head, 1) || (head & 15) <= 5)
		return 0;
	length = ((head & 15) - 5) * 4;
	if (length > sizeof(options) || bpf_skb_load_bytes(skb, 20, options, pg_length(length, sizeof(options))))
		return 0;
	for (i = 0; i < sizeof(options); i++) {
		if (skip) {
			skip--;
			continue;
		}
		if (options[i] == IPOPT_LSRR || options[i] == IPOPT_SSRR)
			return 1;
		/* 0 ends, 1 fills; all others say their length. */
		if (!options[i])
			break;
		if (options[i] != 1)
			skip = i + 1 < sizeof(options) && options[i + 1] >= 2 ? options[i + 1] - 1 : 0;
	}
	return 0;
}

static __always_inline int pg_strays_v6(struct __sk_buff *skb)
{
	u8 next = 0, head[2];
	u32 at = 40, i;

	if (bpf_skb_load_bytes(skb, 6, &next, 1))
		return 0;
	for (i = 0; i < 4; i++) {
		if (next == NEXTHDR_ROUTING)
			return 1;
		if ((next != NEXTHDR_HOP && next != NEXTHDR_DEST) || bpf_skb_load_bytes(skb, at, head, 2))
			return 0;
		next = head[0];
		at += (head[1] + 1) * 8;
	}
	return 1; /* more of them than anybody needs */
}

SEC("cgroup_skb/egress") int gc_egress(struct __sk_buff *skb)
{
	struct pg_guard_what what = {};

	if (skb->protocol == bpf_htons(ETH_P_IP) ? !pg_strays_v4(skb) : !pg_strays_v6(skb))
		return 1;
	what.family = skb->protocol == bpf_htons(ETH_P_IP) ? AF_INET : AF_INET6;
	return !pg_refuse(PG_W_CONNECT, 0, &what);
}

#endif
