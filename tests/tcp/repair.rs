//! TCP_REPAIR: a process with CAP_NET_ADMIN inside the cgroup writes its own sockets' state.

use std::process::Command;

use protocg_peers::harness;
use protocg_peers::harness::net::End;
use protocg_peers::harness::process::{Place, Watched};
use protocg_peers::raw::Raw;

use crate::field::{Field, PORT, SHORT, conversation, eventually};

/// The numbers of linux/tcp.h.
const NUMBERS: &str = "
import socket, sys
REPAIR, REPAIR_QUEUE, QUEUE_SEQ = 19, 20, 21
NO_QUEUE, RECV_QUEUE, SEND_QUEUE = 0, 1, 2
OFF_WITHOUT_PROBE = -1
def tcp(s, name, value): s.setsockopt(socket.IPPROTO_TCP, name, value)
def say(*words): print(*words, flush=True)
def read(s):
    try: data = s.recv(65536)
    except OSError as e: data = b''; say('error', e.errno)
    say('read', len(data), 'evil' if b'evilA' in data else 'clean')
    return data
";

/// Accepts, reads, and puts bytes into its own receive queue.
const INJECT: &str = "
l = socket.socket(); l.bind(('10.77.0.2', 50052)); l.listen(); say('listening')
c, _ = l.accept()
read(c)
tcp(c, REPAIR, 1); tcp(c, REPAIR_QUEUE, RECV_QUEUE)
say('injected', c.send(b'injected evilA'))
tcp(c, REPAIR_QUEUE, NO_QUEUE); tcp(c, REPAIR, OFF_WITHOUT_PROBE)
while read(c): pass
";

/// Makes an established connection out of nothing: its own numbers, and what it expects of the client's.
const CONJURE: &str = "
s = socket.socket(); tcp(s, REPAIR, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('10.77.0.2', 50052))
for queue, at in ((SEND_QUEUE, 5000), (RECV_QUEUE, int(sys.argv[2]))):
    tcp(s, REPAIR_QUEUE, queue); tcp(s, QUEUE_SEQ, at)
s.connect(('10.77.0.9', int(sys.argv[1]))); tcp(s, REPAIR, OFF_WITHOUT_PROBE); say('listening')
while read(s): pass
";

const POLICY: &str = "name = \"repair\"\nproto = [\"search.proto\"]\nports = [50051, 50052]\ndefault = \"deny\"\n\
    [[deny]]\nname = \"no-a\"\nmethods = [\"/search.SearchService/Search\"]\nwhen = 'request.query.contains(\"A\")'\n\
    [[allow]]\nname = \"search\"\nmethods = [\"/search.SearchService/*\"]\n";

fn inside(field: &Field, protected: bool, script: &str, arguments: &[String]) -> Watched {
    let mut command = Command::new("python3");
    command.arg("-c").arg(format!("{NUMBERS}{script}")).args(arguments);
    let cgroup = protected.then_some(&field.cgroup);
    Place { cgroup, net: Some((&field.veth, End::B)) }.enter(&mut command);
    let process = Watched::start(command);
    process.wait_for("listening", |lines| lines.iter().any(|l| l == "listening").then_some(()));
    process
}

fn lines(process: &Watched, start: &str) -> Vec<String> {
    process.lines().into_iter().filter(|line| line.starts_with(start)).collect()
}

/// What a process puts into its own receive queue is its own doing: it reads back what it wrote. But the queue is ahead of
/// what was judged then, so nothing more of the client is delivered: outside the cgroup the client's next bytes are.
#[test]
fn bytes_that_a_process_gives_itself_end_the_connection() {
    if harness::skip("repair_inject") {
        return;
    }
    for protected in [false, true] {
        let field = Field::under("repair", POLICY);
        let process = inside(&field, protected, INJECT, &[]);
        let mut raw = Raw::new(&field.veth, false, PORT + 1);
        raw.connect();
        let good = conversation("good");
        raw.send(&good);
        process.wait_for("its own bytes", |lines| lines.iter().any(|l| l == "read 14 evil").then_some(()));
        assert_eq!(lines(&process, "injected"), ["injected 14"]);
        // The client goes on where it was, and where the queue is now.
        raw.send(b"0123456789");
        raw.send(b"0123456789");
        if protected {
            field.cause("unjudged");
            assert!(raw.wait(harness::patience(SHORT * 10), |r| r.reset), "not reset");
            eventually("the end", || lines(&process, "error").len() == 1 && lines(&process, "read").len() == 3);
            assert_eq!(lines(&process, "read")[..2], [format!("read {} clean", good.len()), "read 14 evil".to_owned()]);
            assert_eq!(lines(&process, "read")[2..], ["read 0 clean"]);
        } else {
            eventually("the client's bytes", || lines(&process, "read").contains(&"read 6 clean".to_owned()));
        }
        field.unharmed();
    }
}

/// A connection made without a handshake has no state: it is refused like one that is older than the enforcer.
#[test]
fn a_connection_without_a_handshake_is_refused() {
    if harness::skip("repair_conjure") {
        return;
    }
    for protected in [false, true] {
        let field = Field::under("repair", POLICY);
        let mut raw = Raw::with(&field.veth, false, 33334, PORT + 1, 1_000_000);
        let process = inside(&field, protected, CONJURE, &["33334".to_owned(), "1000001".to_owned()]);
        (raw.seq, raw.ack) = (1_000_001, 5000);
        let evil = conversation("evilA");
        raw.send(&evil);
        if protected {
            field.cause("midstream");
            assert!(raw.wait(harness::patience(SHORT * 10), |r| r.reset), "not reset");
            eventually("the end", || lines(&process, "error").len() == 1 && lines(&process, "read").len() == 1);
            assert_eq!(lines(&process, "read"), ["read 0 clean"]);
        } else {
            let read = format!("read {} evil", evil.len());
            process.wait_for("the attack succeeds", |lines| lines.contains(&read).then_some(()));
        }
        field.unharmed();
    }
}
