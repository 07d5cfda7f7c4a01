//! Metadata conditions against the contract's own words, on absent, single and repeated keys.

use crate::{Folder, Random, eval, with_rules};

const PROTO: &str = "syntax = \"proto3\"; package t; message M { string s = 1; } service S { rpc R(M) returns (M); }";
const VALUES: [&str; 6] = ["", "a", "ab", "b", "xab", "ba"];

enum Tree {
    Leaf(String, &'static str, Box<dyn Fn(&str) -> bool>),
    Present(&'static str),
    Not(Box<Tree>),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
}

fn tree(random: &mut Random, depth: usize) -> Tree {
    if depth > 0 {
        let (a, b) = (Box::new(tree(random, depth - 1)), Box::new(tree(random, depth - 1)));
        return match random.below(3) {
            0 => Tree::Not(a),
            1 => Tree::And(a, b),
            _ => Tree::Or(a, b),
        };
    }
    let key = random.pick(&["k", "other-key"]);
    let text = random.pick(&VALUES[1..]).to_owned();
    let name = format!("metadata[{key:?}]");
    match random.below(7) {
        0 => Tree::Present(key),
        1 => Tree::Leaf(format!("{name} == {text:?}"), key, Box::new(move |value| value == text)),
        2 => Tree::Leaf(
            format!("{name} in [\"a\", {text:?}]"),
            key,
            Box::new(move |value| value == "a" || value == text),
        ),
        3 => Tree::Leaf(format!("{name}.startsWith({text:?})"), key, Box::new(move |value| value.starts_with(&text))),
        4 => Tree::Leaf(format!("{name}.contains({text:?})"), key, Box::new(move |value| value.contains(&text))),
        5 => Tree::Leaf(format!("{name}.matches(\"{text}b*$\")"), key, {
            Box::new(move |value| (0..3).any(|count| value.ends_with(&format!("{text}{}", "b".repeat(count)))))
        }),
        _ => Tree::Leaf(format!("size({name}) < 2"), key, Box::new(|value| value.len() < 2)),
    }
}

fn show(tree: &Tree) -> String {
    match tree {
        Tree::Leaf(text, ..) => text.clone(),
        Tree::Present(key) => format!("{key:?} in metadata"),
        Tree::Not(a) => format!("!({})", show(a)),
        Tree::And(a, b) => format!("({}) && ({})", show(a), show(b)),
        Tree::Or(a, b) => format!("({}) || ({})", show(a), show(b)),
    }
}

/// The contract: negations go to the leaves; in deny a leaf holds if some value satisfies it (a negated one also if
/// the key is absent), in allow only if the key is there and every value does.
fn holds(tree: &Tree, metadata: &[(&str, &str)], deny: bool, positive: bool) -> bool {
    let values = |key: &str| metadata.iter().filter(|(k, _)| *k == key).map(|(_, v)| *v).collect::<Vec<_>>();
    match tree {
        Tree::Present(key) => values(key).is_empty() != positive,
        Tree::Leaf(_, key, test) => {
            let values = values(key);
            match deny {
                true => values.iter().any(|value| test(value) == positive) || (!positive && values.is_empty()),
                false => !values.is_empty() && values.iter().all(|value| test(value) == positive),
            }
        }
        Tree::Not(a) => holds(a, metadata, deny, !positive),
        Tree::And(a, b) if positive => holds(a, metadata, deny, true) && holds(b, metadata, deny, true),
        Tree::And(a, b) => holds(a, metadata, deny, false) || holds(b, metadata, deny, false),
        Tree::Or(a, b) if positive => holds(a, metadata, deny, true) || holds(b, metadata, deny, true),
        Tree::Or(a, b) => holds(a, metadata, deny, false) && holds(b, metadata, deny, false),
    }
}

#[test]
fn absent_and_repeated_values_are_read_as_the_contract_says() {
    let folder = Folder::new(&[("t.proto", PROTO)]);
    let (mut random, mut pairs) = (Random(3), 0);
    for _ in 0..400 {
        let (tree, deny) = (tree(&mut random, 2), random.below(2) == 0);
        let kind = if deny { "deny" } else { "allow" };
        let text = with_rules(&format!("[[{kind}]]\nname = \"r\"\nwhen = '{}'\n", show(&tree)));
        let policy = match folder.compile(&text) {
            Ok(policy) => policy,
            Err(error) => {
                assert!(error.to_string().contains("always"), "{error}: {}", show(&tree));
                continue;
            }
        };
        for _ in 0..12 {
            let metadata: Vec<(&str, &str)> = (0..random.below(5))
                .map(|_| (random.pick(&["k", "other-key", "unread"]), random.pick(&VALUES)))
                .collect();
            let call = eval::Call { metadata: metadata.clone(), ..Default::default() };
            let bits = eval::headers(&policy.tables, &call);
            let got = !eval::header_rules(&policy.tables, 0, &bits).is_empty();
            let want = holds(&tree, &metadata, deny, true);
            assert_eq!(got, want, "{kind} {}\n{}\n{metadata:?}", show(&tree), policy.rules[0].compiled);
            pairs += 1;
        }
    }
    assert!(pairs > 3000, "{pairs}");
}

#[test]
fn an_allow_rule_that_absence_satisfies_is_warned_of() {
    let folder = Folder::new(&[("t.proto", PROTO)]);
    let rule = |kind: &str, when: &str| with_rules(&format!("[[{kind}]]\nname = \"r\"\nwhen = '{when}'\n"));
    let warnings = |text: &str| folder.compile(text).unwrap().warnings.len();
    assert_eq!(warnings(&rule("allow", "!(\"k\" in metadata)")), 1);
    assert_eq!(warnings(&rule("allow", "metadata[\"k\"] != \"a\"")), 0);
    assert_eq!(warnings(&rule("deny", "!(\"k\" in metadata)")), 0);
}

#[test]
fn peers_are_compared_as_addresses() {
    let folder = Folder::new(&[("t.proto", PROTO)]);
    let conditions = [
        "cidr(\"10.0.0.0/8\").containsIP(peer.ip)",
        "cidr(\"::/0\").containsIP(peer.ip)",
        "cidr(\"0.0.0.0/0\").containsIP(peer.ip)",
        "peer.ip == ip(\"10.1.2.3\")",
        "peer.ip != ip(\"::1\")",
        "peer.ip in [ip(\"::1\"), ip(\"10.1.2.3\")]",
        "peer.port < 1024",
        "peer.port in [5, 1024]",
        "!(peer.port >= 1024 && peer.port != 65535)",
    ];
    let rules = conditions.iter().enumerate().map(|(i, when)| format!("[[deny]]\nname = \"{i}\"\nwhen = '{when}'\n"));
    let policy = folder.compile(&with_rules(&rules.collect::<String>())).unwrap();
    let holding = |ip: &str, port: u16| -> Vec<u32> {
        let call = eval::Call { metadata: Vec::new(), ip: ip.parse().unwrap(), port };
        let bits = eval::headers(&policy.tables, &call);
        eval::header_rules(&policy.tables, 0, &bits).into_iter().collect()
    };
    assert_eq!(holding("::ffff:10.1.2.3", 80), [0, 2, 3, 4, 5, 6, 8]);
    assert_eq!(holding("::ffff:11.0.0.1", 1024), [2, 4, 7]);
    assert_eq!(holding("::1", 65535), [1, 5, 8]);
    assert_eq!(holding("::0a00:1", 5), [1, 4, 6, 7, 8]);
}
