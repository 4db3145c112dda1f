//! Control: what an operator does to nodes and to the version of the commands.

use hearth_proto::{NodeId, v1};
use v1::{NodeState, RefusalReason};

use super::control::{Control, is_serving};
use super::outcome::{self, refused};

/// The newest command version that may be in the logs of a cluster that never finalized one.
pub(crate) const FINALIZED_FIRST: u32 = 2;

impl Control {
    /// The newest command version that may be in a log.
    pub(crate) fn finalized_version(&self) -> u32 {
        let version = self.cluster.as_ref().map_or(0, |cluster| cluster.finalized_version);
        version.max(FINALIZED_FIRST)
    }

    /// Whether the node was taken out for good.
    pub(crate) fn is_removed(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|node| node.state() == NodeState::Removed)
    }

    /// A node that is to be drained stays so while it is down and when it registers again.
    pub(super) fn drain(&mut self, stamp_ms: u64, drain: &v1::DrainNode) -> v1::Outcome {
        let id = NodeId(drain.node_id);
        let node = match self.living_node(id) {
            Ok(node) => node,
            Err(refused) => return refused,
        };
        let wanted = !drain.undo;
        if node.draining == wanted {
            return outcome::done(false);
        }
        node.draining = wanted;
        if is_serving(node) {
            node.set_state(if wanted { NodeState::Draining } else { NodeState::Up });
            node.changed_at_ms = stamp_ms;
        }
        outcome::done(true)
    }

    pub(super) fn remove(&mut self, stamp_ms: u64, remove: &v1::RemoveNode) -> v1::Outcome {
        let id = NodeId(remove.node_id);
        if self.is_removed(id) {
            return outcome::done(false);
        }
        // Whoever is left must be able to lead: not even force takes the last one that may vote.
        let others =
            self.nodes.values().any(|node| node.node_id != id.0 && is_serving(node) && !node.never_votes);
        let node = match self.living_node(id) {
            Ok(node) => node,
            Err(refused) => return refused,
        };
        if !others {
            let detail = format!("node {id} is the last one that is up and may vote; add another node first");
            return refused(RefusalReason::LastVoter, detail);
        }
        // What never registered holds nothing.
        if !remove.force && !node.draining && node.incarnation > 0 {
            let detail = format!(
                "node {id} is not drained: drain it first, or remove it with force and lose what only it holds"
            );
            return refused(RefusalReason::NotDrained, detail);
        }
        node.set_state(NodeState::Removed);
        node.changed_at_ms = stamp_ms;
        self.serving.remove(&id);
        outcome::done(true)
    }

    /// Replicas do not look at what nodes know: records of before an upgrade may lack it on some of them,
    /// and all must come to the same state. The leader looks, before it proposes.
    pub(super) fn finalize(&mut self, finalize: &v1::FinalizeVersion) -> v1::Outcome {
        let newest = self.finalized_version();
        let Some(cluster) = &mut self.cluster else {
            return refused(RefusalReason::NotFounded, "the cluster is not founded yet");
        };
        if finalize.version <= newest {
            return outcome::done(false);
        }
        if finalize.version > super::command::VERSION {
            return outcome::future_version(finalize.version);
        }
        cluster.finalized_version = finalize.version;
        outcome::done(true)
    }

    fn living_node(&mut self, id: NodeId) -> Result<&mut v1::NodeRecord, v1::Outcome> {
        match self.nodes.get_mut(&id) {
            None => Err(refused(RefusalReason::UnknownNode, format!("there is no node {id}"))),
            Some(node) if node.state() == NodeState::Removed => {
                Err(refused(RefusalReason::NodeRemoved, format!("node {id} was removed")))
            }
            Some(node) => Ok(node),
        }
    }
}
