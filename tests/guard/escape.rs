//! Every way around that is known works without the guard, and does not with it; or it is said that it is not covered.

use std::collections::BTreeSet;
use std::path::Path;

use libbpf_rs::MapHandle;
use nix::errno::Errno;
use protocg::kernel::guard::{Library, Maps};
use protocg_peers::escape::{ATTEMPTS, Attempt, ON_LIBRARIES};
use serde_json::Value;

use crate::need_root;
use crate::stage::{Outside, closed, free_ports, has_lsm, policy, start};
use crate::support::{Agent, Place, ends, protocg};

/// What a kernel answers that does not have the thing at all.
const NOT_HERE: [Errno; 9] = [
    Errno::EAFNOSUPPORT,
    Errno::EPROTONOSUPPORT,
    Errno::ESOCKTNOSUPPORT,
    Errno::ENOPROTOOPT,
    Errno::ENODEV,
    Errno::ENXIO,
    Errno::ENOENT,
    Errno::ENOSYS,
    Errno::EOPNOTSUPP,
];

/// Attempts with the error that each ended with, what the agent said meanwhile, and what its guard closes.
type Tried = (Vec<(String, i32)>, Vec<Value>, Value);

/// Tries under a policy with these lines, in an agent's life.
fn tried(place: &Place, port: u16, more: &str, escape: impl FnOnce(&Agent) -> Vec<(String, i32)>) -> Tried {
    let (mut agent, guard) = start(place, &policy(place, port, more), &["--pin"]);
    let results = escape(&agent);
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let mut events = Vec::new();
    while let Some(event) = agent.event() {
        events.push(event);
    }
    assert!(agent.wait().0.success());
    assert_eq!(ends(&mut protocg(&["detach", "--cgroup", place.path.to_str().unwrap()])).0, 0);
    (results, events, guard)
}

/// Each attempt works without the guard, and fails with it where its way is closed.
fn compare(attempts: &[Attempt], without: Tried, with: Tried) {
    let (without, events, guard) = without;
    assert!(guard.is_null() && events.iter().all(|e| e["type"] != "guard"), "{events:?}");
    let (with, events, guard) = with;
    let closed = closed(&guard);
    eprintln!("closed here: {}", closed.join(", "));
    assert_eq!((attempts.len(), attempts.len()), (without.len(), with.len()));

    let mut wrong = Vec::new();
    let mut causes = BTreeSet::new();
    for (attempt, ((name, off), (other, on))) in attempts.iter().zip(without.into_iter().zip(with)) {
        assert_eq!((attempt.name, attempt.name), (name.as_str(), other.as_str()));
        let (off, on) = (Errno::from_raw(off), Errno::from_raw(on));
        let word = |errno: Errno| if errno == Errno::from_raw(0) { "works".to_owned() } else { format!("{errno:?}") };
        let covered = closed.iter().any(|way| way == attempt.way);
        // What is not there, or closed to all by this kernel, proves nothing here.
        let here = !NOT_HERE.contains(&off) && off != Errno::EPERM;
        let expected = match attempt.way {
            "" => [Errno::from_raw(0); 2],
            _ if covered && here => [Errno::from_raw(attempt.refused); 2],
            _ if covered => [Errno::from_raw(attempt.refused), off],
            _ => [off; 2],
        };
        let state = match (attempt.way, covered, here) {
            ("", ..) => "must work",
            (_, _, false) => "not on this kernel",
            (_, true, _) => "covered",
            (_, false, _) => "NOT COVERED here",
        };
        eprintln!("{:20} {name:60} off: {:16} on: {:16} {state}", attempt.way, word(off), word(on));
        let unexpected_off = here && off != Errno::from_raw(0);
        if !expected.contains(&on) || unexpected_off {
            wrong.push(format!("{name}: {} without, {} with", word(off), word(on)));
        }
        if covered
            && on == Errno::from_raw(attempt.refused)
            && (here || attempt.refused == Errno::EPERM as i32 && off != on)
        {
            causes.insert(attempt.way);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for cause in causes {
        let said = |e: &&serde_json::Value| e["type"] == "guard" && e["cause"] == cause && e["verdict"] == "deny";
        let with_process = |e: &&serde_json::Value| e["process.name"] == "pg-escape" && e["process.pid"].is_u64();
        assert!(events.iter().filter(said).any(|e| with_process(&e)), "no event about {cause}: {events:#?}");
    }
    if has_lsm(&guard) {
        assert_eq!(closed.len(), guard.as_array().unwrap().len(), "with BPF LSM every way is closed: {guard}");
    }
}

#[test]
fn ways_around_work_without_the_guard_and_not_with_it() {
    need_root!();
    let (place, outside) = (Place::new(), Outside::new());
    let ports = free_ports();
    let escape = |more: &str| tried(&place, ports[0], more, |agent| outside.escape(&place, agent, ports, None));
    let without = escape("");
    let switches = format!("[guard]\nlisten = [{}]\nconnect = [\"127.0.0.1\"]\nunix_listen = \"deny\"", ports[1]);
    compare(ATTEMPTS, without, escape(&switches));
}

/// What hooks a library says so in the guard's map. Here a copy of a program stands for one.
#[test]
fn the_code_of_hooked_libraries_stays_and_others_run_as_the_policy_says() {
    need_root!();
    let (place, outside) = (Place::new(), Outside::new());
    let ports = free_ports();
    let library = place.dir.path().join("hooked.so");
    std::fs::copy("/proc/self/exe", &library).unwrap();
    let escape = |agent: &Agent| outside.escape(&place, agent, ports, Some(&library));
    let without = tried(&place, ports[0], "", escape);
    let with = tried(&place, ports[0], "[guard]\ntls_library = \"deny\"", |agent| {
        let pins = Path::new("/sys/fs/bpf/protocg").join(place.cgroup().id.to_string());
        let maps = Maps::from(|name| MapHandle::from_pinned_path(pins.join(format!("map_{name}"))).ok()).unwrap();
        let file = std::fs::metadata(&library).unwrap();
        use std::os::unix::fs::MetadataExt;
        maps.mark(file.dev(), file.ino(), Library::Hooked).unwrap();
        escape(agent)
    });
    compare(ON_LIBRARIES, without, with);
}
