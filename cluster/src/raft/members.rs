//! Changes of a group's members, asked of its leader.

use std::collections::BTreeSet;

use hearth_proto::NodeId;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use super::group::{Group, GroupError};

/// The members of a group as a node knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Whoever votes; of a change that has begun and not ended, before and after it.
    pub(crate) voters: Vec<NodeId>,
    /// Whoever gets the log and does not vote.
    pub(crate) learners: Vec<NodeId>,
    /// A change of voters has begun and not ended.
    pub(crate) joint: bool,
}

impl Group {
    /// The members as this node knows them, those of a change that is not committed yet included.
    pub(crate) fn membership(&self) -> Members {
        let (voters, learners) = self.members();
        let receiver = self.raft().metrics();
        let metrics = receiver.borrow_watched();
        Members {
            voters,
            learners,
            joint: metrics.membership_config.membership().get_joint_config().len() > 1,
        }
    }

    /// Lets one node vote and another one vote no more, in one joint change: a quorum of those before and a
    /// quorum of those after agree to it, so at no time can two parts of the group decide without each other.
    /// Who votes no more stays a learner.
    ///
    /// # Cancel safety
    /// A change that is dropped may be left half done: [`Self::finish_change`] ends it.
    pub(crate) async fn change_voters(
        &self,
        add: Option<NodeId>,
        remove: Option<NodeId>,
    ) -> Result<(), GroupError> {
        let ids = |node: Option<NodeId>| node.map(|node| node.0).into_iter().collect::<BTreeSet<_>>();
        let change = ChangeMembers::Batch(vec![
            ChangeMembers::AddVoterIds(ids(add)),
            ChangeMembers::RemoveVoters(ids(remove)),
        ]);
        self.change(change).await
    }

    /// Ends a change of voters that its leader could not end.
    pub(crate) async fn finish_change(&self) -> Result<(), GroupError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await
    }

    /// Takes a member that does not vote out of the group.
    pub(crate) async fn drop_learner(&self, node: NodeId) -> Result<(), GroupError> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node.0]))).await
    }

    /// Asks another voter to lead in this node's place; it does if its log is as long.
    pub(crate) async fn step_away(&self, to: NodeId) -> Result<(), GroupError> {
        self.raft().trigger().transfer_leader(to.0).await.map_err(|error| self.failed(&error))
    }

    /// Begins a change of voters and leaves it half done, as a leader that stops in its middle does.
    #[cfg(test)]
    pub(crate) async fn begin_change(&self, add: NodeId, remove: NodeId) {
        let stored = self.raft().metrics().borrow_watched().membership_config.clone();
        let before: BTreeSet<u64> = stored.voter_ids().collect();
        let mut after = before.clone();
        assert!(after.insert(add.0) && after.remove(&remove.0));
        let nodes = stored.nodes().map(|(id, node)| (*id, node.clone()));
        let nodes: std::collections::BTreeMap<_, _> = nodes.collect();
        let joint = openraft::Membership::new(vec![before, after], nodes).unwrap();
        self.raft().append_membership(joint, openraft::EntryPayload::Blank, []).await.unwrap();
    }

    async fn change(&self, change: ChangeMembers<u64, openraft::impls::BasicNode>) -> Result<(), GroupError> {
        self.raft().change_membership(change, true).await.map(drop).map_err(|error| self.failed(&error))
    }
}
