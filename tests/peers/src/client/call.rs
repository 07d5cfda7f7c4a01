//! One call: as it is read, made and reported.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use prost_reflect::MessageDescriptor;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::{Ascii, Binary, MetadataKey, MetadataMap, MetadataValue};
use tonic::{Request, Status};

use super::channel::{Link, Raw};
use crate::{json as text, server::log};

/// A call to make.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// `/service/Method`.
    pub method: String,
    /// `unary`, `client`, `server` or `bidi`; default: what the descriptors say, else unary.
    pub kind: Option<String>,
    #[serde(default)]
    pub messages: Vec<Value>,
    /// Pairs, in order; `-bin` values in base64.
    #[serde(default)]
    pub metadata: Vec<(String, String)>,
    pub deadline_ms: Option<u64>,
    /// Neighbours of one group run at once.
    pub group: Option<u64>,
    /// A pause before each message but the first.
    #[serde(default)]
    pub interval_ms: u64,
    /// Send the messages compressed by gzip.
    #[serde(default)]
    pub gzip: bool,
    /// Each message but the first waits for another reply.
    #[serde(default)]
    pub lockstep: bool,
    /// The client's side stays open until the call is over.
    #[serde(default)]
    pub hold: bool,
    /// Cancel the call when so many replies have come; with 0, [`BEGINNING`] after it began.
    pub cancel_after: Option<usize>,
    /// Comes back with the result.
    pub id: Option<Value>,
}

/// How a call went.
#[derive(Debug)]
pub struct Outcome {
    index: usize,
    id: Option<Value>,
    method: String,
    pub code: i32,
    pub message: String,
    cause: String,
    responses: Vec<Value>,
    digests: Vec<String>,
    response_count: usize,
    response_bytes: usize,
    pub latency: Duration,
    headers: Value,
    trailers: Value,
}

/// How long a call lasts at least that is cancelled before its first reply.
const BEGINNING: Duration = Duration::from_millis(50);

const CANCELLED: &str = "cancelled by the client";

/// More replies are counted but not printed.
const RESPONSES_SHOWN: usize = 16;

const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Outcome {
    /// The line that reports it.
    pub fn to_json(&self) -> Value {
        let status = usize::try_from(self.code).ok().and_then(|code| CODES.get(code)).unwrap_or(&"?");
        json!({
            "type": "result", "index": self.index, "id": self.id, "method": self.method,
            "code": self.code, "status": status, "message": self.message, "cause": self.cause,
            "responses": self.response_count, "response_bytes": self.response_bytes, "fields": self.responses, "digests": self.digests,
            "latency_ms": self.latency.as_secs_f64() * 1000.0, "headers": self.headers, "trailers": self.trailers,
        })
    }

    /// Did a reset, of the stream or of the connection, end it?
    pub fn reset(&self) -> bool {
        let text = format!("{} {}", self.message, self.cause).to_lowercase();
        ["reset", "broken pipe", "rst_stream"].iter().any(|word| text.contains(word))
    }

    fn fail(&mut self, status: &Status) {
        self.code = status.code() as i32;
        self.message = status.message().to_owned();
        self.trailers = log::pairs(status.metadata());
        let mut source = status.source();
        while let Some(cause) = source {
            self.cause.push_str(&format!("{}{cause}", if self.cause.is_empty() { "" } else { ": " }));
            source = cause.source();
        }
    }
}

/// Makes the call. An error is one of the script's; those of the call are in the outcome.
pub async fn make(link: Link, index: usize, call: Call) -> Result<Outcome> {
    let described = text::method(&call.method);
    let (input, output) = described.as_ref().map(|m| (m.input(), m.output())).unzip();
    let kind = match (&call.kind, &described) {
        (Some(kind), _) => kind.as_str(),
        (None, Some(m)) if m.is_client_streaming() && m.is_server_streaming() => "bidi",
        (None, Some(m)) if m.is_client_streaming() => "client",
        (None, Some(m)) if m.is_server_streaming() => "server",
        _ => "unary",
    };
    let messages = call
        .messages
        .iter()
        .map(|m| text::encode(m, input.clone()).with_context(|| format!("not a message of {}: {m}", call.method)))
        .collect::<Result<Vec<_>>>()?;
    if matches!(kind, "unary" | "server") && messages.len() != 1 {
        bail!("a call of kind {kind} has one message, not {}", messages.len());
    }
    let replies = Arc::new(Semaphore::new(0));
    let mut request = Request::new(outgoing(messages, &call, Arc::clone(&replies)));
    *request.metadata_mut() = metadata(&call.metadata)?;
    if let Some(deadline) = call.deadline_ms {
        request.set_timeout(Duration::from_millis(deadline));
    }
    let path = call.method.parse().with_context(|| format!("not a path: `{}`", call.method))?;
    let mut grpc = tonic::client::Grpc::new(link.channel)
        .max_decoding_message_size(usize::MAX)
        .accept_compressed(Gzip)
        .max_encoding_message_size(usize::MAX);
    if call.gzip {
        grpc = grpc.send_compressed(Gzip);
    }
    let mut outcome = Outcome {
        index,
        id: call.id,
        method: call.method,
        code: 0,
        message: String::new(),
        cause: String::new(),
        responses: Vec::new(),
        digests: Vec::new(),
        response_count: 0,
        response_bytes: 0,
        latency: Duration::ZERO,
        headers: Value::Null,
        trailers: Value::Null,
    };
    let start = Instant::now();
    let cancel_after = call.cancel_after;
    // The server's own deadline tells the caller too; this is for those that never answer.
    let limit = call.deadline_ms.map_or(Duration::from_secs(3600), |ms| Duration::from_millis(ms + 100));
    let talk = async {
        if let Err(status) = grpc.ready().await {
            return outcome.fail(&Status::unavailable(status.to_string()));
        }
        let single = matches!(kind, "unary" | "client");
        match grpc.streaming(request, path, Raw).await {
            Err(status) => outcome.fail(&status),
            Ok(response) => receive(&mut outcome, response, output, single, &replies, cancel_after).await,
        }
    };
    let limit = if cancel_after == Some(0) { BEGINNING } else { limit };
    if tokio::time::timeout(limit, talk).await.is_err() {
        outcome.fail(&match cancel_after {
            Some(0) => Status::cancelled(CANCELLED),
            _ => Status::deadline_exceeded("no answer by the deadline"),
        });
    }
    outcome.latency = start.elapsed();
    Ok(outcome)
}

async fn receive(
    outcome: &mut Outcome,
    response: tonic::Response<tonic::Streaming<Vec<u8>>>,
    kind: Option<MessageDescriptor>,
    single: bool,
    waiting: &Semaphore,
    cancel_after: Option<usize>,
) {
    outcome.headers = log::pairs(response.metadata());
    let mut replies = response.into_inner();
    loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                outcome.response_count += 1;
                outcome.response_bytes += reply.len();
                if outcome.responses.len() < RESPONSES_SHOWN {
                    outcome.responses.push(text::decode(&reply, kind.clone()));
                    outcome.digests.push(text::digest(&reply));
                }
                waiting.add_permits(1);
                // tonic cancels a call that is dropped.
                if cancel_after == Some(outcome.response_count) {
                    return outcome.fail(&Status::cancelled(CANCELLED));
                }
            }
            Ok(None) => break,
            Err(status) => return outcome.fail(&status),
        }
    }
    match replies.trailers().await {
        Ok(trailers) => outcome.trailers = trailers.as_ref().map_or(Value::Null, log::pairs),
        Err(status) => return outcome.fail(&status),
    }
    if single && outcome.response_count != 1 {
        outcome.fail(&Status::internal(format!("{} replies instead of one", outcome.response_count)));
    }
}

fn outgoing(
    messages: Vec<Vec<u8>>,
    call: &Call,
    replies: Arc<Semaphore>,
) -> impl tokio_stream::Stream<Item = Vec<u8>> + Send + 'static {
    let (interval, lockstep, hold) = (Duration::from_millis(call.interval_ms), call.lockstep, call.hold);
    let messages = tokio_stream::iter(messages.into_iter().enumerate()).then(move |(index, message)| {
        let replies = Arc::clone(&replies);
        async move {
            if index > 0 && !interval.is_zero() {
                tokio::time::sleep(interval).await;
            }
            if index > 0 && lockstep {
                // It is never closed.
                let _ = replies.acquire().await.map(|permit| permit.forget());
            }
            message
        }
    });
    let held = tokio_stream::iter(hold.then_some(())).then(|()| std::future::pending());
    messages.chain(held)
}

fn metadata(pairs: &[(String, String)]) -> Result<MetadataMap> {
    let mut map = MetadataMap::new();
    for (key, value) in pairs {
        let context = || format!("not metadata: {key}: {value}");
        if key.ends_with("-bin") {
            let key = MetadataKey::<Binary>::from_bytes(key.as_bytes()).with_context(context)?;
            // tonic encodes it itself.
            map.append_bin(key, MetadataValue::from_bytes(&unbase64(value).with_context(context)?));
        } else {
            let key = MetadataKey::<Ascii>::from_bytes(key.as_bytes()).with_context(context)?;
            map.append(key, MetadataValue::try_from(value.as_str()).with_context(context)?);
        }
    }
    Ok(map)
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => bail!("not base64"),
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Ok(out)
}
