//! Ways around the enforcer, each tried for real. `pg-escape` runs them inside a guarded cgroup; the tests know from the
//! same table which way of the guard each belongs to.

mod configure;
mod connect;
mod files;
mod libraries;
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
    /// A UNIX socket where somebody outside hands out a listening TCP socket, and a packet socket
    #[arg(long)]
    pub hand: PathBuf,
    /// A listening TCP socket that was inherited, as a descriptor
    #[arg(long)]
    pub inherited: i32,
    /// Another cgroup's list of processes, opened for writing outside and inherited, as a descriptor
    #[arg(long)]
    pub procs: i32,
    /// A file that is hooked: the attempts on TLS libraries are made, and no others
    #[arg(long)]
    pub library: Option<PathBuf>,
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
    attempt("transports", "smc_as_a_transport", make::smc_transport),
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
    attempt(
        "undeclared_connect",
        "a_datagram_elsewhere_by_an_ipv4_address_on_an_ipv6_socket",
        connect::datagram_v4_on_v6,
    ),
    attempt("undeclared_connect", "a_datagram_socket_connected_elsewhere", connect::datagram_connected),
    attempt("undeclared_connect", "a_datagram_by_a_source_route", connect::source_route),
    attempt("packet", "packet", make::packet),
    attempt("packet", "packet_of_the_old_kind", make::packet_old),
    attempt("packet", "xdp", make::xdp),
    attempt("vsock", "vsock", make::vsock),
    attempt("vsock", "vsock_by_a_thread_of_io_uring", make::vsock_by_sqpoll),
    attempt("families", "tipc", make::tipc),
    attempt("families", "smc", make::smc),
    attempt("netlink", "netfilter", make::netfilter),
    attempt("netlink", "ipsec", make::xfrm),
    attempt("netlink", "ipsec_of_one_socket", configure::ipsec_of_one_socket),
    attempt("netlink", "iptables_of_the_old_kind", configure::iptables),
    attempt("netlink", "iptables_of_the_old_kind_over_ipv6", configure::ip6tables),
    attempt("netlink", "a_filter_of_traffic_control", configure::filter),
    attempt("netlink", "a_filter_behind_other_messages", configure::filter_behind),
    attempt("unix_listen", "a_unix_listener", connect::unix_listener),
    attempt("foreign_sockets", "a_listener_that_was_inherited", connect::inherited),
    attempt("foreign_sockets", "a_listener_that_was_passed_in", connect::passed),
    attempt("foreign_sockets", "a_packet_socket_that_was_passed_in", connect::passed_packet),
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
    attempt("agent", "a_key_put_into_a_terminal", files::terminal_key),
    attempt("cgroup_escape", "pulling_the_agent_into_its_cgroup", files::pull_agent),
    attempt("cgroup_escape", "moving_by_a_descriptor_that_was_inherited", files::move_by_inherited),
    attempt("kernel", "a_program_for_core_dumps", files::core_pattern),
    attempt("kernel", "a_program_for_the_end", files::poweroff_cmd),
    attempt("kernel", "a_program_for_cgroups_that_are_left", files::release_agent),
    attempt("kernel", "a_parameter_of_a_module", files::module_parameter),
    attempt("kernel", "an_end_to_ftrace_and_with_it_to_lsm_programs", files::ftrace),
    attempt("kernel", "the_magic_key", files::sysrq),
    attempt("pins", "renaming_a_pin", files::rename_pin),
    attempt("pins", "unmounting_the_pins", files::unmount_pins),
    attempt("pins", "detaching_what_pins_lie_below", files::detach_parent),
    attempt("pins", "detaching_it_where_mounts_are_shared", files::detach_shared),
    attempt("pins", "removing_the_agents_lock", files::rename_lock),
    attempt("pins", "renaming_the_folder_of_locks", files::rename_notes),
    attempt("pins", "holding_the_agents_lock", files::open_lock),
    attempt("pins", "emptying_the_agents_note", files::truncate_note),
    attempt("ptrace", "tracing_a_process_outside", process::trace_outside),
    attempt("cgroup_escape", "moving_to_another_cgroup", files::move_out),
    attempt("cgroup_escape", "a_child_born_in_another_cgroup", files::clone_out),
    attempt("cgroup_escape", "freezing_another_cgroup", files::freeze_other),
    attempt("tun", "a_tunnel_device", files::tun),
    attempt("tun", "ppp", files::ppp),
    attempt("tun", "a_line_discipline", files::line_discipline),
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
    attempt("", "mounts_with_parameters", files::own_mount),
    attempt("", "questions_about_the_network", configure::question),
    attempt("", "options_of_sockets", configure::options),
];

/// What is tried on a hooked TLS library, and with one that no hook covers.
pub const ON_LIBRARIES: &[Attempt] = &[
    attempt("tls_text", "code_made_writable", libraries::writable),
    attempt("tls_text", "code_that_can_be_written", libraries::both),
    attempt("tls_text", "code_that_was_mapped_as_data", libraries::late),
    attempt("tls_text", "writing_the_file", libraries::write),
    attempt("tls_text", "emptying_the_file", libraries::truncate),
    attempt("tls_text", "writing_to_its_own_memory", libraries::own_memory),
    attempt("tls_text", "tracing_a_child", process::own_child),
    attempt("tls_text", "a_child_that_asks_to_be_traced", libraries::traceme),
    attempt("tls_library", "a_library_without_hooks", libraries::unhooked),
    attempt("tls_library", "a_library_without_hooks_mapped_as_data_first", libraries::unhooked_late),
    attempt("", "the_hooked_library_as_it_is", libraries::plain),
];

/// Tries all, each in a process of its own, and says what came of it: a line `NAME ERRNO` each, 0 if it worked.
pub fn run(args: &Args) -> ExitCode {
    for attempt in if args.library.is_some() { ON_LIBRARIES } else { ATTEMPTS } {
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
