/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Protobuf's scalar types: which wire type each has, and which key its bounds compare (abi/tables.h). */
#ifndef PG_PROTO_SCALAR_H
#define PG_PROTO_SCALAR_H

#include "env.h"

enum pg_wire { PG_W_VARINT, PG_W_FIXED64, PG_W_BYTES, PG_W_GROUP, PG_W_GROUP_END, PG_W_FIXED32 };

static inline u64 pg_key_signed(u64 value)
{
	return value ^ (1ull << 63);
}

static inline u64 pg_zigzag(u64 value)
{
	return (value >> 1) ^ (0 - (value & 1));
}

/* The bits of a double to an unsigned key in the same order; -0.0 counts as 0.0. */
static inline u64 pg_key_double(u64 bits)
{
	if (bits == 1ull << 63)
		bits = 0;
	return bits >> 63 ? ~bits : bits | 1ull << 63;
}

#define PG_DOUBLE_INFINITY 0x7ff0000000000000ull

static inline int pg_double_nan(u64 bits)
{
	return (bits & ~(1ull << 63)) > PG_DOUBLE_INFINITY;
}

/* A float's bits to those of the double of the same value: BPF has no floating point. */
PG_STEP u64 pg_widen(u32 bits)
{
	u64 sign = (u64)(bits >> 31) << 63;
	u32 exponent = bits >> 23 & 0xff;
	u64 fraction = bits & 0x7fffff;
	u32 i, high = 0;

	if (exponent == 0xff)
		return sign | PG_DOUBLE_INFINITY | fraction << 29;
	if (exponent)
		return sign | (u64)(exponent + 1023 - 127) << 52 | fraction << 29;
	if (!fraction)
		return sign;
	for (i = 0; i < 23; i++)
		if (fraction >> i & 1)
			high = i;
	/* subnormal: fraction * 2^-149, and the highest set bit becomes the hidden one */
	return sign | (u64)(high + 1023 - 149) << 52 | ((fraction << (52 - high)) & ((1ull << 52) - 1));
}

static inline u32 pg_kind_wire(u32 kind)
{
	if (kind == PG_K_MESSAGE || kind == PG_K_STRING || kind == PG_K_BYTES)
		return PG_W_BYTES;
	if (kind == PG_K_FIXED64 || kind == PG_K_SFIXED64 || kind == PG_K_DOUBLE)
		return PG_W_FIXED64;
	if (kind == PG_K_FIXED32 || kind == PG_K_SFIXED32 || kind == PG_K_FLOAT)
		return PG_W_FIXED32;
	return kind == PG_K_GROUP ? PG_W_GROUP : PG_W_VARINT;
}

/* Is it a varint of which all but 32 bits are cut off? */
static inline int pg_kind_narrow(u32 kind)
{
	return kind >= PG_K_BOOL && kind <= PG_K_SINT32;
}

/* The raw value of a scalar field to the key that its bounds compare (abi/tables.h). */
static inline u64 pg_scalar_key(u32 kind, u64 raw, u32 *nan)
{
	switch (kind) {
	case PG_K_BOOL:
		return raw != 0;
	case PG_K_INT32:
	case PG_K_SFIXED32:
		return pg_key_signed((u64)(s64)(s32)(u32)raw);
	case PG_K_UINT32:
		return (u32)raw;
	case PG_K_SINT32:
		return pg_key_signed((u64)(s64)(s32)(u32)pg_zigzag((u32)raw));
	case PG_K_INT64:
	case PG_K_SFIXED64:
		return pg_key_signed(raw);
	case PG_K_SINT64:
		return pg_key_signed(pg_zigzag(raw));
	case PG_K_FLOAT:
		raw = pg_widen(raw);
		*nan = pg_double_nan(raw);
		return pg_key_double(raw);
	case PG_K_DOUBLE:
		*nan = pg_double_nan(raw);
		return pg_key_double(raw);
	}
	return raw;
}

#endif
