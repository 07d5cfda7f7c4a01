//! The peers' programs start. This also makes `cargo test --workspace` build them for the live tests of other packages.

use std::process::Command;

#[test]
fn the_programs_start() {
    for program in [env!("CARGO_BIN_EXE_pg-server"), env!("CARGO_BIN_EXE_pg-client")] {
        let output = Command::new(program).arg("--help").output().expect("it can be run");
        assert!(output.status.success(), "{program}");
    }
}
