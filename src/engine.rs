//! The engine on the host: the very parser and matcher that the kernel runs, over plain memory.
//!
//! It judges one connection, fed in chunks of any size. Tests and fuzzers drive it at native speed, and every plane
//! shares it.

use std::ptr::NonNull;

use crate::abi;
use crate::policy::Tables;

/// What becomes of a connection after some bytes of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of them may pass.
    Pass,
    /// An RPC or a message is denied: the chunk is dropped, and nothing more of the client passes.
    Denied,
    /// The connection is denied as a whole.
    Cut,
    /// A switch of the policy lets the rest of the connection pass unread.
    Blind,
}

impl Outcome {
    /// From the engine's number: `PG_GO` and so on.
    #[must_use]
    pub fn of(outcome: i32) -> Outcome {
        match u32::try_from(outcome) {
            Ok(abi::PG_GO) => Outcome::Pass,
            Ok(abi::PG_DENIED) => Outcome::Denied,
            Ok(abi::PG_BLIND) => Outcome::Blind,
            _ => Outcome::Cut,
        }
    }
}

/// One connection under a policy.
pub struct Connection<'t> {
    host: NonNull<abi::pg_host>,
    tables: std::marker::PhantomData<&'t Tables>,
}

fn count<T>(table: &[T]) -> u32 {
    u32::try_from(table.len()).unwrap_or(u32::MAX)
}

/// The tables as the engine takes them. They point into `tables`.
#[must_use]
pub fn raw(tables: &Tables) -> abi::pg_tables {
    abi::pg_tables {
        config: &raw const tables.config,
        trie: tables.trie.as_ptr(),
        method: tables.methods.as_ptr(),
        rule: tables.rules.as_ptr(),
        test: tables.tests.as_ptr(),
        op: tables.ops.as_ptr(),
        node: tables.nodes.as_ptr(),
        field: tables.fields.as_ptr(),
        bound: tables.bounds.as_ptr(),
        automaton: tables.automata.as_ptr(),
        trans: tables.trans.as_ptr(),
        classes: tables.classes.as_ptr(),
        out: tables.outs.as_ptr(),
        key: tables.keys.as_ptr(),
        peer: tables.peers.as_ptr(),
        rate: tables.rates.as_ptr(),
        trie_count: count(&tables.trie),
        method_count: count(&tables.methods),
        rule_count: count(&tables.rules),
        test_count: count(&tables.tests),
        op_count: count(&tables.ops),
        node_count: count(&tables.nodes),
        field_count: count(&tables.fields),
        bound_count: count(&tables.bounds),
        automaton_count: count(&tables.automata),
        trans_count: count(&tables.trans),
        classes_count: count(&tables.classes),
        out_count: count(&tables.outs),
        key_count: count(&tables.keys),
        peer_count: count(&tables.peers),
        rate_count: count(&tables.rates),
    }
}

impl<'t> Connection<'t> {
    /// A new connection from `remote` (IPv4 as `::ffff:a.b.c.d`), port `port`.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn new(tables: &'t Tables, remote: std::net::Ipv6Addr, port: u16) -> Self {
        let t = raw(tables);
        // SAFETY: `t` is copied; the arrays that it points to live as long as `tables`, which outlives `Self`.
        let host = unsafe { abi::pg_host_new(&raw const t, remote.octets().as_ptr(), port) };
        let Some(host) = NonNull::new(host) else {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<abi::pg_conn>())
        };
        Self { host, tables: std::marker::PhantomData }
    }

    /// Takes tokens from these buckets, which other connections may share.
    pub fn share(&mut self, buckets: &'t Buckets) {
        // SAFETY: both are valid, and the buckets outlive the connection.
        unsafe { abi::pg_host_share(self.host.as_ptr(), buckets.0.as_ptr()) }
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_time(&mut self, now: u64) {
        // SAFETY: `host` is valid until drop.
        unsafe { abi::pg_host_time(self.host.as_ptr(), now) }
    }

    /// How often something happened: `PG_N_*`.
    #[must_use]
    pub fn counter(&self, counter: u32) -> u64 {
        // SAFETY: as above.
        unsafe { abi::pg_host_counter(self.host.as_ptr(), counter) }
    }

    /// Judges the next bytes of the client's side. After anything but [`Outcome::Pass`] the same comes again.
    pub fn request(&mut self, bytes: &[u8]) -> Outcome {
        // SAFETY: `host` is valid until drop, and `bytes` for the call.
        Outcome::of(unsafe { abi::pg_host_request(self.host.as_ptr(), bytes.as_ptr(), count(bytes)) })
    }

    /// Follows the next bytes of the server's side, and judges its messages where rules read responses. [`Outcome::Cut`]: they
    /// are not HTTP/2, or cannot be decided.
    pub fn response(&mut self, bytes: &[u8]) -> Outcome {
        // SAFETY: as above.
        Outcome::of(unsafe { abi::pg_host_response(self.host.as_ptr(), bytes.as_ptr(), count(bytes)) })
    }

    /// The events of the last [`Self::request`] or [`Self::response`].
    #[must_use]
    pub fn events(&self) -> Vec<abi::pg_event> {
        let mut events = std::ptr::null();
        // SAFETY: the array is valid until the next call into the connection, and copied here.
        unsafe {
            let n = abi::pg_host_events(self.host.as_ptr(), &raw mut events);
            if n == 0 { Vec::new() } else { std::slice::from_raw_parts(events, n as usize).to_vec() }
        }
    }

    /// The connection's state, as the kernel would keep it.
    #[must_use]
    pub fn state(&self) -> &abi::pg_conn {
        // SAFETY: it is part of `host`, and nothing changes it while `self` is borrowed.
        unsafe { &*abi::pg_host_conn(self.host.as_ptr()) }
    }

    /// A live stream, as the kernel would keep it.
    #[must_use]
    pub fn stream(&self, id: u32) -> Option<&abi::pg_stream> {
        // SAFETY: null, or a part of `host` that nothing changes while `self` is borrowed.
        unsafe { abi::pg_host_stream(self.host.as_ptr(), id).as_ref() }
    }

    /// The matcher alone: the first of these tests that completes a clause that holds of `bits`.
    pub fn matches(&mut self, bits: &abi::pg_bits, tests: std::ops::Range<u32>) -> Option<u32> {
        // SAFETY: `host` is valid until drop, `bits` for the call, and tests outside the table end the search.
        let hit = unsafe { abi::pg_host_match(self.host.as_ptr(), bits, tests.start, tests.end) };
        u32::try_from(hit).ok()
    }

    /// Streams that are live.
    #[must_use]
    pub fn streams(&self) -> u32 {
        // SAFETY: `host` is valid until drop.
        unsafe { abi::pg_host_streams(self.host.as_ptr()) }
    }
}

/// The token buckets of a policy.
#[derive(Debug)]
pub struct Buckets(NonNull<abi::pg_host_buckets>);

impl Buckets {
    /// Buckets that are full.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn new(tables: &Tables) -> Self {
        let t = raw(tables);
        // SAFETY: only the number of limits is read.
        let buckets = unsafe { abi::pg_host_buckets_new(&raw const t) };
        let Some(buckets) = NonNull::new(buckets) else {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<abi::pg_bucket_set>())
        };
        Self(buckets)
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        // SAFETY: made by `pg_host_buckets_new` and freed once.
        unsafe { abi::pg_host_buckets_free(self.0.as_ptr()) }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `pg_host_new` and freed once.
        unsafe { abi::pg_host_free(self.host.as_ptr()) }
    }
}
