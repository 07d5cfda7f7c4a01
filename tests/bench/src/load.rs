//! The client: closed-loop calls over HTTP/2, every verdict counted, every call timed.
//!
//! It is one thread on a processor of its own. It speaks through the h2 crate alone, so that little of what is measured is
//! the client's.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use hdrhistogram::Histogram;
use http::Request;
use protocg_peers::wire::Message;
use serde::{Deserialize, Serialize};

use crate::cpu::{self, Sample, Used, Watch};

/// How calls look and how many there are at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// Its name in tables.
    pub name: String,
    /// `/service/Method`; its request has a string as field 1, and bytes as field 2.
    pub path: String,
    /// Connections, each with `streams` calls at once.
    pub connections: usize,
    /// Calls at once on a connection.
    pub streams: usize,
    /// Bytes of the string, which is the judged field.
    pub text: usize,
    /// Bytes of a field before it that no rule reads.
    pub skipped: usize,
    /// One stream for many messages, each waiting for the answer to the one before it.
    pub bidi: bool,
    /// Calls in a thousand whose string contains an A.
    pub denied: u64,
}

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After this long.
    Time(Duration),
    /// When so many calls are over.
    Calls(u64),
}

/// What became of the calls of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Answered with OK.
    pub ok: u64,
    /// Answered with a status that denies.
    pub denied: u64,
    /// Anything else.
    pub failed: u64,
    /// Connections made again because one was lost.
    pub reconnects: u64,
    /// How long it took.
    pub seconds: f64,
    /// Latency in microseconds: median, and so on.
    pub p50: f64,
    /// See above.
    pub p99: f64,
    /// See above.
    pub p999: f64,
    /// Processor time.
    pub used: Used,
}

impl Outcome {
    /// Calls that were answered as they should be, or not.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.ok + self.denied + self.failed
    }
}

/// INVALID_ARGUMENT and PERMISSION_DENIED.
const DENIALS: [&[u8]; 2] = [b"3", b"7"];
const TAIL: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Denied,
    Failed,
}

/// A connection, and how often it was made.
struct Link {
    sender: RefCell<SendRequest<Bytes>>,
    made: Cell<u64>,
    gate: tokio::sync::Mutex<()>,
}

struct State {
    target: SocketAddr,
    load: Load,
    allowed: (Request<()>, Bytes),
    denied: (Request<()>, Bytes),
    next: Cell<u64>,
    most: u64,
    measuring: Cell<bool>,
    stop: Cell<bool>,
    outcome: RefCell<Outcome>,
    latency: RefCell<Histogram<u64>>,
    over: tokio::sync::Notify,
}

/// Runs a load against a server, after a while in which nothing is measured, on the client's processor.
pub fn run(load: &Load, target: SocketAddr, warm: Duration, until: Until, watch: &Watch) -> Result<Outcome> {
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            cpu::pin(0, cpu::CLIENT)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new().block_on(&runtime, measure(load, target, warm, until, watch))
        });
        client.join().map_err(|_| anyhow!("the client panicked"))?
    })
    .with_context(|| format!("{} to {target}", load.name))
}

async fn measure(load: &Load, target: SocketAddr, warm: Duration, until: Until, watch: &Watch) -> Result<Outcome> {
    let state = Rc::new(State {
        target,
        load: load.clone(),
        allowed: (request(load, target, false)?, message(load, 'x')),
        denied: (request(load, target, true)?, message(load, 'A')),
        next: Cell::new(0),
        most: if let Until::Calls(calls) = until { calls } else { u64::MAX },
        measuring: Cell::new(false),
        stop: Cell::new(false),
        outcome: RefCell::default(),
        latency: RefCell::new(Histogram::new_with_bounds(1000, 60_000_000_000, 3)?),
        over: tokio::sync::Notify::new(),
    });
    let mut links = Vec::new();
    for _ in 0..load.connections {
        let sender = RefCell::new(connect(target).await?);
        links.push(Rc::new(Link { sender, made: Cell::new(0), gate: tokio::sync::Mutex::new(()) }));
    }
    // A counted run begins at its first call: what comes before it does not exist.
    let counted = matches!(until, Until::Calls(_));
    let (mut begin, mut start) = begin(&state, watch)?;
    for link in &links {
        for _ in 0..load.streams {
            tokio::task::spawn_local(work(Rc::clone(&state), Rc::clone(link)));
        }
    }
    if counted {
        state.over.notified().await;
    } else if let Until::Time(time) = until {
        state.measuring.set(false);
        tokio::time::sleep(warm).await;
        (begin, start) = self::begin(&state, watch)?;
        tokio::time::sleep(time).await;
    }
    state.measuring.set(false);
    let seconds = start.elapsed().as_secs_f64();
    let used = watch.sample()?.since(&begin);
    state.stop.set(true);
    let mut outcome = state.outcome.take();
    outcome.seconds = seconds;
    outcome.used = used;
    {
        let latency = state.latency.borrow();
        let at = |share| latency.value_at_quantile(share) as f64 / 1000.0;
        (outcome.p50, outcome.p99, outcome.p999) = (at(0.5), at(0.99), at(0.999));
    }
    // Calls under way come to their end, so that the next arm has the machine for itself.
    if !counted {
        let _ = tokio::time::timeout(TAIL, async {
            while Rc::strong_count(&state) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    Ok(outcome)
}

fn begin(state: &State, watch: &Watch) -> Result<(Sample, Instant)> {
    let sample = watch.sample()?;
    state.measuring.set(true);
    Ok((sample, Instant::now()))
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>> {
    let socket = tokio::net::TcpStream::connect(target).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .initial_max_send_streams(1024)
        .handshake(socket)
        .await?;
    // Its errors come up at the calls.
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender.ready().await?)
}

fn request(load: &Load, target: SocketAddr, deny: bool) -> Result<Request<()>> {
    let mut request = Request::post(format!("http://{target}{}", load.path))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "pg-bench");
    if deny {
        request = request.header("x-deny", "1"); // for enforcers that read metadata only
    }
    Ok(request.body(())?)
}

/// The judged field last, so that nothing can be decided before the message is whole.
fn message(load: &Load, last: char) -> Bytes {
    let mut text = "x".repeat(load.text.saturating_sub(1));
    text.push(last);
    let mut message = Message::new();
    if load.skipped > 0 {
        message = message.bytes(2, vec![b'A'; load.skipped]);
    }
    let message = message.bytes(1, text).bytes;
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(&message);
    out.freeze()
}

/// One call at a time, until there are no more.
async fn work(state: Rc<State>, link: Rc<Link>) {
    while !state.stop.get() {
        let index = state.next.get();
        if index >= state.most {
            return;
        }
        state.next.set(index + 1);
        let share = state.load.denied;
        let deny = (index + 1) * share / 1000 > index * share / 1000;
        let made = link.made.get();
        let start = Instant::now();
        let result = if state.load.bidi { talk(&state, &link).await } else { call(&state, &link, deny).await };
        match result {
            Ok(Some(verdict)) => state.count(verdict, start),
            Ok(None) => {}
            Err(_) => {
                state.count(Verdict::Failed, start);
                reconnect(&state, &link, made).await;
            }
        }
    }
}

impl State {
    fn count(&self, verdict: Verdict, start: Instant) {
        if !self.measuring.get() {
            return;
        }
        let mut outcome = self.outcome.borrow_mut();
        match verdict {
            Verdict::Ok => outcome.ok += 1,
            Verdict::Denied => outcome.denied += 1,
            Verdict::Failed => outcome.failed += 1,
        }
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latency.borrow_mut().saturating_record(ns);
        if outcome.calls() >= self.most {
            self.over.notify_one();
        }
    }
}

async fn reconnect(state: &State, link: &Link, made: u64) {
    let _one = link.gate.lock().await;
    if link.made.get() != made {
        return;
    }
    match connect(state.target).await {
        Ok(sender) => {
            link.sender.replace(sender);
            link.made.set(made + 1);
            if state.measuring.get() {
                state.outcome.borrow_mut().reconnects += 1;
            }
        }
        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
    }
}

/// An error is one of the connection; that of a stream is a verdict.
async fn call(state: &State, link: &Link, deny: bool) -> Result<Option<Verdict>> {
    let (request, body) = if deny { &state.denied } else { &state.allowed };
    let sender = link.sender.borrow().clone();
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request.clone(), false)?;
    stream.send_data(body.clone(), true)?;
    match verdict(response).await {
        Ok(verdict) => Ok(Some(verdict)),
        Err(error) if error.is_reset() => Ok(Some(Verdict::Failed)),
        Err(error) => Err(error.into()),
    }
}

async fn verdict(response: h2::client::ResponseFuture) -> Result<Verdict, h2::Error> {
    let response = response.await?;
    if let Some(verdict) = status(response.headers()) {
        return Ok(verdict);
    }
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let size = chunk?.len();
        body.flow_control().release_capacity(size)?;
    }
    Ok(body.trailers().await?.as_ref().and_then(status).unwrap_or(Verdict::Failed))
}

fn status(headers: &http::HeaderMap) -> Option<Verdict> {
    let status = headers.get("grpc-status")?.as_bytes();
    Some(match status {
        b"0" => Verdict::Ok,
        _ if DENIALS.contains(&status) => Verdict::Denied,
        _ => Verdict::Failed,
    })
}

/// Messages and answers on one stream, each counted as a call.
async fn talk(state: &State, link: &Link) -> Result<Option<Verdict>> {
    let sender = link.sender.borrow().clone();
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(state.allowed.0.clone(), false)?;
    let mut start = Instant::now();
    say(state, &mut stream)?;
    let response = response.await?;
    if status(response.headers()).is_some() {
        return Ok(Some(Verdict::Failed));
    }
    let mut body = response.into_body();
    loop {
        if !answer(&mut body).await? {
            return Ok(Some(Verdict::Failed));
        }
        state.count(Verdict::Ok, start);
        if state.stop.get() {
            stream.send_data(Bytes::new(), true)?;
            return Ok(None);
        }
        start = Instant::now();
        say(state, &mut stream)?;
    }
}

fn say(state: &State, stream: &mut SendStream<Bytes>) -> Result<()> {
    Ok(stream.send_data(state.allowed.1.clone(), false)?)
}

/// Reads one message; false if the stream ends instead.
async fn answer(body: &mut RecvStream) -> Result<bool> {
    let (mut have, mut want) = (BytesMut::new(), 5);
    while have.len() < want {
        let Some(chunk) = body.data().await else { return Ok(false) };
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        have.extend_from_slice(&chunk);
        if let [_, a, b, c, d, ..] = have[..] {
            want = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
        }
    }
    Ok(true)
}
