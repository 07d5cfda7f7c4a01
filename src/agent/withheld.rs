//! Segments that the filter keeps for later, on connections that had a denial: TCP has not got them, and says of the gap ahead
//! of them nothing. So the agent does, in the server's name: an acknowledgement with the segment's place (RFC 2018), by which
//! the client finds what was lost, and sends it again at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::core::Core;
use super::events;
use super::mend::ACK;
use super::sockets::{self, Agreed};
use crate::abi;

const NOTHING: u8 = 1;
const SACK: u8 = 5;
const TIMESTAMPS: [u8; 2] = [8, 10];
/// Bytes of TCP options.
const OPTIONS: usize = 40;
/// Segments that one acknowledgement names, the newest first: its options have room for no more (RFC 2018, section 3).
const BLOCKS: usize = 4;
/// So many acknowledgements without SACK say to a client that a segment is lost (RFC 5681, section 3.2).
const DUPLICATES: usize = 3;
/// What is told later than that is not told: the client would take the wait for a round trip, and has sent again by then.
const LATE: Duration = Duration::from_millis(100);
/// Connections whose segments are remembered; past this many all are forgotten.
const MAX_CONNECTIONS: usize = 4096;

/// What is to be acknowledged, and what was.
#[derive(Default)]
pub struct Withheld {
    known: HashMap<u64, Known>,
    due: Vec<u64>,
}

/// Of one connection.
struct Known {
    last: abi::pg_withheld_event,
    /// The segments ahead of the gap, where they begin and end: the newest first. Acknowledgements may be lost, so each is named
    /// in several.
    blocks: Vec<(u32, u32)>,
    /// How many of them have not been acknowledged.
    new: usize,
}

impl Withheld {
    /// Notes a segment, to be acknowledged with others that are told of together with it.
    pub fn note(&mut self, event: &abi::pg_withheld_event) {
        if events::age(event.time_ns) < LATE {
            self.keep(event);
        }
    }

    fn keep(&mut self, event: &abi::pg_withheld_event) {
        if self.known.len() >= MAX_CONNECTIONS && !self.known.contains_key(&event.cookie) {
            *self = Self::default();
        }
        let known =
            self.known.entry(event.cookie).or_insert_with(|| Known { last: *event, blocks: Vec::new(), new: 0 });
        let block = (event.seq, event.seq.wrapping_add(event.length));
        known.last = *event;
        known.blocks.retain(|other| *other != block && other.0.wrapping_sub(event.received).cast_signed() > 0);
        known.blocks.insert(0, block);
        known.blocks.truncate(BLOCKS);
        if known.new == 0 {
            self.due.push(event.cookie);
        }
        known.new += 1;
    }
}

/// Tells the clients of what was noted.
pub fn acknowledge(core: &Core) {
    let mut withheld = core.withheld.borrow_mut();
    let Withheld { known, due } = &mut *withheld;
    for cookie in due.drain(..) {
        let Some(known) = known.get_mut(&cookie) else { continue };
        let new = std::mem::take(&mut known.new);
        // where it was mended before, it is remembered; nothing is worth a search
        let Some(socket) = core.known_socket(cookie) else { continue };
        if let Err(e) = tell(core, &socket, known, new) {
            tracing::debug!("cannot acknowledge on the connection of cookie {cookie}: {e}");
        }
    }
}

fn tell(core: &Core, socket: &OwnedFd, known: &Known, new: usize) -> std::io::Result<()> {
    let ends = sockets::ends(socket)?;
    let agreed = sockets::agreed(socket)?;
    let header = header(&known.last, &known.blocks, ends, &agreed);
    for _ in 0..if agreed.sack { 1 } else { new.min(DUPLICATES) } {
        core.senders.borrow_mut().speak(socket, (ends.0.ip(), ends.1.ip()), &header, &[])?;
    }
    Ok(())
}

/// The TCP header of the acknowledgement. A client that knows no SACK gets one more of what TCP has in order.
fn header(
    event: &abi::pg_withheld_event,
    blocks: &[(u32, u32)],
    (server, client): (SocketAddr, SocketAddr),
    agreed: &Agreed,
) -> Vec<u8> {
    let mut options = Vec::new();
    if let Some(timestamp) = agreed.timestamp {
        options.extend([NOTHING, NOTHING]);
        options.extend(TIMESTAMPS);
        options.extend(timestamp.to_be_bytes());
        options.extend(event.ts_recent.to_be_bytes());
    }
    if agreed.sack {
        let named = blocks.len().min((OPTIONS - options.len() - 4) / 8);
        options.extend([NOTHING, NOTHING, SACK, 2 + 8 * named as u8]);
        for (begin, end) in blocks.iter().take(named) {
            options.extend(begin.to_be_bytes());
            options.extend(end.to_be_bytes());
        }
    }
    // rounded up, as TCP does it: its last byte was offered before
    let window = event.window.div_ceil(1 << agreed.scale);
    let mut out = Vec::with_capacity(20 + OPTIONS);
    out.extend(server.port().to_be_bytes());
    out.extend(client.port().to_be_bytes());
    out.extend(event.next.to_be_bytes());
    out.extend(event.received.to_be_bytes());
    out.extend([((20 + options.len()) / 4) as u8 * 16, ACK]);
    out.extend(u16::try_from(window).unwrap_or(u16::MAX).to_be_bytes());
    out.extend([0; 4]); // checksum and urgent pointer
    out.extend(options);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: abi::pg_withheld_event = abi::pg_withheld_event {
        time_ns: 0,
        cookie: 1,
        seq: 0xffff_fff0,
        length: 0x20,
        received: 0xffff_0304,
        next: 0x0506_0708,
        window: 0x0007_ff81,
        ts_recent: 0x1112_1314,
    };

    #[test]
    fn an_acknowledgement_has_what_the_two_agreed_on() {
        let ends = ("192.0.2.1:8080".parse().unwrap(), "192.0.2.2:50004".parse().unwrap());
        let fixed = |words: u8, window: [u8; 2]| {
            let numbers =
                [[0x1f, 0x90, 0xc3, 0x54], [5, 6, 7, 8], [0xff, 0xff, 3, 4], [words << 4, 16, window[0], window[1]]];
            [numbers.concat(), vec![0; 4]].concat()
        };
        let blocks = [(0xffff_fff0, 0x10), (1, 2), (3, 4), (5, 6)];
        let plain = Agreed { timestamp: None, sack: false, scale: 0 };
        assert_eq!(header(&EVENT, &blocks, ends, &plain), fixed(5, [0xff, 0xff]));
        let sack = Agreed { sack: true, scale: 7, ..plain };
        let place = |length| [1, 1, 5, length, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0x10].to_vec();
        assert_eq!(header(&EVENT, &blocks[..1], ends, &sack), [fixed(8, [0x10, 0]), place(10)].concat());
        let (two, three) =
            ([0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4].to_vec(), [0, 0, 0, 5, 0, 0, 0, 6].to_vec());
        let all = [fixed(14, [0x10, 0]), place(34), two.clone(), three].concat();
        assert_eq!(header(&EVENT, &blocks, ends, &sack), all);
        let with_times = Agreed { timestamp: Some(0x2122_2324), ..sack };
        let times = [1, 1, 8, 10, 0x21, 0x22, 0x23, 0x24, 0x11, 0x12, 0x13, 0x14];
        let most = [fixed(15, [0x10, 0]), times.to_vec(), place(26), two].concat();
        assert_eq!(header(&EVENT, &blocks, ends, &with_times), most);
    }

    #[test]
    fn segments_are_named_until_the_gap_is_filled() {
        let mut withheld = Withheld::default();
        let mut keep = |seq: u32, received: u32| {
            withheld.keep(&abi::pg_withheld_event { seq, received, length: 10, ..EVENT });
            withheld.known[&1].blocks.clone()
        };
        assert_eq!(keep(20, 10), [(20, 30)]);
        assert_eq!(keep(40, 10), [(40, 50), (20, 30)]);
        assert_eq!(keep(20, 10), [(20, 30), (40, 50)]);
        for seq in [60, 80, 100] {
            keep(seq, 10);
        }
        assert_eq!(keep(120, 10), [(120, 130), (100, 110), (80, 90), (60, 70)]);
        assert_eq!(keep(140, 90), [(140, 150), (120, 130), (100, 110)]);
        assert_eq!((withheld.due.len(), withheld.known[&1].new), (1, 8));
    }

    #[test]
    fn what_is_late_is_not_told() {
        let mut withheld = Withheld::default();
        let now = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap());
        withheld.note(&abi::pg_withheld_event { time_ns: (now - LATE).as_nanos() as u64, ..EVENT });
        assert!(withheld.due.is_empty());
        withheld.note(&abi::pg_withheld_event { time_ns: now.as_nanos() as u64, ..EVENT });
        assert_eq!(withheld.due, [1]);
    }
}
