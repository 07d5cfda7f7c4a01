/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The TLS plane: calls into TLS libraries, the sessions that they belong to, and what is done about denied ones. */
#ifndef PG_ABI_TLS_H
#define PG_ABI_TLS_H

#include "types.h"
#include "limits.h"
#include "state.h"
#include "events.h"

/* G(NAME, "name", "what is done to a call with denied plaintext"); the best first */
#define PG_RUNGS(G)                                                                            \
	G(NONE, "none", "nothing can be done: TLS is refused on policy ports")                 \
	G(CONTEXT, "context", "the call fails at once: the kernel lets hooks write registers") \
	G(PAUSE, "pause", "the process is stopped until the agent has made the call fail")     \
	G(KILL, "kill", "the process is killed")

#define PG_RUNG_ENUM(name, text, what) PG_RUNG_##name,
enum pg_rung { PG_RUNGS(PG_RUNG_ENUM) PG_RUNG_COUNT };

enum pg_call {
	PG_CALL_SHAKE, /* may read from the socket, hands out no plaintext */
	PG_CALL_READ,
	PG_CALL_PEEK,
	PG_CALL_WRITE,
	PG_CALL_OTHER, /* hands out or takes plaintext in a way that is not followed */
};

struct pg_tls_config {
	u32 places; /* cgroups */
	u32 rung;   /* enum pg_rung */
	u32 server; /* 1: what is read is judged; 0: what is written */
	u32 reserved;
};
PG_SIZE(struct pg_tls_config, 16);

struct pg_tls_key {
	u64 object; /* SSL * */
	u32 process;
	u32 reserved;
};
PG_SIZE(struct pg_tls_key, 16);

/* A call that a thread has not returned from; by thread. */
struct pg_tls_call {
	u64 object;
	u64 buffer;
	u64 count_at; /* where the length is put by calls that return success or failure; 0: they return the length */
	u64 stack;    /* its stack pointer at its first instruction */
	u32 kind;     /* enum pg_call */
	u32 library;
};
PG_SIZE(struct pg_tls_call, 40);

/* A thread that was stopped in a call with denied plaintext; by thread. */
struct pg_tls_hold {
	u64 cookie;
	u64 stack;   /* at the call's first instruction */
	u64 failure; /* function that the call is to become, with a null second argument; 0: the call is over already */
	u64 result;
	u32 process;
	u32 thread;
};
PG_SIZE(struct pg_tls_hold, 40);

/* An event of the TLS plane; told apart by its length. */
struct pg_tls_event {
	struct pg_event about;
	u32 process;
	u32 thread;
	u32 library;
	u32 rung;
	u8 name[16];
	u64 object;
};
PG_SIZE(struct pg_tls_event, 168);

#endif
