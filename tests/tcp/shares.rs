//! Who may have how many slots for waiting segments, and that a denial elsewhere needs none of them.

use protocg::abi;
use protocg_peers::harness;
use protocg_peers::raw::Raw;

use crate::client::{Client, POLICY, UNARY, call, unharmed};
use crate::field::{Field, SHORT, conversation};
use crate::slots::{Slots, reset};

/// As many segments as one connection may have waiting.
const EACH: usize = abi::PG_MAX_HELD_SEGMENTS as usize;
/// As many addresses as it takes to fill all slots.
const ADDRESSES: u8 = 4;

/// Connections of one address that each have one segment more waiting than one may.
fn crowd(field: &Field, address: u8, bytes: &[u8], connections: usize) -> Vec<Raw> {
    let mut crowd: Vec<Raw> = (0..connections).map(|_| field.client()).collect();
    for raw in &mut crowd {
        raw.from = [10, 78, 0, address];
        raw.connect();
        for at in 1..=EACH + 1 {
            raw.at(at as u32, &bytes[at..=at]);
        }
    }
    crowd
}

/// Takes every small slot and every large one: four addresses, each with so many connections.
pub fn all_taken(field: &Field, bytes: &[u8], connections: usize) -> Vec<Raw> {
    (1..=ADDRESSES).flat_map(|address| crowd(field, address, bytes, connections)).collect()
}

#[test]
fn connections_of_one_address_take_half_of_the_slots_at_most() {
    if harness::skip("shares") {
        return;
    }
    let share = abi::PG_MAX_HELD_SHARE as usize;
    let field = Field::new("shares");
    let slots = Slots::of(&field.cgroup);
    let bytes = conversation(&"filling".repeat(200));
    // One connection has its own bound,
    let one = crowd(&field, 1, &bytes, 1);
    slots.hold(EACH, 0);
    // an address has another,
    let many = crowd(&field, 1, &bytes, 16);
    slots.hold(share, 0);
    // and one that shares the machine with it has its own.
    let mut other = crowd(&field, 2, &bytes, 1);
    slots.hold(share + EACH, 0);
    other[0].send(&bytes);
    assert!(other[0].wait(harness::patience(SHORT * 10), |r| r.acked == r.seq), "not taken");
    slots.hold(share, 0);
    one.iter().chain(&many[..4]).chain(&other).for_each(reset);
    crate::field::eventually("room", || slots.taken().0 == share - 5 * EACH);
    // What was given back is to be had again.
    let again = crowd(&field, 1, &bytes, 8);
    slots.hold(share, 0);
    many[4..].iter().chain(&again).for_each(reset);
    slots.all_free();
    field.unharmed();
}

#[test]
fn junk_on_64_connections_leaves_mending_on_another_intact() {
    if harness::skip("shares_mending") {
        return;
    }
    let field = Field::under("junk", POLICY);
    let slots = Slots::of(&field.cgroup);
    let junk = all_taken(&field, &conversation(&"filling".repeat(200)), 16);
    let all = (abi::PG_MAX_HELD_SMALL as usize, abi::PG_MAX_HELD_LARGE as usize);
    slots.hold(all.0, all.1);
    let mut client = Client::of(&field);
    for (round, length) in [10, 1000, 3000, 30].into_iter().enumerate() {
        let stream = 3 + 4 * round as u32;
        client.raw.send(&call(stream, UNARY, &"A".repeat(length.min(1000))));
        client.bytes(&call(stream + 2, UNARY, "fine"));
        assert_eq!((client.status(stream), client.status(stream + 2)), (Some(7), Some(0)), "{round}");
    }
    assert!(client.is_open());
    drop(client);
    slots.hold(all.0, all.1);
    assert!(field.enforcer().events().iter().all(|e| e["type"] != "connection"));
    junk.iter().for_each(reset);
    unharmed(field);
}
