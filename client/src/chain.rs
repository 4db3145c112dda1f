//! The ordered block keys of one prompt.

use hearth_proto::limits::CHAIN_BLOCKS_MAX;
use hearth_proto::{BlockKey, LayoutId, PrefixHash};

use crate::error::RequestError;

/// The ordered block keys of one prompt, 1 to 4,096 of them; block i's parent is block i-1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    keys: Vec<BlockKey>,
    first_depth: u32,
}

impl Chain {
    /// The chain of an engine's prefix hashes in one layout.
    ///
    /// # Errors
    /// [`RequestError::EmptyChain`] or [`RequestError::ChainTooLong`]; split a longer chain.
    pub fn new(layout: LayoutId, hashes: &[PrefixHash]) -> Result<Self, RequestError> {
        Self::from_keys(hashes.iter().map(|hash| BlockKey::derive(layout, hash)).collect())
    }

    /// A chain of keys derived before.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn from_keys(keys: Vec<BlockKey>) -> Result<Self, RequestError> {
        match keys.len() {
            0 => Err(RequestError::EmptyChain),
            count if count > CHAIN_BLOCKS_MAX => Err(RequestError::ChainTooLong { count }),
            _ => Ok(Self { keys, first_depth: 0 }),
        }
    }

    /// States that this is a part of a longer chain, whose first block is the one at `depth`.
    #[must_use]
    pub fn starting_at(self, depth: u32) -> Self {
        Self { first_depth: depth, ..self }
    }

    /// The keys in order.
    pub fn keys(&self) -> &[BlockKey] {
        &self.keys
    }

    /// Depth of the block at `index`: children are deeper, and are evicted first.
    pub fn depth(&self, index: usize) -> u32 {
        self.first_depth.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Number of blocks, at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_between_one_and_4096_blocks() {
        assert_eq!(Chain::from_keys(vec![]), Err(RequestError::EmptyChain));
        let keys = vec![BlockKey([1; 32]); CHAIN_BLOCKS_MAX + 1];
        assert_eq!(Chain::from_keys(keys.clone()), Err(RequestError::ChainTooLong { count: keys.len() }));
        assert_eq!(Chain::from_keys(keys[1..].to_vec()).map(|c| c.len()), Ok(CHAIN_BLOCKS_MAX));
    }
}
