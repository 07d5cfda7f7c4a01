/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * State of connections and streams. Everything here survives between any two
 * bytes: the engine has no other memory.
 */
#ifndef PG_ABI_STATE_H
#define PG_ABI_STATE_H

#include "types.h"
#include "limits.h"
#include "tables.h"

/* ---- a stream: one RPC ---- */

#define PG_REQ_END 1u	  /* the request has ended: END_STREAM was let through */
#define PG_REQ_ALLOWED 2u /* an allow rule or the default admitted it on its header block */
#define PG_REQ_UNREAD 4u  /* its messages are not read: no rule needs them, or a switch lets them pass */
#define PG_REQ_DENIED 8u  /* or in audit mode would be */
#define PG_REQ_SKIP 16u	  /* the current message is not read: a switch lets it pass */

#define PG_RSP_HEADERS 1u /* the server has sent a header block on it */
#define PG_RSP_END 2u	  /* the server has ended or reset it */
#define PG_RSP_JUDGED 4u  /* of an event: it is about a message of the response */

/*
 * Where rules read responses, each RPC has a second entry in the table of streams: its id has this bit, and its state
 * is that of the response's messages. It is made under the request lock, before the server can have the request; from
 * then on it is written and deleted under the response lock only, but for its places in lists, which the request lock
 * guards.
 */
#define PG_RESPONSE_HALF 0x80000000u
#define PG_LATE_RESET 0x80000000u

struct pg_level {
	u32 end;     /* message offset where the sub-message or group's enclosing field ends */
	u32 node;    /* plan node; PG_LEVEL_GROUP | field number: a group that is skipped; PG_LEVEL_KNOWN | node: one of
			the descriptor */
	u32 element; /* index of the field whose element it is, + 1; 0: it is none. PG_LEVEL_KNOWN: the group's number
		      */
	u32 once;    /* the first of its words in pg_stream.once */
};
#define PG_LEVEL_GROUP 0x80000000u
#define PG_LEVEL_KNOWN 0x40000000u

enum pg_grpc_state { PG_G_PREFIX, PG_G_MESSAGE };
enum pg_pb_state {
	PG_PB_TAG,    /* tag varint; `have` bytes of it are in `value` */
	PG_PB_VARINT, /* value of a varint field */
	PG_PB_FIXED,  /* value of a fixed field, `left` bytes to come */
	PG_PB_LENGTH, /* length varint */
	PG_PB_BYTES,  /* string or bytes that a rule reads, `left` bytes to come */
	PG_PB_SKIP,   /* `left` bytes that nobody reads */
	PG_PB_PACKED, /* packed varints that nobody reads, `left` bytes to come; `have` of the one that is not over */
};

struct pg_stream {
	u32 id;	      /* of whose berth it is */
	u32 previous; /* live streams of the connection that have no seat form a list */
	u32 next;
	u32 method;
	u32 text;
	u32 request;  /* PG_REQ_*; written under the request lock only */
	u32 response; /* PG_RSP_*; written under the response lock only */
	u32 ended;   /* the run that counted it as pending; 0: none did. Beside these, for the response's side reads all
			three */
	u32 message; /* messages begun */
	u32 grpc;    /* enum pg_grpc_state */
	u32 have;    /* bytes of the prefix, or of a varint or fixed value */
	u32 length;  /* of the current message */
	u32 offset;  /* read of it */
	u32 pb;	     /* enum pg_pb_state */
	u32 left;
	u32 depth;
	u32 field;	/* index of the field whose value is read, +1; 0: nobody reads it */
	u32 points;	/* code points of the string so far */
	u32 utf8;	/* state of the UTF-8 check */
	u32 head_chunk; /* the chunk that its HEADERS are in, if these are one frame and change no HPACK table; else 0
			 */
	u32 head_at;	/* where in it the frame begins */
	u32 newer;	/* of responses: neighbours in the queue of those whose stream the client has reset */
	u32 older;
	u32 once_top; /* how many words of `once` are in use */
	u64 value;
	u32 packed; /* message offset where the packed elements that are read end; 0: there are none */
	u32 clause; /* 1: the tests of an element's clause so far hold */
	u64 hash;   /* of the key of the map's entry that is read */
	u64 secret; /* what the hashes of this stream begin with; 0: not drawn yet */
	u64 sip[4]; /* of a string key */
	u32 automaton[PG_MAX_FIELD_AUTOMATA];
	struct pg_bits bits; /* from here on nothing is read that has not been written for the stream */
	u64 key[PG_MAX_MAP_KEYS];
	u64 once[PG_MAX_ONCE_WORDS]; /* what has come of the message, and of those around it (pg_field.once) */
	struct pg_level level[PG_MAX_MESSAGE_DEPTH];
};

/*
 * Where a stream's state is: most have a berth, which is there before they come. A connection has a seat for each of
 * 128 requests, by their ids, and for as many responses; a seat has its berth's number, and the berth says whose it is.
 * What finds its seat taken, or no berth, is in the table of streams. Written under the request lock.
 */
#define PG_SEATS 256 /* a power of two */
#define PG_IDLE_BERTHS 8

struct pg_stream_key {
	u64 conn;
	u32 stream;
	u32 reserved;
};

/* ---- HTTP/2, one direction ---- */

enum pg_h2_state {
	PG_H2_PREFACE,	  /* client's connection preface, `have` bytes seen */
	PG_H2_HEAD,	  /* frame head, `have` bytes in head[] */
	PG_H2_PAD_LENGTH, /* Pad Length of DATA */
	PG_H2_PRIORITY,	  /* priority fields of HEADERS, `have` bytes skipped */
	PG_H2_FRAGMENT,	  /* header block fragment */
	PG_H2_DATA,	  /* DATA */
	PG_H2_SETTING,	  /* SETTINGS parameter, `have` bytes in head[] */
	PG_H2_SKIP,	  /* payload that nobody reads */
	PG_H2_PAD,	  /* padding */
	PG_H2_TLS,	  /* TLS records of a handshake, `have` bytes of a record's head in head[] */
};

struct pg_h2 {
	u32 state; /* enum pg_h2_state */
	u32 have;
	u32 left; /* payload bytes to come, padding not included */
	u32 pad;
	u32 stream;
	u8 type;
	u8 flags;
	u8 block;	/* 1: a header block is open, only CONTINUATION may follow */
	u8 block_flags; /* flags of its HEADERS frame */
	u8 head[16];	/* of the frame, or one SETTINGS parameter */
	u32 reserved;
};

/* ---- HPACK, the request direction ---- */

enum pg_hpack_state {
	PG_HP_FIELD, /* first byte of a representation */
	PG_HP_INDEX, /* continuation of its index */
	PG_HP_NAME_LENGTH,
	PG_HP_NAME_LENGTH_MORE,
	PG_HP_NAME,
	PG_HP_VALUE_LENGTH,
	PG_HP_VALUE_LENGTH_MORE,
	PG_HP_VALUE,
};

enum pg_hpack_form { PG_HF_INDEXED, PG_HF_INCREMENTAL, PG_HF_SIZE_UPDATE, PG_HF_LITERAL };

struct pg_hpack {
	u32 state; /* enum pg_hpack_state */
	u32 form;  /* enum pg_hpack_form */
	u32 integer;
	u32 shift;
	u32 left;    /* encoded bytes of the string to come */
	u32 huffman; /* 1: the string is Huffman-coded */
	u32 code;    /* state of the Huffman decoder */
	u32 fields;  /* of this block */
	u32 bytes;   /* encoded, of this block */
	u32 whole;   /* 1: the byte just read completes a field */
	/* the field being read */
	u32 name_size; /* decoded bytes; the entry has them once the field is whole */
	u32 value_size;
	u32 trie;  /* state in the name or path trie; 0: left it */
	u32 first; /* first character of the name or value; 0: none yet */
	u32 last;  /* last character of the value */
	u32 out[PG_MAX_METADATA_AUTOMATA];
	u32 counted; /* 1: a limit counts by the value, so it is hashed */
	u32 hash[2];
	u32 slashes;	       /* of the path */
	u32 segment;	       /* bytes of the path since the last slash */
	u32 updates;	       /* table size updates at the start of this block */
	u32 changes;	       /* what of this block changes the dynamic table */
	u32 path_slot;	       /* of this block's :path in the ring, + 1; 0: it is not there */
	u32 tail;	       /* last four characters of the name */
	u32 prefix;	       /* longest prefix of the path that a rule names */
	struct pg_entry entry; /* name, flags and outcome so far */
	/* the dynamic table */
	u32 size;
	u32 limit; /* maximum size, by the encoder's last update */
	u32 count;
	u32 newest; /* ring index of the newest entry */
	struct pg_entry ring[PG_MAX_DYNAMIC_ENTRIES];
};

/* What a header block has said so far. */
#define PG_B_PATH 1u
#define PG_B_METHOD 2u
#define PG_B_SCHEME 4u
#define PG_B_AUTHORITY 8u
#define PG_B_REGULAR 16u /* a regular field has come: no pseudo-header may follow */
#define PG_B_CONTENT_TYPE 32u
#define PG_B_NOT_GRPC 64u
#define PG_B_PATHS 128u /* more than one :path */
/* The value of a metadata key that limits count by. */
struct pg_value {
	u32 hash[2];
	u32 count; /* how often the key came */
};

struct pg_block {
	struct pg_bits bits; /* the header scope only */
	struct pg_value value[PG_MAX_BUCKET_KEYS];
	u32 seen;   /* PG_B_* */
	u32 reason; /* first thing that is malformed about it; PG_R_NONE: nothing */
	u32 method;
	u32 text;
	u32 trailers; /* 1: the block ends a stream that is already open */
	u32 changed;  /* 1: the server reads another :path, which names no method */
};

/*
 * The bytes of the last header block, if the same once more say the same: one frame in one piece, well-formed, of no
 * effect on the dynamic table, its path one that a rule or a proto names. Then pg_block and pg_hpack stand as they
 * would.
 */
#define PG_KEPT_BYTES 128
struct pg_kept {
	u32 length;  /* 0: the next block is to be read */
	u32 reading; /* of the block that is read, if its bytes are here */
	u32 path_at; /* where in the block its :path can be changed, as in pg_work */
	u32 path_form;
	u8 bytes[PG_KEPT_BYTES];
};

/* ---- a connection ---- */

enum pg_phase {
	PG_P_LIVE,
	PG_P_DEAD,  /* denied: nothing more from the client passes */
	PG_P_BLIND, /* a policy switch lets it pass unread */
};

/* What becomes of the server's side where rules read responses. */
enum pg_answers {
	PG_A_JUDGED,
	PG_A_UNREAD, /* a switch or audit mode lets it pass unread */
	PG_A_MUTED,  /* denied: nothing more of it passes, but again what has passed */
};

/* How a client begins with TLS (RFC 8446, section 4.1.2): a record's head, a message's, a version, and a random number
 * that no two clients choose. */
#define PG_HELLO_BYTES 43
#define PG_HELLO_AT 11

struct pg_hello {
	u8 random[32];
};

/* What begins so: a connection and a TLS library's object. Either is seen first. */
struct pg_hello_ends {
	u64 cookie; /* 0: not seen yet */
	u64 object; /* 0: not seen yet */
	u32 process;
	u32 spoiled; /* 1: the object has taken plaintext that nobody judged */
};
PG_SIZE(struct pg_hello_ends, 24);

/* Where the plaintext of a connection is judged that opens with TLS: abi/tls.h. */
enum pg_tls_phase {
	PG_TLS_NONE,  /* nowhere: no hook has seen it */
	PG_TLS_READS, /* in the process that has it, by hooks in calls that read the socket themselves */
	PG_TLS_FED,   /* the same, by hooks in calls that are given what others have read from it */
};

/* A segment that was dropped for its denied frames, and whose place the mended one may take. */
struct pg_hole {
	u32 seq;
	u32 length;
	u32 slot;  /* where the mended payload is */
	u8 source; /* enum pg_source */
	u8 passed; /* 1: the copy has passed; whether TCP took it is not known yet */
	u16 base;  /* where in the slot it begins; a withheld segment's first bytes may be TCP's already */
};

/* How mending ended a stream. */
enum pg_mended_as {
	PG_NOT_MENDED,
	PG_MENDED_ENDED,  /* the server gets RST_STREAM, or a request that ends without its message */
	PG_MENDED_AWAY,	  /* the server sees nothing of it */
	PG_MENDED_ASTRAY, /* the server gets a call of a method that does not exist */
};

struct pg_mended {
	u32 stream;
	u32 as; /* enum pg_mended_as */
};

/*
 * Two processors are at work on it: where the client sends, and where the server does. What each of them writes for
 * each segment stands by itself, for a cache line that both have to do with goes back and forth. That one looks at the
 * other's cannot always be helped: at a response's end, and where TLS is judged.
 */
struct pg_conn {
	/* of both, and seldom written */
	u64 id;
	u64 cookie;
	u64 cgroup;
	u32 phase;   /* enum pg_phase */
	u32 answers; /* enum pg_answers */
	u32 holes;   /* how many of hole[] are open */
	u32 mends;   /* streams that ended by mending, ever */
	u16 role;    /* enum pg_role */
	u16 family;
	u16 local_port;
	u16 remote_port;
	u8 local[16];
	u8 remote[16];
	/* for each segment of the request direction */
	u32 lock;
	u32 chunk;     /* counts what the engine has read in one piece: segments, and copies of them */
	u32 run;       /* counts the runs of the engine; a dead connection keeps the last */
	u32 judged;    /* J: sequence number up to which the request direction is judged */
	u32 passing;   /* bytes of the current DATA frame to come that nobody looks at */
	u32 highest;   /* highest stream opened */
	u32 complete;  /* highest stream whose header block is complete */
	u32 delivered; /* `complete` before the segment that is being judged */
	struct pg_h2 request;
	/* seldom */
	u64 tls_object; /* the TLS library's object for it, and its process */
	u32 tls_process;
	u32 tls;	 /* enum pg_tls_phase */
	u32 first;	 /* sequence number of the first byte of the response direction */
	u32 texts;	 /* ids given to path texts */
	u32 table_limit; /* largest SETTINGS_HEADER_TABLE_SIZE that the server has sent, at least 4096 */
	u32 drained;	 /* 1: said so */
	u32 shadow;	 /* 1: dead, and still read, so that every RPC under way gets its own answer */
	u32 ts_recent;	 /* while holes are open: TCP's TS.Recent, before which it refuses a segment (RFC 7323, section
			    5) */
	u32 heard; /* PG_A_MUTED: what the client has acknowledged, sequence number, once it has; TCP itself does not
		      take what is past its own SND.NXT */
	u32 hello; /* how much of a TLS client's beginning path[] has, up to PG_HELLO_BYTES */
	/* for each segment that comes in: on ingress of the request direction, on egress of the response direction */
	u32 held;	 /* 1: some may wait for a hole to fill */
	u32 fin;	 /* 1: a FIN has passed */
	u32 fin_at;	 /* its sequence number */
	u32 stuck;	 /* dropped overlaps since rcv_nxt last moved */
	u32 stuck_at;	 /* rcv_nxt then */
	u64 stuck_since; /* ns; when rcv_nxt last moved while overlapping segments were dropped */
	/* seldom */
	u32 gone; /* responses whose stream the client has reset: how many, the oldest and the newest */
	u32 gone_first;
	u32 gone_last;
	u32 late; /* streams that the server has ended and the request side has not heard of: its lock was not free */
	u32 late_end[PG_MAX_LATE_ENDS]; /* with PG_LATE_RESET: it has reset the stream */
	struct pg_hole said;		/* what stands before a denied response in its segment, if it is in a slot */
	/* for each segment of the response direction */
	u32 response_lock;
	u32 sent;     /* sequence number up to which the response direction was followed, or judged */
	u32 followed; /* 1: `sent` is valid and the response direction is in step */
	struct pg_h2 response;
	/* for mending */
	struct pg_hole hole[PG_MAX_HOLES];
	struct pg_mended mended[PG_MAX_MENDED_STREAMS]; /* the last of them, each in its stream's place */
	/* for each call */
	struct pg_bits peer; /* header-scope bits that depend on the peer only */
	u32 streams;	     /* head of the list of live streams without a seat; 0: none */
	u32 standing;	     /* how many of these */
	u32 live;	     /* how many streams */
	u32 pending;	     /* delivered requests without an answer yet */
	u32 idles;	     /* how many berths are the connection's, for its next streams */
	u32 idle[PG_IDLE_BERTHS];
	u16 seat[PG_SEATS]; /* a berth's number + 1; 0: nobody has it */
	struct pg_block block;
	struct pg_kept kept;
	struct pg_hpack hpack;
	u8 path[PG_MAX_PATH_BYTES];
};

/* ---- token buckets ---- */

#define PG_BUCKET_WAYS 8
enum pg_bucket_sets { PG_BUCKET_SETS = PG_MAX_BUCKETS / PG_BUCKET_WAYS };

#ifdef __BPF__
#include <linux/bpf.h>
#else
struct bpf_spin_lock {
	u32 val;
};
#endif

/* A bucket that is full says nothing: it is as good as none, and its place is free. */
struct pg_bucket {
	u64 key[2];
	u32 limit; /* index + 1 */
	u32 reserved;
	u64 missing; /* units (struct pg_rate) that were missing at `time` */
	u64 time;    /* ns */
	u64 full_at; /* ns; when it is full if nobody takes more */
};
PG_SIZE(struct pg_bucket, 48);

/* A key's bucket is in the set that its hash names, or nowhere. */
struct pg_bucket_set {
	struct bpf_spin_lock lock;
	u32 reserved;
	struct pg_bucket way[PG_BUCKET_WAYS];
};

/* A limit's own bucket: of the whole policy, of calls without the key, and of keys that find no place. */
struct pg_own_bucket {
	struct bpf_spin_lock lock;
	u32 reserved;
	struct pg_bucket bucket;
};

/* Random numbers, so that nobody outside can choose keys that share a set, or values that share a hash. */
struct pg_seed {
	u64 mix[3];   /* odd */
	u32 value[2]; /* 256 .. 2^31 - 2 */
};

/* ---- segments that wait for a hole to fill ---- */

#define PG_HELD_SMALL_BYTES 2048

/* Where bytes are: in the packet, or in a slot of one of two sizes. */
enum pg_source { PG_SRC_PACKET, PG_SRC_HELD_SMALL, PG_SRC_HELD_LARGE };

/* Why a payload is copied. */
enum pg_copy {
	PG_COPY_WAITS,	  /* it passed, to wait in TCP's queue */
	PG_COPY_WITHHELD, /* it was dropped, to be sent by the agent once it is judged */
	PG_COPY_MENDS,	  /* something of it is denied: slots are kept back for these */
};

struct pg_held_segment {
	u32 seq;
	u32 length;
	u32 slot;
	u16 source; /* enum pg_source */
	u16 why;    /* enum pg_copy */
};

#define PG_SHARES 1024 /* a power of two; addresses that come to the same share one */
#define PG_LARGE_WEIGHT 16

struct pg_held {
	u32 count;
	u32 share; /* which of the shares its slots are counted in */
	struct pg_held_segment segment[PG_MAX_HELD_SEGMENTS];
};

/* ---- data on the handshake's last ACK, until its connection exists ---- */

struct pg_stash {
	u32 taken; /* 1: somebody has it */
	u32 valid;
	u32 seq;
	u32 length;
	u16 local_port;
	u16 remote_port;
	u8 remote[16];
	struct pg_conn conn;
};

#endif
