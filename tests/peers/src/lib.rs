//! What protocg's live tests, demo and benchmarks talk to: gRPC servers and clients of several stacks, raw packets, raw
//! HTTP/2, and the machinery that runs them in cgroups and network namespaces.

#![allow(clippy::panic, reason = "the machinery of tests: what fails here fails the test")]

pub mod client;
pub mod escape;
pub mod h2raw;
pub mod harness;
pub mod json;
pub mod proto;
pub mod raw;
pub mod server;
pub mod tls;
pub mod wire;
