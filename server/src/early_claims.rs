//! Blocks that other nodes have announced and the directory may not have yet. Pure: time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hearth_proto::limits::{EARLY_CLAIM_MS, EARLY_CLAIMS_MAX};
use hearth_proto::{BlockId, Incarnation, NodeId};
use rustc_hash::FxHashMap;

const LIFETIME: Duration = Duration::from_millis(EARLY_CLAIM_MS);

/// A node's word that it has just put a block into its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EarlyClaim {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
}

/// The latest claims, at most [`EARLY_CLAIMS_MAX`] of them, each for [`EARLY_CLAIM_MS`].
#[derive(Debug, Default)]
pub(crate) struct EarlyClaims {
    /// One claim per block: whoever announced it last.
    claims: FxHashMap<BlockId, Entry>,
    /// Blocks in the order in which their claims expire; a block announced again stands here twice.
    order: VecDeque<(BlockId, Entry)>,
    inserted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    claim: EarlyClaim,
    until: Instant,
    /// Tells announcements of the same block apart.
    number: u64,
}

impl EarlyClaims {
    pub(crate) fn insert(&mut self, now: Instant, claim: EarlyClaim, blocks: impl Iterator<Item = BlockId>) {
        let until = now + LIFETIME;
        for id in blocks {
            self.inserted += 1;
            let entry = Entry { claim, until, number: self.inserted };
            self.claims.insert(id, entry);
            self.order.push_back((id, entry));
            if self.order.len() > EARLY_CLAIMS_MAX {
                self.drop_oldest();
            }
        }
        while self.order.front().is_some_and(|(_, entry)| entry.until <= now) {
            self.drop_oldest();
        }
    }

    pub(crate) fn find(&self, now: Instant, id: &BlockId) -> Option<EarlyClaim> {
        self.claims.get(id).filter(|entry| now < entry.until).map(|entry| entry.claim)
    }

    fn drop_oldest(&mut self) {
        let Some((id, entry)) = self.order.pop_front() else { return };
        // A later announcement of the same block keeps it.
        if self.claims.get(&id).is_some_and(|latest| latest.number == entry.number) {
            self.claims.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::{BlockKey, NamespaceId};

    use super::*;

    fn block(number: u32) -> BlockId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey(key) }
    }

    fn claim(node: u64) -> EarlyClaim {
        EarlyClaim { node: NodeId(node), incarnation: Incarnation(1) }
    }

    #[test]
    fn a_claim_counts_for_its_lifetime_and_a_newer_one_replaces_it() {
        let start = Instant::now();
        let mut claims = EarlyClaims::default();
        claims.insert(start, claim(1), [block(1), block(2)].into_iter());
        claims.insert(start + LIFETIME / 2, claim(2), [block(1)].into_iter());
        assert_eq!(claims.find(start + LIFETIME / 2, &block(1)), Some(claim(2)));
        assert_eq!(claims.find(start + LIFETIME / 2, &block(2)), Some(claim(1)));
        assert_eq!(claims.find(start + LIFETIME, &block(2)), None);
        claims.insert(start + LIFETIME, claim(3), [block(3)].into_iter());
        assert_eq!(claims.find(start + LIFETIME, &block(1)), Some(claim(2)), "the newer claim still counts");
        assert_eq!(claims.claims.len(), 2, "what expired gives its memory back");
    }

    #[test]
    fn no_number_of_announcements_grows_it_beyond_its_bound() {
        let now = Instant::now();
        let mut claims = EarlyClaims::default();
        let count = EARLY_CLAIMS_MAX as u32 + 1_000;
        claims.insert(now, claim(1), (0..count).map(block));
        claims.insert(now, claim(1), (0..count).map(block));
        assert!(claims.claims.len() <= EARLY_CLAIMS_MAX && claims.order.len() <= EARLY_CLAIMS_MAX);
        assert_eq!(claims.find(now, &block(count - 1)), Some(claim(1)), "the latest are kept");
    }
}
