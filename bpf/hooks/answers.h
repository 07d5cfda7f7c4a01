/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The server's side of a client's connection, on its way in (egress policies). The server is a stranger here: its
 * segments come in any order, overlap, and are made up, so all of docs/tcp.md holds for them, with c->sent as J. What
 * is denied is never passed, nor anything behind it, and the agent resets the client's socket.
 *
 * Where no rule reads responses they are followed only: for the streams that are over, and for what the server allows
 * the client's HPACK table. Then everything passes, and where bytes have come to TCP that were not followed, nothing of
 * this side is looked at again.
 */
#ifndef PG_HOOKS_ANSWERS_H
#define PG_HOOKS_ANSWERS_H

#include "hooks/silence.h"
#include "hooks/request.h"
#include "hooks/response.h"

/* A turn of the run over the next bytes of the server, and over what waited for them. */
static long pg_answer_cb(u32 index, void *data)
{
	struct pg_held_segment s = {};
	struct pg_run *r = data;
	struct pg_work *w = r->w;

	(void)index;
	if (!w || !r->c)
		return 1;
	if (w->pos >= w->end) {
		if (w->source != PG_SRC_PACKET)
			pg_slot_free(w->source, w->slot);
		w->source = PG_SRC_PACKET;
		if (!r->held || !pg_held_take(r->held, w->judged, &s)) {
			w->done = 1;
			return 1;
		}
		pg_chunk(w, s.source, s.slot, 0, s.length);
		w->pos = w->judged - s.seq;
		w->judged = s.seq + s.length;
		return 0;
	}
	if (!pg_response_skips(r->c) && !pg_ready(w) && !pg_load(r->skb, w))
		return 1;
	w->outcome = pg_response_step(r->c, w);
	return w->outcome != PG_GO;
}

/* Judges [c->sent, b) of the segment, and the held ones behind it. Under the response lock. */
static __always_inline int pg_answer_payload(struct __sk_buff *skb, struct pg_conn *c, struct pg_work *w,
					     const struct pg_segment *g)
{
	struct pg_run r = {.skb = skb, .c = c, .w = w};

	c->stuck = 0;
	r.held = pg_held_of(c);
	w->judged = g->seq + g->length;
	pg_chunk(w, PG_SRC_PACKET, 0, g->offset, g->length);
	w->pos = c->sent - g->seq;
	bpf_loop(PG_TURNS, pg_answer_cb, &r, 0);
	if (w->source != PG_SRC_PACKET)
		pg_slot_free(w->source, w->slot);
	if (w->outcome != PG_GO)
		return w->outcome;
	if (!w->done)
		return config.responses ? pg_fail_connection(c, w, PG_R_BUDGET) : PG_BLIND;
	c->sent = w->judged;
	return PG_GO;
}

/* The connection cannot be followed for a reason of TCP's. */
static __always_inline int pg_answer_cut(struct pg_conn *c, struct pg_work *w, u32 reason)
{
	pg_about(w, 0, 0);
	w->reason = reason;
	if (!config.audit)
		return PG_CUT;
	pg_emit(c, w, PG_EV_CONNECTION, PG_V_AUDIT_DENY);
	return PG_BLIND;
}

/* A segment of the server, with payload, FIN or URG. Under the response lock. */
static __always_inline int pg_answer_segment(struct __sk_buff *skb, struct tcp_sock *tp, struct pg_conn *c,
					     struct pg_work *w, const struct pg_segment *g)
{
	int verdict, outcome = PG_GO;
	u32 reason = PG_R_NONE;
	struct pg_numbers n;

	if (c->answers == PG_A_MUTED) {
		pg_count(PG_N_DEAD);
		return g->length || g->flags & PG_TCP_URG ? PG_DROP : PG_PASS;
	}
	if (c->answers == PG_A_UNREAD || c->phase == PG_P_BLIND || pg_is_handshake(c))
		return PG_PASS;
	n.judged = c->sent;
	n.received = tp->rcv_nxt;
	n.window_end = tp->rcv_wup + tp->rcv_wnd;
	n.mptcp = tp->is_mptcp;
	n.withheld = 0;
	w->half = config.responses ? PG_RESPONSE_HALF : 0;
	verdict = pg_place(skb, c, g, &n, &reason);
	if (verdict == PG_LOOK)
		outcome = pg_answer_payload(skb, c, w, g);
	else if (reason)
		outcome = config.responses ? pg_answer_cut(c, w, reason) : PG_BLIND;
	if (outcome != PG_GO) {
		pg_held_drop(c->cookie); /* nothing of this side is looked at again */
		return pg_silence(skb, c, w, g, config.responses ? outcome : PG_BLIND);
	}
	if (verdict == PG_LOOK || !config.responses)
		verdict = PG_PASS;
	if (verdict == PG_PASS)
		pg_place_fin(c, g);
	return verdict;
}

/* No connection: may the segment pass? */
static __always_inline int pg_answer_stranger(struct __sk_buff *skb, struct bpf_sock *sk, u64 cookie,
					      const struct pg_segment *g)
{
	struct bpf_tcp_sock *numbers;

	if (!config.responses)
		return PG_PASS;
	/* not made yet, or taken apart while the packet came: TCP takes no data now */
	if (sk->state == PG_TCP_SYN_RECV || sk->state == PG_TCP_CLOSE)
		return PG_DROP;
	/* What answers a SYN has no data for TCP, but an urgent pointer. What is no SYN may wait behind one. */
	if (sk->state == PG_TCP_SYN_SENT)
		return g->flags & PG_TCP_SYN && !(g->flags & PG_TCP_URG) ? PG_PASS : PG_DROP;
	numbers = bpf_tcp_sock(sk);
	/* The handshake may just be over, on another CPU that is about to make the connection: what has received
	 * nothing yet is not taken for one that is older than the enforcer. */
	if (g->length && !config.audit && (!numbers || !numbers->bytes_received))
		return pg_stranger_refuse(skb, sk, cookie);
	return pg_stranger(skb, sk, cookie, g->length);
}

/* A packet of the server for a client's socket, with payload, FIN or URG. */
static __always_inline int pg_answer(struct __sk_buff *skb, struct bpf_sock *sk, struct tcp_sock *tp, struct pg_work *w,
				     const struct pg_segment *g)
{
	u64 cookie = pg_packet_cookie(skb, tp);
	struct pg_conn *c;
	int verdict;

	if (g->flags & PG_TCP_RST && !(g->flags & PG_TCP_URG))
		return PG_PASS; /* TCP reads no data from a reset (RFC 9293, section 3.10.7.4) */
	c = bpf_map_lookup_elem(&conns, &cookie);
	if (!c)
		return pg_answer_stranger(skb, sk, cookie, g);
	if (g->flags & PG_TCP_SYN)
		return config.responses ? pg_drop(PG_R_SYN_DATA) : PG_PASS;
	if (!pg_lock(&c->response_lock))
		return config.responses ? pg_drop(PG_R_LOCK) : PG_PASS;
	verdict = c->cookie == cookie ? pg_answer_segment(skb, tp, c, w, g) : !config.responses;
	pg_unlock(&c->response_lock);
	return verdict;
}

#endif
