//! Builds the BPF object and its skeleton, the same engine for the host, and the Rust view of the ABI headers.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

const OBJECT: &str = "bpf/protocg.bpf.c";
const ENGINE: &str = "bpf/host/engine.c";
const ABI: &str = "bpf/host/engine.h";

fn main() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    println!("cargo:rerun-if-changed=bpf");

    bindgen::Builder::default()
        .header(ABI)
        .clang_arg("-Ibpf")
        .allowlist_item("(?i)pg_.*")
        .prepend_enum_name(false)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .generate()
        .context("cannot read the ABI headers")?
        .write_to_file(out.join("abi.rs"))?;

    if Path::new(ENGINE).exists() {
        cc::Build::new()
            .file(ENGINE)
            .include("bpf")
            .warnings(true)
            .extra_warnings(true)
            .opt_level(2)
            .compile("protocg_engine");
    }
    if Path::new(OBJECT).exists() {
        let mut args = vec!["-Ibpf".to_owned(), "-Wall".to_owned(), "-Werror".to_owned(), "-mcpu=v3".to_owned()];
        if let Some(include) = multiarch_include() {
            args.push(format!("-I{}", include.display()));
        }
        SkeletonBuilder::new()
            .source(OBJECT)
            .clang_args(args)
            .build_and_generate(out.join("protocg.skel.rs"))
            .with_context(|| format!("cannot build {OBJECT}; clang and libelf's headers are needed"))?;
    }
    Ok(())
}

/// Debian keeps `asm/types.h` in a folder named after the machine, which clang's BPF target does not search.
fn multiarch_include() -> Option<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let dir = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    dir.is_dir().then_some(dir)
}
