//! The enforcer on live gRPC: real servers and clients in cgroups, judged from both ends and by the events.
//!
//! `cargo build --workspace --bins && cargo test --test live`, as root (`cargo test --workspace` builds the peers by
//! itself). Every test has cgroups, ports and processes of its own, and all run in parallel. What the machine lacks
//! (root, cgroup v2, grpcio, grpc-go, grpc-js) is printed in lines that begin with `SKIPPED`.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

#[path = "../support/loss.rs"]
mod loss_program;
#[path = "../support/maps.rs"]
mod maps;

mod agent;
mod audit;
mod causes;
mod cves;
mod denial;
mod egress;
mod frames;
mod interop;
mod limits;
mod matrix;
mod mended;
mod pinned;
mod received;
mod responses;
mod scope;
mod sizes;
mod stage;
