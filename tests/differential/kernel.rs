//! The engine in the kernel, by BPF_PROG_TEST_RUN.

use protocg::kernel::load::{self, Replay};
use protocg::policy::Policy;
use protocg_peers::harness;

use crate::rig::show;

/// The least that BPF_PROG_TEST_RUN takes, and about the most that it is given here.
const CHUNK: (usize, usize) = (14, 1400);

pub struct Kernel(Replay);

impl Kernel {
    /// The programs with a policy; none where they cannot be loaded.
    pub fn new(policy: &Policy) -> Option<Kernel> {
        harness::possible().ok()?;
        Some(Kernel(load::replay(&policy.tables).unwrap()))
    }

    /// The events of a client's bytes on a new connection, and of what its server says then, if that is as much as the kernel
    /// takes; and whether all of them pass.
    pub fn run(&self, policy: &Policy, bytes: &[u8], says: &[u8]) -> (Vec<String>, bool) {
        let mut passes = true;
        let mut all = |bytes: &[u8], client: bool| {
            let mut rest = if client || bytes.len() >= CHUNK.0 { bytes } else { &[] };
            while !rest.is_empty() {
                let end = if rest.len() < CHUNK.1 + CHUNK.0 { rest.len() } else { CHUNK.1 };
                let (chunk, after) = rest.split_at(end);
                passes &= match client {
                    true => self.0.judge(chunk, rest.len() == bytes.len(), 1).unwrap().0,
                    false => self.0.judge_response(chunk).unwrap(),
                };
                rest = after;
            }
        };
        all(bytes, true);
        all(says, false);
        (self.0.events().unwrap().iter().map(|event| show(policy, event)).collect(), passes)
    }
}
