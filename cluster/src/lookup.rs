//! Lookups in the local copy of the directory: no call to another node, no wait.

use std::ops::Index;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::limits::SUSPENDED_CLAIMS_MS;
use hearth_proto::{
    BlockKey, DirectoryGroups, Fingerprint, GroupId, Incarnation, LogIndex, NamespaceId, NodeId, Tier, v1,
};
use smallvec::SmallVec;
use v1::NodeState;

use crate::mutant::{self, Mutant};
use crate::raft::Group;
use crate::state::{Control, Directory, Replica, State};

/// Nodes whose incarnation a lookup asks for once.
const HOLDERS_KEPT: usize = 8;

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

/// The replicas of each block of a chain, in the order of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainReplicas {
    /// Of all blocks, one after the other.
    views: Vec<ReplicaView>,
    /// Of each block: where its replicas end.
    ends: Vec<u32>,
}

impl ChainReplicas {
    fn with_capacity(blocks: usize) -> Self {
        Self { views: Vec::with_capacity(blocks), ends: Vec::with_capacity(blocks) }
    }

    /// Of so many blocks that have none.
    fn none(blocks: usize) -> Self {
        Self { views: Vec::new(), ends: vec![0; blocks] }
    }

    /// Blocks of the chain.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True of a chain without a block.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The replicas of each block; none of one that nobody holds.
    pub fn iter(&self) -> impl Iterator<Item = &[ReplicaView]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.views[*start as usize..*end as usize])
    }

    /// Ends the replicas of blocks until there are so many.
    #[inline]
    fn end_until(&mut self, blocks: usize) {
        while self.ends.len() < blocks {
            self.ends.push(self.views.len() as u32);
        }
    }
}

impl Index<usize> for ChainReplicas {
    type Output = [ReplicaView];

    fn index(&self, position: usize) -> &[ReplicaView] {
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.views[start as usize..self.ends[position] as usize]
    }
}

/// The answer to a lookup, with what it reflects.
#[derive(Clone, Debug)]
pub struct LookupAnswer {
    /// The replicas of each key.
    pub replicas: ChainReplicas,
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
    let mut answer = LookupAnswer {
        replicas: ChainReplicas::none(keys.len()),
        applied: Vec::new(),
        staleness: Some(Duration::ZERO),
    };
    let State::Control(control) = &control.state else { return answer };
    let mut names = Vec::with_capacity(keys.len());
    Fingerprint::extend_of_keys(namespace, keys, &mut names);
    if let [group] = split.directories {
        answer.replicas = ask(&mut answer, control, group, &names);
        return answer;
    }
    let mut shares: Vec<Vec<Fingerprint>> = vec![Vec::new(); split.directories.len()];
    let mut positions = Vec::with_capacity(keys.len());
    for name in names {
        let position = split.groups.position_of_named(&name);
        shares[position].push(name);
        positions.push(position);
    }
    let found: Vec<ChainReplicas> = split
        .directories
        .iter()
        .zip(&shares)
        .map(|(group, share)| match share.as_slice() {
            [] => ChainReplicas::default(),
            share => ask(&mut answer, control, group, share),
        })
        .collect();
    let mut found: Vec<_> = found.iter().map(ChainReplicas::iter).collect();
    let mut replicas = ChainReplicas::with_capacity(keys.len());
    for (number, position) in positions.into_iter().enumerate() {
        replicas.views.extend_from_slice(found[position].next().unwrap_or_default());
        replicas.end_until(number + 1);
    }
    answer.replicas = replicas;
    answer
}

/// What one group knows of some blocks, in their order; how new that is goes into the answer.
fn ask(answer: &mut LookupAnswer, control: &Control, group: &Group, names: &[Fingerprint]) -> ChainReplicas {
    let replicated = group.replicated();
    let applied = replicated.applied_index();
    let staleness = group.staleness(applied);
    answer.staleness = answer.staleness.zip(staleness).map(|(others, this)| others.max(this));
    answer.applied.push((group.id(), LogIndex(applied)));
    match &replicated.state {
        State::Directory(directory) => find(control, directory, names),
        State::Control(_) => ChainReplicas::none(names.len()),
    }
}

/// The claims that count: those of nodes that are up, under the incarnation they are up with.
fn find(control: &Control, directory: &Directory, names: &[Fingerprint]) -> ChainReplicas {
    let count = names.len();
    let mut chain = ChainReplicas::with_capacity(count);
    // A few nodes hold a chain.
    let mut known: SmallVec<[(NodeId, Option<Incarnation>); HOLDERS_KEPT]> = SmallVec::new();
    directory.find(names, |position, replica| {
        let Replica { node, incarnation, mut tiers } = replica;
        let serving = match known.iter().find(|(known, _)| *known == node) {
            Some((_, serving)) => *serving,
            None => {
                let serving = control.serving_incarnation(node);
                if known.len() < HOLDERS_KEPT {
                    known.push((node, serving));
                }
                serving
            }
        };
        if serving != Some(incarnation) && !mutant::is(Mutant::LookupIgnoresIncarnation) {
            return;
        }
        // Blocks come in their order.
        chain.end_until(position);
        while tiers != 0 {
            let tier = Tier::ALL[tiers.trailing_zeros() as usize];
            chain.views.push(ReplicaView { node, incarnation, tier });
            tiers &= tiers - 1;
        }
    });
    chain.end_until(count);
    chain
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
    use hearth_proto::{BlockDelta, BlockId, GroupId, v1};

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
        let found = find(control, directory, &[name]);
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
