//! Compiles the peers' .proto files, without protoc, to code and to a descriptor set.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(["search.proto", "login.proto", "echo.proto", "interop.proto"], ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("peers.binpb"), set.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(set)?;
    Ok(())
}
