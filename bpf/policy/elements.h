/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What comes of the elements of repeated fields and of the entries of maps, once each is whole: programs, counters, and
 * which keys of a map are distinct. No parsing here. Where no rule reads such fields (config.elements), the verifier
 * does not look at any of it.
 */
#ifndef PG_POLICY_ELEMENTS_H
#define PG_POLICY_ELEMENTS_H

#include "policy/match.h"

#define PG_ELEMENT_TESTS_A_CALL 64

/* Some tests of a program from `first` on; every clause that holds applies its row. s->clause carries an unfinished
 * clause over: the verifier, which knows nothing of memory, walks the loop once. */
PG_STEP int pg_program_some(struct pg_stream *s, u32 first, u32 count)
{
	const struct pg_test *t;
	u32 i;

	if (!s || !config.elements)
		return 0;
	for (i = 0; i < PG_ELEMENT_TESTS_A_CALL; i++) {
		if (i >= count)
			break;
		t = pg_get_test(first + i);
		if (!t)
			break;
		if ((s->bits.word[pg_index(t->word, PG_WORDS)] & t->mask) != t->value)
			s->clause = 0;
		if (!(t->flags & PG_TEST_LAST))
			continue;
		if (s->clause)
			pg_row(&s->bits, t->rule);
		s->clause = 1;
	}
	return 0;
}

/* ---- distinct keys ---- */

#define PG_KEY_ABSENT 0 /* the hash of what an entry without a key has: 0, false, or no text */

static inline u64 pg_rotate(u64 x, u32 by)
{
	return x << by | x >> (64 - by);
}

/*
 * SipHash-1-3 (Aumasson and Bernstein) over words of 64 bits, a byte of the key each, and its length last: who does not
 * know the secret cannot choose two keys that count as one.
 */
static inline void pg_sip_word(u64 v[4], u64 word, u32 rounds)
{
	u32 i;

	v[3] ^= word;
	for (i = 0; i < rounds; i++) {
		v[0] += v[1];
		v[1] = pg_rotate(v[1], 13) ^ v[0];
		v[0] = pg_rotate(v[0], 32);
		v[2] += v[3];
		v[3] = pg_rotate(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = pg_rotate(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = pg_rotate(v[1], 17) ^ v[2];
		v[2] = pg_rotate(v[2], 32);
	}
	v[0] ^= word;
}

static inline void pg_key_start(struct pg_stream *s)
{
	if (!s->secret)
		s->secret = pg_random() | 1;
	s->sip[0] = s->secret ^ 0x736f6d6570736575ull;
	s->sip[1] = ~s->secret ^ 0x646f72616e646f6dull;
	s->sip[2] = s->secret ^ 0x6c7967656e657261ull;
	s->sip[3] = ~s->secret ^ 0x7465646279746573ull;
}

PG_STEP int pg_key_byte(struct pg_stream *s, u32 byte)
{
	if (s && config.elements)
		pg_sip_word(s->sip, byte, 1);
	return 0;
}

/* The key is whole: so many characters of it. */
PG_STEP int pg_key_end(struct pg_stream *s, u64 points)
{
	if (!s || !config.elements)
		return 0;
	pg_sip_word(s->sip, points << 8, 1); /* unlike every byte */
	s->sip[2] ^= 0xff;
	pg_sip_word(s->sip, 0, 3);
	s->hash = points ? s->sip[0] ^ s->sip[1] ^ s->sip[2] ^ s->sip[3] : PG_KEY_ABSENT;
	return 0;
}

/* Is the entry's key one of the `known` that the map has had? It is remembered, if it is new and there is room. */
PG_STEP int pg_key_seen(struct pg_stream *s, u32 first, u32 room, u64 known)
{
	u32 i;

	if (!s || !config.elements)
		return 0;
	for (i = 0; i < PG_MAX_MAP_KEYS; i++) {
		if (i >= room)
			return 0;
		if (i >= known) {
			s->key[pg_index(first + i, PG_MAX_MAP_KEYS)] = s->hash;
			return 0;
		}
		if (s->key[pg_index(first + i, PG_MAX_MAP_KEYS)] == s->hash)
			return 1;
	}
	return 0;
}

/* One element more, or one distinct key. Counters stay at their highest value. */
PG_STEP int pg_count_element(struct pg_stream *s, u32 element)
{
	const struct pg_field *f = pg_get_field(element - 1);
	const struct pg_op *op;
	u64 count;
	u32 word;

	if (!s || !f || !config.elements)
		return 0;
	op = pg_get_op(f->counter);
	if (!op || !op->value)
		return 0;
	word = pg_index(op->word, PG_WORDS);
	count = s->bits.word[word] & op->mask;
	if (f->flags & PG_FIELD_DISTINCT && pg_key_seen(s, f->key, f->keys, count / op->value))
		return 0;
	if (count != op->mask)
		s->bits.word[word] += op->value;
	return 0;
}

#endif
