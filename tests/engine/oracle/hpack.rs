//! Random header blocks over long connections: an independent decoder reads them, plain Rust decides them.

use std::collections::VecDeque;

use crate::rig::{Fixture, Random, compile, fixture, run_here, seed};
use crate::wire::*;

const POLICY: &str = r#"
default = "allow"
[[deny]]
name = "role"
when = 'metadata["x-role"] == "admin" || metadata["x-role"].startsWith("root")'
mode = "audit"
[[deny]]
name = "tenant"
methods = ["/s.S/*"]
when = '!(metadata["x-tenant"] in ["blue", "green"])'
mode = "audit"
[[deny]]
name = "agent"
methods = ["/s.S/M2"]
when = 'metadata["user-agent"].contains("bad") && !("x-role" in metadata)'
mode = "audit"
[[deny]]
name = "path"
methods = ["/t.T/M1", "/s.S/M1"]
mode = "audit"
"#;

type Field = (String, String);

/// The rules that hold, by the policy's own words.
pub fn reference(fields: &[Field]) -> Vec<&'static str> {
    let path = &fields.iter().find(|(name, _)| name == ":path").unwrap().1;
    let values = |key: &str| fields.iter().filter(|(name, _)| name == key).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    let (roles, tenants) = (values("x-role"), values("x-tenant"));
    let mut rules = Vec::new();
    if roles.iter().any(|role| role == "admin" || role.starts_with("root")) {
        rules.push("role");
    }
    if path.starts_with("/s.S/") && (tenants.is_empty() || tenants.iter().any(|it| it != "blue" && it != "green")) {
        rules.push("tenant");
    }
    if path == "/s.S/M2" && roles.is_empty() && values("user-agent").iter().any(|it| it.contains("bad")) {
        rules.push("agent");
    }
    if path == "/t.T/M1" || path == "/s.S/M1" {
        rules.push("path");
    }
    rules
}

pub fn fields(random: &mut Random) -> Vec<Field> {
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let path = random.pick(&["/s.S/M1", "/s.S/M2", "/s.S/M3", "/t.T/M1", "/t.T/M2", "/u.U/V"]);
    let mut out = vec![own(":method", "POST"), own(":scheme", "http"), own(":path", path)];
    if random.one_in(2) {
        out.push(own(":authority", random.pick(&["a", "b.example"])));
    }
    out.push(own("content-type", random.pick(&["application/grpc", "application/grpc+proto"])));
    for _ in 0..random.below(9) {
        let name =
            random.pick(&["x-role", "x-tenant", "user-agent", "x-trace", "x-long", "accept-encoding", "x-roles"]);
        let value = match name {
            "x-role" => random.pick(&["admin", "user", "rooted", "roo", "", "administrator"]).to_owned(),
            "x-tenant" => random.pick(&["blue", "green", "red", "", "bluegreen"]).to_owned(),
            "user-agent" => random.pick(&["good/1", "a bad one", "bad", "ba d"]).to_owned(),
            "accept-encoding" => "gzip, deflate".to_owned(),
            "x-long" => "é~{}".repeat(random.below(300)),
            _ => format!("{:x}", random.draw() >> random.below(60)),
        };
        out.push((name.to_owned(), value));
    }
    out
}

/// One encoder that does all that RFC 7541 allows, at random.
struct Encoder {
    table: VecDeque<Field>,
    limit: usize,
}

impl Encoder {
    fn evict(&mut self, limit: usize) {
        let size = |table: &VecDeque<Field>| table.iter().map(|(n, v)| n.len() + v.len() + 32).sum::<usize>();
        while size(&self.table) > limit {
            self.table.pop_back();
        }
    }

    fn update(&mut self, size: usize) -> Vec<u8> {
        self.limit = size;
        self.evict(size);
        size_update(size)
    }

    fn text(random: &mut Random, text: &str) -> Vec<u8> {
        if random.one_in(2) { huffman(text) } else { string(text) }
    }

    fn field(&mut self, random: &mut Random, (name, value): &Field) -> Vec<u8> {
        let fixed = [
            (":authority", 1),
            (":path", 4),
            (":path", 5),
            (":scheme", 6),
            (":method", 3),
            (":method", 2),
            ("content-type", 31),
            ("user-agent", 58),
            ("accept-encoding", 16),
        ];
        let dynamic_at: Vec<usize> = self
            .table
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry == &&(name.clone(), value.clone()))
            .map(|(i, _)| 62 + i)
            .collect();
        if !dynamic_at.is_empty() && !random.one_in(5) {
            return indexed(random.pick(&dynamic_at));
        }
        let whole = match (name.as_str(), value.as_str()) {
            (":method", "POST") => 3,
            (":scheme", "http") => 6,
            ("accept-encoding", "gzip, deflate") => 16,
            _ => 0,
        };
        if whole != 0 && !random.one_in(4) {
            return indexed(whole);
        }
        let form = random.pick(&[INSERT, INSERT, PLAIN, NEVER]);
        let mut names: Vec<usize> = fixed.iter().filter(|(n, _)| n == name).map(|(_, i)| *i).collect();
        names.extend(self.table.iter().enumerate().filter(|(_, (n, _))| n == name).map(|(i, _)| 62 + i));
        let mut out = if names.is_empty() || random.one_in(4) {
            [vec![form.0], Encoder::text(random, name)].concat()
        } else {
            integer(form.0, form.1, random.pick(&names))
        };
        out.extend(Encoder::text(random, value));
        if form == INSERT {
            let size = name.len() + value.len() + 32;
            self.evict(self.limit.saturating_sub(size));
            if size <= self.limit {
                self.table.push_front((name.clone(), value.clone()));
            }
        }
        out
    }

    fn block(&mut self, random: &mut Random, fields: &[Field]) -> Vec<u8> {
        let mut out = Vec::new();
        if random.one_in(12) {
            out.extend(self.update(random.pick(&[0, 100, 200, 1000, 4096])));
            if random.one_in(2) {
                out.extend(self.update(random.pick(&[64, 4095, 4096])));
            }
        }
        for field in fields {
            out.extend(self.field(random, field));
        }
        out
    }
}

/// A block in HEADERS and CONTINUATION frames, with priority at random.
pub fn frames(random: &mut Random, stream: u32, block: &[u8]) -> Vec<u8> {
    let cuts = if random.one_in(2) { Vec::new() } else { random.cuts(block.len(), 1 + block.len() / 3) };
    let ends: Vec<usize> = cuts.into_iter().chain([block.len()]).collect();
    let (mut out, mut from) = (Vec::new(), 0);
    for (i, &to) in ends.iter().enumerate() {
        let mut flags = if i + 1 == ends.len() { END_HEADERS } else { 0 };
        let mut payload = block[from..to].to_vec();
        from = to;
        if i > 0 {
            out.extend(frame(CONTINUATION, flags, stream, &payload));
            continue;
        }
        if random.one_in(3) {
            flags |= PRIORITY_FLAG;
            payload = [&[0, 0, 0, 0, 9][..], &payload].concat();
        }
        out.extend(frame(HEADERS, flags | END_STREAM, stream, &payload));
    }
    out
}

/// Random calls on one connection: each block is decoded by an independent library, too.
fn connection(seed: u64, calls: u32) -> Fixture {
    let mut random = Random(seed);
    let mut encoder = Encoder { table: VecDeque::new(), limit: 4096 };
    let mut decoder = loona_hpack::Decoder::new();
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    for call in 0..calls {
        let stream = 2 * call + 1;
        let fields = fields(&mut random);
        let block = encoder.block(&mut random, &fields);
        let decoded = decoder.decode(&block).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let decoded: Vec<Field> = decoded.iter().map(|(n, v)| (text(n), text(v))).collect();
        assert_eq!(decoded, fields, "the test's own encoder, seed {seed}");
        events.extend(reference(&decoded).iter().map(|rule| format!("audit {rule} on {stream}#0")));
        bytes.push(frames(&mut random, stream, &block));
    }
    let mut it = fixture(&format!("seed {seed}"), POLICY, &bytes, &[]);
    it.events = events;
    it
}

#[test]
fn random_blocks_are_decided_as_a_library_reads_them() {
    let policy = compile(POLICY);
    let first = seed(1);
    let mut count = 0;
    for seed in first..first + 20 {
        let it = connection(seed, 200);
        let mut random = Random(seed);
        for cuts in [Vec::new(), random.cuts(it.bytes.len(), 3), random.cuts(it.bytes.len(), 700)] {
            assert_eq!(run_here(&policy, &it, &cuts).0, it.events, "PROTOCG_SEED={seed}");
        }
        count += it.events.len();
    }
    println!("4000 requests, {count} events");
    assert!(count > 2000);
}

/// Blocks of libraries' own encoders.
#[test]
fn the_blocks_of_other_encoders_are_decided_as_they_were_meant() {
    let policy = compile(POLICY);
    let first = seed(100);
    for seed in first..first + 5 {
        let mut random = Random(seed);
        let mut plain = hpack::Encoder::new();
        let mut other = loona_hpack::Encoder::new();
        for own in [true, false] {
            let (mut bytes, mut events) = (Vec::new(), Vec::new());
            for call in 0..200 {
                let fields = fields(&mut random);
                let refs = || fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
                let block = if own { plain.encode(refs()) } else { other.encode(refs()) };
                let stream = 2 * call + 1;
                events.extend(reference(&fields).iter().map(|rule| format!("audit {rule} on {stream}#0")));
                bytes.push(frames(&mut random, stream, &block));
            }
            let mut it = fixture("", POLICY, &bytes, &[]);
            it.events = events;
            let cuts = random.cuts(it.bytes.len(), 40);
            assert_eq!(run_here(&policy, &it, &cuts).0, it.events, "PROTOCG_SEED={seed}");
        }
    }
}

/// Bytes of valid connections, some of them changed: whatever comes of it, it is the same however the bytes are cut.
#[test]
fn broken_traffic_is_decided_the_same_however_it_is_cut() {
    let policy = compile(POLICY);
    let first = seed(1000);
    let mut broken = 0;
    for seed in first..first + 400 {
        let mut random = Random(seed);
        let mut it = connection(seed, 6);
        for _ in 0..1 + random.below(9) {
            let at = 24 + random.below(it.bytes.len() - 24);
            it.bytes[at] ^= 1 << random.below(8);
        }
        let (whole, _) = run_here(&policy, &it, &[]);
        let every: Vec<usize> = (1..it.bytes.len()).collect();
        assert_eq!(run_here(&policy, &it, &every).0, whole, "PROTOCG_SEED={seed}");
        let cuts = random.cuts(it.bytes.len(), 20);
        assert_eq!(run_here(&policy, &it, &cuts).0, whole, "PROTOCG_SEED={seed}");
        broken += usize::from(whole.last().is_some_and(|event| event.starts_with("cut") || event.starts_with("deny")));
    }
    assert!(broken > 100, "{broken}");
}
