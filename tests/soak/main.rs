//! Load and faults: many calls, many connections, floods, and an agent that stops or dies. Whatever happens, every denied call
//! is denied, nothing denied reaches a handler, nothing stays in the maps, and the counts agree.
//!
//! `make soak SECONDS=600` runs it for long; `make test` runs each scene for a few seconds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../support/maps.rs"]
mod maps;

mod client;
mod faults;
mod floods;
mod load;
mod stage;
