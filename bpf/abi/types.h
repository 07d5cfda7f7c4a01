/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fixed-width integers under the kernel's names, for the three compilers that
 * read these headers: clang for BPF, the host's C compiler, and bindgen.
 */
#ifndef PG_ABI_TYPES_H
#define PG_ABI_TYPES_H

#ifdef __BPF__
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
typedef uint64_t __u64;
typedef int32_t __s32;
typedef int64_t __s64;
#endif

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#define PG_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size than the ABI says")

#endif
