//! Builds the BPF object and its skeleton, the same engine for the host, and the Rust view of the ABI headers.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

const OBJECT: &str = "bpf/protocg.bpf.c";
const ENGINE: &str = "bpf/host/engine.c";
const GUARD: &str = "bpf/guard.bpf.c";
const TLS: &str = "bpf/tls.bpf.c";
const PROBE: &str = "bpf/probe.bpf.c";
const NAMES: &str = "bpf/host/names.c";
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

    println!("cargo:rustc-env=PROTOCG_SOURCES={:016x}", hash_of(Path::new("bpf"), FNV_OFFSET)?);
    cc::Build::new().file(NAMES).include("bpf").warnings(true).extra_warnings(true).compile("protocg_names");

    // `protocg test` and `explain` judge millions of bytes through it: optimised in every profile
    cc::Build::new()
        .file(ENGINE)
        .include("bpf")
        .warnings(true)
        .extra_warnings(true)
        .opt_level(2)
        .compile("protocg_engine");
    skeleton(OBJECT, &out.join("protocg.skel.rs"))?;
    skeleton(GUARD, &out.join("guard.skel.rs"))?;
    skeleton(TLS, &out.join("tls.skel.rs"))?;
    skeleton(PROBE, &out.join("probe.skel.rs"))?;
    Ok(())
}

/// Builds one BPF object and the Rust skeleton that embeds it.
fn skeleton(source: &str, into: &Path) -> Result<()> {
    let mut args = vec!["-Ibpf".to_owned(), "-Wall".to_owned(), "-Werror".to_owned(), "-mcpu=v3".to_owned()];
    if let Some(include) = multiarch_include() {
        args.push(format!("-I{}", include.display()));
    }
    SkeletonBuilder::new()
        .source(source)
        .clang_args(args)
        .build_and_generate(into)
        .with_context(|| format!("cannot build {source}; clang and libelf's headers are needed"))
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A hash of every file below `path`: the next agent adopts pinned programs only if they were built from the same.
fn hash_of(path: &Path, mut hash: u64) -> Result<u64> {
    let bytes = if path.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        for entry in entries {
            hash = hash_of(&entry, hash)?;
        }
        Vec::new()
    } else {
        fs::read(path)?
    };
    for byte in path.as_os_str().as_encoded_bytes().iter().chain(&bytes) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    }
    Ok(hash)
}

/// Debian keeps `asm/types.h` in a folder named after the machine, which clang's BPF target does not search.
fn multiarch_include() -> Option<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let dir = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    dir.is_dir().then_some(dir)
}
