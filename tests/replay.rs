//! Ring 1: the engine in the kernel against the same engine on the host, through BPF_PROG_TEST_RUN; and what it costs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::Ipv6Addr;
use std::path::Path;

use protocg::engine::{Connection, Outcome};
use protocg::kernel::load::{self, Replay};
use protocg::policy::{self, Policy};
use protocg_peers::h2raw::{self, Encoder, Headers, Style, frame};
use protocg_peers::harness;
use protocg_peers::wire::Message;

const SEARCH: &str = "/search.SearchService/Search";

fn compile(rules: &str) -> Policy {
    let text = format!("name = \"replay\"\nproto = [\"search.proto\", \"echo.proto\"]\nports = [50051]\n{rules}");
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/proto/replay.toml");
    policy::compile(&text, &origin).unwrap_or_else(|e| panic!("{e:?}"))
}

const POLICY: &str = r#"
default = "deny"
[[deny]]
name = "no-a"
methods = ["/search.SearchService/Search"]
when = 'request.query.contains("A") || request.page > 100'
[[deny]]
name = "role"
when = 'metadata["x-role"] == "guest"'
[[allow]]
name = "all"
methods = ["/search.SearchService/*", "/echo.*"]
"#;

fn query(text: &str, page: u64) -> Vec<u8> {
    Message::new().bytes(1, text).varint(2, page).bytes
}

/// A generator of numbers (xorshift), seeded.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// A conversation of a few calls, some of them denied, some bytes of it wrong.
fn conversation(dice: &mut Dice) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut out = h2raw::open(&[]);
    for call in 0..1 + dice.roll(6) {
        let stream = 2 * call as u32 + 1;
        let style = if dice.roll(2) == 0 { Style::PLAIN } else { Style::SMALL };
        let role = ["admin", "guest", "user"][dice.roll(8).min(2) as usize];
        let path = if dice.roll(12) == 0 { "/other.Service/Method" } else { SEARCH };
        let block =
            encoder.encode(&h2raw::call(path, &[("x-role", if role == "guest" { role } else { "user" })]), style);
        out.extend(Headers::new(false).write(stream, &block));
        let text = if dice.roll(10) == 0 { "an A" } else { "a word" };
        let body = h2raw::grpc(&query(text, dice.roll(110)));
        let size = 1 + dice.roll(40) as usize;
        out.extend(frame::data_in_pieces(stream, &body, true, size));
    }
    if dice.roll(3) == 0 {
        let at = dice.roll(out.len() as u64) as usize;
        out[at] ^= 1 << dice.roll(8);
    }
    out
}

/// Chunks of 14 to 600 bytes: the least and about the most that BPF_PROG_TEST_RUN is given here.
fn chunks<'b>(bytes: &'b [u8], dice: &mut Dice) -> Vec<&'b [u8]> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while rest.len() > 28 {
        let (chunk, after) = rest.split_at((14 + dice.roll(600) as usize).min(rest.len() - 14));
        out.push(chunk);
        rest = after;
    }
    out.push(rest);
    out
}

fn in_kernel(replay: &Replay, chunks: &[&[u8]]) -> Vec<bool> {
    chunks.iter().enumerate().map(|(i, chunk)| replay.judge(chunk, i == 0, 1).unwrap().0).collect()
}

fn on_host(policy: &Policy, chunks: &[&[u8]]) -> Vec<bool> {
    let mut connection = Connection::new(&policy.tables, Ipv6Addr::LOCALHOST, 0);
    chunks.iter().map(|chunk| matches!(connection.request(chunk), Outcome::Pass | Outcome::Blind)).collect()
}

#[test]
fn the_kernel_judges_as_the_host_does() {
    if harness::skip("replay") {
        return;
    }
    let policy = compile(POLICY);
    let replay = load::replay(&policy.tables).unwrap();
    let seed = std::env::var("PROTOCG_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x5eed_1234_u64);
    let mut dice = Dice(seed);
    let mut dropped = 0;
    for round in 0..3000 {
        let bytes = conversation(&mut dice);
        let chunks = chunks(&bytes, &mut dice);
        let (kernel, host) = (in_kernel(&replay, &chunks), on_host(&policy, &chunks));
        assert_eq!(kernel, host, "PROTOCG_SEED={seed}, round {round}");
        dropped += u32::from(host.contains(&false));
    }
    println!("3000 conversations, {dropped} with something denied, seed {seed}: no disagreement");
    assert!((300..2700).contains(&dropped), "a dull run: {dropped} denied");
}

#[test]
fn the_cases_of_every_policy_are_judged_in_the_kernel() {
    if harness::skip("cases") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut passed = 0;
    for folder in std::fs::read_dir(root.join("policies")).unwrap().map(|entry| entry.unwrap().path()) {
        if !folder.is_dir() {
            continue;
        }
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let cases = |path: &&std::path::PathBuf| path.file_stem().unwrap() == "cases";
        let policy = files.iter().find(|path| !cases(path) && path.extension().is_some_and(|it| it == "toml")).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_protocg"));
        command.args(["test", "--kernel"]).arg(policy).arg(files.iter().find(cases).unwrap());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", folder.display());
        passed += said.lines().filter(|line| line.starts_with("ok    ")).count();
    }
    println!("{passed} cases, the same in the kernel as on the host");
    assert!(passed > 50, "{passed}");
}

/// Prints nanoseconds a packet and the verifier's counts; the numbers are looked at, not asserted.
#[test]
fn what_it_costs() {
    if harness::skip("costs") {
        return;
    }
    let policy = compile(POLICY);
    let replay = load::replay(&policy.tables).unwrap();
    let call = |message: &[u8], style| {
        let mut bytes = h2raw::open(&[]);
        bytes.extend(h2raw::unary(&mut Encoder::default(), style, 1, SEARCH, message));
        bytes
    };
    let long = Message::new().bytes(1, "x".repeat(2000)).bytes;
    let skipped = Message::new().bytes(15, "x".repeat(2000)).bytes;
    println!("{:<44} {:>6} {:>10}", "first packet of a connection", "bytes", "ns");
    for (name, bytes) in [
        ("preface and SETTINGS", h2raw::open(&[])),
        ("one call, literals, 50 B of query", call(&query(&"x".repeat(50), 1), Style::PLAIN)),
        ("one call, Huffman, 50 B of query", call(&query(&"x".repeat(50), 1), Style::SMALL)),
        ("one call, 2,000 B in the judged field", call(&long, Style::PLAIN)),
        ("one call, 2,000 B in a field that no rule reads", call(&skipped, Style::PLAIN)),
    ] {
        let (pass, ns) = replay.judge(&bytes, true, 20_000).unwrap();
        assert!(pass, "{name}");
        println!("{name:<44} {:>6} {ns:>10}", bytes.len());
    }
    println!("pg_replay: {} instructions verified", replay.verified().unwrap());
    for (program, count) in load::load(&policy.tables).unwrap().verified() {
        println!("{program}: {count} instructions verified");
    }
}
