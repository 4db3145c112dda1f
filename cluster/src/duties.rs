//! What the leaders do: declare silent nodes down, place members and voters, purge what dead nodes claimed.

use std::time::{Duration, Instant};

use hearth_proto::limits::{HEARTBEAT_MS, PROPOSE_ATTEMPT_MS, VOTERS_TARGET};
use hearth_proto::v1::command::Body;
use hearth_proto::{GroupId, Incarnation, NodeId, v1};

use crate::cluster::{Cluster, now_ms};
use crate::error::MemberError;
use crate::lookup::dead_holders;
use crate::raft::{Group, GroupError, LocalProposal};
use crate::state::{State, command};

/// How long one change of members may hold up the other duties.
const MEMBER_CHANGE_LIMIT: Duration = Duration::from_millis(PROPOSE_ATTEMPT_MS);

/// A node as placement sees it.
#[derive(Debug, Clone)]
struct Candidate {
    node: NodeId,
    address: String,
    serving: bool,
}

/// The next step towards the members that a group should have.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    AddLearner(NodeId, String),
    AddVoter(NodeId),
}

impl Cluster {
    /// Does the duties of whatever this node leads, for ever. The failure detector runs by itself, so
    /// that a slow change of members is not taken for a pause of this process.
    /// Returns only when a group has stopped here.
    pub(crate) async fn do_duties(&self) -> MemberError {
        tokio::select! {
            error = self.watch_nodes() => error,
            () = self.keep_order() => MemberError::Stopped { detail: "the duties ended".into() },
            () = self.end_what_is_due() => MemberError::Stopped { detail: "the duties ended".into() },
        }
    }

    async fn watch_nodes(&self) -> MemberError {
        let mut ticks = ticks();
        loop {
            ticks.tick().await;
            for group in self.all_groups() {
                if let Some(failure) = group.failure() {
                    return MemberError::Stopped { detail: format!("group {}: {failure}", group.id()) };
                }
            }
            futures::future::join_all(self.all_groups().map(|group| group.snapshot_if_due())).await;
            let term = self.0.control.leading_term();
            self.0.liveness.tick(term, Instant::now());
            if term.is_some() {
                self.declare_silent_down().await;
            }
        }
    }

    async fn keep_order(&self) {
        let mut ticks = ticks();
        loop {
            ticks.tick().await;
            // One that cannot change its members now holds up no other.
            futures::future::join_all(self.all_groups().map(async |group| {
                if group.leading_term().is_some() {
                    self.place_members(group).await;
                    if group.id() != GroupId::CONTROL {
                        self.purge_dead_claims(group).await;
                    }
                }
            }))
            .await;
        }
    }

    async fn declare_silent_down(&self) {
        let limit = Duration::from_millis(self.0.tuning.node_down_after_ms);
        let now = Instant::now();
        let silent: Vec<(NodeId, Incarnation)> = {
            let replicated = self.0.control.replicated();
            let State::Control(control) = &replicated.state else { return };
            control
                .nodes()
                .filter_map(|node| {
                    let id = NodeId(node.node_id);
                    control.serving_incarnation(id).map(|incarnation| (id, incarnation))
                })
                .filter(|(node, incarnation)| self.0.liveness.silence(*node, *incarnation, now) > limit)
                .collect()
        };
        for (node, incarnation) in silent {
            tracing::warn!(%node, %incarnation, "silent for too long, declared down");
            let down = v1::NodeDown { node_id: node.0, incarnation: incarnation.0 };
            propose_here(&self.0.control, Body::NodeDown(down)).await;
        }
    }

    async fn purge_dead_claims(&self, group: &Group) {
        let dead = {
            let control = self.0.control.replicated();
            let directory = group.replicated();
            let (State::Control(control), State::Directory(directory)) = (&control.state, &directory.state)
            else {
                return;
            };
            dead_holders(control, directory, now_ms())
        };
        for (node, incarnation) in dead {
            tracing::info!(%node, %incarnation, "claims of a node that is gone are purged");
            let purge = v1::PurgeClaims { node_id: node.0, incarnation: incarnation.0 };
            propose_here(group, Body::PurgeClaims(purge)).await;
        }
    }

    async fn place_members(&self, group: &Group) {
        let candidates: Vec<Candidate> = {
            let replicated = self.0.control.replicated();
            let State::Control(control) = &replicated.state else { return };
            let kept = control.nodes().filter(|node| node.state() != v1::NodeState::Removed);
            kept.map(|node| Candidate {
                node: NodeId(node.node_id),
                address: node.control_address.clone(),
                serving: control.serving_incarnation(NodeId(node.node_id)).is_some(),
            })
            .collect()
        };
        let (voters, learners) = group.members();
        let step = next_step(&candidates, &voters, &learners, |node| group.is_caught_up(node));
        let Some(step) = step else { return };
        let change = async {
            match &step {
                Step::AddLearner(node, address) => group.add_learner(*node, address).await,
                Step::AddVoter(node) => group.add_voter(*node).await,
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
}

/// A duty that fails is done at the next tick, by whoever leads then.
async fn propose_here(group: &Group, body: Body) {
    let command = command::new(body);
    let proposal = group.propose(&command, now_ms());
    match tokio::time::timeout(Duration::from_millis(PROPOSE_ATTEMPT_MS), proposal).await {
        Ok(LocalProposal::Applied(..) | LocalProposal::NotLeader(_)) => {}
        Ok(other) => tracing::debug!(?other, "a duty was not done"),
        Err(_) => tracing::debug!("a duty was not done in time"),
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// One change at a time: every node is a learner first, and votes once it is up and has the log.
fn next_step(
    candidates: &[Candidate],
    voters: &[NodeId],
    learners: &[NodeId],
    is_caught_up: impl Fn(NodeId) -> bool,
) -> Option<Step> {
    let stranger = candidates.iter().find(|candidate| {
        !voters.contains(&candidate.node)
            && !learners.contains(&candidate.node)
            && !candidate.address.is_empty()
    });
    if let Some(stranger) = stranger {
        return Some(Step::AddLearner(stranger.node, stranger.address.clone()));
    }
    if voters.len() >= VOTERS_TARGET {
        return None;
    }
    let fit = candidates.iter().find(|candidate| {
        learners.contains(&candidate.node) && candidate.serving && is_caught_up(candidate.node)
    });
    fit.map(|candidate| Step::AddVoter(candidate.node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: u64, serving: bool) -> Candidate {
        Candidate { node: NodeId(node), address: format!("h:{node}"), serving }
    }

    #[test]
    fn nodes_become_learners_then_voters_up_to_the_target() {
        let nodes: Vec<_> = (1..=5).map(|node| candidate(node, true)).collect();
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let step =
            |voters: &[u64], learners: &[u64]| next_step(&nodes, &ids(voters), &ids(learners), |_| true);
        assert_eq!(step(&[1], &[]), Some(Step::AddLearner(NodeId(2), "h:2".into())));
        assert_eq!(step(&[1], &[2, 3, 4, 5]), Some(Step::AddVoter(NodeId(2))));
        assert_eq!(step(&[1, 2], &[3, 4, 5]), Some(Step::AddVoter(NodeId(3))));
        assert_eq!(step(&[1, 2, 3], &[4, 5]), None);
    }

    #[test]
    fn a_node_that_is_down_or_behind_does_not_vote() {
        let nodes = [candidate(1, true), candidate(2, false), candidate(3, true)];
        let (voters, learners) = ([NodeId(1)], [NodeId(2), NodeId(3)]);
        assert_eq!(next_step(&nodes, &voters, &learners, |_| true), Some(Step::AddVoter(NodeId(3))));
        assert_eq!(next_step(&nodes, &voters, &learners, |_| false), None);
    }
}
