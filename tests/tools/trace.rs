//! What `explain` shows of predicates, put together again, is what the engine says of the rule: over random conditions and calls.

use std::net::Ipv6Addr;
use std::path::Path;

use protocg::cases::judge::{Host, Matcher};
use protocg::cases::{Call, Message, Repeated};
use protocg::policy::trace::{Said, Trace};
use protocg::policy::{self, Study};
use protocg_peers::wire;

use crate::{Folder, PROTO};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

const PREDICATES: [&str; 30] = [
    "request.query == \"a\"",
    "request.query.startsWith(\"a\")",
    "request.query in [\"b\", \"ab\"]",
    "request.query.matches(\"^[ab]{2,3}$\")",
    "request.query.matches(\"^.{1,2}$\")",
    "size(request.query) > 1",
    "request.per_page > 1",
    "request.per_page != 2",
    "request.per_page in [1, 3]",
    "request.flag",
    "has(request.inner)",
    "request.inner.number == 1",
    "request.color == 1",
    "metadata[\"x-a\"] == \"1\"",
    "metadata[\"x-a\"] != \"2\"",
    "\"x-a\" in metadata",
    "cidr(\"10.0.0.0/8\").containsIP(peer.ip)",
    "peer.port < 5",
    "(request.per_page) > 2",
    "(request.flag) == (true)",
    "request.items.exists(x, x.number == 1 && x.text == \"a\")",
    "request.items.exists(x, (x.number) > 1)",
    "request.items.all(x, x.number > 0 || x.text.startsWith(\"a\"))",
    "request.items.exists(x, x.number == 1 && request.flag)",
    "size(request.items) > 1",
    "has(request.items)",
    "\"a\" in request.by_name",
    "request.by_name[\"a\"].number != 1",
    "request.by_name.exists(k, k == \"b\")",
    "size(request.by_name) == 2",
];

fn condition(random: &mut Random, depth: usize) -> String {
    let inner = |random: &mut Random| condition(random, depth - 1);
    match if depth == 0 { 9 } else { random.below(8) } {
        0 | 1 => format!("({} && {})", inner(random), inner(random)),
        2 | 3 => format!("({} || {})", inner(random), inner(random)),
        4 => format!("!({})", inner(random)),
        5 => format!("({} ? {} : {})", inner(random), inner(random), inner(random)),
        6 => format!("({}) == false", inner(random)),
        _ => random.pick(&PREDICATES).to_owned(),
    }
}

fn call(random: &mut Random) -> Call {
    let mut message = wire::Message::new();
    if random.below(4) > 0 {
        message = message.bytes(1, random.pick(&["a", "b", "ab", "abba", ""]));
    }
    if random.below(3) > 0 {
        message = message.varint(2, random.below(5) as u64);
    }
    message = message.varint(5, random.below(2) as u64).varint(6, random.below(3) as u64);
    if random.below(2) > 0 {
        message = message.message(7, &wire::Message::new().varint(2, random.below(3) as u64));
    }
    let inner =
        |random: &mut Random| wire::Message::new().bytes(1, random.pick(&["a", "b"])).varint(2, random.below(3) as u64);
    for _ in 0..random.below(4) {
        message = message.message(8, &inner(random));
    }
    for _ in 0..random.below(4) {
        let key = random.pick(&["a", "b", "c"]);
        message = message.message(9, &wire::Message::new().bytes(1, key).message(2, &inner(random)));
    }
    let values = random.below(3);
    let metadata = (0..values).map(|_| ("x-a".to_owned(), random.pick(&["1", "2", "3"]).to_owned())).collect();
    let ip = if random.below(2) == 0 { "::ffff:10.1.1.1" } else { "::1" };
    Call {
        method: "/t.Search/Find".to_owned(),
        metadata,
        peer: (ip.parse::<Ipv6Addr>().unwrap(), random.below(10) as u16),
        messages: vec![Message { bytes: message.bytes, text: String::new() }],
        compressed: false,
        response: Vec::new(),
        before: Vec::new(),
        repeated: Repeated::default(),
    }
}

/// Nothing: it depends on predicates of which the engine keeps no result, because what they stand in can never hold.
fn holds(said: &Said, of: &mut dyn FnMut(&policy::trace::Predicate) -> Option<bool>) -> Option<bool> {
    match said {
        Said::Not(inner) => holds(inner, of).map(|value| !value),
        Said::All(parts) | Said::Any(parts) => {
            let stops = matches!(said, Said::Any(_));
            let values: Vec<Option<bool>> = parts.iter().map(|part| holds(part, of)).collect();
            if values.contains(&Some(stops)) {
                Some(stops)
            } else if values.contains(&None) {
                None
            } else {
                Some(!stops)
            }
        }
        Said::Predicate(predicate) => of(predicate),
    }
}

fn compiled(folder: &Path, condition: &str, action: &str) -> Option<Study> {
    let text = format!(
        "name = \"p\"\nproto = [\"t.proto\"]\nports = [1]\ndefault = \"allow\"\n[[{action}]]\nname = \"r\"\nmethods = [\"/t.Search/Find\"]\nwhen = '''{condition}'''\n"
    );
    policy::study_text(&text, &folder.join("p.toml")).ok()
}

#[test]
fn predicates_put_together_are_what_the_rule_is() {
    let seed = std::env::var("PROTOCG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7_u64);
    let (folder, mut random) = (Folder::new(&[("t.proto", PROTO)]), Random(seed));
    let (mut rules, mut calls, mut held, mut open, mut unasked) = (0, 0, 0, 0, 0);
    while rules < 100 {
        let text = condition(&mut random, 3);
        let action = random.pick(&["deny", "allow"]);
        let Some(study) = compiled(&folder.path(""), &text, action) else { continue }; // always true, or always false
        rules += 1;
        let host = Host::new(&study.policy);
        let method = study.policy.methods.iter().position(|it| it.path.as_deref() == Some("/t.Search/Find")).unwrap();
        let Trace { said, tests } = study.trace(0, method).unwrap().unwrap();
        let mut tables = study.policy.tables.clone();
        tables.tests = tests;
        let mut matcher = Matcher::new(&tables);
        let mut decider = Matcher::new(&study.policy.tables);
        for _ in 0..20 {
            let call = call(&mut random);
            let run = host.run(&call);
            // a rule that reads the request is decided on the message, others on the header block
            let method = &study.policy.tables.methods[run.stages[0].method as usize];
            let (stage, tests) = match method.message_tests {
                0 => (&run.stages[0], method.header_test..method.header_test + method.header_tests),
                count => (&run.stages[1], method.message_test..method.message_test + count),
            };
            let rule = decider.first(&stage.bits, tests).is_some();
            let shown = holds(&said, &mut |predicate| {
                let Some(asked) = predicate.asked else {
                    unasked += 1;
                    return None;
                };
                let written = &predicate.text;
                assert!(
                    text.contains(written) && written.matches('(').count() == written.matches(')').count(),
                    "{written}: {text}"
                );
                Some(matcher.first(&stage.bits, asked.first..asked.first + asked.count).is_some() == asked.positive)
            });
            if let Some(shown) = shown {
                assert_eq!(shown, rule, "PROTOCG_SEED={seed}, {action} {text}\n{call:?}\n{said:?}");
            }
            (calls, held, open) = (calls + 1, held + usize::from(rule), open + usize::from(shown.is_none()));
        }
    }
    println!(
        "{rules} conditions, {calls} calls, {held} held; {unasked} predicates without a result, {open} calls open for them; PROTOCG_SEED={seed}"
    );
    assert!(
        held > calls / 5 && held < calls * 4 / 5 && unasked > 0 && open < calls / 10,
        "{held} of {calls}, {unasked}, {open}"
    );
}
