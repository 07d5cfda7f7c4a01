/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * UTF-8, a byte at a time (RFC 3629, section 4: no surrogates, no overlong forms, nothing past U+10FFFF).
 * The state packs how many bytes are to come, and the range of the next: 0 is between characters.
 */
#ifndef PG_PROTO_UTF8_H
#define PG_PROTO_UTF8_H

#include "abi/types.h"

#define PG_UTF8_BAD 0xffffffffu
#define PG_UTF8(to_come, low, high) ((u32)(to_come) | (u32)(low) << 8 | (u32)(high) << 16)

static inline u32 pg_utf8_first(u8 byte)
{
	if (byte < 0x80)
		return 0;
	if (byte >= 0xc2 && byte <= 0xdf)
		return PG_UTF8(1, 0x80, 0xbf);
	if (byte == 0xe0)
		return PG_UTF8(2, 0xa0, 0xbf);
	if (byte == 0xed)
		return PG_UTF8(2, 0x80, 0x9f);
	if (byte >= 0xe1 && byte <= 0xef)
		return PG_UTF8(2, 0x80, 0xbf);
	if (byte == 0xf0)
		return PG_UTF8(3, 0x90, 0xbf);
	if (byte >= 0xf1 && byte <= 0xf3)
		return PG_UTF8(3, 0x80, 0xbf);
	if (byte == 0xf4)
		return PG_UTF8(3, 0x80, 0x8f);
	return PG_UTF8_BAD;
}

static inline u32 pg_utf8_step(u32 state, u8 byte)
{
	u32 to_come = state & 0xff;

	if (!to_come)
		return pg_utf8_first(byte);
	if (byte < (state >> 8 & 0xff) || byte > (state >> 16 & 0xff))
		return PG_UTF8_BAD;
	return to_come == 1 ? 0 : PG_UTF8(to_come - 1, 0x80, 0xbf);
}

#endif
