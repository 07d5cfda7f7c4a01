//! Ring 1: random policies and messages, decided by the engine on the host and in the kernel, and by libraries that know nothing of
//! protocg: prost-reflect, CEL's interpreter, RE2, protovalidate.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

mod conformance;
mod grammar;
mod inputs;
mod kernel;
mod pairs;
mod patterns;
mod python;
#[path = "../engine/rig.rs"]
#[allow(dead_code, reason = "the fixtures' tests use the rest")]
mod rig;
mod validate;

use protocg_oracle::wire;
