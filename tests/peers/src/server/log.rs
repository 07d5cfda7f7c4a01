//! What the handlers saw: one JSON line per event on stdout, and counters.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;
use serde_json::{Value, json};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Status};

use crate::{json as text, proto};

/// Handler events so far.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    calls: u64,
    messages: u64,
    ended: u64,
}

static COUNTS: Mutex<BTreeMap<&'static str, Count>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Metadata that every call has, and that says nothing about the caller's own.
const OWN: &[&str] = &["te", "user-agent", "content-type", "grpc-accept-encoding", "accept-encoding", "grpc-timeout"];

/// Prints one line, whole and at once.
pub fn line(value: impl Display) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more: the server goes on serving.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

fn count(method: &'static str, change: impl FnOnce(&mut Count)) {
    if let Ok(mut counts) = COUNTS.lock() {
        change(counts.entry(method).or_default());
    }
}

/// The counters: `{"/service/Method": {"calls": 1, "messages": 1, "ended": 1}}`.
pub fn counts() -> Value {
    let Ok(counts) = COUNTS.lock() else { return Value::Null };
    counts
        .iter()
        .map(|(method, c)| {
            ((*method).to_owned(), json!({ "calls": c.calls, "messages": c.messages, "ended": c.ended }))
        })
        .collect()
}

/// Forgets the counters.
pub fn reset() {
    if let Ok(mut counts) = COUNTS.lock() {
        counts.clear();
    }
}

/// One call in its handler. Dropped before [`Call::end`]: the caller went away.
#[derive(Debug)]
pub struct Call {
    id: u64,
    method: &'static str,
    messages: u64,
    ended: bool,
}

impl Call {
    /// The handler has been entered.
    pub fn start<T>(method: &'static str, request: &Request<T>) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        count(method, |c| c.calls += 1);
        let peer = request.remote_addr().map(|a| a.to_string());
        line(json!({
            "event": "start", "call": id, "method": method, "peer": peer, "metadata": pairs(request.metadata()),
        }));
        Self { id, method, messages: 0, ended: false }
    }

    /// The handler has got a message.
    pub fn message<M: Message>(&mut self, message: &M, name: &str) {
        count(self.method, |c| c.messages += 1);
        let kind = proto::pool().get_message_by_name(name);
        let bytes = message.encode_to_vec();
        line(json!({
            "event": "message", "call": self.id, "method": self.method, "index": self.messages,
            "size": bytes.len(), "digest": text::digest(&bytes), "fields": text::decode(&bytes, kind),
        }));
        self.messages += 1;
    }

    /// Messages so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The handler is done.
    pub fn end(&mut self, result: Result<(), &Status>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        count(self.method, |c| c.ended += 1);
        let (code, error) = match result {
            Ok(()) => (0, None),
            Err(status) => (status.code() as i32, Some(status.message())),
        };
        line(json!({
            "event": "end", "call": self.id, "method": self.method, "messages": self.messages,
            "code": code, "error": error,
        }));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Err(&Status::cancelled("the caller went away")));
    }
}

/// Metadata as a list of pairs, in order, repeated keys kept; binary values in base64.
pub fn pairs(metadata: &MetadataMap) -> Value {
    metadata
        .iter()
        .filter_map(|entry| {
            let (key, value) = match &entry {
                KeyAndValueRef::Ascii(key, value) => (key.as_str(), value.to_str().unwrap_or("?")),
                KeyAndValueRef::Binary(key, value) => {
                    (key.as_str(), std::str::from_utf8(value.as_encoded_bytes()).unwrap_or("?"))
                }
            };
            (!OWN.contains(&key)).then(|| json!([key, value]))
        })
        .collect()
}
