//! Who votes: a pure choice of the next step towards the voters that a group should have.
//!
//! Every node is a learner first. Voters are as many as [`VOTERS_TARGET`], spread over zones; never an
//! observer, and nobody who is removed, draining or gone for long while somebody else will do. Steps that
//! would leave the group without a living quorum are not taken. Equal inputs give equal steps.

use std::collections::BTreeMap;

use hearth_proto::NodeId;
use hearth_proto::limits::VOTERS_TARGET;

use crate::raft::Members;

/// A node as placement sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidate {
    pub(super) node: NodeId,
    pub(super) address: String,
    pub(super) zone: String,
    /// Up, or draining and up.
    pub(super) serving: bool,
    pub(super) draining: bool,
    pub(super) removed: bool,
    pub(super) never_votes: bool,
    /// Down for so long that nobody waits for it any more.
    pub(super) lost: bool,
}

impl Candidate {
    /// May vote and is there to do it.
    fn is_fit(&self) -> bool {
        self.serving && !self.draining && !self.removed && !self.never_votes
    }

    /// How urgently another one should vote in its place; `None` when it may go on.
    fn flaw(&self) -> Option<Flaw> {
        match self {
            Self { removed: true, .. } => Some(Flaw::Removed),
            Self { never_votes: true, .. } => Some(Flaw::NeverVotes),
            Self { lost: true, .. } => Some(Flaw::Lost),
            Self { draining: true, .. } => Some(Flaw::Draining),
            _ => None,
        }
    }
}

/// Why a node should not vote, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Flaw {
    Removed,
    NeverVotes,
    Lost,
    Draining,
}

impl Flaw {
    /// Whether the node votes no more even if nobody takes its place.
    fn is_final(self) -> bool {
        matches!(self, Self::Removed | Self::NeverVotes)
    }
}

/// The next step towards the members that a group should have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ends a change of voters that an earlier leader began.
    FinishChange,
    /// Lets another voter lead.
    HandOver(NodeId),
    AddLearner(NodeId, String),
    DropLearner(NodeId),
    /// In one joint change.
    ChangeVoters {
        add: Option<NodeId>,
        remove: Option<NodeId>,
    },
}

/// What a leader knows when it chooses a step.
#[derive(Debug)]
pub(super) struct View<'a, F> {
    pub(super) leader: NodeId,
    pub(super) candidates: &'a [Candidate],
    pub(super) members: &'a Members,
    /// Whether a member's log is close to the leader's.
    pub(super) is_caught_up: F,
}

impl<F: Fn(NodeId) -> bool> View<'_, F> {
    /// One change at a time.
    pub(super) fn next_step(&self) -> Option<Step> {
        if self.members.joint {
            return Some(Step::FinishChange);
        }
        self.step_away()
            .or_else(|| self.drop_removed())
            .or_else(|| self.add_stranger())
            .or_else(|| self.replace_flawed())
            .or_else(|| self.add_voter())
            .or_else(|| self.spread())
    }

    /// A leader that should not vote hands over before it is taken out, so that the group hardly waits.
    fn step_away(&self) -> Option<Step> {
        self.candidate(self.leader)?.flaw()?;
        let heir = self
            .voters()
            .find(|voter| voter.node != self.leader && voter.is_fit() && (self.is_caught_up)(voter.node))?;
        Some(Step::HandOver(heir.node))
    }

    fn drop_removed(&self) -> Option<Step> {
        let learners = self.candidates.iter().filter(|of| self.members.learners.contains(&of.node));
        learners.into_iter().find(|of| of.removed).map(|of| Step::DropLearner(of.node))
    }

    fn add_stranger(&self) -> Option<Step> {
        let Members { voters, learners, .. } = self.members;
        let stranger = self.candidates.iter().find(|of| {
            !of.removed
                && !of.address.is_empty()
                && !voters.contains(&of.node)
                && !learners.contains(&of.node)
        })?;
        Some(Step::AddLearner(stranger.node, stranger.address.clone()))
    }

    fn replace_flawed(&self) -> Option<Step> {
        let mut flawed: Vec<_> = self.voters().filter_map(|of| Some((of.flaw()?, of.node))).collect();
        flawed.sort_unstable();
        flawed.into_iter().find_map(|(flaw, node)| {
            let add = self.best_learner(Some(node)).map(|of| of.node);
            let keeps_order = add.is_some() || flaw.is_final();
            (keeps_order && self.keeps_quorum(add, Some(node)))
                .then_some(Step::ChangeVoters { add, remove: Some(node) })
        })
    }

    fn add_voter(&self) -> Option<Step> {
        if self.members.voters.len() >= VOTERS_TARGET {
            return None;
        }
        let add = self.best_learner(None)?.node;
        Some(Step::ChangeVoters { add: Some(add), remove: None })
    }

    /// Exchanges one of several voters of a zone for a learner of a zone that has none.
    fn spread(&self) -> Option<Step> {
        let counts = self.zone_counts(None);
        let add = self.best_learner(None).filter(|of| !counts.contains_key(of.zone.as_str()))?;
        let (zone, _) =
            counts.iter().filter(|(_, count)| **count > 1).max_by_key(|(zone, count)| (**count, **zone))?;
        let remove = self.voters().filter(|of| of.zone == *zone && of.node != self.leader).last()?.node;
        self.keeps_quorum(Some(add.node), Some(remove))
            .then_some(Step::ChangeVoters { add: Some(add.node), remove: Some(remove) })
    }

    /// The learner to vote next: of the zone with the fewest voters, `without` one of them, the oldest node.
    fn best_learner(&self, without: Option<NodeId>) -> Option<&Candidate> {
        let counts = self.zone_counts(without);
        let fit = self.candidates.iter().filter(|of| {
            self.members.learners.contains(&of.node) && of.is_fit() && (self.is_caught_up)(of.node)
        });
        fit.min_by_key(|of| (counts.get(of.zone.as_str()).copied().unwrap_or(0), of.node))
    }

    fn zone_counts(&self, without: Option<NodeId>) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for voter in self.voters().filter(|of| Some(of.node) != without) {
            *counts.entry(voter.zone.as_str()).or_default() += 1;
        }
        counts
    }

    /// Whether most of the voters after a change are up.
    fn keeps_quorum(&self, add: Option<NodeId>, remove: Option<NodeId>) -> bool {
        let after = || {
            let kept = self.members.voters.iter().copied().filter(|node| Some(*node) != remove);
            kept.chain(add)
        };
        let living = after().filter(|node| self.candidate(*node).is_some_and(|of| of.serving && !of.removed));
        living.count() > after().count() / 2
    }

    fn voters(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|of| self.members.voters.contains(&of.node))
    }

    fn candidate(&self, node: NodeId) -> Option<&Candidate> {
        self.candidates.iter().find(|of| of.node == node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(node: u64, zone: &str) -> Candidate {
        let (address, zone) = (format!("h:{node}"), zone.to_owned());
        Candidate { node: NodeId(node), address, zone, serving: true, ..Default::default() }
    }

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn step(candidates: &[Candidate], voters: &[u64], learners: &[u64]) -> Option<Step> {
        let members = Members { voters: ids(voters), learners: ids(learners), joint: false };
        View { leader: NodeId(1), candidates, members: &members, is_caught_up: |_| true }.next_step()
    }

    fn change(add: Option<u64>, remove: Option<u64>) -> Option<Step> {
        Some(Step::ChangeVoters { add: add.map(NodeId), remove: remove.map(NodeId) })
    }

    #[test]
    fn nodes_become_learners_then_voters_up_to_the_target() {
        let nodes: Vec<_> = (1..=5).map(|node| up(node, "")).collect();
        assert_eq!(step(&nodes, &[1], &[]), Some(Step::AddLearner(NodeId(2), "h:2".into())));
        assert_eq!(step(&nodes, &[1], &[2, 3, 4, 5]), change(Some(2), None));
        assert_eq!(step(&nodes, &[1, 2], &[3, 4, 5]), change(Some(3), None));
        assert_eq!(step(&nodes, &[1, 2, 3], &[4, 5]), None);
    }

    #[test]
    fn a_node_that_is_down_behind_or_an_observer_does_not_vote() {
        let down = Candidate { serving: false, ..up(2, "") };
        let observer = Candidate { never_votes: true, ..up(3, "") };
        let nodes = [up(1, ""), down, observer, up(4, "")];
        assert_eq!(step(&nodes, &[1], &[2, 3, 4]), change(Some(4), None));
        let members = Members { voters: ids(&[1]), learners: ids(&[2, 3, 4]), joint: false };
        let behind =
            View { leader: NodeId(1), candidates: &nodes, members: &members, is_caught_up: |_| false };
        assert_eq!(behind.next_step(), None);
    }

    #[test]
    fn a_change_that_was_left_half_done_is_finished_before_anything_else() {
        let nodes = [up(1, ""), up(2, ""), up(3, "")];
        let members = Members { voters: ids(&[1, 2]), learners: ids(&[3]), joint: true };
        let view = View { leader: NodeId(1), candidates: &nodes, members: &members, is_caught_up: |_| true };
        assert_eq!(view.next_step(), Some(Step::FinishChange));
    }

    #[test]
    fn voters_are_spread_over_zones_as_they_come_and_afterwards() {
        let mut nodes = [up(1, "a"), up(2, "a"), up(3, "b"), up(4, "c")];
        assert_eq!(step(&nodes, &[1], &[2, 3, 4]), change(Some(3), None));
        assert_eq!(step(&nodes, &[1, 3], &[2, 4]), change(Some(4), None));
        assert_eq!(step(&nodes, &[1, 3, 4], &[2]), None);
        assert_eq!(step(&nodes, &[1, 2, 3], &[4]), change(Some(4), Some(2)));
        nodes[3].draining = true;
        assert_eq!(step(&nodes, &[1, 2, 3], &[4]), None, "no voter goes for a node that is draining");
    }

    #[test]
    fn a_lost_voter_is_replaced_and_kept_while_nobody_else_will_do() {
        let mut nodes = [up(1, "a"), up(2, "b"), up(3, "c"), up(4, "a"), up(5, "c")];
        nodes[2].serving = false;
        assert_eq!(step(&nodes, &[1, 2, 3], &[4, 5]), None, "it may come back");
        nodes[2].lost = true;
        assert_eq!(step(&nodes, &[1, 2, 3], &[4, 5]), change(Some(5), Some(3)), "one of its own zone");
        assert_eq!(step(&nodes[..3], &[1, 2, 3], &[]), None, "two of three are better than two of two");
    }

    #[test]
    fn a_removed_node_leaves_voters_and_learners() {
        let mut nodes = [up(1, ""), up(2, ""), up(3, ""), up(4, "")];
        nodes[2] = Candidate { removed: true, serving: false, ..up(3, "") };
        assert_eq!(step(&nodes, &[1, 2, 3], &[4]), change(Some(4), Some(3)));
        assert_eq!(step(&nodes, &[1, 2, 4], &[3]), Some(Step::DropLearner(NodeId(3))));
        assert_eq!(step(&nodes[..3], &[1, 2, 3], &[]), change(None, Some(3)), "nobody takes its place");
        assert_eq!(step(&nodes, &[1, 2, 4], &[]), None, "it is not taken in again");
    }

    #[test]
    fn no_step_leaves_a_group_without_a_living_quorum() {
        let mut nodes = [up(1, ""), up(2, ""), up(3, "")];
        nodes[1] = Candidate { removed: true, serving: false, ..up(2, "") };
        nodes[2] = Candidate { serving: false, lost: true, ..up(3, "") };
        assert_eq!(step(&nodes, &[1, 2, 3], &[]), None, "node 1 alone is no quorum of 1 and 3");
        assert_eq!(step(&nodes[..2], &[1, 2], &[]), change(None, Some(2)));
    }

    #[test]
    fn a_leader_that_should_not_vote_hands_over_first() {
        let mut nodes = [up(1, ""), up(2, ""), up(3, ""), up(4, "")];
        nodes[0].draining = true;
        assert_eq!(step(&nodes, &[1, 2, 3], &[4]), Some(Step::HandOver(NodeId(2))));
        nodes[1].serving = false;
        assert_eq!(step(&nodes, &[1, 2, 3], &[4]), Some(Step::HandOver(NodeId(3))));
        // Nobody to hand over to: another one votes first.
        assert_eq!(step(&nodes, &[1], &[2, 3, 4]), change(Some(3), Some(1)));
    }

    #[test]
    fn a_draining_voter_goes_when_another_will_do() {
        let mut nodes = [up(1, ""), up(2, ""), up(3, ""), up(4, "")];
        nodes[1].draining = true;
        assert_eq!(step(&nodes, &[1, 2, 3], &[4]), change(Some(4), Some(2)));
        assert_eq!(step(&nodes[..3], &[1, 2, 3], &[]), None);
    }
}
