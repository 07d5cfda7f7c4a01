//! TLS that no hook reads is refused, and said to be.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocg_peers::harness::{Place, Stack, Watched, patience};
use serde_json::json;
use tempfile::TempDir;

use crate::stage::{HOOKS, Net, Stage, lacks, make, python, refused, skip, unary, way_of};

#[test]
fn without_hooks_tls_is_refused() {
    if skip("tls-none") {
        return;
    }
    let stage = Stage::serving("tls-none", Net::V4, "");
    let mut session = stage.session();
    refused(&make(&mut session, &unary("hello")));
    let event = stage.agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!((&event["cause"], &event["reason"], &event["detail"]), (&json!("tls"), &json!("tls"), &json!(null)));
    assert_eq!(stage.server.messages(), 0);
}

/// A copy of grpcio whose BoringSSL gives another name for a source file in its errors, by which its functions are known.
fn grpcio_unknown() -> Option<TempDir> {
    let mut python = python()?;
    let place = python.args(["-c", "import grpc; print(*grpc.__path__)"]).output().ok()?;
    let package = String::from_utf8(place.stdout).ok().filter(|path| path.ends_with("/grpc\n"))?;
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(package.trim_end()).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let mut changed = 0;
    for file in fs::read_dir(copy.path().join("grpc/_cython")).unwrap().flatten() {
        if file.file_name().to_string_lossy().ends_with(".so") {
            let mut bytes = fs::read(file.path()).unwrap();
            let places: Vec<usize> = memchr::memmem::find_iter(&bytes, "ssl/ssl_lib.c").collect();
            changed += places.len();
            places.iter().for_each(|at| bytes[at + "ssl/ssl_li".len()] = b'p');
            fs::write(file.path(), bytes).unwrap();
        }
    }
    assert!(changed > 0);
    Some(copy)
}

/// What cannot be hooked is named.
#[test]
fn boringssl_that_is_not_known_is_refused_by_name() {
    let name = "tls-boring";
    if skip(name) || lacks(Stack::Grpcio, name) {
        return;
    }
    let mut server = Stack::Grpcio.server();
    let copy = grpcio_unknown().unwrap();
    server.env("PYTHONPATH", copy.path());
    let stage = Stage::serving_as(name, Stack::Grpcio, server, Net::V4, HOOKS);
    if stage.rung(name).is_none() {
        return;
    }
    let mut session = stage.session();
    refused(&make(&mut session, &unary("hello")));
    let event = stage.agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!((&event["cause"], &event["reason"]), (&json!("tls"), &json!("tls")), "{event:#}");
    let detail = event["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("process {} (`python3`)", stage.server.process().pid())), "{detail}");
    assert!(detail.contains("BoringSSL") && detail.contains("cygrpc"), "{detail}");
    assert_eq!(stage.server.messages(), 0);
}

/// A client in the cgroup whose TLS nobody hooks: refused, and the process and its library are named.
fn is_refused_by_name(test: &str, client: impl FnOnce(&Stage) -> Option<Command>, name: &str, kinds: [&str; 2]) {
    if skip(test) {
        return;
    }
    let stage = Stage::calling(test, Stack::Tonic, HOOKS);
    if stage.rung(test).is_none() {
        return;
    }
    let Some(mut command) = client(&stage) else { return };
    Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
    let client = Watched::start(command);
    let event = stage.agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!((&event["cause"], &event["reason"]), (&json!("tls"), &json!("tls")), "{event:#}");
    let detail = event["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("process {} (`{name}`)", client.pid())), "{detail}");
    assert!(kinds.iter().all(|kind| detail.contains(kind)), "{detail}");
    client.wait_for("ended", |lines| lines.iter().any(|line| line == "ended").then_some(()));
    assert!(!client.lines().iter().any(|line| line == "answered"), "{:?}", client.lines());
    assert_eq!(stage.server.messages(), 0);
}

#[test]
fn rustls_is_refused_by_name() {
    let test = "tls-rustls";
    let client = |stage: &Stage| {
        let mut command = python().filter(|_| has(test, "pyreqwest"))?;
        way_of(&mut command, "rustls", stage.server.address, "fine");
        Some(command)
    };
    is_refused_by_name(test, client, "python3", ["rustls", "pyreqwest"]);
}

#[test]
fn java_is_refused_by_name() {
    let test = "tls-java";
    let client = |stage: &Stage| {
        if !Command::new("java").arg("-version").output().is_ok_and(|out| out.status.success()) {
            println!("SKIPPED {test}: there is no java");
            return None;
        }
        let mut command = Command::new("java");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/Client.java"));
        command.args([stage.server.address.ip().to_string(), stage.server.address.port().to_string()]);
        Some(command)
    };
    is_refused_by_name(test, client, "java", ["Java", "libjvm.so"]);
}

/// Whether python3 has a package.
fn has(test: &str, package: &str) -> bool {
    let imported = python().and_then(|mut python| python.args(["-c", &format!("import {package}")]).output().ok());
    let has = imported.is_some_and(|out| out.status.success());
    if !has {
        println!("SKIPPED {test}: python3 has no {package} (see tests/peers/python/setup.sh and PROTOCG_VENV)");
    }
    has
}

/// A client in the cgroup that writes plaintext past the hooks: its connection ends before any of it leaves.
fn goes_past_the_hooks(name: &str, way: &str, reason: &str, detail: &str) {
    if skip(name) {
        return;
    }
    let stage = Stage::calling(name, Stack::Tonic, "[tls]\n");
    if stage.rung(name).is_none() {
        return;
    }
    let Some(mut command) = python() else { return println!("SKIPPED {name}: python3 has no h2") };
    let target = stage.server.address;
    way_of(&mut command, way, target, "a SECRET");
    Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
    let client = Watched::start(command);
    let event = stage.agent.wait_for("the refusal", |e| e["type"] == "connection");
    assert_eq!((&event["verdict"], &event["reason"]), (&json!("deny"), &json!(reason)), "{event:#}");
    assert!(event["detail"].as_str().unwrap_or_default().contains(detail), "{event:#}");
    client.wait_for("ended", |lines| lines.iter().any(|line| line == "ended").then_some(()));
    assert_eq!(stage.server.messages(), 0);
}

/// Each call on a connection that is dead fails, and none waits for the agent's next look around: the kernel wakes it.
#[test]
fn calls_on_a_dead_connection_fail_at_once() {
    let name = "tls-again";
    if skip(name) {
        return;
    }
    let stage = Stage::calling(name, Stack::Tonic, HOOKS);
    let Some(rung) = stage.rung(name) else { return };
    let Some(mut command) = python() else { return println!("SKIPPED {name}: python3 has no h2") };
    way_of(&mut command, "again", stage.server.address, "a SECRET");
    Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
    let client = Watched::start(command);
    let mut times: Vec<f64> = client.wait_for("ended", |lines| {
        let (last, times) = lines.split_last()?;
        (last == "ended").then(|| times.iter().map(|time| time.parse().unwrap()).collect())
    });
    assert_eq!((times.len(), stage.server.messages()), (20, 0));
    assert_eq!(stage.agent.of_type("decision").len(), 1, "{:#?}", stage.agent.events());
    let denied = times.remove(0);
    times.sort_by(f64::total_cmp);
    println!("{rung}: the denied call took {denied} ms; those after it {} ms, the slowest {} ms", times[9], times[18]);
}

/// A process that somebody kills while the agent has its threads stopped ends like any other: its parent hears of it.
#[test]
fn a_process_that_is_killed_while_it_is_held_is_gone() {
    let name = "tls-killed";
    if skip(name) {
        return;
    }
    let stage = Stage::calling(name, Stack::Tonic, HOOKS);
    let Some(rung) = stage.rung(name) else { return };
    if rung != "pause" {
        return println!("SKIPPED {name}: no process is held here, calls are denied by `{rung}`");
    }
    for round in 0..40 {
        let Some(mut command) = python() else { return println!("SKIPPED {name}: python3 has no h2") };
        way_of(&mut command, "again", stage.server.address, "a SECRET");
        Place { cgroup: Some(&stage.cgroup), net: None }.enter(&mut command);
        let client = Watched::start(command);
        client.wait_for("a denied call", |lines| (!lines.is_empty()).then_some(()));
        std::thread::sleep(Duration::from_micros(100 * round)); // each is held for a tenth of a millisecond or two, 20 times
        client.signal(Signal::SIGKILL);
        let bound = Instant::now() + patience(Duration::from_secs(5));
        loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap_or_default();
            if status.contains("TracerPid:\t0\n") && status.contains("State:\tZ") {
                break;
            }
            assert!(Instant::now() < bound, "killed, and still there: {status}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_client_whose_connection_is_a_bio() {
    goes_past_the_hooks("tls-bio", "bio", "tls", "BIO_f_ssl");
}

#[test]
fn a_client_whose_connection_becomes_a_bio() {
    goes_past_the_hooks("tls-latebio", "late_bio", "tls_call", "");
}

#[test]
fn a_client_whose_first_write_makes_the_handshake() {
    goes_past_the_hooks("tls-implicit", "implicit", "tls", "");
}

/// A call within another call: nobody can tell their returns apart by their thread.
#[test]
fn a_client_whose_callback_writes_elsewhere() {
    goes_past_the_hooks("tls-nested", "nested", "tls_call", "");
}
