//! The corpus that is kept: `corpus/TARGET.bin`, inputs one after the other, each behind its length in two bytes; `corpus.py`
//! makes files of them, and of files a corpus.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::case::Target;

/// Where a target's corpus is.
pub fn file(target: Target) -> PathBuf {
    let name = Target::ALL.iter().find(|(_, other)| *other == target).map_or("", |(name, _)| name);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{name}.bin"))
}

/// Its inputs.
pub fn read(target: Target) -> io::Result<Vec<Vec<u8>>> {
    let bytes = fs::read(file(target))?;
    let mut rest = bytes.as_slice();
    let mut inputs = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (input, after) = after
            .split_at_checked(u16::from_be_bytes(*length).into())
            .ok_or_else(|| io::Error::other(format!("{}: it ends too early", file(target).display())))?;
        inputs.push(input.to_vec());
        rest = after;
    }
    Ok(inputs)
}
