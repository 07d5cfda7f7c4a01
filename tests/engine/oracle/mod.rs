//! The engine against independent libraries, on seeded random traffic. `PROTOCG_SEED` replays a seed.

mod client;
mod elements;
mod grammar;
mod hpack;
mod protobuf;
mod stories;
