/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passing and dropping a packet is to the kernel. */
#ifndef PG_HOOKS_PASS_H
#define PG_HOOKS_PASS_H

#include "env.h"

enum pg_pass { PG_DROP = 0, PG_PASS = 1, PG_LOOK = 2 /* neither yet: it is to be judged */ };

/* A step, because it is called from everywhere: each look-up that is inlined costs the verifier some of a start. */
PG_STEP int pg_drop(u32 reason)
{
	u64 *count;

	if (reason < PG_R_COUNT) {
		count = bpf_map_lookup_elem(&drops, &reason);
		if (count)
			*count += 1;
	}
	return PG_DROP;
}

#endif
