//! protocg enforces gRPC policies in the kernel, per cgroup.
//!
//! ARCHITECTURE.md shows how the parts hang together.

pub mod abi;
pub mod cli;
pub mod engine;
pub mod policy;
pub mod skel;
