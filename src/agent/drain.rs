//! The end of a denied connection: answer, let delivered RPCs finish, take it apart.
//!
//! One task a connection; they overlap. Every wait is bounded, and every way out ends with the connection gone.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

use super::core::Core;
use super::reply::Denial;
use super::sockets;
use crate::abi;

/// How long a server may take to accept() a connection that was denied before.
const ACCEPT: Duration = Duration::from_secs(1);
/// How long queued bytes may take to be acknowledged after the FIN.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the caller may take to read the end of file: a reset at once would fail what it is still reading.
const LINGER: Duration = Duration::from_millis(100);
/// Without a signal from the kernel the state is looked at this often.
const LOOK: Duration = Duration::from_millis(100);
/// SETTINGS, the least that a server sends before any response.
const SETTINGS_FRAME: u64 = 9;

/// What a task needs to know of its connection.
#[derive(Debug, Clone)]
pub struct Dying {
    /// The event that ended it.
    pub event: abi::pg_event,
    /// What the caller is to be told; `None`: nothing, cut it.
    pub denial: Option<Denial>,
}

/// Ends the connection. `signals` brings the kernel's later events about it.
pub async fn end(core: Rc<Core>, dying: Dying, mut signals: UnboundedReceiver<u32>) {
    let cookie = dying.event.cookie;
    let deadline = Instant::now() + core.drain;
    match &dying.denial {
        None => core.destroy(&dying.event, core.find_socket(cookie).as_ref()),
        Some(denial) => match find(&core, cookie).await {
            None => core.destroy(&dying.event, None),
            Some(socket) => {
                if answer(&core, cookie, &socket, denial, deadline, &mut signals).await {
                    drained(&core, cookie, deadline, &mut signals).await;
                    farewell(&socket).await;
                }
                core.destroy(&dying.event, Some(&socket));
            }
        },
    }
    core.shared.unregister(cookie);
    core.forget(cookie);
}

/// A connection that nobody has accepted yet has no descriptor.
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

/// Sends the answer piece by piece, each only where a frame may begin. False: the connection must be cut.
async fn answer(
    core: &Core,
    cookie: u64,
    socket: &OwnedFd,
    denial: &Denial,
    deadline: Instant,
    signals: &mut UnboundedReceiver<u32>,
) -> bool {
    for piece in denial.bytes() {
        let mut pause = Duration::from_millis(1);
        while !may_speak(core, cookie, socket) {
            if Instant::now() >= deadline || core.shared.conn(cookie).is_none_or(|c| c.followed != 1) {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        let registered = core.shared.register(cookie, &piece);
        if registered.is_err() || sockets::send(socket, &piece).ok() != Some(piece.len()) {
            return false;
        }
        if !passed(core, cookie, deadline, signals).await {
            return false;
        }
        core.shared.unregister(cookie);
    }
    true
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

/// Waits for the egress hook's word on the piece.
async fn passed(core: &Core, cookie: u64, deadline: Instant, signals: &mut UnboundedReceiver<u32>) -> bool {
    loop {
        match timeout(LOOK, signals.recv()).await {
            Ok(Some(abi::PG_EV_INJECTED)) => return true,
            Ok(Some(abi::PG_EV_INJECT_FAILED) | None) => return false,
            Ok(Some(_)) => {}
            // The event may have been lost; the registration says it too.
            Err(_) => match core.shared.answered(cookie) {
                Some(abi::PG_EV_INJECTED) => return true,
                Some(_) => return false,
                None if Instant::now() >= deadline => return false,
                None => {}
            },
        }
    }
}

/// Waits until every delivered RPC has its response, or the bound.
async fn drained(core: &Core, cookie: u64, deadline: Instant, signals: &mut UnboundedReceiver<u32>) {
    let mut pause = LOOK;
    while core.shared.conn(cookie).is_some_and(|conn| conn.pending > 0) && Instant::now() < deadline {
        let wait = pause.min(deadline.saturating_duration_since(Instant::now()));
        if let Ok(Some(abi::PG_EV_DRAINED) | None) = timeout(wait, signals.recv()).await {
            return;
        }
        pause = (pause * 2).min(LOOK * 5);
    }
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
