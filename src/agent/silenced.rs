//! The last words of a connection on which a response was denied.
//!
//! The server's own socket can say nothing more: TCP sends the segment with the denied response for ever, and the filter
//! drops it every time (bpf/hooks/silence.h). So what stands before the denied frame, the status of its RPC and a GOAWAY go
//! out as segments of the server's that the server knows nothing of, with a FIN behind them; then its socket is destroyed.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::time::sleep;

use super::core::Core;
use super::reply::{self, Denial};
use super::sockets;
use crate::abi;

/// Segments may be lost, and nobody sends these again: they go twice, so far apart.
const AGAIN: Duration = Duration::from_millis(30);
/// How long the caller may take to read what was said: a reset at once would fail that.
const LINGER: Duration = Duration::from_millis(100);
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

/// Says them, and gives the client time to read.
pub async fn say(core: &Core, socket: &OwnedFd, silenced: &Silenced) {
    let Some(words) = silenced.words(core) else { return };
    let most = sockets::segment_size(socket).unwrap_or(LEAST_SEGMENT).max(LEAST_SEGMENT) as usize;
    for pause in [AGAIN, LINGER] {
        let mut at = silenced.place.seq;
        let mut rest = words.as_slice();
        while !rest.is_empty() {
            let (segment, after) = rest.split_at(most.min(rest.len()));
            let sent = core.senders.borrow_mut().say(socket, &silenced.place, at, after.is_empty(), segment);
            if let Err(e) = sent {
                tracing::debug!("cannot answer on the connection of cookie {}: {e}", silenced.place.about.cookie);
                return;
            }
            at = at.wrapping_add(segment.len() as u32);
            rest = after;
        }
        sleep(pause).await;
    }
}
