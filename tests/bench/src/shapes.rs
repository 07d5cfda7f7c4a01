//! The engine in the kernel over fixed traffic, through BPF_PROG_TEST_RUN: nanoseconds by the shape of a call.
//!
//! A program of one build may be compared with that of another: each `pg-bench shapes --serve` runs what it is told, and
//! `pg-bench compare` has two of them take turns.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use protocg::kernel::load::{self, Replay};
use protocg::policy;
use protocg_peers::h2raw::{self, Encoder, Headers, Style, frame};
use protocg_peers::wire::Message;
use serde::{Deserialize, Serialize};

use crate::cpu;
use crate::results::ShapeResult;
use crate::stats::Spread;

/// Fixed traffic, and the policy that reads it.
struct Shape {
    name: &'static str,
    rules: &'static str,
    message: Vec<u8>,
}

/// What `shapes --serve` says first, of each shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Its name.
    pub name: String,
    /// Bytes of a call.
    pub bytes: usize,
}

const PATH: &str = "/echo.Echo/Unary";
/// What BPF_PROG_TEST_RUN takes at once, and a block of it, at least.
const MOST: usize = 2896;
const LEAST: usize = 14;
/// Bytes of a block, about: long shapes have fewer calls.
const BLOCK_BYTES: usize = 1 << 20;
const BLOCK_CALLS: usize = 200;

const ONE: &str = "[[deny]]\nname = \"r\"\nmethods = [\"/echo.Echo/Unary\"]\nwhen = 'request.text.contains(\"A\")'\n";

fn shapes() -> Vec<Shape> {
    let text = |n: usize| Message::new().bytes(1, "x".repeat(n));
    let inner = Message::new().bytes(1, "a name in there");
    let middle = Message::new().bytes(1, "middle").varint(2, 7).message(3, &inner);
    let eight = text(12).varint(3, 1).varint(4, 77).varint(5, 1 << 40).varint(6, 8).fixed32(10, [1; 4]);
    vec![
        Shape {
            name: "path only",
            rules: "[[deny]]\nname = \"r\"\nmethods = [\"/echo.Echo/Slow\"]\n",
            message: text(48).bytes,
        },
        Shape { name: "1 field of 48 B", rules: ONE, message: text(48).bytes },
        Shape {
            name: "8 fields",
            rules: "[[deny]]\nname = \"r\"\nmethods = [\"/echo.Echo/Unary\"]\nwhen = 'request.text == \"A\" || !request.flag || \
                    request.i32 > 100 || request.i64 < 0 || request.u32 > 9u || request.f32 == 7u || \
                    request.maybe_text == \"B\" || request.maybe_number > 5'\n",
            message: eight.bytes(21, "maybe").varint(22, 3).bytes,
        },
        Shape {
            name: "nested, 3 deep",
            rules: "[[deny]]\nname = \"r\"\nmethods = [\"/echo.Echo/Unary\"]\nwhen = 'request.outer.middle.inner.name.contains(\"A\")'\n",
            message: Message::new()
                .message(17, &Message::new().bytes(1, "outer").varint(2, 3).message(3, &middle))
                .bytes,
        },
        Shape { name: "string field of 64 KiB", rules: ONE, message: text(65_536).bytes },
        Shape {
            name: "skipped field of 1 MiB",
            rules: ONE,
            message: Message::new().bytes(2, vec![b'A'; 1 << 20]).bytes(1, "x".repeat(48)).bytes,
        },
    ]
}

/// A shape with its loaded program, and a block of its traffic in packets.
struct Ready {
    said: Said,
    replay: Replay,
    calls: Vec<Vec<Vec<u8>>>,
}

impl Ready {
    fn new(shape: &Shape) -> Result<Ready> {
        let text = format!(
            "name = \"shape\"\nproto = [\"echo.proto\"]\nports = [50051]\ndefault = \"allow\"\n{}",
            shape.rules
        );
        let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../peers/proto/shape.toml");
        let policy = policy::compile(&text, &origin).map_err(|e| anyhow!("{}: {e:?}", shape.name))?;
        let replay = load::replay(&policy.tables)?;
        let mut encoder = Encoder::default();
        let mut call = |stream: u32| {
            let block = encoder.encode(&h2raw::call(PATH, &[]), Style::SMALL);
            let mut bytes = Headers::new(false).write(stream, &block);
            bytes.extend(frame::data_in_pieces(stream, &h2raw::grpc(&shape.message), true, 16384));
            packets(&bytes)
        };
        // the first is the connection's, and fills its HPACK table
        let mut first = vec![h2raw::open(&[])];
        first.extend(call(1));
        let mut calls = vec![first];
        let count = (BLOCK_BYTES / shape.message.len()).clamp(1, BLOCK_CALLS);
        calls.extend((1..=count as u32).map(|i| call(2 * i + 1)));
        let bytes = calls.last().map_or(0, |packets| packets.iter().map(Vec::len).sum());
        Ok(Ready { said: Said { name: shape.name.to_owned(), bytes }, replay, calls })
    }

    /// A connection with a block of calls: the median of what a call takes, in nanoseconds.
    fn block(&self) -> Result<f64> {
        let mut fresh = true;
        let mut each = Vec::new();
        for (packets, stream) in self.calls.iter().zip((1..).step_by(2)) {
            let mut ns = 0;
            for packet in packets {
                let (pass, took) = self.replay.judge(packet, fresh, 1)?;
                ensure!(pass, "{}: denied", self.said.name);
                fresh = false;
                ns += took;
            }
            each.push(f64::from(ns));
            // not measured: a server answers, so that calls come and go as they do
            ensure!(self.replay.judge_response(&answer(stream))?, "{}: the answer is denied", self.said.name);
        }
        Spread::of(each.into_iter().skip(1)).map(|s| s.median).context("no calls")
    }
}

/// What a server says: `:status: 200` and the end.
fn answer(stream: u32) -> Vec<u8> {
    let flags = frame::flag::END_HEADERS | frame::flag::END_STREAM;
    [frame::frame(frame::kind::HEADERS, flags, stream, &[0x88]), frame::ping([0; 8], false)].concat()
}

fn packets(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = if rest.len() > MOST { MOST.min(rest.len() - LEAST) } else { rest.len() };
        let (packet, after) = rest.split_at(size);
        out.push(packet.to_vec());
        rest = after;
    }
    out
}

/// Every shape with this in its name, in this build.
pub fn run(blocks: usize, only: &str) -> Result<Vec<ShapeResult>> {
    cpu::pin(0, cpu::server())?;
    let ready = shapes().iter().filter(|s| s.name.contains(only)).map(Ready::new).collect::<Result<Vec<_>>>()?;
    let mut found = vec![Vec::new(); ready.len()];
    for _ in 0..blocks {
        for (shape, found) in ready.iter().zip(&mut found) {
            found.push(shape.block()?);
        }
    }
    let results = ready.into_iter().zip(found).map(|(shape, ns)| ShapeResult {
        name: shape.said.name,
        bytes: shape.said.bytes,
        ns: Spread::of(ns).unwrap_or_default(),
    });
    Ok(results.collect())
}

/// Says its shapes, then runs a block of the one whose number it reads, and says what a call took.
pub fn serve() -> Result<()> {
    cpu::pin(0, cpu::server())?;
    let ready = shapes().iter().map(Ready::new).collect::<Result<Vec<_>>>()?;
    let said: Vec<&Said> = ready.iter().map(|r| &r.said).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&said)?)?;
    for line in std::io::stdin().lock().lines() {
        let shape = ready.get(line?.parse::<usize>()?).context("no such shape")?;
        writeln!(out, "{}", shape.block()?)?;
        out.flush()?;
    }
    Ok(())
}
