/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* LSM programs: sockets that are not IP, IP sockets from outside, and what configures the network. */
#ifndef PG_GUARD_NET_H
#define PG_GUARD_NET_H

#include "guard/judge.h"

SEC("?lsm/socket_create") int BPF_PROG(gl_create, int family, int type, int protocol, int kern)
{
	struct pg_guard_what what = {};
	u32 way;

	if (kern)
		return 0;
	if (family == AF_PACKET || family == AF_XDP || type == SOCK_PACKET)
		way = PG_W_PACKET;
	else if (family == AF_VSOCK)
		way = PG_W_VSOCK;
	else if (family == AF_NETLINK && (protocol < 0 || protocol > 31 || !(PG_NETLINK_HARMLESS >> protocol & 1)))
		way = PG_W_NETLINK;
	else if (family != AF_UNIX && family != AF_INET && family != AF_INET6 && family != AF_NETLINK &&
		 family != AF_ALG)
		way = PG_W_FAMILIES;
	else
		return 0;
	if (!pg_inside())
		return 0;
	what.family = family;
	what.kind = type;
	what.protocol = protocol;
	return PG_REFUSED(way, &what);
}

/* A network socket that was made outside, used by a process inside: the programs on the cgroup do not see it. */
static __noinline int pg_foreign(u64 address)
{
	struct sock *sk = (void *)address;
	struct pg_guard_what what = {};
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	if (family == AF_UNIX || family == AF_NETLINK || family == AF_ALG)
		return 0;
	if (!pg_inside() || pg_cgroup_inside((u64)BPF_CORE_READ(sk, sk_cgrp_data.cgroup)))
		return 0;
	what.family = family;
	what.kind = BPF_CORE_READ(sk, sk_type);
	what.protocol = BPF_CORE_READ(sk, sk_protocol);
	what.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	return PG_REFUSED(PG_W_FOREIGN, &what);
}

SEC("?lsm/socket_bind") int BPF_PROG(gl_bind, struct socket *socket)
{
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/socket_connect") int BPF_PROG(gl_connect, struct socket *socket)
{
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/socket_accept") int BPF_PROG(gl_accept, struct socket *socket)
{
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/file_receive") int BPF_PROG(gl_receive, struct file *file)
{
	struct socket *socket;

	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/socket_listen") int BPF_PROG(gl_listen, struct socket *socket)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct pg_guard_what what = {};

	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX)
		return pg_foreign((u64)sk);
	if (pg_switch_of(PG_W_UNIX) == PG_GUARD_ALLOW || !pg_inside())
		return 0;
	what.family = AF_UNIX;
	what.kind = BPF_CORE_READ(sk, sk_type);
	return PG_REFUSED(PG_W_UNIX, &what);
}

/* ---- what configures the network behind the filter ---- */

/*
 * iptables of the old kind, and IPVS, are configured by options of any IP socket. A socket's own IPsec policy needs no
 * state of the kernel's, so it is refused with the rest of IPsec.
 */
SEC("?lsm/socket_setsockopt") int BPF_PROG(gl_option, struct socket *socket, int level, int option)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct pg_guard_what what = {.number = option};

	if (level == SOL_IP) {
		if (option < PG_TABLES && option != IP_IPSEC_POLICY && option != IP_XFRM_POLICY)
			return 0;
	} else if (level == SOL_IPV6) {
		if (option != PG_TABLES && option != PG_TABLES + 1 && option != IPV6_IPSEC_POLICY &&
		    option != IPV6_XFRM_POLICY)
			return 0;
	} else {
		return 0;
	}
	if (!pg_inside())
		return 0;
	what.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	what.kind = BPF_CORE_READ(sk, sk_type);
	what.protocol = BPF_CORE_READ(sk, sk_protocol);
	return PG_REFUSED(PG_W_NETLINK, &what);
}

struct nlmsghdr {
	u32 nlmsg_len;
	u16 nlmsg_type;
	u16 nlmsg_flags;
	u32 nlmsg_seq;
	u32 nlmsg_pid;
};

struct pg_messages {
	u64 at;
	u32 left;
	u32 ended;
	u32 found;
};

/* Filters, actions and chains of traffic control, made or removed. (Each kind has four types: new, delete, get, set.)
 */
static __always_inline int pg_is_filter(u32 type)
{
	return ((type >= 44 && type < 52) || (type >= 100 && type < 104)) && !(type & 2);
}

static long pg_each_message(u32 i, void *context)
{
	struct pg_messages *messages = context;
	struct nlmsghdr head = {};
	u32 length;

	messages->ended = 1;
	if (messages->left < sizeof(head) || bpf_probe_read_kernel(&head, sizeof(head), (void *)messages->at))
		return 1;
	if (head.nlmsg_len < sizeof(head) || head.nlmsg_len > messages->left)
		return 1;
	if (pg_is_filter(head.nlmsg_type)) {
		messages->found = head.nlmsg_type;
		return 1;
	}
	length = (head.nlmsg_len + 3) & ~3u;
	messages->left -= length < messages->left ? length : messages->left;
	messages->at += length;
	messages->ended = 0;
	return 0;
}

/* Messages, of which one packet may hold many; and those on a socket that gl_create would refuse, made elsewhere. */
SEC("?lsm/netlink_send") int BPF_PROG(gl_send, struct sock *sk, struct sk_buff *skb)
{
	struct pg_messages messages = {};
	struct pg_guard_what what = {.family = AF_NETLINK};
	u32 protocol = BPF_CORE_READ(sk, sk_protocol);

	if (protocol != NETLINK_ROUTE && protocol < 32 && PG_NETLINK_HARMLESS >> protocol & 1)
		return 0;
	if (!pg_inside())
		return 0;
	if (protocol == NETLINK_ROUTE) {
		messages.at = (u64)BPF_CORE_READ(skb, data);
		messages.left = BPF_CORE_READ(skb, len);
		bpf_loop(16384, pg_each_message, &messages, 0);
		/* One that goes on after so many is none to be understood. */
		if (messages.ended && !messages.found)
			return 0;
		what.number = messages.found;
	}
	what.kind = SOCK_RAW;
	what.protocol = protocol;
	return PG_REFUSED(PG_W_NETLINK, &what);
}

#endif
