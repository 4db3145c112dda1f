//! Brings each group that this node leads to the members that it should have, a step at a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::limits::PROPOSE_ATTEMPT_MS;
use hearth_proto::{NodeId, v1};
use rustc_hash::FxHashMap;

use super::placement::{Candidate, Step, View};
use crate::cluster::Cluster;
use crate::raft::{Group, GroupError};
use crate::state::State;

/// How long one change of members may hold up the other duties.
const MEMBER_CHANGE_LIMIT: Duration = Duration::from_millis(PROPOSE_ATTEMPT_MS);

/// Since when this process has seen nodes down, by its own clock: how long a leader before it waited, or
/// what a clock on a wall says, counts for nothing.
#[derive(Debug, Default)]
pub(crate) struct Absences(Mutex<FxHashMap<NodeId, Instant>>);

impl Absences {
    /// Notes who is down now.
    fn note(&self, down: impl Iterator<Item = NodeId>, now: Instant) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *since);
        since.extend(down.map(|node| (node, before.get(&node).copied().unwrap_or(now))));
    }

    fn lasts(&self, node: NodeId, now: Instant) -> Duration {
        let since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(&node).map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }
}

impl Cluster {
    /// Looks who is down; called at each tick of the duties.
    pub(super) fn note_absences(&self) {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return };
        let down = control.nodes().filter(|node| node.state() == v1::NodeState::Down);
        self.0.absences.note(down.map(|node| NodeId(node.node_id)), Instant::now());
    }

    /// Takes one step, if there is one to take.
    pub(super) async fn place_members(&self, group: &Group) {
        let candidates = self.candidates();
        let members = group.membership();
        let step = View {
            leader: self.node_id(),
            candidates: &candidates,
            members: &members,
            is_caught_up: |node| group.is_caught_up(node),
        }
        .next_step();
        let Some(step) = step else { return };
        let change = async {
            match &step {
                Step::FinishChange => group.finish_change().await,
                Step::HandOver(to) => group.step_away(*to).await,
                Step::AddLearner(node, address) => group.add_learner(*node, address).await,
                Step::DropLearner(node) => group.drop_learner(*node).await,
                Step::ChangeVoters { add, remove } => group.change_voters(*add, *remove).await,
            }
        };
        let result: Result<(), GroupError> = match tokio::time::timeout(MEMBER_CHANGE_LIMIT, change).await {
            Ok(result) => result,
            Err(_) => {
                tracing::debug!(group = %group.id(), ?step, "a change of members takes long");
                return;
            }
        };
        match result {
            Ok(()) => tracing::info!(group = %group.id(), ?step, "members changed"),
            Err(error) => tracing::debug!(group = %group.id(), ?step, %error, "members not changed yet"),
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let (now, limit) = (Instant::now(), Duration::from_millis(self.0.tuning.voter_lost_after_ms));
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return Vec::new() };
        let candidate = |node: &v1::NodeRecord| {
            let id = NodeId(node.node_id);
            let serving = control.serving_incarnation(id).is_some();
            Candidate {
                node: id,
                address: node.control_address.clone(),
                zone: node.zone.clone(),
                serving,
                draining: node.draining,
                removed: node.state() == v1::NodeState::Removed,
                never_votes: node.never_votes,
                lost: !serving && self.0.absences.lasts(id, now) > limit,
            }
        };
        control.nodes().map(candidate).collect()
    }
}
