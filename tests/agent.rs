//! The agent from outside: each test is one user's story, as root, on real cgroups.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use nix::sys::signal::Signal;
use protocg::kernel::sys::{self, Hook};
use protocg_peers::harness::{flags, pages_can_be_told};
use support::{Agent, Place, ends, eventually, protocg};

const OURS: [&str; 3] = ["pg_sockops", "pg_egress", "pg_ingress"];

fn pins(place: &Place) -> std::path::PathBuf {
    Path::new("/sys/fs/bpf/protocg").join(place.cgroup().id.to_string())
}

#[test]
fn a_wrong_cgroup_is_refused_with_its_reason() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let good = place.path.to_str().unwrap();
    let child = place.path.join("child");
    fs::create_dir(&child).unwrap();
    let root = protocg::cgroup::mount_point().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["/no/such/cgroup"], "`/no/such/cgroup` does not exist"),
        (&[root.to_str().unwrap()], "is the root cgroup"),
        (&["/tmp"], "`/tmp` is not a cgroup"),
        (&[good, good], "are the same cgroup"),
        (&[good, &format!("{good}/../{}", place.path.file_name().unwrap().to_str().unwrap())], "are the same cgroup"),
        (&[good, child.to_str().unwrap()], "lies inside"),
        (&[child.to_str().unwrap(), good], "lies inside"),
    ];
    for (paths, expected) in cases {
        let mut command = protocg(&["run", policy.to_str().unwrap()]);
        for path in *paths {
            command.args(["--cgroup", path]);
        }
        let (status, said) = ends(&mut command);
        assert_eq!(status, 6, "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(place.attached().is_empty());
    }
}

#[test]
fn a_cgroup_of_version_1_is_refused() {
    need_root!();
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some(v1) = mountinfo.lines().find(|l| l.contains(" - cgroup ")).and_then(|l| l.split(' ').nth(4)) else {
        return eprintln!("skipped: no cgroup of version 1 is mounted");
    };
    let place = Place::new();
    let (status, said) = ends(&mut protocg(&["run", "--cgroup", v1, place.policy("p", 1).to_str().unwrap()]));
    assert_eq!(status, 6, "{said}");
    assert!(said.contains("is a cgroup of version 1"), "{said}");
}

#[test]
fn a_wrong_command_line_and_a_wrong_policy_have_their_own_status() {
    let (status, _) = ends(&mut protocg(&["run", "policy.toml"]));
    assert_eq!(status, 2);
    let (status, _) = ends(&mut protocg(&["run", "--cgroup", "/x", "--drain", "-1", "policy.toml"]));
    assert_eq!(status, 2);
    let (status, said) = ends(&mut protocg(&["run", "--cgroup", "/x", "/no/such/policy.toml"]));
    assert_eq!(status, 3, "{said}");
}

#[test]
fn without_root_it_says_what_is_missing() {
    need_root!();
    let place = Place::new();
    let program = place.dir.path().join("protocg");
    fs::copy(env!("CARGO_BIN_EXE_protocg"), &program).unwrap();
    let policy = place.policy("p", 1);
    for path in [place.dir.path(), &program, &policy] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, mode).unwrap();
    }
    let mut command = Command::new(&program);
    command.args(["run", "--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()]).uid(65534).gid(65534);
    let (status, said) = ends(&mut command);
    assert_eq!(status, 5, "{said}");
    assert!(said.contains("needs root, or the capabilities CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF"), "{said}");
    assert!(place.attached().is_empty());
}

#[test]
fn without_btf_or_bpffs_it_says_so() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let run = |prepare: &str, flag: &str| {
        let script = format!(
            "{prepare} {} run {flag} {} --cgroup {} {}",
            env!("CARGO_BIN_EXE_protocg"),
            flags().join(" "),
            place.path.display(),
            policy.display()
        );
        ends(Command::new("unshare").args(["--mount", "sh", "-c", &script]))
    };
    let (status, said) = run("mount -t tmpfs none /sys/kernel/btf && exec", "");
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("the kernel has no BTF"), "{said}");
    let drop_admin = "umount /sys/fs/bpf; exec setpriv --inh-caps=-sys_admin --bounding-set=-sys_admin";
    let (status, said) = run(drop_admin, "--pin");
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("no bpf file system at `/sys/fs/bpf`"), "{said}");
    assert!(place.attached().is_empty());
}

/// Before Linux 6.2 the refusal comes, and the flag is needed; from there on neither.
#[test]
fn a_kernel_that_cannot_tell_pages_is_refused_in_words() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_protocg"));
    command.args(["run", "--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()]).stdin(Stdio::null());
    if pages_can_be_told() {
        let mut agent = Agent::spawn(&mut command);
        assert!(agent.line().starts_with("ready: "));
        assert!(agent.stop().success());
    } else {
        let (status, said) = ends(&mut command);
        assert_eq!(status, 4, "{said}");
        assert!(said.contains("cannot tell whether a local client can still write bytes"), "{said}");
        assert!(said.contains("--allow-shared-pages"), "{said}");
        assert!(place.attached().is_empty());
    }
}

#[test]
fn it_attaches_says_ready_and_leaves_nothing() {
    need_root!();
    let place = Place::new();
    let socket = place.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let policy = place.policy("plain", 1);
    let mut agent = Agent::spawn(
        protocg(&["run", "--events", "json", "--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()])
            .env("NOTIFY_SOCKET", &socket),
    );
    let ready = agent.event().unwrap();
    assert_eq!(
        (&ready["type"], &ready["policy"], &ready["origin"]),
        (&"ready".into(), &"plain".into(), &"fresh".into())
    );
    assert_eq!((&ready["pinned"], &ready["cgroups"][0]), (&false.into(), &place.path.to_str().unwrap().into()));
    let mut buffer = [0; 64];
    let length = manager.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length].trim_ascii(), b"READY=1");
    assert_eq!(place.attached(), OURS);
    assert_eq!(agent.stop().code(), Some(0));
    assert!(place.attached().is_empty());
}

#[test]
fn the_banner_says_when_enforcement_ends() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("plain", 1);
    let mut agent =
        Agent::spawn(&mut protocg(&["run", "--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()]));
    assert!(agent.line().ends_with("it ends with this process (see --pin)\n"));
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.wait().0.code(), Some(0));
}

#[test]
fn a_closed_stdout_does_not_stop_enforcement() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("plain", 1);
    let mut child = protocg(&["run", "--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    eventually("attached", || place.attached() == OURS);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it still runs");
    assert_eq!(place.attached(), OURS);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_protocg_on_a_cgroup_is_refused() {
    need_root!();
    let place = Place::new();
    let (cgroup, policy) = (place.path.to_str().unwrap(), place.policy("p", 1));
    let (agent, _) = Agent::start(&["--cgroup", cgroup, policy.to_str().unwrap()]);
    let (status, said) = ends(&mut protocg(&["run", "--cgroup", cgroup, policy.to_str().unwrap()]));
    assert_eq!(status, 7, "{said}");
    assert!(said.contains(&format!("(pid {})", agent.child.id())), "{said}");
    assert_eq!(place.attached(), OURS);
    agent.stop();
}

#[test]
fn a_cgroup_removed_while_running_is_noticed_and_the_last_ends_the_run() {
    need_root!();
    let (one, two) = (Place::new(), Place::new());
    let policy = one.policy("p", 1);
    let paths = [one.path.to_str().unwrap(), two.path.to_str().unwrap()];
    let (mut agent, _) = Agent::start(&["--cgroup", paths[0], "--cgroup", paths[1], policy.to_str().unwrap()]);
    for (place, path) in [&one, &two].into_iter().zip(paths) {
        fs::remove_dir(&place.path).unwrap();
        let event = agent.event().unwrap();
        assert_eq!((&event["type"], &event["warning"]), (&"warning".into(), &"cgroup_removed".into()));
        assert!(event["text"].as_str().unwrap().contains(path));
    }
    assert_eq!(agent.wait().0.code(), Some(6));
}

#[test]
fn other_programs_on_the_cgroup_keep_running() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let mut object = MaybeUninit::uninit();
    let mut other = protocg::skel::ProbeSkelBuilder::default().open(&mut object).unwrap();
    // The object's other programs are for kernels that have what they try.
    for mut program in other.open_object_mut().progs_mut() {
        let wanted = program.name() == "pr_ingress";
        program.set_autoload(wanted);
    }
    let other = other.load().unwrap();
    let _link = sys::link_create(other.progs.pr_ingress.as_fd(), place.cgroup().as_fd(), Hook::Ingress).unwrap();
    let (agent, _) = Agent::start(&["--cgroup", place.path.to_str().unwrap(), policy.to_str().unwrap()]);
    assert_eq!(place.attached(), ["pg_sockops", "pg_egress", "pr_ingress", "pg_ingress"]);
    agent.stop();
    assert_eq!(place.attached(), ["pr_ingress"]);
}

#[test]
fn a_command_runs_in_a_cgroup_and_its_status_is_passed_on() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let policy = policy.to_str().unwrap();
    let run = |script: &str| protocg(&["run", policy, "--", "sh", "-c", script]).output().unwrap();
    let output = run("sed -n 's/^0:://p' /proc/self/cgroup; ulimit -n; exit 7");
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stdout).unwrap();
    let (cgroup, files) = said.split_once('\n').unwrap();
    assert!(cgroup.contains("protocg-run-"), "{said}");
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().0;
    assert_eq!(files.trim(), limit.to_string(), "the command has the limits that the agent began with");
    let mount = protocg::cgroup::mount_point().unwrap();
    assert!(!mount.join(&cgroup[1..]).exists(), "the cgroup is removed");
    assert_eq!(run("true").status.code(), Some(0));
    assert_eq!(run("kill -9 $$").status.code(), Some(137));
    assert_eq!(
        run("mkdir /sys/fs/cgroup/unified$(sed -n 's/^0:://p' /proc/self/cgroup)/x 2>&-; sleep 60 >&- 2>&- & exit 3")
            .status
            .code(),
        Some(3)
    );
    let left: Vec<_> = fs::read_dir(&mount).unwrap().flatten().filter(|e| e.file_name() == cgroup[1..]).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_command_that_cannot_run_has_the_shells_status() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let plain = place.dir.path().join("not-executable");
    fs::write(&plain, "").unwrap();
    let cases = [("/no/such/command", 127), ("no-such-command-anywhere", 127), (plain.to_str().unwrap(), 126)];
    for (command, expected) in cases {
        let (status, said) = ends(&mut protocg(&["run", policy.to_str().unwrap(), "--", command]));
        assert_eq!(status, expected, "{said}");
        assert!(said.contains(&format!("cannot run `{command}`")), "{said}");
    }
}

#[test]
fn signals_reach_the_command() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    for (signal, expected) in [(Signal::SIGTERM, 42), (Signal::SIGINT, 43), (Signal::SIGUSR1, 44)] {
        let script =
            "trap 'exit 42' TERM; trap 'exit 43' INT; trap 'exit 44' USR1; echo up; while :; do sleep 0.02; done";
        let mut agent = Agent::spawn(&mut protocg(&["run", policy.to_str().unwrap(), "--", "sh", "-c", script]));
        assert_eq!(agent.line(), "up\n");
        agent.signal(signal);
        assert_eq!(agent.wait().0.code(), Some(expected));
    }
}

#[test]
fn a_command_does_not_outlive_its_enforcer() {
    need_root!();
    let place = Place::new();
    let policy = place.policy("p", 1);
    let mut agent =
        Agent::spawn(&mut protocg(&["run", policy.to_str().unwrap(), "--", "sh", "-c", "echo $$; sleep 60"]));
    let pid: u32 = agent.line().trim().parse().unwrap();
    agent.signal(Signal::SIGKILL);
    let gone = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
    eventually("the command is gone", gone);
}

fn kill(agent: Agent) {
    agent.signal(Signal::SIGKILL);
    drop(agent.wait());
}

#[test]
fn pinned_enforcement_outlives_the_agent_and_is_adopted_exchanged_and_detached() {
    need_root!();
    let place = Place::new();
    let (cgroup, policy, other) = (place.path.to_str().unwrap(), place.policy("one", 1), place.policy("two", 2));
    let ids = || -> Vec<u32> {
        let cgroup = place.cgroup();
        Hook::ALL.into_iter().flat_map(|hook| sys::attached(cgroup.as_fd(), hook).unwrap()).collect()
    };

    let (agent, ready) = Agent::start(&["--pin", "--cgroup", cgroup, policy.to_str().unwrap()]);
    assert_eq!(ready.last().unwrap()["pinned"], true);
    let (status, said) = ends(&mut protocg(&["detach", "--cgroup", cgroup]));
    assert_eq!(status, 7, "an agent is there: {said}");
    kill(agent);
    let first = ids();
    assert_eq!(place.attached(), OURS);

    // Without --pin too: what is pinned stays pinned.
    let (agent, ready) = Agent::start(&["--cgroup", cgroup, policy.to_str().unwrap()]);
    assert_eq!((&ready.last().unwrap()["origin"], &ready.last().unwrap()["pinned"]), (&"adopted".into(), &true.into()));
    assert_eq!(ids(), first, "the same programs go on");
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(ids(), first);

    let (agent, ready) = Agent::start(&["--cgroup", cgroup, other.to_str().unwrap()]);
    assert_eq!(ready.last().unwrap()["origin"], "exchanged");
    assert_eq!(place.attached(), OURS);
    assert!(ids().iter().all(|id| !first.contains(id)), "other programs");
    kill(agent);
    let (agent, ready) = Agent::start(&["--cgroup", cgroup, other.to_str().unwrap()]);
    assert_eq!(ready.last().unwrap()["origin"], "adopted");
    agent.stop();

    let pins = pins(&place);
    assert!(pins.exists());
    assert_eq!(ends(&mut protocg(&["detach", "--cgroup", cgroup])).0, 0);
    assert!(place.attached().is_empty());
    assert!(!pins.exists());
    assert!(!Path::new("/run/protocg").join(format!("{}.json", place.cgroup().id)).exists());
}

/// Its notes name other sources, and it pinned no map of what is to be answered.
#[test]
fn what_an_older_build_has_pinned_is_exchanged() {
    need_root!();
    let place = Place::new();
    let (cgroup, policy) = (place.path.to_str().unwrap(), place.policy("one", 1));
    kill(Agent::start(&["--pin", "--cgroup", cgroup, policy.to_str().unwrap()]).0);
    fs::remove_file(pins(&place).join("map_owed")).unwrap();
    let note = Path::new("/run/protocg").join(format!("{}.json", place.cgroup().id));
    let mut said: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    said["sources"] = "older".into();
    fs::write(&note, said.to_string()).unwrap();
    let (agent, ready) = Agent::start(&["--cgroup", cgroup, policy.to_str().unwrap()]);
    assert_eq!(
        (&ready.last().unwrap()["origin"], &ready.last().unwrap()["pinned"]),
        (&"exchanged".into(), &true.into())
    );
    assert!(pins(&place).join("map_owed").exists());
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(ends(&mut protocg(&["detach", "--cgroup", cgroup])).0, 0);
}

#[test]
fn pins_that_were_left_unfinished_are_replaced() {
    need_root!();
    let place = Place::new();
    let (cgroup, policy) = (place.path.to_str().unwrap(), place.policy("one", 1));
    kill(Agent::start(&["--pin", "--cgroup", cgroup, policy.to_str().unwrap()]).0);
    fs::remove_file(pins(&place).join("link_pg_egress")).unwrap();
    let (agent, ready) = Agent::start(&["--cgroup", cgroup, policy.to_str().unwrap()]);
    assert_eq!(ready.last().unwrap()["origin"], "fresh");
    assert_eq!(place.attached(), OURS);
    agent.stop();
    assert!(place.attached().is_empty());
}

#[test]
fn a_listener_made_outside_the_cgroup_is_refused_or_reported() {
    need_root!();
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let policy = place.policy("p", port);
    // The child inherits the listener, as under socket activation.
    let fd = nix::unistd::dup(&listener).unwrap();
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
    nix::fcntl::fcntl(&fd, flags).unwrap();
    let mut heir = place.inside(Command::new("sleep").arg("60"));
    drop(fd);
    let (cgroup, policy) = (place.path.to_str().unwrap(), policy.to_str().unwrap());
    let (status, said) = ends(&mut protocg(&["run", "--cgroup", cgroup, policy]));
    assert_eq!(status, 8, "{said}");
    assert!(place.attached().is_empty());
    let (agent, events) = Agent::start(&["--allow-foreign-sockets", "--cgroup", cgroup, policy]);
    assert_eq!((events.len(), &events[0]["warning"]), (2, &"foreign_socket".into()));
    assert!(events[0]["text"].as_str().unwrap().contains(&format!("listener on port {port} of process {}", heir.id())));
    agent.stop();
    heir.kill().unwrap();
    heir.wait().unwrap();
}

#[test]
fn a_connection_older_than_the_enforcer_is_closed() {
    need_root!();
    let place = Place::new();
    let script = "import socket,sys\ns=socket.create_server(('127.0.0.1',0))\nprint(s.getsockname()[1],flush=True)\nc,_=s.accept()\nc.send(b'x')\nsys.stdin.read()";
    let mut server =
        place.inside(Command::new("python3").args(["-c", script]).stdout(Stdio::piped()).stdin(Stdio::piped()));
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.as_mut().unwrap()), &mut port).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.read_exact(&mut [0]).unwrap();
    let (agent, events) =
        Agent::start(&["--cgroup", place.path.to_str().unwrap(), place.policy("p", port).to_str().unwrap()]);
    assert_eq!((events.len(), &events[0]["warning"]), (2, &"midstream".into()));
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    agent.stop();
    let _ = server.stdin.take().unwrap().write(b"");
    server.kill().unwrap();
    server.wait().unwrap();
}
