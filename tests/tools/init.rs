//! `protocg init`: what it writes compiles, and so do the examples in its comments.

use crate::{Folder, PROTO, folder, root, run};

/// Removes the `# ` before the lines of every rule in comments.
fn uncommented(text: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for line in text.lines() {
        inside = line == "# [[deny]]" || line == "# [[allow]]" || (inside && line.starts_with("# "));
        out.push_str(if inside { line.strip_prefix("# ").unwrap() } else { line });
        out.push('\n');
    }
    out
}

#[test]
fn the_policy_lists_every_method_and_compiles() {
    let folder = Folder::new(&[("sub/t.proto", PROTO)]);
    let (status, out, err) =
        folder.run(&["init", "--proto", "sub/t.proto", "--output", "p.toml", "--port", "8080", "--port", "9090"]);
    assert_eq!((status, err.as_str(), out.as_str()), (0, "", "wrote p.toml: try `protocg check p.toml`\n"));
    let text = std::fs::read_to_string(folder.path("p.toml")).unwrap();
    for part in [
        "\"/t.Search/Find\", # Request: query (string)",
        "\"/t.Search/Feed\", # a stream of Request",
        "ports   = [8080, 9090]",
        "name    = \"t\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (status, out, err) = folder.run(&["check", "p.toml"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("allow t.Search") && out.contains("audit"), "{out}");
    assert!(uncommented(&text).matches("\n[[").count() == 3, "{text}");
    folder.write("p.toml", &uncommented(&text));
    let (status, out, err) = folder.run(&["check", "p.toml"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("deny find-query") && out.contains("allow health-and-reflection"), "{out}");
}

#[test]
fn every_proto_of_the_repository_gives_a_policy_that_compiles() {
    let protos =
        ["tests/peers/proto/echo.proto", "tests/peers/proto/search.proto", "policies/login-hardening/auth.proto"];
    let folder = Folder::new(&[]);
    let output = folder.path("deep/er/policy.toml");
    std::fs::create_dir_all(output.parent().unwrap()).unwrap();
    let output = output.to_str().unwrap();
    let (status, _, err) = run(root(), &[&["init", "--output", output, "--proto"], &protos[..]].concat(), "");
    assert_eq!(status, 0, "{err}");
    let text = std::fs::read_to_string(output).unwrap();
    std::fs::write(output, uncommented(&text)).unwrap();
    let (status, out, err) = run(root(), &["check", output], "");
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    for path in ["/echo.Echo/Bidi", "/search.SearchService/Search", "/auth.Auth/ResetPassword"] {
        assert!(text.contains(path), "{path}: {text}");
    }
}

#[test]
fn it_goes_to_standard_output_and_replaces_nothing_unasked() {
    let folder = folder();
    let (status, text, _) = folder.run(&["init", "--proto", "t.proto"]);
    assert_eq!(status, 0);
    folder.write("other.toml", &text);
    assert_eq!(folder.run(&["check", "other.toml"]).0, 0);
    let (status, _, err) = folder.run(&["init", "--proto", "t.proto", "-o", "p.toml"]);
    assert_eq!((status, err.contains("`p.toml` is there already") && err.contains("--force")), (1, true), "{err}");
    assert_eq!(std::fs::read_to_string(folder.path("p.toml")).unwrap(), crate::POLICY);
    assert_eq!(folder.run(&["init", "--proto", "t.proto", "-o", "p.toml", "--force"]).0, 0);
    assert_eq!(std::fs::read_to_string(folder.path("p.toml")).unwrap(), text);
}

#[test]
fn what_is_wrong_is_said_as_check_says_it() {
    let folder = folder();
    folder.write("bad.proto", "message {");
    folder.write("empty.proto", "syntax = \"proto3\";\npackage e;\nmessage M {}\n");
    let (status, _, err) = folder.run(&["init", "--proto", "nowhere.proto"]);
    assert_eq!((status, err.contains("neither in the policy's folder nor in an import root")), (3, true), "{err}");
    let (status, _, err) = folder.run(&["init", "--proto", "bad.proto"]);
    assert_eq!((status, err.contains("bad.proto")), (3, true), "{err}");
    let (status, _, err) = folder.run(&["init", "--proto", "t.proto", "--name", "No Name"]);
    assert_eq!((status, err.contains("not a policy name")), (3, true), "{err}");
    let (status, _, err) = folder.run(&["init"]);
    assert_eq!((status, err.contains("--proto")), (2, true), "{err}");
    let (status, text, err) = folder.run(&["init", "--proto", "empty.proto"]);
    assert_eq!((status, text.contains("describe no service")), (0, true), "{text}{err}");
    folder.write("e.toml", &uncommented(&text));
    assert_eq!(folder.run(&["check", "e.toml"]).0, 0, "{text}");
}
