//! Every example of docs/policy.md: policies compile, cases pass, conditions are accepted or refused, commands print what is shown.

use std::process::Command;

use crate::{Folder, root};

/// A fenced block: what stands behind its fence, its text, its line.
struct Block {
    info: String,
    text: String,
    line: usize,
}

fn blocks(document: &str) -> Vec<Block> {
    let (mut out, mut open): (Vec<Block>, Option<Block>) = (Vec::new(), None);
    for (number, line) in document.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => out.push(block),
            (Some(info), None) => open = Some(Block { info: info.to_owned(), text: String::new(), line: number + 1 }),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    out
}

/// The name of a file that a block's first line says: `# shop.toml`, `// shop.proto`.
fn file(block: &Block) -> Option<&str> {
    let first = block.text.lines().next()?;
    let name = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "))?;
    (name.contains('.') && !name.contains(' ')).then_some(name)
}

fn policy(rules: &str) -> String {
    format!("name = \"shop\"\nproto = [\"shop.proto\"]\nports = [50051]\ndefault = \"deny\"\n{rules}")
}

fn condition(text: &str) -> String {
    policy(&format!("[[deny]]\nname = \"c\"\nmethods = [\"/shop.Orders/Create\"]\nwhen = '''{text}'''\n"))
}

#[test]
fn every_example_of_the_language_is_true() {
    let document = std::fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let blocks = blocks(&document);
    // what buf has in every project
    let import = "buf/validate/validate.proto";
    let validate = std::fs::read_to_string(root().join("policies/protovalidate").join(import)).unwrap();
    let folder = Folder::new(&[(import, &validate)]);
    let check = |text: &str, at: usize| {
        folder.write("checked.toml", text);
        let (status, out, err) = folder.run(&["check", "checked.toml"]);
        (status, format!("docs/policy.md:{at}\n{text}\n{out}{err}"))
    };
    let mut last = String::new();
    let (mut policies, mut fragments, mut cases, mut conditions, mut refused, mut commands) = (0, 0, 0, 0, 0, 0);
    for block in &blocks {
        if let Some(name) = file(block) {
            folder.write(name, &block.text);
        }
        match block.info.as_str() {
            "proto" => {}
            "toml" | "yaml" if block.text.contains("[[case]]") || block.text.contains("case:") => {
                let name = file(block).unwrap();
                if !name.starts_with("wrong") {
                    let (status, out, err) = folder.run(&["test", &last, name]);
                    assert_eq!((status, err.as_str()), (0, ""), "docs/policy.md:{}\n{out}", block.line);
                    cases += out.lines().filter(|line| line.starts_with("ok    ")).count();
                }
            }
            "toml" if block.text.contains("ports ") => {
                let (status, said) = check(&block.text, block.line);
                assert!(status == 0 && !said.contains("warning"), "{said}");
                last = file(block).map_or_else(|| "checked.toml".to_owned(), str::to_owned);
                policies += 1;
            }
            "toml" => {
                let (status, said) = check(&policy(&block.text), block.line);
                assert_eq!(status, 0, "{said}");
                fragments += 1;
            }
            "cel" => {
                for (i, line) in block.text.lines().enumerate() {
                    let (status, said) = check(&condition(line), block.line + 1 + i);
                    assert_eq!(status, 0, "{said}");
                    conditions += 1;
                }
            }
            "cel refused" => {
                for (i, line) in block.text.lines().enumerate() {
                    let (when, why) = line.split_once("//").unwrap();
                    let (status, said) = check(&condition(when.trim()), block.line + 1 + i);
                    assert!(status == 3 && said.contains(why.trim()), "{said}");
                    refused += 1;
                }
            }
            "console" => {
                let (command, shown) = block.text.split_once('\n').unwrap();
                let command = command.strip_prefix("$ ").unwrap();
                let bin = std::path::Path::new(env!("CARGO_BIN_EXE_protocg")).parent().unwrap().to_owned();
                let path = std::env::join_paths([bin, "/usr/bin".into(), "/bin".into()]).unwrap();
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{command} 2>&1")]).env("PATH", path).current_dir(folder.path(""));
                let output = shell.output().unwrap();
                assert_eq!(String::from_utf8(output.stdout).unwrap(), shown, "docs/policy.md:{}", block.line);
                commands += 1;
            }
            other => panic!("docs/policy.md:{}: nothing looks at a block of `{other}`", block.line),
        }
    }
    println!(
        "{policies} policies, {fragments} parts of some, {cases} cases, {conditions} conditions, {refused} refused, {commands} commands"
    );
    assert!(policies >= 4 && fragments >= 2 && cases >= 10 && conditions >= 30 && refused >= 12 && commands >= 4);
}

#[test]
fn the_commands_of_the_manual_are_those_of_the_program() {
    let manual = std::fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let folder = Folder::new(&[]);
    for verb in ["run", "check", "test", "explain", "init", "probe", "detach"] {
        let (status, help, _) = folder.run(&[verb, "--help"]);
        assert_eq!(status, 0);
        let section = manual.split(&format!("\n## {verb}\n")).nth(1).unwrap_or_else(|| panic!("no section on {verb}"));
        let section = section.split("\n## ").next().unwrap();
        // options begin lines: `  -q, --quiet` or `      --pin`
        let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let flags = options.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
        for flag in flags.map(|flag| flag.trim_end_matches('.')) {
            let general = ["--help", "--verbose", "--version"].contains(&flag);
            assert!(general || section.contains(flag), "docs/cli.md says nothing of `{verb} {flag}`");
        }
    }
}
