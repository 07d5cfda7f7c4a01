// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One tiny program for each thing that protocg would like from the kernel: what loads is there. */
#include "bpf.h"
#include "abi/types.h"
#include <asm/ptrace.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} probe_ring SEC(".maps");

SEC("cgroup_skb/ingress") int pr_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *tcp;

	if (!sk)
		return 1;
	tcp = bpf_tcp_sock(sk);
	return tcp && tcp->rcv_nxt ? 1 : 1;
}

SEC("cgroup_skb/egress") int pr_egress(struct __sk_buff *skb)
{
	return bpf_get_socket_cookie(skb) ? 1 : 1;
}

SEC("sockops") int pr_sockops(struct bpf_sock_ops *ops)
{
	return bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG) ? 1 : 1;
}

SEC("cgroup/sock_create") int pr_sock_create(struct bpf_sock *sk)
{
	return sk->protocol ? 1 : 1;
}

static long pr_turn(u32 index, void *context)
{
	(void)index;
	(void)context;
	return 0;
}

SEC("cgroup_skb/ingress") int pr_loop(struct __sk_buff *skb)
{
	(void)skb;
	bpf_loop(1, pr_turn, 0, 0);
	return 1;
}

SEC("cgroup_skb/ingress") int pr_ring(struct __sk_buff *skb)
{
	u64 *event = bpf_ringbuf_reserve(&probe_ring, sizeof(*event), 0);

	(void)skb;
	if (event)
		bpf_ringbuf_discard(event, 0);
	return 1;
}

/* Whether a segment's pages can still be written by its sender: only struct sk_buff says it. */
SEC("cgroup_skb/ingress") int pr_frozen(struct __sk_buff *skb)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
	struct skb_shared_info *info =
		bpf_rdonly_cast(kernel->head + kernel->end, bpf_core_type_id_kernel(struct skb_shared_info));

	return info->flags ? 1 : 1;
}

/* The TLS plane: hooks, and what they can do to a call. */
SEC("uprobe") int pr_hook(struct pt_regs *ctx)
{
	return bpf_get_attach_cookie(ctx) ? 0 : 0;
}

SEC("uprobe") int pr_context(struct pt_regs *ctx)
{
	ctx->rax = 0;
	return 0;
}

SEC("uprobe") int pr_signal(struct pt_regs *ctx)
{
	(void)ctx;
	bpf_send_signal(19);
	return 0;
}

SEC("tp_btf/tcp_rcv_space_adjust") int pr_received(u64 *ctx)
{
	return ctx[0] ? 0 : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
