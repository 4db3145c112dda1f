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

#[cfg(test)]
mod tests {
    use hearth_proto::GroupId;
    use v1::command::Body;
    use v1::outcome::Kind;

    use super::super::State;
    use super::super::tests::{admit, apply, as_control, control, down, refusal, register};
    use super::*;

    fn drain(state: &mut State, node_id: u64, undo: bool) -> Kind {
        apply(state, 9, Body::DrainNode(v1::DrainNode { node_id, undo }))
    }

    fn remove(state: &mut State, node_id: u64, force: bool) -> Kind {
        apply(state, 9, Body::RemoveNode(v1::RemoveNode { node_id, force }))
    }

    fn finalize(state: &mut State, version: u32) -> Kind {
        apply(state, 9, Body::FinalizeVersion(v1::FinalizeVersion { version }))
    }

    fn done(changed: bool) -> Kind {
        Kind::Done(v1::Done { changed })
    }

    fn state_of(state: &State, node: u64) -> NodeState {
        as_control(state).node(NodeId(node)).unwrap().state()
    }

    /// Two nodes that are up.
    fn two() -> State {
        let mut state = control();
        admit(&mut state, 2);
        register(&mut state, 1, 1);
        register(&mut state, 2, 2);
        state
    }

    #[test]
    fn a_drain_lasts_until_it_is_undone_whatever_becomes_of_the_process() {
        let mut state = two();
        assert_eq!((drain(&mut state, 2, false), drain(&mut state, 2, false)), (done(true), done(false)));
        assert_eq!(state_of(&state, 2), NodeState::Draining);
        assert!(as_control(&state).serving_incarnation(NodeId(2)).is_some(), "it serves what it has");
        down(&mut state, 2, 1);
        assert_eq!(state_of(&state, 2), NodeState::Down);
        register(&mut state, 2, 3);
        assert_eq!(state_of(&state, 2), NodeState::Draining);
        assert_eq!((drain(&mut state, 2, true), drain(&mut state, 2, true)), (done(true), done(false)));
        assert_eq!(state_of(&state, 2), NodeState::Up);
        assert_eq!(refusal(&drain(&mut state, 7, false)), RefusalReason::UnknownNode);
    }

    #[test]
    fn a_node_is_removed_once_it_is_drained_or_with_force_and_stays_out() {
        let mut state = two();
        assert_eq!(refusal(&remove(&mut state, 2, false)), RefusalReason::NotDrained);
        drain(&mut state, 2, false);
        assert_eq!((remove(&mut state, 2, false), remove(&mut state, 2, false)), (done(true), done(false)));
        assert_eq!(as_control(&state).serving_incarnation(NodeId(2)), None, "INV-FENCE");
        assert_eq!(refusal(&register(&mut state, 2, 9)), RefusalReason::NodeRemoved);
        assert_eq!(refusal(&admit(&mut state, 2)), RefusalReason::NodeRemoved);
        assert_eq!(refusal(&drain(&mut state, 2, true)), RefusalReason::NodeRemoved);
        assert_eq!(down(&mut state, 2, 1), Kind::Marked(v1::NodeMarked { changed: false }));
        assert_eq!(admit(&mut state, 22), Kind::Admitted(v1::NodeAdmitted { node_id: 3 }), "a new identity");
        assert_eq!(remove(&mut state, 3, false), done(true), "what never registered holds nothing");
        assert_eq!(refusal(&remove(&mut state, 9, true)), RefusalReason::UnknownNode);
    }

    #[test]
    fn the_last_node_that_may_vote_is_not_removed() {
        let mut state = two();
        let observer = v1::RegisterNode {
            node_id: 2,
            boot_id: vec![5; 16].into(),
            never_votes: true,
            ..Default::default()
        };
        apply(&mut state, 8, Body::RegisterNode(observer));
        assert_eq!(refusal(&remove(&mut state, 1, true)), RefusalReason::LastVoter);
        register(&mut state, 2, 6);
        down(&mut state, 2, 3);
        assert_eq!(refusal(&remove(&mut state, 1, true)), RefusalReason::LastVoter, "the other one is down");
        register(&mut state, 2, 6);
        assert_eq!(remove(&mut state, 1, true), done(true));
    }

    #[test]
    fn a_finalized_version_only_grows_and_keeps_out_who_knows_less() {
        let mut state = two();
        assert_eq!(as_control(&state).finalized_version(), FINALIZED_FIRST);
        assert_eq!((finalize(&mut state, 3), finalize(&mut state, 3)), (done(true), done(false)));
        assert_eq!(finalize(&mut state, 2), done(false));
        assert_eq!(as_control(&state).finalized_version(), 3);
        assert_eq!(
            refusal(&finalize(&mut state, super::super::command::VERSION + 1)),
            RefusalReason::FutureVersion
        );
        assert_eq!(refusal(&register(&mut state, 2, 9)), RefusalReason::Version);
        let records = state.encode();
        let mut restored = State::new(GroupId::CONTROL);
        records.iter().for_each(|(key, value)| restored.restore(key, value).unwrap());
        assert_eq!(restored.encode(), records);
        assert_eq!(as_control(&restored).finalized_version(), 3);
    }
}
