//! The index against a plain map.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use hearth_proto::{BlockKey, Generation, NamespaceId, Retention};
use proptest::prelude::*;

use super::*;
use crate::policy::{Keep, Reuse};

fn id(n: u32) -> BlockId {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&n.to_le_bytes());
    BlockId { namespace: NamespaceId(n % 3), key: BlockKey(key) }
}

fn block(n: u32, generation: u64) -> NewBlock {
    NewBlock {
        id: id(n),
        generation: Generation(generation),
        payload_len: NonZeroU32::MIN,
        crc32: n,
        nvme: NvmeReplica::Stored(n),
        keep: Keep::new(Retention::default(), 0, 0),
        reuse: Reuse::default(),
        verified: true,
    }
}

proptest! {
    #[test]
    fn the_index_holds_what_was_inserted_and_not_removed(steps in prop::collection::vec((any::<bool>(), 0..500_u32), 1..2_000)) {
        let index = Index::new(Seed([1, 2, 3, 4]));
        let mut held = BTreeMap::new();
        for (number, (add, n)) in steps.into_iter().enumerate() {
            let mut shard = index.shard(&id(n));
            if add && !held.contains_key(&n) {
                shard.insert(&block(n, number as u64));
                held.insert(n, number as u64);
            } else if !add && held.remove(&n).is_some() {
                let handle = shard.find(&id(n)).unwrap();
                shard.node_mut(handle).set_nvme(NvmeReplica::Absent);
                shard.remove(handle);
            }
        }
        for n in 0..500 {
            let shard = index.shard(&id(n));
            let found = shard.find(&id(n));
            prop_assert_eq!(found.map(|handle| shard.node(handle).generation().0), held.get(&n).copied());
        }
        prop_assert_eq!(index.shards().map(|shard| shard.nodes().count()).sum::<usize>(), held.len());
    }
}

/// What eviction keeps of a block beside its entry: a place in a bag and the owner of a slot.
const POLICY_BYTES: u64 = 2 * 4 + 1;

#[test]
fn an_entry_takes_at_most_ninety_six_bytes_with_its_policy_state() {
    let index = Index::new(Seed([5, 6, 7, 8]));
    for n in 0..300_000 {
        index.shard(&id(n)).insert(&block(n, 1));
    }
    let bytes = index.memory_bytes() / 300_000 + POLICY_BYTES;
    assert!(bytes <= 96, "{bytes} bytes");
}
