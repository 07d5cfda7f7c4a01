//! Which files have TLS code in them, as the guard is told.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::sys::mman::{MapFlags as Mapping, ProtFlags, mmap, mprotect, munmap};

use super::{Guarded, KernelError, bytes_of, in_first_pid_namespace, io_error};
use crate::abi;
use crate::kernel::load::read;

/// A file with TLS code in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Its TLS is read by hooks, so its code stays as it is.
    Hooked,
    /// No hook covers it.
    Plain,
}

/// The guard's knowledge of files. Hooks stay as long as the agent does, and the guard with it, so nothing is ever taken back.
#[derive(Debug)]
pub struct Libraries {
    agent: MapHandle,
    libraries: MapHandle,
}

/// Programs write down what they see in these two (bpf/guard/libraries.h).
const SEEING: [&str; 2] = ["gl_map", "gl_protect"];
/// What is mapped of a file. It is not touched.
const PART: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl Guarded {
    /// For whoever hooks TLS libraries; nothing if no programs run that want to know of them, or if they do not know the agent.
    pub fn libraries(&self) -> Option<Libraries> {
        let runs = |name: &&str| self.links.iter().any(|(link, _)| link == name);
        let copy = |map: &MapHandle| MapHandle::try_from(map).ok();
        let wanted = SEEING.iter().all(runs) && in_first_pid_namespace();
        wanted
            .then(|| Some(Libraries { agent: copy(&self.maps.agent)?, libraries: copy(&self.maps.libraries)? }))
            .flatten()
    }
}

impl Libraries {
    /// There will be hooks: nobody inside may write to the memory of processes from here on. Who could before keeps what it opened.
    pub fn begin(&self) -> Result<(), KernelError> {
        let (any, state) = (abi::pg_guard_library::default(), abi::PG_LIBRARY_HOOKED);
        self.libraries
            .update(bytes_of(std::slice::from_ref(&any)), &state.to_ne_bytes(), MapFlags::ANY)
            .map_err(|e| KernelError::failed("tell the guard that there are hooks", io_error(&e)))
    }

    /// Says what a file is. It is shown to the programs: they know what the kernel calls it, also where an overlay has two names for it.
    pub fn mark(&self, file: &File, library: Library) -> Result<(), KernelError> {
        let fail = |e| KernelError::failed("tell the guard of a TLS library", e);
        let state = match library {
            Library::Hooked => abi::PG_LIBRARY_HOOKED,
            Library::Plain => abi::PG_LIBRARY_PLAIN,
        };
        let before = self.shows(state).map_err(fail)?;
        let shown = show(file);
        let after = self.shows(0).map_err(fail)?;
        shown.map_err(fail)?;
        if after.wrapping_sub(before) == 2 {
            Ok(())
        } else {
            Err(fail(io::Error::other("its programs did not see it")))
        }
    }

    /// Says what the agent shows now. Returns how much was seen so far.
    fn shows(&self, state: u32) -> io::Result<u32> {
        let key = 0_u32.to_ne_bytes();
        let value = self.agent.lookup(&key, MapFlags::ANY).map_err(|e| io_error(&e))?;
        let mut agent: abi::pg_guard_agent =
            value.as_deref().and_then(read).ok_or_else(|| io::Error::other("the guard knows no agent"))?;
        agent.shows = state;
        self.agent.update(&key, bytes_of(std::slice::from_ref(&agent)), MapFlags::ANY).map_err(|e| io_error(&e))?;
        Ok(agent.shown)
    }
}

/// Nobody else maps a file so.
fn show(file: &File) -> io::Result<()> {
    let none = ProtFlags::PROT_NONE;
    // SAFETY: the mapping is new, and nothing is read, written or run in it.
    let at: NonNull<_> = unsafe { mmap(None, PART, none, Mapping::MAP_PRIVATE, file, 0) }?;
    // SAFETY: it is what was mapped, and stays as it is.
    let changed = unsafe { mprotect(at, PART.get(), none) };
    // SAFETY: nobody has a reference to it.
    unsafe { munmap(at, PART.get()) }?;
    Ok(changed?)
}
