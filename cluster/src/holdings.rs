//! What this node's copies of the control state and the directory say to whoever moves blocks between nodes.
//!
//! Like a lookup: local, without a call to another node, and only claims that count (INV-FENCE).

use hearth_proto::{BlockId, BlockKey, Fingerprint, Incarnation, NamespaceId, NodeId, Tier, v1};
use rustc_hash::{FxHashMap, FxHashSet};
use v1::NodeState;

use crate::cluster::Cluster;
use crate::placement::{HeldCopy, Site, Sites};
use crate::state::{Replica, State, tier_bit};

/// How many copies each block is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyPolicy {
    /// What holds for all nodes.
    pub cluster: v1::ClusterPolicy,
    /// Copies of each block of a namespace, where it has a say of its own.
    namespaces: FxHashMap<NamespaceId, u32>,
}

impl CopyPolicy {
    /// Copies that each block of a namespace is to have.
    pub fn replicas_of(&self, namespace: NamespaceId) -> usize {
        let own = self.namespaces.get(&namespace).copied().unwrap_or(0);
        let replicas = if own == 0 { self.cluster.replicas } else { own };
        replicas.max(1) as usize
    }

    /// The most copies that any block is to have.
    pub fn replicas_max(&self) -> usize {
        let most = self.namespaces.values().copied().max().unwrap_or(0);
        most.max(self.cluster.replicas).max(1) as usize
    }
}

impl Cluster {
    /// How many copies blocks are to have, as this node's copy of the control state has it.
    pub fn copy_policy(&self) -> CopyPolicy {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return CopyPolicy::default() };
        let specs = control.tenancy().namespaces().all().filter(|spec| spec.replicas > 0);
        let namespaces = specs.map(|spec| (NamespaceId(spec.namespace_id), spec.replicas)).collect();
        CopyPolicy { cluster: control.policy(), namespaces }
    }

    /// The nodes that serve, as placement sees them now.
    pub fn sites(&self) -> Sites {
        let (policy, records) = {
            let replicated = self.0.control.replicated();
            let State::Control(control) = &replicated.state else { return Sites::default() };
            let serves = |node: &&v1::NodeRecord| control.serving_incarnation(NodeId(node.node_id)).is_some();
            (control.policy(), control.nodes().filter(serves).cloned().collect::<Vec<_>>())
        };
        // As the stamps are: no clock that jumped tells how long a node has been up.
        let now_ms = self.0.control.stamp_ms();
        let site = |record: v1::NodeRecord| {
            let node = NodeId(record.node_id);
            let durable = record.nvme_capacity_bytes > 0;
            let tier = if durable { Tier::Nvme } else { Tier::Host };
            Site {
                node,
                takes: record.state() == NodeState::Up,
                durable,
                capacity_bytes: if durable { record.nvme_capacity_bytes } else { record.host_capacity_bytes },
                used_bytes: self.held_bytes(node, tier),
                up_ms: now_ms.saturating_sub(record.changed_at_ms),
                zone: record.zone,
            }
        };
        let sites: Vec<Site> = records.into_iter().map(site).collect();
        Sites::new(&sites, policy.ramp_ms)
    }

    /// The copies of one block that count.
    pub fn copies_of(&self, id: &BlockId) -> Vec<HeldCopy> {
        let mut copies = Vec::new();
        self.for_each_copies(std::slice::from_ref(id), |_, found| copies = found.to_vec());
        copies
    }

    /// Visits each of these blocks, by its position among them, with the copies that count.
    pub fn for_each_copies(&self, ids: &[BlockId], mut visit: impl FnMut(usize, &[HeldCopy])) {
        let mut position = 0;
        let mut copies: Vec<HeldCopy> = Vec::new();
        for of_one in ids.chunk_by(|a, b| a.namespace == b.namespace) {
            let keys: Vec<BlockKey> = of_one.iter().map(|id| id.key).collect();
            for replicas in self.lookup(of_one[0].namespace, &keys).replicas.iter() {
                copies.clear();
                for replica in replicas {
                    let known = copies.iter().position(|copy| copy.node == replica.node);
                    let at = known.unwrap_or_else(|| {
                        copies.push(HeldCopy { node: replica.node, host: false, nvme: false });
                        copies.len() - 1
                    });
                    copies[at].host |= replica.tier == Tier::Host;
                    copies[at].nvme |= replica.tier == Tier::Nvme;
                }
                visit(position, &copies);
                position += 1;
            }
        }
    }

    /// Whether a node that keeps what it has holds a durable copy of a block, other than this one.
    pub fn is_durable_elsewhere(&self, id: &BlockId) -> bool {
        let answer = self.lookup(id.namespace, std::slice::from_ref(&id.key));
        let elsewhere =
            |node: NodeId, tier: Tier| node != self.node_id() && tier == Tier::Nvme && self.is_up(node);
        answer.replicas.iter().flatten().any(|replica| elsewhere(replica.node, replica.tier))
    }

    /// Visits every block of one of the 256 ranges of a directory group, by the group's position, with the
    /// payload's length in bytes and the copies that count.
    ///
    /// The directory stands still meanwhile: whoever visits may not linger, nor ask this cluster anything.
    pub fn for_each_in_range(
        &self,
        position: usize,
        range: u8,
        mut visit: impl FnMut(&Fingerprint, u32, &[HeldCopy]),
    ) {
        let serving = self.serving();
        let Some(group) = self.0.directories.get(position) else { return };
        let replicated = group.replicated();
        let State::Directory(directory) = &replicated.state else { return };
        let live: FxHashSet<NodeId> = directory
            .holders()
            .filter(|(node, incarnation, _)| serving.get(node) == Some(incarnation))
            .map(|(node, ..)| node)
            .collect();
        let mut copies = Vec::new();
        directory.for_each_in_range(range, |name, payload_len, replicas| {
            copies.clear();
            copies.extend(replicas.iter().filter(|replica| live.contains(&replica.node)).map(held));
            visit(name, payload_len, &copies);
        });
    }

    fn serving(&self) -> FxHashMap<NodeId, Incarnation> {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return FxHashMap::default() };
        let nodes = control.nodes().map(|node| NodeId(node.node_id));
        nodes.filter_map(|node| Some((node, control.serving_incarnation(node)?))).collect()
    }

    fn is_up(&self, node: NodeId) -> bool {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return false };
        control.node(node).is_some_and(|node| node.state() == NodeState::Up)
    }

    /// Payload bytes that a node claims to hold on a tier.
    fn held_bytes(&self, node: NodeId, tier: Tier) -> u64 {
        let of_group = |state: &State| match state {
            State::Directory(directory) => directory.held_bytes(node, tier),
            State::Control(_) => 0,
        };
        self.0.directories.iter().map(|group| of_group(&group.replicated().state)).sum()
    }
}

fn held(replica: &Replica) -> HeldCopy {
    let on = |tier| replica.tiers & tier_bit(tier) != 0;
    HeldCopy { node: replica.node, host: on(Tier::Host), nvme: on(Tier::Nvme) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_its_own_say_in_the_number_of_copies() {
        let policy = |replicas, own: &[(u32, u32)]| CopyPolicy {
            cluster: v1::ClusterPolicy { replicas, ..Default::default() },
            namespaces: own
                .iter()
                .map(|(namespace, replicas)| (NamespaceId(*namespace), *replicas))
                .collect(),
        };
        for (policy, of_seven, of_others, most) in [
            (policy(0, &[]), 1, 1, 1),
            (policy(2, &[]), 2, 2, 2),
            (policy(2, &[(7, 3)]), 3, 2, 3),
            (policy(2, &[(7, 1)]), 1, 2, 2),
            (policy(0, &[(7, 2)]), 2, 1, 2),
        ] {
            assert_eq!(policy.replicas_of(NamespaceId(7)), of_seven, "{policy:?}");
            assert_eq!(policy.replicas_of(NamespaceId(8)), of_others, "{policy:?}");
            assert_eq!(policy.replicas_max(), most, "{policy:?}");
        }
    }
}
