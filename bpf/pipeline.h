/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The corridor: the only place that knows the order of the layers.
 *
 *   http2 frame ─► header block ─► hpack fields ─► grpc block ─► header verdict
 *              └─► DATA ─► grpc messages ─► protobuf fields ─► message verdict
 *
 * The invariant: the last byte of a header block, and of a message, is passed only after its verdict. A run in which
 * anything but PG_GO came up is not passed at all. After PG_DENIED the state is whole, and reading may go on: what
 * follows is never passed, but every RPC in it gets its own answer.
 */
#ifndef PG_PIPELINE_H
#define PG_PIPELINE_H

#include "proto/http2.h"
#include "proto/tls.h"
#include "proto/hpack.h"
#include "proto/grpc.h"
#include "proto/protobuf.h"
#include "kept.h"
#include "streams.h"
#include "verdict.h"

#define PG_HPACK_BYTES_A_CALL 8
#define PG_DATA_STEPS_A_CALL 8

/* ---- messages ---- */

static inline u32 pg_message_unread(struct pg_stream *s)
{
	pg_pb_start(s);
	s->request |= PG_REQ_SKIP;
	s->pb = PG_PB_SKIP;
	s->left = s->length - s->offset;
	return PG_GO;
}

/* The message cannot be decided: denied, or passed over if a switch says so. */
PG_STEP int pg_message_fail(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, u32 stream, u32 reason)
{
	if (!c || !w || !s)
		return PG_CUT;
	pg_about(w, s, stream);
	if (pg_fail_rpc(c, w, s, reason) != PG_GO)
		return PG_DENIED;
	return pg_message_unread(s);
}

PG_STEP int pg_message_start(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, u32 stream, u32 compressed)
{
	const struct pg_method *m;
	u32 i;

	if (!c || !w || !s)
		return PG_CUT;
	m = pg_get_method(s->method);
	if (!m)
		return PG_CUT;
	s->request &= ~PG_REQ_SKIP;
	pg_pb_start(s);
	for (i = PG_MESSAGE_WORD; i < PG_WORDS; i++)
		s->bits.word[i] = 0;
	pg_row(&s->bits, m->init);
	pg_count_add(PG_N_MESSAGES, 1);
	if (pg_pb_strict())
		pg_pb_forget(s, m->plan);
	return compressed ? pg_message_fail(c, w, s, stream, PG_R_COMPRESSED) : PG_GO;
}

PG_STEP int pg_message_end(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, u32 stream)
{
	const struct pg_method *m;
	u32 reason;
	int judgement;

	if (!c || !w || !s)
		return PG_CUT;
	m = pg_get_method(s->method);
	if (!m)
		return PG_CUT;
	s->grpc = PG_G_PREFIX;
	s->have = 0;
	s->value = 0;
	if (s->request & PG_REQ_SKIP)
		return PG_GO;
	pg_about(w, s, stream);
	judgement = pg_judge(c, w, s, m->message_test, m->message_tests);
	if (judgement == PG_J_UNDECIDED) {
		reason = PG_R_BUDGET;
		return pg_fail_rpc(c, w, s, reason);
	}
	if (judgement == PG_J_DENY)
		return pg_deny_rpc(c, w, s);
	if (judgement == PG_J_NONE && !(s->request & PG_REQ_ALLOWED) && config.default_action == PG_DENY)
		return pg_deny_rpc(c, w, s);
	if (config.events_allowed)
		pg_emit(c, w, PG_EV_DECISION, PG_V_ALLOW);
	return PG_GO;
}

/* Some of a DATA frame's bytes for a stream, or its response's half, whose messages are read; `h` is the direction. */
PG_STEP int pg_data(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, struct pg_h2 *h)
{
	const struct pg_method *m;
	u32 i, n, at, reason, compressed;
	int outcome;

	if (!c || !w || !s || !h)
		return PG_CUT;
	m = pg_get_method(s->method);
	if (!m)
		return PG_CUT;
	for (i = 0; i < PG_DATA_STEPS_A_CALL; i++) {
		n = w->end - w->pos;
		if (n > h->left)
			n = h->left;
		if (!n)
			break;
		at = w->pos;
		reason = PG_R_NONE;
		outcome = PG_GO;
		if (s->grpc == PG_G_PREFIX) {
			if (!pg_ready(w))
				break;
			compressed = 0;
			if (!pg_grpc_prefix_whole(s, w, n, &compressed)) {
				reason = pg_grpc_prefix(s, pg_peek(w), &compressed);
				w->pos++;
			}
			if (reason) {
				h->left--;
				/* no message boundary is left to go on from */
				pg_about(w, s, h->stream);
				outcome = pg_fail_rpc(c, w, s, reason);
				if (outcome == PG_GO)
					s->request |= PG_REQ_UNREAD;
				return outcome;
			}
			if (s->grpc == PG_G_MESSAGE)
				outcome = pg_message_start(c, w, s, h->stream, compressed);
		} else {
			if (s->pb != PG_PB_SKIP && !pg_ready(w))
				break;
			reason = pg_pb_step(s, w, m->plan, n);
			if (!reason && pg_pb_closes(s))
				reason = pg_pb_close(s);
		}
		h->left -= w->pos - at;
		if (!reason && s->grpc == PG_G_MESSAGE && s->offset == s->length && !(s->request & PG_REQ_SKIP))
			reason = pg_pb_finish(s);
		if (reason)
			outcome = pg_message_fail(c, w, s, h->stream, reason);
		if (outcome == PG_GO && s->grpc == PG_G_MESSAGE && s->offset == s->length)
			outcome = pg_message_end(c, w, s, h->stream);
		if (outcome != PG_GO)
			return outcome;
		if (s->request & PG_REQ_UNREAD)
			break;
	}
	return PG_GO;
}

/* ---- requests ---- */

/* The client has ended its side of the stream. */
PG_STEP int pg_request_end(struct pg_conn *c, struct pg_work *w, u32 stream)
{
	struct pg_stream *s;

	if (!c || !w)
		return PG_CUT;
	s = pg_stream_of(c, stream);
	if (!s)
		return PG_GO;
	if (!(s->request & PG_REQ_UNREAD)) {
		pg_about(w, s, stream);
		if (!pg_grpc_between_messages(s) && pg_fail_rpc(c, w, s, PG_R_GRPC_TRUNCATED) != PG_GO)
			return PG_DENIED;
		/* admitted for the messages' sake, and there is none */
		if (!(s->request & PG_REQ_ALLOWED) && !s->message && config.default_action == PG_DENY &&
		    pg_deny_rpc(c, w, s) != PG_GO)
			return PG_DENIED;
	}
	s->request |= PG_REQ_END;
	if (c->phase == PG_P_DEAD) {
		if (!(s->request & PG_REQ_DENIED)) {
			pg_about(w, s, stream);
			pg_emit(c, w, PG_EV_UNDELIVERED, PG_V_DENY);
		}
		return PG_GO;
	}
	/* nobody will say that the server has ended it, if it is not read */
	if (s->response & PG_RSP_END || c->answers == PG_A_UNREAD) {
		pg_stream_close(c, stream);
		return PG_GO;
	}
	c->pending++;
	w->ended++;
	s->ended = c->run;
	return PG_GO;
}

/*
 * The rules that need no message. A method that no proto describes is undecidable where a rule on its messages could
 * turn the verdict: the switch decides that. With the switch on `allow` and nothing that could allow the call, what the
 * rule would say does not matter: the default denies it.
 */
static inline int pg_request_judge(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, const struct pg_method *m)
{
	int judgement = pg_judge(c, w, s, m->header_test, m->header_tests), allowed, unknown;

	if (judgement == PG_J_UNDECIDED)
		return pg_fail_rpc(c, w, s, PG_R_BUDGET);
	if (judgement == PG_J_DENY)
		return pg_deny_rpc(c, w, s);
	allowed = judgement == PG_J_ALLOW || config.default_action == PG_ALLOW;
	unknown =
		m->flags & PG_METHOD_UNKNOWN && (allowed || m->allow_messages || !pg_switched_off(PG_R_UNKNOWN_METHOD));
	if (unknown) {
		if (pg_fail_rpc(c, w, s, PG_R_UNKNOWN_METHOD) != PG_GO)
			return PG_DENIED;
		s->request |= PG_REQ_UNREAD | PG_REQ_ALLOWED;
	} else {
		if (!(m->flags & PG_METHOD_MESSAGES) || !m->message_tests)
			s->request |= PG_REQ_UNREAD;
		if (allowed)
			s->request |= PG_REQ_ALLOWED;
		else if (s->request & PG_REQ_UNREAD || !m->allow_messages)
			return pg_deny_rpc(c, w, s);
	}
	judgement = m->limit_tests ? pg_limits(c, w, s) : PG_J_NONE;
	if (judgement != PG_J_NONE)
		return pg_limit_deny(c, w, s, judgement);
	if (s->request & PG_REQ_ALLOWED)
		pg_count_add(PG_N_ALLOWED, 1);
	if (config.events_allowed && s->request & PG_REQ_UNREAD && !unknown)
		pg_emit(c, w, PG_EV_DECISION, PG_V_ALLOW);
	return PG_GO;
}

/* The header block of a new RPC is whole. */
PG_STEP int pg_request_start(struct pg_conn *c, struct pg_work *w)
{
	const struct pg_method *m;
	struct pg_stream *s;
	u32 reason, stream;

	if (!c || !w)
		return PG_CUT;
	stream = c->request.stream;
	s = pg_stream_open(c, stream);
	if (!s)
		return pg_fail_connection(c, w, PG_R_STREAMS);
	pg_count_add(PG_N_RPCS, 1);
	c->complete = stream;
	s->bits = c->block.bits;
	s->method = c->block.method;
	s->text = c->block.text;
	if (c->request.type == PG_F_HEADERS && !c->hpack.changes && w->frame_at != PG_NO_FRAME) {
		s->head_chunk = c->chunk;
		s->head_at = w->frame_at;
	}
	reason = pg_block_check(&c->block);
	if (reason) {
		if (!(c->block.seen & PG_B_PATH)) {
			s->method = PG_NO_METHOD;
			s->text = 0;
		}
		pg_about(w, s, stream);
		if (pg_fail_rpc(c, w, s, reason) != PG_GO)
			return PG_DENIED;
		s->request |= PG_REQ_UNREAD | PG_REQ_ALLOWED;
		return PG_GO;
	}
	pg_about(w, s, stream);
	m = pg_get_method(s->method);
	if (!m || (c->block.changed && !(m->flags & PG_METHOD_REFUSED)))
		return pg_fail_connection(c, w, PG_R_INTERNAL);
	return pg_request_judge(c, w, s, m);
}

/*
 * The RPC may pass, and the server answer it: what it says is judged by the row of its method, if that has one. DATA on
 * a stream without a half is undecidable, so every RPC gets one; what is read in the shadow never comes to the server.
 * A hostile server does not wait for the request: its DATA may be read while the half is made, on another CPU or in an
 * interrupt of this one. So what makes it one is written last, and at once.
 */
PG_STEP int pg_response_start(struct pg_conn *c, struct pg_work *w)
{
	u32 request = PG_REQ_ALLOWED | PG_REQ_UNREAD;
	struct pg_stream *s, *half;
	const struct pg_method *m;

	if (!c || !w)
		return PG_CUT;
	if (c->phase == PG_P_DEAD || c->answers == PG_A_UNREAD)
		return PG_GO;
	s = pg_stream_of(c, c->request.stream);
	half = s ? pg_stream_open(c, c->request.stream | PG_RESPONSE_HALF) : 0;
	if (!half)
		return pg_fail_connection(c, w, PG_R_STREAMS);
	half->bits = c->block.bits;
	half->text = s->text;
	half->method = s->method;
	m = pg_get_method(s->method);
	if (m && m->response && !pg_block_check(&c->block) && !(s->request & PG_REQ_DENIED)) {
		half->method = m->response;
		request = PG_REQ_ALLOWED;
	}
	asm volatile("" ::: "memory");
	*(volatile u32 *)&half->request = request;
	return PG_GO;
}

static inline int pg_block_end(struct pg_conn *c, struct pg_work *w)
{
	struct pg_h2 *h = &c->request;
	struct pg_stream *s;
	int outcome;

	h->block = 0;
	if (c->hpack.state != PG_HP_FIELD)
		return pg_fail_connection(c, w, PG_R_HPACK_TRUNCATED);
	pg_kept_end(c, w);
	if (!c->block.trailers) {
		outcome = pg_request_start(c, w);
		if (outcome == PG_GO && config.responses)
			outcome = pg_response_start(c, w);
		if (outcome != PG_GO)
			return outcome;
	} else if (c->block.reason) {
		s = pg_stream_of(c, h->stream);
		pg_about(w, s, h->stream);
		if (s && pg_fail_rpc(c, w, s, c->block.reason) != PG_GO)
			return PG_DENIED;
	}
	return h->block_flags & PG_FLAG_END_STREAM ? pg_request_end(c, w, h->stream) : PG_GO;
}

static inline int pg_is_path(const struct pg_entry *e)
{
	return e->name == PG_NAME_PATH || e->name == PG_NAME_PATH_CHANGED;
}

/* Where mending could change the path, if the byte before was the one that says so. */
PG_STEP int pg_path_place(const struct pg_conn *c, struct pg_work *w, u32 was)
{
	const struct pg_hpack *p;

	if (!c || !w)
		return 0;
	p = &c->hpack;
	if (p->state == PG_HP_VALUE && was != PG_HP_VALUE) {
		w->path_at = p->left >= 2 && c->request.left >= 2 && w->end - w->pos >= 2 ? w->pos : PG_NO_FRAME;
		w->path_form = p->huffman ? PG_PATH_CODED : PG_PATH_PLAIN;
	} else if (p->whole && was == PG_HP_FIELD && p->form == PG_HF_INDEXED) {
		w->path_at = w->pos - 1;
		w->path_form = PG_PATH_INDEX;
	}
	return 0;
}

/* Some bytes of a header block. */
PG_STEP int pg_fragment(struct pg_conn *c, struct pg_work *w)
{
	struct pg_h2 *h;
	u32 i, reason, was;

	if (!c || !w)
		return PG_CUT;
	h = &c->request;
	for (i = 0; i < PG_HPACK_BYTES_A_CALL; i++) {
		if (!h->left || !pg_ready(w))
			break;
		was = c->hpack.state;
		reason = pg_hpack_byte(c, pg_peek(w));
		w->pos++;
		h->left--;
		if (pg_is_path(&c->hpack.entry))
			pg_path_place(c, w, was);
		if (reason)
			return pg_fail_connection(c, w, reason);
		if (c->hpack.whole && c->block.trailers)
			pg_block_trailer(&c->block, &c->hpack.entry);
		else if (c->hpack.whole)
			pg_block_field(&c->block, &c->hpack);
	}
	return PG_GO;
}

/* ---- TLS ---- */

/*
 * Some bytes of a TLS handshake. Before application data passes, the process that has the connection must have read the
 * handshake through hooks: then these judge the plaintext, and the bytes on the wire pass.
 */
PG_STEP int pg_tls_handshake(struct pg_conn *c, struct pg_work *w)
{
	u32 reason, data = 0, most = ~0u;

	if (!c || !w || !config.tls)
		return PG_CUT;
	if (c->hello < PG_HELLO_BYTES && pg_ready(w)) {
		c->path[pg_index(c->hello, PG_MAX_PATH_BYTES)] = pg_peek(w);
		c->hello++;
		most = 1;
	}
	reason = pg_tls_record(&c->request, w, most, &data);
	if (data && c->tls != PG_TLS_NONE)
		return PG_BLIND;
	if (most == 1 && c->hello == PG_HELLO_BYTES && c->path[0] == PG_TLS_HANDSHAKE &&
	    c->path[PG_TLS_HEAD_BYTES] == PG_TLS_CLIENT_HELLO && !pg_hello_put(c))
		reason = PG_R_TLS;
	return reason || data ? pg_fail_connection(c, w, PG_R_TLS) : PG_GO;
}

/* What the server says now is of a handshake. Hooks judge the plaintext, and before they do there is no call that it
 * could answer. */
static inline int pg_is_handshake(const struct pg_conn *c)
{
	return config.tls && c->request.state == PG_H2_TLS;
}

/* ---- frames ---- */

/* A frame head is whole: does its stream allow it? */
PG_STEP int pg_request_frame(struct pg_conn *c, struct pg_work *w)
{
	struct pg_stream *s;
	struct pg_h2 *h;

	if (!c || !w)
		return PG_CUT;
	h = &c->request;
	if (h->type == PG_F_WINDOW_UPDATE)
		return h->stream && pg_stripped(c, h) ? PG_STRIP : PG_GO;
	if (h->type != PG_F_HEADERS && h->type != PG_F_DATA && h->type != PG_F_RST_STREAM)
		return PG_GO;
	if (!(h->stream & 1))
		return pg_fail_connection(c, w, PG_R_STREAM_ID);
	if (h->type == PG_F_HEADERS && h->stream > c->highest) {
		c->highest = h->stream;
		if (pg_kept_again(c, w))
			return PG_GO;
		pg_kept_start(c, w);
		pg_hpack_block_start(&c->hpack);
		pg_block_start(&c->block, &c->peer, 0);
		w->path_at = PG_NO_FRAME;
		return PG_GO;
	}
	if (h->stream > c->highest)
		return pg_fail_connection(c, w, PG_R_STREAM_ID);
	s = pg_stream_of(c, h->stream);
	if (h->type == PG_F_RST_STREAM) {
		if (s)
			pg_stream_leave(c, h->stream);
		else if (pg_stripped(c, h))
			return PG_STRIP;
		return PG_GO;
	}
	/* What comes after END_STREAM is an error (RFC 9113, section 5.1). */
	if (s && s->request & PG_REQ_END)
		return pg_fail_connection(c, w, PG_R_STREAM_ID);
	/* DATA may be under way when the server resets the stream: it is nobody's, and passed over. */
	if (h->type == PG_F_DATA)
		return !s && pg_stripped(c, h) ? PG_STRIP : PG_GO;
	if (!s)
		return pg_fail_connection(c, w, PG_R_STREAM_ID);
	if (!(h->flags & PG_FLAG_END_STREAM))
		return pg_fail_connection(c, w, PG_R_FRAME_ORDER);
	c->kept.length = 0;
	c->kept.reading = 0;
	pg_hpack_block_start(&c->hpack);
	pg_block_start(&c->block, &c->peer, 1);
	return PG_GO;
}

/* A frame head that most are like: of DATA for a stream that is there, and that the client has not ended. It has a
 * seat, so its id is right. */
static inline int pg_is_plain_data(const struct pg_conn *c)
{
	const struct pg_stream *s;

	if (c->request.type != PG_F_DATA)
		return 0;
	s = pg_seated(c, c->request.stream);
	return s && !(s->request & PG_REQ_END);
}

static inline int pg_in_skipped(const struct pg_stream *s)
{
	return s->grpc == PG_G_MESSAGE && s->pb == PG_PB_SKIP;
}

static inline int pg_data_frame(struct pg_conn *c, struct pg_work *w)
{
	struct pg_stream *s = pg_stream_of(c, c->request.stream);
	struct pg_h2 *h = &c->request;
	int outcome = PG_GO;

	c->passing = 0;
	if (!s || s->request & PG_REQ_UNREAD) {
		pg_h2_skip(h, w);
		c->passing = h->left;
		return PG_GO;
	}
	if (pg_in_skipped(s) && s->left > h->left)
		h->left -= pg_pb_skip(s, w, h->left); /* nothing ends in this frame */
	else
		outcome = pg_data(c, w, s, h);
	if (pg_in_skipped(s))
		c->passing = s->left < h->left ? s->left : h->left;
	return outcome;
}

static inline int pg_h2_body_state(u32 state)
{
	return state == PG_H2_DATA || state == PG_H2_FRAGMENT || state == PG_H2_SKIP || state == PG_H2_SETTING;
}

/* The payload may be over, and with it the header block, the padding and the frame. */
static inline int pg_request_advance(struct pg_conn *c, struct pg_work *w)
{
	struct pg_h2 *h = &c->request;
	int outcome, block;

	if (pg_h2_body_state(h->state) && !h->left) {
		block = h->state == PG_H2_FRAGMENT;
		h->state = PG_H2_PAD;
		if (block) {
			h->block = 1;
			if (h->flags & PG_FLAG_END_HEADERS) {
				outcome = pg_block_end(c, w);
				if (outcome != PG_GO)
					return outcome;
			}
		}
	}
	if (h->state == PG_H2_PAD && !h->pad) {
		h->state = PG_H2_HEAD;
		h->have = 0;
		if (h->type == PG_F_DATA && h->flags & PG_FLAG_END_STREAM)
			return pg_request_end(c, w, h->stream);
	}
	return PG_GO;
}

/* One step of whatever is not a frame's head. */
static inline int pg_request_body(struct pg_conn *c, struct pg_work *w, u32 *reason)
{
	struct pg_h2 *h = &c->request;

	switch (h->state) {
	case PG_H2_PREFACE:
		*reason = pg_h2_preface(h, w);
		if (*reason == PG_R_TLS && config.tls) {
			*reason = PG_R_NONE;
			h->state = PG_H2_TLS;
		}
		break;
	case PG_H2_TLS:
		return pg_tls_handshake(c, w);
	case PG_H2_HEAD:
		break; /* some of one */
	case PG_H2_PAD_LENGTH:
		*reason = pg_h2_pad_length(h, w);
		break;
	case PG_H2_PRIORITY:
		pg_h2_priority(h, w);
		break;
	case PG_H2_FRAGMENT:
		return pg_fragment(c, w);
	case PG_H2_DATA:
		return pg_data_frame(c, w);
	case PG_H2_SETTING:
	case PG_H2_SKIP:
		pg_h2_skip(h, w);
		break;
	case PG_H2_PAD:
		pg_h2_padding(h, w);
		break;
	default:
		*reason = PG_R_INTERNAL;
	}
	return PG_GO;
}

/* One step of the client's side. The window has a byte at `pos`. */
PG_STEP int pg_request_step(struct pg_conn *c, struct pg_work *w)
{
	u32 reason = PG_R_NONE, whole = 0;
	int outcome = PG_GO;
	struct pg_h2 *h;

	if (!c || !w)
		return PG_CUT;
	h = &c->request;
	if (h->state == PG_H2_HEAD) {
		reason = pg_h2_head(h, w, 1, &whole);
		if (!reason && whole && !pg_is_plain_data(c))
			outcome = pg_request_frame(c, w);
	}
	/* behind a frame's head goes on at once what needs no byte to be there */
	if (!reason && outcome == PG_GO && (!whole || pg_h2_body_state(h->state)))
		outcome = pg_request_body(c, w, &reason);
	if (reason)
		return pg_fail_connection(c, w, reason);
	if (outcome != PG_GO)
		return outcome;
	return pg_request_advance(c, w);
}

/* ---- the server's side: its frames are followed, and its messages are judged where rules read them ---- */

/* The server has ended or reset a stream. Under both locks. */
PG_STEP int pg_response_over(struct pg_conn *c, u32 end)
{
	u32 stream = end & ~PG_LATE_RESET;
	struct pg_stream *s;

	if (!c)
		return 0;
	s = pg_stream_of(c, stream);
	if (s) {
		pg_stream_answered(c, s);
		s->response |= PG_RSP_END;
		if (s->request & PG_REQ_END || end & PG_LATE_RESET)
			pg_stream_close(c, stream);
	}
	if (config.responses)
		pg_half_close(c, stream | PG_RESPONSE_HALF);
	return 0;
}

/* A frame of the server is whole. The request side may be at work, or interrupted on this CPU by what this is about:
 * then it hears of the stream's end with the next one. */
static inline void pg_response_frame_end(struct pg_conn *c)
{
	struct pg_h2 *h = &c->response;
	u32 end = h->stream, i;

	if (h->type != PG_F_RST_STREAM &&
	    !((h->type == PG_F_DATA || h->type == PG_F_HEADERS) && h->flags & PG_FLAG_END_STREAM))
		return;
	if (h->type == PG_F_RST_STREAM)
		end |= PG_LATE_RESET;
	if (!pg_lock(&c->lock)) {
		if (c->late < PG_MAX_LATE_ENDS) {
			c->late_end[pg_index(c->late, PG_MAX_LATE_ENDS)] = end;
			c->late++;
		} else {
			pg_count(PG_N_HELPER_FAILED);
		}
		return;
	}
	pg_response_over(c, end);
	for (i = 0; i < PG_MAX_LATE_ENDS; i++) {
		if (!c->late)
			break;
		c->late--;
		pg_response_over(c, c->late_end[pg_index(c->late, PG_MAX_LATE_ENDS)]);
	}
	pg_unlock(&c->lock);
}

/* The server's bytes are no HTTP/2. Where rules read responses, nothing can be said of what follows. */
static inline int pg_response_fail(struct pg_conn *c, struct pg_work *w, u32 reason)
{
	if (config.responses)
		return pg_fail_connection(c, w, reason);
	w->reason = reason;
	return PG_CUT;
}

/* In audit mode: would the call have been denied for its request? Then it makes no more events. */
static inline int pg_would_be_over(const struct pg_conn *c, u32 stream)
{
	const struct pg_stream *s = pg_stream_of(c, stream);

	return s && s->request & PG_REQ_DENIED;
}

/* A frame head of the server is whole. DATA whose messages are judged keeps the state that reads it. */
PG_STEP int pg_response_frame(struct pg_conn *c, struct pg_work *w)
{
	struct pg_stream *s;
	struct pg_h2 *h;

	if (!c || !w)
		return PG_CUT;
	h = &c->response;
	h->have = 0;
	if (h->type == PG_F_HEADERS || h->type == PG_F_CONTINUATION || h->type == PG_F_PUSH_PROMISE)
		h->block = !(h->flags & PG_FLAG_END_HEADERS);
	if (h->type == PG_F_HEADERS) {
		s = pg_stream_of(c, h->stream);
		if (s)
			s->response |= PG_RSP_HEADERS;
	}
	if (config.responses) {
		if (h->type == PG_F_PUSH_PROMISE)
			return pg_fail_connection(c, w, PG_R_FRAME_ORDER);
		s = h->type == PG_F_HEADERS || h->type == PG_F_DATA ? pg_half_get(c, h->stream) : 0;
		if (s && h->type == PG_F_HEADERS)
			s->response |= PG_RSP_HEADERS;
		if (h->type == PG_F_DATA && h->left) {
			if (!s)
				return pg_fail_connection(c, w, PG_R_RESPONSE_STREAM);
			if (!(s->request & PG_REQ_UNREAD) && !(config.audit && pg_would_be_over(c, h->stream)))
				return PG_GO;
		}
	}
	h->state = h->type == PG_F_SETTINGS ? PG_H2_SETTING : PG_H2_SKIP;
	return PG_GO;
}

static inline int pg_response_data(struct pg_conn *c, struct pg_work *w)
{
	struct pg_stream *s = pg_half_get(c, c->response.stream);

	if (!s)
		return pg_fail_connection(c, w, PG_R_RESPONSE_STREAM);
	if (!(s->request & PG_REQ_UNREAD))
		return pg_data(c, w, s, &c->response);
	pg_h2_skip(&c->response, w);
	return PG_GO;
}

/* Is there nothing to look at for a while? */
static inline int pg_response_skips(const struct pg_conn *c)
{
	return c->response.state == PG_H2_SKIP || (config.responses && c->response.state == PG_H2_PAD);
}

/* One step of the server's side. Where no rule reads responses, PG_CUT says that it is not HTTP/2. */
PG_STEP int pg_response_step(struct pg_conn *c, struct pg_work *w)
{
	int outcome = PG_GO;
	struct pg_h2 *h;
	u32 reason = PG_R_NONE, whole = 0;

	if (!c || !w)
		return PG_CUT;
	h = &c->response;
	if (h->state == PG_H2_HEAD) {
		reason = pg_h2_head(h, w, 0, &whole);
		if (!reason && whole)
			outcome = pg_response_frame(c, w);
		if (!reason && whole && outcome == PG_GO && h->state == PG_H2_SKIP)
			pg_h2_skip(h, w);
	} else if (config.responses && h->state == PG_H2_DATA) {
		outcome = pg_response_data(c, w);
	} else if (config.responses && h->state == PG_H2_PAD_LENGTH) {
		reason = pg_h2_pad_length(h, w);
	} else if (config.responses && h->state == PG_H2_PAD) {
		pg_h2_padding(h, w);
	} else if (h->state == PG_H2_SETTING) {
		pg_h2_setting(h, w, &whole);
		if (whole && pg_h2_setting_id(h) == PG_SETTINGS_HEADER_TABLE_SIZE &&
		    pg_h2_setting_value(h) > c->table_limit)
			c->table_limit = pg_h2_setting_value(h);
	} else {
		pg_h2_skip(h, w);
	}
	if (reason)
		return pg_response_fail(c, w, reason);
	if (outcome != PG_GO || h->state == PG_H2_HEAD || h->left)
		return outcome;
	if (config.responses && h->state == PG_H2_DATA)
		h->state = PG_H2_PAD;
	if (!config.responses || h->state != PG_H2_PAD || !h->pad) {
		h->state = PG_H2_HEAD;
		h->have = 0;
		pg_response_frame_end(c);
	}
	return PG_GO;
}

/* ---- a new connection ---- */

PG_STEP int pg_connection_start(struct pg_conn *c)
{
	const struct pg_peer *t;
	u64 key;
	u32 i, k, same;

	if (!c)
		return 0;
	c->run = 1;
	c->request.state = PG_H2_PREFACE;
	c->response.state = PG_H2_HEAD;
	c->hpack.limit = PG_HPACK_DEFAULT_TABLE;
	c->table_limit = PG_HPACK_DEFAULT_TABLE;
	pg_row(&c->peer, config.peer_init);
	for (i = 0; i < PG_MAX_PEER_TESTS; i++) {
		if (i >= config.peer_tests)
			break;
		t = pg_get_peer(i);
		if (!t)
			break;
		same = 1;
		for (k = 0; k < 16; k++)
			if ((c->remote[k] & t->mask[k]) != t->address[k])
				same = 0;
		if (same)
			pg_row(&c->peer, t->row);
	}
	key = c->remote_port;
	if (config.port_bounds)
		pg_row(&c->peer, (u32)pg_bound_row(config.port_bound, config.port_bounds, key));
	return 0;
}

#endif
