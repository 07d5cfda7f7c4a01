//! Libraries that Python has.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A virtual environment with them, made once; the error says why there is none.
fn python() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let target = Path::new(env!("CARGO_BIN_EXE_protocg")).ancestors().nth(2).unwrap();
    let setup = Command::new(folder.join("peers/python/setup.sh"))
        .arg(target.join("differential-venv"))
        .arg(folder.join("differential/requirements.txt"))
        .output()
        .unwrap();
    match setup.status.success() {
        true => Ok(PathBuf::from(String::from_utf8(setup.stdout).unwrap().trim())),
        false => Err(String::from_utf8_lossy(&setup.stderr).lines().last().unwrap_or_default().to_owned()),
    }
}

/// Says why a test does not run where the libraries are not and cannot be had, as in a virtual machine.
pub fn skip(test: &str) -> bool {
    python().map_err(|why| println!("SKIPPED {test}: {why}")).is_err()
}

/// What a script of this folder answers.
pub fn ask(script: &str, input: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential").join(script);
    let mut child =
        Command::new(python().unwrap()).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{script}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
