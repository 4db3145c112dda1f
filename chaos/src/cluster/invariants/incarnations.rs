//! A node's incarnation only grows, in every copy of the control state and from life to life (INV-FENCE).

use std::collections::BTreeMap;

use hearth_proto::NodeId;

use super::Seen;

/// The latest incarnation that each life of each machine knew of each node.
#[derive(Default)]
pub(super) struct IncarnationsGrow {
    known: BTreeMap<(usize, u8, NodeId), u64>,
    /// Which life of which machine was registered under an incarnation.
    lives: BTreeMap<(usize, u64), u8>,
}

impl IncarnationsGrow {
    pub(super) fn check(&mut self, seen: &[Seen]) -> Result<(), String> {
        for node in seen {
            let (machine, life) = (node.machine.index, node.machine.life());
            for (of, incarnation) in node.cluster.incarnations() {
                let known = self.known.entry((machine, life, of)).or_insert(incarnation);
                if *known > incarnation {
                    let name = &node.machine.name;
                    return Err(format!(
                        "INV-FENCE: on {name} node {of} went from incarnation {known} to {incarnation}"
                    ));
                }
                *known = incarnation;
            }
            let Some(incarnation) = node.cluster.incarnation() else { continue };
            let first = *self.lives.entry((machine, incarnation.0)).or_insert(life);
            if first != life {
                let name = &node.machine.name;
                return Err(format!(
                    "INV-FENCE: {name} is registered as {incarnation} in life {life} and was so in life {first}"
                ));
            }
        }
        Ok(())
    }
}
