// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Architecture:
 *
 *   pt_shake, pt_read, pt_write, ...   a call into a TLS library begins ──► whose it is; what is written is judged
 *   pt_return                          it returns                       ──► what was read is judged
 *   pt_received                        a thread reads a TCP socket      ──► which socket a call is about
 *
 * tls/call.h knows calls, tls/session.h what belongs together; the engine is the one that judges packets. The functions
 * and their arguments are OpenSSL's; src/kernel/tls.rs attaches them.
 */
#define PG_PLANE_TLS
#include "tls/call.h"
#include <bpf/bpf_tracing.h>

SEC("uprobe") int pt_shake(struct pt_regs *ctx)
{
	struct pg_tls_call call = {.object = ctx->rdi, .kind = PG_CALL_SHAKE};

	call.library = PG_COOKIE_LIBRARY(bpf_get_attach_cookie(ctx));
	pg_call_begin(ctx, &call);
	return 0;
}

SEC("uprobe") int pt_read(struct pt_regs *ctx)
{
	return pg_read_begin(ctx, PG_CALL_READ, 0);
}

SEC("uprobe") int pt_read_ex(struct pt_regs *ctx)
{
	return pg_read_begin(ctx, PG_CALL_READ, ctx->rcx);
}

SEC("uprobe") int pt_peek(struct pt_regs *ctx)
{
	return pg_read_begin(ctx, PG_CALL_PEEK, 0);
}

SEC("uprobe") int pt_peek_ex(struct pt_regs *ctx)
{
	return pg_read_begin(ctx, PG_CALL_PEEK, ctx->rcx);
}

SEC("uprobe") int pt_write(struct pt_regs *ctx)
{
	s32 length = ctx->rdx;

	return pg_write_begin(ctx, length > 0 ? length : 0, 0);
}

SEC("uprobe") int pt_write_ex(struct pt_regs *ctx)
{
	return pg_write_begin(ctx, ctx->rdx, ctx->rcx);
}

SEC("uretprobe") int pt_return(struct pt_regs *ctx)
{
	return pg_call_end(ctx);
}

/* Early data and sendfile carry plaintext past the calls that are judged. */
SEC("uprobe") int pt_other(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	struct pg_tls_call call = {.object = ctx->rdi, .kind = PG_CALL_OTHER, .stack = ctx->rsp};
	struct pg_session *s;

	call.library = PG_COOKIE_LIBRARY(cookie);
	if (!pg_tls_inside() || !pg_tls_armed(call.library))
		return 0;
	s = pg_session_of(call.object);
	if (!s || s->blind)
		return 0;
	pg_session_fail(s, PG_R_TLS_CALL);
	if (!s->blind)
		pg_call_fail(ctx, &call, s->cookie, ctx->rip + PG_COOKIE_FAILURE(cookie));
	return 0;
}

/* TLS as a BIO, which reads and writes by functions that have no names. */
SEC("uprobe") int pt_bio(struct pt_regs *ctx)
{
	if (pg_tls_inside() && pg_tls_armed(PG_COOKIE_LIBRARY(bpf_get_attach_cookie(ctx))))
		pg_process_unread();
	return 0;
}

/* The object ends, or begins anew. */
SEC("uprobe") int pt_forget(struct pt_regs *ctx)
{
	struct pg_tls_key key = {.object = ctx->rdi, .process = bpf_get_current_pid_tgid() >> 32};

	if (pg_tls_inside())
		pg_session_forget(&key);
	return 0;
}

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pg_atomic64 {
	s64 counter;
};

struct sock_common {
	struct pg_atomic64 skc_cookie;
};

struct sock {
	struct sock_common __sk_common;
};
#pragma clang attribute pop

/* The connection is read by something else than the calls that judge it. */
static __always_inline void pg_read_elsewhere(struct pg_conn *c)
{
	struct pg_tls_key key = {.object = c->tls_object, .process = c->tls_process};
	struct pg_session *s = bpf_map_lookup_elem(&tls_sessions, &key);

	if (c->phase == PG_P_DEAD)
		return;
	if (s && s->cookie == c->cookie)
		pg_session_fail(s, PG_R_TLS_ELSEWHERE);
	else
		c->phase = PG_P_DEAD; /* the agent's sweep finds it */
}

/* A thread has taken bytes out of a TCP socket's queue. */
SEC("tp_btf/tcp_rcv_space_adjust") int BPF_PROG(pt_received, struct sock *sk)
{
	u64 id = bpf_get_current_pid_tgid(), cookie = sk->__sk_common.skc_cookie.counter, other;
	struct pg_tls_key key = {.process = id >> 32};
	struct pg_tls_call *call;
	struct pg_session *s;
	struct pg_conn *c;

	if (!cookie)
		return 0; /* no connection that is judged */
	c = bpf_map_lookup_elem(&conns, &cookie);
	if (!c || c->cookie != cookie || (c->request.state != PG_H2_TLS && !c->tls))
		return 0;
	call = bpf_map_lookup_elem(&tls_calls, &id);
	if (!call) {
		if (c->tls)
			pg_read_elsewhere(c);
		return 0;
	}
	key.object = call->object;
	s = bpf_map_lookup_elem(&tls_sessions, &key);
	if (s && s->cookie == cookie)
		return 0;
	if (s) {
		/* the object has changed sockets: that is a new beginning only if the old connection is over */
		other = s->cookie;
		if (bpf_map_lookup_elem(&conns, &other)) {
			pg_session_fail(s, PG_R_TLS_ELSEWHERE);
			return 0;
		}
		pg_session_forget(&key);
	}
	if (c->tls)
		pg_read_elsewhere(c);
	else if (call->kind != PG_CALL_WRITE || tls_config.server)
		pg_session_open(&key, c, cookie);
	/* else: a handshake within a call that writes, whose plaintext was handed over before there was a session */
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
