//! `protocg detach`: the end of pinned enforcement.

use std::io::{self, Write};

use super::DetachArgs;
use super::exit::{Exit, Failure};
use crate::cgroup::{Cgroup, CgroupError};
use crate::kernel::attach::Lock;
use crate::kernel::{self, KernelError, pin};

/// Detaches.
pub fn detach(args: &DetachArgs) -> Result<Exit, Failure> {
    kernel::require_privileges().map_err(|e| Failure::new(Exit::Permission, e))?;
    let ids = if args.all {
        pin::list()
    } else {
        args.cgroups.iter().map(id_of).collect::<Result<_, _>>().map_err(|e| Failure::new(Exit::Cgroup, e))?
    };
    let mut ended = 0;
    for id in ids {
        let name = pin::note(id).map_or_else(|| id.to_string(), |note| note.cgroup.display().to_string());
        let lock = Lock::take(id, name.as_ref()).map_err(|e| match e {
            KernelError::Busy { .. } => Failure::new(Exit::Busy, e),
            e => Failure::new(Exit::Failed, e),
        })?;
        if pin::detach(id) {
            ended += 1;
            let _ = writeln!(io::stdout(), "enforcement on cgroup `{name}` ended");
        }
        drop(lock);
    }
    if ended == 0 {
        let _ = writeln!(io::stdout(), "nothing was pinned");
    }
    Ok(Exit::Ok)
}

/// The id of a cgroup, which may have been removed after its pins were made.
fn id_of(path: &std::path::PathBuf) -> Result<u64, CgroupError> {
    Cgroup::open(path).map(|cgroup| cgroup.id).or_else(|error| {
        let noted = |id: &u64| pin::note(*id).is_some_and(|note| &note.cgroup == path);
        pin::list().into_iter().find(noted).ok_or(error)
    })
}
