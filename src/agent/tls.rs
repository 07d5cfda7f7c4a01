//! The TLS plane's side of the agent: libraries of new processes are hooked, threads that were stopped in a call with
//! denied plaintext are sent on with a failed call, and events name the process.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::drain::Signal;
use super::{SHARE, events, print_with, sweep};
use crate::kernel::tls::Hooks;
use crate::{abi, names};

mod hold;

/// Sessions without connection are looked for this often.
const SWEEP: Duration = Duration::from_secs(10);

/// A process with new code is looked at again after these.
const LOOKS: [Duration; 3] = [Duration::from_millis(3), Duration::from_millis(10), Duration::from_millis(40)];

/// What the agent does about TLS from here on.
pub fn begin(core: &Rc<Core>, hooks: Hooks) {
    for path in hooks.hooked() {
        tracing::info!("the TLS library `{}` is hooked", path.display());
    }
    core.hooks.replace(Some(hooks));
    core.tls_swept.set(Some(Instant::now()));
}

/// Looks for new libraries, and for what events were lost for.
pub fn tick(core: &Rc<Core>) {
    if core.hooks.borrow().is_none() {
        return;
    }
    if core.tls_look_due.get().is_none_or(|due| Instant::now() >= due) {
        look(core);
    }
    release(core);
    let due = core.tls_swept.get().is_some_and(|at| at.elapsed() >= SWEEP);
    if due && let Some(hooks) = core.hooks.borrow_mut().as_mut() {
        core.tls_swept.set(Some(Instant::now()));
        let unread = hooks.sweep(|cookie| core.shared.conn(cookie).is_some());
        for conn in unread.into_iter().filter_map(|cookie| core.shared.conn(cookie)) {
            core.attend(&sweep::event_of(&conn), Signal::Cut);
        }
    }
}

/// Looks at all processes.
fn look(core: &Core) {
    let now = Instant::now();
    let processes = core.processes();
    look_at(core, &processes);
    if let Some(hooks) = core.hooks.borrow_mut().as_mut() {
        hooks.keep(&processes);
    }
    core.tls_look_due.set(Some(now + now.elapsed() * SHARE));
}

fn look_at(core: &Core, processes: &[u32]) {
    if let Some(hooks) = core.hooks.borrow_mut().as_mut() {
        for path in hooks.look(processes) {
            tracing::info!("the TLS library `{}` is hooked", path.display());
        }
    }
}

/// Looks at a process that has new code; once more a moment later, for a program that has just begun maps its libraries then, and
/// the first dynamic linker of its kind has no hook yet.
pub fn look_soon(core: &Rc<Core>, process: u32) {
    look_at(core, &[process]);
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        for pause in LOOKS {
            tokio::time::sleep(pause).await;
            look_at(&core, &[process]);
        }
    });
}

/// Acts on an event of the TLS plane.
pub fn handle(core: &Rc<Core>, event: &abi::pg_tls_event) {
    let about = &event.about;
    let denied = about.verdict == abi::PG_V_DENY;
    if !matches!(about.type_, abi::PG_EV_DECISION | abi::PG_EV_CONNECTION) {
        return;
    }
    print_with(core, about, |said| {
        let name: Vec<u8> = event.name.iter().copied().take_while(|byte| *byte != 0).collect();
        let library = core.hooks.borrow().as_ref().and_then(|hooks| hooks.library(event.library).map(Path::to_owned));
        said.plane = Some("tls");
        said.library = library.map(|path| path.display().to_string());
        said.enforcement = denied.then(|| names::rung(event.rung).map_or("none", |(name, _)| name));
        said.pid = Some(event.process);
        said.name = Some(events::printable(&String::from_utf8_lossy(&name)));
    });
    if denied {
        core.attend(about, Signal::Cut);
    }
}

/// Sends stopped threads on. Each says so itself, when it is about to stop.
pub fn release(core: &Rc<Core>) {
    let hooks = core.hooks.borrow();
    let Some(hooks) = hooks.as_ref() else { return };
    let mut processes: Vec<u32> = hooks.holds().iter().map(|hold| hold.process).collect();
    processes.sort_unstable();
    processes.dedup();
    for process in processes {
        let result = hold::release(process, || hooks.holds(), |thread| hooks.forget_hold(thread));
        if let Err(e) = result
            && core.tls_stuck.borrow_mut().insert(process)
        {
            core.warn(
                "tls_hold",
                format!("process {process} was stopped in a call with denied plaintext and stays so: {e}"),
            );
        }
    }
}

/// Which process has a TLS connection that was not read, and why it was not.
pub fn explain(core: &Core, event: &abi::pg_event) -> Option<String> {
    core.policy.tls?;
    // Its library may be new: the next connection is to find it hooked.
    look(core);
    let pid = core.owner(event.cookie)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let who = format!("process {pid} (`{}`)", events::printable(name.trim_end()));
    let hooks = core.hooks.borrow();
    let Some(hooks) = hooks.as_ref() else {
        return Some(format!("{who} is not hooked: nothing here keeps denied plaintext from it"));
    };
    let (hooked, others) = hooks.of_process(pid);
    let why = if hooks.is_unread(pid) {
        "is not read: it uses OpenSSL as a BIO (BIO_f_ssl), whose reads and writes cannot be hooked".to_owned()
    } else if !others.is_empty() {
        format!("is not hooked: it has {}", others.join(", "))
    } else if let Some(library) = hooked.first() {
        format!(
            "has `{}` hooked, and did not read this connection through it from its first byte on: it may have another TLS \
             library that is not hooked (BoringSSL, rustls), a memory BIO, or have begun before the hook",
            library.display()
        )
    } else {
        "is not hooked: no TLS library that is known was found in it".to_owned()
    };
    Some(format!("{who} {why}"))
}
