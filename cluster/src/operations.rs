//! What an operator does to the cluster: draining and removing nodes. (Versions are in `upgrade`.)

use std::time::Instant;

use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, NodeId, v1};
use v1::RefusalReason;

use crate::cluster::Cluster;
use crate::error::{OperateError, ProposeError};
use crate::fresh::Freshness;
use crate::state::{Control, command};

impl Cluster {
    /// Begins to move off a node what only it holds, or with `undo` ends that. A node that is drained votes
    /// nowhere where another one will do. Whether that changed anything.
    ///
    /// # Errors
    /// [`OperateError`]; after one of kind `Retry` the caller repeats the same call.
    pub async fn drain_node(
        &self,
        node: NodeId,
        undo: bool,
        deadline: Instant,
    ) -> Result<bool, OperateError> {
        self.operate(Body::DrainNode(v1::DrainNode { node_id: node.0, undo }), deadline).await
    }

    /// Takes a node out for good. It serves nothing from then on, leaves all groups and stops; neither it nor
    /// a process with its identity ever gets in again. Whether that changed anything.
    ///
    /// # Errors
    /// [`OperateError`]: refused while it is not drained, unless with `force`, and whenever too few voters
    /// would be left. After one of kind `Retry` the caller repeats the same call.
    pub async fn remove_node(
        &self,
        node: NodeId,
        force: bool,
        deadline: Instant,
    ) -> Result<bool, OperateError> {
        let newest = Freshness::Linearizable;
        let risk = self.read_control(&newest, deadline, |control| self.removal_risk(control, node)).await?;
        if let Some(detail) = risk {
            return Err(ProposeError::Refused { reason: RefusalReason::LastVoter, detail }.into());
        }
        self.operate(Body::RemoveNode(v1::RemoveNode { node_id: node.0, force }), deadline).await
    }

    pub(crate) async fn operate(&self, body: Body, deadline: Instant) -> Result<bool, OperateError> {
        match self.propose(GroupId::CONTROL, command::new(body), deadline).await? {
            (_, Kind::Done(done)) => Ok(done.changed),
            (_, other) => Err(OperateError::Unexpected { detail: format!("{other:?}") }),
        }
    }

    /// Names a group that could not do without the node: without it, too few of its voters are up, and nobody
    /// is there to vote in its place. The duties never take such a step; this says so before it is asked for.
    fn removal_risk(&self, control: &Control, node: NodeId) -> Option<String> {
        if control.is_removed(node) {
            return None;
        }
        let is_up = |id: &NodeId| control.serving_incarnation(*id).is_some();
        let replaced = |learners: &[NodeId]| {
            learners.iter().any(|id| {
                *id != node
                    && is_up(id)
                    && control.node(*id).is_some_and(|of| !of.never_votes && !of.draining)
            })
        };
        self.all_groups().find_map(|group| {
            let members = group.membership();
            if !members.voters.contains(&node) || replaced(&members.learners) {
                return None;
            }
            let rest: Vec<NodeId> = members.voters.into_iter().filter(|id| *id != node).collect();
            let missing: Vec<String> = rest.iter().filter(|id| !is_up(id)).map(ToString::to_string).collect();
            let living = rest.len() - missing.len();
            (living <= rest.len() / 2).then(|| {
                let down = match missing.as_slice() {
                    [] => "it is its last voter".to_owned(),
                    missing => format!("of its other voters, {} are down", missing.join(", ")),
                };
                format!("group {} cannot do without node {node}: {down}; add a node first", group.id())
            })
        })
    }
}
