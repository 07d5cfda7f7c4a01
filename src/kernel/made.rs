//! An object's maps, which are there before its programs: so they can be filled, and be other programs', while the kernel's verifier looks
//! at these.

use std::ffi::OsStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libbpf_rs::{AsRawLibbpf, OpenObject, libbpf_sys};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{KernelError, io_error};

/// Maps by name, each with the size of a value.
#[derive(Debug)]
pub struct Made(Vec<(String, OwnedFd, usize)>);

impl Made {
    /// Makes an object's maps, and does all else that comes before the verifier.
    pub fn prepare(object: &OpenObject) -> libbpf_rs::Result<Self> {
        // SAFETY: the object is open, and only this thread has it.
        let failed = unsafe { libbpf_sys::bpf_object__prepare(object.as_libbpf_object().as_ptr()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(-failed).into());
        }
        let fd_of = |map: &libbpf_rs::OpenMap<'_>| {
            // SAFETY: the map lives as long as the object.
            let fd = unsafe { libbpf_sys::bpf_map__fd(map.as_libbpf_object().as_ptr()) };
            if fd < 0 {
                return Err(io::Error::from_raw_os_error(-fd));
            }
            // SAFETY: the object keeps it open meanwhile.
            unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
        };
        let made = object.maps().map(|map| Ok((map_name(map.name()), fd_of(&map)?, map.value_size() as usize)));
        made.collect::<libbpf_rs::Result<_>>().map(Self)
    }

    fn find(&self, name: &str) -> Result<(BorrowedFd<'_>, usize), KernelError> {
        let found = self.0.iter().find(|(other, ..)| other == name).map(|(_, fd, size)| (fd.as_fd(), *size));
        found.ok_or_else(|| {
            KernelError::failed(format!("find the map `{name}`"), io::Error::from(io::ErrorKind::NotFound))
        })
    }

    /// Gives another object of the same source these maps.
    pub fn share(&self, object: &mut OpenObject) -> Result<(), KernelError> {
        for mut map in object.maps_mut() {
            let name = map_name(map.name());
            let shared = map.reuse_fd(self.find(&name)?.0);
            shared.map_err(|e| KernelError::failed(format!("share the map `{name}`"), io_error(&e)))?;
        }
        Ok(())
    }

    /// Sets one value, or adds one to a queue, which has no keys.
    pub fn set(&self, name: &str, key: Option<u32>, value: &[u8]) -> Result<(), KernelError> {
        let (fd, size) = self.find(name)?;
        if value.len() != size {
            return Err(cannot_fill(name, io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let key = key.as_ref().map_or(std::ptr::null(), std::ptr::from_ref).cast();
        // SAFETY: the kernel reads a value of this size, and a key of four bytes where there are keys.
        let failed = unsafe { libbpf_sys::bpf_map_update_elem(fd.as_raw_fd(), key, value.as_ptr().cast(), 0) };
        if failed == 0 { Ok(()) } else { Err(cannot_fill(name, io::Error::from_raw_os_error(-failed))) }
    }

    /// Writes a table, which nobody may change then.
    pub fn fill<T>(&self, name: &str, rows: &[T]) -> Result<(), KernelError> {
        let (fd, _) = self.find(name)?;
        write_rows(fd, rows).map_err(|e| cannot_fill(name, e))?;
        // SAFETY: a system call with a descriptor that is open.
        let failed = unsafe { libbpf_sys::bpf_map_freeze(fd.as_raw_fd()) };
        if failed == 0 { Ok(()) } else { Err(cannot_fill(name, io::Error::from_raw_os_error(-failed))) }
    }
}

fn cannot_fill(name: &str, error: io::Error) -> KernelError {
    KernelError::failed(format!("fill the map `{name}`"), error)
}

/// Writes a table through a mapping: a million rows take a few milliseconds, by system calls they took hundreds. An array map in memory
/// is its rows, each on a multiple of eight bytes.
fn write_rows<T>(map: BorrowedFd<'_>, rows: &[T]) -> io::Result<()> {
    let stride = size_of::<T>().next_multiple_of(8);
    let Some(length) = NonZeroUsize::new(stride * rows.len()) else { return Ok(()) };
    // SAFETY: a new mapping at a place that the kernel chooses; it touches nothing of ours.
    let place =
        unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0) }?;
    for (index, row) in rows.iter().enumerate() {
        // SAFETY: the mapping has `stride` bytes for each row, and a row is at most that long.
        unsafe {
            let to = place.as_ptr().cast::<u8>().add(index * stride);
            std::ptr::copy_nonoverlapping(std::ptr::from_ref(row).cast::<u8>(), to, size_of::<T>());
        }
    }
    // SAFETY: the mapping is ours, of this length, and nothing refers to it any more.
    unsafe { munmap(place, length.get()) }?;
    Ok(())
}

pub fn map_name(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
