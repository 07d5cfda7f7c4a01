//! What IP can do to a segment: extension headers, and fragments, which the kernel puts together before the filter sees
//! them.

use protocg_peers::raw::{ACK, Odd, PSH, Raw};

use crate::field::{Field, Off, PORT, SHORT, attack, conversation};

const ETHERNET: usize = 14;

#[test]
fn ipv6_extension_headers() {
    attack("extension_headers", Off::Succeeds, |field| {
        let options = vec![6, 0, 1, 4, 0, 0, 0, 0];
        let two = [vec![60, 0, 1, 4, 0, 0, 0, 0], options.clone()].concat();
        for (chain, name) in [(options, "options"), (two, "chain")] {
            let odd = Odd { extension: Some((60, chain)), ..Odd::default() };
            for text in [name.to_owned(), format!("{name}A")] {
                let mut raw = Raw::new(&field.veth, true, PORT);
                raw.connect();
                raw.segment(PSH | ACK, raw.seq, &conversation(&text), &odd);
                if text.contains('A') { field.sent(&text) } else { field.seen(&text) }
            }
        }
        field.denials(2);
    });
}

/// More headers than are walked: the kernel does not mind, the filter drops the packet.
#[test]
fn an_endless_chain_of_ipv6_extension_headers() {
    attack("endless_headers", Off::Succeeds, |field| {
        let link = |next| vec![next, 0, 1, 4, 0, 0, 0, 0];
        let chain: Vec<u8> = (0..12).flat_map(|i| link(if i == 11 { 6 } else { 60 })).collect();
        let odd = Odd { extension: Some((60, chain)), ..Odd::default() };
        let mut raw = Raw::new(&field.veth, true, PORT);
        raw.connect();
        raw.segment(PSH | ACK, raw.seq, &conversation("endlessA"), &odd);
        field.sent("endlessA");
        field.dropped(protocg::abi::PG_R_HEADERS_UNREADABLE);
    });
}

/// A fragment of an IP packet in an Ethernet frame: its payload's bytes from `at` on, which must be a multiple of eight.
fn fragment(frame: &[u8], v6: bool, id: u16, at: usize, bytes: &[u8], more: bool) -> Vec<u8> {
    let (head, ip) = (&frame[..ETHERNET], &frame[ETHERNET..]);
    let place = at as u16;
    assert_eq!(place % 8, 0);
    if v6 {
        let mut out = [head, &ip[..40]].concat();
        out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(8 + bytes.len() as u16).to_be_bytes());
        out[ETHERNET + 6] = 44;
        out.extend([ip[6], 0]);
        out.extend((place | u16::from(more)).to_be_bytes());
        out.extend(u32::from(id).to_be_bytes());
        out.extend(bytes);
        return out;
    }
    let mut header = ip[..20].to_vec();
    header[2..4].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[6..8].copy_from_slice(&((place / 8) | (u16::from(more) << 13)).to_be_bytes());
    header[10..12].fill(0);
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [head, &header, bytes].concat()
}

/// A segment of one of two texts, and parts of it as fragments: (evil?, from, to), in bytes of TCP header and payload.
struct Fragments<'a> {
    field: &'a Field,
    v6: bool,
    texts: [String; 2],
}

impl Fragments<'_> {
    const END: usize = usize::MAX;

    /// Sends the fragments on a connection of their own.
    fn send(&self, parts: &[(bool, usize, usize)]) {
        let id = 1000 + protocg_peers::harness::unique() as u16;
        let mut raw = Raw::new(&self.field.veth, self.v6, PORT);
        raw.connect();
        let frames =
            self.texts.each_ref().map(|text| raw.frame(PSH | ACK, raw.seq, &conversation(text), &Odd::default()));
        assert_eq!(frames[0].len(), frames[1].len());
        for (evil, from, to) in parts {
            let frame = &frames[usize::from(*evil)];
            let payload = &frame[ETHERNET + if self.v6 { 40 } else { 20 }..];
            let to = (*to).min(payload.len());
            raw.put(&fragment(frame, self.v6, id, *from, &payload[*from..to], to < payload.len()));
        }
        raw.wait(SHORT / 3, |r| r.reset);
    }
}

fn fragments<'a>(field: &'a Field, v6: bool, name: &str) -> Fragments<'a> {
    let version = if v6 { 6 } else { 4 };
    Fragments { field, v6, texts: ["a", "A"].map(|mark| format!("{name}-{version}-{mark}")) }
}

const END: usize = Fragments::END;

#[test]
fn a_segment_in_ip_fragments() {
    attack("fragments", Off::Succeeds, |field| {
        for v6 in [false, true] {
            for (name, cuts) in [("two", vec![64]), ("many", (24..200).step_by(8).collect::<Vec<_>>())] {
                for backwards in [false, true] {
                    let name = format!("{name}-{backwards}");
                    let f = fragments(field, v6, &name);
                    for (evil, text) in f.texts.iter().enumerate() {
                        let bounds = [&[0], &cuts[..], &[END]].concat();
                        let mut parts: Vec<_> = bounds.windows(2).map(|w| (evil == 1, w[0], w[1])).collect();
                        if backwards {
                            parts.reverse();
                        }
                        f.send(&parts);
                        if evil == 1 { field.sent(text) } else { field.seen(text) }
                    }
                }
            }
        }
        field.denials(8);
    });
}

/// The first fragment ends inside the TCP header.
#[test]
fn a_tiny_first_ip_fragment() {
    attack("tiny_fragment", Off::Succeeds, |field| {
        let f = fragments(field, false, "tiny");
        for (evil, text) in f.texts.iter().enumerate() {
            f.send(&[(evil == 1, 0, 8), (evil == 1, 8, 16), (evil == 1, 16, END)]);
            if evil == 1 { field.sent(text) } else { field.seen(text) }
        }
        field.denials(1);
    });
}

/// IPv6 wants all headers in the first fragment (RFC 8200, section 4.5).
#[test]
fn a_tiny_first_ipv6_fragment() {
    attack("tiny_fragment_6", Off::StackRefuses, |field| {
        let f = fragments(field, true, "tiny");
        f.send(&[(true, 0, 8), (true, 8, 16), (true, 16, END)]);
    });
}

/// Fragments that overlap end their packet (RFC 5722, and the kernel does so for IPv4 too).
#[test]
fn ip_fragments_that_overlap() {
    attack("fragments_overlap", Off::StackRefuses, |field| {
        for v6 in [false, true] {
            for first in [false, true] {
                let f = fragments(field, v6, "overlap");
                f.send(&[(true, 0, 64), (first, 48, 120), (!first, 120, END)]);
                f.send(&[(first, 64, END), (!first, 0, 72)]);
                f.send(&[(first, 0, 120), (!first, 64, END)]);
            }
        }
    });
}

/// The same fragment twice, or a part of it, with other bytes: the kernel keeps the first.
#[test]
fn the_same_ip_fragment_with_other_bytes() {
    attack("fragments_twice", Off::Succeeds, |field| {
        for v6 in [false, true] {
            for (name, from, to) in [("twice", 64, END), ("inside", 72, 120)] {
                let f = fragments(field, v6, name);
                f.send(&[(true, 64, END), (false, from, to), (true, 0, 64)]);
                field.sent(&f.texts[1]);
            }
        }
        field.denials(4);
    });
}

/// A fragment that is the whole packet (RFC 6946) keeps its header when the filter sees it.
#[test]
fn an_ipv6_fragment_that_is_whole() {
    attack("atomic_fragment", Off::Succeeds, |field| {
        let f = fragments(field, true, "atomic");
        for (evil, text) in f.texts.iter().enumerate() {
            f.send(&[(evil == 1, 0, END)]);
            if evil == 1 { field.sent(text) } else { field.seen(text) }
        }
        field.denials(1);
    });
}
