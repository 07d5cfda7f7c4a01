//! The agent's own life: its events, its output, its being stopped.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack};
use serde_json::{Value, json};

use crate::stage::{
    BINARY, Net, SECRET, SECRET_CODE, SECRET_MESSAGE, Stage, call, check, eventually, make, ok, policy, skip,
    texts_until, unary, with,
};

#[test]
fn allowed_calls_have_events_if_asked_for() {
    if skip("events-allowed", &[]) {
        return;
    }
    let more = &["--events-allowed"];
    let stage = Stage::new("events-allowed", Stack::Tonic, Net::Loopback4, |port| policy(port, SECRET), more);
    let calls = [
        unary("one"),
        call("/echo.Echo/Bidi", json!([{ "text": "two" }, { "text": "three" }])),
        unary("a SECRET"),
        // No rule reads its messages: it is decided on its header block.
        call("/search.SearchService/Search", json!([{ "query": "four" }])),
    ];
    let results = stage.make(Stack::Tonic, &calls);
    check(&results[2], SECRET_CODE, SECRET_MESSAGE);
    [0, 1, 3].into_iter().for_each(|i| ok(&results[i]));
    let events = stage.decisions("allow", 4);
    let said: Vec<(&Value, &Value)> = events.iter().map(|e| (&e["rpc.method"], &e["message"])).collect();
    let [unary, bidi, search] = ["Unary", "Bidi", "Search"].map(Value::from);
    let [zero, one, two] = [0, 1, 2].map(Value::from);
    assert_eq!(said, [(&unary, &one), (&bidi, &one), (&bidi, &two), (&search, &zero)]);
    for event in &events {
        assert_eq!((&event["rule"], &event["cgroup"]), (&json!("default"), &json!(stage.cgroup.path().to_str())));
        assert_eq!(event.get("rpc.grpc.status_code"), None, "the server's own, which nobody knows yet");
    }
    assert_eq!(stage.decisions("deny", 1).len(), 1);
    assert_eq!(stage.agent.of_type("decision").len(), 5);
}

#[test]
fn a_closed_stdout_changes_nothing() {
    if skip("closed-stdout", &[]) {
        return;
    }
    let cgroup = Cgroup::new("closed-stdout");
    let place = Place { cgroup: Some(&cgroup), net: None };
    let server = Server::start(Stack::Tonic, place, "127.0.0.1:0".parse().unwrap());
    let text = policy(server.address.port(), SECRET);
    let (mut command, _folder) = Protocg::command(BINARY, &[&cgroup], &text, &["--events-allowed"]);
    let mut agent = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(agent.stdout.take().unwrap()), &mut line).unwrap();
    assert!(line.contains("\"ready\""), "{line}");
    // The pipe is closed now.
    let mut session = Calls { stack: Stack::Tonic, place: Place::default(), target: server.address }.session();
    for _ in 0..20 {
        check(&make(&mut session, &unary("a SECRET")), SECRET_CODE, SECRET_MESSAGE);
        ok(&make(&mut session, &unary("fine")));
    }
    ok(&make(&mut session, &unary("the last")));
    let texts = texts_until(&server, "the last");
    assert_eq!(texts.iter().filter(|t| *t == "fine").count(), 20);
    assert_eq!(texts.len(), 21);
    assert!(agent.try_wait().unwrap().is_none());
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0));
}

#[test]
fn a_stopped_agent_lets_nothing_through_and_answers_when_it_goes_on() {
    if skip("stopped", &[]) {
        return;
    }
    let mut stage = Stage::simple("stopped", SECRET);
    let target = stage.server.address;
    let mut waiting = Calls { stack: Stack::Tonic, place: Place::default(), target }.session();
    let mut other = Calls { stack: Stack::Tonic, place: Place::default(), target }.session();
    ok(&make(&mut waiting, &unary("before")));
    stage.agent.process().signal(Signal::SIGSTOP);
    waiting.begin(&json!([unary("a SECRET")]));
    // Nobody answers: the caller's own deadline ends this one.
    let late = make(&mut other, &with(unary("another SECRET"), "deadline_ms", 300));
    assert_ne!(late["code"], 0);
    assert_ne!(late["code"], SECRET_CODE);
    // Connections without a denial are served as ever.
    let mut third = Calls { stack: Stack::Tonic, place: Place::default(), target }.session();
    ok(&make(&mut third, &unary("meanwhile")));
    stage.agent.process().signal(Signal::SIGCONT);
    check(&waiting.finish()[0], SECRET_CODE, SECRET_MESSAGE);
    ok(&make(&mut waiting, &unary("the last")));
    assert_eq!(stage.texts_until("the last"), ["before", "meanwhile", "the last"]);
    stage.decisions("deny", 2);
}

#[test]
fn at_its_end_the_agent_answers_and_lets_go() {
    if skip("its-end", &[]) {
        return;
    }
    let stage = Stage::simple("its-end", SECRET);
    let Stage { agent, server, cgroup, .. } = stage;
    let mut session = Calls { stack: Stack::Tonic, place: Place::default(), target: server.address }.session();
    ok(&make(&mut session, &unary("one")));
    let mut denied = Calls { stack: Stack::Tonic, place: Place::default(), target: server.address }.session();
    check(&make(&mut denied, &unary("a SECRET")), SECRET_CODE, SECRET_MESSAGE);
    assert_eq!(agent.stop().code(), Some(0));
    // The healthy connection outlives it, and nothing is judged any more.
    ok(&make(&mut session, &unary("a SECRET")));
    assert_eq!(session.connections, 1);
    // What was denied before is not delivered after.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(texts_until(&server, "a SECRET"), ["one", "a SECRET"]);
    eventually("nothing is attached", || protocg_attached(&cgroup) == 0);
}

fn protocg_attached(cgroup: &Cgroup) -> usize {
    use protocg::kernel::sys::{self, Hook};
    use std::os::fd::AsFd;
    let folder = std::fs::File::open(cgroup.path()).unwrap();
    Hook::ALL.into_iter().map(|hook| sys::attached(folder.as_fd(), hook).unwrap().len()).sum()
}
