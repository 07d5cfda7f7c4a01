//! Ring 0: the engine, built for the host, on conversations that are cut at every byte.
//!
//! A fixture is a sentence, a policy, the bytes of a client, and the events that must come of them. `fixtures` has one
//! file a layer; `oracle` holds the engine against independent libraries; `mutants` holds the fixtures themselves
//! against engines with one fault each.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

mod buckets;
mod fixtures;
mod mutants;
mod oracle;
mod places;
mod rig;

use protocg_oracle::wire;
