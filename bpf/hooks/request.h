/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The client's side of a connection: which of its segments may reach TCP (on ingress) or the wire (on egress). Its
 * judged position is c->judged.
 */
#ifndef PG_HOOKS_REQUEST_H
#define PG_HOOKS_REQUEST_H

#include "hooks/place.h"

/* The connection is denied as a whole: nothing more of the client passes. In audit mode it passes unread from here on.
 * Under the lock. */
static __always_inline int pg_cut(struct pg_conn *c, struct pg_work *w, u32 reason)
{
	pg_about(w, 0, 0);
	w->reason = reason;
	if (config.audit) {
		c->phase = PG_P_BLIND;
		pg_emit(c, w, PG_EV_CONNECTION, PG_V_AUDIT_DENY);
		return PG_PASS;
	}
	c->phase = PG_P_DEAD;
	pg_emit(c, w, PG_EV_CONNECTION, PG_V_DENY);
	return pg_drop(reason);
}

/* The run's end: what it decided about the segment. Under the lock. */
static __always_inline int pg_conclude(struct pg_conn *c, struct pg_work *w)
{
	switch (w->outcome) {
	case PG_GO:
		c->judged = w->judged;
		return w->replaced ? pg_drop(PG_R_NONE) : PG_PASS;
	case PG_BLIND:
		if (!c->holes && !w->changed) {
			c->phase = PG_P_BLIND;
			return PG_PASS;
		}
		/* unread from here on, the client could send what was denied once more */
		return pg_cut(c, w, w->reason);
	case PG_DENIED:
		c->judged = w->judged;
		c->shadow = w->done;
		return pg_drop(PG_R_NONE);
	default:
		c->pending = c->pending > w->ended ? c->pending - w->ended : 0;
		c->phase = PG_P_DEAD;
		pg_emit(c, w, PG_EV_CONNECTION, PG_V_DENY);
		return pg_drop(w->reason);
	}
}

/* What the client has got of the agent's last words (hooks/silence.h). */
PG_STEP int pg_heard(struct __sk_buff *skb, struct pg_conn *c)
{
	u32 offset = pg_tcp_offset(skb), seq;
	u8 ack[4];

	if (!c || !offset || bpf_skb_load_bytes(skb, offset + 8, ack, sizeof(ack)))
		return 0;
	seq = (u32)ack[0] << 24 | (u32)ack[1] << 16 | (u32)ack[2] << 8 | ack[3];
	if (!c->heard || pg_after(seq, c->heard))
		c->heard = seq;
	return 1;
}

/*
 * A dead connection's segment: nothing of it passes. While it is in order it is still read, so that the RPCs that the
 * client had under way are answered one by one, each with its own status, instead of being cut together.
 */
static __always_inline int pg_shadow(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w,
				     const struct pg_segment *g)
{
	struct pg_run r = {.skb = skb, .c = c, .w = w};
	u32 b = g->seq + g->length;

	pg_count(PG_N_DEAD);
	if (c->answers == PG_A_MUTED && g->flags & PG_TCP_ACK)
		pg_heard(skb, c);
	if (!g->length)
		return PG_PASS; /* acknowledgements, and the end */
	if (!c->shadow || pg_after(g->seq, c->judged) || !pg_after(b, c->judged))
		return PG_DROP;
	w->judged = b;
	pg_run(&r, g->offset, g->length, c->judged - g->seq);
	c->judged = b;
	c->shadow = w->done;
	return PG_DROP;
}

/* The next bytes of a server's client, and what waited for them. Under the lock. */
static __always_inline int pg_request_payload(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w,
					      const struct pg_segment *g)
{
	struct pg_run r = {.skb = skb, .c = c, .w = w};

	if (c->holes >= PG_MAX_HOLES / 2) {
		pg_count(PG_N_HELD_FULL);
		return PG_DROP;
	}
	c->stuck = 0;
	c->delivered = c->complete;
	c->run++;
	r.held = pg_held_of(c);
	w->judged = g->seq + g->length;
	w->mendable = !(g->flags & PG_TCP_FIN);
	pg_count_add(PG_N_SEGMENTS, 1);
	pg_count_add(PG_N_BYTES, g->length);
	pg_run(&r, g->offset, g->length, c->judged - g->seq);
	return pg_conclude(c, w);
}

/* Tells the agent of a segment that TCP does not get before the gap ahead of it is filled. An event that finds no room
 * is not missed by anybody: the client sends again after a timeout. */
static __always_inline void pg_withheld(struct tcp_sock *tp, const struct pg_conn *c, struct pg_work *w,
					const struct pg_segment *g, const struct pg_numbers *n)
{
	struct pg_withheld_event *e = &w->withheld;

	e->time_ns = pg_now();
	e->cookie = c->cookie;
	e->seq = g->seq;
	e->length = g->length;
	e->received = n->received;
	e->window = n->window_end - n->received;
	e->next = tp->snd_nxt;
	e->ts_recent = tp->rx_opt.ts_recent;
	bpf_ringbuf_output(&events, e, sizeof(*e), 0);
}

/* A server's segment from its client, with payload or FIN, under the lock. */
static __always_inline int pg_server_segment(struct __sk_buff *skb, struct tcp_sock *tp, struct pg_conn *c,
					     struct pg_work *w, const struct pg_segment *g)
{
	u32 reason = PG_R_NONE;
	struct pg_numbers n;
	int verdict;

	if (c->phase == PG_P_BLIND)
		return PG_PASS;
	n.received = tp->rcv_nxt;
	n.window_end = tp->rcv_wup + tp->rcv_wnd;
	n.mptcp = tp->is_mptcp;
	n.withheld = 0;
	if (c->holes) {
		c->ts_recent = tp->rx_opt.ts_recent;
		if (pg_holes_settle(c, n.received, g))
			return PG_DROP;
	}
	if (c->holes && g->length && !(g->flags & (PG_TCP_FIN | PG_TCP_URG)) && g->flags & PG_TCP_ACK &&
	    !pg_pages_shared(skb) && pg_hole_fill(skb, c, w, g))
		return PG_PASS;
	if (c->phase == PG_P_DEAD)
		return pg_shadow(skb, c, w, g);
	n.judged = c->judged;
	verdict = pg_place(skb, c, g, &n, &reason);
	if (reason)
		return pg_cut(c, w, reason);
	if (n.withheld)
		pg_withheld(tp, c, w, g, &n);
	if (verdict == PG_LOOK)
		verdict = pg_request_payload(skb, c, w, g);
	if (verdict == PG_PASS)
		pg_place_fin(c, g);
	return verdict;
}

/* A client's segment to its server: the local stack sends in order, and again what was lost. Under the lock. */
static __always_inline int pg_client_segment(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w,
					     const struct pg_segment *g)
{
	struct pg_run r = {.skb = skb, .c = c, .w = w};
	u32 b = g->seq + g->length;

	if (c->phase == PG_P_BLIND)
		return PG_PASS;
	if (c->phase == PG_P_DEAD)
		return pg_shadow(skb, c, w, g);
	if (!g->length)
		return PG_PASS;
	if (g->flags & PG_TCP_URG)
		return pg_cut(c, w, PG_R_URGENT);
	if (pg_pages_shared(skb))
		return pg_cut(c, w, PG_R_SHARED_PAGES);
	if (!c->cgroup)
		c->cgroup = bpf_skb_cgroup_id(skb);
	if (!pg_after(b, c->judged))
		return PG_PASS;
	/* a segment before this one was dropped for want of the lock; both come again, in order */
	if (pg_after(g->seq, c->judged))
		return pg_drop(PG_R_LOCK);
	c->delivered = c->complete;
	c->run++;
	w->judged = b;
	pg_count_add(PG_N_SEGMENTS, 1);
	pg_count_add(PG_N_BYTES, g->length);
	pg_run(&r, g->offset, g->length, c->judged - g->seq);
	return pg_conclude(c, w);
}

/* Whose handshake a packet belongs to, as the kernel looks that up. */
static __always_inline int pg_tuple_of_packet(struct __sk_buff *skb, struct bpf_sock_tuple *t)
{
	u32 offset = pg_tcp_offset(skb);
	u8 version;

	if (!offset || bpf_skb_load_bytes(skb, 0, &version, 1))
		return 0;
	if (version >> 4 == 4)
		return bpf_skb_load_bytes(skb, 12, &t->ipv4.saddr, 8) ||
				       bpf_skb_load_bytes(skb, offset, &t->ipv4.sport, 4)
			       ? 0
			       : sizeof(t->ipv4);
	return bpf_skb_load_bytes(skb, 8, &t->ipv6.saddr, 32) || bpf_skb_load_bytes(skb, offset, &t->ipv6.sport, 4)
		       ? 0
		       : sizeof(t->ipv6);
}

/*
 * Is data on the handshake's last ACK where the connection begins? TCP would keep what is ahead of a gap, and cut off
 * what it takes for old: in their place the bytes would be others than those that were judged. A connection that is
 * made of a SYN cookie has no state yet, and begins wherever its first segment does.
 */
PG_STEP int pg_is_first(struct __sk_buff *skb, const struct pg_segment *g)
{
	struct bpf_sock_tuple t = {};
	struct tcp_request_sock *request;
	struct bpf_sock *sk;
	int first, size;
	u32 state;

	if (!skb || !g)
		return 0;
	size = pg_tuple_of_packet(skb, &t);
	if (!size)
		return 0;
	sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0; /* it was the listener's a moment ago; nobody can say what it will be */
	state = sk->state;
	request = bpf_skc_to_tcp_request_sock(sk);
	/* another CPU has made the connection: the packet comes again, with it */
	first = state == PG_TCP_LISTEN || (request && request->rcv_nxt == g->seq);
	bpf_sk_release(sk);
	return first;
}

/*
 * Data on the handshake's last ACK comes with the listener, and not again for its connection: the engine runs over it
 * into the stash. Nothing is committed, for TCP may still refuse it. A denial drops the packet: the handshake is
 * completed by the client's answer to the next SYN-ACK, and the data is denied as that connection's.
 */
static __always_inline int pg_stash_segment(struct __sk_buff *skb, const struct pg_segment *g, struct bpf_sock *sk,
					    struct pg_work *w, struct pg_stash *st)
{
	struct pg_run r = {.skb = skb, .w = w};
	struct pg_conn *blank;
	u32 zero = 0;

	blank = bpf_map_lookup_elem(&blank_conn, &zero);
	if (!blank)
		return pg_drop(PG_R_INTERNAL);
	if (st->valid)
		pg_streams_drop(&st->conn);
	st->valid = 0;
	if (!g->length)
		return g->flags & PG_TCP_URG ? pg_drop(PG_R_URGENT) : PG_PASS;
	if (g->flags & PG_TCP_SYN)
		return pg_drop(PG_R_SYN_DATA);
	if (g->flags & PG_TCP_URG)
		return pg_drop(PG_R_URGENT);
	if (!(g->flags & PG_TCP_ACK))
		return pg_drop(PG_R_NO_ACK);
	if (g->flags & PG_TCP_FIN || pg_pages_shared(skb) || !pg_is_first(skb, g))
		return pg_drop(PG_R_LISTENER_LOST);
	if (bpf_probe_read_kernel(&st->conn, sizeof(st->conn), blank))
		return pg_drop(PG_R_INTERNAL);
	st->conn.id = pg_conn_id();
	st->conn.role = PG_ROLE_SERVER;
	if (!pg_remote_of_packet(skb, &st->conn))
		return pg_drop(PG_R_HEADERS_UNREADABLE);
	st->conn.local_port = sk->src_port;
	pg_connection_start(&st->conn);
	st->local_port = sk->src_port;
	st->remote_port = st->conn.remote_port;
	st->seq = g->seq;
	st->length = g->length;
	r.c = &st->conn;
	w->judged = g->seq + g->length;
	pg_run(&r, g->offset, g->length, 0);
	st->valid = 1;
	if (w->outcome == PG_GO)
		return PG_PASS;
	if (w->outcome == PG_BLIND) {
		st->conn.phase = PG_P_BLIND;
		return PG_PASS;
	}
	return pg_drop(w->reason);
}

static __always_inline int pg_listener_segment(struct __sk_buff *skb, const struct pg_segment *g, struct bpf_sock *sk,
					       struct pg_work *w)
{
	struct pg_stash *st = pg_stash_take();
	int verdict;

	if (!st)
		return pg_drop(PG_R_LOCK);
	verdict = pg_stash_segment(skb, g, sk, w, st);
	pg_stash_give(st);
	return verdict;
}

/* The connection has no state, and what comes on it cannot be decided. */
static __always_inline int pg_stranger_refuse(struct __sk_buff *skb, struct bpf_sock *sk, u64 cookie)
{
	struct pg_stash *st;

	if (bpf_map_lookup_elem(&strangers, &cookie))
		return pg_drop(PG_R_MIDSTREAM);
	st = pg_stash_take();
	if (!st)
		return pg_drop(PG_R_MIDSTREAM);
	if (st->valid)
		pg_streams_drop(&st->conn);
	st->valid = 0;
	st->conn.id = 0;
	st->conn.cookie = cookie;
	st->conn.cgroup = bpf_skb_cgroup_id(skb);
	st->conn.delivered = 0;
	st->conn.highest = 0;
	st->conn.role = config.direction == PG_INGRESS ? PG_ROLE_SERVER : PG_ROLE_CLIENT;
	pg_ends_of_socket(sk, &st->conn);
	pg_conn_refuse(&st->conn, PG_R_MIDSTREAM);
	pg_stash_give(st);
	return pg_drop(PG_R_MIDSTREAM);
}

/* No state: the connection is older than the enforcer, or found no room when it was made. */
static __always_inline int pg_stranger(struct __sk_buff *skb, struct bpf_sock *sk, u64 cookie, u32 length)
{
	if (!length || config.cause[PG_CAUSE_MIDSTREAM] == PG_SWITCH_ALLOW || config.audit)
		return PG_PASS;
	return pg_stranger_refuse(skb, sk, cookie);
}

#endif
