//! Ways around the enforcer, each tried for real. `pg-escape` runs them inside a guarded cgroup; the tests know from the
//! same table which way of the guard each belongs to.

mod connect;
mod files;
mod make;
mod process;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// What the attempts need to know.
#[derive(Debug, Parser)]
pub struct Args {
    /// A TCP port of the policy
    #[arg(long)]
    pub policy_port: u16,
    /// A port that `[guard] listen` names
    #[arg(long)]
    pub declared_port: u16,
    /// A port that nothing names
    #[arg(long)]
    pub other_port: u16,
    /// A TCP port where something outside listens, at every address
    #[arg(long)]
    pub outside_port: u16,
    /// The agent's process
    #[arg(long)]
    pub agent: i32,
    /// A process outside the cgroup
    #[arg(long)]
    pub outside: i32,
    /// The folder with the agent's pins
    #[arg(long)]
    pub pins: PathBuf,
    /// The guarded cgroup
    #[arg(long)]
    pub own_cgroup: PathBuf,
    /// Another cgroup
    #[arg(long)]
    pub other_cgroup: PathBuf,
    /// A UNIX socket where somebody outside hands out listening TCP sockets
    #[arg(long)]
    pub hand: PathBuf,
    /// A listening TCP socket that was inherited, as a descriptor
    #[arg(long)]
    pub inherited: i32,
    /// Another cgroup's list of processes, opened for writing outside and inherited, as a descriptor
    #[arg(long)]
    pub procs: i32,
    /// How long to wait for what should happen at once, in milliseconds
    #[arg(long, default_value = "700")]
    pub patience: u64,
}

impl Args {
    /// For what should happen at once.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience)
    }
}

/// One way around, tried.
pub struct Attempt {
    /// Its name.
    pub name: &'static str,
    /// The guard's way that it belongs to; empty: it must work under the guard too.
    pub way: &'static str,
    /// The error that it ends with under the guard.
    pub refused: i32,
    /// Tries; `Ok`: it works.
    pub run: fn(&Args) -> io::Result<()>,
}

const fn attempt(way: &'static str, name: &'static str, run: fn(&Args) -> io::Result<()>) -> Attempt {
    Attempt { name, way, refused: libc::EPERM, run }
}

const fn unheard(way: &'static str, name: &'static str, run: fn(&Args) -> io::Result<()>) -> Attempt {
    Attempt { name, way, refused: libc::ETIMEDOUT, run }
}

/// All of them.
pub const ATTEMPTS: &[Attempt] = &[
    attempt("mptcp", "mptcp", make::mptcp),
    attempt("mptcp", "mptcp_over_ipv6", make::mptcp6),
    attempt("mptcp", "mptcp_by_io_uring", make::mptcp_by_io_uring),
    attempt("mptcp", "mptcp_in_another_network_namespace", make::mptcp_in_netns),
    attempt("raw", "raw_tcp", make::raw_tcp),
    attempt("raw", "raw_icmp_over_ipv6", make::raw6),
    attempt("raw", "raw_in_a_user_namespace", make::raw_in_userns),
    attempt("transports", "sctp", make::sctp),
    attempt("transports", "udplite", make::udplite),
    attempt("transports", "l2tp", make::l2tp),
    attempt("udp", "udp_bound_to_a_policy_port", connect::udp_policy_port),
    attempt("udp", "udp_bound_to_a_policy_port_over_ipv6", connect::udp_policy_port6),
    attempt("undeclared_listen", "a_listener_on_another_port", connect::listen_other),
    attempt("undeclared_listen", "a_listener_on_another_port_over_ipv6", connect::listen_other6),
    attempt("undeclared_listen", "a_listener_on_another_port_in_another_network_namespace", connect::listen_in_netns),
    unheard("undeclared_listen", "a_listener_on_a_port_of_the_kernels_choice", connect::listen_any),
    unheard("undeclared_listen", "a_listener_that_was_never_bound", connect::listen_unbound),
    unheard("undeclared_listen", "a_listener_that_was_never_bound_over_ipv6", connect::listen_unbound6),
    attempt("undeclared_connect", "a_connection_elsewhere", connect::elsewhere),
    attempt("undeclared_connect", "a_connection_elsewhere_by_a_mapped_address", connect::elsewhere_mapped),
    attempt("undeclared_connect", "a_connection_elsewhere_over_ipv6", connect::elsewhere6),
    attempt("undeclared_connect", "a_connection_to_the_unspecified_address", connect::unspecified),
    attempt("undeclared_connect", "a_connection_elsewhere_by_fast_open", connect::fast_open),
    attempt("undeclared_connect", "a_datagram_elsewhere", connect::datagram),
    attempt("undeclared_connect", "a_datagram_elsewhere_by_a_mapped_address", connect::datagram_mapped),
    attempt("undeclared_connect", "a_datagram_elsewhere_by_an_address_of_no_family", connect::datagram_unspec),
    attempt("packet", "packet", make::packet),
    attempt("packet", "packet_of_the_old_kind", make::packet_old),
    attempt("packet", "xdp", make::xdp),
    attempt("vsock", "vsock", make::vsock),
    attempt("families", "tipc", make::tipc),
    attempt("families", "smc", make::smc),
    attempt("netlink", "netfilter", make::netfilter),
    attempt("netlink", "ipsec", make::xfrm),
    attempt("unix_listen", "a_unix_listener", connect::unix_listener),
    attempt("foreign_sockets", "a_listener_that_was_inherited", connect::inherited),
    attempt("foreign_sockets", "a_listener_that_was_passed_in", connect::passed),
    attempt("ptrace", "a_listener_taken_from_a_process_outside", process::getfd_outside_listener),
    attempt("bpf", "bpf_map_create", process::bpf_map_create),
    attempt("bpf", "bpf_obj_get_of_a_pin", process::bpf_obj_get),
    attempt("agent", "tracing_the_agent", process::trace_agent),
    attempt("agent", "the_agents_memory", process::memory_of_agent),
    attempt("agent", "reading_the_agents_memory_by_a_call", process::vm_read_agent),
    attempt("agent", "taking_the_agents_descriptors", process::getfd_agent),
    attempt("agent", "a_signal_to_the_agent", process::signal_agent),
    attempt("agent", "a_signal_to_the_agents_thread", process::thread_signal_agent),
    attempt("agent", "a_signal_to_the_agent_by_pidfd", process::pidfd_signal_agent),
    attempt("agent", "a_limit_on_the_agent", process::limit_agent),
    attempt("agent", "the_agents_priority", process::nice_agent),
    attempt("agent", "the_agents_processors", process::affinity_agent),
    attempt("agent", "a_signal_to_the_agent_when_a_file_is_ready", process::sigio_agent),
    attempt("agent", "making_the_agent_the_first_to_go_when_memory_is_short", files::oom_agent),
    attempt("cgroup_escape", "pulling_the_agent_into_its_cgroup", files::pull_agent),
    attempt("cgroup_escape", "moving_by_a_descriptor_that_was_inherited", files::move_by_inherited),
    attempt("kernel", "a_program_for_core_dumps", files::core_pattern),
    attempt("kernel", "the_magic_key", files::sysrq),
    attempt("pins", "renaming_a_pin", files::rename_pin),
    attempt("pins", "unmounting_the_pins", files::unmount_pins),
    attempt("pins", "removing_the_agents_lock", files::rename_lock),
    attempt("ptrace", "tracing_a_process_outside", process::trace_outside),
    attempt("cgroup_escape", "moving_to_another_cgroup", files::move_out),
    attempt("cgroup_escape", "a_child_born_in_another_cgroup", files::clone_out),
    attempt("cgroup_escape", "freezing_another_cgroup", files::freeze_other),
    attempt("tun", "a_tunnel_device", files::tun),
    attempt("kernel", "a_kernel_module", process::module),
    attempt("kernel", "a_kernel_module_from_a_file", process::module_from_file),
    attempt("kernel", "a_probe_by_tracefs", files::tracefs),
    attempt("kernel", "the_machines_memory", files::dev_mem),
    attempt("", "a_listener_on_a_policy_port", connect::listen_policy),
    attempt("", "a_listener_on_a_declared_port", connect::listen_declared),
    attempt("", "udp_on_a_declared_port", connect::udp_declared),
    attempt("", "a_connection_where_it_may_go", connect::allowed),
    attempt("", "a_listener_that_asks_for_mptcp_and_falls_back", connect::falls_back),
    attempt("", "plain_sockets", make::plain),
    attempt("", "a_child_that_is_traced_and_killed", process::own_child),
    attempt("", "a_cgroup_below_its_own", files::child_cgroup),
];

/// Tries all, each in a process of its own, and says what came of it: a line `NAME ERRNO` each, 0 if it worked.
pub fn run(args: &Args) -> ExitCode {
    for attempt in ATTEMPTS {
        println!("{} {}", attempt.name, alone(args, attempt));
    }
    ExitCode::SUCCESS
}

fn alone(args: &Args, attempt: &Attempt) -> i32 {
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let status = match (attempt.run)(args) {
                Ok(()) => 0,
                Err(e) => e.raw_os_error().unwrap_or(255),
            };
            // SAFETY: ends the process, whatever the attempt has made of it.
            unsafe { libc::_exit(status) }
        }
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, status)) => status,
            _ => 255,
        },
        Err(e) => e as i32,
    }
}

/// A system call's result.
fn done(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
