//! Slots for segments that wait ahead of a hole: however a connection ends, all of them are free again, each once.

use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::sys::signal::Signal;
use protocg::abi;
use protocg_peers::h2raw::{self, Encoder, Style, frame};
use protocg_peers::harness::net::End;
use protocg_peers::harness::{self, Cgroup};
use protocg_peers::raw::{ACK, FIN, Odd, PSH, RST, Raw};

use serde_json::json;

use crate::field::{Field, PATH, POLICY, SHORT, conversation, query};
use crate::maps;
use crate::wall::Wall;

/// The queues of free slots and what is held, as the enforcer has them.
pub struct Slots {
    small: MapHandle,
    large: MapHandle,
    mend_small: MapHandle,
    mend_large: MapHandle,
    shares: MapHandle,
    held: MapHandle,
    conns: MapHandle,
}

impl Slots {
    pub fn of(cgroup: &Cgroup) -> Self {
        let of = |name| maps::of(cgroup.path(), name);
        Self {
            small: of("free_small"),
            large: of("free_large"),
            mend_small: of("mend_small"),
            mend_large: of("mend_large"),
            shares: of("shares"),
            held: of("held"),
            conns: of("conns"),
        }
    }

    /// Slots for waiting segments that are taken: small and large ones. Each that is free is free once.
    pub fn taken(&self) -> (usize, usize) {
        let large = (abi::PG_MAX_HELD_SMALL, abi::PG_MAX_HELD_LARGE);
        (taken(&self.small, 0..large.0), taken(&self.large, 0..large.1))
    }

    /// Slots for copies that are taken.
    fn mending(&self) -> (usize, usize) {
        let (small, large) = (abi::PG_MAX_HELD_SMALL, abi::PG_MAX_HELD_LARGE);
        let small = taken(&self.mend_small, small..small + abi::PG_MAX_MEND_SMALL);
        (small, taken(&self.mend_large, large..large + abi::PG_MAX_MEND_LARGE))
    }

    /// What is counted in all shares, in small slots.
    fn shared(&self) -> u32 {
        let share = |index: u32| self.shares.lookup(&index.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
        (0..abi::PG_SHARES).map(|index| u32::from_ne_bytes(share(index).try_into().unwrap())).sum()
    }

    /// So many are taken once the segments have come. To look at the queue is to empty it, so it is done once.
    pub fn hold(&self, small: usize, large: usize) {
        std::thread::sleep(SHORT);
        assert_eq!(self.taken(), (small, large));
        assert_eq!(self.shared() as usize, small + large * abi::PG_LARGE_WEIGHT as usize);
    }

    /// Once all connections but the field's neighbour have closed, nothing is held.
    pub fn all_free(&self) {
        crate::field::eventually("the connections close", || maps::count(&self.conns) <= 1);
        assert_eq!((self.taken(), self.mending(), maps::count(&self.held), self.shared()), ((0, 0), (0, 0), 0, 0));
    }
}

/// How many of these slots are not in the queue of free ones.
fn taken(queue: &MapHandle, slots: std::ops::Range<u32>) -> usize {
    let mut free = maps::queued(queue);
    free.sort_unstable();
    assert!(free.windows(2).all(|pair| pair[0] != pair[1]), "a slot is free twice");
    assert!(free.iter().all(|slot| slots.contains(slot)), "a slot is in another's queue");
    slots.len() - free.len()
}

pub fn reset(raw: &Raw) {
    raw.segment(RST | ACK, raw.seq, &[], &Odd::default());
}

#[test]
fn slots_of_segments_that_were_delivered_are_free_again() {
    if harness::skip("slots_delivered") {
        return;
    }
    let field = Field::new("slots");
    let slots = Slots::of(&field.cgroup);
    let bytes = conversation("delivered");
    let mut raw = field.client();
    raw.connect();
    for part in (1..bytes.len()).collect::<Vec<_>>().into_iter().rev() {
        raw.at(part as u32, &bytes[part..=part]);
    }
    let waiting = bytes.len() - 1;
    slots.hold(waiting, 0);
    raw.at(0, &bytes[..1]);
    field.seen("delivered");
    // The connection lives, and holds none.
    assert_eq!(slots.taken(), (0, 0));
    raw.seq = raw.seq.wrapping_add(bytes.len() as u32);
    reset(&raw);
    slots.all_free();
    field.unharmed();
}

/// The connection ends while segments wait: by a reset, by a FIN before the hole, by the server's process that dies.
#[test]
fn slots_of_segments_that_wait_for_ever_are_free_again() {
    if harness::skip("slots_waiting") {
        return;
    }
    let field = Field::new("slots");
    let slots = Slots::of(&field.cgroup);
    let bytes = conversation(&"waiting".repeat(1000));
    let ahead = |raw: &Raw| {
        for at in (1..4001).step_by(500) {
            raw.at(at as u32, &bytes[at..at + 500]);
        }
    };
    let mut raw = field.client();
    raw.connect();
    ahead(&raw);
    slots.hold(8, 0);
    // What is held already, and what overlaps it, takes none.
    ahead(&raw);
    raw.at(250, &bytes[250..750]);
    slots.hold(8, 0);
    reset(&raw);
    slots.all_free();

    let mut raw = field.client();
    raw.connect();
    ahead(&raw);
    slots.hold(8, 0);
    raw.segment(PSH | ACK | FIN, raw.seq.wrapping_add(4001), &bytes[4001..4100], &Odd::default());
    slots.hold(9, 0);
    reset(&raw);
    slots.all_free();

    let mut raw = field.client();
    raw.connect();
    ahead(&raw);
    slots.hold(8, 0);
    // The kernel says goodbye for it, and nobody answers until the client is gone too.
    field.server.process().signal(Signal::SIGKILL);
    assert!(raw.wait(harness::patience(Duration::from_secs(5)), |r| r.finished || r.reset));
    reset(&raw);
    slots.all_free();
    field.stop();
}

/// A denial inside a held segment, in the first, in one between, in the last; and what comes behind it.
#[test]
fn slots_of_segments_behind_a_denial_are_free_again() {
    if harness::skip("slots_denied") {
        return;
    }
    let field = Field::new("slots");
    let slots = Slots::of(&field.cgroup);
    for evil in 0..6 {
        let mut encoder = Encoder::default();
        let mut parts = vec![[h2raw::open(&[]), frame::settings_ack()].concat()];
        for call in 0..6 {
            let text = if call == evil { "evilA" } else { "fine" };
            parts.push(h2raw::unary(&mut encoder, Style::PLAIN, 2 * call + 1, PATH, &query(text)));
        }
        let mut raw = field.client();
        raw.connect();
        let places: Vec<usize> = (0..parts.len()).map(|i| parts[..i].iter().map(Vec::len).sum()).collect();
        for i in 1..parts.len() {
            raw.at(places[i] as u32, &parts[i]);
        }
        slots.hold(6, 0);
        raw.at(0, &parts[0]);
        raw.wait(Duration::from_secs(5), |r| r.reset || r.finished);
        reset(&raw);
        slots.all_free();
    }
    let denied = field.enforcer().of_type("decision").iter().filter(|e| e["verdict"] == "deny").count();
    assert_eq!(denied, 6);
    field.unharmed();
}

/// The engine stops inside a held segment: what it holds cannot be read on.
#[test]
fn slots_of_segments_behind_a_cut_are_free_again() {
    if harness::skip("slots_cut") {
        return;
    }
    let field = Field::new("slots");
    let slots = Slots::of(&field.cgroup);
    let good = [h2raw::open(&[]), frame::settings_ack()].concat();
    // A frame on a wrong stream in the middle of what waits, and one whose head goes on in the next segment.
    let broken = [frame::frame(4, 0, 1, &[]), vec![0; 600]].concat();
    for size in [4, 100, 609] {
        let mut raw = field.client();
        raw.connect();
        let chunks: Vec<&[u8]> = broken.chunks(size).collect();
        for (i, part) in chunks.iter().enumerate() {
            raw.at((good.len() + i * size) as u32, part);
        }
        slots.hold(chunks.len(), 0);
        raw.at(0, &good);
        assert!(raw.wait(harness::patience(Duration::from_secs(5)), |r| r.reset));
        slots.all_free();
    }
    field.cause("frame_stream");
    field.unharmed();
}

/// The engine's budget for one segment ends among what waits: megabytes of the shortest frames, in segments as long as a
/// slot. A window that large takes a listener that asks for it, and a link of long packets.
#[test]
fn slots_of_segments_beyond_the_budget_are_free_again() {
    if harness::skip("slots_budget") {
        return;
    }
    const SEGMENTS: usize = 95;
    const FRAMES: usize = 7000;
    let options = json!({ "options": [[libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 128 << 20]] });
    let wall = Wall::new("budget", true, &options, &[]);
    for (end, device) in [(End::A, "pga0"), (End::B, "pgb0")] {
        let mut command = std::process::Command::new("ip");
        command.args(["link", "set", "dev", device, "mtu", "65535"]);
        wall.veth.enter(end, &mut command);
        assert!(command.status().unwrap().success());
    }
    let slots = Slots::of(&wall.cgroup);
    let good = [h2raw::open(&[]), frame::settings_ack()].concat();
    // Of a type that nobody knows: to be ignored (RFC 9113, section 4.1).
    let segment = frame::frame(0x20, 0, 0, &[]).repeat(FRAMES);
    let mut raw = wall.client();
    raw.scaling = true;
    raw.connect();
    // A connection's first window is 64 KiB before Linux 6.10, and grows with what comes in order.
    for bytes in std::iter::once(&good).chain(std::iter::repeat_n(&segment, SEGMENTS)) {
        raw.at(0, bytes);
        raw.seq = raw.seq.wrapping_add(bytes.len() as u32);
        assert!(raw.wait(harness::patience(Duration::from_secs(5)), |r| r.acked == r.seq), "not taken in order");
    }
    let first = frame::frame(0x20, 0, 0, &[]);
    for i in 0..SEGMENTS {
        raw.at((first.len() + i * segment.len()) as u32, &segment);
    }
    slots.hold(0, SEGMENTS);
    raw.at(0, &first);
    wall.said("budget");
    assert!(raw.wait(harness::patience(Duration::from_secs(5)), |r| r.reset));
    slots.all_free();
    wall.over();
}

/// The agent is gone, and its pinned programs go on: connections that end give their slots back without it.
#[test]
fn slots_come_back_without_an_agent() {
    if harness::skip("slots_no_agent") {
        return;
    }
    let field = Field::maybe("slots", true, POLICY, &["--pin"]);
    let slots = Slots::of(&field.cgroup);
    let bytes = conversation("heldA");
    let (mut one, mut two) = (field.client(), field.client());
    for raw in [&mut one, &mut two] {
        raw.connect();
        for at in (20..bytes.len()).step_by(10) {
            raw.at(at as u32, &bytes[at..(at + 10).min(bytes.len())]);
        }
    }
    let each = (20..bytes.len()).step_by(10).len();
    slots.hold(2 * each, 0);
    let (field, enforcer) = field.without_agent();
    assert!(enforcer.stop().success());
    slots.hold(2 * each, 0);
    // One is denied now, the other ends as it is.
    one.at(0, &bytes[..20]);
    slots.hold(each, 0);
    reset(&one);
    reset(&two);
    slots.all_free();
    let detached = std::process::Command::new(env!("CARGO_BIN_EXE_protocg"))
        .args(["detach", "--cgroup"])
        .arg(field.cgroup.path())
        .status()
        .unwrap();
    assert!(detached.success());
    assert_eq!(field.server.messages(), 1, "the neighbour's");
}

/// Both kinds run out: what finds no slot is dropped, counted, and comes again; then all are free.
#[test]
fn slots_that_run_out_cost_a_retransmission_and_nothing_else() {
    if harness::skip("slots_run_out") {
        return;
    }
    let field = Field::new("slots");
    let slots = Slots::of(&field.cgroup);
    let bytes = conversation(&"filling".repeat(200));
    let mut crowd = crate::shares::all_taken(&field, &bytes, 7);
    slots.hold(abi::PG_MAX_HELD_SMALL as usize, abi::PG_MAX_HELD_LARGE as usize);
    // In order nothing needs a slot.
    let mut raw = field.client();
    raw.connect();
    raw.send(&conversation("meanwhile"));
    field.seen("meanwhile");
    // The rest in order, with what was dropped.
    for raw in &mut crowd {
        raw.send(&bytes);
        raw.wait(SHORT, |r| r.acked == r.seq);
    }
    let served = || field.server.messages() == crowd.len() + 2;
    crate::field::eventually("all served", served);
    crowd.iter().chain([&raw]).for_each(reset);
    slots.all_free();
    field.unharmed();
}
