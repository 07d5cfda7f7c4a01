//! Ring 1: the bytes that were judged are the bytes that are delivered, whatever TCP does. See docs/tcp.md.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../support/maps.rs"]
mod maps;

mod bulk;
mod field;
mod repair;
mod segments;
mod slots;
mod stack;
mod wall;
