//! The agent: listens to the kernel, answers denied callers, prints.
//!
//! It decides nothing. While it is slow or gone the same is denied, only less politely.

pub mod core;
pub mod diag;
pub mod drain;
pub mod events;
pub mod foreign;
pub mod limit;
pub mod mend;
pub mod output;
pub mod reply;
mod retry;
pub mod ring;
pub mod silenced;
pub mod sockets;
pub mod sweep;
pub mod tls;
pub mod tried;
mod withheld;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};

use self::core::Core;
use self::drain::Signal;
use self::events::{Lost, Record};
use self::reply::Denial;
use self::ring::Ring;
use self::silenced::Silenced;
use self::sweep::Sweeper;
use crate::abi;
use crate::kernel::load;

const TICK: Duration = Duration::from_millis(250);
const FOREIGN: Duration = Duration::from_secs(10);
/// What looks at every connection or every process may take this share of the time: one twentieth.
const SHARE: u32 = 20;
/// How long connections that are being answered may take when the agent stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How the agent's loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<T> {
    /// It was asked to.
    Stopped(T),
    /// The last cgroup was removed.
    NoCgroup,
}

/// A record of the ring buffer.
#[derive(Debug)]
pub enum Heard {
    /// A decision, or what became of a connection.
    Event(abi::pg_event),
    /// A segment was dropped, and another may take its place.
    Hole(Box<abi::pg_hole_event>),
    /// A segment ahead of a gap was kept, and TCP has not got it.
    Withheld(abi::pg_withheld_event),
    /// A way around was tried.
    Guard(abi::pg_guard_event),
    /// Of the TLS plane.
    Tls(Box<abi::pg_tls_event>),
    /// A process has new code.
    New(u32),
    /// A process is stopped in a call with denied plaintext.
    Held,
}

impl Heard {
    fn read(bytes: &[u8]) -> Option<Self> {
        // The ring buffer rounds no lengths: they tell the six apart.
        if bytes.len() == size_of::<abi::pg_guard_event>() {
            return load::read(bytes).map(Self::Guard);
        }
        if bytes.len() == size_of::<abi::pg_hole_event>() {
            return load::read(bytes).map(Box::new).map(Self::Hole);
        }
        if bytes.len() == size_of::<abi::pg_withheld_event>() {
            return load::read(bytes).map(Self::Withheld);
        }
        if bytes.len() == size_of::<abi::pg_tls_event>() {
            return load::read(bytes).map(Box::new).map(Self::Tls);
        }
        if bytes.len() == size_of::<abi::pg_tls_new>() {
            let said = load::read::<abi::pg_tls_new>(bytes);
            return said.map(|it| if it.held == 0 { Self::New(it.process) } else { Self::Held });
        }
        load::read(bytes).map(Self::Event)
    }

    /// The connection, if it goes on and something is to be said on it. One that does not go on is known by its state.
    fn owed(&self) -> Option<u64> {
        match self {
            Self::Event(event) => (event.verdict == abi::PG_V_DENY && event.mends == 1).then_some(event.cookie),
            Self::Hole(hole) => (hole.about.type_ != abi::PG_EV_SILENCED).then_some(hole.about.cookie),
            _ => None,
        }
    }

    fn handle(&self, core: &Rc<Core>) {
        match self {
            Self::Event(event) => handle(core, event),
            Self::Guard(event) => print_guard(core, event),
            Self::Hole(hole) if hole.about.type_ == abi::PG_EV_SILENCED => {
                let denial = answer(core, &hole.about);
                core.attend(&hole.about, Signal::Silenced(Silenced { place: hole.clone(), denial }));
            }
            Self::Withheld(event) => core.withheld.borrow_mut().note(event),
            Self::Tls(event) => tls::handle(core, event),
            Self::New(process) => tls::look_soon(core, *process),
            Self::Held => tls::release(core),
            Self::Hole(hole) => core.attend(&hole.about, Signal::Hole(hole.clone())),
        }
    }
}

/// What was heard at once, in its order.
fn handle_all(core: &Rc<Core>, heard: &[Heard]) {
    heard.iter().for_each(|heard| heard.handle(core));
    withheld::acknowledge(core);
}

/// The kernel's events for an agent. Needs a runtime.
pub fn listen(core: &Rc<Core>) -> anyhow::Result<Ring<Heard>> {
    let hearer = Rc::clone(core);
    Ring::open(&core.shared.events, move |bytes| {
        let heard = Heard::read(bytes);
        // once this returns the kernel has it no more
        if let Some(cookie) = heard.as_ref().and_then(Heard::owed) {
            hearer.owe(cookie);
        }
        heard
    })
}

/// Works until `stop` is done or no cgroup is left.
pub async fn work<T>(
    core: &Rc<Core>,
    ring: &Ring<Heard>,
    known_foreign: HashSet<u64>,
    stop: impl Future<Output = T>,
) -> End<T> {
    let mut stop = std::pin::pin!(stop);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeper = Sweeper::new();
    let mut foreign = known_foreign;
    let mut foreign_due = Instant::now() + FOREIGN;
    sweep::cut_owed(core);
    loop {
        tokio::select! {
            done = &mut stop => return End::Stopped(done),
            events = ring.next() => {
                handle_all(core, &events);
                tokio::task::yield_now().await;
            }
            _ = tick.tick() => {
                tls::tick(core);
                handle_all(core, &ring.take());
                report_losses(core, sweeper.tick(core), false);
                if !still_there(core) {
                    return End::NoCgroup;
                }
                if Instant::now() >= foreign_due {
                    foreign_due = Instant::now() + FOREIGN;
                    let now = foreign::find(core);
                    for socket in now.iter().filter(|s| !foreign.contains(&s.cookie)) {
                        core.warn("foreign_socket", socket.text.clone());
                    }
                    foreign = now.into_iter().map(|s| s.cookie).collect();
                }
            }
        }
    }
}

/// The last things: answers under way, connections that must not outlive enforcement, counts.
pub async fn wind_up(core: &Rc<Core>, ring: &Ring<Heard>) {
    let bound = Instant::now() + LAST_ANSWERS;
    loop {
        handle_all(core, &ring.take());
        if core.attended_count() == 0 || Instant::now() >= bound {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    tls::tick(core);
    sweep::cut_all(core);
    report_losses(core, 0, true);
}

/// Acts on one event of the kernel.
pub fn handle(core: &Rc<Core>, event: &abi::pg_event) {
    match event.type_ {
        abi::PG_EV_DECISION | abi::PG_EV_CONNECTION => {
            if event.reason == abi::PG_R_TLS {
                print_with(core, event, |said| said.detail = tls::explain(core, event));
            } else {
                print(core, event);
            }
            // that of a server's response is acted on when it is known what stood before it, which is heard next
            let follows = event.type_ == abi::PG_EV_DECISION
                && event.response & abi::PG_RSP_JUDGED != 0
                && u32::from(event.role) == abi::PG_ROLE_SERVER;
            if event.verdict == abi::PG_V_DENY && !follows {
                let goes_on = event.mends == 1;
                let signal = denial(core, event).map_or(Signal::Cut, |denial| Signal::Denied { denial, goes_on });
                core.attend(event, signal);
            }
        }
        abi::PG_EV_UNDELIVERED => core.signal(event.cookie, Signal::Undelivered(undelivered(core, event))),
        abi::PG_EV_INJECTED => core.signal(event.cookie, Signal::Injected),
        abi::PG_EV_INJECT_FAILED => core.signal(event.cookie, Signal::InjectFailed),
        abi::PG_EV_DRAINED => core.signal(event.cookie, Signal::Drained),
        unknown => tracing::warn!("event of unknown type {unknown}"),
    }
}

/// What the caller is told: only a server's connection is answered on, and only about an RPC.
fn denial(core: &Core, event: &abi::pg_event) -> Option<Denial> {
    if event.type_ != abi::PG_EV_DECISION || u32::from(event.role) != abi::PG_ROLE_SERVER || event.stream == 0 {
        return None;
    }
    Some(answer(core, event))
}

fn answer(core: &Core, event: &abi::pg_event) -> Denial {
    let (status, message) = events::answer(&core.policy, event);
    let (stream, delivered, response) = (event.stream, event.delivered, event.response);
    let retry_ms = events::retry_ms(&core.policy, event);
    Denial { stream, delivered, response, status, message, retry_ms }
}

/// What the caller of a request is told that no rule denies, on a connection that ends for another's denial.
fn undelivered(core: &Core, event: &abi::pg_event) -> Denial {
    const UNAVAILABLE: u32 = 14;
    let message = format!("the connection ends after a denial by policy {}", core.policy.name);
    let (stream, delivered, response) = (event.stream, event.delivered, event.response);
    Denial { stream, delivered, response, status: UNAVAILABLE, message, retry_ms: None }
}

fn print(core: &Core, event: &abi::pg_event) {
    print_with(core, event, |_| ());
}

fn print_with(core: &Core, event: &abi::pg_event, more: impl FnOnce(&mut events::Decision)) {
    if !core.limiter.borrow_mut().admit(events::kind(event), Instant::now()) {
        return;
    }
    let exact = core.policy.methods.get(event.method as usize).filter(|m| m.exact).and_then(|m| m.path.clone());
    let path = exact.or_else(|| (event.text != 0).then(|| core.shared.text(event.conn, event.text)).flatten());
    let cgroup = events::cgroup_name(core.cgroup_path(event.cgroup).as_deref());
    let mut said = Box::new(events::decision(&core.policy, event, path.as_deref(), &cgroup));
    more(&mut said);
    core.say(&if event.type_ == abi::PG_EV_DECISION { Record::Decision(said) } else { Record::Connection(said) });
}

fn print_guard(core: &Core, event: &abi::pg_guard_event) {
    if !core.limiter.borrow_mut().admit(tried::kind(event), Instant::now()) {
        return;
    }
    let cgroup = (event.cgroup != 0).then(|| events::cgroup_name(core.cgroup_path(event.cgroup).as_deref()));
    core.say(&Record::Guard(Box::new(tried::record(&core.policy, event, cgroup))));
}

fn report_losses(core: &Core, kernel: u64, all: bool) {
    let mut sums: HashMap<(&'static str, String), u64> = HashMap::new();
    for (kind, count) in core.limiter.borrow_mut().summaries(Instant::now(), all) {
        *sums.entry(events::summary(&core.policy, kind)).or_default() += count;
    }
    for ((verdict, by), count) in sums {
        let (verdict, by) = (Some(verdict), Some(by));
        core.say(&Record::Lost(Lost { time: events::now(), at: "storm", count, verdict, by }));
    }
    for (at, count) in [("kernel", kernel), ("output", core.output.take_lost())] {
        if count > 0 {
            core.say(&Record::Lost(Lost { time: events::now(), at, count, verdict: None, by: None }));
        }
    }
}

/// Stops enforcing where the cgroup was removed. Says whether any is left.
fn still_there(core: &Core) -> bool {
    let gone: Vec<_> = core.attachments.borrow_mut().extract_if(.., |a| a.cgroup.is_gone()).collect();
    for attachment in gone {
        let path = attachment.cgroup.path.display().to_string();
        attachment.end();
        core.warn("cgroup_removed", format!("cgroup `{path}` was removed; nothing is left to enforce there"));
    }
    !core.attachments.borrow().is_empty()
}
