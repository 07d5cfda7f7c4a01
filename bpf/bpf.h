/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's side of BPF: helpers, and the few kernel structures that are looked into (CO-RE). */
#ifndef PG_BPF_H
#define PG_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

/* Only the members that are read; libbpf finds where they are in the running kernel. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct tcp_options_received {
	__u32 ts_recent;
};

struct tcp_sock {
	__u32 rcv_nxt;
	__u32 rcv_wup;
	__u32 rcv_wnd;
	__u32 snd_nxt;
	struct tcp_options_received rx_opt;
	_Bool is_mptcp;
};

/* struct sock_common: libbpf cuts off what follows the underscores. The guards look into other members of it. */
struct sock_common___cookie {
	struct {
		__s64 counter;
	} skc_cookie;
};

struct tcp_request_sock {
	__u32 rcv_nxt;
};

struct sk_buff {
	unsigned int len;
	unsigned int data_len;
	unsigned int end;
	unsigned char *head;
	unsigned char *data;
};

struct skb_shared_info {
	__u8 flags;
};

#pragma clang attribute pop

/* The cookie of a socket, whichever of its types it comes as; 0: nobody has asked for it yet. */
static __always_inline __u64 pg_socket_cookie(const void *sk)
{
	return ((const struct sock_common___cookie *)sk)->skc_cookie.counter;
}

/* The cookie of a packet's socket. A connection's has been asked for before, and is at hand. */
static __always_inline __u64 pg_packet_cookie(struct __sk_buff *skb, struct tcp_sock *tp)
{
	__u64 cookie = pg_socket_cookie(tp);

	return cookie ? cookie : bpf_get_socket_cookie(skb);
}

#define SKBFL_SHARED_FRAG 2 /* include/linux/skbuff.h: BIT(1) */

/* Kernel 6.2; weak, for older ones. */
extern void *bpf_cast_to_kern_ctx(void *obj) __ksym __weak;
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

#endif
