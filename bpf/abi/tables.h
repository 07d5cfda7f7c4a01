/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The compiled policy: what the policy compiler writes and the engine reads.
 * Every table is a flat array (one BPF array map each); an index 0 that means
 * "nothing" is said so at the member.
 *
 * Predicate results are bits. Words 0..15 are the header scope (metadata and
 * peer, one layout for the whole policy), words 16..31 the message scope (one
 * layout a method).
 */
#ifndef PG_ABI_TABLES_H
#define PG_ABI_TABLES_H

#include "types.h"
#include "limits.h"
#include "reasons.h"

#define PG_WORDS (2 * PG_MAX_SCOPE_WORDS)
#define PG_MESSAGE_WORD PG_MAX_SCOPE_WORDS
struct pg_bits {
	u64 word[PG_WORDS];
};

/* Header names that the engine knows; metadata keys of the policy follow. */
enum pg_name {
	PG_NAME_OTHER, /* no rule reads it */
	PG_NAME_PATH,
	PG_NAME_PATH_CHANGED, /* :path in a dynamic table, where the server's table has one that mending has changed */
	PG_NAME_METHOD,
	PG_NAME_SCHEME,
	PG_NAME_AUTHORITY,
	PG_NAME_STATUS, /* a response's; in a request malformed */
	PG_NAME_CONTENT_TYPE,
	PG_NAME_GRPC_ENCODING,
	PG_NAME_CONNECTION, /* connection, proxy-connection, keep-alive, transfer-encoding, upgrade */
	PG_NAME_BINARY,	    /* ends in -bin; no rule reads it */
	PG_NAME_KEY0 = 16,  /* PG_NAME_KEY0 + k is entry k of the key table */
};

/*
 * A double-array trie: from state s the byte b leads to t = base(s) + b, if t
 * is below the table's length and check(t) == s; otherwise nowhere. States are
 * indexes of the table. State 0 is never a state, and a free cell has check 0.
 * Two tries share the table: paths (root config.path_root) and header names
 * (root config.name_root).
 */
struct pg_trie {
	u32 base;
	u32 check;  /* parent state; 0: free cell. A root has check == itself */
	u32 exact;  /* id + 1 of a text that ends here; 0: none */
	u32 prefix; /* id + 1 of a prefix (a pattern that ends in `*`) that ends here; 0: none */
};
PG_SIZE(struct pg_trie, 16);

/* What is to be done for the RPCs of one method, or of all methods that only a prefix covers. Entry 0: every
 * path that nothing names. Rules of wider prefixes are already merged in. */
#define PG_METHOD_UNKNOWN 1u  /* a request rule covers it and no proto describes it */
#define PG_METHOD_MESSAGES 2u /* rules read the request messages: plan and message tests are valid */
#define PG_METHOD_UNARY 4u    /* its proto says that the request is one message */
#define PG_METHOD_REFUSED 8u  /* every call of it is denied on its header block, whatever else stands there */
struct pg_method {
	u32 header_test;  /* first of the tests that read no message; deny rules first, then allow rules */
	u32 header_tests; /* how many */
	u32 message_test; /* first of the tests that read the message (and maybe metadata and peer); same order */
	u32 message_tests;
	u32 plan;	    /* root node of the request message */
	u32 init;	    /* row that sets the message words to what an empty message gives; 0: all bits 0 */
	u32 flags;	    /* PG_METHOD_* */
	u32 allow_messages; /* 1: some message test belongs to an allow rule, so the RPC is admitted provisionally */
	u32 limit_test;	    /* first of the tests of limits */
	u32 limit_tests;
	u32 response; /* row of the rules on its responses: message tests, plan and init; 0: no rule reads them */
	u32 reserved;
};
PG_SIZE(struct pg_method, 48);

enum pg_action { PG_DENY, PG_ALLOW, PG_LIMIT };
#define PG_RULE_AUDIT 1u
struct pg_rule {
	u32 action; /* enum pg_action */
	u32 status; /* gRPC status of a denial */
	u32 flags;  /* PG_RULE_* */
	u32 limit;  /* PG_LIMIT: its index in the table of rates */
};
PG_SIZE(struct pg_rule, 16);

/* What has a bucket of its own. */
enum pg_per { PG_PER_POLICY, PG_PER_METHOD, PG_PER_PEER, PG_PER_VALUE };

/*
 * A token bucket fills by `rate` units a nanosecond, up to `capacity`; a token is `cost` units. All are whole numbers,
 * so that no fraction of a token is ever lost or won: N tokens a second are a rate of N and a cost of 10^9.
 */
struct pg_rate {
	u32 per;  /* enum pg_per */
	u32 slot; /* PG_PER_VALUE: where in the header block's values the key's is */
	u32 rate;
	u32 reserved;
	u64 cost;
	u64 capacity;
};
PG_SIZE(struct pg_rate, 32);

/*
 * One test of a clause: (bits[word] & mask) == value. A clause is a run of tests that ends with PG_TEST_LAST and
 * holds if all of them do; a rule holds if one of its clauses does. An always-true clause is one test with mask 0.
 *
 * The program at the end of an element (of a repeated field or a map) is a run of clauses, too: of those that hold
 * every one applies its row, in order.
 */
#define PG_TEST_LAST 1u
struct pg_test {
	u16 word;
	u16 flags;
	u32 rule; /* index of the rule, in file order: deny, allow and limit rules counted together. In a program: the
		     row */
	u64 mask;
	u64 value;
};
PG_SIZE(struct pg_test, 24);

/* One write to the bits: bits[word] = (bits[word] & ~mask) | value. A row is a run of them that ends with
 * PG_OP_LAST; rows are named by their first index. Entry 0 is unused, so row 0 is "no writes". */
#define PG_OP_LAST 1u
struct pg_op {
	u32 word;
	u32 flags;
	u64 mask;
	u64 value;
};
PG_SIZE(struct pg_op, 24);

/*
 * A message type at one place of a request: the fields there that rules read, ascending by number. Where ambiguous
 * messages are refused: all fields; and a type has one more node for all places that no rule reads.
 */
struct pg_node {
	u32 field;  /* first index in the field table */
	u32 fields; /* how many */
	u32 once;   /* words that remember what may come once in a message of it */
};
PG_SIZE(struct pg_node, 12);

/* How a field's bytes become a value. The wire type follows from it; a field with another one is unknown. */
enum pg_kind {
	PG_K_MESSAGE, /* length-delimited, descended into */
	PG_K_BOOL,    /* varint, any non-zero value is true */
	PG_K_INT32,   /* varint, low 32 bits, signed; also enums */
	PG_K_UINT32,  /* varint, low 32 bits */
	PG_K_SINT32,  /* varint, low 32 bits, zigzag */
	PG_K_INT64,
	PG_K_UINT64,
	PG_K_SINT64,
	PG_K_FIXED32,
	PG_K_SFIXED32,
	PG_K_FLOAT, /* widened to double */
	PG_K_FIXED64,
	PG_K_SFIXED64,
	PG_K_DOUBLE,
	PG_K_STRING, /* checked for UTF-8 */
	PG_K_BYTES,
	PG_K_GROUP, /* no rule reads it */
};

/*
 * Elements of a repeated field, and entries of a map, are read one after the other into the same bits: where one
 * begins, `reset` makes these what an empty element gives; where it ends, the program moves what came of it to bits
 * that outlive it. Numbers may be packed, whatever the descriptor says.
 */
#define PG_FIELD_ELEMENTS 1u /* repeated, or a map */
#define PG_FIELD_KEY 2u	     /* the key in a map's entry, where distinct ones are counted */
#define PG_FIELD_SIGNED 4u   /* such a key, of a signed type */
#define PG_FIELD_DISTINCT 8u /* a map of which the distinct keys are counted */
/* A map, read or not. prost reads a map's entry whatever the tag's wire type is, so any other is refused. */
#define PG_FIELD_MAP 16u
#define PG_FIELD_SHAPE 32u    /* no rule reads it: only where it ends, and whether it is ambiguous, is looked at */
#define PG_FIELD_PACKABLE 64u /* such numbers, repeated: they may be packed */

/* A row that is none: the value is not one of its type, and runtimes read it differently (PG_R_PROTOBUF_VALUE). */
#define PG_ROW_REFUSED 0xffffffffu

struct pg_field {
	u32 number;
	u32 kind;      /* enum pg_kind */
	u32 child;     /* PG_K_MESSAGE, PG_K_GROUP: its node */
	u32 reset;     /* row applied where the field begins: own value bits to 0, presence to 1, other oneof members to
			  absent. Where an element begins: its bits to those of an empty one */
	u32 automaton; /* strings and bytes: first automaton */
	u32 automata;  /* how many, 0..PG_MAX_FIELD_AUTOMATA */
	u32 bound;     /* numbers: of the value; strings: of the size in code points; bytes: of the size in bytes */
	u32 bounds;    /* how many, the closing one included; 0: nothing compares it */
	u32 nan;       /* float, double: row for NaN; 0: none */
	u32 flags;     /* PG_FIELD_* */
	u32 test;      /* the program at the end of an element: first of its tests */
	u32 tests;     /* how many, 0..PG_MAX_ELEMENT_TESTS */
	u32 counter;   /* op with the counter's place: `value` is added there, but not past `mask`; 0: elements are not
			  counted */
	u32 key;       /* PG_FIELD_DISTINCT: where in pg_stream.key the keys so far are; the counter says how many */
	u32 keys;      /* how many fit there */
	u16 once_at; /* of a sub-message that is not repeated, and a oneof's members: the place in its message's bits */
	u16 once_bits; /* how many, in one word; 0: nothing is remembered of it */
	u32 once;      /* what they become: 1, or which member of the oneof it is */
};
PG_SIZE(struct pg_field, 68);

/*
 * Numbers compare as unsigned keys: unsigned and bool as they are, signed with the top bit flipped, doubles by
 * their bits (negative: all bits flipped; else: top bit set; -0.0 counts as 0.0; NaN has its own row).
 * Bounds ascend strictly; the one with the lowest key >= value decides: `equal` if the keys are equal, else
 * `below`. The last has the key ~0, so that every value finds one. Rows only set bits (mask 0).
 */
struct pg_bound {
	u64 key;
	u32 below;
	u32 equal;
};
PG_SIZE(struct pg_bound, 16);

/*
 * One automaton over bytes: state' = trans[trans + state + class[byte]], states are multiples of the stride.
 * In message fields states >= first_out have a row that is applied on entering them (a `contains` that has been
 * found stays found). At the end of the value the row `end` of the state reached is applied.
 * Over metadata values only the final state counts (first_out is ~0): it is kept in HPACK's dynamic table.
 * Automata 0 and 1 are the engine's own: content-type is gRPC's, grpc-encoding is identity; there `end` is 1
 * for yes and 0 for no, and no row.
 */
#define PG_AUTOMATON_CONTENT_TYPE 0
#define PG_AUTOMATON_IDENTITY 1
struct pg_automaton {
	u32 trans;   /* first index in the transition table */
	u32 classes; /* index in the class table */
	u32 start;   /* start state */
	u32 stride_log2;
	u32 first_out; /* states from here on have an entry row */
	u32 out;       /* first index in the out table: entry out + (state >> stride_log2) */
	u32 states;    /* how many */
	u32 reserved;
};
PG_SIZE(struct pg_automaton, 32);

#define PG_STAY_ALWAYS 1u /* no byte leads out of the state */
#define PG_STAY_BUT 2u	  /* no byte but the three of the upper bytes does; two of them may be the same */
struct pg_out {
	u32 enter; /* row applied on entering the state; 0: none */
	u32 end;   /* row applied if the value ends in the state; 0: none */
	u32 stay;  /* PG_STAY_*, in the lowest byte; 0: nothing is known. A row is not applied anew by staying */
};
PG_SIZE(struct pg_out, 12);

struct pg_classes {
	u8 of[256];
};
PG_SIZE(struct pg_classes, 256);

/* A metadata key that rules read. Rows only set bits; bits accumulate over the key's values. */
struct pg_key {
	u32 automaton;
	u32 automata; /* 0..PG_MAX_METADATA_AUTOMATA */
	u32 present;  /* row applied for every value; 0: none */
	u32 counted;  /* 1 + the slot of its value in the header block, for limits; 0: none counts by it */
};
PG_SIZE(struct pg_key, 16);

/* An address block of the peer: bits in the header scope. IPv4 is ::ffff:0:0/96. */
struct pg_peer {
	u8 address[16];
	u8 mask[16];
	u32 row; /* applied if (peer & mask) == address */
	u32 reserved;
};
PG_SIZE(struct pg_peer, 40);

#define PG_HASH_START 1u /* of a value's hash: that of an empty one */

/* A header field as HPACK's tables keep it: not its text, but what the policy makes of it. */
struct pg_entry {
	u16 name;      /* enum pg_name */
	u16 reason;    /* enum pg_reason: its name or value is malformed, and so is every RPC that refers to it */
	u16 name_size; /* bytes; an entry that a table holds is below 64 KiB (RFC 7541, section 4.1) */
	u16 value_size;
	u32 out0;    /* path: method index; else final state of the first automaton */
	u32 out1;    /* path: id of the kept text; else final state of the second automaton */
	u32 hash[2]; /* of a value that a limit counts by (policy/limit.h) */
};
PG_SIZE(struct pg_entry, 24);

#define PG_STATIC_ENTRIES 62 /* RFC 7541, appendix A; entry 0 is unused */

enum pg_direction { PG_INGRESS, PG_EGRESS };
enum pg_switch { PG_SWITCH_DENY, PG_SWITCH_ALLOW };

/* The policy's numbers; read-only data of the programs, set before they are loaded. */
struct pg_config {
	u32 generation;	    /* hash of the policy and of this ABI, never 0 */
	u32 direction;	    /* enum pg_direction */
	u32 audit;	    /* 1: nothing is denied */
	u32 default_action; /* enum pg_action */
	u32 events_allowed; /* 1: allowed calls make events too */
	u32 path_root;
	u32 name_root;
	u32 peer_tests; /* how many entries of the peer table */
	u32 port_bound; /* bounds of peer.port */
	u32 port_bounds;
	u32 peer_init; /* row applied first for every connection; 0: none */
	u32 responses; /* 1: rules read responses */
	u32 tls;       /* enum pg_rung: hooks in TLS libraries judge what is encrypted; 0: none do */
	u32 limits;    /* 1: there are limits */
	u32 elements;  /* 1: rules read repeated fields or maps */
	u32 packed;    /* 1: there are repeated numbers that no rule reads */
	u32 audits;    /* 1: some rules are for audit alone */
	u32 reserved;
	u8 cause[16]; /* enum pg_switch, by enum pg_cause; PG_CAUSE_ALWAYS is always PG_SWITCH_DENY */
	struct pg_entry fixed[PG_STATIC_ENTRIES]; /* HPACK's static table under this policy */
	u64 ports[1024];			  /* bit p: TCP port p is looked at */
};
PG_SIZE(struct pg_config, 88 + PG_STATIC_ENTRIES * sizeof(struct pg_entry) + 8192);

#endif
