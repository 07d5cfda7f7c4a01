//! `protocg run`: a policy, enforced.

use std::collections::HashSet;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use miette::miette;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use super::exit::{Exit, Failure};
use super::{Require, RunArgs, command};
use crate::agent::core::Core;
use crate::agent::events::{self, Format, Ready, Record};
use crate::agent::output::{Output, Target};
use crate::agent::{self, End, foreign};
use crate::cgroup::Cgroup;
use crate::kernel::attach::{self, Asked, Enforcer, Origin};
use crate::kernel::{self, KernelError};
use crate::policy::{self, Policy};
use crate::{abi, names};

/// Signals that end the agent, or go to the command.
const SIGNALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Enforces until it is told to stop, or until the command ends.
pub fn run(args: RunArgs, started: Instant) -> Result<ExitCode, Failure> {
    let mut policy = policy::load(&args.policy).map_err(|e| Failure::new(Exit::Policy, e))?;
    policy.tables.config.events_allowed = args.events_allowed.into();
    // what compiling took is free before loading needs more
    give_back_memory();
    kernel::require_privileges().map_err(|e| Failure::new(Exit::Permission, e))?;
    // Before any thread is made: all of them leave these signals to the descriptor.
    let lacking = tls_rung(&mut policy)?;
    let signals = signals().map_err(|e| failed("catch signals", e))?;
    let files = raise_files();

    let own = args.command.is_empty();
    let cgroups = if own { Cgroup::open_all(&args.cgroups) } else { Cgroup::make().map(|cgroup| vec![cgroup]) };
    let cgroups = cgroups.map_err(|e| Failure::new(Exit::Cgroup, e))?;
    let made = if own { None } else { cgroups.first().map(|c| c.path.clone()) };

    let result = enforce(&args, policy, lacking, cgroups, signals, files, started);
    if let Some(made) = made
        && let Ok(cgroup) = Cgroup::open(&made)
    {
        match cgroup.remove() {
            Ok(0) => {}
            Ok(n) => tracing::warn!("{n} processes that the command left behind were ended with their cgroup"),
            Err(e) => tracing::warn!("{e}"),
        }
    }
    result
}

fn enforce(
    args: &RunArgs,
    policy: Policy,
    lacking: Option<String>,
    cgroups: Vec<Cgroup>,
    signals: SignalFd,
    files: (u64, u64),
    started: Instant,
) -> Result<ExitCode, Failure> {
    let asked = Asked {
        pin: args.pin,
        whole_guard: args.require.contains(&Require::Guard),
        shared_pages: args.allow_shared_pages,
    };
    let enforcer = attach::enforce(cgroups, &policy, asked).map_err(|e| {
        let exit = match &e {
            KernelError::Busy { .. } => Exit::Busy,
            KernelError::Permission(_) => Exit::Permission,
            _ => Exit::Kernel,
        };
        Failure::new(exit, e)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed("start", e))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(args, policy, lacking, enforcer, signals, files, started))
}

async fn serve(
    args: &RunArgs,
    policy: Policy,
    lacking: Option<String>,
    enforcer: Enforcer,
    signals: SignalFd,
    files: (u64, u64),
    started: Instant,
) -> Result<ExitCode, Failure> {
    let Enforcer { shared, attachments, origin, pinned, guard, tls } = enforcer;
    let (hooks, lacking) = match tls {
        Ok(hooks) => (hooks, lacking),
        Err(why) => (None, Some(refused_tls(&why))),
    };
    let rung = hooks.as_ref().map_or(abi::PG_RUNG_NONE, |_| policy.tables.config.tls);
    let with_command = !args.command.is_empty();
    // A command's output is its own; JSON is asked for.
    let target = if with_command && args.events == Format::Human { Target::Stderr } else { Target::Stdout };
    let ready = Ready {
        time: String::new(),
        policy: policy.name.clone(),
        cgroups: attachments.iter().map(|a| a.cgroup.path.display().to_string()).collect(),
        origin: match origin {
            Origin::Fresh => "fresh",
            Origin::Adopted => "adopted",
            Origin::Exchanged => "exchanged",
        },
        pinned,
        audit: policy.tables.config.audit != 0,
        start_ms: 0,
        guard: guard.as_ref().map(|guard| guard.coverage.clone()),
        tls: policy.tls.map(|_| names::rung(rung).map_or("none", |(name, _)| name)),
    };
    let midstream = policy.tables.config.cause.get(abi::PG_CAUSE_MIDSTREAM as usize).copied();
    let cut_older = origin != Origin::Adopted && !ready.audit && midstream == Some(abi::PG_SWITCH_DENY as u8);
    for warning in &policy.warnings {
        tracing::warn!("{warning}");
    }
    let core = Rc::new(Core::new(shared, attachments, policy, args.drain, args.events, Output::start(target)));
    if let Some(text) = lacking {
        core.warn("tls", text);
    }
    if let Some(hooks) = hooks {
        agent::tls::begin(&core, hooks);
    }

    let known = refuse_foreign(&core, args.allow_foreign_sockets).inspect_err(|_| {
        // What was pinned before stays; what this run attached goes.
        if origin == Origin::Fresh {
            core.attachments.take().into_iter().for_each(attach::Attachment::end);
        }
    })?;
    let ring = agent::listen(&core).map_err(|e| Failure::new(Exit::Kernel, miette!("cannot read events: {e}")))?;
    if cut_older {
        let count = foreign::cut_older(&core);
        if count > 0 {
            core.warn("midstream", format!("{count} connections were older than the enforcer and have been closed"));
        }
    }
    if !kernel::may_take_sockets() {
        core.warn("no_replies", "without CAP_SYS_PTRACE denied callers get a reset instead of a status".to_owned());
    }
    // SAFETY: a signal descriptor owns its file and stays the same until it is dropped.
    let signals = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }
        .map_err(|e| failed("wait for signals", e))?;
    let mut child = match core.attachments.borrow().first() {
        Some(place) if with_command => Some(command::start(&args.command, &place.cgroup, files)?),
        _ => None,
    };
    let start_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    core.say(&Record::Ready(Ready { time: events::now(), start_ms, ..ready }));
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!("cannot notify the service manager: {e}");
    }
    give_back_memory();

    let end = agent::work(&core, &ring, known, stop(&signals, child.as_mut())).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    agent::wind_up(&core, &ring).await;
    if let Some(guard) = guard {
        // What is pinned goes on, with nobody to protect.
        let _ = guard.maps.set_agent(false);
    }
    match end {
        End::Stopped(Some(status)) => Ok(command::status(status)),
        End::Stopped(None) => Ok(Exit::Ok.into()),
        End::NoCgroup => Err(Failure::new(Exit::Cgroup, miette!("every enforced cgroup was removed"))),
    }
}

/// What compiling and loading took is free once they are over, and the C library would keep it: 16 MB after 10,000 rules.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it looks at free memory only, and any thread may call it.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Waits for a signal to stop; with a command, hands signals to it and waits for its end.
async fn stop(signals: &AsyncFd<SignalFd>, mut child: Option<&mut Child>) -> Option<std::process::ExitStatus> {
    loop {
        let signal = match child.as_deref_mut() {
            None => next_signal(signals).await,
            Some(child) => tokio::select! {
                ended = child.wait() => return Some(ended.unwrap_or_default()),
                signal = next_signal(signals) => signal,
            },
        };
        let (number, code) = (signal.ssi_signo.cast_signed(), signal.ssi_code);
        match (Signal::try_from(number), child.as_deref()) {
            (_, Some(child)) => command::forward(child, number, code),
            (Ok(Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGWINCH), None) => {}
            (_, None) => return None,
        }
    }
}

async fn next_signal(signals: &AsyncFd<SignalFd>) -> siginfo {
    loop {
        if let Ok(mut ready) = signals.readable().await {
            match ready.get_inner().read_signal() {
                Ok(Some(signal)) => return signal,
                _ => ready.clear_ready(),
            }
        }
    }
}

/// Says what is to be done to calls with denied plaintext, if the policy wants TLS to be read; or why that cannot be.
fn tls_rung(policy: &mut Policy) -> Result<Option<String>, Failure> {
    let Some(wanted) = policy.tls else { return Ok(None) };
    match kernel::tls::choose(wanted) {
        Ok(rung) => {
            policy.tables.config.tls = rung;
            Ok(None)
        }
        Err(why) if wanted.required => {
            let help = "without `required` in its [tls] section the policy starts, and TLS on policy ports is refused";
            Err(Failure::new(Exit::Kernel, miette!(help = help, "TLS cannot be read: {why}")))
        }
        Err(why) => Ok(Some(refused_tls(&why))),
    }
}

fn refused_tls(why: &str) -> String {
    format!("TLS is not read, and so refused on policy ports: {why}")
}

fn signals() -> nix::Result<SignalFd> {
    let set: SigSet = SIGNALS.into_iter().collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Copies of denied connections' descriptors need room. Returns what a command is to have.
fn raise_files() -> (u64, u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 4096));
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    (soft, hard)
}

fn refuse_foreign(core: &Core, allow: bool) -> Result<HashSet<u64>, Failure> {
    let found = foreign::find(core);
    for socket in &found {
        core.warn("foreign_socket", socket.text.clone());
    }
    if !found.is_empty() && !allow {
        let help = "start their processes inside the cgroup, or accept the gap with --allow-foreign-sockets";
        let count = found.len();
        return Err(Failure::new(
            Exit::Foreign,
            miette!(help = help, "{count} sockets on policy ports were made outside the cgroup"),
        ));
    }
    Ok(found.into_iter().map(|s| s.cookie).collect())
}

fn failed(what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, miette!("cannot {what}: {e}"))
}
