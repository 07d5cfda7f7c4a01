/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* LSM programs: bpf(), the agent, and processes outside. */
#ifndef PG_GUARD_AGENT_H
#define PG_GUARD_AGENT_H

#include "guard/judge.h"

/* Its arguments differ between kernels; none is needed. */
SEC("?lsm/bpf") int BPF_PROG(gl_bpf)
{
	struct pg_guard_what what = {};

	return pg_inside() ? PG_REFUSED(PG_W_BPF, &what) : 0;
}

static __always_inline int pg_touch_agent(struct task_struct *task, u32 number)
{
	struct pg_guard_what what = {.number = number};

	if (!pg_is_agent(task) || !pg_inside())
		return 0;
	what.target = BPF_CORE_READ(task, tgid);
	return PG_REFUSED(PG_W_AGENT, &what);
}

/* /proc/PID/mem, maps, fd and others, pidfd_getfd and process_vm_readv ask here too. */
SEC("?lsm/ptrace_access_check") int BPF_PROG(gl_ptrace, struct task_struct *task, unsigned int mode)
{
	struct pg_guard_what what = {};
	u32 way;

	if (pg_is_agent(task))
		way = PG_W_AGENT;
	else if (!(mode & PTRACE_MODE_ATTACH))
		return 0;
	else if (!pg_task_inside(task))
		way = PG_W_PTRACE;
	else if (pg_any_hooked())
		way = PG_W_TEXT; /* who traces a process writes to its code */
	else
		return 0;
	if (!pg_inside())
		return 0;
	/* Who only looks whether it may, as ps does, is refused in silence. */
	if (mode & PTRACE_MODE_NOAUDIT)
		return pg_switch_of(way) == PG_GUARD_DENY ? -EPERM : 0;
	what.target = BPF_CORE_READ(task, tgid);
	what.number = mode;
	return PG_REFUSED(way, &what);
}

/* The child asks here to be traced by its parent. */
SEC("?lsm/ptrace_traceme") int BPF_PROG(gl_traceme, struct task_struct *parent)
{
	struct pg_guard_what what = {};

	if (!pg_any_hooked() || !pg_inside())
		return 0;
	what.target = BPF_CORE_READ(parent, tgid);
	return PG_REFUSED(PG_W_TEXT, &what);
}

SEC("?lsm/task_kill") int BPF_PROG(gl_kill, struct task_struct *task, void *info, int signal)
{
	return pg_touch_agent(task, signal);
}

SEC("?lsm/task_setrlimit") int BPF_PROG(gl_rlimit, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

SEC("?lsm/task_setscheduler") int BPF_PROG(gl_scheduler, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

SEC("?lsm/task_setnice") int BPF_PROG(gl_nice, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

SEC("?lsm/task_setioprio") int BPF_PROG(gl_ioprio, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

/* A file's owner gets a signal when the file is ready (fcntl F_SETOWN): whoever made it so, and in whatever process
 * that happens, the agent is no owner. */
SEC("?lsm/file_send_sigiotask") int BPF_PROG(gl_sigio, struct task_struct *task, void *owner, int signal)
{
	struct pg_guard_what what = {.number = signal};

	if (!pg_is_agent(task))
		return 0;
	what.target = BPF_CORE_READ(task, tgid);
	return pg_refuse(PG_W_AGENT, 0, &what) ? -EPERM : 0;
}

#endif
