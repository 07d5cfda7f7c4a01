//! What the agent's tasks share.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::diag::{self, Namespaces, Side};
use super::drain::{self, Signal};
use super::events::{self, Format, Record, Warning};
use super::limit::Limiter;
use super::mend::Senders;
use super::output::Output;
use super::sockets::{self, Sockets};
use super::withheld::Withheld;
use crate::abi;
use crate::cgroup::Cgroup;
use crate::kernel::attach::Attachment;
use crate::kernel::load::Shared;
use crate::kernel::tls::Hooks;
use crate::policy::{Direction, Policy};

/// Process lists and cgroup trees are read again after this long.
const FRESH: Duration = Duration::from_millis(50);

/// The agent's state. Tasks run on one thread and share it.
pub struct Core {
    /// The programs' maps.
    pub shared: Shared,
    /// The policy.
    pub policy: Policy,
    /// How long delivered RPCs may take to finish.
    pub drain: Duration,
    /// Enforced cgroups.
    pub attachments: RefCell<Vec<Attachment>>,
    format: Format,
    /// Where lines go.
    pub output: Output,
    /// Storms.
    pub limiter: RefCell<Limiter<events::Kind>>,
    sockets: RefCell<Sockets>,
    namespaces: RefCell<Namespaces>,
    processes: RefCell<(Option<Instant>, Vec<u32>)>,
    tree: RefCell<HashMap<u64, PathBuf>>,
    /// Hooks in TLS libraries.
    pub hooks: RefCell<Option<Hooks>>,
    /// When all processes are looked at again for TLS libraries, if no refused connection is a reason to before.
    pub tls_look_due: Cell<Option<Instant>>,
    /// When sessions of TLS were last swept.
    pub tls_swept: Cell<Option<Instant>>,
    /// Processes that could not be sent on.
    pub tls_stuck: RefCell<HashSet<u32>>,
    /// Senders of mended segments.
    pub senders: RefCell<Senders>,
    /// Segments to be acknowledged in a server's name.
    pub withheld: RefCell<Withheld>,
    attended: RefCell<HashMap<u64, UnboundedSender<Signal>>>,
    owed: RefCell<HashSet<u64>>,
}

impl Core {
    /// Puts it together.
    pub fn new(
        shared: Shared,
        attachments: Vec<Attachment>,
        policy: Policy,
        drain: Duration,
        format: Format,
        output: Output,
    ) -> Self {
        Self {
            shared,
            policy,
            drain,
            attachments: RefCell::new(attachments),
            format,
            output,
            limiter: RefCell::default(),
            sockets: RefCell::default(),
            namespaces: RefCell::default(),
            processes: RefCell::default(),
            tree: RefCell::default(),
            hooks: RefCell::default(),
            tls_look_due: Cell::default(),
            tls_swept: Cell::default(),
            tls_stuck: RefCell::default(),
            senders: RefCell::default(),
            withheld: RefCell::default(),
            attended: RefCell::default(),
            owed: RefCell::default(),
        }
    }

    /// Prints a record.
    pub fn say(&self, record: &Record) {
        self.output.line(record.write(self.format));
    }

    /// Prints a warning.
    pub fn warn(&self, warning: &'static str, text: String) {
        self.say(&Record::Warning(Warning { time: events::now(), warning, text }));
    }

    /// Which end's port is the policy's.
    pub fn side(&self) -> Side {
        match self.policy.direction {
            Direction::Ingress => Side::Local,
            Direction::Egress => Side::Remote,
        }
    }

    /// The processes in the enforced cgroups, at most a moment old.
    pub fn processes(&self) -> Vec<u32> {
        let mut cache = self.processes.borrow_mut();
        if cache.0.is_none_or(|at| at.elapsed() >= FRESH) {
            let attachments = self.attachments.borrow();
            *cache = (Some(Instant::now()), attachments.iter().flat_map(|a| a.cgroup.processes()).collect());
        }
        cache.1.clone()
    }

    /// Ids and paths of the enforced cgroups and all below them, read now.
    pub fn tree(&self) -> HashMap<u64, PathBuf> {
        let fresh: HashMap<u64, PathBuf> =
            self.attachments.borrow().iter().map(|a| &a.cgroup).flat_map(Cgroup::tree).collect();
        // Removed ones keep their name: events about them may still come.
        self.tree.borrow_mut().extend(fresh.clone());
        fresh
    }

    /// The path of a cgroup, by id.
    pub fn cgroup_path(&self, id: u64) -> Option<PathBuf> {
        if let Some(path) = self.tree.borrow().get(&id) {
            return Some(path.clone());
        }
        self.tree().remove(&id)
    }

    /// A copy of the descriptor of a socket of an enforced process.
    pub fn find_socket(&self, cookie: u64) -> Option<OwnedFd> {
        self.sockets.borrow_mut().find(cookie, &self.processes())
    }

    /// The same, if it was found before: nothing is searched.
    pub fn known_socket(&self, cookie: u64) -> Option<OwnedFd> {
        self.sockets.borrow_mut().known(cookie)
    }

    /// The process that has a socket.
    pub fn owner(&self, cookie: u64) -> Option<u32> {
        let mut sockets = self.sockets.borrow_mut();
        sockets.find(cookie, &self.processes())?;
        sockets.owner(cookie)
    }

    /// Lists TCP sockets on the policy's ports in every network namespace of the enforced processes.
    pub fn list_sockets(&self, states: u32) -> Vec<diag::Sock> {
        let ranges = self.policy.ports.ranges();
        let side = self.side();
        let mut found = Vec::new();
        for namespace in self.namespaces.borrow_mut().of(&self.processes()) {
            match namespace.list(states, side, &ranges) {
                Ok(sockets) => found.extend(sockets),
                Err(e) => tracing::warn!("cannot list sockets: {e}"),
            }
        }
        found
    }

    /// Takes a connection apart, by descriptor if there is one, else by name. Says whether that was possible.
    pub fn destroy(&self, event: &abi::pg_event, socket: Option<&OwnedFd>) -> bool {
        if let Some(socket) = socket
            && sockets::abort(socket).is_ok()
        {
            return true;
        }
        let local = (events::address(event.local), event.local_port);
        let remote = (events::address(event.remote), event.remote_port);
        self.destroy_named(event.cookie, local, remote)
    }

    /// Takes a connection apart by tuple and cookie.
    pub fn destroy_named(&self, cookie: u64, local: (std::net::IpAddr, u16), remote: (std::net::IpAddr, u16)) -> bool {
        let mut namespaces = self.namespaces.borrow_mut();
        namespaces.of(&self.processes()).any(|namespace| match namespace.destroy(cookie, local, remote) {
            Ok(()) => true,
            Err(e) => {
                tracing::debug!("cannot destroy the connection of cookie {cookie}: {e}");
                false
            }
        })
    }

    /// Hands what must be attended to to the connection's task; makes one if there is none.
    pub fn attend(self: &Rc<Self>, event: &abi::pg_event, signal: Signal) {
        let mut attended = self.attended.borrow_mut();
        let sender = attended.entry(event.cookie).or_insert_with(|| {
            let (sender, receiver) = unbounded_channel();
            tokio::task::spawn_local(drain::attend(Rc::clone(self), *event, receiver));
            sender
        });
        let _ = sender.send(signal);
    }

    /// Hands a further event to the connection's task, if there is one.
    pub fn signal(&self, cookie: u64, signal: Signal) {
        if let Some(sender) = self.attended.borrow().get(&cookie) {
            let _ = sender.send(signal);
        }
    }

    /// Whether a task attends to this connection.
    pub fn is_attended(&self, cookie: u64) -> bool {
        self.attended.borrow().contains_key(&cookie)
    }

    /// How many connections are attended to.
    pub fn attended_count(&self) -> usize {
        self.attended.borrow().len()
    }

    /// The task is done.
    pub fn forget(&self, cookie: u64) {
        self.attended.borrow_mut().remove(&cookie);
        self.settle(cookie);
    }

    /// Notes that a denial on the connection was heard of, before that is forgotten by the kernel: an agent that comes after
    /// this one, if it is killed, cuts what it left unanswered.
    pub fn owe(&self, cookie: u64) {
        if self.owed.borrow_mut().insert(cookie) {
            self.shared.owe(cookie);
        }
    }

    /// All that was heard of on the connection is answered.
    pub fn settle(&self, cookie: u64) {
        if self.owed.borrow_mut().remove(&cookie) {
            self.shared.settle(cookie);
        }
    }

    /// Whether something is to be answered on the connection.
    pub fn owes(&self, cookie: u64) -> bool {
        self.owed.borrow().contains(&cookie)
    }
}
