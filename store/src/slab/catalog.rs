//! What the index on disk is to the store: a set of entries that changes in batches, all or none, and
//! that holds every batch whose commit returned. RocksDB is one; a simulated one can stand in.

use std::io;

use hearth_proto::BlockId;

use super::entry::{BlockEntry, ExtentEntry, ReadySlot};
use super::superblock::StoreId;
use crate::error::OpenError;

/// The index of one store's slabs. After the store has opened one thread alone uses it.
pub(crate) trait Catalog: Send {
    /// What the index remembers besides blocks.
    fn remembered(&self) -> Result<Remembered, OpenError>;

    /// Tells `visit` every block that the index names, in any order. Returns how many entries could not be
    /// read.
    fn blocks(&self, visit: &mut dyn FnMut(BlockEntry)) -> Result<u64, OpenError>;

    /// Makes the changes durable, all or none. After an error either may be the case.
    fn commit(&mut self, changes: &Changes) -> io::Result<()>;
}

/// What an index remembers besides blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Names the store for ever; the superblock of each slab repeats it.
    pub(crate) store: StoreId,
    /// Generations from here on were never used.
    pub(crate) generation: u64,
    pub(crate) extents: Vec<ExtentEntry>,
    /// Slots in which records may lie that the index does not name.
    pub(crate) ready: Vec<ReadySlot>,
}

/// What is to change together, in the order in which it was added.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) list: Vec<Change>,
}

/// One change of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    PutBlock(BlockEntry),
    DeleteBlock(BlockId),
    PutExtent(ExtentEntry),
    /// Records may be written to a slot from now on without a word to the index.
    PutReady(ReadySlot),
    /// Whatever lies in the slot that begins at this sector counts only if the index names it.
    DeleteReady(u32),
    /// Generations below this may have been used.
    SetAside(u64),
}

impl Changes {
    pub(crate) fn put_block(&mut self, entry: BlockEntry) {
        self.list.push(Change::PutBlock(entry));
    }

    pub(crate) fn delete_block(&mut self, id: &BlockId) {
        self.list.push(Change::DeleteBlock(*id));
    }

    pub(crate) fn put_extent(&mut self, entry: ExtentEntry) {
        self.list.push(Change::PutExtent(entry));
    }

    pub(crate) fn put_ready(&mut self, slot: ReadySlot) {
        self.list.push(Change::PutReady(slot));
    }

    pub(crate) fn delete_ready(&mut self, sector: u32) {
        self.list.push(Change::DeleteReady(sector));
    }

    pub(crate) fn set_aside(&mut self, until: u64) {
        self.list.push(Change::SetAside(until));
    }
}
