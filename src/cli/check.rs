//! A stand-in for `protocg check` until the policy compiler is merged.

use std::io::Write;
use std::path::PathBuf;

use crate::policy::{self, Errors};

/// Compiles policies.
pub fn check(paths: &[PathBuf], out: &mut impl Write) -> Result<(), Errors> {
    for path in paths {
        let policy = policy::load(path)?;
        let _ = writeln!(out, "policy `{}`", policy.name);
    }
    Ok(())
}
