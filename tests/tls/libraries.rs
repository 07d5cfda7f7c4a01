//! Where a TLS library may be: under another name, deleted, in a container, and in processes that begin later.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use protocg_peers::h2raw::{self, Encoder, Style};
use protocg_peers::harness::{Cgroup, Place, Protocg, Server, Stack, Watched};
use serde_json::json;

use crate::judged::judged;
use crate::stage::{BINARY, HOOKS, Stage, certificate, make, make_until_ok, policy, refused, skip, tls_server, unary};

/// A copy of the installed library in a folder, under a name.
fn copy(folder: &Path, name: &str) -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let library = folders.map(|folder| Path::new(folder).join("libssl.so.3")).into_iter().find(|path| path.exists())?;
    let to = folder.join(name);
    std::fs::copy(library, &to).unwrap();
    Some(to)
}

/// A server that uses this file, whatever it is called: it says that it is libssl.
fn server_with(library: &Path) -> Command {
    let mut server = Stack::Tonic.server();
    server.env("LD_PRELOAD", library);
    server
}

fn with_copy(test: &str, name: &str, delete: bool) {
    let shown = if delete { format!("{name} (deleted)") } else { name.to_owned() };
    if skip(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = copy(folder.path(), name) else { return println!("SKIPPED {test}: no libssl.so.3") };
    let cgroup = Cgroup::new(test);
    let stage = Stage::around(server_with(&library), cgroup, || {
        if delete {
            std::fs::remove_file(&library).unwrap();
        }
    });
    judged(&stage, test, &shown, Some(stage.server.process().pid()));
}

#[test]
fn a_library_under_another_name() {
    with_copy("tls-renamed", "not-what-it-is-called.so", false);
}

#[test]
fn a_library_whose_file_is_deleted() {
    with_copy("tls-deleted", "gone.so", true);
}

/// A process that begins under enforcement, with a library that nobody else has.
#[test]
fn a_new_process_is_hooked() {
    let test = "tls-new";
    if skip(test) {
        return;
    }
    for round in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let Some(library) = copy(folder.path(), "private.so") else {
            return println!("SKIPPED {test}: no libssl.so.3");
        };
        let address: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cgroup = Cgroup::new(&format!("{test}{round}"));
        let agent = Protocg::run(BINARY, &[&cgroup], &policy(address.port(), "", HOOKS), &[]);
        if agent.of_type("ready")[0]["tls"] == "none" {
            return println!("SKIPPED {test}: {:?}", agent.of_type("warning"));
        }
        let place = Place { cgroup: Some(&cgroup), net: None };
        let certificate = certificate();
        let more = tls_server(Stack::Tonic, certificate.path());
        let server = Server::start_as(server_with(&library), place, address, &more);
        let mut session = Stage::client_of(&server);
        make_until_ok(&mut session, &unary("the first"));
        refused(&make(&mut session, &unary("a SECRET")));
        let event = agent.wait_for("the denial", |e| e["type"] == "decision");
        assert_eq!((&event["plane"], &event["rule"]), (&json!("tls"), &json!("no-secrets")));
        assert!(event["tls.library"].as_str().unwrap().ends_with("/private.so"), "{event:#}");
        assert_eq!(server.messages(), 1);
    }
}

/// A script that lays an overlay on the libraries' folder, in the mount namespace that it runs in, and becomes its arguments;
/// `own`: with a library of the overlay's own. Nothing if that cannot be had, which is said.
pub fn overlaid(test: &str, folder: &Path, own: bool) -> Option<String> {
    let upper = folder.join("upper");
    std::fs::create_dir(&upper).unwrap();
    if own && copy(&upper, "libssl.so.3").is_none() {
        println!("SKIPPED {test}: no libssl.so.3");
        return None;
    }
    let place = "/usr/lib/x86_64-linux-gnu";
    let script = format!("mount -t overlay o -o lowerdir={}:{place} {place} && exec \"$@\"", upper.display());
    let can = Command::new("unshare").args(["--mount", "sh", "-c", &script, "sh", "true"]).status();
    if !Path::new(place).join("libssl.so.3").exists() || !can.is_ok_and(|status| status.success()) {
        println!("SKIPPED {test}: no overlay file system");
        return None;
    }
    Some(script)
}

/// A server in a mount namespace of its own, in which an overlay lies on the libraries' folder.
fn in_an_overlay(test: &str, own: bool) {
    if skip(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(script) = overlaid(test, folder.path(), own) else { return };
    let tonic = Stack::Tonic.server();
    let mut server = Command::new("unshare");
    server.args(["--mount", "sh", "-c", &script, "sh"]).arg(tonic.get_program());
    server.envs(tonic.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let stage = Stage::around(server, Cgroup::new(test), || {});
    judged(&stage, test, "/usr/lib/x86_64-linux-gnu/libssl.so.3", Some(stage.server.process().pid()));
}

#[test]
fn the_library_of_a_containers_image() {
    in_an_overlay("tls-lower", false);
}

#[test]
fn a_library_in_a_containers_own_layer() {
    in_an_overlay("tls-upper", true);
}

/// OpenSSL within a program, exported by nothing: found as long as the program has its symbols.
#[test]
fn a_library_that_is_linked_into_a_program() {
    let test = "tls-static";
    if skip(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("linked");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/static.c");
    let mut compiler = Command::new("cc");
    compiler.arg("-o").arg(&program).arg(source).args(["-Wl,-Bstatic", "-lssl", "-lcrypto", "-Wl,-Bdynamic"]);
    if !compiler.status().is_ok_and(|status| status.success()) {
        return println!("SKIPPED {test}: there is no libssl.a, or no compiler");
    }
    let stage = Stage::calling(test, Stack::Tonic, HOOKS);
    if stage.rung(test).is_none() {
        return;
    }
    let text = b"a SECRET";
    let message = [&[0x0a, text.len() as u8][..], text].concat();
    let call = h2raw::unary(&mut Encoder::default(), Style::PLAIN, 1, "/echo.Echo/Unary", &message);
    let target = stage.server.address;
    let input = folder.path().join("call");
    std::fs::write(&input, [h2raw::open(&[]), call].concat()).unwrap();
    // The first may be faster than the hooks, and is refused then.
    for _ in 0..2 {
        let mut client = Command::new(&program);
        client.args([target.ip().to_string(), target.port().to_string()]).stdin(File::open(&input).unwrap());
        Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut client);
        Watched::start(client).wait();
        stage.agent.wait_for("the end", |e| e["type"] == "decision" || e["type"] == "connection");
    }
    let event = stage.agent.wait_for("the denial", |e| e["type"] == "decision");
    assert_eq!((&event["plane"], &event["rule"]), (&json!("tls"), &json!("no-secrets")), "{event:#}");
    assert_eq!(event["tls.library"], program.to_str().unwrap());
    assert_eq!(stage.server.messages(), 0);
}
