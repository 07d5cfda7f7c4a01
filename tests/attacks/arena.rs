//! The servers that all attacks share, two of each stack: one under the enforcer, one not; and what their handlers saw.
//!
//! Each connection comes from an address of its own in 127.0.0.0/8, which names it in every log: ports come again soon.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use protocg_peers::h2raw::Style;
use protocg_peers::harness::{Cgroup, Place, Protocg, Server, Stack};
use serde_json::{Value as Json, json};

/// Who is attacked. One more needs words of its own only where a row does not say the same of all.
pub const SERVERS: &[(Stack, &str)] =
    &[(Stack::Tonic, "tonic"), (Stack::Grpcio, "grpcio"), (Stack::Go, "grpc-go"), (Stack::Js, "grpc-js")];

/// A rule on the messages of Echo, and what it denies as a handler sees it: the field's place, and how to tell its value.
struct Field {
    name: &'static str,
    when: &'static str,
    pointer: &'static str,
    denied: fn(&Json) -> bool,
}

fn secret(value: &Json) -> bool {
    value.as_str().is_some_and(|text| text.contains("SECRET"))
}

fn exactly(value: &Json) -> bool {
    value == "SECRET"
}

/// Numbers of 64 bits are strings in protobuf's JSON.
fn number(value: &Json) -> Option<f64> {
    value.as_str().map_or_else(|| value.as_f64(), |text| text.parse().ok())
}

fn plus(value: &Json) -> bool {
    number(value) == Some(666.0)
}

fn minus(value: &Json) -> bool {
    number(value) == Some(-666.0)
}

macro_rules! fields {
    ($($name:literal, $when:literal, $pointer:literal, $denied:expr;)*) => {
        const FIELDS: &[Field] = &[$(Field { name: $name, when: $when, pointer: $pointer, denied: $denied }),*];
    };
}

fields! {
    "text", r#"request.text.contains("SECRET")"#, "/text", secret;
    "payload", r#"request.payload.contains(b"SECRET")"#, "/payload",
        |v| v.as_str().is_some_and(|t| t.contains("U0VDUkVU") || t.contains("TRUNSRV") || t.contains("NFQ1JFV"));
    "flag", "request.flag", "/flag", |v| v == &json!(true);
    "i32", "request.i32 == 666 || request.i32 == -666", "/i32", |v| plus(v) || minus(v);
    "i64", "request.i64 == 666 || request.i64 == -666", "/i64", |v| plus(v) || minus(v);
    "u32", "request.u32 == 666u", "/u32", plus;
    "u64", "request.u64 == 666u", "/u64", plus;
    "s32", "request.s32 == -666", "/s32", minus;
    "s64", "request.s64 == -666", "/s64", minus;
    "f32", "request.f32 == 666u", "/f32", plus;
    "f64", "request.f64 == 666u", "/f64", plus;
    "sf32", "request.sf32 == -666", "/sf32", minus;
    "sf64", "request.sf64 == -666", "/sf64", minus;
    "f", "request.f == 666.0", "/f", plus;
    "d", "request.d == 666.0", "/d", plus;
    "color", "request.color == echo.Color.COLOR_RED || request.color == 666", "/color",
        |v| v == "COLOR_RED" || plus(v);
    "inner", r#"request.outer.middle.inner.name == "SECRET""#, "/outer/middle/inner/name", exactly;
    "level", "request.outer.level == 666", "/outer/level", plus;
    "choice", r#"request.choice_text == "SECRET""#, "/choice_text", exactly;
    "maybe", "request.maybe_number == 666", "/maybe_number", plus;
}

/// Everything is allowed but what a rule denies: the world in which a call that is misread gets through.
fn policy(ports: &[u16]) -> String {
    let mut text = format!(
        "name = \"attacks\"\nproto = [\"echo.proto\", \"search.proto\", \"login.proto\"]\nports = {ports:?}\n\
         default = \"allow\"\n[[deny]]\nname = \"slow\"\nmethods = [\"/echo.Echo/Slow\"]\n\
         [[deny]]\nname = \"role\"\nwhen = 'metadata[\"x-role\"] == \"intruder\"'\n\
         [[deny]]\nname = \"nobody\"\nmethods = [\"/login.LoginService/Login\"]\nwhen = 'request.user == \"\"'\n"
    );
    for field in FIELDS {
        text += &format!(
            "[[deny]]\nname = \"{}\"\nmethods = [\"/echo.Echo/*\"]\nwhen = '''{}'''\n",
            field.name, field.when
        );
    }
    text
}

/// Whether a handler was given what the policy denies: the policy once more, over what handlers print.
pub fn forbidden(event: &Json) -> bool {
    match event["event"].as_str() {
        Some("start") => {
            let intruder = |pair: &Json| pair[0] == "x-role" && pair[1] == "intruder";
            event["method"] == "/echo.Echo/Slow" || event["metadata"].as_array().is_some_and(|m| m.iter().any(intruder))
        }
        Some("message") if event["method"] == "/login.LoginService/Login" => event["fields"].get("user").is_none(),
        Some("message") => {
            FIELDS.iter().any(|f| event["fields"].pointer(f.pointer).is_some_and(|value| (f.denied)(value)))
        }
        _ => false,
    }
}

/// What handlers have seen, by the client's address.
#[derive(Default)]
struct Seen {
    parsed: usize,
    calls: HashMap<u64, IpAddr>,
    by_client: HashMap<IpAddr, Vec<Json>>,
}

impl Seen {
    fn read(&mut self, lines: &[String]) {
        for line in &lines[self.parsed..] {
            let Ok(mut event) = serde_json::from_str::<Json>(line) else { continue };
            let Some(call) = event["call"].as_u64() else { continue };
            if event["event"] == "start" {
                let peer: SocketAddr = event["peer"].as_str().unwrap().parse().unwrap();
                self.calls.insert(call, peer.ip());
            }
            let fields = event.as_object_mut().unwrap();
            ["call", "peer", "index", "size", "digest"].into_iter().for_each(|key| drop(fields.remove(key)));
            if event["event"] != "end" {
                self.by_client.entry(self.calls[&call]).or_default().push(event);
            }
        }
        self.parsed = lines.len();
    }
}

/// A server, and what is known of it.
pub struct Target {
    server: Server,
    seen: Mutex<Seen>,
    pub address: SocketAddr,
}

impl Target {
    fn new(stack: Stack, place: Place, more: &[&str]) -> Self {
        let server = Server::start_with(stack, place, SocketAddr::from(([127, 0, 0, 1], 0)), more);
        let address = server.address;
        Self { server, seen: Mutex::default(), address }
    }

    /// Waits until a handler has printed this text, and forgets and returns what handlers saw of some connections, each
    /// sorted.
    pub fn seen(&self, fence: &str, clients: &[IpAddr]) -> Vec<Vec<Json>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fence = format!("\"{fence}\"");
        self.server.process().wait_for(&fence, |lines| {
            seen.read(lines);
            lines.iter().rev().any(|line| line.contains(&fence)).then_some(())
        });
        let of = clients.iter().map(|client| {
            let mut events = seen.by_client.remove(client).unwrap_or_default();
            events.sort_by_key(ToString::to_string);
            events
        });
        of.collect()
    }
}

/// A stack's two servers.
pub struct Site {
    pub name: &'static str,
    pub off: Target,
    pub on: Target,
    cgroup: Cgroup,
}

/// Dropped in this order: the enforcer, the servers and their cgroups.
pub struct Arena {
    enforcer: Protocg,
    decided: Mutex<(usize, HashMap<IpAddr, Vec<String>>)>,
    pub sites: Vec<Site>,
    /// How innocent clients write their headers.
    pub style: Style,
}

impl Arena {
    /// Servers of these stacks, with more arguments; whatever table these have, innocent clients keep to it.
    pub fn new(servers: &[(Stack, &'static str)], more: &[&str]) -> Self {
        let mut sites = Vec::new();
        for (stack, name) in servers {
            if stack.lacks().is_some() {
                println!("SKIPPED attacks on {name}: it is not installed");
                continue;
            }
            let cgroup = Cgroup::new(&format!("attacks-{name}"));
            let off = Target::new(*stack, Place::default(), more);
            let on = Target::new(*stack, Place { cgroup: Some(&cgroup), net: None }, more);
            sites.push(Site { name, off, on, cgroup });
        }
        let ports: Vec<u16> = sites.iter().map(|site| site.on.address.port()).collect();
        let cgroups: Vec<&Cgroup> = sites.iter().map(|site| &site.cgroup).collect();
        let enforcer = Protocg::run(env!("CARGO_BIN_EXE_protocg"), &cgroups, &policy(&ports), &[]);
        let style = if more.is_empty() { Style::SMALL } else { Style::PLAIN };
        Self { enforcer, decided: Mutex::default(), sites, style }
    }

    /// The rules and reasons that a connection was denied for, so far.
    pub fn causes(&self, client: IpAddr) -> Vec<String> {
        let decided = RefCell::new(self.decided.lock().unwrap_or_else(PoisonError::into_inner));
        self.enforcer.process_lines(|lines| {
            let (parsed, by_client) = &mut **decided.borrow_mut();
            for line in &lines[*parsed..] {
                let event: Json = serde_json::from_str(line).unwrap();
                let Some(client) = event["network.peer.address"].as_str() else { continue };
                if event["verdict"] == "deny" {
                    let cause = event["reason"].as_str().or(event["rule"].as_str()).unwrap();
                    by_client.entry(client.parse().unwrap()).or_default().push(cause.to_owned());
                }
            }
            *parsed = lines.len();
            true
        });
        decided.into_inner().1.get(&client).cloned().unwrap_or_default()
    }
}

static ARENA: Mutex<Option<Arc<Arena>>> = Mutex::new(None);

extern "C" fn end() {
    drop(ARENA.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// The one arena, made by who comes first, and taken down when the process exits.
pub fn arena() -> Arc<Arena> {
    let mut arena = ARENA.lock().unwrap_or_else(PoisonError::into_inner);
    let made = arena.get_or_insert_with(|| {
        // SAFETY: the function takes nothing and may run at any time.
        unsafe { libc::atexit(end) };
        Arc::new(Arena::new(SERVERS, &[]))
    });
    Arc::clone(made)
}
