//! Ring 1: as many connections and streams as the limits say, and one more.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../support/maps.rs"]
mod maps;

mod crowd;
mod limits;
