//! Builds the filter over plain memory, without sanitizers: what tests link. scripts/fuzz.sh puts one with sanitizers in its place.

fn main() {
    println!("cargo:rerun-if-changed=../bpf");
    println!("cargo:rerun-if-changed=engine");
    cc::Build::new()
        .file("engine/mend.c")
        .include("../bpf")
        .include("engine")
        .warnings(false)
        .opt_level(2)
        .compile("protocg_fuzz_mend");
}
