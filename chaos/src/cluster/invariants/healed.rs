//! When faults end, the cluster becomes whole by itself: all nodes are registered and follow one leader, new writes
//! reach every copy, every node answers linearizable reads, and the directory says of each node exactly what it holds.

use std::collections::BTreeMap;

use hearth_proto::{Fingerprint, GroupId, Tier};

use super::{GROUPS, Seen};
use crate::source::{BLOCKS, block};
use crate::workload::{Clients, REPORTERS, mark, reporter};
use crate::world::World;

/// What was so when the faults ended, and what is still to come.
#[derive(Default)]
pub(super) struct Healed {
    reported: BTreeMap<u64, u64>,
    served: BTreeMap<usize, u64>,
    ailing: String,
}

impl Healed {
    pub(super) fn begin(&mut self, _: &World, clients: &Clients) {
        let ledger = clients.ledger();
        (self.reported, self.served) = (ledger.reported.clone(), ledger.served.clone());
    }

    pub(super) fn ailing(&self) -> &str {
        &self.ailing
    }

    pub(super) fn look(&mut self, world: &World, seen: &[Seen], clients: &Clients) -> bool {
        let found = self.ails(world, seen, clients);
        self.ailing = found.clone().unwrap_or_default();
        found.is_none()
    }

    fn ails(&self, world: &World, seen: &[Seen], clients: &Clients) -> Option<String> {
        if seen.len() < world.machines.len() {
            return Some("not every node runs".into());
        }
        if let Some(node) = seen.iter().find(|node| !node.cluster.is_ready()) {
            return Some(format!("{} is not ready", node.machine.name));
        }
        for group in GROUPS {
            let leaders = seen.iter().filter(|node| node.group(group).leads.is_some()).count();
            if leaders != 1 {
                return Some(format!("group {group} has {leaders} leaders"));
            }
        }
        let reported = clients.ledger().reported.clone();
        for number in 0..REPORTERS {
            let (before, now) = (self.reported.get(&number), reported.get(&number));
            let Some(sequence) = now.filter(|_| now > before) else {
                return Some(format!("reporter {number} wrote nothing since: {before:?}, {now:?}"));
            };
            for node in seen {
                // A later report may be there already, which takes this one's mark away.
                let shown = [*sequence, sequence + 1].into_iter().any(|sequence| {
                    let claims =
                        node.cluster.claims(GroupId::DIRECTORY, &Fingerprint::of(&mark(number, sequence)));
                    claims.iter().any(|(of, ..)| *of == reporter(number))
                });
                if !shown {
                    return Some(format!(
                        "{} lacks report {sequence} of reporter {number}",
                        node.machine.name
                    ));
                }
            }
        }
        let served = clients.ledger().served.clone();
        if let Some(node) = seen.iter().find(|node| {
            let machine = node.machine.index;
            served.get(&machine) <= self.served.get(&machine)
        }) {
            return Some(format!("{} has answered no linearizable read since", node.machine.name));
        }
        seen.iter().find_map(|node| differs(world, node))
    }
}

/// Where a node's directory says something else than what nodes hold.
fn differs(world: &World, node: &Seen) -> Option<String> {
    for number in 0..BLOCKS {
        let answer = node.cluster.lookup(block(number).namespace, &[block(number).key]);
        for holder in &world.machines {
            let id = holder.node_id()?;
            let of_holder = answer.replicas[0].iter().filter(|replica| replica.node == id);
            let said = of_holder.fold(0, |tiers, replica| tiers | tier_bit(replica.tier));
            let held = holder.source.tiers(number);
            if said != held {
                let (name, of) = (&node.machine.name, &holder.name);
                return Some(format!(
                    "{name} says tiers {said:b} of block {number} on {of}, which holds {held:b}"
                ));
            }
        }
    }
    None
}

fn tier_bit(tier: Tier) -> u8 {
    1 << tier as u8
}
