//! A lookup names a block on a node under an incarnation only if that incarnation held it there (INV-FENCE,
//! INV-PUBLISH), whichever node answers and however stale it is.

use std::collections::BTreeMap;

use hearth_proto::{BlockKey, NamespaceId, NodeId};

use super::Seen;
use crate::source::{BLOCKS, block};
use crate::world::World;

/// Which life of a machine an incarnation is.
#[derive(Default)]
pub(super) struct Fence {
    lives: BTreeMap<(NodeId, u64), u8>,
    turn: usize,
}

impl Fence {
    pub(super) fn check(&mut self, world: &World, seen: &[Seen]) -> Result<(), String> {
        for node in seen {
            if let (Some(id), Some(incarnation)) = (node.machine.node_id(), node.cluster.incarnation()) {
                self.lives.entry((id, incarnation.0)).or_insert(node.machine.life());
            }
        }
        if seen.is_empty() {
            return Ok(());
        }
        // One node a time, in turn: a lookup costs more than the other checks.
        self.turn += 1;
        let asked = &seen[self.turn % seen.len()];
        let keys: Vec<BlockKey> = (0..BLOCKS).map(|number| block(number).key).collect();
        let current: BTreeMap<NodeId, u64> = asked.cluster.incarnations().into_iter().collect();
        let answer = asked.cluster.lookup(NamespaceId::DEFAULT, &keys);
        for (number, replicas) in answer.replicas.iter().enumerate() {
            for replica in replicas {
                if current.get(&replica.node) != Some(&replica.incarnation.0) {
                    let name = &asked.machine.name;
                    return Err(format!("INV-FENCE: {name} knows {current:?} and names {replica:?}"));
                }
                let holder = world.machines.iter().find(|machine| machine.node_id() == Some(replica.node));
                let Some(holder) = holder else { continue };
                let life = self.lives.get(&(replica.node, replica.incarnation.0));
                // What a former life held cannot be asked any more; a dead node is asked and does not answer.
                if life == Some(&holder.life())
                    && holder.cluster().is_some()
                    && !holder.source.ever_held(number as u64, replica.tier)
                {
                    return Err(format!(
                        "INV-FENCE: {} names block {number} in {:?} of {} under incarnation {}, which never held it",
                        asked.machine.name, replica.tier, holder.name, replica.incarnation
                    ));
                }
            }
        }
        Ok(())
    }
}
