//! The last rung: the process is killed before it reads what is denied, or before it has written it; if the policy says so, and only then.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Stack, Watched, patience};
use serde_json::json;

use crate::stage::{BINARY, HOOKS, Net, Stage, certificate, make, policy, python, refused, skip, unary, way_of};

const KILL: &str = "[tls]\npause = false\nkill = true\n";

fn state(pid: u32) -> WaitStatus {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    waitid(Id::Pid(Pid::from_raw(pid.cast_signed())), flags).unwrap()
}

/// Whether a child has been killed, or is in a moment.
fn killed(pid: u32) -> bool {
    let bound = Instant::now() + patience(Duration::from_secs(5));
    while state(pid) == WaitStatus::StillAlive && Instant::now() < bound {
        std::thread::sleep(Duration::from_millis(1));
    }
    matches!(state(pid), WaitStatus::Signaled(_, Signal::SIGKILL, _))
}

/// Whether the rung is taken here: a kernel whose hooks can write registers has a better one.
fn is_rung(agent: &Protocg, test: &str) -> bool {
    let rung = agent.of_type("ready")[0]["tls"].as_str().unwrap().to_owned();
    if rung != "kill" {
        println!("SKIPPED {test}: this kernel's rung is `{rung}`: {:?}", agent.of_type("warning"));
    }
    rung == "kill"
}

#[test]
fn a_server_is_killed_before_its_handler_sees_it() {
    let test = "tls-kill";
    if skip(test) {
        return;
    }
    let stage = Stage::serving(test, Net::V4, KILL);
    if !is_rung(&stage.agent, test) {
        return;
    }
    let mut session = stage.session();
    assert_eq!(make(&mut session, &unary("first"))["code"], 0);
    refused(&make(&mut session, &unary("a SECRET")));
    let pid = stage.server.process().pid();
    assert!(killed(pid));
    let event = stage.agent.wait_for("the denial", |e| e["type"] == "decision");
    assert_eq!((&event["plane"], &event["rule"]), (&json!("tls"), &json!("no-secrets")), "{event:#}");
    assert_eq!((&event["enforcement"], &event["process.pid"]), (&json!("kill"), &json!(pid)), "{event:#}");
    assert_eq!(stage.server.messages(), 1);
}

/// A server that says each piece it has read, at once: of a thread of its own nothing denied is ever said. Its other process serves on.
#[test]
fn a_server_is_killed_before_it_has_read_it() {
    let test = "tls-kill-read";
    if skip(test) {
        return;
    }
    let Some(mut command) = python() else { return println!("SKIPPED {test}: python3 has no h2") };
    let folder = certificate();
    let cgroup = Cgroup::new(test);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/prefork.py");
    command.arg(script).arg(folder.path()).args(["65536", "pieces"]);
    Place { cgroup: Some(&cgroup), net: None }.enter(&mut command);
    let server = Watched::start(command);
    let target = server.wait_for("listening", |lines| {
        lines.iter().find_map(|line| line.strip_prefix("listening ")?.parse::<std::net::SocketAddr>().ok())
    });
    let agent = Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", KILL), &[]);
    if !is_rung(&agent, test) {
        return;
    }
    let calls = Calls { stack: Stack::Tonic, place: Place::default(), target };
    for count in 1..=2 {
        let mut session = calls.session_with(&["--tls"]);
        assert_eq!(make(&mut session, &unary("fine"))["code"], 0, "{:#?}", agent.events());
        refused(&make(&mut session, &unary("a SECRET")));
        agent.process_lines(|lines| lines.iter().filter(|l| l.contains(r#""type":"decision""#)).count() >= count);
    }
    // Both have met their end, the one that was started here among them.
    assert!(killed(server.pid()));
    let pieces = server.lines();
    assert!(pieces.iter().any(|line| line.contains("fine")), "{pieces:#?}");
    assert!(pieces.iter().all(|line| !line.contains("SECRET")), "{pieces:#?}");
    let mut dead: Vec<u64> =
        agent.of_type("decision").iter().map(|event| event["process.pid"].as_u64().unwrap()).collect();
    dead.sort_unstable();
    dead.dedup();
    assert_eq!(dead.len(), 2, "{dead:?}");
}

#[test]
fn a_client_is_killed_before_it_has_written_it() {
    let test = "tls-kill-client";
    if skip(test) {
        return;
    }
    let stage = Stage::calling(test, Stack::Tonic, KILL);
    if !is_rung(&stage.agent, test) {
        return;
    }
    let Some(mut command) = python() else { return println!("SKIPPED {test}: python3 has no h2") };
    way_of(&mut command, "again", stage.server.address, "a SECRET");
    Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
    let client = Watched::start(command);
    let event = stage.agent.wait_for("the denial", |e| e["type"] == "decision");
    assert_eq!((&event["enforcement"], &event["process.pid"]), (&json!("kill"), &json!(client.pid())), "{event:#}");
    assert!(killed(client.pid()));
    assert!(client.lines().is_empty(), "{:?}", client.lines());
    assert_eq!(stage.server.messages(), 0);
}

/// By default nobody is killed, whatever is denied.
#[test]
fn nobody_is_killed_by_default() {
    let test = "tls-no-kill";
    if skip(test) {
        return;
    }
    let stage = Stage::serving(test, Net::V4, HOOKS);
    let Some(rung) = stage.rung(test) else { return };
    assert_ne!(rung, "kill");
    let pid = stage.server.process().pid();
    for _ in 0..20 {
        let mut session = stage.session();
        refused(&make(&mut session, &unary("a SECRET")));
    }
    assert_eq!(state(pid), WaitStatus::StillAlive);
    assert_eq!(make(&mut stage.session(), &unary("fine"))["code"], 0);
    assert_eq!(stage.server.messages(), 1);
}

/// A policy that allows neither a pause nor a kill: where hooks cannot write, TLS is refused, and nobody is harmed.
#[test]
fn without_a_rung_tls_is_refused() {
    let test = "tls-no-rung";
    if skip(test) {
        return;
    }
    let stage = Stage::serving(test, Net::V4, "[tls]\npause = false\n");
    let rung = stage.agent.of_type("ready")[0]["tls"].as_str().unwrap().to_owned();
    if rung == "context" {
        return println!("SKIPPED {test}: this kernel's hooks can write registers");
    }
    assert_eq!(rung, "none");
    assert!(!stage.agent.of_type("warning").is_empty());
    refused(&make(&mut stage.session(), &unary("fine")));
    let event = stage.agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!((&event["cause"], &event["reason"]), (&json!("tls"), &json!("tls")), "{event:#}");
    assert_eq!(state(stage.server.process().pid()), WaitStatus::StillAlive);
    assert_eq!(stage.server.messages(), 0);
}
