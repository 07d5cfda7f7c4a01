/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel tells the agent: one fixed record in the ring buffer. */
#ifndef PG_ABI_EVENTS_H
#define PG_ABI_EVENTS_H

#include "types.h"
#include "limits.h"
#include "reasons.h"

enum pg_event_type {
	PG_EV_DECISION,	     /* an RPC, or one of its messages, was decided */
	PG_EV_CONNECTION,    /* a whole connection was denied, cut or found undecidable */
	PG_EV_INJECTED,	     /* the agent's reply passed at a frame boundary */
	PG_EV_INJECT_FAILED, /* the agent's reply stood inside a frame: it was held back */
	PG_EV_DRAINED,	     /* a denied connection has no delivered RPC left to answer */
	PG_EV_UNDELIVERED,   /* a whole request on a denied connection: no rule denies it, the server never has it */
	PG_EV_HOLE,	     /* a segment was dropped, and another may take its place: struct pg_hole_event */
	PG_EV_GUARD,	     /* a way around was tried: struct pg_guard_event */
	PG_EV_SILENCED,	     /* a response is denied, and nothing more of the server leaves: struct pg_hole_event */
};

enum pg_verdict { PG_V_ALLOW, PG_V_DENY, PG_V_AUDIT_DENY };
enum pg_role { PG_ROLE_SERVER, PG_ROLE_CLIENT };

/* K(NAME, "name", "what it counts") */
#define PG_COUNTS(K)                                                                                     \
	K(SEGMENTS, "segments", "segments with payload, from the client")                                \
	K(BYTES, "bytes", "payload bytes judged")                                                        \
	K(MESSAGES, "messages", "gRPC messages judged")                                                  \
	K(RPCS, "rpcs", "RPCs judged")                                                                   \
	K(ALLOWED, "allowed", "RPCs admitted on their header block")                                     \
	K(DENIED, "denied", "RPCs and messages denied")                                                  \
	K(AUDIT_DENIED, "audit_denied", "RPCs and messages that audit mode let pass")                    \
	K(HELD, "held", "segments kept until a hole before them filled")                                 \
	K(HELD_FULL, "held_full", "segments dropped for want of room to keep them")                      \
	K(OVERLAPS, "overlaps", "segments dropped because they overlap bytes that TCP has not accepted") \
	K(OUT_OF_WINDOW, "out_of_window", "segments dropped because TCP would refuse them")              \
	K(DEAD, "dead", "segments dropped on connections that were denied")                              \
	K(STASH_LOST, "stash_lost", "data on a handshake's last ACK that its connection did not take")   \
	K(EVENTS_LOST, "events_lost", "events that found the ring buffer full")                          \
	K(LIMITED, "limited", "RPCs denied by a limit")                                                  \
	K(BUCKETS_FULL, "buckets_full", "RPCs whose key shared its limit's own bucket for want of one")  \
	K(MENDED, "mended", "RPCs and messages denied without an end of their connection")               \
	K(HELPER_FAILED, "helper_failed", "calls into the kernel that failed where none should")

#define PG_COUNT_ENUM(name, text, help) PG_N_##name,
enum pg_counter { PG_COUNTS(PG_COUNT_ENUM) PG_COUNTERS };

#define PG_NO_RULE 0xffffffffu
#define PG_NO_METHOD 0xffffffffu

struct pg_event {
	u64 time_ns;   /* CLOCK_MONOTONIC */
	u64 cookie;    /* of the socket in the cgroup */
	u64 cgroup;    /* id of the socket's cgroup */
	u64 conn;      /* the connection's id: the key of its streams */
	u32 type;      /* enum pg_event_type */
	u32 verdict;   /* enum pg_verdict */
	u32 reason;    /* enum pg_reason; PG_R_NONE: a rule or the default decided */
	u32 rule;      /* index in the rule table; PG_NO_RULE: the default, or the reason */
	u32 status;    /* gRPC status of a denial */
	u32 method;    /* index in the method table; PG_NO_METHOD: none known */
	u32 text;      /* id of the path's text for paths that no exact rule names; 0: none */
	u32 stream;    /* HTTP/2 stream; 0: the connection */
	u32 message;   /* index of the message in its stream, from 1; 0: the header block */
	u32 delivered; /* highest stream whose header block was delivered before this segment */
	u32 highest;   /* highest stream that the client has opened */
	u32 response;  /* PG_RSP_* of the stream, when it was denied; PG_RSP_JUDGED: it was its response */
	u16 role;      /* enum pg_role */
	u16 family;    /* AF_INET or AF_INET6 */
	u16 local_port;
	u16 remote_port;
	u8 local[16]; /* IPv4 is ::ffff:a.b.c.d */
	u8 remote[16];
	u32 mends;    /* 1: of a denial: only the RPC ends, the connection goes on once its hole is mended */
	u32 retry_ms; /* of a limit's denial: when the next token comes */
};
PG_SIZE(struct pg_event, 128);

/*
 * A segment with denied frames was dropped. Its payload, with harmless frames in their place, is in a slot; the agent
 * sends that as a segment, and the filter lets exactly these bytes pass there. bpf/mend.h.
 */
#define PG_TCP_HEADER_BYTES 60
struct pg_hole_event {
	struct pg_event about;
	u32 seq;    /* where the payload begins */
	u32 length; /* of the payload */
	u32 slot;
	u32 source; /* enum pg_source: which kind of slot */
	u32 credit; /* bytes of DATA frames that the server will not see, and so not give back to the client's window */
	u32 header; /* bytes of the TCP header */
	u32 base;   /* where in the slot it begins */
	u8 tcp[PG_TCP_HEADER_BYTES]; /* of a segment of the client, for all but its place */
	u32 resets;		     /* RST_STREAM frames in the copy */
	u32 placed; /* PG_EV_SILENCED, 1: the slot has all that stands before the denied frame, and the caller can be
		       answered behind it */
};
PG_SIZE(struct pg_hole_event, 224);

/*
 * On a connection that had a denial, a segment ahead of a gap was kept and dropped. TCP never had it, and acknowledges
 * nothing; the agent does, with the segment's place (RFC 2018). Else the client would hear of no loss, every one would
 * cost it a retransmission timeout, and its round trips, measured over those, would make each longer than the last.
 */
struct pg_withheld_event {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u64 cookie;
	u32 seq;      /* where the payload begins */
	u32 length;   /* of the payload */
	u32 received; /* the next sequence number that TCP expects of the client */
	u32 next;     /* the next that it would send */
	u32 window;   /* bytes that it takes from `received` on */
	u32 ts_recent;
};
PG_SIZE(struct pg_withheld_event, 40);

/*
 * The agent's reply to a denied caller, registered by socket cookie before it is sent. The egress hook looks for its
 * first bytes, the mark, in what the server sends: they may pass between two frames and nowhere else.
 */
#define PG_REPLY_BYTES 4096 /* about 35 answers: few denials that come together need more than one reply */
#define PG_REPLY_MARK 64
struct pg_reply {
	u32 length;  /* bytes of the reply, for the agent's own use */
	u32 mark;    /* bytes of the mark, 1..PG_REPLY_MARK */
	u32 matched; /* how many of them the bytes sent so far end with; the kernel's */
	u32 between; /* 1: the match began between two frames; the kernel's */
	u32 done;    /* enum pg_event_type of the answer, 0 until then; the kernel's */
	u32 reserved;
	u8 failure[PG_REPLY_MARK]; /* Knuth-Morris-Pratt: longest proper border of the mark's first i + 1 bytes */
	u8 bytes[PG_REPLY_BYTES];
};
PG_SIZE(struct pg_reply, 24 + PG_REPLY_MARK + PG_REPLY_BYTES);

/* Text of a path that no exact rule names. */
struct pg_text_key {
	u64 conn;
	u32 text;
	u32 reserved;
};
PG_SIZE(struct pg_text_key, 16);

struct pg_text {
	u32 length;
	u8 bytes[PG_MAX_PATH_BYTES];
};
PG_SIZE(struct pg_text, 4 + PG_MAX_PATH_BYTES);

#endif
