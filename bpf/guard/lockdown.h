/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* LSM programs: changes to the kernel itself. */
#ifndef PG_GUARD_LOCKDOWN_H
#define PG_GUARD_LOCKDOWN_H

#include "guard/judge.h"

SEC("?lsm/locked_down") int BPF_PROG(gl_locked, int reason)
{
	struct pg_guard_what what = {.number = reason};

	return pg_inside() ? PG_REFUSED(PG_W_KERNEL, &what) : 0;
}

SEC("?lsm/kernel_read_file") int BPF_PROG(gl_read, struct file *file, int id)
{
	struct pg_guard_what what = {};

	return id != READING_FIRMWARE && pg_inside() ? PG_REFUSED(PG_W_KERNEL, &what) : 0;
}

SEC("?lsm/kernel_load_data") int BPF_PROG(gl_load, int id)
{
	struct pg_guard_what what = {};

	return id != READING_FIRMWARE && pg_inside() ? PG_REFUSED(PG_W_KERNEL, &what) : 0;
}

/* The program that is started when a cgroup of version 1 is left can be named when its tree is mounted, too. What 0
 * says here is that the parameter is the file system's. */
SEC("?lsm/fs_context_parse_param") int BPF_PROG(gl_mount, void *context, struct fs_parameter *parameter)
{
	struct pg_word key = pg_word_at(BPF_CORE_READ(parameter, key));
	struct pg_guard_what what = {};

	return PG_IS_NAMED(&key, "release_agent") && pg_inside() ? PG_REFUSED(PG_W_KERNEL, &what) : 0;
}

#endif
