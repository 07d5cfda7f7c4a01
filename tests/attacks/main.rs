//! Attacks on what the enforcer reads, each against real servers, without and with it: see `row` and docs/threat-model.md.
//!
//! `cargo build --workspace --bins && cargo test --test attacks`, as root. All tests share the servers and one enforcer.
//! `PROTOCG_WRITE_TABLES=1` writes the tables in docs/threat-model.md anew.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

#[macro_use]
mod row;

mod arena;
mod check;
mod grpc;
mod hpack;
mod http2;
mod path;
mod protobuf;
mod talk;

#[test]
fn the_tables_in_the_docs_are_these() {
    row::compare_with_docs(&[
        ("http2", &[http2::ROWS, hpack::ROWS, hpack::ANNOUNCED, path::ROWS].concat()),
        ("grpc", &[grpc::ROWS, protobuf::ROWS].concat()),
    ]);
}
