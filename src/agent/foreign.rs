//! Sockets that cgroup programs do not see: made elsewhere, used by a process of the cgroup.
//!
//! A socket belongs to the cgroup that it was created in, and so does all that a listener accepts. A process that
//! was moved in, or was handed a socket (systemd's socket activation), serves past the enforcer.

use std::collections::HashSet;

use super::core::Core;
use super::diag::{CONNECTED, LISTENING};
use super::sockets;

/// A socket outside the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its cookie.
    pub cookie: u64,
    /// What to say about it.
    pub text: String,
}

/// Finds them.
pub fn find(core: &Core) -> Vec<Foreign> {
    let sockets = core.list_sockets(LISTENING | CONNECTED);
    if sockets.is_empty() {
        return Vec::new();
    }
    let owners = sockets::inodes(&core.processes());
    let inside: HashSet<u64> = core.tree().into_keys().collect();
    let mut found = Vec::new();
    for socket in sockets {
        // A kernel without cgroup ids in sock_diag tells nothing here; probe says so.
        let Some(cgroup) = socket.cgroup else { continue };
        let Some(pid) = owners.get(&u64::from(socket.inode)) else { continue };
        if inside.contains(&cgroup) {
            continue;
        }
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let what = if socket.listening {
            format!("listener on port {}", socket.local.1)
        } else {
            format!(
                "connection from {} port {} to {} port {}",
                socket.local.0, socket.local.1, socket.remote.0, socket.remote.1
            )
        };
        found.push(Foreign {
            cookie: socket.cookie,
            text: format!(
                "the {what} of process {pid} (`{}`) was made outside the cgroup and is not enforced; start the process \
                 inside the cgroup",
                name.trim_end()
            ),
        });
    }
    found
}

/// Closes connections on the policy's ports that are older than the enforcer. Says how many.
pub fn cut_older(core: &Core) -> usize {
    let inside: HashSet<u64> = core.tree().into_keys().collect();
    let older = core.list_sockets(CONNECTED).into_iter().filter(|socket| {
        socket.cgroup.is_some_and(|id| inside.contains(&id)) && core.shared.conn(socket.cookie).is_none()
    });
    older.filter(|socket| core.destroy_named(socket.cookie, socket.local, socket.remote)).count()
}
