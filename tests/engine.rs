//! Ring 0: the engine, built for the host, on conversations that are cut at every byte.

use std::net::Ipv6Addr;
use std::path::Path;

use protocg::abi;
use protocg::engine::{Connection, Outcome};
use protocg::policy::{self, Policy};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

fn compile(rules: &str) -> Policy {
    let text = format!("name = \"t\"\nproto = [\"search.proto\", \"login.proto\"]\nports = [50051]\n{rules}");
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/proto/t.toml");
    policy::compile(&text, &origin).unwrap_or_else(|e| panic!("{e:?}"))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.push(kind);
    out.push(flags);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x40, name.len() as u8];
    out.extend(name.as_bytes());
    out.push(value.len() as u8);
    out.extend(value.as_bytes());
    out
}

fn request(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", path));
    block.extend(literal("content-type", "application/grpc"));
    block.extend(literal("te", "trailers"));
    frame(1, 4, stream, &block)
}

fn message(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
    out
}

fn search(query: &str) -> Vec<u8> {
    let mut out = vec![0x0a, query.len() as u8];
    out.extend(query.as_bytes());
    out
}

fn unary(stream: u32, path: &str, body: &[u8]) -> Vec<u8> {
    let mut out = request(stream, path);
    out.extend(frame(0, 1, stream, &message(body)));
    out
}

fn run(policy: &Policy, bytes: &[u8], cuts: &[usize]) -> (Outcome, Vec<abi::pg_event>) {
    let mut connection = Connection::new(&policy.tables, Ipv6Addr::LOCALHOST, 4711);
    let mut events = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        let outcome = connection.request(&bytes[from..to]);
        events.extend(connection.events());
        if outcome != Outcome::Pass {
            return (outcome, events);
        }
        from = to;
    }
    (Outcome::Pass, events)
}

/// The same verdict whole, byte by byte, and cut in two at every place.
fn verdict(policy: &Policy, bytes: &[u8]) -> (Outcome, Option<abi::pg_event>) {
    let whole = run(policy, bytes, &[]);
    let key = |r: &(Outcome, Vec<abi::pg_event>)| {
        (r.0, r.1.iter().map(|e| (e.type_, e.verdict, e.reason, e.rule, e.stream, e.message)).collect::<Vec<_>>())
    };
    for cut in 1..bytes.len() {
        assert_eq!(key(&run(policy, bytes, &[cut])), key(&whole), "cut at {cut}");
    }
    assert_eq!(key(&run(policy, bytes, &(1..bytes.len()).collect::<Vec<_>>())), key(&whole), "byte by byte");
    (whole.0, whole.1.last().copied())
}

fn conversation(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    parts.iter().for_each(|part| out.extend(part));
    out
}

const NO_A: &str = r#"
default = "deny"
[[deny]]
name = "no-a"
methods = ["/search.SearchService/Search"]
when = 'request.query.contains("A")'
status = "INVALID_ARGUMENT"
[[allow]]
name = "search"
methods = ["/search.SearchService/*"]
"#;

#[test]
fn a_query_with_the_letter_is_denied_by_its_rule() {
    let policy = compile(NO_A);
    let (outcome, event) = verdict(&policy, &conversation(&[unary(1, "/search.SearchService/Search", &search("xAy"))]));
    let event = event.unwrap();
    assert_eq!(outcome, Outcome::Denied);
    assert_eq!((event.rule, event.status, event.stream, event.message), (0, 3, 1, 1));
}

#[test]
fn a_query_without_the_letter_passes() {
    let policy = compile(NO_A);
    let bytes = conversation(&[
        unary(1, "/search.SearchService/Search", &search("xay")),
        unary(3, "/search.SearchService/Search", &search("")),
        unary(5, "/search.SearchService/Search", &[]),
    ]);
    assert_eq!(verdict(&policy, &bytes).0, Outcome::Pass);
}

#[test]
fn the_last_value_of_a_field_wins() {
    let policy = compile(NO_A);
    let mut good_last = search("A");
    good_last.extend(search("b"));
    let mut bad_last = search("b");
    bad_last.extend(search("A"));
    assert_eq!(
        verdict(&policy, &conversation(&[unary(1, "/search.SearchService/Search", &good_last)])).0,
        Outcome::Pass
    );
    assert_eq!(
        verdict(&policy, &conversation(&[unary(1, "/search.SearchService/Search", &bad_last)])).0,
        Outcome::Denied
    );
}

#[test]
fn what_no_rule_names_gets_the_default() {
    let policy = compile(NO_A);
    let (outcome, event) = verdict(&policy, &conversation(&[unary(1, "/other.Service/Method", &[])]));
    assert_eq!(outcome, Outcome::Denied);
    assert_eq!((event.unwrap().rule, event.unwrap().reason), (abi::PG_NO_RULE, abi::PG_R_NONE));
}
