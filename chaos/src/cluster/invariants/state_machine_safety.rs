//! Nodes that have applied the same entries have the same state, byte for byte.
//!
//! *Source*: DESIGN.md, section 4: `cluster/state` is a pure function; Raft paper, section 5.3.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use hearth_proto::GroupId;

use super::Seen;

/// The state after each entry, and who had it first.
#[derive(Default)]
pub(super) struct StateMachineSafety {
    states: BTreeMap<(GroupId, u64), (u64, String)>,
    looked: BTreeMap<(usize, u8, GroupId), u64>,
}

impl StateMachineSafety {
    pub(super) fn check(&mut self, seen: &[Seen]) -> Result<(), String> {
        for node in seen {
            for view in &node.groups {
                let life = (node.machine.index, node.machine.life(), view.group);
                let Some((applied, _)) = view.applied else { continue };
                if self.looked.insert(life, applied) == Some(applied) {
                    continue;
                }
                let (Some(index), records) = node.cluster.records(view.group) else { continue };
                let mut hasher = DefaultHasher::new();
                records.hash(&mut hasher);
                let digest = hasher.finish();
                let name = &node.machine.name;
                let (known, first) =
                    self.states.entry((view.group, index)).or_insert_with(|| (digest, name.clone()));
                if *known != digest {
                    return Err(format!(
                        "state machine safety: group {}: after entry {index} {name} has another state than {first}",
                        view.group
                    ));
                }
            }
        }
        Ok(())
    }
}
