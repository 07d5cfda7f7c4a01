//! Bulk throughput through the filter, as ratios to the unenforced path in the same run.
//!
//! `cargo bench --bench bulk` (as root) prints a line for each kind of path: a sender in one network namespace, a
//! receiver in a protected cgroup in another, a veth pair between them; loss is made by a classifier at the receiver's
//! end of the wire.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use protocg_peers::h2raw::{self, Encoder, Headers, Style, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::{self, Cgroup, Protocg, Veth};

#[path = "../tests/support/loss.rs"]
mod loss_program;

const PORT: u16 = 50051;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1500);
const POLICY: &str = "name = \"bulk\"\nports = [50051]\ndefault = \"allow\"\n";

/// Sends HTTP/2 DATA for a while; megabits a second.
fn send(veth: &Veth) -> f64 {
    let address = SocketAddr::from((Veth::SERVER4, PORT));
    let mut socket = veth.run(End::A, || TcpStream::connect(address).unwrap());
    socket.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = h2raw::open(&[]);
    let block = Encoder::default().encode(&h2raw::call("/bulk.Bulk/Upload", &[]), Style::PLAIN);
    bytes.extend(Headers::new(false).write(1, &block));
    socket.write_all(&bytes).unwrap();
    let chunk = frame::data(1, &[0; 16384], false, None).repeat(64);
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < ROUND {
        socket.write_all(&chunk).unwrap();
        sent += chunk.len();
    }
    sent as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e6
}

/// A listener whose connections are read to nowhere.
fn sink(veth: &Veth) {
    let listener = veth.run(End::B, || TcpListener::bind(("10.77.0.2", PORT)).unwrap());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while socket.read(&mut buffer).is_ok_and(|n| n > 0) {}
            });
        }
    });
}

fn segmentation(veth: &Veth, on: bool) -> bool {
    let state = if on { "on" } else { "off" };
    let mut command = Command::new("ethtool");
    command.args(["-K", "pga0", "tso", state, "gso", state]);
    veth.enter(End::A, &mut command);
    command.status().is_ok_and(|s| s.success())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if let Err(why) = harness::possible() {
        println!("bulk: not run: {why}");
        return;
    }
    let binary = env!("CARGO_BIN_EXE_protocg");
    println!("{:<28} {:>12} {:>12} {:>7} {:>12}", "path", "unenforced", "enforced", "ratio", "min..max");
    for (name, gso, millionths) in [
        ("GSO, no loss", true, 0),
        ("GSO, 0.1 % loss", true, 1_000),
        ("MSS packets, no loss", false, 0),
        ("MSS packets, 0.1 % loss", false, 1_000),
        ("GSO, 1 % loss", true, 10_000),
        ("GSO, 5 % loss", true, 50_000),
        ("MSS packets, 1 % loss", false, 10_000),
        ("MSS packets, 5 % loss", false, 50_000),
    ] {
        let veth = Veth::new();
        // the receiver is this process: its sockets belong to the cgroup in which they are made
        let cgroup = Cgroup::new("bulk");
        cgroup.adopt(std::process::id()).unwrap();
        sink(&veth);
        if !gso && !segmentation(&veth, false) {
            println!("{name:<28} not run: ethtool cannot switch segmentation off");
            continue;
        }
        loss_program::loss(&veth, End::B, millionths);
        let (mut plain, mut enforced) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(send(&veth));
            let enforcer = Protocg::run(binary, &[&cgroup], POLICY, &[]);
            enforced.push(send(&veth));
            assert!(enforcer.stop().success());
        }
        let ratios: Vec<f64> = enforced.iter().zip(&plain).map(|(e, p)| e / p).collect();
        let (low, high) = ratios.iter().fold((f64::MAX, 0.0_f64), |(l, h), r| (l.min(*r), h.max(*r)));
        let (p, e) = (median(plain), median(enforced));
        println!("{name:<28} {p:>7.0} Mb/s {e:>7.0} Mb/s {:>7.2} {low:>6.2}..{high:.2}", median(ratios));
        harness::cgroup::mount()
            .and_then(|top| std::fs::write(top.join("cgroup.procs"), std::process::id().to_string()).ok());
    }
}
