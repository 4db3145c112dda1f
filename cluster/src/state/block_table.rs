//! The map from block to replicas, compact: a table of 32-bit slot numbers over one slab, so that a
//! block's id is stored once and what a node holds is a set of slot numbers.

use hashbrown::HashTable;
use hearth_proto::{BlockId, NodeId};

/// One node's copies of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) node: NodeId,
    /// Bit `n` is the tier with wire number `n`.
    pub(crate) tiers: u8,
    pub(crate) payload_len: u32,
}

/// The replicas of one block, in the order of their nodes; almost always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replicas {
    One(Replica),
    Many(Vec<Replica>),
}

impl Replicas {
    pub(super) fn as_slice(&self) -> &[Replica] {
        match self {
            Self::One(replica) => std::slice::from_ref(replica),
            Self::Many(replicas) => replicas,
        }
    }

    /// Sets the node's replica; one without tiers goes away. False when none is left.
    pub(super) fn set(&mut self, replica: Replica) -> bool {
        if let Self::One(only) = self {
            if only.node == replica.node {
                *only = replica;
                return replica.tiers != 0;
            }
            *self = Self::Many(vec![*only]);
        }
        let Self::Many(replicas) = self else { return true };
        match replicas.binary_search_by_key(&replica.node, |held| held.node) {
            Ok(at) if replica.tiers == 0 => {
                replicas.remove(at);
            }
            Ok(at) => replicas[at] = replica,
            Err(at) if replica.tiers != 0 => replicas.insert(at, replica),
            Err(_) => {}
        }
        let left = replicas.len();
        if let [only] = replicas[..] {
            *self = Self::One(only);
        }
        left != 0
    }
}

/// All blocks with at least one replica.
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    table: HashTable<u32>,
    slab: Vec<Option<(BlockId, Replicas)>>,
    free: Vec<u32>,
}

impl BlockTable {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn get(&self, id: &BlockId) -> Option<&[Replica]> {
        self.replicas(self.slot_of(id)?)
    }

    pub(super) fn replicas(&self, slot: u32) -> Option<&[Replica]> {
        self.slab.get(slot as usize)?.as_ref().map(|(_, replicas)| replicas.as_slice())
    }

    pub(super) fn slot_of(&self, id: &BlockId) -> Option<u32> {
        let slab = &self.slab;
        self.table.find(hash(id), |slot| is_at(slab, *slot, id)).copied()
    }

    /// The block in this slot.
    pub(super) fn id_at(&self, slot: u32) -> Option<BlockId> {
        self.slab.get(slot as usize)?.as_ref().map(|(id, _)| *id)
    }

    pub(super) fn replicas_mut(&mut self, slot: u32) -> Option<&mut Replicas> {
        self.slab.get_mut(slot as usize)?.as_mut().map(|(_, replicas)| replicas)
    }

    /// Adds a block that is not in the table yet, and says where.
    pub(super) fn insert(&mut self, id: BlockId, replicas: Replicas) -> u32 {
        debug_assert!(self.slot_of(&id).is_none());
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slab[slot as usize] = Some((id, replicas));
                slot
            }
            None => {
                let slot = u32::try_from(self.slab.len()).expect("a directory group has under 2^32 blocks");
                self.slab.push(Some((id, replicas)));
                slot
            }
        };
        let slab = &self.slab;
        self.table.insert_unique(hash(&id), slot, |slot| {
            slab[*slot as usize].as_ref().map_or(0, |(id, _)| hash(id))
        });
        slot
    }

    /// Removes the block in this slot.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(id) = self.id_at(slot) else { return };
        if let Ok(entry) = self.table.find_entry(hash(&id), |other| *other == slot) {
            entry.remove();
            self.slab[slot as usize] = None;
            self.free.push(slot);
        }
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn ids(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.slab.iter().flatten().map(|(id, _)| *id)
    }
}

fn is_at(slab: &[Option<(BlockId, Replicas)>], slot: u32, id: &BlockId) -> bool {
    slab[slot as usize].as_ref().is_some_and(|(held, _)| held == id)
}

/// A key is a digest already: eight of its bytes and the namespace, mixed into the high bits that the
/// table looks at first.
fn hash(id: &BlockId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.key.0;
    let key = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let mixed = (key ^ u64::from(id.namespace.0).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}
