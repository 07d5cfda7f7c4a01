//! A server of several processes over Python's ssl, which gives OpenSSL the socket itself and reads in pieces of any size.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Stack, Watched};
use serde_json::{Value, json};

use crate::shapes::{script, started};
use crate::stage::{BINARY, certificate, make, make_until_ok, policy, python, refused, skip, unary, way_of};

/// A server in the cgroup, and where it listens; nothing if Python lacks what it needs.
fn serving(cgroup: &Cgroup, folder: &Path, arguments: &[&str]) -> Option<(Watched, SocketAddr)> {
    let mut command = python()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/prefork.py");
    command.arg(script).arg(folder).args(arguments);
    Place { cgroup: Some(cgroup), net: None }.enter(&mut command);
    let server = Watched::start(command);
    let target = server.wait_for("listening", |lines| {
        lines.iter().find_map(|line| line.strip_prefix("listening ")?.parse::<SocketAddr>().ok())
    });
    Some((server, target))
}

fn judged(name: &str, size: usize) {
    if skip(name) {
        return;
    }
    let (cgroup, folder) = (Cgroup::new(name), certificate());
    let Some((server, target)) = serving(&cgroup, folder.path(), &[&size.to_string()]) else {
        return println!("SKIPPED {name}: python3 has no h2");
    };
    let agent = Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", "[tls]\n"), &[]);
    if agent.of_type("ready")[0]["tls"] == "none" {
        return println!("SKIPPED {name}: {:?}", agent.of_type("warning"));
    }

    let calls = Calls { stack: Stack::Tonic, place: Place::default(), target };
    let mut expected = Vec::new();
    for round in 0..4 {
        let mut session = calls.session_with(&["--tls"]);
        let (before, after) = (format!("before {round}"), format!("after {round}"));
        make_until_ok(&mut session, &unary(&before));
        refused(&make(&mut session, &unary("a SECRET")));
        make_until_ok(&mut session, &unary(&after));
        expected.extend([before, after]);
    }
    let requests = |lines: &[String]| -> Vec<Value> {
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
    };
    let seen = server.wait_for("the requests", |lines| {
        let seen = requests(lines);
        (seen.len() >= expected.len()).then_some(seen)
    });
    let bodies: Vec<String> = seen.iter().map(|e| e["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(bodies.len(), expected.len(), "{bodies:?}");
    for (body, text) in bodies.iter().zip(&expected) {
        assert!(body.ends_with(text.as_str()), "{body:?} {text}");
    }
    let events = agent.of_type("decision");
    assert_eq!(events.len(), 4, "{events:#?}");
    let who: HashSet<u64> = events.iter().map(|e| e["process.pid"].as_u64().unwrap()).collect();
    let had: HashSet<u64> = seen.iter().map(|e| e["pid"].as_u64().unwrap()).collect();
    assert!(who.is_subset(&had), "{who:?} {had:?}");
    assert!(events.iter().all(|e| e["plane"] == json!("tls") && e["process.name"] == json!("python3")), "{events:#?}");
}

#[test]
fn a_prefork_server_that_reads_byte_by_byte() {
    judged("tls-prefork1", 1);
}

#[test]
fn a_prefork_server_that_reads_large_pieces() {
    judged("tls-prefork", 65536);
}

/// A child goes on with an object that is fed, which the fork has copied: nobody follows what it reads there.
#[test]
fn what_a_fork_has_copied_is_not_read() {
    let name = "tls-fork";
    if skip(name) {
        return;
    }
    for (shape, enforced) in
        [("fed-fork", false), ("fed-fork", true), ("gnutls-fed-fork", false), ("gnutls-fed-fork", true)]
    {
        let Some(command) = script(name, "server", shape) else { return };
        let (cgroup, folder) = (Cgroup::new(name), certificate());
        let (server, target) = started(command, folder.path(), &cgroup);
        let agent = enforced.then(|| Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", "[tls]\n"), &[]));
        if agent.as_ref().is_some_and(|agent| agent.of_type("ready")[0]["tls"] == "none") {
            return println!("SKIPPED {name}: no hooks here");
        }
        // It does not connect again, as tonic's would.
        let Some(mut client) = script(name, "client", "plain") else { return };
        client.arg(target.to_string()).args(["one", "two"]);
        let said = Watched::start(client).wait_for("both calls", |lines| (lines.len() == 2).then(|| lines.to_vec()));
        assert_eq!(said, ["answered", if enforced { "ended" } else { "answered" }], "{shape}");
        let lines = server.wait_for("what it had", |lines| (enforced || lines.len() == 3).then(|| lines.to_vec()));
        assert!(!lines.iter().any(|line| enforced && line.contains("two")), "{shape}: {lines:?}");
    }
}

/// What a server had of a connection that was reset before it read: `fine` and `a SECRET`, each of another connection.
fn left_behind(name: &str, seconds: u64, enforced: bool) -> Option<Vec<String>> {
    let (cgroup, folder) = (Cgroup::new(name), certificate());
    let late = seconds.to_string();
    let (server, target) = serving(&cgroup, folder.path(), &["65536", "late", &late])?;
    let agent = enforced.then(|| Protocg::run(BINARY, &[&cgroup], &policy(target.port(), "", "[tls]\n"), &[]));
    if agent.as_ref().is_some_and(|agent| agent.of_type("ready")[0]["tls"] == "none") {
        return None;
    }
    for text in ["fine", "a SECRET"] {
        let mut client = python()?;
        way_of(&mut client, "reset", target, text);
        assert!(client.status().unwrap().success());
    }
    let over = |lines: &[String]| lines.iter().filter(|line| line.contains(r#""over""#)).count() == 2;
    std::thread::sleep(Duration::from_secs(seconds));
    Some(server.wait_for("both read", |lines| over(lines).then(|| lines.to_vec())))
}

/// The session of a connection that is gone ends before the server has read what came; that is handed to nobody then.
#[test]
fn what_a_reset_connection_left_behind_is_judged_or_not_read() {
    let name = "tls-late";
    if skip(name) {
        return;
    }
    let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
    let Some(without) = left_behind("tls-late-off", 1, false) else { return println!("SKIPPED {name}: no hooks here") };
    assert!(has(&without, "fine") && has(&without, "SECRET"), "{without:?}");
    let soon = left_behind("tls-late-soon", 1, true).unwrap();
    assert!(has(&soon, "fine") && !has(&soon, "SECRET"), "{soon:?}");
    let late = left_behind(name, 25, true).unwrap();
    assert!(!has(&late, "fine") && !has(&late, "SECRET"), "{late:?}");
}
