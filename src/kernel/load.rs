//! Compiled tables to loaded programs.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, RingBufferBuilder, libbpf_sys};
use plain::Plain;

use super::made::{Made, map_name};
use super::sys::Hook;
use super::{KernelError, io_error, log, probe};
use crate::abi;
use crate::policy::Tables;
use crate::skel::ProtocgSkelBuilder;

/// The maps that the agent and the programs share while they run.
#[derive(Debug)]
pub struct Shared {
    /// Connections by cookie.
    pub conns: MapHandle,
    /// Live RPCs without a berth.
    pub streams: MapHandle,
    /// Paths that no exact rule names.
    pub texts: MapHandle,
    /// Ring buffer to the agent.
    pub events: MapHandle,
    /// The agent's registered replies.
    pub replies: MapHandle,
    /// Cookies of the connections on which the agent has something to answer.
    pub owed: MapHandle,
    /// Slots for copies of segments, of either size.
    pub held_small: MapHandle,
    /// The larger ones.
    pub held_large: MapHandle,
    /// Counters by CPU.
    pub counters: MapHandle,
    /// Read-only data: the policy's numbers are in it.
    pub rodata: MapHandle,
}

impl Shared {
    /// Each map with the name that it is pinned under.
    pub fn named(&self) -> [(&'static str, &MapHandle); 10] {
        [
            ("conns", &self.conns),
            ("streams", &self.streams),
            ("texts", &self.texts),
            ("events", &self.events),
            ("replies", &self.replies),
            ("owed", &self.owed),
            ("held_small", &self.held_small),
            ("held_large", &self.held_large),
            ("counters", &self.counters),
            ("rodata", &self.rodata),
        ]
    }
}

/// Programs that the kernel has accepted, with their maps. They run nowhere yet.
#[derive(Debug)]
pub struct Loaded {
    programs: Vec<(Hook, OwnedFd)>,
    /// The maps.
    pub shared: Shared,
    /// The policy's tables, for other programs that run the engine.
    pub tables: Vec<(String, MapHandle)>,
}

impl Loaded {
    /// The program for `hook`.
    pub fn program(&self, hook: Hook) -> Option<&OwnedFd> {
        self.programs.iter().find(|(h, _)| *h == hook).map(|(_, fd)| fd)
    }

    /// The verifier's count of instructions for each program, where the kernel says it.
    pub fn verified(&self) -> Vec<(&'static str, u32)> {
        self.programs
            .iter()
            .filter_map(|(hook, fd)| Some((hook.program(), super::sys::verified_instructions(fd.as_fd()).ok()?)))
            .collect()
    }
}

/// What stands for a socket cookie there: `PG_REPLAY_COOKIE` of bpf/hooks/replay.h.
const REPLAY_COOKIE: u64 = 1;
/// The mark that says that bytes are the server's: `PG_REPLAY_SERVER`.
const REPLAY_SERVER: u32 = 2;

/// The engine in the kernel, over bytes that are no connection's.
#[derive(Debug)]
pub struct Replay {
    program: OwnedFd,
    buckets: Vec<MapHandle>,
    berths: MapHandle,
    /// The maps.
    pub shared: Shared,
}

impl Replay {
    /// Judges the next bytes of a client, in the kernel; `fresh`: the first of a new connection. Returns whether they
    /// may pass, and the mean run time of `repeat` runs in nanoseconds. At least 14 bytes, at most 3,000.
    pub fn judge(&self, bytes: &[u8], fresh: bool, repeat: u32) -> io::Result<(bool, u32)> {
        self.judge_from((Ipv6Addr::LOCALHOST, 0), bytes, fresh, repeat)
    }

    /// The same for a client elsewhere (IPv4 as `::ffff:a.b.c.d`).
    pub fn judge_from(&self, peer: (Ipv6Addr, u16), bytes: &[u8], fresh: bool, repeat: u32) -> io::Result<(bool, u32)> {
        self.judge_at(peer, 0, bytes, fresh, repeat)
    }

    /// The same at a time, in nanoseconds; 0 is now.
    pub fn judge_at(
        &self,
        peer: (Ipv6Addr, u16),
        time: u64,
        bytes: &[u8],
        fresh: bool,
        repeat: u32,
    ) -> io::Result<(bool, u32)> {
        let mut control = [0; 5];
        for (word, octets) in control.iter_mut().zip(peer.0.octets().chunks_exact(4)) {
            *word = u32::from_ne_bytes(octets.try_into().map_err(io::Error::other)?);
        }
        control[4] = u32::from(peer.1);
        super::sys::test_run(self.program.as_fd(), bytes, u32::from(fresh), control, time, repeat)
            .map(|(value, ns)| (value == 1, ns))
    }

    /// Judges the next bytes of the server: whether they may pass. At least 14 bytes, at most 3,000.
    pub fn judge_response(&self, bytes: &[u8]) -> io::Result<bool> {
        super::sys::test_run(self.program.as_fd(), bytes, REPLAY_SERVER, [0; 5], 0, 1).map(|(value, _)| value == 1)
    }

    /// Makes all token buckets full.
    pub fn refill(&self) -> io::Result<()> {
        self.buckets.iter().try_for_each(|map| {
            let full = vec![0; map.value_size() as usize];
            (0..map.max_entries())
                .try_for_each(|i| map.update(&i.to_ne_bytes(), &full, MapFlags::ANY))
                .map_err(|e| io_error(&e))
        })
    }

    /// The events since the last time that this was called.
    pub fn events(&self) -> io::Result<Vec<abi::pg_event>> {
        let events = RefCell::new(Vec::new());
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&self.shared.events, |bytes: &[u8]| {
                events.borrow_mut().extend(read::<abi::pg_event>(bytes));
                0
            })
            .map_err(|e| io_error(&e))?;
        builder.build().and_then(|ring| ring.consume()).map_err(|e| io_error(&e))?;
        Ok(events.take())
    }

    /// A live stream of the connection.
    pub fn stream(&self, id: u32) -> Option<Box<abi::pg_stream>> {
        let conn = self.shared.conn(REPLAY_COOKIE)?;
        let in_berth = |seat: u16| {
            let berth = u32::from(seat).checked_sub(1)?;
            let value = self.berths.lookup(&berth.to_ne_bytes(), MapFlags::ANY).ok()??;
            read::<abi::pg_stream>(&value).filter(|stream| stream.id == id && id != 0).map(Box::new)
        };
        conn.seat.into_iter().find_map(in_berth).or_else(|| self.shared.stream(conn.id, id))
    }

    /// The verifier's count of instructions.
    pub fn verified(&self) -> io::Result<u32> {
        super::sys::verified_instructions(self.program.as_fd())
    }
}

/// Loads the programs that enforce, under these tables.
pub fn load(tables: &Tables) -> Result<Loaded, KernelError> {
    let (programs, shared, maps) = load_programs(tables, false)?;
    Ok(Loaded { programs, shared, tables: maps.tables })
}

/// Loads the program for BPF_PROG_TEST_RUN, under these tables.
pub fn replay(tables: &Tables) -> Result<Replay, KernelError> {
    let (programs, shared, maps) = load_programs(tables, true)?;
    match programs.into_iter().next() {
        Some((_, program)) => Ok(Replay { program, buckets: maps.buckets, berths: maps.berths, shared }),
        None => Err(KernelError::failed("keep a program", io::Error::other("there is none"))),
    }
}

type Programs = Vec<(Hook, OwnedFd)>;

/// Maps that others than the programs need.
struct Maps {
    /// The policy's tables, and what the planes share, by name.
    tables: Vec<(String, MapHandle)>,
    /// Nothing without limits.
    buckets: Vec<MapHandle>,
    berths: MapHandle,
}

/// Each table's map, and its rows.
macro_rules! each_table {
    ($do:ident) => {
        $do!(
            t_trie: trie, t_method: methods, t_rule: rules, t_test: tests, t_op: ops, t_node: nodes, t_field: fields,
            t_bound: bounds, t_automaton: automata, t_trans: trans, t_classes: classes, t_out: outs, t_key: keys,
            t_peer: peers, t_rate: rates
        )
    };
}

/// Loads the programs. What the kernel's verifier takes longest for, `pg_ingress`, is loaded while a thread does the rest.
fn load_programs(tables: &Tables, replay: bool) -> Result<(Programs, Shared, Maps), KernelError> {
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(KernelError::NoBtf);
    }
    log::capture();
    let mut object = MaybeUninit::uninit();
    let fail = |what: &str, e: &libbpf_rs::Error| KernelError::failed(what, io_error(e));
    let mut open = ProtocgSkelBuilder::default().open(&mut object).map_err(|e| fail("open the programs", &e))?;

    macro_rules! size_all {
        ($($map:ident: $rows:ident),*) => { $(size(&mut open.maps.$map, &tables.$rows)?;)* };
    }
    each_table!(size_all);
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        let into = bytes_of_mut(&mut rodata.config);
        let from = bytes_of(std::slice::from_ref(&tables.config));
        if into.len() != from.len() {
            return Err(KernelError::failed("set the policy's numbers", io::Error::other("its size differs")));
        }
        into.copy_from_slice(from);
    }

    let sets = if tables.rates.is_empty() { 1 } else { abi::PG_BUCKET_SETS };
    let own = u32::try_from(tables.rates.len()).unwrap_or(u32::MAX).max(1);
    for (map, count) in [(&mut open.maps.buckets, sets), (&mut open.maps.own_buckets, own)] {
        map.set_max_entries(count).map_err(|e| fail("size the buckets", &e))?;
    }

    for program in [&mut open.progs.pg_sockops, &mut open.progs.pg_egress] {
        program.set_autoload(false);
    }
    open.progs.pg_ingress.set_autoload(!replay);
    open.progs.pg_replay.set_autoload(replay);
    let made = Made::prepare(open.open_object()).map_err(|e| refused(&e))?;
    let (skel, beside) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            fill_all(&made, tables)?;
            if replay { Ok(Vec::new()) } else { load_others(&made) }
        });
        (open.load(), beside.join())
    });
    let skel = skel.map_err(|e| refused(&e))?;
    let ended = |_| KernelError::failed("load the programs", io::Error::other("a thread has panicked"));
    let mut programs = beside.map_err(ended)??;

    let handle = |map: &libbpf_rs::MapMut<'_>| MapHandle::try_from(map).map_err(|e| fail("keep a map", &e));
    let shared = Shared {
        conns: handle(&skel.maps.conns)?,
        streams: handle(&skel.maps.streams)?,
        texts: handle(&skel.maps.texts)?,
        events: handle(&skel.maps.events)?,
        replies: handle(&skel.maps.replies)?,
        owed: owed().map_err(|e| KernelError::failed("make the map `owed`", e))?,
        held_small: handle(&skel.maps.held_small)?,
        held_large: handle(&skel.maps.held_large)?,
        counters: handle(&skel.maps.counters)?,
        rodata: handle(&skel.maps.rodata)?,
    };
    programs.push((Hook::Ingress, keep(if replay { &skel.progs.pg_replay } else { &skel.progs.pg_ingress })?));
    let buckets = if tables.rates.is_empty() {
        Vec::new()
    } else {
        vec![handle(&skel.maps.buckets)?, handle(&skel.maps.own_buckets)?]
    };
    let mut named = Vec::new();
    for map in skel.object().maps() {
        let name = map_name(map.name());
        if name.starts_with("t_") || name == "seed" || name == "tls_hellos" {
            named.push((name, MapHandle::try_from(&map).map_err(|e| fail("keep a map", &e))?));
        }
    }
    let berths = handle(&skel.maps.berths)?;
    log::take();
    Ok((programs, shared, Maps { tables: named, buckets, berths }))
}

/// Fills the maps that do not begin empty.
fn fill_all(made: &Made, tables: &Tables) -> Result<(), KernelError> {
    macro_rules! fill_all {
        ($($map:ident: $rows:ident),*) => { $(made.fill(stringify!($map), &tables.$rows)?;)* };
    }
    each_table!(fill_all);
    // all slots are free at first
    for (queue, first, slots) in [
        ("free_small", 0, abi::PG_MAX_HELD_SMALL),
        ("mend_small", abi::PG_MAX_HELD_SMALL, abi::PG_MAX_MEND_SMALL),
        ("free_large", 0, abi::PG_MAX_HELD_LARGE),
        ("mend_large", abi::PG_MAX_HELD_LARGE, abi::PG_MAX_MEND_LARGE),
    ] {
        (first..first + slots).try_for_each(|slot| made.set(queue, None, &slot.to_ne_bytes()))?;
    }
    made.set("seed", Some(0), bytes_of(std::slice::from_ref(&seed())))
}

/// Loads the programs that are small beside `pg_ingress`, over maps that are there.
fn load_others(made: &Made) -> Result<Programs, KernelError> {
    let mut object = MaybeUninit::uninit();
    let mut open = ProtocgSkelBuilder::default()
        .open(&mut object)
        .map_err(|e| KernelError::failed("open the programs", io_error(&e)))?;
    made.share(open.open_object_mut())?;
    open.progs.pg_ingress.set_autoload(false);
    let skel = open.load().map_err(|e| refused(&e))?;
    Ok(vec![(Hook::SockOps, keep(&skel.progs.pg_sockops)?), (Hook::Egress, keep(&skel.progs.pg_egress)?)])
}

fn keep(program: &libbpf_rs::ProgramMut<'_>) -> Result<OwnedFd, KernelError> {
    program.as_fd().try_clone_to_owned().map_err(|e| KernelError::failed("keep a program", e))
}

/// Why the programs do not load, in words where the kernel lacks something that can be named.
fn refused(error: &libbpf_rs::Error) -> KernelError {
    let said = log::take();
    let missing = probe::missing();
    if !missing.is_empty() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        return KernelError::Lacks { release: release.trim().to_owned(), missing };
    }
    match log::refusal(&said) {
        Some((program, reason)) => KernelError::Refused { program, reason },
        None => KernelError::failed("load the programs", io_error(error)),
    }
}

fn size<T>(map: &mut libbpf_rs::OpenMapMut<'_>, rows: &[T]) -> Result<(), KernelError> {
    let name = map_name(map.name());
    let what = || format!("size the table `{name}`");
    let count = u32::try_from(rows.len()).map_err(|e| KernelError::failed(what(), io::Error::other(e)))?;
    if map.value_size() as usize != size_of::<T>() {
        return Err(KernelError::failed(what(), io::Error::other("rows have another size than the programs expect")));
    }
    map.set_map_flags(map.map_flags() | libbpf_sys::BPF_F_MMAPABLE)
        .and_then(|()| map.set_max_entries(count.max(1)))
        .map_err(|e| KernelError::failed(what(), io_error(&e)))
}

/// For each prefix of the mark, the length of its longest proper border (Knuth, Morris, Pratt).
fn borders(mark: &[u8]) -> [u8; abi::PG_REPLY_MARK as usize] {
    let mut out = [0u8; abi::PG_REPLY_MARK as usize];
    let mut length = 0u8;
    for (i, byte) in mark.iter().enumerate().skip(1) {
        while length > 0 && mark.get(usize::from(length)) != Some(byte) {
            length = out.get(usize::from(length) - 1).copied().unwrap_or(0);
        }
        if mark.get(usize::from(length)) == Some(byte) {
            length += 1;
        }
        if let Some(border) = out.get_mut(i) {
            *border = length;
        }
    }
    out
}

/// Numbers that nobody outside knows.
fn seed() -> abi::pg_seed {
    const LEAST: u64 = 256;
    const MOST: u64 = (1 << 31) - 2;
    // each state is a key of its own that the standard library draws at random
    let random = || RandomState::new().build_hasher().finish();
    let value = || u32::try_from(LEAST + random() % (MOST - LEAST)).unwrap_or(u32::MAX >> 1);
    abi::pg_seed { mix: [random() | 1, random() | 1, random() | 1], value: [value(), value()] }
}

/// The ABI's rows as the bytes that the kernel reads.
pub(super) fn bytes_of<T>(rows: &[T]) -> &[u8] {
    // SAFETY: the ABI's structures are C structures of integers without padding (their sizes are asserted in
    // bpf/abi), so each of their bytes is initialised.
    unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), size_of_val(rows)) }
}

pub(super) fn bytes_of_mut<T>(row: &mut T) -> &mut [u8] {
    // SAFETY: as above; and any bytes make a valid value of a structure of integers.
    unsafe { std::slice::from_raw_parts_mut((&raw mut *row).cast(), size_of::<T>()) }
}

// SAFETY: C structures of integers: any bytes are a valid value.
unsafe impl Plain for abi::pg_event {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_guard_event {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_guard_agent {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_tls_event {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_tls_hold {}
// SAFETY: integers only, and no padding.
unsafe impl Plain for abi::pg_tls_key {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_tls_new {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_hello_ends {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_tls_caller {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_hole_event {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_withheld_event {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_conn {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_reply {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_stream {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_stream_key {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_text_key {}
// SAFETY: as above.
unsafe impl Plain for abi::pg_text {}

impl Shared {
    /// The connection behind a socket cookie.
    pub fn conn(&self, cookie: u64) -> Option<Box<abi::pg_conn>> {
        let value = self.conns.lookup(&cookie.to_ne_bytes(), MapFlags::ANY).ok()??;
        Some(Box::new(read(&value)?))
    }

    /// A live RPC of the connection with this id, if its state is in the table.
    fn stream(&self, conn: u64, stream: u32) -> Option<Box<abi::pg_stream>> {
        let key = abi::pg_stream_key { conn, stream, reserved: 0 };
        let value = self.streams.lookup(bytes_of(std::slice::from_ref(&key)), MapFlags::ANY).ok()??;
        Some(Box::new(read(&value)?))
    }

    /// Cookies of all connections.
    pub fn cookies(&self) -> Vec<u64> {
        cookies(&self.conns)
    }

    /// Keys of all live RPCs, with the connection's id.
    pub fn stream_keys(&self) -> Vec<(Vec<u8>, u64)> {
        let conn = |key: &[u8]| read::<abi::pg_stream_key>(key).map(|k| k.conn);
        self.streams.keys().filter_map(|key| conn(&key).map(|conn| (key, conn))).collect()
    }

    /// Forgets an RPC.
    pub fn delete_stream(&self, key: &[u8]) {
        let _ = self.streams.delete(key);
    }

    /// The text of a path that no exact rule names.
    pub fn text(&self, conn: u64, text: u32) -> Option<String> {
        let key = abi::pg_text_key { conn, text, reserved: 0 };
        let value = self.texts.lookup(bytes_of(std::slice::from_ref(&key)), MapFlags::ANY).ok()??;
        let text: abi::pg_text = read(&value)?;
        let bytes = text.bytes.get(..text.length as usize)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Lets these bytes, and no others, pass once to the client of this connection.
    pub fn register(&self, cookie: u64, bytes: &[u8]) -> io::Result<()> {
        let mark = bytes.get(..abi::PG_REPLY_MARK as usize).unwrap_or(bytes);
        let mut reply = abi::pg_reply {
            length: u32::try_from(bytes.len()).map_err(io::Error::other)?,
            mark: u32::try_from(mark.len()).map_err(io::Error::other)?,
            matched: 0,
            between: 0,
            done: 0,
            reserved: 0,
            failure: borders(mark),
            bytes: [0; abi::PG_REPLY_BYTES as usize],
        };
        reply.bytes.get_mut(..bytes.len()).ok_or_else(|| io::Error::other("reply too long"))?.copy_from_slice(bytes);
        self.replies
            .update(&cookie.to_ne_bytes(), bytes_of(std::slice::from_ref(&reply)), MapFlags::ANY)
            .map_err(|e| io_error(&e))
    }

    /// The payload that is to fill a hole.
    pub fn copy(&self, hole: &abi::pg_hole_event) -> Option<Vec<u8>> {
        let map = if hole.source == abi::PG_SRC_HELD_SMALL { &self.held_small } else { &self.held_large };
        let value = map.lookup(&hole.slot.to_ne_bytes(), MapFlags::ANY).ok()??;
        let base = hole.base as usize;
        value.get(base..base + hole.length as usize).map(<[u8]>::to_vec)
    }

    /// What the egress hook has made of the registered reply: an event type, once it is known.
    pub fn answered(&self, cookie: u64) -> Option<u32> {
        let value = self.replies.lookup(&cookie.to_ne_bytes(), MapFlags::ANY).ok()??;
        let reply: abi::pg_reply = read(&value)?;
        (reply.done != 0).then_some(reply.done)
    }

    /// Takes a registered reply back.
    pub fn unregister(&self, cookie: u64) {
        let _ = self.replies.delete(&cookie.to_ne_bytes());
    }

    /// Notes that a denial on this connection is to be answered; whoever has the maps next sees it.
    pub fn owe(&self, cookie: u64) {
        if let Err(e) = self.owed.update(&cookie.to_ne_bytes(), &1_u32.to_ne_bytes(), MapFlags::ANY) {
            tracing::warn!("cannot note what is to be answered: {e}; if this agent is killed its caller may wait");
        }
    }

    /// Forgets that.
    pub fn settle(&self, cookie: u64) {
        let _ = self.owed.delete(&cookie.to_ne_bytes());
    }

    /// Cookies of all connections that are noted.
    pub fn owed(&self) -> Vec<u64> {
        cookies(&self.owed)
    }

    /// A counter, summed over the CPUs.
    pub fn count(&self, counter: u32) -> u64 {
        let values = self.counters.lookup_percpu(&counter.to_ne_bytes(), MapFlags::ANY).ok().flatten();
        let number = |v: Vec<u8>| v.try_into().map(u64::from_ne_bytes).unwrap_or(0);
        values.unwrap_or_default().into_iter().map(number).sum()
    }

    /// The programs' read-only data.
    pub fn read_only(&self) -> Option<Vec<u8>> {
        self.rodata.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).ok()?
    }
}

/// A map of the agent's alone: by socket cookie, connections on which it has heard of a denial and not answered it yet. It is for the
/// agent that comes next, if this one is killed.
pub fn owed() -> io::Result<MapHandle> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
        ..Default::default()
    };
    let (key, value) = (size_of::<u64>() as u32, size_of::<u32>() as u32);
    MapHandle::create(MapType::Hash, Some("owed"), key, value, abi::PG_MAX_CONNECTIONS, &options)
        .map_err(|e| io_error(&e))
}

/// The keys of a map by socket cookie.
fn cookies(map: &MapHandle) -> Vec<u64> {
    map.keys().filter_map(|key| Some(u64::from_ne_bytes(key.try_into().ok()?))).collect()
}

/// The bytes of a policy's numbers, to be compared with those of pinned programs.
pub fn config_bytes(tables: &Tables) -> &[u8] {
    bytes_of(std::slice::from_ref(&tables.config))
}

/// Reads one of the ABI's structures from the bytes that the kernel gave.
pub fn read<T: Plain + Copy>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, and any bytes are a valid value of a `Plain` type.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_of_a_mark() {
        assert_eq!(borders(b"aabaaab")[..7], [0, 1, 0, 1, 2, 2, 3]);
        assert_eq!(borders(&[0, 0, 60, 1, 5, 0, 0, 0, 5])[..9], [0, 1, 0, 0, 0, 1, 2, 2, 0]);
    }
}
