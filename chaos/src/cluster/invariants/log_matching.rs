//! Two logs that have an entry of the same index and leadership have the same entry there, and the same before it.
//!
//! *Source*: Raft paper, fig. 3, Log Matching. Checked by induction: an entry is the same wherever it is, and so is
//! the one before it.

use std::collections::BTreeMap;

use hearth_cluster::sim::LeaderView;
use hearth_proto::GroupId;

use super::GROUPS;
use crate::world::World;

/// What an entry says, and which one lies before it.
type Entry = (u64, Option<LeaderView>);

/// Its index, and the leadership that made it.
type EntryId = (u64, LeaderView);

/// Every entry that was in any log.
#[derive(Default)]
pub(super) struct LogMatching {
    entries: BTreeMap<(GroupId, u64, LeaderView), Entry>,
    /// How much of each log is known: from which index on it was looked at, and what its last entries were.
    looked: BTreeMap<(usize, GroupId), (u64, Vec<EntryId>)>,
}

impl LogMatching {
    pub(super) fn check(&mut self, world: &World) -> Result<(), String> {
        for machine in &world.machines {
            for group in GROUPS {
                let applied =
                    machine.cluster().and_then(|cluster| cluster.records_applied(group)).unwrap_or(0);
                let looked = self.looked.entry((machine.index, group)).or_default();
                let log = machine.disk.entries(group, looked.0);
                let log = log.map_err(|error| format!("log: {}, group {group}: {error}", machine.name))?;
                let ids: Vec<_> = log.iter().map(|entry| (entry.index, entry.leader)).collect();
                if ids == looked.1 {
                    continue;
                }
                let mut before: Option<EntryId> = None;
                for entry in &log {
                    let follows =
                        before.filter(|(index, _)| index + 1 == entry.index).map(|(_, leader)| leader);
                    if before.is_some() && follows.is_none() {
                        return Err(format!(
                            "log: {}, group {group}: a hole before {}",
                            machine.name, entry.index
                        ));
                    }
                    let key = (group, entry.index, entry.leader);
                    let known = self.entries.entry(key).or_insert((entry.digest, follows));
                    let same_before = known.1.is_none() || follows.is_none() || known.1 == follows;
                    if known.0 != entry.digest || !same_before {
                        return Err(format!(
                            "log matching: group {group}: {} has {entry:?} after {follows:?}, another log has {known:?}",
                            machine.name
                        ));
                    }
                    known.1 = known.1.or(follows);
                    before = Some((entry.index, entry.leader));
                }
                // What is applied changes no more, so the next look begins there.
                let from = applied.max(looked.0);
                let rest = ids.into_iter().filter(|(index, _)| *index >= from).collect();
                *looked = (from, rest);
            }
        }
        Ok(())
    }
}
