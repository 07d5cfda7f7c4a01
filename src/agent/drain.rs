//! One task a connection on which something was denied. It answers the callers; where the kernel says that the
//! connection can go on it mends it, and else it lets delivered RPCs finish and takes the connection apart.
//!
//! The kernel reads on after a denial, so the client's other RPCs under way are answered too, each with its own
//! status. Tasks overlap. Every wait is bounded, and every way out leaves a connection that is whole or gone.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

use super::core::Core;
use super::mend::Acknowledged;
use super::reply::{self, Denial};
use super::silenced::{self, Silenced};
use super::sockets;
use crate::abi;

/// How long the server may take to accept a connection whose first request is denied.
const ACCEPT: Duration = Duration::from_secs(1);
/// How long the last bytes may take to reach the client before the connection is reset.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the caller may take to read the end of file: a reset at once would fail what it is still reading.
const LINGER: Duration = Duration::from_millis(100);
/// How often a state that no event announces is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A server sends at least an empty SETTINGS frame before it answers: 9 bytes (RFC 9113, section 3.4).
const SETTINGS_FRAME: u64 = 9;
/// The client hears of the end after a round trip, and what it sent until then comes within another: so long nothing
/// must have come before the connection is taken apart.
const QUIET_LEAST: Duration = Duration::from_millis(25);
const QUIET_MOST: Duration = Duration::from_millis(200);
/// An answer leaves before its hole is filled, so that the server cannot answer first; but all that the client sends
/// waits for the hole, so not for longer than this.
const FIRST: Duration = Duration::from_millis(20);
/// The same where the server gets a call of a method that does not exist, and is sure to answer.
const FIRST_OF_TWO: Duration = Duration::from_secs(2);
/// HTTP/2 servers end connections with many RST_STREAM for requests that they have not looked at yet (CVE-2023-44487;
/// h2, of tonic and hyper, at 20): no more than this many are sent before the server has read them.
const RESETS: u32 = abi::PG_MAX_RESETS;
/// A server that reads nothing for so long gets the next ones all the same. Whatever follows waits behind the hole, so it
/// loses nothing by a long wait.
const READ: Duration = Duration::from_secs(30);
/// A server that has read them may not have looked at the requests yet; it has after as long as the reading took, and
/// this at least.
const LOOKED: Duration = Duration::from_millis(1);
/// How long an answer on a connection that goes on may take: from when it is sent; or, if the server has something left to
/// send, from when its client was last seen to read, for a long response may be read slowly. Nothing else waits for that.
const ANSWER: Duration = Duration::from_secs(5);
/// How many bytes of answers may wait like that: a client that reads too slowly for the denials that it causes loses its connection.
const OWED: usize = 64 << 10;
/// How long a server may take no copy. The next hole waits for it, and the filter cuts a connection that is held up for ten
/// seconds (`PG_STUCK_HOLE_NS`).
const FILL: Duration = Duration::from_secs(9);
/// Between a copy and the next one.
const PAUSES: [u64; 7] = [0, 0, 0, 1, 5, 25, 100];
const PAUSE: u64 = 400;
/// How many copies acknowledge what their client has: one that has acknowledged what was never sent gets the others.
const TRUSTS: usize = 4;
/// A hole that is not told of within this time never will be.
const LOST: Duration = Duration::from_secs(5);
/// How often a server is looked at that is to have nothing left to send.
const MOMENT: Duration = Duration::from_millis(20);
/// How long the task of a connection that goes on stays for the next denial.
const STAY: Duration = Duration::from_millis(50);

/// What the kernel says of a dropped segment.
type Hole = Box<abi::pg_hole_event>;

/// What the kernel says of a connection.
#[derive(Debug, Clone)]
pub enum Signal {
    /// An RPC is denied.
    Denied {
        /// What the caller is told.
        denial: Denial,
        /// Whether only this RPC ends.
        goes_on: bool,
    },
    /// A segment was dropped, and its copy is ready.
    Hole(Hole),
    /// A response is denied: the server says nothing more.
    Silenced(Silenced),
    /// The connection is denied as a whole, and nobody on it can be answered.
    Cut,
    /// A whole request came that the server never gets.
    Undelivered(Denial),
    /// A reply has left.
    Injected,
    /// A reply stood inside a frame and was held back.
    InjectFailed,
    /// No delivered RPC is left to answer.
    Drained,
}

/// How the conversation on a living connection ended.
enum Outcome {
    /// Nothing more is heard: it goes on by itself.
    Quiet,
    /// An RPC is denied whose frames cannot be taken out. Frames that have not been sent yet come along.
    Ends(Denial, Vec<Vec<u8>>),
    /// It can only be cut.
    Broken,
}

/// Answers wait for the server to have nothing left to send.
struct Owed {
    /// Bytes of the server's that its client has acknowledged.
    acked: u64,
    /// Since when it has acknowledged no more.
    since: Instant,
}

impl Default for Owed {
    fn default() -> Self {
        Self { acked: 0, since: Instant::now() }
    }
}

/// Attends to a connection until it is quiet again, or gone.
pub async fn attend(core: Rc<Core>, event: abi::pg_event, signals: UnboundedReceiver<Signal>) {
    let cookie = event.cookie;
    let mut signals = signals;
    let first = signals.recv().await;
    let answerable = !matches!(first, None | Some(Signal::Cut));
    let socket = if answerable { find(&core, cookie).await } else { None };
    let Some(socket) = socket else {
        cut(&core, &event).await;
        return leave(&core, cookie);
    };
    let mut talk = Talk {
        core: &core,
        cookie,
        socket: &socket,
        signals,
        inbox: VecDeque::from_iter(first),
        resets: 0,
        reset_at: Instant::now(),
        read_at: None,
    };
    loop {
        let (denial, frames) = match talk.live().await {
            // One thread: nothing comes between the look and the leaving.
            Outcome::Quiet if talk.is_silent() => return leave(&core, cookie),
            Outcome::Quiet => continue,
            Outcome::Ends(denial, frames) => (denial, frames),
            Outcome::Broken => break,
        };
        if talk.hold(&denial, frames).await {
            farewell(&socket).await;
        }
        break;
    }
    if let Some(silenced) = talk.silenced().await {
        silenced::say(&core, &socket, &silenced).await;
    }
    core.destroy(&event, Some(&socket));
    leave(&core, cookie);
}

fn leave(core: &Core, cookie: u64) {
    core.shared.unregister(cookie);
    core.forget(cookie);
}

/// Takes a connection apart. A process that has just begun may not be known yet, nor its network namespace.
async fn cut(core: &Core, event: &abi::pg_event) {
    if !core.destroy(event, core.find_socket(event.cookie).as_ref()) {
        let socket = find(core, event.cookie).await;
        core.destroy(event, socket.as_ref());
    }
}

/// The server's end of the connection, as soon as it has accepted it.
async fn find(core: &Core, cookie: u64) -> Option<OwnedFd> {
    let bound = Instant::now() + ACCEPT;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(socket) = core.find_socket(cookie) {
            return Some(socket);
        }
        if Instant::now() >= bound || core.shared.conn(cookie).is_none() {
            return None;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK);
    }
}

/// The answers on one connection.
struct Talk<'a> {
    core: &'a Core,
    cookie: u64,
    socket: &'a OwnedFd,
    signals: UnboundedReceiver<Signal>,
    /// Signals that came while a reply was on its way.
    inbox: VecDeque<Signal>,
    /// RST_STREAM frames that the server may not have read.
    resets: u32,
    /// When the last of them was sent.
    reset_at: Instant,
    /// When the server was first seen to have read them all.
    read_at: Option<Instant>,
}

impl Talk<'_> {
    /// Answers denials that end their RPC only, and fills their holes.
    async fn live(&mut self) -> Outcome {
        let mut due = Vec::new();
        let mut owed: Option<Owed> = None;
        let mut heard = Instant::now();
        loop {
            if let Some(owing) = &mut owed {
                match self.say_owed(&mut due).await {
                    Some(true) => owed = None,
                    Some(false) if self.client_reads(owing) && bytes(&due) <= OWED => {}
                    _ => return Outcome::Broken,
                }
            }
            if due.is_empty() && self.is_silent() {
                self.core.settle(self.cookie);
            }
            let signal = match self.inbox.pop_front() {
                Some(signal) => signal,
                None => match timeout(self.stay(owed.is_some()), self.signals.recv()).await {
                    Ok(Some(signal)) => signal,
                    Ok(None) => return Outcome::Broken,
                    Err(_) => {
                        let holes = self.core.shared.conn(self.cookie).map(|conn| conn.holes);
                        match holes {
                            None => return Outcome::Quiet,
                            // What the server has not looked at yet counts for the next denial.
                            Some(0) if owed.is_some() || !self.has_looked() => {}
                            Some(0) if heard.elapsed() >= STAY => return Outcome::Quiet,
                            // The event may be lost; on a busy machine it is only late.
                            Some(holes) if holes > 0 && heard.elapsed() >= LOST => return Outcome::Broken,
                            _ => {}
                        }
                        continue;
                    }
                },
            };
            heard = Instant::now();
            match signal {
                Signal::Denied { denial, goes_on: true } => due.extend(denial.answer()),
                Signal::Denied { denial, goes_on: false } => return Outcome::Ends(denial, due),
                Signal::Hole(hole) => {
                    let (plain, holes) = self.ready(hole, &mut due);
                    // a client that has heard that these came (withheld.rs) soon takes them for lost again
                    if !plain.is_empty() && !self.fill(&plain).await {
                        return Outcome::Broken;
                    }
                    match self.mend(&holes, std::mem::take(&mut due)).await {
                        None => return Outcome::Broken,
                        Some(left) => due = left,
                    }
                    owed = if due.is_empty() { None } else { Some(owed.unwrap_or_default()) };
                }
                Signal::Silenced(_) => {
                    self.inbox.push_front(signal);
                    return Outcome::Broken;
                }
                Signal::Cut | Signal::InjectFailed => return Outcome::Broken,
                Signal::Undelivered(_) | Signal::Injected | Signal::Drained => {}
            }
        }
    }

    /// The hole and those that have been told of meanwhile: those before which nothing is to be said, as the first ones of segments
    /// that were withheld, and the others, to be filled together. What is to be said about these becomes due.
    fn ready(&mut self, first: Hole, due: &mut Vec<Vec<u8>>) -> (Vec<Hole>, Vec<Hole>) {
        self.inbox.push_front(Signal::Hole(first));
        self.inbox.extend(std::iter::from_fn(|| self.signals.try_recv().ok()));
        let (mut plain, mut holes) = (Vec::new(), Vec::new());
        while let Some(signal) = self.inbox.pop_front() {
            match signal {
                Signal::Denied { denial, goes_on: true } => due.extend(denial.answer()),
                Signal::Hole(hole) => {
                    let is_plain = due.is_empty() && holes.is_empty() && hole.credit == 0 && hole.resets == 0;
                    if is_plain { &mut plain } else { &mut holes }.push(hole);
                }
                other => {
                    self.inbox.push_front(other);
                    break;
                }
            }
        }
        let credit: u32 = holes.iter().map(|hole| hole.credit).sum();
        due.extend((credit > 0).then(|| reply::credit(credit)));
        (plain, holes)
    }

    /// The answers first, then the segments: so the server's own idea of an ended RPC never overtakes the policy's. Returns the
    /// answers that there was no moment for yet; nothing: the connection can only be cut.
    async fn mend(&mut self, holes: &[Hole], answers: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        let first = if self.is_answered_by_server() { FIRST_OF_TWO } else { FIRST };
        let mut pieces = reply::pieces(answers);
        let (soon, deadline) = (Instant::now() + first, Instant::now() + ANSWER);
        let (mut said, mut under_way) = (0, false);
        for piece in &pieces {
            if under_way && !self.passed(deadline).await {
                return None;
            }
            under_way = self.may_speak_by(soon).await;
            if !under_way {
                break;
            }
            if !self.put(piece) {
                return None;
            }
            said += 1;
        }
        let mut rest = holes;
        while let Some((first, behind)) = rest.split_first() {
            self.let_read(first.resets).await;
            let (now, later) = rest.split_at(1 + behind.iter().take_while(|hole| hole.resets == 0).count());
            if !self.fill(now).await {
                return None;
            }
            rest = later;
        }
        if under_way && !self.passed(Instant::now() + ANSWER).await {
            return None;
        }
        Some(pieces.split_off(said))
    }

    /// Whether the client may still come to what is owed.
    fn client_reads(&self, owing: &mut Owed) -> bool {
        let acked = sockets::bytes_acked(self.socket).unwrap_or(0);
        if acked != owing.acked {
            *owing = Owed { acked, since: Instant::now() };
        }
        owing.since.elapsed() < ANSWER
    }

    /// Says of the answers what there is a moment for now. Returns whether that was all; nothing: the connection can only be cut.
    async fn say_owed(&mut self, due: &mut Vec<Vec<u8>>) -> Option<bool> {
        for piece in std::mem::take(due) {
            if !due.is_empty() || !may_speak(self.core, self.cookie, self.socket) {
                due.push(piece);
            } else if !self.put(&piece) || !self.passed(Instant::now() + ANSWER).await {
                return None;
            }
        }
        let followed = self.core.shared.conn(self.cookie).is_some_and(|conn| conn.followed == 1);
        followed.then_some(due.is_empty())
    }

    /// Whether the copy may have a call of a method that does not exist.
    fn is_answered_by_server(&self) -> bool {
        let conn = self.core.shared.conn(self.cookie);
        conn.is_some_and(|conn| conn.mended.iter().any(|it| it.as_ == abi::PG_MENDED_ASTRAY))
    }

    /// Waits, if need be, until the server has looked at the RST_STREAM frames before these.
    async fn let_read(&mut self, resets: u32) {
        let bound = Instant::now() + READ;
        while resets > 0
            && self.resets + resets > RESETS
            && !self.has_looked()
            && Instant::now() < bound
            && !self.is_silent_for_good()
        {
            sleep(LOOKED).await;
        }
        if resets > 0 {
            (self.reset_at, self.read_at) = (Instant::now(), None);
        }
        self.resets += resets;
    }

    /// How long to wait for the next signal before a look around: while the server is to read, or to have sent all, it is seen
    /// soon when it has.
    fn stay(&self, owing: bool) -> Duration {
        if owing {
            MOMENT
        } else if self.resets == 0 {
            STAY
        } else {
            (self.reset_at.elapsed() / 8).clamp(LOOKED, STAY)
        }
    }

    /// Whether the server has looked at all RST_STREAM frames that it was sent.
    fn has_looked(&mut self) -> bool {
        if self.resets > 0 && sockets::unread(self.socket).is_none_or(|n| n == 0) {
            let read_at = *self.read_at.get_or_insert_with(Instant::now);
            if read_at.elapsed() >= LOOKED.max(read_at - self.reset_at) {
                self.resets = 0;
            }
        }
        self.resets == 0
    }

    /// Sends the copies of dropped segments, until TCP has them: the filter passes each as often as need be, and closes holes that TCP
    /// has got past when another comes. So the last one goes twice at once.
    async fn fill(&self, holes: &[Hole]) -> bool {
        let copies: Option<Vec<_>> =
            holes.iter().map(|hole| self.core.shared.copy(hole).map(|copy| (hole, copy))).collect();
        let Some(copies) = copies else { return false };
        let bound = Instant::now() + FILL;
        for (tried, pause) in PAUSES.into_iter().chain(std::iter::repeat(PAUSE)).enumerate() {
            if pause > 0 {
                sleep(Duration::from_millis(pause)).await;
            }
            let Some(conn) = self.core.shared.conn(self.cookie) else { return false };
            let is_open = |hole: &Hole| {
                conn.hole.iter().take(conn.holes as usize).any(|h| h.seq == hole.seq && h.slot == hole.slot)
            };
            if !holes.iter().any(is_open) {
                return true;
            }
            if Instant::now() >= bound {
                break;
            }
            let Some(acked) = sockets::bytes_acked(self.socket) else { return false };
            let heard = conn.first.wrapping_add(acked as u32);
            let acknowledged = if tried < TRUSTS { Acknowledged::AsSent(heard) } else { Acknowledged::Heard(heard) };
            for (hole, copy) in copies.iter().filter(|(hole, _)| is_open(hole)) {
                let sent = self.core.senders.borrow_mut().send(self.socket, hole, acknowledged, conn.ts_recent, copy);
                if let Err(e) = sent {
                    tracing::debug!("cannot mend the connection of cookie {}: {e}", self.cookie);
                    return false;
                }
            }
        }
        false
    }

    /// Whether a response was denied, so that the server says nothing more.
    fn is_silent_for_good(&self) -> bool {
        self.core.shared.conn(self.cookie).is_some_and(|conn| conn.answers == abi::PG_A_MUTED)
    }

    /// The denied response, if it is one that ends the connection. Its event may still be under way.
    async fn silenced(&mut self) -> Option<Silenced> {
        let bound = Instant::now() + LOOK;
        loop {
            self.inbox.extend(std::iter::from_fn(|| self.signals.try_recv().ok()));
            let found = self.inbox.iter().find_map(|signal| match signal {
                Signal::Silenced(silenced) => Some(silenced.clone()),
                _ => None,
            });
            if found.is_some() || !self.is_silent_for_good() || Instant::now() >= bound {
                return found;
            }
            sleep(LOOKED).await;
        }
    }

    /// Whether nothing waits to be heard.
    fn is_silent(&mut self) -> bool {
        self.inbox.extend(self.signals.try_recv());
        self.inbox.is_empty()
    }

    /// Answers the denial that ends the connection and all that follows, until nothing more comes and nothing is
    /// pending. `due` are answers from before.
    async fn hold(&mut self, first: &Denial, due: Vec<Vec<u8>>) -> bool {
        let core = self.core;
        let deadline = Instant::now() + core.drain;
        let opening = [Some(reply::shutdown()), first.answer()].into_iter().flatten().chain(due).collect();
        if !self.say_all(opening, deadline).await {
            return false;
        }
        let quiet = sockets::round_trip(self.socket).unwrap_or(QUIET_LEAST).clamp(QUIET_LEAST, QUIET_MOST) * 2;
        let mut heard = Instant::now();
        while Instant::now() < deadline {
            if self.is_silent_for_good() {
                return false;
            }
            let frames = self.answers().await;
            if !frames.is_empty() {
                if !self.say_all(frames, deadline).await {
                    return false;
                }
                heard = Instant::now();
                continue;
            }
            let pending = core.shared.conn(self.cookie).map_or(0, |conn| conn.pending);
            if pending == 0 && heard.elapsed() >= quiet {
                break;
            }
            let wait = if pending == 0 { quiet.saturating_sub(heard.elapsed()) } else { LOOK };
            if let Ok(Some(signal)) = timeout(wait, self.signals.recv()).await {
                self.inbox.push_back(signal);
            }
        }
        // What is above was never delivered: its callers may try again, and clients do so by themselves.
        self.say_all(vec![reply::goaway(first.delivered)], deadline).await
    }

    /// The frames that answer what has come. A request that was not delivered at all is left to the last GOAWAY; where
    /// a part was, the handler may have started, and its caller is told so. Holes from before are filled: behind them
    /// are RPCs that nothing is to be said against.
    async fn answers(&mut self) -> Vec<Vec<u8>> {
        while let Ok(signal) = self.signals.try_recv() {
            self.inbox.push_back(signal);
        }
        let mut frames = Vec::new();
        for signal in std::mem::take(&mut self.inbox) {
            match signal {
                Signal::Denied { denial, .. } => frames.extend(denial.answer()),
                Signal::Undelivered(denial) if denial.stream <= denial.delivered => frames.extend(denial.answer()),
                Signal::Hole(hole) => drop(self.fill(&[hole]).await),
                Signal::Silenced(_) => self.inbox.push_back(signal),
                _ => {}
            }
        }
        frames
    }

    /// Sends frames, in pieces that the egress hook can watch. False: the connection can only be cut.
    async fn say_all(&mut self, frames: Vec<Vec<u8>>, deadline: Instant) -> bool {
        for piece in reply::pieces(frames) {
            if !self.say(&piece, deadline).await {
                return false;
            }
        }
        true
    }

    async fn say(&mut self, piece: &[u8], deadline: Instant) -> bool {
        self.may_speak_by(deadline).await && self.put(piece) && self.passed(deadline).await
    }

    /// Waits until the server stands between two frames, with nothing left to send.
    async fn may_speak_by(&self, deadline: Instant) -> bool {
        let mut pause = Duration::from_millis(1);
        while !may_speak(self.core, self.cookie, self.socket) {
            let followed = self.core.shared.conn(self.cookie).is_some_and(|conn| conn.followed == 1);
            if Instant::now() >= deadline || !followed {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(MOMENT);
        }
        true
    }

    fn put(&self, piece: &[u8]) -> bool {
        self.core.shared.register(self.cookie, piece).is_ok()
            && sockets::send(self.socket, piece).ok() == Some(piece.len())
    }

    /// Waits until the egress hook has seen the reply between two frames.
    async fn passed(&mut self, deadline: Instant) -> bool {
        let passed = loop {
            match timeout(LOOK, self.signals.recv()).await {
                Ok(Some(Signal::Injected)) => break true,
                Ok(Some(Signal::InjectFailed) | None) => break false,
                Ok(Some(signal)) => {
                    let over = matches!(signal, Signal::Silenced(_));
                    self.inbox.push_back(signal);
                    if over {
                        break false;
                    }
                }
                // The event may have been lost; the registration says it too.
                Err(_) => match self.core.shared.answered(self.cookie) {
                    Some(abi::PG_EV_INJECTED) => break true,
                    Some(_) => break false,
                    None if Instant::now() >= deadline => break false,
                    None => {}
                },
            }
        };
        self.core.shared.unregister(self.cookie);
        passed
    }
}

/// Whether the server stands between two frames, with nothing left to send, and has said its SETTINGS.
fn may_speak(core: &Core, cookie: u64, socket: &OwnedFd) -> bool {
    sockets::queued(socket, false) == Some(0)
        && sockets::bytes_sent(socket).is_some_and(|sent| sent >= SETTINGS_FRAME)
        && core.shared.conn(cookie).is_some_and(|conn| {
            let response = &conn.response;
            conn.followed == 1 && response.state == abi::PG_H2_HEAD && response.have == 0 && response.block == 0
        })
}

fn bytes(frames: &[Vec<u8>]) -> usize {
    frames.iter().map(Vec::len).sum()
}

/// FIN, and a moment for the caller to acknowledge what was said.
async fn farewell(socket: &OwnedFd) {
    sockets::shutdown(socket);
    let bound = Instant::now() + FAREWELL;
    let mut pause = Duration::from_millis(1);
    while sockets::queued(socket, true).is_some_and(|n| n > 0) && Instant::now() < bound {
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    sleep(LINGER).await;
}
