//! The directory group's state: which node claims to hold which block on which tier.
//!
//! It takes each node at its word, fenced by incarnation and sequence; whether that incarnation
//! still serves is the control state's to say, at the time of the lookup.

use std::collections::BTreeMap;

use hearth_proto::limits::PURGE_RANGES;
use hearth_proto::{BlockDelta, BlockId, BlockKey, Incarnation, NamespaceId, NodeId, Tier, v1};
use smallvec::SmallVec;
use v1::RefusalReason;
use v1::command::Body;

use super::command::unpack_deltas;
use super::held::HOLDERS_MAX;
use super::holder::{Holder, TIERS, position};
use super::outcome::{self, refused};
use super::record::{RecordError, RecordKey};
use super::shard::{Changed, Encoded, SHARDS, Shadow, Shard, digest, hash, shard_of};
use super::timed::{self, Timed};
use crate::mutant::{self, Mutant};

/// Deltas whose blocks are brought into the processor's cache together.
const WARM_DELTAS: usize = 32;
/// Every bit of [`Replica::tiers`].
const ALL_TIERS: u8 = (1 << TIERS) - 1;

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
#[derive(Debug)]
pub(crate) struct Directory {
    shards: Box<[Shard]>,
    holders: Holders,
    /// The number of the last snapshot that was begun.
    snapshot: u64,
    timed: Timed,
}

/// Every node that ever reported, with a number by which the blocks name it.
#[derive(Debug, Default)]
struct Holders {
    numbers: BTreeMap<NodeId, u16>,
    holders: Vec<Holder>,
}

/// How far a snapshot was written.
#[derive(Debug)]
pub(crate) struct Walk {
    snapshot: u64,
    shard: usize,
}

/// A snapshot cannot go on: another one was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another snapshot was begun before this one was written")]
pub(crate) struct Overtaken;

impl Default for Directory {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { shards, holders: Holders::default(), snapshot: 0, timed: Timed::default() }
    }
}

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
        let number = u16::try_from(self.holders.len()).ok().filter(|number| *number < HOLDERS_MAX)?;
        self.holders.push(Holder::new(node));
        self.numbers.insert(node, number);
        Some(number)
    }

    fn at(&mut self, number: u16) -> &mut Holder {
        &mut self.holders[usize::from(number)]
    }
}

impl Directory {
    /// Visits the claims on these blocks: the block's position among the keys, and each replica in the
    /// order of the nodes' first reports. What is left of an earlier incarnation is left out.
    pub(crate) fn find<'k>(
        &self,
        namespace: NamespaceId,
        keys: impl Iterator<Item = &'k BlockKey> + Clone,
        mut found: impl FnMut(usize, Replica),
    ) {
        // In passes, so that the memory which one block waits for is fetched while others are worked on.
        let ids = keys.map(|key| BlockId { namespace, key: *key });
        let probe = |id: BlockId| {
            let hash = hash(&id);
            (hash, self.shards[shard_of(hash)].first_place(hash))
        };
        let probes: Vec<(u64, u32)> = ids.clone().map(probe).collect();
        let touch =
            |sum, (hash, place): &(u64, u32)| self.shards[shard_of(*hash)].touch(*place).wrapping_add(sum);
        std::hint::black_box(probes.iter().fold(0, touch));
        for (position, (id, (hash, _))) in ids.zip(probes).enumerate() {
            let range = shard_of(hash);
            let shard = &self.shards[range];
            let Some(slot) = shard.find(hash, &id) else { continue };
            for held in shard.held(slot) {
                let holder = &self.holders.holders[usize::from(held.holder())];
                if range < usize::from(holder.synced) {
                    let (node, incarnation, tiers) = (holder.node, holder.incarnation, held.tiers());
                    found(position, Replica { node, incarnation, tiers });
                }
            }
        }
    }

    /// The claims on one block, as [`Self::find`] visits them.
    pub(crate) fn replicas(&self, id: &BlockId) -> SmallVec<[Replica; 4]> {
        let mut replicas = SmallVec::new();
        self.find(id.namespace, [id.key].iter(), |_, replica| replicas.push(replica));
        replicas
    }

    /// Length of the block's payload in bytes, if anybody holds it.
    pub(crate) fn payload_len(&self, id: &BlockId) -> Option<u32> {
        let hash = hash(id);
        let shard = &self.shards[shard_of(hash)];
        shard.find(hash, id).map(|slot| shard.payload_len(slot))
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
        self.shards.iter().map(Shard::len).sum()
    }

    /// Visits every block of one of the 256 ranges with its replicas and the payload's length in bytes.
    /// What is left of an earlier incarnation is left out.
    pub(crate) fn for_each_in_range(&self, range: u8, mut visit: impl FnMut(&BlockId, u32, &[Replica])) {
        let mut replicas = Vec::new();
        self.shards[usize::from(range)].for_each(|id, payload_len, held| {
            replicas.clear();
            replicas.extend(held.iter().filter_map(|held| {
                let holder = &self.holders.holders[usize::from(held.holder())];
                let (node, incarnation, tiers) = (holder.node, holder.incarnation, held.tiers());
                (u16::from(range) < holder.synced).then_some(Replica { node, incarnation, tiers })
            }));
            visit(id, payload_len, &replicas);
        });
    }

    pub(super) fn apply(&mut self, body: &Body) -> v1::Outcome {
        match body {
            Body::BlockReport(report) => self.report(report),
            Body::ResyncHolder(resync) => self.resync(resync),
            Body::PurgeClaims(purge) => self.purge(NodeId(purge.node_id), Incarnation(purge.incarnation)),
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
        let Some(deltas) = unpack_deltas(&report.deltas) else {
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
        let is_synced = known.is_some_and(|holder| usize::from(holder.synced) == SHARDS);
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
            self.drop_claims(number, 0..SHARDS, ALL_TIERS);
        }
        let holder = self.holders.at(number);
        holder.incarnation = incarnation;
        holder.next_sequence = report.sequence + 1;
        holder.synced = SHARDS as u16;
        self.change_all(number, deltas);
        outcome::report_applied(report.sequence + 1)
    }

    fn change_all(&mut self, number: u16, mut deltas: impl Iterator<Item = BlockDelta>) {
        let mut batch: Vec<(BlockDelta, u64)> = Vec::with_capacity(WARM_DELTAS);
        loop {
            batch.clear();
            batch.extend(deltas.by_ref().take(WARM_DELTAS).map(|delta| (delta, hash(&delta.id))));
            if batch.is_empty() {
                return;
            }
            // First whatever memory the blocks of the batch wait for, all at once.
            let touch = |sum: u32, (_, hash): &(_, u64)| {
                let shard = &self.shards[shard_of(*hash)];
                let place = shard.first_place(*hash);
                sum.wrapping_add(u32::from(shard.touch(place)))
            };
            std::hint::black_box(batch.iter().fold(0, touch));
            for (delta, hash) in &batch {
                self.change(number, delta, *hash);
                if delta.added {
                    self.timed.published(&delta.id);
                }
            }
        }
    }

    fn change(&mut self, number: u16, delta: &BlockDelta, hash: u64) {
        let (bit, range) = (tier_bit(delta.tier), shard_of(hash));
        let tiers = |before| if delta.added { before | bit } else { before & !bit };
        let changed = self.shards[range].change(hash, &delta.id, number, delta.payload_len, tiers);
        self.count(number, range, hash, &delta.id, changed);
    }

    fn count(&mut self, number: u16, range: usize, hash: u64, id: &BlockId, changed: Changed) {
        if changed.before != changed.after {
            let Changed { before, after, payload_len } = changed;
            self.holders.at(number).count(before, after, range, digest(hash, id), payload_len);
        }
    }

    /// Compares ranges with what the node has there. The first ones begin anew under an incarnation.
    fn resync(&mut self, resync: &v1::ResyncHolder) -> v1::Outcome {
        if let Some(refused) = check_sequence(resync.node_id, resync.sequence) {
            return refused;
        }
        let Some((first, digests)) = read_digests(resync) else {
            return refused(RefusalReason::Malformed, "the digests of the resync are malformed");
        };
        let (node, incarnation) = (NodeId(resync.node_id), Incarnation(resync.incarnation));
        let ranges = first..first + digests[0].len();
        let known = self.holders.of(node);
        let (held, next, synced) =
            known.map_or((Incarnation::default(), 0, 0), |h| (h.incarnation, h.next_sequence, h.synced));
        if incarnation < held {
            return outcome::superseded(held);
        }
        let unknown = incarnation > held || next == 0;
        let is_repeated = !unknown && resync.sequence < next;
        if !is_repeated && first > 0 && (unknown || resync.sequence > next || first != usize::from(synced)) {
            return outcome::report_gap(0);
        }
        let Some(number) = self.holders.number_of_new(node) else { return too_many_holders() };
        let mut differing = Vec::new();
        for (tier, theirs) in digests.iter().enumerate() {
            let ours = |range: usize| self.holders.holders[usize::from(number)].digest(tier, range);
            let differs = |range: &usize| ours(*range) != theirs[*range - first];
            let ranges: Vec<usize> = ranges.clone().filter(differs).collect();
            if !is_repeated {
                ranges.iter().for_each(|range| self.drop_claims(number, *range..*range + 1, 1 << tier));
            }
            // What the node does not hold either needs no report.
            let wanted = ranges.into_iter().filter(|range| theirs[*range - first] != 0);
            differing.push(wanted.map(|range| range as u32).collect());
        }
        if is_repeated {
            return outcome::resynced(next, differing);
        }
        let holder = self.holders.at(number);
        holder.incarnation = incarnation;
        holder.next_sequence = resync.sequence + 1;
        holder.synced = ranges.end as u16;
        if ranges.end == SHARDS {
            self.end_claims_on_held_by(node);
        }
        outcome::resynced(resync.sequence + 1, differing)
    }

    /// Ends the claims on blocks that a node has brought back.
    fn end_claims_on_held_by(&mut self, node: NodeId) {
        let is_held = |id: &&BlockId| self.replicas(id).iter().any(|replica| replica.node == node);
        let held: Vec<BlockId> = self.timed.claims().blocks().filter(is_held).copied().collect();
        held.iter().for_each(|id| self.timed.published(id));
    }

    /// Fences what a node said under this incarnation and before, and drops some of it.
    fn purge(&mut self, node: NodeId, incarnation: Incarnation) -> v1::Outcome {
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
            (0..SHARDS).filter(|range| is_held(holder, *range)).take(PURGE_RANGES).collect();
        ranges.iter().for_each(|range| self.drop_claims(number, *range..*range + 1, ALL_TIERS));
        if ranges.len() < PURGE_RANGES && self.holders.at(number).claims() > 0 {
            // A sum of digests that happens to be zero.
            self.drop_claims(number, 0..SHARDS, ALL_TIERS);
        }
        let after = self.holders.at(number).claims();
        outcome::purged(before - after, after > 0)
    }

    fn drop_claims(&mut self, number: u16, ranges: std::ops::Range<usize>, tiers: u8) {
        let Self { shards, holders, .. } = self;
        let holder = holders.at(number);
        for range in ranges {
            shards[range].drop_tiers(number, tiers, |id, changed| {
                let Changed { before, after, payload_len } = changed;
                holder.count(before, after, range, digest(hash(id), id), payload_len);
            });
        }
    }

    /// Begins a snapshot of what is here now, with a number that no other one has; one that was begun before
    /// cannot be written any more.
    pub(super) fn begin_snapshot(&mut self, number: u64) -> Walk {
        self.shards.iter_mut().for_each(Shard::begin_shadow);
        self.snapshot = number;
        Walk { snapshot: number, shard: 0 }
    }

    /// Appends the next blocks of the snapshot, from so many slots at the most. False if there are no more.
    pub(super) fn write_snapshot(
        &self,
        walk: &mut Walk,
        slots_max: u32,
        out: &mut Vec<u8>,
    ) -> Result<bool, Overtaken> {
        if walk.snapshot != self.snapshot {
            return Err(Overtaken);
        }
        let Some(shard) = self.shards.get(walk.shard) else { return Ok(false) };
        if !shard.write_shadow(slots_max, out) {
            walk.shard += 1;
        }
        Ok(walk.shard < SHARDS)
    }

    /// Ends a snapshot, whether it was written or not, unless another one was begun, and gives what was kept
    /// for it: there may be a lot to let go of.
    pub(super) fn end_snapshot(&mut self, walk: &Walk) -> Vec<Shadow> {
        if walk.snapshot != self.snapshot {
            return Vec::new();
        }
        self.shards.iter_mut().filter_map(Shard::end_shadow).collect()
    }

    /// Puts back blocks that [`Self::write_snapshot`] wrote. Their holders have to be there.
    pub(super) fn restore_blocks(&mut self, mut bytes: &[u8]) -> Result<(), RecordError> {
        while !bytes.is_empty() {
            let (block, rest) = Encoded::read(bytes)?;
            let hash = hash(&block.id);
            let range = shard_of(hash);
            if block.held().flatten().any(|held| usize::from(held.holder()) >= self.holders.holders.len()) {
                return Err(RecordError("a claim of a holder that is not there"));
            }
            self.shards[range].restore(hash, &block)?;
            let digest = digest(hash, &block.id);
            for held in block.held().flatten() {
                let holder = self.holders.at(held.holder());
                holder.count(0, held.tiers(), range, digest, block.payload_len);
            }
            bytes = rest;
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
                if usize::from(number) != self.holders.holders.len()
                    || number >= HOLDERS_MAX
                    || self.holders.numbers.insert(holder.node, number).is_some()
                {
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
        let mut blocks = Vec::new();
        for shard in &self.shards {
            shard.for_each(|id, payload_len, held| {
                blocks.push(super::shard::encode(id, payload_len, held));
            });
        }
        blocks.sort_unstable();
        blocks
    }
}

/// The bit of a tier in [`Replica::tiers`].
pub(crate) fn tier_bit(tier: Tier) -> u8 {
    1 << position(tier)
}

fn check_sequence(node_id: u64, sequence: u64) -> Option<v1::Outcome> {
    let is_bad = sequence == 0 || sequence == u64::MAX || node_id == 0;
    is_bad.then(|| refused(RefusalReason::Malformed, "a report needs a node and a sequence from 1"))
}

fn too_many_holders() -> v1::Outcome {
    let detail =
        format!("a directory group counts the blocks of at most {HOLDERS_MAX} nodes, dead ones included");
    refused(RefusalReason::Limit, detail)
}

/// The first range, and for each tier the digests from there on: as many for each, zeros where none are said.
fn read_digests(resync: &v1::ResyncHolder) -> Option<(usize, [Vec<u64>; TIERS])> {
    let (first, count) = (resync.first_range as usize, resync.ranges as usize);
    if count == 0 || first.checked_add(count)? > SHARDS {
        return None;
    }
    let mut digests = [(); TIERS].map(|()| vec![0; count]);
    for tier in &resync.tiers {
        let at = usize::try_from(tier.tier).ok()?.checked_sub(1).filter(|at| *at < TIERS)?;
        let (words, rest) = tier.digests.as_chunks::<8>();
        if !rest.is_empty() || words.len() != count {
            return None;
        }
        digests[at] = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    }
    Some((first, digests))
}

/// What a node says of its inventory so that only what differs has to be told: the digests of its blocks
/// in each range, for each tier.
#[derive(Clone, Debug)]
pub(crate) struct Digests {
    tiers: Box<[[u64; SHARDS]; TIERS]>,
}

impl Default for Digests {
    fn default() -> Self {
        Self { tiers: Box::new([[0; SHARDS]; TIERS]) }
    }
}

impl Digests {
    /// Ranges of a directory group.
    pub(crate) const RANGES: usize = SHARDS;

    /// Adds a block on a tier, which must not be in it yet.
    pub(crate) fn add(&mut self, id: &BlockId, tier: Tier) {
        let hash = hash(id);
        let sum = &mut self.tiers[position(tier)][shard_of(hash)];
        *sum = sum.wrapping_add(digest(hash, id));
    }

    /// The range that a block belongs to.
    pub(crate) fn range_of(id: &BlockId) -> usize {
        shard_of(hash(id))
    }

    /// As a command carries them.
    pub(crate) fn tiers(&self, ranges: std::ops::Range<usize>) -> Vec<v1::TierDigests> {
        let tiers = Tier::ALL.into_iter().zip(self.tiers.iter());
        let said = tiers.filter(|(_, sums)| sums[ranges.clone()].iter().any(|sum| *sum != 0));
        said.map(|(tier, sums)| v1::TierDigests {
            tier: i32::from(tier as u8),
            digests: sums[ranges.clone()].iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<_>>().into(),
        })
        .collect()
    }
}

#[cfg(test)]
impl FromIterator<BlockDelta> for Digests {
    fn from_iter<I: IntoIterator<Item = BlockDelta>>(inventory: I) -> Self {
        let mut digests = Self::default();
        inventory.into_iter().for_each(|delta| digests.add(&delta.id, delta.tier));
        digests
    }
}
