//! Changes of the index that belong to no block on its way to NVMe: replicas that memory forgot, and
//! what extents serve.

use std::collections::BTreeMap;

use hearth_proto::BlockId;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::core::Core;
use crate::index::{Node, NvmeReplica};
use crate::slab::{BlockEntry, Changes, ExtentEntry};
use crate::space::Resident;

/// Forgotten replicas that are kept while the index refuses them. One that goes over this and comes back
/// with the next start is found out by the footer of its record.
const DELETES_KEPT_MAX: usize = 4_096;

#[derive(Default)]
pub(super) struct LooseChanges {
    deletes: Vec<Delete>,
    /// Blocks that are to be kept otherwise, each once.
    kept: FxHashMap<BlockId, Resident>,
    /// By number, so that there are never more than extents.
    extents: BTreeMap<u32, ExtentEntry>,
}

struct Delete {
    resident: Resident,
    done: Vec<oneshot::Sender<()>>,
}

impl LooseChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.kept.is_empty() && self.extents.is_empty()
    }

    pub(super) fn delete(&mut self, resident: Resident, done: Option<oneshot::Sender<()>>) {
        self.deletes.push(Delete { resident, done: done.into_iter().collect() });
    }

    /// Answers when no replica of the block waits to be deleted any more.
    pub(super) fn await_delete(&mut self, id: &BlockId, done: oneshot::Sender<()>) {
        let waiting = self.deletes.iter().rposition(|delete| delete.resident.id == *id);
        if let Some(at) = waiting {
            self.deletes[at].done.push(done);
        } else {
            // One who no longer waits does not need the answer.
            let _ = done.send(());
        }
    }

    pub(super) fn keep(&mut self, resident: Resident) {
        self.kept.insert(resident.id, resident);
    }

    /// Notes what an extent serves; an extent that lies nowhere is not worth a note.
    pub(super) fn set_extent(&mut self, entry: Option<ExtentEntry>) {
        if let Some(entry) = entry {
            self.extents.insert(entry.extent, entry);
        }
    }

    pub(super) fn add_to(&self, core: &Core, changes: &mut Changes) {
        for delete in &self.deletes {
            if !is_stored(core, &delete.resident) {
                changes.delete_block(&delete.resident.id);
            }
        }
        for resident in self.kept.values() {
            let mut shard = core.index.shard(&resident.id);
            let stored = shard.same(resident).and_then(|node| stored_entry(core, node));
            if let Some(entry) = stored {
                changes.put_block(entry);
            }
        }
        for extent in self.extents.values() {
            changes.put_extent(*extent);
        }
    }

    pub(super) fn are_durable(&mut self) {
        self.extents.clear();
        self.kept.clear();
        for delete in self.deletes.drain(..) {
            for done in delete.done {
                // One who no longer waits does not need the answer.
                let _ = done.send(());
            }
        }
    }

    /// Keeps the changes for the next commit, and lets go whoever waits for them. What an extent serves
    /// must not be lost: its blocks would contradict it at the next start, and a fence would be lifted.
    pub(super) fn were_refused(&mut self) {
        self.deletes.truncate(DELETES_KEPT_MAX);
        // A contract that is forgotten costs nothing but an eviction out of turn after the next start.
        self.kept.clear();
        for delete in &mut self.deletes {
            delete.done.clear();
        }
    }

    /// Gives up: the thread ends.
    pub(super) fn drop_all(&mut self) {
        self.deletes.clear();
        self.kept.clear();
        self.extents.clear();
    }
}

/// True if memory names a durable replica. A replica is deleted after memory forgot it, so the one that
/// is named now is a later one, and the entry on disk is its.
fn is_stored(core: &Core, forgotten: &Resident) -> bool {
    let shard = core.index.shard(&forgotten.id);
    shard.get(&forgotten.id).is_some_and(|node| matches!(node.nvme(), NvmeReplica::Stored(_)))
}

/// The entry of a block that is durable; `None` if it is not.
fn stored_entry(core: &Core, node: &Node) -> Option<BlockEntry> {
    let NvmeReplica::Stored(sector) = node.nvme() else { return None };
    Some(block_entry(core, node, sector))
}

/// The entry of a block whose record begins at `sector`.
pub(super) fn block_entry(core: &Core, node: &Node, sector: u32) -> BlockEntry {
    let keep = node.keep();
    BlockEntry {
        id: node.id(),
        sector,
        payload_len: node.payload_len(),
        generation: node.generation(),
        payload_crc: node.crc32(),
        depth: keep.depth,
        priority: keep.priority,
        expires_at_ms: keep.expires_at_us.map(|at_us| core.clock.unix_ms_at(at_us)),
    }
}
