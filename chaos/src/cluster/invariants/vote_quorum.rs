//! A leadership rests on votes that last: for ever after, a majority of those who could vote has that vote or a
//! later one on disk, whatever crashes. Otherwise one of them could vote again, and two could lead at once.
//!
//! *Source*: Raft paper, fig. 2, persistent state "updated on stable storage before responding to RPCs", and
//! fig. 3, Election Safety. openraft orders votes by term and node, so that it is a majority's vote, not the term
//! alone, of which there is one at a time.

use std::collections::BTreeMap;

use hearth_cluster::sim::LeaderView;
use hearth_proto::{GroupId, NodeId};

use super::{GROUPS, Seen};
use crate::world::{World, world};

/// Every leadership that was seen, with those whose votes counted.
#[derive(Default)]
pub(super) struct VoteQuorum {
    leaderships: BTreeMap<(GroupId, LeaderView), Vec<NodeId>>,
}

impl VoteQuorum {
    pub(super) fn check(&mut self, all: &World, seen: &[Seen]) -> Result<(), String> {
        for node in seen {
            for view in &node.groups {
                let Some(leadership) = view.leads else { continue };
                self.leaderships.entry((view.group, leadership)).or_insert_with(|| {
                    world().note(&format!(
                        "group {}: {} leads in term {}",
                        view.group, node.machine.name, leadership.0
                    ));
                    view.voters.clone()
                });
            }
        }
        for group in GROUPS {
            // Votes only grow, so the latest leadership needs most.
            let of_group = self.leaderships.range((group, (0, 0))..=(group, (u64::MAX, u64::MAX)));
            let Some(((_, leadership), voters)) = of_group.last() else { continue };
            let votes = |node: &NodeId| {
                let machine = all.machines.iter().find(|machine| machine.node_id() == Some(*node));
                machine
                    .and_then(|machine| machine.disk.vote_of(group))
                    .is_some_and(|vote| vote >= *leadership)
            };
            let lasting = voters.iter().filter(|node| votes(node)).count();
            if lasting <= voters.len() / 2 {
                return Err(format!(
                    "votes last: group {group}: of the voters {voters:?} only {lasting} still have the vote of {leadership:?}"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn leaderships(&self) -> u64 {
        self.leaderships.len() as u64
    }
}
