//! protocg enforces gRPC policies in the kernel, per cgroup.
//!
//! ARCHITECTURE.md shows how the parts hang together.

pub mod abi;
pub mod agent;
pub mod cases;
pub mod cgroup;
pub mod cli;
pub mod engine;
pub mod kernel;
pub mod names;
pub mod policy;
pub mod skel;
