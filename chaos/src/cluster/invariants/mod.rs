//! What must hold at every moment of every history; one file for each invariant.

mod acknowledged;
mod committed;
mod fence;
mod healed;
mod incarnations;
mod leader_completeness;
mod log_matching;
mod reports;
mod state_machine_safety;
mod vote_quorum;

use std::sync::Arc;

use hearth_cluster::Cluster;
use hearth_cluster::sim::GroupView;
use hearth_proto::GroupId;

use self::acknowledged::AcknowledgedSurvive;
use self::committed::Committed;
use self::fence::Fence;
use self::healed::Healed;
use self::incarnations::IncarnationsGrow;
use self::leader_completeness::LeaderCompleteness;
use self::log_matching::LogMatching;
use self::reports::ReportsOnce;
use self::state_machine_safety::StateMachineSafety;
use self::vote_quorum::VoteQuorum;
use crate::machine::Machine;
use crate::workload::Clients;
use crate::world::World;

/// The groups of a simulated cluster.
pub(crate) const GROUPS: [GroupId; 2] = [GroupId::CONTROL, GroupId::DIRECTORY];

/// A running node as a check finds it.
pub(crate) struct Seen {
    pub(crate) machine: Arc<Machine>,
    pub(crate) cluster: Cluster,
    pub(crate) groups: Vec<GroupView>,
}

impl Seen {
    pub(crate) fn group(&self, id: GroupId) -> &GroupView {
        self.groups.iter().find(|view| view.group == id).expect("every node has every group")
    }
}

/// All invariants with what they remember.
#[derive(Default)]
pub(crate) struct Checks {
    clients: Clients,
    committed: Committed,
    log_matching: LogMatching,
    vote_quorum: VoteQuorum,
    leader_completeness: LeaderCompleteness,
    state_machine_safety: StateMachineSafety,
    acknowledged: AcknowledgedSurvive,
    incarnations: IncarnationsGrow,
    reports: ReportsOnce,
    fence: Fence,
    healed: Healed,
}

impl Checks {
    pub(crate) fn new(clients: Clients) -> Self {
        Self { clients, ..Self::default() }
    }

    /// # Errors
    /// The invariant that does not hold.
    pub(crate) fn check(&mut self, world: &World) -> Result<(), String> {
        if let Some(wrong) = self.clients.wrong() {
            return Err(wrong);
        }
        for machine in &world.machines {
            if let Some(why) = machine.ended() {
                return Err(format!("a node ended by itself: {} says {why}", machine.name));
            }
        }
        let seen = see(world);
        self.committed.check(&seen)?;
        self.log_matching.check(world)?;
        self.vote_quorum.check(world, &seen)?;
        self.leader_completeness.check(&seen, &self.committed)?;
        self.state_machine_safety.check(&seen)?;
        self.acknowledged.check(self.clients.take_acknowledged(), &self.committed)?;
        self.incarnations.check(&seen)?;
        self.reports.check(&seen, &self.committed)?;
        self.fence.check(world, &seen)
    }

    /// From here on nothing fails any more.
    pub(crate) fn begin_healing(&mut self, world: &World) {
        self.healed.begin(world, &self.clients);
    }

    /// Whether the cluster is whole again.
    ///
    /// # Errors
    /// If it can never be.
    pub(crate) fn is_healed(&mut self, world: &World) -> Result<bool, String> {
        let healed = self.healed.look(world, &see(world), &self.clients);
        if healed {
            self.acknowledged.finish()?;
        }
        Ok(healed)
    }

    /// What keeps it from being whole.
    pub(crate) fn ailing(&self) -> &str {
        self.healed.ailing()
    }

    pub(crate) fn committed_count(&self) -> u64 {
        self.committed.count()
    }

    pub(crate) fn leaderships(&self) -> u64 {
        self.vote_quorum.leaderships()
    }

    pub(crate) fn snapshots_installed(&self) -> u64 {
        self.committed.skipped()
    }
}

fn see(world: &World) -> Vec<Seen> {
    let seen = |machine: &Arc<Machine>| {
        let cluster = machine.cluster()?;
        let groups = cluster.observe();
        Some(Seen { machine: machine.clone(), cluster, groups })
    };
    world.machines.iter().filter_map(seen).collect()
}
