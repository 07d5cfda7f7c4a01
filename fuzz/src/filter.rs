//! The kernel's filter over plain memory (`engine/mend.c`), and TCP as a server has it behind the filter.

use std::collections::BTreeSet;

use protocg::policy::Tables;
use protocg::{abi, engine};
use protocg_oracle::Verdict;

use crate::check;

mod raw {
    use protocg::abi;
    unsafe extern "C" {
        pub fn pgf_open(tables: *const abi::pg_tables, seq: u32);
        pub fn pgf_segment(packet: *const u8, length: u32, received: u32) -> i32;
        pub fn pgf_events(to: *mut *const abi::pg_event) -> u32;
        pub fn pgf_holes(to: *mut *const abi::pg_hole_event) -> u32;
        pub fn pgf_slot(source: u32, slot: u32) -> *const u8;
        pub fn pgf_conn() -> *const abi::pg_conn;
        pub fn pgf_close() -> u32;
    }
}

/// A segment of the client's stream, by its place there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub at: usize,
    /// What it carries.
    pub bytes: Vec<u8>,
    /// The client's side ends behind it.
    pub fin: bool,
}

/// A denial, and whether the connection goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The event.
    pub verdict: Verdict,
    /// Its RPC alone is over.
    pub mends: bool,
}

/// The one connection of this thread's filter, and the server's TCP.
pub struct Receiver<'t> {
    first: u32,
    /// What has come, by place.
    come: Vec<Option<u8>>,
    /// Bytes received in order.
    pub received: usize,
    /// What the agent was told.
    pub told: Vec<Told>,
    /// Copies that the agent may send.
    pub copies: Vec<Segment>,
    /// Segments that passed ahead of a gap, to wait in TCP's queue.
    pub waited: Vec<Segment>,
    /// Where segments began and ended.
    pub edges: BTreeSet<usize>,
    tables: std::marker::PhantomData<&'t Tables>,
}

impl<'t> Receiver<'t> {
    /// A new connection. `length` is that of all that the client will send.
    pub fn new(tables: &'t Tables, first: u32, length: usize) -> Self {
        let raw = engine::raw(tables);
        // SAFETY: `raw` is copied; what it points to outlives `Self`.
        unsafe { raw::pgf_open(&raw const raw, first) };
        Self {
            first,
            come: vec![None; length],
            received: 0,
            told: Vec::new(),
            copies: Vec::new(),
            waited: Vec::new(),
            edges: BTreeSet::new(),
            tables: std::marker::PhantomData,
        }
    }

    fn conn(&self) -> &abi::pg_conn {
        // SAFETY: it lives as long as the filter, which changes it in `take` only.
        unsafe { &*raw::pgf_conn() }
    }

    /// Nothing more of the client will pass, but for holes from before.
    pub fn is_dead(&self) -> bool {
        self.conn().phase == abi::PG_P_DEAD
    }

    /// Holes that wait for their copies.
    pub fn holes(&self) -> u32 {
        self.conn().holes
    }

    /// What changes while anything goes on: what was received and judged, the holes, the copies.
    pub fn progress(&self) -> (usize, u32, u32, usize) {
        (self.received, self.conn().judged, self.holes(), self.copies.len())
    }

    /// Does this copy's hole wait for it?
    pub fn waits_for(&self, copy: &Segment) -> bool {
        let seq = self.first.wrapping_add(copy.at as u32);
        self.conn().hole.iter().take(self.holes() as usize).any(|hole| hole.seq == seq)
    }

    /// A segment comes, and TCP takes what passes.
    pub fn take(&mut self, segment: &Segment) {
        if self.filter(segment) {
            if segment.at > self.received {
                self.waited.push(segment.clone());
            }
            self.receive(segment);
        }
    }

    /// A segment comes. Returns whether it passes; TCP may refuse it even then.
    pub fn filter(&mut self, segment: &Segment) -> bool {
        self.edges.extend([segment.at, segment.at + segment.bytes.len()]);
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        let seq = self.first.wrapping_add(segment.at as u32);
        packet[24..28].copy_from_slice(&seq.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = if segment.fin { 0x11 } else { 0x10 };
        packet.extend(&segment.bytes);
        let received = self.first.wrapping_add(self.received as u32);
        // SAFETY: the packet lives for the call.
        let passed = unsafe { raw::pgf_segment(packet.as_ptr(), packet.len() as u32, received) } == 1;
        self.listen();
        passed
    }

    /// Linux (tcp_data_queue): what comes in order is taken whole, and what waits there is given up; what comes ahead of a gap does
    /// not replace what waits there.
    fn receive(&mut self, segment: &Segment) {
        let in_order = segment.at <= self.received;
        let from = segment.at.max(self.received);
        for (place, byte) in self.come.iter_mut().skip(from).zip(segment.bytes.iter().skip(from - segment.at)) {
            if in_order || place.is_none() {
                *place = Some(*byte);
            }
        }
        while self.come.get(self.received).is_some_and(Option::is_some) {
            self.received += 1;
        }
    }

    /// What the filter says to the agent.
    fn listen(&mut self) {
        let (mut events, mut holes) = (std::ptr::null(), std::ptr::null());
        // SAFETY: both arrays are valid until the next segment.
        let (events, holes) = unsafe {
            let (n, m) = (raw::pgf_events(&raw mut events) as usize, raw::pgf_holes(&raw mut holes) as usize);
            let events: &[abi::pg_event] = if n == 0 { &[] } else { std::slice::from_raw_parts(events, n) };
            let holes: &[abi::pg_hole_event] = if m == 0 { &[] } else { std::slice::from_raw_parts(holes, m) };
            (events, holes)
        };
        for event in events.iter().filter(|event| event.type_ != abi::PG_EV_UNDELIVERED) {
            self.told.push(Told { verdict: check::verdict(event), mends: event.mends == 1 });
        }
        for hole in holes {
            // SAFETY: a slot has room for what the hole says that is in it.
            let bytes = unsafe {
                std::slice::from_raw_parts(
                    raw::pgf_slot(hole.source, hole.slot).add(hole.base as usize),
                    hole.length as usize,
                )
            };
            let at = hole.seq.wrapping_sub(self.first) as usize;
            self.copies.push(Segment { at, bytes: bytes.to_vec(), fin: false });
        }
    }

    /// What the server's application reads.
    pub fn delivered(&self) -> Vec<u8> {
        self.come[..self.received].iter().map(|byte| byte.unwrap()).collect()
    }

    /// The kernel closes the connection: every slot and stream must be free again.
    pub fn close(self) {
        // SAFETY: the connection is open.
        assert_eq!(unsafe { raw::pgf_close() }, 0, "slots or streams are lost");
    }
}
