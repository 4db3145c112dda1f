//! The replicated time of a group never goes back, and it is the same after an entry on every node, whatever the
//! clocks say.
//!
//! *Source*: DESIGN.md, section 4: "Time enters only as a stamp that the leader puts in the command; expiry is
//! replicated state"; INV-LINEAR, INV-PIN.

use std::collections::BTreeMap;

use hearth_proto::GroupId;

use super::history::History;
use super::{GROUPS, Seen};
use crate::world::{Heard, World};

/// How far each group was looked at, and the latest time that each life of each machine had.
#[derive(Default)]
pub(super) struct ReplicatedTime {
    followed: BTreeMap<GroupId, (u64, u64)>,
    shown: BTreeMap<(usize, u8, GroupId), u64>,
}

impl ReplicatedTime {
    pub(super) fn check(
        &mut self,
        world: &World,
        seen: &[Seen],
        heard: &[Heard],
        history: &History,
    ) -> Result<(), String> {
        for Heard { machine, applied, .. } in heard {
            let Some(first) = history.entry(applied.group, applied.index) else { continue };
            if first.time_ms() != applied.time_ms {
                return Err(format!(
                    "replicated time: group {}: after entry {} it is {} on {} and {} on {}",
                    applied.group,
                    applied.index,
                    applied.time_ms,
                    world.machines[*machine].name,
                    first.time_ms(),
                    world.machines[first.machine].name
                ));
            }
        }
        for group in GROUPS {
            let (next, latest) = self.followed.entry(group).or_default();
            for (index, entry) in history.from(group, *next) {
                if entry.time_ms() < *latest {
                    let time = entry.time_ms();
                    return Err(format!(
                        "replicated time: group {group}: it went from {latest} back to {time} at entry {index}"
                    ));
                }
                (*next, *latest) = (index + 1, entry.time_ms());
            }
        }
        for node in seen {
            for group in GROUPS {
                let time = node.cluster.replicated_time_ms(group);
                let life = (node.machine.index, node.machine.life(), group);
                let before = self.shown.insert(life, time).unwrap_or(0);
                if time < before {
                    let name = &node.machine.name;
                    return Err(format!(
                        "replicated time: group {group}: on {name} it went from {before} back to {time}"
                    ));
                }
            }
        }
        Ok(())
    }
}
