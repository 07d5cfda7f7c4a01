//! What is said, and what is let pass where only that is asked for.

use std::net::UdpSocket;
use std::process::{Command, Stdio};

use protocg_peers::harness::{self, Calls, Cgroup, Protocg, Server, Stack};
use serde_json::json;

use crate::need_root;
use crate::stage::{closed, free_ports, has_lsm, hears, inside, policy, python, start};
use crate::support::Place;

const TRY_ALL: &str = "
import socket, sys
port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
for make in [lambda: socket.socket(2, 1, 262), lambda: socket.socket(2, 3, 6), lambda: socket.create_server(('127.0.0.1', 0))]:
    try: make(); print('ok', end=' ')
    except OSError as e: print(e.errno, end=' ')
";

#[test]
fn reports_and_audits_let_pass_and_say_so() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    let cases = [
        ("[guard]\nmptcp = \"report\"\nraw = \"allow\"", "ok ok ok", vec![("mptcp", "report")]),
        ("mode = \"audit\"\n[guard]", "ok ok ok", vec![("mptcp", "report"), ("raw", "report")]),
        ("[guard]", "1 1 ok", vec![("mptcp", "deny"), ("raw", "deny")]),
    ];
    for (more, expected, said) in cases {
        let (mut agent, _) = start(&place, &policy(&place, port, more), &[]);
        assert_eq!(python(&place, TRY_ALL), expected, "{more}");
        for (cause, verdict) in said {
            let event = agent.event().unwrap();
            assert_eq!(
                (&event["type"], &event["cause"], &event["verdict"]),
                (&json!("guard"), &json!(cause), &json!(verdict))
            );
            assert_eq!((&event["policy"], &event["process.user.id"]), (&json!("guarded"), &json!(0)));
            assert_eq!(event["cgroup"], place.path.to_str().unwrap());
            assert!(event["process.name"].as_str().unwrap().starts_with("python3"), "{event}");
            assert!(event["detail"].as_str().unwrap().starts_with("socket of family 2, type "), "{event}");
        }
        assert!(agent.stop().success());
    }
}

#[test]
fn processes_outside_are_not_guarded() {
    need_root!();
    let (place, other) = (Place::new(), Place::new());
    let [port] = free_ports();
    let (agent, _) = start(&place, &policy(&place, port, "[guard]"), &[]);
    assert_eq!(python(&other, TRY_ALL), "ok ok ok");
    // Those in a child cgroup are.
    let child = place.path.join("child");
    std::fs::create_dir(&child).unwrap();
    let procs = child.join("cgroup.procs");
    let mut command = Command::new("python3");
    command.args(["-c", TRY_ALL]).stdout(Stdio::piped());
    // SAFETY: the closure writes to a file, nothing else.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, move || std::fs::write(&procs, "0")) };
    assert_eq!(String::from_utf8(command.output().unwrap().stdout).unwrap().trim(), "1 1 ok");
    assert!(agent.stop().success());
}

#[test]
fn udp_on_a_policy_port_that_the_kernel_chose_hears_nothing() {
    need_root!();
    let place = Place::new();
    let file = place.dir.path().join("wide.toml");
    let text = "name = \"wide\"\nports = [\"10000-65535\"]\ndefault = \"allow\"\n[guard]\n";
    std::fs::write(&file, text).unwrap();
    let (mut agent, _) = start(&place, &file, &[]);
    let script = "import socket\ns = socket.socket(2, 2); s.bind(('127.0.0.1', 0)); s.settimeout(2)\n\
                  s.sendto(b'x', s.getsockname())\ntry: s.recv(1); print('heard')\nexcept TimeoutError: print('nothing')";
    assert_eq!(python(&place, script), "nothing");
    let event = agent.event().unwrap();
    assert_eq!((&event["type"], &event["cause"]), (&json!("guard"), &json!("udp")));
    assert!(event.get("process.pid").is_none(), "a packet has no process: {event}");
    // Sockets of others hear as ever.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    assert!(hears(&socket));
    assert!(agent.stop().success());
}

/// A source route in a packet's head: the address that connect() is asked about is its last station only.
#[test]
fn packets_that_go_elsewhere_first_are_refused() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    // IPv4: a loose source route (131), after one that fills, and a record route (7) that is none. IPv6: a routing header
    // (option 57) of type 4, with two stations.
    let script = "
import socket
def send(family, to, options):
    s = socket.socket(family, 2)
    try:
        for level, name, value in options: s.setsockopt(level, name, value)
    except OSError as e: return 'none'
    try: s.sendto(b'x', (to, 9)); return 'sent'
    except OSError as e: return e.errno
lo6 = bytes(15) + bytes([1])
print(send(2, '127.0.0.1', []), send(2, '127.0.0.1', [(0, 4, bytes([7, 7, 4, 0, 0, 0, 0, 0]))]),
      send(2, '127.0.0.1', [(0, 4, bytes([1, 131, 7, 4, 127, 0, 0, 2]))]),
      send(10, '::1', []), send(10, '::1', [(41, 57, bytes([0, 4, 4, 1, 1, 0, 0, 0]) + lo6 * 2)]))";
    let without = python(&place, script);
    assert!(without.starts_with("sent sent sent sent "), "{without}");
    let (mut agent, _) = start(&place, &policy(&place, port, "[guard]\nconnect = [\"127.0.0.1\", \"::1\"]"), &[]);
    let with = without.replace("sent sent sent", "sent sent 1");
    let with = if without.ends_with(" none") { with } else { format!("{} 1", with.rsplit_once(' ').unwrap().0) };
    assert_eq!(python(&place, script), with, "{without}");
    let event = agent.event().unwrap();
    assert_eq!((&event["type"], &event["cause"]), (&json!("guard"), &json!("undeclared_connect")));
    assert!(agent.stop().success());
}

#[test]
fn an_egress_policy_refuses_udp_to_its_ports_and_declares_no_listeners() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    let (agent, guard) = start(&place, &policy(&place, port, "direction = \"egress\"\n[guard]"), &[]);
    let closed = closed(&guard);
    assert!(closed.iter().any(|way| way == "udp") && !closed.iter().any(|way| way == "undeclared_listen"), "{guard}");
    let script = format!(
        "import socket\ntry: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port})); print('sent')\n\
         except OSError as e: print(e.errno)\n\
         try: socket.socket(2, 2).connect(('127.0.0.1', {port})); print('connected')\nexcept OSError as e: print(e.errno)\n\
         socket.socket(2, 2).bind(('127.0.0.1', {port}))\nsocket.create_server(('127.0.0.1', {port}))\nprint('bound')"
    );
    assert_eq!(python(&place, &script), "1\n1\nbound");
    assert!(agent.stop().success());
}

/// Two servers and a client of gRPC do what they do without a guard.
#[test]
fn grpc_goes_on_under_the_guard() {
    if harness::skip("grpc_goes_on_under_the_guard") {
        return;
    }
    for stack in [Stack::Tonic, Stack::Grpcio] {
        if stack.lacks().is_some() {
            println!("SKIPPED grpc_goes_on_under_the_guard: {stack:?} is not installed");
            continue;
        }
        let cgroup = Cgroup::new("guarded");
        let [port] = free_ports();
        let policy = format!(
            "name = \"guarded\"\nproto = [\"search.proto\"]\nports = [{port}]\ndefault = \"allow\"\n[guard]\n\
             [[deny]]\nname = \"no-A\"\nmethods = [\"/search.SearchService/Search\"]\nwhen = 'request.query.contains(\"A\")'\n"
        );
        let protocg = Protocg::run(env!("CARGO_BIN_EXE_protocg"), &[&cgroup], &policy, &[]);
        let place = harness::Place { cgroup: Some(&cgroup), net: None };
        let server = Server::start(stack, place, ([127, 0, 0, 1], port).into());
        let calls = Calls { stack, place: harness::Place::default(), target: server.address };
        let call = |query: &str| json!({"method": "/search.SearchService/Search", "messages": [{"query": query}]});
        let results = calls.make(&json!([call("bread"), call("Apples"), call("tea")]));
        let codes: Vec<_> = results.iter().map(|r| r["code"].as_i64().unwrap()).collect();
        assert_eq!(codes, [0, 7, 0], "{results:?}");
        let ready = protocg.wait_for("ready", |e| e["type"] == "ready");
        let events = protocg.of_type("guard");
        assert!(events.iter().all(|e| e["verdict"] != "deny"), "lsm: {}: {events:?}", has_lsm(&ready["guard"]));
        assert!(protocg.stop().success());
    }
}

/// Go from 1.24 on asks for Multipath TCP whenever it listens.
#[test]
fn a_go_listener_falls_back_to_tcp() {
    need_root!();
    let place = Place::new();
    let [port, declared] = free_ports();
    let go = harness::binaries().parent().unwrap().join("peers-go/pg-listen");
    let listen = || {
        let output = inside(&place, go.to_str().unwrap(), &[&format!("127.0.0.1:{declared}")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(listen(), "mptcp");
    let (mut agent, _) = start(&place, &policy(&place, port, &format!("[guard]\nlisten = [{declared}]")), &[]);
    assert_eq!(listen(), "tcp");
    let event = agent.event().unwrap();
    assert_eq!((&event["cause"], &event["process.name"]), (&json!("mptcp"), &json!("pg-listen")));
    assert!(agent.stop().success());
}
