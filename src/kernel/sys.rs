//! The few bpf(2) calls that libbpf-rs offers only together with its own object model.

use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libbpf_rs::libbpf_sys;

/// Where a program is attached to a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `cgroup_skb/ingress`
    Ingress,
    /// `cgroup_skb/egress`
    Egress,
    /// `sockops`
    SockOps,
}

impl Hook {
    /// All of them, in the order in which they are attached and exchanged: connections are known before their
    /// segments are judged.
    pub const ALL: [Self; 3] = [Self::SockOps, Self::Egress, Self::Ingress];

    /// The program for it.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ingress => "pg_ingress",
            Self::Egress => "pg_egress",
            Self::SockOps => "pg_sockops",
        }
    }

    const fn attach_type(self) -> libbpf_sys::bpf_attach_type {
        match self {
            Self::Ingress => libbpf_sys::BPF_CGROUP_INET_INGRESS,
            Self::Egress => libbpf_sys::BPF_CGROUP_INET_EGRESS,
            Self::SockOps => libbpf_sys::BPF_CGROUP_SOCK_OPS,
        }
    }
}

/// Attaches a program to a cgroup for as long as the returned link lives. Other programs there keep running.
pub fn link_create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<OwnedFd> {
    link_create_as(program, cgroup, hook.attach_type())
}

/// The same for any kind of program on cgroups.
pub fn link_create_as(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: libbpf_sys::bpf_attach_type,
) -> io::Result<OwnedFd> {
    // SAFETY: both descriptors are open; no options are given.
    owned(unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), cgroup.as_raw_fd(), kind, std::ptr::null()) })
}

/// Lets an LSM program run at the hook that it was loaded for, for as long as the returned link lives.
pub fn link_create_lsm(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open; an LSM program has no target, and no options are given.
    owned(unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), 0, libbpf_sys::BPF_LSM_MAC, std::ptr::null()) })
}

/// Exchanges the program of a link at one stroke.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open; no options are given.
    done(unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) })
}

/// Takes a link's program off its cgroup, whoever else holds the link.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    done(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) })
}

/// Gives a program, map or link a name in bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the descriptor is open, the path ends with a zero byte.
    done(unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) })
}

/// Opens what is pinned at `path`.
pub fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero byte.
    owned(unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) })
}

/// Ids of the programs that are attached to exactly this cgroup.
pub fn attached(cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64]; // BPF_CGROUP_MAX_PROGS
    let mut count: u32 = 64;
    let mut flags = 0;
    // SAFETY: `ids` has room for `count` numbers, and the kernel writes no more than that.
    done(unsafe {
        libbpf_sys::bpf_prog_query(
            cgroup.as_raw_fd(),
            hook.attach_type(),
            0,
            &raw mut flags,
            ids.as_mut_ptr(),
            &raw mut count,
        )
    })?;
    ids.truncate(count as usize);
    Ok(ids)
}

/// The name of the program with this id.
pub fn program_name(id: u32) -> io::Result<String> {
    let fd = libbpf_rs::Program::fd_from_id(id).map_err(|e| super::io_error(&e))?;
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: `info` is as long as `length` says and all zero, so the kernel fills in nothing by pointer.
    done(unsafe { libbpf_sys::bpf_obj_get_info_by_fd(fd.as_raw_fd(), (&raw mut info).cast(), &raw mut length) })?;
    let bytes: Vec<u8> = info.name.iter().map(|&c| c.cast_unsigned()).take_while(|&c| c != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether this kernel has a hook for LSM programs of that name.
pub fn has_lsm_hook(name: &std::ffi::CStr) -> bool {
    // SAFETY: the name ends with a zero byte; what is read of the kernel's types is freed before the call returns.
    unsafe { libbpf_sys::libbpf_find_vmlinux_btf_id(name.as_ptr(), libbpf_sys::BPF_LSM_MAC) > 0 }
}

/// How many instructions the verifier looked at when it loaded the program; kernels from 5.16 say so.
pub fn verified_instructions(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: `info` is as long as `length` says and all zero, so the kernel fills in nothing by pointer.
    done(unsafe { libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut length) })?;
    Ok(info.verified_insns)
}

/// Runs a packet program over bytes, as the payload of an Ethernet frame of no known protocol. Returns its value and
/// the mean run time in nanoseconds.
pub fn test_run(
    program: BorrowedFd<'_>,
    bytes: &[u8],
    mark: u32,
    control: [u32; 5],
    time: u64,
    repeat: u32,
) -> io::Result<(u32, u32)> {
    let mut frame = vec![0_u8; 12];
    frame.extend([0x88, 0xb5]); // IEEE 802, local experimental
    frame.extend(bytes);
    // struct __sk_buff (include/uapi/linux/bpf.h): 192 bytes; the mark is its third number, the control block is 13 to 17
    let mut context = [0_u32; 48];
    context[2] = mark;
    context[12..17].copy_from_slice(&control);
    // its time is 64 bits at byte 152, in the machine's order
    for (half, bytes) in context[38..40].iter_mut().zip(time.to_ne_bytes().chunks_exact(4)) {
        *half = u32::from_ne_bytes(bytes.try_into().map_err(io::Error::other)?);
    }
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
        data_in: frame.as_ptr().cast(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        ctx_in: (&raw const context).cast(),
        ctx_size_in: u32::try_from(size_of_val(&context)).map_err(io::Error::other)?,
        repeat: i32::try_from(repeat).map_err(io::Error::other)?,
        ..Default::default()
    };
    // SAFETY: the buffers are valid for the call and as long as is said.
    done(unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })?;
    Ok((options.retval, options.duration))
}

/// The id of a map.
pub fn map_id(map: &impl AsFd) -> io::Result<u32> {
    let mut info = libbpf_sys::bpf_map_info::default();
    let mut length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: `info` is as long as `length` says.
    done(unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(map.as_fd().as_raw_fd(), (&raw mut info).cast(), &raw mut length)
    })?;
    Ok(info.id)
}

fn owned(result: c_int) -> io::Result<OwnedFd> {
    done(result)?;
    // SAFETY: the call made the descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

fn done(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
