//! The invariant: the last byte of a header block, or of a message, is passed only after its verdict, and no byte before
//! it is held back.

use crate::fixtures::{NO_A, UNARY};
use crate::rig::{Fixture, byte_by_byte, compile, fixture, run_here};
use crate::wire::*;

/// How many bytes come before the verdict's own, behind the opening.
fn passed(fixture: &Fixture) -> usize {
    let policy = compile(&fixture.policy);
    let (events, over) = run_here(&policy, fixture, &byte_by_byte(fixture));
    assert_eq!(events, fixture.events, "{}", fixture.name);
    over - 1 - PREFACE.len() - SETTINGS.len()
}

const CLOSED: &str =
    "default = \"deny\"\n[[allow]]\nname = \"five\"\nmethods = [\"/echo.Echo/*\"]\nwhen = \"request.i32 == 5\"\n";

#[test]
fn a_header_block_is_decided_at_its_last_byte() {
    let block = request("/other.S/M");
    let whole = headers(1, &block);
    let one = fixture("", CLOSED, &[whole.clone(), data(1, &[0; 9])], &["deny default on 1#0"]);
    assert_eq!(passed(&one), whole.len() - 1);
    let split = [frame(HEADERS, 0, 1, &block[..9]), frame(CONTINUATION, END_HEADERS, 1, &block[9..])].concat();
    let two = fixture("", CLOSED, &[split.clone(), data(1, &[0; 9])], &["deny default on 1#0"]);
    assert_eq!(passed(&two), split.len() - 1);
    let empty = [frame(HEADERS, 0, 1, &block), frame(CONTINUATION, END_HEADERS, 1, &[])].concat();
    let three = fixture("", CLOSED, std::slice::from_ref(&empty), &["deny default on 1#0"]);
    assert_eq!(passed(&three), empty.len() - 1);
}

#[test]
fn a_message_is_decided_at_its_last_byte() {
    let open = headers(1, &request(UNARY));
    let a = message(&[bytes(1, "A"), number(4, 1), bytes(2, [0; 60])].concat());
    let one = fixture("", NO_A, &[open.clone(), data(1, &a), data(1, &a)], &["deny no-a on 1#1"]);
    assert_eq!(passed(&one), open.len() + 9 + a.len() - 1);
    let end = [data(1, &a[..20]), data(1, &a[20..])].concat();
    let two = fixture("", NO_A, &[open.clone(), end.clone()], &["deny no-a on 1#1"]);
    assert_eq!(passed(&two), open.len() + end.len() - 1);
    let empty = message(&[]);
    let three = fixture("", CLOSED, &[open.clone(), data(1, &empty)], &["deny default on 1#1"]);
    assert_eq!(passed(&three), open.len() + 9 + 4, "an empty message ends with its prefix");
}

#[test]
fn the_end_of_a_call_is_decided_at_the_last_byte_of_its_frame() {
    let open = headers(1, &request(UNARY));
    let end = [open.clone(), data_end(1, &[])].concat();
    assert_eq!(passed(&fixture("", CLOSED, std::slice::from_ref(&end), &["deny default on 1#0"])), end.len() - 1);
    let end = [open, frame(DATA, END_STREAM | PADDED, 1, &padded(&[], 5))].concat();
    assert_eq!(passed(&fixture("", CLOSED, std::slice::from_ref(&end), &["deny default on 1#0"])), end.len() - 1);
}

#[test]
fn what_makes_a_message_undecidable_is_said_at_once() {
    let open = headers(1, &request(UNARY));
    let compressed = message_with(1, &[0; 50]);
    let one = fixture("", NO_A, &[open.clone(), data(1, &compressed)], &["deny !compressed on 1#1"]);
    assert_eq!(passed(&one), open.len() + 9 + 4);
    let bad = message(&[bytes(1, b"x\xff"), bytes(2, [0; 50])].concat());
    let two = fixture("", NO_A, &[open.clone(), data(1, &bad)], &["deny !utf8 on 1#1"]);
    assert_eq!(passed(&two), open.len() + 9 + 5 + 3);
}

/// The numbers say what the verifier need not look at: where they are not the rules', nothing may pass for it.
#[test]
fn numbers_of_another_policy_let_nothing_pass() {
    let open = headers(1, &request(UNARY));
    let body = data(1, &message(&bytes(1, "fine")));
    let rule = |when: &str, more: &str| {
        format!("default = \"allow\"\n[[deny]]\nname = \"r\"\nmethods = [\"/echo.Echo/*\"]\nwhen = '{when}'\n{more}")
    };
    let numbers = |fields: &[u8]| data(1, &message(fields));
    let cases = [
        (rule("8 in request.numbers", ""), numbers(&number(24, 7)), "deny !internal on 1#1"),
        (rule("request.i32 == 8", ""), numbers(&bytes(24, [7, 7])), "deny !internal on 1#1"),
        (rule("request.text == \"fine\"", "mode = \"audit\"\n"), body, "deny !budget on 1#1"),
    ];
    for (text, sent, denial) in cases {
        let one = fixture("", &text, &[open.clone(), sent], &[]);
        let mut policy = compile(&one.policy);
        (policy.tables.config.elements, policy.tables.config.packed, policy.tables.config.audits) = (0, 0, 0);
        let (events, _) = run_here(&policy, &one, &byte_by_byte(&one));
        assert_eq!(events, [denial], "{text}");
    }
}
