//! The plan of faults: what is done to which node, and when. Pure, and the same for the same seed.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// SIGKILL, and a new start after a while.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Pause,
}

/// One fault of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What is done.
    pub kind: FaultKind,
    /// To which node.
    pub node: usize,
    /// How long the cluster is left in peace before it.
    pub after: Duration,
    /// How long the node stays dead or paused.
    pub lasts: Duration,
}

/// Faults one after the other until `total` is used up; both kinds occur if there are two or more.
pub(crate) fn plan(rng: &mut ChaCha8Rng, nodes: usize, total: Duration) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut used = Duration::ZERO;
    loop {
        let kind = match faults.len() {
            0 => FaultKind::Kill,
            1 => FaultKind::Pause,
            _ if rng.random_bool(0.5) => FaultKind::Kill,
            _ => FaultKind::Pause,
        };
        let fault = Fault {
            kind,
            node: rng.random_range(0..nodes),
            after: Duration::from_millis(rng.random_range(300..1_500)),
            lasts: Duration::from_millis(rng.random_range(200..4_500)),
        };
        used += fault.after + fault.lasts;
        if used > total && faults.len() >= 2 {
            return faults;
        }
        faults.push(fault);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_seed_gives_one_plan_with_both_kinds_of_fault() {
        for seed in 0..50 {
            let plan_of = || plan(&mut ChaCha8Rng::seed_from_u64(seed), 3, Duration::from_secs(20));
            let faults = plan_of();
            assert_eq!(faults, plan_of(), "seed {seed}");
            for kind in [FaultKind::Kill, FaultKind::Pause] {
                assert!(faults.iter().any(|f| f.kind == kind && f.node < 3), "seed {seed}: {faults:?}");
            }
        }
    }
}
