//! Bulk throughput through the filter, as ratios to the unenforced path in the same run.
//!
//! `cargo bench --bench bulk` (as root) prints a line for each kind of path: a sender in one network namespace, a
//! receiver in a protected cgroup in another, a veth pair between them; loss is made by a classifier at the receiver's
//! end of the wire.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use libbpf_rs::{TC_INGRESS, TcHookBuilder};
use protocg_peers::h2raw::{self, Encoder, Headers, Style, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::{self, Cgroup, Protocg, Veth};

const PORT: u16 = 50051;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1500);
const POLICY: &str = "name = \"bulk\"\nports = [50051]\ndefault = \"allow\"\n";

/// Drops a share of the packets that arrive, in millionths: a classifier of six instructions, gone with the device.
fn loss(veth: &Veth, millionths: u32) {
    if millionths == 0 {
        return;
    }
    let threshold = u32::try_from(u64::from(millionths) * u64::from(u32::MAX) / 1_000_000).unwrap();
    let insn = |code: u8, registers: u8, off: i16, imm: i32| {
        let mut bytes = vec![code, registers];
        bytes.extend(off.to_le_bytes());
        bytes.extend(imm.to_le_bytes());
        bytes
    };
    let program = [
        insn(0x85, 0, 0, 7),                       // r0 = bpf_get_prandom_u32()
        insn(0xa6, 0, 2, threshold.cast_signed()), // if (u32)r0 < threshold goto +2
        insn(0xb7, 0, 0, 0),                       // r0 = TC_ACT_OK
        insn(0x95, 0, 0, 0),                       // return r0
        insn(0xb7, 0, 0, 2),                       // r0 = TC_ACT_SHOT
        insn(0x95, 0, 0, 0),                       // return r0
    ]
    .concat();
    // SAFETY: the instructions and names are valid for the call; the descriptor is new.
    let program = unsafe {
        let fd = libbpf_rs::libbpf_sys::bpf_prog_load(
            libbpf_rs::libbpf_sys::BPF_PROG_TYPE_SCHED_CLS,
            c"pg_loss".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr().cast(),
            program.len() as u64 / 8,
            std::ptr::null_mut(),
        );
        assert!(fd >= 0, "cannot load the loss program: {fd}");
        OwnedFd::from_raw_fd(fd)
    };
    veth.run(End::B, || {
        // SAFETY: a name.
        let index = unsafe { libc::if_nametoindex(c"pgb0".as_ptr()) };
        let mut hook = TcHookBuilder::new(program.as_fd())
            .ifindex(index.cast_signed())
            .replace(true)
            .handle(1)
            .priority(1)
            .hook(TC_INGRESS);
        hook.create().unwrap();
        hook.attach().unwrap();
    });
}

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
        ("MSS packets, 1 % loss", false, 10_000),
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
        loss(&veth, millionths);
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
