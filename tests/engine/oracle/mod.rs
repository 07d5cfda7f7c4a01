//! The engine against independent libraries, on seeded random traffic. `PROTOCG_SEED` replays a seed.

mod client;
mod hpack;
mod javascript;
mod protobuf;
mod stories;
