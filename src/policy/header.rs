//! Stage 5, the header scope: metadata, the peer, header names, and HPACK's static table under the policy.

use std::collections::{BTreeMap, BTreeSet};

use super::automata::{Automaton, Speaks};
use super::decide::Bit;
use super::predicate::Text;
use super::resolve::Block;
use super::scope::{Layout, Writes};
use super::tables::{Assembly, Input, Refusal};
use super::trie::Ends;
use crate::abi;

/// What the header scope of a policy is.
pub struct Header {
    pub layout: Layout,
    pub keys: Vec<abi::pg_key>,
    pub peers: Vec<abi::pg_peer>,
    pub port: (u32, u32),
    pub name_root: u32,
    pub fixed: [abi::pg_entry; 62],
}

/// RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Header names that the engine knows.
const NAMES: [(&str, u32); 12] = [
    (":path", abi::PG_NAME_PATH),
    (":method", abi::PG_NAME_METHOD),
    (":scheme", abi::PG_NAME_SCHEME),
    (":authority", abi::PG_NAME_AUTHORITY),
    (":status", abi::PG_NAME_STATUS),
    ("content-type", abi::PG_NAME_CONTENT_TYPE),
    ("grpc-encoding", abi::PG_NAME_GRPC_ENCODING),
    ("connection", abi::PG_NAME_CONNECTION),
    ("proxy-connection", abi::PG_NAME_CONNECTION),
    ("keep-alive", abi::PG_NAME_CONNECTION),
    ("transfer-encoding", abi::PG_NAME_CONNECTION),
    ("upgrade", abi::PG_NAME_CONNECTION),
];

/// The types that are gRPC's: `application/grpc`, alone, with a subtype's suffix, or with parameters.
const CONTENT_TYPE: &str = "(?is)^application/grpc([+;].*)?$";

/// Adds all that does not depend on the method.
pub fn add(tables: &mut Assembly, bits: &BTreeSet<&Bit>, counted: &[&str]) -> Result<Header, Refusal> {
    let mut groups: BTreeMap<Option<&str>, Vec<Bit>> = BTreeMap::new();
    for bit in bits {
        let group = match bit {
            Bit::Present { key } | Bit::Some { key, .. } => Some(key.as_str()),
            Bit::Peer { .. } | Bit::Port(_) => None,
            _ => continue,
        };
        groups.entry(group).or_default().push((*bit).clone());
    }
    for key in counted {
        groups.entry(Some(key)).or_default();
    }
    let keys: Vec<&str> = groups.keys().filter_map(|key| *key).collect();
    if keys.len() > abi::PG_MAX_METADATA_KEYS as usize {
        let most = abi::PG_MAX_METADATA_KEYS;
        return Err(Refusal::whole(format!("rules read more than {most} metadata keys (limit METADATA_KEYS)")));
    }
    let layout = Layout::new(groups.values().cloned().collect(), 0)
        .ok_or_else(|| Refusal::whole("rules test metadata and the peer more than 1024 times (limit SCOPE_WORDS)"))?;

    let content_type =
        engine_automaton(tables, &Text::Matches(CONTENT_TYPE.to_owned()), abi::PG_AUTOMATON_CONTENT_TYPE)?;
    let identity = engine_automaton(tables, &Text::In(vec![b"identity".to_vec()]), abi::PG_AUTOMATON_IDENTITY)?;
    let mut out = Vec::new();
    let mut starts: BTreeMap<&str, Vec<Automaton>> = BTreeMap::new();
    for key in &keys {
        let (mut entry, automata) =
            add_key(tables, key, groups.get(&Some(*key)).map_or(&[][..], Vec::as_slice), &layout)?;
        entry.counted = counted.iter().zip(1..).find(|(other, _)| *other == key).map_or(0, |(_, slot)| slot);
        out.push(entry);
        starts.insert(key, automata);
    }
    starts.insert("content-type", content_type);
    starts.insert("grpc-encoding", identity);

    let mut names: BTreeMap<Vec<u8>, Ends> = BTreeMap::new();
    let named = NAMES.iter().copied().chain(keys.iter().zip(abi::PG_NAME_KEY0..).map(|(key, id)| (*key, id)));
    for (name, id) in named {
        names.insert(name.as_bytes().to_vec(), Ends { exact: id + 1, prefix: 0 });
    }
    let fixed = fixed(&names, &starts);
    let peers = add_peers(tables, bits, &layout)?;
    let ports: Vec<_> = bits
        .iter()
        .filter_map(|bit| match bit {
            Bit::Port(ranges) => Some((ranges.clone(), layout.place(bit)?)),
            _ => None,
        })
        .collect();
    let port = tables.bounds.add(&ports, None, &mut tables.rows);
    let name_root = tables.tries.add(&names);
    Ok(Header { layout, keys: out, peers, port, name_root, fixed })
}

fn engine_automaton(tables: &mut Assembly, text: &Text, at: u32) -> Result<Vec<Automaton>, Refusal> {
    let built = tables
        .automata(std::slice::from_ref(text), Speaks::AtTheEnd, 1)
        .map_err(|error| Refusal::whole(error.message))?;
    let (first, _) = tables.final_automata(&built, |_, _, tests| u32::from(!tests.is_empty()));
    debug_assert_eq!(first, at);
    Ok(built.to_vec())
}

fn add_key(
    tables: &mut Assembly,
    key: &str,
    bits: &[Bit],
    layout: &Layout,
) -> Result<(abi::pg_key, Vec<Automaton>), Refusal> {
    let mut present = Writes::default();
    let mut tests: Vec<Text> = Vec::new();
    for bit in bits {
        match (bit, layout.place(bit)) {
            (Bit::Present { .. }, Some(place)) => present.set(place),
            (Bit::Some { text, .. }, _) if !tests.contains(text) => tests.push(text.clone()),
            _ => {}
        }
    }
    let mut entry = abi::pg_key { present: tables.rows.row(&present), ..Default::default() };
    if tests.is_empty() {
        return Ok((entry, Vec::new()));
    }
    let built = tables.automata(&tests, Speaks::AtTheEnd, abi::PG_MAX_METADATA_AUTOMATA).map_err(|error| {
        let text = error.test.and_then(|i| tests.get(i));
        let bit = text.map(|text| Bit::Some { key: key.to_owned(), text: text.clone(), negated: false });
        Refusal { message: format!("`metadata[{key:?}]`: {}", error.message), bit }
    })?;
    // each automaton speaks for the tests that hold in any of its states, and a test is decided by one automaton only
    let deciders = deciders(&built, tests.len());
    (entry.automaton, entry.automata) = tables.final_automata(&built, |tables, automaton, holding| {
        let mut writes = Writes::default();
        for (i, text) in tests.iter().enumerate().filter(|(i, _)| deciders.get(*i) == Some(&automaton)) {
            let bit = Bit::Some { key: key.to_owned(), text: text.clone(), negated: !holding.contains(&i) };
            if let Some(place) = layout.place(&bit) {
                writes.set(place);
            }
        }
        tables.rows.row(&writes)
    });
    tables.note_input(Input::Key(key.to_owned()), &built);
    Ok((entry, built.to_vec()))
}

/// By test: the automaton that decides it. One that holds nowhere is decided by the first.
fn deciders(built: &[Automaton], tests: usize) -> Vec<usize> {
    let mut out = vec![0; tests];
    for (i, automaton) in built.iter().enumerate() {
        for test in automaton.end.iter().flatten() {
            if let Some(slot) = out.get_mut(*test) {
                *slot = i;
            }
        }
    }
    out
}

fn add_peers(tables: &mut Assembly, bits: &BTreeSet<&Bit>, layout: &Layout) -> Result<Vec<abi::pg_peer>, Refusal> {
    let mut by_block: BTreeMap<Block, Writes> = BTreeMap::new();
    for bit in bits {
        let (Bit::Peer { blocks }, Some(place)) = (bit, layout.place(bit)) else { continue };
        blocks.iter().for_each(|block| by_block.entry(*block).or_default().set(place));
    }
    if by_block.len() > abi::PG_MAX_PEER_TESTS as usize {
        let most = abi::PG_MAX_PEER_TESTS;
        return Err(Refusal::whole(format!(
            "rules compare `peer.ip` with more than {most} addresses and blocks (limit PEER_TESTS)"
        )));
    }
    let peer = |(block, writes): (Block, Writes)| abi::pg_peer {
        address: block.address,
        mask: block.mask,
        row: tables.rows.row(&writes),
        reserved: 0,
    };
    Ok(by_block.into_iter().map(peer).collect())
}

fn fixed(names: &BTreeMap<Vec<u8>, Ends>, automata: &BTreeMap<&str, Vec<Automaton>>) -> [abi::pg_entry; 62] {
    let mut out = [abi::pg_entry::default(); 62];
    for (entry, (name, value)) in out.iter_mut().skip(1).zip(STATIC) {
        let id = names.get(name.as_bytes()).map_or(abi::PG_NAME_OTHER, |ends| ends.exact - 1);
        entry.name = u16::try_from(id).unwrap_or(0);
        entry.name_size = u16::try_from(name.len()).unwrap_or(0);
        entry.value_size = u16::try_from(value.len()).unwrap_or(0);
        // of the keys that a limit may count by, all have an empty value there
        entry.hash = [abi::PG_HASH_START; 2];
        if name == ":path" {
            entry.reason = u16::try_from(abi::PG_R_PATH).unwrap_or(1);
        }
        let mut finals = automata.get(name).into_iter().flatten().map(|automaton| automaton.run(value.as_bytes()));
        entry.out0 = finals.next().unwrap_or(0);
        entry.out1 = finals.next().unwrap_or(0);
    }
    out
}
