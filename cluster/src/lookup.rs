//! Lookups in the local copy of the directory: no call to another node, no wait.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::limits::SUSPENDED_CLAIMS_MS;
use hearth_proto::{
    BlockId, BlockKey, DirectoryGroups, Fingerprint, GroupId, Incarnation, LogIndex, NamespaceId, NodeId,
    Tier, v1,
};
use smallvec::SmallVec;
use v1::NodeState;

use crate::mutant::{self, Mutant};
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
    /// How old the answer may be: what was committed before is in it, of the groups that were asked. `None` if
    /// no leader of one of them was heard since the start.
    pub staleness: Option<Duration>,
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
    let mut answer =
        LookupAnswer { replicas: Vec::new(), applied: Vec::new(), staleness: Some(Duration::ZERO) };
    let State::Control(control) = &control.state else {
        answer.replicas = vec![ReplicaViews::new(); keys.len()];
        return answer;
    };
    let names = keys.iter().map(|key| Fingerprint::of(&BlockId { namespace, key: *key }));
    if let [group] = split.directories {
        answer.replicas = ask(&mut answer, control, group, names);
        return answer;
    }
    let mut shares: Vec<Vec<(usize, Fingerprint)>> = vec![Vec::new(); split.directories.len()];
    for (index, name) in names.enumerate() {
        shares[split.groups.position_of_named(&name)].push((index, name));
    }
    let mut replicas = vec![ReplicaViews::new(); keys.len()];
    for (group, share) in split.directories.iter().zip(shares).filter(|(_, share)| !share.is_empty()) {
        let found = ask(&mut answer, control, group, share.iter().map(|(_, name)| *name));
        share.into_iter().zip(found).for_each(|((index, _), views)| replicas[index] = views);
    }
    answer.replicas = replicas;
    answer
}

/// What one group knows of some blocks, in their order; how new that is goes into the answer.
fn ask(
    answer: &mut LookupAnswer,
    control: &Control,
    group: &Group,
    names: impl ExactSizeIterator<Item = Fingerprint>,
) -> Vec<ReplicaViews> {
    let replicated = group.replicated();
    let applied = replicated.applied_index();
    let staleness = group.staleness(applied);
    answer.staleness = answer.staleness.zip(staleness).map(|(others, this)| others.max(this));
    answer.applied.push((group.id(), LogIndex(applied)));
    match &replicated.state {
        State::Directory(directory) => find(control, directory, names),
        State::Control(_) => vec![ReplicaViews::new(); names.len()],
    }
}

/// The claims that count: those of nodes that are up, under the incarnation they are up with.
fn find(
    control: &Control,
    directory: &Directory,
    names: impl ExactSizeIterator<Item = Fingerprint>,
) -> Vec<ReplicaViews> {
    let count = names.len();
    let mut views = Vec::with_capacity(count);
    // Most blocks of a chain are held by the node that holds the one before.
    let mut last = (NodeId::default(), None);
    directory.find(names, |position, replica| {
        if last.0 != replica.node {
            last = (replica.node, control.serving_incarnation(replica.node));
        }
        if last.1 == Some(replica.incarnation) || mutant::is(Mutant::LookupIgnoresIncarnation) {
            // Blocks come in their order.
            while views.len() <= position {
                views.push(ReplicaViews::new());
            }
            let Replica { node, incarnation, tiers } = replica;
            for tier in Tier::ALL.into_iter().filter(|tier| tiers & tier_bit(*tier) != 0) {
                views[position].push(ReplicaView { node, incarnation, tier });
            }
        }
    });
    views.resize_with(count, ReplicaViews::new);
    views
}

/// A node whose claims in the directory will not count again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeadHolder {
    pub(crate) node: NodeId,
    /// Its last one.
    pub(crate) incarnation: Incarnation,
    /// It was removed, and will not come back.
    pub(crate) removed: bool,
}

/// Names the nodes whose claims in the directory will not count again.
///
/// Those of a node that is down wait for its return, when most of them will be found right: they go only
/// after a long time. Those of one that is up again under a later incarnation are that one's to compare.
pub(crate) fn dead_holders(control: &Control, directory: &Directory, now_ms: u64) -> Vec<DeadHolder> {
    let is_dead = |node: &v1::NodeRecord| match node.state() {
        NodeState::Removed => true,
        // One that has never registered has said nothing.
        NodeState::Down if node.incarnation == 0 => false,
        NodeState::Down => node.changed_at_ms.saturating_add(SUSPENDED_CLAIMS_MS) < now_ms,
        _ => false,
    };
    let dead = directory.holders().filter_map(|(node, incarnation, claims)| {
        // A claim from an incarnation that this copy of the control state has not seen yet is early; one
        // more than it has seen is the fence that an earlier purge left.
        let known = control.node(node)?;
        let removed = known.state() == NodeState::Removed;
        // One that was removed is forgotten, although it claims nothing.
        let is_due = (claims > 0 || removed) && is_dead(known);
        (is_due && incarnation.0 <= known.incarnation.saturating_add(1)).then_some(DeadHolder {
            node,
            incarnation: Incarnation(known.incarnation),
            removed,
        })
    });
    dead.collect()
}

#[cfg(test)]
mod tests {
    use hearth_proto::v1::command::Body;
    use hearth_proto::{BlockDelta, GroupId, v1};

    use super::*;
    use crate::state::command;
    use crate::state::deltas::pack_deltas;

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
        let deltas = pack_deltas([held].into_iter());
        let report = v1::BlockReport {
            node_id: 1,
            incarnation,
            sequence: 1,
            reset: true,
            deltas,
            ..Default::default()
        };
        apply(directory, Body::BlockReport(report));
    }

    /// What is found of the block, by incarnation.
    fn seen(control: &State, directory: &State) -> Vec<u64> {
        let (State::Control(control), State::Directory(directory)) = (control, directory) else { panic!() };
        let name = Fingerprint::of(&BlockId { namespace: NamespaceId::DEFAULT, key: KEY });
        let found = find(control, directory, std::iter::once(name));
        found[0].iter().map(|view| view.incarnation.0).collect()
    }

    /// The incarnations whose claims are to be purged, long after the last change of the control state or not.
    fn dead(control: &State, directory: &State, later: bool) -> Vec<u64> {
        let (State::Control(control), State::Directory(directory)) = (control, directory) else { panic!() };
        let now_ms = if later { SUSPENDED_CLAIMS_MS + 1 } else { SUSPENDED_CLAIMS_MS };
        dead_holders(control, directory, now_ms).into_iter().map(|dead| dead.incarnation.0).collect()
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
        assert_eq!((seen(&control, &directory), dead(&control, &directory, true)), (vec![], vec![]));
        register(&mut control, 0xa);
        assert_eq!(seen(&control, &directory), [1]);
        apply(&mut control, Body::NodeDown(v1::NodeDown { node_id: 1, incarnation: 1 }));
        assert_eq!(seen(&control, &directory), [0; 0]);
        assert_eq!(dead(&control, &directory, false), [0; 0], "it may come back");
        assert_eq!(dead(&control, &directory, true), [1]);
        register(&mut control, 0xa);
        assert_eq!(seen(&control, &directory), [0; 0], "claims of before the outage");
        assert_eq!(dead(&control, &directory, true), [0; 0], "they are compared with what the node holds");
        report(&mut directory, 2);
        assert_eq!(seen(&control, &directory), [2]);
        register(&mut control, 0xb);
        assert_eq!(seen(&control, &directory), [0; 0], "claims of the process before");
        apply(&mut control, Body::NodeDown(v1::NodeDown { node_id: 1, incarnation: 3 }));
        apply(
            &mut directory,
            Body::PurgeClaims(v1::PurgeClaims { node_id: 1, incarnation: 3, forget: false }),
        );
        assert_eq!(dead(&control, &directory, true), [0; 0], "nothing is left");
        register(&mut control, 0xc);
        report(&mut directory, 4);
        assert_eq!(seen(&control, &directory), [4], "the fence is below whatever comes");
    }
}
