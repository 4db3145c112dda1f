//! Lookups in the local copy of the directory: no call to another node, no wait.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::{
    BlockId, BlockKey, DirectoryGroups, GroupId, Incarnation, LogIndex, NamespaceId, NodeId, Tier,
};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::raft::Group;
use crate::state::{Control, Directory, Replica, State, tier_bit};

/// One replica that a lookup found: a fenced claim, to be verified where the bytes are read (INV-FENCE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// The node that claims to hold the block.
    pub node: NodeId,
    /// The incarnation under which it claims so.
    pub incarnation: Incarnation,
    /// The tier there.
    pub tier: Tier,
}

/// The replicas of one block; those of most blocks need no memory of their own.
pub type ReplicaViews = SmallVec<[ReplicaView; 2]>;

/// The answer to a lookup, with what it reflects.
#[derive(Clone, Debug)]
pub struct LookupAnswer {
    /// The replicas of each key, in the order asked; empty when there are none.
    pub replicas: Vec<ReplicaViews>,
    /// The last entry of each directory group's log that the answer reflects, of the groups that were asked.
    pub applied: Vec<(GroupId, LogIndex)>,
    /// How long ago this node last knew of a leader of each of these groups, at the most.
    pub staleness: Duration,
}

/// The directory as its groups share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitDirectory<'a> {
    pub(crate) groups: DirectoryGroups,
    /// In the order of [`DirectoryGroups::ids`].
    pub(crate) directories: &'a [Arc<Group>],
}

pub(crate) fn lookup(
    control: &Group,
    split: SplitDirectory<'_>,
    namespace: NamespaceId,
    keys: &[BlockKey],
) -> LookupAnswer {
    // Always control before a directory, so that no two locks can wait for each other.
    let control = control.replicated();
    let nowhere = vec![ReplicaViews::new(); keys.len()];
    let mut answer = LookupAnswer { replicas: nowhere, applied: Vec::new(), staleness: Duration::default() };
    let State::Control(control) = &control.state else { return answer };
    let mut ask = |group: &Group, keys: &mut dyn Iterator<Item = &BlockKey>| {
        answer.staleness = answer.staleness.max(group.staleness());
        let replicated = group.replicated();
        answer.applied.push((group.id(), LogIndex(replicated.applied_index())));
        let State::Directory(directory) = &replicated.state else {
            return keys.map(|_| ReplicaViews::new()).collect();
        };
        find(control, directory, namespace, keys)
    };
    if let [group] = split.directories {
        answer.replicas = ask(group, &mut keys.iter());
        return answer;
    }
    let mut shares: Vec<Vec<usize>> = vec![Vec::new(); split.directories.len()];
    for (index, key) in keys.iter().enumerate() {
        shares[split.groups.position_of(key)].push(index);
    }
    let mut replicas = std::mem::take(&mut answer.replicas);
    for (group, share) in split.directories.iter().zip(shares).filter(|(_, share)| !share.is_empty()) {
        let found = ask(group, &mut share.iter().map(|index| &keys[*index]));
        share.into_iter().zip(found).for_each(|(index, views)| replicas[index] = views);
    }
    answer.replicas = replicas;
    answer
}

/// The claims that count: those of nodes that are up, under the incarnation they are up with.
fn find<'a>(
    control: &Control,
    directory: &Directory,
    namespace: NamespaceId,
    keys: impl Iterator<Item = &'a BlockKey>,
) -> Vec<ReplicaViews> {
    // What counts is decided once per node, not once per replica.
    let valid: FxHashMap<NodeId, Incarnation> = directory
        .holders()
        .filter(|(node, incarnation, _)| control.serving_incarnation(*node) == Some(*incarnation))
        .map(|(node, incarnation, _)| (node, incarnation))
        .collect();
    keys.map(|key| views(directory.replicas(&BlockId { namespace, key: *key }), &valid)).collect()
}

/// Names the nodes whose claims in the directory no longer count, each with the claims' incarnation.
pub(crate) fn stale_holders(control: &Control, directory: &Directory) -> Vec<(NodeId, Incarnation)> {
    let stale = directory.holders().filter(|(node, incarnation, blocks)| {
        // A claim from an incarnation that this copy of the control state has not seen yet is early, not stale.
        let known = control.node(*node).map_or(0, |node| node.incarnation);
        *blocks > 0 && incarnation.0 <= known && control.serving_incarnation(*node) != Some(*incarnation)
    });
    stale.map(|(node, incarnation, _)| (node, incarnation)).collect()
}

fn views(replicas: &[Replica], valid: &FxHashMap<NodeId, Incarnation>) -> ReplicaViews {
    let mut views = ReplicaViews::new();
    for replica in replicas {
        let Some(&incarnation) = valid.get(&replica.node) else { continue };
        let held = Tier::ALL.into_iter().filter(|tier| replica.tiers & tier_bit(*tier) != 0);
        views.extend(held.map(|tier| ReplicaView { node: replica.node, incarnation, tier }));
    }
    views
}

#[cfg(test)]
mod tests {
    use hearth_proto::v1::command::Body;
    use hearth_proto::{BlockDelta, GroupId, v1};

    use super::*;
    use crate::state::command;

    const KEY: BlockKey = BlockKey([3; 32]);

    fn apply(state: &mut State, body: Body) {
        let outcome = state.apply(&command::new(body));
        assert!(!matches!(outcome.kind, None | Some(v1::outcome::Kind::Refused(_))), "{outcome:?}");
    }

    fn register(control: &mut State, boot: u8) {
        let boot_id = vec![boot; 16].into();
        apply(control, Body::RegisterNode(v1::RegisterNode { node_id: 1, boot_id, ..Default::default() }));
    }

    fn report(directory: &mut State, incarnation: u64) {
        let id = BlockId { namespace: NamespaceId::DEFAULT, key: KEY };
        let held = BlockDelta { id, tier: Tier::Nvme, added: true, payload_len: 1 };
        let deltas = command::pack_deltas(&[held]);
        let report = v1::BlockReport { node_id: 1, incarnation, sequence: 1, reset: true, deltas };
        apply(directory, Body::BlockReport(report));
    }

    /// What is found of the block, by incarnation, and whether its claims are to be purged.
    fn seen(control: &State, directory: &State) -> (Vec<u64>, bool) {
        let (State::Control(control), State::Directory(directory)) = (control, directory) else { panic!() };
        let found = find(control, directory, NamespaceId::DEFAULT, [KEY].iter());
        let incarnations = found[0].iter().map(|view| view.incarnation.0).collect();
        (incarnations, !stale_holders(control, directory).is_empty())
    }

    #[test]
    fn a_claim_counts_only_under_the_incarnation_that_is_up() {
        let (mut control, mut directory) = (State::new(GroupId::CONTROL), State::new(GroupId::DIRECTORY));
        let node_uuid = vec![1; 16].into();
        let first_node = Some(v1::AdmitNode { node_uuid, ..Default::default() });
        let cluster_id = vec![9; 16].into();
        apply(
            &mut control,
            Body::FoundCluster(v1::FoundCluster { cluster_id, first_node, directory_groups: 0 }),
        );
        // The two groups are applied independently: the directory may hear of an incarnation first.
        report(&mut directory, 1);
        assert_eq!(seen(&control, &directory), (vec![], false));
        register(&mut control, 0xa);
        assert_eq!(seen(&control, &directory), (vec![1], false));
        apply(&mut control, Body::NodeDown(v1::NodeDown { node_id: 1, incarnation: 1 }));
        assert_eq!(seen(&control, &directory), (vec![], true));
        register(&mut control, 0xa);
        assert_eq!(seen(&control, &directory), (vec![], true), "claims of before the outage");
        report(&mut directory, 2);
        assert_eq!(seen(&control, &directory), (vec![2], false));
        register(&mut control, 0xb);
        assert_eq!(seen(&control, &directory), (vec![], true), "claims of the process before");
        apply(&mut directory, Body::PurgeClaims(v1::PurgeClaims { node_id: 1, incarnation: 2 }));
        assert_eq!(seen(&control, &directory), (vec![], false));
    }
}
