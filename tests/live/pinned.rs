//! Enforcement that outlives its agent, and what is left when all is over.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::sys::signal::Signal;
use protocg_peers::h2raw::{self, Encoder, Style};
use protocg_peers::harness::process::Watched;
use protocg_peers::harness::{Calls, Cgroup, Place, Protocg, Server, Stack, patience};
use protocg_peers::wire::Message;
use serde_json::{Value, json};

use crate::stage::{
    BINARY, SECRET, SECRET_CODE, SECRET_MESSAGE, call, check, eventually, make, ok, policy, skip, texts_until, unary,
    with,
};

/// A cgroup for pinned enforcement; dropped, that is detached.
struct Ground {
    cgroup: Cgroup,
}

impl Ground {
    fn new(name: &str) -> Self {
        Self { cgroup: Cgroup::new(name) }
    }

    fn run(&self, policy: &str) -> Protocg {
        Protocg::run(BINARY, &[&self.cgroup], policy, &["--pin"])
    }

    fn detach(&self) -> Output {
        Command::new(BINARY).arg("detach").arg("--cgroup").arg(self.cgroup.path()).output().unwrap()
    }

    fn pins(&self) -> PathBuf {
        let id = std::fs::metadata(self.cgroup.path()).unwrap().ino();
        PathBuf::from(format!("/sys/fs/bpf/protocg/{id}"))
    }

    fn map(&self, name: &str) -> MapHandle {
        MapHandle::from_pinned_path(self.pins().join(name)).unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.detach();
    }
}

/// A server under pinned enforcement.
struct Pinned {
    ground: Ground,
    server: Server,
    policy: String,
}

impl Pinned {
    fn new(name: &str) -> Self {
        let ground = Ground::new(name);
        let place = Place { cgroup: Some(&ground.cgroup), net: None };
        let server = Server::start(Stack::Tonic, place, "127.0.0.1:0".parse().unwrap());
        let policy = policy(server.address.port(), SECRET);
        Self { ground, server, policy }
    }

    fn run(&self) -> Protocg {
        self.ground.run(&self.policy)
    }

    fn calls(&self, stack: Stack) -> Calls<'_> {
        Calls { stack, place: Place::default(), target: self.server.address }
    }

    fn detach(&self) -> String {
        let output = self.ground.detach();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn pins(&self) -> PathBuf {
        self.ground.pins()
    }

    fn entries(&self, map: &str) -> usize {
        self.ground.map(map).keys().count()
    }
}

fn kill(mut agent: Protocg) {
    agent.process().signal(Signal::SIGKILL);
    agent.process().wait();
}

fn outlives(name: &str, client: Stack) {
    if skip(name, &[client]) {
        return;
    }
    let pinned = Pinned::new(name);
    let agent = pinned.run();
    let mut old = pinned.calls(client).session();
    ok(&make(&mut old, &unary("before")));
    kill(agent);

    // Nobody is there to answer, and still nothing denied passes; the old connection goes on.
    ok(&make(&mut old, &unary("meanwhile")));
    let mut other = pinned.calls(client).session();
    let orphan = make(&mut other, &with(unary("an orphaned SECRET"), "deadline_ms", 300));
    assert!(orphan["code"] != 0 && orphan["code"] != SECRET_CODE, "{orphan:#}");
    // One that still waits when the next agent comes is dealt with by it.
    let mut waiting = pinned.calls(client).session();
    waiting.begin(&json!([unary("a waiting SECRET")]));

    let agent = pinned.run();
    let ready = agent.of_type("ready").remove(0);
    assert_eq!((&ready["origin"], &ready["pinned"]), (&json!("adopted"), &json!(true)));
    let result = waiting.finish().remove(0);
    assert!(result["code"] != 0 && result["code"] != 4, "it does not hang: {result:#}");
    // The old connection was known all the time: it is usable, and judged.
    ok(&make(&mut old, &unary("after")));
    assert_eq!(old.connections, 1);
    check(&make(&mut old, &unary("a SECRET")), SECRET_CODE, SECRET_MESSAGE);
    ok(&make(&mut old, &unary("the last")));
    assert_eq!(texts_until(&pinned.server, "the last"), ["before", "meanwhile", "after", "the last"]);

    assert_eq!(agent.stop().code(), Some(0));
    assert!(pinned.pins().exists());
    assert!(pinned.detach().contains("ended"));
    assert!(!pinned.pins().exists());
    ok(&make(&mut old, &unary("a free SECRET")));
    assert!(pinned.detach().contains("nothing was pinned"));
}

#[test]
fn pinned_enforcement_outlives_its_agent_for_tonic() {
    outlives("pin-tonic", Stack::Tonic);
}

#[test]
fn pinned_enforcement_outlives_its_agent_for_grpcio() {
    outlives("pin-grpcio", Stack::Grpcio);
}

#[test]
fn nothing_stays_of_connections_that_are_closed() {
    if skip("leak", &[]) {
        return;
    }
    let pinned = Pinned::new("leak");
    let _agent = pinned.run();
    let calls: Vec<Value> = (0..40)
        .map(|i| {
            let call = match i % 4 {
                0 => unary("a SECRET"),
                1 => call("/echo.Echo/Bidi", json!([{ "text": "a" }, { "text": "SECRET" }, { "text": "c" }])),
                // Gone before the answer, and inside of the request.
                2 => with(call("/echo.Echo/Slow", json!([{ "delay_ms": 500 }])), "deadline_ms", 40),
                _ => with(
                    with(
                        call("/echo.Echo/ClientStream", json!([{ "text": "a" }, { "text": "b" }])),
                        "interval_ms",
                        200,
                    ),
                    "deadline_ms",
                    40,
                ),
            };
            with(call, "group", i / 8)
        })
        .collect();
    let mut sessions: Vec<_> = (0..3).map(|_| pinned.calls(Stack::Tonic).session()).collect();
    sessions.iter_mut().for_each(|s| s.begin(&json!(calls)));
    for session in &mut sessions {
        let results = session.finish();
        assert_eq!(results.len(), calls.len());
        assert!(results.iter().all(|r| r["code"] != 0));
        ok(&make(session, &unary("fine")));
    }
    // Denied connections may still be waiting for their last acknowledgement.
    eventually("one connection each is left", || pinned.entries("map_conns") == 3);
    drop(sessions);
    for map in ["map_conns", "map_streams", "map_replies", "map_owed"] {
        eventually(&format!("{map} is empty"), || pinned.entries(map) == 0);
    }
}

/// A server that begins a response and stays in the middle of its DATA frame; it reads on, and says how much.
const UNFINISHED: &str = r#"
import socket
listener = socket.create_server(("127.0.0.1", 0))
print("listening 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
connection = listener.accept()[0]
got = len(connection.recv(1 << 16))
print("read %d" % got, flush=True)
connection.sendall(bytes.fromhex("000000040000000000" "00000101040000000188" "000064000000000001" "0000000000"))
while piece := connection.recv(1 << 16):
    got += len(piece)
    print("read %d" % got, flush=True)
"#;

/// The agent ends when the hole of a denied call is filled and the caller not answered: the server has not finished a frame.
/// Neither it nor the next agent leaves the caller to wait.
fn owing(name: &str, end: impl FnOnce(Protocg), next: impl Fn(u16) -> String, origin: &str) {
    if skip(name, &[]) {
        return;
    }
    let ground = Ground::new(name);
    let mut command = Command::new("python3");
    command.arg("-c").arg(UNFINISHED);
    Place { cgroup: Some(&ground.cgroup), net: None }.enter(&mut command);
    let server = Watched::start(command);
    let to: SocketAddr = server.wait_for("it listens", |lines| lines.first()?.strip_prefix("listening ")?.parse().ok());
    let read = |least: usize| {
        server.wait_for("what it has read", |lines| {
            lines.iter().filter_map(|line| line.strip_prefix("read ")?.parse::<usize>().ok()).find(|it| *it >= least)
        })
    };
    let agent = ground.run(&policy(to.port(), SECRET));

    let mut encoder = Encoder::default();
    let mut call = |stream, text: &str| {
        let message = Message::new().bytes(1, text).bytes;
        h2raw::unary(&mut encoder, Style::PLAIN, stream, "/echo.Echo/Unary", &message)
    };
    let mut client = TcpStream::connect(to).unwrap();
    let opening = [h2raw::open(&[]), call(1, "public")].concat();
    client.write_all(&opening).unwrap();
    read(opening.len());
    let mut begun = [0; 33];
    client.read_exact(&mut begun).unwrap();
    client.write_all(&call(3, "a SECRET")).unwrap();
    agent.wait_for("the denial", |event| event["verdict"] == "deny");
    read(opening.len() + 1);
    let conns = ground.map("map_conns");
    let holes = std::mem::offset_of!(protocg::abi::pg_conn, holes);
    eventually("the hole is filled", || {
        let conn = conns.lookup(&conns.keys().next().unwrap(), MapFlags::ANY).unwrap().unwrap();
        conn[holes..holes + 4] == [0; 4]
    });
    end(agent);

    let agent = ground.run(&next(to.port()));
    assert_eq!(agent.of_type("ready")[0]["origin"], json!(origin));
    client.set_read_timeout(Some(patience(Duration::from_secs(2)))).unwrap();
    let heard = client.read(&mut begun).map_err(|e| e.kind());
    assert_eq!(heard, Err(std::io::ErrorKind::ConnectionReset), "the caller does not wait");
    assert_eq!(agent.stop().code(), Some(0));
    assert!(ground.detach().status.success());
}

fn same(port: u16) -> String {
    policy(port, SECRET)
}

#[test]
fn a_caller_that_a_killed_agent_owes_an_answer_does_not_wait() {
    owing("owing-killed", kill, same, "adopted");
}

#[test]
fn a_caller_that_a_stopped_agent_owes_an_answer_does_not_wait() {
    owing("owing-stopped", |agent| assert_eq!(agent.stop().code(), Some(0)), same, "adopted");
}

/// The next programs know nothing of the connection, and let it go on.
#[test]
fn a_caller_that_an_agent_of_another_policy_owes_an_answer_does_not_wait() {
    let other = |port| policy(port, &format!("{SECRET}\n[uninspectable]\nmidstream = \"allow\"\n"));
    owing("owing-exchanged", kill, other, "exchanged");
}
