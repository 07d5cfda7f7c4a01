// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "maps.h"

SEC("cgroup_skb/ingress") int pg_ingress(struct __sk_buff *skb)
{
	(void)skb;
	return config.generation ? 1 : 1;
}

SEC("cgroup_skb/egress") int pg_egress(struct __sk_buff *skb)
{
	(void)skb;
	return 1;
}

SEC("sockops") int pg_sockops(struct bpf_sock_ops *ops)
{
	(void)ops;
	return 1;
}


char LICENSE[] SEC("license") = "Dual BSD/GPL";
