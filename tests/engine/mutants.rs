//! Are the fixtures worth anything? Engines with one fault each, and the fixture that must notice.
//!
//! A fault is an exact replacement in a copy of `bpf/`, which the C compiler makes a shared object of.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use libloading::Library;
use protocg::engine::{self, Outcome};
use protocg::{abi, policy::Policy};

use crate::fixtures;
use crate::rig::{self, Fixture, Judge, Policies};

struct Mutant {
    fault: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// The fixture that kills it.
    killer: &'static str,
}

const fn mutant(
    fault: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    killer: &'static str,
) -> Mutant {
    Mutant { fault, file, from, to, killer }
}

const HTTP2: &str = "proto/http2.h";
const HPACK: &str = "proto/hpack.h";
const GRPC: &str = "proto/grpc.h";
const PROTOBUF: &str = "proto/protobuf.h";
const AMBIGUOUS: &str = "proto/ambiguous.h";
const SCALAR: &str = "proto/scalar.h";
const ELEMENTS: &str = "policy/elements.h";
const UTF8: &str = "proto/utf8.h";
const PIPELINE: &str = "pipeline.h";
const STREAMS: &str = "streams.h";
const KEPT: &str = "kept.h";
const SEATS: &str = "seats.h";
const WORK: &str = "source/work.h";
const MATCH: &str = "policy/match.h";
const VERDICT: &str = "verdict.h";
const LIMIT: &str = "policy/limit.h";

#[rustfmt::skip]
const MUTANTS: &[Mutant] = &[
    // http2
    mutant("padding is read as payload", HTTP2, "h->left -= h->pad;", "", "a message that has its A in the padding only"),
    mutant("padding may be too long", HTTP2, "if (h->pad > h->left)", "if (h->pad > h->left + 1)", "DATA whose padding is one byte too long"),
    mutant("frames may stand inside a block", HTTP2, "if (h->block != (h->type == PG_F_CONTINUATION))", "if (0)", "PING inside a block"),
    mutant("CONTINUATION of any stream goes on", HTTP2, "if (h->type == PG_F_CONTINUATION && h->stream !=", "if (0 && h->stream !=", "CONTINUATION of another stream"),
    mutant("SETTINGS of any length", HTTP2, "return length % PG_SETTING_BYTES ? PG_R_FRAME_SIZE : PG_R_NONE;", "return PG_R_NONE;", "SETTINGS of seven bytes"),
    mutant("priority is read as block", HTTP2, "h->state = PG_H2_PRIORITY;", "", "HEADERS with priority"),
    // hpack
    mutant("eviction is off by one", HPACK, "return p->size > limit && p->count;", "return p->size > limit + 1 && p->count;", "a table one byte too full loses its oldest field"),
    mutant("only so many fields are evicted", HPACK, "i < PG_MAX_DYNAMIC_ENTRIES / PG_EVICTIONS_A_CALL", "i < 1", "a hundred fields are evicted by one"),
    mutant("a field as large as the table is not kept", HPACK, "if (size > p->limit) {", "if (size >= p->limit) {", "a field as large as the table is kept"),
    mutant("a field larger than the table changes nothing", HPACK, "\t\tpg_hpack_evict(c, 0);\n", "", "a field larger than the table empties it"),
    mutant("one index past the table is taken", HPACK, "if (index >= p->count)", "if (index > p->count)", "the first index past an empty dynamic table"),
    mutant("dynamic indexes are off by one", HPACK, "p->entry = p->ring[pg_index(p->newest - index,", "p->entry = p->ring[pg_index(p->newest - index - 1,", "a name kept by one call, used by the next"),
    mutant("size updates evict nothing", HPACK, "\tp->limit = size;\n\tpg_hpack_evict(c, size);", "\tp->limit = size;", "an update to 0 empties the table"),
    mutant("size updates set no limit", HPACK, "\tp->limit = size;\n", "", "a table of 83 bytes holds one field of 42"),
    mutant("size updates may stand anywhere", HPACK, "if (p->fields || p->updates >= 2)", "if (p->updates >= 2)", "an update behind a field"),
    mutant("size updates may exceed the limit", HPACK, "if (size > c->table_limit)", "if (0)", "an update past the limit"),
    mutant("Huffman padding is unchecked", HPACK, "if (p->huffman && !(p->code >> 16 & PG_HUFFMAN_MAY_END))", "if (0)", "Huffman padding with a zero"),
    mutant("bad Huffman codes are passed over", HPACK, "if (code >> 16 & PG_HUFFMAN_BAD)", "if (0)", "Huffman's end of string behind a character"),
    mutant("integers wrap around", HPACK, "if (p->shift > 21)", "if (p->shift > 63)", "a length with four needless bytes"),
    mutant("literals without indexing are kept", HPACK, "return p->form == PG_HF_INCREMENTAL ? pg_hpack_insert(c) : PG_R_NONE;", "return pg_hpack_insert(c);", "a literal without indexing is not kept"),
    mutant("upper-case names are taken", HPACK, "if ((ch >= 'a' && ch <= 'z') ||", "if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||", "an upper-case name"),
    mutant("values may end in a space", HPACK, "if (pg_space(p->first) || (pg_space(p->last) && !pg_value_is_binary(p, 1)))", "if (pg_space(p->first))", "a space behind a value"),
    mutant("any value may be binary", HPACK, "return p->entry.name == PG_NAME_BINARY && !(", "return !(", "NUL before a value whose name does not end in -bin"),
    mutant("-bin values may have NUL anywhere", HPACK, "!(p->value_size ? p->first : ch);", "1;", "NUL inside a base64 value"),
    mutant("a value's fault sticks to its name", HPACK, "if (p->entry.reason != PG_R_HEADER_NAME && p->entry.reason != PG_R_PSEUDO_HEADER)", "if (p->integer < PG_STATIC_ENTRIES)", "a malformed value does not spoil its name"),
    mutant("paths may have three segments", HPACK, "if (p->slashes != 2 || !p->segment)", "if (p->slashes < 2 || !p->segment)", "a path of three segments"),
    mutant("paths may have a query", HPACK, "ch == '?' || ", "", "a path with a query"),
    mutant("paths may be a byte too long", HPACK, "if (p->value_size >= PG_MAX_PATH_BYTES) {", "if (p->value_size > PG_MAX_PATH_BYTES) {", "a path of a byte more"),
    // grpc
    mutant("pseudo-headers may stand twice", GRPC, "if (b->seen & (bit | PG_B_REGULAR))", "if (b->seen & PG_B_REGULAR)", ":path twice, once of another method"),
    mutant("pseudo-headers may come late", GRPC, "if (b->seen & (bit | PG_B_REGULAR))", "if (b->seen & bit)", ":path behind content-type"),
    mutant("any content-type will do", GRPC, "if (!(b->seen & PG_B_CONTENT_TYPE) || b->seen & PG_B_NOT_GRPC)", "if (0)", "application/grpc-web"),
    mutant("any flag will do", GRPC, "return s->have == 1 && byte > 1 ? PG_R_GRPC_FLAG : PG_R_NONE;", "return PG_R_NONE;", "a flag of 2"),
    mutant("messages are a byte too long", GRPC, "\t*compressed = s->value;", "\t*compressed = s->value;\n\ts->length++;", "a message in one frame"),
    // protobuf
    mutant("the last value does not win", PROTOBUF, "\t\t\tpg_row(&s->bits, f->reset);\n\t\t} else if (!pg_pb_is_packed(f, wire)) {", "\t\t\t;\n\t\t} else if (!pg_pb_is_packed(f, wire)) {", "request.text.contains(\"a\"): what was found in the first is forgotten"),
    mutant("numbers do not clear their oneof", PROTOBUF, "\t\t\tpg_row(&s->bits, f->reset);\n\t\t} else if (!pg_pb_is_packed(f, wire)) {", "\t\t\tif (f->kind != PG_K_INT32) pg_row(&s->bits, f->reset);\n\t\t} else if (!pg_pb_is_packed(f, wire)) {", "request.choice_text == \"x\": cleared by a number"),
    mutant("another wire type counts", PROTOBUF, "\t\t\t\treturn PG_R_PROTOBUF_WIRE_TYPE;\n\t\t\ts->field = 0;", "\t\t\t\treturn PG_R_PROTOBUF_WIRE_TYPE;\n\t\t\tpg_row(&s->bits, f->reset);\n\t\t\ts->field = 0;", "request.choice_text == \"x\": a member with another wire type clears nothing"),
    mutant("groups are not entered", PROTOBUF, "return pg_pb_push(s, pg_pb_end(s), PG_LEVEL_GROUP | number, 0);", "return PG_R_NONE;", "request.i32 == 5: a field inside a group is unknown"),
    mutant("any end ends a group", PROTOBUF, "if (!pg_pb_in_group(s) || pg_pb_group(s) != number)", "if (!pg_pb_in_group(s))", "request.i32 == 5: a group ended by another number"),
    mutant("depth is not bounded", PROTOBUF, "if (s->depth >= PG_MAX_MESSAGE_DEPTH)", "if (s->depth > PG_MAX_MESSAGE_DEPTH)", "request.i32 == 5: 33 groups inside each other"),
    mutant("lengths may exceed the parent's", PROTOBUF, "if (size > pg_pb_end(s) - s->offset)", "if (size > s->length - s->offset)", "request.outer.middle.inner.name == \"x\": a field longer than its sub-message"),
    mutant("varints may exceed their parent", PROTOBUF, "if (s->offset >= pg_pb_end(s))\n\t\t\t\treturn PG_R_PROTOBUF_LENGTH;", "", "request.outer.middle.inner.name == \"x\": a varint that goes past its sub-message"),
    mutant("varints may have eleven bytes", PROTOBUF, "if (s->have >= PG_VARINT_BYTES || (s->have == PG_VARINT_BYTES - 1 && byte > 1))", "if (s->have > PG_VARINT_BYTES)", "request.i32 == 5: 5 in eleven bytes"),
    mutant("field number 0 is taken", PROTOBUF, "if (s->value >> 32 || !number)", "if (s->value >> 32)", "request.i32 == 5: field number 0"),
    mutant("int32 is read as int64", SCALAR, "\tcase PG_K_INT32:\n", "\tcase PG_K_INT32:\n\t\treturn pg_key_signed(raw);\n", "request.i32 == 7: only the low 32 bits count"),
    mutant("zigzag is forgotten", SCALAR, "return pg_key_signed(pg_zigzag(raw));", "return pg_key_signed(raw);", "request.s64 == -9223372036854775808: the least"),
    mutant("minus zero is below zero", SCALAR, "\tif (bits == 1ull << 63)\n\t\tbits = 0;\n", "", "request.d == 0.0: -0.0"),
    mutant("float's subnormals are zero", SCALAR, "if (!fraction)\n\t\treturn sign;", "if (!exponent)\n\t\treturn sign;", "request.f > 0.0: the least subnormal"),
    mutant("UTF-8 is unchecked", PROTOBUF, "s->utf8 = pg_utf8_step(s->utf8, pg_peek_ahead(w, i));", "s->utf8 = 0;", "request.text.contains(\"A\"): 0xff"),
    mutant("UTF-8 may be cut off", PROTOBUF, "if (f->kind == PG_K_STRING && s->utf8)", "if (0)", "request.text.contains(\"A\"): a character that is cut off"),
    mutant("overlong UTF-8 is taken", UTF8, "byte >= 0xc2", "byte >= 0xc0", "request.text.contains(\"A\"): an overlong slash"),
    mutant("an empty field at the end is waited for", PROTOBUF, "s->pb = state == PG_PB_SKIP && !size ? PG_PB_TAG : state;", "s->pb = state;", "request.text == \"x\" && request.i32 == 5: an empty unknown field at the end"),
    mutant("maps may have any wire type", PROTOBUF, "if (f && f->flags & PG_FIELD_MAP && wire != PG_W_BYTES)", "if (0)", "request.labels[\"k\"] == \"v\": another wire type"),
    // elements
    mutant("elements do not begin empty", PROTOBUF, "\t\t\tpg_row(&s->bits, f->reset);\n\t\t} else if (!pg_pb_is_packed(f, wire)) {", "\t\t\tif (!(f->flags & PG_FIELD_ELEMENTS)) pg_row(&s->bits, f->reset);\n\t\t} else if (!pg_pb_is_packed(f, wire)) {", "request.items.exists(x, x.name == \"a\" && x.flag): in two elements"),
    mutant("singular fields are packed, too", PROTOBUF, "wire == PG_W_BYTES && f->flags & (PG_FIELD_ELEMENTS | PG_FIELD_PACKABLE) &&", "wire == PG_W_BYTES &&", "request.i32 == 7: a singular field is never packed"),
    mutant("packed elements may be cut off", PROTOBUF, "\tif (s->packed)\n\t\treturn s->packed;\n", "", "7 in request.numbers: a varint that goes past its run"),
    mutant("one packed element is enough", PROTOBUF, "if (s->packed && s->offset < s->packed)", "if (0)", "7 in request.numbers: packed, last"),
    mutant("elements of sub-messages have no end", PROTOBUF, "element = f->flags & PG_FIELD_ELEMENTS ? s->field : 0;", "element = 0;", "request.items.exists(x, x.name == \"a\" && x.flag): in one element"),
    mutant("programs end with the first clause that holds", ELEMENTS, "pg_row(&s->bits, t->rule);", "{ pg_row(&s->bits, t->rule); break; }", "request.labels[\"k\"] == \"v\": there"),
    mutant("keys that repeat count", ELEMENTS, "== s->hash)\n\t\t\treturn 1;", "== s->hash)\n\t\t\treturn 0;", "size(request.labels) == 2: two keys, one of them twice"),
    mutant("counters overflow", ELEMENTS, "if (count != op->mask)", "if (1)", "size(request.items) == 3: more than the counter holds"),
    // pipeline and verdict
    mutant("END_STREAM on DATA is ignored", PIPELINE, "if (h->type == PG_F_DATA && h->flags & PG_FLAG_END_STREAM)", "if (0)", "END_STREAM on empty DATA, no message"),
    mutant("DATA behind END_STREAM is plain", PIPELINE, "return s && !(s->request & PG_REQ_END);", "return s != 0;", "DATA behind END_STREAM on DATA"),
    mutant("what is passed over ends no message", PIPELINE, "if (pg_in_skipped(s) && s->left > h->left)\n\t\th->left -=", "if (pg_in_skipped(s))\n\t\th->left -=", "an unread field that ends with its frame"),
    mutant("END_STREAM on HEADERS is ignored", PIPELINE, "return h->block_flags & PG_FLAG_END_STREAM ?", "return 0 ?", "END_STREAM on the header block"),
    mutant("a call without a message is let off", PIPELINE, "if (!(s->request & PG_REQ_ALLOWED) && !s->message &&", "if (0 &&", "END_STREAM on padding, no message"),
    mutant("a call may end inside a message", PIPELINE, "if (!pg_grpc_between_messages(s) &&", "if (0 &&", "END_STREAM before the last byte of a message"),
    mutant("compressed messages are read", PIPELINE, "return compressed ? pg_message_fail(c, w, s, stream, PG_R_COMPRESSED) : PG_GO;", "return PG_GO;", "a compressed message of no bytes"),
    mutant("a message remembers the one before it", PIPELINE, "\t\ts->bits.word[i] = 0;", "\t\t;", "what one message said is forgotten by the next"),
    mutant("stream ids may come again", PIPELINE, "if (h->type == PG_F_HEADERS && h->stream > c->highest) {", "if (h->type == PG_F_HEADERS && h->stream >= c->highest) {", "a stream id that comes again"),
    mutant("blocks may end inside a field", PIPELINE, "if (c->hpack.state != PG_HP_FIELD)", "if (0)", "a block that ends inside a field"),
    mutant("messages need no leave", PIPELINE, "if (judgement == PG_J_NONE && !(s->request & PG_REQ_ALLOWED) && config.default_action == PG_DENY)", "if (0)", "a message that it does not want"),
    mutant("audit rules deny", VERDICT, "if (!(r->flags & PG_RULE_AUDIT))", "if (1)", "an audit rule denies nothing"),
    // responses
    mutant("a reset ends what is judged", STREAMS, "\tif (!config.responses)\n\t\treturn 0;\n", "\tpg_half_close(c, id);\n\treturn 0;\n", "response: a stream that the client has reset is judged"),
    mutant("DATA of nobody passes", PIPELINE, "\t\t\tif (!s)\n\t\t\t\treturn pg_fail_connection(c, w, PG_R_RESPONSE_STREAM);", "\t\t\tif (!s) {\n\t\t\t\th->state = PG_H2_SKIP;\n\t\t\t\treturn PG_GO;\n\t\t\t}", "response: DATA behind the end of its stream"),
    mutant("servers may push", PIPELINE, "if (h->type == PG_F_PUSH_PROMISE)\n", "if (0)\n", "response: PUSH_PROMISE"),
    mutant("responses know no metadata", PIPELINE, "\thalf->bits = c->block.bits;\n", "", "response: metadata of the request and a field: both"),
    mutant("what ends a response does not", PIPELINE, "pg_half_close(c, stream | PG_RESPONSE_HALF);", ";", "response: DATA behind the end of its stream"),
    mutant("responses have no padding", PIPELINE, "\tif (config.responses && h->state == PG_H2_DATA)\n\t\th->state = PG_H2_PAD;\n", "", "response: padding alone"),
    // what comes again
    mutant("blocks are compared but for their last bytes", WORK, "if (n < 8)\n\t\tother <<= (8 - n) * 8;", "if (n < 8)\n\t\tother = 0;", "a block but for one byte, last, with 0 others"),
    mutant("blocks are compared by their last bytes", WORK, "\treturn other != 0;", "\treturn n < 8 && other;", "a block but for one byte, before the last, with 7 others"),
    mutant("blocks are kept behind trailers", PIPELINE, "\tc->kept.length = 0;\n", "", "a block that comes again behind trailers"),
    mutant("blocks that change the table are kept", KEPT, " || c->hpack.changes", "", "a block that comes again and changes the table"),
    mutant("berths are taken as they are", SEATS, "__builtin_memset(s, 0, __builtin_offsetof(struct pg_stream, bits));", "", "a message in one frame"),
    mutant("whoever has the seat is meant", SEATS, "if (!s || *(volatile u32 *)&s->id != id)\n", "if (!s)\n", "streams that share a seat"),
    mutant("seats are taken from whoever has them", SEATS, "\tif (*seat)\n\t\treturn 0;\n", "", "streams that share a seat"),
    // eight bytes at once
    mutant("nothing leads out", MATCH, "return (stay & 0xff) == PG_STAY_BUT &&", "return (stay & 0xff) == PG_STAY_BUT || 1 ||", "an A behind 0 others"),
    mutant("no byte is found", MATCH, "return ((word - PG_EACH_BYTE) & ~word & PG_HIGH_BITS) != 0;", "return 0;", "an A behind 9 others"),
    mutant("what is not ASCII is passed", PROTOBUF, "(text && pg_eight(pg_ahead(w, i)) & PG_HIGH_BITS)", "0", "a byte that is no character behind 9 others"),
    mutant("blocks may have what is not ASCII", MATCH, "return !(high & PG_HIGH_BITS) && others == PG_HIGH_BITS;", "return others == PG_HIGH_BITS;", "what is no character and no matter in a block, at 511"),
    mutant("blocks may have the first letter", MATCH, "others &= (word ^ a) + PG_NO_LETTER;", ";", "an A in a block, at 9"),
    mutant("blocks may have the other letters", MATCH, "others &= ((word ^ b) + PG_NO_LETTER) & ((word ^ c) + PG_NO_LETTER);", ";", "one of three letters in a block, at 10"),
    mutant("keys are passed over", PROTOBUF, " || f->flags & PG_FIELD_KEY || f->automata > 1", " || f->automata > 1", "size(request.labels) == 2: two long keys that begin differently"),
    mutant("one automaton speaks for all", PROTOBUF, " || f->flags & PG_FIELD_KEY || f->automata > 1", " || f->flags & PG_FIELD_KEY", "C in a block that two automata read"),
    mutant("no letter is ASCII if one is not", MATCH, "(stay & PG_LETTERS_HIGH) == PG_LETTERS_HIGH", "stay & PG_LETTERS_HIGH", "an A in a block, where a letter that is not ASCII is looked for, too"),
    mutant("blocks have no characters", PROTOBUF, "\t\ts->points += *used;\n", "", "a size in characters in a block, at 9"),
    mutant("a character may go on with a block", PROTOBUF, "if (!s || !s->field || s->utf8)\n", "if (!s || !s->field)\n", "a character that goes on behind a block"),
    // ambiguous messages
    mutant("the switch is never on", AMBIGUOUS, "return config.cause[PG_CAUSE_AMBIGUOUS] != PG_SWITCH_ALLOW;", "return 0;", "ambiguous: request.text == \"x\": a string as a varint"),
    mutant("the switch is always on", AMBIGUOUS, "return config.cause[PG_CAUSE_AMBIGUOUS] != PG_SWITCH_ALLOW;", "return 1;", "ambiguous: with the switch on allow, it is read as protobuf is defined"),
    mutant("another wire type is unknown", PROTOBUF, "\t\t\tif (pg_pb_strict())\n\t\t\t\treturn PG_R_PROTOBUF_WIRE_TYPE;\n", "", "ambiguous: request.text == \"x\": a string as a varint"),
    mutant("nothing is packed but what rules read", PROTOBUF, "PG_FIELD_ELEMENTS | PG_FIELD_PACKABLE", "PG_FIELD_ELEMENTS", "ambiguous: request.text == \"x\": packed numbers"),
    mutant("tags may be long", PROTOBUF, "\tif (s->have > PG_NARROW_BYTES && pg_pb_strict())\n\t\treturn PG_R_PROTOBUF_LONG_VARINT;\n\ts->value = 0;", "\ts->value = 0;", "ambiguous: request.text == \"x\": an unknown tag of six bytes"),
    mutant("lengths may be long", PROTOBUF, "\tif (s->have > PG_NARROW_BYTES && pg_pb_strict())\n\t\treturn PG_R_PROTOBUF_LONG_VARINT;\n\tsize", "\tsize", "ambiguous: request.text == \"x\": a length of six bytes"),
    mutant("six bytes are not too many", AMBIGUOUS, "return bytes > PG_NARROW_BYTES &&", "return bytes > PG_NARROW_BYTES + 1 &&", "ambiguous: request.text == \"x\": an int32 that no rule reads in 6 bytes"),
    mutant("ten bytes are too many", AMBIGUOUS, "bytes < PG_VARINT_BYTES;", "bytes <= PG_VARINT_BYTES;", "ambiguous: request.i32 == 5: in ten bytes"),
    mutant("64 bits are 32", SCALAR, "kind <= PG_K_SINT32", "kind <= PG_K_SINT64", "ambiguous: request.i64 == 5: in nine bytes"),
    mutant("bools have 64 bits", PROTOBUF, "(f->kind == PG_K_BOOL && raw >> 32)", "0", "ambiguous: request.flag: true as 2^32"),
    mutant("packed numbers need no end", AMBIGUOUS, "return s->have ? PG_R_PROTOBUF_LENGTH : PG_R_NONE;", "s->have = 0; return PG_R_NONE;", "ambiguous: request.text == \"x\": a packed number without an end"),
    mutant("packed numbers may be long", AMBIGUOUS, "\t\tif (narrow && pg_pb_overlong(s->have))\n\t\t\treturn PG_R_PROTOBUF_LONG_VARINT;\n", "", "ambiguous: request.text == \"x\": a packed number of six bytes"),
    mutant("packed numbers may have eleven bytes", AMBIGUOUS, "if (s->have >= PG_VARINT_BYTES - 1 && byte > 1)", "if (0)", "ambiguous: request.text == \"x\": a packed number of eleven bytes"),
    mutant("a message remembers the last one's fields", AMBIGUOUS, "s->once[pg_index(s->once_top + i, PG_MAX_ONCE_WORDS)] = 0;", ";", "ambiguous: request.text == \"x\": a sub-message in each of two elements"),
    mutant("messages share what has come", AMBIGUOUS, "s->once_top += n->once;", ";", "ambiguous: request.text == \"x\": a sub-message that no rule reads twice"),
    mutant("what a sub-message took is not given back", PROTOBUF, "\ts->once_top = s->level[pg_index(s->depth, PG_MAX_MESSAGE_DEPTH)].once;\n", "", "ambiguous: request.text == \"x\": many entries of a map, a sub-message in each"),
    mutant("oneofs may have two members", AMBIGUOUS, "if (was && was != f->once)", "if (0)", "ambiguous: request.choice_text == \"x\": before a number"),
    mutant("a oneof's scalars come once", AMBIGUOUS, "if (was && (f->kind == PG_K_MESSAGE || f->kind == PG_K_GROUP))", "if (was)", "ambiguous: request.choice_text == \"x\": the same member twice"),
    mutant("what no rule reads is not walked", PROTOBUF, "\tif (f->kind == PG_K_MESSAGE) {\n", "\tif (f->flags & PG_FIELD_SHAPE && f->kind == PG_K_MESSAGE) {\n\t\ts->field = 0;\n\t\treturn pg_pb_size(s, size, PG_PB_SKIP);\n\t}\n\tif (f->kind == PG_K_MESSAGE) {\n", "ambiguous: request.text == \"x\": a string that goes past its end"),
    // limits
    mutant("a look takes a token", VERDICT, "pg_limits_pass(c, w, s, 0)", "pg_limits_pass(c, w, s, 1)", "the rate is the burst that is not said"),
    mutant("limits that audit deny", VERDICT, "\t\tif (!audits)\n\t\t\treturn PG_J_DENY;", "\t\treturn PG_J_DENY;", "a limit that only audits lets pass"),
    mutant("a token costs nothing", LIMIT, "missing += cost;", "", "the rate is the burst that is not said"),
    mutant("methods share a bucket", LIMIT, "key0 = w->method;", "", "each method has its own"),
    mutant("a key that comes twice has a bucket", LIMIT, "if (v->count != 1)", "if (!v->count)", "several values buy no bucket of their own"),
    mutant("a new key finds its bucket empty", LIMIT, "b->full_at = 0;", "b->full_at = ~0ull; b->missing = capacity;", "each tenant has a bucket"),
    mutant("values are all the same", HPACK, "if (p->counted)", "if (0)", "each tenant has a bucket"),
    mutant("the table forgets values", GRPC, "v->hash[0] = e->hash[0];\n\t\tv->hash[1] = e->hash[1];", "v->hash[0] = v->hash[1] = 1;", "each tenant has a bucket"),
    mutant("a header block remembers the last one's values", GRPC, "b->value[i].count = 0;", "", "each tenant has a bucket"),
];

type New = unsafe extern "C" fn(*const abi::pg_tables, *const u8, u16) -> *mut abi::pg_host;
type Free = unsafe extern "C" fn(*mut abi::pg_host);
type Bytes = unsafe extern "C" fn(*mut abi::pg_host, *const u8, u32) -> i32;
type Events = unsafe extern "C" fn(*mut abi::pg_host, *mut *const abi::pg_event) -> u32;

/// A connection of a loaded engine.
struct Loaded<'l> {
    library: &'l Library,
    host: *mut abi::pg_host,
}

impl Loaded<'_> {
    fn symbol<T: Copy>(library: &Library, name: &str) -> T {
        // SAFETY: callers name a function of bpf/host/engine.h, and its type.
        unsafe { *library.get::<T>(name.as_bytes()).unwrap() }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> i32 {
        let call: Bytes = Loaded::symbol(self.library, name);
        // SAFETY: `host` lives until drop, `bytes` for the call.
        unsafe { call(self.host, bytes.as_ptr(), u32::try_from(bytes.len()).unwrap()) }
    }
}

impl Judge for Loaded<'_> {
    fn request(&mut self, bytes: &[u8]) -> Outcome {
        Outcome::of(self.bytes("pg_host_request", bytes))
    }

    fn response(&mut self, bytes: &[u8]) -> Outcome {
        Outcome::of(self.bytes("pg_host_response", bytes))
    }

    fn events(&self) -> Vec<abi::pg_event> {
        let call: Events = Loaded::symbol(self.library, "pg_host_events");
        let mut events = std::ptr::null();
        // SAFETY: the array is valid until the next call, and copied here.
        unsafe {
            match call(self.host, &raw mut events) {
                0 => Vec::new(),
                n => std::slice::from_raw_parts(events, n as usize).to_vec(),
            }
        }
    }
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        let free: Free = Loaded::symbol(self.library, "pg_host_free");
        // SAFETY: made by the same library's `pg_host_new`, freed once.
        unsafe { free(self.host) }
    }
}

/// What a loaded engine makes of a fixture, as it should be if the engine is whole.
fn agrees(library: &Library, policy: &Policy, fixture: &Fixture) -> bool {
    let mut tables = engine::raw(&policy.tables);
    let loud = abi::pg_config { events_allowed: u32::from(fixture.loud), ..policy.tables.config };
    tables.config = &raw const loud;
    let new: New = Loaded::symbol(library, "pg_host_new");
    // SAFETY: the tables outlive the connection; an address has 16 bytes.
    let host = unsafe { new(&raw const tables, fixture.remote.0.octets().as_ptr(), fixture.remote.1) };
    assert!(!host.is_null());
    let mut loaded = Loaded { library, host };
    rig::run(&mut loaded, policy, fixture, &[]).0 == fixture.events
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Builds the engine, with a fault or without.
fn build(folder: &Path, mutant: Option<&Mutant>) -> Library {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf"), folder);
    if let Some(mutant) = mutant {
        let path = folder.join(mutant.file);
        let text = std::fs::read_to_string(&path).unwrap();
        let times = text.matches(mutant.from).count();
        assert_eq!(times, 1, "{}: {:?} stands {times} times in {}", mutant.fault, mutant.from, mutant.file);
        std::fs::write(&path, text.replace(mutant.from, mutant.to)).unwrap();
    }
    let object = folder.join("engine.so");
    let include: PathBuf = folder.to_owned();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O0", "-w", "-Wl,-Bsymbolic", "-I"])
        .arg(&include)
        .arg(folder.join("host/engine.c"))
        .arg("-o")
        .arg(&object)
        .output()
        .unwrap();
    assert!(built.status.success(), "{:?}\n{}", mutant.map(|m| m.fault), String::from_utf8_lossy(&built.stderr));
    // SAFETY: the engine has no constructors.
    unsafe { Library::new(&object).unwrap() }
}

/// Which fixtures notice.
fn killers<'f>(library: &Library, fixtures: &'f [(Fixture, Arc<Policy>)]) -> Vec<&'f str> {
    let notices = |(fixture, policy): &&(Fixture, Arc<Policy>)| !agrees(library, policy, fixture);
    fixtures.iter().filter(notices).map(|(fixture, _)| fixture.name.as_str()).collect()
}

#[test]
fn every_mutant_is_killed_by_its_fixture() {
    // Machines that only run the tests have none; scripts/setup.sh installs it where they are built.
    if Command::new("cc").arg("--version").output().is_err() {
        return println!("SKIPPED mutants: there is no C compiler to build them with");
    }
    let mut policies = Policies::default();
    let fixtures: Vec<(Fixture, Arc<Policy>)> =
        fixtures::all().into_iter().map(|fixture| (fixture.clone(), policies.get(&fixture.policy))).collect();
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(killers(&build(whole.path(), None), &fixtures), Vec::<&str>::new(), "the engine without a fault");

    let next = Mutex::new(MUTANTS.iter());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = next.lock().unwrap().next() else { return };
                    let folder = tempfile::tempdir().unwrap();
                    let library = build(folder.path(), Some(mutant));
                    let found: Vec<String> = killers(&library, &fixtures).into_iter().map(str::to_owned).collect();
                    results.lock().unwrap().push((mutant.fault, mutant.killer, found));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    let place = |fault: &str| MUTANTS.iter().position(|mutant| mutant.fault == fault);
    results.sort_by_key(|(fault, ..)| place(fault));
    assert_eq!(results.len(), MUTANTS.len());
    let mut alive = Vec::new();
    for (fault, killer, found) in &results {
        println!("{fault:45} -> {killer} (and {} more)", found.len().saturating_sub(1));
        if !found.iter().any(|name| name == killer) {
            alive.push(format!("{fault}: not killed by `{killer}`, but by {found:?}"));
        }
    }
    assert!(alive.is_empty(), "{}", alive.join("\n"));
}
