//! The policies that fuzzers and generated traffic run under: between them they use every way to decide.

use std::path::Path;

use prost_reflect::DescriptorPool;

use crate::condition::Cond::{self, Has, Real, Size, Text, True, Whole};
use crate::policy::Meta::{Contains, Is, Present, Starts};
use crate::policy::{Meta, Policy, Rule, When};

pub const SEARCH: &str = "/search.SearchService/Search";
pub const LOGIN: &str = "/login.LoginService/Login";
pub const UNARY: &str = "/echo.Echo/Unary";
pub const CLIENT_STREAM: &str = "/echo.Echo/ClientStream";
pub const BIDI: &str = "/echo.Echo/Bidi";
pub const SLOW: &str = "/echo.Echo/Slow";

const DENIED: (u32, &str) = (7, "PERMISSION_DENIED");

fn deny(methods: &'static [&'static str], when: When) -> Rule {
    Rule { deny: true, audit: false, status: DENIED, methods, when }
}

fn allow(methods: &'static [&'static str], when: When) -> Rule {
    Rule { deny: false, ..deny(methods, when) }
}

fn audited(rule: Rule) -> Rule {
    Rule { audit: true, ..rule }
}

fn with_status(rule: Rule, status: (u32, &'static str)) -> Rule {
    Rule { status, ..rule }
}

fn text(path: &'static str, op: &'static str, value: &str) -> Cond {
    Text(path, op, value.to_owned())
}

fn and(a: Cond, b: Cond) -> Cond {
    Cond::And(Box::new(a), Box::new(b))
}

fn or(a: Cond, b: Cond) -> Cond {
    Cond::Or(Box::new(a), Box::new(b))
}

fn not(a: Cond) -> Cond {
    Cond::Not(Box::new(a))
}

/// The protos that all of them share.
pub fn protos(folder: &Path) -> DescriptorPool {
    let set = protox::compile(["echo.proto", "search.proto", "login.proto"], [folder]).unwrap();
    DescriptorPool::from_file_descriptor_set(set).unwrap()
}

/// Denies some; all else is allowed.
fn open() -> Vec<Rule> {
    vec![
        audited(deny(&[], When::Meta(Is("x-role", &["watched"])))),
        with_status(deny(&["/echo.Echo/*"], When::Message(text("text", "contains", "A"))), (3, "INVALID_ARGUMENT")),
        deny(
            &[],
            When::Meta(Meta::Or(Box::new(Is("x-role", &["guest", "intruder"])), Box::new(Starts("x-role", "root")))),
        ),
        deny(&[SEARCH], When::Message(or(text("query", "startsWith", "no"), Whole("page", ">", 100)))),
        with_status(deny(&[SLOW], When::Always), (12, "UNIMPLEMENTED")),
        deny(
            &[BIDI, CLIENT_STREAM],
            When::Both(Is("x-tenant", &["red"]), or(Whole("i32", "<", 0), text("choice_text", "==", "x"))),
        ),
        audited(deny(&[UNARY], When::Message(Size("text", ">", 3)))),
    ]
}

/// Allows some; all else is denied.
fn closed() -> Vec<Rule> {
    let strange = Meta::Not(Box::new(Is("x-tenant", &["blue", "green"])));
    vec![
        deny(&["/search.SearchService/*"], When::Either(strange, text("query", "contains", "bad"))),
        allow(
            &[UNARY],
            When::Message(or(text("outer.middle.inner.name", "startsWith", "a"), text("choice_text", "==", "x"))),
        ),
        allow(&[CLIENT_STREAM, BIDI], When::Both(Is("x-role", &["admin"]), or(True("flag"), Whole("i32", "==", 7)))),
        allow(&["/search.SearchService/*"], When::Always),
        allow(&["/health.*", "/health.Health/Check"], When::Meta(Present("x-role"))),
        allow(&["/t.*"], When::Meta(Is("x-tenant", &["blue"]))),
        with_status(deny(&[LOGIN], When::Message(Size("password", "<", 4))), (16, "UNAUTHENTICATED")),
        allow(&["/login.*"], When::Meta(Meta::Not(Box::new(Contains("x-role", "bad"))))),
        audited(deny(&["/login.*"], When::Meta(Meta::And(Box::new(Present("x-tenant")), Box::new(Present("x-role")))))),
    ]
}

/// Conditions over every kind of field.
pub fn conditions() -> Vec<Cond> {
    vec![
        text("text", "contains", "ab"),
        or(text("text", "endsWith", "é"), and(Whole("i32", ">=", -1), Whole("i64", "<", 128))),
        and(not(Has("choice_text")), or(Has("choice_inner"), Whole("choice_number", "!=", 2))),
        or(text("outer.middle.inner.name", "==", "aba"), and(Has("outer.middle"), Whole("outer.level", "<=", 7))),
        or(Real("d", ">", 1.5), Real("f", "<", -1.5)),
        and(Real("f", "==", 0.0), not(Real("d", "!=", 1e-40))),
        or(Size("text", "==", 2), or(Size("payload", ">", 3), Size("outer.name", ">", 1))),
        or(text("payload", "contains", "ab"), text("payload", "==", "b")),
        and(Whole("u32", ">", 7), or(Whole("u64", "<=", 128), Whole("f32", "==", 1))),
        or(and(Whole("s32", "<", -1), Whole("s64", ">", 127)), and(Whole("sf32", "==", 0), Whole("sf64", "!=", 0))),
        or(Whole("color", "==", -1), or(True("flag"), True("outer.middle.inner.flag"))),
        and(Has("maybe_number"), or(text("maybe_text", "startsWith", "a"), Whole("maybe_number", "==", 0))),
        or(Whole("f64", ">", 128), and(text("choice_inner.name", "contains", "b"), not(True("choice_inner.flag")))),
        or(text("choice_text", "==", "ab"), Whole("outer.middle.count", "<", 0)),
    ]
}

fn policy(name: &'static str, protos: &DescriptorPool, default_deny: bool, rules: Vec<Rule>) -> Policy {
    Policy { name, rules, default_deny, audit: false, allowed: &[], protos: protos.clone() }
}

/// How many of `all` come before those of `conditions`.
pub const GENERAL: usize = 6;

/// All of them: general ones, then one for each condition.
pub fn all(folder: &Path) -> Vec<Policy> {
    let protos = protos(folder);
    const CAUSES: &[&str] = &["compressed", "unknown_method", "malformed", "too_large", "not_http2", "tls"];
    let mut all = vec![
        policy("open", &protos, false, open()),
        policy("closed", &protos, true, closed()),
        Policy { audit: true, ..policy("open-audit", &protos, false, open()) },
        Policy { audit: true, ..policy("closed-audit", &protos, true, closed()) },
        Policy { allowed: CAUSES, ..policy("lenient", &protos, true, closed()) },
        Policy { allowed: &CAUSES[..2], ..policy("mixed", &protos, false, [closed(), open()].concat()) },
    ];
    all.extend(
        conditions().into_iter().map(|cond| policy("one", &protos, false, vec![deny(&[UNARY], When::Message(cond))])),
    );
    all
}
