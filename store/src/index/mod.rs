//! The local index: what this store holds, in memory, in shards with a lock each.

mod node;
mod table;

use std::sync::{Arc, Mutex, MutexGuard};

use hearth_proto::{BlockId, Urgency};
pub(crate) use node::{Kept, NewBlock, Node, NvmeReplica, SECTORS_MAX, key_bits};
use rustc_hash::FxHashMap;
use table::{NODES_MAX, Table};
use tokio::sync::{oneshot, watch};

use crate::arena::{HostBlock, prefetch};
use crate::error::PutError;
use crate::space::Resident;
use crate::sync::lock;

/// Many, so that a shard is small and growing it takes little time.
const SHARDS: usize = 256;
/// Nodes that are allocated together.
const CHUNK_NODES: usize = 64;

/// The answer to one who waits for a block to be durable.
pub(crate) type Durability = Result<(), PutError>;

/// Names an entry of the index for as long as the entry exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle(u32);

impl Handle {
    const NODE_BITS: u32 = 24;

    fn new(shard: usize, node: u32) -> Self {
        Self((shard as u32) << Self::NODE_BITS | node)
    }

    fn shard(self) -> usize {
        (self.0 >> Self::NODE_BITS) as usize
    }

    fn node(self) -> u32 {
        self.0 & ((1 << Self::NODE_BITS) - 1)
    }

    pub(crate) fn to_bits(self) -> u32 {
        self.0
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

pub(crate) struct Index {
    shards: Box<[Mutex<Shard>]>,
    seed: Seed,
}

/// Makes the places of keys unpredictable: keys come from outside.
#[derive(Clone, Copy)]
pub(crate) struct Seed(pub(crate) [u64; 4]);

impl Seed {
    fn hash(&self, id: &BlockId) -> u64 {
        let (words, _) = id.key.0.as_chunks::<8>();
        let word = |n: usize| u64::from_le_bytes(words[n]) ^ self.0[n];
        let namespace = u64::from(id.namespace.0) << 32;
        fold(word(0) ^ namespace, word(1)) ^ fold(word(2), word(3)).rotate_left(23)
    }
}

/// Both halves of a product: every bit of either factor reaches the middle ones.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The read of a block that is made.
pub(crate) struct InFlight {
    /// Closes when the read ends, well or not.
    pub(crate) ended: watch::Receiver<()>,
    /// True once others than its reader wait for it.
    pub(crate) awaited: bool,
    /// That of the most urgent get that waits for it.
    pub(crate) urgency: Urgency,
}

/// A block of the arena.
struct Hosted {
    block: Arc<HostBlock>,
    /// Address of its first byte, to be fetched before the block says it.
    payload: usize,
}

/// Lines of memory that a block with its counts may lie in.
const HOST_BLOCK_LINES: usize = 2;
const _: () = assert!(size_of::<HostBlock>() <= 64);

pub(crate) struct Shard {
    number: usize,
    seed: Seed,
    table: Table,
    chunks: Vec<Box<[Option<Node>; CHUNK_NODES]>>,
    /// Nodes that were freed, and how many were ever given.
    free: Vec<u32>,
    given: u32,
    hosts: Vec<Option<Hosted>>,
    hosts_free: Vec<u32>,
    /// Blocks that someone reads from NVMe.
    pub(crate) reading: FxHashMap<BlockId, InFlight>,
    /// Those who wait for a block to be durable.
    pub(crate) waiters: FxHashMap<BlockId, Vec<oneshot::Sender<Durability>>>,
    pub(crate) gets_host: u64,
}

impl Index {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { shards: (0..SHARDS).map(|number| Mutex::new(Shard::new(number, seed))).collect(), seed }
    }

    pub(crate) fn shard(&self, id: &BlockId) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.seed.hash(id) as usize % SHARDS])
    }

    /// The shard of an entry.
    pub(crate) fn shard_of(&self, handle: Handle) -> MutexGuard<'_, Shard> {
        lock(&self.shards[handle.shard()])
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock)
    }

    /// Memory of all entries, of what finds them, and of what is allocated in advance.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.shards().map(|shard| shard.memory_bytes() as u64).sum()
    }
}

impl Shard {
    fn new(number: usize, seed: Seed) -> Self {
        Self {
            number,
            seed,
            table: Table::default(),
            chunks: Vec::new(),
            free: Vec::new(),
            given: 0,
            hosts: Vec::new(),
            hosts_free: Vec::new(),
            reading: FxHashMap::default(),
            waiters: FxHashMap::default(),
            gets_host: 0,
        }
    }

    pub(crate) fn find(&self, id: &BlockId) -> Option<Handle> {
        let node = self.table.find(self.seed.hash(id), |node| self.node_at(node).is(id))?;
        Some(Handle::new(self.number, node))
    }

    /// The entry of a block.
    pub(crate) fn get(&self, id: &BlockId) -> Option<&Node> {
        self.find(id).map(|handle| self.node(handle))
    }

    pub(crate) fn get_mut(&mut self, id: &BlockId) -> Option<&mut Node> {
        self.find(id).map(|handle| self.node_mut(handle))
    }

    /// The entry of a block, if it still is the one that `resident` names.
    pub(crate) fn same(&mut self, resident: &Resident) -> Option<&mut Node> {
        self.get_mut(&resident.id).filter(|node| node.generation() == resident.generation)
    }

    pub(crate) fn node(&self, handle: Handle) -> &Node {
        self.node_at(handle.node())
    }

    /// The entry that has this handle now, if any: not always the one that had it before.
    pub(crate) fn try_node(&self, handle: Handle) -> Option<&Node> {
        let node = handle.node() as usize;
        self.chunks.get(node / CHUNK_NODES)?[node % CHUNK_NODES].as_ref()
    }

    pub(crate) fn node_mut(&mut self, handle: Handle) -> &mut Node {
        let node = handle.node() as usize;
        let place = &mut self.chunks[node / CHUNK_NODES][node % CHUNK_NODES];
        place.as_mut().expect("a handle lives no longer than its entry")
    }

    /// Every entry.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }

    /// Adds the entry of a block that has none.
    pub(crate) fn insert(&mut self, block: &NewBlock) -> Handle {
        let node = self.free.pop().unwrap_or_else(|| {
            self.given += 1;
            self.given - 1
        });
        if node as usize / CHUNK_NODES == self.chunks.len() {
            self.chunks.push(Box::new([const { None }; CHUNK_NODES]));
        }
        self.chunks[node as usize / CHUNK_NODES][node as usize % CHUNK_NODES] = Some(Node::new(block));
        let Self { table, chunks, seed, .. } = self;
        table.insert(seed.hash(&block.id), node, |node| seed.hash(&node_in(chunks, node).id()));
        Handle::new(self.number, node)
    }

    /// Removes an entry that has no replica left and stands in no bag.
    pub(crate) fn remove(&mut self, handle: Handle) {
        let node = handle.node();
        assert!(self.node(handle).is_empty(), "an entry goes with its last replica");
        let hash = self.seed.hash(&self.node(handle).id());
        let Self { table, chunks, seed, .. } = self;
        table.remove(hash, node, |node| seed.hash(&node_in(chunks, node).id()));
        self.chunks[node as usize / CHUNK_NODES][node as usize % CHUNK_NODES] = None;
        self.free.push(node);
    }

    /// The block in the arena that belongs to an entry.
    pub(crate) fn host(&self, handle: Handle) -> Option<&Arc<HostBlock>> {
        let node = self.node(handle);
        node.is_in_arena().then(|| &self.hosted(node).block)
    }

    /// Gives an entry its block in the arena; it has none yet.
    pub(crate) fn set_host(&mut self, handle: Handle, block: Arc<HostBlock>) {
        assert!(!self.node(handle).is_in_arena(), "a block is in the arena once");
        let at = self.hosts_free.pop().unwrap_or_else(|| {
            self.hosts.push(None);
            self.hosts.len() as u32 - 1
        });
        let payload = block.slot().payload().as_ptr().addr();
        self.hosts[at as usize] = Some(Hosted { block, payload });
        self.node_mut(handle).host = at;
    }

    /// Takes the block in the arena away from an entry.
    pub(crate) fn take_host(&mut self, handle: Handle) -> Option<Arc<HostBlock>> {
        let node = self.node_mut(handle);
        if !node.is_in_arena() {
            return None;
        }
        let at = node.host;
        node.leave_arena();
        self.hosts_free.push(at);
        self.hosts[at as usize].take().map(|hosted| hosted.block)
    }

    /// Asks for the memory that leasing a block of the arena and reading its beginning needs: all of it at
    /// once, where each would otherwise wait for the one before.
    pub(crate) fn prefetch_host(&self, handle: Handle) {
        let node = self.node(handle);
        if node.is_in_arena() {
            let hosted = self.hosted(node);
            // The counts of the pointer lie before what it points to.
            let counts = Arc::as_ptr(&hosted.block).addr().wrapping_sub(2 * size_of::<usize>());
            prefetch(counts, HOST_BLOCK_LINES);
            prefetch(hosted.payload, 1);
        }
    }

    fn hosted(&self, node: &Node) -> &Hosted {
        self.hosts[node.host as usize].as_ref().expect("a node names its block")
    }

    pub(crate) fn answer_waiters(&mut self, id: &BlockId, answer: &Durability) {
        for waiter in self.waiters.remove(id).into_iter().flatten() {
            // One who no longer waits does not need the answer.
            let _ = waiter.send(answer.clone());
        }
    }

    fn node_at(&self, node: u32) -> &Node {
        node_in(&self.chunks, node)
    }

    fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
            + self.chunks.len() * size_of::<[Option<Node>; CHUNK_NODES]>()
            + self.chunks.capacity() * size_of::<usize>()
            + (self.free.capacity() + self.hosts_free.capacity()) * size_of::<u32>()
            + self.hosts.capacity() * size_of::<Option<Hosted>>()
    }
}

fn node_in(chunks: &[Box<[Option<Node>; CHUNK_NODES]>], node: u32) -> &Node {
    let place = &chunks[node as usize / CHUNK_NODES][node as usize % CHUNK_NODES];
    place.as_ref().expect("the table names nodes that exist")
}

const _: () = assert!(NODES_MAX < 1 << Handle::NODE_BITS);

#[cfg(test)]
mod tests;
