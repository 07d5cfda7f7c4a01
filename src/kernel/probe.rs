//! What this kernel really offers, found by loading; version numbers prove nothing.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::mem::MaybeUninit;
use std::path::Path;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ProgramAttachType, UprobeMultiOpts};
use serde::Serialize;

use super::{guard, io_error, load, log};
use crate::abi;
use crate::policy::{Guard, Tables};
use crate::skel::ProbeSkelBuilder;

/// How much a missing thing matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Nothing is enforced without it.
    Required,
    /// Something is worse without it.
    Wanted,
    /// For parts of protocg that are still to come.
    Later,
}

/// One thing that a kernel may offer.
#[derive(Debug, Clone, Serialize)]
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// Whether it is there; nothing if that could not be found out.
    pub offered: Option<bool>,
    /// What the kernel said, if it is not.
    pub why: String,
    /// How much it matters.
    pub need: Need,
    /// What it costs to be without it.
    pub without: &'static str,
}

/// Whether the enforcer itself loads, and what its verification took.
#[derive(Debug, Clone, Serialize)]
pub struct Enforcer {
    /// Whether it loads.
    pub loads: bool,
    /// The refusal.
    pub why: String,
    /// Instructions that the verifier looked at, by program; of egress policies under `PROGRAM:egress`.
    pub verified: Vec<(String, u32)>,
}

/// program, feature, need, what it costs to be without it
const PROGRAMS: [(&str, &str, Need, &str); 11] = [
    ("pr_ingress", "cgroup_skb ingress", Need::Required, "nothing is enforced"),
    ("pr_egress", "cgroup_skb egress", Need::Required, "nothing is enforced"),
    (
        "pr_sockops",
        "sock_ops",
        Need::Required,
        "connections are not known from their first byte, so nothing is enforced",
    ),
    ("pr_loop", "bpf_loop", Need::Required, "the engine does not load; it came with Linux 5.17"),
    (
        "pr_ring",
        "ring buffer",
        Need::Required,
        "there are no events, so denied callers get no answer; it came with Linux 5.8",
    ),
    (
        "pr_frozen",
        "view of sk_buff (bpf_cast_to_kern_ctx, bpf_rdonly_cast)",
        Need::Wanted,
        "bytes that a local client sent with sendfile or vmsplice can change after they were judged; it came with Linux 6.2",
    ),
    ("pr_hook", "uprobes", Need::Wanted, "TLS cannot be read: it is refused on policy ports"),
    (
        "pr_received",
        "view of who reads a TCP socket (tp_btf tcp_rcv_space_adjust)",
        Need::Wanted,
        "TLS cannot be read: it is refused on policy ports",
    ),
    (
        "pr_context",
        "registers that uprobes can write",
        Need::Wanted,
        "a process is stopped for a moment when TLS plaintext is denied; it came with Linux 6.18",
    ),
    ("pr_signal", "signals from programs", Need::Wanted, "denied TLS plaintext cannot be kept from a process"),
    ("pr_sock_create", "cgroup sock_create", Need::Wanted, "processes of the cgroup can make MPTCP and raw sockets"),
];

/// Whether the engine can see which pages a local sender can still write. It needs two functions of Linux 6.2; where they
/// are missing it cannot refuse such segments.
pub fn pages_can_be_told() -> bool {
    let Ok(symbols) = File::open("/proc/kallsyms") else { return false };
    let mut wanted = vec![" bpf_cast_to_kern_ctx", " bpf_rdonly_cast"];
    for line in BufReader::with_capacity(1 << 16, symbols).lines().map_while(Result::ok) {
        wanted.retain(|name| !line.ends_with(name));
        if wanted.is_empty() {
            return true;
        }
    }
    false
}

/// Tries everything.
pub fn features() -> Vec<Feature> {
    let mut found: Vec<Feature> = PROGRAMS
        .iter()
        .map(|&(program, name, need, without)| {
            let result = loads(program);
            Feature { name, offered: Some(result.is_ok()), why: result.err().unwrap_or_default(), need, without }
        })
        .collect();
    found.extend(facts());
    found
}

/// What nothing is enforced without and this kernel does not load. If it loads nothing at all, then it is loading that
/// fails, be it forbidden or out of memory, and nothing can be said of what is there.
pub fn missing() -> Vec<&'static str> {
    let required = || PROGRAMS.iter().filter(|(_, _, need, _)| *need == Need::Required);
    let missing: Vec<_> =
        required().filter(|(program, ..)| loads(program).is_err()).map(|(_, name, ..)| *name).collect();
    if missing.len() < required().count() { missing } else { Vec::new() }
}

/// Loads one program of the probe object, and nothing else of it. What the verifier says of a program that it cannot know
/// is of no use to who asks what is missing; it is logged.
pub(super) fn loads(name: &str) -> Result<(), String> {
    log::capture();
    let mut object = MaybeUninit::uninit();
    let mut open = ProbeSkelBuilder::default().open(&mut object).map_err(|e| e.to_string())?;
    for mut program in open.open_object_mut().progs_mut() {
        let wanted = program.name() == name;
        program.set_autoload(wanted);
    }
    let result = open.load().map(drop);
    let said = log::take();
    result.map_err(|e| match log::refusal(&said) {
        Some(_) => "the program that needs it is refused (the verifier's log follows with -v)".to_owned(),
        None => io_error(&e).to_string(),
    })
}

/// Whether a program can be attached to many places of a file at once: since Linux 6.6. Older kernels load such a program and
/// cannot attach it; others find that a folder is no file with code.
pub(super) fn attaches_many() -> bool {
    log::capture();
    let mut object = MaybeUninit::uninit();
    let attached = ProbeSkelBuilder::default().open(&mut object).and_then(|mut open| {
        for mut program in open.open_object_mut().progs_mut() {
            let wanted = program.name() == "pr_hook";
            program.set_autoload(wanted);
            if wanted {
                program.set_attach_type(ProgramAttachType::TraceUprobeMulti);
            }
        }
        let options = UprobeMultiOpts { offsets: vec![0], ..Default::default() };
        open.load()?.progs.pr_hook.attach_uprobe_multi_with_opts(-1, "/", "", options)
    });
    log::take();
    // libbpf-rs says the number in words only
    let no_file = std::io::Error::from_raw_os_error(libc::EBADF).to_string();
    attached.is_err_and(|e| format!("{e:#}").contains(&no_file))
}

/// Whether the enforcer loads with all that a policy can ask of it: there is no rule, but its programs read responses.
pub fn enforcer() -> Enforcer {
    let mut verified = Vec::new();
    for (direction, suffix) in [(abi::PG_INGRESS, ""), (abi::PG_EGRESS, ":egress")] {
        let mut tables = empty_tables();
        tables.config.responses = 1;
        tables.config.tls = abi::PG_RUNG_KILL;
        tables.config.direction = direction;
        match load::load(&tables) {
            Ok(loaded) => verified.extend(loaded.verified().iter().map(|(name, n)| (format!("{name}{suffix}"), *n))),
            Err(e) => return Enforcer { loads: false, why: e.to_string(), verified: Vec::new() },
        }
    }
    Enforcer { loads: true, why: String::new(), verified }
}

/// What of a guard that allows nothing this kernel lets run, and what its verification took.
pub fn guard() -> (Vec<guard::Cover>, Vec<(&'static str, u32)>) {
    let asked = Guard::all();
    match guard::load(&asked, None) {
        Ok(loaded) => (guard::coverage(&asked.ways, loaded.refused()), loaded.verified()),
        Err(e) => (guard::coverage(&asked.ways, &guard::all_refused(&e.to_string())), Vec::new()),
    }
}

/// Tables of a policy without rules and ports, whose programs look for all that a rule can be all the same.
pub fn empty_tables() -> Tables {
    Tables {
        config: abi::pg_config { generation: 1, limits: 1, elements: 1, packed: 1, audits: 1, ..Default::default() },
        trie: vec![Default::default()],
        methods: vec![Default::default()],
        rules: vec![Default::default()],
        tests: vec![Default::default()],
        ops: vec![Default::default()],
        nodes: vec![Default::default()],
        fields: vec![Default::default()],
        bounds: vec![Default::default()],
        automata: vec![Default::default()],
        trans: vec![0],
        classes: vec![abi::pg_classes { of: [0; 256] }],
        outs: vec![Default::default()],
        keys: vec![Default::default()],
        peers: vec![Default::default()],
        rates: Vec::new(),
    }
}

/// What files tell.
fn facts() -> Vec<Feature> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let feature = |name, offered, need, without| Feature { name, offered, why: String::new(), need, without };
    let exists = |path: &str| Some(Path::new(path).exists());
    let jit = read("/proc/sys/net/core/bpf_jit_enable").map(|value| value != "0");
    let diag = crate::agent::diag::can_destroy();
    vec![
        feature(
            "BTF of the kernel",
            exists("/sys/kernel/btf/vmlinux"),
            Need::Required,
            "the programs do not load: build the kernel with CONFIG_DEBUG_INFO_BTF",
        ),
        feature(
            "cgroup2 file system",
            Some(crate::cgroup::mount_point().is_ok()),
            Need::Required,
            "there is nothing to attach to: mount -t cgroup2 none /sys/fs/cgroup",
        ),
        feature("bpf file system", Some(super::pin::mounted()), Need::Wanted, "--pin mounts one itself, if it may"),
        feature("JIT compiler", jit, Need::Wanted, "every byte costs about ten times as much"),
        feature(
            "SOCK_DESTROY",
            diag,
            Need::Wanted,
            "denied connections that no process has open yet are not reset, but time out",
        ),
        feature(
            "pidfd_getfd",
            Some(super::may_take_sockets()),
            Need::Wanted,
            "denied callers get a reset, not a status",
        ),
        Feature {
            why: guard::lsm_runs().err().unwrap_or_default(),
            ..feature(
                "BPF LSM",
                Some(guard::lsm_runs().is_ok()),
                Need::Wanted,
                "a [guard] section closes the ways around that sockets of the cgroup are, and no others",
            )
        },
    ]
}
