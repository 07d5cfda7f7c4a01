// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Architecture:
 *
 *   pg_sockops   a connection is established, or closes ──► its state is made, or goes
 *   pg_ingress   a packet for a socket in the cgroup    ──► servers: the client's side is judged; clients: the server's
 *   pg_egress    a packet of a socket in the cgroup     ──► servers: their side is followed; clients: theirs is judged
 *   pg_replay    bytes from BPF_PROG_TEST_RUN           ──► judged as a client's; attached nowhere
 *
 * A hook finds the connection and takes its lock; hooks/ know what passing and dropping mean there, run.h runs the
 * engine (pipeline.h) over the bytes. Nothing here parses beyond TCP.
 */
#include "hooks/request.h"
#include "hooks/response.h"
#include "hooks/answers.h"
#include "hooks/replay.h"

/* The TCP socket on a policy port that a packet belongs to, and TCP's own numbers for it. */
static __always_inline struct bpf_sock *pg_policy_socket(struct __sk_buff *skb, struct tcp_sock **tp)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk || !pg_policy_port(config.direction == PG_INGRESS ? sk->src_port : bpf_ntohs(sk->dst_port)))
		return 0;
	*tp = bpf_skc_to_tcp_sock(sk);
	return *tp ? sk : 0;
}

/* Whether TCP reads nothing of it but the acknowledgement. */
static __always_inline int pg_is_empty(const struct pg_segment *g)
{
	return !g->length && !(g->flags & (PG_TCP_FIN | PG_TCP_URG));
}

/* The acknowledgement of an empty segment: a client that sends nothing more has heard the agent's last words. */
static __always_inline void pg_acknowledged(struct __sk_buff *skb, struct tcp_sock *tp, const struct pg_segment *g)
{
	u64 cookie = pg_packet_cookie(skb, tp);
	struct pg_conn *c = bpf_map_lookup_elem(&conns, &cookie);

	if (!c || c->answers != PG_A_MUTED || !(g->flags & PG_TCP_ACK) || !pg_lock(&c->lock))
		return;
	if (c->cookie == cookie)
		pg_heard(skb, c);
	pg_unlock(&c->lock);
}

/* A packet for a socket on a policy port, which is not empty if there is a connection. */
static __always_inline int pg_incoming(struct __sk_buff *skb, struct bpf_sock *sk, struct tcp_sock *tp,
				       struct pg_work *w, const struct pg_segment *g)
{
	struct pg_conn *c;
	u64 cookie;
	int verdict;

	if (sk->state == PG_TCP_LISTEN)
		return pg_listener_segment(skb, g, sk, w);
	if (g->flags & PG_TCP_RST && !(g->flags & PG_TCP_URG))
		return PG_PASS; /* TCP reads no data from a reset (RFC 9293, section 3.10.7.4) */
	if (g->flags & PG_TCP_SYN)
		return pg_drop(PG_R_SYN_DATA);
	cookie = pg_packet_cookie(skb, tp);
	c = bpf_map_lookup_elem(&conns, &cookie);
	/* not made yet, or taken apart while the packet came: TCP takes no data now */
	if (!c && (sk->state == PG_TCP_SYN_RECV || sk->state == PG_TCP_CLOSE))
		return PG_DROP;
	if (!c)
		return pg_stranger(skb, sk, cookie, g->length);
	if (!pg_lock(&c->lock))
		return pg_drop(PG_R_LOCK);
	verdict = c->cookie == cookie ? pg_server_segment(skb, tp, c, w, g) : PG_DROP;
	pg_unlock(&c->lock);
	return verdict;
}

/* What comes in is followed, and not judged. */
static __always_inline int pg_comes_freely(void)
{
	return config.direction == PG_EGRESS && !config.responses;
}

SEC("cgroup_skb/ingress") int pg_ingress(struct __sk_buff *skb)
{
	struct pg_segment g = {};
	struct tcp_sock *tp = 0;
	struct bpf_sock *sk;
	struct pg_work *w;
	int verdict;

	sk = pg_policy_socket(skb, &tp);
	if (!sk)
		return PG_PASS;
	if (!pg_segment_read(skb, &g))
		return pg_comes_freely() ? PG_PASS : pg_drop(PG_R_HEADERS_UNREADABLE);
	if (pg_is_empty(&g) && sk->state != PG_TCP_LISTEN) {
		if (config.responses && config.direction == PG_INGRESS)
			pg_acknowledged(skb, tp, &g);
		return PG_PASS;
	}
	w = pg_work_take();
	if (!w)
		return pg_comes_freely() ? PG_PASS : pg_drop(PG_R_LOCK);
	if (config.direction == PG_EGRESS)
		verdict = pg_index(pg_answer(skb, sk, tp, w, &g), 2); /* the verifier wants to see 0 or 1 */
	else
		verdict = pg_incoming(skb, sk, tp, w, &g);
	pg_work_give(w);
	return verdict;
}

/* What goes out is looked at, and not judged. */
static __always_inline int pg_follows_only(void)
{
	return config.direction == PG_INGRESS && !config.responses;
}

/* A packet with data of a socket on a policy port. */
static __always_inline int pg_outgoing(struct __sk_buff *skb, struct bpf_sock *sk, struct tcp_sock *tp,
				       struct pg_work *w, const struct pg_segment *g)
{
	u64 cookie = pg_packet_cookie(skb, tp);
	struct pg_conn *c;
	int verdict;

	c = bpf_map_lookup_elem(&conns, &cookie);
	if (!c)
		return pg_follows_only() ? PG_PASS : pg_stranger(skb, sk, cookie, g->length);
	if (config.direction == PG_INGRESS)
		return pg_index(pg_server_response(skb, c, w, g), 2); /* the verifier wants to see 0 or 1 */
	if (!pg_lock(&c->lock))
		return pg_drop(PG_R_LOCK);
	verdict = c->cookie == cookie ? pg_client_segment(skb, c, w, g) : PG_DROP;
	pg_unlock(&c->lock);
	return verdict;
}

SEC("cgroup_skb/egress") int pg_egress(struct __sk_buff *skb)
{
	struct pg_segment g = {};
	struct tcp_sock *tp = 0;
	struct bpf_sock *sk;
	struct pg_work *w;
	int verdict;

	sk = pg_policy_socket(skb, &tp);
	if (!sk)
		return PG_PASS;
	if (!pg_segment_read(skb, &g))
		return pg_follows_only() ? PG_PASS : pg_drop(PG_R_HEADERS_UNREADABLE);
	if (config.direction == PG_EGRESS && g.length && g.flags & PG_TCP_SYN)
		return pg_drop(PG_R_SYN_DATA);
	if (!g.length && !(g.flags & PG_TCP_URG))
		return PG_PASS;
	w = pg_work_take();
	if (!w)
		return pg_drop(PG_R_LOCK);
	verdict = pg_outgoing(skb, sk, tp, w, &g);
	pg_work_give(w);
	return verdict;
}

SEC("sockops") int pg_sockops(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (config.direction == PG_INGRESS && pg_policy_port(ops->local_port))
			pg_conn_open(ops, PG_ROLE_SERVER);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (config.direction == PG_EGRESS && pg_policy_port(bpf_ntohl(ops->remote_port)))
			pg_conn_open(ops, PG_ROLE_CLIENT);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == PG_TCP_CLOSE)
			pg_conn_close(bpf_get_socket_cookie(ops));
		break;
	}
	return 1;
}

SEC("?cgroup_skb/ingress") int pg_replay(struct __sk_buff *skb)
{
	return pg_replay_bytes(skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
