//! Questions to a running server, from where no policy looks: a line in, a line of JSON out.
//!
//! - `counts`: the handlers' counters;
//! - `reset`: forget them;
//! - `mark ID`: print `{"event":"mark","id":"ID"}` on stdout, after which every earlier event has been printed.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::log;

/// Listens at ADDR:PORT or unix:PATH, and answers in threads of its own.
pub fn start(place: &str) -> Result<()> {
    let context = || format!("cannot listen on {place}");
    if let Some(path) = place.strip_prefix("unix:") {
        let listener = UnixListener::bind(path).with_context(context)?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(BufReader::new(&stream), &stream));
            }
        });
    } else {
        let listener = TcpListener::bind(place).with_context(context)?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(BufReader::new(&stream), &stream));
            }
        });
    }
    Ok(())
}

fn answer(input: impl BufRead, mut output: impl Write) {
    for question in input.lines() {
        let Ok(question) = question else { return };
        let reply = match question.split_once(' ') {
            None if question == "counts" => log::counts(),
            None if question == "reset" => {
                log::reset();
                json!({})
            }
            Some(("mark", id)) => {
                log::line(json!({ "event": "mark", "id": id }));
                json!({})
            }
            _ => Value::Null,
        };
        if writeln!(output, "{reply}").is_err() {
            return;
        }
    }
}
