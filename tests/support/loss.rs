//! Loss on a path, also where the kernel has no netem.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use libbpf_rs::{TC_INGRESS, TcHookBuilder};
use protocg_peers::harness::Veth;
use protocg_peers::harness::net::End;

/// Drops a share of the packets that arrive at an end, in millionths: a classifier of six instructions, gone with the device.
pub fn loss(veth: &Veth, end: End, millionths: u32) {
    if millionths == 0 {
        return;
    }
    let device = if end == End::A { c"pga0" } else { c"pgb0" };
    let threshold = u32::try_from(u64::from(millionths) * u64::from(u32::MAX) / 1_000_000).unwrap();
    let insn = |code: u8, registers: u8, off: i16, imm: i32| {
        let mut bytes = vec![code, registers];
        bytes.extend(off.to_le_bytes());
        bytes.extend(imm.to_le_bytes());
        bytes
    };
    let program = [
        insn(0x85, 0, 0, 7),                       // r0 = bpf_get_prandom_u32()
        insn(0xa6, 0, 2, threshold.cast_signed()), // if (u32)r0 < threshold goto +2
        insn(0xb7, 0, 0, 0),                       // r0 = TC_ACT_OK
        insn(0x95, 0, 0, 0),                       // return r0
        insn(0xb7, 0, 0, 2),                       // r0 = TC_ACT_SHOT
        insn(0x95, 0, 0, 0),                       // return r0
    ]
    .concat();
    // SAFETY: the instructions and names are valid for the call; the descriptor is new.
    let program = unsafe {
        let fd = libbpf_rs::libbpf_sys::bpf_prog_load(
            libbpf_rs::libbpf_sys::BPF_PROG_TYPE_SCHED_CLS,
            c"pg_loss".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr().cast(),
            program.len() as u64 / 8,
            std::ptr::null_mut(),
        );
        assert!(fd >= 0, "cannot load the loss program: {fd}");
        OwnedFd::from_raw_fd(fd)
    };
    veth.run(end, || {
        // SAFETY: a name.
        let index = unsafe { libc::if_nametoindex(device.as_ptr()) };
        let mut hook = TcHookBuilder::new(program.as_fd())
            .ifindex(index.cast_signed())
            .replace(true)
            .handle(1)
            .priority(1)
            .hook(TC_INGRESS);
        hook.create().unwrap();
        hook.attach().unwrap();
    });
}

/// Takes the loss away again.
pub fn no_loss(veth: &Veth, end: End) {
    let mut command = std::process::Command::new("tc");
    command.args(["qdisc", "del", "dev", if end == End::A { "pga0" } else { "pgb0" }, "clsact"]);
    veth.enter(end, &mut command);
    assert!(command.status().unwrap().success());
}
