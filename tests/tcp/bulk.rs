//! Long packets: of 64 KiB by segmentation offload, and BIG TCP's, which are longer and whose IP header says no length.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use protocg::abi;
use protocg_peers::h2raw::{self, Encoder, Style, frame};
use protocg_peers::harness;
use protocg_peers::harness::Veth;
use protocg_peers::harness::net::End;
use serde_json::json;

use crate::field::{PATH, PORT, query};
use crate::maps;
use crate::wall::{self, Wall};

const MESSAGE: usize = 4 << 20;
const CALLS: u32 = 12;

/// Lets both ends of the link send and merge packets of so many bytes; says so if they cannot.
fn big(veth: &Veth, test: &str, most: &str) -> bool {
    for (end, device) in [(End::A, "pga0"), (End::B, "pgb0")] {
        let mut command = Command::new("ip");
        command.args(["link", "set", "dev", device, "gso_max_size", most, "gro_max_size", most]);
        veth.enter(end, &mut command);
        let output = command.output().unwrap();
        if !output.status.success() {
            println!("SKIPPED {test}: {}", String::from_utf8_lossy(&output.stderr).trim());
            return false;
        }
    }
    true
}

/// Letters that follow no pattern, so that no byte could stand for another; none is an A.
fn text(seed: u32, length: usize) -> String {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'b' + (state >> 24) as u8 % 25)
        })
        .collect()
}

/// What python's hashlib makes of the bytes: the listener says its own.
fn sha256(bytes: &[u8]) -> String {
    let mut command = Command::new("sha256sum");
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap().to_owned()
}

#[test]
fn packets_of_64_kib() {
    judged_whole("gso", "65536", 32 << 10);
}

#[test]
fn packets_beyond_64_kib() {
    judged_whole("big_tcp", "196608", 1 << 16);
}

/// Messages of 4 MiB, one call after the other, in packets of up to `most` bytes, of which some are longer than `some`: each
/// arrives as it was sent. The denied one among them does not, where without the enforcer it does.
fn judged_whole(name: &str, most: &str, some: u32) {
    if harness::skip(name) {
        return;
    }
    let mut encoder = Encoder::default();
    let mut good = [h2raw::open(&[]), frame::settings_ack()].concat();
    for call in 0..CALLS {
        let message = query(&text(call, MESSAGE));
        good.extend(h2raw::unary(&mut encoder, Style::PLAIN, 2 * call + 1, PATH, &message));
    }
    let mut evil = text(CALLS, MESSAGE);
    evil.push_str("evilA");
    let evil = h2raw::unary(&mut encoder, Style::PLAIN, 2 * CALLS + 1, PATH, &query(&evil));
    for enforced in [false, true] {
        let wall = Wall::new(name, enforced, &json!({ "v6": true }), &[]);
        if !big(&wall.veth, name, most) {
            return;
        }
        let capture = wall::capture(&wall.veth, End::B, "pgb0", some);
        let mut stream = wall.veth.run(End::A, || TcpStream::connect((Veth::SERVER6, PORT)).unwrap());
        stream.write_all(&good).unwrap();
        assert_eq!(wall.whole(good.len()).sha256, sha256(&good));
        let heard = wall::captured(&capture);
        println!("{CALLS} messages of {MESSAGE} B, {heard} packets beyond {some} B heard");
        assert!(heard > 0, "no packet is longer than {some} B");
        // A writer that is cut off while it writes may see the reset at once.
        let _ = stream.write_all(&evil);
        if enforced {
            // Every byte of the good ones went through the engine.
            let judged = maps::sum(&maps::of(wall.cgroup.path(), "counters"), abi::PG_N_BYTES);
            assert!(judged >= good.len() as u64, "{judged}");
        }
        wall.denied();
        if let Some(enforcer) = &wall.enforcer {
            let decisions = enforcer.of_type("decision");
            assert_eq!((decisions.len(), &decisions[0]["rule"]), (1, &json!("no-a")), "{decisions:#?}");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            // Mended, the last bytes are as many as were sent, and others.
            let got = wall.got().pop().unwrap();
            assert_ne!(got.sha256, sha256(&[&good[..], &evil[..]].concat()), "the denied message is whole");
        }
        let _ = stream.shutdown(Shutdown::Both);
        wall.over();
    }
}
