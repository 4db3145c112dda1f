//! Committed entries never change: what one node applied at an index, every node applies there, in every life.
//!
//! *Source*: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", fig. 3, State Machine
//! Safety: "if a server has applied a log entry at a given index to its state machine, no other server will ever
//! apply a different log entry for the same index".

use std::collections::BTreeMap;

use hearth_cluster::sim::EntryView;
use hearth_proto::GroupId;

use super::Seen;

/// The entries of all groups that some node has applied.
#[derive(Default)]
pub(super) struct Committed {
    entries: BTreeMap<(GroupId, u64), EntryView>,
    /// How far each life of each machine was looked at.
    looked: BTreeMap<(usize, u8, GroupId), u64>,
    skipped: u64,
}

impl Committed {
    pub(super) fn check(&mut self, seen: &[Seen]) -> Result<(), String> {
        for node in seen {
            for view in &node.groups {
                let Some((applied, leader)) = view.applied else { continue };
                let life = (node.machine.index, node.machine.life(), view.group);
                let from = self.looked.get(&life).map_or(0, |looked| looked + 1);
                if applied < from {
                    continue;
                }
                self.looked.insert(life, applied);
                let name = &node.machine.name;
                let log = node.machine.disk.entries(view.group, from);
                let log = log.map_err(|error| format!("log: {name}, group {}: {error}", view.group))?;
                // What came by snapshot is not in the log; that the states agree is checked elsewhere.
                if log.first().is_none_or(|first| first.index > from) {
                    self.skipped += u64::from(from > 0);
                }
                for entry in log.into_iter().take_while(|entry| entry.index <= applied) {
                    if entry.index == applied && entry.leader != leader {
                        return Err(format!(
                            "{name} applied {applied} of {leader:?} and its log has {entry:?}"
                        ));
                    }
                    self.add(view.group, entry, name)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, group: GroupId, entry: EntryView, name: &str) -> Result<(), String> {
        let known = self.entries.entry((group, entry.index)).or_insert_with(|| entry.clone());
        if *known != entry {
            return Err(format!(
                "committed entries never change: group {group}: {name} applied {entry:?} where {known:?} was applied"
            ));
        }
        Ok(())
    }

    pub(super) fn entry(&self, group: GroupId, index: u64) -> Option<&EntryView> {
        self.entries.get(&(group, index))
    }

    /// The entries of a group from `from` on without a gap.
    pub(super) fn from(&self, group: GroupId, from: u64) -> impl Iterator<Item = &EntryView> {
        let entries = self.entries.range((group, from)..=(group, u64::MAX));
        entries
            .map(|(_, entry)| entry)
            .zip(from..)
            .take_while(|(entry, index)| entry.index == *index)
            .map(|(entry, _)| entry)
    }

    /// The last committed entry of a group.
    pub(super) fn last(&self, group: GroupId) -> Option<&EntryView> {
        self.entries.range((group, 0)..=(group, u64::MAX)).next_back().map(|(_, entry)| entry)
    }

    pub(super) fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// How often a node went on behind a gap, which only a snapshot fills.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }
}
