//! From start to end: the banner, what is required, pins, and what comes after.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::need_root;
use crate::stage::{closed, free_ports, has_lsm, inside, policy, python, start};
use crate::support::{Agent, Place, ends, protocg};

/// 0 if a Multipath TCP socket can be made, or the error.
const MPTCP: &str = "import socket\ntry: socket.socket(2, 1, 262); print(0)\nexcept OSError as e: print(e.errno)";
/// The ways that need nothing but programs on the cgroup.
const WITHOUT_LSM: [&str; 6] = ["mptcp", "raw", "transports", "udp", "undeclared_listen", "undeclared_connect"];

fn lsm_list() -> String {
    fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default()
}

#[test]
fn the_banner_and_probe_say_what_is_covered_and_what_is_not() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    let file = policy(&place, port, "[guard]\nconnect = [\"127.0.0.0/8\"]\ntls_library = \"report\"");
    let (cgroup, file) = (place.path.to_str().unwrap(), file.to_str().unwrap());
    let (agent, guard) = start(&place, Path::new(file), &[]);
    agent.stop();
    let covers = closed(&guard);
    assert_eq!(covers[..6], WITHOUT_LSM);
    let mut agent = Agent::spawn(&mut protocg(&["run", "--cgroup", cgroup, file]));
    assert!(agent.line().starts_with("ready: "));
    assert_eq!(agent.line(), format!("guard: covers {}\n", covers.join(", ")));
    if !has_lsm(&guard) {
        let line = agent.line();
        assert!(line.starts_with("guard: does NOT cover packet, vsock, families, netlink, unix_listen, "), "{line}");
        // A kernel that would take the programs and never call them is found out by its own list.
        if !lsm_list().is_empty() && !lsm_list().contains("bpf") {
            assert!(line.contains("BPF LSM is not active: add `bpf` to the boot option `lsm=`"), "{line}");
        }
    }
    agent.stop();
    let output = protocg(&["probe", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(closed(&report["guard"]), covers);
    assert_eq!(report["guard"].as_array().unwrap().len(), protocg::names::ways().count());
    let text = String::from_utf8(protocg(&["probe"]).output().unwrap().stdout).unwrap();
    let marks =
        |mark: &str| text.lines().skip_while(|l| !l.starts_with("guard")).filter(|l| l.starts_with(mark)).count();
    assert_eq!((marks("  yes"), marks("  NO")), (covers.len(), protocg::names::ways().count() - covers.len()));
}

#[test]
fn a_required_guard_that_is_not_whole_is_refused() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    let cgroup = place.path.to_str().unwrap();
    let run = |more: &str| {
        let file = policy(&place, port, more);
        protocg(&["run", "--require", "guard", "--cgroup", cgroup, file.to_str().unwrap()])
    };
    let (status, said) = ends(&mut run(""));
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("the policy has no [guard] section"), "{said}");
    let (agent, guard) = start(&place, &policy(&place, port, "[guard]"), &[]);
    agent.stop();
    if has_lsm(&guard) {
        let mut agent = Agent::spawn(&mut run("[guard]"));
        assert!(agent.line().starts_with("ready: "));
        agent.stop();
    } else {
        let (status, said) = ends(&mut run("[guard]"));
        assert_eq!(status, 4, "{said}");
        assert!(said.contains("  cgroup_escape (a write to a cgroup outside its own part of the tree): "), "{said}");
        assert!(place.attached().is_empty());
        assert_eq!(python(&place, MPTCP), "0", "nothing of it is left");
    }
    // Ways that the policy allows need no closing.
    let allowed: String = protocg::names::ways()
        .filter(|way| !WITHOUT_LSM.contains(&way.name))
        .map(|way| format!("{} = \"allow\"\n", way.name))
        .collect();
    let mut agent = Agent::spawn(&mut run(&format!("[guard]\n{allowed}")));
    assert!(agent.line().starts_with("ready: "));
    agent.stop();
}

#[test]
fn a_guard_ends_with_its_agent_or_is_pinned_with_the_rest() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    let file = policy(&place, port, "[guard]");
    let cgroup = place.path.to_str().unwrap();
    assert_eq!(python(&place, MPTCP), "0");
    let (agent, before) = start(&place, &file, &[]);
    assert_eq!(python(&place, MPTCP), "1");
    agent.stop();
    assert_eq!(python(&place, MPTCP), "0");

    let (agent, _) = start(&place, &file, &["--pin"]);
    agent.signal(Signal::SIGKILL);
    drop(agent.wait());
    assert_eq!(python(&place, MPTCP), "1", "it outlives its agent");
    let (agent, events) = Agent::start(&["--cgroup", cgroup, file.to_str().unwrap()]);
    let ready = events.last().unwrap();
    assert_eq!((&ready["origin"], &ready["guard"]), (&"adopted".into(), &before));
    agent.stop();
    assert_eq!(python(&place, MPTCP), "1");

    let pins = Path::new("/sys/fs/bpf/protocg").join(place.cgroup().id.to_string());
    let guards =
        || fs::read_dir(&pins).unwrap().flatten().filter(|e| e.file_name().to_str().unwrap().contains("_g")).count();
    let pinned = guards();
    // Other switches: other programs, in the same places; without the section: none.
    let (agent, events) =
        Agent::start(&["--cgroup", cgroup, policy(&place, port, "[guard]\nraw = \"report\"").to_str().unwrap()]);
    assert_eq!(events.last().unwrap()["origin"], "exchanged");
    assert_eq!((guards(), python(&place, MPTCP).as_str()), (pinned, "1"));
    agent.stop();
    assert_eq!(python(&place, MPTCP), "1");
    let (agent, events) = Agent::start(&["--cgroup", cgroup, policy(&place, port, "").to_str().unwrap()]);
    assert_eq!(
        (&events.last().unwrap()["origin"], &events.last().unwrap()["guard"]),
        (&"exchanged".into(), &().into())
    );
    assert_eq!((guards(), python(&place, MPTCP).as_str()), (0, "0"));
    agent.stop();

    let (agent, _) = start(&place, &policy(&place, port, "[guard]"), &[]);
    agent.stop();
    assert_eq!((guards(), python(&place, MPTCP).as_str()), (pinned, "1"));
    assert_eq!(ends(&mut protocg(&["detach", "--cgroup", cgroup])).0, 0);
    assert_eq!(python(&place, MPTCP), "0");
    assert!(!pins.exists());
}

#[test]
fn a_pinned_guard_that_lost_a_program_is_made_anew() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    let file = policy(&place, port, "[guard]");
    let (agent, _) = start(&place, &file, &["--pin"]);
    agent.stop();
    let pins = Path::new("/sys/fs/bpf/protocg").join(place.cgroup().id.to_string());
    fs::remove_file(pins.join("link_gc_create")).unwrap();
    // the kernel ends a link that has lost its last pin in its own time
    let gone = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        python(&place, MPTCP) == "0"
    });
    assert!(gone, "the program still runs");
    let (agent, events) = Agent::start(&["--cgroup", place.path.to_str().unwrap(), file.to_str().unwrap()]);
    assert_eq!(events.last().unwrap()["origin"], "exchanged");
    assert_eq!(python(&place, MPTCP), "1");
    agent.stop();
    assert_eq!(ends(&mut protocg(&["detach", "--cgroup", place.path.to_str().unwrap()])).0, 0);
}

/// Whoever else tries is refused: a user that is not root, and with BPF LSM root inside.
#[test]
fn a_pinned_guard_is_detached_by_root_outside_only() {
    need_root!();
    let place = Place::new();
    let [port] = free_ports();
    let (agent, guard) = start(&place, &policy(&place, port, "[guard]"), &["--pin"]);
    agent.stop();
    let (program, cgroup) = (env!("CARGO_BIN_EXE_protocg"), place.path.to_str().unwrap());
    let detach = [program, "detach", "--cgroup", cgroup];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let output = std::process::Command::new("setpriv").args(nobody).args(detach).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(python(&place, MPTCP), "1");
    if has_lsm(&guard) {
        let output = inside(&place, program, &detach[1..]);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(python(&place, MPTCP), "1");
    }
    let all = protocg(&["detach", "--cgroup", cgroup]).output().unwrap();
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    assert_eq!(python(&place, MPTCP), "0");
}
