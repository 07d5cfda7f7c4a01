/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of an RPC, a message or a connection: rules, defaults, switches and audit mode. */
#ifndef PG_VERDICT_H
#define PG_VERDICT_H

#include "policy/match.h"
#include "policy/limit.h"
#include "emit.h"

#define PG_STATUS_PERMISSION_DENIED 7
#define PG_AUDIT_HITS 256 /* audit rules that match one call; more are undecidable */

enum pg_judgement { PG_J_NONE, PG_J_DENY, PG_J_ALLOW, PG_J_UNDECIDED, PG_J_AUDITED };

static inline void pg_about(struct pg_work *w, const struct pg_stream *s, u32 stream)
{
	w->reason = PG_R_NONE;
	w->rule = PG_NO_RULE;
	w->status = PG_STATUS_PERMISSION_DENIED;
	w->stream = stream;
	w->method = s ? s->method : PG_NO_METHOD;
	w->text = s ? s->text : 0;
	w->message = s ? s->message : 0;
	w->retry_ms = 0;
}

/* The next rule among the tests from w->test on that holds. An audit rule makes an event and decides nothing: its
 * answer is PG_J_AUDITED, and w->test is behind it. */
PG_STEP int pg_judge_next(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, u32 end)
{
	const struct pg_test *t;
	const struct pg_rule *r;
	int hit;

	if (!c || !w || !s)
		return PG_J_UNDECIDED;
	hit = pg_match(&s->bits, w, w->test, end);
	if (hit == PG_MATCH_NONE)
		return PG_J_NONE;
	t = pg_get_test(hit);
	r = t ? pg_get_rule(t->rule) : 0;
	if (!r)
		return PG_J_UNDECIDED;
	w->rule = t->rule;
	w->status = r->status;
	if (!(r->flags & PG_RULE_AUDIT))
		return r->action == PG_ALLOW ? PG_J_ALLOW : PG_J_DENY;
	if (!config.audits)
		return PG_J_UNDECIDED; /* the numbers and the rules are not of one policy */
	if (r->action == PG_DENY)
		pg_emit(c, w, PG_EV_DECISION, PG_V_AUDIT_DENY);
	/* one event a rule, however many of its clauses hold; what comes after is not its doing */
	w->skip = t->rule;
	w->rule = PG_NO_RULE;
	w->status = PG_STATUS_PERMISSION_DENIED;
	w->test = hit + 1;
	return PG_J_AUDITED;
}

/* The first rule among the tests that holds and is not for audit alone. */
static inline int pg_judge(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, u32 first, u32 count)
{
	int i, judgement;

	w->skip = PG_NO_RULE;
	w->test = first;
	for (i = 0; i < PG_AUDIT_HITS; i++) {
		judgement = pg_judge_next(c, w, s, first + count);
		if (!config.audits || judgement != PG_J_AUDITED)
			return judgement;
	}
	return PG_J_UNDECIDED;
}

static __always_inline int pg_deny(struct pg_conn *c, struct pg_work *w, struct pg_stream *s)
{
	if (config.audit) {
		pg_emit(c, w, PG_EV_DECISION, PG_V_AUDIT_DENY);
		/* enforced, the call would be over: it makes no more events */
		s->request |= PG_REQ_ALLOWED | PG_REQ_UNREAD | PG_REQ_DENIED;
		return PG_GO;
	}
	s->request |= PG_REQ_DENIED | PG_REQ_UNREAD;
	return PG_DENIED;
}

/* A rule, or the default, denies the RPC. */
PG_STEP int pg_deny_rpc(struct pg_conn *c, struct pg_work *w, struct pg_stream *s)
{
	return c && w && s ? pg_deny(c, w, s) : PG_CUT;
}

/* What could not be decided about one RPC. PG_GO: a switch or audit mode lets it pass. */
PG_STEP int pg_fail_rpc(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, u32 reason)
{
	if (!c || !w || !s)
		return PG_CUT;
	w->reason = reason;
	w->rule = PG_NO_RULE;
	w->status = PG_STATUS_PERMISSION_DENIED;
	if (pg_switched_off(reason)) {
		pg_emit(c, w, PG_EV_DECISION, PG_V_ALLOW);
		w->reason = PG_R_NONE;
		return PG_GO;
	}
	return pg_deny(c, w, s);
}

/*
 * A token of every limit that applies, or, with `take` 0, whether each has one. Returns PG_J_DENY for the first that
 * has none. Limits that only audit take and say what they would deny.
 */
PG_STEP int pg_limits_pass(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, u32 take)
{
	const struct pg_method *m;
	const struct pg_test *t;
	const struct pg_rule *r;
	u32 first, end, audits;
	int hit, i;

	if (!c || !w || !s)
		return PG_J_UNDECIDED;
	m = pg_get_method(s->method);
	if (!m)
		return PG_J_UNDECIDED;
	first = m->limit_test;
	end = first + m->limit_tests;
	w->skip = PG_NO_RULE;
	for (i = 0; i <= PG_MAX_METHOD_LIMITS; i++) {
		hit = pg_match(&s->bits, w, first, end);
		if (hit == PG_MATCH_NONE)
			return PG_J_NONE;
		t = pg_get_test(hit);
		r = t ? pg_get_rule(t->rule) : 0;
		if (!r)
			return PG_J_UNDECIDED;
		first = hit + 1;
		w->skip = t->rule;
		audits = r->flags & PG_RULE_AUDIT;
		if ((!take && audits) || pg_limit_take(c, w, r->limit, take))
			continue;
		w->rule = t->rule;
		w->status = r->status;
		if (!audits)
			return PG_J_DENY;
		pg_emit(c, w, PG_EV_DECISION, PG_V_AUDIT_DENY);
		pg_about(w, s, w->stream);
	}
	return PG_J_UNDECIDED;
}

/*
 * The call may pass: it takes a token of every limit that applies. First all are looked at, so that a denied call takes
 * none. Between the two another CPU may take the last: then what was taken is gone, and never too many pass. What is
 * read in the shadow of a denial never reaches the server, and takes nothing.
 */
static inline int pg_limits(struct pg_conn *c, struct pg_work *w, struct pg_stream *s)
{
	int judgement;

	if (!config.limits) /* then the verifier need not look at them */
		return PG_J_NONE;
	judgement = pg_limits_pass(c, w, s, 0);
	return judgement == PG_J_NONE && c->phase != PG_P_DEAD ? pg_limits_pass(c, w, s, 1) : judgement;
}

static inline int pg_limit_deny(struct pg_conn *c, struct pg_work *w, struct pg_stream *s, int judgement)
{
	if (judgement == PG_J_UNDECIDED)
		return pg_fail_rpc(c, w, s, PG_R_BUDGET);
	pg_count(PG_N_LIMITED);
	return pg_deny_rpc(c, w, s);
}

/* What ends the connection, unless a switch or audit mode lets it pass unread. */
PG_STEP int pg_fail_connection(struct pg_conn *c, struct pg_work *w, u32 reason)
{
	if (!c || !w)
		return PG_CUT;
	pg_about(w, 0, 0);
	w->reason = reason;
	if (pg_switched_off(reason)) {
		pg_emit(c, w, PG_EV_CONNECTION, PG_V_ALLOW);
		return PG_BLIND;
	}
	if (config.audit && pg_reason_cause[pg_index(reason, 64)] != PG_CAUSE_ALWAYS) {
		pg_emit(c, w, PG_EV_CONNECTION, PG_V_AUDIT_DENY);
		return PG_BLIND;
	}
	return PG_CUT;
}

#endif
