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
/// that time to read: a reset before would fail what it is still reading.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(30), Duration::from_millis(70), Duration::from_millis(200), Duration::from_millis(100)];
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
    let words = silenced.words(core);
    for pause in PAUSES {
        let sent = match &words {
            Some(words) => tell(core, socket, &silenced.place, words),
            None => core.senders.borrow_mut().say(socket, &silenced.place, silenced.place.seq, Last::Reset, &[]),
        };
        if let Err(e) = sent {
            tracing::debug!("cannot answer on the connection of cookie {}: {e}", silenced.place.about.cookie);
            return;
        }
        sleep(pause).await;
        if core.shared.conn(silenced.place.about.cookie).is_none() {
            return; // the client has reset it
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
