//! What must hold at every moment of every history; one file for each invariant.

mod acknowledged;
mod committed;
mod fence;
mod healed;
mod history;
mod incarnations;
mod leader_completeness;
mod linear_reads;
mod log_matching;
mod on_time;
mod one_claimant;
mod one_outcome;
mod pin_quota;
mod pins;
mod replicated_time;
mod reports;
mod retentions;
mod state_machine_safety;
mod tenancy;
mod vote_quorum;

use std::sync::Arc;

use hearth_cluster::Cluster;
use hearth_cluster::sim::GroupView;
use hearth_proto::GroupId;

use self::acknowledged::AcknowledgedSurvive;
use self::committed::Committed;
use self::fence::Fence;
use self::healed::Healed;
use self::history::History;
use self::incarnations::IncarnationsGrow;
use self::leader_completeness::LeaderCompleteness;
use self::log_matching::LogMatching;
pub(crate) use self::on_time::OnTime;
use self::one_claimant::OneClaimant;
use self::one_outcome::OneOutcome;
use self::pin_quota::PinQuota;
use self::pins::PinsLast;
use self::replicated_time::ReplicatedTime;
use self::reports::ReportsOnce;
use self::retentions::RetentionsLast;
use self::state_machine_safety::StateMachineSafety;
use self::tenancy::Tenancy;
use self::vote_quorum::VoteQuorum;
use crate::machine::Machine;
use crate::workload::{Acknowledged, Clients};
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
    history: History,
    tenancy: Tenancy,
    one_outcome: OneOutcome,
    replicated_time: ReplicatedTime,
    one_claimant: OneClaimant,
    retentions: RetentionsLast,
    pins: PinsLast,
    pin_quota: PinQuota,
    healed: Healed,
}

impl Checks {
    pub(crate) fn new(clients: Clients) -> Self {
        Self { clients, ..Self::default() }
    }

    /// # Errors
    /// The invariant that does not hold.
    pub(crate) fn check(&mut self, world: &World) -> Result<(), String> {
        if let Some(wrong) = self.clients.wrong().or_else(|| world.wrong()) {
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
        let acknowledged = self.clients.take_acknowledged();
        self.acknowledged.check(&acknowledged, &self.committed)?;
        self.incarnations.check(&seen)?;
        self.reports.check(&seen, &self.committed)?;
        self.fence.check(world, &seen)?;
        self.check_applied(world, &seen, &acknowledged)
    }

    /// Those that follow what entries did when they were applied.
    fn check_applied(
        &mut self,
        world: &World,
        seen: &[Seen],
        acknowledged: &[Acknowledged],
    ) -> Result<(), String> {
        let heard = world.take_applied();
        self.history.add(&heard);
        self.tenancy.follow(&self.history);
        let (history, tenancy) = (&self.history, &self.tenancy);
        self.one_outcome.check(world, &heard, acknowledged, history)?;
        self.replicated_time.check(world, seen, &heard, history)?;
        self.one_claimant.check(seen, history)?;
        self.retentions.check(seen, history)?;
        self.pins.check(seen, history, tenancy, &self.clients.take_pinned())?;
        self.pin_quota.check(seen, history, tenancy)?;
        linear_reads::check(world, &self.clients.take_reads(), history, tenancy)
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
            self.one_outcome.finish()?;
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
