//! Changes of the index that belong to no block on its way to NVMe: replicas that memory forgot, and
//! what extents serve.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::core::Core;
use crate::index::NvmeReplica;
use crate::slab::{Changes, ExtentEntry};
use crate::space::Resident;

/// Forgotten replicas that are kept while the index refuses them. One that goes over this and comes back
/// with the next start is found out by the footer of its record.
const DELETES_KEPT_MAX: usize = 4_096;

#[derive(Default)]
pub(super) struct LooseChanges {
    deletes: Vec<Delete>,
    /// By number, so that there are never more than extents.
    extents: BTreeMap<u32, ExtentEntry>,
}

struct Delete {
    resident: Resident,
    done: Option<oneshot::Sender<()>>,
}

impl LooseChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.extents.is_empty()
    }

    pub(super) fn delete(&mut self, resident: Resident, done: Option<oneshot::Sender<()>>) {
        self.deletes.push(Delete { resident, done });
    }

    pub(super) fn set_extent(&mut self, entry: ExtentEntry) {
        self.extents.insert(entry.extent, entry);
    }

    pub(super) fn add_to(&self, core: &Core, changes: &mut Changes) {
        for delete in &self.deletes {
            if !is_stored(core, &delete.resident) {
                changes.delete_block(&delete.resident.id);
            }
        }
        for extent in self.extents.values() {
            changes.put_extent(*extent);
        }
    }

    pub(super) fn are_durable(&mut self) {
        self.extents.clear();
        for delete in self.deletes.drain(..) {
            // One who no longer waits does not need the answer.
            let _ = delete.done.map(|done| done.send(()));
        }
    }

    /// Keeps the changes for the next commit, and lets go whoever waits for them. What an extent serves
    /// must not be lost: its blocks would contradict it at the next start, and a fence would be lifted.
    pub(super) fn were_refused(&mut self) {
        self.deletes.truncate(DELETES_KEPT_MAX);
        for delete in &mut self.deletes {
            delete.done = None;
        }
    }

    /// Gives up: the thread ends.
    pub(super) fn drop_all(&mut self) {
        self.deletes.clear();
        self.extents.clear();
    }
}

/// True if memory names a durable replica. A replica is deleted after memory forgot it, so the one that
/// is named now is a later one, and the entry on disk is its.
fn is_stored(core: &Core, forgotten: &Resident) -> bool {
    let shard = core.index.shard(&forgotten.id);
    let entry = shard.entries.get(&forgotten.id);
    entry.is_some_and(|entry| matches!(entry.nvme, NvmeReplica::Stored(_)))
}
