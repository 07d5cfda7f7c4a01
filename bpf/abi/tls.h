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

/* What a hook is attached with: the library's number, the function, and how far it is from there to one that does
 * nothing but fail if its second argument is null, in the library's own way. PG_FN_WRITE and 0: the function itself
 * does so, and returns -1, if its length is negative. */
#define PG_COOKIE_FUNCTION 10
#define PG_COOKIE_FAILURE 16

/* OpenSSL's functions, GnuTLS's, and Go's of crypto/tls.(*Conn) */
enum pg_function {
	PG_FN_SHAKE,
	PG_FN_READ,
	PG_FN_READ_EX,
	PG_FN_PEEK,
	PG_FN_PEEK_EX,
	PG_FN_WRITE,
	PG_FN_WRITE_EX,
	PG_FN_WRITE_EX2, /* of OpenSSL 3.3; PG_FN_WRITE_EX goes on in it there */
	PG_FN_NEW,	 /* returns an object */
	PG_FN_RECV,
	PG_FN_SEND,
	PG_FN_SEND2,  /* PG_FN_SEND goes on in it */
	PG_FN_UNCORK, /* gives PG_FN_SEND what was given to it before */
	PG_FN_PACKET, /* does nothing but fail if it has no place for the packet */
	PG_FN_GO_SHAKE,
	PG_FN_GO_READ,
	PG_FN_GO_WRITE,
};

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

#define PG_RANDOM_VIA 16

/* A file with a TLS library. */
struct pg_tls_library {
	u32 armed; /* 1 once all of its hooks are there */
	/* Where its objects have the client's random number; 0: unknown. Above PG_RANDOM_VIA bits: which of their
	 * fields has the object that it is in; 0: it is in themselves. */
	u32 random_at;
};
PG_SIZE(struct pg_tls_library, 8);

struct pg_tls_key {
	u64 object; /* SSL *, gnutls_session_t, or (*Conn) */
	u32 process;
	u32 reserved;
};
PG_SIZE(struct pg_tls_key, 16);

/* Who makes a call: a thread or, in Go, a goroutine, which may go on in another thread. */
struct pg_tls_caller {
	u64 who;
	u32 process;
	u32 goroutine; /* 1: it is one */
};
PG_SIZE(struct pg_tls_caller, 16);

/* A call that has not returned; by caller. */
struct pg_tls_call {
	u64 object;
	u64 buffer;
	u64 count_at; /* where the length is put by calls that return success or failure; 0: they return the length */
	u64 stack;    /* its stack pointer at its first instruction */
	u32 kind;     /* enum pg_call */
	u32 library;
	u32 goroutine; /* 1: its caller is one */
	u32 function;  /* enum pg_function */
	u32 mixed;     /* 1: another call was made within it */
	u32 reserved;
};
PG_SIZE(struct pg_tls_call, 56);

/* How a held call is to fail. */
enum pg_failing {
	PG_FAIL_OVER,	 /* it is over: it has the result */
	PG_FAIL_CALL,	 /* it is beginning: it becomes a call of another function, with a null second argument */
	PG_FAIL_LENGTH,	 /* it is beginning: it begins again, with a negative length */
	PG_FAIL_GO_OVER, /* the same in Go: no bytes, no error; the destroyed socket says the rest */
	PG_FAIL_GO_SKIP, /* it is beginning: it returns so at once */
};

/* A thread that was stopped in a call with denied plaintext; by thread. */
struct pg_tls_hold {
	u64 cookie;
	u64 stack;   /* at the call's first instruction */
	u64 failure; /* the function that the call is to become */
	u64 result;
	u32 process;
	u32 thread;
	u32 failing; /* enum pg_failing */
	u32 reserved;
	u64 ip; /* of the hook */
	u64 sp; /* there */
};
PG_SIZE(struct pg_tls_hold, 64);

/* A process has code that it had not before, or a thread that is held; told apart by its length. */
struct pg_tls_new {
	u32 process;
	u32 held; /* 1: it is stopped in a call with denied plaintext, and waits for the agent */
	u32 reserved[4];
};
PG_SIZE(struct pg_tls_new, 24);

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
