//! Ring 1: the bytes that were judged are the bytes that are delivered, whatever TCP does. See docs/tcp.md.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../support/loss.rs"]
mod loss_program;
#[path = "../support/maps.rs"]
mod maps;

mod answers;
mod begins;
mod bulk;
mod client;
mod ends;
mod field;
mod foreign;
mod holes;
mod ip;
mod loss;
mod mending;
mod pages;
mod refused;
mod repair;
mod responses;
mod scene;
mod segments;
mod servers;
mod shares;
mod slots;
mod slow;
mod stack;
mod wall;
