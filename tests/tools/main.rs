//! The tools around policies, as their users meet them: `protocg test`, `explain`, `init`, the schema, the documents.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

mod docs;
mod explain;
mod init;
mod schema;
mod shipped;
mod trace;
mod wrong;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files in a folder of their own, and protocg run there.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new(files: &[(&str, &str)]) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Exit status, standard output, standard error.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(self.0.path(), arguments, "")
    }
}

pub fn run(folder: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    use std::io::Write as _;
    let mut command = Command::new(env!("CARGO_BIN_EXE_protocg"));
    command.current_dir(folder).args(arguments).env("NO_COLOR", "1").env_remove("PROTOCG_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A service with every shape of method and field that the tools show.
pub const PROTO: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/timestamp.proto";
enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; COLOR_BLUE = 2; }
message Inner { string text = 1; int32 number = 2; }
message Request {
  string query = 1; int32 per_page = 2; int64 big = 3; bytes data = 4; bool flag = 5; Color color = 6; Inner inner = 7;
  repeated Inner items = 8; map<string, Inner> by_name = 9; google.protobuf.Timestamp at = 10; double ratio = 11;
}
message Reply {}
service Search { rpc Find(Request) returns (Reply); rpc Feed(stream Request) returns (Reply); }
"#;

pub const POLICY: &str = r#"
name = "p"
proto = ["t.proto"]
ports = [50051]
default = "deny"
[[deny]]
name = "short"
methods = ["/t.Search/*"]
when = 'size(request.query) > 5'
status = "INVALID_ARGUMENT"
message = "too long"
[[deny]]
name = "seen"
mode = "audit"
when = 'metadata["x-a"] == "1"'
[[allow]]
name = "all"
methods = ["/t.Search/*"]
"#;

pub fn folder() -> Folder {
    Folder::new(&[("t.proto", PROTO), ("p.toml", POLICY)])
}
