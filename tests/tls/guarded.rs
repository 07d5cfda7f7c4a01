//! A policy with both `[tls]` and `[guard]`: the code that is hooked stays as it is, and programs that it is a part of run as ever.

use std::path::Path;
use std::process::Command;

use protocg_peers::harness::{Place, Stack, Watched};
use serde_json::{Value, json};

use crate::judged::judged;
use crate::libraries::overlaid;
use crate::stage::{Net, Stage, make, make_until_ok, python, refused, skip, unary, way_of};

const HOOKS: &str = "[tls]\n";
const GUARDED: &str = "[tls]\n[guard]\n";

/// Whether the guard keeps the code here: without BPF LSM it says that it does not.
fn is_kept(stage: &Stage) -> bool {
    let ready = &stage.agent.of_type("ready")[0];
    let covers = ready["guard"].as_array().cloned().unwrap_or_default();
    covers.iter().any(|cover| cover["way"] == "tls_text" && cover.get("why").is_none())
}

fn denials(stage: &Stage) -> Vec<Value> {
    stage.agent.of_type("guard").into_iter().filter(|event| event["verdict"] == "deny").collect()
}

/// A client in the cgroup takes the hook out of the library's code after its handshake, and then makes a denied call; `wrap`: its
/// command, if it is not to run as it is. Returns whether the hook stayed.
fn attacked(test: &str, rules: &str, how: &str, wrap: impl FnOnce(Command) -> Command) -> Option<bool> {
    let stage = Stage::calling(test, Stack::Tonic, rules);
    stage.rung(test)?;
    let Some(mut command) = python() else {
        println!("SKIPPED {test}: python3 has no h2");
        return None;
    };
    way_of(&mut command, "unhooked", stage.server.address, "a SECRET");
    let mut command = wrap({
        command.arg(how);
        command
    });
    Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
    let client = Watched::start(command);
    let (what, end) = client.wait_for("its end", |lines| match lines {
        [what, end] => Some((what.clone(), end.clone())),
        _ => None,
    });
    println!("{how}, {}: {what}, {end}", if is_kept(&stage) { "guarded" } else { "not guarded" });
    if what == "unhooked" {
        // nobody has judged it
        assert_eq!((end.as_str(), stage.texts_until("a SECRET")), ("written", vec!["a SECRET".to_owned()]));
        assert!(
            stage.agent.of_type("decision").is_empty() && denials(&stage).is_empty(),
            "{:#?}",
            stage.agent.events()
        );
        return Some(false);
    }
    assert!(is_kept(&stage), "{what}");
    assert_eq!((what.as_str(), end.as_str(), stage.server.messages()), ("refused: EPERM", "ended", 0));
    let event = stage.agent.wait_for("the denial", |e| e["type"] == "decision");
    assert_eq!((&event["plane"], &event["rule"]), (&json!("tls"), &json!("no-secrets")));
    let said = denials(&stage);
    assert!(!said.is_empty(), "{:#?}", stage.agent.events());
    for event in said {
        assert_eq!((&event["cause"], &event["process.name"]), (&json!("tls_text"), &json!("python3")), "{event:#}");
    }
    Some(true)
}

/// Without the guard the hook can be taken out, and with it not.
fn kept(test: &str, how: &str) {
    if skip(test) {
        return;
    }
    let Some(without) = attacked(test, HOOKS, how, |command| command) else { return };
    assert!(!without, "it proves nothing");
    let stage = Stage::calling(test, Stack::Tonic, GUARDED);
    let kept = is_kept(&stage);
    drop(stage);
    assert_eq!(attacked(test, GUARDED, how, |command| command), Some(kept));
}

#[test]
fn code_is_not_made_writable() {
    kept("tls-writable", "made_writable");
}

#[test]
fn code_is_not_written_by_proc() {
    kept("tls-proc-mem", "by_memory");
}

#[test]
fn code_is_not_written_by_a_tracer() {
    kept("tls-tracer", "by_tracer");
}

/// The kernel asks nobody whether a page may be given back: the guard does not cover that, as docs/guard.md says.
#[test]
fn a_page_that_is_given_back_has_no_hook() {
    let test = "tls-given-back";
    if skip(test) {
        return;
    }
    for rules in [HOOKS, GUARDED] {
        let Some(kept) = attacked(test, rules, "given_back", |command| command) else { return };
        assert!(!kept, "it is covered now: the docs are to say so");
    }
}

/// A file below an overlay has two names, and the kernel asks about one when it is mapped, about the other when that is changed.
#[test]
fn code_below_an_overlay_is_not_made_writable() {
    let test = "tls-overlay-text";
    if skip(test) {
        return;
    }
    for own in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let Some(overlay) = overlaid(test, folder.path(), own) else { return };
        let wrap = |client: Command| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &overlay, "sh"]).arg(client.get_program()).args(client.get_args());
            command
        };
        let stage = Stage::calling(test, Stack::Tonic, GUARDED);
        let kept = is_kept(&stage);
        drop(stage);
        let Some(stayed) = attacked(test, GUARDED, "made_writable", wrap) else { return };
        assert_eq!(stayed, kept, "with a library of its own: {own}");
    }
}

/// Maps a program's file as the kernel does, and makes its code writable. Says which error that ended with.
const MAKE_WRITABLE: &str = "
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
file = open(sys.argv[1], 'rb')
at = ctypes.c_void_p(libc.mmap(None, 4096, 5, 2, file.fileno(), 0))
print(0 if libc.mprotect(at, 4096, 3) == 0 else ctypes.get_errno())";

/// TLS in the program itself: all of its code is kept, and it runs as ever, whether it began before or after.
fn stack(test: &str, stack: Stack, serving: bool) {
    if skip(test) {
        return;
    }
    if let Some(what) = stack.lacks() {
        return println!("SKIPPED {test}: {what}");
    }
    let stage = if serving {
        Stage::serving_as(test, stack, stack.server(), Net::V4, GUARDED)
    } else {
        Stage::calling(test, stack, GUARDED)
    };
    if stage.rung(test).is_none() {
        return;
    }
    let process = serving.then(|| stage.server.process().pid());
    judged(&stage, test, "", process);
    // a client that begins when the file has long been hooked
    let mut session = stage.session();
    make_until_ok(&mut session, &unary("again"));
    refused(&make(&mut session, &unary("another SECRET")));
    assert!(denials(&stage).is_empty(), "{:#?}", denials(&stage));

    let library = stage.agent.of_type("decision")[0]["tls.library"].as_str().unwrap().to_owned();
    let mut command = Command::new("python3");
    command.args(["-c", MAKE_WRITABLE, &library]);
    Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let expected = if is_kept(&stage) { "1" } else { "0" };
    assert_eq!(said.trim(), expected, "{}", Path::new(&library).display());
}

#[test]
fn a_server_of_openssl_runs_under_the_guard() {
    stack("tls-guard-server", Stack::Tonic, true);
}

#[test]
fn a_server_of_node_runs_under_the_guard() {
    stack("tls-guard-js", Stack::Js, true);
}

#[test]
fn a_client_of_node_runs_under_the_guard() {
    stack("tls-guard-js-client", Stack::Js, false);
}

#[test]
fn a_server_of_go_runs_under_the_guard() {
    stack("tls-guard-go", Stack::Go, true);
}

#[test]
fn a_client_of_go_runs_under_the_guard() {
    stack("tls-guard-go-client", Stack::Go, false);
}
