//! What a new user gets wrong, and what is said about it: the place, and what was probably meant.

use crate::{Folder, folder, run};

const CASE: i32 = 10;

/// One case with these lines, in TOML.
fn said(lines: &str) -> (i32, String) {
    let folder = folder();
    folder.write("c.toml", &format!("[[case]]\nname = \"c\"\n{lines}\n"));
    let (status, out, err) = folder.run(&["test", "p.toml", "c.toml"]);
    (status, out + &err)
}

fn refused(lines: &str, all: &[&str]) {
    let (status, text) = said(lines);
    assert_eq!(status, CASE, "{lines}\n{text}");
    for part in all {
        assert!(text.contains(part), "{lines}\nsaid: {text}\nnot: {part}");
    }
}

#[test]
fn files_that_are_no_cases() {
    let folder = folder();
    folder.write("cases.txt", "");
    folder.write("empty.toml", "");
    folder.write("none.yaml", "case: []\n");
    folder.write("list.yaml", "- 1\n");
    folder.write("broken.toml", "[[case]\n");
    folder.write("broken.yaml", "case: [\n");
    std::fs::write(folder.path("latin.toml"), b"# \xe9\n").unwrap();
    std::fs::File::create(folder.path("large.toml")).unwrap().set_len(5 << 20).unwrap();
    for (file, why) in [
        ("nowhere.toml", "cannot read it: No such file"),
        ("cases.txt", "ends in .toml, .yaml, .yml or .json"),
        ("empty.toml", "there is no case"),
        ("none.yaml", "`case` is a list of cases"),
        ("list.yaml", "a file of cases is a table, not a list"),
        ("broken.toml", "this is not TOML"),
        ("broken.yaml", "this is not YAML"),
        ("latin.toml", "it is not UTF-8, from byte 2 on"),
        ("large.toml", "longer than 4194304 bytes"),
    ] {
        let (status, _, err) = folder.run(&["test", "p.toml", file]);
        assert_eq!(status, CASE, "{file}: {err}");
        assert!(err.contains(why) && err.contains(file), "{file}: {err}");
    }
}

#[test]
fn a_policy_and_its_cases_in_the_wrong_order() {
    let folder = folder();
    folder.write("c.toml", "[[case]]\nname = \"c\"\nmethod = \"/t.Search/Find\"\nverdict = \"allow\"\n");
    let (status, _, err) = folder.run(&["test", "c.toml", "p.toml"]);
    assert_eq!(status, 3);
    assert!(err.contains("unknown field `case`"), "{err}");
    let (status, _, err) = folder.run(&["test", "p.toml", "p.toml"]);
    assert_eq!(status, CASE);
    assert!(err.contains("a file of cases has no key `name`"), "{err}");
    let (status, _, err) = folder.run(&["test", "p.toml"]);
    assert_eq!((status, err.contains("<CASES>")), (2, true), "{err}");
}

#[test]
fn keys_and_words_that_are_misspelt() {
    let call = "method = \"/t.Search/Find\"";
    let allow = "verdict = \"allow\"";
    refused(
        &format!("{call}\nverdct = \"allow\""),
        &["a case has no key `verdct`", "did you mean `verdict`?", "needs the key `verdict`"],
    );
    refused(allow, &["a call needs the key `method`"]);
    refused(&format!("{call}\nverdict = \"alow\""), &["`alow` is not a verdict", "did you mean `allow`?"]);
    refused(
        &format!("{call}\n{allow}\nrule = \"shrt\""),
        &["`shrt` is no rule of the policy", "did you mean `short`?"],
    );
    refused(&format!("{call}\nverdict = \"deny\"\nstatus = \"INVALID\""), &["`INVALID` is no gRPC status"]);
    refused(&format!("{call}\nverdict = \"deny\"\ncause = \"compresed\""), &["did you mean `compressed`?"]);
    refused(&format!("{call}\nverdict = \"deny\"\naudited = [\"short\"]"), &["`short` is no audit rule", "`seen`"]);
    refused(&format!("{call}\n{allow}\nstatus = \"ABORTED\""), &["an allowed call has no `status`"]);
    refused(&format!("{call}\nverdict = \"deny\"\nrule = \"short\"\ncause = \"tls\""), &["a rule decides, or a cause"]);
    refused(&format!("{call}\n{allow}\nat = -1"), &["`at` is the number of a message"]);
    refused(&format!("{call}\n{allow}\npeer = \"10.0.0\""), &["`10.0.0` is not an address", "[::1]:50000"]);
    refused(&format!("{call}\n{allow}\nmetadata = {{ x = 1 }}"), &["a metadata value is a string, not a number"]);
    refused(&format!("{call}\n{allow}\nmetadata = {{ \":path\" = \"/\" }}"), &["`:path` is not metadata"]);
    refused(&format!("{call}\n{allow}\nmethod = \"/x\""), &["this is not TOML: duplicate key"]);
}

#[test]
fn messages_that_the_method_does_not_take() {
    let find = |rest: &str| format!("method = \"/t.Search/Find\"\nverdict = \"allow\"\n{rest}");
    let cases: &[(&str, &[&str])] = &[
        (
            "message = { query = \"a\", perpage = 5 }",
            &["`t.Request` has no field `perpage`", "did you mean `per_page`?"],
        ),
        ("message = { inner = { txt = \"a\" } }", &["`t.Inner` has no field `txt`", "did you mean `text`?"]),
        ("message = { items = [{ number = 1 }, { numbr = 2 }] }", &["has no field `numbr`", "did you mean `number`?"]),
        ("message = { by_name = { a = { nr = 2 } } }", &["`t.Inner` has no field `nr`", "`text`, `number`"]),
        ("message = { per_page = \"many\" }", &["this is no value of `t.Request.per_page`"]),
        ("message = { per_page = 3000000000 }", &["this is no value of `t.Request.per_page`"]),
        ("message = { inner = { number = true } }", &["this is no value of `t.Inner.number`"]),
        (
            "message = { data = \"no base64!\" }",
            &["this is no value of `t.Request.data`", "bytes are written in base64"],
        ),
        (
            "message = { color = \"COLOR_RDE\" }",
            &["this is no value of `t.Request.color`", "did you mean `COLOR_RED`?"],
        ),
        ("message = { at = \"yesterday\" }", &["this is no value of `t.Request.at`"]),
        ("message = '{\"query\": }'", &["this is not JSON"]),
        ("message = '{\"quer\": \"a\"}'", &["has no field `quer`", "did you mean `query`?"]),
        ("message = '[1]'", &["a message is a JSON object, not a list"]),
        ("message = 5", &["a message is not a number"]),
        ("messages = { query = \"a\" }", &["`messages` is a list of messages"]),
        ("message = {}\nraw = \"00\"", &["there are messages already"]),
        ("raw = \"0g\"", &["bytes in hexadecimal"]),
        ("raw = \"abc\"", &["bytes in hexadecimal"]),
        ("compressed = \"yes\"", &["`compressed` is true or false"]),
        ("response = { id = 5 }", &["`t.Reply` has no field `id`"]),
        ("response = [{}, 5]", &["a message is not a number"]),
        ("at = \"response 0\"", &["`at` is the number of a message", "write \"response 1\""]),
    ];
    for (rest, all) in cases {
        refused(&find(rest), all);
    }
    let nobody = "method = \"/t.Search/Fnid\"\nverdict = \"deny\"\n";
    refused(
        &format!("{nobody}message = {{}}"),
        &["no proto of the policy describes `/t.Search/Fnid`", "did you mean `/t.Search/Find`?"],
    );
    // without a message it is a call like others, which may be meant: its verdict is `unknown_method`, or the default's
    let (status, text) = said(nobody);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("WARN") && text.contains("did you mean `/t.Search/Find`?"), "{text}");
}

#[test]
fn a_caret_stands_under_the_key_in_yaml_too() {
    let folder = folder();
    let yaml = "case:\n  - name: ü\n    method: /t.Search/Find\n    mesage: { query: ä }\n    verdict: allow\n";
    folder.write("c.yaml", yaml);
    let (status, _, err) = folder.run(&["test", "p.toml", "c.yaml"]);
    assert_eq!(status, CASE);
    assert!(err.contains("[c.yaml:4:5]") && err.contains("did you mean `message`?"), "{err}");
    folder.write("c.yaml", &yaml.replace("mesage", "message").replace("query", "qeury"));
    let (_, _, err) = folder.run(&["test", "p.toml", "c.yaml"]);
    assert!(err.contains("[c.yaml:4:16]") && err.contains("did you mean `query`?"), "{err}");
}

#[test]
fn several_mistakes_are_said_at_once() {
    let folder = folder();
    let case = |name: &str, rest: &str| format!("[[case]]\nname = \"{name}\"\nmethod = \"/t.Search/Find\"\n{rest}\n");
    let text = [
        case("a", "verdict = \"no\""),
        case("b", "verdict = \"deny\"\nmessages = [{ qu = 1 }, { flag = 2 }]"),
        case("c", "verdict = \"deny\""),
        case("c", "verdict = \"deny\""),
    ];
    folder.write("c.toml", &text.concat());
    let (_, _, err) = folder.run(&["test", "p.toml", "c.toml"]);
    for part in ["`no` is not a verdict", "has no field `qu`", "no value of `t.Request.flag`", "another case named `c`"]
    {
        assert!(err.contains(part), "{part}: {err}");
    }
}

#[test]
fn a_policy_that_is_wrong_is_said_before_its_cases() {
    let folder = Folder::new(&[("p.toml", "name = \"p\"\n"), ("c.toml", "x = 1\n")]);
    for verb in ["test", "explain"] {
        let (status, _, err) = folder.run(&[verb, "p.toml", "c.toml"]);
        assert_eq!(status, 3, "{err}");
        assert!(err.contains("missing field"), "{err}");
    }
}

#[test]
fn cases_come_from_standard_input_too() {
    let folder = folder();
    let toml = "[[case]]\nname = \"c\"\nmethod = \"/t.Search/Find\"\nverdict = \"allow\"\n";
    let json = r#"{"case": [{"name": "c", "method": "/t.Search/Find", "verdict": "allow"}]}"#;
    for text in [toml, json] {
        let (status, out, err) = run(folder.path("").as_path(), &["test", "p.toml", "-"], text);
        assert_eq!((status, out.contains("ok    c\n")), (0, true), "{out}{err}");
    }
}
