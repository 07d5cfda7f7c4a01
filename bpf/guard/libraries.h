/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* LSM programs: TLS libraries. The code of hooked ones stays as it is; others run as the policy says. */
#ifndef PG_GUARD_LIBRARIES_H
#define PG_GUARD_LIBRARIES_H

#include "guard/judge.h"

/* By its name: what is linked into a program, or called otherwise, is known by guard_libraries only, once the agent has
 * seen it. */
static __always_inline int pg_is_tls_name(struct file *file)
{
	struct pg_word name = pg_word_at(BPF_CORE_READ(file, f_path.dentry, d_name.name));

	return PG_BEGINS(&name, "libssl.so") || PG_BEGINS(&name, "libssl3.so") || PG_BEGINS(&name, "libboringssl") ||
	       PG_BEGINS(&name, "libgnutls.so") || PG_BEGINS(&name, "libmbedtls.so") ||
	       PG_BEGINS(&name, "libwolfssl.so") || PG_BEGINS(&name, "libs2n.so") || PG_BEGINS(&name, "librustls.so");
}

/* A part of a file is to be mapped so, or a mapping of it to become so: which way is that? PG_W_COUNT: none. */
static __always_inline u32 pg_library_way(struct file *file, u64 wanted)
{
	u32 state = pg_library(BPF_CORE_READ(file, f_inode));

	/* It is code, or becomes code. */
	if (state == PG_LIBRARY_HOOKED)
		return wanted & PROT_WRITE ? PG_W_TEXT : PG_W_COUNT;
	if (!(wanted & PROT_EXEC) || pg_switch_of(PG_W_LIBRARY) == PG_GUARD_ALLOW)
		return PG_W_COUNT;
	return state == PG_LIBRARY_PLAIN || pg_is_tls_name(file) ? PG_W_LIBRARY : PG_W_COUNT;
}

/*
 * The agent shows a file that it has looked into: it maps it so that it can be neither read nor run, which hardly
 * anybody does, and changes the mapping to the same. The first is asked about the file that was opened, the second
 * about the one that lies in memory.
 */
static __always_inline int pg_shown(struct file *file)
{
	struct pg_guard_agent *agent = pg_agent();
	struct pg_guard_library key;
	u32 state;

	if (!agent || !agent->shows || agent->tgid != bpf_get_current_pid_tgid() >> 32)
		return 0;
	state = agent->shows;
	key = pg_library_key(BPF_CORE_READ(file, f_inode));
	if (!bpf_map_update_elem(&guard_libraries, &key, &state, BPF_ANY))
		agent->shown++;
	return 0;
}

SEC("?lsm/mmap_file") int BPF_PROG(gl_map, struct file *file, unsigned long asked, unsigned long protection)
{
	struct pg_guard_what what = {};
	u32 way;

	if (!file)
		return 0;
	if (!protection)
		return pg_shown(file);
	if (!(protection & PROT_EXEC))
		return 0;
	way = pg_library_way(file, protection);
	return way != PG_W_COUNT && pg_inside() ? PG_REFUSED(way, &what) : 0;
}

SEC("?lsm/file_mprotect")
int BPF_PROG(gl_protect, struct vm_area_struct *area, unsigned long asked, unsigned long protection)
{
	struct file *file = BPF_CORE_READ(area, vm_file);
	int code = !!(BPF_CORE_READ(area, vm_flags) & VM_EXEC);
	struct pg_guard_what what = {};
	u32 way;

	if (!file)
		return 0;
	if (!protection)
		return pg_shown(file);
	if (!(code || protection & PROT_EXEC))
		return 0;
	/* What is no code yet was mapped without hooks, perhaps with other bytes. */
	way = pg_library_way(file, code ? protection : protection | PROT_WRITE);
	return way != PG_W_COUNT && pg_inside() ? PG_REFUSED(way, &what) : 0;
}

#endif
