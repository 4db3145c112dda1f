//! Whoever leads has every entry that was committed before.
//!
//! *Source*: Raft paper, fig. 3, Leader Completeness.

use std::collections::BTreeSet;

use hearth_cluster::sim::LeaderView;
use hearth_proto::GroupId;

use super::Seen;
use super::committed::Committed;

/// The leaderships that were looked at.
#[derive(Default)]
pub(super) struct LeaderCompleteness(BTreeSet<(GroupId, LeaderView)>);

impl LeaderCompleteness {
    pub(super) fn check(&mut self, seen: &[Seen], committed: &Committed) -> Result<(), String> {
        for node in seen {
            for view in &node.groups {
                let Some(leadership) = view.leads else { continue };
                let Some(last) = committed.last(view.group) else { continue };
                // An entry of a later leadership says nothing about this one, which does not know yet that it ended.
                if last.leader > leadership || !self.0.insert((view.group, leadership)) {
                    continue;
                }
                let log = node.machine.disk.entries(view.group, last.index)?;
                let has =
                    log.first().is_some_and(|entry| entry.leader == last.leader && entry.index == last.index);
                if !has && view.applied.is_none_or(|(applied, _)| applied < last.index) {
                    let name = &node.machine.name;
                    return Err(format!(
                        "leader completeness: {name} leads as {leadership:?} and lacks {last:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
