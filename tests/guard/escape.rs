//! Every way around that is known works without the guard, and does not with it; or it is said that it is not covered.

use std::collections::BTreeSet;
use std::process::Command;

use nix::errno::Errno;
use protocg_peers::escape::{ATTEMPTS, Attempt, ON_LIBRARIES};
use serde_json::Value;

use crate::need_root;
use crate::stage::{Outside, closed, free_ports, has_lsm, policy, start};
use crate::support::{Agent, Place, ends, eventually, protocg};

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
fn tried(place: &Place, port: u16, more: &str, pin: bool, escape: impl FnOnce(&Agent) -> Vec<(String, i32)>) -> Tried {
    let (mut agent, guard) = start(place, &policy(place, port, more), if pin { &["--pin"] } else { &[] });
    let results = escape(&agent);
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let mut events = Vec::new();
    while let Some(event) = agent.event() {
        events.push(event);
    }
    assert!(agent.wait().0.success());
    if pin {
        assert_eq!(ends(&mut protocg(&["detach", "--cgroup", place.path.to_str().unwrap()])).0, 0);
    }
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
    let escape = |more: &str| tried(&place, ports[0], more, true, |agent| outside.escape(&place, agent, ports, None));
    let without = escape("");
    let switches = format!("[guard]\nlisten = [{}]\nconnect = [\"127.0.0.1\"]\nunix_listen = \"deny\"", ports[1]);
    compare(ATTEMPTS, without, escape(&switches));
}

/// The library is one that a process inside has mapped, so it is hooked; it is called otherwise, so nothing else gives it away.
#[test]
fn the_code_of_hooked_libraries_stays_and_others_run_as_the_policy_says() {
    need_root!();
    let (place, outside) = (Place::new(), Outside::new());
    let ports = free_ports();
    let library = place.dir.path().join("hooked.so");
    if std::fs::copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", &library).is_err() {
        return println!("SKIPPED the_code_of_hooked_libraries: there is no libssl.so.3");
    }
    let escape = |agent: &Agent| outside.escape(&place, agent, ports, Some(&library));
    let without = tried(&place, ports[0], "", false, escape);
    let mut user =
        place.inside(Command::new("python3").args(["-c", "import signal; signal.pause()"]).env("LD_PRELOAD", &library));
    let mapped = || std::fs::read_to_string(format!("/proc/{}/maps", user.id())).unwrap().contains("/hooked.so");
    eventually("mapped", mapped);
    let with = tried(&place, ports[0], "[tls]\n[guard]\ntls_library = \"deny\"", false, escape);
    user.kill().unwrap();
    user.wait().unwrap();
    compare(ON_LIBRARIES, without, with);
}
