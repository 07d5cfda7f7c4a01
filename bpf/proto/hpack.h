/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HPACK (RFC 7541), the whole decoder: static and dynamic table with size accounting and eviction, size updates, all
 * literal forms, Huffman. It stops after any byte. A field's text is not kept: while its characters pass, they drive
 * the tries and automata that the policy has for its name, and what they yield is what the dynamic table keeps.
 *
 * Two kinds of trouble: what breaks the decoder ends the connection and is returned; what makes the field malformed
 * (RFC 9113, section 8.2) is kept with the entry, and condemns every RPC that refers to it.
 */
#ifndef PG_PROTO_HPACK_H
#define PG_PROTO_HPACK_H

#include "policy/limit.h"
#include "policy/match.h"
#include "proto/huffman_table.h"

#define PG_HUFFMAN_SYMBOL 1
#define PG_HUFFMAN_MAY_END 2
#define PG_HUFFMAN_BAD 4

#define PG_HPACK_DEFAULT_TABLE 4096 /* RFC 9113, section 6.5.2 */
#define PG_HPACK_ENTRY_OVERHEAD 32  /* RFC 7541, section 4.1 */

static inline void pg_entry_spoil(struct pg_entry *e, u32 reason)
{
	if (!e->reason)
		e->reason = reason;
}

/* ---- the dynamic table ---- */

static inline u32 pg_entry_size(const struct pg_entry *e)
{
	return (u32)e->name_size + e->value_size + PG_HPACK_ENTRY_OVERHEAD;
}

static inline int pg_hpack_exceeds(const struct pg_hpack *p, u32 limit)
{
	return p->size > limit && p->count;
}

#define PG_EVICTIONS_A_CALL 16
_Static_assert(PG_MAX_DYNAMIC_ENTRIES % PG_EVICTIONS_A_CALL == 0, "every entry can go");

/* Some of the oldest entries go, while the table is larger than `limit`. */
PG_STEP int pg_hpack_evict_some(struct pg_conn *c, u32 limit)
{
	struct pg_hpack *p;
	int i;

	if (!c)
		return 0;
	p = &c->hpack;
	for (i = 0; i < PG_EVICTIONS_A_CALL && pg_hpack_exceeds(p, limit); i++) {
		p->count--;
		p->size -= pg_entry_size(&p->ring[pg_index(p->newest - p->count, PG_MAX_DYNAMIC_ENTRIES)]);
	}
	return 0;
}

/* Oldest entries go until the table is no larger than `limit`. */
static inline void pg_hpack_evict(struct pg_conn *c, u32 limit)
{
	int i;

	for (i = 0; i < PG_MAX_DYNAMIC_ENTRIES / PG_EVICTIONS_A_CALL && pg_hpack_exceeds(&c->hpack, limit); i++)
		pg_hpack_evict_some(c, limit);
}

/* The field just read becomes the newest entry; one that is larger than the table empties it (section 4.4). */
static inline u32 pg_hpack_insert(struct pg_conn *c)
{
	struct pg_hpack *p = &c->hpack;
	u32 size = p->name_size + p->value_size + PG_HPACK_ENTRY_OVERHEAD;

	if (size > p->limit) {
		pg_hpack_evict(c, 0);
		return PG_R_NONE;
	}
	pg_hpack_evict(c, p->limit - size);
	if (p->count >= PG_MAX_DYNAMIC_ENTRIES)
		return PG_R_DYNAMIC_TABLE;
	p->newest++;
	p->ring[pg_index(p->newest, PG_MAX_DYNAMIC_ENTRIES)] = p->entry;
	p->count++;
	p->size += size;
	if (p->entry.name == PG_NAME_PATH)
		p->path_slot = pg_index(p->newest, PG_MAX_DYNAMIC_ENTRIES) + 1;
	return PG_R_NONE;
}

/* Loads the entry that an index names into p->entry. */
static inline u32 pg_hpack_lookup(struct pg_hpack *p, u32 index)
{
	if (!index)
		return PG_R_HPACK_INDEX;
	if (index < PG_STATIC_ENTRIES) {
		p->entry = config.fixed[index];
		return PG_R_NONE;
	}
	index -= PG_STATIC_ENTRIES;
	if (index >= p->count)
		return PG_R_HPACK_INDEX;
	p->entry = p->ring[pg_index(p->newest - index, PG_MAX_DYNAMIC_ENTRIES)];
	return PG_R_NONE;
}

/* ---- characters of names and values ---- */

/* A step in one of the tries; 0 is nowhere. */
static inline u32 pg_trie_step(u32 state, u8 byte, u32 *prefix)
{
	const struct pg_trie *t = pg_get_trie(state);
	u32 to;

	if (!state || !t)
		return 0;
	to = t->base + byte;
	t = pg_get_trie(to);
	if (!t || t->check != state)
		return 0;
	if (t->prefix)
		*prefix = t->prefix;
	return to;
}

/* Field names are lower-case tokens (RFC 9113, section 8.2.1); a colon may only begin one. */
static inline int pg_name_character(u8 ch, int first)
{
	if ((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_' || ch == '.')
		return 1;
	if (ch == ':')
		return first;
	return ch == '!' || ch == '#' || ch == '$' || ch == '%' || ch == '&' || ch == '\'' || ch == '*' || ch == '+' ||
	       ch == '^' || ch == '`' || ch == '|' || ch == '~';
}

#define PG_TAIL_BIN 0x2d62696eu /* "-bin" */

static inline void pg_name_start(struct pg_hpack *p)
{
	p->name_size = 0;
	p->first = 0;
	p->tail = 0;
	p->trie = config.name_root;
	p->entry.name = PG_NAME_OTHER;
	p->entry.reason = PG_R_NONE;
}

static inline void pg_name_put(struct pg_hpack *p, u8 ch)
{
	u32 prefix;

	if (!p->name_size)
		p->first = ch;
	if (!pg_name_character(ch, !p->name_size))
		pg_entry_spoil(&p->entry, PG_R_HEADER_NAME);
	p->trie = pg_trie_step(p->trie, ch, &prefix);
	p->tail = p->tail << 8 | ch;
	p->name_size++;
}

static inline void pg_name_end(struct pg_hpack *p)
{
	const struct pg_trie *t = pg_get_trie(p->trie);

	if (!p->name_size)
		pg_entry_spoil(&p->entry, PG_R_HEADER_NAME);
	if (p->trie && t && t->exact)
		p->entry.name = t->exact - 1;
	else if (p->first == ':')
		pg_entry_spoil(&p->entry, PG_R_PSEUDO_HEADER);
	else if (p->tail == PG_TAIL_BIN)
		p->entry.name = PG_NAME_BINARY;
}

/* Does a limit count by the values of this name? */
static inline u32 pg_name_counted(u32 name)
{
	const struct pg_key *key = name < PG_NAME_KEY0 ? 0 : pg_get_key(name - PG_NAME_KEY0);

	return key && key->counted;
}

/* The automata of a name's values: the first one, and how many. */
static inline u32 pg_name_automata(u32 name, u32 *first)
{
	const struct pg_key *key;

	if (name == PG_NAME_CONTENT_TYPE) {
		*first = PG_AUTOMATON_CONTENT_TYPE;
		return 1;
	}
	if (name == PG_NAME_GRPC_ENCODING) {
		*first = PG_AUTOMATON_IDENTITY;
		return 1;
	}
	if (name < PG_NAME_KEY0)
		return 0;
	key = pg_get_key(name - PG_NAME_KEY0);
	if (!key)
		return 0;
	*first = key->automaton;
	return key->automata;
}

static inline void pg_value_start(struct pg_hpack *p)
{
	u32 first = 0, count, k;

	p->value_size = 0;
	p->first = 0;
	p->last = 0;
	p->entry.out0 = 0;
	p->entry.out1 = 0;
	if (p->entry.name == PG_NAME_PATH) {
		p->trie = config.path_root;
		p->slashes = 0;
		p->segment = 0;
		p->prefix = 0;
		return;
	}
	p->counted = pg_name_counted(p->entry.name);
	p->hash[0] = PG_HASH_START;
	p->hash[1] = PG_HASH_START;
	count = pg_name_automata(p->entry.name, &first);
	for (k = 0; k < PG_MAX_METADATA_AUTOMATA; k++)
		p->out[k] = k < count ? pg_automaton_start(first + k) : 0;
}

/* `/` service `/` method, both non-empty, nothing that a server might cut off or decode (policy-language: methods). */
static inline void pg_path_put(struct pg_conn *c, u8 ch)
{
	struct pg_hpack *p = &c->hpack;

	if (p->value_size >= PG_MAX_PATH_BYTES) {
		pg_entry_spoil(&p->entry, PG_R_PATH_LENGTH);
		return;
	}
	c->path[pg_index(p->value_size, PG_MAX_PATH_BYTES)] = ch;
	if (ch == '/') {
		if (p->slashes ? !p->segment : p->value_size != 0)
			pg_entry_spoil(&p->entry, PG_R_PATH);
		p->slashes++;
		p->segment = 0;
	} else {
		if (!p->slashes || ch <= ' ' || ch >= 0x7f || ch == '?' || ch == '#' || ch == '%')
			pg_entry_spoil(&p->entry, PG_R_PATH);
		p->segment++;
	}
	p->trie = pg_trie_step(p->trie, ch, &p->prefix);
}

static inline void pg_path_end(struct pg_conn *c)
{
	struct pg_hpack *p = &c->hpack;
	const struct pg_trie *t = pg_get_trie(p->trie);

	if (p->slashes != 2 || !p->segment)
		pg_entry_spoil(&p->entry, PG_R_PATH);
	if (p->trie && t && t->exact && !p->entry.reason) {
		p->entry.out0 = t->exact - 1;
		return;
	}
	p->entry.out0 = p->prefix && !p->entry.reason ? p->prefix - 1 : 0;
	c->texts++;
	p->entry.out1 = c->texts;
	pg_text_put(c, c->texts, p->value_size < PG_MAX_PATH_BYTES ? p->value_size : PG_MAX_PATH_BYTES);
}

/* gRPC's true binary metadata: where both ends have agreed on it (SETTINGS 0xfe03), a -bin value is NUL and any bytes
 * instead of base64. No rule reads it. */
static inline int pg_value_is_binary(const struct pg_hpack *p, u32 ch)
{
	return p->entry.name == PG_NAME_BINARY && !(p->value_size ? p->first : ch);
}

static inline void pg_value_hash(struct pg_hpack *p, u8 ch)
{
	const struct pg_seed *seed = pg_seed_get();

	if (!seed)
		return;
	p->hash[0] = pg_hash_byte(p->hash[0], seed->value[0], ch);
	p->hash[1] = pg_hash_byte(p->hash[1], seed->value[1], ch);
}

static inline void pg_value_put(struct pg_conn *c, u8 ch)
{
	struct pg_hpack *p = &c->hpack;
	const struct pg_classes *classes;
	const struct pg_automaton *a;
	u32 first = 0, count, k;

	if (!p->value_size)
		p->first = ch;
	p->last = ch;
	/* RFC 9113, section 8.2.1 forbids NUL, CR and LF; gRPC's ASCII values have no other controls either, but
	 * opaque values of other stacks may, so only what HTTP/2 forbids is refused. */
	if ((ch == 0 || ch == '\r' || ch == '\n') && !pg_value_is_binary(p, ch))
		pg_entry_spoil(&p->entry, PG_R_HEADER_VALUE);
	if (p->entry.name == PG_NAME_PATH) {
		pg_path_put(c, ch);
	} else if (p->entry.name >= PG_NAME_CONTENT_TYPE) {
		count = pg_name_automata(p->entry.name, &first);
		for (k = 0; k < PG_MAX_METADATA_AUTOMATA; k++) {
			if (k >= count)
				break;
			a = pg_get_automaton(first + k);
			classes = a ? pg_get_classes(a->classes) : 0;
			if (classes)
				p->out[k] = pg_automaton_step(a, classes, p->out[k], ch);
		}
		if (p->counted)
			pg_value_hash(p, ch);
	}
	p->value_size++;
}

static inline int pg_space(u32 ch)
{
	return ch == ' ' || ch == '\t';
}

static inline void pg_value_end(struct pg_conn *c)
{
	struct pg_hpack *p = &c->hpack;

	if (pg_space(p->first) || (pg_space(p->last) && !pg_value_is_binary(p, 1)))
		pg_entry_spoil(&p->entry, PG_R_HEADER_VALUE);
	if (p->entry.name == PG_NAME_PATH) {
		pg_path_end(c);
	} else {
		p->entry.out0 = p->out[0];
		p->entry.out1 = p->out[1];
		p->entry.hash[0] = p->hash[0];
		p->entry.hash[1] = p->hash[1];
	}
}

/* One character of the string that is being read. */
PG_STEP int pg_hpack_character(struct pg_conn *c, u32 ch)
{
	if (!c)
		return 0;
	if (c->hpack.state == PG_HP_NAME)
		pg_name_put(&c->hpack, ch);
	else
		pg_value_put(c, ch);
	return 0;
}

/* ---- representations ---- */

/* A block may begin with at most two size updates (RFC 7541, section 4.2). */
static inline u32 pg_hpack_update(struct pg_conn *c, u32 size)
{
	struct pg_hpack *p = &c->hpack;

	if (p->fields || p->updates >= 2)
		return PG_R_HPACK_SIZE_UPDATE;
	if (size > PG_MAX_DYNAMIC_TABLE_BYTES)
		return PG_R_DYNAMIC_TABLE;
	if (size > c->table_limit)
		return PG_R_HPACK_SIZE_UPDATE;
	p->updates++;
	p->limit = size;
	pg_hpack_evict(c, size);
	p->state = PG_HP_FIELD;
	return PG_R_NONE;
}

/* The index (or size) of a representation is whole. p->whole is set to 1 if the field is, too. */
PG_STEP int pg_hpack_indexed(struct pg_conn *c)
{
	struct pg_hpack *p;
	u32 reason;

	if (!c)
		return PG_R_INTERNAL;
	p = &c->hpack;
	if (p->form == PG_HF_SIZE_UPDATE)
		return pg_hpack_update(c, p->integer);
	p->fields++;
	if (p->fields > PG_MAX_HEADER_FIELDS)
		return PG_R_HEADER_BLOCK;
	if (p->form != PG_HF_INDEXED && !p->integer) {
		p->state = PG_HP_NAME_LENGTH;
		return PG_R_NONE;
	}
	reason = pg_hpack_lookup(p, p->integer);
	if (reason)
		return reason;
	if (p->form == PG_HF_INDEXED) {
		p->state = PG_HP_FIELD;
		p->whole = 1;
		return PG_R_NONE;
	}
	p->name_size = p->entry.name_size;
	if (p->entry.name == PG_NAME_PATH_CHANGED)
		p->entry.name = PG_NAME_PATH;
	/* What was wrong with the other value is not wrong with this one; what was wrong with the name is. */
	if (p->entry.reason != PG_R_HEADER_NAME && p->entry.reason != PG_R_PSEUDO_HEADER)
		p->entry.reason = PG_R_NONE;
	p->state = PG_HP_VALUE_LENGTH;
	return PG_R_NONE;
}

/* Starts an integer with a prefix of `bits` bits (RFC 7541, section 5.1). Returns 1 if the first byte is all of it. */
static inline int pg_hpack_integer(struct pg_hpack *p, u8 byte, u32 bits)
{
	u32 most = (1u << bits) - 1;

	p->integer = byte & most;
	p->shift = 0;
	return p->integer != most;
}

/* A further byte of an integer. `*whole` is set to 1 with the last. Past 28 bits nothing sane is left. */
static inline u32 pg_hpack_integer_more(struct pg_hpack *p, u8 byte, u32 *whole)
{
	if (p->shift > 21)
		return PG_R_HPACK_INTEGER;
	p->integer += (u32)(byte & 0x7f) << p->shift;
	p->shift += 7;
	*whole = !(byte & 0x80);
	return PG_R_NONE;
}

static inline void pg_hpack_string(struct pg_hpack *p)
{
	p->left = p->integer;
	p->code = 0 | PG_HUFFMAN_MAY_END << 16;
	if (p->state == PG_HP_NAME)
		pg_name_start(p);
	else
		pg_value_start(p);
}

/* The string is whole: a name leads to its value's length, a value ends the field. */
PG_STEP int pg_hpack_string_end(struct pg_conn *c)
{
	struct pg_hpack *p;

	if (!c)
		return PG_R_INTERNAL;
	p = &c->hpack;
	if (p->huffman && !(p->code >> 16 & PG_HUFFMAN_MAY_END))
		return PG_R_HPACK_HUFFMAN;
	if (p->state == PG_HP_NAME) {
		pg_name_end(p);
		p->state = PG_HP_VALUE_LENGTH;
		return PG_R_NONE;
	}
	pg_value_end(c);
	/* Longer ones fit in no table that is followed: what is cut off here is never read. */
	p->entry.name_size = p->name_size;
	p->entry.value_size = p->value_size;
	p->state = PG_HP_FIELD;
	p->whole = 1;
	return p->form == PG_HF_INCREMENTAL ? pg_hpack_insert(c) : PG_R_NONE;
}

/* One encoded byte of a string: itself, or up to two characters of the Huffman code. */
static inline u32 pg_hpack_string_byte(struct pg_conn *c, u8 byte)
{
	struct pg_hpack *p = &c->hpack;
	u32 code, i;

	p->left--;
	if (!p->huffman) {
		pg_hpack_character(c, byte);
		return PG_R_NONE;
	}
	for (i = 0; i < 2; i++) {
		code = pg_huffman[pg_index((p->code & 0xff) << 4 | (i ? byte & 0xf : byte >> 4), 4096)];
		p->code = code;
		if (code >> 16 & PG_HUFFMAN_BAD)
			return PG_R_HPACK_HUFFMAN;
		if (code >> 16 & PG_HUFFMAN_SYMBOL)
			pg_hpack_character(c, code >> 8 & 0xff);
	}
	return PG_R_NONE;
}

/* First byte of a representation (RFC 7541, section 6). Returns 1 if its integer is whole. */
static inline int pg_hpack_form(struct pg_hpack *p, u8 byte)
{
	p->state = PG_HP_INDEX;
	if (byte & 0x80) {
		p->form = PG_HF_INDEXED;
		return pg_hpack_integer(p, byte, 7);
	}
	if (byte & 0x40) {
		p->form = PG_HF_INCREMENTAL;
		p->changes++;
		return pg_hpack_integer(p, byte, 6);
	}
	if (byte & 0x20) {
		p->form = PG_HF_SIZE_UPDATE;
		p->changes++;
		return pg_hpack_integer(p, byte, 5);
	}
	p->form = PG_HF_LITERAL;
	return pg_hpack_integer(p, byte, 4);
}

/* One byte of a header block. p->whole is 1 if it completes a field, which is then in p->entry. */
static inline u32 pg_hpack_byte(struct pg_conn *c, u8 byte)
{
	struct pg_hpack *p = &c->hpack;
	u32 reason, whole = 0;

	p->whole = 0;
	p->bytes++;
	if (p->bytes > PG_MAX_HEADER_BLOCK_BYTES)
		return PG_R_HEADER_BLOCK;
	switch (p->state) {
	case PG_HP_FIELD:
		return pg_hpack_form(p, byte) ? pg_hpack_indexed(c) : PG_R_NONE;
	case PG_HP_INDEX:
		reason = pg_hpack_integer_more(p, byte, &whole);
		if (reason || !whole)
			return reason;
		return pg_hpack_indexed(c);
	case PG_HP_NAME_LENGTH:
	case PG_HP_VALUE_LENGTH:
		p->huffman = byte >> 7;
		p->state++;
		whole = pg_hpack_integer(p, byte, 7);
		break;
	case PG_HP_NAME_LENGTH_MORE:
	case PG_HP_VALUE_LENGTH_MORE:
		reason = pg_hpack_integer_more(p, byte, &whole);
		if (reason)
			return reason;
		break;
	case PG_HP_NAME:
	case PG_HP_VALUE:
		reason = pg_hpack_string_byte(c, byte);
		if (reason)
			return reason;
		if (!p->left)
			return pg_hpack_string_end(c);
		return PG_R_NONE;
	default:
		return PG_R_INTERNAL;
	}
	if (!whole)
		return PG_R_NONE;
	p->state++;
	pg_hpack_string(p);
	return p->left ? PG_R_NONE : pg_hpack_string_end(c);
}

static inline void pg_hpack_block_start(struct pg_hpack *p)
{
	p->state = PG_HP_FIELD;
	p->fields = 0;
	p->bytes = 0;
	p->updates = 0;
	p->changes = 0;
	p->path_slot = 0;
}

#endif
