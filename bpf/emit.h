/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Verdicts to events. */
#ifndef PG_EMIT_H
#define PG_EMIT_H

#include "seats.h"

PG_CONST u8 pg_reason_cause[64] = {
#define PG_REASON_CAUSE(name, cause, text, help) [PG_R_##name] = PG_CAUSE_##cause,
	PG_REASONS(PG_REASON_CAUSE)};

/* Does a switch of the policy let this pass? */
static inline int pg_switched_off(u32 reason)
{
	u32 cause;

	if (reason >= PG_R_COUNT)
		return 0;
	cause = pg_reason_cause[pg_index(reason, 64)];
	return cause != PG_CAUSE_ALWAYS && config.cause[pg_index(cause, 16)] == PG_SWITCH_ALLOW;
}

/* An event about what stands in `w`. */
static __always_inline void pg_event_fill(struct pg_event *e, const struct pg_conn *c, const struct pg_work *w,
					  u32 type, u32 verdict)
{
	struct pg_stream *s;

	e->time_ns = pg_now();
	e->cookie = c->cookie;
	e->cgroup = c->cgroup;
	e->conn = c->id;
	e->type = type;
	e->verdict = verdict;
	e->reason = w->reason;
	e->rule = w->rule;
	e->status = w->status;
	e->method = w->method;
	e->text = w->text;
	e->stream = w->stream;
	e->message = w->message;
	e->delivered = c->delivered;
	e->highest = c->highest;
	e->response = 0;
	if (w->stream) {
		s = pg_stream_of(c, w->stream | w->half);
		e->response = s ? s->response : PG_RSP_END;
	}
	if (w->half)
		e->response |= PG_RSP_JUDGED;
	e->role = c->role;
	e->family = c->family;
	e->local_port = c->local_port;
	e->remote_port = c->remote_port;
	__builtin_memcpy(e->local, c->local, sizeof(e->local));
	__builtin_memcpy(e->remote, c->remote, sizeof(e->remote));
	e->mends = w->mends;
	e->retry_ms = w->retry_ms;
}

/* Tells it. Data on the handshake's last ACK belongs to no connection yet: its events wait until it is judged for
 * one. */
PG_STEP int pg_emit(struct pg_conn *c, struct pg_work *w, u32 type, u32 verdict)
{
	struct pg_event *e;

	if (!c || !w || !c->cookie)
		return 0;
	e = pg_event_scratch(w);
	if (!e)
		return 0;
	pg_event_fill(e, c, w, type, verdict);
	pg_event_put(e);
	if (verdict == PG_V_AUDIT_DENY)
		pg_count_add(PG_N_AUDIT_DENIED, 1);
	return 0;
}

#endif
