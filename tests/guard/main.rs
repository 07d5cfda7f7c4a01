//! The guard: what processes in the cgroup can no longer do, what they still can, and what is said about it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod containers;
mod escape;
mod life;
mod report;
mod stage;
