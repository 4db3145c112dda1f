//! One tier without bytes, for measuring policies: the store's own rule over records of one size.
//!
//! Who goes is decided by the same code as in a store: [`Room`] over bags, extents and the ranker. What is
//! missing is all that the rule does not look at: bytes, threads, a second tier, leases and other nodes.

use std::cell::{Ref, RefCell};
use std::num::NonZeroU32;
use std::sync::Mutex;

use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId, Retention};

use crate::clock::Clock;
use crate::extents::ExtentMap;
use crate::index::{Handle, Kept, NewBlock, Node, NvmeReplica};
use crate::policy::{Bags, Candidates, Keep, Look, Ranker, Reuse, Spot, Tick};
use crate::space::{Residents, Room, Worth};
use crate::sync::lock;
use crate::tiers::{look, worth};

/// Sectors of a slot: one, as sizes do not matter where all are equal.
const CLASS: u32 = 1;
/// Slots of an extent of 256 MiB at records of half a MiB.
const EXTENT_SLOTS: u32 = 512;

/// A tier of equal slots, on which blocks are put and used as on a store.
///
/// Blocks are named by small numbers: the model keeps a place for each number below the highest.
/// Equal calls with an equal seed have equal outcomes.
pub struct TierModel {
    room: Room,
    slots: Mutex<ExtentMap>,
    ranker: Ranker,
    nodes: RefCell<Vec<Option<Node>>>,
    generation: u64,
    evictions: u64,
}

/// The blocks as whoever makes room sees them.
struct ModelTier<'a> {
    slots: &'a Mutex<ExtentMap>,
    ranker: &'a Ranker,
    nodes: &'a RefCell<Vec<Option<Node>>>,
    now_us: u64,
}

impl TierModel {
    /// An empty tier of so many slots.
    pub fn new(capacity_slots: u32, seed: u64) -> Self {
        let mut slots = ExtentMap::new(EXTENT_SLOTS * CLASS);
        for _ in 0..capacity_slots.div_ceil(EXTENT_SLOTS) {
            slots.grow();
        }
        // What the last extent has too many is taken for good.
        for sector in capacity_slots..capacity_slots.next_multiple_of(EXTENT_SLOTS) {
            slots.claim(sector, CLASS).expect("an empty tier has every slot");
        }
        Self {
            room: Room::new(seed),
            slots: Mutex::new(slots),
            ranker: Ranker::new(capacity_slots as usize),
            nodes: RefCell::default(),
            generation: 0,
            evictions: 0,
        }
    }

    /// True if the block is there.
    pub fn contains(&self, block: u32) -> bool {
        self.nodes.borrow().get(block as usize).is_some_and(Option::is_some)
    }

    /// Blocks that are there.
    pub fn len(&self) -> usize {
        self.nodes.borrow().iter().flatten().count()
    }

    /// True if no block is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks that were evicted so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Puts a block that is not there, and evicts another one for it if the tier is full.
    ///
    /// *Units*: `now_us` counts from the opening of the tier and never runs back.
    pub fn insert(&mut self, block: u32, depth: u32, retention: Retention, now_us: u64) {
        assert!(!self.contains(block), "a block is put once");
        let now_us = Clock::OPENED_US + now_us;
        let sector = loop {
            if let Some(given) = lock(&self.slots).allocate(CLASS) {
                break given.sector;
            }
            let tier = ModelTier { slots: &self.slots, ranker: &self.ranker, nodes: &self.nodes, now_us };
            assert!(self.room.make(&self.slots, CLASS, now_us, &tier), "nothing is ever in use here");
            self.evictions += 1;
        };
        self.generation += 1;
        let tick = Tick::from_us(now_us);
        let spot = Spot { namespace: 0, depth: u16::try_from(depth).unwrap_or(u16::MAX) };
        let mut node = Node::new(&NewBlock {
            id: BlockId { namespace: NamespaceId(0), key: BlockKey([0; 32]) },
            generation: Generation(self.generation),
            payload_len: NonZeroU32::MIN,
            crc32: 0,
            nvme: NvmeReplica::Stored(sector),
            keep: Keep::new(retention, depth, now_us),
            reuse: self.ranker.inserted(block.into(), spot, tick),
            verified: true,
        });
        let handle = Handle::from_bits(block);
        node.place = self.room.bags.insert(CLASS, handle, node.stand(Kept::Nvme, now_us), node.reuse);
        lock(&self.slots).set_owner(sector, Some(block));
        let mut nodes = self.nodes.borrow_mut();
        if nodes.len() <= block as usize {
            nodes.resize_with(block as usize + 1, || None);
        }
        nodes[block as usize] = Some(node);
        if self.ranker.lesson_due() {
            self.ranker.learn(tick);
        }
    }

    /// Notes that a block was used, if it is there.
    pub fn used(&mut self, block: u32, now_us: u64) {
        if let Some(Some(node)) = self.nodes.get_mut().get_mut(block as usize) {
            let tick = Tick::from_us(Clock::OPENED_US + now_us);
            node.reuse = self.ranker.used(block.into(), node.spot(), node.reuse, tick);
        }
    }

    /// Changes how long a block is kept, if it is there.
    pub fn change_keep(&mut self, block: u32, retention: Retention, now_us: u64) {
        let now_us = Clock::OPENED_US + now_us;
        let nodes = self.nodes.get_mut();
        let Some(Some(node)) = nodes.get_mut(block as usize) else { return };
        let keep = Keep::new(retention, node.depth().into(), now_us);
        if node.keeps(&keep) {
            return;
        }
        let (before, place) = (node.standing(Kept::Nvme), node.place);
        node.set_keep(&keep);
        let after = node.stand(Kept::Nvme, now_us);
        let (bags, handle) = (&mut self.room.bags, Handle::from_bits(block));
        let moved = bags.remove(handle, before, place);
        node.place = bags.insert(CLASS, handle, after, node.reuse);
        if let Some(moved) = moved {
            named(nodes, moved).place = place;
        }
    }
}

impl ModelTier<'_> {
    fn node(&self, block: Handle) -> Ref<'_, Node> {
        let at = block.to_bits() as usize;
        Ref::map(self.nodes.borrow(), |nodes| nodes[at].as_ref().expect("a candidate is there"))
    }
}

fn named(nodes: &mut [Option<Node>], block: Handle) -> &mut Node {
    nodes[block.to_bits() as usize].as_mut().expect("a candidate is there")
}

fn sector_of(node: &Node) -> u32 {
    let NvmeReplica::Stored(sector) = node.nvme() else { unreachable!("a block here has a slot") };
    sector
}

impl Candidates<Handle> for ModelTier<'_> {
    fn look(&self, block: Handle) -> Look {
        look(&self.node(block), true)
    }

    fn uses(&self, reuse: Reuse) -> f32 {
        self.ranker.worth(reuse, self.now())
    }

    fn now(&self) -> Tick {
        Tick::from_us(self.now_us)
    }

    fn is_copied(&self, _block: Handle) -> bool {
        false
    }

    fn place(&self, block: Handle, place: u32) {
        named(&mut self.nodes.borrow_mut(), block).place = place;
    }

    fn expire(&self, block: Handle) -> u32 {
        let mut nodes = self.nodes.borrow_mut();
        let node = named(&mut nodes, block);
        node.expire(Kept::Nvme);
        node.place
    }
}

impl Residents for ModelTier<'_> {
    fn worth(&self, block: Handle) -> Option<Worth> {
        let nodes = self.nodes.borrow();
        let node = nodes.get(block.to_bits() as usize)?.as_ref()?;
        Some(worth(node, Kept::Nvme, self))
    }

    fn evict(&self, bags: &mut Bags<Handle>, block: Handle) -> bool {
        let taken = self.nodes.borrow_mut()[block.to_bits() as usize].take();
        let node = taken.expect("a candidate is there");
        if let Some(moved) = bags.remove(block, node.standing(Kept::Nvme), node.place) {
            self.place(moved, node.place);
        }
        lock(self.slots).release(sector_of(&node));
        true
    }
}
