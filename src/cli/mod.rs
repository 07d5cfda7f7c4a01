//! The verbs of `protocg`, a file each.

pub mod check;
