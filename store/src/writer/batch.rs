//! Changes of the index that are committed together.

use std::collections::BTreeMap;

use hearth_proto::BlockId;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::record::{Named, Record};
use crate::core::Core;
use crate::index::{Node, NvmeReplica};
use crate::mutant::{Mutant, is};
use crate::slab::{BlockEntry, Changes, ExtentEntry, ReadySlot};
use crate::space::Resident;

/// Forgotten replicas that are kept while the index refuses them. One that goes over this and comes back
/// with the next start is found out by the footer of its record.
const DELETES_KEPT_MAX: usize = 4_096;
/// Changes that nobody waits for, after which they are committed all the same.
const LAZY_MAX: usize = 1_024;

#[derive(Default)]
pub(super) struct Batch {
    /// Records whose blocks are named once the index names them.
    pub(super) records: Vec<Record>,
    /// Blocks that are durable and named, and of which the index knows only that they may be there.
    named: Vec<Named>,
    deletes: Vec<Resident>,
    /// Who waits until the index has forgotten something.
    waiting: Vec<oneshot::Sender<()>>,
    /// Blocks that are to be kept otherwise, each once.
    kept: FxHashMap<BlockId, Resident>,
    /// By number, so that there are never more than extents.
    extents: BTreeMap<u32, ExtentEntry>,
    /// True if an extent among them was taken out of service.
    fences: bool,
    /// Slots of which the index is to believe nothing any more.
    unready: Vec<u32>,
    /// Slots that become ready, with their record size.
    pub(super) ready: Vec<(u32, ReadySlot)>,
    pub(super) generations: Option<u64>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.changes_nothing()
    }

    /// True if there is nothing to commit, though somebody may wait for that.
    pub(super) fn changes_nothing(&self) -> bool {
        self.lazy_count() == 0
            && self.records.is_empty()
            && self.ready.is_empty()
            && self.generations.is_none()
            && self.kept.is_empty()
            && self.extents.is_empty()
    }

    /// True if somebody waits for what becomes of the commit.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.records.is_empty()
            || !self.ready.is_empty()
            || !self.waiting.is_empty()
            || self.generations.is_some()
    }

    /// True if the commit cannot wait for others.
    pub(super) fn is_urgent(&self) -> bool {
        self.is_waited_for() || self.fences
    }

    /// True if so much waits, or while nothing else happens so much more than what a look at the ready
    /// slots would find again, that a commit pays.
    pub(super) fn is_worth_a_commit(&self, is_quiet: bool) -> bool {
        let is_news = !self.deletes.is_empty() || !self.kept.is_empty() || !self.extents.is_empty();
        is_quiet && is_news || self.lazy_count() >= LAZY_MAX
    }

    fn lazy_count(&self) -> usize {
        self.named.len() + self.deletes.len() + self.unready.len()
    }

    pub(super) fn name(&mut self, named: Named) {
        self.named.push(named);
    }

    pub(super) fn delete(&mut self, resident: Resident) {
        self.deletes.push(resident);
    }

    pub(super) fn wait(&mut self, done: oneshot::Sender<()>) {
        self.waiting.push(done);
    }

    pub(super) fn keep(&mut self, resident: Resident) {
        self.kept.insert(resident.id, resident);
    }

    pub(super) fn unready(&mut self, sector: u32) {
        self.unready.push(sector);
    }

    /// Notes what an extent serves; an extent that lies nowhere is not worth a note.
    pub(super) fn set_extent(&mut self, entry: Option<ExtentEntry>) {
        if let Some(entry) = entry {
            self.fences |= entry.fenced;
            self.extents.insert(entry.extent, entry);
        }
    }

    /// The changes. What a slot held is forgotten before it is ready for something else, and what an extent
    /// served before what it serves now. Of slots that are unheard of the index knows only that something may
    /// lie there.
    pub(super) fn changes(&self, core: &Core, is_unheard_of: impl Fn(u32) -> bool) -> Changes {
        let mut changes = Changes::default();
        for resident in &self.deletes {
            if stored_at(core, resident).is_none_or(&is_unheard_of) {
                changes.delete_block(&resident.id);
            }
        }
        self.unready.iter().for_each(|sector| changes.delete_ready(*sector));
        for resident in self.kept.values() {
            if let Some(entry) = entry_of(core, resident, None) {
                changes.put_block(entry);
            }
        }
        self.extents.values().for_each(|extent| changes.put_extent(*extent));
        for named in &self.named {
            changes.delete_ready(named.sector);
            if let Some(entry) = entry_of(core, &named.resident, Some(named.sector)) {
                changes.put_block(entry);
            }
        }
        for record in &self.records {
            if let Some(entry) = record.job.entry(core, record.sector) {
                changes.put_block(entry);
            }
        }
        self.ready.iter().for_each(|(_, slot)| changes.put_ready(*slot));
        if let Some(until) = self.generations {
            changes.set_aside(until);
        }
        changes
    }

    /// Lets go whoever waited for changes that are durable now.
    pub(super) fn answer(&mut self) {
        for done in self.waiting.drain(..) {
            // One who no longer waits does not need the answer.
            let _ = done.send(());
        }
    }

    /// Takes over what is left of a batch that was refused, and came before this one. What an extent serves
    /// must not be lost: its blocks would contradict it at the next start, and a fence would be lifted.
    pub(super) fn go_on_with(&mut self, refused: Self) {
        let Self { mut deletes, named, unready, extents, fences, .. } = refused;
        deletes.append(&mut self.deletes);
        deletes.truncate(DELETES_KEPT_MAX);
        self.deletes = deletes;
        self.named.splice(0..0, named);
        self.unready.splice(0..0, unready);
        for (extent, entry) in extents {
            self.extents.entry(extent).or_insert(entry);
        }
        self.fences |= fences;
    }
}

/// Where memory names a durable replica. A replica is deleted after memory forgot it, so the one that is
/// named now is a later one, and if the index has heard of it the entry on disk is its.
fn stored_at(core: &Core, forgotten: &Resident) -> Option<u32> {
    let shard = core.index.shard(&forgotten.id);
    match shard.get(&forgotten.id)?.nvme() {
        NvmeReplica::Stored(sector) => Some(sector),
        _ => None,
    }
}

/// The entry of a block that is durable, at `sector` if one is named; `None` if it is not.
fn entry_of(core: &Core, resident: &Resident, sector: Option<u32>) -> Option<BlockEntry> {
    let mut shard = core.index.shard(&resident.id);
    let node = shard.same(resident)?;
    match (node.nvme(), sector) {
        (NvmeReplica::Pending, Some(sector)) if is(Mutant::CommitBeforeSync) => {
            Some(block_entry(core, node, sector))
        }
        (NvmeReplica::Stored(at), sector) if sector.is_none_or(|sector| sector == at) => {
            Some(block_entry(core, node, at))
        }
        _ => None,
    }
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
