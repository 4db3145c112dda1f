//! The directory group's state: which node claims to hold which block on which tier.
//!
//! It takes each node at its word, fenced by incarnation and sequence; whether that incarnation
//! still serves is the control state's to say, at the time of the lookup.

mod resync;

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::limits::PURGE_RANGES;
use hearth_proto::{BlockId, Fingerprint, Incarnation, NodeId, Tier, v1};
use smallvec::SmallVec;
use v1::RefusalReason;
use v1::command::Body;

use super::block_table::{BlockTable, Changed, RANGES, digest, hash, range_of};
use super::blocks::Shadow;
use super::deltas::{NamedDelta, deltas_of};
use super::encoded::Encoded;
use super::held::{HOLDERS_MAX, Held};
use super::holder::{Holder, TIERS, position};
use super::outcome::{self, refused};
use super::record::{RecordError, RecordKey};
use super::timed::{self, Timed};
use crate::mutant::{self, Mutant};

/// Deltas whose blocks are brought into the processor's cache together.
const WARM_DELTAS: usize = 32;
/// No node has this id.
const NOBODY: NodeId = NodeId(0);
/// Every bit of [`Replica::tiers`].
const ALL_TIERS: u8 = (1 << TIERS) - 1;

pub(crate) use self::resync::Digests;

/// One node's copies of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) node: NodeId,
    /// The incarnation under which the node claims them.
    pub(crate) incarnation: Incarnation,
    /// A bit for each tier, as [`tier_bit`] gives it.
    pub(crate) tiers: u8,
}

/// The replicated map from block to replicas.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    table: BlockTable,
    holders: Holders,
    /// The number of the last snapshot that was begun.
    snapshot: u64,
    timed: Timed,
}

/// Every node that ever reported and was not removed, with a number by which the blocks name it.
#[derive(Debug, Default)]
struct Holders {
    numbers: BTreeMap<NodeId, u16>,
    /// By number; one that is nobody's is of [`NOBODY`].
    holders: Vec<Holder>,
    /// Those.
    free: BTreeSet<u16>,
}

/// A snapshot that is being written.
#[derive(Debug)]
pub(crate) struct Walk {
    snapshot: u64,
}

/// A snapshot cannot go on: another one was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another snapshot was begun before this one was written")]
pub(crate) struct Overtaken;

impl Holders {
    fn number(&self, node: NodeId) -> Option<u16> {
        self.numbers.get(&node).copied()
    }

    fn of(&self, node: NodeId) -> Option<&Holder> {
        self.number(node).map(|number| &self.holders[usize::from(number)])
    }

    /// The holder's number; `None` if there are as many as can be.
    fn number_of_new(&mut self, node: NodeId) -> Option<u16> {
        if let Some(number) = self.number(node) {
            return Some(number);
        }
        if let Some(number) = self.free.pop_first() {
            *self.at(number) = Holder::new(node);
            self.numbers.insert(node, number);
            return Some(number);
        }
        let number = u16::try_from(self.holders.len()).ok().filter(|number| *number < HOLDERS_MAX)?;
        self.holders.push(Holder::new(node));
        self.numbers.insert(node, number);
        Some(number)
    }

    /// Gives the number of a node that claims nothing to whoever comes next.
    fn forget(&mut self, node: NodeId) {
        if let Some(number) = self.numbers.remove(&node) {
            *self.at(number) = Holder::new(NOBODY);
            self.free.insert(number);
        }
    }

    fn at(&mut self, number: u16) -> &mut Holder {
        &mut self.holders[usize::from(number)]
    }
}

impl Directory {
    /// Visits the claims on these blocks, in their order: the block's position among the names, and each replica
    /// in the order of the numbers that the group gave their nodes. What is left of an earlier incarnation is left out.
    #[inline]
    pub(crate) fn find(&self, names: &[Fingerprint], mut found: impl FnMut(usize, Replica)) {
        let mut position = 0;
        self.table.find_each(names, |range, held| {
            for held in held {
                let holder = &self.holders.holders[usize::from(held.holder())];
                if range < usize::from(holder.synced) {
                    let (node, incarnation, tiers) = (holder.node, holder.incarnation, held.tiers());
                    found(position, Replica { node, incarnation, tiers });
                }
            }
            position += 1;
        });
    }

    /// The claims on one block, as [`Self::find`] visits them.
    pub(crate) fn replicas(&self, id: &BlockId) -> SmallVec<[Replica; 4]> {
        let mut replicas = SmallVec::new();
        self.find(&[Fingerprint::of(id)], |_, replica| replicas.push(replica));
        replicas
    }

    /// Length of the block's payload in bytes, if anybody holds it.
    pub(crate) fn payload_len(&self, id: &BlockId) -> Option<u32> {
        self.table.payload_len(&Fingerprint::of(id))
    }

    /// Every node that reported: the incarnation that counts, and the claims, each on one tier.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (NodeId, Incarnation, u64)> {
        self.holders.numbers.iter().map(|(node, number)| {
            let holder = &self.holders.holders[usize::from(*number)];
            (*node, holder.incarnation, holder.claims())
        })
    }

    /// Payload bytes that a node claims to hold on a tier.
    pub(crate) fn held_bytes(&self, node: NodeId, tier: Tier) -> u64 {
        self.holders.of(node).map_or(0, |holder| holder.bytes(tier))
    }

    /// Blocks with at least one claim.
    pub(crate) fn block_count(&self) -> usize {
        self.table.len()
    }

    /// Visits every block of one of the 256 ranges with its replicas and the payload's length in bytes.
    /// What is left of an earlier incarnation is left out.
    pub(crate) fn for_each_in_range(&self, range: u8, mut visit: impl FnMut(&Fingerprint, u32, &[Replica])) {
        let mut replicas = Vec::new();
        self.table.for_each_in(usize::from(range), |name, payload_len, held| {
            replicas.clear();
            replicas.extend(held.iter().filter_map(|held| {
                let holder = &self.holders.holders[usize::from(held.holder())];
                let (node, incarnation, tiers) = (holder.node, holder.incarnation, held.tiers());
                (u16::from(range) < holder.synced).then_some(Replica { node, incarnation, tiers })
            }));
            visit(name, payload_len, &replicas);
        });
    }

    pub(super) fn apply(&mut self, body: &Body) -> v1::Outcome {
        match body {
            Body::BlockReport(report) => self.report(report),
            Body::ResyncHolder(resync) => self.resync(resync),
            Body::PurgeClaims(purge) => {
                self.purge(NodeId(purge.node_id), Incarnation(purge.incarnation), purge.forget)
            }
            _ => {
                let is_held = timed::is_held(self, body);
                self.timed.apply(body, is_held)
            }
        }
    }

    /// Claims and retentions.
    pub(crate) fn timed(&self) -> &Timed {
        &self.timed
    }

    pub(super) fn timed_mut(&mut self) -> &mut Timed {
        &mut self.timed
    }

    fn report(&mut self, report: &v1::BlockReport) -> v1::Outcome {
        let Some(deltas) = deltas_of(report) else {
            return refused(RefusalReason::Malformed, "the deltas of the report are malformed");
        };
        if let Some(refused) = check_sequence(report.node_id, report.sequence) {
            return refused;
        }
        let (node, incarnation) = (NodeId(report.node_id), Incarnation(report.incarnation));
        let known = self.holders.of(node);
        let (held, next) =
            known.map_or_else(Default::default, |holder| (holder.incarnation, holder.next_sequence));
        if incarnation < held && !mutant::is(Mutant::OldIncarnationAccepted) {
            return outcome::superseded(held);
        }
        let unknown = incarnation > held || next == 0;
        if !unknown && report.sequence < next && !mutant::is(Mutant::DuplicateReportApplied) {
            return outcome::report_applied(next);
        }
        let is_synced = known.is_some_and(|holder| usize::from(holder.synced) == RANGES);
        if !report.reset {
            if unknown || !is_synced {
                return outcome::report_gap(0);
            }
            if report.sequence > next && !mutant::is(Mutant::GapAccepted) {
                return outcome::report_gap(next);
            }
        }
        let Some(number) = self.holders.number_of_new(node) else { return too_many_holders() };
        if report.reset {
            self.drop_all_claims(number);
        }
        let holder = self.holders.at(number);
        holder.incarnation = incarnation;
        holder.next_sequence = report.sequence + 1;
        holder.synced = RANGES as u16;
        self.change_all(number, deltas);
        outcome::report_applied(report.sequence + 1)
    }

    fn change_all(&mut self, number: u16, mut deltas: impl Iterator<Item = NamedDelta>) {
        let mut batch: Vec<(NamedDelta, u64)> = Vec::with_capacity(WARM_DELTAS);
        loop {
            batch.clear();
            batch.extend(deltas.by_ref().take(WARM_DELTAS).map(|delta| (delta, hash(&delta.name))));
            if batch.is_empty() {
                return;
            }
            // First whatever memory the blocks of the batch wait for, all at once.
            batch.iter().for_each(|(_, hash)| self.table.prefetch_place(*hash));
            batch.iter().for_each(|(_, hash)| self.table.prefetch_block(*hash));
            for (delta, hash) in &batch {
                self.change(number, delta, *hash);
                if delta.added {
                    self.timed.published(&delta.name);
                }
            }
        }
    }

    fn change(&mut self, number: u16, delta: &NamedDelta, hash: u64) {
        let (bit, range) = (tier_bit(delta.tier), range_of(hash));
        let tiers = |before| if delta.added { before | bit } else { before & !bit };
        let changed = self.table.change(hash, &delta.name, number, delta.payload_len, tiers);
        self.count(number, range, &delta.name, changed);
    }

    fn count(&mut self, number: u16, range: usize, name: &Fingerprint, changed: Changed) {
        if changed.before != changed.after {
            let Changed { before, after, payload_len } = changed;
            self.holders.at(number).count(before, after, range, digest(name), payload_len);
        }
    }

    /// Fences what a node said under this incarnation and before, and drops some of it. A node that is to be
    /// forgotten is once all of it is dropped; should it be heard of again, it is purged again.
    fn purge(&mut self, node: NodeId, incarnation: Incarnation, forget: bool) -> v1::Outcome {
        let fence = Incarnation(incarnation.0.saturating_add(1));
        let Some(number) = self.holders.number(node) else { return outcome::purged(0, false) };
        let holder = self.holders.at(number);
        if holder.incarnation > fence || (holder.incarnation == fence && holder.next_sequence != 0) {
            return outcome::purged(0, false);
        }
        // Reports of the purged incarnation that are still on their way must find it fenced.
        holder.incarnation = fence;
        holder.next_sequence = 0;
        holder.synced = 0;
        let before = holder.claims();
        let is_held = |holder: &Holder, range| (0..TIERS).any(|tier| holder.digest(tier, range) != 0);
        let ranges: Vec<usize> =
            (0..RANGES).filter(|range| is_held(holder, *range)).take(PURGE_RANGES).collect();
        ranges.iter().for_each(|range| self.drop_claims(number, *range, |_| ALL_TIERS));
        if ranges.len() < PURGE_RANGES && self.holders.at(number).claims() > 0 {
            // A sum of digests that happens to be zero.
            self.drop_all_claims(number);
        }
        let after = self.holders.at(number).claims();
        if forget && after == 0 {
            self.holders.forget(node);
        }
        outcome::purged(before - after, after > 0)
    }

    /// Drops what a node claims in a range, of each block the tiers that are named for it.
    fn drop_claims(&mut self, number: u16, range: usize, tiers: impl Fn(&Fingerprint) -> u8) {
        let Self { table, holders, .. } = self;
        let holder = holders.at(number);
        table.drop_tiers(range, number, tiers, |name, changed| {
            let Changed { before, after, payload_len } = changed;
            holder.count(before, after, range, digest(name), payload_len);
        });
    }

    /// Drops all that a node claims.
    fn drop_all_claims(&mut self, number: u16) {
        let Self { table, holders, .. } = self;
        let holder = holders.at(number);
        if holder.claims() == 0 {
            return;
        }
        table.drop_all(number, |name, changed| {
            let Changed { before, after, payload_len } = changed;
            holder.count(before, after, range_of(hash(name)), digest(name), payload_len);
        });
    }

    /// Begins a snapshot of what is here now, with a number that no other one has; one that was begun before
    /// cannot be written any more.
    pub(super) fn begin_snapshot(&mut self, number: u64) -> Walk {
        self.table.begin_shadow();
        self.snapshot = number;
        Walk { snapshot: number }
    }

    /// Appends the next blocks of the snapshot, from so many slots at the most. False if there are no more.
    pub(super) fn write_snapshot(
        &self,
        walk: &Walk,
        slots_max: u32,
        out: &mut Vec<u8>,
    ) -> Result<bool, Overtaken> {
        if walk.snapshot != self.snapshot {
            return Err(Overtaken);
        }
        Ok(self.table.write_shadow(slots_max, out))
    }

    /// Ends a snapshot, whether it was written or not, unless another one was begun, and gives what was kept
    /// for it: there may be a lot to let go of.
    pub(super) fn end_snapshot(&mut self, walk: &Walk) -> Option<Shadow> {
        if walk.snapshot != self.snapshot {
            return None;
        }
        self.table.end_shadow()
    }

    /// Puts back blocks that [`Self::write_snapshot`] wrote. Their holders have to be there.
    pub(super) fn restore_blocks(&mut self, mut bytes: &[u8]) -> Result<(), RecordError> {
        let mut batch: Vec<(Encoded<'_>, u64)> = Vec::with_capacity(WARM_DELTAS);
        while !bytes.is_empty() {
            batch.clear();
            while batch.len() < WARM_DELTAS && !bytes.is_empty() {
                let (block, rest) = Encoded::read(bytes)?;
                let hash = hash(&block.name);
                self.table.prefetch_place(hash);
                batch.push((block, hash));
                bytes = rest;
            }
            batch.iter().try_for_each(|(block, hash)| self.restore_block(block, *hash))?;
        }
        Ok(())
    }

    fn restore_block(&mut self, block: &Encoded<'_>, hash: u64) -> Result<(), RecordError> {
        let is_held_by = |held: Held| {
            self.holders.holders.get(usize::from(held.holder())).is_some_and(|of| of.node != NOBODY)
        };
        if !block.held().flatten().all(is_held_by) {
            return Err(RecordError("a claim of a holder that is not there"));
        }
        self.table.restore(hash, block)?;
        let (range, digest) = (range_of(hash), digest(&block.name));
        for held in block.held().flatten() {
            let holder = self.holders.at(held.holder());
            holder.count(0, held.tiers(), range, digest, block.payload_len);
        }
        Ok(())
    }

    /// The records beside the blocks.
    pub(super) fn record_keys(&self) -> Vec<RecordKey> {
        let holders = (0..self.holders.holders.len()).map(|number| RecordKey::Holder(number as u16));
        holders.chain(self.timed.record_keys()).collect()
    }

    pub(super) fn read_record(&self, key: &RecordKey, out: &mut Vec<u8>) -> bool {
        match key {
            RecordKey::Holder(number) => {
                let holder = self.holders.holders.get(usize::from(*number));
                holder.map(|holder| holder.write(out)).is_some()
            }
            _ => self.timed.read_record(key, out),
        }
    }

    pub(super) fn restore(&mut self, key: RecordKey, value: &[u8]) -> Result<(), RecordError> {
        match key {
            RecordKey::Blocks => self.restore_blocks(value),
            RecordKey::Holder(number) => {
                let holder = Holder::read(value)?;
                let is_next = usize::from(number) == self.holders.holders.len() && number < HOLDERS_MAX;
                let is_new = match holder.node {
                    NOBODY => self.holders.free.insert(number),
                    node => self.holders.numbers.insert(node, number).is_none(),
                };
                if !is_next || !is_new {
                    return Err(RecordError("a holder out of order"));
                }
                self.holders.holders.push(holder);
                Ok(())
            }
            _ => self.timed.restore(key, value),
        }
    }

    /// Every block as a snapshot has it, sorted: the canonical bytes.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn blocks(&self) -> Vec<Vec<u8>> {
        self.table.canonical()
    }
}

/// The bit of a tier in [`Replica::tiers`].
#[inline]
pub(crate) fn tier_bit(tier: Tier) -> u8 {
    1 << position(tier)
}

fn check_sequence(node_id: u64, sequence: u64) -> Option<v1::Outcome> {
    let is_bad = sequence == 0 || sequence == u64::MAX || node_id == 0;
    is_bad.then(|| refused(RefusalReason::Malformed, "a report needs a node and a sequence from 1"))
}

fn too_many_holders() -> v1::Outcome {
    let detail = format!(
        "a directory group counts the blocks of at most {HOLDERS_MAX} nodes: remove those that are gone"
    );
    refused(RefusalReason::Limit, detail)
}
