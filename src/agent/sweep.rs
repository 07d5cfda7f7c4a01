//! What lost events leave behind: dead connections that nobody ends, RPCs whose connection is gone.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::SHARE;
use super::core::Core;
use super::drain::Signal;
use super::sockets;
use crate::abi;

/// RPCs without connection are looked for this often.
const ORPHANS: Duration = Duration::from_secs(10);

/// Looks for what was left behind.
pub struct Sweeper {
    due: Instant,
    orphans_due: Instant,
    dead_segments: u64,
    lost: u64,
    suspects: HashSet<u64>,
    orphans: HashSet<Vec<u8>>,
    forced: bool,
}

impl Sweeper {
    /// A sweeper that looks once without a reason: an agent before may have died.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            due: now,
            orphans_due: now + ORPHANS,
            dead_segments: 0,
            lost: 0,
            suspects: HashSet::new(),
            orphans: HashSet::new(),
            forced: true,
        }
    }

    /// Sweeps, if there is a reason to. Says how many events the kernel has lost since the last time.
    pub fn tick(&mut self, core: &Rc<Core>) -> u64 {
        let lost = core.shared.count(abi::PG_N_EVENTS_LOST);
        let dead = core.shared.count(abi::PG_N_DEAD);
        let news = lost.saturating_sub(self.lost);
        let reason = self.forced || !self.suspects.is_empty() || lost != self.lost || dead != self.dead_segments;
        let now = Instant::now();
        self.lost = lost;
        if reason && now >= self.due {
            self.dead_segments = dead;
            self.forced = false;
            self.cut_dead(core);
            self.due = now + now.elapsed() * SHARE;
        }
        if now >= self.orphans_due {
            self.drop_orphans(core);
            self.orphans_due = now + ORPHANS;
        }
        news
    }

    /// A connection that is over, seen twice and attended to by no task, is cut: its event was lost.
    fn cut_dead(&mut self, core: &Rc<Core>) {
        let mut seen = HashSet::new();
        for cookie in core.shared.cookies() {
            if core.is_attended(cookie) {
                continue;
            }
            let Some(conn) = core.shared.conn(cookie).filter(|conn| is_over(conn)) else { continue };
            if self.suspects.contains(&cookie) {
                core.attend(&event_of(&conn), Signal::Cut);
            } else {
                seen.insert(cookie);
            }
        }
        self.suspects = seen;
    }

    fn drop_orphans(&mut self, core: &Core) {
        // RPCs first: a connection that begins after that has none among them.
        let streams = core.shared.stream_keys();
        if streams.is_empty() {
            self.orphans.clear();
            return;
        }
        let conns: HashSet<u64> =
            core.shared.cookies().into_iter().filter_map(|c| core.shared.conn(c).map(|conn| conn.id)).collect();
        let orphans: HashSet<Vec<u8>> =
            streams.into_iter().filter(|(_, conn)| !conns.contains(conn)).map(|(key, _)| key).collect();
        for key in orphans.intersection(&self.orphans) {
            core.shared.delete_stream(key);
        }
        self.orphans = orphans;
    }
}

impl Default for Sweeper {
    fn default() -> Self {
        Self::new()
    }
}

/// Cuts the connections on which an agent that was killed has left something unanswered: what it had heard nobody says again.
pub fn cut_owed(core: &Rc<Core>) {
    for cookie in core.shared.owed() {
        match core.shared.conn(cookie) {
            Some(conn) => {
                core.owe(cookie);
                core.attend(&event_of(&conn), Signal::Cut);
            }
            None => {
                // other programs knew it
                let _ = core.find_socket(cookie).map(|socket| sockets::abort(&socket));
                core.shared.settle(cookie);
            }
        }
    }
}

/// Cuts every dead connection now: once enforcement ends, what was denied would be let through. So are those on which something
/// is still to be answered.
pub fn cut_all(core: &Core) {
    for cookie in core.shared.cookies() {
        if let Some(conn) = core.shared.conn(cookie).filter(|conn| is_over(conn) || core.owes(cookie)) {
            core.destroy(&event_of(&conn), core.find_socket(cookie).as_ref());
        }
    }
}

/// Dead, or with a hole that only the agent fills.
fn is_over(conn: &abi::pg_conn) -> bool {
    conn.phase == abi::PG_P_DEAD || conn.holes > 0
}

/// What there is to say of a connection that is to be cut.
pub fn event_of(conn: &abi::pg_conn) -> abi::pg_event {
    abi::pg_event {
        cookie: conn.cookie,
        cgroup: conn.cgroup,
        conn: conn.id,
        type_: abi::PG_EV_CONNECTION,
        verdict: abi::PG_V_DENY,
        role: conn.role,
        family: conn.family,
        local_port: conn.local_port,
        remote_port: conn.remote_port,
        local: conn.local,
        remote: conn.remote,
        ..Default::default()
    }
}
