//! The plan of faults: what is done to which node, and when. Pure, and the same for the same seed.

use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// What is done to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// SIGKILL of one node, and a new start after a while.
    Kill,
    /// SIGSTOP of one node, and SIGCONT after a while.
    Pause,
    /// SIGKILL of two nodes at once, a majority of three; both start again together.
    KillTwo,
    /// SIGKILL of every node; they start again one after the other, with pauses.
    KillAll,
}

impl FaultKind {
    /// Every kind, the milder first.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Pause, Self::KillTwo, Self::KillAll];
}

/// One fault of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is done.
    pub kind: FaultKind,
    /// To which nodes, in the order in which they come back.
    pub nodes: Vec<usize>,
    /// How long the cluster is left in peace before it.
    pub after: Duration,
    /// How long the nodes stay dead or paused.
    pub lasts: Duration,
    /// From the start of one node to that of the next; zero starts all at once.
    pub between: Duration,
}

impl Fault {
    fn draw(rng: &mut ChaCha8Rng, kind: FaultKind, nodes: usize) -> Self {
        let struck = match kind {
            FaultKind::Kill | FaultKind::Pause => 1,
            FaultKind::KillTwo => 2.min(nodes),
            FaultKind::KillAll => nodes,
        };
        let mut order: Vec<usize> = (0..nodes).collect();
        order.shuffle(rng);
        order.truncate(struck);
        let mut millis = |range| Duration::from_millis(rng.random_range(range));
        let (after, lasts, between) = match kind {
            FaultKind::Kill | FaultKind::Pause => (millis(300..1_500), millis(200..4_500), Duration::ZERO),
            FaultKind::KillTwo => (millis(300..1_500), millis(200..2_500), Duration::ZERO),
            FaultKind::KillAll => (millis(300..1_500), millis(200..1_000), millis(100..1_000)),
        };
        Self { kind, nodes: order, after, lasts, between }
    }

    /// How long the fault takes, with the peace before it.
    fn takes(&self) -> Duration {
        let starts = self.nodes.len().saturating_sub(1) as u32;
        self.after + self.lasts + self.between * starts
    }
}

/// Faults one after the other until `total` is used up; every kind occurs at least once.
pub(crate) fn plan(rng: &mut ChaCha8Rng, nodes: usize, total: Duration) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut used = Duration::ZERO;
    loop {
        let kind = match FaultKind::ALL.get(faults.len()) {
            Some(kind) => *kind,
            None => FaultKind::ALL[rng.random_range(0..FaultKind::ALL.len())],
        };
        let fault = Fault::draw(rng, kind, nodes);
        used += fault.takes();
        if used > total && faults.len() >= FaultKind::ALL.len() {
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
    fn a_seed_gives_one_plan_with_every_kind_of_fault() {
        for seed in 0..50 {
            let plan_of = || plan(&mut ChaCha8Rng::seed_from_u64(seed), 3, Duration::from_secs(20));
            let faults = plan_of();
            assert_eq!(faults, plan_of(), "seed {seed}");
            for kind in FaultKind::ALL {
                assert!(faults.iter().any(|f| f.kind == kind), "seed {seed}: {faults:?}");
            }
        }
    }

    #[test]
    fn a_fault_strikes_as_many_different_nodes_as_it_says_and_plans_are_bounded() {
        for seed in 0..50 {
            let faults = plan(&mut ChaCha8Rng::seed_from_u64(seed), 3, Duration::from_secs(20));
            for fault in &faults {
                let mut struck = fault.nodes.clone();
                struck.sort_unstable();
                struck.dedup();
                let wanted = match fault.kind {
                    FaultKind::Kill | FaultKind::Pause => 1,
                    FaultKind::KillTwo => 2,
                    FaultKind::KillAll => 3,
                };
                assert!(struck.len() == wanted && struck.iter().all(|n| *n < 3), "seed {seed}: {fault:?}");
                assert_eq!(fault.nodes.len(), wanted, "seed {seed}: {fault:?}");
            }
            let takes: Duration = faults.iter().map(Fault::takes).sum();
            assert!(takes <= Duration::from_secs(24), "seed {seed}: {takes:?}");
        }
    }
}
