//! The tree of prefix blocks: a path from the root is a chain, and what two chains share is shared.

use hearth_proto::{BlockKey, Classified, ErrorKind, LayoutId, PrefixHash};

/// The last block of a chain, and so the chain itself; [`Tip::ROOT`] is the empty chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tip(u32);

impl Tip {
    /// The empty chain.
    pub const ROOT: Self = Self(0);

    /// Position in the tables that run beside the tree, such as the list of keys.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The space in which a source's own block ids are unique: a session, a set-up, a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope([u8; 32]);

impl Scope {
    /// The scope named by `parts`; lists that differ in any part are different scopes.
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("hearth replay scope");
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

/// The workload names more blocks than a tree can number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the workload has more than {} different blocks; replay a part of it (--sessions)", u32::MAX)]
pub struct TreeFull;

impl Classified for TreeFull {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

/// Every block of a workload, each with the chained hash that vouches for all before it.
#[derive(Clone, Debug)]
pub struct BlockTree {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    depth: u32,
    hash: [u8; 32],
}

impl BlockTree {
    /// A tree with no block.
    pub fn new() -> Self {
        Self { nodes: vec![Node { parent: 0, depth: 0, hash: [0; 32] }] }
    }

    /// Adds the block that follows `parent` and that its source calls `id` within `scope`.
    ///
    /// Its hash is `blake3(key = scope, parent's hash, id)`. The caller sees to it that one block
    /// is added once.
    ///
    /// # Errors
    /// [`TreeFull`] beyond 2^32 - 1 blocks; the caller replays a part.
    pub fn push(&mut self, parent: Tip, scope: &Scope, id: u64) -> Result<Tip, TreeFull> {
        let tip = u32::try_from(self.nodes.len()).map_err(|_| TreeFull)?;
        let before = self.nodes[parent.index()];
        let mut named = [0; 40];
        named[..32].copy_from_slice(&before.hash);
        named[32..].copy_from_slice(&id.to_le_bytes());
        let hash = *blake3::keyed_hash(&scope.0, &named).as_bytes();
        self.nodes.push(Node { parent: parent.0, depth: before.depth + 1, hash });
        Ok(Tip(tip))
    }

    /// Number of different blocks.
    pub fn block_count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Blocks in the chain that ends at `tip`.
    pub fn depth(&self, tip: Tip) -> usize {
        self.nodes[tip.index()].depth as usize
    }

    /// The chain without its last block; the root's parent is the root.
    pub fn parent(&self, tip: Tip) -> Tip {
        Tip(self.nodes[tip.index()].parent)
    }

    /// The first `depth` blocks of the chain that ends at `tip`, or all of it if it is shorter.
    pub fn truncated(&self, tip: Tip, depth: usize) -> Tip {
        let mut at = tip;
        while self.depth(at) > depth {
            at = self.parent(at);
        }
        at
    }

    /// Puts the blocks of the chain that ends at `tip` into `chain`, first block first.
    pub fn chain_into(&self, tip: Tip, chain: &mut Vec<Tip>) {
        chain.clear();
        chain.resize(self.depth(tip), Tip::ROOT);
        let mut at = tip;
        for slot in chain.iter_mut().rev() {
            *slot = at;
            at = self.parent(at);
        }
    }

    /// The engine's chained hash of everything up to the end of the block at `tip`.
    pub fn prefix_hash(&self, tip: Tip) -> PrefixHash {
        PrefixHash::new(&self.nodes[tip.index()].hash)
            .expect("32 bytes lie within the bounds of a prefix hash")
    }

    /// The key of every block in `layout`, placed at [`Tip::index`]; place 0 belongs to the root
    /// and names no block.
    pub fn keys(&self, layout: LayoutId) -> Vec<BlockKey> {
        (0..self.nodes.len())
            .map(|index| BlockKey::derive(layout, &self.prefix_hash(Tip(index as u32))))
            .collect()
    }
}

impl Default for BlockTree {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_vouches_for_everything_before_it() {
        let scope = Scope::new(&[b"s"]);
        let mut tree = BlockTree::new();
        let first = tree.push(Tip::ROOT, &scope, 1).unwrap();
        let other = tree.push(Tip::ROOT, &scope, 2).unwrap();
        let after_first = tree.push(first, &scope, 7).unwrap();
        let after_other = tree.push(other, &scope, 7).unwrap();
        assert_ne!(tree.prefix_hash(after_first), tree.prefix_hash(after_other));
        let elsewhere = tree.push(first, &Scope::new(&[b"t"]), 7).unwrap();
        assert_ne!(tree.prefix_hash(after_first), tree.prefix_hash(elsewhere));
    }

    #[test]
    fn scopes_do_not_run_together() {
        assert_ne!(Scope::new(&[b"ab", b"c"]), Scope::new(&[b"a", b"bc"]));
        assert_ne!(Scope::new(&[b"abc"]), Scope::new(&[b"abc", b""]));
    }

    #[test]
    fn a_chain_lists_its_blocks_in_order() {
        let scope = Scope::new(&[b"s"]);
        let mut tree = BlockTree::new();
        let mut tips = vec![];
        let mut tip = Tip::ROOT;
        for id in 0..10 {
            tip = tree.push(tip, &scope, id).unwrap();
            tips.push(tip);
        }
        let mut chain = vec![Tip::ROOT; 3];
        tree.chain_into(tip, &mut chain);
        assert_eq!(chain, tips);
        assert_eq!(tree.truncated(tip, 4), tips[3]);
        assert_eq!(tree.truncated(tip, 0), Tip::ROOT);
        assert_eq!(tree.truncated(tip, 99), tip);
        tree.chain_into(Tip::ROOT, &mut chain);
        assert!(chain.is_empty());
    }
}
