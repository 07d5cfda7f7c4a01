//! Who is covered: child cgroups, several cgroups, nobody else; and other programs beside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack};
use serde_json::Value;

use crate::stage::{
    BINARY, Net, SECRET, SECRET_CODE, SECRET_MESSAGE, Stage, check, eventually, make, ok, policy, skip, texts_until,
    unary,
};

const LOOPBACK: &str = "127.0.0.1:0";

fn serve(cgroup: Option<&Cgroup>) -> Server {
    Server::start(Stack::Tonic, Place { cgroup, net: None }, LOOPBACK.parse().unwrap())
}

fn ask(target: SocketAddr, texts: &[&str]) -> Vec<Value> {
    let calls = Calls { stack: Stack::Tonic, place: Place::default(), target };
    let mut session = calls.session();
    texts.iter().map(|text| make(&mut session, &unary(text))).collect()
}

#[test]
fn child_cgroups_are_covered_and_nobody_outside_is() {
    if skip("children", &[]) {
        return;
    }
    let cgroup = Cgroup::new("parent");
    let child = cgroup.child("child");
    let grandchild = child.child("grandchild");
    let beside = Cgroup::new("beside");
    let servers = [serve(Some(&child)), serve(Some(&grandchild)), serve(Some(&beside)), serve(None)];
    let ports: Vec<String> = servers.iter().map(|s| s.address.port().to_string()).collect();
    let text = policy(0, SECRET).replace("ports = [0]", &format!("ports = [{}]", ports.join(", ")));
    let agent = Protocg::run(BINARY, &[&cgroup], &text, &[]);
    // One that is made while the policy is in force is covered too.
    let late = cgroup.child("late");
    for (server, place) in servers.iter().zip([Some(&child), Some(&grandchild), None, None]) {
        let results = ask(server.address, &["a SECRET", "fine"]);
        ok(&results[1]);
        let Some(place) = place else {
            ok(&results[0]);
            assert_eq!(texts_until(server, "fine"), ["a SECRET", "fine"]);
            continue;
        };
        check(&results[0], SECRET_CODE, SECRET_MESSAGE);
        assert_eq!(texts_until(server, "fine"), ["fine"]);
        let cgroup = place.path().to_str().unwrap();
        agent.wait_for("a denial in the child", |e| e["verdict"] == "deny" && e["cgroup"] == cgroup);
    }
    let [_, server, ..] = servers;
    let address = server.address;
    drop(server);
    let server = Server::start(Stack::Tonic, Place { cgroup: Some(&late), net: None }, address);
    check(&ask(address, &["a SECRET"])[0], SECRET_CODE, SECRET_MESSAGE);
    ok(&ask(address, &["fine"])[0]);
    assert_eq!(texts_until(&server, "fine"), ["fine"]);
    drop((server, agent));
}

#[test]
fn two_cgroups_in_one_run() {
    if skip("two", &[]) {
        return;
    }
    let cgroups = [Cgroup::new("one"), Cgroup::new("two")];
    let servers = cgroups.each_ref().map(|cgroup| serve(Some(cgroup)));
    let [one, two] = servers.each_ref().map(|s| s.address.port());
    let text = policy(0, SECRET).replace("ports = [0]", &format!("ports = [{one}, {two}]"));
    let agent = Protocg::run(BINARY, &[&cgroups[0], &cgroups[1]], &text, &[]);
    for (server, cgroup) in servers.iter().zip(&cgroups) {
        let results = ask(server.address, &["a SECRET", "fine"]);
        check(&results[0], SECRET_CODE, SECRET_MESSAGE);
        ok(&results[1]);
        assert_eq!(texts_until(server, "fine"), ["fine"]);
        let path = cgroup.path().to_str().unwrap();
        agent.wait_for("its denial", |e| e["verdict"] == "deny" && e["cgroup"] == path);
    }
    assert_eq!(agent.of_type("decision").len(), 2);
}

/// bpftool loads and attaches somebody's program: cgroup_skb that counts what it sees.
fn bpftool(arguments: &[&str]) -> Option<String> {
    let output = Command::new("bpftool").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn another_program_on_the_cgroup_goes_on() {
    if skip("another", &[]) {
        return;
    }
    if bpftool(&["version"]).is_none() {
        return println!("SKIPPED another: bpftool is missing");
    }
    let Some(object) = other_object() else {
        return println!("SKIPPED another: clang cannot build a BPF program");
    };
    let cgroup = Cgroup::new("another");
    let pin = PathBuf::from(format!("/sys/fs/bpf/pgtest-{}-another", std::process::id()));
    let (pin_text, path) = (pin.to_str().unwrap(), cgroup.path().to_str().unwrap());
    bpftool(&["prog", "load", object.path().to_str().unwrap(), pin_text, "type", "cgroup/skb"]).unwrap();
    bpftool(&["cgroup", "attach", path, "ingress", "pinned", pin_text, "multi"]).unwrap();
    let id = bpftool(&["-j", "prog", "show", "pinned", pin_text]).unwrap();
    std::fs::remove_file(&pin).unwrap();
    let id: Value = serde_json::from_str(&id).unwrap();
    let map = id["map_ids"][0].as_u64().unwrap().to_string();
    let seen = || -> u64 {
        let dump = bpftool(&["-j", "map", "dump", "id", &map]).unwrap();
        let dump: Value = serde_json::from_str(&dump).unwrap();
        dump[0]["formatted"]["value"][".bss"][0]["packets"].as_u64().unwrap()
    };
    let attached = || bpftool(&["cgroup", "show", path]).unwrap();
    let server = serve(Some(&cgroup));
    let agent = Protocg::run(BINARY, &[&cgroup], &policy(server.address.port(), SECRET), &[]);
    assert!(attached().contains("pgtest_other"), "{}", attached());
    let before = seen();
    let results = ask(server.address, &["a SECRET", "fine"]);
    check(&results[0], SECRET_CODE, SECRET_MESSAGE);
    ok(&results[1]);
    assert_eq!(texts_until(&server, "fine"), ["fine"]);
    assert!(seen() > before, "the other program has seen the packets");
    assert_eq!(agent.stop().code(), Some(0));
    assert!(attached().contains("pgtest_other") && !attached().contains("pg_ingress"), "{}", attached());
    let after = seen();
    ok(&ask(server.address, &["a SECRET"])[0]);
    assert!(seen() > after);
}

fn other_object() -> Option<tempfile::NamedTempFile> {
    const SOURCE: &str = "
        unsigned long long packets;
        __attribute__((section(\"cgroup_skb/ingress\"), used)) int pgtest_other(void *skb)
        { __sync_fetch_and_add(&packets, 1); return 1; }
        char LICENSE[] __attribute__((section(\"license\"), used)) = \"GPL\";";
    let source = tempfile::Builder::new().suffix(".c").tempfile().ok()?;
    std::fs::write(source.path(), SOURCE).ok()?;
    let object = tempfile::Builder::new().suffix(".o").tempfile().ok()?;
    let built = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-c"])
        .arg(source.path())
        .arg("-o")
        .arg(object.path())
        .status();
    built.is_ok_and(|s| s.success()).then_some(object)
}

#[test]
fn a_client_inside_is_not_judged_by_an_ingress_policy() {
    if skip("inside", &[]) {
        return;
    }
    let stage = Stage::new("inside", Stack::Tonic, Net::Loopback4, |port| policy(port, SECRET), &[]);
    // The server is outside, on the policy's port; its client is inside.
    let outside = serve(None);
    let text = policy(outside.address.port(), SECRET);
    drop(stage.agent);
    let agent = Protocg::run(BINARY, &[&stage.cgroup], &text, &[]);
    let place = Place { cgroup: Some(&stage.cgroup), net: None };
    let calls = Calls { stack: Stack::Tonic, place, target: outside.address };
    ok(&make(&mut calls.session(), &unary("a SECRET")));
    eventually("the message", || outside.messages() == 1);
    assert!(agent.of_type("decision").is_empty());
}
