//! Sockets made outside the cgroup: its programs never see them, whoever uses them later. The enforcer finds them by
//! comparing sockets with their owners.

use protocg_peers::harness::process::Watched;
use protocg_peers::harness::{self, Cgroup, Place, Protocg, Veth, net::End};
use serde_json::json;

use crate::field::{POLICY, conversation, eventually};
use crate::wall::Wall;

const BINARY: &str = env!("CARGO_BIN_EXE_protocg");

/// A listener whose process has been moved into a cgroup, and a client of it that sends what is denied.
fn moved_in(veth: Veth, listener: Watched, cgroup: Cgroup) -> Wall {
    cgroup.adopt(listener.pid()).unwrap();
    Wall { enforcer: None, listener, cgroup, veth }
}

fn listener(veth: &Veth) -> Watched {
    Wall::listener(&Place { cgroup: None, net: Some((veth, End::B)) }, &json!({}))
}

/// Without the enforcer the denied call is read, as it is with one that was told to accept the gap. Else the enforcer does not
/// start, and says why.
#[test]
fn a_listener_made_outside_the_cgroup() {
    if harness::skip("foreign") {
        return;
    }
    let veth = Veth::new();
    let listener = listener(&veth);
    let wall = moved_in(veth, listener, Cgroup::new("foreign"));
    wall.client_sends(&conversation("evilA"), 1);

    let (mut command, _folder) = Protocg::command(BINARY, &[&wall.cgroup], POLICY, &[]);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(8), "{}", String::from_utf8_lossy(&refused.stderr));
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(said.contains(&format!("listener on port 50051 of process {}", wall.listener.pid())), "{said}");

    let agent = Protocg::run(BINARY, &[&wall.cgroup], POLICY, &["--allow-foreign-sockets"]);
    agent.wait_for("a warning", |e| e["warning"] == "foreign_socket");
    wall.client_sends(&conversation("evilA"), 2);
    assert!(agent.stop().success());
}

/// A process that is moved in while the policy is in force brings its sockets along: that is said within seconds.
#[test]
fn a_listener_that_is_moved_into_the_cgroup() {
    if harness::skip("foreign_later") {
        return;
    }
    let veth = Veth::new();
    let listener = listener(&veth);
    let cgroup = Cgroup::new("foreign-later");
    let agent = Protocg::run(BINARY, &[&cgroup], POLICY, &[]);
    assert!(agent.events().iter().all(|e| e["warning"] != "foreign_socket"));
    let wall = moved_in(veth, listener, cgroup);
    wall.client_sends(&conversation("evilA"), 1);
    let text = format!("listener on port 50051 of process {}", wall.listener.pid());
    let told = |e: &serde_json::Value| e["warning"] == "foreign_socket" && e["text"].as_str().unwrap().contains(&text);
    agent.wait_for("a warning", told);
    assert!(agent.stop().success());
}

impl Wall {
    /// A client sends it; so many connections have got what is denied then.
    fn client_sends(&self, bytes: &[u8], breaches: usize) {
        let mut raw = self.client();
        raw.connect();
        raw.send(bytes);
        eventually("it is read", || self.got().iter().filter(|got| got.evil).count() == breaches);
    }
}
