//! The last words of a connection on which a response was denied.
//!
//! The server's own socket can say nothing more: TCP sends the segment with the denied response for ever, and the filter
//! drops it every time (bpf/hooks/silence.h). So what stands before the denied frame, the status of its RPC and a GOAWAY go
//! out as segments of the server's that the server knows nothing of, with a FIN behind them; then its socket is destroyed.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::time::sleep;

use super::core::Core;
use super::mend::Last;
use super::reply::{self, Denial};
use super::sockets;
use crate::abi;

/// Segments may be lost, and no TCP sends these again: they go at once, and after each of these pauses but the last. The caller has
/// at least the first four of them to read: a reset before would fail what it is still reading. The others are for a client that
/// has not acknowledged all: what the server said before may be lost too, and its TCP sends that again.
const PAUSES: [u64; 8] = [30, 70, 200, 100, 400, 600, 800, 800];
const LEAST_PAUSES: usize = 4;
/// What every path takes (RFC 9293, section 3.7.1).
const LEAST_SEGMENT: u32 = 536;

/// A response that was denied.
#[derive(Debug, Clone)]
pub struct Silenced {
    /// Where it stood.
    pub place: Box<abi::pg_hole_event>,
    /// What its caller is told.
    pub denial: Denial,
}

impl Silenced {
    /// What the client is to get in the place of the denied segment; nothing if that has no room for a frame.
    fn words(&self, core: &Core) -> Option<Vec<u8>> {
        if self.place.placed == 0 {
            return None;
        }
        let mut words = match self.place.length {
            0 => Vec::new(),
            _ => core.shared.copy(&self.place)?,
        };
        words.extend(self.denial.answer().unwrap_or_default());
        words.extend(reply::goaway(self.denial.delivered));
        Some(words)
    }
}

/// Says them, or only that it is over, and gives the client time to read.
pub async fn say(core: &Core, socket: &OwnedFd, silenced: &Silenced) {
    let place = &silenced.place;
    let words = silenced.words(core);
    let end = place.seq.wrapping_add(words.as_ref().map_or(0, Vec::len) as u32);
    for (told, pause) in (1..).zip(PAUSES) {
        let sent = match &words {
            Some(words) => tell(core, socket, place, words),
            None => core.senders.borrow_mut().say(socket, place, place.seq, Last::Reset, &[]),
        };
        if let Err(e) = sent {
            tracing::debug!("cannot answer on the connection of cookie {}: {e}", place.about.cookie);
            return;
        }
        sleep(Duration::from_millis(pause)).await;
        // without one, the client has reset it
        let Some(conn) = core.shared.conn(place.about.cookie) else { return };
        let got = match conn.heard {
            0 => words.is_none(), // a reset is not acknowledged
            heard => heard.wrapping_sub(end) as i32 >= 0,
        };
        if told >= LEAST_PAUSES && got {
            return;
        }
    }
}

/// Sends the words, in segments that the path takes.
fn tell(core: &Core, socket: &OwnedFd, place: &abi::pg_hole_event, words: &[u8]) -> io::Result<()> {
    let most = sockets::segment_size(socket).unwrap_or(LEAST_SEGMENT).max(LEAST_SEGMENT) as usize;
    let mut at = place.seq;
    let mut segments = words.chunks(most).peekable();
    while let Some(segment) = segments.next() {
        let last = if segments.peek().is_none() { Last::Fin } else { Last::No };
        core.senders.borrow_mut().say(socket, place, at, last, segment)?;
        at = at.wrapping_add(segment.len() as u32);
    }
    Ok(())
}
