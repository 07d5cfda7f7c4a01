//! Libraries and runtimes as of today, where those of Debian 12 are older: OpenSSL 3.6, whose `SSL_write_ex` goes on in
//! `SSL_write_ex2`, node 24 on OpenSSL 3.5, whose objects are laid out anew, and Go 1.27 with C code in the program.

use std::path::{Path, PathBuf};
use std::process::Command;

use protocg_peers::harness::Stack;
use protocg_peers::harness::stack::{like, newer};

use crate::judged::judged;
use crate::stage::{HOOKS, Net, Stage, lacks, skip};

/// OpenSSL libraries that packages of the Python peers carry: libssl, and the libcrypto that it needs.
fn libraries() -> Vec<(PathBuf, PathBuf)> {
    let Some(venv) = std::env::var_os("PROTOCG_VENV") else { return Vec::new() };
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let begins =
        |path: &Path, text: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(text));
    let python = entries(&Path::new(&venv).join("lib")).into_iter().find(|path| begins(path, "python"));
    let packages = python.map(|python| entries(&python.join("site-packages"))).unwrap_or_default();
    let mut found: Vec<_> = packages.iter().filter(|path| path.extension().is_some_and(|end| end == "libs")).collect();
    found.sort();
    let pair = |folder: &&PathBuf| {
        let files = entries(folder);
        let of = |text: &str| files.iter().find(|path| begins(path, text)).cloned();
        Some((of("libssl-")?, of("libcrypto-")?))
    };
    found.iter().filter_map(pair).collect()
}

/// tonic's program with the library in place of the installed one.
fn with(program: Command, (ssl, crypto): &(PathBuf, PathBuf)) -> Command {
    let mut program = program;
    program.env("LD_PRELOAD", format!("{} {}", crypto.display(), ssl.display()));
    program
}

fn each_openssl(test: &str, run: impl Fn(&(PathBuf, PathBuf), &str)) {
    if skip(test) {
        return;
    }
    let found = libraries();
    if found.is_empty() {
        println!(
            "SKIPPED {test}: no package of python3 carries libssl (see tests/peers/python/setup.sh and PROTOCG_VENV)"
        );
    }
    for library in &found {
        println!("{}", library.0.display());
        run(library, &library.0.file_name().unwrap().to_string_lossy());
    }
}

#[test]
fn calls_to_a_server_of_todays_openssl() {
    let test = "tls-new-server";
    each_openssl(test, |library, name| {
        let server = with(Stack::Tonic.server(), library);
        let stage = Stage::serving_as(test, Stack::Tonic, server, Net::V4, HOOKS);
        judged(&stage, test, name, Some(stage.server.process().pid()));
    });
}

#[test]
fn calls_of_a_client_of_todays_openssl() {
    let test = "tls-new-client";
    each_openssl(test, |library, name| {
        let library = library.clone();
        let stage = Stage::calling_as(test, move || with(Stack::Tonic.client(), &library), HOOKS);
        judged(&stage, test, name, None);
    });
}

/// A stack's program of today; nothing if it is not there, which is said.
fn todays(test: &str, stack: Stack) -> Option<PathBuf> {
    if skip(test) || lacks(stack, test) {
        return None;
    }
    let program = newer(stack);
    if program.is_none() {
        println!(
            "SKIPPED {test}: today's version is not installed (see tests/peers/go/setup.sh and tests/peers/js/setup.sh)"
        );
    }
    program
}

fn serving(test: &str, stack: Stack) {
    let Some(program) = todays(test, stack) else { return };
    let stage = Stage::serving_as(test, stack, like(&stack.server(), &program), Net::V4, HOOKS);
    judged(&stage, test, &program.display().to_string(), Some(stage.server.process().pid()));
}

fn calling(test: &str, stack: Stack) {
    let Some(program) = todays(test, stack) else { return };
    let shown = program.display().to_string();
    judged(&Stage::calling_as(test, move || like(&stack.client(), &program), HOOKS), test, &shown, None);
}

#[test]
fn calls_to_a_server_of_todays_node() {
    serving("tls-new-js", Stack::Js);
}

#[test]
fn calls_of_a_client_of_todays_node() {
    calling("tls-new-js-client", Stack::Js);
}

#[test]
fn calls_to_a_server_of_todays_go() {
    serving("tls-new-go", Stack::Go);
}

#[test]
fn calls_of_a_client_of_todays_go() {
    calling("tls-new-go-client", Stack::Go);
}
