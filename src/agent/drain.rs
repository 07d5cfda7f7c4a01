//! The end of a denied connection: answer, let delivered RPCs finish, take it apart.
//!
//! The kernel reads on after a denial, so the client's other RPCs under way are answered too, each with its own
//! status. One task a connection; they overlap. Every wait is bounded, and every way out ends with the connection gone.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

use super::core::Core;
use super::reply::{self, Denial};
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

/// A connection that is to end, and what its first caller is told.
#[derive(Debug, Clone)]
pub struct Dying {
    /// What the kernel said.
    pub event: abi::pg_event,
    /// The answer; none: the connection is cut.
    pub denial: Option<Denial>,
}

/// What the kernel says of a connection that is ending.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Another RPC on it is denied.
    Denied(Denial),
    /// A whole request came that the server never gets.
    Undelivered(Denial),
    /// A reply has left.
    Injected,
    /// A reply stood inside a frame and was held back.
    InjectFailed,
    /// No delivered RPC is left to answer.
    Drained,
}

/// Ends a denied connection.
pub async fn end(core: Rc<Core>, dying: Dying, signals: UnboundedReceiver<Signal>) {
    let cookie = dying.event.cookie;
    match &dying.denial {
        None => cut(&core, &dying.event).await,
        Some(denial) => match find(&core, cookie).await {
            None => cut(&core, &dying.event).await,
            Some(socket) => {
                let deadline = Instant::now() + core.drain;
                let mut talk = Talk { core: &core, cookie, socket: &socket, deadline, signals, inbox: VecDeque::new() };
                if talk.hold(denial).await {
                    farewell(&socket).await;
                }
                core.destroy(&dying.event, Some(&socket));
            }
        },
    }
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
    deadline: Instant,
    signals: UnboundedReceiver<Signal>,
    /// Signals that came while a reply was on its way.
    inbox: VecDeque<Signal>,
}

impl Talk<'_> {
    /// Answers the first denial and all that follows, until nothing more comes and nothing is pending.
    async fn hold(&mut self, first: &Denial) -> bool {
        let core = self.core;
        let opening = [Some(reply::shutdown()), first.answer()].into_iter().flatten().collect();
        if !self.say(opening).await {
            return false;
        }
        let quiet = sockets::round_trip(self.socket).unwrap_or(QUIET_LEAST).clamp(QUIET_LEAST, QUIET_MOST) * 2;
        let mut heard = Instant::now();
        while Instant::now() < self.deadline {
            let frames = self.answers();
            if !frames.is_empty() {
                if !self.say(frames).await {
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
        self.say(vec![reply::goaway(first.delivered)]).await
    }

    /// The frames that answer what has come. A request that was not delivered at all is left to the last GOAWAY; where
    /// a part was, the handler may have started, and its caller is told so.
    fn answers(&mut self) -> Vec<Vec<u8>> {
        while let Ok(signal) = self.signals.try_recv() {
            self.inbox.push_back(signal);
        }
        self.inbox
            .drain(..)
            .filter_map(|signal| match signal {
                Signal::Denied(denial) => denial.answer(),
                Signal::Undelivered(denial) if denial.stream <= denial.delivered => denial.answer(),
                _ => None,
            })
            .collect()
    }

    /// Sends frames, in pieces that the egress hook can watch. False: the connection can only be cut.
    async fn say(&mut self, frames: Vec<Vec<u8>>) -> bool {
        for piece in reply::pieces(frames) {
            let mut pause = Duration::from_millis(1);
            while !may_speak(self.core, self.cookie, self.socket) {
                let followed = self.core.shared.conn(self.cookie).is_some_and(|conn| conn.followed == 1);
                if Instant::now() >= self.deadline || !followed {
                    return false;
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            let registered = self.core.shared.register(self.cookie, &piece);
            if registered.is_err() || sockets::send(self.socket, &piece).ok() != Some(piece.len()) {
                return false;
            }
            if !self.passed().await {
                return false;
            }
            self.core.shared.unregister(self.cookie);
        }
        true
    }

    /// Waits until the egress hook has seen the reply between two frames.
    async fn passed(&mut self) -> bool {
        loop {
            match timeout(LOOK, self.signals.recv()).await {
                Ok(Some(Signal::Injected)) => return true,
                Ok(Some(Signal::InjectFailed) | None) => return false,
                Ok(Some(signal)) => self.inbox.push_back(signal),
                // The event may have been lost; the registration says it too.
                Err(_) => match self.core.shared.answered(self.cookie) {
                    Some(abi::PG_EV_INJECTED) => return true,
                    Some(_) => return false,
                    None if Instant::now() >= self.deadline => return false,
                    None => {}
                },
            }
        }
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
